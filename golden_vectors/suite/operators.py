"""Operators level: fully connected layers and convolutions, small directed tensors (L, C)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, directed, f32, folded, norm_twice, raw, to_bf16
from golden_vectors.suite.searches import double_rounding_differs, products_that_round_twice
from refimpl.numerics.requantize import LAW_NAMES, Requantizer
from refimpl.program import Format

CODE = Format("int8", 2.0**-5, 0)
SHIFTED = Format("int8", 2.0**-5, -17)
WIDE = Format("int16", 2.0**-12, 0)
WIDE_SHIFTED = Format("int16", 2.0**-12, 1234)
# Rules that a layer depends on through its law, and the format that the law gives.
LAWS = {
    "folded": ("G-2 N-1 N-4", Format("int8", 2.0**-4, 0)),
    "norm_twice": ("G-3 N-2 N-4", None),
    "bf16": ("Q-9 B-1", "bf16"),
    "raw": ("O-1", "int32"),
    "double": ("G-6 N-7 N-8 N-4", None),
    "single": ("G-7 N-2 N-4", None),
}


def cases() -> Iterator[Case]:
    for axis in ("frequency", "channels"):
        yield from _linear_sums(axis)
        yield from _linear_folded(axis)
        yield from _linear_wide(axis)
        yield from _linear_f32(axis)
    yield from _previous_frame()
    for transposed in (False, True):
        yield from _conv_taps(transposed)
        yield from _conv_laws(transposed)
        yield from _conv_f32(transposed)
        yield from _conv_bf16(transposed)
    yield from _strided()
    yield from _strided_transposed()
    yield from _strided_f32()


def _law(rq: Requantizer, out: Format | None) -> tuple[str, Format | str]:
    rules, form = LAWS[LAW_NAMES[rq.law]]
    return rules, out or form or WIDE


# -- fully connected (L-1 to L-4) ---------------------------------------------------------------------------------------


def linear(
    axis: str,
    what: str,
    comment: str,
    flags: str,
    x: Any,
    weight: Any,
    rq: Requantizer,
    x_form: Format = CODE,
    out: Format | None = None,
    seed: int | None = None,
) -> Case:
    """One integer layer. ``x`` [T, K, N]: along frequency as it is, along channels as [T, N, K]; ``weight`` [outputs, K]."""
    x, weight = np.asarray(x, np.int64), np.asarray(weight, np.int8)
    frames, _, others = x.shape
    rules, form = _law(rq, out)
    rule, shape = "L-1", (frames, len(weight), others)
    if axis == "channels":
        x, weight, rule, shape = x.transpose(0, 2, 1), weight.T, "L-2", (frames, others, len(weight))
    given = {"x": (x_form, x)}
    cited = f"{rule} {rules}"
    return directed(
        f"fully_connected_{axis}", what, comment, cited, flags, given, (weight, rq), {"y": (form, shape)}, seed=seed
    )


def _linear_sums(axis: str) -> Iterator[Case]:
    source = Integers(30)
    weight = source.between(-127, 127, (3, 7))
    x = source.between(-128, 127, (2, 7, 4))
    comment = "accumulators alone: seven products in groups of four, every weight different"
    flags = "weight_transposed vector_remainder bias_dropped"
    yield linear(axis, "raw", comment, flags, x, weight, raw([1000, -2000, 0]), seed=30)
    for count in (1, 2, 3, 4, 5):
        comment = f"{count} products: groups of four and what is left of them"
        flags = "vector_remainder"
        x, weight = source.between(-128, 127, (1, count, 2)), source.between(-127, 127, (2, count))
        yield linear(axis, f"products_{count}", comment, flags, x, weight, raw([0, 0]), seed=30)
    x = np.stack([np.full((600, 1), -128), np.full((600, 1), 127), np.arange(600).reshape(600, 1) % 256 - 128])
    weight = np.array([[-127] * 600, [127] * 600, [127, -127] * 300])
    comment = "600 products at full scale: accumulators of 25 bits, also with unsigned codes"
    yield linear(axis, "full_scale", comment, "narrow_accumulator unsigned_confusion", x, weight, raw([0, 0, 0]))
    x = np.stack([np.full((258, 1), -32768), np.full((258, 1), 32767), np.tile([[-32768], [32767]], (129, 1))])
    weight = np.array([[-127] * 258, [127] * 258, [127, -127] * 129])
    comment = "258 products of int16 at full scale: the largest layer whose accumulators of unsigned codes fit 32 bits"
    yield linear(axis, "full_scale_int16", comment, "narrow_accumulator wraparound", x, weight, raw([0, 0, 0]), WIDE)
    x = source.between(-32768, 32767, (2, 5, 3))
    comment = "int16 codes whose high and low bytes both matter"
    weight = source.between(-127, 127, (2, 5))
    yield linear(axis, "raw_int16", comment, "endianness narrow_accumulator", x, weight, raw([7, -7]), WIDE_SHIFTED, seed=30)


def _linear_folded(axis: str) -> Iterator[Case]:
    steps = np.arange(-12, 13).reshape(1, 1, 25)
    x = np.concatenate([steps, np.zeros_like(steps), -steps], 1)
    weight: Any = [[1, 5, 0], [3, 0, 1], [0, 0, 5]]
    rq = folded([256, 170, 1024], [1, 3, 1], [1, 2, 3])
    comment = "sums at ties of the shift, up and down"
    flags = "floor_for_round tie_half_even tie_away"
    yield linear(axis, "ties", comment, flags, x, weight, rq)
    x = np.array([[[-128, -65, -64, -63, -1, 0, 1, 62, 63, 64, 127]] * 2])
    rq = folded([128, 128], [1, 1], [0, 0])
    comment = "the ends of the output, one inside and one beyond each"
    flags = "saturation_high saturation_low wraparound shift_zero unsigned_confusion"
    yield linear(axis, "saturation", comment, flags, x, [[1, 1], [-2, 0]], rq)
    rq = folded([90, 90], [3, 3], [2, 2], relu=-60)
    comment = "a fused ReLU with an output zero point that is no bound of the code"
    flags = "relu_before_zero_point zero_point_order"
    out = Format("int8", 2.0**-4, -60)
    yield linear(axis, "relu", comment, flags, x[:, :, ::-1], [[1, 0], [-1, -1]], rq, out=out)
    source = Integers(31)
    x = source.between(-128, 127, (2, 6, 3))
    weight = source.between(-127, 127, (4, 6))
    rq = folded([13000, 60000, 24300, 100000], [21, 255, 3, 127], [11, 17, 9, 16])
    comment = "a bias, a multiplier and a shift of its own for each output"
    yield linear(axis, "outputs_differ", comment, "channel_constants weight_transposed", x, weight, rq, seed=31)
    weight[1] = 0
    rq = folded([13000, 39040, 24300, 100000], [21, 1, 3, 127], [11, 8, 9, 16])
    comment = "an output without weights still has its bias and its zero point"
    yield linear(axis, "dead_output", comment, "dead_channel bias_dropped", x, weight, rq, seed=31)
    weight = source.between(-127, 127, (2, 6))
    x_form, total = Format("int8", 2.0**-5, 93), -93 * weight.sum(1) + 17000
    comment = "an input zero point of 93, folded: where every input is 93 the output shows the bias alone"
    x = np.concatenate([np.full((1, 6, 2), 93), source.between(-128, 127, (1, 6, 2))])
    rq = folded(total, [31, 31], [12, 12])
    yield linear(axis, "input_zero_point", comment, "zero_point_sign bias_dropped", x, weight, rq, x_form, seed=31)
    x = np.stack([np.full((600, 1), -128), np.full((600, 1), 127)])
    rq = folded([0, 1 << 24], [219, 1], [24, 17])
    comment = "products of accumulator and multiplier at the ends of 32 bits"
    yield linear(axis, "product_bound", comment, "narrow_accumulator wraparound", x, [[127] * 600, [-127] * 600], rq)


def _linear_wide(axis: str) -> Iterator[Case]:
    acc = np.array(double_rounding_differs(19, 11, 8, 12))
    rq = norm_twice([0, 128], [19, 19], [11, 11], WIDE_SHIFTED, 8)
    comment = "two roundings that are not one, and a zero point after both"
    x = acc.reshape(1, 1, -1)
    flags = "single_rounding zero_point_order"
    yield linear(axis, "int16_two_roundings", comment, flags, x, [[1], [-1]], rq, WIDE, WIDE_SHIFTED)
    x = np.array([[[-32768, -30000, -9000, -3, 0, 3, 9000, 30000, 32767]] * 3])
    rq = norm_twice([0, 500, -500], [101, 27, 13], [10, 9, 8], WIDE_SHIFTED, 8, relu=True)
    comment = "int16 with a fused ReLU: the bound is 0, the zero point comes after"
    weight: Any = [[1, 2, 3], [-1, -1, 0], [5, -3, -1]]
    flags = "relu_before_zero_point zero_point_order saturation_high channel_constants"
    yield linear(axis, "int16_relu", comment, flags, x, weight, rq, WIDE, WIDE_SHIFTED)
    source = Integers(32)
    x, weight = source.between(-32768, 32767, (2, 5, 3)), source.between(-127, 127, (3, 5))
    form = Format("int8", 2.0**-4, 40)
    rq = norm_twice([30000, 0, -123456], [77, 5, 201], [21, 18, 23], form, 8)
    comment = "int16 codes to int8 codes"
    flags = "single_rounding channel_constants saturation_high"
    yield linear(axis, "int16_to_int8", comment, flags, x, weight, rq, WIDE_SHIFTED, form, 32)
    x = source.between(-128, 127, (2, 5, 3))
    rq = norm_twice([300, -40, 0], [255, 3, 1], [3, 0, 1], WIDE, 0)
    comment = "int8 codes to int16 codes with the smallest shift 0: no first rounding"
    yield linear(axis, "int8_to_int16", comment, "shift_zero saturation_high saturation_low", x, weight, rq, SHIFTED, WIDE, 32)
    x = np.stack([np.full((258, 1), -32768), np.full((258, 1), 32767)])
    rq = norm_twice([-(32768 * 127 * 258), 0], [255, 255], [24, 24], WIDE, 8)
    comment = "the sum of accumulator, bias and rounding constant, and the product after it, at the ends of 32 bits"
    yield linear(axis, "int16_bound", comment, "narrow_accumulator wraparound", x, [[-127] * 258, [127] * 258], rq, WIDE, WIDE)
    acc = np.array([int(v) for v in products_that_round_twice(float(np.float32(3e-5)))])
    x = np.stack([acc // 127, acc % 127])[None]
    weight = [[127, 1], [-127, -1]]
    comment = "into BF16: the product rounds to FP32, then to BF16"
    yield linear(
        axis, "bf16_two_roundings", comment, "single_rounding float_width", x, weight, to_bf16([0, 0], [3e-5, 3e-5]), WIDE
    )
    x = source.between(-128, 127, (2, 5, 4))
    weight = np.concatenate([source.between(-127, 127, (2, 5)), np.zeros((1, 5), np.int64)])
    rq = to_bf16([12345, -7, -32768], f32([0x38D1B717, 0x3DCCCCCD, 0x37AAAAAB]))
    comment = "into BF16 with a bias and a scale for each output, one of them without weights"
    flags = "channel_constants bias_dropped truncation dead_channel"
    yield linear(axis, "bf16", comment, flags, x, weight, rq, SHIFTED, seed=32)


def linear_f32(
    axis: str, what: str, comment: str, flags: str, x: Any, weight: Any, bias: Any, relu: bool, seed: int = 0
) -> Case:
    """One FP32 layer; shapes as :func:`linear`."""
    x, weight = np.asarray(x, np.float32), np.asarray(weight, np.float32)
    frames, _, others = x.shape
    rule, shape = "L-3", (frames, len(weight), others)
    if axis == "channels":
        x, weight, rule, shape = x.transpose(0, 2, 1), weight.T, "L-4", (frames, others, len(weight))
    constants = (weight, np.asarray(bias, np.float32), relu)
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", shape)}
    name = f"fully_connected_{axis}_f32"
    return directed(name, what, comment, rule, flags, given, constants, outputs, seed=seed or None)


def _linear_f32(axis: str) -> Iterator[Case]:
    big = 2.0**24
    x = np.array([big, 1, 1, 1, 1, -big, 1])
    x = np.stack([x, x[::-1], np.roll(x, 3)], 1)[None]
    comment = "ones that vanish beside 2^24: any other order, a tree or a wider accumulator keeps some of them"
    flags = "sum_order float_width"
    yield linear_f32(axis, "order", comment, flags, x, np.ones((2, 7)), [0.0, 1.0], False)
    tiny = 1 + 2.0**-12
    comment = "products that are not exact: a fused multiply-add leaves their last bits"
    x, weight = np.full((1, 2, 2), tiny), np.array([[tiny, -tiny], [tiny, tiny]])
    yield linear_f32(axis, "fused", comment, "fused_multiply_add", x, weight, [-(1 + 2.0**-11), 2.0**-30], False)
    source = Integers(33)
    x, weight = source.fractions((2, 9, 3), 4.0), source.fractions((3, 9), 2.0)
    comment = "nine random products a sum, bias first"
    flags = "sum_order fused_multiply_add weight_transposed vector_remainder bias_dropped"
    yield linear_f32(axis, "random", comment, flags, x, weight, source.fractions(3), False, 33)
    special = f32([0x80000000, 0x00000000, 0x7FC00000, 0x7F800000, 0xFF800000, 0x00000001, 0x80000001, 0xBF800000, 0x3F800000])
    x = special.reshape(1, 1, 9)
    bias = f32([0x80000000, 0x00000000])
    comment = "a fused ReLU keeps -0 and NaN, and makes negative values +0"
    yield linear_f32(axis, "relu", comment, "signed_zero relu_before_zero_point", x, np.ones((2, 1)), bias, True)
    x = f32([[0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000]]).reshape(1, 1, 6)
    comment = "subnormal products are kept, overflow gives infinity"
    yield linear_f32(axis, "range", comment, "subnormal_flushed", x, [[0.5], [2.0], [-1.0]], [0.0, 0.0, 0.0], False)


def _previous_frame() -> Iterator[Case]:
    source = Integers(34)
    x, past = source.between(-128, 127, (3, 2, 5)), source.between(-128, 127, (1, 2, 5))
    weight = source.between(-127, 127, (5, 3), np.int8)
    comment = "the recurrent layer reads the frame before, and the given one for the first"
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": ("int32", (3, 2, 3))}
    name, flags = "fully_connected_channels", "stale_state frame_off_by_one"
    state = {"x": (1, False, past)}
    rules, constants = "L-2 O-1 P-1", (weight, raw([5, 6, 7]))
    yield directed(name, "previous_frame", comment, rules, flags, {"x": (SHIFTED, x)}, constants, outputs, state, 34)


# -- causal convolutions (C-1 to C-6) -----------------------------------------------------------------------------------


def _conv(
    operator: str,
    what: str,
    comment: str,
    rules: str,
    flags: str,
    form: Format | str,
    x: Any,
    constants: tuple[Any, ...],
    out: Format | str,
    outputs: int,
    seed: int | None = None,
) -> Case:
    """A causal convolution of ``x`` [2 + T, F, I], its first two frames being the past."""
    x = np.asarray(x)
    given, past = {"x": (form, x[2:])}, {"x": (2, True, x[:2])}
    shape = (len(x) - 2, x.shape[1], outputs)
    return directed(operator, what, comment, rules, flags, given, constants, {"y": (out, shape)}, past, seed)


def conv(
    transposed: bool,
    what: str,
    comment: str,
    flags: str,
    x: Any,
    weight: Any,
    rq: Requantizer,
    below: int = 1,
    x_form: Format = CODE,
    out: Format | None = None,
    seed: int | None = None,
) -> Case:
    """One integer causal convolution; ``weight`` [3, 3, I, O]; the padding is the input's zero point."""
    name, rule = ("conv_transposed_causal", "C-2") if transposed else ("conv_causal", "C-1")
    rules, form = _law(rq, out)
    weight = np.asarray(weight, np.int8)
    constants = (weight, below, x_form.zero_point, rq)
    return _conv(name, what, comment, f"{rule} {rules}", flags, x_form, x, constants, form, weight.shape[3], seed)


