"""Crops at a random scale: those of the image resized by Pillow as a whole, cut by slicing."""

import io

import numpy as np
import pytest
from PIL import Image

from resflax.data.geometry import scale_jitter_box
from resflax.data.order import uniforms
from resflax.data.parts import part_of
from resflax.data.reading import scale_jitter_reader

SIZE, SCALES = 48, (56, 100)


def in_two_steps(image, draws):
    """Resizes the whole image and cuts the square out of it; uint8[48, 48, 3]."""
    shorter = SCALES[0] + int(draws[0] * (SCALES[1] - SCALES[0] + 1))
    w, h = (round(side * shorter / min(image.size)) for side in image.size)
    left, top = int(draws[1] * (w - SIZE + 1)), int(draws[2] * (h - SIZE + 1))
    return np.asarray(image.resize((w, h), Image.Resampling.BILINEAR))[top : top + SIZE, left : left + SIZE]


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


class Files:
    """A source of two files."""

    channels = 3

    def __init__(self, images, format):
        self.files = []
        for image in images:
            content = io.BytesIO()
            image.save(content, format, quality=95)
            self.files.append(content.getvalue())

    def file(self, index):
        return io.BytesIO(self.files[index])

    def name(self, index):
        return f"example {index}"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_near_the_crop_of_the_resized_image(photographs, format):
    files = Files(photographs, format)
    read = scale_jitter_reader(files, SIZE, SCALES, seed=7)
    for index in (0, 1):
        with Image.open(files.file(index)) as image:
            for epoch in range(6):
                part = read(epoch, index)
                assert (part.shape, part.dtype) == ((SIZE, SIZE, 3), np.uint8)
                inside = (slice(1, -1),) * 2  # at its edge the filter sees the part alone, not the whole image
                expected = in_two_steps(image, uniforms(7, epoch, index, 3))[inside].astype(float)
                assert np.abs(part[inside] - expected).mean() < 2
                np.testing.assert_array_equal(part, read(epoch, index))
        assert (read(0, index) != read(1, index)).any()


def test_each_scale_and_place_is_drawn_and_lies_inside():
    boxes = np.array([scale_jitter_box(500, 375, 224, (256, 258), uniforms(0, 0, index, 3)) for index in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() == top.min() == 0
    assert (right.max(), bottom.max()) == (500, 375)
    scale, counts = np.unique(np.round(224 * 375 / (bottom - top)).astype(int), return_counts=True)
    assert scale.tolist() == [256, 257, 258]
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(3000 * 2 / 9)
    columns = left * np.round(500 * np.round(224 * 375 / (bottom - top)) / 375) / 500
    np.testing.assert_allclose(columns, np.round(columns), atol=1e-6)  # whole pixels of the resized image
    assert len(np.unique(np.round(columns))) > 110  # of about 118 places


def test_an_image_below_the_scale_is_enlarged():
    content = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(content, "PNG")
    content.seek(0)
    part = part_of(content, 3, SIZE, lambda width, height: scale_jitter_box(width, height, SIZE, SCALES, (0.9, 0.99, 0.99)))
    np.testing.assert_array_equal(part, np.full((SIZE, SIZE, 3), 90))
