"""The compiled module: environment variables, stubs, threads, streams."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import ghost_native as gn
from ghost_native import _ext

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_cpu_features():
    features = gn.cpu_features()
    assert features["isa"] in features["supported"]
    assert features["threads"] == gn.num_threads() >= 1


@pytest.mark.parametrize("isa", _ext.supported_isas())
def test_environment_forces_an_instruction_set(isa):
    done = run("import ghost_native as gn; print(gn.cpu_features()['isa'])", GHOST_NATIVE_ISA=isa)
    assert done.stdout.strip() == isa, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GHOST_NATIVE_ISA", "sse9", "unknown instruction set or not supported by this CPU, given 'sse9', allowed"),
        ("GHOST_NATIVE_THREADS", "many", "not a number of threads, given 'many', allowed: 1 to 256."),
        ("GHOST_NATIVE_THREADS", "0", "not a number of threads, given '0', allowed: 1 to 256."),
    ],
)
def test_wrong_environment_fails_the_import_with_a_message(name, value, message):
    done = run("import ghost_native", **{name: value})
    assert done.returncode == 1 and f"[{name}] {message}" in done.stderr and "ImportError" in done.stderr


def test_environment_sets_the_threads():
    assert run("import ghost_native as gn; print(gn.num_threads())", GHOST_NATIVE_THREADS="3").stdout.strip() == "3"


def test_arrays_of_another_mlx_are_refused_with_the_fix(monkeypatch):
    """As when the installed mlx was built with another nanobind ABI: every call is a TypeError."""
    from ghost_native import _native

    def incompatible(*args, **options):
        raise TypeError("incompatible function arguments")

    monkeypatch.setattr(_ext, "causal_conv1d", incompatible)
    with pytest.raises(ImportError, match=rf"was built for mlx {_ext.mlx_version()}.*pip install 'mlx=="):
        _native._check_array_type()


def test_wrong_thread_count():
    with pytest.raises(ValueError, match=r"\[set_num_threads\] wrong number of threads, given 0, allowed: 1 to 256"):
        gn.set_num_threads(0)


def test_stubs_are_up_to_date(tmp_path):
    """_ext.pyi is what nanobind's stub generator makes of the module as built."""
    out = tmp_path / "_ext.pyi"
    subprocess.run(
        [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "ghost_native._ext", "-o", str(out)],
        check=True,
        timeout=120,
    )
    golden = ROOT / "python" / "ghost_native" / "_ext.pyi"
    assert out.read_text() == golden.read_text(), (
        "regenerate: python -m nanobind.stubgen -m ghost_native._ext -o python/ghost_native/_ext.pyi"
    )


def test_many_threads_at_once():
    """Graphs built and evaluated from several Python threads, on streams of their own, share the worker pool."""
    x, w = mx.random.normal((4, 300, 33)), mx.random.normal((33, 4))
    expected = np.array(gn.causal_conv1d(x, w))
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        stream = mx.new_stream(mx.cpu)
        with mx.stream(stream):
            for _ in range(20):
                results[i] = np.array(gn.causal_conv1d(x, w, stream=stream))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert all(np.array_equal(results[i], expected) for i in range(4))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system places threads itself")
def test_workers_stay_on_the_cores_of_the_process():
    """Workers are kept off their caller's core; wherever that is, they have all others of the process, and no more."""
    code = """
import os, pathlib, sys, time
given = [int(core) for core in sys.argv[1].split(",")]
os.sched_setaffinity(0, given)
import mlx.core as mx, numpy as np, ghost_native as gn
gn.set_num_threads(3)
x, weight = mx.ones((64, 512)), mx.ones((512, 512))
mx.eval(x, weight)
for core in given * 3:
    os.sched_setaffinity(0, [core])  # where this thread goes, which computes small products itself
    time.sleep(0.01)  # the workers go to sleep
    assert gn.ops.dense_matmul(x, weight)[0, 0].item() == 512
    os.sched_setaffinity(0, given)
    assert gn.ops.dense_matmul(x, weight)[0, 0].item() == 512
time.sleep(0.01)
for thread in pathlib.Path("/proc/self/task").iterdir():
    cores = os.sched_getaffinity(int(thread.name))
    assert cores <= set(given) and len(cores) >= max(1, len(given) - 1), (thread.name, cores)
child = os.fork()
if child == 0:  # with none of the threads
    right = np.array(gn.ops.dense_matmul(x, weight))[0, 0] == 512 and os.sched_getaffinity(0) == set(given)
    os._exit(0 if right else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    cores = sorted(os.sched_getaffinity(0))
    for given in {(cores[0],), tuple(cores[:2]), tuple(cores)}:
        done = subprocess.run(
            [sys.executable, "-c", code, ",".join(map(str, given))], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr


def test_composed_form_is_per_thread_and_restored():
    with gn.composed_form():
        assert _ext.force_composed()
        seen = []
        t = threading.Thread(target=lambda: seen.append(_ext.force_composed()))
        t.start()
        t.join()
        assert seen == [False]
    assert not _ext.force_composed()
