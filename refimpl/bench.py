"""Reference speed: ``python -m refimpl.bench [mix.wav]``: real-time factor and microseconds per 6 ms frame, one thread.

For each preset, offline (:meth:`Model.separate`) and streaming (96-sample chunks), interleaved over the presets in every round
so that a drift of the machine falls on all alike; the median of the rounds is printed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.audio import read_pcm
from refimpl.cli import Parser, announce_compilation, guarded, positive_int
from refimpl.presets import NAMES
from refimpl.session import HOP, RATE, Model, load

Array = np.ndarray[Any, np.dtype[Any]]


def stream_through(model: Model, pcm: Array) -> None:
    """Push one hop at a time, as a device receives it."""
    stream = model.stream()
    for first in range(0, len(pcm), HOP):
        stream.push(pcm[first : first + HOP])
    stream.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("refimpl.bench", "reference speed of each preset, one thread")
    parser.add_argument("input", type=Path, nargs="?", help="audio file, 16 kHz mono (default: 3 s of seeded noise)")
    parser.add_argument("--presets", default=",".join(NAMES), help="comma-separated")
    parser.add_argument("--profile", default="gap9")
    parser.add_argument("--weights", type=Path, help="container (default: the shipped one)")
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--json", action="store_true")

    def body() -> int:
        args = parser.parse_args(argv)
        noise = np.random.Generator(np.random.PCG64(0)).integers(-3000, 3000, 3 * RATE).astype(np.int16)
        pcm = read_pcm(args.input) if args.input else noise
        announce_compilation()
        models = {name: load(args.weights, name, args.profile) for name in args.presets.split(",")}
        rows = measure(models, pcm, args.rounds)
        print(json.dumps(rows, indent=2) if args.json else table(rows, args.rounds))
        return 0

    return guarded(body)


def measure(models: dict[str, Model], pcm: Array, rounds: int) -> list[dict[str, Any]]:
    """Median figures by preset and mode; a first round that is not counted warms up."""
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for name, model in models.items():
            for mode, call in (("offline", offline), ("streaming", stream_through)):
                began = time.perf_counter()
                call(model, pcm)
                if turn:
                    times.setdefault((name, mode), []).append(time.perf_counter() - began)
    seconds, frames = len(pcm) / RATE, -(-len(pcm) // HOP)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return [
        {"preset": name, "mode": mode, "real_time_factor": seconds / t, "us_per_frame": 1e6 * t / frames}
        for (name, mode), t in medians.items()
    ]


def table(rows: list[dict[str, Any]], rounds: int) -> str:
    lines = [f"{'preset':9} {'mode':10} {'x real time':>12} {'us / frame':>11}   (median of {rounds}, one thread)"]
    for row in rows:
        lines.append(f"{row['preset']:9} {row['mode']:10} {row['real_time_factor']:12.2f} {row['us_per_frame']:11.0f}")
    return "\n".join(lines)


def offline(model: Model, pcm: Array) -> None:
    model.separate(pcm)


if __name__ == "__main__":
    sys.exit(main())
