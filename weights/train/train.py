"""Train TF-MLPNet: ``python -m weights.train.train --corpus FOLDER --out RUN``; see ``weights/README.md``.

The run resumes by itself from ``RUN/checkpoint.pt``. Start one process per core with
``torchrun --nproc-per-node 2 -m weights.train.train ...`` (the batch is per process, gradients are averaged).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as functional
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as dumped
from torch import Tensor

from refimpl.cli import guarded
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config
from refimpl.weights_io import load_container, write_whole
from weights.train.data import RATE, Change, Corpus, below, mixture, read_list
from weights.train.model import BINS, N_FFT, WIDENING, Mixer, TFMLPNet
from weights.train.streams import let, store

ORIGIN = "weights.train.train"
DIMENSIONS = {"blocks": 6, "channels": 32, "hidden": 32, "mixers": 2, "compression": 1}


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant SDR in dB over the last axis, zero mean."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + 1e-10)
    target = scale * reference
    ratio = target.square().sum(-1) / ((estimate - target).square().sum(-1) + 1e-10)
    return 10 * torch.log10(ratio + 1e-8)


def matched(estimate: Tensor, reference: Tensor) -> Tensor:
    """The references in the order of speakers that gives the higher mean SI-SDR, ``[N, 2, n]``."""
    straight, crossed = (si_sdr(estimate, order).mean(-1) for order in (reference, reference.flip(1)))
    return torch.where((straight >= crossed)[:, None, None], reference, reference.flip(1))


def pit_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Mean SI-SDR of two speakers under the better assignment, ``[N]``."""
    return si_sdr(estimate, matched(estimate, reference)).mean(-1)


def level_error(estimate: Tensor, reference: Tensor) -> Tensor:
    """Absolute difference in dB of the energies of all speakers together, ``[N]``: SI-SDR alone leaves the level free."""
    ratio = (estimate.square().sum((1, 2)) + 1e-6) / (reference.square().sum((1, 2)) + 1e-6)
    return 10 * torch.log10(ratio).abs()


def compressed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Spectra ``[N, 2, F, T, 2]`` (re, im; 512 points, hop 128, Hann) with magnitudes raised to 0.3, and these magnitudes."""
    window = torch.hann_window(512, device=x.device)
    spectra = torch.stft(x.flatten(0, 1), 512, 128, window=window, return_complex=True).unflatten(0, x.shape[:2])
    power = spectra.abs().square() + 1e-8
    return torch.view_as_real(spectra * power**-0.35), power**0.15


def spectral_error(estimate: Tensor, reference: Tensor) -> Tensor:
    """Squared error of the compressed spectra, half complex and half magnitude, over their energy in dB, ``[N]``.

    Every bin counts here, where SI-SDR hears the loud ones alone; and unlike SI-SDR it knows level and polarity.
    """
    (found, found_size), (wanted, wanted_size) = compressed(estimate), compressed(reference)
    error = (found - wanted).square().sum((2, 3, 4)) + (found_size - wanted_size).square().sum((2, 3))
    return 10 * torch.log10(0.5 * error / wanted.square().sum((2, 3, 4)) + 1e-8).mean(-1)


def others(estimate: Tensor, reference: Tensor, args: argparse.Namespace) -> Tensor:
    """The loss beside separation, references matched: weighted level and spectral error, means over mixtures.

    A spectral error without weight is not computed.
    """
    level = args.level * level_error(estimate, reference).mean()
    return level + args.spectral * spectral_error(estimate, reference).mean() if args.spectral else level


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
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class Muon(torch.optim.Muon):
    """PyTorch's Muon, scaled to AdamW's step size, whose matrices of one shape are made orthogonal in one product.

    A network has some 60 small matrices in a few shapes; one by one they take a fifth of a step on one mixture of 1 s. The
    state is PyTorch's.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                directions = orthogonal(torch.stack([self._update(p, group["momentum"]) for p in parameters]), group)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(directions.unbind()), alpha=-rate)

    def _update(self, parameter: torch.nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's direction; moves the average of gradients on."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonal(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """The nearest orthogonal matrices of ``[n, rows, columns]``, roughly, by Newton and Schulz in BF16."""
    a, b, c = group["ns_coefficients"]
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def optimizers(model: TFMLPNet, kind: str, lr: float) -> list[torch.optim.Optimizer]:
    """``adamw`` for everything, or ``muon`` for the matrices (scaled to AdamW's step size) and AdamW for the rest."""
    options = {"betas": (0.9, 0.98), "weight_decay": 1e-2}
    if kind == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr, **options)]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    muon = Muon(matrices, lr, momentum=0.95, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr, **options)]


