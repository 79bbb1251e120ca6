"""``python -m refimpl.run``: separate audio files, or look at what the network computes on the way.

Each input STEM.* gives ``STEM_speaker1.wav``, ``STEM_speaker2.wav``, ... at 16 kHz, 16 bits, nothing normalised. Files of any
length run in bounded memory (``--dump`` holds what it keeps). All outputs of one input appear together or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl import audio
from refimpl.cli import (
    Channel,
    Parser,
    add_audio_options,
    announce_compilation,
    complain,
    folder_made,
    guarded,
    positive_int,
    printable,
)
from refimpl.device_tables import device_tables
from refimpl.errors import InputError
from refimpl.numerics.activation import VARIANTS
from refimpl.presets import MORE, NAMES, load_preset
from refimpl.profiles import PROFILES, profile_named
from refimpl.quality import improvement
from refimpl.session import BLOCK, HOP, KERNELS, Model
from refimpl.weights_io import check_preset, default_weights, load_container

Array = np.ndarray[Any, np.dtype[Any]]
PATIENCE = 10.0  # seconds of audio from which on a progress bar is shown


@dataclass(frozen=True)
class Job:
    """One input and the names of everything that is made of it."""

    path: Path
    outputs: tuple[Path, ...]
    dump: Path | None


@dataclass(frozen=True)
class Output:
    """One speaker's file: SHA-256 of its samples as little-endian int16, and how many of them were clipped."""

    path: str
    sha256: str
    clipped: int


@dataclass(frozen=True)
class Report:
    """What became of one input; the real-time factor is seconds of audio per second of computing."""

    input: str
    samples: int
    seconds: float
    real_time_factor: float
    outputs: tuple[Output, ...]
    dump: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = _parse(argv)
    if options.list_tensors:
        _print_tensors(load_model(options), options)
        return 0
    bad = 0
    for path in options.inputs:
        try:
            audio.read_blocks(path, resample=options.resample, channel=options.channel)  # refuses what the header tells
        except InputError as error:
            bad += 1
            complain(error)
    if bad:
        return 2
    model = load_model(options)
    jobs = plan(options.inputs, options.out, options.dump, model.config.speakers)
    if options.dump is not None:
        _tensors_of(model, options.steps)
    voices = None if options.references is None else _references(options, model.config.speakers)
    reports: list[Report] = []
    with ExitStack() as folders:
        for folder in (options.out, options.dump):
            if folder is not None:
                folders.enter_context(folder_made(folder))
        if not options.json:
            print(f"preset {printable(model.preset)}, profile {model.profile}, arithmetic {model.identity['arithmetic']}")
            print(f"weights {model.weights_sha256}", flush=True)
        if options.scheduler is None:
            model.separate(np.zeros(BLOCK * HOP + 1, np.int16))  # loads every kernel: the first input's time is not theirs
        failed: list[InputError] = []
        for found in folders.enter_context(closing(_all(model, jobs, options))):
            if isinstance(found, InputError):
                failed.append(found)
                continue
            reports.append(found)
            if not options.json:
                _print_report(found)
    gains = None if voices is None or not reports else _gains(reports[0], voices)
    if gains and not options.json:
        print(f"  SI-SDR improvement over the mixture: {', '.join(f'{gain:.2f}' for gain in gains)} dB")
    for failure in failed:
        complain(failure)
    bad = len(failed)
    if options.json:
        document = model.identity | {"inputs": [asdict(report) for report in reports]}
        print(json.dumps(document | ({"si_sdri": gains} if gains else {}), indent=2))
    return 2 if bad else 0


def _references(options: argparse.Namespace, speakers: int) -> tuple[Array, Array]:
    """The input and the clean voices [S, n], PCM / 32768; :class:`InputError` where they are not of one length."""
    if len(options.references) != speakers:
        raise InputError(f"--references: {len(options.references)} files for {speakers} speakers; give the clean voice of each")
    mixture = audio.read_pcm(options.inputs[0], resample=options.resample, channel=options.channel)
    voices = [audio.read_pcm(path) for path in options.references]
    for path, voice in zip(options.references, voices, strict=True):
        if len(voice) != len(mixture):
            raise InputError(f"{path}: {len(voice)} samples, but the mixture has {len(mixture)}; give the voice that is in it")
    return mixture / 32768.0, np.stack(voices) / 32768.0


def _gains(report: Report, voices: tuple[Array, Array]) -> list[float]:
    """SI-SDR improvement in dB of each voice, the outputs in the order that fits best."""
    outputs = np.stack([audio.read_pcm(Path(output.path)) for output in report.outputs]) / 32768.0
    return [round(float(gain), 2) for gain in improvement(outputs, *voices)]


