"""The autoencoder."""

from torch import Tensor

from zoo_core import LatentVariableModel


class Autoencoder(LatentVariableModel):
    """z = f(x), the mean of q(z|x); p(x|z) around r(x) = g(f(x)).

    Reducing the dimensionality of data with neural networks (Hinton & Salakhutdinov, 2006)
    https://doi.org/10.1126/science.1127647

    An encoder with a width, such as a Gaussian, serves too: the losses of this plugin use its mean alone.
    No loss of this plugin makes the codes follow the prior. Samples, which decode draws of the prior, look
    like data only once a prior has been fitted to the codes.
    """

    def log_prob(self, x: Tensor, *, samples: int = 1, chunk: int = 64) -> Tensor:
        """Raises NotImplementedError: q(z|x) bounds no density, and p(z) was never fitted."""
        raise NotImplementedError(
            f"{type(self).__name__} has no density: its codes do not follow its prior;"
            " for a bound on log p(x) train vae/vae with vae/elbo"
        )
