"""Training and scoring of models."""

from ghost_native.train.evaluate import Evaluation, evaluate
from ghost_native.train.run_config.train_section import TrainSection
from ghost_native.train.trainer import StepReport, Trainer

__all__ = ["Evaluation", "StepReport", "TrainSection", "Trainer", "evaluate"]
