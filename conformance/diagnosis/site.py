"""The step under suspicion: what its operator reads, what the golden model writes there, and what the device wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from golden_vectors.case import DTYPES, Case
from golden_vectors.registry import LAW_RULES, RULES, called, is_function, parameter_names
from refimpl.numerics.requantize import LAW_NAMES, Requantizer
from refimpl.program import Format, Ref, Step

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Site:
    """One step of a case with its arguments.

    timelines: per input all frames that are known of it, the frames of the past in front; inputs: what the operator reads of
    them. For functions, which have no frames, the two are the same.
    """

    case: Case
    step: Step
    given: Mapping[str, Array]  # the device's own tensors, where it showed them
    timelines: tuple[Array, ...]
    inputs: tuple[Array, ...]
    actual: Outputs
    memory: dict[str, Any] = field(default_factory=dict)  # what several hypotheses need and is dear to compute

    @property
    def operator(self) -> str:
        return self.step.operator

    @property
    def framed(self) -> bool:
        return not is_function(self.operator)

    @property
    def frames(self) -> int:
        """How many frames the step writes."""
        return len(self.case.tensors[self.step.outputs[0]].values)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the operator's parameters that the constants are passed to."""
        names = parameter_names(self.operator)
        return tuple(names[len(self.step.inputs) : len(self.step.inputs) + len(self.step.constants)])

    def input_form(self, index: int) -> Format:
        return self.case.tensors[self.step.inputs[index].tensor].form

    def output_form(self, index: int = 0) -> Format:
        return self.case.tensors[self.step.outputs[index]].form

    def start(self, index: int) -> int:
        """What every element of an input holds before the first frame (SPEC P-3)."""
        form = self.input_form(index)
        return form.zero_point if form.is_code else 0

    @cached_property
    def requantizer(self) -> Requantizer | None:
        return next((c for c in self.step.constants if isinstance(c, Requantizer)), None)

    @cached_property
    def law(self) -> str:
        """The name of the step's requantization law, or nothing."""
        return "" if self.requantizer is None else LAW_NAMES[self.requantizer.law]

    @cached_property
    def rule(self) -> str:
        """The rule of the step's own result: that of its law where it has one, else that of its operator."""
        return LAW_RULES.get(self.law, self.operator_rule)

    @cached_property
    def operator_rule(self) -> str:
        """The rule that the operator is; a function's is the first that its case cites."""
        return RULES[self.operator][0] if self.operator in RULES else next(iter(self.case.rules), "")

    @cached_property
    def golden(self) -> Outputs:
        """The step's outputs by the golden model, from the same inputs as the device's."""
        return self.run(self.inputs, self.step.constants)

    def run(
        self,
        inputs: tuple[Array, ...],
        constants: tuple[Any, ...],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        dtypes: Mapping[str, Any] | None = None,
        operator: str = "",
    ) -> Outputs:
        """The golden operator on these arguments; ``shapes`` and ``dtypes`` replace those of the step's outputs."""
        outputs = {}
        for name in self.step.outputs:
            tensor = self.case.tensors[name]
            shape = (shapes or {}).get(name, tensor.values.shape)
            outputs[name] = np.zeros(shape, (dtypes or {}).get(name, DTYPES[tensor.format]))
        arguments = (*inputs, *(frozen(c) for c in constants), *outputs.values())
        check_indices(operator or self.operator, arguments)
        called(operator or self.operator)(*arguments)
        return outputs

    def timeline(self, name: str) -> Array:
        """All known frames of a tensor of the case, those of the past in front."""
        return timeline(self.case, self.given, name)

    def window(self, line: Array, ref: Ref, shift: int = 0, fill: int | None = None) -> Array:
        """What a step reads of ``line``, ``shift`` frames later.

        Frames before the first known one are ``fill`` (the first known one where None); after the last, the last repeats.
        """
        held = len(line) - self.frames
        count = self.frames + (ref.past if ref.current else 0)
        at = np.arange(count) + held - ref.past + shift
        rows: Array = line[np.clip(at, 0, len(line) - 1)]
        if fill is not None:
            rows[at < 0] = fill
        return rows


