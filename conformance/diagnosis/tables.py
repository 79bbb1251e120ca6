"""Activation functions computed in another way than by the exact table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from conformance.diagnosis import bf16
from conformance.diagnosis.changes import Change, constant, constants, instead
from conformance.diagnosis.registry import Edit, family
from conformance.diagnosis.roundings import FLOOR, HALF_AWAY, HALF_EVEN, Law
from conformance.diagnosis.site import Array, Outputs, Site
from conformance.diagnosis.trial import Trial
from refimpl.numerics.tables import SIGMOID, TANH, code_table, shipped
from refimpl.program import Format

Function = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    out: Array = 1 / (1 + np.exp(-x))
    return out


def sigmoid_by_tanh(x: Array) -> Array:
    half = x.dtype.type(0.5)
    out: Array = half * np.tanh(half * x) + half
    return out


def tanh_by_exp(x: Array) -> Array:
    out: Array = 2 / (1 + np.exp(-2 * x)) - 1
    return out


def plan(x: Array) -> Array:
    """PLAN: the piecewise linear approximation of sigmoid with shifts for slopes."""
    a = np.abs(x)
    y = np.select([a >= 5, a >= 2.375, a >= 1], [np.ones_like(a), a / 32 + 0.84375, a / 8 + 0.625], a / 4 + 0.5)
    return np.where(x < 0, 1 - y, y).astype(x.dtype)


def gap_tanh(x: Array) -> Array:
    return (2 * plan(2 * x) - 1).astype(x.dtype)


HARD: dict[int, tuple[tuple[str, str, Function], ...]] = {
    SIGMOID: (
        ("hard_sigmoid", "clip(0.2 x + 0.5, 0, 1)", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("hard_sigmoid", "clip(x / 6 + 0.5, 0, 1)", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("hard_sigmoid", "clip(x / 4 + 0.5, 0, 1)", lambda x: np.clip(x / 4 + 0.5, 0, 1)),
        ("piecewise_linear", "the PLAN approximation in four segments", plan),
        ("fast_sigmoid", "0.5 x / (1 + |x|) + 0.5", lambda x: 0.5 * x / (1 + np.abs(x)) + 0.5),
    ),
    TANH: (
        ("hard_tanh", "clip(x, -1, 1)", lambda x: np.clip(x, -1, 1)),
        ("piecewise_linear", "the PLAN approximation in four segments", gap_tanh),
        ("fast_tanh", "x / (1 + |x|)", lambda x: x / (1 + np.abs(x))),
        ("pade_tanh", "x (27 + x^2) / (27 + 9 x^2), clipped", lambda x: np.clip(x * (27 + x * x) / (27 + 9 * x * x), -1, 1)),
    ),
}  # fmt: skip
EXACT: dict[int, tuple[tuple[str, Function], ...]] = {
    SIGMOID: (("1 / (1 + exp(-x))", sigmoid), ("0.5 tanh(x / 2) + 0.5", sigmoid_by_tanh)),
    TANH: (("tanh(x)", np.tanh), ("2 / (1 + exp(-2 x)) - 1", tanh_by_exp)),
}
NAMES = {SIGMOID: "sigmoid", TANH: "tanh"}


def function_of(site: Site) -> int | None:
    """Whether a step's table or number is sigmoid or tanh; None where it is neither."""
    if site.operator == "activate_f32":
        return int(site.step.constants[site.labels.index("function")])
    table = site.step.constants[site.labels.index("table")]
    for function in (SIGMOID, TANH):
        known = _table(site, function)
        if known.shape == table.shape and np.array_equal(known, table):
            return function
    return None


def _table(site: Site, function: int) -> Array:
    """The exact table of a function between the step's formats."""
    x, y = site.input_form(0), site.output_form()
    if x.kind == "bf16":
        return shipped("sigmoid_bf16" if function == SIGMOID else "tanh_bf16")
    return code_table(function, x.bits, x.scale, x.zero_point, y.bits, y.scale, y.zero_point)