def _all(model: Model, jobs: Sequence[Job], options: argparse.Namespace) -> Generator[Report | InputError, None, None]:
    """What became of each job, in their order; with ``--jobs`` several run at once, each in a process of its own."""
    if options.scheduler is not None:
        from refimpl.cluster import run_all  # here, so that nothing else needs Dask

        yield from run_all(model, jobs, options)
        return
    if min(options.jobs, len(jobs)) == 1:
        for job in jobs:
            yield attempt(model, job, options, True)
        return
    # Fresh interpreters: what this process has loaded (threads of a library, say) does not get into theirs.
    with ProcessPoolExecutor(min(options.jobs, len(jobs)), get_context("spawn"), _start_worker, (options,)) as pool:
        futures = [pool.submit(_in_worker, job) for job in jobs]
        lengths = {future: length(job.path) for future, job in zip(futures, jobs, strict=True)}
        try:
            with _progress(f"{len(jobs)} files", sum(lengths.values())) as bar:
                for future in futures:
                    future.add_done_callback(lambda done: bar.update(lengths[done]))
                for future, job in zip(futures, jobs, strict=True):
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        yield InputError(f"{job.path}: a process was ended from outside; run it again, with fewer --jobs")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in (pool._processes or {}).values():
                process.terminate()
            raise


def attempt(model: Model, job: Job, options: argparse.Namespace, bar: bool) -> Report | InputError:
    """:func:`separate`, with what is wrong as a value."""
    try:
        return separate(model, job, options, bar)
    except InputError as error:
        return error


def _start_worker(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop, and outputs half written are taken away
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _worker.update(model=load_model(options, quiet=True), options=options)
    _worker["model"].separate(np.zeros(BLOCK * HOP + 1, np.int16))


def _in_worker(job: Job) -> Report | InputError:
    return attempt(_worker["model"], job, _worker["options"], False)


_worker: dict[str, Any] = {}  # of a process of --jobs: its model and the options


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("refimpl.run", "Separate the speakers of audio files (16 kHz mono) with TF-MLPNet, bit-exactly.")
    parser.add_argument("inputs", type=Path, nargs="*", metavar="INPUT", help="audio file: WAV, FLAC, Ogg, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the outputs go (default: beside each input)")
    parser.add_argument(
        "--preset", default="mixmlp", help=f"{', '.join((*NAMES, *MORE))}, or a preset file (default %(default)s)"
    )
    parser.add_argument("--profile", default="gap9", help=f"{', '.join(sorted(PROFILES))} (default %(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights container (default: the shipped one)")
    parser.add_argument("--path", choices=KERNELS, default="auto", help="kernels: reference, or fast ones of the same bits")
    parser.add_argument("--tier", choices=("vnni", "avx2", "any"), help="of the fast kernels (default: the processor's best)")
    parser.add_argument("--tables", choices=VARIANTS, help="sigmoid and tanh of the device (default: the profile's, exact)")
    for name in ("sigmoid", "tanh"):
        parser.add_argument(
            f"--{name}-table", type=Path, metavar="FILE", help=f"the device's {name}: 65,536 BF16 patterns or 256 codes"
        )
    add_audio_options(parser)
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="separate N files at once (default 1)")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="separate the files on the workers of the Dask scheduler at ADDRESS, as tcp://host:8786 (needs distributed); "
        "every worker must have refimpl of the same version, and see the inputs, the outputs and all other files under the "
        "same paths (shared file system)",
    )
    parser.add_argument(
        "--references",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the clean voices of the one input, as long as it: print the SI-SDR improvement of each",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write intermediate tensors to DIR/STEM/ as .npy files")
    parser.add_argument(
        "--steps",
        type=_patterns,
        metavar="PATTERN[,PATTERN...]",
        help="dump (or list) only tensors of these names, as block1.*",
    )
    parser.add_argument("--frames", type=_frames, metavar="FIRST:STOP", help="dump only these frames of 96 samples, from 0")
    parser.add_argument("--list-tensors", action="store_true", help="print names and formats of all tensors, and exit")
    options = parser.parse_args(argv)
    if not options.inputs and not options.list_tensors:
        parser.error("no INPUT is given")
    if options.references is not None and len(options.inputs) != 1:
        parser.error("--references are of one mixture: give one INPUT")
    if options.steps is not None and options.dump is None and not options.list_tensors:
        parser.error("--steps says what to dump: give --dump DIR too")
    if options.frames is not None and options.dump is None:
        parser.error("--frames says what to dump: give --dump DIR too")
    if options.scheduler is not None and options.jobs > 1:
        parser.error("--jobs is for this machine and --scheduler for a cluster: give one of them")
    options.steps = options.steps or ("*",)
    return options


