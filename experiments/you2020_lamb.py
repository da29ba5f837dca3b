"""You et al. 2020, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, Sec. 4.3: ResNet-50 by LAMB.

    python -m resflax.train --config=experiments/you2020_lamb.py:batch32768 --config.data.name=/data/imagenet
    python -m resflax.reproduce experiments/you2020_lamb.py --rows=digits14_sgd,digits14_lamb --seeds=3

`batch32768`: 90 epochs of ImageNet in 3,519 steps, with the script of the first author (fastalgo/imagenet_resnet50_lamb): a
rate of 0.04 after a warm-up over 782 steps, from where it falls to 0 on a line; beta 0.9 and 0.999, epsilon 1e-6, a
gradient clipped to a norm of 1; decay of 1.5, not of normalisations; label smoothing 0.1. Accuracy: not run.

Deviations: the line under the warm-up counts from the start of the run; biases have neither decay nor ratio, see
`resflax.optim.optimizers.make_optimizer`. The script normalises over several cores together; here over 64 images. The
paper's other batches have no row.

`digits14_sgd` and `digits14_lamb` are short runs on the embedded digits: 300 steps with batches of 64, LAMB at a rate of
0.02 with a decay of 0.02.
"""

import dataclasses

from resflax.config import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
)
from resflax.config.files import choose_variant
from resflax.config.rows import digits14, imagenet
from resflax.results.published import Published

PUBLISHED = {"batch32768": Published(23.66, "76.34 %, the last line of log.out in the first author's repository")}

LAMB = OptimConfig(name="lamb", learning_rate=0.02, epsilon=1e-6, weight_decay=0.02, decay="decoupled", decay_mask="kernels")
BATCH32768 = Config(
    total_steps=3_519,
    log_every_steps=10,
    eval_every_steps=500,
    data=imagenet(batch_size=32_768),
    model=ModelConfig("resnet50", {"zero_gamma": True}),
    batch_norm=BatchNormConfig(group_size=64),
    optim=dataclasses.replace(LAMB, learning_rate=0.04, weight_decay=1.5, schedule="linear", warmup_steps=782, clip_norm=1.0),
    loss=LossConfig(label_smoothing=0.1),
    precision=PrecisionConfig("bfloat16"),
    checkpoint=CheckpointConfig(every_steps=500),
)


def get_config(variant: str = "batch32768") -> Config:
    """`batch32768`; `digits14_sgd`, `digits14_lamb`."""
    digits = digits14()
    optim = dataclasses.replace(LAMB, schedule="cosine")
    return choose_variant(
        variant, {"batch32768": BATCH32768, "digits14_sgd": digits, "digits14_lamb": dataclasses.replace(digits, optim=optim)}
    )