def save(out: Path, model: TFMLPNet, mean: TFMLPNet, steppers: list[torch.optim.Optimizer], done: int, origin: str) -> None:
    partial = out / "checkpoint.partial"
    states = [stepper.state_dict() for stepper in steppers]
    kept = {"model": model.state_dict(), "optimizers": states, "done": done, "origin": origin}
    torch.save(kept if mean is model else {**kept, "mean": mean.state_dict()}, partial)
    partial.rename(out / "checkpoint.pt")
    save_weights(out, mean)


def save_weights(out: Path, model: TFMLPNet) -> None:
    """The parameters as ``out / "weights.safetensors"``, as the paper's network has them, whole or not at all."""
    write_whole(
        out / "weights.safetensors", dumped({k: v.cpu().contiguous() for k, v in model.ordinary().state_dict().items()})
    )


def hold_memory() -> bool:
    """Keep freed memory for the next step, where the C library is glibc; returns whether it was told.

    A step allocates and frees the same hundreds of MiB; returned to the system each time, the pages' zeroing takes a quarter
    of the step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    options = {-3: 32 << 20, -1: 2**31 - 1, -2: 256 << 20}  # M_MMAP_THRESHOLD (its maximum), M_TRIM_THRESHOLD, M_TOP_PAD
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in options.items())


def change_options(parser: argparse.ArgumentParser) -> None:
    """How voices are changed, see ``Change``."""
    parser.add_argument("--speed", type=float, default=1.25, help="up to this factor either way; 1: voices keep theirs")
    parser.add_argument("--tilt", type=float, default=4.0, help="voices are filtered by up to this many dB")
    parser.add_argument("--warp", type=float, default=1.0, help="formants move by up to this factor either way; 1: they stay")
    parser.add_argument("--bend", type=float, default=1.0, help="formants of five bands move by up to this factor beside that")


def data_options(parser: argparse.ArgumentParser) -> None:
    """What is drawn from which corpus, for which network, and where the outcome goes."""
    parser.add_argument("--corpus", type=Path, required=True, help="folder laid out as speaker/utterance")
    parser.add_argument("--corpora", action="store_true", help="the folder's first level names corpora")
    parser.add_argument("--cache", type=Path, default=Path("weights/train/cache"))
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint, weights, log")
    parser.add_argument("--batch", type=int, default=2, help="mixtures a step and process")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--snr", type=float, default=10.0, help="input SNR is uniform in [-SNR, SNR] dB")
    parser.add_argument("--quietest", type=float, default=-35.0, help="peak level is uniform in [QUIETEST, LOUDEST] dBFS")
    parser.add_argument("--loudest", type=float, default=0.0, help="above 0: loud input is no edge of what is known")
    change_options(parser)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in DIMENSIONS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="of the network (default %(default)s)")


def schedule_options(parser: argparse.ArgumentParser) -> None:
    """How long and how fast."""
    parser.add_argument("--valid", type=Path, help="CSV list of validation mixtures (paths relative to it)")
    parser.add_argument("--mixtures", type=int, default=20000, help="length of the whole schedule")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=800, help="mixtures of linear warm-up")
    parser.add_argument("--decay", type=float, default=0.3, help="share of the schedule that decays")
    parser.add_argument("--clip", type=float, default=1.0, help="norm of each process's gradient")
    parser.add_argument("--awake", type=float, default=0.0, help="raise units along frequency active on less than this share")
    parser.add_argument(
        "--average", type=float, default=0.0, help="validate and keep weights averaged over steps, such as 0.998"
    )
    parser.add_argument("--every", type=int, default=1000, help="mixtures between validations and checkpoints")


def parser() -> argparse.ArgumentParser:
    """The options of a run; their defaults are the recipe's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_options(parser)
    schedule_options(parser)
    parser.add_argument("--ordered", type=int, default=2500, help="first mixtures: unlike voices, the higher one first")
    parser.add_argument("--level", type=float, default=0.05, help="weight of the level error in dB")
    parser.add_argument("--spectral", type=float, default=1.0, help="weight of the spectral error in dB")
    parser.add_argument("--bins", type=int, default=BINS, help="only the lowest bins, of audio without what is above them")
    parser.add_argument(
        "--units", type=int, default=0, help="this many units along frequency, which hear bands; 0: as the paper"
    )
    parser.add_argument(
        "--widening", type=float, default=WIDENING, help="of the bands of --units, upwards; 1: every bin on its own"
    )
    parser.add_argument("--init", type=Path, help="start from these weights: a container or a state dict (.safetensors)")
    parser.add_argument("--above", type=Path, help="bins that those of --init do not hear: as in these, which they began from")
    parser.add_argument("--streams", type=Path, help="round what residuals add up as --preset does on this container's ranges")
    parser.add_argument("--preset", default="mixmlp", help="of --streams: a shipped preset, or a preset file")
    parser.add_argument("--streams-every", type=int, default=1, help="--streams for every such batch alone, as 2: every second")
    parser.set_defaults(origin=ORIGIN, shown="loss")
    return parser


