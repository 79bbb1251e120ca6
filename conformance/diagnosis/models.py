"""The rounding end of every operator in NumPy, with knobs. Sums of products always come from the golden operator itself.

With all knobs at their defaults a model gives the golden bits; a test holds every model to that on small networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.diagnosis import bf16
from conformance.diagnosis.roundings import FLOOR, HALF_EVEN, HALF_UP, Law
from conformance.diagnosis.site import Array, Outputs
from conformance.diagnosis.trial import MODELS, Knobs, Trial
from refimpl.numerics.requantize import LAW_BF16, LAW_FOLDED, LAW_RAW

Model = Callable[[Trial], Array]
INTEGER_LAYERS = (
    "fully_connected_frequency", "fully_connected_channels", "conv_causal", "conv_transposed_causal", "conv_strided",
    "conv_strided_transposed", "requantize_accumulators",
)  # fmt: skip
WIDE: dict[str, Model] = {}  # operators that round to BF16: their value before it


def model(*operators: str) -> Callable[[Model], Model]:
    """Registers the model of operators with one output."""

    def register(function: Model) -> Model:
        for operator in operators:
            MODELS[operator] = lambda trial: trial.output(function(trial))
        return function

    return register


def wide(*operators: str) -> Callable[[Model], Model]:
    """Registers what an operator has before it rounds to BF16; its model is the encoding of that."""

    def register(function: Model) -> Model:
        for operator in operators:
            WIDE[operator] = function
            MODELS[operator] = lambda trial: trial.output(encoded(trial, function))
        return function

    return register


def encoded(t: Trial, function: Model) -> Array:
    value = (t.knobs.wide or function)(t)
    return (t.knobs.encode or bf16.encode)(value)


# -- from a rounded value to a stored code ---------------------------------------------------------------------------------


def stored(t: Trial, value: Array, lowest: int, highest: int, zero: int) -> Array:
    """``sat(value, lowest, highest) + zero`` as the output's code, whatever does not fit wrapping around."""
    k, dtype = t.knobs, t.site.case.tensors[t.site.step.outputs[0]].values.dtype
    if k.bounds is not None:
        low, high = k.bounds(lowest + zero, highest + zero)
        lowest, highest = low - zero, high - zero
    if k.early:
        low = int(np.iinfo(dtype).min)
        lowest, highest = max(lowest, low) if k.early == "fused" else low, int(np.iinfo(dtype).max)
    bounded = value if k.wraps else np.clip(value, lowest, highest)
    return (bounded + zero * k.zero).astype(dtype)


def scaled(k: Knobs, value: Array, m: Any, n: Any, last: Law, addend: Array | int = 0) -> Array:
    """``(value * M + addend) / 2^n``, rounded; ``addend`` is the part of a folded bias that is no multiple of M."""
    if k.scaling is not None:
        return k.scaling(value, m, n)
    product = value * m + addend
    if k.product is not None:
        product = k.product(product)
    return (k.last or last).shift(product << np.maximum(-n, 0), n)


# -- layers ----------------------------------------------------------------------------------------------------------------


@model(*INTEGER_LAYERS)
def layer(t: Trial) -> Array:
    rq, c, k = t.requantizer, t.channels(), t.knobs
    if rq.law == LAW_BF16:
        return encoded(t, layer_wide)
    acc = t.accumulators()
    if rq.law == LAW_RAW:
        return (acc + rq.bias[c]).astype(np.int32)
    m, n = rq.multiplier[c].astype(np.int64), rq.shift[c].astype(np.int64)
    if rq.law == LAW_FOLDED:
        folded = rq.addend[c] - ((np.int64(1) << n) >> 1)
        # Whatever is no multiple of M stays an addend: vectors may be made by hand.
        total = folded // np.maximum(m, 1)
        value = scaled(k, acc + total, m, n, HALF_UP, folded - total * m)
    else:
        p = rq.pre_shift if k.pre_shift is None else np.clip(k.pre_shift, 0, n)
        value = acc + rq.bias[c]
        if k.joint or k.scaling is not None:
            value = scaled(k, value, m, n, HALF_UP)
        else:
            value = scaled(k, (k.first or HALF_UP).shift(value, p), m, n - p, HALF_UP)
    return stored(t, value, rq.lowest, rq.highest, rq.offset)


