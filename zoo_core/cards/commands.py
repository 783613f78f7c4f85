"""The commands on a card, which compute its numbers again."""

import json
import shlex
from collections.abc import Mapping
from typing import Any


def checking(name: str) -> str:
    """Measures again what the card claims."""
    return shlex.join(["zoo", "eval", name, "--check"])


def evaluating(evaluation: Mapping[str, Any], recipe: Mapping[str, Any], name: str) -> str:
    """Makes one evaluation: what is not as in the recipe has to be said."""
    own = recipe.get("evaluation", {})
    words = ["zoo", "eval", name]
    on_own_data = evaluation["data"] == recipe.get("data", {}).get("name", "").removeprefix("core/")
    if not on_own_data:
        words += ["--data", evaluation["data"]]
    if not on_own_data or evaluation["split"] != recipe["data"].get("held_out", "test"):
        words += ["--split", evaluation["split"]]
    if evaluation["metrics"] != own.get("metrics"):
        words += ["--metrics", ",".join(map(_text, evaluation["metrics"]))]
    if evaluation.get("extractor"):
        words += ["--extractor", _text(evaluation["extractor"])]
    usual = {"examples": own.get("examples") if on_own_data else None, "batch": own.get("batch") or 100, "seed": 0}
    for setting, value in usual.items():
        if evaluation.get(setting, value) != value:
            words += [f"--{setting}", _said(setting, evaluation)]
    return shlex.join(words)


def _said(setting: str, evaluation: Mapping[str, Any]) -> str:
    if setting == "examples" and evaluation["examples"] is None:  # all, where the recipe says how many
        return str(max(measured["n"] for measured in evaluation["values"].values()))
    return str(evaluation[setting])


def _text(config: Any) -> str:
    return config if isinstance(config, str) else json.dumps(config)
