"""Reference speed: ``python -m refimpl.bench [mix.wav]``: real-time factor and microseconds per 6 ms frame, one thread.

For each preset, offline (:meth:`Model.separate`) and streaming (96-sample chunks), interleaved over the presets in every round
so that a drift of the machine falls on all alike; the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.audio import read_pcm
from refimpl.errors import InputError
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
    parser = argparse.ArgumentParser(prog="python -m refimpl.bench", description="reference speed, one thread")
    parser.add_argument("input", type=Path, nargs="?", help="audio file, 16 kHz mono (default: 3 s of seeded noise)")
    parser.add_argument("--presets", default=",".join(NAMES), help="comma-separated")
    parser.add_argument("--profile", default="gap9")
    parser.add_argument("--weights", type=Path, help="container (default: the shipped one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        noise = np.random.Generator(np.random.PCG64(0)).integers(-3000, 3000, 3 * RATE).astype(np.int16)
        pcm = read_pcm(args.input) if args.input else noise
        models = {name: load(args.weights, name, args.profile) for name in args.presets.split(",")}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(args.rounds + 1):
        for name, model in models.items():
            for mode, call in (("offline", model.separate), ("streaming", lambda x, m=model: stream_through(m, x))):
                began = time.perf_counter()
                call(pcm)
                if turn:  # the first round warms up
                    times.setdefault((name, mode), []).append(time.perf_counter() - began)
    seconds, frames = len(pcm) / RATE, -(-len(pcm) // HOP)
    medians = {key: statistics.median(values) for key, values in times.items()}
    rows = [
        {"preset": name, "mode": mode, "real_time_factor": seconds / t, "us_per_frame": 1e6 * t / frames}
        for (name, mode), t in medians.items()
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'preset':9} {'mode':10} {'x real time':>12} {'us / frame':>11}   (median of {args.rounds}, one thread)")
    for row in rows:
        print(f"{row['preset']:9} {row['mode']:10} {row['real_time_factor']:12.2f} {row['us_per_frame']:11.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
