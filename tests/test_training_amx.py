"""The kernels for CPUs with AMX do what blocks in PyTorch do (only on such a CPU, and where PyTorch is installed)."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 - needs PyTorch

from weights.train import amx  # noqa: E402 - needs PyTorch
from weights.train.model import Block, Mixer, TFMLPNet  # noqa: E402

pytestmark = pytest.mark.skipif(amx.library() is None, reason="no CPU with AMX, or no C compiler")


GRIDS = st.none() | st.sampled_from([(2.0, -2, 3), (1.0, -1, 1), (0.5, -128, 127), (4.0, 0, 5)])


def sparse(shape: Any, share: float) -> Any:
    """Mostly zeros, else 1 or -1."""
    return torch.randint(0, 2, shape).mul(2).sub(1).float() * (torch.rand(shape) < share)


class Largest(TorchDispatchMode):
    """The largest magnitude that any step gives, forwards and backwards, while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and out.numel():
            self.found = max(self.found, float(out.abs().max()))
        return out


def pure(block: Any, x: Any) -> Any:
    """What the kernels compute of ``x``, without the rows that they pad."""
    return amx.forward(block, amx.padded(x))[:, :, : x.shape[2]]


@settings(max_examples=40, deadline=None)
@given(
    bins=st.integers(16, 140),
    units=st.integers(1, 140),
    frames=st.integers(1, 20),
    n=st.integers(1, 2),
    mixers=st.integers(1, 3),
    grids=st.lists(GRIDS, min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_spectral_stage_is_exact_where_bf16_is(
    bins: int, units: int, frames: int, n: int, mixers: int, grids: list[Any], seed: int
) -> None:
    """Of small integers neither products nor sums are rounded, so output and every gradient equal PyTorch's, bit for bit.

    The same where sums are stored as values of a grid.
    """
    torch.manual_seed(seed)
    block = Block(bins, 32, 32, mixers, 1, units, 1.0)
    for parameter in block.parameters():
        parameter.data = sparse(parameter.shape, 0.15 / max(parameter.shape[-1] ** 0.5, 1))
    for mixer in block.mixers:
        mixer.freq_sum.grid, mixer.chan_sum.grid = grids.pop(), grids.pop()
    x, weight = sparse((n, frames, bins, 32), 0.2), sparse((n, frames, bins, 32), 0.05)
    found, largest = [], Largest()
    with largest, torch.no_grad():
        block.spectral(x)
    for native in (True, False):
        block.zero_grad()
        given = x.clone().requires_grad_()
        if native:
            s = amx.Spectral.apply(amx.padded(given), amx.grids(block), *amx.parameters(block)[0])[:, :, :bins]
        else:
            s = given + block.spectral(given)
        with nullcontext() if native else largest:  # the kernels' buffers begin with anything
            (s * weight).sum().backward()
        gradients = [p.grad for name, p in block.named_parameters() if "lstm" not in name and "inter" not in name]
        found.append([s.detach(), given.grad, *gradients])
    assume(largest.found <= 256)  # BF16 has every integer up to that
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("bins", "units"), [(64, 128), (129, 0), (33, 7)])
def test_block_is_as_near_as_pytorch_in_bf16(bins: int, units: int) -> None:
    """Output and gradients lie no farther from those in FP64 than PyTorch's own BF16 does."""
    torch.manual_seed(bins)
    block = Block(bins, 32, 32, 2, 1, units, 1.0)
    for mixer in block.mixers:
        torch.nn.init.normal_(mixer.freq2.weight, std=0.1)
    x, weight = torch.randn(2, 45, bins, 32), torch.randn(2, 45, bins, 32)

    def outcome(kind: str) -> dict[str, Any]:
        mine = copy.deepcopy(block).double() if kind == "fp64" else copy.deepcopy(block)
        given = x.to(next(mine.parameters()).dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind != "fp64"):
            y = pure(mine, given) if kind == "native" else mine(given)
        (y.to(given.dtype) * weight.to(given.dtype)).sum().backward()
        return {"output": y.detach(), "input": given.grad, **{name: p.grad for name, p in mine.named_parameters()}}

    exact, native, theirs = (outcome(kind) for kind in ("fp64", "native", "bf16"))
    for name, value in exact.items():
        far, limit = ((other[name].double() - value).norm() / value.norm() for other in (native, theirs))
        assert far < 1.5 * limit + 1e-3, name


def test_network_takes_the_kernels_where_they_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outputs to BF16 accuracy with and without; none in FP32, none of other sizes, none while units are watched."""
    torch.manual_seed(0)
    network, x = TFMLPNet(blocks=2), 0.1 * torch.randn(2, 4000)
    calls = []
    forward = amx.forward
    monkeypatch.setattr(amx, "forward", lambda block, h: calls.append(h.shape) or forward(block, h))
    with torch.no_grad():
        exact = network(x)
        assert not calls
        with torch.autocast("cpu", torch.bfloat16):
            native = network(x)
            assert calls == [(2, 42, 160, 32)] * 2
            for other in (TFMLPNet(blocks=2, compression=2), TFMLPNet(blocks=2, channels=16), TFMLPNet(blocks=2, hidden=16)):
                other(x)
            network.blocks[0].mixers[0].watched = True
            theirs = network(x)
    assert len(calls) == 2 and isinstance(network.blocks[0].mixers[0], Mixer)
    far, limit = ((value - exact).norm() / exact.norm() for value in (native, theirs))
    assert far < 1.5 * limit < 0.05


def test_benchmark_takes_both_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair to warm up, then as many as asked for, each with one step that takes the kernels and one that does not."""
    from weights.bench.training import ratios

    calls = []
    forward = amx.forward
    monkeypatch.setattr(amx, "forward", lambda block, h: calls.append(h.shape) or forward(block, h))
    found = ratios(TFMLPNet(blocks=1), 1, 2000, 3)
    assert len(found) == 3 and min(found) > 0 and len(calls) == 4


def test_kernels_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(amx.SWITCH, "0")
    amx.library.cache_clear()
    assert amx.library() is None
    monkeypatch.undo()
    amx.library.cache_clear()
    assert amx.library() is not None


def test_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Into the user's cache, under a name of source, compiler and machine; no broken file stays where compiling fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    amx.library.cache_clear()
    assert amx.library() is not None
    (built,) = (tmp_path / "refimpl").iterdir()
    before = built.stat().st_mtime_ns
    amx.library.cache_clear()
    assert amx.library() is not None and built.stat().st_mtime_ns == before
    (tmp_path / "bad.c").write_text("int amx_request(void) { return nothing; }")
    monkeypatch.setattr(amx, "SOURCE", tmp_path / "bad.c")
    amx.library.cache_clear()
    assert amx.library() is None and list((tmp_path / "refimpl").iterdir()) == [built]
    monkeypatch.undo()
    amx.library.cache_clear()
