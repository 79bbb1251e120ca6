"""The cases of layers to network: complete, small, and consistent among themselves by independent arithmetic."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from golden_vectors.case import Case, encode
from golden_vectors.execute import program_of
from golden_vectors.suite import network
from refimpl.presets import NAMES


@cache
def suite() -> tuple[Case, ...]:
    return tuple(network.cases())


def test_every_preset_at_every_level() -> None:
    found = {(case.level, case.preset) for case in suite()}
    levels = ("layers", "lstm", "block", "frame", "stream", "network")
    assert {(level, preset) for level in levels for preset in NAMES} <= found


def test_small_enough_for_the_repository() -> None:
    assert sum(len(data) for case in suite() for data in encode(case).values()) < 12 << 20


@pytest.mark.parametrize("preset", [name for name in NAMES if name != "fp32"])
def test_accumulators_are_the_sums_before_the_law(preset: str) -> None:
    """Each shown INT32 is the plain sum of code times weight, and the law of G-2 or Q-9 on it gives the layer's output."""
    case = next(case for case in suite() if case.id == f"lstm/small-{preset}/running")
    for name, source in (("ih", "block1.spectral_add"), ("hh", "block1.lstm.h" if preset == "int8" else "block1.lstm.state")):
        layer = f"block1.lstm.{name}"
        x = case.tensors[source].values.astype(object)
        if name == "hh":
            x = np.concatenate((case.tensors[f"{source}.past"].values.astype(object), x[:-1]))
        sums = x @ case.tensors[f"{layer}.weight"].values.astype(object)
        assert (sums == case.tensors[f"{layer}.accumulator"].values).all()
        bias = case.tensors[f"{layer}.rq.bias"].values.astype(object)
        if preset == "int8":
            m, n = (case.tensors[f"{layer}.rq.{key}"].values.astype(object) for key in ("multiplier", "shift"))
            out = np.clip(((sums + bias) * m + 2**n // 2) // 2**n, 0, 255) - 128
            assert (out == case.tensors[layer].values).all()
        else:
            scale = case.tensors[f"{layer}.rq.scale"].values
            wide = (sums + bias).astype(np.int64).astype(np.float32) * scale
            bits = wide.view(np.uint32).astype(np.int64)
            assert ((bits + 0x7FFF + (bits >> 16 & 1) >> 16) == case.tensors[layer].values).all()


def test_a_stream_is_its_frames_one_by_one() -> None:
    """Frame by frame from the given state gives every tensor and the state behind the last frame."""
    for case in suite():
        if case.level != "stream":
            continue
        program, given, state = program_of(case)
        names = case.names("expected")
        for t in range(len(given["frame"])):
            values = program.run({"frame": given["frame"][t : t + 1]}, state, names)
            for name in names:
                assert values[name][0].tobytes() == case.tensors[name].values[t].tobytes(), (case.id, name, t)
        for name, array in state.items():
            assert array.tobytes() == case.tensors[f"{name}.next"].values.tobytes(), (case.id, name)


def test_state_and_past_are_not_trivial() -> None:
    """A stale or swapped state must show: pasts differ from the start value, from each other and from the present."""
    for case in suite():
        if case.level == "stream" and case.preset != "fp32":
            for name in case.names("state"):
                past, now = case.tensors[name].values, case.tensors[name.removesuffix(".past")].values
                assert len(np.unique(past)) > 1, (case.id, name)
                assert not np.array_equal(past[-1], now[0]), (case.id, name)
                assert len(past) == 1 or not np.array_equal(past[0], past[1]), (case.id, name)


def test_emitted_counts_follow_the_rule() -> None:
    """``96 * max(0, floor((r - 64) / 96))`` samples after r, the rest at the flush (P-5)."""
    for case in suite():
        if case.network is not None and case.network.chunks is not None:
            received, before = 0, 0
            for size, count in zip(case.network.chunks, case.tensors["emitted"].values, strict=False):
                received += size
                total = 96 * max(0, (received - 64) // 96)
                assert count == total - before, case.id
                before = total
            assert case.tensors["emitted"].values.sum() == received == len(case.tensors["pcm_in"].values)


def test_loud_and_silent_cases_do_what_they_say() -> None:
    for case in suite():
        if case.id.endswith("/square"):
            out = case.tensors["pcm_out"].values
            assert (out == 32767).any() and (out == -32768).any(), case.id
        if case.level == "network" and case.id.endswith("/speech"):
            assert all(np.abs(voice.astype(int)).max() > 100 for voice in case.tensors["pcm_out"].values), case.id
