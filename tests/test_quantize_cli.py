"""The command line ``refimpl.quantize``: a folder of mixtures gives a container of all presets, the same each time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from refimpl import audio
from refimpl.calibration import calibrate
from refimpl.networks import tf_mlpnet
from refimpl.networks.tf_mlpnet import nominal_bytes, parameter_count
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.quantization.offsets import residual_errors, residual_streams
from refimpl.quantization.scheme import activation_format, symmetric_format
from refimpl.quantize import Clips, find_audio, main
from refimpl.session import load
from refimpl.weights_io import Container, load_container
from tests.tiny import noise, refused, tiny_container, tree

FAST = ("--observer", "minmax")


@pytest.fixture(scope="session")
def bare() -> Container:
    return replace(tiny_container(), ranges={}, presets=("fp32",))


@pytest.fixture
def weights(tmp_path: Path, bare: Container) -> Path:
    path = tmp_path / "float.safetensors"
    bare.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files in two folders, and what must be passed over."""
    top = tmp_path / "mixtures"
    (top / "sub").mkdir(parents=True)
    (top / ".hidden").mkdir()
    audio.write_pcm(top / "b.WAV", noise(1000, 1))
    soundfile.write(top / "sub" / "a.flac", noise(900, 2), 16000)
    audio.write_pcm(top / "a.wav", noise(20000, 3))
    audio.write_pcm(top / ".hidden" / "c.wav", noise(10))
    audio.write_pcm(top / ".c.wav", noise(10))
    (top / "folder.wav").mkdir()
    (top / "notes.txt").write_text("no audio")
    return top


