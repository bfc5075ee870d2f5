"""Batches made ahead of time in a thread of their own, without a trace in what they are or in the states."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from ghost_native.data.batch import BatchSource, State

B = TypeVar("B")
_POLL_S = 0.1
_LEAVE_S = 2.0  # that the end of the process waits for a batch being made, which may be on its way from afar


class Prefetched(Generic[B]):
    """A source that works ahead: up to `depth` batches wait while the model computes.

    States are those of the source after the last batch given out. Errors of the source are raised where the batch
    that they are about would have been given out.

    Args:
        source: it must not be used by others from now on.
        depth: batches that may wait.

    Raises:
        ValueError: depth below 1.
    """

    def __init__(self, source: BatchSource[B], depth: int = 4) -> None:
        if depth < 1:
            raise ValueError(f"[Prefetched] depth is {depth}, at least 1 is needed")
        self.source, self.depth = source, depth
        self.batch, self.seqlen = source.batch, source.seqlen
        self._thread: threading.Thread | None = None
        self._state, self._epoch = source.state(), source.epoch

    @property
    def epoch(self) -> float:
        return self._epoch

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._thread is None:
            self._queue: queue.Queue[Any] = queue.Queue(self.depth)
            stop = threading.Event()
            # The thread holds no reference to this object, so that it ends with it.
            arguments = (self.source, self._queue, stop)
            self._thread = threading.Thread(target=_work, args=arguments, daemon=True, name="prefetch")
            self._thread.start()
            # Called at exit too: Python may crash when a thread asks for its lock while it is taken down.
            self._end_thread = weakref.finalize(self, _end_thread, self._thread, stop)
        batch, state, epoch, error = self._queue.get()
        if error is not None:
            self._end()
            raise error
        self._state, self._epoch = state, epoch
        found: B = batch
        return found

    def state(self) -> State:
        """Of the source after the last batch given out."""
        return self._state

    def restore(self, state: Any) -> None:
        """As the source's; what was made ahead is dropped."""
        self._end()
        self.source.restore(state)
        self._state, self._epoch = state, self.source.epoch

    def close(self) -> None:
        """End the thread; the source stands after the last batch given out, and iterating may go on."""
        if self._thread is not None:
            self._end()
            self.source.restore(self._state)

    def _end(self) -> None:
        if self._thread is not None:
            self._end_thread()
            self._thread.join()
            self._thread = None


def _end_thread(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # which collects garbage as any other does
        thread.join(_LEAVE_S)


def _work(source: Any, out: queue.Queue[Any], stop: threading.Event) -> None:
    item: tuple[Any, Any, float, BaseException | None]
    while not stop.is_set():
        try:
            batch = next(source)
            item = (batch, source.state(), source.epoch, None)
        except BaseException as error:
            item = (None, None, 0.0, error)
        while not stop.is_set():
            try:
                out.put(item, timeout=_POLL_S)
                break
            except queue.Full:
                continue
        if item[3] is not None:
            return
