"""Quantization-aware training: the PyTorch forward pass is the golden model's, its gradients are the stated ones, runs resume.

Only where PyTorch is installed. Wherever stored values are compared, no difference is allowed: BF16 convolutions too add their
terms in the golden model's order.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from refimpl.calibration import calibrate
from refimpl.networks import tf_mlpnet
from refimpl.operators import elementwise
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9, Profile, profile_named
from refimpl.program import DTYPES, OPERATORS, Format
from refimpl.quantization.offsets import residual_errors, residual_streams
from refimpl.quantization.scheme import activation_format
from refimpl.session import Model, load
from refimpl.weights_io import Container, default_weights, load_container
from tests.test_network import speech_like
from tests.tiny import tiny_container

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402

from weights.train import qat, quantized  # noqa: E402
from weights.train.model import TFMLPNet  # noqa: E402
from weights.train.quantized import QuantizedTFMLPNet, from_array, to_array, with_past  # noqa: E402

PRESETS = (*NAMES[1:], "stream16")
DATA = Path(__file__).parent / "data"
# Multipliers of 16 bits: the integer law is then the float formula but for values near a tie, and gradients can be compared.
PRECISE = replace(GAP9, name="precise", multiplier_bits=16, multiplier_headroom=0, largest_shift=40, width=62)
Array = np.ndarray[Any, np.dtype[Any]]
T = torch.Tensor


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@cache
def clip(samples: int = 3200) -> Array:
    """The loudest part of the committed mixture."""
    pcm, _ = soundfile.read(DATA / "mix.wav", dtype="int16")
    loud = int(np.argmax(np.convolve(np.abs(pcm.astype(np.int64)), np.ones(samples, np.int64), "valid")))
    return np.asarray(pcm[loud : loud + samples])


def small(compression: int = 2, **config: Any) -> Container:
    return tiny_container(0, compression=compression, blocks=2, **config)


def lowered(container: Container, preset: str, profile: Profile = GAP9) -> quantized.Lowered:
    return QuantizedTFMLPNet(container, preset, profile).lower()


def differing(found: dict[str, Array], expected: dict[str, Array]) -> dict[str, int]:
    """How many values differ, of each tensor where any does."""
    assert all(found[name].shape == expected[name].shape for name in found)
    counts = {name: int((found[name] != expected[name]).sum()) for name in found}
    return {name: count for name, count in counts.items() if count}


def injected(low: quantized.Lowered, trace: dict[str, Array]) -> dict[str, Array]:
    """Every kernel's output where its inputs are the golden model's."""
    found = {}
    for name, kernel in low.kernels.items():
        inputs = []
        for ref in kernel.step.inputs:
            tensor = low.program.tensors[ref.tensor]
            inputs.append(with_past(from_array(trace[ref.tensor][:, None], tensor.format), ref.past, ref.current, tensor.start))
        found[name] = to_array(kernel.forward(*inputs)[0][:, 0], kernel.out)
    return found


# The forward pass


@pytest.mark.parametrize("compression", [1, 2, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_step_equals_the_golden_model(preset: str, compression: int) -> None:
    """Golden inputs into each step; and end to end, two clips as one batch, up to the PCM."""
    container, pcm = small(compression), np.stack([speech_like(3200), clip()])
    model, network = Model(container, preset), QuantizedTFMLPNet(container, preset)
    traces = [model.trace(one) for one in pcm]
    low = network.lower()
    for trace in traces:
        assert not differing(injected(low, trace), trace)
    found = network.trace(pcm)
    assert set(found) | {"frame", "stft.mantissa", "stft.exponent"} == set(model.program.tensors)
    for i, trace in enumerate(traces):
        assert not differing({name: values[i] for name, values in found.items()}, trace)


@pytest.mark.parametrize("preset", PRESETS)
def test_shipped_weights_equal_the_golden_model(preset: str) -> None:
    container, pcm = load_container(default_weights()), clip(1500)
    trace, network = Model(container, preset).trace(pcm), QuantizedTFMLPNet(container, preset)
    assert not differing(injected(network.lower(), trace), trace)
    assert not differing({name: values[0] for name, values in network.trace(pcm[None]).items()}, trace)


@pytest.mark.parametrize(
    "config",
    [{"window": "rect"}, {"frequency_padding": "top"}, {"channel_order": "real_first"}, {"speakers": 3, "hidden": 3}],
    ids=str,
)
@pytest.mark.parametrize("preset", ["int8", "mixmlp"])
def test_options_of_the_configuration(preset: str, config: dict[str, Any]) -> None:
    """The integers, and the waveform: the float inverse transform of exact spectra, close to the golden PCM."""
    container, pcm = small(**config), speech_like(1500)
    network = QuantizedTFMLPNet(container, preset)
    trace = Model(container, preset).trace(pcm)
    assert not differing({name: values[0] for name, values in network.trace(pcm[None]).items()}, trace)
    with torch.no_grad():
        waveform = network(torch.from_numpy(pcm[None] / 32768.0))[0].numpy()
    golden = trace["overlap_add"].transpose(1, 0, 2).reshape(len(waveform), -1)[:, : len(pcm)] * 2.0**-27
    assert np.sqrt(((waveform - golden) ** 2).sum() / (golden**2).sum()) < 1e-4


def random_values(form: Format, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Stored values over the whole format, extremes included; BF16 of all magnitudes to 2^20, subnormals included."""
    if form.is_code:
        values = rng.integers(form.lowest, form.highest, shape, endpoint=True)
        return np.where(rng.random(shape) < 0.3, rng.choice([form.lowest, form.highest], shape), values).astype(
            DTYPES[form.kind]
        )
    magnitude = rng.integers(0, 0x4980, shape)
    return np.where(rng.random(shape) < 0.5, magnitude, magnitude | 0x8000).astype(np.uint16)


