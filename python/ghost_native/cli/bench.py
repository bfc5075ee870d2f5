"""`ghost-native bench`: the benchmarks of a checkout, as one table for each suite, and as a report."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ghost_native.cli import bench_results, blas, checkpoints, terminal
from ghost_native.cli.bench_results import SUITES, Line, Suite, milliseconds, significant
from ghost_native.cli.errors import EXIT_FAILURE, CommandError
from ghost_native.cli.parser import Arguments, Parser, number

DESCRIPTION = """\
Run the benchmarks of a checkout. Every result is checked against a reference before it is timed, and every time stands
beside the fastest rival that is installed and beside what this machine could do at most, which is measured too. A
report keeps the figures of suites that were not run again."""

EXAMPLES = """\
ghost-native bench --suite ops --filter "codebook_matmul and not half"
ghost-native bench --quick
ghost-native bench --suite peers --json peers.json
ghost-native bench --report
"""

REPORT = Path("docs/benchmarks")
NO_TESTS = 5  # pytest's exit codes
TESTS_FAILED = 1
TABLE_WIDTH = 160  # where there is no terminal

_DONE = re.compile(r"(\S+::.*?) (?:PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b.*?\[ *(\d+)%\]")
_SUMMARY = re.compile(r"(FAILED|ERROR|SKIPPED) (?:\[\d+\] )?(.*)")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all",
                        help="operators, the model, rivals, or how time grows (default all)")  # fmt: skip
    parser.add_argument("--filter", metavar="EXPR", help="only benchmarks whose names match, as of pytest -k")
    parser.add_argument("--quick", action="store_true", help="few rounds: rough figures in a fraction of the time")
    parser.add_argument("--threads", type=number(int, 1, 256), metavar="N",
                        help="threads of the kernels, and of OpenBLAS (default: all cores)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--report", type=Path, nargs="?", const=REPORT, metavar="DIR",
                        help=f"write Markdown and charts to DIR (default {REPORT})")  # fmt: skip
    parser.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), metavar="DIR",
                        help="the benchmarks of a checkout (default ./benchmarks)")  # fmt: skip


def run(args: Arguments) -> int:
    used = blas.prepare()
    folder = _benchmarks(args.benchmarks)
    _require("pytest_benchmark", "pytest-benchmark")
    if args.report is not None:
        if args.filter or args.quick:
            raise CommandError("a report is of whole suites at full length; leave out --filter and --quick")
        _require("matplotlib", "matplotlib")
    if args.json is not None:
        checkpoints.check_writable(args.json)
    environment = blas.environment(used)
    if args.threads is not None:
        for variable in ("GHOST_NATIVE_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
            environment[variable] = str(args.threads)
    suites, red = [], 0
    for name in SUITES if args.suite == "all" else (args.suite,):
        if args.suite == "all" and not list((folder / name).rglob("test_*.py")):
            continue
        suite, failures = _measure(name, folder, args, environment)
        red += len(failures)
        if suite.rows:
            suites.append(suite)
            show(suite)
        for failure in failures:
            terminal.err().print(f"not timed: {failure}", style="red")
    if not suites and not red:
        raise CommandError(f"no benchmark matches --filter {args.filter!r}; names are as pytest {folder} --co shows")
    if args.json is not None:
        bench_results.save(suites, args.json)
        terminal.remark(f"wrote {args.json}")
    if args.report is not None and suites:
        from ghost_native.cli.bench_report import write

        write(suites, args.report)
        terminal.remark(f"wrote {args.report / 'README.md'}")
    return EXIT_FAILURE if red else 0


def _benchmarks(folder: Path) -> Path:
    if not (folder / "conftest.py").is_file():
        raise CommandError(
            f"no benchmarks in {folder}: they come with the source code, not with the installed package; run this in a "
            "checkout of ghost_native, or name its folder with --benchmarks"
        )
    return folder.resolve()


def _require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise CommandError(f"this needs {package}, which is not installed: pip install '.[bench]' in the checkout")


def _measure(name: str, folder: Path, args: Arguments, environment: dict[str, str]) -> tuple[Suite, list[str]]:
    """One suite in a process of its own: what it measured, and the benchmarks that gave wrong results."""
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary) / "results.json"
        command = [sys.executable, "-m", "pytest", str(folder / name), "-v", "-ra", "--color=no", "--benchmark-only",
                   f"--benchmark-json={found}", "-p", "no:cacheprovider"]  # fmt: skip
        command += ["--quick"] * args.quick + (["-k", args.filter] if args.filter else [])
        code, output = _follow(command, name, folder.parent, {**environment, "PYTHONUNBUFFERED": "1", "COLUMNS": "250"})
        if code == NO_TESTS:
            return Suite(name, {}), []
        if code not in (0, TESTS_FAILED):
            raise CommandError(f"pytest ended with code {code}: " + " | ".join(output[-3:]))
        results = bench_results.from_pytest(name, found) if found.is_file() else Suite(name, {})
    failures = []
    for kind, text in map(_summary, output):
        if kind == "SKIPPED":
            terminal.remark(f"skipped: {text}")
        elif kind:
            failures.append(text)
    return results, failures


def _follow(command: Sequence[str], name: str, folder: Path, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a program and show how far it is; its exit code and what it printed."""
    console = terminal.err()
    output: list[str] = []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            if console.is_terminal:
                with console.status(f"{name}: starting") as status:
                    for line in process.stdout:
                        output.append(line.rstrip())
                        if done := _DONE.search(line):
                            status.update(f"{name}: {int(done[2])} %, {done[1].rpartition('/')[2]}")
            else:
                terminal.remark(f"running the benchmarks of {name}")
                output += [line.rstrip() for line in process.stdout]
        except BaseException:  # such as Ctrl-C: nothing stays behind
            process.terminate()
            raise
    return process.returncode, [line for line in output if line]


def _summary(line: str) -> tuple[str, str]:
    """A line of pytest's short summary: its kind, and which benchmark with the reason."""
    found = _SUMMARY.fullmatch(line)
    return (found[1], found[2]) if found else ("", "")


def show(suite: Suite) -> None:
    """The machine, then one line for each benchmark of ours."""
    terminal.heading(f"{suite.name}: times in milliseconds, the fastest and the median round")
    terminal.rows(bench_results.machine_facts(suite.machine))
    console = terminal.out()
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=TABLE_WIDTH)
    console.print()
    console.print(table(suite.lines()))


def table(lines: Sequence[Line]) -> Table:
    found = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for name in ("operator", "shape", "dtype", "pass"):
        found.add_column(name, overflow="fold")
    for name in ("threads", "min", "median"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("best rival", overflow="fold")
    for name in ("ratio", "rate", "% of roofline"):
        found.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        ours = line.ours
        rival = f"{line.name(line.rivals[0])} {milliseconds(line.rivals[0].fastest)}" if line.rivals else ""
        style = "" if not line.rivals else "green" if line.ratio >= 1 else "red"
        found.add_row(
            ours.operator, ours.shape, ours.dtype, ours.direction, str(ours.threads), milliseconds(ours.fastest),
            milliseconds(ours.median), rival, Text(f"{significant(line.ratio)}x" if line.rivals else "", style),
            ours.rate(), f"{100 * ours.share:.0f}" if ours.bound else "",
        )  # fmt: skip
    return found
