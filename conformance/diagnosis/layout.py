"""Outputs that are right but lie elsewhere, were never written, or belong to something else; for every operator."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from conformance.diagnosis.changes import Change, after, takes
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.site import Array, Site

LAYOUT_RULE = "P-1"  # what a tensor is and who writes it
NEAREST = 16  # other tensors of the case that a buffer may hold by mistake
TINY = 8  # outputs of fewer elements say nothing about a constant


@family("layout")
def unwritten(site: Site) -> Iterator[Edit]:
    yield Edit("output_zero", "writes nothing, or zeros", LAYOUT_RULE, after(np.zeros_like))
    for index, name in enumerate(site.step.outputs):
        own = site.actual.get(name)
        if own is None:
            continue
        if len(site.step.outputs) > 1:
            edit = after(np.zeros_like, index)
            yield Edit(f"{_short(name)}_zero", f"writes nothing, or zeros, to {name}", LAYOUT_RULE, edit)


@family("shift")
def unfinished(site: Site) -> Iterator[Edit]:
    for index, name in enumerate(site.step.outputs):
        if name in site.actual:
            yield from _unwritten_end(name, index, site.actual[name])


def _unwritten_end(name: str, index: int, own: Array) -> Iterator[Edit]:
    """The device's last elements, rows or channels are all zero, as behind a loop that stops too early."""
    for axis in (None, *range(own.ndim)):
        line = own.reshape(-1) if axis is None else own
        used = np.flatnonzero(np.any(line != 0, tuple(a for a in range(line.ndim) if a != (axis or 0))))
        length = line.shape[axis or 0]
        last = int(used[-1]) + 1 if len(used) else 0
        if 0 < last < length:
            what = "elements" if axis is None else ("frames", "rows", "channels", "parts")[min(axis, 3)]
            sentence = f"leaves {what} {last} to {length - 1} of {name} unwritten (zero)"

            def cut(a: Array, axis: int | None = axis, last: int = last) -> Array:
                out = a.copy()
                (out.reshape(-1) if axis is None else np.moveaxis(out, axis, 0))[last:] = 0
                return out

            yield Edit("output_unfinished", sentence, LAYOUT_RULE, after(cut, index))


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


@family("copy")
def constant_output(site: Site) -> Iterator[Edit]:
    for index, name in enumerate(site.step.outputs):
        own = site.actual.get(name)
        if own is not None and own.size >= TINY and (own == own.flat[0]).all():
            value = own.flat[0]
            sentence = f"writes {value} to every element of {name}"
            yield Edit("output_constant", sentence, LAYOUT_RULE, after(np.full_like, index, value))


@family("layout")
def byte_order(site: Site) -> Iterator[Edit]:
    if any(a.dtype.itemsize > 1 for a in site.actual.values()):
        swap = after(lambda a: a.byteswap() if a.dtype.itemsize > 1 else a)
        yield Edit("output_big_endian", "writes its output big-endian", "P-6", swap)


@family("copy")
def input_byte_order(site: Site) -> Iterator[Edit]:
    for index, values in enumerate(site.inputs):
        if values.dtype.itemsize > 1:
            name = site.step.inputs[index].tensor
            yield Edit("input_big_endian", f"reads {name} big-endian", "P-6", takes(index, np.ndarray.byteswap))


@family("layout")
def axes(site: Site) -> Iterator[Edit]:
    """The elements in the memory order of other axes: [C, F] for [F, C]."""
    rank = max(a.ndim for a in site.actual.values())
    if rank < 4:
        yield from _axes(rank)


@family("permutation")
def four_axes(site: Site) -> Iterator[Edit]:
    """The same with speakers and parts, whose order other hypotheses explain better."""
    rank = max(a.ndim for a in site.actual.values())
    if rank >= 4:
        yield from _axes(rank)


def _axes(rank: int) -> Iterator[Edit]:
    for order in list(permutations(range(rank)))[1:]:
        names = ", ".join("TFCP"[i] if rank <= 4 else str(i) for i in order)

        def written(a: Array, order: tuple[int, ...] = order) -> Array:
            return np.ascontiguousarray(a.transpose(order)).reshape(a.shape) if a.ndim == len(order) else a

        def read(a: Array, order: tuple[int, ...] = order) -> Array:
            if a.ndim != len(order):
                return a
            shape = tuple(a.shape[i] for i in order)
            return np.ascontiguousarray(a.reshape(shape).transpose(np.argsort(order)))

        yield Edit("output_transposed", f"writes its output in the order [{names}]", "P-1", after(written))
        yield Edit("output_transposed", f"writes an output of the order [{names}] as if it were [T, F, C]", "P-1", after(read))


