"""Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization (arXiv:1710.09412), Fig. 3a: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/zhang2018_mixup.py:wrn28_10     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/zhang2018_mixup.py --rows=digits14,digits14_mixup --seeds=3

The recipe as printed and as in the authors' code (facebookresearch/mixup-cifar10, train.py): 200 epochs of batch 128, SGD with
momentum 0.9, rate 0.1 divided by 10 at epochs 100 and 150, weight decay 1e-4 on every parameter, random crop after padding by
4 and flip, one GPU; each batch is mixed with one share from Beta(1, 1). Deviations: partners are neighbours in the batch, the
code permutes it; padding is the mean, there it is black. The published errors are quoted from memory: the authors' repository
does not repeat them.

`resnet56_mixup` is ours, on the recipe of He et al. 2015 (`he2015_cifar:resnet56`). `digits14` and `digits14_mixup` are short
runs on 8x8 images: 300 steps of batch 64 of a narrow network, without and with mixup. Other experiments have rows of the same
form.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import digits14, with_data
from resflax.results.published import Published

# Fig. 3a, test error in percent.
PUBLISHED = {
    "wrn28_10": Published(2.7, "3.8 without mixup; quoted from memory"),
    "wrn28_10_cifar100": Published(17.5, "19.4 without mixup; quoted from memory"),
}

WRN = Config(
    total_epochs=200,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(name="cifar10", batch_size=128, eval_batch_size=1000, augment=("pad_crop:4", "flip"), mix=("mixup:1.0",)),
    model=ModelConfig("cifar_wrn28_10"),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(learning_rate=0.1, weight_decay=1e-4, schedule="step", milestones=(0.5, 0.75)),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "wrn28_10") -> Config:
    """`wrn28_10`, `wrn28_10_cifar100`, `resnet56_mixup`, `digits14`, `digits14_mixup`."""
    he2015, _ = load_config("he2015_cifar:resnet56")
    rows = {
        "wrn28_10": WRN,
        "wrn28_10_cifar100": with_data(WRN, "cifar100"),
        "resnet56_mixup": dataclasses.replace(he2015, data=dataclasses.replace(he2015.data, mix=WRN.data.mix)),
        "digits14": digits14(),
        "digits14_mixup": digits14(mix=WRN.data.mix),
    }
    return choose_variant(variant, rows)
