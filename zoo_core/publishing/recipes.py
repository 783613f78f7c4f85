"""The recipe that a checkpoint records, as a file that ``zoo train`` takes."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

RECIPE = "recipe.yaml"
HEAD = "# The recipe of this checkpoint, as it was trained: zoo train recipe.yaml\n"


def as_yaml(recipe: Mapping[str, Any]) -> bytes:
    """Raises ValueError if it holds text that no file can."""
    legible = _dumped(recipe, allow_unicode=True)
    return (HEAD + (legible if _is_read_back(legible, recipe) else _dumped(recipe, allow_unicode=False))).encode()


def _is_read_back(text: str, recipe: Mapping[str, Any]) -> bool:
    """Not so where the writer lets characters stand that end a line for the reader."""
    try:
        return bool(yaml.safe_load(text) == recipe)
    except yaml.YAMLError:
        return False


def _dumped(recipe: Mapping[str, Any], *, allow_unicode: bool) -> str:
    text: str = yaml.dump(
        dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, default_flow_style=None, width=100
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Writes what the reader of recipes reads back: to it 1e-3 is a number, and such a string needs quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