def _numbered(inputs: int, outputs: int) -> Array:
    """Weights that are all different: tap, input and output can be read off a result."""
    return np.arange(1, 9 * inputs * outputs + 1).reshape(3, 3, inputs, outputs)


def _conv_taps(transposed: bool) -> Iterator[Case]:
    for below, side in ((1, "symmetric"), (0, "top")):
        x = np.zeros((6, 5, 2), np.int64)
        x[2, 2, 0], x[3, 4, 1] = 1, 100
        comment = f"{side} padding, two impulses: every weight appears at the frame and bin where its tap reads"
        flags = "frame_off_by_one bin_off_by_one weight_transposed padding_side swapped_state"
        yield conv(transposed, f"impulses_{side}", comment, flags, x, _numbered(2, 3), raw([0, 0, 0]), below)
        x = np.full((5, 4, 1), 50)
        form = Format("int8", 2.0**-5, 50)
        comment = f"{side} padding, every input at the zero point: the bins at the ends equal the others"
        weight = _numbered(1, 2)
        total = -50 * weight.sum((0, 1, 2)) + 64 * 20
        rq = folded(total, [1, 1], [5, 5])
        yield conv(transposed, f"padding_{side}", comment, "padding_value zero_point_sign", x, weight, rq, below, form)
        for bins in (1, 2):
            x = Integers(35).between(-128, 127, (4, bins, 2))
            comment = f"{side} padding and {bins} bins: taps fall out at the low end and at the high end"
            flags = "padding_side padding_value bin_off_by_one"
            args = (x, _numbered(2, 2), raw([0, 0]), below, SHIFTED)
            yield conv(transposed, f"bins_{bins}_{side}", comment, flags, *args, seed=35)
    x = np.stack([np.full((3, 1), v) for v in (1, 10, 100, 0, 0)])
    weight = np.zeros((3, 3, 1, 3), np.int64)
    weight[0, 1, 0, 0] = weight[1, 1, 0, 1] = weight[2, 1, 0, 2] = 1
    comment = "three different frames, one output for each time tap: the past in its order, oldest first"
    flags = "swapped_state stale_state frame_off_by_one"
    yield conv(transposed, "time_taps", comment, flags, x, weight, raw([0, 0, 0]))
    x = Integers(36).between(-128, 127, (3, 3, 3))
    comment = "a single frame, as a stream runs it, with two frames of state"
    weight = Integers(37).between(-127, 127, (3, 3, 3, 2))
    yield conv(transposed, "one_frame", comment, "stale_state swapped_state", x, weight, raw([1, -1]), 1, SHIFTED, seed=36)


