"""One affine map: the case for which the theory has closed answers."""

from zoo_core import Likelihood, PositiveInt, Posterior, Shape
from zoo_nets.likelihoods import GaussianLikelihood
from zoo_nets.mlp import MLPDecoder, MLPEncoder


class LinearEncoder(MLPEncoder):
    """q(z|x) with parameters W x + b. Default posterior: a diagonal Gaussian."""

    def __init__(self, data_shape: Shape, latents: PositiveInt, posterior: Posterior | None = None) -> None:
        super().__init__(data_shape, latents, hidden=(), posterior=posterior)


class LinearDecoder(MLPDecoder):
    """p(x|z) with parameters W z + b. Default likelihood: N(W z + b, I), as in probabilistic PCA."""

    def __init__(self, data_shape: Shape, latent_shape: Shape, likelihood: Likelihood | None = None) -> None:
        super().__init__(data_shape, latent_shape, hidden=(), likelihood=likelihood or GaussianLikelihood())
