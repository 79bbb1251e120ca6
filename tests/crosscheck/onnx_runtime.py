"""ONNX Runtime's MatMulInteger and ConvInteger against the accumulators of refimpl's INT8 layers, bias and zero point in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.crosscheck.layers import KINDS, Kind, Layer, accumulators, random_codes, random_layer
from tests.crosscheck.rows import PACKAGES, Array, Oracle, Row, Tally, installed

LAYERS = 160


def run(seed: int) -> Iterator[Row]:
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        if kind.transposed:
            continue  # ONNX has no transposed convolution of integers
        tally = Tally(f"{'MatMulInteger' if kind.size == (1, 1) else 'ConvInteger'} = accumulators of {kind.name}")
        for _ in range(LAYERS):
            layer = random_layer(rng, kind.weight, "int8", False)
            layer = replace(layer, bias=np.zeros_like(layer.bias))
            x = random_codes(rng, kind.x, "int8")
            tally.add(accumulators(kind, layer, x), _theirs(kind, layer, x))
        yield tally.row()


def _theirs(kind: Kind, layer: Layer, x: Array) -> Array:
    """Unsigned activations (ConvInteger has no signed ones here): code and zero point plus 128, signed weights."""
    unsigned = (x.astype(np.int16) + 128).astype(np.uint8)
    zero = np.array(layer.x.zero_point + 128, np.uint8)
    if kind.size == (1, 1):
        weight = np.ascontiguousarray(layer.codes.reshape(layer.codes.shape[0], -1).T)
        return _run("MatMulInteger", {}, unsigned, weight, zero)
    image = np.ascontiguousarray(unsigned.transpose(2, 0, 1)[None])  # NCHW
    weight = np.ascontiguousarray(layer.codes.transpose(0, 3, 1, 2))
    margin = (kind.size[1] - 1) // 2 if kind.stride == 1 else 0
    attributes = {"strides": [1, kind.stride], "pads": [0, margin, 0, margin]}
    return _run("ConvInteger", attributes, image, weight, zero)[0].transpose(1, 2, 0)


def _run(operator: str, attributes: dict[str, Any], x: Array, weight: Array, zero: Array) -> Array:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(operator, ["x", "w", "z"], ["y"], **attributes)
    entry = helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)
    out = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph([node], "crosscheck", [entry], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": x})[0]
    return result


ORACLE = Oracle("onnxruntime", PACKAGES, installed("onnxruntime", "onnx"), run)
