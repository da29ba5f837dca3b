"""Hinton et al. 2015, Distilling the Knowledge in a Neural Network; on CIFAR-100 as Tian et al. 2020 measured it.

    python -m resflax.reproduce experiments/hinton2015_distillation.py --rows=resnet56,resnet20_from_resnet56 --seeds=1
    python -m resflax.reproduce experiments/hinton2015_distillation.py --seeds=3 \\
        --rows=digits14_teacher,digits8_alone,digits8_distilled

A student learns from the labels and from a teacher, which is a row of this file that is run first: `distill.weights` is the
teacher's workdir of seed 0, as `resflax.reproduce` names it. The paper's networks for MNIST are not convolutional (67
errors of the teacher, 146 of the student alone, 74 distilled at a temperature of 20) and have no row. The rows are those
that Tian, Krishnan and Isola 2020, Contrastive Representation Distillation, call KD, with the recipe of their repository
(HobbitLong/RepDistiller): 240 epochs of CIFAR-100 in batches of 64, SGD with momentum 0.9, decay 5e-4 on every parameter,
rate 0.05, divided by 10 at epochs 150, 180 and 210; temperature 4, 0.9 of the teacher's loss and 0.1 of that by the labels.
Shortcuts of the CIFAR networks are projections where the shape changes. Batches go on into the next epoch, theirs do not.

`digits14_teacher`, `digits8_alone` and `digits8_distilled` are short runs on the embedded digits: 300 steps of ResNet-14
with 8 channels, and of ResNet-8 with 4 without and with what it says, at a temperature of 4 and a weight of 0.9.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, DistillConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14
from resflax.results.published import Published

README = "from the README of HobbitLong/RepDistiller"
PUBLISHED = {
    "resnet56": Published(27.66, f"a teacher, {README}"),
    "resnet20_from_resnet56": Published(29.34, f"{README}; alone 30.94"),
    "wrn40_2": Published(24.39, f"a teacher, {README}"),
    "wrn16_2_from_wrn40_2": Published(25.08, f"{README}; alone 26.74"),
}

BASE = Config(
    total_epochs=240,
    log_every_steps=100,
    eval_every_steps=7_820,
    data=DataConfig(name="cifar100", batch_size=64, eval_batch_size=1000, augment=("pad_crop:4", "flip")),
    batch_norm=BatchNormConfig(group_size=64),
    optim=OptimConfig(
        learning_rate=0.05, weight_decay=5e-4, schedule="step", milestones=(150, 180, 210), milestone_unit="epochs"
    ),
    checkpoint=CheckpointConfig(every_steps=7_820),
)


def get_config(variant: str = "resnet20_from_resnet56") -> Config:
    """The names in `PUBLISHED`; `digits14_teacher`, `digits8_alone`, `digits8_distilled`."""
    teacher = digits14()
    alone = dataclasses.replace(teacher, model=ModelConfig("cifar_resnet8", {"width": 4}))
    projected = {"shortcut": "B"}
    return choose_variant(
        variant,
        {
            "resnet56": dataclasses.replace(BASE, model=ModelConfig("cifar_resnet56", projected)),
            "resnet20_from_resnet56": distilled(
                dataclasses.replace(BASE, model=ModelConfig("cifar_resnet20", projected)), "resnet56"
            ),
            "wrn40_2": dataclasses.replace(BASE, model=ModelConfig("cifar_wrn40_2")),
            "wrn16_2_from_wrn40_2": distilled(dataclasses.replace(BASE, model=ModelConfig("cifar_wrn16_2")), "wrn40_2"),
            "digits14_teacher": teacher,
            "digits8_alone": alone,
            "digits8_distilled": distilled(alone, "digits14_teacher"),
        },
    )


def distilled(student: Config, teacher: str) -> Config:
    """The same recipe with what another row of this file says."""
    workdir = f"runs/hinton2015_distillation/{teacher}-s0"
    return dataclasses.replace(student, distill=DistillConfig(workdir, temperature=4.0, weight=0.9))
