"""The one-dimensional factors of a distribution over latents."""

from torch.distributions import Distribution, Independent

from zoo_core import ConfigError


def factors(d: Distribution, needed_by: str) -> Distribution:
    """The d_j of d(z) = Π_j d_j(z_j), as one distribution of batch shape (*batch, *event).

    Raises:
        ConfigError: d is not such a product, or its factors have no density, as a Dirac's have not.
    """
    d_j = d
    while isinstance(d_j, Independent):
        d_j = d_j.base_dist
    if d_j.event_shape:
        raise ConfigError(
            f"{needed_by} takes independent latents, each with a density: {type(d_j).__name__} has none such. "
            "Use a diagonal Gaussian for q(z|x), and a standard normal for p(z)"
        )
    return d_j
