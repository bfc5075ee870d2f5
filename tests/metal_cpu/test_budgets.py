"""Every kernel of metal/ moves the bytes that its budget states and no more, without a fault, in strict types."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.metal_cpu.__main__ import main, record
from tests.metal_cpu.budget import Buffer, Case, Launch, cases, check
from tests.metal_cpu.compiler import ROOT, compile_metal
from tests.metal_cpu.library import Library, aligned, poisoned
from tests.metal_cpu.report import Report
from tests.metal_cpu.table import GPUS, bound, document

METAL = ROOT / "metal"
LIBRARIES = sorted(METAL.glob("*/*.metal"))
PLANTED = Path(__file__).resolve().parent / "fixtures" / "planted.metal"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name.replace(" ", "-"))
def test_kernels_keep_to_their_budgets(case):
    deviations = check(case, record(case, "traced"))
    assert not deviations, "\n" + "\n".join(deviations)


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.stem)
def test_address_spaces(path):
    compile_metal(path, "strict", include=[METAL])


def test_every_kernel_has_a_budget():
    """Of each kernel in each type some case states what it moves, so that it runs traced."""
    stated = {launch.kernel for case in cases() for launch in case.launches}
    there = {k for path in LIBRARIES for k in Library(compile_metal(path, include=[METAL])).kernels()}
    assert there - stated == set()


def test_the_table_has_every_case():
    rows = (ROOT / "docs" / "metal_kernels.md").read_text().splitlines()
    listed = {row.split(" | ")[1] for row in rows if row.count(" | ") > 1}
    assert {case.name for case in cases() if case.launches} - listed == set()


@dataclass(frozen=True)
class Recorded:
    kernel: str
    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    report: Report


class TestRules:
    """The check itself, on a kernel whose traffic is known."""

    rows, n = 3, 4

    def recorded(self, *bugs: str) -> list[Recorded]:
        x = aligned(np.ones((self.rows, self.n * 64), np.float32))
        lib = Library(PLANTED, "traced", defines=[f"BUG_{bug}" for bug in bugs])
        report = lib.launch(
            "row_sums", [x, poisoned(self.rows, np.float32), np.int32(self.n)], self.rows, 64, check=False
        )
        return [Recorded("row_sums", (self.rows, 1, 1), (64, 1, 1), report)]

    def case(self, **changes) -> Case:
        size = self.rows * self.n * 256
        x = replace(Buffer("x", loaded=size, size=size, streamed=True), **changes)
        sums = Buffer("sums", stored=4 * self.rows, size=4 * self.rows, streamed=True)
        return Case("rows", lambda: [], [Launch("row_sums", [x, sums], per=("row", self.rows))])

    def test_a_kernel_that_keeps_to_its_budget(self):
        assert check(self.case(), self.recorded()) == []

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"loaded": 3200}, "x: loaded 3072 bytes, the formula says 3200"),
            ({"stored": 64}, "x: stored 0 bytes, the formula says 64"),
            ({"size": 1536}, "x: loaded 3072 bytes, streamed once it would be 1536"),
            ({"size": 1536, "streamed": False}, "x: loaded 3072 bytes of 1536 and no reason is given"),
        ],
    )
    def test_deviations_in_words(self, changes, words):
        [deviation] = check(self.case(**changes), self.recorded())
        assert deviation.endswith(words)

    def test_a_reason_excuses_what_is_stated(self):
        assert check(self.case(size=1536, streamed=False, why="from cache"), self.recorded()) == []

    def test_an_access_that_does_not_coalesce(self):
        [deviation] = check(self.case(), self.recorded("STRIDED"))
        assert "x: loads touch 96 segments of 64 bytes where 48 would do, 2.00 times" in deviation

    def test_a_looser_limit_needs_a_reason(self):
        [deviation] = check(self.case(segments=2.0), self.recorded("STRIDED"))
        assert deviation.endswith("x: a limit of 2.0 times the segments and no reason is given")
        assert check(self.case(segments=2.0, why="strided"), self.recorded("STRIDED")) == []

    def test_a_streamed_operand_has_no_excuse(self):
        [deviation] = check(self.case(size=1536, why="from cache"), self.recorded())
        assert "streamed once it would be 1536" in deviation

    def test_faults_are_deviations(self):
        [deviation] = check(self.case(), self.recorded("MISSING_BARRIER"))
        assert "races" in deviation and "planted.metal" in deviation

    def test_other_launches_than_stated(self):
        case = dataclasses.replace(self.case(), launches=[Launch("row_products", [])])
        [deviation] = check(case, self.recorded())
        assert deviation == "rows: launches row_sums; stated row_products"

    def test_the_table(self):
        recorded = self.recorded()
        text = document([("sums", self.case(why="not needed"), recorded, [])])
        assert "### rows" in text and "| 0 | x | 3,072 | 0 | 3,072 | 3,072 | 1.00 | streamed |" in text
        strided = document([("sums", self.case(why="strided"), self.recorded("STRIDED"), [])])
        assert "| 2.00 | streamed; strided |" in strided
        seconds, what = bound(GPUS[0], recorded[0].report, None)
        assert what == "memory" and seconds == pytest.approx((3072 + 64 + 64) / 68.25e9)


def test_the_command_lists_kernels(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "metal/skip_gather/skip_gather.metal" in out and "  skip_gather_fwd_float32" in out
