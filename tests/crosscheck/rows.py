"""What a check reports: one row per thing compared, with how many values and how many of them differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
PACKAGES = "pip install -r tests/crosscheck/requirements.txt"
EQUAL, DIFFERS = "equal", "differs"  # what a row must be; None: it only informs


@dataclass(frozen=True)
class Row:
    """``what`` compared in ``values`` values, ``differing`` of them not the same; ``expected`` EQUAL, DIFFERS or None."""

    what: str
    values: int
    differing: int
    expected: str | None = EQUAL
    largest: int = 0  # the largest difference in codes

    @property
    def passed(self) -> bool:
        """A row without values shows nothing: it never passes."""
        if self.values == 0:
            return False
        return self.expected is None or (self.differing > 0) == (self.expected == DIFFERS)


@dataclass(frozen=True)
class Oracle:
    """``version`` is None where it is not installed; ``run(seed)`` yields the rows."""

    name: str
    remedy: str
    version: Callable[[], str | None]
    run: Callable[[int], Iterator[Row]]


class Tally:
    """Adds up comparisons to one row."""

    def __init__(self, what: str, expected: str | None = EQUAL) -> None:
        self.what, self.expected = what, expected
        self.values = self.differing = self.largest = 0

    def add(self, ours: Array, theirs: Array) -> None:
        """Two integer arrays of one shape; another shape is a mistake of the check, not a difference."""
        if ours.shape != theirs.shape:
            raise ValueError(f"{self.what}: shapes {ours.shape} and {theirs.shape}")
        difference = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        self.values += difference.size
        self.differing += int(np.count_nonzero(difference))
        self.largest = max(self.largest, int(difference.max(initial=0)))

    def row(self) -> Row:
        return Row(self.what, self.values, self.differing, self.expected, self.largest)


def installed(*packages: str) -> Callable[[], str | None]:
    """The version of the first package, if all are installed."""

    def version() -> str | None:
        try:
            versions = [metadata.version(package) for package in packages]
        except metadata.PackageNotFoundError:
            return None
        return versions[0]

    return version
