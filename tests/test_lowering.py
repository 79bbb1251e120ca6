"""Lowering (SPEC L-1, L-2, G-1 to G-4, E-1 to E-3, Q-2, Q-3, Q-8 to Q-10, O-1): constants and kernels by rationals.

The oracle is written from the formulas of SPEC G, Q and O for ``gap9``: exact rational arithmetic from
the float weights and the formats of input and output. Nothing of it comes from ``refimpl.quantization``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from refimpl.errors import InputError
from refimpl.presets import Preset
from refimpl.profiles import GAP9
from refimpl.program import DTYPES, OPERATORS, Format, Step
from refimpl.quantization.lowering import Builder

LAW = settings(deadline=None, max_examples=70)
HALF = Fraction(1, 2)
Range = tuple[float, float]


def half_up(value: Fraction) -> int:
    return math.floor(value + HALF)


def clamp(value: int, lowest: int, highest: int) -> int:
    return sorted((lowest, value, highest))[1]


def builder(weights: dict[str, np.ndarray], ranges: dict[str, Range], **kinds: str) -> Builder:
    """A builder for tensors in the formats ``kinds``; weights are int8."""
    formats = (("*.weight", "int8"), *kinds.items())
    return Builder(weights, {8: ranges, 16: ranges}, Preset("test", formats), GAP9)


def execute(step: Step, y: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    OPERATORS[step.operator](*inputs, *step.constants, y)
    return y


# -- the oracle -------------------------------------------------------------------------------------------------------


class DoesNotFitError(Exception):
    """No constants keep the layer inside 32 bits: lowering must refuse it."""


class NearTieError(Exception):
    """The exact value is so near to a tie that FP64 constants may fall on either side."""


def decided(value: Fraction, rounded: int, exact_ties: bool = True) -> int:
    """``rounded``, unless a value that is not itself a tie lies within 2^-48 of one, relative to it.

    Scales are float64: constants computed from them carry some relative errors of 2^-53. Without ``exact_ties`` (sums
    that cancel) the margin is 2^-17, and a tie of the rationals need not be one in float64 either.
    """
    distance = abs(abs(value - math.floor(value)) - HALF)
    if exact_ties and 0 < distance < max(Fraction(1), abs(value)) / 2**48:
        raise NearTieError
    if not exact_ties and distance < Fraction(1, 2**17):
        raise NearTieError
    return rounded


def multiplier(ratio: Fraction, bits: int) -> tuple[int, int] | None:
    """(M, n) of the search from ``bits`` down, or None where n leaves 0 .. 24."""
    exponent = 0
    while ratio >= Fraction(2) ** exponent:
        exponent += 1
    while ratio < Fraction(2) ** (exponent - 1):
        exponent -= 1
    for b in range(bits, -1, -1):
        scaled = ratio * Fraction(2) ** (b - exponent)
        m, n = decided(scaled, half_up(scaled)), b - exponent
        if b == 0:
            m = 1
        elif (m % 2 == 0 or m == 2**b or n > 24) and not (n == 0 and m < 2**bits):
            continue
        return (m, n) if 0 <= n <= 24 else None
    return None


@dataclass(frozen=True)
class Row:
    """Constants of one output channel; ``unit`` is the real value of an accumulator of one."""

    codes: list[int]
    unit: Fraction
    total: int
    m: int
    n: int
    low: int  # extremes of the accumulator over all inputs
    high: int


def oracle_row(weight: list[float], bias: float, fx: Format, fy: Format, folded: bool) -> Row:
    """SPEC Q-2, Q-3, G-1, O-1: scales, codes, folded bias, multiplier, and whether all of it fits."""
    exact = [Fraction(w) for w in weight]
    largest = max(abs(w) for w in exact)
    # SPEC Q-2: no channel's unit is so small that n passes 24, or the bias 2^23.
    least = max(abs(bias) * 2.0**-23, fy.scale * 2.0**-22)
    d = max(Fraction(float(largest / 127)), Fraction(least / fx.scale))
    codes = [decided(w / d, round(w / d)) for w in exact]
    unit = Fraction(fx.scale) * d
    if not any(codes):
        unit = Fraction(fy.scale) / 256  # a channel without weights: the bias in 1/256 of an output step
    step, half = Fraction(fy.scale), 2 ** (fy.bits - 1)
    b = decided(Fraction(bias) / unit, round(Fraction(bias) / unit))
    zero = (fy.zero_point + half) * step / unit
    total = b - fx.zero_point * sum(codes) + (decided(zero, half_up(zero)) if folded else 0)
    ends = [sorted((q * fx.lowest, q * fx.highest)) for q in codes]
    low, high = sum(e[0] for e in ends), sum(e[1] for e in ends)
    unsigned = max(sum(q for q in codes if q > 0), -sum(q for q in codes if q < 0)) * (2**fx.bits - 1)
    if max(abs(low), abs(high), abs(low + total), abs(high + total), unsigned) >= 2**31:
        raise DoesNotFitError
    bits = min(8, 31 - max(math.ceil(math.log2(len(codes))) + 14, abs(b).bit_length()))
    for width in range(bits, -1, -1):
        found = multiplier(unit / step, width)
        if found is None:
            continue
        m, n = found
        addend = total * m + (2 ** (n - 1) if n else 0)
        reached = (low * m, high * m, addend, low * m + addend, high * m + addend)
        if not folded:  # SPEC O-1: the largest magnitude, through both roundings with this channel's own p
            pre = min(8, n)
            widest = max(abs(low + total), abs(high + total)) + (2**pre >> 1)
            reached = ((widest >> pre) * m + (2 ** (n - pre) >> 1),)
        if max(map(abs, reached)) < 2**31:
            return Row(codes, unit, total, m, n, low, high)
    raise DoesNotFitError


def oracle_output(row: Row, acc: int, pre: int, fy: Format, folded: bool, relu: bool) -> int:
    """The stored (signed) code: both laws on unsigned codes, the ReLU at the unsigned zero point."""
    half = 2 ** (fy.bits - 1)
    if folded:
        b = row.total * row.m + (2 ** (row.n - 1) if row.n else 0)
        value = math.floor(Fraction(acc * row.m + b, 2**row.n))
    else:
        value = half_up(Fraction(half_up(Fraction(acc + row.total, 2**pre)) * row.m, 2 ** (row.n - pre)))
        value += fy.zero_point + half
    return clamp(value, fy.zero_point + half if relu else 0, 2 * half - 1) - half


# -- fully connected layers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    weight: np.ndarray
    bias: np.ndarray
    x_range: Range
    y_range: Range
    x_kind: str = "int8"
    y_kind: str = "int8"
    relu: bool = False
    axis: str = "channels"

    def lower(self) -> Builder:
        made = builder(
            {"k.weight": self.weight, "k.bias": self.bias},
            {"x": self.x_range, "y": self.y_range},
            x=self.x_kind,
            y=self.y_kind,
        )
        inputs = self.weight.shape[1]
        x = made.tensor("x", (inputs, 3) if self.axis == "frequency" else (3, inputs))
        made.fully_connected("y", x, "k", self.axis, self.relu)
        return made

    def run(self, made: Builder, vectors: np.ndarray) -> np.ndarray:
        """Outputs [N, out] of input vectors [N, in] (N a multiple of 3) through the one step."""
        count, outputs = len(vectors) // 3, self.weight.shape[0]
        x = vectors.reshape(count, 3, -1)
        y = np.empty((count, 3, outputs), DTYPES[self.y_kind])
        if self.axis == "frequency":
            turned = np.empty((count, outputs, 3), DTYPES[self.y_kind])
            y = execute(made.steps[0], turned, np.ascontiguousarray(x.transpose(0, 2, 1))).transpose(0, 2, 1)
        else:
            execute(made.steps[0], y, np.ascontiguousarray(x))
        return y.reshape(-1, outputs)

    def vectors(self, rows: list[Row], form: Format, seed: int) -> np.ndarray:
        """Random inputs, padding (the zero point), and for every channel the inputs of its extreme accumulators."""
        rng = np.random.Generator(np.random.PCG64(seed))
        inputs = self.weight.shape[1]
        made = list(rng.integers(form.lowest, form.highest + 1, (24, inputs)))
        made += [np.clip(form.zero_point + rng.integers(-2, 3, inputs), form.lowest, form.highest) for _ in range(6)]
        made += [np.full(inputs, form.zero_point)]
        for row in rows:
            positive = np.array(row.codes) > 0
            made += [np.where(positive, form.highest, form.lowest), np.where(positive, form.lowest, form.highest)]
        made += [made[0]] * (-len(made) % 3)
        return np.array(made).astype(DTYPES[form.kind])


@st.composite
def layers(draw: st.DrawFn, x_kind: str = "int8", y_kind: str = "int8") -> Layer:
    """Small layers: 1 to 9 inputs, 1 to 4 outputs, channels of different size, some without weights or bias."""
    outputs, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rng = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    size = np.exp2(rng.uniform(-5, 1, outputs)) * (rng.random(outputs) > 0.15)
    weight = (rng.uniform(-1, 1, (outputs, inputs)) * size[:, None]).astype(np.float32)
    bias = (rng.uniform(-1, 1, outputs) * np.exp2(rng.uniform(-8, 2)) * (rng.random(outputs) > 0.2)).astype(np.float32)

    def activation() -> Range:
        low, high = draw(st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-1.0, 0.1), (-0.3, 1.0)]))
        width = 2.0 ** draw(st.floats(-3, 5))
        return low * width, high * width

    axis = draw(st.sampled_from(["channels", "frequency"]))
    return Layer(weight, bias, activation(), activation(), x_kind, y_kind, draw(st.booleans()), axis)


def products(row: Row, pre: int) -> list[int]:
    """The values before the second shift of the 16-bit law at the extreme accumulators, rounding constant included."""
    constant = 2 ** (row.n - pre - 1) if row.n > pre else 0
    return [half_up(Fraction(acc + row.total, 2**pre)) * row.m + constant for acc in (row.low, row.high)]


def bounds_16(row: Row, pre: int) -> tuple[int, int]:
    """SPEC O-1 for the 16-bit law: the sum with the first rounding constant, and the product with the second."""
    widest = max(abs(row.low + row.total), abs(row.high + row.total)) + (2**pre >> 1)
    return widest, (widest >> pre) * row.m + (2 ** (row.n - pre) >> 1)


def check(layer: Layer, seed: int) -> tuple[Builder, list[Row]]:
    """The lowered step equals the oracle on random and extreme inputs; returns what was lowered."""
    folded = layer.x_kind == layer.y_kind == "int8"
    probe = builder({}, {"x": layer.x_range, "y": layer.y_range}, x=layer.x_kind, y=layer.y_kind)
    fx, fy = probe.tensor("x", ()).format, probe.tensor("y", ()).format
    try:
        channels = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        rows = [oracle_row(weight, bias, fx, fy, folded) for weight, bias in channels]
        pre = min(8, *(row.n for row in rows))
        if not folded and max(max(bounds_16(row, pre)) for row in rows) >= 2**31:
            raise DoesNotFitError
    except DoesNotFitError:
        with pytest.raises(InputError, match=r"^y: "):
            layer.lower()
        assume(False)
    made = layer.lower()
    vectors = layer.vectors(rows, fx, seed)
    got = layer.run(made, vectors)
    for x, outputs in zip(vectors.tolist(), got.tolist(), strict=True):
        accumulators = [sum(q * v for q, v in zip(row.codes, x, strict=True)) for row in rows]
        pairs = zip(rows, accumulators, strict=True)
        assert outputs == [oracle_output(row, acc, pre, fy, folded, layer.relu) for row, acc in pairs]
    return made, rows


def extremes(rows: list[Row]) -> tuple[int, int]:
    """The largest |acc| and |acc + bias| that inputs can reach."""
    bare = max(max(abs(row.low), abs(row.high)) for row in rows)
    return bare, max(max(abs(row.low + row.total), abs(row.high + row.total)) for row in rows)


@LAW
@given(layers(), st.integers(0, 2**32))
def test_8_bit_layers_equal_the_formula(layer: Layer, seed: int) -> None:
    """``y = sat8((acc M + B) >> n)``, bias, zero points and rounding folded; proofs are what extreme inputs reach."""
    try:
        made, rows = check(layer, seed)
    except NearTieError:
        assume(False)
    proofs = made.proofs["y"]
    assert (proofs["accumulator"], proofs["accumulator + bias"]) == extremes(rows)
    for row in rows:
        addend = row.total * row.m + (2 ** (row.n - 1) if row.n else 0)
        for acc in (row.low, row.high):
            assert max(abs(acc * row.m), abs(addend), abs(acc * row.m + addend)) <= proofs["product + addend"] < 2**31


@LAW
@given(st.sampled_from([("int16", "int16"), ("int8", "int16"), ("int16", "int8")]), st.data())
def test_16_bit_layers_equal_the_formula(kinds: tuple[str, str], data: st.DataObject) -> None:
    """``y = sat(norm(norm(acc + bias, p) M, n - p))``, p = min(8, the smallest n) of the layer."""
    layer = data.draw(layers(*kinds))
    try:
        made, rows = check(layer, data.draw(st.integers(0, 2**32)))
    except NearTieError:
        assume(False)
    proofs = made.proofs["y"]
    p = min(8, *(row.n for row in rows))
    bare, widest = extremes(rows)
    assert (proofs["accumulator"], proofs["accumulator + bias"]) == (bare, widest + (2**p >> 1))
    assert max(abs(v) for row in rows for v in products(row, p)) <= proofs["product"] < 2**31


@LAW
@given(st.sampled_from(["int8", "int16"]), st.data())
def test_layers_to_bf16_equal_the_formula(x_kind: str, data: st.DataObject) -> None:
    """BF16(FP32(acc + bias) * FP32(S_in S_w)): numpy's and ml_dtypes' roundings on an exact sum."""
    layer = data.draw(layers(x_kind, "bf16"))
    layer = Layer(layer.weight, layer.bias, layer.x_range, layer.y_range, x_kind, "bf16", False, layer.axis)
    fx = builder({}, {"x": layer.x_range}, x=x_kind).tensor("x", ()).format
    rows = []
    try:
        for w, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            largest = max(abs(Fraction(v)) for v in w)
            d = max(Fraction(float(largest / 127)), Fraction(abs(b) * 2.0**-23 / fx.scale)) or Fraction(1)
            codes = [decided(v / d, round(v / d)) for v in map(Fraction, w)]
            # A channel without weights takes 2^-15 of its bias for the unit, so that the bias comes out exactly.
            unit = Fraction(fx.scale) * d if any(codes) else abs(Fraction(b)) / 2**15 or Fraction(1)
            total = decided(Fraction(b) / unit, round(Fraction(b) / unit)) - fx.zero_point * sum(codes)
            rows.append(Row(codes, unit, total, 1, 0, 0, 0))
            reach = abs(total) + sum(map(abs, codes)) * -fx.lowest
            # Nine inputs of 16 bits are far from 2^31; only the bias, in units of a channel of tiny weights, is not.
            if abs(Fraction(b) / unit) >= 2**31 or reach >= 2**31:
                raise DoesNotFitError
    except NearTieError:
        assume(False)
    except DoesNotFitError:
        assume(reach >= 2**31 + 2**26)  # not so near that the exact bound matters
        with pytest.raises(InputError, match=r"^y: "):
            layer.lower()
        return
    made = layer.lower()
    vectors = layer.vectors(rows, fx, data.draw(st.integers(0, 2**32)))
    got = layer.run(made, vectors)
    for c, row in enumerate(rows):
        acc = np.array([sum(q * v for q, v in zip(row.codes, x, strict=True)) for x in vectors.tolist()])
        real = (acc + row.total).astype(np.int32).astype(np.float32) * np.float32(float(row.unit))
        np.testing.assert_array_equal(got[:, c], real.astype(ml_dtypes.bfloat16).view(np.uint16))
        if not any(row.codes):
            bias = np.array([layer.bias[c]]).astype(ml_dtypes.bfloat16).view(np.uint16)
            assert (got[:, c] == bias).all() or layer.bias[c] == 0


def integer_range(zero: int, scale: float = 1.0, bits: int = 8) -> Range:
    """The range whose format has exactly this scale (of few bits) and this unsigned zero point."""
    return -zero * scale, ((1 << bits) - 1 - zero) * scale


@pytest.mark.parametrize("zero_in", [0, 128, 255])
@pytest.mark.parametrize("zero_out", [0, 101, 255])
def test_bias_and_zero_points_at_exact_ties(zero_in: int, zero_out: int) -> None:
    """Scales of one and 5/2 and largest weight 127: every constant is exact, so biases tie to even, zero points up."""
    weight = np.array([[127.0, -3, 5], [1, 0, -127], [-127, 127, 2], [127, 0, 0]], np.float32)
    bias = np.array([0.5, 1.5, -2.5, 1001.5], np.float32)  # in units of the accumulator: ties
    layer = Layer(weight, bias, integer_range(zero_in), integer_range(zero_out, 2.5))
    _, rows = check(layer, 5)
    zero = Fraction(5, 2) * zero_out  # zero_out * S_out / (S_in * S_w): a tie where odd, up
    assert [row.total for row in rows] == [
        round(Fraction(b)) - (zero_in - 128) * int(row.sum()) + half_up(zero)
        for b, row in zip(bias.tolist(), weight, strict=True)
    ]


@pytest.mark.parametrize("axis", ["channels", "frequency"])
@pytest.mark.parametrize("kinds", [("int8", "int8"), ("int16", "int16"), ("int16", "int8"), ("int8", "int16")])
def test_relu_clamps_at_the_zero_point(axis: str, kinds: tuple[str, str]) -> None:
    """With ReLU the output is the plain output, raised to the zero point where it lies below; both happen."""
    rng = np.random.Generator(np.random.PCG64(50))
    weight, bias = rng.uniform(-1, 1, (4, 8)).astype(np.float32), np.zeros(4, np.float32)
    plain = Layer(weight, bias, (-1.0, 1.0), (-2.0, 3.0), *kinds, False, axis)
    fused = Layer(weight, bias, (-1.0, 1.0), (-2.0, 3.0), *kinds, True, axis)
    made = plain.lower()
    form = made.tensors["x"].format
    x = rng.integers(form.lowest, form.highest + 1, (99, 8)).astype(DTYPES[form.kind])
    zero = made.tensors["y"].format.zero_point
    before, after = plain.run(made, x), fused.run(fused.lower(), x)
    np.testing.assert_array_equal(after, np.maximum(before, zero))
    assert (before < zero).any() and (before > zero).any()


def test_relu_into_bf16_is_kept_or_refused() -> None:
    weight, bias, one = np.ones((1, 2), np.float32), np.full(1, -5.0, np.float32), (-1.0, 1.0)
    layer = Layer(weight, bias, one, one, "int8", "bf16", True)
    try:
        made = layer.lower()
    except InputError:
        return
    y = layer.run(made, np.zeros((3, 2), np.int8))
    assert (y.view(ml_dtypes.bfloat16).astype(np.float32) >= 0).all()


@LAW
@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=5),
    st.sampled_from([(-1.0, 1.0), (0.0, 2.0), (-3.0, 0.5)]),
    st.sampled_from(["int8", "int16"]),
    st.sampled_from(["int8", "int16"]),
)
def test_channel_without_weights_gives_its_bias(biases: list[float], y_range: Range, x_kind: str, y_kind: str) -> None:
    """Whatever the input: the nearest code to the bias, saturated (within half a step and the bias's own 1/512)."""
    weight, bias = np.zeros((len(biases), 3), np.float32), np.array(biases, np.float32)
    layer = Layer(weight, bias, (-1.0, 1.0), y_range, x_kind, y_kind)
    made = layer.lower()
    x, y = made.tensors["x"].format, made.tensors["y"].format
    vectors = np.random.Generator(np.random.PCG64(51)).integers(x.lowest, x.highest + 1, (6, 3))
    got = layer.run(made, vectors.astype(DTYPES[x_kind]))
    assert (got == got[0]).all()
    low, high = (y.lowest - y.zero_point) * y.scale, (y.highest - y.zero_point) * y.scale
    real = (got[0].astype(np.float64) - y.zero_point) * y.scale
    assert (np.abs(real - np.clip(bias, low, high)) <= y.scale * (0.5 + 2.0**-8)).all()


def test_output_is_the_float_layer_within_its_steps() -> None:
    """Against float64, not against the rule: the constants mean what they should.

    Error of an output inside its range: half a step of rounding, half a step for the folded zero point and bias, the
    multiplier's 2^-8 of the sum before it (raw, so up to 255 steps and the offset), and half a code of each weight.
    """
    rng = np.random.Generator(np.random.PCG64(52))
    weight = rng.uniform(-1, 1, (16, 24)).astype(np.float32)
    bias = rng.uniform(-1, 1, 16).astype(np.float32)
    for kinds, multiplier_error in ((("int8", "int8"), 2.0**-8), (("int16", "int16"), 2.0**-8)):
        layer = Layer(weight, bias, (-1.0, 1.5), (-9.0, 9.0), *kinds)
        made = layer.lower()
        fx, fy = made.tensors["x"].format, made.tensors["y"].format
        codes = rng.integers(fx.lowest, fx.highest + 1, (300, 24))
        got = fy.real(layer.run(made, codes.astype(DTYPES[kinds[0]])))
        x = (codes - fx.zero_point) * fx.scale
        exact = x @ weight.T.astype(np.float64) + bias
        raw = np.abs(exact) + (fy.zero_point - fy.lowest) * fy.scale
        bound = 1.01 * fy.scale + multiplier_error * raw + np.abs(x).sum(1)[:, None] * np.abs(weight).max() / 254
        assert (np.abs(got - np.clip(exact, -9, 9)) <= bound).all()


def test_a_channel_that_does_not_fit_takes_a_coarser_multiplier() -> None:
    """8192 inputs of the largest weight: four bits are left for M by the rule, but acc M + B needs 32; three fit."""
    weight = np.ones((1, 8192), np.float32)
    layer = Layer(weight, np.zeros(1, np.float32), integer_range(0, 1 / 256), (0.0, 68.0))
    made, rows = check(layer, 6)
    row = rows[0]
    assert row.total.bit_length() == 27
    finest = multiplier(row.unit / Fraction(made.tensors["y"].format.scale), 31 - 27)
    assert finest is not None and finest[0] > row.m
    assert row.high * finest[0] + row.total * finest[0] >= 2**31


@pytest.mark.parametrize("inputs", [256, 511, 512, 513, 1024, 1025, 2048])
def test_bits_of_the_multiplier_by_the_number_of_products(inputs: int) -> None:
    """b <= 31 - (ceil(log2 K) + 14) begins to bind at 513 products; a power of two has no bit more than it needs."""
    rng = np.random.Generator(np.random.PCG64(54))
    bits = set()
    for scale in (0.77, 0.83, 0.89, 0.97):
        weight = rng.uniform(-1, 1, (3, inputs)).astype(np.float32)
        layer = Layer(weight, np.zeros(3, np.float32), (-1.0, 1.0), (-40.0 * scale, 40.0))
        _, rows = check(layer, 7)
        bits |= {row.m.bit_length() for row in rows}
    assert max(bits) == min(8, 17 - math.ceil(math.log2(inputs)))


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(layer: Layer, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        layer.lower()
    message = str(caught.value)
    assert message.startswith("y: ") and message.isprintable(), message
    for word in words:
        assert word in message, (word, message)


def test_accumulator_overflow_is_refused() -> None:
    """259 * 127 * 65535 is the first sum of unsigned 16-bit inputs beyond int32; 258 inputs still fit."""
    y_range = (0.0, 10.0)
    fits = Layer(np.ones((1, 258), np.float32), np.zeros(1, np.float32), (-1.0, 1.0), y_range, "int16", "int16")
    assert fits.lower().proofs["y"]["accumulator of unsigned codes"] == 258 * 127 * 65535 < 2**31
    assert fits.lower().proofs["y"]["accumulator"] == 258 * 127 * 32768
    beyond = Layer(np.ones((1, 259), np.float32), np.zeros(1, np.float32), (-1.0, 1.0), y_range, "int16", "int16")
    refused(beyond, "accumulator", str(259 * 127 * 65535), "32 bits")


def test_sum_with_bias_overflow_is_refused() -> None:
    """The accumulator alone fits, but not with the bias that the input's zero point adds."""
    weight, bias = np.ones((1, 258), np.float32), np.full(1, 1.0, np.float32)
    layer = Layer(weight, bias, (0.0, 1.0), (0.0, 600.0), "int16", "int16")
    refused(layer, "accumulator + bias")


def test_bias_overflow_is_refused() -> None:
    layer = Layer(np.full((2, 3), 1e-3, np.float32), np.array([0.0, 1e6], np.float32), (-1.0, 1.0), (-1.0, 1.0))
    refused(layer, "bias of channel 1", "32 bits")


def test_ratio_out_of_reach_is_refused() -> None:
    """A ratio that needs a negative n is none that the profile has."""
    zeros = np.zeros(2, np.float32)
    large = Layer(np.array([[1e3, 1.0], [1.0, 0.0]], np.float32), zeros, (-1.0, 1.0), (0.0, 1e-3))
    refused(large, "channel 0", "no multiplier")


@pytest.mark.parametrize("size", [1e-7, 1e-18, 1e-38])
def test_channel_of_vanishing_weights_is_the_bias(size: float) -> None:
    """A channel that died in weight decay, beside ordinary ones: its codes vanish, its bias comes out within a step."""
    weight = np.array([[1.0, 1.0], [size, size]], np.float32)
    layer = Layer(weight, np.array([0.0, 0.25], np.float32), (-1.0, 1.0), (-1.0, 1.0))
    made = layer.lower()
    form = made.tensors["y"].format
    got = layer.run(made, np.array([[-128, -128], [127, 127], [0, 0]], np.int8))[:, 1]
    assert np.abs((got.astype(float) - form.zero_point) * form.scale - 0.25).max() <= form.scale


def test_formats_without_an_operator_are_refused() -> None:
    weights = {"k.weight": np.ones((2, 2), np.float32), "k.bias": np.zeros(2, np.float32)}
    for x_kind, y_kind in (("bf16", "int8"), ("f32", "int8"), ("int8", "f32")):
        made = builder(weights, {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}, x=x_kind, y=y_kind)
        with pytest.raises(InputError, match=r"^y: no operator takes"):
            made.fully_connected("y", made.tensor("x", (3, 2)), "k", "channels")


def test_missing_range_is_refused() -> None:
    with pytest.raises(InputError, match="'x'"):
        builder({}, {"y": (-1.0, 1.0)}, x="int8").tensor("x", (1,))


# -- adds, products, conversions --------------------------------------------------------------------------------------

CODES = np.arange(-128, 128)
PAIR_A, PAIR_B = (np.ascontiguousarray(g.astype(np.int8)) for g in np.meshgrid(CODES, CODES, indexing="ij"))

ACTIVATIONS = st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-0.2, 1.0)]).flatmap(
    lambda r: st.floats(-4, 4).map(lambda e: (r[0] * 2.0**e, r[1] * 2.0**e))
)


