"""Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, Table 1: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/izmailov2018_swa.py:preresnet164     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/izmailov2018_swa.py --rows=digits14_sgd,digits14_swa --seeds=3

The rows are those of 1.5 budgets, with the commands of the authors' repository (timgaripov/swa): SGD with momentum 0.9,
batch 128, decay on every parameter; 225 epochs, averaged from 126 on, of the pre-activation network, 300 and 161 of the
wide one. Until half of the epochs before the average the rate is 0.1, until 0.9 of them it falls on a line to the rate of
the average, which it keeps. A network enters the mean at the start and after each epoch from there on; at the end its
statistics are re-estimated from one pass over the training set. Published numbers are those of the repository's README.

Deviations: the authors' rate changes once an epoch, here with each step. They pad and flip as here, but drop nothing at the
end of an epoch, where their last batch is smaller; here batches go on into the next epoch. Their wide network has Xavier's
initialisation, biases in its convolutions and the stride on the second one of a unit; ours is that of `zagoruyko2016_wrn`.
VGG-16 and PreResNet-110 of their table have no row.

`digits14_sgd` and `digits14_swa` are short runs on the embedded digits: 300 steps, the mean of the networks after 180 steps
and each epoch from there on, at a constant rate of 0.05.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, SwaConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14, with_data
from resflax.results.published import Published

README = "from the authors' README; by SGD, 1 budget,"
# Table 1, 1.5 budgets, test error in percent.
PUBLISHED = {
    "preresnet164": Published(4.17, f"{README} 4.72"),
    "wrn28_10": Published(3.21, f"{README} 3.82"),
    "preresnet164_cifar100": Published(19.65, f"{README} 21.51"),
    "wrn28_10_cifar100": Published(17.85, f"{README} 19.18"),
}

BASE = Config(
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(name="cifar10", batch_size=128, eval_batch_size=1000, augment=("pad_crop:4", "flip")),
    batch_norm=BatchNormConfig(group_size=128, reestimate=True),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "preresnet164") -> Config:
    """The names in `PUBLISHED`; `digits14_sgd`, `digits14_swa`."""
    preresnet, wide = paper_row("cifar_preresnet164", 225, 126, 3e-4, 0.01), paper_row("cifar_wrn28_10", 300, 161, 5e-4, 0.05)
    digits = digits14()
    return choose_variant(
        variant,
        {
            "preresnet164": preresnet,
            "wrn28_10": wide,
            "preresnet164_cifar100": with_data(paper_row("cifar_preresnet164", 225, 126, 3e-4, 0.05), "cifar100"),
            "wrn28_10_cifar100": with_data(wide, "cifar100"),
            "digits14_sgd": digits,
            "digits14_swa": dataclasses.replace(
                digits,
                batch_norm=dataclasses.replace(digits.batch_norm, reestimate=True),
                swa=SwaConfig(start=0.6, learning_rate=0.05),
            ),
        },
    )


def paper_row(model: str, epochs: int, start: int, weight_decay: float, rate: float) -> Config:
    """A network that is averaged from the epoch `start` on, at the rate `rate`."""
    return dataclasses.replace(
        BASE,
        total_epochs=epochs,
        model=ModelConfig(model),
        optim=OptimConfig(
            learning_rate=0.1,
            weight_decay=weight_decay,
            schedule="piecewise",
            milestones=(0.5 * start, 0.9 * start),
            milestone_unit="epochs",
            milestone_factors=(1.0, rate / 0.1),
        ),
        swa=SwaConfig(start=start / epochs, learning_rate=rate),
    )
