"""Runs metrics over a model and a data set."""

from zoo_core.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
