"""Shared fixtures: small calibrated containers, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from refimpl.calibration import calibrate
from refimpl.networks.tf_mlpnet import Config
from refimpl.weights_io import Container
from tests.test_network import random_weights, speech_like


def calibrated(config: Config, seed: int = 0, samples: int = 3000) -> Container:
    clips = [speech_like(samples, seed), speech_like(samples // 3, seed + 1)]
    return calibrate(Container(config, random_weights(config, seed)), clips)


@pytest.fixture(autouse=True)
def no_tier_left_behind() -> Iterator[None]:
    """``--tier`` sets a variable for child processes; those of other tests may run on other processors."""
    before = os.environ.get("REFIMPL_TIER")
    yield
    os.environ.pop("REFIMPL_TIER", None)
    if before is not None:
        os.environ["REFIMPL_TIER"] = before


@pytest.fixture(scope="session")
def small() -> Container:
    """Two blocks, eight channels, all presets: large enough to have every kind of step."""
    return calibrated(Config(blocks=2, channels=8, hidden=8, mixers=1))


@pytest.fixture(scope="session")
def compressed() -> Container:
    """As ``small`` with frequency compression by two."""
    return calibrated(Config(blocks=2, channels=8, hidden=8, mixers=1, compression=2))
