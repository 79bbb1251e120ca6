"""Operators level: element by element, and conversions between formats (E, Q-4 to Q-8, B-1, B-2, F-5 to F-8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, chain, directed, f32
from golden_vectors.suite.numerics import SPECIAL
from golden_vectors.suite.searches import reciprocal_differs
from refimpl.numerics.tables import SIGMOID, TANH, code_table, shipped
from refimpl.program import Format

UNIT = Format("int8", 2.0**-5, 0)
WIDE = Format("int16", 2.0**-12, 0)


def cases() -> Iterator[Case]:
    yield from _two_stage()
    yield from _joint()
    yield from _multiply()
    yield from _lookup()
    yield from _bf16()
    yield from _f32()
    yield from _activate()
    yield from _quantize()
    yield from _dequantize()
    yield from _between_codes()
    yield from _plain_floats()
    yield from _from_block()
    yield from _to_block()


def pairwise(
    operator: str,
    what: str,
    comment: str,
    rules: str,
    flags: str,
    a: tuple[Format | str, Any],
    b: tuple[Format | str, Any],
    constants: tuple[Any, ...],
    out: Format | str,
    seed: int | None = None,
) -> Case:
    """An operator of two tensors of one shape; flat values become [1, 1, n]."""
    first, second = _frames(a[1]), _frames(b[1])
    names = ("large", "other") if operator == "add_two_stage" else ("a", "b")
    given = {names[0]: (a[0], first), names[1]: (b[0], second)}
    return directed(operator, what, comment, rules, flags, given, constants, {"y": (out, first.shape)}, seed=seed)


def single(
    operator: str,
    what: str,
    comment: str,
    rules: str,
    flags: str,
    form: Format | str,
    values: Any,
    constants: tuple[Any, ...],
    out: Format | str,
    seed: int | None = None,
) -> Case:
    """An operator of one tensor; flat values become [1, 1, n]."""
    x = _frames(values)
    return directed(operator, what, comment, rules, flags, {"x": (form, x)}, constants, {"y": (out, x.shape)}, seed=seed)


def _frames(values: Any) -> Array:
    array: Array = np.asarray(values)
    return array.reshape(1, 1, -1) if array.ndim == 1 else array


# -- additions and products of codes (E-1 to E-3) -----------------------------------------------------------------------


def _grid(low: Any, high: Any) -> tuple[Array, Array]:
    return np.repeat(np.asarray(low), len(high)), np.tile(np.asarray(high), len(low))


def _two_stage() -> Iterator[Case]:
    name, rules = "add_two_stage", "E-1 N-2 N-4"
    ends = [-128, -127, -65, -64, -1, 0, 1, 63, 64, 126, 127]
    a, b = _grid(ends, ends)
    comment = "two roundings, each with ties: one rounding, or ties to even, give other codes"
    flags = "single_rounding tie_half_even tie_away floor_for_round"
    yield pairwise(name, "ties", comment, rules, flags, (UNIT, a), (UNIT, b), (3, 1, 1, 1, -64), UNIT)
    comment = "no shift at either stage: no rounding constant, and both ends of the output"
    flags = "shift_zero saturation_high saturation_low wraparound unsigned_confusion"
    yield pairwise(name, "no_shift", comment, rules, flags, (UNIT, a), (UNIT, b), (1, 0, 1, 0, -128), UNIT)
    comment = "a multiplier of a thousand without a shift, as a large ratio of scales gives"
    flags = "narrow_accumulator residual_order"
    yield pairwise(name, "large_multiplier", comment, rules, flags, (UNIT, a), (UNIT, b), (1000, 0, 131, 17, 0), UNIT)
    comment = "the first operand alone is multiplied in the first stage; the zero points are only in the bias"
    flags = "residual_order zero_point_sign zero_point_order unsigned_confusion"
    forms = Format("int8", 4 / 255, -64), Format("int8", 0.9 / 255, 14), Format("int8", 4.4 / 255, -53)
    yield pairwise(name, "zero_points", comment, rules, flags, (forms[0], a), (forms[1], b), (71, 4, 209, 10, -12), forms[2])
    for what, bias, end in (("bias_negative", -300, "low"), ("bias_positive", 200, "high")):
        flags = f"saturation_{end} wraparound narrow_accumulator"
        text = f"a bias of {bias}, which is more than a signed byte, as zero points at opposite ends give"
        yield pairwise(name, what, text, rules, flags, (UNIT, a), (UNIT, b), (255, 7, 255, 8, bias), UNIT)
    source = Integers(50)
    a, b = source.between(-128, 127, (2, 2, 3, 8))
    comment = "codes at random in two frames"
    yield pairwise(name, "random", comment, rules, "floor_for_round", (UNIT, a), (UNIT, b), (71, 4, 209, 10, -12), UNIT, 50)


def _joint() -> Iterator[Case]:
    name, rules = "add_joint", "E-2 N-2 N-4"
    a = np.repeat(np.arange(-6, 7), 3)
    b = np.tile([-1, 0, 1], 13)
    comment = "ties of both signs of one common shift, and zero plus zero is zero"
    flags = "tie_half_even tie_away floor_for_round"
    yield pairwise(name, "ties", comment, rules, flags, (UNIT, a), (WIDE, b), (0, 0, 2, 1, 2, 0, -128, 127), UNIT)
    comment = "two halves that each round up make one, not two"
    half = ([3, 1, -1, -3, 5], [1, 1, -1, 1, -5])
    yield pairwise(
        name,
        "one_rounding",
        comment,
        rules,
        "double_rounding",
        (UNIT, half[0]),
        (WIDE, half[1]),
        (0, 0, 1, 1, 1, 0, -128, 127),
        UNIT,
    )
    fa, fb, fy = Format("int8", 4 / 255, -64), Format("int16", 0.9 / 65535, 3640), Format("int8", 4.4 / 255, -53)
    a, b = _grid([-128, -64, 0, 127], [-32768, 3640, 3641, 32767, 0])
    constants = (-64, 3640, 7626007, 6676, 23, -53, -128, 127)
    comment = "three zero points, one of 16 bits: each belongs to its operand and the output's comes last"
    flags = "zero_point_sign zero_point_order residual_order saturation_low narrow_accumulator"
    yield pairwise(name, "zero_points", comment, rules, flags, (fa, a), (fb, b), constants, fy)
    wide_y = Format("int16", 4.4 / 65535, -13405)
    fa = Format("int16", 4 / 65535, -16384)
    a, b = _grid([-32768, -16384, -16383, 32767], [-32768, 3640, 32767])
    constants = (-16384, 3640, 29789, 6703, 15, -13405, -32768, 32767)
    comment = "int16 throughout: sums of 31 bits, both ends of the output"
    flags = "narrow_accumulator saturation_low saturation_high wraparound"
    yield pairwise(name, "int16", comment, rules, flags, (fa, a), (fb, b), constants, wide_y)
    source = Integers(51)
    a, b = source.between(-128, 127, (2, 3, 5)), source.between(-32768, 32767, (2, 3, 5))
    constants = (-64, 3640, 7626007, 6676, 23, -53, -128, 127)
    fa = Format("int8", 4 / 255, -64)
    yield pairwise(name, "random", "codes at random", rules, "floor_for_round", (fa, a), (fb, b), constants, fy, 51)
    comment = "a shift of 0: no rounding constant"
    yield pairwise(
        name,
        "no_shift",
        comment,
        rules,
        "shift_zero",
        (UNIT, [0, 1, -1]),
        (UNIT, [1, 1, -1]),
        (0, 0, 3, 5, 0, 7, -128, 127),
        UNIT,
    )


def _multiply() -> Iterator[Case]:
    name, rules = "multiply", "E-3 N-2 N-4"
    a, b = _grid([-5, -3, -1, 0, 1, 3, 5], [-3, -1, 1, 3])
    comment = "products of both signs at ties"
    flags = "tie_half_even tie_away floor_for_round truncation"
    yield pairwise(name, "ties", comment, rules, flags, (UNIT, a), (UNIT, b), (0, 0, 1, 1, 0, -128, 127), UNIT)
    fa, fb = Format("int8", 1 / 255, -128), Format("int8", 2 / 255, 127)
    a, b = _grid([-128, -127, 0, 126, 127], [-128, -127, 0, 126, 127])
    comment = "zero points at both ends: factors of 9 bits and the largest product"
    flags = "zero_point_sign zero_point_order narrow_accumulator unsigned_confusion"
    constants = (-128, 127, 32897, 23, 127, -128, 127)
    yield pairwise(name, "zero_points", comment, rules, flags, (fa, a), (fb, b), constants, Format("int8", 2 / 255, 127))
    a, b = _grid([-128, -127, -1, 0, 127], [-128, 0, 1, 127])
    comment = "the square of -128 and both ends of the output"
    flags = "saturation_high saturation_low wraparound"
    yield pairwise(name, "saturation", comment, rules, flags, (UNIT, a), (UNIT, b), (0, 0, 65794, 23, 3, -128, 127), UNIT)
    source = Integers(52)
    x, past = source.between(-128, 127, (3, 2, 4)), source.between(-128, 127, (1, 2, 4))
    f = source.between(-128, 127, (3, 2, 4))
    comment = "the second factor is of the frame before: the forget gate times the old cell state"
    form = Format("int8", 2.0**-5, 9)
    given: dict[str, tuple[Format | str, Array]] = {"a": (Format("int8", 1 / 255, -128), f), "b": (form, x)}
    constants = (-128, 9, 32897, 23, 9, -128, 127)
    flags = "stale_state frame_off_by_one"
    state = {"b": (1, False, past)}
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": (form, (3, 2, 4))}
    yield directed(name, "previous_frame", comment, f"{rules} P-1", flags, given, constants, outputs, state, 52)


# -- tables (E-4) -------------------------------------------------------------------------------------------------------


def _lookup() -> Iterator[Case]:
    form, out = Format("int8", 0.05, -10), Format("int8", 2.0**-8, -128)
    table = code_table(SIGMOID, 8, 0.05, -10, 8, 2.0**-8, -128)
    codes = np.arange(-128, 128)
    comment = "every code: the table begins at the lowest code, not at 0"
    flags = "table_index_sign"
    yield single("lookup", "all_codes", comment, "E-4 T-4", flags, form, codes, (table, -128, 0), out)
    numbered = np.arange(-128, 128).astype(np.int8)
    x = np.arange(32).reshape(2, 2, 8)
    for start in (0, 2, 6):
        comment = f"two channels from channel {start} on: which gate is read"
        given = {"x": (UNIT, x)}
        outputs = {"y": (UNIT, (2, 2, 2))}
        constants = (numbered, -128, start)
        yield directed("lookup", f"start_{start}", comment, "E-4", "gate_order", given, constants, outputs)
    for name, flags in (("sigmoid", "table_index_sign"), ("tanh", "table_index_sign signed_zero")):
        x = np.concatenate([SPECIAL, [0x3F00, 0x4100, 0xC100, 0xC2BA, 0xC2B9, 0xBF00, 0x3E80, 0x4049]])
        comment = f"{name} of BF16 patterns, which are unsigned: negative values are in the upper half of the table"
        constants = (shipped(f"{name}_bf16"), 0, 0)
        yield single("lookup", f"{name}_bf16", comment, "E-4 B-6", f"{flags} bf16_nan_canonical", "bf16", x, constants, "bf16")
    wide, wide_out = Format("int16", 2.0**-12, 100), Format("int16", 2.0**-15, 0)
    table = code_table(TANH, 16, 2.0**-12, 100, 16, 2.0**-15, 0)
    x = np.array([-32768, -32767, -1, 0, 1, 100, 101, 32766, 32767, 4196, -3996])
    comment = "16-bit codes: both ends of 65,536 entries"
    yield single("lookup", "tanh_int16", comment, "E-4 T-4", "table_index_sign", wide, x, (table, -32768, 0), wide_out)


# -- BF16 and FP32 (E-5 to E-9) -----------------------------------------------------------------------------------------


def _some_pairs() -> tuple[Array, Array]:
    """Pairs of special values that matter most; the numerics level has all of them."""
    a = [
        0x0000,
        0x8000,
        0x0000,
        0x8000,
        0x3F80,
        0x3F81,
        0x3F80,
        0x7F7F,
        0xFF7F,
        0x7F80,
        0x7F80,
        0x7FC1,
        0x0001,
        0x0080,
        0x8001,
        0x0000,
    ]
    b = [
        0x0000,
        0x8000,
        0x8000,
        0x0000,
        0x3B80,
        0x3B80,
        0xBF80,
        0x7B80,
        0xFB00,
        0xFF80,
        0xFF7F,
        0x0000,
        0x0001,
        0x8001,
        0x3F00,
        0xFF80,
    ]
    return np.array(a, np.uint16), np.array(b, np.uint16)


def _bf16() -> Iterator[Case]:
    a, b = _some_pairs()
    source = Integers(53)
    for name, rules in (("add_bf16", "E-5 B-3 B-1 B-2"), ("multiply_bf16", "E-6 B-4 B-1 B-2")):
        flags = "bf16_subnormal_flushed bf16_nan_canonical bf16_overflow signed_zero tie_half_up"
        comment = "signed zeros, subnormals, ties, overflow, infinities and NaN"
        yield pairwise(name, "special", comment, rules, flags, ("bf16", a), ("bf16", b), (), "bf16")
        x = source.between(0, 65535, (2, 2, 3, 8))
        comment = "any patterns, in two frames"
        yield pairwise(name, "random", comment, rules, "truncation", ("bf16", x[0]), ("bf16", x[1]), (), "bf16", 53)
    x, past, f = (source.between(0x3F00, 0x3FFF, (n, 2, 3)) for n in (3, 1, 3))
    comment = "the second factor is of the frame before"
    given: dict[str, tuple[Format | str, Array]] = {"a": ("bf16", f), "b": ("bf16", x)}
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": ("bf16", (3, 2, 3))}
    state = {"b": (1, False, past)}
    rules, flags = "E-6 B-4 B-1 B-2 P-1", "stale_state frame_off_by_one"
    yield directed("multiply_bf16", "previous_frame", comment, rules, flags, given, (), outputs, state, 53)
    sign = source.between(0, 1, (4, 1, 2, 16)) << 15
    patterns = sign | (source.between(122, 127, (4, 1, 2, 16)) << 7) | source.between(0, 127, (4, 1, 2, 16))
    inputs = {name: ("bf16", values) for name, values in zip("fcig", patterns, strict=True)}
    shape = {"fc": ("bf16", (1, 2, 16))}, {"ig": ("bf16", (1, 2, 16))}, {"y": ("bf16", (1, 2, 16))}
    calls = (
        ("multiply_bf16", ("f", "c"), (), shape[0]),
        ("multiply_bf16", ("i", "g"), (), shape[1]),
        ("add_bf16", ("fc", "ig"), (), shape[2]),
    )
    comment = "f * c + i * g with a rounding after each of three operations: a fused multiply-add gives other bits"
    rules, flags = "E-5 E-6 B-1 B-2 B-3 B-4", "fused_multiply_add float_width"
    yield chain("operators/add_bf16/sum_of_products", comment, rules, flags, inputs, calls, 53)


SPECIAL_F32 = [
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x3F800001, 0x33800000,
    0x33800001, 0x4B800000, 0xCB800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x73800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F000000,
]  # fmt: skip


def _f32() -> Iterator[Case]:
    a, b = _grid(f32(SPECIAL_F32), f32(SPECIAL_F32))
    source = Integers(54)
    for name, rule in (("add_f32", "E-7"), ("multiply_f32", "E-8")):
        comment = "all pairs of special values: signed zeros, subnormals, ties, overflow, infinities and NaN"
        flags = "subnormal_flushed signed_zero float_width"
        yield pairwise(name, "special_pairs", comment, rule, flags, ("f32", a), ("f32", b), (), "f32")
        x = source.fractions((2, 2, 3, 4), 3.0)
        yield pairwise(
            name, "random", "values at random, in two frames", rule, "float_width", ("f32", x[0]), ("f32", x[1]), (), "f32", 54
        )
    inputs = {name: ("f32", source.fractions((1, 2, 8), 2.0)) for name in "fcig"}
    shape = {"fc": ("f32", (1, 2, 8))}, {"ig": ("f32", (1, 2, 8))}, {"y": ("f32", (1, 2, 8))}
    calls = (
        ("multiply_f32", ("f", "c"), (), shape[0]),
        ("multiply_f32", ("i", "g"), (), shape[1]),
        ("add_f32", ("fc", "ig"), (), shape[2]),
    )
    comment = "f * c + i * g with a rounding after each of three operations"
    yield chain("operators/add_f32/sum_of_products", comment, "E-7 E-8", "fused_multiply_add", inputs, calls, 54)
    x, past, f = (source.fractions((n, 2, 3)) for n in (3, 1, 3))
    given: dict[str, tuple[Format | str, Array]] = {"a": ("f32", f), "b": ("f32", x)}
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": ("f32", (3, 2, 3))}
    state = {"b": (1, False, past)}
    comment, flags = "the second factor is of the frame before", "stale_state frame_off_by_one"
    yield directed("multiply_f32", "previous_frame", comment, "E-8 P-1", flags, given, (), outputs, state, 54)


def _activate() -> Iterator[Case]:
    patterns = [*SPECIAL_F32, 0x3D000000, 0x3CFFFFFF, 0xBD000000, 0x42AF0000, 0xC2AF0000, 0xC2D00000, 0xC42F0000, 0xC42F2000]
    x = f32(patterns)
    source = Integers(55)
    for name, function, rule in (("sigmoid", SIGMOID, "T-2"), ("tanh", TANH, "T-3")):
        comment = f"{name} of special values, at the change of branch, and far out where results are subnormal or saturate"
        rules, flags = f"E-9 {rule} T-1", "signed_zero subnormal_flushed nan_to_integer"
        yield single("activate_f32", f"{name}_special", comment, rules, flags, "f32", x, (function, 0), "f32")
        values = source.fractions((2, 2, 8), 6.0)
        comment = f"{name} at random from channel 4 on: which gate is read, and every last bit"
        given, outputs = {"x": ("f32", values)}, {"y": ("f32", (2, 2, 4))}
        flags = "approximated_function gate_order float_width"
        yield directed("activate_f32", f"{name}_start_4", comment, rules, flags, given, (function, 4), outputs, seed=55)


# -- conversions (Q-4 to Q-8, B-1, B-2) ---------------------------------------------------------------------------------


def _quantize() -> Iterator[Case]:
    halves = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0, -0.0, 126.5, 127.0, 127.5, 128.0, -127.5, -128.0, -128.5, -129.0, 1e9, -1e9]
    )
    ends = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38])
    for name, kind, rules in (("quantize_f32", "f32", "Q-4 N-6"), ("quantize_bf16", "bf16", "Q-5 N-6 B-2")):
        for zero in (0, -128, 127, 5):
            values = np.concatenate([halves, halves - zero, ends]).astype(np.float32)
            x = values if kind == "f32" else (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            comment = f"zero point {zero}: ties before it is added, both bounds, NaN gives the zero point"
            flags = "tie_half_up tie_away zero_point_order zero_point_sign saturation_high saturation_low nan_to_integer"
            out = Format("int8", 1.0, zero)
            yield single(name, f"zero_point_{zero}", comment, rules, flags, kind, x, (np.float32(1.0), zero, -128, 127), out)
        for bits in (8, 16):
            kind_out, half = f"int{bits}", 1 << (bits - 1)
            scale, zero = 4.4 / ((1 << bits) - 1), -half // 2
            source = Integers(56)
            values = source.fractions((2, 3, 4), 2.3) + np.float32(1.1)
            x = values if kind == "f32" else (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            comment = f"{bits} bits at random in two frames"
            constants = (np.float32(1.0 / scale), zero, -half, half - 1)
            flags = "floor_for_round truncation"
            yield single(name, f"random_{bits}", comment, rules, flags, kind, x, constants, Format(kind_out, scale, zero), 56)
    scale, found = 0.1, reciprocal_differs(0.1)
    comment = "values where the product with the FP32 reciprocal is a code away from the division by the scale"
    constants = (np.float32(1.0 / scale), 0, -128, 127)
    yield single(
        "quantize_f32", "reciprocal", comment, "Q-4 N-6", "reciprocal", "f32", found, constants, Format("int8", scale, 0)
    )


def _dequantize() -> Iterator[Case]:
    for name, kind, rules in (("dequantize_f32", "f32", "Q-6"), ("dequantize_bf16", "bf16", "Q-7 B-1")):
        for zero in (0, -128, 127, -3):
            comment = f"zero point {zero}: it is exact and +0, the differences have 9 bits"
            form = Format("int8", 0.1, zero)
            codes: Any = [-128, -127, -3, -2, -4, -1, 0, 1, 7, 126, 127]
            flags = "zero_point_sign signed_zero unsigned_confusion"
            yield single(name, f"zero_point_{zero}", comment, rules, flags, form, codes, (np.float32(0.1), zero), kind)
        form = Format("int16", 4.4 / 65535, -16384)
        codes = [-32768, -16385, -16384, -16383, -1, 0, 1, 32767, 12345, -20000]
        comment = "int16 codes: differences of 17 bits, exact in FP32"
        flags = "narrow_accumulator zero_point_sign"
        yield single(name, "int16", comment, rules, flags, form, codes, (np.float32(form.scale), -16384), kind)
    scale = np.float32(4.4 / 65535)
    difference = np.arange(1, 32768).astype(np.float32)
    exact = difference.astype(np.float64) * np.float64(scale)
    ulp = 2.0 ** (np.frexp(exact)[1] - 8)
    apart = np.flatnonzero(np.rint((difference * scale) / ulp) != np.rint(exact / ulp)) + 1
    near = np.abs(exact / ulp - np.floor(exact / ulp) - 0.5).argsort()[:16] + 1
    codes = np.concatenate([apart[:16], near, -near])
    comment = "products next to ties of BF16: the product is rounded to FP32 first"
    form, constants = Format("int16", float(scale), 0), (scale, 0)
    flags = "truncation tie_half_up" + (" single_rounding" if len(apart) else "")
    yield single("dequantize_bf16", "two_roundings", comment, "Q-7 B-1", flags, form, codes, constants, "bf16")


def _between_codes() -> Iterator[Case]:
    name, rules = "requantize_codes", "Q-8 N-2 N-4"
    narrow, wide = Format("int8", 4 / 255, -64), Format("int16", 4 / 65535, -16384)
    codes: Any = [-128, -127, -65, -64, -63, -1, 0, 1, 126, 127]
    comment = "8 to 16 bits: 257 steps a code, the zero point exact"
    flags = "zero_point_order zero_point_sign narrow_accumulator saturation_high"
    yield single(name, "widen", comment, rules, flags, narrow, codes, (-64, 8421376, 15, -16384, -32768, 32767), wide)
    codes = [
        -32768,
        -32767,
        -16384,
        -16385,
        -16383,
        -16255,
        -16256,
        -16257,
        -16512,
        -16513,
        -16511,
        0,
        1,
        -1,
        32766,
        32767,
        30000,
    ]
    comment = "16 to 8 bits: next to the ties, both ends"
    flags = "floor_for_round zero_point_order zero_point_sign"
    yield single(name, "narrow", comment, rules, flags, wide, codes, (-16384, 32640, 23, -64, -128, 127), narrow)
    steps = np.arange(-24, 25)
    comment = "a multiplier of 1 and a shift of 3: ties of both signs"
    flags = "tie_half_even tie_away floor_for_round truncation"
    form = Format("int16", 1.0, 0)
    yield single(name, "ties", comment, rules, flags, form, steps, (0, 1, 3, 2, -128, 127), Format("int8", 8.0, 2))
    comment = "an output range smaller than the input's saturates at both ends"
    codes = [-32768, -1000, -517, -516, -515, -514, -513, 0, 500, 506, 507, 508, 509, 510, 32767]
    flags = "saturation_high saturation_low wraparound"
    yield single(name, "saturation", comment, rules, flags, form, codes, (0, 1, 2, 0, -128, 127), Format("int8", 4.0, 0))


def _plain_floats() -> Iterator[Case]:
    patterns = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7F7FFF, 0x7F7F8000, 0x00008000, 0x00018000, 0x80000001]
    patterns += [0x007FC000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001, 0x80000000, 0xBF808000, 0xBF818000]
    flags = "tie_half_up tie_away truncation bf16_overflow bf16_subnormal_flushed bf16_nan_canonical signed_zero"
    comment = "ties of both parities, overflow, subnormals, NaN"
    yield single("narrow_bf16", "special", comment, "B-1", flags, "f32", f32(patterns), (), "bf16")
    values = Integers(57).fractions((2, 3, 4), 10.0)
    yield single("narrow_bf16", "random", "values at random", "B-1", "truncation", "f32", values, (), "bf16", 57)
    comment = "every kind of value, exactly"
    yield single(
        "widen_bf16", "special", comment, "B-2", "bf16_subnormal_flushed signed_zero endianness", "bf16", SPECIAL, (), "f32"
    )
    finite = Integers(58).between(0, 0x7F7F, (2, 3, 4))
    comment = "finite patterns at random"
    yield single("widen_bf16", "random", comment, "B-2", "endianness", "bf16", finite, (), "f32", 58)


# -- block fixed point (F-5 to F-8) -------------------------------------------------------------------------------------


def _from_block() -> Iterator[Case]:
    half = (257 << 21) + 1
    mantissa = np.array([0, 1, -1, 257, 259, -257, 511, half, -half, half - 2, 1 << 30, -(1 << 30), (1 << 30) - 1, -5439488])
    mantissa = np.tile(mantissa.reshape(1, 7, 2), (3, 1, 1))
    exponent = np.array([[0], [6], [14]])
    given: dict[str, tuple[Format | str, Array]] = {"mantissa": ("int32", mantissa), "exponent": ("int32", exponent)}
    comment = "three exponents, ties of both parities, and mantissas that FP32 would round first"
    flags = "block_exponent double_rounding tie_half_up tie_away truncation"
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": ("bf16", (3, 7, 2))}
    yield directed("block_to_bf16", "exponents", comment, "F-5 B-5 N-3", flags, given, (), outputs)
    random = {
        "mantissa": ("int32", Integers(59).between(-(1 << 30), 1 << 30, (2, 5, 2))),
        "exponent": ("int32", np.array([[3], [0]])),
    }
    comment = "mantissas at random, one exponent for each frame"
    outputs = {"y": ("bf16", (2, 5, 2))}
    yield directed("block_to_bf16", "random", comment, "F-5 B-5 N-3", "block_exponent truncation", random, (), outputs, seed=59)
    form = Format("int8", 0.2, -28)
    unit = 1 << 20
    ties = np.array(
        [unit, 3 * unit, 5 * unit, -unit, -3 * unit, unit + 1, unit - 1, -unit - 1, -unit + 1, 0, 2 * unit, 7 * unit]
    )
    given = {"mantissa": ("int32", ties.reshape(1, 6, 2)), "exponent": ("int32", np.array([[0]]))}
    comment = "ties of both signs go to even before the zero point is added"
    flags = "tie_half_up tie_away floor_for_round zero_point_order"
    outputs = {"y": (Format("int8", 0.5, -27), (1, 6, 2))}
    constants = (1 << 23, 44, -27, -128, 127)
    yield directed("block_to_code", "ties", comment, "F-6 N-3 N-4", flags, given, constants, outputs)
    wide = np.array([-54394880, 123456789, -(1 << 30), 1 << 30, 1, -1, 83886080, -83886081, 130023424, 129604000, -83466650, 0])
    given = {
        "mantissa": ("int32", np.tile(wide.reshape(1, 6, 2), (3, 1, 1))),
        "exponent": ("int32", np.array([[0], [1], [14]])),
    }
    comment = "products of 54 bits, three exponents and both ends of the output"
    flags = "narrow_accumulator block_exponent saturation_high saturation_low zero_point_sign"
    outputs = {"y": (form, (3, 6, 2))}
    yield directed("block_to_code", "exponents", comment, "F-6 N-3 N-4", flags, given, (10485760, 43, -28, -128, 127), outputs)
    source = Integers(60)
    values = source.between(-(1 << 29), 1 << 29, (2, 5, 2))
    given = {"mantissa": ("int32", values), "exponent": ("int32", np.array([[0], [5]]))}
    outputs = {"y": (Format("int16", 31 / 65535, 0), (2, 5, 2))}
    comment = "16-bit codes at random"
    constants = (8658649, 35, 0, -32768, 32767)
    yield directed("block_to_code", "int16", comment, "F-6 N-3 N-4", "narrow_accumulator", given, constants, outputs, seed=60)
    given = {"mantissa": ("int32", np.array([[[1 << 30, -(1 << 30)]]])), "exponent": ("int32", np.array([[14]]))}
    outputs = {"y": (Format("int8", 1e-3, 4), (1, 1, 2))}
    comment = "a shift of 63 and more gives the zero point"
    constants = ((1 << 24) - 1, 50, 4, -128, 127)
    yield directed("block_to_code", "shift_64", comment, "F-6 N-3 N-4", "shift_range", given, constants, outputs)


SPEAKERS = (np.array([0, 2]), np.array([1, 3]))
REAL_FIRST = (np.array([0, 1]), np.array([2, 3]))


def _to_block() -> Iterator[Case]:
    frames = np.array(
        [
            [[0x3F80, 0xBFC0, 0x4000, 0x8000], [0x0000, 0x7FC0, 0x3B80, 0xBB81], [0x3620, 0xB660, 0x0001, 0x3F81]],
            [[0x0000, 0x8000, 0x0001, 0x807F], [0x8000, 0x0000, 0x0080, 0x8081], [0x0000, 0x0000, 0x0000, 0x0002]],
            [[0x7F80, 0xFF80, 0x7F7F, 0x7FC0], [0x7F00, 0x7300, 0xFFFF, 0x7780], [0x3F80, 0x8001, 0x7F81, 0x7781]],
            [[0x7FC0, 0xFFC0, 0x4480, 0x3AC0], [0x7F81, 0x0000, 0x3AC1, 0xBAC0], [0x8000, 0x8000, 0x3B40, 0x3BC0]],
        ],
        np.uint16,
    )
    flags = "block_exponent bf16_subnormal_flushed nan_to_integer tie_half_up tie_away truncation"
    for what, (re, im), order in (("speaker_major", SPEAKERS, "re, im, re, im"), ("real_first", REAL_FIRST, "re, re, im, im")):
        comment = f"channels {order}; NaN counts as 0, infinity as the largest value, subnormal and all-zero frames, ties"
        outputs = {"mantissa": ("int32", (4, 2, 3, 2)), "exponent": ("int32", (4, 2))}
        given: dict[str, tuple[Format | str, Array]] = {"x": ("bf16", frames)}
        text = f"{flags} channel_order"
        yield directed("bf16_to_block", what, comment, "F-7 N-3 M-11", text, given, (re, im), outputs)
    source = Integers(61)
    pattern = (
        (source.between(0, 1, (2, 5, 4)) << 15) | (source.between(110, 130, (2, 5, 4)) << 7) | source.between(0, 127, (2, 5, 4))
    )
    comment = "values over twenty powers of two: half of them lose bits"
    outputs = {"mantissa": ("int32", (2, 2, 5, 2)), "exponent": ("int32", (2, 2))}
    given = {"x": ("bf16", pattern)}
    yield directed(
        "bf16_to_block", "random", comment, "F-7 N-3 M-11", "truncation tie_half_up", given, SPEAKERS, outputs, seed=61
    )
    for bits, shift, zero in ((8, 13, -7), (8, 13, 127), (16, 5, -32768), (16, 5, 1000)):
        half = 1 << (bits - 1)
        codes = np.array([-half, half - 1, 0, zero, zero - 1 if zero > -half else zero, 1, -1, half // 2]).reshape(1, 2, 4)
        form = Format(f"int{bits}", 0.01, zero)
        for what, (re, im) in (("", SPEAKERS), ("_real_first", REAL_FIRST)) if zero == -7 else (("", SPEAKERS),):
            comment = f"{bits} bits with zero point {zero}{what.replace('_', ' ')}: exact, exponent 0"
            outputs = {"mantissa": ("int32", (1, 2, 2, 2)), "exponent": ("int32", (1, 2))}
            given = {"x": (form, codes)}
            flags = "zero_point_sign channel_order unsigned_confusion"
            constants = (re, im, zero, shift)
            label = f"int{bits}_zero_point_{zero}{what}"
            yield directed("code_to_block", label, comment, "F-8 M-11", flags, given, constants, outputs)
