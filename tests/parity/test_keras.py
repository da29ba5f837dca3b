"""The tutorial networks, their initialisation and Adam against Keras 3."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.models.zoo import MODELS, create_model
from resflax.optim.optimizers import adam, make_optimizer
from resflax.training.losses import cross_entropy
from resflax.training.state import init_state
from resflax.training.steps import make_train_step
from resflax.tree import named_leaves, parameter_count

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

NETWORKS = ["tutorial_cnn", "tutorial_resnet"]
ORDER = ("kernel", "scale", "bias", "mean", "var")  # of a Keras layer's weights


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    # Not at the top: the default lane imports this module and deselects its tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        keras = pytest.importorskip("keras")
    assert keras.backend.backend() == "jax"
    return keras


@pytest.fixture
def x64(keras, monkeypatch):
    # Keras' own types of results stop at float32 on JAX: its BatchNormalization would compute in it whatever the policy.
    monkeypatch.setitem(sys.modules["keras.src.backend.common.dtypes"].BIT64_TO_BIT32_DTYPE, "float64", "float64")
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    jax.config.update("jax_enable_x64", False)


def tutorial_cnn(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, (3, 3), activation="relu", name="conv1"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu", name="conv2"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(10, name="head.dense"),
        ]
    )


def tutorial_resnet(keras):
    layers = keras.layers
    inputs = x = keras.Input((224, 224, 3))
    for index, width in enumerate((64, 128, 256, 512, 1024), start=1):
        if index > 1:
            x = layers.MaxPooling2D((3, 3), strides=2)(x)
        y = layers.Conv2D(width, (1, 1), use_bias=False, name=f"block{index}.conv1")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"block{index}.norm1")(y))
        y = layers.Conv2D(width, (3, 3), padding="same", use_bias=False, name=f"block{index}.conv2")(y)
        y = layers.ReLU()(layers.BatchNormalization(name=f"block{index}.norm2")(y))
        shortcut = layers.Conv2D(width, (1, 1), use_bias=False, name=f"block{index}.shortcut.conv")(x)
        shortcut = layers.BatchNormalization(name=f"block{index}.shortcut.norm")(shortcut)
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.AveragePooling2D((7, 7), strides=1)(x)
    return keras.Model(inputs, layers.Dense(1000, name="head.dense")(layers.Flatten()(x)))


def by_layer(variables):
    """`{"block1.norm1": {"scale": ..., "mean": ...}, ...}` from {"params": ..., "batch_stats": ...}."""
    layers = {}
    for path, leaf in named_leaves(variables).items():
        _, *modules, name = path.split("/")
        layers.setdefault(".".join(modules), {})[name] = leaf
    return layers


def keras_by_layer(network, variables):
    """`by_layer` of the Keras network's weights."""
    found = {}
    for layer, weights in by_layer(variables).items():
        names = [name for name in ORDER if name in weights]
        found[layer] = dict(zip(names, network.get_layer(layer).get_weights(), strict=True))
    return found


def pair(keras, name, dtype="float32"):
    """A network, variables none of which is 0 or 1 throughout, and Keras' network with the same."""
    model = create_model(name, MODELS[name].num_classes)
    images = jnp.zeros((1, *MODELS[name].input_shape))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    keras.utils.set_random_seed(0)
    network = {"tutorial_cnn": tutorial_cnn, "tutorial_resnet": tutorial_resnet}[name](keras)
    rng = np.random.default_rng(0)
    for layer, weights in keras_by_layer(network, abstract).items():
        for weight, array in weights.items():
            noise = rng.uniform(0.5, 1.5, array.shape)
            weights[weight] = {"kernel": array, "bias": 0.1 * (noise - 1), "mean": noise - 1}.get(weight, noise)
        network.get_layer(layer).set_weights(list(weights.values()))
    layers = keras_by_layer(network, abstract)

    def copy(path, leaf):
        modules, weight = ".".join(key.key for key in path[1:-1]), path[-1].key
        assert layers[modules][weight].shape == leaf.shape
        return jnp.asarray(layers[modules][weight], dtype)

    return model, jax.tree_util.tree_map_with_path(copy, abstract), network


def draw(name, batch_size, steps=1, dtype="float32"):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(steps, batch_size, *MODELS[name].input_shape)).astype(dtype)
    return images, rng.integers(0, MODELS[name].num_classes, (steps, batch_size))


def assert_close(found, expected, tolerance, name=""):
    """Within `tolerance` of the largest magnitude expected."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize(("name", "parameters"), [("tutorial_cnn", 42_442), ("tutorial_resnet", 64_152_552)])
def test_parameter_counts_and_logits(keras, name, parameters):
    model, variables, network = pair(keras, name)
    assert sum(weight.value.size for weight in network.trainable_weights) == parameters
    assert parameter_count(variables["params"]) == parameters
    (images,), _ = draw(name, 4)
    for train in (False, True):
        logits, _ = jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))(variables, images)
        assert_close(logits, network(images, training=train), 1e-5)


# Adam's first updates are close to the gradient's sign, so in float32 the rounding of small gradients decides many of them
# and correct implementations part: losses of tutorial_resnet by 1e-2 within twenty steps.
@pytest.mark.parametrize(("name", "batch_size"), [("tutorial_cnn", 32), ("tutorial_resnet", 2)])
def test_twenty_steps_of_adam(keras, x64, name, batch_size):
    model, variables, network = pair(keras, name, "float64")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(), loss=loss)
    optimizer = make_optimizer(adam(0.9, 0.999, 1e-7, "uncorrected"), lambda step: 1e-3)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, lambda batch, resident: batch))
    state = init_state(variables, optimizer, ema=False)
    for index, (images, labels) in enumerate(zip(*draw(name, batch_size, 20, "float64"), strict=True)):
        batch = {"id": np.arange(len(labels)), "image": images, "label": labels, "mask": np.ones(len(labels), bool)}
        state, metrics = step(state, batch, {"seed": np.uint32(0)})
        assert_close(metrics.loss, network.train_on_batch(images, labels), 1e-8, f"loss of step {index}")
        if index == 0:
            ours = {"params": state.params, "batch_stats": state.batch_stats}
            theirs = keras_by_layer(network, ours)
            for layer, weights in by_layer(ours).items():
                for weight, array in weights.items():
                    # Running statistics pass through float32.
                    tolerance = 1e-6 if weight in ("mean", "var") else 1e-9
                    assert_close(array, theirs[layer][weight], tolerance, f"{weight} of {layer}")


def test_initialisation_is_keras_glorot_uniform(keras):
    keras.utils.set_random_seed(0)
    variables = create_model("tutorial_cnn", 10).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    theirs = keras_by_layer(tutorial_cnn(keras), variables)
    for layer, weights in by_layer(variables).items():
        kernel, expected = weights["kernel"], theirs[layer]["kernel"]
        assert float(jnp.std(kernel)) == pytest.approx(np.std(expected), rel=0.03)
        assert float(jnp.max(jnp.abs(kernel))) == pytest.approx(np.max(np.abs(expected)), rel=0.01)  # no longer tails
        np.testing.assert_array_equal(weights["bias"], theirs[layer]["bias"])
