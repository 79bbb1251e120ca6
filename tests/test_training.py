"""The training recipe on a tiny corpus of synthetic voices: mixtures, reproducibility, and the way to a container that runs.

What needs PyTorch is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from refimpl import convert, quantize
from refimpl.audio import read_pcm
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, parameters
from refimpl.presets import NAMES
from refimpl.session import load
from refimpl.weights_io import load_container
from tests.test_evaluate import PITCHES, voice, write_voices
from weights.train.data import BENT, Change, Corpus, _lengths, mixture, move_formants

RATE = 16000
SIZES = {"blocks": 1, "channels": 8, "hidden": 8, "mixers": 1}


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers of two utterances of 3 s."""
    return write_voices(tmp_path_factory.mktemp("voices") / "speech", 2, 3.0)


@pytest.fixture(scope="session")
def corpus(voices: Path) -> Corpus:
    return Corpus(voices, voices.parent / "cache")


# Mixtures


def test_corpus_hears_the_pitch(corpus: Corpus) -> None:
    assert corpus.names == sorted(PITCHES)
    for name, pitch in PITCHES.items():
        assert corpus.pitch[name] == pytest.approx(pitch, rel=0.12)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), k=st.integers(0, 10**6), others=st.lists(st.integers(0, 10**6), max_size=3))
def test_mixture_depends_on_seed_and_number_alone(corpus: Corpus, seed: int, k: int, others: list[int]) -> None:
    """Whatever was drawn before; another number or seed gives another mixture."""
    first, references = mixture(corpus, seed, k, 4000)
    for other in others:
        assert other == k or not np.array_equal(mixture(corpus, seed, other, 4000)[0], first)
    again, same = mixture(corpus, seed, k, 4000)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(same, references)
    assert not np.array_equal(mixture(corpus, seed, k + 1, 4000)[0], first)
    assert not np.array_equal(mixture(corpus, seed + 1, k, 4000)[0], first)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    snr=st.floats(0, 20),
    quietest=st.floats(-60, -1),
    contrast=st.sampled_from([1.0, 1.3, 2.0]),
    length=st.integers(2000, 60000),
    loudest=st.floats(0, 12),
)
def test_mixture_keeps_its_ranges(
    corpus: Corpus, seed: int, snr: float, quietest: float, contrast: float, length: int, loudest: float
) -> None:
    """SNR within ``snr``, peak from ``quietest`` to ``loudest``, the mixture is the sum; also where utterances are short."""
    x, pair = mixture(corpus, seed, 0, length, snr, quietest, contrast, loudest=loudest)
    assert x.shape == (length,) and pair.shape == (2, length) and x.dtype == pair.dtype == np.float32
    np.testing.assert_array_equal(x, pair.sum(0))
    energies = (pair.astype(np.float64) ** 2).sum(1)
    assert abs(10 * np.log10(energies[0] / energies[1])) <= snr + 1e-3
    assert quietest - 1e-3 <= 20 * np.log10(np.abs(x).max()) <= loudest + 1e-3


def test_ranges_are_filled(corpus: Corpus) -> None:
    """Level and ratio are spread over their ranges, not kept to a part of them."""
    for loudest in (0.0, 6.0):
        drawn = [mixture(corpus, 0, k, 8000, 10.0, -35.0, loudest=loudest) for k in range(200)]
        peaks = 20 * np.log10([np.abs(x).max() for x, _ in drawn])
        ratios = [10 * np.log10((y[0] ** 2).sum() / (y[1] ** 2).sum()) for _, y in drawn]
        assert np.histogram(peaks, 5, (-35, loudest))[0].min() >= 20
        assert np.histogram(ratios, 5, (-10, 10))[0].min() >= 20