def pair_step(method: str, a: Range, b: Range, y: Range) -> tuple[Step, dict[str, Format], Builder]:
    made = builder({}, {"a": a, "b": b, "y": y}, a="int8", b="int8", y="int8")
    getattr(made, method)("y", made.tensor("a", (256,)), made.tensor("b", (256,)))
    return made.steps[0], {name: made.tensors[name].format for name in "aby"}, made


def exact_ratio(value: Fraction) -> tuple[int, int]:
    """SPEC G-1, G-4: the search with 8 bits, or the nearest integer beyond them."""
    exponent = math.frexp(float(value))[1]
    for b in range(8, -1, -1):
        scaled = value * Fraction(2) ** (b - exponent)
        m, n = decided(scaled, half_up(scaled)), b - exponent
        if b == 0 or (n == 0 and m < 2**8) or not (m % 2 == 0 or m == 2**b or n > 24):
            return (m, n) if n >= 0 else (decided(value, half_up(value)), 0)
    raise AssertionError


@LAW
@given(ACTIVATIONS, ACTIVATIONS, ACTIVATIONS)
@example((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0))
@example((-1.0, 1.0), (-16.0, 16.0), (-17.0, 17.0))
@example((-64.0, 64.0), (-0.05, 0.05), (-64.0, 64.0))
def test_residual_add_of_8_bits(a: Range, b: Range, y: Range) -> None:
    """E-1: constants by rationals (Ma ~ Sa/Sb, Mo ~ Sb/So, the larger scale first), and the sum within its error.

    |y - exact| <= 1/2 (bias) + 1/2 (output) + Mo/2 (inner) steps, plus 2^-8 of each raw term for the two multipliers.
    """
    try:
        step, forms, made = pair_step("add", a, b, y)
    except InputError as error:
        assert "beyond 16 bits" in str(error) or "beyond 32 bits" in str(error)
        assume(False)
    large, other = ("b", "a") if forms["b"].scale > forms["a"].scale else ("a", "b")
    assert [ref.tensor for ref in step.inputs] == [large, other]
    sa, sb, so = (Fraction(forms[name].scale) for name in (large, other, "y"))
    za, zb, zo = (forms[name].zero_point + 128 for name in (large, other, "y"))
    try:
        (ma, na), (mo, no) = exact_ratio(sa / sb), exact_ratio(sb / so)
        bias = zo - sb / so * (zb + sa / sb * za)
        assert step.constants == (ma, na, mo, no, decided(bias, round(bias), False))
    except NearTieError:
        assume(False)
    codes = {"a": PAIR_A, "b": PAIR_B}
    got = execute(step, np.empty_like(PAIR_A), codes[large], codes[other]).astype(np.int64) + 128
    p, q = (codes[name].astype(np.float64) + 128 for name in (large, other))
    in_first, in_other = float(sa / so), float(sb / so)
    exact = np.clip(zo + in_first * (p - za) + in_other * (q - zb), 0, 255)
    bound = 1.01 + 0.51 * in_other + 2.0**-8 * 1.01 * (2 * in_first * p + in_other * q)
    assert (np.abs(got - exact) <= bound).all()
    # Proof: the sum before the last shift, at the two largest unsigned codes.
    inner = half_up(Fraction(255 * ma, 2**na)) + 255
    assert made.proofs["y"]["sum"] == inner * mo + (2 ** (no - 1) if no else 0) < 2**31


