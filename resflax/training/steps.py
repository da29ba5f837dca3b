"""The steps: pure functions of the state and a host batch, made once and compiled by their caller."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from resflax.prng import stream_key
from resflax.training.averaging import Keep, average
from resflax.training.distillation import Distillation
from resflax.training.losses import agreement
from resflax.training.metrics import Sums, evaluate_logits
from resflax.training.state import Ema, TrainState
from resflax.tree import all_finite
from resflax.types import Array, Batch, Tree, Variables

Materialise = Callable[[Batch, Batch], Batch]  # (host batch, resident data) -> images and labels
Loss = Callable[[Array, Array], Array]  # (logits [B, K], labels int32[B] or float[B, K]) -> [B]


# What a step checks, in words.
CHECKED = ("loss", "gradient", "batch statistics", "parameters", "optimizer state", "averages")


class StepMetrics(struct.PyTreeNode):
    """What a training step reports."""

    loss: Array  # shape=(), float32: mean over the batch
    correct: Array  # shape=(), float32: a count, of mixed images the labels' share; a float, to be reduced with the gradients
    gradient_norm: Array  # shape=(), float32: before clipping
    checks: Array  # shape=(len(CHECKED),), bool: whether each of `CHECKED` is finite

    @property
    def finite(self) -> Array:
        """shape=(), bool: the update was applied."""
        return self.checks.all(axis=-1)


TrainStep = Callable[[TrainState, Batch, Batch], tuple[TrainState, StepMetrics]]
Choose = Callable[[Array, Tree, Tree], Tree]  # (bool[], one tree, another like it) -> the first where it holds, else the second


def select(condition: Array, one: Tree, other: Tree) -> Tree:
    """Element by element, which needs no branch: nothing that a GPU's command buffer would have to stop for."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)


