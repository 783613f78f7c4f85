"""What is asked of a metric."""

import copy
import functools
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.config import build
from zoo_core.errors import ZooError
from zoo_core.evaluation.sharing import in_turns
from zoo_core.metrics import Measurement, Metric, SampleMetric
from zoo_core.testing.checks import check, require, require_equal, unfit
from zoo_core.testing.examples import PARTS
from zoo_core.testing.kinds.trials import degraded, examples, fitted
from zoo_core.testing.subjects import Subject, drawing

N, PARTS_OF = 30, (13, 10, 7)  # examples, and unequal batches of them
SEEDS, STANDARD_ERRORS = 12, 5
ROUNDING = 1e-5
KNOWN_OFF = 1e-4
DIRECTIONS = ("", "lower", "higher", "neither")

Batch = Mapping[str, Any]
Values = Mapping[str, Measurement]


@check("metric", structural=True)
def measurements(subject: Subject) -> None:
    """It gives values by name: a number, an error that is none or not negative, and how many examples it is of."""
    values = _Trial(subject).measured()
    require(isinstance(values, dict) and values, f"compute must give values by name, not {values!r}")
    for name, m in values.items():
        require(isinstance(m, Measurement), f"{name!r} must be a Measurement, not {type(m).__name__}")
        require(type(m.value) is float, f"the value of {name!r} must be a float, not {type(m.value).__name__}")
        require(not math.isnan(m.value), f"the value of {name!r} is no number: raise a ConfigError that says why")
        require(
            type(m.error) is float and not m.error < 0, f"the error of {name!r} is {m.error}: nan where it has none"
        )
        require(type(m.n) is int and m.n > 0, f"{name!r} is of {m.n!r} examples: tell how many there were")
        require(m.better in DIRECTIONS, f"better of {name!r} is {m.better!r}, none of lower, higher and neither")
        _require_json(m.about, name)


@check("metric")
def parts_and_whole(subject: Subject) -> None:
    """In unequal batches it measures what it measures at once."""
    _require_alike(_Trial(subject), lambda trial: trial.whole(), lambda trial: trial.parts(), "in batches it is")


@check("metric")
def order_of_batches(subject: Subject) -> None:
    """In another order of the batches it measures the same."""
    _require_alike(
        _Trial(subject), lambda trial: trial.parts(), lambda trial: trial.parts()[::-1], "in another order it is"
    )


@check("metric")
def merging(subject: Subject) -> None:
    """What two processes have gathered is, brought together, what one gathers."""
    trial = _Trial(subject)
    parts = list(enumerate(trial.parts()))
    wanted, merged = trial.computed(trial.updated(subject.make(), parts)), trial.updated(subject.make(), ())
    shares = [trial.updated(subject.make(), parts[rank::2]) for rank in (0, 1)]
    names = dict.fromkeys(name for share in shares for name in share.state)
    merged.state = {name: torch.stack([s.state[name] for s in shares if name in s.state]).sum(0) for name in names}
    merged.rows = {name: in_turns([s.rows.get(name, []) for s in shares]) for name in shares[0].rows}
    for share in shares:
        _require_tensors(share)
    _require_same(wanted, trial.computed(merged), "on two processes it is")


@check("metric")
def computing_twice(subject: Subject) -> None:
    """compute changes nothing: asked again it says the same."""
    trial = _Trial(subject)
    metric = trial.updated(subject.make(), enumerate(trial.parts()))
    _require_same(trial.computed(metric), trial.computed(metric), "computed again it is", exactly=True)


@check("metric")
def reset(subject: Subject) -> None:
    """reset forgets everything that was measured."""
    trial = _Trial(subject)
    inverted = {name: 1 - trial.batch[name] for name in ("image", "sample", "original")}
    metric = subject.make()
    trial.computed(trial.updated(metric, [(0, {**trial.batch, **inverted})]))
    used, fresh = (trial.computed(trial.updated(m, enumerate(trial.parts()))) for m in (metric, subject.make()))
    _require_same(fresh, used, "after reset() it is", exactly=True)


