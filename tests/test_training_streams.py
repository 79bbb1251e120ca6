"""Training with rounded sums of residuals: the sums that a preset stores in INT8, on the codes of the golden model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

torch = pytest.importorskip("torch")

from refimpl.errors import InputError  # noqa: E402 - needs PyTorch
from refimpl.networks import tf_mlpnet  # noqa: E402
from refimpl.presets import load_preset  # noqa: E402
from refimpl.profiles import GAP9  # noqa: E402
from refimpl.weights_io import load_container  # noqa: E402
from weights.train.model import Stored, Sum, TFMLPNet  # noqa: E402
from weights.train.streams import store  # noqa: E402

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "tf_mlpnet.safetensors"
STEPS = st.floats(2.0**-10, 4.0, width=32)


def grids(network: Any) -> dict[str, Any]:
    """The sums that ``network`` rounds, by name."""
    return {name: total.grid for name, total in network.sums() if total.grid is not None}


@settings(deadline=None)
@given(
    x=arrays(np.float32, 50, elements=st.floats(-1000, 1000, width=32)),
    step=STEPS,
    low=st.integers(-255, 0),
    high=st.integers(0, 255),
)
def test_stored_is_the_nearest_value_of_the_grid(x: np.ndarray, step: float, low: int, high: int) -> None:
    """No value of the grid is nearer, a stored value stays, and the gradient is what came."""
    given_x = torch.from_numpy(x).requires_grad_()
    y = Stored.apply(given_x, (step, low, high))
    y.backward(torch.from_numpy(x[::-1].copy()))
    assert torch.equal(given_x.grad, torch.from_numpy(x[::-1].copy()))
    values = np.arange(low, high + 1) * np.float64(step)
    nearest = np.abs(values[:, None] - x.astype(np.float64)).min(0)
    found = np.abs(y.detach().numpy().astype(np.float64) - x)
    assert np.all(found <= nearest + 1e-6 * np.maximum(np.abs(x), step))
    assert torch.equal(Stored.apply(y.detach(), (step, low, high)), y.detach())
    assert torch.equal(Sum((step, low, high)).stored(given_x), y) and Sum().stored(given_x) is given_x


@pytest.mark.parametrize("preset", ["int8", "mixlstm", "fpconv", "mixmlp", "fullmlp"])
def test_sums_are_those_that_the_preset_stores_in_int8(preset: str) -> None:
    """Every grid's values are the real values of the codes of an INT8 tensor that a residual add of the program writes."""
    container = load_container(SHIPPED)
    network = TFMLPNet()
    store(network, container, preset)
    program = tf_mlpnet.build(container.config, container.weights, container.ranges, load_preset(preset), GAP9)
    added = {
        step.outputs[0]
        for step in program.steps
        if step.operator.startswith("add_") and not step.loop and program.tensors[step.outputs[0]].format.kind == "int8"
    }
    start = (
        {"encoder"} if any(ref.tensor in ("encoder", "encoder.out") for step in program.steps for ref in step.inputs) else set()
    )
    assert set(grids(network)) == added | start
    for name, (step, low, high) in grids(network).items():
        form = program.tensors["encoder.out" if name == "encoder" and "encoder.out" in program.tensors else name].format
        assert np.array_equal(np.arange(low, high + 1) * step, form.real(np.arange(-128, 128)))
    store(network, container, "fullmlp")
    assert len(grids(network)) == 13, "what was stored before is forgotten"


@pytest.mark.parametrize("preset", ["fp32", "stream16"])
def test_presets_without_such_sums_are_refused(preset: str) -> None:
    with pytest.raises(InputError, match=rf"'{preset}' stores no sum of residuals in INT8; train without --streams"):
        store(TFMLPNet(), load_container(SHIPPED), preset)


def test_containers_of_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match=r"another network \(blocks 6\)"):
        store(TFMLPNet(blocks=5), load_container(SHIPPED), "mixmlp")


def test_kernels_and_pytorch_store_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum of a network on its grids lies on them; outputs of both ways differ no more than BF16 makes rounding differ."""
    torch.manual_seed(0)
    network, container, x = TFMLPNet(), load_container(SHIPPED), 0.1 * torch.randn(1, 4000)
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in container.weights.items()})
    store(network, container, "mixmlp")
    seen: list[Any] = []
    monkeypatch.setattr(Stored, "apply", lambda y, grid, own=Stored.apply: seen.append((own(y, grid), grid)) or seen[-1][0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = []
        for native in (True, False):
            for block in network.blocks:
                block.native = native
            plain.append(network(x))
    for y, (step, low, high) in seen:
        codes = y[:, :, :129].double() / step
        assert torch.allclose(codes, codes.round(), atol=1e-3) and codes.min() >= low and codes.max() <= high
    far = (plain[0] - plain[1]).norm() / plain[1].norm()
    assert len(seen) >= 25 and far < 0.5
