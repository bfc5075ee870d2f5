"""Files and folders that appear whole or not at all: written beside their place, synced, renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".writing-"  # how the name of what is not finished begins


@contextmanager
def atomic_file(path: Path, *, suffix: str | None = None) -> Iterator[Path]:
    """`with atomic_file(path) as temporary:` write `temporary`; at the end it becomes `path`, replacing what was there.

    The temporary name ends in `suffix`, that of `path` unless given, for libraries that look at it. After an exception
    nothing has changed.

    Raises:
        OSError: of the file system, a full disk for one.
    """
    with atomic_files({path: path.suffix if suffix is None else suffix}) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(paths: Mapping[Path, str]) -> Iterator[list[Path]]:
    """The same for several files that belong together; `paths` maps each to the suffix of its temporary name.

    The last one says that the others belong together: it is gone while they are being renamed.

    Raises:
        OSError: of the file system.
    """
    temporaries: list[Path] = []
    try:
        for path, suffix in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}-", suffix=suffix)
            os.close(handle)
            temporaries.append(Path(name))
        yield temporaries
        for temporary in temporaries:
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
        if len(paths) > 1:
            list(paths)[-1].unlink(missing_ok=True)
        for path, temporary in zip(paths, temporaries, strict=True):
            temporary.replace(path)
        for folder in {path.parent for path in paths}:
            _sync(folder)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of files, which must not exist before.

    Raises:
        FileExistsError: there is something at `path`.
        OSError: of the file system.
    """
    if path.exists():
        raise FileExistsError(f"[atomic_folder] there is something at {path}, allowed: a new name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{TEMPORARY}{path.name}-"))
    try:
        yield temporary
        for entry in (*temporary.iterdir(), temporary):
            _sync(entry)
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder so that no half of it is ever found under its name."""
    doomed = path.with_name(f"{TEMPORARY}{path.name}-removed-{os.getpid()}")
    path.replace(doomed)
    shutil.rmtree(doomed)


def clean(folder: Path) -> None:
    """Remove what interrupted writers left in a folder that nobody else writes to now."""
    for entry in folder.glob(f"{TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
