"""A training step with the kernels of ``weights/train/amx.c`` against PyTorch alone: ``python -m weights.bench.training``.

Both take the same step in turn, in one process of one thread: forwards, loss and backwards, without mixtures and optimizer.
Prints the ratio of times, pair by pair: its median and extremes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from refimpl.cli import guarded
from refimpl.errors import InputError
from weights.train import amx
from weights.train.model import BINS, TFMLPNet
from weights.train.train import hold_memory, losses, parser


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m weights.bench.training", description="a training step, paired")
    found.add_argument("--seconds", type=float, default=4.0, help="of a mixture (default %(default)s)")
    found.add_argument("--batch", type=int, default=2, help="mixtures a step (default %(default)s)")
    found.add_argument("--bins", type=int, default=BINS, help="as of weights.train.train; fewer than all take 128 units")
    found.add_argument("--pairs", type=int, default=7, help="steps of each (default %(default)s)")
    return found


def ratios(model: TFMLPNet, batch: int, samples: int, pairs: int) -> list[float]:
    """PyTorch's time over the kernels', of each pair of steps on the same noise."""
    args = parser().parse_args(["--corpus", "-", "--out", "-", "--device", "cpu"])
    y = 0.1 * torch.randn(batch, 2, samples)
    found = []
    for pair in range(-1, pairs):  # the first is for memory and caches
        times = []
        for native in (False, True):
            for block in model.blocks:
                block.native = native
            began = time.perf_counter()
            losses(model, y.sum(1), y, False, args)[0].backward()
            times.append(time.perf_counter() - began)
        if pair >= 0:
            found.append(times[0] / times[1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> int:
        args = _parser().parse_args(argv)
        if amx.library() is None:
            raise InputError("no kernels here: they need Linux, a CPU with AMX and a C compiler named cc")
        torch.set_num_threads(1)
        hold_memory()
        torch.manual_seed(0)
        model = TFMLPNet(bins=args.bins, units=0 if args.bins == BINS else 128, widening=1.0)
        found = np.array(ratios(model, args.batch, int(args.seconds * 16000), args.pairs))
        spread = f"{found.min():.2f} to {found.max():.2f}, {len(found)} pairs"
        print(f"{np.median(found):.2f} times as fast with the kernels ({spread})")
        return 0

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