@LAW
@given(ACTIVATIONS, ACTIVATIONS, ACTIVATIONS)
def test_residual_add_commutes(a: Range, b: Range, y: Range) -> None:
    """The order of the operands changes no bit."""
    try:
        one, _, _ = pair_step("add", a, b, y)
        other, _, _ = pair_step("add", b, a, y)
    except InputError:
        assume(False)
    straight = (PAIR_A, PAIR_B) if one.inputs[0].tensor == "a" else (PAIR_B, PAIR_A)
    first = execute(one, np.empty_like(PAIR_A), *straight)
    swapped = (PAIR_B, PAIR_A) if other.inputs[0].tensor == "a" else (PAIR_A, PAIR_B)
    np.testing.assert_array_equal(first, execute(other, np.empty_like(PAIR_A), *swapped))


@LAW
@given(ACTIVATIONS, ACTIVATIONS, ACTIVATIONS)
def test_products_are_the_nearest_codes(a: Range, b: Range, y: Range) -> None:
    """E-3 on all code pairs: within half a step and the multiplier's 2^-(n+1) per unit of the product."""
    step, forms, _ = pair_step("multiply", a, b, y)
    fa, fb, fy = forms["a"], forms["b"], forms["y"]
    got = execute(step, np.empty_like(PAIR_A), PAIR_A, PAIR_B)
    product = (PAIR_A.astype(np.float64) - fa.zero_point) * (PAIR_B.astype(np.float64) - fb.zero_point)
    exact = np.clip(product * (fa.scale * fb.scale / fy.scale) + fy.zero_point, -128, 127)
    n = step.constants[3]
    assert (np.abs(got - exact) <= 0.5 + np.abs(product) * 2.0 ** -(n + 1) + 1e-6).all()


