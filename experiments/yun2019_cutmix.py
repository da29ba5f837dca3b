"""Yun et al. 2019, CutMix (arXiv:1905.04899), Table 3: ResNet-50 on ImageNet; and two rows of our own.

    python -m resflax.train --config=experiments/yun2019_cutmix.py:imagenet --config.data.name=/data/imagenet
    python -m resflax.reproduce experiments/yun2019_cutmix.py --rows=digits14_cutmix --seeds=3

The recipe as printed and as in the authors' code (clovaai/CutMix-PyTorch, README and train.py): 300 epochs of batch 256 on 4
GPUs, SGD with Nesterov momentum 0.9, rate 0.1 divided by 10 at epochs 75, 150 and 225, weight decay 1e-4 on every parameter,
random resized crop and flip, brightness, contrast and saturation changed by up to 0.4, PCA lighting of 0.1; every batch is
mixed by one box whose area has the share 1 - Beta(1, 1). Deviations: partners are neighbours in the batch, the code permutes
it; colours are clipped to the range of pixels and changed before the flip, which changes nothing.

The networks of the paper's CIFAR rows, PyramidNet and a ResNet-110 of bottlenecks, are not in the zoo. `resnet56_cutmix` is
ours, on the recipe of He et al. 2015 (`he2015_cifar:resnet56`), with the paper's probability for CIFAR: every other batch is
mixed. `digits14_cutmix` is a short run on 8x8 images; `digits14` of `zhang2018_mixup` is the same without mixing.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, ModelConfig, OptimConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import digits14, imagenet
from resflax.results.published import Published

# Table 3 and the authors' README, top-1 error on the validation images in percent.
PUBLISHED = {"imagenet": Published(21.40, "23.68 without CutMix")}

IMAGENET = Config(
    total_epochs=300,
    log_every_steps=100,
    eval_every_steps=5_000,
    data=imagenet(
        batch_size=256,
        eval_batch_size=256,
        augment=("random_resized_crop", "color_jitter:0.4", "pca_lighting:0.1", "flip"),
        mix=("cutmix:1.0",),
    ),
    model=ModelConfig("resnet50", {"zero_gamma": False}),
    batch_norm=BatchNormConfig(group_size=64),
    optim=OptimConfig(
        learning_rate=0.1, nesterov=True, weight_decay=1e-4, schedule="step", milestones=(75 / 300, 150 / 300, 225 / 300)
    ),
    checkpoint=CheckpointConfig(every_steps=5_000),
)


def get_config(variant: str = "imagenet") -> Config:
    """`imagenet`, `resnet56_cutmix`, `digits14_cutmix`."""
    he2015, _ = load_config("he2015_cifar:resnet56")
    data = dataclasses.replace(he2015.data, mix=IMAGENET.data.mix, mix_probability=0.5)
    rows = {
        "imagenet": IMAGENET,
        "resnet56_cutmix": dataclasses.replace(he2015, data=data),
        "digits14_cutmix": digits14(mix=IMAGENET.data.mix, mix_probability=0.5),
    }
    return choose_variant(variant, rows)
