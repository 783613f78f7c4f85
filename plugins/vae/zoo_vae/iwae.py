"""The importance-weighted bound."""

import math

import torch

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, PositiveInt


class IWAE(Loss):
    """-L_K = -E[log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x)], z_k ~ q(z|x): K = 1 is -ELBO, and L_K rises with K.

    Importance-weighted autoencoders (Burda et al., 2016) https://arxiv.org/abs/1509.00519

    Args:
        samples: K.

    Terms: ``elbo``, the mean of the log weights, in nats.
    """

    def __init__(self, samples: PositiveInt = 50) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        log_w = model.log_weights(x, model.encoder(x), self.samples)
        bound = torch.logsumexp(log_w, 0) - math.log(self.samples)
        return LossOutput(-bound.mean(), {"elbo": log_w.mean().detach()})
