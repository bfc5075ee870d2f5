"""The processes that train one model together, each on its share of every batch."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

EXIT_PEER_LOST = 75  # "try again later" of sysexits.h
PEER_LOST = (
    "another process of this run has ended, so this one ends too; go on from the last checkpoint with --resume auto"
)

_DIGEST = "sha256:"
_NAMED = 6  # differences that an error tells


class Ranks:
    """One process of several, started by `mlx.launch`; alone without it.

    Args:
        group: of MLX's distributed engine; None to be alone.
    """

    def __init__(self, group: mx.distributed.Group | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else group.rank()
        self.size = 1 if group is None else group.size()

    @classmethod
    def found(cls) -> Ranks:
        """As `mlx.launch` has set this process up."""
        group = mx.distributed.init()
        return cls(group if group.size() > 1 else None)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mean(self, tree: Any) -> Any:
        """Arrays averaged over all processes; every process must call it for the same arrays in the same order."""
        return tree if self._group is None else nn.average_gradients(tree, group=self._group)

    def total(self, x: mx.array) -> mx.array:
        """x summed over all processes."""
        return x if self._group is None else mx.distributed.all_sum(x, group=self._group)

    def explained(self, error: RuntimeError) -> Exception:
        """A ConnectionAbortedError in place of the engine's word for a lost process; other errors as they are."""
        lost = self._group is not None and "peer was lost" in str(error)
        return _peer_lost() if lost else error

    def first_says(self, value: int) -> int:
        """The first process's value; no process goes on before all have called this."""
        if self._group is None:
            return value
        return int(self._shared(mx.distributed.all_sum, mx.array(value if self.first else 0, mx.int32)))

    def _shared(self, collective: Callable[..., mx.array], x: mx.array) -> np.ndarray:
        """The result of a collective operation, once it is there."""
        try:
            return np.array(collective(x, group=self._group))
        except RuntimeError as error:
            raise self.explained(error) from error

    def gather(self, text: str) -> list[str]:
        """What every process says, in their order; each must call this at the same point.

        Raises:
            ConnectionAbortedError: a process was lost.
        """
        if self._group is None:
            return [text]
        # A process lost meanwhile may leave what was in memory in place of what it says.
        data = text.encode()
        said = np.frombuffer(data + zlib.crc32(data).to_bytes(4, "little"), np.uint8)
        sizes = self._shared(mx.distributed.all_gather, mx.array([[said.size, ~said.size]], mx.int32)).tolist()
        if any(size < 4 or size != ~other for size, other in sizes):
            raise _peer_lost()
        longest = max(size for size, _ in sizes)
        padded = mx.array(np.pad(said, (0, longest - said.size)))
        found = self._shared(mx.distributed.all_gather, padded).reshape(self.size, longest)
        texts = [row[:size].tobytes() for row, (size, _) in zip(found, sizes, strict=True)]
        if any(zlib.crc32(row[:-4]).to_bytes(4, "little") != row[-4:] for row in texts):
            raise _peer_lost()
        return [row[:-4].decode() for row in texts]

    def compare(self, traits: Mapping[str, str]) -> None:
        """Make sure that all processes say the same of themselves; each must call this at the same point.

        Raises:
            ValueError: some process differs, with what differs and, where it is short, how.
        """
        if self._group is None:
            return
        first, *others = (json.loads(said) for said in self.gather(json.dumps(dict(traits))))
        for rank, other in enumerate(others, 1):
            names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
            if names:
                raise ValueError(
                    f"[Ranks] process {rank} does not begin as process 0 does, it differs in "
                    f"{_differences(names, first, other)}; allowed: the same configuration, data and checkpoint for "
                    "all processes."
                )

    def end_with_a_lost_peer(self) -> None:
        """Let SIGTERM, which the launcher sends when another process has died, end this one with a word on it.

        The main thread may wait for the dead process in the engine, where no handler written in Python would run. So a
        thread waits for the signal instead.
        """
        if self._group is None:
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def wait() -> None:
            while number := os.read(reader, 1):
                if number[0] == signal.SIGTERM:
                    print(f"error: {PEER_LOST}", file=sys.stderr, flush=True)
                    os._exit(EXIT_PEER_LOST)

        threading.Thread(target=wait, daemon=True).start()


def _peer_lost() -> ConnectionAbortedError:
    return ConnectionAbortedError(f"[Ranks] {PEER_LOST}.")


def tree_digest(tree: Any) -> str:
    """A fingerprint of a tree of arrays and plain values, bit for bit."""
    found = hashlib.sha256()
    leaves: list[tuple[str, Any]] = tree_flatten(tree)  # type: ignore[assignment]
    for name, leaf in leaves:
        if isinstance(leaf, mx.array):
            found.update(f"{name} {leaf.shape} {leaf.dtype} ".encode())
            found.update(np.array(leaf.flatten().view(mx.uint8)).tobytes())
        else:
            found.update(f"{name} {leaf!r} ".encode())
    return _DIGEST + found.hexdigest()


def _differences(names: Sequence[str], first: Mapping[str, str], other: Mapping[str, str]) -> str:
    said = []
    for name in names[:_NAMED]:
        values = [values.get(name, "nothing") for values in (other, first)]
        told = not any(value.startswith(_DIGEST) for value in values)
        said.append(f"{name} (given {values[0]}, process 0 has {values[1]})" if told else name)
    more = len(names) - len(said)
    return ", ".join(said) + (f" and {more} more" if more > 0 else "")


ALONE = Ranks()
