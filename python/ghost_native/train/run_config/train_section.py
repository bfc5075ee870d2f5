"""The `train` section of a run: how long, how fast, how exact, and what is written down on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ghost_native.models.checked import CheckedConfig, Rule
from ghost_native.models.keys import key

Stage = Literal["pretrain", "sft", "dpo"]
Precision = Literal["float32", "bfloat16", "float16"]

FINAL_LR = 0.1  # the final learning rate as a share of the peak, where none is given
WARMUP = 0.03  # share of the run, likewise


@dataclass(frozen=True)
class TrainSection(CheckedConfig):
    """Everything that fixes a training run, given a model and its data."""

    # What is learned, and from where it starts.
    stage: Stage = key(
        "pretrain", "pretrain on text, sft on answers to prompts alone, dpo on which of two answers is better"
    )
    checkpoint_path: str | None = key(
        None, "weights to start from: a file or the folder of a run; None for fresh ones; --resume goes on with a run"
    )
    tokenizer_path: str | None = key(None, "SentencePiece model; None to read bytes")

    # How long.
    total_steps: int | None = key(50_000, "updates of the weights; None when seconds is given", low=1, unit="steps")
    seconds: float | None = key(
        None, "duration of the whole run, whose schedules then follow the clock; None when total_steps is given",
        above=0, unit="seconds",
    )  # fmt: skip
    micro_batch_size: int = key(1, "sequences that go through the model side by side", low=1)
    grad_accum_steps: int = key(1, "micro-batches whose gradients are averaged into one update", low=1)

    # How far each update goes.
    optimizer: Literal["muon", "adamw"] = key("muon", "muon for matrices with adamw for the rest, or adamw for all")
    lr: float = key(3e-4, "peak of the learning rate", above=0)
    min_lr: float | None = key(None, "learning rate at the end; None for a tenth of lr", low=0)
    warmup_steps: int | None = key(
        None, "updates over which the rate rises from 0; None for 3 % of the run", low=0, unit="steps"
    )
    weight_decay: float = key(0.02, "decoupled weight decay, of matrices only", low=0)
    max_grad_norm: float = key(1.0, "gradients are scaled down to this norm; 0 leaves them", low=0)
    momentum: float = key(0.95, "muon's momentum", low=0, below=1)
    adam_lr_multiplier: float = key(1.0, "rate of adamw beside muon, as a multiple of lr", above=0)
    betas: tuple[float, float] = key((0.9, 0.95), "adamw's decay rates of the first and second moment", low=0, below=1)
    ema_decay: float = key(
        0.0, "share of itself that a running average of the weights keeps at every update; the average is what is "
        "scored and exported; 0 for none", low=0, below=1,
    )  # fmt: skip

    # How exact, and at what cost.
    precision: Precision = key(
        "float32",
        "of products; weights, sums and states stay float32; with float16 the loss is scaled against underflow",
    )
    loss_scale: float = key(65536.0, "first scale of the loss in float16; it is halved at every overflow", low=1)
    compile: bool = key(False, "compile the step: faster after a slower start", only="transformer")
    gradient_checkpointing: bool = key(
        False, "recompute each layer's activations in the backward pass: less memory, more time"
    )

    # What is written down.
    save_dir: str = key("checkpoints", "folder for the checkpoints, and for the logs unless log_path is given")
    log_path: str | None = key(None, "folder for logs and summaries; None for logs in save_dir")
    log_interval: int = key(25, "updates from one logged line to the next", low=1, unit="steps")
    eval_interval: int = key(
        500, "updates from one score on held-out text to the next; 0 for never", low=0, unit="steps"
    )
    eval_batches: int = key(20, "batches of held-out text in such a score", low=1)
    ckpt_interval: int = key(2000, "updates from one checkpoint to the next", low=1, unit="steps")
    ckpt_keep: int = key(3, "newest checkpoints that are kept, besides the best", low=1)
    sample_interval: int = key(0, "updates from one set of samples to the next; 0 for none", low=0, unit="steps")
    sample_prompts: tuple[str, ...] = key((), "texts that samples continue")
    sample_tokens: int = key(64, "length of a sample", low=1, unit="tokens")
    sample_temperature: float = key(0.8, "randomness of samples; 0 takes the likeliest token", low=0)

    # Preferences and teachers.
    dpo_beta: float = key(0.1, "stage dpo: how closely the model keeps to the one it started from", above=0)
    teacher_path: str | None = key(None, "checkpoint of a model whose predictions are followed too; None for none")
    distill_weight: float = key(1.0, "weight of the divergence from the teacher's predictions", low=0)

    # Ghost's own.
    codebook_rate: float = key(0.3, "learning rate of 2-bit codebooks, as a multiple of that of the weights", low=0)
    reset_every: int = key(16, "windows after which the carried state starts anew", low=1, only="ghost")
    cheap_weight: float = key(0.3, "weight of the cheap predictor's cross-entropy", low=0, only="ghost")
    boundary_weight: float = key(0.05, "weight of the tokenizer's boundary loss", low=0, only="ghost")
    target_depth: float = key(
        0.5, "with routing: mean share of the layers that a byte should take", low=0, high=1, only="ghost"
    )
    depth_weight: float = key(10.0, "with routing: weight of the squared distance from it", low=0, only="ghost")
    fact_share: float = key(
        0.0, "batches of facts alone come first: for this share of seconds, or on top of total_steps for this share of "
        "them; 0 trains no facts", low=0, below=1, only="ghost",
    )  # fmt: skip
    fact_mix: float = key(0.0, "share of fact batches afterwards", low=0, below=1, only="ghost")
    fact_batch: int = key(10, "texts with questions in a fact batch", low=1, only="ghost")
    fact_text: int = key(
        4, "windows of plain text in it besides, on which stored facts must change nothing", low=0, only="ghost"
    )
    num_facts: int = key(48, "facts stored in each text of a fact batch", low=1, only="ghost")
    fact_weight: float = key(1.0, "weight of the memory's auxiliary loss", low=0, only="ghost")

    seed: int = key(0, "of the first weights, of dropout and of facts", low=0)

    RULES = (
        Rule("total_steps", "exactly one of total_steps = {total_steps} and seconds = {seconds}, the other None",
             lambda c: (c.total_steps is None) != (c.seconds is None)),
        Rule("warmup_steps", "at most total_steps = {total_steps}",
             lambda c: None in (c.total_steps, c.warmup_steps) or c.warmup_steps <= c.total_steps),
        Rule("min_lr", "at most lr = {lr}", lambda c: c.min_lr is None or c.min_lr <= c.lr),
        Rule("sample_prompts", "at least one text",
             lambda c: c.sample_interval == 0 or c.sample_prompts, where="sample_interval is not 0"),
        Rule("checkpoint_path", "the model to improve",
             lambda c: c.stage != "dpo" or c.checkpoint_path is not None, where="stage is dpo"),
        Rule("fact_share", "0", lambda c: c.stage == "pretrain" or c.fact_share == 0, where="stage is sft or dpo"),
        Rule("fact_mix", "0", lambda c: c.stage == "pretrain" or c.fact_mix == 0, where="stage is sft or dpo"),
    )  # fmt: skip

    @property
    def final_lr(self) -> float:
        """Learning rate at the end of the run."""
        return self.lr * FINAL_LR if self.min_lr is None else self.min_lr
