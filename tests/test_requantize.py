"""Requantization laws (SPEC G-2, G-3, Q-9), additions, products, conversions, lookup of codes against exact rationals.

The oracles use ``fractions.Fraction`` or floor division of exact integers, never a shift.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import LAW_BF16, LAW_FOLDED, LAW_NORM_TWICE, Requantizer, requantize
from refimpl.operators import convert, elementwise

LAW = settings(deadline=None, max_examples=200)
HALF = Fraction(1, 2)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


@kernel
def apply_law(accumulator, channel, rq, y):  # type: ignore[no-untyped-def]
    for i in range(accumulator.size):
        y[i] = requantize(accumulator[i], channel[i], rq)


def constants(
    law: int,
    bounds: tuple[int, int] = (0, 255),
    offset: int = -128,
    pre_shift: int = 0,
    bias: Any = 0,
    multiplier: Any = 1,
    addend: Any = 0,
    shift: Any = 0,
    scale: Any = 1.0,
) -> Requantizer:
    """A requantizer; per-channel constants are broadcast to one length."""
    rows = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v)) for v in (bias, multiplier, addend, shift, scale)))
    types = (np.int32, np.int32, np.int64, np.int32, np.float32)
    arrays = tuple(np.ascontiguousarray(row.astype(kind)) for row, kind in zip(rows, types, strict=True))
    return Requantizer(law, pre_shift, *bounds, offset, *arrays)


def run(rq: Requantizer, accumulators: Any, channels: Any = 0) -> np.ndarray:
    acc = np.asarray(accumulators, np.int32).ravel()
    y = np.empty(acc.size, np.int64)
    apply_law(acc, np.ascontiguousarray(np.broadcast_to(np.asarray(channels, np.int64), acc.shape)), rq, y)
    return y


def clamp(value: int, lowest: int, highest: int) -> int:
    return sorted((lowest, value, highest))[1]


def half_up(value: Fraction) -> int:
    return math.floor(value + HALF)


# -- LAW_FOLDED -------------------------------------------------------------------------------------------------------


def folded(acc: int, m: int, b: int, n: int) -> int:
    return math.floor(Fraction(acc * m + b, 2**n))


FOLDED_SETS = [
    # (M, n, total): ratios well below one, so that every code is reached; n = 0 has no rounding constant
    (1, 1, 5),
    (1, 8, 128 * 256),
    (255, 24, 1 << 23),
    (129, 15, -4000),
    (77, 10, 100_000),
    (3, 2, -7),
    (1, 0, 0),
    (1, 0, -3000),
]


@pytest.mark.parametrize(("m", "n", "total"), FOLDED_SETS)
@pytest.mark.parametrize(("lowest", "highest", "offset"), [(0, 255, -128), (128, 255, -128), (-128, 127, 0)])
def test_folded_law_at_every_threshold(m: int, n: int, total: int, lowest: int, highest: int, offset: int) -> None:
    """Every output code at the first accumulator that gives it, and the one before: half up of (acc + total) M / 2^n.

    With ``B = total * M + 2^(n-1)`` as lowering composes it; both saturations lie beyond the ends.
    """
    b = total * m + (2 ** (n - 1) if n else 0)
    rq = constants(LAW_FOLDED, (lowest, highest), offset, multiplier=m, addend=b, shift=n)
    codes = range(lowest - 3, highest + 4)
    # (acc + total) M / 2^n + 1/2 >= code first holds at this accumulator.
    first = [math.ceil((code - (HALF if n else 0)) * Fraction(2**n, m)) - total for code in codes]
    got = run(rq, first)
    before = run(rq, [acc - 1 for acc in first])
    for code, acc, here, below in zip(codes, first, got.tolist(), before.tolist(), strict=True):
        exact = Fraction((acc + total) * m, 2**n)
        assert here == clamp(half_up(exact) if n else math.floor(exact), lowest, highest) + offset
        assert here == clamp(code, lowest, highest) + offset
        assert below == clamp(code - 1, lowest, highest) + offset
    assert set(got.tolist()) == {code + offset for code in range(lowest, highest + 1)}


@LAW
@given(
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(1, 255),
    st.integers(-(2**40), 2**40),
    st.integers(0, 24),
)
@example(INT32_MIN, 255, -(2**40), 0)
@example(INT32_MAX, 255, 2**40, 24)
def test_folded_law_is_the_rational_composition(acc: int, m: int, b: int, n: int) -> None:
    """For any constants: ``sat(floor((acc * M + B) / 2^n)) + offset``, in 64 bits, not wrapped."""
    for bounds, offset in (((0, 255), -128), ((-(2**40), 2**40), 0)):
        rq = constants(LAW_FOLDED, bounds, offset, multiplier=m, addend=b, shift=n)
        assert run(rq, [acc])[0] == clamp(folded(acc, m, b, n), *bounds) + offset


def test_folded_law_reads_the_constants_of_its_channel() -> None:
    """Random accumulators and ties through 40 channels of different M, B, n."""
    rng = np.random.Generator(np.random.PCG64(40))
    m, n = rng.integers(1, 256, 40), rng.integers(0, 25, 40)
    b = rng.integers(-(2**31), 2**31, 40)
    acc, channel = rng.integers(INT32_MIN, INT32_MAX + 1, 8000), rng.integers(0, 40, 8000)
    near = (rng.integers(-40, 300, 8000) * 2 ** n[channel] + rng.integers(-1, 2, 8000) - b[channel]) // m[channel]
    acc = np.concatenate([acc, np.clip(near, INT32_MIN, INT32_MAX)])
    channel = np.concatenate([channel, channel])
    got = run(constants(LAW_FOLDED, multiplier=m, addend=b, shift=n), acc, channel)
    expected = np.clip((acc * m[channel] + b[channel]) // 2 ** n[channel], 0, 255) - 128
    np.testing.assert_array_equal(got, expected)
    assert set(expected.tolist()) == set(range(-128, 128))


# -- LAW_NORM_TWICE ---------------------------------------------------------------------------------------------------


def norm_twice(total: int, m: int, p: int, n: int) -> int:
    return half_up(Fraction(half_up(Fraction(total, 2**p)) * m, 2 ** (n - p)))


@LAW
@given(
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(1, 255),
    st.integers(0, 24),
    st.integers(0, 8),
)
@example(INT32_MAX, INT32_MAX, 255, 0, 0)
@example(INT32_MIN, INT32_MIN, 255, 24, 8)
@example(1, 127, 1, 8, 8)  # n = p: the second norm shifts by nothing
@example(-1, -127, 1, 9, 8)
def test_norm_twice_law(acc: int, bias: int, m: int, n: int, p: int) -> None:
    """``sat(norm(norm(acc + bias, p) * M, n - p)) + offset``, the inner norm rounding half up too; p <= n."""
    p = min(p, n)
    for bounds, offset in (((0, 65535), -32768), ((0, 255), -128), ((-(2**42), 2**42), 0)):
        rq = constants(LAW_NORM_TWICE, bounds, offset, p, bias=bias, multiplier=m, shift=n)
        assert run(rq, [acc])[0] == clamp(norm_twice(acc + bias, m, p, n), *bounds) + offset


@pytest.mark.parametrize(
    ("m", "n", "p", "bias"), [(1, 9, 8, 300), (201, 16, 8, -77), (3, 3, 3, 0), (255, 24, 5, 1 << 20), (1, 0, 0, 9)]
)
def test_norm_twice_law_at_every_threshold_of_8_bits(m: int, n: int, p: int, bias: int) -> None:
    """Every output code that the law can give, at the first accumulator that gives it, by bisection on the oracle."""
    rq = constants(LAW_NORM_TWICE, (0, 255), -128, p, bias=bias, multiplier=m, shift=n)
    first = []
    for code in range(-2, 258):
        low, high = INT32_MIN, INT32_MAX
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if norm_twice(middle + bias, m, p, n) >= code else (middle + 1, high)
        first.append(low)
    got, before = run(rq, first), run(rq, [acc - 1 for acc in first])
    for acc, here, below in zip(first, got.tolist(), before.tolist(), strict=True):
        assert here == clamp(norm_twice(acc + bias, m, p, n), 0, 255) - 128
        assert below == clamp(norm_twice(acc - 1 + bias, m, p, n), 0, 255) - 128
    if m < 2 ** (n - p) or n == 0:
        assert set(got.tolist()) == set(range(-128, 128))


def test_norm_twice_is_not_one_rounding() -> None:
    """The two roundings are visible: an accumulator where one rounding of the whole shift gives another code."""
    total, m, p, n = 127 + 128, 1, 8, 9  # 255 / 256 rounds to 1, and 1/2 rounds to 1; 255 / 512 rounds to 0
    assert run(constants(LAW_NORM_TWICE, (0, 255), 0, p, bias=0, multiplier=m, shift=n), [total])[0] == 1
    assert half_up(Fraction(total * m, 2**n)) == 0


# -- LAW_BF16 ---------------------------------------------------------------------------------------------------------


def bf16_law(acc: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """numpy: int32 to FP32 (half to even), one FP32 product; ml_dtypes: FP32 to BF16 (half to even)."""
    total = (acc.astype(np.int64) + bias.astype(np.int64)).astype(np.int32).astype(np.float32)
    with np.errstate(all="ignore"):
        patterns: np.ndarray = (total * scale.astype(np.float32)).astype(ml_dtypes.bfloat16).view(np.uint16)
    return patterns


def test_bf16_law() -> None:
    """Random and tying accumulators of all sizes, sums to int32's ends, scales to FP32's ends and subnormal ones."""
    rng = np.random.Generator(np.random.PCG64(41))
    scale = np.exp2(rng.uniform(-30, 4, 60)).astype(np.float32)
    scale[:9] = [1.0, 2.0**-20, 1e-38, 1e-40, 1.4e-45, 3.4e38, 2.0**97, 2.0**-149, 0.0078125]
    bias = rng.integers(-(2**28), 2**28, 60)
    bias[9:12] = 0
    channel = rng.integers(0, 60, 60_000)
    total = rng.integers(INT32_MIN, INT32_MAX + 1, 60_000) // 2 ** rng.integers(0, 31, 60_000)
    odd = rng.integers(-(2**7), 2**7, 30_000) * 2 + 1
    ties = odd * 2 ** rng.integers(0, 23, 30_000) + rng.integers(-1, 2, 30_000)
    total[:30_000] = np.clip(ties, INT32_MIN, INT32_MAX)
    total[:4] = [INT32_MIN, INT32_MAX, 2**24 + 1, -(2**24) - 3]  # the last two tie in FP32
    keep = np.abs(total - bias[channel]) < 2**31
    acc, channel = (total - bias[channel])[keep], channel[keep]
    got = run(constants(LAW_BF16, (0, 0), 0, bias=bias, scale=scale), acc, channel)
    np.testing.assert_array_equal(got, bf16_law(acc, bias[channel], scale[channel]))
    assert got.min() >= 0 and (got == 0x7F80).any() and (got == 0xFF80).any()


def test_bf16_law_rounds_the_sum_and_the_product_to_fp32() -> None:
    """On sums above 2^24 where leaving out the first rounding would show in the result; the oracle finds them."""
    rng = np.random.Generator(np.random.PCG64(44))
    total = rng.integers(2**29, 2**31, 2_000_000)
    for scale in np.array([1.1e-6, 0.000_377, 3.3], np.float32):
        law = bf16_law(total, np.zeros(1, np.int64), np.array([scale]))
        exact_sum = (total.astype(np.float64) * np.float64(scale)).astype(np.float32)
        shown = law != exact_sum.astype(ml_dtypes.bfloat16).view(np.uint16)
        assert shown.any()
        rq = constants(LAW_BF16, (0, 0), 0, bias=12345, scale=scale)
        np.testing.assert_array_equal(run(rq, total[shown] - 12345), law[shown])


@LAW
@given(st.integers(INT32_MIN, INT32_MAX), st.integers(-12, 12))
def test_bf16_law_with_power_of_two_scales_is_two_exact_roundings(total: int, power: int) -> None:
    """FP32 first (24 bits), then BF16 (8 bits), each half to even, by Fraction: the product itself is exact."""
    value = Fraction(total)
    for bits in (24, 8):
        length = abs(value.numerator).bit_length() - value.denominator.bit_length() + 1
        unit = Fraction(2) ** (length - bits)
        if abs(value) < unit * 2 ** (bits - 1):
            unit /= 2
        value = round(value / unit) * unit
    rq = constants(LAW_BF16, (0, 0), 0, bias=total // 3, scale=2.0**power)
    pattern = run(rq, [total - total // 3])[0]
    got = np.array([pattern], np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)[0]
    assert Fraction(float(got)) == value * Fraction(2) ** power


# -- kernels on codes -------------------------------------------------------------------------------------------------

A, B = (grid.ravel().astype(np.int8) for grid in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij"))
WIDE_A, WIDE_B = A.astype(object), B.astype(object)  # exact Python integers


def half_up_all(value: np.ndarray, n: int) -> np.ndarray:
    """floor(value / 2^n + 1/2) as the floor division of exact integers."""
    result: np.ndarray = (2 * value + 2**n) // 2 ** (n + 1)
    return result


def clip_all(value: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    return np.clip(value, lowest, highest).astype(np.int64)


@given(st.integers(-(2**80), 2**80), st.integers(0, 70))
def test_the_oracle_itself(value: int, n: int) -> None:
    assert half_up_all(np.array([value], object), n)[0] == half_up(Fraction(value, 2**n))


@pytest.mark.parametrize(
    ("ma", "na", "mo", "no", "bias"),
    [
        (3, 0, 171, 8, -60),
        (1, 0, 1, 1, 0),
        (201, 7, 255, 9, -33),
        (129, 8, 255, 8, -12),
        (300, 0, 1, 8, -40),
        (1, 0, 1, 0, -128),
    ],
)
def test_add_two_stage_on_all_code_pairs(ma: int, na: int, mo: int, no: int, bias: int) -> None:
    """E-1 on unsigned codes: ``sat(norm((norm(a Ma, na) + b) Mo, no) + bias)``, n = 0 without a rounding constant."""
    y = np.empty(A.size, np.int8)
    elementwise.add_two_stage(A, B, ma, na, mo, no, bias, y)
    scaled = half_up_all((WIDE_A + 128) * ma, na)
    expected = clip_all(half_up_all((scaled + WIDE_B + 128) * mo, no) + bias, 0, 255) - 128
    np.testing.assert_array_equal(y, expected)
    assert {-128, 127} <= set(y.tolist())


@pytest.mark.parametrize(
    ("za", "zb", "ma", "mb", "n", "zero", "lowest", "highest"),
    [
        (-128, 127, 3_000_000, 2_500_000, 22, 3, -128, 127),
        (0, -5, 1, 1, 0, -7, -128, 127),
        (17, -90, 5, 3, 2, 0, -100, 90),
        (-128, -128, 2_000_001, 1, 23, -128, -128, 127),
    ],
)
def test_add_joint_on_all_pairs(
    za: int,
    zb: int,
    ma: int,
    mb: int,
    n: int,
    zero: int,
    lowest: int,
    highest: int,
) -> None:
    """E-2: one rounding of the joint sum."""
    y = np.empty(A.size, np.int8)
    elementwise.add_joint(A, B, za, zb, ma, mb, n, zero, lowest, highest, y)
    total = (WIDE_A - za) * ma + (WIDE_B - zb) * mb
    np.testing.assert_array_equal(y, clip_all(half_up_all(total, n) + zero, lowest, highest))
    assert y.min() < y.max()


@pytest.mark.parametrize(
    ("za", "zb", "m", "n", "zero", "lowest", "highest"),
    [
        (-128, 127, 32_000, 24, 5, -128, 127),
        (0, 0, 1, 7, 0, -128, 127),
        (-128, -128, 33_025, 23, -128, -128, 127),
        (3, -4, 1, 0, 0, -128, 127),
        (-128, 0, 30_000, 22, -20, -20, 127),
    ],
)
def test_multiply_on_all_code_pairs(za: int, zb: int, m: int, n: int, zero: int, lowest: int, highest: int) -> None:
    """E-3: one rounding of the product."""
    y = np.empty(A.size, np.int8)
    elementwise.multiply(A, B, za, zb, m, n, zero, lowest, highest, y)
    product = (WIDE_A - za) * (WIDE_B - zb) * m
    np.testing.assert_array_equal(y, clip_all(half_up_all(product, n) + zero, lowest, highest))
    assert y.min() < y.max()


def test_kernels_on_codes_of_16_bits() -> None:
    """The same laws where codes, differences and products are wide: random codes and both ends."""
    rng = np.random.Generator(np.random.PCG64(42))
    a, b = (rng.integers(-32768, 32768, 20_000).astype(np.int16) for _ in range(2))
    a[:4], b[:4] = [-32768, 32767, -32768, 32767], [-32768, 32767, 32767, -32768]
    p, q = a.astype(object), b.astype(object)
    y = np.empty(a.size, np.int16)
    elementwise.add_joint(a, b, -32768, 32767, 16_000, 11_111, 15, -100, -32768, 32767, y)
    np.testing.assert_array_equal(
        y, clip_all(half_up_all((p + 32768) * 16_000 + (q - 32767) * 11_111, 15) - 100, -32768, 32767)
    )
    elementwise.multiply(a, b, -32768, 32767, 1, 16, 7, -32768, 32767, y)
    np.testing.assert_array_equal(y, clip_all(half_up_all((p + 32768) * (q - 32767), 16) + 7, -32768, 32767))


@pytest.mark.parametrize("out", [np.int8, np.int16])
@pytest.mark.parametrize("source", [np.int8, np.int16])
@pytest.mark.parametrize(
    ("in_zero", "m", "n", "zero"), [(-128, 7_000, 13, 5), (127, 1, 0, -3), (0, 1, 1, 0), (-77, 8_000, 20, -128)]
)
def test_requantize_codes_on_every_code(source: type, out: type, in_zero: int, m: int, n: int, zero: int) -> None:
    """Q-8 on all 256 or 65,536 codes; n = 1, M = 1 ties at every other code."""
    info = np.iinfo(source)
    x = np.arange(info.min, info.max + 1).astype(source)
    y = np.empty(x.size, out)
    lowest, highest = np.iinfo(out).min, np.iinfo(out).max
    convert.requantize_codes(x, in_zero, m, n, zero, lowest, highest, y)
    expected = clip_all(half_up_all((x.astype(object) - in_zero) * m, n) + zero, lowest, highest)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("kind", "first", "out"),
    [(np.int8, -128, np.int8), (np.int8, -128, np.int16), (np.int16, -32768, np.int16), (np.uint16, 0, np.uint16)],
)
def test_lookup_on_every_code(kind: type, first: int, out: type) -> None:
    """E-4: channels from ``start`` on, each by its place in the table; the other channels are not read."""
    info = np.iinfo(kind)
    size = info.max - info.min + 1
    rng = np.random.Generator(np.random.PCG64(43))
    table = rng.integers(np.iinfo(out).min, np.iinfo(out).max + 1, size).astype(out)
    x = np.empty((2, size // 8, 7), kind)
    x[...] = rng.integers(info.min, info.max + 1, x.shape)
    codes = rng.permutation(np.arange(info.min, info.max + 1)).astype(kind)
    x[:, :, 2:6] = codes.reshape(2, size // 8, 4)
    y = np.empty((2, size // 8, 4), out)
    elementwise.lookup(x, table, first, 2, y)
    by_code = dict(zip(range(info.min, info.max + 1), table.tolist(), strict=True))
    assert y.ravel().tolist() == [by_code[code] for code in codes.tolist()]
