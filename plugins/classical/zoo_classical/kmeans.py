"""k-means."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo_classical.kmeans_plus_plus import kmeans_plus_plus
from zoo_classical.nearest import Nearest
from zoo_classical.started import StartedModel
from zoo_core import PositiveInt, Shape

# Rows that are looked at together: in float32 and then in float64 they stay in a core's own cache.
ROWS, DOUBLE_ROWS = 512, 128
# Of a cluster's standard deviation: so close that both halves of it find a centre on their side.
SPLIT = 1e-3


class KMeans(StartedModel):
    """J = Σ || x - mu_k ||^2 at k = argmin_j || x - mu_j ||, in squared intensity, made small by Lloyd's iteration.

    Least squares quantization in PCM (Lloyd, 1982) https://doi.org/10.1109/TIT.1982.1056489 ; an empty
    cluster takes half of the worst one, as in An algorithm for vector quantizer design (Linde, Buzo & Gray,
    1980) https://doi.org/10.1109/TCOM.1980.1094577 , in the iteration after the one that found it empty. The
    objective is -J. There is no density: what it samples are its centres, prototypes of the data.

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
        nearest = Nearest(self.mu.double())
        return torch.cat([nearest(part) for part in x.flatten(-len(self.data_shape)).split(ROWS)])

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
        """n, -J, and for each cluster the sums of 1 (K,) and of x (K, D); of x^2 too where a cluster was empty."""
        self.require_start()
        mu = self.mu.double()
        nearest, sums = Nearest(mu), self.nothing(mu)
        for rows in x.flatten(-len(self.data_shape)).split(ROWS):
            self.add(sums, rows, nearest(rows))
        # J = Σ || x ||^2 - 2 Σ_k mu_k·Σ_k x + Σ_k r_k || mu_k ||^2.
        J = sums.pop("xx") + (mu * (sums["r"][:, None] * mu - 2 * sums["rx"])).sum()
        return {"n": mu.new_tensor(len(x)), "objective": -J.clamp(min=0), **sums}

    def nothing(self, mu: Tensor) -> dict[str, Tensor]:
        """The sums over no rows."""
        sums = {"r": mu.new_zeros(len(mu)), "rx": torch.zeros_like(mu), "xx": mu.new_zeros(())}
        # As much work again, for what only an empty cluster needs: the widest axis of another.
        return {**sums, "rxx": torch.zeros_like(mu)} if (self.pi == 0).any() else sums

    def add(self, sums: dict[str, Tensor], rows: Tensor, k: Tensor) -> None:
        sums["r"] += k.bincount(minlength=len(self.mu))
        for part, j in zip(rows.split(DOUBLE_ROWS), k.split(DOUBLE_ROWS), strict=True):
            double = part.double()
            sums["rx"].index_add_(0, j, double)
            sums["xx"] += double.flatten() @ double.flatten()
            if "rxx" in sums:
                sums["rxx"].index_add_(0, j, double.square())

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        n_k = statistics["r"][:, None]
        mu = torch.where(n_k > 0, statistics["rx"] / n_k.clamp(min=1), self.mu.double())
        if "rxx" in statistics:
            variance = statistics["rxx"] / n_k.clamp(min=1) - mu.square()
            mu = self.fill_empty(mu, n_k, variance.clamp(min=0) * (n_k > 0))
        self.pi, self.mu = statistics["r"] / statistics["n"], mu

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
