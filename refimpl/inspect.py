"""What each step of a program holds, and what the program costs: ``python -m refimpl.inspect [mix.wav] [--preset P|all]``.

Without audio: number format, scale, zero point, rule, multipliers and shifts of every step, the error of its multipliers, and
the headroom that is proven for its sums; then bytes, operations, memory, and an estimate of the time on GAP9. With audio also
what was observed: the range, elements at the bounds of the format, elements that saturated, and SQNR against ``fp32``.

An element at a bound need not have saturated. Saturation is counted exactly: the step runs again with its results moved by one
code, and those that stay at their bound lie beyond it. What a fused ReLU cuts off is its own figure.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl import cost
from refimpl.audio import read_pcm
from refimpl.cli import Parser, add_audio_options, announce_compilation, guarded, printable
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config
from refimpl.numerics.requantize import LAW_NAMES, LAW_RAW, LAW_SINGLE, Requantizer
from refimpl.presets import MORE, NAMES, load_preset
from refimpl.profiles import PROFILES, profile_named
from refimpl.program import OPERATORS, Format, Program, Step
from refimpl.quantization.offsets import residual_errors
from refimpl.session import BLOCK, Model, frames_of
from refimpl.sqnr import counterparts, decibels
from refimpl.weights_io import Container, check_preset, default_weights, load_container

Array = np.ndarray[Any, np.dtype[Any]]
Json = dict[str, Any]
GAP9_RUNTIME = Path(__file__).with_name("gap9_runtime.json")
ALL = (*NAMES, *MORE)
MULTIPLIERS = ("m", "ma", "mb", "mo")  # of elementwise steps, by the names in their kernels
SHIFTS = ("n", "na", "nb", "no")
SUMS = ("accumulator", "accumulator + bias", "accumulator of unsigned codes")  # bounds of a layer's sum, by their names
# Bits of bounds that are not held against the profile's width: of E-1's bias, and of the product of a law defined in 64 bits.
WIDTHS = {"bias": 16}
WIDE_PRODUCT = {LAW_SINGLE: {"product": 64}}
CELL = ".lstm.c"  # a sum that adds its offset up, frame by frame


# -- what is known without audio ----------------------------------------------------------------------------------------


def census(program: Program, width: int) -> list[Json]:
    """One row for every tensor that a step makes, in order; ``width`` bits is what bounds are held against that record none."""
    rows = []
    for step in program.steps:
        facts = _facts_of(program, step, width)
        for name in step.outputs:
            form = program.tensors[name].format
            row: Json = {"step": step.name, "tensor": name, "operator": step.operator, "format": form.kind}
            row |= {"scale": form.scale, "zero_point": form.zero_point} if form.is_code else {}
            rows.append(row | (facts if name == step.outputs[0] else {}))
    return rows


def _facts_of(program: Program, step: Step, width: int) -> Json:
    """Rule, multipliers, shifts, their error, and proven bounds of one step."""
    constants = cost.named_constants(step)
    facts: Json = {"rule": step.operator}
    rq = constants.get("rq")
    if isinstance(rq, Requantizer):
        facts["rule"] = LAW_NAMES[rq.law]
        if rq.multiplier.any():
            facts |= {"multiplier": _extremes(rq.multiplier), "shift": _extremes(rq.shift)}
        if rq.scale.any():
            facts["accumulator_scale"] = [float(rq.scale.min()), float(rq.scale.max())]
    else:
        for key, names in (("multiplier", MULTIPLIERS), ("shift", SHIFTS)):
            values = [int(constants[name]) for name in names if name in constants]
            if values:
                facts[key] = [min(values), max(values)]
    error = program.facts.get("scale_error", {}).get(step.name)
    if error is not None and np.size(error):
        facts["scale_error"] = {"max": float(np.abs(error).max()), "mean": float(np.abs(error).mean())}
    if step.operator == "add_two_stage":
        forms = [program.tensors[name].format for name in (*(ref.tensor for ref in step.inputs), step.outputs[0])]
        facts["offset"] = residual_errors(*forms)[0]
    proofs = program.facts.get("proofs", {}).get(step.name, {})
    widths = WIDTHS | (WIDE_PRODUCT.get(rq.law, {}) if isinstance(rq, Requantizer) else {})
    widths |= program.facts.get("widths", {}).get(step.name, {})
    if proofs:
        facts["bounds"] = {what: _bound(bound, widths.get(what, width)) for what, bound in proofs.items()}
    return facts


def _extremes(values: Array) -> list[int]:
    return [int(values.min()), int(values.max())]


def _bound(bound: int, width: int) -> Json:
    return {"bound": int(bound), "width": int(width), "headroom_bits": headroom(int(bound), int(width))}


def headroom(bound: int, width: int) -> int:
    """Bits that a signed word of ``width`` bits has left above the magnitude ``bound``; negative where it does not fit."""
    return width - 1 - abs(bound).bit_length()


# -- what audio shows -----------------------------------------------------------------------------------------------------


@dataclass
class Observation:
    """What a tensor took over a clip. ``saturated`` is None where the step's rule does not tell it from the outputs."""

    low: float = math.inf  # real values
    high: float = -math.inf
    elements: int = 0
    at_low: int = 0  # elements at the format's lowest code
    at_high: int = 0
    saturated_low: int | None = None
    saturated_high: int | None = None
    saturated: int | None = None
    relu: int | None = None  # elements that a fused ReLU cut off
    not_finite: int = 0
    accumulator: int | None = None  # largest magnitude of accumulator + bias
    energy: float = 0.0
    noise: float = 0.0
    paired: bool = False

    def see(self, form: Format, values: Array, exact: Array | None) -> None:
        """Range, bounds and error of one block of stored ``values``; ``exact`` are the fp32 program's, float64."""
        self.elements += values.size
        real = form.real(values)
        if form.kind in ("bf16", "f32"):
            finite = np.isfinite(real)
            self.not_finite += int((~finite).sum())
            real_seen = real[finite]
        else:
            real_seen = real
            self.at_low += int((values == form.lowest).sum())
            self.at_high += int((values == form.highest).sum())
        if real_seen.size:
            self.low, self.high = min(self.low, float(real_seen.min())), max(self.high, float(real_seen.max()))
        if exact is not None:
            self.paired = True
            self.energy += float((exact * exact).sum())
            self.noise += float(((real - exact) ** 2).sum())

    def cut(self, low: int, high: int, relu: bool) -> None:
        """Elements of a block that were cut off below and above."""
        self.saturated_high = (self.saturated_high or 0) + high
        self.saturated_low = (self.saturated_low or 0) + (0 if relu else low)
        self.saturated = self.saturated_low + self.saturated_high
        if relu:
            self.relu = (self.relu or 0) + low


