"""Optimizers that treat layers one by one: equal in both layouts of a network, and equal to a second implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resflax
from resflax.build import make_model, make_optimizer
from resflax.build.parts import initial_state
from resflax.config import Config, ModelConfig, OptimConfig, PrecisionConfig, validate
from resflax.data.preprocess import Preprocessing
from resflax.nn import stack_blocks, unstack_blocks
from resflax.optim.layerwise import clip_adaptively, is_hidden_kernel, newton_schulz, orthogonalized
from resflax.tree import named_leaves

NOTHING, IMAGES = Preprocessing((8, 8), np.zeros(3), np.ones(3)), np.zeros((1, 8, 8, 3), np.uint8)
OPTIMIZERS = {
    "sgd": OptimConfig(weight_decay=1e-3, decay_mask="kernels", nesterov=True, clip_norm=1.0),
    "lars": OptimConfig("lars", 2.0, trust_coefficient=0.02, weight_decay=1e-3, decay_mask="kernels", nesterov=True),
    "lamb": OptimConfig("lamb", 0.02, epsilon=1e-6, weight_decay=0.02, decay="decoupled", decay_mask="kernels", clip_norm=1.0),
    "muon": OptimConfig("muon", 0.05, sgd_learning_rate=0.1, weight_decay=1e-2, decay="decoupled", nesterov=True),
    "muon, norms kept": OptimConfig("muon", 0.05, sgd_learning_rate=0.1, fixed_norm=True),
    "lamb, slow weights": OptimConfig("lamb", 0.02, lookahead_steps=3),
    "adaptive clipping": OptimConfig(clip_adaptive=0.01),
    "adam": OptimConfig("adam", 1e-3, weight_decay=1e-3),
}


@pytest.fixture(scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def config(repeat="loop", optim=OPTIMIZERS["sgd"]):
    model = ModelConfig("cifar_resnet20", {"width": 4, "repeat": repeat})
    return validate(Config(total_steps=10, model=model, optim=optim, precision=PrecisionConfig("float64")))


def schedule(step):
    return 1.0 / (1 + step)  # the rate changes, so that where it enters counts


@functools.cache
def gradients(repeat):
    """Variables before the first step, and `(params, batch_stats, images, labels) -> gradient, batch_stats`."""
    model = make_model(config(repeat), 4)

    def loss(params, batch_stats, images, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed["batch_stats"]

    state = jax.jit(
        lambda: initial_state(config("loop"), make_model(config("loop"), 4), optax.identity(), NOTHING, 0, IMAGES)
    )()
    convert = stack_blocks if repeat == "scan" else lambda tree: tree
    return convert(state.params), convert(state.batch_stats), jax.jit(jax.grad(loss, has_aux=True))


def train(repeat, name):
    """Parameters after ten steps on images that differ from step to step."""
    optim = OPTIMIZERS[name]
    optimizer = make_optimizer(config(repeat, optim), lambda step: optim.learning_rate * schedule(step))
    params, batch_stats, gradient = gradients(repeat)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for _ in range(10):
        images, labels = rng.normal(size=(4, 8, 8, 3)), rng.integers(0, 4, 4)
        found, batch_stats = gradient(params, batch_stats, images, labels)
        updates, state = update(found, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_are_the_same_in_a_loop_and_a_scan(name, x64):
    loop, scan = train("loop", name), train("scan", name)
    assert named_leaves(scan)["stage1/blocks/conv1/kernel"].shape == (2, 3, 3, 4, 4)
    before, expected = named_leaves(gradients("loop")[0]), named_leaves(loop)
    found = named_leaves(unstack_blocks(scan))
    assert found.keys() == expected.keys()
    for leaf in expected:
        assert not np.array_equal(expected[leaf], before[leaf]), leaf  # all of them are trained
        np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-10, atol=1e-10, err_msg=leaf)


SHAPES = {
    "stem_conv/kernel": (3, 3, 3, 4),
    "stem_norm/scale": (4,),
    "stage1/block1/conv1/kernel": (3, 3, 4, 4),
    "stage1/block1/shortcut/conv/kernel": (1, 1, 2, 8),  # wider than high
    "stage1/block1/norm1/bias": (4,),
    **{f"stage1/block{index}/conv1/kernel": (3, 3, 4, 4) for index in (2, 3)},
    **{f"stage1/block{index}/conv1/bias": (4,) for index in (2, 3)},
    **{f"stage1/block{index}/squeeze_excite/expand/kernel": (1, 4) for index in (2, 3)},
    "head/dense/kernel": (4, 5),
    "head/dense/bias": (5,),
}
HIDDEN = {name for name in SHAPES if name.endswith("kernel") and not name.startswith(("stem", "head"))}


def nested(leaves):
    tree = {}
    for name, leaf in leaves.items():
        *path, last = name.split("/")
        functools.reduce(lambda node, part: node.setdefault(part, {}), path, tree)[last] = jnp.asarray(leaf)
    return tree


def random_leaves(seed):
    """Arrays whose sizes differ by orders of magnitude from layer to layer."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) * 10.0 ** rng.integers(-3, 2) for name, shape in SHAPES.items()}


