"""Quantizers and multipliers (SPEC Q-1, Q-2, Q-4 to Q-7, Q-10, G-1): laws of formats and kernels, by rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from refimpl.errors import InputError
from refimpl.operators import convert
from refimpl.program import Format
from refimpl.quantization.scheme import (
    activation_format,
    frexp_multiplier,
    largest_code,
    largest_multipliers,
    quantize_weights,
)

LAW = settings(deadline=None, max_examples=100)
HALF = Fraction(1, 2)
TIE = Fraction(1, 2**30)  # float64 may fall on either side of a rounding this close to a tie
BITS = st.sampled_from([8, 16])
DTYPE = {8: np.int8, 16: np.int16}


def reach(size: float) -> st.SearchStrategy[float]:
    """Magnitudes over many octaves, and plain ones."""
    octaves = st.floats(-40, 60).map(lambda e: 2.0**e)
    return st.one_of(octaves, st.floats(0, size), st.sampled_from([0.0, 1.0, 0.5, 127 / 128]))


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    """Calibrated ranges: both signs, one-sided, with bounds of very different size."""
    low, high = -draw(reach(8.0)), draw(reach(8.0))
    kind = draw(st.sampled_from(["both", "both", "positive", "negative", "above", "below"]))
    if kind == "positive":
        low = 0.0
    elif kind == "negative":
        high = 0.0
    elif kind == "above":
        low, high = high / 3, high
    elif kind == "below":
        low, high = low, low / 3
    assume(max(high, 0.0) - min(low, 0.0) >= 2.0**-60)
    return low, high


def codes_of(form: Format) -> np.ndarray:
    return np.arange(form.lowest, form.highest + 1).astype(DTYPE[form.bits])


def quantize(x: np.ndarray, form: Format) -> np.ndarray:
    y = np.empty(x.shape, DTYPE[form.bits])
    convert.quantize_f32(x, np.float32(1.0 / form.scale), form.zero_point, form.lowest, form.highest, y)
    return y


def dequantize(codes: np.ndarray, form: Format) -> np.ndarray:
    y = np.empty(codes.shape, np.float32)
    convert.dequantize_f32(codes, np.float32(form.scale), form.zero_point, y)
    return y


def samples(form: Format, seed: int, count: int = 200) -> np.ndarray:
    """FP32 values over and somewhat beyond the range, near codes and near ties, sorted."""
    rng = np.random.Generator(np.random.PCG64(seed))
    size = (1 << form.bits) * form.scale
    low = (form.lowest - form.zero_point) * form.scale
    anywhere = rng.uniform(low - size / 4, low + size * 1.25, count)
    halves = (rng.integers(2 * form.lowest, 2 * form.highest + 1, count) / 2 - form.zero_point) * form.scale
    return np.sort(np.concatenate([anywhere, halves, [0.0]]).astype(np.float32))


# -- formats ----------------------------------------------------------------------------------------------------------


@LAW
@given(ranges(), BITS)
@example((-1.0, 1.0), 8)
@example((0.0, 1.0), 16)
@example((-1.0, 0.0), 16)
@example((0.25, 0.75), 8)
def test_scale_and_zero_point_of_a_range(bounds: tuple[float, float], bits: int) -> None:
    """Q-1: the range widened to zero over 2^bits - 1 steps; the zero point is a code, the nearest to the real zero."""
    form = activation_format(*bounds, bits)
    low, high = Fraction(min(bounds[0], 0.0)), Fraction(max(bounds[1], 0.0))
    steps = 2**bits - 1
    assert form.kind == f"int{bits}"
    # One float64 subtraction and one division: two relative errors of 2^-53.
    assert abs(Fraction(form.scale) * steps / (high - low) - 1) <= Fraction(1, 2**52)
    zero = form.zero_point + 2 ** (bits - 1)
    assert 0 <= zero <= steps
    assert abs(zero - (-low) / Fraction(form.scale)) <= HALF + TIE
    # The representable range misses an end of the calibrated one by half a step at most (rule of the nudge).
    for end, code in ((low, form.lowest), (high, form.highest)):
        assert abs((code - form.zero_point) * Fraction(form.scale) - end) <= Fraction(form.scale) * (HALF + TIE)


def test_ties_of_the_zero_point_go_to_even() -> None:
    """255 steps of one: zero lies halfway between two codes."""
    assert activation_format(-0.5, 254.5, 8) == Format("int8", 1.0, -128)
    assert activation_format(-1.5, 253.5, 8) == Format("int8", 1.0, -126)
    assert activation_format(-2.5, 252.5, 8) == Format("int8", 1.0, -126)


@pytest.mark.parametrize("bits", [8, 16])
def test_empty_range_is_usable(bits: int) -> None:
    """Nothing but zero seen: scale 2^-bits, unsigned zero point 0; zero stays exact."""
    form = activation_format(0.0, 0.0, bits)
    assert form == Format(f"int{bits}", 2.0**-bits, -(2 ** (bits - 1)))
    assert activation_format(0.0, 2.0**-61, bits) == form != activation_format(0.0, 2.0**-60, bits)
    assert dequantize(quantize(np.zeros(1, np.float32), form), form)[0] == 0


@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0), (0.0, math.inf), (1.0, 0.5), (0.0, -1.0)]
)
def test_what_is_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="is not a range"):
        activation_format(low, high, 8)


def test_range_that_overflows_is_refused() -> None:
    with pytest.raises(InputError):
        activation_format(-1e308, 1e308, 8)


@LAW
@given(ranges(), BITS)
def test_largest_code(bounds: tuple[float, float], bits: int) -> None:
    """The largest difference of a code and the zero point, over all codes."""
    form = activation_format(*bounds, bits)
    assert largest_code(form) == int(np.abs(codes_of(form).astype(np.int64) - form.zero_point).max())


# -- quantize and dequantize ------------------------------------------------------------------------------------------


@LAW
@given(ranges(), BITS, st.integers(0, 2**32))
def test_round_trip_error_is_half_a_step(bounds: tuple[float, float], bits: int, seed: int) -> None:
    """Q-4 then Q-6: |x' - x| <= scale / 2 + 2^-22 (|x| + scale) inside the representable range.

    The slack is FP32's: quantize rounds the reciprocal scale and the product, dequantize the scale and the product,
    four relative errors of 2^-24 on values of at most |x| + scale / 2. That is 1/64 of a step at worst, with 16 bits.
    """
    form = activation_format(*bounds, bits)
    x = samples(form, seed)
    step = form.scale
    inside = (x >= (form.lowest - form.zero_point) * step) & (x <= (form.highest - form.zero_point) * step)
    error = np.abs(dequantize(quantize(x, form), form).astype(np.float64) - x)[inside]
    assert inside.any()
    assert (error <= step / 2 + 2.0**-22 * (np.abs(x[inside]) + step)).all()


@LAW
@given(ranges(), BITS, st.integers(0, 2**32))
def test_quantize_is_monotone_and_saturates(bounds: tuple[float, float], bits: int, seed: int) -> None:
    form = activation_format(*bounds, bits)
    x = samples(form, seed)
    codes = quantize(x, form)
    assert (np.diff(codes.astype(np.int64)) >= 0).all()
    step = form.scale * (1 + 2.0**-20)
    assert (codes[x <= (form.lowest - form.zero_point) * step] == form.lowest).all()
    assert (codes[x >= (form.highest - form.zero_point) * step] == form.highest).all()
    far = np.array([-np.inf, -3e38, 3e38, np.inf], np.float32)
    assert quantize(far, form).tolist() == [form.lowest, form.lowest, form.highest, form.highest]


@LAW
@given(ranges(), BITS)
def test_zero_is_exact(bounds: tuple[float, float], bits: int) -> None:
    """Both zeros are the zero point, which is +0 again; so is NaN."""
    form = activation_format(*bounds, bits)
    x = np.array([0.0, -0.0, np.nan], np.float32)
    assert quantize(x, form).tolist() == [form.zero_point] * 3
    assert dequantize(quantize(x, form), form).view(np.uint32).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=60)
@given(ranges(), BITS)
def test_every_code_comes_back(bounds: tuple[float, float], bits: int) -> None:
    """quantize(dequantize(q)) = q for all codes: 2^17 codes times 2^-22 is far below half a step."""
    form = activation_format(*bounds, bits)
    codes = codes_of(form)
    np.testing.assert_array_equal(quantize(dequantize(codes, form), form), codes)


@LAW
@given(ranges(), BITS, st.integers(0, 2**32))
def test_kernels_are_their_formulas(bounds: tuple[float, float], bits: int, seed: int) -> None:
    """Q-4, Q-6 to the bit: each FP32 operation by numpy, the rounding to integers exactly by Fraction."""
    form = activation_format(*bounds, bits)
    x = samples(form, seed, 40)
    scaled = x * np.float32(1.0 / form.scale)
    nearest = [round(Fraction(float(v))) + form.zero_point for v in scaled]
    codes = [sorted((form.lowest, q, form.highest))[1] for q in nearest]
    assert quantize(x, form).tolist() == codes
    real = np.array([q - form.zero_point for q in codes], np.float32) * np.float32(form.scale)
    np.testing.assert_array_equal(dequantize(np.array(codes, DTYPE[bits]), form), real)


@settings(deadline=None, max_examples=40)
@given(ranges(), BITS)
def test_bf16_kernels_are_the_fp32_ones(bounds: tuple[float, float], bits: int) -> None:
    """Q-5: every pattern, decoded by ml_dtypes, as Q-4 has it. Q-7: Q-6 and one rounding by ml_dtypes."""
    form = activation_format(*bounds, bits)
    patterns = np.arange(0, 65536, 7, dtype=np.uint32).astype(np.uint16)
    y = np.empty(patterns.size, DTYPE[bits])
    inverse = np.float32(1.0 / form.scale)
    convert.quantize_bf16(patterns, inverse, form.zero_point, form.lowest, form.highest, y)
    np.testing.assert_array_equal(y, quantize(patterns.view(ml_dtypes.bfloat16).astype(np.float32), form))
    codes = codes_of(form)[:: 1 if bits == 8 else 41]
    encoded = np.empty(codes.size, np.uint16)
    convert.dequantize_bf16(codes, np.float32(form.scale), form.zero_point, encoded)
    np.testing.assert_array_equal(encoded, dequantize(codes, form).astype(ml_dtypes.bfloat16).view(np.uint16))


# -- weights ----------------------------------------------------------------------------------------------------------


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """FP32 weights of up to four axes, channels of very different size, some all zero; and the channels' axis."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    rng = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    size = np.exp2(rng.integers(-60, 40, shape[axis])) * rng.integers(0, 4, shape[axis])
    w = rng.uniform(-1, 1, shape) * size.reshape(tuple(n if i == axis else 1 for i, n in enumerate(shape)))
    return w.astype(np.float32), axis