def observe(model: Model, reference: Model, pcm: Array) -> dict[str, Observation]:
    """Run the clip and look at every tensor that a step makes; ``reference`` is the fp32 model of the same container."""
    program, floating = model.program, reference.program
    pairs = counterparts(program, floating) if program is not floating else {}
    rectified = {step.name for step in floating.steps if cost.named_constants(step).get("relu")}
    found = {name: Observation() for step in program.steps for name in step.outputs}
    frames, state, other = frames_of(pcm), program.start(), floating.start()
    for first in tqdm(range(0, len(frames), BLOCK), printable(model.preset), unit="block", disable=None, leave=False):
        block = frames[first : first + BLOCK]
        held = {name: array.copy() for name, array in state.items()}
        values = program.run(block, state, list(program.tensors))
        exact = floating.run(block, other, list(set(pairs.values()))) if pairs else {}
        whole = {name: np.concatenate((held[name], v)) if name in held else v for name, v in values.items()}
        for step in program.steps:
            inputs = inputs_of(program, step, whole, len(block))
            for name in step.outputs:
                partner = pairs.get(name)
                x = floating.tensors[partner].format.real(exact[partner]) if partner else None
                found[name].see(program.tensors[name].format, values[name], x)
            _count(step, inputs, values, program, found, step.name in rectified)
    for name, seen in found.items():  # what saturated is at a bound: none there, none saturated
        if program.tensors[name].format.kind == "int32" and seen.at_low + seen.at_high == 0:
            seen.saturated = 0
    return found


def inputs_of(program: Program, step: Step, whole: Mapping[str, Array], count: int) -> list[Array]:
    """A step's inputs over a block of ``count`` frames; ``whole`` holds each tensor with its past frames in front."""
    arrays = []
    for ref in step.inputs:
        start = program.past.get(ref.tensor, 0) - ref.past
        arrays.append(whole[ref.tensor][start : start + count + (ref.past if ref.current else 0)])
    return arrays


