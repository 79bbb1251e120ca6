"""What the processor can do, in three tiers; every tier gives the same bits.

``vnni``: AVX-512 with byte dot products and byte permutations (VNNI, VBMI). ``avx2``: 256-bit vectors. ``any``: the vectors
that LLVM has for the target. The choice is made once in a process, when the first fast kernel is asked for.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numba
from llvmlite import binding

from refimpl.errors import InputError

TIERS = ("vnni", "avx2", "any")
VARIABLE = "REFIMPL_TIER"
_NEEDED = {
    "vnni": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx512vbmi"),
    "avx2": ("avx2",),
    "any": (),
}
# Processors by LLVM's names, where Numba is told to compile for one of them (NUMBA_CPU_NAME).
_NAMED = {
    "vnni": ("icelake-client", "icelake-server", "tigerlake", "rocketlake", "sapphirerapids", "znver4", "znver5"),
    "avx2": ("haswell", "broadwell", "skylake", "skylake-avx512", "cascadelake", "alderlake", "znver1", "znver2", "znver3"),
}
_config: Any = numba.config


def supported() -> tuple[str, ...]:
    """The tiers that code for Numba's target can use, the best first."""
    name = _config.CPU_NAME
    if name in (None, "", "host"):
        features = dict(binding.get_host_cpu_features())
        for change in (_config.CPU_FEATURES or "").split(","):
            features[change[1:]] = change[:1] == "+"
        return tuple(tier for tier in TIERS if all(features.get(feature, False) for feature in _NEEDED[tier]))
    best = next((tier for tier, names in _NAMED.items() if name in names), "any")
    return TIERS[TIERS.index(best) :]


def select(wanted: str | None) -> None:
    """Ask for a tier by name, as ``REFIMPL_TIER`` does; :class:`InputError` where this process runs another one already."""
    if wanted is None:
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = wanted
    try:
        chosen()
        vector = sys.modules.get("refimpl.fast.vector")
        if vector is not None and wanted != vector.TIER:
            raise InputError(f"tier {wanted!r}: this process runs on {vector.TIER!r} already; use another process")
    except InputError:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        raise


def chosen() -> str:
    """The tier of this process: ``REFIMPL_TIER`` if it is set, else the best; :class:`InputError` for one that cannot run."""
    wanted, possible = os.environ.get(VARIABLE) or "", supported()
    if wanted and wanted not in TIERS:
        raise InputError(f"tier {wanted!r} is unknown: use one of {', '.join(TIERS)}")
    if wanted and wanted not in possible:
        raise InputError(f"tier {wanted!r} is beyond this processor: use one of {', '.join(possible)}")
    return wanted or possible[0]
