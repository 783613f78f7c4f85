"""The losses against what theory says of them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.autograd.functional import jacobian as autograd_jacobian
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal
from zoo_autoencoder.contractive import Contractive
from zoo_autoencoder.contractive_hutchinson import HutchinsonContractive
from zoo_autoencoder.denoising import GaussianDenoising
from zoo_autoencoder.diagnostics import dead_units, score, sensitivity
from zoo_autoencoder.masking import MaskingDenoising
from zoo_autoencoder.reconstruction import Reconstruction
from zoo_autoencoder.salt_and_pepper import SaltAndPepperDenoising
from zoo_autoencoder.sparse_kl import SparseKL
from zoo_autoencoder.sparse_l1 import SparseL1

from zoo_core import ConfigError, Loss, build, kl
from zoo_core.data import load

DATA = (1, 8, 8)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def digits() -> Tensor:
    dataset = load("digits", "train")
    return dataset.batch(torch.arange(len(dataset)))["image"].float() / 255


def autoencoder(data_shape: tuple[int, ...] = DATA, prior: str = "nets/standard_normal", **parts: Any) -> Any:
    encoder = {"type": "nets/linear_encoder", "latents": 8, "posterior": "nets/dirac", **parts.pop("encoder", {})}
    decoder = {"type": "nets/linear_decoder", "likelihood": "nets/gaussian", **parts.pop("decoder", {})}
    config = {"type": "autoencoder/autoencoder", "encoder": encoder, "decoder": decoder, "prior": prior}
    return build(config, data_shape=data_shape)


def tied(data_shape: tuple[int, ...] = DATA, **arguments: Any) -> Any:
    return build({"type": "autoencoder/tied_autoencoder", "latents": 8, **arguments}, data_shape=data_shape)


def adam(model: Any, loss: Loss, batches: Iterator[Tensor], steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, {"image": next(batches)}).total.backward()
        optimizer.step()
        schedule.step()


def endless(x: Tensor, size: int) -> Iterator[Tensor]:
    while True:
        yield x[torch.randint(len(x), (size,))]


def lbfgs(model: Any, loss: Loss, x: Tensor, steps: int) -> None:
    """To the minimum over all of x, in float64."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=steps, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(model, {"image": x}).total
        total.backward()
        return total

    optimizer.step(closure)


# reconstruction


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_a_linear_autoencoder_is_pca(digits: Tensor, is_tied: bool) -> None:
    """Neural networks and principal component analysis (Baldi & Hornik, 1989)."""
    model = tied(activation="linear", likelihood="gaussian") if is_tied else autoencoder()
    model, x = model.double(), digits[:300].double()
    lbfgs(model, Reconstruction(), x, steps=300)
    pca = PCA(n_components=8).fit(x.flatten(1).numpy())
    decoded = (model.decoder(torch.eye(8).double()).mean - model.decoder(torch.zeros(8).double()).mean).flatten(1)
    assert subspace_angles(decoded.T.detach().numpy(), pca.components_.T).max() < 1e-2
    r = model.decoder(model.encode(x)).mean
    error = (r - x).square().flatten(1).sum(1).mean().item()
    best = np.square(pca.inverse_transform(pca.transform(x.flatten(1).numpy())) - x.flatten(1).numpy()).sum(1).mean()
    assert best * (1 - 1e-9) <= error < 1.01 * best


def test_reconstruction_is_nats_per_example() -> None:
    model, x = autoencoder(), torch.rand(5, *DATA)
    total, terms = Reconstruction()(model, {"image": x})
    squared = (model.decoder(model.encode(x)).mean - x).square().flatten(1).sum(1).mean()
    assert torch.allclose(total, squared / 2 + 32 * math.log(2 * math.pi))
    assert torch.equal(terms["distortion"], total)
    assert not terms["distortion"].requires_grad


@pytest.mark.parametrize("loss", [Reconstruction(), Contractive(), SparseL1()], ids=lambda loss: type(loss).__name__)
def test_a_gaussian_encoder_serves_by_its_mean(loss: Loss) -> None:
    model, x = autoencoder(encoder={"posterior": "nets/diagonal_gaussian"}), torch.rand(5, *DATA)
    _, terms = loss(model, {"image": x})
    assert torch.allclose(terms["distortion"], -model.decoder(model.encoder(x).mean).log_prob(x).mean())


