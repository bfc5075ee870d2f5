"""The emulator on kernels of its own: it computes what Metal does, and notices what Metal would not forgive."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_cpu.compiler import CompileError, compile_metal
from tests.metal_cpu.library import LaunchError, Library, aligned, poisoned

FIXTURES = Path(__file__).resolve().parent / "fixtures"
FLAVOURS = ["fast", "traced"]
# Without either, faults of memory name an offset in the code.
NAMES_LINES = bool(shutil.which("addr2line") or shutil.which("llvm-symbolizer"))


def library(name: str, flavour: str = "fast", *defines: str) -> Library:
    return Library(FIXTURES / f"{name}.metal", flavour, defines=defines)


@pytest.fixture(params=FLAVOURS)
def flavour(request):
    return request.param


def line_of(text: str) -> int:
    lines = (FIXTURES / "planted.metal").read_text().splitlines()
    [found] = [i for i, line in enumerate(lines, 1) if text in line]
    return found


def bfloat(values: np.ndarray) -> np.ndarray:
    """Values rounded to bfloat16, as bits."""
    return np.array(mx.array(values.astype(np.float32)).astype(mx.bfloat16).view(mx.uint16))


def from_bfloat(bits: np.ndarray) -> np.ndarray:
    return np.array(mx.array(bits).view(mx.bfloat16).astype(mx.float32))


class TestTypes:
    def test_vectors(self, flavour):
        out, bits = poisoned((9, 4), np.float32), poisoned((3, 4), np.uint32)
        v = aligned(np.array([1.5, 2.25, 3.0, 4.75], np.float32))
        report = library("types", flavour).launch("vectors", [out, bits, v])
        assert report.ok, report.messages
        np.testing.assert_array_equal(out[0], [1, 2, 3, 4])
        np.testing.assert_array_equal(out[1], [2, 1, 1, 2])
        np.testing.assert_array_equal(out[2], [7, 7, 7, 7])
        np.testing.assert_array_equal(out[3], v[::-1])
        np.testing.assert_array_equal(out[4], np.trunc(v * 2) + v)
        np.testing.assert_array_equal(out[5], [-1, 2.25, -2, 4.75])
        np.testing.assert_array_equal(out[6], [1, 2, 3, 4])
        np.testing.assert_array_equal(out[7], [0, 0, 1, 1])
        np.testing.assert_array_equal(out[8], v * 2 + 1)
        np.testing.assert_array_equal(bits[0], v.view(np.uint32))
        np.testing.assert_array_equal(bits[1], [0x40003C00, 0x3F800000, 8, 31])
        np.testing.assert_array_equal(bits[2], [3, 0xBC, 0x80000000, 3])

    def test_half_rounds_after_every_operation(self, flavour):
        a, b = (np.random.default_rng(i).standard_normal(256).astype(np.float16) for i in (0, 1))
        out = poisoned((3, 256), np.float16)
        library("types", flavour).launch("rounding_float16", [a, b, out, np.int32(256)], 8)
        np.testing.assert_array_equal(out[0], (a * b) + a)
        np.testing.assert_array_equal(out[1], (a.astype(np.float32) * b + a).astype(np.float16))
        np.testing.assert_array_equal(out[2], np.exp(a.astype(np.float32)).astype(np.float16))
        assert (out[0] != out[1]).any()

    def test_bfloat_rounds_after_every_operation(self, flavour):
        a, b = (bfloat(np.random.default_rng(i).standard_normal(256)) for i in (0, 1))
        out = poisoned((3, 256), np.uint16)
        library("types", flavour).launch("rounding_bfloat16", [a, b, out, np.int32(256)], 8)
        product = from_bfloat(bfloat(from_bfloat(a) * from_bfloat(b)))
        np.testing.assert_array_equal(out[0], bfloat(product + from_bfloat(a)))
        np.testing.assert_array_equal(out[1], bfloat(from_bfloat(a) * from_bfloat(b) + from_bfloat(a)))

    def test_function_constants(self, flavour):
        lib, out = library("types", flavour), poisoned(32, np.float32)
        expected = np.tile([1.0, 2, 4, 8], 8)
        lib.launch("constants", [out], constants={0: True, 3: 5})
        np.testing.assert_array_equal(out, -5 * expected)
        # What one launch sets does not last until the next.
        lib.launch("constants", [out])
        np.testing.assert_array_equal(out, expected)

    def test_instantiations_have_their_host_names(self):
        assert set(library("types").kernels()) == {"vectors", "rounding_float16", "rounding_bfloat16", "constants"}


class TestSimdGroups:
    @pytest.mark.parametrize("n", [32, 11])
    def test_collectives(self, flavour, n):
        x = np.arange(32, dtype=np.float32) * 1.25 - 3
        out = poisoned((32, 16), np.float32)
        report = library("simdgroup", flavour).launch("collectives", [x, out, np.int32(n)])
        assert report.ok, report.messages
        live, lanes = x[:n], np.arange(n)
        np.testing.assert_allclose(out[:n, 0], live.sum(), rtol=1e-6)
        np.testing.assert_array_equal(out[:n, 1], live.max())
        np.testing.assert_array_equal(out[:n, 2], live.min())
        np.testing.assert_allclose(out[:n, 3], np.cumsum(live), rtol=1e-6)
        np.testing.assert_allclose(out[:n, 4], np.cumsum(live) - live, rtol=1e-6, atol=1e-6)
        with_poison = np.where(np.arange(32) < n, x, np.nan).astype(np.float32)
        np.testing.assert_array_equal(out[:n, 5], with_poison[lanes ^ 5])
        np.testing.assert_array_equal(out[:n, 6], with_poison[lanes ^ 3])
        np.testing.assert_array_equal(out[:n, 7], np.where(lanes + 4 < 32, with_poison[(lanes + 4) % 32], live))
        np.testing.assert_array_equal(out[:n, 8], np.where(lanes >= 4, live[lanes - 4], live))
        np.testing.assert_array_equal(out[:n, 9], x[2])
        np.testing.assert_array_equal(out[:n, 10], np.float32(sum(1 << k for k in range(0, n, 3))))
        np.testing.assert_array_equal(out[:n, 11:13], 1)
        np.testing.assert_array_equal(out[:n, 13], lanes == 0)
        full = n // 4 * 4
        np.testing.assert_allclose(out[:full, 14], np.repeat(live[:full].reshape(-1, 4).sum(1), 4), rtol=1e-6)
        np.testing.assert_array_equal(out[:n, 15], n)
        assert np.isnan(out[n:]).all()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("transposed", [0, 1])
    def test_matrix_product(self, flavour, dtype, transposed):
        rng = np.random.default_rng(2)
        a, b = (rng.standard_normal((8, 8)).astype(dtype) for _ in range(2))
        c, d = rng.standard_normal((8, 8)).astype(np.float32), poisoned((8, 8), np.float32)
        lib = library("simdgroup", flavour)
        report = lib.launch(f"product_{dtype}", [a, b, c, d, np.int32(transposed)])
        assert report.ok, report.messages
        assert report.matrix_multiplies == 1
        left = (a.T if transposed else a).astype(np.float32)
        expected = left @ b.astype(np.float32) + c
        np.testing.assert_allclose(d, expected.T if transposed else expected, rtol=2e-6, atol=2e-6)


class TestThreadgroups:
    def test_edge_threadgroups_are_smaller(self, flavour):
        width, height = 37, 6
        out = poisoned((height, width, 4), np.uint32)
        report = library("groups", flavour).launch(
            "positions", [out], threads=(8, 4), grid=(width, height), check=False
        )
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        np.testing.assert_array_equal(out[..., 0], x // 8 + 100 * (y // 4))
        inner = np.minimum(8, width - x // 8 * 8)
        index = y % 4 * inner + x % 8
        np.testing.assert_array_equal(out[..., 1], index)
        paired = (index ^ 1) < inner * np.minimum(4, height - y // 4 * 4)
        np.testing.assert_array_equal(out[..., 2][paired], ((index ^ 1) + 1000)[paired])
        np.testing.assert_array_equal(out[..., 3], 32)
        assert report.threads == width * height
        assert report.threadgroups == 10
        assert report.barriers == 10

    def test_whole_threadgroups(self, flavour):
        out = poisoned((8, 64, 4), np.uint32)
        report = library("groups", flavour).launch("positions", [out], groups=(2, 2), threads=(32, 4))
        assert report.ok, report.messages
        assert report.threadgroup_bytes == 128 * 4 + 16

    def test_atomics(self, flavour):
        values = np.random.default_rng(3).integers(0, 1000, 300).astype(np.int32)
        out = np.array([0, -1], np.int32)
        report = library("groups", flavour).launch("count_even", [values, out, np.int32(300)], 5, 64)
        assert report.ok, report.messages
        np.testing.assert_array_equal(out, [(values % 2 == 0).sum(), values.max()])


def row_sums(flavour: str = "traced", *bugs: str, rows: int = 3, n: int = 4, extra: int = 0, **options):
    """The planted kernel on random rows: the error of its result, and the report."""
    x = aligned(np.random.default_rng(4).standard_normal((rows, n * 64)).astype(np.float32))
    sums = poisoned(rows, np.float32)
    lib = library("planted", flavour, *(f"BUG_{bug}" for bug in bugs))
    report = lib.launch("row_sums", [x, sums, np.int32(n)], rows, 64, check=False, **options)
    return np.abs(sums - x.astype(np.float64).sum(1)).max(), report


def test_launches_from_several_threads(flavour):
    """Any thread may launch: MLX runs streams on threads of its own."""
    lib = library("planted", flavour)
    x = aligned(np.random.default_rng(5).standard_normal((8, 256)).astype(np.float32))

    def sums(_: int) -> np.ndarray:
        out = poisoned(8, np.float32)
        assert lib.launch("row_sums", [x, out, np.int32(4)], 8, 64).ok
        return out

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(sums, range(16)))
    assert all(np.array_equal(r, results[0]) for r in results)
    np.testing.assert_allclose(results[0], x.sum(1), atol=1e-4)


class TestPlantedBugs:
    """Each tier catches what it is for."""

    @pytest.mark.parametrize("flavour", FLAVOURS)
    def test_without_a_bug(self, flavour):
        error, report = row_sums(flavour)
        assert error < 1e-4
        assert report.ok, report.messages

    @pytest.mark.parametrize(
        ("bugs", "fault", "line"),
        [
            (["MISSING_BARRIER"], "races", "total += staged"),
            (["MISSING_BARRIER", "WRONG_FLAG"], "races", "total += staged"),
            (["WRITE_AFTER_READ"], "races", "staged[i] = total"),
            (["SHARED_OUTPUT"], "races", "= staged[63]"),
            (["WRONG_BUFFER"], "out_of_bounds", "= staged[63]"),
            (["OFF_BY_ONE"], "out_of_bounds", "METAL_FUNC float read_one"),
            (["UNINITIALISED"], "uninitialised", "total += staged"),
            (["OVER_LIMIT"], "over_limit", None),
            (["DIVERGENT_BARRIER"], "divergences", "if (i < 32) threadgroup_barrier"),
        ],
    )
    def test_faults_are_counted_and_named(self, bugs, fault, line):
        _, report = row_sums("traced", *bugs)
        assert getattr(report, fault) > 0
        assert "row_sums" in report.messages
        if line and NAMES_LINES:
            assert f"planted.metal:{line_of(line)}" in report.messages

    def test_missing_simdgroup_barrier(self):
        a, d = aligned(np.ones((8, 8), np.float32)), poisoned((8, 8), np.float32)
        lib = library("simdgroup", "traced", "BUG_MISSING_SIMD_BARRIER")
        report = lib.launch("product_float32", [a, a, a, d, np.int32(0)])
        assert report.races > 0

    @pytest.mark.parametrize(("bug", "error"), [("DIVERGENT_BARRIER", 3), ("OVER_LIMIT", 6)])
    def test_fast_launches_fail_too(self, bug, error):
        _, report = row_sums("fast", bug)
        assert report.error == error
        assert report.messages

    def test_uninitialised_memory_spoils_the_result(self):
        error, _ = row_sums("fast", "UNINITIALISED")
        assert np.isnan(error)

    def test_half_precision_state_is_out_of_tolerance(self):
        error, _ = row_sums("fast", "HALF_STATE", n=64)
        assert error > 1e-2

    def test_wrong_grid_leaves_poison(self):
        x, sums = aligned(np.ones((4, 64), np.float32)), poisoned(4, np.float32)
        library("planted").launch("row_sums", [x, sums, np.int32(1)], 3, 64)
        assert np.isnan(sums[3])

    def test_wrong_buffer_size_is_no_crash(self):
        x, sums = aligned(np.ones((4, 64), np.float32)), poisoned(3, np.float32)
        report = library("planted", "traced").launch("row_sums", [x, sums, np.int32(1)], 4, 64)
        assert report.out_of_bounds == 1
        assert "byte 12 of buffer 1, which has 12 bytes" in report.messages

    def test_misaligned_vectors(self):
        x, y = aligned(np.arange(132, dtype=np.float32)), poisoned(128, np.float32)
        lib = library("planted", "traced")
        assert lib.launch("copy_vectors", [x, y, np.int32(4)]).ok
        np.testing.assert_array_equal(y, x[4:])
        report = lib.launch("copy_vectors", [x, y, np.int32(1)], check=False)
        assert report.misaligned > 0
        # A view of an array that starts inside it keeps its place.
        report = lib.launch("copy_vectors", [x[1:], y, np.int32(0)], check=False)
        assert report.misaligned > 0

    def test_vectors_in_a_tile_of_scalars(self):
        """A GPU aligns threadgroup variables as declared and no better."""
        x, y = aligned(np.arange(128, dtype=np.float32)), poisoned(128, np.float32)
        assert library("planted", "traced").launch("through_tile", [x, y]).ok
        np.testing.assert_array_equal(y.reshape(32, 4), x.reshape(32, 4)[::-1])
        bad = library("planted", "traced", "BUG_UNALIGNED_TILE")
        assert bad.launch("through_tile", [x, y], check=False).misaligned > 0

    def test_bytes_of_the_launch_for_an_output(self, flavour):
        """What setBytes gives cannot be written to: Metal's validation ends the program."""
        x, y = aligned(np.ones(128, np.float32)), poisoned(128, np.float32)
        y.flags.writeable = False
        report = library("planted", flavour).launch("through_tile", [x, y], check=False)
        assert not report.ok and "buffer 1 is read-only bytes, its argument writable" in report.messages

    def test_lanes_at_different_functions(self, flavour):
        report = library("planted", flavour).launch("lost_lane", [poisoned(32, np.float32)], check=False)
        assert report.error == 3
        assert f"planted.metal:{line_of('v = simd_sum')}" in report.messages
        assert f"planted.metal:{line_of('v = simd_max')}" in report.messages

    def test_crashes_are_errors_of_the_launch(self, flavour):
        y = poisoned(32, np.float32)
        lib = library("planted", flavour)
        with pytest.raises(LaunchError, match="wild"):
            lib.launch("wild", [y, np.int64(1 << 44)])
        lib.launch("wild", [y, np.int64(0)])
        np.testing.assert_array_equal(y, 1)

    def test_address_spaces(self):
        path = FIXTURES / "planted.metal"
        compile_metal(path, "strict")
        with pytest.raises(CompileError, match=rf"planted.metal:{line_of('y[i] = read_one')}"):
            compile_metal(path, "strict", defines=["BUG_ADDRESS_SPACE"])
        compile_metal(path, "fast", defines=["BUG_ADDRESS_SPACE"])

    def test_an_access_that_does_not_coalesce(self):
        _, good = row_sums("traced")
        _, bad = row_sums("traced", "STRIDED")
        assert good.buffers[0].segments_ratio == 1
        assert bad.buffers[0].segments_ratio >= 2

    def test_arguments_without_a_buffer(self):
        x = aligned(np.ones((4, 64), np.float32))
        with pytest.raises(LaunchError, match="buffer 1 is not bound"):
            library("planted").launch("row_sums", [x, None, np.int32(1)], 4, 64)
        with pytest.raises(LaunchError, match="buffer 2 has 2 bytes, its type 4"):
            library("planted").launch("row_sums", [x, x, np.int16(1)], 4, 64)

    def test_unknown_kernels_and_sizes(self):
        lib = library("planted")
        with pytest.raises(LaunchError, match="no such kernel"):
            lib.launch("row_products", [])
        with pytest.raises(LaunchError, match="bad size"):
            lib.launch("copy_vectors", [np.zeros(4), np.zeros(4), np.int32(0)], 1, 2048)


