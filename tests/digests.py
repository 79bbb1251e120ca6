"""SHA-256 of what every preset writes: ``python -m tests.digests [--tiny] [--update]``.

Without options: the shipped weights on ``data/mix.wav``. ``--tiny``: a small seeded network on a few frames, for a run under
``NUMBA_DISABLE_JIT=1``. ``--update`` rewrites ``data/digests.json`` (after a change of weights or of the arithmetic; the
changelog says which).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import soundfile

from refimpl.presets import NAMES
from refimpl.session import Model, load
from refimpl.version import ARITHMETIC

DATA = Path(__file__).resolve().parent / "data"
COMMITTED = DATA / "digests.json"


def sha256(pcm: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pcm, "<i2").tobytes()).hexdigest()


OTHERS = (
    ("gap9", "stream16"),
    ("ne16_rtl", "mixmlp"),
    ("tflite_double", "int8"),
    ("tflite_double", "int16"),
    ("tflite_single", "int8"),
    ("max78002", "int8"),
)


def shipped_digests(samples: int | None = None) -> dict[str, list[str]]:
    """Per preset of the paper's, and per others of ``OTHERS``, each speaker's digest for the shipped mixture or its start."""
    pcm, _ = soundfile.read(DATA / "mix.wav", dtype="int16")
    models = {preset: load(preset=preset) for preset in NAMES}
    models |= {f"{profile} {preset}": load(preset=preset, profile=profile) for profile, preset in OTHERS}
    return {name: [sha256(row) for row in model.separate(pcm[:samples])] for name, model in models.items()}


def tiny_digests() -> dict[str, list[str]]:
    """Per preset, the digest of every traced tensor together, for a network of 4 inner bins and 3 channels on 4 frames."""
    from refimpl.networks.tf_mlpnet import Config
    from tests.conftest import calibrated
    from tests.test_network import speech_like

    container = calibrated(Config(blocks=1, channels=3, hidden=3, mixers=1, compression=32), samples=200)
    pcm = speech_like(350, 9)
    found = {}
    for name, model in (
        *((preset, Model(container, preset)) for preset in NAMES),
        *((f"{profile} {preset}", Model(container, preset, profile)) for profile, preset in OTHERS),
    ):
        trace = model.trace(pcm)
        whole = hashlib.sha256()
        for tensor in sorted(trace):
            whole.update(tensor.encode() + trace[tensor].astype(trace[tensor].dtype.newbyteorder("<")).tobytes())
        found[name] = [whole.hexdigest()]
    return found


def main() -> None:
    if "--tiny" in sys.argv:
        print(json.dumps(tiny_digests()))
    elif "--update" in sys.argv:
        text = json.dumps({"arithmetic": ARITHMETIC, "mix.wav": shipped_digests()}, indent=2)
        COMMITTED.write_text(text + "\n", encoding="utf-8")
    else:
        print(json.dumps(shipped_digests(int(sys.argv[1]) if len(sys.argv) > 1 else None)))


if __name__ == "__main__":
    main()
