"""Weights, taps, channels and constants in another order than the rules'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np

from conformance.diagnosis.changes import Change, after, constant, constants, instead, knobs, takes
from conformance.diagnosis.models import INTEGER_LAYERS
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.site import Array, Outputs, Site
from conformance.diagnosis.trial import Trial
from refimpl.numerics.requantize import Requantizer

DENSE = ("fully_connected_frequency", "fully_connected_channels")
CAUSAL = ("conv_causal", "conv_transposed_causal")
STRIDED = ("conv_strided", "conv_strided_transposed")
LAYERS = tuple(f"{name}{end}" for name in (*DENSE, *CAUSAL, *STRIDED) for end in ("", "_f32", "_bf16"))
CAUSAL_ALL = tuple(f"{name}{end}" for name in CAUSAL for end in ("", "_f32", "_bf16"))


def weights(change: Callable[..., Array], *more: Any) -> Change:
    return constant("weight", change, *more)


def axes_of(site: Site) -> tuple[int, int]:
    """The axes of a layer's weights that count inputs and outputs."""
    if site.operator.startswith("fully_connected_frequency"):
        return 1, 0
    rank = site.step.constants[0].ndim
    return rank - 2, rank - 1


@family("order", LAYERS)
def transposed_weights(site: Site) -> Iterator[Edit]:
    """Weights read in the memory order of other axes."""
    weight = site.step.constants[0]
    names = {2: "in, out", 3: "tap, in, out", 4: "time, frequency, in, out"}[weight.ndim].split(", ")
    if site.operator.startswith("fully_connected_frequency"):
        names = ["out", "in"]
    for order in list(permutations(range(weight.ndim)))[1:]:
        shown = ", ".join(names[i] for i in order)
        shape = tuple(weight.shape[i] for i in order)

        def stored(w: Array, order: tuple[int, ...] = order) -> Array:
            return np.ascontiguousarray(w.transpose(order)).reshape(w.shape)

        def taken(w: Array, order: tuple[int, ...] = order, shape: tuple[int, ...] = shape) -> Array:
            return w.reshape(shape).transpose(np.argsort(order))

        for way in (stored, taken):
            yield Edit("weights_transposed", f"reads its weights as [{shown}]", site.operator_rule, weights(way), common=True)


@family("order", CAUSAL_ALL)
def taps(site: Site) -> Iterator[Edit]:
    rule = site.operator_rule
    yield Edit("kernel_flipped_time", "has the kernel reversed in time", rule, weights(lambda w: w[::-1]), common=True)
    flipped = weights(lambda w: w[:, ::-1])
    yield Edit("kernel_flipped_frequency", "has the kernel reversed in frequency", rule, flipped, common=True)
    below = site.step.constants[site.labels.index("below")]
    if below != 1:
        words = "has the kernel reversed in frequency, its padding with it"
        padded = constants(below=2 - below)
        yield Edit("kernel_flipped_frequency", words, rule, lambda t: padded(flipped(t)))
    both = weights(lambda w: w[::-1, ::-1])
    yield Edit("kernel_flipped_both", "has the kernel reversed in time and in frequency", rule, both)
    newest = 2 if site.operator.startswith("conv_causal") else 0
    past = [k for k in range(3) if k != newest]
    swap = [past[::-1][past.index(k)] if k in past else k for k in range(3)]
    yield Edit("past_frames_swapped", "swaps the two frames of the past", rule, weights(lambda w: w[swap]), common=True)
    for axis, what in ((0, "time"), (1, "frequency")):
        for by in (1, 2):
            edit = weights(np.roll, by, axis)
            yield Edit(f"taps_rotated_{what}", f"has the taps in {what} rotated by {by}", rule, edit)
        for tap in range(3):
            edit = weights(_without, axis, tap)
            yield Edit("tap_missing", f"leaves tap {tap} in {what} out", rule, edit)


def _without(weight: Array, axis: int, at: int) -> Array:
    out = weight.copy()
    np.moveaxis(out, axis, 0)[at] = 0
    return out


