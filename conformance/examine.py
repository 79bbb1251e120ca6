"""What a device showed of one case against what it should have shown: by tensor, by step, and what went wrong first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from conformance.compare import Comparison, compare_digests, compare_tensors
from conformance.dut import Shown, tensor_names
from conformance.inject import BEFORE, NetworkTrace, Order, required
from conformance.tables import table_of
from golden_vectors.case import Case
from golden_vectors.execute import crc32
from golden_vectors.structure import is_framed
from refimpl.program import Step
from refimpl.session import HOP

Array = np.ndarray[Any, np.dtype[Any]]
BAD = ("differs", "unreadable")
SEVERITY = ("equal", "tolerated", "differs", "unreadable")

# The axes of an operator's outputs, where they are not frame, bin, channel.
AXES: dict[str, tuple[tuple[str, ...], ...]] = {
    "stft": (("frame", "bin", "part"), ("frame", "element")),
    "istft": (("frame", "speaker", "sample"), ("frame", "speaker", "sample")),
    "istft_f32": (("frame", "speaker", "sample"), ("frame", "speaker", "sample")),
    "bf16_to_block": (("frame", "speaker", "bin", "part"), ("frame", "speaker")),
    "code_to_block": (("frame", "speaker", "bin", "part"), ("frame", "speaker")),
    "overlap_add": (("frame", "speaker", "sample"),),
    "overlap_add_f32": (("frame", "speaker", "sample"),),
    "to_pcm": (("frame", "speaker", "sample"), ("frame", "speaker")),
    "to_pcm_f32": (("frame", "speaker", "sample"), ("frame", "speaker")),
}
NETWORK_AXES = {"pcm_out": ("speaker", "sample"), "emitted": ("chunk",)}


@dataclass(frozen=True)
class StepState:
    """What is known of a step: ``status`` of its tensors end to end (``not shown`` where there are none)."""

    name: str
    operator: str
    status: str
    inputs_right: bool  # everything that it reads was given or shown, and is right


class Examination:
    """The comparisons of one case, and what follows from them."""

    def __init__(
        self, case: Case, shown: Shown, tolerances: Mapping[str, int] | None = None, trace: NetworkTrace | None = None
    ) -> None:
        self.case, self.shown = case, shown
        self.tolerances = tolerances or {}
        self.trace = trace if trace is not None or case.network is None else NetworkTrace(case)
        names = tensor_names(case)
        found = (self._compare(name) for name in names)
        self.comparisons: dict[str, Comparison] = {c.tensor: c for c in found if c is not None}

    @cached_property
    def order(self) -> Order:
        return Order(self.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The case's steps; a network's are those of its program."""
        return self.case.steps if self.trace is None else self.trace.program.steps

    @property
    def missing(self) -> list[str]:
        """Required tensors that are not shown, or not all frames of them."""
        found = self.comparisons
        return [n for n in required(self.case) if n not in found or (found[n].status not in BAD and not found[n].complete)]

    @property
    def verdict(self) -> str:
        """``fail``, ``missing``, ``tolerated`` or ``pass``."""
        statuses = {c.status for c in self.comparisons.values()}
        if statuses & set(BAD):
            return "fail"
        if self.missing:
            return "missing"
        return "tolerated" if "tolerated" in statuses else "pass"

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _compare(self, name: str) -> Comparison | None:
        """One tensor; None where it is not shown."""
        form, shape = self._form(name)
        if name in self.shown.unreadable:
            return Comparison(name, form, shape, "unreadable", explanation=self.shown.unreadable[name])
        if name in self.shown.dumps:
            return self._compare_dump(name, form, shape)
        if name in self.shown.digests:
            return compare_digests(name, form, shape, self._golden_digests(name), self.shown.digests[name])
        return None

    def _compare_dump(self, name: str, form: str, shape: tuple[int, ...]) -> Comparison:
        dump, tensor = self.shown.dumps[name], self.case.tensors.get(name)
        if tensor is None:
            frames = (dump.first, dump.stop)
            if crc32(dump.values) == self._golden_digests(name)[dump.first : dump.stop]:
                complete = frames == (0, shape[0])
                return Comparison(name, form, shape, "equal", dump.values.size, complete=complete, frames=frames)
            assert self.trace is not None
            golden = self.trace.values([name])[name]
        else:
            golden = tensor.values
        return compare_tensors(
            name,
            form,
            golden,
            dump.values,
            self._axes(name, len(shape)),
            time_axis=self._time_axis(name),
            first=self._first_frame(name),
            tolerance=self._tolerance(name),
        )

    def _form(self, name: str) -> tuple[str, tuple[int, ...]]:
        tensor = self.case.tensors.get(name)
        if tensor is not None:
            return tensor.format, tensor.values.shape
        if name in self.shown.dumps and self.trace is not None:
            return self.trace.form(name)
        assert self.case.network is not None
        return "", (len(self.case.network.crc32[name]),)

    def _golden_digests(self, name: str) -> tuple[str, ...]:
        if name in self.case.tensors:
            return crc32(np.atleast_1d(self.case.tensors[name].values))
        assert self.case.network is not None
        return self.case.network.crc32[name]

    def _axes(self, name: str, rank: int) -> tuple[str, ...]:
        if name in NETWORK_AXES and self.case.network is not None:
            return NETWORK_AXES[name]
        if self.case.network is None and not is_framed(self.case):
            return ()
        step = self.order.step_of(name)
        if step is not None and step.operator in AXES:
            return AXES[step.operator][step.outputs.index(name.removesuffix(".next"))]
        return {2: ("frame", "element"), 3: ("frame", "bin", "channel")}.get(rank, ())

    def _time_axis(self, name: str) -> int | None:
        if self.case.network is not None and name == "pcm_out":
            return 1
        return 0 if self.case.network is not None or is_framed(self.case) else None

    def _first_frame(self, name: str) -> int:
        """The frame that the first index is: where a dump starts, and of a next state what the last frames are."""
        if name in self.case.names("next_state"):
            frames = {len(t.values) for t in self.case.tensors.values() if t.role in ("input", "expected")}
            return max(frames) - len(self.case.tensors[name].values)
        return self.shown.dumps[name].first

    def _tolerance(self, name: str) -> int:
        if not self.tolerances:
            return 0
        step = self.order.step_of("pcm" if self.case.network is not None and name == "pcm_out" else name)
        return 0 if step is None else max(self.tolerances.get(key, 0) for key in (step.operator, table_of(step)))

    # -- steps --------------------------------------------------------------------------------------------------------

    def first_divergence(self) -> Comparison | None:
        """The first bad tensor in the order of computation, not of names."""
        bad = [c for c in self.comparisons.values() if c.status in BAD]
        return min(bad, key=lambda c: self.order.key(c.tensor, self._frame(c)), default=None)

    @staticmethod
    def _frame(comparison: Comparison) -> int:
        return comparison.first.index[0] if comparison.first is not None and comparison.first.index else 0

    def states(self) -> list[StepState]:
        """Every step of which something was shown; of a case all steps."""
        found = []
        for step in self.steps:
            statuses = [self.comparisons[name].status for name in step.outputs if name in self.comparisons]
            if self.case.network is not None and not statuses:
                continue
            worst = max(statuses, key=SEVERITY.index, default="not shown")
            found.append(StepState(step.name, step.operator, worst, self.inputs_right(step)))
        return found

    def inputs_right(self, step: Step) -> bool:
        """Whether all that a step reads was given, or was shown and is right."""
        return all(self._given(ref.tensor) or self._right(ref.tensor) for ref in step.inputs)

    def inputs_shown(self, step: Step) -> bool:
        return all(self._given(ref.tensor) or self._whole(ref.tensor) for ref in step.inputs)

    def _given(self, name: str) -> bool:
        return self.order.step_of(name) is None

    def _whole(self, name: str) -> bool:
        found = self.comparisons.get(name)
        return found is not None and found.complete and found.status != "unreadable"

    def _right(self, name: str) -> bool:
        return self._whole(name) and self.comparisons[name].status == "equal"

    def own_inputs(self, step: Step) -> dict[str, Array]:
        """The device's own tensors among those that a step reads, where they are shown whole; named as in the step alone."""
        names = dict.fromkeys(ref.tensor for ref in step.inputs)
        dumps = self.shown.dumps
        own = {name: dumps[name].values for name in names if name in dumps and self._whole(name)}
        return {name + BEFORE if name in step.outputs else name: values for name, values in own.items()}

    def whole(self, step: Step) -> bool:
        """Whether all that a step reads is given or shown, and all that it writes is shown, as tensors."""
        read = [ref.tensor for ref in step.inputs if not self._given(ref.tensor)]
        return all(name in self.shown.dumps and self._whole(name) for name in (*read, *step.outputs))

    def by_own_inputs(self, step: Step, single: Case) -> list[Comparison]:
        """What a step wrote against the golden operator on what the device gave to it; ``single`` is the step alone.

        ValueError or IndexError where the operator has no result for that.
        """
        from conformance.diagnosis.site import site_of  # loads much, and is needed only where something failed

        site = site_of(single, step.name, self.outputs(step), self.own_inputs(step))
        if site is None:
            return []
        return [
            compare_tensors(
                name,
                single.tensors[name].format,
                golden,
                site.actual[name],
                self._axes(name, golden.ndim),
                tolerance=self._tolerance(name),
            )
            for name, golden in site.golden.items()
        ]

    def outputs(self, step: Step) -> dict[str, Array]:
        """What the device shows of a step's outputs, where it is whole."""
        return {name: self.shown.dumps[name].values for name in step.outputs if name in self.shown.dumps and self._whole(name)}


def network_place(comparison: Comparison) -> Comparison:
    """A difference in ``pcm_out`` with the frame that its sample belongs to."""
    first = comparison.first
    if comparison.tensor != "pcm_out" or first is None or len(first.index) != 2:
        return comparison
    return replace(comparison, first=replace(first, place=f"{first.place} (frame {first.index[1] // HOP})"))


def worst(statuses: Sequence[str]) -> str:
    """The most serious of some statuses of tensors; ``equal`` of none."""
    return max(statuses, key=SEVERITY.index, default="equal")
