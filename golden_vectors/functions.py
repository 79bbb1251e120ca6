"""The functions of the numerics level: every rule below the operators, called as an operator is, on whole arrays.

``FUNCTIONS[name](*inputs, *constants, *outputs)`` fills the outputs. Nothing is computed here: each line calls the one place of
refimpl where the rule lives. Functions without inputs are tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from refimpl import audio
from refimpl.numerics import activation, bfloat16, requantize, rounding, tables, transcendental
from refimpl.numerics.jit import kernel
from refimpl.operators import fourier
from refimpl.presets import Preset
from refimpl.profiles import profile_named
from refimpl.program import Format, Tensor
from refimpl.quantization import lowering, scheme
from refimpl.session import frames_of

Array = np.ndarray[Any, np.dtype[Any]]
FUNCTION_NUMBERS = {"sigmoid": tables.SIGMOID, "tanh": tables.TANH}


@kernel
def shift_floor(value, shift, y):
    for i in range(value.size):
        y[i] = rounding.shift_floor(value[i], shift[i])


@kernel
def shift_half_up(value, shift, y):
    for i in range(value.size):
        y[i] = rounding.shift_half_up(value[i], shift[i])


@kernel
def shift_half_even(value, shift, y):
    for i in range(value.size):
        y[i] = rounding.shift_half_even(value[i], shift[i])


@kernel
def shift_half_away(value, shift, y):
    for i in range(value.size):
        y[i] = rounding.shift_half_away(value[i], shift[i])


@kernel
def doubling_high_half_up(a, b, y):
    for i in range(a.size):
        y[i] = rounding.doubling_high_half_up(a[i], b[i])


@kernel
def saturate(value, lowest, highest, y):
    for i in range(value.size):
        y[i] = rounding.saturate(value[i], lowest, highest)


@kernel
def shift_saturate_int32(value, shift, y):
    for i in range(value.size):
        y[i] = rounding.shift_saturate_int32(value[i], shift[i])


@kernel
def round_half_even_f32(value, lowest, highest, y):
    for i in range(value.size):
        y[i] = rounding.round_half_even_f32(value[i], lowest, highest)


@kernel
def bf16_encode(value, y):
    for i in range(value.size):
        y[i] = bfloat16.bf16_encode(value[i])


@kernel
def bf16_decode(pattern, y):
    for i in range(pattern.size):
        y[i] = bfloat16.bf16_decode(pattern[i])


@kernel
def bf16_add(a, b, y):
    for i in range(a.size):
        y[i] = bfloat16.bf16_add(a[i], b[i])


@kernel
def bf16_mul(a, b, y):
    for i in range(a.size):
        y[i] = bfloat16.bf16_mul(a[i], b[i])


@kernel
def bf16_from_scaled(mantissa, exponent, y):
    for i in range(mantissa.size):
        y[i] = bfloat16.bf16_from_scaled(mantissa[i], exponent[i])


@kernel
def exp64(x, y):
    for i in range(x.size):
        y[i] = transcendental.exp64(x[i])


@kernel
def sigmoid64(x, y):
    for i in range(x.size):
        y[i] = transcendental.sigmoid64(x[i])


@kernel
def tanh64(x, y):
    for i in range(x.size):
        y[i] = transcendental.tanh64(x[i])


@kernel
def requantize_accumulators(accumulator, channel, rq, y):
    for i in range(accumulator.size):
        y[i] = requantize.requantize(accumulator[i], channel[i], rq)


@kernel
def complex_fft_128(re, im, twiddle, sign, yr, yi):
    yr[:] = re
    yi[:] = im
    fourier._complex_fft_128(yr, yi, twiddle, sign)


def shipped_table(name: str, y: Array) -> None:
    y[...] = tables.shipped(name)


def code_table(
    scale: Array, zero_point: Array, function: str, bits: int, out_bits: int, out_scale: float, out_zero_point: int, y: Array
) -> None:
    y[...] = tables.code_table(
        FUNCTION_NUMBERS[function], bits, float(scale[0]), int(zero_point[0]), out_bits, out_scale, out_zero_point
    )


def analysis_window(name: str, y: Array) -> None:
    y[...] = lowering.analysis_window(name)


def synthesis_window(name: str, y: Array) -> None:
    y[...] = lowering.synthesis_window(lowering.analysis_window(name))


def inverse_constants(window: str, format: str, scale: float, y: Array, base: Array) -> None:
    b = _builder({}, {"x": format}, {})
    x = Tensor("x", (lowering.BINS, 4), Format(format, scale, 0))
    b.istft(x, window, np.array([0, 2]), np.array([1, 3]))
    constants = next(step.constants for step in b.steps if step.operator == "istft")
    y[...], base[...] = constants[0], constants[2]


def activation_format(low: Array, high: Array, bits: int, scale: Array, zero_point: Array) -> None:
    for i in range(low.size):
        form = scheme.activation_format(float(low[i]), float(high[i]), bits)
        scale[i], zero_point[i] = form.scale, form.zero_point


def quantize_weights(weight: Array, smallest: Array, codes: Array, scale: Array) -> None:
    codes[...], scale[...] = scheme.quantize_weights(weight, 0, smallest)


def symmetric_format(low: Array, high: Array, bits: int, power_of_two: bool, scale: Array) -> None:
    for i in range(low.size):
        scale[i] = scheme.symmetric_format(float(low[i]), float(high[i]), bits, power_of_two).scale


def quantize_layer(weight: Array, smallest: Array, codes: Array, scale: Array) -> None:
    codes[...], scale[...] = scheme.quantize_layer(weight, smallest)


def long_multiplier(ratio: Array, reduced: bool, multiplier: Array, shift: Array) -> None:
    for i in range(ratio.size):
        multiplier[i], shift[i] = (scheme.q15_multiplier if reduced else scheme.q31_multiplier)(float(ratio[i]))


def activation_variant(pattern: Array, variant: str, function: str, y: Array) -> None:
    y[...] = activation.variant(variant).bf16[FUNCTION_NUMBERS[function]][pattern]


def device_code_table(
    scale: Array, zero_point: Array, variant: str, function: str, bits: int, out_bits: int, out_scale: float,
    out_zero_point: int, y: Array,
) -> None:  # fmt: skip
    formats = (bits, float(scale[0]), int(zero_point[0]), out_bits, out_scale, out_zero_point)
    y[...] = activation.device_code_table(activation.variant(variant), FUNCTION_NUMBERS[function], *formats)


def multiplier_search(ratio: Array, bits: int, largest_shift: int, multiplier: Array, shift: Array) -> None:
    for i in range(ratio.size):
        multiplier[i], shift[i] = scheme.frexp_multiplier(float(ratio[i]), bits, largest_shift)


def ratio_of_scales(ratio: Array, profile: str, multiplier: Array, shift: Array) -> None:
    limits = profile_named(profile).multiplier_bits, profile_named(profile).largest_shift
    for i in range(ratio.size):
        multiplier[i], shift[i] = scheme.sdk_multiplier(float(ratio[i]), *limits)


def common_shift_multipliers(ratio: Array, bound: Array, multiplier: Array, shift: Array) -> None:
    found, n = scheme.largest_multipliers(tuple(map(float, ratio)), tuple(map(int, bound)), "case")
    multiplier[...], shift[...] = found, n


def lower_layer(
    weight: Array, bias: Array, x_range: Array, y_range: Array, x_format: str, y_format: str, relu: bool, profile: str,
    codes: Array, total: Array, multiplier: Array, addend: Array, shift: Array, scale: Array, bounds: Array, proof: Array,
) -> None:  # fmt: skip
    """A fully connected layer [out, in] from floats to constants; ``bounds``: pre_shift, lowest, highest, offset.

    ``proof``: the proven magnitudes of accumulator, accumulator of unsigned codes, accumulator + bias, product (O-1).
    """
    formats = {"x": x_format, "y": y_format, "y.weight": "int8"}
    b = _builder({"w.weight": weight, "w.bias": bias}, formats, {"x": x_range, "y": y_range}, profile)
    b.fully_connected("y", b.tensor("x", (1, weight.shape[1])), "w", "channels", relu)
    stored, rq = b.steps[-1].constants
    codes[...] = stored.T
    total[...], multiplier[...], addend[...], shift[...], scale[...] = rq.bias, rq.multiplier, rq.addend, rq.shift, rq.scale
    bounds[...] = rq.pre_shift, rq.lowest, rq.highest, rq.offset
    proofs = b.proofs["y"]
    widest = max((v for k, v in proofs.items() if k.startswith("product")), default=0)
    names = ("accumulator", "accumulator of unsigned codes", "accumulator + bias")
    proof[...] = [*(proofs.get(name, 0) for name in names), widest]


def lower_add(
    a_range: Array, b_range: Array, y_range: Array, a_format: str, b_format: str, y_format: str, profile: str,
    constants: Array, swapped: Array,
) -> None:  # fmt: skip
    """Constants of a residual addition, in the order of the operator that the profile names; zeros behind them."""
    formats = {"a": a_format, "b": b_format, "y": y_format}
    b = _builder({}, formats, {"a": a_range, "b": b_range, "y": y_range}, profile)
    b.add("y", b.tensor("a", (1, 1)), b.tensor("b", (1, 1)))
    _store_constants(b, constants)
    swapped[...] = b.steps[-1].inputs[0].tensor != "a"


def lower_multiply(a_range: Array, b_range: Array, y_range: Array, constants: Array) -> None:
    formats = dict.fromkeys(("a", "b", "y"), "int8")
    b = _builder({}, formats, {"a": a_range, "b": b_range, "y": y_range})
    b.multiply("y", b.tensor("a", (1, 1)), b.tensor("b", (1, 1)))
    _store_constants(b, constants)


def lower_convert(x_range: Array, x_format: str, y_format: str, constants: Array) -> None:
    """Constants of codes to codes of another width (one range for both)."""
    b = _builder({}, {"x": x_format, "y": y_format}, {"x": x_range})
    b.convert("y", b.tensor("x", (1, 1)))
    _store_constants(b, constants)


def lower_multiply_scaled(a_range: Array, b_range: Array, y_range: Array, profile: str, constants: Array) -> None:
    """As :func:`lower_multiply` on a profile that names a law for it."""
    formats = dict.fromkeys(("a", "b", "y"), "int8")
    b = _builder({}, formats, {"a": a_range, "b": b_range, "y": y_range}, profile)
    b.multiply("y", b.tensor("a", (1, 1)), b.tensor("b", (1, 1)))
    _store_constants(b, constants)


def lower_convert_scaled(x_range: Array, x_format: str, y_format: str, profile: str, constants: Array) -> None:
    """As :func:`lower_convert` on a profile that names a law for it."""
    b = _builder({}, {"x": x_format, "y": y_format}, {"x": x_range}, profile)
    b.convert("y", b.tensor("x", (1, 1)))
    _store_constants(b, constants)


def _store_constants(b: lowering.Builder, constants: Array) -> None:
    values = b.steps[-1].constants
    constants[...] = 0
    constants[: len(values)] = values


def _builder(
    weights: dict[str, Array], formats: dict[str, str], ranges: dict[str, Array], profile: str = "gap9"
) -> lowering.Builder:
    table = {name: (float(pair[0]), float(pair[1])) for name, pair in ranges.items()}
    preset = Preset("case", tuple(formats.items()))
    return lowering.Builder(weights, {8: table, 16: table}, preset, profile_named(profile))


def frames(pcm: Array, y: Array) -> None:
    y[...] = frames_of(pcm)


def pcm_of_file(samples: Array, coding: str, channel: str, y: Array) -> None:
    """A WAV file of ``coding`` (a soundfile subtype) with those samples [n, channels], read as the command line reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.wav"
        soundfile.write(path, samples, 16000, subtype=coding)
        y[...] = audio.read_pcm(path, channel="mix" if channel == "mix" else int(channel) if channel else None)


def wav_of_pcm(pcm: Array, y: Array) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "y.wav"
        audio.write_pcm(path, pcm)
        y[...] = np.frombuffer(path.read_bytes(), np.uint8)


FUNCTIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        shift_floor, shift_half_up, shift_half_even, shift_half_away, doubling_high_half_up, saturate,
        shift_saturate_int32, round_half_even_f32, bf16_encode, bf16_decode, bf16_add, bf16_mul, bf16_from_scaled,
        exp64, sigmoid64, tanh64, requantize_accumulators, complex_fft_128, shipped_table, code_table, analysis_window,
        synthesis_window, inverse_constants, activation_format, quantize_weights, multiplier_search, ratio_of_scales,
        symmetric_format, quantize_layer, long_multiplier, activation_variant, device_code_table, lower_multiply_scaled,
        lower_convert_scaled, common_shift_multipliers, lower_layer, lower_add, lower_multiply, lower_convert, frames,
        pcm_of_file, wav_of_pcm,
    )
}  # fmt: skip
