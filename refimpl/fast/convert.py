"""Changes of format on 32-bit lanes (SPEC Q-5, Q-7, Q-8); block fixed point as the operators do it (F-5 to F-8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.fast.elementwise import CODES, are, fits, half, largest
from refimpl.fast.native import VIEWS, Array, Call, Operator, entry, flat, replaces, shaped
from refimpl.fast.vector import add32, bf16_of, clamp32, f32_bits, f32_of, mul32, round32, sra32, sub32
from refimpl.numerics.jit import inline_as
from refimpl.operators import convert

Calls = Sequence[Call] | None
_u16 = VIEWS["u16", 1]
_i32x2, _i32x3, _i32x4, _u16x3, _i8x3 = (
    VIEWS[key] for key in (("i32", 2), ("i32", 3), ("i32", 4), ("u16", 3), ("i8", 3))
)  # fmt: skip
_indices = VIEWS["i64", 1]


def _quantize(bits: int) -> Any:
    view = CODES[bits]

    def run(p):
        x, y, inverse = _u16(p, 0), view(p, 2), f32_bits(p[4])
        low, high, zero = np.int32(p[5]), np.int32(p[6]), np.int32(p[7])
        for i in range(y.size):
            y[i] = add32(round32(f32_of(x[i]) * inverse, low, high), zero)

    return inline_as(f"quantize_{bits}")(run)


_q8, _q16 = _quantize(8), _quantize(16)


@entry
def bf16_to_8(p):
    _q8(p)


@entry
def bf16_to_16(p):
    _q16(p)


@replaces(convert.quantize_bf16)
def quantize_bf16(x: Array, inverse_scale: Any, zero_point: int, lowest: int, highest: int, y: Array) -> Calls:
    """SPEC Q-5."""
    zero, low, high = int(zero_point), int(lowest) - int(zero_point), int(highest) - int(zero_point)
    if not are(np.uint16, x) or y.dtype not in (np.int8, np.int16) or low > high or max(abs(low), abs(high)) >= 1 << 24:
        return None
    made = bf16_to_8 if y.itemsize == 1 else bf16_to_16
    return [Call(made, (*flat(x), *flat(y), np.float32(inverse_scale), low, high, zero))]


def _dequantize(bits: int) -> Any:
    view = CODES[bits]

    def run(p):
        x, y, scale, zero = view(p, 0), _u16(p, 2), f32_bits(p[4]), np.int32(p[5])
        for i in range(y.size):
            y[i] = bf16_of(np.float32(sub32(np.int32(x[i]), zero)) * scale)

    return inline_as(f"dequantize_{bits}")(run)


_d8, _d16 = _dequantize(8), _dequantize(16)


@entry
def bf16_from_8(p):
    _d8(p)


@entry
def bf16_from_16(p):
    _d16(p)


@replaces(convert.dequantize_bf16)
def dequantize_bf16(x: Array, scale: Any, zero_point: int, y: Array) -> Calls:
    """SPEC Q-7."""
    if x.dtype not in (np.int8, np.int16) or not are(np.uint16, y):
        return None
    made = bf16_from_8 if x.itemsize == 1 else bf16_from_16
    return [Call(made, (*flat(x), *flat(y), np.float32(scale), int(zero_point)))]


def _codes(bits_x: int, bits_y: int) -> Any:
    view_x, view_y = CODES[bits_x], CODES[bits_y]

    def run(p):
        x, y = view_x(p, 0), view_y(p, 2)
        m, addend, n = np.int32(p[4]), np.int32(p[5]), np.int32(p[6])
        low, high, last = np.int32(p[7]), np.int32(p[8]), np.int32(p[9])
        for i in range(y.size):
            y[i] = add32(clamp32(sra32(add32(mul32(np.int32(x[i]), m), addend), n), low, high), last)

    return inline_as(f"codes_{bits_x}_{bits_y}")(run)


_c12, _c21 = _codes(8, 16), _codes(16, 8)


@entry
def codes_8_to_16(p):
    _c12(p)


@entry
def codes_16_to_8(p):
    _c21(p)


@replaces(convert.requantize_codes)
def requantize_codes(x: Array, in_zero: int, m: int, n: int, zero_point: int, lowest: int, highest: int, y: Array) -> Calls:
    """SPEC Q-8."""
    in_zero, m, n, zero_point, lowest, highest = (int(v) for v in (in_zero, m, n, zero_point, lowest, highest))
    made = {(np.int8, np.int16): codes_8_to_16, (np.int16, np.int8): codes_16_to_8}.get((x.dtype.type, y.dtype.type))
    n = max(n, 0)
    if made is None or n > 31:
        return None
    bound, addend = largest(x.dtype, in_zero) * abs(m) + half(n), half(n) - in_zero * m
    if not fits(bound, addend, m, lowest - zero_point, highest - zero_point, lowest, highest, zero_point):
        return None
    constants = (m, addend, n, lowest - zero_point, highest - zero_point, zero_point)
    return [Call(made, (*flat(x), *flat(y), *constants))]


@entry
def block_bf16(p):
    convert.block_to_bf16(_i32x3(p, 0), _i32x2(p, 4), _u16x3(p, 7))


@replaces(convert.block_to_bf16)
def block_to_bf16(mantissa: Array, exponent: Array, y: Array) -> Calls:
    """SPEC F-5."""
    if not (are(np.int32, mantissa, exponent) and are(np.uint16, y)):
        return None
    return [Call(block_bf16, (*shaped(mantissa), *shaped(exponent), *shaped(y)))]


@entry
def block_8(p):
    convert.block_to_code(_i32x3(p, 0), _i32x2(p, 4), p[11], p[12], p[13], p[14], p[15], _i8x3(p, 7))


@replaces(convert.block_to_code)
def block_to_code(
    mantissa: Array, exponent: Array, m: int, n: int, zero_point: int, lowest: int, highest: int, y: Array
) -> Calls:
    """SPEC F-6."""
    if not (are(np.int32, mantissa, exponent) and are(np.int8, y)):
        return None
    numbers = (int(v) for v in (m, n, zero_point, lowest, highest))
    return [Call(block_8, (*shaped(mantissa), *shaped(exponent), *shaped(y), *numbers))]


@entry
def bf16_block(p):
    convert.bf16_to_block(_u16x3(p, 0), _indices(p, 4), _indices(p, 6), _i32x4(p, 8), _i32x2(p, 13))


@replaces(convert.bf16_to_block)
def bf16_to_block(x: Array, re: Array, im: Array, mantissa: Array, exponent: Array) -> Calls:
    """SPEC F-7."""
    if not (are(np.uint16, x) and are(np.int32, mantissa, exponent) and are(np.int64, re, im)):
        return None
    return [Call(bf16_block, (*shaped(x), *flat(re), *flat(im), *shaped(mantissa), *shaped(exponent)))]


@entry
def code_block(p):
    convert.code_to_block(_i8x3(p, 0), _indices(p, 4), _indices(p, 6), p[16], p[17], _i32x4(p, 8), _i32x2(p, 13))


@replaces(convert.code_to_block)
def code_to_block(x: Array, re: Array, im: Array, zero_point: int, shift: int, mantissa: Array, exponent: Array) -> Calls:
    """SPEC F-8."""
    if not (are(np.int8, x) and are(np.int32, mantissa, exponent) and are(np.int64, re, im)):
        return None
    words = (*shaped(x), *flat(re), *flat(im), *shaped(mantissa), *shaped(exponent))
    return [Call(code_block, (*words, int(zero_point), int(shift)))]


KERNELS: tuple[Operator, ...] = (
    quantize_bf16,
    dequantize_bf16,
    requantize_codes,
    block_to_bf16,
    block_to_code,
    bf16_to_block,
    code_to_block,
)
