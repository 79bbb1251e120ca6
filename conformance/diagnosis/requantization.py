"""Rounding, zero points, bias, ReLU, saturation and widths wherever integers become codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from conformance.diagnosis import bf16
from conformance.diagnosis.changes import Change, instead, knobs, takes
from conformance.diagnosis.models import INTEGER_LAYERS, stored
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.roundings import HALF_AWAY, HALF_UP, LAWS, Law
from conformance.diagnosis.site import Array, Outputs, Site
from conformance.diagnosis.trial import Trial

ADDS = ("add_two_stage", "add_joint")
CODES = (*INTEGER_LAYERS, *ADDS, "multiply", "requantize_codes", "quantize_f32", "quantize_bf16", "block_to_code")
SHIFTS = ("shift_floor", "shift_half_up", "shift_half_even", "shift_saturate_int32", "round_half_even_f32")
ROUNDED = (*CODES, *SHIFTS, "to_pcm", "to_pcm_f32", "bf16_to_block")
COMMON_LAWS = ("floor", "toward_zero", "half_even", "half_away")


def has_law(site: Site, *laws: str) -> bool:
    return site.law in (laws or ("folded", "norm_twice"))


def is_code(site: Site) -> bool:
    """Whether the step's own rounding ends in codes: a layer may also end in BF16 or in bare sums."""
    return site.operator not in INTEGER_LAYERS or has_law(site)


# -- rounding --------------------------------------------------------------------------------------------------------------


@family("rounding", ROUNDED)
def last_rounding(site: Site) -> Iterator[Edit]:
    if not is_code(site):
        return
    for law in LAWS:
        yield Edit(f"round_{law.name}", law.words, site.rule, knobs(last=law), law.name in COMMON_LAWS)
    if site.operator == "bf16_to_block":
        edit = knobs(last=HALF_UP, signed=True)
        yield Edit("round_half_up", "rounds signed values to nearest, ties toward plus infinity", site.rule, edit)


@family("rounding", (*INTEGER_LAYERS, "add_two_stage"))
def first_rounding(site: Site) -> Iterator[Edit]:
    """Laws and operators with two shifts."""
    if not (has_law(site, "norm_twice") or site.operator == "add_two_stage"):
        return
    for law in LAWS:
        words = law.words
        yield Edit(f"first_round_{law.name}", f"{words}, at the first of the two shifts", site.rule, knobs(first=law))
        yield Edit(f"both_round_{law.name}", f"{words}, at both shifts", site.rule, knobs(first=law, last=law))
    sentence = "shifts once by the whole amount, with one rounding where the rule has two"
    yield Edit("single_rounding", sentence, site.rule, knobs(joint=True), common=True)
    for law in LAWS:
        edit = knobs(joint=True, last=law)
        yield Edit(f"single_round_{law.name}", f"{sentence}; {law.words}", site.rule, edit)


@family("rounding", {"add_joint"})
def split_addition(site: Site) -> Iterator[Edit]:
    sentence = "rounds both operands before it adds them, where the rule rounds their sum once"
    yield Edit("double_rounding", sentence, site.rule, knobs(split=True))
    for law in LAWS:
        yield Edit(f"double_round_{law.name}", f"{sentence}; {law.words}", site.rule, knobs(split=True, last=law))


@family("rounding", (*INTEGER_LAYERS, *ADDS, "multiply", "requantize_codes"))
def other_scaling(site: Site) -> Iterator[Edit]:
    """Requantization as other libraries do it."""
    if not is_code(site):
        return
    for law in (*LAWS[2:5], LAWS[0], LAWS[1]):
        sentence = f"requantizes in FP32 (value times M / 2^n) and {law.words}"
        yield Edit(f"float_requantization_{law.name}", sentence, site.rule, knobs(scaling=_in_float(law)))
    if site.operator != "add_joint":  # M is in front of that sum already
        sentence = "requantizes as TFLite: rounding doubling high multiply by a 31-bit M, then a rounding shift"
        yield Edit("tflite_requantization", sentence, site.rule, knobs(scaling=_in_q31(HALF_AWAY)))
        sentence = "requantizes as CMSIS-NN: doubling high multiply (half up) by a 31-bit M, then a rounding shift"
        yield Edit("cmsis_requantization", sentence, site.rule, knobs(scaling=_in_q31(HALF_UP)))
    if has_law(site, "folded"):
        for bits in (8, 4, 1):
            edit = knobs(scaling=_twice(bits))
            yield Edit("double_rounding", f"rounds twice, the first time at a shift by {bits}", site.rule, edit)


