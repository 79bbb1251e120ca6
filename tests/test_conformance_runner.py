"""What the kit finds in devices that are wrong in a known way: the first divergence, step by step, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.dut import Reading, Shown
from conformance.examine import Examination
from conformance.report import case_schema
from conformance.runner import HANDED_ON, Judged, Options, document, judge, judge_dumps
from golden_vectors.case import Case
from golden_vectors.dumps import Dump
from golden_vectors.execute import execute, run_network
from golden_vectors.layouts import feature_maps, map_features
from golden_vectors.schema import check
from refimpl.presets import NAMES
from tests.conformance_devices import (
    Local,
    as_digests,
    ends,
    network_case,
    plus_one,
    slice_case,
    with_wrong_step,
    wrong_operator,
)

Array = np.ndarray[Any, np.dtype[Any]]
Device = Callable[[Case], Mapping[str, Any]]
QUICK = Options(diagnose=False)


def judged(case: Case, function: Device, options: Options = QUICK, can_inject: bool = True) -> Judged:
    """The judgement, whose document fits the schema."""
    found = judge(case, Local(function, can_inject), options)
    check(document(found, "0" * 64, "local"), case_schema(), "result")
    return found


def wrong_steps(found: Judged) -> list[str]:
    return [failure.step for failure in found.failures]


# -- right ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", NAMES)
def test_the_reference_passes(preset: str) -> None:
    case = slice_case(preset)
    found = judged(case, execute)
    assert (found.verdict, found.failures) == ("pass", [])
    assert {step.status for step in found.steps} == {"equal"}
    assert all(c.status == "equal" and c.complete for c in found.seen.comparisons.values())


def test_the_reference_passes_step_by_step() -> None:
    case, device = slice_case("mixlstm", "block1"), Local(execute)
    found = judge(case, device, Options(inject="always", diagnose=False))
    assert found.verdict == "pass"
    assert {step.alone for step in found.steps} == {"equal"} and not any(step.in_place for step in found.steps)
    assert device.calls == [case.id, *(f"{case.id}/{n + 1:03d}-{s.name}" for n, s in enumerate(case.steps))]


def test_only_the_ends_pass_too() -> None:
    found = judged(slice_case("mixmlp"), ends(execute))
    assert found.verdict == "pass"
    assert "not shown" in {step.status for step in found.steps}


def test_networks_pass() -> None:
    for case in (network_case(), network_case("int8", (100, 0, 150))):
        assert judged(case, run_network).verdict == "pass"
        everything = judged(case, wrong_operator("lookup", lambda values: None))
        assert everything.verdict == "pass"
        assert set(everything.seen.comparisons) > set(case.network.crc32)  # type: ignore[union-attr]


# -- the first divergence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoder", "block1.spectral.mixer1.freq1", "block1.lstm.i", "istft.head", "pcm"])
def test_one_wrong_step_is_named_and_no_other(name: str) -> None:
    """Every step behind it differs end to end, and is right alone."""
    case = slice_case("int8")
    found = judged(case, with_wrong_step(name, plus_one))
    assert found.verdict == "fail"
    assert wrong_steps(found) == [name]
    (failure,) = found.failures
    assert failure.how == "in place" and failure.tensor is not None
    assert failure.tensor.first is not None and failure.tensor.first.index[0] == 0
    assert failure.tensor.first.distance == 1
    assert failure.tensor.mismatched == 3  # one element in each of the three frames


def test_wrong_step_with_only_the_ends_shown() -> None:
    """Nothing but ``pcm`` and the states is shown: only the steps alone tell which one it was."""
    case = slice_case("int8")
    found = judged(case, ends(with_wrong_step("block1.lstm.i", plus_one)))
    assert wrong_steps(found) == ["block1.lstm.i"]
    assert found.failures[0].how == "alone"
    assert found.failures[0].rules == ("E-4",)


def test_an_early_error_does_not_hide_a_late_one() -> None:
    case = slice_case("int8")
    early, late = with_wrong_step("encoder", plus_one), with_wrong_step("istft.head", plus_one)

    def device(given: Case) -> dict[str, Array]:
        wrong = {"encoder": early, "istft.head": late}.get(given.steps[0].name, execute)
        return wrong(given) if len(given.steps) == 1 else early(given)

    assert wrong_steps(judged(case, device)) == ["encoder", "istft.head"]


def test_a_wrong_frame_in_a_loop() -> None:
    """The cell is wrong in the last but one frame: an earlier step of the loop that reads it one frame later is not first."""
    case = slice_case("int8", "block1.lstm", "lstm")
    device = with_wrong_step("block1.lstm.c", plus_one, frame=1)
    seen = judged(case, device, can_inject=False)
    (failure,) = seen.failures
    assert failure.step == "block1.lstm.c" and failure.tensor is not None and failure.tensor.first is not None
    assert failure.tensor.first.place.startswith("frame 1, ")
    assert failure.tensor.bad_frames[0] == 1
    assert [c.first.index[0] for c in seen.seen.comparisons.values() if c.tensor == "block1.lstm.fc" and c.first] == [2]


def test_first_divergence_is_in_step_order_not_in_name_order() -> None:
    case = slice_case("int8")
    found = judged(case, with_wrong_step("spectrum", plus_one), Options(inject="never", diagnose=False))
    assert found.failures[0].step == "spectrum"
    assert min(c.tensor for c in found.seen.comparisons.values() if c.status == "differs") < "spectrum"


def test_steps_right_alone_and_wrong_together() -> None:
    """The device forgets the state between frames: no step alone is wrong."""
    case = slice_case("int8")

    def device(given: Case) -> dict[str, Array]:
        if len(given.steps) == 1:
            return execute(given)
        states = {name: np.zeros_like(given.tensors[name].values) for name in given.names("state")}
        return ends(execute)(given.with_values(states)) if "block1.lstm.c.past" in states else execute(given)

    found = judged(case, device)
    assert found.verdict == "fail"
    assert [failure.note for failure in found.failures] == [HANDED_ON]
    assert {step.alone for step in found.steps} == {"equal"}


def test_a_wrong_next_state_alone() -> None:
    case = slice_case("int8", "block1.lstm", "lstm")

    def device(given: Case) -> dict[str, Array]:
        values = execute(given)
        if "block1.lstm.c.next" in values:
            values["block1.lstm.c.next"] = given.tensors["block1.lstm.c.past"].values
        return values

    found = judged(case, device)
    (failure,) = found.failures
    assert failure.tensor is not None and failure.tensor.tensor == "block1.lstm.c.next"
    assert failure.tensor.first is not None and failure.tensor.first.place.startswith("frame 2, ")
    assert (failure.step, failure.rules, failure.note) == ("block1.lstm.c", ("P-1", "P-3"), HANDED_ON)


def test_always_finds_what_the_whole_case_does_not_show() -> None:
    """A single-step function of the device is wrong, but its whole network does not use it."""
    case = slice_case("int8", "block1.lstm", "lstm")
    step = with_wrong_step("block1.lstm.i", plus_one)
    device = Local(lambda given: step(given) if len(given.steps) == 1 else execute(given))
    assert judge(case, device, QUICK).verdict == "pass"
    found = judge(case, device, Options(inject="always", diagnose=False))
    assert (found.verdict, wrong_steps(found)) == ("fail", ["block1.lstm.i"])


def test_a_device_that_runs_no_step_alone_is_judged_end_to_end() -> None:
    case = slice_case("int8")
    whole = with_wrong_step("block1.lstm.i", plus_one)

    def device(given: Case) -> dict[str, Array]:
        if len(given.steps) == 1:
            raise ValueError("I know whole frames only")
        return ends(whole)(given)

    found = judged(case, device)
    assert found.verdict == "fail" and "runs no step alone" in found.note and "whole frames" in found.note
    assert [failure.how for failure in found.failures] == ["end to end"]


# -- tolerances, absence, formats -------------------------------------------------------------------------------------


def test_tolerance_only_on_the_operators_named() -> None:
    """A lookup that is one off makes everything behind it differ; judged step by step the rest is right."""
    case = slice_case("int8", "block1.lstm", "lstm")
    device = with_wrong_step("block1.lstm.i", plus_one)
    tolerated = judged(case, device, Options(tolerances={"lookup": 1}, diagnose=False))
    assert tolerated.verdict == "tolerated" and "follows from" in tolerated.note
    assert judged(case, device, Options(tolerances={"multiply": 1}, diagnose=False)).verdict == "fail"
    twice = with_wrong_step("block1.lstm.i", lambda values: (plus_one(values), plus_one(values))[0])
    assert judged(case, twice, Options(tolerances={"lookup": 1}, diagnose=False)).verdict == "fail"
    alone = judged(slice_case("int8", "block1.lstm.i"), with_wrong_step("block1.lstm.i", plus_one), QUICK)
    assert alone.verdict == "fail"


def test_what_is_not_shown_does_not_pass() -> None:
    case = slice_case("int8", "block1.lstm", "lstm")
    nothing = judged(case, lambda given: {})
    assert nothing.verdict == "missing"
    assert nothing.seen.missing == ["block1.lstm.h", "block1.lstm.h.next", "block1.lstm.c.next"]

    def one_frame(given: Case) -> dict[str, Array]:
        values = ends(execute)(given)
        return values | {"block1.lstm.h": values["block1.lstm.h"][:1]} if "block1.lstm.h" in values else values

    part = judged(case, one_frame)
    assert (part.verdict, part.seen.missing) == ("missing", ["block1.lstm.h"])
    assert judged(network_case(), lambda given: {}).verdict == "missing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.astype(np.int32), "holds int32"),
        (lambda v: v.astype(np.float32), "codes, not their real values"),
        (lambda v: (v.astype(np.int16) + 128).astype(np.uint8), "subtract 128"),
        (lambda v: v.transpose(0, 2, 1).copy(), "layout chw"),
        (lambda v: v[:, :-1].copy(), "holds [3, 128, 4]"),
        (lambda v: v[:, 0, 0].copy(), "holds [3]"),
        (lambda v: np.asfortranarray(v), "Fortran"),
        (lambda v: v[:0], "holds [0, 129, 4]"),
        (lambda v: np.zeros((1 << 20, 4), np.int8), "at most"),
        (lambda v: map_features(v, "hcwb", 16), "layout hcwb"),
    ],
)
def test_wrong_files_are_named(change: Callable[[Array], Array], words: str, tmp_path: Path) -> None:
    """Wrong sizes, types and layouts are outcomes of the tensor that has them, and say which mistake it may be."""
    case = slice_case("int8", "encoder")
    np.save(tmp_path / "encoder.npy", change(case.tensors["encoder"].values))
    np.save(tmp_path / "spectrum.next.npy", case.tensors["spectrum.next"].values)
    found = judge_dumps(case, tmp_path, QUICK)
    assert found.verdict == "fail"
    comparison = found.seen.comparisons["encoder"]
    assert comparison.status == "unreadable" and found.seen.comparisons["spectrum.next"].status == "equal"
    assert words in comparison.explanation and str(tmp_path) not in comparison.explanation
    assert found.failures[0].step == "encoder"


def test_big_endian_and_unsigned_words_are_recognised(tmp_path: Path) -> None:
    case = slice_case("mixmlp", "encoder")
    assert case.tensors["encoder"].format == "bf16"
    expected = case.tensors["encoder"].values
    for name in case.names("expected", "next_state"):
        case.tensors[name].values.byteswap().tofile(tmp_path / f"{name}.bin")
    found = judge_dumps(case, tmp_path, QUICK)
    assert "--big-endian" in found.seen.comparisons["encoder"].explanation
    swapped = judge_dumps(case, tmp_path, Options(reading=Reading(big_endian=True), diagnose=False))
    assert swapped.seen.comparisons["encoder"].status == "equal"
    assert expected.dtype == np.uint16


def test_layouts_of_the_device(tmp_path: Path) -> None:
    case = slice_case("int8", "encoder")
    for name in case.names("expected", "next_state"):
        values = case.tensors[name].values
        np.save(tmp_path / f"{name}.npy", map_features(values, "chw") if name in feature_maps(case) else values)
    assert judge_dumps(case, tmp_path, Options(reading=Reading("chw"), diagnose=False)).verdict == "pass"
    assert judge_dumps(case, tmp_path, QUICK).verdict == "fail"


def test_nan_payloads_count_in_bf16_and_not_in_fp32() -> None:
    for preset, verdict in (("mixmlp", "fail"), ("fp32", "pass")):
        case = slice_case(preset, "encoder")
        golden, form = case.tensors["encoder"].values.copy(), case.tensors["encoder"].format
        golden.view(np.uint32 if form == "f32" else np.uint16)[0, 0, 0] = 0x7FC00000 if form == "f32" else 0x7FC0
        other = golden.copy()
        other.view(np.uint32 if form == "f32" else np.uint16)[0, 0, 0] |= 0x8001
        shown = {name: case.tensors[name].values for name in case.names("expected", "next_state")} | {"encoder": other}
        dumps = {name: Dump(values, 0, len(values)) for name, values in shown.items()}
        assert Examination(case.with_values({"encoder": golden}), Shown(dumps)).verdict == verdict


# -- digests and networks ---------------------------------------------------------------------------------------------


def test_digests_instead_of_tensors() -> None:
    case = slice_case("int8")
    right = judged(case, lambda given: {"digests": as_digests(execute(given))})
    assert right.verdict == "pass"
    wrong = with_wrong_step("block1.lstm.i", plus_one, frame=1)
    found = judged(case, lambda given: {"digests": as_digests(wrong(given))}, can_inject=False)
    (failure,) = found.failures
    assert failure.step == "block1.lstm.i" and failure.tensor is not None
    assert failure.tensor.by_digest and failure.tensor.bad_frames[0] == 1


@pytest.mark.parametrize(
    ("digests", "verdict", "words"),
    [
        ([1, 2], "fail", "no object"),
        ({"encoder": "abc"}, "fail", "eight hexadecimal digits"),
        ({"encoder": ["00000000"] * 7, "spectrum.next": ["00000000"]}, "fail", "7 CRC-32 for 3 frames"),
        ({"somebody.else": ["00000000"]}, "missing", ""),
    ],
)
def test_wrong_digests(digests: Any, verdict: str, words: str) -> None:
    found = judged(slice_case("int8", "encoder"), lambda given: {"digests": digests})
    assert found.verdict == verdict
    assert not words or words in found.seen.comparisons["encoder"].explanation


def test_a_wrong_network_is_bisected() -> None:
    """With every tensor shown the wrong step is named; with CRC-32 alone too; with PCM alone only that it differs."""
    case, device = network_case(), wrong_operator("add_two_stage", plus_one)
    full = judged(case, device)
    first = full.failures[0]
    assert (first.operator, first.how, first.rules[0]) == ("add_two_stage", "in place", "E-1")
    order = [step.name for step in full.seen.steps if step.operator == "add_two_stage"]
    assert first.step == order[0] == "block1.spectral.mixer1.freq_add"
    crc = judged(case, lambda given: run_network(given) | {"digests": as_digests(device(given))})
    assert crc.failures[0].step == order[0] and crc.failures[0].tensor is not None and crc.failures[0].tensor.by_digest
    pcm = judged(case, lambda given: {"pcm_out": device(given)["pcm_out"]})
    (failure,) = pcm.failures
    assert failure.step == "" and failure.tensor is not None and failure.tensor.tensor == "pcm_out"
    assert (
        failure.tensor.first is not None and "sample" in failure.tensor.first.place and "(frame " in failure.tensor.first.place
    )
    assert "digests.json" in failure.note


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda e: [*e[:-1], e[-1] // 96 * 96], "flush_whole_frames"),
        (lambda e: [*e[:-1], 0], "flush_missing"),
        (lambda e: [*e[:-1], -(-e[-1] // 96) * 96], "flush_frame_rounded_up"),
        (lambda e: np.cumsum(e), "emitted_total"),
        (lambda e: [0, 0, e[2] - 96, e[3] + 96], "emitted_late"),
        (lambda e: [1, *e[1:]], None),
    ],
)
def test_networks_wrong_chunking(change: Callable[[Array], Any], name: str | None) -> None:
    case = network_case("int8", (100, 0, 150))
    emitted = case.tensors["emitted"].values
    assert emitted.tolist() == [0, 0, 96, 154]
    found = judged(case, lambda given: run_network(given) | {"emitted": np.array(change(emitted), np.int32)})
    assert found.verdict == "fail"
    (failure,) = found.failures
    assert failure.tensor is not None and failure.tensor.tensor == "emitted" and failure.rules == ("P-5",)
    assert [h["name"] for h in failure.hypotheses] == ([name] if name else [])


# -- a device that cannot run single steps ----------------------------------------------------------------------------


def test_dumps_of_two_errors_name_both() -> None:
    """What lies behind the first error is judged by the golden operators on the device's own tensors."""
    case = slice_case("int8")
    early = with_wrong_step("encoder", plus_one)(case)
    both = early | {"istft.head": early["istft.head"].copy()}
    plus_one(both["istft.head"])
    found = judged(case, lambda given: both, can_inject=False)
    assert [(f.step, f.how) for f in found.failures[:2]] == [("encoder", "in place"), ("istft.head", "own inputs")]
    assert found.failures[1].tensor is not None and found.failures[1].tensor.mismatched == 1
    assert {f.step for f in found.failures[2:]} <= {"overlap_add"}  # it was computed from the right one
    assert wrong_steps(judged(case, lambda given: early, can_inject=False)) == ["encoder"]


def test_steps_of_a_network_are_judged_by_their_own_inputs() -> None:
    """The same operator is wrong in several places: all of them are named, and no other step."""
    case, device = network_case(), wrong_operator("add_two_stage", plus_one)
    found = judged(case, device)
    assert {failure.operator for failure in found.failures} == {"add_two_stage"}
    wrong = [step.name for step in found.seen.steps if step.operator == "add_two_stage"]
    assert wrong_steps(found) == wrong and len(wrong) > 1
    tolerated = judged(case, device, Options(tolerances={"add_two_stage": 1}, diagnose=False))
    assert tolerated.verdict == "tolerated"
