import numpy as np
import pytest

from resflax.data.arrays import ImageArrays, load_split
from resflax.data.datasets import DATASETS
from resflax.data.preprocess import Preprocessing, fit_preprocessing
from resflax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def digits():
    return {split: load_split("digits", split) for split in ("train", "test")}


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = np.rint(source.images * 255 / 16).astype(np.uint8)
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(pixels, source.target, strict=True))
    found = sorted(
        (image.tobytes(), int(label))
        for arrays in digits.values()
        for image, label in zip(arrays.images, arrays.labels, strict=True)
    )
    assert found == expected


def test_digits_split_is_stratified_and_disjoint(digits):
    info = DATASETS["digits"]
    assert {split: len(arrays) for split, arrays in digits.items()} == info.sizes
    shares = np.bincount(digits["test"].labels) / (np.bincount(digits["train"].labels) + np.bincount(digits["test"].labels))
    assert np.all(np.abs(shares - 0.2) < 0.005)
    assert digits["train"].class_names == info.class_names


def test_published_mean_and_deviation_are_those_of_the_split(digits):
    own = fit_preprocessing("per_channel", digits["train"], None)
    np.testing.assert_allclose(own.mean, DATASETS["digits"].mean, atol=5e-6)
    np.testing.assert_allclose(own.std, DATASETS["digits"].std, atol=5e-6)


def test_subsplits_and_fingerprints(digits):
    part = load_split("digits", "train[:100]")
    np.testing.assert_array_equal(part.images, digits["train"].images[:100])
    assert part.fingerprint() != digits["train"].fingerprint()
    changed = part.images.copy()
    changed[3, 0, 0, 0] ^= 1
    assert ImageArrays(changed, part.labels, part.class_names).fingerprint() != part.fingerprint()
    assert digits["train"].fingerprint() == "404364e682169fd4"


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digts", "train", "got 'digts', and there is no such folder in .*; did you mean digits"),
        ("digits", "tran", "no split 'tran'; it has train, test"),
        ("digits", "train[:0]", "must hold at least one example"),
        ("cifar10", "train", "must be prepared"),
        ("missing.npz", "train", "there is no missing.npz"),
    ],
)
def test_unusable_names_are_refused(name, split, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_split(name, split, None if name == "digits" else str(tmp_path))


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_npz_grey_images_get_a_channel_and_numbers_for_names(tmp_path):
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    path = write(tmp_path / "grey.npz", train_images=images, train_labels=np.array([1, 0]))
    arrays = load_split(path, "train")
    assert arrays.images.shape == (2, 4, 4, 1)
    assert arrays.class_names == ("0", "1")
    assert arrays.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((2, 4, 4, 3), np.float32), "train_labels": np.zeros(2, int)}, "uint8"),
        ({"train_images": np.zeros((2, 4, 4, 3), np.uint8), "train_labels": np.zeros(3, int)}, "labels must be int32\\[2\\]"),
        ({"train_images": np.zeros((2, 4, 4, 3), np.uint8), "train_labels": np.zeros(2)}, "integers"),
        ({"train_images": np.zeros((2, 4, 4, 3), np.uint8), "train_labels": np.array([0, -1])}, "got -1 at example 1"),
        (
            {
                "train_images": np.zeros((2, 4, 4, 3), np.uint8),
                "train_labels": np.array([0, 2]),
                "class_names": np.array(["a", "b"]),
            },
            "0..1, got 2 at example 1",
        ),
        ({"train_images": np.array([object()]), "train_labels": np.zeros(1, int)}, "plain arrays"),
    ],
)
def test_npz_that_cannot_be_trained_on_is_refused(arrays, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_split(write(tmp_path / "bad.npz", **arrays), "train")


def test_npz_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="plain arrays"):
        load_split(str(path), "train")


def test_preprocessing_in_numpy(digits):
    images = digits["train"].images[:5]
    scaled = images.astype(np.float64) / 255
    for normalize in ("unit", "per_channel", "per_pixel_mean"):
        preprocessing = fit_preprocessing(normalize, digits["train"], None)
        expected = scaled
        if normalize == "per_channel":
            everything = digits["train"].images / 255
            expected = (scaled - everything.mean()) / everything.std()
        elif normalize == "per_pixel_mean":
            expected = scaled - (digits["train"].images / 255).mean(axis=0)
        np.testing.assert_allclose(preprocessing(images), expected, atol=1e-6)
        again = Preprocessing.from_dict(preprocessing.to_dict())
        np.testing.assert_array_equal(again(images), preprocessing(images))


def test_resize_follows_pillow_when_it_enlarges(digits):
    from PIL import Image

    image = digits["train"].images[0]
    preprocessing = fit_preprocessing("unit", digits["train"], 24)
    ours = np.asarray(preprocessing(image[None]))[0, ..., 0] * 255
    theirs = np.asarray(Image.fromarray(image[..., 0]).resize((24, 24), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(ours - theirs).max() <= 1.0  # Pillow rounds to whole levels


def test_mean_image_at_another_size_is_the_mean_of_resized_images(digits):
    train = digits["train"]
    preprocessing = fit_preprocessing("per_pixel_mean", train, 12)
    resized = np.asarray(Preprocessing((12, 12), np.zeros(1), np.ones(1)).scale(train.images))
    np.testing.assert_allclose(preprocessing.mean, resized.mean(axis=0), atol=1e-5)
