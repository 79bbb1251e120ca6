"""Small golden cases, and devices that are right or wrong in a known way, for the tests of the conformance kit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from conformance.dut import Outcome, write_given
from conformance.host import described, write_outputs
from conformance.inject import required
from golden_vectors.case import Case, Network, read_case
from golden_vectors.execute import crc32, digests_of, execute, model_of, run_network
from golden_vectors.suite.making import finish, program_slice, tensor
from refimpl.program import OPERATORS, Step
from refimpl.session import Model
from tests.tiny import noise, tiny_container

Array = np.ndarray[Any, np.dtype[Any]]
Values = dict[str, Array]
FIRST, STOP = 2, 5  # the frames of the small cases: in the middle of a stream


@cache
def traced(preset: str) -> tuple[Model, Values]:
    model = Model(tiny_container(), preset, kernels="reference")
    return model, model.trace(noise(96 * STOP, 7))


@cache
def slice_case(preset: str, prefix: str = "", level: str = "layers") -> Case:
    """The steps whose names start with a prefix, three frames of them, with their states."""
    model, values = traced(preset)
    steps = [step for step in model.program.steps if step.name.startswith(prefix)]
    case = Case(f"{level}/tiny-{preset}/{prefix or 'all'}", "a slice of a tiny network", ("P-1",), {}, preset=preset)
    return program_slice(case, model.program, steps, values, (FIRST, STOP), keep_next=True)


@cache
def network_case(preset: str = "int8", chunks: tuple[int, ...] | None = None) -> Case:
    """The whole tiny network, with the CRC-32 of every tensor."""
    pcm, weights = noise(250, 3), tiny_container()
    tensors = {"pcm_in": tensor("input", "int16", pcm), "pcm_out": tensor("expected", "int16", np.zeros((2, 250)))}
    if chunks is not None:
        tensors["emitted"] = tensor("expected", "int32", np.zeros(len(chunks) + 1))
    network = Network("weights.safetensors", weights.digest, weights.config.to_dict(), chunks)
    name = f"network/tiny-{preset}/{'speech' if chunks is None else 'chunks'}"
    case = Case(name, "a tiny network", ("P-4",), tensors, profile="gap9", preset=preset, network=network, files=weight_files())
    return replace(finish(case), network=replace(network, crc32=digests_of(case)))


@cache
def weight_files() -> dict[str, bytes]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        tiny_container().save(path)
        return {path.name: path.read_bytes()}


# -- devices that the kit calls in this process -----------------------------------------------------------------------


@dataclass
class Local:
    """A device of a function, without a process; ``calls`` are the ids of the cases that it was given."""

    function: Callable[[Case], Mapping[str, Any]]
    can_inject: bool = True
    name: str = "local"
    calls: list[str] = field(default_factory=list)

    def fingerprint(self, case: Case) -> str:
        return self.name

    def stop(self) -> None:
        pass

    def run(self, case: Case, scratch: Path, timeout: float) -> Outcome:
        self.calls.append(case.id)
        given, output = write_given(case, scratch, answers=True)
        try:
            write_outputs(self.function(read_case(given)), output, given)
        except NotImplementedError as error:
            return Outcome("unsupported", described(error), 0.0, output)
        except Exception as error:
            return Outcome("error", described(error), 0.0, output)
        return Outcome("ran", "", 0.0, output)


def ends(function: Callable[[Case], Mapping[str, Any]]) -> Callable[[Case], Values]:
    """The same device, showing only what is required."""

    def run(case: Case) -> Values:
        found = function(case)
        return {name: found[name] for name in required(case)}

    return run


def with_wrong_step(name: str, change: Callable[[Array], None], frame: int | None = None) -> Callable[[Case], Values]:
    """refimpl, but what step ``name`` writes is changed (in one frame, or in each), and everything behind it follows.

    Single steps of the kit have the step under the same name, so alone it is as wrong.
    """

    def run(case: Case) -> Values:
        # One operator call per frame, so that a change reaches the frames behind it. Frames are told apart by counting.
        steps = tuple(step if step.name != name else replace(step, operator="changed") for step in case.steps)
        looped = tuple(replace(step, loop="one") for step in steps)
        step = next((step for step in case.steps if step.name == name), None)
        if step is None:
            return execute(case)
        counter = iter(range(1 << 20))

        def changed(*arguments: Any) -> None:
            OPERATORS[step.operator](*arguments)
            if frame in (None, next(counter)):
                change(arguments[-len(step.outputs)])

        OPERATORS["changed"] = changed
        try:
            return execute(replace(case, steps=looped))
        finally:
            del OPERATORS["changed"]

    return run


def plus_one(values: Array) -> None:
    """One more in the sixth element of the frame."""
    values.reshape(-1)[5] += 1


def wrong_operator(operator: str, change: Callable[[Array], None]) -> Callable[[Case], Values]:
    """refimpl, whole networks too, with an operator whose first output is changed; shows every tensor."""

    def run(case: Case) -> Values:
        right = OPERATORS[operator]

        def changed(*arguments: Any) -> None:
            right(*arguments)
            change(arguments[-1])

        OPERATORS[operator] = changed
        try:
            if case.network is None:
                return execute(case)
            return model_of(case).trace(case.tensors["pcm_in"].values) | run_network(case)
        finally:
            OPERATORS[operator] = right

    return run


def as_digests(values: Mapping[str, Array]) -> dict[str, list[str]]:
    return {name: list(crc32(array)) for name, array in values.items()}


def step_named(case: Case, name: str) -> Step:
    return next(step for step in case.steps if step.name == name)


# -- devices that the kit makes in processes of their own -------------------------------------------------------------


class Reference:
    def run(self, case: Case) -> Values:
        return execute(case)


class Moody:
    """Does what the case's comment says."""

    def run(self, case: Case) -> Any:
        moods: dict[str, Callable[[], Any]] = {
            "hang": lambda: time.sleep(600),
            "crash": lambda: os.kill(os.getpid(), 11),
            "exit": lambda: os._exit(7),
            "raise": lambda: [][0],
            "refuse": self.refuse,
            "list": lambda: [1, 2],
            "object": lambda: {name: np.array([object()]) for name in case.names("expected")},
            "print": lambda: print("x" * (1 << 20)) or execute(case),  # type: ignore[func-returns-value]
            "more": lambda: execute(case) | {"../../escape": np.zeros(3), "unasked": np.zeros(3)},
        }
        return moods.get(case.comment, lambda: execute(case))()

    def refuse(self) -> None:
        raise NotImplementedError("no such operator here")


class NotMade:
    def __init__(self) -> None:
        raise RuntimeError("no board is connected")
