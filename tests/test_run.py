"""The command line ``refimpl.run``: its outputs against the library, its promises about files, and every bad input."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from refimpl import audio, cli, run
from refimpl.audio import read_pcm, write_pcm
from refimpl.errors import InputError
from refimpl.run import main
from refimpl.session import Model, Stream
from tests.tiny import noise, refused, tiny_container, tree

ROOT = Path(__file__).resolve().parent.parent
Weights = Path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tiny_container().save(path)
    return path


@pytest.fixture(scope="session")
def model() -> Model:
    return Model(tiny_container(), "mixmlp")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "mix.wav"
    write_pcm(path, noise(2000))
    return path


def outputs(path: Path, folder: Path | None = None) -> np.ndarray:
    folder = folder or path.parent
    return np.stack([read_pcm(folder / f"{path.stem}_speaker{s}.wav") for s in (1, 2)])


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 95, 96, 97, 2000, 20000])
def test_outputs_equal_the_library(n: int, clip: Path, weights: Weights, model: Model) -> None:
    pcm = noise(n)
    write_pcm(clip, pcm)
    assert main([str(clip), "--weights", str(weights)]) == 0
    assert np.array_equal(outputs(clip), model.separate(pcm))
    assert sorted(os.listdir(clip.parent)) == ["mix.wav", "mix_speaker1.wav", "mix_speaker2.wav"]
    info = soundfile.info(clip.with_name("mix_speaker1.wav"))
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


def test_preset_option_and_out_folder(clip: Path, weights: Weights) -> None:
    out = clip.parent / "out"
    assert main([str(clip), "--weights", str(weights), "--preset", "fp32", "--out", str(out)]) == 0
    assert np.array_equal(outputs(clip, out), Model(tiny_container(), "fp32").separate(read_pcm(clip)))
    assert sorted(os.listdir(clip.parent)) == ["mix.wav", "out"]


def test_text(clip: Path, weights: Weights, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--weights", str(weights)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) == 5 and model.weights_sha256 in lines[1] and lines[2].endswith("x real time")
    for line, voice, speaker in zip(lines[3:], model.separate(read_pcm(clip)), (1, 2), strict=True):
        path, digest, clipped, word = line.split()
        assert path.endswith(f"mix_speaker{speaker}.wav") and clipped.isdigit() and word == "clipped"
        assert digest == hashlib.sha256(voice.astype("<i2").tobytes()).hexdigest()


def test_json(clip: Path, weights: Weights, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    other = clip.with_name("other.wav")
    write_pcm(other, noise(500, 2))
    assert main([str(clip), str(other), "--weights", str(weights), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {key: document[key] for key in model.identity} == model.identity
    assert [entry["input"] for entry in document["inputs"]] == [str(clip), str(other)]
    for entry, path in zip(document["inputs"], (clip, other), strict=True):
        pcm = read_pcm(path)
        assert entry["samples"] == len(pcm) and entry["seconds"] == len(pcm) / 16000 and entry["real_time_factor"] > 0
        assert entry["dump"] is None
        for made, voice in zip(entry["outputs"], model.separate(pcm), strict=True):
            assert made["sha256"] == hashlib.sha256(voice.astype("<i2").tobytes()).hexdigest()
            assert np.array_equal(read_pcm(Path(made["path"])), voice)


@pytest.mark.parametrize("n", [1, 50, 96, 1000])
def test_clipped_samples_are_counted_exactly(n: int, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A decoder a thousand times too loud clips most samples; those beyond the end of the clip do not count."""
    container = tiny_container()
    loud = {k: v * 1000 if k.startswith("decoder") else v for k, v in container.weights.items()}
    path = tmp_path / "loud.safetensors"
    replace(container, weights=loud).save(path)
    write_pcm(clip, noise(n))
    assert main([str(clip), "--weights", str(path), "--preset", "fp32", "--json"]) == 0
    counts = [made["clipped"] for made in json.loads(capsys.readouterr().out)["inputs"][0]["outputs"]]
    voices = outputs(clip)
    assert counts == [int(((v == 32767) | (v == -32768)).sum()) for v in voices]
    assert n < 1000 or min(counts) > 0