def run(optimizer, steps=4):
    """Unrolled parameters after some steps of an optimizer that sees them stacked."""
    params = stack_blocks(nested(random_leaves(0)))
    assert params["stage1"]["blocks"]["conv1"]["kernel"].shape == (2, 3, 3, 4, 4)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(stack_blocks(nested(random_leaves(1 + step))), state, params)
        params = optax.apply_updates(params, updates)
    return named_leaves(unstack_blocks(params))


def run_numpy(update, steps=4):
    """The same; `update(name, gradient, w, memory, step)` returns what is subtracted and may keep things in `memory`."""
    params = random_leaves(0)
    memory = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    for step in range(steps):
        gradient = random_leaves(1 + step)
        params = {name: w - update(name, gradient[name], w, memory, step) for name, w in params.items()}
    return params


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_in_numpy(nesterov, x64):
    optim = OptimConfig("lars", 3.0, trust_coefficient=0.01, weight_decay=0.1, decay_mask="kernels", nesterov=nesterov)

    def update(name, gradient, w, velocity, step):
        ratio = 1.0
        if name.endswith("kernel"):
            gradient = gradient + 0.1 * w
            ratio = 0.01 * np.sqrt((w**2).sum()) / np.sqrt((gradient**2).sum())
        scaled = 3.0 * schedule(step) * ratio * gradient
        velocity[name] = 0.9 * velocity[name] + scaled
        return scaled + 0.9 * velocity[name] if nesterov else velocity[name]

    assert_equal(run(make_optimizer(config(optim=optim), lambda step: 3.0 * schedule(step))), run_numpy(update))


def test_lars_is_that_of_optax_on_an_unrolled_network(x64):
    optim = OptimConfig("lars", 1.0, weight_decay=0.1, decay_mask="kernels", nesterov=True)
    kernels = functools.partial(jax.tree_util.tree_map_with_path, lambda path, _: path[-1].key == "kernel")
    theirs = optax.lars(schedule, 0.1, kernels, 0.001, trust_ratio_mask=kernels, momentum=0.9, nesterov=True)
    params = nested(random_leaves(0))
    state = theirs.init(params)
    for step in range(4):
        updates, state = theirs.update(nested(random_leaves(1 + step)), state, params)
        params = optax.apply_updates(params, updates)
    assert_equal(run(make_optimizer(config(optim=optim), schedule)), named_leaves(params))


def test_a_layer_of_zeros_has_the_ratio_one(x64):
    """The last scale of a residual branch often starts at zero; a kernel may, too."""
    params = {"conv": {"kernel": jnp.zeros((2, 3))}}
    gradient = {"conv": {"kernel": jnp.ones((2, 3))}}
    optimizer = make_optimizer(config(optim=OptimConfig("lars")), lambda step: 0.5)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["conv"]["kernel"], -0.5)