def _count(
    step: Step, inputs: list[Array], values: Mapping[str, Array], program: Program, found: dict[str, Observation], relu: bool
) -> None:
    """Add one block's saturated elements and largest accumulator of a step to its observation."""
    name = step.outputs[0]
    seen = found[name]
    if program.tensors[name].format.is_code:
        masks = cut_off(step, inputs, values[name])
        if masks is not None:
            seen.cut(int(masks[0].sum()), int(masks[1].sum()), relu)
        elif "clipped" in step.outputs:  # the one step that counts for itself
            seen.saturated = (seen.saturated or 0) + int(values["clipped"].sum())
    if isinstance(cost.named_constants(step).get("rq"), Requantizer):
        largest = int(np.abs(accumulators(step, inputs, values[name].shape).astype(np.int64)).max())
        seen.accumulator = max(seen.accumulator or 0, largest)


def cut_off(step: Step, inputs: Sequence[Array], y: Array) -> tuple[Array, Array] | None:
    """Where outputs ``y`` were cut off at the lower bound (or by a ReLU) and at the upper one; None where the step does not
    saturate, or hides it. The step runs again with its results one code lower and one higher before they are saturated: an
    output that stays at its bound lies beyond it."""
    constants = cost.named_constants(step)
    rq = constants.get("rq")
    if isinstance(rq, Requantizer):
        bounds = rq.lowest + rq.offset, rq.highest + rq.offset
    elif "zero_point" in constants and "lowest" in constants:
        bounds = constants["lowest"], constants["highest"]
    elif "add_bias" in constants:  # the bounds are those of the code, by the rule
        bounds = int(np.iinfo(y.dtype).min), int(np.iinfo(y.dtype).max)
    else:
        return None
    low, high = y == bounds[0], y == bounds[1]
    if low.any():
        low &= _again(step, inputs, y, _moved(constants, 1)) == y
    if high.any():
        high &= _again(step, inputs, y, _moved(constants, -1)) == y
    return low, high


def _moved(constants: Mapping[str, Any], by: int) -> dict[str, Any]:
    """The constants that make a step's results ``by`` codes higher before they are saturated, the bounds where they were."""
    rq = constants.get("rq")
    if isinstance(rq, Requantizer):
        return {"rq": rq._replace(lowest=rq.lowest - by, highest=rq.highest - by, offset=rq.offset + by)}
    name = "add_bias" if "add_bias" in constants else "zero_point"
    return {name: constants[name] + by}


def accumulators(step: Step, inputs: Sequence[Array], shape: tuple[int, ...]) -> Array:
    """Accumulator plus folded bias of every output of a layer, int32, before its rule."""
    rq: Requantizer = cost.named_constants(step)["rq"]
    out: Array = np.empty(shape, np.int32)
    return _again(step, inputs, out, {"rq": rq._replace(law=LAW_RAW)})


def _again(step: Step, inputs: Sequence[Array], like: Array, changed: Mapping[str, Any]) -> Array:
    """The step's first output with some constants changed, in an array like ``like``."""
    constants = cost.named_constants(step) | dict(changed)
    y: Array = np.empty(like.shape, like.dtype)
    OPERATORS[step.operator](*inputs, *constants.values(), y)
    return y


def _observed(seen: Observation) -> Json:
    """An observation for a row; figures that there are none of are left out."""
    facts = {key: value for key, value in asdict(seen).items() if key not in ("energy", "noise", "paired", "accumulator")}
    facts = {key: value for key, value in facts.items() if value is not None and not _is_infinite(value)}
    if seen.paired:
        sqnr = decibels(seen.energy, seen.noise)
        facts["sqnr_db"] = None if _is_infinite(sqnr) else sqnr
    return facts


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


def join(rows: list[Json], seen: Mapping[str, Observation]) -> None:
    """Add what was observed to the rows of the census."""
    for row in rows:
        row["observed"] = _observed(seen[row["tensor"]])
        widest = seen[row["tensor"]].accumulator
        if widest is not None and "bounds" in row:
            width = row["bounds"].get("accumulator + bias", {}).get("width")
            if width:
                row["observed"]["accumulator"] = _bound(widest, width)


# -- what it costs ----------------------------------------------------------------------------------------------------------