LOSSES = [
    Reconstruction(), GaussianDenoising(), MaskingDenoising(), SaltAndPepperDenoising(), Contractive(),
    HutchinsonContractive(), SparseL1(), SparseKL(),
]  # fmt: skip
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@every_loss
def test_a_prior_with_parameters_is_refused_until_it_is_frozen(loss: Loss) -> None:
    model = autoencoder(prior="nets/gaussian_mixture", encoder={"posterior": "autoencoder/sigmoid"})
    with pytest.raises(ConfigError, match=r"GaussianMixture has parameters.*standard_normal.*freeze"):
        loss(model, {"image": torch.rand(2, *DATA)})
    model.prior.requires_grad_(False)
    assert loss(model, {"image": torch.rand(2, *DATA)}).total.isfinite()


@every_loss
def test_a_model_without_a_code_is_refused(loss: Loss) -> None:
    with pytest.raises(ConfigError, match="needs an encoder and a decoder; Linear has none"):
        loss(nn.Linear(1, 1), {"image": torch.rand(2, *DATA)})


@every_loss
def test_an_example_costs_the_same_in_any_batch(loss: Loss) -> None:
    """Without noise, and for equal examples, since a frequency is one of the batch."""
    model, x = autoencoder(encoder={"posterior": "autoencoder/sigmoid"}), torch.rand(1, *DATA)
    costs = []
    for copies in (1, 7):
        torch.manual_seed(1)
        totals = [loss(model, {"image": x.expand(copies, *DATA)}).total.detach() for _ in range(420 // copies)]
        costs.append(torch.stack(totals))
    standard_error = sum(c.var() / len(c) for c in costs).sqrt()
    assert (costs[0].mean() - costs[1].mean()).abs() <= 5 * standard_error + 1e-4


# denoising


def test_masking_sets_a_share_to_zero() -> None:
    x = torch.full((1000, *DATA), 0.5)
    corrupted = MaskingDenoising(0.25).corrupt(x)
    assert set(corrupted.unique().tolist()) == {0.0, 0.5}
    assert_share(corrupted == 0, 0.25)


def test_salt_and_pepper_are_equally_many() -> None:
    x = torch.full((1000, *DATA), 0.5)
    corrupted = SaltAndPepperDenoising(0.3).corrupt(x)
    assert set(corrupted.unique().tolist()) == {0.0, 0.5, 1.0}
    assert_share(corrupted == 0, 0.15)
    assert_share(corrupted == 1, 0.15)


def test_gaussian_noise_has_its_sigma() -> None:
    noise = GaussianDenoising(0.2).corrupt(torch.ones(1000, *DATA)) - 1
    error = 0.2 / math.sqrt(2 * noise.numel())
    assert abs(noise.std().item() - 0.2) < 5 * error
    assert abs(noise.mean().item()) < 5 * 0.2 / math.sqrt(noise.numel())


@pytest.mark.parametrize("loss", [MaskingDenoising(1.0), SaltAndPepperDenoising(1.0)], ids=["mask", "salt_and_pepper"])
def test_the_target_is_clean(loss: Loss) -> None:
    """Where all is destroyed, only the data's mean is left to say."""
    x = torch.rand(40, *DATA)
    model = autoencoder()
    with torch.no_grad():
        model.decoder.body[1].weight.zero_()
        model.decoder.body[1].bias.copy_(x.mean(0).flatten())
    total = loss(model, {"image": x}).total
    squared = (x - x.mean(0)).square().flatten(1).sum(1).mean()
    assert torch.allclose(total, squared / 2 + 32 * math.log(2 * math.pi))


def assert_share(hits: Tensor, p: float) -> None:
    error = math.sqrt(p * (1 - p) / hits.numel())
    assert abs(hits.float().mean().item() - p) < 5 * error


MU, SIGMA = torch.tensor([[-1.0, -0.5], [1.0, 0.5]]), torch.tensor([[0.8, 0.9], [0.7, 0.8]])


def mixture(noise: float = 0.0) -> MixtureSameFamily:
    """Of two Gaussians in the plane, under Gaussian noise."""
    components = Independent(Normal(MU, (SIGMA**2 + noise**2).sqrt()), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.4, 0.6])), components)


