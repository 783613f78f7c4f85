"""What metrics of captions need of data and models."""

from typing import Any

from torch import Tensor

from zoo_core import Batch, ConfigError, GenerativeModel, default_host


def require_drawn(metric: str, model: Any, batch: Batch) -> tuple[Tensor, list[str]]:
    """The pictures (B, C, H, W) that were drawn for the captions of a batch, and the captions.

    Raises:
        ConfigError: the data have no captions, the model is never told any, or it draws no pictures.
    """
    if "caption" not in batch:
        raise ConfigError(f"metric {metric!r} needs data with captions: a data set with a column 'caption'")
    # What ``given`` makes for a batch is no component that has a name; a model that is one and does not
    # have its own ``given`` was handed on as it is.
    name, ignores = default_host().name_of(type(model)), type(model).given is GenerativeModel.given
    if name and ignores:
        raise ConfigError(f"metric {metric!r} needs a model of images given captions; {name.full_name} has none")
    x: Tensor = batch["sample"]
    if x.dim() != 4 or not x.is_floating_point():
        raise ConfigError(
            f"metric {metric!r} needs a model that draws pictures (C, H, W); {type(model).__name__} draws data of "
            f"shape {tuple(x.shape[1:])}"
        )
    return x, list(batch["caption"])
