"""Devices that misbehave: every one is an outcome of its case, the run goes on, and nothing is written elsewhere."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance import dut
from conformance.dut import ClassDevice, CommandDevice, Device, DumpsDevice, Interrupted, Reading, read_shown
from conformance.runner import Judged, Options, judge
from golden_vectors.case import Case
from refimpl.errors import InputError
from tests.conformance_devices import network_case, slice_case
from tests.tiny import tree

QUICK = Options(timeout=60, inject="never", diagnose=False)
DEVICES = "tests.conformance_devices"


@pytest.fixture(scope="module")
def case() -> Case:
    return slice_case("int8", "encoder")


@pytest.fixture
def answers(case: Case, tmp_path: Path) -> Path:
    """A folder with the right answers, for devices that are shell scripts."""
    folder = tmp_path / "answers"
    folder.mkdir()
    for name in case.names("expected", "next_state"):
        np.save(folder / f"{name}.npy", case.tensors[name].values)
    return folder


def script(tmp_path: Path, body: str) -> CommandDevice:
    """A device that is a shell script; $1 is the case's folder, $2 the folder for its outputs."""
    path = tmp_path / "device.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return CommandDevice(shlex.quote(str(path)))


def outcome(device: Device, case: Case, timeout: float = 60) -> Judged:
    return judge(case, device, replace(QUICK, timeout=timeout))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_right_command_passes(case: Case, answers: Path, tmp_path: Path) -> None:
    assert outcome(script(tmp_path, f'cp {answers}/* "$2"'), case).verdict == "pass"


def test_a_command_sees_no_answers(case: Case, tmp_path: Path) -> None:
    """The folder that it gets holds every given tensor and none that it is asked for; its outputs' folder is empty."""
    seen = outcome(
        script(tmp_path, f'ls "$1" > {tmp_path}/given; ls "$2" > {tmp_path}/there; cp "$1/case.json" {tmp_path}'), case
    )
    assert seen.verdict == "missing"
    files = set((tmp_path / "given").read_text().split())
    assert files == {"case.json"} | {f"{name}.npy" for name in case.names("input", "state", "constant")}
    assert (tmp_path / "there").read_text() == ""
    listed = json.loads((tmp_path / "case.json").read_text())["tensors"]
    assert set(listed) == set(case.tensors)


def test_a_network_command_gets_its_weights_and_no_digests(tmp_path: Path) -> None:
    outcome(script(tmp_path, f'ls "$1" > {tmp_path}/given; cp "$1/case.json" {tmp_path}'), network_case())
    assert set((tmp_path / "given").read_text().split()) == {"case.json", "pcm_in.npy", "weights.safetensors"}
    rows = json.loads((tmp_path / "case.json").read_text())["network"]["crc32"]
    assert rows and not any(rows.values())


@pytest.mark.parametrize(
    ("body", "verdict", "words"),
    [
        ("exit 1", "error", "exit code 1"),
        ("echo no operator; exit 2", "unsupported", "no operator"),
        ("exit 3", "error", "exit code 3"),
        ("kill -SEGV $$", "crashed", "SIGSEGV"),
        ("kill -9 $$", "crashed", "SIGKILL"),
        ("echo first; echo 'the last line' >&2; exit 1", "error", "exit code 1: the last line"),
        ("printf 'bell \\a and \\033[31mred\\n'; exit 1", "error", "\\x07 and \\x1b[31mred"),
        ("head -c 20000000 /dev/urandom; echo; echo done; exit 1", "error", "exit code 1: done"),
        ("true", "missing", ""),
    ],
)
def test_outcomes_of_commands(case: Case, tmp_path: Path, body: str, verdict: str, words: str) -> None:
    found = outcome(script(tmp_path, body), case)
    assert found.verdict == verdict
    assert words in found.outcome.message and len(found.outcome.message) < 500
    assert found.outcome.message.isprintable()


def test_the_step_that_crashes_is_named(case: Case, tmp_path: Path) -> None:
    (failure,) = outcome(script(tmp_path, "kill -SEGV $$"), case).failures
    assert (failure.step, failure.operator, failure.note) == ("encoder", "conv_causal", "crashed: killed by SIGSEGV")
    assert not outcome(script(tmp_path, "exit 2"), case).failures


def test_a_crash_after_writing_is_compared_too(case: Case, answers: Path, tmp_path: Path) -> None:
    found = outcome(script(tmp_path, f'cp {answers}/* "$2"; kill -SEGV $$'), case)
    assert found.verdict == "crashed"
    assert {c.status for c in found.seen.comparisons.values()} == {"equal"}