def _patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(","))
    if "" in patterns:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty pattern")
    return patterns


def _frames(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:STOP, two frame numbers with FIRST < STOP")
    return int(found[1]), int(found[2])


def load_model(options: argparse.Namespace, quiet: bool = False) -> Model:
    """The model; as ``refimpl.load``, but all that can be wrong is said before kernels are compiled."""
    where = options.weights if options.weights is not None else default_weights()
    container = load_container(where)
    check_preset(container, options.preset, str(where))
    load_preset(options.preset)
    profile_named(options.profile)
    tables, notes = device_tables(
        options.tables or profile_named(options.profile).tables, options.sigmoid_table, options.tanh_table
    )
    if not quiet:
        for function, note in notes.items():
            print(f"{function} table {printable(note)}", file=sys.stderr)
        announce_compilation()
    return Model(container, options.preset, options.profile, tables, kernels=options.path, tier=options.tier)


def plan(inputs: Sequence[Path], out: Path | None, dump: Path | None, speakers: int) -> list[Job]:
    """What each input will write; :class:`InputError` where that would overwrite an input, or another input's outputs."""
    jobs = []
    owners: dict[str, Path] = {}
    sources = {os.path.realpath(path): path for path in inputs}
    for path in inputs:
        folder = path.parent if out is None else out
        outputs = tuple(folder / f"{path.stem}_speaker{speaker + 1}.wav" for speaker in range(speakers))
        job = Job(path, outputs, None if dump is None else dump / path.stem)
        for target in (*outputs, *([job.dump] if job.dump else [])):
            key = os.path.realpath(target)
            if key in sources:
                raise InputError(f"{target}: would overwrite the input {sources[key]}; name another folder with --out")
            if key in owners:
                raise InputError(f"{target}: is what both {owners[key]} and {path} would write; run them with different --out")
            owners[key] = path
        if job.dump is not None and (job.dump.exists() and not (job.dump.is_dir() and not any(job.dump.iterdir()))):
            raise InputError(f"{job.dump}: exists and is not an empty folder; remove it or name another with --dump")
        jobs.append(job)
    return jobs


def separate(model: Model, job: Job, options: argparse.Namespace, show: bool = True) -> Report:
    """Run one job; its outputs appear when all of them are complete."""
    samples, speakers = 0, model.config.speakers
    digests = [hashlib.sha256() for _ in range(speakers)]
    seconds = length(job.path)
    with together(job) as (writers, dump):
        if dump is not None:
            pcm = audio.read_pcm(job.path, resample=options.resample, channel=options.channel)
            write_dump(dump, model, job.path.name, pcm, options.steps, options.frames)
            del pcm

        def emit(voices: Array) -> int:
            for writer, digest, voice in zip(writers, digests, voices, strict=True):
                writer.write(voice)
                digest.update(voice.astype("<i2").tobytes())
            return int(voices.shape[1])

        started = time.perf_counter()
        stream = model.stream()
        with _progress(job.path.name, seconds, show) as bar:
            for block in blocks_of(job.path, options.resample, options.channel):
                samples += emit(stream.push(block))
                bar.update(len(block) / audio.RATE)
        clipped = stream.clipped
        rest = stream.flush()
        samples += emit(rest)
        # The stream counts in whole frames, and the last one may reach beyond the end: no more than what is at full scale.
        clipped += np.minimum(stream.clipped - clipped, ((rest == 32767) | (rest == -32768)).sum(1))
        elapsed = time.perf_counter() - started
    outputs = tuple(
        Output(str(path), digest.hexdigest(), int(count))
        for path, digest, count in zip(job.outputs, digests, clipped, strict=True)
    )
    seconds = samples / audio.RATE
    return Report(
        str(job.path), samples, seconds, round(seconds / elapsed, 3), outputs, None if job.dump is None else str(job.dump)
    )


def blocks_of(path: Path, resample: bool, channel: Channel) -> Iterator[Array]:
    """The input in blocks that the network takes in one go."""
    return audio.read_blocks(path, BLOCK * HOP, resample=resample, channel=channel)


def length(path: Path) -> float:
    """Seconds of audio, by the header."""
    info = audio.probe(path)
    return info.frames / info.rate


def _progress(what: object, seconds: float, show: bool = True) -> Any:
    """A bar in seconds of audio, for long files and terminals only."""
    return tqdm(
        total=seconds,
        desc=printable(what),
        disable=None if show and seconds > PATIENCE else True,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]",
    )


