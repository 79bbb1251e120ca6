"""Run a case through refimpl: what the expected tensors are made by, and what they are verified against."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golden_vectors.case import DTYPES, Case
from golden_vectors.registry import called, is_function
from refimpl.errors import InputError
from refimpl.numerics.activation import ActivationTables
from refimpl.program import Program, State, Tensor
from refimpl.session import Model
from refimpl.weights_io import Container, default_weights, load_container

Array = np.ndarray[Any, np.dtype[Any]]


def execute(case: Case) -> dict[str, Array]:
    """Every tensor of the roles ``expected`` and ``next_state``, computed anew from the others."""
    if case.network is not None:
        return run_network(case)
    if is_function(case.steps[0].operator):
        return _run_functions(case)
    return _run_program(case)


def _run_functions(case: Case) -> dict[str, Array]:
    values = {name: tensor.values for name, tensor in case.tensors.items() if tensor.role == "input"}
    for step in case.steps:
        for name in step.outputs:
            tensor = case.tensors[name]
            values[name] = np.zeros(tensor.values.shape, DTYPES[tensor.format])
        inputs, outputs = [values[ref.tensor] for ref in step.inputs], [values[name] for name in step.outputs]
        called(step.operator)(*inputs, *step.constants, *outputs)
    return {name: values[name] for name in case.names("expected")}


def program_of(case: Case) -> tuple[Program, dict[str, Array], State]:
    """The case's steps as a program, its given frames, and the state that it starts from."""
    tensors, given = {}, {}
    for name, tensor in case.tensors.items():
        if tensor.role in ("input", "expected"):
            tensors[name] = Tensor(name, tensor.values.shape[1:], tensor.form)
        if tensor.role == "input":
            given[name] = tensor.values
    program = Program(tensors, case.steps, next(iter(given)), ())
    state = {name: case.tensors[f"{name}.past"].values.copy() for name, past in program.past.items() if past}
    return program, given, state


def _run_program(case: Case) -> dict[str, Array]:
    program, given, state = program_of(case)
    expected = case.names("expected")
    values = program.run(given, state, expected)
    found = {name: values[name] for name in expected}
    return found | {f"{name}.next": array for name, array in state.items() if f"{name}.next" in case.tensors}


def container_of(case: Case) -> Container:
    """The weights of a network case: its own file, or the shipped container of the same digest."""
    assert case.network is not None
    if case.network.container == "released":
        container = load_container(default_weights())
        if container.digest != case.network.sha256:
            raise InputError(
                f"case {case.id}: made with released weights {case.network.sha256[:12]}, this release ships "
                f"{container.digest[:12]}; use the suite of this release"
            )
        return container
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case.network.container
        path.write_bytes(case.files[case.network.container])
        container = load_container(path)
    if container.digest != case.network.sha256:
        raise InputError(f"case {case.id}: {case.network.container} is not the container of its digest; fetch it again")
    return container


def run_network(case: Case) -> dict[str, Array]:
    """PCM to PCM by a stream in the case's chunks, or offline; other expected tensors and all CRCs from a trace."""
    model = model_of(case)
    pcm, network = case.tensors["pcm_in"].values, case.network
    assert network is not None
    found: dict[str, Array] = {}
    if network.chunks is None:
        found["pcm_out"] = model.separate(pcm)
    else:
        stream, at, parts, counts = model.stream(), 0, [], []
        for size in network.chunks:
            parts.append(stream.push(pcm[at : at + size]))
            counts.append(parts[-1].shape[1])
            at += size
        parts.append(stream.flush())
        counts.append(parts[-1].shape[1])
        found["pcm_out"] = np.concatenate(parts, 1)
        found["emitted"] = np.array(counts, np.int32)
    traced = [name for name in case.names("expected") if name not in found]
    if traced:
        tensors = model.trace(pcm, traced)
        found |= {name: tensors[name][: len(case.tensors[name].values)] for name in traced}
    return found


def model_of(case: Case, tables: ActivationTables | None = None) -> Model:
    """A network case's model on the readable kernels, which are the specification; ``tables`` are a device's own."""
    return Model(container_of(case), case.preset or "fp32", case.profile or "gap9", tables, kernels="reference")


def digests_of(case: Case) -> dict[str, tuple[str, ...]]:
    """CRC-32 of every tensor of a network case, frame by frame."""
    return {name: crc32(values) for name, values in model_of(case).trace(case.tensors["pcm_in"].values).items()}


def crc32(values: Array) -> tuple[str, ...]:
    """CRC-32 (the polynomial of zlib and PNG) of each frame's little-endian bytes, eight hexadecimal digits."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return tuple(f"{zlib.crc32(frame.tobytes()):08x}" for frame in little)


def first_difference(case: Case, found: Mapping[str, Array]) -> str | None:
    """Where ``found`` first differs from the case's tensors, bit by bit, as one line; None where it does not."""
    for name in case.names("expected", "next_state"):
        expected, actual = case.tensors[name].values, found[name]
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            return f"{name}: {actual.dtype} {list(actual.shape)}, not {expected.dtype} {list(expected.shape)}"
        words = f"u{expected.dtype.itemsize}"
        unequal = np.ascontiguousarray(expected).view(words) != np.ascontiguousarray(actual).view(words)
        if expected.dtype.kind == "f":  # sign and payload of a NaN are outside the guarantee
            unequal &= ~(np.isnan(expected) & np.isnan(actual))
        if unequal.any():
            at = tuple(int(v) for v in np.argwhere(unequal)[0])
            place = "".join(f"[{v}]" for v in at)
            return f"{name}{place} is {actual[at]}, expected {expected[at]}; {int(unequal.sum())} of {unequal.size} differ"
    return None


def verify(case: Case) -> str | None:
    """Run the case and compare; a network's CRCs too."""
    difference = first_difference(case, execute(case))
    if difference is None and case.network is not None and case.network.crc32:
        found = digests_of(case)
        for name, frames in case.network.crc32.items():
            if found.get(name) != frames:
                at = next((t for t, pair in enumerate(zip(found.get(name, ()), frames, strict=False)) if pair[0] != pair[1]), 0)
                return f"{name}: CRC-32 of frame {at} differs"
    return difference