def _conv_laws(transposed: bool) -> Iterator[Case]:
    source = Integers(38)
    weight, x = source.between(-127, 127, (3, 3, 2, 3)), source.between(-128, 127, (4, 5, 2))
    weight[..., 1] = 0
    total = 17 * weight.sum((0, 1, 2)) + [30000, 34000, -9000]
    rq = folded(total, [99, 1, 23], [15, 8, 13])
    comment = "codes at random with three different outputs, the second one without weights"
    flags = "channel_constants dead_channel floor_for_round"
    yield conv(transposed, "folded", comment, flags, x, weight, rq, 1, SHIFTED, seed=38)
    rq = folded(total, [99, 1, 23], [15, 8, 13], relu=-30)
    comment = "the same with a fused ReLU at -30"
    flags = "relu_before_zero_point saturation_low"
    yield conv(transposed, "relu", comment, flags, x, weight, rq, 0, SHIFTED, Format("int8", 2.0**-4, -30), 38)
    wide = source.between(-32768, 32767, (3, 4, 2))
    rq = norm_twice([100000, -5, 0], [201, 1, 77], [20, 12, 16], WIDE_SHIFTED, 8)
    comment = "int16 codes: two roundings, padding with a zero point of 16 bits"
    flags = "single_rounding padding_value zero_point_order"
    yield conv(transposed, "int16", comment, flags, wide, weight, rq, 1, WIDE_SHIFTED, WIDE_SHIFTED, 38)
    rq = to_bf16(total, f32([0x38D1B717, 0x3DCCCCCD, 0x37AAAAAB]))
    comment = "codes in, BF16 out"
    yield conv(transposed, "bf16_output", comment, "channel_constants truncation", x, weight, rq, 1, SHIFTED, seed=38)
    x = np.stack([np.full((3, 64), v) for v in (-128, -128, -128, 127, -128)])
    weight = np.full((3, 3, 64, 2), -127) * np.array([1, -1])
    comment = "576 products at full scale in the middle bin: the largest accumulators, in both directions"
    yield conv(transposed, "full_scale", comment, "narrow_accumulator wraparound", x, weight, raw([0, 0]))
    steps = np.arange(-12, 13).reshape(1, 25, 1)
    weight = np.zeros((3, 3, 1, 2), np.int64)
    weight[0 if transposed else 2, 1, 0] = [1, 3]
    rq = folded([256, 512], [1, 3], [1, 3])
    comment = "the current frame alone, at ties of the shift"
    flags = "tie_half_even tie_away floor_for_round"
    x = np.concatenate([steps + 1, steps - 1, steps])
    yield conv(transposed, "ties", comment, flags, x, weight, rq)


