"""The wrong tensor, the wrong frame, the wrong bin: what an operator reads, not what it does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from conformance.diagnosis.changes import Change, after, instead, reads, takes
from conformance.diagnosis.layout import similar
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.site import Array, Outputs, Site
from conformance.diagnosis.trial import Trial

GATES = ("i", "f", "g", "o")


# -- frames of the past ----------------------------------------------------------------------------------------------------


@family("state")
def past_values(site: Site) -> Iterator[Edit]:
    """The frames before the first one of the case hold something else than the case's state."""
    for index, ref in enumerate(site.step.inputs):
        if not ref.past or not site.framed:
            continue
        line, start = site.timelines[index], site.start(index)
        held, name = len(line) - site.frames, ref.tensor
        fills = [("past_start_value", f"starts from the start value {start} of {name}, not from the given state", start)]
        if start:
            words = f"starts with {name} at 0 instead of its zero point {start}"
            fills.insert(0, ("past_zero", words, 0))
        else:
            fills.insert(0, ("past_zero", f"starts with {name} at zero, not from the given state", 0))
        for key, words, fill in fills:
            other = line.copy()
            other[:held] = fill
            edit = reads(index, site.window(other, ref))
            yield Edit(key, words, "P-3", edit, common=key == "past_zero")
        if held > 1:
            other = np.concatenate([line[:held][::-1], line[held:]])
            words = f"takes the given past frames of {name} in the opposite order"
            yield Edit("past_reversed", words, "P-3", reads(index, site.window(other, ref)))


@family("state")
def stale_state(site: Site) -> Iterator[Edit]:
    """The past is not kept from frame to frame as it should be."""
    for index, ref in enumerate(site.step.inputs):
        if ref.past and site.framed:
            for key, words, window in _windows_of(ref.tensor, site.start(index), bool(ref.current)):
                yield Edit(key, words, "P-3", _windows(site, index, window), common=key == "state_not_updated")


# The frames that a step reads of a timeline: how many past ones that begins with, the frame's number, how many past it reads.
Window = Callable[[Array, int, int, int], list[Array]]
Update = Callable[[list[Array], Array, int], list[Array]]  # the past frames, the frame that is added to them, its number

UPDATES: tuple[tuple[str, str, Update], ...] = (
    ("past_frames_swapped", "puts each frame of {} in front of its past ones: they are read newest first",
     lambda past, frame, t: [frame, *past[:-1]]),
    ("state_newest_overwritten", "writes each frame of {} over the newest past one: the older ones never change",
     lambda past, frame, t: [*past[:-1], frame]),
    ("state_oldest_overwritten", "writes each frame of {} over the oldest past one: the newer ones never change",
     lambda past, frame, t: [frame, *past[1:]]),
    ("state_not_rotated", "keeps the past frames of {} in a ring, but reads them in the order of their places",
     lambda past, frame, t: [frame if k == t % len(past) else old for k, old in enumerate(past)]),
    ("state_every_other_frame", "keeps only every second frame of {} as its past",
     lambda past, frame, t: past if t % 2 else [*past[1:], frame]),
)  # fmt: skip


def _kept(update: Update) -> Window:
    """The past as it is after ``update`` has added every frame before the one that is read."""

    def window(line: Array, held: int, t: int, n: int) -> list[Array]:
        past = list(line[held - n : held])
        for earlier in range(t):
            past = update(past, line[held + earlier], earlier)
        return past

    return window


def _early(start: int) -> Window:
    def window(line: Array, held: int, t: int, n: int) -> list[Array]:
        at = range(held + t - n - 1, held + t - 1)
        return [line[k] if k >= 0 else np.full_like(line[0], start) for k in at]

    return window


