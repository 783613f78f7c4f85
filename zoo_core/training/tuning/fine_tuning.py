"""Training a model further that has been trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from zoo_core.arguments import parameters
from zoo_core.components import GenerativeModel, StatisticalModel
from zoo_core.config import check
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost, default_host
from zoo_core.pretrained import from_pretrained
from zoo_core.ready_parts import KEY, full_name, pinned
from zoo_core.training.tuning.freezing import freeze as frozen
from zoo_core.training.tuning.lora import add_lora

WARMUP = "warmup"  # what losses call the steps over which their weights rise, and recipes those of the learning rate


def recipe_from(
    model: str | Path,
    recipe: Mapping[str, Any] | None = None,
    *,
    revision: str | None = None,
    host: PluginHost | None = None,
) -> dict[str, Any]:
    """The content of a recipe that trains a finished model further: its weights are where the training starts.

    The model is named with its commit or its SHA-256, so that a run never goes on from others of that name.

    Args:
        model: a folder, a registered name such as ``"vae-mnist"``, or a Hub id, at that ``revision``.
        recipe: what is done with it; ``model`` in it, if there is one, is replaced. Default is the recipe that the
            model was trained by, but for warm-ups of the learning rate and of the loss, which are over.

    Raises:
        ConfigError: there is no recipe, and the model does not record its own.
        UnknownComponent, CheckpointError: as ``from_pretrained``.
    """
    host, name = host or default_host(), full_name(model)
    loaded: GenerativeModel = from_pretrained(name, revision=revision, host=host)
    own: Mapping[str, Any] = loaded.provenance.get("recipe", {})
    if recipe is None and not own:
        raise ConfigError(f"{name!r} does not record how it was trained; name a recipe to train it by")
    title = own.get("name") or Path(name).name
    return {
        **(_warmed_up(own, host) if recipe is None else recipe),
        "name": f"{title}-fine-tuned",
        "summary": f"{title}, trained further.",
        "model": {KEY: name, **pinned(name, revision, loaded, host)},
    }


def _warmed_up(recipe: Mapping[str, Any], host: PluginHost) -> dict[str, Any]:
    """The same recipe without the warm-ups that a model begins with."""
    loss = recipe.get("loss")
    if loss is not None and WARMUP in parameters(check(loss, "loss", path="loss", host=host)):
        loss = {**({"type": loss} if isinstance(loss, str) else loss), WARMUP: 0}
    return {**recipe, "loss": loss, "training": {**recipe["training"], WARMUP: 0}}


def adapt(model: nn.Module, *, freeze: Sequence[str] = (), lora: Mapping[str, Any] | None = None) -> None:
    """What a recipe says of which numbers are trained: parts that stay as they are, adapters on the others.

    Raises:
        ConfigError, TrainingError: as ``freeze`` and ``add_lora``, or the model is not trained by gradients.
    """
    if (freeze or lora is not None) and isinstance(model, StatisticalModel):
        name = "freeze" if freeze else "lora"
        raise ConfigError(f"training.{name}: {type(model).__name__} is fitted by sums over the data; leave it out")
    frozen(model, freeze)
    if lora is not None:
        add_lora(model, lora)
