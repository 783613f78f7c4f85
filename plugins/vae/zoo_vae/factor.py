"""The ELBO with a price on the total correlation of the latents, as an adversary tells it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from zoo_core import (
    AdversarialLoss,
    Batch,
    ConfigError,
    LatentVariableModel,
    LossOutput,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Shape,
    kl,
)


class FactorVAE(AdversarialLoss):
    """-ELBO + gamma TC, with TC = KL(q(z) || Π_j q(z_j)) estimated as the mean of log D(z) / (1 - D(z)), z ~ q(z).

    D(z) is the adversary's probability that z is a draw of q(z) rather than of Π_j q(z_j); of the best adversary
    D / (1 - D) = q(z) / Π_j q(z_j). A draw of the product is one of q(z) with each z_j taken from another example.

    Disentangling by factorising (Kim & Mnih, 2018) https://arxiv.org/abs/1802.05983

    To the adversary the first half of a micro-batch is q(z), and the second half, permuted, Π_j q(z_j): no example is
    in both. The model learns from all of it.

    Args:
        latent_shape: (D,).
        gamma: what a nat of total correlation costs, beside what the rate charges for it.
        hidden: widths of the adversary's hidden layers.
        adversary_lr: the learning rate of its Adam.

    Terms: ``distortion``, ``rate`` and ``total_correlation``, in nats, without their weights; of the adversary
    ``accuracy``, the share of draws that it tells right: 1/2 where it finds no correlation.

    Raises:
        ConfigError: latents are no vectors, or half of a micro-batch is too little to permute.
    """

    adversary_betas = (0.5, 0.9)

    def __init__(
        self,
        latent_shape: Shape,
        gamma: NonNegativeFloat = 10.0,
        hidden: Sequence[PositiveInt] = (1000,) * 6,
        adversary_lr: PositiveFloat = 1e-4,
    ) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise ConfigError(
                f"latent_shape: must be (D,), since factor permutes one latent at a time; got {tuple(latent_shape)}. "
                "Let the encoder emit vectors, such as layout: vector"
            )
        self.gamma, self.adversary_lr = gamma, adversary_lr
        self.adversary = Discriminator(latent_shape[0], hidden)

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        z = q.rsample()
        if z.requires_grad:  # held-out data may end with a batch of one
            halves(z)
        distortion, rate, correlation = -model.decoder(z).log_prob(x), kl(q, p_z, z), self.total_correlation(z)
        total = (distortion + rate + self.gamma * correlation).mean()
        terms = {"distortion": distortion, "rate": rate, "total_correlation": correlation}
        return LossOutput(total, {name: term.mean().detach() for name, term in terms.items()})

    def total_correlation(self, z: Tensor) -> Tensor:
        """log D(z) / (1 - D(z)), (B,), with a gradient for z and none for the adversary."""
        fixed = {name: parameter.detach() for name, parameter in self.adversary.named_parameters()}
        log_ratio: Tensor = functional_call(self.adversary, fixed, (z,))
        return log_ratio

    def oppose(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        """-1/2 E[log D(z)] - 1/2 E[log(1 - D(z'))], z ~ q(z), z' permuted: log 2 where it tells nothing apart."""
        with torch.no_grad():
            z, other = halves(model.encoder(batch["image"]).sample())
        joint, product = self.adversary(z), self.adversary(permuted(other))
        total = (F.softplus(-joint).mean() + F.softplus(product).mean()) / 2
        accuracy = ((joint > 0).float().mean() + (product < 0).float().mean()) / 2
        return LossOutput(total, {"accuracy": accuracy})


class Discriminator(nn.Module):
    """z (B, D) → log D(z) / (1 - D(z)), (B,): the first of two logits less the second."""

    def __init__(self, latents: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [latents, *hidden, 2]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.LeakyReLU(0.2), nn.Linear(a, b))]
        self.layers = nn.Sequential(*layers[1:])

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = self.layers(z.to(next(self.parameters()).dtype))
        # In half precision the difference of two logits would have few digits.
        h = h.to(torch.promote_types(h.dtype, z.dtype))
        return h[:, 0] - h[:, 1]


def halves(z: Tensor) -> tuple[Tensor, Tensor]:
    """The first half of a batch and the second, which has one more if B is odd.

    Raises:
        ConfigError: the second has nothing to permute.
    """
    half = len(z) // 2
    if len(z) - half < 2:
        raise ConfigError(
            f"factor permutes half of a batch among its examples, and learns nothing from a batch of {len(z)}: "
            "raise training.batch to at least 3 for each process, and training.micro_batch to at least 3;"
            " training.drop_last leaves out the smaller last batch of an epoch"
        )
    return z[:half], z[half:]


def permuted(z: Tensor) -> Tensor:
    """z (B, D) with each of its D columns shuffled by itself: draws of Π_j q(z_j)."""
    return z.gather(0, torch.rand_like(z).argsort(0))
