"""A TFLite file of one operator, made with the schema that the LiteRT package ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from refimpl.program import Format
from tests.crosscheck.rows import Array

TYPES = {np.int8: schema.TensorType.INT8, np.int16: schema.TensorType.INT16}
TYPES |= {np.int32: schema.TensorType.INT32, np.int64: schema.TensorType.INT64}


@dataclass(frozen=True)
class Operand:
    """A tensor: ``values`` (or only its shape and type), a constant or not, quantized per tensor or along axis 0."""

    values: Array
    constant: bool
    scales: tuple[float, ...] = ()
    zero_point: int = 0


def quantized(values: Array, form: Format) -> Operand:
    return Operand(values, False, (form.scale,), form.zero_point)


def constant(values: Array, scales: Array | None = None) -> Operand:
    return Operand(values, True, () if scales is None else tuple(float(s) for s in scales))


def model(name: str, version: int, options: Any, operands: list[Operand], out: Operand) -> bytes:
    """The file's bytes. Scales are stored in FP32: one that FP32 does not hold is refused."""
    buffers = [schema.BufferT()]
    tensors = [_tensor(i, operand, buffers) for i, operand in enumerate([*operands, out])]
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    call = schema.OperatorT()
    call.opcodeIndex, call.inputs, call.outputs = 0, list(range(len(operands))), [len(operands)]
    call.builtinOptions = options
    call.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.outputs = tensors, [call], call.outputs
    graph.inputs = [i for i, operand in enumerate(operands) if not operand.constant]
    whole = schema.ModelT()
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(index: int, operand: Operand, buffers: list[Any]) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = f"t{index}", list(operand.values.shape)
    tensor.type = TYPES[operand.values.dtype.type]
    if operand.constant:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(operand.values).tobytes(), np.uint8)
        tensor.buffer = len(buffers)
        buffers.append(buffer)
    if operand.scales:
        if any(float(np.float32(s)) != s for s in operand.scales):
            raise ValueError(f"tensor {index}: a scale is no FP32 number")
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = list(operand.scales), [operand.zero_point] * len(operand.scales)
        tensor.quantization = quantization
    return tensor
