"""Reconstruction of clean data from corrupted data."""

import abc

import torch
from torch import Tensor

from zoo_autoencoder.reconstruction import require_autoencoder
from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, PositiveFloat


class Denoising(Loss):
    """-log p(x|z), z = f(x~), x~ ~ C(x~|x): a subclass is a corruption C.

    Extracting and composing robust features with denoising autoencoders (Vincent et al., 2008)
    https://doi.org/10.1145/1390156.1390294
    Stacked denoising autoencoders (Vincent et al., 2010) https://jmlr.org/papers/v11/vincent10a.html

    Terms: ``distortion``, the loss itself, in nats.

    Raises:
        ConfigError: the model has no encoder and decoder, or its prior waits for a gradient.
    """

    @abc.abstractmethod
    def corrupt(self, x: Tensor) -> Tensor:
        """x~ ~ C(x~|x), of the shape of x (B, *data_shape)."""

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        require_autoencoder(model)
        x = batch["image"]
        z = model.encode(self.corrupt(x))
        distortion = -model.decoder(z).log_prob(x)
        return LossOutput(distortion.mean(), {"distortion": distortion.mean().detach()})


class GaussianDenoising(Denoising):
    """C(x~|x) = N(x~; x, sigma^2 I).

    Under squared error (r(x) - x) / sigma^2 approaches the score grad log p(x) as sigma falls:
    What regularized auto-encoders learn from the data-generating distribution (Alain & Bengio, 2014)
    https://jmlr.org/papers/v15/alain14a.html

    Args:
        sigma: standard deviation of the noise, where white is 1.
    """

    def __init__(self, sigma: PositiveFloat = 0.3) -> None:
        super().__init__()
        self.sigma = sigma

    def corrupt(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)
