"""The command line ``refimpl.convert``: state dicts of every kind become the same container; every wrong one is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from refimpl import audio, convert, run
from refimpl.convert import main
from refimpl.networks.tf_mlpnet import Config, parameter_count
from refimpl.session import Model, load
from refimpl.weights_io import load_container
from tests.tiny import TINY, noise, refused, tiny_container, tree

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]


def state_of(**config: int | str) -> State:
    return dict(tiny_container(**config).weights)


def convert_to(out: Path, state: Path, *options: str) -> Mapping[str, Array]:
    assert main([str(state), "-o", str(out), *options]) == 0
    return load_container(out).weights


def same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"compression": 1},
        {"speakers": 3, "blocks": 2, "mixers": 2, "hidden": 3},
        {"window": "rect", "frequency_padding": "top", "channel_order": "real_first"},
    ],
    ids=str,
)
def test_round_trip(config: dict[str, int | str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "state.safetensors", tmp_path / "out.safetensors"
    weights = state_of(**config)
    save_file(weights, source)
    texts = {"window", "frequency_padding", "channel_order"} & set(config)
    options = [part for name in sorted(texts) for part in (f"--{name.replace('_', '-')}", str(config[name]))]
    assert main([str(source), "-o", str(out), "--name", "a name", *options]) == 0
    container = load_container(out)
    wanted = Config(**{**TINY, **config})  # type: ignore[arg-type]
    assert container.config == wanted and same(container.weights, weights)
    assert (container.presets, container.ranges, container.card) == (("fp32",), {}, {"name": "a name"})
    printed = capsys.readouterr().out
    assert container.digest in printed and f"{parameter_count(wanted):,}" in printed
    assert all(f"{name} " in printed for name in wanted.to_dict())


def test_result_runs_in_fp32(tmp_path: Path) -> None:
    source, out, clip = tmp_path / "state.safetensors", tmp_path / "out.safetensors", tmp_path / "mix.wav"
    save_file(state_of(), source)
    audio.write_pcm(clip, noise(500))
    assert main([str(source), "-o", str(out)]) == 0
    assert load_container(out).card == {"name": "state"}
    assert np.array_equal(load(out, preset="fp32").separate(noise(500)), Model(tiny_container(), "fp32").separate(noise(500)))
    assert run.main([str(clip), "--weights", str(out), "--preset", "fp32"]) == 0


def test_same_input_same_bytes(tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "state.safetensors")
    for name in ("a", "b"):
        assert main([str(tmp_path / "state.safetensors"), "-o", str(tmp_path / name), "--name", "x"]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def bfloat16_file(path: Path, state: State) -> None:
    """A safetensors file in bfloat16, by hand: NumPy has no such type."""
    header, data = {}, b""
    for name, value in state.items():
        raw = (value.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_other_float_types_and_the_module_prefix(tmp_path: Path) -> None:
    weights, source, out = state_of(), tmp_path / "state.safetensors", tmp_path / "out"
    for dtype in (np.float16, np.float64):
        save_file({f"module.{name}": value.astype(dtype) for name, value in weights.items()}, source)
        expected = {name: value.astype(dtype).astype(np.float32) for name, value in weights.items()}
        assert same(convert_to(out, source), expected)
    bfloat16_file(source, weights)
    cut = {name: (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for name, value in weights.items()}
    assert same(convert_to(out, source), cut)


def without(name: str) -> Callable[[State], Any]:
    return lambda state: state.pop(name)


def replaced(name: str, shape: tuple[int, ...] | None = None, value: float = 0.0) -> Callable[[State], Any]:
    return lambda state: state.update({name: np.full(state[name].shape if shape is None else shape, value, np.float32)})


BAD_STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "no encoder": (without("encoder.weight"), "'encoder.weight'"),
    "no decoder": (without("decoder.weight"), "'decoder.weight'"),
    "no bias": (without("blocks.0.lstm.bias_hh_l0"), "'blocks.0.lstm.bias_hh_l0'"),
    "no lstm": (without("blocks.0.lstm.weight_hh_l0"), "'blocks.0.lstm.weight_hh_l0'"),
    "no mixer": (without("blocks.0.mixers.0.freq1.weight"), "'blocks.0.mixers.0.freq1.weight'"),
    "odd decoder": (replaced("decoder.weight", (4, 3, 3, 3)), "'decoder.weight'"),
    "flat encoder": (replaced("encoder.weight", (4,)), "'encoder.weight'"),
    "empty encoder": (replaced("encoder.weight", (0, 2, 3, 3)), "'encoder.weight'"),
    "wrong bins": (replaced("blocks.0.mixers.0.freq1.weight", (5, 5)), "'blocks.0.mixers.0.freq1.weight'"),
    "wrong shape": (replaced("blocks.0.intra_linear.weight", (4, 5)), "'blocks.0.intra_linear.weight'"),
    "no compression": (without("blocks.0.compress.weight"), "'blocks.0.mixers.0.freq1.weight'"),
    "unknown": (lambda state: state.update(extra=np.zeros(3, np.float32)), "'extra'"),
    "far block": (lambda state: state.update({"blocks.999999999.x": np.zeros(3, np.float32)}), "'blocks.1."),
    "nan": (replaced("encoder.bias", value=float("nan")), "'encoder.bias'"),
    "too large": (lambda state: state.update({"encoder.bias": np.full(4, 1e300)}), "'encoder.bias'"),
    "integers": (lambda state: state.update({"encoder.bias": np.zeros(4, np.int64)}), "'encoder.bias'"),
    "twice": (lambda state: state.update({"module.encoder.bias": state["encoder.bias"]}), "'encoder.bias'"),
    "nothing": (lambda state: state.clear(), "'decoder.weight'"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_state(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, word = BAD_STATES[case]
    state = state_of()
    change(state)
    source = tmp_path / "state.safetensors"
    save_file(state, source)
    before = tree(tmp_path)
    refused(main, [source, "-o", tmp_path / "out"], capsys, "state.safetensors", word)
    assert tree(tmp_path) == before


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, source, text = tmp_path / "out", tmp_path / "state.safetensors", tmp_path / "state.txt"
    refused(main, [source, "-o", out], capsys, "no such file")
    text.write_text("weights")
    refused(main, [text, "-o", out], capsys, "state.txt", ".safetensors")
    for data in (b"", b"text", b"\xff" * 64):
        source.write_bytes(data)
        refused(main, [source, "-o", out], capsys, "state.safetensors", "not a whole safetensors file")
    save_file(state_of(), source)
    source.write_bytes(source.read_bytes()[:-4])
    refused(main, [source, "-o", out], capsys, "not a whole safetensors file")
    tiny_container().save(source)
    refused(main, [source, "-o", out], capsys, "container already", "refimpl.quantize")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.safetensors", "state.txt"]


def test_bad_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "state.safetensors"
    save_file(state_of(), source)
    before = tree(tmp_path)
    for target, word in (
        (source, "overwrite the input"),
        (tmp_path, "folder"),
        (source / "out", "folder does not exist"),
        (tmp_path / "no" / "out", "folder does not exist"),
    ):
        refused(main, [source, "-o", target], capsys, word)
    refused(main, [source, "-o", tmp_path / "out", "--window", "hamming"], capsys, "hamming", "hann")
    refused(main, [source], capsys, "--output")
    assert tree(tmp_path) == before


def test_pickled_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    source = tmp_path / "state.pt"
    source.write_bytes(b"PK")
    monkeypatch.setattr(convert.importlib, "import_module", missing)
    refused(main, [source, "-o", tmp_path / "out"], capsys, "state.pt", "pip install torch")


def test_pickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain state dict, a checkpoint of either key, other float types; and what is none of them."""
    torch = pytest.importorskip("torch")
    weights, source, out = state_of(), tmp_path / "state.pt", tmp_path / "out"
    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    for saved in (
        state,
        {"model": state, "done": 3, "optimizer": {"state": {}}},
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 1},
        {name: value.double() for name, value in state.items()},
    ):
        torch.save(saved, source)
        assert same(convert_to(out, source), weights)
    torch.save({name: value.bfloat16() for name, value in state.items()}, source)
    assert same(convert_to(out, source), {name: value.bfloat16().float().numpy() for name, value in state.items()})
    out.unlink()
    for saved, word in (
        ([1, 2], "no state dict"),
        ({}, "no state dict"),
        ({"epoch": 3}, "'epoch'"),
        ({**state, "encoder.bias": torch.zeros(4, dtype=torch.int64)}, "'encoder.bias'"),
        (Path("code"), "torch cannot read it"),
    ):
        torch.save(saved, source)
        refused(main, [source, "-o", out], capsys, "state.pt", word)
    source.write_bytes(b"no pickle")
    refused(main, [source, "-o", out], capsys, "torch cannot read it")
    assert not out.exists()
