"""Why residuals matter, in minutes on a laptop: plain and residual networks of 8 to 110 layers on handwritten digits.

    python -m resflax.reproduce experiments/degradation.py --seeds=3
    python -m resflax.report runs/degradation/results

The question of He et al. 2015, Sec. 4.2 and Fig. 6: a deeper plain network has a higher *training* error, although it could do
whatever a shallower one does; a residual network has not. The networks are those of the paper at half the width, the data
are 8x8 images, a run is 150 steps at a rate that all of them stand. `gradient_norms` in a record says how much of the gradient
reaches each convolution before the first step and in the middle of the run.
"""

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant

ROWS = tuple(f"{family}{depth}" for depth in (8, 20, 56, 110) for family in ("plain", "resnet"))


def get_config(variant: str = "resnet20") -> Config:
    """`plain8` ... `plain110`, `resnet8` ... `resnet110`."""
    return choose_variant(variant, {row: make_row(row) for row in ROWS})


def gradient_norms(config: Config, workdir: str) -> dict[str, list[float]]:
    """See `resflax.build.diagnose`, which imports JAX."""
    from resflax.build import diagnose

    return diagnose.gradient_norms(config, workdir)


MEASUREMENTS = {"gradient_norms": gradient_norms}


def make_row(row: str) -> Config:
    """One network; blocks are repeated in a loop, so that depth costs no time to compile."""
    return Config(
        total_steps=150,
        log_every_steps=10,
        eval_every_steps=50,
        data=DataConfig(name="digits", batch_size=64, eval_batch_size=360),
        model=ModelConfig(f"cifar_{row}", {"width": 8, "repeat": "scan"}),
        batch_norm=BatchNormConfig(group_size=64),
        optim=OptimConfig(learning_rate=0.03, weight_decay=1e-4, schedule="step", milestones=(0.67,)),
        checkpoint=CheckpointConfig(every_steps=75, keep_last=2),
    )
