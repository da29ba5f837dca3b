import numpy as np
import pytest

from resflax.data.arrays import ImageArrays
from resflax.data.preprocess import fit_preprocessing


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_of_more_pixels_than_are_counted_at_once(channels, monkeypatch):
    monkeypatch.setattr("resflax.data.preprocess._PIECE", 20_000)
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (5, 131, 177, channels)) // np.arange(1, channels + 1)).astype(np.uint8)  # 115,935 pixels
    found = fit_preprocessing("per_channel", ImageArrays(images, np.zeros(5, np.int32), ("one",)), None)
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2), dtype=np.float64) / 255, rtol=1e-9)
