"""Layers to network."""

from __future__ import annotations

from collections.abc import Iterator

from golden_vectors.case import Case


def cases() -> Iterator[Case]:
    yield from ()
