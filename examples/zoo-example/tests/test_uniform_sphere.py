"""The uniform distribution on the sphere, against what is known of spheres."""

import math
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from zoo_example.sphere import Sphere, log_surface, unit
from zoo_example.uniform_sphere import SphericalUniform, UniformSphere

from zoo_core import ConfigError


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("d", "surface"),
    [(1, 2), (2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2), (5, 8 / 3 * math.pi**2), (6, math.pi**3)],
)
def test_surfaces_of_spheres(d: int, surface: float) -> None:
    assert math.exp(log_surface(d)) == pytest.approx(surface)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 2, 2)], ids=str)
def test_the_prior_is_one_over_the_surface_at_each_position(shape: tuple[int, ...]) -> None:
    prior = UniformSphere(latent_shape=shape)
    z = prior.sample(7)
    positions = math.prod(shape[1:])
    assert z.shape == (7, *shape)
    assert Sphere(-len(shape)).check(z).all()
    torch.testing.assert_close(prior.log_prob(z), torch.full((7,), -positions * log_surface(shape[0])))
    assert float(prior().entropy()) == pytest.approx(positions * log_surface(shape[0]), rel=1e-6)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_a_coordinate_of_a_draw_follows_a_beta(d: int) -> None:
    """(1 + z_1) / 2 ~ Beta((d-1)/2, (d-1)/2); every coordinate alike, and uncorrelated with the others."""
    p = SphericalUniform(torch.zeros((), dtype=torch.float64), (d,))
    z = p.sample((20_000,))
    beta = stats.beta((d - 1) / 2, (d - 1) / 2)
    assert stats.kstest((1 + z[:, d // 2].numpy()) / 2, beta.cdf).pvalue > 1e-4
    torch.testing.assert_close(z.mean(0), p.mean, atol=0.04, rtol=0)
    torch.testing.assert_close(z.T @ z / len(z), torch.diag(p.variance), atol=0.03, rtol=0)


@pytest.mark.parametrize("z", [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 0.3, 0.0]], ids=str)
def test_what_is_not_on_the_sphere_has_no_density(z: list[float]) -> None:
    with pytest.raises(ConfigError, match="asked for a z that is not on it"):
        UniformSphere(latent_shape=(3,)).log_prob(torch.tensor([[0.0, 1.0, 0.0], z]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_follows_the_models_dtype_in_float32_at_least(dtype: torch.dtype) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    prior = UniformSphere(latent_shape=(4,)).to(dtype)
    assert prior.sample(2).dtype == wide
    assert prior.log_prob(prior.sample(2)).dtype == wide


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_directions_do_not_depend_on_lengths(scale: float) -> None:
    h = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(unit(h * scale, -1), unit(h, -1))
    torch.testing.assert_close(unit(h, -1)[0], torch.tensor([0.6, -0.8, 0.0]))


def test_nothing_points_along_the_first_axis() -> None:
    h = torch.zeros(2, 3, requires_grad=True)
    torch.testing.assert_close(unit(h, -1), torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))
    (gradient,) = torch.autograd.grad(unit(h, -1).sum(), h)
    assert gradient.isfinite().all()
