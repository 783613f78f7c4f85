"""What the zoo knows of a checkpoint, put into the front matter of a card that somebody else wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from zoo_core.specs import NAME

PLUGIN_TAG = re.compile(f"zoo-{NAME.pattern}")


def with_metadata(card: str, own: Mapping[str, Any]) -> str:
    """The same card, with the library, the tags, the data sets and the results of a checkpoint in its front matter.

    Everything else stays byte for byte. ``library_name`` and measured results are the zoo's; tags are added to those
    that are there; ``datasets`` that a person wrote stay.

    Args:
        own: as ``metadata`` gives it.

    Raises:
        ValueError: its front matter cannot be read, or not be changed without touching the rest.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK  # as the Hub itself finds it

    block = REGEX_YAML_BLOCK.search(card)
    if not block and re.match(r"\W*---", card):
        raise ValueError("where its YAML ends cannot be told")
    theirs = _parsed(block[2]) if block else {}
    wanted = {key: value for key, value in _wanted(theirs, own).items() if theirs.get(key) != value}
    if not wanted:
        return card
    line_break = "\r\n" if "\r\n" in card else "\n"
    text = block[2] if block else ""
    try:
        for key, value in wanted.items():
            text = _with_field(text, key, value, line_break)
        told = _parsed(text)
    except (yaml.YAMLError, ValueError):
        told = {}
    if told != {key: value for key, value in {**theirs, **wanted}.items() if value is not None}:
        raise ValueError("its YAML is written in a way that cannot be added to")
    if not block:
        return f"---{line_break}{text}{line_break}---{line_break}{card}"
    return card[: block.start(2)] + text + card[block.end(2) :]


def _parsed(text: str) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError for a date that is none
        raise ValueError(f"its YAML cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict | None):
        raise ValueError("its YAML must be a mapping")
    return fields or {}


def _wanted(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they shall be; None for one that shall not be there."""
    wanted = {"library_name": own["library_name"], "tags": _tags(theirs.get("tags"), own["tags"])}
    if "datasets" in own and not theirs.get("datasets"):
        wanted["datasets"] = own["datasets"]
    if "model-index" in own or "model-index" in theirs:
        wanted["model-index"] = _results(theirs.get("model-index"), own.get("model-index"))
    return wanted


def _tags(theirs: Any, own: Sequence[str]) -> list[Any]:
    """Theirs, then ours; plugins that the checkpoint does not need any more go."""
    kept = theirs if isinstance(theirs, list) else [theirs] if theirs else []
    kept = [tag for tag in kept if tag in own or not PLUGIN_TAG.fullmatch(str(tag))]
    return [*kept, *(tag for tag in own if tag not in kept)]


def _results(theirs: Any, own: Any) -> Any:
    """The zoo's results in the place of its former ones; those that come from elsewhere stay."""
    try:
        foreign = [result for model in theirs or () for result in map(_foreign, model["results"]) if result["metrics"]]
        model = dict((own or theirs)[0]) if own or foreign else {}
    except (AttributeError, KeyError, TypeError):  # no index as the Hub reads it
        return own or theirs
    return [{**model, "results": [*(own[0]["results"] if own else ()), *foreign]}] if model else None


def _foreign(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the metrics alone that the zoo did not measure."""
    return {**result, "metrics": [metric for metric in result["metrics"] if not _is_measured_by_zoo(metric)]}


def _is_measured_by_zoo(metric: Mapping[str, Any]) -> bool:
    arguments = metric.get("args")
    return isinstance(arguments, dict) and str(arguments.get("check")).startswith("zoo eval ")


def _with_field(text: str, key: str, value: Any, line_break: str) -> str:
    """The YAML with one top-level field in the place of the one that was there, or else at the end."""
    lines = text.splitlines(keepends=True)
    first, last = _place(text, key, lines)
    new = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True) if value is not None else ""
    before, after = "".join(lines[:first]), "".join(lines[last:])
    if before and new and not before.endswith(("\n", "\r")):
        before += line_break
    joined = before + new.replace("\n", line_break) + after
    return joined if after else joined.removesuffix(line_break)


def _place(text: str, key: str, lines: Sequence[str]) -> tuple[int, int]:
    """The lines of a top-level field, without the blank ones and the comments behind it."""
    mapping = yaml.compose(text, yaml.SafeLoader)
    fields = mapping.value if isinstance(mapping, yaml.MappingNode) else []
    starts = [name.start_mark.line for name, _ in fields] + [len(lines)]
    for i, (name, _) in enumerate(fields):
        if name.value == key:
            last = starts[i + 1]
            while last > starts[i] + 1 and lines[last - 1].strip()[:1] in ("", "#"):
                last -= 1
            return starts[i], last
    return len(lines), len(lines)
