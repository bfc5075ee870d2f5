"""Gradient checkpointing: keep a module's inputs and compute the rest again when gradients need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn


def recomputed(module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, of whose passes through `module` only inputs and outputs are kept for the gradients.

    Unlike with ``mlx.nn.utils.checkpoint`` the module's own arrays are back in it afterwards, so that the graph of the
    pass is not held through them.

    Args:
        module: whose trainable parameters `call` uses.
        call: of arrays or trees of arrays, through all of which gradients flow. What has none, or needs none, such as
            random keys and tables, is better a constant of the function: it would be differentiated. The function
            runs twice and must compute the same both times.

    Chen et al., 2016, arXiv:1604.06174.
    """

    def run(parameters: Any, *inputs: Any) -> Any:
        own = module.trainable_parameters()
        module.update(parameters)
        try:
            return call(*inputs)
        finally:
            module.update(own)

    checkpointed = mx.checkpoint(run)
    return lambda *inputs: checkpointed(module.trainable_parameters(), *inputs)
