"""What a configuration will take, before anything is trained: parameters, arithmetic, memory, disk, time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

import ghost_native
from ghost_native.models.config import GhostConfig
from ghost_native.models.export import load_model
from ghost_native.models.ghost import Ghost
from ghost_native.models.transformer import Transformer
from ghost_native.models.transformer_config import TransformerConfig
from ghost_native.train.run_config import RunConfig
from ghost_native.train.saved import model_file

BYTES = 4  # of a float32
# Values a token leaves behind for the gradients, relative to a count by hand of what the layers keep: MLX holds some
# arrays longer than they are needed. Fitted to measured peaks of widths 64 to 512, 2 to 12 layers, 128 to 8,192 tokens.
_GHOST_KEPT, _TRANSFORMER_KEPT = 1.27, 1.19
# What is held for a moment only, in multiples of the width.
_GHOST_PASSING, _TRANSFORMER_PASSING = 27.0, {"silu": 41.5, "gelu": 25.0}
_GHOST_LOGITS, _TRANSFORMER_LOGITS = 10.0, 1.9  # arrays of the size of the logits
_HALF = 0.55  # of all this where the residual stream is half precision
_TEACHER_LOGITS = 6.0  # likewise, for the divergence from a teacher
# Of a batch of facts, besides what its tokens leave as text does: values for every byte of a stored key, and a token.
_FACT_KEYS, _FACT_TOKENS = 560.0, 500.0
_KEY_WIDTH = 34  # bytes of a stored key, padded
_PASSING_WEIGHTS = 0.2  # copies of the weights alive for a moment
_EFFICIENCY = 0.3  # of the machine's peak that a whole step reaches


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        parameters: of the model, as its `count_params` says: without codebooks.
        flops_per_token: of a training step, forward and backward; an FMA counts 2. A teacher's or reference's forward
            pass counts too.
        tokens_per_step: in all micro-batches of one process.
        memory: bytes by what for; their sum is the peak of one process.
        checkpoint_bytes: of one checkpoint.
        disk_bytes: of all checkpoints that are kept at once.
        seconds_per_step, seconds: at about a third of this machine's measured peak, evaluation not counted; the former
            of a step on text, the latter with steps on facts, None where the configuration sets them.
    """

    parameters: int
    flops_per_token: float
    tokens_per_step: int
    memory: dict[str, float]
    checkpoint_bytes: float
    disk_bytes: float
    seconds_per_step: float
    seconds: float | None

    @property
    def peak_bytes(self) -> float:
        return sum(self.memory.values())


def estimate(config: RunConfig, *, peak_flops: float | None = None) -> Estimate:
    """The estimate for a configuration; no weights are made, but those of a teacher are read.

    Args:
        config: the run.
        peak_flops: of the machine, per second; measured in a quarter of a second when None.

    Raises:
        FileNotFoundError, ValueError: there is no model at train.teacher_path.
    """
    train = config.train
    model: Any = Ghost(config.model) if isinstance(config.model, GhostConfig) else Transformer(config.model)
    held = model.count_params() + model.count_codebook_params()
    weights = BYTES * held
    orthogonal = _inner_matrices(model) if train.optimizer == "muon" else 0
    moments = BYTES * (2 * (held - orthogonal) + orthogonal)
    tokens = train.micro_batch_size * config.data.seq_len * (2 if train.stage == "dpo" else 1)
    memory = {
        "weights": weights,
        "optimizer": moments,
        "activations": max(activation_bytes(config, tokens), _fact_bytes(config)),
        "passing": _PASSING_WEIGHTS * weights,
    }
    if train.grad_accum_steps > 1:
        memory["gradients"] = weights
    if train.ema_decay:
        memory["average"] = weights
    if train.stage == "dpo":
        memory["reference"] = weights
    flops = flops_per_token(config, model)
    text_flops = flops
    if train.stage == "dpo":
        text_flops += flops / 3  # the reference goes forward only
    if train.teacher_path:
        teacher = load_model(model_file(train.teacher_path))
        memory["teacher"] = teacher.nbytes() + _teacher_bytes(config, teacher, tokens)
        text_flops += flops_per_token(config, teacher) / 3
    checkpoint = weights + moments + memory.get("average", 0.0)
    step_tokens = tokens * train.grad_accum_steps
    if peak_flops is None:
        peak_flops = _measured_peak(train.precision)
    per_step = step_tokens * text_flops / (_EFFICIENCY * peak_flops)
    per_fact_step = _fact_tokens(config) * flops / (_EFFICIENCY * peak_flops)
    each = (1 - train.fact_mix) * per_step + (train.fact_mix + train.fact_share) * per_fact_step
    return Estimate(
        parameters=model.count_params(),
        flops_per_token=text_flops,
        tokens_per_step=step_tokens,
        memory=memory,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (train.ckpt_keep + 2) + weights,  # the best one, and one being written
        seconds_per_step=per_step,
        seconds=None if train.total_steps is None else each * train.total_steps,
    )