def test_all_presets_load(
    weights: Path, folder: Path, bare: Container, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main([str(weights), "--calibrate", str(folder), "-o", str(out), "--seconds", "0.1"]) == 0
    captured = capsys.readouterr()
    container = load_container(out)
    clips = [noise(20000, 3)[:1600], noise(1000, 1), noise(900, 2)]
    assert container.presets == NAMES and container.ranges == calibrate(bare, clips).ranges
    assert container.card["name"] == "tiny"
    assert container.card["calibration"] == {
        "files": 3,
        "samples": 3500,
        "sha256": hashlib.sha256(np.concatenate(clips).astype("<i2").tobytes()).hexdigest(),
        "observer": "mse",
        "observer_16": "minmax",
    }
    for preset in NAMES:
        assert load(out, preset).separate(noise(300)).shape == (2, 300)
        assert f"{nominal_bytes(container.config, load_preset(preset)):,}" in captured.out and preset in captured.out
    assert container.digest in captured.out and "3 files, 0.2 s" in captured.out and captured.err == ""


def test_an_8_bit_cell_ends_where_its_tanh_does(bare: Container) -> None:
    """A cell that counts frames: 8 bits keep about +-3 of it, 16 bits and ``minmax`` all."""
    hidden = bare.config.hidden
    bias = bare.weights["blocks.0.lstm.bias_ih_l0"].copy()
    bias[: 2 * hidden], bias[2 * hidden : 3 * hidden] = 30.0, 30.0 * (-1.0) ** np.arange(hidden)
    counting = replace(bare, weights={**bare.weights, "blocks.0.lstm.bias_ih_l0": bias})
    clip = [noise(96 * 20, 4)]
    found, extremes = calibrate(counting, clip), calibrate(counting, clip, "minmax")
    brought = found.ranges[8]["block1.lstm.ig"]
    assert brought == (-127 / 128, 127 / 128) and symmetric_format(*brought, 8, True).scale == 1 / 128
    assert found.ranges[8]["block1.lstm.fc"] == (3 * brought[0], 3 * brought[1])
    low, high = found.ranges[8]["block1.lstm.c"]
    assert -low == high and 3 * brought[1] <= high <= 3 * brought[1] * 33 / 32
    for name in ("block1.lstm.fc", "block1.lstm.c"):
        low, high = found.ranges[16][name]
        assert (low, high) == extremes.ranges[8][name] and low <= -19 and high >= 19


def test_what_residuals_add_up_has_one_range(bare: Container) -> None:
    """Of 8 bits: the least squared error of all of it together, within the extremes; ``minmax`` leaves every tensor its own."""
    clip = [noise(96 * 20, 4)]
    found, plain = calibrate(bare, clip), calibrate(bare, clip, "minmax")
    program = tf_mlpnet.build(bare.config, bare.weights, {}, load_preset("fp32"), GAP9)
    for stream in residual_streams(program):
        (low, high), *others = {found.ranges[8][name] for name in stream}
        extremes = [plain.ranges[8][name] for name in stream]
        assert not others and min(e[0] for e in extremes) <= low <= 0 < high <= max(e[1] for e in extremes)
        assert len(set(extremes)) > 1
    assert found.ranges[16] == plain.ranges[16]


def test_streams_have_the_ranges_that_weights_were_trained_with(
    weights: Path, folder: Path, bare: Container, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of another container, of 8 bits, where residuals add up; nothing else moves, and the card names it."""
    shared, other = (-1.5, 3.25), tmp_path / "other.safetensors"
    program = tf_mlpnet.build(bare.config, bare.weights, {}, load_preset("fp32"), GAP9)
    names = {name for stream in residual_streams(program) for name in stream}
    given = calibrate(bare, [noise(900, 5)])
    moved = dict.fromkeys(given.ranges[8], shared)
    replace(given, ranges={8: moved, 16: given.ranges[16]}).save(other)
    plain, out = tmp_path / "plain.safetensors", tmp_path / "out.safetensors"
    base = [str(weights), "--calibrate", str(folder), "--seconds", "0.1"]
    for more in ([], ["--observer", "minmax"]):
        assert main([*base, *more, "-o", str(plain)]) == 0
        assert main([*base, *more, "-o", str(out), "--streams", str(other)]) == 0
        before, found = load_container(plain), load_container(out)
        assert {name for name, span in found.ranges[8].items() if span == shared} == names
        assert all(before.ranges[8][name] == span for name, span in found.ranges[8].items() if name not in names)
        assert before.ranges[16] == found.ranges[16]
        assert found.card["calibration"] == {**before.card["calibration"], "streams": load_container(other).digest}
    assert main([*base, "-o", str(out), "--streams", str(other), "--streams-scale", "1.25"]) == 0
    wider = load_container(out)
    assert {name for name, span in wider.ranges[8].items() if span == (-1.875, 4.0625)} == names
    assert wider.card["calibration"]["streams_scale"] == 1.25
    for more in (["--streams", str(other), "--streams-scale", "0"], ["--streams-scale", "1.25"]):
        assert main([*base, "-o", str(tmp_path / "none"), *more]) == 2
    assert "--streams-scale is of the ranges of --streams; give that too" in capsys.readouterr().err
    smaller = tmp_path / "2f.safetensors"
    tiny_container(compression=2).save(smaller)
    for file, reason in ((weights, "--streams: has no 8-bit ranges"), (smaller, "--streams: is of another network")):
        assert main([*base, "-o", str(tmp_path / "none"), "--streams", str(file)]) == 2
        assert reason in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert main([*base, "-o", str(other), "--streams", str(other)]) == 2
    assert "would overwrite the input" in capsys.readouterr().err


@pytest.mark.parametrize("lstm_scale", [0.1, 1.0])
def test_every_sum_of_8_bit_codes_is_nearly_free_of_offset(bare: Container, lstm_scale: float) -> None:
    """Against the ranges as observed, and within a hundredth of a code for cells, which add their offset up."""
    weights = {name: (w * lstm_scale if "lstm" in name else w) for name, w in bare.weights.items()}
    container = replace(bare, weights=weights)
    clip = [noise(96 * 20, 4)]
    found, plain = calibrate(container, clip).ranges[8], calibrate(container, clip, "minmax").ranges[8]
    program = tf_mlpnet.build(bare.config, bare.weights, {}, load_preset("fp32"), GAP9)
    sums = [(step.outputs[0], *(ref.tensor for ref in step.inputs)) for step in program.steps if step.operator == "add_f32"]
    offsets = []
    for ranges in (found, plain):
        formats = {name: activation_format(*span, 8) for name, span in ranges.items()}
        offsets.append([residual_errors(formats[a], formats[b], formats[y])[0] for y, a, b in sums])
    assert len(sums) == 6 and sum(map(abs, offsets[0])) < 0.5 * sum(map(abs, offsets[1]))
    cells = [abs(offset) for (y, *_), offset in zip(sums, offsets[0], strict=True) if y.endswith(".lstm.c")]
    assert len(cells) == 1 and max(cells) < 0.01


def test_the_same_again(weights: Path, folder: Path, tmp_path: Path) -> None:
    """The same bytes from the same files; a quantized container can be calibrated anew."""
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for source, out in ((weights, a), (weights, b), (a, c)):
        assert main([str(source), "--calibrate", str(folder), "-o", str(out), "--seconds", "0.05", *FAST]) == 0
    assert a.read_bytes() == b.read_bytes() == c.read_bytes()


def test_observers_and_limit(weights: Path, folder: Path, bare: Container, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--limit", "1", "--seconds", "0.1", "--observer", "percentile", "--observer-16", "percentile"]
    assert main([str(weights), "--calibrate", str(folder), "-o", str(out), *options]) == 0
    expected = calibrate(bare, [noise(20000, 3)[:1600]], "percentile", "percentile")
    assert load_container(out).ranges == expected.ranges


def test_files_are_sorted_and_hidden_ones_passed_over(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in find_audio(folder)]
    assert names == ["a.wav", "b.WAV", "sub/a.flac"]


@pytest.mark.parametrize("n", [1, 1599, 1600, 1601, 3200])
def test_a_clip_is_the_start_of_its_file(n: int, tmp_path: Path) -> None:
    audio.write_pcm(tmp_path / "a.wav", noise(n))
    clips = Clips([tmp_path / "a.wav"], 0.1, False, None)
    assert np.array_equal(next(iter(clips)), noise(n)[:1600])


def test_resample_and_channel(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("soxr")
    folder, out = tmp_path / "mixtures", tmp_path / "out"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.stack([noise(800), noise(800, 2)], 1), 8000)
    argv = [str(weights), "--calibrate", str(folder), "-o", str(out), *FAST]
    refused(main, argv, capsys, "a.wav", "--channel")
    refused(main, [*argv, "--channel", "mix"], capsys, "a.wav", "--resample")
    assert main([*argv, "--channel", "mix", "--resample"]) == 0
    pcm = audio.read_pcm(folder / "a.wav", resample=True, channel="mix")
    digest = hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()
    assert load_container(out).card["calibration"]["sha256"] == digest


def test_bad_input(weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no audio")
    before = tree(tmp_path)
    argv = [weights, "-o", out, *FAST, "--calibrate"]
    refused(main, [*argv, empty], capsys, "empty", "no audio files")
    refused(main, [*argv, tmp_path / "no"], capsys, "no", "not a folder")
    refused(main, [*argv, weights], capsys, "not a folder")
    refused(main, [tmp_path / "no.safetensors", *argv[1:], folder], capsys, "no.safetensors")
    refused(main, [weights, "--calibrate", folder, "-o", weights], capsys, "overwrite the input")
    refused(main, [weights, "--calibrate", folder, "-o", weights / "out"], capsys, "folder does not exist")
    for option, value in (("--limit", "0"), ("--seconds", "0"), ("--seconds", "nan"), ("--observer", "best")):
        refused(main, [*argv, folder, option, value], capsys, option)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("late", [False, True])
def test_unreadable_file_is_named(
    late: bool, weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether its header tells, or only its samples."""
    if late:
        soundfile.write(folder / "sub" / "z.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    else:
        (folder / "sub" / "z.wav").write_text("no audio")
    before = tree(tmp_path)
    refused(main, [weights, "--calibrate", folder, "-o", tmp_path / "out", *FAST, "--seconds", "0.1"], capsys, "z.wav")
    assert tree(tmp_path) == before


def test_tampered_weights(weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1
    weights.write_bytes(data)
    refused(main, [weights, "--calibrate", folder, "-o", tmp_path / "out"], capsys, "checksum")


def test_a_quantized_container_is_smaller(bare: Container) -> None:
    sizes = {preset: nominal_bytes(bare.config, load_preset(preset)) for preset in NAMES}
    assert sizes["fp32"] == 4 * parameter_count(bare.config) and sizes["int8"] == parameter_count(bare.config)
