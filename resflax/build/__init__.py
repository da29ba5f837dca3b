"""From a configuration to the objects of a run: the only place that sees config, models, data and optim together."""

from resflax.build.inputs import evaluation_pipeline, make_reader, open_split, round_up, without_unreadable
from resflax.build.parts import make_model, make_optimizer, make_schedule
from resflax.build.restore import find_checkpoint, load, open_run, open_weights, restore_variables
from resflax.build.run import Run, build, make_evaluate

__all__ = [
    "Run",
    "build",
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
    "open_weights",
    "restore_variables",
    "round_up",
    "without_unreadable",
]
