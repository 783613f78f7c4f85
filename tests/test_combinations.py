"""Every registered part with every other: parts combine by name, whoever wrote them."""

import copy
import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from tests.registered import by_name, options, plainest, registrations, shapes, small
from zoo_core import (
    ConfigError,
    Decoder,
    Dirac,
    Encoder,
    build,
    default_host,
    from_pretrained,
    save_pretrained,
)
from zoo_core.arguments import parameters
from zoo_core.host import Registration
from zoo_core.randomness import drawing_from
from zoo_core.specs import latent_mismatch

SAMPLED = 20_000
SIZES = [(1, 8, 8), (3, 9, 7), (1, 28, 28)]


class Combination(NamedTuple):
    """A model of parts by their names, the loss it is trained with, and the size of a picture."""

    size: tuple[int, int, int]
    model: Registration
    encoder: tuple[Registration, str | None]  # and its layout
    posterior: str | None
    decoder: Registration
    likelihood: str | None
    prior: Registration
    loss: Registration

    def __str__(self) -> str:
        return "-".join(map(told, self))

    def fits(self) -> bool:
        """Whether the specs call it compatible, in the layout that the encoder is told to emit."""
        encoder, layout = self.encoder
        parts = {"encoder": encoder.spec, "decoder": self.decoder.spec, "prior": self.prior.spec}
        taken = all(layout is None or f"{layout}[real]" in r.spec.accepts for r in (self.decoder, self.prior))
        return latent_mismatch(parts) is None and taken

    def config(self) -> dict[str, Any]:
        encoder, layout = self.encoder
        return {
            "type": self.model.full_name,
            "encoder": small(encoder, posterior=named(self.posterior), layout=layout),
            "decoder": small(self.decoder, likelihood=named(self.likelihood)),
            "prior": small(self.prior),
        }


def told(choice: Any) -> str:
    if isinstance(choice, Registration):
        return choice.spec.name
    if isinstance(choice, tuple):
        return "x".join(told(c) for c in choice if c)
    return str(choice).rpartition("/")[-1]


def names(kind: str, part: Registration) -> list[str | None]:
    """What a body can be composed with."""
    chosen = options(part, kind)
    return [None] if chosen == [None] else [r.full_name for r in registrations(kind)]


def named(part: str | None) -> dict[str, Any] | None:
    """The config of a part by its full name."""
    return next((plainest(r) for r in registrations() if r.full_name == part), None)


def combinations() -> Iterator[Combination]:
    """So many at random that any three choices which can meet are all but certain to meet in one of them."""
    models = [r for r in registrations("model") if {"encoder", "decoder", "prior"} == set(arguments(r))]
    encoders = [(r, layout) for r in registrations("encoder") for layout in options(r, "layout")]
    decoders, priors, losses = (registrations(kind) for kind in ("decoder", "prior", "loss"))
    posteriors = {r: names("posterior", r) for r, _ in encoders}
    likelihoods = {r: names("likelihood", r) for r in decoders}
    choose = random.Random(0).choice
    for _ in range(SAMPLED):
        encoder, decoder = choose(encoders), choose(decoders)
        bodies = encoder, choose(posteriors[encoder[0]]), decoder, choose(likelihoods[decoder])
        combination = Combination(choose(SIZES), choose(models), *bodies, choose(priors), choose(losses))
        if combination.fits():
            yield combination


def arguments(registration: Registration) -> Sequence[str]:
    return list(parameters(default_host().load(registration)))


@functools.cache
def covering(together: int) -> list[Combination]:
    """So many combinations that any choices of that many parts which can meet do meet in one."""
    seen: set[Any] = set()
    chosen = []
    for combination in combinations():
        met = set(itertools.combinations(enumerate(combination), together))
        if not met <= seen:
            seen |= met
            chosen.append(combination)
    return chosen


pairs = pytest.mark.parametrize("combination", covering(2), ids=str)
# Of what one part does wrong whatever the others are.
single_parts = pytest.mark.parametrize("combination", covering(1), ids=str)
CHUNK = 50


class Trained(NamedTuple):
    """What came of one backward step: the model, or why the loss refused it."""

    model: Any
    refusal: str


@functools.cache
def trained(combination: Combination) -> Trained:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = built(combination)
        try:
            objective(combination, model)(model, {"image": pictures(combination)}).total.backward()
        except ConfigError as error:
            return Trained(model, str(error))
        return Trained(model, "")


def built(combination: Combination) -> Any:
    return build(combination.config(), "model", data_shape=combination.size)


