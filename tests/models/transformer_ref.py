"""The transformer in NumPy float64, written from the papers and with the names of weights of LlamaForCausalLM."""

from __future__ import annotations

import math

import numpy as np

Weights = dict[str, np.ndarray]


def transformer_ref(
    weights: Weights,
    tokens: np.ndarray,
    *,
    num_heads: int,
    theta: float = 10000.0,
    eps: float = 1e-5,
    activation: str = "silu",
) -> np.ndarray:
    """Logits (batch, seqlen, vocab) of tokens (batch, seqlen), the whole of which is the context."""
    return np.stack([_sequence(weights, row, num_heads, theta, eps, activation) for row in tokens])


def _sequence(
    weights: Weights, tokens: np.ndarray, num_heads: int, theta: float, eps: float, activation: str
) -> np.ndarray:
    embedding = weights["model.embed_tokens.weight"]
    h = embedding[tokens]
    for l in range(num_layers(weights)):
        block = {k.split(".", 3)[3]: w for k, w in weights.items() if k.startswith(f"model.layers.{l}.")}
        h = h + _attention(block, _norm(h, block["input_layernorm.weight"], eps), num_heads, theta)
        h = h + _feed_forward(block, _norm(h, block["post_attention_layernorm.weight"], eps), activation)
    return _norm(h, weights["model.norm.weight"], eps) @ weights.get("lm_head.weight", embedding).T


def num_layers(weights: Weights) -> int:
    return sum(name.endswith("input_layernorm.weight") for name in weights)


def _norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _attention(block: Weights, x: np.ndarray, num_heads: int, theta: float) -> np.ndarray:
    """One head and one query after another."""
    q, k, v = (x @ block[f"self_attn.{name}_proj.weight"].T for name in "qkv")
    seqlen, dim = x.shape
    width = dim // num_heads
    y = np.zeros_like(x)
    for head in range(num_heads):
        columns = slice(head * width, (head + 1) * width)
        keys = np.stack([_turned(k[m, columns], m, theta) for m in range(seqlen)])
        for n in range(seqlen):
            scores = keys[: n + 1] @ _turned(q[n, columns], n, theta) / math.sqrt(width)
            share = np.exp(scores - scores.max())
            y[n, columns] = share / share.sum() @ v[: n + 1, columns]
    return y @ block["self_attn.o_proj.weight"].T


def _turned(x: np.ndarray, position: int, theta: float) -> np.ndarray:
    """The halves of x as real and imaginary parts, turned by position * theta ** (-2 i / width)."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def _feed_forward(block: Weights, x: np.ndarray, activation: str) -> np.ndarray:
    up, down = (block[f"mlp.{name}_proj.weight"].T for name in ("up", "down"))
    if activation == "silu":
        gate = x @ block["mlp.gate_proj.weight"].T
        return (gate / (1 + np.exp(-gate)) * (x @ up)) @ down
    u = x @ up
    return (0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))) @ down
