"""Every key of the data section changes what a run reads, or is refused where it cannot."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ghost_native.data import ByteTokenizer, SentencePieceTokenizer, ShardWriter
from ghost_native.data.batch import PreferenceBatch
from ghost_native.data.config import DataConfig
from ghost_native.models.checked import keys_of
from ghost_native.train.assemble import Data, build_data, build_run
from ghost_native.train.ranks import Ranks
from ghost_native.train.run_config import ConfigError, RunConfig

MODEL = {"type": "transformer", "vocab_size": 262, "n_layers": 1, "d_model": 32, "n_heads": 2, "dropout": 0.0}
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi omicron pi rho sigma tau".split()  # noqa: SIM905


def sentence(k: int) -> str:
    return " ".join(WORDS[(k * 7 + i * (k % 5 + 1)) % len(WORDS)] for i in range(9)) + f", number {k}.\n"


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of all kinds."""
    home = tmp_path_factory.mktemp("data")
    for name, shift in (("texts", 0), ("others", 1000)):
        (home / name).mkdir()
        for k in range(12):
            (home / name / f"part{k}.txt").write_text("".join(sentence(shift + 12 * k + i) for i in range(8)))
    rows = [{"text": sentence(k), "body": sentence(k + 500)} for k in range(80)]
    lines(home / "rows.jsonl", rows)
    lines(home / "heldout.jsonl", [{"text": sentence(k), "body": sentence(k + 500)} for k in range(200, 220)])
    talks = [[{"role": "user", "content": f"{who} {k}?"}, {"role": "assistant", "content": f"it is {k}"}]
             for who in ("say", "name") for k in range(40)]  # fmt: skip
    lines(home / "chats.jsonl", [{"messages": a, "talk": b} for a, b in zip(talks[:40], talks[40:], strict=True)])
    answers = [{"prompt": f"say {k}", "question": f"what is {k}", "response": f"{k}", "answer": f"it is {k}"}
               for k in range(40)]  # fmt: skip
    lines(home / "answers.jsonl", answers)
    pairs = [{"prompt": f"say {k}", "question": f"what {k}", "chosen": f"yes {k}", "rejected": f"no {k}",
              "better": f"sure {k}", "worse": f"never {k}"} for k in range(40)]  # fmt: skip
    lines(home / "pairs.jsonl", pairs)
    for name, shift in (("shards", 0), ("more-shards", 300)):
        with ShardWriter(home / name, ByteTokenizer(byte_end=False)) as writer:
            for k in range(60):
                writer.add(ByteTokenizer().encode(sentence(shift + k)))
    return home


@pytest.fixture(scope="module")
def tables(home: Path) -> Path:
    """Two configurations, of which one has two splits."""
    pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = home / "tables"
    folder.mkdir()
    for i, name in enumerate(("train", "test", "other")):
        pq.write_table(pa.table({"text": [sentence(1000 * i + k) for k in range(50)]}), folder / f"{name}.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  default: true\n  data_files:\n  - {split: train, path: train.parquet}\n"
        "  - {split: test, path: test.parquet}\n- config_name: second\n  data_files: other.parquet\n---\n"
    )
    return folder


def config(tmp_path: Path, data: dict[str, Any], model: dict[str, Any] = MODEL, **train: Any) -> RunConfig:
    values = {"total_steps": 2, "micro_batch_size": 2, "save_dir": str(tmp_path / "run"), **train}
    if train.get("stage") == "dpo":
        values["checkpoint_path"] = "somewhere"
    return RunConfig.from_dict({"model": model, "data": {"seq_len": 24, "num_workers": 0, **data}, "train": values})


def build(made: RunConfig, **more: Any) -> Data:
    tokenizer = ByteTokenizer(byte_end=made.model_type == "ghost")
    return build_data(made, tokenizer, **more)


def raw(batch: Any) -> list[bytes]:
    if isinstance(batch, PreferenceBatch):
        return [*raw(batch.chosen), *raw(batch.rejected)]
    return [batch.tokens.tobytes(), batch.targets.tobytes(), b"" if batch.weight is None else batch.weight.tobytes()]


def batches(source: Any, count: int = 12) -> list[list[bytes]]:
    return [raw(batch) for batch in islice(source, count)]


def seen(made: RunConfig) -> str:
    """What is read to train and to score, or what is wrong."""
    try:
        data = build(made)
        heldout = batches(data.heldout_source()) if data.heldout_source else [d.data for d in data.heldout]
        return repr((batches(data.source), heldout))
    except (ValueError, FileNotFoundError) as error:
        return f"{type(error).__name__}: {error}"


