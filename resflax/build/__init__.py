"""From a configuration to the objects of a run: the only place that sees config, models, data and optim together."""

from resflax.build.inputs import evaluation_pipeline, make_reader, open_split, round_up, without_unreadable
from resflax.build.outputs import Outputs, output_batches, split_outputs
from resflax.build.parts import make_model, make_optimizer, make_schedule
from resflax.build.restore import find_checkpoint, load, open_run, open_weights, restore_variables
from resflax.build.run import Run, build, make_evaluate
from resflax.build.shift import evaluate_shift
from resflax.build.trained import Trained, open_trained, open_trained_file

__all__ = [
    "Outputs",
    "Run",
    "Trained",
    "build",
    "evaluate_shift",
    "evaluation_pipeline",
    "find_checkpoint",
    "load",
    "make_evaluate",
    "make_model",
    "make_optimizer",
    "make_reader",
    "make_schedule",
    "open_run",
    "open_split",
    "open_trained",
    "open_trained_file",
    "open_weights",
    "output_batches",
    "restore_variables",
    "round_up",
    "split_outputs",
    "without_unreadable",
]
