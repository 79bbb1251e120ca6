"""Two tensors, bit by bit: the first element that differs, by how much, how many, where, and the mistake that explains all.

Distances are counted in steps of the format: LSB of integers, ULP of BF16 and floats (the distance of their ordered bit
patterns, in which -0 is one step below +0). A NaN has no distance. Nothing here knows of devices, steps or rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_vectors.case import DTYPES
from golden_vectors.layouts import LAYOUTS, map_features
from refimpl.program import Format

Array = np.ndarray[Any, np.dtype[Any]]
FLOATS = ("bf16", "f32", "f64")
EDGES = (1, 2, 3, 4, 16, 64, 256)  # where the buckets of a histogram begin, of either sign
LARGEST_MAP = 48  # cells of a heat map along an axis
LISTED_FRAMES = 32


@dataclass(frozen=True)
class Element:
    """One element that differs; ``distance`` is actual minus expected, None where one of them is a NaN."""

    index: tuple[int, ...]
    place: str
    expected: str
    actual: str
    expected_bits: str
    actual_bits: str
    distance: int | None
    unit: str


@dataclass(frozen=True)
class HeatMap:
    """How many elements differ, by two axes; neighbours are added up where an axis is long."""

    rows: str
    columns: str
    sizes: tuple[int, int]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """What comparing one tensor found.

    status: ``equal``; ``tolerated`` (no distance above the tolerance); ``differs``; ``unreadable`` (``explanation`` says why).
    ``complete`` is false where only some frames were shown; ``frames`` are those that were compared, ``by_digest`` says that
    only their CRC-32 were.
    """

    tensor: str
    format: str
    shape: tuple[int, ...]
    status: str
    compared: int = 0
    mismatched: int = 0
    complete: bool = True
    by_digest: bool = False
    frames: tuple[int, int] | None = None
    bad_frames: tuple[int, ...] = ()
    first: Element | None = None
    largest: int | None = None
    histogram: tuple[tuple[str, int], ...] = ()
    heat: HeatMap | None = None
    explanation: str = ""


def compare_tensors(
    name: str,
    form: str,
    expected: Array,
    actual: Array,
    axes: Sequence[str] = (),
    *,
    time_axis: int | None = 0,
    first: int = 0,
    tolerance: int = 0,
) -> Comparison:
    """Compare ``actual`` with ``expected``, which have one shape and the dtype of format ``form``.

    axes: their names, for the places of elements. time_axis: the axis that counts frames or samples, by which the first
    difference is the earliest; None where there is none. first: the number of the first frame where ``actual`` is a part; the
    whole ``expected`` is given. tolerance: the largest distance that is let pass.
    """
    total = expected.shape
    if expected.shape != actual.shape:
        expected = expected[first : first + len(actual)]
    frames = None if time_axis != 0 or not total else (first, first + len(actual))
    unequal = differing(expected, actual)
    count = int(np.count_nonzero(unequal))
    facts = Comparison(name, form, total, "equal", unequal.size, count, expected.shape == total, False, frames)
    if not count:
        return facts
    distances, nan = distances_of(form, expected[unequal], actual[unequal])
    largest = max(abs(int(distances.min())), abs(int(distances.max()))) if len(distances) else None
    within = not nan and largest is not None and largest <= tolerance
    names = named_axes(axes, expected.ndim)
    at = _first(unequal, time_axis)
    return Comparison(
        **{key: getattr(facts, key) for key in ("tensor", "format", "shape", "compared", "mismatched", "complete", "frames")},
        status="tolerated" if within else "differs",
        bad_frames=() if frames is None else _bad_frames(unequal, first),
        first=element(form, expected, actual, at, names, first if time_axis == 0 else 0),
        largest=largest,
        histogram=histogram(distances, nan),
        heat=heat_map(unequal, names),
        explanation="" if within else explain(form, expected, actual, "frame" if time_axis == 0 else "entry"),
    )


def differing(expected: Array, actual: Array) -> Array:
    """Where the bits differ. Two NaNs of a float are equal: their sign and payload are outside the guarantee."""
    unequal: Array = bits_of(expected) != bits_of(actual)
    if expected.dtype.kind == "f":
        unequal &= ~(np.isnan(expected) & np.isnan(actual))
    return unequal


def bits_of(values: Array) -> Array:
    """The words of an array as unsigned integers."""
    shape = values.shape  # ascontiguousarray gives a single number an axis
    return np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}").reshape(shape)


def distances_of(form: str, expected: Array, actual: Array) -> tuple[Array, int]:
    """Actual minus expected in LSB or ULP of each pair without a NaN, and the number of the others."""
    nan = is_nan(form, expected) | is_nan(form, actual)
    expected, actual = expected[~nan], actual[~nan]
    if form in FLOATS:
        expected, actual = _ordered(expected), _ordered(actual)
    wide: Any = object if expected.dtype.itemsize == 8 else np.int64  # the difference of two 64-bit words needs 65 bits
    return actual.astype(wide) - expected.astype(wide), int(nan.sum())


def _ordered(values: Array) -> Array:
    """Bit patterns of floats as integers in the order of their values."""
    words = bits_of(values)
    sign = words.dtype.type(1 << (8 * words.dtype.itemsize - 1))
    signed = words.view(f"i{words.dtype.itemsize}")
    return np.where(words >= sign, -1 - (words - sign).astype(signed.dtype), signed)


def is_nan(form: str, values: Array) -> Array:
    """Which elements are NaN, of BF16 patterns too."""
    if form == "bf16":
        return np.asarray((values & 0x7FFF) > 0x7F80)
    return np.asarray(np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool))


def unit_of(form: str) -> str:
    return "ULP" if form in FLOATS else "LSB"


# -- where ------------------------------------------------------------------------------------------------------------


def named_axes(axes: Sequence[str], rank: int) -> tuple[str, ...]:
    """Names for ``rank`` axes; those that have none are numbered."""
    return tuple(axes) if len(axes) == rank else tuple(f"axis {n}" for n in range(rank)) if rank > 1 else ("element",) * rank


def _first(unequal: Array, time_axis: int | None) -> tuple[int, ...]:
    """The index of the first difference: the earliest in time, then in memory."""
    places = np.argwhere(unequal)
    if time_axis is not None and unequal.ndim:
        places = places[places[:, time_axis] == places[:, time_axis].min()]
    return tuple(int(v) for v in places[0])


def element(form: str, expected: Array, actual: Array, at: tuple[int, ...], axes: Sequence[str], first: int) -> Element:
    """The element at an index; ``first`` is what the first axis starts to count at."""
    e, a = expected[at], actual[at]
    shown = (at[0] + first, *at[1:]) if at else at
    place = ", ".join(f"{name} {v}" for name, v in zip(axes, shown, strict=True))
    distance, _ = distances_of(form, np.asarray(e).reshape(1), np.asarray(a).reshape(1))
    return Element(
        shown,
        place,
        value_text(form, e),
        value_text(form, a),
        bits_text(e),
        bits_text(a),
        int(distance[0]) if len(distance) else None,
        unit_of(form),
    )


def value_text(form: str, value: Any) -> str:
    """The value of one stored element as text that reads back."""
    if form == "bf16":
        value = np.float32(Format("bf16").real(np.asarray(value, np.uint16)))
    return repr(float(value)) if form in FLOATS else str(int(value))


def bits_text(value: Any) -> str:
    """The bits of one stored element in hexadecimal, all digits."""
    word = bits_of(np.asarray(value))
    return f"0x{int(word):0{2 * word.dtype.itemsize}X}"


def _bad_frames(unequal: Array, first: int) -> tuple[int, ...]:
    rest = tuple(range(1, unequal.ndim))
    return tuple(int(t) + first for t in np.flatnonzero(unequal.any(axis=rest))[:LISTED_FRAMES])


def histogram(distances: Array, nan: int) -> tuple[tuple[str, int], ...]:
    """How many elements are how far off, in buckets from the lowest to the highest; empty buckets are left out."""
    bucket = np.searchsorted(np.array(EDGES), np.abs(distances).astype(np.float64), "right") * np.where(distances > 0, 1, -1)
    counts = {int(b): int(n) for b, n in zip(*np.unique(bucket, return_counts=True), strict=True)}
    found = [(_label(b), n) for b, n in counts.items()]
    return (*found, ("NaN", nan)) if nan else tuple(found)


def _label(bucket: int) -> str:
    sign, low = "+" if bucket > 0 else "-", EDGES[abs(bucket) - 1]
    if abs(bucket) == len(EDGES):
        return f"{sign}{low} and more"
    high = EDGES[abs(bucket)] - 1
    return f"{sign}{low}" if high == low else f"{sign}{low} to {sign}{high}"


def heat_map(unequal: Array, axes: Sequence[str]) -> HeatMap | None:
    """Differences by frequency and channel, or by time and frequency where there are many frames; None for a single number."""
    shape = unequal.shape
    if not shape:
        return None
    if len(shape) == 1:
        keep, table = (0, 0), unequal.reshape(1, -1)
    else:
        keep = (0, 1) if len(shape) == 2 or shape[0] > 8 or shape[-1] == 1 else (len(shape) - 2, len(shape) - 1)
        table = unequal.sum(axis=tuple(axis for axis in range(len(shape)) if axis not in keep))
    rows = axes[keep[0]] if len(shape) > 1 else ""
    folded = _folded(_folded(table.astype(np.int64), 0), 1)
    counts = tuple(tuple(int(v) for v in row) for row in folded)
    return HeatMap(rows, axes[keep[1]], (int(table.shape[0]), int(table.shape[1])), counts)


def _folded(table: Array, axis: int) -> Array:
    """The table with neighbours along an axis added up, so that at most LARGEST_MAP remain."""
    size = table.shape[axis]
    step = -(-size // LARGEST_MAP)
    out: Array = np.add.reduceat(table, np.arange(0, size, step), axis=axis) if step > 1 else table
    return out


# -- known mistakes ---------------------------------------------------------------------------------------------------


def explain(form: str, expected: Array, actual: Array, rows: str = "frame") -> str:
    """The mistake of storage that explains every element, as a sentence; empty where none does.

    rows: what the first axis counts.
    """
    if expected.size < 2 or bool((bits_of(expected) == bits_of(expected).flat[0]).all()):
        return ""  # one value everywhere looks the same in many disguises
    return next((sentence for sentence, same in _mistakes(form, expected, actual, rows) if same), "")


def _mistakes(form: str, expected: Array, actual: Array, rows: str) -> Iterator[tuple[str, bool]]:
    """Mistakes, and whether each explains every element; one is tried after the other."""
    wanted, found = bits_of(expected), bits_of(actual)
    yield "every element is 0: the tensor was not written, or was dumped before it was", not found.any()
    if expected.dtype.itemsize > 1:
        sentence = "the bytes of every word are in reverse order: dump little-endian words, or say --big-endian"
        yield sentence, np.array_equal(found.byteswap(), wanted)
    if expected.dtype.kind == "i":
        sign = 1 << (8 * expected.dtype.itemsize - 1)
        sentence = f"every code is off by {sign}: dump signed codes, not unsigned ones"
        yield sentence, np.array_equal(found ^ wanted.dtype.type(sign), wanted)
    if expected.ndim == 3:
        for layout in (name for name in LAYOUTS if name not in ("hwc", "hcwb")):
            sentence = f"the elements are in layout {layout}: say --layout {layout}"
            yield sentence, np.array_equal(map_features(wanted, layout).reshape(-1), found.reshape(-1))
    if len(wanted) > 1 and not np.array_equal(wanted[1:], wanted[:-1]):
        yield f"every {rows} is the one before it", np.array_equal(found[1:], wanted[:-1])
        yield f"every {rows} is the one after it", np.array_equal(found[:-1], wanted[1:])


def compare_digests(name: str, form: str, shape: tuple[int, ...], expected: Sequence[str], actual: Sequence[str]) -> Comparison:
    """CRC-32 per frame against CRC-32 per frame: which frames differ, but not where in them."""
    facts = Comparison(name, form, shape, "equal", len(expected), by_digest=True, frames=(0, len(expected)))
    if len(actual) != len(expected):
        text = f"digests.json has {len(actual)} CRC-32 for {len(expected)} frames"
        return Comparison(name, form, shape, "unreadable", by_digest=True, explanation=text)
    bad = tuple(t for t, pair in enumerate(zip(expected, actual, strict=True)) if pair[0] != pair[1].lower())
    if not bad:
        return facts
    t = bad[0]
    first = Element((t,), f"frame {t}", "", "", f"CRC-32 {expected[t]}", f"CRC-32 {actual[t].lower()}", None, "")
    return Comparison(
        name, form, shape, "differs", len(expected), len(bad), True, True, (0, len(expected)), bad[:LISTED_FRAMES], first
    )


def format_of(dtype: np.dtype[Any]) -> str:
    """The format that arrays of a dtype have where nothing else says so; 16-bit patterns are BF16."""
    named = {np.dtype(code): name for name, code in DTYPES.items()}
    return named.get(dtype.newbyteorder("<"), "")
