"""The version of the package, and of the arithmetic: the latter changes whenever any output bit can change."""

__version__ = "0.1.0"
ARITHMETIC = "1"
