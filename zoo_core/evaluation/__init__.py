"""Runs metrics over a model and a data set."""

from zoo_core.evaluation.measuring import evaluate, results, rounded

__all__ = ["evaluate", "results", "rounded"]
