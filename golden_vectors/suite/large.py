"""The large suite, made on demand: exhaustive numerics, and every operator at the real network's sizes on random tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, directed, f32, folded, norm_twice, scalar, to_bf16
from refimpl.numerics.requantize import Requantizer
from refimpl.numerics.tables import SIGMOID, TANH, code_table, shipped
from refimpl.program import Format
from refimpl.quantization.lowering import analysis_window, synthesis_window

Given = dict[str, tuple[Format | str, Array]]
Made = dict[str, tuple[Format | str, tuple[int, ...]]]

FRAMES, BINS, CHANNELS = 8, 129, 32
CODE = Format("int8", 4 / 255, -64)
OTHER = Format("int8", 0.9 / 255, 14)
SUM = Format("int8", 4.4 / 255, -53)
WIDE = Format("int16", 4 / 65535, -16384)
PATTERNS = np.arange(1 << 16)
CODES_16 = np.arange(-(1 << 15), 1 << 15)


def cases() -> Iterator[Case]:
    yield from _bf16()
    yield from _accumulators()
    yield from _pairs_of_codes()
    yield from _conversions()
    yield from _layers()
    yield from _convolutions()
    yield from _compression()
    yield from _elementwise()
    yield from _transforms()


# -- exhaustive ---------------------------------------------------------------------------------------------------------


def _bf16() -> Iterator[Case]:
    comment = "every upper half of an FP32 word with six lower halves about the tie"
    words = ((PATTERNS << 16)[:, None] | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).reshape(-1)
    flags = "tie_half_up tie_away truncation exponent_carry bf16_overflow bf16_nan_canonical bf16_subnormal_flushed signed_zero"
    yield scalar("bf16_encode", "exhaustive", comment, "B-1", flags, "bf16", value=("f32", f32(words)))
    comment = "every pattern"
    flags = "bf16_subnormal_flushed signed_zero"
    yield scalar("bf16_decode", "exhaustive", comment, "B-2", flags, "f32", pattern=("bf16", PATTERNS))
    for seed, (name, rule) in enumerate((("bf16_add", "B-3"), ("bf16_mul", "B-4")), 200):
        a, b = Integers(seed).between(0, 65535, (2, 1 << 19))
        # Half of the sums with exponents so close that both operands matter.
        b[::2] = (a[::2] & 0x7F80) ^ (b[::2] & 0x83FF)
        given: dict[str, Any] = {"a": ("bf16", a), "b": ("bf16", b)}
        comment = "half a million pairs of any patterns"
        yield scalar(name, "large", comment, f"{rule} B-1 B-2", "truncation tie_half_up", "bf16", seed=seed, **given)
    source = Integers(202)
    mantissa = source.between(-(1 << 31), (1 << 31) - 1, 1 << 18) >> source.between(0, 30, 1 << 18)
    given = {"mantissa": ("int32", mantissa), "exponent": ("int32", source.between(-36, -22, 1 << 18))}
    comment = "mantissas of all widths with all exponents of a block"
    flags = "double_rounding tie_half_up exponent_carry"
    yield scalar("bf16_from_scaled", "large", comment, "B-5 N-3", flags, "bf16", seed=202, **given)


def _accumulators() -> Iterator[Case]:
    laws = {
        "folded": (folded([12000, 128 << 8, 0, 5000], [177, 1, 1, 255], [14, 8, 0, 13]), "int8", "G-2 N-1 N-4"),
        "twice": (norm_twice([0, 12345, -7, 99], [19, 255, 1, 101], [11, 24, 8, 9], WIDE, 8), "int16", "G-3 N-2 N-4"),
        "bf16": (to_bf16([0, 12345, -7, 99], f32([0x38D1B717, 0x3DCCCCCD, 0x37AAAAAB, 0x3F80FFFF])), "bf16", "Q-9 B-1"),
    }
    shown = {"folded": "floor_for_round", "twice": "single_rounding", "bf16": "single_rounding float_width"}
    for what, (rq, form, rules) in laws.items():
        given: dict[str, Any] = {
            "accumulator": ("int32", np.tile(CODES_16, 4)),
            "channel": ("int32", np.repeat(np.arange(4), 1 << 16)),
        }
        outputs: Made = {"y": (form, (1 << 18,))}
        comment = f"every accumulator of 16 bits through four channels of law {rules[:3]}"
        flags = f"{shown[what]} channel_constants"
        yield directed("requantize_accumulators", f"{what}_exhaustive", comment, rules, flags, given, (rq,), outputs)


def _pairs_of_codes() -> Iterator[Case]:
    a, b = (np.repeat(np.arange(-128, 128), 256), np.tile(np.arange(-128, 128), 256))
    two_stage = {
        "exhaustive": (71, 4, 209, 10, -12),
        "exhaustive_ties": (3, 1, 1, 1, -64),
        "exhaustive_large": (1000, 0, 131, 17, 0),
    }
    for what, constants in two_stage.items():
        given: Given = {"large": (CODE, a.reshape(1, 256, 256)), "other": (OTHER, b.reshape(1, 256, 256))}
        outputs: Made = {"y": (SUM, (1, 256, 256))}
        comment = f"every pair of 8-bit codes, constants {', '.join(map(str, constants))}"
        flags = "single_rounding tie_half_even residual_order"
        yield directed("add_two_stage", what, comment, "E-1 N-2 N-4", flags, given, constants, outputs)
    products = {"exhaustive": (-128, 0, 43862, 23, 0), "exhaustive_zero_points": (-128, 127, 32897, 23, 127)}
    for what, product in products.items():
        forms = Format("int8", 1 / 255, product[0]), Format("int8", 4 / 255, product[1]), Format("int8", 3 / 255, product[4])
        given = {"a": (forms[0], a.reshape(1, 256, 256)), "b": (forms[1], b.reshape(1, 256, 256))}
        outputs = {"y": (forms[2], (1, 256, 256))}
        comment = f"every pair of 8-bit codes, constants {', '.join(map(str, product))}"
        flags = "floor_for_round zero_point_sign tie_half_even"
        yield directed("multiply", what, comment, "E-3 N-2 N-4", flags, given, (*product, -128, 127), outputs)


def _conversions() -> Iterator[Case]:
    plane = (1, 256, 256)
    for scale, zero in ((4 / 255, -64), (2.0**-7, 0), (1 / 255, -128)):
        form = Format("int8", scale, zero)
        what = f"exhaustive_{zero}"
        comment = f"every BF16 pattern to 8 bits with zero point {zero}"
        flags = "tie_half_up nan_to_integer saturation_high saturation_low"
        constants: tuple[Any, ...] = (np.float32(1 / scale), zero, -128, 127)
        given: Given = {"x": ("bf16", PATTERNS.reshape(plane))}
        yield directed("quantize_bf16", what, comment, "Q-5 N-6 B-2", flags, given, constants, {"y": (form, plane)})
    codes: Given = {"x": (WIDE, CODES_16.reshape(plane))}
    comment = "every 16-bit code"
    constants = (np.float32(WIDE.scale), WIDE.zero_point)
    yield directed(
        "dequantize_bf16", "exhaustive", comment, "Q-7 B-1", "single_rounding", codes, constants, {"y": ("bf16", plane)}
    )
    yield directed("dequantize_f32", "exhaustive", comment, "Q-6", "float_width", codes, constants, {"y": ("f32", plane)})
    constants = (-16384, 32640, 23, -64, -128, 127)
    comment = "every 16-bit code to 8 bits"
    flags = "floor_for_round zero_point_order"
    made: Made = {"y": (CODE, plane)}
    yield directed("requantize_codes", "exhaustive", comment, "Q-8 N-2 N-4", flags, codes, constants, made)
    for function, name in ((SIGMOID, "sigmoid"), (TANH, "tanh")):
        table = code_table(function, 16, WIDE.scale, WIDE.zero_point, 16, 2.0**-15, 0)
        comment = f"every 16-bit code through a table of {name}"
        made = {"y": (Format("int16", 2.0**-15, 0), plane)}
        yield directed("lookup", f"{name}_exhaustive", comment, "E-4 T-4", "table_index_sign", codes, (table, -32768, 0), made)
        comment = f"{name} of every BF16 pattern as FP32"
        given = {"x": ("f32", f32(PATTERNS << 16).reshape(plane))}
        rules = f"E-9 {'T-2' if function == SIGMOID else 'T-3'} T-1"
        made = {"y": ("f32", plane)}
        flags = "approximated_function signed_zero"
        yield directed("activate_f32", f"{name}_exhaustive", comment, rules, flags, given, (function, 0), made)


# -- at the network's sizes ---------------------------------------------------------------------------------------------


def _constants(source: Integers, outputs: int, products: int) -> tuple[Array, Array, Array]:
    """Totals, multipliers and shifts that spread random sums of ``products`` over the output's codes."""
    multiplier = 2 * source.between(32, 127, outputs) + 1
    shift = source.between(0, 1, outputs) + 14 + (products - 1).bit_length() // 2
    return (128 << shift) // multiplier, multiplier, shift


