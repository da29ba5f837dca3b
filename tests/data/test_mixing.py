"""Mixing against the papers' own arithmetic, in NumPy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resflax.build import build
from resflax.config import BatchNormConfig, EmaConfig, LossConfig, OptimConfig
from resflax.data.mixing import cutmix, make_mixing, mixup
from resflax.prng import stream_key
from tests import micro

CLASSES = 5
RULES = ("mixup:0.4", "cutmix:1.0")


def batch_of(rows=8, height=9, width=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(rows, height, width, 3)), dtype),
        "label": jnp.asarray(rng.integers(0, CLASSES, rows), jnp.int32),
        "mask": jnp.ones(rows, bool),
        "id": jnp.arange(rows),
    }


def expected(key, batch, rules=RULES, probability=1.0):
    """Zhang et al. 2018, Fig. 1, and `train.py` of Yun et al. 2019, row by row; only the draws are JAX's."""
    images, labels = np.asarray(batch["image"], np.float64), np.eye(CLASSES)[batch["label"]]
    rows, height, width, _ = images.shape
    for_coin, for_rule, for_share = jax.random.split(key, 3)
    name, alpha = rules[int(jax.random.randint(for_rule, (), 0, len(rules), jnp.int32))].split(":")
    for_area, for_row, for_column = jax.random.split(for_share, 3)
    lam = float(jax.random.beta(for_share if name == "mixup" else for_area, float(alpha), float(alpha), (), jnp.float32))
    mixed, targets = images.copy(), labels.copy()
    if float(jax.random.uniform(for_coin, (), jnp.float32)) >= probability:
        return mixed, targets, None
    for row in range(rows):
        other = row + 1 if row % 2 == 0 else row - 1
        if not (batch["mask"][row] and batch["mask"][other]):
            continue
        weight = lam
        if name == "mixup":
            mixed[row] = lam * images[row] + (1 - lam) * images[other]
        else:
            ratio = np.sqrt(np.float32(1) - np.float32(lam))
            high, wide = int(height * ratio), int(width * ratio)
            cy, cx = (int(jax.random.randint(k, (), 0, n, jnp.int32)) for k, n in ((for_row, height), (for_column, width)))
            top, bottom = np.clip([cy - high // 2, cy + high // 2], 0, height)
            left, right = np.clip([cx - wide // 2, cx + wide // 2], 0, width)
            mixed[row, top:bottom, left:right] = images[other, top:bottom, left:right]
            weight = 1 - (bottom - top) * (right - left) / (height * width)
        targets[row] = weight * labels[row] + (1 - weight) * labels[other]
    return mixed, targets, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mixing_is_that_of_the_papers(dtype):
    batch, mix = batch_of(dtype=dtype), jax.jit(make_mixing(RULES, 0.7, CLASSES))
    seen = []
    for number in range(40):
        key = jax.random.key(number)
        images, targets, name = expected(key, batch, probability=0.7)
        found = mix(key, batch)
        assert found["image"].dtype == dtype
        assert found["target"].dtype == jnp.float32
        np.testing.assert_allclose(found["image"].astype(np.float32), images, atol=1e-6 if dtype == jnp.float32 else 0.03)
        np.testing.assert_allclose(found["target"], targets, atol=1e-6)
        for unchanged in ("label", "mask", "id"):
            np.testing.assert_array_equal(found[unchanged], batch[unchanged])
        seen.append(name)
    assert {seen.count("mixup") > 5, seen.count("cutmix") > 5, seen.count(None) > 5} == {True}


def test_rows_under_the_mask_mix_with_nothing():
    batch = batch_of()
    mask = np.array([True, False, True, True, False, False, False, True])
    poisoned = jnp.where(mask[:, None, None, None], batch["image"], jnp.nan)
    batch |= {"mask": jnp.asarray(mask), "image": poisoned}
    for number in range(4):
        key = jax.random.key(number)
        images, targets, _ = expected(key, batch)
        found = jax.jit(make_mixing(RULES, 1.0, CLASSES))(key, batch)
        np.testing.assert_allclose(found["image"][mask], images[mask], atol=1e-6)
        np.testing.assert_allclose(found["target"][mask], targets[mask], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_have_the_distribution_of_the_papers(alpha):
    keys = jax.random.split(jax.random.key(0), 4000)
    shares = np.asarray(jax.vmap(lambda key: mixup(alpha)(key, 1, 1))(keys)).ravel()
    assert shares.min() >= 0
    assert shares.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4.5 * np.sqrt(variance / 4000)
    assert shares.var() == pytest.approx(variance, rel=0.08)


def test_a_box_may_be_anywhere_and_leave_the_image():
    keys = jax.random.split(jax.random.key(1), 2000)
    boxes = 1 - np.asarray(jax.vmap(lambda key: cutmix(1.0)(key, 8, 8))(keys))
    assert set(np.unique(boxes)) == {0.0, 1.0}
    often = boxes.mean(axis=0)
    assert 0.02 < often.min() == often[[0, 0, -1, -1], [0, -1, 0, -1]].min()  # in the corners
    np.testing.assert_allclose(often, often.T, atol=0.05)


def test_without_rules_nothing_is_added():
    batch = batch_of()
    assert make_mixing((), 1.0, CLASSES)(jax.random.key(0), batch) is batch


class Linear(nn.Module):
    """The least network there is: what is compared is the batch it sees."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(CLASSES)(images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return micro.write_npz(tmp_path_factory.mktemp("mixing"))


def chunk_of(path, devices=1, mix=RULES, accumulate=1, **loss):
    config = micro.config(path, loss=LossConfig(**loss), batch_norm=BatchNormConfig(), ema=EmaConfig())
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=32, mix=mix),
        optim=OptimConfig(accumulate=accumulate),
    )
    run = build(config, jax.devices()[:devices])
    run = dataclasses.replace(run, model=Linear(), optimizer=optax.sgd(0.1))
    state = run.initial_state()
    return state, run.compile_chunk(state)


def reports(*arguments, **options):
    state, chunk = chunk_of(*arguments, **options)
    return jax.device_get(chunk(state, 0, 8)[1])


def test_neither_devices_nor_parts_change_a_mixed_step(path):
    one = reports(path)
    for other in (reports(path, devices=8), reports(path, accumulate=2), reports(path, devices=8, accumulate=2)):
        np.testing.assert_allclose(other.loss, one.loss, rtol=1e-5)
        np.testing.assert_allclose(other.correct, one.correct, rtol=1e-5)
    assert np.abs(reports(path, mix=()).loss - one.loss).max() > 1e-2


def test_pairs_lie_on_one_device(path):
    text = chunk_of(path, devices=8)[1].compiled.as_text()
    found = re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)
    assert found == ["all-reduce"]


def test_the_loss_is_that_of_the_target(path):
    """The first step is one of the linear network, done again by hand."""
    config = micro.config(path)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=32))
    state, chunk = chunk_of(path, name="sigmoid", target_threshold=0.2)
    run = build(config, jax.devices()[:1])
    batch = run.train.materialise(run.train.training_batches()(0), run.train.resident)
    images, targets, _ = expected(jax.random.fold_in(stream_key(config.seed, "mixing"), 0), batch)
    dense = jax.device_get(state.params["Dense_0"])
    logits = images.reshape(32, -1) @ dense["kernel"] + dense["bias"]
    there = targets > 0.2
    losses = np.where(there, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))).mean()
    _, report = chunk(state, 0, 1)
    assert float(report.loss[0]) == pytest.approx(losses, rel=1e-5)
    weights = targets[np.arange(32), logits.argmax(axis=1)]
    assert float(report.correct[0]) == pytest.approx(weights.sum(), rel=1e-5)
