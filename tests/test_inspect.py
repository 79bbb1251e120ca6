"""The census: saturation against wide recomputation, proven bounds against what is observed; the command and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refimpl import audio, cost, inspect, sqnr
from refimpl.cost import named_constants
from refimpl.numerics.requantize import LAW_FOLDED, LAW_NORM_TWICE, LAW_SINGLE, Requantizer
from refimpl.presets import NAMES
from refimpl.profiles import GAP9
from refimpl.program import OPERATORS, Program, Ref, Step
from refimpl.session import Model, frames_of
from refimpl.weights_io import Container
from tests.tiny import noise, refused, tiny_container, tree

LOUD = np.clip(noise(96 * 20).astype(np.int32) * 6, -32768, 32767).astype(np.int16)  # far beyond what was calibrated


def traced(program: Program, pcm: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """All tensors of the second half of a clip; the same with their past frames in front; the number of frames."""
    frames, state = frames_of(pcm), program.start()
    half = len(frames) // 2
    program.run(frames[:half], state)
    held = {name: array.copy() for name, array in state.items()}
    values = program.run(frames[half:], state, list(program.tensors))
    whole = {name: np.concatenate((held[name], v)) if name in held else v for name, v in values.items()}
    return values, whole, len(frames) - half


@pytest.mark.parametrize("preset", ["fp32", "int8", "mixmlp"])
def test_steps_run_again_on_their_inputs(preset: str, compressed: Container) -> None:
    """A step run by itself on what ``inputs_of`` gives it makes the bits of the program: with past frames, the LSTM too."""
    program = Model(compressed, preset).program
    values, whole, count = traced(program, noise(96 * 8))
    for step in program.steps:
        outputs = [np.empty_like(values[name]) for name in step.outputs]
        OPERATORS[step.operator](*inspect.inputs_of(program, step, whole, count), *step.constants, *outputs)
        for name, output in zip(step.outputs, outputs, strict=True):
            assert np.array_equal(output, values[name], equal_nan=output.dtype.kind == "f"), name


def before_saturation(step: Step, inputs: list[np.ndarray], y: np.ndarray) -> tuple[np.ndarray, int, int] | None:
    """What a step makes before it is cut off, and the bounds, in NumPy int64 from the formulas of SPEC G, E and Q."""
    c = named_constants(step)
    wide = [x.astype(np.int64) for x in inputs]

    def norm(v: np.ndarray, n: Any) -> np.ndarray:
        n = np.asarray(n)
        return (v + np.where(n > 0, 1 << np.maximum(n - 1, 0), 0)) >> n

    if step.operator.startswith("fully_connected"):
        rq: Requantizer = c["rq"]
        weight = c["weight"].astype(np.int64)
        frequency = step.operator == "fully_connected_frequency"
        acc = np.einsum("gf,tfc->tgc" if frequency else "cd,tfc->tfd", weight, wide[0])
        m, n, bias, addend = (v.astype(np.int64)[:, None] if frequency else v.astype(np.int64) for v in rq_arrays(rq))
        if rq.law == LAW_FOLDED:
            return (acc * m + addend) >> n, rq.lowest, rq.highest
        if rq.law == LAW_NORM_TWICE:
            return norm(norm(acc + bias, rq.pre_shift) * m, n - rq.pre_shift), rq.lowest, rq.highest
        if rq.law == LAW_SINGLE:
            return norm((acc + bias) * m, n), rq.lowest, rq.highest
    if step.operator == "add_two_stage":
        total = norm((norm((wide[0] + 128) * c["ma"], c["na"]) + wide[1] + 128) * c["mo"], c["no"])
        return total + c["add_bias"], 0, 255
    if step.operator == "add_joint":
        total = (wide[0] - c["za"]) * c["ma"] + (wide[1] - c["zb"]) * c["mb"]
        return norm(total, c["n"]) + c["zero_point"], c["lowest"], c["highest"]
    if step.operator == "add_scaled" and c["law"] == LAW_SINGLE:
        a = norm(((wide[0] - c["za"]) << c["left"]) * c["ma"], c["na"])
        b = norm(((wide[1] - c["zb"]) << c["left"]) * c["mb"], c["nb"])
        return norm((a + b) * c["mo"], c["no"]) + c["zero_point"], c["lowest"], c["highest"]
    if step.operator == "multiply":
        return norm((wide[0] - c["za"]) * (wide[1] - c["zb"]) * c["m"], c["n"]) + c["zero_point"], c["lowest"], c["highest"]
    if step.operator == "requantize_codes":
        return norm((wide[0] - c["in_zero"]) * c["m"], c["n"]) + c["zero_point"], c["lowest"], c["highest"]
    if step.operator == "quantize_bf16":
        x = (inputs[0].astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.rint(x * np.float32(c["inverse_scale"])).astype(np.int64) + c["zero_point"], c["lowest"], c["highest"]
    return None


def rq_arrays(rq: Requantizer) -> tuple[np.ndarray, ...]:
    return rq.multiplier, rq.shift, rq.bias, rq.addend


@pytest.mark.parametrize("preset, profile", [("int8", "gap9"), ("mixmlp", "gap9"), ("int8", "tflite_single")])
def test_saturation_is_exact(preset: str, profile: str, small: Container) -> None:
    """Element by element: cut off is what lies beyond the bounds before saturation, in every integer operator."""
    program = Model(small, preset, profile).program
    values, whole, count = traced(program, LOUD)
    checked: dict[str, list[int]] = {}
    for step in program.steps:
        inputs, y = inspect.inputs_of(program, step, whole, count), values[step.outputs[0]]
        expected = before_saturation(step, inputs, y)
        if expected is None:
            continue
        full, lowest, highest = expected
        masks = inspect.cut_off(step, inputs, y)
        assert masks is not None
        assert np.array_equal(masks[0], full < lowest) and np.array_equal(masks[1], full > highest), step.name
        seen = checked.setdefault(step.operator, [0, 0])
        seen[0] += int(masks[0].sum())
        seen[1] += int(masks[1].sum())
    operators = {"fully_connected_frequency", "fully_connected_channels"}
    operators |= {"add_scaled"} if profile != "gap9" else {"add_two_stage"}
    operators |= {"add_joint", "requantize_codes", "quantize_bf16"} if preset == "mixmlp" else set()
    operators |= {"multiply"} if (preset, profile) == ("int8", "gap9") else set()
    assert operators <= set(checked)
    assert all(sum(checked[name]) for name in operators - {"multiply", "requantize_codes"}), checked  # it did happen


@pytest.mark.parametrize(
    "code, low, high", [(-129, True, False), (-128, False, False), (127, False, False), (128, False, True)]
)
def test_at_a_bound_is_not_saturated(code: int, low: bool, high: bool) -> None:
    """The last code that fits is at the bound and not cut off; one beyond is; for bounds given and for bounds in the rule."""
    zero, least = np.array([[0]], np.int8), np.array([[-128]], np.int8)
    y = np.clip(np.array([[code]]), -128, 127).astype(np.int8)
    given = Step("s", "requantize_codes", (Ref("x"),), (0, 1, 0, code, -128, 127), ("y",))
    fixed = Step("s", "add_two_stage", (Ref("a"), Ref("b")), (1, 0, 1, 0, code + 128), ("y",))
    for step, inputs in ((given, [zero]), (fixed, [least, least])):
        masks = inspect.cut_off(step, inputs, y)
        assert masks is not None and (bool(masks[0][0, 0]), bool(masks[1][0, 0])) == (low, high)


@pytest.fixture(scope="module")
def observed(small: Container) -> dict[str, Any]:
    """Models of a decoder so large that PCM clips, and the census of the loud clip."""
    loud = replace(small, weights={**small.weights, "decoder.weight": small.weights["decoder.weight"] * 100})
    model, reference = Model(loud, "mixmlp"), Model(loud, "fp32")
    rows = inspect.census(model.program, GAP9.width)
    inspect.join(rows, inspect.observe(model, reference, LOUD))
    return {"model": model, "reference": reference, "rows": {row["tensor"]: row for row in rows}}


def test_observations(observed: dict[str, Any]) -> None:
    """Ranges, bounds, ReLU and PCM against the trace and the stream; SQNR against ``refimpl.sqnr``."""
    model, rows = observed["model"], observed["rows"]
    trace = model.trace(LOUD)
    for name, row in rows.items():
        form, seen = model.program.tensors[name].format, row["observed"]
        real = form.real(trace[name])
        assert (seen["low"], seen["high"], seen["elements"]) == (real.min(), real.max(), real.size), name
        if form.is_code:
            assert (seen["at_low"], seen["at_high"]) == tuple((trace[name] == v).sum() for v in (form.lowest, form.highest))
            if "relu" not in seen and "saturated_low" in seen:  # a ReLU's bound is zero, not the format's
                assert seen["saturated_low"] <= seen["at_low"]
            assert seen.get("saturated_high", 0) <= seen["at_high"]
    hidden = rows["block1.spectral.mixer1.freq1"]
    zeros = (trace[hidden["tensor"]] == hidden["zero_point"]).sum()
    assert 0 < hidden["observed"]["relu"] <= zeros and hidden["observed"]["saturated_low"] == 0
    stream = model.stream()
    stream.push(LOUD)
    stream.flush()
    assert rows["pcm"]["observed"]["saturated"] == stream.clipped.sum() > 0
    expected = sqnr.measure(model, observed["reference"], LOUD)
    assert {name: row["observed"]["sqnr_db"] for name, row in rows.items() if "sqnr_db" in row["observed"]} == expected


def test_observed_sums_stay_inside_what_is_proven(observed: dict[str, Any]) -> None:
    """Even far beyond the calibrated level no accumulator passes its bound, and every layer has one."""
    layers = {layer.name for layer in cost.layers(observed["model"].program) if layer.weight_format == "int8"}
    for name in layers:
        row = observed["rows"][name]
        seen, proven = row["observed"]["accumulator"], row["bounds"]["accumulator + bias"]
        assert 0 < seen["bound"] <= proven["bound"] and seen["headroom_bits"] >= proven["headroom_bits"] >= 0


def test_blocks_do_not_matter(small: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same counts whether the clip runs in one block or in many: past frames are handed over."""
    model, reference = Model(small, "int8"), Model(small, "fp32")
    whole = inspect.observe(model, reference, LOUD)
    monkeypatch.setattr(inspect, "BLOCK", 3)
    for name, seen in inspect.observe(model, reference, LOUD).items():
        other = whole[name]
        assert replace(seen, energy=0.0, noise=0.0) == replace(other, energy=0.0, noise=0.0), name
        assert seen.noise == pytest.approx(other.noise, rel=1e-9)


