"""Devices under test: a command, a Python class in a process of its own, a folder of dumps; and what they show.

Whatever a device does is an outcome of that case: it may crash, hang, fork, flood stdout or write nonsense. See PROTOCOL.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from conformance.inject import NetworkTrace, stripped
from golden_vectors.case import Case, case_folder, encode, read_json
from golden_vectors.dumps import SUFFIXES, Dump, read_dump, read_part
from golden_vectors.layouts import TIME_OUTPUTS, feature_maps
from golden_vectors.structure import is_framed
from refimpl.cli import printable
from refimpl.errors import InputError

TAIL = 4000  # bytes of a device's output that are kept
LARGEST_OUTPUT = 1 << 30  # bytes on disk that a device may fill
LARGEST_ANSWER = 1 << 20
START_SECONDS = 300.0  # for importing a class: its kernels may have to be compiled
DIGESTS = "digests.json"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """How a call ended, a line about it, and where its files are.

    status: ``ran``, ``unsupported``, ``error``, ``crashed`` or ``timeout``.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    folder: Path | None = None


class Interrupted(Exception):
    """The run is being stopped; no case has an outcome any more."""


class Device(Protocol):
    """What the runner needs to know of a device."""

    name: str
    can_inject: bool

    def fingerprint(self, case: Case) -> str:
        """Changes where the device that would be called has changed."""

    def run(self, case: Case, scratch: Path, timeout: float) -> Outcome:
        """Run one case; files go below ``scratch``, an empty folder."""

    def stop(self) -> None:
        """End what is running; calls in other threads raise :class:`Interrupted`."""


# -- what a device shows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How feature maps and raw words are stored in a device's files."""

    layout: str = "hwc"
    pad_channels: int = 1
    big_endian: bool = False


@dataclass(frozen=True)
class Shown:
    """The tensors that a device shows, the CRC-32 that it shows instead, and what could not be read, each by name."""

    dumps: Mapping[str, Dump] = field(default_factory=dict)
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    extra: int = 0


def read_shown(folder: Path | None, case: Case, reading: Reading, trace: NetworkTrace | None = None) -> Shown:
    """Every tensor of the case that ``folder`` holds. Never an exception for what a device wrote."""
    if folder is None or folder.is_symlink() or not folder.is_dir():
        return Shown()
    dumps: dict[str, Dump] = {}
    unreadable: dict[str, str] = {}
    names = tensor_names(case)
    used = set()
    for name in names:
        have = [f"{name}{suffix}" for suffix in SUFFIXES if os.path.lexists(folder / f"{name}{suffix}")]
        used |= set(have)
        if not have:
            continue
        try:
            if len(have) > 1:
                raise InputError(f"both {have[0]} and {have[1]} hold it; write one")
            dumps[name] = _read(folder / have[0], case, name, reading, trace)
        except (ValueError, OSError) as error:
            unreadable[name] = printable(str(error).replace(f"{folder}{os.sep}", ""))[:500]
    digests, problem = _read_digests(folder, names)
    unreadable |= {name: problem for name in names if problem and name not in dumps and name not in unreadable}
    extra = sum(1 for entry in os.scandir(folder) if entry.name not in used and entry.name != DIGESTS)
    return Shown(dumps, digests, unreadable, extra)


def tensor_names(case: Case) -> list[str]:
    """The tensors that a device may show: those of the case, and of a network those that have a CRC-32."""
    names = case.names("expected", "next_state")
    if case.network is not None:
        names += [name for name in case.network.crc32 if name not in case.tensors]
    return names


def _read(path: Path, case: Case, name: str, reading: Reading, trace: NetworkTrace | None) -> Dump:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path.name} is no regular file")
    tensor = case.tensors.get(name)
    if tensor is not None:
        form, shape, frames = tensor.format, tensor.values.shape, is_framed(case) and tensor.role == "expected"
        mapped = name in feature_maps(case)
    else:
        assert trace is not None
        form, shape = trace.form(name)
        frames = True
        made = next((step.operator for step in trace.program.steps if name in step.outputs), "")
        mapped = len(shape) == 3 and made not in TIME_OUTPUTS
    layout, padding = (reading.layout, reading.pad_channels) if mapped else ("hwc", 1)
    if frames:
        return read_part(path, form, shape, layout=layout, pad_channels=padding, big_endian=reading.big_endian)
    values = read_dump(path, form, shape, layout=layout, pad_channels=padding, big_endian=reading.big_endian)
    return Dump(values, 0, len(values) if values.ndim else 1)


