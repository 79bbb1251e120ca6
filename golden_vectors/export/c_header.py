"""C99 headers, for a bench without a file system: one per case, an index of all, and a common one.

Everything is exact: integers in decimal; BF16, FP32 and FP64 as bit patterns in hexadecimal. C has no literal for the least
numbers of 32 and 64 bits: they are differences.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from textwrap import wrap
from typing import Any

from golden_vectors.export.prepare import Item, Options, Prepared
from refimpl.numerics.requantize import LAW_NAMES

C_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bf16": "uint16_t",
    "f32": "uint32_t",
    "f64": "uint64_t",
}
PATTERNS = {
    "bf16": ("<u2", 4, ""),
    "f32": ("<u4", 8, "u"),
    "f64": ("<u8", 16, "ull"),
}  # formats that are written in hexadecimal
COLUMNS = 118
COMMON = """/* What the headers of exported golden vectors share. */
#ifndef GV_COMMON_H
#define GV_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* How the arrays are stored; define it before, to place them in a section: -DGV_STORAGE='static const __attribute__((...))' */
#ifndef GV_STORAGE
#define GV_STORAGE static const
#endif

{laws}
#define GV_MAX_RANK {rank}

/* One tensor. dims are the stored ones, slowest first. scale_bits is the FP64 pattern of the scale, 0 where there is none. */
typedef struct {{
  const char *name;
  const char *role; /* input, constant, state, expected, next_state */
  const char *format; /* int8, uint8, int16, int32, int64, bf16, f32 or f64 */
  const void *data;
  uint64_t scale_bits;
  uint32_t bytes;
  uint32_t dims[GV_MAX_RANK];
  int32_t zero_point;
  uint8_t rank;
}} gv_tensor;

typedef struct {{
  const char *id;
  const gv_tensor *tensors;
  uint32_t count;
}} gv_case;

#endif
"""
README = """Golden vectors of refimpl as C99 headers.

cases.h      includes every case and lists them: gv_cases[GV_CASES]
CASE.h       one case alone: its arrays, their sizes, and the constants of its steps as macros
gv_common.h  types, and GV_STORAGE, with which the arrays can be placed in a section

An array gv_CASE_TENSOR holds gv_CASE_TENSOR_SIZE elements in stored order; gv_CASE_TENSOR_DIM0, ... are its dimensions, slowest
first. C has no empty arrays: one of size 0 holds a single 0. bf16, f32 and f64 are bit patterns: copy them, do not convert
them. A code q is the real value (q - zero_point) * scale; gv_CASE_TENSOR_SCALE_BITS is the FP64 pattern of the scale.

A step's scalar constants are gv_CASE_STEP_PARAMETER (floats as ..._BITS), its requantizer gv_CASE_STEP_rq_LAW, _PRE_SHIFT,
_LOWEST, _HIGHEST, _OFFSET and the arrays gv_CASE_STEP_rq_bias, _multiplier, _addend, _shift, _scale that its law reads.
Names are long: a compiler that tells only their first 63 characters apart may refuse some.

Tensors in all: {total} bytes
{sizes}
"""


def files(cases: Iterable[Prepared], options: Options) -> Iterator[tuple[str, bytes]]:
    """``CASE.h`` with slashes as underscores, ``gv_common.h``, ``cases.h`` and ``README.txt``."""
    taken: set[str] = {"gv_common", "gv_cases"}
    idents, sizes, rank = [], {}, 1
    for prepared in cases:
        ident = unique(f"gv_{identifier(prepared.case.id)}", prepared.case.id, taken)
        yield f"{ident.removeprefix('gv_')}.h", header(ident, prepared).encode()
        idents.append((ident, prepared.case.id, len(prepared.items)))
        sizes[prepared.case.id] = sum(item.values.nbytes for item in prepared.items)
        rank = max([rank, *(item.values.ndim for item in prepared.items)])
    laws = "\n".join(f"#define GV_LAW_{name.upper()} {number}" for number, name in enumerate(LAW_NAMES))
    yield "gv_common.h", COMMON.format(laws=laws, rank=rank).encode()
    yield "cases.h", _index(idents, sum(sizes.values())).encode()
    lines = "\n".join(f"  {size:>10}  {case_id}" for case_id, size in sizes.items())
    yield "README.txt", README.format(total=sum(sizes.values()), sizes=lines).encode()


def identifier(name: str) -> str:
    """``name`` as the tail of a C identifier."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")