def test_lamb_in_numpy(x64):
    """You et al. 2020, Algorithm 2, with the ratio of kernels alone."""
    optim = OptimConfig("lamb", 0.3, beta1=0.8, epsilon=1e-6, weight_decay=0.1, decay="decoupled", decay_mask="kernels")
    second = {}

    def update(name, gradient, w, first, step):
        first[name] = 0.8 * first[name] + 0.2 * gradient
        second[name] = 0.999 * second.get(name, 0) + 0.001 * gradient**2
        m, v = first[name] / (1 - 0.8 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
        direction, ratio = m / (np.sqrt(v) + 1e-6), 1.0
        if name.endswith("kernel"):
            direction = direction + 0.1 * w
            ratio = np.sqrt((w**2).sum()) / np.sqrt((direction**2).sum())
        return 0.3 * schedule(step) * ratio * direction

    assert_equal(run(make_optimizer(config(optim=optim), lambda step: 0.3 * schedule(step)), 10), run_numpy(update, 10))


def test_ten_steps_of_lamb_are_those_of_optax_on_unrolled_kernels(x64):
    """optax gives all parameters a ratio and so cannot have the others."""
    optim = OptimConfig("lamb", 1.0, epsilon=1e-6, weight_decay=0.1, decay="decoupled", decay_mask="kernels")

    def kernels(leaves):
        return nested({name: leaf for name, leaf in leaves.items() if name.endswith("kernel")})

    theirs, params = optax.lamb(schedule, eps=1e-6, weight_decay=0.1), kernels(random_leaves(0))
    state = theirs.init(params)
    for step in range(10):
        updates, state = theirs.update(kernels(random_leaves(1 + step)), state, params)
        params = optax.apply_updates(params, updates)
    found = run(make_optimizer(config(optim=optim), schedule), 10)
    assert_equal({name: leaf for name, leaf in found.items() if name.endswith("kernel")}, named_leaves(params))


def clip_numpy(name, gradient, w, limit):
    if name.startswith("head"):
        return gradient
    axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else None
    norm, gradient_norm = (np.sqrt((leaf**2).sum(axes)) for leaf in (w, gradient))
    return gradient * np.minimum(1, limit * np.maximum(norm, 1e-3) / gradient_norm)


def test_adaptive_clipping_in_numpy(x64):
    optim = OptimConfig(clip_adaptive=0.3, momentum=0.0)

    def update(name, gradient, w, _, step):
        return clip_numpy(name, gradient, w, 0.3) * schedule(step)

    assert_equal(run(make_optimizer(config(optim=optim), schedule)), run_numpy(update))
    gradient, params = random_leaves(1), random_leaves(0)
    untouched = {name for name in SHAPES if np.array_equal(clip_numpy(name, gradient[name], params[name], 0.3), gradient[name])}
    assert {"head/dense/kernel", "head/dense/bias"} < untouched < SHAPES.keys()  # both cases occur


def test_adaptive_clipping_is_that_of_optax_on_an_unrolled_network(x64):
    gradient, params = nested(random_leaves(1)), nested(random_leaves(0))
    theirs, _ = optax.adaptive_grad_clip(0.3).update(gradient, optax.EmptyState(), params)
    stacked = stack_blocks(gradient), optax.EmptyState(), stack_blocks(params)
    ours = named_leaves(unstack_blocks(clip_adaptively(0.3).update(*stacked)[0]))
    for name, leaf in named_leaves(theirs).items():
        # optax clips the classifier too, and takes a kernel of one input for a vector.
        if not name.startswith("head") and "expand" not in name:
            np.testing.assert_allclose(ours[name], leaf, rtol=1e-12, err_msg=name)


def orthogonal_numpy(gradient, steps=5):
    """The polynomial acts on the singular values alone."""
    matrix = gradient.reshape(-1, gradient.shape[-1])
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.sqrt((values**2).sum()) + 1e-7)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    scale = max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5
    return scale * ((left * values) @ right).reshape(gradient.shape)


