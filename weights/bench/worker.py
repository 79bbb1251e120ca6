"""One contender of the benchmark in a process of its own: ``python -m weights.bench.worker NAME CLIP.npy``.

It prints a line of JSON when it is ready; then for each line ``offline`` or ``streaming`` on stdin the seconds that one pass
over the clip took, by both clocks; then, for any other line, its memory. One thread.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.weights_io import default_weights, load_container

HOP, BACK_PAD, N_FFT, SYNTHESIS = 96, 96, 256, 160
Array = np.ndarray[Any, np.dtype[Any]]
Pass = Callable[[], Any]


def peak_kib() -> int:
    """The most memory that this process held. (Linux's ``ru_maxrss`` starts at that of the process that forked it.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def windows() -> tuple[Array, Array]:
    from refimpl.quantization.lowering import analysis_window, synthesis_window

    analysis = analysis_window("hann")
    return (analysis * 2.0**-30).astype(np.float32), synthesis_window(analysis).astype(np.float32)


def spectra(pcm: Array, analysis: Array) -> Array:
    """[1, 2, T, F] of a clip."""
    total = -(-len(pcm) // HOP)
    padded = np.zeros((total - 1) * HOP + N_FFT, np.float32)
    padded[BACK_PAD : BACK_PAD + len(pcm)] = pcm / np.float32(32768)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    bins = np.fft.rfft(frames * analysis).astype(np.complex64)
    return np.stack([bins.real, bins.imag])[None]


def waveforms(y: Array, synthesis: Array) -> Array:
    """[1, 2S, T, F], speaker-major, to [S, n]."""
    parts = y[0].reshape(-1, 2, *y.shape[2:])
    tails = np.fft.irfft(parts[:, 0] + 1j * parts[:, 1], N_FFT).astype(np.float32)[..., -SYNTHESIS:] * synthesis
    heads, rest = tails[..., :HOP].copy(), tails[..., HOP:]
    heads[:, 1:, : SYNTHESIS - HOP] += rest[:, :-1]
    return heads.reshape(len(heads), -1)


def with_torch(clip: Array) -> tuple[Pass, Pass]:
    """PyTorch FP32, eager: the training model on the whole clip, and frame by frame with its state."""
    import torch

    from weights.train.model import TFMLPNet

    torch.set_num_threads(1)
    container = load_container(default_weights())
    model = TFMLPNet(blocks=container.config.blocks)
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in container.weights.items()})
    model.eval()
    wave = torch.from_numpy(clip.astype(np.float32) / 32768)[None]
    functional = torch.nn.functional
    kernel = model.decoder.weight.detach().transpose(0, 1).flip(2, 3).contiguous()

    def offline() -> Any:
        with torch.inference_mode():
            return model(wave)[0].numpy()

    def frame(spectrum: Any, state: dict[str, Any]) -> Any:
        past = torch.cat((state["encoder"], spectrum), 2)
        state["encoder"] = past[:, :, 1:]
        x = model.encoder(functional.pad(past, (1, 1))).permute(0, 2, 3, 1).contiguous()
        for b, block in enumerate(model.blocks):
            y = x
            for mixer in block.mixers:
                y = mixer(y)
            x = x + block.intra_linear(y)
            y, state[f"lstm{b}"] = block.lstm(x[0], state.get(f"lstm{b}"))
            x = x + block.inter_linear(y[None])
        past = torch.cat((state["decoder"], x.permute(0, 3, 1, 2)), 2)
        state["decoder"] = past[:, :, 1:]
        return functional.conv2d(functional.pad(past, (1, 1)), kernel, model.decoder.bias)

    def streaming() -> Any:
        out, tail = [], torch.zeros(model.speakers, SYNTHESIS - HOP)
        state = {"encoder": torch.zeros(1, 2, 2, 129), "decoder": torch.zeros(1, 32, 2, 129)}
        total = -(-len(clip) // HOP)
        padded = functional.pad(wave[0], (BACK_PAD, (total - 1) * HOP + N_FFT - BACK_PAD - len(clip)))
        with torch.inference_mode():
            for t in range(total):
                bins = torch.fft.rfft(padded[t * HOP : t * HOP + N_FFT] * model.analysis)
                y = frame(torch.stack((bins.real, bins.imag))[None, :, None], state)[0, :, 0].reshape(-1, 2, 129)
                piece = torch.fft.irfft(torch.complex(y[:, 0], y[:, 1]), N_FFT)[:, -SYNTHESIS:] * model.synthesis
                piece[:, : SYNTHESIS - HOP] += tail
                out.append(piece[:, :HOP])
                tail = piece[:, HOP:]
        return torch.cat(out, 1).numpy()

    return offline, streaming


def with_onnxruntime(clip: Array, quantized: str) -> tuple[Pass, Pass]:
    """ONNX Runtime: ``""`` FP32, ``"float"`` INT8 with a float LSTM, ``"dynamic"`` INT8 with a dynamically quantized one."""
    import onnxruntime

    from weights.bench.graph import build, quantize

    container = load_container(default_weights())
    analysis, synthesis = windows()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def session(streaming: bool) -> Any:
        model = build(container.weights, container.config.blocks, streaming)
        whole = model.SerializeToString()
        if not quantized:
            return onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        plain = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            feeds = frames(plain) if streaming else iter([{"spectrum": spectra(clip, analysis)[:, :, :600]}])
            made = quantize(model, feeds, Path(folder), quantized == "dynamic")
            return onnxruntime.InferenceSession(str(made), options, providers=["CPUExecutionProvider"])

    def start(plain: Any) -> dict[str, Array]:
        return {i.name: np.zeros(i.shape, np.float32) for i in plain.get_inputs() if i.name != "spectrum"}

    def frames(plain: Any) -> Iterator[dict[str, Array]]:
        """Inputs of the streaming graph on the clip, for calibration."""
        state, names = start(plain), [o.name for o in plain.get_outputs()]
        for t, column in enumerate(np.moveaxis(spectra(clip, analysis)[:, :, :400], 2, 0)):
            feed = {"spectrum": column[:, :, None]} | state
            if t % 4 == 0:
                yield feed
            found = dict(zip(names, plain.run(None, feed), strict=True))
            state = {name: found[name.replace(".past", ".next")] for name in state}

    whole, step = session(False), session(True)
    names = [o.name for o in step.get_outputs()]

    def offline() -> Any:
        return waveforms(whole.run(None, {"spectrum": spectra(clip, analysis)})[0], synthesis)

    def streaming() -> Any:
        state = start(step)
        total = -(-len(clip) // HOP)
        padded = np.zeros((total - 1) * HOP + N_FFT, np.float32)
        padded[BACK_PAD : BACK_PAD + len(clip)] = clip / np.float32(32768)
        out, tail = [], np.zeros((container.config.speakers, SYNTHESIS - HOP), np.float32)
        for t in range(total):
            bins = np.fft.rfft(padded[t * HOP : t * HOP + N_FFT] * analysis).astype(np.complex64)
            feed = {"spectrum": np.stack([bins.real, bins.imag])[None, :, None]} | state
            found = dict(zip(names, step.run(None, feed), strict=True))
            state = {name: found[name.replace(".past", ".next")] for name in state}
            y = found["separated"][0, :, 0].reshape(-1, 2, 129)
            piece = np.fft.irfft(y[:, 0] + 1j * y[:, 1], N_FFT).astype(np.float32)[:, -SYNTHESIS:] * synthesis
            piece[:, : SYNTHESIS - HOP] += tail
            out.append(piece[:, :HOP])
            tail = piece[:, HOP:]
        return np.concatenate(out, 1)

    return offline, streaming


def with_refimpl(clip: Array, preset: str, kernels: str, tier: str | None) -> tuple[Pass, Pass]:
    from refimpl.bench import stream_through
    from refimpl.session import load

    model = load(preset=preset, kernels=kernels, tier=tier)
    return lambda: model.separate(clip) / 32768, lambda: stream_through(model, clip) / 32768


def contender(name: str, clip: Array) -> tuple[Pass, Pass]:
    family, _, variant = name.partition(":")
    if family == "torch":
        return with_torch(clip)
    if family == "onnxruntime":
        return with_onnxruntime(clip, {"fp32": "", "int8": "dynamic", "int8-float-lstm": "float"}[variant])
    preset, _, tier = variant.partition("@")
    return with_refimpl(
        clip, preset, "reference" if tier == "reference" else "auto", tier if tier not in ("", "reference") else None
    )


def main() -> None:
    began = time.perf_counter()
    name, clip = sys.argv[1], np.load(sys.argv[2])
    base = peak_kib()
    offline, streaming = contender(name, clip)
    results = {"offline": np.asarray(offline()), "streaming": np.asarray(streaming())}
    ready = time.perf_counter() - began
    level = float(np.sqrt(np.mean(results["offline"] ** 2)))
    print(json.dumps({"name": name, "ready_s": ready, "rms": level}), flush=True)
    for line in sys.stdin:
        mode = line.strip()
        if mode not in results:
            break
        began, spent = time.perf_counter(), time.process_time()
        (offline if mode == "offline" else streaming)()
        print(json.dumps({"wall": time.perf_counter() - began, "cpu": time.process_time() - spent}), flush=True)
    print(json.dumps({"peak_kib": peak_kib(), "at_start_kib": base}), flush=True)


if __name__ == "__main__":
    main()