def costs(program: Program, bias_bits: int) -> Json:
    """All figures of ``refimpl.cost`` for one program, on a device whose integer layers store biases of that width."""
    kept, plan = cost.storage(program, bias_bits), cost.plan_buffers(program)
    return {
        "parameters": sum(layer.parameters for layer in cost.layers(program)),
        "storage": asdict(kept) | {"total": kept.total, "without_activation_tables": kept.without_activation_tables},
        "macs": {
            "total": sum(layer.macs for layer in cost.layers(program)),
            "by_operator": cost.macs_by(program, lambda layer: layer.operator),
            "by_part": cost.macs_by(program, lambda layer: cost.part(layer.name)),
            "by_arithmetic": cost.macs_by(program, lambda layer: layer.arithmetic),
        },
        "elementwise": cost.elementwise_by_arithmetic(program),
        "calls": len(program.steps),
        "state_bytes": cost.state_bytes(program),
        "plan": asdict(plan),
    }


@dataclass(frozen=True)
class Runtime:
    """Published rows, and the fits of milliseconds to work and of milliwatts to milliseconds."""

    data: Json
    time: cost.Fit
    power: cost.Fit

    def estimate(self, program: Program) -> Json | None:
        """Milliseconds per 6 ms frame and milliwatts; None where no published row bears on the program."""
        counts = cost.work(program)
        if counts is None:
            return None
        ms = self.time.predict(counts)
        return {"ms": ms, "mw": self.power.predict((1, Fraction(ms)))}


def runtime(data: Json) -> Runtime:
    """Fit the published rows; their programs have the shape and formats of the paper's networks."""
    rows = data["rows"]
    counts = [_work_of(row) for row in rows]
    time = cost.fit(counts, [_exact(row["ms"]) for row in rows])
    powered = [row for row in rows if row["mw"] is not None]
    power = cost.fit([(1, _exact(row["ms"])) for row in powered], [_exact(row["mw"]) for row in powered])
    return Runtime(data, time, power)


def _work_of(row: Json) -> cost.Work:
    counts = cost.work(cost.blank_program(Config.from_dict(row["config"]), row["preset"]))
    assert counts is not None, "no published row is of fp32"
    return counts


def _exact(value: float) -> Fraction:
    """The decimal number that the paper prints."""
    return Fraction(str(value))


def runtime_json(model: Runtime) -> Json:
    """The fits with everything that is needed to judge them."""
    rows = model.data["rows"]
    powered = [row for row in rows if row["mw"] is not None]
    return {
        "source": model.data["source"],
        "conditions": model.data["conditions"],
        "assumptions": [*cost.ASSUMPTIONS, *model.data["notes"]],
        "limits": model.data["limits"],
        "nanoseconds_per_unit": {u: 1e6 * float(f) for u, f in zip(cost.UNITS, model.time.factors, strict=True)},
        "freedom": model.time.freedom,
        "rows": [_fitted(row, "ms", model.time, i) | _work_of(row)._asdict() for i, row in enumerate(rows)],
        "checks": [
            {"name": row["name"], "paper": row["ms"], "fitted": model.time.predict(_work_of(row))}
            for row in model.data["checks"]
        ],
        "power": {
            "milliwatts": float(model.power.factors[0]),
            "milliwatts_per_millisecond": float(model.power.factors[1]),
            "freedom": model.power.freedom,
            "rows": [_fitted(row, "mw", model.power, i) for i, row in enumerate(powered)],
        },
    }


def _fitted(row: Json, key: str, fit: cost.Fit, index: int) -> Json:
    fitted, left_out = float(fit.fitted[index]), float(fit.left_out[index])
    return {
        "name": row["name"],
        "paper": row[key],
        "fitted": fitted,
        "residual": fitted - row[key],
        "left_out_residual": left_out - row[key],
    }


# -- text -------------------------------------------------------------------------------------------------------------------


def census_table(rows: Sequence[Json], preset: str, profile: str) -> str:
    """The census of one preset, one line a tensor; a column that says nothing is left out."""
    with_audio = any("observed" in row for row in rows)
    cells = [_static_cells(row) | (_audio_cells(row) if with_audio else {}) for row in rows]
    titles = [title for title in cells[0] if any(line[title] != "-" for line in cells)]
    widths = {title: max(len(title), *(len(line[title]) for line in cells)) for title in titles}
    lines = [f"preset {printable(preset)}, profile {profile}"]
    for line in ({title: title for title in titles}, *cells):
        left = (f"{line[title]:{widths[title]}}" for title in titles if title in LEFT)
        lines.append("  ".join([*left, *(f"{line[title]:>{widths[title]}}" for title in titles if title not in LEFT)]))
    return "\n".join([*lines, *(f"{title}: {meaning}" for title, meaning in LEGEND if title in titles)])