@LAW
@given(ACTIVATIONS, ACTIVATIONS, st.sampled_from([("int8", "int16"), ("int16", "int8")]))
def test_conversions_are_the_nearest_codes(a: Range, b: Range, kinds: tuple[str, str]) -> None:
    """Q-8 on all codes, 8 to 16 bits and back; a converted tensor has the range of the tensor that it was made from."""
    made = builder({}, {"a": a, "b": b}, a=kinds[0], b=kinds[1])
    made.convert("b", made.tensor("a", (1,)))
    fa, fb = made.tensors["a"].format, made.tensors["b"].format
    fresh = builder({}, {"a": a}, a=kinds[1]).tensor("a", (1,)).format
    assert fb == fresh
    step = made.steps[0]
    x = np.arange(fa.lowest, fa.highest + 1).astype(DTYPES[kinds[0]])
    got = execute(step, np.empty(x.size, DTYPES[kinds[1]]), x)
    steps = x.astype(np.float64) - fa.zero_point
    exact = np.clip(steps * (fa.scale / fb.scale) + fb.zero_point, fb.lowest, fb.highest)
    n = step.constants[2]
    assert (np.abs(got - exact) <= 0.5 + np.abs(steps) * 2.0 ** -(n + 1) + 1e-6).all()
    assert got[fa.zero_point - fa.lowest] == fb.zero_point  # zero is exact


