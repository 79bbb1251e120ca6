"""The port in C against the vectors that it was not written with: bit for bit, with and without float, and with its bugs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import refimpl
from conformance.inject import stripped
from golden_vectors.case import DTYPES, Case, encode
from golden_vectors.suite import network, operators
from refimpl.numerics.tables import shipped

PORT = Path(__file__).resolve().parent.parent / "conformance" / "c"
MODELS = ("small-int8", "small-mixmlp")
TABLES = ("sigmoid_bf16", "tanh_bf16", "hann_q30", "twiddle_q30")
BUGS = json.loads((PORT / "bugs.json").read_text())["bugs"]
COMPILER = os.environ.get("CC", "cc")

missing = [name for name in (COMPILER, "make") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs a C compiler and make; not found: {', '.join(missing)}")


def make(sources: Path, vectors: Path, build: Path, *variables: str) -> Path:
    """Builds the port with all warnings as errors; the folder of the programs."""
    given = (f"VECTORS={vectors}", f"TABLES={vectors / 'tables'}", f"MODELS={' '.join(MODELS)}", f"BUILD={build}")
    command = ["make", "-C", sources, f"CC={COMPILER}", f"PYTHON={sys.executable}", "OPTIMIZE=-O1", *given, *variables, "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return build


def write(case: Case, root: Path) -> Path:
    folder = root / case.id
    folder.mkdir(parents=True)
    for name, data in encode(case).items():
        (folder / name).write_bytes(data)
    return folder


def run(program: Path, *arguments: Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *arguments], input=data, capture_output=True, check=False, timeout=60)


def differing(dut: Path, case: Case, scratch: Path) -> list[str]:
    """The tensors that the program shows otherwise; the case that it gets holds no answers."""
    given, out = write(stripped(case), scratch / "given"), scratch / "out" / case.id
    out.mkdir(parents=True)
    for name in case.names("expected", "next_state"):
        (given / f"{name}.npy").unlink(missing_ok=True)
    done = run(dut, given, out)
    assert done.returncode == 0, (case.id, done.stderr)
    wrong = []
    for name in case.names("expected", "next_state"):
        shown = np.fromfile(out / f"{name}.bin", DTYPES[case.tensors[name].format])
        if shown.tobytes() != case.tensors[name].values.tobytes():
            wrong.append(name)
    for name, digests in (case.network.crc32 if case.network else {}).items():
        data = (out / f"{name}.bin").read_bytes()
        size = len(data) // max(len(digests), 1)
        if digests and [f"{zlib.crc32(data[at * size : (at + 1) * size]):08x}" for at in range(len(digests))] != list(digests):
            wrong.append(name)
    return wrong


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Every case of both models, from single layers to PCM."""
    found = []
    for case in network.cases():
        if "released" in case.id:
            break
        if case.id.split("/")[1] in MODELS:
            found.append(case)
    assert {case.id.split("/")[0] for case in found} == {"layers", "lstm", "block", "frame", "stream", "network"}
    return found


@pytest.fixture(scope="module")
def vectors(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the models are made from: their frame cases and the tables."""
    root = tmp_path_factory.mktemp("vectors")
    for case in cases:
        if case.id.startswith("frame/"):
            write(case, root)
    (root / "tables").mkdir()
    for name in TABLES:
        np.save(root / "tables" / f"{name}.npy", shipped(name))
    return root


@pytest.fixture(scope="module")
def port(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(PORT, vectors, tmp_path_factory.mktemp("port") / "build")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with all bugs, none of them chosen."""
    folder = tmp_path_factory.mktemp("bugs") / "tree"
    subprocess.run([sys.executable, PORT / "bugs.py", "tree", folder], check=True)
    return folder


def test_every_case_of_both_models_is_bit_exact(port: Path, cases: list[Case], tmp_path: Path) -> None:
    wrong = {case.id: names for case in cases if (names := differing(port / "dut", case, tmp_path))}
    assert wrong == {}


def directed() -> Iterator[Case]:
    """Special values and bounds: one step each, of the operators that the models use."""
    kinds = ("add_bf16", "multiply_bf16", "conv_causal_bf16", "quantize_bf16", "fully_connected_channels", "conv_strided")
    return (case for case in operators.cases() if case.id.split("/")[1] in kinds)


def test_single_operators_are_bit_exact(port: Path, tmp_path: Path) -> None:
    chosen = list(directed())
    assert len(chosen) > 10
    wrong = {case.id: names for case in chosen if (names := differing(port / "dut", case, tmp_path))}
    assert wrong == {}


def test_without_float_the_bits_are_the_same(vectors: Path, cases: list[Case], tmp_path: Path) -> None:
    build = make(PORT, vectors, tmp_path / "build", "NO_FLOAT=1")
    chosen = [case for case in cases if case.id in ("stream/small-mixmlp", "network/small-mixmlp/speech", "frame/small-int8")]
    assert len(chosen) == 3
    wrong = {case.id: names for case in (*chosen, *directed()) if (names := differing(build / "dut", case, tmp_path))}
    assert wrong == {}


@pytest.mark.parametrize("preset", ["int8", "mixmlp"])
def test_separate_gives_the_samples_of_refimpl(port: Path, tmp_path: Path, preset: str) -> None:
    weights = tmp_path / "weights.safetensors"
    network.container("small").save(weights)
    pcm = network.speech()[600:1337]
    done = run(port / f"small-{preset}" / "separate", data=pcm.astype("<i2").tobytes())
    assert done.returncode == 0, done.stderr
    wanted = refimpl.load(weights, preset=preset).separate(pcm)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, "<i2").reshape(-1, len(wanted)).T, wanted)


