"""The variational autoencoder."""

from zoo_core import LatentVariableModel


class VAE(LatentVariableModel):
    """p(x) = ∫ p(x|z) p(z) dz, learned together with q(z|x) by a bound on log p(x).

    Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114
    """
