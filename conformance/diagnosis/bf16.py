"""BF16 and single precision in NumPy: the rules of SPEC B-1 and B-2, and what devices do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Encode = Callable[[Array], Array]


def decode(pattern: Array) -> Array:
    return (np.asarray(pattern).astype(np.uint32) << np.uint32(16)).view(np.float32)


def decode_flushed(pattern: Array) -> Array:
    """Subnormal inputs count as zeros of their sign."""
    bits = np.asarray(pattern).astype(np.uint32)
    return decode(np.where(bits & 0x7F80, bits, bits & 0x8000))


def to_f32(value: Array) -> Array:
    """FP64 to FP32 by rounding to odd: whatever rounds the result again to BF16 rounds as if once."""
    if value.dtype == np.float32:
        return value
    x = np.asarray(value, np.float64)
    near = x.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32).astype(np.int64)
    beyond = np.abs(back) > np.abs(x)
    truncated = np.where(beyond, bits - 1, bits)
    out: Array = np.where((back != x) & np.isfinite(x), truncated | 1, bits).astype(np.uint32).view(np.float32)
    return out


def fused(product: Array, addend: Array) -> Array:
    """``fp32(product + addend)`` with one rounding; ``product`` is exact in FP64, as products of two FP32 values are."""
    a, b = np.asarray(product, np.float64), np.asarray(addend, np.float64)
    total = a + b
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    # Rounding to odd: one last place toward the error where the sum was rounded to an even pattern.
    step = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.where(inexact, bits + step, bits).view(np.float64)
    out: Array = odd.astype(np.float32)
    return out


def _bits(value: Array) -> Array:
    out: Array = to_f32(np.asarray(value)).view(np.uint32).astype(np.int64)
    return out


def _is_nan(bits: Array) -> Array:
    out: Array = (bits & 0x7FFFFFFF) > 0x7F800000
    return out


def _patterns(bits: Array, rounded: Array) -> Array:
    """``rounded`` as patterns, NaN canonical."""
    return np.where(_is_nan(bits), 0x7FC0, rounded & 0xFFFF).astype(np.uint16)


def encode(value: Array) -> Array:
    bits = _bits(value)
    return _patterns(bits, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


def encode_truncated(value: Array) -> Array:
    bits = _bits(value)
    return _patterns(bits, bits >> 16)


def encode_half_away(value: Array) -> Array:
    bits = _bits(value)
    return _patterns(bits, (bits + 0x8000) >> 16)


def encode_flushed(value: Array) -> Array:
    """Subnormal results become zeros of their sign."""
    pattern = encode(value)
    return np.where(pattern & 0x7F80, pattern, pattern & 0x8000).astype(np.uint16)


def encode_flushed_positive(value: Array) -> Array:
    pattern = encode(value)
    return np.where(pattern & 0x7F80, pattern, 0).astype(np.uint16)


def encode_flushed_before(value: Array) -> Array:
    """FP32 values below the smallest normal one become zero before they are rounded, so that none rounds up to it."""
    bits = _bits(value)
    return np.where(bits & 0x7F800000, encode(value), (bits >> 16) & 0x8000).astype(np.uint16)


def encode_saturated(value: Array) -> Array:
    """The largest finite value instead of infinity, where the argument was finite."""
    pattern = encode(value).astype(np.int64)
    over = ((pattern & 0x7FFF) == 0x7F80) & np.isfinite(np.asarray(value))
    return np.where(over, (pattern & 0x8000) | 0x7F7F, pattern).astype(np.uint16)


def encode_no_negative_zero(value: Array) -> Array:
    pattern = encode(value)
    return np.where(pattern == 0x8000, 0, pattern).astype(np.uint16)


def encode_nan(how: str) -> Encode:
    """NaN as a device may leave it: with its ``sign``, its ``payload``, all ``ones``, or ``rounded`` like a number."""

    def encoded(value: Array) -> Array:
        bits = _bits(value)
        quiet = {
            "sign": 0x7FC0 | ((bits >> 16) & 0x8000),
            "negative": np.full(bits.shape, 0xFFC0),
            "payload": (bits >> 16) | 0x40,
            "cut": bits >> 16,
            "ones": np.full(bits.shape, 0x7FFF),
            "rounded": ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF,
        }[how]
        return np.where(_is_nan(bits), quiet, encode(value)).astype(np.uint16)

    return encoded


def mantissa_cut(value: Array, bits: int) -> Array:
    """FP32 rounded half to even to ``bits`` fraction bits: what TF32 (10) or BF16 (7) operands keep."""
    word = np.asarray(value, np.float32).view(np.uint32).astype(np.int64)
    drop = 23 - bits
    kept = (word + (1 << (drop - 1)) - 1 + ((word >> drop) & 1)) >> drop << drop
    return np.where(np.isfinite(value), kept, word).astype(np.uint32).view(np.float32)
