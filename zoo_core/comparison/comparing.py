"""Models of any families on the same data: measured one after another, each stored as soon as it is known."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.comparison.traits import EXAMPLES, REFUSALS, Traits, draw, first, traits
from zoo_core.components import GenerativeModel, LatentVariableModel
from zoo_core.config import build, describe
from zoo_core.data import Dataset
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluation.features import default_extractor
from zoo_core.evaluation.measuring import evaluate, evaluating
from zoo_core.evaluation.results import results
from zoo_core.files import replace_json
from zoo_core.host import core_version, default_host, one_line
from zoo_core.metrics import Extractor, Measurement, Metric, SampleMetric

FORMAT = 1  # of a model's file
RESULTS = "results"  # the folder of what was measured, one file a model
BITS = "metrics/bits_per_dim"
BOUND = {"type": "metrics/iwae", "samples": 100}  # of what has a posterior; the model's own log_prob else
OWN = "metrics/log_prob"
USUAL = (BOUND, OWN, BITS, "metrics/mse", "metrics/fd", "metrics/kid", "metrics/precision_recall")
RECONSTRUCTED = 8  # examples


@dataclass(frozen=True)
class Entry:
    """One model of a comparison.

    Attributes:
        stored: what its file says: ``settings``, ``traits``, ``likelihood``, ``results``, ``refused``, ``failed``.
        reused: whether it had been measured before.
        samples: draws (n, *data_shape); None where it draws nothing.
        reconstructions: of the comparison's originals, where they were asked for.
    """

    name: str
    stored: dict[str, Any]
    reused: bool = False
    samples: Tensor | None = None
    reconstructions: Tensor | None = None

    @property
    def traits(self) -> Traits | None:
        """None where the model failed."""
        return Traits.from_dict(self.stored["traits"]) if "traits" in self.stored else None

    @property
    def values(self) -> dict[str, Any]:
        """Measured values by name, each as the fields of a ``Measurement``."""
        values: dict[str, Any] = self.stored.get("results", {}).get("values", {})
        return values

    @property
    def likelihood(self) -> str:
        """The name of the value that tells log p(x), as near as any that was measured; empty without one."""
        bounds = sorted((name for name in self.values if re.fullmatch(r"iwae_\d+", name)), key=lambda n: int(n[5:]))
        return next((name for name in (*bounds[::-1], "log_prob", "elbo") if name in self.values), "")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` measured, in the order of the models.

    Attributes:
        originals: the examples that were reconstructed, as they are stored, in [0, 1].
    """

    entries: tuple[Entry, ...]
    dataset: Dataset
    asked: "Asked"
    originals: Tensor | None = None


@dataclass(frozen=True)
class Asked:
    """What is measured of every model alike.

    Attributes:
        metrics: as configs.
        extractor: for the metrics of samples that name none.
        examples, batch, seed: as ``evaluate`` takes them.
    """

    metrics: tuple[Any, ...]
    extractor: Extractor | None
    examples: int
    batch: int
    seed: int

    def settings(self, dataset: Dataset) -> dict[str, Any]:
        """All that the values depend on besides the model, as JSON knows it."""
        return {
            "format": FORMAT,
            "data": dataset.name,
            "split": dataset.split,
            "data_fingerprint": dataset.fingerprint,
            "examples": self.examples,
            "batch": self.batch,
            "seed": self.seed,
            "metrics": [self._described(config) for config in self.metrics],
        }

    def _described(self, config: Any) -> dict[str, Any]:
        """A metric with all its arguments, and with what decides the features that it compares."""
        described, metric = describe(build(config, "metric")), self.built(config)
        if isinstance(metric, SampleMetric):
            described["features"] = dict(metric.features_of.identity)
        return described

    def as_dict(self) -> dict[str, Any]:
        """As ``results.json`` tells settings."""
        told = {"metrics": list(self.metrics), "examples": self.examples, "batch": self.batch, "seed": self.seed}
        return {**told, "extractor": dict(self.extractor.identity) if self.extractor else None}

    def built(self, config: Any) -> Metric:
        """A metric, with the extractor of all."""
        metric: Metric = build(config, "metric")
        if isinstance(metric, SampleMetric) and metric.extractor is None:
            metric.extractor = self.extractor
        return metric