def _read_digests(folder: Path, names: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], str]:
    """The device's CRC-32 of the named tensors, and what is wrong with the file."""
    path = folder / DIGESTS
    if not os.path.lexists(path):
        return {}, ""
    try:
        document = read_json(path, "write it as PROTOCOL.md says")
    except (ValueError, OSError) as error:
        return {}, printable(str(error).replace(f"{folder}{os.sep}", ""))[:500]
    if not isinstance(document, dict):
        return {}, f"{DIGESTS} is no object of tensor names"
    found = {}
    for name in (name for name in names if name in document):
        rows = document[name]
        if not isinstance(rows, list) or not all(isinstance(row, str) and len(row) == 8 for row in rows):
            return {}, f"{DIGESTS}: {name!r} is no list of eight hexadecimal digits each"
        found[name] = tuple(row.lower() for row in rows)
    return found, ""


# -- processes --------------------------------------------------------------------------------------------------------


class Tail:
    """The last bytes of what a process writes; everything is read, so that it never blocks."""

    def __init__(self, descriptor: int) -> None:
        self._kept = b""
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        with suppress(OSError):
            while data := os.read(descriptor, 1 << 16):
                self._kept = (self._kept + data)[-TAIL:]
        with suppress(OSError):
            os.close(descriptor)

    def last_line(self) -> str:
        """The last line that is not empty, printable and bounded."""
        self._thread.join(1.0)  # a process that left its group may hold the pipe; the thread then ends with it
        lines = [line for line in self._kept.decode("utf-8", "replace").splitlines() if line.strip()]
        return printable(lines[-1].strip())[:300] if lines else ""


