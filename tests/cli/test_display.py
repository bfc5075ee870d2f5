"""How a run looks while it trains: on a terminal a bar, elsewhere lines."""

from __future__ import annotations

import io
import math

import mlx.core as mx
import pytest
from rich.console import Console

from ghost_native.cli import display as module
from ghost_native.cli import terminal
from ghost_native.cli.display import Display
from ghost_native.train import StepReport

REPORT = StepReport(
    step=12_345, progress=0.46, phase="text", loss=1.234, nats=math.log(2), learning_rate=1e-3, grad_norm=0.5,
    tokens=1_234_500, step_s=0.1, elapsed_s=10.0, remaining_s=754.0,
)  # fmt: skip


@pytest.fixture(params=[80, 100, 140])
def width(request):
    return request.param


@pytest.fixture
def shown(monkeypatch, width):
    """A terminal of this width, as text."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(terminal, "err", lambda: console)
    monkeypatch.setattr(mx, "get_peak_memory", lambda: 1_230_000_000)
    return console


def test_the_bar_shows_the_peak_of_memory(shown, width):
    with Display() as display:
        display.score = 1.1
        display.stepped(REPORT)
        line = "".join(segment.text for segment in shown.render(display._bar.get_renderable())).splitlines()[0]
    assert len(line) <= width and "\u2026" not in line, "everything has room"
    for part in ("step 12345", "46%", "loss 1.234", "bpb 1.000", "123.5 kB/s", "1.23 GB", "12:34 left"):
        assert part in line
    assert ("held-out 1.100" in line) == (width >= module._NARROW)


def test_lines_show_it_as_well(monkeypatch):
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    monkeypatch.setattr(terminal, "err", lambda: console)
    monkeypatch.setattr(mx, "get_peak_memory", lambda: 45_600_000)
    display = Display()
    display.score = 1.1
    display.stepped(REPORT)
    said = console.file.getvalue()
    assert "held-out 1.100 123.5 kB/s 45.60 MB" in said and "12 min 34 s left" in said
    Display(quiet=True).stepped(REPORT)
    assert console.file.getvalue() == said
