"""ONNX Runtime: its operator for 2-bit weights, and its dense product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import ghost_native as gn

GROUP = 128  # weights that share a scale
_ZERO = 2  # the code of weight 0

Run = Callable[[np.ndarray], np.ndarray]


def two_bit(codes: np.ndarray, scales: np.ndarray, accuracy_level: int) -> Run:
    """x @ W.T for W = scale * (code - 2), codes (N, K) in 0..3, scales (N, K / 128).

    accuracy_level 0 computes in float32; 4 rounds x to int8 and computes in integers.
    """
    rows, columns = codes.shape
    blocks = codes.astype(np.uint8).reshape(rows, columns // GROUP, GROUP // 4, 4)
    packed = (blocks << np.arange(0, 8, 2, dtype=np.uint8)).sum(-1).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scales"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=2,
        block_size=GROUP,
        accuracy_level=accuracy_level,
    )
    return _session(node, {"codes": packed, "scales": scales.reshape(-1)}, rows, columns)


def decoded(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """W (N, K) in float64."""
    return (codes.astype(np.float64) - _ZERO) * np.repeat(scales.astype(np.float64), GROUP, axis=1)


def dense(weight: np.ndarray) -> Run:
    """x @ W.T for W (N, K) float32."""
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    return _session(node, {"weight": np.ascontiguousarray(weight.T)}, *weight.shape)


def _session(node: onnx.NodeProto, constants: dict[str, np.ndarray], rows: int, columns: int) -> Run:
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", rows])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = gn.num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def run(x: np.ndarray) -> np.ndarray:
        y: np.ndarray = session.run(None, {"x": x})[0]
        return y

    return run
