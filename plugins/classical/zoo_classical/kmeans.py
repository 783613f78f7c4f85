"""k-means."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from zoo_classical.kmeans_plus_plus import kmeans_plus_plus
from zoo_classical.started import StartedModel
from zoo_core import PositiveInt, Shape

# Of a cluster's standard deviation: so close that both halves of it find a centre on their side.
SPLIT = 1e-3


class KMeans(StartedModel):
    """J = Σ || x - mu_k ||^2 at k = argmin_j || x - mu_j ||, in squared intensity, made small by Lloyd's iteration.

    Least squares quantization in PCM (Lloyd, 1982) https://doi.org/10.1109/TIT.1982.1056489 ; an empty
    cluster takes half of the worst one, as in An algorithm for vector quantizer design (Linde, Buzo & Gray,
    1980) https://doi.org/10.1109/TCOM.1980.1094577 . The objective is -J; there is no density.

    Args:
        clusters: K.
    """

    mu: Tensor
    pi: Tensor

    def __init__(self, data_shape: Shape, clusters: PositiveInt = 10) -> None:
        super().__init__(data_shape)
        self.latent_shape = ()
        self.parameter("mu", clusters, self.size)
        self.parameter("pi", clusters)

    def encode(self, x: Tensor) -> Tensor:
        """k = argmin_j || x - mu_j ||, (B,) integers."""
        self.require_start()
        # Through a matrix product, ties would be broken by rounding, which depends on the batch.
        distance = torch.cdist(self.rows(x), self.mu.double(), compute_mode="donot_use_mm_for_euclid_dist")
        return distance.argmin(1)

    def decode(self, k: Tensor) -> Tensor:
        """mu_k, (*, *data_shape), for integers k (*)."""
        self.require_start()
        return self.images(self.mu[k])

    def reconstruct(self, x: Tensor) -> Tensor:
        """The nearest centre, (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int) -> Tensor:
        """Centres, each as often as its share of the data: prototypes, never anything new."""
        self.require_start()
        return self.decode(torch.multinomial(self.pi.double(), n, replacement=True))

    def begin(self, x: Tensor) -> None:
        """Centres by k-means++. Raises ConfigError if there are fewer different examples than clusters."""
        clusters = len(self.mu)
        self.mu = kmeans_plus_plus(self.rows(x), clusters)
        self.pi = self.mu.new_full((clusters,), 1 / clusters)
        self.started.fill_(True)

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """n, -J, and for each cluster the sums of 1 (K,), of x and of (x - mu_k)^2, (K, D)."""
        rows, k = self.rows(x), self.encode(x)
        square = (rows - self.mu.double()[k]).square()
        r = one_hot(k, len(self.mu)).to(rows)
        sums = {"r": r.sum(0), "rx": r.T @ rows, "rd2": r.T @ square}
        return {"n": rows.new_tensor(len(rows)), "objective": -square.sum(), **sums}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        n_k = statistics["r"][:, None]
        mu = statistics["rx"] / n_k.clamp(min=1)
        variance = statistics["rd2"] / n_k.clamp(min=1) - (mu - self.mu.double()).square()
        self.pi = statistics["r"] / statistics["n"]
        self.mu = self.fill_empty(mu, n_k, variance.clamp(min=0) * (n_k > 0))

    def fill_empty(self, mu: Tensor, n_k: Tensor, variance: Tensor) -> Tensor:
        """Puts each empty centre beside the mean of one of the worst clusters, along its widest axis.

        Only sums are known of the data, so it is no example; -J cannot fall, for nothing was near it.
        """
        empty = (n_k[:, 0] == 0).nonzero()[:, 0]
        worst = (n_k * variance).sum(1).argsort(descending=True, stable=True)[: len(empty)]
        widest, axis = variance[worst].max(1)
        mu = mu.clone()
        mu[empty] = mu[worst]
        mu[empty, axis] += SPLIT * widest.sqrt()
        return mu
