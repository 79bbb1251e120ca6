"""Helpers that make cases: the expected tensors always come from running the case, never from the author."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from golden_vectors.case import DTYPES, Case, CaseTensor, constant_tensors, constants_of, requantizer
from golden_vectors.execute import execute
from golden_vectors.registry import is_function
from refimpl.numerics.requantize import Requantizer
from refimpl.program import Format, Program, Ref, State, Step

Array = np.ndarray[Any, np.dtype[Any]]
Output = tuple[str, tuple[int, ...]]  # format, shape


def tensor(role: str, form: Format | str, values: Array) -> CaseTensor:
    """A case tensor of ``values`` in a format; a code format brings its scale and zero point."""
    if isinstance(form, str):
        return CaseTensor(role, form, np.ascontiguousarray(values, DTYPES[form]))
    values = np.ascontiguousarray(values, DTYPES[form.kind])
    return CaseTensor(role, form.kind, values, form.scale, form.zero_point) if form.is_code else tensor(role, form.kind, values)


def one_step(
    case_id: str,
    comment: str,
    rules: Sequence[str],
    operator: str,
    inputs: Mapping[str, tuple[Format | str, Array]],
    constants: Sequence[Any],
    outputs: Mapping[str, tuple[Format | str, tuple[int, ...]]],
    flags: Sequence[str] = (),
    past: Mapping[str, tuple[int, bool, Array]] | None = None,
    seed: int | None = None,
    profile: str | None = None,
) -> Case:
    """A case of one function or operator call.

    inputs: name to format and values, [T, ...] for an operator; outputs: name to format and whole shape. ``past`` gives an
    input its past: how many frames, whether the current one is read too, and their values [past, ...].
    """
    past = past or {}
    refs = tuple(Ref(name, past[name][0], past[name][1]) if name in past else Ref(name) for name in inputs)
    step = Step(next(iter(outputs)), operator, refs, tuple(_contiguous(c) for c in constants), tuple(outputs))
    tensors = {name: tensor("input", form, values) for name, (form, values) in inputs.items()}
    tensors |= {f"{name}.past": tensor("state", inputs[name][0], given[2]) for name, given in past.items()}
    tensors |= {name: tensor("constant", _format_of(a), a) for name, a in constant_tensors(step).items()}
    step = _rebind(step, tensors)
    for name, (form, shape) in outputs.items():
        kind = form if isinstance(form, str) else form.kind
        tensors[name] = tensor("expected", form, np.zeros(shape, DTYPES[kind]))
    return finish(Case(case_id, comment, tuple(rules), tensors, (step,), tuple(flags), seed=seed, profile=profile))


def _format_of(array: Array) -> str:
    """The format of a constant by its dtype."""
    named = {np.dtype(code): name for name, code in DTYPES.items()} | {np.dtype("<u2"): "bf16"}
    return named[array.dtype.newbyteorder("<")]


def _contiguous(constant: Any) -> Any:
    """Constants as the lowering leaves them: C-contiguous and read-only, so that a kernel compiles once for both."""
    if isinstance(constant, Requantizer):
        return constant._replace(**{k: _contiguous(v) for k, v in constant._asdict().items() if isinstance(v, np.ndarray)})
    if isinstance(constant, np.ndarray):
        constant = np.ascontiguousarray(constant).copy()
        constant.flags.writeable = False
    return constant


def finish(case: Case) -> Case:
    """The case with its expected tensors computed.

    Sign and payload of a NaN are outside the guarantee and differ between processors: the files hold one canonical NaN.
    """
    values = execute(case)
    for name, array in values.items():
        if array.dtype.kind == "f":
            array = array.copy()
            array[np.isnan(array)] = np.nan
            values[name] = array
    return case.with_values(values)


def directed(
    operator: str,
    what: str,
    comment: str,
    rules: str,
    flags: str,
    inputs: Mapping[str, tuple[Any, Any]],
    constants: Sequence[Any],
    outputs: Mapping[str, tuple[Any, tuple[int, ...]]],
    past: Mapping[str, tuple[int, bool, Array]] | None = None,
    seed: int | None = None,
    profile: str | None = None,
) -> Case:
    """:func:`one_step` with the id ``LEVEL/OPERATOR/WHAT``; rules and flags are words, and no case is without a flag."""
    if not flags:
        raise ValueError(f"{operator}/{what}: name the bug that this case makes visible")
    level = "numerics" if is_function(operator) else "operators"
    case_id, cited, shown = f"{level}/{operator}/{what}", rules.split(), flags.split()
    return one_step(case_id, comment, cited, operator, inputs, constants, outputs, shown, past, seed, profile)


def scalar(
    function: str,
    what: str,
    comment: str,
    rules: str,
    flags: str,
    out: str,
    constants: Sequence[Any] = (),
    seed: int | None = None,
    **inputs: tuple[str, Any],
) -> Case:
    """A case of a function that maps arrays of one shape, element by element, to ``y`` of format ``out``."""
    given = {name: (form, np.asarray(values)) for name, (form, values) in inputs.items()}
    shape = next(iter(given.values()))[1].shape
    return directed(function, what, comment, rules, flags, given, constants, {"y": (out, shape)}, seed=seed)


Calls = Sequence[tuple[str, Sequence[str], Sequence[Any], Mapping[str, tuple[Format | str, tuple[int, ...]]]]]


def chain(
    case_id: str,
    comment: str,
    rules: str,
    flags: str,
    inputs: Mapping[str, tuple[Format | str, Array]],
    calls: Calls,
    seed: int | None = None,
) -> Case:
    """A case of several calls: each an operator, the tensors that it reads, its constants and its outputs; all are expected."""
    tensors = {name: tensor("input", form, values) for name, (form, values) in inputs.items()}
    steps = []
    for operator, read, constants, outputs in calls:
        refs, values = tuple(Ref(name) for name in read), tuple(_contiguous(c) for c in constants)
        step = Step(next(iter(outputs)), operator, refs, values, tuple(outputs))
        tensors |= {name: tensor("constant", _format_of(a), a) for name, a in constant_tensors(step).items()}
        steps.append(_rebind(step, tensors))
        for name, (form, shape) in outputs.items():
            kind = form if isinstance(form, str) else form.kind
            tensors[name] = tensor("expected", form, np.zeros(shape, DTYPES[kind]))
    return finish(Case(case_id, comment, tuple(rules.split()), tensors, tuple(steps), tuple(flags.split()), seed=seed))


# -- hand-made constants ----------------------------------------------------------------------------------------------


def folded(total: Any, multiplier: Any, shift: Any, relu: int | None = None) -> Requantizer:
    """Law G-2 with these per-channel constants; ``relu`` is the output's zero point, to which the lower bound rises."""
    t, m, n = (np.atleast_1d(np.asarray(v, np.int64)) for v in (total, multiplier, shift))
    return requantizer(
        "folded",
        t.astype(np.int32),
        lowest=0 if relu is None else relu + 128,
        highest=255,
        offset=-128,
        multiplier=m.astype(np.int32),
        addend=t * m + ((1 << n) >> 1),
        shift=n.astype(np.int32),
    )


