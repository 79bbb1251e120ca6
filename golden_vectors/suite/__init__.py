"""The suites: which cases there are. ``committed`` is what the repository holds; ``large`` is made on demand."""

from __future__ import annotations

from collections.abc import Iterator

from golden_vectors.case import Case
from golden_vectors.suite import (
    constants,
    elementwise,
    large,
    network,
    numerics,
    operators,
    profile_numerics,
    profile_operators,
    released,
    transforms,
)

SUITES = {
    "committed": (numerics, constants, profile_numerics, operators, elementwise, transforms, profile_operators, network),
    "large": (large, released),
}


def cases(suite: str = "committed") -> Iterator[Case]:
    """All cases of a suite, in order; every id occurs once."""
    for module in SUITES[suite]:
        yield from module.cases()
