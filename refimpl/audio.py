"""Audio files <-> the int16 PCM at 16 kHz mono that the reference computes on; the only module that uses soundfile.

The bit-exact guarantee of the reference begins at the int16 samples that this module returns. Three rules say how a
file becomes such samples; ``q(y) = min(max(rint(y), -32768), 32767)``, rint rounding half to even, no dither:

A-1, integer sources
    A 16-bit sample is taken bit for bit. A sample v of any other integer coding, as libsndfile hands it out in 32 bits
    (a 24-bit sample times 2**8), becomes q(v / 2**16): the exact integer rounding half to even, then saturation.
A-2, float sources
    A sample x becomes q(x * 2**15); x is read as float64. Lossy codings (Vorbis, Opus, MP3) are float sources: their
    samples are what the installed decoder makes of the file. NaN and infinite samples are refused.
A-3, resampling and mixing
    Choosing a channel (or the mean of all), then resampling, happen in float64 before the guarantee begins; q is
    applied once, last. The mean of integer sources is exact all the same. Resampled samples are soxr's, and may
    differ between soxr versions and processors.

Each function takes a path to a regular file. A truncated RIFF/WAVE file is refused when it is opened; a damaged or
truncated FLAC or MP3 file when the damage is reached. An Ogg or AIFF file cut short cannot be told from a shorter one.
"""

from __future__ import annotations

import importlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from refimpl.errors import InputError

__all__ = ["RATE", "AudioInfo", "PcmWriter", "probe", "read_blocks", "read_pcm", "write_pcm"]

RATE = 16000
"""The sample rate, in Hz, of everything that this module returns or writes."""

Int16Array = npt.NDArray[np.int16]
Float64Array = npt.NDArray[np.float64]

