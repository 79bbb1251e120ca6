"""What a device that fails a golden vector seems to do: hypotheses by re-running the golden step with one thing changed."""

from conformance.diagnosis.search import Hypothesis, diagnose

__all__ = ["Hypothesis", "diagnose"]