def real_inputs(t: Trial) -> Array:
    """What the table is indexed with, as FP64 values."""
    y = t.site.golden[t.site.step.outputs[0]]
    start = int(t.constant("start"))
    return t.site.input_form(0).real(t.inputs[0][:, :, start : start + y.shape[2]])


def written(form: Format, value: Array, law: Law = HALF_EVEN) -> Array:
    """Real values in the output's format."""
    if form.kind == "bf16":
        encode = {FLOOR.name: bf16.encode_truncated, HALF_AWAY.name: bf16.encode_half_away}.get(law.name, bf16.encode)
        return encode(value)
    if form.kind == "f32":
        out: Array = value.astype(np.float32)
        return out
    code = law.real(np.asarray(value, np.float64) / form.scale) + form.zero_point
    stored: Array = np.clip(np.nan_to_num(code), form.lowest, form.highest).astype(np.int8 if form.bits == 8 else np.int16)
    return stored


def computed(function: Function, law: Law = HALF_EVEN, width: type = np.float64) -> Change:
    def other(t: Trial) -> Outputs:
        return t.output(written(t.site.output_form(), function(real_inputs(t).astype(width)), law))

    return instead(other)


@family("table", {"lookup", "activate_f32"})
def approximations(site: Site) -> Iterator[Edit]:
    function = function_of(site)
    if function is None:
        return
    other = 1 - function
    words = f"computes {NAMES[other]} where the rule says {NAMES[function]}"
    if site.operator == "activate_f32":
        yield Edit("other_function", words, site.rule, constants(function=other), True)
    else:
        table = _table(site, other)
        yield Edit("other_function", words, site.rule, constants(table=table), True)
    for key, formula, way in HARD[function]:
        for width in (np.float64, np.float32):
            edit = computed(way, width=width)
            yield Edit(key, f"approximates {NAMES[function]} by {formula}", site.rule, edit)
    for formula, way in EXACT[function]:
        yield Edit("float_library", f"computes {formula} in FP32", site.rule, computed(way, width=np.float32))
        if site.operator == "activate_f32":
            yield Edit("float_library", f"computes {formula} in FP64 by another library", site.rule, computed(way))
    yield from _roundings(function, site)


def _roundings(function: int, site: Site) -> Iterator[Edit]:
    way = EXACT[function][0][1]
    for key, words, law in (("table_truncated", "has its table's entries rounded down", FLOOR),
                            ("table_half_away", "has its table's entries rounded half away from zero", HALF_AWAY)):  # fmt: skip
        if site.operator == "lookup":
            yield Edit(key, words, site.rule, computed(way, law))


@family("table", {"lookup", "activate_f32"})
def passed_through(site: Site) -> Iterator[Edit]:
    words = "leaves the activation out: the input in the output's format"
    yield Edit("activation_missing", words, site.rule, computed(lambda x: x))

    def copied(t: Trial) -> Outputs:
        start, channels = int(t.constant("start")), t.site.golden[t.site.step.outputs[0]].shape[2]
        return t.output(t.inputs[0][:, :, start : start + channels].copy())

    yield Edit("activation_missing", "passes its input through as it is", site.rule, instead(copied))


@family("table", {"lookup"})
def indices(site: Site) -> Iterator[Edit]:
    table = site.step.constants[site.labels.index("table")]
    size = len(table)

    def read(order: Array) -> Change:
        return constants(table=table[order])

    at = np.arange(size)
    half = size // 2
    words = "takes signed for unsigned indices: the halves of the table change places"
    yield Edit("table_index_sign", words, site.rule, read(np.roll(at, half)), common=True)
    yield Edit("table_reversed", "reads its table from the other end", site.rule, read(at[::-1]))
    for by in (1, -1):
        words = f"reads the entry one {'above' if by > 0 else 'below'}"
        yield Edit("table_off_by_one", words, site.rule, read(np.clip(at + by, 0, size - 1)))
    if site.input_form(0).kind == "bf16":
        magnitude = read(at & 0x7FFF)
        yield Edit("table_index_magnitude", "drops the sign bit of the index", site.rule, magnitude)


