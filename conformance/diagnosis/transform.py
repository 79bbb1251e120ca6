"""The Fourier transform and what surrounds it: windows, twiddles, exponents, roundings of stages, bins, speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.diagnosis import fourier
from conformance.diagnosis.changes import Change, after, constant, constants, instead, plus, takes
from conformance.diagnosis.fourier import Plan
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.roundings import HALF_UP, LAWS, WRAPPED_32
from conformance.diagnosis.site import Array, Outputs, Site
from conformance.diagnosis.trial import Trial

FORWARD = ("stft", "stft_f32")
INVERSE = ("istft", "istft_f32")
PAIRS = ("stft", "stft_f32", "block_to_bf16", "block_to_code", "bf16_to_block", "code_to_block")  # [..., (re, im)] outputs


# -- parts, bins, speakers -------------------------------------------------------------------------------------------------


@family("transform", PAIRS)
def parts(site: Site) -> Iterator[Edit]:
    rule = site.operator_rule
    form = site.output_form()
    zero = 2 * form.zero_point if form.is_code else 0

    def negative(a: Array) -> Array:
        if form.kind == "bf16":
            return a ^ np.uint16(0x8000)
        return -a if a.dtype.kind == "f" else (zero - a.astype(np.int64)).astype(a.dtype)

    def conjugated(a: Array) -> Array:
        out = a.copy()
        out[..., 1] = negative(a[..., 1])
        return out

    swapped = after(lambda a: a[..., ::-1], 0)
    yield Edit("re_im_swapped", "exchanges real and imaginary parts", rule, swapped, common=True)
    yield Edit("conjugated", "has the opposite sign of the imaginary part", rule, after(conjugated, 0), common=True)
    planar = after(lambda a: np.ascontiguousarray(np.moveaxis(a, -1, -2)).reshape(a.shape), 0)
    yield Edit("parts_planar", "writes all real parts, then all imaginary parts", rule, planar)
    bins = site.golden[site.step.outputs[0]].ndim - 2
    start = form.zero_point if form.is_code else 0
    for at, key, words in (
        (-1, "nyquist_missing", "leaves the highest bin out (zero)"),
        (0, "dc_missing", "leaves bin 0 out (zero)"),
    ):
        for fill in dict.fromkeys((start, 0)):
            yield Edit(key, words, rule, after(_filled(bins, at, fill), 0))
    reversed_ = after(lambda a: np.ascontiguousarray(np.flip(a, bins)), 0)
    yield Edit("bins_reversed", "writes the bins from the highest down", rule, reversed_)


def _filled(axis: int, at: int, fill: int) -> Callable[[Array], Array]:
    def change(a: Array) -> Array:
        out = a.copy()
        np.moveaxis(out, axis, 0)[at] = fill
        return out

    return change


@family("transform", {"bf16_to_block", "code_to_block", "istft_f32"})
def decoder_channels(site: Site) -> Iterator[Edit]:
    """Which channel of the decoder is which speaker's which part (SPEC M-11)."""
    yield Edit(
        "re_im_swapped", "exchanges real and imaginary channels", "M-11", _channels(lambda re, im: (im, re)), common=True
    )
    yield Edit(
        "speakers_swapped", "exchanges the speakers", "M-11", _channels(lambda re, im: (re[::-1], im[::-1])), common=True
    )
    both = _channels(lambda re, im: (im[::-1], re[::-1]))
    yield Edit("speakers_swapped", "exchanges the speakers and their parts", "M-11", both)

    def other_order(re: Array, im: Array) -> tuple[Array, Array]:
        count = len(re)
        at = np.arange(count)
        return (at, at + count) if count > 1 and re[1] == 2 else (2 * at, 2 * at + 1)

    words = "takes the decoder's channels in the other order (speaker_major, real_first)"
    yield Edit("channel_order", words, "M-11", _channels(other_order))


def _channels(change: Callable[[Array, Array], tuple[Array, Array]]) -> Change:
    def edit(t: Trial) -> Trial:
        re, im = change(t.constant("re"), t.constant("im"))
        return t.with_constants(re=re, im=im)

    return edit


