"""What holds for every evaluation, whatever the network: who is counted, and what has no influence."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.build import build, make_evaluate
from resflax.config import BatchNormConfig, EmaConfig
from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import HostPipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import Gather
from resflax.errors import DataError
from resflax.training.metrics import evaluate_logits
from resflax.training.sharding import make_mesh
from resflax.tree import digest, named_leaves
from tests import micro
from tests.weights import random_variables

PLAIN = Preprocessing((1, 1), np.zeros(1), np.ones(1))


class Pixels(nn.Module):
    """The channels of an image of one pixel are its logits."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        return (images[:, 0, 0, :] * 255).astype(self.dtype)


def arrays_of(count, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 1, classes), np.uint8)
    return ImageArrays(images, rng.integers(0, classes, count).astype(np.int32), tuple(map(str, range(classes))))


def one_device():
    return make_mesh(jax.devices()[:1])


class Edited(HostPipeline):
    """Host batches that something has gone wrong with."""

    def evaluation_batches(self):
        return map(self.edit, super().evaluation_batches())


def edited(arrays, edit, batch=8):
    pipeline = Edited(PLAIN, batch, read=Gather(arrays.images), labels=arrays.labels)
    object.__setattr__(pipeline, "edit", edit)
    return pipeline


def test_one_example_lost_and_another_one_doubled_is_noticed():
    def swap(batch):
        return {**batch, "id": np.where(batch["id"] == 3, 4, batch["id"])}

    arrays = arrays_of(21)
    assert make_evaluate(Pixels(), edited(arrays, lambda batch: batch), one_device(), 10)({}).images_scored == 21
    with pytest.raises(DataError, match="each of the 21 examples once, but it lost some and scored others twice"):
        make_evaluate(Pixels(), edited(arrays, swap), one_device(), 10)({})


def test_an_example_under_the_mask_is_missed():
    def forget(batch):
        return {**batch, "mask": batch["mask"] & (batch["id"] != 3)}

    with pytest.raises(DataError, match="each of the 21 examples once, but it scored 20"):
        make_evaluate(Pixels(), edited(arrays_of(21), forget), one_device(), 10)({})


@pytest.mark.parametrize("poison", ["nan", "infinite", "negative infinite", "random", "copy of a row"])
def test_no_bit_depends_on_what_lies_under_the_mask(poison):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(8, 10)).astype(np.float32) * 5, rng.integers(0, 10, 8).astype(np.int32)
    mask = np.array([True] * 5 + [False] * 3)
    rows = {
        "nan": np.full((3, 10), np.nan),
        "infinite": np.full((3, 10), np.inf),
        "negative infinite": np.full((3, 10), -np.inf),
        "random": rng.normal(size=(3, 10)) * 1e4,
        "copy of a row": logits[:3],
    }[poison].astype(np.float32)
    sums = jax.jit(evaluate_logits)
    clean = sums(np.where(mask[:, None], logits, 0), np.where(mask, labels, 0), mask)
    for label in (-1, 0, 9, 10, 2**31 - 1):
        labels_there = np.concatenate([labels[:5], labels[:3] if poison == "copy of a row" else np.full(3, label)])
        dirty = sums(np.concatenate([logits[:5], rows]), labels_there.astype(np.int32), mask)
        assert digest(dirty) == digest(clean)


def test_neither_the_order_of_examples_nor_the_batch_size_matters():
    arrays = arrays_of(37)
    shuffled = np.random.default_rng(2).permutation(37)
    permuted = dataclasses.replace(arrays, images=arrays.images[shuffled], labels=arrays.labels[shuffled])
    found = [
        make_evaluate(Pixels(), ResidentPipeline(PLAIN, batch, arrays=each), one_device(), 10)({})
        for each, batch in ((arrays, 8), (permuted, 8), (arrays, 1), (arrays, 37), (permuted, 64))
    ]
    for other in found[1:]:
        assert (other.accuracy, other.top5_accuracy, other.images_scored) == (
            found[0].accuracy,
            found[0].top5_accuracy,
            found[0].images_scored,
        )
        np.testing.assert_array_equal(other.confusion, found[0].confusion)
        assert other.loss == pytest.approx(found[0].loss, rel=1e-6)
    # The loss is the mean over all examples, not one of means over batches, whose last one is smaller.
    logits = arrays.images[:, 0, 0].astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(37), arrays.labels]
    assert found[0].loss == pytest.approx(losses.mean(), rel=1e-6)
    assert abs(np.mean([losses[start : start + 8].mean() for start in range(0, 37, 8)]) / losses.mean() - 1) > 1e-4