def activation_bytes(config: RunConfig, tokens: int) -> float:
    """Bytes that a micro-batch of `tokens` holds at once, beside the weights."""
    model, train = config.model, config.train
    width = model.dim if isinstance(model, GhostConfig) else model.d_model
    layers = model.num_layers if isinstance(model, GhostConfig) else model.n_layers
    kept, logits = (
        (_GHOST_KEPT, _GHOST_LOGITS) if isinstance(model, GhostConfig) else (_TRANSFORMER_KEPT, _TRANSFORMER_LOGITS)
    )
    layer = kept * (_ghost_layer(model) if isinstance(model, GhostConfig) else _transformer_layer(model))
    inside = layers * layer
    if train.gradient_checkpointing:
        inside = layers * 2 * width + layer  # inputs of all, the rest of one
    values = tokens * (inside + _passing(model) + logits * model.num_outputs)
    on_gpu = mx.default_device() != mx.Device(mx.cpu)
    half = train.precision == "float16" or (train.precision == "bfloat16" and on_gpu)
    return BYTES * values * (_HALF if half else 1.0)


def _fact_tokens(config: RunConfig) -> int:
    """Of a batch of facts with the text beside them, in one process; 0 where no facts are trained."""
    train = config.train
    used = train.fact_share or train.fact_mix
    return (train.fact_batch + train.fact_text) * config.data.seq_len if used else 0


def _fact_bytes(config: RunConfig) -> float:
    """Bytes that a batch of facts holds at once, beside the weights; such a batch is not accumulated."""
    tokens = _fact_tokens(config)
    if not tokens:
        return 0.0
    rows = 1 << config.train.num_facts.bit_length()  # with the null fact, rounded up to a power of two
    return activation_bytes(config, tokens) + BYTES * (_FACT_KEYS * rows * _KEY_WIDTH + _FACT_TOKENS * tokens)


def _teacher_bytes(config: RunConfig, teacher: Ghost | Transformer, tokens: int) -> float:
    """Bytes that a teacher adds besides its weights: its forward pass or the divergence, and a state it carries."""
    own, its = (_passing(model) for model in (config.model, teacher.config))
    held = BYTES * tokens * max(_TEACHER_LOGITS * teacher.config.num_outputs, its - own)
    carries = config.model_type == "ghost" and config.train.stage == "pretrain"
    if carries and isinstance(teacher, Transformer):
        length = min(teacher.context, config.train.reset_every * config.data.seq_len)
        streams = config.train.micro_batch_size * config.train.grad_accum_steps
        held += BYTES * streams * length * 2 * teacher.config.n_layers * teacher.config.d_model
    return held


def _passing(model: GhostConfig | TransformerConfig) -> float:
    """Values of a token that are held for a moment only."""
    if isinstance(model, GhostConfig):
        return _GHOST_PASSING * model.dim
    return _TRANSFORMER_PASSING[model.ffn_activation] * model.d_model


def _ghost_layer(config: GhostConfig) -> float:
    """Values a token leaves in one layer."""
    d, inner, hidden = config.dim, config.expand * config.dim, config.ffn_mult * config.dim
    rank = config.dt_rank or max(16, d // 16)
    mamba = 2 * d + 5 * inner + rank + 2 * config.dstate + inner * config.dstate / 32
    feed_forward = 2 * d + 2 * hidden
    attention = 6 * d * len(config.attention_at) / config.num_layers
    return mamba + feed_forward + attention


def _transformer_layer(config: TransformerConfig) -> float:
    d, hidden = config.d_model, config.hidden_dim
    return 8 * d + (3 if config.ffn_activation == "silu" else 2) * hidden


def flops_per_token(config: RunConfig, model: Any) -> float:
    """Of a model's training step: six for every weight that is multiplied, and what attention and scan add."""
    sizes: GhostConfig | TransformerConfig = model.config
    matrices: int = sum(w.size for name, w in model.weights().items() if w.ndim == 2 and _multiplies(name, sizes))
    matrices += sum(layer.num_weights for _, layer in model.codebook_layers() if layer.is_packed)
    if isinstance(sizes, GhostConfig):
        scan = 10.0 * sizes.num_layers * sizes.expand * sizes.dim * sizes.dstate
        return 6.0 * matrices + 3 * scan
    attention = 12.0 * sizes.n_layers * sizes.d_model * config.data.seq_len / 2
    return 6.0 * matrices + attention


def _multiplies(name: str, model: GhostConfig | TransformerConfig) -> bool:
    if name.endswith(("codebook", "codes", "conv_weight", "A_log")) or name.startswith("memory."):
        return False
    tied = isinstance(model, TransformerConfig) and model.tie_embeddings
    return tied or "embedding" not in name


def _inner_matrices(model: Any) -> int:
    """Weights that Muon takes."""
    from ghost_native.train.optimizer import weight_kind

    return sum(w.size for name, w in model.weights().items() if weight_kind(name, w, muon=True) == "orthogonal")


def _measured_peak(precision: str) -> float:
    if mx.default_device() != mx.Device(mx.cpu):
        return _gpu_peak()
    peak = ghost_native.measure_peak("bfloat16") if precision == "bfloat16" else None
    return peak or ghost_native.measure_peak("float32") or 1e11


def _gpu_peak() -> float:
    """Of a large product, as MLX has no figure of its own."""
    size = 2048
    x = mx.random.normal((size, size)).astype(mx.float16)
    mx.eval(x @ x)
    begin = time.perf_counter()
    mx.eval([x @ x for _ in range(4)])
    return 4 * 2 * size**3 / (time.perf_counter() - begin)