def objective(combination: Combination, model: Any) -> Any:
    """The loss, as the training loop builds it. Raises ConfigError if it refuses latents of such a shape."""
    given = {"data_shape": model.data_shape, "latent_shape": model.latent_shape}
    return build(plainest(combination.loss), "loss", **given)


def pictures(combination: Combination, n: int = 3) -> Tensor:
    """Grey levels, which every likelihood has a probability for."""
    return torch.randint(0, 256, (n, *combination.size)) / 255


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# models


@pytest.mark.parametrize("first", range(0, len(covering(3)), CHUNK))
def test_a_combination_trains_or_says_why_not(first: int) -> None:
    for combination in covering(3)[first : first + CHUNK]:
        model, refusal = trained(combination)
        if refusal:
            assert len(refusal.split()) > 5, combination
            continue
        bad = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert bad == [], combination


@pytest.mark.parametrize("kind", ["encoder", "posterior", "decoder", "likelihood", "prior", "loss"])
def test_every_part_trains_with_some_others(kind: str) -> None:
    """A refusal is for pairs: what refuses everything, or is refused by everything, is broken."""
    # They wait for a loss without a density of q, or for codes.
    alone = {"nets/dirac", "vqvae/vq", "vqvae/dvae", "vqvae/uniform_codes", "vqvae/independent_codes"}
    alone |= {"dalle/text_image", "dalle/contrastive"}  # for captions
    alone |= {"metrics/cross_entropy"}  # for labels
    trains = {part for c in covering(3) if not trained(c).refusal for part in parts(c)}
    offered = {r.full_name for r in registrations(kind)}
    assert offered - trains <= alone


def parts(combination: Combination) -> set[str | None]:
    flat = [p[0] if isinstance(p, tuple) and not isinstance(p, Registration) else p for p in combination[1:]]
    return {p.full_name if isinstance(p, Registration) else p for p in flat}


@pairs
def test_a_combination_samples_pictures(combination: Combination) -> None:
    model = built(combination)
    x = model.sample(3, generator=generator(0))
    assert x.shape == (3, *combination.size)
    assert 0 <= x.min() <= x.max() <= 1
    assert model.sample(2, noise=True).shape == (2, *combination.size)
    assert model.reconstruct(pictures(combination)).shape == (3, *combination.size)


