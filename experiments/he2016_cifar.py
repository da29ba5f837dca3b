"""He et al. 2016, Identity Mappings in Deep Residual Networks, Tables 2 to 4: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/he2016_cifar.py:preresnet164     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/he2016_cifar.py --rows=digits110_original,digits110_preactivation --seeds=3

The recipe as printed in the appendix is that of He et al. 2015 (`he2015_cifar`): 64k iterations of batch 128 on 2 GPUs, rate
0.1, divided by 10 at 32k and 48k, momentum 0.9, weight decay 1e-4, translation and flipping; all networks start with 400
iterations at a rate of 0.01. ResNet-110 has units of two 3x3 and shortcuts of option A; 164 and 1001 have bottlenecks, and
projections where the shape changes, which see the activated input if units begin with an activation. Where they do, the first
activation stands before the first unit branches, and one more follows the last sum. Published errors are medians of five
runs.

Not printed, chosen here as in `he2015_cifar`: pixels are scaled to 0..1 before the mean image is subtracted, the velocity is
multiplied by the rate, running statistics have momentum 0.9 and are biased. Without a row: ResNet-110 with one layer a unit
(Table 3), ResNet-1001 with a batch of 64 (4.62, Table 4), the variants of the shortcut (Table 1), ImageNet.

The rows `..._782` are cut to two epochs, without the slow start. `preresnet20_782` is no network of the paper: the smallest
of its kind, to be compared with `resnet20_782` of `he2015_cifar`. The rows `digits...` are those of `degradation` with other
units: 8x8 images, half the width (of 164 layers a quarter), 150 steps at a rate of 0.03.
"""

import dataclasses

from resflax.config import Config, ModelConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import with_data
from resflax.results.published import Published

ORDERINGS = ("original", "norm_after_addition", "relu_before_addition", "relu_only_preactivation", "preactivation")
# Tables 2 and 3, test error in percent.
PUBLISHED = {
    "original110": Published(6.61),
    "norm_after_addition110": Published(8.17),
    "relu_before_addition110": Published(7.84),
    "relu_only_preactivation110": Published(6.71),
    "preresnet110": Published(6.37),
    "original164": Published(5.93),
    "norm_after_addition164": Published(6.50),
    "relu_before_addition164": Published(6.14),
    "relu_only_preactivation164": Published(5.91),
    "preresnet164": Published(5.46),
    "original1001": Published(7.61),
    "preresnet1001": Published(4.92, "the median of five runs, whose mean is 4.89 and whose standard deviation is 0.14"),
    "original164_cifar100": Published(25.16),
    "preresnet164_cifar100": Published(24.33),
    "original1001_cifar100": Published(27.82),
    "preresnet1001_cifar100": Published(
        22.71, "the median of five runs, whose mean is 22.68 and whose standard deviation is 0.22"
    ),
}


def get_config(variant: str = "preresnet110") -> Config:
    """The names in `PUBLISHED`; `preresnet20_782`, `preresnet110_782`; `digits56_ORDERING`, of 110 and 164 layers likewise."""
    rows = {}
    for depth in (110, 164, 1001):
        for ordering in ORDERINGS:
            name = f"preresnet{depth}" if ordering == "preactivation" else f"{ordering}{depth}"
            rows[name] = paper_row(depth, ordering)
            rows[f"{name}_cifar100"] = with_data(rows[name], "cifar100")
    rows = {name: rows[name] for name in PUBLISHED}
    rows |= {f"preresnet{depth}_782": short_row(depth) for depth in (20, 110)}
    rows |= {f"digits{depth}_{ordering}": digits_row(depth, ordering) for depth in (56, 110, 164) for ordering in ORDERINGS}
    return choose_variant(variant, rows)


def paper_row(depth: int, ordering: str) -> Config:
    """A network with the recipe of He et al. 2015 for 110 layers; one of a thousand runs in a loop, to compile in seconds."""
    base, _ = load_config("he2015_cifar:resnet110")
    kwargs = {"ordering": ordering} | ({"repeat": "scan_remat"} if depth > 1000 else {})
    return dataclasses.replace(base, model=ModelConfig(f"cifar_preresnet{depth}", kwargs))


def short_row(depth: int) -> Config:
    """`resnet20_782` of He et al. 2015 with units that begin with an activation."""
    base, _ = load_config("he2015_cifar:resnet20_782")
    return dataclasses.replace(base, model=ModelConfig(f"cifar_preresnet{depth}"))


def digits_row(depth: int, ordering: str) -> Config:
    """A short run on the embedded digits."""
    base, _ = load_config("degradation:resnet110")
    width = 4 if depth == 164 else 8
    kwargs = {"ordering": ordering, "width": width, "repeat": "scan"}
    return dataclasses.replace(base, model=ModelConfig(f"cifar_preresnet{depth}", kwargs))
