"""Every family, by importing its module: the order does not matter, the registry has its own."""

from conformance.diagnosis import floats, layout, operands, order, requantization, tables, transform

__all__ = ["floats", "layout", "operands", "order", "requantization", "tables", "transform"]