LEFT = ("tensor", "format", "rule")
LEGEND = (
    ("M", "multipliers; n: shifts"),
    ("err %", "largest relative error of M / 2^n against the scale"),
    ("acc", "bits of headroom of the accumulator, proven; rq: of what follows it; seen: of accumulator + bias, observed"),
    ("at bound", "elements at the lowest or highest code, cut off or not"),
)


def _static_cells(row: Json) -> dict[str, str]:
    bounds = row.get("bounds", {})
    sums = [b["headroom_bits"] for what, b in bounds.items() if what in SUMS]
    rest = [b["headroom_bits"] for what, b in bounds.items() if what not in SUMS]
    return {
        "tensor": row["tensor"],
        "format": row["format"],
        "rule": row.get("rule", "-"),
        "scale": f"{row['scale']:.3g}" if "scale" in row else "-",
        "zero": str(row.get("zero_point", "-")),
        "M": _span(row.get("multiplier")),
        "n": _span(row.get("shift")),
        "err %": f"{100 * row['scale_error']['max']:.2g}" if "scale_error" in row else "-",
        "acc": str(min(sums, default="-")),
        "rq": str(min(rest, default="-")),
    }


def _span(values: Sequence[int] | None) -> str:
    if not values:
        return "-"
    low, high = values
    return str(low) if low == high else f"{low}..{high}"


def _audio_cells(row: Json) -> dict[str, str]:
    seen = row["observed"]
    sqnr = seen.get("sqnr_db", "-")
    return {
        "seen": str(seen["accumulator"]["headroom_bits"]) if "accumulator" in seen else "-",
        "low": f"{seen['low']:.4g}" if "low" in seen else "-",
        "high": f"{seen['high']:.4g}" if "high" in seen else "-",
        "at bound": str(seen["at_low"] + seen["at_high"]) if row["format"] in ("int8", "int16", "int32") else "-",
        "saturated": str(seen.get("saturated", "-")),
        "relu %": f"{100 * seen['relu'] / seen['elements']:.1f}" if "relu" in seen else "-",
        "SQNR dB": "inf" if sqnr is None else sqnr if sqnr == "-" else f"{sqnr:.1f}",
    }


def summary(rows: Sequence[Json]) -> list[str]:
    """The census in a few lines: least headroom, coarsest multiplier, offsets of E-1, and with audio what saturated most."""
    proven = [(b["headroom_bits"], what, row["tensor"]) for row in rows for what, b in row.get("bounds", {}).items()]
    lines = []
    sums = [entry for entry in proven if entry[1] in SUMS]
    for title, entries in (("sums", sums), ("what follows", [e for e in proven if e not in sums])):
        if entries:
            bits, what, name = min(entries)
            lines.append(f"least headroom of {title}, bits: {bits} ({what} of {name})")
    errors = [(row["scale_error"]["max"], row["tensor"]) for row in rows if "scale_error" in row]
    if errors:
        lines.append(f"largest multiplier error: {100 * max(errors)[0]:.2g}% ({max(errors)[1]})")
    offsets = [(row["offset"], row["tensor"]) for row in rows if "offset" in row]
    for title, found in (("a sum", offsets), ("a cell", [entry for entry in offsets if entry[1].endswith(CELL)])):
        if found:
            offset, name = max(found, key=lambda entry: abs(entry[0]))
            lines.append(f"largest mean offset of {title}, codes: {offset:+.3f} ({name})")
    seen = [row for row in rows if row.get("observed", {}).get("saturated") is not None]
    if seen:
        total, elements = (sum(row["observed"][key] for row in seen) for key in ("saturated", "elements"))
        worst = max(seen, key=lambda row: row["observed"]["saturated"] / row["observed"]["elements"])
        share = 1e6 * worst["observed"]["saturated"] / worst["observed"]["elements"]
        lines.append(f"saturated: {total} of {elements} elements; most {share:.0f} in a million ({worst['tensor']})")
    return lines


