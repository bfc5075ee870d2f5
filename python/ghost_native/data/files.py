"""Files: compressed or not to read, and written so that under the final name there is the whole or nothing."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ghost_native.data.extras import need

COMPRESSED = (".gz", ".zst")


def open_file(path: Path) -> BinaryIO:
    """A file to read, decompressed as its name says (.gz, .zst).

    Raises:
        ImportError: a .zst file, and zstandard is not installed.
    """
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        need("zstandard", "datasets", "open_file")
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


def skip(file: BinaryIO, count: int) -> None:
    """Pass over bytes from the beginning of a file; a compressed one is decompressed up to there."""
    if file.seekable():
        file.seek(count)
    else:
        while count > 0:
            count -= len(file.read(min(count, 1 << 20))) or count


def broken(error: Exception) -> bool:
    """Whether an error raised while reading a compressed file says that its contents are damaged."""
    return isinstance(error, (EOFError, gzip.BadGzipFile)) or type(error).__name__ in ("error", "ZstdError")


class _ZstdFile(io.RawIOBase):
    """A .zst file of any number of frames. zstandard's own reader takes a file cut short for a whole one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._library = need("zstandard", "datasets", "open_file")
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            data = data or self._file.read(1 << 17)
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the file ends within a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last through a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside `path`, sync it and rename it: a failure leaves what was there before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path, name: str) -> Iterator[Path]:
    """A folder to fill that gets the name `path` when the block ends well, and is removed when it does not.

    Raises:
        FileExistsError: there is something at `path`.
        FileNotFoundError: the folder to hold it does not exist.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"[{name}] {path} exists; remove it or choose another name")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"[{name}] there is no folder {path.absolute().parent}; make it first")
    temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.absolute().parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
