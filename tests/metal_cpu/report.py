"""The report of a launch, as MslReport in runtime/abi.h lays it out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

MAX_BUFFERS = 31
MESSAGE_BYTES = 4096
ABI_VERSION = 1
OPERATION_CLASSES = ("float", "divide", "transcendental", "integer", "select", "convert", "load", "store")
ERRORS = {
    0: "ok",
    1: "no such kernel",
    2: "bad size",
    3: "diverged",
    4: "crashed",
    5: "not bound",
    6: "over a limit",
}
FAULTS = ("races", "out_of_bounds", "uninitialised", "divergences", "misaligned", "over_limit")

_TRAFFIC_FIELDS = (
    *("bytes", "loaded", "stored", "lane_loaded", "lane_stored", "load_instructions", "store_instructions"),
    *("load_segments", "load_segments_ideal", "store_segments", "store_segments_ideal"),
    *("footprint_loaded", "footprint_stored"),
)
_TOTAL_FIELDS = (
    *("threads", "threadgroups", "barriers", "simd_barriers", "collectives", "matrix_multiplies"),
    *("threadgroup_bytes", "threadgroup_loaded", "threadgroup_stored", "bank_cycles", "bank_cycles_ideal"),
)


class _Traffic(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _TRAFFIC_FIELDS]


class RawReport(ctypes.Structure):
    """MslReport."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        *((name, ctypes.c_uint64) for name in (*FAULTS, *_TOTAL_FIELDS)),
        ("operations", ctypes.c_uint64 * len(OPERATION_CLASSES)),
        ("buffers", _Traffic * MAX_BUFFERS),
        ("messages", ctypes.c_char * MESSAGE_BYTES),
    ]


@dataclass(frozen=True)
class Traffic:
    """What a launch moved of one buffer. Bytes are SIMD-unique unless they say lane."""

    bytes: int
    loaded: int
    stored: int
    lane_loaded: int
    lane_stored: int
    load_instructions: int
    store_instructions: int
    load_segments: int
    load_segments_ideal: int
    store_segments: int
    store_segments_ideal: int
    footprint_loaded: int
    footprint_stored: int

    @property
    def segments_ratio(self) -> float:
        """64-byte segments fetched and written, over the fewest that hold the same bytes."""
        ideal = self.load_segments_ideal + self.store_segments_ideal
        return (self.load_segments + self.store_segments) / ideal if ideal else 1.0


@dataclass(frozen=True)
class Report:
    """One launch: faults, totals, and per buffer its traffic (an empty list when the library is not traced)."""

    error: int
    races: int
    out_of_bounds: int
    uninitialised: int
    divergences: int
    misaligned: int
    over_limit: int
    threads: int
    threadgroups: int
    barriers: int
    simd_barriers: int
    collectives: int
    matrix_multiplies: int
    threadgroup_bytes: int
    threadgroup_loaded: int
    threadgroup_stored: int
    bank_cycles: int
    bank_cycles_ideal: int
    operations: dict[str, int]
    buffers: list[Traffic]
    messages: str

    @classmethod
    def from_bytes(cls, raw: bytes) -> Report:
        if len(raw) != ctypes.sizeof(RawReport):
            raise ValueError(f"a report has {ctypes.sizeof(RawReport)} bytes, given {len(raw)}")
        return cls.from_raw(RawReport.from_buffer_copy(raw))

    @classmethod
    def from_raw(cls, raw: RawReport) -> Report:
        if raw.version != ABI_VERSION:
            raise ValueError(f"a report of version {ABI_VERSION} is expected, given {raw.version}")
        buffers = [Traffic(**{name: getattr(b, name) for name in _TRAFFIC_FIELDS}) for b in raw.buffers]
        while buffers and buffers[-1].bytes == 0:
            buffers.pop()
        return cls(
            error=raw.error,
            **{name: getattr(raw, name) for name in (*FAULTS, *_TOTAL_FIELDS)},
            operations=dict(zip(OPERATION_CLASSES, raw.operations, strict=True)),
            buffers=buffers,
            messages=raw.messages.decode(errors="replace"),
        )

    @property
    def faults(self) -> dict[str, int]:
        """The faults that there are, by kind."""
        found = {name: getattr(self, name) for name in FAULTS if getattr(self, name)}
        if self.error:
            found[ERRORS.get(self.error, f"error {self.error}")] = 1
        return found

    @property
    def ok(self) -> bool:
        return not self.faults
