"""Models of every kind, small and far from their initial weights, and texts for them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from ghost_native.models import Ghost, GhostConfig
from ghost_native.models.state import GhostState

SHAPES = {
    "heads": {"dim": 32, "num_layers": 3, "stride": 5, "head_dim": 16, "attention_layers": (0, 2)},
    "odd": {
        "dim": 48, "num_layers": 2, "stride": 20, "head_dim": 16, "dstate": 5, "conv_width": 2, "expand": 1,
        "attention_layers": (1,),
    },
    "rows": {"dim": 256, "num_layers": 1, "conv_width": 3, "stride": 1, "attention_layers": (0,), "head_dim": 256},
    "narrow": {"dim": 16, "num_layers": 1, "ffn_mult": 3, "dt_rank": 32, "attention_layers": (), "num_specials": 3},
}  # fmt: skip
KINDS = ["plain", "routed", "facts", "routed and facts"]


def build(shape: str = "heads", kind: str = "plain", weights: str = "packed") -> Ghost:
    settings = SHAPES[shape] | {"routing": "routed" in kind, "threshold": 0.985, "memory_layers": (0, 1)}
    model = Ghost(GhostConfig(**settings, weights="float" if weights == "float" else "codebook"), seed=3)
    # Shaken, so that nothing is zero, one, or the same for all channels; routes spread over the layers.
    model.update(tree_map(lambda w: w + 0.05 * mx.random.normal(w.shape), model.parameters()))
    model.router.bias = mx.array(0.3)
    model.router.context = model.router.context * 40
    if "facts" in kind:
        model.store_fact("capital of france", "Paris")
    if weights == "packed":
        model.pack()
    mx.eval(model.parameters())
    return model


def text(batch: int, seqlen: int) -> mx.array:
    tokens = np.random.default_rng(1).integers(0, 256, (batch, seqlen))
    prompt = np.frombuffer(b"the capital of france? ", np.uint8)
    tokens[0, : min(seqlen, len(prompt))] = prompt[:seqlen]
    return mx.array(tokens.astype(np.int32))


def arrays(state: GhostState) -> dict[str, mx.array]:
    return {name: x for name, x in tree_flatten(state) if isinstance(x, mx.array)}
