"""A residual network on real handwritten digits, in under two minutes on a laptop.

    python -m resflax.train                                       # variant `resnet`
    python -m resflax.train --config=experiments/quickstart.py:cnn

1,437 training and 360 test images of 8x8 grey pixels come with the package (see `resflax.data.digits`).
"""

from resflax.config import BatchNormConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant

RESNET = Config(
    total_steps=900,
    log_every_steps=50,
    eval_every_steps=100,
    data=DataConfig(name="digits", batch_size=64, augment=("pad_crop:1",)),
    model=ModelConfig("cifar_resnet14"),
    batch_norm=BatchNormConfig(group_size=64),
    optim=OptimConfig(
        learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine", warmup_fraction=0.05, decay_mask="kernels"
    ),
)

CNN = Config(
    total_steps=900,
    log_every_steps=50,
    eval_every_steps=100,
    data=DataConfig(name="digits", batch_size=64, image_size=16, augment=("pad_crop:2",)),
    model=ModelConfig("tutorial_cnn"),
    optim=OptimConfig(name="adam", learning_rate=2e-3, schedule="cosine", warmup_fraction=0.05),
)


def get_config(variant: str = "resnet") -> Config:
    """`resnet`: a 14-layer residual network. `cnn`: two convolutions, from the classic tutorial."""
    return choose_variant(variant, {"resnet": RESNET, "cnn": CNN})
