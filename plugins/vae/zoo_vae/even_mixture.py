"""The even mixture of a batch of distributions."""

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal


class EvenMixture(MixtureSameFamily):
    """p(z) = 1/K Σ_k q_k(z), for q of batch shape (K,): batch shape (), and the event shape of q.

    log p(z) is in nats, (*), for z (*, *event).
    """

    def __init__(self, q: Distribution) -> None:
        even = Categorical(logits=q.mean.new_zeros(q.batch_shape), validate_args=False)
        super().__init__(even, q, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        q = self.component_distribution
        gaussian = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
        # Some devices have no float64, without which the squares below lose too many digits.
        if not gaussian or x.device.type == "mps":
            log_p: Tensor = super().log_prob(x)  # type: ignore[no-untyped-call]
            return log_p
        event_dim = len(self.event_shape)
        mu, sigma, z = (t.flatten(t.dim() - event_dim).double() for t in (q.mean, q.stddev, x))
        return log_even_mixture(z, mu, sigma).to(torch.result_type(x, q.mean))


def log_even_mixture(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """log 1/K Σ_k N(z; mu_k, diag sigma_k^2), (*), for z (*, D), mu and sigma (K, D), in float64.

    With the squares (z - mu)^2 / sigma^2 multiplied out they are two matrix products, instead of differences
    (*, K, D), which take many times as long and as much memory.
    """
    precision = sigma.square().reciprocal()
    squares = z.square() @ precision.mT - 2 * z @ (mu * precision).mT + (mu.square() * precision).sum(1)
    log_scale = sigma.log().sum(1) + 0.5 * mu.shape[1] * math.log(2 * math.pi)
    return torch.logsumexp(-0.5 * squares - log_scale, -1) - math.log(len(mu))
