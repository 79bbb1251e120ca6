"""Where do the bits go? ``python -m refimpl.sqnr mix.wav``: SQNR of every step of each preset against ``fp32``.

Both programs run side by side over the clip; a step's figure is ``10 log10(sum x^2 / sum (x - q)^2)`` over all frames and
elements, x the fp32 tensor and q the real value of the preset's, errors of all earlier steps included.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.audio import read_pcm
from refimpl.cli import Parser, announce_compilation, guarded
from refimpl.presets import NAMES
from refimpl.program import Program
from refimpl.session import BLOCK, Model, frames_of, load

Array = np.ndarray[Any, np.dtype[Any]]


def counterparts(program: Program, floating: Program) -> dict[str, str]:
    """Every tensor of ``program`` that has a real value, and the tensor of the fp32 program that it stands for."""
    origin = program.facts["origin"]
    return {
        name: origin.get(name, name)
        for name, tensor in program.tensors.items()
        if origin.get(name, name) in floating.tensors and tensor.format.kind != "int32" and name not in ("frame", "clipped")
    }


def measure(model: Model, reference: Model, pcm: Array) -> dict[str, float]:
    """SQNR in dB by tensor name, in the order of the program's steps, and of ``pcm`` at the end."""
    program, floating = model.program, reference.program
    pairs = counterparts(program, floating)
    energy, noise = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    frames, state, other = frames_of(pcm), program.start(), floating.start()
    for first in range(0, len(frames), BLOCK):
        mine = program.run(frames[first : first + BLOCK], state, list(pairs))
        exact = floating.run(frames[first : first + BLOCK], other, list(set(pairs.values())))
        for name, source in pairs.items():
            x = floating.tensors[source].format.real(exact[source])
            difference = program.tensors[name].format.real(mine[name]) - x
            energy[name] += float((x * x).sum())
            noise[name] += float((difference * difference).sum())
    made = [name for step in program.steps for name in step.outputs if name in pairs]
    return {name: decibels(energy[name], noise[name]) for name in made}


def decibels(energy: float, noise: float) -> float:
    """``10 log10(energy / noise)``; infinite where there is no noise, or nothing else."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(energy / noise) if energy > 0 else -math.inf


def table(found: dict[str, dict[str, float]]) -> str:
    """One row a step, one column a preset; ``-`` where a preset has no such step."""
    rows = list(dict.fromkeys(name for column in found.values() for name in column))
    order = {name: i for column in found.values() for i, name in enumerate(column)}
    rows.sort(key=lambda name: order[name])
    width = max(len(name) for name in rows)
    lines = [" ".join([f"{'SQNR against fp32, dB':{width}}", *(f"{preset:>8}" for preset in found)])]
    for name in rows:
        cells = (f"{column[name]:8.1f}" if name in column else f"{'-':>8}" for column in found.values())
        lines.append(" ".join([f"{name:{width}}", *cells]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("refimpl.sqnr", "SQNR of every step of each preset against the fp32 preset, in dB")
    parser.add_argument("input", type=Path, help="audio file, 16 kHz mono")
    parser.add_argument("--presets", default=",".join(name for name in NAMES if name != "fp32"), help="comma-separated")
    parser.add_argument("--profile", default="gap9")
    parser.add_argument("--weights", type=Path, help="container (default: the shipped one)")
    parser.add_argument("--json", action="store_true")

    def body() -> int:
        args = parser.parse_args(argv)
        pcm = read_pcm(args.input)
        announce_compilation()
        reference = load(args.weights, "fp32", args.profile)
        found = {name: measure(load(args.weights, name, args.profile), reference, pcm) for name in args.presets.split(",")}
        print(json.dumps(found, indent=2) if args.json else table(found))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