def layer_wide(t: Trial) -> Array:
    rq, c = t.requantizer, t.channels()
    if t.knobs.wide is not None:
        return t.knobs.wide(t)
    return (t.accumulators() + rq.bias[c]).astype(np.int32).astype(np.float32) * rq.scale[c]


# -- element by element ----------------------------------------------------------------------------------------------------


@model("add_two_stage")
def add_two_stage(t: Trial) -> Array:
    k, origin = t.knobs, 0 if t.knobs.signed else 128
    a, b = (x.astype(np.int64) + origin for x in t.inputs)
    ma, na, mo, no, bias = (int(t.constant(label)) for label in ("ma", "na", "mo", "no", "add_bias"))
    if k.joint:
        value = (k.last or HALF_UP).shift((a * ma + (b << na)) * mo, na + no)
    else:
        first = (k.first or HALF_UP).shift(a * ma, na)
        if k.middle is not None:
            first = k.middle(first)
        total = first + b if k.middle is None else k.middle(first + b)
        value = scaled(k, total, mo, no, HALF_UP)
    if k.early:
        return (np.clip(value, 0, 255) + bias - origin).astype(np.int8)
    return np.clip(value + bias, -128, 127).astype(np.int8) if k.signed else stored(t, value + bias, 0, 255, -128)


@model("add_joint")
def add_joint(t: Trial) -> Array:
    k, (a, b) = t.knobs, (x.astype(np.int64) for x in t.inputs)
    za, zb, ma, mb, n, zero, low, high = map(int, t.constants)
    if k.split:
        law = k.last or HALF_UP
        value = law.shift((a - za) * ma, n) + law.shift((b - zb) * mb, n)
    else:
        value = scaled(k, (a - za) * ma + (b - zb) * mb, 1, n, HALF_UP)
    return stored(t, value, low - zero, high - zero, zero)


@model("multiply")
def multiply(t: Trial) -> Array:
    k, (a, b) = t.knobs, (x.astype(np.int64) for x in t.inputs)
    za, zb, m, n, zero, low, high = map(int, t.constants)
    value = scaled(k, (a - za) * (b - zb), m, n, HALF_UP)
    return stored(t, value, low - zero, high - zero, zero)


@model("requantize_codes")
def requantize_codes(t: Trial) -> Array:
    source, m, n, zero, low, high = map(int, t.constants)
    value = scaled(t.knobs, t.inputs[0].astype(np.int64) - source, m, n, HALF_UP)
    return stored(t, value, low - zero, high - zero, zero)


# -- conversions -----------------------------------------------------------------------------------------------------------


@model("quantize_f32", "quantize_bf16")
def quantize(t: Trial) -> Array:
    x = t.inputs[0] if t.site.operator == "quantize_f32" else (t.knobs.decode or bf16.decode)(t.inputs[0])
    zero, low, high = (int(t.constant(label)) for label in ("zero_point", "lowest", "highest"))
    product = t.knobs.wide(t) if t.knobs.wide is not None else x * np.float32(t.constant("inverse_scale"))
    if t.knobs.zero_first:
        return np.clip(integer(t, product.astype(np.float32) + np.float32(zero)), low, high)
    return stored(t, integer(t, product), low - zero, high - zero, zero)


def integer(t: Trial, value: Array) -> Array:
    """A float to an integer, as int64 bounded far beyond any code; NaN gives 0 (SPEC N-6)."""
    bounded = np.clip(
        np.nan_to_num(np.asarray(value, np.float64), nan=0.0, posinf=2.0**40, neginf=-(2.0**40)), -(2.0**40), 2.0**40
    )
    out: Array = (t.knobs.last or HALF_EVEN).real(bounded).astype(np.int64)
    return out