def conv_float(
    transposed: bool,
    kind: str,
    what: str,
    comment: str,
    flags: str,
    x: Any,
    weight: Any,
    bias: Any,
    below: int = 1,
    seed: int = 0,
) -> Case:
    """A causal convolution in FP32 or BF16; BF16 weights and biases are BF16 values in FP32."""
    name = ("conv_transposed_causal_" if transposed else "conv_causal_") + kind
    rules = {
        "f32": "C-4" if transposed else "C-3",
        "bf16": ("C-6 C-4" if transposed else "C-5 C-3") + " B-1 B-2",
    }[kind]
    constants = (np.asarray(weight, np.float32), np.asarray(bias, np.float32), below)
    outputs = np.asarray(bias).shape[0]
    return _conv(name, what, comment, rules, flags, kind, x, constants, kind, outputs, seed or None)


def _conv_f32(transposed: bool) -> Iterator[Case]:
    source = Integers(39)
    for below, side in ((1, "symmetric"), (0, "top")):
        x, weight = source.fractions((4, 4, 2), 4.0), source.fractions((3, 3, 2, 3))
        comment = f"{side} padding: eighteen random products a sum, bias first, then time, bin and input"
        flags = "sum_order fused_multiply_add padding_side swapped_state weight_transposed"
        yield conv_float(transposed, "f32", f"random_{side}", comment, flags, x, weight, source.fractions(3), below, 39)
    x = np.ones((4, 3, 2), np.float32)
    weight = np.ones((3, 3, 2, 1), np.float32)
    weight[0, 0, 0], weight[2, 2, 1] = 2.0**24, -(2.0**24)
    comment = "ones between 2^24 and -2^24: only the order of the rule loses exactly these"
    yield conv_float(transposed, "f32", "order", comment, "sum_order float_width", x, weight, [1.0])
    x = np.full((3, 3, 1), -0.0, np.float32)
    comment = "every product -0 but those of padding, which are +0: they are added like any other"
    weight = np.ones((3, 3, 1, 1), np.float32)
    yield conv_float(transposed, "f32", "padding_zero", comment, "signed_zero padding_value", x, weight, [-0.0])
    x = np.zeros((5, 6, 1), np.float32)
    x[2, 1, 0], x[4, 4, 0] = np.inf, np.nan
    weight = _numbered(1, 1).astype(np.float32) - 5
    comment = (
        "infinity and NaN reach the outputs of their taps, a tap of zero makes NaN of infinity, and no other output changes"
    )
    yield conv_float(transposed, "f32", "special", comment, "bin_off_by_one frame_off_by_one", x, weight, [0.5])


