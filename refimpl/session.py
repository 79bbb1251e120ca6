"""Models and streams: PCM in, separated PCM out. The only owner of state (SPEC P-2 to P-6)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.arrays_io import read_arrays
from refimpl.errors import InputError
from refimpl.networks import tf_mlpnet
from refimpl.numerics.activation import VARIANTS, ActivationTables, variant
from refimpl.numerics.jit import has_compiler
from refimpl.operators import elementwise
from refimpl.presets import load_preset
from refimpl.profiles import profile_named
from refimpl.program import Program, State, Values
from refimpl.version import ARITHMETIC
from refimpl.weights_io import Container, check_preset, default_weights, load_container, write_whole

Array = np.ndarray[Any, np.dtype[Any]]
RATE = 16000
HOP, BACK_PAD, N_FFT = 96, 96, 256
BLOCK = 64  # frames run at once: bounds the memory, changes no bit
KERNELS = ("auto", "fast", "reference")


def load(
    path: str | Path | None = None,
    preset: str = "mixmlp",
    profile: str = "gap9",
    tables: str | ActivationTables | None = None,
    *,
    kernels: str = "auto",
    tier: str | None = None,
) -> Model:
    """Load a weights container (default: the shipped one) and lower it to ``preset`` and ``profile``.

    ``preset`` is one of fp32, int8, mixlstm, fpconv, mixmlp, fullmlp, int16, stream16, or the path of a preset file.
    ``tables``: the device's sigmoid and tanh, by name or from :func:`refimpl.device_tables.device_tables` (default: the
    profile's). ``kernels`` and ``tier`` say what it runs on (:class:`Model`) and change no bit. Raises :class:`InputError`
    for a missing, damaged or tampered container, an unknown preset or profile, a preset that the container holds no ranges
    for, and a program whose widths cannot be proven.
    """
    where = Path(path) if path is not None else default_weights()
    container = load_container(where)
    check_preset(container, preset, str(where))
    return Model(container, preset, profile, tables, kernels=kernels, tier=tier)


class Model:
    """A network lowered to one preset and profile. Immutable; streams carry the state.

    ``kernels``: ``reference`` runs the operators, which are the specification; ``fast`` runs what is proven equal to them;
    ``auto`` is ``fast`` wherever there is a compiler. ``tier``: ``vnni``, ``avx2`` or ``any`` instead of the processor's best.
    """

    def __init__(
        self,
        container: Container,
        preset: str = "mixmlp",
        profile: str = "gap9",
        tables: str | ActivationTables | None = None,
        *,
        kernels: str = "auto",
        tier: str | None = None,
    ) -> None:
        _check_floating_point()
        self.config, self.preset, self.profile = container.config, preset, profile
        self.weights_sha256 = container.digest
        self.tables = _tables(profile_named(profile).tables if tables is None else tables)
        self.program: Program = tf_mlpnet.build(
            container.config, container.weights, container.ranges, load_preset(preset), profile_named(profile), self.tables
        )
        self.kernels, self.run = _runner(self.program, kernels, tier)

    @property
    def identity(self) -> dict[str, str]:
        """What a state or a dump belongs to."""
        return {
            "arithmetic": ARITHMETIC,
            "weights": self.weights_sha256,
            "preset": self.preset,
            "profile": self.profile,
        } | ({} if self.tables.name == "exact" else {"tables": f"{self.tables.name} {self.tables.digest[:16]}"})

    def separate(self, pcm: Array) -> Array:
        """Offline: ``pcm`` int16 [n], n >= 1 (real value pcm / 2^15, 16 kHz) to int16 [S, n], zero latency (SPEC P-4).

        :class:`InputError` for another dtype, another rank or no samples.
        """
        out = np.empty((self.config.speakers, len(check_pcm(pcm))), np.int16)
        for first, values in self._blocks(pcm, ()):
            block = values["pcm"].transpose(1, 0, 2).reshape(self.config.speakers, -1)
            at = first * HOP
            out[:, at : at + block.shape[1]] = block[:, : out.shape[1] - at]
        return out

    def trace(self, pcm: Array, steps: Collection[str] = ("*",), frames: tuple[int, int] | None = None) -> dict[str, Array]:
        """Offline with intermediate tensors: name to array [T, *shape], codes or BF16 bit patterns as stored.

        ``steps`` are shell-style patterns over tensor names; ``frames`` = (first, stop) limits what is kept, not what is run.
        """
        names = [name for name in self.program.tensors if any(fnmatchcase(name, pattern) for pattern in steps)]
        if not names:
            raise InputError(f"no tensor matches {', '.join(steps)}; see --list-tensors for the names")
        total = -(-len(check_pcm(pcm)) // HOP)
        start, stop = frames if frames is not None else (0, total)
        if not 0 <= start < stop <= total:
            raise InputError(f"frames {start}:{stop} are not within the clip's 0:{total}")
        parts: dict[str, list[Array]] = {name: [] for name in names}
        for first, values in self._blocks(pcm, names, stop):
            count = len(values["pcm"])
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                for name in names:
                    parts[name].append(values[name][low:high].copy())
        return {name: np.concatenate(part) for name, part in parts.items()}

    def stream(self) -> Stream:
        """A new stream in its start state."""
        return Stream(self)

    def _blocks(self, pcm: Array, keep: Collection[str], stop: int | None = None) -> Iterator[tuple[int, Values]]:
        frames = frames_of(pcm)[:stop]
        state = self.program.start()
        for first in range(0, len(frames), BLOCK):
            yield first, self.run(frames[first : first + BLOCK], state, keep)


class Stream:
    """Chunks in, chunks out, the same bits as :meth:`Model.separate` of all chunks together (SPEC P-5).

    Output samples 96 t to 96 t + 95 are emitted once input sample 96 t + 159 has arrived; ``flush`` emits the rest, so that as
    many samples come out as went in.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first sample."""
        self._pending: Array = np.zeros(BACK_PAD, np.int16)
        self._received, self._emitted, self._flushed = 0, 0, False
        self._clipped: Array = np.zeros(self.model.config.speakers, np.int64)
        self._state: State = self.model.program.start()

    @property
    def clipped(self) -> Array:
        """Samples saturated at the PCM output so far, int64 [S] (frames whole: up to 95 samples beyond a flushed end)."""
        return self._clipped.copy()

    def push(self, pcm: Array) -> Array:
        """``pcm`` int16 [k], k >= 0, to the samples that are now final, int16 [S, m]."""
        if self._flushed:
            raise InputError("this stream was flushed; reset() it before pushing more")
        check_pcm(pcm, empty=True)
        self._pending = np.concatenate((self._pending, pcm))
        self._received += len(pcm)
        return self._advance((len(self._pending) - N_FFT) // HOP + 1 if len(self._pending) >= N_FFT else 0)

    def flush(self) -> Array:
        """Zero-pad as offline does and emit the remaining samples, int16 [S, m]; the stream then wants ``reset``."""
        if self._flushed:
            raise InputError("this stream was flushed already; reset() it first")
        self._flushed = True
        count = -(-(self._received - self._emitted) // HOP)
        need = (count - 1) * HOP + N_FFT - len(self._pending) if count else 0
        self._pending = np.concatenate((self._pending, np.zeros(max(need, 0), np.int16)))
        return self._advance(count)

    def _advance(self, count: int) -> Array:
        speakers, parts = self.model.config.speakers, []
        for first in range(0, count, BLOCK):
            size = min(BLOCK, count - first)
            frames = _windows(self._pending[first * HOP :], size)
            values = self.model.run(frames, self._state)
            self._clipped += values["clipped"].sum(0)
            parts.append(values["pcm"].transpose(1, 0, 2).reshape(speakers, -1))
        self._pending = self._pending[count * HOP :].copy()
        out = np.concatenate(parts, 1) if parts else np.zeros((speakers, 0), np.int16)
        out = out[:, : self._received - self._emitted]
        self._emitted += out.shape[1]
        return out

    def state(self) -> dict[str, Array]:
        """The whole state as arrays: the program's, the pending samples and the counters."""
        counters = np.array([self._received, self._emitted, int(self._flushed)], np.int64)
        session = {"session.pending": self._pending, "session.counters": counters, "session.clipped": self._clipped}
        return {name: array.copy() for name, array in (self._state | session).items()}

    def restore(self, state: dict[str, Array]) -> None:
        """Take a state made by :meth:`state` of a stream of the same model; :class:`InputError` where it does not fit."""
        fresh = Stream(self.model).state()
        if set(fresh) != set(state):
            odd = sorted(set(fresh) ^ set(state))[0]
            raise InputError(f"stream state: tensor {odd!r} is missing or unknown; restore it into the model that made it")
        for name, array in state.items():
            same = array.shape == fresh[name].shape or (name == "session.pending" and array.ndim == 1 and len(array) < N_FFT)
            if array.dtype != fresh[name].dtype or not same:
                raise InputError(f"stream state: {name!r} is {array.dtype} {array.shape}, not what this model's state holds")
        received, emitted, flushed = (int(v) for v in state["session.counters"])
        whole = received >= emitted >= 0 and emitted % HOP == 0
        if not flushed and not (whole and len(state["session.pending"]) == BACK_PAD + received - emitted):
            raise InputError("stream state: the counters contradict the pending samples; take a state that Stream.state made")
        taken = {name: array.copy() for name, array in state.items()}
        self._pending, counters = taken.pop("session.pending"), taken.pop("session.counters")
        self._received, self._emitted, self._flushed = int(counters[0]), int(counters[1]), bool(counters[2])
        self._clipped, self._state = taken.pop("session.clipped"), taken

    def save(self, path: str | Path) -> None:
        """Write the whole state to an ``.npz`` file (no pickle), with the identity of the model."""
        identity = np.frombuffer(json.dumps(self.model.identity, sort_keys=True).encode(), np.uint8)
        data = io.BytesIO()
        np.savez(data, identity=identity, **self.state())  # type: ignore[arg-type]
        write_whole(Path(path), data.getvalue())

    def load(self, path: str | Path) -> None:
        """Restore a state saved by :meth:`save`; refuses another model's, preset's, profile's or arithmetic's."""
        fault, remedy = "not a stream state", "save one with Stream.save"
        state = read_arrays(Path(path), fault, remedy)
        if not isinstance(state, dict) or not all(isinstance(array, np.ndarray) for array in state.values()):
            raise InputError(f"{path}: {fault} (no archive of arrays); {remedy}")
        try:
            identity = dict(json.loads(state.pop("identity").tobytes()))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise InputError(f"{path}: {fault} (it names no model); {remedy}") from None
        mine = self.model.identity
        for key in sorted({*identity, *mine}, key=str):
            if identity.get(key) != mine.get(key):
                raise InputError(
                    f"{path}: saved for {key} {identity.get(key)!r}, this model has {mine.get(key)!r}; load that one"
                )
        self.restore(state)