@check("metric")
def nothing_else_changes(subject: Subject) -> None:
    """It keeps no graph, and leaves model and data as they are."""
    trial = _Trial(subject)
    before, weights = copy.deepcopy(dict(trial.batch)), copy.deepcopy(trial.model.state_dict())
    with torch.enable_grad():
        metric = trial.updated(subject.make(), [(0, trial.batch)])
    _require_tensors(metric)
    for name, column in trial.batch.items():
        if isinstance(column, Tensor):
            require_equal(before[name], column, f"it changes {name!r} of the batch")
    for name, value in trial.model.state_dict().items():
        require_equal(weights[name], value, f"it changes {name!r} of the model")
    require(all(p.grad is None for p in trial.model.parameters()), "it leaves gradients in the model")


@check("metric")
def determinism(subject: Subject) -> None:
    """What it draws depends on torch's seed alone."""
    runs = []
    for other in (1, 2):
        trial = _Trial(subject)
        random.seed(other)
        np.random.seed(other)
        runs.append(trial.measured())
    _require_same(runs[0], runs[1], "with another state of numpy's and Python's random numbers it is", exactly=True)


@check("metric")
def direction(subject: Subject) -> None:
    """Of a model, or of samples, that are made worse it does not say that they are better."""
    trial = _Trial(subject)
    best = trial.measured(sample=trial.batch["image"])
    worse = [values for values in trial.worsened() if values]
    require(worse, "it cannot be measured on any model that is made worse")
    for name, m in best.items():
        better = m.better or subject.spec.better
        if better == "neither":
            continue
        sign = 1 if better == "higher" else -1
        gains = [sign * (values[name].value - m.value) for values in worse if name in values]
        least = ROUNDING * max(1.0, abs(m.value))
        require(
            not gains or min(gains) <= least,
            f"{better} {name!r} is to be better, but of each model that was made worse it is better:"
            f" {m.value:.5g} before, then {', '.join(f'{values[name].value:.5g}' for values in worse)}",
        )


@check("metric", table="values")
def known_values(subject: Subject) -> None:
    """Where its plugin knows what it must say, it says that: of samples that are the data, or of a known model."""
    trial = _Trial(subject)
    found = trial.measured(sample=trial.batch["image"])
    known = subject.values
    for name, value in (known(trial.model, trial.batch) if callable(known) else known).items():
        # Values of samples name their features too: "fd (pixels)".
        said = [m.value for told, m in found.items() if name in (told, told.partition(" (")[0])]
        require(len(said) == 1, f"its known value {name!r} is none of those that it gives: {', '.join(found)}")
        near = KNOWN_OFF * max(1.0, abs(value))
        require(abs(said[0] - value) <= near, f"{name!r} is {said[0]:.6g}, and is known to be {value:.6g}")


@check("metric")
def few_examples(subject: Subject) -> None:
    """Of one example it gives a number, or says in a sentence that this is too few."""
    trial = _Trial(subject)
    one = _rows(trial.batch, slice(0, 1))
    try:
        values = trial.measured([one])
    except ZooError as error:
        require(len(str(error).split()) > 3, f"of one example it says no more than {str(error)!r}")
        return
    for name, m in values.items():
        require(not math.isnan(m.value), f"of one example {name!r} is nan: say in a ConfigError that these are too few")
        require(not m.error < 0, f"of one example the error of {name!r} is {m.error}")


