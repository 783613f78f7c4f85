"""The evidence lower bound."""

import math

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import (
    Batch,
    LatentVariableModel,
    Loss,
    LossOutput,
    NonNegativeFloat,
    NonNegativeInt,
    kl,
    kl_per_dimension,
)


class ELBO(Loss):
    """-ELBO = -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)), at one z ~ q(z|x).

    Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114
    beta-VAE (Higgins et al., 2017) https://openreview.net/forum?id=Sy2fzU9gl
    Free bits: inverse autoregressive flow (Kingma et al., 2016) https://arxiv.org/abs/1606.04934

    Args:
        beta: weight of the rate; 1 is the bound on log p(x).
        free_bits: bits per latent dimension that cost nothing, each dimension's KL being meaned over a micro-batch.
        warmup: steps over which beta rises linearly from 0.

    Terms: ``distortion`` and ``rate``, in nats, without their weights.
    """

    def __init__(
        self, beta: NonNegativeFloat = 1.0, free_bits: NonNegativeFloat = 0.0, warmup: NonNegativeInt = 0
    ) -> None:
        super().__init__()
        self.beta, self.free_bits, self.warmup = beta, free_bits, warmup

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample()
        distortion = -model.decoder(z).log_prob(x)
        rate = kl(q, p_z, z)
        charged = self.above_free_bits(q, p_z) if self.free_bits else rate
        total = (distortion + self.weight() * charged).mean()
        return LossOutput(total, {"distortion": distortion.mean().detach(), "rate": rate.mean().detach()})

    def weight(self) -> float:
        """beta at this step."""
        if self.step is None or not self.warmup:
            return self.beta
        return self.beta * min(1.0, self.step / self.warmup)

    def above_free_bits(self, q: Distribution, p_z: Distribution) -> Tensor:
        """Σ_j max(lambda, mean over the batch of KL_j), with lambda in nats; scalar."""
        return kl_per_dimension(q, p_z).mean(0).clamp(min=self.free_bits * math.log(2)).sum()
