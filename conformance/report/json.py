"""The complete report as one JSON document, schema version 1 (``report.schema.json``)."""

from __future__ import annotations

import json

from conformance.report import SCHEMA, Report, counts, step_counts
from refimpl.version import ARITHMETIC


def render(report: Report) -> str:
    """The document as text."""
    document = {
        "schema": SCHEMA,
        "arithmetic": ARITHMETIC,
        "device": report.device,
        "suite": report.suite,
        "selection": report.selection,
        "passed": report.passed,
        "counts": dict(counts(report.results)),
        "resumed": report.resumed,
        "matrix": step_counts(report.results),
        "cases": list(report.results),
    }
    return json.dumps(document, indent=1) + "\n"
