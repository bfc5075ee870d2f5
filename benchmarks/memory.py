"""Peak memory of a run in a process of its own: `measure("benchmarks.workloads.ghost:training_run")`."""

from __future__ import annotations

import importlib
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20


def measure(function: str, runs: int = 3) -> dict[str, float]:
    """What `module:function` takes, a function without arguments that builds everything and returns one run.

    `peak_mib`: arrays of MLX at most. `rss_mib`: growth of the process beyond its imports, whatever the library.
    """
    done = subprocess.run([sys.executable, "-m", __name__, function, str(runs)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function} failed in its own process:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(function: str, runs: int) -> None:
    import mlx.core as mx

    import ghost_native as gn

    mx.set_default_device(mx.cpu)
    gn.tune_allocator()
    module, _, name = function.partition(":")
    build = getattr(importlib.import_module(module), name)
    before = resident()
    mx.reset_peak_memory()
    run = build()
    for _ in range(runs):
        run()
    print(json.dumps({"peak_mib": mx.get_peak_memory() / MIB, "rss_mib": (most_resident() - before) / MIB}))


def resident() -> float:
    """Bytes now; at most so far on systems without /proc."""
    status = Path("/proc/self/status")
    return field(status, "VmRSS") if status.is_file() else most_resident()


def most_resident() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        return field(status, "VmHWM")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def field(status: Path, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    assert found is not None, name
    return 1024.0 * int(found[1])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
