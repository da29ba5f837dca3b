"""The builders behind the table: what a user may choose for each family, and its defaults.

Importing this module does not import JAX: a configuration is checked against these signatures before any device is touched, so
a builder imports its network when it is called. What comes before the `*`, and what a row of the table binds, is the
network's name; the other keyword arguments are the user's. All take `num_classes` (None: features instead of logits), `norm`
(makes the normalisation; None: the family's own) and `dtype` (of activations).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from resflax.ranges import Count, UnitInterval

if TYPE_CHECKING:
    from flax import linen as nn

    from resflax.types import DType, NormFactory

Shortcut = Literal["A", "A_averaged", "B", "C"]
# image: drawn for each image, the rates growing from 0 in the first block, as timm; batch: as Huang et al. 2016 print it, drawn
# for the whole batch, the rates growing from 0 at the input, and the branches scaled in evaluation
StochasticDepthForm = Literal["image", "batch"]
Repeat = Literal["loop", "scan", "scan_remat"]
StemForm = Literal["convolution", "space_to_depth"]  # of the 7x7/2, see `resflax.nn.space_to_depth`
Ordering = Literal[
    "original", "norm_after_addition", "relu_before_addition", "relu_only_preactivation", "preactivation"
]  # of He et al. 2016, Fig. 4 a to e


def cifar_resnet(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 16,
    shortcut: Shortcut = "A",
    squeeze_excite: UnitInterval = 0.0,
    stochastic_depth: UnitInterval = 0.0,
    stochastic_depth_form: StochasticDepthForm = "image",
    repeat: Repeat = "loop",
) -> nn.Module:
    """The residual network of `depth` = 6n + 2 layers for small images; `squeeze_excite` is a ratio, 0: none."""
    from resflax.models import cifar

    return cifar.cifar_resnet(
        depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, shortcut=shortcut, squeeze_excite=squeeze_excite,
        stochastic_depth=stochastic_depth, stochastic_depth_form=stochastic_depth_form, repeat=repeat,
    )  # fmt: skip


def cifar_plain(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 16,
    repeat: Repeat = "loop",
) -> nn.Module:
    """`cifar_resnet` without its shortcuts."""
    from resflax.models import cifar

    return cifar.cifar_plain(depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, repeat=repeat)


def cifar_preresnet(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    block: Literal["basic", "bottleneck"],
    width: Count = 16,
    ordering: Ordering = "preactivation",
    shortcut: Shortcut | None = None,
    squeeze_excite: UnitInterval = 0.0,
    stochastic_depth: UnitInterval = 0.0,
    repeat: Repeat = "loop",
) -> nn.Module:
    """Pre-activation, or another ordering of He et al. 2016, Fig. 4. `shortcut` None: A for basic units, B for bottlenecks."""
    from resflax.models import cifar

    bottleneck = block == "bottleneck"
    return cifar.preresnet(
        depth, num_classes=num_classes, norm=norm, dtype=dtype, bottleneck=bottleneck, width=width, ordering=ordering,
        shortcut=shortcut or ("B" if bottleneck else "A"), squeeze_excite=squeeze_excite, stochastic_depth=stochastic_depth,
        repeat=repeat,
    )  # fmt: skip


def cifar_wrn(
    depth: int,
    widen: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    dropout: UnitInterval = 0.0,
    squeeze_excite: UnitInterval = 0.0,
    stochastic_depth: UnitInterval = 0.0,
    repeat: Repeat = "loop",
) -> nn.Module:
    """The wide residual network of `depth` = 6n + 4 layers; the paper's dropout, where it has one, is 0.3 (0.4 on SVHN)."""
    from resflax.models import cifar

    return cifar.wide_resnet(
        depth, widen, num_classes=num_classes, norm=norm, dtype=dtype, dropout=dropout, squeeze_excite=squeeze_excite,
        stochastic_depth=stochastic_depth, repeat=repeat,
    )  # fmt: skip


def cifar_resnext(
    depth: int,
    groups: int,
    base_width: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    stochastic_depth: UnitInterval = 0.0,
    repeat: Repeat = "loop",
) -> nn.Module:
    """ResNeXt of `depth` = 9n + 2 layers for small images, `groups` x `base_width` d."""
    from resflax.models import cifar

    return cifar.resnext(
        depth, groups, base_width, num_classes=num_classes, norm=norm, dtype=dtype, stochastic_depth=stochastic_depth,
        repeat=repeat,
    )  # fmt: skip


