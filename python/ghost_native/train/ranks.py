"""The processes that train one model together, each on its share of every batch."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

EXIT_PEER_LOST = 75  # "try again later" of sysexits.h
PEER_LOST = (
    "another process of this run has ended, so this one ends too; go on from the last checkpoint with --resume auto"
)


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
        return ConnectionAbortedError(f"[Ranks] {PEER_LOST}.") if lost else error

    def first_says(self, value: int) -> int:
        """The first process's value; no process goes on before all have called this."""
        if self._group is None:
            return value
        said = mx.distributed.all_sum(mx.array(value if self.first else 0, mx.int32), group=self._group)
        return int(np.array(said))

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


ALONE = Ranks()
