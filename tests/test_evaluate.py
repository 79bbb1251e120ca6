"""Evaluation and its report: laws of the measures and of the intervals, the command lines on synthetic voices."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, build, nominal_bytes, parameters
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.session import Model, load
from refimpl.version import ARITHMETIC
from tests.tiny import refused, tiny_container, tree
from weights.train import evaluate, metrics, report
from weights.train.data import COLUMNS, read_list
from weights.train.evaluate import improvement, si_sdr

RATE = 16000
PITCHES = {"anna": 210.0, "bert": 95.0, "cara": 260.0, "dirk": 130.0}


def voice(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """A speech-like voice, float64 [n]: harmonics of a wavering pitch under a moving formant, in syllables, with pauses."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    syllables = np.linspace(0, seconds, max(2, int(4 * seconds)))

    def curve(low: float, high: float) -> np.ndarray:
        return np.interp(t, syllables, random.uniform(low, high, len(syllables)))

    phase = 2 * np.pi * np.cumsum(pitch * curve(0.9, 1.1)) / RATE
    formant, loud = curve(400, 2500), np.clip(curve(-0.5, 1.0), 0, None)
    x = np.zeros_like(t)
    for k in range(1, int(4000 / pitch)):
        x += np.sin(k * phase) / (1 + ((k * pitch - formant) / 400) ** 2)
    x = loud * x + 1e-3 * random.standard_normal(len(t))
    return np.asarray(0.5 * x / np.abs(x).max())


def write_voices(folder: Path, utterances: int, seconds: float) -> Path:
    """``folder/speaker/N.wav`` for every speaker of ``PITCHES``."""
    for index, (speaker, pitch) in enumerate(PITCHES.items()):
        (folder / speaker).mkdir(parents=True)
        for n in range(utterances):
            soundfile.write(folder / speaker / f"{n}.wav", voice(pitch, seconds, 100 * index + n), RATE)
    return folder


