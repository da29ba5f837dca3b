"""Every family in a small form: what all of them must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflax
from resflax.errors import ConfigError
from resflax.models.heads import reset_head
from resflax.models.intermediates import intermediates
from resflax.nn import BatchNorm, stack_blocks, unstack_blocks
from resflax.tree import named_leaves

# A name of each kind; the networks of residual blocks are cut to two stages, of three and two blocks, and made thin.
THIN = {"counts": (3, 2), "width": 8}
KINDS = {
    "cifar_resnet20": {**THIN, "width": 16},  # option A cannot take channels away from its stem of 16
    "cifar_plain20": THIN,
    "cifar_preresnet110": {**THIN, "width": 16},
    "cifar_preresnet164": THIN,
    "cifar_wrn16_8": {**THIN, "dropout": 0.3},
    "cifar_sewrn16_8": {**THIN, "width": 32},  # thinner, a block has one hidden unit, which may be 0 for all images
    "cifar_resnext29_8x64d": THIN,
    "resnet18": {**THIN, "stochastic_depth": 0.5},
    "resnet50_v1": THIN,
    "seresnet50": {**THIN, "head_dropout": 0.25},
    "resnet50d": THIN,
    "resnext50_32x4d": {**THIN, "width": 16},
    "resnetrs50": THIN,
    "resnetv2_50": {**THIN, "stochastic_depth": 0.5},
    "resnetv2_50x1_bit": {**THIN, "width": 32},
    "keras_resnet50v2": {"counts": (3, 2)},
    "cifar_vgg11": {},
    "vgg11_bn": {"hidden": 16},
    "tutorial_cnn": {},
}
# The others compile for minutes altogether: `make test-long`.
QUICK = ("cifar_preresnet110",)
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in KINDS]
LOOPED = [name for name in KINDS if not any(family in name for family in ("vgg", "keras", "tutorial"))]


def make(name, **parts):
    return resflax.create_model(name, 7).clone(**{**KINDS[name], **parts})


def images(size=(32, 32), batch=4):
    return jax.random.normal(jax.random.key(0), (batch, *size, 3))


def initial(model, size=(32, 32)):
    """Variables in which nothing is special: neither zero scales nor fresh statistics."""
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images(size, 1))
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.05 * jnp.abs(jax.random.normal(key, leaf.shape)) for key, leaf in zip(keys, leaves, strict=True)]
    )


def value_and_gradient(model, variables, batch):
    def loss(params):
        logits, changed = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(3)}
        )
        return jnp.mean(logits**2), (changed.get("batch_stats", {}), logits)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize("name", EACH)
def test_forward_backward_precision_and_jit(name):
    model, batch = make(name), images()
    variables = initial(model)
    logits = model.apply(variables, batch, train=False)
    assert logits.shape == (4, 7)
    assert logits.dtype == jnp.float32
    scale = float(jnp.max(jnp.abs(logits)))
    np.testing.assert_allclose(
        jax.jit(functools.partial(model.apply, train=False))(variables, batch), logits, rtol=1e-4, atol=1e-5 * scale
    )
    rough = jax.jit(functools.partial(make(name, dtype=jnp.bfloat16).apply, train=False))(variables, batch)
    assert rough.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(rough - logits))) < 0.1 * scale
    (value, (_, _)), gradient = value_and_gradient(model, variables, batch)
    assert np.isfinite(value)
    for path, leaf in named_leaves(gradient).items():
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


@pytest.mark.parametrize("name", [name for name in KINDS if "vgg" not in name])
def test_odd_sizes(name):
    """37 x 45 halves to sizes that no stride divides."""
    model = make(name)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(1), images((37, 45)), train=False))
    assert jax.eval_shape(functools.partial(model.apply, train=False), shapes, images((37, 45))).shape == (4, 7)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["scan", "scan_remat"])
@pytest.mark.parametrize("name", LOOPED)
def test_layouts_agree(name, mode):
    """Loss, gradients and statistics to 1e-5, the same random draws included."""
    model, batch = make(name), images((16, 16))
    variables = initial(model, (16, 16))
    (value, (stats, logits)), gradient = value_and_gradient(model, variables, batch)
    stacked = {collection: stack_blocks(tree) for collection, tree in variables.items()}
    (looped, (looped_stats, looped_logits)), looped_gradient = value_and_gradient(make(name, repeat=mode), stacked, batch)
    assert float(looped) == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(looped_logits, logits, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(logits))))
    for ours, theirs in ((unstack_blocks(looped_stats), stats), (unstack_blocks(looped_gradient), gradient)):
        expected = named_leaves(theirs)
        largest = max((float(np.max(np.abs(leaf))) for leaf in expected.values()), default=0)
        for path, leaf in named_leaves(ours).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-5 * largest, err_msg=path)


def test_stochastic_depth_is_drawn_alike_in_a_loop_and_unrolled():
    parts = {"counts": (3,), "stochastic_depth": 0.9}
    model = resflax.create_model("cifar_preresnet110", 7).clone(**parts)
    variables, batch = initial(model, (8, 8)), images((8, 8), 16)
    stacked = {collection: stack_blocks(tree) for collection, tree in variables.items()}

    def forward(model, variables, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, batch, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    unrolled = forward(model, variables, 0)
    np.testing.assert_allclose(forward(model.clone(repeat="scan"), stacked, 0), unrolled, rtol=1e-4, atol=1e-5)
    assert not np.allclose(forward(model, variables, 1), unrolled, atol=1e-3)


@pytest.mark.parametrize("repeat", ["loop", pytest.param("scan", marks=pytest.mark.long)])
def test_intermediates(repeat):
    model, batch = make("resnet50d", repeat=repeat), images()
    variables = initial(model)
    names = ["stem_norm3", "stage1", "stage1/block3", "stage2/block1/conv2", "pre_logits"]
    logits, found = jax.jit(lambda v: intermediates(model, v, batch, names))(variables)
    np.testing.assert_allclose(logits, model.apply(variables, batch, train=False), rtol=1e-4, atol=1e-4)
    assert {name: value.shape for name, value in found.items()} == {
        "stem_norm3": (4, 16, 16, 64),
        "stage1": (4, 8, 8, 32),
        "stage1/block3": (4, 8, 8, 32),
        "stage2/block1/conv2": (4, 4, 4, 16),
        "pre_logits": (4, 64),
    }
    np.testing.assert_array_equal(found["stage1"], found["stage1/block3"])
    dense = variables["params"]["head"]["dense"]
    np.testing.assert_allclose(found["pre_logits"] @ dense["kernel"] + dense["bias"], logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="no part 'stage9'; did you mean stage"):
        intermediates(model, variables, batch, ["stage9"])


@pytest.mark.parametrize("name", KINDS)
def test_a_backbone_is_the_network_without_its_head(name):
    model = make(name)
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images(), train=False))
    bare = jax.eval_shape(lambda: make(name, num_classes=None).init(jax.random.key(0), images(), train=False))
    params = dict(abstract["params"])
    width = params.pop("head")["dense"]["kernel"].shape[0]
    assert jax.tree.structure(params) == jax.tree.structure(bare["params"])
    features = jax.eval_shape(functools.partial(make(name, num_classes=None).apply, train=False), bare, images())
    assert features.shape == (4, width)


def test_a_head_is_reset():
    model, batch = make("resnet18"), images()
    variables = initial(model)
    other, changed = reset_head(jax.random.key(5), model, variables, 3)
    assert other.apply(changed, batch, train=False).shape == (4, 3)
    assert (
        named_leaves(changed["params"])["stage1/block1/conv1/kernel"]
        is named_leaves(variables["params"])["stage1/block1/conv1/kernel"]
    )
    zero, zeroed = reset_head(jax.random.key(5), model, variables, 3, zeros=True)
    assert not np.any(zero.apply(zeroed, batch, train=False))
    backbone, bare = reset_head(jax.random.key(5), model, variables, None)
    features = backbone.apply(bare, batch, train=False)
    dense = changed["params"]["head"]["dense"]
    np.testing.assert_allclose(
        features @ dense["kernel"] + dense["bias"], other.apply(changed, batch, train=False), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ConfigError, match="must have a head"):
        reset_head(jax.random.key(5), backbone, bare, 3)


def test_normalisation_can_be_chosen():
    """The norm of `create_model` reaches every layer of a family, except where the family is defined by its own."""
    norm = functools.partial(BatchNorm, epsilon=10.0)
    for name in ("cifar_preresnet110", "seresnet50"):
        default, other = (resflax.create_model(name, 7, norm=n).clone(**KINDS[name]) for n in (None, norm))
        variables = initial(default, (16, 16))
        small = images((16, 16))
        logits = [model.apply(variables, small, train=False) for model in (default, other)]
        assert not np.allclose(*logits, atol=1e-2)
    bit = resflax.create_model("resnetv2_50x1_bit", 7, norm=norm)
    assert "batch_stats" not in jax.eval_shape(lambda: bit.init(jax.random.key(0), images(), train=False))
