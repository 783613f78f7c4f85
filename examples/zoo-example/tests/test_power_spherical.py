"""The power spherical distribution against quadrature, the Beta distribution of its cosine, and its own draws."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from zoo_example.power_spherical import PowerSpherical, PowerSphericalPosterior, orthogonal
from zoo_example.sphere import unit
from zoo_example.uniform_sphere import SphericalUniform

from zoo_core import ConfigError, has_closed_form_kl, kl, kl_per_dimension

dimensions = pytest.mark.parametrize("d", [2, 3, 6, 20])
concentrations = pytest.mark.parametrize("kappa", [0.0, 0.3, 4.0, 150.0])


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def directions(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return unit(torch.randn(*shape, dtype=dtype), -1)


def q_of(kappa: float, d: int, *batch: int, dtype: torch.dtype = torch.float64) -> PowerSpherical:
    return PowerSpherical(directions(*batch, d, dtype=dtype), torch.full((*batch, 1), kappa, dtype=dtype))


def uniform(d: int, dtype: torch.dtype = torch.float64) -> SphericalUniform:
    return SphericalUniform(torch.zeros((), dtype=dtype), (d,))


def circle(n: int) -> tuple[Tensor, Tensor]:
    """Points on S^1, (N, 2), and how much of it each stands for."""
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], -1), torch.full((n,), 2 * math.pi / n, dtype=torch.float64)


def globe(n: int) -> tuple[Tensor, Tensor]:
    """Points on S^2, (N, 3), and how much of it each stands for: Gauss-Legendre by height, even by longitude."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    around, share = circle(2 * n)
    radius = (1 - nodes**2).sqrt()[:, None, None]
    points = torch.cat([radius * around, nodes[:, None, None].expand(-1, 2 * n, 1)], -1)
    return points.flatten(0, 1), (weights[:, None] * share).flatten()


SURFACES = {2: circle(4000), 3: globe(200)}
surfaces = pytest.mark.parametrize("d", SURFACES)


def by_angle(q: PowerSpherical, function: str) -> float:
    """∫ q, or ∫ q log q, over S^(d-1), by the angle to mu: q is constant on the S^(d-2) at that angle."""
    around = 2 * math.pi ** ((q.d - 1) / 2) / math.gamma((q.d - 1) / 2)
    across = orthogonal(q.mu, -1)

    def integrand(angle: float) -> float:
        log_q = float(q.log_prob(q.mu * math.cos(angle) + across * math.sin(angle)))
        area: float = around * math.sin(angle) ** (q.d - 2)
        return area * math.exp(log_q) * (log_q if function == "log" else 1.0)

    peak = min(math.pi / 2, 3 / math.sqrt(float(q.kappa) + 1))
    return sum(float(integrate.quad(integrand, a, b)[0]) for a, b in ((0, peak), (peak, math.pi - 1e-9)))


# density


@surfaces
@concentrations
def test_the_density_adds_up_to_1_over_the_circle_and_the_sphere(d: int, kappa: float) -> None:
    points, area = SURFACES[d]
    q = q_of(kappa, d)
    assert float((q.log_prob(points).exp() * area).sum()) == pytest.approx(1, abs=1e-4)


@dimensions
@concentrations
def test_the_density_adds_up_to_1_by_the_angle(d: int, kappa: float) -> None:
    assert by_angle(q_of(kappa, d), "one") == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("d", [10, 50])
