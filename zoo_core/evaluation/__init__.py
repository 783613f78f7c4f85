"""Runs metrics over a model and a data set."""

from zoo_core.evaluation.measuring import evaluate
from zoo_core.evaluation.results import measure, read_results, rounded

__all__ = ["evaluate", "measure", "read_results", "rounded"]
