"""The changes that edits are made of: each makes one trial from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.diagnosis.site import Array, Outputs
from conformance.diagnosis.trial import Trial

Change = Callable[[Trial], Trial]


def knobs(**values: Any) -> Change:
    """The model of the operator with other knobs."""
    return lambda t: t.with_knobs(**values)


def after(change: Callable[..., Array], index: int | None = None, *more: Any) -> Change:
    """Every output changed by ``change(output, *more)``, or only the one of that index."""
    return lambda t: t.with_after(lambda a: change(a, *more), index)


def reads(index: int, values: Array) -> Change:
    """These values as an input."""
    return lambda t: t.with_input(index, values)


def takes(index: int, change: Callable[..., Array], *more: Any) -> Change:
    """An input changed by ``change(input, *more)``."""
    return lambda t: t.with_input(index, change(t.inputs[index], *more))


def constants(**values: Any) -> Change:
    """These values as constants."""
    return lambda t: t.with_constants(**values)


def constant(label: str, change: Callable[..., Any], *more: Any) -> Change:
    """A constant changed by ``change(constant, *more)``."""
    return lambda t: t.with_constants(**{label: change(t.constant(label), *more)})


def instead(function: Callable[..., Outputs], *arguments: Any, **named: Any) -> Change:
    """``function(trial, ...)`` in place of the operator."""
    return lambda t: t.with_instead(lambda u: function(u, *arguments, **named))


def plus(values: Array, amount: int) -> Array:
    out: Array = values + values.dtype.type(amount)
    return out
