"""One YAML file for a run: the sections `model`, `data` and `train`, checked one by one and together."""

from ghost_native.models.checked import ConfigError
from ghost_native.train.run_config.presets import PRESETS, ModelType
from ghost_native.train.run_config.run import RunConfig
from ghost_native.train.run_config.train_section import Precision, Stage, TrainSection

__all__ = ["PRESETS", "ConfigError", "ModelType", "Precision", "RunConfig", "Stage", "TrainSection"]
