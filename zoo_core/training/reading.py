"""Recipes from files: read, overridden, checked."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from zoo_core.arguments import checked, join, parameters, shown, unknown_arguments
from zoo_core.components import StatisticalModel
from zoo_core.config import check
from zoo_core.errors import ConfigError, UnknownComponent
from zoo_core.host import PluginHost, default_host
from zoo_core.ready_parts import spelled_out
from zoo_core.training.recipe import Data, Evaluation, Recipe, Training

Section = TypeVar("Section")


def read_recipe(source: str | Path, overrides: Sequence[str] = (), *, host: PluginHost | None = None) -> Recipe:
    """A recipe from a YAML file or, by name, from an installed plugin.

    Args:
        overrides: ``training.lr=3e-4``, ``model.encoder.channels=[64,128]``: YAML values at dotted paths.

    Raises:
        ConfigError: it is not YAML, or a field is unknown, missing or wrong; starts with its path.
        UnknownComponent: there is no such file or recipe, or a component in it does not exist.
    """
    host = host or default_host()
    return parse_recipe(overridden(recipe_content(source, host=host), overrides), host=host)


def recipe_content(source: str | Path, *, host: PluginHost | None = None) -> dict[str, Any]:
    """What a recipe's file says, unchecked. Raises as ``read_recipe``."""
    path = find_recipe(source, host or default_host())
    content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping, this is {shown(content)}")
    return {"name": path.stem, **content}


def overridden(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The content with values at dotted paths; of ``training.steps`` and ``training.epochs`` one replaces the other.

    Raises:
        ConfigError: an override is not KEY=VALUE, or its value is no YAML.
    """
    changed = copy.deepcopy(dict(content))
    lengths = {"training.steps": "epochs", "training.epochs": "steps"}
    given = [lengths[key] for key in lengths if any(override.startswith(f"{key}=") for override in overrides)]
    if len(given) == 1 and isinstance(changed.get("training"), dict):
        changed["training"].pop(given[0], None)
    for override in overrides:
        _apply(changed, override)
    return changed


def parse_recipe(content: Mapping[str, Any], *, host: PluginHost | None = None) -> Recipe:
    """A recipe from its dictionary, with every config in it checked. Raises like ``read_recipe``."""
    sections = {"data": Data, "training": Training, "evaluation": Evaluation}
    content = dict(content)
    for key, section in sections.items():
        if key in content:
            content[key] = _parsed(section, content[key], key)
    recipe = _parsed(Recipe, content, "")
    _check_fit(recipe, host)
    for i, metric in enumerate(recipe.evaluation.metrics):
        check(metric, "metric", path=f"evaluation.metrics[{i}]", host=host)
    return recipe


def _check_fit(recipe: Recipe, host: PluginHost | None) -> None:
    """Refuses a model that is fitted by gradients without a loss, and one that is not with one."""
    model = check(spelled_out(recipe.model, host=host), "model", path="model", host=host)
    by_statistics = issubclass(model, StatisticalModel)
    if by_statistics == (recipe.loss is not None):
        how = "is fitted without a loss; leave it out" if by_statistics else "needs one; it is required"
        raise ConfigError(f"loss: {model.__name__} {how}")
    if recipe.loss is not None:
        check(recipe.loss, "loss", path="loss", host=host)


def find_recipe(source: str | Path, host: PluginHost) -> Path:
    """The file of that name, or the recipe of that name in an installed plugin."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        raise UnknownComponent(f"no recipe file {str(source)!r}")
    recipes = installed_recipes(host)
    full = [r for r in recipes if str(source) in (r, r.partition("/")[2])]
    if len(full) == 1:
        return recipes[full[0]]
    problem = f"more than one: {', '.join(full)}" if full else f"there are: {', '.join(recipes) or 'none'}"
    raise UnknownComponent(f"no recipe {str(source)!r}; {problem}")


def installed_recipes(host: PluginHost) -> dict[str, Path]:
    """``plugin/name`` → file, for the folder ``recipes`` in each active plugin's package."""
    found = {}
    for plugin in host.plugins.values():
        folder = Path(str(files(plugin.package))) / "recipes" if plugin.package else Path()
        if plugin.state == "active" and plugin.package and folder.is_dir():
            found.update({f"{plugin.name}/{path.stem}": path for path in sorted(folder.glob("*.yaml"))})
    return found


def _parsed(section: type[Section], content: Any, path: str) -> Section:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path or 'recipe'}: must be a mapping, got {shown(content)}")
    known = parameters(cast(Callable[..., Any], section))
    unknown_arguments([str(key) for key in content], list(known), path)
    missing = [name for name, p in known.items() if p.required and name not in content]
    if missing:
        raise ConfigError(f"{join(path, missing[0])}: is required")
    values = {k: checked(v, known[k].annotation, join(path, k)) for k, v in content.items()}
    try:
        return section(**values)
    except ConfigError as error:
        raise ConfigError(join(path, str(error))) from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: use key=value, such as training.lr=0.001")
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        inner = place.setdefault(parent, {})
        if isinstance(inner, str):  # a component written as its name alone
            inner = place[parent] = {"type": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent!r} is no mapping")
        place = inner
    place[last] = parse_yaml(text, f"--set {override}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a string and ``no`` for false; everybody means the number and the word."""

    yaml_implicit_resolvers = {
        letter: [(tag, form) for tag, form in known if tag != "tag:yaml.org,2002:bool"]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """What the text says; ``where`` begins the message of the ConfigError if it is no YAML."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from None
