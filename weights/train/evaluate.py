"""Separation quality of a container on a list of mixtures, through the golden model itself; see ``weights/README.md``.

``python -m weights.train.evaluate LIST.csv [--presets mixmlp,int8] [--count 40] [--levels -35,-15,0] [--json FILE]``; the list
has the columns id, source1, start1_s, source2, start2_s, snr_db, its paths relative to the list's folder. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from refimpl.cli import Parser, announce_compilation, check_target, guarded, positive_int, printable
from refimpl.errors import InputError
from refimpl.presets import MORE, NAMES, load_preset
from refimpl.session import Model, load
from refimpl.version import ARITHMETIC
from refimpl.weights_io import default_weights, load_container, write_whole
from weights.train import metrics
from weights.train.data import Listed, read_list
from weights.train.metrics import TITLES, improvement, si_sdr

__all__ = ["evaluate", "improvement", "main", "run", "si_sdr"]

Array = np.ndarray[Any, np.dtype[Any]]
FORMAT = 1
SECONDS = 5.0
UNPROCESSED = "unprocessed"


class Cell(NamedTuple):
    """What is measured: metrics of one preset (None: unprocessed), mixtures as listed or with their peaks at ``level`` dBFS."""

    preset: str | None
    level: float | None
    metrics: tuple[str, ...]


class Task(NamedTuple):
    """One mixture of one cell, and the container to run it through."""

    cell: Cell
    weights: str
    listed: Listed


def to_pcm(x: Array) -> Array:
    """Real values in PCM / 32768 scale to int16, rounded half to even, saturated."""
    return np.clip(np.rint(np.asarray(x, np.float64) * 32768), -32768, 32767).astype(np.int16)


def evaluate(task: Task) -> dict[str, float]:
    """The task's metrics, each the mean over both speakers; nothing normalises the level on the way."""
    mixture, references = (np.asarray(part, np.float64) for part in task.listed.mix(SECONDS))
    preset, level, names = task.cell
    if level is not None:
        gain = 10 ** (level / 20) / np.abs(mixture).max()
        mixture, references = mixture * gain, references * gain
    pcm = to_pcm(mixture)
    if preset is None:
        estimate = np.stack([pcm, pcm])
    else:
        estimate = _model(task.weights, preset).separate(pcm)
    return metrics.measure(names, estimate / 32768.0, pcm / 32768.0, references)


@lru_cache
def _model(weights: str, preset: str) -> Model:
    return load(weights, preset)


def run(tasks: Sequence[Task], jobs: int) -> list[dict[str, float]]:
    """:func:`evaluate` of every task, in order, by ``jobs`` processes under a progress bar."""

    def shown(results: Iterator[dict[str, float]]) -> list[dict[str, float]]:
        return list(tqdm(results, "evaluating", total=len(tasks), unit="mixture", disable=None, leave=False))

    if jobs == 1:
        return shown(map(evaluate, tasks))
    pool = ProcessPoolExecutor(min(jobs, len(tasks)))
    try:
        return shown(pool.map(evaluate, tasks))
    except BrokenProcessPool:
        raise InputError("a worker process died, perhaps for want of memory; use --jobs 1") from None
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or an interrupt the rest is not worth waiting for


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _parser() -> Parser:
    parser = Parser("weights.train.evaluate", "Separation quality on a list of mixtures, through the golden model.")
    parser.add_argument("list", type=Path, metavar="LIST", help="CSV list of mixtures; see weights/README.md")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[PRESET=]FILE",
        help="container for all presets, or for one of them; may be given several times (default: the shipped one)",
    )
    parser.add_argument("--presets", default=",".join(NAMES), help="comma-separated (default %(default)s)")
    parser.add_argument("--count", type=_count, default=40, metavar="N|all", help="the first N mixtures (default %(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes (default %(default)s)")
    parser.add_argument(
        "--levels",
        type=_levels,
        default=[],
        metavar="DB,...",
        help="also SI-SDRi with the mixtures' peaks at these dBFS, at most 0",
    )
    parser.add_argument("--metrics", help=f"of {','.join(TITLES)} (default: all that are installed)")
    parser.add_argument("--json", metavar="FILE", help="write the results with every mixture's values; - prints them")
    return parser


def _main(argv: list[str]) -> int:
    args = _parser().parse_args(_negative_values(argv))
    names, left_out = metrics.chosen(args.metrics)
    presets, files = containers(args.presets, args.weights)
    if args.json not in (None, "-"):
        check_target(Path(args.json), args.list, *map(Path, files.values()))
    rows = read_list(args.list)[: args.count]
    for row in rows:
        row.mix(SECONDS)  # refuses what cannot be read now, not after hours
    announce_compilation()
    models = {preset: _model(files[preset], preset) for preset in presets}
    report = results(args, rows, names, left_out, files, models)
    data = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if args.json == "-":
        print(data, end="")
        return 0
    if args.json:
        write_whole(Path(args.json), data.encode())
    print(table(report))
    return 0


