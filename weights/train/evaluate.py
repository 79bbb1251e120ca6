"""SI-SDR improvement of a container on a list of mixtures, through the golden model itself.

``python -m weights.train.evaluate LIST.csv [--weights FILE] [--presets mixmlp,int8] [--count 40] [--jobs 2]``; the list has the
columns id, source1, start1_s, source2, start2_s, snr_db, its paths relative to the list's folder. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from refimpl.session import load
from weights.train.data import listed_mixtures


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scale-invariant SDR in dB over the last axis, zero mean, float64."""
    estimate = estimate - estimate.mean(-1, keepdims=True)
    reference = reference - reference.mean(-1, keepdims=True)
    scale = (estimate * reference).sum(-1, keepdims=True) / ((reference**2).sum(-1, keepdims=True) + 1e-10)
    target = scale * reference
    ratio = (target**2).sum(-1) / (((estimate - target) ** 2).sum(-1) + 1e-10)
    return np.asarray(10 * np.log10(ratio + 1e-10))


def improvement(estimate: np.ndarray, mixture: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SI-SDR improvement per speaker [2] under the better assignment of ``estimate`` [2, n] to ``references`` [2, n]."""
    straight, swapped = si_sdr(estimate, references), si_sdr(estimate[::-1], references)
    best = straight if straight.mean() >= swapped.mean() else swapped
    return np.asarray(best - si_sdr(mixture[None], references))


def evaluate(arguments: tuple[str, str | None, list[tuple[np.ndarray, np.ndarray]]]) -> list[float]:
    """Mean improvement of each mixture; the mixture enters as int16 PCM, rounded half to even."""
    preset, weights, pairs = arguments
    model = load(weights, preset)
    found = []
    for mixture, references in pairs:
        pcm = np.clip(np.rint(mixture.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        estimate = model.separate(pcm) / 32768.0
        found.append(float(improvement(estimate, pcm / 32768.0, references.astype(np.float64)).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--presets", default="fp32,int8,mixlstm,fpconv,mixmlp,fullmlp")
    parser.add_argument("--count", type=int, default=40, help="the first mixtures of the list")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    pairs = listed_mixtures(args.list.parent, args.list.name)[: args.count]
    presets = args.presets.split(",")
    chunks = [(p, args.weights, pairs[i : i + 5]) for p in presets for i in range(0, len(pairs), 5)]
    found: dict[str, list[float]] = {p: [] for p in presets}
    with ProcessPoolExecutor(args.jobs) as pool:
        for chunk, values in zip(chunks, tqdm(pool.map(evaluate, chunks), total=len(chunks), disable=None), strict=True):
            found[chunk[0]] += values
    if args.json:
        print(json.dumps(found))
        return
    print(f"{'preset':9} {'SI-SDRi dB':>10} {'std. error':>10}   ({len(pairs)} mixtures of {args.list.name})")
    for preset, values in found.items():
        print(f"{preset:9} {np.mean(values):10.2f} {np.std(values) / np.sqrt(len(values)):10.2f}")


if __name__ == "__main__":
    main()
