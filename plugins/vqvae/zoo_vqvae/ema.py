"""A codebook of running means."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo_core import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Shape
from zoo_vqvae.codebook import Codebook
from zoo_vqvae.gradients import Gradient
from zoo_vqvae.kmeans import drawn, kmeans, sums
from zoo_vqvae.precision import widened
from zoo_vqvae.processes import first, of_first, summed


class Gathered(NamedTuple):
    """What a step has seen so far: n (K,) vectors of each code, their sum (K, D), and the first of all (N, D).

    The latter only the first process has, and only if codes may be revived.
    """

    n: Tensor
    total: Tensor
    vectors: Tensor | None


class EMA(Codebook):
    """N_i ← gamma N_i + (1 - gamma) n_i,  m_i ← gamma m_i + (1 - gamma) Σ_j z_ij,  e_i = m_i / N_i.

    n_i vectors z_ij of a batch have the code i; N_i is smoothed as (N_i + epsilon) / (N + K epsilon) N, N = Σ_i N_i.
    Neural discrete representation learning (van den Oord et al., 2017), appendix A.1 https://arxiv.org/abs/1711.00937

    ``forward`` in training mode adds up n_i and z_ij over the parts of a batch, and ``after_step`` learns from the sums
    over all processes, so that all of them have one codebook, whatever the parts.
    Codes that fall out of use are revived, as in Jukebox (Dhariwal et al., 2020) https://arxiv.org/abs/2005.00341 .

    Args:
        codes: K.
        beta: weight of || z - sg(e) ||^2.
        decay: gamma.
        epsilon: how many vectors each code is thought to have beyond those it has; without it one that has none for
            long would have no place, with it the code goes to 0 unless it is revived.
        start: ``kmeans`` of the first part of the first batch (SoundStream, Zeghidour et al., 2021,
            https://arxiv.org/abs/2107.03312), or ``normal``, e ~ N(0, I).
        restart_below: a code with N_i below this share of the mean N_i takes a vector of the first part of the batch;
            0 for never.
        gradient: of z_q in z.
    """

    N: Tensor
    m: Tensor
    e: Tensor
    started: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        codes: PositiveInt = 512,
        beta: NonNegativeFloat = 0.25,
        decay: Probability = 0.99,
        epsilon: PositiveFloat = 1e-5,
        start: Literal["kmeans", "normal"] = "kmeans",
        restart_below: NonNegativeFloat = 0.01,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__(tuple(latent_shape), codes, beta, gradient)
        self.decay, self.epsilon, self.restart_below = decay, epsilon, restart_below
        e = torch.randn(codes, latent_shape[0])
        self.register_buffer("N", torch.ones(codes))
        self.register_buffer("m", e.clone())
        self.register_buffer("e", e)
        self.register_buffer("started", torch.tensor(start == "normal"))
        self.gathered: Gathered | None = None

    def vectors(self) -> Tensor:
        return self.e

    def begin(self, z: Tensor) -> None:
        """Codes from the first process's vectors z (N, D) by k-means, once."""
        if self.started:
            return
        # The others draw nothing: what is random in their parts would depend on how many processes there are.
        e, n = kmeans(z, self.codebook_size) if first() else (z.new_empty(self.e.shape), z.new_empty(self.N.shape))
        # A centre that nothing is near to counts as one vector: with none it would be at 0.
        e, N = of_first(e), of_first(n).clamp(min=1)
        self.keep(N, N[:, None] * e)
        self.started.fill_(True)

    @torch.no_grad()
    def gather(self, z: Tensor, k: Tensor) -> None:
        """Adds vectors z (N, D) and their codes k (N,) to the sums of this step."""
        if self.gathered is None:
            self.gathered = Gathered(*self.zeros(), z if first() and self.restart_below else None)
        n, total = sums(z, k, self.codebook_size)
        self.gathered.n.add_(n)
        self.gathered.total.add_(total)

    @torch.no_grad()
    def after_step(self) -> None:
        """One step of the running means, from what all processes have gathered; nothing, if that is nothing."""
        gathered, self.gathered = self.gathered, None
        if not self.training:
            return
        # Each process asks for the sums, also one whose share of a small batch was empty.
        n, total = summed(*gathered[:2] if gathered else self.zeros())
        if n.any():
            self.learn(n, total, gathered.vectors if gathered else None)

    def learn(self, n: Tensor, total: Tensor, z: Tensor | None) -> None:
        """From n (K,) vectors of each code, their sum (K, D), and in the first process some of them, z (N, D)."""
        dtype = widened(self.m).dtype
        N = self.decay * widened(self.N) + (1 - self.decay) * n.to(dtype)
        m = self.decay * widened(self.m) + (1 - self.decay) * total.to(dtype)
        dead = self.restart_below * N.mean() > N
        # All processes find the same codes dead, so that all of them ask for the vectors or none.
        if dead.any():
            N, m = self.revived(N, m, dead, z)
        self.keep(N, m)

    def revived(self, N: Tensor, m: Tensor, dead: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both statistics, those of dead codes as if each had an even share of vectors, all at one of z."""
        fresh = torch.empty_like(m)
        if z is not None:
            fresh.copy_(z[drawn(len(z), self.codebook_size, z.device)])
        share = N.mean()
        return torch.where(dead, share, N), torch.where(dead[:, None], share * of_first(fresh), m)

    @torch.no_grad()
    def keep(self, N: Tensor, m: Tensor) -> None:
        """Sets N, m, and e = m / N, in place, since processes share their tensors by identity."""
        total = N.sum()
        smoothed = (N + self.epsilon) / (total + self.codebook_size * self.epsilon) * total
        # A step with latents that are not finite is refused by the training loop: it must leave nothing behind.
        sound = m.isfinite().all()
        for kept, value in ((self.N, N), (self.m, m), (self.e, m / smoothed[:, None])):
            kept.copy_(torch.where(sound, value.to(kept.dtype), kept))

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Sums of nothing, wide enough that the order in which parts are added does not matter."""
        # Some devices, such as Apple's, have no float64.
        wide = torch.float32 if self.e.device.type == "mps" else torch.float64
        return self.N.new_zeros(self.N.shape, dtype=wide), self.m.new_zeros(self.m.shape, dtype=wide)
