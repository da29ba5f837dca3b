"""Crops and resizes against Pillow, an independent resize and an independent torchvision-like box; the random numbers."""

import math

import numpy as np
import pytest
from PIL import Image

from resflax.data.decode import decode
from resflax.data.geometry import ATTEMPTS, center_crop, random_box, random_resized_crop, stretch
from resflax.data.order import uniforms
from resflax.data.preprocess import Preprocessing

LARGEST = 1 - 2**-53  # of the uniforms


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def smooth(width, height):
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [128 + 100 * np.sin(x / (9 + 2 * c) + c) * np.cos(y / (11 - c)) for c in range(3)]
    return np.rint(np.stack(waves, axis=-1)).astype(np.uint8)


def triangle_weights(size, start, stop, out):
    """[out, size]: each output pixel's weights of the input pixels' centres; a triangle two output pixels wide."""
    scale = (stop - start) / out
    support = max(scale, 1.0)
    centres = start + (np.arange(out) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres[:, None]) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_in_numpy(pixels, box, width, height):
    left, top, right, bottom = box
    rows = triangle_weights(pixels.shape[0], top, bottom, height)
    columns = triangle_weights(pixels.shape[1], left, right, width)
    # Pillow rounds to whole levels, after each axis.
    return np.rint(np.tensordot(rows, np.tensordot(pixels.astype(float), columns, (1, 1)), 1).swapaxes(1, 2))


def levels_apart(image, expected):
    return np.abs(np.asarray(image).astype(float) - expected).max()


def central_box(width, height, ratio):
    side = min(width, height) * ratio
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


SIZES = [(97, 64), (64, 97), (80, 80), (31, 20), (400, 33)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("ratio", [1.0, 0.875])
@pytest.mark.parametrize("size", [16, 32, 75])
def test_center_crop_on_smooth_images(width, height, ratio, size):
    pixels = smooth(width, height)
    expected = resize_in_numpy(pixels, central_box(width, height, ratio), size, size)
    assert levels_apart(center_crop(Image.fromarray(pixels), size, ratio), expected) <= 1


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("new_width", "new_height"), [(16, 16), (90, 25), (25, 90), (97, 64)])
def test_stretch_on_smooth_images(width, height, new_width, new_height):
    pixels = smooth(width, height)
    expected = resize_in_numpy(pixels, (0, 0, width, height), new_width, new_height)
    assert levels_apart(stretch(Image.fromarray(pixels), new_height, new_width), expected) <= 1


def test_photographs(photographs):
    for image in photographs:
        pixels = np.asarray(image)
        assert pixels.shape == (427, 640, 3)
        whole = resize_in_numpy(pixels, (0, 0, 640, 427), 48, 32)
        assert levels_apart(stretch(image, 32, 48), whole) <= 1
        middle = resize_in_numpy(pixels, central_box(640, 427, 0.875), 64, 64)
        assert levels_apart(center_crop(image, 64, 0.875), middle) <= 1
        left, top, right, bottom = random_box(640, 427, uniforms(0, 0, 0, 4 * ATTEMPTS).tolist())
        part = resize_in_numpy(pixels[top:bottom, left:right], (0, 0, right - left, bottom - top), 64, 64)
        assert levels_apart(random_resized_crop(image, 64, uniforms(0, 0, 0, 4 * ATTEMPTS).tolist()), part) <= 1


def test_pillow_gives_the_same_directly(photographs):
    for photograph in photographs:
        image = photograph.crop((0, 0, 627, 427))  # 100 pixels on each side of the middle
        expected = image.crop((100, 0, 527, 427)).resize((60, 60), Image.Resampling.BILINEAR)
        # The outermost pixels see a little of the image beyond the square, which the cropped image has not.
        np.testing.assert_array_equal(np.asarray(center_crop(image, 60, 1.0))[1:-1, 1:-1], np.asarray(expected)[1:-1, 1:-1])
        expected = image.resize((50, 30), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(stretch(image, 30, 50), expected)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("size", "resized"), [(224, 256), (96, 96), (32, 40)])
