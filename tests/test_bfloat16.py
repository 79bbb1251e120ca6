"""BF16 (SPEC B-1 to B-5) against ml_dtypes on every pattern, and against exact sums and products rounded once.

All 2^32 inputs of the encoding: ``python -m tests.exhaustive_bf16``.
"""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refimpl.numerics.bfloat16 import NAN, bf16_add, bf16_encode, bf16_from_scaled, bf16_mul
from refimpl.operators import convert, elementwise

LAW = settings(deadline=None, max_examples=200)
PATTERNS = np.arange(65536, dtype=np.uint32).astype(np.uint16)
# The value of every positive pattern to the largest finite one, then 2^128, where infinity would stand.
POSITIVE = [*PATTERNS[:0x7F80].view(ml_dtypes.bfloat16).astype(np.float64).tolist(), 2.0**128]
SPECIALS = np.array(
    [
        *(0x0000, 0x0001, 0x0002, 0x0003, 0x007E, 0x007F),  # zero and subnormals
        *(0x0080, 0x0081, 0x00FF, 0x0100),  # the smallest normal numbers
        *(0x1FFF, 0x2000, 0x2001),  # around 2^-63: products around the smallest normal number
        *(0x3F7F, 0x3F80, 0x3F81, 0x3F00, 0x3EFF, 0x3FC0, 0x4000, 0x4040),  # around 1/2, 1, 2
        *(0x3B80, 0x3B81, 0x3B00, 0x3C00, 0x43FF, 0x4380, 0x4300),  # 2^-8, 2^-9, 2^8 and neighbours: sums with 1 tie
        *(0x5F00, 0x5F80, 0x7EFF, 0x7F00, 0x7F7E, 0x7F7F),  # overflow of products, sums
        *(0x7F80, 0x7F81, 0x7FBF, 0x7FC0, 0x7FFF),  # infinity, signalling and quiet NaN
    ],
    np.uint16,
)
SPECIALS = np.concatenate([SPECIALS, SPECIALS | np.uint16(0x8000)])


def decoded(patterns: np.ndarray) -> np.ndarray:
    """FP32 values by ml_dtypes."""
    return patterns.view(ml_dtypes.bfloat16).astype(np.float32)


def encoded(values: np.ndarray) -> np.ndarray:
    """BF16 patterns by ml_dtypes, NaN made canonical."""
    with np.errstate(all="ignore"):
        patterns = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), patterns)


def nearest(value: Fraction, zero_sign: int = 0) -> int:
    """The BF16 pattern nearest to an exact value, ties to the even pattern; an exact zero has the sign given."""
    magnitude = abs(value)
    sign = zero_sign if value == 0 else 0x8000 * (value < 0)
    above = bisect_left(POSITIVE, magnitude)
    if above == 0:
        return sign
    if above == len(POSITIVE):
        return sign | 0x7F80
    lower, upper = magnitude - Fraction(POSITIVE[above - 1]), Fraction(POSITIVE[above]) - magnitude
    if lower == upper:
        return sign | (above - 1 + (above - 1) % 2)
    return sign | (above - 1 if lower < upper else above)


def test_constants() -> None:
    assert NAN == 0x7FC0
    assert np.isnan(decoded(np.array([NAN], np.uint16))[0])


