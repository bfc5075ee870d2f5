"""Files: compressed or not to read, and written so that under the final name there is the whole or nothing."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

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
        zstandard = need("zstandard", "datasets", "open_file")
        return cast(BinaryIO, zstandard.open(path, "rb"))
    return path.open("rb")


def broken(error: Exception) -> bool:
    """Whether an error raised while reading a compressed file says that its contents are damaged."""
    return isinstance(error, (EOFError, gzip.BadGzipFile)) or type(error).__name__ in ("error", "ZstdError")


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