def check_indices(operator: str, arguments: tuple[Any, ...]) -> None:
    """IndexError where an input would lead a kernel, which checks nothing, outside of its arrays."""
    if operator == "requantize_accumulators":
        channel, count = arguments[1], len(arguments[2].bias)
        inside = channel.size == 0 or 0 <= channel.min() <= channel.max() < count
    elif operator == "lookup":
        x, table, first, start, y = arguments
        inside = 0 <= start <= x.shape[2] - y.shape[2] and 0 <= int(x.min()) - first <= int(x.max()) - first < len(table)
    else:
        inside = True
    if not inside:
        raise IndexError(f"{operator}: an index outside of its array")


def frozen(constant: Any) -> Any:
    """Constants as the lowering leaves them, C-contiguous and read-only: a kernel that is compiled for them serves."""
    if isinstance(constant, Requantizer):
        return constant._replace(**{k: frozen(v) for k, v in constant._asdict().items() if isinstance(v, np.ndarray)})
    if isinstance(constant, np.ndarray) and (constant.flags.writeable or not constant.flags.c_contiguous):
        constant = np.ascontiguousarray(constant).copy()
        constant.flags.writeable = False
    return constant


def own_or_golden(given: Mapping[str, Array], name: str, golden: Array) -> Array:
    """The device's own tensor where it has the form of the golden one, else that."""
    own = given.get(name)
    return own if own is not None and own.shape == golden.shape and own.dtype == golden.dtype else golden


def timeline(case: Case, given: Mapping[str, Array], name: str) -> Array:
    """A tensor's frames behind those of its past; ``given`` overrides the golden ones where it has the same form."""
    parts = []
    for key in (f"{name}.past", name):
        if key in case.tensors:
            parts.append(own_or_golden(given, key, case.tensors[key].values))
    return np.concatenate(parts) if len(parts) > 1 else parts[0].copy()


def site_of(case: Case, step_name: str, actual: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> Site | None:
    """The site, or None where the device's arrays cannot be compared with the step's outputs at all."""
    step = next((s for s in case.steps if s.name == step_name), None)
    if step is None or case.network is not None:
        return None
    given = {name: np.asarray(values) for name, values in (inputs or {}).items()}
    shown = {}
    for name in step.outputs:
        golden, own = case.tensors[name].values, actual.get(name)
        if own is None:
            continue
        own = np.asarray(own)
        if own.shape != golden.shape or own.dtype != golden.dtype:
            return None
        shown[name] = np.ascontiguousarray(own)
    if not shown:
        return None
    lines = tuple(timeline(case, given, ref.tensor) for ref in step.inputs)
    site = Site(case, step, given, lines, lines, shown)
    if not site.framed:
        return site
    read = tuple(np.ascontiguousarray(site.window(line, ref)) for line, ref in zip(lines, step.inputs, strict=True))
    return Site(case, step, given, lines, read, shown)


def part_of(site: Site, elements: int, first: int, start: int | None = None) -> tuple[int, int]:
    """Frames (start, stop) with about so many elements of output, frame ``first`` among them; from 0 on where that does."""
    each = sum(site.golden[name][0].size for name in site.step.outputs)
    count = max(1, elements // max(each, 1))
    if start is None:
        start = 0 if first < count else first - 1
    return start, min(max(start + count, first + 1), site.frames)


def frames_of(site: Site, start: int, stop: int) -> Site:
    """The same step on some of its frames, what comes before them being their past."""
    total = site.frames
    values = {name: tensor.values for name, tensor in site.case.tensors.items() if tensor.role != "constant"}
    own = {name: own_or_golden(site.given, name, array) for name, array in values.items()}
    cut = {}
    for name, array in own.items():
        past = array
        if name.endswith(".past") and name.removesuffix(".past") in own:
            past = np.concatenate([array, own[name.removesuffix(".past")][:start]])[start:]
        cut[name] = array[start:stop] if len(array) == total and not name.endswith(".past") else past
    tensors = {n: replace(t, values=cut.get(n, t.values)) for n, t in site.case.tensors.items()}
    actual = {name: array[start:stop] for name, array in site.actual.items()}
    part = site_of(replace(site.case, tensors=tensors), site.step.name, actual, None)
    assert part is not None
    return part
