"""TF-MLPNet as an ONNX graph, for comparison: whole clips, or one frame with its state; FP32, or INT8 by ONNX Runtime's tools.

The graph is what an exporter would make of the network: linear layers are MatMul and Add with constant weights, the LSTM is the
LSTM operator (a batch of one sequence per bin), the decoder a Conv over the past frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BINS, OPSET = 129, 17
Array = np.ndarray[Any, np.dtype[Any]]


class Graph:
    """Nodes and constants under construction; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def linear(self, x: str, weight: Array, bias: Array, relu: bool = False) -> str:
        y = self.node("Add", self.node("MatMul", x, self.constant(weight.T)), self.constant(bias))
        return str(self.node("Relu", y) if relu else y)


def build(weights: Mapping[str, Array], blocks: int, streaming: bool) -> Any:
    """The model: ``spectrum`` [1, 2, T, F] to ``separated`` [1, 2S, T, F]; streaming: T = 1, states in and out."""
    g = Graph()
    hidden, channels = weights["blocks.0.lstm.weight_hh_l0"].shape[1], weights["encoder.weight"].shape[0]
    states = {"encoder": (1, 2, 2, BINS), "decoder": (1, channels, 2, BINS)}
    for b in range(blocks):
        states |= {f"h{b}": (1, BINS, hidden), f"c{b}": (1, BINS, hidden)}
    after: dict[str, str] = {}

    def causal(name: str, x: str, weight: Array, bias: Array) -> str:
        if streaming:
            x = g.node("Concat", f"{name}.past", x, axis=2)
            ends = [g.constant(np.array([v], np.int64)) for v in (1, 3, 2)]
            after[name] = g.node("Slice", x, *ends)
            pads = [0, 0, 0, 1, 0, 0, 0, 1]
        else:
            pads = [0, 0, 2, 1, 0, 0, 0, 1]
        x = g.node("Pad", x, g.constant(np.array(pads, np.int64)))
        return str(g.node("Conv", x, g.constant(weight), g.constant(bias), kernel_shape=[3, 3]))

    x = causal("encoder", "spectrum", weights["encoder.weight"], weights["encoder.bias"])
    x = g.node("Squeeze", g.node("Transpose", x, perm=[0, 2, 3, 1]), g.constant(np.array([0], np.int64)))
    for b in range(blocks):
        p = {key.removeprefix(f"blocks.{b}."): value for key, value in weights.items() if key.startswith(f"blocks.{b}.")}
        y = x
        for m in range(sum(key.endswith("freq1.weight") for key in p)):
            turned = g.node("Transpose", y, perm=[0, 2, 1])
            h = g.linear(turned, p[f"mixers.{m}.freq1.weight"], p[f"mixers.{m}.freq1.bias"], True)
            h = g.linear(h, p[f"mixers.{m}.freq2.weight"], p[f"mixers.{m}.freq2.bias"])
            y = g.node("Add", y, g.node("Transpose", h, perm=[0, 2, 1]))
            h = g.linear(y, p[f"mixers.{m}.chan1.weight"], p[f"mixers.{m}.chan1.bias"], True)
            y = g.node("Add", y, g.linear(h, p[f"mixers.{m}.chan2.weight"], p[f"mixers.{m}.chan2.bias"]))
        x = g.node("Add", x, g.linear(y, p["intra_linear.weight"], p["intra_linear.bias"]))
        gates = [g.constant(_gates(p[f"lstm.{key}"])[None]) for key in ("weight_ih_l0", "weight_hh_l0")]
        bias = np.concatenate([_gates(p["lstm.bias_ih_l0"]), _gates(p["lstm.bias_hh_l0"])])
        start = [f"h{b}.past", f"c{b}.past"] if streaming else ["", ""]
        y, after[f"h{b}"], after[f"c{b}"] = g.node(
            "LSTM", x, *gates, g.constant(bias[None]), "", *start, outputs=3, hidden_size=hidden
        )
        y = g.node("Squeeze", y, g.constant(np.array([1], np.int64)))
        x = g.node("Add", x, g.linear(y, p["inter_linear.weight"], p["inter_linear.bias"]))
    x = g.node("Transpose", g.node("Unsqueeze", x, g.constant(np.array([0], np.int64))), perm=[0, 3, 1, 2])
    flipped = weights["decoder.weight"].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    x = causal("decoder", x, flipped, weights["decoder.bias"])
    return _model(g, x, after if streaming else {}, states, weights["decoder.bias"].size, 1 if streaming else "T")


def _gates(values: Array) -> Array:
    """PyTorch's order of gates i, f, g, o to ONNX's i, o, f, g."""
    i, f, g, o = np.split(values, 4)
    return np.concatenate([i, o, f, g])


def _model(g: Graph, result: str, after: Mapping[str, str], states: Mapping[str, Any], outputs: int, frames: Any) -> Any:
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("spectrum", kind, [1, 2, frames, BINS])]
    results = [helper.make_tensor_value_info("separated", kind, [1, outputs, frames, BINS])]
    ends = [helper.make_node("Identity", [result], ["separated"])]
    for name, value in after.items():
        inputs.append(helper.make_tensor_value_info(f"{name}.past", kind, list(states[name])))
        results.append(helper.make_tensor_value_info(f"{name}.next", kind, list(states[name])))
        ends.append(helper.make_node("Identity", [value], [f"{name}.next"]))
    graph = helper.make_graph([*g.nodes, *ends], "tf_mlpnet", inputs, results, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def quantize(model: Any, feeds: Iterator[dict[str, Array]], folder: Path, dynamic_lstm: bool) -> Path:
    """The model in INT8: static, per channel, calibrated on ``feeds``; the LSTM dynamic, or left as it is."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    source, middle, target = folder / "float.onnx", folder / "static.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    quantize_static(
        source,
        middle if dynamic_lstm else target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Add", "Relu", "Conv", "Transpose", "Pad"],
        extra_options={"ForceQuantizeNoInputCheck": True},
    )
    if dynamic_lstm:
        quantize_dynamic(middle, target, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, per_channel=True)
    return target
