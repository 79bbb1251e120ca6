"""How well speakers are separated: SI-SDR and its improvement over the mixture, in float64. Needs the clean voices."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
BOUND = 100.0  # dB: an estimate that is exact, or silent, has no finite ratio


def si_sdr(estimate: Array, reference: Array) -> Array:
    """Scale-invariant SDR in dB over the last axis, float64, within [-100, 100].

    With zero-mean e and r: ``10 log10(|t|^2 / |e - t|^2)``, ``t = r <e, r> / |r|^2``; -100 where one of the two is silent.
    """
    estimate, reference = _centred(estimate), _centred(reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (estimate * reference).sum(-1, keepdims=True) / (reference**2).sum(-1, keepdims=True)
        target = scale * reference
        ratio = 10 * np.log10((target**2).sum(-1) / ((estimate - target) ** 2).sum(-1))
    return np.asarray(np.clip(np.nan_to_num(ratio, nan=-BOUND), -BOUND, BOUND))


def _centred(x: Array) -> Array:
    """``x`` in float64 less its mean over the last axis; exact zeros where only rounding is left of a constant."""
    x = np.asarray(x, np.float64)
    y = x - x.mean(-1, keepdims=True)
    return np.where((y**2).sum(-1, keepdims=True) > 1e-24 * (x**2).sum(-1, keepdims=True), y, 0.0)


def assigned(estimate: Array, references: Array) -> Array:
    """``estimate`` [S, n] in the order of the speakers that gives the highest mean SI-SDR against ``references`` [S, n]."""
    orders = [list(order) for order in permutations(range(len(references)))]
    means = [float(si_sdr(estimate[order], references).mean()) for order in orders]
    return np.asarray(estimate[orders[means.index(max(means))]])  # of equal ones the first: as it came


def improvement(estimate: Array, mixture: Array, references: Array) -> Array:
    """SI-SDR improvement in dB per speaker [S] of ``estimate`` [S, n] over ``mixture`` [n], better assignment of speakers."""
    return np.asarray(si_sdr(assigned(estimate, references), references) - si_sdr(mixture[None], references))
