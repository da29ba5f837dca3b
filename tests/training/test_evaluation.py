import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.build import make_evaluate, round_up
from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.errors import DataError
from resflax.training.evaluation import evaluate
from resflax.training.metrics import evaluate_logits, zero_sums
from resflax.training.sharding import make_mesh

CLASSES = 7
PLAIN = Preprocessing((1, 1), np.zeros(1), np.ones(1))
LEVELS = np.arange(CLASSES) * 40  # logits are read off the pixels: 0, 40, ..., 240


class ReadsLogits(nn.Module):
    """Answers `scale` times the level of each channel: what it says about an image can be worked out by hand."""

    scale: float

    @nn.compact
    def __call__(self, images, train):
        return jnp.round(images[:, 0, 0, :] * 255 / 40) * self.scale


def split(count, seed=0):
    rng = np.random.default_rng(seed)
    images = np.stack([rng.permutation(LEVELS) for _ in range(count)]).astype(np.uint8).reshape(count, 1, 1, CLASSES)
    return ImageArrays(images, rng.integers(0, CLASSES, count).astype(np.int32), tuple("abcdefg"))


def first(arrays, count):
    return dataclasses.replace(arrays, images=arrays.images[:count], labels=arrays.labels[:count])


def numpy_loop(arrays, scale):
    """Scores one image after the other."""
    loss, correct, top5 = 0.0, 0, 0
    confusion = np.zeros((CLASSES, CLASSES), int)
    for image, label in zip(arrays.images, arrays.labels, strict=True):
        logits = image[0, 0] / 40 * scale
        loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
        ranked = np.argsort(-logits, kind="stable")
        correct += int(ranked[0] == label)
        top5 += int(label in ranked[:5])
        confusion[label, ranked[0]] += 1
    return loss / len(arrays), correct / len(arrays), top5 / len(arrays), confusion


class FirstOf(ResidentPipeline):
    """The first `count` examples, as one host sees them or as `hosts` together do; any number by one compiled program."""

    count = 1
    hosts = 1

    def __len__(self):
        return self.count

    def evaluation_batches(self):
        share = self.batch_size // self.hosts
        parts = [dataclasses.replace(self, rows=(host * share, (host + 1) * share)) for host in range(self.hosts)]
        for part in parts:
            object.__setattr__(part, "count", self.count)
        batches = (ResidentPipeline.evaluation_batches(part) for part in parts)
        for shares in zip(*batches, strict=True):  # every host has the same number of batches
            yield {name: np.concatenate([one[name] for one in shares]) for name in shares[0]}


class Poisonable(ResidentPipeline):
    """Puts a value, an argument of the same compiled program, into the padding."""

    poison = 0.0
    break_rows = 0

    @property
    def resident(self):
        return {**super().resident, "poison": np.float32(self.poison)}

    def materialise(self, batch, resident):
        made = super().materialise(batch, resident)
        mask = batch["mask"]
        return {
            **made,
            "image": jnp.where(mask[:, None, None, None], made["image"], resident["poison"]).at[: self.break_rows].set(jnp.nan),
            "label": jnp.where(mask, made["label"], -1),
        }


def score(arrays, batch, devices, scale, poison=0.0, break_rows=0):
    mesh = make_mesh(jax.devices()[:devices])
    pipeline = Poisonable(PLAIN, round_up(batch, devices), arrays=arrays)
    object.__setattr__(pipeline, "poison", poison)
    object.__setattr__(pipeline, "break_rows", break_rows)
    return make_evaluate(ReadsLogits(scale), pipeline, mesh, CLASSES)({})


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_every_example_counts_once_for_any_size_batch_device_and_host_count(batch, devices):
    # With logits 128 apart the softmax is exactly 0 or 1, so losses are multiples of 128 and their float32 sum is exact.
    arrays = split(40)
    pipeline = FirstOf(PLAIN, round_up(batch, devices), arrays=arrays)
    evaluation = make_evaluate(ReadsLogits(128.0), pipeline, make_mesh(jax.devices()[:devices]), CLASSES)
    for hosts in (1, 2) if devices > 1 else (1,):
        object.__setattr__(pipeline, "hosts", hosts)
        object.__setattr__(pipeline, "count", 0)
        with pytest.raises(DataError, match="it is empty"):
            evaluation({})
        for count in range(1, 41):
            object.__setattr__(pipeline, "count", count)
            got = evaluation({})
            loss, accuracy, top5, confusion = numpy_loop(first(arrays, count), 128.0)
            assert got.images_scored == count
            assert (got.loss, got.accuracy, got.top5_accuracy) == (loss, accuracy, top5)
            np.testing.assert_array_equal(got.confusion, confusion)


def test_ordinary_losses():
    arrays = split(37)
    loss, accuracy, top5, _ = numpy_loop(arrays, 1.0)
    got = score(arrays, 8, 1, scale=1.0)
    assert got.loss == pytest.approx(loss, rel=1e-6)
    assert (got.accuracy, got.top5_accuracy) == (accuracy, top5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("devices", [1, 8])
def test_padding_has_no_influence(poison, devices):
    arrays = split(13)
    clean, dirty = score(arrays, 8, devices, 1.0), score(arrays, 8, devices, 1.0, poison)
    assert (clean.loss, clean.accuracy, clean.top5_accuracy) == (dirty.loss, dirty.accuracy, dirty.top5_accuracy)
    np.testing.assert_array_equal(clean.confusion, dirty.confusion)


def test_ties_go_to_the_first_class():
    sums = evaluate_logits(jnp.zeros((3, 6)), jnp.array([0, 4, 5]), jnp.ones(3, bool))
    assert (int(sums.correct), int(sums.correct_top5)) == (1, 2)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="at least one example, but it is empty"):
        evaluate(lambda *_: None, {}, [], {}, zero=zero_sums(2), num_examples=0)


def test_a_lost_batch_is_noticed():
    arrays = split(20)
    batches = list(ResidentPipeline(PLAIN, 8, arrays=arrays).evaluation_batches())
    step = functools.partial(_score_mask, labels=arrays.labels)
    with pytest.raises(DataError, match="each of the 20 examples once, but it scored 12"):
        evaluate(step, {}, batches[1:], {}, zero=zero_sums(CLASSES), num_examples=20)


def _score_mask(sums, variables, batch, resident, labels):
    return sums.merge(evaluate_logits(jnp.zeros((8, CLASSES)), jnp.asarray(labels[batch["id"]]), jnp.asarray(batch["mask"])))


def test_logits_that_are_not_finite_give_no_accuracy():
    with pytest.raises(DataError, match="3 of 20 examples have logits that are not finite"):
        score(split(20), 8, 1, 1.0, break_rows=1)