# -- every key --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A change of a key: what the configuration is besides, and the value. {} stands for the folder of the data."""

    value: Any
    base: dict[str, Any] = field(default_factory=lambda: {"paths": "{}/rows.jsonl"})
    stage: str = "pretrain"


TABLES = {"dataset": "{}/tables"}
CASES: dict[str, Case] = {
    "dataset": Case("{}/others", {"dataset": "{}/texts"}),
    "config": Case("second", TABLES),
    "split": Case("test", TABLES),
    "streaming": Case(False, TABLES),
    "shuffle_buffer": Case(5),
    "paths": Case("{}/others", {"paths": "{}/texts"}),
    "format": Case("text"),
    "heldout": Case(0.3),
    "heldout_paths": Case("{}/heldout.jsonl"),
    "text_field": Case("body"),
    "chat_field": Case("talk", {"paths": "{}/chats.jsonl"}, "sft"),
    "prompt_field": Case("question", {"paths": "{}/answers.jsonl"}, "sft"),
    "answer_field": Case("answer", {"paths": "{}/answers.jsonl"}, "sft"),
    "chosen_field": Case("better", {"paths": "{}/pairs.jsonl"}, "dpo"),
    "rejected_field": Case("worse", {"paths": "{}/pairs.jsonl"}, "dpo"),
    "packing": Case(False, {"paths": "{}/chats.jsonl", "seq_len": 90}, "sft"),
    "seq_len": Case(17),
    "seed": Case(3),
}
ELSEWHERE = {"num_workers", "cache_dir"}  # which change no batch; tests of their own are below


def placed(values: dict[str, Any], home: Path) -> dict[str, Any]:
    return {name: value.format(home) if isinstance(value, str) else value for name, value in values.items()}


def test_every_key_has_a_case():
    assert CASES.keys() | ELSEWHERE == keys_of(DataConfig).keys() and not CASES.keys() & ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_every_key_changes_what_is_read(tmp_path, home, request, name):
    case = CASES[name]
    if case.base is TABLES:
        request.getfixturevalue("tables")
    base = {"cache_dir": str(tmp_path / "cache")} if case.base is TABLES else {}
    base |= placed(case.base, home)
    changed = {**base, **placed({name: case.value}, home)}
    before, again, after = (seen(config(tmp_path, values, stage=case.stage)) for values in (base, dict(base), changed))
    assert before == again and "Error" not in before[:30], before[:300]
    assert after != before and "Error" not in after[:30], after[:300]


def test_prompts_of_preferences_have_a_field_of_their_own(tmp_path, home):
    base = {"paths": str(home / "pairs.jsonl")}
    one, other = (
        seen(config(tmp_path, {**base, "prompt_field": name}, stage="dpo")) for name in ("prompt", "question")
    )
    assert one != other and "Error" not in (one + other)[:30]


