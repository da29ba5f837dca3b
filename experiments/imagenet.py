"""Twenty small steps of ResNet-50 on any folder of images: does everything run?

    python -m resflax.train --config=experiments/imagenet.py:smoke --config.data.name=FOLDER

The recipe is that of `goyal2017` in batches of 8. Recipes to train ImageNet by: `he2015_imagenet`, `goyal2017`,
`he2019_bag_of_tricks`, `wightman2021_rsb`, `leclerc2023_ffcv`.
"""

from resflax.config import Config, load_config
from resflax.config.files import choose_variant
from resflax.config.rows import smoke


def get_config(variant: str = "smoke") -> Config:
    """`smoke`, see above."""
    return choose_variant(variant, {"smoke": smoke(load_config("goyal2017:batch8192")[0])})
