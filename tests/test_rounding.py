"""Rounding laws (SPEC N-1 to N-6) against exact rational arithmetic: ties, extremes, every shift that a rule takes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refimpl.numerics.rounding import (
    INT16_MAX,
    INT16_MIN,
    INT32_MAX,
    INT32_MIN,
    round_half_even_f32,
    saturate,
    shift_floor,
    shift_half_even,
    shift_half_up,
    shift_saturate_int32,
)

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
HALF = Fraction(1, 2)
LAW = settings(deadline=None, max_examples=150)  # the first call of a rule compiles it
SMALL = range(-300, 301)  # every pattern of low bits, both signs, through shifts 0 .. 8


def scaled(value: int, shift: int) -> Fraction:
    """``value * 2^-shift``, exact for any sign of ``shift``."""
    return Fraction(value) / Fraction(2) ** shift


def half_up(value: Fraction) -> int:
    return math.floor(value + HALF)


def clamp(value: int, lowest: int, highest: int) -> int:
    return sorted((lowest, value, highest))[1]


@st.composite
def near_ties(draw: st.DrawFn, bits: int, largest_shift: int) -> tuple[int, int]:
    """(value, shift), |value| <= 2^bits, with values at, one below and one above every multiple of half a unit."""
    shift = draw(st.integers(0, largest_shift))
    bound = 1 << bits
    halves = draw(st.integers(-bound >> max(shift - 1, 0), bound >> max(shift - 1, 0)))
    value = (halves << max(shift - 1, 0)) + draw(st.integers(-1, 1))
    return clamp(value, -bound, bound), shift


def any_value(bits: int, largest_shift: int) -> st.SearchStrategy[tuple[int, int]]:
    """Uniform values and ties, both with their shift."""
    uniform = st.tuples(st.integers(-(1 << bits), 1 << bits), st.integers(0, largest_shift))
    return st.one_of(uniform, near_ties(bits, largest_shift))


@LAW
@given(st.integers(INT64_MIN, INT64_MAX), st.integers(0, 63))
@example(INT64_MIN, 63)
@example(INT64_MAX, 63)
@example(-1, 1)
def test_shift_floor(value: int, shift: int) -> None:
    """N-1 on all of int64, shifts 0 to 63."""
    assert shift_floor(value, shift) == math.floor(scaled(value, shift))


@LAW
@given(any_value(62, 62))
@example((2**62, 62))
@example((-(2**62), 62))
@example((2**62, 0))
def test_shift_half_up(case: tuple[int, int]) -> None:
    """N-2 for |value| <= 2^62 and shifts to 62: the sum with half a unit stays inside int64."""
    assert shift_half_up(*case) == half_up(scaled(*case))


@LAW
@given(any_value(62, 62))
@example((2**62, 62))
@example((3 * 2**60, 61))
def test_shift_half_even(case: tuple[int, int]) -> None:
    """N-3; Python's ``round`` of a Fraction is half to even."""
    assert shift_half_even(*case) == round(scaled(*case))


@LAW
@given(st.integers(INT64_MIN, INT64_MAX), st.integers(0, 62))
@example(INT64_MIN, 62)
@example(INT64_MAX, 62)
@example(INT64_MAX, 1)
def test_shift_half_even_takes_all_of_int64(value: int, shift: int) -> None:
    assert shift_half_even(value, shift) == round(scaled(value, shift))


@LAW
@given(st.integers(-(2**62), 2**62), st.integers(63, 5000))
def test_long_shifts_of_half_even_give_zero(value: int, shift: int) -> None:
    """From shift 63 on, |value| <= 2^62 is at most half a unit: zero is the exact answer, ties to even included."""
    assert shift_half_even(value, shift) == round(scaled(value, shift)) == 0


@pytest.mark.parametrize("shift", range(9))
def test_small_values_exhaustively(shift: int) -> None:
    for value in SMALL:
        exact = scaled(value, shift)
        assert shift_floor(value, shift) == math.floor(exact)
        assert shift_half_up(value, shift) == half_up(exact)
        assert shift_half_even(value, shift) == round(exact)
        assert shift_saturate_int32(value, shift) == half_up(exact)


