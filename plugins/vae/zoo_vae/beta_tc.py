"""The ELBO with a price on the total correlation of the latents."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, NonNegativeFloat, PositiveInt
from zoo_vae.factors import factors
from zoo_vae.several import require_several


class BetaTC(Loss):
    """-E_q[log p(x|z)] + alpha I(x; z) + beta KL(q(z) || Π_j q(z_j)) + gamma Σ_j KL(q(z_j) || p(z_j)), z ~ q(z|x).

    The three add up to KL(q(z|x) || p(z)), so that alpha = beta = gamma = 1 is -ELBO. Here q(z) = 1/N Σ_n q(z|x_n) is
    that of the whole data set, estimated from a micro-batch of B by stratified sampling: the x_i that z_i came from
    counts 1/N, the others share (N - 1)/N evenly (in the paper one of them takes the odd part: the same mean, more
    noise). This q(z_i) is unbiased, and exact for B = N; its logarithm is too low on the average, the more so the fewer
    x_n of these have z_i in reach: the mutual information comes out too high, though never above log N, and the
    dimension-wise KL too low.

    Isolating sources of disentanglement in VAEs (Chen et al., 2018) https://arxiv.org/abs/1802.04942

    Args:
        examples: N, how many examples the training data have.
        alpha, beta, gamma: weights of mutual information, total correlation and dimension-wise KL.

    Terms: ``distortion``, ``rate`` and its parts ``mutual_information``, ``total_correlation`` and
    ``dimension_wise_kl``, in nats, without their weights.
    """

    def __init__(
        self,
        examples: PositiveInt,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 6.0,
        gamma: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        self.examples, self.alpha, self.beta, self.gamma = examples, alpha, beta, gamma

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q = model.encoder(x)
        z = q.rsample()
        require_several(z, "beta_tc")
        distortion = -model.decoder(z).log_prob(x)
        information, correlation, separate = self.decompose(q, model.prior(), z)
        total = distortion + self.alpha * information + self.beta * correlation + self.gamma * separate
        terms = {
            "distortion": distortion,
            "rate": information + correlation + separate,
            "mutual_information": information,
            "total_correlation": correlation,
            "dimension_wise_kl": separate,
        }
        return LossOutput(total.mean(), {name: term.mean().detach() for name, term in terms.items()})

    def decompose(self, q: Distribution, p_z: Distribution, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log q(z|x)/q(z), log q(z)/Π_j q(z_j) and log Π_j q(z_j)/p(z) at z (B, *latent_shape), each (B,)."""
        q_j, p_j = factors(q, "beta_tc"), factors(p_z, "beta_tc")
        log_q_zj_x = q_j.log_prob(z.unsqueeze(1)).flatten(2)  # of each z_i under each x_n, (B, B, D)
        log_share = log_shares(z, self.examples)
        log_q_z_x = log_q_zj_x.sum(2)
        log_q_z = torch.logsumexp(log_share + log_q_z_x, 1)
        log_q_zj = torch.logsumexp(log_share.unsqueeze(2) + log_q_zj_x, 1).sum(1)
        log_p_z = p_j.log_prob(z).flatten(1).sum(1)
        return log_q_z_x.diagonal() - log_q_z, log_q_z - log_q_zj, log_q_zj - log_p_z


def log_shares(z: Tensor, examples: int) -> Tensor:
    """log of what q(z_i|x_n) counts in q(z_i): 1/N for n = i, else (N - 1)/(N (B - 1)), (B, B); of one alone, 1."""
    B, N = len(z), examples
    if B == 1:
        return z.new_zeros(1, 1)
    others = z.new_full((B, B), (N - 1) / (N * (B - 1)))
    return others.fill_diagonal_(1 / N).log()