def grad_log(p: MixtureSameFamily, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(p.log_prob(x).sum(), x)[0]


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def draws(size: int) -> Iterator[Tensor]:
    while True:
        yield mixture().sample((size,))


def test_denoising_learns_the_score() -> None:
    """(r(x) - x) / sigma^2 is the score of the noisy data, which becomes that of the data as sigma falls."""
    encoder = {"type": "nets/mlp_encoder", "latents": 24, "hidden": [24], "activation": "tanh"}
    model, x, errors = autoencoder((2,), encoder=encoder), mixture().sample((4000,)), []
    for sigma in (0.7, 0.5, 0.35):  # each goes on from the one before, whose score is near
        adam(model, GaussianDenoising(sigma), draws(500), steps=1000, lr=1e-2)
        learned = score(model, x, sigma)
        assert correlation(learned, grad_log(mixture(sigma), x)) > 0.99
        errors.append((learned - grad_log(mixture(), x)).square().sum(1).mean().sqrt().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]
    assert correlation(learned, grad_log(mixture(), x)) > 0.98


# contractive


def mlp() -> Any:
    encoder = {"type": "nets/mlp_encoder", "latents": 3, "hidden": [16], "activation": "tanh"}
    return autoencoder((4,), encoder=encoder).double()


def frobenius(model: Any, x: Tensor) -> Tensor:
    """||J_f||_F^2 of each example, one at a time."""
    Js = [autograd_jacobian(lambda x: model.encode(x.unsqueeze(0))[0], one) for one in x]
    return torch.stack([J.square().sum() for J in Js])


def omega(loss: Any, model: Any, x: Tensor) -> Tensor:
    return loss.penalty(model.encoder, x, model.encoder(x))


def test_the_contractive_penalty_is_that_of_autograd() -> None:
    model, x = mlp(), torch.randn(6, 4).double()
    assert torch.allclose(omega(Contractive(), model, x), frobenius(model, x), rtol=1e-12)
    total, terms = Contractive(0.7)(model, {"image": x})
    assert torch.allclose(total, terms["distortion"] + 0.7 * frobenius(model, x).mean(), rtol=1e-12)


def test_the_contractive_penalty_trains_the_encoder() -> None:
    """Its gradient with respect to the weights, against finite differences."""
    model, x = mlp(), torch.randn(6, 4).double()
    weight, step = model.encoder.body[1].weight, 1e-5
    gradient = torch.autograd.grad(omega(Contractive(), model, x).sum(), weight)[0][2, 1]
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 1] += sign * step
            sides.append(frobenius(model, x).sum())
            weight[2, 1] -= sign * step
    assert torch.allclose(gradient, (sides[0] - sides[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_a_layers_closed_form_is_its_jacobian(activation: str) -> None:
    model, x = tied(activation=activation).double(), torch.rand(6, *DATA).double()
    assert torch.allclose(omega(Contractive(), model, x), frobenius(model, x), rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_hutchinson_estimate_is_unbiased(samples: int) -> None:
    model, x = mlp(), torch.randn(6, 4).double()
    loss = HutchinsonContractive(samples=samples)
    with torch.no_grad():
        estimates = omega(loss, model, x.repeat(2000, 1)).view(2000, len(x))
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - frobenius(model, x)).abs() < 5 * error).all()
    assert (error > 0).all()


def plane() -> Tensor:
    """Two directions among six."""
    return torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(3))).Q.T


def wave(t: Tensor) -> Tensor:
    return torch.stack([t, t.sin()], -1) @ plane()


def tangent(t: Tensor) -> Tensor:
    return (torch.stack([torch.ones_like(t), t.cos()], -1) @ plane()).unsqueeze(-1)


