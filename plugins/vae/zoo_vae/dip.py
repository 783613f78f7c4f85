"""What DIP-VAE-I and DIP-VAE-II have in common."""

import abc

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Batch, ConfigError, LatentVariableModel, Loss, LossOutput, NonNegativeFloat, kl
from zoo_vae.several import require_several


class DIP(Loss):
    """-ELBO + lambda_od Σ_{i ≠ j} C_ij^2 + lambda_d Σ_i (C_ii - 1)^2, for a covariance C (D, D) over a micro-batch.

    Variational inference of disentangled latent concepts (Kumar et al., 2018) https://arxiv.org/abs/1711.00848

    Args:
        lambda_od: weight off the diagonal, where a covariance ought to be 0.
        lambda_d: weight on the diagonal, where a variance ought to be 1.

    Terms: ``distortion`` and ``rate``, in nats; the sums ``off_diagonal`` and ``diagonal``, without their weights.
    """

    def __init__(self, lambda_od: NonNegativeFloat, lambda_d: NonNegativeFloat) -> None:
        super().__init__()
        self.lambda_od, self.lambda_d = lambda_od, lambda_d

    @abc.abstractmethod
    def covariance(self, q: Distribution) -> Tensor:
        """C (D, D), for q(z|x) with batch shape (B,) and event shape (D,)."""

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample()
        require_several(z, "dip")
        distortion, rate = -model.decoder(z).log_prob(x).mean(), kl(q, p_z, z).mean()
        off_diagonal, diagonal = excess(self.covariance(vectors(q)))
        total = distortion + rate + self.lambda_od * off_diagonal + self.lambda_d * diagonal
        terms = {"distortion": distortion, "rate": rate, "off_diagonal": off_diagonal, "diagonal": diagonal}
        return LossOutput(total, {name: term.detach() for name, term in terms.items()})


def vectors(q: Distribution) -> Distribution:
    """Refuses a q(z|x) over anything but vectors."""
    if len(q.event_shape) != 1:
        raise ConfigError(
            f"dip_i and dip_ii take latents that are vectors, whose D x D covariance a batch can tell: got shape "
            f"{tuple(q.event_shape)}. Let the encoder emit vectors, such as layout: vector"
        )
    return q


def covariance(mu: Tensor) -> Tensor:
    """1/B Σ_b (mu_b - mean) (mu_b - mean)', (D, D), for mu (B, D)."""
    centred = mu - mu.mean(0)
    # Not a matrix product, which autocast would round to bfloat16.
    return (centred.unsqueeze(2) * centred.unsqueeze(1)).mean(0)


def excess(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{i ≠ j} C_ij^2 and Σ_i (C_ii - 1)^2."""
    variances = covariance.diagonal()
    return (covariance - variances.diag_embed()).square().sum(), (variances - 1).square().sum()