def test_evaluation_sees_what_pillow_makes_in_two_steps(photographs, file_format, size, resized, tmp_path):
    """The usual recipe: the shorter side to `resized` with antialiasing, then the middle; within 2/255 on average."""
    for number, photograph in enumerate(photographs):
        path = tmp_path / f"{number}.{file_format.lower()}"
        photograph.save(path, file_format)
        image = Image.open(path).convert("RGB")
        width, height = round(resized * image.width / image.height), resized
        left, top = (width - size) // 2, (height - size) // 2
        reference = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        ours = center_crop(decode(path, 3), size, size / resized)
        assert np.abs(np.asarray(ours, float) - np.asarray(reference, float)).mean() <= 2


@pytest.mark.parametrize("size", [(24, 24), (64, 64), (100, 150)])
def test_a_resize_on_the_device_is_pillows(photographs, size):
    """What is held in memory is resized on the device; within 2/255 on average of Pillow's resize of the same image."""
    images = np.stack([np.asarray(photograph) for photograph in photographs])
    preprocessing = Preprocessing(size, np.zeros(3), np.ones(3))
    ours = 255 * np.asarray(preprocessing(images))
    for one, photograph in zip(ours, photographs, strict=True):
        reference = np.asarray(photograph.resize(size[::-1], Image.Resampling.BILINEAR), float)
        assert np.abs(one - reference).mean() <= 2


def test_what_fits_is_left_alone(photographs):
    image = photographs[0]
    assert stretch(image, 427, 640) is image
    square = image.crop((0, 0, 50, 50))
    np.testing.assert_array_equal(center_crop(square, 50, 1.0), square)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_images(size):
    image = Image.new("RGB", size, (10, 20, 30))
    draws = uniforms(0, 0, 0, 4 * ATTEMPTS).tolist()
    for square in (center_crop(image, 8, 1.0), center_crop(image, 8, 0.1), random_resized_crop(image, 8, draws)):
        np.testing.assert_array_equal(square, np.tile(np.uint8([10, 20, 30]), (8, 8, 1)))