def open_corpus(args: argparse.Namespace, rank: int, world: int) -> Corpus:
    """The corpus, decoded by the first process alone, then opened by all."""
    if rank == 0:
        Corpus(args.corpus, args.cache, args.corpora)
    if world > 1:
        dist.barrier()
    return Corpus(args.corpus, args.cache, args.corpora)


def network(args: argparse.Namespace, **other: int) -> TFMLPNet:
    """An untrained network of the sizes in ``args``, or of ``other`` ones; InputError where there is no such network."""
    sizes = {name: getattr(args, name) for name in DIMENSIONS} | other
    Config(**sizes)
    bins, units, widening = getattr(args, "bins", BINS), getattr(args, "units", 0), getattr(args, "widening", WIDENING)
    if not 16 <= bins <= BINS:
        raise InputError(f"--bins {bins}: give 16 to {BINS}, which is all of them")
    if not 0 <= units <= BINS:
        raise InputError(f"--units {units}: give 1 to {BINS}, as many as the paper has, or 0 for its matrices")
    if bins < BINS and not units:
        raise InputError(f"--bins {bins}: fewer bins than {BINS} need --units too, such as 64")
    if units and sizes["compression"] > 1:
        raise InputError(f"--units {units}: hears bands as it is; give --compression 1 with it")
    if widening != WIDENING and not units:
        raise InputError(f"--widening {widening:g}: is of bands, which --units makes; give that too, such as 64")
    if getattr(args, "above", None) and not getattr(args, "init", None):
        raise InputError("--above: is for bins that --init lacks; give --init too")
    if not 1 <= widening <= 2:
        raise InputError(f"--widening {widening:g}: give 1, where every bin is a band of its own, to 2")
    return TFMLPNet(**sizes, bins=bins, units=units, widening=widening).to(args.device)


def framing(config: Config) -> tuple[str, ...]:
    """What shapes do not tell."""
    return config.window, config.frequency_padding, config.channel_order


def load_weights(model: TFMLPNet, path: Path, device: str, grow: bool = False, above: Path | None = None) -> None:
    """A container's or state dict's parameters into ``model``; InputError where it cannot be read or is of another network.

    To ``grow`` is to take one of fewer blocks too: those behind its own add nothing to begin with. Bins that it does not hear
    are taken from the weights ``above``.
    """
    given = read_weights(model, path, device, grow)
    if above is not None:
        given.take_above(read_weights(model, above, device, False))
    model.take(given)


