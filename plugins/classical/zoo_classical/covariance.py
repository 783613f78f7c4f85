"""The covariances of a mixture's components, in five forms.

Shapes: K components, D dimensions. Each form keeps a square root of its covariances, is fitted by sums, and
raises variances along the principal axes to a floor, which gives the most likely covariance above it.
The sums are of r_bk, the responsibilities (B, K), and of d_b, the examples (B, D) minus one common point.
"""

import abc

import torch
from torch import Tensor, nn


class Covariance(nn.Module):
    """Sigma_1, …, Sigma_K."""

    def begin(self, d: Tensor, floor: float) -> None:
        """What the first ``fit`` starts from, if it needs anything, for d (N, D) of mean 0."""

    @abc.abstractmethod
    def log_volume(self) -> Tensor:
        """1/2 log |Sigma_k|, (K,), or (1,) if it is the same for all."""

    @abc.abstractmethod
    def whiten(self, d: Tensor, k: int) -> Tensor:
        """Of unit covariance where d (*, D) has Sigma_k."""

    @abc.abstractmethod
    def colour(self, e: Tensor, k: int) -> Tensor:
        """The inverse of ``whiten``."""

    def squares(self, d: Tensor, m: Tensor) -> Tensor:
        """(d_b - m_k)' Sigma_k^-1 (d_b - m_k) for m (K, D), (B, K)."""
        return torch.stack([self.whiten(d - m_k, k).square().sum(1) for k, m_k in enumerate(m)], 1)

    @abc.abstractmethod
    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        """Σ_b r_bk d_b d_b', as far as the form needs it."""

    @abc.abstractmethod
    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        """From the sums of ``moments``, n_k = Σ_b r_bk (K, 1) and m_k = Σ_b r_bk d_b / n_k (K, D)."""


class Full(Covariance):
    """Any Sigma_k = L_k L_k', L_k lower triangular."""

    L: Tensor

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        self.register_buffer("L", torch.zeros(components, size, size, dtype=torch.float64))

    def log_volume(self) -> Tensor:
        return self.L.double().diagonal(dim1=1, dim2=2).log().sum(1)

    def whiten(self, d: Tensor, k: int) -> Tensor:
        return solved(self.L[k].double(), d)

    def colour(self, e: Tensor, k: int) -> Tensor:
        return e @ self.L[k].double().T

    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        return torch.stack([(r_k[:, None] * d).T @ d for r_k in r.T])

    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        self.L = raised_root(moments / n_k[:, :, None] - m[:, :, None] * m[:, None, :], floor)


class Tied(Covariance):
    """One Sigma = L L' for all components."""

    L: Tensor

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        self.register_buffer("L", torch.zeros(size, size, dtype=torch.float64))

    def log_volume(self) -> Tensor:
        return self.L.double().diagonal().log().sum()[None]

    def whiten(self, d: Tensor, k: int) -> Tensor:
        return solved(self.L.double(), d)

    def colour(self, e: Tensor, k: int) -> Tensor:
        return e @ self.L.double().T

    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        # Σ_k r_bk = 1.
        return d.T @ d

    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        self.L = raised_root((moments - m.T @ (n_k * m)) / n_k.sum(), floor)


class Diagonal(Covariance):
    """Sigma_k = diag(sigma_k^2)."""

    sigma: Tensor

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.zeros(components, size, dtype=torch.float64))

    def log_volume(self) -> Tensor:
        return self.sigma.double().log().sum(1)

    def whiten(self, d: Tensor, k: int) -> Tensor:
        return d / self.sigma[k].double()

    def colour(self, e: Tensor, k: int) -> Tensor:
        return e * self.sigma[k].double()

    def squares(self, d: Tensor, m: Tensor) -> Tensor:
        return axis_parallel(d, m, self.sigma.double().expand_as(m))

    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        return r.T @ d.square()

    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        self.sigma = (moments / n_k - m.square()).clamp(min=floor).sqrt()


class Spherical(Diagonal):
    """Sigma_k = sigma_k^2 I; sigma is (K, 1)."""

    def __init__(self, components: int, size: int) -> None:
        super().__init__(components, 1)
        self.size = size

    def log_volume(self) -> Tensor:
        return self.size * super().log_volume()

    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        return r.T @ d.square().mean(1, keepdim=True)

    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        self.sigma = (moments / n_k - m.square().mean(1, keepdim=True)).clamp(min=floor).sqrt()


