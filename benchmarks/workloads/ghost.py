"""Ghost v6 as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from benchmarks.measure import Case, by
from benchmarks.workloads.selective_scan import FLOPS
from ghost_native.models import Ghost, GhostConfig
from ghost_native.nn.routed_rows import RoutedRows
from ghost_native.train import TrainSection
from ghost_native.train.objective import text_objective
from ghost_native.train.optimizer import Optimizer

BATCH, SEQLEN = 16, 256
PREFILL = 2048
CODES_PER_WORD = 16
CHECKED = (2, 64)  # sequences and bytes of them that are compared with the composed form

Run = Callable[[], Any]


def build(share: float = 1.0, **changes: Any) -> Ghost:
    """The default model, in which `share` of the byte values go through all layers and the others through the first."""
    model = Ghost(GhostConfig(routing=share < 1, threshold=0.0, **changes), seed=0)
    model.router.context = mx.zeros_like(model.router.context)
    model.router.bias = mx.array(0.0)
    model.router.importance = mx.where(mx.arange(256) < round(256 * share), 40.0, -40.0)
    mx.eval(model.parameters())
    return model


def text(batch: int = BATCH, seqlen: int = SEQLEN) -> mx.array:
    tokens = mx.array(np.random.default_rng(0).integers(0, 256, (batch, seqlen)))
    mx.eval(tokens)
    return tokens


def flops_of_a_byte(model: Ghost, share: float) -> float:
    """Products with the matrices, scans and attention; `share` of the bytes goes past the layers all go through."""
    config = model.config
    # The router's cheap predictor multiplies with the head too.
    found = 2.0 * model.head.weight.size * config.routing
    for name, weight in model.weights().items():
        if name.startswith(("memory.", "tokenizer.embedding")) or not name.endswith((".weight", ".codes")):
            continue
        part, index, *_ = name.split(".")
        passing = share if part == "layers" and int(index) >= config.min_depth else 1.0
        weights = weight.size * (CODES_PER_WORD if name.endswith(".codes") else 1)
        found += 2.0 * weights * passing * (weight.ndim == 2)
    for l in range(config.num_layers):
        passing = share if l >= config.min_depth else 1.0
        found += FLOPS * config.expand * config.dim * config.dstate * passing
        found += 4.0 * config.dim * config.stride * passing * (l in config.attention_layers)
    return found


def routed_layers(model: Ghost, h: mx.array, depth: mx.array) -> mx.array:
    """h (batch, seqlen, dim) after the layers beyond those that all bytes go through."""
    rows = RoutedRows(h, depth)
    for l, (layer, plan) in enumerate(zip(model.layers, model._plans(depth, ()), strict=True)):
        if l >= model.config.min_depth:
            model._route_layer(l, layer, rows, plan, None)
    return rows.whole()


def case(name: str, model: Ghost, batch: int, seqlen: int, share: float = 1.0, **changes: Any) -> Case:
    """The arithmetic of all bytes; the weights are read once in a run."""
    count, moved = batch * seqlen, float(model.nbytes())
    flops = flops_of_a_byte(model, share) * count
    return Case(f"ghost_v6 {name}", by(batch, seqlen), flops=flops, moved=moved, items=count, **changes)


def training_step(model: Ghost, tokens: mx.array) -> Run:
    """Loss, gradients and the update of all parameters; gives the loss before the update."""
    config = TrainSection()
    optimizer = Optimizer(model, betas=config.betas, weight_decay=config.weight_decay)
    step = nn.value_and_grad(model, lambda: text_objective(model, tokens[:, :-1], tokens[:, 1:], None, config).total)

    def run() -> list[Any]:
        loss, gradients = step()
        optimizer.update(model, gradients, 1e-4, optimizer.norm(gradients))
        return [loss, model.parameters(), optimizer.state]

    return run


def gradients(model: Ghost, tokens: mx.array) -> list[mx.array]:
    """The loss and the gradients of the largest matrices of the first layer."""
    config = TrainSection()
    step = nn.value_and_grad(model, lambda: text_objective(model, tokens[:, :-1], tokens[:, 1:], None, config).total)
    loss, found = step()
    layer = found["layers"][0]
    return [loss, *(value for _, value in nn.utils.tree_flatten(layer) if value.ndim == 2)]


def training_run() -> Run:
    """For benchmarks.memory."""
    step = training_step(build(), text(BATCH, SEQLEN + 1))
    return lambda: mx.eval(step())


def forward_run() -> Run:
    """For benchmarks.memory."""
    model, tokens = build().pack(), text()
    return lambda: mx.eval(model(tokens))
