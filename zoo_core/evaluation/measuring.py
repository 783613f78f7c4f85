"""Metrics over a model and held-out data, on one process or on many."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from zoo_core.components import GenerativeModel, device_of
from zoo_core.data import Dataset
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluation.features import data_features, originals, settle_extractors
from zoo_core.evaluation.sharing import gathered, in_turns, position, share, to_device
from zoo_core.host import default_host
from zoo_core.metrics import Extractor, Measurement, Metric, SampleMetric
from zoo_core.randomness import seed_everything, undisturbed
from zoo_core.specs import MetricSpec


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    metrics: Iterable[Metric],
    dataset: Dataset,
    *,
    batch: int = 100,
    examples: int | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    progress: Callable[[int], None] | None = None,
    between: Callable[[], None] | None = None,
) -> dict[str, Measurement]:
    """Measures a model on a data set.

    Every draw depends on ``seed`` and the position of its batch alone, so that a value can be re-computed; and not on
    what else is measured. Under ``torch.distributed`` each process takes its share of the batches, and all return the
    whole. Features of the data are made once, and kept in the data cache.

    Args:
        examples: measure on the first so many, or on all if there are fewer; default all.
        extractor: makes features for the metrics that name none; default the one registered for such images.
        progress: called with the number of examples after each batch.
        between: called after each round of batches, equally often in all processes.

    Raises:
        ConfigError: a metric cannot be computed on this model, or two report under one name.
        DataError: the data have another shape than the model's.
    """
    _require_fit(model, dataset)
    metrics, device = list(metrics), device_of(model)
    examples = min(examples or len(dataset), len(dataset))
    for metric in metrics:
        metric.reset()
        _warn_of_few(metric, examples)
    settle_extractors(metrics, extractor, model.preprocessing.data_shape(dataset.data_shape), device)
    with undisturbed(), evaluating(model):
        for number, indices in share(examples, batch):
            if len(indices):
                seed_everything(seed, number)
                _update(metrics, model, to_device(dataset.batch(indices), device))
            if progress:
                progress(len(indices))
            if between:
                between()
        for metric in metrics:
            if isinstance(metric, SampleMetric):
                metric.real = data_features(metric.features_of, dataset, model.preprocessing, examples, batch)
    _merge(metrics)
    return _agreed(lambda: _computed(metrics))


def _update(metrics: Sequence[Metric], model: GenerativeModel, stored: dict[str, Any]) -> None:
    inputs: dict[str, Any] = dict(model.preprocessing(stored))
    view = model.given(inputs)
    if any(metric.draws for metric in metrics):
        with undisturbed():
            inputs["sample"] = view.sample(len(inputs["image"]))
        inputs["original"] = originals(stored, model.preprocessing)["image"]
    for metric in metrics:
        # What a metric draws must not depend on those before it.
        with undisturbed():
            metric.update(view, inputs)


def _computed(metrics: Sequence[Metric]) -> dict[str, Measurement]:
    values = [item for metric in metrics for item in _with_spec(metric)]
    _require_distinct([name for name, _ in values])
    return dict(values)


def _with_spec(metric: Metric) -> list[tuple[str, Measurement]]:
    """What a metric has measured, with unit and direction of its spec where it states none itself."""
    spec = _spec(metric)
    unit, better = (spec.unit, spec.better) if spec else ("", "")
    return [(name, m._replace(unit=m.unit or unit, better=m.better or better)) for name, m in metric.compute().items()]


def _spec(metric: Metric) -> MetricSpec | None:
    registration = default_host().name_of(type(metric))
    return registration.spec if registration and isinstance(registration.spec, MetricSpec) else None


def _warn_of_few(metric: Metric, examples: int) -> None:
    spec = _spec(metric)
    if spec and examples < spec.examples:
        text = f"metric {spec.name!r} says little of {examples:,} examples: it takes {spec.examples:,}"
        warnings.warn(text, stacklevel=3)


def _require_fit(model: GenerativeModel, dataset: Dataset) -> None:
    """Refuses data that the model's preprocessing does not bring into its shape."""
    shape = model.preprocessing.data_shape(dataset.data_shape)
    if not model.accepts(shape):
        raise DataError(
            f"{dataset.name!r} gives data of shape {tuple(shape)}, the model takes {tuple(model.data_shape)}"
        )


def _require_distinct(names: Sequence[str]) -> None:
    """Refuses two metrics that report under one name, since one would hide the other."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"more than one of the metrics reports {twice[0]!r}; measure them one at a time")


@contextlib.contextmanager
def evaluating(model: GenerativeModel) -> Iterator[None]:
    """Inside, the model is in evaluation mode; outside each of its modules is in the mode it was in."""
    were_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in were_training.items():
            module.training = training


def _merge(metrics: Sequence[Metric]) -> None:
    """Brings what all processes gathered together in the first one."""
    if position()[1] == 1:
        return
    for metric in metrics:
        states, rows = gathered(metric.state), gathered(metric.rows)
        names = dict.fromkeys(name for state in states for name in state)
        metric.state = {name: torch.stack([s[name] for s in states if name in s]).sum(0) for name in names}
        metric.rows = {name: in_turns([r.get(name, []) for r in rows]) for name in rows[0]} if rows else {}


def _agreed(compute: Callable[[], dict[str, Measurement]]) -> dict[str, Measurement]:
    """What the first process computes, in all of them; so is what it raises."""
    rank, world = position()
    if world == 1:
        return compute()
    told: list[Any] = [None]
    if rank == 0:
        try:
            told = [{name: m._replace(about=dict(m.about)) for name, m in compute().items()}]
        except Exception as error:
            told = [error]
    torch.distributed.broadcast_object_list(told)
    if isinstance(told[0], Exception):
        raise told[0]
    values: dict[str, Measurement] = told[0]
    return values
