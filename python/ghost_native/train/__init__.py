"""Training and scoring of Ghost."""

from ghost_native.train.config import PRESETS, TrainConfig
from ghost_native.train.evaluate import Evaluation, evaluate
from ghost_native.train.trainer import StepReport, Trainer

__all__ = ["PRESETS", "Evaluation", "StepReport", "TrainConfig", "Trainer", "evaluate"]
