"""The configuration of Ghost: a frozen dataclass, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ghost_native.models.checked import CheckedConfig
from ghost_native.nn.linear import WeightMode

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


@dataclass(frozen=True)
class GhostConfig(CheckedConfig):
    """Everything that fixes a Ghost's shape and behaviour.

    Attributes:
        dim: width of the hidden state, a multiple of 16.
        num_layers: number of layers.
        dstate: states per channel of the selective scan.
        expand: inner width of a Mamba block, in multiples of dim.
        conv_width: width of the causal convolutions, 2 to 4.
        dt_rank: rank of the step-size projection; None for max(16, dim // 16).
        ffn_mult: inner width of the feed-forward block, in multiples of dim.
        attention_layers: layers with sparse attention; those past the last layer are left out.
        memory_layers: layers before which stored facts are read, likewise; if none is left, the last layer.
        stride: window and spacing of the sparse attention.
        head_dim: width of an attention head.
        weights: "codebook" for 2-bit weights, "float" for an unquantized twin.
        routing: skip layers per byte. Off, every byte goes through every layer.
        max_depth: deepest a byte may go; None for num_layers.
        min_depth: layers every byte goes through.
        threshold: bytes whose surprise is below it stop at min_depth.
        num_specials: token values from 256 on, besides the bytes; they may be fed but are not predicted.
        max_key, max_value: longest fact key and value, in bytes.
    """

    dim: int = 256
    num_layers: int = 6
    dstate: int = 16
    expand: int = 2
    conv_width: int = 4
    dt_rank: int | None = None
    ffn_mult: int = 4
    attention_layers: tuple[int, ...] = (3, 5)
    memory_layers: tuple[int, ...] = (2, 4)
    stride: int = 128
    head_dim: int = 64
    weights: WeightMode = "codebook"
    routing: bool = False
    max_depth: int | None = None
    min_depth: int = 1
    threshold: float = 0.5
    num_specials: int = 0
    max_key: int = 64
    max_value: int = 63

    def __post_init__(self) -> None:
        for name in ("attention_layers", "memory_layers"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in (
            "dim", "num_layers", "dstate", "expand", "ffn_mult", "stride", "head_dim", "min_depth", "max_key",
            "max_value",
        ):  # fmt: skip
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.dim % 16 == 0, "dim", "a multiple of 16")
        self._require(self.dim % min(self.head_dim, self.dim) == 0, "head_dim", f"a divisor of dim = {self.dim}")
        self._require(self.dstate <= 256, "dstate", "at most 256")
        self._require(2 <= self.conv_width <= 4, "conv_width", "2 to 4")
        self._require(self.dt_rank is None or (self.dt_rank > 0 and self.dt_rank % 16 == 0), "dt_rank",
                      "None or a multiple of 16")  # fmt: skip
        self._require(self.weights in ("codebook", "float"), "weights", "'codebook' or 'float'")
        self._require(0.0 <= self.threshold <= 1.0, "threshold", "0 to 1")
        self._require(self.num_specials >= 0, "num_specials", "0 or more")
        self._require(1 <= self.depth_limit <= self.num_layers, "max_depth", f"1 to num_layers = {self.num_layers}")
        self._require(self.min_depth <= self.depth_limit, "min_depth", f"at most max_depth = {self.depth_limit}")
        for name in ("attention_layers", "memory_layers"):
            self._require(all(l >= 0 for l in getattr(self, name)), name, "layer numbers from 0 on")

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