def _conv_bf16(transposed: bool) -> Iterator[Case]:
    source = Integers(40)
    for below, side in ((1, "symmetric"), (0, "top")):
        pattern = (source.between(0, 1, (4, 4, 2)) << 15) | (source.between(120, 128, (4, 4, 2)) << 7)
        pattern |= source.between(0, 127, (4, 4, 2))
        weight = source.between(-127, 127, (3, 3, 2, 3)).astype(np.float32) / np.float32(64)
        comment = f"{side} padding: eighteen products summed in FP32 and rounded once"
        flags = "single_rounding float_width sum_order padding_side swapped_state"
        bias = [0.5, -1.25, 0.0078125]
        yield conv_float(transposed, "bf16", f"random_{side}", comment, flags, pattern, weight, bias, below, 40)
    x = np.zeros((3, 3, 1), np.int64)
    x[2, :, 0] = [0x3F80, 0x3F81, 0xBF80]
    weight = np.zeros((3, 3, 1, 2), np.float32)
    weight[0 if transposed else 2, 1, 0] = [2.0**-8, 1.0]
    comment = "results at ties of BF16, rounded to even"
    yield conv_float(transposed, "bf16", "ties", comment, "tie_half_up tie_away truncation", x, weight, [1.0, 2.0**-8])
    x = np.zeros((3, 5, 1), np.int64)
    x[2, :, 0] = [0x7F7F, 0x0000, 0x0001, 0x0000, 0x7FC1]
    weight[0 if transposed else 2, 1, 0] = [2.0, 1.0]
    comment = "overflow gives infinity, a subnormal stays, NaN becomes the one pattern"
    flags = "bf16_overflow bf16_subnormal_flushed bf16_nan_canonical"
    yield conv_float(transposed, "bf16", "special", comment, flags, x, weight, [0.0, 0.0])
    ones = np.full((3, 3, 2), 0x3F80)
    weight = np.full((3, 3, 2, 1), 2.0**-9, np.float32)
    comment = "products of which each alone would be lost beside 1 in a BF16 sum"
    yield conv_float(transposed, "bf16", "small_products", comment, "float_width", ones, weight, [1.0])
    weight = np.ones((3, 3, 2, 1), np.float32)
    weight[0, 1, 0], weight[2, 1, 1] = 2.0**24, -(2.0**24)
    comment = "ones between 2^24 and -2^24, and a bias that comes first"
    yield conv_float(transposed, "bf16", "order", comment, "sum_order bias_dropped", ones, weight, [3.0])


