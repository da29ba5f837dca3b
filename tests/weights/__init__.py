"""Networks whose every weight matters: scales, means and variances that are not what they start as."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from resflax.data.preprocess import Preprocessing
from resflax.weights.network import make_network


def random_network(name, size, num_classes=10, seed=0, **kwargs):
    """`(model, variables, metadata)` as `load_weights` gives them, for RGB images of `size` x `size`."""
    preprocessing = Preprocessing((size, size), np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25]))
    metadata = {
        "format": 1,
        "model": name,
        "num_classes": num_classes,
        "kwargs": kwargs,
        "class_names": [f"class {index}" for index in range(num_classes)] if num_classes else None,
        "preprocessing": preprocessing.to_dict(),
        "source": "drawn at random",
    }
    model = make_network(metadata)
    images = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)

    return model, random_variables(shapes, seed), metadata


def random_variables(shapes, seed=0):
    """Arrays for a tree of shapes; activations keep their size from layer to layer."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        width = 0.1 if kind in ("bias", "mean") else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (width * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def forward(model, variables, metadata):
    """uint8[B, H, W, C] -> float32[B, outputs], by the network itself."""
    preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
    return jax.jit(lambda images: model.apply(variables, preprocessing(images), train=False))


def random_images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