def unique(ident: str, name: str, taken: set[str]) -> str:
    """``ident``, with digits of the SHA-256 of ``name`` behind it where it is taken; letter case is not told apart."""
    if ident.lower() in taken:
        ident = f"{ident}_{sha256(name.encode()).hexdigest()[:8]}"
    if ident.lower() in taken:
        raise ValueError(f"two things are called {name}")
    taken.add(ident.lower())
    return ident


def header(ident: str, prepared: Prepared) -> str:
    """The header of one case."""
    case, taken = prepared.case, set[str]()
    names = {item.name: unique(f"{ident}_{identifier(item.name)}", item.name, taken) for item in prepared.items}
    guard = f"{ident.upper()}_H"
    total = sum(item.values.nbytes for item in prepared.items)
    parts = [
        _comment([f"{case.id}: {case.comment}", f"rules {' '.join(case.rules)}", f"tensors: {total} bytes", *_calls(prepared)]),
        f"#ifndef {guard}\n#define {guard}\n",
        '#include "gv_common.h"\n',
        _macros(ident, prepared.document, taken),
        *(_array(names[item.name], item) for item in prepared.items),
        _table(ident, prepared.items, names),
        "#endif",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _calls(prepared: Prepared) -> list[str]:
    """The steps as lines of text: outputs, operator, inputs with their pasts, constants."""
    lines = []
    for step in prepared.document["steps"]:
        inputs = []
        for ref in step["inputs"]:
            past = f"{ref['past']} past" + (" and current" if ref["current"] else "")
            inputs.append(f"{ref['tensor']} ({past})" if ref["past"] else ref["tensor"])
        constants = []
        for constant in step["constants"]:
            table = f" = shipped table {constant['table']}" if "table" in constant else ""
            constants.append(f"{constant['name']}{table}")
        loop = f"  [each frame in turn, loop {step['loop']}]" if step["loop"] else ""
        lines.append(f"{', '.join(step['outputs'])} = {step['operator']}({', '.join([*inputs, *constants])}){loop}")
    return lines


def _comment(lines: list[str]) -> str:
    """A block comment; nothing in the text can end it, or is a trigraph."""
    safe = [line.encode("ascii", "backslashreplace").decode().replace("*/", "* /").replace("/*", "/ *") for line in lines]
    safe = [part for line in safe for part in wrap(line.replace("??", "? ?"), COLUMNS - 3, subsequent_indent="  ")]
    return "/* " + "\n * ".join(safe) + "\n */"


def _macros(ident: str, document: dict[str, Any], taken: set[str]) -> str:
    """The scalar constants of all steps, the scalars of requantizers too."""
    lines = []
    for step in document["steps"]:
        for constant in step["constants"]:
            name = f"{step['name']}.{constant['name']}"
            for suffix, value in _scalars(constant):
                macro = unique(f"{ident}_{identifier(name)}{suffix}", name + suffix, taken)
                lines.append(f"#define {macro} {value}")
    return "\n".join(lines) + "\n" if lines else ""


def _scalars(constant: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Suffixes and C expressions of a constant of a case's document; none for arrays."""
    if "int" in constant:
        yield "", whole(constant["int"])
    elif "bool" in constant:
        yield "", "1" if constant["bool"] else "0"
    elif "text" in constant:
        yield "", string(constant["text"])
    elif "f32" in constant:
        yield "_BITS", f"0x{struct.unpack('<I', struct.pack('<f', float.fromhex(constant['f32'])))[0]:08x}u"
    elif "f64" in constant:
        yield "_BITS", f"0x{struct.unpack('<Q', struct.pack('<d', float.fromhex(constant['f64'])))[0]:016x}ull"
    elif "requantizer" in constant:
        rq = constant["requantizer"]
        yield "_LAW", f"GV_LAW_{rq['law'].upper()}"
        yield from ((f"_{key.upper()}", whole(rq[key])) for key in ("pre_shift", "lowest", "highest", "offset"))


def whole(value: int) -> str:
    """An integer as a C expression of its own: a literal in brackets where it has a sign, wide enough for its value."""
    if value in (-(1 << 31), -(1 << 63)):
        return f"({whole(value + 1)[1:-1]} - 1)"
    suffix = "" if -(1 << 31) < value < 1 << 31 else "LL" if value < 1 << 63 else "ull"
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"


def string(text: str) -> str:
    """A C string literal of the text's UTF-8 bytes."""
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F)} | {ord(c): f"\\{c}" for c in '"\\?'}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode()) + '"'


