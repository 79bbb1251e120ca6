"""The PyTorch network of the recipe is the one that refimpl runs (only where PyTorch is installed)."""

from __future__ import annotations

import numpy as np
import pytest

from refimpl.networks.tf_mlpnet import Config, parameters
from refimpl.session import Model
from refimpl.weights_io import Container
from tests.test_network import speech_like

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("compression", [1, 2])
@pytest.mark.parametrize("window", ["hann", "rect"])
def test_state_dict_runs_as_is(compression: int, window: str) -> None:
    """Names and shapes match, and both outputs agree to FP32 accuracy."""
    from weights.train.model import TFMLPNet

    torch.manual_seed(0)
    network = TFMLPNet(blocks=2, compression=compression, window=window).eval()
    for mixer in (mixer for block in network.blocks for mixer in block.mixers):
        torch.nn.init.normal_(mixer.freq2.weight, std=0.1)  # which starts at zero
        torch.nn.init.normal_(mixer.freq2.bias)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    config = Config(blocks=2, compression=compression, window=window)
    assert {name: value.shape for name, value in weights.items()} == parameters(config)
    pcm = speech_like(1000)
    mine = Model(Container(config, weights), "fp32").trace(pcm, ["overlap_add"])["overlap_add"]
    with torch.no_grad():
        theirs = network(torch.from_numpy(pcm / np.float32(32768))[None])[0].numpy()
    mine = mine.transpose(1, 0, 2).reshape(2, -1)[:, : len(pcm)]
    assert np.sqrt(((mine - theirs) ** 2).sum() / (theirs**2).sum()) < 1e-4
