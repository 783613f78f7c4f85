"""The ELBO with the mismatch of q(z) and p(z) weighed apart from the rate."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from zoo_core import Batch, Bounds, ConfigError, LatentVariableModel, Loss, LossOutput, PositiveFloat, kl
from zoo_vae.several import require_several

AtMostOne = Annotated[float, Bounds("a number of at most 1", high=1)]


class InfoVAE(Loss):
    """-E_q[log p(x|z)] + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + lambda - 1) MMD^2(q(z), p(z)), z ~ q(z|x).

    Information maximizing variational autoencoders (Zhao et al., 2019) https://arxiv.org/abs/1706.02262
    MMD^2 of a micro-batch, unbiased (Gretton et al., 2012) https://jmlr.org/papers/v13/gretton12a.html

    Args:
        alpha: reward of the information that z carries; 1 takes the rate away, which is the MMD-VAE. A learned
            prior then stays as it is, for the draws of p(z) carry no gradient.
        lambda_: what q(z) costs for being another than p(z).
        bandwidths: h of the kernel Σ_h exp(-||z - z'||^2 / (2 h^2 D)), D the number of latents.

    Terms: ``distortion`` and ``rate``, in nats, and ``mmd``, MMD^2, a pure number; all without their weights.
    """

    def __init__(
        self,
        alpha: AtMostOne = 1.0,
        lambda_: PositiveFloat = 100.0,
        bandwidths: Sequence[PositiveFloat] = (0.25, 0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        if alpha + lambda_ < 1:
            raise ConfigError(f"lambda_: must be at least 1 - alpha = {1 - alpha}, got {lambda_}")
        if not bandwidths:
            raise ConfigError("bandwidths: must name at least one, got []")
        self.alpha, self.lambda_, self.bandwidths = alpha, lambda_, bandwidths

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample()
        require_several(z, "info")
        distortion, rate = -model.decoder(z).log_prob(x).mean(), kl(q, p_z, z).mean()
        mmd = self.mmd(z.flatten(1), p_z.sample(z.shape[:1]).flatten(1))
        total = distortion + (1 - self.alpha) * rate + (self.alpha + self.lambda_ - 1) * mmd
        return LossOutput(total, {"distortion": distortion.detach(), "rate": rate.detach(), "mmd": mmd.detach()})

    def mmd(self, a: Tensor, b: Tensor) -> Tensor:
        """E k(a, a') + E k(b, b') - 2 E k(a, b) for draws a, b (B, D), a' another than a; of one draw, 0."""
        if len(a) == 1:
            return a.new_zeros(())
        return mean_of_others(self.kernel(a, a)) + mean_of_others(self.kernel(b, b)) - 2 * self.kernel(a, b).mean()

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """k(a_i, b_j), (A, B), for a (A, D) and b (B, D)."""
        distance = (a.unsqueeze(1) - b).square().mean(-1)  # ||a_i - b_j||^2 / D
        return torch.stack([(-distance / (2 * h**2)).exp() for h in self.bandwidths]).sum(0)


def mean_of_others(k: Tensor) -> Tensor:
    """1 / (B (B - 1)) Σ_{i ≠ j} k_ij."""
    return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))
