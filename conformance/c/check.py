"""Runs the port on golden cases and compares bit for bit; standard library only.

    python check.py build/dut FOLDER ...        all cases below the folders
    python check.py --separate build/small-int8/separate FOLDER ...     PCM of the network cases named like that model

The conformance kit (python -m conformance run) does the same, and says why a case fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import shlex
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from npy import read_npy

Case = dict[str, Any]


def differs(wrong: Sequence[str]) -> str:
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "differs: " + ", ".join(wrong[:3]) + more if wrong else "passed"


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b"?"


def canonical(data: bytes, form: str) -> bytes:
    """The same with one NaN for all, in FP32: sign and payload are outside the guarantee."""
    if form != "f32":
        return data
    words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
    return struct.pack(f"<{len(words)}I", *(0x7FC00000 if word & 0x7FFFFFFF > 0x7F800000 else word for word in words))


def frame_digests(data: bytes, frames: int) -> list[str]:
    """CRC-32 of each frame of a raw tensor."""
    size = len(data) // max(frames, 1)
    return [f"{zlib.crc32(data[at * size : (at + 1) * size]):08x}" for at in range(frames)]


def check_dut(dut: Sequence[str | Path], folder: Path, case: Case) -> str:
    """'passed', 'unsupported', or what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        code = subprocess.run([*dut, folder, out], stderr=subprocess.DEVNULL, check=False).returncode
        if code != 0:
            return "unsupported" if code == 2 else f"exit code {code}"
        wrong = []
        for name, tensor in case["tensors"].items():
            if tensor["role"] in ("expected", "next_state"):
                form, expected = tensor["format"], read_npy(folder / tensor["file"]).data
                if canonical(content(out / f"{name}.bin"), form) != canonical(expected, form):
                    wrong.append(name)
        for name, digests in ((case.get("network") or {}).get("crc32") or {}).items():
            if digests and frame_digests(content(out / f"{name}.bin"), len(digests)) != digests:
                wrong.append(name)
        return differs(wrong)


def check_separate(separate: Sequence[str | Path], folder: Path) -> str:
    """The clip through standard input and output, as one stream."""
    pcm, expected = read_npy(folder / "pcm_in.npy").data, read_npy(folder / "pcm_out.npy")
    run = subprocess.run([*separate], input=pcm, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    speakers, values = expected.shape[0], expected.values()
    samples = len(values) // speakers
    words = [values[speaker * samples + at] & 0xFFFF for at in range(samples) for speaker in range(speakers)]
    wanted = b"".join(word.to_bytes(2, "little") for word in words)
    return "passed" if run.returncode == 0 and run.stdout == wanted else f"exit code {run.returncode}, or PCM differs"


def cases_below(folders: Sequence[Path]) -> Iterator[tuple[Path, Case]]:
    for root in folders:
        for path in sorted(root.rglob("case.json")):
            yield path.parent, json.loads(path.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the port on golden cases and compares bit for bit.")
    parser.add_argument("--separate", action="store_true", help="PROGRAM is build/MODEL/separate")
    parser.add_argument("--emulator", default="", metavar="COMMAND", help="runs PROGRAM")
    parser.add_argument("program", type=Path)
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    command = [*shlex.split(options.emulator), options.program.resolve()]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for folder, case in cases_below(options.folders):
        if options.separate:
            if case["level"] != "network" or folder.parent.name != options.program.parent.name:
                continue
            result = check_separate(command, folder)
        else:
            result = check_dut(command, folder, case)
        verdict = result if result in ("passed", "unsupported") else "failed"
        counts[case["level"], verdict] += 1
        if verdict == "failed":
            print(f"{case['id']}: {result}")
    for (level, verdict), count in sorted(counts.items()):
        print(f"{level:10} {verdict:12} {count}")
    failed = sum(count for (_, verdict), count in counts.items() if verdict == "failed")
    if not any(verdict == "passed" for _, verdict in counts):
        print("no case was run", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
