"""A network's constants and steps as C, from golden cases; standard library only.

    python make_model.py model CASE_FOLDER OUT      model.h, model.c: a `frame` or `stream` case
    python make_model.py tables TABLES OUT          tables.h, tables.c: the four shipped tables
    python make_model.py list OUT NAME ...          models.c: the models that `dut` is built with

A case that cannot be made into C is refused in one line, exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import struct
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npy import Npy, read_npy

Entry = dict[str, Any]

# The shipped tables: C type, SHA-256 of the little-endian bytes (rules F-1, F-2, B-6)
TABLES = {
    "twiddle_q30": ("int32_t", "9939d3f073e71544266494d81bc4cc197d3234e663d2d94ff5e206e09afcea27"),
    "hann_q30": ("int32_t", "19e275ec9d728ad5ccad4699d650dc46fc02f84c7609d735172aadad0f3c90ee"),
    "sigmoid_bf16": ("uint16_t", "68d3a27df0b8afccefecb5f0e49bc2df62a4f6dc201cff1b51f33807b6623bef"),
    "tanh_bf16": ("uint16_t", "93b86a43386e016707432e45f56fda72e4312b1c5cd68ccbb588ed7c9cacf0c4"),
}
FORMATS = {
    "int8": ("FORMAT_INT8", "int8_t", 1),
    "int16": ("FORMAT_INT16", "int16_t", 2),
    "int32": ("FORMAT_INT32", "int32_t", 4),
    "bf16": ("FORMAT_BF16", "uint16_t", 2),
}
# Structure of the operators whose constants are numbers only, and its fields in order
NUMBERS = {
    "add_two_stage": ("add_two_stage_t", ["ma", "na", "mo", "no", "add_bias"]),
    "add_joint": ("add_joint_t", ["za", "zb", "ma", "mb", "n", "zero_point", "lowest", "highest"]),
    "multiply": ("multiply_t", ["za", "zb", "m", "n", "zero_point", "lowest", "highest"]),
    "requantize_codes": ("requantize_codes_t", ["in_zero", "m", "n", "zero_point", "lowest", "highest"]),
    "quantize_bf16": ("quantize_bf16_t", ["inverse_scale", "zero_point", "lowest", "highest"]),
    "dequantize_bf16": ("dequantize_bf16_t", ["scale", "zero_point"]),
    "block_to_code": ("block_to_code_t", ["m", "n", "zero_point", "lowest", "highest"]),
}
WITHOUT_CONSTANTS = {"add_bf16", "multiply_bf16", "block_to_bf16", "overlap_add", "to_pcm"}
LAYERS = {
    "fully_connected_frequency",
    "fully_connected_channels",
    "conv_causal",
    "conv_transposed_causal",
    "conv_strided",
    "conv_strided_transposed",
}
LAYERS_BF16 = {"conv_causal_bf16", "conv_transposed_causal_bf16"}


LIMITS = {"int8_t": (-128, 127), "uint8_t": (0, 255), "int16_t": (-32768, 32767), "int32_t": (-(2**31), 2**31 - 1)}


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def array(c_type: str, name: str, values: Sequence[int], storage: str = "static const") -> str:
    """A C definition, at most 110 columns wide."""
    lowest, highest = LIMITS.get(c_type, (0, 2**32 - 1))
    if values and (min(values) < lowest or max(values) > highest):
        raise ValueError(f"{name}: a value does not fit {c_type}")
    text = [f"0x{value:04X}" if c_type == "uint16_t" else str(value) for value in values]
    lines, line = [], "   "
    for word in text:
        if len(line) + len(word) + 2 > 110:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    return f"{storage} {c_type} {name}[{len(values)}] = {{\n" + "\n".join(lines) + "\n};\n"


def float_bits(value: str) -> str:
    return f"0x{struct.unpack('<I', struct.pack('<f', float.fromhex(value)))[0]:08X}u"


def bf16_patterns(file: Npy) -> list[int]:
    if file.dtype == "u2":
        return file.values()
    bits = file.values("u4")
    if any(value & 0xFFFF for value in bits):
        raise ValueError("a weight or bias of a BF16 convolution is not a BF16 value")
    return [value >> 16 for value in bits]


def transposed(file: Npy) -> list[int]:
    """The values of a matrix, columns first."""
    rows, columns = file.shape
    values = file.values()
    return [values[row * columns + column] for column in range(columns) for row in range(rows)]


class Model:
    """One case as C source: definitions of constants, buffers, tensors, steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case = json.loads((folder / "case.json").read_text())
        if self.case["arithmetic"] != "1":
            raise ValueError(f"arithmetic version {self.case['arithmetic']}, not 1")
        self.steps = self.case["steps"]
        self.definitions: list[str] = []
        self.defined: set[str] = set()
        self.order = ["frame"]
        self.past: dict[str, int] = {}
        for step in self.steps:
            self.order += step["outputs"]
            for operand in step["inputs"]:
                self.past[operand["tensor"]] = max(self.past.get(operand["tensor"], 0), operand["past"])

    def tensor(self, name: str) -> Entry:
        entry: Entry = self.case["tensors"][name]
        return entry

    def shape(self, name: str) -> list[int]:
        """Of one frame."""
        shape: list[int] = self.tensor(name)["shape"][1:]
        return shape

    def elements(self, name: str) -> int:
        return math.prod(self.shape(name))

    def load(self, name: str) -> Npy:
        return read_npy(self.folder / self.tensor(name)["file"])

    # -- constants

    def define(self, c_type: str, name: str, values: Sequence[int]) -> str:
        c_name = identifier(name)
        if c_name not in self.defined:
            self.defined.add(c_name)
            self.definitions.append(array(c_type, c_name, values))
        return c_name

    def requantizer(self, rq: Entry) -> str:
        def constant(field: str, c_type: str, wanted: bool = True) -> str:
            if not wanted or field not in rq:
                return "0"
            file = self.load(rq[field])
            return self.define(c_type, rq[field], file.values("u4") if file.dtype == "f4" else file.values())

        law = rq["law"]
        fields = [
            f"LAW_{law.upper()}", rq["pre_shift"], rq["lowest"], rq["highest"], rq["offset"],
            constant("bias", "int32_t", law != "folded"), constant("multiplier", "uint8_t"),
            constant("addend", "int32_t"), constant("shift", "uint8_t"), constant("scale", "uint32_t"),
        ]  # fmt: skip
        return "{" + ", ".join(map(str, fields)) + "}"

    def pointer(self, constant: Entry, c_type: str) -> str:
        """A table of the network, or a shipped one."""
        if "table" in constant:
            return str(constant["table"])
        return self.define(c_type, constant["tensor"], self.load(constant["tensor"]).values())

    def constants(self, step: Entry) -> str:
        """The C structure of a step's constants: its name, or 0."""
        operator = step["operator"]
        constants = {constant["name"]: constant for constant in step["constants"]}
        if operator in WITHOUT_CONSTANTS:
            return "0"
        if operator in NUMBERS:
            c_type, names = NUMBERS[operator]
            values = [self.number(constants[name]) for name in names]
        else:
            c_type, values = self.structure(step, operator, constants)
        name = identifier(step["name"]) + "_constants"
        text = f"static const {c_type} {name} = {{{', '.join(map(str, values))}}};"
        lines = textwrap.wrap(text, 110, subsequent_indent="    ", break_on_hyphens=False)
        self.definitions.append("\n".join(lines) + "\n")
        return "&" + name

    def structure(self, step: Entry, operator: str, constants: dict[str, Entry]) -> tuple[str, list[Any]]:
        """C type and fields of a step's constants, arrays defined."""
        if operator in LAYERS:
            return "layer_t", self.layer(operator, constants)
        if operator in LAYERS_BF16:
            names = [constants[name]["tensor"] for name in ("weight", "bias")]
            defined = [self.define("uint16_t", name, bf16_patterns(self.load(name))) for name in names]
            return "layer_bf16_t", [*defined, constants["below"]["int"]]
        if operator == "lookup":
            kind = FORMATS[self.tensor(step["outputs"][0])["format"]]
            table = self.pointer(constants["table"], kind[1])
            return "lookup_t", [f"{{{table}, {kind[0]}}}", constants["first"]["int"], constants["start"]["int"]]
        if operator in ("stft", "istft"):
            tables: list[Any] = [self.pointer(constants[name], "int32_t") for name in ("window", "twiddle")]
            return f"{operator}_t", [*tables, constants["base_shift"]["int"]] if operator == "istft" else tables
        if operator in ("bf16_to_block", "code_to_block"):
            names = [constants[name]["tensor"] for name in ("re", "im")]
            channels: list[Any] = [self.define("uint8_t", name, self.load(name).values()) for name in names]
            return "to_block_t", channels + [self.optional(constants, name) for name in ("zero_point", "shift")]
        raise ValueError(f"{step['name']}: operator {operator} is not supported")

    def layer(self, operator: str, constants: dict[str, Entry]) -> list[Any]:
        name = constants["weight"]["tensor"]
        weight = self.load(name)
        # L-1 has [outputs, inputs] in a case; all others, and all here, are input-major
        values = transposed(weight) if operator == "fully_connected_frequency" else weight.values()
        return [
            self.define("int8_t", name, values),
            self.requantizer(constants["rq"]["requantizer"]),
            self.optional(constants, "padding"),
            self.optional(constants, "below"),
            weight.shape[0] if operator.startswith("conv_strided") else 0,
        ]

    @staticmethod
    def optional(constants: dict[str, Entry], name: str) -> int:
        return int(constants[name]["int"]) if name in constants else 0

    @staticmethod
    def number(constant: Entry) -> str | int:
        return float_bits(constant["f32"]) if "f32" in constant else int(constant["int"])

    # -- memory

    def plan(self) -> tuple[dict[str, str], dict[str, tuple[str, int]], dict[str, int]]:
        """Buffers: one array per tensor of the state, one pool per element type for the others."""
        born: dict[str, int] = {}
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            for name in step["outputs"]:
                born[name] = last[name] = index
            for operand in step["inputs"]:
                last[operand["tensor"]] = index
        for name in ("pcm", "clipped"):
            last[name] = len(self.steps)  # read by the caller after the frame
        places: dict[str, str] = {}
        arrays: dict[str, tuple[str, int]] = {}
        pools: dict[str, list[tuple[int, int, int]]] = {}
        for name in self.order:
            c_type = FORMATS[self.tensor(name)["format"]][1]
            size = self.elements(name)
            if name == "frame" or self.past.get(name, 0):
                arrays[name] = (c_type, size * (1 + self.past.get(name, 0)))
                continue
            taken = pools.setdefault(c_type, [])
            alive = sorted((start, end) for start, end, until in taken if until >= born[name])
            offset = 0
            for start, end in alive:
                if offset + size <= start:
                    break
                offset = max(offset, end)
            taken.append((offset, offset + size, last[name]))
            places[name] = f"pool_{c_type} + {offset}"
        sizes = {c_type: max(end for _, end, _ in taken) for c_type, taken in pools.items()}
        return places, arrays, sizes

    # -- files

    def source(self) -> str:
        rows = [(step, self.constants(step)) for step in self.steps]
        places, arrays, pools = self.plan()
        out = [f"/* {self.case['id']}: made by make_model.py */\n"]
        out += ['#include "model.h"\n', '#include "tables.h"\n\n']
        out += self.definitions
        out.append("\n/* Memory that tensors share within a frame */\n")
        out += [f"static {c_type} pool_{c_type}[{size}];\n" for c_type, size in pools.items()]
        out.append("\n/* The state between frames, each with the current frame behind its past ones */\n")
        for name, (c_type, size) in arrays.items():
            places[name] = identifier(name) + "_frames"
            out.append(f"static {c_type} {places[name]}[{size}];\n")
        out.append("\nenum {\n")
        out += [f"    T_{identifier(name)},\n" for name in self.order]
        out.append("    TENSORS\n};\n\nstatic const tensor_t tensors[TENSORS] = {\n")
        for name in self.order:
            tensor = self.tensor(name)
            shape = ", ".join(map(str, [*self.shape(name), 1, 1][:3]))
            fields = (FORMATS[tensor["format"]][0], self.past.get(name, 0), tensor.get("zero_point", 0))
            out.append(f'    {{"{name}", {places[name]}, {", ".join(map(str, fields))}, {{{shape}}}}},\n')
        out.append("};\n\n#define T(name) &tensors[T_##name]\n\nstatic const step_t steps[] = {\n")
        for step, constants in rows:
            operands = ", ".join(f"T({identifier(operand['tensor'])})" for operand in step["inputs"])
            past = ", ".join(str(operand["past"]) for operand in step["inputs"])
            outputs = ", ".join(f"T({identifier(name)})" for name in step["outputs"])
            out.append(f"    {{OPERATOR_{step['operator'].upper()}, {{{operands}}}, {{{past}}},\n")
            out.append(f"     {{{outputs}}}, {constants}}},\n")
        out.append("};\n\nconst network_t model = {\n")
        out.append(f'    "{self.case["id"].split("/")[1]}", tensors, steps, TENSORS,\n')
        out.append("    sizeof steps / sizeof steps[0], T(frame), T(pcm), T(clipped),\n};\n")
        return "".join(out)

    def header(self) -> str:
        bytes_of = {n: self.elements(n) * FORMATS[self.tensor(n)["format"]][2] for n in self.order}
        state = sum(self.past.get(name, 0) * size for name, size in bytes_of.items()) + bytes_of["frame"]
        _, arrays, pools = self.plan()
        widths = {c_type: size for _, c_type, size in FORMATS.values()}
        total = sum(widths[c] * size for c, size in [*arrays.values(), *pools.items()])
        taps = [1]
        for step in self.steps:
            for constant in step["constants"]:
                if constant["name"] == "weight":
                    taps.append(math.prod(self.tensor(constant["tensor"])["shape"][:-1]))
        return (
            f"/* {self.case['id']}: made by make_model.py */\n#ifndef MODEL_H\n#define MODEL_H\n\n"
            '#include "network.h"\n\n'
            f"#define MODEL_SPEAKERS {self.shape('pcm')[0]}\n"
            f"#define MODEL_STATE_BYTES {state}    /* kept between frames, with the frame's samples */\n"
            f"#define MODEL_BUFFER_BYTES {total}    /* all buffers, the state among them */\n\n"
            f'#if REFIMPL_MAX_INPUTS < {max(taps)}\n#error "REFIMPL_MAX_INPUTS is too small"\n#endif\n\n'
            "extern const network_t model;\n\n#endif\n"
        )


