"""Data named over the shipped configurations, keys that cannot matter, and both sides of what is held out."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ghost_native.cli import configuration
from ghost_native.cli.parser import Parser
from ghost_native.data import ByteTokenizer, ShardWriter
from ghost_native.train.assemble import Data, build_data
from ghost_native.train.run_config import RunConfig

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MODEL = {"type": "transformer", "vocab_size": 262, "n_layers": 1, "d_model": 32, "n_heads": 2}


def sentence(k: int) -> str:
    return f"A sentence with the number {k}, which is followed by {k + 1}.\n"


def talk(k: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"say {k}"}, {"role": "assistant", "content": sentence(k)}]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Files for every stage."""
    (tmp_path / "texts").mkdir()
    for k in range(8):
        (tmp_path / "texts" / f"{k}.txt").write_text("".join(sentence(100 * k + i) for i in range(100)))
    rows = {
        "rows": [{"text": sentence(k)} for k in range(200)],
        "talks": [{"messages": talk(k)} for k in range(100)],
        "pairs": [{"prompt": f"say {k}", "chosen": sentence(k), "rejected": "no"} for k in range(100)],
    }
    for name, values in rows.items():
        lines(tmp_path / f"{name}.jsonl", values)
    return tmp_path


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(data: dict[str, Any], **train: Any) -> Data:
    train = {"total_steps": 2, "micro_batch_size": 2, **train}
    made = RunConfig.from_dict({"model": MODEL, "data": {"seq_len": 24, "num_workers": 0, **data}, "train": train})
    return build_data(made, ByteTokenizer())


# -- data named over a configuration ----------------------------------------------------------------------------------


def commanded(*words: str) -> RunConfig:
    parser = Parser("train", "Train.", "train texts")
    configuration.add_arguments(parser)
    return configuration.read(parser.parse(list(words)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_data_may_be_named_over_every_example(home, path):
    """As in `ghost-native train configs/minimal.yaml texts/`: nothing of the dataset that it is for is left."""
    stage = RunConfig.load(path).train.stage
    for name in {"pretrain": ("texts", "rows.jsonl"), "sft": ("talks.jsonl",), "dpo": ("pairs.jsonl",)}[stage]:
        made = commanded(str(path), str(home / name), "--set", "data.seq_len=64", "--set", "data.num_workers=0")
        assert made.data.paths == (str(home / name),) and made.data.dataset is None
        data = build_data(made, ByteTokenizer(byte_end=made.model_type == "ghost"))
        next(data.source)


def test_the_edit_that_an_example_suggests(home):
    text = (CONFIGS[0].parent / "minimal.yaml").read_text()
    both = [line for line in text.splitlines() if line.startswith(("  dataset:", "  config:"))]
    assert "or paths: [my/texts/] in place of both lines" in both[0]
    edited = text.replace("\n".join(both), f"  paths: [{home / 'texts'}]")
    made = RunConfig.parse(edited, changes=["seq_len=64"])
    next(build_data(made, ByteTokenizer(byte_end=True)).source)
    made = RunConfig.parse(edited.replace("data:\n", "data:\n  config: en\n  text_field: body\n"))
    with pytest.raises(ValueError, match=r"data.config has no effect.*; data.text_field has no.*: leave them out\."):
        build_data(made, ByteTokenizer())


# -- keys that cannot matter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [("pretrain", "chat_field", "talk"), ("pretrain", "prompt_field", "q"), ("pretrain", "answer_field", "a"),
     ("pretrain", "packing", False), ("pretrain", "chosen_field", "c"), ("sft", "text_field", "body"),
     ("sft", "rejected_field", "r"), ("dpo", "text_field", "body"), ("dpo", "packing", False),
     ("dpo", "chat_field", "talk")],
)  # fmt: skip
def test_keys_of_other_stages_are_refused(home, stage, name, value):
    paths = str(home / {"pretrain": "rows.jsonl", "sft": "talks.jsonl", "dpo": "pairs.jsonl"}[stage])
    with pytest.raises(ValueError, match=rf"data.{name} has no effect, given .*, in the stage {stage}; it is for "):
        build({"paths": paths, name: value}, stage=stage, **({"checkpoint_path": "x"} if stage == "dpo" else {}))


def test_a_share_beside_paths_to_hold_out_is_refused(home):
    data = {"paths": str(home / "texts"), "heldout_paths": str(home / "rows.jsonl")}
    assert build(data).heldout_source is not None
    with pytest.raises(ValueError, match=r"data.heldout has no effect, given 0.2, .*, beside data.heldout_paths: leav"):
        build({**data, "heldout": 0.2})


