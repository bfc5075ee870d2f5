"""The configuration of Ghost: a frozen dataclass, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghost_native.models.checked import CheckedConfig, Rule
from ghost_native.models.keys import key
from ghost_native.nn.linear import WeightMode

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


@dataclass(frozen=True)
class GhostConfig(CheckedConfig):
    """Everything that fixes a Ghost's shape and behaviour."""

    dim: int = key(256, "width of the hidden state", multiple_of=16)
    num_layers: int = key(6, "number of layers", low=1)
    dstate: int = key(16, "states per channel of the selective scan", low=1)
    expand: int = key(2, "inner width of a Mamba block, in multiples of dim", low=1)
    conv_width: int = key(4, "width of the causal convolutions", low=2, high=4, unit="bytes")
    dt_rank: int | None = key(None, "rank of the step-size projection; None for max(16, dim // 16)", multiple_of=16)
    ffn_mult: int = key(4, "inner width of the feed-forward block, in multiples of dim", low=1)
    attention_layers: tuple[int, ...] = key(
        (3, 5), "layers with sparse attention, counted from 0; those past the last layer are left out", low=0
    )
    memory_layers: tuple[int, ...] = key(
        (2, 4), "layers before which stored facts are read, likewise; if none is left, the last layer", low=0
    )
    stride: int = key(128, "window and spacing of the sparse attention", low=1, unit="bytes")
    head_dim: int = key(64, "width of an attention head", low=1)
    weights: WeightMode = key("codebook", "codebook for 2-bit weights, float for an unquantized twin")
    routing: bool = key(False, "skip layers per byte; off, every byte goes through every layer")
    max_depth: int | None = key(None, "with routing: deepest a byte may go; None for num_layers", low=1, unit="layers")
    min_depth: int = key(1, "with routing: layers every byte goes through", low=1, unit="layers")
    threshold: float = key(0.5, "with routing: bytes whose surprise is below it stop at min_depth", low=0, high=1)
    num_specials: int = key(
        0, "token values from 256 on, besides the bytes; they may be fed but are not predicted", low=0
    )
    max_key: int = key(64, "longest key of a fact", low=1, unit="bytes")
    max_value: int = key(63, "longest value of a fact", low=1, unit="bytes")

    RULES = (
        Rule("dstate", "at most 256", lambda c: c.dstate <= 256),
        Rule("head_dim", "a divisor of dim = {dim}", lambda c: c.dim % min(c.head_dim, c.dim) == 0),
        Rule("max_depth", "1 to num_layers = {num_layers}", lambda c: c.depth_limit <= c.num_layers),
        Rule("min_depth", "at most max_depth = {depth_limit}", lambda c: c.min_depth <= c.depth_limit),
    )

    @property
    def num_outputs(self) -> int:
        """Tokens it predicts: bytes."""
        return 256

    @property
    def depth_limit(self) -> int:
        return self.num_layers if self.max_depth is None else self.max_depth

    @property
    def attention_at(self) -> tuple[int, ...]:
        return tuple(l for l in self.attention_layers if l < self.num_layers)

    @property
    def memory_at(self) -> tuple[int, ...]:
        return tuple(l for l in self.memory_layers if l < self.num_layers) or (self.num_layers - 1,)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A configuration by name: speed, production, phone, quick_test or maximum, with some values changed."""
        if name not in PRESETS:
            raise ValueError(f"[GhostConfig] unknown preset, given {name!r}, allowed: {', '.join(PRESETS)}.")
        return cls.from_dict({**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "speed": {"dim": 128, "num_layers": 4},
    "production": {"dim": 256, "num_layers": 6},
    "phone": {"dim": 64, "num_layers": 2},
    "quick_test": {"dim": 128, "num_layers": 4},
    "maximum": {"dim": 512, "num_layers": 8},
}
