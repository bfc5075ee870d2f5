"""A progress bar that is there on a terminal only, for what shows progress in words elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn

B = TypeVar("B", bound="Barred")


class Barred:
    """`with` it, the bar of whatever derives from this is shown.

    Args:
        console: where it goes.
        what: said before the bar.
        ending: the last column, which tells the time left.
        wanted: False for no bar even on a terminal.
        width: of the bar, in characters.
        total: what is full, None where that is not known yet.
        transient: leave nothing behind.
        fields: what `ending` shows at first.
    """

    def __init__(
        self,
        console: Console,
        what: str,
        ending: ProgressColumn,
        *,
        wanted: bool = True,
        width: int = 24,
        total: float | None = None,
        transient: bool = False,
        **fields: Any,
    ) -> None:
        self._bar: Progress | None = None
        if console.is_terminal and wanted:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=width), TaskProgressColumn(),
                       TextColumn("{task.fields[numbers]}"), ending)  # fmt: skip
            self._bar = Progress(*columns, console=console, transient=transient, refresh_per_second=4)
            self._task = self._bar.add_task(what, total=total, numbers="", **fields)

    def __enter__(self: B) -> B:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
