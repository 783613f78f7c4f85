"""The VampPrior VAE, the conditional and the hierarchical one, against densities that are known exactly."""

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from zoo_vae.even_mixture import EvenMixture
from zoo_vae.gaussian_layer import features, product

from tests.ppca import DATA, PPCA
from zoo_core import (
    ConfigError,
    DataError,
    build,
    default_host,
    describe,
    evaluate,
    from_pretrained,
    kl,
    save_pretrained,
)
from zoo_core.data import InMemory, Preprocessing, load
from zoo_core.latents import moments

IMAGE = (1, 8, 8)
BODY = {"hidden": [5], "activation": "silu"}
PARTS = {"encoder": {"type": "nets/mlp_encoder", "latents": 3, **BODY}, "decoder": {"type": "nets/mlp_decoder", **BODY}}
PRIOR = "nets/standard_normal"
CONFIGS: dict[str, dict[str, Any]] = {
    "vamp": {"type": "vae/vamp_vae", **PARTS, "pseudo_inputs": 4},
    "conditional": {"type": "vae/conditional_vae", **PARTS, "prior": PRIOR, "classes": 3},
    "hierarchical": {
        "type": "vae/hierarchical_vae",
        "bottom_encoder": PARTS["encoder"],
        "bottom_decoder": PARTS["decoder"],
        "top_prior": PRIOR,
        "upper": [2, 4],
        "hidden": [6],
    },
}
BOUNDS = [r.full_name for r in default_host().registrations("loss") if r.spec.bound]

each = pytest.mark.parametrize("kind", CONFIGS)
each_bound = pytest.mark.parametrize("bound", BOUNDS)


def model_of(kind: str) -> Any:
    return build(CONFIGS[kind], "model", data_shape=IMAGE)


def pictures(n: int = 6) -> dict[str, Tensor]:
    return {"image": torch.rand(n, *IMAGE).round(), "label": torch.arange(n) % 3}