@family("transform", {*INVERSE, "overlap_add", "overlap_add_f32", "to_pcm", "to_pcm_f32"})
def speakers(site: Site) -> Iterator[Edit]:
    if site.golden[site.step.outputs[0]].shape[1] == 2:
        swapped = after(lambda a: a[:, ::-1])
        yield Edit("speakers_swapped", "exchanges the speakers", site.operator_rule, swapped, common=True)
        first = after(lambda a: np.repeat(a[:, :1], a.shape[1], 1))
        yield Edit("speaker_repeated", "writes the first speaker for both", site.operator_rule, first)


# -- windows and twiddles --------------------------------------------------------------------------------------------------


@family("transform", (*FORWARD, *INVERSE))
def window(site: Site) -> Iterator[Edit]:
    one = (1 << 30) if site.operator == "stft" else 1.0
    table = site.step.constants[site.labels.index("window")]
    forward = site.operator in FORWARD
    rule = "F-2" if forward else "F-16"
    for by in (1, -1):
        for way in (np.roll, _moved):
            yield Edit("window_off_by_one", f"has its window shifted by {by:+d}", rule, constant("window", way, by))
    if not forward:
        yield Edit("window_reversed", "has its window reversed", rule, constant("window", lambda w: w[::-1]))
        return
    n = np.arange(len(table))
    shapes = {
        "window_periodic": ("a periodic Hann window (256 in the cosine instead of 255)", (1 - np.cos(2 * np.pi * n / 256)) / 2),
        "window_other": ("a symmetric Hann window", (1 - np.cos(2 * np.pi * n / 255)) / 2),
        "window_missing": ("no window", np.ones(len(table))),
        "window_root": ("the root of a Hann window", np.sqrt((1 - np.cos(2 * np.pi * n / 255)) / 2)),
        "window_hamming": ("a Hamming window", 0.54 - 0.46 * np.cos(2 * np.pi * n / 255)),
    }
    for name, (words, values) in shapes.items():
        other = (np.rint(values * one) if one != 1.0 else values).astype(table.dtype)
        yield Edit(name, f"has {words}", rule, constants(window=other))


def _moved(table: Array, by: int) -> Array:
    """Shifted with the outermost value repeated."""
    out: Array = table[np.clip(np.arange(len(table)) - by, 0, len(table) - 1)]
    return out


@family("transform", (*FORWARD, *INVERSE, "complex_fft_128"))
def twiddles(site: Site) -> Iterator[Edit]:
    def negative(w: Array) -> Array:
        out: Array = w * np.array([1, -1], w.dtype)
        return out

    yield Edit("twiddle_sign", "has twiddles of the opposite sign", "F-1", constant("twiddle", negative), common=True)
    swapped = constant("twiddle", lambda w: w[:, ::-1])
    yield Edit("twiddle_swapped", "exchanges sine and cosine", "F-1", swapped)
    if site.step.constants[site.labels.index("twiddle")].dtype.kind != "f":
        labels = [label for label in ("twiddle", "window") if label in site.labels]
        for bits in (15, 14, 16, 24):
            for label in labels:
                short = constant(label, _shortened, bits)
                yield Edit(f"{label}_q{bits}", f"holds its {label}s in Q{bits}", "F-1" if label == "twiddle" else "F-2", short)


def _shortened(table: Array, bits: int) -> Array:
    """A Q1.30 table in fewer fraction bits, 1.0 itself being cut to what a word of one bit more holds."""
    drop = 30 - bits
    value = HALF_UP.shift(table.astype(np.int64), drop)
    return (np.minimum(value, (1 << bits) - 1 if bits == 15 else 1 << bits) << drop).astype(table.dtype)


# -- the transform itself --------------------------------------------------------------------------------------------------

MODELS = {"stft": fourier.forward, "stft_f32": fourier.forward_f32, "istft": fourier.inverse, "istft_f32": fourier.inverse_f32}


def planned(site: Site, **changes: Any) -> Change:
    """The transform by another plan."""
    return instead(MODELS[site.operator], Plan(**changes))


@family("transform", {"stft", "istft", "complex_fft_128"})
def stage_roundings(site: Site) -> Iterator[Edit]:
    """Another rounding at all stages or at one, of both parts or of one."""
    core = site.operator == "complex_fft_128"
    places = ("stage",) if core else ("window", "stage", "split")
    names = {"window": "window", "stage": "butterfly", "split": "split"}
    for law in LAWS[:-1]:
        if not core:
            every = planned(site, window=(law, law), stage=(law, law), split=(law, law))
            yield Edit(f"all_round_{law.name}", f"{law.words}, at every stage of the transform", site.operator_rule, every)
        for place in places:
            rule = "F-3" if place == "stage" else site.operator_rule
            for laws, which in (
                ((law, law), ""),
                ((law, HALF_UP), ", real parts alone"),
                ((HALF_UP, law), ", imaginary parts alone"),
            ):
                words = f"{law.words}, at the {names[place]} stage{which}"
                edit = _core(Plan(stage=laws)) if core else planned(site, **{place: laws})
                yield Edit(f"{names[place]}_round_{law.name}", words, rule, edit)


