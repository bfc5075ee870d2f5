"""A moving average of the weights, which often scores better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten


class WeightAverage:
    """The exponential moving average of a model's trainable weights (Polyak and Juditsky, 1992).

    Args:
        model: whose weights.
        decay: share of the average kept at every update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))

    def update(self, model: nn.Module) -> None:
        own: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
        for name, average in self.weights.items():
            self.weights[name] = average + (1.0 - self.decay) * (own[name] - average)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """`with average.applied(model):` the model has the averaged weights; afterwards its own again."""
        own = model.trainable_parameters()
        model.update(tree_unflatten(list(self.weights.items())))
        try:
            yield
        finally:
            model.update(own)
