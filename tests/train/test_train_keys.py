"""Every key of the `train` section changes what a run does or leaves behind; those of the loop alone are walked in
test_trainer.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from ghost_native.data import SentencePieceTokenizer
from ghost_native.models import Transformer, TransformerConfig, load_model
from ghost_native.models.checked import keys_of
from ghost_native.train import TrainSection
from ghost_native.train.assemble import build_run
from ghost_native.train.run import Watcher
from ghost_native.train.run_config import RunConfig
from tests.train import test_trainer
from tests.train.runs import weights

MODEL = {"vocab_size": 320, "n_layers": 2, "d_model": 16, "n_heads": 2, "dropout": 0.0, "max_seq_len": 32}
TRAIN = {
    "total_steps": 8, "micro_batch_size": 2, "lr": 1e-2, "optimizer": "adamw", "log_interval": 2, "eval_interval": 4,
    "eval_batches": 1, "ckpt_interval": 4, "ckpt_keep": 1, "sample_interval": 4, "sample_prompts": ["so"],
    "sample_tokens": 6,
}  # fmt: skip
LINE = "the quick brown fox jumps over the lazy dog, number {}.\n"
DPO = {"stage": "dpo", "checkpoint_path": "start.safetensors"}
FLOAT16 = {"precision": "float16"}

# Of every key: what it takes for the key to matter, and a value that is not the one there.
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "stage": ({}, "sft"),
    "checkpoint_path": ({}, "start.safetensors"),
    "tokenizer_path": ({}, "t.model"),
    "ema_decay": ({}, 0.9),
    "loss_scale": (FLOAT16, 8.0),
    "compile": ({}, True),
    "gradient_checkpointing": ({}, True),
    "save_dir": ({}, "elsewhere"),
    "log_path": ({}, "lines"),
    "log_interval": ({}, 3),
    "eval_interval": ({}, 3),
    "eval_batches": ({}, 2),
    "ckpt_interval": ({}, 3),
    "ckpt_keep": ({}, 2),
    "sample_interval": ({}, 3),
    "sample_prompts": ({}, ["no"]),
    "sample_tokens": ({}, 3),
    "sample_temperature": ({}, 0.0),
    "dpo_beta": (DPO, 2.0),
    "teacher_path": ({}, "start.safetensors"),
}
LEAVES_THE_WEIGHTS = (
    "save_dir", "log_path", "log_interval", "eval_interval", "eval_batches", "ckpt_interval", "ckpt_keep",
    "sample_interval", "sample_prompts", "sample_tokens", "sample_temperature",
)  # fmt: skip
TIMES = ("throughput", "sec", "memory", "cpu", "bytes", "percent")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that any stage can read, a model to start from and a tokenizer."""
    pytest.importorskip("sentencepiece", reason="needs the tokenizer extra")
    root = tmp_path_factory.mktemp("keys")
    with (root / "rows.jsonl").open("w") as file:
        for k in range(80):
            row = {"text": LINE.format(k) * 2, "prompt": f"say {k}", "response": f"{k} it is", "chosen": "one",
                   "rejected": "two"}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    (root / "t.model").write_bytes(SentencePieceTokenizer.train([LINE.format(k) for k in range(300)], 320).model)
    Transformer(TransformerConfig(**MODEL), seed=9).save(root / "start.safetensors")
    return root


class Seen(Watcher):
    """What a run told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.recomputes = False
        self.model: Any = None

    def stepped(self, report: Any) -> None:
        self.recomputes |= self.model.recomputes
        self.said.append((report.step, report.loss, report.grad_norm))

    def saved(self, step: int, path: Path) -> None:
        self.said.append(("saved", step))


def trace(folder: Path, **changes: Any) -> dict[str, Any]:
    """What a run in `folder` told, computed and left behind, but for times and sizes."""
    data = {"paths": [str(folder.parent / "rows.jsonl")], "seq_len": 16, "heldout": 0.3, "num_workers": 0}
    train = {**TRAIN, "save_dir": "run", **changes}
    for name in ("save_dir", "log_path"):
        train |= {name: str(folder / train[name])} if name in train else {}
    config = RunConfig.from_dict({"model": {"type": "transformer", **MODEL}, "data": data, "train": train})
    seen = Seen()
    run, _ = build_run(config, watcher=seen)
    seen.model = run.trainer.model
    summary = run.train()
    lines = [json.loads(line) for line in (run.logs / "metrics.jsonl").read_text().splitlines()]
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "tensorboard" not in str(path))
    exported = load_model(str(summary.model_path))
    return {
        "said": seen.said,
        "recomputed": seen.recomputes,
        "lines": [{k: v for k, v in line.items() if not any(time in k for time in TIMES)} for line in lines],
        "left": left,
        "exported": [mx.sum(w).item() for w in weights(exported).values()],
        "step": type(run.trainer._language).__name__,
    }


@pytest.fixture(scope="module")
def bases(place: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("name", CASES)
def test_every_key_changes_the_run(name, place, bases, monkeypatch):
    monkeypatch.chdir(place)
    needed, value = CASES[name]
    if str(needed) not in bases:
        first, again = (trace(place / f"base{len(bases)}{n}", **needed) for n in (0, 1))
        assert str(first) == str(again), "the same run twice is the same"
        bases[str(needed)] = first
    base, changed = bases[str(needed)], trace(place / name, **needed, **{name: value})
    differing = {part for part in base if str(base[part]) != str(changed[part])}
    assert differing
    if name in LEAVES_THE_WEIGHTS:
        assert "exported" not in differing, "what is written down does not change what is learned"


def test_no_key_is_without_a_case():
    walked = [*CASES, *test_trainer.CHANGES, *test_trainer.WITH_MUON]
    assert sorted(walked) == sorted(keys_of(TrainSection))
    for name, (needed, value) in CASES.items():
        assert {**TrainSection().to_dict(), **TRAIN, **needed}[name] != value, name