@LAW
@given(ACTIVATIONS, ACTIVATIONS, ACTIVATIONS, st.sampled_from([("int8", "int16", "int8"), ("int16", "int16", "int16")]))
def test_joint_adds_are_the_nearest_codes(a: Range, b: Range, y: Range, kinds: tuple[str, str, str]) -> None:
    """E-2 where a tensor has 16 bits: half a step, and each multiplier's 2^-(n+1) per unit; zero plus zero is zero."""
    made = builder({}, {"a": a, "b": b, "y": y}, **dict(zip("aby", kinds, strict=True)))
    made.add("y", made.tensor("a", (1,)), made.tensor("b", (1,)))
    fa, fb, fy = (made.tensors[name].format for name in "aby")
    rng = np.random.Generator(np.random.PCG64(53))
    p, q = (rng.integers(f.lowest, f.highest + 1, 3000) for f in (fa, fb))
    p[:4], q[:4] = [fa.lowest, fa.highest, fa.lowest, fa.zero_point], [fb.lowest, fb.highest, fb.highest, fb.zero_point]
    step = made.steps[0]
    got = execute(step, np.empty(p.size, DTYPES[kinds[2]]), p.astype(DTYPES[kinds[0]]), q.astype(DTYPES[kinds[1]]))
    assert [ref.tensor for ref in step.inputs] == ["a", "b"]
    exact = (p - fa.zero_point) * (fa.scale / fy.scale) + (q - fb.zero_point) * (fb.scale / fy.scale) + fy.zero_point
    slack = (np.abs(p - fa.zero_point) + np.abs(q - fb.zero_point)) * 2.0 ** -(step.constants[4] + 1)
    assert (np.abs(got - np.clip(exact, fy.lowest, fy.highest)) <= 0.5 + slack + 1e-6).all()
    assert got[3] == fy.zero_point


def test_constants_cannot_be_changed() -> None:
    """Lowered arrays are read-only, inside the requantizer too."""
    layer = Layer(np.ones((2, 3), np.float32), np.zeros(2, np.float32), (-1.0, 1.0), (-4.0, 4.0))
    codes, rq = layer.lower().steps[0].constants
    arrays: list[Any] = [codes, *(field for field in rq if isinstance(field, np.ndarray))]
    assert len(arrays) == 6
    assert not any(array.flags.writeable for array in arrays)