@model("dequantize_f32")
def dequantize_f32(t: Trial) -> Array:
    out: Array = (t.knobs.wide or dequantized)(t).astype(np.float32)
    return out


@wide("dequantize_bf16")
def dequantized(t: Trial) -> Array:
    return (t.inputs[0].astype(np.int64) - int(t.constant("zero_point"))).astype(np.float32) * np.float32(t.constant("scale"))


@wide("narrow_bf16", "bf16_encode")
def narrowed(t: Trial) -> Array:
    return t.inputs[0]


@model("widen_bf16", "bf16_decode")
def widened(t: Trial) -> Array:
    return (t.knobs.decode or bf16.decode)(t.inputs[0])


@wide("add_bf16", "bf16_add")
def sum_bf16(t: Trial) -> Array:
    a, b = ((t.knobs.decode or bf16.decode)(x) for x in t.inputs)
    return a + b


@wide("multiply_bf16", "bf16_mul")
def product_bf16(t: Trial) -> Array:
    a, b = ((t.knobs.decode or bf16.decode)(x) for x in t.inputs)
    return a * b


@wide("conv_causal_bf16", "conv_transposed_causal_bf16")
def conv_bf16(t: Trial) -> Array:
    x = (t.knobs.decode or bf16.decode)(t.inputs[0])
    name = t.site.step.outputs[0]
    operator = t.site.operator.replace("_bf16", "_f32")
    return t.site.run((x,), t.constants, dtypes={name: np.float32}, operator=operator)[name]


@wide("block_to_bf16", "bf16_from_scaled")
def block_wide(t: Trial) -> Array:
    """Exact: a mantissa has 31 bits."""
    mantissa, exponent = (x.astype(np.int64) for x in t.inputs)
    power = -22 - exponent[:, :, None] if t.site.operator == "block_to_bf16" else exponent
    return np.ldexp(mantissa.astype(np.float64), power)


@model("block_to_code")
def block_to_code(t: Trial) -> Array:
    m, n, zero, low, high = map(int, t.constants)
    shift = n + t.inputs[1].astype(np.int64)[:, :, None]
    value = scaled(t.knobs, t.inputs[0].astype(np.int64), m, shift, HALF_EVEN)
    return stored(t, value, low - zero, high - zero, zero)


def bf16_to_block(t: Trial, joint: bool = False) -> Outputs:
    """SPEC F-7 with another rounding where smaller exponents are aligned; ``joint``: one exponent for all speakers."""
    x, re, im = t.inputs[0].astype(np.int64), t.constant("re"), t.constant("im")
    parts = np.stack([x[:, :, re], x[:, :, im]], -1).transpose(0, 2, 1, 3)
    size = parts & 0x7FFF
    size = np.where(size > 0x7F80, 0, np.minimum(size, 0x7F7F))
    largest = np.broadcast_to(size.max((1, 2, 3) if joint else (2, 3), keepdims=True), (*size.shape[:2], 1, 1))
    top, fields = np.maximum(largest >> 7, 1), size >> 7
    units = (size & 127) + np.where(fields > 0, 128, 0)
    sign = np.where(parts >= 0x8000, -1, 1)
    law, distance = t.knobs.last or HALF_EVEN, top - np.maximum(fields, 1)
    value = law.shift(sign * (units << 13), distance) if t.knobs.signed else sign * law.shift(units << 13, distance)
    exponent = np.where(largest > 0, 147 - top, 0)[:, :, 0, 0]
    names = t.site.step.outputs
    return {names[0]: value.astype(np.int32), names[1]: exponent.astype(np.int32)}


MODELS["bf16_to_block"] = bf16_to_block


# -- the end of the transform ----------------------------------------------------------------------------------------------


