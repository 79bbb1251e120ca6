"""Proof that the vectors catch bugs: small wrong versions of refimpl, each of which some case must refuse.

``python -m golden_vectors.mutants`` runs them all; ``golden_vectors/MUTATION.md`` is its table. The modules ``of_*`` hold the
mutants as data, ``runner`` runs them. Nothing here imports refimpl: a mutated copy is imported in its place.
"""
