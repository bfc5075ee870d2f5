"""AdamW for Ghost: decay for matrices only, a rate of their own for codebooks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from ghost_native import ops
from ghost_native.train.config import TrainConfig

_EPS = 1e-10  # gradients of single bytes are small


class GhostOptimizer:
    """AdamW in three groups: matrices with weight decay, codebooks at `codebook_rate` times the rate, the rest."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._max_norm, self._betas = config.max_grad_norm, config.betas
        self._scales = {"matrices": 1.0, "codebooks": config.codebook_rate, "rest": 1.0}
        self._decays = {"matrices": config.weight_decay, "codebooks": 0.0, "rest": 0.0}
        self._names: dict[str, list[str]] = {group: [] for group in self._scales}
        weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
        for name, w in weights.items():
            group = "codebooks" if name.endswith("codebook") else "matrices" if w.ndim == 2 else "rest"
            self._names[group].append(name)
        self.state: dict[str, Any] = {
            "step": mx.array(0.0),
            "m": {name: mx.zeros_like(w) for name, w in weights.items()},
            "v": {name: mx.zeros_like(w) for name, w in weights.items()},
        }
        """Everything an update changes besides the model: the number of steps, and both moments by weight."""

    def update(self, model: nn.Module, gradients: dict[str, Any], rate: float) -> None:
        """One step at learning rate `rate`, gradients first scaled down to the largest norm allowed."""
        g: dict[str, mx.array] = dict(tree_flatten(gradients))
        weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
        scale = mx.array(1.0)
        if self._max_norm:
            scale = mx.minimum(self._max_norm / (ops.global_norm(list(g.values())) + 1e-6), 1.0)
        step = self.state["step"] = self.state["step"] + 1
        m, v = self.state["m"], self.state["v"]
        for group, names in self._names.items():
            w, dw, m_of, v_of = ([tree[name] for name in names] for tree in (weights, g, m, v))
            updated = ops.adamw_update(
                w, dw, m_of, v_of, rate * self._scales[group], step, scale=scale, betas=self._betas, eps=_EPS,
                weight_decay=self._decays[group],
            )  # fmt: skip
            for tree, values in zip((weights, m, v), updated, strict=True):
                tree.update(zip(names, values, strict=True))
        model.update(tree_unflatten(list(weights.items())))
