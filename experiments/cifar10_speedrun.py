"""CIFAR-10 as fast as possible: 94 % in the least time on one GPU, 91 % in minutes on two CPU cores, 94 % in half an hour.

    python -m resflax.reproduce experiments/cifar10_speedrun.py --rows=gpu --seeds=20
    python -m resflax.reproduce experiments/cifar10_speedrun.py --rows=cpu --seeds=3
    python -m resflax.reproduce experiments/cifar10_speedrun.py --rows=cpu94 --seeds=1

After `airbench94_muon` (Jordan 2024, arXiv:2404.00498, and its repository), whose network and recipe these are but for: one
momentum for Muon and SGD, with the rate of the latter scaled to match; biases do not decay, and the head at less than half
their rate; five Newton-Schulz steps for three; the bias of the whitening layer learns to the end and not for three epochs;
batches go on across the end of an epoch.

The clock runs as theirs: `speedrun_seconds` of a record is the initialisation from the training images, all steps, and the
final evaluation with its views. Outside of it are compilation, reading the data, evaluations on the way and saving;
`wall_seconds` has all but the reading.
"""

import dataclasses

from resflax.config import BatchNormConfig, Config, DataConfig, LossConfig, ModelConfig, OptimConfig, PrecisionConfig
from resflax.config.files import choose_variant
from resflax.results.published import Published

PUBLISHED = {"gpu": Published(5.99, "94.01 % in 2.59 s on an A100 (airbench94_muon, n = 200)")}
ROWS = ("gpu", "cpu")

GPU = Config(
    total_epochs=8,
    data=DataConfig(
        name="cifar10",
        batch_size=2000,
        eval_batch_size=2000,
        input="resident",
        augment=("reflect_crop:2", "alternating_flip"),
        eval_views="mirror_shift",
    ),
    model=ModelConfig("cifar_speedrun"),
    batch_norm=BatchNormConfig(momentum=0.6, epsilon=1e-12, running_variance="unbiased"),
    optim=OptimConfig(
        name="muon",
        learning_rate=0.24,
        sgd_learning_rate=283.0,
        momentum=0.6,
        nesterov=True,
        weight_decay=4e-5,
        decay="decoupled",
        decay_mask="kernels",
        schedule="linear",
        fixed_norm=True,
    ),
    loss=LossConfig(label_smoothing=0.2),
    precision=PrecisionConfig("bfloat16"),
)


def speedrun_seconds(config: Config, workdir: str) -> dict[str, float]:
    """See `resflax.build.diagnose`, which imports JAX."""
    from resflax.build import diagnose

    return diagnose.speedrun_seconds(config, workdir)


MEASUREMENTS = {"speedrun_seconds": speedrun_seconds}


def get_config(variant: str = "gpu") -> Config:
    """`gpu`: the record's recipe, bfloat16. `cpu`: half the width, smaller batches, float32; `cpu94`: the whole width."""
    cpu = dataclasses.replace(
        GPU,
        total_epochs=6,
        log_every_steps=100,
        data=dataclasses.replace(GPU.data, batch_size=500, eval_batch_size=1000),
        model=ModelConfig("cifar_speedrun", {"width": 32}),
        optim=dataclasses.replace(GPU.optim, learning_rate=0.12, sgd_learning_rate=70.0),
        precision=PrecisionConfig("float32"),
    )
    cpu94 = dataclasses.replace(cpu, total_epochs=GPU.total_epochs, model=GPU.model)
    return choose_variant(variant, {"gpu": GPU, "cpu": cpu, "cpu94": cpu94})
