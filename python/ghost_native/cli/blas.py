"""A fast BLAS for MLX on Linux, whose wheel ships the slow reference one.

MLX's calls resolve to OpenBLAS when its symbols are global before `mlx.core` is loaded. Only the command line does
this: it starts its own process once more with the library preloaded. Importing the package never changes the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

VARIABLE = "GHOST_NATIVE_BLAS"
# 32-bit-integer builds only: those are what MLX calls.
CANDIDATES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")
INSTALL = "OpenBLAS makes float products much faster: apt install libopenblas0-pthread"

_PRELOAD = "LD_PRELOAD"
_BEFORE = "GHOST_NATIVE_PRELOAD_BEFORE"  # set in the second process: what LD_PRELOAD was in the first
_SKYLAKEX = ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Blas:
    """What matrix products of MLX run on: a name, where it was found, and how to get a faster one."""

    name: str
    path: str = ""
    hint: str = ""

    def line(self) -> str:
        text = f"BLAS: {self.name}"
        text += f" ({self.path})" if self.path else ""
        return text + (f"; {self.hint}" if self.hint else "")


_prepared: Blas | None = None


def prepare() -> Blas:
    """Make sure that the process runs on OpenBLAS when the system has it; what it runs on is the result.

    The first call may start the process once more, so it belongs before anything is read or printed.
    GHOST_NATIVE_BLAS=none leaves MLX's own BLAS; a path or file name chooses the library.

    Raises:
        ValueError: the library that GHOST_NATIVE_BLAS names does not load, or is no BLAS that MLX can call.
    """
    global _prepared
    if _prepared is None:
        _prepared = _choose(os.environ.get(VARIABLE, ""))
    return _prepared


def running() -> Blas:
    """What products of MLX run on in this process, however it was started; nothing is loaded or changed."""
    if sys.platform == "darwin":
        return Blas("Accelerate")
    if sys.platform.startswith("linux"):
        everything = ctypes.CDLL(None)
        if hasattr(everything, "cblas_sgemm"):
            return Blas(_describe(everything) or "preloaded", _loaded_path(everything))
    return Blas("MLX's own")


def environment(used: Blas) -> dict[str, str]:
    """The environment of a Python program that is to run on the same BLAS as this one."""
    found = dict(os.environ)
    if used.path:
        found[_PRELOAD] = ":".join(filter(None, (used.path, found.get(_PRELOAD, ""))))
    return found


def _choose(wanted: str) -> Blas:
    if sys.platform == "darwin":
        return Blas("Accelerate")
    if not sys.platform.startswith("linux"):
        return Blas("MLX's own")
    if wanted.lower() == "none":
        return Blas("MLX's own", hint=f"{VARIABLE}=none")
    preloaded = os.environ.get(_PRELOAD, "").split(":")[0] if _BEFORE in os.environ else ""
    if preloaded:
        _forget_preload()
        return Blas(_describe(ctypes.CDLL(preloaded)) or "preloaded", preloaded)
    if not _is_command():
        return Blas("MLX's own", hint="the commands ghost-native and python -m ghost_native use OpenBLAS")
    _set_core_type()
    path = _find(wanted)
    if path is None:
        return Blas("MLX's own", hint=INSTALL)
    return _start_again(path)


def _start_again(path: str) -> NoReturn:
    """This very process anew, with the library ahead of all others."""
    environment = {**os.environ, _BEFORE: os.environ.get(_PRELOAD, "")}
    environment[_PRELOAD] = ":".join(filter(None, (path, os.environ.get(_PRELOAD, ""))))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_command() -> bool:
    """Whether this process is the command itself, not a program or test that calls it."""
    program = Path(sys.argv[0])
    return program.name == "ghost-native" or (program.name == "__main__.py" and program.parent.name == "ghost_native")


def _forget_preload() -> None:
    """Programs started from here get the environment the user gave."""
    before = os.environ.pop(_BEFORE)
    if before:
        os.environ[_PRELOAD] = before
    else:
        del os.environ[_PRELOAD]


def _set_core_type() -> None:
    """OpenBLAS up to 0.3.21 does not know newer CPUs and falls back to AVX2 kernels on them."""
    if "OPENBLAS_CORETYPE" in os.environ:
        return
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
        if all(flag in flags for flag in _SKYLAKEX):
            os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"


def _find(wanted: str) -> str | None:
    """The full path of the library to use, None when the system has none."""
    for name in (wanted,) if wanted else CANDIDATES:
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            if wanted:
                raise ValueError(
                    f"{VARIABLE} names {wanted!r}, which does not load: {error}; use none or a path"
                ) from None
            continue
        try:
            _check(library, name)
        except ValueError:
            if wanted:
                raise
            continue
        return _loaded_path(library)
    return None


def _check(library: ctypes.CDLL, name: str) -> None:
    if not hasattr(library, "cblas_sgemm"):
        raise ValueError(f"{VARIABLE} names {name!r}, which has no cblas_sgemm; use none or the path of a BLAS")
    _describe(library)


def _describe(library: ctypes.CDLL) -> str:
    """Such as `OpenBLAS 0.3.21, SkylakeX kernels, 2 threads`; empty for another BLAS."""
    try:
        config, core = library.openblas_get_config, library.openblas_get_corename
        threads = library.openblas_get_num_threads
    except AttributeError:
        return ""
    config.restype = core.restype = ctypes.c_char_p
    words = config().decode().split()
    if "USE64BITINT" in words:
        raise ValueError(f"{VARIABLE} names an OpenBLAS with 64-bit integers, which MLX cannot call; use a 32-bit one")
    return f"{' '.join(words[:2])}, {core().decode()} kernels, {threads()} threads"


class _SymbolInfo(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _loaded_path(library: ctypes.CDLL) -> str:
    """The file that the library's products come from."""
    info = _SymbolInfo()
    address = ctypes.cast(library.cblas_sgemm, ctypes.c_void_p)
    if ctypes.CDLL(None).dladdr(address, ctypes.byref(info)) and info.file:
        return str(Path(os.fsdecode(info.file)).resolve())
    return str(library._name)
