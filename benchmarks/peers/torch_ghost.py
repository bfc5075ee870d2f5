"""Ghost v6 in PyTorch: the same function of the same weights, trained by the same losses, for comparison.

Written for PyTorch's strengths on a CPU: its fused attention and AdamW, products on dense weights decoded once per
training step (once and for all for inference), the fastest scan of `torch_scan`. Without routing and facts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers.torch_peer import attention_bias, use_threads
from benchmarks.peers.torch_scan import in_place_scan
from benchmarks.workloads import ghost
from ghost_native.models import Ghost
from ghost_native.train import TrainSection

Tensor = torch.Tensor
State = dict[str, Any]

_LEAKY_CHUNK = 256  # steps of the tokenizer's state that are one product


class Output(NamedTuple):
    logits: Tensor
    cheap_logits: Tensor
    boundary_logit: Tensor
    surprise: Tensor
    state: State


class _Decode(torch.autograd.Function):
    """The nearest of four levels; the gradient passes straight through to the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, codebook: Tensor) -> Tensor:
        levels, order = codebook.sort(-1)
        above = [weight > (levels[..., i] + levels[..., i + 1]) / 2 for i in range(3)]
        a, b, c, d = levels.unbind(-1)
        ctx.save_for_backward(order, *above)
        return torch.where(above[1], torch.where(above[2], d, c), torch.where(above[0], b, a))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        order, *above = ctx.saved_tensors
        axes: Any = 1 if order.ndim == 3 else None
        at_least = [dy.sum(axes), *((dy * mask).sum(axes) for mask in above)]
        sums = [a - b for a, b in itertools.pairwise(at_least)] + at_least[-1:]
        grouped = torch.stack(sums, -1).reshape(order.shape)
        return dy, torch.zeros_like(grouped).scatter_(-1, order, grouped)


def latent_product(x: Tensor, weight: Tensor, codebook: Tensor) -> Tensor:
    """`ghost_native.codebook_matmul_latent`."""
    return F.linear(x, _Decode.apply(weight, codebook))  # type: ignore[no-untyped-call]