_SCALE = 32768.0
_CHUNK = 1 << 18  # samples (frames x channels) that one read decodes, whatever block size the caller asked for
_STREAMING = 0xFFFFFFFF  # the data size that writers to a pipe leave in a RIFF header
_UNKNOWN = 1 << 62  # libsndfile's frame count is at least this where the header does not tell it
_DATA_MAX = 0xFFFFFFFF - 36  # data bytes that a RIFF header can describe
_HUGE = 1e300  # float samples are clamped here, so that no sum of them overflows; all saturate long before
_SHORTS = frozenset({"PCM_16", "ALAC_16"})
_FLOATS = frozenset({"FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
_CONVERT = "convert it to a 16 kHz mono 16-bit WAV file first"


class AudioInfo(NamedTuple):
    """What a file's header says: rate in Hz, channels, frames (samples per channel), libsndfile's subtype name."""

    rate: int
    channels: int
    frames: int
    subtype: str


def probe(path: Path) -> AudioInfo:
    """The rate, channels, frames and subtype of an audio file, by its header; any rate and any channels are accepted.

    ``frames`` counts samples per channel at the file's own rate. Where the header does not tell it (FLAC written to a
    pipe), the file is decoded once, in bounded memory, to count them.

    Errors: InputError for a file that is missing, unreadable, no regular file, not audio, empty or truncated.
    """
    with _open(path) as snd:
        frames = int(snd.frames)
        if frames >= _UNKNOWN:
            frames = sum(len(piece) for piece in _decode(_name(path), snd, 0, nonfinite_ok=True))
        return AudioInfo(int(snd.samplerate), int(snd.channels), frames, str(snd.subtype))


def read_pcm(path: Path, *, resample: bool = False, channel: int | Literal["mix"] | None = None) -> Int16Array:
    """All samples of an audio file: int16 [n], n >= 1, 16 kHz, one channel; the concatenation of ``read_blocks``.

    Rules A-1, A-2 and A-3 of this module, with q(y) = min(max(rint(y), -32768), 32767)::

        16-bit integer  pcm[i] = v[i]                   (A-1)
        other integer   pcm[i] = q(v32[i] / 2**16)      (A-1)
        float, lossy    pcm[i] = q(x[i] * 2**15)        (A-2)
        "mix"           the mean over the channels of v, v32 / 2**16 or x * 2**15 in float64, then q     (A-3)
        resampled       soxr VHQ in float64 of the chosen channel or the mean, then q                    (A-3)

    ``resample``: convert another sample rate to 16 kHz (needs soxr); a file at 16 kHz is not touched by it.
    ``channel``: which one to take, 1 for the first, or "mix" for the mean; required for more than one channel.

    Errors: InputError for all that ``probe`` refuses; another sample rate without ``resample``, or with it where soxr
    is not installed; several channels without ``channel``, or a ``channel`` that the file does not have; NaN or
    infinite samples in the channels used; a file that yields less than one sample at 16 kHz; damage on the way.
    """
    return np.concatenate(list(read_blocks(path, resample=resample, channel=channel)))


def read_blocks(
    path: Path,
    block: int = 1 << 20,
    *,
    resample: bool = False,
    channel: int | Literal["mix"] | None = None,
) -> Iterator[Int16Array]:
    """The samples of ``read_pcm`` as int16 [block] arrays, the last one [1..block], in bounded memory.

    The samples do not depend on ``block``: decoding and resampling go in pieces of their own fixed size.

    Errors: those of ``read_pcm``. All that the header tells (the file itself, its rate, its channels, a length of 0, a
    truncated WAV file, a missing soxr) are raised by this call, before the first block is asked for; NaN or infinite
    samples, a damaged file and less than one resampled sample when the iteration reaches them. ValueError for
    block < 1.
    """
    if block < 1:
        raise ValueError(f"block is {block}, not at least 1")
    with _plan(path, resample, channel):
        pass
    return _blocks(path, block, resample, channel)


def write_pcm(path: Path, pcm: Int16Array) -> None:
    """Write int16 [n] samples as a 16-bit PCM WAV file at 16 kHz, mono; the same samples give the same bytes.

    The file is the 44-byte RIFF header and the samples, little-endian, nothing else. It appears under its name only
    when it is complete (see ``PcmWriter``); a file of that name is replaced.

    Errors: InputError where the file cannot be written; TypeError for an array that is not int16 [n].
    """
    with PcmWriter(path) as writer:
        writer.write(pcm)


class PcmWriter:
    """Write a 16-bit PCM WAV file at 16 kHz, mono, piece by piece in bounded memory, atomically.

    ``with PcmWriter(path) as w: w.write(chunk)``, each chunk int16 [n], n >= 0. On entry a temporary file with a
    unique name that starts with ``.`` is made in the same folder; a normal exit renames it to ``path``, an exception
    removes it and leaves what was at ``path`` alone. A symbolic link is followed, not replaced.

    Errors: InputError on entry for a folder that is missing or cannot be written, a ``path`` that is a folder, a
    device or a read-only file; from ``write`` and on exit for a full disk or for more samples than a WAV file can
    hold (2**31 - 18). TypeError for a chunk that is not int16 [n]; RuntimeError for a write outside ``with``.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._final = self.path
        self._temp = self.path
        self._file: IO[bytes] | None = None
        self._bytes = 0

    def __enter__(self) -> PcmWriter:
        name = _name(self.path)
        if self._file is not None:
            raise RuntimeError(f"{name} is already being written")
        try:
            self._final = Path(os.path.realpath(self.path))
            folder = self._final.parent
            if not folder.is_dir():
                what = "is not a folder" if folder.exists() else "does not exist"
                raise InputError(f"{name}: cannot be written, {_name(folder)} {what}: name an existing folder")
            if self._final.is_dir():
                raise InputError(f"{name}: cannot be written, it is a folder: name a file in it")
            if self._final.exists():
                if not self._final.is_file():
                    raise InputError(f"{name}: cannot be written, it is not a regular file: name an ordinary file")
                if not os.access(self._final, os.W_OK):
                    raise InputError(f"{name}: cannot be written, it is read-only: use another name or chmod u+w it")
            self._temp = folder / f".refimpl-{secrets.token_hex(8)}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            file = os.fdopen(os.open(self._temp, flags, 0o666), "wb")
        except InputError:
            raise
        except (OSError, ValueError) as exc:
            raise self._failed(exc) from exc
        self._file = file
        self._bytes = 0
        try:
            file.write(_wav_header(0))
        except BaseException as exc:
            self._discard()
            if isinstance(exc, OSError):
                raise self._failed(exc) from exc
            raise
        return self

    def write(self, chunk: Int16Array) -> None:
        """Append int16 [n] samples, n >= 0; errors as the class says."""
        if self._file is None:
            raise RuntimeError("PcmWriter.write outside its with block")
        if not isinstance(chunk, np.ndarray) or chunk.dtype != np.int16 or chunk.ndim != 1:
            have = f"{chunk.dtype} {list(chunk.shape)}" if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise TypeError(f"samples to write must be int16 [n], not {have}")
        if self._bytes + 2 * chunk.size > _DATA_MAX:
            raise InputError(f"{_name(self.path)}: a WAV file holds at most {_DATA_MAX // 2} samples: split the input")
        try:
            self._file.write(chunk.astype("<i2").tobytes())
        except OSError as exc:
            raise self._failed(exc) from exc
        self._bytes += 2 * chunk.size

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or self._file is None:
            self._discard()
            return
        try:
            self._file.seek(0)
            self._file.write(_wav_header(self._bytes))
            self._file.close()
            os.replace(self._temp, self._final)
            self._file = None
        except OSError as exc:
            raise self._failed(exc) from exc
        finally:
            self._discard()

    def _discard(self) -> None:
        """Close and remove the temporary file, if there is one."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                os.unlink(self._temp)
            self._file = None

    def _failed(self, exc: Exception) -> InputError:
        return InputError(
            f"{_name(self.path)}: cannot be written ({_reason(exc)}): choose a folder with room that you may write to"
        )


def _wav_header(data: int) -> bytes:
    """The 44 bytes before ``data`` bytes of 16-bit mono samples at 16 kHz."""
    form = struct.pack("<4sI4s", b"RIFF", 36 + data, b"WAVE")
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return form + fmt + struct.pack("<4sI", b"data", data)


def _name(path: Path) -> str:
    """The path as one printable line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _reason(exc: Exception) -> str:
    """Why an operation failed, as one short line."""
    if isinstance(exc, soundfile.LibsndfileError):
        text = exc.error_string or f"libsndfile error {exc.code}"
    else:
        text = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
    return " ".join(text.split()).rstrip(".")


def _to_int16(y: Float64Array) -> Int16Array:
    """q(y): float64 in units of one int16 step, rounded half to even, then saturated."""
    return np.clip(np.rint(y), -32768.0, 32767.0).astype(np.int16)


class _Bytes:
    """An open file as soundfile's callbacks see it: no name, and no exceptions, which they could only print.

    With the name, soundfile and libsndfile would go by its ending and take any bytes for headerless audio (.raw, .gsm,
    .vox). A seek that a damaged header asks for and that cannot be, and a failing read, move nothing and give nothing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with suppress(OSError, ValueError):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except OSError:
            return b""


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from its start to its end, never with a seek.

    After every read soundfile seeks to where the file already stands, if the file says that it can seek. In an MP3
    file that drops the decoder's bit reservoir, and the next frames come out wrong; in FLAC of unknown length it fails.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """The file opened for decoding, after every check that does not depend on the options."""
    name = _name(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: is a folder, not an audio file: name one audio file in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{name}: is not a regular file: save the audio to a file and name that")
        file = open(path, "rb")  # noqa: SIM115 - entered below, after the errors that opening has
    except InputError:
        raise
    except FileNotFoundError as exc:
        raise InputError(f"{name}: no such file: check the path") from exc
    except (OSError, ValueError) as exc:
        raise InputError(f"{name}: cannot be read ({_reason(exc)}): check the path and its permissions") from exc
    with file:
        try:
            _check_container(name, file)
            file.seek(0)
            snd = _Forward(_Bytes(file))
        except soundfile.LibsndfileError as exc:
            raise InputError(
                f"{name}: is not an audio file that can be read, or a damaged one ({_reason(exc)}): {_CONVERT}"
            ) from exc
        except OSError as exc:
            raise InputError(f"{name}: cannot be read ({_reason(exc)}): check the file and its disk") from exc
        with snd:
            if snd.frames <= 0:
                raise _no_samples(name)
            yield snd


def _no_samples(name: str) -> InputError:
    return InputError(f"{name}: has 0 samples: record or export it again")


def _check_container(name: str, file: IO[bytes]) -> None:
    """Refuse an empty file and a RIFF/WAVE file (RIFX and RF64 too) whose data size is 0 or more than is there.

    libsndfile would silently take what is there, and for a data size of 0 everything up to the end of the file.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise InputError(f"{name}: is empty (0 bytes): record or export it again")
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
        return
    order = ">" if head[:4] == b"RIFX" else "<"
    size64: int | None = None
    at = 12
    while True:
        file.seek(at)
        chunk = file.read(8)
        at += 8
        if len(chunk) < 8:
            raise InputError(f"{name}: is truncated, no data chunk before its end: copy or export it again")
        kind, length = struct.unpack(order + "4sI", chunk)
        if kind == b"ds64" and head[:4] == b"RF64":
            sizes = file.read(16)
            if len(sizes) == 16:
                size64 = struct.unpack("<8xQ", sizes)[0]
        elif kind == b"data":
            break
        at += length + (length & 1)
    if length == _STREAMING:
        if size64 is None:
            return
        length = size64
    if length == 0:
        more = f", though {size - at} bytes follow (its writer did not finish it)" if size > at else ""
        raise InputError(f"{name}: has 0 samples by its header{more}: record or export it again")
    if length > size - at:
        raise InputError(
            f"{name}: is truncated, its header promises {length} bytes of samples and {size - at} are there: "
            "copy or export it again"
        )


class _Plan(NamedTuple):
    """An open file, the channel to take (from 0) or None for the mean, and the resampler where one is needed."""

    snd: soundfile.SoundFile
    pick: int | None
    resampler: Any


@contextmanager
def _plan(path: Path, resample: bool, channel: int | Literal["mix"] | None) -> Iterator[_Plan]:
    """The file opened and everything checked that can be before decoding."""
    name = _name(path)
    with _open(path) as snd:
        pick = _pick(name, snd.channels, channel)
        resampler = None
        if snd.samplerate != RATE:
            if not resample:
                raise InputError(f"{name}: its sample rate is {snd.samplerate} Hz, not {RATE}: pass --resample, or {_CONVERT}")
            resampler = _resampler(name, snd.samplerate)
        yield _Plan(snd, pick, resampler)


def _pick(name: str, channels: int, channel: int | Literal["mix"] | None) -> int | None:
    """The index from 0 of the channel to take, None for the mean of several."""
    if channel is None:
        if channels > 1:
            raise InputError(f"{name}: has {channels} channels, one is needed: pass --channel N|mix (N from 1)")
        return 0
    if channel == "mix":
        return None if channels > 1 else 0
    if isinstance(channel, bool) or not isinstance(channel, int) or not 1 <= channel <= channels:
        can = f"1 to {channels}" if channels > 1 else "1"
        raise InputError(f"{name}: has no channel {channel!r}: pass --channel N|mix, N being {can}")
    return channel - 1


def _resampler(name: str, rate: int) -> Any:
    """A soxr stream from ``rate`` to 16 kHz: one channel, float64, VHQ."""
    try:
        soxr = importlib.import_module("soxr")
    except ImportError as exc:
        raise InputError(
            f"{name}: its sample rate is {rate} Hz and soxr, which resamples it, is not installed: pip install soxr"
        ) from exc
    try:
        return soxr.ResampleStream(rate, RATE, 1, dtype="float64", quality="VHQ")
    except (RuntimeError, ValueError) as exc:
        raise InputError(f"{name}: cannot be resampled from {rate} Hz ({_reason(exc)}): {_CONVERT}") from exc


def _blocks(path: Path, block: int, resample: bool, channel: int | Literal["mix"] | None) -> Iterator[Int16Array]:
    """The samples in arrays of ``block``, the last one shorter."""
    name = _name(path)
    with _plan(path, resample, channel) as plan:
        pieces = _decode(name, plan.snd, plan.pick)
        if plan.resampler is not None:
            pieces = _resampled(name, pieces, plan.resampler, plan.snd.samplerate)
        held: list[Int16Array] = []
        have = 0
        for piece in pieces:
            pcm: Int16Array = piece if piece.dtype == np.int16 else _to_int16(piece)
            while have + len(pcm) >= block:
                held.append(pcm[: block - have])
                pcm = pcm[block - have :]
                yield np.concatenate(held)
                held, have = [], 0
            if len(pcm):
                held.append(pcm)
                have += len(pcm)
        if have:
            yield np.concatenate(held)


def _decode(name: str, snd: soundfile.SoundFile, pick: int | None, *, nonfinite_ok: bool = False) -> Iterator[npt.NDArray[Any]]:
    """One channel or the mean, in pieces of a fixed size: int16, or float64 in units of one int16 step.

    From the first NaN or infinite sample on nothing is yielded; the rest is read only to count them.
    """
    subtype = snd.subtype
    dtype: Literal["int16", "int32", "float64"] = (
        "int16" if subtype in _SHORTS else "float64" if subtype in _FLOATS else "int32"
    )
    step = max(1, _CHUNK // snd.channels)
    at = bad = 0
    first = -1
    while True:
        try:
            frames: npt.NDArray[Any] = snd.read(step, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as exc:
            raise InputError(
                f"{name}: is damaged or truncated after sample {at} ({_reason(exc)}): copy or export it again"
            ) from exc
        if not len(frames):
            break
        used = frames if pick is None else frames[:, pick : pick + 1]
        if dtype == "float64" and not nonfinite_ok:
            wrong = np.flatnonzero(~np.isfinite(used).all(axis=1))
            if len(wrong):
                first = at + int(wrong[0]) if bad == 0 else first
                bad += len(wrong)
        if bad == 0:
            if dtype == "int16" and pick is not None:
                yield used[:, 0].copy()
            else:
                scaled = used.astype(np.float64)
                if dtype == "float64":
                    scaled = np.clip(scaled, -_HUGE, _HUGE) * _SCALE
                elif dtype == "int32":
                    scaled /= 65536.0
                total = scaled[:, 0].copy()
                for other in range(1, scaled.shape[1]):  # an order of summing that numpy cannot change
                    total += scaled[:, other]
                yield total / scaled.shape[1]
        at += len(frames)
    if at == 0:
        raise _no_samples(name)
    if at < snd.frames < _UNKNOWN:
        raise InputError(
            f"{name}: is damaged or truncated, its header promises {snd.frames} samples and {at} are there: "
            "copy or export it again"
        )
    if bad:
        raise InputError(
            f"{name}: {bad} of {at} samples are NaN or infinite, the first at index {first}: "
            "replace them or export the file again"
        )


def _resampled(name: str, pieces: Iterator[npt.NDArray[Any]], resampler: Any, rate: int) -> Iterator[npt.NDArray[Any]]:
    """The pieces at 16 kHz, float64 in units of one int16 step, the filter's tail included."""
    step = max(1, _CHUNK * rate // RATE)  # from a very low rate, so many at a time that what comes out stays bounded
    count = 0
    for piece in pieces:
        source = piece.astype(np.float64)
        for start in range(0, len(source), step):
            out = resampler.resample_chunk(source[start : start + step])
            count += len(out)
            yield out
    tail = resampler.resample_chunk(np.zeros(0), last=True)
    count += len(tail)
    yield tail
    if count == 0:
        raise InputError(f"{name}: is shorter than one sample at {RATE} Hz: use a longer recording")
