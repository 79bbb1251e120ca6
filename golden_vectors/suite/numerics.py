"""Numerics level, below lowering: rounding, saturation, BF16, activations, shipped tables, requantization, framing, audio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, directed, f32, folded, norm_twice, raw, scalar, to_bf16
from golden_vectors.suite.searches import (
    double_rounding_differs,
    products_that_round_twice,
    tie_pair,
    totals_that_round_twice,
)
from refimpl.numerics.requantize import Requantizer
from refimpl.numerics.tables import shipped
from refimpl.program import Format

LOW32, HIGH32 = -(1 << 31), (1 << 31) - 1

# One of every kind of BF16 value: zeros, subnormals, the ends of the normal range, powers of two that meet in a tie with
# 1, 1 + 2^-7 and 256, the largest finite values, infinities, and NaN with either sign, quiet and signaling.
SPECIAL = np.array(
    [
        0x0000, 0x8000, 0x0001, 0x8001, 0x0002, 0x007F, 0x807F, 0x0080, 0x8080, 0x00FF, 0x3B80, 0xBB80, 0x3F00, 0x3F7F,
        0x3F80, 0xBF80, 0x3F81, 0xBF81, 0x3FFF, 0x4000, 0x4380, 0xC380, 0x7EFF, 0x7F00, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80,
        0x7FC0, 0xFFC0, 0x7F81, 0xFFFF,
    ],
    np.uint16,
)  # fmt: skip


def cases() -> Iterator[Case]:
    yield from _shifts()
    yield from _shift_half_even()
    yield from _saturation()
    yield from _float_to_integer()
    yield from _bf16_conversions()
    yield from _bf16_arithmetic()
    yield from _bf16_from_scaled()
    yield from _activations()
    yield from _tables()
    yield from _law_folded()
    yield from _law_norm_twice()
    yield from _law_bf16()
    yield from _transform()
    yield from _framing()
    yield from _audio()


def special_pairs() -> tuple[Array, Array]:
    """Every ordered pair of SPECIAL."""
    return np.repeat(SPECIAL, len(SPECIAL)), np.tile(SPECIAL, len(SPECIAL))


# -- rounding and saturation (N) ----------------------------------------------------------------------------------------


def _ties() -> tuple[Array, Array]:
    """Ties of both signs over even and odd results, their neighbours, and whole numbers, for shifts 1, 2, 8 and 24."""
    pairs: list[tuple[int, int]] = []
    for shift in (1, 2, 8, 24):
        for whole in (-3, -2, -1, 0, 1, 2):
            tie = (whole << shift) + (1 << (shift - 1))
            pairs += [(tie - 1, shift), (tie, shift), (tie + 1, shift), (whole << shift, shift)]
    return np.array([v for v, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int32)


def _wide() -> tuple[Array, Array]:
    """Values beyond 32 bits (the Fourier transform's products) and at both ends of 32 bits."""
    value = [
        HIGH32,
        LOW32,
        HIGH32 - 1,
        LOW32 + 1,
        1 << 40,
        -(1 << 40),
        (1 << 61) + (1 << 29),
        -(1 << 61) - 1,
        3 << 59,
        -3 << 59,
    ]
    pairs = [(v, n) for v in value for n in (1, 8, 24, 30, 31)]
    return np.array([v for v, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int32)


def _shifts() -> Iterator[Case]:
    value, shift = _ties()
    wide, wide_shift = _wide()
    texts = {
        "shift_floor": ("N-1", "truncation", "negative values show whether the shift goes down or toward zero"),
        "shift_half_up": (
            "N-2",
            "floor_for_round tie_half_even tie_away",
            "ties of both signs and parities go up, for negative values too",
        ),
    }
    for name, (rule, flags, comment) in texts.items():
        given: dict[str, Any] = {"value": ("int64", value), "shift": ("int32", shift)}
        yield scalar(name, "ties", comment, rule, flags, "int64", **given)
        given = {"value": ("int64", wide), "shift": ("int32", wide_shift)}
        comment = "values of 33 to 62 bits and the ends of 32 bits show an intermediate that is too narrow"
        yield scalar(name, "wide", comment, rule, "narrow_accumulator", "int64", **given)
    values = np.array([-5, -1, 0, 1, 7, HIGH32, LOW32], np.int64)
    zero: dict[str, Any] = {"value": ("int64", values), "shift": ("int32", np.zeros(7, np.int32))}
    yield scalar("shift_floor", "zero", "a shift by 0 changes nothing", "N-1", "shift_zero", "int64", **zero)
    either: dict[str, Any] = {
        "value": ("int64", np.tile(values, 2)),
        "shift": ("int32", np.repeat(np.array([0, -3], np.int32), 7)),
    }
    comment = "no rounding constant is added where the shift is 0 or negative"
    yield scalar("shift_half_up", "zero", comment, "N-2", "shift_zero", "int64", **either)
    source = Integers(1)
    given = {"value": ("int64", source.between(LOW32, HIGH32, 64)), "shift": ("int32", source.between(0, 31, 64))}
    flags = "floor_for_round truncation"
    yield scalar("shift_half_up", "random", "accumulators at random", "N-2", flags, "int64", seed=1, **given)


def _shift_half_even() -> Iterator[Case]:
    name = "shift_half_even"
    value, shift = _ties()
    given: dict[str, Any] = {"value": ("int64", value), "shift": ("int32", shift)}
    flags = "tie_half_up tie_away floor_for_round"
    yield scalar(name, "ties", "ties of both signs go to the even neighbour", "N-3", flags, "int64", **given)
    pairs = [(v, n) for v in (1, -1, 3, (1 << 62) - 1, -(1 << 62) + 1, 1 << 61) for n in (31, 32, 61, 62, 63, 64, 70, 0, -1)]
    given = {"value": ("int64", [v for v, _ in pairs]), "shift": ("int32", [n for _, n in pairs])}
    comment = "shifts of a word's width and more give 0, shifts of 0 and less give the value"
    yield scalar(name, "range", comment, "N-3", "shift_range shift_zero narrow_accumulator", "int64", **given)
    source = Integers(2)
    value = source.between(-(1 << 20), 1 << 20, 64) << 33
    given = {"value": ("int64", value), "shift": ("int32", source.between(30, 40, 64))}
    comment = "half of these 54-bit values are ties or whole numbers"
    yield scalar(name, "random", comment, "N-3", "tie_half_up narrow_accumulator", "int64", seed=2, **given)


def _saturation() -> Iterator[Case]:
    bounds = {
        "int8": (-128, 127),
        "uint8": (0, 255),
        "int16": (-32768, 32767),
        "relu": (37, 255),
        "int32": (LOW32, HIGH32),
    }
    flags = "saturation_high saturation_low wraparound"
    for what, (low, high) in bounds.items():
        value = np.array([low - 1, low, low + 1, high - 1, high, high + 1, 0, -1, low - 256, high + 256, -(1 << 40), 1 << 40])
        comment = f"both ends of [{low}, {high}], one inside, one beyond, and far beyond"
        yield scalar("saturate", what, comment, "N-4", flags, "int64", (low, high), value=("int64", value))
    pairs = [
        (v, n)
        for v in (0, 1, -1, 3, -3, HIGH32, LOW32, 1 << 40, -(1 << 40), (1 << 62) - 1, -(1 << 62) + 1)
        for n in (0, 1, 10, 31, 62, 63, 64, -1, -2, -30, -31, -32, -40)
    ]
    given: dict[str, Any] = {"value": ("int64", [v for v, _ in pairs]), "shift": ("int32", [n for _, n in pairs])}
    comment = "shifts to both sides, up to and beyond the width of the word, saturate instead of wrapping"
    flags = "saturation_high saturation_low wraparound shift_range shift_zero"
    yield scalar("shift_saturate_int32", "ends", comment, "N-5 N-2 N-4", flags, "int64", **given)
    value, shift = _ties()
    given = {"value": ("int64", value), "shift": ("int32", shift)}
    flags = "tie_half_even tie_away floor_for_round"
    yield scalar("shift_saturate_int32", "ties", "to the right it rounds half up", "N-5 N-2 N-4", flags, "int64", **given)


def _float_to_integer() -> Iterator[Case]:
    name = "round_half_even_f32"
    ties = np.array([0.5, 1.5, 2.5, 3.5, 126.5, -0.5, -1.5, -2.5, -127.5, 0.0, -0.0, 1.0, 7.25, -7.75], np.float32)
    flags = "tie_half_up tie_away truncation floor_for_round"
    yield scalar(
        name, "ties", "ties of both signs to the even integer", "N-6", flags, "int64", (-128, 127), value=("f32", ties)
    )
    near = np.nextafter(np.float32(0.5), np.array([0.0, 1.0], np.float32))
    near = np.concatenate(
        [
            near,
            -near,
            np.nextafter(np.float32(1.5), np.array([0.0, 2.0], np.float32)),
            np.array([8388607.5, 8388609], np.float32),
        ]
    )
    comment = "next to a tie, where adding 0.5 and flooring rounds a second time"
    yield scalar(name, "near_ties", comment, "N-6", "double_rounding", "int64", (-(1 << 24), 1 << 24), value=("f32", near))
    patterns = [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x4F000000, 0xCF000001]
    patterns += [0x00000001, 0x80000001, 0x4B800000, 0xCB800000]
    comment = "NaN gives 0, infinities and values beyond every integer word saturate"
    flags = "nan_to_integer saturation_high saturation_low"
    yield scalar(name, "special", comment, "N-6", flags, "int64", (-128, 127), value=("f32", f32(patterns)))
    edges = np.array([-1.0, -0.5, -0.25, 0.25, 0.5, 254.5, 254.75, 255.0, 255.25, 255.5, 1000.0, -255.5], np.float32)
    for what, low, high, sign in (("unsigned", 0, 255, 1), ("negative", -255, 0, -1)):
        comment = f"the bounds {low} and {high} that a zero point at an end of its range leaves, and one on either side of them"
        value = ("f32", edges * np.float32(sign))
        yield scalar(name, what, comment, "N-6", "saturation_high saturation_low", "int64", (low, high), value=value)


# -- BF16 (B) -----------------------------------------------------------------------------------------------------------


def _bf16_conversions() -> Iterator[Case]:
    high = [0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3F81, 0x3FFF, 0x4049, 0x7F7E, 0x7F7F]
    patterns = [sign | (h << 16) | low for sign in (0, 1 << 31) for h in high for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    comment = "half of a last place, one bit less and one more, over even and odd fractions, up to overflow"
    flags = "tie_half_up tie_away truncation exponent_carry bf16_overflow bf16_subnormal_flushed signed_zero"
    yield scalar("bf16_encode", "ties", comment, "B-1", flags, "bf16", value=("f32", f32(patterns)))
    patterns = [0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7F80FFFF, 0x7FC00000, 0xFFC12345, 0x7FFFFFFF, 0xFFFFFFFF]
    comment = "every NaN becomes one pattern, also one whose payload is all in the low half; infinities stay"
    flags = "bf16_nan_canonical exponent_carry"
    yield scalar("bf16_encode", "special", comment, "B-1", flags, "bf16", value=("f32", f32(patterns)))
    words = (Integers(3).words(64) >> np.uint64(32)).astype(np.uint32)
    flags = "truncation bf16_subnormal_flushed"
    yield scalar("bf16_encode", "random", "any 32 bits", "B-1", flags, "bf16", seed=3, value=("f32", f32(words)))
    comment = "subnormals and the sign of zero are kept on the way in"
    flags = "bf16_subnormal_flushed signed_zero endianness"
    yield scalar("bf16_decode", "special", comment, "B-2", flags, "f32", pattern=("bf16", SPECIAL))


def _bf16_arithmetic() -> Iterator[Case]:
    a, b = special_pairs()
    flags = "bf16_subnormal_flushed bf16_nan_canonical bf16_overflow signed_zero tie_half_up tie_away truncation"
    comment = "all pairs of special sums: signed zeros, subnormals, ties, overflow, infinities and NaN"
    yield scalar("bf16_add", "special_pairs", comment, "B-3 B-1 B-2", flags, "bf16", a=("bf16", a), b=("bf16", b))
    comment = "all pairs of special products: signed zeros, subnormals, ties, overflow, zero times infinity"
    yield scalar("bf16_mul", "special_pairs", comment, "B-4 B-1 B-2", flags, "bf16", a=("bf16", a), b=("bf16", b))
    source = Integers(4)
    for seed, (name, rule) in enumerate((("bf16_add", "B-3"), ("bf16_mul", "B-4")), 4):
        source = Integers(seed)
        sign = source.between(0, 1, (2, 128)) << 15
        # Exponents within ten of each other: nearly every sum drops bits, and many cancel.
        pattern = (sign | (source.between(118, 128, (2, 128)) << 7) | source.between(0, 127, (2, 128))).astype(np.uint16)
        given: dict[str, Any] = {"a": ("bf16", pattern[0]), "b": ("bf16", pattern[1])}
        comment = "values near 1 at random, nearly all of them inexact"
        yield scalar(name, "random", comment, f"{rule} B-1 B-2", "truncation tie_half_up", "bf16", seed=seed, **given)
    tiny = np.array([0x0001, 0x0003, 0x007F, 0x0080, 0x0081, 0x00FF, 0x8001, 0x8101, 0x1F80, 0x2000, 0x0400], np.uint16)
    half = np.array([0x3F00, 0x3F80, 0x3EFF, 0x3F01, 0x3E80, 0x4000, 0xBF00, 0x2000, 0x1F81], np.uint16)
    a, b = np.repeat(tiny, len(half)), np.tile(half, len(tiny))
    comment = "products that become subnormal, with ties there, and products below half the smallest subnormal"
    flags = "bf16_subnormal_flushed tie_half_up"
    yield scalar("bf16_mul", "subnormal", comment, "B-4 B-1 B-2", flags, "bf16", a=("bf16", a), b=("bf16", b))
    a, b = np.array([[0x0001, 0x007F], [0x0080, 0x8001], [0x0081, 0x8080], [0x00FF, 0x807F], [0x0180, 0x817F]], np.uint16).T
    comment = "differences of normal values that are subnormal, exact and not zero"
    flags = "bf16_subnormal_flushed"
    yield scalar("bf16_add", "subnormal", comment, "B-3 B-1 B-2", flags, "bf16", a=("bf16", a), b=("bf16", b))


def _bf16_from_scaled() -> Iterator[Case]:
    name, exponent = "bf16_from_scaled", -22
    mantissa = [
        0,
        1,
        -1,
        255,
        256,
        257,
        258,
        259,
        511,
        512,
        -257,
        -259,
        -511,
        65408,
        65407,
        65664,
        65663,
        1 << 30,
        HIGH32,
        LOW32,
    ]
    comment = "mantissas of 1 to 32 bits, ties over even and odd, and a carry into the exponent"
    flags = "tie_half_up tie_away truncation exponent_carry signed_zero"
    given: dict[str, Any] = {"mantissa": ("int32", mantissa), "exponent": ("int32", np.full(len(mantissa), exponent))}
    yield scalar(name, "ties", comment, "B-5 N-3", flags, "bf16", **given)
    # Just above a BF16 tie by less than FP32's last place: rounding to FP32 first makes a tie that then goes to even.
    mantissa = [sign * ((257 << d) + extra) for sign in (1, -1) for d in (17, 21, 22) for extra in (1, 2, 0, -1)]
    given = {"mantissa": ("int32", mantissa), "exponent": ("int32", np.full(len(mantissa), exponent))}
    comment = "above a tie by less than FP32 can hold: going through FP32 rounds twice"
    yield scalar(name, "through_fp32", comment, "B-5 N-3", "double_rounding", "bf16", **given)
    pairs = [(m, k) for m in (1, -3, 257, HIGH32, LOW32) for k in (-126, -36, -22, 0, 95)]
    given = {"mantissa": ("int32", [m for m, _ in pairs]), "exponent": ("int32", [k for _, k in pairs])}
    comment = "every exponent that a block can have, and the ends of the allowed range"
    yield scalar(name, "exponents", comment, "B-5 N-3", "block_exponent", "bf16", **given)


# -- activations and tables (T, B-6, F-1) -------------------------------------------------------------------------------


def _activations() -> Iterator[Case]:
    steps = np.array([0, 1, 2, 3, 100, 1009], np.float64)
    edge = -(steps + 0.5) * 0.6931471805599453
    x = np.concatenate([[-0.0, -(2.0**-60), -0.25, -1.0, -10.5, -700.0], edge, np.nextafter(edge, 0), np.nextafter(edge, -800)])
    comment = "both sides of every change of k, and the ends of the argument's range"
    flags = "approximated_function fused_multiply_add"
    yield scalar("exp64", "edges", comment, "T-1", flags, "f64", x=("f64", x[x >= -700]))
    x = -Integers(6).between(0, 700 << 20, 64).astype(np.float64) * 2.0**-20
    comment = "arguments at random: a library's exp, or contracted products, differ in last places"
    yield scalar("exp64", "random", comment, "T-1", flags, "f64", seed=6, x=("f64", x))
    nan, inf = np.nan, np.inf
    ends = np.array([0.0, -0.0, 700.0, -700.0, 701.0, -701.0, 1e300, -1e300, inf, -inf, nan, 5e-324, -5e-324, 36.7, -36.7])
    comment = "limits beyond 700, infinities and NaN"
    flags = "nan_to_integer approximated_function"
    yield scalar("sigmoid64", "ends", comment, "T-2 T-1", flags, "f64", x=("f64", ends))
    x = Integers(7).between(-(12 << 20), 12 << 20, 48).astype(np.float64) * 2.0**-20
    comment = "both branches at random: 1 - sigmoid(-x) is not the same"
    yield scalar("sigmoid64", "random", comment, "T-2 T-1", "approximated_function", "f64", seed=7, x=("f64", x))
    edge = 2.0**-5 * np.array([1.0, -1.0, 0.5, -0.5, 2.0])
    x = np.concatenate([edge, np.nextafter(edge, 0), ends, [1e-8, -1e-8, 1e-160, 300.0, -300.0, 300.5, 18.0, -19.1]])
    comment = "the change to the series at 2^-5, subnormals, the sign of zero, limits, infinities and NaN"
    flags = "signed_zero approximated_function nan_to_integer"
    yield scalar("tanh64", "ends", comment, "T-3 T-1", flags, "f64", x=("f64", x))
    comment = "64 arguments just below 2^-5, where the series needs its last term"
    series = Integers(16).between(96 << 10, (128 << 10) - 1, 64) * 2.0**-22
    yield scalar("tanh64", "series", comment, "T-3", "approximated_function", "f64", seed=16, x=("f64", series))
    x = np.concatenate(
        [Integers(8).between(-(8 << 20), 8 << 20, 32) * 2.0**-20, Integers(9).between(-1000, 1000, 16) * 2.0**-15]
    )
    comment = "both branches at random"
    yield scalar("tanh64", "random", comment, "T-3 T-1", "approximated_function", "f64", seed=8, x=("f64", x))


def _tables() -> Iterator[Case]:
    comments = {
        "sigmoid_bf16": ("all 65,536 patterns of sigmoid, correctly rounded", "B-6", "approximated_function"),
        "tanh_bf16": ("all 65,536 patterns of tanh, correctly rounded", "B-6", "approximated_function signed_zero"),
        "twiddle_q30": ("cosine and minus sine in Q1.30", "F-1", "conjugate_sign approximated_function"),
        "hann_q30": ("the symmetric window with period 255, not 256", "F-2", "bin_off_by_one"),
    }
    for name, (comment, rule, flags) in comments.items():
        table = shipped(name)
        form = "bf16" if table.dtype == np.uint16 else "int32"
        yield directed("shipped_table", name, comment, rule, flags, {}, (name,), {"y": (form, table.shape)})


# -- requantization (G-2, G-3, Q-9) -------------------------------------------------------------------------------------


def requantized(
    what: str, comment: str, rules: str, flags: str, form: str, rq: Requantizer, acc: Any, seed: int | None = None
) -> Case:
    """Every accumulator through every channel of a requantizer."""
    accumulator = np.tile(np.asarray(acc, np.int64), len(rq.bias)).astype(np.int32)
    channel = np.repeat(np.arange(len(rq.bias)), len(accumulator) // len(rq.bias))
    given = {"accumulator": ("int32", accumulator), "channel": ("int32", channel)}
    outputs = {"y": (form, accumulator.shape)}
    return directed("requantize_accumulators", what, comment, rules, flags, given, (rq,), outputs, seed=seed)


def _law_folded() -> Iterator[Case]:
    rules = "G-2 N-1 N-4"
    around = [*range(-12, 13), 100, -100]
    rq = folded([256, 256 + 3, 128, 128 + 1], [1, 3, 1, 5], [1, 2, 3, 3])
    comment = "ties of both signs about the output's middle, for multipliers that are 1 and odd"
    flags = "floor_for_round tie_half_even tie_away"
    yield requantized("folded_ties", comment, rules, flags, "int8", rq, around)
    rq = folded([0, 40, -40], [1, 1, 1], [0, 0, 0])
    acc = [0, 1, 2, 127, 128, 129, 253, 254, 255, 256, 257, 1000, -1, -2, -256, 40, 39, 41, 214, 215, 216, 295, 296]
    comment = "a shift of 0 has no rounding constant; both bounds, one inside and one beyond each"
    flags = "shift_zero saturation_high saturation_low wraparound bias_dropped unsigned_confusion"
    yield requantized("folded_shift_0", comment, rules, flags, "int8", rq, acc)
    rq = folded([64, 0, -70], [255, 255, 129], [24, 24, 24])
    acc = [0, 8388542, -8388608, 8388543, 32769, 32960, 98691, 65793, 98689, 98690, 164483, -65793, 4194304, 8000000]
    comment = "the longest shift with the largest multiplier: products use all 32 bits"
    yield requantized("folded_shift_24", comment, rules, "narrow_accumulator floor_for_round", "int8", rq, acc)
    rq = folded([0, 0], [1, 1], [23, 24])
    acc = [HIGH32 - (1 << 23), LOW32, LOW32 + 1, -1, 0, 1 << 30, (1 << 30) - 1, 4194303, 4194304, 12582911, 12582912]
    comment = "accumulators at both ends of 32 bits with a sum that just fits"
    yield requantized("folded_ends", comment, rules, "narrow_accumulator wraparound", "int8", rq, acc)
    rq = folded([600, 1000], [3, 3], [3, 4], relu=50)
    comment = "a fused ReLU stops at the output's zero point, not at code 0 and not at the lowest code"
    flags = "relu_before_zero_point saturation_low zero_point_order"
    acc = [-2000, -700, -600, -300, *range(-130, -118), -53, -51, -50, -48, 0, 50, 79, 80, 81, 200, 500]
    yield requantized("folded_relu", comment, rules, flags, "int8", rq, acc)
    rq = folded([4000, 60, 1000, 30000], [127, 3, 45, 255], [12, 1, 9, 16])
    acc = [-300, -37, -1, 0, 1, 12, 200, 999, 3001]
    comment = "four channels with a bias, a multiplier and a shift each"
    flags = "channel_constants bias_dropped"
    yield requantized("folded_channels", comment, rules, flags, "int8", rq, acc)
    rq = folded([5937, 2880], [177, 91], [13, 11])
    comment = "accumulators at random"
    yield requantized("folded_random", comment, rules, "floor_for_round", "int8", rq, Integers(10).between(-4000, 4000, 48), 10)
    comment = "no law at all: the accumulator plus its bias, to both ends of 32 bits"
    acc = [0, 1, -1, HIGH32 - 1000, LOW32 + 1000]
    yield requantized("raw", comment, "O-1", "bias_dropped channel_constants", "int32", raw([1000, -1000, 0]), acc)


def _law_norm_twice() -> Iterator[Case]:
    rules = "G-3 N-2 N-4"
    wide, narrow = Format("int16", 1.0, 0), Format("int8", 1.0, 0)
    rq = norm_twice([0], [19], [11], wide, 8)
    comment = "accumulators where two roundings are not one, among others where they are"
    yield requantized("twice_rounding", comment, rules, "single_rounding", "int16", rq, double_rounding_differs(19, 11, 8, 12))
    rq = norm_twice([0, 3, -2], [1, 3, 5], [1, 2, 3], wide, 0)
    comment = "no first shift: one rounding, half up, at every tie"
    flags = "tie_half_even tie_away floor_for_round shift_zero"
    yield requantized("twice_pre_shift_0", comment, rules, flags, "int16", rq, range(-12, 13))
    rq = norm_twice([0, 100], [1, 7], [8, 8], wide, 8)
    acc = [-897, -896, -640, -385, -384, -383, -129, -128, -127, 0, 127, 128, 129, 383, 384, 385, 640]
    comment = "no second shift: the first one alone rounds, and what it drops is not multiplied"
    yield requantized("twice_second_shift_0", comment, rules, "shift_zero single_rounding tie_half_even", "int16", rq, acc)
    for zp in (32767, -32768, 1000):
        form = Format("int16", 1.0, zp)
        rq = norm_twice([0, 77], [3, 1], [9, 10], form, 8)
        acc = [0, 1, -1, 85, 86, -86, 256, -256, 5592405, -5592405, 5592490, 5000000, -5000000, 2796202, -2796202, 2796416]
        acc += [11184640, 11184641, 11184896, 12000000, -11184640, -11184769, -11184896, -12000000, 40000000, -40000000]
        comment = f"zero point {zp}, added after both roundings and after saturation about zero"
        flags = "zero_point_order zero_point_sign saturation_high saturation_low"
        yield requantized(f"twice_zero_point_{zp}", comment, rules, flags, "int16", rq, acc)
    form = Format("int16", 1.0, -1000)
    rq = norm_twice([500, -500], [3, 3], [10, 10], form, 8, relu=True)
    comment = "a fused ReLU bounds by 0 before the zero point is added"
    acc = [-100000, -900, -672, -501, -500, -499, -329, -328, 0, 328, 329, 500, 700, 50000000, 12000000]
    yield requantized("twice_relu", comment, rules, "relu_before_zero_point zero_point_order bias_dropped", "int16", rq, acc)
    rq = norm_twice([0], [255], [24], wide, 8)
    acc = [2147319808, -2147319808, 2147319807, -2147319680, 32768 * 127, -32768 * 127, 128, -129]
    comment = "the largest sums that the proof lets through: the second product needs all of 32 bits, signed"
    yield requantized("twice_bound", comment, f"{rules} O-1", "narrow_accumulator", "int16", rq, acc)
    rq = norm_twice([0, 129, -5], [1, 101, 255], [9, 12, 16], narrow, 8)
    acc = [*Integers(11).between(-60000, 60000, 32), 65280, 65279, 65024, -65536, -65664, -65665]
    comment = "16-bit input to an 8-bit output, random and at both bounds"
    flags = "channel_constants bias_dropped saturation_high saturation_low"
    yield requantized("twice_to_int8", comment, rules, flags, "int8", rq, acc, 11)


def _law_bf16() -> Iterator[Case]:
    rules = "Q-9 B-1"
    one = 1 << 24
    acc: Any = [
        one + 1,
        one + 3,
        -one - 1,
        -one - 3,
        one + (1 << 16) + 1,
        one + (1 << 16) - 1,
        (257 << 22) + 1,
        (257 << 22) - 1,
    ]
    acc += [HIGH32, LOW32, HIGH32 - 63, 2139095041, 2139095039, 2143289344, 2143289345]
    comment = "sums that FP32 does not hold: the conversion rounds, then the result rounds again"
    yield requantized("bf16_int32_inexact", comment, rules, "single_rounding float_width", "bf16", to_bf16([0], [1.0]), acc)
    rq = to_bf16([1000, -70000, 0], f32([0x38D1B717, 0x3A83126F, 0x3DCCCCCD]))
    acc = [-1000, 70000, 0, 1, -1, 16777217, -16777219, 123456, -99, 30, -7]
    comment = "a bias and a scale for each channel; a sum of zero is +0"
    yield requantized("bf16_channels", comment, rules, "channel_constants bias_dropped signed_zero", "bf16", rq, acc)
    scale = np.array([3e-5], np.float32)
    product = products_that_round_twice(float(scale[0]))
    comment = "products whose rounding to FP32 makes or breaks a tie of BF16"
    yield requantized("bf16_product", comment, rules, "single_rounding float_width", "bf16", to_bf16([0], scale), product)
    scale = np.array([0.7], np.float32)
    comment = "sums beyond 24 bits whose rounding to FP32 makes or breaks a tie of the product"
    acc = totals_that_round_twice(float(scale[0]))
    yield requantized("bf16_sum", comment, rules, "single_rounding float_width", "bf16", to_bf16([0], scale), acc, 15)
    comment = "products beyond the largest value and below the smallest normal one"
    rq = to_bf16([0, 0, 0], f32([0x7E800000, 0x00000001, 0x0012D687]))
    acc = [1, 2, 3, -3, 0, 100, 65536, -65536, 255, -255]
    yield requantized("bf16_range", comment, rules, "bf16_overflow bf16_subnormal_flushed", "bf16", rq, acc)
    comment = "accumulators at random, to BF16"
    acc = [int(v) for v in Integers(12).between(-(1 << 22), 1 << 22, 32)]
    rq = to_bf16([12345, -777], np.array([3e-5, 7e-6], np.float32))
    yield requantized("bf16_random", comment, rules, "truncation bias_dropped", "bf16", rq, acc, 12)


# -- the FFT's core, framing, audio (F-3, P-2, A) -----------------------------------------------------------------------


def _fft(what: str, comment: str, flags: str, re: Any, im: Any, sign: int, seed: int | None = None) -> Case:
    given: dict[str, Any] = {"re": ("int32", np.asarray(re)), "im": ("int32", np.asarray(im))}
    outputs = {"yr": ("int32", (128,)), "yi": ("int32", (128,))}
    constants = (shipped("twiddle_q30"), sign)
    return directed("complex_fft_128", what, comment, "F-3 F-1 N-2", flags, given, constants, outputs, seed=seed)


def _transform() -> Iterator[Case]:
    for sign in (1, -1):
        name = {1: "forward", -1: "inverse"}[sign]
        impulse = np.zeros(128, np.int64)
        impulse[3] = 1 << 22
        comment = f"{name}, one sample at index 3: the bit reversal and the direction of every twiddle factor"
        yield _fft(f"{name}_impulse", comment, "conjugate_sign bin_off_by_one", impulse, np.zeros(128), sign)
        source = Integers(13 if sign > 0 else 14)
        re, im = source.between(-(1 << 22), 1 << 22, (2, 128))
        comment = f"{name} at random: each product rounded by itself, or floored, differs"
        flags = "double_rounding floor_for_round narrow_accumulator"
        yield _fft(f"{name}_random", comment, flags, re, im, sign, 13 if sign > 0 else 14)
    one = np.full(128, 1 << 22, np.int64)
    comment = "all samples at full scale: the sum reaches 2^29 and nothing wraps"
    yield _fft("full_scale", comment, "narrow_accumulator wraparound", one, -one, 1)
    small = np.arange(128) % 3 - 1
    comment = "samples of one unit: every rounding in every stage is large beside them"
    yield _fft("units", comment, "floor_for_round double_rounding", small, np.roll(small, 1), 1)
    for part in ("real", "imaginary"):
        # Sample 1 alone reaches the last stage unchanged; there index 1 is multiplied by the table's entry 2.
        c, s = (int(v) for v in shipped("twiddle_q30")[2])
        pair = {"real": (c, -s), "imaginary": (s, c)}[part]
        re, im = np.zeros((2, 128), np.int64)
        re[1], im[1] = tie_pair(*pair, 30, 1 << 20)
        comment = f"one sample whose {part} product with a twiddle factor of the last stage is exactly at a negative tie"
        yield _fft(f"tie_{part}", comment, "tie_half_even tie_away", re, im, 1)


def _framing() -> Iterator[Case]:
    for count in (1, 96, 97, 300):
        pcm = np.arange(1, count + 1, dtype=np.int16)
        frames = -(-count // 96)
        comment = f"{count} numbered samples: 96 before the first are zero, 64 ahead are in the frame"
        flags = "frame_off_by_one latency"
        outputs = {"y": ("int16", (frames, 256))}
        yield directed("frames", f"samples_{count}", comment, "P-2 P-4", flags, {"pcm": ("int16", pcm)}, (), outputs)


def _file(what: str, comment: str, rules: str, flags: str, form: str, samples: Array, coding: str, channel: str = "") -> Case:
    given = {"samples": (form, samples.reshape(len(samples), -1))}
    outputs = {"y": ("int16", (len(samples),))}
    return directed("pcm_of_file", what, comment, rules, flags, given, (coding, channel), outputs)


def _audio() -> Iterator[Case]:
    shorts = np.array([0, 1, -1, 32767, -32768, 256, -256, 12345], np.int16)
    yield _file("int16", "16-bit samples bit for bit", "A-1", "endianness wraparound", "int16", shorts, "PCM_16")
    parts = np.array([0, 127, 128, 129, 384, 383, -127, -128, -129, -384, -385, 8388607, 8388480, 8388479, -8388608], np.int64)
    comment = "24-bit samples at ties, and where rounding goes beyond 16 bits"
    flags = "tie_half_up tie_away truncation wraparound"
    yield _file("int24", comment, "A-1", flags, "int32", parts << 8, "PCM_24")
    words = np.array([0, 1 << 15, (1 << 15) - 1, (1 << 15) + 1, 3 << 15, -(1 << 15), -(3 << 15), HIGH32, LOW32, HIGH32 - 65535])
    comment = "32-bit samples at ties and at both ends"
    yield _file("int32", comment, "A-1", flags, "int32", words, "PCM_32")
    eight = np.array([0, 1, -1, 127, -128, 64], np.int64) << 24
    comment = "unsigned 8-bit samples lose their offset of 128"
    yield _file("uint8", comment, "A-1", "unsigned_confusion", "int32", eight, "PCM_U8")
    unit = 2.0**-15
    real = np.array([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 32766.5, 32767.49, 32767.5, 40000.0, -32768.5, -50000.0, 0.50000006])
    comment = "float samples at ties and beyond full scale"
    flags = "tie_half_up truncation saturation_high saturation_low wraparound"
    yield _file("float", comment, "A-2", flags, "f32", (real * unit).astype(np.float32), "FLOAT")
    near = np.array([0.5 + 2.0**-40, 1.5 - 2.0**-40, 2.5 + 2.0**-40, -0.5 - 2.0**-40]) * unit
    comment = "FP64 samples next to ties, which FP32 would make ties"
    yield _file("double", comment, "A-2", "double_rounding", "f64", near, "DOUBLE")
    stereo = np.array([[1, 2], [3, 4], [-1, -2], [32767, 32767], [-32768, -32768], [32767, -32768], [0, 1]], np.int16)
    comment = "the mean of two channels is exact, then rounded half to even once"
    yield _file("mix", comment, "A-3", "tie_half_up floor_for_round wraparound", "int16", stereo, "PCM_16", "mix")
    thirds = (np.array([[0.4, 0.8], [1.5, 0.4], [-0.4, -0.8], [2.5, 0.5]]) * unit).astype(np.float32)
    comment = "the mean of two channels of floats: nothing is rounded before it"
    yield _file("mix_float", comment, "A-3 A-2", "double_rounding", "f32", thirds, "FLOAT", "mix")
    comment = "the second of two channels"
    yield _file("channel_2", comment, "A-3", "channel_order", "int16", stereo, "PCM_16", "2")
    for what, pcm in (("samples", shorts), ("one_sample", shorts[4:5])):
        outputs = {"y": ("uint8", (44 + 2 * len(pcm),))}
        comment = f"header and {len(pcm)} little-endian samples, byte by byte"
        yield directed("wav_of_pcm", what, comment, "A-4", "endianness", {"pcm": ("int16", pcm)}, (), outputs)
