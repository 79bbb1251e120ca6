"""The weights container: one safetensors file, checked on the way in, whole on the way out. No pickle (SPEC W-1, W-2).

Tensors: the float32 parameters under their PyTorch names. Metadata key ``refimpl``: JSON with the network's configuration, the
version of the arithmetic that the ranges were made for, the presets it serves, activation ranges by bit width and tensor name,
a free-form card, and SHA-256 over all of it and every parameter.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, parameters
from refimpl.presets import NAMES
from refimpl.version import ARITHMETIC

Array = np.ndarray[Any, np.dtype[Any]]
Ranges = dict[int, dict[str, tuple[float, float]]]
FORMAT = 1


@dataclass(frozen=True)
class Container:
    """Float weights, activation ranges ``{bits: {tensor: (low, high)}}`` and what is known about them."""

    config: Config
    weights: Mapping[str, Array]
    ranges: Ranges = field(default_factory=dict)
    presets: tuple[str, ...] = ("fp32",)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of header and parameters, as stored."""
        return _digest(self._header(), self.weights)

    def _header(self) -> dict[str, Any]:
        ranges = {str(bits): {k: [lo, hi] for k, (lo, hi) in table.items()} for bits, table in self.ranges.items()}
        return {
            "format": FORMAT,
            "network": "tf_mlpnet",
            "arithmetic": ARITHMETIC,
            "config": self.config.to_dict(),
            "presets": list(self.presets),
            "ranges": ranges,
            "card": dict(self.card),
        }

    def save(self, path: Path) -> None:
        """Write the container whole or not at all; the same content gives the same bytes."""
        header = self._header()
        header["sha256"] = _digest(header, self.weights)
        tensors = {name: np.ascontiguousarray(self.weights[name], np.float32) for name in parameters(self.config)}
        write_whole(path, serialize(tensors, {"refimpl": json.dumps(header, sort_keys=True)}))


def _digest(header: Mapping[str, Any], weights: Mapping[str, Array]) -> str:
    bare = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder; :class:`InputError` where it cannot."""
    try:
        handle, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot write here ({error.strerror}); choose another folder") from None
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot write ({error.strerror}); choose another folder") from None
    finally:  # also after an interrupt; nothing is there any more where all went well
        Path(partial).unlink(missing_ok=True)


def load_container(path: Path) -> Container:
    """Read and check a container; :class:`InputError` says what is wrong with it.

    Checked: readable, header of this format and arithmetic, configuration, every parameter's name, shape and dtype, the
    checksum, and that every value is finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; give the path of a refimpl container (.safetensors)")
    try:
        with safe_open(path, framework="numpy") as source:
            metadata = source.metadata() or {}
            weights = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole safetensors file ({reason}); fetch it again") from None
    if "refimpl" not in metadata:
        raise InputError(f"{path}: a safetensors file but no refimpl container; make one with python -m refimpl.convert")
    try:
        header = json.loads(metadata["refimpl"])
        version = header["format"]
        if version != FORMAT or header["network"] != "tf_mlpnet":
            raise InputError(f"{path}: container format {version} of {header['network']!r} is unknown; update refimpl")
        config = Config.from_dict(header["config"])
        ranges = {
            int(bits): {str(k): (float(lo), float(hi)) for k, (lo, hi) in table.items()}
            for bits, table in header["ranges"].items()
        }
        presets, card, digest = tuple(header["presets"]), dict(header["card"]), header["sha256"]
        arithmetic = header["arithmetic"]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged container header ({error!r}); fetch it again") from None
    if arithmetic != ARITHMETIC:
        raise InputError(
            f"{path}: made for arithmetic version {arithmetic}, this is {ARITHMETIC}; quantize it again with this version"
        )
    check_parameters(str(path), config, weights)
    container = Container(config, weights, ranges, presets, card)
    if _digest(header, weights) != digest or container.digest != digest:
        raise InputError(f"{path}: checksum mismatch, the file was changed after it was made; fetch it again")
    if any(not math.isfinite(v) for table in ranges.values() for pair in table.values() for v in pair):
        raise InputError(f"{path}: an activation range is not finite; calibrate again")
    return container


def check_parameters(what: str, config: Config, weights: Mapping[str, Array]) -> None:
    """Names, shapes, dtype and finiteness of the parameters against the configuration."""
    expected = parameters(config)
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or extra:
        name = (missing or extra)[0]
        raise InputError(
            f"{what}: {len(missing)} parameters missing and {len(extra)} unknown, first {name!r}; "
            "see weights/README.md for the names"
        )
    for name, shape in expected.items():
        value = weights[name]
        if value.shape != shape or value.dtype != np.float32:
            raise InputError(
                f"{what}: parameter {name!r} is {value.dtype} {list(value.shape)}, not float32 {list(shape)}; "
                "see weights/README.md"
            )
        if not np.isfinite(value).all():
            raise InputError(f"{what}: parameter {name!r} holds NaN or infinity; train or export it again")


def default_weights() -> Path:
    """The shipped container: inside an installed wheel, or ``weights/`` of the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_weights", package.parent / "weights"):
        if (folder / "tf_mlpnet.safetensors").is_file():
            return folder / "tf_mlpnet.safetensors"
    raise InputError("the shipped weights tf_mlpnet.safetensors are missing from this installation; give --weights FILE")


def check_preset(container: Container, preset: str, what: str) -> None:
    """A preset of the paper's must be among the container's; ours and files are judged by the ranges that they need."""
    if preset in NAMES and preset not in container.presets:
        raise InputError(
            f"{what}: holds no preset {preset!r}, only {', '.join(container.presets)}; "
            "make one that does with python -m refimpl.quantize"
        )