def _array(name: str, item: Item) -> str:
    """The macros of a tensor's sizes and numbers, and its array."""
    axes = f" {','.join(item.axes)}" if item.axes else ""
    lines = [
        f"/* {item.role} {item.name}, {item.format} {list(item.values.shape)}{axes} */",
        f"#define {name}_SIZE {item.values.size}",
        *(f"#define {name}_DIM{axis} {size}" for axis, size in enumerate(item.values.shape)),
    ]
    if item.zero_point is not None:
        lines.append(f"#define {name}_ZERO_POINT {whole(item.zero_point)}")
    if item.scale is not None:
        lines.append(f"#define {name}_SCALE_BITS {_bits(item.scale)} /* {float(item.scale)!r} */")
    lines.append(f"GV_STORAGE {C_TYPES[item.format]} {name}[{max(item.values.size, 1)}] = {{")
    return "\n".join([*lines, *_rows(_elements(item)), "};"]) + "\n"


def _bits(scale: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', scale))[0]:016x}ull"


def _elements(item: Item) -> list[str]:
    """The elements as C expressions; a single 0 where there are none."""
    flat = item.values.reshape(-1)
    if item.format in PATTERNS:
        words, digits, suffix = PATTERNS[item.format]
        found = [f"0x{word:0{digits}x}{suffix}" for word in flat.view(words).tolist()]
    elif item.format == "int64":
        found = [f"{value}LL" if value > -(1 << 63) else whole(value) for value in flat.tolist()]
    elif item.format == "int32":
        found = [str(value) if value > -(1 << 31) else whole(value) for value in flat.tolist()]
    else:
        found = [str(value) for value in flat.tolist()]
    return found or ["0"]


def _rows(elements: list[str]) -> Iterator[str]:
    """Lines of elements, each as full as it can be."""
    line = " "
    for element in elements:
        if len(line) + len(element) + 2 > COLUMNS:
            yield line
            line = " "
        line += f" {element},"
    yield line


def _table(ident: str, items: tuple[Item, ...], names: dict[str, str]) -> str:
    """The case's tensors as an array of ``gv_tensor``."""
    lines = [f"#define {ident}_TENSORS {len(items)}", f"static const gv_tensor {ident}_tensors[{ident}_TENSORS] = {{"]
    for item in items:
        dims = ", ".join(f"{size}u" for size in item.values.shape) or "0u"
        scale = "0" if item.scale is None else _bits(item.scale)
        numbers = f"{scale}, {item.values.nbytes}u, {{{dims}}}, {item.zero_point or 0}, {item.values.ndim}"
        lines.append(f"  {{{string(item.name)}, {string(item.role)}, {string(item.format)}, {names[item.name]}, {numbers}}},")
    return "\n".join([*lines, "};"]) + "\n"


def _index(idents: list[tuple[str, str, int]], total: int) -> str:
    lines = [
        f"/* All exported cases; the tensors have {total} bytes. */",
        "#ifndef GV_CASES_H\n#define GV_CASES_H\n",
        *(f'#include "{ident.removeprefix("gv_")}.h"' for ident, _, _ in idents),
        f"\n#define GV_CASES {len(idents)}",
        f"#define GV_TOTAL_BYTES {whole(total)}",
        "static const gv_case gv_cases[GV_CASES] = {",
        *(f"  {{{string(case_id)}, {ident}_tensors, {count}u}}," for ident, case_id, count in idents),
        "};\n\n#endif",
    ]
    return "\n".join(lines) + "\n"