def test_counts_are_exact_beyond_what_the_dtype_of_the_network_can_count():
    # bfloat16 has no number between 256 and 258, float32 none between 2^24 and 2^24 + 2.
    count = 70_000
    images = np.zeros((count, 1, 1, 10), np.uint8)
    labels = (np.arange(count) % 10).astype(np.int32)
    right = np.arange(count) % 7 < 3
    images[np.arange(count), 0, 0, np.where(right, labels, (labels + 1) % 10)] = 255
    arrays = ImageArrays(images, labels, tuple(map(str, range(10))))
    got = make_evaluate(Pixels(jnp.bfloat16), ResidentPipeline(PLAIN, 1000, arrays=arrays), one_device(), 10)({})
    assert got.images_scored == count
    assert round(got.accuracy * count) == right.sum()
    assert np.trace(got.confusion) == right.sum()
    assert got.confusion.sum() == count


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build(micro.config(micro.write_npz(tmp_path_factory.mktemp("micro"))), jax.devices()[:1])


@pytest.fixture(scope="module")
def drawn(run):
    """A state whose every number matters."""
    state = run.initial_state()
    raw, average = (random_variables(state.variables(), seed) for seed in (1, 2))
    return state.replace(**raw, ema=state.ema.replace(**average))


def test_an_evaluation_changes_nothing_and_can_be_repeated(run, drawn):
    evaluate = run.make_evaluate()
    before = digest(drawn)
    first, second = evaluate(drawn.variables()), evaluate(drawn.variables())
    assert digest(drawn) == before
    assert (first.loss, first.accuracy) == (second.loss, second.accuracy)
    np.testing.assert_array_equal(first.confusion, second.confusion)


def test_an_evaluation_uses_the_averages_of_weights_and_statistics(run, drawn):
    images = run.test.preprocessing(run.test.arrays.images)
    labels = run.test.arrays.labels

    def loss(variables, train=False):
        logits = run.model.apply(variables, images, train=train, mutable=["batch_stats"] if train else False)
        sums = evaluate_logits(logits[0] if train else logits, labels, np.ones(len(labels), bool))
        return float(sums.loss) / len(labels)

    found = run.make_evaluate()(drawn.variables()).loss
    averages = {"params": drawn.ema.params, "batch_stats": drawn.ema.batch_stats}
    assert found == pytest.approx(loss(averages), rel=1e-5)
    # What it must not have used gives other losses.
    for other in (
        loss({**averages, "params": drawn.params}),
        loss({**averages, "batch_stats": drawn.batch_stats}),
    ):
        assert abs(other / found - 1) > 1e-2


def test_a_row_of_logits_depends_on_no_other_row(run, drawn):
    apply = jax.jit(
        lambda images, train: run.model.apply(drawn.variables(), images, train=train, mutable=["batch_stats"])[0],
        static_argnums=1,
    )
    images = np.asarray(run.test.preprocessing(run.test.arrays.images[:8]))
    whole = apply(images, False)
    for row in range(8):
        noisy = np.random.default_rng(row).normal(size=images.shape).astype(np.float32) * 10
        noisy[row] = images[row]
        np.testing.assert_array_equal(apply(noisy, False)[row], whole[row])
        np.testing.assert_allclose(apply(images[row : row + 1], False)[0], whole[row], atol=1e-5)
    assert np.abs(apply(noisy, True)[7] - apply(images, True)[7]).max() > 1e-2  # in training it does


def test_batch_statistics_do_not_depend_on_the_number_of_devices(run):
    # Ten steps over the statistics of the global batch. In float32 rounding grows from step to step; the rate is low enough.
    config = dataclasses.replace(
        run.config,
        batch_norm=BatchNormConfig(group_size=None),
        optim=dataclasses.replace(run.config.optim, accumulate=1, learning_rate=0.01),
        ema=EmaConfig(),
    )
    ends = []
    for devices in (1, 8):
        one = build(config, jax.devices()[:devices])
        state = one.initial_state()
        state, _ = one.compile_chunk(state)(state, 0, 10)
        ends.append({"params": state.params, "batch_stats": state.batch_stats})
    start = run.initial_state()
    for name, leaf in named_leaves(ends[1]).items():
        np.testing.assert_allclose(leaf, named_leaves(ends[0])[name], rtol=0, atol=1e-5, err_msg=name)
        shards = [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]
        assert len(shards) == 8
        assert len(set(shards)) == 1, name
    assert digest(start.batch_stats) != digest(ends[0]["batch_stats"])
