"""Loading of the compiled module, and what it tells about this machine."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx  # before _ext: it loads libmlx and registers the array type that _ext shares


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _built_for() -> str:
    """The version of mlx that this package requires, which is the one it was built for."""
    try:
        required = importlib.metadata.requires("ghost-native") or []
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
    return next((r.split("==")[1].split(";")[0].strip() for r in required if re.match(r"mlx\b.*==", r)), "unknown")


def _mismatch(what: str, built_for: str) -> ImportError:
    return ImportError(
        f"ghost_native was built for mlx {built_for}, but mlx {_installed('mlx')} is installed: {what}. "
        f"Fix: pip install 'mlx=={built_for}' (on Linux 'mlx[cpu]=={built_for}'), or rebuild: "
        "pip install --force-reinstall --no-cache-dir ghost-native"
    )


try:
    from ghost_native import _ext
except ImportError as error:
    if "[GHOST_NATIVE_" in str(error):  # a wrong environment variable, which says so itself
        raise
    raise _mismatch(f"its compiled module does not load ({error})", _built_for()) from error


def _check_array_type() -> None:
    """One real call: arrays must cross between the two compiled modules, whose nanobind ABIs have to agree."""
    try:
        _ext.causal_conv1d(mx.zeros((1, 0, 1)), mx.zeros((1, 2)), stream=mx.cpu)
    except TypeError as error:
        raise _mismatch("its arrays are not accepted", _ext.mlx_version()) from error


_check_array_type()


def cpu_features() -> dict[str, str | int | list[str]]:
    """What the CPU kernels run on: the active instruction set, those supported here, and the number of threads.

    ``GHOST_NATIVE_ISA`` forces an instruction set and ``GHOST_NATIVE_THREADS`` the thread count, both before import.
    """
    return {"isa": _ext.isa(), "supported": _ext.supported_isas(), "threads": _ext.num_threads()}


def metal_available() -> bool:
    """Whether operators on GPU streams run our Metal kernels.

    They need a Mac with Apple silicon. ``GHOST_NATIVE_METAL=0`` before import turns them off: operators on GPU streams
    are then composed of MLX's own operations, as on every other kind of GPU.
    """
    return _ext.metal_available()


def num_threads() -> int:
    """Threads the CPU kernels use, the calling one included."""
    return _ext.num_threads()


def set_num_threads(n: int) -> None:
    """Use n threads (1 to 256) from now on. Results do not depend on it, bit for bit."""
    _ext.set_num_threads(n)


def measure_peak(kind: str = "float32", *, seconds: float = 0.1) -> float | None:
    """Multiplications and additions in a second that this CPU does at most with :func:`num_threads` threads, measured.

    Args:
        kind: ``"float32"``, ``"bfloat16"`` (pairs of products into float32) or ``"int8"`` (fours into int32).
        seconds: how long to measure, 0 to 60; the best round counts.

    Returns:
        FLOP/s (a multiplication and an addition are two), None when the active instruction set has no such instruction.

    Raises:
        ValueError: another kind, or seconds out of range.
    """
    return _ext.measure_peak(kind, seconds)


def measure_bandwidth(num_bytes: int = 1 << 28, *, seconds: float = 0.1) -> float:
    """Bytes in a second read by :func:`num_threads` threads from a buffer of that size, over and over, measured.

    A buffer that fits a cache gives that cache's bandwidth, the default that of memory.

    Args:
        num_bytes: size of the buffer, 8 KiB for each thread to 16 GiB.
        seconds: how long to measure, 0 to 60; the best round counts.

    Raises:
        ValueError: num_bytes or seconds out of range.
    """
    return _ext.measure_bandwidth(num_bytes, seconds)


@contextmanager
def composed_form() -> Iterator[None]:
    """Build operators from MLX's own operations instead of our kernels, for comparisons and debugging.

    Applies to operators called inside the ``with`` block on this thread.
    """
    before = _ext.force_composed()
    _ext.set_force_composed(True)
    try:
        yield
    finally:
        _ext.set_force_composed(before)


def tune_allocator() -> bool:
    """Have glibc keep freed memory instead of returning it to the system. True where that was done.

    MLX allocates every intermediate result anew; by default blocks above 128 KiB go back to the system when freed, and
    the page faults of the next use cost more than small operations themselves. Unused memory then stays with the
    process. Call it early in a program that trains; the command line does. Nothing happens on other systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8  # parameters of malloc.h
    # Some versions of glibc take no threshold over 32 MiB.
    large = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)
    done = large and mallopt(arena_max, 1) and mallopt(top_pad, 64 << 20)
    return bool(done and mallopt(trim_threshold, (1 << 31) - 1))
