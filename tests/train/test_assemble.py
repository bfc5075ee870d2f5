"""From a configuration to a run that trains: every kind of data, tokenizer, stage and start."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.data import ByteTokenizer, SentencePieceTokenizer, ShardWriter, read_documents
from ghost_native.data.batch import PreferenceBatch
from ghost_native.models import Ghost, Transformer, TransformerConfig
from ghost_native.train import evaluate
from ghost_native.train.assemble import build_data, build_model, build_run, build_tokenizer
from ghost_native.train.run_config import RunConfig
from tests.train.runs import same_weights

GHOST = {"type": "ghost", "dim": 32, "num_layers": 2, "stride": 16, "num_specials": 6}
TRANSFORMER = {"type": "transformer", "vocab_size": 262, "n_layers": 2, "d_model": 32, "n_heads": 2, "dropout": 0.0}
LINE = "the quick brown fox jumps over the lazy dog, number {}.\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for k in range(8):
        (folder / f"part{k}.txt").write_text("".join(LINE.format(8 * i + k) for i in range(30)))
    with (folder.parent / f"{folder.name}.jsonl").open("w") as file:
        for k in range(60):
            file.write(json.dumps({"body": LINE.format(k) * 4}) + "\n")
    return folder


def config(tmp_path: Path, model: dict[str, Any], data: dict[str, Any], **train: Any) -> RunConfig:
    values = {"total_steps": 4, "micro_batch_size": 4, "lr": 3e-3, "optimizer": "adamw", "eval_interval": 2,
              "ckpt_interval": 2, "eval_batches": 2, "save_dir": str(tmp_path / "run")}  # fmt: skip
    return RunConfig.from_dict({"model": model, "data": {"seq_len": 32, **data}, "train": {**values, **train}})


def trained(made: RunConfig) -> Any:
    run, _ = build_run(made)
    summary = run.train()
    assert summary.steps == made.train.total_steps and summary.loss is not None and math.isfinite(summary.loss)
    return run, summary


@pytest.mark.parametrize("model", [GHOST, TRANSFORMER], ids=["ghost", "transformer"])
def test_plain_files(tmp_path, texts, model):
    run, summary = trained(config(tmp_path, model, {"paths": [str(texts)], "heldout": 0.2}, total_steps=30, lr=1e-2))
    assert 0 < summary.bpb < 7 and summary.best_bpb <= summary.bpb
    loaded = (Ghost if model is GHOST else Transformer).load(summary.model_path)
    assert same_weights(loaded, run.trainer.model)


def test_lines_of_json_with_a_field_of_their_own(tmp_path, texts):
    data = {"paths": [f"{texts}.jsonl"], "text_field": "body", "heldout": 0.3, "shuffle_buffer": 8, "num_workers": 1}
    run, summary = trained(config(tmp_path, TRANSFORMER, data))
    assert summary.bpb is not None and run.trainer.source.epoch >= 0
    with pytest.raises(ValueError, match="'text'"):
        next(build_data(config(tmp_path, TRANSFORMER, {"paths": [f"{texts}.jsonl"]}), ByteTokenizer()).source)


def test_held_out_rows_are_never_trained_on(tmp_path, texts):
    data = {"paths": [f"{texts}.jsonl"], "text_field": "body", "heldout": 0.3, "num_workers": 0}
    made = build_data(config(tmp_path, TRANSFORMER, data), ByteTokenizer())
    assert made.heldout_source is not None

    def numbers(source: Any, batches: int) -> set[int]:
        text = b"".join(
            bytes(t for t in row if t < 256) for _ in range(batches) for row in next(source).tokens.tolist()
        )
        return {int(part.split(b".")[0]) for part in text.split(b"number ")[1:] if b".\n" in part}

    trained_on, heldout = numbers(made.source, 80), numbers(made.heldout_source(), 30)
    assert trained_on and heldout and not trained_on & heldout
    assert len(trained_on | heldout) > 50


def test_shards_and_sentencepiece(tmp_path, texts):
    pytest.importorskip("sentencepiece", reason="needs the tokenizer extra")
    lines = [LINE.format(k) for k in range(300)]
    tokenizer = SentencePieceTokenizer.train(lines, 320)
    (tmp_path / "t.model").write_bytes(tokenizer.model)
    with ShardWriter(tmp_path / "shards", tokenizer) as writer:
        for line in lines:
            writer.add(tokenizer.encode(line))
    model = {**TRANSFORMER, "vocab_size": 320}
    data = {"paths": [str(tmp_path / "shards")], "heldout_paths": [f"{texts}.jsonl"], "text_field": "body"}
    train = {"tokenizer_path": str(tmp_path / "t.model"), "sample_interval": 4, "sample_prompts": ["the "]}
    run, summary = trained(config(tmp_path, model, data, **train))
    assert summary.bpb is not None and not run.byte_level
    lines = [json.loads(line) for line in (run.logs / "metrics.jsonl").read_text().splitlines()]
    assert "perplexity" in lines[0] and any(line["kind"] == "sample" for line in lines)
    small = config(tmp_path, {**TRANSFORMER, "vocab_size": 319}, data, **train)
    with pytest.raises(ValueError, match=r"has 320 tokens, the model 319; set model.vocab_size to 320"):
        build_tokenizer(small)


@pytest.fixture
def chats(tmp_path) -> Path:
    path = tmp_path / "chats.jsonl"
    with path.open("w") as file:
        for k in range(40):
            messages = [{"role": "user", "content": f"say {k}"}, {"role": "assistant", "content": f"{k} it is"}]
            file.write(json.dumps({"talk": messages}) + "\n")
    return path


@pytest.mark.parametrize("model", [GHOST, TRANSFORMER], ids=["ghost", "transformer"])
def test_supervised_tuning_of_answers(tmp_path, chats, model):
    data = {"paths": [str(chats)], "chat_field": "talk", "heldout": 0.2, "num_workers": 0}
    made = config(tmp_path, model, data, stage="sft", total_steps=30, lr=1e-2)
    batch = next(build_data(made, build_tokenizer(made)).source)
    counted = bytes(t for t in batch.targets[batch.weight > 0].tolist() if 3 < t < 256)
    assert b"it is" in counted and b"say" not in counted
    _, summary = trained(made)
    assert summary.bpb is not None and summary.loss < 4


@pytest.mark.parametrize("model", [GHOST, TRANSFORMER], ids=["ghost", "transformer"])
def test_preferences_from_a_checkpoint(tmp_path, texts, model):
    first, _ = trained(config(tmp_path / "first", model, {"paths": [str(texts)]}))
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for k in range(30):
            file.write(json.dumps({"q": f"count {k}", "good": "one two", "bad": "three four"}) + "\n")
    data = {"paths": [str(pairs)], "prompt_field": "q", "chosen_field": "good", "rejected_field": "bad",
            "heldout": 0.2, "num_workers": 0}  # fmt: skip
    made = config(tmp_path, model, data, stage="dpo", checkpoint_path=str(tmp_path / "first" / "run"), total_steps=20)
    assert same_weights(build_model(made), first.trainer.model)
    run, _ = build_run(made)
    assert isinstance(next(run.trainer.source), PreferenceBatch)
    run, _ = build_run(made)
    reports = []
    run.watcher.stepped = reports.append
    run.train()
    assert reports[0].loss == pytest.approx(math.log(2), rel=1e-3) and reports[-1].loss < 0.6 * math.log(2)
    run, _ = build_run(made)
    assert run.resume() == 20
    trained(config(tmp_path / "first", model, {"paths": [str(texts)]}, seed=5, save_dir=str(tmp_path / "other")))
    other = replace(made, train=replace(made.train, checkpoint_path=str(tmp_path / "other")))
    with pytest.raises(ValueError, match=r"measured against another model than before, given train.checkpoint_path"):
        build_run(other)[0].resume()


@pytest.mark.parametrize("key", ["checkpoint_path", "teacher_path"])
@pytest.mark.parametrize("place", ["", "model.safetensors", "step-00000002"])
def test_a_run_needs_no_model_of_its_own_folder(tmp_path, texts, key, place):
    data = {"paths": [str(texts)], "heldout": 0.2}
    trained(config(tmp_path, GHOST, data))
    with pytest.raises(ValueError, match=rf"train.{key} is in the run's own folder, where it would be replaced"):
        build_run(config(tmp_path, GHOST, data, **{key: str(tmp_path / "run" / place)}))
    (tmp_path / "run" / "model.safetensors").rename(tmp_path / "run" / "start.safetensors")
    build_run(config(tmp_path, GHOST, data, **{key: str(tmp_path / "run" / "start.safetensors")}))


def test_a_byte_tokenizer_by_name_needs_nothing_kept(tmp_path, texts):
    data = {"paths": [str(texts)], "heldout": 0.2}
    kept = tmp_path / "run" / "tokenizer.model"
    kept.parent.mkdir()
    kept.write_text("of no run")
    trained(config(tmp_path, TRANSFORMER, data, tokenizer_path="bytes"))
    assert kept.read_text() == "of no run"
    run, _ = build_run(config(tmp_path, TRANSFORMER, data, tokenizer_path="bytes"))
    run.train(overwrite=True)
    assert not kept.exists()


def test_starts_from_what_was_saved(tmp_path, texts):
    data = {"paths": [str(texts)]}
    first, summary = trained(config(tmp_path / "first", GHOST, data))
    for path in (summary.model_path, summary.checkpoint_path + "/model.safetensors", str(tmp_path / "first" / "run")):
        assert same_weights(build_model(config(tmp_path, GHOST, data, checkpoint_path=path)), first.trainer.model)
    other = config(tmp_path, {**GHOST, "dim": 48}, data, checkpoint_path=summary.model_path)
    with pytest.raises(ValueError, match=r"given model.dim = 32, allowed: 48"):
        build_model(other)
    with pytest.raises(ValueError, match="given a Ghost, allowed: a transformer"):
        build_model(config(tmp_path, TRANSFORMER, data, checkpoint_path=summary.model_path))
    packed = tmp_path / "packed.safetensors"
    Ghost.load(summary.model_path).pack().save(packed)
    with pytest.raises(ValueError, match="is packed to 2 bits, which cannot be trained"):
        build_model(config(tmp_path, GHOST, data, checkpoint_path=str(packed)))
    with pytest.raises(FileNotFoundError):
        build_model(config(tmp_path, GHOST, data, checkpoint_path=str(tmp_path / "none")))


def test_data_has_to_be_named(tmp_path):
    with pytest.raises(ValueError, match=r"no data is named, given neither data.paths nor data.dataset"):
        build_data(config(tmp_path, GHOST, {}), ByteTokenizer())


def test_this_pythons_own_text(tmp_path):
    made = build_data(config(tmp_path, GHOST, {"dataset": "python"}, fact_share=0.1), ByteTokenizer())
    assert made.heldout and made.plain is not None and next(made.plain).tokens.shape == (4, 32)


def test_held_out_files_must_be_others(tmp_path, texts):
    data = {"paths": [str(texts)], "heldout_paths": [str(texts / "part1.txt")]}
    with pytest.raises(ValueError, match=r"are also in data.paths; keep them apart"):
        build_data(config(tmp_path, GHOST, data), ByteTokenizer())


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_any_source_resumes_bit_for_bit(tmp_path, texts, chats, stage):
    data = {"paths": [f"{texts}.jsonl"], "text_field": "body"}
    if stage == "sft":
        data = {"paths": [str(chats)], "chat_field": "talk"}
    changes = {"stage": stage, "total_steps": 6, "ckpt_interval": 3}
    whole, _ = trained(config(tmp_path / "whole", TRANSFORMER, {**data, "shuffle_buffer": 8}, **changes))
    made = config(tmp_path / "broken", TRANSFORMER, {**data, "shuffle_buffer": 8}, **changes)
    first, _ = build_run(made)
    first.train(stop=lambda: first.trainer.step >= 4)
    second, _ = build_run(made)
    assert second.resume() in (4, 5)
    second.train()
    assert same_weights(whole.trainer.model, second.trainer.model)


def test_dropout_resumes_bit_for_bit(tmp_path, texts):
    model = {**TRANSFORMER, "dropout": 0.2}
    data = {"paths": [str(texts)]}
    whole, _ = trained(config(tmp_path / "whole", model, data, total_steps=6))
    made = config(tmp_path / "broken", model, data, total_steps=6)
    first, _ = build_run(made)
    first.train(stop=lambda: first.trainer.step >= 3)
    mx.random.seed(999)
    second, _ = build_run(made)
    second.resume()
    second.train()
    assert same_weights(whole.trainer.model, second.trainer.model)
    assert np.isfinite(np.array(second.trainer.model.norm.weight)).all()


def test_a_compiled_step_is_the_plain_one(tmp_path, texts):
    """Where MLX can compile: on Linux it needs a C++ compiler."""
    data, losses = {"paths": [str(texts)]}, []
    for compile_it in (False, True):
        run, _ = build_run(config(tmp_path / str(compile_it), TRANSFORMER, data, compile=compile_it, eval_interval=0))
        losses.append([report.loss for report in run.trainer.run()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_held_out_text_is_scored_in_contexts_as_long_as_those_trained_on(tmp_path, texts):
    """A transformer of long reach trained on short texts scores as one of that reach, in the run and when loaded."""
    data, scores = {"paths": [str(texts)], "heldout": 0.2}, []
    for reach in (256, 32):
        model = {**TRANSFORMER, "max_seq_len": reach}
        run, summary = trained(config(tmp_path / str(reach), model, data, total_steps=20, lr=1e-2))
        assert run.trainer.model.context == 32
        loaded = Transformer.load(summary.model_path)
        assert loaded.context == 32 and run.score() == pytest.approx(summary.bpb, rel=1e-6)
        scores.append(summary.bpb)
        if reach == 256:
            loaded.context = 256
            assert evaluate(loaded, read_documents([texts])[0]).bpb > 1.02 * summary.bpb
            first = str(summary.model_path)
            longer = config(tmp_path, model, {**data, "seq_len": 64}, checkpoint_path=first)
            shorter = config(tmp_path, model, {**data, "seq_len": 16}, checkpoint_path=first)
            assert build_model(longer).context == 64 and build_model(shorter).context == 32
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_teacher_must_predict_the_same_tokens(tmp_path, texts):
    path = tmp_path / "teacher.safetensors"
    Transformer(TransformerConfig(vocab_size=256, n_layers=1, d_model=32, n_heads=2)).save(path)
    data = {"paths": [str(texts)]}
    run, _ = build_run(config(tmp_path, {**GHOST, "num_specials": 0}, data, teacher_path=str(path)))
    assert run.trainer.teacher is not None and not run.trainer.teacher.training
    with pytest.raises(ValueError, match="predicts other tokens than the model, given 256 of them, allowed: 262"):
        build_run(config(tmp_path, TRANSFORMER, data, teacher_path=str(path)))
