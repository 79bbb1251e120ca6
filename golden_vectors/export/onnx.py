"""Test data in the form of ONNX backend tests: ``test_data_set_0/input_K.pb`` and ``output_K.pb``, each a TensorProto.

The protocol buffers are written here, field by field (onnx.proto: dims 1, data_type 2, name 8, raw_data 9), so that the export
needs no ONNX. A port brings its ``model.onnx``, whose inputs and outputs ``names.json`` lists in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from golden_vectors.case import readable
from golden_vectors.export.prepare import Item, Options, Prepared

DATA_TYPES = {"f32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "f64": 11, "bf16": 16}
VARINT, BYTES = 0, 2  # wire types
README = """Golden vectors of refimpl as test data of ONNX backend tests.

CASE/test_data_set_0/input_K.pb and output_K.pb are TensorProto messages: inputs and states are inputs, expected tensors and
next states are outputs. CASE/constants/constant_K.pb are the constants of the steps (initializers of a model). CASE/names.json
lists them in order, with roles, layouts, scales and zero points, and holds the steps. There is no model: bring your own.
Codes are stored as INT8 and INT16 without their scale; BF16 is the type BFLOAT16.
"""
FOLDERS = {
    "input": "test_data_set_0/input",
    "state": "test_data_set_0/input",
    "expected": "test_data_set_0/output",
    "next_state": "test_data_set_0/output",
    "constant": "constants/constant",
}


def files(cases: Iterable[Prepared], options: Options) -> Iterator[tuple[str, bytes]]:
    """The folders of all cases, then ``README.txt``."""
    for prepared in cases:
        entries: list[dict[str, Any]] = []
        counts: dict[str, int] = {}
        for role in FOLDERS:
            for item in (item for item in prepared.items if item.role == role):
                folder = FOLDERS[role]
                number = counts.get(folder, 0)
                counts[folder] = number + 1
                name = f"{folder}_{number}.pb"
                entries.append(item.entry() | {"file": name})
                yield f"{prepared.case.id}/{name}", tensor_proto(item)
        yield from ((f"{prepared.case.id}/{name}", data) for name, data in prepared.case.files.items())
        yield f"{prepared.case.id}/names.json", readable(prepared.index(entries))
    yield "README.txt", README.encode()


def tensor_proto(item: Item) -> bytes:
    """A serialized TensorProto: the stored shape, the type, the name, and the little-endian bytes."""
    message = b"".join(_varint(1 << 3 | VARINT) + _varint(size) for size in item.values.shape)
    message += _varint(2 << 3 | VARINT) + _varint(DATA_TYPES[item.format])
    for field, data in ((8, item.name.encode()), (9, item.values.tobytes())):
        message += _varint(field << 3 | BYTES) + _varint(len(data)) + data
    return message


def _varint(value: int) -> bytes:
    """A whole number from 0, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
