"""One writer at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"

_WITHOUT_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


class FolderBusyError(OSError):
    """Another process trains into the folder."""


class FolderLock:
    """The right to write to a folder, held by one process at a time; reading needs no right.

    The system holds the lock and drops it when the process ends, however it ends, so one left behind never blocks. The
    file stays: removing it would let two processes lock two files of one name.

    Args:
        folder: made with the lock if missing.
        key: of the configuration, that names another folder.
    """

    def __init__(self, folder: str | Path, key: str = "train.save_dir") -> None:
        self.folder, self.key = Path(folder), key
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> bool:
        """Take the lock; False where the file system has none, and nothing is kept from writing.

        Raises:
            FolderBusyError: another process, or another run of this one, has it.
            OSError: the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = _busy(self.folder, self.key, file)
            file.close()
            raise busy from None
        except OSError as error:
            file.close()
            if error.errno in _WITHOUT_LOCKS:
                return False
            raise
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check_free(folder: str | Path, key: str = "train.save_dir") -> None:
    """Find out whether a folder could be locked, without making or changing anything.

    Args:
        folder: need not be there.
        key: of the configuration, that names another folder.

    Raises:
        FolderBusyError: another process, or a run of this one, has the lock.
    """
    try:
        file = (Path(folder) / LOCK_FILE).open(encoding="utf-8")
    except OSError:  # no folder, or none that was ever trained into
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back with the file
        except BlockingIOError:
            raise _busy(folder, key, file) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise


def _busy(folder: str | Path, key: str, file: IO[str]) -> FolderBusyError:
    return FolderBusyError(
        f"[FolderLock] {folder} is being trained into by {_holder(file)}; wait for it, end it, or give another {key}."
    )


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        values = json.loads(file.read())
        return f"process {int(values['pid'])} on {values['host']}"
    except (KeyError, TypeError, ValueError):  # it has the lock and has not yet said who it is
        return "another process"