def torchvisions_box(width, height, draws):
    """`RandomResizedCrop.get_params` of torchvision with its defaults; `draws` replaces its random numbers."""
    draws = iter(draws)

    def uniform(low, high):
        return low + (high - low) * next(draws)

    def randint(low, high):
        return low + math.floor((high - low) * next(draws))

    for _ in range(10):
        target_area = height * width * uniform(0.08, 1.0)
        log_aspect = uniform(np.log(3 / 4), np.log(4 / 3))
        across, down = next(draws), next(draws)
        aspect_ratio = np.exp(log_aspect)
        w = round(np.sqrt(target_area * aspect_ratio))
        h = round(np.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            draws = iter((down, across))
            i = randint(0, height - h + 1)
            j = randint(0, width - w + 1)
            return j, i, j + w, i + h
    in_ratio = float(width) / float(height)
    if in_ratio < 3 / 4:
        w = width
        h = round(w / (3 / 4))
    elif in_ratio > 4 / 3:
        h = height
        w = round(h * (4 / 3))
    else:
        w, h = width, height
    i, j = (height - h) // 2, (width - w) // 2
    return j, i, j + w, i + h


@pytest.mark.parametrize(
    ("width", "height"), [(640, 427), (427, 640), (224, 224), (33, 32), (500, 50), (50, 500), (7, 5), (2, 2), (1, 1)]
)
def test_boxes_are_torchvisions(width, height):
    for index in range(300):
        draws = uniforms(3, 1, index, 4 * ATTEMPTS).tolist()
        box = random_box(width, height, draws)
        assert box == torchvisions_box(width, height, draws)
        left, top, right, bottom = box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_extreme_draws_stay_inside():
    for width, height in ((640, 427), (427, 640), (64, 64), (3, 3)):
        for bits in range(16):
            first = [LARGEST if bits >> place & 1 else 0.0 for place in range(4)]
            left, top, right, bottom = random_box(width, height, first * ATTEMPTS)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_the_fallback_is_the_largest_allowed_part_in_the_middle():
    tall, wide = [LARGEST, 0.0, 0.5, 0.5] * ATTEMPTS, [LARGEST, LARGEST, 0.5, 0.5] * ATTEMPTS
    assert random_box(400, 100, tall) == (133, 0, 266, 100)  # 4:3 of the height
    assert random_box(100, 400, wide) == (0, 133, 100, 266)  # 3:4 of the width
    assert random_box(120, 100, tall) == (0, 0, 120, 100)  # an allowed shape: all of it


def test_a_part_is_drawn_again_until_it_fits():
    misfit, fits = [LARGEST, 0.0, 0.5, 0.5], [0.0, 0.5, 0.0, 0.0]
    side = round(math.sqrt(0.08 * 100 * 100))
    for attempts in range(ATTEMPTS):
        rest = (misfit * attempts + fits + misfit * ATTEMPTS)[: 4 * ATTEMPTS]
        assert random_box(100, 100, rest) == (0, 0, side, side)


def test_boxes_have_the_promised_areas_shapes_and_places():
    width, height, count = 1000, 1000, 20_000
    boxes = np.array([random_box(width, height, uniforms(0, 0, index, 4 * ATTEMPTS).tolist()) for index in range(count)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / (width * height), w / h
    assert 0.0795 < area.min() < 0.09  # rounding to whole pixels allows a little less than 8 %
    assert 0.95 < area.max() <= 1
    assert 0.745 < ratio.min() < 0.755
    assert 1.32 < ratio.max() < 1.343
    # Shapes are symmetric in the logarithm, places in the middle.
    assert abs(np.log(ratio).mean()) < 4.5 * np.log(ratio).std() / math.sqrt(count)
    for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        middle = (low + high) / 2 - 500
        assert abs(middle.mean()) < 4.5 * middle.std() / math.sqrt(count)
        assert low.min() == 0
        assert high.max() == 1000
    # Small parts always fit, so their areas keep the uniform density.
    counts, _ = np.histogram(area, bins=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert np.ptp(counts) < 4.5 * math.sqrt(2 * counts.mean())


def test_uniforms_lie_between_zero_and_one_and_are_uniform():
    draws = np.concatenate([uniforms(seed, epoch, index, 40) for seed in (0, 7) for epoch in range(5) for index in range(500)])
    count = len(draws)
    assert draws.dtype == np.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 1 / 2) < 4.5 * math.sqrt(1 / 12 / count)
    assert abs(draws.var() - 1 / 12) < 4.5 * math.sqrt(1 / 180 / count)
    counts, _ = np.histogram(draws, bins=64, range=(0, 1))
    assert np.abs(counts - count / 64).max() < 4.5 * math.sqrt(count / 64)


def test_uniforms_of_neighbours_are_independent():
    grid = np.array([[[uniforms(seed, epoch, index, 8) for index in range(40)] for epoch in range(20)] for seed in range(5)])
    grid -= 0.5
    for axis in range(4):  # seed, epoch, id, place
        ahead, behind = np.delete(grid, 0, axis), np.delete(grid, -1, axis)
        correlation = 12 * (ahead * behind).mean()
        assert abs(correlation) < 4.5 / math.sqrt(ahead.size)


def test_uniforms_differ_by_seed_epoch_and_example():
    draws = [uniforms(seed, epoch, index, 3) for seed in range(10) for epoch in range(10) for index in range(10)]
    assert len(np.unique(draws)) == 3000  # (1, 2, 3) and (3, 2, 1) as well: no symmetric mixture


def test_uniforms_are_a_prefix_of_longer_ones():
    np.testing.assert_array_equal(uniforms(1, 2, 3, 40)[:4], uniforms(1, 2, 3, 4))


def test_the_largest_arguments():
    draws = uniforms(2**32 - 1, 10**6, 2**31 - 1, 5)
    assert len(np.unique(draws)) == 5
    assert ((draws >= 0) & (draws < 1)).all()


def test_uniforms_never_change():
    # Records are replayed by their seed: these hold in every version and on every platform.
    assert uniforms(0, 0, 0, 3).tolist() == [0.8805592339205408, 0.41693241295204, 0.20867233982533073]
    assert uniforms(1, 2, 3, 2).tolist() == [0.16839079217553243, 0.4029385245446584]