def _in_float(law: Law) -> Callable[[Array, Array, Array], Array]:
    def scaling(value: Array, m: Array, n: Array) -> Array:
        factor = np.ldexp(np.asarray(m, np.float32), -np.asarray(n, np.int32))
        return law.real(value.astype(np.float32) * factor).astype(np.int64)

    return scaling


def _in_q31(first: Law) -> Callable[[Array, Array, Array], Array]:
    def scaling(value: Array, m: Array, n: Array) -> Array:
        bits = np.frexp(np.maximum(np.asarray(m, np.float64), 0.5))[1].astype(np.int64)
        left, right = np.maximum(bits - n, 0), np.maximum(n - bits, 0)
        high = first.shift((value << left) * (np.asarray(m, np.int64) << (31 - bits)), 31)
        return HALF_AWAY.shift(high, right)

    return scaling


def _twice(bits: int) -> Callable[[Array, Array, Array], Array]:
    def scaling(value: Array, m: Array, n: Array) -> Array:
        first = np.minimum(bits, n)
        return HALF_UP.shift(HALF_UP.shift(value, first) * m, n - first)

    return scaling


@family("rounding", INTEGER_LAYERS)
def pre_shift(site: Site) -> Iterator[Edit]:
    if not has_law(site, "norm_twice"):
        return
    p = site.requantizer.pre_shift if site.requantizer is not None else 0
    for other in (0, p - 1, p + 1, 8, 4, 7, 15, 16):
        words = f"shifts first by {other}, or by all of the channel's shift, instead of by {p}"
        yield Edit("pre_shift", words, site.rule, knobs(pre_shift=other))
        words = f"shifts first by {other} instead of by {p}"
        yield Edit("pre_shift", words, site.rule, _with_pre_shift(max(other, 0)))
    kept = _requantized(lambda rq, _: {"shift": rq.shift + np.int32(p)})
    words = "shifts by all of a channel's shift after the first shift, not by the rest of it"
    yield Edit("second_shift_whole", words, site.rule, kept)


def _with_pre_shift(amount: int) -> Change:
    return lambda t: t.with_requantizer(pre_shift=amount)


@family("rounding", {"quantize_f32", "quantize_bf16"})
def quantizing(site: Site) -> Iterator[Edit]:
    scale = float(site.output_form().scale)

    def value(t: Trial) -> Array:
        if t.site.operator == "quantize_f32":
            return t.inputs[0]
        return (t.inputs[0].astype(np.uint32) << np.uint32(16)).view(np.float32)

    ways: tuple[tuple[str, str, Callable[[Trial], Array]], ...] = (
        ("quantize_divided", "divides by the scale in FP32, not multiplying by its reciprocal",
         lambda t: value(t) / np.float32(scale)),
        ("quantize_divided", "divides by the scale in FP64", lambda t: value(t).astype(np.float64) / scale),
        ("quantize_in_double", "multiplies by the reciprocal in FP64",
         lambda t: value(t).astype(np.float64) * float(t.constant("inverse_scale"))),
        ("product_in_bf16", "rounds the product to BF16 before it rounds to an integer",
         lambda t: _through_bf16(value(t) * t.constant("inverse_scale"))),
        ("scale_in_bf16", "holds the reciprocal of the scale in BF16",
         lambda t: value(t) * _through_bf16(np.array(t.constant("inverse_scale")))),
    )  # fmt: skip
    for name, words, way in ways:
        yield Edit(name, words, site.rule, knobs(wide=way))
    form = site.output_form()
    for code in dict.fromkeys((form.lowest, 0, form.highest)):
        if code != form.zero_point:
            yield Edit("nan_code", f"turns NaN into code {code} instead of the zero point", "N-6", _nan_code(code))
    sentence = "adds the zero point in FP32 before it rounds to an integer"
    yield Edit("zero_point_before_rounding", sentence, site.rule, knobs(zero_first=True))


def _through_bf16(value: Array) -> Array:
    return bf16.decode(bf16.encode(value))


def _nan_code(code: int) -> Change:
    def edit(t: Trial) -> Trial:
        x = t.inputs[0]
        nan = np.isnan(x) if x.dtype.kind == "f" else (x & 0x7FFF) > 0x7F80
        return t.with_after(lambda a: np.where(nan, code, a).astype(a.dtype))

    return edit


# -- zero points -----------------------------------------------------------------------------------------------------------