@single_parts
def test_equal_generators_give_equal_samples(combination: Combination) -> None:
    model = built(combination)
    before = torch.random.get_rng_state()
    first = model.sample(2, generator=generator(1), noise=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(model.sample(2, generator=generator(1), noise=True), first)
    assert not torch.equal(model.sample(2, generator=generator(2), noise=True), first)
    advancing = generator(1)
    assert torch.equal(model.sample(2, generator=advancing, noise=True), first)
    assert not torch.equal(model.sample(2, generator=advancing, noise=True), first)


@pairs
def test_a_trained_combination_is_the_same_after_loading(combination: Combination, tmp_path: Path) -> None:
    model, _ = trained(combination)
    loaded = from_pretrained(save_pretrained(model, tmp_path / "model"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(loaded.sample(2, generator=generator(0)), model.sample(2, generator=generator(0)))


@single_parts
def test_a_combination_computes_on_the_meta_device(combination: Combination) -> None:
    """Shapes without numbers: a tensor made on a fixed device, or a buffer left behind, would show."""
    model = built(combination)
    with torch.device("meta"):
        empty = build(combination.config(), "model", data_shape=combination.size)
    for abstract in (copy.deepcopy(model).to("meta"), empty):
        x = abstract.sample(2, noise=True)
        assert x.is_meta
        assert x.shape == (2, *combination.size)
        if not trained(combination).refusal:
            loss = objective(combination, model).to("meta")
            total = loss(abstract, {"image": pictures(combination).to("meta")}).total
            assert total.is_meta
            assert total.shape == ()


@single_parts
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_computes_in_the_dtype_it_is_moved_to(combination: Combination, dtype: torch.dtype) -> None:
    """Distributions in float32 at least, whatever the weights are in."""
    model = built(combination)
    wide = torch.promote_types(dtype, torch.float32)
    model, x = model.to(dtype), pictures(combination).to(wide)
    q = model.encoder(x)
    p = model.decoder(q.mean)
    assert q.mean.dtype == p.mean.dtype == p.log_prob(x).dtype == model.prior().sample().dtype == wide
    assert model.sample(2).isfinite().all()
    if not trained(combination).refusal:
        total = objective(combination, model)(model, {"image": x}).total
        assert total.dtype == wide
        assert total.isfinite()


@single_parts
def test_a_model_under_autocast_computes_densities_in_float32(combination: Combination) -> None:
    model = built(combination)
    x = pictures(combination)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.decoder(model.encoder(x).mean).log_prob(x).dtype == torch.float32
        if not trained(combination).refusal:
            assert objective(combination, model)(model, {"image": x}).total.isfinite()


# encoders and decoders alone, in float64, where rounding is not confused with a fault


def encoders() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{r.spec.name}-{layout}-{posterior}", small(r, layout=layout, posterior=named(posterior)))
        for r in registrations("encoder")
        for layout in options(r, "layout")
        for posterior in names("posterior", r)
    ]


def decoders() -> list[tuple[str, dict[str, Any], tuple[int, ...]]]:
    grid, vector = (3, 2, 2), (3,)
    return [
        (f"{r.spec.name}-{likelihood}-{len(latent_shape)}", small(r, likelihood=named(likelihood)), latent_shape)
        for r in registrations("decoder")
        for latent_shape in ([grid] if "grid[real]" in r.spec.accepts else [])
        + ([vector] if "vector[real]" in r.spec.accepts else [])
        for likelihood in names("likelihood", r)
    ]


def values(d: Distribution, x: Tensor) -> Tensor:
    """The mean and the log-density at x, one row for each element of the batch."""
    return torch.cat([d.mean.flatten(len(d.batch_shape)), d.log_prob(x).unsqueeze(-1)], -1)


@pytest.mark.parametrize("config", [c for _, c in encoders()], ids=[name for name, _ in encoders()])
def test_an_encoder_sees_each_picture_alone(config: dict[str, Any]) -> None:
    encoder: Encoder = build(config, data_shape=(1, 8, 8)).double()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    q = encoder(x)
    assert q.batch_shape == (4,)
    assert q.event_shape == encoder.latent_shape
    # A point mass moves with rounding, so it is asked for its density beside the point.
    z = q.sample() + isinstance(q, Dirac)
    singly = torch.cat([values(encoder(x[i : i + 1]), z[i : i + 1]) for i in range(4)])
    assert torch.allclose(values(q, z), singly, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("config", "latent_shape"), [d[1:] for d in decoders()], ids=[name for name, *_ in decoders()])
@pytest.mark.parametrize("leading", [(), (4,), (3, 1, 2)], ids=str)
def test_a_decoder_takes_any_leading_dimensions(
    config: dict[str, Any], latent_shape: tuple[int, ...], leading: tuple[int, ...]
) -> None:
    decoder: Decoder = build(config, data_shape=(1, 8, 8), latent_shape=latent_shape).double()
    z = torch.randn(*leading, *latent_shape, dtype=torch.float64)
    x = torch.randint(0, 256, (1, 8, 8)).double() / 255
    p = decoder(z)
    assert p.batch_shape == leading
    assert p.event_shape == (1, 8, 8)
    rows = torch.cat([values(decoder(row.unsqueeze(0)), x) for row in z.reshape(-1, *latent_shape)])
    assert torch.allclose(values(p, x), rows.reshape(*leading, -1), rtol=1e-10, atol=1e-12)
    assert p.sample().shape == (*leading, 1, 8, 8)


@pytest.mark.parametrize("registration", registrations("prior"), ids=by_name)
def test_a_prior_is_a_distribution_over_latents(registration: Registration) -> None:
    prior = build(small(registration), **shapes(registration))
    p = prior()
    assert p.batch_shape == ()
    assert p.event_shape == prior.latent_shape
    assert p.log_prob(p.sample((5,))).shape == (5,)


# drawing


def test_drawing_from_a_generator_leaves_every_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of the CPU must not reseed the GPUs either, which torch.manual_seed does."""
    saved: list[list[int]] = []
    fork = torch.random.fork_rng

    def spy(devices: list[int]) -> Any:
        saved.append(devices)
        return fork(devices=[])

    monkeypatch.setattr(torch.random, "fork_rng", spy)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with drawing_from(generator(0)):
        torch.rand(1)
    assert saved == [[0, 1]]


def test_without_a_generator_the_global_one_advances() -> None:
    with drawing_from(None):
        torch.rand(1)
    after = torch.random.get_rng_state()
    torch.manual_seed(0)
    torch.rand(1)
    assert torch.equal(torch.random.get_rng_state(), after)