def norm_twice(total: Any, multiplier: Any, shift: Any, form: Format, pre_shift: int, relu: bool = False) -> Requantizer:
    """Law G-3 with these per-channel constants into ``form``."""
    t, m, n = (np.atleast_1d(np.asarray(v, np.int32)) for v in (total, multiplier, shift))
    lowest, highest = form.lowest - form.zero_point, form.highest - form.zero_point
    rest = {"multiplier": m, "shift": n}
    return requantizer("norm_twice", t, pre_shift, 0 if relu else lowest, highest, form.zero_point, **rest)


def scaled(law: str, total: Any, multiplier: Any, shift: Any, form: Format, relu: bool = False) -> Requantizer:
    """Law G-6 (``double``) or G-7 (``single``) with these per-channel constants into ``form``."""
    t, m, n = (np.atleast_1d(np.asarray(v, np.int32)) for v in (total, multiplier, shift))
    lowest, highest = form.lowest - form.zero_point, form.highest - form.zero_point
    return requantizer(law, t, 0, 0 if relu else lowest, highest, form.zero_point, multiplier=m, shift=n)


def to_bf16(total: Any, scale: Any) -> Requantizer:
    """Law Q-9 with these per-channel constants."""
    scales = np.atleast_1d(np.asarray(scale, np.float32))
    return requantizer("bf16", np.atleast_1d(np.asarray(total, np.int32)), scale=scales)


def raw(total: Any) -> Requantizer:
    """No law: ``acc + total`` as int32, so that a port can compare its accumulators alone."""
    return requantizer("raw", np.atleast_1d(np.asarray(total, np.int32)))


def f32(patterns: Any) -> Array:
    """FP32 values by their 32-bit patterns."""
    out: Array = np.asarray(patterns, np.uint32).view(np.float32)
    return out


def program_slice(
    case: Case,
    program: Program,
    steps: Sequence[Step],
    values: Mapping[str, Array],
    frames: tuple[int, int],
    state: State | None = None,
    keep_next: bool = False,
) -> Case:
    """``case`` with some steps of a lowered network, golden inputs at the slice's edge and every tensor that it computes.

    values: the whole network's trace; frames (first, stop) are cut from it. The past of frame ``first`` comes from the trace,
    or is the start state where the trace has none; ``state`` overrides it.
    """
    first, stop = frames
    computed = [name for step in steps for name in step.outputs]
    read = {ref.tensor: 0 for step in steps for ref in step.inputs}
    for step in steps:
        for ref in step.inputs:
            read[ref.tensor] = max(read[ref.tensor], ref.past)
    tensors: dict[str, CaseTensor] = {}
    for name in read:
        if name not in computed:
            tensors[name] = tensor("input", program.tensors[name].format, values[name][first:stop])
    for name, count in read.items():
        if count:
            start = program.tensors[name].start
            before = np.full((count, *values[name].shape[1:]), start, values[name].dtype)
            held = values[name][max(first - count, 0) : first]
            before[count - len(held) :] = held
            before = before if state is None or name not in state else state[name]
            tensors[f"{name}.past"] = tensor("state", program.tensors[name].format, before)
    for step in steps:
        tensors |= {name: tensor("constant", _format_of(a), a) for name, a in constant_tensors(step).items()}
    # One storage per constant: a step finds its arrays again by identity.
    steps = tuple(_rebind(step, tensors) for step in steps)
    for name in computed:
        form = program.tensors[name].format
        tensors[name] = tensor("expected", form, np.zeros_like(values[name][first:stop]))
    if keep_next:
        for name, count in read.items():
            if count:
                empty = np.zeros((count, *values[name].shape[1:]), values[name].dtype)
                tensors[f"{name}.next"] = tensor("next_state", program.tensors[name].format, empty)
    return finish(replace(case, tensors=tensors, steps=steps))


def _rebind(step: Step, tensors: Mapping[str, CaseTensor]) -> Step:
    bound: list[Any] = []
    for label, value in constants_of(step):
        name = f"{step.name}.{label}"
        if isinstance(value, Requantizer):
            arrays: dict[str, Any] = {k: tensors[f"{name}.{k}"].values for k in value._fields if f"{name}.{k}" in tensors}
            bound.append(value._replace(**arrays))
        else:
            bound.append(tensors[name].values if name in tensors else value)
    return replace(step, constants=tuple(bound))
