"""Streams and models: streaming equals offline for any chunks, state survives, bad input is refused."""

from __future__ import annotations

import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refimpl.session as session
from refimpl.errors import InputError
from refimpl.presets import NAMES
from refimpl.session import HOP, Model, Stream
from refimpl.weights_io import Container
from tests.test_network import speech_like

_models: dict[tuple[int, str], Model] = {}


def model_of(container: Container, preset: str) -> Model:
    key = (id(container), preset)
    if key not in _models:
        _models[key] = Model(container, preset)
    return _models[key]


def streamed(stream: Stream, pcm: np.ndarray, cuts: list[int]) -> np.ndarray:
    """Push ``pcm`` cut at the sorted positions, then flush."""
    edges = [0, *sorted(cuts), len(pcm)]
    parts = [stream.push(pcm[a:b]) for a, b in pairwise(edges)]
    return np.concatenate([*parts, stream.flush()], 1)


@pytest.mark.parametrize("compression", ["small", "compressed"])
@pytest.mark.parametrize("preset", NAMES)
def test_streaming_equals_offline(preset: str, compression: str, request: pytest.FixtureRequest) -> None:
    """Bit for bit, for any partition of any length into chunks."""
    model = model_of(request.getfixturevalue(compression), preset)

    @settings(max_examples=12, deadline=None)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        n = data.draw(st.integers(1, 1400))
        cuts = data.draw(st.lists(st.integers(0, n), max_size=12))
        pcm = speech_like(1400, data.draw(st.integers(0, 3)))[:n]
        assert np.array_equal(streamed(model.stream(), pcm, cuts), model.separate(pcm))

    law()


@pytest.mark.parametrize("preset", NAMES)
def test_block_size_changes_no_bit(preset: str, small: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pcm = model_of(small, preset), speech_like(2500)
    whole = model.separate(pcm)
    for block in (1, 7, 1000):
        monkeypatch.setattr(session, "BLOCK", block)
        assert np.array_equal(model.separate(pcm), whole)


@pytest.mark.parametrize("n", [1, 63, 64, 95, 96, 97, 159, 160, 161])
def test_short_inputs_keep_their_length(n: int, small: Container) -> None:
    model = model_of(small, "mixmlp")
    pcm = speech_like(200)[:n]
    out = model.separate(pcm)
    assert out.shape == (2, n) and np.array_equal(streamed(model.stream(), pcm, []), out)


def test_push_emits_as_soon_as_final(small: Container) -> None:
    """Samples 96 t .. 96 t + 95 come with input sample 96 t + 159: 10 ms of latency."""
    stream = model_of(small, "int8").stream()
    for received, sample in enumerate(speech_like(700), 1):
        out = stream.push(np.array([sample], np.int16))
        assert out.shape == (2, HOP if received >= 160 and (received - 160) % HOP == 0 else 0)


@pytest.mark.parametrize("preset", ["fp32", "int8", "mixmlp"])
def test_state_moves_to_another_stream(preset: str, small: Container, tmp_path: Path) -> None:
    model, pcm = model_of(small, preset), speech_like(1500)
    first = model.stream()
    head = first.push(pcm[:777])
    first.save(tmp_path / "state.npz")
    second = model.stream()
    second.push(pcm[200:900])  # whatever it did before is forgotten
    second.load(tmp_path / "state.npz")
    assert all(np.array_equal(a, second.state()[name]) for name, a in first.state().items())
    rest = np.concatenate([second.push(pcm[777:]), second.flush()], 1)
    assert np.array_equal(np.concatenate([head, rest], 1), model.separate(pcm))


def test_state_is_refused_by_another_model(small: Container, compressed: Container, tmp_path: Path) -> None:
    stream = model_of(small, "int8").stream()
    stream.save(tmp_path / "state.npz")
    for other, key in ((model_of(small, "mixlstm"), "preset"), (model_of(compressed, "int8"), "weights")):
        with pytest.raises(InputError, match=key):
            other.stream().load(tmp_path / "state.npz")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="not a stream state"):
        stream.load(tmp_path / "junk.npz")
    saved = dict(np.load(tmp_path / "state.npz"))
    for identity in (b"[1]", b"1", b'"gap9"', b"null", b"[[1]]", b'[["a", 1], [2, 3]]', b"no JSON"):
        np.savez(tmp_path / "other.npz", **(saved | {"identity": np.frombuffer(identity, np.uint8)}))
        with pytest.raises(InputError, match=r"names no model|saved for"):
            stream.load(tmp_path / "other.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("identity", "text")
    for name in ("array.npy", "text.npz"):
        with pytest.raises(InputError, match="not a stream state"):
            stream.load(tmp_path / name)
    state = stream.state()
    state["block1.lstm.c"] = state["block1.lstm.c"][:, :5]
    with pytest.raises(InputError, match=r"block1\.lstm\.c"):
        stream.restore(state)
    state.pop("block1.lstm.c")
    with pytest.raises(InputError, match=r"block1\.lstm\.c"):
        stream.restore(state)


def test_reset_and_flush(small: Container) -> None:
    model, pcm = model_of(small, "mixmlp"), speech_like(500)
    stream = model.stream()
    once = streamed(stream, pcm, [100])
    with pytest.raises(InputError, match="reset"):
        stream.push(pcm)
    with pytest.raises(InputError, match="reset"):
        stream.flush()
    stream.reset()
    assert np.array_equal(streamed(stream, pcm, [3]), once)
    stream.reset()
    assert stream.flush().shape == (2, 0)


def test_nothing_of_the_future_is_heard(small: Container) -> None:
    """Causal: changing input sample k changes no output sample before k - 159."""
    model, pcm = model_of(small, "mixmlp"), speech_like(1500)
    changed = pcm.copy()
    changed[900] += 3000
    before, after = model.separate(pcm), model.separate(changed)
    assert np.array_equal(before[:, : 900 - 159], after[:, : 900 - 159]) and not np.array_equal(before, after)


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((2, 5), np.int16), np.zeros(0, np.int16), [1, 2]])
def test_pcm_is_checked(bad: np.ndarray, small: Container) -> None:
    with pytest.raises(InputError, match="PCM"):
        model_of(small, "int8").separate(bad)