def seeded_value(function: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(3)
    return function()


def mean_and_error(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first dimension."""
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def near(draws: Tensor, expected: Tensor | float) -> bool:
    mean, error = mean_and_error(draws)
    return bool(((mean - expected).abs() < 5 * error + 1e-9).all())


def affine(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Sets a network that is one affine map."""
    W, b = layer.parameters()
    with torch.no_grad():
        W.copy_(weight)
        b.copy_(bias)


def gaussian(mu: Tensor, sigma: Tensor) -> Distribution:
    return Independent(Normal(mu, sigma), 1)


# what all of them promise


@each
@each_bound
def test_the_gradient_of_every_bound_reaches_every_parameter(kind: str, bound: str) -> None:
    model, batch = model_of(kind), pictures()
    total = build(bound)(model.given(batch), batch).total
    total.backward()
    assert total.isfinite()
    still = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert still == []


@each
def test_the_bound_rises_with_the_samples(kind: str) -> None:
    model, batch = model_of(kind), pictures(20)
    view, x = model.given({"label": batch["label"].repeat(100)}), batch["image"].repeat(100, 1, 1, 1)
    with torch.no_grad():
        bounds = [view.log_prob(x, samples=K).view(100, 20).mean(1) for K in (1, 8, 64)]
    for lower, higher in itertools.pairwise(map(mean_and_error, bounds)):
        assert higher[0] - lower[0] > 4 * torch.hypot(higher[1], lower[1])


@each
def test_a_saved_model_comes_back(kind: str, tmp_path: Path) -> None:
    model, batch = model_of(kind), pictures()
    twin = from_pretrained(save_pretrained(model, tmp_path / "model"))
    assert type(twin) is type(model)
    for function in (lambda m: m.given(batch).log_prob(batch["image"]), lambda m: m.sample(5)):
        assert torch.equal(*(seeded_value(partial(function, m)) for m in (model, twin)))


@each
def test_no_parameter_has_two_names(kind: str) -> None:
    model = model_of(kind)
    model.given(pictures())
    state = model.state_dict(keep_vars=True)
    assert len({id(t) for t in state.values()}) == len(state)
    assert set(dict(model.named_parameters())) <= set(state)


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_shares_nothing(kind: str, copied: Any) -> None:
    model, batch = model_of(kind), pictures()

    def value(m: Any) -> Tensor:
        return seeded_value(lambda: m.given(batch).log_prob(batch["image"]))

    before, twin = value(model), copied(model)
    assert torch.equal(value(twin), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(value(twin), before)
    assert not torch.equal(value(model), before)


@each
def test_each_picture_is_seen_alone(kind: str) -> None:
    model, batch = model_of(kind).double(), pictures()
    x, label = batch["image"].double(), batch["label"]
    view = model.given({"label": label})
    z = torch.randn(len(x), *view.latent_shape, dtype=torch.float64)
    singles = [model.given({"label": label[i : i + 1]}) for i in range(len(x))]
    for d in (
        lambda m, i: m.encoder(x[i]).log_prob(z[i]),
        lambda m, i: m.decoder(z[i]).log_prob(x[i]),
        lambda m, i: m.reconstruct(x[i]),
    ):
        singly = torch.cat([d(m, slice(i, i + 1)) for i, m in enumerate(singles)])
        torch.testing.assert_close(d(view, slice(None)), singly)


@each
def test_latents_may_have_any_leading_dimensions(kind: str) -> None:
    model, batch = model_of(kind), pictures()
    view, x = model.given(batch), batch["image"]
    q, p = view.encoder(x), view.prior()
    assert (q.batch_shape, q.event_shape) == ((6,), view.latent_shape)
    assert (p.batch_shape, p.event_shape) == ((), view.latent_shape)
    z = q.rsample((2, 5))
    assert z.shape == (2, 5, 6, *view.latent_shape)
    for log_d in (q.log_prob(z), p.log_prob(z), view.decoder(z).log_prob(x)):
        assert log_d.shape == (2, 5, 6)
    assert view.decode(z).shape == (2, 5, 6, *IMAGE)
    assert p.sample((2, 5)).shape == (2, 5, *view.latent_shape)
    torch.testing.assert_close(p.log_prob(z[1, 3, 2]), p.log_prob(z)[1, 3, 2])
    torch.testing.assert_close(q.log_prob(z[1, 3]), q.log_prob(z)[1, 3])


@each
def test_equal_seeds_give_equal_values(kind: str) -> None:
    model, batch = model_of(kind), pictures()
    for function in (lambda: model.sample(4, noise=True), lambda: build("vae/elbo")(model.given(batch), batch).total):
        assert torch.equal(seeded_value(function), seeded_value(function))
    assert model.given(batch).encode(batch["image"]).shape == (6, *model.latent_shape)
    assert torch.equal(*(model.given(batch).reconstruct(batch["image"]) for _ in range(2)))


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_computes_in_the_dtype_it_is_moved_to(kind: str, dtype: torch.dtype) -> None:
    model, batch = model_of(kind).to(dtype), pictures()
    wide = torch.promote_types(dtype, torch.float32)
    x, view = batch["image"].to(wide), model.given(batch)
    q, p = view.encoder(x), view.prior()
    assert q.sample().dtype == p.sample().dtype == q.log_prob(q.sample()).dtype == p.log_prob(q.sample()).dtype == wide
    assert build("vae/elbo")(view, {"image": x}).total.dtype == wide


@each
def test_a_model_computes_on_the_meta_device(kind: str) -> None:
    with torch.device("meta"):
        empty = model_of(kind)
    batch = {name: column.to("meta") for name, column in pictures().items()}
    for model in (empty, model_of(kind).to("meta")):
        assert build("vae/elbo")(model.given(batch), batch).total.is_meta
        assert model.sample(2).is_meta


@each
def test_a_config_repeats_no_shape(kind: str) -> None:
    described = json.loads(json.dumps(describe(model_of(kind), data_shape=IMAGE)))
    assert "shape" not in json.dumps(described)
    assert describe(build(described, data_shape=IMAGE), data_shape=IMAGE) == described
    alone = describe(model_of(kind))
    assert describe(build(json.loads(json.dumps(alone)))) == alone


@each
def test_an_adam_step_after_another_lowers_the_loss(kind: str) -> None:
    model, batch = model_of(kind), pictures(30)
    loss, optimizer = build("vae/elbo"), torch.optim.Adam(model.parameters(), lr=0.02)
    totals = []
    for _ in range(75):
        total = loss(model.given(batch), batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-20:]) / 20 < sum(totals[:5]) / 5 - 1


# VampPrior


def linear_vamp(components: int, sigma: float = 0.5) -> tuple[Any, PPCA]:
    """A VampPrior VAE of linear parts in float64, and the PPCA whose p(x|z) it has."""
    ppca = PPCA.random(latents=2, sigma=sigma)
    whole = ppca.model(shift=0.4, stretch=1.3)
    config = {"type": "vae/vamp_vae", **{n: describe(getattr(whole, n)) for n in ("encoder", "decoder")}}
    model = build({**config, "pseudo_inputs": components}, data_shape=DATA).double()
    for part in ("encoder", "decoder"):
        getattr(model, part).load_state_dict(getattr(whole, part).state_dict())
    return model, ppca


def vamp_log_prob(model: Any, ppca: PPCA, x: Tensor) -> Tensor:
    """log 1/K Σ_k N(x; W mu_k + b, W diag(s_k^2) W' + sigma^2 I), which is log p(x) for linear parts."""
    q = model.encoder(model.prior.pseudo_inputs())
    covariance = (ppca.W * q.variance.unsqueeze(1)) @ ppca.W.T + ppca.sigma**2 * torch.eye(6, dtype=torch.float64)
    components = MultivariateNormal(q.mean @ ppca.W.T + ppca.b, covariance)
    return torch.logsumexp(components.log_prob(x.flatten(1).unsqueeze(1)), 1) - math.log(len(q.mean))


@pytest.mark.parametrize("components", [1, 3])
def test_with_a_vamp_prior_bounds_are_below_the_exact_density(components: int) -> None:
    model, ppca = linear_vamp(components)
    with torch.no_grad():
        x = model.sample(5, noise=True)
        exact = vamp_log_prob(model, ppca, x)
        elbos = model.log_prob(x.repeat(400, 1, 1, 1)).view(400, 5)
        weights = (model.log_weights(x, model.encoder(x), 20_000) - exact).exp()
    mean, error = mean_and_error(elbos)
    assert (mean < exact - 5 * error).all()
    assert near(weights, 1.0)  # E_q[p(x, z) / q(z|x)] = p(x)


def test_the_vamp_prior_is_the_mean_of_posteriors_of_its_pseudo_inputs() -> None:
    model = model_of("vamp")
    q = model.encoder(model.prior.pseudo_inputs())
    z = torch.randn(7, 3)
    direct = torch.stack([model.encoder(u.unsqueeze(0)).log_prob(z) for u in model.prior.pseudo_inputs()])
    assert direct.shape == (4, 7)
    torch.testing.assert_close(model.prior().log_prob(z), direct.exp().mean(0).log())
    draws = model.prior().sample((20_000,))
    mean = q.mean.mean(0)
    assert near(draws, mean)
    assert near((draws - mean).square(), (q.variance + (q.mean - mean).square()).mean(0))


def test_pseudo_inputs_stay_between_black_and_white() -> None:
    prior = model_of("vamp").prior
    assert 0 < prior.pseudo_inputs().min() <= prior.pseudo_inputs().max() < 1
    assert prior.pseudo_inputs().std() > 0.01  # equal ones could not part
    with torch.no_grad():
        prior.u.copy_(10 * torch.randn_like(prior.u))
    u = prior.pseudo_inputs()
    assert (u.min(), u.max()) == (0, 1)
    inside = (prior.u > 0) & (prior.u < 1)
    assert torch.equal(u[inside], prior.u[inside])


def test_a_replaced_encoder_makes_the_prior_too() -> None:
    model = model_of("vamp")
    before = model.prior().log_prob(torch.zeros(3))
    model.encoder = build(CONFIGS["vamp"]["encoder"], data_shape=IMAGE)
    after = model.prior().log_prob(torch.zeros(3))
    assert after != before
    expected = EvenMixture(model.encoder(model.prior.pseudo_inputs())).log_prob(torch.zeros(3))
    assert after == expected


def test_pseudo_inputs_that_are_the_data_make_the_rate_their_information() -> None:
    """Then p(z) is q(z), and E KL(q(z|x) || q(z)) = I(x; z), log N at most: reached where z tells all x apart."""
    model, _ = linear_vamp(4)
    with torch.no_grad():
        x = model.prior.u.copy_(torch.rand(4, *DATA))
        rates = []
        for stretch in (1.0, 1e-6):
            model.encoder.body[1].bias[2:] += math.log(stretch)
            q = model.encoder(x)
            rates.append(torch.stack([kl(q, model.prior(), q.rsample()).mean() for _ in range(400)]))
    mean, error = mean_and_error(rates[0])
    assert 0.01 < mean < math.log(4) - 5 * error
    assert near(rates[1], math.log(4))


@pytest.mark.parametrize("width", [1.0, 1e-3])
@pytest.mark.parametrize("event", [(4,), (2, 1, 3)], ids=str)
def test_an_even_mixture_is_torchs_and_has_its_gradient(width: float, event: tuple[int, ...]) -> None:
    def mixture(kind: type[Distribution], parameters: list[Tensor]) -> Distribution:
        q = Independent(Normal(parameters[0], parameters[1]), len(event))
        return kind(q) if kind is EvenMixture else MixtureSameFamily(EvenMixture(q).mixture_distribution, q)

    parameters = [torch.randn(5, *event), width * (0.5 + torch.rand(5, *event))]
    z = (parameters[0][0] + width * torch.randn(2, 3, *event)).requires_grad_()
    parameters = [p.requires_grad_() for p in parameters]
    own, torchs = (mixture(kind, parameters).log_prob(z) for kind in (EvenMixture, MixtureSameFamily))
    assert own.shape == (2, 3)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, torchs, rtol=1e-5, atol=1e-4)
    gradients = [torch.autograd.grad(d.sum(), [z, *parameters]) for d in (own, torchs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 / width)


# conditional


class Classes:
    """p(x|y) = N(W z + b + U_y, sigma^2 I), z ~ N(0, I): PPCA with a mean for each class, as a conditional VAE."""

    def __init__(self, classes: int = 3) -> None:
        ppca, U = PPCA.random(), torch.randn(classes, 6, dtype=torch.float64)
        self.exact = [PPCA(ppca.W, ppca.b + u, ppca.sigma) for u in U]
        config = {
            "type": "vae/conditional_vae",
            "encoder": {"type": "nets/linear_encoder", "latents": 2},
            "decoder": {"type": "nets/linear_decoder", "likelihood": {"type": "nets/gaussian", "sigma": ppca.sigma}},
            "prior": PRIOR,
            "classes": classes,
        }
        self.model = build(config, data_shape=DATA).double()
        A = (ppca.W * (ppca.s / ppca.sigma) ** 2).T  # the posterior mean of PPCA is A (x - b)
        planes = torch.zeros(classes, 6, 2, dtype=torch.float64)
        planes[:, 0] = -U @ A.T  # a plane is the same everywhere: one of its places tells it
        to_mean = torch.cat([A, planes.flatten(0, 1).T], 1)
        affine(
            self.model.encoder, torch.cat([to_mean, torch.zeros_like(to_mean)]), torch.cat([-A @ ppca.b, ppca.s.log()])
        )
        affine(self.model.decoder, torch.cat([ppca.W, U.T], 1), ppca.b)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|y), (classes, B)."""
        return torch.stack([ppca.log_prob(x) for ppca in self.exact])


def test_at_the_exact_posterior_the_conditional_bound_is_log_p() -> None:
    case, x = Classes(), torch.randn(4, *DATA, dtype=torch.float64)
    exact = case.log_prob(x)
    for y in range(3):
        torch.testing.assert_close(case.model.log_prob(x, label=y), exact[y])
    label = torch.tensor([2, 0, 1, 1])
    chosen = exact[label, torch.arange(4)]
    torch.testing.assert_close(case.model.log_prob(x, label=label), chosen)
    torch.testing.assert_close(case.model.given({"label": label}).log_prob(x, samples=3), chosen)
    torch.testing.assert_close(case.model.log_prob(x, label=[2, 0, 1, 1], samples=5, chunk=2), chosen)


def test_without_a_label_the_density_is_the_mean_over_classes() -> None:
    case, x = Classes(), torch.randn(4, *DATA, dtype=torch.float64)
    torch.testing.assert_close(case.model.log_prob(x), case.log_prob(x).exp().mean(0).log())
    with torch.no_grad():
        case.model.encoder.body[1].bias.add_(0.2)  # a worse posterior: a bound
        draws = case.model.log_prob(x.repeat(300, 1, 1, 1)).view(300, 4)
    mean, error = mean_and_error(draws)
    assert (mean < case.log_prob(x).exp().mean(0).log() - 5 * error).all()


def test_the_exact_model_draws_each_class_around_its_mean() -> None:
    case = Classes()
    for y in (0, 2):
        draws = case.model.sample(4000, label=y, noise=True)
        assert near(draws.flatten(1), case.exact[y].b)


def told_apart() -> Any:
    """A conditional VAE whose pictures tell the label and nothing else: x = (y + 1) / 4."""
    model = model_of("conditional")
    decoder = build({"type": "nets/linear_decoder"}, data_shape=IMAGE, latent_shape=(6,))
    affine(decoder, torch.cat([torch.zeros(64, 3), torch.tensor([[1, 2, 3]]).expand(64, 3) / 4], 1), torch.zeros(64))
    model.decoder = decoder
    return model


def shown(x: Tensor) -> list[int]:
    """The labels that pictures of ``told_apart`` show."""
    assert torch.equal(x, x[:, :, :1, :1].expand_as(x))
    return (4 * x[:, 0, 0, 0] - 1).tolist()  # type: ignore[no-any-return]


def test_labels_are_drawn_in_turn_or_as_asked() -> None:
    model = told_apart()
    assert shown(model.sample(7)) == [0, 1, 2, 0, 1, 2, 0]
    assert shown(model.sample(3, label=2)) == [2, 2, 2]
    assert shown(model.sample(3, label=[2, 0, 2])) == [2, 0, 2]
    assert shown(model.given({"label": torch.tensor([2, 1])}).sample(5)) == [2, 1, 2, 1, 2]
    assert shown(model.decode(torch.randn(3, 3), label=torch.tensor([1, 0, 2]))) == [1, 0, 2]
    assert model.sample(2, label=1, noise=True).std() > 0.3


def test_the_model_under_a_batch_has_the_same_parameters() -> None:
    model = model_of("conditional")
    model.preprocessing, model.provenance = Preprocessing(binarize="threshold"), {"steps": 3}
    names, view = set(model.state_dict()), model.given(pictures())
    assert {id(p) for p in view.parameters()} == {id(p) for p in model.parameters()}
    assert set(model.state_dict()) == names
    assert (view.preprocessing, view.provenance) == (model.preprocessing, {"steps": 3})


def test_encoding_takes_the_label_into_account() -> None:
    model, x = model_of("conditional"), pictures()["image"]
    given_0, given_1 = (model.encode(x, label=y) for y in (0, 1))
    assert given_0.shape == (6, 3)
    assert not torch.allclose(given_0, given_1)
    mixed = model.encode(x, label=[0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(mixed, torch.where((torch.arange(6) % 2 == 0).unsqueeze(1), given_0, given_1))
    torch.testing.assert_close(model.reconstruct(x, label=1), model.decode(given_1, label=1))


def test_the_planes_of_a_label_are_the_same_at_every_place() -> None:
    model = model_of("conditional")
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = pictures(2)
    model.given(batch).encode(batch["image"])
    x = seen[0]
    assert x.shape == (2, 4, 8, 8)
    assert torch.equal(x[:, :1], batch["image"])
    assert torch.equal(x[:, 1:], torch.eye(3)[batch["label"]].view(2, 3, 1, 1).expand(2, 3, 8, 8))


def test_latents_that_are_grids_are_given_the_label_too() -> None:
    conv = {"latents": 2, "channels": [3, 3], "layout": "grid"}
    parts = {
        "encoder": {"type": "nets/conv_encoder", **conv},
        "decoder": {"type": "nets/conv_decoder", "channels": [3, 3]},
    }
    model = build({**CONFIGS["conditional"], **parts}, data_shape=IMAGE)
    assert (model.latent_shape, model.decoder.latent_shape) == ((2, 2, 2), (5, 2, 2))
    assert model.log_prob(pictures()["image"]).isfinite().all()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda m: m.given({"image": torch.rand(2, *IMAGE)}), "needs the label of each example"),
        (lambda m: m.given({"label": torch.tensor([0, 3])}), "label: must be from 0 to 2, .* got 3"),
        (lambda m: m.sample(2, label=-1), "label: must be from 0 to 2, .* got -1"),
        (lambda m: m.sample(3, label=[0, 1]), "as many as the 3 draws, got 2"),
        (lambda m: m.encode(torch.rand(2, *IMAGE), label=torch.tensor([0.5, 1])), "label: must be integers"),
        (lambda m: m.encode(torch.rand(2, *IMAGE)), "add label="),
        (lambda m: m.decode(torch.rand(2, 3)), "add label="),
        (lambda m: m.reconstruct(torch.rand(2, *IMAGE)), "add label="),
    ],
)
def test_what_is_wrong_with_a_label_is_told(act: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        act(model_of("conditional"))


def test_a_part_without_room_for_the_label_is_refused() -> None:
    config = CONFIGS["conditional"]
    encoder = {**config["encoder"], "data_shape": IMAGE}
    with pytest.raises(ConfigError, match=r"^encoder\.data_shape: must be \(4, 8, 8\), .* got \(1, 8, 8\)$"):
        build({**config, "encoder": encoder}, data_shape=IMAGE)
    decoder = {**config["decoder"], "latent_shape": [3]}
    with pytest.raises(ConfigError, match=r"^decoder\.latent_shape: must be \(6,\), .* got \(3,\)$"):
        build({**config, "decoder": decoder}, data_shape=IMAGE)
    prior = {"type": PRIOR, "latent_shape": [6]}
    with pytest.raises(ConfigError, match=r"latent_shape: encoder \(3,\), decoder \(3,\), prior \(6,\)"):
        build({**config, "prior": prior}, data_shape=IMAGE)


def test_metrics_measure_a_conditional_model_given_the_labels() -> None:
    model = build({**CONFIGS["conditional"], "classes": 10}, data_shape=IMAGE)
    data = load("digits", split="test")
    measured = evaluate(model, [build("metrics/elbo")], data, examples=20)
    batch = model.preprocessing(data.batch(torch.arange(20)))
    with torch.no_grad():
        many_x, labels = batch["image"].repeat(100, 1, 1, 1), batch["label"].repeat(100)
        draws = model.log_prob(many_x, label=labels).view(100, 20).mean(1)
    assert abs(measured["elbo"].value - draws.mean()) < 8 * draws.std()
    nameless = InMemory("nameless", "test", {"image": torch.zeros(4, *IMAGE, dtype=torch.uint8)})
    with pytest.raises(DataError, match="label"):
        evaluate(model, [build("metrics/elbo")], nameless)


# hierarchical


def reaching(log_sigma: Tensor) -> Tensor:
    """What a layer's network must give out for this log sigma, which it keeps within +-7."""
    return 7 * torch.atanh(log_sigma / 7)


class TwoLayers:
    """z_2 ~ N(0, I), z_1 ~ N(A z_2 + a, S), x ~ N(W z_1 + b, sigma^2 I), and the ladder that is p(z|x) itself.

    W has orthogonal columns, so x tells of each number of z_1 alone: N(m (x - b), diag V_x), and A has columns that are
    orthogonal under V = S + V_x, so z_1 tells of each number of z_2 alone: p(z_2|x) is diagonal.
    """

    def __init__(self) -> None:
        f64 = {"dtype": torch.float64}
        self.W, self.b, self.a = PPCA.random(latents=3).W, torch.randn(6, **f64), torch.randn(3, **f64)
        self.sigma, self.S = 0.5, 0.3 + torch.rand(3, **f64)
        squares = self.W.square().sum(0)
        m, V_x = (self.W / squares).T, self.sigma**2 / squares
        V = self.S + V_x
        self.A = V.sqrt().unsqueeze(1) * torch.linalg.qr(torch.randn(3, 2, **f64)).Q * torch.tensor([1.5, 0.7], **f64)
        precision = 1 + (self.A.square() / V.unsqueeze(1)).sum(0)
        to_z_2 = (self.A / V.unsqueeze(1)).T / precision.unsqueeze(1)  # from mu^_1; what goes up is mu^_1 / (1 + V_x)
        likelihood = {"type": "nets/gaussian", "sigma": self.sigma}
        config = {
            "type": "vae/hierarchical_vae",
            "bottom_encoder": {"type": "nets/linear_encoder", "latents": 3},
            "bottom_decoder": {"type": "nets/linear_decoder", "likelihood": likelihood},
            "top_prior": PRIOR,
            "upper": [2],
            "hidden": [],
        }
        self.model = build(config, data_shape=DATA).double()
        no = torch.zeros
        affine(self.model.bottom_encoder, torch.cat([m, no(3, 6)]), torch.cat([-m @ self.b, 0.5 * V_x.log()]))
        affine(self.model.bottom_decoder, self.W, self.b)
        (down,), (up,) = self.model.prior.down, self.model.encoder.up
        affine(down, torch.cat([self.A, no(3, 2)]), torch.cat([self.a, reaching(0.5 * self.S.log())]))
        affine(
            up,
            torch.cat([torch.cat([to_z_2 * (1 + V_x), no(2, 3)], 1), no(2, 6)]),
            torch.cat([-to_z_2 @ self.a, reaching(-0.5 * precision.log())]),
        )

    def prior(self) -> MultivariateNormal:
        """p(z_1, z_2)."""
        upper = torch.cat([self.A @ self.A.T + self.S.diag(), self.A], 1)
        covariance = torch.cat([upper, torch.cat([self.A.T, torch.eye(2, dtype=torch.float64)], 1)])
        return MultivariateNormal(torch.cat([self.a, torch.zeros(2)]), covariance)

    def log_prob(self, x: Tensor) -> Tensor:
        covariance = self.W @ (self.A @ self.A.T + self.S.diag()) @ self.W.T + self.sigma**2 * torch.eye(6)
        return MultivariateNormal(self.W @ self.a + self.b, covariance).log_prob(x.flatten(1))

    def worsened(self) -> Any:
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            model.encoder.up[0].body[0].bias.add_(0.3)
            model.bottom_encoder.body[1].bias.add_(0.2)
        return model


@pytest.fixture
def two() -> TwoLayers:
    return TwoLayers()


@pytest.fixture
def data(two: TwoLayers) -> Tensor:
    return two.model.sample(5, noise=True)


def test_at_the_exact_posterior_every_weight_of_the_ladder_is_p_of_x(two: TwoLayers, data: Tensor) -> None:
    """log p(x, z) - log q(z|x) = log p(x) for every z: weighing by precision is Bayes' rule."""
    log_w = two.model.log_weights(data, two.model.encoder(data), 7)
    torch.testing.assert_close(log_w, two.log_prob(data).expand(7, 5))


@each_bound
def test_with_a_worse_ladder_every_bound_is_below(bound: str, two: TwoLayers, data: Tensor) -> None:
    loss, worse, exact = build(bound), two.worsened(), two.log_prob(data).mean()
    with torch.no_grad():
        values = torch.stack([-loss(worse, {"image": data.repeat(10, 1, 1, 1)}).total for _ in range(30)])
        values_at_best = torch.stack([-loss(two.model, {"image": data}).total for _ in range(10)])
    mean, error = mean_and_error(values)
    assert mean + 5 * error < exact
    torch.testing.assert_close(values_at_best, exact.expand(10))


def test_the_joint_prior_is_the_gaussian_worked_out_by_hand(two: TwoLayers) -> None:
    p, exact = two.model.prior(), two.prior()
    z = exact.sample((6, 3))
    torch.testing.assert_close(p.log_prob(z), exact.log_prob(z))
    draws = p.sample((20_000,))
    assert near(draws, exact.mean)
    centred = draws - exact.mean
    assert near(centred.unsqueeze(2) * centred.unsqueeze(1), exact.covariance_matrix)


def test_a_joint_density_is_the_sum_of_its_layers() -> None:
    """By hand, from the networks: three layers of 3, 2 and 4 numbers."""
    model, x = model_of("hierarchical"), pictures()["image"]
    z = torch.randn(6, 9)
    z_1, z_2, z_3 = z.split([3, 2, 4], 1)
    p_1, p_2 = model.prior.down[0](z_2), model.prior.down[1](z_3)
    p = gaussian(torch.zeros(4), torch.ones(4)).log_prob(z_3) + p_2.log_prob(z_2) + p_1.log_prob(z_1)
    torch.testing.assert_close(model.prior().log_prob(z), p)
    told_1 = model.bottom_encoder(x)
    told_2 = model.encoder.up[0](message(told_1))
    told_3 = model.encoder.up[1](message(told_2))
    q = told_3.log_prob(z_3) + weighed(told_2, p_2).log_prob(z_2) + weighed(told_1, p_1).log_prob(z_1)
    torch.testing.assert_close(model.encoder(x).log_prob(z), q)


def message(told: Distribution) -> Tensor:
    """What goes up: the posterior of z ~ N(0, I), its mean and log standard deviation."""
    return torch.cat([told.mean / (1 + told.variance), 0.5 * (told.variance / (1 + told.variance)).log()], 1)


def weighed(a: Distribution, b: Distribution) -> Distribution:
    """Equations 17 to 19 of the paper."""
    precision = 1 / a.variance + 1 / b.variance
    return gaussian((a.mean / a.variance + b.mean / b.variance) / precision, (1 / precision).sqrt())


def test_a_product_of_gaussians_is_proportional_to_it() -> None:
    a, b = (gaussian(torch.randn(4, 3), 0.1 + torch.rand(4, 3)) for _ in range(2))
    z = torch.randn(50, 4, 3)
    constant = a.log_prob(z) + b.log_prob(z) - product(a, b).log_prob(z)
    torch.testing.assert_close(constant, constant[:1].expand(50, 4), rtol=1e-4, atol=1e-3)


def test_a_product_with_something_flat_is_the_other() -> None:
    a, flat = gaussian(torch.randn(3), torch.rand(3)), gaussian(torch.randn(3), torch.full((3,), math.exp(20)))
    for q in (product(a, flat), product(flat, a)):
        torch.testing.assert_close(q.mean, a.mean)
        torch.testing.assert_close(q.stddev, a.stddev)


def test_layers_that_tell_nothing_leave_the_others_finite() -> None:
    """A sigma^ that runs away, as that of an unused latent does, must not drive up the layers above."""
    model, batch = model_of("hierarchical"), pictures()
    for mu, log_sigma in ((0.0, 20.0), (1e6, 20.0), (3.0, -20.0)):
        with torch.no_grad():
            model.bottom_encoder.body[-1].bias.copy_(torch.tensor([mu] * 3 + [log_sigma] * 3))
            for up in model.encoder.up:
                up.body[-1].bias.fill_(1e6)
        model.zero_grad()
        total = build("vae/elbo")(model, batch).total
        total.backward()
        assert total.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        told = features(model.bottom_encoder(batch["image"]))
        assert log_sigma < 0 or told.abs().max() < 1e-2


def test_rates_of_the_layers_add_up_to_the_kl(two: TwoLayers, data: Tensor) -> None:
    model = two.worsened()
    q, p = model.encoder(data), model.prior()
    with torch.no_grad():
        rates = model.rates(data.repeat(1000, 1, 1, 1)).view(1000, 5, 2)
        z = q.rsample((1000,))
        sampled = q.log_prob(z) - p.log_prob(z)
        by_kl = kl(q, p, z)
    assert model.rates(data).shape == (5, 2)
    torch.testing.assert_close(by_kl, sampled)
    difference = rates.sum(2).mean(0) - sampled.mean(0)
    assert (difference.abs() < 5 * (rates.sum(2).var(0) + sampled.var(0)).sqrt() / math.sqrt(1000)).all()
    top = kl_divergence(q.top.base_dist, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(rates[..., 1], top.expand(1000, 5))
    assert rates.sum(2).var(0).mean() < sampled.var(0).mean()


def test_a_ladder_of_one_layer_is_the_vae() -> None:
    parts = {"prior": PRIOR, **PARTS}
    vae = build({"type": "vae/vae", **parts}, data_shape=IMAGE)
    config = {**CONFIGS["hierarchical"], "upper": []}
    ladder = build(config, data_shape=IMAGE)
    ladder.bottom_encoder.load_state_dict(vae.encoder.state_dict())
    ladder.bottom_decoder.load_state_dict(vae.decoder.state_dict())
    assert ladder.latent_shape == vae.latent_shape
    x = pictures()["image"]
    for function in (
        lambda m: m.log_weights(x, m.encoder(x), 3),
        lambda m: m.sample(4, noise=True),
        lambda m: m.encode(x),
        lambda m: m.reconstruct(x),
    ):
        torch.testing.assert_close(*(seeded_value(partial(function, m)) for m in (vae, ladder)))


def test_only_the_bottom_layer_is_decoded() -> None:
    model, z = model_of("hierarchical"), torch.randn(2, 9)
    above = torch.cat([z[:, :3], torch.randn(2, 6)], 1)
    assert torch.equal(model.decode(z), model.decode(above))
    below = torch.cat([torch.randn(2, 3), z[:, 3:]], 1)
    assert not torch.allclose(model.decode(z), model.decode(below))


def test_what_is_encoded_is_the_mean_of_each_layer_given_the_one_above(two: TwoLayers, data: Tensor) -> None:
    z, q = two.model.encode(data), two.model.encoder(data)
    below, top = q.layers(z)
    torch.testing.assert_close(z, torch.cat([below.mean, top.mean], 1))
    # In the linear case that is the mean of all.
    assert near(q.rsample((20_000,)), z)


def test_a_bottom_layer_may_be_a_grid() -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 2, "channels": [3, 3], "layout": "grid"}
    decoder = {"type": "nets/conv_decoder", "channels": [3, 3]}
    config = {**CONFIGS["hierarchical"], "bottom_encoder": encoder, "bottom_decoder": decoder}
    model = build(config, data_shape=IMAGE)
    assert model.latent_shape == (8 + 2 + 4,)
    assert model.log_prob(pictures()["image"], samples=3).isfinite().all()
    assert model.sample(2).shape == (2, *IMAGE)


def test_the_top_layer_may_have_any_prior() -> None:
    model = build({**CONFIGS["hierarchical"], "top_prior": {"type": "nets/gaussian_mixture"}}, data_shape=IMAGE)
    assert model.top_prior.latent_shape == (4,)
    assert model.sample(3).shape == (3, *IMAGE)
    assert model.rates(pictures()["image"]).shape == (6, 3)


@pytest.mark.parametrize(
    "loss", [{"type": "vae/dip_i"}, {"type": "vae/elbo", "free_bits": 1.0}, {"type": "vae/dip_ii"}]
)
def test_objectives_that_need_a_formula_refuse_layers(loss: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(loss)(model_of("hierarchical"), pictures())


def test_moments_of_layers_are_those_of_draws(two: TwoLayers) -> None:
    mean, deviation = moments(two.model.prior())
    torch.testing.assert_close(mean, two.prior().mean, rtol=0, atol=0.25)
    torch.testing.assert_close(deviation, two.prior().stddev, rtol=0.1, atol=0)


def test_parts_that_make_no_ladder_are_refused() -> None:
    config = CONFIGS["hierarchical"]
    with pytest.raises(ConfigError, match=r"^top_prior: must be one of latents \(4,\), got \(3,\)$"):
        build({**config, "top_prior": {"type": PRIOR, "latent_shape": [3]}}, data_shape=IMAGE)
    dirac = {**config["bottom_encoder"], "posterior": "nets/dirac"}
    model = build({**config, "bottom_encoder": dirac}, data_shape=IMAGE)
    with pytest.raises(ConfigError, match=r"takes an encoder of a diagonal Gaussian"):
        model.encoder(torch.rand(2, *IMAGE))
