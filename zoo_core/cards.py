"""Model cards written from what a checkpoint records: its config, its provenance, its measured results."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from zoo_core.errors import CheckpointError
from zoo_core.evaluation import rounded
from zoo_core.host import default_host
from zoo_core.pretrained import CONFIG, RESULTS, read_config
from zoo_core.ready_parts import KEY, is_ready
from zoo_core.specs import ModelSpec


def card(folder: str | Path, name: str) -> str:
    """The card of a checkpoint, in Markdown with the Hub's metadata; a picture called like the model is shown.

    Args:
        name: what users load: ``vae-mnist`` or ``org/name``.

    Raises:
        CheckpointError: the folder holds no checkpoint.
    """
    folder = Path(folder)
    config, results = read_config(folder / CONFIG), _results(folder / RESULTS)
    metadata = yaml.safe_dump(_metadata(config, results, name), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n" + "\n".join(_lines(config, results, name, folder)) + "\n"


def _results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: no valid JSON: {error}") from None
    return results


def _metadata(config: Mapping[str, Any], results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The front matter, as the Hub reads it."""
    from huggingface_hub import EvalResult, ModelCardData

    spec = _spec(config)
    measured = [
        EvalResult(
            task_type=spec.task,
            dataset_type=results["data"],
            dataset_name=results["data"],
            dataset_split=results["split"],
            metric_type=metric,
            metric_value=value["value"],
        )
        for metric, value in results.get("values", {}).items()
    ]
    trained_on = config.get("provenance", {}).get("recipe", {}).get("data", {}).get("name")
    tags = ["latent-zoo", *sorted(f"zoo-{plugin}" for plugin in config.get("plugins", {}))]
    data = ModelCardData(
        license="apache-2.0",
        library_name="zoo",
        pipeline_tag=spec.task,
        tags=tags,
        # Its metadata can name nothing else.
        datasets=[trained_on] if _is_on_the_hub(trained_on or "") else None,
        model_name=name,
        eval_results=measured or None,
    )
    fields: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return fields


def _is_on_the_hub(name: str) -> bool:
    """Whether it can be a data set there: neither an embedded one nor a folder."""
    return bool(re.fullmatch(r"[\w-]+/[\w.-]+", name)) and not name.startswith("core/")


def _lines(config: Mapping[str, Any], results: Mapping[str, Any], name: str, folder: Path) -> Iterator[str]:
    provenance = config.get("provenance", {})
    recipe = provenance.get("recipe", {})
    own = name.rpartition("/")[2]
    yield f"# {own}\n"
    yield f"{recipe.get('summary') or config['model']['type']}\n"
    yield "```python\nfrom zoo_core import from_pretrained\n"
    yield f'model = from_pretrained("{name}")'
    yield _spec(config).example.replace("{shape}", _shape(config)) + "\n```\n"
    if (folder / f"{own}.png").is_file():
        yield f"![Samples]({own}.png)\n"
    yield "## Measured\n"
    yield from _measured(results, recipe, name)
    yield "## Trained\n"
    yield from _trained(config, provenance, recipe)
    if "prior" in provenance:
        yield "## Prior\n"
        yield from _fitted(provenance["prior"])
    yield "## Model\n"
    yield f"```json\n{json.dumps(config['model'], indent=2)}\n```\n"
    size = sum((folder / file).stat().st_size for file in config["weights"])
    yield f"Weights: {size:,} bytes in {', '.join(f'`{file}`' for file in config['weights'])}."


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    """What the plugin says of such models."""
    spec = default_host().find("model", config["model"]["type"]).spec
    assert isinstance(spec, ModelSpec)  # as is asked for
    return spec


def _shape(config: Mapping[str, Any]) -> str:
    return ", ".join(map(str, config["data_shape"]))


def _measured(results: Mapping[str, Any], recipe: Mapping[str, Any], name: str) -> Iterator[str]:
    if not results.get("values"):
        yield "Nothing has been measured yet.\n"
        return
    yield f"On `{results['data']}`, split `{results['split']}`, means over examples:\n"
    yield "| metric | value | standard error | unit | examples |\n|---|---|---|---|---|"
    for metric, measured in results["values"].items():
        value, error = (rounded(measured[field], measured["error"]) for field in ("value", "error"))
        yield f"| {metric} | {value} | {error} | {measured.get('unit', '')} | {measured['n']:,} |"
    seed, versions = results["seed"], results.get("versions", {})
    yield f"\nTo compute them again (seed {seed}; {_versions(versions)}):\n"
    yield f"```console\n$ {_evaluation(results, recipe, name)}\n```\n"


