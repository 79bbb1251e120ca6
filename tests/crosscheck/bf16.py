"""BF16 rounding, addition and multiplication (SPEC B-1, B-3, B-4) against ml_dtypes and Berkeley SoftFloat.

A NaN is compared as a NaN: that ours is always 0x7FC0 is our rule, and what theirs is differs. All 2^32 inputs of the
rounding: ``python -m tests.exhaustive_bf16``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refimpl.operators import convert, elementwise
from tests.crosscheck.layers import Random
from tests.crosscheck.rows import PACKAGES, Array, Oracle, Row, Tally, installed

ML_DTYPES_PAIRS, SOFTFLOAT_PAIRS = 8_000_000, 2_000_000
# Around zero, the subnormals, the smallest normal number, 2^-63 (products underflow), 2^-9 to 1 (sums tie), 2^63, overflow,
# infinity, NaN: both signs.
POSITIVE = (
    *(0x0000, 0x0001, 0x0002, 0x0003, 0x007F, 0x0080, 0x0081, 0x00FF, 0x0100, 0x1FFF, 0x2000, 0x2001),
    *(0x3B00, 0x3B7F, 0x3B80, 0x3B81, 0x3F00, 0x3F7F, 0x3F80, 0x3F81, 0x3FC0, 0x4000, 0x5F00, 0x5F80),
    *(0x7B00, 0x7EFF, 0x7F00, 0x7F7E, 0x7F7F, 0x7F80, 0x7F81, 0x7FBF, 0x7FC0, 0x7FC1, 0x7FFF),
)
SPECIALS = np.array([sign | pattern for sign in (0, 0x8000) for pattern in POSITIVE], np.uint16)


def pairs(rng: Random, count: int) -> tuple[Array, Array]:
    """All pairs of specials, then thirds: any two patterns; exponents within 10; products around the smallest numbers."""
    a, b = rng.integers(0, 65536, (2, 3, count // 3), np.uint16)
    field = ((a >> 7) & 255).astype(np.int64)
    near = field[1] + rng.integers(-10, 11, count // 3)
    under = 127 - field[2] + rng.integers(-14, 6, count // 3)
    for row, exponent in ((1, near), (2, under)):
        b[row] = (b[row] & 0x807F) | (np.clip(exponent, 0, 254).astype(np.uint16) << 7)
    first, second = np.meshgrid(SPECIALS, SPECIALS)
    return np.concatenate([first.ravel(), a.ravel()]), np.concatenate([second.ravel(), b.ravel()])


def run_ml_dtypes(seed: int) -> Iterator[Row]:
    """Its own scalar operators, which NumPy calls for arrays of its type."""
    import ml_dtypes

    rng = np.random.default_rng(seed)
    a, b = pairs(rng, ML_DTYPES_PAIRS)
    x, z, y = a.view(ml_dtypes.bfloat16), b.view(ml_dtypes.bfloat16), np.empty(a.shape, np.uint16)
    with np.errstate(all="ignore"):
        total, product = (x + z).view(np.uint16), (x * z).view(np.uint16)
    elementwise.add_bf16(a, b, y)
    yield _row("addition", y, total)
    elementwise.multiply_bf16(a, b, y)
    yield _row("multiplication", y, product)
    wide = singles(rng, ML_DTYPES_PAIRS)
    y = np.empty(wide.shape, np.uint16)
    convert.narrow_bf16(wide, y)
    with np.errstate(all="ignore"):
        yield _row("rounding of FP32", y, wide.astype(ml_dtypes.bfloat16).view(np.uint16))


def run_softfloat(seed: int) -> Iterator[Row]:
    """SoftFloat's FP32 operation, then its rounding to BF16: integers only, no floating-point unit takes part."""
    import softfloatpy as soft

    soft.set_rounding_mode(soft.RoundingMode.NEAR_EVEN)
    rng = np.random.default_rng(seed)
    a, b = pairs(rng, SOFTFLOAT_PAIRS)
    y = np.empty(a.shape, np.uint16)
    wide = [[soft.bf16_to_f32(soft.BFloat16.from_bytes(word)) for word in _words(operand)] for operand in (a, b)]
    for what, ours, theirs in (
        ("addition", elementwise.add_bf16, soft.f32_add),
        ("multiplication", elementwise.multiply_bf16, soft.f32_mul),
    ):
        ours(a, b, y)
        results = [soft.f32_to_bf16(theirs(p, q)).to_bytes() for p, q in zip(*wide, strict=True)]
        yield _row(what, y, _patterns(results))
    narrow = singles(rng, SOFTFLOAT_PAIRS)
    y = np.empty(narrow.shape, np.uint16)
    convert.narrow_bf16(narrow, y)
    results = [soft.f32_to_bf16(soft.Float32.from_bytes(word)).to_bytes() for word in _words(narrow.view(np.uint32))]
    yield _row("rounding of FP32", y, _patterns(results))


def _words(patterns: Array) -> list[bytes]:
    """SoftFloat's byte strings: big-endian."""
    size = patterns.dtype.itemsize
    whole = patterns.astype(patterns.dtype.newbyteorder(">")).tobytes()
    return [whole[i : i + size] for i in range(0, len(whole), size)]


def _patterns(words: list[bytes]) -> Array:
    return np.frombuffer(b"".join(words), ">u2").astype(np.uint16)


def singles(rng: Random, count: int) -> Array:
    """FP32 values: any pattern; every second one at, just below or just above half-way between two BF16 numbers."""
    bits = rng.integers(0, 1 << 32, count, np.uint32)
    near = (bits[::2] & np.uint32(0xFFFF0000)) + np.uint32(0x8000) + rng.integers(-1, 2, bits[::2].size).astype(np.uint32)
    bits[::2] = near
    return bits.view(np.float32)


def _row(what: str, ours: Array, theirs: Array) -> Row:
    tally = Tally(f"BF16 {what}")
    tally.add(ours, np.where((theirs & 0x7FFF) > 0x7F80, np.uint16(0x7FC0), theirs))
    return tally.row()


ML_DTYPES = Oracle("ml_dtypes", PACKAGES, installed("ml_dtypes"), run_ml_dtypes)
SOFTFLOAT = Oracle("softfloatpy", PACKAGES, installed("softfloatpy"), run_softfloat)
