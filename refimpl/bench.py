"""Speed: ``python -m refimpl.bench [mix.wav]``: real-time factor and microseconds per 6 ms frame, one thread.

For each preset, offline (:meth:`Model.separate`) and streaming (96-sample chunks), interleaved over the presets in every round
so that a drift of the machine falls on all alike; the median of the rounds is printed. ``--peers`` runs PyTorch and ONNX
Runtime on the same network besides, every contender in a process of its own, in turns (from the repository, with
``pip install -e ".[bench]"``); ``--start`` times the main command with and without compiled kernels.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.audio import read_pcm, write_pcm
from refimpl.cli import Parser, announce_compilation, guarded, positive_int
from refimpl.errors import InputError
from refimpl.presets import NAMES
from refimpl.session import HOP, KERNELS, RATE, Model, load

Array = np.ndarray[Any, np.dtype[Any]]
Times = dict[tuple[str, str], list[float]]
MODES = ("offline", "streaming")
WORKER = "weights.bench.worker"
PEERS = ("torch:fp32", "onnxruntime:fp32", "onnxruntime:int8", "onnxruntime:int8-float-lstm")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def stream_through(model: Model, pcm: Array) -> Array:
    """Push one hop at a time, as a device receives it."""
    stream = model.stream()
    parts = [stream.push(pcm[first : first + HOP]) for first in range(0, len(pcm), HOP)]
    return np.concatenate([*parts, stream.flush()], 1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("refimpl.bench", "speed of each preset, one thread; with --peers beside PyTorch and ONNX Runtime")
    parser.add_argument("input", type=Path, nargs="?", help="audio file, 16 kHz mono (default: 3 s of seeded noise)")
    parser.add_argument("--presets", help="comma-separated (default: the paper's six; with --peers int8,mixmlp)")
    parser.add_argument("--profile", default="gap9")
    parser.add_argument("--weights", type=Path, help="container (default: the shipped one)")
    parser.add_argument("--path", choices=KERNELS, default="auto", help="kernels: reference, or fast ones of the same bits")
    parser.add_argument("--tier", choices=("vnni", "avx2", "any"), help="of the fast kernels (default: the processor's best)")
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--peers", action="store_true", help="beside PyTorch FP32 and ONNX Runtime FP32 and INT8")
    parser.add_argument("--contenders", metavar="NAME,...", help="instead of the usual ones of --peers, as refimpl:int8@avx2")
    parser.add_argument("--start", action="store_true", help="time the main command on 5 s, cold and warm")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of --peers: cpu where the machine is busy")
    parser.add_argument("--json", action="store_true")

    def body() -> int:
        args = parser.parse_args(argv)
        noise = np.random.Generator(np.random.PCG64(0)).integers(-3000, 3000, 3 * RATE).astype(np.int16)
        pcm = read_pcm(args.input) if args.input else noise
        if args.start:
            found: Any = start_times(pcm)
            print(json.dumps(found, indent=2) if args.json else start_table(found))
        elif args.peers:
            found = contest(contenders(args), pcm, args.rounds, args.clock)
            print(json.dumps(found, indent=2) if args.json else contest_table(found, args.rounds, args.clock))
        else:
            announce_compilation()
            names = (args.presets or ",".join(NAMES)).split(",")
            chosen = {"kernels": args.path, "tier": args.tier}
            models = {name: load(args.weights, name, args.profile, **chosen) for name in names}
            found = measure(models, pcm, args.rounds)
            print(json.dumps(found, indent=2) if args.json else table(found, args.rounds))
        return 0

    return guarded(body)


def measure(models: dict[str, Model], pcm: Array, rounds: int) -> list[dict[str, Any]]:
    """Median figures by preset and mode; a first round that is not counted warms up."""
    times: Times = {}
    for turn in range(rounds + 1):
        for name, model in models.items():
            for mode, call in (("offline", offline), ("streaming", stream_through)):
                began = time.perf_counter()
                call(model, pcm)
                if turn:
                    times.setdefault((name, mode), []).append(time.perf_counter() - began)
    return [{"preset": name, "mode": mode} | rates(found, pcm) for (name, mode), found in times.items()]


def rates(times: list[float], pcm: Array) -> dict[str, float]:
    seconds = statistics.median(times)
    frames = -(-len(pcm) // HOP)
    return {"real_time_factor": len(pcm) / RATE / seconds, "us_per_frame": 1e6 * seconds / frames}


def table(rows: list[dict[str, Any]], rounds: int) -> str:
    lines = [f"{'preset':9} {'mode':10} {'x real time':>12} {'us / frame':>11}   (median of {rounds}, one thread)"]
    for row in rows:
        lines.append(f"{row['preset']:9} {row['mode']:10} {row['real_time_factor']:12.2f} {row['us_per_frame']:11.0f}")
    return "\n".join(lines)


def offline(model: Model, pcm: Array) -> None:
    model.separate(pcm)


# -- beside other engines ---------------------------------------------------------------------------------------------------


def contenders(args: argparse.Namespace) -> list[str]:
    """Names for the worker: ``FAMILY:VARIANT``, of ours ``refimpl:PRESET[@TIER]`` or ``refimpl:PRESET@reference``."""
    if args.contenders:
        return [str(name) for name in args.contenders.split(",")]
    presets = (args.presets or "int8,mixmlp").split(",")
    end = "@reference" if args.path == "reference" else f"@{args.tier}" if args.tier else ""
    return [*PEERS, *(f"refimpl:{preset}{end}" for preset in presets)]


def contest(names: list[str], pcm: Array, rounds: int, clock: str) -> dict[str, Any]:
    """Median times of every contender and mode, and the memory that each took."""
    if importlib.util.find_spec(WORKER.split(".")[0]) is None or importlib.util.find_spec(WORKER) is None:
        raise InputError(f"{WORKER} is not here: --peers runs from the repository's folder")
    times: Times = {}
    ready: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.save(folder / "clip.npy", pcm)
        workers = {name: stack.enter_context(worker(name, folder / "clip.npy")) for name in names}
        for name, process in workers.items():
            ready[name] = json.loads(answer(process, name))
        for _ in range(rounds):
            for name, process in workers.items():
                for mode in MODES:
                    found = json.loads(answer(process, name, mode))
                    times.setdefault((name, mode), []).append(found[clock])
        memory = {name: json.loads(answer(process, name, "end")) for name, process in workers.items()}
    rows = [{"contender": name, "mode": mode} | rates(found, pcm) for (name, mode), found in times.items()]
    return {"rows": rows, "ready": ready, "memory": memory}


@contextmanager
def worker(name: str, clip: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", WORKER, name, str(clip)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | ONE_THREAD
        )
        try:
            yield process
        except InputError as error:
            process.kill()
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:]
            raise InputError(f"{error} ({' '.join(last)})" if last and str(error).startswith(name) else str(error)) from None
        finally:
            process.kill()
            process.wait()


def answer(process: subprocess.Popen[str], name: str, request: str = "") -> str:
    """What a worker says to a request, a line each."""
    assert process.stdin is not None and process.stdout is not None
    try:
        if request:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise InputError(f"{name}: cannot run here; install what it needs, or leave it out with --contenders")
    return line


def contest_table(found: dict[str, Any], rounds: int, clock: str) -> str:
    lines = [f"one thread, each in a process of its own, in turns; median of {rounds}, {clock} time", ""]
    lines.append(f"{'contender':28} {'mode':10} {'x real time':>12} {'us / frame':>11}")
    for row in found["rows"]:
        lines.append(f"{row['contender']:28} {row['mode']:10} {row['real_time_factor']:12.2f} {row['us_per_frame']:11.0f}")
    each = {(row["contender"], row["mode"]): row["us_per_frame"] for row in found["rows"]}
    names = list(dict.fromkeys(name for name, _ in each))
    ours = [name for name in names if name.startswith("refimpl:")]
    theirs = [name for name in names if name not in ours]
    for mode in MODES if ours and theirs else ():
        lines += ["", f"{mode}, times as fast as"]
        for mine in ours:
            ratios = ", ".join(f"{each[other, mode] / each[mine, mode]:.2f} {other}" for other in theirs)
            lines.append(f"  {mine:26} {ratios}")
    lines += ["", f"{'memory':28} {'peak MiB':>9} {'above start':>12}"]
    for name, memory in found["memory"].items():
        above = memory["peak_kib"] - memory["at_start_kib"]
        lines.append(f"{name:28} {memory['peak_kib'] / 1024:9.0f} {above / 1024:12.0f}")
    return "\n".join(lines)


# -- the start --------------------------------------------------------------------------------------------------------------


def start_times(pcm: Array) -> dict[str, float]:
    """Seconds of ``python -m refimpl.run`` on 5 s of the clip: without compiled kernels, and with (the best of three)."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pcm(folder / "clip.wav", np.resize(pcm, 5 * RATE))
        environment = os.environ | ONE_THREAD | {"REFIMPL_CACHE_DIR": str(folder / "cache")}
        command = [sys.executable, "-m", "refimpl.run", str(folder / "clip.wav")]
        for turn in range(4):
            began = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            took = time.perf_counter() - began
            if done.returncode:
                raise InputError(f"refimpl.run failed: {done.stderr.strip().splitlines()[-1]}")
            if turn == 0:
                found["cold_s"] = took
            else:
                found["warm_s"] = min(took, found.get("warm_s", took))
    return found


def start_table(found: dict[str, float]) -> str:
    return (
        f"python -m refimpl.run on 5 s: {found['cold_s']:.1f} s with nothing compiled yet, "
        f"{found['warm_s']:.2f} s after that (best of three)"
    )


if __name__ == "__main__":
    sys.exit(main())