@family("zero_point", INTEGER_LAYERS)
def output_zero_point(site: Site) -> Iterator[Edit]:
    if not has_law(site):
        return
    form = site.output_form()
    if has_law(site, "norm_twice"):
        what = "the output's zero point"
        yield Edit("zero_point_missing", f"does not add {what}", site.rule, knobs(zero=0), common=True)
        yield Edit("zero_point_sign", f"subtracts {what} instead of adding it", site.rule, knobs(zero=-1))
        yield Edit("zero_point_twice", f"adds {what} twice", site.rule, knobs(zero=2))
    elif form.zero_point + 128:  # the offset of -128 alone is what output_unsigned leaves out
        zero = form.zero_point
        words = "adds the output's zero point again, which the folded bias holds already"
        again = _requantized(lambda rq, _: {"offset": rq.offset + zero})
        yield Edit("zero_point_twice", words, site.rule, again)
        again = _requantized(lambda rq, _: {"offset": rq.offset + zero + 128})
        yield Edit("zero_point_twice", f"{words}, unsigned", site.rule, again)


@family(
    "zero_point",
    ("add_joint", "multiply", "requantize_codes", "quantize_f32", "quantize_bf16", "block_to_code", *INTEGER_LAYERS),
)
def zero_point_order(site: Site) -> Iterator[Edit]:
    """Saturation on the wrong side of the zero point."""
    zero = site.output_form().zero_point
    if zero and is_code(site) and not has_law(site, "folded"):
        sentence = "saturates to the output's codes before it adds the zero point, and wraps after"
        for bounds in ("codes", "fused"):
            yield Edit("saturates_before_zero_point", sentence, site.rule, knobs(early=bounds))
        sentence = "saturates after it adds the zero point, to bounds that are meant for before"
        yield Edit("saturates_after_zero_point", sentence, site.rule, knobs(bounds=lambda a, b: (a - zero, b - zero)))


def _requantized(change: Callable[[Any, Trial], dict[str, Any]]) -> Change:
    return lambda t: t.with_requantizer(**change(t.requantizer, t))


@family("zero_point", [op for op in INTEGER_LAYERS if op != "requantize_accumulators"])
def input_zero_point(site: Site) -> Iterator[Edit]:
    """The correction ``-zp * sum(weights)`` that the folded bias holds."""
    zero = site.input_form(0).zero_point
    if not site.input_form(0).is_code:
        return
    for name, factor, words in (
        ("input_zero_point_missing", 1, "leaves the input's zero point in the sum: no correction by the sum of the weights"),
        ("input_zero_point_sign", 2, "corrects for the input's zero point with the wrong sign"),
        ("input_zero_point_twice", -1, "corrects for the input's zero point twice"),
    ):
        if zero:
            yield Edit(name, words, "Q-3", _plus_weight_sums(factor * zero), common=factor == 1)
    half = 1 << (site.input_form(0).bits - 1)
    sentence = "sums unsigned codes with the bias for signed ones: off by {} times the sum of the weights"
    yield Edit("input_offset", sentence.format(half), "G-2", _plus_weight_sums(half), common=True)
    yield Edit("input_offset", sentence.format(-half), "G-2", _plus_weight_sums(-half))


def _plus_weight_sums(amount: int) -> Change:
    return lambda t: t.with_knobs(accumulator=lambda acc: acc + amount * t.weight_sums())


@family("zero_point", [op for op in INTEGER_LAYERS if op != "requantize_accumulators"])
def signedness(site: Site) -> Iterator[Edit]:
    """The bytes of signed codes or weights read as unsigned ones: 256 (or 65,536) more where they are negative."""

    def unsigned_input(t: Trial) -> Array:
        x = t.inputs[0]
        padding = {"padding": int(t.constant("padding") < 0)} if "padding" in t.site.labels else {}
        wrong: Array = t.raw() + (1 << (8 * x.dtype.itemsize)) * t.raw({0: (x < 0).astype(x.dtype)}, **padding)
        return wrong

    def unsigned_weights(t: Trial) -> Array:
        weight = t.constant("weight")
        wrong: Array = t.raw() + 256 * t.raw(weight=(weight < 0).astype(weight.dtype))
        return wrong

    yield Edit("input_read_unsigned", "reads its signed input codes as unsigned ones", "G-2", knobs(sums=unsigned_input))
    yield Edit("weights_read_unsigned", "reads its signed weights as unsigned ones", "Q-2", knobs(sums=unsigned_weights))


