"""Devices whose sigmoid and tanh are tables of their own: judged with a tolerance, or by the table that they hand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.runner import Judged, Options, judge, judge_dumps
from conformance.tables import cited, model_with, read_table, replaced, table_of, with_tables
from golden_vectors.case import Case
from golden_vectors.execute import execute
from golden_vectors.suite.making import one_step
from refimpl.errors import InputError
from refimpl.numerics.tables import shipped
from tests.conformance_devices import Local, network_case, slice_case

Array = np.ndarray[Any, np.dtype[Any]]
Device = Callable[[Case], Mapping[str, Any]]


def other(name: str) -> Array:
    """The shipped table with every second entry one ULP larger in magnitude."""
    table = shipped(name).copy()
    finite = (table[::2] & 0x7FFF) < 0x7F00
    table[::2][finite] += 1
    table.flags.writeable = False
    return table


OWN = {"sigmoid_bf16": other("sigmoid_bf16"), "tanh_bf16": other("tanh_bf16")}


def device(case: Case) -> Mapping[str, Any]:
    """refimpl with these tables, its networks too."""
    if case.network is None:
        return execute(replace(case, steps=replaced(case.steps, OWN)))
    model, pcm = model_with(case, OWN), case.tensors["pcm_in"].values
    return model.trace(pcm) | {"pcm_out": model.separate(pcm)}


def judged(case: Case, function: Device = device, **options: Any) -> Judged:
    return judge(case, Local(function), Options(diagnose=False, **options))


@pytest.fixture(scope="module")
def lstm() -> Case:
    return slice_case("mixlstm", "block1.lstm", "lstm")


def test_it_fails_at_its_lookups(lstm: Case) -> None:
    found = judged(lstm)
    assert found.verdict == "fail" and {failure.operator for failure in found.failures} == {"lookup"}


def test_with_a_tolerance_on_both_tables_the_rest_is_exact(lstm: Case) -> None:
    both = dict.fromkeys(OWN, 1)
    assert judged(lstm, tolerances=both).verdict == "tolerated"
    found = judged(lstm, tolerances={"sigmoid_bf16": 1})
    wrong = {failure.step for failure in found.failures}
    assert found.verdict == "fail" and wrong == {s.name for s in lstm.steps if table_of(s) == "tanh_bf16"}

    def and_more(case: Case) -> Mapping[str, Any]:
        values = dict(device(case))
        for step in case.steps:
            if step.operator == "multiply_bf16" and step.name == "block1.lstm.ig":
                values[step.outputs[0]] = values[step.outputs[0]] ^ np.uint16(1)
        return values

    found = judged(lstm, and_more, tolerances=both)
    assert found.verdict == "fail" and "block1.lstm.ig" in {failure.step for failure in found.failures}
    assert not {failure.operator for failure in found.failures} & {"lookup"}


def test_with_its_tables_it_passes(lstm: Case) -> None:
    assert judged(lstm, tables=OWN).verdict == "pass"
    assert judged(lstm, tables=OWN, inject="always").verdict == "pass"
    assert judged(lstm, tables={"tanh_bf16": OWN["tanh_bf16"]}).verdict == "fail"
    assert judged(lstm, execute, tables=OWN).verdict == "fail"


def test_networks_too() -> None:
    case = network_case("mixlstm")
    assert judged(case).verdict == "fail"
    assert judged(case, tables=OWN).verdict == "pass"
    assert judged(case, tolerances=dict.fromkeys(OWN, 1)).verdict == "tolerated"
    chunks = network_case("mixlstm", (100, 0, 150))
    golden = with_tables(chunks, OWN)
    assert np.array_equal(golden.tensors["pcm_out"].values, with_tables(case, OWN).tensors["pcm_out"].values)
    assert np.array_equal(golden.tensors["emitted"].values, chunks.tensors["emitted"].values)


def test_the_shipped_table_itself(lstm: Case) -> None:
    case = one_step(
        "numerics/shipped_table/tanh", "a table", ["B-6"], "shipped_table", {}, ("tanh_bf16",), {"y": ("bf16", (65536,))}
    )
    assert judged(case, lambda given: {"y": OWN["tanh_bf16"]}, tables=OWN).verdict == "pass"
    assert judged(case, lambda given: {"y": OWN["tanh_bf16"]}).verdict == "fail"


def test_the_device_sees_the_names_of_the_shipped_tables(lstm: Case) -> None:
    golden = with_tables(lstm, OWN)
    assert {table_of(s) for s in golden.steps} == {""}
    assert [table_of(s) for s in cited(golden, OWN).steps] == [table_of(s) for s in lstm.steps]
    encoder = slice_case("int8", "encoder")
    assert with_tables(encoder, OWN) is encoder and with_tables(lstm, {}) is lstm


def test_dumps_are_judged_by_the_tables_too(lstm: Case, tmp_path: Path) -> None:
    for name, values in device(lstm).items():
        np.save(tmp_path / f"{name}.npy", values)
    assert judge_dumps(lstm, tmp_path, Options(tables=OWN)).verdict == "pass"
    assert judge_dumps(lstm, tmp_path, Options(diagnose=False)).verdict == "fail"
    both = Options(tolerances=dict.fromkeys(OWN, 1), diagnose=False)
    assert judge_dumps(lstm, tmp_path, both).verdict == "tolerated"


def test_tables_are_read_and_refused(tmp_path: Path) -> None:
    own = OWN["tanh_bf16"]
    np.save(tmp_path / "t.npy", own)
    own.tofile(tmp_path / "t.bin")
    for name in ("t.npy", "t.bin"):
        assert np.array_equal(read_table("tanh_bf16", tmp_path / name), own)
    np.save(tmp_path / "short.npy", own[:256])
    for name, path, words in (
        ("hann_q30", "t.npy", "no table that a device may hand in"),
        ("tanh_bf16", "absent.npy", "no such file"),
        ("tanh_bf16", "short.npy", "256"),
    ):
        with pytest.raises(InputError, match=words):
            read_table(name, tmp_path / path)
