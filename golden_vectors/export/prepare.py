"""What all exporters share: the frames of a case cut, its tensors chosen and brought into the wanted layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np

from golden_vectors.case import Case, encode
from golden_vectors.layouts import (
    axes_of,
    check_layout,
    check_weight_order,
    feature_maps,
    map_features,
    map_weight,
    weight_order,
    weights_of,
)
from golden_vectors.structure import is_framed, past_frames
from refimpl.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Options:
    """What an export changes; the defaults change nothing.

    frames: (first, stop), stop None for the end. limit_bytes bounds the bytes of all tensors. blob is for ``bin``,
    words_per_line for ``hex``.
    """

    layout: str = "hwc"
    pad_channels: int = 1
    weights: str | None = None
    tensors: tuple[str, ...] = ("*",)
    frames: tuple[int, int | None] | None = None
    limit_bytes: int | None = None
    blob: bool = False
    words_per_line: int = 1

    def check(self, form: str) -> None:
        """:class:`InputError` for an option that does not exist or does nothing in this format."""
        check_layout(self.layout, self.pad_channels)
        if self.weights is not None:
            check_weight_order(self.weights)
        if self.blob and form != "bin":
            raise InputError(f"--blob is for --format bin, not for {form}; leave it out")
        if self.words_per_line != 1 and form != "hex":
            raise InputError(f"--words-per-line is for --format hex, not for {form}; leave it out")


@dataclass(frozen=True)
class Item:
    """One tensor to write: ``values`` as stored, ``shape`` as in the case, ``axes`` the stored axes, slowest first.

    Names of axes: T, F, C of feature maps (C/n, C%n in bricks), o, i, h, w of weights; empty where nothing is rearranged.
    """

    name: str
    role: str
    format: str
    values: Array
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    layout: str
    scale: float | None
    zero_point: int | None
    framed: bool

    def entry(self) -> dict[str, Any]:
        """What an index says of the tensor."""
        return {
            "tensor": self.name,
            "role": self.role,
            "format": self.format,
            "dtype": self.values.dtype.str,
            "shape": list(self.shape),
            "layout": self.layout,
            "axes": list(self.axes),
            "stored_shape": list(self.values.shape),
            "strides": [prod(self.values.shape[axis + 1 :]) * self.values.itemsize for axis in range(self.values.ndim)],
            "bytes": self.values.nbytes,
            "scale": None if self.scale is None else float(self.scale).hex(),
            "zero_point": self.zero_point,
        }


@dataclass(frozen=True)
class Prepared:
    """A case ready to be written: its document (without tensors) and its items."""

    case: Case
    document: dict[str, Any]
    items: tuple[Item, ...]

    def index(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """The case's part of an index: everything of its ``case.json``, the tensors replaced by ``entries``."""
        return self.document | {"tensors": entries}


def prepare(case: Case, options: Options) -> Prepared:
    """The case with the options applied; :class:`InputError` where it has no frames to cut, or not those."""
    if options.frames is not None:
        case = cut_frames(case, *options.frames)
    document = json.loads(encode(case)["case.json"])
    features, weights, framed = feature_maps(case), weights_of(case), is_framed(case)
    items = []
    for name, tensor in case.tensors.items():
        if not any(fnmatchcase(name, pattern) for pattern in options.tensors):
            continue
        values = np.ascontiguousarray(tensor.values).reshape(tensor.values.shape)
        axes: tuple[str, ...] = ()
        layout = "plain"
        if name in features:
            values = map_features(tensor.values, options.layout, options.pad_channels, tensor.zero_point or 0)
            axes, layout = axes_of(options.layout, options.pad_channels), options.layout
        elif name in weights:
            order = weight_order(weights[name], options.weights or weights[name])
            values, axes, layout = map_weight(tensor.values, weights[name], order), tuple(order), order
        moves = framed and tensor.role != "constant" and (not axes or axes[0] == "T")
        what = (tensor.role, tensor.format, values, tensor.values.shape, axes, layout, tensor.scale, tensor.zero_point, moves)
        items.append(Item(name, *what))
    del document["tensors"]
    return Prepared(case, document, tuple(items))


def cut_frames(case: Case, first: int, stop: int | None) -> Case:
    """The frames [first, stop) of a case of operators, as a case of its own: its states are those of the cut's ends.

    The past of frame ``first`` is in the case already: frames of the same tensor before it, or of its ``NAME.past``.
    """
    if not is_framed(case):
        raise InputError(f"case {case.id}: has no frames to cut; choose cases of operators, such as --level layers")
    total = len(next(case.tensors[name].values for name in case.names("input", "expected")))
    end = total if stop is None else stop
    if not 0 <= first < end <= total:
        raise InputError(
            f"case {case.id}: has the frames 0:{total}, not {first}:{'' if stop is None else stop}; choose some of those"
        )
    values = {name: case.tensors[name].values[first:end] for name in case.names("input", "expected")}
    for name, count in past_frames(case.steps).items():
        whole = np.concatenate([case.tensors[f"{name}.past"].values, case.tensors[name].values])
        values[f"{name}.past"] = whole[first : first + count]
        if f"{name}.next" in case.tensors:
            values[f"{name}.next"] = whole[end : end + count]
    return case.with_values(values)
