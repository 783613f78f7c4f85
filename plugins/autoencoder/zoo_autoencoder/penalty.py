"""Reconstruction with a penalty on the encoder."""

import abc

from torch import Tensor
from torch.distributions import Distribution

from zoo_autoencoder.reconstruction import require_autoencoder
from zoo_core import Batch, Encoder, LatentVariableModel, Loss, LossOutput


class Penalized(Loss):
    """-log p(x|z) + weight Omega, z = f(x) the mean of q(z|x): a subclass is a penalty Omega.

    Attributes:
        weight: nats for a unit of Omega.

    Terms: ``distortion`` in nats, and ``penalty``, Omega without its weight.

    Raises:
        ConfigError: the model has no encoder and decoder, or its prior waits for a gradient.
    """

    weight: float

    @abc.abstractmethod
    def penalty(self, encoder: Encoder, x: Tensor, q: Distribution) -> Tensor:
        """Omega at q = q(z|x), (B,), or () where it is one of the batch."""

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        require_autoencoder(model)
        x = batch["image"]
        q = model.encoder(x)
        distortion = -model.decoder(q.mean).log_prob(x)
        penalty = self.penalty(model.encoder, x, q)
        total = (distortion + self.weight * penalty).mean()
        return LossOutput(total, {"distortion": distortion.mean().detach(), "penalty": penalty.mean().detach()})
