"""What a run writes down: a JSON line per logged step, TensorBoard events, a summary at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ghost_native.models.atomic import atomic_file

METRICS_FILE, SUMMARY_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "final_training_summary.json", "tensorboard"
_EVENTS = "events.out.tfevents.*"

Metrics = Mapping[str, float | int | str | None]


class RunLog:
    """The logs of one run.

    ``metrics.jsonl`` holds one object a line, each with "step" and either "kind": "train" or "kind": "eval"; numbers
    that are not finite are null. With TensorBoard the same numbers go to ``tensorboard/`` as train/loss and so on.

    Args:
        folder: where the logs are; made if missing.
        step: the run goes on from this step; what an earlier process logged after it is dropped. 0 for a new run, which
            leaves nothing of what an earlier run logged there.
        tensorboard: write event files too.

    Raises:
        ImportError: TensorBoard is asked for and tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path, *, step: int = 0, tensorboard: bool = False) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / SUMMARY_FILE).unlink(missing_ok=True)  # of an earlier end of the run
        if step == 0:
            for events in (self.folder / TENSORBOARD_FOLDER).glob(_EVENTS):
                events.unlink(missing_ok=True)
        self._writer: Any = _event_writer(self.folder / TENSORBOARD_FOLDER, step) if tensorboard else None
        path = self.folder / METRICS_FILE
        if step == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            _keep_until(path, step)
        self._file = path.open("a", encoding="utf-8")

    def record(self, kind: str, metrics: Metrics) -> None:
        """One line; `metrics` must hold "step". The line is handed to the system at once."""
        step = metrics["step"]
        self._file.write(json.dumps({"kind": kind, **{name: _finite(value) for name, value in metrics.items()}}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in metrics.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """A sample of generated text."""
        self._file.write(json.dumps({"kind": "sample", "step": step, "name": name, "text": text}) + "\n")
        self._file.flush()
        if self._writer is not None:
            self._writer.add_text(name, text, step)

    def summary(self, values: Mapping[str, Any]) -> Path:
        """Write the summary of the whole run; its path."""
        path = self.folder / SUMMARY_FILE
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return path

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_summary(folder: str | Path) -> dict[str, Any]:
    """The summary in a logs folder; empty where there is none that can be read."""
    try:
        values = json.loads((Path(folder) / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of a run, given its folder, its logs folder or the file itself.

    Raises:
        FileNotFoundError: there are no metrics.
        ValueError: a line, other than a last one cut short by a killed run, is no JSON object.
    """
    path = Path(run)
    candidates = [path] if path.is_file() else [path / METRICS_FILE, path / "logs" / METRICS_FILE]
    for candidate in candidates:
        if candidate.is_file():
            return list(_lines(candidate))
    raise FileNotFoundError(f"[read_metrics] no {METRICS_FILE} in {path}; name the folder of a training run")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            value = json.loads(line)
        except ValueError:
            if number == len(lines):  # no newline behind it: its writer was killed
                return
            raise ValueError(f"[read_metrics] {path}, line {number} is no JSON: {line[:60]!r}") from None
        if not isinstance(value, dict) or "step" not in value:
            raise ValueError(f"[read_metrics] {path}, line {number} has no step: {line[:60]!r}")
        yield value


def _keep_until(path: Path, step: int) -> None:
    kept = [line for line in _lines(path) if line["step"] <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "[RunLog] TensorBoard events need tensorboardX: pip install 'ghost-native[train]', or tensorboard=False"
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
