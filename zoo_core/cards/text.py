"""The text of model cards, from what a checkpoint records: its config, its provenance, its measured results."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_core.cards.commands import checking, evaluating
from zoo_core.cards.metadata import front_matter, reading_records, spec_of
from zoo_core.cards.pictures import PICTURES
from zoo_core.errors import CheckpointError
from zoo_core.evaluation import read_results, rounded
from zoo_core.pretrained import CONFIG, RESULTS, read_config
from zoo_core.ready_parts import KEY, is_ready


def card(folder: str | Path, name: str, *, pictures: str | Path | None = None) -> str:
    """The card of a checkpoint, in Markdown with the Hub's metadata.

    Args:
        name: what users load: ``vae-mnist`` or ``org/name``.
        pictures: the folder in which the card will lie, whose pictures it shows; default that of the checkpoint.

    Raises:
        CheckpointError: the folder holds no checkpoint, or the Hub could not read the card.
    """
    from huggingface_hub import ModelCard

    folder, shown = Path(folder), Path(pictures or folder)
    config, evaluations = read_config(folder / CONFIG), read_results(folder / RESULTS)
    size = sum((folder / file).stat().st_size for file in config["weights"])
    with reading_records(folder):
        lines = _lines(config, evaluations, name, shown, size)
        text = front_matter(config, evaluations, name) + "\n" + "\n".join(lines) + "\n"
    try:
        ModelCard(text)
    except ValueError as error:
        raise CheckpointError(f"{folder}: the card's metadata cannot be read: {error}") from None
    return text


def _lines(
    config: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], name: str, shown: Path, size: int
) -> Iterator[str]:
    provenance = config.get("provenance", {})
    recipe = provenance.get("recipe", {})
    own = name.rpartition("/")[2]
    yield f"# {own}\n"
    yield f"{recipe.get('summary') or config['model']['type']}\n"
    yield "```python\nfrom zoo_core import from_pretrained\n"
    yield f'model = from_pretrained("{name}")'
    yield spec_of(config).example.replace("{shape}", _shape(config)) + "\n```\n"
    yield from (f"![{words}]({file})\n" for file, words in PICTURES.items() if (shown / file).is_file())
    yield "## Measured\n"
    yield from _measured(evaluations, recipe, name)
    yield "## Trained\n"
    yield from _trained(config, provenance, recipe)
    if "prior" in provenance:
        yield "## Prior\n"
        yield from _fitted(provenance["prior"])
    yield "## Model\n"
    yield f"```json\n{json.dumps(config['model'], indent=2)}\n```\n"
    yield f"Weights: {size:,} bytes in {', '.join(f'`{file}`' for file in config['weights'])}."


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _shape(config: Mapping[str, Any]) -> str:
    return ", ".join(map(str, config["data_shape"]))


def _measured(evaluations: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], name: str) -> Iterator[str]:
    if not evaluations:
        yield "Nothing has been measured yet.\n"
        return
    for evaluation in evaluations:
        yield from _values(evaluation)
        yield f"\n```console\n$ {evaluating(evaluation, recipe, name)}\n```\n"
    yield "Measure all of it again, and compare:\n"
    yield f"```console\n$ {checking(name)}\n```\n"
    yield (
        "A value may differ by a tenth of its standard error, or by a thousandth of itself where it has none; on"
        " another kind of device, where the random numbers are others, by 4 standard errors of the difference.\n"
    )


def _values(evaluation: Mapping[str, Any]) -> Iterator[str]:
    options = ", ".join(f"{key} {value}" for key, value in evaluation.get("options", {}).items())
    data = f"`{evaluation['data']}`" + (f" ({options})" if options else "")
    versions = ", ".join(f"{package} {version}" for package, version in evaluation.get("versions", {}).items())
    yield f"On {data}, split `{evaluation['split']}`, seed {evaluation['seed']}; {versions}{_time_taken(evaluation)}:\n"
    yield "| metric | value | standard error | better | unit | examples |\n|---|---|---|---|---|---|"
    for metric, m in evaluation["values"].items():
        value, error = (rounded(m[field], m["error"]) for field in ("value", "error"))
        yield f"| {metric} | {value} | {error} | {m.get('better', '')} | {m.get('unit', '')} | {m['n']:,} |"
    for features in dict.fromkeys(filter(None, map(_features, evaluation["values"].values()))):
        yield f"\n{features}"


def _time_taken(evaluation: Mapping[str, Any]) -> str:
    seconds, device = evaluation.get("seconds"), evaluation.get("device")
    return f"; {_time(seconds)} on {device}" if seconds else ""


def _features(measured: Mapping[str, Any]) -> str:
    """By which features samples were compared."""
    about = measured.get("about", {})
    if "extractor" not in about:
        return ""
    size = f", {about['d']:,} numbers an image" if "d" in about else ""
    weights = f", weights with SHA-256 `{about['weights']}`" if about.get("weights") else ""
    return f"Samples are compared by the features of `{about['extractor']}`{size}{weights}."


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
