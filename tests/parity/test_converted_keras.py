"""The networks of `keras.applications` with random weights, saved by Keras and read here: logits of raw images."""

import functools

import jax
import numpy as np
import pytest

from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, DataError
from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.tree import digest, named_leaves
from resflax.weights.foreign import read_foreign
from resflax.weights.network import make_network

pytestmark = pytest.mark.parity

SIZE = 64
NETWORKS = {
    **{f"resnet{depth}_v1": (f"ResNet{depth}", "resnet") for depth in (50, 101, 152)},
    **{f"keras_resnet{depth}v2": (f"ResNet{depth}V2", "resnet_v2") for depth in (50, 101, 152)},
}
EACH = [pytest.param(name, marks=() if "50" in name else pytest.mark.long) for name in NETWORKS]


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("h5py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        yield pytest.importorskip("keras")


@pytest.fixture(scope="module", params=EACH)
def network(request, keras):
    """`(name, keras' network, its preprocess_input)`; no bias, scale or statistic is 0 or 1."""
    constructor, module = NETWORKS[request.param]
    model = getattr(keras.applications, constructor)(
        weights=None, classes=10, input_shape=(SIZE, SIZE, 3), classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if len(weights) == 4:
            spread = [rng.uniform(0.5, 1.5, array.shape) for array in weights]
            shift = [rng.normal(0, 0.2, array.shape) for array in weights]
            layer.set_weights([spread[0], shift[1], shift[2], spread[3]])
        elif len(weights) == 2:
            layer.set_weights([weights[0], rng.normal(0, 0.2, weights[1].shape)])
    return request.param, model, getattr(keras.applications, module).preprocess_input


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    _, model, _ = network
    folder = tmp_path_factory.mktemp("keras")
    model.save_weights(folder / "network.weights.h5")
    model.save(folder / "network.keras")
    model.save(folder / "network.h5")
    return folder


def test_logits_of_raw_images(network, files):
    name, model, preprocess = network
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    expected = np.asarray(model(preprocess(images.astype(np.float32)), training=False))
    variables, metadata = read_foreign(files / "network.weights.h5", "keras", name)
    assert metadata["num_classes"] == 10
    prepare = Preprocessing.from_dict(metadata["preprocessing"] | {"image_size": [SIZE, SIZE]})
    logits = jax.jit(functools.partial(make_network(metadata).apply, train=False))(variables, prepare(images))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_three_formats_hold_the_same(network, files):
    found = {
        digest(read_foreign(files / f"network{suffix}", "keras", network[0])[0]) for suffix in (".weights.h5", ".keras", ".h5")
    }
    assert len(found) == 1


def test_the_wrong_network_is_refused(network, files):
    with pytest.raises(ConfigError, match=r"must be a network of keras\.applications, got resnet50; ResNet50 is resnet50_v1"):
        read_foreign(files / "network.h5", "keras", "resnet50")
    other = next(name for name in NETWORKS if name[-2:] != network[0][-2:])
    with pytest.raises(DataError, match=f"as {other} must be the same network"):
        read_foreign(files / "network.h5", "keras", other)


def test_statistics_after_a_training_step(network, tmp_path):
    """Running means and variances of every layer after a batch in training mode, which Keras keeps with momentum 0.99."""
    name, model, _ = network
    images = np.random.default_rng(2).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)
    model.save_weights(tmp_path / "before.weights.h5")
    variables, _ = read_foreign(tmp_path / "before.weights.h5", "keras", name)
    model(images[..., ::-1] if name.endswith("v1") else images, training=True)  # version 1 takes BGR
    model.save_weights(tmp_path / "after.weights.h5")
    model.load_weights(tmp_path / "before.weights.h5")  # for whatever runs after this
    expected = named_leaves(read_foreign(tmp_path / "after.weights.h5", "keras", name)[0]["batch_stats"])
    norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1.001e-5)
    trained = create_model(name, 10, norm=norm)
    step = jax.jit(functools.partial(trained.apply, train=True, mutable=["batch_stats"]))
    found = named_leaves(step(variables, images)[1]["batch_stats"])
    assert found.keys() == expected.keys()
    before = named_leaves(variables["batch_stats"])
    for path, leaf in expected.items():
        change = np.abs(leaf - before[path]).max()
        assert change > 0
        np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=2e-3 * change, err_msg=path)
