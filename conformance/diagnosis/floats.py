"""BF16 and FP32: rounding, special values, and the order and width of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from conformance.diagnosis import bf16
from conformance.diagnosis.changes import Change, after, constant, constants, instead, knobs, plus, takes
from conformance.diagnosis.models import INTEGER_LAYERS, WIDE, bf16_to_block, layer_wide
from conformance.diagnosis.products import remembered
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.roundings import TOWARD_ZERO
from conformance.diagnosis.site import Array, Site, site_of
from conformance.diagnosis.trial import Trial, base

CONVOLUTIONS_BF16 = ("conv_causal_bf16", "conv_transposed_causal_bf16")
LAYERS_F32 = (
    "fully_connected_frequency_f32", "fully_connected_channels_f32", "conv_causal_f32", "conv_transposed_causal_f32",
    "conv_strided_f32", "conv_strided_transposed_f32",
)  # fmt: skip
FLOAT_LAYERS = (*LAYERS_F32, *CONVOLUTIONS_BF16)
READS_BF16 = (
    *CONVOLUTIONS_BF16,
    "add_bf16",
    "multiply_bf16",
    "bf16_add",
    "bf16_mul",
    "widen_bf16",
    "bf16_decode",
    "quantize_bf16",
)
Wide = Callable[[Trial], Array]


def to_bf16(site: Site) -> bool:
    return site.law == "bf16" if site.operator in INTEGER_LAYERS else site.operator in WIDE


# -- rounding to BF16 ------------------------------------------------------------------------------------------------------

ENCODINGS: tuple[tuple[str, str, bf16.Encode], ...] = (
    ("bf16_truncated", "truncates to BF16", bf16.encode_truncated),
    ("bf16_half_away", "rounds ties of BF16 away from zero", bf16.encode_half_away),
    ("bf16_flushes_results", "flushes subnormal results to zero", bf16.encode_flushed),
    ("bf16_flushes_results", "flushes subnormal results to +0", bf16.encode_flushed_positive),
    ("bf16_flushes_results", "flushes subnormal FP32 results to zero before it rounds", bf16.encode_flushed_before),
    ("bf16_nan_sign", "keeps the sign of NaN", bf16.encode_nan("sign")),
    ("bf16_nan_sign", "writes NaN with the sign bit set", bf16.encode_nan("negative")),
    ("bf16_nan_payload", "keeps the payload of NaN", bf16.encode_nan("payload")),
    ("bf16_nan_payload", "cuts NaN to its high half", bf16.encode_nan("cut")),
    ("bf16_nan_payload", "writes NaN as 0x7FFF", bf16.encode_nan("ones")),
    ("bf16_nan_rounded", "rounds NaN like a number", bf16.encode_nan("rounded")),
    ("bf16_saturates", "saturates at the largest finite value instead of infinity", bf16.encode_saturated),
    ("bf16_no_negative_zero", "never writes -0", bf16.encode_no_negative_zero),
)


@family("bf16", {*WIDE, *INTEGER_LAYERS})
def encodings(site: Site) -> Iterator[Edit]:
    if to_bf16(site):
        for name, words, encode in ENCODINGS:
            common = name in ("bf16_truncated", "bf16_half_away")
            yield Edit(name, words, "B-1", knobs(encode=encode), common)


@family("bf16", READS_BF16)
def subnormal_inputs(site: Site) -> Iterator[Edit]:
    yield Edit("bf16_flushes_inputs", "reads subnormal BF16 values as zero", "B-2", knobs(decode=bf16.decode_flushed))
    if site.operator not in ("widen_bf16", "bf16_decode", "quantize_bf16"):
        both = knobs(decode=bf16.decode_flushed, encode=bf16.encode_flushed)
        yield Edit("bf16_flushes_all", "flushes subnormals of operands and results to zero", "B-1", both)


Parts = Callable[[Array, Array, Array], Array]  # of accumulators, bias and scale (SPEC Q-9)


def _f32(value: Array) -> Array:
    out: Array = value.astype(np.float32)
    return out


def _through_bf16(value: Array) -> Array:
    return bf16.decode(bf16.encode(value))


def _truncated(value: Array) -> Array:
    """int64 to FP32 toward zero."""
    drop = np.maximum(np.frexp(np.abs(value).astype(np.float64))[1] - 24, 0)
    return _f32(TOWARD_ZERO.shift(value, drop) << drop)


ACCUMULATOR_TO_BF16: tuple[tuple[str, str, Parts], ...] = (
    ("single_rounding", "rounds the exact product once, not through FP32", lambda a, b, s: (a + b) * s.astype(np.float64)),
    ("scale_in_bf16", "holds the scales in BF16", lambda a, b, s: _f32(a + b) * _through_bf16(s)),
    ("sum_in_bf16", "rounds the integer sum to BF16 before it scales", lambda a, b, s: _through_bf16(_f32(a + b)) * s),
    ("bias_in_float", "adds the bias in FP32, each part converted by itself", lambda a, b, s: (_f32(a) + _f32(b)) * s),
    ("bias_in_float", "scales sum and bias apart and adds them in FP32", lambda a, b, s: _f32(a) * s + _f32(b) * s),
    ("bias_in_float", "scales the sum and adds the scaled bias by a fused multiply-add",
     lambda a, b, s: bf16.fused(_f32(a).astype(np.float64) * s.astype(np.float64), _f32(b) * s)),
    ("bias_in_bf16", "adds the scaled bias in BF16", lambda a, b, s: _through_bf16(_f32(a) * s) + _through_bf16(_f32(b) * s)),
    ("int_to_float_truncated", "truncates where it converts the sum to FP32", lambda a, b, s: _truncated(a + b) * s),
)  # fmt: skip


@family("bf16", INTEGER_LAYERS)
def accumulator_to_bf16(site: Site) -> Iterator[Edit]:
    """Other ways from an accumulator to BF16."""
    if site.law == "bf16":
        for name, words, way in ACCUMULATOR_TO_BF16:
            yield Edit(name, words, "Q-9", _scaled(way))


def _scaled(way: Parts) -> Change:
    def wide(t: Trial) -> Array:
        rq, c = t.requantizer, t.channels()
        return way(t.accumulators(), rq.bias[c].astype(np.int64), rq.scale[c])

    return knobs(wide=wide)


@family("bf16", {"block_to_bf16", "bf16_from_scaled"})
def block_through_fp32(site: Site) -> Iterator[Edit]:
    function = WIDE[site.operator]
    twice = knobs(wide=lambda t: function(t).astype(np.float32))
    yield Edit("double_rounding", "rounds the mantissa to FP32 first, then to BF16", "B-5", twice)
    for by in (1, -1):
        words = f"takes the exponent as {'one more' if by > 0 else 'one less'}"
        yield Edit("exponent_off_by_one", words, site.rule, takes(1, plus, by))
    yield Edit("exponent_missing", "leaves the block exponent out", site.rule, takes(1, np.zeros_like))
    yield Edit("exponent_sign", "takes the block exponent with the opposite sign", site.rule, takes(1, np.negative))


@family("bf16", {"dequantize_bf16", "dequantize_f32"})
def dequantizing(site: Site) -> Iterator[Edit]:
    def parts(t: Trial) -> tuple[Array, int, np.float32]:
        return t.inputs[0].astype(np.int64), int(t.constant("zero_point")), np.float32(t.constant("scale"))

    def coarse_scale(t: Trial) -> Array:
        q, zero, scale = parts(t)
        return (q - zero).astype(np.float32) * bf16.decode(bf16.encode(np.array(scale)))

    def apart(t: Trial) -> Array:
        q, zero, scale = parts(t)
        return q.astype(np.float32) * scale - np.float32(zero) * scale

    def coarse_code(t: Trial) -> Array:
        q, zero, scale = parts(t)
        return bf16.decode(bf16.encode((q - zero).astype(np.float32))) * scale

    def exact(t: Trial) -> Array:
        q, zero, _ = parts(t)
        return (q - zero) * float(t.site.input_form(0).scale)

    for name, words, way in (
        ("scale_in_bf16", "holds the scale in BF16", coarse_scale),
        ("zero_point_in_float", "scales code and zero point apart and subtracts in FP32", apart),
        ("codes_in_bf16", "rounds codes to BF16 before it scales", coarse_code),
        ("dequantize_in_double", "multiplies in FP64", exact),
    ):
        yield Edit(name, words, site.rule, knobs(wide=way))


# -- no rounding between two steps -----------------------------------------------------------------------------------------


@family("float", {"add_bf16", "multiply_bf16", "quantize_bf16"})
def unrounded_operands(site: Site) -> Iterator[Edit]:
    """Operands that were kept in FP32 instead of being rounded to BF16 on the way, and fused multiply-add."""
    values = [_unrounded(site, ref.tensor, ref.past) for ref in site.step.inputs]
    decoded = [bf16.decode(x) for x in site.inputs]
    if site.operator == "quantize_bf16":
        if values[0] is not None:
            exact = values[0]
            words = f"quantizes {site.step.inputs[0].tensor} before it is rounded to BF16"
            yield Edit(
                "intermediate_not_rounded",
                words,
                site.rule,
                knobs(wide=lambda t: exact * np.float32(t.constant("inverse_scale"))),
            )
        return
    if site.operator == "add_bf16":
        for i in (0, 1):
            product = _product(site, site.step.inputs[i].tensor)
            if product is not None:
                total = bf16.fused(product, decoded[1 - i])
                words = f"fuses the product {site.step.inputs[i].tensor} and the addition into one multiply-add"
                yield Edit("fused_multiply_add", words, site.rule, knobs(wide=lambda t, total=total: total))
    operation = np.add if site.operator == "add_bf16" else np.multiply
    for chosen in ((0,), (1,), (0, 1)):
        if all(values[i] is not None for i in chosen):
            operands = [v if i in chosen and v is not None else decoded[i] for i, v in enumerate(values)]
            names = " and ".join(site.step.inputs[i].tensor for i in chosen)
            total = operation(*(o.astype(np.float32) for o in operands))
            yield Edit("intermediate_not_rounded", f"keeps {names} in FP32, not rounded to BF16", site.rule,
                       knobs(wide=lambda t, total=total: total))  # fmt: skip


def _producer(site: Site, name: str) -> Trial | None:
    """The step of the case that computes a tensor, as a trial of its own."""
    step = next((s for s in site.case.steps if name in s.outputs), None)
    if step is None:
        return None
    own = {n: site.case.tensors[n].values for n in step.outputs}
    maker = site_of(site.case, step.name, own, site.given)
    return None if maker is None else base(maker)


def _unrounded(site: Site, name: str, past: int) -> Array | None:
    maker = _producer(site, name)
    if maker is None or past:
        return None
    if maker.site.law == "bf16":
        return layer_wide(maker)
    function = WIDE.get(maker.site.operator)
    return None if function is None else function(maker)


def _product(site: Site, name: str) -> Array | None:
    maker = _producer(site, name)
    if maker is None or maker.site.operator != "multiply_bf16":
        return None
    a, b = (bf16.decode(x).astype(np.float64) for x in maker.inputs)
    return a * b


# -- sums of products ------------------------------------------------------------------------------------------------------

Sum = Callable[[list[Array], list[Array], Array], Array]


@family("float", FLOAT_LAYERS)
def sum_orders(site: Site) -> Iterator[Edit]:
    """Other orders and widths of a floating-point sum (SPEC L-3, L-4, C-3 to C-6)."""
    count = _count(site)
    natural = np.arange(count)
    for name, words, order in _orders(site, natural):
        yield Edit(name, f"sums {words}", site.operator_rule, _summed(site, _in_order(order)))
        yield Edit(
            f"{name}_bias_last", f"sums {words}, the bias last", site.operator_rule, _summed(site, _in_order(order, True))
        )
    yield Edit("bias_last", "adds the bias after the products", site.operator_rule, _summed(site, _in_order(natural, True)))
    for name, words, way in (
        ("fused_multiply_add", "fuses every multiplication with the addition", _fused_sum),
        ("sum_in_double", "sums in FP64", _double_sum),
        ("sum_pairwise", "sums pairwise, in a tree", _tree_sum),
        ("sum_in_lanes", "sums in four lanes that are added at the end", _lanes(4)),
        ("sum_in_lanes", "sums in two lanes that are added at the end", _lanes(2)),
        ("sum_in_lanes", "sums in eight lanes that are added at the end", _lanes(8)),
        ("sum_in_lanes", "sums in groups of four", _groups(4)),
        ("sum_in_bf16", "rounds the sum to BF16 after every addition", _narrow_sum),
        ("products_in_bf16", "rounds every product to BF16", _narrow_products),
        ("operands_in_bf16", "rounds inputs and weights to BF16", _coarse(7)),
        ("operands_in_tf32", "rounds inputs and weights to TF32", _coarse(10)),
    ):
        yield Edit(name, words, site.operator_rule, _summed(site, way))


def _count(site: Site) -> int:
    weight = site.step.constants[0]
    if site.operator.startswith("fully_connected_frequency"):
        return int(weight.shape[1])
    return int(weight.shape[1] if site.operator.startswith("conv_strided_transposed") else weight.size // weight.shape[-1])


def _orders(site: Site, natural: Array) -> Iterator[tuple[str, str, Array]]:
    yield "sum_reversed", "in the opposite order", natural[::-1]
    weight = site.step.constants[0]
    if weight.ndim == 4 or (weight.ndim == 3 and not site.operator.startswith("conv_strided_transposed")):
        grid = natural.reshape(weight.shape[:-1])
        axes = {3: ((1, 0, 2), (2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 2, 0)), 2: ((1, 0),)}[grid.ndim]
        names = {3: ("time", "frequency", "input"), 2: ("tap", "input")}[grid.ndim]
        for axis in axes:
            shown = ", ".join(names[a] for a in axis)
            yield "sum_order", f"with its loops in the order {shown}", grid.transpose(axis).ravel()
        taps = grid.reshape(-1, grid.shape[-1])
        yield "sum_order", "with the taps in the opposite order, inputs ascending", taps[::-1].ravel()
        yield "sum_order", "with the inputs of a tap in the opposite order", taps[:, ::-1].ravel()


def _summed(site: Site, way: Sum) -> Change:
    def instead(t: Trial) -> Array:
        inputs, weights = remembered(t)
        return way(inputs, weights, t.constant("bias"))

    if site.operator in CONVOLUTIONS_BF16:
        return knobs(wide=instead)

    def relu(t: Trial) -> Array:
        total = instead(t).astype(np.float32)
        return np.where(total < 0, np.float32(0), total) if "relu" in t.site.labels and t.constant("relu") else total

    bias_along = site.operator == "fully_connected_frequency_f32"

    def outputs(t: Trial) -> dict[str, Array]:
        turned = t.with_constants(bias=t.constant("bias")[:, None]) if bias_along else t
        return t.output(relu(turned))

    return lambda t: t.with_instead(outputs)


def _in_order(order: Array, bias_last: bool = False) -> Sum:
    def way(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
        total = np.zeros_like(inputs[0]) if bias_last else np.broadcast_to(bias, inputs[0].shape).astype(np.float32)
        for k in order:
            total = total + inputs[k] * weights[k]
        return total + bias if bias_last else total

    return way


def _fused_sum(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
    total = np.broadcast_to(bias, inputs[0].shape).astype(np.float32)
    for x, w in zip(inputs, weights, strict=True):
        total = bf16.fused(x.astype(np.float64) * w.astype(np.float64), total)
    return total


def _double_sum(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
    total = np.broadcast_to(bias, inputs[0].shape).astype(np.float64)
    for x, w in zip(inputs, weights, strict=True):
        total = total + x.astype(np.float64) * w.astype(np.float64)
    return total


def _tree_sum(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
    parts = [x * w for x, w in zip(inputs, weights, strict=True)]
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0] + bias


def _lanes(count: int) -> Sum:
    def way(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
        lanes = [np.zeros_like(inputs[0]) for _ in range(count)]
        for k, (x, w) in enumerate(zip(inputs, weights, strict=True)):
            lanes[k % count] = lanes[k % count] + x * w
        total = lanes[0]
        for lane in lanes[1:]:
            total = total + lane
        return total + bias

    return way


def _groups(count: int) -> Sum:
    def way(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
        total = np.broadcast_to(bias, inputs[0].shape).astype(np.float32)
        for k in range(0, len(inputs), count):
            group = inputs[k] * weights[k]
            for x, w in zip(inputs[k + 1 : k + count], weights[k + 1 : k + count], strict=True):
                group = group + x * w
            total = total + group
        return total

    return way


def _narrow_sum(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
    total = np.broadcast_to(bias, inputs[0].shape).astype(np.float32)
    for x, w in zip(inputs, weights, strict=True):
        total = bf16.decode(bf16.encode(total + x * w))
    return total


def _narrow_products(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
    total = np.broadcast_to(bias, inputs[0].shape).astype(np.float32)
    for x, w in zip(inputs, weights, strict=True):
        total = total + bf16.decode(bf16.encode(x * w))
    return total


def _coarse(bits: int) -> Sum:
    def way(inputs: list[Array], weights: list[Array], bias: Array) -> Array:
        cut = [bf16.mantissa_cut(x, bits) for x in inputs]
        return _in_order(np.arange(len(cut)))(cut, [bf16.mantissa_cut(w, bits) for w in weights], bias)

    return way


@family("bias", FLOAT_LAYERS)
def float_bias(site: Site) -> Iterator[Edit]:
    def scaled(factor: float) -> Change:
        return constant("bias", lambda b: b * np.float32(factor))

    yield Edit("bias_missing", "leaves the bias out", site.operator_rule, scaled(0), common=True)
    yield Edit("bias_twice", "adds the bias twice", site.operator_rule, scaled(2))
    yield Edit("bias_sign", "subtracts the bias", site.operator_rule, scaled(-1))
    for by, words in ((-1, "next"), (1, "previous")):
        edit = constant("bias", np.roll, by)
        yield Edit("bias_of_neighbour", f"uses the bias of the {words} channel", site.operator_rule, edit)


@family("relu", LAYERS_F32)
def float_relu(site: Site) -> Iterator[Edit]:
    if "relu" in site.labels and site.step.constants[site.labels.index("relu")]:
        yield Edit("relu_missing", "leaves the fused ReLU out", site.operator_rule, constants(relu=False), True)
    else:
        yield Edit("relu_extra", "applies a ReLU where the layer has none", site.operator_rule, after(_rectified))


def _rectified(values: Array) -> Array:
    out: Array = np.where(values < 0, np.float32(0), values)
    return out


@family("float", {*LAYERS_F32, "add_f32", "multiply_f32", "stft_f32", "istft_f32", "overlap_add_f32", "activate_f32"})
def single_precision(site: Site) -> Iterator[Edit]:
    """Results that are kept in fewer bits than FP32 has."""

    flush = after(_flushed)
    yield Edit("flushes_subnormals", "flushes subnormal FP32 results to zero", site.operator_rule, flush)
    for bits, what in ((7, "BF16"), (10, "TF32")):
        cut = after(bf16.mantissa_cut, None, bits)
        yield Edit(f"result_in_{what.lower()}", f"rounds its result to {what}", site.operator_rule, cut)
    half = after(lambda a: a.astype(np.float16).astype(np.float32))
    yield Edit("result_in_fp16", "rounds its result to FP16", site.operator_rule, half)


def _flushed(values: Array) -> Array:
    out: Array = np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(np.float32(0), values), values)
    return out


@family("transform", {"block_to_code", "bf16_to_block", "code_to_block"})
def block_exponent(site: Site) -> Iterator[Edit]:
    if site.operator == "block_to_code":
        for by in (1, -1):
            edit = takes(1, plus, by)
            yield Edit("exponent_off_by_one", f"takes the block exponent as {by:+d}", site.rule, edit)
        yield Edit("exponent_missing", "leaves the block exponent out", site.rule, takes(1, np.zeros_like))
        yield Edit("exponent_sign", "takes the block exponent with the opposite sign", site.rule, takes(1, np.negative))
        return
    if site.operator == "bf16_to_block":
        yield Edit("exponent_joint", "normalizes all speakers with one exponent", site.rule, instead(bf16_to_block, True))
    for by in (1, -1):
        moved = after(plus, 1, by)
        yield Edit("exponent_off_by_one", f"writes the block exponent as {by:+d}", site.rule, moved)
        words = f"normalizes one bit {'higher' if by > 0 else 'lower'}"
        yield Edit("exponent_off_by_one", words, site.rule, _renormalized(by))


def _renormalized(by: int) -> Change:
    """The exponent of a block and all its mantissas with it."""
    moved = after(plus, 1, by)
    shifted = after(lambda m: m << 1 if by > 0 else m >> 1, 0)
    return lambda t: shifted(moved(t))
