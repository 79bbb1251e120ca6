"""Measures of separation quality, and their confidence intervals over pairs of speakers. Needs no PyTorch.

SI-SDR is ``refimpl.quality``; PESQ, ESTOI and DNS-MOS come from packages of the extra ``eval``, imported when asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.errors import InputError
from refimpl.quality import assigned, improvement, si_sdr

__all__ = ["assigned", "improvement", "measure", "si_sdr"]

Array = np.ndarray[Any, np.dtype[Any]]
RATE = 16000
RESAMPLES, SEED, CONFIDENCE = 10_000, 20250803, 0.95
TITLES = {"si_sdri": "SI-SDRi dB", "si_sdr": "SI-SDR dB", "pesq": "PESQ", "estoi": "ESTOI", "dnsmos": "DNS-MOS"}
METRICS = tuple(TITLES)
PACKAGES: dict[str, tuple[str, ...]] = {"pesq": ("pesq",), "estoi": ("pystoi",), "dnsmos": ("speechmos", "onnxruntime")}
DNSMOS_SAMPLES = int(9.01 * RATE)  # what the model takes
DNSMOS_OVRL = (-0.06766283, 1.11546468, 0.04602535)  # its raw overall score to MOS, highest power first


def measure(metrics: Sequence[str], estimate: Array, mixture: Array, references: Array) -> dict[str, float]:
    """Each metric's mean over the two speakers. ``estimate`` and ``references`` [2, n], ``mixture`` [n], PCM / 32768, 16 kHz.

    An ``estimate`` of the mixture twice gives the figures of the unprocessed mixture. NaN where a metric has no value.
    """
    estimate = assigned(estimate, references)
    found: dict[str, float] = {}
    for name in metrics:
        if name == "si_sdri":
            values = si_sdr(estimate, references) - si_sdr(mixture[None], references)
        elif name == "si_sdr":
            values = si_sdr(estimate, references)
        else:
            one = {"pesq": pesq_wideband, "estoi": extended_stoi, "dnsmos": dnsmos_overall}[name]
            values = np.array([one(e, r) for e, r in zip(estimate, references, strict=True)])
        found[name] = float(values.mean())
    return found


def pesq_wideband(estimate: Array, reference: Array) -> float:
    """PESQ, wideband (ITU-T P.862.2), 1.04 to 4.64; NaN where it finds no utterance, as in a silent estimate."""
    from pesq import PesqError, pesq

    if not estimate.any():
        return float("nan")
    value = float(pesq(RATE, reference, estimate, "wb", on_error=PesqError.RETURN_VALUES))
    return value if value > 0 else float("nan")


def extended_stoi(estimate: Array, reference: Array) -> float:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), at most 1; NaN where too little speech is left."""
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(reference, estimate, RATE, extended=True))
        except RuntimeWarning:
            return float("nan")


def dnsmos_overall(estimate: Array, _: Array) -> float:
    """DNS-MOS P.835 overall score (OVRL), 1 to 5, of the signal alone: it is repeated to 9.01 s or more, as its authors do.

    The model file is that of the package ``speechmos``, which is not imported: its code asks for packages that this does not.
    """
    while len(estimate) < DNSMOS_SAMPLES:
        estimate = np.concatenate((estimate, estimate))
    hops = int(len(estimate) // RATE - DNSMOS_SAMPLES / RATE) + 1
    pieces = [estimate[hop * RATE : hop * RATE + DNSMOS_SAMPLES] for hop in range(hops)]
    raw = [_dnsmos_session().run(None, {"input_1": piece[None].astype(np.float32)})[0][0][2] for piece in pieces]
    return float(np.mean(np.polyval(DNSMOS_OVRL, np.array(raw, np.float64))))


@lru_cache
def _dnsmos_session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(_dnsmos_model()), options, providers=["CPUExecutionProvider"])


def _dnsmos_model() -> Path:
    spec = find_spec("speechmos")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return folder / "dnsmos_models" / "sig_bak_ovr.onnx"


def missing(metric: str) -> str:
    """Why ``metric`` cannot be measured in this installation, empty if it can."""
    absent = [package for package in PACKAGES.get(metric, ()) if find_spec(package) is None]
    if absent:
        return f'{TITLES[metric]} needs the package {" and ".join(absent)}: pip install "refimpl[eval]"'
    if metric == "dnsmos" and not _dnsmos_model().is_file():
        return 'DNS-MOS: the installed speechmos holds no model file: pip install --force-reinstall "refimpl[eval]"'
    return ""


def chosen(text: str | None) -> tuple[list[str], dict[str, str]]:
    """The metrics asked for by name, or all that are installed (None), and why others are left out."""
    if text is None:
        reasons = {name: missing(name) for name in METRICS}
        return [n for n in METRICS if not reasons[n]], {n: reason for n, reason in reasons.items() if reason}
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in METRICS:
            raise InputError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
        if missing(name):
            raise InputError(missing(name))
    return names, {}


def mean(values: Sequence[float]) -> float:
    """The mean of the values that are there; NaN of none."""
    there = [v for v in values if not np.isnan(v)]
    return float(np.mean(there)) if there else float("nan")


def interval(
    values: Sequence[float], pairs: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float] | None:
    """The 95% percentile bootstrap interval of the mean of ``values``; ``pairs`` names each value's pair of speakers.

    Mixtures of one pair are not independent: whole pairs are drawn with replacement, as many as there are, and all their
    mixtures averaged. The same values give the same interval. None below two pairs.
    """
    groups: dict[str, list[float]] = {}
    for value, pair in zip(values, pairs, strict=True):
        if not np.isnan(value):
            groups.setdefault(pair, []).append(value)
    if len(groups) < 2:
        return None
    sums = np.array([np.sum(groups[pair]) for pair in sorted(groups)])
    counts = np.array([len(groups[pair]) for pair in sorted(groups)])
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, len(groups), (resamples, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def summary(values: Mapping[str, Sequence[float]], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By metric: the values, NaN as None; their mean and interval."""
    found = {}
    for name, column in values.items():
        middle = mean(column)
        found[name] = {
            "mean": None if np.isnan(middle) else middle,
            "interval": interval(column, pairs),
            "values": [None if np.isnan(v) else v for v in column],
        }
    return found
