"""`ghost-native plot`: what is on the figure, and its errors."""

from __future__ import annotations

import pytest

from ghost_native.cli import main
from ghost_native.cli.plot import PANELS, draw, smoothed
from ghost_native.train.logs import RunLog, read_metrics

pytest.importorskip("matplotlib", reason="charts need the plot extra")


@pytest.fixture
def run(tmp_path):
    log = RunLog(tmp_path / "run" / "logs")
    for step in range(1, 11):
        log.record("train", {"step": step, "loss": 5.0 / step, "bpb": 7.0 / step, "throughput": 2000.0,
                             "peak_memory_bytes": 3e9, "learning_rate": 1e-3, "grad_norm": None,
                             "elapsed_sec": 60.0 * step, "tokens_processed": 10_000 * step})  # fmt: skip
    log.record("eval", {"step": 10, "bpb": 1.25, "elapsed_sec": 600.0, "tokens_processed": 100_000})
    log.close()
    return tmp_path / "run"


def test_lines_are_the_logged_numbers_in_the_units_said(run):
    figure = draw({"a": read_metrics(run)}, tuple(PANELS), "time", 0.0)
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes}
    train, heldout = axes["bits per byte"].get_lines()
    assert list(train.get_xdata()) == list(range(1, 11))
    assert list(train.get_ydata()) == [7.0 / step for step in range(1, 11)]
    assert (list(heldout.get_xdata()), list(heldout.get_ydata())) == ([10.0], [1.25])
    assert axes["peak memory (GB)"].get_lines()[0].get_ydata()[0] == pytest.approx(3.0)
    assert axes["throughput (thousand tokens/s)"].get_lines()[0].get_ydata()[0] == pytest.approx(2.0)
    assert not len(axes["gradient norm"].get_lines()[0].get_xdata())


def test_smoothing_keeps_a_constant_and_starts_without_bias():
    assert smoothed([2.0] * 5, 0.9) == pytest.approx([2.0] * 5)
    assert smoothed([1.0, 2.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 2) / 0.75])


def test_the_command_writes_a_picture_of_several_runs(run, tmp_path, capsys):
    out = tmp_path / "both.png"
    assert main(["plot", str(run), str(run / "logs" / "metrics.jsonl"), "--out", str(out), "--against", "tokens"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "step 10, loss 0.500, best held-out 1.250 bits per byte" in capsys.readouterr().out


def test_errors_say_what_to_name(run, tmp_path, capsys):
    assert main(["plot", str(tmp_path)]) == 1
    assert "no metrics.jsonl in" in capsys.readouterr().err
    empty = tmp_path / "empty"
    RunLog(empty).close()
    assert main(["plot", str(empty)]) == 1
    assert "has logged no step yet" in capsys.readouterr().err
    assert main(["plot", str(run), "--out", str(tmp_path / "x.doc")]) == 1
    assert "cannot write" in capsys.readouterr().err
