"""`ghost-native info`: what runs here, and what is in a checkpoint."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ghost_native.cli import blas, checkpoints, terminal
from ghost_native.cli.parser import Arguments, Parser

if TYPE_CHECKING:
    from ghost_native.models import Ghost, Transformer

DESCRIPTION = """\
Show versions, the instruction set and threads of the kernels, the BLAS in use with its measured speed, and the device;
with a checkpoint, its configuration, parameters of each part, bits per weight and stored facts."""

EXAMPLES = """\
ghost-native info
ghost-native info ghost.safetensors
GHOST_NATIVE_BLAS=none ghost-native info
"""

PRODUCT = 768  # side of the matrices whose product is timed


def add_arguments(parser: Parser) -> None:
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help=checkpoints.WHICH)


def run(args: Arguments) -> int:
    used = blas.prepare()
    if args.checkpoint is not None:
        _checkpoint(args.checkpoint)
        return 0
    import mlx.core as mx

    import ghost_native

    features = ghost_native.cpu_features()
    supported = features["supported"]
    others = ", ".join(map(str, supported)) if isinstance(supported, list) else str(supported)
    terminal.rows(
        [
            ("ghost_native", ghost_native.__version__),
            ("mlx", importlib.metadata.version("mlx")),
            ("numpy", importlib.metadata.version("numpy")),
            ("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"),
            ("instruction set", f"{features['isa']} (this CPU has {others}; GHOST_NATIVE_ISA forces one)"),
            ("threads", f"{features['threads']} (GHOST_NATIVE_THREADS sets them)"),
            ("BLAS", used.line().removeprefix("BLAS: ")),
            ("float product", f"{_gflops():.0f} GFLOP/s on the CPU, {PRODUCT} x {PRODUCT}"),
            ("device", f"{mx.default_device()}".removeprefix("Device(").removesuffix(")")),
            ("Metal kernels", _metal()),
        ]
    )  # fmt: skip
    return 0


def _metal() -> str:
    import mlx.core as mx

    import ghost_native

    if ghost_native.metal_available():
        return "on (GHOST_NATIVE_METAL=0 turns them off)"
    return "off (GHOST_NATIVE_METAL=0)" if mx.metal.is_available() else "no Metal device here"


def _gflops() -> float:
    import mlx.core as mx

    x = mx.random.normal((PRODUCT, PRODUCT))
    best = float("inf")
    for _ in range(3):
        mx.eval(x)
        begin = time.perf_counter()
        mx.eval(mx.matmul(x, x, stream=mx.cpu))
        best = min(best, time.perf_counter() - begin)
    return float(2 * PRODUCT**3 / best / 1e9)


def _checkpoint(path: Path) -> None:
    from ghost_native.models import Ghost
    from ghost_native.models.export import load_model, weight_files
    from ghost_native.train.saved import model_file

    path = model_file(path)
    model = load_model(path)
    full = 4 * model.count_params()
    size = sum(file.stat().st_size for file in (weight_files(path) if path.is_dir() else [path]))
    weights = (
        f"packed, {model.packed_bits_per_weight():.2f} bits each in the packed layers"
        if model.is_packed
        else f"{model.config.weights}, not packed (train --pack saves 2-bit weights)"
    )
    terminal.rows(
        [
            ("file", f"{path}, {terminal.size(size)}, {full / size:.1f} times smaller than float32"),
            ("parameters", f"{model.count_params():,}"),
            ("weights", weights),
        ]
    )
    terminal.heading("Parameters of each part")
    terminal.rows([(name, f"{count:,}") for name, count in parts(model).items()])
    terminal.heading("Configuration")
    terminal.rows([(name, str(value)) for name, value in model.config.to_dict().items()])
    if not isinstance(model, Ghost):
        terminal.rows([("context", f"{model.context} tokens, the longest it was trained on")])
        return
    facts = model.facts()
    terminal.heading(f"Facts: {len(facts)}")
    terminal.rows([(_text(key), _text(value)) for key, value in facts.items()])


def _text(data: bytes) -> str:
    return terminal.visible(data.decode("utf-8", "replace")).replace("\n", "\u21b5")


def parts(model: Ghost | Transformer) -> dict[str, int]:
    """Parameters by part: layers one by one, then the rest by name. Codebooks are counted apart, as everywhere."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    counts: dict[str, int] = {}

    def add(name: str, count: int) -> None:
        folders = name.split(".")
        part = " ".join(folders[:2]) if folders[0] == "layers" else folders[0]
        counts[part] = counts.get(part, 0) + count

    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for name, weight in weights.items():
        if not name.endswith((".codebook", ".codes")):
            add(name, weight.size)
    for name, layer in model.codebook_layers():
        if layer.is_packed:
            add(name, layer.num_weights)
    return counts | {"codebooks": model.count_codebook_params()}