@family("table", {"lookup", "activate_f32"})
def small_tables(site: Site) -> Iterator[Edit]:
    """Fewer entries than values: the nearest entry below, or a straight line between two."""
    function = function_of(site)
    if function is None:
        return
    for entries in (16, 32, 64, 128, 256, 512, 1024):
        for limit in (4.0, 6.0, 8.0, 16.0):
            for key, words, way in (
                ("table_interpolated", "interpolates between", _interpolated),
                ("table_stepped", "takes the nearest below of", _stepped),
            ):
                for points in (entries, entries + 1):
                    words_ = f"{words} {points} entries from {-limit:g} to {limit:g}"
                    yield Edit(key, words_, site.rule, computed(way(function, points, limit)))
    if site.input_form(0).kind == "bf16":
        for drop in (256, 128, 64, 32, 16, 8):
            yield Edit("table_stepped", f"has a table of every {drop}th BF16 pattern", site.rule, _every(drop))
            words = f"interpolates between every {drop}th BF16 pattern"
            yield Edit("table_interpolated", words, site.rule, _between_patterns(drop, function))
    elif site.input_form(0).is_code:
        for drop in (2, 4, 8, 16, 32, 64, 256):
            yield Edit("table_stepped", f"has a table of every {drop}th code", site.rule, _every(drop))
            yield Edit("table_interpolated", f"interpolates between every {drop}th code", site.rule, _between_codes(drop))


def _nodes(function: int, points: int, limit: float) -> tuple[Array, Array]:
    x = np.linspace(-limit, limit, points)
    return x, (sigmoid if function == SIGMOID else np.tanh)(x)


def _interpolated(function: int, points: int, limit: float) -> Function:
    x, y = _nodes(function, points, limit)
    return lambda v: np.interp(v, x, y)


def _stepped(function: int, points: int, limit: float) -> Function:
    y = _nodes(function, points, limit)[1]
    return lambda v: y[
        np.clip(np.floor((np.nan_to_num(v) + limit) * (points - 1) / (2 * limit)), 0, points - 1).astype(np.int64)
    ]


def _every(drop: int) -> Change:
    return constant("table", lambda table: table[np.arange(len(table)) // drop * drop])


def _between_codes(drop: int) -> Change:
    """A straight line between table entries, rounded down as integer interpolation does."""

    def edit(t: Trial) -> Trial:
        table = t.constant("table")
        at = np.arange(len(table))
        low, part = at // drop * drop, at % drop
        first = table[low].astype(np.int64)
        second = table[np.minimum(low + drop, len(table) - 1)].astype(np.int64)
        return t.with_constants(table=(first + ((second - first) * part) // drop).astype(table.dtype))

    return edit


def _between_patterns(drop: int, function: int) -> Change:
    """A line over values between the entries for two patterns of the same sign and exponent range."""

    def edit(t: Trial) -> Trial:
        pattern = np.arange(1 << 16)
        low = pattern // drop * drop
        high = np.minimum(low + drop, (pattern & 0x8000) | 0x7F80)
        x, x0, x1 = (bf16.decode(p.astype(np.uint16)).astype(np.float64) for p in (pattern, low, high))
        table = shipped("sigmoid_bf16" if function == SIGMOID else "tanh_bf16")
        y0, y1 = (bf16.decode(table[p]).astype(np.float64) for p in (low, high))
        value = np.where(x1 == x0, y0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))
        finite = np.isfinite(x1) & np.isfinite(x0)
        return t.with_constants(table=np.where(finite, bf16.encode(np.where(finite, value, 0.0)), table).astype(np.uint16))

    return edit


@family("table", {"exp64", "sigmoid64", "tanh64"})
def functions(site: Site) -> Iterator[Edit]:
    library: dict[str, Function] = {"exp64": np.exp, "sigmoid64": sigmoid, "tanh64": np.tanh}
    way = library[site.operator]

    def by(width: type) -> Change:
        return instead(lambda t: t.output(way(t.inputs[0].astype(width)).astype(np.float64)))

    yield Edit("float_library", "calls a mathematical library in FP64", site.rule, by(np.float64))
    yield Edit("float_library", "calls a mathematical library in FP32", site.rule, by(np.float32))