def sensitive(weight: float) -> tuple[float, float]:
    """How much a trained code changes along the curve, and at most across it."""
    t = 4 * torch.rand(512) - 2
    encoder = {"type": "nets/mlp_encoder", "latents": 3, "hidden": [32], "activation": "tanh"}
    model = autoencoder((6,), encoder=encoder)
    adam(model, Contractive(weight), endless(wave(t), 128), steps=600, lr=2e-2)
    along, across = sensitivity(model.encoder, wave(t), tangent(t))
    return along[:, 0].mean().item(), across[:, 0].mean().item()


def test_contraction_spares_the_tangent() -> None:
    along, across = sensitive(weight=0.03)
    assert along > 2 * across
    plain_along, plain_across = sensitive(weight=0.0)
    assert plain_along < plain_across


def shrunk(model: Any, scale: float) -> Any:
    """The encoder times a scale; the decoder divided by it, unless that is the same weight."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("encoder."):
                parameter *= scale
            elif name.endswith("weight"):
                parameter /= scale
    return model


def test_an_untied_decoder_undoes_contraction() -> None:
    """So that the penalty can vanish for free, which is why the paper ties the weights."""
    model, x = autoencoder().double(), torch.rand(6, *DATA).double()
    r, before = model.decoder(model.encode(x)).mean, omega(Contractive(), model, x)
    shrunk(model, 1e-3)
    assert torch.allclose(model.decoder(model.encode(x)).mean, r, rtol=1e-9)
    assert torch.allclose(omega(Contractive(), model, x), 1e-6 * before, rtol=1e-9)


def test_a_tied_decoder_cannot_undo_contraction() -> None:
    model, x = tied(activation="linear", likelihood="gaussian").double(), torch.rand(6, *DATA).double()
    loss = Reconstruction()
    lbfgs(model, loss, x, steps=200)
    best = loss(model, {"image": x}).total
    shrunk(model, 0.5)
    assert loss(model, {"image": x}).total > best + 0.1


# sparse


def sparse(loss: Loss, digits: Tensor) -> Any:
    model = tied(latents=32, activation="sigmoid", likelihood="gaussian")
    adam(model, loss, endless(digits, 256), steps=400, lr=4e-2)
    return model


def test_l1_leaves_dead_units_where_frequencies_keep_them_alive(digits: Tensor) -> None:
    l1 = sparse(SparseL1(weight=0.3), digits)
    frequent = sparse(SparseKL(weight=1.0, p=0.1), digits)
    assert dead_units(l1.encoder, digits) > 0.1
    assert dead_units(frequent.encoder, digits) == 0
    assert ((frequent.encode(digits).mean(0) - 0.1).abs() < 0.03).all()


def test_l1_is_the_sum_of_absolute_codes() -> None:
    model, x = autoencoder(), torch.rand(5, *DATA)
    total, terms = SparseL1(0.5)(model, {"image": x})
    size = model.encode(x).abs().sum(1).mean()
    assert torch.allclose(terms["penalty"], size)
    assert torch.allclose(total, terms["distortion"] + 0.5 * size)


def test_frequencies_cost_their_divergence() -> None:
    model, x = tied(), torch.rand(5, *DATA)
    _, terms = SparseKL(p=0.2)(model, {"image": x})
    q = model.encode(x).mean(0)
    assert torch.allclose(terms["penalty"], kl(Bernoulli(torch.tensor(0.2)), Bernoulli(q)).sum())


@pytest.mark.parametrize("h", [-1e4, 1e4], ids=["off", "on"])
def test_a_unit_without_any_variation_costs_finitely_much(h: float) -> None:
    model, x = tied(), torch.rand(5, *DATA)
    nn.init.constant_(model.encoder.affine.bias, h)
    total, _ = SparseKL()(model, {"image": x})
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_codes_that_may_be_any_number_have_no_frequency() -> None:
    for posterior in ("nets/dirac", "nets/diagonal_gaussian"):
        model = autoencoder(encoder={"posterior": posterior})
        with pytest.raises(ConfigError, match="posterior autoencoder/sigmoid"):
            SparseKL()(model, {"image": torch.rand(5, *DATA)})


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5])
def test_a_frequency_lies_between_never_and_always(p: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SparseKL(p=p)
