"""Quantization-aware training: ``python -m weights.train.qat --weights CONTAINER --preset mixmlp --corpus FOLDER --out RUN``.

Starts from a calibrated container and trains weights and activation ranges through the golden model's own arithmetic (see
``quantized.py``), on the mixtures of the float recipe. ``RUN/weights.safetensors`` is a container for the one preset. The run
resumes by itself from ``RUN/checkpoint.pt`` and then gives the same numbers as one that was not interrupted. One process per
core or GPU: ``torchrun --nproc-per-node 2 -m weights.train.qat ...`` (the batch is per process, gradients are averaged).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refimpl.cli import guarded
from refimpl.errors import InputError
from refimpl.weights_io import Container, load_container
from weights.train.data import Corpus, read_list
from weights.train.model import TFMLPNet
from weights.train.quantized import QuantizedTFMLPNet
from weights.train.train import (
    average_gradients,
    change_options,
    clip_own,
    distributed,
    drawn,
    learning_rate,
    matched,
    moving,
    open_corpus,
    others,
    pit_si_sdr,
    validate,
)

CEILING = 30.0  # dB: above, nothing is to be gained, and easy mixtures would dominate


def distilled(estimate: Tensor, reference: Tensor, teacher: Tensor | None, share: float) -> Tensor:
    """SDR-aware distillation loss in dB, ``[N]`` (arXiv 2508.03047 and FQSE); without a ``teacher`` the negative SI-SDR.

    ``L = -10 log10((1 - l) R(y, s) + l w R(y, y_t) + 1e-8)`` with R the linear SI-SDR of the better assignment (from the
    speakers' mean in dB), y the estimate, s the reference, y_t the teacher's output, ``w = R(y, s) / R(y_t, s)`` without
    gradient.
    """
    score = pit_si_sdr(estimate, reference)
    capped = score.clamp(max=CEILING)
    if teacher is None or share == 0:
        return -capped
    weight = 10 ** ((score - pit_si_sdr(teacher, reference)).detach() / 10)
    imitation = 10 ** (pit_si_sdr(estimate, teacher).clamp(max=CEILING) / 10)
    return -10 * torch.log10((1 - share) * 10 ** (capped / 10) + share * weight * imitation + 1e-8)


def float_teacher(container: Container, device: str) -> TFMLPNet:
    """The float network of a container, frozen."""
    config = container.config
    if (config.frequency_padding, config.channel_order) != ("symmetric", "speaker_major"):
        raise InputError("the float teacher knows symmetric padding and speaker-major channels only: use --distill 0")
    shape = (config.speakers, config.blocks, config.channels, config.hidden, config.mixers, config.compression, config.window)
    teacher = TFMLPNet(*shape)
    teacher.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in container.weights.items()})
    return teacher.to(device).eval().requires_grad_(False)


@dataclass
class Run:
    """A training run: what a step needs and changes."""

    args: argparse.Namespace
    network: QuantizedTFMLPNet
    teacher: TFMLPNet | None
    stepper: torch.optim.Optimizer
    rank: int = 0
    world: int = 1
    done: int = 0  # mixtures
    recent: list[float] = field(default_factory=list)

    @property
    def ranges(self) -> list[torch.nn.Parameter]:
        return list(self.network.moves.values())

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.network.named_parameters() if not name.startswith("moves.")]

    def step(self, corpus: Corpus) -> float:
        """One optimizer step on the next batch; returns the loss."""
        args = self.args
        x, y = drawn(corpus, args, self.done + self.rank * args.batch, False)
        taught = None
        if self.teacher is not None:
            with torch.no_grad(), torch.autocast(args.device, torch.bfloat16):
                taught = self.teacher(x).float()
        estimate = self.network(x)
        separation = distilled(estimate, y, taught, args.distill).mean()
        loss = separation + others(estimate, matched(estimate, y), args)
        self.stepper.zero_grad()
        loss.backward()
        # Two norms: the ranges' gradients are sums over whole tensors and would drown the weights'.
        for own in (self.weights, self.ranges):
            clip_own(own, args.clip)
        if self.world > 1:
            average_gradients(self.network, self.world)
        rate = learning_rate(self.done, args)
        for group, most in zip(self.stepper.param_groups, (args.lr, args.range_lr), strict=True):
            group["lr"] = rate * most / args.lr
        if moving(self.network):
            self.stepper.step()
            self.network.settle()
        self.done += args.batch * self.world
        self.recent = [*self.recent[-249:], loss.item()]
        return loss.item()

    def save(self, card: dict[str, Any]) -> None:
        """Checkpoint and container, each whole or not at all."""
        out = self.args.out
        state = {
            "identity": identity(self.args),
            "network": self.network.state_dict(),
            "optimizer": self.stepper.state_dict(),
            "done": self.done,
            "recent": self.recent,
        }
        torch.save(state, out / "checkpoint.partial")
        (out / "checkpoint.partial").rename(out / "checkpoint.pt")
        self.network.container(card).save(out / "weights.safetensors")

    def resume(self) -> None:
        """Take up the run folder's checkpoint, if there is one."""
        path = self.args.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.args.device, weights_only=True)
        for key, value in identity(self.args).items():
            if state["identity"].get(key) != value:
                raise InputError(f"{path}: made with {key} {state['identity'].get(key)!r}, not {value!r}; use another --out")
        self.network.load_state_dict(state["network"])
        self.stepper.load_state_dict(state["optimizer"])
        self.done, self.recent = state["done"], state["recent"]


