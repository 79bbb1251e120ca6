"""Start dead hidden units of a trained network anew: ``python -m weights.train.revive --init FILE --corpus FOLDER --out RUN``.

A mixer is a residual of Linear, ReLU, Linear. Early in training, while such a residual only disturbs, the quickest way to
silence it is to push its ReLUs below zero; a unit that is never active has no gradient and stays as it is. Units active for
less than a share ``--active`` of their inputs get a new row in the first Linear (as an untrained network has it, bias 0) and a
column of zeros in the second: the network's output hardly changes, and ``train --init RUN/weights.safetensors --ordered 0`` may
use them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from refimpl.cli import folder_made, guarded
from refimpl.errors import InputError
from weights.train.model import GAIN, Mixer, TFMLPNet
from weights.train.train import data_options, drawn, load_weights, network, open_corpus, save_weights

HIDDEN = {"freq1": "freq2", "chan1": "chan2"}  # each Linear before a ReLU, and the one behind it


@torch.no_grad()
def activity(model: TFMLPNet, x: Tensor) -> dict[str, Tensor]:
    """For every Linear before a ReLU, by its name: the share of its outputs above zero, unit by unit, on waveforms ``x``."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in HIDDEN:

            def note(_layer: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
                found[name] = (output > 0).float().mean(tuple(range(output.dim() - 1)))

            hooks.append(layer.register_forward_hook(note))
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def revive(model: TFMLPNet, shares: dict[str, Tensor], active: float) -> int:
    """New rows and zero columns for the units below ``active``; returns how many."""
    count = 0
    for name, share in shares.items():
        parent, _, first = name.rpartition(".")
        mixer = model.get_submodule(parent)
        assert isinstance(mixer, Mixer)
        before, behind = getattr(mixer, first), getattr(mixer, HIDDEN[first])
        idle = share < active
        fresh = nn.Linear(before.in_features, before.out_features, device=before.weight.device)
        before.weight[idle] = GAIN * fresh.weight[idle]
        before.bias[idle] = 0
        behind.weight[:, idle] = 0
        count += int(idle.sum())
    return count


def parser() -> argparse.ArgumentParser:
    """The network, the mixtures that judge its units, and what counts as dead."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_options(found)
    found.add_argument("--init", type=Path, required=True, help="trained network: a container or state dict (.safetensors)")
    found.add_argument("--active", type=float, default=0.01, metavar="SHARE", help="units active for less start anew")
    found.set_defaults(batch=16, seconds=4.0)
    return found


def run(args: argparse.Namespace) -> None:
    """``--init`` to ``--out``, judged on the first ``--batch`` mixtures; prints the dead units of every layer."""
    if not (math.isfinite(args.active) and args.active >= 0):
        raise InputError(f"--active {args.active:g}: not a share; give a number from 0 on, such as 0.01")
    if any((args.out / name).exists() for name in ("checkpoint.pt", "weights.safetensors")):
        raise InputError(f"{args.out}: holds a run already; give another folder")
    torch.manual_seed(args.seed)
    model = network(args)
    load_weights(model, args.init, args.device)
    with folder_made(args.out) as folder:
        waveforms = drawn(open_corpus(args, 0, 1), args, 0, False)[0]
        shares = [activity(model, x[None]) for x in waveforms]  # one by one: memory
        means = {name: torch.stack([share[name] for share in shares]).mean(0) for name in shares[0]}
        for name, share in means.items():
            idle = int((share < args.active).sum())
            print(f"{name}: {idle} of {len(share)} units active for less than {args.active:g}, mean {share.mean():.3f}")
        print(f"{revive(model, means, args.active)} units start anew")
        save_weights(folder, model)


def main(argv: Sequence[str] | None = None) -> int:
    def body() -> int:
        run(parser().parse_args(argv))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
