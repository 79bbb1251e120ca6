"""Golden vectors: every case is a folder of inputs, constants and expected tensors, with the reason why it is there.

``python -m golden_vectors generate|verify|list|export``; the format is described in ``golden_vectors/README.md``.
"""
