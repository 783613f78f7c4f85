"""The ELBO with a gradient that needs no gradient of z."""

from typing import Annotated

from torch import Tensor

from zoo_core import Batch, Bounds, LatentVariableModel, Loss, LossOutput, kl
from zoo_vae.relaxation import require_alike

Several = Annotated[int, Bounds("an integer of at least 2", low=2)]


class ScoreFunction(Loss):
    """-ELBO = -E_q[log p(x|z)] + KL(q(z|x) || p(z)), from K draws, for any q(z|x) with a log-probability.

    With f_k = log p(x, z_k) - log q(z_k|x), q is told 1/K Σ_k (f_k - 1/(K-1) Σ_{j ≠ k} f_j) d log q(z_k|x): unbiased,
    since the other draws know nothing of z_k, and without noise where q(z|x) = p(z|x), for f is then the same at each.

    Simple statistical gradient-following algorithms (Williams, 1992) https://doi.org/10.1007/BF00992696
    The baseline: variational inference for Monte Carlo objectives (Mnih & Rezende, 2016)
    https://arxiv.org/abs/1602.06725, buy 4 REINFORCE samples, get a baseline for free (Kool et al., 2019)
    https://openreview.net/forum?id=r1lgTGL5DE

    Args:
        samples: K.

    Terms: ``distortion`` and ``rate``, in nats.
    """

    def __init__(self, samples: Several = 8) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        require_alike(q, p_z, "score_function")
        z = q.sample((self.samples,))
        distortion, rate = -model.decoder(z).log_prob(x), kl(q, p_z, z)
        log_p_xz, log_q = p_z.log_prob(z) - distortion, q.log_prob(z)
        advantage = beyond_the_others((log_p_xz - log_q).detach())
        told = -(log_p_xz + advantage * log_q)
        # The value of the ELBO, with the gradient of what is told.
        total = (distortion.detach() + rate.detach() + told - told.detach()).mean()
        return LossOutput(total, {"distortion": distortion.mean().detach(), "rate": rate.mean().detach()})


def beyond_the_others(f: Tensor) -> Tensor:
    """f_k - 1/(K-1) Σ_{j ≠ k} f_j, (K, *)."""
    K = len(f)
    return (f - f.mean(0)) * (K / (K - 1))