CORE_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("twiddle_sign", "transforms in the opposite direction", {"sign": -2}),
    ("bit_reversal_missing", "leaves the bit reversal out", {"reversed_parts": ""}),
    ("bit_reversal_missing", "leaves the bit reversal of the imaginary parts out", {"reversed_parts": "r"}),
    ("stage_missing", "leaves the last stage of the transform out", {"stages": 6}),
    ("butterfly_swapped", "exchanges sum and difference in the butterflies", {"crossed": True}),
    ("butterfly_sign", "adds where the real product subtracts", {"turn": (1, 1)}),
    ("butterfly_sign", "subtracts where the imaginary product adds", {"turn": (-1, -1)}),
)
INTEGER_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("butterfly_rounds_twice", "rounds both products of a butterfly before it adds them", {"apart": True}),
    ("butterfly_stale", "computes the imaginary product of a butterfly from the real result", {"stale": True}),
    ("products_wrap_32", "computes the products of the butterflies in 32 bits", {"stage": (WRAPPED_32, WRAPPED_32)}),
    ("stages_halved", "halves after every stage, rounding half up", {"halving": HALF_UP}),
    ("stages_halved", "halves after every stage, rounding down", {"halving": LAWS[0]}),
)
FLOAT_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("fused_multiply_add", "fuses the first product with the sum", {"contraction": "first"}),
    ("fused_multiply_add", "fuses the second product with the sum", {"contraction": "second"}),
    ("sum_in_double", "adds products in FP64", {"contraction": "double"}),
    ("fft_in_double", "computes the transform in FP64 and rounds once", {"double": True}),
)
SPLIT_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("split_sign", "has the opposite sign of the turned half in the split stage", {"flips": frozenset({"odd"})}),
    ("split_sign", "has conjugated twiddles in the split stage alone", {"flips": frozenset({"s"})}),
)
SIGN_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("split_sign", "has the opposite sign of the turned half in the real parts alone", {"flips": frozenset({"odd_r"})}),
    ("split_sign", "has the opposite sign of the turned half in the imaginary parts alone", {"flips": frozenset({"odd_i"})}),
    ("split_sign", "has the opposite sign of the sine's product in the real parts", {"flips": frozenset({"second"})}),
    ("split_sign", "has the opposite sign of the sine's product in the imaginary parts", {"flips": frozenset({"first"})}),
)
FORWARD_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("split_sign", "adds imaginary parts in the split stage where the rule subtracts", {"flips": frozenset({"ui"})}),
    ("split_sign", "subtracts imaginary parts in the split stage where the rule adds", {"flips": frozenset({"wr"})}),
    ("split_sign", "subtracts real parts in the split stage the other way round", {"flips": frozenset({"wi"})}),
    ("bin_shift", "takes the bins one further in the split stage", {"first": 1}),
    ("bin_shift", "takes the bins one before in the split stage", {"first": -1}),
    ("bins_mirrored_wrongly", "takes bin 127 - k for bin 128 - k in the split stage", {"mirror": 127}),
)
INVERSE_PLANS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("split_sign", "does not conjugate the mirrored bin in the split stage", {"flips": frozenset({"im"})}),
    ("split_sign", "does not conjugate the mirrored bin in the even half", {"flips": frozenset({"even_i"})}),
    ("split_sign", "does not conjugate the mirrored bin in the odd half", {"flips": frozenset({"di"})}),
    ("edge_imaginary_read", "reads the imaginary parts of bins 0 and 128, which the rule takes as 0", {"imaginary": "0N"}),
    ("edge_imaginary_read", "reads the imaginary part of bin 0, which the rule takes as 0", {"imaginary": "0"}),
    ("edge_imaginary_read", "reads the imaginary part of bin 128, which the rule takes as 0", {"imaginary": "N"}),
    ("samples_off_by_one", "keeps samples from 97 on instead of 96", {"offset": 1}),
    ("samples_off_by_one", "keeps samples from 95 on instead of 96", {"offset": -1}),
    ("samples_misplaced", "keeps samples from 0 on instead of 96", {"offset": -96}),
    ("samples_misplaced", "keeps samples from 64 on instead of 96", {"offset": -32}),
    ("samples_misplaced", "keeps samples from 128 on instead of 96", {"offset": 32}),
    ("samples_swapped", "exchanges even and odd samples", {"swapped_samples": True}),
    ("shift_off_by_one", "is half as loud as the rule", {"shift": 1}),
    ("shift_off_by_one", "is twice as loud as the rule", {"shift": -1}),
)