def cifar_vgg(depth: int, *, num_classes: int | None, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """VGG with batch normalisation for small images: no hidden dense layers."""
    return _vgg(depth, num_classes, norm, dtype)


def vgg(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    dropout: UnitInterval = 0.5,
) -> nn.Module:
    """VGG with batch normalisation and the paper's two dense layers of 4096."""
    return _vgg(depth, num_classes, norm, dtype, hidden=4096, dropout=dropout)


def _vgg(depth: int, num_classes: int | None, norm: NormFactory | None, dtype: DType, **parts: Any) -> nn.Module:
    from resflax.models import vgg as networks
    from resflax.nn import BatchNorm

    return networks.Vgg(num_classes=num_classes, counts=networks.COUNTS[depth], norm=norm or BatchNorm, dtype=dtype, **parts)


def resnet(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    stem: Literal["7x7", "deep", "deep_wide", "deep_tiered", "deep_unpooled"],
    shortcut: Literal["B", "D"],
    strided: Literal["conv1", "conv2"],
    groups: int,
    base_width: int,
    squeeze_excite: float | None,
    width: Count = 64,
    zero_gamma: bool = True,
    stochastic_depth: UnitInterval = 0.0,
    head_dropout: UnitInterval = 0.0,
    stem_form: StemForm = "convolution",
    repeat: Repeat = "loop",
) -> nn.Module:
    """ResNet for ImageNet and its descendants with activation after the sum, see `resflax.models.imagenet.resnet`."""
    from resflax.models import imagenet

    bottleneck = {"strided": strided, "groups": groups, "base_width": base_width}
    return imagenet.resnet(
        depth, num_classes=num_classes, norm=norm, dtype=dtype, stem=stem, shortcut=shortcut, squeeze_excite=squeeze_excite,
        width=width, zero_gamma=zero_gamma, stochastic_depth=stochastic_depth, head_dropout=head_dropout, stem_form=stem_form,
        repeat=repeat,
        **(bottleneck if depth >= imagenet.BOTTLENECK_FROM else {}),
    )  # fmt: skip


def resnetv2(
    depth: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 64,
    stochastic_depth: UnitInterval = 0.0,
    stem_form: StemForm = "convolution",
    repeat: Repeat = "loop",
) -> nn.Module:
    """ResNet v2 for ImageNet: pre-activation."""
    from resflax.models import imagenet

    return imagenet.resnetv2(
        depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, stochastic_depth=stochastic_depth,
        stem_form=stem_form, repeat=repeat,
    )  # fmt: skip


def bit(
    depth: int,
    factor: int,
    *,
    num_classes: int | None,
    norm: NormFactory | None = None,
    dtype: DType = None,
    stochastic_depth: UnitInterval = 0.0,
    repeat: Repeat = "loop",
) -> nn.Module:
    """BiT for ImageNet; it has group normalisation and ignores `norm`."""
    from resflax.models import imagenet

    return imagenet.bit(depth, factor, num_classes=num_classes, dtype=dtype, stochastic_depth=stochastic_depth, repeat=repeat)


def keras_resnetv2(depth: int, *, num_classes: int | None, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """ResNet v2 as `keras.applications` builds it; its blocks are not equal, so they cannot run in a loop."""
    from resflax.models import imagenet, keras_v2

    return keras_v2.KerasResNetV2(num_classes=num_classes, counts=imagenet.COUNTS[depth], norm=norm, dtype=dtype)


def cifar_speedrun(
    *, num_classes: int | None, norm: NormFactory | None = None, dtype: DType = None, width: Count = 64
) -> nn.Module:
    """The network of the CIFAR-10 speedruns: a whitening layer and three groups of `width`, 4 `width`, 4 `width`."""
    from resflax.models import speedrun
    from resflax.nn import BatchNorm

    return speedrun.SpeedrunNet(num_classes=num_classes, width=width, norm=norm or BatchNorm, dtype=dtype)


def tutorial_cnn(*, num_classes: int | None, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """Two convolutions with max pooling, then a dense layer; it has nothing to normalise and ignores `norm`."""
    from resflax.models import tutorial

    return tutorial.TutorialCnn(num_classes=num_classes, dtype=dtype)


def tutorial_resnet(*, num_classes: int | None, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """Five blocks of 1x1 and 3x3 convolutions, 64 to 1024 channels."""
    from resflax.models import tutorial

    return tutorial.TutorialResNet(num_classes=num_classes, norm=norm, dtype=dtype)
