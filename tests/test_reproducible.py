"""The same bits everywhere: committed digests, another CPU target, thread counts, and no compiler at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refimpl.presets import NAMES
from refimpl.version import ARITHMETIC
from tests import digests

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 4000


def elsewhere(*arguments: str, **environment: str) -> dict[str, list[str]]:
    """The digests that another process finds under other settings."""
    command = [sys.executable, "-m", "tests.digests", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def here() -> dict[str, list[str]]:
    return digests.shipped_digests(SAMPLES)


def test_committed_digests_of_the_shipped_mixture() -> None:
    committed = json.loads(digests.COMMITTED.read_text(encoding="utf-8"))
    assert committed["arithmetic"] == ARITHMETIC
    found = digests.shipped_digests()
    assert found == committed["mix.wav"], "bits changed: if meant, run python -m tests.digests --update and say so in CHANGELOG"
    assert len({digest for pair in found.values() for digest in pair}) == 2 * (len(NAMES) + len(digests.OTHERS))


def test_generic_cpu_gives_the_same_bits(here: dict[str, list[str]]) -> None:
    """Kernels compiled for the architecture's baseline: no AVX, no FMA, another vector width."""
    assert elsewhere(str(SAMPLES), NUMBA_CPU_NAME="generic") == here


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_change_nothing(threads: str, here: dict[str, list[str]]) -> None:
    assert elsewhere(str(SAMPLES), NUMBA_NUM_THREADS=threads, OMP_NUM_THREADS=threads, PYTHONHASHSEED=threads) == here


def test_without_a_compiler() -> None:
    """The kernels as plain Python and NumPy scalars: the specification read by another machine. All tensors, all presets."""
    assert elsewhere("--tiny", NUMBA_DISABLE_JIT="1") == digests.tiny_digests()


def test_locale_and_hash_seed_change_nothing() -> None:
    assert elsewhere("--tiny", LC_ALL="C", PYTHONHASHSEED="7") == digests.tiny_digests()
