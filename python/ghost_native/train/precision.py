"""How a model computes while it is trained."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class Precision:
    """A model's precision from now on, and the way back.

    Args:
        model: whose products, and on a GPU whole residual stream, are computed otherwise.
        precision: "float32", "bfloat16" or "float16".
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._model = model
        self._layers = [(layer, layer.activation) for layer in model.product_layers()]
        self._dtype = model.compute_dtype
        if precision != "float32":
            on_cpu = mx.default_device() == mx.Device(mx.cpu)
            if precision == "bfloat16" and on_cpu:
                for layer, _ in self._layers:
                    layer.activation = "bfloat16"  # CPUs gain by the products alone
            else:
                model.compute_dtype = {"bfloat16": mx.bfloat16, "float16": mx.float16}[precision]

    def restore(self) -> None:
        """As it was before."""
        for layer, activation in self._layers:
            layer.activation = activation
        self._model.compute_dtype = self._dtype
