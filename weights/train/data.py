"""Two-speaker mixtures on the fly from a folder of speech laid out as ``.../speaker/.../utterance``.

Mixture ``k`` depends on ``(seed, k)`` alone, so that a resumed run, or one on another number of processes, sees the same
mixtures. Audio is decoded once into one int16 file under the cache folder and memory-mapped from there.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from refimpl.errors import InputError

RATE = 16000
COLUMNS = ("id", "source1", "start1_s", "source2", "start2_s", "snr_db")
DRAWS = 10_000  # attempts at one training mixture: far more than any usable corpus needs
FRAME, HOP = 512, 128  # of the frames whose formants are moved, in samples
BENT = 1.13  # the factor, just below exp(1/8), from which bands that move apart would change the order of what lies between
CEPSTRUM = 32  # coefficients of a spectral envelope: formants, but no harmonics below 500 Hz
SUFFIXES = {".opus", ".flac", ".wav", ".ogg"}


@dataclass(frozen=True)
class Change:
    """How one voice becomes others: what is drawn anew for every cut of speech, as factors (evenly in their logarithm) and dB.

    ``speed``: of everything, pitch and formants too, between 1 / speed and speed. ``warp``: of all formants, beside that.
    ``bend``: of the formants at 0, 2, 4, 6 and 8 kHz, each by itself, beside that. ``tilt``: of a filter, at six points evenly
    spaced from 0 to 8 kHz, within +-tilt dB.
    """

    speed: float = 1.25
    tilt: float = 4.0
    warp: float = 1.0
    bend: float = 1.0

    def __post_init__(self) -> None:
        for name, most in {"speed": 2, "warp": 2, "bend": BENT}.items():
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"voices cannot change by {getattr(self, name):g}; give --{name} of 1 (as they are) to {most}")
        if not 0 <= self.tilt <= 20:
            raise InputError(f"voices cannot be filtered by {self.tilt:g} dB; give --tilt of 0 (not at all) to 20")

    def factors(self, rng: np.random.Generator) -> np.ndarray:
        """Factors that formants move by at 0 to 8 kHz, one for each bin of ``FRAME``."""
        common = rng.uniform(-np.log(self.warp), np.log(self.warp))
        if self.bend == 1:
            return np.full(FRAME // 2 + 1, np.exp(common))
        own = rng.uniform(-np.log(self.bend), np.log(self.bend), 5)
        return np.exp(common + np.interp(np.linspace(0, 4, FRAME // 2 + 1), np.arange(5), own))


MILD = Change()


class Corpus:
    """All utterances of ``folder``, grouped by speaker, as views into one int16 array.

    The speaker of a file is the first folder below the corpus folder (``folder/speaker/...``); with ``corpora=True``
    the first level names corpora and the speaker is the second (``folder/librispeech/speaker/...``).
    """

    def __init__(self, folder: Path, cache: Path, corpora: bool = False) -> None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise SystemExit(f"{folder}: no audio files found; expected folder/speaker/utterance.flac")
        names = [str(p.relative_to(folder)) for p in files]
        key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        cache.mkdir(parents=True, exist_ok=True)
        audio, index = cache / f"{key}.int16", cache / f"{key}.json"
        if not index.exists():
            self._decode(files, names, audio, index)
        self.samples = np.memmap(audio, np.int16, "r")
        self.speakers: dict[str, list[tuple[int, int]]] = {}
        for name, start, stop in json.loads(index.read_text()):
            parts = Path(name).parts
            speaker = "/".join(parts[:2]) if corpora else parts[0]
            self.speakers.setdefault(speaker, []).append((start, stop))
        self.names = sorted(self.speakers)
        pitches = cache / f"{key}.pitch.json"
        if not pitches.exists():
            found = {name: self._pitch(name) for name in self.names}
            partial = cache / f"{key}.pitch.{os.getpid()}"
            partial.write_text(json.dumps(found))
            partial.rename(pitches)
        self.pitch: dict[str, float] = json.loads(pitches.read_text())

    def _pitch(self, speaker: str) -> float:
        """The median fundamental frequency of the speaker's first 10 s in Hz, by the peak of the autocorrelation."""
        start, stop = self.speakers[speaker][0]
        x = self.samples[start : min(stop, start + 10 * RATE)].astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(x, 1024)[::512]
        loud = frames[(frames**2).mean(1) > 0.3 * (frames**2).mean()]
        power = np.abs(np.fft.rfft(loud * np.hanning(1024), 2048)) ** 2
        lags = np.fft.irfft(power)[:, RATE // 400 : RATE // 60]
        return float(RATE / (np.median(lags.argmax(1)) + RATE // 400))

    @staticmethod
    def _decode(files: list[Path], names: list[str], audio: Path, index: Path) -> None:
        rows, position = [], 0
        partial = audio.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as sink:
            for path, name in zip(files, names, strict=True):
                pcm, rate = soundfile.read(path, dtype="int16", always_2d=True)
                if rate != RATE:
                    raise SystemExit(f"{path}: {rate} Hz; convert the corpus to {RATE} Hz first")
                sink.write(np.ascontiguousarray(pcm[:, 0]).tobytes())
                rows.append((name, position, position + len(pcm)))
                position += len(pcm)
        partial.rename(audio)
        partial.write_text(json.dumps(rows))
        partial.rename(index)

    def cut(self, rng: np.random.Generator, speaker: str, length: int, change: Change = MILD) -> np.ndarray:
        """A cut of ``length`` samples, changed, zero mean, padded with silence if short.

        Where formants move, the polarity is random too.
        """
        start, stop = self.speakers[speaker][rng.integers(len(self.speakers[speaker]))]
        speed = np.exp(rng.uniform(-np.log(change.speed), np.log(change.speed)))
        need, made = _lengths(length, stop - start, speed, change.speed)
        at = start + int(rng.integers(stop - start - need + 1))
        source = self.samples[at : at + need].astype(np.float32) / 32768
        out = _resample_and_tilt(rng, source, made, change.tilt)[:length]
        if max(change.warp, change.bend) > 1:
            factors = change.factors(rng)
            out = move_formants(out, factors) * np.float32(rng.choice((-1, 1)))
        if len(out) < length:
            lead = int(rng.integers(length - len(out) + 1))
            out = np.pad(out, (lead, length - len(out) - lead))
        return out - out.mean()


def _lengths(length: int, available: int, speed: float, most: float) -> tuple[int, int]:
    """How many samples to take and to make of them: at about ``speed``, at most ``most`` times faster or slower.

    Numbers whose Fourier transforms are quick, where there are such near; if available, no fewer than ``length`` are made.
    """
    made = _quick(length, up=True)
    need = _quick(int(made * speed))
    if need * most < made:
        need = max(1, int(made * speed))
    if need > available:
        need, made = available, max(1, round(available / speed))
        if _quick(need) * most >= _quick(made) and _quick(need) <= _quick(made) * most:
            need, made = _quick(need), _quick(made)
    return need, made


@functools.lru_cache(4096)
def _quick(n: int, up: bool = False) -> int:
    """The nearest number down from ``n``, or up, without prime factors above 5: within 5%. Below 5,000 every number will do."""
    while n >= 5000:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            break
        n += 1 if up else -1
    return max(n, 1)


def _resample_and_tilt(rng: np.random.Generator, x: np.ndarray, length: int, tilt: float) -> np.ndarray:
    """Speed and pitch change by band-limited resampling, and a random equaliser within ``tilt`` dB, in one FFT pair."""
    spectrum = np.fft.rfft(x)
    bins = length // 2 + 1
    kept = np.zeros(bins, np.complex64)
    n = min(bins, len(spectrum))
    kept[:n] = spectrum[:n]
    knots = rng.uniform(-tilt, tilt, 6)
    gain = np.interp(np.linspace(0, 5, bins), np.arange(6), knots)
    return np.fft.irfft(kept * (10 ** (gain / 20)).astype(np.float32), length)


def below(x: np.ndarray, cut: float) -> np.ndarray:
    """``x`` without what is above ``cut`` Hz, along the last axis; the gain falls over 125 Hz."""
    spectrum = np.fft.rfft(x)
    frequency = np.fft.rfftfreq(x.shape[-1], 1 / RATE)
    gain = np.clip(0.5 + (cut - frequency) / 125, 0, 1).astype(np.float32)
    return np.fft.irfft(spectrum * gain, x.shape[-1]).astype(np.float32)


def move_formants(x: np.ndarray, factors: np.ndarray | float) -> np.ndarray:
    """``x`` with its spectral envelope stretched by ``factors`` along frequency; pitch and timing stay: another speaker.

    In frames (Hann, overlapping by three quarters) bin k is multiplied by E(k / factor) / E(k), within 20 dB, with one factor
    for all bins of ``FRAME`` or one for each; log E is the log magnitude smoothed by keeping its first ``CEPSTRUM`` cepstral
    coefficients. float32 ``[n]`` to float32 ``[n]``.
    """
    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    padded = np.pad(x, (FRAME, FRAME + -len(x) % HOP))
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP] * window)
    cepstra = np.fft.irfft(np.log(np.abs(spectra) + 1e-4))  # the floor is about the noise of 16-bit samples
    cepstra[:, CEPSTRUM : FRAME - CEPSTRUM + 1] = 0
    envelope = np.fft.rfft(cepstra).real
    source = np.minimum(np.arange(FRAME // 2 + 1) / factors, FRAME // 2)
    below = np.minimum(source.astype(int), FRAME // 2 - 1)
    share = (source - below).astype(np.float32)
    moved = envelope[:, below] * (1 - share) + envelope[:, below + 1] * share
    frames = np.fft.irfft(spectra * np.exp(np.clip(moved - envelope, -2.3, 2.3))) * window
    out = np.zeros(len(padded))
    for part in range(0, FRAME, HOP):
        out[part : part + len(frames) * HOP] += frames[:, part : part + HOP].ravel()
    return (out[FRAME : FRAME + len(x)] / 1.5).astype(np.float32)  # squared Hann windows a quarter apart add up to 1.5


def mixture(
    corpus: Corpus,
    seed: int,
    k: int,
    length: int,
    snr: float = 10.0,
    quietest: float = -35.0,
    contrast: float = 1.0,
    change: Change = MILD,
    loudest: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Training mixture ``k``: input SNR uniform in [-snr, snr] dB, peak level in [quietest, loudest] dBFS.

    Floats do not clip, so peaks above 0 dBFS are what they are. The higher voice is the first reference; the voices'
    fundamental frequencies differ by at least the ratio ``contrast``.

    Returns the mixture ``[length]`` and its two references ``[2, length]``, float32 in PCM / 32768 scale.
    """
    if len(corpus.names) < 2:
        raise InputError(f"the corpus has {len(corpus.names)} speaker; mixtures need two, as folder/speaker/utterance.flac")
    if not quietest <= loudest:
        raise InputError(f"no peak is between {quietest:g} and {loudest:g} dBFS; give a --quietest below --loudest")
    rng = np.random.default_rng([seed, k])
    for _ in range(DRAWS):
        names = [corpus.names[i] for i in rng.choice(len(corpus.names), 2, replace=False)]
        names.sort(key=lambda name: -corpus.pitch[name])
        if corpus.pitch[names[0]] < contrast * corpus.pitch[names[1]]:
            continue
        pair = np.stack([corpus.cut(rng, name, length, change) for name in names])
        energy = np.sqrt((pair**2).mean(1))
        if energy.min() > 1e-3:
            break
    else:
        raise InputError(f"the corpus gives no two audible voices whose pitches differ by a ratio of {contrast:g}")
    pair[1] *= energy[0] / energy[1] * 10 ** (-rng.uniform(-snr, snr) / 20)
    peak = 10 ** (rng.uniform(quietest, loudest) / 20)
    pair *= peak / np.abs(pair.sum(0)).max()
    return pair.sum(0), pair


@dataclass(frozen=True)
class Listed:
    """One row of a list of mixtures: two cuts (file, start in s) and the first's level over the second's in dB."""

    id: str
    sources: tuple[Path, Path]
    starts: tuple[float, float]
    snr: float

    @property
    def pair(self) -> str:
        """The two speakers, which are the files' folders, in either order: ``103+1034``."""
        return "+".join(sorted(source.parent.name for source in self.sources))

    def mix(self, seconds: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
        """The mixture [n] and its references [2, n], float32 in PCM / 32768 scale, zero mean, the sum's peak at 0.7."""
        count = round(seconds * RATE)
        first, second = (self._cut(path, round(at * RATE), count) for path, at in zip(self.sources, self.starts, strict=True))
        gain = np.sqrt((first**2).mean() / (second**2).mean()) * 10 ** (-self.snr / 20)
        both = np.stack([first, second * gain])
        both *= 0.7 / np.abs(both.sum(0)).max()
        return both.sum(0).astype(np.float32), both.astype(np.float32)

    def _cut(self, path: Path, start: int, count: int) -> np.ndarray:
        if not path.is_file():
            raise InputError(f"{path}: no such audio file, but mixture {self.id} lists it; mend the list")
        try:
            cut, rate = soundfile.read(path, count, start, dtype="float64", fill_value=0)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: cannot read mixture {self.id} from {start / RATE:g} s on ({reason}); mend the list"
            ) from None
        if rate != RATE or cut.ndim != 1:
            raise InputError(f"{path}: {rate} Hz, {cut.size // max(len(cut), 1)} channels; lists need {RATE} Hz mono audio")
        if not np.ptp(cut) > 0:
            raise InputError(f"{path}: mixture {self.id} takes silence from {start / RATE:g} s on; mend the list")
        return cut - cut.mean()


def read_list(path: Path) -> list[Listed]:
    """The rows of a CSV list of mixtures (columns ``COLUMNS``, source paths relative to it); InputError says what is wrong."""
    try:
        with path.open(newline="", encoding="utf-8") as source:
            table = csv.DictReader(source)
            rows, header = list(table), table.fieldnames or []
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot read this list of mixtures ({reason}); give a CSV file") from None
    absent = [column for column in COLUMNS if column not in header]
    if absent:
        raise InputError(f"{path}: has no column {absent[0]!r}; a list of mixtures has {', '.join(COLUMNS)}")
    if not rows:
        raise InputError(f"{path}: lists no mixtures; give a list with rows")
    return [_listed(path, number, row) for number, row in enumerate(rows, 2)]


def _listed(path: Path, number: int, row: dict[str, str]) -> Listed:
    try:
        starts, snr = (float(row["start1_s"]), float(row["start2_s"])), float(row["snr_db"])
        whole = all(row[column] for column in COLUMNS) and np.isfinite([*starts, snr]).all() and min(starts) >= 0
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{path}: line {number} is not a mixture (an empty field, or no number, or a start before 0); mend it")
    return Listed(row["id"], (path.parent / row["source1"], path.parent / row["source2"]), starts, snr)


def listed_mixtures(root: Path, table: str, seconds: float = 5.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """All mixtures of the list ``root / table``, see :meth:`Listed.mix`."""
    return [listed.mix(seconds) for listed in read_list(root / table)]