@LAW
@given(weights())
def test_weights_are_quantized_channel_by_channel(case: tuple[np.ndarray, int]) -> None:
    """Q-2 by exact rationals for each channel alone: d = max|w| / 127, codes in [-127, 127], nearest to w / d."""
    w, axis = case
    codes, scales = quantize_weights(w, axis)
    assert codes.dtype == np.int8 and codes.shape == w.shape and scales.shape == (w.shape[axis],)
    for c in range(w.shape[axis]):
        channel = [Fraction(float(v)) for v in np.take(w, c, axis).ravel()]
        got = np.take(codes, c, axis).ravel().tolist()
        largest = max(abs(v) for v in channel)
        if largest == 0:
            assert scales[c] == 1.0 and not any(got)
            continue
        d = Fraction(float(scales[c]))
        assert d == Fraction(float(largest / 127))  # the float64 nearest to the exact quotient
        assert max(abs(q) for q in got) == 127
        for v, q in zip(channel, got, strict=True):
            assert abs(v / d - q) <= HALF + TIE
            if abs(v) == largest:
                assert q == (127 if v > 0 else -127)
        # The channel alone, as one tensor, gives the same codes and scale.
        alone, scale = quantize_weights(np.take(w, [c], axis), axis)
        assert alone.ravel().tolist() == got and scale[0] == scales[c]


