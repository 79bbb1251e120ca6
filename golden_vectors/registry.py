"""Every operator and function that a step of a case may name, with the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from golden_vectors.functions import FUNCTIONS
from refimpl.errors import InputError
from refimpl.program import OPERATORS


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
