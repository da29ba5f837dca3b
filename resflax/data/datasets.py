"""The table of data sets. Importing it imports neither JAX nor tfds.

Whatever tfds prepares can be trained on, in this table or not; what is here is known before it is read. Sizes are those of
tfds' catalogue (`digits`: of scikit-learn). `mean` and `std` are per channel, in units of the pixel range: a uint8 value
divided by 255. Where they are None, those of the training split are taken.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before it is read."""

    image_shape: tuple[int | None, int | None, int]  # height, width, channels; None where images differ
    classes: int
    sizes: dict[str, int]  # examples a split
    source: str
    mean: tuple[float, ...] | None = None  # pixel range 0..1
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()  # empty where they are many, or only numbers


_DIGITS = tuple("0123456789")
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
)  # fmt: skip

# How torchvision's classifiers are normalised (of random crops, hence not to be had from the files).
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET = "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge"
_IMAGENET_SIZES = {"train": 1_281_167, "validation": 50_000}
_RESIZED = "Chrabaszcz et al. 2017, A Downsampled Variant of ImageNet; its labels are in an order of their own"
_EMNIST = "Cohen et al. 2017, EMNIST: an extension of MNIST to handwritten letters; the images are transposed"

DATASETS: dict[str, DatasetInfo] = {
    # Own computation.
    "digits": DatasetInfo(
        (8, 8, 1),
        10,
        {"train": 1437, "test": 360},
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, UCI), the test part, as in scikit-learn",
        mean=(0.30523,),
        std=(0.37568,),
        class_names=_DIGITS,
    ),
    # Own computation; published with four digits, 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616.
    "cifar10": DatasetInfo(
        (32, 32, 3),
        10,
        {"train": 50_000, "test": 10_000},
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        mean=(0.49140, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    # The figures in common use for PyTorch's copy of the training split.
    "cifar100": DatasetInfo(
        (32, 32, 3),
        100,
        {"train": 50_000, "test": 10_000},
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    # As in common use with PyTorch: of `train`, without `extra`.
    "svhn_cropped": DatasetInfo(
        (32, 32, 3),
        10,
        {"train": 73_257, "test": 26_032, "extra": 531_131},
        "Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        class_names=_DIGITS,
    ),
    # As in PyTorch's examples.
    "mnist": DatasetInfo(
        (28, 28, 1),
        10,
        {"train": 60_000, "test": 10_000},
        "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition",
        mean=(0.1307,),
        std=(0.3081,),
        class_names=_DIGITS,
    ),
    # The figures in common use with PyTorch.
    "fashion_mnist": DatasetInfo(
        (28, 28, 1),
        10,
        {"train": 60_000, "test": 10_000},
        "Xiao et al. 2017, Fashion-MNIST",
        mean=(0.2860,),
        std=(0.3530,),
        class_names=_GARMENTS,
    ),
    "kmnist": DatasetInfo(
        (28, 28, 1),
        10,
        {"train": 60_000, "test": 10_000},
        "Clanuwat et al. 2018, Deep Learning for Classical Japanese Literature",
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "emnist/balanced": DatasetInfo((28, 28, 1), 47, {"train": 112_800, "test": 18_800}, _EMNIST),
    "emnist/byclass": DatasetInfo((28, 28, 1), 62, {"train": 697_932, "test": 116_323}, _EMNIST),
    "imagenet2012": DatasetInfo((None, None, 3), 1000, _IMAGENET_SIZES, _IMAGENET, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    "imagenet_v2": DatasetInfo(
        (None, None, 3), 1000, {"test": 10_000}, "Recht et al. 2019, Do ImageNet Classifiers Generalize to ImageNet?"
    ),
    "imagenet_resized/32x32": DatasetInfo((32, 32, 3), 1000, _IMAGENET_SIZES, _RESIZED),
    "imagenet_resized/64x64": DatasetInfo((64, 64, 3), 1000, _IMAGENET_SIZES, _RESIZED),
    "imagenette": DatasetInfo(
        (None, None, 3),
        10,
        {"train": 9_469, "validation": 3_925},
        "Howard 2019, Imagenette, version 2: ten classes of ImageNet that are easy to tell apart",
        class_names=_IMAGENETTE,
    ),
}