def read_weights(model: TFMLPNet, path: Path, device: str, grow: bool) -> TFMLPNet:
    """The paper's network of the sizes of ``model``, fewer blocks if it may ``grow``, from a container or state dict."""
    try:
        with safe_open(path, "numpy") as file:
            contained = "refimpl" in (file.metadata() or {})
        if contained and framing(load_container(path).config) != framing(Config()):
            raise InputError(f"{path}: has another window, padding or order of channels than the networks trained here")
        state = load_file(path, device=device)
        blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        fewer = {"blocks": blocks} if grow and blocks < len(model.blocks) else {}
        given = TFMLPNet(**{**model.sizes, **fewer}).to(device)
        given.load_state_dict(state)
        return given
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: cannot be read as the weights of such a network ({reason}); give a .safetensors file of the same sizes"
        ) from None


Begun = tuple[TFMLPNet, list[torch.optim.Optimizer], int]


def start(args: argparse.Namespace) -> Begun:
    """Network, optimizers and mixtures done: from the run's checkpoint, else from ``--init``, else from the seed."""
    torch.manual_seed(args.seed)
    model = network(args)
    if getattr(args, "streams", None):
        store(model, load_container(args.streams), args.preset)
    steppers = optimizers(model, args.optimizer, args.lr)
    if not (args.out / "checkpoint.pt").exists():
        if getattr(args, "init", None):
            load_weights(model, args.init, args.device, grow=True, above=getattr(args, "above", None))
        return model, steppers, 0
    state = torch.load(args.out / "checkpoint.pt", map_location=args.device, weights_only=True)
    if state.get("origin", ORIGIN) != args.origin:
        raise InputError(f"{args.out}: holds a run of {state.get('origin', ORIGIN)}, not of {args.origin}; give another folder")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError:
        raise InputError(f"{args.out}: holds a run of a network of other sizes; give another folder") from None
    for stepper, kept in zip(steppers, state["optimizers"], strict=True):
        stepper.load_state_dict(kept)
    return model, steppers, state["done"]


def averaged(args: argparse.Namespace, model: TFMLPNet) -> TFMLPNet:
    """What is validated and kept: with ``--average`` the running mean of ``model`` as the checkpoint has it, else ``model``."""
    if not args.average:
        return model
    mean = copy.deepcopy(model)
    if (args.out / "checkpoint.pt").exists():
        state = torch.load(args.out / "checkpoint.pt", map_location=args.device, weights_only=True)
        mean.load_state_dict(state.get("mean", state["model"]))
    return mean


@torch.no_grad()
def average(mean: TFMLPNet, model: TFMLPNet, share: float, step: int) -> None:
    """Move ``mean`` on after a step: old weights keep ``share``, at the beginning less, for the start is soon left behind."""
    kept = min(share, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), 1 - kept)


def drawn(corpus: Corpus, args: argparse.Namespace, first: int, ordered: bool) -> tuple[Tensor, Tensor]:
    """Mixtures ``first`` to ``first + batch - 1``: ``[N, n]`` and references ``[N, 2, n]``; of unlike voices if ``ordered``."""
    length = int(args.seconds * RATE)
    change = Change(**{name: getattr(args, name) for name in ("speed", "tilt", "warp", "bend")})
    easy = partial(mixture, corpus, args.seed, length=length, snr=5.0, quietest=-12.0, contrast=1.3, change=change)
    levels = {"quietest": args.quietest, "loudest": getattr(args, "loudest", 0.0)}
    full = partial(mixture, corpus, args.seed, length=length, snr=args.snr, change=change, **levels)
    batch = [audible((easy if ordered else full)(first + i), args) for i in range(args.batch)]
    x, y = (torch.from_numpy(np.stack(part)).to(args.device) for part in zip(*batch, strict=True))
    return x, y