@pytest.mark.parametrize("low", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_encode_every_high_half(low: int) -> None:
    """B-1: exact values, just above, below, at and above the tie, just below the next, for all 65,536 high halves."""
    values = ((PATTERNS.astype(np.uint32) << np.uint32(16)) | np.uint32(low)).view(np.float32)
    y = np.empty(65536, np.uint16)
    convert.narrow_bf16(values, y)
    np.testing.assert_array_equal(y, encoded(values))


def test_every_nan_is_canonical() -> None:
    """Quiet and signalling, both signs, payloads in the high half, the low half or only one bit."""
    payloads = np.unique(np.concatenate([1 << np.arange(23), (1 << np.arange(1, 24)) - 1, np.arange(1, 1 << 23, 4099)]))
    for sign in (0, 1 << 31):
        values = (np.uint32(sign | 0x7F800000) | payloads.astype(np.uint32)).view(np.float32)
        assert np.isnan(values).all()
        y = np.empty(values.size, np.uint16)
        convert.narrow_bf16(values, y)
        assert (y == 0x7FC0).all()


@LAW
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example((2 - 2**-7) * 2.0**127)  # the largest finite value
@example((2 - 2**-8) * 2.0**127)  # halfway to 2^128: infinity by ties to even
@example((2 - 2**-8 - 2**-23) * 2.0**127)  # one FP32 step below
@example(2.0**-133)  # the smallest subnormal
@example(2.0**-134)  # half of it: zero by ties to even
@example(-(2.0**-134))
def test_encode_is_nearest(x: float) -> None:
    """B-1 from its definition: the nearest of the two neighbours, by exact distances."""
    zero_sign = 0x8000 if np.signbit(x) else 0
    assert bf16_encode(np.float32(x)) == nearest(Fraction(x), zero_sign)


def test_decode_is_exact_and_encode_inverts_it() -> None:
    """B-2, and B-1 after it: every pattern comes back, but for NaN, which becomes canonical."""
    wide, back = np.empty(65536, np.float32), np.empty(65536, np.uint16)
    convert.widen_bf16(PATTERNS, wide)
    number = ~np.isnan(decoded(PATTERNS))
    np.testing.assert_array_equal(wide.view(np.uint32), PATTERNS.astype(np.uint32) << np.uint32(16))
    np.testing.assert_array_equal(wide[number], decoded(PATTERNS)[number])
    convert.narrow_bf16(wide, back)
    np.testing.assert_array_equal(back, np.where(number, PATTERNS, np.uint16(0x7FC0)))


def random_pairs() -> tuple[np.ndarray, np.ndarray]:
    """All pairs of special patterns, and a million more: any, of near exponents, with products near underflow."""
    rng = np.random.Generator(np.random.PCG64(20))
    n = 333_334
    a = rng.integers(0, 65536, (3, n), np.uint16)
    b = rng.integers(0, 65536, (3, n), np.uint16)
    field = (a[1:] >> 7) & 255
    near = np.clip(field[0].astype(np.int64) + rng.integers(-10, 11, n), 0, 254)
    # Exponent fields that add up to about 127 - 130: the product lies among the subnormals or just above or below.
    under = np.clip(127 - field[1].astype(np.int64) + rng.integers(-14, 6, n), 0, 254)
    for row, wanted in ((1, near), (2, under)):
        b[row] = (b[row] & np.uint16(0x807F)) | (wanted.astype(np.uint16) << np.uint16(7))
    grid = np.meshgrid(SPECIALS, SPECIALS, indexing="ij")
    return np.concatenate([grid[0].ravel(), a.ravel()]), np.concatenate([grid[1].ravel(), b.ravel()])


def test_add_and_multiply_equal_ml_dtypes() -> None:
    """B-3, B-4: one FP32 operation by numpy, one rounding by ml_dtypes; zeros keep their signs, NaN is canonical."""
    a, b = random_pairs()
    y = np.empty(a.shape, np.uint16)
    with np.errstate(all="ignore"):
        total, product = decoded(a) + decoded(b), decoded(a) * decoded(b)
    elementwise.add_bf16(a, b, y)
    np.testing.assert_array_equal(y, encoded(total))
    elementwise.multiply_bf16(a, b, y)
    np.testing.assert_array_equal(y, encoded(product))


def assert_rounded_once(a: int, b: int) -> None:
    """For finite operands: the exact sum and the exact product, rounded once to BF16, are what two roundings gave."""
    x, z = (Fraction(float(v)) for v in decoded(np.array([a, b], np.uint16)))
    both_negative, differ = a & b & 0x8000, (a ^ b) & 0x8000
    assert bf16_add(np.uint16(a), np.uint16(b)) == nearest(x + z, both_negative), (hex(a), hex(b))
    assert bf16_mul(np.uint16(a), np.uint16(b)) == nearest(x * z, differ), (hex(a), hex(b))


def test_double_rounding_is_innocuous() -> None:
    """All pairs of finite specials and some thousands of random pairs of each kind."""
    a, b = random_pairs()
    chosen = np.r_[0 : len(SPECIALS) ** 2, len(SPECIALS) ** 2 : len(a) : 251]
    finite = np.isfinite(decoded(a[chosen])) & np.isfinite(decoded(b[chosen]))
    pairs = list(zip(a[chosen][finite].tolist(), b[chosen][finite].tolist(), strict=True))
    assert len(pairs) > 6000
    for pair in pairs:
        assert_rounded_once(*pair)


FINITE = st.integers(0, 0x7F7F).flatmap(lambda p: st.sampled_from([p, p | 0x8000]))


@LAW
@given(FINITE, FINITE)
@example(0x3F80, 0x3B80)  # 1 + 2^-8: a tie, to even
@example(0x3F81, 0x3B80)
@example(0x3F81, 0x3301)  # just above a tie only by bits that FP32 drops
@example(0x7F7F, 0x7B00)  # half a unit above the largest: infinity
@example(0x7F7F, 0x7AFF)
@example(0x0001, 0x3F00)  # half of the smallest subnormal
@example(0x0003, 0x3F00)
def test_sum_and_product_are_rounded_once(a: int, b: int) -> None:
    assert_rounded_once(a, b)


@st.composite
def mantissas(draw: st.DrawFn) -> int:
    """int32 values: any, and 8-bit heads followed by bits at, below and above the tie."""
    if draw(st.booleans()):
        return draw(st.integers(-(2**31), 2**31 - 1))
    drop = draw(st.integers(0, 23))
    rest = draw(st.sampled_from([0, 1, (1 << drop) // 2 - 1, (1 << drop) // 2, (1 << drop) // 2 + 1, (1 << drop) - 1]))
    value = (draw(st.integers(0, 255)) << drop) + min(max(rest, 0), (1 << drop) - 1)
    return draw(st.sampled_from([1, -1])) * value


@LAW
@given(mantissas(), st.integers(-126, 95))
@example(-(2**31), 95)
@example(2**31 - 1, 95)
@example(1, -126)
@example(-1, -126)
@example(0, 95)
@example(0x1FF, 0)  # carries into the exponent
def test_from_scaled_is_rounded_once(mantissa: int, exponent: int) -> None:
    """B-5 on its whole domain; through FP32 first it would round twice."""
    assert bf16_from_scaled(np.int32(mantissa), exponent) == nearest(mantissa * Fraction(2) ** exponent)


def test_from_scaled_differs_from_two_roundings() -> None:
    """The domain does hold values where FP32 in between would be wrong, and the rule gets them right."""
    mantissa = (0x101 << 22) + 1  # a tie of 8 bits, plus one bit below FP32's 24
    twice = int(encoded(np.array([mantissa], np.int32).astype(np.float32))[0])
    once = int(bf16_from_scaled(np.int32(mantissa), 0))
    assert once == nearest(Fraction(mantissa)) != twice


def test_block_to_bf16_scales_by_its_exponent() -> None:
    """F-5: ``m * 2^-(22 + e)``, an exponent per frame, rounded once."""
    rng = np.random.Generator(np.random.PCG64(21))
    mantissa = (rng.integers(-(2**31), 2**31, (60, 5, 2)) >> rng.integers(0, 31, (60, 5, 2))).astype(np.int32)
    exponent = np.arange(-20, 40, dtype=np.int32).reshape(60, 1)
    y = np.empty(mantissa.shape, np.uint16)
    convert.block_to_bf16(mantissa, exponent, y)
    for index in np.ndindex(mantissa.shape):
        value = int(mantissa[index]) * Fraction(2) ** (-22 - int(exponent[index[0], 0]))
        assert y[index] == nearest(value)
