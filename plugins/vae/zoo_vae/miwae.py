"""The mean of several importance-weighted bounds."""

import math

import torch

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, PositiveInt, kl


class MIWAE(Loss):
    """-E[1/M Σ_m log 1/K Σ_k p(x|z_mk) p(z_mk) / q(z_mk|x)], z_mk ~ q(z|x): the bound of ``iwae``, from M K draws.

    More samples K tighten the bound but drown the encoder's gradient in noise; more bounds M lessen the noise.

    Tighter variational bounds are not necessarily better (Rainforth et al., 2018) https://arxiv.org/abs/1802.04537

    Args:
        bounds: M; with 1 it is ``iwae``.
        samples: K; with 1 it is the ELBO.

    Terms: ``distortion`` and ``rate``, those of the ELBO, in nats.
    """

    def __init__(self, bounds: PositiveInt = 8, samples: PositiveInt = 8) -> None:
        super().__init__()
        self.bounds, self.samples = bounds, samples

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample((self.bounds, self.samples))
        rate = kl(q, p_z, z).mean()
        log_p_x = model.decoder(z).log_prob(x)
        log_w = log_p_x + p_z.log_prob(z) - q.log_prob(z)  # (M, K, B)
        bound = torch.logsumexp(log_w, 1) - math.log(self.samples)
        return LossOutput(-bound.mean(), {"distortion": -log_p_x.mean().detach(), "rate": rate.detach()})