class TorchGhost:
    """The weights of a Ghost that is not packed, by the names they have there."""

    def __init__(self, model: Ghost) -> None:
        self.config = model.config
        unused = ("memory.", "router.context", "router.bias", "router.importance")
        self.weights = {
            name: torch.from_numpy(np.array(value)).requires_grad_()
            for name, value in model.weights().items()
            if not name.startswith(unused)
        }
        self._decoded: dict[str, Tensor] = {}

    def for_inference(self) -> TorchGhost:
        """Decode all weights now; there is no training after it."""
        with torch.no_grad():
            names = [name.removesuffix(".weight") for name in self.weights if name.endswith(".weight")]
            self._decoded = {name: self.dense(name) for name in names}
        return self

    def dense(self, name: str) -> Tensor:
        weight, codebook = self.weights[f"{name}.weight"], self.weights.get(f"{name}.codebook")
        if codebook is None or self.config.weights == "float":
            return weight
        rounded = codebook + (codebook.half().float() - codebook).detach()
        return _Decode.apply(weight, rounded)  # type: ignore[no-any-return, no-untyped-call]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._decoded[name] if name in self._decoded else self.dense(name))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], 1e-5)

    def conv(self, name: str, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Causal convolution with silu, one product per tap, which beats conv1d on channels-last tensors."""
        weight, seqlen = self.weights[f"{name}conv_weight"], x.shape[1]
        rows = torch.cat([before, x], 1)
        y = self.weights[f"{name}conv_bias"] + rows[:, :seqlen] * weight[:, 0]
        for i in range(1, weight.shape[1]):
            y = torch.addcmul(y, rows[:, i : i + seqlen], weight[:, i])
        return F.silu(y), rows[:, seqlen:]

    def init_state(self, batch: int = 1) -> State:
        config = self.config
        inner, keep = config.expand * config.dim, config.conv_width - 1
        channels = self.weights["tokenizer.rate"].shape[0]
        layer = {
            "conv": torch.zeros(batch, keep, inner),
            "ssm": torch.zeros(batch, inner, config.dstate),
            "keys": torch.zeros(batch, 0, config.dim),
            "values": torch.zeros(batch, 0, config.dim),
        }
        return {
            "conv": torch.zeros(batch, keep, config.dim),
            "leaky": torch.zeros(batch, channels),
            "cheap": torch.zeros(batch, 1, 256),
            "layers": [layer] * config.num_layers,
        }

    def leaky(self, x: Tensor, before: Tensor) -> Tensor:
        """s[t] = exp(-r) s[t-1] + r x[t] per channel: constant decays make it a product with a triangle."""
        rate, parts = F.softplus(self.weights["tokenizer.rate"]), []
        for part in x.split(_LEAKY_CHUNK, 1):
            t = torch.arange(part.shape[1])
            lag = t[:, None] - t
            kernel = torch.where(
                lag >= 0, rate[:, None, None] * torch.exp(-rate[:, None, None] * lag.clamp(min=0)), 0.0
            )
            s = (kernel @ part.permute(2, 1, 0)).permute(2, 1, 0)
            s = s + before[:, None] * torch.exp(-rate * (t[:, None] + 1))
            parts.append(s)
            before = s[:, -1]
        return torch.cat(parts, 1)

    def tokenizer(self, tokens: Tensor, state: State, new: State) -> tuple[Tensor, Tensor]:
        weights = self.weights
        embedded = F.embedding(tokens, weights["tokenizer.embedding"])
        mixed, new["conv"] = self.conv("tokenizer.", embedded, state["conv"])
        h = embedded + mixed
        s = self.leaky(torch.tanh(self.linear("tokenizer.project", h)), state["leaky"])
        velocity = (s - torch.cat([state["leaky"][:, None], s[:, :-1]], 1)).abs()
        logit = velocity @ weights["tokenizer.boundary_weight"] + weights["tokenizer.boundary_bias"]
        new["leaky"] = s[:, -1]
        return h * (1 + torch.sigmoid(logit)[..., None]), logit

    def mamba(self, name: str, x: Tensor, state: State, new: State) -> Tensor:
        weights, config = self.weights, self.config
        u, new["conv"] = self.conv(f"{name}.", self.linear(f"{name}.in_proj_x", x), state["conv"])
        projected = self.linear(f"{name}.x_proj", u)
        dt, B, C = projected.split([projected.shape[-1] - 2 * config.dstate, config.dstate, config.dstate], -1)
        dt = F.softplus(self.linear(f"{name}.dt_proj", dt) + weights[f"{name}.dt_bias"])
        y, new["ssm"] = in_place_scan(u, dt, -torch.exp(weights[f"{name}.A_log"]), B, C, state["ssm"])
        y = (y + u * weights[f"{name}.D"]) * F.silu(self.linear(f"{name}.in_proj_z", x))
        return self.linear(f"{name}.out_proj", y)

    def attention(self, name: str, x: Tensor, state: State, new: State) -> Tensor:
        """All pairs under a mask; a stream keeps all keys."""
        config, (batch, seqlen, dim) = self.config, x.shape
        heads, begin = dim // min(config.head_dim, dim), state["keys"].shape[1]
        new["keys"] = torch.cat([state["keys"], self.linear(f"{name}.key", x)], 1)
        new["values"] = torch.cat([state["values"], self.linear(f"{name}.value", x)], 1)
        q, k, v = (
            rows.reshape(batch, -1, heads, dim // heads).transpose(1, 2)
            for rows in (self.linear(f"{name}.query", x), new["keys"], new["values"])
        )
        bias = attention_bias(begin, seqlen, heads, config.stride)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.linear(f"{name}.out", y.transpose(1, 2).reshape(batch, seqlen, dim))

    def __call__(self, tokens: Tensor, state: State | None = None) -> Output:
        """tokens (batch, seqlen) of int64."""
        state = self.init_state(tokens.shape[0]) if state is None else state
        new: State = {"layers": []}
        h, boundary_logit = self.tokenizer(tokens, state, new)
        x = self.norm("router.norm", h)
        x = x + self.linear("router.cheap_out", self.linear("router.cheap_in", x))
        cheap = F.linear(x, self.weights["head.weight"].detach())
        new["cheap"] = cheap[:, -1:]
        foreseen = torch.cat([state["cheap"], cheap[:, :-1]], 1)
        surprise = 1 - torch.exp(-F.cross_entropy(foreseen.transpose(1, 2), tokens, reduction="none"))
        for l in range(self.config.num_layers):
            name, before, after = f"layers.{l}", state["layers"][l], {**state["layers"][l]}
            h = h + self.mamba(f"{name}.mamba", self.norm(f"{name}.mamba_norm", h), before, after)
            if l in self.config.attention_at:
                h = h + self.attention(f"{name}.attention", self.norm(f"{name}.attention_norm", h), before, after)
            inner = F.gelu(self.linear(f"{name}.ffn.up", self.norm(f"{name}.ffn_norm", h)), approximate="tanh")
            h = h + self.linear(f"{name}.ffn.down", inner)
            new["layers"].append(after)
        return Output(self.linear("head", self.norm("norm", h)), cheap, boundary_logit, surprise, new)

    def loss(self, tokens: Tensor, targets: Tensor, config: TrainSection) -> Tensor:
        """`ghost_native.train.objective.text_objective` from an empty state."""
        out = self(tokens)
        flat = targets.reshape(-1)
        total = F.cross_entropy(out.logits.reshape(-1, 256), flat)
        total = total + config.cheap_weight * F.cross_entropy(out.cheap_logits.reshape(-1, 256), flat)
        surprise = -torch.log((1 - out.surprise).clamp(min=1e-6)).detach()
        usual = surprise.mean(-1, keepdim=True) + surprise.std(-1, keepdim=True, correction=0)
        begins = (surprise > usual).float()
        share = begins.mean(-1, keepdim=True).clamp(0.01, 0.99)
        weight = begins / share + (1 - begins) / (1 - share)
        entropy = F.softplus(out.boundary_logit) - out.boundary_logit * begins
        return total + config.boundary_weight * (0.5 * weight * entropy).mean()


def training_step(model: TorchGhost, tokens: Tensor, config: TrainSection) -> Callable[[], Tensor]:
    """Loss, gradients, clipping and AdamW, in the groups of `Optimizer`; gives the loss before the update."""
    rates = {"matrices": (1.0, config.weight_decay), "codebooks": (config.codebook_rate, 0.0), "rest": (1.0, 0.0)}
    groups: dict[str, list[Tensor]] = {group: [] for group in rates}
    for name, value in model.weights.items():
        groups["codebooks" if name.endswith("codebook") else "matrices" if value.ndim == 2 else "rest"].append(value)
    rate = 1e-4
    optimizer = torch.optim.AdamW(
        [{"params": groups[g], "lr": rate * scale, "weight_decay": decay} for g, (scale, decay) in rates.items()],
        betas=config.betas,
        eps=1e-10,
        fused=True,
    )

    def run() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], config)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.weights.values(), config.max_grad_norm, foreach=True)
        optimizer.step()
        return loss.detach()

    return run


def tokens_of(tokens: mx.array) -> Tensor:
    return torch.from_numpy(np.array(tokens).astype(np.int64))


@contextmanager
def inference() -> Iterator[None]:
    """Without autograd, on as many threads as our kernels have."""
    use_threads()
    with torch.inference_mode():
        yield


def training_run() -> Callable[[], Any]:
    """For `footprint`."""
    use_threads()
    tokens = tokens_of(ghost.text(ghost.BATCH, ghost.SEQLEN + 1))
    return training_step(TorchGhost(ghost.build()), tokens, TrainSection())


def forward_run() -> Callable[[], Any]:
    """For `footprint`."""
    model, tokens = TorchGhost(ghost.build()).for_inference(), tokens_of(ghost.text())

    def run() -> Tensor:
        with inference():
            return model(tokens).logits

    return run
