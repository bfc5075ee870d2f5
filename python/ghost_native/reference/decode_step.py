"""NumPy float64 reference of what a fused step computes: Ghost's logits for a whole text, without any state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ghost_native.reference.causal_conv1d import causal_conv1d_ref
from ghost_native.reference.codebook_matmul import codebook_dequantize_ref
from ghost_native.reference.gelu import gelu_ref
from ghost_native.reference.rms_norm import rms_norm_ref
from ghost_native.reference.selective_scan import selective_scan_ref
from ghost_native.reference.sequences import Float
from ghost_native.reference.sparse_attention import sparse_attention_ref

Weights = Mapping[str, npt.NDArray[np.generic]]


def decode_ref(weights: Weights, tokens: npt.ArrayLike, *, num_layers: int, stride: int, head_dim: int) -> Float:
    """Logits (seqlen, 256) for the bytes of one stream, without routing and facts; weights by name, packed or float."""

    def get(name: str) -> Float:
        return np.asarray(weights[name], np.float64)

    def product(x: Float, name: str) -> Float:
        packed = f"{name}.codes" in weights
        w = codebook_dequantize_ref(get(f"{name}.codes"), get(f"{name}.codebook")) if packed else get(f"{name}.weight")
        y: Float = x @ w.T
        return y

    def mamba(x: Float, at: str) -> Float:
        u, _ = causal_conv1d_ref(
            product(x, f"{at}.in_proj_x")[None], get(f"{at}.conv_weight"), get(f"{at}.conv_bias"), activation="silu"
        )
        A = -np.exp(get(f"{at}.A_log"))
        projected = product(u[0], f"{at}.x_proj")
        rank, dstate = projected.shape[1] - 2 * A.shape[1], A.shape[1]
        dt, B, C = projected[:, :rank], projected[:, rank : rank + dstate], projected[:, rank + dstate :]
        delta, z = product(dt, f"{at}.dt_proj"), product(x, f"{at}.in_proj_z")
        y, _, _ = selective_scan_ref(
            u, delta[None], A, B[None], C[None], get(f"{at}.D"), z[None], delta_bias=get(f"{at}.dt_bias"),
            delta_softplus=True,
        )  # fmt: skip
        return product(y[0], f"{at}.out_proj")

    def attention(x: Float, at: str) -> Float:
        q, k, v = (product(x, f"{at}.{name}")[None] for name in ("query", "key", "value"))
        dim = q.shape[2]
        window, far = np.zeros((1, stride, dim)), np.zeros((1, 0, dim))
        y = sparse_attention_ref(
            q, k, v, window, window, far, far, np.zeros(1), num_heads=dim // min(head_dim, dim), stride=stride
        )
        return product(y[0], f"{at}.out")

    h = tokenize_ref(weights, tokens)
    for l in range(num_layers):
        at = f"layers.{l}"
        h = h + mamba(rms_norm_ref(h, get(f"{at}.mamba_norm.weight")), f"{at}.mamba")
        if f"{at}.attention_norm.weight" in weights:
            h = h + attention(rms_norm_ref(h, get(f"{at}.attention_norm.weight")), f"{at}.attention")
        up = product(rms_norm_ref(h, get(f"{at}.ffn_norm.weight")), f"{at}.ffn.up")
        h = h + product(gelu_ref(up), f"{at}.ffn.down")
    return product(rms_norm_ref(h, get("norm.weight")), "head")


def tokenize_ref(weights: Weights, tokens: npt.ArrayLike) -> Float:
    """The tokenizer's h (seqlen, dim)."""
    part = {k.removeprefix("tokenizer."): np.asarray(w, np.float64) for k, w in weights.items() if "tokenizer." in k}
    embedded = part["embedding"][np.asarray(tokens)]
    mixed, _ = causal_conv1d_ref(embedded[None], part["conv_weight"], part["conv_bias"], activation="silu")
    h: Float = embedded + mixed[0]
    features = np.tanh(h @ part["project.weight"].T)
    rate = np.logaddexp(part["rate"], 0.0)
    s = np.zeros(rate.size)
    for t, f in enumerate(features):
        before, s = s, np.exp(-rate) * s + rate * f
        logit = np.abs(s - before) @ part["boundary_weight"] + part["boundary_bias"]
        h[t] *= 1 + 1 / (1 + np.exp(-logit))
    return h


def cheap_ref(weights: Weights, h: Float) -> Float:
    """The cheap predictor's logits (seqlen, 256) from the tokenizer's h."""
    part = {k.removeprefix("router."): np.asarray(w, np.float64) for k, w in weights.items() if "router." in k}
    x = rms_norm_ref(h, part["norm.weight"])
    logits: Float = (x + x @ part["cheap_in.weight"].T @ part["cheap_out.weight"].T) @ np.asarray(
        weights["head.weight"], np.float64
    ).T
    return logits
