"""A training step in which one thing becomes NaN or infinite, as the batch says; nothing of it is in the package.

Host batches carry `fault`, float32[B], zeros but at a fault: entry i is added at site i of `SITES`, inside the compiled step.
So one program serves all faults, and its clean steps are the reference.
"""

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resflax.build import Run
from resflax.build.parts import make_optimizer
from resflax.data.pipeline import ResidentPipeline
from resflax.training.averaging import exponential
from resflax.training.losses import cross_entropy
from resflax.training.state import Ema
from resflax.training.steps import make_train_step

# What is faulty in one step alone, and what was bad before it and stays bad.
PASSING = ("image", "loss", "gradient", "batch_stats", "update", "opt_state", "learning_rate")
LASTING = ("state.params", "state.batch_stats", "state.opt_state", "state.ema")
SITES = PASSING + LASTING
BATCH = 16  # at least one row a site


def with_sites(run):
    """`run` with the sites, and the `{step counted from 0: (site, value)}` that its batches bring."""
    values = {one.name: getattr(run.train, one.name) for one in dataclasses.fields(run.train)}
    faults = {}
    rest = {one.name: getattr(run, one.name) for one in dataclasses.fields(run)}
    train = FaultyPipeline(**values, faults=faults)
    phases = tuple((stop, train) for stop, _ in run.phases)
    return FaultyRun(**{**rest, "train": train, "phases": phases}), faults


class FaultyRun(Run):
    """A run whose training step has the sites."""

    def train_step(self, pipeline=None):
        return make_faulty_step(self)


@dataclass(frozen=True)
class FaultyPipeline(ResidentPipeline):
    """A pipeline whose training batches bring faults."""

    faults: dict = field(kw_only=True)

    def training_batches(self):
        batches = super().training_batches()

        def host_batch(step):
            fault = np.zeros(BATCH, np.float32)
            if step in self.faults:
                site, value = self.faults[step]
                fault[SITES.index(site)] = value
            return {**batches(step), "fault": fault}

        return host_batch


def make_faulty_step(run):
    """Like `Run.train_step`."""

    def step(state, batch, resident):
        batch = dict(batch)
        fault = batch.pop("fault")
        of = {site: fault[index] for index, site in enumerate(SITES)}

        def materialise(batch, resident):
            made = run.train.materialise(batch, resident)
            return {**made, "image": made["image"].at[0, 3, 3, 0].add(of["image"])}

        def loss(logits, labels):
            return backwards(cross_entropy(logits, labels), of["gradient"]).at[0].add(of["loss"])

        def update(gradient, state, params):
            optimizer = make_optimizer(run.config, lambda count: run.schedule(count) + of["learning_rate"])
            updates, state = optimizer.update(gradient, state, params)
            return poisoned(updates, of["update"]), poisoned(state, of["opt_state"])

        state = state.replace(
            params=poisoned(state.params, of["state.params"]),
            batch_stats=poisoned(state.batch_stats, of["state.batch_stats"]),
            opt_state=poisoned(state.opt_state, of["state.opt_state"]),
            ema=Ema(poisoned(state.ema.params, of["state.ema"]), state.ema.batch_stats),
        )
        inner = make_train_step(
            Model(run.model, of["batch_stats"]),
            optax.GradientTransformation(run.optimizer.init, update),
            loss,
            materialise,
            keep=exponential(run.config.ema.decay),
        )
        return inner(state, batch, resident)

    return step


class Model:
    """`model`, whose new batch statistics have a fault."""

    def __init__(self, model, fault):
        self.model, self.fault = model, fault

    def apply(self, *arguments, **settings):
        logits, changed = self.model.apply(*arguments, **settings)
        return logits, {"batch_stats": poisoned(changed["batch_stats"], self.fault)}


def poisoned(tree, fault):
    """One number of the last leaf that holds floats has the fault added."""
    leaves, structure = jax.tree.flatten(tree)
    index = max(index for index, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    leaves[index] = leaves[index].at[(0,) * leaves[index].ndim].add(fault)
    return jax.tree.unflatten(structure, leaves)


@jax.custom_vjp
def backwards(losses, fault):
    """`losses`; the fault is in their gradient alone."""
    return losses


backwards.defvjp(lambda losses, fault: (losses, fault), lambda fault, cotangent: (cotangent + fault, jnp.zeros_like(fault)))
