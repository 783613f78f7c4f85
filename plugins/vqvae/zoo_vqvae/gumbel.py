"""The relaxed categorical of a discrete VAE."""

import math

import torch.nn.functional as F
from torch import Tensor

from zoo_core import NonNegativeFloat, PositiveFloat, Quantized, Quantizer, Shape
from zoo_vqvae.codebook import require_latents
from zoo_vqvae.gradients import straight_through
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.precision import widened


class Gumbel(Quantizer):
    """q(k|x) = softmax(z) over the K channels of z (B, K, *positions), at each position by itself; z_q is one-hot.

    k = argmax_j z_j, without noise. While training z_q = softmax((z + g) / tau) for standard Gumbel g, whose largest
    entry is at a draw of q; afterwards it is the one-hot vector of k, with the gradient of softmax(z). The loss is
    beta KL(q || 1/K), in nats and summed over positions, from z as it is: neither g nor tau has a part in it.
    The K vectors that a code stands for are the weights of whatever linear layer comes first in the decoder.

    Zero-shot text-to-image generation (Ramesh et al., 2021), section 2.1 https://arxiv.org/abs/2102.12092
    Categorical reparameterization with Gumbel-softmax (Jang et al., 2017) https://arxiv.org/abs/1611.01144
    The concrete distribution (Maddison et al., 2017) https://arxiv.org/abs/1611.00712

    Args:
        latent_shape: (K, *positions); an encoder of a grid has ``latents: K``.
        temperature: tau, where the loss does not set one of its own, as vqvae/dvae does.
        beta: weight of the KL, where the loss does not set one of its own.
    """

    def __init__(self, latent_shape: Shape, temperature: PositiveFloat = 1.0, beta: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.latent_shape, self.codes_shape = tuple(latent_shape), tuple(latent_shape[1:])
        self.codebook_size, self.temperature, self.beta = latent_shape[0], temperature, beta

    def encode(self, z: Tensor) -> Tensor:
        return self.logits(z).argmax(1)

    def lookup(self, codes: Tensor) -> Tensor:
        """One-hot vectors (*, K, *positions), float32, of codes (*, *positions)."""
        return F.one_hot(codes, self.codebook_size).movedim(-1, -1 - len(self.codes_shape)).float()

    def forward(self, z: Tensor) -> Quantized:
        codes = self.encode(z)
        z_q = self.relax(z, self.temperature) if self.training else self.hardened(z, codes)
        return Quantized(z_q, codes, self.beta * self.kl(z), perplexity(self.counts(codes)).mean())

    def relax(self, z: Tensor, temperature: float) -> Tensor:
        """softmax((z + g) / tau), (B, K, *positions), for one draw of g; the gradient in z is this formula's."""
        return F.gumbel_softmax(self.logits(z), temperature, dim=1)

    def kl(self, z: Tensor) -> Tensor:
        """KL(q(k|x) || 1/K) = Σ_j q_j (log q_j + log K), in nats, summed over positions, (B,)."""
        log_q = self.logits(z).log_softmax(1)
        return (log_q.exp() * (log_q + math.log(self.codebook_size))).flatten(1).sum(1)

    def hardened(self, z: Tensor, codes: Tensor) -> Tensor:
        """The one-hot vectors of the codes, with the gradient of softmax(z)."""
        return straight_through(self.logits(z).softmax(1), self.lookup(codes))

    def logits(self, z: Tensor) -> Tensor:
        require_latents(z, self.latent_shape)
        return widened(z)
