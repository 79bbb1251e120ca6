"""Write the card's tables and figures from measurements: ``python -m weights.train.report RESULTS.json ... -o weights/``.

RESULTS are what ``weights.train.evaluate --json`` wrote. Between the markers of ``weights/README.md`` come Table 3 of the paper
(arXiv 2508.03047) with ours beside it, SI-SDRi by input level, and networks of several sizes; into ``figures/`` come SVGs. The
same measurements give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.cli import Parser, folder_made, guarded, printable
from refimpl.cost import blank_program, macs_by, part
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, nominal_bytes, parameter_count
from refimpl.presets import NAMES, load_preset
from refimpl.program import Format
from refimpl.session import HOP, RATE
from refimpl.weights_io import write_whole
from weights.train.evaluate import FORMAT, UNPROCESSED, cell
from weights.train.metrics import TITLES, interval, mean

Result = Mapping[str, Any]
FLOAT, PTQ, QAT = "float", "PTQ", "QAT"
LINE = re.compile(r"(\d+) mixtures: validation SI-SDRi (nan|-?\d+\.\d+) dB, loss (nan|-?\d+\.\d+)")
CURVE = ("run", "mixtures", "si_sdri_db", "loss_db")


class Row(NamedTuple):
    """A row of Table 3: our preset, whether it is the distilled one, and the paper's SI-SDRi in dB and size in kB, if it is
    the paper's."""

    name: str
    preset: str
    distilled: bool = False
    paper_db: float | None = None
    paper_kb: int | None = None


ROWS = (
    Row("FP32", "fp32", False, 14.12, 1926),
    Row("INT8", "int8", False, 10.21, 481),
    Row("+MixLSTM", "mixlstm", False, 11.22, 481),
    Row("+FPConv", "fpconv", False, 12.57, 483),
    Row("+KD", "fpconv", True, 13.07, 483),
    Row("+MixMLP", "mixmlp", False, 13.52, 483),
    Row("+FullMLP", "fullmlp", False, 13.65, 483),
    Row("Stream16 (ours)", "stream16"),
)
PAPER_SIZES = {Config(): (14.12, 3.6), Config(compression=2): (13.06, 2.8)}  # its Table 1: SI-SDRi in dB, INT8 on GAP9 in ms
Measured = dict[tuple[str, str], Result]  # by row name, and FLOAT, PTQ or QAT


def macs(config: Config) -> dict[str, int]:
    """Multiply-accumulates of a 6 ms frame by part: all taps of all convolutions, padding too; no FFT, nothing elementwise."""
    return macs_by(blank_program(config, "fp32"), lambda layer: part(layer.name))


def macs_per_second(config: Config) -> float:
    """Multiply-accumulates per second of audio."""
    return sum(macs(config).values()) * RATE / HOP


def activation_bits(config: Config, preset: str) -> float:
    """Mean bits per activation value of a frame: every tensor from the spectrum to the decoder's output, in its own format."""
    floating = blank_program(config, "fp32").tensors
    names = [name for name in floating if name in ("spectrum", "encoder", "decoder") or name.startswith("block")]
    sizes = np.array([math.prod(floating[name].shape) for name in names])
    bits = np.array([Format(load_preset(preset).kind(name)).bits for name in names])
    return float((sizes * bits).sum() / sizes.sum())


