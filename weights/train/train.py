"""Train TF-MLPNet: ``python -m weights.train.train --corpus FOLDER --out RUN``; see ``weights/README.md``.

The run resumes by itself from ``RUN/checkpoint.pt``. Start one process per core with
``torchrun --nproc-per-node 2 -m weights.train.train ...`` (the batch is per process, gradients are averaged).
"""

from __future__ import annotations

import argparse
import math
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from weights.train.data import RATE, Corpus, listed_mixtures, mixture
from weights.train.model import TFMLPNet


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant SDR in dB over the last axis, zero mean."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + 1e-10)
    target = scale * reference
    ratio = target.square().sum(-1) / ((estimate - target).square().sum(-1) + 1e-10)
    return 10 * torch.log10(ratio + 1e-8)


def pit_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Mean SI-SDR of two speakers under the better assignment, ``[N]``."""
    straight = si_sdr(estimate, reference).mean(-1)
    return torch.maximum(straight, si_sdr(estimate, reference.flip(1)).mean(-1))


def level_error(estimate: Tensor, reference: Tensor) -> Tensor:
    """Absolute difference in dB of the energies of all speakers together, ``[N]``: SI-SDR alone leaves the level free."""
    ratio = (estimate.square().sum((1, 2)) + 1e-6) / (reference.square().sum((1, 2)) + 1e-6)
    return 10 * torch.log10(ratio).abs()


def learning_rate(done: float, args: argparse.Namespace) -> float:
    """Warm-up, plateau, then a linear decay to zero over the last ``--decay`` share of ``--mixtures``."""
    start = args.mixtures * (1 - args.decay)
    if done < args.warmup:
        return args.lr * (done + 1) / args.warmup
    if done < start:
        return args.lr
    return args.lr * max(0.0, (args.mixtures - done) / (args.mixtures - start))


def validate(model: TFMLPNet, pairs: list, rank: int, world: int, device: str) -> float:
    """Mean SI-SDR improvement in dB over ``pairs``, shared among the processes."""
    total = torch.zeros(2, dtype=torch.float64)
    model.eval()
    for x, y in pairs[rank::world]:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            mix, ref = torch.from_numpy(x)[None].to(device), torch.from_numpy(y)[None].to(device)
            gain = pit_si_sdr(model(mix), ref) - si_sdr(mix[:, None].expand_as(ref), ref).mean(-1)
        total += torch.tensor([gain.item(), 1.0], dtype=torch.float64)
    model.train()
    if world > 1:
        dist.all_reduce(total)
    return float(total[0] / total[1])


def average_gradients(model: TFMLPNet, world: int) -> None:
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    dist.all_reduce(flat)
    flat /= world
    for p, g in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
        p.grad.copy_(g.view_as(p))


def save(out: Path, model: TFMLPNet, optimizer: torch.optim.Optimizer, done: int) -> None:
    partial = out / "checkpoint.partial"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, partial)
    partial.rename(out / "checkpoint.pt")
    save_file({k: v.cpu() for k, v in model.state_dict().items()}, out / "weights.partial")
    (out / "weights.partial").rename(out / "weights.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder laid out as speaker/utterance")
    parser.add_argument("--corpora", action="store_true", help="the folder's first level names corpora")
    parser.add_argument("--valid", type=Path, help="CSV list of validation mixtures (paths relative to it)")
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint, weights, log")
    parser.add_argument("--cache", type=Path, default=Path("weights/train/cache"))
    parser.add_argument("--mixtures", type=int, default=20000, help="length of the whole schedule")
    parser.add_argument("--batch", type=int, default=2, help="mixtures a step and process")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--snr", type=float, default=10.0, help="input SNR is uniform in [-SNR, SNR] dB")
    parser.add_argument("--quietest", type=float, default=-35.0, help="peak level is uniform in [QUIETEST, 0] dBFS")
    parser.add_argument("--ordered", type=int, default=2500, help="first mixtures: unlike voices, the higher one first")
    parser.add_argument("--level", type=float, default=0.05, help="weight of the level error in dB")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--warmup", type=int, default=800, help="mixtures of linear warm-up")
    parser.add_argument("--decay", type=float, default=0.3, help="share of the schedule that decays")
    parser.add_argument("--clip", type=float, default=1.0, help="gradient norm")
    parser.add_argument("--init", type=Path, help="start from these weights: a container or a state dict (.safetensors)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1000, help="mixtures between validations and checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compression", type=int, default=1)
    args = parser.parse_args()

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if args.device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    args.out.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        Corpus(args.corpus, args.cache, args.corpora)
    if world > 1:
        dist.barrier()
    corpus = Corpus(args.corpus, args.cache, args.corpora)
    pairs = listed_mixtures(args.valid.parent, args.valid.name)[:40] if args.valid else []

    torch.manual_seed(args.seed)
    model = TFMLPNet(compression=args.compression).to(args.device)
    if args.init:
        model.load_state_dict(load_file(args.init, device=args.device))
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.98), weight_decay=1e-2)
    done = 0
    if (args.out / "checkpoint.pt").exists():
        state = torch.load(args.out / "checkpoint.pt", map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    length, step = int(args.seconds * RATE), args.batch * world
    recent: list[float] = []
    began, first = time.time(), done
    easy = partial(mixture, corpus, args.seed, length=length, snr=5.0, quietest=-12.0, contrast=1.3)
    full = partial(mixture, corpus, args.seed, length=length, snr=args.snr, quietest=args.quietest)
    while done < args.mixtures:
        # First voices that differ, in a fixed order: without it the permutation-invariant loss rests on a plateau for long.
        ordered = done < args.ordered
        draw = easy if ordered else full
        batch = [draw(done + rank * args.batch + i) for i in range(args.batch)]
        x = torch.from_numpy(np.stack([b[0] for b in batch])).to(args.device)
        y = torch.from_numpy(np.stack([b[1] for b in batch])).to(args.device)
        with torch.autocast(args.device, torch.bfloat16):
            estimate = model(x)
        # Above 30 dB nothing is to be gained; the clamp keeps easy mixtures from dominating.
        score = si_sdr(estimate, y).mean(-1) if ordered else pit_si_sdr(estimate, y)
        separation = -score.clamp(max=30.0).mean()
        loss = separation + args.level * level_error(estimate, y).mean()
        optimizer.zero_grad()
        loss.backward()
        if world > 1:
            average_gradients(model, world)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, args)
        if math.isfinite(norm.item()):
            optimizer.step()
        recent.append(separation.item())
        before, done = done, done + step
        if rank == 0 and done // 100 != before // 100:
            rate = (done - first) / (time.time() - began)
            print(
                f"{done}/{args.mixtures} mixtures  loss {np.mean(recent[-50:]):.2f}  norm {norm.item():.1f}  "
                f"lr {optimizer.param_groups[0]['lr']:.2e}  {rate:.2f}/s",
                flush=True,
            )
        if done // args.every != before // args.every or done >= args.mixtures:
            gain = validate(model, pairs, rank, world, args.device) if pairs else math.nan
            if rank == 0:
                save(args.out, model, optimizer, done)
                line = f"{done} mixtures: validation SI-SDRi {gain:.2f} dB, loss {np.mean(recent[-250:]):.2f}"
                print(line, flush=True)
                with (args.out / "log.txt").open("a") as log:
                    log.write(line + "\n")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