def test_several_inputs_go_on_after_an_error(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    bad = clip.with_name("bad.wav")
    soundfile.write(bad, np.array([0.0, np.nan, 0.0]), 16000, subtype="DOUBLE")
    assert main([str(bad), str(clip), "--weights", str(weights), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and "bad.wav" in captured.err
    assert [entry["input"] for entry in json.loads(captured.out)["inputs"]] == [str(clip)]
    assert sorted(os.listdir(clip.parent)) == ["bad.wav", "mix.wav", "mix_speaker1.wav", "mix_speaker2.wav"]


def test_all_headers_are_checked_first(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wav", "b.wav"):
        clip.with_name(name).write_text("no audio")
    before = tree(clip.parent)
    argv = [str(clip), str(clip.with_name("a.wav")), str(clip.with_name("b.wav")), "--weights", str(weights)]
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ["a.wav" in lines[0], "b.wav" in lines[1], len(lines)] == [True, True, 2]
    assert tree(clip.parent) == before


def test_resample_and_channel(clip: Path, weights: Weights, model: Model) -> None:
    pytest.importorskip("soxr")
    stereo = clip.with_name("stereo.wav")
    soundfile.write(stereo, np.stack([noise(1500, 1), noise(1500, 2)], 1), 8000, subtype="PCM_16")
    for choice, value in (("2", 2), ("mix", "mix")):
        assert main([str(stereo), "--weights", str(weights), "--resample", "--channel", choice]) == 0
        pcm = read_pcm(stereo, resample=True, channel=value)  # type: ignore[arg-type]
        assert len(pcm) > 2900 and np.array_equal(outputs(stereo), model.separate(pcm))


def test_preset_file(clip: Path, weights: Weights) -> None:
    path = clip.with_name("mine.json")
    path.write_text('{"formats": [["*", "f32"]]}')
    assert main([str(clip), "--weights", str(weights), "--preset", str(path)]) == 0
    assert np.array_equal(outputs(clip), Model(tiny_container(), "fp32").separate(read_pcm(clip)))


def test_progress_bar_is_for_long_files_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with run._progress(Path("a\nb.wav"), 9.0) as bar:
        assert bar.disable
    with run._progress(Path("a\nb.wav"), 11.0) as bar:
        assert not bar.disable
        bar.update(5.0)
        assert "\n" not in str(bar) and "5/11 s" in str(bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with run._progress(Path("a.wav"), 11.0) as bar:
        assert bar.disable


def test_memory_does_not_grow_with_the_input(clip: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network never gets more than a block at once."""
    write_pcm(clip, noise(40000))
    seen: list[int] = []
    push = Stream.push

    def watched(self: Stream, pcm: np.ndarray) -> np.ndarray:
        seen.append(len(pcm))
        return push(self, pcm)

    monkeypatch.setattr(Stream, "push", watched)
    assert main([str(clip), "--weights", str(weights)]) == 0
    assert sum(seen) == 40000 and max(seen) == 64 * 96


# -- dumps and lists ---------------------------------------------------------------------------------------------------


def test_dump_is_what_trace_gives(clip: Path, weights: Weights, model: Model) -> None:
    folder = clip.parent / "dump"
    argv = [str(clip), "--weights", str(weights), "--dump", str(folder), "--steps", "block1.lstm.*, pcm", "--frames", "2:5"]
    assert main(argv) == 0
    pcm = read_pcm(clip)
    traced = model.trace(pcm, ("block1.lstm.*", "pcm"), (2, 5))
    document = json.loads((folder / "mix" / "dump.json").read_text())
    assert document["identity"] == model.identity
    assert document["input"] == {"name": "mix.wav", "samples": 2000, "sha256": hashlib.sha256(pcm.tobytes()).hexdigest()}
    assert set(document["tensors"]) == set(traced)
    assert sorted(os.listdir(folder / "mix")) == sorted(["dump.json", *(f"{name}.npy" for name in traced)])
    for name, values in traced.items():
        entry, form = document["tensors"][name], model.program.tensors[name].format
        stored = np.load(folder / "mix" / entry["file"], allow_pickle=False)
        assert stored.dtype == values.dtype and np.array_equal(stored, values)
        assert entry["shape"] == list(values.shape) and entry["first_frame"] == 2
        assert (entry["kind"], entry["scale"], entry["zero_point"]) == (form.kind, form.scale, form.zero_point)
    assert np.array_equal(outputs(clip), model.separate(pcm))
    assert os.listdir(folder) == ["mix"]


def test_dump_of_everything_into_an_empty_folder(clip: Path, weights: Weights, model: Model) -> None:
    (clip.parent / "dump" / "mix").mkdir(parents=True)
    write_pcm(clip, noise(300))
    assert main([str(clip), "--weights", str(weights), "--dump", str(clip.parent / "dump")]) == 0
    document = json.loads((clip.parent / "dump" / "mix" / "dump.json").read_text())
    assert set(document["tensors"]) == set(model.program.tensors)
    assert all(entry["shape"][0] == 4 and entry["first_frame"] == 0 for entry in document["tensors"].values())


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--frames", "2:99"), ("mix.wav", "2:99")),
        (("--steps", "pcm,nothing*"), ("nothing*", "--list-tensors")),
        (("--steps", "pcm,,"), ("empty",)),
        (("--frames", "5:5"), ("FIRST < STOP",)),
        (("--frames", "a:5"), ("FIRST:STOP",)),
    ],
)
def test_bad_dump_options(
    extra: tuple[str, ...], words: tuple[str, ...], clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(clip.parent)
    refused(main, [clip, "--weights", weights, "--dump", clip.parent / "new", *extra], capsys, *words)
    assert tree(clip.parent) == before


def test_dump_refuses_a_folder_with_files(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    (clip.parent / "dump" / "mix").mkdir(parents=True)
    (clip.parent / "dump" / "mix" / "keep").write_text("mine")
    before = tree(clip.parent)
    refused(main, [clip, "--weights", weights, "--dump", clip.parent / "dump"], capsys, "mix", "not an empty folder")
    assert tree(clip.parent) == before


@pytest.mark.parametrize("option", [("--steps", "pcm"), ("--frames", "0:1")])
def test_dump_options_want_dump(option: tuple[str, str], clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, [clip, *option], capsys, "--dump")


def test_dump_on_a_full_disk(
    clip: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = tree(clip.parent)
    monkeypatch.setattr(run.np, "save", full)
    refused(main, [clip, "--weights", weights, "--dump", clip.parent / "dump"], capsys, "mix.wav", "No space left")
    assert tree(clip.parent) == before


def test_list_tensors(weights: Weights, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-tensors", "--weights", str(weights)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "kind", "shape", "scale", "zero", "point"]
    assert [row.split()[0] for row in rows] == list(model.program.tensors)
    for row, tensor in zip(rows, model.program.tensors.values(), strict=True):
        _, kind, shape, scale, zero = row.split()
        assert kind == tensor.format.kind and shape == "x".join(map(str, tensor.shape))
        if tensor.format.is_code:
            assert float(scale) == tensor.format.scale and int(zero) == tensor.format.zero_point
    assert main(["--list-tensors", "--weights", str(weights), "--steps", "pcm", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["tensors"]
    assert listed == {"pcm": {"kind": "int16", "scale": 2.0**-15, "zero_point": 0, "shape": [2, 96]}}


# -- together or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stood", [False, True])
def test_failing_second_writer_leaves_all_as_it_was(
    stood: bool, clip: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if stood:
        for speaker in (1, 2):
            write_pcm(clip.with_name(f"mix_speaker{speaker}.wav"), noise(10, speaker))
    before = tree(clip.parent)
    real = os.replace

    def failing(source: Any, target: Any) -> None:
        if str(target).endswith("_speaker2.wav") and str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(audio.os, "replace", failing)
    refused(main, [clip, "--weights", weights, "--dump", clip.parent / "dump"], capsys, "mix_speaker2.wav", "No space left")
    assert tree(clip.parent) == before


def test_existing_outputs_are_replaced(clip: Path, weights: Weights, model: Model) -> None:
    write_pcm(clip.with_name("mix_speaker2.wav"), noise(10))
    assert main([str(clip), "--weights", str(weights)]) == 0
    assert np.array_equal(outputs(clip), model.separate(read_pcm(clip))) and len(os.listdir(clip.parent)) == 3


def test_interrupt(clip: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = tree(clip.parent)
    monkeypatch.setattr(Stream, "flush", interrupted)
    out = clip.parent / "new"
    assert main([str(clip), "--weights", str(weights), "--out", str(out), "--dump", str(out)]) == 130
    assert tree(clip.parent) == before


def test_interrupt_while_placing(clip: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    real = audio.PcmWriter.__exit__

    def interrupted(self: audio.PcmWriter, *problem: Any) -> None:
        real(self, *problem)
        if problem[0] is None and self.path.name == "mix_speaker2.wav":
            raise KeyboardInterrupt

    before = tree(clip.parent)
    monkeypatch.setattr(audio.PcmWriter, "__exit__", interrupted)
    assert main([str(clip), "--weights", str(weights)]) == 130
    assert tree(clip.parent) == before


# -- bad input ---------------------------------------------------------------------------------------------------------


def float_wav(path: Path, samples: list[float]) -> None:
    soundfile.write(path, np.array(samples), 16000, subtype="FLOAT")


def truncated(path: Path) -> None:
    write_pcm(path, noise(1000))
    path.write_bytes(path.read_bytes()[:-100])


BAD_AUDIO: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (truncated, "truncated"),
    "text": (lambda path: path.write_text("this is no audio\n" * 9), "not an audio file"),
    "nan": (lambda path: float_wav(path, [0.0, float("nan"), 0.5]), "NaN"),
    "infinite": (lambda path: float_wav(path, [0.0, float("inf")]), "infinite"),
    "no_samples": (lambda path: write_pcm(path, noise(0)), "0 samples"),
    "slow": (lambda path: soundfile.write(path, noise(100), 8000), "--resample"),
    "stereo": (lambda path: soundfile.write(path, noise(100).reshape(-1, 2), 16000), "--channel"),
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_bad_audio(case: str, tmp_path: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    make, word = BAD_AUDIO[case]
    path = tmp_path / f"{case}.wav"
    make(path)
    before = tree(tmp_path)
    refused(main, [path, "--weights", weights, "--out", tmp_path / "out"], capsys, path.name, word)
    assert tree(tmp_path) == before


def test_channel_that_is_not_there(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, [clip, "--weights", weights, "--channel", "2"], capsys, "mix.wav", "channel 2")
    for text in ("0", "-1", "left", "²"):
        refused(main, [clip, "--weights", weights, f"--channel={text}"], capsys, "--channel")


@pytest.mark.parametrize("where", ["mix.wav/out", "mix.wav", "no/such"])
@pytest.mark.parametrize("option", ["--out", "--dump"])
def test_unwritable_folder(option: str, where: str, clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(clip.parent)
    refused(main, [clip, "--weights", weights, option, clip.parent / where], capsys, str(where))
    assert tree(clip.parent) == before


def test_output_name_is_a_folder(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    clip.with_name("mix_speaker2.wav").mkdir()
    before = tree(clip.parent)
    refused(main, [clip, "--weights", weights], capsys, "mix_speaker2.wav", "folder")
    assert tree(clip.parent) == before


def header_digit(data: bytes) -> bytes:
    """Change one digit of a calibrated range, inside the JSON header."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    at = data.index(b"block1.spectral_add", 0, end)
    at = next(i for i in range(data.index(b".", at + 24) + 3, end) if data[i : i + 1].isdigit())
    return data[:at] + bytes([48 + (data[at] - 48 + 1) % 10]) + data[at + 1 :]


BAD_WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "flipped": (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "checksum"),
    "header": (header_digit, "checksum"),
    "truncated": (lambda data: data[:-10], "not a whole safetensors file"),
    "longer": (lambda data: data + b"\0", "not a whole safetensors file"),
    "short": (lambda data: data[:5], "not a whole safetensors file"),
    "empty": (lambda data: b"", "not a whole safetensors file"),
    "text": (lambda data: b"weights", "not a whole safetensors file"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights(case: str, clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    change, word = BAD_WEIGHTS[case]
    path = clip.with_name("bad.safetensors")
    path.write_bytes(change(weights.read_bytes()))
    before = tree(clip.parent)
    refused(main, [clip, "--weights", path, "--out", clip.parent / "out"], capsys, path.name, word)
    assert tree(clip.parent) == before


def test_missing_weights(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, [clip, "--weights", clip.with_name("no.safetensors")], capsys, "no.safetensors")


def test_preset_that_the_container_lacks(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = clip.with_name("float.safetensors")
    replace(tiny_container(), ranges={}, presets=("fp32",)).save(path)
    before = tree(clip.parent)
    refused(main, [clip, "--weights", path], capsys, "mixmlp", "refimpl.quantize")
    assert tree(clip.parent) == before


@pytest.mark.parametrize("option", ["--preset", "--profile"])
def test_unknown_preset_and_profile(option: str, clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(clip.parent)
    refused(main, [clip, "--weights", weights, option, "nope"], capsys, "nope", "unknown")
    assert tree(clip.parent) == before


def test_collisions(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    (clip.parent / "sub").mkdir()
    twin, voice = clip.parent / "sub" / "mix.wav", clip.with_name("mix_speaker1.wav")
    for path in (twin, voice):
        write_pcm(path, noise(100))
    before = tree(clip.parent)
    refused(main, [clip, clip, "--weights", weights], capsys, "mix_speaker1.wav")
    refused(main, [clip, twin, "--weights", weights, "--out", clip.parent / "new"], capsys, "both", str(twin))
    refused(main, [clip, twin, "--weights", weights, "--dump", clip.parent / "new"], capsys, "both", str(twin))
    refused(main, [clip, voice, "--weights", weights], capsys, "overwrite the input")
    assert tree(clip.parent) == before


@pytest.mark.parametrize("argv", [(), ("a.wav", "--no-such-option"), ("a.wav", "--pre", "int8"), ("a.wav", "--out")])
def test_bad_command_lines(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, argv, capsys, "--help")


def test_names_that_do_not_print_stay_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\\n" in refused(main, [tmp_path / "a\nb.wav"], capsys, "no such file")


# -- the process -------------------------------------------------------------------------------------------------------


def command(*argv: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "refimpl.run", *map(str, argv)],
        **{"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_module_runs_and_exits(clip: Path, weights: Weights) -> None:
    process = command(clip, "--weights", weights)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "x real time" in out and "error" not in err
    process = command(clip.with_name("no.wav"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    process = command("--help")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "--list-tensors" in out and err == ""


def test_reader_that_goes_away_is_no_error(weights: Weights) -> None:
    read, write = os.pipe()
    os.close(read)
    process = command("--list-tensors", "--weights", weights, stdout=write)
    os.close(write)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_stdout_that_takes_nothing(weights: Weights) -> None:
    with Path("/dev/full").open("w") as full:
        process = command("--list-tensors", "--weights", weights, stdout=full)
        err = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and err.startswith("error: standard output") and err.count("\n") == 1


def test_first_run_says_that_it_compiles(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "cache_is_cold", lambda: True)
    assert main(["--list-tensors", "--weights", str(weights)]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "compiling" in err and "first run only" in err
    monkeypatch.setattr(cli, "cache_folder", lambda: Path("no/such/folder"))
    cli.announce_compilation()
    assert "REFIMPL_CACHE_DIR" in capsys.readouterr().err


def test_guarded_passes_programming_errors_on() -> None:
    def broken() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        cli.guarded(broken)
    assert issubclass(InputError, ValueError)


# -- the clean voices ---------------------------------------------------------------------------------------------------


def test_references_give_the_improvement(tmp_path: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    voices = np.stack([noise(3000, 1), noise(3000, 2)]) // 4
    for name, pcm in (("a", voices[0]), ("b", voices[1]), ("mix", voices.sum(0).astype(np.int16))):
        write_pcm(tmp_path / f"{name}.wav", pcm.astype(np.int16))
    argv = [
        str(tmp_path / "mix.wav"),
        "--weights",
        str(weights),
        "--references",
        str(tmp_path / "a.wav"),
        str(tmp_path / "b.wav"),
    ]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["si_sdri"]
    estimate = outputs(tmp_path / "mix.wav").astype(np.float64)
    # The definition once more: projection on each voice, the better order of the outputs.
    ratio = np.empty((2, 2))
    for s, e in enumerate(estimate - estimate.mean(1, keepdims=True)):
        for v, r in enumerate(voices - voices.mean(1, keepdims=True)):
            target = (e @ r) / (r @ r) * r
            ratio[s, v] = 10 * np.log10((target @ target) / ((e - target) @ (e - target)))
    straight, swapped = [ratio[0, 0], ratio[1, 1]], [ratio[1, 0], ratio[0, 1]]
    mix = voices.sum(0) - voices.sum(0).mean()
    before = []
    for r in voices - voices.mean(1, keepdims=True):
        target = (mix @ r) / (r @ r) * r
        before.append(10 * np.log10((target @ target) / ((mix - target) @ (mix - target))))
    best = straight if sum(straight) >= sum(swapped) else swapped
    assert found == pytest.approx([a - b for a, b in zip(best, before, strict=True)], abs=0.011)
    assert main(argv) == 0
    assert f"improvement over the mixture: {found[0]:.2f}, {found[1]:.2f} dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (["mix.wav"], "1 files for 2 speakers"),
        (["mix.wav", "short.wav"], "100 samples, but the mixture has 2000"),
        (["mix.wav", "none.wav"], "none.wav"),
    ],
)
def test_wrong_references(
    references: list[str], message: str, clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pcm(clip.parent / "short.wav", noise(100))
    paths = [str(clip.parent / name) for name in references]
    refused(main, [clip, "--weights", weights, "--references", *paths], capsys, message)


def test_references_are_of_one_input(clip: Path, weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    write_pcm(clip.parent / "other.wav", noise(100))
    argv = [str(clip), str(clip.parent / "other.wav"), "--weights", str(weights), "--references", str(clip), str(clip)]
    refused(main, argv, capsys, "give one INPUT")