def test_census_has_every_tensor(compressed: Container) -> None:
    """Formats and constants are the program's; the least headroom is that of the largest bound."""
    program = Model(compressed, "mixmlp").program
    rows = inspect.census(program, 32)
    assert [row["tensor"] for row in rows] == [name for step in program.steps for name in step.outputs]
    by_name = {row["tensor"]: row for row in rows}
    for step in program.steps:
        row, form = by_name[step.outputs[0]], program.tensors[step.outputs[0]].format
        assert row["format"] == form.kind and row.get("scale", form.scale) == form.scale
        rq = named_constants(step).get("rq")
        if isinstance(rq, Requantizer) and rq.multiplier.any():
            assert row["multiplier"] == [rq.multiplier.min(), rq.multiplier.max()]
            assert row["shift"] == [rq.shift.min(), rq.shift.max()]
        for what, bound in program.facts["proofs"].get(step.name, {}).items():
            assert row["bounds"][what]["bound"] == bound
            assert (1 << (row["bounds"][what]["width"] - 1)) > bound << row["bounds"][what]["headroom_bits"]


def test_headroom_and_recorded_facts(small: Container) -> None:
    assert [inspect.headroom(bound, 8) for bound in (0, 1, 63, 64, 127, 128)] == [7, 6, 1, 0, 0, -1]
    program = Model(small, "int8").program
    name = "block1.inter_linear"
    facts = dict(program.facts) | {
        "scale_error": {name: np.array([0.01, -0.03, 0.02], np.float32)},
        "widths": {name: {"accumulator": 64}},
    }
    row = next(r for r in inspect.census(replace(program, facts=facts), 32) if r["tensor"] == name)
    assert row["scale_error"] == {"max": pytest.approx(0.03), "mean": pytest.approx(0.02)}
    assert row["bounds"]["accumulator"]["width"] == 64 and row["bounds"]["accumulator + bias"]["width"] == 32