@family("zero_point", {"add_two_stage"})
def signed_addition(site: Site) -> Iterator[Edit]:
    sentence = "adds stored (signed) codes where the constants are for unsigned ones"
    yield Edit("signed_codes", sentence, site.rule, knobs(signed=True))
    for index, ref in enumerate(site.step.inputs):
        sentence = f"takes the codes of {ref.tensor} as stored (signed) where the constants are for unsigned ones"
        yield Edit("signed_codes", sentence, site.rule, _one_signed(index))
    bias = int(site.step.constants[site.labels.index("add_bias")])
    sentence = "adds the bias before the second multiplier"

    def before(t: Trial) -> Trial:
        return t.with_knobs(middle=lambda v: v + bias).with_constants(add_bias=0)

    yield Edit("bias_before_multiplier", sentence, site.rule, before)
    both = knobs(early="codes")
    yield Edit("saturates_before_zero_point", "saturates before it adds the bias, and wraps after", site.rule, both)


def _one_signed(index: int) -> Change:
    """In the model, which takes codes of any width."""
    edit = takes(index, lambda x: x.astype(np.int64) - 128)
    return lambda t: edit(t).with_knobs(middle=lambda v: v)


# -- bias and ReLU ---------------------------------------------------------------------------------------------------------


@family("bias", INTEGER_LAYERS)
def folded_bias(site: Site) -> Iterator[Edit]:
    if site.law == "":
        return
    yield Edit("bias_missing", "leaves the (folded) bias out", site.rule, _bias(0), common=True)
    yield Edit("bias_twice", "adds the (folded) bias twice", site.rule, _bias(2))
    yield Edit("bias_sign", "subtracts the (folded) bias", site.rule, _bias(-1))
    if has_law(site, "folded"):
        nothing = _requantized(lambda rq, t: {"addend": np.zeros_like(rq.addend)})
        yield Edit("bias_missing", "leaves the addend out: bias, zero point and rounding constant", site.rule, nothing)
        yield Edit("bias_shifted_apart", "shifts product and addend apart and adds them then", site.rule, instead(_apart))
        bias_unscaled = _requantized(lambda rq, t: {"addend": rq.bias.astype(np.int64) + _half(rq)})
        yield Edit("bias_after_multiplier", "adds the total after the multiplier, not before it", site.rule, bias_unscaled)
    if has_law(site):
        yield Edit("bias_after_scaling", "adds the (folded) bias after requantization", site.rule, _late_bias)
    if has_law(site, "norm_twice"):
        p = 0 if site.requantizer is None else site.requantizer.pre_shift
        words = "adds the bias after the first shift"
        yield Edit("bias_after_first_shift", words, site.rule, lambda t: _bias_after_first_shift(t, lambda b: b))
        yield Edit("bias_after_first_shift", f"{words}, itself shifted", site.rule,
                   lambda t: _bias_after_first_shift(t, lambda b: HALF_UP.shift(b, p)))  # fmt: skip


def _half(rq: Any) -> Array:
    out: Array = (np.int64(1) << rq.shift.astype(np.int64)) >> 1
    return out


def _bias(times: int) -> Change:
    def change(rq: Any, t: Trial) -> dict[str, Any]:
        half = _half(rq)
        return {"bias": rq.bias * np.int32(times), "addend": (rq.addend - half) * times + half}

    return _requantized(change)


def _late_bias(t: Trial) -> Trial:
    """Codes of the sum alone, then the total added to them and saturated to the format."""
    total = t.requantizer.bias.astype(np.int64)[t.channels()]
    low, high = t.site.output_form().lowest, t.site.output_form().highest
    return _bias(0)(t).with_after(lambda a: np.clip(a.astype(np.int64) + total, low, high).astype(a.dtype))


def _bias_after_first_shift(t: Trial, change: Callable[[Array], Array]) -> Trial:
    p, bias = t.requantizer.pre_shift, t.requantizer.bias.astype(np.int64)[t.channels()]
    return t.with_knobs(accumulator=lambda acc: (HALF_UP.shift(acc, p) + change(bias) << p) - bias)


def _apart(t: Trial) -> Outputs:
    rq, c = t.requantizer, t.channels()
    n = rq.shift[c].astype(np.int64)
    value = ((t.accumulators() * rq.multiplier[c]) >> n) + (rq.addend[c] >> n)
    return t.output(stored(t, value, rq.lowest, rq.highest, rq.offset))


