"""What each accelerator's arithmetic costs: every profile and preset on the same mixtures, as the README's table.

``python -m weights.train.accelerators LIST.csv [--count 40] [--weights FILE] [--jobs 2] [--json FILE] [--readme README.md]``
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from refimpl.cli import Parser, announce_compilation, check_target, guarded, positive_int
from refimpl.cost import storage
from refimpl.errors import InputError, NotExpressible
from refimpl.numerics.activation import VARIANTS
from refimpl.presets import MORE, NAMES
from refimpl.profiles import PROFILES, profile_named
from refimpl.session import Model, load
from refimpl.weights_io import default_weights, write_whole
from weights.train import metrics
from weights.train.data import Listed, read_list
from weights.train.evaluate import SECONDS, cell, to_pcm
from weights.train.metrics import improvement

Array = np.ndarray[Any, np.dtype[Any]]
MARKS = "<!-- accelerators -->", "<!-- end of accelerators -->"
WITH_TABLES = ("int8", "mixmlp")  # the presets that are also run with the SDK's activation tables


class Cell(NamedTuple):
    """One arithmetic: a profile, a preset, and whose sigmoid and tanh."""

    profile: str
    preset: str
    tables: str = "exact"


def cells() -> list[Cell]:
    """All that is asked; what a profile cannot express is among it."""
    plain = [Cell(profile, preset) for profile in PROFILES for preset in (*NAMES, *MORE) if preset != "fp32"]
    return plain + [Cell("gap9", preset, tables) for preset in WITH_TABLES for tables in VARIANTS[1:]]


@cache
def model(weights: str, one: Cell) -> Model:
    return load(weights, one.preset, one.profile, one.tables)


def expressible(weights: str, wanted: Sequence[Cell]) -> tuple[list[Cell], dict[Cell, str]]:
    """The cells that can be lowered, and why the others cannot."""
    can, cannot = [], {}
    for one in wanted:
        try:
            model(weights, one)
            can.append(one)
        except NotExpressible as error:
            cannot[one] = str(error)
    return can, cannot


class Task(NamedTuple):
    """One mixture through every cell."""

    weights: str
    listed: Listed
    cells: tuple[Cell, ...]


def measure(task: Task) -> list[tuple[float, float, float]]:
    """SI-SDRi, energy of the FP32 output and of the difference from it: first of FP32 itself, then of each cell."""
    mixture, references = (np.asarray(part, np.float64) for part in task.listed.mix(SECONDS))
    pcm = to_pcm(mixture)
    mix = pcm / 32768.0
    reference = model(task.weights, Cell("gap9", "fp32")).separate(pcm) / 32768.0
    energy = float((reference * reference).sum())
    found = [(float(improvement(reference, mix, references).mean()), energy, 0.0)]
    for one in task.cells:
        estimate = model(task.weights, one).separate(pcm) / 32768.0
        difference = estimate - reference
        found.append((float(improvement(estimate, mix, references).mean()), energy, float((difference * difference).sum())))
    return found


def run(tasks: Sequence[Task], jobs: int) -> list[list[tuple[float, float, float]]]:
    def shown(results: Iterator[list[tuple[float, float, float]]]) -> list[list[tuple[float, float, float]]]:
        return list(tqdm(results, "evaluating", total=len(tasks), unit="mixture", disable=None, leave=False))

    if jobs == 1:
        return shown(map(measure, tasks))
    with ProcessPoolExecutor(min(jobs, len(tasks))) as pool:
        return shown(pool.map(measure, tasks))


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    weights = str(args.weights or default_weights())
    if args.readme:
        replaced(args.readme.read_text(encoding="utf-8"), "")  # refuses a file without the marks now, not after hours
    if args.json:
        check_target(args.json, args.list)
    rows = read_list(args.list)[: args.count]
    announce_compilation()
    can, cannot = expressible(weights, cells())
    found = run([Task(weights, row, tuple(can)) for row in rows], args.jobs)
    report = summary(rows, can, cannot, found, weights)
    if args.json:
        write_whole(args.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    text = table(report)
    if args.readme:
        write_whole(args.readme, replaced(args.readme.read_text(encoding="utf-8"), text).encode())
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("weights.train.accelerators", "Every profile and preset on a list of mixtures, through the golden model.")
    parser.add_argument("list", type=Path, metavar="LIST", help="CSV list of mixtures; see weights/README.md")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="container (default: the shipped one)")
    parser.add_argument("--count", type=positive_int, default=40, help="the first N mixtures (default %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every mixture's values")
    parser.add_argument("--readme", type=Path, metavar="FILE", help=f"put the table between {MARKS[0]} and {MARKS[1]}")
    return parser


def summary(
    rows: Sequence[Listed],
    can: Sequence[Cell],
    cannot: dict[Cell, str],
    found: Sequence[Sequence[tuple[float, float, float]]],
    weights: str,
) -> dict[str, Any]:
    """Means with intervals over pairs of speakers, SQNR over all mixtures together, bytes of the constants."""
    pairs = [row.pair for row in rows]
    measured = []
    for index, one in enumerate((Cell("any", "fp32"), *can)):
        values = [mixture[index] for mixture in found]
        energy, noise = sum(v[1] for v in values), sum(v[2] for v in values)
        used = model(weights, one if index else Cell("gap9", "fp32"))
        measured.append(
            {
                **one._asdict(),
                "si_sdri": metrics.summary({"si_sdri": [v[0] for v in values]}, pairs)["si_sdri"],
                "sqnr": 10 * math.log10(energy / noise) if noise else None,
                "bytes": storage(used.program, profile_named(used.profile).bias_bits).total,
            }
        )
    left_out = [{**one._asdict(), "reason": reason} for one, reason in cannot.items()]
    sha = model(weights, Cell("gap9", "fp32")).weights_sha256
    return {"count": len(rows), "weights": Path(weights).name, "sha256": sha, "measured": measured, "not_expressible": left_out}


def table(report: dict[str, Any]) -> str:
    """Markdown: profile x preset; each cell SI-SDRi in dB and SQNR in dB, then the bytes and the tables."""
    by_cell = {(m["profile"], m["preset"], m["tables"]): m for m in report["measured"]}
    presets = [preset for preset in (*NAMES, *MORE) if preset != "fp32"]
    floating = by_cell["any", "fp32", "exact"]
    lines = [
        f"SI-SDRi in dB, mean over {report['count']} held-out mixtures (in brackets the output's SQNR against `fp32` in dB),",
        "and KiB of constants.",
        f"`fp32` (the same on every profile): {cell(floating['si_sdri'])} dB, the interval being 95% over pairs of speakers.",
        "",
        "| profile | " + " | ".join(f"`{preset}`" for preset in presets) + " |",
        "|---|" + "---|" * len(presets),
    ]
    for profile in PROFILES:
        found = [by_cell.get((profile, preset, "exact")) for preset in presets]
        lines.append(f"| `{profile}` | " + " | ".join(_short(one) for one in found) + " |")
    for tables in VARIANTS[1:]:
        found = [(by_cell.get(("gap9", preset, tables)), preset in WITH_TABLES) for preset in presets]
        lines.append(
            f"| `gap9`, tables `{tables}` | " + " | ".join(_short(one) if asked else "" for one, asked in found) + " |"
        )
    return "\n".join(lines)


def _short(one: dict[str, Any] | None) -> str:
    if one is None:
        return "n/a"
    return f"{one['si_sdri']['mean']:.2f} ({one['sqnr']:.1f}), {one['bytes'] / 1024:.0f}"


def replaced(text: str, made: str) -> str:
    """``text`` with ``made`` between the marks; :class:`InputError` where it does not have them."""
    if not all(text.count(mark) == 1 for mark in MARKS):
        raise InputError(f"the file has no lines {MARKS[0]} and {MARKS[1]}; add them where the table should be")
    head, rest = text.split(MARKS[0])
    return f"{head}{MARKS[0]}\n{made}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


if __name__ == "__main__":
    sys.exit(main())
