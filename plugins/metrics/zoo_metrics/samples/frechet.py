"""The Fréchet distance between two sets of features, each taken for a Gaussian."""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo_core import ConfigError, Extractor, Measurement, NonNegativeInt, SampleMetric

ROWS, COLUMNS = 1000, 384  # what is centred, and multiplied, at a time
EPS = torch.finfo(torch.float64).eps
Moments = tuple[Tensor, Tensor]  # m (d,), and R (r, d) with R^T R = S


class FrechetDistance(SampleMetric):
    """|| m_1 - m_2 ||² + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^½ between features of data and of samples.

    Reports ``fd (EXTRACTOR)``, or ``fid`` for the features of the network that FID is defined by, see
    ``frechet_distance``. It is biased upwards, more so of fewer examples: compare values of equal numbers alone, or
    ``fd_infinity``. There is no standard error.

    Args:
        extractor: makes the features; by default the one that is registered for such images.
        infinity: whether to report ``fd_infinity`` too, extrapolated to infinitely many examples, see
            ``frechet_distance_infinity``; it takes about ten times as long.
        seed: of the subsets from which that is extrapolated.

    Raises:
        ConfigError: fewer than two examples, or 30 with ``infinity``; or samples with features that are not finite.
    """

    def __init__(self, extractor: Extractor | None = None, infinity: bool = False, seed: NonNegativeInt = 0) -> None:
        super().__init__(extractor)
        self.infinity, self.seed = infinity, seed

    def compute(self) -> dict[str, Measurement]:
        real, generated = self.real, self.kept("generated")
        few, d = min(len(real), len(generated)), real.shape[1]
        about = {**self.features_of.identity, "d": d, "real": len(real), "generated": len(generated)}
        values = {"": Measurement(frechet_distance(real, generated), math.nan, len(generated), about=about)}
        if few <= d:
            warnings.warn(
                f"a Fréchet distance of {d} features from {few} examples says little: take more than {d}, or 10,000",
                stacklevel=2,
            )
        if self.infinity:
            value = frechet_distance_infinity(real, generated, seed=self.seed)
            about = {**about, "seed": self.seed}
            values["_infinity"] = Measurement(value, math.nan, len(generated), about=about)
        return {self._called(ending): value for ending, value in values.items()}

    def _called(self, ending: str) -> str:
        return f"fid{ending}" if self.features_of.is_fid else self.named(f"fd{ending}")


@torch.no_grad()
def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """FD = || m_1 - m_2 ||² + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^½ for features (N, d) and (M, d), in float64.

    m is a set's mean, S its covariance, divided by N - 1. The last trace is the nuclear norm of R_1 R_2^T for any
    roots S = R^T R: a Cholesky factor, or of fewer examples than features the centred rows themselves, so that no
    (d, d) matrix is needed.

    FD is biased upwards, by about a constant / N: compare values of equal N and M alone.

    GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017)
    https://arxiv.org/abs/1706.08500

    Raises:
        ConfigError: a set of fewer than two examples, of other features than the other, or with some not finite.
    """
    require_comparable(real, generated)
    return _distance(_moments(real), _moments(generated))


@torch.no_grad()
def frechet_distance_of_moments(m_1: Tensor, S_1: Tensor, m_2: Tensor, S_2: Tensor) -> float:
    """The same of known means (d,) and covariances (d, d).

    Raises:
        ConfigError: the shapes do not fit, or S_1 or S_2 is no covariance.
    """
    d = len(m_1)
    if m_1.shape != m_2.shape or not S_1.shape == S_2.shape == (d, d):
        raise ConfigError("the Fréchet distance needs two means (d,) and two covariances (d, d) of equal d")
    return _distance((m_1.double(), root(S_1.double())), (m_2.double(), root(S_2.double())))


