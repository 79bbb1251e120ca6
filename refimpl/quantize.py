"""``python -m refimpl.quantize``: a float weights container and a folder of mixtures become a container of all presets.

Post-training calibration: the network runs in fp32 over the mixtures, and every tensor's range is chosen by what it took.
The same weights, files and options give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl import audio
from refimpl.calibration import calibrate
from refimpl.cli import Channel, Parser, add_audio_options, announce_compilation, check_target, guarded, positive_int, printable
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import nominal_bytes
from refimpl.presets import NAMES, load_preset
from refimpl.quantization.observers import METHODS
from refimpl.session import Model
from refimpl.weights_io import load_container

Array = np.ndarray[Any, np.dtype[Any]]
SUFFIXES = (".wav", ".flac", ".ogg", ".opus")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("refimpl.quantize", "Calibrate a float weights container on mixtures, for all presets.")
    parser.add_argument("weights", type=Path, metavar="FLOAT", help="float weights container, made by refimpl.convert")
    parser.add_argument(
        "--calibrate", type=Path, required=True, metavar="FOLDER", help=f"mixtures: {' '.join(SUFFIXES)} files, subfolders too"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the container to write")
    parser.add_argument("--observer", choices=METHODS, default="mse", help="how an 8-bit range is chosen (default %(default)s)")
    parser.add_argument(
        "--observer-16", choices=METHODS, default="minmax", help="how a 16-bit range is chosen (default %(default)s)"
    )
    parser.add_argument(
        "--streams",
        type=Path,
        metavar="CONTAINER",
        help="8-bit ranges of what residuals add up are this container's: that of train --streams",
    )
    parser.add_argument(
        "--streams-scale", type=_factor, default=1.0, metavar="X", help="times X, from 0.1 to 10 (default %(default)g)"
    )
    parser.add_argument(
        "--limit", type=positive_int, default=64, metavar="N", help="use the first N files by path (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="S", help="use the first S seconds of a file (default %(default)g)"
    )
    add_audio_options(parser)
    options = parser.parse_args(argv)
    if options.streams_scale != 1 and not options.streams:
        parser.error("--streams-scale is of the ranges of --streams; give that too")
    check_target(options.output, options.weights, *([options.streams] if options.streams else []))
    container = load_container(options.weights)
    streams = load_container(options.streams) if options.streams else None
    files = find_audio(options.calibrate)[: options.limit]
    for path in files:
        audio.read_blocks(path, resample=options.resample, channel=options.channel)  # refuses what the header tells
    announce_compilation()
    clips = Clips(files, options.seconds, options.resample, options.channel)
    done = calibrate(container, clips, options.observer, options.observer_16, streams, options.streams_scale)
    facts: dict[str, Any] = {
        "files": len(files),
        "samples": clips.samples,
        "sha256": clips.digest.hexdigest(),
        "observer": options.observer,
        "observer_16": options.observer_16,
    }
    if streams:
        facts["streams"] = streams.digest
    if options.streams_scale != 1:
        facts["streams_scale"] = options.streams_scale
    done = replace(done, card={**container.card, "calibration": facts})
    for preset in NAMES:
        Model(done, preset)  # ranges that some preset's widths cannot be proven for are refused here, not by who loads them
    done.save(options.output)
    print(printable(options.output))
    print(f"  sha256      {done.digest}")
    print(f"  calibrated  {len(files)} files, {clips.samples / audio.RATE:.1f} s")
    for preset in NAMES:
        print(f"  {preset:<10}  {nominal_bytes(done.config, load_preset(preset)):>11,} bytes of parameters")
    return 0


def find_audio(folder: Path) -> list[Path]:
    """The audio files in ``folder`` and below, sorted by their path from there; hidden ones are passed over."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a folder of mixtures")
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    files = [found[key] for key in sorted(found, key=lambda key: key.parts) if not any(p.startswith(".") for p in key.parts)]
    files = [path for path in files if not path.is_dir()]
    if not files:
        raise InputError(f"{folder}: holds no audio files; {', '.join(SUFFIXES)} files are looked for, in subfolders too")
    return files


class Clips(Iterable[Array]):
    """The first seconds of each file, int16 [n], read one at a time under a progress bar; counts and digests what it gave."""

    def __init__(self, files: Sequence[Path], seconds: float, resample: bool, channel: Channel) -> None:
        self.files, self.resample, self.channel = files, resample, channel
        self.most = max(1, round(seconds * audio.RATE))
        self.samples, self.digest = 0, hashlib.sha256()

    def __iter__(self) -> Iterator[Array]:
        with tqdm(self.files, "calibrating", unit="file", disable=None, leave=False) as bar:
            for path in bar:
                pcm = self._read(path)
                self.samples += len(pcm)
                self.digest.update(pcm.astype("<i2").tobytes())
                yield pcm

    def _read(self, path: Path) -> Array:
        blocks: Any = audio.read_blocks(path, min(self.most, 1 << 20), resample=self.resample, channel=self.channel)
        parts, have = [], 0
        with closing(blocks):
            for block in blocks:
                parts.append(block[: self.most - have])
                have += len(parts[-1])
                if have == self.most:
                    break
        return np.concatenate(parts)


def _seconds(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _factor(text: str) -> float:
    value = _number(text)
    if not 0.1 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.1 to 10")
    return value


def _number(text: str) -> float:
    """The number that ``text`` is, NaN where it is none: outside every range that is asked for."""
    try:
        return float(text)
    except ValueError:
        return math.nan


if __name__ == "__main__":
    sys.exit(main())
