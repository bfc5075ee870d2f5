"""Runs the Metal kernels on the CPU from a shell: ``python -m tests.metal_cpu --help``."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.metal_cpu.budget import Case, Recorded, cases, check
from tests.metal_cpu.compiler import ROOT, CompileError, compile_metal
from tests.metal_cpu.library import Library

METAL = ROOT / "metal"

DESCRIPTION = """\
Compiles the project's .metal files for the CPU and runs them, without a GPU.

  list                 every library and its kernels
  run FILE             the budget cases whose launches are kernels of FILE: results of the launches, faults with the
                       line of the Metal source, bytes per buffer against their formulas
  table                all budget cases, as the table of docs/metal_kernels.md

A first run compiles the emulator (about a minute); what is compiled stays in build/metal_cpu.
"""


def libraries() -> list[Path]:
    return sorted(METAL.glob("*/*.metal"))


def kernels_of(path: Path) -> list[str]:
    return Library(compile_metal(path, "fast", include=[METAL])).kernels()


def record(case: Case, flavour: str) -> list[Recorded]:
    """The launches of a case in one flavour."""
    import mlx.core as mx

    from tests.metal_cpu.module import recorded_launches

    mx.set_default_device(mx.cpu)
    with recorded_launches(flavour) as launches:
        mx.eval(case.run())
    return list(launches)


def list_kernels(_: argparse.Namespace) -> int:
    for path in libraries():
        print(path.relative_to(ROOT))
        for name in kernels_of(path):
            print(f"  {name}")
    return 0


def print_launch(recorded: Recorded, names: Sequence[str]) -> None:
    report = recorded.report
    groups, threads = ("x".join(str(n) for n in extent) for extent in (recorded.groups, recorded.threads))
    print(f"  {recorded.kernel}: {groups} threadgroups of {threads}")
    print(
        f"    {report.barriers} barriers, {report.collectives} SIMD-group functions, "
        f"{report.threadgroup_bytes} bytes of threadgroup memory"
    )
    if report.bank_cycles_ideal:
        print(f"    bank conflicts: {report.bank_cycles / report.bank_cycles_ideal:.2f} cycles for each needed")
    for i, traffic in enumerate(report.buffers):
        if traffic.loaded or traffic.stored:
            name = names[i] if i < len(names) else f"buffer {i}"
            print(
                f"    {name:16} loaded {traffic.loaded:>10} ({traffic.lane_loaded} by lanes)  "
                f"stored {traffic.stored:>10}  of {traffic.bytes:>10}  segments {traffic.segments_ratio:.2f}"
            )
    for line in report.messages.splitlines():
        print(f"    {line}")


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file).resolve()
    wanted = {name for name in kernels_of(path) if re.search(arguments.kernel, name)}
    if not wanted:
        print(f"no kernel of {path.name} matches {arguments.kernel}", file=sys.stderr)
        return 2
    chosen = [case for case in cases() if wanted & {launch.kernel for launch in case.launches}]
    if not chosen:
        print(f"no budget case launches {', '.join(sorted(wanted))}; cases are in tests/metal_cpu/budgets")
        return 2
    failures = 0
    for case in chosen:
        start = time.perf_counter()
        recorded = record(case, "traced")
        deviations = check(case, recorded)
        failures += bool(deviations)
        print(f"{'FAILED' if deviations else 'ok':6} {case.name} ({time.perf_counter() - start:.1f} s)")
        if arguments.trace:
            for n, launch in enumerate(recorded):
                stated = case.launches[n].buffers if n < len(case.launches) else []
                print_launch(launch, [b.name for b in stated])
        for deviation in deviations:
            print(f"  {deviation}")
    return 1 if failures else 0


def write_table(arguments: argparse.Namespace) -> int:
    from tests.metal_cpu.table import document

    results = []
    for path in sorted((Path(__file__).parent / "budgets").glob("*.py")):
        for case in cases(path.stem):
            if case.launches:
                results.append((path.stem, case, record(case, "traced"), record(case, "counted")))
                print(case.name, file=sys.stderr)
    text = document(results)
    if arguments.out:
        Path(arguments.out).write_text(text)
    else:
        print(text, end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.metal_cpu", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="every library and its kernels")
    listing.set_defaults(action=list_kernels)

    running = commands.add_parser("run", help="the budget cases of a library's kernels")
    running.add_argument("file", help="for example metal/skip_gather/skip_gather.metal")
    running.add_argument("--kernel", default="", help="only kernels whose name matches this regular expression")
    running.add_argument("--trace", action="store_true", help="print every launch: traffic per buffer, barriers, banks")
    running.set_defaults(action=run)

    table = commands.add_parser("table", help="traffic, operations and bounds of all budget cases as Markdown")
    table.add_argument("--out", help="the file to write, for example docs/metal_kernels.md")
    table.set_defaults(action=write_table)

    arguments = parser.parse_args(argv)
    try:
        return arguments.action(arguments)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
