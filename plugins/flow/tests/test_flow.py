"""Flows: what an invertible map with a known Jacobian must hold, and densities that are known beforehand."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from zoo_flow.realnvp import kept

from zoo_core import build, describe, kl

NAMES = ("flow/realnvp", "flow/maf")
SHAPES = ((1,), (2,), (5,), (3, 2, 2))
flows = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def flow(name: str, shape: tuple[int, ...], std: float = 0.1, **arguments: Any) -> Any:
    """Away from the identity at which it starts, in float64."""
    model = build({"type": name, "layers": 4, "hidden": [16, 16], **arguments}, data_shape=shape).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


def jacobian(model: Any, x: Tensor) -> Tensor:
    """∂u/∂x at one x (*data_shape), (D, D), by autograd."""
    return torch.autograd.functional.jacobian(lambda row: model.encode(row.view(1, *x.shape)).flatten(), x.flatten())


@flows
@shapes
def test_a_new_flow_is_a_standard_normal(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, data_shape=shape)
    x = torch.randn(6, *shape)
    torch.testing.assert_close(model.log_prob(x), Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1))
    assert torch.equal(model.encode(x), x)


@flows
@shapes
def test_both_ways_lead_back(name: str, shape: tuple[int, ...]) -> None:
    model = flow(name, shape)
    x = 3 * torch.randn(7, *shape, dtype=torch.float64)
    u = model.encode(x)
    assert u.shape == x.shape
    assert (u - x).abs().max() > 0.1
    torch.testing.assert_close(model.decode(u), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.encode(model.decode(x)), x, rtol=1e-9, atol=1e-9)


@flows
@shapes
def test_the_volume_is_that_of_the_jacobian(name: str, shape: tuple[int, ...]) -> None:
    """log p(x) = log N(u; 0, I) + log |det ∂u/∂x|, the determinant by autograd."""
    model = flow(name, shape)
    x = torch.randn(3, *shape, dtype=torch.float64)
    log_det = torch.stack([torch.linalg.slogdet(jacobian(model, row)).logabsdet for row in x])
    assert log_det.abs().max() > 0.01
    expected = Normal(0.0, 1.0).log_prob(model.encode(x)).flatten(1).sum(1) + log_det
    torch.testing.assert_close(model.log_prob(x), expected, rtol=1e-10, atol=1e-10)


@flows
def test_the_density_integrates_to_one(name: str) -> None:
    model = flow(name, (2,), std=0.2).requires_grad_(False)
    axis = torch.linspace(-20, 20, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = model.log_prob(grid).exp()
    assert float(density.sum()) * (40 / 500) ** 2 == pytest.approx(1, abs=1e-4)
    assert float(density.max()) != pytest.approx(1 / (2 * math.pi), rel=0.01)  # not the normal it started as


@flows
def test_draws_have_that_density(name: str) -> None:
    """The share of draws in each cell against the integral of the density over it."""
    model = flow(name, (2,), std=0.2).requires_grad_(False)
    n, edges = 40_000, torch.linspace(-4, 4, 9)
    x = model.sample(n, generator=torch.Generator().manual_seed(0))
    counts = torch.histogramdd(x.float(), [edges, edges]).hist
    fine = torch.linspace(-4, 4, 321, dtype=torch.float64)
    middle = (fine[1:] + fine[:-1]) / 2
    p = model.log_prob(torch.cartesian_prod(middle, middle)).exp().view(8, 40, 8, 40).sum((1, 3)) * 0.025**2
    error = (counts / n - p) / (p * (1 - p) / n).sqrt()
    assert p.sum() > 0.5
    # A chi-squared of 64 degrees has mean 64 and standard deviation 11.
    assert error[p > 1e-4].square().sum() < 64 + 5 * 11.3


@pytest.mark.parametrize("number", [0, 1])
def test_each_value_of_maf_follows_those_before_it_alone(number: int) -> None:
    model = flow("flow/maf", (6,), layers=2)
    step, u = model.steps[2 * number], torch.randn(1, 6, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda u: step(u).flatten(), u).view(6, 6)
    J = J.flip(0, 1) if number else J
    assert torch.equal(J.triu(1), torch.zeros_like(J))
    assert (J.tril() != 0).sum() == 21  # every value before has its say, and the order turns round
    inverse = torch.autograd.functional.jacobian(lambda x: step.inverse(x)[0].flatten(), u).view(6, 6)
    inverse = inverse.flip(0, 1) if number else inverse
    assert torch.equal(inverse.triu(1), torch.zeros_like(J))


@pytest.mark.parametrize("hidden", [[], [2], [40, 3]], ids=str)
def test_masks_hold_for_any_widths(hidden: list[int]) -> None:
    model = flow("flow/maf", (6,), layers=1, hidden=hidden, std=0.5)
    J = jacobian(model, torch.randn(6, dtype=torch.float64))
    assert torch.equal(J.triu(1), torch.zeros_like(J))
    assert J.tril(-1).any()


@pytest.mark.parametrize("size", [1, 2, 5, 32, 33])
def test_any_two_values_part_in_some_coupling_layer(size: int) -> None:
    bits = max(1, (size - 1).bit_length())
    masks = torch.stack([kept(size, k) for k in range(2 * bits)])
    assert torch.equal(masks[0::2], ~masks[1::2])  # each layer's other half moves in the next
    assert all((masks[:, i] != masks[:, j]).any() for i, j in itertools.combinations(range(size), 2))
    assert torch.equal(kept(size, 2 * bits), masks[0])


def test_a_coupling_layer_keeps_what_it_looks_at() -> None:
    model = flow("flow/realnvp", (5,), layers=1)
    step, u = model.steps[0], torch.randn(4, 5, dtype=torch.float64)
    x = step(u)
    assert torch.equal(x[:, step.kept], u[:, step.kept])
    assert (x[:, ~step.kept] != u[:, ~step.kept]).all()


class Bent:
    """x_1 ~ N(0, 1), x_2 ~ N(x_1^2 / 2, (exp(0.4 x_1) / 2)^2): as far as 0.6 nats from every Gaussian."""

    def sample(self, n: int) -> Tensor:
        e, x_1 = torch.randn(2, n)
        return torch.stack([x_1, 0.5 * x_1.square() + 0.5 * (0.4 * x_1).exp() * e], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        x_1, x_2 = x.unbind(1)
        return Normal(0.0, 1.0).log_prob(x_1) + Normal(0.5 * x_1.square(), 0.5 * (0.4 * x_1).exp()).log_prob(x_2)


def fitted(name: str, p: Any, size: int, steps: int = 150, **arguments: Any) -> Any:
    model = build({"type": name, "hidden": [24], **arguments}, data_shape=(size,))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-2 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        (-model.log_prob(p.sample(256))).mean().backward()
        optimizer.step()
    return model.requires_grad_(False)


def gap(model: Any, p: Any) -> float:
    """KL(p || model) = E_p[log p - log p_model], in nats, on new draws."""
    x = p.sample(20_000)
    return float((p.log_prob(x) - model.log_prob(x)).mean())


@flows
def test_it_learns_a_known_density(name: str) -> None:
    p = Bent()
    x = p.sample(20_000)
    assert gap(MultivariateNormal(x.mean(0), torch.cov(x.T)), p) > 0.55
    assert -0.005 < gap(fitted(name, p, 2, layers=4), p) < 0.02


class Elsewhere:
    """N(2 scale, scale^2 I)."""

    def __init__(self, scale: float) -> None:
        self.normal = Normal(2 * scale, scale)

    def sample(self, n: int) -> Tensor:
        return self.normal.sample(torch.Size((n, 3)))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.normal.log_prob(x).sum(1)


@flows
@pytest.mark.parametrize("scale", [0.05, 5.0])
def test_data_of_another_scale_are_reached(name: str, scale: float) -> None:
    p = Elsewhere(scale)
    new = build({"type": name, "layers": 6}, data_shape=(3,)).requires_grad_(False)
    assert gap(new, p) > 3
    assert gap(fitted(name, p, 3, layers=6), p) < 0.15


@flows
@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)], ids=str)
def test_every_parameter_has_a_gradient(name: str, shape: tuple[int, ...]) -> None:
    model = flow(name, shape)
    (-model.log_prob(torch.randn(16, *shape, dtype=torch.float64))).mean().backward()
    still = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert still == []


@flows
def test_far_away_it_stays_finite(name: str) -> None:
    model = flow(name, (4,), std=2.0).float()
    x = torch.tensor([[1e4] * 4, [-1e4] * 4, [0.0] * 4], requires_grad=True)
    total = model.log_prob(x)
    total.sum().backward()
    assert total.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert model.sample(100).isfinite().all()


@flows
def test_copies_and_the_meta_device(name: str) -> None:
    model = flow(name, (3, 2, 2))
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(twin.log_prob(x), model.log_prob(x))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(twin.log_prob(x), model.log_prob(x))
    with torch.device("meta"):
        empty = build(name, data_shape=(3, 2, 2))
    assert empty.sample(2).is_meta
    assert empty.log_prob(x.to("meta")).shape == (4,)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


@flows
def test_what_is_fixed_follows_from_the_arguments(name: str) -> None:
    first, second = (flow(name, (7,)) for _ in range(2))
    fixed = {n for n, _ in first.named_buffers()}
    assert fixed
    assert all(torch.equal(first.state_dict()[n], second.state_dict()[n]) for n in fixed)


# in the place of a prior


def vae(name: str) -> Any:
    config = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 4, "hidden": [16]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
        "prior": {"type": name, "layers": 2, "hidden": [8]},
    }
    return build(config, data_shape=(1, 8, 8))


@flows
def test_as_a_new_prior_it_is_the_standard_normal(name: str) -> None:
    """The KL is sampled then, and its mean is that of the closed form."""
    model, plain = vae(name), build("nets/standard_normal", latent_shape=(4,))
    assert model.prior.data_shape == (4,)
    assert "data_shape" not in describe(model, data_shape=(1, 8, 8))["prior"]
    q = model.encoder(torch.rand(1, 1, 8, 8).expand(20_000, -1, -1, -1))
    z = q.rsample()
    sampled, exact = kl(q, model.prior(), z).detach(), kl(q, plain(), z)[0].detach()
    assert abs(sampled.mean() - exact) < 5 * sampled.std() / len(z) ** 0.5


@flows
def test_it_is_trained_with_the_rest_by_the_elbo(name: str) -> None:
    model, loss = vae(name), build("vae/elbo")
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss(model, {"image": torch.rand(8, 1, 8, 8).round()}).total.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert model.sample(3).shape == (3, 1, 8, 8)
