"""Metrics over a model and held-out data, on one process or on many."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import GenerativeModel, Measurement, Metric, device_of
from zoo_core.data import Dataset
from zoo_core.errors import ConfigError, DataError
from zoo_core.host import core_version, default_host
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
    progress: Callable[[int], None] | None = None,
    between: Callable[[], None] | None = None,
) -> dict[str, Measurement]:
    """Measures a model on a data set.

    Every draw depends on ``seed`` and the position of its batch alone, so that a value can be re-computed.
    Under ``torch.distributed`` each process takes its share of the batches, and all return the whole.

    Args:
        examples: measure on the first so many, or on all if there are fewer; default all.
        progress: called with the number of examples after each batch.
        between: called after each round of batches, equally often in all processes.

    Raises:
        ConfigError: a metric cannot be computed on this model, or two report under one name.
        DataError: the data have another shape than the model's.
    """
    _require_fit(model, dataset)
    metrics = list(metrics)
    device = device_of(model)
    for metric in metrics:
        metric.reset()
    with undisturbed(), evaluating(model):
        for number, indices in _share(min(examples or len(dataset), len(dataset)), batch):
            if len(indices):
                seed_everything(seed, number)
                inputs = model.preprocessing(to_device(dataset.batch(indices), device))
                for metric in metrics:
                    metric.update(model.given(inputs), inputs)
            if progress:
                progress(len(indices))
            if between:
                between()
    _merge(metrics)
    values = [item for metric in metrics for item in _with_units(metric)]
    _require_distinct([name for name, _ in values])
    return dict(values)


def _with_units(metric: Metric) -> list[tuple[str, Measurement]]:
    """What a metric has measured, in the unit that its spec states where it states none itself."""
    registration = default_host().name_of(type(metric))
    unit = registration.spec.unit if registration and isinstance(registration.spec, MetricSpec) else ""
    return [(name, m if m.unit else m._replace(unit=unit)) for name, m in metric.compute().items()]


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


def results(
    measured: Mapping[str, Measurement],
    dataset: Dataset,
    *,
    seed: int = 0,
    batch: int = 100,
    metrics: Sequence[Any] = (),
    examples: int | None = None,
) -> dict[str, Any]:
    """What ``results.json`` holds: the values, and all that is needed to compute them again."""
    return {
        "data": dataset.name,
        "split": dataset.split,
        "data_fingerprint": dataset.fingerprint,
        "seed": seed,
        "batch": batch,
        "metrics": list(metrics),
        "examples": examples,
        "versions": {"zoo_core": core_version(), "torch": torch.__version__},
        "values": {name: {k: _jsonable(v) for k, v in m._asdict().items()} for name, m in measured.items()},
    }


def rounded(value: float | None, error: float | None) -> str:
    """A value with as many decimals as give its standard error two digits; four digits where there is none."""
    if value is None:
        return "none"
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"


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


def _jsonable(value: float | str) -> float | str | None:
    return value if isinstance(value, str) or math.isfinite(value) else None


def to_device(batch: dict[str, Tensor | list[str]], device: torch.device) -> dict[str, Tensor | list[str]]:
    """The batch with its tensors on a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _share(examples: int, batch: int) -> Iterator[tuple[int, Tensor]]:
    """This process's batches and their numbers among all; an empty one where the others have one more."""
    rank, world = _position()
    batches = torch.split(torch.arange(examples), batch)
    for first in range(0, len(batches), world):
        number = first + rank
        yield number, batches[number] if number < len(batches) else torch.arange(0)


def _merge(metrics: Sequence[Metric]) -> None:
    """Adds up the states of all processes, in each of them."""
    _, world = _position()
    if world == 1:
        return
    for metric in metrics:
        states: list[dict[str, Tensor]] = [{}] * world
        torch.distributed.all_gather_object(states, metric.state)
        names = {name for state in states for name in state}
        metric.state = {name: torch.stack([s[name] for s in states if name in s]).sum(0) for name in sorted(names)}


def _position() -> tuple[int, int]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
