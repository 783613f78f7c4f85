"""The ELBO at draws of discrete latents, with the gradient of relaxed ones."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_vae.gumbel_softmax import GumbelSoftmax
from zoo_vae.relaxation import Relaxable, relaxed


class StraightThrough(GumbelSoftmax):
    """-ELBO = -log p(x|z) + KL(q(z|x) || p(z)) at z ~ q(z|x), one-hot vectors: a bound on log p(x).

    z is the relaxed draw of ``gumbel_softmax``, rounded, and the gradient passes as if it had not been: a biased one.
    Where q(z|x) is continuous nothing is rounded: it is the ELBO.

    Estimating or propagating gradients through stochastic neurons (Bengio et al., 2013)
    https://arxiv.org/abs/1308.3432
    Categorical reparameterization with Gumbel-softmax (Jang et al., 2017) https://arxiv.org/abs/1611.01144
    """

    def drawn(self, q: Distribution, tau: float) -> Tensor:
        z = relaxed(q, tau, "straight_through")
        # In this order, for exactly 0 and 1.
        return q.rounded(z) + (z - z.detach()) if isinstance(q, Relaxable) else z