@contextmanager
def together(job: Job) -> Iterator[tuple[list[audio.PcmWriter], Path | None]]:
    """Writers and a dump folder that appear under the job's names when the block ends, all of them or none.

    An exception in the block leaves nothing. Where one of them cannot be put in its place, those already there are taken away
    again, and what stood there before is put back.
    """
    token = secrets.token_hex(8)
    with ExitStack() as stack:
        writers = [stack.enter_context(audio.PcmWriter(path)) for path in job.outputs]
        dump = None
        if job.dump is not None:
            dump = stack.enter_context(_scratch(job.dump.with_name(f".refimpl-{token}.tmp"), job.dump))
        yield writers, dump
        put_in_place(job, [(writer.path, partial(writer.__exit__, None, None, None)) for writer in writers], dump)


def put_in_place(job: Job, moves: Sequence[tuple[Path, Callable[[], None]]], dump: Path | None) -> None:
    """Make all outputs appear: each path with the call that renames a complete file to it, and the complete dump folder.

    Where one of them cannot be put in its place, those already there are taken away again, and what stood there is put back.
    """
    token = secrets.token_hex(8)
    placed: list[Path] = []
    aside: list[tuple[Path, Path]] = []
    try:
        for path, move in moves:
            final = Path(os.path.realpath(path))
            _set_aside(final, token, aside)
            placed.append(final)
            move()
        if dump is not None and job.dump is not None:
            if job.dump.exists():
                job.dump.rmdir()  # it is empty: ``plan`` saw to that
            dump.rename(job.dump)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        for old, final in aside:
            old.replace(final)
        if isinstance(error, OSError):
            raise InputError(f"{job.path}: its outputs cannot be put in place ({error.strerror}); check the disk") from None
        raise
    for old, _ in aside:
        with suppress(OSError):
            old.unlink()


def _set_aside(final: Path, token: str, aside: list[tuple[Path, Path]]) -> None:
    """Rename what is at ``final``, if anything, and note it in ``aside``."""
    if final.exists():
        old = final.with_name(f".refimpl-{token}-{len(aside)}.old")
        final.rename(old)
        aside.append((old, final))


@contextmanager
def _scratch(folder: Path, purpose: Path) -> Iterator[Path]:
    """A new folder that is gone at the end, unless it was renamed."""
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{purpose}: cannot write here ({error.strerror}); name another folder with --dump") from None
    try:
        yield folder
    finally:
        for path in folder.glob("*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def write_dump(folder: Path, model: Model, name: str, pcm: Array, steps: Sequence[str], frames: tuple[int, int] | None) -> None:
    """One ``.npy`` file [T, *shape] for each tensor, as stored, and ``dump.json``, which says what they are."""
    first = frames[0] if frames is not None else 0
    tensors = {}
    try:
        for key, values in model.trace(pcm, steps, frames).items():
            np.save(folder / f"{key}.npy", values, allow_pickle=False)
            form = model.program.tensors[key].format
            tensors[key] = {
                "file": f"{key}.npy",
                "kind": form.kind,
                "scale": form.scale,
                "zero_point": form.zero_point,
                "shape": list(values.shape),
                "first_frame": first,
            }
        digest = hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()
        source = {"name": name, "samples": len(pcm), "sha256": digest}
        document = {"identity": model.identity, "input": source, "tensors": tensors}
        (folder / "dump.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{name}: its dump cannot be written ({error.strerror}); name another folder with --dump") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except MemoryError:
        raise InputError(f"{name}: its dump does not fit into memory; limit it with --steps and --frames") from None


def _tensors_of(model: Model, steps: Sequence[str]) -> list[str]:
    """The tensors that the patterns name; :class:`InputError` if there is a pattern that names none."""
    names = list(model.program.tensors)
    for pattern in steps:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"no tensor matches {pattern!r}; see --list-tensors for the names")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in steps)]


def _print_tensors(model: Model, options: argparse.Namespace) -> None:
    tensors = [model.program.tensors[name] for name in _tensors_of(model, options.steps)]
    if options.json:
        listed = {t.name: asdict(t.format) | {"shape": list(t.shape)} for t in tensors}
        print(json.dumps(model.identity | {"tensors": listed}, indent=2))
        return
    rows = [("name", "kind", "shape", "scale", "zero point")]
    for t in tensors:
        scale, zero = (repr(t.format.scale), str(t.format.zero_point)) if t.format.is_code else ("-", "-")
        rows.append((t.name, t.format.kind, "x".join(map(str, t.shape)), scale, zero))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_report(report: Report) -> None:
    print(f"{printable(report.input)}  {report.seconds:.2f} s  {report.real_time_factor:.1f}x real time")
    width = max(len(printable(output.path)) for output in report.outputs)
    for output in report.outputs:
        print(f"  {printable(output.path):<{width}}  {output.sha256}  {output.clipped} clipped")
    if report.dump is not None:
        print(f"  {printable(report.dump)}{os.sep}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
