"""Memory layouts of other devices: feature maps and weights there and back, without loss.

A feature map of a case is [T, F, C] in C order: frame, bin, channel, the channel fastest.

=========  ======================  =====================================================================================
layout     stored axes             used by
=========  ======================  =====================================================================================
``hwc``    [T, F, C]               the cases themselves; GAP9 NE16, CMSIS-NN, TFLite
``chw``    [T, C, F]               one frame at a time, channel planes within it
``ctf``    [C, T, F]               a whole clip as one image: PyTorch and ONNX without their batch axis
``hcwb``   [T, C / n, F, n]        bricks of n channels: NHCWB16 of Ethos-U with n = 16
=========  ======================  =====================================================================================

``pad_channels`` n fills C up to a multiple of n, with the zero point of codes and with zero else; bricks have it as their size.
A layout of weights is an order of the axes o (output), i (input), h (time tap) and w (frequency tap), such as ``ohwi``; a
weight without some of these axes has the rest in that order: ``oi`` for a fully connected layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from golden_vectors.structure import is_framed
from refimpl.errors import InputError

if TYPE_CHECKING:
    from golden_vectors.case import Case

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
LAYOUTS = ("hwc", "chw", "ctf", "hcwb")
AXES = {"hwc": ("T", "F", "C"), "chw": ("T", "C", "F"), "ctf": ("C", "T", "F")}
PERMUTATIONS = {"hwc": (0, 1, 2), "chw": (0, 2, 1), "ctf": (2, 0, 1)}
LARGEST_PADDING = 1024

# What the axes of an operator's ``weight`` are in a case: h is the tap in time, w the tap in frequency.
WEIGHT_AXES = {
    "fully_connected_frequency": "oi",
    "fully_connected_channels": "io",
    "fully_connected_frequency_f32": "oi",
    "fully_connected_channels_f32": "io",
    "conv_causal": "hwio",
    "conv_transposed_causal": "hwio",
    "conv_causal_f32": "hwio",
    "conv_transposed_causal_f32": "hwio",
    "conv_causal_bf16": "hwio",
    "conv_transposed_causal_bf16": "hwio",
    "conv_strided": "wio",
    "conv_strided_transposed": "wio",
    "conv_strided_f32": "wio",
    "conv_strided_transposed_f32": "wio",
}

# Operators whose tensors of rank 3 are [T, speaker, sample], no feature maps.
TIME_INPUTS = {"overlap_add", "overlap_add_f32", "to_pcm", "to_pcm_f32"}
TIME_OUTPUTS = {"istft", "istft_f32", *TIME_INPUTS}


# -- feature maps -----------------------------------------------------------------------------------------------------


def check_layout(layout: str, pad_channels: int) -> None:
    """:class:`InputError` where there is no such layout, or no such padding in it."""
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
    if not 1 <= pad_channels <= LARGEST_PADDING:
        raise InputError(f"channels cannot be padded to a multiple of {pad_channels}; use 1 to {LARGEST_PADDING}")
    if layout == "hcwb" and pad_channels == 1:
        raise InputError("layout hcwb needs the channels of a brick; give them as the padding, such as 16")


def axes_of(layout: str, pad_channels: int = 1) -> tuple[str, ...]:
    """The names of the stored axes, slowest first."""
    return AXES.get(layout) or ("T", f"C/{pad_channels}", "F", f"C%{pad_channels}")


def mapped_shape(shape: Shape, layout: str, pad_channels: int = 1) -> Shape:
    """The stored shape of a feature map of logical ``shape`` [T, F, C]."""
    frames, bins, channels = shape
    padded = -(-channels // pad_channels) * pad_channels
    if layout == "hcwb":
        return (frames, padded // pad_channels, bins, pad_channels)
    logical = (frames, bins, padded)
    return tuple(logical[axis] for axis in PERMUTATIONS[layout])


def map_features(values: Array, layout: str, pad_channels: int = 1, fill: int = 0) -> Array:
    """A feature map [T, F, C] as a contiguous array in ``layout``; ``fill`` goes into padded channels."""
    check_layout(layout, pad_channels)
    frames, bins, channels = values.shape
    missing = -channels % pad_channels
    if missing:
        values = np.concatenate([values, np.full((frames, bins, missing), fill, values.dtype)], 2)
    if layout == "hcwb":
        bricks = values.reshape(frames, bins, (channels + missing) // pad_channels, pad_channels)
        return np.ascontiguousarray(bricks.transpose(0, 2, 1, 3))
    return np.ascontiguousarray(values.transpose(PERMUTATIONS[layout]))


def unmap_features(stored: Array, layout: str, shape: Shape, pad_channels: int = 1) -> Array:
    """The feature map of logical ``shape`` [T, F, C] that :func:`map_features` stored; what padding holds is not looked at.

    :class:`InputError` where the stored shape is not that of ``shape`` in the layout.
    """
    check_layout(layout, pad_channels)
    if stored.shape != mapped_shape(shape, layout, pad_channels):
        wanted = list(mapped_shape(shape, layout, pad_channels))
        raise InputError(
            f"{list(stored.shape)} is not {list(shape)} in layout {layout}, which is {wanted}; check the layout and the padding"
        )
    if layout == "hcwb":
        frames, bricks, bins, width = stored.shape
        logical = stored.transpose(0, 2, 1, 3).reshape(frames, bins, bricks * width)
    else:
        logical = stored.transpose(np.argsort(PERMUTATIONS[layout]))
    return np.ascontiguousarray(logical[:, :, : shape[2]])


def feature_maps(case: Case) -> set[str]:
    """The tensors of a case that are feature maps [T, F, C], their states too: what a layout is applied to."""
    if not is_framed(case):
        return set()
    time = {ref.tensor for step in case.steps if step.operator in TIME_INPUTS for ref in step.inputs}
    time |= {name for step in case.steps if step.operator in TIME_OUTPUTS for name in step.outputs}
    found = set()
    for name in case.names("input", "expected", "state", "next_state"):
        owner = name.removesuffix(".past").removesuffix(".next")
        if case.tensors[name].values.ndim == 3 and owner not in time and name not in time:
            found.add(name)
    return found


# -- weights ----------------------------------------------------------------------------------------------------------


def check_weight_order(order: str) -> None:
    """:class:`InputError` where ``order`` does not have each of o, i, h and w once."""
    if sorted(order) != sorted("hwio"):
        raise InputError(f"weight layout {order!r} is not an order of o, i, h and w; give one such as ohwi")


def weight_order(axes: str, order: str) -> str:
    """``order`` without the axes that a weight of ``axes`` does not have: ``oi`` of ``ohwi`` for ``io``."""
    return "".join(axis for axis in order if axis in axes)


def map_weight(weight: Array, axes: str, order: str) -> Array:
    """A weight of ``axes`` as a contiguous array in ``order``, which may name axes that it does not have."""
    return np.ascontiguousarray(weight.transpose([axes.index(axis) for axis in weight_order(axes, order)]))


def unmap_weight(stored: Array, axes: str, order: str) -> Array:
    """The weight of ``axes`` that :func:`map_weight` stored in ``order``."""
    return map_weight(stored, weight_order(axes, order), axes)


def weights_of(case: Case) -> dict[str, str]:
    """The weights of a case by tensor name, with their axes."""
    found = {}
    for step in case.steps:
        name, axes = f"{step.name}.weight", WEIGHT_AXES.get(step.operator)
        if axes and name in case.tensors and case.tensors[name].values.ndim == len(axes):
            found[name] = axes
    return found


# -- what a wrong shape may have been ---------------------------------------------------------------------------------


def guesses(shape: Shape, paddings: Iterable[int] = (2, 4, 8, 16, 32, 64)) -> dict[Shape, str]:
    """Stored shapes of a feature map in other layouts and paddings, each with the options that would read it."""
    found: dict[Shape, str] = {}
    if len(shape) != 3:
        return found
    for layout in ("hwc", "chw", "ctf"):
        found.setdefault(mapped_shape(shape, layout), f"layout {layout}")
    for padding in paddings:
        for layout in LAYOUTS:
            found.setdefault(
                mapped_shape(shape, layout, padding), f"layout {layout} with channels padded to a multiple of {padding}"
            )
    return found