def identity(args: argparse.Namespace) -> dict[str, Any]:
    """What a checkpoint cannot be taken up without."""
    schedule = ("mixtures", "lr", "range_lr", "warmup", "decay", "clip")
    names = ("preset", "batch", "seconds", "seed", *schedule, "distill", "level", "spectral")
    return {name: getattr(args, name) for name in names} | {"weights": load_container(args.weights).digest}


def card(run: Run, container: Container) -> dict[str, Any]:
    """The exported container's card: that of the start, and how it was trained from there."""
    args = run.args
    facts = {
        "preset": args.preset,
        "command": told(args),
        "mixtures": run.done,
        "steps": run.done // (args.batch * run.world),
        "processes": run.world,
        "seed": args.seed,
        "distill": args.distill,
        "teacher": container.digest if run.teacher is not None else None,
        "start": container.digest,
    }
    return {**container.card, "qat": facts}


def begin(args: argparse.Namespace, container: Container, rank: int = 0, world: int = 1) -> Run:
    """The run of ``args`` at its start, or where its checkpoint left it."""
    network = QuantizedTFMLPNet(container, args.preset).to(args.device)
    teacher = float_teacher(container, args.device) if args.distill else None
    run = Run(args, network, teacher, None, rank, world)  # type: ignore[arg-type]
    groups = [{"params": run.weights, "weight_decay": args.weight_decay}, {"params": run.ranges, "weight_decay": 0.0}]
    run.stepper = torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.98))
    run.resume()
    return run


PLACES = {"corpus": "FOLDER", "valid": "LIST.csv", "out": "RUN"}


def told(args: argparse.Namespace) -> str:
    """The command that ``args`` are of, for a card: what differs from the defaults, and no path of this machine."""
    words, parser = [], arguments_parser()
    for name, value in vars(args).items():
        if value == parser.get_default(name) or name == "cache":
            continue
        if isinstance(value, Path):
            value = PLACES.get(name, value.name if value.is_absolute() else value.as_posix())
        words += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    return "python -m weights.train.qat " + shlex.join(words)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    return arguments_parser().parse_args(argv)


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="calibrated container to start from; its floats teach")
    parser.add_argument("--preset", default="mixmlp", help="a shipped preset, or a preset file")
    parser.add_argument("--corpus", type=Path, required=True, help="folder laid out as speaker/utterance")
    parser.add_argument("--corpora", action="store_true", help="the folder's first level names corpora")
    parser.add_argument("--valid", type=Path, help="CSV list of validation mixtures (paths relative to it)")
    parser.add_argument("--validate", type=int, default=40, help="how many of them")
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint, container, log")
    parser.add_argument("--cache", type=Path, default=Path("weights/train/cache"))
    parser.add_argument("--mixtures", type=int, default=4000, help="length of the whole schedule")
    parser.add_argument("--batch", type=int, default=2, help="mixtures a step and process")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--snr", type=float, default=10.0, help="input SNR is uniform in [-SNR, SNR] dB")
    parser.add_argument("--quietest", type=float, default=-35.0, help="peak level is uniform in [QUIETEST, 0] dBFS")
    change_options(parser)
    parser.add_argument("--distill", type=float, default=0.1, help="share of the distillation term; 0: none")
    parser.add_argument("--level", type=float, default=0.05, help="weight of the level error in dB")
    parser.add_argument("--spectral", type=float, default=1.0, help="weight of the spectral error in dB")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--range-lr", type=float, default=3e-4, help="for ranges, in units of each range's width")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=100, help="mixtures of linear warm-up")
    parser.add_argument("--decay", type=float, default=1.0, help="share of the schedule that decays linearly to zero")
    parser.add_argument("--clip", type=float, default=1.0, help="gradient norm, of weights and of ranges")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--every", type=int, default=500, help="mixtures between validations and checkpoints")
    parser.add_argument("--report", type=int, default=50, help="mixtures between progress lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def train(args: argparse.Namespace, rank: int = 0, world: int = 1) -> list[float]:
    """The run from where it stands to its end, with a validation before the first step; returns each step's loss."""
    args.out.mkdir(parents=True, exist_ok=True)
    container = load_container(args.weights)
    corpus = open_corpus(args, rank, world)
    pairs = [listed.mix() for listed in read_list(args.valid)[: args.validate]] if args.valid else []
    run = begin(args, container, rank, world)
    began, first, found = time.time(), run.done, []
    if run.done == 0:
        judge(run, pairs)
    while run.done < args.mixtures:
        before = run.done
        found.append(run.step(corpus))
        if rank == 0 and run.done // args.report != before // args.report:
            pace, rate = (run.done - first) / (time.time() - began), run.stepper.param_groups[0]["lr"]
            where = f"{run.done}/{args.mixtures} mixtures"
            print(f"{where}  loss {np.mean(run.recent[-50:]):.3f}  lr {rate:.2e}  {pace:.2f}/s", flush=True)
        if run.done // args.every != before // args.every or run.done >= args.mixtures:
            judge(run, pairs)
            if rank == 0:
                run.save(card(run, container))
    return found


def judge(run: Run, pairs: list[Any]) -> None:
    """Validate, print the figures and add them to the run's log."""
    gain = validate(run.network, pairs, run.rank, run.world, run.args.device) if pairs else math.nan
    if run.rank == 0:
        loss = np.mean(run.recent) if run.recent else math.nan
        line = f"{run.done} mixtures: validation SI-SDRi {gain:.2f} dB, loss {loss:.3f}"
        print(line, flush=True)
        with (run.args.out / "log.txt").open("a") as log:
            log.write(line + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda: distributed(arguments(argv), train))


if __name__ == "__main__":
    sys.exit(main())
