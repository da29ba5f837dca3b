"""Mueller et al. 2019, When Does Label Smoothing Help? (arXiv:1906.02629), Table 1: ResNet-56 on CIFAR-100.

    python -m resflax.train --config=experiments/mueller2019_label_smoothing.py:resnet56_cifar100
    python -m resflax.reproduce experiments/mueller2019_label_smoothing.py --rows=digits14_label_smoothing --seeds=3

Smoothing is that of Szegedy et al. 2016 (arXiv:1512.00567, Sec. 7), by 0.1: 0.9 of the label and 0.1 shared by all classes.
The paper does not print the recipe in full; all else is chosen here, that of He et al. 2015 (`he2015_cifar:resnet56`), and so
the published number is one to look at, not one to meet. It is quoted from memory.

`digits14_label_smoothing` is a short run on 8x8 images; `digits14` of `zhang2018_mixup` is the same without.
"""

import dataclasses

from resflax.config import Config, LossConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import digits14, with_data
from resflax.results.published import Published

PUBLISHED = {"resnet56_cifar100": Published(27.3, "27.9 without smoothing; another recipe; quoted from memory")}
SMOOTHED = LossConfig(label_smoothing=0.1)


def get_config(variant: str = "resnet56_cifar100") -> Config:
    """`resnet56_cifar100`, `digits14_label_smoothing`."""
    he2015, _ = load_config("he2015_cifar:resnet56")
    rows = {
        "resnet56_cifar100": dataclasses.replace(with_data(he2015, "cifar100"), loss=SMOOTHED),
        "digits14_label_smoothing": dataclasses.replace(digits14(), loss=SMOOTHED),
    }
    return choose_variant(variant, rows)