def _layers() -> Iterator[Case]:
    source = Integers(210)
    shapes = {"frequency": (BINS, CHANNELS, BINS, "L-1"), "channels": (CHANNELS, BINS, 4 * CHANNELS, "L-2")}
    for axis, (products, others, outputs, rule) in shapes.items():
        swapped = axis == "channels"
        x = source.between(-128, 127, (FRAMES, products, others))
        weight = source.between(-127, 127, (outputs, products), np.int8)
        total, multiplier, shift = _constants(source, outputs, products)
        wide_total = -WIDE.zero_point * weight.astype(np.int64).sum(1)
        laws: dict[str, tuple[Format, Format | str, Requantizer, str]] = {
            "folded": (
                CODE,
                SUM,
                folded(total - CODE.zero_point * weight.astype(np.int64).sum(1), multiplier, shift),
                "G-2 N-1 N-4",
            ),
            "int16": (WIDE, WIDE, norm_twice(wide_total, multiplier, shift + 1, WIDE, 8), "G-3 N-2 N-4"),
            "bf16": (CODE, "bf16", to_bf16(total, np.full(outputs, 3e-5)), "Q-9 B-1"),
        }
        for what, (form, out, rq, rules) in laws.items():
            values = x if form is CODE else x * 256 + source.between(0, 255, x.shape)
            shape = (FRAMES, others, outputs) if swapped else (FRAMES, outputs, others)
            given: Given = {"x": (form, values.transpose(0, 2, 1) if swapped else values)}
            constants: tuple[Any, ...] = (weight.T if swapped else weight, rq)
            comment = f"the network's size at random, law {rules[:3]}"
            flags = "weight_transposed channel_constants"
            name = f"fully_connected_{axis}"
            made: Made = {"y": (out, shape)}
            yield directed(name, f"large_{what}", comment, f"{rule} {rules}", flags, given, constants, made, seed=210)
        float_x = source.fractions((FRAMES, others, products) if swapped else (FRAMES, products, others), 2.0)
        float_w = source.fractions((outputs, products), 0.3)
        constants = (float_w.T if swapped else float_w, source.fractions(outputs), True)
        given, made = {"x": ("f32", float_x)}, {"y": ("f32", shape)}
        name, rule = f"fully_connected_{axis}_f32", {"frequency": "L-3", "channels": "L-4"}[axis]
        comment = "the network's size at random, with a ReLU"
        yield directed(name, "large", comment, rule, "sum_order fused_multiply_add", given, constants, made, seed=210)


