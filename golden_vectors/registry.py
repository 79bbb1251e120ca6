"""Every operator and function that a step of a case may name, with the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from golden_vectors.functions import FUNCTIONS
from refimpl.errors import InputError
from refimpl.numerics.requantize import LAW_NAMES, LAW_RAW, Requantizer
from refimpl.program import OPERATORS, Step


def is_function(name: str) -> bool:
    return name in FUNCTIONS


def called(name: str) -> Callable[..., None]:
    """The operator or function of that name."""
    found = FUNCTIONS.get(name) or OPERATORS.get(name)
    if found is None:
        raise InputError(f"operator {name!r} is unknown to this release; use the release that made the suite")
    return found


def parameter_names(name: str) -> list[str]:
    """The parameters of an operator or function, in order: inputs, constants, outputs."""
    function: Any = called(name)
    return list(inspect.signature(getattr(function, "py_func", function)).parameters)


# The rule that an operator is, first; then those that it is made of. A law's rule comes from the step's requantizer.
RULES: dict[str, tuple[str, ...]] = {
    "fully_connected_frequency": ("L-1",),
    "fully_connected_channels": ("L-2",),
    "fully_connected_frequency_f32": ("L-3",),
    "fully_connected_channels_f32": ("L-4",),
    "conv_causal": ("C-1",),
    "conv_transposed_causal": ("C-2",),
    "conv_causal_f32": ("C-3",),
    "conv_transposed_causal_f32": ("C-4",),
    "conv_causal_bf16": ("C-5", "B-1", "B-2"),
    "conv_transposed_causal_bf16": ("C-6", "B-1", "B-2"),
    "conv_strided": ("C-7",),
    "conv_strided_transposed": ("C-8",),
    "conv_strided_f32": ("C-9",),
    "conv_strided_transposed_f32": ("C-10",),
    "add_two_stage": ("E-1", "N-2", "N-4"),
    "add_joint": ("E-2", "N-2", "N-4"),
    "add_scaled": ("E-10", "N-4"),
    "multiply": ("E-3", "N-2", "N-4"),
    "multiply_scaled": ("E-11", "N-4"),
    "lookup": ("E-4",),
    "add_bf16": ("E-5", "B-3"),
    "multiply_bf16": ("E-6", "B-4"),
    "add_f32": ("E-7",),
    "multiply_f32": ("E-8",),
    "activate_f32": ("E-9", "T-1", "T-2", "T-3"),
    "quantize_f32": ("Q-4", "N-6"),
    "quantize_bf16": ("Q-5", "N-6", "B-2"),
    "dequantize_f32": ("Q-6",),
    "dequantize_bf16": ("Q-7", "B-1"),
    "requantize_codes": ("Q-8", "N-2", "N-4"),
    "requantize_codes_scaled": ("Q-11", "N-4"),
    "narrow_bf16": ("B-1",),
    "widen_bf16": ("B-2",),
    "block_to_bf16": ("F-5", "B-5"),
    "block_to_code": ("F-6", "N-3"),
    "bf16_to_block": ("F-7", "N-3"),
    "code_to_block": ("F-8",),
    "stft": ("F-4", "F-1", "F-2", "F-3", "N-2"),
    "istft": ("F-9", "F-1", "F-3", "F-17", "N-2", "N-5"),
    "overlap_add": ("F-10", "N-4"),
    "to_pcm": ("F-11", "N-3", "N-4"),
    "stft_f32": ("F-12",),
    "istft_f32": ("F-13",),
    "overlap_add_f32": ("F-14",),
    "to_pcm_f32": ("F-15", "N-6"),
}
LAW_RULES = {"folded": "G-2", "norm_twice": "G-3", "bf16": "Q-9", "double": "G-6", "single": "G-7"}


def rules_of(step: Step) -> tuple[str, ...]:
    """The rules of SPEC.md that a step's result depends on, its own first."""
    laws = [LAW_RULES[LAW_NAMES[c.law]] for c in step.constants if isinstance(c, Requantizer) and c.law != LAW_RAW]
    return (*RULES[step.operator], *laws)