KINDS = ["texts", "rows.jsonl", "shards", "tables"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> dict[str, Any]:
    """The data keys for data of each kind."""
    if request.param == "tables":
        return {"paths": str(request.getfixturevalue("tables")), "cache_dir": str(tmp_path / "cache")}
    return {"paths": str(home / request.param)}


def working() -> int:
    return sum(thread.name == "prefetch" and thread.is_alive() for thread in threading.enumerate())


def test_workers_make_the_same_batches_ahead(tmp_path, kind):
    found, threads = [], []
    for workers in (0, 2):
        before = working()
        data = build(config(tmp_path, {**kind, "num_workers": workers}))
        found.append(batches(data.source))
        threads.append(working() - before)
        del data
    assert found[0] == found[1] and threads == [0, 1]


def test_as_many_workers_encode(tmp_path, home):
    class Spy(ByteTokenizer):
        threads: ClassVar[set[int]] = set()

        def encode_batch(self, texts: Any, num_threads: int = 1) -> list[np.ndarray]:
            self.threads.add(num_threads)
            return super().encode_batch(texts, num_threads)

    spy = Spy()
    next(build_data(config(tmp_path, {"paths": str(home / "rows.jsonl"), "heldout": 0, "num_workers": 3}), spy).source)
    assert spy.threads == {3}


def test_downloads_are_kept_where_it_is_said(tmp_path, tables):
    for name in ("one", "two"):
        build(config(tmp_path, {"dataset": str(tables), "streaming": False, "cache_dir": str(tmp_path / name)}))
        assert list((tmp_path / name).rglob("*.arrow"))


def text_of(source: Any, count: int) -> str:
    return "".join(
        bytes(t for t in row if t < 256).decode("latin-1") for batch in islice(source, count)
        for row in batch.tokens.tolist()
    )  # fmt: skip


@pytest.mark.parametrize("streaming", [True, False])
def test_a_buffer_of_one_keeps_the_order(tmp_path, kind, streaming):
    """Downloads are shuffled otherwise than streams; for all else `streaming` stays as it is."""
    data = {**kind, "heldout": 0, "shuffle_buffer": 1, "streaming": streaming or "cache_dir" not in kind}
    made = config(tmp_path, data, micro_batch_size=1, reset_every=16)
    said = text_of(build(made).source, 30)
    begins = [said.find(sentence(k)) for k in range(6)]
    assert begins == sorted(begins) and begins[0] == 0 and -1 not in begins
    shuffled = build(config(tmp_path, {**data, "shuffle_buffer": 1000}, micro_batch_size=1))
    assert text_of(shuffled.source, 30) != said


# -- what has no effect is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", ["texts", "shards", "rows.jsonl"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("shuffle_buffer", 200), ("config", "en"), ("split", "test"), ("streaming", False), ("cache_dir", "c"),
     ("text_field", "body")],
)  # fmt: skip
def test_keys_without_effect_are_refused(tmp_path, home, paths, name, value):
    data = {"paths": str(home / paths), name: value}
    if paths == "rows.jsonl" and name in ("shuffle_buffer", "text_field"):
        assert "Error" not in seen(config(tmp_path, data))[:30]
        return
    with pytest.raises(
        ValueError, match=rf"\[build_data\] data.{name} has no effect, given {value!r}, allowed: .*, its"
    ):
        build(config(tmp_path, data))
    beside = {**data, "heldout_paths": str(home / "heldout.jsonl")}
    assert ("has no effect" in seen(config(tmp_path, beside))) == (name != "text_field")


def test_a_whole_download_is_shuffled_whatever_the_buffer(tmp_path, tables):
    data = {"dataset": str(tables), "streaming": False, "shuffle_buffer": 7, "cache_dir": str(tmp_path / "c")}
    with pytest.raises(ValueError, match=r"data.shuffle_buffer has no effect, given 7, .* or 1 to keep its order"):
        build(config(tmp_path, data))


def test_records_are_needed_to_learn_from_answers(tmp_path, home):
    for paths in ("texts", "shards"):
        for stage in ("sft", "dpo"):
            with pytest.raises(ValueError, match=rf"\[build_data\] the stage {stage} needs records, given "):
                build(config(tmp_path, {"paths": str(home / paths)}, stage=stage))


def test_keys_that_datasets_do_not_have(tmp_path):
    with pytest.raises(
        ConfigError, match=r"data.format is out of range, given 'text', allowed: 'auto', where there is"
    ):
        config(tmp_path, {"dataset": "a/b", "format": "text"})
    with pytest.raises(ConfigError, match=r"data.heldout is out of range, given 0.2, allowed: 0.05"):
        config(tmp_path, {"dataset": "python", "heldout": 0.2})
    with pytest.raises(FileNotFoundError, match=r"\[build_data\] no such file or folder: no-such"):
        build(config(tmp_path, {"paths": "no-such"}))


# -- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_the_format_decides_whatever_the_names(tmp_path, home, sentencepiece):
    tokenizer: Any = ByteTokenizer()
    if sentencepiece:
        pytest.importorskip("sentencepiece", reason="needs the tokenizer extra")
        tokenizer = SentencePieceTokenizer.train([sentence(k) for k in range(200)], 300)
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "a.txt").write_text((home / "rows.jsonl").read_text())
    (folder / "b.jsonl").write_text((home / "heldout.jsonl").read_text())
    said = {}
    for name in ("auto", "text", "jsonl"):
        made = config(tmp_path, {"paths": str(folder), "format": name, "heldout": 0, "seq_len": 50},
                      {**MODEL, "vocab_size": 400}, micro_batch_size=1)  # fmt: skip
        source = build_data(made, tokenizer).source
        said[name] = "".join(
            tokenizer.decode_bytes(row).decode("utf-8", "replace") for batch in islice(source, 600)
            for row in batch.tokens.tolist()
        )  # fmt: skip
    assert '"body"' in said["text"] and "number 12." in said["text"] and "number 702." in said["text"]
    assert '"body"' not in said["jsonl"] and "number 12." in said["jsonl"] and "number 212." in said["jsonl"]
    assert '"body"' not in said["auto"] and "number 12." not in said["auto"] and "number 212." in said["auto"]