def _convolutions() -> Iterator[Case]:
    source = Integers(211)
    rules = {
        ("", "f32"): "C-3",
        ("", "bf16"): "C-5 C-3 B-1 B-2",
        ("transposed_", "f32"): "C-4",
        ("transposed_", "bf16"): "C-6 C-4 B-1 B-2",
    }
    for form, inputs, outputs, rule in (("", 2, CHANNELS, "C-1"), ("transposed_", CHANNELS, 4, "C-2")):
        weight = source.between(-127, 127, (3, 3, inputs, outputs), np.int8)
        total, multiplier, shift = _constants(source, outputs, 9 * inputs)
        total = total - CODE.zero_point * weight.astype(np.int64).sum((0, 1, 2))
        x = source.between(-128, 127, (FRAMES + 2, BINS, inputs))
        state = {"x": (2, True, x[:2])}
        shape = (FRAMES, BINS, outputs)
        comment = f"the network's {'decoder' if form else 'encoder'} at random"
        flags = "padding_side swapped_state frame_off_by_one"
        constants: tuple[Any, ...] = (weight, 1, CODE.zero_point, folded(total, multiplier, shift))
        given: Given = {"x": (CODE, x[2:])}
        made: Made = {"y": (SUM, shape)}
        name = f"conv_{form}causal"
        yield directed(name, "large", comment, f"{rule} G-2 N-1 N-4", flags, given, constants, made, state, 211)
        for kind in ("f32", "bf16"):
            values = source.fractions(x.shape, 2.0)
            weight_f = source.between(-127, 127, weight.shape).astype(np.float32) / np.float32(256)
            bias = source.between(-127, 127, outputs).astype(np.float32) / np.float32(128)
            if kind == "bf16":
                values = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            given, made = {"x": (kind, values[2:])}, {"y": (kind, shape)}
            state = {"x": (2, True, values[:2])}
            flags = "sum_order fused_multiply_add swapped_state"
            constants, cited = (weight_f, bias, 1), rules[form, kind]
            yield directed(f"{name}_{kind}", "large", comment, cited, flags, given, constants, made, state, 211)


