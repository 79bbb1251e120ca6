"""Numerics level of the profiles beside gap9: 31-bit and power-of-two multipliers, symmetric formats, device tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.constants import ROW, ROWS
from golden_vectors.suite.making import directed, scalar, scaled
from golden_vectors.suite.numerics import HIGH32, LOW32, SPECIAL, requantized
from refimpl.program import Format

Range = tuple[float, float]
ONE = 1 << 30  # M of the ratio 1 / 2


def cases() -> Iterator[Case]:
    yield from _roundings()
    yield from _laws()
    yield from _tables()
    yield from _formats()
    yield from _multipliers()
    yield from _layers()
    yield from _element_by_element()


def _roundings() -> Iterator[Case]:
    name = "shift_half_away"
    value, shift = np.repeat(np.arange(-12, 13), 4), np.tile(np.arange(4), 25)
    given: dict[str, Any] = {"value": ("int64", value), "shift": ("int32", shift)}
    flags = "tie_away tie_half_up tie_half_even floor_for_round shift_zero truncation"
    yield scalar(
        name, "ties", "ties of both signs go away from zero; a shift of 0 changes nothing", "N-7", flags, "int64", **given
    )
    wide = np.array([(1 << 61) + 1, -(1 << 61) - 1, HIGH32, LOW32, 1 << 33, -(1 << 33), -(1 << 33) - 1])
    given = {"value": ("int64", wide), "shift": ("int32", [62, 62, 31, 31, 34, 34, 34])}
    comment = "values beyond 32 bits and shifts of 31 and more"
    yield scalar(name, "wide", comment, "N-7", "narrow_accumulator", "int64", **given)
    name = "doubling_high_half_up"
    a = [ONE, -ONE, -ONE - 1, -ONE + 1, 3 * ONE // 2, -3, 5, LOW32, LOW32, HIGH32, HIGH32, LOW32, 0, -1]
    b = [1, 1, 1, 1, 1, ONE, ONE, LOW32, HIGH32, HIGH32, LOW32, 1, LOW32, LOW32]
    given = {"a": ("int32", a), "b": ("int32", b)}
    comment = "ties of both signs go up, not away from zero; the one product that does not fit saturates"
    flags = "tie_away tie_half_even truncation saturation_high"
    yield scalar(name, "ties", comment, "N-8", f"{flags}", "int64", **given)
    source = Integers(90)
    given = {"a": ("int32", source.between(LOW32, HIGH32, 32)), "b": ("int32", source.between(ONE, HIGH32, 32))}
    comment = "accumulators and multipliers at random"
    yield scalar(name, "random", comment, "N-8", "truncation", "int64", seed=90, **given)


def _laws() -> Iterator[Case]:
    form = Format("int8", 1.0, -3)
    double, single = "G-6 N-7 N-8 N-4", "G-7 N-2 N-4"
    acc = [*range(-20, 21), 500, -500]
    total, m, n = [0, 0, 3], [ONE, ONE, 3 * (ONE // 2)], [31, 32, 33]
    comment = "ties of both signs: up in the product, away from zero in the shift, two roundings that are not one"
    flags = "tie_away single_rounding floor_for_round zero_point_sign"
    rq = scaled("double", total, m, n, form)
    yield requantized("double_ties", comment, f"{double} E-10", flags, "int8", rq, acc)
    comment = "the same accumulators in one rounding, half up"
    flags = "tie_half_even double_rounding floor_for_round"
    yield requantized("single_ties", comment, single, flags, "int8", scaled("single", total, m, n, form), acc)
    comment = "ratios above 1: the value is shifted left first, to the ends of 32 bits"
    rq = scaled("double", [0, 100], [ONE + 12345, HIGH32], [27, 29], Format("int16", 1.0, 0))
    acc = [0, 1, -1, 7, -100, 2000, -2048, 5000, (1 << 27) - 200, -(1 << 27) + 200]
    rules = f"{double} O-1 E-10"
    yield requantized("double_left", comment, rules, "narrow_accumulator channel_constants", "int16", rq, acc)
    comment = "a fused ReLU bounds by 0 before the zero point is added, in the double law"
    rq = scaled("double", [40, -40], [1431655765, 1900000000], [34, 36], form, relu=True)
    acc = [-400, -41, -40, -39, 0, 39, 40, 41, 200, 900, 5000]
    yield requantized("double_relu", comment, double, "relu_before_zero_point channel_constants", "int8", rq, acc)
    source = Integers(91)
    acc = [int(v) for v in source.between(-60000, 60000, 40)]
    m, n = source.between(ONE, HIGH32, 3), np.array([38, 39, 41])
    for law, rules in (("double", double), ("single", single)):
        comment = f"accumulators at random, {law} rounding"
        flags = "floor_for_round"
        yield requantized(f"{law}_random", comment, rules, flags, "int8", scaled(law, [5, -700, 0], m, n, form), acc, 91)
    comment = "the 15-bit multipliers of 16-bit activations: sums of 31 bits, one rounding in 64 bits"
    rq = scaled("single", [0, 12345], [32767, 16384], [31, 26], Format("int16", 1.0, 0))
    acc = [HIGH32 - 20000, LOW32, 1 << 30, 0, -(1 << 25), (1 << 25) - 1, 65536, -65536]
    yield requantized("single_16", comment, single, "double_rounding", "int16", rq, acc)


def _tables() -> Iterator[Case]:
    steps = np.arange(0x3C00, 0x4110, 41)  # from 2^-7 to 9, in both signs
    pattern = np.concatenate([SPECIAL, steps, steps + 0x8000]).astype(np.uint16)
    for variant, rule in (("sdk_fast", "T-5"), ("sdk_table", "T-6")):
        for function in ("sigmoid", "tanh"):
            comment = f"{function} of the variant {variant}: special values and a walk through both signs"
            flags = "approximated_function bf16_nan_canonical" + (" signed_zero" if rule == "T-6" else "")
            given = {"pattern": ("bf16", pattern)}
            outputs = {"y": ("bf16", pattern.shape)}
            yield directed(
                "activation_variant", f"{variant}_{function}", comment, rule, flags, given, (variant, function), outputs
            )
    for variant in ("sdk_fast", "sdk_table"):
        given = {"scale": ("f64", [0.05]), "zero_point": ("int32", [-10])}
        constants = (variant, "tanh", 8, 8, 2.0**-7, 0)
        comment = f"codes through the BF16 table of {variant}: every code is rounded to BF16 first"
        flags, outputs = "approximated_function", {"y": ("int8", (256,))}
        yield directed("device_code_table", f"{variant}_tanh", comment, "T-7", flags, given, constants, outputs)


def _formats() -> Iterator[Case]:
    low = np.array([-1.0, -0.5, 0.0, -127.0, 0.0, -3.0, -1e-20])
    high = np.array([3.0, 0.25, 127.0, 0.0, 0.0, 3.0, 1e-20])
    for bits, power in ((8, True), (8, False), (16, False)):
        kind = "the next power of two" if power else "the exact quotient"
        comment = f"{bits} bits, zero point 0, {kind}: either side may be the larger, an empty range has its own"
        given = {"low": ("f64", low), "high": ("f64", high)}
        outputs = {"scale": ("f64", low.shape)}
        what = f"{'power' if power else 'plain'}_{bits}"
        flags = "zero_point_sign range_without_zero"
        yield directed("symmetric_format", what, comment, "Q-12", flags, given, (bits, power), outputs)
    rows = np.array([ROW, [0.9, 0.0, -0.3, 0.01], [0.0, 0.0, 0.0, 0.0]], np.float32)
    for what, comment, smallest in (
        ("layer", "one scale for all channels, a power of two; a dead channel takes it too", [0.0, 0.0, 0.0]),
        ("smallest", "a channel that needs a larger scale raises the layer's", [0.0, 0.011, 0.0]),
    ):
        given = {"weight": ("f32", rows), "smallest": ("f64", np.array(smallest))}
        outputs = {"codes": ("int8", rows.shape), "scale": ("f64", (1,))}
        yield directed("quantize_layer", what, comment, "Q-13", "channel_constants dead_channel", given, (), outputs)


def _multipliers() -> Iterator[Case]:
    ratios = np.array(
        [0.0123, 0.5, 1.0, 0.9999999999, 0.999999999999, 0.99999, 3.0e-8, 1.0e-12, 2.0**-32, 2.0**-33, 1.7, 100.0, 0.7499999]
    )
    for reduced in (False, True):
        comment = (
            "15 bits: rounded from 31, the top held" if reduced else "31 bits: a mantissa that rounds up, and ratios too small"
        )
        given = {"ratio": ("f64", ratios)}
        outputs = {"multiplier": ("int32", ratios.shape), "shift": ("int32", ratios.shape)}
        what = "15_bits" if reduced else "31_bits"
        yield directed("long_multiplier", what, comment, "G-8", "multiplier_search", given, (reduced,), outputs)


def _layer(what: str, comment: str, rules: str, flags: str, x: Range, y: Range, kinds: Sequence[str], profile: str) -> Case:
    bias = np.array([0.05, -0.4, 0.0004], np.float32)
    rows = np.array(ROWS, np.float32)
    names = {"weight": ("f32", rows), "bias": ("f32", bias), "x_range": ("f64", np.array(x)), "y_range": ("f64", np.array(y))}
    shape = (len(rows),)
    outputs: dict[str, Any] = {
        "codes": ("int8", rows.shape),
        **{name: ("int32", shape) for name in ("total", "multiplier")},
        "addend": ("int64", shape),
        "shift": ("int32", shape),
        "scale": ("f32", shape),
        "bounds": ("int64", (4,)),
        "proof": ("int64", (4,)),
    }
    return directed("lower_layer", what, comment, rules, flags, names, (*kinds, False, profile), outputs, profile=profile)


def _layers() -> Iterator[Case]:
    x, y, eight, wide = (-1.0, 3.0), (-0.8, 1.7), ("int8", "int8"), ("int16", "int16")
    rules = "Q-3 Q-2 Q-1 G-6 G-8 G-5 O-1"
    flags = "multiplier_search zero_point_sign channel_constants"
    yield _layer("tflite_double", "no output zero point in the total", rules, flags, x, y, eight, "tflite_double")
    rules, comment = "Q-3 Q-2 Q-12 G-7 G-8 G-5 O-1", "15-bit multipliers and zero points of 0"
    yield _layer("tflite_16x8", comment, rules, "multiplier_search zero_point_sign", x, y, wide, "tflite_single")
    rules = "Q-3 Q-13 Q-12 G-9 G-2 G-5 O-1"
    flags = "multiplier_search bias_dropped channel_constants"
    comment = "one power-of-two scale, the bias in steps of 128, a shift for a multiplier"
    yield _layer("max78002", comment, rules, flags, x, y, eight, "max78002")
    rules = "Q-3 Q-2 Q-1 G-2 G-1 G-5 O-1"
    comment = "no rounding constant in the addend: the law floors"
    yield _layer("ne16_rtl", comment, rules, "floor_for_round", x, y, eight, "ne16_rtl")


def _element_by_element() -> Iterator[Case]:
    a, b, y = (-1.0, 3.0), (-0.5, 0.4), (-1.3, 3.1)
    ranges = {f"{name}_range": ("f64", np.array(pair)) for name, pair in zip("aby", (a, b, y), strict=True)}
    for kind in ("int8", "int16"):
        outputs = {"constants": ("int64", (13,)), "swapped": ("int64", (1,))}
        rules = f"E-10 G-8 G-5 O-1 {'Q-1' if kind == 'int8' else 'Q-12'}"
        comment = f"{kind}: both operands to twice the larger scale, shifted left by {20 if kind == 'int8' else 15} first"
        flags = "residual_order narrow_accumulator multiplier_search"
        constants = (kind, kind, kind, "tflite_single")
        yield directed(
            "lower_add", f"scaled_{kind}", comment, rules, flags, ranges, constants, outputs, profile="tflite_single"
        )
    outputs = {"constants": ("int64", (8,))}
    comment = "one 31-bit multiplier for the product of both scales over the output's"
    flags = "multiplier_search zero_point_sign"
    for profile in ("tflite_double", "tflite_single"):
        rules = "E-11 G-8 G-5 O-1 Q-1"
        text = f"{comment}, law of {profile}"
        yield directed("lower_multiply_scaled", profile, text, rules, flags, ranges, (profile,), outputs, profile=profile)
    given = {"x_range": ranges["a_range"]}
    for source, target in (("int8", "int16"), ("int16", "int8")):
        rules = "Q-11 G-8 G-5 O-1 Q-1 Q-12"
        comment = f"{source} to {target}: one range, another width, a zero point on one side only"
        constants = (source, target, "tflite_double")
        what = f"{source}_to_{target}"
        yield directed("lower_convert_scaled", what, comment, rules, flags, given, constants, outputs, profile="tflite_double")