def test_every_bug_is_described_and_in_the_tree(tree: Path) -> None:
    text = "".join(path.read_text() for path in sorted(tree.glob("*.[ch]")))
    numbers = [bug["number"] for bug in BUGS]
    assert len(set(numbers)) == len(numbers)
    assert len([number for number in numbers if number <= 100]) >= 40
    assert [number for number in numbers if number > 100] == list(range(101, 111))
    assert {int(number) for number in re.findall(r"REFIMPL_BUG == (\d+)", text)} == set(numbers)
    assert all(bug["cause"] and bug["rules"] for bug in BUGS)
    assert "REFIMPL_BUG" not in "".join(path.read_text() for path in PORT.glob("*.[ch]"))


def test_every_bug_compiles_and_changes_the_source(tree: Path, port: Path) -> None:
    include = ["-std=c99", "-w", "-I", tree, "-I", port / "tables"]
    for bug in BUGS:
        for name in {edit["file"] for edit in bug["edits"]}:
            source = tree / (name if name.endswith(".c") else "operators.c")
            command = [COMPILER, *include, f"-DREFIMPL_BUG={bug['number']}", "-fsyntax-only", source]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (bug["number"], done.stderr)
        assert all(edit["old"] != edit["new"] for edit in bug["edits"])


@pytest.mark.parametrize("number, wrong", [(0, False), (8, True), (106, True)])
def test_a_tree_runs_right_without_a_bug_and_wrong_with_one(
    tree: Path, vectors: Path, cases: list[Case], tmp_path: Path, number: int, wrong: bool
) -> None:
    variables = (f"CFLAGS=-DREFIMPL_BUG={number}", "WARNINGS=-w", "MODELS=small-mixmlp")
    build = make(tree, vectors, tmp_path / "build", *variables)
    chosen = next(case for case in cases if case.id == "network/small-mixmlp/speech")
    assert bool(differing(build / "dut", chosen, tmp_path)) == wrong


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def test_bad_cases_are_refused_in_one_line(port: Path, cases: list[Case], tmp_path: Path) -> None:
    case = next(case for case in cases if case.id == "stream/small-int8")
    out = tmp_path / "out"
    out.mkdir()

    def refused(damaged: Path, code: int = 1) -> str:
        done = run(port / "dut", damaged, out)
        assert done.returncode == code
        assert list(out.iterdir()) == []
        return one_line(done)

    assert "case.json" in refused(tmp_path / "nowhere")
    for number, (name, change, words) in enumerate(
        (
            ("frame.npy", lambda data: data[:-1], "frame.npy: not as long"),
            ("frame.npy", lambda data: b"x" + data[1:], "frame.npy: not an .npy file"),
            ("frame.npy", lambda data: data.replace(b"<i2", b"<u2"), "frame.npy: not in C order, or not the type"),
            ("case.json", lambda data: data[:1], "JSON"),
            ("case.json", lambda data: data.replace(b'"arithmetic": "1"', b'"arithmetic": "2"'), "arithmetic"),
            ("case.json", lambda data: data.replace(b'"stft"', b'"dct"'), "dct"),
        )
    ):
        folder = write(case, tmp_path / str(number))
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        assert words in refused(folder, 2 if words in ("arithmetic", "dct") else 1)
    folder = write(case, tmp_path / "absent")
    (folder / "frame.npy").unlink()
    assert "frame.npy: cannot read" in refused(folder)
    assert "takes" in one_line(run(port / "dut"))


def test_a_network_that_is_not_built_in_is_not_supported(port: Path, cases: list[Case], tmp_path: Path) -> None:
    case = next(case for case in cases if case.id == "network/small-int8/speech")
    done = run(port / "dut", write(replace(case, id="network/other-int8/speech"), tmp_path / "given"), tmp_path)
    assert done.returncode == 2
    assert "no model" in one_line(done)


def test_separate_refuses_arguments_and_half_samples(port: Path) -> None:
    program = port / "small-int8" / "separate"
    done = run(program, Path("mix.wav"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert "no arguments" in one_line(done)
    done = run(program, data=bytes(201))
    assert done.returncode == 1
    assert "inside a sample" in one_line(done)
    assert run(program).stdout == b""