@torch.no_grad()
def frechet_distance_infinity(real: Tensor, generated: Tensor, *, points: int = 15, seed: int = 0) -> float:
    """FD of infinitely many examples: the intercept of FD against 1/N, by least squares.

    FD is measured on random subsets of ``points`` sizes, evenly spaced from 5000, or from half of fewer than 10,000,
    up to all. Both sets shrink by the same share, since each adds a bias of its own; where the paper keeps the real
    ones whole, they are taken for all there are.

    Effectively unbiased FID and Inception score and where to find them (Chong & Forsyth, 2020)
    https://arxiv.org/abs/1911.07023

    Raises:
        ConfigError: as ``frechet_distance``, or a set has fewer than 2 ``points`` examples.
    """
    require_comparable(real, generated)
    few = min(len(real), len(generated))
    if points < 2 or few < 2 * points:
        raise ConfigError(
            f"FD at infinity, from {points} sizes, needs {max(2 * points, 4)} examples or more, got {few}"
        )
    generator = torch.Generator().manual_seed(seed)
    shares = torch.linspace(min(5000, few // 2) / few, 1, points, dtype=torch.float64)
    fd = [
        frechet_distance(_subset(real, share, generator), _subset(generated, share, generator))
        for share in shares.tolist()
    ]
    line = torch.stack([torch.ones_like(shares), 1 / shares], 1)
    return float(torch.linalg.lstsq(line, shares.new_tensor(fd)[:, None]).solution[0])


def _subset(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[: round(share * len(x))]]


def require_comparable(real: Tensor, generated: Tensor) -> None:
    """Refuses sets of features that no distance can be told of.

    Raises:
        ConfigError: a set of fewer than two examples, of other features than the other, or with some not finite.
    """
    for name, x in (("real", real), ("generated", generated)):
        if x.dim() != 2 or x.shape[1] != generated.shape[-1]:
            shapes = f"{tuple(real.shape)} and {tuple(generated.shape)}"
            raise ConfigError(f"sets of features are compared as (N, d) and (M, d) of equal d, got {shapes}")
        if len(x) < 2:
            raise ConfigError(f"a distance between sets needs two examples or more of each, got {len(x)} {name}")
        if not all(bool(rows.sum(dtype=torch.float64).isfinite()) for rows in blocks(x)):
            raise ConfigError(f"the {name} features are not all finite: look at the model's samples, or the extractor")


def _moments(x: Tensor) -> Moments:
    n, d = x.shape
    m = mean(x)
    return m, ((x.double() - m) / (n - 1) ** 0.5 if n < d else root(covariance(x, m)))


def mean(x: Tensor) -> Tensor:
    """The mean (d,) of rows x (N, d) in float64: exact for what is constant, however far from zero."""
    first = x[0].double()
    return first + torch.stack([u.sum(0) for u in about(first, x)]).sum(0) / len(x)


def blocks(x: Tensor) -> Iterator[Tensor]:
    """x, a block of rows after the other."""
    return (x[first : first + ROWS] for first in range(0, len(x), ROWS))


def about(c: Tensor, x: Tensor) -> Iterator[Tensor]:
    """The rows x - c in float64, for c (d,) of that type: blocks that share their memory, each gone with the next."""
    u = c.new_empty(min(ROWS, len(x)), len(c))
    return (u[: len(rows)].copy_(rows).sub_(c) for rows in blocks(x))


def covariance(x: Tensor, m: Tensor) -> Tensor:
    """1/(N - 1) Σ_i (x_i - m)(x_i - m)^T, float64 (d, d): nothing but its lower triangle is to be read."""
    S = m.new_zeros(len(m), len(m))
    for u in about(m, x):
        add_products(S, u)
    return S.div_(len(x) - 1)


def add_products(S: Tensor, u: Tensor) -> Tensor:
    """S + u^T u in its place, for u (N, d): nothing but the lower triangle, in a little more than half the time."""
    for first in range(0, len(S), COLUMNS):
        end = first + COLUMNS
        S[first:end, :end].addmm_(u[:, first:end].T, u[:, :end])
    return S


def root(S: Tensor) -> Tensor:
    """R (r, d) with R^T R = S, for a covariance S (d, d) of any rank r, of which the lower triangle is read.

    Of full rank it is an upper triangle.

    Raises:
        ConfigError: S is no covariance.
    """
    live = S.diagonal() != 0
    if live.all():
        return _root(S)
    R = _root(S[live][:, live])
    return S.new_zeros(len(R), len(S)).index_copy_(1, live.nonzero().flatten(), R)


def _root(S: Tensor) -> Tensor:
    L: Tensor
    L, failed = torch.linalg.cholesky_ex(S)
    if not failed:
        return L.T
    w, V = torch.linalg.eigh(S)
    if w[0] < -1e-6 * w[-1].abs():
        raise ConfigError(f"no covariance has a negative eigenvalue, such as {w[0]:.3g} beside {w[-1]:.3g}")
    w, V = w.flip(0), V.flip(1)
    rank = w > len(w) * EPS * w[0]
    R: Tensor = w[rank].sqrt()[:, None] * V[:, rank].T
    return torch.linalg.qr(R).R if rank.all() else R


def _distance(one: Moments, other: Moments) -> float:
    (m_1, R_1), (m_2, R_2) = one, other
    spread = R_1.square().sum() + R_2.square().sum()  # tr S_1 + tr S_2
    triangles = len(R_1) == len(R_2) == len(m_1)
    B = product_of_triangles(R_1, R_2) if triangles else R_1 @ R_2.T
    overlap = nuclear_norm(B, graded=triangles)
    # It is no less than 0, but for rounding.
    return max(float((m_1 - m_2).square().sum() + spread - 2 * overlap), 0.0)


def product_of_triangles(R_1: Tensor, R_2: Tensor) -> Tensor:
    """R_1 R_2^T of upper triangles (d, d), without most of the zeros: in half the time."""
    B = torch.empty_like(R_1)
    for first in range(0, len(B), COLUMNS):
        end = first + COLUMNS
        torch.mm(R_1[first:end, first:], R_2[:end, first:].T, out=B[first:end, :end])
        torch.mm(R_1[:first, first:], R_2[first:end, first:].T, out=B[:first, first:end])
    return B


def nuclear_norm(B: Tensor, graded: bool) -> float:
    """Σ_i σ_i, the sum of the singular values of B (r, s).

    They are the roots of the eigenvalues of B B^T, which are had for a third of the cost. But an eigenvalue is exact up
    to rounding of the largest one, and the root of that is a lot larger. Not so where B is graded, falling off along
    its rows, as the product of the Cholesky factors of two covariances is that are alike.
    """
    if graded:
        squares = torch.linalg.eigvalsh(add_products(torch.zeros_like(B), B.T))
        return float(squares.clamp(min=0).sqrt().sum())
    return float(torch.linalg.svdvals(B).sum())
