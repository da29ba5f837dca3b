"""Fine-tuning: from the weights of any run, weight file or repository on the hub to other classes.

    python -m resflax.train --config=experiments/finetune.py:full --config.init.weights=runs/quickstart-resnet
    python -m resflax.train --config=experiments/finetune.py:head_only --config.init.weights=runs/quickstart-resnet

The data and the network are set like those of any run: `--config.data.name=PHOTOS --config.data.image_size=224
--config.model.name=resnet50`; the network must be that of the weights, whose mean and deviation are used. `full`: everything
is trained, the classifier at ten times the rate of the rest. `head_only`: the classifier alone; all else stays as it is to
the last bit, the statistics of normalisations too. `scratch`: the same without weights, all at the classifier's rate.

The default is the quickstart's network on 100 of the digits that it knows already; docs/transfer.md has one with new classes.
"""

import dataclasses

from resflax.config import Config, DataConfig, InitConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant

SCRATCH = Config(
    total_steps=100,
    log_every_steps=10,
    eval_every_steps=50,
    data=DataConfig(name="digits", train_split="train[:100]", batch_size=32, augment=("pad_crop:1",)),
    model=ModelConfig("cifar_resnet14"),
    optim=OptimConfig(
        learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine", warmup_fraction=0.1, decay_mask="kernels"
    ),
)
FULL = dataclasses.replace(
    SCRATCH,
    init=InitConfig("runs/quickstart-resnet"),
    optim=dataclasses.replace(SCRATCH.optim, learning_rate=0.01, rates=("head=10",)),
)
HEAD_ONLY = dataclasses.replace(FULL, optim=dataclasses.replace(SCRATCH.optim, rates=("*=0", "head=1")))


def get_config(variant: str = "full") -> Config:
    """`full`, `head_only` or `scratch`, see above."""
    return choose_variant(variant, {"full": FULL, "head_only": HEAD_ONLY, "scratch": SCRATCH})
