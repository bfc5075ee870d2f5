"""Checkpoints of a run: everything that a step changes, so that a resumed run is the uninterrupted one bit for bit.

One folder per checkpoint::

    step-00000500/
      model.safetensors       the model as of `model.save`
      training.safetensors    moments of the optimizer, carried state, moving average
      state.json              the step, the data's position, counters; size and SHA-256 of the two files

A folder appears under its name once all of it is on the disk, and is taken away whole. What is damaged afterwards is
found by its checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from ghost_native.models.atomic import atomic_file, atomic_folder, clean, remove_folder
from ghost_native.models.export import CONFIG

FORMAT = "ghost_native.run.v1"
MODEL_FILE, TRAINING_FILE, STATE_FILE = "model.safetensors", "training.safetensors", "state.json"
BEST_FILE = "best.json"

_NAME = re.compile(r"step-(\d{8})")
_READ_BYTES = 1 << 20


class Saveable(Protocol):
    """A model, as far as checkpoints know it."""

    def save(self, path: str | Path) -> None: ...


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True)
class Snapshot:
    """What a run is made of besides its model.

    Attributes:
        step: steps done.
        tree: nested dicts and lists whose leaves are arrays, numbers, strings, booleans or None.
        score: held-out bits per byte at this step, None where it was not measured.
    """

    step: int
    tree: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


@dataclass(frozen=True)
class Best:
    """The best step of a run by held-out bits per byte."""

    step: int
    score: float


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: where they are; made when first needed.
        keep: how many of the newest stay; the best one stays besides. 0 keeps all.
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        if keep < 0:
            raise ValueError(f"[CheckpointFolder] keep is out of range, given {keep}, allowed: 0 or more.")
        self.folder, self.keep = Path(folder), keep

    def clean(self) -> None:
        """Remove what a killed run left unfinished. Only the run that owns the folder may call it."""
        clean(self.folder)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    @property
    def exported(self) -> bool:
        """Whether an exported model is here: its configuration would belong to no model that a run writes."""
        return (self.folder / CONFIG).exists()

    def holds(self) -> str:
        """What of an earlier run or another model is here, in words; empty for nothing."""
        if self.exported:
            return f"an exported model ({CONFIG})"
        if steps := self.steps():
            return f"a run of {steps[-1]} steps"
        return f"a finished model ({MODEL_FILE})" if (self.folder / MODEL_FILE).exists() else ""

    def rewrites(self, path: str | Path) -> bool:
        """Whether `path` is, or is in, what a run in this folder writes anew or removes: its model or checkpoints."""
        place, folder = Path(path).resolve(), self.folder.resolve()
        if not place.is_relative_to(folder):
            return False
        first = next(iter(place.relative_to(folder).parts), MODEL_FILE)
        return first == MODEL_FILE or _NAME.fullmatch(first) is not None

    def best(self) -> Best | None:
        """The best step so far, as last recorded."""
        try:
            values = json.loads((self.folder / BEST_FILE).read_text())
            return Best(int(values["step"]), float(values["score"]))
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None

    def save(self, model: Saveable, snapshot: Snapshot) -> Path:
        """Write a checkpoint and drop the oldest ones. When this returns, the checkpoint is on the disk.

        Raises:
            FileExistsError: this step has a checkpoint already.
            OSError: it could not be written, the disk being full for one; earlier checkpoints are untouched.
        """
        path = self.path(snapshot.step)
        arrays, values = split_tree(snapshot.tree)
        with atomic_folder(path) as temporary:
            try:
                model.save(temporary / MODEL_FILE)
                mx.save_safetensors(str(temporary / TRAINING_FILE), arrays, {"format": FORMAT})
            except RuntimeError as error:  # MLX's word for an error of the file system
                raise OSError(f"[CheckpointFolder.save] {path} could not be written: {error}") from error
            files = {name: _fingerprint(temporary / name) for name in (MODEL_FILE, TRAINING_FILE)}
            state = {"format": FORMAT, "step": snapshot.step, "score": snapshot.score, "files": files, "values": values}
            (temporary / STATE_FILE).write_text(json.dumps(state))
        with suppress(OSError):  # the checkpoint is there; the next one tries again
            self._record_best()
            self._rotate()
        return path

    def best_until(self, step: int) -> Best | None:
        """The best of the checkpoints that are there up to `step`."""
        found = [(score, each) for each in self.steps() if each <= step and (score := self._score_of(each)) is not None]
        if not found:
            return None
        score, each = min(found)
        return Best(each, score)

    def _record_best(self) -> None:
        """Note the best of the checkpoints that are there."""
        steps = self.steps()
        best = self.best_until(steps[-1]) if steps else None
        if best is not None:
            with atomic_file(self.folder / BEST_FILE) as temporary:
                temporary.write_text(json.dumps({"step": best.step, "score": best.score}))
        else:
            (self.folder / BEST_FILE).unlink(missing_ok=True)

    def _score_of(self, step: int) -> float | None:
        try:
            score = json.loads((self.path(step) / STATE_FILE).read_text())["score"]
            return None if score is None else float(score)
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def _rotate(self) -> None:
        if self.keep == 0:
            return
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if best is None or step != best.step:
                remove_folder(self.path(step))

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: a run that goes on from `step` will write them anew."""
        for later in self.steps():
            if later > step:
                remove_folder(self.path(later))
        if self.folder.is_dir():
            self._record_best()

    def load(self, step: int) -> Snapshot:
        """The snapshot of a step; its model is at ``path(step) / MODEL_FILE``.

        Raises:
            FileNotFoundError: there is no checkpoint of this step.
            DamagedCheckpointError: it is not as it was written.
        """
        path = self.path(step)
        if not path.is_dir():
            raise FileNotFoundError(f"[CheckpointFolder.load] no checkpoint of step {step} in {self.folder}.")
        try:
            state = json.loads((path / STATE_FILE).read_text())
            if state["format"] != FORMAT:
                raise DamagedCheckpointError(
                    f"[CheckpointFolder.load] {path} has an unknown format, given {state['format']!r}, "
                    f"allowed: {FORMAT!r}."
                )
            for name, written in state["files"].items():
                if _fingerprint(path / name) != written:
                    raise DamagedCheckpointError(f"[CheckpointFolder.load] {path / name} is damaged or truncated.")
            arrays: dict[str, mx.array] = mx.load(str(path / TRAINING_FILE))  # type: ignore[assignment]
            return Snapshot(state["step"], join_tree(arrays, state["values"]), state["score"])
        except DamagedCheckpointError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DamagedCheckpointError(f"[CheckpointFolder.load] {path} cannot be read: {error}.") from error

    def newest(self) -> tuple[Snapshot | None, list[DamagedCheckpointError]]:
        """The newest undamaged snapshot, None without one, and what was found damaged on the way to it."""
        damaged: list[DamagedCheckpointError] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), damaged
            except DamagedCheckpointError as error:  # noqa: PERF203 - one of a handful
                damaged.append(error)
        return None, damaged


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


# A tree is kept as two: arrays by path, and the same tree with nulls in their places.
_ARRAY = "__array__"


def split_tree(tree: Any) -> tuple[dict[str, mx.array], Any]:
    """The arrays of a tree by path, and the rest of it, which JSON can hold."""
    arrays: dict[str, mx.array] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, mx.array):
            arrays[path] = node
            return {_ARRAY: path}
        if isinstance(node, dict):
            return {key: walk(value, f"{path}.{key}" if path else key) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [walk(value, f"{path}.{index}") for index, value in enumerate(node)]
        return node

    values = walk(tree, "")
    mx.eval(arrays)
    return arrays, values


def join_tree(arrays: dict[str, mx.array], values: Any) -> Any:
    """The tree again, tuples as lists."""
    if isinstance(values, dict):
        if set(values) == {_ARRAY}:
            return arrays[values[_ARRAY]]
        return {key: join_tree(arrays, value) for key, value in values.items()}
    if isinstance(values, list):
        return [join_tree(arrays, value) for value in values]
    return values
