"""Cases for a device whose sigmoid and tanh are tables of its own: golden tensors computed by them, everything else exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from golden_vectors.case import Case, shipped_name
from golden_vectors.dumps import read_dump
from golden_vectors.execute import crc32, execute, model_of
from refimpl.errors import InputError
from refimpl.numerics.activation import ActivationTables, variant
from refimpl.numerics.tables import SIGMOID, TANH, shipped
from refimpl.program import Step
from refimpl.session import Model

Array = np.ndarray[Any, np.dtype[Any]]
Tables = Mapping[str, Array]
NAMES = ("sigmoid_bf16", "tanh_bf16")


def read_table(name: str, path: Path) -> Array:
    """A table by its shipped name, 65,536 BF16 patterns by the pattern of the argument; :class:`InputError` else."""
    if name not in NAMES:
        raise InputError(f"{name}: no table that a device may hand in; name {' or '.join(NAMES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; dump 65,536 BF16 patterns as .npy, .bin or .hex")
    table: Array = np.ascontiguousarray(read_dump(path, "bf16", (65536,)))
    table.flags.writeable = False
    return table


def table_of(step: Step) -> str:
    """The name of the shipped table that a lookup reads; nothing for other steps."""
    if step.operator != "lookup":
        return ""
    return next((shipped_name(value) for value in step.constants if isinstance(value, np.ndarray)), "")


def replaced(steps: tuple[Step, ...], tables: Tables) -> tuple[Step, ...]:
    """The steps with these tables in place of the shipped ones."""

    def other(step: Step) -> Step:
        table = tables.get(table_of(step))
        if table is None:
            return step
        return replace(step, constants=tuple(table if isinstance(c, np.ndarray) else c for c in step.constants))

    return tuple(other(step) for step in steps)


def cited(case: Case, tables: Tables) -> Case:
    """The case as a device gets it: its steps name the shipped tables."""
    if not tables:
        return case
    names = {id(table): name for name, table in tables.items()}

    def other(step: Step) -> Step:
        return replace(step, constants=tuple(shipped(names[id(c)]) if id(c) in names else c for c in step.constants))

    return replace(case, steps=tuple(other(step) for step in case.steps))


def with_tables(case: Case, tables: Tables) -> Case:
    """The case with all golden tensors as these tables give them."""
    if not tables:
        return case
    if case.network is not None:
        return _network(case, tables)
    if [step.operator for step in case.steps] == ["shipped_table"]:
        step = case.steps[0]
        own = tables.get(str(step.constants[0]))
        return case if own is None else case.with_values({step.outputs[0]: own})
    steps = replaced(case.steps, tables)
    if all(new is old for new, old in zip(steps, case.steps, strict=True)):
        return case
    changed = replace(case, steps=steps)
    return changed.with_values(execute(changed))


def model_with(case: Case, tables: Tables) -> Model:
    """A network case's model with these tables."""
    own = {SIGMOID: tables.get("sigmoid_bf16"), TANH: tables.get("tanh_bf16")}
    exact = variant("exact").bf16
    whole = {function: exact[function] if table is None else table for function, table in own.items()}
    return model_of(case, ActivationTables("the device's own", whole)) if tables else model_of(case)


def _network(case: Case, tables: Tables) -> Case:
    """All of a network's golden facts; what is emitted when depends on no table."""
    network = case.network
    assert network is not None
    model, pcm = model_with(case, tables), case.tensors["pcm_in"].values
    values = {"pcm_out": model.separate(pcm[: sum(network.chunks)] if network.chunks else pcm)}
    names = [name for name in case.names("expected") if name not in ("pcm_out", "emitted")]
    traced = model.trace(pcm, list(dict.fromkeys((*names, *network.crc32)))) if names or network.crc32 else {}
    values |= {name: traced[name][: len(case.tensors[name].values)] for name in names}
    digests = {name: crc32(traced[name]) for name in network.crc32}
    return replace(case.with_values(values), network=replace(network, crc32=digests))
