"""Audio files: the rounding rules against exact arithmetic, every refusal, atomic writing, blocks against the whole."""

from __future__ import annotations

import builtins
import importlib
import os
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import audio
from refimpl.audio import RATE, AudioInfo, PcmWriter, probe, read_blocks, read_pcm, write_pcm
from refimpl.errors import InputError

INT16 = st.integers(-32768, 32767)


def refused(call: Callable[[], Any], path: Path, *words: str) -> str:
    """The call raises InputError: one line that names the file and has all the words; returns the message."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message == message.strip() and message.isprintable(), message
    for word in (path.name, *words):
        assert word in message, (word, message)
    return message


def wav(
    data: bytes,
    *,
    bits: int = 16,
    channels: int = 1,
    rate: int = RATE,
    code: int = 1,
    size: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A RIFF/WAVE file by hand, ``extra`` chunks before the data, ``size`` in the place of the data's true size."""
    align = channels * bits // 8
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * align, align, bits)
    body = b"WAVE" + fmt + extra + struct.pack("<4sI", b"data", len(data) if size is None else size) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def wav16(samples: Any, **options: Any) -> bytes:
    return wav(np.asarray(samples, dtype="<i2").tobytes(), **options)


def wav_float(samples: Any, bits: Literal[32, 64] = 64, **options: Any) -> bytes:
    return wav(np.asarray(samples, dtype=f"<f{bits // 8}").tobytes(), bits=bits, code=3, **options)


def exact(value: Fraction) -> int:
    """q of a rational number of int16 steps; Python's round of a Fraction rounds half to even."""
    return min(max(round(value), -32768), 32767)


