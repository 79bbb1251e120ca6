"""Start a network of compressed frequencies from a trained one: ``python -m weights.train.shrink --teacher FILE --out RUN``.

Encoder, decoder and temporal stages are the teacher's. A spectral stage starts as the teacher's on groups of ``--compression``
bins, dead units anew, and is then trained to add what the teacher's adds to the same input, all blocks at once. That target is
dense, where the separation loss of a mixture is mostly noise: a few thousand mixtures take it as far as it goes, somewhat short
of the teacher, and ``train --init RUN/weights.safetensors --ordered 0`` goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from refimpl.cli import guarded
from refimpl.errors import InputError
from weights.train.model import Block, TFMLPNet
from weights.train.revive import activity, revive
from weights.train.train import (
    Begun,
    data_options,
    distributed,
    drawn,
    load_weights,
    network,
    open_corpus,
    schedule_options,
    start,
    train,
)

HEADROOM = 4.0  # the offset that carries negative values through the compression's ReLU, in RMS of the block's input
IDLE = 0.001  # hidden units active for a smaller share have no gradient to speak of


def teacher_of(args: argparse.Namespace) -> TFMLPNet:
    """The trained network of ``--teacher``; InputError where it is of other sizes or has compressed frequencies itself."""
    teacher = network(args, compression=1).eval().requires_grad_(False)
    load_weights(teacher, args.teacher, args.device)
    return teacher


@torch.no_grad()
def group(block: Block, taught: Block, offset: float) -> None:
    """``taught`` on groups of bins, as parameters of ``block``: groups are averaged on the way in and repeated on the way out.

    Of the hidden units along frequency those with the largest product of norms stay. All values inside stand ``offset`` higher,
    so that the compression's ReLU clips few; the biases take that back.
    """
    a, inner = block.compression, block.mixers[0].freq1.out_features
    one = torch.eye(block.intra_linear.in_features)
    block.compress.weight.copy_((one / a)[:, :, None].expand(-1, -1, a))
    block.compress.bias.fill_(offset)
    for mixer, full in zip(block.mixers, taught.mixers, strict=True):
        weight = full.freq1.weight[:, : a * inner].unflatten(1, (inner, a)).sum(2)
        back = full.freq2.weight[: a * inner].unflatten(0, (inner, a)).mean(1)
        kept = (weight.norm(dim=1) * back.norm(dim=0)).argsort(descending=True, stable=True)[:inner].sort().values
        mixer.freq1.weight.copy_(weight[kept])
        mixer.freq1.bias.copy_(full.freq1.bias[kept])
        mixer.freq2.weight.copy_(back[:, kept])
        mixer.freq2.bias.copy_(full.freq2.bias[: a * inner].unflatten(0, (inner, a)).mean(1))
        mixer.chan1.load_state_dict(full.chan1.state_dict())
        mixer.chan2.load_state_dict(full.chan2.state_dict())
    block.intra_linear.load_state_dict(taught.intra_linear.state_dict())
    for reader in (*(layer for m in block.mixers for layer in (m.freq1, m.chan1)), block.intra_linear):
        reader.bias -= offset * reader.weight.sum(1)
    block.expand.weight.copy_(one[:, :, None].expand(-1, -1, a))
    block.expand.bias.zero_()
    for part in ("lstm", "inter_linear"):
        getattr(block, part).load_state_dict(getattr(taught, part).state_dict())


@torch.no_grad()
def grouped(model: TFMLPNet, teacher: TFMLPNet, x: Tensor) -> None:
    """All parameters of ``model`` from the teacher's; waveforms ``x``, brought to full scale, say how large the values are."""
    model.encoder.load_state_dict(teacher.encoder.state_dict())
    model.decoder.load_state_dict(teacher.decoder.state_dict())
    x = x / x.abs().amax(-1, keepdim=True)
    h = teacher.encoded(x)
    for block, taught in zip(model.blocks, teacher.blocks, strict=True):
        group(block, taught, HEADROOM * float(h.square().mean().sqrt()))
        h = taught(h)
    shares = activity(model, x)
    revive(model, shares, IDLE)
    for name, share in shares.items():  # new rows see the offset too
        fresh, block = model.get_submodule(name), model.get_submodule(".".join(name.split(".")[:2]))
        fresh.bias[share < IDLE] -= block.compress.bias[0] * fresh.weight[share < IDLE].sum(1)


def imitation(model: TFMLPNet, teacher: TFMLPNet, x: Tensor, device: str) -> Tensor:
    """Error of every spectral stage against the teacher's on the teacher's input, over its energy, in dB: mean over blocks."""
    errors = []
    with torch.autocast(device, torch.bfloat16):
        with torch.no_grad():
            h = teacher.encoded(x)
        for block, taught in zip(model.blocks, teacher.blocks, strict=True):
            with torch.no_grad():
                wanted = taught.spectral(h)
                following = h + wanted
            error = (block.spectral(h) - wanted).float().square().sum() / (wanted.float().square().sum() + 1e-8)
            errors.append(10 * torch.log10(error + 1e-8))
            with torch.no_grad():
                h = following + taught.inter_linear(taught.recur(following))
    return torch.stack(errors).mean()


def parser() -> argparse.ArgumentParser:
    """The options of ``train`` without those of its loss, and the teacher."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_options(found)
    schedule_options(found)
    found.add_argument("--teacher", type=Path, required=True, help="trained network: a container or state dict (.safetensors)")
    found.set_defaults(shown="imitation error", compression=2, ordered=0, mixtures=4000, warmup=100, decay=0.7)
    return found


def shrink(args: argparse.Namespace, rank: int = 0, world: int = 1) -> list[float]:
    """The run from where it stands to its end; returns this process's imitation error in dB at each step made."""
    if args.compression < 2:
        raise InputError(f"--compression {args.compression}: nothing to compress; give 2 or more")
    teacher = teacher_of(args)
    args.origin = f"weights.train.shrink from {hashlib.sha256(args.teacher.read_bytes()).hexdigest()[:16]}"

    def begin(args: argparse.Namespace) -> Begun:
        model, steppers, done = start(args)
        if done == 0:
            grouped(model, teacher, drawn(open_corpus(args, rank, world), args, 0, False)[0])
        model.requires_grad_(False)
        for block in model.blocks:
            for part in (block.compress, block.mixers, block.intra_linear, block.expand):
                part.requires_grad_(True)
        return model, steppers, done

    def error(model: TFMLPNet, x: Tensor, y: Tensor, ordered: bool, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
        found = imitation(model, teacher, x, args.device)
        return found, found

    return train(args, rank, world, begin, error)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda: distributed(parser().parse_args(argv), shrink))


if __name__ == "__main__":
    sys.exit(main())