def audible(mixed: tuple[np.ndarray, np.ndarray], args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """A mixture and its references without what is above the network's bins."""
    if getattr(args, "bins", BINS) == BINS:
        return mixed
    pair = below(mixed[1], (args.bins - 0.5) * RATE / N_FFT)
    return pair.sum(0), pair


def losses(model: TFMLPNet, x: Tensor, y: Tensor, ordered: bool, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The loss, and its separation part: the mean negative SI-SDR in dB, free of order unless ``ordered``."""
    with torch.autocast(args.device, torch.bfloat16):
        estimate = model(x)
    estimate, y = estimate.float(), y if ordered else matched(estimate, y)
    # Above 30 dB nothing is to be gained; the clamp keeps easy mixtures from dominating.
    separation = -si_sdr(estimate, y).mean(-1).clamp(max=30.0).mean()
    return separation + others(estimate, y, args), separation


def clip_own(parameters: list[torch.nn.Parameter], clip: float) -> float:
    """Scale this process's gradient of ``parameters`` to a norm of at most ``clip``; one that is not finite counts as zero.

    Before the average, so that no process outweighs the others (with one mixture a process, no mixture). Returns the norm.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip).item()
    if not math.isfinite(norm):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
    return norm


def moving(model: torch.nn.Module) -> bool:
    """Whether any gradient differs from zero."""
    return any(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)


def descend(
    model: TFMLPNet, steppers: list[torch.optim.Optimizer], loss: Tensor, rate: float, clip: float, world: int
) -> float:
    """One step at learning rate ``rate`` (none where all gradients are zero); returns the norm of this process's gradient."""
    model.zero_grad()
    loss.backward()
    norm = clip_own(list(model.parameters()), clip)
    if world > 1:
        average_gradients(model, world)
    if not moving(model):
        return norm
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
    return norm


@torch.no_grad()
def wake(model: TFMLPNet, rate: float, least: float, world: int) -> None:
    """Raise the biases of hidden units along frequency that were above zero for less than a share ``least`` of the last pass.

    The noise of small batches drives such units below zero, and one that is never above it has no gradient to come back by.
    A unit that was not above zero at all rises by ``2 * rate``, twice what a steady gradient lowers it by with AdamW; one that
    the gradient keeps pushing down comes to rest at half of ``least``.
    """
    watched = [mixer for mixer in model.modules() if isinstance(mixer, Mixer) and mixer.watched]
    shares = torch.stack([mixer.share for mixer in watched])
    if world > 1:
        dist.all_reduce(shares)
        shares /= world
    for mixer, share in zip(watched, shares, strict=True):
        mixer.freq1.bias += 2 * rate * (1 - share / least).clamp(min=0)


@torch.no_grad()
def upright(model: TFMLPNet, x: Tensor, y: Tensor, ordered: bool, world: int) -> None:
    """Turn the sign of a speaker's output where it is reversed: its cosine with the reference below -0.3, all processes' mean.

    SI-SDR leaves the sign to chance, and once a network separates, the way to the other sign leads through silence.
    """
    estimate = model(x).float()
    y = y if ordered else matched(estimate, y)
    cosines = functional.cosine_similarity(estimate, y, -1).mean(0)
    if world > 1:
        dist.all_reduce(cosines)
        cosines /= world
    signs = torch.where(cosines < -0.3, -1.0, 1.0).repeat_interleave(2)
    model.decoder.weight *= signs[:, None, None]
    model.decoder.bias *= signs


def checkpoint(
    args: argparse.Namespace,
    model: TFMLPNet,
    mean: TFMLPNet,
    steppers: list[torch.optim.Optimizer],
    done: int,
    gain: float,
    loss: float,
) -> None:
    """Save the run and add its line to ``log.txt``."""
    save(args.out, model, mean, steppers, done, args.origin)
    line = f"{done} mixtures: validation SI-SDRi {gain:.2f} dB, {args.shown} {loss:.2f}"
    print(line, flush=True)
    with (args.out / "log.txt").open("a") as log:
        log.write(line + "\n")


def train(
    args: argparse.Namespace,
    rank: int = 0,
    world: int = 1,
    begin: Callable[[argparse.Namespace], Begun] = start,
    objective: Callable[[TFMLPNet, Tensor, Tensor, bool, argparse.Namespace], tuple[Tensor, Tensor]] = losses,
) -> list[float]:
    """The run from where it stands to its end; returns, of this process's every step, what the log shows in dB.

    ``begin`` gives network, optimizers and mixtures done; ``objective`` the loss and the part of it for the log, which is the
    separation loss here.
    """
    if args.awake != 0 and not 1e-6 <= args.awake < 1:
        raise InputError(f"--awake {args.awake:g}: not a share of the inputs; give 0 or a number below 1, such as 0.1")
    rounding = getattr(args, "streams_every", 1)  # every such batch
    if rounding < 1 or (rounding > 1 and not args.streams):
        raise InputError(f"--streams-every {rounding}: give 1 or more, and --streams with it")
    if not 0 <= args.average < 1:
        raise InputError(f"--average {args.average:g}: not a share; give 0 or a number below 1, such as 0.998")
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(args, rank, world)
    pairs = [audible(listed.mix(), args) for listed in read_list(args.valid)[:40]] if args.valid else []
    model, steppers, done = begin(args)
    for module in model.modules():
        if isinstance(module, Mixer):
            module.watched = args.awake > 0
    if world > 1:
        for parameter in model.parameters():
            dist.broadcast(parameter.data, 0)  # only gradients are shared from here on
    mean = averaged(args, model)
    grids = [total.grid for _, total in model.sums()] if rounding > 1 else []
    found: list[float] = []
    began, first = time.time(), done
    while done < args.mixtures:
        # First voices that differ, in a fixed order: without it the permutation-invariant loss rests on a plateau for long.
        ordered = done < args.ordered
        x, y = drawn(corpus, args, done + rank * args.batch, ordered)
        if rounding > 1:  # batches are counted over all processes, so that a run that goes on goes on the same
            let(model, grids if (done // args.batch + rank) % rounding == 0 else [None] * len(grids))
        loss, separation = objective(model, x, y, ordered, args)
        rate = learning_rate(done, args)
        norm = descend(model, steppers, loss, rate, args.clip, world)
        if args.awake:
            wake(model, rate, args.awake, world)
        found.append(separation.item())
        before, done = done, done + args.batch * world
        if objective is losses and before < args.warmup <= done:
            upright(model, x, y, ordered, world)
        if mean is not model:
            average(mean, model, args.average, before // (args.batch * world))
        if rank == 0 and done // 100 != before // 100:
            pace, recent = (done - first) / (time.time() - began), np.mean(found[-50:])
            where = f"{done}/{args.mixtures} mixtures"
            print(f"{where}  {args.shown} {recent:.2f}  norm {norm:.1f}  lr {rate:.2e}  {pace:.2f}/s", flush=True)
        if done // args.every != before // args.every or done >= args.mixtures:
            if rounding > 1:
                let(mean, grids)  # without --average it is the model, validated as it will be used
            gain = validate(mean, pairs, rank, world, args.device) if pairs else math.nan
            if rank == 0:
                checkpoint(args, model, mean, steppers, done, gain, float(np.mean(found[-250:])))
    return found


def distributed(args: argparse.Namespace, run: Callable[[argparse.Namespace, int, int], object]) -> int:
    """``run`` in this process of those that ``torchrun`` started, or alone."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if args.device == "cpu":
        torch.set_num_threads(1)
        hold_memory()
    if world > 1:
        dist.init_process_group("gloo")
        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    run(args, rank, world)
    if world > 1:
        dist.barrier()  # none leaves while another still reads from it
        dist.destroy_process_group()
        # Gloo's threads may hold tensors still; released while the interpreter goes down, they abort it, one run in twenty.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda: distributed(parser().parse_args(argv), train))


if __name__ == "__main__":
    sys.exit(main())