def test_shards_are_read_as_said(tmp_path, home):
    found = [seen(config(tmp_path, {"paths": str(home / "shards"), "format": name})) for name in ("auto", "shards")]
    assert found[0] == found[1] and "Error" not in found[0][:30]
    assert seen(config(tmp_path, {"paths": str(home / "shards"), "format": "text"})) != found[0]
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json; make shards with"):
        build(config(tmp_path, {"paths": str(home / "texts"), "format": "shards"}))
    with pytest.raises(ValueError, match=r"is a folder of shards, given 2 paths, allowed: it alone"):
        build(config(tmp_path, {"paths": [str(home / "shards"), str(home / "texts")]}))


def test_compressed_text_is_text(tmp_path):
    import gzip

    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("".join(map(sentence, range(40))).encode()))
    (tmp_path / "b.txt").write_text("".join(map(sentence, range(100, 140))))
    for name in ("auto", "text"):
        data = {"paths": [str(tmp_path / "a.txt.gz"), str(tmp_path / "b.txt")], "format": name, "heldout": 0}
        made = config(tmp_path, {**data, "seq_len": 500}, micro_batch_size=1)
        assert numbers(build(made).source, 20) > {0, 1, 2, 30, 101, 102, 130}


# -- what is held out -------------------------------------------------------------------------------------------------


def numbers(source: Any, count: int) -> set[int]:
    return {int(found) for found in re.findall(r"number (\d+)\.\n", text_of(source, count))}


def test_something_is_held_out_of_every_kind_and_never_trained_on(tmp_path, kind):
    data = build(config(tmp_path, {**kind, "heldout": 0.2, "seq_len": 300}))
    trained = numbers(data.source, 80)
    if data.heldout_source:
        heldout = numbers(data.heldout_source(), 40)
    else:
        text = "".join(bytes(document.data).decode() for document in data.heldout)
        heldout = {int(part.split(".")[0]) for part in text.split("number ")[1:]}
    assert trained and heldout and not trained & heldout
    assert 0.05 < len(heldout) / len(trained | heldout) < 0.4
    nothing = build(config(tmp_path, {**kind, "heldout": 0}))
    assert not nothing.heldout and nothing.heldout_source is None


def test_one_file_of_text_is_split_whatever_the_tokenizer(tmp_path):
    pytest.importorskip("sentencepiece", reason="needs the tokenizer extra")
    tokenizer = SentencePieceTokenizer.train([sentence(k) for k in range(200)], 300)
    (tmp_path / "a.txt").write_text("".join(map(sentence, range(100))))
    data = build_data(config(tmp_path, {"paths": str(tmp_path / "a.txt"), "heldout": 0.1}), tokenizer)
    assert data.heldout_source is not None and "held out" in data.describe

    def said(source: Any) -> str:
        return "".join(
            tokenizer.decode_bytes(r).decode("utf-8", "replace") for b in islice(source, 60) for r in b.tokens
        )

    assert "number 99." in said(data.heldout_source()) and "number 99." not in said(data.source)
    assert "number 5." in said(data.source) and "number 5." not in said(data.heldout_source())


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_of_few_records_one_is_held_out(tmp_path, count):
    lines(tmp_path / "few.jsonl", [{"text": sentence(k)} for k in range(count)])
    data = build(config(tmp_path, {"paths": str(tmp_path / "few.jsonl"), "heldout": 0.001, "seq_len": 100}))
    trained = numbers(data.source, 20)
    if count == 1:
        assert trained == {0} and data.heldout_source is None
        assert "nothing is held out of so few records, so nothing is scored: name data.heldout_paths" in data.describe
        return
    assert data.heldout_source is not None and "of so few records one is held out" in data.describe
    heldout = numbers(data.heldout_source(), 20)
    assert len(heldout) == 1 and trained | heldout == set(range(count)) and not trained & heldout


def test_files_on_both_sides_are_refused(tmp_path, home, kind):
    copy = tmp_path / "copy"
    source = Path(kind["paths"])
    if source.is_dir():
        copy.mkdir()
        for file in source.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    else:
        copy = copy.with_suffix(source.suffix)
        copy.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r"files below data.heldout_paths are also in data.paths; keep them apart: "):
        build(config(tmp_path, {**kind, "heldout_paths": str(copy)}))


