"""A compiled Metal library, launched from Python with NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.metal_cpu.compiler import compile_metal
from tests.metal_cpu.report import ERRORS, RawReport, Report


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("read_only", ctypes.c_int32)]


class _Constant(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int32), ("bytes", ctypes.c_int32), ("value", ctypes.c_void_p)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("num_buffers", ctypes.c_int32),
        ("constants", ctypes.POINTER(_Constant)),
        ("num_constants", ctypes.c_int32),
        ("groups", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("grid", ctypes.c_uint32 * 3),
    ]


class LaunchError(Exception):
    """A launch that did not run to its end."""

    def __init__(self, kernel: str, report: Report) -> None:
        super().__init__(f"{kernel}: {ERRORS.get(report.error, report.error)}\n{report.messages}".strip())
        self.report = report


def _three(extent: int | Sequence[int]) -> tuple[int, int, int]:
    values = (extent,) if isinstance(extent, int) else tuple(extent)
    x, y, z = (*values, 1, 1, 1)[:3]
    return x, y, z


def _array(value: Any) -> np.ndarray:
    """The memory of an operand: an array is used in place, everything else is copied."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return np.frombuffer(value, np.uint8).copy()
    array = np.asarray(value)
    if not array.flags.c_contiguous:
        raise ValueError("buffers must be contiguous")
    return array


def aligned(array: Any, alignment: int = 64) -> np.ndarray:
    """A copy whose memory starts at a multiple of `alignment`, as an allocation on a GPU does."""
    array = np.asarray(array)
    memory = np.empty(array.nbytes + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def poisoned(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Aligned memory for an output, all bits set: NaN, or -1, where no kernel writes."""
    array = aligned(np.zeros(shape, dtype))
    array.reshape(-1).view(np.uint8)[...] = 0xFF
    return array


class Library:
    """The kernels of one .metal file in one flavour."""

    def __init__(
        self, path: str | Path, flavour: str = "fast", defines: Sequence[str] = (), include: Sequence[Path] = ()
    ):
        """``path`` is a .metal file, or a shared object that ``compile_metal`` made."""
        path = Path(path)
        self.path = compile_metal(path, flavour, defines, include) if path.suffix == ".metal" else path
        self._lib = ctypes.CDLL(str(self.path))
        self._lib.msl_kernels.restype = ctypes.c_char_p
        self._lib.msl_launch.argtypes = [ctypes.POINTER(_Launch), ctypes.POINTER(RawReport)]

    def kernels(self) -> list[str]:
        return self._lib.msl_kernels().decode().split()

    def launch(
        self,
        kernel: str,
        buffers: Mapping[int, Any] | Sequence[Any],
        groups: int | Sequence[int] = 1,
        threads: int | Sequence[int] = 32,
        constants: Mapping[int, Any] | None = None,
        grid: int | Sequence[int] | None = None,
        check: bool = True,
    ) -> Report:
        """Runs `groups` threadgroups of `threads` threads; with `grid`, that many threads in all.

        Buffers are arrays, used in place, or anything NumPy makes an array of; None is not bound. Function constants
        are bool, int or NumPy scalars. Raises LaunchError when the launch cannot run to its end, unless not to check.
        """
        items = dict(buffers) if isinstance(buffers, Mapping) else dict(enumerate(buffers))
        arrays = {i: _array(b) for i, b in items.items() if b is not None}
        count = max(arrays, default=-1) + 1
        table = (_Buffer * max(count, 1))()
        for i, array in arrays.items():
            table[i] = _Buffer(array.ctypes.data, array.nbytes, not array.flags.writeable)
        values = {i: np.asarray(v, np.int32 if type(v) is int else None) for i, v in (constants or {}).items()}
        listed = (_Constant * max(len(values), 1))()
        for slot, (i, value) in zip(listed, values.items(), strict=False):
            slot.index, slot.bytes, slot.value = i, value.nbytes, value.ctypes.data

        launch = _Launch(kernel.encode(), table, count, listed, len(values))
        launch.groups[:] = _three(groups)
        launch.threads[:] = _three(threads)
        launch.grid[:] = _three(grid) if grid is not None else (0, 0, 0)
        raw = RawReport()
        error = self._lib.msl_launch(ctypes.byref(launch), ctypes.byref(raw))
        report = Report.from_raw(raw)
        if error and check:
            raise LaunchError(kernel, report)
        return report