# -- strided convolutions (C-7 to C-10) ---------------------------------------------------------------------------------


def strided(
    what: str,
    comment: str,
    flags: str,
    x: Any,
    weight: Any,
    rq: Requantizer,
    x_form: Format = CODE,
    out: Format | None = None,
    seed: int | None = None,
) -> Case:
    """A strided convolution; ``weight`` [a, I, O]."""
    x, weight = np.asarray(x), np.asarray(weight, np.int8)
    rules, form = _law(rq, out)
    shape = (len(x), x.shape[1] // len(weight), weight.shape[2])
    given, outputs = {"x": (x_form, x)}, {"y": (form, shape)}
    return directed("conv_strided", what, comment, f"C-7 {rules}", flags, given, (weight, rq), outputs, seed=seed)


def _strided() -> Iterator[Case]:
    source = Integers(41)
    for stride in (2, 3, 5):
        x = source.between(-128, 127, (2, 3 * stride + stride - 1, 2))
        x[:, 3 * stride :] = 127
        weight = np.arange(1, stride * 4 + 1).reshape(stride, 2, 2)
        comment = f"stride {stride} with {stride - 1} bins left over, which nothing reads"
        flags = "bin_off_by_one weight_transposed"
        yield strided(f"stride_{stride}", comment, flags, x, weight, raw([10, -10]), SHIFTED, seed=41)
    x, weight = source.between(-128, 127, (1, 129, 1)), source.between(-127, 127, (4, 1, 3))
    rq = folded([9000, 20000, 0], [31, 255, 1], [11, 16, 4], relu=-80)
    comment = "129 bins in groups of four, with a fused ReLU"
    flags = "relu_before_zero_point channel_constants bin_off_by_one"
    yield strided("bins_129", comment, flags, x, weight, rq, SHIFTED, Format("int8", 2.0**-4, -80), 41)
    x, weight = source.between(-32768, 32767, (2, 7, 3)), source.between(-127, 127, (2, 3, 2))
    rq = norm_twice([0, 100000], [77, 201], [18, 21], WIDE_SHIFTED, 8, relu=True)
    comment = "int16 codes with a fused ReLU"
    flags = "single_rounding relu_before_zero_point zero_point_order"
    yield strided("int16", comment, flags, x, weight, rq, WIDE, WIDE_SHIFTED, 41)
    x = np.stack([np.full((5, 150), -128), np.full((5, 150), 127)])
    weight = np.full((4, 150, 2), -127) * np.array([1, -1])
    comment = "600 products at full scale"
    yield strided("full_scale", comment, "narrow_accumulator", x, weight, raw([0, 0]))
    comment = "129 bins as one group: a stride as long as the input"
    x, weight = source.between(-128, 127, (1, 129, 1)), source.between(-127, 127, (129, 1, 1))
    yield strided("one_group", comment, "bin_off_by_one", x, weight, raw([0]), SHIFTED, seed=41)


def expansion(
    what: str,
    comment: str,
    flags: str,
    x: Any,
    weight: Any,
    bins: int,
    rq: Requantizer,
    x_form: Format = CODE,
    out: Format | None = None,
    seed: int | None = None,
) -> Case:
    """A strided transposed convolution to ``bins``; ``weight`` [a, I, O]; the law's channels are per (tap, output)."""
    x, weight = np.asarray(x), np.asarray(weight, np.int8)
    rules, form = _law(rq, out)
    given, outputs = {"x": (x_form, x)}, {"y": (form, (len(x), bins, weight.shape[2]))}
    constants = (weight, x_form.zero_point, rq)
    return directed("conv_strided_transposed", what, comment, f"C-8 {rules}", flags, given, constants, outputs, seed=seed)


def _strided_transposed() -> Iterator[Case]:
    source = Integers(42)
    for stride in (2, 3, 5):
        x = source.between(-128, 127, (2, 3, 2))
        weight = np.arange(1, stride * 4 + 1).reshape(stride, 2, 2)
        comment = f"stride {stride}: every tap fills a bin, {stride - 1} bins beyond read the padding"
        flags = "bin_off_by_one weight_transposed padding_value channel_constants"
        rq = raw(np.arange(2 * stride) * 1000)
        yield expansion(f"stride_{stride}", comment, flags, x, weight, 4 * stride - 1, rq, SHIFTED, seed=42)
    weight = source.between(-127, 127, (4, 3, 2))
    x = source.between(-128, 127, (1, 32, 3))
    x[0, :2] = -17
    total = 17 * weight.sum(1).reshape(-1) + 15000 + 100 * np.arange(8)
    rq = folded(total, [17, 3, 63, 127, 255, 1, 9, 33], [11, 8, 13, 14, 15, 7, 10, 12])
    comment = "32 groups to 129 bins: constants per tap and output, and a last bin that shows its bias alone"
    flags = "channel_constants zero_point_sign padding_value"
    yield expansion("bins_129", comment, flags, x, weight, 129, rq, SHIFTED, seed=42)
    weight, x = source.between(-127, 127, (2, 3, 1)), source.between(-32768, 32767, (2, 3, 3))
    rq = norm_twice([12345, -54321], [101, 77], [19, 17], WIDE_SHIFTED, 8)
    comment = "int16 codes, padding with a zero point of 16 bits"
    flags = "padding_value single_rounding zero_point_order"
    yield expansion("int16", comment, flags, x, weight, 7, rq, WIDE_SHIFTED, WIDE_SHIFTED, 42)
    comment = "600 products a bin at full scale"
    x = np.stack([np.full((2, 600), -128), np.full((2, 600), 127)])
    weight = np.full((2, 600, 1), -127) * np.array([1, -1]).reshape(2, 1, 1)
    yield expansion("full_scale", comment, "narrow_accumulator", x, weight, 4, raw([0, 0]))


def _strided_f32() -> Iterator[Case]:
    source = Integers(43)
    x, weight, bias = source.fractions((2, 7, 2), 4.0), source.fractions((3, 2, 2)), source.fractions(2)
    comment = "six random products a sum, bias first, one bin left over"
    flags = "sum_order fused_multiply_add weight_transposed bin_off_by_one"
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", (2, 2, 2))}
    name = "conv_strided_f32"
    yield directed(name, "random", comment, "C-9", flags, given, (weight, bias, False), outputs, seed=43)
    x = f32([0x80000000, 0x7FC00000, 0xBF800000, 0x00000001, 0x7F800000]).reshape(1, 5, 1)
    comment = "a fused ReLU keeps -0 and NaN, and makes negative values +0"
    constants: tuple[Any, ...] = (np.ones((1, 1, 1), np.float32), np.array([-0.0], np.float32), True)
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", (1, 5, 1))}
    yield directed(name, "relu", comment, "C-9", "signed_zero relu_before_zero_point", given, constants, outputs)
    x = np.array([2.0**24, 1, 1, -(2.0**24), 1, 1], np.float32).reshape(1, 3, 2)
    constants = (np.ones((3, 2, 1), np.float32), np.array([1.0], np.float32), False)
    comment = "ones that vanish beside 2^24: taps outside, inputs inside"
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", (1, 1, 1))}
    yield directed(name, "order", comment, "C-9", "sum_order float_width", given, constants, outputs)
    name = "conv_strided_transposed_f32"
    x, weight, bias = source.fractions((2, 3, 3), 4.0), source.fractions((2, 3, 2)), source.fractions(2)
    comment = "three random products a sum, bias first; the last bin is the bias"
    flags = "sum_order fused_multiply_add weight_transposed padding_value"
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", (2, 7, 2))}
    yield directed(name, "random", comment, "C-10", flags, given, (weight, bias), outputs, seed=43)
    bias = np.array([-0.0, 1.0], np.float32)
    x = np.array([-0.0, 2.0**24, 1.0, -(2.0**24)], np.float32).reshape(1, 1, 4)
    comment = "a bin of the output padding is the bias itself, -0 included, and sums lose ones beside 2^24"
    given, outputs = {"x": ("f32", x)}, {"y": ("f32", (1, 3, 2))}
    constants = (np.ones((2, 4, 2), np.float32), bias)
    yield directed(name, "padding", comment, "C-10", "signed_zero padding_value sum_order", given, constants, outputs)
