"""The configuration of the transformer: a frozen dataclass, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ghost_native.models.checked import CheckedConfig, Rule
from ghost_native.models.keys import key
from ghost_native.nn.linear import WeightMode

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

HIDDEN_UNIT = 16  # the feed-forward block's inner width is a multiple of it, as 2-bit weights need


@dataclass(frozen=True)
class TransformerConfig(CheckedConfig):
    """Everything that fixes a transformer's shape and behaviour."""

    vocab_size: int = key(32000, "token values; 256 for bytes, 262 with the special tokens of chats", low=1)
    n_layers: int = key(12, "number of blocks", low=1)
    d_model: int = key(768, "width of the hidden state", low=1)
    n_heads: int = key(12, "attention heads, which share d_model evenly", low=1)
    mlp_multiple: float = key(
        4.0, "inner width of the feed-forward block, in multiples of d_model, rounded to a multiple of 16",
        above=0, high=64,
    )  # fmt: skip
    dropout: float = key(
        0.1, "share of the embedding and of every block's two branches dropped in training", low=0, below=1
    )
    max_seq_len: int = key(
        4096,
        "longest context, and longest data.seq_len; longer texts go on in a context of the last tokens",
        low=1,
        unit="tokens",
    )
    rope_theta: float = key(10000.0, "base of the wavelengths of the rotary position embedding", above=0)
    ffn_activation: Literal["silu", "gelu"] = key(
        "silu", "silu for SwiGLU with its three matrices, gelu for a plain block of two"
    )
    norm_eps: float = key(1e-5, "added to the mean square in RMSNorm", above=0, below=1)
    tie_embeddings: bool = key(True, "the head multiplies by the embedding's matrix")
    weights: WeightMode = key(
        "float", "codebook for 2-bit weights in all blocks, float for plain ones; embedding and head are float"
    )

    RULES = (
        Rule("d_model", f"a multiple of {HIDDEN_UNIT}",
             lambda c: c.weights == "float" or c.d_model % HIDDEN_UNIT == 0, where="weights is 'codebook'"),
        Rule("n_heads", "a divisor of d_model = {d_model}", lambda c: c.d_model % c.n_heads == 0),
        Rule("n_heads", "a number of heads of even width out of d_model = {d_model}", lambda c: c.head_dim % 2 == 0),
    )  # fmt: skip

    @property
    def num_outputs(self) -> int:
        """Tokens it predicts."""
        return self.vocab_size

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
