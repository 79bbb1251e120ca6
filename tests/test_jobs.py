"""``refimpl.run --jobs``: several files at once, in processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from refimpl import run
from refimpl.audio import write_pcm
from refimpl.run import Job, main
from tests.tiny import noise, tiny_container


def vanish(job: Job) -> None:
    """A worker that is gone when its file comes."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    tiny_container().save(path)
    return path


def test_order_bits_and_a_bad_file(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reports come in input order with the bits of one process; the bad file is told at the end, the rest is done."""
    paths = [tmp_path / f"{name}.wav" for name in "cab"]
    for seed, path in enumerate(paths):
        write_pcm(path, noise(900 + 100 * seed, seed))
    bad = tmp_path / "bad.wav"
    soundfile.write(bad, np.full(800, np.nan, np.float32), 16000, subtype="FLOAT")
    found = {}
    for jobs in ("1", "2"):
        files = [str(paths[0]), str(bad), *map(str, paths[1:])]
        argv = [*files, "--weights", str(weights), "--out", str(tmp_path / jobs), "--json", "--jobs", jobs]
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and str(bad) in err and err.count("\n") == 1
        reports = json.loads(out)["inputs"]
        assert [report["input"] for report in reports] == list(map(str, paths))
        found[jobs] = [[output["sha256"] for output in report["outputs"]] for report in reports]
        assert len(os.listdir(tmp_path / jobs)) == 6
    assert found["1"] == found["2"] and len({sha for pair in found["1"] for sha in pair}) == 6


def test_a_killed_process_is_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{name}.wav" for name in "ab"]
    for path in paths:
        write_pcm(path, noise(500))
    monkeypatch.setattr(run, "_in_worker", vanish)
    assert main([*map(str, paths), "--weights", str(weights), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 2
    error = capsys.readouterr().err
    assert all(f"error: {path}: a process was ended from outside" in error for path in paths)
    assert not (tmp_path / "out").exists()