@pytest.mark.parametrize("preset", NAMES)
def test_trace_is_filtered_and_consistent(preset: str, small: Container) -> None:
    model, pcm = model_of(small, preset), speech_like(9000)
    whole = model.trace(pcm)
    assert set(whole) == set(model.program.tensors)
    total = -(-len(pcm) // HOP)
    assert all(a.shape == (total, *model.program.tensors[name].shape) for name, a in whole.items())
    some = model.trace(pcm, ["block1.lstm.*", "pcm"], (60, 70))
    assert "block1.lstm.c" in some and "encoder" not in some
    assert all(np.array_equal(a, whole[name][60:70]) for name, a in some.items())
    with pytest.raises(InputError, match="no tensor matches"):
        model.trace(pcm, ["blok*"])
    with pytest.raises(InputError, match="frames"):
        model.trace(pcm, frames=(5, 1000))


def test_steps_rerun_alone_from_the_trace(small: Container) -> None:
    """Any step of the list, fed with traced inputs, gives its traced outputs: what restart from golden will stand on."""
    from refimpl.program import DTYPES, OPERATORS

    for preset in NAMES:
        model = model_of(small, preset)
        trace, program = model.trace(speech_like(1200)), model.program
        for step in program.steps:
            count = len(trace[step.outputs[0]])
            inputs = []
            for ref in step.inputs:
                tensor, values = program.tensors[ref.tensor], trace[ref.tensor]
                start = np.full((ref.past, *tensor.shape), tensor.start, values.dtype)
                inputs.append(np.concatenate([start, values])[: count + (ref.past if ref.current else 0)])
            outputs = [
                np.empty((count, *program.tensors[n].shape), DTYPES[program.tensors[n].format.kind]) for n in step.outputs
            ]
            OPERATORS[step.operator](*inputs, *step.constants, *outputs)
            for name, output in zip(step.outputs, outputs, strict=True):
                assert np.array_equal(output, trace[name], equal_nan=output.dtype.kind == "f"), (preset, step.name)