def _windows_of(name: str, start: int, current: bool) -> Iterator[tuple[str, str, Window]]:
    """What may stand for the past of a tensor, or for its current frame."""

    def with_current(past: Window) -> Window:
        return lambda line, held, t, n: past(line, held, t, n) + ([line[held + t]] if current else [])

    words = f"reads the given past of {name} on every frame: the state is never written"
    yield "state_not_updated", words, with_current(lambda line, held, t, n: list(line[held - n : held]))
    words = f"reads the start value of {name} as its past on every frame"
    yield "state_always_start", words, with_current(lambda line, held, t, n: [np.full_like(line[0], start)] * n)
    words = f"reads zeros as the past of {name} on every frame"
    yield "state_always_zero", words, with_current(lambda line, held, t, n: [np.zeros_like(line[0])] * n)
    for key, words, update in UPDATES:
        yield key, words.format(name), with_current(_kept(update))
    if current:
        words = f"reads the current frame of {name} for the past ones too"
        yield "past_is_current", words, with_current(lambda line, held, t, n: [line[held + t]] * n)
        words = f"reads the past frames of {name} one frame late: never the oldest, the current one for the newest"
        yield "past_late", words, with_current(lambda line, held, t, n: list(line[held + t - n + 1 : held + t + 1]))
        words = f"reads the past frames of {name} one frame early: never the newest"
        yield "past_early", words, with_current(_early(start))
        words = f"reads the newest past frame of {name} for all of them"
        yield "past_all_newest", words, with_current(lambda line, held, t, n: [line[held + t - 1]] * n)
        words = f"reads the oldest past frame of {name} for all of them"
        yield "past_all_oldest", words, with_current(lambda line, held, t, n: [line[held + t - n]] * n)
        words = f"reads the newest past frame of {name} for the current one"
        yield "current_is_past", words, lambda line, held, t, n: [*line[held + t - n : held + t], line[held + t - 1]]


def _windows(site: Site, index: int, window: Window) -> Change:
    """Every frame by itself, with a past of its own."""
    ref, line = site.step.inputs[index], site.timelines[index]
    held = len(line) - site.frames
    if not ref.current:
        return reads(index, np.stack([window(line, held, t, ref.past)[0] for t in range(site.frames)]))

    def by_frames(trial: Trial) -> Outputs:
        parts: list[Outputs] = []
        shapes = {n: (1, *a.shape[1:]) for n, a in site.golden.items()}
        for t in range(site.frames):
            own = np.stack(window(line, held, t, ref.past))
            inputs = tuple(own if i == index else x[t : t + 1] for i, x in enumerate(trial.inputs))
            parts.append(site.run(inputs, trial.constants, shapes))
        return {n: np.concatenate([part[n] for part in parts]) for n in site.golden}

    return instead(by_frames)


@family("state")
def state_offset(site: Site) -> Iterator[Edit]:
    """The state of another frame than the one before."""
    for index, ref in enumerate(site.step.inputs):
        if ref.past and not ref.current:
            line, name, start = site.timelines[index], ref.tensor, site.start(index)
            words = f"reads {name} of the current frame where it should be that of the frame before"
            yield Edit("state_of_current_frame", words, "P-3", reads(index, site.window(line, ref, 1)), common=True)
            for fill in dict.fromkeys((start, None, 0)):
                edit = reads(index, site.window(line, ref, -1, fill))
                yield Edit("state_two_frames_old", f"reads {name} of two frames before", "P-3", edit)


@family("shift")
def frame_offset(site: Site) -> Iterator[Edit]:
    for index, ref in enumerate(site.step.inputs):
        if site.framed and (ref.current or not ref.past) and len(site.timelines[index]) > 1:
            line, name, start = site.timelines[index], ref.tensor, site.start(index)
            early = reads(index, site.window(line, ref, 1))
            yield Edit("frame_early", f"reads {name} one frame early", "P-2", early)
            for fill in dict.fromkeys((start, None, 0)):
                late = reads(index, site.window(line, ref, -1, fill))
                yield Edit("frame_late", f"reads {name} one frame late", "P-2", late)


@family("shift")
def output_frames(site: Site) -> Iterator[Edit]:
    """Whole frames of output that lie one too early or too late."""
    if not site.framed or site.frames < 2:
        return
    form = site.output_form()
    for fill in (form.zero_point if form.is_code else 0, 0):
        yield Edit("frame_late", "writes every frame one frame late", "P-2", _shifted(0, 1, fill))
        yield Edit("frame_early", "writes every frame one frame early", "P-2", _shifted(0, -1, fill))
    yield Edit("frame_repeated", "writes the first frame over and over", "P-2", after(lambda a: np.repeat(a[:1], len(a), 0)))


def _shifted(axis: int, by: int, fill: int | None) -> Change:
    return after(lambda a: moved(a, axis, by, fill) if a.ndim > axis else a)


def moved(values: Array, axis: int, by: int, fill: int | None) -> Array:
    """Rolled along an axis; what comes in is ``fill``, what went out at the other end where that is None."""
    out = np.roll(values, by, axis)
    if fill is not None:
        view = np.moveaxis(out, axis, 0)
        view[: by if by > 0 else None][by if by < 0 else 0 :] = fill
    return out


# -- bins and channels off by one ------------------------------------------------------------------------------------------


