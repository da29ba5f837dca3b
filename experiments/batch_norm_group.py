"""How many images should batch normalisation see? ResNet-20 and -56 on CIFAR-10 with statistics over 8 to 128 images.

    python -m resflax.reproduce experiments/batch_norm_group.py --seeds=5                      # hours on a GPU
    python -m resflax.reproduce experiments/batch_norm_group.py --rows=digits14_g8,digits14_g64 --seeds=3

Everywhere else the group is whatever a device happens to hold. Here it is a number of images (`batch_norm.group_size`), the
same on any hardware, so that its effect can be measured: the recipe is He et al. 2015 (`he2015_cifar`), batch 128, and only the
group differs. `_unbiased`: running variances with n / (n - 1), as PyTorch keeps them. `_reestimated`: the final evaluation uses
statistics averaged over the training set instead of the running ones. `digits14_...` is a small version on the embedded digits.
"""

import dataclasses

from resflax.config import BatchNormConfig, Config
from resflax.config.files import choose_variant, load_config

GROUPS = (8, 16, 32, 64, 128)
VARIANTS = {
    "": BatchNormConfig(),
    "_unbiased": BatchNormConfig(running_variance="unbiased"),
    "_reestimated": BatchNormConfig(reestimate=True),
}
NETWORKS = {
    "resnet20": ("he2015_cifar:resnet20", GROUPS),
    "resnet56": ("he2015_cifar:resnet56", GROUPS),
    "digits14": ("quickstart:resnet", GROUPS[:-1]),  # its batch is 64
}
ROWS = tuple(f"{network}_g{group}{variant}" for network in ("resnet20", "resnet56") for group in GROUPS for variant in VARIANTS)


def get_config(variant: str = "resnet20_g64") -> Config:
    """`resnet20_g8`, `resnet20_g8_unbiased`, `resnet20_g8_reestimated`, ...; `resnet56_...`, `digits14_...` likewise."""
    rows = {}
    for network, (specification, groups) in NETWORKS.items():
        base, _ = load_config(specification)
        for group in groups:
            for name, settings in VARIANTS.items():
                norm = dataclasses.replace(settings, group_size=group)
                rows[f"{network}_g{group}{name}"] = dataclasses.replace(base, batch_norm=norm)
    return choose_variant(variant, rows)