def frames_of(pcm: Array) -> Array:
    """All frames of a clip, int16 [ceil(n / 96), 256]: zeros before, zeros behind, hop 96 (SPEC P-4)."""
    total = -(-len(pcm) // HOP)
    padded = np.zeros((total - 1) * HOP + N_FFT, np.int16)
    padded[BACK_PAD : BACK_PAD + len(pcm)] = pcm
    return _windows(padded, total)


def _windows(samples: Array, count: int) -> Array:
    """Views of the first ``count`` frames [count, 256]."""
    if count == 1:  # NumPy's windows take longer than the transform
        return samples[None, :N_FFT]
    return np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP][:count]


def check_pcm(pcm: Array, empty: bool = False) -> Array:
    """``pcm`` itself if it is a one-dimensional int16 array with samples in it."""
    if not isinstance(pcm, np.ndarray) or pcm.dtype != np.int16 or pcm.ndim != 1:
        kind = f"{pcm.dtype} {list(pcm.shape)}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise InputError(f"PCM must be a one-dimensional int16 array, not {kind}")
    if not empty and len(pcm) == 0:
        raise InputError("PCM holds no samples; at least one is needed")
    return pcm


def _runner(program: Program, kernels: str, tier: str | None) -> tuple[str, Callable[..., Values]]:
    """The kernels' name and what runs the program on them: :meth:`Program.run`, or the same of the fast path."""
    if kernels not in KERNELS:
        raise InputError(f"kernels {kernels!r} are unknown: use one of {', '.join(KERNELS)}")
    if kernels == "fast" and not has_compiler():
        raise InputError("the fast kernels need the compiler that NUMBA_DISABLE_JIT turns off: use the reference kernels")
    if kernels == "reference" or not has_compiler():
        return "reference", program.run
    from refimpl.fast.tier import select  # here, so that the reference kernels need nothing of it

    select(tier)
    from refimpl.fast.executor import Executor

    return "fast", Executor(program).run


def _check_floating_point() -> None:
    """Refuse a process that flushes subnormals or rounds otherwise than to nearest even: its bits would not be ours."""
    smallest_normal, half, out = np.array([0x0080], np.uint16), np.array([0x3F00], np.uint16), np.empty(1, np.uint16)
    elementwise.multiply_bf16(smallest_normal, half, out)
    total, third = np.empty(1, np.float32), np.array([2.0**-24], np.float32)
    elementwise.add_f32(np.array([1.0], np.float32), third, total)
    if out[0] != 0x0040 or total[0] != 1.0:
        raise InputError(
            "this process flushes subnormals or changed the rounding mode (some library set the CPU's control word); "
            "run refimpl in a process of its own"
        )


def _tables(tables: str | ActivationTables) -> ActivationTables:
    if isinstance(tables, ActivationTables):
        return tables
    if tables not in VARIANTS:
        raise InputError(f"activation tables {tables!r} are unknown: use one of {', '.join(VARIANTS)}")
    return variant(tables)
