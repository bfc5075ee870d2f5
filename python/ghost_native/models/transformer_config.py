"""The configuration of the transformer: a frozen dataclass, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ghost_native.models.checked import CheckedConfig
from ghost_native.nn.linear import WeightMode

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

HIDDEN_UNIT = 16  # the feed-forward block's inner width is a multiple of it, as 2-bit weights need


@dataclass(frozen=True)
class TransformerConfig(CheckedConfig):
    """Everything that fixes a transformer's shape and behaviour.

    Attributes:
        vocab_size: number of token values; 256 for bytes.
        n_layers: number of blocks.
        d_model: width of the hidden state.
        n_heads: attention heads, a divisor of d_model; the width of a head is even.
        mlp_multiple: inner width of the feed-forward block, in multiples of d_model, rounded to a multiple of 16.
        dropout: share of the values of the embedding and of every block's two branches dropped in training.
        max_seq_len: longest context; longer texts go on in a context of the last tokens, see `Transformer.step`.
        rope_theta: base of the wavelengths of the rotary position embedding.
        ffn_activation: "silu" for SwiGLU (three matrices), "gelu" for a plain block (two).
        norm_eps: added to the mean square in RMSNorm.
        tie_embeddings: the head multiplies by the embedding's matrix.
        weights: "codebook" for 2-bit weights in all blocks, "float" for plain ones. Embedding and head are float.
    """

    vocab_size: int = 32000
    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    mlp_multiple: float = 4.0
    dropout: float = 0.1
    max_seq_len: int = 4096
    rope_theta: float = 10000.0
    ffn_activation: Literal["silu", "gelu"] = "silu"
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    weights: WeightMode = "float"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layers", "d_model", "n_heads", "max_seq_len"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.weights in ("codebook", "float"), "weights", "'codebook' or 'float'")
        self._require(self.weights == "float" or self.d_model % HIDDEN_UNIT == 0, "d_model",
                      f"a multiple of {HIDDEN_UNIT} with weights = 'codebook'")  # fmt: skip
        self._require(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of d_model = {self.d_model}")
        self._require(self.head_dim % 2 == 0, "n_heads", f"a divisor of d_model / 2 = {self.d_model / 2:g}, so that "
                      "heads have an even width")  # fmt: skip
        self._require(0 < self.mlp_multiple <= 64, "mlp_multiple", "more than 0, at most 64")
        self._require(0 <= self.dropout < 1, "dropout", "0 to below 1")
        self._require(self.rope_theta > 0, "rope_theta", "more than 0")
        self._require(self.ffn_activation in ("silu", "gelu"), "ffn_activation", "'silu' or 'gelu'")
        self._require(0 < self.norm_eps < 1, "norm_eps", "between 0 and 1")

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.d_model // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Inner width of the feed-forward block."""
        return max(1, round(self.mlp_multiple * self.d_model / HIDDEN_UNIT)) * HIDDEN_UNIT

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A configuration by name: tiny (7M parameters), small (30M), medium (137M) or large (500M), some values
        changed.

        Raises:
            ValueError: there is no such preset, or a change is out of range.
        """
        if name not in TRANSFORMER_PRESETS:
            allowed = ", ".join(TRANSFORMER_PRESETS)
            raise ValueError(f"[TransformerConfig] unknown preset, given {name!r}, allowed: {allowed}.")
        return cls.from_dict({**TRANSFORMER_PRESETS[name], **changes})


# Width, depth and heads fix the size but for the vocabulary and the inner width. 137M is a SwiGLU transformer of 32,000
# tokens with tied embeddings and mlp_multiple 4. Such an embedding alone has 8.2M parameters at the width of the
# smallest, so tiny and small are models of bytes, and mlp_multiple makes up the rest.
TRANSFORMER_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 256, "n_layers": 6, "d_model": 256, "n_heads": 8, "mlp_multiple": 4.5},
    "small": {"vocab_size": 256, "n_layers": 8, "d_model": 512, "n_heads": 8, "mlp_multiple": 3.5},
    "medium": {"vocab_size": 32000, "n_layers": 12, "d_model": 768, "n_heads": 12, "mlp_multiple": 4.0},
    "large": {"vocab_size": 32000, "n_layers": 24, "d_model": 1024, "n_heads": 16, "mlp_multiple": 5.0},
}
