"""All mutants, in the order of the table."""

from __future__ import annotations

from golden_vectors.mutants import of_lowering, of_network, of_numerics, of_operators, of_profiles, of_transforms

PARTS = (of_numerics, of_operators, of_transforms, of_lowering, of_profiles, of_network)
MUTANTS = tuple(m for part in PARTS for m in part.MUTANTS)
