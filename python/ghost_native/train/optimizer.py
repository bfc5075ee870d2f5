"""How weights follow their gradients: AdamW for all, or Muon for matrices and AdamW for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from ghost_native import ops
from ghost_native.train.muon import Muon

_EPS = 1e-10  # gradients of single bytes are small
# What Muon leaves to AdamW: tables of embeddings and the matrix that makes logits.
_TABLES = ("embedding", "head", "memory")


@dataclass(frozen=True)
class Group:
    """Weights that are updated alike, by name."""

    names: tuple[str, ...]
    rate: float  # multiple of the learning rate
    decay: float


class Optimizer:
    """Updates a model's trainable weights.

    AdamW works in three groups: matrices with weight decay, codebooks at `codebook_rate` times the rate, the rest. With
    kind "muon", matrices inside the layers are Muon's, and the rates of all others are multiplied by
    `adam_lr_multiplier`.

    Args:
        model: whose weights, as trainable now.
        kind: "adamw" or "muon".
        betas: decay rates of AdamW's moments.
        momentum: of Muon.
        weight_decay: decoupled, of matrices only.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        codebook_rate: rate of codebooks as a multiple.
        adam_lr_multiplier: of AdamW's rates beside Muon.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: Literal["adamw", "muon"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        codebook_rate: float = 0.3,
        adam_lr_multiplier: float = 1.0,
    ) -> None:
        self._betas, self._max_norm = betas, max_grad_norm
        weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
        kinds = {name: weight_kind(name, w, muon=kind == "muon") for name, w in weights.items()}
        other = adam_lr_multiplier if kind == "muon" else 1.0

        def named(wanted: str) -> tuple[str, ...]:
            return tuple(name for name, found in kinds.items() if found == wanted)

        self._groups = [
            Group(named("matrix"), other, weight_decay),
            Group(named("codebook"), other * codebook_rate, 0.0),
            Group(named("rest"), other, 0.0),
        ]
        self._orthogonal = named("orthogonal")
        self._muon = Muon(0.0, momentum=momentum, weight_decay=weight_decay) if self._orthogonal else None
        adam = [name for group in self._groups for name in group.names]
        self.state: dict[str, Any] = {
            "step": mx.array(0.0),
            "m": {name: mx.zeros_like(weights[name]) for name in adam},
            "v": {name: mx.zeros_like(weights[name]) for name in adam},
            "momentum": {name: mx.zeros_like(weights[name]) for name in self._orthogonal},
        }
        """Everything an update changes besides the model: the number of steps, and the moments by weight."""

    def norm(self, gradients: dict[str, Any]) -> mx.array:
        """The norm of all gradients together, a scalar."""
        named: dict[str, mx.array] = dict(tree_flatten(gradients))
        return ops.global_norm(list(named.values()))

    def update(
        self, model: nn.Module, gradients: dict[str, Any], rate: float, norm: mx.array, *, scale: float = 1.0
    ) -> None:
        """One step at learning rate `rate`.

        Args:
            model: the one given at first, with the same weights trainable.
            gradients: as its trainable parameters, times `scale`.
            rate: the learning rate.
            norm: of the gradients, without `scale`.
            scale: by which the gradients are too large.

        Raises:
            ValueError: other weights are trainable than at first.
        """
        g: dict[str, mx.array] = dict(tree_flatten(gradients))
        weights: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
        state = self.state
        known = state["m"].keys() | state["momentum"].keys()
        if weights.keys() != known:
            changed = sorted(weights.keys() ^ known)
            raise ValueError(
                "[Optimizer.update] the trainable weights have changed since the optimizer was made, given "
                f"{changed[0]!r} and {len(changed) - 1} others, allowed: the same ones; make a new one after freezing."
            )
        limit = mx.minimum(self._max_norm / (norm + 1e-6), 1.0) if self._max_norm else mx.array(1.0)
        factor = limit / scale
        step = state["step"] = state["step"] + 1
        for group in self._groups:
            if not group.names:
                continue
            w, dw, m, v = ([tree[name] for name in group.names] for tree in (weights, g, state["m"], state["v"]))
            updated = ops.adamw_update(
                w, dw, m, v, rate * group.rate, step, scale=factor, betas=self._betas, eps=_EPS,
                weight_decay=group.decay,
            )  # fmt: skip
            for tree, values in zip((weights, state["m"], state["v"]), updated, strict=True):
                tree.update(zip(group.names, values, strict=True))
        if self._muon is not None:
            self._muon.learning_rate = rate
            for name in self._orthogonal:
                own = {"v": state["momentum"][name]}
                weights[name] = self._muon.apply_single(g[name] * factor, weights[name], own)
                state["momentum"][name] = own["v"]
        model.update(tree_unflatten(list(weights.items())))


def weight_kind(name: str, weight: mx.array, *, muon: bool) -> str:
    """How a weight is updated: "orthogonal", "matrix", "codebook" or "rest"."""
    if name.endswith("codebook"):
        return "codebook"
    if weight.ndim != 2:
        return "rest"
    inside = not any(part.startswith(_TABLES) for part in name.split("."))
    return "orthogonal" if muon and inside and min(weight.shape) > 1 else "matrix"
