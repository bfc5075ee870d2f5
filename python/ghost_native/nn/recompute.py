"""Gradient checkpointing: keep a module's inputs and compute the rest again when gradients need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten


def recomputed(module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, of whose passes through `module` only inputs and outputs are kept for the gradients.

    What ``mlx.nn.utils.checkpoint`` does, with three differences that save memory: the second pass waits for the
    gradient of the outputs, the gradient of the inputs waits for those of the weights, so that no later module keeps
    its second pass while an earlier one has its own, and the module's own arrays are back in it afterwards, so that the
    graph of the pass is not held through them.

    Args:
        module: whose trainable parameters `call` uses.
        call: of arrays or trees of them and of other values; gradients flow through floating-point arrays. One that
            needs none, such as a table, is better a constant of the function: it would be differentiated. The function
            runs twice and must compute the same both times. Tuples in its result come back as lists.

    Chen et al., 2016, arXiv:1604.06174.
    """

    def outer(*inputs: Any) -> Any:
        names, arrays, rest = _split([module.trainable_parameters(), list(inputs)])
        structure: list[tuple[list[str], list[tuple[str, Any]]]] = []

        def run(*values: mx.array) -> list[mx.array]:
            parameters, given = _join(names, values, rest)
            own = module.trainable_parameters()
            module.update(parameters)
            try:
                computed = call(*given)
            finally:
                module.update(own)
            result_names, results, others = _split(computed)
            structure.append((result_names, others))
            return results

        function: Any = mx.custom_function(run)

        @function.vjp
        def backward(primals: Any, cotangents: Any, outputs: Any) -> Any:
            _, gradients = mx.vjp(run, mx.depends(list(primals), list(cotangents)), list(cotangents))
            return mx.depends(gradients, gradients)

        results = function(*arrays)
        result_names, others = structure[0]
        return _join(result_names, results, others)

    return outer


def _split(tree: Any) -> tuple[list[str], list[mx.array], list[tuple[str, Any]]]:
    """Names of a tree's floating-point arrays, these arrays, and all other leaves with their names."""
    names, arrays, rest = [], [], []
    leaves: Any = tree_flatten(tree)
    for name, leaf in leaves:
        if isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating):
            names.append(name)
            arrays.append(leaf)
        else:
            rest.append((name, leaf))
    return names, arrays, rest


def _join(names: list[str], arrays: Sequence[mx.array], rest: list[tuple[str, Any]]) -> Any:
    return tree_unflatten([*zip(names, arrays, strict=True), *rest])