def _evaluation(results: Mapping[str, Any], recipe: Mapping[str, Any], name: str) -> str:
    """The command that computes the results again: what is not as in the recipe has to be said."""
    words = ["zoo", "eval", name]
    if (results["data"], results["split"]) != _own_data(recipe):
        words += ["--data", results["data"], "--split", results["split"]]
    if results["metrics"] != recipe.get("evaluation", {}).get("metrics"):
        words += ["--metrics", ",".join(m if isinstance(m, str) else json.dumps(m) for m in results["metrics"])]
    own = recipe.get("evaluation", {}).get("examples") if "--data" not in words else None
    if results.get("examples", own) != own:
        words += ["--examples", str(results["examples"])]
    return shlex.join(words)


def _own_data(recipe: Mapping[str, Any]) -> tuple[str, str]:
    data = recipe.get("data", {})
    return data.get("name", "").rpartition("core/")[2], data.get("held_out", "test")


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _trained(config: Mapping[str, Any], provenance: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    if not recipe:
        yield "The checkpoint does not record how.\n"
        return
    training, data = recipe["training"], recipe["data"]
    yield _start(recipe) if is_ready(recipe["model"]) else f"```console\n$ zoo train {recipe['name']}\n```\n"
    yield "| | |\n|---|---|"
    yield f"| data | `{data['name']}`, split `{data['split']}`, {provenance['examples']:,} examples |"
    yield f"| data fingerprint | `{provenance['data_fingerprint']}` |"
    yield f"| preprocessing | {_settings(config['preprocessing'])} |"
    if recipe.get("loss") is None:
        yield f"| iterations | {provenance['steps']:,} over all examples |"
    else:
        yield f"| steps | {provenance['steps']:,} of {training['batch']} examples |"
        yield f"| optimiser | {training['optimizer']}, learning rate {training['lr']}, {training['schedule']} |"
    yield f"| seed | {training['seed']} |"
    if "seconds" in provenance:
        yield f"| time | {_time(provenance['seconds'])} on {provenance['device']} |"
    plugins = ", ".join(f"zoo-{plugin} {version}" for plugin, version in config["plugins"].items())
    yield f"| versions | zoo-core {config['zoo_core']}, {plugins} |\n"


def _start(recipe: Mapping[str, Any]) -> str:
    """Which model was trained further."""
    model = recipe["model"]
    pins = (("revision", "commit"), ("sha256", "SHA-256"))
    told = "".join(f", {words} `{model[pin]}`" for pin, words in pins if pin in model)
    return f"Trained further from `{model[KEY]}`{told}.\n"


def _fitted(prior: Mapping[str, Any]) -> Iterator[str]:
    """How a prior was fitted after the fact."""
    recipe = prior["recipe"]
    options, training = recipe["data"]["options"], recipe["training"]
    weights = ", ".join(f"`{file}` with SHA-256 `{sha256}`" for file, sha256 in prior["weights"].items())
    yield f"Fitted afterwards to {prior['examples']:,} latents of this model, whose other weights stayed: {weights}.\n"
    yield f"```console\n$ {_fit_command(recipe, prior.get('chosen'))}\n```\n"
    yield "| | |\n|---|---|"
    yield f"| latents | {options['draws']} of each example; fingerprint `{prior['data_fingerprint']}` |"
    by_gradients = f"{prior['steps']:,} of {training['batch']} latents, learning rate {training['lr']}"
    yield f"| steps | {by_gradients if recipe['loss'] else str(prior['steps']) + ' iterations over all latents'} |"
    yield f"| seed | {training['seed']} |"
    yield f"| time | {_time(prior['seconds'])} on {prior['device']} |\n"


def _fit_command(recipe: Mapping[str, Any], settings: Mapping[str, Any] | None) -> str:
    """The command that fits this prior again, by the settings that were not the usual ones, where they are known."""
    options, training, model = recipe["data"]["options"], recipe["training"], recipe["model"]
    if settings is None:
        length = "steps" if training["steps"] else "epochs"
        settings = {key: training[key] for key in (length, "batch", *(["lr"] if recipe["loss"] else []))}
    chosen = {f"prior.{key}": value for key, value in model.items() if key != "type"}
    chosen |= {f"training.{key}": value for key, value in settings.items()}
    draws = f" --draws {options['draws']}" if options["draws"] > 1 else ""
    told = " ".join(f"--set {shlex.quote(f'{key}={_as_yaml(value)}')}" for key, value in chosen.items())
    return f"zoo fit-prior {options['model']} --prior {model['type']}{draws} {told}"


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _settings(preprocessing: Mapping[str, Any]) -> str:
    changed = [f"{key} {value}" for key, value in preprocessing.items() if value not in (None, "none")]
    return ", ".join(changed) or "pixels from 0 to 1"
