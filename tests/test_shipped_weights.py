"""Every container in ``weights/``: loads, runs its presets, is the one that the card describes, and names no machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refimpl.audio import read_pcm
from refimpl.networks.tf_mlpnet import parameter_count
from refimpl.presets import NAMES
from refimpl.session import load
from refimpl.weights_io import load_container
from tests.test_network import speech_like

FOLDER = Path(__file__).resolve().parent.parent / "weights"
FILES = sorted(FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_container_is_what_its_card_says(path: Path) -> None:
    container = load_container(path)
    assert container.digest in (FOLDER / "README.md").read_text(encoding="utf-8"), "weights/README.md names another digest"
    words = [Path(word) for word in json.dumps(dict(container.card)).replace('"', " ").split()]
    assert not [word for word in words if word.is_absolute() or ".." in word.parts]
    trained = container.card.get("qat")
    assert container.presets == ((trained["preset"],) if trained else NAMES)
    pcm = speech_like(2000, 1)
    for preset in container.presets:
        out = load(path, preset).separate(pcm)
        assert out.shape == (2, 2000) and np.abs(out).max() > 0


def test_a_quantization_aware_container_starts_from_a_float_one() -> None:
    """From one that is shipped: the default, or the one trained without rounding; its weights have moved from there."""
    containers = list(map(load_container, FILES))
    floating = {container.digest: container for container in containers if not container.card.get("qat")}
    trained = [container for container in containers if container.card.get("qat")]
    starts = {container.card["qat"]["preset"]: floating[container.card["qat"]["start"]] for container in trained}
    assert {preset: start.digest for preset, start in starts.items()} == {
        "int8": load_container(FOLDER / "tf_mlpnet.safetensors").digest,
        "mixmlp": load_container(FOLDER / "tf_mlpnet.safetensors").digest,
        "stream16": load_container(FOLDER / "tf_mlpnet_fp32.safetensors").digest,
    }
    for container in trained:
        start = starts[container.card["qat"]["preset"]]
        assert any(not np.array_equal(container.weights[name], start.weights[name]) for name in start.weights)


def test_sizes_are_the_paper_s() -> None:
    """The full network, and the one of frequencies compressed by two."""
    counts = {path.name: parameter_count(load_container(path).config) for path in FILES}
    assert counts.pop("tf_mlpnet_2f.safetensors") == 215_268
    assert set(counts.values()) == {492_948}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_voices_keep_their_polarity(path: Path) -> None:
    """SI-SDR cannot tell a voice from its negative: what comes out correlates positively with what went in."""
    data = Path(__file__).resolve().parent / "data"
    mixture, *voices = (read_pcm(data / name) for name in ("mix.wav", "source1.flac", "source2.flac"))
    for preset in load_container(path).presets:
        found = np.corrcoef(np.concatenate([load(path, preset).separate(mixture), voices]))[:2, 2:]
        straight, crossed = np.diag(found), np.diag(found[::-1])
        assert max(straight.min(), crossed.min()) > 0.3, (preset, found)
