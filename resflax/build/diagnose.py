"""What a finished run can be asked beside its scores."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from resflax.bench.timing import seconds_of
from resflax.build.parts import make_loss
from resflax.build.run import build
from resflax.config import Config
from resflax.files import Workdir, read_json
from resflax.nn import unstack_blocks
from resflax.prng import stream_key
from resflax.training.checkpoints import committed_steps, open_checkpoint
from resflax.training.state import TrainState
from resflax.tree import named_leaves
from resflax.types import Array, Batch


def speedrun_seconds(config: Config, workdir: str) -> dict[str, float]:
    """The clock of the CIFAR-10 speedruns: initialisation from the training images, all steps, the final evaluation.

    The steps are those of the run. Initialisation and evaluation are done again, twice, the second time counts: compilation
    is no part of it, as with the warm-up run of the published records.

    Args:
      config: of the run.
      workdir: where its result and its last checkpoint are.

    Returns:
      `{"initialisation", "training", "evaluation", "total"}`.
    """
    files = Workdir(epath.Path(workdir))
    run = build(config)
    evaluate = run.make_evaluate()
    last = open_checkpoint(files.checkpoints / str(committed_steps(files.checkpoints)[-1]))
    variables = last.restore(run.abstract_state()).variables()
    work = {
        "initialisation": lambda: jax.block_until_ready(run.initial_state()),
        "evaluation": lambda: evaluate(variables),
    }
    seconds = {name: min(seconds_of(function) for _ in range(2)) for name, function in work.items()}
    seconds["training"] = read_json(files.result)["train_seconds"]
    return {**seconds, "total": sum(seconds.values())}


def gradient_norms(config: Config, workdir: str) -> dict[str, list[float]]:
    """How much of the loss's gradient reaches each convolution.

    Args:
      config: of the run.
      workdir: where its checkpoints are.

    Returns:
      `{step: [norm, ...]}` for the initial state, step "0", and each checkpoint kept: the Euclidean norm of the gradient of the
      mean loss of the first training batch with respect to the kernel of each convolution but those of shortcuts, from input
      to output.
    """
    run = build(config, jax.devices()[:1])
    loss = make_loss(config)

    def mean_loss(params: Any, state: TrainState, batch: Batch, resident: Batch) -> Array:
        made = run.train.materialise(batch, resident)
        variables = {"params": params, "batch_stats": state.batch_stats}
        rngs = {"dropout": stream_key(resident["seed"], "dropout")}
        logits, _ = run.model.apply(variables, made["image"], train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.mean(loss(logits, made["label"]))

    @jax.jit
    def norms(state: TrainState, batch: Batch, resident: Batch) -> dict[str, Array]:
        gradient = unstack_blocks(jax.grad(mean_loss)(state.params, state, batch, resident))
        return {name: jnp.linalg.norm(leaf) for name, leaf in named_leaves(gradient).items() if _is_convolution(name)}

    states = {"0": run.initial_state()}
    root = epath.Path(workdir) / "checkpoints"
    for step in committed_steps(root):
        states[str(step)] = open_checkpoint(root / str(step)).restore(run.abstract_state())
    batch, resident = run.train.training_batches()(0), run.resident(run.train)
    found = {}
    for step_name, state in states.items():
        by_name = norms(state, batch, resident)
        found[step_name] = [float(by_name[name]) for name in sorted(by_name, key=_depth)]
    return found


def _is_convolution(name: str) -> bool:
    return re.fullmatch(r"(stem_conv\d*|((stage|group)\d+/)?(block\d+/)?conv\d+)/kernel", name) is not None


def _depth(name: str) -> tuple[bool, list[int]]:
    return not name.startswith("stem"), [int(number) for number in re.findall(r"\d+", name)]