def tables(folder: Path) -> dict[str, str]:
    header = "/* Made by make_model.py */\n#ifndef TABLES_H\n#define TABLES_H\n\n#include <stdint.h>\n\n"
    source = '/* Made by make_model.py */\n#include "tables.h"\n\n'
    for name, (c_type, digest) in TABLES.items():
        file = read_npy(folder / f"{name}.npy")
        if hashlib.sha256(file.data).hexdigest() != digest:
            raise ValueError(f"{folder / name}.npy: not the table of the specification")
        values = file.values()
        header += f"extern const {c_type} {name}[{len(values)}];\n"
        source += array(c_type, name, values, "const")
    return {"tables.h": header + "\n#endif\n", "tables.c": source}


def registry(names: Sequence[str]) -> dict[str, str]:
    """The models of `dut`; each was compiled with its own name for `model`."""
    symbols = [f"model_{identifier(name)}" for name in names]
    externals = "".join(f"extern const network_t {symbol};\n" for symbol in symbols)
    pointers = "".join(f"&{symbol}, " for symbol in symbols)
    text = f'#include "dut.h"\n\n{externals}\nconst network_t *const models[] = {{{pointers}0}};\n'
    return {"models.c": "/* Made by make_model.py */\n" + text}


def written(command: str, arguments: argparse.Namespace) -> dict[str, str]:
    if command == "tables":
        return tables(arguments.tables)
    if command == "list":
        return registry(arguments.names)
    model = Model(arguments.case)
    return {"model.h": model.header(), "model.c": model.source()}


def main() -> int:
    parser = argparse.ArgumentParser(description="A network's constants and steps as C, from golden cases.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("model")
    command.add_argument("case", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("tables")
    command.add_argument("tables", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("list")
    command.add_argument("out", type=Path)
    command.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    try:
        files = written(arguments.command, arguments)
    except (OSError, ValueError, KeyError) as error:
        print(f"make_model.py: {error}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (arguments.out / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