def branch(condition: Array, one: Tree, other: Tree) -> Tree:
    """As a branch, which XLA:CPU compiles sooner: it copies arrays, and has no loop for each of them."""
    return jax.lax.cond(condition, lambda one, other: one, lambda one, other: other, one, other)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    materialise: Materialise,
    *,
    mix: Callable[[Array, Batch], Batch] = lambda key, batch: batch,
    distill: Distillation | None = None,
    keep: Keep | None = None,
    sharpness: float | None = None,
    hold: Callable[[Tree], Tree] = lambda params: params,
    accumulate: int = 1,
    unroll: bool = False,
    choose: Choose = select,
    shard: Callable[[Any], Any] = lambda batch: batch,
) -> TrainStep:
    """Returns `train_step(state, host_batch, resident) -> (state, metrics)`.

    Keys of dropout and mixing are `fold_in(seed, step)` of `resident["seed"]`, uint32[]: the seed is data, not part of the
    program.

    A step in which anything is not finite, its loss, its gradient or any part of the state it would leave, changes nothing:
    the whole state stays as it was. So `state.step` counts the updates applied and not the batches seen, and with it go the
    dropout keys and, in the optimizer's state, the schedule: update i has key i and rate i, whichever batch it is of.

    Args:
      model, optimizer, loss: see their types.
      materialise: makes a batch inside the step.
      mix: `(key, batch) -> batch`, see `resflax.data.mixing`; the loss is that of the batch's `target`, if it has one.
      distill: see its type; the teacher's variables are `resident["teacher"]`, an argument of the program.
      keep: how the average goes on after each step, see `resflax.training.averaging`; None: none is kept.
      sharpness: rho of sharpness-aware minimisation (Foret et al. 2021, Eq. 2 and 3): the gradient is taken a second time, at
        the weights plus `rho * gradient / |gradient|`, for the same images and keys, and that one is applied. The norm is of
        the gradient of the whole batch, on any number of devices (the authors perturb on each device by its own part). Loss,
        accuracy and batch statistics are those of the first pass, as in the authors' code: they belong to the weights that are
        kept. Frozen weights are not perturbed, and decay has no part in the perturbation. None: one gradient.
      hold: stops gradients of parameters that are frozen; what they are held at is up to the optimizer.
      accumulate: the batch is taken in this many consecutive equal parts. Gradients and running statistics are those of
        the whole batch, provided that a statistics group lies inside a part.
      unroll: parts one after another rather than in a loop; for XLA:CPU, see `resflax.nn.conv`.
      choose: between the new state and the old one, `select` or `branch`.
      shard: keeps the first axis of a batch split over the devices.
    """

    def part_loss(params: Tree, batch_stats: Tree, batch: Batch, key: Array, total: int) -> Any:
        labels = batch.get("target", batch["label"])
        variables = {"params": hold(params), "batch_stats": batch_stats}
        logits, changed = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key})
        losses = loss(logits, labels)
        if distill is not None:
            losses = distill(losses, logits, batch["teacher"])
        losses = jnp.where(batch["mask"], losses, 0)
        correct = jnp.sum(jnp.where(batch["mask"], agreement(logits, labels), 0))
        return jnp.sum(losses) / total, (changed.get("batch_stats", {}), correct)

    def gradients(state: TrainState, params: Tree, batch: Batch, resident: Batch) -> tuple[Tree, Tree, Array, Array]:
        total = batch["id"].shape[0]
        key = jax.random.fold_in(stream_key(resident["seed"], "dropout"), state.step)
        mixing = jax.random.fold_in(stream_key(resident["seed"], "mixing"), state.step)

        def one(part: Batch, key: Array) -> tuple[Tree, Tree, Array, Array]:
            examples = shard(mix(mixing, materialise(part, resident)))
            if distill is not None:
                examples = {**examples, "teacher": distill.teacher(resident["teacher"], examples["image"])}
            (value, (batch_stats, correct)), gradient = jax.value_and_grad(part_loss, has_aux=True)(
                params, state.batch_stats, examples, key, total
            )
            return gradient, batch_stats, value, correct

        if accumulate == 1:
            return one(batch, key)
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

        def add(carry: Tree, xs: tuple[Array, Batch]) -> tuple[Tree, None]:
            return jax.tree.map(jnp.add, carry, one(shard(xs[1]), jax.random.fold_in(key, xs[0]))), None

        indices = jnp.arange(accumulate)
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradient, batch_stats, value, correct), _ = jax.lax.scan(
            add, zeros, (indices, parts), unroll=accumulate if unroll else 1
        )
        # Each part started from the same running statistics, so their mean is one update by the mean over all groups.
        return gradient, jax.tree.map(lambda x: x / accumulate, batch_stats), value, correct

    def train_step(state: TrainState, batch: Batch, resident: Batch) -> tuple[TrainState, StepMetrics]:
        gradient, batch_stats, value, correct = gradients(state, state.params, batch, resident)
        norm = optax.tree.norm(gradient)
        values = [value]
        if sharpness is not None:
            ascent = sharpness / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
            nearby = jax.tree.map(lambda param, slope: param + ascent * slope, state.params, gradient)
            gradient, _, worst, _ = gradients(state, nearby, batch, resident)
            values += [norm, worst]
            norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            assert keep is not None
            ema = jax.tree.map(functools.partial(average, keep(state.step + 1)), ema, Ema(params, batch_stats))
        new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        checks = jnp.stack([all_finite(one) for one in (values, norm, batch_stats, params, opt_state, ema)])
        report = StepMetrics(value, correct, norm, checks)
        return choose(report.finite, new, state), report

    return train_step


EvalStep = Callable[[Sums, Variables, Batch, Batch], Sums]
Score = Callable[[Callable[[Array], Array], Array], Array]  # (network in evaluation, images [B, H, W, C]) -> logits [B, K]


def make_eval_step(
    model: nn.Module,
    materialise: Materialise,
    shard: Callable[[Any], Any] = lambda batch: batch,
    score: Score = lambda network, images: network(images),
) -> EvalStep:
    """Returns `eval_step(sums, variables, host_batch, resident) -> sums`, with the batch's unmasked examples added.

    Args:
      model, materialise, shard: see `make_train_step`.
      score: calls the network, once or on several views of the images.
    """

    def eval_step(sums: Sums, variables: Variables, batch: Batch, resident: Batch) -> Sums:
        examples = shard(materialise(batch, resident))
        network: Any = functools.partial(model.apply, variables, train=False)
        logits = score(network, examples["image"])
        return sums.merge(evaluate_logits(logits, examples["label"], examples["mask"]))

    return eval_step
