import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.data.preprocess import fit_preprocessing


def test_statistics_of_more_pixels_than_are_counted_at_once():
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (5, 131, 177, 3)) // (1, 2, 3)).astype(np.uint8)  # 115,935 pixels
    found = fit_preprocessing("per_channel", ImageArrays(images, np.zeros(5, np.int32), ("one",)), None)
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-9)
