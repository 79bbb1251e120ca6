"""``refimpl.run --scheduler``: files over the workers of a Dask cluster, one of them killed in mid-run."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from refimpl import presets
from refimpl.audio import write_pcm
from refimpl.errors import InputError
from refimpl.run import Job, Report, load_model, main
from tests.tiny import noise, refused, tiny_container, tree


def test_without_dask_one_line_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "refimpl.cluster", raising=False)
    argv = command(tmp_path, "tcp://127.0.0.1:1", clips(tmp_path, 1, 500))
    refused(main, argv, capsys, "--scheduler", 'pip install "refimpl[cluster]"')
    assert not (tmp_path / "out").exists()


def test_jobs_and_scheduler_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*command(tmp_path, "tcp://127.0.0.1:1", clips(tmp_path, 1, 500)), "--jobs", "2"]
    refused(main, argv, capsys, "--jobs", "--scheduler")


def clips(folder: Path, count: int, samples: int) -> list[Path]:
    paths = [folder / f"{name}.wav" for name in "dacbfe"[:count]]
    for seed, path in enumerate(paths):
        write_pcm(path, noise(samples, seed))
    return paths


def command(folder: Path, address: str | None, inputs: list[Path], out: str = "out") -> list[str]:
    weights = folder / "tiny.safetensors"
    tiny_container().save(weights)
    where = [] if address is None else ["--scheduler", address]
    return [*map(str, inputs), "--weights", str(weights), "--out", str(folder / out), "--json", *where]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each; what they log of a killed one stays out of stderr."""
    distributed = pytest.importorskip("distributed", reason="the extra cluster (distributed) is not installed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as found:
        yield found


class Killer(threading.Thread):
    """Kills one worker process while it has an output file open, so in the middle of a file."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(daemon=True)
        self.pids = [nanny.process.pid for nanny in cluster.workers.values()]
        self.killed: list[str] = []
        self.over = False

    def run(self) -> None:
        import psutil  # what distributed requires

        while not self.over:
            for process in map(psutil.Process, self.pids):
                process.suspend()  # what it has open now is open when it is killed
                halves = [file.path for file in process.open_files() if Path(file.path).parent.suffix == ".part"]
                if halves:
                    process.kill()
                    self.killed = halves
                    return
                process.resume()
            time.sleep(0.005)


def run_and_kill(cluster: Any, argv: list[str]) -> tuple[int, list[str]]:
    """The exit code, and the half-written files of the worker that was killed."""
    killer = Killer(cluster)
    killer.start()
    try:
        return main(argv), killer.killed
    finally:
        killer.over = True
        killer.join()


@pytest.fixture
def settled(cluster: Any) -> Any:
    """The cluster with both workers, whatever became of one before."""
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=20)
    return cluster


def test_a_killed_worker_changes_nothing(
    settled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same report, files, dumps, order and exit code as in this process; the bad file is told at the end."""
    monkeypatch.chdir(tmp_path)  # where the workers are not
    paths = [path.relative_to(tmp_path) for path in clips(tmp_path, 4, 480_000)]
    bad = Path("bad.wav")
    soundfile.write(bad, np.full(800, np.nan, np.float32), 16000, subtype="FLOAT")
    inputs = [paths[0], bad, *paths[1:]]
    found = {}
    for address in (None, settled.scheduler_address):
        argv = [*command(Path("."), address, inputs), "--dump", "dump", "--frames", "0:2"]
        if address is None:
            assert main(argv) == 2
        else:
            code, killed = run_and_kill(settled, argv)
            assert code == 2 and killed
        out, err = capsys.readouterr()
        report = json.loads(out)
        for each in report["inputs"]:
            assert each.pop("real_time_factor") > 0
        found[address] = (report, err, tree(tmp_path / "out"), tree(tmp_path / "dump"))
        for folder in ("out", "dump"):
            (tmp_path / folder).rename(tmp_path / f"{folder} of {address is None}")
    here, there = found.values()
    assert here == there
    assert len(here[2]) == 8 and [each["input"] for each in here[0]["inputs"]] == list(map(str, paths))
    assert here[1].startswith("error: bad.wav") and here[1].count("\n") == 1


def test_a_file_that_kills_its_workers_is_told(
    settled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Dask gives a job up, its old outputs stay as they were, and the other jobs are done."""
    monkeypatch.setattr(settled.scheduler, "allowed_failures", 0)
    paths = clips(tmp_path, 4, 480_000)
    out = tmp_path / "out"
    out.mkdir()
    for path in paths:
        (out / f"{path.stem}_speaker1.wav").write_bytes(b"old")
    code, killed = run_and_kill(settled, command(tmp_path, settled.scheduler_address, paths))
    text, err = capsys.readouterr()
    assert code == 2 and killed
    lost = [path for path in paths if f"error: {path}: every worker that took it was ended from outside" in err]
    assert 1 <= len(lost) == err.count("\n") <= 2  # Dask blames what waited for that worker too
    assert [each["input"] for each in json.loads(text)["inputs"]] == [str(path) for path in paths if path not in lost]
    assert (out / f"{lost[0].stem}_speaker1.wav").read_bytes() == b"old"
    assert len(os.listdir(out)) == 8 - len(lost)


def test_an_output_that_cannot_be_written_and_a_relative_preset_file(
    settled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job whose output is a folder is refused as without a cluster, the other one done, with a preset file of the user."""
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_bytes((presets.FOLDER / "int8.json").read_bytes())
    paths = [path.relative_to(tmp_path) for path in clips(tmp_path, 2, 500)]
    (tmp_path / "out" / "d_speaker2.wav").mkdir(parents=True)
    said = []
    for address in (None, settled.scheduler_address):
        assert main([*command(Path("."), address, paths), "--preset", "mine.json"]) == 2
        out, err = capsys.readouterr()
        report = json.loads(out)
        assert report["inputs"][0].pop("real_time_factor") > 0
        said.append((report, err))
        assert sorted(os.listdir("out")) == ["a_speaker1.wav", "a_speaker2.wav", "d_speaker2.wav"]
    assert said[0] == said[1]
    assert "d_speaker2.wav" in said[0][1] and said[0][0]["preset"] == "mine.json"


def test_another_version_is_refused(
    settled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from refimpl import cluster, session

    argv = command(tmp_path, settled.scheduler_address, clips(tmp_path, 1, 500))
    with monkeypatch.context() as patch:
        patch.setattr(session, "ARITHMETIC", "next")
        refused(main, argv, capsys, "worker tcp://127.0.0.1:", "has arithmetic 1, not next", "install refimpl")
        # A worker that joins later is asked with its first job.
        patch.setattr(cluster, "_check_workers", lambda *_: None)
        refused(main, argv, capsys, f"{tmp_path / 'd.wav'}: on a worker: has arithmetic 1, not next")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_attempt_left_does_not_hinder_the_next(tmp_path: Path) -> None:
    """Complete outputs and a dump that nobody fetched, and half of a file: the job runs again and reports the same."""
    pytest.importorskip("distributed", reason="the extra cluster (distributed) is not installed")
    from refimpl import cluster

    weights = tmp_path / "tiny.safetensors"
    tiny_container().save(weights)
    options = Namespace(
        weights=weights,
        preset="int8",
        profile="gap9",
        tables=None,
        sigmoid_table=None,
        tanh_table=None,
        path="auto",
        tier=None,
        resample=False,
        channel=None,
        steps=("*",),
        frames=None,
    )
    scratch = tmp_path / ".refimpl-0.part"
    scratch.mkdir()
    (scratch / ".refimpl-1.tmp").write_bytes(b"half")
    job = Job(clips(tmp_path, 1, 500)[0], (scratch / "1.wav", scratch / "2.wav"), scratch / "dump")
    identity = cluster._identity(load_model(options, quiet=True))
    first, second = (cluster.work(cluster.Task("0", job, options, identity)) for _ in range(2))
    assert isinstance(first, Report) and isinstance(second, Report)
    assert first.outputs == second.outputs


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ModuleNotFoundError("No module named 'refimpl'"), "cannot run refimpl 0.5 (No module named 'refimpl'); install it"),
        (InputError("w.safetensors: not found"), "w.safetensors: not found"),
        ({"refimpl": "0.5", "arithmetic": "1", "weights": "cd"}, "has weights cd, not ab"),
    ],
)
def test_what_a_worker_lacks_is_told(answer: object, words: str) -> None:
    pytest.importorskip("distributed", reason="the extra cluster (distributed) is not installed")
    from refimpl import cluster

    class Answers:
        def run(self, *_: object, **__: object) -> dict[str, object]:
            return {"tcp://b": answer, "tcp://a": {"refimpl": "0.5"}, "tcp://c": OSError("it went away")}

    want = {"refimpl": "0.5", "arithmetic": "1", "weights": "ab", "preset": "int8"}
    with pytest.raises(InputError) as error:
        cluster._check_workers(Answers(), want, Namespace(weights=None), [])
    assert str(error.value).startswith("worker tcp://b: ") and words in str(error.value)


