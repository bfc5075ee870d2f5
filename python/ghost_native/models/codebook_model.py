"""What models of codebook layers share: their weights counted, packed, and multiplied in a chosen precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from ghost_native.nn.linear import Activation, CodebookLinear, Product

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


class CodebookModel(nn.Module):
    """Base of models whose linear layers may have 2-bit weights."""

    def __init__(self) -> None:
        super().__init__()
        self._compute_dtype = "float32"
        self._checkpointing = False

    @property
    def compute_dtype(self) -> mx.Dtype:
        """Of the residual stream in ``forward``, and with it of most arithmetic; weights and the states of scans stay
        float32. float16 and bfloat16 pay on GPUs.
        """
        dtype: mx.Dtype = getattr(mx, self._compute_dtype)
        return dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: mx.Dtype) -> None:
        names = {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16"}  # a Dtype cannot be copied
        if dtype not in names:
            raise ValueError(
                f"[{type(self).__name__}] unknown compute_dtype, given {dtype}, allowed: {', '.join(names.values())}."
            )
        self._compute_dtype = names[dtype]

    def set_gradient_checkpointing(self, on: bool) -> Self:
        """Whether a pass in training mode keeps only every layer's input for the gradients, in place.

        The rest is computed again, one layer at a time: less memory for about a third more time. Gradients stay the
        same bit for bit (Chen et al., 2016, arXiv:1604.06174).
        """
        self._checkpointing = on
        return self

    @property
    def recomputes(self) -> bool:
        """Whether a pass now would keep only every layer's input."""
        return self._checkpointing and bool(self.training)

    def codebook_layers(self) -> list[tuple[str, CodebookLinear]]:
        """The layers with 2-bit weights, with their names."""
        return [(name, m) for name, m in self.named_modules() if isinstance(m, CodebookLinear) and "codebook" in m]

    def product_layers(self) -> list[Product]:
        """The layers that multiply by a matrix, of 2-bit weights or others."""
        return [m for _, m in self.named_modules() if isinstance(m, Product)]

    def weights(self) -> dict[str, mx.array]:
        """All weights as they are held now, by name."""
        named: Any = tree_flatten(self.parameters())
        return dict(named)

    def count_params(self) -> int:
        """Weights of the model, packed or not. Codebooks are counted apart, by :meth:`count_codebook_params`."""
        packed = sum(m.num_weights for _, m in self.codebook_layers() if m.is_packed)
        held = self.weights().items()
        return packed + sum(w.size for name, w in held if not name.endswith((".codebook", ".codes")))

    def count_codebook_params(self) -> int:
        """Levels in all codebooks."""
        return sum(m.codebook.size for _, m in self.codebook_layers())

    def pack(self) -> Self:
        """Hold every codebook layer as 2-bit codes, in place. Logits stay the same bit for bit; training ends here."""
        for _, layer in self.codebook_layers():
            layer.pack()
        return self

    def packed_bits_per_weight(self) -> float:
        """Bits each weight of the codebook layers takes once packed, codebooks included."""
        if not self.is_packed:
            name = type(self).__name__
            raise ValueError(f"[{name}.packed_bits_per_weight] the model is not packed, call pack() first.")
        layers = [m for _, m in self.codebook_layers()]
        return sum(m.packed_bits() for m in layers) / sum(m.num_weights for m in layers)

    def set_activation(self, activation: Activation) -> Self:
        """How CPUs multiply by the 2-bit weights, in place: "float32" (exact, as at first), "bfloat16" or "int8".

        bfloat16 takes half the time where the CPU has instructions for it, in training as well; int8 a third, for
        packed weights only. Products are then off by about 0.2 % and 1 %, which moves bpb in the third decimal. Single
        steps of a stream, GPUs, CPUs without such instructions and layers with float weights compute in float32; the
        latter have an `activation` of their own, which training in bfloat16 sets.

        Raises:
            ValueError: another activation, where there are 2-bit weights.
        """
        for _, layer in self.codebook_layers():
            layer.activation = activation
        return self

    @property
    def is_packed(self) -> bool:
        layers = self.codebook_layers()
        return bool(layers) and all(m.is_packed for _, m in layers)

    def nbytes(self) -> int:
        """Bytes of all weights as they are held now."""
        return sum(w.nbytes for w in self.weights().values())
