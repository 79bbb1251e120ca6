"""Residual adds, gate arithmetic and tables on 32-bit lanes where the constants prove them wide enough (SPEC E-1 to E-6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.fast.native import VIEWS, Array, Call, Offset, Operator, aligned, carray, entry, flat, replaces
from refimpl.fast.vector import TIER, add32, bf16_of, clamp32, f32_of, lookup64, mul32, pointer, sra32
from refimpl.numerics.jit import inline_as
from refimpl.operators import elementwise

Calls = Sequence[Call] | None
CODES = {8: VIEWS["i8", 1], 16: VIEWS["i16", 1]}
_i8, _i16, _u16 = CODES[8], CODES[16], VIEWS["u16", 1]


def fits(*values: int) -> bool:
    """Every value is an int32."""
    return all(-(1 << 31) <= value < 1 << 31 for value in values)


def half(shift: int) -> int:
    """What is added before an arithmetic shift that rounds half up."""
    return (1 << shift) >> 1


def are(kind: Any, *arrays: Array) -> bool:
    return all(array.dtype == kind for array in arrays)


def largest(dtype: Any, zero_point: int) -> int:
    """max |q - zero_point| of the type's codes."""
    info = np.iinfo(dtype)
    return max(info.max - zero_point, zero_point - info.min, 0)


@entry
def two_stage(p):
    a, b, y = _i8(p, 0), _i8(p, 2), _i8(p, 4)
    ma, ca, na, mo, co, no, low, high = (np.int32(p[6]), np.int32(p[7]), np.int32(p[8]), np.int32(p[9]), np.int32(p[10]),
                                         np.int32(p[11]), np.int32(p[12]), np.int32(p[13]))  # fmt: skip
    last = np.int32(p[14])
    for i in range(y.size):
        scaled = sra32(add32(mul32(np.int32(a[i]), ma), ca), na)
        total = sra32(add32(mul32(add32(scaled, np.int32(b[i])), mo), co), no)
        y[i] = add32(clamp32(total, low, high), last)


@replaces(elementwise.add_two_stage)
def add_two_stage(large: Array, other: Array, ma: int, na: int, mo: int, no: int, add_bias: int, y: Array) -> Calls:
    """SPEC E-1."""
    ma, na, mo, no, add_bias = (int(v) for v in (ma, na, mo, no, add_bias))
    na, no = max(na, 0), max(no, 0)
    if not are(np.int8, large, other, y) or ma < 0 or mo < 0 or max(na, no) > 31:
        return None
    first = 255 * ma + half(na)
    second = ((first >> na) + 255) * mo + half(no)
    if not fits(
        first, second, 128 * ma + half(na), 128 * mo + half(no), (second >> no) + add_bias, add_bias - 255, 255 - add_bias
    ):
        return None
    # The two 128 are in the addends, the bias in the bounds.
    constants = (ma, 128 * ma + half(na), na, mo, 128 * mo + half(no), no, -add_bias, 255 - add_bias, add_bias - 128)
    return [Call(two_stage, (*flat(large), *flat(other), *flat(y), *constants))]


def _joint(*bits: int) -> Any:
    view_a, view_b, view_y = (CODES[b] for b in bits)

    def run(p):
        a, b, y = view_a(p, 0), view_b(p, 2), view_y(p, 4)
        ma, mb, addend, n = np.int32(p[6]), np.int32(p[7]), np.int32(p[8]), np.int32(p[9])
        low, high, last = np.int32(p[10]), np.int32(p[11]), np.int32(p[12])
        for i in range(y.size):
            total = add32(add32(mul32(np.int32(a[i]), ma), mul32(np.int32(b[i]), mb)), addend)
            y[i] = add32(clamp32(sra32(total, n), low, high), last)

    return inline_as(f"joint_{bits[0]}_{bits[1]}_{bits[2]}")(run)


_j888, _j666, _j868, _j688 = _joint(8, 8, 8), _joint(16, 16, 16), _joint(8, 16, 8), _joint(16, 8, 8)


@entry
def joint_8_8_to_8(p):
    _j888(p)


@entry
def joint_16_16_to_16(p):
    _j666(p)


@entry
def joint_8_16_to_8(p):
    _j868(p)


@entry
def joint_16_8_to_8(p):
    _j688(p)


JOINT = {(1, 1, 1): joint_8_8_to_8, (2, 2, 2): joint_16_16_to_16, (1, 2, 1): joint_8_16_to_8, (2, 1, 1): joint_16_8_to_8}


