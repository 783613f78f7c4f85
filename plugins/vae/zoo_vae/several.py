"""What an objective over the whole batch needs of it."""

from torch import Tensor

from zoo_core import ConfigError


def require_several(z: Tensor, needed_by: str) -> None:
    """Refuses to train on latents z (B, …) of a batch of one; held-out data may end with one.

    Raises:
        ConfigError: naming the loss, and the setting to change.
    """
    if len(z) < 2 and z.requires_grad:
        raise ConfigError(
            f"{needed_by} compares the examples of a batch, and learns nothing from one: "
            "raise training.batch to at least 2 for each process, and training.micro_batch to at least 2;"
            " training.drop_last leaves out the smaller last batch of an epoch"
        )
