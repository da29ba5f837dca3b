import jax
import jax.numpy as jnp
import numpy as np

from resflax.nn.whitening import WhiteningConv, whitening_kernel

# Neighbouring pixels alike, as in photographs, and a mean that is not zero.
NOISE = np.random.default_rng(0).normal(size=(50, 12, 11, 3))
IMAGES = (0.3 + NOISE + np.roll(NOISE, 1, axis=1) + 0.5 * np.roll(NOISE, 1, axis=2)).astype(np.float32)


def patches_in_numpy(images, size):
    height, width = images.shape[1] - size + 1, images.shape[2] - size + 1
    found = [images[:, top : top + size, left : left + size] for top in range(height) for left in range(width)]
    return np.stack(found, 1).reshape(-1, size * size * images.shape[-1]).astype(np.float64)


def test_patches_come_out_uncorrelated():
    epsilon = 0.01
    kernel = np.asarray(whitening_kernel(jnp.asarray(IMAGES), 2, epsilon))
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    patches = patches_in_numpy(IMAGES, 2)
    projected = patches @ kernel[..., :12].reshape(12, 12)
    eigenvalues = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert eigenvalues[-1] > 5 * eigenvalues[0]
    expected = np.diag(eigenvalues / (eigenvalues + epsilon))
    np.testing.assert_allclose(projected.T @ projected / len(projected), expected, atol=2e-4)


def test_the_layer_is_that_convolution_and_its_kernel_is_no_parameter():
    layer = WhiteningConv(kernel_size=2)
    variables = layer.init(jax.random.key(0), jnp.asarray(IMAGES))
    assert variables["params"].keys() == {"bias"}
    kernel = np.asarray(variables["batch_stats"]["kernel"])
    y, changed = layer.apply(variables, jnp.asarray(IMAGES[:4]), mutable=["batch_stats"])
    np.testing.assert_array_equal(changed["batch_stats"]["kernel"], kernel)
    bias = np.asarray(variables["params"]["bias"]) - 12**-0.5
    assert np.abs(bias).max() <= 12**-0.5
    expected = patches_in_numpy(IMAGES[:4], 2) @ kernel.reshape(12, 24) + bias
    np.testing.assert_allclose(np.asarray(y).reshape(-1, 24), expected, atol=1e-4)
