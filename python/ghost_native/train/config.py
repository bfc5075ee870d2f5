"""How a Ghost is trained: a frozen dataclass, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ghost_native.models.checked import CheckedConfig

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TrainConfig(CheckedConfig):
    """Everything that fixes a training run, given a model and its data.

    Attributes:
        batch: texts side by side.
        seqlen: bytes of each per step.
        steps: steps to take after the fact phase; None when seconds is given.
        seconds: wall-clock seconds for the whole run, facts included; None when steps is given. The learning rate
            follows elapsed time, so that a slow machine ends on time with a finished schedule.
        learning_rate: peak of AdamW's rate.
        final_rate: rate at the end, as a share of the peak; linear in between.
        warmup: share of the run over which the rate rises from zero.
        weight_decay: AdamW's decay, of matrices only.
        betas: AdamW's decay rates of the first and second moment.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        codebook_rate: rate of the codebooks, as a multiple of that of the weights.
        reset_every: windows after which the carried state starts anew.
        cheap_weight: weight of the cheap predictor's cross-entropy.
        boundary_weight: weight of the tokenizer's boundary loss.
        target_depth: mean share of the layers a byte should take, with routing.
        depth_weight: weight of the squared distance from it, with routing.
        fact_share: fact batches alone come first: for this share of `seconds`, or for this share of `steps` on top of
            them. 0 trains no facts.
        fact_mix: share of fact batches afterwards.
        fact_batch: texts with questions in a fact batch.
        fact_text: windows of plain text in it besides, on which stored facts must change nothing.
        num_facts: facts stored in each.
        fact_weight: weight of the memory's auxiliary loss.
        precision: of the products with 2-bit weights while training, "float32" or "bfloat16", which CPUs with
            instructions for it take half the time for; weights, sums and all else stay float32.
        distill_weight: weight of the divergence from a teacher's predictions, when one is given.
        seed: of batches and facts.
    """

    batch: int = 16
    seqlen: int = 128
    steps: int | None = None
    seconds: float | None = None
    learning_rate: float = 6e-3
    final_rate: float = 0.02
    warmup: float = 0.03
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    codebook_rate: float = 0.3
    reset_every: int = 16
    cheap_weight: float = 0.3
    boundary_weight: float = 0.05
    target_depth: float = 0.5
    depth_weight: float = 10.0
    fact_share: float = 0.0
    fact_mix: float = 0.0
    fact_batch: int = 10
    fact_text: int = 4
    num_facts: int = 48
    fact_weight: float = 1.0
    distill_weight: float = 1.0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        self._require((self.steps is None) != (self.seconds is None), "steps", "exactly one of steps and seconds")
        for name in ("batch", "seqlen", "reset_every", "fact_batch", "num_facts"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.steps is None or self.steps >= 1, "steps", "at least 1")
        self._require(self.seconds is None or self.seconds > 0, "seconds", "more than 0")
        self._require(self.precision in ("float32", "bfloat16"), "precision", "'float32' or 'bfloat16'")
        self._require(self.learning_rate > 0, "learning_rate", "more than 0")
        self._require(all(0 <= b < 1 for b in self.betas) and len(self.betas) == 2, "betas", "two values in [0, 1)")
        for name in ("final_rate", "warmup", "target_depth", "fact_share", "fact_mix"):
            self._require(0 <= getattr(self, name) <= 1, name, "0 to 1")
        self._require(self.fact_mix < 1 and self.fact_share < 1, "fact_mix", "below 1, to leave room for text")
        for name in (
            "fact_text", "weight_decay", "max_grad_norm", "codebook_rate", "cheap_weight", "boundary_weight",
            "depth_weight", "fact_weight", "distill_weight",
        ):  # fmt: skip
            self._require(getattr(self, name) >= 0, name, "0 or more")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """By name, with some values changed: speed, production, phone, quick_test or maximum."""
        if name not in PRESETS:
            raise ValueError(f"[TrainConfig] unknown preset, given {name!r}, allowed: {', '.join(PRESETS)}.")
        values = {**PRESETS[name], **changes}
        if values.get("seconds") is not None:
            values["steps"] = changes.get("steps")
        return cls.from_dict(values)


# Batch, length and steps of the named configurations; wider models want a lower rate.
PRESETS: dict[str, dict[str, Any]] = {
    "speed": {"batch": 32, "seqlen": 64, "steps": 100},
    "production": {"batch": 16, "seqlen": 256, "steps": 500, "learning_rate": 4e-3},
    "phone": {"batch": 4, "seqlen": 32, "steps": 300},
    "quick_test": {"batch": 16, "seqlen": 64, "steps": 100},
    "maximum": {"batch": 8, "seqlen": 512, "steps": 2000, "learning_rate": 2e-3},
}