@family("transform", {*FORWARD, *INVERSE, "complex_fft_128"})
def other_plans(site: Site) -> Iterator[Edit]:
    core, is_float, is_forward = site.operator == "complex_fft_128", site.operator.endswith("f32"), site.operator in FORWARD
    for name, words, changes in (*CORE_PLANS, *(FLOAT_PLANS if is_float else INTEGER_PLANS)):
        yield Edit(name, words, "F-3", _core(Plan(**changes)) if core else planned(site, **_signed(changes, is_forward)))
    if core:
        return
    for name, words, changes in (*SPLIT_PLANS, *(FORWARD_PLANS if is_forward else INVERSE_PLANS)):
        yield Edit(name, words, site.operator_rule, planned(site, **changes))
    if not is_float:
        for name, words, changes in SIGN_PLANS:
            yield Edit(name, words, site.operator_rule, planned(site, **changes))
        words = "rounds the turned half of the split stage before it adds it"
        yield Edit("split_rounds_twice", words, site.operator_rule, planned(site, split_apart=True))
        wide = planned(site, split=(WRAPPED_32, WRAPPED_32))
        yield Edit("products_wrap_32", "computes the products of the split stage in 32 bits", site.operator_rule, wide)
    elif not is_forward:
        words = "subtracts from left to right in the split stage"
        yield Edit("sum_order", words, site.operator_rule, planned(site, left_to_right=True))


def _signed(changes: dict[str, Any], is_forward: bool) -> dict[str, Any]:
    """The opposite direction, which depends on the operator's own."""
    return changes | {"sign": -1 if is_forward else 1} if "sign" in changes else changes


def _core(plan: Plan) -> Change:
    """The complex transform alone, whose direction is a constant."""

    def other(t: Trial) -> Outputs:
        own = int(t.constant("sign"))
        chosen = replace(plan, sign=-own) if plan.sign else plan
        zr, zi = (x.astype(np.int64)[None] for x in t.inputs)
        found = fourier.fft(zr, zi, t.constant("twiddle").astype(np.int64), own, chosen)
        return {n: a[0].astype(t.site.golden[n].dtype) for n, a in zip(t.site.step.outputs, found, strict=True)}

    return instead(other)


# -- forward ---------------------------------------------------------------------------------------------------------------


@family("transform", {"stft"})
def exponents(site: Site) -> Iterator[Edit]:
    one = "exponent_off_by_one"
    ways: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
        ("exponent_missing", "does not normalize the frame: exponent 0", lambda f: np.zeros(len(f), np.int64)),
        (one, "normalizes by one bit more", lambda f: fourier.normalized(np.abs(f).max(1), 1 << 15)),
        (one, "normalizes by one bit less", lambda f: fourier.normalized(np.abs(f).max(1), 1 << 13)),
        (one, "shifts by one less than the rule", lambda f: np.maximum(fourier.exponent(f) - 1, 0)),
        ("exponent_above", "normalizes to more than 2^14", lambda f: fourier.normalized(np.abs(f).max(1), (1 << 14) + 1)),
        ("exponent_signed_peak", "takes the largest sample as the peak, not the largest magnitude",
         lambda f: fourier.normalized(f.max(1), 1 << 14)),
        ("exponent_half_frame", "takes the peak of the first half of the frame",
         lambda f: fourier.normalized(np.abs(f[:, :128]).max(1), 1 << 14)),
        ("exponent_first_frame", "keeps the first frame's exponent", lambda f: np.repeat(fourier.exponent(f)[:1], len(f))),
        ("exponent_not_reset", "keeps the peak of the frames before",
         lambda f: fourier.normalized(np.maximum.accumulate(np.abs(f).max(1)), 1 << 14)),
    )  # fmt: skip
    for name, words, way in ways:
        yield Edit(name, words, "F-4", instead(fourier.forward, Plan(), way))
    for by in (1, -1):
        edit = after(plus, 1, by)
        yield Edit(one, f"writes the exponent as {by:+d}, the mantissas unchanged", "F-4", edit)
        words = f"has mantissas {'twice' if by > 0 else 'half'} as large as the rule's"
        scaled = after(lambda a, d: a << 1 if d > 0 else HALF_UP.shift(a, 1).astype(a.dtype), 0, by)
        yield Edit("mantissa_off_by_one", words, "F-4", scaled)
    yield Edit("mantissa_off_by_one", "does not halve in the split stage", "F-4", planned(site, split_shift=30))
    yield Edit("exponent_unwritten", "normalizes, but writes the exponent as 0", "F-4", after(np.zeros_like, 1))
    yield Edit("exponent_unapplied", "writes the exponent but does not apply it", "F-4", instead(_unapplied))


