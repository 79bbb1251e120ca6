"""The benchmark's command line: what it prints, contenders in processes of their own, bad input. Nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refimpl.audio import write_pcm
from refimpl.bench import contest_table, main, stream_through
from refimpl.session import Model
from tests.tiny import noise, refused, tiny_container


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    write_pcm(path, noise(1500))
    return path


def test_presets(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_container().save(tmp_path / "tiny.safetensors")
    argv = [str(clip), "--weights", str(tmp_path / "tiny.safetensors"), "--presets", "int8,mixmlp", "--rounds", "1"]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["preset"], row["mode"]) for row in rows] == [
        (preset, mode) for preset in ("int8", "mixmlp") for mode in ("offline", "streaming")
    ]
    assert all(abs(row["real_time_factor"] * row["us_per_frame"] / (1e6 * 1500 / 16000 / 16) - 1) < 1e-9 for row in rows)
    assert main([*argv, "--path", "reference"]) == 0
    assert capsys.readouterr().out.count("\n") == 5


def test_streaming_is_what_offline_gives() -> None:
    model, pcm = Model(tiny_container(), "mixmlp"), noise(1234)
    assert np.array_equal(stream_through(model, pcm), model.separate(pcm))


def test_contenders_run_in_turns(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["refimpl:int8", "refimpl:int8@any"]
    assert main([str(clip), "--peers", "--contenders", ",".join(names), "--rounds", "2", "--json", "--clock", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["contender"] for row in found["rows"]] == [names[0], names[0], names[1], names[1]]
    assert found["ready"][names[0]]["rms"] == found["ready"][names[1]]["rms"] > 0
    assert all(memory["peak_kib"] > memory["at_start_kib"] > 0 for memory in found["memory"].values())


def test_the_table_has_ratios() -> None:
    each = {"refimpl:int8": 200.0, "torch:fp32": 1000.0}
    rows = [
        {"contender": name, "mode": mode, "real_time_factor": 1.0, "us_per_frame": time}
        for name, time in each.items()
        for mode in ("offline", "streaming")
    ]
    text = contest_table({"rows": rows, "memory": {"torch:fp32": {"peak_kib": 4096, "at_start_kib": 1024}}}, 3, "wall")
    assert text.count("5.00 torch:fp32") == 2 and "3" in text.splitlines()[-1]


def test_bad_contenders(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, [clip, "--peers", "--contenders", "abacus:wood"], capsys, "abacus:wood", "--contenders")
    refused(main, [clip, "--path", "quick"], capsys, "--path")
