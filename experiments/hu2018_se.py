"""Hu et al. 2018, Squeeze-and-Excitation Networks, Tables 4 and 5 of the journal's version: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/hu2018_se.py:se_preresnet110     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/hu2018_se.py --rows=digits56_plain,digits56_se --seeds=3

Squeeze-and-excitation with a reduction of 16 stands on the branch of each unit, before the sum. The rest is "as suggested by
the original papers", He et al. 2016 (`he2016_cifar`; the baselines printed beside are its pre-activation networks) and
Zagoruyko and Komodakis 2016 (`zagoruyko2016_wrn`), but for what the paper says of all: zero-padded crops, flips, mean and
standard deviation normalisation.

Not printed, chosen here: both dense layers of a unit have biases; of 16 channels one is left in between, of 32 two, without
rounding as in our networks for ImageNet. How often each network was trained is not said.

`se_preresnet110_782` is cut to two epochs, without the slow start. The rows `digits56_...` are pre-activation networks of 56
layers with and without, at half the width, on 8x8 images, 150 steps at a rate of 0.03.
"""

import dataclasses

from resflax.config import Config, ModelConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import with_data
from resflax.results.published import Published

# Tables 4 and 5, test error in percent.
PUBLISHED = {
    "se_preresnet110": Published(5.21, "6.37 without squeeze-and-excitation"),
    "se_preresnet164": Published(4.39, "5.46 without"),
    "se_wrn16_8": Published(3.88, "4.27 without"),
    "se_preresnet110_cifar100": Published(23.85, "26.88 without"),
    "se_preresnet164_cifar100": Published(21.31, "24.33 without"),
    "se_wrn16_8_cifar100": Published(19.14, "20.43 without"),
}
BASES = {
    "se_preresnet110": "he2016_cifar:preresnet110",
    "se_preresnet164": "he2016_cifar:preresnet164",
    "se_wrn16_8": "zagoruyko2016_wrn:wrn16_8",
}


def get_config(variant: str = "se_preresnet110") -> Config:
    """The names in `PUBLISHED`; `se_preresnet110_782`; `digits56_plain`, `digits56_se`."""
    rows = {name: paper_row(name.replace("se_", "cifar_se"), base) for name, base in BASES.items()}
    rows |= {f"{name}_cifar100": with_data(row, "cifar100") for name, row in rows.items()}
    rows["se_preresnet110_782"] = paper_row("cifar_sepreresnet110", "he2016_cifar:preresnet110_782")
    rows |= {"digits56_plain": digits_row("cifar_preresnet56"), "digits56_se": digits_row("cifar_sepreresnet56")}
    return choose_variant(variant, rows)


def paper_row(model: str, base: str) -> Config:
    """The recipe of the network without squeeze-and-excitation, but for what images go through."""
    row, _ = load_config(base)
    data = dataclasses.replace(row.data, normalize="per_channel", augment=("pad_crop:4", "flip"))
    return dataclasses.replace(row, data=data, model=ModelConfig(model, row.model.kwargs))


def digits_row(model: str) -> Config:
    """A short run on the embedded digits."""
    base, _ = load_config("degradation:resnet56")
    return dataclasses.replace(base, model=ModelConfig(model, base.model.kwargs))