class _Trial:
    """A metric on a model that knows the data."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        data, self.model = copy.deepcopy(_knowing(subject))
        x = data["image"]
        with drawing(0):
            near = (x + 0.1 * torch.randn(x.shape)).clamp(0, 1) if x.is_floating_point() else x
        self.batch = {**data, "sample": near, "original": x}

    def whole(self) -> list[Batch]:
        return [self.batch]

    def parts(self) -> list[Batch]:
        ends = np.cumsum((0, *PARTS_OF))
        return [_rows(self.batch, slice(int(a), int(b))) for a, b in itertools.pairwise(ends)]

    def measured(self, batches: Sequence[Batch] = (), *, seed: int = 0, sample: Tensor | None = None) -> Values:
        batches = batches or self.whole()
        if sample is not None:
            batches = [{**self.batch, "sample": sample}]
        return self.computed(self.updated(self.subject.make(), enumerate(batches, 100 * seed), of=batches))

    def updated(self, metric: Metric, numbered: Iterable[tuple[int, Batch]], of: Sequence[Batch] = ()) -> Any:
        """The metric, after it was shown batches, each with its own seed; all draws are compared with all data."""
        metric.reset()
        if isinstance(metric, SampleMetric):
            if metric.extractor is None:
                metric.extractor = build(PARTS["extractor"], "extractor", host=self.subject.host)
            metric.real = metric.features_of.features(torch.cat([b["original"] for b in of or self.whole()]))
        for number, batch in numbered:
            with drawing(number):
                metric.update(self.model.given(batch), batch)
        return metric

    def computed(self, metric: Metric) -> Values:
        with drawing(0):
            return metric.compute()

    def worsened(self) -> list[Values]:
        """What it says of models that are worse, and of samples that are worse; nothing where it refuses them."""
        x = self.batch["image"]
        with drawing(0):
            samples = [torch.rand(x.shape), torch.full_like(x, 0.5)] if x.is_floating_point() else [x, x]
        good, found = self.model, []
        for model, sample in zip(degraded(good), samples, strict=True):
            self.model = model
            found.append(_unless_refused(lambda sample=sample: self.measured(sample=sample)))  # type: ignore[misc]
        self.model = good
        return found


@functools.lru_cache(maxsize=1)
def _knowing(subject: Subject) -> tuple[dict[str, Any], Any]:
    """Data, and a model that knows them; made once for all checks of a component."""
    data = examples(subject, N)
    return data, fitted(subject, data)


def _unless_refused(measure: Callable[[], Values]) -> Values:
    try:
        return measure()
    except ZooError:
        return {}


def _rows(batch: Batch, places: slice) -> dict[str, Any]:
    return {name: column[places] for name, column in batch.items()}


def _require_alike(
    trial: _Trial, a: Callable[[_Trial], list[Batch]], b: Callable[[_Trial], list[Batch]], sentence: str
) -> None:
    """Equal where nothing is drawn, else equal in expectation."""
    runs = [[trial.measured(a(trial), seed=0)], [trial.measured(b(trial), seed=0)]]
    again = trial.measured(a(trial), seed=1)
    if all(again[name].value == m.value for name, m in runs[0][0].items()):
        _require_same(runs[0][0], runs[1][0], sentence)
        return
    for seed in range(1, SEEDS):
        runs[0].append(trial.measured(a(trial), seed=seed))
        runs[1].append(trial.measured(b(trial), seed=SEEDS + seed))
    for name in runs[0][0]:
        first, second = (torch.tensor([values[name].value for values in run], dtype=torch.float64) for run in runs)
        gap = float((first.mean() - second.mean()).abs())
        error = float((first.var() + second.var()).div(SEEDS).sqrt())
        near = STANDARD_ERRORS * error + ROUNDING * max(1.0, abs(float(first.mean())))
        require(gap <= near, f"{name!r} is {first.mean():.5g} at once, and {sentence} {second.mean():.5g} on average")


def _require_same(wanted: Values, found: Values, sentence: str, *, exactly: bool = False) -> None:
    require(list(wanted) == list(found), f"{sentence} {list(found)} that are measured, not {list(wanted)}")
    for name, m in wanted.items():
        for what in ("value", "error", "n"):
            a, b = float(getattr(m, what)), float(getattr(found[name], what))
            near = 0.0 if exactly else ROUNDING * max(1.0, abs(a))
            same = a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= near
            require(same, f"the {what} of {name!r} is {a:.6g}, and {sentence} {b:.6g}")


def _require_tensors(metric: Metric) -> None:
    """What is gathered can be brought together from all processes, and holds on to no graph."""
    for name, value in metric.state.items():
        require(isinstance(value, Tensor), f"state[{name!r}] must be a tensor, not {type(value).__name__}")
        require(not value.requires_grad, f"state[{name!r}] keeps the graph of what it was computed from: detach it")
    for name, chunks in metric.rows.items():
        kept = isinstance(chunks, list) and all(isinstance(chunk, Tensor) for chunk in chunks)
        require(kept, f"rows[{name!r}] must be a list of tensors, one for each batch: use keep()")
        require(not any(c.requires_grad for c in chunks), f"rows[{name!r}] keeps the graph of its rows: detach them")


def _require_json(about: Mapping[str, Any], name: str) -> None:
    try:
        json.dumps(dict(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        unfit(f"what {name!r} is about cannot be written to JSON: {error}")