def test_offsets_of_sums(small: Container) -> None:
    """Every two-stage sum has its mean offset, nothing else has; the summary names the largest of all and of cells."""
    program = Model(small, "int8").program
    rows = inspect.census(program, 32)
    assert {row["tensor"] for row in rows if "offset" in row} == {
        s.name for s in program.steps if s.operator == "add_two_stage"
    }
    shifted = [row | {"offset": -7.0} if row["tensor"] == "block2.lstm.c" else row for row in rows]
    lines = inspect.summary([row | {"offset": 9.0} if row["tensor"] == "block1.out" else row for row in shifted])
    assert "largest mean offset of a sum, codes: +9.000 (block1.out)" in lines
    assert "largest mean offset of a cell, codes: -7.000 (block2.lstm.c)" in lines
    assert not any(
        "offset" in line for line in inspect.summary(inspect.census(Model(small, "fullmlp").program, 32)) if "cell" in line
    )


# -- the estimate -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> inspect.Runtime:
    return inspect.runtime(json.loads(inspect.GAP9_RUNTIME.read_text(encoding="utf-8")))


def test_paper_s_rows_are_fitted(fitted: inspect.Runtime) -> None:
    """The published figures, a fit that keeps two degrees of freedom, and residuals that are what is printed."""
    facts = inspect.runtime_json(fitted)
    assert [row["paper"] for row in facts["rows"]] == [3.6, 4.0, 4.2, 5.6, 6.5, 2.8]
    assert [row["paper"] for row in facts["power"]["rows"]] == [54.9, 58.1, 60.7, 80.1]
    assert facts["limits"] == {"bytes": 1_500_000, "ms": 6.0, "mw": 100.0}
    assert facts["freedom"] == facts["power"]["freedom"] == 2
    assert min(facts["nanoseconds_per_unit"].values()) > 0
    assert max(abs(row["residual"]) for row in facts["rows"]) < 0.2
    assert max(abs(row["fitted"] - row["paper"]) for row in facts["checks"]) < 0.15
    per_unit = list(facts["nanoseconds_per_unit"].values())
    for row in facts["rows"]:
        total = sum(row[key] * ns for key, ns in zip(cost.Work._fields, per_unit, strict=True)) / 1e6
        assert total == pytest.approx(row["fitted"]) and row["residual"] == pytest.approx(total - row["paper"])
    text = inspect.runtime_table(fitted)
    assert all(row["name"] in text for row in (*facts["rows"], *facts["checks"]))
    assert all(line in text for line in (*facts["assumptions"], facts["conditions"], facts["source"]))


