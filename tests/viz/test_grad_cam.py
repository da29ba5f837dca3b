import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflax
from resflax.build import open_trained
from resflax.errors import ConfigError
from resflax.models.intermediates import intermediates, stages
from resflax.viz.grad_cam import grad_cam, upsample
from tests import squares

CLASSES = jnp.array([3, 0])


def network(name, size=32, **parts):
    """A small network of a family, its variables with nothing special about them, and two images."""
    model = resflax.create_model(name, 5).clone(**parts)
    images = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(1), images, train=False))()
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) ** 2 for key, leaf in zip(keys, leaves, strict=True)]
    return model, jax.tree.unflatten(structure, moved), images


THIN = {"counts": (1, 3), "width": 8}
POOLED = {
    "cifar_plain20": (THIN, "stage2"),
    "cifar_resnet20": ({**THIN, "width": 16, "repeat": "scan"}, "stage2"),
    "cifar_preresnet164": ({**THIN, "repeat": "scan"}, "final_relu"),
    "cifar_vgg11": ({"counts": (1, 1)}, "relu2"),
    "resnetv2_50x1_bit": ({**THIN, "width": 32}, "final_relu"),
    "resnet50t": (THIN, "stage2"),
}


@pytest.mark.parametrize("name", POOLED)
def test_the_last_stage_is_the_one_that_is_pooled(name):
    parts, last = POOLED[name]
    model, images = resflax.create_model(name, 5).clone(**parts), jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    assert [*stages(model, variables, images)][-1] == last


@pytest.mark.long
@pytest.mark.parametrize("name", POOLED)
def test_where_the_mean_of_the_last_stage_meets_a_dense_layer_it_is_the_class_activation_map(name):
    # Selvaraju et al. 2017, Sec. 3.1: alpha is then the dense layer's weight over the number of pixels (Zhou et al. 2016).
    parts, last = POOLED[name]
    model, variables, images = network(name, **parts)
    _, found = jax.jit(lambda v: intermediates(model, v, images, [last, "pre_logits"]))(variables)
    activation = np.asarray(found[last])
    if "vgg" not in name:  # which pools by its maxima first
        np.testing.assert_allclose(activation.mean(axis=(1, 2)), found["pre_logits"], rtol=1e-4, atol=1e-5)
        kernel = np.asarray(variables["params"]["head"]["dense"]["kernel"])[:, np.asarray(CLASSES)]
        expected = np.maximum(np.einsum("bhwk,kb->bhw", activation, kernel), 0) / activation[0, :, :, 0].size
        np.testing.assert_allclose(grad_cam(model, variables, images, CLASSES), expected, rtol=1e-3, atol=1e-5)
    else:
        assert grad_cam(model, variables, images, CLASSES).shape == activation.shape[:3]


def tail(activation, kernel, bias):
    """What the tutorial's network makes of the output of its last ReLU: 2x2 maxima, flattened, a dense layer."""
    side = activation.shape[0] // 2 * 2
    tiles = activation[:side, :side].reshape(side // 2, 2, side // 2, 2, -1)
    return tiles.max(axis=(1, 3)).reshape(-1) @ kernel + bias


def test_it_is_what_finite_differences_make_of_its_definition():
    model, variables, images = network("tutorial_cnn", size=14)
    _, found = intermediates(model, variables, images, ["relu2"])
    dense = {name: np.asarray(leaf, np.float64) for name, leaf in variables["params"]["head"]["dense"].items()}
    for image, wanted in enumerate(CLASSES.tolist()):
        activation = np.asarray(found["relu2"][image], np.float64)
        gradient = np.zeros_like(activation)
        for index in np.ndindex(*activation.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = activation.copy()
                moved[index] += step
                ends.append(tail(moved, **dense)[wanted])
            gradient[index] = (ends[0] - ends[1]) / 2e-6
        expected = np.maximum((activation * gradient.mean(axis=(0, 1))).sum(axis=-1), 0)
        assert expected.max() > 1e-3
        made = grad_cam(model, variables, images, CLASSES)[image]
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_a_block_inside_of_a_loop_can_be_asked_too():
    model, variables, images = network("cifar_resnet20", **{**THIN, "width": 16, "repeat": "scan"})
    looped = grad_cam(model, variables, images, CLASSES, "stage2/block3")
    np.testing.assert_allclose(looped, grad_cam(model, variables, images, CLASSES, "stage2"), rtol=1e-3, atol=1e-6)
    with pytest.raises(ConfigError, match="needs a part whose output has height and width, got head"):
        grad_cam(model, variables, images, CLASSES, "head")
    with pytest.raises(ConfigError, match="no part 'stage7'"):
        grad_cam(model, variables, images, CLASSES, "stage7")


def test_it_lies_on_the_object(squares_run):
    """Of objects of a quarter of the image, which a map of cells of 1/16 of its side can tell from what is around them."""
    trained = open_trained(squares_run)
    size, side = 2 * squares.SIZE, 4 * squares.SIDE
    images, labels, corners = squares.draw(60, seed=1, size=size, side=side)
    normalise = dataclasses.replace(trained.pipeline.preprocessing, image_size=(size, size))
    maps = grad_cam(trained.model, trained.variables, normalise(jnp.asarray(images)), jnp.asarray(labels))
    assert maps.shape == (60, size // 4, size // 4)
    inside = [
        one[row : row + side, column : column + side].sum() / one.sum()
        for one, (row, column) in zip(np.asarray(upsample(maps, size, size)), corners, strict=True)
    ]
    assert np.mean(inside) >= 0.8
