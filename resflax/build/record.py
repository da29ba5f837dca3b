"""What a run says of itself: at its start, in its figures, and in its record."""

from __future__ import annotations

from typing import Any

import jax

from resflax.build.run import Run
from resflax.config import config_hash, to_dict
from resflax.files import Workdir, read_lines
from resflax.results.record import describe_evaluation, git_commit, versions
from resflax.training.evaluation import Evaluation
from resflax.training.logs import Display
from resflax.training.progress import Progress
from resflax.training.utilization import model_flops_utilization
from resflax.tree import named_leaves, parameter_count


def introduce(display: Display, run: Run, step: int) -> None:
    """Says what is about to happen."""
    count = parameter_count(run.abstract_state().params)
    devices = f"{run.mesh.size} x {jax.devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    display.say(
        f"{run.config.model.name} ({count:,} parameters) on {run.config.data.name}: {len(run.train):,} training, "
        f"{len(run.test):,} {run.config.data.eval_split} images; {run.total_steps} steps of "
        f"{run.config.data.batch_size}; {devices}"
    )
    if run.pretrained is not None and run.init is not None and not step:
        fresh = run.init["fresh"]
        kept = sum(name not in fresh for name in named_leaves(run.pretrained.variables))
        display.say(
            f"{kept} arrays are those of {run.init['weights']} (SHA-256 {run.init['digest'][:12]}), {len(fresh)} are new"
            f"{': ' if fresh else ''}{', '.join(fresh)}; images of {run.test.preprocessing.image_size[0]} pixels, there "
            f"{run.pretrained.preprocessing.image_size[0]}"
        )
    if len(run.phases) > 1:
        sizes = ", ".join(str(pipeline.preprocessing.image_size[0]) for _, pipeline in run.phases)
        display.say(f"{len(run.phases)} compilations of the training step, all before it starts: for images of {sizes} pixels")
    if run.teacher is not None:
        source = run.teacher.provenance
        display.say(f"the teacher is that of {source['weights']} (SHA-256 {source['digest'][:12]})")
    display.say(f"going on from step {step}" if step else "compiling the training step")


def draw(files: Workdir, run: Run, evaluation: Evaluation) -> None:
    """The two figures of a run."""
    from resflax.viz.confusion import plot_confusion
    from resflax.viz.curves import plot_curves
    from resflax.viz.style import save

    split = run.config.data.eval_split.partition("[")[0]
    title = f"{run.config.model.name} on {run.config.data.name}, seed {run.config.seed}"
    figures = {
        "curves.png": plot_curves(read_lines(files.metrics), split, title),
        "confusion.png": plot_confusion(
            evaluation.confusion,
            run.class_names,
            f"{title}: {evaluation.images_scored} {split} images, accuracy {100 * evaluation.accuracy:.2f} %",
        ),
    }
    for name, figure in figures.items():
        save(figure, files.figures / name)


def make_record(run: Run, evaluation: Evaluation, progress: Progress, state: Any) -> dict[str, Any]:
    """The content of `result.json`."""
    config = run.config
    rate = run.total_steps * config.data.batch_size / progress.train_seconds
    return {
        "model": config.model.name,
        "parameters": parameter_count(state.params),
        "dataset": config.data.name,
        "dataset_fingerprint": run.fingerprint,
        "split": config.data.eval_split,
        "images_scored": evaluation.images_scored,
        "images_skipped": len(run.skipped),
        "test_accuracy": evaluation.accuracy,
        "test_top5_accuracy": evaluation.top5_accuracy,
        "test_loss": evaluation.loss,
        "test_expected_calibration_error": evaluation.expected_calibration_error,
        "best_accuracy": progress.best_accuracy,  # over all evaluations of the run: never the result
        "best_step": progress.best_step,
        "steps": run.total_steps,
        "skipped_steps": progress.skipped_steps,  # their numbers, counted from 1
        "epochs": run.total_steps / run.steps_per_epoch,
        "seed": config.seed,
        "train_seconds": progress.train_seconds,
        "wall_seconds": progress.wall_seconds,
        "images_per_second": rate,
        "model_flops_utilization": model_flops_utilization(rate, run.peak_rate),
        **({} if run.init is None else {"init": run.init}),
        **({} if run.teacher is None else {"distill": run.teacher.provenance}),
        "evaluation": describe_evaluation(config, run.metadata()),
        "loss_digest": progress.loss_digest(),
        "first_losses": progress.first_losses,
        "device": jax.devices()[0].device_kind,
        "device_count": run.mesh.size,
        "process_count": jax.process_count(),
        "versions": versions(),
        "git_commit": git_commit(),
        "config_hash": config_hash(config),
        "config": to_dict(config),
    }
