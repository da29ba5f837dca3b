"""The two networks of the classic Keras tutorial, trained as it trains them: Adam, cross-entropy, accuracy.

    python -m resflax.train --config=experiments/tutorial.py:cnn
    python -m resflax.train --config=experiments/tutorial.py:resnet --config.total_steps=20   # slow on a CPU

The images are the embedded digits, enlarged to the size the networks are made for. Adam's and the normalisation's
settings are Keras' defaults; `predict` shows the softmax.
"""

from resflax.config import BatchNormConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant

ADAM = OptimConfig(name="adam", learning_rate=1e-3, epsilon=1e-7, epsilon_at="uncorrected")

CNN = Config(
    total_epochs=10,
    log_every_steps=50,
    eval_every_steps=100,
    data=DataConfig(name="digits", batch_size=32, image_size=32, normalize="unit"),
    model=ModelConfig("tutorial_cnn"),
    optim=ADAM,
)

RESNET = Config(
    total_epochs=10,
    log_every_steps=10,
    eval_every_steps=0,
    data=DataConfig(name="digits", batch_size=32, eval_batch_size=32, image_size=224, normalize="unit"),
    model=ModelConfig("tutorial_resnet"),
    batch_norm=BatchNormConfig(momentum=0.99, epsilon=1e-3),
    optim=ADAM,
)


def get_config(variant: str = "cnn") -> Config:
    """`cnn`: two convolutions. `resnet`: five residual blocks at 224 pixels."""
    return choose_variant(variant, {"cnn": CNN, "resnet": RESNET})