def test_a_worker_that_sees_another_file_system_is_told(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra cluster (distributed) is not installed")
    from refimpl import cluster

    weights = tmp_path / "tiny.safetensors"
    tiny_container().save(weights)
    assert cluster.look(weights, [tmp_path]) == {
        "refimpl": cluster.__version__,
        "arithmetic": cluster.ARITHMETIC,
        "weights": tiny_container().digest,
    }
    assert "does not see" in str(cluster.look(weights, [tmp_path, tmp_path / "out" / ".scratch"]))
    assert isinstance(cluster.look(tmp_path / "none.safetensors", [tmp_path]), InputError)


def test_a_cluster_that_cannot_do_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No workers, none left, a scheduler that goes away with the jobs, and none at all: one line each, nothing left behind."""
    distributed = pytest.importorskip("distributed", reason="the extra cluster (distributed) is not installed")
    from refimpl import cluster

    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    monkeypatch.setattr(cluster, "JOIN", 0.2)
    inputs = clips(tmp_path, 1, 500)
    with distributed.LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as empty:
        address = empty.scheduler_address
        argv = command(tmp_path, address, inputs)
        refused(main, argv, capsys, f"--scheduler {address}: has no workers")
        monkeypatch.setattr(cluster.Client, "wait_for_workers", lambda *_, **__: None)
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "GONE", 0.5)
            refused(main, argv, capsys, f"{inputs[0]}: --scheduler {address} has no worker left")
        closing = threading.Timer(0.5, empty.close)
        monkeypatch.setattr(cluster, "_check_workers", lambda *_: closing.start())
        refused(main, argv, capsys, f"{inputs[0]}: --scheduler {address} went away")
        closing.join()
    for wrong in (address, "nonsense://1"):
        refused(main, command(tmp_path, wrong, inputs), capsys, f"--scheduler {wrong}: cannot be reached")
    assert not (tmp_path / "out").exists()
