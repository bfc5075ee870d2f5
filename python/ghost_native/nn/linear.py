"""Linear layers: 2-bit codebook weights, trained through latent float weights, and plain float ones."""

from __future__ import annotations

import math
from typing import Literal

import mlx.core as mx
from mlx import nn

from ghost_native import ops

WeightMode = Literal["codebook", "float"]
Activation = Literal["float32", "bfloat16", "int8"]
ACTIVATIONS: tuple[Activation, ...] = ("float32", "bfloat16", "int8")

# Rows shorter than this share one codebook: four float16 levels per row would cost more than 0.25 bits a weight.
PER_ROW_FROM = 256


class Product(nn.Module):
    """Base of layers that multiply by a matrix, in a chosen precision."""

    def __init__(self) -> None:
        super().__init__()
        self._activation: Activation = "float32"

    @property
    def activation(self) -> Activation:
        """How the CPU multiplies; set to "bfloat16" or "int8" for speed at the errors `codebook_matmul` states.

        int8 is for 2-bit weights: products of others stay float32 with it.
        """
        return self._activation

    @activation.setter
    def activation(self, value: Activation) -> None:
        if value not in ACTIVATIONS:
            raise ValueError(
                f"[{type(self).__name__}] unknown activation, given {value!r}, allowed: {', '.join(ACTIVATIONS)}."
            )
        self._activation = value

    def product(self, x: mx.array, weight: mx.array) -> mx.array:
        """``x @ weight.T`` for float weights, in this layer's precision."""
        return ops.dense_matmul(x, weight, activation="bfloat16" if self._activation == "bfloat16" else "float32")


class Linear(Product):
    """``x @ weight.T (+ bias)`` in float32 weights, through `dense_matmul`.

    Args:
        in_features, out_features: widths of input and output.
        bias: add a learned bias, zero at first.
        scale: standard deviation of the initial weights; ``in_features ** -0.5`` by default.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.weight = _normal(out_features, in_features, scale)
        if bias:
            self.bias = mx.zeros((out_features,))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.product(x, self.weight)
        return y + self.bias if "bias" in self else y


class CodebookLinear(Product):
    """``x @ W.T`` where every weight is one of four learned levels, so that it takes two bits.

    While training, ``weight`` holds latent float weights: each forward pass assigns every one to its nearest level
    and multiplies with the levels, and the gradient passes straight through to the latent weight (Bengio et al.,
    2013, arXiv:1308.3432) and, summed per level, to the codebook. :meth:`pack` replaces the latent weights by
    2-bit codes; outputs stay the same bit for bit, because levels are rounded to float16 from the start.

    Args:
        in_features: a multiple of 16.
        out_features: any size.
        mode: ``"codebook"``, or ``"float"`` for an unquantized twin to compare with.
        per_row: one codebook per output row (default from 256 inputs on), else one for the layer.
        scale: standard deviation of the initial weights; ``in_features ** -0.5`` by default.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        mode: WeightMode = "codebook",
        per_row: bool | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("codebook", "float"):
            raise ValueError(f"[CodebookLinear] unknown mode, given {mode!r}, allowed: 'codebook', 'float'.")
        if mode == "codebook" and in_features % 16:
            raise ValueError(f"[CodebookLinear] in_features must be a multiple of 16, given {in_features}.")
        self.weight = _normal(out_features, in_features, scale)
        if mode == "codebook":
            per_row = in_features >= PER_ROW_FROM if per_row is None else per_row
            _, self.codebook = ops.codebook_quantize(self.weight, per="row" if per_row else "tensor")

    @property
    def is_packed(self) -> bool:
        return "codes" in self

    @property
    def num_weights(self) -> int:
        """Weights of the matrix, however they are held."""
        return int(self.codes.size * 16 if self.is_packed else self.weight.size)

    def __call__(self, x: mx.array) -> mx.array:
        if self.is_packed:
            return ops.codebook_matmul(x, self.codes, self.codebook, activation=self._activation)
        if "codebook" not in self:
            return self.product(x, self.weight)
        # Gradients of int8 products would stop training.
        activation = "bfloat16" if self._activation == "int8" else self._activation
        return ops.codebook_matmul_latent(x, self.weight, self.codebook, activation=activation, half_levels=True)

    def pack(self) -> None:
        """Replace latent weights by codes and the codebook by its float16 form. There is no training after it."""
        if self.is_packed or "codebook" not in self:
            return
        codebook = self.codebook.astype(mx.float16)
        self.codes = ops.codebook_assign(self.weight, codebook)
        self.codebook = codebook
        self.pop("weight")
        self.freeze(keys=["codes", "codebook"])

    def packed_bits(self) -> int:
        """Bits that codes and codebook take; only for packed layers."""
        return int(8 * (self.codes.nbytes + self.codebook.nbytes))


def _normal(rows: int, columns: int, scale: float | None) -> mx.array:
    return mx.random.normal((rows, columns)) * (1 / math.sqrt(columns) if scale is None else scale)
