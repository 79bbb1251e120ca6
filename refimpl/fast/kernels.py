"""The table of the fast path: every operator by name, fast where there is a kernel for it."""

from __future__ import annotations

from collections.abc import Mapping

from refimpl.fast import convert, convolution, elementwise, fourier, linear
from refimpl.fast.native import Operator
from refimpl.program import OPERATORS, Kernel

MODULES = (linear, convolution, elementwise, convert, fourier)
FAST: Mapping[str, Operator] = {kernel.__name__: kernel for module in MODULES for kernel in module.KERNELS}
KERNELS: Mapping[str, Kernel] = {**OPERATORS, **FAST}
