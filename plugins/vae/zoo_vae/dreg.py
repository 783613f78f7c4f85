"""The importance-weighted bound with doubly reparameterised gradients."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, PositiveInt, kl


class DReG(Loss):
    """-L_K = -E[log 1/K Σ_k w_k], w_k = p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): the value of ``iwae``.

    With v_k = w_k / Σ_j w_j, each z_k is told v_k^2 d log w_k / d z_k, and q's parameters hear of it through z_k
    alone: an unbiased gradient whose signal-to-noise ratio rises with K. The model's own gradient is that of L_K.

    Doubly reparameterized gradient estimators (Tucker et al., 2019) https://arxiv.org/abs/1810.04152

    Args:
        samples: K.

    Terms: ``distortion`` and ``rate``, those of the ELBO, in nats.
    """

    def __init__(self, samples: PositiveInt = 50) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample((self.samples,))
        rate = kl(q, p_z, z).mean()
        log_p_x = model.decoder(z).log_prob(x)
        log_w = log_p_x + p_z.log_prob(z) - log_prob_without_score(q, z)
        bound = torch.logsumexp(log_w, 0) - math.log(self.samples)
        weigh_gradient(z, torch.softmax(log_w.detach(), 0))
        return LossOutput(-bound.mean(), {"distortion": -log_p_x.mean().detach(), "rate": rate.detach()})


def log_prob_without_score(q: Distribution, z: Tensor) -> Tensor:
    """log q(z), whose gradient reaches q's parameters through z alone: less d log q(z) / d phi at a fixed z."""
    score = q.log_prob(z.detach())
    return q.log_prob(z) - (score - score.detach())


def weigh_gradient(z: Tensor, v: Tensor) -> None:
    """Multiplies whatever gradient comes back to z (K, B, *latent_shape) by v (K, B)."""
    if z.requires_grad:
        v = v.reshape(*v.shape, *[1] * (z.dim() - v.dim()))
        z.register_hook(lambda gradient: v * gradient)