class LowRank(Covariance):
    """Sigma_k = W_k W_k' + diag(sigma_k^2): each component is a factor analyser; W is (K, D, L).

    With A = W / sigma, s^2 the eigenvalues of I + A'A and V their vectors, (I + A A')^-1/2 is
    I - A V diag(1 / (s (s + 1))) V' A', and its inverse I + A V diag(1 / (s + 1)) V' A'.

    A fit is one step of EM on the factors: less than the best, so that no D x D matrix is needed.
    The EM algorithm for mixtures of factor analyzers (Ghahramani & Hinton, 1996), with a sigma for each component
    https://www.cs.toronto.edu/~hinton/absps/tr-96-1.pdf
    """

    W: Tensor
    sigma: Tensor

    def __init__(self, components: int, size: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("W", torch.zeros(components, size, rank, dtype=torch.float64))
        self.register_buffer("sigma", torch.zeros(components, size, dtype=torch.float64))

    def begin(self, d: Tensor, floor: float) -> None:
        variance = d.square().mean(0).clamp(min=floor)
        self.sigma = variance.sqrt().repeat(len(self.W), 1)
        # From W = 0 no step of EM would lead away.
        self.W = torch.randn_like(self.W) * self.sigma.unsqueeze(2) / self.W.shape[2] ** 0.5

    def log_volume(self) -> Tensor:
        return self.sigma.double().log().sum(1) + self.axes()[1].log().sum(1)

    def whiten(self, d: Tensor, k: int) -> Tensor:
        AV, s = (value[k] for value in self.axes())
        e = d / self.sigma[k].double()
        return e - (e @ AV / (s * (s + 1))) @ AV.T

    def colour(self, e: Tensor, k: int) -> Tensor:
        AV, s = (value[k] for value in self.axes())
        return (e + (e @ AV / (s + 1)) @ AV.T) * self.sigma[k].double()

    def squares(self, d: Tensor, m: Tensor) -> Tensor:
        # Products of matrices, all components at once: (I + A A')^-1 is I - A V diag(1 / s^2) V' A'.
        far = axis_parallel(d, m, self.sigma.double())
        AV, s = self.axes()
        axes = AV / (s.unsqueeze(1) * self.sigma.double().unsqueeze(2))
        near: Tensor = (projected(d, axes) - torch.einsum("kd,kdl->kl", m, axes)).square().sum(2)
        return far - near

    def axes(self) -> tuple[Tensor, Tensor]:
        """A V (K, D, L) and s (K, L)."""
        A = self.W.double() / self.sigma.double().unsqueeze(2)
        variances, V = torch.linalg.eigh(A.mT @ A)
        return A @ V, (1 + variances.clamp(min=0)).sqrt()

    def gain(self) -> Tensor:
        """beta_k' = Sigma_k^-1 W_k, so that E[z|x] = beta_k (x - mu_k), (K, D, L)."""
        W = self.W.double()
        scaled = W / self.sigma.double().square().unsqueeze(2)
        return scaled @ torch.linalg.inv(torch.eye(W.shape[2]).to(W) + W.mT @ scaled)

    def moments(self, r: Tensor, d: Tensor) -> Tensor:
        """Σ_b r_bk d_b d_b' beta_k' and, as the last column, Σ_b r_bk d_b^2: (K, D, L + 1)."""
        weighted = r.unsqueeze(2) * projected(d, self.gain())
        dz = (d.T @ weighted.flatten(1)).unflatten(1, weighted.shape[1:]).transpose(0, 1)
        return torch.cat([dz, (r.T @ d.square()).unsqueeze(2)], 2)

    def fit(self, moments: Tensor, n_k: Tensor, m: Tensor, floor: float) -> None:
        gain, m = self.gain(), m.unsqueeze(2)
        moments = moments / n_k.unsqueeze(2)
        # Around the new mean: S beta', then the diagonal of S.
        dz, variance = moments[:, :, :-1] - m @ (m.mT @ gain), moments[:, :, -1] - m.square().squeeze(2)
        zz = torch.eye(gain.shape[2]).to(gain) - gain.mT @ self.W.double() + gain.mT @ dz
        self.W = torch.linalg.solve(zz, dz.mT).mT.contiguous()
        self.sigma = (variance - (self.W * dz).sum(2)).clamp(min=floor).sqrt()


FORMS: dict[str, type[Covariance]] = {"full": Full, "tied": Tied, "diagonal": Diagonal, "spherical": Spherical}


def axis_parallel(d: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
    """|| (d_b - m_k) / sigma_k ||^2 for rows d (B, D) and sigma (K, D), (B, K), by products of matrices."""
    precision = sigma.square().reciprocal()
    return d.square() @ precision.T - 2 * d @ (m * precision).T + (m.square() * precision).sum(1)


def projected(d: Tensor, axes: Tensor) -> Tensor:
    """d_b' a_k for rows d (B, D) and axes a (K, D, L), (B, K, L)."""
    return (d @ axes.transpose(0, 1).flatten(1)).unflatten(1, axes.shape[::2])


def raised_root(covariance: Tensor, floor: float) -> Tensor:
    """The lower triangular L (*, D, D) with L L' = covariance, its eigenvalues raised to the floor."""
    variances, axes = torch.linalg.eigh(covariance)
    root = axes * variances.clamp(min=floor).sqrt().unsqueeze(-2)
    # Eigenvectors are arbitrary in sign, and more so among equal eigenvalues; L with a positive diagonal is not.
    L = torch.linalg.qr(root.mT).R.mT
    # Contiguous as a file keeps it: products of another layout are rounded otherwise.
    return (L * L.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).contiguous()


def solved(L: Tensor, d: Tensor) -> Tensor:
    """L^-1 d for rows d (*, D)."""
    return torch.linalg.solve_triangular(L, d.mT, upper=False).mT
