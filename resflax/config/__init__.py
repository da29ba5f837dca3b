"""Typed, frozen configuration: what a run is, before any device is touched. Imports neither JAX nor tfds."""

from resflax.config.files import load_config
from resflax.config.overrides import apply_overrides
from resflax.config.schema import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    DistillConfig,
    EmaConfig,
    InitConfig,
    LossConfig,
    ModelConfig,
    NonFiniteConfig,
    OptimConfig,
    PrecisionConfig,
    SwaConfig,
)
from resflax.config.serial import config_hash, from_dict, to_dict
from resflax.config.validate import validate

__all__ = [
    "BatchNormConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EmaConfig",
    "InitConfig",
    "LossConfig",
    "ModelConfig",
    "NonFiniteConfig",
    "OptimConfig",
    "PrecisionConfig",
    "SwaConfig",
    "apply_overrides",
    "config_hash",
    "from_dict",
    "load_config",
    "to_dict",
    "validate",
]