def to_pcm(t: Trial) -> Outputs:
    if t.site.operator == "to_pcm":
        value = (t.knobs.last or HALF_EVEN).shift(t.inputs[0].astype(np.int64), 12 + t.knobs.shift)
    else:
        value = np.clip(integer(t, t.inputs[0] * np.float32(32768.0)), -(1 << 23), 1 << 23)
    low, high = (-32768, 32767) if t.knobs.bounds is None else t.knobs.bounds(-32768, 32767)
    bounded = np.clip(value, low, high)
    names = t.site.step.outputs
    counts = (bounded != value).sum(2).astype(np.int32)
    return {names[0]: (value if t.knobs.wraps else bounded).astype(np.int16), names[1]: counts}


MODELS["to_pcm"] = MODELS["to_pcm_f32"] = to_pcm


@model("overlap_add")
def overlap_add(t: Trial) -> Array:
    total, tail = t.inputs[0].astype(np.int64), t.inputs[1].astype(np.int64)
    total[:, :, : tail.shape[2]] += tail
    return stored(t, total, -(1 << 31), (1 << 31) - 1, 0)


# -- functions of the numerics level ---------------------------------------------------------------------------------------


@model("shift_floor", "shift_half_up", "shift_half_even")
def shifted(t: Trial) -> Array:
    value, shift = t.inputs[0].astype(np.int64), t.inputs[1].astype(np.int64) + t.knobs.shift
    rule = {"shift_floor": FLOOR, "shift_half_up": HALF_UP, "shift_half_even": HALF_EVEN}[t.site.operator]
    beyond = (shift >= 63) & (t.site.operator == "shift_half_even")
    return np.where(beyond, 0, (t.knobs.last or rule).shift(value, shift))


@model("shift_saturate_int32")
def shift_saturate_int32(t: Trial) -> Array:
    value, shift = t.inputs[0].astype(np.int64), t.inputs[1].astype(np.int64) + t.knobs.shift
    low, high = (-(1 << 31), (1 << 31) - 1) if t.knobs.bounds is None else t.knobs.bounds(-(1 << 31), (1 << 31) - 1)
    result = shift_saturated(value, shift, t.knobs.last or HALF_UP, "right left" if t.knobs.wraps else "")
    return result if t.knobs.wraps else np.clip(result, low, high)


def shift_saturated(value: Array, shift: Array, law: Law, wraps: str) -> Array:
    """SPEC N-5 with another rounding; shifts to the sides that ``wraps`` names keep the low 32 bits, ``uncut`` of the whole."""
    low, high = -(1 << 31), (1 << 31) - 1
    right = np.where(shift >= 63, 0, law.shift(value, shift))
    right = right.astype(np.int32).astype(np.int64) if "right" in wraps else np.clip(right, low, high)
    distance = np.clip(-shift, 0, 31)
    bounded = (value if "uncut" in wraps else np.clip(value, low, high)) << distance
    left = (bounded.astype(np.int32).astype(np.int64)) if "left" in wraps else np.clip(bounded, low, high)
    return np.where(shift >= 0, right, left)


@model("saturate")
def saturated(t: Trial) -> Array:
    return stored_wide(t, t.inputs[0].astype(np.int64), int(t.constant("lowest")), int(t.constant("highest")))


@model("round_half_even_f32")
def rounded(t: Trial) -> Array:
    return stored_wide(t, integer(t, t.inputs[0]), int(t.constant("lowest")), int(t.constant("highest")))


def stored_wide(t: Trial, value: Array, low: int, high: int) -> Array:
    """Saturation of results that are kept in 64 bits; without it they wrap at the width of the bounds."""
    if t.knobs.wraps:
        span = high - low + 1
        return low + (value - low) % span if span < 1 << 62 else value
    if t.knobs.bounds is not None:
        low, high = t.knobs.bounds(low, high)
    return np.clip(value, low, high)
