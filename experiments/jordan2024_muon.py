"""Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks: beside SGD with the same network and schedule.

    python -m resflax.train --config=experiments/jordan2024_muon.py:resnet20     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/jordan2024_muon.py --rows=digits14_sgd,digits14_muon --seeds=3

The published result on CIFAR-10 is a speedrun, 94 % in 2.6 seconds on an A100, whose recipe is `cifar10_speedrun:gpu`. Here
Muon takes the place of SGD and nothing else changes. `resnet20` is a row of ours that no paper has: the recipe of
`he2015_cifar`, with Nesterov momentum, hidden kernels at a rate of 0.05 and the rest at 0.1; decay is decoupled. It has not
been tuned.

`digits14_sgd` and `digits14_muon` are short runs on the embedded digits: 300 steps, hidden kernels at a rate of 0.05, the
rest at 0.1, without decay.
"""

import dataclasses

from resflax.config import Config
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import digits14

ROWS = ("resnet20", "digits14_sgd", "digits14_muon")


def get_config(variant: str = "resnet20") -> Config:
    """`resnet20`; `digits14_sgd`, `digits14_muon`."""
    resnet20, _ = load_config("he2015_cifar:resnet20")
    digits = digits14()
    return choose_variant(
        variant, {"resnet20": by_muon(resnet20, 1e-3), "digits14_sgd": digits, "digits14_muon": by_muon(digits, 0.0)}
    )


def by_muon(row: Config, weight_decay: float) -> Config:
    """The same recipe with Muon for hidden kernels."""
    optim = dataclasses.replace(
        row.optim,
        name="muon",
        learning_rate=0.05,
        sgd_learning_rate=0.1,
        nesterov=True,
        weight_decay=weight_decay,
        decay="decoupled",
    )
    return dataclasses.replace(row, optim=optim)
