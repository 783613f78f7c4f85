"""Recipes from files: read, overridden, checked."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from zoo_core.arguments import checked, join, parameters, shown, unknown_arguments
from zoo_core.components import StatisticalModel
from zoo_core.config import check
from zoo_core.errors import ConfigError, UnknownComponent, plain
from zoo_core.host import PluginHost, default_host
from zoo_core.ready_parts import spelled_out
from zoo_core.training.recipe import Data, Evaluation, Recipe, Training
from zoo_core.untrusted import DEEPEST_JSON, read_bytes

Section = TypeVar("Section")

LARGEST_YAML = 2**18  # characters: a recipe is written by people
MOST_VALUES = 100_000
_NUMBER = re.compile(r"[-+\w.:]{1,40}(?<!nan)(?<!inf)", re.IGNORECASE)
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


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
    content = parse_yaml(_text(path), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping, this is {shown(content)}")
    return {"name": path.stem, **content}


def _text(path: Path) -> str:
    try:
        return read_bytes(path, 4 * LARGEST_YAML).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


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
    """YAML 1.1 takes 1e-3 for a string, ``no`` for false and 2024-01-01 for no string; everybody means the other."""

    yaml_implicit_resolvers = {
        letter: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("bool", "timestamp")]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.level += 1
        if self.level > DEEPEST_JSON:
            raise ValueError(f"more than {DEEPEST_JSON} levels deep")
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """What the text says, as JSON could say it: no tags, no key twice, and nothing that grows when it is read.

    Raises:
        ConfigError: it is no such YAML; begins with ``where``.
    """
    if len(text) > LARGEST_YAML:
        raise ConfigError(f"{where}: larger than {LARGEST_YAML} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _require_plain(node, {})
        return loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: no valid YAML: {plain(' '.join(str(error).split()), 500)}") from None


def _require_plain(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node stands for, once every alias in it is written out.

    Args:
        sizes: of the nodes seen so far by their ids; 0 while their inside is looked at.

    Raises:
        ValueError: too many, or there is something else in it than JSON has.
    """
    if node is None or sizes.get(id(node)):
        return sizes.get(id(node), 0)
    if id(node) in sizes:
        raise ValueError("an alias stands inside of what it stands for")
    if node.tag not in TAGS:
        raise ValueError(f"the tag {shown(node.tag)} is not allowed")
    sizes[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        _require_unique(node)
    if node.tag.endswith((":int", ":float")) and not _NUMBER.fullmatch(node.value):
        raise ValueError(f"{shown(node.value)} is no number that JSON has")
    sizes[id(node)] = 1 + sum(_require_plain(child, sizes) for child in _children(node))
    if sizes[id(node)] > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, with its aliases written out")
    return sizes[id(node)]


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, yaml.MappingNode):
        return chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _require_unique(mapping: yaml.MappingNode) -> None:
    names = Counter(key.value for key, _ in mapping.value if isinstance(key, yaml.ScalarNode))
    name, times = max(names.items(), key=itemgetter(1), default=("", 1))
    if times > 1:
        raise ValueError(f"the key {shown(name)} stands twice in one mapping")