@replaces(elementwise.add_joint)
def add_joint(
    a: Array, b: Array, za: int, zb: int, ma: int, mb: int, n: int, zero_point: int, lowest: int, highest: int, y: Array
) -> Calls:
    """SPEC E-2."""
    za, zb, ma, mb, n, zero_point, lowest, highest = (int(v) for v in (za, zb, ma, mb, n, zero_point, lowest, highest))
    made = JOINT.get((a.itemsize, b.itemsize, y.itemsize))
    n = max(n, 0)
    if made is None or n > 31 or any(array.dtype.kind != "i" for array in (a, b, y)):
        return None
    bound = largest(a.dtype, za) * abs(ma) + largest(b.dtype, zb) * abs(mb) + half(n)
    raw = np.iinfo(a.dtype).max * abs(ma) + np.iinfo(b.dtype).max * abs(mb) + abs(ma) + abs(mb)
    addend = half(n) - za * ma - zb * mb
    if not fits(bound, raw, addend, ma, mb, lowest - zero_point, highest - zero_point, lowest, highest, zero_point):
        return None
    constants = (ma, mb, addend, n, lowest - zero_point, highest - zero_point, zero_point)
    return [Call(made, (*flat(a), *flat(b), *flat(y), *constants))]


@entry
def product_8(p):
    a, b, y = _i8(p, 0), _i8(p, 2), _i8(p, 4)
    za, zb, m, addend, n = np.int32(p[6]), np.int32(p[7]), np.int32(p[8]), np.int32(p[9]), np.int32(p[10])
    low, high, last = np.int32(p[11]), np.int32(p[12]), np.int32(p[13])
    for i in range(y.size):
        value = mul32(add32(np.int32(a[i]), za), add32(np.int32(b[i]), zb))
        y[i] = add32(clamp32(sra32(add32(mul32(value, m), addend), n), low, high), last)


@replaces(elementwise.multiply)
def multiply(
    a: Array, b: Array, za: int, zb: int, m: int, n: int, zero_point: int, lowest: int, highest: int, y: Array
) -> Calls:
    """SPEC E-3."""
    za, zb, m, n, zero_point, lowest, highest = (int(v) for v in (za, zb, m, n, zero_point, lowest, highest))
    n = max(n, 0)
    if not are(np.int8, a, b, y) or n > 31:
        return None
    bound = largest(np.int8, za) * largest(np.int8, zb) * abs(m) + half(n)
    if not fits(bound, za, zb, m, lowest - zero_point, highest - zero_point, lowest, highest, zero_point):
        return None
    constants = (-za, -zb, m, half(n), n, lowest - zero_point, highest - zero_point, zero_point)
    return [Call(product_8, (*flat(a), *flat(b), *flat(y), *constants))]


@entry
def lookup_8(p):
    x, rows, stride, channels, out = p[0], p[1], p[2], p[3], p[4]
    table = carray(pointer(p[5]), 256, np.int8)
    for r in range(rows):
        line = carray(pointer(x + r * stride), channels, np.uint8)
        y = carray(pointer(out + r * channels), channels, np.int8)
        for c in range(channels):
            y[c] = table[np.uintp(line[c] ^ np.uint8(128))]


@entry
def lookup_16(p):
    x, rows, stride, channels, out = p[0], p[1], p[2], p[3], p[4]
    table = carray(pointer(p[5]), 65536, np.int16)
    for r in range(rows):
        line = carray(pointer(x + r * stride), channels, np.uint16)
        y = carray(pointer(out + 2 * r * channels), channels, np.int16)
        for c in range(channels):
            y[c] = table[np.uintp(line[c] ^ np.uint16(32768))]


@entry
def lookup_bf16(p):
    x, rows, stride, channels, out = p[0], p[1], p[2], p[3], p[4]
    table = carray(pointer(p[5]), 65536, np.uint16)
    for r in range(rows):
        line = carray(pointer(x + r * stride), channels, np.uint16)
        y = carray(pointer(out + 2 * r * channels), channels, np.uint16)
        for c in range(channels):
            y[c] = table[np.uintp(line[c])]


