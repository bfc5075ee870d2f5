"""Corpora: documents of bytes with whole documents held out, from the running Python or from any files.

Which documents are held out follows from their names alone, so it is the same on every run and machine. Nothing is left
out silently: every file that is not used is listed in `Corpus.skipped` with the reason.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import mmap
import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MAP_BYTES = 16 << 20  # larger files are memory-mapped, smaller ones read
HELDOUT_BYTES = 320_000

_STDLIB_SKIP = ("site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__")
_STDLIB_HELDOUT_ONE_IN = 20
_STDLIB_MIN_BYTES = 200


@dataclass(frozen=True)
class Document:
    """One document: a name, and its bytes (`bytes`, or a `memoryview` of a memory-mapped file)."""

    name: str
    data: bytes | memoryview = field(repr=False)

    def __len__(self) -> int:
        return len(self.data)

    def array(self) -> np.ndarray:
        """The bytes as a read-only (len,) uint8 array, without a copy."""
        return np.frombuffer(self.data, np.uint8)


@dataclass(frozen=True)
class Skipped:
    """A file that was not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, documents never to train on, and what was not used."""

    train: list[Document]
    heldout: list[Document]
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def train_bytes(self) -> int:
        return sum(len(document) for document in self.train)

    @property
    def heldout_bytes(self) -> int:
        return sum(len(document) for document in self.heldout)

    def summary(self) -> str:
        """One line: documents and bytes on each side, and how many files were skipped for which reason."""
        line = (
            f"{_documents(self.train)}, {self.train_bytes / 1e6:.2f} MB to train on; "
            f"{_documents(self.heldout)}, {self.heldout_bytes / 1e6:.3f} MB held out"
        )
        reasons = Counter(skip.reason for skip in self.skipped)
        if reasons:
            line += "; skipped " + ", ".join(f"{count} ({reason})" for reason, count in sorted(reasons.items()))
        return line


def _documents(documents: list[Document]) -> str:
    return f"{len(documents)} document{'s' * (len(documents) != 1)}"


def _name_hash(name: str) -> int:
    return int(hashlib.md5(name.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest(), 16)


def python_corpus(stdlib: str | Path | None = None, *, heldout_bytes: int = HELDOUT_BYTES) -> Corpus:
    """The running Python's own text: its help topics and the source files of its standard library.

    One source file in 20, chosen by a hash of its name, is kept out of training; of those, files are taken in order of
    their names until `heldout_bytes` is reached, and the rest is not used. A larger `heldout_bytes` therefore never
    moves a training file to the held-out side. Test suites, codec tables on the held-out side and files under 200
    bytes are left out.

    Args:
        stdlib: folder of the library, that of the running Python when None.
        heldout_bytes: the held-out side stays below this many bytes.

    Raises:
        FileNotFoundError: the folder holds no Python sources (some distributions ship them apart).
        ValueError: `heldout_bytes` is so small that no file fits.
    """
    from pydoc_data.topics import topics

    root = Path(stdlib if stdlib is not None else sysconfig.get_paths()["stdlib"])
    train = [Document(f"pydoc_data/topics/{name}", text.encode()) for name, text in sorted(topics.items())]
    heldout: list[Document] = []
    skipped: list[Skipped] = []
    sources = 0
    taken = 0
    for name in _python_sources(root):
        sources += 1
        data = (root / name).read_bytes()
        if len(data) < _STDLIB_MIN_BYTES:
            skipped.append(Skipped(name, f"under {_STDLIB_MIN_BYTES} bytes"))
        elif _name_hash(name) % _STDLIB_HELDOUT_ONE_IN:
            train.append(Document(name, data))
        elif name.startswith("encodings/"):
            skipped.append(Skipped(name, "codec table"))
        elif taken + len(data) < heldout_bytes:
            heldout.append(Document(name, data))
            taken += len(data)
        else:
            skipped.append(Skipped(name, "held-out side full"))
    if not sources:
        raise FileNotFoundError(
            f"[python_corpus] {root} holds no Python sources; install those of the library, or use read_corpus "
            "on files of your own"
        )
    if not heldout:
        raise ValueError(f"[python_corpus] heldout_bytes is {heldout_bytes}, less than any file; use {HELDOUT_BYTES}")
    train.sort(key=lambda document: (_name_hash(document.name), document.name))
    return Corpus(train, heldout, skipped)


def _python_sources(root: Path) -> list[str]:
    names: list[str] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _STDLIB_SKIP]
        here = Path(folder).relative_to(root)
        names += [(here / name).as_posix() for name in files if name.endswith(".py")]
    return sorted(names)


def load_file(path: Path) -> bytes | memoryview:
    """The bytes of a file, memory-mapped when it is large."""
    if path.stat().st_size > MAP_BYTES and path.is_file():
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return path.read_bytes()


def _walk(root: Path, skipped: list[Skipped]) -> Iterable[tuple[str, Path]]:
    """(name, path) of the regular files under a folder in order of their names; hidden ones are reported."""
    prefix = Path(os.path.abspath(root)).name  # noqa: PTH100 - resolve() would follow a link given by name
    found: list[tuple[str, Path]] = []
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        here = Path(folder)
        for name in [n for n in subfolders if n.startswith(".")]:
            subfolders.remove(name)
            skipped.append(Skipped(_join(prefix, root, here / name) + "/", "hidden"))
        for name in files:
            path = here / name
            label = _join(prefix, root, path)
            if name.startswith("."):
                skipped.append(Skipped(label, "hidden"))
            elif not path.exists():
                skipped.append(Skipped(label, "broken link"))
            elif not stat.S_ISREG(path.stat().st_mode):
                skipped.append(Skipped(label, "not a regular file"))
            else:
                found.append((label, path))
    return sorted(found, key=lambda item: item[0])


def _join(prefix: str, root: Path, path: Path) -> str:
    return f"{prefix}/{path.relative_to(root).as_posix()}"


def _raise(error: OSError) -> None:
    raise error


def read_documents(paths: Sequence[str | Path] | str | Path) -> tuple[list[Document], list[Skipped]]:
    """Every file named, and every file below every folder named, as documents in a fixed order.

    Files over 16 MiB are memory-mapped. Hidden files, empty files, files met twice and files with the same bytes as an
    earlier one are skipped and reported. Links to folders inside a folder are not followed.

    Returns:
        documents, in the order of `paths` and inside a folder by name; and what was skipped.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no paths, a folder without files, or nothing left to read.
    """
    name = "read_documents"
    files, skipped = list_files(paths, name)
    documents: list[Document] = []
    names: set[str] = set()
    seen_bytes: dict[bytes, str] = {}
    for label, file in files:
        data = load_file(file)
        if not len(data):
            skipped.append(Skipped(label, "empty"))
            continue
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest in seen_bytes:
            skipped.append(Skipped(label, "same bytes as another file"))
            continue
        if label in names:
            label = file.as_posix()
        seen_bytes[digest] = label
        names.add(label)
        documents.append(Document(label, data))
    if not documents:
        given = [paths] if isinstance(paths, (str, Path)) else paths
        raise ValueError(f"[{name}] {', '.join(map(str, given))}: all {len(skipped)} files are empty or hidden")
    return documents, skipped


def list_files(
    paths: Sequence[str | Path] | str | Path, name: str = "list_files"
) -> tuple[list[tuple[str, Path]], list[Skipped]]:
    """Every file named, and every file below every folder named, in a fixed order; none is read.

    Returns:
        (label, path) of each file; hidden files and files met twice, which are left out.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no paths, or a folder without files.
    """
    wanted = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not wanted:
        raise ValueError(f"[{name}] no paths were given, name at least one file or folder")
    found: list[tuple[str, Path]] = []
    skipped: list[Skipped] = []
    seen: set[tuple[int, int]] = set()
    for path in wanted:
        if not path.exists():
            raise FileNotFoundError(f"[{name}] no such file or folder: {path}")
        if path.is_dir():
            files = list(_walk(path, skipped))
            if not files:
                raise ValueError(f"[{name}] the folder {path} holds no files (hidden ones are not read)")
        else:
            files = [(path.name, path)]
        for label, file in files:
            status = file.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in seen and stat.S_ISREG(status.st_mode):
                skipped.append(Skipped(label, "read already"))
                continue
            seen.add(identity)
            found.append((label, file))
    return found, skipped


def read_corpus(paths: Sequence[str | Path] | str | Path, *, heldout_fraction: float = 0.05) -> Corpus:
    """Files or folders of any files, text or binary, as a corpus with whole files held out.

    Files are taken for the held-out side in order of a hash of their names until `heldout_fraction` of all bytes is
    reached, passing over files that would take it beyond half as much again; when every file is larger than that, the
    smallest one is held out. A single file is split: its end is held out. Files with the same bytes are used once, so
    no held-out document is ever trained on under another name.

    Args:
        paths: as for `read_documents`.
        heldout_fraction: share of the bytes to hold out, 0 (nothing) to 0.5.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: nothing to read, `heldout_fraction` out of range, or a single file too short to split.
    """
    name = "read_corpus"
    if not 0 <= heldout_fraction <= 0.5:
        raise ValueError(f"[{name}] heldout_fraction is {heldout_fraction}, allowed are 0 to 0.5")
    documents, skipped = read_documents(paths)
    if heldout_fraction == 0:
        return Corpus(documents, [], skipped)
    if len(documents) == 1:
        return Corpus(*_split_end(documents[0], heldout_fraction), skipped)
    wanted = heldout_fraction * sum(len(document) for document in documents)
    chosen: set[str] = set()
    taken = 0
    for document in sorted(documents, key=lambda d: (_name_hash(d.name), d.name)):
        if taken < wanted and taken + len(document) <= 1.5 * wanted:
            chosen.add(document.name)
            taken += len(document)
    if not chosen:
        chosen.add(min(documents, key=lambda d: (len(d), _name_hash(d.name))).name)
    train = [document for document in documents if document.name not in chosen]
    heldout = [document for document in documents if document.name in chosen]
    return Corpus(train, heldout, skipped)


def _split_end(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    size = len(document)
    if size < 2:
        raise ValueError(f"[read_corpus] {document.name} holds {size} byte, at least 2 are needed to hold out its end")
    cut = size - min(size - 1, max(1, round(size * fraction)))
    return (
        [Document(f"{document.name}[:{cut}]", document.data[:cut])],
        [Document(f"{document.name}[{cut}:]", document.data[cut:])],
    )


def baselines(documents: Sequence[Document]) -> dict[str, float]:
    """Bits per byte of two general compressors on the documents put one after the other.

    Returns:
        {"gzip": gzip -9, "xz": xz -9 --extreme}, file headers counted.

    Raises:
        ValueError: no bytes.
    """
    data = b"".join(document.data for document in documents)
    if not data:
        raise ValueError("[baselines] the documents hold no bytes, at least one is needed")
    return {
        "gzip": 8 * len(gzip.compress(data, 9, mtime=0)) / len(data),
        "xz": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
    }
