"""``python -m refimpl.convert``: a PyTorch state dict becomes a float weights container.

The network's dimensions are read off the shapes of the parameters; what no shape tells (the window, the padding, the order of
the decoder's channels) is said by options. The result serves preset fp32; ``python -m refimpl.quantize`` adds the others.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from refimpl.cli import Parser, check_target, guarded, printable
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, parameter_count
from refimpl.quantization.lowering import BINS
from refimpl.weights_io import Container, check_parameters

Array = np.ndarray[Any, np.dtype[Any]]
PICKLED = (".pt", ".pth", ".bin")
CHECKPOINT_KEYS = ("model", "state_dict")  # where training scripts keep the state dict
SAFETENSORS_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
REMEDY = "see weights/README.md for the names and shapes"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser("refimpl.convert", "Make a float weights container of a PyTorch state dict.")
    parser.add_argument("state", type=Path, metavar="STATE", help=f"state dict: .safetensors, or {' '.join(PICKLED)}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the container to write")
    parser.add_argument(
        "--window", choices=("hann", "rect"), default=Config.window, help="analysis window (default %(default)s)"
    )
    parser.add_argument(
        "--frequency-padding",
        choices=("symmetric", "top"),
        default=Config.frequency_padding,
        help="of the 3x3 convolutions: one bin on each side, or two above the highest (default %(default)s)",
    )
    parser.add_argument(
        "--channel-order",
        choices=("speaker_major", "real_first"),
        default=Config.channel_order,
        help="of the decoder: re1 im1 re2 im2, or re1 re2 im1 im2 (default %(default)s)",
    )
    parser.add_argument("--name", metavar="TEXT", help="what to call these weights in the container (default: STATE's name)")
    options = parser.parse_args(argv)
    check_target(options.output, options.state)
    container = convert(
        options.state, options.window, options.frequency_padding, options.channel_order, options.name or options.state.stem
    )
    container.save(options.output)
    print(printable(options.output))
    print(f"  sha256      {container.digest}")
    print(f"  parameters  {parameter_count(container.config):,}")
    for name, value in container.config.to_dict().items():
        print(f"  {name:<17}  {value}")
    return 0


def convert(path: Path, window: str, frequency_padding: str, channel_order: str, name: str) -> Container:
    """The float container of the state dict at ``path``; :class:`InputError` where it is no state dict of this network."""
    weights = load_state(path)
    shapes = {key: value.shape for key, value in weights.items()}
    config = infer_config(str(path), shapes, window, frequency_padding, channel_order)
    check_parameters(str(path), config, weights)
    return Container(config, weights, card={"name": name})


def load_state(path: Path) -> dict[str, Array]:
    """The parameters of a state dict as float32, without the prefix ``module.`` of a data-parallel model."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a PyTorch state dict")
    if path.suffix == ".safetensors":
        tensors = _load_safetensors(path)
    elif path.suffix in PICKLED:
        tensors = _load_pickled(path)
    else:
        raise InputError(
            f"{path}: is neither a .safetensors file nor one of {', '.join(PICKLED)}; export the state dict to one"
        )
    state: dict[str, Array] = {}
    for key, value in tensors.items():
        name = key.removeprefix("module.")
        if name in state:
            raise InputError(f"{path}: parameter {name!r} is there twice, with and without 'module.'; export it again")
        state[name] = value
    return state


def _load_safetensors(path: Path) -> dict[str, Array]:
    try:
        data = path.read_bytes()
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); export it again") from None
    if "refimpl" in metadata:
        raise InputError(
            f"{path}: is a refimpl container already; run it with python -m refimpl.run --weights, "
            "or calibrate it with python -m refimpl.quantize"
        )
    state = {}
    for name, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in SAFETENSORS_FLOATS:
            raise InputError(
                f"{path}: parameter {name!r} has dtype {kind}, not one of {', '.join(SAFETENSORS_FLOATS)}; {REMEDY}"
            )
        values = np.frombuffer(tensor["data"], SAFETENSORS_FLOATS[kind]).reshape(tensor["shape"])
        if kind == "BF16":
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused with its name
            state[name] = values.astype(np.float32)
    return state


def _load_pickled(path: Path) -> dict[str, Array]:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"{path}: reading it needs PyTorch, which is not installed: pip install torch, or export to .safetensors"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise InputError(
            f"{path}: torch cannot read it as tensors alone ({type(error).__name__}); save model.state_dict() with torch.save"
        ) from None
    for key in CHECKPOINT_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"{path}: holds no state dict; save model.state_dict() with torch.save")
    state = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{path}: entry {name!r} is {type(value).__name__}, not a parameter; save model.state_dict()")
        if not value.is_floating_point():
            raise InputError(f"{path}: parameter {name!r} has dtype {value.dtype}, not a float type; {REMEDY}")
        state[name] = value.detach().to(torch.float32).contiguous().numpy()
    return state


def infer_config(
    what: str, shapes: Mapping[str, tuple[int, ...]], window: str, frequency_padding: str, channel_order: str
) -> Config:
    """The configuration that parameters of these shapes belong to; :class:`InputError` names the parameter that does not fit.

    Only what the configuration follows from is looked at here; ``check_parameters`` checks the rest against it.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise InputError(f"{what}: parameter {name!r} is missing, so this is no TF-MLPNet state dict; {REMEDY}")
        if len(shapes[name]) != rank or 0 in shapes[name]:
            raise InputError(f"{what}: parameter {name!r} has shape {list(shapes[name])}, not {rank} dimensions; {REMEDY}")
        return shapes[name]

    def count(pattern: str) -> int:
        return len({found[1] for found in (re.match(pattern, name) for name in shapes) if found})

    outputs = shape("decoder.weight", 4)[1]
    if outputs % 2:
        raise InputError(
            f"{what}: parameter 'decoder.weight' has {outputs} output channels, not two for each speaker; {REMEDY}"
        )
    bins = shape("blocks.0.mixers.0.freq1.weight", 2)[0]
    compress = "blocks.0.compress.weight"
    compression = shape(compress, 3)[2] if compress in shapes else 1
    if bins != BINS // compression:
        raise InputError(
            f"{what}: parameter 'blocks.0.mixers.0.freq1.weight' is for {bins} bins; with compression {compression} "
            f"there are {BINS // compression}; {REMEDY}"
        )
    return Config(
        speakers=outputs // 2,
        blocks=count(r"blocks\.(\d+)\."),
        channels=shape("encoder.weight", 4)[0],
        hidden=shape("blocks.0.lstm.weight_hh_l0", 2)[1],
        mixers=count(r"blocks\.0\.mixers\.(\d+)\."),
        compression=compression,
        window=window,
        frequency_padding=frequency_padding,
        channel_order=channel_order,
    )


if __name__ == "__main__":
    sys.exit(main())