def containers(presets: str, given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The presets asked for and each one's container: ``PRESET=FILE`` before ``FILE`` before the shipped one."""
    names = list(dict.fromkeys(presets.split(",")))
    for name in names:
        load_preset(name)
    own: dict[str, str] = {}
    for text in given:
        preset, sign, path = text.partition("=")
        key, path = (preset, path) if sign and (preset in (*NAMES, *MORE) or preset in names) else ("", text)
        if key and key not in names:
            raise InputError(f"--weights {text}: preset {key!r} is not among --presets {presets}; add it there")
        if key in own:
            raise InputError(f"--weights {text}: a second container for {key or 'all presets'}; give one")
        own[key] = path
    shared = own[""] if "" in own else str(default_weights()) if set(names) - set(own) else ""
    return names, {name: own.get(name, shared) for name in names}


def results(
    args: argparse.Namespace,
    rows: Sequence[Listed],
    names: Sequence[str],
    left_out: dict[str, str],
    files: dict[str, str],
    models: dict[str, Model],
) -> dict[str, Any]:
    """Everything measured and what it was measured on, as JSON keeps it."""
    cells = [Cell(None, None, tuple(names)), *(Cell(preset, None, tuple(names)) for preset in models)]
    cells += [Cell(preset, level, ("si_sdri",)) for preset in models for level in args.levels]
    sums = summaries(cells, rows, files, args.jobs)
    return {
        "format": FORMAT,
        "arithmetic": ARITHMETIC,
        "list": args.list.name,
        "list_sha256": hashlib.sha256(args.list.read_bytes()).hexdigest(),
        "count": len(rows),
        "seconds": SECONDS,
        "interval": {"of": "pairs of speakers", "confidence": metrics.CONFIDENCE, "resamples": metrics.RESAMPLES},
        "left_out": left_out,
        "mixtures": [{"id": row.id, "pair": row.pair} for row in rows],
        UNPROCESSED: sums[None, None],
        "presets": [
            {
                "preset": preset,
                **_identity(files[preset], model),
                "metrics": sums[preset, None],
                "levels": [{"dbfs": level, **sums[preset, level]["si_sdri"]} for level in args.levels],
            }
            for preset, model in models.items()
        ],
    }


def summaries(
    cells: Sequence[Cell], rows: Sequence[Listed], files: dict[str, str], jobs: int
) -> dict[tuple[str | None, float | None], dict[str, Any]]:
    """Every cell's metrics over all rows, by preset and level."""
    tasks = [Task(cell, files.get(cell.preset or "", ""), row) for cell in cells for row in rows]
    found = run(tasks, jobs)
    sums = {}
    for index, (preset, level, names) in enumerate(cells):
        part = found[index * len(rows) : (index + 1) * len(rows)]
        columns = {name: [one[name] for one in part] for name in names}
        sums[preset, level] = metrics.summary(columns, [row.pair for row in rows])
    return sums


def _identity(file: str, model: Model) -> dict[str, Any]:
    container = load_container(Path(file))
    return {
        "profile": model.profile,
        "weights": Path(file).name,
        "sha256": model.weights_sha256,
        "config": container.config.to_dict(),
        "card": dict(container.card),
    }


def table(report: dict[str, Any]) -> str:
    """The results for people: one line a preset, mean and interval; a second table by level; what is missing and why."""
    pairs = len({mixture["pair"] for mixture in report["mixtures"]})
    rows = {UNPROCESSED: report[UNPROCESSED]} | {row["preset"]: row["metrics"] for row in report["presets"]}
    width = max(len(printable(name)) for name in rows)
    names = list(report[UNPROCESSED])
    lines = [
        f"{printable(report['list'])}: {report['count']} mixtures, {pairs} pairs of speakers; mean [95% interval over pairs]"
    ]
    lines.append(" ".join([f"{'preset':{width}}", *(f"{TITLES[name]:>24}" for name in names)]).rstrip())
    for label, row in rows.items():
        lines.append(" ".join([f"{printable(label):{width}}", *(f"{cell(row[name]):>24}" for name in names)]))
    levels = [level["dbfs"] for level in report["presets"][0]["levels"]]
    if levels:
        lines += ["", "SI-SDRi in dB by the mixture's peak in dBFS"]
        lines.append(" ".join([f"{'preset':{width}}", *(f"{level:>24g}" for level in levels)]))
        for row in report["presets"]:
            cells = (f"{cell(level):>24}" for level in row["levels"])
            lines.append(" ".join([f"{printable(row['preset']):{width}}", *cells]))
    for label, row in rows.items():
        for name in names:
            if lost := row[name]["values"].count(None):
                lines.append(f"{printable(label)}: {TITLES[name]} has no value for {lost} of {report['count']} mixtures")
    return "\n".join([*lines, *(f"not measured: {reason}" for reason in report["left_out"].values())])


def cell(summary: dict[str, Any], digits: int = 2) -> str:
    """A mean with its interval: ``2.00 [1.21, 2.80]``; ``-`` where there is nothing."""
    if summary["mean"] is None:
        return "-"
    text = f"{summary['mean']:.{digits}f}"
    if summary["interval"] is not None:
        low, high = summary["interval"]
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text


def _count(text: str) -> int | None:
    return None if text == "all" else positive_int(text)


def _levels(text: str) -> list[float]:
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [math.nan]
    if not all(math.isfinite(level) and level <= 0 for level in levels):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of dBFS, each at most 0")
    return list(dict.fromkeys(levels))


def _negative_values(argv: Sequence[str]) -> list[str]:
    """``--levels -35,0`` as ``--levels=-35,0``: argparse takes a value that starts with a minus for an option."""
    joined: list[str] = []
    for text in argv:
        if joined and joined[-1] == "--levels" and re.match(r"-[\d.]", text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


if __name__ == "__main__":
    sys.exit(main())
