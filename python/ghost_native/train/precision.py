"""How a model computes while it is trained, and while it is scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from ghost_native.nn.linear import Product


@contextmanager
def trained_in(model: Any, precision: str) -> Iterator[None]:
    """`with trained_in(model, precision):` its products, on a GPU its whole residual stream, are computed so.

    Args:
        model: as it was before, afterwards.
        precision: "float32", which leaves the model as it is, "bfloat16" or "float16".
    """
    with _restored(model) as layers:
        if precision == "bfloat16" and mx.default_device() == mx.Device(mx.cpu):
            for layer in layers:
                layer.activation = "bfloat16"  # CPUs gain by the products alone
        elif precision != "float32":
            model.compute_dtype = {"bfloat16": mx.bfloat16, "float16": mx.float16}[precision]
        yield


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """`with evaluating(model):` nothing is dropped, and everything computed in float32, however it is trained."""
    training = model.training
    with _restored(model) as layers:
        model.train(False)
        for layer in layers:
            layer.activation = "float32"
        model.compute_dtype = mx.float32
        try:
            yield
        finally:
            model.train(training)


@contextmanager
def _restored(model: Any) -> Iterator[list[Product]]:
    """`with` it, what is changed of the precision of a model and of its layers, which it gives, is so afterwards as
    before."""
    layers, dtype = model.product_layers(), model.compute_dtype
    activations = [layer.activation for layer in layers]
    try:
        yield layers
    finally:
        for layer, activation in zip(layers, activations, strict=True):
            layer.activation = activation
        model.compute_dtype = dtype
