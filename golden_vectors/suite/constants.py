"""Numerics level, lowering: formats, weights, multipliers, layers, tables and windows from floats (Q, G, O, T-4, F)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, directed

PROFILE = "gap9"
Range = tuple[float, float]


def cases() -> Iterator[Case]:
    yield from _formats()
    yield from _weights()
    yield from _multipliers()
    yield from _folded_layers()
    yield from _hard_layers()
    yield from _wide_layers()
    yield from _float_layers()
    yield from _additions()
    yield from _products_and_conversions()
    yield from _code_tables()
    yield from _windows()


def _pair(value: Range) -> tuple[str, Array]:
    return "f64", np.array(value, np.float64)


# -- formats and weights (Q-1, Q-2) -------------------------------------------------------------------------------------


def _formats() -> Iterator[Case]:
    groups: dict[str, tuple[str, str, list[Range]]] = {
        "zero_inside": (
            "the zero point is the nearest integer, its ties go to even",
            "zero_point_sign tie_half_up tie_away truncation",
            [(-1.0, 3.0), (-0.5, 254.5), (-1.5, 253.5), (-2.5, 252.5), (-32767.5, 32767.5), (-1e-12, 1e-12), (-100.0, 1e-3)],
        ),
        "zero_at_an_end": (
            "ranges that do not hold zero are widened to it: the zero point is the lowest or the highest code",
            "range_without_zero unsigned_confusion",
            [(0.0, 6.0), (-6.0, 0.0), (0.5, 3.0), (-0.7, -0.1), (5.0, 5.0), (-2.0, -2.0)],
        ),
        "empty": (
            "nothing but zero was seen: no division by zero, and a limit of 2^-60",
            "range_without_zero",
            [(0.0, 0.0), (0.0, 2.0**-61), (-(2.0**-62), 2.0**-62), (0.0, 2.0**-60), (-(2.0**-61), 2.0**-61)],
        ),
    }
    for what, (comment, flags, ranges) in groups.items():
        for bits in (8, 16):
            low, high = np.array(ranges, np.float64).T
            outputs = {"scale": ("f64", low.shape), "zero_point": ("int32", low.shape)}
            given = {"low": ("f64", low), "high": ("f64", high)}
            text = f"{bits} bits: {comment}"
            yield directed("activation_format", f"{what}_{bits}", text, "Q-1", flags, given, (bits,), outputs)


def _quantized(what: str, comment: str, flags: str, weight: Any, smallest: Any, seed: int | None = None) -> Case:
    rows = np.asarray(weight, np.float32)
    given = {"weight": ("f32", rows), "smallest": ("f64", np.asarray(smallest, np.float64))}
    outputs = {"codes": ("int8", rows.shape), "scale": ("f64", (len(rows),))}
    return directed("quantize_weights", what, comment, "Q-2", flags, given, (), outputs, seed=seed)


def _weights() -> Iterator[Case]:
    unit = np.float32(2.0**-7)
    codes = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5], [-127, 126.5, -126.5, 125.5, 3, -3], [1, -1, 127, 64, -64, 0]])
    comment = "a scale that is a power of two: ties go to even, and the ends are 127 and -127"
    yield _quantized("ties", comment, "tie_half_up tie_away saturation_high saturation_low", codes * unit, [0, 0, 0])
    rows: Any = [[0.0, -0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [-1e-30, 1e-30, 0.0, 0.0]]
    comment = "a channel of zeros has scale 1; one tiny channel keeps a scale of its own"
    yield _quantized("zero_channel", comment, "dead_channel channel_constants", rows, [0, 0, 0])
    rows = np.tile(np.array([[0.5, -0.25, 0.126, 0.001]]), (4, 1))
    comment = "a smallest scale below, above and far above the channel's own: fewer codes, down to none"
    yield _quantized("smallest", comment, "dead_channel", rows, [0.001, 0.01, 0.26, 2.0])
    comment = "a scale of 49: half codes are ties by division, and less by the rounded reciprocal"
    rows = [[6223.0, *(49.0 * np.array([1.5, 3.5, -7.5, 11.5, 13.5, 0.5, 2.5]))]]
    yield _quantized("reciprocal", comment, "reciprocal tie_half_up", rows, [0])
    comment = "random weights of very different channels"
    rows = Integers(20).fractions((3, 8)) * np.array([[1.0], [0.01], [100.0]], np.float32)
    yield _quantized("random", comment, "channel_constants", rows, [0, 0, 0], 20)


# -- multipliers (G-1, G-4, Q-10) ---------------------------------------------------------------------------------------


def _search(what: str, comment: str, ratios: Any, bits: int, largest: int) -> Case:
    ratio = np.asarray(ratios, np.float64)
    outputs = {"multiplier": ("int32", ratio.shape), "shift": ("int32", ratio.shape)}
    given = {"ratio": ("f64", ratio)}
    flags = "multiplier_search"
    return directed("multiplier_search", what, comment, "G-1", flags, given, (bits, largest), outputs, profile=PROFILE)


def _multipliers() -> Iterator[Case]:
    even = [0.0123, 0.5, 0.001953125, 0.7, 0.03, 0.2421875, 96.0 / 65536, 0.7421875]
    yield _search("odd_or_one", "even multipliers are halved until they are odd or one", even, 8, 24)
    power = [0.99999, 0.4999, 0.998046875, 0.99609375, np.nextafter(1.0, 0.0), 1.0, 0.00389, 0.24999999]
    yield _search("power_of_two", "a mantissa that rounds up to 2^b is searched again, down to one", power, 8, 24)
    small = [3.0e-8, 2.0**-24, 2.0**-25, 1.1e-7, 1.5e-5, 2.0**-30, 2.0**-17 * 0.9, 2.0**-16 * 0.996, 1e-40]
    yield _search("largest_shift", "no shift beyond 24: bits are given up, and below 2^-24 it stays beyond", small, 8, 24)
    large = [1.0, 1.37, 2.0, 100.0, 192.4, 255.0, 255.49, 255.5, 256.0, 1000.0, 128.0, 127.5, 200.25]
    yield _search("no_shift", "a fitting multiplier stays at a shift of 0 even where it is even; above 255 n < 0", large, 8, 24)
    ties = [(2 * m + 1) / 512 for m in (128, 129, 200, 254)]
    yield _search("ties", "a mantissa at a tie goes up", ties, 8, 24)
    below = [(2 * m + 1) / 512 - 2.0**-40 for m in (128, 129, 200, 254)]
    yield _search("below_ties", "mantissas are FP64: just below a tie they go down, where FP32 would be at it", below, 8, 24)
    for bits in (0, 1, 4, 7):
        ratios = [0.0123, 0.7, 0.5, 0.25 + 2.0**-12, 3.0e-8, 1.9, 0.9375, 0.4375]
        comment = f"only {bits} bits are left for the multiplier"
        yield _search(f"bits_{bits}", comment, ratios, bits, 24)
    ratio = np.array([1.0, 2.0, 1.37, 192.4, 255.6, 256.0, 1000.0, 1000.5, 1001.5, 0.031, 1e-9, 70000.49], np.float64)
    outputs = {"multiplier": ("int32", ratio.shape), "shift": ("int32", ratio.shape)}
    comment = "ratios of two scales beyond 255 take the nearest integer, ties up, without a shift"
    given = {"ratio": ("f64", ratio)}
    flags = "multiplier_search shift_zero"
    yield directed("ratio_of_scales", "beyond_8_bits", comment, "G-4 G-1", flags, given, (PROFILE,), outputs, profile=PROFILE)
    pairs: dict[str, tuple[str, list[float], list[int]]] = {
        "two": ("the largest shift that both multipliers fit", [0.8, 0.013], [228, 255]),
        "ties": ("multipliers at ties go to even", [1.5 * 2.0**-30, 2.5 * 2.0**-30], [3, 3]),
        "sum": ("each product alone would fit a larger shift, their sum does not", [0.6, 0.6], [255, 255]),
        "shift_30": ("small ratios reach the largest shift of 30", [1e-4, 1e-5], [255, 255]),
        "shift_0": ("a large ratio leaves no shift, and no rounding constant", [1.5e7], [128]),
        "coarse": ("INT16 bounds leave a multiplier of few bits", [1.0, 0.37], [32768, 65535]),
        "edge": ("the sum of products comes to just below 2^31", [(2**31 - 2**23) / 2**24 / 255], [255]),
    }
    for what, (comment, ratios, bounds) in pairs.items():
        wide = {"ratio": ("f64", np.array(ratios)), "bound": ("int64", np.array(bounds))}
        outputs = {"multiplier": ("int32", (len(ratios),)), "shift": ("int32", (1,))}
        flags = "multiplier_search narrow_accumulator"
        yield directed("common_shift_multipliers", what, comment, "Q-10", flags, wide, (), outputs)


# -- layers (Q-2, Q-3, G-1 to G-3, G-5, O-1) ----------------------------------------------------------------------------


def layer(
    what: str,
    comment: str,
    flags: str,
    weight: Any,
    bias: Sequence[float],
    x_range: Range,
    y_range: Range,
    x_format: str = "int8",
    y_format: str = "int8",
    relu: bool = False,
    seed: int | None = None,
) -> Case:
    """Constants of one fully connected layer."""
    rows = np.asarray(weight, np.float32)
    shape = (len(rows),)
    law = "Q-9" if y_format == "bf16" else "G-2" if x_format == y_format == "int8" else "G-3"
    rules = f"Q-3 Q-2 Q-1 {law} G-5 O-1" + ("" if y_format == "bf16" else " G-1")
    given = {"weight": ("f32", rows), "bias": ("f32", np.asarray(bias)), "x_range": _pair(x_range), "y_range": _pair(y_range)}
    outputs = {
        "codes": ("int8", rows.shape),
        "total": ("int32", shape),
        "multiplier": ("int32", shape),
        "addend": ("int64", shape),
        "shift": ("int32", shape),
        "scale": ("f32", shape),
        "bounds": ("int64", (4,)),
        "proof": ("int64", (4,)),
    }
    constants = (x_format, y_format, relu, PROFILE)
    return directed("lower_layer", what, comment, rules, flags, given, constants, outputs, seed=seed, profile=PROFILE)


ROW = [0.5, -0.25, 0.126, 0.4]
ROWS = [ROW, [-0.9, 0.31, 0.02, -0.7], [0.001, 0.002, -0.003, 0.0015]]


def _folded_layers() -> Iterator[Case]:
    wide, narrow = (-1.0, 3.0), (-0.8, 1.7)
    comment = "the bias, minus the input's zero point times the weights, plus the unsigned output's zero point"
    flags = "zero_point_sign zero_point_order bias_dropped channel_constants"
    yield layer("plain", comment, flags, ROWS, [0.05, -0.4, 0.01], wide, narrow)
    comment = "a fused ReLU raises the lower bound to the unsigned zero point"
    yield layer("relu", comment, "relu_before_zero_point", ROWS, [0.05, -0.4, 0.01], wide, narrow, relu=True)
    ends: dict[str, tuple[str, Range, Range]] = {
        "zero_points_lowest": ("both zero points are the lowest code, unsigned 0", (0.0, 3.0), (0.0, 1.7)),
        "zero_points_highest": ("both zero points are the highest code, unsigned 255", (-3.0, 0.0), (-1.7, 0.0)),
        "range_without_zero": ("ranges above and below zero are widened to it", (0.5, 3.0), (-1.7, -0.4)),
        "empty_output_range": ("an output that was only ever zero", (-1.0, 3.0), (0.0, 0.0)),
        "empty_input_range": ("an input that was only ever zero", (0.0, 0.0), (-0.8, 1.7)),
    }
    for what, (text, x_range, y_range) in ends.items():
        flags = "zero_point_sign unsigned_confusion range_without_zero"
        yield layer(what, text, flags, [ROW, ROWS[1]], [0.05, -0.4], x_range, y_range)
    comment = "one weight: K of 1, and a bias at a tie of its unit"
    yield layer(
        "one_weight", comment, "tie_half_up", [[127.0], [-127.0], [127.0]], [0.5, 1.5, -2.5], (-128.0, 127.0), (-9e3, 9e3)
    )
    comment = "output zero point at a tie of the accumulator's unit goes up, not to even"
    yield layer("output_tie", comment, "tie_half_even shift_zero", [[127.0]], [0.0], (-64.0, 63.5), (-0.25, 63.5))
    comment = "the output's zero point over a unit of 98: a tie where the product is divided, less where the ratio comes first"
    yield layer("output_ratio", comment, "reciprocal", [[127.0 * 98.0]], [0.0], (-128.0, 127.0), (-147.0, 108.0))


def _hard_layers() -> Iterator[Case]:
    wide, narrow = (-1.0, 3.0), (-0.8, 1.7)
    comment = "channels of zero weights with a positive, a negative and no bias have a unit from the output's scale"
    zeros = [[0.0] * 4, [0.0] * 4, [-0.0] * 4, ROW]
    yield layer("dead_channels", comment, "dead_channel bias_dropped", zeros, [0.5, -0.5, 0.0, 0.05], wide, narrow)
    tiny = [[1e-12, -1e-12, 0.0, 1e-12], [1e-7, 1e-8, -1e-7, 0.0], ROW]
    comment = "nearly dead channels lose codes, so that no shift beyond 24 is needed"
    yield layer("nearly_dead_channels", comment, "dead_channel multiplier_search", tiny, [0.1, 0.0, 0.1], wide, narrow)
    comment = "biases far beyond the weights: codes get smaller, so that the bias stays below 2^23 units"
    yield layer("large_bias", comment, "narrow_accumulator multiplier_search", ROWS, [700.0, -1e4, 2e6], wide, (-3e3, 3e3))
    comment = "a bias of exactly 2^23 units has 24 bits and leaves 7 for the multiplier, one unit less leaves 8"
    rows, codes = np.full((2, 2), 127.0), (-128.0, 127.0)
    yield layer("bias_bits", comment, "multiplier_search", rows, [2.0**23, 2.0**23 - 1], codes, (0.0, 1.8076e7))
    for what, count, bits in (("many_products", 520, 7), ("products_512", 512, 8)):
        comment = f"{count} products: ceil(log2 K) + 14 leaves {bits} bits for the multiplier"
        weight = np.abs(Integers(21).fractions((2, count), 0.5))
        weight[:, 0] = 1.5
        flags = "multiplier_search narrow_accumulator"
        yield layer(what, comment, flags, weight, [0.3, -3.0], wide, (-200.0, 910.0), seed=21)
    comment = "8 bits are left for the multiplier, but the product of total and multiplier needs 33: a coarser one"
    flags = "multiplier_search narrow_accumulator"
    yield layer("proof_decides", comment, flags, rows, [2.0**22, -(2.0**22)], codes, (-9.038e6, 9.038e6))


def _wide_layers() -> Iterator[Case]:
    wide, narrow = (-1.0, 3.0), (-0.8, 1.7)
    kinds = {"int16_to_int16": ("int16", "int16"), "int8_to_int16": ("int8", "int16"), "int16_to_int8": ("int16", "int8")}
    for what, (x_format, y_format) in kinds.items():
        comment = f"{what.replace('_', ' ')}: the output's zero point is not folded; one pre-shift serves all channels"
        bias = [0.05, -0.4, 0.01]
        yield layer(what, comment, "zero_point_order", ROWS, bias, wide, narrow, x_format, y_format)
    comment = "int16 with a fused ReLU: the lower bound is 0, before the zero point"
    yield layer("int16_relu", comment, "relu_before_zero_point", ROWS, [0.05, -0.4, 0.01], wide, narrow, "int16", "int16", True)
    comment = "a shift below 8 in one channel lowers the pre-shift of all"
    rows = [[3e-3, 1e-3, 0.0, 0.0], [0.5, -0.25, 0.126, 0.4]]
    yield layer("small_pre_shift", comment, "single_rounding", rows, [0.0, 0.0], wide, (-1e-3, 1e-3), "int16", "int16")
    comment = "a ratio so large that no shift is left: a pre-shift of 0"
    rows = [[0.5, -0.25, 0.126, 0.4]]
    yield layer("no_pre_shift", comment, "shift_zero", rows, [0.0], wide, (-5.2e-5, 5.2e-5), "int16", "int16")
    comment = "129 products of int16 at full scale: accumulators of unsigned codes use 31 bits"
    full = np.full((2, 129), 1.0) * np.array([[1.0], [-1.0]])
    yield layer("int16_proof", comment, "narrow_accumulator", full, [0.1, -0.1], wide, (-400.0, 400.0), "int16", "int16")
    comment = "dead channels into int16"
    zeros = [[0.0] * 4, ROW]
    yield layer("int16_dead_channel", comment, "dead_channel", zeros, [0.5, 0.05], wide, narrow, "int16", "int16")


def _float_layers() -> Iterator[Case]:
    wide = (-1.0, 3.0)
    comment = "BF16 output: a scale of its own per channel and no output zero point in the total"
    yield layer("bf16", comment, "zero_point_sign", ROWS, [0.05, -0.4, 0.01], wide, wide, "int8", "bf16")
    comment = "BF16 output of dead channels: the unit is the bias over 2^15, or 1"
    zeros = [[0.0] * 4, [0.0] * 4, [1e-30] * 4, ROW]
    yield layer(
        "bf16_dead_channels", comment, "dead_channel bias_dropped", zeros, [0.3, 0.0, -0.7, 0.05], wide, wide, "int8", "bf16"
    )
    comment = "int16 codes into BF16"
    yield layer("int16_to_bf16", comment, "zero_point_sign", ROWS, [0.05, -0.4, 0.01], wide, wide, "int16", "bf16")


# -- element by element (E-1 to E-3, Q-4 to Q-8) ------------------------------------------------------------------------


def _addition(what: str, comment: str, flags: str, ranges: Sequence[Range], formats: str = "int8 int8 int8") -> Case:
    kinds = formats.split()
    rules = "E-1 G-4 G-1 G-5 O-1 Q-1" if set(kinds) == {"int8"} else "E-2 Q-10 G-5 O-1 Q-1"
    given = {f"{name}_range": _pair(value) for name, value in zip("aby", ranges, strict=True)}
    outputs = {"constants": ("int64", (8,)), "swapped": ("int64", (1,))}
    return directed("lower_add", what, comment, rules, flags, given, (*kinds, PROFILE), outputs, profile=PROFILE)


def _additions() -> Iterator[Case]:
    a, b, y = (-1.0, 3.0), (-0.5, 0.4), (-1.3, 3.1)
    flags = "residual_order zero_point_sign unsigned_confusion"
    yield _addition("in_order", "the first operand has the larger scale and stays first", flags, (a, b, y))
    yield _addition("swapped", "the second operand has the larger scale and comes first", flags, (b, a, y))
    yield _addition(
        "equal_scales", "equal scales: no exchange, and a multiplier of 1", "residual_order multiplier_search", (a, a, y)
    )
    comment = "a scale ratio of a thousand: a multiplier beyond 8 bits without a shift"
    yield _addition("beyond_8_bits", comment, "multiplier_search", ((-100.0, 300.0), (-0.1, 0.3), (-100.0, 300.0)))
    comment = "zero points at the ends of their ranges: the bias at its extremes"
    flags = "zero_point_sign unsigned_confusion"
    yield _addition("zero_points_lowest", comment, flags, ((0.0, 4.0), (0.0, 1.0), (0.0, 5.0)))
    comment = "operands below zero into an output above it: the bias is most negative"
    yield _addition("zero_points_opposite", comment, flags, ((-4.0, 0.0), (-1.0, 0.0), (0.0, 5.0)))
    comment = "an operand that was only ever zero"
    yield _addition("empty_range", comment, "range_without_zero", ((0.0, 0.0), (-0.5, 0.4), (-0.5, 0.4)))
    for formats in ("int8 int16 int8", "int16 int16 int16", "int16 int8 int8", "int8 int8 int16"):
        comment = f"{formats.replace(' ', ', ')}: one common shift, operands in their order"
        yield _addition(f"joint_{formats.replace(' ', '_')}", comment, "residual_order multiplier_search", (a, b, y), formats)
    comment = "two operands of one scale: both bound the multipliers"
    yield _addition("joint_both_large", comment, "multiplier_search narrow_accumulator", (a, a, y), "int16 int16 int16")


def _products_and_conversions() -> Iterator[Case]:
    groups: dict[str, tuple[str, Sequence[Range]]] = {
        "gate": ("a gate in [0, 1] times a value", ((0.0, 1.0), (-2.0, 2.0), (-1.5, 1.5))),
        "zero_points_ends": ("zero points at both ends: the largest products", ((0.0, 1.0), (-2.0, 0.0), (-2.0, 0.0))),
        "large_ratio": ("an output range far smaller than the product's", ((-1.0, 1.0), (-2.0, 2.0), (-1e-3, 1e-3))),
    }
    for what, (comment, ranges) in groups.items():
        given = {f"{name}_range": _pair(value) for name, value in zip("aby", ranges, strict=True)}
        outputs = {"constants": ("int64", (7,))}
        flags = "multiplier_search zero_point_sign"
        yield directed("lower_multiply", what, comment, "E-3 Q-10 Q-1", flags, given, (), outputs)
    kinds = {
        "int8_to_int16": ("Q-8 Q-10 Q-1", "zero_point_sign multiplier_search", "codes widen: the ratio is near 257"),
        "int16_to_int8": ("Q-8 Q-10 Q-1", "zero_point_sign multiplier_search", "codes narrow: the ratio is near 1 / 257"),
        "bf16_to_int8": ("Q-5 Q-1", "reciprocal", "the reciprocal is rounded to FP64, then to FP32"),
        "f32_to_int16": ("Q-4 Q-1", "reciprocal", "the reciprocal of a 16-bit scale"),
        "int8_to_bf16": ("Q-7 Q-1", "float_width", "the scale rounded to FP32"),
        "int16_to_f32": ("Q-6 Q-1", "float_width", "the scale of 16 bits rounded to FP32"),
    }
    for what, (rules, flags, comment) in kinds.items():
        formats = tuple(what.split("_to_"))
        outputs = {"constants": ("f64", (6,))}
        given = {"x_range": _pair((-1.1, 3.3))}
        yield directed("lower_convert", what, comment, rules, flags, given, formats, outputs)


# -- tables and windows (T-4, F-2, F-16, F-17) --------------------------------------------------------------------------


def _code_tables() -> Iterator[Case]:
    Parameters = tuple[str, int, float, int, int, float, int]
    tables: dict[str, tuple[str, str, Parameters]] = {
        "sigmoid_8": ("sigmoid between 8-bit codes", "approximated_function", ("sigmoid", 8, 0.05, -10, 8, 2.0**-8, -128)),
        "sigmoid_8_lowest": (
            "zero point at the lowest code: only positive arguments",
            "table_index_sign zero_point_sign",
            ("sigmoid", 8, 0.03, -128, 8, 1 / 255, -128),
        ),
        "sigmoid_8_highest": (
            "zero point at the highest code: only negative arguments",
            "table_index_sign zero_point_sign",
            ("sigmoid", 8, 0.03, 127, 8, 1 / 255, -128),
        ),
        "tanh_8": ("tanh between 8-bit codes", "approximated_function", ("tanh", 8, 0.02, 3, 8, 2 / 255, 0)),
        "tanh_8_saturated": (
            "an output range smaller than tanh's saturates at both ends",
            "saturation_high saturation_low wraparound",
            ("tanh", 8, 0.05, 0, 8, 0.005, -20),
        ),
        "tanh_8_tie": (
            "an output scale of 2 and arguments far out: tanh of 1 is half a code, a tie to even",
            "tie_half_up tie_away",
            ("tanh", 8, 0.5, 0, 8, 2.0, 1),
        ),
        "tanh_8_to_16": ("tanh from 8 to 16 bits", "narrow_accumulator", ("tanh", 8, 0.02, 0, 16, 2.0**-15, 0)),
        "sigmoid_16_to_8": (
            "65,536 entries of int8",
            "table_index_sign narrow_accumulator",
            ("sigmoid", 16, 2.0**-12, 100, 8, 1 / 255, -128),
        ),
        "tanh_16": (
            "65,536 entries of int16: every argument and every rounding",
            "approximated_function reciprocal",
            ("tanh", 16, 1e-4, -1234, 16, 1.9 / 65535, 1),
        ),
        "tanh_8_reciprocal": (
            "tanh of one step is 1.5 output steps by division, and less by the rounded reciprocal",
            "reciprocal",
            ("tanh", 8, float.fromhex("0x1.c686c41d0e835p-2"), 0, 8, 0.2779, 0),
        ),
    }
    for what, (comment, flags, parameters) in tables.items():
        function, bits, scale, zero_point, out_bits, out_scale, out_zero_point = parameters
        rules = f"T-4 {'T-2' if function == 'sigmoid' else 'T-3'} T-1"
        given = {"scale": ("f64", np.array([scale])), "zero_point": ("int32", np.array([zero_point]))}
        outputs = {"y": (f"int{out_bits}", (1 << bits,))}
        constants = (function, bits, out_bits, out_scale, out_zero_point)
        yield directed("code_table", what, comment, rules, flags, given, constants, outputs)


def _windows() -> Iterator[Case]:
    for name in ("hann", "rect"):
        comment = f"the {name} window of 256 samples"
        yield directed("analysis_window", name, comment, "F-2", "bin_off_by_one", {}, (name,), {"y": ("int32", (256,))})
        comment = f"160 values that undo the {name} window exactly: one frame in the middle, two at either side"
        yield directed("synthesis_window", name, comment, "F-16 F-2", "overlap_region", {}, (name,), {"y": ("f64", (160,))})
    kinds = {
        "bf16": ("bf16", 1.0, "BF16 spectra: the window in Q29"),
        "int8": ("int8", 23 / 255, "8-bit spectra: the scale is inside the window, the power follows its size"),
        "int16": ("int16", 23 / 65535, "16-bit spectra: another shift, another base"),
        "int8_power": ("int8", 2.0**-4, "a scale that is a power of two"),
        "int8_large": ("int8", 300.0, "a scale far above 1: a small power and a small base"),
    }
    for what, (form, scale, comment) in kinds.items():
        for window in ("hann", "rect") if what in ("bf16", "int8") else ("hann",):
            outputs = {"y": ("int32", (160,)), "base": ("int64", (1,))}
            text, flags, constants = f"{comment}, {window}", "block_exponent", (window, form, scale)
            yield directed("inverse_constants", f"{what}_{window}", text, "F-17 F-16 F-2", flags, {}, constants, outputs)