@family("order", CAUSAL_ALL)
def padding(site: Site) -> Iterator[Edit]:
    below = site.step.constants[site.labels.index("below")]
    for other in (0, 1, 2):
        if other != below:
            words = f"pads {other} bins below and {2 - other} above instead of {below} and {2 - below}"
            edit = constants(below=other)
            yield Edit("padding_side", words, site.operator_rule, edit, common=True)
    if "padding" in site.labels:
        yield Edit("padding_zero", "pads with code 0 instead of the zero point", site.operator_rule, constants(padding=0))
        low = constants(padding=site.input_form(0).lowest)
        yield Edit("padding_lowest", "pads with the lowest code instead of the zero point", site.operator_rule, low)
    yield Edit("padding_edge", "repeats the outermost bin instead of padding", site.operator_rule, instead(_beyond, "edge"))
    yield Edit(
        "padding_wrap", "takes the bin at the other end instead of padding", site.operator_rule, instead(_beyond, "wrap")
    )


def _beyond(t: Trial, how: Any) -> Outputs:
    """The golden operator on inputs that are continued beyond both ends, cut to the bins that count."""
    name = t.site.step.outputs[0]
    x = np.pad(t.inputs[0], ((0, 0), (2, 2), (0, 0)), mode=how)
    frames, bins, channels = t.site.golden[name].shape
    wide = t.site.run((x,), t.constants, {name: (frames, bins + 4, channels)})
    return {name: np.ascontiguousarray(wide[name][:, 2:-2])}


@family("order", CAUSAL_ALL)
def outermost_bins(site: Site) -> Iterator[Edit]:
    start = site.start(0)
    for at, what in ((-1, "highest"), (0, "lowest")):
        edit = takes(0, _with_bin, at, start)
        yield Edit("edge_bin_missing", f"takes the {what} bin as padding", site.operator_rule, edit)


def _with_bin(x: Array, at: int, fill: int) -> Array:
    out = x.copy()
    out[:, at] = fill
    return out


@family("order", ("conv_strided_transposed",))
def output_padding(site: Site) -> Iterator[Edit]:
    rule = site.operator_rule
    yield Edit("padding_zero", "pads with code 0 instead of the zero point", rule, constants(padding=0))
    last = takes(0, lambda x: np.concatenate([x, x[:, -1:]], 1))
    yield Edit("padding_edge", "repeats the last bin where the rule pads", rule, last)


@family("order", (*(f"{name}{end}" for name in STRIDED for end in ("", "_f32")),))
def strided_bins(site: Site) -> Iterator[Edit]:
    """Groups of bins divided in another way."""
    taps, bins = len(site.step.constants[0]), site.inputs[0].shape[1]
    if site.operator.startswith("conv_strided_transposed"):
        groups = np.arange(taps * bins).reshape(bins, taps).T.ravel()
        words = "writes each tap's bins in a band of their own"
        edit = after(lambda a: np.concatenate([a[:, groups], a[:, taps * bins :]], 1))
        yield Edit("taps_interleaved", words, site.operator_rule, edit)
        return
    count = bins // taps
    order = np.arange(taps * count).reshape(taps, count).T.ravel()
    words = "takes the bins of a group from bands, one tap from each"
    yield Edit("taps_interleaved", words, site.operator_rule, takes(0, lambda x: x[:, order]))
    words = "leaves the surplus bins out at the low end"
    yield Edit("bins_left_over", words, site.operator_rule, takes(0, lambda x: x[:, bins - taps * count :]))


@family("order", LAYERS)
def input_order(site: Site) -> Iterator[Edit]:
    axis = axes_of(site)[0]
    what = "bins" if site.operator.startswith("fully_connected_frequency") else "channels"
    count = site.step.constants[0].shape[axis]
    for name, words, order in orders(count):
        edit = weights(np.take, order, axis)
        yield Edit(f"input_{what}_{name}", f"reads its input {what} {words}", site.operator_rule, edit)
    for at, words in ((count - 1, "last"), (0, "first")):
        edit = weights(_without, axis, at)
        yield Edit(f"input_{words}_missing", f"leaves the {words} of its input {what} out", site.operator_rule, edit)
    if site.operator.startswith(STRIDED):
        flipped = weights(lambda w: w[::-1])
        yield Edit("taps_reversed", "has its taps in the opposite order", site.operator_rule, flipped)
        if site.operator == "conv_strided_transposed":
            words = "has its taps in the opposite order, their constants with them"
            taps = len(site.step.constants[0])
            own = _picked(np.arange(taps * site.step.constants[0].shape[2]).reshape(taps, -1)[::-1].ravel())
            yield Edit("taps_reversed", words, site.operator_rule, lambda t: own(flipped(t)))


