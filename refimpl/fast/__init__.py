"""The fast path: kernels that are bit-equal to those of ``refimpl.operators``, and an executor that runs a program on them.

The operators are the specification; a kernel here has the name and the arguments of the one that it replaces, and where the
proof that 32-bit lanes hold its values fails, or its types are new to it, it calls that one.
"""
