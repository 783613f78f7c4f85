"""What the Hub reads of a card: its front matter, with the results as ``model-index``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from zoo_core.cards.commands import checking, evaluating
from zoo_core.errors import CheckpointError, ZooError
from zoo_core.host import default_host, one_line
from zoo_core.specs import ModelSpec


class Unrecorded(CheckpointError):
    """A checkpoint does not record how it came about as the zoo does, so that no card can tell it."""


@contextmanager
def reading_records(folder: Path) -> Iterator[None]:
    """Raises Unrecorded where what a folder records is not there, or is something else."""
    try:
        yield
    except ZooError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unrecorded(f"{folder} does not record what a card tells: {one_line(error)}") from error


def front_matter(config: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], name: str) -> str:
    """YAML between two lines of dashes, of a checkpoint's config and of what was measured of it."""
    fields = metadata(config, evaluations, name)
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def metadata(config: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The fields of a card's front matter; ``name`` is what users load."""
    from huggingface_hub import ModelCardData

    trained_on = config.get("provenance", {}).get("recipe", {}).get("data", {}).get("name")
    data = ModelCardData(
        license="apache-2.0",
        library_name="zoo",
        pipeline_tag=spec_of(config).task,
        tags=["latent-zoo", *sorted(f"zoo-{plugin}" for plugin in config.get("plugins", {}))],
        # Its metadata can name nothing else.
        datasets=[trained_on] if _is_on_the_hub(trained_on or "") else None,
        model_name=name,
        eval_results=[r for evaluation in evaluations for r in _results(config, evaluation, name)] or None,
    )
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def spec_of(config: Mapping[str, Any]) -> ModelSpec:
    """What the plugin says of such models."""
    spec = default_host().find("model", config["model"]["type"]).spec
    assert isinstance(spec, ModelSpec)  # as is asked for
    return spec


def _results(config: Mapping[str, Any], evaluation: Mapping[str, Any], name: str) -> list[Any]:
    from huggingface_hub import EvalResult

    recipe = config.get("provenance", {}).get("recipe", {})
    how = {"command": evaluating(evaluation, recipe, name), "check": checking(name)}
    return [
        EvalResult(
            task_type=spec_of(config).task,
            dataset_type=evaluation["data"],
            dataset_name=evaluation["data"],
            dataset_split=evaluation["split"],
            dataset_args={"fingerprint": evaluation["data_fingerprint"], **evaluation.get("options", {})},
            metric_type=metric,
            metric_name=metric,
            metric_value=value["value"],
            metric_args={**how, "examples": value["n"], "seed": evaluation["seed"]},
        )
        for metric, value in evaluation["values"].items()
        if value["value"] is not None  # as JSON has no infinity
    ]


def _is_on_the_hub(name: str) -> bool:
    """Whether it can be a data set there: neither an embedded one nor a folder."""
    return bool(re.fullmatch(r"[\w-]+/[\w.-]+", name)) and not name.startswith("core/")
