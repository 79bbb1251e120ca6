"""Write training mixtures as WAV files, to calibrate on: ``python -m weights.train.mixtures --corpus FOLDER --out FOLDER``.

The mixtures are those of the recipe (same speakers, levels and ratios) under a seed of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refimpl.audio import RATE, write_pcm
from refimpl.cli import guarded
from weights.train.data import Corpus, mixture


def write(args: argparse.Namespace) -> int:
    """The mixtures of ``args`` as ``mixture000.wav`` and so on."""
    corpus = Corpus(args.corpus, args.cache, args.corpora)
    args.out.mkdir(parents=True, exist_ok=True)
    for k in range(args.count):
        x, _ = mixture(corpus, args.seed, k, int(args.seconds * RATE), quietest=args.quietest)
        pcm = np.clip(np.rint(x.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        write_pcm(args.out / f"mixture{k:03}.wav", pcm)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--corpora", action="store_true", help="the folder's first level names corpora")
    parser.add_argument("--cache", type=Path, default=Path("weights/train/cache"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--quietest", type=float, default=-35.0, help="peak level is uniform in [QUIETEST, 0] dBFS")
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args(argv)
    return guarded(lambda: write(args))


if __name__ == "__main__":
    sys.exit(main())