@LAW
@given(st.integers(INT64_MIN, INT64_MAX), st.integers(INT64_MIN, INT64_MAX), st.integers(INT64_MIN, INT64_MAX))
@example(INT64_MIN, INT64_MIN, INT64_MIN)
@example(INT64_MAX, INT64_MIN, INT64_MAX)
def test_saturate(value: int, one: int, other: int) -> None:
    """N-4: the median of the value and its bounds."""
    lowest, highest = min(one, other), max(one, other)
    assert saturate(value, lowest, highest) == clamp(value, lowest, highest)


@LAW
@given(any_value(61, 70), st.booleans())
@example((INT32_MAX, 0), False)
@example((INT32_MIN, 0), False)
@example((1, 31), True)  # 2^31 is one beyond int32
@example((-1, 31), True)  # -2^31 is int32's lowest
@example((-1, 32), True)
@example((0, 70), True)
@example((2**62 - 1, 62), False)
@example((-(2**62) + 1, 63), False)
@example((2**62 - 1, 70), True)
def test_shift_saturate_int32(case: tuple[int, int], left: bool) -> None:
    """N-5 for shifts -70 to 70: half up to the right, exact to the left, always saturated."""
    value, shift = case[0], -case[1] if left else case[1]
    expected = clamp(half_up(scaled(value, shift)), INT32_MIN, INT32_MAX)
    assert shift_saturate_int32(value, shift) == expected


@LAW
@given(st.integers(-(2**62) + 1, 2**62 - 1), st.integers(-(2**31), 2**31))
def test_shift_saturate_int32_takes_any_shift(value: int, shift: int) -> None:
    """Shifts far beyond the word neither wrap nor trap."""
    if shift > 63:
        expected = 0
    elif shift < -31:
        expected = 0 if value == 0 else (INT32_MAX if value > 0 else INT32_MIN)
    else:
        expected = clamp(half_up(scaled(value, shift)), INT32_MIN, INT32_MAX)
    assert shift_saturate_int32(value, shift) == expected


BOUND = st.integers(-(2**24), 2**24)


def integral(x: float, lowest: int, highest: int) -> int:
    """N-6 by exact arithmetic; infinities are the bounds."""
    if math.isnan(x):
        return 0
    if math.isinf(x):
        return highest if x > 0 else lowest
    return clamp(round(Fraction(x)), lowest, highest)


@LAW
@given(st.floats(width=32), BOUND, BOUND)
@example(math.nan, -128, 127)
@example(math.inf, -128, 127)
@example(-math.inf, -128, 127)
@example(-0.0, -128, 127)
def test_round_half_even_f32(x: float, one: int, other: int) -> None:
    lowest, highest = min(one, other), max(one, other)
    assert round_half_even_f32(np.float32(x), lowest, highest) == integral(x, lowest, highest)


@LAW
@given(st.integers(-(2**17), 2**17), st.integers(-2, 2), BOUND, BOUND)
def test_round_half_even_f32_near_halves(halves: int, steps: int, one: int, other: int) -> None:
    """Halves of integers and their FP32 neighbours, on both sides."""
    x = np.float32(halves / 2)
    for _ in range(abs(steps)):
        x = np.nextafter(x, np.float32(math.copysign(math.inf, steps)))
    lowest, highest = min(one, other), max(one, other)
    assert round_half_even_f32(x, lowest, highest) == integral(float(x), lowest, highest)


@pytest.mark.parametrize(
    ("lowest", "highest"),
    [(-128, 127), (INT16_MIN, INT16_MAX), (0, 255), (0, 65535), (-65535, 0)],
)
def test_round_half_even_f32_at_its_bounds(lowest: int, highest: int) -> None:
    """Around both bounds in quarters: saturation begins exactly at the bound, whatever the parity of the tie."""
    for bound in (lowest, highest):
        for quarters in range(-12, 13):
            x = bound + quarters / 4
            assert round_half_even_f32(np.float32(x), lowest, highest) == integral(x, lowest, highest)