def cost_table(found: Mapping[str, Json], estimates: Mapping[str, Json | None], data: Json) -> str:
    """Bytes, operations and memory, one column a preset; the paper's figures beside ours where it has a row."""
    paper = {row["preset"]: row for row in data["rows"] if not row["config"]}
    columns = list(found)
    width = max(11, *(len(printable(name)) for name in columns)) + 1

    def line(title: str, cells: Sequence[str]) -> str:
        return f"{title:38}" + "".join(f"{cell:>{width}}" for cell in cells)

    def count(title: str, key: Any) -> str:
        return line(title, [f"{key(found[name]):,}" for name in columns])

    lines = [line("per 6 ms frame, one stream", [printable(name) for name in columns]), count("parameters", _of("parameters"))]
    lines.append(line("stored as the paper counts, KiB", [f"{found[n]['storage']['nominal'] / 1024:.1f}" for n in columns]))
    lines.append(line("  paper, kB", [_paper(paper.get(name), "kib") for name in columns]))
    for kind in ("int8", "bf16", "f32"):
        lines.append(count(f"weights {kind}, bytes", lambda c, kind=kind: c["storage"]["weights"].get(kind, 0)))
    for title, key in STORED:
        lines.append(count(f"{title}, bytes", _of("storage", key)))
    most = data["limits"]["bytes"]
    lines.append(
        line(
            f"  of the limit of {most / 1e6:.1f} MB, %",
            [f"{100 * _of('storage', 'total')(found[n]) / most:.0f}" for n in columns],
        )
    )
    for kind in ("int8", "int16", "bf16", "f32"):
        lines.append(count(f"MACs, {kind} activations", lambda c, kind=kind: c["macs"]["by_arithmetic"].get(kind, 0)))
    for kind in ("int8", "int16", "bf16", "f32"):
        lines.append(count(f"elementwise, {kind}", lambda c, kind=kind: c["elementwise"].get(kind, 0)))
    lines.append(count("operator calls", _of("calls")))
    lines.append(count("state of a stream, bytes", _of("state_bytes")))
    lines.append(count("activation memory, bytes", lambda c: c["plan"]["state_bytes"] + c["plan"]["arena_bytes"]))
    lines.append(count("  kept from frame to frame", _of("plan", "state_bytes")))
    lines.append(count("  arena, used again and again", _of("plan", "arena_bytes")))
    lines.append(count("  the least that any plan needs", _of("plan", "least_bytes")))
    for title, key in ESTIMATED if any(estimates.values()) else ():
        lines.append(line(title, [f"{e[key]:.1f}" if (e := estimates.get(name)) else "n/a" for name in columns]))
        published = [_paper(paper.get(name), key, ".1f") for name in columns]
        lines.append(line(f"  paper; the limit is {data['limits'][key]:g}", published))
    return "\n".join(lines)


ESTIMATED = (("time on GAP9, ms (estimate)", "ms"), ("power on GAP9, mW (estimate)", "mw"))
STORED = (
    ("biases", "biases"),
    ("multipliers, shifts, scales", "requantization"),
    ("other constants", "scalars"),
    ("windows and twiddles", "transform_tables"),
    ("sigmoid and tanh tables", "activation_tables"),
    ("non-volatile in all", "total"),
)


def _of(*keys: str) -> Any:
    """A function that takes the value at ``keys`` out of nested dictionaries."""

    def take(figures: Json) -> Any:
        value: Any = figures
        for key in keys:
            value = value[key]
        return value

    return take


def _paper(row: Json | None, key: str, form: str = "g") -> str:
    return "-" if row is None or row[key] is None else format(row[key], form)


def runtime_table(model: Runtime) -> str:
    """The fit on the paper's rows: every row, what the model gives, and what it gives when it has not seen the row."""
    facts, clock = runtime_json(model), model.data["clock_mhz"]
    lines = ["time on GAP9: an estimate, fitted to the rows that the paper publishes; never measured here"]
    lines += [f"  {line}" for line in (facts["source"], facts["conditions"], *facts["assumptions"])]
    for unit, ns in facts["nanoseconds_per_unit"].items():
        lines.append(f"  {unit:26} {ns:10.4f} ns = {ns * clock / 1000:.4g} cycles")
    lines.append(f"  {'row':20} {'paper ms':>8} {'fitted':>7} {'off by':>7} {'off by, row left out':>21}")
    for row in facts["rows"]:
        lines.append(_fit_line(row, 2))
    for row in facts["checks"]:
        note = f"{row['fitted'] - row['paper']:+21.2f}   not fitted; FiLM not counted"
        lines.append(f"  {row['name']:20} {row['paper']:8} {row['fitted']:7.2f} {'':7} {note}")
    count, freedom = len(facts["rows"]), facts["freedom"]
    lines.append(f"  {count} rows, {count - freedom} factors: {freedom} degrees of freedom left")
    power = facts["power"]
    rule = f"{power['milliwatts']:.2f} mW + {power['milliwatts_per_millisecond']:.2f} mW per ms of computing"
    lines.append(f"power: {rule}, {power['freedom']} degrees of freedom left")
    return "\n".join(lines + [_fit_line(row, 1) for row in power["rows"]])