# -- both sides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["a.txt", "a.txt.gz", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("beside", ["b.txt", "b.txt.gz", "b.jsonl"])
def test_files_of_all_kinds_are_kept_apart(tmp_path, trained, beside):
    if trained == "a.csv":
        pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    rows = [{"text": sentence(k)} for k in range(50)]
    contents = {".txt": "".join(map(sentence, range(50))).encode(), ".csv": b"text\n" + b"one\n" * 50,
                ".jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}  # fmt: skip
    contents[".gz"] = gzip.compress(contents[".txt"], mtime=0)
    other = {
        ".txt": b"other text\n" * 50,
        ".gz": gzip.compress(b"still other\n" * 50),
        ".jsonl": b'{"text": "x"}\n' * 50,
    }
    (tmp_path / trained).write_bytes(contents[Path(trained).suffix])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / trained).write_bytes(contents[Path(trained).suffix])
    (tmp_path / "copy" / beside).write_bytes(other[Path(beside).suffix])
    heldout = [str(tmp_path / "copy" / name) for name in (trained, beside)]
    kinds = {Path(name).suffix for name in (trained, beside)}
    message = "are also in data.paths; keep them apart: .*a"
    if kinds & {".jsonl", ".csv"} and len(kinds) > 1:  # which are not read together
        message = "are files of different kinds; read them apart|is text and .* is JSON lines; read them apart"
    data = {"paths": str(tmp_path / trained), "cache_dir": str(tmp_path / "c")} if trained == "a.csv" else {
        "paths": str(tmp_path / trained)}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        build({**data, "heldout_paths": heldout})


def test_text_is_not_held_out_in_another_form(home):
    (home / "copy.txt.gz").write_bytes(gzip.compress((home / "texts" / "3.txt").read_bytes()))
    with pytest.raises(ValueError, match=r"are also in data.paths; keep them apart: texts/3.txt"):
        build({"paths": str(home / "texts"), "heldout_paths": str(home / "copy.txt.gz")})


def test_a_table_beside_others_is_not_read_and_not_held_against_it(home):
    pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (home / "tables").mkdir()
    pq.write_table(pa.table({"text": [sentence(k) for k in range(50)]}), home / "tables" / "train.parquet")
    (home / "tables" / "other.csv").write_text("text\n" + "".join(f"another {k}\n" for k in range(50)))
    data: dict[str, Any] = {"paths": str(home / "tables"), "heldout_paths": str(home / "tables" / "other.csv")}
    data |= {"cache_dir": str(home / "cache"), "streaming": False, "shuffle_buffer": 1}
    assert build(data).heldout_source is not None


def test_what_is_held_out_beside_text_is_tried_at_once(home):
    lines(home / "odd.jsonl", [{"body": sentence(k)} for k in range(20)])
    with pytest.raises(ValueError, match=r"field 'text'"):
        build({"paths": str(home / "texts"), "heldout_paths": str(home / "odd.jsonl")})


def test_nothing_is_left_where_all_is_held_out_elsewhere(home):
    rows = [{"text": sentence(k)} for k in range(200)]
    lines(home / "same.jsonl", rows[::-1])
    source = build({"paths": str(home / "rows.jsonl"), "heldout_paths": str(home / "same.jsonl")}).source
    with pytest.raises(ValueError, match=r"nothing is left of rows.jsonl, given 200 rows that are all held out elsew"):
        next(source)
    lines(home / "most.jsonl", rows[1:])
    source = build({"paths": str(home / "rows.jsonl"), "heldout_paths": str(home / "most.jsonl")}).source
    assert len(list(islice(source, 30))) == 30


@pytest.mark.parametrize("count", [2, 3])
def test_of_few_records_no_more_than_one_is_held_out(home, count):
    """Names of files are sought of which the hash would choose all of the lines."""
    from ghost_native.data.selection import is_heldout

    name = next(
        f"few{k}.jsonl" for k in range(10**6) if all(is_heldout(f"few{k}.jsonl:{i + 1}", 0.5) for i in range(count))
    )
    lines(home / name, [{"text": sentence(k)} for k in range(count)])
    data = build({"paths": str(home / name), "heldout": 0.5, "seq_len": 200})
    assert "of so few records one is held out" in data.describe and data.heldout_source is not None
    text = "".join(bytes(t for t in row if t < 256).decode() for row in next(data.heldout_source()).tokens.tolist())
    assert sum(sentence(k) in text for k in range(count)) == 1


def test_the_true_share_of_shards_is_told(home):
    with ShardWriter(home / "books", ByteTokenizer(byte_end=False)) as writer:
        for k in range(3):
            writer.add(ByteTokenizer().encode("".join(sentence(1000 * k + i) for i in range(200))))
    data = build({"paths": str(home / "books"), "heldout": 0.02})
    assert "; 0.02 of the tokens are held out" in data.describe
    with ShardWriter(home / "one", ByteTokenizer(byte_end=False)) as writer:
        writer.add(ByteTokenizer().encode(sentence(1)))
    assert "; 0.45 of the tokens are held out" in build({"paths": str(home / "one"), "heldout": 0.02}).describe