def orders(count: int) -> Iterator[tuple[str, str, Array]]:
    """Orders of ``count`` things that ports get wrong."""
    at = np.arange(count)
    if count < 2:
        return
    yield "reversed", "in the opposite order", at[::-1]
    yield "rotated", "one further", np.roll(at, -1)
    yield "rotated", "one before", np.roll(at, 1)
    if count % 2 == 0:
        yield "swapped", "with the two of every pair swapped", at ^ 1
        yield "halves_swapped", "with both halves swapped", np.roll(at, count // 2)
        yield "interleaved", "as pairs where they are halves", at.reshape(2, -1).T.ravel()
        yield "interleaved", "as halves where they are pairs", at.reshape(-1, 2).T.ravel()
    if count % 4 == 0:
        quarters = at.reshape(-1, 4)[:, ::-1].ravel()
        yield "byte_swapped", "with each four in the opposite order, as bytes of a word", quarters


@family("permutation")
def output_order(site: Site) -> Iterator[Edit]:
    """Outputs permuted along bins or channels, their constants with them."""
    if not site.framed:
        return
    shape = site.golden[site.step.outputs[0]].shape
    for axis, what in ((len(shape) - 1, "channels"), *(((1, "bins"),) if len(shape) > 2 else ())):
        for name, words, order in orders(shape[axis]):
            edit = _ordered(order, axis, shape[axis])
            yield Edit(f"output_{what}_{name}", f"writes its output {what} {words}", site.operator_rule, edit)


def _ordered(order: Array, axis: int, count: int) -> Change:
    return after(lambda a: np.take(a, order, axis) if a.ndim > axis and a.shape[axis] == count else a)


# -- gates -----------------------------------------------------------------------------------------------------------------


@family("order", ("fully_connected_channels", "fully_connected_channels_f32"))
def gate_rows(site: Site) -> Iterator[Edit]:
    """Four gates in another order than i, f, g, o among the output channels."""
    count = site.step.constants[0].shape[1]
    if count % 4 or ".lstm" not in site.step.name:
        return
    for order in list(permutations(range(4)))[1:]:
        rows = np.arange(count).reshape(4, -1)[list(order)].ravel()
        words = f"has its gates in the order {', '.join('ifgo'[k] for k in order)}"
        yield Edit("gate_order", words, "M-6", _ordered(rows, 2, count), common=True)
        edit = weights(np.take, rows, 1)
        yield Edit("gate_order", f"{words}, the weights alone", "M-6", edit)


@family("order", ("lookup", "activate_f32"))
def gate_start(site: Site) -> Iterator[Edit]:
    start = site.step.constants[site.labels.index("start")]
    channels, available = site.golden[site.step.outputs[0]].shape[2], site.inputs[0].shape[2]
    for other in range(0, available - channels + 1, channels):
        if other != start:
            words = f"takes the gate from channel {other} on instead of {start}"
            yield Edit("gate_order", words, "M-6", constants(start=other), common=True)
    for other in (start - 1, start + 1):
        if 0 <= other <= available - channels:
            words = f"takes channels from {other} on instead of {start}"
            yield Edit("channel_shift", words, site.rule, constants(start=other))
    if available == 4 * channels:
        gate = start // channels
        every = _gates_interleaved(gate, channels)
        yield Edit("gates_interleaved", "takes every fourth channel as one gate", "M-6", every)


def _gates_interleaved(gate: int, channels: int) -> Change:
    order = np.arange(4 * channels).reshape(-1, 4).T.ravel()
    return takes(0, lambda x: np.take(x, order, 2))


# -- per-channel constants -------------------------------------------------------------------------------------------------


@family("constant", INTEGER_LAYERS)
def channelconstants(site: Site) -> Iterator[Edit]:
    """Multipliers, shifts and biases of another channel than the output's."""
    rq = site.requantizer
    if rq is None or len(rq.bias) < 2:
        return
    count = len(rq.bias)
    yield Edit("constants_of_channel_0", "uses the constants of channel 0 for all", site.rule, _picked(np.zeros(count, int)))
    if site.operator == "conv_strided_transposed":
        taps, outputs = site.step.constants[0].shape[0], site.step.constants[0].shape[2]
        at = np.arange(count)
        swapped = (at % outputs) * taps + at // outputs
        yield Edit("constants_tap_order", "indexes its constants as [channel, tap]", site.rule, _picked(swapped))
        tap0 = _picked(at % outputs)
        yield Edit("constants_of_tap_0", "uses the constants of the first tap for all", site.rule, tap0)
    for name, words, order in orders(count):
        yield Edit(f"constants_{name}", f"takes its constants {words}", site.rule, _picked(order))
    if site.framed:
        for axis, what in ((1, "bin"), (2, "channel")):
            words = f"indexes its constants by {what}"
            yield Edit("constants_other_axis", words, site.rule, knobs(index=axis))
    if rq.multiplier.any():
        real = np.ldexp(rq.multiplier.astype(np.float64), -rq.shift)
        for channel, words in ((int(real.argmax()), "largest"), (int(real.argmin()), "smallest")):
            words = f"scales per tensor: the {words} scale, of channel {channel}, for all"
            edit = _picked(np.full(count, channel), "multiplier", "shift")
            yield Edit("scale_per_tensor", words, site.rule, edit)
            yield Edit("scale_per_tensor", f"{words}, folded with it", site.rule, _then(edit, _folded_anew))
    for field, what in (("multiplier", "multiplier"), ("shift", "shift"), ("bias", "bias"), ("scale", "scale")):
        if not getattr(rq, field).any():
            continue
        edit = _picked(np.zeros(count, int), field)
        yield Edit(f"{field}_of_channel_0", f"uses the {what} of channel 0 for all", site.rule, edit)
        for by, words in ((-1, "next"), (1, "previous")):
            moved = _picked(np.roll(np.arange(count), by), field)
            yield Edit(f"{field}_of_neighbour", f"uses the {what} of the {words} channel", site.rule, moved)


def _then(first: Change, second: Change) -> Change:
    return lambda t: second(first(t))


def _folded_anew(t: Trial) -> Trial:
    rq = t.requantizer
    half = (np.int64(1) << rq.shift.astype(np.int64)) >> 1
    return t.with_requantizer(addend=rq.bias.astype(np.int64) * rq.multiplier + half)


def _picked(order: Array, *only: str) -> Change:
    """Constants picked by ``order``; ``bias`` brings its part of the addend along."""

    def edit(t: Trial) -> Trial:
        rq: Requantizer = t.requantizer
        names = only or ("bias", "multiplier", "addend", "shift", "scale")
        picked = {name: getattr(rq, name)[order] for name in names}
        if only == ("bias",):
            picked["addend"] = rq.addend[order]
        return t.with_requantizer(**picked)

    return edit


@family("constant", INTEGER_LAYERS)
def multiplier_and_shift(site: Site) -> Iterator[Edit]:
    if site.law not in ("folded", "norm_twice"):
        return
    for by, words in ((1, "more"), (-1, "less")):
        yield Edit("shift_off_by_one", f"shifts by one {words}", site.rule, _changed("shift", by))
        rescaled = _reshifted(by)
        yield Edit("shift_off_by_one", f"shifts by one {words}, its rounding constant with it", site.rule, rescaled)
        yield Edit("multiplier_off_by_one", f"multiplies by one {words}", site.rule, _changed("multiplier", by))
    signed = _signed_multiplier
    yield Edit("multiplier_read_signed", "reads its unsigned 8-bit multipliers as signed ones", site.rule, signed)
    nothing = _changed("multiplier", 0, 1)
    yield Edit("multiplier_missing", "does not multiply", site.rule, nothing)


def _changed(field: str, by: int, to: int | None = None) -> Change:
    def edit(t: Trial) -> Trial:
        values = getattr(t.requantizer, field)
        other = np.full_like(values, to) if to is not None else np.maximum(values + np.int32(by), 0)
        return t.with_requantizer(**{field: other})

    return edit


def _reshifted(by: int) -> Change:
    def edit(t: Trial) -> Trial:
        rq = t.requantizer
        shift = np.maximum(rq.shift + np.int32(by), 0)
        old, new = ((np.int64(1) << s.astype(np.int64)) >> 1 for s in (rq.shift, shift))
        return t.with_requantizer(shift=shift, addend=rq.addend - old + new)

    return edit


def _signed_multiplier(t: Trial) -> Trial:
    rq = t.requantizer
    return t.with_requantizer(multiplier=np.where(rq.multiplier > 127, rq.multiplier - 256, rq.multiplier).astype(np.int32))


SCALARS: dict[str, tuple[str, str]] = {  # constants of element-wise steps: the hypothesis and what the constant is
    "za": ("input_zero_point", "the first operand's zero point"),
    "zb": ("input_zero_point", "the second operand's zero point"),
    "in_zero": ("input_zero_point", "the input's zero point"),
    "zero_point": ("zero_point", "the zero point"),
    "add_bias": ("bias", "the bias of the three zero points"),
}


@family("zero_point")
def scalar_zero_points(site: Site) -> Iterator[Edit]:
    for label, value in zip(site.labels, site.step.constants, strict=True):
        if label in SCALARS and value and not (label == "add_bias" and site.operator != "add_two_stage"):
            key, what = SCALARS[label]
            yield Edit(f"{key}_missing", f"leaves {what} ({value}) out", site.rule, constants(**{label: 0}), common=True)
            yield Edit(f"{key}_sign", f"takes {what} ({value}) with the opposite sign", site.rule, constants(**{label: -value}))
            yield Edit(f"{key}_twice", f"takes {what} ({value}) twice", site.rule, constants(**{label: 2 * value}))
            if label != "add_bias" and site.golden[site.step.outputs[0]].dtype.itemsize <= 2:
                top = 1 << (site.golden[site.step.outputs[0]].dtype.itemsize * 8 - 1)
                edit = constants(**{label: value + top})
                yield Edit(f"{key}_unsigned", f"takes {what} as an unsigned code, {top} more", site.rule, edit)


@family("constant")
def scalarconstants(site: Site) -> Iterator[Edit]:
    """Multipliers and shifts of element-wise steps, off by one or exchanged."""
    values = dict(zip(site.labels, site.step.constants, strict=True))
    for label in ("m", "n", "ma", "na", "mb", "mo", "no", "shift", "base_shift"):
        if label in values and isinstance(values[label], int):
            what = "shift" if label in ("n", "na", "no", "shift", "base_shift") else "multiplier"
            for by in (1, -1):
                words = f"takes the {what} {label} as {values[label] + by} instead of {values[label]}"
                yield Edit(f"{what}_off_by_one", words, site.rule, constants(**{label: values[label] + by}))
    for pairs in ((("ma", "mo"), ("na", "no")), (("ma", "mb"),), (("za", "zb"),), (("zero_point", "in_zero"),)):
        if all(a in values and b in values for a, b in pairs):
            swapped = {a: values[b] for a, b in pairs} | {b: values[a] for a, b in pairs}
            words = " and ".join(f"{a} with {b}" for a, b in pairs)
            key = "zero_points_swapped" if "z" in pairs[0][0] else "scales_swapped"
            yield Edit(key, f"exchanges {words}", site.rule, constants(**swapped))
    yield from _omitted(site, values)


def _omitted(site: Site, values: dict[str, Any]) -> Iterator[Edit]:
    for m, n in (("ma", "na"), ("mo", "no"), ("m", "n")):
        if m in values and n in values and m != "m":
            words = f"does not scale by {m} / 2^{n}"
            yield Edit("scale_missing", words, site.rule, constants(**{m: 1, n: 0}))
