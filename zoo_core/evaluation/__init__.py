"""Runs metrics over a model and a data set."""

from zoo_core.evaluation.comparison import compare, require_comparable
from zoo_core.evaluation.measuring import evaluate
from zoo_core.evaluation.page import write_page
from zoo_core.evaluation.results import measure, read_results, rounded

__all__ = ["compare", "evaluate", "measure", "read_results", "require_comparable", "rounded", "write_page"]
