import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resflax.build import open_trained
from resflax.viz.integrated_gradients import integrated_gradients
from tests import squares

COUNT = 20


class Square(nn.Module):
    """Two logits: the square of a weighted sum, and zero."""

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param("kernel", nn.initializers.ones, images.shape[1:])
        value = jnp.einsum("bhwc,hwc->b", images, kernel) ** 2
        return jnp.stack([value, jnp.zeros_like(value)], axis=-1)


def test_of_a_square_they_are_known_by_hand():
    # The gradient along the line is linear, 2 w (w.b + t w.(x - b)), and its mean w (w.x + w.b).
    rng = np.random.default_rng(0)
    x, b, w = rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(4, 4, 2)), rng.normal(size=(4, 4, 2))
    variables = {"params": {"kernel": jnp.asarray(w, jnp.float32)}}
    found = integrated_gradients(Square(), variables, jnp.asarray(x, jnp.float32), jnp.zeros(3, int), jnp.asarray(b))
    expected = (x - b) * w * ((x * w).sum(axis=(1, 2, 3)) + (b * w).sum())[:, None, None, None]
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-4)
    assert found.steps == 16


def test_what_cannot_add_up_is_reported_and_ends():
    found = integrated_gradients(
        Square(), {"params": {"kernel": jnp.ones((2, 2, 1))}}, jnp.ones((1, 2, 2, 1)), jnp.ones(1, int)
    )
    assert found.steps == 16  # the class's logit is the same everywhere: there is nothing to attribute
    assert float(found.gap[0]) == 0


def test_they_add_up_to_one_percent_and_lie_on_the_object(squares_run):
    trained = open_trained(squares_run)
    images, labels, corners = squares.draw(COUNT, seed=1)
    normalised = trained.pipeline.preprocessing(jnp.asarray(images))
    found = integrated_gradients(trained.model, trained.variables, normalised, jnp.asarray(labels))
    ends = [trained.model.apply(trained.variables, one, train=False) for one in (normalised, jnp.zeros_like(normalised))]
    difference = np.asarray(ends[0] - ends[1])[np.arange(COUNT), labels]
    np.testing.assert_allclose(np.asarray(found.values).sum(axis=(1, 2, 3)), difference, rtol=0.011)
    assert float(found.gap.max()) <= 0.01
    assert 16 <= found.steps <= 1024
    size = np.abs(np.asarray(found.values)).sum(axis=-1)
    boxes = [one[row : row + 8, column : column + 8].sum() for one, (row, column) in zip(size, corners, strict=True)]
    assert np.mean(boxes / size.sum(axis=(1, 2))) > 0.5  # the box is 6 % of the image
