"""Reconstruction, and what every loss here asks of a model."""

from typing import Any

from zoo_core import Batch, ConfigError, LatentVariableModel, Loss, LossOutput


class Reconstruction(Loss):
    """-log p(x|z), z = f(x) the mean of q(z|x).

    Reducing the dimensionality of data with neural networks (Hinton & Salakhutdinov, 2006)
    https://doi.org/10.1126/science.1127647

    Terms: ``distortion``, the loss itself, in nats.

    Raises:
        ConfigError: the model has no encoder and decoder, or its prior waits for a gradient.
    """

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        require_autoencoder(model)
        x = batch["image"]
        distortion = -model.decoder(model.encode(x)).log_prob(x)
        return LossOutput(distortion.mean(), {"distortion": distortion.mean().detach()})


def require_autoencoder(model: Any) -> None:
    """Refuses a model that does not encode and decode, and a prior that would silently stay untrained.

    Raises:
        ConfigError: what the model lacks, or what to do about its prior.
    """
    if not isinstance(model, LatentVariableModel):
        raise ConfigError(f"a reconstruction needs an encoder and a decoder; {type(model).__name__} has none")
    if any(parameter.requires_grad for parameter in model.prior.parameters()):
        raise ConfigError(
            f"the prior {type(model.prior).__name__} has parameters, which no reconstruction loss trains; take one"
            " without, such as nets/standard_normal, or freeze it with requires_grad_(False)"
        )
