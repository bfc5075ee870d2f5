"""
Native operators of ghost_native. Use the documented functions of ghost_native.ops.
"""

import mlx.core

version: str = "0.1.0"

mlx_version: str = "0.32.4"

def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def force_composed() -> bool: ...
def set_force_composed(on: bool) -> None: ...
def causal_conv1d(
    x: mlx.core.array,
    weight: mlx.core.array,
    bias: mlx.core.array | None = None,
    *,
    activation: str | None = None,
    initial_state: mlx.core.array | None = None,
    cu_seqlens: mlx.core.array | None = None,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> tuple[mlx.core.array, mlx.core.array]: ...
def codebook_matmul(
    x: mlx.core.array,
    codes: mlx.core.array,
    codebook: mlx.core.array,
    *,
    transpose: bool = True,
    activation: str = "float32",
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def codebook_matmul_latent(
    x: mlx.core.array,
    weight: mlx.core.array,
    codebook: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def codebook_assign(
    w: mlx.core.array,
    codebook: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def codebook_dequantize(
    codes: mlx.core.array,
    codebook: mlx.core.array,
    dtype: mlx.core.Dtype,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def bucket_sum(
    dw: mlx.core.array,
    codes: mlx.core.array,
    groups: int,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def cross_entropy(
    logits: mlx.core.array,
    targets: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def dense_matmul(
    x: mlx.core.array,
    weight: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def embedding(
    weight: mlx.core.array,
    tokens: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def gelu(
    x: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def rms_norm(
    x: mlx.core.array,
    weight: mlx.core.array,
    eps: float,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def selective_scan(
    u: mlx.core.array,
    delta: mlx.core.array,
    A: mlx.core.array,
    B: mlx.core.array,
    C: mlx.core.array,
    D: mlx.core.array | None = None,
    z: mlx.core.array | None = None,
    *,
    delta_bias: mlx.core.array | None = None,
    delta_softplus: bool = False,
    initial_state: mlx.core.array | None = None,
    cu_seqlens: mlx.core.array | None = None,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> tuple[mlx.core.array, mlx.core.array]: ...
def selective_state_update(
    state: mlx.core.array,
    u: mlx.core.array,
    delta: mlx.core.array,
    A: mlx.core.array,
    B: mlx.core.array,
    C: mlx.core.array,
    D: mlx.core.array | None = None,
    z: mlx.core.array | None = None,
    delta_bias: mlx.core.array | None = None,
    delta_softplus: bool = False,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> tuple[mlx.core.array, mlx.core.array]: ...
def selective_scan_states(
    u: mlx.core.array,
    delta: mlx.core.array,
    A: mlx.core.array,
    B: mlx.core.array,
    C: mlx.core.array,
    D: mlx.core.array | None = None,
    z: mlx.core.array | None = None,
    *,
    delta_bias: mlx.core.array | None = None,
    delta_softplus: bool = False,
    initial_state: mlx.core.array | None = None,
    cu_seqlens: mlx.core.array | None = None,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> tuple[mlx.core.array, mlx.core.array]: ...
def routing_plan(
    mask: mlx.core.array,
    *,
    capacity: int | None = None,
    cu_seqlens: mlx.core.array | None = None,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> tuple[mlx.core.array, mlx.core.array, mlx.core.array]: ...
def skip_gather(
    x: mlx.core.array,
    indices: mlx.core.array,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
def skip_scatter(
    x: mlx.core.array,
    y: mlx.core.array,
    indices: mlx.core.array,
    gate: mlx.core.array | None = None,
    *,
    stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None,
) -> mlx.core.array: ...