def start(
    words: Sequence[str], stdin: int, stderr: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process in a group of its own, its stdout a pipe; :class:`InputError` where it cannot be started."""
    try:
        return subprocess.Popen(
            words, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment, start_new_session=True
        )
    except OSError as error:
        raise InputError(f"{words[0]}: cannot be run ({error.strerror}); name a program") from None


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all others of its group; a group outlives its leader while it has members."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended_by(code: int) -> str:
    """A negative return code as text."""
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def disk_used(folder: Path) -> int:
    """Bytes that the files below a folder fill on disk; what vanishes meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def file_digest(path: Path) -> str:
    """SHA-256 of a file in pieces."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


# -- devices ----------------------------------------------------------------------------------------------------------


class CommandDevice:
    """``CMD CASE_FOLDER OUTPUT_FOLDER``, one process per case."""

    can_inject = True

    def __init__(self, command: str) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--dut {command!r} is no command line ({error}); quote it as a shell would") from None
        if not self.words:
            raise InputError("--dut names no command; give a program and its arguments")
        program = shutil.which(self.words[0])
        if program is None:
            there = os.path.exists(self.words[0])
            raise InputError(
                f"{self.words[0]}: is no program that can be run; chmod +x it"
                if there
                else f"{self.words[0]}: no such command; check --dut"
            )
        self.name = command
        self._stopped = threading.Event()
        files = [program, *(word for word in self.words[1:] if os.path.isfile(word))]
        self._digest = " ".join([command, *(file_digest(Path(name)) for name in files)])

    def fingerprint(self, case: Case) -> str:
        return self._digest

    def stop(self) -> None:
        self._stopped.set()

    def run(self, case: Case, scratch: Path, timeout: float) -> Outcome:
        given, output = write_given(case, scratch, answers=False)
        begun = time.monotonic()
        process = start([*self.words, str(given), str(output)], subprocess.DEVNULL, subprocess.STDOUT)
        assert process.stdout is not None
        tail = Tail(os.dup(process.stdout.fileno()))
        process.stdout.close()
        try:
            cut = self._wait(process, output, begun + timeout)
        finally:
            code = process.poll()
            kill(process)
        seconds = time.monotonic() - begun
        if cut == "size":
            return Outcome("error", f"wrote more than {LARGEST_OUTPUT >> 20} MiB and was stopped", seconds, output)
        if cut == "time" or code is None:
            return Outcome("timeout", f"did not end within {timeout:g} s", seconds, output)
        return _outcome(code, tail.last_line(), seconds, output)

    def _wait(self, process: subprocess.Popen[bytes], output: Path, deadline: float) -> str:
        """Until the process ends, or why not."""
        pause, measured = 0.001, time.monotonic()
        while process.poll() is None:
            if self._stopped.is_set():
                raise Interrupted
            now = time.monotonic()
            if now > deadline:
                return "time"
            if now - measured > 0.5:
                if disk_used(output) > LARGEST_OUTPUT:
                    return "size"
                measured = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return ""


def _outcome(code: int, line: str, seconds: float, output: Path) -> Outcome:
    if code == 0:
        return Outcome("ran", "", seconds, output)
    if code == 2:
        return Outcome("unsupported", line, seconds, output)
    if code < 0:
        return Outcome("crashed", f"{ended_by(code)}{': ' if line else ''}{line}", seconds, output)
    return Outcome("error", f"exit code {code}{': ' if line else ''}{line}", seconds, output)


def write_given(case: Case, scratch: Path, answers: bool) -> tuple[Path, Path]:
    """The case's folder as a device gets it, and the empty folder for its outputs.

    With ``answers`` the files of the answers are there too, full of zeros: what makes the folder one that ``read_case`` reads.
    """
    given, output = scratch / "case", scratch / "output"
    given.mkdir()
    output.mkdir()
    hidden = set() if answers else {f"{name}.npy" for name in case.names("expected", "next_state")}
    for name, data in encode(stripped(case)).items():
        if name not in hidden:
            (given / name).write_bytes(data)
    return given, output


class ClassDevice:
    """``module:Class``, in one process per thread of the runner."""

    can_inject = True

    def __init__(self, name: str) -> None:
        module, colon, attribute = name.partition(":")
        if not (module and colon and attribute.isidentifier()):
            raise InputError(f"--dut-class {name!r} is not module:Class; give both names")
        self.name = name
        self._stopped = threading.Event()
        self._local = threading.local()
        self._hosts: list[_Host] = []
        host = self._host()  # says now what is wrong with the class
        self._digest = f"{name} {file_digest(Path(host.source)) if host.source else ''}"

    def fingerprint(self, case: Case) -> str:
        return self._digest

    def stop(self) -> None:
        self._stopped.set()
        for host in list(self._hosts):
            kill(host.process)

    def run(self, case: Case, scratch: Path, timeout: float) -> Outcome:
        given, output = write_given(case, scratch, answers=True)
        begun = time.monotonic()
        status, message = self._host().ask(given, output, timeout)
        if self._stopped.is_set():
            raise Interrupted
        if status in ("crashed", "timeout"):
            self._local.host = None
        return Outcome(status, message, time.monotonic() - begun, output)

    def _host(self) -> _Host:
        host: _Host | None = getattr(self._local, "host", None)
        if host is None:
            host = self._local.host = _Host(self.name, self._stopped)
            self._hosts.append(host)
        return host


class _Host:
    """One process of :mod:`conformance.host`."""

    def __init__(self, name: str, stopped: threading.Event) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        words = [sys.executable, "-m", "conformance.host", name]
        self.process = start(words, subprocess.PIPE, subprocess.PIPE, {**os.environ, "PYTHONPATH": path})
        self._stopped, self._unread = stopped, b""
        assert self.process.stderr is not None
        self._tail = Tail(os.dup(self.process.stderr.fileno()))
        self.process.stderr.close()
        status, message = self._answer(START_SECONDS)
        if status != "ready":
            kill(self.process)
            if stopped.is_set():
                raise Interrupted
            raise InputError(f"--dut-class {name}: cannot be made ({message}); check the module and PYTHONPATH")
        self.source = message

    def ask(self, given: Path, output: Path, timeout: float) -> tuple[str, str]:
        """Run one case; status and a line about it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((json.dumps([str(given), str(output)]) + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            return self._ended()
        status, message = self._answer(timeout)
        if status == "timeout":
            kill(self.process)
        return status, message

    def _answer(self, timeout: float) -> tuple[str, str]:
        """The next line of the process, which has that many seconds."""
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._unread:
            if time.monotonic() > deadline:
                return "timeout", f"did not end within {timeout:g} s"
            if self._stopped.is_set():
                return self._ended()
            ready, _, _ = select.select([descriptor], [], [], 0.1)
            data = os.read(descriptor, 1 << 16) if ready else b""
            if (ready and not data) or len(self._unread) > LARGEST_ANSWER:
                return self._ended()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            answer = json.loads(line)
            return str(answer["status"]), str(answer["message"])
        except (ValueError, KeyError, TypeError):
            return self._ended()

    def _ended(self) -> tuple[str, str]:
        """The process ended, or is of no more use."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # its pipe may close a moment before it is gone
        code = self.process.poll()
        kill(self.process)
        how = "its process was lost" if code is None else ended_by(code) if code < 0 else f"ended its process with code {code}"
        line = self._tail.last_line()
        return "crashed", f"{how}{': ' if line else ''}{line}"


class DumpsDevice:
    """``DIR/CASE_ID/NAME.*``: what somebody dumped by hand."""

    can_inject = False

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: is not a folder; give the folder that holds CASE_ID/NAME.npy")
        self.root, self.name = root, f"dumps in {root}"

    def fingerprint(self, case: Case) -> str:
        folder = case_folder(self.root, case.id)
        if not folder.is_dir():
            return ""
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
        return " ".join(f"{path.name} {file_digest(path)}" for path in files)

    def stop(self) -> None:
        pass

    def run(self, case: Case, scratch: Path, timeout: float) -> Outcome:
        folder = case_folder(self.root, case.id)
        if not folder.is_dir():
            return Outcome("ran", f"no folder {case.id}")
        return Outcome("ran", "", 0.0, folder)