@family("shift")
def off_by_one(site: Site) -> Iterator[Edit]:
    """Bins or channels, read or written one further."""
    if not site.framed:
        return
    form = site.output_form()
    for axis, key, what in ((1, "bin_shift", "bin"), (2, "channel_shift", "channel")):
        for index, values in enumerate(site.inputs):
            if values.ndim > axis and values.shape[axis] > 1:
                name, edge = site.step.inputs[index].tensor, site.start(index)
                for by in (1, -1):
                    words = f"reads {name} of the {what} one {'below' if by > 0 else 'above'}"
                    for fill in dict.fromkeys((edge, 0, None)):
                        yield Edit(key, words, site.operator_rule, reads(index, moved(values, axis, by, fill)))
        if site.golden[site.step.outputs[0]].ndim > axis:
            edge = form.zero_point if form.is_code else 0
            for by in (1, -1):
                words = f"writes every {what} one {'above' if by > 0 else 'below'} its place"
                for fill in dict.fromkeys((edge, 0, None)):
                    yield Edit(key, words, site.operator_rule, _shifted(axis, by, fill))


# -- operands --------------------------------------------------------------------------------------------------------------


@family("operand")
def swapped_operands(site: Site) -> Iterator[Edit]:
    if (
        site.operator != "requantize_accumulators"
        and len(site.inputs) == 2
        and site.inputs[0].shape == site.inputs[1].shape
        and site.inputs[0].dtype == site.inputs[1].dtype
    ):
        a, b = (ref.tensor for ref in site.step.inputs)

        def swap(t: Trial) -> Trial:
            return t.with_input(0, t.inputs[1]).with_input(1, t.inputs[0])

        yield Edit("operands_swapped", f"takes {a} for {b} and the other way round", site.rule, swap, common=True)
        for name, one, other in ((a, 0, 1), (b, 1, 0)):
            yield Edit("operand_twice", f"takes {name} for both operands", site.rule, reads(other, site.inputs[one]))


@family("bias", {"add_two_stage", "add_joint", "add_bf16", "add_f32", "bf16_add", "overlap_add", "overlap_add_f32"})
def missing_operand(site: Site) -> Iterator[Edit]:
    for index, ref in enumerate(site.step.inputs):
        values = site.inputs[index]
        lowest = -128 if site.operator == "add_two_stage" else 0
        for fill in dict.fromkeys((site.start(index), 0, lowest)):
            words = f"leaves {ref.tensor} out of the sum"
            yield Edit("operand_missing", words, site.rule, reads(index, np.full_like(values, fill)))
    yield Edit("operand_missing", "passes its first operand through", site.rule, _copied(0))
    yield Edit("operand_missing", "passes its second operand through", site.rule, _copied(1))
    if site.operator in ("add_bf16", "bf16_add", "add_f32"):
        for index, ref in enumerate(site.step.inputs):
            edit = takes(index, lambda x: -x if x.dtype.kind == "f" else x ^ np.uint16(0x8000))
            yield Edit("operand_negated", f"subtracts {ref.tensor}", site.rule, edit)


def _copied(index: int) -> Change:
    def edit(t: Trial) -> Trial:
        values = t.inputs[index]
        return t.with_after(lambda a: values if values.shape == a.shape and values.dtype == a.dtype else a)

    return edit


@family("operand", {"multiply", "multiply_bf16", "multiply_f32", "bf16_mul"})
def missing_factor(site: Site) -> Iterator[Edit]:
    for index, ref in enumerate(site.step.inputs):
        other = site.step.inputs[1 - index].tensor
        yield Edit("operand_missing", f"passes {other} through, not multiplied by {ref.tensor}", site.rule, _copied(1 - index))


@family("operand")
def other_operand(site: Site) -> Iterator[Edit]:
    """An operand of the same form from elsewhere in the case: another gate, c for h, the wrong branch of a residual."""
    if not site.framed:
        return
    for index, ref in enumerate(site.step.inputs):
        golden = site.case.tensors[ref.tensor].values
        for name, _ in similar(site, ref.tensor, golden.shape, golden.dtype):
            held = len(site.timelines[index]) - site.frames
            frames = site.timeline(name)
            missing = max(0, held - (len(frames) - site.frames))
            front = np.full((missing, *frames.shape[1:]), site.start(index), frames.dtype)
            line = np.concatenate([front, frames])[-(held + site.frames) :]
            gates = [n.rsplit(".", 1)[-1] in GATES for n in (name, ref.tensor)]
            key = "gate_swapped" if all(gates) else "wrong_operand"
            edit = reads(index, site.window(line, ref))
            yield Edit(key, f"reads {name} in place of {ref.tensor}", "M-6" if all(gates) else "M-3", edit)