def test_a_hanging_command_is_killed_with_its_children(case: Case, tmp_path: Path) -> None:
    body = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    begun = time.monotonic()
    found = outcome(script(tmp_path, body), case, timeout=1.5)
    assert (found.verdict, found.outcome.message) == ("timeout", "did not end within 1.5 s")
    assert time.monotonic() - begun < 30
    assert gone(int((tmp_path / "child").read_text()))


def test_children_do_not_outlive_a_command(case: Case, answers: Path, tmp_path: Path) -> None:
    """A child that holds the output pipe open neither delays the outcome nor stays."""
    found = outcome(script(tmp_path, f'cp {answers}/* "$2"; sleep 600 & echo $! > {tmp_path}/child'), case)
    assert found.verdict == "pass"
    assert gone(int((tmp_path / "child").read_text()))


def gone(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody reaps, within some seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_too_much_output_is_stopped(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dut, "LARGEST_OUTPUT", 1 << 20)
    found = outcome(script(tmp_path, 'head -c 4000000 /dev/zero > "$2/big"; sleep 600'), case)
    assert (found.verdict, found.outcome.message) == ("error", "wrote more than 1 MiB and was stopped")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('printf garbage > "$2/encoder.npy"', "not a whole .npy file"),
        ('printf garbage > "$2/encoder.bin"', "7 bytes"),
        ('printf "zz zz" > "$2/encoder.hex"', "not driven"),
        (': > "$2/encoder.npy"', "not a whole .npy file"),
        ('ln -s {answers}/encoder.npy "$2/encoder.npy"', "no regular file"),
        ('ln -s /dev/zero "$2/encoder.bin"', "no regular file"),
        ('mkfifo "$2/encoder.npy"', "no regular file"),
        ('mkdir "$2/encoder.npy"', "no regular file"),
        ('cp {answers}/encoder.npy "$2"; : > "$2/encoder.bin"', "both encoder.npy and encoder.bin"),
        ('head -c 3000000 /dev/zero > "$2/encoder.npy"', "at most"),
        ('head -c 3000000 /dev/zero > "$2/encoder.hex"', "at most"),
        ('head -c 100000 /dev/zero | tr "\\0" "[" > "$2/digests.json"', "not JSON"),
        ('ln -s /dev/zero "$2/digests.json"', "no such file"),
    ],
)
def test_unreadable_files(case: Case, answers: Path, tmp_path: Path, body: str, words: str) -> None:
    found = outcome(script(tmp_path, body.format(answers=answers)), case)
    assert found.verdict == "fail"
    comparison = found.seen.comparisons["encoder"]
    assert comparison.status == "unreadable" and words in comparison.explanation
    assert "conformance-" not in comparison.explanation  # no path of the scratch folder


def test_an_output_folder_that_is_replaced(case: Case, answers: Path, tmp_path: Path) -> None:
    for body in ('rmdir "$2"', f'rmdir "$2"; ln -s {answers} "$2"', 'rmdir "$2"; : > "$2"'):
        assert outcome(script(tmp_path, body), case).verdict == "missing"


def test_what_was_not_asked_for_is_counted(case: Case, answers: Path, tmp_path: Path) -> None:
    body = f'cp {answers}/* "$2"; : > "$2/notes.txt"; mkdir "$2/more"; : > "$2/-odd name"'
    found = outcome(script(tmp_path, body), case)
    assert (found.verdict, found.seen.shown.extra) == ("pass", 3)


