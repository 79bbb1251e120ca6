"""Cases made of cases: split into steps, without their answers, and the order in which steps compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance.inject import NetworkTrace, Order, required, slug, split_case, stripped
from golden_vectors.case import Case, encode, read_case
from golden_vectors.execute import crc32, execute, verify
from golden_vectors.registry import rules_of
from golden_vectors.structure import check_structure
from golden_vectors.suite.making import finish, one_step, tensor
from refimpl.presets import NAMES
from refimpl.program import Ref, Step
from tests.conformance_devices import network_case, slice_case


@pytest.mark.parametrize("preset", NAMES)
def test_every_step_alone_gives_its_golden_output(preset: str) -> None:
    case = slice_case(preset)
    split = split_case(case)
    assert [s.steps[0].name for s in split] == [s.name for s in case.steps]
    assert len({s.id for s in split}) == len(split)
    for single in split:
        check_structure(single)
        assert not single.steps[0].loop
        assert set(single.names("expected")) == set(single.steps[0].outputs)
        assert not single.names("next_state")
        assert verify(single) is None, single.id
        assert single.rules == rules_of(single.steps[0])


def test_split_cases_are_written_and_read_like_others(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    for single in split_case(slice_case("mixlstm", "block1.lstm")):
        folder.mkdir()
        for name, data in encode(single).items():
            (folder / name).write_bytes(data)
        again = read_case(folder)
        assert verify(again) is None
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_steps_of_a_loop_are_not_what_their_neighbours_make_of_them() -> None:
    """A wrong past in one frame of the golden case changes that frame alone: frames are independent of each other."""
    case = slice_case("int8", "block1.lstm")
    single = next(s for s in split_case(case) if s.steps[0].name == "block1.lstm.hh")
    ref = single.steps[0].inputs[0]
    assert (ref.past, ref.current) == (1, False)
    given = single.tensors[ref.tensor]
    assert given.role == "input"
    assert np.array_equal(given.values, case.tensors[ref.tensor].values)
    other = given.values.copy()
    other[0] ^= 0x55
    changed = execute(single.with_values({ref.tensor: other}))["block1.lstm.hh"]
    golden = case.tensors["block1.lstm.hh"].values
    assert [bool((changed[t] == golden[t]).all()) for t in range(3)] == [True, False, True]


def test_a_step_that_reads_its_own_past() -> None:
    """A running sum: alone, the golden sums before each frame are given under another name."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    step = Step("y", "add_f32", (Ref("x"), Ref("y", 1, False)), (), ("y",), "sum")
    tensors = {
        "x": tensor("input", "f32", x),
        "y.past": tensor("state", "f32", np.full((1, 3), 100)),
        "y": tensor("expected", "f32", np.zeros((4, 3))),
        "y.next": tensor("next_state", "f32", np.zeros((1, 3))),
    }
    case = finish(Case("layers/sum", "a running sum", ("E-7",), tensors, (step,)))
    assert np.array_equal(case.tensors["y"].values, 100 + x.cumsum(0))
    (single,) = split_case(case)
    check_structure(single)
    assert verify(single) is None
    assert set(single.tensors) == {"x", "y.before", "y.before.past", "y"}


def test_the_last_frames_of_a_longer_past_are_taken() -> None:
    """Two steps read one tensor, one of them two frames back and the other one: the shorter past is the younger end."""
    x, past = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([[50, 51], [60, 61]], np.float32)
    one = Step("one", "add_f32", (Ref("x"), Ref("x", 1, False)), (), ("one",))
    two = Step("two", "add_f32", (Ref("x"), Ref("x", 2, False)), (), ("two",))
    tensors = {"x": tensor("input", "f32", x), "x.past": tensor("state", "f32", past)}
    tensors |= {name: tensor("expected", "f32", np.zeros((4, 2))) for name in ("one", "two")}
    case = finish(Case("layers/pasts", "two pasts", ("E-7",), tensors, (one, two)))
    first, second = split_case(case)
    assert first.tensors["x.past"].values.tolist() == [[60, 61]]
    assert second.tensors["x.past"].values.tolist() == past.tolist()
    assert verify(first) is None and verify(second) is None


def test_functions_split_too() -> None:
    values = np.array([1, 2, 3], np.int64)
    case = one_step(
        "numerics/shift_floor/some",
        "some",
        ["N-1"],
        "shift_floor",
        {"value": ("int64", values), "shift": ("int64", values)},
        (),
        {"y": ("int64", (3,))},
    )
    (single,) = split_case(case)
    assert verify(single) is None
    assert single.rules == ("N-1",)


def test_stripped_cases_hold_no_answer() -> None:
    for case in (slice_case("int8"), network_case(), network_case("int8", (100, 150))):
        bare = stripped(case)
        for name in case.names("expected", "next_state"):
            assert not bare.tensors[name].values.any()
            assert bare.tensors[name].values.shape == case.tensors[name].values.shape
        answers = [case.tensors[name].values for name in case.names("expected", "next_state")]
        words = {row for values in answers for row in crc32(np.atleast_1d(values))}
        text = encode(bare)["case.json"].decode()
        assert not any(word in text for word in words)
        same = execute(bare)
        assert all(np.array_equal(same[name], case.tensors[name].values) for name in case.names("expected"))


def test_required_tensors() -> None:
    case = slice_case("int8", "block1.lstm")
    assert required(case) == ["block1.lstm.h", "block1.lstm.h.next", "block1.lstm.c.next"]
    assert required(slice_case("int8"))[:2] == ["pcm", "clipped"]
    assert required(slice_case("int8", "istft")) == ["istft.head", "istft.tail"]
    assert required(network_case("int8", (100, 150))) == ["pcm_out", "emitted"]


def test_order_is_frame_by_frame_in_a_loop() -> None:
    """What a loop computes late in a frame comes before what it computes early in the next."""
    order = Order(slice_case("int8").steps)
    assert order.key("block1.lstm.c", 0) < order.key("block1.lstm.hh", 1)
    assert order.key("block1.lstm.hh", 1) < order.key("block1.lstm.c", 1)
    assert order.key("block1.lstm.ih", 2) < order.key("block1.lstm.hh", 0)
    assert order.key("block1.lstm.h", 2) < order.key("block1.inter_linear", 0)
    assert order.key("istft.tail", 5) < order.key("pcm", 0)
    assert order.key("istft.tail", 2) < order.key("istft.tail.next", 2) < order.key("overlap_add", 0)
    assert order.key("pcm", 2) < order.key("spectrum_that_is_an_input.next", 0)


def test_one_step_of_a_network() -> None:
    trace = NetworkTrace(network_case())
    for step in trace.program.steps:
        single = trace.alone(step)
        assert verify(single) is None
        for name in step.outputs:
            assert crc32(single.tensors[name].values) == trace.case.network.crc32[name]  # type: ignore[union-attr]


def test_names_of_steps_become_ids() -> None:
    assert slug("Block1.LSTM/x y") == "block1.lstm.x.y"
    assert slug("...") == "step"
    case = slice_case("int8", "encoder")
    odd = replace(case, steps=tuple(replace(s, name="Ünsafe/../name") for s in case.steps))
    assert encode(split_case(odd)[0])["case.json"]