def test_muon_in_numpy(x64):
    optim = OptimConfig("muon", 0.1, sgd_learning_rate=0.4, weight_decay=0.1, decay="decoupled", nesterov=True)

    def update(name, gradient, w, velocity, step):
        velocity[name] = 0.9 * velocity[name] + gradient
        direction = gradient + 0.9 * velocity[name]
        rate = 0.4
        if name in HIDDEN:
            direction, rate = orthogonal_numpy(direction), 0.1
        return rate * schedule(step) * (direction + 0.1 * w)

    assert_equal(run(make_optimizer(config(optim=optim), lambda step: 0.1 * schedule(step))), run_numpy(update))


def test_muon_is_that_of_optax_where_there_is_no_momentum(x64):
    """With momentum optax corrects a bias that Jordan's has not."""
    gradient = random_leaves(1)["stage1/block1/conv1/kernel"]
    dimensions = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    theirs = optax.contrib.scale_by_muon(beta=0.0, nesterov=False, eps=1e-7, weight_dimension_numbers={"kernel": dimensions})
    expected, _ = theirs.update({"kernel": jnp.asarray(gradient)}, theirs.init({"kernel": jnp.asarray(gradient)}))
    tree = {"conv2": {"kernel": jnp.asarray(gradient)}}
    found, _ = orthogonalized().update(tree, optax.EmptyState(), tree)
    np.testing.assert_allclose(found["conv2"]["kernel"], expected["kernel"], rtol=1e-9)


@pytest.mark.parametrize("shape", [(36, 8), (8, 36), (5, 5)])
def test_newton_schulz_brings_singular_values_near_one(shape):
    values = np.linalg.svd(newton_schulz(jnp.asarray(np.random.default_rng(0).normal(size=shape))), compute_uv=False)
    assert np.all((values > 0.65) & (values < 1.25))


@pytest.mark.parametrize("stem", ["stem_conv", "stem_conv1", "conv1"])
def test_the_first_convolution_is_left_to_sgd(stem):
    kernel = jnp.ones((3, 3, 2, 2))
    tree = {stem: {"kernel": kernel}, "stem_conv2": {"kernel": kernel}, "stage1": {"block1": {"conv1": {"kernel": kernel}}}}
    found = named_leaves(orthogonalized().update(tree, optax.EmptyState(), tree)[0])
    assert {name for name, leaf in found.items() if not np.array_equal(leaf, kernel)} == {
        "stem_conv2/kernel",
        "stage1/block1/conv1/kernel",
    }


@pytest.mark.parametrize(
    ("model", "first"),
    [("cifar_wrn16_8", "stem_conv"), ("cifar_vgg11", "conv1"), ("resnet50d", "stem_conv1"), ("resnetv2_50", "stem_conv")],
)
def test_muon_takes_all_kernels_of_a_family_but_two(model, first):
    network = resflax.create_model(model, 10)
    init = functools.partial(network.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    kernels = {name for name in named_leaves(params) if name.endswith("/kernel")}
    left = {name for name in kernels if not is_hidden_kernel(tuple(name.split("/")))}
    assert left == {f"{first}/kernel", "head/dense/kernel"}


def test_norms_are_kept_before_each_update(x64):
    """airbench94_muon: `p *= sqrt(len(p)) / norm(p)`, then the orthogonal update."""
    optim = OptimConfig("muon", 0.2, sgd_learning_rate=0.3, momentum=0.6, nesterov=True, fixed_norm=True)

    def update(name, gradient, w, velocity, step):
        velocity[name] = 0.6 * velocity[name] + gradient
        direction = gradient + 0.6 * velocity[name]
        if name not in HIDDEN:
            return 0.3 * schedule(step) * direction
        matrix = direction.reshape(-1, direction.shape[-1])
        turned = np.asarray(newton_schulz(jnp.asarray(matrix))).reshape(w.shape) * max(1, w.shape[-1] / len(matrix)) ** 0.5
        return w - w * np.sqrt(w.shape[-1]) / np.linalg.norm(w) + 0.2 * schedule(step) * turned

    assert_equal(run(make_optimizer(config(optim=optim), lambda step: 0.2 * schedule(step))), run_numpy(update))
