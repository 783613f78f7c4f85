"""The ELBO at relaxed draws of discrete latents."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Batch, LatentVariableModel, Loss, LossOutput, NonNegativeInt, PositiveFloat, kl
from zoo_vae.relaxation import annealed, relaxed, require_alike


class GumbelSoftmax(Loss):
    """-log p(x|z) + KL(q(z|x) || p(z)) at a relaxed z = softmax((logits + g) / tau), g standard Gumbel.

    The KL is that of the discrete distributions. No bound on log p(x), for the decoder sees a z between the values
    that p(z) draws; measure with metrics/elbo. The gradient is that of this value: the lower tau the less it is
    biased, and the noisier. Where q(z|x) is continuous nothing is relaxed: it is the ELBO.

    Categorical reparameterization with Gumbel-softmax (Jang et al., 2017) https://arxiv.org/abs/1611.01144
    The concrete distribution (Maddison et al., 2017) https://arxiv.org/abs/1611.00712

    Args:
        temperature: the last tau.
        start: the first one.
        annealing: steps over which tau goes from one to the other, by the same factor each.

    Terms: ``distortion`` and ``rate``, in nats, and ``temperature``, the tau of this step.
    """

    def __init__(
        self, temperature: PositiveFloat = 0.5, start: PositiveFloat = 1.0, annealing: NonNegativeInt = 0
    ) -> None:
        super().__init__()
        self.temperature, self.start, self.annealing = temperature, start, annealing

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        x = batch["image"]
        q, p_z = model.encoder(x), model.prior()
        require_alike(q, p_z, "a relaxation")
        tau = annealed(self.step, self.start, self.temperature, self.annealing)
        z = self.drawn(q, tau)
        distortion, rate = -model.decoder(z).log_prob(x), kl(q, p_z, z)
        terms = {"distortion": distortion.mean().detach(), "rate": rate.mean().detach()}
        return LossOutput((distortion + rate).mean(), {**terms, "temperature": rate.new_tensor(tau)})

    def drawn(self, q: Distribution, tau: float) -> Tensor:
        """z with a gradient, (B, *latent_shape)."""
        return relaxed(q, tau, "gumbel_softmax")