def _unapplied(t: Trial) -> Outputs:
    plain = fourier.forward(t, Plan(), lambda f: np.zeros(len(f), np.int64))
    name = t.site.step.outputs[1]
    return plain | {name: t.site.golden[name]}


# -- inverse ---------------------------------------------------------------------------------------------------------------


@family("transform", {"istft"})
def inverse_exponents(site: Site) -> Iterator[Edit]:
    yield Edit("exponent_missing", "leaves the block exponents out", "F-9", takes(1, np.zeros_like))
    yield Edit("exponent_sign", "takes the block exponents with the opposite sign", "F-9", takes(1, np.negative))
    yield Edit("exponent_other_speaker", "takes the other speaker's exponent", "F-9", takes(1, lambda e: e[:, ::-1]))
    first = takes(1, lambda e: np.repeat(e[:, :1], e.shape[1], 1))
    yield Edit("exponent_other_speaker", "takes the first speaker's exponent for all", "F-9", first)
    for where in ("right left", "right", "left", "right left uncut", "left uncut"):
        words = f"wraps around instead of saturating ({where.removesuffix(' uncut').replace(' ', ' and ')} shifts)"
        yield Edit("wraps", words, "N-5", planned(site, wraps=where))


@family("transform", INVERSE)
def spectra(site: Site) -> Iterator[Edit]:
    rule = site.operator_rule
    bins = 2 if site.operator == "istft" else 1
    yield Edit("nyquist_missing", "leaves the highest bin out", rule, takes(0, _filled(bins, -1, 0)))
    yield Edit("dc_missing", "leaves bin 0 out", rule, takes(0, _filled(bins, 0, 0)))
    if site.operator == "istft":
        opposite = takes(0, lambda x: x * np.array([1, -1], x.dtype))
        yield Edit("re_im_swapped", "exchanges real and imaginary parts", rule, takes(0, lambda x: x[..., ::-1]))
    else:
        sign = np.ones(site.inputs[0].shape[2], np.float32)
        sign[site.step.constants[site.labels.index("im")]] = -1
        opposite = takes(0, lambda x: x * sign)
    yield Edit("conjugated", "takes the spectrum conjugated", rule, opposite, common=True)


@family("transform", {"overlap_add", "overlap_add_f32"})
def overlaps(site: Site) -> Iterator[Edit]:
    tail_length = site.inputs[1].shape[2]

    def added(places: slice, turned: bool = False) -> Change:
        def other(t: Trial) -> Outputs:
            head, tail = t.inputs
            total = head.copy() if head.dtype.kind == "f" else head.astype(np.int64)
            total[:, :, places] += tail[:, :, ::-1] if turned else tail
            if head.dtype.kind != "f":
                total = np.clip(total, -(1 << 31), (1 << 31) - 1)
            return t.output(total)

        return instead(other)

    words = "adds the tail to the last samples of the hop instead of the first"
    yield Edit("tail_misplaced", words, site.operator_rule, added(slice(-tail_length, None)))
    yield Edit("tail_misplaced", "adds the tail one sample late", site.operator_rule, added(slice(1, tail_length + 1)))
    yield Edit("tail_reversed", "adds the tail reversed", site.operator_rule, added(slice(tail_length), True))
    short = takes(1, _filled(2, -1, 0))
    yield Edit("tail_short", "leaves the last sample of the tail out", site.operator_rule, short)
    other = takes(1, lambda tail: tail[:, ::-1])
    yield Edit("speakers_swapped", "adds the other speaker's tail", site.operator_rule, other)