def read_results(path: Path) -> dict[str, Any]:
    """What ``evaluate --json`` wrote; InputError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = data["format"] == FORMAT and all(row["metrics"]["si_sdri"]["values"] for row in data["presets"])
        for row in data["presets"]:
            kind_of(row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or repr(error)
        raise InputError(f"{path}: not the results of weights.train.evaluate --json ({reason})") from None
    if not known:
        raise InputError(f"{path}: results of another format; measure again with weights.train.evaluate --json")
    return dict(data)


def kind_of(result: Result) -> tuple[str, bool]:
    """FLOAT, PTQ or QAT, and whether distilled, by ``qat`` in the container's card (``weights.train.qat``); "" for a preset
    that a container was not trained for, which is no row of the table."""
    training = result["card"].get("qat")
    if not training:
        return FLOAT if result["preset"] == "fp32" else PTQ, False
    if training["preset"] != result["preset"]:
        return "", False
    return QAT, bool(training["distill"])


def check_comparable(files: Sequence[Path], all_data: Sequence[Mapping[str, Any]]) -> None:
    """InputError where results are of other mixtures or arithmetic than the first."""
    for path, data in zip(files, all_data, strict=True):
        for key in ("list_sha256", "mixtures", "arithmetic"):
            if data[key] != all_data[0][key]:
                raise InputError(f"{path}: measured on other mixtures or arithmetic than {files[0]}; measure on the same")


def sorted_in(files: Sequence[Path], all_data: Sequence[Mapping[str, Any]]) -> Measured:
    """Every result in its place of the table; InputError for two of one place."""
    found: Measured = {}
    for path, data in zip(files, all_data, strict=True):
        for result in data["presets"]:
            kind, distilled = kind_of(result)
            split = result["preset"] == "fpconv"  # the one preset that the table has twice
            name = next((r.name for r in ROWS if r.preset == result["preset"] and r.distilled == (distilled and split)), None)
            if name is None or not kind:
                continue  # neither has a preset file of the user's own a row
            if (name, kind) in found and found[name, kind] != result:
                raise InputError(f"{path}: a second {kind} result for {name}; give one")
            found[name, kind] = result
    return found


def against_float(result: Result, floating: Result, pairs: Sequence[str]) -> str:
    """Mean and interval of the difference in SI-SDRi from ``floating``, mixture by mixture, in dB."""
    columns = (r["metrics"]["si_sdri"]["values"] for r in (result, floating))
    differences = [mine - theirs for mine, theirs in zip(*columns, strict=True)]
    return cell({"mean": mean(differences), "interval": interval(differences, pairs)})


def table3(found: Measured, config: Config, pairs: Sequence[str]) -> list[str]:
    """The paper's Table 3 in Markdown, ours beside it and below; sizes count every parameter in its format, as there."""
    floating = found.get(("FP32", FLOAT))
    lines = [
        "| configuration | preset | size, KiB (paper, kB) | bits per activation | GMAC/s | paper: SI-SDRi, dB "
        "| PTQ: SI-SDRi, dB | PTQ against fp32 | QAT: SI-SDRi, dB | QAT against fp32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        size = f"{nominal_bytes(config, load_preset(row.preset)) / 1024:.1f} ({row.paper_kb or '–'})"
        facts = f"{activation_bits(config, row.preset):.1f} | {macs_per_second(config) / 1e9:.2f}"
        cells = [row.name, f"`{row.preset}`", size, facts, f"{row.paper_db:.2f}" if row.paper_db else "–"]
        for kind in (PTQ, QAT):
            result = found.get((row.name, kind))
            if row.preset == "fp32":  # not quantized, so its one figure stands under PTQ alone
                cells += (
                    [cell(floating["metrics"]["si_sdri"]) if floating else "not measured", "–"] if kind == PTQ else ["–", "–"]
                )
            elif row.distilled and kind == PTQ:
                cells += ["–", "–"]
            elif result is None:
                cells += ["not measured", "not measured"]
            else:
                difference = against_float(result, floating, pairs) if floating else "not measured"
                cells += [cell(result["metrics"]["si_sdri"]), difference]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def measures(found: Measured, unprocessed: Mapping[str, Any]) -> list[str]:
    """The other metrics where they were measured, with the unprocessed mixture's own."""
    names = [name for name in TITLES if name in unprocessed and name != "si_sdri"]
    if not names:
        return []
    lines = ["| | " + " | ".join(TITLES[name] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    rows = {"unprocessed mixture": unprocessed}
    for row in ROWS:
        for kind in (FLOAT, PTQ, QAT):
            if (row.name, kind) in found:
                rows[row.name if kind == FLOAT else f"{row.name}, {kind}"] = found[row.name, kind]["metrics"]
    for label, row_metrics in rows.items():
        cells = [cell(row_metrics[name]) if name in row_metrics else "not measured" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def caption(data: Mapping[str, Any]) -> str:
    """What a table was measured on."""
    pairs = len({mixture["pair"] for mixture in data["mixtures"]})
    return (
        f"Measured through the golden model, arithmetic {data['arithmetic']}, on the first {data['count']} mixtures of "
        f"`{data['list']}` ({data['seconds']:g} s, {pairs} pairs of speakers). Brackets: 95% bootstrap interval over the pairs."
    )


def containers(found: Measured) -> str:
    """The containers measured, by digest, and the rows they stand behind."""
    behind: dict[str, list[str]] = {}
    for (name, kind), result in found.items():
        behind.setdefault(f"`{result['weights']}` {result['sha256'][:16]}", []).append(
            name if kind == FLOAT else f"{name} {kind}"
        )
    return "Containers: " + "; ".join(f"{which} ({', '.join(names)})" for which, names in behind.items()) + "."


def levels(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """SI-SDRi by the mixture's peak level in Markdown, one row for each preset that was measured so."""
    measured = [(one, result) for one in data for result in one["presets"] if result["levels"]]
    if not measured:
        return ["SI-SDRi by input level: not measured."]
    found = sorted({level["dbfs"] for _, result in measured for level in result["levels"]})
    lines = ["SI-SDRi in dB by the mixture's peak in dBFS; nothing normalises the level. " + caption(measured[0][0]), ""]
    lines.append("| preset | " + " | ".join(f"{level:g}" for level in found) + " |")
    lines.append("|---" * (len(found) + 1) + "|")
    for _, result in measured:
        by_level = {level["dbfs"]: cell(level, 1) for level in result["levels"]}
        name = f"`{result['preset']}`" + (", QAT" if result["card"].get("qat") else "")
        lines.append(f"| {name} | " + " | ".join(by_level.get(level, "not measured") for level in found) + " |")
    return lines


def title(config: Config) -> str:
    """The paper's name of a network: ``TF-MLPNet+2F`` where frequencies are compressed by 2; then what is not the paper's."""
    name = "TF-MLPNet" + (f"+{config.compression}F" if config.compression > 1 else "")
    usual = Config().to_dict() | {"compression": config.compression}
    return ", ".join([name, *(f"{field} {value}" for field, value in config.to_dict().items() if value != usual[field])])


def networks(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paper's Table 1 in Markdown for every size of network that was measured after training, ours beside it."""
    by_size: dict[Config, dict[str, Result]] = {}
    for result in (result for one in data for result in one["presets"]):
        if result["card"].get("qat") or result["preset"] not in NAMES:
            continue
        found = by_size.setdefault(Config.from_dict(result["config"]), {})
        if (first := found.setdefault(result["preset"], result)) != result:
            files = f"{first['weights']} and {result['weights']}"
            raise InputError(f"{files}: two results of {result['preset']} for one size of network; give one")
    if not by_size:
        return ["Networks of several sizes: not measured."]
    presets = [name for name in NAMES if any(name in found for found in by_size.values())]
    ours = " | ".join(f"`{name}`: SI-SDRi, dB" for name in presets)
    facts = "network | parameters | FP32, KiB | INT8, KiB | GMAC/s | paper: INT8, ms a frame | paper: FP32 SI-SDRi, dB"
    lines = [
        f"| {facts} | {ours} |",
        "|---" * (7 + len(presets)) + "|",
    ]
    for config, found in by_size.items():
        sizes = " | ".join(f"{nominal_bytes(config, load_preset(name)) / 1024:.1f}" for name in ("fp32", "int8"))
        decibels, runtime = PAPER_SIZES.get(config, ("–", "–"))
        measured = {name: cell(result["metrics"]["si_sdri"]) for name, result in found.items()}
        row = [title(config), f"{parameter_count(config):,}", sizes, f"{macs_per_second(config) / 1e9:.2f}"]
        cells = [*row, f"{runtime}", f"{decibels}", *(measured.get(name, "not measured") for name in presets)]
        lines.append("| " + " | ".join(cells) + " |")
    files = {f"`{result['weights']}` {result['sha256'][:16]}" for found in by_size.values() for result in found.values()}
    return [caption(data[0]) + f" Containers: {'; '.join(sorted(files))}.", "", *lines]


def with_section(text: str, name: str, lines: Sequence[str], where: Path) -> str:
    """``text`` with the lines between ``<!-- name -->`` and ``<!-- end of name -->`` replaced."""
    parts = re.split(rf"(<!-- (?:end of )?{name} -->)", text)
    if parts[1::2] != [f"<!-- {name} -->", f"<!-- end of {name} -->"]:
        raise InputError(f"{where}: needs the lines '<!-- {name} -->' and '<!-- end of {name} -->' once each, in this order")
    parts[2] = "\n" + "\n".join(lines) + "\n"
    return "".join(parts)


def curve_from_log(text: str, run: str = "", before: int = 0) -> list[dict[str, Any]]:
    """The rows of a run's ``log.txt``, mixtures counted on from ``before``; of what a resumed run repeats, the later lines."""
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := LINE.fullmatch(line.strip()):
            done = before + int(match[1])
            rows = [row for row in rows if row["mixtures"] < done]
            values = ("" if value == "nan" else float(value) for value in match.groups()[1:])
            rows.append(dict(zip(CURVE, (run, done, *values), strict=True)))
    return rows


def curve_of_runs(folders: Sequence[Path]) -> str:
    """The learning curve of run folders that continue each other, as CSV with the columns ``CURVE``."""
    rows: list[dict[str, Any]] = []
    for folder in folders:
        try:
            text = (folder / "log.txt").read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise InputError(f"{folder}: cannot read the run's log.txt ({error}); give a folder that train wrote") from None
        found = curve_from_log(text, folder.resolve().name, rows[-1]["mixtures"] if rows else 0)
        if not found:
            raise InputError(
                f"{folder / 'log.txt'}: holds no line such as '1000 mixtures: validation SI-SDRi 1.94 dB, loss -2.50'"
            )
        rows += found
    sink = io.StringIO()
    writer = csv.DictWriter(sink, CURVE, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def read_curve(text: str, where: Path) -> list[dict[str, Any]]:
    """The rows of a learning curve's CSV, numbers as such, ``nan`` for an empty field."""
    try:
        table = csv.DictReader(io.StringIO(text))
        rows = [{key: row[key] if key == "run" else float(row[key] or "nan") for key in CURVE} for row in table]
    except (KeyError, TypeError, ValueError):
        rows = []
    if not rows:
        raise InputError(f"{where}: not a learning curve; it has the columns {', '.join(CURVE)} and rows of numbers")
    return rows


def quality_figure(found: Measured, x_of: Mapping[str, float], label: str) -> bytes:
    """SI-SDRi against ``x_of`` each row: ours with intervals on the left, the paper's on the right, as SVG."""
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharex=True)
    markers = dict(zip((row.name for row in ROWS), "*sovPD^X", strict=True))
    colours = {FLOAT: "black", PTQ: "tab:blue", QAT: "tab:orange"}
    apart = 0.015 * max(x_of.values())  # points of one x would hide each other's intervals
    for index, ((name, kind), result) in enumerate(found.items()):
        si_sdri = result["metrics"]["si_sdri"]
        low, high = si_sdri["interval"] or (si_sdri["mean"], si_sdri["mean"])
        error = [[si_sdri["mean"] - low], [high - si_sdri["mean"]]]
        x = x_of[name] + apart * (index - (len(found) - 1) / 2)
        text = name if kind == FLOAT else f"{name}, {kind}"
        left.errorbar(x, si_sdri["mean"], error, fmt=markers[name], color=colours[kind], capsize=3, label=text)
    for row in (row for row in ROWS if row.paper_db):
        right.plot(x_of[row.name], row.paper_db, markers[row.name], color="tab:gray", label=row.name)
    left.set(title="these weights (points set side by side)", ylabel="SI-SDRi, dB", xlim=(0, 1.15 * max(x_of.values())))
    right.set(title="arXiv 2508.03047, its weights and mixtures")
    for axes in (left, right):
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return _svg(figure)


def curve_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Validation SI-SDRi against mixtures trained on, a line for each run, as SVG."""
    figure, axes = _pyplot().subplots(figsize=(6, 3.6), layout="constrained")
    for run in dict.fromkeys(row["run"] for row in rows):
        points = [(row["mixtures"], row["si_sdri_db"]) for row in rows if row["run"] == run]
        axes.plot(*zip(*points, strict=True), marker=".", label=run)
    axes.set(xlabel="mixtures trained on", ylabel="validation SI-SDRi, dB")
    axes.grid(alpha=0.3)
    axes.legend(title="run", fontsize=7)
    return _svg(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise InputError('figures need the package matplotlib: pip install "refimpl[eval]"') from None
    matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
    matplotlib.use("Agg")
    # Names inside the file come from the salt, text stays text: the same bytes for the same figure.
    matplotlib.rcParams.update({"svg.hashsalt": "refimpl", "svg.fonttype": "none"})
    from matplotlib import pyplot

    return pyplot


def _svg(figure: Any) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    _pyplot().close(figure)
    return b"\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("weights.train.report", "Write the weights' tables and figures from measurements.")
    parser.add_argument(
        "results", type=Path, nargs="*", metavar="RESULTS", help="JSON of weights.train.evaluate, same mixtures"
    )
    parser.add_argument(
        "--levels",
        type=Path,
        action="append",
        metavar="RESULTS",
        help="JSON to take the table of levels from (default: RESULTS)",
    )
    parser.add_argument(
        "--measures",
        type=Path,
        action="append",
        metavar="RESULTS",
        help="JSON to take the other measures than SI-SDRi from, of mixtures of their own (default: RESULTS)",
    )
    parser.add_argument("--log", type=Path, metavar="CSV", help="learning curve to draw")
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="write --log from this run's log.txt; several continue each other",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("weights"), help="folder with README.md (default %(default)s)"
    )
    parser.add_argument(
        "--sizes",
        type=Path,
        action="append",
        default=[],
        metavar="RESULTS",
        help="JSON of networks of other sizes, same mixtures, for the table of networks",
    )
    args = parser.parse_args(argv)
    if args.run and not args.log:
        raise InputError("--run needs --log CSV, the file to write the learning curve to")
    data = [read_results(path) for path in args.results]
    others = [read_results(path) for path in args.sizes]
    check_comparable([*args.results, *args.sizes], [*data, *others])
    measured = [read_results(path) for path in args.measures or []]
    check_comparable(args.measures or [], measured)
    beside = measures_section(args.measures, measured) if measured else measures_section(args.results, data)
    by_level = [read_results(path) for path in args.levels] if args.levels else data
    curve = curve_of_runs(args.run) if args.run else _text(args.log) if args.log else None
    figures = drawn(sorted_in(args.results, data), data, curve, args.log)
    readme = args.output / "README.md"
    text = with_section(_text(readme), "table3", table_section(args.results, data, beside, figures), readme)
    text = with_section(text, "levels", levels(by_level), readme)
    text = with_section(text, "networks", networks([*data, *others] if others else []), readme)
    if args.run and curve is not None:
        write_whole(args.log, curve.encode())
    with folder_made(args.output / "figures") as folder:
        for name, svg in figures.items():
            write_whole(folder / name, svg)
    write_whole(readme, text.encode())
    print("\n".join(printable(path) for path in (readme, *(args.output / "figures" / name for name in figures))))
    return 0


def measures_section(files: Sequence[Path], data: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of the other measures and what stands above it; nothing where there are none."""
    others = measures(sorted_in(files, data), data[0][UNPROCESSED]) if data else []
    return [f"Beside SI-SDRi, means over the two speakers, first {data[0]['count']} mixtures:", "", *others] if others else []


def table_section(
    files: Sequence[Path], data: Sequence[Mapping[str, Any]], beside: Sequence[str], figures: Mapping[str, bytes]
) -> list[str]:
    """All that stands between the markers ``table3``."""
    found = sorted_in(files, data)
    lines = table3(found, _config(data), [mixture["pair"] for mixture in data[0]["mixtures"]] if data else [])
    if data:
        lines = [caption(data[0]) + " " + containers(found), "", *lines]
    if beside:
        lines += ["", *beside]
    titles = {
        "size.svg": "SI-SDRi against stored size",
        "bits.svg": "SI-SDRi against bits per activation",
        "learning.svg": "Learning curve",
    }
    for name in figures:
        lines += ["", f"![{titles[name]}](figures/{name})"]
    return lines


def drawn(found: Measured, data: Sequence[Mapping[str, Any]], curve: str | None, where: Path) -> dict[str, bytes]:
    """The figures that there are measurements for, by file name."""
    figures: dict[str, bytes] = {}
    if found:
        config = _config(data)
        sizes = {row.name: nominal_bytes(config, load_preset(row.preset)) / 1024 for row in ROWS}
        bits = {row.name: activation_bits(config, row.preset) for row in ROWS}
        figures["size.svg"] = quality_figure(found, sizes, "stored parameters, KiB")
        figures["bits.svg"] = quality_figure(found, bits, "mean bits per activation")
    if curve is not None:
        figures["learning.svg"] = curve_figure(read_curve(curve, where))
    return figures


def _config(data: Sequence[Mapping[str, Any]]) -> Config:
    """The one configuration of all results; the paper's where there are none."""
    configs = [Config.from_dict(result["config"]) for one in data for result in one["presets"]]
    if any(config != configs[0] for config in configs):
        raise InputError("the results are of networks of different sizes; a table is of one")
    return configs[0] if configs else Config()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: cannot read this file ({reason})") from None


if __name__ == "__main__":
    sys.exit(main())
