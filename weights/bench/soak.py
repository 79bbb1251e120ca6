"""Hours of audio through the main command's way: ``python -m weights.bench.soak --hours 1 --preset mixmlp``.

A WAV of that length is streamed from disk to disk, block by block, in one process; another runs the same samples offline from
memory, in blocks of another size. Both print the SHA-256 of their PCM and of the whole state at the end, which must agree, and
the first its peak memory above the interpreter with the imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from weights.bench.worker import peak_kib

RATE, HOP = 16000, 96


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m weights.bench.soak", description="long streams, bounded memory")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--preset", default="mixmlp")
    parser.add_argument("--offline-kernels", default="auto", help="auto, fast, or reference (slow: the operators themselves)")
    parser.add_argument("--role", choices=("stream", "offline"), help=argparse.SUPPRESS)
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        print(json.dumps((stream if args.role == "stream" else offline)(args)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "long.wav"
        write_clip(clip, int(args.hours * 3600 * RATE))
        found = {role: run_as(role, args, clip) for role in ("stream", "offline")}
    for role, result in found.items():
        print(role, json.dumps(result))
    same = all(found["stream"][key] == found["offline"][key] for key in ("pcm", "state", "samples"))
    print("the same" if same else "DIFFERENT")
    return 0 if same else 1


def write_clip(path: Path, samples: int) -> None:
    """Noise whose level wanders, from a seeded generator, never the same twice."""
    from refimpl.audio import PcmWriter

    random = np.random.Generator(np.random.PCG64(0))
    with PcmWriter(path) as writer:
        for first in range(0, samples, RATE):
            level = 200 + 8000 * random.random()
            block = random.normal(0, level, min(RATE, samples - first)).clip(-32768, 32767)
            writer.write(block.astype(np.int16))


def run_as(role: str, args: argparse.Namespace, clip: Path) -> dict[str, Any]:
    options = ["--role", role, "--clip", str(clip), "--preset", args.preset, "--offline-kernels", args.offline_kernels]
    command = [sys.executable, "-m", "weights.bench.soak", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def state_digest(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.startswith("session."):
            digest.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()


def stream(args: argparse.Namespace) -> dict[str, Any]:
    from contextlib import ExitStack

    from refimpl.audio import PcmWriter
    from refimpl.run import blocks_of
    from refimpl.session import load

    base = peak_kib()
    began = time.process_time()
    model = load(preset=args.preset)
    state, digests = model.stream(), [hashlib.sha256() for _ in range(model.config.speakers)]
    samples = 0
    with ExitStack() as stack:
        paths = [args.clip.with_name(f"voice{k}.wav") for k in range(model.config.speakers)]
        writers = [stack.enter_context(PcmWriter(path)) for path in paths]

        def emit(voices: Any) -> None:
            for writer, digest, voice in zip(writers, digests, voices, strict=True):
                writer.write(voice)
                digest.update(voice.tobytes())

        for block in blocks_of(args.clip, False, None):
            samples += len(block)
            emit(state.push(block))
        emit(state.flush())
    return {
        "samples": samples,
        "pcm": [digest.hexdigest() for digest in digests],
        "state": state_digest(state.state()),
        "peak_mib_above_start": (peak_kib() - base) / 1024,
        "cpu_s": time.process_time() - began,
    }


def offline(args: argparse.Namespace) -> dict[str, Any]:
    from refimpl.audio import read_pcm
    from refimpl.session import frames_of, load

    model = load(preset=args.preset, kernels=args.offline_kernels)
    pcm, state = read_pcm(args.clip), model.program.start()
    frames, digests = frames_of(pcm), [hashlib.sha256() for _ in range(model.config.speakers)]
    size = 997
    for first in range(0, len(frames), size):
        voices = model.run(frames[first : first + size], state)["pcm"].transpose(1, 0, 2).reshape(len(digests), -1)
        for digest, voice in zip(digests, voices[:, : len(pcm) - first * HOP], strict=True):
            digest.update(voice.tobytes())
    return {"samples": len(pcm), "pcm": [digest.hexdigest() for digest in digests], "state": state_digest(state)}


if __name__ == "__main__":
    sys.exit(main())