def test_first_reference_is_the_higher_voice(corpus: Corpus) -> None:
    """Of voices an octave apart, which no speed perturbation brings together."""

    def pitch(x: np.ndarray) -> float:
        lags = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * len(x))) ** 2)[RATE // 400 : RATE // 60]
        return float(RATE / (RATE // 400 + lags.argmax()))

    pairs = [mixture(corpus, 0, k, 16000, contrast=2.0)[1] for k in range(60)]
    assert np.mean([pitch(first) > pitch(second) for first, second in pairs]) > 0.9


def vowel(pitch: float, formant: float) -> np.ndarray:
    """One second of harmonics of ``pitch`` under a resonance at ``formant`` Hz, 300 Hz to where it has fallen by 3 dB."""
    harmonics = np.arange(pitch, 7000, pitch)
    gains = 1 / np.hypot(1, (harmonics - formant) / 300)
    time = np.arange(RATE) / RATE
    return np.asarray(0.05 * (gains[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(0), np.float32)


def share_on_harmonics_and_centroid(x: np.ndarray, pitch: float) -> tuple[float, float]:
    """Of the first half second: the energy within 8 Hz of a harmonic, and the mean log frequency."""
    power = np.abs(np.fft.rfft(x[: RATE // 2] * np.hanning(RATE // 2)))[1:] ** 2
    power /= power.sum()
    at = 2.0 * np.arange(1, len(power) + 1)
    near = np.abs((at + pitch / 2) % pitch - pitch / 2) <= 8
    return float(power[near].sum()), float((np.log(at) * power).sum())


@settings(max_examples=25, deadline=None)
@given(pitch=st.floats(90, 140), formant=st.floats(1000, 2500), factor=st.floats(0.8, 1.25))
def test_formants_move_and_the_pitch_stays(pitch: float, formant: float, factor: float) -> None:
    """The centroid moves by the factor, as far as harmonics show it: within 12%."""
    x = vowel(pitch, formant)
    y = move_formants(x, factor)
    assert y.shape == x.shape and y.dtype == np.float32
    (_, before), (share, after) = (share_on_harmonics_and_centroid(v, pitch) for v in (x, y))
    assert share > 0.97
    assert after - before == pytest.approx(np.log(factor), abs=0.12)


@settings(max_examples=25)
@given(length=st.integers(1, 9000), seed=st.integers(0, 99))
def test_formants_that_do_not_move_change_nothing(length: int, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    np.testing.assert_allclose(move_formants(x, 1.0), x, atol=1e-6)


def test_warped_voices_are_others_of_the_same_mixture(corpus: Corpus) -> None:
    """Of either polarity; without ``warp`` a mixture is what it was."""
    plain, warped = (
        np.stack([corpus.cut(np.random.default_rng(k), "anna", 8000, Change(warp=w)) for k in range(20)]) for w in (1.0, 1.2)
    )
    np.testing.assert_array_equal(plain[3], corpus.cut(np.random.default_rng(3), "anna", 8000))
    likeness = (plain * warped).sum(1) / np.sqrt((plain**2).sum(1) * (warped**2).sum(1))
    assert 4 < (likeness > 0).sum() < 16 and np.abs(likeness).min() > 0.3 and np.abs(likeness).mean() < 0.999


@settings(max_examples=100)
@given(warp=st.floats(1, 2), bend=st.floats(1, BENT), seed=st.integers(0, 99))
def test_formants_keep_their_order(warp: float, bend: float, seed: int) -> None:
    """However bands move against each other; and none moves by more than both limits."""
    factors = Change(warp=warp, bend=bend).factors(np.random.default_rng(seed))
    assert (np.diff(np.arange(len(factors)) / factors) > 0).all()
    assert max(factors.max(), 1 / factors.min()) <= warp * bend * (1 + 1e-12)


@settings(max_examples=25)
@given(tilt=st.floats(0, 20), seed=st.integers(0, 99))
def test_filters_stay_within_their_limit(corpus: Corpus, tilt: float, seed: int) -> None:
    """And without a filter and a speed a cut is the corpus's own samples."""
    own, filtered = (corpus.cut(np.random.default_rng(seed), "anna", 4000, Change(speed=1, tilt=t)) for t in (0, tilt))
    pcm = np.concatenate([corpus.samples[start:stop] for start, stop in corpus.speakers["anna"]]).astype(np.float32) / 32768
    cuts = np.lib.stride_tricks.sliding_window_view(pcm, 4000)
    assert min(np.abs(cut - cut.mean() - own).max() for cut in cuts[np.abs(cuts[:, 0] - own[0] - cuts.mean(1)) < 1e-5]) < 1e-5
    before, after = (np.abs(np.fft.rfft(x))[1:] for x in (own, filtered))  # all but the mean, which a cut has none of
    assert np.all(after <= before * 10 ** (tilt / 20) + 1e-3) and np.all(after >= before * 10 ** (-tilt / 20) - 1e-3)


@settings(max_examples=300)
@given(length=st.integers(1, 90_000), available=st.integers(1, 200_000), most=st.floats(1, 2), share=st.floats(-1, 1))
def test_cuts_are_as_fast_as_asked_for(length: int, available: int, most: float, share: float) -> None:
    """Within 5% from 5,000 samples on, and never beyond the limit; whole wherever there is enough to take."""
    speed = most**share
    need, made = _lengths(length, available, speed, most)
    assert 1 <= need <= available and made >= 1
    assert made / most - 1 <= need <= made * most + 1
    if need < available * 0.9:
        assert made >= length
    if min(need, made) >= 5000:
        assert need / made == pytest.approx(speed, rel=0.055)


def test_speed_moves_a_tone_within_its_limit(tmp_path: Path) -> None:
    """Both ways, over most of what it may."""
    (tmp_path / "tone" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "tone" / "a" / "0.wav", 0.5 * np.sin(2 * np.pi * 500 * np.arange(3 * RATE) / RATE), RATE)
    tone = Corpus(tmp_path / "tone", tmp_path / "cache")
    cuts = (tone.cut(np.random.default_rng(k), "a", RATE, Change(speed=1.5)) for k in range(100))
    heard = np.array([np.abs(np.fft.rfft(cut)).argmax() for cut in cuts])  # bins of 1 Hz
    assert 332 <= heard.min() < 360 and 700 < heard.max() <= 751


@pytest.mark.parametrize(
    "limit", [{"warp": 0.8}, {"warp": 2.5}, {"warp": float("nan")}, {"speed": 0.5}, {"bend": 1.2}, {"tilt": -1}]
)
def test_voices_out_of_reach(limit: dict[str, float]) -> None:
    """One line that names the option."""
    with pytest.raises(InputError, match=f"give --{next(iter(limit))} of"):
        Change(**limit)


def test_corpora_without_a_pair(tmp_path: Path) -> None:
    """Refused with the reason instead of being searched for ever."""
    (tmp_path / "one" / "anna").mkdir(parents=True)
    soundfile.write(tmp_path / "one" / "anna" / "0.wav", voice(200, 1.0, 0), RATE)
    with pytest.raises(InputError, match="1 speaker"):
        mixture(Corpus(tmp_path / "one", tmp_path / "cache"), 0, 0, 8000)


def test_voices_too_alike(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights.train.data.DRAWS", 50)
    with pytest.raises(InputError, match="ratio of 10"):
        mixture(corpus, 0, 0, 8000, contrast=10.0)


# Training


@pytest.fixture
def training() -> Any:
    pytest.importorskip("torch")
    from weights.train import train

    return train


def arguments(train: Any, voices: Path, out: Path, **options: object) -> Any:
    """The command line of a small run, as ``train`` takes it."""
    given_options = {
        **SIZES,
        "corpus": voices,
        "cache": voices.parent / "cache",
        "out": out,
        "mixtures": 100,
        "batch": 2,
        "seconds": 0.5,
        "ordered": 40,
        "warmup": 8,
        "every": 20,
        "device": "cpu",
        **options,
    }
    argv = [text for name, value in given_options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return train.parser().parse_args(argv)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_same_seed_same_losses(training: Any, voices: Path, tmp_path: Path, optimizer: str) -> None:
    runs = [
        training.train(arguments(training, voices, tmp_path / str(n), optimizer=optimizer, seed=seed))
        for n, seed in enumerate((1, 1, 2))
    ]
    assert len(runs[0]) == 50 and np.isfinite(runs[0]).all()
    assert runs[0] == runs[1] and runs[0] != runs[2]
    weights = [(tmp_path / str(n) / "weights.safetensors").read_bytes() for n in range(3)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("reduced", [{}, {"bins": 40, "units": 16, "average": 0.9}])
def test_resumed_run_is_the_uninterrupted_one(
    training: Any, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduced: dict[str, float]
) -> None:
    """Cut off behind a checkpoint and between two, it goes on with the same losses to the same weights."""
    from weights.train.report import LINE

    whole = training.train(arguments(training, voices, tmp_path / "whole", awake=0.5, **reduced))
    assert whole != training.train(arguments(training, voices, tmp_path / "asleep", **reduced))
    lines = (tmp_path / "whole" / "log.txt").read_text().splitlines()
    assert len(lines) == 5 and all(LINE.fullmatch(line) for line in lines)
    args, descend = arguments(training, voices, tmp_path / "cut", awake=0.5, **reduced), training.descend
    steps = 0

    def stops(*inputs: Any) -> float:
        nonlocal steps
        steps += 1
        if steps in (11, 26):  # mixtures 21 and 22 (behind the checkpoint of 20); then five steps behind that of 40
            raise KeyboardInterrupt
        return float(descend(*inputs))

    monkeypatch.setattr(training, "descend", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.train(args)
    rest = training.train(args)
    assert rest == whole[20:]
    cut, uncut = (load_file(tmp_path / name / "weights.safetensors") for name in ("cut", "whole"))
    assert all(np.array_equal(cut[name], uncut[name]) for name in uncut)
    assert training.train(args) == []


@given(shapes=st.lists(st.sampled_from([(8, 8), (32, 8), (8, 24)]), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_muon_is_pytorch_s(shapes: list[tuple[int, int]], seed: int) -> None:
    """All matrices of a shape at once take the steps that they take one by one; one without a gradient takes none."""
    torch = pytest.importorskip("torch")
    from weights.train.train import Muon

    torch.manual_seed(seed)
    start = [torch.randn(shape) for shape in shapes]
    options = {"momentum": 0.95, "weight_decay": 1e-2, "adjust_lr_fn": "match_rms_adamw"}
    ends = []
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    for kind in (torch.optim.Muon, Muon):
        parameters = [torch.nn.Parameter(value.clone()) for value in (*start, torch.ones(8, 8))]
        stepper = kind(parameters, 0.02, **options)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=False):
                parameter.grad = gradient.clone()
            stepper.step()
        ends.append(parameters)
    flat = [torch.cat([p.detach().flatten() for p in end[:-1]]) for end in ends]
    moved = (flat[0] - torch.cat([value.flatten() for value in start])).norm()
    assert (flat[0] - flat[1]).norm() < 0.05 * moved  # BF16, summed in another order
    assert torch.equal(ends[1][-1], torch.ones(8, 8))


FAULTS = """
import resource, sys
import numpy as np
from weights.train.train import hold_memory
if sys.argv[1] == "held":
    assert hold_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
found = []
for _ in range(4):
    before = faults()
    for part in [np.ones(1 << 22, np.float32) for _ in range(4)]:
        del part
    found.append(faults() - before)
print(found[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is told")
def test_freed_memory_is_held(training: Any) -> None:
    """Four arrays of 16 MiB, freed and asked for again: fresh pages from the system unless they were held."""

    def faults(word: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout)

    assert faults("held") < 50 <= faults("returned")


def test_swap_is_the_transpose(training: Any) -> None:
    import torch

    from weights.train.model import Swap

    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = Swap.apply(x)
    assert torch.equal(y, x.transpose(-1, -2)) and y.is_contiguous()
    assert torch.autograd.gradcheck(Swap.apply, (x,))


def test_an_untrained_mixer_leaves_every_bin_to_itself(training: Any) -> None:
    """Random mixing along frequency would only be silenced, for good; a gradient for it is there from the first step."""
    import torch

    from weights.train.model import Mixer, TFMLPNet

    torch.manual_seed(0)
    mixer: Mixer = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1).blocks[0].mixers[0]
    x = torch.randn(1, 2, 129, 4)
    other = x.clone()
    other[:, :, 40] = 0
    changed = (mixer(x) - mixer(other)).abs().amax((0, 1, 3))
    assert changed.nonzero().flatten().tolist() == [40]
    mixer(x).square().sum().backward()
    assert (mixer.freq2.weight.grad != 0).float().mean() > 0.9


# A reduced network to start with


@given(bins=st.integers(16, 200), widening=st.sampled_from([1, 1.02, 13 / 12, 1.5]))
def test_bands_share_every_bin(bins: int, widening: float) -> None:
    """Weights of a bin's bands are positive and add up to one; no band lacks a bin; they widen upwards from one bin."""
    pytest.importorskip("torch")
    from weights.train.model import bands

    spread = bands(bins, widening).double().numpy()
    assert widening > 1 or np.array_equal(spread, np.eye(bins))
    assert (spread >= 0).all() and np.allclose(spread.sum(1), 1, atol=1e-6) and ((spread > 0).sum(1) <= 2).all()
    assert spread.max(0).min() > 0
    centres = (np.arange(bins)[:, None] * spread).sum(0) / spread.sum(0)
    assert centres[0] < 0.5 and (np.diff(centres) > 0.5).all() and np.linalg.matrix_rank(spread) == spread.shape[1]


def reduced_network(bins: int, units: int, seed: int = 0, **more: float) -> Any:
    """A reduced network of two blocks that mixes frequencies."""
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(seed)
    network = TFMLPNet(blocks=2, channels=4, hidden=3, mixers=2, bins=bins, units=units, **more)
    for name, parameter in network.named_parameters():
        if ".freq" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_reduced_network_is_an_ordinary_one(training: Any) -> None:
    """With all bins it is the same function; units that it lacks change nothing, but can learn."""
    import torch

    reduced = reduced_network(129, 20)
    ordinary = reduced.ordinary()
    assert reduced.reduced() and not ordinary.reduced() and ordinary.ordinary() is ordinary
    assert {name: tuple(value.shape) for name, value in ordinary.state_dict().items()} == parameters(
        Config(blocks=2, channels=4, hidden=3, mixers=2)
    )
    x = torch.randn(2, 3000) / 10
    torch.testing.assert_close(ordinary(x), reduced(x), atol=1e-5, rtol=1e-4)
    ordinary(x).square().sum().backward()
    gradient = ordinary.blocks[1].mixers[0].freq2.weight.grad
    assert (gradient[:, 20:] != 0).float().mean() > 0.9
    again = reduced.ordinary().state_dict()
    assert all(torch.equal(again[name], value) for name, value in ordinary.state_dict().items())


def test_bins_above_are_not_heard_and_are_told_what_the_last_is(training: Any) -> None:
    import torch

    reduced = reduced_network(40, 20)
    mixer, ordinary = reduced.blocks[0].mixers[0], reduced.ordinary().blocks[0].mixers[0]
    x = torch.randn(1, 2, 129, 4)
    torch.testing.assert_close(ordinary(x)[:, :, :40], mixer(x[:, :, :40]), atol=1e-5, rtol=1e-4)
    change = ordinary.freq2.weight.detach()
    assert torch.equal(change[40:], change[39].expand(89, -1)) and not ordinary.freq1.weight[:20, 40:].any()


@pytest.mark.parametrize("bins", [40, 129])
def test_reduced_network_takes_what_it_can_of_an_ordinary_one(training: Any, tmp_path: Path, bins: int) -> None:
    """From weights that it made itself it becomes itself, whatever it was before."""
    import torch

    reduced, other = reduced_network(bins, 20), reduced_network(bins, 20, seed=1)
    training.save_weights(tmp_path, reduced)
    training.load_weights(other, tmp_path / "weights.safetensors", "cpu")
    x = torch.randn(1, 3000) / 10
    torch.testing.assert_close(other(x), reduced(x), atol=1e-4, rtol=1e-3)
    finer = reduced_network(bins, 20, seed=2, widening=1)
    training.load_weights(finer, tmp_path / "weights.safetensors", "cpu")
    torch.testing.assert_close(finer(x), reduced(x), atol=1e-4, rtol=1e-3)  # what bands can say, single bins can


def test_the_bins_above_come_back(training: Any, tmp_path: Path) -> None:
    """Below for a while, then all bins again: what the weights began from is there still, where they have not moved."""
    import torch

    whole = reduced_network(129, 20, seed=3, widening=1)
    training.save_weights(tmp_path, whole)
    (tmp_path / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    below = reduced_network(40, 12, widening=1)
    training.load_weights(below, tmp_path / "whole.safetensors", "cpu")
    training.save_weights(tmp_path, below)
    back, again = reduced_network(129, 12, seed=1, widening=1), reduced_network(40, 12, seed=1, widening=1)
    files = tmp_path / "weights.safetensors", tmp_path / "whole.safetensors"
    training.load_weights(back, files[0], "cpu", above=files[1])
    training.load_weights(again, files[0], "cpu", above=files[1])
    x = torch.randn(1, 3000) / 10
    torch.testing.assert_close(again(x), below(x), atol=1e-4, rtol=1e-3)
    for mine, its in zip(back.blocks, whole.blocks, strict=True):
        for mixer, other in zip(mine.mixers, its.mixers, strict=True):
            w1, w2 = other.freq1.weight, other.freq2.weight
            kept = [u for u in range(20) if any(torch.allclose(w1[u], row, atol=1e-5) for row in mixer.freq1.weight)]
            assert len(kept) == 12
            torch.testing.assert_close(mixer.freq1.weight, w1[kept], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mixer.freq2.weight, w2[:, kept], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mixer.freq2.bias, other.freq2.bias, atol=1e-5, rtol=1e-4)


def test_units_added_below_hear_nothing_above_at_first(training: Any, tmp_path: Path) -> None:
    """More units than the weights had in use: the function stays; trained below, then with all bins, theirs above are zero."""
    import torch

    whole = reduced_network(129, 20, seed=3, widening=1)
    training.save_weights(tmp_path, whole)
    (tmp_path / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    below, same = reduced_network(40, 50, widening=1), reduced_network(40, 20, widening=1)
    for network in (below, same):
        training.load_weights(network, tmp_path / "whole.safetensors", "cpu")
    x = torch.randn(1, 3000) / 10
    torch.testing.assert_close(below(x), same(x), atol=1e-4, rtol=1e-3)
    for block in below.blocks:
        for mixer in block.mixers:
            torch.nn.init.normal_(mixer.freq2.weight[:, 20:], std=0.1)
            with torch.no_grad():
                mixer.freq2.weight[:, 30] = 0  # one that has learned to tell nothing, between others
    training.save_weights(tmp_path, below)
    back = reduced_network(129, 50, seed=1, widening=1)
    training.load_weights(back, tmp_path / "weights.safetensors", "cpu", above=tmp_path / "whole.safetensors")
    for mine, its, begun in zip(back.blocks, whole.blocks, below.blocks, strict=True):
        for mixer, other, trained in zip(mine.mixers, its.mixers, begun.mixers, strict=True):
            torch.testing.assert_close(mixer.freq1.weight[:20], other.freq1.weight, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mixer.freq1.weight[20:, :40], trained.freq1.weight[20:], atol=1e-5, rtol=1e-4)
            assert not mixer.freq1.weight[20:, 40:].any() and not mixer.freq2.weight[40:, 20:].any()
            assert mixer.freq2.weight[:40].any(0).sum() == 49


def test_reduced_network_hears_its_bins_only(training: Any, voices: Path, tmp_path: Path) -> None:
    args = arguments(training, voices, tmp_path, seconds=1, bins=40, units=16)
    x, y = training.drawn(training.open_corpus(args, 0, 1), args, 0, False)
    spectra = np.abs(np.fft.rfft(y.numpy()))  # a bin a Hz
    cut = 39.5 * 62.5
    assert spectra[..., int(cut) + 64 :].max() < 1e-3 and (spectra[..., int(cut - 200) : int(cut)].max(-1) > 1e-2).all()
    assert np.allclose(x, y.sum(1), atol=1e-6)


def test_reduced_recipe(training: Any, voices: Path, tmp_path: Path) -> None:
    """What a reduced start leaves behind is a network as the paper's; it goes on with more bins, then as that."""
    options = {"seconds": 1, "ordered": 0, "mixtures": 4}
    training.train(arguments(training, voices, tmp_path / "first", bins=40, units=16, **options))
    weights = tmp_path / "first" / "weights.safetensors"
    assert {name: value.shape for name, value in load_file(weights).items()} == parameters(Config(**SIZES))  # type: ignore[arg-type]
    for name, more in (("wider", {"units": 16}), ("last", {})):
        assert np.isfinite(training.train(arguments(training, voices, tmp_path / name, init=weights, **options, **more))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 15, "units": 8}, "--bins 15: give 16 to 129, which is all of them"),
        ({"bins": 130, "units": 8}, "--bins 130: give 16 to 129, which is all of them"),
        ({"bins": 64}, "--bins 64: fewer bins than 129 need --units too, such as 64"),
        ({"bins": 64, "units": 130}, "--units 130: give 1 to 129, as many as the paper has, or 0 for its matrices"),
        ({"units": -1}, "--units -1: give 1 to 129"),
        ({"widening": 1.0}, "--widening 1: is of bands, which --units makes; give that too"),
        ({"above": Path("a")}, "--above: is for bins that --init lacks; give --init too"),
        ({"units": 64, "widening": 0.9}, "--widening 0.9: give 1, where every bin is a band of its own, to 2"),
        ({"units": 64, "compression": 2}, "--units 64: hears bands as it is; give --compression 1 with it"),
    ],
)
def test_no_such_reduced_network(training: Any, voices: Path, tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        training.train(arguments(training, voices, tmp_path / "run", **options))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def watched_network() -> Any:
    """A network of one mixer after a pass in training; of its hidden units along frequency 40 were never above zero."""
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(0)
    network = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1)
    mixer = network.blocks[0].mixers[0]
    mixer.watched = True
    with torch.no_grad():
        mixer.freq1.bias[:40] = -1e3
        mixer.freq1.bias[40:] = 1e-3
    network(torch.randn(2, 4000) / 10)
    return network


def test_units_are_kept_awake(training: Any) -> None:
    """Those below the share rise, and the more the fewer of their inputs they answer to; the others stay."""
    import torch

    network = watched_network()
    mixer = network.blocks[0].mixers[0]
    share, before = mixer.share.clone(), mixer.freq1.bias.detach().clone()
    assert not share[:40].any() and (share[40:] > 0.1).all()
    least = share[40:].quantile(0.5).item()
    training.wake(network, 0.01, least, 1)
    rise = mixer.freq1.bias.detach() - before
    torch.testing.assert_close(rise[:40], torch.full((40,), 0.02), atol=1e-4, rtol=0)
    assert torch.equal(rise > 0, share < least)
    assert not rise[share >= least].any() and rise.max() <= 0.0201
    # Gone on with, all come back, and then none rises; only passes in training are watched.
    x = torch.randn(2, 4000) / 10
    for _ in range(60):
        network(x)
        training.wake(network, 50.0, 0.1, 1)
    kept = mixer.share
    assert (kept > 0.1).all()
    for watched, mode in ((False, True), (True, False)):
        mixer.watched = watched
        network.train(mode)(x)
        assert mixer.share is kept


def test_share_is_of_every_eighth_frame(training: Any) -> None:
    import torch

    network = watched_network()
    mixer, found = network.blocks[0].mixers[0], []
    mixer.freq1.register_forward_hook(lambda layer, inputs, output: found.append(output))
    network(torch.randn(2, 4000) / 10)
    wanted = [np.mean(found[0].detach().numpy()[:, ::8, :, unit] > 0) for unit in range(129)]
    np.testing.assert_allclose(mixer.share.numpy(), wanted, atol=1e-6)


def test_no_process_outweighs_another(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the processes share is clipped already; a gradient that is not finite counts as zero and changes nothing alone."""
    import torch

    network, sizes = watched_network(), []
    steppers = training.optimizers(network, "muon", 1e-3)

    def measured(model: Any, world: int) -> None:
        sizes.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))

    monkeypatch.setattr(training, "average_gradients", measured)
    x = torch.randn(1, 4000) / 10
    for gain in (1e4, 1e-9, float("nan")):
        before = [p.detach().clone() for p in network.parameters()]
        norm = training.descend(network, steppers, gain * network(x).square().sum(), 1e-3, 1.0, 2)
        moved = any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        assert moved == np.isfinite(norm)
    assert sizes[0] == pytest.approx(1.0, rel=1e-3) and 0 < sizes[1] < 1e-3 and sizes[2] == 0


def two_voices(seconds: float = 0.5) -> Any:
    """References ``[1, 2, n]`` of two synthetic voices."""
    import torch

    return torch.from_numpy(np.stack([voice(pitch, seconds, n) for n, pitch in enumerate((110, 210))])[None]).float()


@settings(max_examples=25, deadline=None)
@given(gains=st.tuples(*[st.floats(0.2, 5.0)] * 2), signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 2), crossed=st.booleans())
def test_order_of_speakers_is_the_references(gains: tuple[float, float], signs: tuple[float, float], crossed: bool) -> None:
    """Whatever the outputs' level and polarity: the references come in the order that the outputs have."""
    train = pytest.importorskip("weights.train.train", exc_type=ImportError)
    import torch

    wanted = two_voices()
    given_order = wanted.flip(1) if crossed else wanted
    scale = torch.tensor([a * b for a, b in zip(gains, signs, strict=True)])[None, :, None]
    found = scale * given_order + 0.1 * given_order.flip(1)
    assert torch.equal(train.matched(found, wanted), given_order)
    assert train.si_sdr(found, given_order).mean() == pytest.approx(train.pit_si_sdr(found, wanted).item(), abs=1e-4)


def test_kept_weights_are_the_average(training: Any, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's weights count, the last most: (1 - a) a^(steps ago), and less of the past at first."""
    import torch

    seen: list[dict[str, Any]] = []
    average = training.average

    def watched(mean: Any, model: Any, share: float, step: int) -> None:
        if not seen:
            seen.append({name: value.clone() for name, value in mean.state_dict().items()})
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        assert step == len(seen) - 2
        average(mean, model, share, step)

    monkeypatch.setattr(training, "average", watched)
    training.train(arguments(training, voices, tmp_path, average=0.7, mixtures=100))
    mean = seen[0]
    for step, weights in enumerate(seen[1:]):
        kept = min(0.7, (step + 1) / (step + 10))
        mean = {name: kept * value + (1 - kept) * weights[name] for name, value in mean.items()}
    found = load_file(tmp_path / "weights.safetensors")
    for name, value in mean.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value, atol=1e-5, rtol=1e-4)
    assert any(np.abs(found[name] - value.numpy()).max() > 1e-4 for name, value in seen[-1].items())


@pytest.mark.parametrize("share", ["1", "-0.5", "nan"])
def test_average_is_a_share(
    training: Any, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    argv = ["--corpus", str(voices), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--average", share]
    assert training.main(argv) == 2
    assert (
        capsys.readouterr().err
        == f"error: --average {float(share):g}: not a share; give 0 or a number below 1, such as 0.998\n"
    )


@pytest.mark.parametrize("sizes", [{}, {"compression": 2}, {"bins": 40, "units": 8}])
def test_more_blocks_start_as_fewer(training: Any, tmp_path: Path, sizes: dict[str, int]) -> None:
    """The blocks behind those of the weights change nothing, and learn from the first step."""
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(0)
    few = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1, **sizes)
    more = TFMLPNet(blocks=3, channels=4, hidden=3, mixers=1, **sizes)
    training.save_weights(tmp_path, few)
    weights = tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read as the weights of such a network"):
        training.load_weights(more, weights, "cpu")
    training.load_weights(more, weights, "cpu", grow=True)
    x = torch.randn(1, 3000) / 10
    torch.testing.assert_close(more(x), few(x), atol=1e-5, rtol=1e-4)
    more(x).square().sum().backward()
    assert all(block.inter_linear.weight.grad.any() and block.intra_linear.bias.grad.any() for block in more.blocks[1:])
    training.save_weights(tmp_path, more)
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read as the weights of such a network"):
        training.load_weights(few, weights, "cpu", grow=True)


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("ordered", [True, False])
def test_reversed_outputs_are_turned(training: Any, signs: tuple[int, int], ordered: bool) -> None:
    """Once, behind the warm-up; what is the right way up, or hardly like its reference, stays."""
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(0)
    network = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1)
    x = torch.randn(2, 3000)
    with torch.no_grad():
        y = network(x) * torch.tensor(signs)[:, None]
        training.upright(network, x, y + y.square().mean().sqrt() * torch.randn(y.shape), ordered, 1)
        torch.testing.assert_close(network(x), y)
        training.upright(network, x, torch.randn(y.shape), True, 1)
        torch.testing.assert_close(network(x), y)


def test_outputs_are_turned_once(training: Any, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the warm-up of 8 mixtures, two a step, whether or not the run is cut off behind it."""
    turned: list[int] = []
    descend, steps = training.descend, 0

    def counted(*inputs: Any) -> float:
        nonlocal steps
        steps += 1
        return float(descend(*inputs))

    monkeypatch.setattr(training, "descend", counted)
    monkeypatch.setattr(training, "upright", lambda *inputs: turned.append(steps))
    training.train(arguments(training, voices, tmp_path, mixtures=20))
    training.train(arguments(training, voices, tmp_path, mixtures=40))
    assert turned == [4] and steps == 20


def test_spectral_error_knows_level_and_polarity(training: Any) -> None:
    """SI-SDR leaves both free, and a network trained on it alone gave one voice with its sign reversed."""
    import torch

    wanted = two_voices()
    error = training.spectral_error
    assert error(wanted, wanted).item() == pytest.approx(-80, abs=0.1)
    noisy = wanted + 1e-4 * wanted.abs().max() * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    for worse in (-noisy, 2 * noisy, 0.5 * noisy, noisy.flip(1), noisy * torch.tensor([1.0, -1.0])[None, :, None]):
        assert error(worse, wanted).item() > error(noisy, wanted).item() + 0.5
    assert error(torch.zeros_like(wanted), wanted).item() == pytest.approx(0.0, abs=0.5)
    louder = error(10 * noisy, 10 * wanted).item()
    assert louder == pytest.approx(error(noisy, wanted).item(), abs=0.1)


def test_spectral_error_is_the_formula(training: Any) -> None:
    """Against NumPy in double precision, frame by frame."""
    import torch

    wanted = two_voices(0.25)
    found = 0.6 * wanted + 0.4 * wanted.flip(1)

    def spectra(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.pad(x.astype(np.float64), 256, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::128]
        plain = np.fft.rfft(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)))
        power = np.abs(plain) ** 2 + 1e-8
        return plain * power**-0.35, power**0.15

    parts = []
    for e, r in zip(found[0].numpy(), wanted[0].numpy(), strict=True):
        (a, b), (c, d) = spectra(e), spectra(r)
        parts.append(10 * np.log10(0.5 * ((np.abs(a - c) ** 2).sum() + ((b - d) ** 2).sum()) / (np.abs(c) ** 2).sum()))
    assert training.spectral_error(found, wanted).item() == pytest.approx(np.mean(parts), abs=1e-3)
    short = found[..., :600].double().requires_grad_()
    assert torch.autograd.gradcheck(training.spectral_error, (short, wanted[..., :600].double()), fast_mode=True)


def test_errors_beside_separation_count_by_their_weights(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is linear in both weights, and a spectral error of no weight is not even computed."""
    wanted = two_voices(0.25)
    found = 0.6 * wanted + 0.3 * wanted.flip(1)

    def others(level: float, spectral: float) -> float:
        return training.others(found, wanted, argparse.Namespace(level=level, spectral=spectral)).item()

    level, spectral = others(1, 0), others(0, 1)
    assert level == training.level_error(found, wanted).mean().item() > 0.1
    assert spectral == training.spectral_error(found, wanted).mean().item() < -0.1
    assert others(0.5, 0.25) == pytest.approx(0.5 * level + 0.25 * spectral, rel=1e-6)
    monkeypatch.setattr(training, "spectral_error", lambda *inputs: pytest.fail("computed"))
    assert others(1, 0) == level


def test_learning_rate(training: Any, voices: Path, tmp_path: Path) -> None:
    """Up over the warm-up, level, then straight down to zero over the last share."""
    args = arguments(training, voices, tmp_path, mixtures=1000, warmup=100, decay=0.4, lr=1e-3)
    found = [training.learning_rate(done, args) for done in (0, 49, 99, 100, 600, 800, 1000)]
    assert found == pytest.approx([1e-5, 5e-4, 1e-3, 1e-3, 1e-3, 5e-4, 0.0])


def test_default_is_the_paper_s_network(training: Any, voices: Path, tmp_path: Path) -> None:
    args = training.parser().parse_args(["--corpus", str(voices), "--out", str(tmp_path)])
    model, _, done = training.start(args)
    assert done == 0
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == parameters(Config())


def test_bad_input_is_one_line(training: Any, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--corpus", str(voices), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--valid", "no.csv"]
    assert training.main(argv) == 2
    assert (
        capsys.readouterr().err
        == "error: no.csv: cannot read this list of mixtures (No such file or directory); give a CSV file\n"
    )


def test_recipe_end_to_end(training: Any, voices: Path, tmp_path: Path) -> None:
    """Train, convert, calibrate, run: the loss falls, every preset loads to the same bits, fp32 is the trained network."""
    import torch

    from weights.train import mixtures
    from weights.train.model import TFMLPNet

    losses = training.train(
        arguments(training, voices, tmp_path / "run", mixtures=240, ordered=240, seconds=1, lr=5e-3, every=120)
    )
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 1.0
    state, floating, done = (
        tmp_path / "run" / "weights.safetensors",
        tmp_path / "float.safetensors",
        tmp_path / "all.safetensors",
    )
    assert convert.main([str(state), "-o", str(floating)]) == 0
    make = ["--corpus", str(voices), "--cache", str(voices.parent / "cache"), "--out", str(tmp_path / "mixed")]
    make_mixtures(mixtures, [*make, "--count", "3", "--seconds", "1"])
    assert quantize.main([str(floating), "--calibrate", str(tmp_path / "mixed"), "-o", str(done)]) == 0
    assert load_container(done).config == Config(**SIZES)  # type: ignore[arg-type]
    pcm = read_pcm(tmp_path / "mixed" / "mixture000.wav")
    for preset in NAMES:
        first, second = (load(done, preset).separate(pcm) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (2, len(pcm)) and first.any(1).all()
    network = TFMLPNet(**SIZES).eval()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(state).items()})
    with torch.no_grad():
        theirs = network(torch.from_numpy(pcm / np.float32(32768))[None])[0].numpy()
    mine = load(done, "fp32").trace(pcm, ["overlap_add"])["overlap_add"]
    mine = mine.transpose(1, 0, 2).reshape(2, -1)[:, : len(pcm)]
    assert np.sqrt(((mine - theirs) ** 2).sum() / (theirs**2).sum()) < 1e-4
    # The same mixtures and, as the rate is zero, weights: what residuals add up as it is, rounded, every second batch rounded.
    found = {}
    for name, more in (("plain", {}), ("rounded", {"streams": done}), ("half", {"streams": done, "streams_every": 2})):
        options = {"init": state, "mixtures": 4, "ordered": 0, "every": 8, "lr": 0.0, "batch": 1, **more}
        found[name] = training.train(arguments(training, voices, tmp_path / name, **options))
    plain, rounded, half = (np.array(found[name]) for name in ("plain", "rounded", "half"))
    change = abs(rounded - plain)
    assert np.isfinite(change).all() and change.min() > 0 and change.mean() < 4
    assert half.tolist() == [rounded[0], plain[1], rounded[2], plain[3]]
    with pytest.raises(InputError, match="--streams-every 2: give 1 or more, and --streams with it"):
        training.train(arguments(training, voices, tmp_path / "none", streams_every=2))
    none = ["--corpus", str(voices), "--out", str(tmp_path / "none"), "--streams", str(done), "--preset", "stream16"]
    assert training.main([*none, *(f"--{name}={value}" for name, value in SIZES.items())]) == 2


def make_mixtures(mixtures: Any, argv: list[str]) -> None:
    """The command line of ``weights.train.mixtures``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mixtures", *argv])
        mixtures.main()


# A network of compressed frequencies from a trained one


@pytest.fixture
def shrinking(training: Any) -> Any:
    from weights.train import shrink

    return shrink


@pytest.fixture
def teacher(training: Any, voices: Path, tmp_path: Path) -> Path:
    """The weights of a few steps of training, but mixing frequencies as after many."""
    training.train(arguments(training, voices, tmp_path / "teacher", mixtures=40))
    path = tmp_path / "teacher" / "weights.safetensors"
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, 0.1, value.shape).astype(np.float32) if ".freq2.weight" in name else value
        for name, value in load_file(path).items()
    }
    save_file(weights, path)
    return path


@pytest.mark.parametrize("compression", [2, 3, 7])
def test_groups_start_as_the_teacher(shrinking: Any, compression: int) -> None:
    """Where the teacher treats the bins of a group alike and uses no more hidden units than are kept, nothing is lost."""
    import torch

    from weights.train.model import BINS, Block

    torch.manual_seed(compression)
    taught, block = Block(BINS, 6, 5, 2, 1), Block(BINS, 6, 5, 2, compression)
    inner = BINS // compression
    covered = compression * inner
    with torch.no_grad():
        for mixer in taught.mixers:
            mixer.freq2.weight.normal_(0, 0.1)
            mixer.freq2.bias.normal_()
            mixer.freq1.weight[:, covered:] = 0
            mixer.freq2.weight[:, torch.randperm(BINS)[inner:]] = 0  # hidden units that nothing reads
            mixer.freq2.weight[:covered] = mixer.freq2.weight[:covered:compression].repeat_interleave(compression, 0)
            mixer.freq2.bias[:covered] = mixer.freq2.bias[:covered:compression].repeat_interleave(compression, 0)
        shrinking.group(block, taught, 8.0)
        x = torch.randn(2, 3, BINS, 6).clamp(-7, 7)
        x[:, :, :covered] = x[:, :, :covered:compression].repeat_interleave(compression, 2)
        wanted, found = taught.spectral(x), block.spectral(x)
        assert (found - wanted)[:, :, :covered].abs().max() < 1e-4 * wanted.abs().max()
        assert not found[:, :, covered:].any()
        h = torch.randn(2, 3, BINS, 6)
        assert torch.equal(taught.inter_linear(taught.recur(h)), block.inter_linear(block.recur(h)))


def shrink_arguments(shrinking: Any, teacher: Path, voices: Path, out: Path, **options: object) -> Any:
    given_options = {
        **SIZES,
        "teacher": teacher,
        "corpus": voices,
        "cache": voices.parent / "cache",
        "out": out,
        "mixtures": 80,
        "batch": 2,
        "seconds": 0.5,
        "warmup": 8,
        "every": 40,
        "device": "cpu",
        **options,
    }
    return shrinking.parser().parse_args([text for name, value in given_options.items() for text in (f"--{name}", str(value))])


def test_compressed_network_learns_from_the_full_one(
    shrinking: Any, training: Any, teacher: Path, voices: Path, tmp_path: Path
) -> None:
    """The stages approach the teacher's, the rest stays the teacher's; the result trains on, converts and resumes."""
    args = shrink_arguments(shrinking, teacher, voices, tmp_path / "whole", lr=5e-3)
    found = shrinking.shrink(args)
    assert len(found) == 40
    model, full_size = training.start(args)[0], shrinking.teacher_of(args)
    x = training.drawn(training.open_corpus(args, 0, 1), args, 1000, False)[0]
    trained = shrinking.imitation(model, full_size, x, "cpu").item()
    shrinking.grouped(model, full_size, x)
    assert trained < shrinking.imitation(model, full_size, x, "cpu").item() - 0.3
    weights, full = (load_file(path) for path in (tmp_path / "whole" / "weights.safetensors", teacher))
    for name in full:
        if not any(part in name for part in ("mixers", "intra_linear")):
            np.testing.assert_array_equal(weights[name], full[name], err_msg=name)
    args = shrink_arguments(shrinking, teacher, voices, tmp_path / "cut", lr=5e-3)
    descend, steps = training.descend, 0

    def stops(*inputs: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 25:
            raise KeyboardInterrupt
        return float(descend(*inputs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "descend", stops)
        with pytest.raises(KeyboardInterrupt):
            shrinking.shrink(args)
    assert shrinking.shrink(args) == found[20:]
    state = tmp_path / "cut" / "weights.safetensors"
    assert all(np.array_equal(value, weights[name]) for name, value in load_file(state).items())
    further = training.train(
        arguments(training, voices, tmp_path / "further", mixtures=8, compression=2, init=state, every=8, ordered=0)
    )
    assert len(further) == 4
    assert convert.main([str(tmp_path / "further" / "weights.safetensors"), "-o", str(tmp_path / "float.safetensors")]) == 0
    assert load_container(tmp_path / "float.safetensors").config == Config(**SIZES, compression=2)  # type: ignore[arg-type]


def test_headroom_is_that_of_full_scale(shrinking: Any, training: Any, teacher: Path, voices: Path, tmp_path: Path) -> None:
    """However quiet the mixtures are that it is taken from."""
    args = shrink_arguments(shrinking, teacher, voices, tmp_path)
    full_size, found = shrinking.teacher_of(args), []
    x = training.drawn(training.open_corpus(args, 0, 1), args, 0, False)[0]
    for gain in (1.0, 2.0**-6):
        model = training.network(args)
        shrinking.grouped(model, full_size, gain * x)
        found.append([block.compress.bias.detach().numpy().copy() for block in model.blocks])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.min(found) > 0


AVERAGES = """
import sys
import torch
from weights.train import train
from weights.train.model import TFMLPNet

def run(args, rank, world):
    torch.manual_seed(rank)  # processes that start apart
    model = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1)
    model.encoder.requires_grad_(False)
    begun = []

    def begin(args):
        begun.append(model.decoder.weight.detach().clone())
        return model, [torch.optim.SGD(model.parameters(), lr=1.0)], 0

    def objective(model, x, y, ordered, args):
        loss = sum((rank + 1.0) * p.sum() for p in model.parameters() if p.requires_grad)
        return loss, loss

    train.train(args, rank, world, begin, objective)
    starts = [torch.zeros_like(begun[0]) for _ in range(world)]
    torch.distributed.all_gather(starts, begun[0])
    assert not torch.equal(*starts)
    wanted = starts[0] - 1.5 * args.lr  # of ranks 1 and 2
    torch.testing.assert_close(model.decoder.weight.detach(), wanted)

sys.exit(train.distributed(train.parser().parse_args(), run))
"""


def run_two(script: str, voices: Path, tmp_path: Path, **options: object) -> None:
    """``script`` in two processes, with the options of a training run of one step."""
    (tmp_path / "script.py").write_text(script)
    args = {**SIZES, "corpus": voices, "cache": voices.parent / "cache", "out": tmp_path / "run", "mixtures": 2, "batch": 1}
    args |= {"seconds": 0.5, "ordered": 0, "warmup": 1, "decay": 1e-9, "lr": 0.5, "device": "cpu", **options}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "script.py")]
    command += [text for name, value in args.items() for text in (f"--{name}", str(value))]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)}, cwd=root
    )
    assert done.returncode == 0, done.stderr


def test_dead_units_of_the_teacher_are_not_inherited(
    shrinking: Any, reviving: Any, training: Any, teacher: Path, voices: Path, tmp_path: Path
) -> None:
    """They start anew, active on some inputs and idle on others in spite of the offset that all values carry."""
    args = shrink_arguments(shrinking, teacher, voices, tmp_path)
    full_size, model = shrinking.teacher_of(args), training.network(args)
    full_size.blocks[0].mixers[0].freq1.bias[:] = -1e3
    x = training.drawn(training.open_corpus(args, 0, 1), args, 0, False)[0]
    shrinking.grouped(model, full_size, x)
    share = reviving.activity(model, x / x.abs().amax(-1, keepdim=True))["blocks.0.mixers.0.freq1"]
    assert ((share > 0.02) & (share < 0.98)).float().mean() > 0.9
    assert not model.blocks[0].mixers[0].freq2.weight.any()


def test_processes_start_alike_and_share_their_gradients(training: Any, voices: Path, tmp_path: Path) -> None:
    """Two processes, one step of plain descent: the first one's weights less the mean gradient; frozen parameters stay."""
    run_two(AVERAGES, voices, tmp_path, clip=1e9)


SHARES = """
import sys
import torch
from weights.train import train
from weights.train.model import TFMLPNet

def run(args, rank, world):
    torch.manual_seed(0)
    model = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1)
    mixer, start = model.blocks[0].mixers[0], {}

    def begin(args):
        start.update({name: value.detach().clone() for name, value in model.named_parameters()})
        return model, [torch.optim.SGD(model.parameters(), lr=1.0)], 0

    def objective(model, x, y, ordered, args):
        assert mixer.watched
        mixer.share = torch.tensor([0.0, 0.06, 0.3]).repeat(43) * rank  # as the second process alone has active units
        loss = sum(p.sum() for p in model.parameters()) * (1.0 if rank == 0 else float("nan"))
        return loss, loss

    train.train(args, rank, world, begin, objective)
    step = args.lr * args.clip / sum(p.numel() for p in model.parameters()) ** 0.5 / world
    for name, value in model.named_parameters():
        rise = 2 * args.lr * torch.tensor([1.0, 0.7, 0.0]).repeat(43) if name.endswith("freq1.bias") else 0.0
        torch.testing.assert_close(value.detach(), start[name] - step + rise)
        others = [torch.zeros_like(value) for _ in range(world)]
        torch.distributed.all_gather(others, value.detach())
        assert torch.equal(*others), name

sys.exit(train.distributed(train.parser().parse_args(), run))
"""


def test_processes_wake_the_same_units(training: Any, voices: Path, tmp_path: Path) -> None:
    """Two processes, shares that differ, one gradient clipped and one not finite: the same parameters, of the mean of both."""
    run_two(SHARES, voices, tmp_path, clip=2.0, awake=0.1)


def test_a_run_is_not_taken_for_another(
    shrinking: Any, training: Any, teacher: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder goes on only as what it began as: the same command, teacher and sizes."""
    argv = ["--corpus", str(voices), "--cache", str(voices.parent / "cache"), "--out", str(teacher.parent)]
    argv += [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
    for main, more, words in (
        (shrinking.main, ["--teacher", str(teacher)], "holds a run of weights.train.train, not of weights.train.shrink from"),
        (training.main, ["--compression", "2"], "holds a run of a network of other sizes"),
    ):
        before = {path.name: path.read_bytes() for path in teacher.parent.iterdir()}
        assert main([*argv, *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
        assert {path.name: path.read_bytes() for path in teacher.parent.iterdir()} == before


def test_a_container_of_another_framing_is_no_start(
    training: Any, voices: Path, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its shapes fit, but the network would not be the one that was trained."""
    argv = ["--corpus", str(voices), "--cache", str(voices.parent / "cache"), "--out", str(tmp_path / "run")]
    argv += [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
    assert convert.main([str(teacher), "-o", str(tmp_path / "rect.safetensors"), "--window", "rect"]) == 0
    assert training.main([*argv, "--init", str(tmp_path / "rect.safetensors")]) == 2
    assert "rect.safetensors: has another window, padding or order" in capsys.readouterr().err


def test_awake_is_a_share(training: Any, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("nan", "-0.1", "1", "1e-50"):
        assert training.main(["--corpus", str(voices), "--out", str(tmp_path / "out"), "--awake", text]) == 2
        assert "not a share of the inputs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shrink_refuses(
    shrinking: Any, teacher: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, no run begun."""
    (tmp_path / "damaged.safetensors").write_bytes(teacher.read_bytes()[:-10])
    argv = ["--corpus", str(voices), "--cache", str(voices.parent / "cache"), "--out", str(tmp_path / "out")]
    small = [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
    for path, more, words in (
        (tmp_path / "no.safetensors", small, "no.safetensors: cannot be read as the weights of such a network"),
        (tmp_path / "damaged.safetensors", small, "damaged.safetensors: cannot be read as the weights of such a network"),
        (teacher, [], "weights.safetensors: cannot be read as the weights of such a network (Error(s) in loading"),
        (teacher, [*small, "--compression", "1"], "--compression 1: nothing to compress"),
    ):
        assert shrinking.main([*argv, "--teacher", str(path), *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Dead units


@pytest.fixture
def reviving(training: Any) -> Any:
    from weights.train import revive

    return revive


def test_activity_is_the_share_above_zero(reviving: Any) -> None:
    """Of every hidden unit of every mixer, counted on the layer's own outputs."""
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(0)
    network = TFMLPNet(blocks=2, channels=4, hidden=3, mixers=2)
    x = 0.1 * torch.randn(1, 2000)
    outputs: list[Any] = []
    layers = [getattr(mixer, name) for block in network.blocks for mixer in block.mixers for name in ("freq1", "chan1")]
    for layer in layers:
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output.detach().numpy()))
    found = reviving.activity(network, x)
    assert len(found) == len(outputs) == 8
    for share, output in zip(found.values(), outputs, strict=True):
        np.testing.assert_allclose(share.numpy(), (output > 0).reshape(-1, output.shape[-1]).mean(0), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(dead=st.sets(st.integers(0, 128), min_size=1, max_size=128), seed=st.integers(0, 2**31 - 1))
def test_dead_units_revive_without_a_trace(dead: set[int], seed: int) -> None:
    """Units that were never active: the same output to the bit, as both contribute nothing; but now with a gradient."""
    revive = pytest.importorskip("weights.train.revive", exc_type=ImportError)
    import torch

    from weights.train.model import TFMLPNet

    torch.manual_seed(seed)
    network, units = TFMLPNet(blocks=1, channels=4, hidden=3, mixers=1), sorted(dead)
    mixer = network.blocks[0].mixers[0]
    with torch.no_grad():
        mixer.freq1.bias[units] = -1e6
        mixer.freq2.weight.normal_(0, 0.1)
    x = 0.1 * torch.randn(1, 1000)
    before = network(x)
    before.square().sum().backward()
    assert not mixer.freq2.weight.grad[:, units].any()
    shares = revive.activity(network, x)
    live = shares["blocks.0.mixers.0.freq1"] >= 1e-3
    rows, columns = mixer.freq1.weight[live].clone(), mixer.freq2.weight[:, live].clone()
    fed = {"blocks.0.mixers.0.freq1": shares["blocks.0.mixers.0.freq1"]}  # a unit along channels may be active for one frame
    assert revive.revive(network, fed, 1e-3) == int((~live).sum()) >= len(units)
    assert torch.equal(mixer.freq1.weight[live], rows) and torch.equal(mixer.freq2.weight[:, live], columns)
    assert not mixer.freq1.bias[~live].any() and not mixer.freq2.weight[:, ~live].any()
    bound = 1.7 / 129**0.5  # of an untrained network's rows
    assert 0.9 * bound < mixer.freq1.weight[~live].abs().max() <= bound
    network.zero_grad()
    after = network(x)
    assert torch.equal(after, before)
    after.square().sum().backward()
    assert mixer.freq2.weight.grad[:, units].any(0).float().mean() > 0.9


def test_revive_command(
    reviving: Any, training: Any, teacher: Path, voices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is below a share of 0, everything below one above 1; what it wrote trains on; a run is not overwritten."""
    argv = ["--corpus", str(voices), "--cache", str(voices.parent / "cache"), "--batch", "2", "--seconds", "0.5"]
    argv += [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]
    before = load_file(teacher)
    for share, count in ("0", 0), ("1.1", 129 + 8):
        out = tmp_path / share
        assert reviving.main([*argv, "--init", str(teacher), "--active", share, "--out", str(out)]) == 0
        assert f"\n{count} units start anew\n" in capsys.readouterr().out
        after = load_file(out / "weights.safetensors")
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        inner = {f"blocks.0.mixers.0.{layer}" for layer in ("freq1.weight", "freq1.bias", "freq2.weight")}
        inner |= {f"blocks.0.mixers.0.{layer}" for layer in ("chan1.weight", "chan1.bias", "chan2.weight")}
        assert changed == (inner if count else set())
        assert sorted(path.name for path in out.iterdir()) == ["weights.safetensors"]
    init = tmp_path / "1.1" / "weights.safetensors"
    assert len(training.train(arguments(training, voices, tmp_path / "on", mixtures=8, init=init, every=8))) == 4
    assert reviving.main([*argv, "--init", str(teacher), "--out", str(tmp_path / "on")]) == 2
    assert "holds a run already" in capsys.readouterr().err
    for more, words in (
        (["--init", str(teacher), "--active", "nan"], "--active nan"),
        (["--init", str(tmp_path / "no.safetensors")], "no.safetensors: cannot be read"),
        (["--init", str(teacher), "--compression", "130"], "compression 130 is more than"),
        (["--init", str(teacher), "--mixers", "0"], "mixers is 0"),
    ):
        assert reviving.main([*argv, *more, "--out", str(tmp_path / "none")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "none").exists()