def test_the_density_ratio_to_the_uniform_is_1_in_the_mean(d: int) -> None:
    q, p = q_of(2.0, d), uniform(d)
    z = p.sample((100_000,))
    ratio = (q.log_prob(z) - p.log_prob(z)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(len(z))
    assert float(ratio.std()) > 0.1


@dimensions
def test_without_concentration_it_is_uniform(d: int) -> None:
    q, p = q_of(0.0, d, 4), uniform(d)
    z = p.sample((5, 4))
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    torch.testing.assert_close(kl(q, p), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_log_density_differs_by_kappa_times_the_logarithm_of_one_plus_cosine() -> None:
    q, z = q_of(7.5, 5), directions(2, 5)
    cosine = (z * q.mu).sum(-1)
    expected = 7.5 * (torch.log1p(cosine[0]) - torch.log1p(cosine[1]))
    torch.testing.assert_close(q.log_prob(z[0]) - q.log_prob(z[1]), expected)


def test_what_is_not_on_the_sphere_has_no_density() -> None:
    q = q_of(3.0, 4)
    with pytest.raises(ConfigError, match="not on it: let the encoder's posterior be example/power_spherical"):
        q.log_prob(1.1 * q.mu)
    assert q.log_prob(q.mu.bfloat16().double()).isfinite()


# entropy and KL


@dimensions
@concentrations
def test_the_entropy_is_the_integral_of_minus_log_density(d: int, kappa: float) -> None:
    q = q_of(kappa, d)
    assert float(q.entropy()) == pytest.approx(-by_angle(q, "log"), abs=1e-5)


@surfaces
@concentrations
def test_the_kl_is_the_integral_of_the_log_ratio(d: int, kappa: float) -> None:
    points, area = SURFACES[d]
    q, p = q_of(kappa, d), uniform(d)
    log_q = q.log_prob(points)
    expected = (log_q.exp() * (log_q - p.log_prob(points)) * area).sum()
    assert has_closed_form_kl(q, p)
    torch.testing.assert_close(kl(q, p), expected, atol=2e-4, rtol=1e-4)


@dimensions
@concentrations
def test_the_kl_is_the_mean_log_ratio_of_draws(d: int, kappa: float) -> None:
    q, p = q_of(kappa, d), uniform(d)
    z = q.sample((20_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = float(ratio.std()) / math.sqrt(len(z))
    assert abs(float(ratio.mean() - kl(q, p))) < 5 * error + 1e-9
    assert error < 0.05


def test_the_kl_grows_with_the_concentration() -> None:
    kappa = torch.logspace(-3, 6, 40, dtype=torch.float64)[:, None]
    q = PowerSpherical(directions(6).expand(40, 6), kappa)
    assert (kl(q, uniform(6)).diff() > 0).all()


def test_free_bits_of_each_coordinate_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not split into dimensions"):
        kl_per_dimension(q_of(1.0, 3), uniform(3))


# draws


@dimensions
@concentrations
def test_draws_lie_on_the_sphere_and_their_cosine_follows_a_beta(d: int, kappa: float) -> None:
    q = q_of(kappa, d)
    z = q.sample((4000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4000, dtype=torch.float64))
    cosine = (z * q.mu).sum(-1).numpy()
    beta = (d - 1) / 2
    assert stats.kstest((1 + cosine) / 2, stats.beta(beta + kappa, beta).cdf).pvalue > 1e-4


@pytest.mark.parametrize("mu", [[1, 0, 0], [-1, 0, 0], [1, 1e-4, 0], [0, 0, 1], [-0.6, 0, 0.8]], ids=str)
def test_draws_are_around_mu_wherever_it_points(mu: list[float]) -> None:
    q = PowerSpherical(unit(torch.tensor(mu), -1), torch.tensor([1e6]))
    offset = q.sample((10_000,)) - q.mu
    assert float(offset.norm(dim=-1).max()) < 0.01
    assert float(offset.mean(0).norm()) < 5e-5  # a reflection along mu - e_1 would be off by 1e-4 and more


@dimensions
@concentrations
def test_mean_and_variance_are_those_of_draws(d: int, kappa: float) -> None:
    q, n = q_of(kappa, d), 40_000
    z = q.sample((n,))
    assert ((z.mean(0) - q.mean).abs() < 5 * z.std(0) / math.sqrt(n) + 1e-12).all()
    squares = (z - q.mean).square()
    assert ((squares.mean(0) - q.variance).abs() < 5 * squares.std(0) / math.sqrt(n)).all()
    torch.testing.assert_close(q.variance.sum() + q.mean.square().sum(), torch.ones((), dtype=torch.float64))


def test_what_is_around_mu_is_uniform() -> None:
    mu = directions(4)
    v = orthogonal(mu.expand(20_000, 4), -1)
    torch.testing.assert_close(v @ mu, torch.zeros(20_000, dtype=torch.float64), atol=1e-12, rtol=0)
    # E[v v^T] = (I - mu mu^T) / (d - 1)
    expected = (torch.eye(4, dtype=torch.float64) - torch.outer(mu, mu)) / 3
    torch.testing.assert_close(v.T @ v / len(v), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("kappa", [0.5, 5.0, 80.0])
@pytest.mark.parametrize("d", [2, 3, 8])
def test_gradients_of_draws_are_those_of_the_mean(d: int, kappa: float) -> None:
    """d E[c·z] with E[z] = mu kappa / (kappa + d - 1), along what mu and kappa are made of."""
    n, c = 20_000, torch.linspace(-1, 2, d).double()
    h = torch.arange(1, d + 1).double().expand(n, d).clone().requires_grad_()
    log_kappa = torch.full((n, 1), math.log(kappa)).double().requires_grad_()
    q = PowerSpherical(unit(h, -1), log_kappa.exp())
    known = torch.autograd.grad((q.mean @ c).sum(), (h, log_kappa), retain_graph=True)
    found = torch.autograd.grad((q.rsample() @ c).sum(), (h, log_kappa))
    for each, expected in zip(found, known, strict=True):
        error = each.std(0) / math.sqrt(n)
        assert ((each.mean(0) - expected[0]).abs() < 5 * error + 1e-9).all()
        assert (expected[0].abs() > 5 * error).any()


def test_gradients_of_draws_are_those_of_the_entropy() -> None:
    """d/d kappa of -E[log q(z)]: through the draws and through the density, against the formula's own."""
    kappa = torch.full((100_000, 1), 6.0, dtype=torch.float64, requires_grad=True)
    q = PowerSpherical(directions(4).expand(len(kappa), 4), kappa)
    (found,) = torch.autograd.grad(-q.log_prob(q.rsample()).sum(), kappa)
    (known,) = torch.autograd.grad(q.entropy().sum(), kappa)
    assert abs(float(found.mean() - known.mean())) < 5 * float(found.std()) / math.sqrt(len(found))


def test_the_entropys_gradient_is_its_difference_quotient() -> None:
    kappa = torch.tensor([[0.2], [3.0], [500.0]], dtype=torch.float64, requires_grad=True)
    mu = directions(3, 7)
    assert torch.autograd.gradcheck(lambda k: PowerSpherical(mu, k).entropy(), kappa)


# numbers that are large, small, or few digits


@dimensions
@pytest.mark.parametrize("h", [0.0, -1e30, 1e30, 1e-30], ids=str)
def test_extreme_features_give_finite_numbers_and_gradients(d: int, h: float) -> None:
    features = torch.full((3, d + 1), h, requires_grad=True)
    q = PowerSphericalPosterior()(features, 1)
    z = q.rsample((50,))
    told = [z, q.log_prob(z), q.entropy(), q.mean, q.variance, kl(q, uniform(d, torch.float32))]
    assert all(value.isfinite().all() for value in told)
    (gradient,) = torch.autograd.grad(sum(value.sum() for value in told), features)
    assert gradient.isfinite().all()


def test_opposite_of_mu_is_unlikely_but_finite() -> None:
    q = q_of(1e4, 3, dtype=torch.float32)
    assert -1e7 < float(q.log_prob(-q.mu)) < -1e4


@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e6])
def test_single_precision_keeps_the_digits_of_a_narrow_density(kappa: float) -> None:
    wide = q_of(kappa, 10, 200)
    z = wide.sample()
    narrow = PowerSpherical(wide.mu.float(), wide.kappa.float())
    for found, known in (
        (narrow.log_prob(z.float()), wide.log_prob(z)),
        (narrow.entropy(), wide.entropy()),
        (narrow.mean, wide.mean),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), known, atol=5e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_half_precision_is_widened_and_double_kept(given: torch.dtype, computed: torch.dtype) -> None:
    q = PowerSphericalPosterior()(torch.randn(4, 6).to(given), 1)
    z = q.rsample()
    for value in (z, q.log_prob(z), q.entropy(), q.mean, q.variance):
        assert value.dtype == computed


# shapes


@pytest.mark.parametrize("positions", [(), (2,), (2, 3)], ids=str)
def test_positions_are_independent_spheres(positions: tuple[int, ...]) -> None:
    event_dim = 1 + len(positions)
    h = torch.randn(5, 4, *positions).double()
    q = PowerSphericalPosterior()(h, event_dim)
    p = SphericalUniform(torch.zeros((), dtype=torch.float64), (3, *positions))
    z = q.sample((2,))
    alone = PowerSphericalPosterior()(h.movedim(1, -1).reshape(5, -1, 4), 1)  # (5, P) spheres of their own
    z_alone = z.movedim(2, -1).reshape(2, 5, -1, 3)
    assert (q.batch_shape, q.event_shape, z.shape) == ((5,), (3, *positions), (2, 5, 3, *positions))
    torch.testing.assert_close(q.log_prob(z), alone.log_prob(z_alone).sum(-1))
    torch.testing.assert_close(q.entropy(), alone.entropy().sum(-1))
    torch.testing.assert_close(q.mean.movedim(1, -1).reshape(5, -1, 3), alone.mean)
    torch.testing.assert_close(q.variance.movedim(1, -1).reshape(5, -1, 3), alone.variance)
    torch.testing.assert_close(kl(q, p), kl(alone, uniform(3)).sum(-1))
    assert q.support.check(z).all()


def test_expanding_changes_nothing_but_the_batch() -> None:
    q = q_of(3.0, 4, 1).expand((5,))
    assert (q.batch_shape, q.event_shape) == ((5,), (4,))
    torch.testing.assert_close(q.log_prob(q.mu), q.log_prob(q.mu)[:1].expand(5))
    assert kl(q_of(3.0, 4), uniform(4).expand((6,))).shape == (6,)


def test_a_single_latent_is_no_sphere() -> None:
    with pytest.raises(ConfigError, match="at least 2 of them, got 1"):
        PowerSphericalPosterior().channels(1)


def test_features_are_a_direction_of_any_length_and_a_log_concentration() -> None:
    q = PowerSphericalPosterior()(torch.tensor([[0.0, 3.0, 4.0, math.log(7)]]), 1)
    torch.testing.assert_close(q.mode, torch.tensor([[0.0, 0.6, 0.8]]))
    torch.testing.assert_close(q.mean, torch.tensor([[0.0, 0.6, 0.8]]) * 7 / 9)


def test_it_works_where_there_are_no_numbers() -> None:
    q = PowerSphericalPosterior()(torch.randn(2, 5, device="meta"), 1)
    z = q.rsample((3,))
    assert (z.shape, z.device.type) == ((3, 2, 4), "meta")
    assert q.log_prob(z).shape == (3, 2)
    assert kl(q, SphericalUniform(torch.zeros((), device="meta"), (4,))).shape == (2,)
