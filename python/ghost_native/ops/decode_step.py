"""Whole bytes through a model in one call, for CPUs; what :meth:`ghost_native.models.Ghost.step` runs on.

Made for Ghost: its weights go in once, arrays of the state go in and out with every byte. The contract is that of
``csrc/decode_step/decode_step.h``; the NumPy form is :mod:`ghost_native.reference.decode_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ghost_native import _ext

if TYPE_CHECKING:
    from ghost_native._ext import DecodeFacts, DecodeModel

Parts = list[list[mx.array]]


def decode_available(arrays: Sequence[mx.array]) -> bool:
    """Whether steps may be fused: on a CPU stream, outside ``composed_form``, with no array that is being traced."""
    return _ext.decode_available(arrays)


def decode_model(sources: list[mx.array], model: Parts, layers: list[Parts], **config: Any) -> DecodeModel:
    """Weights in the form that a fused step reads, evaluated.

    Args:
        sources: the arrays that all this was made of, for ``made_of(arrays)``, which tells whether it is current.
        model, layers: weights in the order that ``decode_step.h`` names; a matrix is ``[weight]`` or
            ``[codes, codebook]``.
        config: head_dim, stride, eps, routing, min_depth, max_depth, threshold.

    Returns:
        An object with ``step(inputs, first, last, front, activation)``, which returns new states and results, or
        None where :func:`decode_available` does not hold for the inputs, or several bytes are asked for in an
        activation that the CPU has no instructions for. It is not differentiable.

    Raises:
        ValueError: a wrong number of parts or a wrong shape.
    """
    return _ext.DecodeModel(sources, model, layers, **config)


def decode_facts(sources: list[mx.array], weights: list[mx.array], hash_base: int) -> DecodeFacts:
    """Weights of a fact memory in the form that a fused step reads, evaluated.

    Args:
        sources: the arrays that all this was made of, as for :func:`decode_model`.
        weights: in the order of ``csrc/decode_step/decode_facts.h``.
        hash_base: that of the stored keys' hashes.

    Returns:
        An object with ``address(inputs)``, ``read(inputs, index)`` and ``copy(inputs)``, which do at once what
        ``FactMemory`` does as a graph. They are not differentiable.

    Raises:
        ValueError: a wrong number of weights or a wrong shape.
    """
    return _ext.DecodeFacts(sources, weights, hash_base)
