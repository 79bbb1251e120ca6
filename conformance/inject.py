"""Cases made of cases: without the answers, one step at a time, and one step of a whole network.

A case of several steps that fails says little about the steps after the first wrong one. Split, every step gets golden inputs
and is judged alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from conformance.tables import Tables, model_with
from golden_vectors.case import Case, CaseTensor
from golden_vectors.registry import is_function, rules_of
from golden_vectors.suite.making import program_slice
from refimpl.numerics.requantize import Requantizer
from refimpl.program import Program, Ref, Step

Array = np.ndarray[Any, np.dtype[Any]]
BEFORE = ".before"  # the past of a step's own output: given in a split case under this name


def stripped(case: Case) -> Case:
    """The case without its answers: zeros for what a port must compute, no CRC-32 (their tensors' names stay)."""
    answers = {name: np.zeros_like(case.tensors[name].values) for name in case.names("expected", "next_state")}
    network = case.network
    if network is not None:
        network = replace(network, crc32=dict.fromkeys(network.crc32, ()))
    return replace(case.with_values(answers), network=network)


def required(case: Case) -> list[str]:
    """The tensors that a port must show: what no later step of the case reads, and the next states.

    Of a network they are its PCM and, in chunks, what was emitted when.
    """
    if case.network is not None:
        return [name for name in case.names("expected") if name in ("pcm_out", "emitted")]
    unread: dict[str, None] = {}
    for step in case.steps:  # an earlier step of a loop may read what is made here, one frame late
        for ref in step.inputs:
            unread.pop(ref.tensor, None)
        unread |= dict.fromkeys(step.outputs)
    return [*unread, *case.names("next_state")]


def split_case(case: Case) -> list[Case]:
    """One case per step, in order: that step alone, with golden inputs, golden past frames, its constants and its outputs.

    A step of a loop becomes a plain one: the tensors that it reads one frame late are given for every frame.
    """
    return [_alone(case, index, step) for index, step in enumerate(case.steps)]


def _alone(case: Case, index: int, step: Step) -> Case:
    past: dict[str, int] = {}
    for ref in step.inputs:
        past[ref.tensor] = max(past.get(ref.tensor, 0), ref.past)
    tensors: dict[str, CaseTensor] = {}
    for name in past:
        tensors[_given(name, step)] = replace(case.tensors[name], role="input")
    for name, count in past.items():
        if count:
            held = case.tensors[f"{name}.past"]
            tensors[f"{_given(name, step)}.past"] = replace(held, values=held.values[len(held.values) - count :])
    used = {id(array) for array in constant_arrays(step)}
    tensors |= {name: case.tensors[name] for name in case.names("constant") if id(case.tensors[name].values) in used}
    tensors |= {name: case.tensors[name] for name in step.outputs}
    refs = tuple(Ref(_given(ref.tensor, step), ref.past, ref.current) for ref in step.inputs)
    return replace(
        case,
        id=f"{case.id}/{index + 1:03d}-{slug(step.name)}",
        comment=f"step {step.name} of {case.id} alone",
        rules=step_rules(case, step),
        tensors=tensors,
        steps=(replace(step, inputs=refs, loop=""),),
    )


def _given(name: str, step: Step) -> str:
    """The name under which a split case gives a tensor to a step."""
    return name + BEFORE if name in step.outputs else name


def slug(name: str) -> str:
    """A step's name as a part of a case's id."""
    return re.sub(r"[^a-z0-9_-]+", ".", name.lower()).strip(".") or "step"


def step_rules(case: Case, step: Step) -> tuple[str, ...]:
    """The rules that a step's result depends on, its own first; a function's are those of its case."""
    return case.rules if is_function(step.operator) else rules_of(step)


def constant_arrays(step: Step) -> list[Array]:
    """Every array among a step's constants, those of a requantizer too."""
    found: list[Array] = []
    for value in step.constants:
        fields = value if isinstance(value, Requantizer) else (value,)
        found += [field for field in fields if isinstance(field, np.ndarray)]
    return found


# -- one order of all steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """The order in which a program computes: steps one after another, but the steps of a loop frame by frame."""

    steps: tuple[Step, ...]

    @cached_property
    def _places(self) -> dict[str, tuple[int, bool, int]]:
        """By tensor: the group of the step that makes it, whether that is a loop, and the step's number."""
        places: dict[str, tuple[int, bool, int]] = {}
        group, before = -1, ""
        for index, step in enumerate(self.steps):
            if not step.loop or step.loop != before:
                group += 1
            before = step.loop
            places |= {name: (group, bool(step.loop), index) for name in step.outputs}
        return places

    def step_of(self, tensor: str) -> Step | None:
        """The step that makes a tensor (or its next state); None for an input."""
        place = self._places.get(tensor.removesuffix(".next")) or self._places.get(tensor)
        return None if place is None else self.steps[place[2]]

    def key(self, tensor: str, frame: int) -> tuple[int, int, int, int]:
        """Sorts differences by when they were computed: of a loop the earlier frame first, then the earlier step."""
        state = tensor.endswith(".next") and tensor not in self._places
        place = self._places.get(tensor.removesuffix(".next") if state else tensor)
        if place is None:
            return (len(self.steps), 0, 0, 0)
        group, loop, index = place
        return (group, frame if loop else 0, index, int(state))


# -- networks ---------------------------------------------------------------------------------------------------------


class NetworkTrace:
    """The golden tensors and the steps of a network case, computed when they are first asked for."""

    def __init__(self, case: Case, tables: Tables | None = None) -> None:
        self.case, self.tables = case, tables or {}
        self._values: dict[str, Array] = {}

    @cached_property
    def _model(self) -> Any:
        return model_with(self.case, self.tables)

    @property
    def program(self) -> Program:
        program: Program = self._model.program
        return program

    def form(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Format and whole shape of a tensor, without running anything."""
        tensor = self.program.tensors[name]
        frames = -(-len(self.case.tensors["pcm_in"].values) // 96)
        return tensor.format.kind, (frames, *tensor.shape)

    def values(self, names: Sequence[str]) -> Mapping[str, Array]:
        """The golden tensors of these names."""
        missing = [name for name in names if name not in self._values]
        if missing:
            self._values |= self._model.trace(self.case.tensors["pcm_in"].values, missing)
        return {name: self._values[name] for name in names}

    def alone(self, step: Step) -> Case:
        """One step of the network as a case of its own, from the first frame on."""
        names = [*dict.fromkeys(ref.tensor for ref in step.inputs), *step.outputs]
        empty = replace(
            self.case,
            id=f"{self.case.id}/{slug(step.name)}",
            comment=f"step {step.name} of {self.case.id} alone",
            rules=rules_of(step),
            tensors={},
            steps=(),
            network=None,
            files={},
        )
        values = self.values(names)
        count = len(next(iter(values.values())))
        return program_slice(empty, self.program, [replace(step, loop="")], values, (0, count))
