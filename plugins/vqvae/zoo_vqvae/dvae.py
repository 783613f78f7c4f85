"""The loss of a discrete VAE."""

import math
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoo_core import Batch, ConfigError, Loss, LossOutput, NonNegativeFloat, NonNegativeInt, PositiveFloat
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.vq import require_no_training, require_quantizer


@runtime_checkable
class Relaxable(Protocol):
    """A quantizer whose code is a draw of a categorical that can be relaxed, as ``vqvae/gumbel``."""

    def relax(self, z: Tensor, temperature: float) -> Tensor:
        """What the decoder sees while training, (B, *latent_shape): the lower the temperature, the nearer to a code."""

    def kl(self, z: Tensor) -> Tensor:
        """KL(q(k|x) || 1/K), in nats, (B,)."""


class DVAE(Loss):
    """-log p(x|z_q) + beta KL(q(k|x) || 1/K) at a relaxed draw z_q of the codes, with tau and beta by the step.

    Zero-shot text-to-image generation (Ramesh et al., 2021), section 2.1 https://arxiv.org/abs/2102.12092

    Both terms are nats per example, summed over pixels and over positions. The paper's are the same sums, both divided
    by the 256 · 256 · 3 values of an image: its beta of 6.6 is this beta, and 6.6/192 is what it comes to between means
    over pixels and means over its 32 · 32 positions. Fewer pixels to a position ask for less, as do other likelihoods.

    tau falls from 1 to its last value, and beta rises from 0 to its last one, each along half a wave of a cosine.
    No bound on log p(x): the decoder sees a z_q between the codes, and beta is not 1.

    Args:
        temperature: the last tau.
        temperature_steps: over which tau falls.
        beta: the last beta.
        beta_steps: over which beta rises.

    Terms: ``distortion`` -log p(x|z_q) and ``kl``, in nats; ``perplexity`` of the likeliest codes in a micro-batch;
    ``temperature`` and ``beta`` of this step.

    Raises:
        ConfigError: the model's quantizer, if it has one, cannot be relaxed, or its prior waits for a gradient.
    """

    def __init__(
        self,
        temperature: PositiveFloat = 1 / 16,
        temperature_steps: NonNegativeInt = 150_000,
        beta: NonNegativeFloat = 6.6,
        beta_steps: NonNegativeInt = 5_000,
    ) -> None:
        super().__init__()
        self.temperature, self.temperature_steps = temperature, temperature_steps
        self.beta, self.beta_steps = beta, beta_steps

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        require_relaxable(model)
        require_no_training(model.prior, "loss 'dvae'")
        x, quantizer = batch["image"], model.quantizer
        tau, beta = self.scheduled()
        z = model.encoder(x).mean
        distortion = -model.decoder(quantizer.relax(z, tau)).log_prob(x)
        kl = quantizer.kl(z)
        even = perplexity(quantizer.counts(quantizer.encode(z))).mean()
        terms = {"distortion": distortion.mean().detach(), "kl": kl.mean().detach(), "perplexity": even}
        steps = {"temperature": kl.new_tensor(tau), "beta": kl.new_tensor(beta)}
        return LossOutput((distortion + beta * kl).mean(), {**terms, **steps})

    def scheduled(self) -> tuple[float, float]:
        """tau and beta at this step."""
        tau = cosine(self.step, 1.0, self.temperature, self.temperature_steps)
        return tau, cosine(self.step, 0.0, self.beta, self.beta_steps)


def cosine(step: int | None, first: float, last: float, over: int) -> float:
    """From ``first`` at step 0 to ``last``, slow at both ends; None: the steps have ended."""
    if step is None or step >= over:
        return last
    return last + (first - last) * (1 + math.cos(math.pi * step / over)) / 2


def require_relaxable(model: Any) -> None:
    """Refuses a model without codes, and one whose codes are not drawn from a categorical.

    Raises:
        ConfigError: naming a quantizer that goes with the loss.
    """
    require_quantizer("loss 'dvae'", model)
    if not isinstance(model.quantizer, Relaxable):
        raise ConfigError(
            f"loss 'dvae' needs a quantizer that can be relaxed, as vqvae/gumbel; {type(model.quantizer).__name__}"
            " cannot: train it with vqvae/vq"
        )
