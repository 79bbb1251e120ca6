"""The large suite, made on demand: exhaustive numerics, and the released network on a whole clip for every preset."""

from __future__ import annotations

from collections.abc import Iterator

from golden_vectors.case import Case


def cases() -> Iterator[Case]:
    yield from ()
