"""What all quantizers with a codebook have in common."""

import abc

import torch.nn.functional as F
from torch import Tensor

from zoo_core import ConfigError, Quantized, Quantizer
from zoo_vqvae.closest import closest
from zoo_vqvae.gradients import GRADIENTS
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.precision import widened


class Codebook(Quantizer):
    """k = argmin_j || z - e_j || at each position of z (B, D, *positions), z_q = e_k, for codes e (K, D).

    Neural discrete representation learning (van den Oord et al., 2017) https://arxiv.org/abs/1711.00937

    Args:
        latent_shape: (D, *positions).
        codes: K.
        beta: weight of || z - sg(e) ||^2, which keeps the encoder near the codes.
        gradient: of z_q in z.
    """

    def __init__(self, latent_shape: tuple[int, ...], codes: int, beta: float, gradient: str) -> None:
        super().__init__()
        self.latent_shape, self.codes_shape = tuple(latent_shape), tuple(latent_shape[1:])
        self.codebook_size, self.beta, self.gradient = codes, beta, gradient

    @abc.abstractmethod
    def vectors(self) -> Tensor:
        """e (K, D)."""

    def encode(self, z: Tensor) -> Tensor:
        z = widened(z)
        return closest(self.rows(z), widened(self.vectors()).to(z.dtype)).reshape(len(z), *self.codes_shape)

    def lookup(self, codes: Tensor) -> Tensor:
        return self.pick(codes, self.vectors())

    def forward(self, z: Tensor) -> Quantized:
        z = widened(z)
        codes, e = self.nearest(z)
        # Laid out as z is: what follows would otherwise walk through memory in two orders at once.
        e = e.contiguous()
        z_q = GRADIENTS[self.gradient](z, e.detach())
        return Quantized(z_q, codes, self.loss(z, e), perplexity(self.counts(codes)).mean())

    def nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (B, *positions) of z and their vectors (B, *latent_shape), as they are throughout a step."""
        rows = self.rows(z)
        if self.training:
            self.begin(rows)
        vectors = self.vectors()
        k = closest(rows, widened(vectors).to(z.dtype))
        codes = k.reshape(len(z), *self.codes_shape)
        e = self.pick(codes, vectors)
        if self.training:
            self.gather(rows, k)
        return codes, e

    def begin(self, z: Tensor) -> None:
        """What is done before vectors z (N, D) get their codes, in training; nothing, unless a class says otherwise."""

    def gather(self, z: Tensor, k: Tensor) -> None:
        """Keeps of vectors z (N, D) and their codes k (N,), in training, what ``after_step`` learns from; nothing."""

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        """What training adds to the distortion, (B,), for z and its codes e, both (B, *latent_shape)."""
        return self.beta * squared_distance(z, e.detach())

    def pick(self, codes: Tensor, vectors: Tensor) -> Tensor:
        """The vectors (*, D, *positions) of codes (*, *positions)."""
        return F.embedding(codes, widened(vectors)).movedim(-1, -1 - len(self.codes_shape))

    def rows(self, z: Tensor) -> Tensor:
        """The vectors of all positions, (B · positions, D), without gradient."""
        require_latents(z, self.latent_shape)
        return z.detach().movedim(1, -1).reshape(-1, self.latent_shape[0])


def squared_distance(z: Tensor, e: Tensor) -> Tensor:
    """|| z - e ||^2 summed over channels and positions, (B,)."""
    return F.mse_loss(z, e, reduction="none").flatten(1).sum(1)


def require_latents(z: Tensor, latent_shape: tuple[int, ...]) -> None:
    """Refuses latents of another shape.

    Raises:
        ConfigError: with both shapes.
    """
    if tuple(z.shape[1:]) != latent_shape:
        raise ConfigError(f"the quantizer was made for latents of shape {latent_shape}, got {tuple(z.shape[1:])}")