def _fit_line(row: Json, digits: int) -> str:
    figures = f"{row['fitted']:7.{digits}f} {row['residual']:+7.{digits}f} {row['left_out_residual']:+21.{digits}f}"
    return f"  {row['name']:20} {row['paper']:8} {figures}"


# -- the command --------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("refimpl.inspect", "What each step holds and saturates, and what a program costs a device.")
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help="audio file: adds what is observed on it")
    parser.add_argument("--preset", default="mixmlp", help=f"{', '.join(ALL)}, a preset file, or all (default %(default)s)")
    parser.add_argument("--profile", default="gap9", help=f"{', '.join(sorted(PROFILES))} (default %(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights container (default: the shipped one)")
    add_audio_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    args = parser.parse_args(argv)
    pcm = None if args.input is None else read_pcm(args.input, resample=args.resample, channel=args.channel)
    where = args.weights if args.weights is not None else default_weights()
    container = load_container(where)
    profile_named(args.profile)
    models, refused = load_models(container, args.preset, args.profile, str(where))
    data = json.loads(GAP9_RUNTIME.read_text(encoding="utf-8"))
    found = {name: {"census": census(m.program, profile_named(m.profile).width)} for name, m in models.items()}
    if pcm is not None:
        announce_compilation()
        reference = Model(container, "fp32")
        for name, model in models.items():
            join(found[name]["census"], observe(model, reference, pcm))
    figures = {name: costs(model.program, profile_named(model.profile).bias_bits) for name, model in models.items()}
    fitted = runtime(data) if args.profile == data["profile"] else None
    estimates = {name: fitted.estimate(model.program) if fitted else None for name, model in models.items()}
    if args.json:
        print(json.dumps(document(models, found, figures, estimates, refused, fitted, args.input), indent=2, allow_nan=False))
        return 0
    for name, result in found.items():
        if args.preset != "all":
            print(census_table(result["census"], name, args.profile), end="\n\n")
        if lines := summary(result["census"]):
            print("\n".join([f"{printable(name)}:", *(f"  {line}" for line in lines)]), end="\n\n")
    for name, reason in refused.items():
        print(f"{printable(name)}: n/a on {args.profile}: {printable(reason)}", end="\n\n")
    print(cost_table(figures, estimates, data))
    if fitted:
        print("", runtime_table(fitted), sep="\n")
    return 0


def load_models(container: Container, preset: str, profile: str, where: str) -> tuple[dict[str, Model], dict[str, str]]:
    """The models by preset, and why the others of ``all`` cannot be had; :class:`InputError` where none can."""
    if preset != "all":
        check_preset(container, preset, where)
        load_preset(preset)
        return {preset: Model(container, preset, profile)}, {}
    models: dict[str, Model] = {}
    refused: dict[str, str] = {}
    for name in ALL:
        try:
            check_preset(container, name, where)
            models[name] = Model(container, name, profile)
        except InputError as error:
            refused[name] = str(error)
    if not models:
        raise InputError(next(iter(refused.values())))
    return models, refused


def document(
    models: Mapping[str, Model],
    found: Mapping[str, Json],
    figures: Mapping[str, Json],
    estimates: Mapping[str, Json | None],
    refused: Mapping[str, str],
    fitted: Runtime | None,
    source: Path | None,
) -> Json:
    """Everything as one JSON document."""
    presets = [
        {"identity": model.identity, "cost": figures[name], "gap9_estimate": estimates[name], **found[name]}
        for name, model in models.items()
    ]
    return {
        "input": None if source is None else str(source),
        "presets": presets,
        "not_available": dict(refused),
        "gap9_runtime": runtime_json(fitted) if fitted else None,
    }


if __name__ == "__main__":
    sys.exit(main())
