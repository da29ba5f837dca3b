import jax.numpy as jnp
import numpy as np
import pytest

from resflax.data.views import CROPS, average_over_views
from resflax.results.record import VIEWS

IMAGES = np.random.default_rng(0).normal(size=(3, 6, 5, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(6 * 5 * 2, 4)).astype(np.float32)


def network(images):
    return jnp.tanh(jnp.asarray(images).reshape(len(images), -1) @ WEIGHTS)


def listed(image, views):
    """Each view of an image with its weight."""
    both = [image, image[:, ::-1]]
    if views == "single":
        return [(1.0, image)]
    if views == "mirror":
        return [(0.5, one) for one in both]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "reflect")
    moved = [padded[:6, :5], padded[2:, 2:]]
    return [(0.25, one) for one in both] + [(0.125, form) for one in moved for form in (one, one[:, ::-1])]


@pytest.mark.parametrize("views", [views for views in VIEWS if views not in CROPS])
def test_the_mean_is_over_these_views(views):
    assert len(listed(IMAGES[0], views)) == VIEWS[views]
    expected = [sum(weight * np.asarray(network(view[None]))[0] for weight, view in listed(one, views)) for one in IMAGES]
    np.testing.assert_allclose(average_over_views(network, jnp.asarray(IMAGES), views), expected, rtol=1e-5, atol=1e-6)