@entry
def lookup_8_in_registers(p):
    """Pairs of rows, 32 channels of each at a time; ``spare`` takes the pair that an odd last row makes."""
    x, rows, stride, channels, out, table, spare = p[0], p[1], p[2], p[3], p[4], p[5], p[6]
    if channels == 32:
        for r in range(0, rows - 1, 2):
            lookup64(x + r * stride, stride, table, out + r * 32)
    else:
        for r in range(rows):
            for c in range(0, channels, 64):
                lookup64(x + r * stride + c, 32, table, out + r * channels + c)
    if channels == 32 and rows % 2 == 1:
        lookup64(x + (rows - 1) * stride, 0, table, spare)
        last = carray(pointer(spare), 32, np.int8)
        y = carray(pointer(out + (rows - 1) * 32), 32, np.int8)
        for c in range(32):
            y[c] = last[c]


@replaces(elementwise.lookup)
def lookup(x: Array, table: Array, first: int, start: int, y: Array) -> Calls:
    """SPEC E-4."""
    channels, first, start = y.shape[2], int(first), int(start)
    if not 0 <= start <= x.shape[2] - channels:
        return None
    rows, stride = x.shape[0] * x.shape[1], x.shape[2] * x.itemsize
    words = (Offset(x, start * x.itemsize), rows, stride, channels, y, table)
    if are(np.int8, x, y, table) and first == -128 and table.size == 256:
        if TIER == "vnni" and (channels == 32 or channels % 64 == 0):
            return [Call(lookup_8_in_registers, (*words, aligned((64,), np.int8)))]
        return [Call(lookup_8, words)]
    if are(np.int16, x, y, table) and first == -32768 and table.size == 65536:
        return [Call(lookup_16, words)]
    if are(np.uint16, x, y, table) and first == 0 and table.size == 65536:
        return [Call(lookup_bf16, words)]
    return None


@entry
def sum_bf16(p):
    a, b, y = _u16(p, 0), _u16(p, 2), _u16(p, 4)
    for i in range(y.size):
        y[i] = bf16_of(f32_of(a[i]) + f32_of(b[i]))


@entry
def product_bf16(p):
    a, b, y = _u16(p, 0), _u16(p, 2), _u16(p, 4)
    for i in range(y.size):
        y[i] = bf16_of(f32_of(a[i]) * f32_of(b[i]))


@replaces(elementwise.add_bf16)
def add_bf16(a: Array, b: Array, y: Array) -> Calls:
    """SPEC E-5."""
    return [Call(sum_bf16, (*flat(a), *flat(b), *flat(y)))] if are(np.uint16, a, b, y) else None


@replaces(elementwise.multiply_bf16)
def multiply_bf16(a: Array, b: Array, y: Array) -> Calls:
    """SPEC E-6."""
    return [Call(product_bf16, (*flat(a), *flat(b), *flat(y)))] if are(np.uint16, a, b, y) else None


# -- the 64-bit rules as they are, without a way through Python ---------------------------------------------------------------


@entry
def scaled_sum_8(p):
    elementwise.add_scaled(
        _i8(p, 0), _i8(p, 2), p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18],
        _i8(p, 4),
    )  # fmt: skip


@entry
def scaled_sum_16(p):
    elementwise.add_scaled(
        _i16(p, 0), _i16(p, 2), p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18],
        _i16(p, 4),
    )  # fmt: skip


@replaces(elementwise.add_scaled)
def add_scaled(a: Array, b: Array, *rest: Any) -> Calls:
    """SPEC E-10."""
    *numbers, y = rest
    made = scaled_sum_8 if are(np.int8, a, b, y) else scaled_sum_16 if are(np.int16, a, b, y) else None
    return [Call(made, (*flat(a), *flat(b), *flat(y), *(int(v) for v in numbers)))] if made else None


@entry
def scaled_product_8(p):
    elementwise.multiply_scaled(_i8(p, 0), _i8(p, 2), p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], _i8(p, 4))


@entry
def scaled_product_16(p):
    elementwise.multiply_scaled(_i16(p, 0), _i16(p, 2), p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], _i16(p, 4))


@replaces(elementwise.multiply_scaled)
def multiply_scaled(a: Array, b: Array, *rest: Any) -> Calls:
    """SPEC E-11."""
    *numbers, y = rest
    made = scaled_product_8 if are(np.int8, a, b, y) else scaled_product_16 if are(np.int16, a, b, y) else None
    return [Call(made, (*flat(a), *flat(b), *flat(y), *(int(v) for v in numbers)))] if made else None


KERNELS: tuple[Operator, ...] = (
    add_scaled,
    multiply_scaled,
    add_two_stage,
    add_joint,
    multiply,
    lookup,
    add_bf16,
    multiply_bf16,
)
