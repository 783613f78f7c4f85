"""Mixtures of Gaussians."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, constraints

from zoo_classical.covariance import FORMS, Covariance, LowRank
from zoo_classical.kmeans import KMeans
from zoo_classical.started import StartedModel
from zoo_core import PositiveFloat, PositiveInt, Shape

# From k-means++ alone, EM with full covariances ends in a lower likelihood.
LLOYD = 10


class GMM(StartedModel):
    """p(x) = Σ_k pi_k N(x; mu_k, Sigma_k), fitted by EM from the centres of k-means.

    E: r_bk = p(k|x_b). M: n_k = Σ_b r_bk, pi_k = n_k / n, and mu_k and Sigma_k are the mean and the covariance
    of the x_b weighted by r_bk.

    Maximum likelihood from incomplete data via the EM algorithm (Dempster, Laird & Rubin, 1977)
    https://doi.org/10.1111/j.2517-6161.1977.tb01600.x

    Args:
        components: K.
        covariance: any for each component, one for all, axis-parallel ones, multiples of the identity, or
            axis-parallel ones plus a part of low rank: a mixture of factor analysers.
        min_variance: along every axis. A fit is the most likely one under this condition, so its likelihood
            never falls, while without it a component can shrink onto one example and its density rise for ever.
        rank: of that part, for ``low_rank`` alone.
    """

    pi: Tensor
    support = constraints.real
    mu: Tensor

    def __init__(
        self,
        data_shape: Shape,
        components: PositiveInt = 10,
        covariance: Literal["full", "tied", "diagonal", "spherical", "low_rank"] = "full",
        min_variance: PositiveFloat = 1e-6,
        rank: PositiveInt = 10,
    ) -> None:
        super().__init__(data_shape)
        self.latent_shape = ()
        self.min_variance = min_variance
        self.parameter("pi", components)
        self.parameter("mu", components, self.size)
        low_rank = covariance == "low_rank"
        self.covariance: Covariance = (
            LowRank(components, self.size, rank) if low_rank else FORMS[covariance](components, self.size)
        )

    # The model.

    def prior(self) -> Categorical:
        """p(k) = pi_k, batch shape ()."""
        self.require_start()
        return Categorical(self.pi.double(), validate_args=False)

    def encoder(self, x: Tensor) -> Categorical:
        """p(k|x), the responsibilities, batch shape (B,)."""
        return Categorical(logits=self.log_joint(self.rows(x)), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact, in nats, (B,)."""
        return self.log_joint(self.rows(x)).logsumexp(1)

    def log_joint(self, rows: Tensor) -> Tensor:
        """log pi_k + log N(x; mu_k, Sigma_k) for rows x (B, D), (B, K)."""
        self.require_start()
        c = self.centre()
        square = self.covariance.squares(rows - c, self.mu.double() - c)
        log_norm = self.covariance.log_volume() + 0.5 * self.size * math.log(2 * math.pi)
        return self.pi.double().log() - log_norm - 0.5 * square

    def encode(self, x: Tensor) -> Tensor:
        """The most probable k, (B,) integers."""
        return self.encoder(x).probs.argmax(1)

    def decode(self, k: Tensor) -> Tensor:
        """mu_k, (*, *data_shape), for integers k (*)."""
        self.require_start()
        return self.images(self.mu[k])

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of the most probable component, (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int, *, clip: bool = True) -> Tensor:
        """k ~ p(k), then x ~ N(mu_k, Sigma_k), kept in [0, 1] as images are unless told not to ``clip``."""
        k = self.prior().sample((n,))
        x = torch.randn(n, self.size, dtype=torch.float64, device=k.device)
        # One component at a time: a matrix for each example would take n D^2 numbers.
        for j in k.unique().tolist():
            x[k == j] = self.mu[j].double() + self.covariance.colour(x[k == j], j)
        return self.images(x.clamp(0, 1) if clip else x)

    def simulate(self, n: int) -> Tensor:
        """What ``draw`` gives, not kept in [0, 1]."""
        return self.draw(n, clip=False)

    # The fit.

    def begin(self, x: Tensor) -> None:
        """Means by k-means, equal weights, and for every component the covariance within the clusters.

        Raises:
            ConfigError: there are fewer different examples than components.
        """
        self.pi = torch.full_like(self.pi, 1 / len(self.pi), dtype=torch.float64)
        kmeans = self.clustering(x)
        self.mu = kmeans.mu
        d = self.rows(x) - self.mu[kmeans.encode(x)]
        # Each with that of its own cluster would start as narrow as the smallest cluster.
        equal = self.pi.expand(len(d), -1)
        self.covariance.begin(d, self.min_variance)
        moments = self.covariance.moments(equal, d)
        self.covariance.fit(moments, equal.sum(0)[:, None], torch.zeros_like(self.mu), self.min_variance)
        self.started.fill_(True)

    def clustering(self, x: Tensor) -> KMeans:
        """A few of Lloyd's iterations."""
        kmeans = KMeans(self.data_shape, len(self.pi))
        kmeans.begin(x)
        for _ in range(LLOYD):
            kmeans.update(kmeans.statistics(x))
        return kmeans

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """n, Σ log p(x), and for each component the sums of r_k, r_k d and r_k d d', d = x - Σ_k pi_k mu_k."""
        rows = self.rows(x)
        log_joint = self.log_joint(rows)
        r, d = log_joint.softmax(1), rows - self.centre()
        sums = {"r": r.sum(0), "rd": r.T @ d, "rdd": self.covariance.moments(r, d)}
        return {"n": d.new_tensor(len(d)), "objective": log_joint.logsumexp(1).sum(), **sums}

    def centre(self) -> Tensor:
        """Σ_k pi_k mu_k, (D,): close to the data, so that little is lost in differences of squares."""
        return self.pi.double() @ self.mu.double()

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        # A component that has lost every example goes to the centre with weight 0.
        n_k = statistics["r"][:, None].clamp(min=torch.finfo(torch.float64).tiny)
        m = statistics["rd"] / n_k
        self.covariance.fit(statistics["rdd"], n_k, m, self.min_variance)
        self.mu = self.centre() + m
        self.pi = statistics["r"] / statistics["n"]
