"""Logs of a run: lines, events, summary, and what a killed writer leaves."""

from __future__ import annotations

import json
import math

import pytest

from ghost_native.train.logs import METRICS_FILE, SUMMARY_FILE, TENSORBOARD_FOLDER, RunLog, read_metrics


def test_lines_come_back(tmp_path):
    log = RunLog(tmp_path / "logs")
    log.record("train", {"step": 1, "loss": 2.5, "grad_norm": math.inf})
    log.record("eval", {"step": 1, "bpb": 3.0})
    log.text("sample", "hello", 1)
    log.close()
    wanted = [
        {"kind": "train", "step": 1, "loss": 2.5, "grad_norm": None},
        {"kind": "eval", "step": 1, "bpb": 3.0},
        {"kind": "sample", "step": 1, "name": "sample", "text": "hello"},
    ]
    for place in (tmp_path, tmp_path / "logs", tmp_path / "logs" / METRICS_FILE):
        assert read_metrics(place) == wanted


def test_a_resumed_run_drops_what_was_logged_after_its_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.record("train", {"step": step, "loss": float(step)})
    log.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    log = RunLog(tmp_path, step=3)
    log.record("train", {"step": 4, "loss": 40.0})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_a_new_run_leaves_nothing_of_an_earlier_one(tmp_path):
    pytest.importorskip("tensorboardX", reason="events come with the train extra")
    old = RunLog(tmp_path, tensorboard=True)
    old.record("train", {"step": 1, "loss": 1.0})
    old.summary({"steps": 1})
    old.close()
    events = set((tmp_path / TENSORBOARD_FOLDER).iterdir())
    resumed = RunLog(tmp_path, step=1)
    resumed.close()
    assert set((tmp_path / TENSORBOARD_FOLDER).iterdir()) == events and read_metrics(tmp_path)
    assert not (tmp_path / SUMMARY_FILE).exists(), "of an end that is no end any more"
    (tmp_path / "notes.txt").write_text("of somebody else")
    RunLog(tmp_path).close()
    assert not read_metrics(tmp_path) and not events & set((tmp_path / TENSORBOARD_FOLDER).iterdir())
    assert (tmp_path / "notes.txt").exists()


def test_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metrics.jsonl in .*; name the folder of a training run"):
        read_metrics(tmp_path)
    path = tmp_path / METRICS_FILE
    path.write_text('{"kind": "train", "step": 1}\nnot json\n')
    with pytest.raises(ValueError, match="line 2 is no JSON: 'not json'"):
        read_metrics(path)
    path.write_text('{"kind": "train"}\n')
    with pytest.raises(ValueError, match="line 1 has no step"):
        read_metrics(path)


def test_the_summary_is_json(tmp_path):
    log = RunLog(tmp_path)
    path = log.summary({"steps": 3, "bpb": 2.0})
    log.close()
    assert json.loads(path.read_text()) == {"steps": 3, "bpb": 2.0}


def test_tensorboard_events_hold_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX", reason="TensorBoard events need the train extra")
    from tensorboardX.proto import event_pb2

    log = RunLog(tmp_path, tensorboard=True)
    log.record("train", {"step": 7, "loss": 1.5, "note": "words are for the JSON alone"})
    log.close()
    data = next((tmp_path / TENSORBOARD_FOLDER).iterdir()).read_bytes()
    found, at = {}, 0
    while at < len(data):  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(data[at : at + 8], "little")
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        at += 16 + length
    assert found == {"train/loss": (7, 1.5)}


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'ghost-native\[train\]'"):
        RunLog(tmp_path, tensorboard=True)