@family("relu", INTEGER_LAYERS)
def relu(site: Site) -> Iterator[Edit]:
    if not has_law(site) or site.requantizer is None:
        return
    form = site.output_form()
    low, high, zero = form.lowest, form.highest, form.zero_point
    stop = site.requantizer.lowest + site.requantizer.offset
    if stop == zero == low:  # a ReLU that changes nothing, for the codes end where it does
        sentence = f"has its ReLU stop at code 0, not at the zero point {zero}"
        yield Edit("relu_at_zero", sentence, site.rule, knobs(bounds=lambda a, b: (0, b)))
        sentence = f"has its ReLU the wrong way round: what is above the zero point {zero} is cut"
        yield Edit("relu_inverted", sentence, site.rule, knobs(bounds=lambda a, b: (low, zero)))
    elif stop > low:
        yield Edit("relu_missing", "leaves the fused ReLU out", site.rule, knobs(bounds=lambda a, b: (low, b)), common=True)
        sentence = f"has its ReLU stop at code 0, not at the zero point {zero}"
        yield Edit("relu_at_zero", sentence, site.rule, knobs(bounds=lambda a, b: (0, b)))
        unsigned = zero + (1 << (form.bits - 1))
        sentence = f"has its ReLU stop at code {unsigned}, the zero point as an unsigned code"
        yield Edit("relu_at_unsigned_zero_point", sentence, site.rule, knobs(bounds=lambda a, b: (min(unsigned, b), b)))
        sentence = "applies the ReLU to the bare sum, before bias and zero points"
        before = knobs(accumulator=lambda acc: np.maximum(acc, 0), bounds=lambda a, b: (low, b))
        yield Edit("relu_before_bias", sentence, site.rule, before)
        sentence = "has its ReLU the wrong way round: what is above the zero point is cut"
        yield Edit("relu_inverted", sentence, site.rule, knobs(bounds=lambda a, b: (low, zero)))
    else:
        yield Edit("relu_extra", "applies a ReLU where the layer has none", site.rule, knobs(bounds=lambda a, b: (zero, high)))
        sentence = "applies a ReLU at code 0 where the layer has none"
        yield Edit("relu_extra", sentence, site.rule, knobs(bounds=lambda a, b: (0, high)))


# -- saturation and widths -------------------------------------------------------------------------------------------------


@family(
    "saturation", (*CODES, "to_pcm", "to_pcm_f32", "overlap_add", "saturate", "round_half_even_f32", "shift_saturate_int32")
)
def saturation(site: Site) -> Iterator[Edit]:
    if not is_code(site):
        return
    rule = "N-4"
    yield Edit("wraps", "wraps around instead of saturating", rule, knobs(wraps=True), common=True)
    for low, high, name, words in (
        (1, 0, "saturates_symmetric", "saturates at the lowest code plus one, symmetrically"),
        (0, 1, "saturates_late", "saturates one code above the highest, which wraps to the lowest"),
        (-1, 0, "saturates_late", "saturates one code below the lowest, which wraps to the highest"),
        (-1, 1, "saturates_late", "saturates one code outside either bound, which wraps"),
        (0, -1, "saturates_early_high", "saturates one code below the highest"),
        (1, -1, "saturates_early", "saturates one code inside either bound"),
        (2, -1, "saturates_early", "saturates at -126 and 126, or as far inside"),
    ):
        edit = knobs(bounds=lambda a, b, low=low, high=high: (a + low, b + high))
        yield Edit(name, words, rule, edit, common=name == "saturates_symmetric")
    yield Edit("saturates_high_only", "saturates above but wraps below", rule, knobs(bounds=lambda a, b: (-(1 << 40), b)))
    yield Edit("saturates_low_only", "saturates below but wraps above", rule, knobs(bounds=lambda a, b: (a, 1 << 40)))
    yield Edit("saturates_at_zero", "saturates below at 0, as an unsigned code", rule, knobs(bounds=lambda a, b: (0, b)))
    yield Edit("saturates_unsigned", "saturates to [0, 255] and stores the low byte", rule, knobs(bounds=lambda a, b: (0, 255)))
    bits = 8 * site.golden[site.step.outputs[0]].dtype.itemsize
    for narrow in (b for b in (8, 12, 16, 24) if b < bits):
        top = 1 << (narrow - 1)
        edit = knobs(bounds=lambda a, b, top=top: (max(a, -top), min(b, top - 1)))
        yield Edit(f"saturates_at_{narrow}_bits", f"saturates to {narrow} bits", rule, edit)