def _compression() -> Iterator[Case]:
    source = Integers(212)
    stride, groups = 2, BINS // 2
    weight = source.between(-127, 127, (stride, CHANNELS, CHANNELS), np.int8)
    float_w, bias = source.fractions(weight.shape, 0.3), source.fractions(CHANNELS)
    total, multiplier, shift = _constants(source, CHANNELS, stride * CHANNELS)
    rq = folded(total - CODE.zero_point * weight.astype(np.int64).sum((0, 1)), multiplier, shift, relu=-53)
    comment = "compression by two at random"
    given: Given = {"x": (CODE, source.between(-128, 127, (FRAMES, BINS, CHANNELS)))}
    made: Made = {"y": (SUM, (FRAMES, groups, CHANNELS))}
    flags = "bin_off_by_one relu_before_zero_point"
    yield directed("conv_strided", "large", comment, "C-7 G-2 N-1 N-4", flags, given, (weight, rq), made, seed=212)
    given, made = {"x": ("f32", source.fractions((FRAMES, BINS, CHANNELS)))}, {"y": ("f32", (FRAMES, groups, CHANNELS))}
    flags = "sum_order fused_multiply_add"
    yield directed("conv_strided_f32", "large", comment, "C-9", flags, given, (float_w, bias, True), made, seed=212)
    total, multiplier, shift = _constants(source, stride * CHANNELS, CHANNELS)
    rq = folded(total - CODE.zero_point * weight.astype(np.int64).sum(1).reshape(-1), multiplier, shift)
    comment = "expansion by two at random"
    given = {"x": (CODE, source.between(-128, 127, (FRAMES, groups, CHANNELS)))}
    made = {"y": (SUM, (FRAMES, BINS, CHANNELS))}
    constants = (weight, CODE.zero_point, rq)
    flags = "channel_constants padding_value"
    yield directed("conv_strided_transposed", "large", comment, "C-8 G-2 N-1 N-4", flags, given, constants, made, seed=212)
    given, made = {"x": ("f32", source.fractions((FRAMES, groups, CHANNELS)))}, {"y": ("f32", (FRAMES, BINS, CHANNELS))}
    flags = "sum_order fused_multiply_add"
    yield directed("conv_strided_transposed_f32", "large", comment, "C-10", flags, given, (float_w, bias), made, seed=212)


def _elementwise() -> Iterator[Case]:
    source = Integers(213)
    shape = (FRAMES, BINS, CHANNELS)
    comment = "the network's size at random"
    narrow, wide = source.between(-128, 127, shape), source.between(-32768, 32767, shape)
    constants: tuple[Any, ...] = (-64, 3640, 7626007, 6676, 23, -53, -128, 127)
    given: Given = {"a": (CODE, narrow), "b": (Format("int16", 0.9 / 65535, 3640), wide)}
    flags = "zero_point_sign floor_for_round"
    yield directed("add_joint", "large", comment, "E-2 N-2 N-4", flags, given, constants, {"y": (SUM, shape)}, seed=213)
    pattern = source.between(0, 65535, (2, *shape))
    values = source.fractions((2, *shape), 3.0)
    for name, rules in (("add", "E-5 B-3 B-1 B-2"), ("multiply", "E-6 B-4 B-1 B-2")):
        given = {"a": ("bf16", pattern[0]), "b": ("bf16", pattern[1])}
        made: Made = {"y": ("bf16", shape)}
        yield directed(f"{name}_bf16", "large", comment, rules, "truncation", given, (), made, seed=213)
        given, made = {"a": ("f32", values[0]), "b": ("f32", values[1])}, {"y": ("f32", shape)}
        rules = {"add": "E-7", "multiply": "E-8"}[name]
        yield directed(f"{name}_f32", "large", comment, rules, "float_width", given, (), made, seed=213)
    given, made = {"x": ("f32", values[0])}, {"y": (CODE, shape)}
    constants = (np.float32(1 / CODE.scale), CODE.zero_point, -128, 127)
    yield directed("quantize_f32", "large", comment, "Q-4 N-6", "truncation", given, constants, made, seed=213)
    made = {"y": ("bf16", shape)}
    yield directed("narrow_bf16", "large", comment, "B-1", "truncation", given, (), made, seed=213)
    given, made = {"x": ("bf16", pattern[0])}, {"y": ("f32", shape)}
    yield directed("widen_bf16", "large", comment, "B-2", "bf16_subnormal_flushed", given, (), made, seed=213)