@family("sign")
def sign(site: Site) -> Iterator[Edit]:
    form = site.output_form()
    if form.is_code:
        top = 1 << (form.bits - 1)
        sentence = "stores its codes unsigned: the top bit of every code is the other one"
        flip = after(lambda a: (a.astype(np.int64) ^ -top).astype(a.dtype), 0)
        yield Edit("output_unsigned", sentence, site.rule, flip, common=True)
        zero = 2 * form.zero_point
        negated = after(lambda a: np.clip(zero - a.astype(np.int64), -top, top - 1).astype(a.dtype), 0)
        yield Edit("output_negated", "has the opposite sign, about the zero point", site.rule, negated)
        yield Edit("output_negated", "has the opposite sign of every code", site.rule, after(lambda a: -a, 0))
    elif form.kind == "bf16":
        yield Edit("output_negated", "has the opposite sign", site.rule, after(lambda a: a ^ np.uint16(0x8000), 0))
    elif site.framed:
        yield Edit("output_negated", "has the opposite sign", site.rule, after(lambda a: -a, 0))


@family("layout", {"to_pcm", "to_pcm_f32"})
def counts(site: Site) -> Iterator[Edit]:
    """The second output of PCM: clipped samples per frame and speaker."""
    yield Edit(
        "clipped_accumulates",
        "counts clipped samples over all frames so far",
        site.rule,
        after(lambda a: a.cumsum(0, a.dtype), 1),
    )
    joint = after(lambda a: np.broadcast_to(a.sum(1, a.dtype, keepdims=True), a.shape).copy(), 1)
    yield Edit("clipped_joint", "counts the clipped samples of all speakers together", site.rule, joint)
    pcm = site.golden[site.step.outputs[0]].astype(np.int64)
    full = ((pcm == 32767) | (pcm == -32768)).sum(2).astype(np.int32)
    yield Edit("clipped_full_scale", "counts samples at full scale, clipped or not", site.rule, after(lambda a: full, 1))
    bool_ = after(lambda a: (a > 0).astype(a.dtype), 1)
    yield Edit("clipped_flag", "notes only whether a sample was clipped", site.rule, bool_)
    for by, words in ((0, "above"), (1, "below")):
        edit = _clipped_on_one_side(site, by)
        yield Edit("clipped_one_side", f"counts only samples clipped {words}", site.rule, edit)
    running = after(lambda a: a.cumsum(1, a.dtype), 1)
    yield Edit("clipped_accumulates", "counts on from speaker to speaker", site.rule, running)
    if site.inputs[0].dtype.kind == "f":
        nan = np.isnan(site.inputs[0]).sum(2).astype(np.int32)
        yield Edit("clipped_nan", "counts NaN as clipped", site.rule, after(lambda a: a + nan, 1))


def _clipped_on_one_side(site: Site, side: int) -> Change:
    pcm = site.golden[site.step.outputs[0]].astype(np.int64)
    kept = ((pcm == (32767, -32768)[side]).sum(2)).astype(np.int32)
    # Samples at full scale that were not clipped are few; where there are some on this side, this is a guess.
    return after(lambda a: np.minimum(a, kept), 1)


@family("copy")
def other_contents(site: Site) -> Iterator[Edit]:
    """The output holds what belongs to another tensor of the case: the wrong buffer, or no operation at all."""
    shape, dtype = site.actual[next(iter(site.actual))].shape, site.golden[site.step.outputs[0]].dtype
    for index, ref in enumerate(site.step.inputs):
        values = site.inputs[index]
        if values.shape == shape and values.dtype == dtype:
            yield Edit("copy_of_input", f"passes {ref.tensor} through", site.rule, _instead_of(values))
    for name, values in similar(site, site.step.outputs[0], shape, dtype):
        if name not in {ref.tensor for ref in site.step.inputs}:
            yield Edit("copy_of_tensor", f"holds what belongs to {name}", LAYOUT_RULE, _instead_of(values))


def _instead_of(values: Array) -> Change:
    return after(lambda a: values.copy(), 0)


def similar(site: Site, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Iterator[tuple[str, Array]]:
    """Other tensors of the case of that form, those with the longest common beginning of the name first."""
    if not site.framed:
        return
    names = [n for n, t in site.case.tensors.items() if t.role in ("input", "expected") and n != name]
    fits = [n for n in names if site.case.tensors[n].values.shape == shape and site.case.tensors[n].values.dtype == dtype]
    fits.sort(key=lambda n: -_common(n, name))
    for other in fits[:NEAREST]:
        yield other, site.timeline(other)[-site.frames :]


def _common(a: str, b: str) -> int:
    return next((i for i, (p, q) in enumerate(zip(a, b, strict=False)) if p != q), min(len(a), len(b)))
