"""Small transformers for tests, and their weights as the reference takes them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ghost_native.models import Transformer, TransformerConfig
from ghost_native.models.export import llama_weights
from tests.models.transformer_ref import transformer_ref

SMALL: dict[str, Any] = {
    "vocab_size": 37, "n_layers": 3, "d_model": 32, "n_heads": 4, "mlp_multiple": 1.5, "dropout": 0.0,
    "max_seq_len": 64, "rope_theta": 100.0, "norm_eps": 1e-4,
}  # fmt: skip


def build(seed: int = 5, **changes: Any) -> Transformer:
    """Small, its initial weights made large enough that every one of them matters."""
    model = Transformer(TransformerConfig(**{**SMALL, **changes}), seed=seed)
    random = np.random.default_rng(seed)
    for module in model.modules():
        name = type(module).__name__
        if name == "RMSNorm":
            module.weight = mx.array(random.uniform(0.5, 1.5, module.weight.shape).astype(np.float32))
    for layer in model.layers:
        for out in (layer.attention.out, layer.ffn.down):
            out.update({k: 20 * w for k, w in out.parameters().items()})
    model.embedding.weight = model.embedding.weight * 8
    mx.eval(model.parameters())
    return model


def text(batch: int, seqlen: int, vocab: int = SMALL["vocab_size"], seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, vocab, (batch, seqlen)).astype(np.int32))


def float_weights(model: Transformer) -> dict[str, np.ndarray]:
    return {k: np.array(w, np.float64) for k, w in llama_weights(model.weights()).items()}


def reference(model: Transformer, tokens: mx.array, weights: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """What float64 says of a model's logits."""
    config = model.config
    return transformer_ref(
        float_weights(model) if weights is None else weights,
        np.array(tokens),
        num_heads=config.n_heads,
        theta=config.rope_theta,
        eps=config.norm_eps,
        activation=config.ffn_activation,
    )