@LAW
@given(weights(), st.integers(-20, 20))
def test_weights_scale_and_mirror(case: tuple[np.ndarray, int], power: int) -> None:
    """Symmetric: the negative tensor has negative codes. A power of two goes to the scales alone."""
    w, axis = case
    codes, scales = quantize_weights(w, axis)
    mirrored, same = quantize_weights(-w, axis)
    np.testing.assert_array_equal(mirrored, -codes)
    np.testing.assert_array_equal(same, scales)
    scaled, larger = quantize_weights(w.astype(np.float64) * 2.0**power, axis)
    np.testing.assert_array_equal(scaled, codes)
    alive = codes.any(tuple({*range(w.ndim)} - {axis}))
    np.testing.assert_array_equal(larger, np.where(alive, scales * 2.0**power, 1.0))


def test_ties_of_weights_go_to_even() -> None:
    """d = 1: halves between codes."""
    w = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 125.5, 126.5]])
    assert quantize_weights(w, 0)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, 126, 126]]


# -- multipliers ------------------------------------------------------------------------------------------------------


def exact_multiplier(ratio: Fraction, bits: int, largest_shift: int) -> tuple[int, int]:
    """SPEC G-1 by rationals: the largest b <= bits whose M is odd, below 2^b, with n in reach.

    ratio = mantissa * 2^exponent, 1/2 <= mantissa < 1; M = floor(mantissa 2^b + 1/2), n = b - exponent; b = 0 ends it.
    """
    exponent = 0
    while ratio >= Fraction(2) ** exponent:
        exponent += 1
    while ratio < Fraction(2) ** (exponent - 1):
        exponent -= 1
    for b in range(bits, 0, -1):
        m = math.floor(ratio * Fraction(2) ** (b - exponent) + HALF)
        if (m % 2 and m < 2**b and b - exponent <= largest_shift) or (b == exponent and m < 2**bits):
            return m, b - exponent
    return 1, -exponent


