"""The teacher's part of the loss against NumPy, its gradient against finite differences, and both inside a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflax.training.distillation import Distillation, soft_target_loss
from resflax.training.losses import cross_entropy
from resflax.training.state import init_state
from resflax.training.steps import make_train_step
from tests.training.test_averaging import Network, assert_equal, host_batch, materialise


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def soft_numpy(logits, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(logits / temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 7)) * 3, rng.normal(size=(5, 7)) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_loss_and_gradient_in_numpy(temperature, logits):
    with jax.enable_x64(True):
        student, teacher = (jnp.asarray(one) for one in logits)
        np.testing.assert_allclose(
            soft_target_loss(student, teacher, temperature), soft_numpy(*logits, temperature), rtol=1e-10
        )
        found = jax.grad(lambda x: soft_target_loss(x, teacher, temperature).sum())(student)
    # Hinton et al. 2015, Eq. 2, times T^2.
    expected = temperature * (softmax(logits[0] / temperature) - softmax(logits[1] / temperature))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    for index in ((0, 0), (2, 3), (4, 6)):
        step = np.zeros_like(logits[0])
        step[index] = 1e-6
        slope = (
            soft_numpy(logits[0] + step, logits[1], temperature) - soft_numpy(logits[0] - step, logits[1], temperature)
        ) / 2e-6
        assert float(found[index]) == pytest.approx(slope.sum(), rel=1e-5)


def test_the_gradient_is_that_of_the_papers_cross_entropy(logits):
    student, teacher = (jnp.asarray(one, jnp.float32) for one in logits)

    def papers(x):
        return -9 * jnp.sum(jax.nn.softmax(teacher / 3) * jax.nn.log_softmax(x / 3))

    found = jax.grad(lambda x: soft_target_loss(x, teacher, 3.0).sum())(student)
    np.testing.assert_allclose(found, jax.grad(papers)(student), rtol=1e-4, atol=1e-6)


def test_a_student_that_says_the_same_has_no_loss(logits):
    teacher = jnp.asarray(logits[0], jnp.float32)
    np.testing.assert_allclose(soft_target_loss(teacher + 5.0, teacher, 2.0), 0, atol=1e-5)


def mix(key, batch):
    """Every image and its partner, half and half."""
    image, one_hot = batch["image"], jax.nn.one_hot(batch["label"], 3)
    return {**batch, "image": (image + image[::-1]) / 2, "target": (one_hot + one_hot[::-1]) / 2}


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_step_is_a_direct_computation_on_the_mixed_images(weight):
    model, optimizer = Network(), optax.sgd(0.1)
    student, teacher = (model.init(jax.random.key(seed), jnp.zeros((1, 4)), train=False) for seed in (0, 1))
    distill = Distillation(lambda variables, images: model.apply(variables, images, train=False), 2.0, weight)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, materialise, mix=mix, distill=distill))
    resident = {"seed": jnp.uint32(0), "teacher": teacher}
    state, report = step(init_state(student, optimizer, ema=False), host_batch(0), resident)
    batch = mix(None, materialise(host_batch(0), None))

    def loss(params):
        variables = {**student, "params": params}
        logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        soft = soft_target_loss(logits, model.apply(teacher, batch["image"], train=False), 2.0)
        return jnp.mean((1 - weight) * cross_entropy(logits, batch["target"]) + weight * soft)

    value, gradient = jax.value_and_grad(loss)(student["params"])
    assert float(report.loss) == pytest.approx(float(value), rel=1e-5)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, student["params"], gradient)
    assert_equal(state.params, expected, rtol=1e-4, atol=1e-6)
    # Another teacher needs no other program: its variables are an argument.
    other, compiled = {**resident, "teacher": jax.tree.map(lambda leaf: 2 * leaf, teacher)}, step._cache_size()
    assert float(step(init_state(student, optimizer, ema=False), host_batch(0), other)[1].loss) != float(report.loss)
    assert step._cache_size() == compiled == 1


def test_a_teacher_that_is_not_finite_changes_nothing():
    model, optimizer = Network(), optax.sgd(0.1)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False)
    distill = Distillation(lambda variables, images: model.apply(variables, images, train=False), 1.0, 0.5)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, materialise, distill=distill))
    resident = {"seed": jnp.uint32(0), "teacher": jax.tree.map(lambda leaf: leaf * jnp.nan, variables)}
    state = init_state(variables, optimizer, ema=False)
    after, report = step(state, host_batch(0), resident)
    assert not report.finite
    assert_equal(after, state, rtol=0)