@family("saturation", {"add_two_stage"})
def intermediate(site: Site) -> Iterator[Edit]:
    sentence = "saturates the scaled first operand to 8 bits before it adds"
    yield Edit("saturates_between", sentence, site.rule, knobs(middle=lambda v: np.clip(v, 0, 255)))
    yield Edit("wraps_between", "keeps 8 bits between the two stages", site.rule, knobs(middle=lambda v: v & 255))


@family("width", INTEGER_LAYERS)
def accumulator_width(site: Site) -> Iterator[Edit]:
    rule = "O-1"
    for bits in (16, 20, 24, 8, 31):
        yield Edit(
            f"accumulator_wraps_{bits}", f"accumulates in {bits} bits that wrap", rule, knobs(accumulator=_wrapped(bits))
        )
    for bits in (16, 20, 24, 8):
        name, words = f"accumulator_saturates_{bits}", f"accumulates in {bits} bits that saturate"
        yield Edit(name, f"{words}, once at the end", rule, knobs(accumulator=_clipped(bits)))
        if site.operator != "requantize_accumulators":
            yield Edit(name, f"{words}, after every product", rule, knobs(sums=_saturating(bits)))
            yield Edit(name, f"{words}, after every product, the bias first", rule, knobs(sums=_saturating(bits, True)))


def _wrapped(bits: int) -> Callable[[Array], Array]:
    half = 1 << (bits - 1)
    return lambda v: ((v + half) & ((1 << bits) - 1)) - half


def _clipped(bits: int) -> Callable[[Array], Array]:
    half = 1 << (bits - 1)
    return lambda v: np.clip(v, -half, half - 1)


def _saturating(bits: int, bias_first: bool = False) -> Callable[[Trial], Array]:
    from conformance.diagnosis.products import integer_products

    def sums(t: Trial) -> Array:
        clip = _clipped(bits)
        start = t.requantizer.bias.astype(np.int64)[t.channels()] * bias_first
        total: Array | int = clip(start)
        for product in integer_products(t):
            total = clip(total + product)
        return total - start

    return sums


@family("width", (*INTEGER_LAYERS, "add_joint", "multiply", "requantize_codes", "block_to_code"))
def product_width(site: Site) -> Iterator[Edit]:
    if is_code(site):
        for bits in (16, 24, 31, 32):
            sentence = f"keeps {bits} bits of the product with the multiplier"
            yield Edit(f"product_wraps_{bits}", sentence, "O-1", knobs(product=_wrapped(bits)))
            sentence = f"saturates the product with the multiplier to {bits} bits"
            yield Edit(f"product_saturates_{bits}", sentence, "O-1", knobs(product=_clipped(bits)))


@family("width", INTEGER_LAYERS[:-1])
def accumulator_kept(site: Site) -> Iterator[Edit]:
    """Accumulators that go on from the sum of the output before."""
    for axis, what in ((1, "bin"), (2, "channel"), (0, "frame")):
        words = f"does not clear the accumulator from {what} to {what}"
        edit = knobs(accumulator=lambda acc, axis=axis: acc.cumsum(axis))
        yield Edit("accumulator_not_cleared", words, site.operator_rule, edit)


@family("width", INTEGER_LAYERS[:-1])
def coarse_inputs(site: Site) -> Iterator[Edit]:
    """Datapaths that take fewer bits than the codes have."""
    if site.inputs[0].dtype == np.int16:
        low = _coarse(lambda x: x.astype(np.int8).astype(np.int16))
        yield Edit("input_low_byte", "reads only the low byte of 16-bit inputs", site.operator_rule, low)
        clipped = _coarse(lambda x: np.clip(x, -128, 127))
        yield Edit("input_saturated_8", "saturates 16-bit inputs to 8 bits", site.operator_rule, clipped)
        high = _coarse(lambda x: (x >> 8) << 8)
        yield Edit("input_high_byte", "reads only the high byte of 16-bit inputs", site.operator_rule, high)


def _coarse(change: Callable[[Array], Array]) -> Change:
    return takes(0, lambda x: change(x).astype(x.dtype))


# -- functions -------------------------------------------------------------------------------------------------------------


@family("constant", {*SHIFTS[:4], "to_pcm"})
def shift_amount(site: Site) -> Iterator[Edit]:
    for change in (1, -1):
        words = "more" if change > 0 else "less"
        yield Edit("shift_off_by_one", f"shifts by one {words}", site.rule, knobs(shift=change))