def noise(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, n).astype(np.int16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clip.wav"


@pytest.fixture
def no_soxr(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fail(name: str, package: str | None = None) -> ModuleType:
        if name == "soxr":
            raise ModuleNotFoundError("No module named 'soxr'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fail)


# ---- rule A-1: integer sources


@settings(max_examples=50, deadline=None)
@given(st.lists(INT16, min_size=1, max_size=300))
def test_round_trip(values: list[int]) -> None:
    pcm = np.array(values, dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        write_pcm(path, pcm)
        back = read_pcm(path)
        assert back.dtype == np.int16 and np.array_equal(back, pcm)
        assert path.read_bytes() == wav16(pcm)
        assert os.listdir(folder) == ["a.wav"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(-(2**23), 2**23 - 1),
            st.builds(lambda k: 256 * k + 128, st.integers(-(2**15), 2**15 - 1)),
            st.builds(lambda k, d: 256 * k + 128 + d, st.integers(-(2**15), 2**15 - 1), st.sampled_from([-1, 1])),
        ),
        min_size=1,
        max_size=100,
    )
)
def test_24_bit_rounds_half_to_even(values: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(wav(b"".join(v.to_bytes(3, "little", signed=True) for v in values), bits=24))
        assert read_pcm(path).tolist() == [exact(Fraction(v, 256)) for v in values]


def test_24_bit_extremes(file: Path) -> None:
    values = [-(2**23), 2**23 - 1, 127 * 256 + 128, 128 * 256 + 128, -128, -384, 128, 384, 32767 * 256 + 127]
    file.write_bytes(wav(b"".join(v.to_bytes(3, "little", signed=True) for v in values), bits=24))
    assert read_pcm(file).tolist() == [-32768, 32767, 128, 128, 0, -2, 0, 2, 32767]


def test_32_and_8_bit(file: Path) -> None:
    values = [-(2**31), 2**31 - 1, 2**15, 3 * 2**15, -(2**15), -3 * 2**15, 2**15 + 1, 2**15 - 1, 123456789, -123456789]
    file.write_bytes(wav(np.array(values, dtype="<i4").tobytes(), bits=32))
    assert read_pcm(file).tolist() == [exact(Fraction(v, 2**16)) for v in values]
    file.write_bytes(wav(bytes([0, 1, 128, 255]), bits=8))
    assert read_pcm(file).tolist() == [-32768, -32512, 0, 32512]


def test_flac_equals_wav(tmp_path: Path) -> None:
    pcm = noise(70000)
    write_pcm(tmp_path / "a.wav", pcm)
    soundfile.write(tmp_path / "a.flac", pcm, RATE, subtype="PCM_16")
    assert np.array_equal(read_pcm(tmp_path / "a.flac"), pcm)
    assert np.array_equal(read_pcm(tmp_path / "a.wav"), pcm)
    wide = np.random.default_rng(2).integers(-(2**31), 2**31, 5000).astype(np.int32) & ~np.int32(255)
    for name in ("b.wav", "b.flac"):
        soundfile.write(tmp_path / name, wide, RATE, subtype="PCM_24")
    assert np.array_equal(read_pcm(tmp_path / "b.flac"), read_pcm(tmp_path / "b.wav"))
    assert read_pcm(tmp_path / "b.wav").tolist() == [exact(Fraction(int(v), 2**16)) for v in wide]


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    pcm = noise(10000)
    path = tmp_path / "a.flac"
    soundfile.write(path, pcm, RATE, subtype="PCM_16")
    raw = bytearray(path.read_bytes())
    assert raw[:4] == b"fLaC" and raw[4] & 127 == 0  # STREAMINFO comes first; its 36-bit sample count is at byte 21.5
    raw[21] &= 0xF0
    raw[22:26] = bytes(4)
    path.write_bytes(raw)
    assert np.array_equal(read_pcm(path), pcm)
    assert probe(path) == AudioInfo(RATE, 1, 10000, "PCM_16")


# ---- rule A-2: float sources


def test_float_ties_and_saturation(file: Path) -> None:
    steps = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999999999999994]
    steps += [32766.5, 32767.4999, 32767.5, 32768, -32768, -32768.5]
    file.write_bytes(wav_float([s / 32768 for s in steps]))
    assert read_pcm(file).tolist() == [exact(Fraction(s)) for s in steps]
    assert read_pcm(file).tolist()[:7] == [0, 2, 2, 0, -2, -2, 0]
    file.write_bytes(wav_float([1.0, 1.5, -1.0, -1.5, 1e38, -1e38], bits=32))
    assert read_pcm(file).tolist() == [32767, 32767, -32768, -32768, 32767, -32768]
    file.write_bytes(wav_float([1.7e308, -1.7e308, 5e-324]))
    assert read_pcm(file).tolist() == [32767, -32768, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=50))
def test_float_law(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(wav_float(values, bits=32))
        assert read_pcm(path).tolist() == [exact(Fraction(v) * 32768) for v in values]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite(file: Path, bad: float) -> None:
    x = np.zeros(300000)
    x[[70001, 70002, 290000]] = bad
    file.write_bytes(wav_float(x, bits=32))
    refused(lambda: read_pcm(file), file, "3 of 300000 samples", "NaN or infinite", "index 70001", "replace")
    assert probe(file).frames == 300000


def test_nonfinite_only_counts_in_the_channels_used(file: Path) -> None:
    file.write_bytes(wav_float([[0.5, np.nan], [0.25, 0.0]], channels=2))
    assert read_pcm(file, channel=1).tolist() == [16384, 8192]
    refused(lambda: read_pcm(file, channel=2), file, "1 of 2", "index 0")
    refused(lambda: read_pcm(file, channel="mix"), file, "1 of 2", "index 0")


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_is_a_float_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, subtype: str) -> None:
    if subtype not in soundfile.available_subtypes(form if form in soundfile.available_formats() else "WAV"):
        pytest.skip("this libsndfile cannot write it")
    path = tmp_path / "a.lossy"
    x = 0.5 * np.sin(2 * np.pi * 440 / RATE * np.arange(20000))
    soundfile.write(path, x, RATE, format=form, subtype=subtype)
    with soundfile.SoundFile(path) as snd:
        decoded = snd.read(dtype="float64")
    assert probe(path) == AudioInfo(RATE, 1, len(decoded), subtype)
    pcm = read_pcm(path)
    assert np.array_equal(pcm, np.clip(np.rint(decoded * 32768), -32768, 32767))
    monkeypatch.setattr(audio, "_CHUNK", 1000)  # many reads, and nothing heard of where one ends
    assert np.array_equal(read_pcm(path), pcm)


# ---- rule A-3: channels and resampling


def test_channels(file: Path) -> None:
    frames = noise(3000).reshape(1000, 3)
    file.write_bytes(wav16(frames, channels=3))
    for n in (1, 2, 3):
        assert np.array_equal(read_pcm(file, channel=n), frames[:, n - 1])
    assert read_pcm(file, channel="mix").tolist() == [exact(Fraction(int(f.sum(dtype=int)), 3)) for f in frames]
    refused(lambda: read_pcm(file), file, "3 channels", "--channel N|mix")
    wrong: Any
    for wrong in (0, 4, -1, "left", True, 1.0):
        refused(partial(read_pcm, file, channel=wrong), file, repr(wrong), "--channel N|mix", "1 to 3")


def test_mix_ties_and_wider_sources(file: Path) -> None:
    file.write_bytes(wav16([[0, 1], [1, 2], [-1, 0], [-2, -1], [32767, 32767], [-32768, -32768]], channels=2))
    assert read_pcm(file, channel="mix").tolist() == [0, 2, 0, -2, 32767, -32768]
    values = np.random.default_rng(3).integers(-(2**31), 2**31, (500, 5))
    values[0] = [2**15, 0, 0, 0, 2**31 - 1]
    file.write_bytes(wav(values.astype("<i4").tobytes(), bits=32, channels=5))
    assert read_pcm(file, channel="mix").tolist() == [exact(Fraction(int(f.sum()), 5 * 2**16)) for f in values]
    file.write_bytes(wav_float([[1.5, -1.5], [2.0, 1.0], [1.7e308, 1.7e308]], channels=2))
    assert read_pcm(file, channel="mix").tolist() == [0, 32767, 32767]


def test_channel_of_a_mono_file(file: Path) -> None:
    write_pcm(file, noise(10))
    assert np.array_equal(read_pcm(file, channel=1), noise(10))
    assert np.array_equal(read_pcm(file, channel="mix"), noise(10))
    refused(lambda: read_pcm(file, channel=2), file, "no channel 2", "--channel")


def test_other_rate(file: Path) -> None:
    file.write_bytes(wav16(noise(100), rate=44100))
    refused(lambda: read_pcm(file), file, "44100 Hz", "--resample")
    assert probe(file) == AudioInfo(44100, 1, 100, "PCM_16")


def test_resample_at_16_khz_changes_nothing(file: Path, no_soxr: None) -> None:
    write_pcm(file, noise(1000))
    assert np.array_equal(read_pcm(file, resample=True), noise(1000))


def test_without_soxr(file: Path, no_soxr: None) -> None:
    file.write_bytes(wav16(noise(100), rate=48000))
    refused(lambda: read_blocks(file, resample=True), file, "48000 Hz", "pip install soxr")


def test_resampled_sine(file: Path) -> None:
    pytest.importorskip("soxr")
    t = np.arange(48000)
    left = 0.5 * np.sin(2 * np.pi * 1000 / 48000 * t)
    file.write_bytes(wav_float(np.stack([left, np.zeros(48000)], axis=1), rate=48000, channels=2))
    y = read_pcm(file, resample=True, channel=1)
    assert y.dtype == np.int16 and abs(len(y) - 16000) <= 1
    middle = slice(2000, 14000)
    want = 16384 * np.sin(2 * np.pi * 1000 / 16000 * np.arange(len(y)))
    assert np.abs(y - want)[middle].max() <= 1.0
    assert abs(np.argmax(np.abs(np.fft.rfft(y[middle]))) * RATE / 12000 - 1000) < 1
    half = read_pcm(file, resample=True, channel="mix")
    assert np.abs(half - want / 2)[middle].max() <= 1.0


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000])
def test_resampled_length(file: Path, rate: int) -> None:
    pytest.importorskip("soxr")
    file.write_bytes(wav16(noise(rate // 2) // 4, rate=rate))
    assert abs(len(read_pcm(file, resample=True)) - 8000) <= 1


def test_resampled_from_a_very_low_rate_and_to_nothing(file: Path) -> None:
    pytest.importorskip("soxr")
    file.write_bytes(wav16(np.full(20, 1000), rate=100))
    assert abs(len(read_pcm(file, resample=True)) - 3200) <= 1
    file.write_bytes(wav16([1], rate=48000))
    refused(lambda: read_pcm(file, resample=True), file, "shorter than one sample at 16000 Hz", "longer")


# ---- blocks


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("kind", ["int16", "int24", "float"])
def test_blocks_are_the_whole(file: Path, kind: str, rate: int) -> None:
    if rate != RATE:
        pytest.importorskip("soxr")
    n = 300000  # more than one decoded piece
    if kind == "int16":
        file.write_bytes(wav16(noise(2 * n), channels=2, rate=rate))
    elif kind == "int24":
        file.write_bytes(wav(np.random.default_rng(5).bytes(6 * n), bits=24, channels=2, rate=rate))
    else:
        x = np.random.default_rng(6).standard_normal((n, 2))
        file.write_bytes(wav_float(x, bits=32, channels=2, rate=rate))
    options: dict[str, Any] = {"resample": rate != RATE, "channel": "mix" if kind != "int16" else 2}
    whole = read_pcm(file, **options)
    assert len(whole) == n if rate == RATE else abs(len(whole) - n * RATE / rate) <= 1
    for block in (997, 1 << 16, 131072, len(whole), 1 << 20):
        blocks = list(read_blocks(file, block, **options))
        assert all(len(b) == block for b in blocks[:-1]) and 0 < len(blocks[-1]) <= block
        assert all(b.dtype == np.int16 and b.ndim == 1 for b in blocks)
        assert np.array_equal(np.concatenate(blocks), whole)


def test_tiny_blocks(file: Path) -> None:
    write_pcm(file, noise(10))
    assert [b.tolist() for b in read_blocks(file, 1)] == [[v] for v in noise(10).tolist()]
    assert [len(b) for b in read_blocks(file, 4)] == [4, 4, 2]
    with pytest.raises(ValueError, match="block is 0"):
        read_blocks(file, 0)


def test_a_single_sample(file: Path) -> None:
    write_pcm(file, np.array([-7], dtype=np.int16))
    assert read_pcm(file).tolist() == [-7]
    assert probe(file) == AudioInfo(RATE, 1, 1, "PCM_16")


# ---- refusals of the file itself; each by both calls, read_blocks at the call and not at the first block


def refused_by_all(path: Path, *words: str) -> None:
    calls: list[Callable[[Path], Any]] = [read_pcm, read_blocks, probe]
    for call in calls:
        refused(partial(call, path), path, *words)


def test_missing_folder_device(tmp_path: Path) -> None:
    refused_by_all(tmp_path / "none.wav", "no such file", "check the path")
    refused_by_all(tmp_path, "is a folder", "name one audio file")
    refused(lambda: read_pcm(tmp_path / "x" / "new\nline.wav"), tmp_path, "new\\nline.wav", "no such file")
    refused(lambda: read_pcm(tmp_path / "nul\0.wav"), tmp_path, "cannot be read", "check the path")
    refused(lambda: read_pcm(tmp_path / ("a" * 300)), tmp_path, "cannot be read", "check the path")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        refused_by_all(tmp_path / "pipe.wav", "not a regular file", "save the audio to a file")


def test_unreadable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pcm(file, noise(10))

    def fail(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", fail)
    refused_by_all(file, "Permission denied", "check the path and its permissions")


@pytest.mark.parametrize("name", ["text.wav", "text.raw", "text.gsm", "text.vox", "text", "text.flac"])
def test_text_is_not_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("this is not audio\n" * 100)
    refused_by_all(path, "not an audio file", "16 kHz mono 16-bit WAV")


def test_a_wav_of_any_name(tmp_path: Path) -> None:
    for name in ("a.raw", "a", "a.mp3", "a.flac", "-"):
        write_pcm(tmp_path / name, noise(50))
        assert np.array_equal(read_pcm(tmp_path / name), noise(50))


def test_empty(file: Path) -> None:
    file.write_bytes(b"")
    refused_by_all(file, "is empty (0 bytes)", "export it again")
    write_pcm(file, np.zeros(0, dtype=np.int16))
    refused_by_all(file, "has 0 samples", "export it again")
    file.write_bytes(wav16(noise(100), size=0))
    refused_by_all(file, "has 0 samples", "200 bytes follow", "export it again")
    file.write_bytes(wav16([], size=1))  # half a sample
    refused_by_all(file, "is truncated")
    file.write_bytes(wav(b"x"))
    refused_by_all(file, "has 0 samples", "export it again")


def test_truncated_wav(file: Path) -> None:
    whole = wav16(noise(1000))
    for keep in (len(whole) - 1, len(whole) // 2, 45, 44):
        file.write_bytes(whole[:keep])
        refused_by_all(file, "is truncated", "promises 2000 bytes", f"{keep - 44} are there", "export it again")
    for keep in (43, 36, 20, 13, 12):
        file.write_bytes(whole[:keep])
        refused_by_all(file, "is truncated", "no data chunk", "export it again")
    for keep in (11, 4, 1):
        file.write_bytes(whole[:keep])
        refused_by_all(file, "not an audio file", "16 kHz mono 16-bit WAV")


def test_streaming_wav(file: Path) -> None:
    file.write_bytes(wav16(noise(1000), size=0xFFFFFFFF))
    assert np.array_equal(read_pcm(file), noise(1000))
    assert probe(file).frames == 1000
    file.write_bytes(wav16([], size=0xFFFFFFFF))
    refused_by_all(file, "0 samples")


def test_other_chunks(file: Path) -> None:
    odd = struct.pack("<4sI", b"LIST", 5) + b"INFOx" + b"\0"
    file.write_bytes(wav16(noise(100), extra=odd) + struct.pack("<4sI", b"tail", 4) + b"data")
    assert np.array_equal(read_pcm(file), noise(100))
    file.write_bytes(wav16(noise(100), extra=odd)[:-2])
    refused_by_all(file, "is truncated", "promises 200 bytes", "198 are there")


def test_rf64_and_rifx(file: Path) -> None:
    soundfile.write(file, noise(1000), RATE, format="RF64", subtype="PCM_16")
    raw = file.read_bytes()
    assert raw[:4] == b"RF64" and np.array_equal(read_pcm(file), noise(1000))
    file.write_bytes(raw[:-100])
    refused_by_all(file, "is truncated", "promises 2000 bytes")
    soundfile.write(file, noise(1000), RATE, format="WAV", subtype="PCM_16", endian="BIG")
    raw = file.read_bytes()
    assert raw[:4] == b"RIFX" and np.array_equal(read_pcm(file), noise(1000))
    file.write_bytes(raw[:-100])
    refused_by_all(file, "is truncated", "promises 2000 bytes")


def test_truncated_flac(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(20000), RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:20000])
    refused(lambda: read_pcm(path), path, "truncated", "export it again")


def test_truncated_mp3(tmp_path: Path) -> None:
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile cannot write it")
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(40000) / 65536, RATE, format="MP3")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(lambda: read_pcm(path), path, "truncated", "40000 samples", "export it again")


# ---- writing


def test_write_replaces_and_is_deterministic(tmp_path: Path) -> None:
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    write_pcm(a, noise(5))
    write_pcm(a, noise(1000))
    with PcmWriter(b) as writer:
        for start in range(0, 1000, 300):
            writer.write(noise(1000)[start : start + 300])
        writer.write(np.zeros(0, dtype=np.int16))
        assert not b.exists()
        assert all(p.name.startswith(".") for p in tmp_path.iterdir() if p != a)
    assert a.read_bytes() == b.read_bytes() == wav16(noise(1000))
    write_pcm(b, noise(1000).astype(">i2").astype(np.int16)[::-1])
    assert np.array_equal(read_pcm(b), noise(1000)[::-1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "b.wav"]


def test_an_exception_leaves_the_old_file(file: Path) -> None:
    write_pcm(file, noise(5))
    for kind in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(kind), PcmWriter(file) as writer:
            writer.write(noise(100))
            raise kind
    assert np.array_equal(read_pcm(file), noise(5))
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_unwritable(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    pcm = noise(5)
    refused(lambda: write_pcm(plain / "a.wav", pcm), plain, "a.wav", "is not a folder", "existing folder")
    refused(lambda: write_pcm(tmp_path / "no" / "a.wav", pcm), Path("a.wav"), "does not exist", "existing folder")
    refused(lambda: write_pcm(tmp_path, pcm), tmp_path, "is a folder", "name a file in it")
    refused(lambda: write_pcm(tmp_path / "nul\0.wav", pcm), tmp_path, "cannot be written", "choose a folder")
    refused(lambda: write_pcm(tmp_path / ("a" * 300), pcm), Path("aaa"), "cannot be written", "choose a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(lambda: write_pcm(tmp_path / "pipe", pcm), Path("pipe"), "not a regular file", "ordinary file")
        os.unlink(tmp_path / "pipe")
    assert [p.name for p in tmp_path.iterdir()] == ["plain"] and plain.read_text() == "x"


def test_read_only_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pcm(file, noise(5))
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(lambda: write_pcm(file, noise(6)), file, "read-only", "another name")
    assert np.array_equal(read_pcm(file), noise(5))


@pytest.mark.parametrize("step", ["open", "replace"])
def test_failure_of_the_system_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    refused(lambda: write_pcm(file, noise(5)), file, "No space left", "choose a folder with room")
    assert list(file.parent.iterdir()) == []


def test_a_full_disk_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    real_open, real_fdopen = os.open, os.fdopen

    def full(fd: int, mode: str) -> Any:
        os.close(fd)
        return real_fdopen(real_open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", full)
    refused(lambda: write_pcm(file, noise(5)), file, "No space left", "choose a folder with room")
    refused(lambda: write_pcm(file, noise(500000)), file, "No space left", "choose a folder with room")
    assert list(file.parent.iterdir()) == []


def test_longer_than_a_wav_can_be(file: Path) -> None:
    with pytest.raises(InputError, match="at most 2147483629 samples: split"), PcmWriter(file) as writer:
        writer._bytes = 0xFFFFFFFF - 36 - 3
        writer.write(noise(1))
        writer.write(noise(1))
    assert list(file.parent.iterdir()) == []


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.wav"
    try:
        link.symlink_to(tmp_path / "real" / "a.wav")
    except OSError:
        pytest.skip("no symbolic links here")
    write_pcm(link, noise(5))
    assert link.is_symlink() and np.array_equal(read_pcm(tmp_path / "real" / "a.wav"), noise(5))
    assert np.array_equal(read_pcm(link), noise(5))


def test_misuse(file: Path) -> None:
    wrong: Any
    for wrong in (np.zeros(3), np.zeros((2, 2), dtype=np.int16), [1, 2]):
        with pytest.raises(TypeError, match=r"int16 \[n\]"):
            write_pcm(file, wrong)
    writer = PcmWriter(file)
    with pytest.raises(RuntimeError):
        writer.write(noise(1))
    with writer, pytest.raises(RuntimeError):
        writer.__enter__()
    with pytest.raises(RuntimeError):
        writer.write(noise(1))
    assert [p.name for p in file.parent.iterdir()] == [file.name]
