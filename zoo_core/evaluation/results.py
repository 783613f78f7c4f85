"""``results.json``: what was measured of a model, and all that is needed to measure it again."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoo_core.components import GenerativeModel, device_of
from zoo_core.config import build
from zoo_core.data import Dataset
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.evaluation.measuring import evaluate
from zoo_core.evaluation.sharing import position
from zoo_core.host import PluginHost, core_version, default_host
from zoo_core.metrics import Measurement
from zoo_core.untrusted import named, read_json, require_inside

FORMAT = 1
# Of a repetition on a CPU, where equal seeds give equal draws: what rounding may move.
TENTH_OF_ERROR, RELATIVE = 0.1, 1e-3
# On another kind of device the draws are others: four standard errors of the difference of two such values.
ERRORS = 4 * math.sqrt(2)
# What decides which numbers come out, together with the model.
SETTINGS = ("data", "split", "options", "seed", "batch", "metrics", "extractor", "examples")


def measure(
    model: GenerativeModel,
    metrics: Sequence[Any],
    dataset: Dataset,
    *,
    options: Mapping[str, Any] | None = None,
    extractor: Any = None,
    batch: int = 100,
    examples: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    between: Callable[[], None] | None = None,
    host: PluginHost | None = None,
) -> dict[str, Any]:
    """``evaluate``, from the configs of metrics to one evaluation as ``results.json`` holds it.

    Args:
        options: those with which the data set was loaded, to be loaded again.
        extractor: config of the extractor for metrics that name none.

    Raises:
        As ``build`` and ``evaluate``.
    """
    built = [build(metric, "metric", host=host) for metric in metrics]
    features = build(extractor, "extractor", host=host) if extractor else None
    started = time.monotonic()
    measured = evaluate(
        model, built, dataset,
        batch=batch, examples=examples, seed=seed, extractor=features, progress=progress, between=between,
    )  # fmt: skip
    told = {"seed": seed, "batch": batch, "metrics": metrics, "extractor": extractor, "examples": examples}
    told |= {"device": device_of(model).type, "processes": position()[1], "options": dict(options or {})}
    return results(measured, dataset, **told, seconds=round(time.monotonic() - started, 1), host=host)


def results(
    measured: Mapping[str, Measurement], dataset: Dataset, *, host: PluginHost | None = None, **settings: Any
) -> dict[str, Any]:
    """One evaluation as JSON knows it: the values, of which data, and under which settings."""
    return {
        "data": dataset.name,
        "split": dataset.split,
        "data_fingerprint": dataset.fingerprint,
        **settings,
        "metrics": [_full(metric, host) for metric in settings.get("metrics", ())],
        "versions": _versions(settings.get("metrics", ()), host),
        "values": {name: _value(m) for name, m in measured.items()},
    }


def document(evaluations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the file holds."""
    return {"format": FORMAT, "evaluations": [dict(evaluation) for evaluation in evaluations]}


def with_evaluation(evaluations: Sequence[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations with a new one, in the place of that with the same settings, or else at the end."""
    places = [i for i, old in enumerate(evaluations) if _settings(old) == _settings(new)]
    if not places:
        return [*evaluations, new]
    return [new if i == places[0] else old for i, old in enumerate(evaluations)]


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The evaluations in a ``results.json``; none if there is no such file.

    Raises:
        CheckpointError: it is damaged, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        return []
    with named(path):
        require_inside(path, path.parent)
        content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: must hold results of format {FORMAT}; measure again with zoo eval")
    evaluations = content.get("evaluations")
    if not isinstance(evaluations, list) or not all(_is_evaluation(e) for e in evaluations):
        raise CheckpointError(f"{path}: evaluations: must be a list of what zoo eval measured")
    return evaluations


class Compared(NamedTuple):
    """A claimed value beside the same, measured anew.

    Attributes:
        claimed, measured: None is what was not finite.
        allowed: by how much they may differ.
    """

    name: str
    claimed: float | None
    measured: float | None
    allowed: float

    @property
    def agrees(self) -> bool:
        if self.claimed is None or self.measured is None:
            return self.claimed is self.measured
        return abs(self.claimed - self.measured) <= self.allowed


def compared(claimed: Mapping[str, Any], measured: Mapping[str, Any]) -> list[Compared]:
    """Each value of one evaluation beside that of a repetition.

    Raises:
        ConfigError: the repetition was on other data, or lacks a value.
    """
    if claimed["data_fingerprint"] != measured["data_fingerprint"]:
        raise ConfigError(
            f"the data {claimed['data']!r}, split {claimed['split']!r}, are not those of the claim:"
            f" fingerprint {measured['data_fingerprint'][:12]}…, not {claimed['data_fingerprint'][:12]}…"
        )
    missing = sorted(claimed["values"].keys() - measured["values"].keys())
    if missing:
        raise ConfigError(f"what is claimed as {missing[0]!r} is not measured by {claimed['metrics']}")
    same = claimed.get("device", "cpu") == measured.get("device", "cpu")
    return [
        Compared(name, value["value"], measured["values"][name]["value"], tolerance(value, same_device=same))
        for name, value in claimed["values"].items()
    ]


def tolerance(value: Mapping[str, Any], *, same_device: bool = True) -> float:
    """By how much a value may differ when it is measured again, under the same settings.

    On the same kind of device a tenth of its standard error, or a thousandth of itself where it has none; on another,
    where the draws are others, 4 standard errors of the difference.
    """
    error, size = float(value["error"] or 0), abs(float(value["value"] or 0))
    if not error:
        return RELATIVE * max(size, RELATIVE)
    return (TENTH_OF_ERROR if same_device else ERRORS) * error


def rounded(value: float | None, error: float | None) -> str:
    """A value with as many decimals as give its standard error two digits; four digits where there is none."""
    if value is None:
        return "none"
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"


def _settings(evaluation: Mapping[str, Any]) -> list[Any]:
    return [evaluation.get(name) for name in SETTINGS]


def _is_evaluation(value: Any) -> bool:
    needed = {"data", "split", "data_fingerprint", "metrics", "values"}
    return isinstance(value, dict) and needed <= value.keys() and isinstance(value["values"], dict)


def _full(metric: Any, host: PluginHost | None) -> Any:
    """A metric's config with its full name, so that it means the same wherever other plugins are installed."""
    config = {"type": metric} if isinstance(metric, str) else dict(metric)
    config["type"] = (host or default_host()).find("metric", config["type"]).full_name
    return config["type"] if len(config) == 1 else config


def _versions(metrics: Iterable[Any], host: PluginHost | None) -> dict[str, str]:
    host = host or default_host()
    plugins = {host.find("metric", m if isinstance(m, str) else m["type"]).plugin for m in metrics}
    own = {f"zoo-{name}": host.plugins[name].version for name in sorted(plugins) if name in host.plugins}
    return {"zoo-core": core_version(), **own, "torch": torch.__version__}


def _value(measured: Measurement) -> dict[str, Any]:
    fields = measured._asdict()
    numbers = {name: v if math.isfinite(v) else None for name, v in fields.items() if name in ("value", "error")}
    return {**fields, **numbers, "about": dict(measured.about)}