@pytest.mark.parametrize("single", [True, False], ids=["single", "pytorch"])
@pytest.mark.parametrize("compression", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_on_any_input(preset: str, compression: int, single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel against its operator on inputs that no clip gives: full scale, saturation, all bytes of INT16; as single
    passes and by PyTorch's operations."""
    monkeypatch.setattr(quantized, "FUSED", single)
    rng = np.random.Generator(np.random.PCG64(1))
    low = lowered(small(compression), preset)
    for kernel in low.kernels.values():
        inputs = []
        for ref, form in zip(kernel.step.inputs, kernel.formats, strict=True):
            count = 3 + (ref.past if ref.current else 0)
            inputs.append(random_values(form, (count, *low.program.tensors[ref.tensor].shape), rng))
        shape = (3, *low.program.tensors[kernel.step.name].shape)
        golden = np.empty(shape, DTYPES[kernel.out.kind])
        OPERATORS[kernel.step.operator](*inputs, *kernel.step.constants, golden)
        made = kernel.forward(*(from_array(x[:, None], f) for x, f in zip(inputs, kernel.formats, strict=True)))[0]
        np.testing.assert_array_equal(to_array(made[:, 0], kernel.out), golden, err_msg=kernel.step.name)


@pytest.mark.parametrize("name", ["add", "multiply"])
def test_bf16_arithmetic_is_pytorchs(name: str) -> None:
    """Random pairs of all 65,536 patterns, subnormals and infinities too; NaN has one pattern in the golden model."""
    a, b = np.random.Generator(np.random.PCG64(2)).integers(0, 1 << 16, (2, 1 << 20)).astype(np.uint16)
    golden = np.empty_like(a)
    getattr(elementwise, f"{name}_bf16")(a, b, golden)
    form = Format("bf16")
    x, y = from_array(a, form), from_array(b, form)
    found = to_array(x + y if name == "add" else x * y, form)
    number = golden != 0x7FC0
    np.testing.assert_array_equal(found[number], golden[number])
    assert ((found[~number] & 0x7FFF) > 0x7F80).all() and 0 < (~number).sum() < len(a) // 10


def test_arithmetic_that_is_lacking_is_refused() -> None:
    with pytest.raises(qat.InputError, match="add_scaled"):
        lowered(small(), "int8", profile_named("tflite_double"))
    with pytest.raises(qat.InputError, match="quantizes nothing"):
        QuantizedTFMLPNet(small(), "fp32")


def test_autocast_changes_nothing() -> None:
    network, x = QuantizedTFMLPNet(small(), "fullmlp"), torch.from_numpy(clip() / np.float32(32768))[None]
    with torch.no_grad():
        plain = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(x), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("preset", PRESETS)
def test_cuda_equals_the_golden_model(preset: str) -> None:
    container = load_container(default_weights())
    network = QuantizedTFMLPNet(container, preset).cuda()
    found = {name: values[0] for name, values in network.trace(clip()[None]).items()}
    assert not differing(found, Model(container, preset).trace(clip()))
    network(torch.from_numpy(clip() / np.float32(32768))[None].cuda()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# Gradients


def round_through(x: T) -> T:
    return x + (x.round() - x).detach()


def fake_quantize(x: T, low: T, high: T, bits: int) -> T:
    """FQSE's activation quantizer: ``d * clip(round((x - min) / d), 0, 2^n - 1) + min``, straight through the rounding."""
    d = (high - low) / (2**bits - 1)
    return d * torch.clip(round_through((x - low) / d), 0, 2**bits - 1) + low


def fake_quantize_weight(w: T, axis: int) -> T:
    d = w.abs().amax([i for i in range(w.dim()) if i != axis], keepdim=True) / 127
    return d * round_through(w / d)


def layer_of(kernel: quantized.Kernel, container: Container) -> Callable[[list[T], list[T]], T]:
    """The step on real inputs [T, F, C] and PyTorch parameters, by PyTorch's own layers in FP64."""
    operator, stride = kernel.step.operator, container.config.compression
    low = 1 if container.config.frequency_padding == "symmetric" else 0  # bins of padding under bin 0

    def weighted(inputs: list[T], parameters: list[T]) -> T:
        (x,), (w, b) = inputs, parameters
        if not operator.endswith("_bf16"):
            w = fake_quantize_weight(w, 1 if "transposed" in operator else 0)
        if operator == "fully_connected_channels":
            y = functional.linear(x, w, b)
        elif operator == "fully_connected_frequency":
            y = functional.linear(x.mT, w, b).mT
        elif operator == "conv_strided":
            y = functional.conv1d(x.mT, w, b, stride).mT
        elif operator == "conv_strided_transposed":
            y = functional.conv_transpose1d(x.mT, w, b, stride, output_padding=129 % stride).mT
        elif "transposed" in operator:
            y = functional.conv_transpose2d(x.permute(2, 0, 1), w, b)[:, 2:-2, low : low + 129].permute(1, 2, 0)
        else:
            y = functional.conv2d(functional.pad(x.permute(2, 0, 1), (low, 2 - low)), w, b).permute(1, 2, 0)
        return torch.relu(y) if kernel.relu else y

    return weighted


def expected_step(kernel: quantized.Kernel, container: Container, parameters: list[T], inputs: list[T]) -> T:
    operator = kernel.step.operator
    if parameters:
        return layer_of(kernel, container)(inputs, parameters)
    if operator == "lookup":
        x = inputs[0] if kernel.channels is None else inputs[0][..., kernel.channels]
        return torch.tanh(x) if kernel.step.name.endswith((".g", ".tanh_c")) else torch.sigmoid(x)
    if operator.startswith("add"):
        return inputs[0] + inputs[1]
    return inputs[0] * inputs[1] if operator.startswith("multiply") else inputs[0]


def likely_values(kernel: quantized.Kernel, shape: tuple[int, ...], form: Format) -> T:
    """Stored values in the middle of a format, so that only some of the outputs are clipped."""
    if not form.is_code:
        return torch.randn(shape).bfloat16().float()
    spread = (form.highest - form.lowest) * (0.1 if "multiply" in kernel.step.operator else 0.2)
    return (torch.randn(shape) * spread + form.zero_point).round().clamp(form.lowest, form.highest)


def close(found: T, expected: T, tolerance: float, floor: float = 0.0) -> bool:
    """Relative error in the Euclidean norm, or an absolute one."""
    return bool((found.double() - expected).norm() <= tolerance * expected.norm() + floor)


@cache
def precise_network(preset: str, compression: int) -> QuantizedTFMLPNet:
    return QuantizedTFMLPNet(small(compression), preset, PRECISE)


OPERATOR_CASES = [
    *(("int8", 2, name) for name in ("conv_causal", "conv_transposed_causal", "conv_strided", "conv_strided_transposed")),
    *(("int8", 2, name) for name in ("fully_connected_frequency", "fully_connected_channels", "multiply", "add_two_stage")),
    *(("int8", 2, name) for name in ("lookup",)),
    *(("fullmlp", 2, name) for name in ("conv_strided", "conv_strided_transposed", "add_joint", "requantize_codes")),
    *(("fullmlp", 2, name) for name in ("fully_connected_frequency", "fully_connected_channels", "conv_causal_bf16")),
    *(("fullmlp", 2, name) for name in ("conv_transposed_causal_bf16", "quantize_bf16", "dequantize_bf16", "lookup")),
    *(("fullmlp", 2, name) for name in ("add_bf16", "multiply_bf16")),
    ("fpconv", 1, "fully_connected_frequency"),
    ("mixlstm", 3, "conv_strided_transposed"),
]


@pytest.mark.parametrize(("preset", "compression", "operator"), OPERATOR_CASES)
def test_gradients_are_those_of_the_formula(preset: str, compression: int, operator: str) -> None:
    """Of inputs, weights, biases and ranges, for each step of this operator, against autograd of FQSE's formula in FP64.

    A sum near a tie or an edge may be rounded differently by integer and formula: that changes few gradients of inputs and
    weights, but makes a random walk of ``g / (2^n - 1)`` in those of the ranges. Where the law rounds twice (16 bits, two-stage
    addition) all residuals differ, and only what clipping gives the ranges is compared.
    """
    network = precise_network(preset, compression)
    container, low = small(compression), network.lower()
    own = dict(network.named_parameters())
    kernels = [k for k in low.kernels.values() if k.step.operator == operator]
    # One of each kind: fused ReLU or not, recurrent or not.
    for kernel in {(k.relu, bool(k.step.loop), k.out.kind): k for k in kernels}.values():
        shapes = [(8 + (r.past if r.current else 0), *low.program.tensors[r.tensor].shape) for r in kernel.step.inputs]
        stored = [likely_values(kernel, shape, form) for shape, form in zip(shapes, kernel.formats, strict=True)]
        names = network.names.get(kernel.step.name, ())
        found_in = [x[:, None].requires_grad_() for x in stored]
        found_parameters = [own[name].detach().clone().requires_grad_() for name in names]
        real = [quantized.real(x, form).double().requires_grad_() for x, form in zip(stored, kernel.formats, strict=True)]
        parameters = [p.detach().double().requires_grad_() for p in found_parameters]
        expected = expected_step(kernel, container, parameters, real)
        limits = found_limits = None
        if kernel.out.is_code:
            form = kernel.out
            edges = [(form.lowest - form.zero_point) * form.scale, (form.highest - form.zero_point) * form.scale]
            limits = torch.tensor(edges, dtype=torch.float64, requires_grad=True)
            found_limits = limits.detach().clone().requires_grad_()
            expected = fake_quantize(expected, limits[0], limits[1], form.bits)
        made = quantized._Apply.apply(kernel, found_limits, *found_parameters, *found_in)
        g = torch.randn(made.shape) + 0.5
        made.backward(g)
        expected.backward(g[:, 0].double())
        label, twice = kernel.step.name, operator == "add_two_stage" or kernel.out.bits == 16
        for mine, theirs in zip((*found_in, *found_parameters), (*real, *parameters), strict=True):
            assert theirs.grad.norm() > 0, label
            assert close(mine.grad.view(theirs.shape), theirs.grad, 0.02 if twice else 0.005), label
        if limits is not None:
            wanted = limits.grad * torch.tensor([not kernel.relu, True])
            share = g.norm().item() / (2**kernel.out.bits - 1)
            assert close(found_limits.grad, wanted, 0.005, (2.0 if twice else 0.15) * share), label


@pytest.mark.parametrize(
    "name", ["block1.spectral.mixer1.freq1", "block1.spectral.compress", "block1.spectral.expand", "decoder"]
)
def test_weight_scale_learns_from_the_largest_weight(name: str) -> None:
    """Autograd of ``d * round(w / d)``, d = max|w| / 127 per output channel: the identity but for one weight a channel."""
    network = QuantizedTFMLPNet(small(), "int8")
    kernel, w = network.lower().kernels[name], network.get_parameter(network.names[name][0])
    direct = torch.randn(w.shape) + 0.3
    (fake_quantize_weight(w, kernel.axis) * direct).sum().backward()
    torch.testing.assert_close(kernel._through_scale(direct, w.detach()), w.grad)
    assert ((w.grad - direct).abs() > 1e-5).sum() == w.shape[kernel.axis]


def test_range_gradient_is_exact() -> None:
    """BF16 to INT8 with a zero point that needs no nudge: the formula in FP64 to FP32 accuracy, clipped and not."""
    network = QuantizedTFMLPNet(small(), "fullmlp")
    with torch.no_grad():
        row = network.keys[8].index("encoder")
        network.start_8[row] = torch.tensor([-128.0, 127.0], dtype=torch.float64) * 0.0137  # no BF16 tie
    kernel = network.lower().kernels["encoder.out"]
    assert kernel.out.scale == pytest.approx(0.0137) and kernel.out.zero_point == 0
    x = (torch.randn(40, 1, 129, 4) * 1.2).bfloat16().float().requires_grad_()
    limits = network.limits()[8][row].detach().requires_grad_()
    g = torch.randn(x.shape)
    quantized._Apply.apply(kernel, limits, x).backward(g)
    y, edges = x.detach().double().requires_grad_(), limits.detach().clone().requires_grad_()
    fake_quantize(y, edges[0], edges[1], 8).backward(g.double())
    clipped = (y.grad == 0).double().mean()
    assert 0.02 < clipped < 0.3
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(limits.grad, edges.grad, rtol=1e-4, atol=1e-4)


def unrolled(stage: list[quantized.Kernel], low: quantized.Lowered, limits: Any, own: Any, outer: dict[str, T]) -> dict[str, T]:
    """The loop's steps frame by frame, each through autograd on its own; tensors [T, ...] of the results."""
    tensors, held = low.program.tensors, low.program.past
    count = len(next(iter(outer.values())))
    frames = {name: list(x.unbind(0)) for name, x in outer.items()}
    for kernel in stage:
        tensor = tensors[kernel.step.name]
        start = torch.full((1, *tensor.shape), float(tensor.start))
        frames[kernel.step.name] = [start] * held.get(kernel.step.name, 0)
    for t in range(count):
        for kernel in stage:
            name = kernel.step.name
            inputs = [frames[r.tensor][t + held.get(r.tensor, 0) - r.past] for r in kernel.step.inputs]
            frames[name].append(quantized._Apply.apply(kernel, limits.get(name), *own.get(name, ()), *inputs))
    return {kernel.step.name: torch.stack(frames[kernel.step.name][held.get(kernel.step.name, 0) :]) for kernel in stage}


@pytest.mark.parametrize("preset", ["int8", "mixlstm"])
def test_backward_through_time_is_autograds(preset: str) -> None:
    """The recurrence as one function against its steps one by one, 20 frames: outputs equal, all gradients to FP32."""
    network = QuantizedTFMLPNet(small(), preset)
    low, grads = network.lower(), []
    stage = next(stage for stage in low.stages() if stage[0].step.loop)
    loop = quantized.Recurrence(stage, low._results(stage), [k.step.name for k in stage if k.out.is_code])
    form = low.program.tensors[loop.outer[0]].format
    ih = torch.randn(20, 1, 129, 16)
    ih = (ih * 30).round().clamp(-128, 127) if form.is_code else ih.bfloat16().float()
    for whole in (True, False):
        x = ih.clone().requires_grad_()
        limits = {k.step.name: torch.zeros(2, dtype=torch.float64, requires_grad=True) for k in stage if k.out.is_code}
        flat = [network.get_parameter(name).detach().clone().requires_grad_() for name in network.names["block1.lstm.hh"]]
        own = {"block1.lstm.hh": flat}
        if whole:
            made = quantized._Recur.apply(loop, *(limits[n] for n in loop.limited), *flat, x)
        else:
            every = unrolled(stage, low, limits, own, {loop.outer[0]: x})
            made = tuple(every[name] for name in loop.results)
        torch.manual_seed(1)
        sum((y * torch.randn(y.shape)).sum() for y in made).backward()
        grads.append([*(y.detach() for y in made), x.grad, *(p.grad for p in flat), *(limits[n].grad for n in loop.limited)])
    for mine, theirs in zip(*grads, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(grads[0][: len(made)], grads[1][: len(made)], strict=True))


def test_bf16_lstm_gradients_are_those_of_a_plain_lstm() -> None:
    """mixlstm's recurrence against an LSTM written out with ordinary operations and straight-through roundings."""
    network = QuantizedTFMLPNet(small(), "mixlstm")
    low = network.lower()
    stage = next(stage for stage in low.stages() if stage[0].step.loop)
    state = low.program.tensors["block1.lstm.state"].format
    loop = quantized.Recurrence(stage, low._results(stage), ["block1.lstm.state"])
    ih = (2 * torch.randn(25, 1, 129, 16)).bfloat16().float()
    edges = torch.tensor([(state.lowest - state.zero_point) * state.scale, (state.highest - state.zero_point) * state.scale])
    values = [ih, *(network.get_parameter(name).detach() for name in network.names["block1.lstm.hh"]), edges]
    x, w, b, limits = (v.clone().double().requires_grad_() for v in values)

    def through(y: T) -> T:
        return y + (y.float().bfloat16().double() - y).detach()

    h = c = torch.zeros(1, 129, 4, dtype=torch.float64)
    outputs = []
    for t in range(len(ih)):
        hh = through(functional.linear(h, fake_quantize_weight(w, 0), b))
        i, f, g, o = through(x[t] + hh).chunk(4, -1)
        i, f, g, o = (through(v) for v in (torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)))
        c = through(through(f * c) + through(i * g))
        h = fake_quantize(through(o * through(torch.tanh(c))), limits[0], limits[1], 8)
        outputs.append(h)
    made_x, made_w, made_b = (v.clone().requires_grad_() for v in values[:3])
    made_limits = edges.double().clone().requires_grad_()
    (made,) = quantized._Recur.apply(loop, made_limits, made_w, made_b, made_x)
    expected = torch.stack(outputs)
    assert close(quantized.real(made.detach(), state), expected.detach(), 1e-2)
    weight = torch.randn(made.shape)
    (made * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for mine, theirs in ((made_x, x), (made_w, w), (made_b, b)):
        assert close(mine.grad, theirs.grad, 0.02)
    assert close(made_limits.grad, limits.grad, 0.05, 0.3 * weight.norm().item() / 255)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_and_range_learns(preset: str) -> None:
    network = QuantizedTFMLPNet(small(), preset)
    x = torch.from_numpy(np.stack([clip(), speech_like(3200)]) / np.float32(32768))
    loss = -qat.pit_si_sdr(network(x), torch.stack((x, x.flip(0)), 1)).mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    codes = [n for n, t in network.lower().program.tensors.items() if t.format.is_code and n not in ("frame", "pcm")]
    assert sum(len(keys) for keys in network.keys.values()) == len(codes)
    for bits, moved in network.moves.items():
        still = {k for k, row in zip(network.keys[int(bits)], moved.grad, strict=True) if not row.any()}
        assert still == (network.held if bits == "8" else set())
    cells = {f"block{b}.lstm.{name}" for b in (1, 2) for name in ("ig", "fc", "c")}
    assert network.held == (cells if preset == "int8" else set())


def gradients_of(container: Container, preset: str) -> tuple[T, dict[str, T]]:
    """A waveform, and the gradients of all parameters and ranges."""
    network = QuantizedTFMLPNet(container, preset)
    made = network(torch.from_numpy(np.stack([clip(), speech_like(3200)]) / np.float32(32768)))
    (made * torch.linspace(-9, 9, 3200).sin()).sum().backward()
    return made.detach(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("block", [1 << 12, 1 << 30])
@pytest.mark.parametrize("preset", ["int8", "fullmlp"])
def test_single_passes_and_blocks_change_nothing(preset: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's operations on all frames at once, and single passes on blocks of any size: outputs to the bit, gradients to the
    order in which FP32 adds them up."""
    monkeypatch.setattr(quantized, "BLOCK", block)
    waveform, found = gradients_of(small(), preset)
    monkeypatch.setattr(quantized, "FUSED", False)
    monkeypatch.setattr(quantized, "BLOCK", 1 << 30)
    expected, wanted = gradients_of(small(), preset)
    assert torch.equal(waveform, expected)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item(), msg=name)


def test_gradients_agree_with_the_float_network() -> None:
    """Finely quantized, the whole backward pass is about the float network's: each parameter's gradient within 32 degrees."""
    container = small(2)
    network = QuantizedTFMLPNet(container, "fullmlp", PRECISE)
    teacher = qat.float_teacher(container, "cpu").requires_grad_(True)
    x = torch.from_numpy(speech_like(3200)[None] / np.float32(32768))
    for model in (network, teacher):
        (model(x) * torch.linspace(-1, 1, 3200).expand(1, 2, -1).sin()).sum().backward()
    theirs = dict(teacher.named_parameters())
    for name, parameter in network.named_parameters():
        if name in theirs:
            assert functional.cosine_similarity(parameter.grad.flatten(), theirs[name].grad.flatten(), 0) > 0.85, name


# Training


def test_steps_lower_the_loss_and_survive_export(tmp_path: Path) -> None:
    """Eight steps on one mixture; the exported container then runs in the golden model with the network's very integers."""
    torch.manual_seed(3)
    network = QuantizedTFMLPNet(small(), "mixmlp")
    x = torch.from_numpy(np.stack([clip(), speech_like(3200)]) / np.float32(32768))
    sources, mix = x[None], x.sum(0, keepdim=True)
    groups = [{"params": [p for n, p in network.named_parameters() if not n.startswith("moves.")]}]
    groups.append({"params": list(network.moves.values()), "lr": 1e-3})
    stepper, losses = torch.optim.AdamW(groups, 3e-3, weight_decay=0.0), []
    for _ in range(8):
        loss = -qat.pit_si_sdr(network(mix), sources).mean()
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        network.settle()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3, losses
    before = small().ranges
    assert any(network.ranges()[bits][key] != before[bits][key] for bits, keys in network.keys.items() for key in keys)
    network.container({"name": "trained"}).save(tmp_path / "out.safetensors")
    model = load(tmp_path / "out.safetensors", "mixmlp")
    assert load_container(tmp_path / "out.safetensors").presets == ("mixmlp",)
    assert not differing({k: v[0] for k, v in network.trace(clip()[None]).items()}, model.trace(clip()))


def test_ranges_always_hold_zero() -> None:
    """A range pushed past zero stops there, and ``settle`` brings the parameter itself back."""
    network = QuantizedTFMLPNet(small(), "mixmlp")
    with torch.no_grad():
        network.moves["8"] += torch.tensor([5.0, -5.0])
    assert all(low == 0.0 == high for low, high in network.ranges()[8].values())
    network.settle()
    limits = network.start_8 + network.width_8 * network.moves["8"]
    assert limits.abs().max() < 1e-9
    network.limits()[8].sum().backward()
    assert (network.moves["8"].grad > 0).all()


@pytest.mark.parametrize("preset", ["int8", "mixmlp"])
def test_sums_stay_without_offset_as_ranges_move(preset: str) -> None:
    """Whatever way ranges move, a sum's is at most 1/32 wider, nearly free of offset, and exported so; a cell's three stay.
    Where nothing moved nothing changes. Of ranges that tensors have for themselves: within one for all no sum has an offset.
    """
    container = calibrate(small(), [clip(), speech_like(3200)])
    own = {key: (low * (1 + k / 100), high * (1 + k / 100)) for k, (key, (low, high)) in enumerate(container.ranges[8].items())}
    own |= {key: container.ranges[8][key] for key in own if ".lstm." in key}
    container = replace(container, ranges={**container.ranges, 8: own})
    network = QuantizedTFMLPNet(container, preset)
    assert all(network.ranges()[8][key] == container.ranges[8][key] for key in network.keys[8])
    with torch.no_grad():
        network.moves["8"] += 0.05 * torch.randn(network.moves["8"].shape, generator=torch.Generator().manual_seed(6))
    network.settle()
    wanted, found = (dict(zip(network.keys[8], network.limits()[8].tolist(), strict=True)), network.ranges()[8])
    offsets: dict[str, list[float]] = {"as moved": [], "without": []}
    assert network.sums and bool(network.held) == (preset == "int8")
    for a, b, y in network.sums:
        assert all(abs(w) <= abs(f) <= abs(w) * 33 / 32 for w, f in zip(wanted[y], found[y], strict=True))
        for kind, span in (("as moved", wanted[y]), ("without", found[y])):
            forms = [activation_format(*ends, 8) for ends in (found[a], found[b], span)]
            offsets[kind].append(abs(residual_errors(*forms)[0]))
    assert np.mean(offsets["without"]) < 0.5 * np.mean(offsets["as moved"])
    summed = {names[2] for names in network.sums}
    for name, span in wanted.items():
        assert name in summed or found[name] == tuple(span)
        assert (tuple(span) == container.ranges[8][name]) == (name in network.held)
    assert network.container({"name": "moved"}).ranges[8] == found


@pytest.mark.parametrize("preset", ["int8", "mixmlp"])
def test_one_range_of_what_residuals_add_up_moves_as_one(preset: str) -> None:
    """By the gradients of all of it; a container whose ranges differ there learns each by itself."""
    container = calibrate(small(), [clip(), speech_like(3200)])
    program = tf_mlpnet.build(container.config, container.weights, {}, load_preset("fp32"), GAP9)
    network = QuantizedTFMLPNet(container, preset)
    rows = [[row for row, key in enumerate(network.keys[8]) if key in stream] for stream in residual_streams(program)]
    shared = [own for own in rows if own]
    assert max(map(len, shared)) > 4
    network.limits()[8].sum().backward()
    for first, *others in shared:
        width = (network.start_8[first, 1] - network.start_8[first, 0]).item()
        assert network.moves["8"].grad[first].tolist() == pytest.approx([width * (1 + len(others))] * 2)
        assert (network.moves["8"].grad[others] == 0).all()
    with torch.no_grad():
        network.moves["8"] += 0.05 * torch.randn(network.moves["8"].shape, generator=torch.Generator().manual_seed(6))
    network.settle()
    for own in shared:
        (moved,) = {network.ranges()[8][network.keys[8][row]] for row in own}
        assert moved != container.ranges[8][network.keys[8][own[0]]]
    apart = QuantizedTFMLPNet(calibrate(small(), [clip()], "minmax"), preset)
    apart.limits()[8].sum().backward()
    assert all((apart.moves["8"].grad[own] > 0).all() for own in shared)


def test_distillation_formula() -> None:
    """L = -10 log10((1 - l) R(y, s) + l w R(y, t)), w = R(y, s) / R(t, s), in NumPy; no teacher is the negative SI-SDR."""
    rng = np.random.Generator(np.random.PCG64(4))
    s, noise, more = rng.standard_normal((3, 3, 2, 500))
    y, t = s + 0.5 * noise, (s + 0.3 * more)[:, ::-1].copy()

    def ratio(a: Array, b: Array) -> Array:
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        target = b * (a * b).sum(-1, keepdims=True) / (b * b).sum(-1, keepdims=True)
        return np.asarray((target**2).sum(-1) / ((a - target) ** 2).sum(-1))

    def best(a: Array, b: Array) -> Array:
        return np.asarray(np.maximum(np.sqrt(ratio(a, b).prod(1)), np.sqrt(ratio(a, b[:, ::-1]).prod(1))))

    expected = -10 * np.log10(0.9 * best(y, s) + 0.1 * best(y, s) / best(t, s) * best(y, t))
    given = [torch.from_numpy(v) for v in (y, s, t)]
    np.testing.assert_allclose(qat.distilled(*given, 0.1).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(qat.distilled(*given[:2], None, 0.1).numpy(), -10 * np.log10(best(y, s)), rtol=1e-6)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers with one utterance of 1.5 s each, a buzz of their own pitch, and a calibrated container beside."""
    folder, rng = tmp_path_factory.mktemp("qat"), np.random.Generator(np.random.PCG64(5))
    time = np.arange(24000) / 16000
    for name, pitch in (("a", 110), ("b", 170), ("c", 240)):
        (folder / "corpus" / name).mkdir(parents=True)
        buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12)) * (1 + np.sin(2 * np.pi * 3 * time))
        soundfile.write(folder / "corpus" / name / "1.wav", 0.1 * buzz + 0.01 * rng.standard_normal(24000), 16000, "PCM_16")
    small().save(folder / "start.safetensors")
    (folder / "list.csv").write_text(
        "id,source1,start1_s,source2,start2_s,snr_db\n1,corpus/a/1.wav,0,corpus/b/1.wav,0.1,2\n", encoding="utf-8"
    )
    return folder


def options(speech: Path, out: Path, *more: object) -> Namespace:
    words = ["--weights", speech / "start.safetensors", "--corpus", speech / "corpus", "--cache", speech / "cache"]
    words += ["--out", out, "--mixtures", 8, "--seconds", 0.3, "--every", 4, "--report", 4, "--warmup", 2, "--device", "cpu"]
    return qat.arguments([str(word) for word in (*words, *more)])


def test_resumed_run_gives_the_same_numbers(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the third step, one step past its checkpoint: the rest of the losses and every weight are the same."""
    whole = qat.train(options(speech, tmp_path / "whole"))
    step = qat.Run.step

    def interrupted(run: qat.Run, corpus: Any) -> float:
        if run.done == 6:
            raise KeyboardInterrupt
        return step(run, corpus)

    with monkeypatch.context() as patch:
        patch.setattr(qat.Run, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            qat.train(options(speech, tmp_path / "parts"))
    assert qat.train(options(speech, tmp_path / "parts")) == whole[2:]
    first, second = (load_container(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert len(whole) == 4 and first.ranges == second.ranges
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    with pytest.raises(qat.InputError, match="seed"):
        qat.train(options(speech, tmp_path / "parts", "--seed", 9))


def test_each_process_clips_its_own(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes share is clipped already, weights and ranges apart; a loss that is not finite changes nothing."""
    args, sizes, distilled = options(speech, tmp_path, "--clip", 1e-3), [], qat.distilled
    container = load_container(args.weights)
    run, corpus = qat.begin(args, container, 0, 2), qat.open_corpus(args, 0, 1)
    sizes_of = [lambda own=own: torch.cat([p.grad.flatten() for p in own]).norm().item() for own in (run.weights, run.ranges)]
    monkeypatch.setattr(qat, "average_gradients", lambda network, world: sizes.append([size() for size in sizes_of]))
    for gain in (1.0, math.nan):
        monkeypatch.setattr(qat, "distilled", lambda *given, gain=gain: gain * distilled(*given))
        before = [p.detach().clone() for p in run.network.parameters()]
        run.step(corpus)
        moved = any(not torch.equal(a, b) for a, b in zip(before, run.network.parameters(), strict=True))
        assert moved == math.isfinite(gain)
    assert sizes[0] == pytest.approx([1e-3, 1e-3], rel=0.01) and sizes[1] == [0, 0]


def test_run_from_the_command_line(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported card says how it was made; the golden model loads the container for its preset and no other."""
    words = ["--weights", speech / "start.safetensors", "--corpus", speech / "corpus", "--cache", speech / "cache"]
    words += ["--out", tmp_path, "--mixtures", 2, "--seconds", 0.3, "--valid", speech / "list.csv", "--preset", "int8"]
    assert qat.main([str(word) for word in (*words, "--device", "cpu")]) == 0
    assert capsys.readouterr().out.count("validation SI-SDRi") == 2
    made, start = load_container(tmp_path / "weights.safetensors"), load_container(speech / "start.safetensors")
    facts = made.card["qat"]
    assert made.presets == ("int8",) and made.card["name"] == "tiny"
    assert (facts["preset"], facts["steps"], facts["seed"], facts["teacher"]) == ("int8", 1, 2, start.digest)
    named = "--weights start.safetensors --preset int8 --corpus FOLDER --valid LIST.csv --out RUN --mixtures 2 --seconds 0.3"
    assert facts["command"] == "python -m weights.train.qat " + named  # nothing of the machine that it ran on
    assert not np.array_equal(made.weights["encoder.weight"], start.weights["encoder.weight"])
    load(tmp_path / "weights.safetensors", "int8")
    with pytest.raises(qat.InputError, match="mixmlp"):
        load(tmp_path / "weights.safetensors", "mixmlp")
    assert qat.main([str(word) for word in (*words, "--preset", "fp32")]) == 2
    assert "quantizes nothing" in capsys.readouterr().err


def test_teacher_is_the_float_network() -> None:
    """The container's floats, frozen; a configuration that the float network cannot follow is refused."""
    x = torch.from_numpy(clip() / np.float32(32768))[None]
    plain = TFMLPNet(blocks=2, channels=4, hidden=4, mixers=1, compression=2).eval()
    plain.load_state_dict({name: torch.from_numpy(value) for name, value in small().weights.items()})
    teacher = qat.float_teacher(small(), "cpu")
    with torch.no_grad():
        torch.testing.assert_close(teacher(x), plain(x))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(qat.InputError, match="--distill 0"):
        qat.float_teacher(small(channel_order="real_first"), "cpu")
