"""The smallest containers that run every preset, and what tests of command lines need around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from refimpl.calibration import calibrate
from refimpl.networks.tf_mlpnet import Config, parameters
from refimpl.weights_io import Container

TINY = {"blocks": 1, "channels": 4, "hidden": 4, "mixers": 1, "compression": 32}


@lru_cache
def tiny_container(seed: int = 0, **config: int | str) -> Container:
    """Random weights of a one-block network (``config`` changes it), with ranges for all presets observed on noise."""
    shape_of = Config(**{**TINY, **config})  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in parameters(shape_of).items():
        fan_in = max(1, int(np.prod(shape[1:])))
        weights[name] = (random.standard_normal(shape) * (0.05 if len(shape) == 1 else fan_in**-0.5)).astype(np.float32)
    return calibrate(Container(shape_of, weights, card={"name": "tiny"}), [noise(3000, seed)], "minmax")


def noise(n: int, seed: int = 1) -> np.ndarray:
    """White noise at a quarter of full scale, int16 [n]."""
    return (np.random.default_rng(seed).standard_normal(n) * 8000).clip(-32768, 32767).astype(np.int16)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder`` with the file's bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def refused(
    main: Callable[[Sequence[str]], int], argv: Sequence[object], capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """``main(argv)`` gives 2 and one line on stderr, an error with all the words; returns the line."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for word in words:
        assert word in err, (word, err)
    return err