def write_list(path: Path, rows: Sequence[Sequence[object]], columns: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as sink:
        csv.writer(sink).writerows([columns, *rows])
    return path


def row_of(number: int, first: str, second: str, start: float = 0.0, snr: float = 0.0) -> list[object]:
    return [f"m{number}", f"speech/{first}/0.wav", start, f"speech/{second}/0.wav", 0.25, snr]


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``list.csv`` of four mixtures of three pairs, their voices and a tiny container."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_voices(folder / "speech", 1, 6.0)
    rows = [
        row_of(0, "anna", "bert", 0.5, 3.0),
        row_of(1, "bert", "anna", 0.0, -4.0),
        row_of(2, "cara", "bert"),
        row_of(3, "dirk", "cara"),
    ]
    write_list(folder / "list.csv", rows)
    tiny_container().save(folder / "tiny.safetensors")
    tiny_container(1).save(folder / "other.safetensors")
    return folder


@pytest.fixture(scope="session")
def measured(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all presets on the list, through the command line."""
    out = tmp_path_factory.mktemp("measured") / "results.json"
    argv = [speech / "list.csv", "--weights", speech / "tiny.safetensors", "--count", "all", "--metrics", "si_sdri,si_sdr"]
    assert evaluate.main([str(a) for a in [*argv, "--levels", "-30,0", "--json", out]]) == 0
    return dict(json.loads(out.read_text()))


# SI-SDR

integers = st.integers(-9, 9)


def vectors(count: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(2, 12).flatmap(lambda n: arrays(np.int64, (count, n), elements=integers))


def exact_si_sdr(estimate: Sequence[int], reference: Sequence[int]) -> float:
    """SI-SDR from rational numbers: with c the squared correlation coefficient, 10 log10(c / (1 - c)); bounds as stated."""
    n = len(estimate)
    e = [Fraction(n * int(v) - int(sum(estimate))) for v in estimate]
    r = [Fraction(n * int(v) - int(sum(reference))) for v in reference]
    energies = sum(v * v for v in e) * sum(v * v for v in r)
    squared = sum((a * b for a, b in zip(e, r, strict=True)), Fraction(0)) ** 2
    if squared == 0:
        return -100.0
    if squared == energies:
        return 100.0
    return 10 * math.log10(squared / (energies - squared))


@given(vectors(2))
def test_si_sdr_equals_rational_arithmetic(pair: np.ndarray) -> None:
    estimate, reference = pair
    assert float(si_sdr(estimate, reference)) == pytest.approx(exact_si_sdr(estimate, reference), abs=1e-9)


@given(vectors(2), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.booleans())
def test_si_sdr_knows_no_scale(pair: np.ndarray, gain: float, other: float, negative: bool) -> None:
    estimate, reference = pair.astype(float)
    sign = -1 if negative else 1
    assert float(si_sdr(sign * gain * estimate, other * reference)) == pytest.approx(
        float(si_sdr(estimate, reference)), abs=1e-6
    )


@given(vectors(5))
def test_improvement_is_of_the_better_assignment(values: np.ndarray) -> None:
    """In either order of estimates and of references, and 0 for the mixture itself."""
    estimate, mixture, references = values[:2], values[2], values[3:]
    before = np.mean([exact_si_sdr(mixture, r) for r in references])
    orders = [
        np.mean([exact_si_sdr(e, r) for e, r in zip(part, references, strict=True)]) for part in (estimate, estimate[::-1])
    ]
    found = improvement(estimate, mixture, references).mean()
    assert found == pytest.approx(max(orders) - before, abs=1e-8)
    assert improvement(estimate[::-1], mixture, references).mean() == pytest.approx(found, abs=1e-8)
    assert improvement(estimate, mixture, references[::-1]).mean() == pytest.approx(found, abs=1e-8)
    assert not improvement(np.stack([mixture, mixture]), mixture, references).any()


# Other measures


@pytest.fixture(scope="session")
def pair_of_voices() -> np.ndarray:
    return np.stack([voice(pitch, 5.0, seed) for seed, pitch in enumerate((210.0, 95.0))])


@pytest.mark.parametrize(
    ("metric", "package", "perfect"), [("pesq", "pesq", 4.6439), ("estoi", "pystoi", 1.0), ("si_sdr", "numpy", 100.0)]
)
def test_exact_estimate_scores_the_most(metric: str, package: str, perfect: float, pair_of_voices: np.ndarray) -> None:
    """The references, in either order and at another level, have the highest score; noise lowers it; silence has the lowest."""
    pytest.importorskip(package)
    mixture = pair_of_voices.sum(0)

    def score(estimate: np.ndarray) -> float:
        return metrics.measure([metric], estimate, mixture, pair_of_voices)[metric]

    noisy = pair_of_voices + 0.02 * np.random.default_rng(0).standard_normal(pair_of_voices.shape)
    assert score(0.5 * pair_of_voices[::-1]) == pytest.approx(perfect, abs=1e-3)
    assert score(noisy) < perfect - 0.05
    silent = score(np.zeros_like(pair_of_voices))
    assert math.isnan(silent) if metric == "pesq" else silent < score(noisy)


def test_dnsmos_ranks_speech_and_noise(pair_of_voices: np.ndarray) -> None:
    pytest.importorskip("speechmos")
    pytest.importorskip("onnxruntime")
    noise = 0.3 * np.clip(np.random.default_rng(0).standard_normal(RATE * 5), -3, 3)
    speech_score, noise_score = (metrics.dnsmos_overall(x, x) for x in (pair_of_voices[0], noise))
    assert 1 < noise_score < speech_score < 5


def test_dnsmos_is_its_authors(pair_of_voices: np.ndarray) -> None:
    """Equal to the package's own function, which needs more packages than we ask for."""
    for package in ("speechmos", "onnxruntime", "librosa", "requests"):
        pytest.importorskip(package)
    from speechmos import dnsmos

    for x in (pair_of_voices[0], np.tile(pair_of_voices[1], 3)[: 12 * RATE]):
        assert metrics.dnsmos_overall(x, x) == pytest.approx(dnsmos.run(x, RATE)["ovrl_mos"], abs=1e-5)


def test_missing_packages(speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric that was asked for is refused with the remedy; one that was not is left out, and said so."""
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    argv = [speech / "list.csv", "--weights", speech / "tiny.safetensors", "--presets", "int8", "--count", "1", "--jobs", "1"]
    for metric, package in (("pesq", "pesq"), ("estoi", "pystoi"), ("dnsmos", "speechmos and onnxruntime")):
        refused(evaluate.main, [*argv, "--metrics", metric], capsys, f"package {package}:", 'pip install "refimpl[eval]"')
    assert evaluate.main([str(a) for a in argv]) == 0
    out = capsys.readouterr().out
    assert "SI-SDRi dB" in out.splitlines()[1] and "PESQ" not in out.splitlines()[1]
    assert out.count("not measured: ") == 3 and out.count('pip install "refimpl[eval]"') == 3


# Intervals


@given(st.lists(st.tuples(st.floats(-50, 50), st.sampled_from("abcdef")), min_size=1, max_size=30), st.integers(2, 3))
def test_interval_counts_pairs_not_mixtures(rows: list[tuple[float, str]], times: int) -> None:
    """Deterministic, around the mean, of the same width however often a pair's mixtures repeat; none for a single pair."""
    values, pairs = [v for v, _ in rows], [p for _, p in rows]
    found = metrics.interval(values, pairs, resamples=200)
    assert found == metrics.interval(values, pairs, resamples=200)
    if len(set(pairs)) == 1:
        assert found is None
        return
    assert found is not None
    assert min(values) - 1e-9 <= found[0] <= found[1] <= max(values) + 1e-9
    assert metrics.interval(values * times, pairs * times, resamples=200) == pytest.approx(found, abs=1e-9)
    assert metrics.interval([*values, math.nan], [*pairs, "a"], resamples=200) == found


def test_interval_covers() -> None:
    """With effects of the pair, about 95% of 400 intervals hold the truth; far fewer of those that take mixtures singly."""
    random = np.random.default_rng(7)
    pairs = [str(k) for k in range(25) for _ in range(8)]
    covered = {"pairs": 0, "mixtures": 0}
    for _ in range(400):
        values = np.repeat(random.standard_normal(25), 8) + 0.5 * random.standard_normal(200)
        for name, groups in (("pairs", pairs), ("mixtures", [str(k) for k in range(200)])):
            found = metrics.interval(values.tolist(), groups, resamples=200)
            covered[name] += found is not None and found[0] <= 0 <= found[1]
    assert 0.89 <= covered["pairs"] / 400 <= 0.985
    assert covered["mixtures"] / 400 < 0.7


def test_missing_values() -> None:
    found = metrics.summary({"pesq": [1.0, math.nan, 3.0], "estoi": [math.nan] * 3}, ["a", "b", "c"])
    assert found["pesq"]["mean"] == 2.0 and found["pesq"]["values"] == [1.0, None, 3.0]
    assert found["estoi"] == {"mean": None, "interval": None, "values": [None] * 3}


# Lists


def test_mixture_is_what_the_list_says(speech: Path) -> None:
    rows = read_list(speech / "list.csv")
    assert [row.pair for row in rows] == ["anna+bert", "anna+bert", "bert+cara", "cara+dirk"]
    mixture, references = rows[0].mix(5.0)
    assert mixture.shape == (80000,) and references.shape == (2, 80000)
    assert np.abs(mixture).max() == pytest.approx(0.7, abs=1e-6)
    assert np.abs(references.mean(1)).max() < 1e-6
    assert 10 * np.log10((references[0] ** 2).sum() / (references[1] ** 2).sum()) == pytest.approx(3.0, abs=1e-3)
    audio, _ = soundfile.read(speech / "speech" / "anna" / "0.wav")
    assert float(si_sdr(references[0], audio[8000:88000])) > 90
    np.testing.assert_allclose(references.sum(0), mixture, atol=1e-6)


def test_short_sources_end_in_silence(speech: Path) -> None:
    _, references = read_list(write_list(speech / "late.csv", [row_of(0, "anna", "bert", 4.0)]))[0].mix(5.0)
    assert np.ptp(references[0][2 * RATE :]) == 0 and np.ptp(references[1][2 * RATE :]) > 0


BAD_ROWS = {
    "no-file": (row_of(0, "nobody", "bert"), "no such audio file"),
    "no-number": ([*row_of(0, "anna", "bert")[:5], "loud"], "line 2"),
    "no-field": (row_of(0, "anna", "bert")[:4], "line 2"),
    "not-finite": (row_of(0, "anna", "bert", snr=math.inf), "line 2"),
    "before-the-start": (row_of(0, "anna", "bert", -1.0), "line 2"),
    "behind-the-end": (row_of(0, "anna", "bert", 60.0), "takes silence"),
    "no-audio": (["m0", "list.csv", 0, "speech/anna/0.wav", 0, 0], "cannot read mixture m0"),
    "other-rate": (["m0", "8k.wav", 0, "speech/anna/0.wav", 0, 0], "8000 Hz"),
    "stereo": (["m0", "stereo.wav", 0, "speech/anna/0.wav", 0, 0], "2 channels"),
    "silence": (["m0", "silence.wav", 0, "speech/anna/0.wav", 0, 0], "silence"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "speech").symlink_to(speech / "speech")
    soundfile.write(tmp_path / "8k.wav", voice(100, 1.0, 0), 8000)
    soundfile.write(tmp_path / "stereo.wav", np.zeros((RATE, 2)), RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    row, words = BAD_ROWS[case]
    out = tmp_path / "out.json"
    argv = [write_list(tmp_path / "list.csv", [row]), "--weights", speech / "tiny.safetensors", "--json", out]
    refused(evaluate.main, argv, capsys, words)
    assert not out.exists()


def test_bad_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read this list"):
        read_list(tmp_path / "no.csv")
    with pytest.raises(InputError, match="no column 'snr_db'"):
        read_list(write_list(tmp_path / "short.csv", [[0]], COLUMNS[:-1]))
    with pytest.raises(InputError, match="lists no mixtures"):
        read_list(write_list(tmp_path / "empty.csv", []))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="cannot read this list"):
        read_list(tmp_path / "binary.csv")


# The command line


def test_results_are_the_golden_models(speech: Path, measured: dict[str, Any]) -> None:
    """Every value again from the model itself; the results say what they belong to."""
    assert measured["arithmetic"] == ARITHMETIC and measured["list"] == "list.csv" and measured["count"] == 4
    assert [m["pair"] for m in measured["mixtures"]] == ["anna+bert", "anna+bert", "bert+cara", "cara+dirk"]
    assert [result["preset"] for result in measured["presets"]] == list(NAMES)
    mixture, references = read_list(speech / "list.csv")[2].mix()
    for result in measured["presets"]:
        model = load(speech / "tiny.safetensors", result["preset"])
        assert result["sha256"] == model.weights_sha256 and result["card"] == {"name": "tiny"}
        for dbfs, values in ((None, result["metrics"]["si_sdri"]), *((level["dbfs"], level) for level in result["levels"])):
            gain = 1.0 if dbfs is None else 10 ** (dbfs / 20) / np.abs(mixture).max()
            pcm = evaluate.to_pcm(mixture.astype(np.float64) * gain)
            assert dbfs is None or abs(np.abs(pcm.astype(int)).max() - 32768 * 10 ** (dbfs / 20)) <= 1
            expected = improvement(model.separate(pcm), pcm, references).mean()
            assert values["values"][2] == pytest.approx(expected, abs=1e-6)
            assert values["mean"] == pytest.approx(np.mean(values["values"]))
            assert values["interval"] == pytest.approx(metrics.interval(values["values"], ["1", "1", "2", "3"]))
    assert measured["unprocessed"]["si_sdri"]["values"] == [0.0] * 4
    assert measured["unprocessed"]["si_sdr"]["values"][2] == pytest.approx(si_sdr(mixture[None], references).mean(), abs=1e-3)


def test_processes_change_nothing(speech: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(speech / "list.csv"), "--weights", str(speech / "tiny.safetensors"), "--count", "all"]
    argv += ["--metrics", "si_sdri,si_sdr", "--levels=-30,0", "--jobs", "1", "--json", "-"]
    assert evaluate.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == measured


def test_table_and_containers_by_preset(speech: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One container for a preset, another for the rest; the table holds what the JSON does."""
    out = tmp_path / "results.json"
    argv = [speech / "list.csv", "--weights", speech / "tiny.safetensors", "--weights", f"int8={speech / 'other.safetensors'}"]
    argv += ["--presets", "mixmlp,int8", "--count", 2, "--metrics", "si_sdri", "--levels", "-12.5", "--jobs", 1, "--json", out]
    assert evaluate.main([str(a) for a in argv]) == 0
    data = json.loads(out.read_text())
    assert [(r["preset"], r["weights"]) for r in data["presets"]] == [
        ("mixmlp", "tiny.safetensors"),
        ("int8", "other.safetensors"),
    ]
    assert [r["sha256"] for r in data["presets"]] == [tiny_container().digest, tiny_container(1).digest]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("list.csv: 2 mixtures, 1 pairs of speakers")
    assert [line.split()[0] for line in lines[2:5]] == ["unprocessed", "mixmlp", "int8"]
    assert lines[3].split()[1] == f"{data['presets'][0]['metrics']['si_sdri']['mean']:.2f}"
    assert lines[7].split() == ["preset", "-12.5"] and lines[9].split()[1] == f"{data['presets'][1]['levels'][0]['mean']:.2f}"


def test_bad_options(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 2, and nothing left behind."""
    weights = ["--weights", speech / "tiny.safetensors"]
    before = tree(tmp_path)
    out = ["--json", tmp_path / "out.json"]
    cases: list[tuple[list[object], str]] = [
        (["--count", "0"], "--count"),
        (["--count", "-3"], "--count"),
        (["--jobs", "0"], "--jobs"),
        (["--presets", "int9"], "'int9'"),
        (["--metrics", "si_sdri,beauty"], "'beauty'"),
        (["--levels", "3"], "at most 0"),
        (["--levels", "-30,loud"], "at most 0"),
        (["--levels", "-inf"], "--levels"),
        (["--presets", "int8", "--weights", f"fp32={speech / 'tiny.safetensors'}"], "not among --presets"),
        (["--weights", speech / "other.safetensors"], "second container"),
        (["--json", tmp_path / "no" / "out.json"], "its folder does not exist"),
        (["--json", speech / "list.csv"], "overwrite the input"),
        (["--json", speech / "tiny.safetensors"], "overwrite the input"),
    ]
    for extra, words in cases:
        refused(evaluate.main, [speech / "list.csv", *weights, *out, *extra], capsys, words)
    refused(evaluate.main, [speech / "list.csv", "--weights", tmp_path / "no.safetensors", *out], capsys, "no.safetensors")
    refused(evaluate.main, [tmp_path / "no.csv", *weights, *out], capsys, "no.csv")
    assert tree(tmp_path) == before


# The report


def counted(config: Config) -> int:
    """Multiply-accumulates of a frame from the program that runs: each weight at each place it is applied to."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in parameters(config).items()}
    program = build(config, zeros, {}, load_preset("fp32"), GAP9)
    total = 0
    for step in program.steps:
        if "conv" in step.operator or step.operator.startswith("fully_connected"):
            source, made = program.tensors[step.inputs[0].tensor].shape, program.tensors[step.outputs[0]].shape
            places = made[1] if "frequency" in step.operator else min(made[0], source[0])
            total += step.constants[0].size * places
    return total


@pytest.mark.parametrize(
    "options", [{}, {"compression": 2}, {"blocks": 2, "channels": 6, "hidden": 5, "mixers": 3, "compression": 7}]
)
def test_macs_are_the_programs(options: dict[str, int]) -> None:
    assert sum(report.macs(Config(**options)).values()) == counted(Config(**options))  # type: ignore[arg-type]


def test_macs_of_the_paper_s_network() -> None:
    """24.1 M a frame (12.78 frequency mixing, 3.17 channel mixing, 6.34 LSTM), 4.02 G a second; 14.0 M compressed by two."""
    parts = report.macs(Config())
    assert [round(parts[name] / 1e6, 2) for name in ("frequency mixing", "channel mixing", "lstm")] == [12.78, 3.17, 6.34]
    assert round(sum(parts.values()) / 1e6, 1) == 24.1
    assert round(report.macs_per_second(Config()) / 1e9, 2) == 4.02
    assert round(sum(report.macs(Config(compression=2)).values()) / 1e6, 1) == 14.0


def test_activation_bits_are_the_programs() -> None:
    """The same mean from the formats of each preset's lowered program."""
    container = tiny_container()
    floating = Model(container, "fp32").program.tensors
    names = [name for name in floating if not name.startswith(("istft", "overlap", "frame", "pcm", "clipped"))]
    for preset in NAMES:
        tensors = Model(container, preset).program.tensors
        sizes = [math.prod(tensors[name].shape) for name in names]
        expected = sum(n * tensors[name].format.bits for n, name in zip(sizes, names, strict=True)) / sum(sizes)
        assert report.activation_bits(container.config, preset) == pytest.approx(expected)
    assert report.activation_bits(Config(), "fp32") == 32 and report.activation_bits(Config(), "int8") == 8


CARD = """Before.

<!-- table3 -->
stale
<!-- end of table3 -->

Between.

<!-- levels -->
<!-- end of levels -->

<!-- networks -->
<!-- end of networks -->

After.
"""


@pytest.fixture
def results(measured: dict[str, Any], tmp_path: Path) -> list[Path]:
    """Results of all presets, and of fpconv trained with and without distillation, better by 2 and 1 dB."""
    (tmp_path / "ptq.json").write_text(json.dumps(measured))
    paths = [tmp_path / "ptq.json"]
    for weight in (0.0, 0.1):
        data = json.loads(json.dumps(measured))
        data["presets"] = [result for result in data["presets"] if result["preset"] == "fpconv"]
        found = data["presets"][0]["metrics"]["si_sdri"]
        found["values"] = [v + (2.0 if weight else 1.0) for v in found["values"]]
        found["mean"] += 2.0 if weight else 1.0
        data["presets"][0] |= {"card": {"qat": {"preset": "fpconv", "distill": weight}}, "sha256": "f" * 64, "levels": []}
        data["presets"].append({**data["presets"][0], "preset": "int8"})  # which it was not trained for: no row
        paths.append(tmp_path / f"qat{weight}.json")
        paths[-1].write_text(json.dumps(data))
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text(CARD)
    return paths


def rows_of(markdown: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    return {cells[0]: [cell.strip() for cell in cells[1:]] for cells in lines}


def test_report_end_to_end(results: list[Path], measured: dict[str, Any], tmp_path: Path) -> None:
    """Every figure of the table from the results; the text around the markers stays; a second run changes no byte."""
    pytest.importorskip("matplotlib")
    card, run = tmp_path / "card", tmp_path / "first"
    run.mkdir()
    (run / "log.txt").write_text("noise\n1000 mixtures: validation SI-SDRi 1.94 dB, loss -2.50\n")
    argv = [str(a) for a in [*results, "--run", run, "--log", tmp_path / "curve.csv", "-o", card]]
    assert report.main(argv) == 0
    text = (card / "README.md").read_text()
    assert text.startswith("Before.\n\n<!-- table3 -->\n") and "stale" not in text
    assert "<!-- end of table3 -->\n\nBetween.\n\n<!-- levels -->\n" in text
    assert text.endswith("Networks of several sizes: not measured.\n<!-- end of networks -->\n\nAfter.\n")
    main_table, others = text.split("<!-- end of table3 -->")[0].split("Beside SI-SDRi")
    table = rows_of(main_table)
    by_preset = {result["preset"]: result["metrics"]["si_sdri"] for result in measured["presets"]}
    size = nominal_bytes(tiny_container().config, load_preset("int8")) / 1024
    assert table["INT8"][:2] == ["`int8`", f"{size:.1f} (481)"] and table["INT8"][4] == "10.21"
    assert table["INT8"][5].split()[0] == f"{by_preset['int8']['mean']:.2f}"
    assert table["INT8"][6].split()[0] == f"{by_preset['int8']['mean'] - by_preset['fp32']['mean']:.2f}"
    assert table["INT8"][7:] == ["not measured", "not measured"]
    assert table["FP32"][5].split()[0] == f"{by_preset['fp32']['mean']:.2f}" and table["FP32"][6:] == ["–"] * 3
    assert table["+FPConv"][7].split()[0] == f"{by_preset['fpconv']['mean'] + 1:.2f}"
    assert table["+KD"][5:7] == ["–", "–"] and table["+KD"][7].split()[0] == f"{by_preset['fpconv']['mean'] + 2:.2f}"
    assert rows_of(others)["FP32"][0].split()[0] == f"{measured['presets'][0]['metrics']['si_sdr']['mean']:.2f}"
    levels = rows_of(text.split("<!-- levels -->")[1].split("<!-- end of levels -->")[0])
    assert levels["preset"] == ["-30", "0"] and set(levels) == {"preset", *(f"`{name}`" for name in NAMES)}
    assert levels["`fpconv`"][1].split()[0] == f"{measured['presets'][3]['levels'][1]['mean']:.1f}"
    before = tree(card)
    assert set(before) == {"README.md", "figures", *(f"figures/{name}.svg" for name in ("size", "bits", "learning"))}
    environment = os.environ | {"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo"}
    again = subprocess.run([sys.executable, "-m", "weights.train.report", *argv], env=environment, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert tree(card) == before


def test_other_measures_of_mixtures_of_their_own(
    results: list[Path],
    measured: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``--measures`` takes their table from another list; the first table stays, and they too are of one list."""
    monkeypatch.setattr(report, "drawn", lambda *given: {})  # figures need matplotlib, this does not
    card, path, bad = tmp_path / "card", tmp_path / "measures.json", tmp_path / "bad.json"
    other = {**json.loads(json.dumps(measured)), "list_sha256": "0", "count": 7}
    for result in other["presets"]:
        result["metrics"]["si_sdr"]["mean"] += 100
    path.write_text(json.dumps(other))
    texts = []
    for more in ([], ["--measures", path]):
        assert report.main([str(a) for a in [*results, *more, "-o", card]]) == 0
        texts.append((card / "README.md").read_text().split("<!-- end of table3 -->")[0].split("Beside SI-SDRi"))
    assert texts[0][0] == texts[1][0] and f"first {measured['count']} mixtures" in texts[0][1]
    assert "first 7 mixtures" in texts[1][1]
    expected = measured["presets"][0]["metrics"]["si_sdr"]["mean"] + 100
    assert rows_of(texts[1][1])["FP32"][0].split()[0] == f"{expected:.2f}"
    bad.write_text(json.dumps({**other, "list_sha256": "1"}))
    refused(report.main, [*results, "--measures", path, "--measures", bad, "-o", card], capsys, "bad.json", "other mixtures")


def test_table_of_networks(results: list[Path], measured: dict[str, Any], tmp_path: Path) -> None:
    """A row a size, presets as columns; what was trained for a preset stays out; sizes and MACs are the configuration's."""
    pytest.importorskip("matplotlib")
    other = json.loads(json.dumps(measured))
    other["presets"] = [result for result in other["presets"] if result["preset"] in ("fp32", "mixmlp")]
    for result in other["presets"]:
        result |= {"config": Config(compression=2).to_dict(), "sha256": "a" * 64}
        result["metrics"]["si_sdri"]["mean"] -= 1.0
    path, card = tmp_path / "small.json", tmp_path / "card"
    path.write_text(json.dumps(other))
    assert report.main([str(a) for a in [*results, "--sizes", path, "-o", card]]) == 0
    section = (card / "README.md").read_text().split("<!-- networks -->")[1]
    table = rows_of(section)
    assert table["network"][6:] == [f"`{name}`: SI-SDRi, dB" for name in NAMES]
    assert table["TF-MLPNet+2F"][:6] == ["215,268", "840.9", "210.2", "2.34", "2.8", "13.06"]
    by_preset = {result["preset"]: result["metrics"]["si_sdri"]["mean"] for result in measured["presets"]}
    found = dict(zip(NAMES, table["TF-MLPNet+2F"][6:], strict=True))
    assert {name for name, text in found.items() if text == "not measured"} == set(NAMES) - {"fp32", "mixmlp"}
    assert found["mixmlp"].split()[0] == f"{by_preset['mixmlp'] - 1:.2f}"
    (mine,) = (name for name in table if name.startswith("TF-MLPNet") and name != "TF-MLPNet+2F")
    assert mine == report.title(tiny_container().config) and table[mine][4:6] == ["–", "–"]
    assert table[mine][6 + NAMES.index("fpconv")].split()[0] == f"{by_preset['fpconv']:.2f}"  # not the trained ones' figures
    assert "aaaaaaaaaaaaaaaa" in section and "ffff" not in section


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Config(), "TF-MLPNet"),
        (Config(compression=2), "TF-MLPNet+2F"),
        (Config(blocks=3, channels=16, compression=4), "TF-MLPNet+4F, blocks 3, channels 16"),
        (Config(window="rect"), "TF-MLPNet, window rect"),
    ],
)
def test_title(config: Config, name: str) -> None:
    assert report.title(config) == name


def test_report_without_measurements(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    assert report.main(["-o", str(tmp_path)]) == 0
    assert rows_of((tmp_path / "README.md").read_text())["+FullMLP"][5:] == ["not measured"] * 4
    assert set(tree(tmp_path)) == {"README.md"}


def test_report_refuses(results: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written where something is wrong."""
    pytest.importorskip("matplotlib")
    card, bad = tmp_path / "card", tmp_path / "bad.json"
    data = json.loads(results[0].read_text())
    before = tree(card)
    for content, words in (
        ("{", "not the results"),
        ("[]", "not the results"),
        (json.dumps({**data, "format": 0}), "another format"),
        (json.dumps({**data, "presets": [{**data["presets"][1], "card": {"qat": 1}}]}), "not the results"),
        (json.dumps({**data, "list_sha256": "0"}), "other mixtures"),
        (json.dumps({**data, "presets": [{**data["presets"][1], "sha256": "0"}]}), "second PTQ result for INT8"),
    ):
        bad.write_text(content)
        refused(report.main, [results[0], bad, "-o", card], capsys, "bad.json", words)
    refused(report.main, [tmp_path / "no.json", "-o", card], capsys, "no.json")
    refused(report.main, [results[0], "--sizes", tmp_path / "no.json", "-o", card], capsys, "no.json")
    second = {**data["presets"][1], "sha256": "0"}
    for content, words in ({**data, "list_sha256": "0"}, "other mixtures"), ({**data, "presets": [second]}, "for one size"):
        bad.write_text(json.dumps(content))
        refused(report.main, [results[0], "--sizes", bad, "-o", card], capsys, words)
    refused(report.main, [results[0], "-o", tmp_path / "nowhere"], capsys, "README.md")
    refused(report.main, [results[0], "--run", card, "-o", card], capsys, "--log")
    refused(report.main, [results[0], "--run", card, "--log", tmp_path / "curve.csv", "-o", card], capsys, "log.txt")
    refused(report.main, [results[0], "--log", results[0], "-o", card], capsys, "not a learning curve")
    assert tree(card) == before and not (tmp_path / "curve.csv").exists()
    for text in (
        CARD.replace("<!-- levels -->", ""),
        CARD.replace("<!-- networks -->", ""),
        CARD + CARD,
        CARD.replace("<!-- end of table3 -->", ""),
    ):
        (card / "README.md").write_text(text)
        refused(report.main, [results[0], "-o", card], capsys, "once each")
        assert (card / "README.md").read_text() == text and not (card / "figures").exists()


def test_learning_curve_of_runs(tmp_path: Path) -> None:
    """Runs continue each other; what a resumed run repeats counts once, by its later lines; no validation is an empty field."""
    logs = {
        "first": "500 mixtures: validation SI-SDRi nan dB, loss -1.00\nresumed\n"
        "1000 mixtures: validation SI-SDRi 0.50 dB, loss -1.25\n"
        "1000 mixtures: validation SI-SDRi 0.75 dB, loss -1.50\n",
        "second": "200 mixtures: validation SI-SDRi -0.25 dB, loss 2.00\n",
    }
    for name, text in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").write_text(text)
    found = report.curve_of_runs([tmp_path / "first", tmp_path / "second"])
    assert found == "run,mixtures,si_sdri_db,loss_db\nfirst,500,,-1.0\nfirst,1000,0.75,-1.5\nsecond,1200,-0.25,2.0\n"
    rows = report.read_curve(found, tmp_path)
    assert [row["mixtures"] for row in rows] == [500, 1000, 1200] and math.isnan(rows[0]["si_sdri_db"])