class TestTraffic:
    def test_bytes_of_every_buffer(self):
        rows, n = 3, 4
        _, report = row_sums("traced", rows=rows, n=n)
        x, sums, size = report.buffers
        assert (x.loaded, x.lane_loaded, x.stored) == (rows * n * 256, rows * n * 256, 0)
        assert x.footprint_loaded == rows * n * 256
        assert (sums.stored, sums.loaded) == (rows * 4, 0)
        # A broadcast counts once per SIMD-group, and once per lane in lane bytes.
        assert size.lane_loaded == 32 * size.loaded
        assert report.barriers == 3 * rows
        assert report.bank_cycles == report.bank_cycles_ideal

    def test_bytes_of_whole_arrays_come_back(self):
        x, y = aligned(np.arange(128, dtype=np.float32)), poisoned(128, np.float32)
        report = library("planted", "traced").launch("copy_vectors", [x, y, np.int32(0)])
        np.testing.assert_array_equal(x, y)
        assert report.buffers[1].store_instructions == 1
        assert report.buffers[1].store_segments == 8


class TestOperations:
    def test_known_counts(self):
        threads, n = 256, 10
        x, y = aligned(np.full(threads, 0.5, np.float32)), poisoned(2 * threads, np.float32)
        lib = library("operations", "counted")
        for _ in range(2):
            report = lib.launch("known", [x, y, np.int32(n)], 8)
            assert report.operations["float"] == threads * 2 * n
            assert report.operations["divide"] == threads
            assert report.operations["transcendental"] == threads
            assert report.operations["store"] == threads * 3 // 2
            assert report.operations["select"] > 0

    def test_libraries_count_for_themselves(self):
        one, other = library("operations", "counted"), library("simdgroup", "counted")
        x = aligned(np.ones(32, np.float32))
        before = one.launch("known", [x, poisoned(64, np.float32), np.int32(4)]).operations
        other.launch("collectives", [x, poisoned((32, 16), np.float32), np.int32(32)])
        assert one.launch("known", [x, poisoned(64, np.float32), np.int32(4)]).operations == before
