"""The covariances of a mixture's components, in four forms.

Shapes: K components, D dimensions. Each form keeps a square root of its covariances, is fitted by sums, and
raises variances along the principal axes to a floor, which gives the most likely covariance above it.
The sums are of r_bk, the responsibilities (B, K), and of d_b, the examples (B, D) minus one common point.
"""

import abc

import torch
from torch import Tensor, nn


class Covariance(nn.Module):
    """Sigma_1, …, Sigma_K."""

    @abc.abstractmethod
    def log_volume(self) -> Tensor:
        """1/2 log |Sigma_k|, (K,), or (1,) if it is the same for all."""

    @abc.abstractmethod
    def whiten(self, d: Tensor, k: int) -> Tensor:
        """Of unit covariance where d (*, D) has Sigma_k."""

    @abc.abstractmethod
    def colour(self, e: Tensor, k: int) -> Tensor:
        """The inverse of ``whiten``."""

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


FORMS: dict[str, type[Covariance]] = {"full": Full, "tied": Tied, "diagonal": Diagonal, "spherical": Spherical}


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