def _transforms() -> Iterator[Case]:
    source = Integers(214)
    frames = 64
    pcm = source.between(-32768, 32767, (frames, 256)) >> source.between(0, 15, (frames, 1))
    given: Given = {"frame": (Format("int16", 2.0**-15, 0), pcm)}
    hann, twiddle = analysis_window("hann"), shipped("twiddle_q30")
    comment = "noise of all levels"
    made: Made = {"mantissa": ("int32", (frames, BINS, 2)), "exponent": ("int32", (frames, 1))}
    flags = "block_exponent floor_for_round"
    yield directed("stft", "large", comment, "F-4 F-3 F-1 F-2 N-2", flags, given, (hann, twiddle), made, seed=214)
    real = tuple((table * 2.0**-30).astype(np.float32) for table in (hann, twiddle))
    made = {"y": ("f32", (frames, BINS, 2))}
    yield directed("stft_f32", "large", comment, "F-12 F-1 F-2", "sum_order fused_multiply_add", given, real, made, seed=214)
    re, im = np.array([0, 2]), np.array([1, 3])
    window = synthesis_window(hann)
    mantissa = source.between(-(1 << 21) + 1, (1 << 21) - 1, (frames, 2, BINS, 2)) >> source.between(0, 18, (frames, 2, 1, 1))
    given = {"mantissa": ("int32", mantissa), "exponent": ("int32", source.between(8, 30, (frames, 2)))}
    made = {"head": ("int32", (frames, 2, 96)), "tail": ("int32", (frames, 2, 64))}
    constants: tuple[Any, ...] = (np.rint(window * 2.0**29).astype(np.int32), twiddle, 10)
    comment, rules = "random spectra of all levels", "F-9 F-3 F-1 F-17 N-2 N-5"
    yield directed("istft", "large", comment, rules, flags, given, constants, made, seed=214)
    given = {"x": ("f32", source.fractions((frames, BINS, 4), 8.0))}
    made = {"head": ("f32", (frames, 2, 96)), "tail": ("f32", (frames, 2, 64))}
    constants = (re, im, window.astype(np.float32), real[1])
    rules, flags = "F-13 F-12 F-16 F-1 M-11", "sum_order fused_multiply_add"
    yield directed("istft_f32", "large", comment, rules, flags, given, constants, made, seed=214)
    mantissa = source.between(-(1 << 30), 1 << 30, (frames, BINS, 2)) >> source.between(0, 28, (frames, BINS, 1))
    given = {"mantissa": ("int32", mantissa), "exponent": ("int32", source.between(0, 14, (frames, 1)))}
    made = {"y": ("bf16", (frames, BINS, 2))}
    flags = "double_rounding block_exponent"
    yield directed("block_to_bf16", "large", comment, "F-5 B-5 N-3", flags, given, (), made, seed=214)
    made = {"y": (Format("int8", 0.2, -28), (frames, BINS, 2))}
    constants = (10485760, 43, -28, -128, 127)
    yield directed("block_to_code", "large", comment, "F-6 N-3 N-4", flags, given, constants, made, seed=214)
    given = {"x": ("bf16", source.between(0, 65535, (frames, BINS, 4)) & ~(source.between(0, 1, (frames, 1, 4)) << 14))}
    made = {"mantissa": ("int32", (frames, 2, BINS, 2)), "exponent": ("int32", (frames, 2))}
    flags = "block_exponent nan_to_integer"
    yield directed("bf16_to_block", "large", comment, "F-7 N-3 M-11", flags, given, (re, im), made, seed=214)