def compare(
    models: Mapping[str, GenerativeModel],
    dataset: Dataset,
    *,
    metrics: Sequence[Any] | None = None,
    extractor: Extractor | None = None,
    examples: int | None = None,
    batch: int = 100,
    seed: int = 0,
    grid: int = 64,
    reconstructions: bool = False,
    folder: str | Path | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Comparison:
    """Measures models on the same examples, with the same metrics and the same seed.

    With a folder each model's result is written to ``results/<model>.json`` as soon as it is known, and taken from
    there in the next run if its weights, the data, the metrics and all else that it depends on are the same.

    Args:
        models: by the names under which they are shown.
        metrics: names or configs; by default a likelihood, bits per dimension, squared error, and how near samples
            are to data. What a metric refuses is told, and costs nothing else.
        extractor: of the features that samples are compared in; by default the one for the data's shape.
        examples: measure on the first so many; default all.
        grid: how many samples are kept of each model.
        reconstructions: keep some of the data and what each model makes of them: they show the data.
        progress: called with a model's name and a number of examples that have been measured, or need not be.

    Raises:
        ConfigError: a metric is unknown, or two models see data of different shapes.
        DataError: the data do not fit a model, or a stored result cannot be read.
    """
    shape = require_one_shape(models, dataset)
    chosen = tuple(metrics) if metrics is not None else usual()
    if any(isinstance(build(config, "metric"), SampleMetric) for config in chosen) and extractor is None:
        extractor = build(default_extractor(shape), "extractor")
    asked = Asked(chosen, extractor, min(examples or len(dataset), len(dataset)), batch, seed)
    entries = []
    for name, model in models.items():
        stored, reused = _result(name, model, dataset, asked, folder, progress)
        shown = _draws(model, dataset, grid, seed) if grid else None
        kept = _reconstructed(model, dataset, seed) if reconstructions else None
        entries.append(Entry(name, stored, reused, shown, kept))
    require_comparable({e.name: e.stored["results"] for e in entries if "results" in e.stored})
    return Comparison(tuple(entries), dataset, asked, _originals(dataset) if reconstructions else None)


def usual() -> tuple[Any, ...]:
    """The metrics that are measured unless others are asked for, as far as plugins offer them."""
    offered = {r.full_name for r in default_host().registrations("metric")}
    return tuple(m for m in USUAL if (m["type"] if isinstance(m, dict) else m) in offered)


def require_one_shape(models: Mapping[str, GenerativeModel], dataset: Dataset) -> tuple[int, ...]:
    """The shape of the data as all the models see them.

    Raises:
        DataError: they do not fit a model. ConfigError: two models see different ones, or there is no model.
    """
    shapes = {name: tuple(model.preprocessing.data_shape(dataset.data_shape)) for name, model in models.items()}
    for name, model in models.items():
        if not model.accepts(shapes[name]):
            takes = tuple(model.data_shape)
            raise DataError(f"{name}: {dataset.name!r} gives data of shape {shapes[name]}, the model takes {takes}")
    if len({*shapes.values()}) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ConfigError(f"the models see data of different shapes, so their values cannot be compared: {told}")
    if not shapes:
        raise ConfigError("there is no model to measure; name at least one")
    return next(iter(shapes.values()))


def require_comparable(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses to set results side by side that were measured on other data, or with another ruler.

    What is measured on samples depends on the features, on how many examples there are and on the metric's own
    settings: a Frechet distance falls as 1/N on nothing but more samples.

    Args:
        measured: results as ``zoo eval`` writes them, by the names of their models.

    Raises:
        ConfigError: two of them differ; with both models, the value, and what differs.
    """
    for field in ("data_fingerprint", "split"):
        _require_equal(f"the {field.replace('_', ' ')}", {name: r.get(field) for name, r in measured.items()})
    rulers = {name: _rulers(r.get("values", {})) for name, r in measured.items()}
    for value in sorted({value for ruler in rulers.values() for value in ruler}):
        _require_equal(value, {name: ruler[value] for name, ruler in rulers.items() if value in ruler})


def _rulers(values: Mapping[str, Any]) -> dict[str, Any]:
    """What each metric of samples was measured with, by the metric's name without the extractor's."""
    found: dict[str, Any] = {}
    for name, value in sorted(values.items()):
        about = value.get("about") or {}
        if "extractor" in about:
            found.setdefault(name.partition(" (")[0], []).append({"value": name, "n": value.get("n"), **about})
    return found


def _require_equal(what: str, by_model: Mapping[str, Any]) -> None:
    (name, one), *others = by_model.items() or [("", None)]
    for other, another in others:
        if another != one:
            raise ConfigError(
                f"{name} and {other} cannot be compared: {what} differs ({_shown(one)}; {_shown(another)});"
                " measure both anew, with the same data, examples, extractor and metrics"
            )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"


# --- one model: measured, or taken from its file -----------------------------------------------------------


def _result(
    name: str, model: GenerativeModel, dataset: Dataset, asked: Asked, folder: Any, progress: Any
) -> tuple[dict[str, Any], bool]:
    """What is known of a model, and whether it had been measured before."""
    settings = {**asked.settings(dataset), "model": identity(model)}
    settings["versions"] = versions(settings)
    path = Path(folder) / RESULTS / f"{file_name(name)}.json" if folder else None
    stored = _finished(path, settings) if path else None
    if stored is not None:
        if progress:
            progress(name, asked.examples)
        return {**stored, "model": name}, True
    found = {"model": name, "settings": settings, **_measured(model, dataset, asked, name, progress)}
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_json(path, found)
    return found, False


def _finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a file holds, if it was measured under these settings to the end."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: no valid JSON: {error}; delete it to measure anew") from None
    equal = isinstance(stored, dict) and stored.get("settings") == json.loads(json.dumps(settings))
    return stored if equal and not stored["failed"] else None


def file_name(name: str) -> str:
    """A model's name as that of a file: itself where it can be, else with some digits of its hash."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    if plain == name:
        return name
    return f"{plain[-60:].strip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def identity(model: GenerativeModel) -> dict[str, Any]:
    """What tells a model from others: its config, its preprocessing, and the SHA-256 of its weights and files."""
    try:
        config: Any = describe(model, data_shape=model.data_shape)
    except ConfigError:  # a part comes from no plugin
        config = f"{type(model).__module__}.{type(model).__qualname__}"
    return {"config": config, "preprocessing": model.preprocessing.as_dict(), "weights": digest(model)}


def digest(model: GenerativeModel) -> str:
    """SHA-256 of a model's tensors, by their names, types, shapes and values, and of its own files."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for name, content in sorted(model.files().items()):
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def versions(settings: Any) -> dict[str, str]:
    """Of torch, of the core, and of every plugin that the settings name."""
    plugins = {word.partition("/")[0] for word in _words(settings)} & default_host().plugins.keys()
    own = {name: default_host().plugins[name].version for name in sorted(plugins)}
    return {"zoo_core": core_version(), "torch": str(torch.__version__), **own}


def _words(value: Any) -> list[str]:
    """The strings in JSON that can be full names."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list):
        return [word for v in value for word in _words(v)]
    return [value] if isinstance(value, str) and "/" in value else []


def _measured(model: GenerativeModel, dataset: Dataset, asked: Asked, name: str, progress: Any) -> dict[str, Any]:
    """Everything about one model; what goes wrong in it costs its own values alone."""
    try:
        found = traits(model, dataset, seed=asked.seed)
        scale = _scale(model, dataset, asked.seed) if found.density.kind != "none" else None
        chosen, refused = _applicable(model, dataset, asked, found)
        advance = (lambda n: progress(name, n)) if progress else None
        values, further, failed = _values(model, dataset, asked, chosen, advance)
    except Exception as error:  # a model may fail in any way, which is no reason not to measure the others
        return {"failed": {"model": one_line(error)}}
    if asked.metrics == usual():
        values = _with_bits(values, scale, math.prod(model.data_shape))
    return {
        "traits": found.as_dict(),
        "likelihood": "" if found.density.kind == "none" else "density" if scale != 0 else "probability",
        "results": results(values, dataset, **asked.as_dict()),
        "refused": {**refused, **further},
        "failed": failed,
    }


def _applicable(
    model: GenerativeModel, dataset: Dataset, asked: Asked, found: Traits
) -> tuple[list[Any], dict[str, str]]:
    """Which of the metrics to measure on a model, and what is known to speak against others."""
    chosen, refused = [], {}
    skipped = _superfluous(model, dataset, found) if asked.metrics == usual() else ()
    for config in asked.metrics:
        if config in skipped:
            continue
        if config == OWN and found.density.kind == "none":
            refused[_name(config)] = found.density.reason
        elif asked.built(config).draws and found.sampling.kind == "none":
            refused[_name(config)] = found.sampling.reason
        else:
            chosen.append(config)
    return chosen, refused


def _superfluous(model: GenerativeModel, dataset: Dataset, found: Traits) -> tuple[Any, ...]:
    """Of the usual metrics that tell log p(x) the one that is not as tight; and bits, which follow from the other."""
    view = model.given(first(model, dataset, 1))
    has_posterior = isinstance(view, LatentVariableModel) and found.density.kind == "bound"
    return OWN if has_posterior else BOUND, BITS


def _name(config: Any) -> str:
    return str(config["type"] if isinstance(config, Mapping) else config)


def _values(
    model: GenerativeModel, dataset: Dataset, asked: Asked, chosen: Sequence[Any], advance: Any
) -> tuple[dict[str, Measurement], dict[str, str], dict[str, str]]:
    """What metrics measure; why some refuse; and how some failed.

    Together, so that they share the draws; a metric that does not take the model is found out on a few examples.
    """
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    together = [config for config in chosen if _takes(config, model, dataset, asked)]
    try:
        values = _evaluated(together, model, dataset, asked, advance)
    except Exception:  # the culprit is told below
        values, together = {}, []
    for config in (c for c in chosen if c not in together):
        try:
            values |= _evaluated([config], model, dataset, asked, None)
        except REFUSALS as refusal:
            refused[_name(config)] = str(refusal)
        except Exception as error:
            failed[_name(config)] = one_line(error)
    return values, refused, failed


def _evaluated(
    configs: Sequence[Any], model: GenerativeModel, dataset: Dataset, asked: Asked, advance: Any
) -> dict[str, Measurement]:
    metrics = [asked.built(config) for config in configs]
    return evaluate(
        model, metrics, dataset, batch=asked.batch, examples=asked.examples, seed=asked.seed, progress=advance
    )


def _takes(config: Any, model: GenerativeModel, dataset: Dataset, asked: Asked) -> bool:
    """Whether a metric measures a few examples; one of draws may need more, and is not asked."""
    metric = asked.built(config)
    if metric.draws:
        return True
    try:
        with warnings.catch_warnings():  # that these are few
            warnings.simplefilter("ignore")
            evaluate(model, [metric], dataset, batch=asked.batch, examples=EXAMPLES, seed=asked.seed)
    except Exception:
        return False
    return True


# --- bits per dimension --------------------------------------------------------------------------------------


def _scale(model: GenerativeModel, dataset: Dataset, seed: int) -> int | None:
    """c in bits/dim = -log2 p(x) / D + c: 0 for probabilities of values, 8 for a density of dequantised ones.

    None where bits are not defined. It is found by measuring both on one example, with the same draws.
    """
    both = {}
    for name in (BITS, OWN):
        try:
            metric = build(name, "metric")
            (both[name],) = evaluate(model, [metric], dataset, batch=1, examples=1, seed=seed).values()
        except REFUSALS:
            return None
    return round(both[BITS].value + both[OWN].value / (math.prod(model.data_shape) * math.log(2)))


def _with_bits(values: Mapping[str, Measurement], scale: int | None, size: int) -> dict[str, Measurement]:
    """The values, and the bits per dimension of the log p(x) among them."""
    name = next((n for n in values if n == "log_prob" or re.fullmatch(r"iwae_\d+", n)), None)
    if scale is None or name is None or any(n.startswith("bits_per_dim") for n in values):
        return dict(values)
    log_p, per_bit = values[name], size * math.log(2)
    bits = log_p._replace(value=scale - log_p.value / per_bit, error=log_p.error / per_bit, unit="bits", better="lower")
    return {**values, "bits_per_dim" + name.removeprefix("iwae").removeprefix("log_prob"): bits}


# --- pictures ------------------------------------------------------------------------------------------------


def _draws(model: GenerativeModel, dataset: Dataset, n: int, seed: int) -> Tensor | None:
    """Samples to look at; None where there are none, or they are no images."""
    try:
        x = draw(model, dataset, n, seed=seed).cpu()
    except Exception:  # why is told by the traits
        return None
    return x if x.dim() == 4 and x.is_floating_point() and x.shape[1] in (1, 3) else None


def _reconstructed(model: Any, dataset: Dataset, seed: int) -> Tensor | None:
    batch = first(model, dataset, RECONSTRUCTED, seed)
    try:
        with evaluating(model), torch.no_grad():
            x: Tensor = model.given(batch).reconstruct(batch["image"]).cpu()
    except (AttributeError, *REFUSALS):
        return None
    return x if x.dim() == 4 else None


def _originals(dataset: Dataset) -> Tensor | None:
    x = dataset.batch(torch.arange(RECONSTRUCTED) % len(dataset))["image"]
    return x / 255 if isinstance(x, Tensor) and x.dtype == torch.uint8 else None
