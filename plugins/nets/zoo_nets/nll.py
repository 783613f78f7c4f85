"""The negative log-likelihood."""

from typing import Any

from zoo_core import Batch, ConfigError, Loss, LossOutput


class NLL(Loss):
    """-log p(x), for any model with a density; where its ``log_prob`` is a lower bound, this is an upper one.

    Raises:
        ConfigError: the model has no density.
    """

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        try:
            log_p = model.log_prob(batch["image"])
        except NotImplementedError as error:
            raise ConfigError(f"loss 'nll' needs a model with a density: {error}") from None
        return LossOutput(-log_p.mean(), {})