def test_records_held_out_elsewhere_are_not_trained_on(tmp_path, home):
    lines(tmp_path / "some.jsonl", [{"text": sentence(k), "body": "another"} for k in range(5, 15)])
    data = {"paths": str(home / "rows.jsonl"), "seq_len": 300}
    assert numbers(build(config(tmp_path, {**data, "heldout": 0})).source, 40) == set(range(80))
    made = build(config(tmp_path, {**data, "heldout_paths": str(tmp_path / "some.jsonl")}))
    assert numbers(made.source, 40) == set(range(80)) - set(range(5, 15))
    assert made.heldout_source is not None and numbers(made.heldout_source(), 10) == set(range(5, 15))


def test_held_out_paths_may_be_of_another_kind(tmp_path, home, kind):
    for name, wanted in (("others", 1000), ("heldout.jsonl", 200), ("more-shards", 300)):
        data = build(config(tmp_path, {**kind, "heldout_paths": str(home / name), "seq_len": 300}))
        if data.heldout:
            said = {int(bytes(d.data).decode().split("number ")[1].split(".")[0]) for d in data.heldout}
        else:
            assert data.heldout_source is not None
            said = numbers(data.heldout_source(), 30)
        assert min(said) >= wanted and max(said) < wanted + 150, name
        assert max(numbers(data.source, 10)) < 150


@pytest.mark.parametrize("paths", ["texts", "rows.jsonl"])
def test_a_score_is_of_as_many_batches(tmp_path, home, paths, monkeypatch: pytest.MonkeyPatch):
    from ghost_native.train import assemble

    sizes = []
    evaluate, likelihood = assemble.evaluate, assemble.log_likelihood

    def counted(model: Any, documents: Any) -> Any:
        sizes.append(sum(map(len, documents)))
        return evaluate(model, documents)

    def counted_batch(model: Any, arrays: Any) -> Any:
        sizes[-1] += arrays["targets"].size
        return likelihood(model, arrays)

    monkeypatch.setattr(assemble, "evaluate", counted)
    monkeypatch.setattr(assemble, "log_likelihood", counted_batch)
    for count in (1, 3):
        made = config(tmp_path, {"paths": str(home / paths), "heldout": 0.4}, eval_batches=count)
        if paths == "rows.jsonl":
            sizes.append(0)
        score = build_run(made)[0].score
        assert score is not None and score() > 0
    assert sizes == [1 * 2 * 24, 3 * 2 * 24]


# -- several processes ------------------------------------------------------------------------------------------------

GHOST: dict[str, Any] = {"type": "ghost", "dim": 32, "num_layers": 1, "stride": 16}


def of_two(rank: int) -> Ranks:
    made = Ranks()
    made.rank, made.size = rank, 2
    return made


@pytest.mark.parametrize("paths", ["texts", "rows.jsonl"])
@pytest.mark.parametrize("workers", [0, 1])
def test_processes_have_their_own_text_beside_facts(tmp_path, home, paths, workers):
    data = {"paths": str(home / paths), "num_workers": workers}
    facts = {"fact_mix": 0.5, "micro_batch_size": 4}
    two = [build(config(tmp_path, data, GHOST, fact_text=3, **facts), ranks=of_two(rank)).plain for rank in (0, 1)]
    one = build(config(tmp_path, data, GHOST, fact_text=6, **facts)).plain
    assert one is not None and two[0] is not None and two[1] is not None
    for _ in range(7):
        whole, parts = next(one), [next(part) for part in two]
        for name in ("tokens", "targets"):
            first, second = (getattr(part, name) for part in parts)
            assert first.shape == (3, 24) and not np.array_equal(first, second)
            np.testing.assert_array_equal(np.concatenate([first, second]), getattr(whole, name))
    state = json.loads(json.dumps(two[0].state()))
    assert state == two[1].state()  # the first process saves it for all
    expected = [batch.tokens.tobytes() for batch in islice(two[1], 4)]
    again = build(config(tmp_path, data, GHOST, fact_text=3, **facts), ranks=of_two(1)).plain
    assert again is not None
    again.restore(state)
    assert [batch.tokens.tobytes() for batch in islice(again, 4)] == expected


def test_a_callable_makes_held_out_batches_anew(tmp_path, home):
    """Every score is of the same batches."""
    make: Callable[[], Any] | None = build(config(tmp_path, {"paths": str(home / "shards")})).heldout_source
    assert make is not None and batches(make()) == batches(make())