def test_nothing_is_left_or_written_elsewhere(
    case: Case, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    device = script(tmp_path, f'cp {answers}/* "$2"; mkdir -p "$2/deep/er"; : > "$1/more"; chmod 500 "$2/deep"')
    before = tree(tmp_path)
    assert outcome(device, case).verdict == "pass"
    assert tree(tmp_path) == before


def test_a_stopped_command_is_killed(case: Case, tmp_path: Path) -> None:
    device = script(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 600")
    threading.Timer(0.7, device.stop).start()
    with pytest.raises(Interrupted):
        outcome(device, case)
    assert gone(int((tmp_path / "pid").read_text()))


def test_commands_that_cannot_be_run(case: Case, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for command, words in (
        ("", "names no command"),
        ("   ", "names no command"),
        ("'unbalanced", "no command line"),
        (str(tmp_path / "absent"), "no such command"),
        (str(plain), "chmod"),
        (str(tmp_path), "chmod"),
    ):
        with pytest.raises(InputError, match=words):
            CommandDevice(command)
    plain.chmod(0o755)
    with pytest.raises(InputError, match="cannot be run"):
        outcome(CommandDevice(str(plain)), case)


def test_the_fingerprint_follows_the_program(case: Case, tmp_path: Path) -> None:
    """The program and each argument that is a file; the case does not matter."""
    (tmp_path / "firmware").write_text("one")
    first = script(tmp_path, "exit 0")
    same = script(tmp_path, "exit 0")
    assert first.fingerprint(case) == same.fingerprint(case)
    assert script(tmp_path, "exit 1").fingerprint(case) != first.fingerprint(case)
    command = f"{tmp_path}/device.sh {tmp_path}/firmware"
    before = CommandDevice(command).fingerprint(case)
    (tmp_path / "firmware").write_text("two")
    assert CommandDevice(command).fingerprint(case) != before


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moody() -> Iterator[ClassDevice]:
    device = ClassDevice(f"{DEVICES}:Moody")
    yield device
    device.stop()


@pytest.mark.parametrize(
    ("mood", "verdict", "words"),
    [
        ("fine", "pass", ""),
        ("raise", "error", "IndexError: list index out of range"),
        ("refuse", "unsupported", "no such operator here"),
        ("list", "error", "not a mapping"),
        ("object", "error", "Object arrays"),
        ("print", "pass", ""),
        ("more", "pass", "2 arrays that are no tensor of the case, such as '../../escape'"),
    ],
)
def test_outcomes_of_classes(case: Case, moody: ClassDevice, mood: str, verdict: str, words: str) -> None:
    found = outcome(moody, replace(case, comment=mood))
    assert found.verdict == verdict
    assert words in found.outcome.message


def test_a_class_that_crashes_or_hangs_is_made_anew(case: Case, moody: ClassDevice) -> None:
    for mood, verdict, words in (
        ("crash", "crashed", "SIGSEGV"),
        ("fine", "pass", ""),
        ("exit", "crashed", "code 7"),
        ("hang", "timeout", "1 s"),
        ("fine", "pass", ""),
    ):
        found = outcome(moody, replace(case, comment=mood), timeout=1 if mood == "hang" else 60)
        assert (mood, found.verdict) == (mood, verdict)
        assert words in found.outcome.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "not module:Class"),
        ("a:b:c", "not module:Class"),
        (":X", "not module:Class"),
        ("no.such.module:Device", "ModuleNotFoundError"),
        (f"{DEVICES}:Absent", "AttributeError"),
        (f"{DEVICES}:NotMade", "no board is connected"),
        (f"{DEVICES}:FIRST", "TypeError"),
    ],
)
def test_classes_that_cannot_be_made(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        ClassDevice(name)
    assert "\n" not in str(error.value)


# -- dumps ------------------------------------------------------------------------------------------------------------


def test_dumps(case: Case, answers: Path, tmp_path: Path) -> None:
    root = tmp_path / "dumps"
    (root / case.id).parent.mkdir(parents=True)
    answers.rename(root / case.id)
    device = DumpsDevice(root)
    assert outcome(device, case).verdict == "pass"
    absent = outcome(device, slice_case("mixmlp", "encoder"))
    assert (absent.verdict, absent.outcome.message) == ("missing", "no folder layers/tiny-mixmlp/encoder")
    before = device.fingerprint(case)
    (root / case.id / "encoder.npy").write_bytes(b"")
    assert device.fingerprint(case) != before
    with pytest.raises(InputError, match="is not a folder"):
        DumpsDevice(tmp_path / "absent")


def test_hexadecimal_dumps_from_a_later_frame(case: Case, tmp_path: Path) -> None:
    values = case.tensors["encoder"].values
    words = "\n".join(f"{int(v) & 0xFF:02x}" for v in values[1:].reshape(-1))
    (tmp_path / "encoder.hex").write_text(f"// from frame 1\n@{values[0].size:x}\n{words}\n")
    shown = read_shown(tmp_path, case, Reading())
    assert (shown.dumps["encoder"].first, shown.dumps["encoder"].stop) == (1, 3)


def test_no_folder_shows_nothing(case: Case, tmp_path: Path) -> None:
    assert not read_shown(None, case, Reading()).dumps
    assert not read_shown(tmp_path / "absent", case, Reading()).dumps