def test_no_estimate_without_a_row(fitted: inspect.Runtime, small: Container) -> None:
    assert fitted.estimate(Model(small, "fp32").program) is None
    some = fitted.estimate(Model(small, "int8").program)
    assert some is not None and 0 < some["ms"] < 3.6


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "tiny.safetensors"
    tiny_container().save(path)
    return path


def test_text_and_json_agree(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One preset with audio: a line for each tensor, the paper's rows, and the same figures in the JSON document."""
    clip = tmp_path / "clip.wav"
    audio.write_pcm(clip, noise(96 * 10))
    before = tree(tmp_path)
    argv = [str(clip), "--weights", str(weights), "--preset", "mixmlp"]
    assert inspect.main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert inspect.main(argv) == 0
    text = capsys.readouterr().out
    (result,) = found["presets"]
    program = Model(tiny_container(), "mixmlp").program
    assert [row["tensor"] for row in result["census"]] == [name for step in program.steps for name in step.outputs]
    for row in result["census"]:
        (line,) = [line for line in text.splitlines() if line.split(" ")[0] == row["tensor"]]
        assert row["format"] in line and f" {row['observed'].get('saturated', '-')} " in line
    assert result["identity"]["preset"] == "mixmlp" and found["input"] == str(clip)
    assert result["cost"]["plan"]["arena_bytes"] == cost.plan_buffers(program).arena_bytes
    assert f"{result['cost']['storage']['total']:,}" in text and f"{result['gap9_estimate']['ms']:.1f}" in text
    assert tree(tmp_path) == before


def test_all_presets(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``all`` compares presets in columns; a preset that the container does not serve is named with its reason."""
    assert inspect.main(["--weights", str(weights), "--preset", "all"]) == 0
    text = capsys.readouterr().out
    columns = [name for name in inspect.ALL if f"{name}: n/a on gap9: " not in text]
    assert set(NAMES) <= set(columns)
    assert next(line for line in text.splitlines() if line.startswith("per 6 ms frame")).split()[6:] == columns
    assert "time on GAP9" in text and "+MixMLP" in text
    assert inspect.main(["--weights", str(weights), "--preset", "all", "--profile", "tflite_single"]) == 0
    text = capsys.readouterr().out
    assert "mixmlp: n/a on tflite_single: " in text and "time on GAP9" not in text
    bare = weights.with_name("bare.safetensors")
    replace(tiny_container(), ranges={}, presets=("fp32",)).save(bare)
    assert inspect.main(["--weights", str(bare), "--preset", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["identity"]["preset"] for result in found["presets"]] == ["fp32"]
    assert set(found["not_available"]) == set(inspect.ALL) - {"fp32"} and "refimpl.quantize" in found["not_available"]["int8"]


def test_bad_input(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--weights", weights]
    for argv, words in (
        ([tmp_path / "no.wav", *here], "no.wav"),
        ([*here, "--preset", "int7"], "int7"),
        ([*here, "--profile", "gap8"], "gap8"),
        (["--weights", tmp_path / "no.safetensors"], "no.safetensors"),
        ([*here, "--presets", "int8"], "--presets"),
    ):
        refused(inspect.main, argv, capsys, words)