RATIOS = st.one_of(
    st.floats(2.0**-60, 2.0**20),
    st.floats(2.0**-30, 4.0),
    st.builds(lambda m, e: m * 2.0**e, st.integers(1, 1023), st.integers(-40, 5)),  # exact, tying and even mantissas
    st.builds(lambda e, u: math.nextafter(2.0**e, u), st.integers(-40, 5), st.sampled_from([0.0, math.inf])),
)


@settings(deadline=None, max_examples=300)
@given(RATIOS, st.integers(0, 16), st.integers(0, 31))
@example(0.5, 8, 24)
@example(1.0, 8, 24)
@example(511 / 512, 8, 24)  # the mantissa rounds to 2^b
@example(257 / 512, 8, 24)  # a tie
@example(2.0**-24, 8, 24)
@example(2.0**-25, 8, 24)  # out of reach
@example(3 * 2.0**-25, 8, 24)
def test_frexp_multiplier_is_the_rule(ratio: float, bits: int, largest_shift: int) -> None:
    assert frexp_multiplier(ratio, bits, largest_shift) == exact_multiplier(Fraction(ratio), bits, largest_shift)


@settings(deadline=None, max_examples=300)
@given(RATIOS, st.integers(0, 16), st.integers(0, 31))
def test_frexp_multiplier_error(ratio: float, bits: int, largest_shift: int) -> None:
    """|M / 2^n - ratio| <= 2^-b ratio, b = the bits asked for, or those that n <= largest_shift leaves; M is odd.

    Dropping a bit from an even M, or from 2^b, changes nothing: the value stays the nearest one with all the bits.
    """
    m, n = frexp_multiplier(ratio, bits, largest_shift)
    exponent = math.frexp(ratio)[1]
    b = max(min(bits, largest_shift + exponent), 0)
    assert abs(m * Fraction(2) ** -n - Fraction(ratio)) <= Fraction(ratio) / 2**b
    assert (m % 2 == 1 or n == 0) and m < 2 ** max(bits, 1)
    assert n <= largest_shift or (m == 1 and n == -exponent)


FINE = st.tuples(st.floats(2.0**-12, 2.0**12), st.integers(1, 65535))
COARSE = st.tuples(st.floats(2.0**-36, 8.0), st.integers(2**24, 2**32))  # products of wide codes leave few bits for M


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(FINE, COARSE), min_size=1, max_size=3))
@example([(1.0, 1)])  # n = 30 is the end
@example([(2.0**12, 65535), (2.0**12, 65535)])
@example([(2.0**15, 65535)])
@example([(2.0**16, 2**15)])  # exactly 2^31: one too many
@example([(2.0**16, 2**15 - 1)])
@example([(1.75, 9)])  # 15.75 * 2^27 fits, with half a unit it does not
@example([(2.0**16, 2**15 - 2), (0.4, 10)])  # n = 0 and M = 0: four codes lost at full scale
@example([(2.0**16, 2**15 - 2), (0.4, 1)])  # not half a code lost
@example([(2.0**16, 2**15 - 2), (0.5, 1)])
@example([(32767.49, 65535)])
def test_largest_multipliers(terms: list[tuple[float, int]]) -> None:
    """Q-10: M = round(ratio 2^n), half to even; the bound holds in int32 for this n and for no larger one up to 30."""
    ratios, bounds = tuple(r for r, _ in terms), tuple(b for _, b in terms)

    def fits(n: int) -> bool:
        largest = sum(round(Fraction(r) * 2**n) * b for r, b in terms)
        return largest + (Fraction(2) ** (n - 1) if n else 0) < 2**31

    if not fits(0):
        assert not any(map(fits, range(31)))
        with pytest.raises(InputError, match=r"^layer: .*overflow"):
            largest_multipliers(ratios, bounds, "layer")
        return
    finest = max(filter(fits, range(31)))
    errors = [abs(Fraction(round(Fraction(r) * 2**finest), 2**finest) - Fraction(r)) for r in ratios]
    if any(e > Fraction(r) / 64 and e * b > HALF for e, r, b in zip(errors, ratios, bounds, strict=True)):
        with pytest.raises(InputError, match=r"^layer: 32 bits leave only multiplier"):
            largest_multipliers(ratios, bounds, "layer")
        return
    multipliers, n = largest_multipliers(ratios, bounds, "layer")
    assert 0 <= n <= 30
    assert multipliers == tuple(round(Fraction(r) * 2**n) for r in ratios)
    assert fits(n) and not any(fits(larger) for larger in range(n + 1, 31))


def test_largest_multipliers_round_ties_to_even() -> None:
    """Bounds that leave no bit for n: halves of integers stay."""
    assert largest_multipliers((50.5,), (2**25,), "x") == ((50,), 0)
    assert largest_multipliers((51.5,), (9 * 2**22,), "x") == ((52,), 0)
