"""`ghost-native bench`: comparisons, tables and reports from written results, errors, and one tiny run end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ghost_native.cli import bench, bench_results, main
from ghost_native.cli.bench_results import Line, Row, Suite, compare, milliseconds, significant
from ghost_native.cli.errors import CommandError

ROOT = Path(__file__).resolve().parent.parent.parent
MACHINE = {
    "cpu": "A Processor",
    "isa": "avx2",
    "threads": 2,
    "blas": "OpenBLAS 0.3.21",
    "system": "Linux x86_64, Python 3.11.7",
    "versions": {"ghost_native": "0.1.0", "mlx": "0.32.4"},
    "rooflines": {
        "1": {"peaks": {"float32": 120e9, "int8": None}, "bandwidths": [[262144, 90e9], [268435456, 30e9]]},
        "2": {"peaks": {"float32": 240e9, "int8": None}, "bandwidths": [[262144, 180e9], [268435456, 40e9]]},
    },
}
OURS = Row("codebook_matmul", "1x64x64", "float32", "forward", "ghost_native", 2, 2e-3, 3e-3, 9, 1e9, 1e6, bound=1e-3)
TORCH = replace(OURS, variant="torch dense", fastest=8e-3)
SLOW = replace(OURS, variant="MLX loop", threads=1, fastest=0.5)


def routed(share: float, seconds: float, operator: str = "forward", passing: float = 1.0) -> Row:
    name, flops = f"ghost_v6 {operator}, {100 * share:.0f} %", 2e8 * (passing + 5 * share)
    return Row(name, "16x256", "float32", "forward", "ghost_native", 2, seconds, seconds, 5, flops, items=4096,
               axis="routed share", at=share)  # fmt: skip


def suites() -> list[Suite]:
    step = Row("ghost_v6 training step", "16x256", "float32", "forward+backward", "ghost_native", 2, 0.8, 0.9, 5,
               flops=1e9, items=4096, bound=0.1, peak_mib=900.0, rss_mib=1000.0)  # fmt: skip
    curve = [replace(OURS, shape=f"{n}x64x64", fastest=n * 1e-3, axis="M", at=float(n)) for n in (1, 4, 16)]
    threads = [replace(OURS, threads=n, axis="threads", at=float(n)) for n in (1, 2)]
    layers = [routed(share, seconds, "routed layers", 0.0) for share, seconds in ((1.0, 0.2), (0.1, 0.022))]
    return [
        Suite("ops", MACHINE, [OURS, replace(OURS, threads=1, fastest=4e-3)]),
        Suite("model", MACHINE, [step, routed(1.0, 0.3), routed(0.1, 0.1), *layers]),
        Suite(
            "peers", MACHINE, [OURS, TORCH, SLOW, replace(OURS, shape="a|b"), replace(TORCH, shape="a|b", fastest=1e-3)]
        ),
        Suite("scaling", MACHINE, [*curve, *threads]),
    ]


# -- comparisons and figures ------------------------------------------------------------------------------------------


def test_rivals_stand_beside_ours_fastest_first() -> None:
    single = replace(OURS, threads=1, fastest=4e-3)
    two, one = compare([SLOW, OURS, TORCH, replace(SLOW, threads=16), single])
    assert [rival.variant for rival in two.rivals] == ["torch dense", "MLX loop"] and two.ratio == 4.0
    assert two.name(two.rivals[1]) == "MLX loop (16 threads)"
    assert one.rivals == (SLOW,) and one.name(SLOW) == "MLX loop"
    assert compare([TORCH]) == [] and compare([OURS])[0].ratio == 0.0
    assert compare([OURS, replace(TORCH, dtype="int8")]) == [Line(OURS)]


def test_rates_are_of_what_bounds() -> None:
    assert OURS.share == 0.5 and OURS.rate() == "500 GFLOP/s"
    assert replace(OURS, moved=1e9).rate() == "500 GB/s"
    assert replace(OURS, items=4.0).rate() == "2,000 bytes/s"
    assert replace(OURS, flops=0.0, moved=0.0).rate() == ""


def test_figures() -> None:
    assert [significant(x) for x in (0.01234, 1.234, 12.34, 1234.5)] == ["0.0123", "1.23", "12.3", "1,234"]
    assert [milliseconds(x) for x in (12.34e-6, 1.234e-3, 1.5)] == ["0.0123", "1.234", "1,500.0"]


def test_results_come_from_pytest_and_come_back(tmp_path: Path) -> None:
    extra = {"suite": "ops", "operator": "gelu", "shape": "1x2", "dtype": "float32", "direction": "forward",
             "threads": 2, "variant": "ghost_native", "flops": 5.0, "bound": 0.5, "GFLOP/s": 1.0}  # fmt: skip
    stats = {"min": 1.0, "median": 2.0, "rounds": 3, "max": 4.0}
    other_turns = [{**stats, "min": 0.5}, {**stats, "min": 1.5}]
    benchmarks = [
        *({"extra_info": extra, "stats": turn} for turn in (stats, *other_turns)),
        {"extra_info": {**extra, "shape": "2x2"}, "stats": stats},
        {"extra_info": {}, "stats": stats},
    ]
    source = tmp_path / "pytest.json"
    source.write_text(json.dumps({"benchmarks": benchmarks, "machine_info": {"ghost_native": MACHINE}}))
    suite = bench_results.from_pytest("ops", source)
    gelu = Row("gelu", "1x2", "float32", "forward", "ghost_native", 2, 0.5, 2.0, 3, flops=5.0, bound=0.5)
    assert suite == Suite("ops", MACHINE, [gelu, replace(gelu, shape="2x2", fastest=1.0)])
    bench_results.save([suite], tmp_path / "saved.json")
    assert bench_results.load(tmp_path / "saved.json") == [suite]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"suites": {"ops": {"machine": {}, "rows": [{"x": 1}]}}}', '{"suites": 3}']
)
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(CommandError, match="holds no results of ghost-native bench"):
        bench_results.load(path)


# -- table and report -------------------------------------------------------------------------------------------------


def test_table_and_header(capsys: pytest.CaptureFixture[str]) -> None:
    bench.show(suites()[2])
    out = capsys.readouterr().out
    assert "A Processor, avx2 kernels" in out and "OpenBLAS 0.3.21" in out
    assert "240 GFLOP/s float32, 40.0 GB/s from memory" in out and "int8" not in out
    line = next(line for line in out.splitlines() if "1x64x64" in line)
    assert line.split() == ["codebook_matmul", "1x64x64", "float32", "forward", "2", "2.000", "3.000", "torch", "dense",
                            "8.000", "4.00x", "500", "GFLOP/s", "50"]  # fmt: skip


def test_narrow_terminals_show_every_figure() -> None:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(bench.table(compare([OURS, TORCH])))
    for figure in ("2.000", "3.000", "4.00x", "50"):
        assert figure in captured.get()


def test_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need the bench extra")
    from ghost_native.cli.bench_report import write

    *first, scaling = suites()
    write(first, tmp_path)
    assert "(scaling.md)" not in (tmp_path / "README.md").read_text()
    write([scaling], tmp_path)  # the others stay
    front = (tmp_path / "README.md").read_text()
    for name in ("ops", "model", "peers", "scaling"):
        assert f"({name}.md)" in front and (tmp_path / f"{name}.md").is_file()
    for chart in ("ratios.png", "roofline.png", "scaling.png"):
        assert f"]({chart})" in front
        assert (tmp_path / chart).read_bytes().startswith(b"\x89PNG") and (tmp_path / chart).stat().st_size < 150_000
    assert "ahead in 1 of 2 comparisons" in front and front.count("A Processor") == 1
    assert bench_results.load(tmp_path / "results.json") == suites()

    peers = (tmp_path / "peers.md").read_text()
    assert "| torch dense | **4.00** | 500 GFLOP/s | 50 |" in peers and "a\\|b" in peers
    assert "| MLX loop (1 thread) | 500.0 | 250 |" in peers
    model = (tmp_path / "model.md").read_text()
    assert "| ghost_v6 training step | 16x256 | ghost_native | 900 | 1000 |" in model
    assert "| 10 % | 100.0 | 0.25 | 1.33 | 22.0 | 0.10 | 1.10 |" in model
    for page in tmp_path.glob("*.md"):
        tables = [line.count(" | ") for line in page.read_text().splitlines() if line.startswith("| operator")]
        assert "nan" not in page.read_text() and all(tables), page


def test_report_without_comparisons_has_no_chart_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need the bench extra")
    from ghost_native.cli.bench_report import write

    write([Suite("ops", MACHINE, [OURS])], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "ops.md", "results.json", "roofline.png"}


# -- the command ------------------------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bench", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    err = error_of(capsys)
    assert "no benchmarks in benchmarks: they come with the source code" in err and "--benchmarks" in err


@pytest.mark.parametrize(("missing", "arguments"), [("pytest_benchmark", ()), ("matplotlib", ("--report",))])
def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == missing else "found")
    err = error_of(capsys, "--benchmarks", str(ROOT / "benchmarks"), *arguments)
    assert f"this needs {missing.replace('_', '-')}, which is not installed: pip install '.[bench]'" in err


def test_one_benchmark_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytest_benchmark", reason="benchmarks need the bench extra")
    saved = tmp_path / "out.json"
    code = main(["bench", "--benchmarks", str(ROOT / "benchmarks"), "--suite", "ops", "--quick", "--threads", "1",
                 "--filter", "test_small and test_forward and gelu and 1024 and not 4096 and not backward",
                 "--json", str(saved)])  # fmt: skip
    out, err = capfd.readouterr()
    assert code == 0 and "error" not in err
    assert "gelu" in out and "1x1024" in out and "% of roofline" in out
    (suite,) = bench_results.load(saved)
    (row,) = suite.rows
    assert row.operator == "gelu" and row.threads == 1 and 0 < row.fastest <= row.median and 0 < row.bound < row.fastest
    assert (
        0 < row.nrmse < 1e-5 and suite.machine["threads"] == 1 and suite.machine["rooflines"]["1"]["peaks"]["float32"]
    )


def test_a_filter_that_matches_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytest_benchmark", reason="benchmarks need the bench extra")
    arguments = ["--benchmarks", str(ROOT / "benchmarks"), "--suite", "scaling", "--filter", "nosuchbenchmark"]
    assert main(["bench", *arguments]) == 1
    assert "no benchmark matches --filter 'nosuchbenchmark'" in capfd.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder of benchmarks of its own: one passes without measuring, one is red, one has no rival here."""
    folder = tmp_path / "benchmarks"
    (folder / "ops").mkdir(parents=True)
    (folder / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--quick', action='store_true')\n"
    )
    (folder / "ops" / "test_some.py").write_text(
        "import pytest\n"
        "def test_red(benchmark):\n    benchmark(lambda: 1)\n    assert 1 == 2, 'NRMSE 1.0'\n"
        "def test_absent(benchmark):\n    pytest.skip('torch is not installed: the extra peers-torch has it')\n"
    )
    return folder


def test_wrong_results_and_absent_rivals_are_told(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytest_benchmark", reason="benchmarks need the bench extra")
    assert main(["bench", "--benchmarks", str(checkout), "--suite", "ops"]) == 1
    err = capfd.readouterr().err
    assert "not timed: " in err and "test_red" in err and "NRMSE 1.0" in err
    assert "skipped: " in err and "peers-torch" in err


def test_benchmarks_that_do_not_load(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytest_benchmark", reason="benchmarks need the bench extra")
    (checkout / "ops" / "test_some.py").write_text("import nosuchmodule\n")
    assert main(["bench", "--benchmarks", str(checkout), "--suite", "ops"]) == 1
    err = capfd.readouterr().err
    assert "error: pytest ended with code 2" in err and err.count("error: ") == 1
