"""What the schema cannot say of a case: that its steps, tensors and states belong together, so that it can be run.

A case that passes here may still be wrong, but running it ends in numbers or in a refusal, not in a KeyError. The sizes inside
a kernel's arrays are not checked: a suite is trusted as far as its manifest is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from golden_vectors.registry import is_function, parameter_names
from refimpl.errors import InputError
from refimpl.presets import MORE, NAMES
from refimpl.profiles import PROFILES
from refimpl.program import DTYPES as PROGRAM_FORMATS
from refimpl.program import Step

if TYPE_CHECKING:
    from golden_vectors.case import Case


def check_structure(case: Case) -> None:
    """:class:`InputError` says what does not fit; the message names no file."""
    if case.network is not None:
        _check_network(case)
        return
    if not case.steps:
        raise InputError("neither steps nor a network")
    kinds = {is_function(step.operator) for step in case.steps}
    if len(kinds) != 1:
        raise InputError("functions and operators in one case")
    if not case.names("input") and kinds == {False}:
        raise InputError("no input tensor")
    _check_names(case)
    if kinds == {False}:
        _check_frames(case)
        _check_states(case)


def _check_names(case: Case) -> None:
    """Every step has the parameters of its operator; every tensor is made before it is read, and made once."""
    have = set(case.names("input"))
    made: list[str] = []
    for step in case.steps:
        wanted = parameter_names(step.operator)
        if len(step.inputs) + len(step.constants) + len(step.outputs) != len(wanted):
            raise InputError(f"step {step.name!r} does not have the parameters {', '.join(wanted)} of {step.operator}")
        for ref in step.inputs:
            if (ref.current and ref.tensor not in have) or not (ref.current or ref.past):
                raise InputError(f"step {step.name!r} reads {ref.tensor!r}, which nothing gives before it")
        for name in step.outputs:
            if name not in case.tensors or case.tensors[name].role != "expected" or name in made:
                raise InputError(f"step {step.name!r} writes {name!r}, which is not a tensor of role expected of its own")
            made.append(name)
            have.add(name)
    lost = sorted(set(case.names("expected")) - set(made))
    if lost:
        raise InputError(f"expected tensor {lost[0]!r} is written by no step")


def _check_frames(case: Case) -> None:
    """Tensors of a program have formats that operators know, and one number of frames."""
    names = case.names("input", "expected")
    for name in names:
        if case.tensors[name].format not in PROGRAM_FORMATS:
            raise InputError(f"tensor {name!r} is {case.tensors[name].format}, which no operator reads or writes")
    if any(case.tensors[name].values.ndim == 0 for name in names):
        raise InputError("a tensor without frames")
    counts = {len(case.tensors[name].values) for name in names}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"tensors of {', '.join(map(str, sorted(counts)))} frames in one case")


def _check_states(case: Case) -> None:
    """A tensor whose past is read has that many past frames in ``NAME.past``; ``NAME.next`` has the same form."""
    past = past_frames(case.steps)
    for name, count in past.items():
        if name not in case.tensors or case.tensors[name].role not in ("input", "expected"):
            raise InputError(f"the past of {name!r} is read, which is no input and no expected tensor")
        tensor, state = case.tensors[name], case.tensors.get(f"{name}.past")
        if state is None or state.role != "state":
            raise InputError(f"the past of {name!r} is read, but there is no state tensor {name + '.past'!r}")
        for other in (state, case.tensors.get(f"{name}.next", state)):
            if other.values.shape != (count, *tensor.values.shape[1:]) or other.format != tensor.format:
                raise InputError(
                    f"the state of {name!r} is not {count} frames of {tensor.format} {list(tensor.values.shape[1:])}"
                )
    wanted = {f"{name}.{end}" for name in past for end in ("past", "next")}
    lost = sorted(set(case.names("state", "next_state")) - wanted)
    if lost:
        raise InputError(f"state {lost[0]!r} is read by no step")


def past_frames(steps: tuple[Step, ...]) -> dict[str, int]:
    """How many past frames of each tensor some step reads; tensors without are left out."""
    past: dict[str, int] = {}
    for ref in (ref for step in steps for ref in step.inputs):
        past[ref.tensor] = max(past.get(ref.tensor, 0), ref.past)
    return {name: count for name, count in past.items() if count}


def _check_network(case: Case) -> None:
    assert case.network is not None
    ranks = {"pcm_in": ("input", 1), "pcm_out": ("expected", 2)}
    for name, (role, rank) in ranks.items():
        tensor = case.tensors.get(name)
        if tensor is None or (tensor.role, tensor.format, tensor.values.ndim) != (role, "int16", rank):
            raise InputError(f"a network case needs {name!r}: {role}, int16, rank {rank}")
    if case.preset not in (*NAMES, *MORE) or case.profile not in PROFILES:  # no path of a preset file: a case stands alone
        raise InputError("a network case needs a shipped preset and a profile")
    chunked = case.network.chunks is not None
    emitted = case.tensors.get("emitted")
    if chunked != (emitted is not None) or (emitted is not None and emitted.role != "expected"):
        raise InputError("chunks and the expected tensor 'emitted' go together")
    if case.network.chunks is not None and sum(case.network.chunks) != len(case.tensors["pcm_in"].values):
        raise InputError("the chunks do not add up to pcm_in")


def is_framed(case: Case) -> bool:
    """Whether the first axis of the case's tensors counts frames: every case of operators, none of functions or networks."""
    return case.network is None and not is_function(case.steps[0].operator)
