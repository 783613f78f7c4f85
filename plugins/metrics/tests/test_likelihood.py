"""Likelihood metrics against the log p(x) of probabilistic PCA, and how ``evaluate`` gathers them."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo_metrics.averages import AverageMetric
from zoo_metrics.likelihood import ELBO, IWAE, LogProb

from tests.ppca import DATA, PPCA
from zoo_core import ConfigError, GenerativeModel, Measurement, Metric, build, evaluate
from zoo_core.data import InMemory, Preprocessing

many = settings(max_examples=60, deadline=None, derandomize=True, database=None)
WORSE = {"shift": 0.3, "stretch": 1.6}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Also of numpy and Python, which ``evaluate`` seeds."""
    states = numpy.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    numpy.random.set_state(states[0])
    random.setstate(states[1])


@pytest.fixture
def ppca() -> PPCA:
    return PPCA.random()


def measured(metric: Metric, model: Any, *batches: Tensor) -> dict[str, Measurement]:
    metric.reset()
    for x in batches:
        metric.update(model, {"image": x})
    return metric.compute()


def near(a: Measurement, value: float) -> bool:
    return abs(a.value - value) < 5 * a.error


# the values


def test_the_elbo_and_its_terms_are_those_worked_out_by_hand(ppca: PPCA) -> None:
    model, x = ppca.model(**WORSE), ppca.draw(1).expand(4000, *DATA)
    q = model.encoder(x)
    rate = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(1)
    values = measured(ELBO(), model, x)
    assert set(values) == {"elbo", "distortion", "rate"}
    assert values["rate"].value == pytest.approx(rate[0].item())
    assert near(values["elbo"], ppca.elbo(x, q)[0].item())
    # 64 draws of z, of which the error counts no more than an eighth; and what rounding to bytes costs.
    assert values["elbo"].value == pytest.approx(-values["distortion"].value - values["rate"].value)


def test_the_elbo_is_log_p_at_the_exact_posterior_and_falls_short_by_the_kl_elsewhere(ppca: PPCA) -> None:
    x = ppca.draw(1)
    exact, many_x = ppca.log_prob(x).item(), x.expand(4000, *DATA)
    for error in ({}, WORSE):
        assert near(measured(ELBO(), ppca.model(**error), many_x)["elbo"], exact - ppca.gap(**error))


def test_more_samples_make_the_distortion_surer_and_no_other(ppca: PPCA) -> None:
    model, x = ppca.model(**WORSE), ppca.draw(1).expand(2000, *DATA)
    one, sixteen = (measured(ELBO(samples=samples), model, x) for samples in (1, 16))
    assert sixteen["rate"].value == pytest.approx(one["rate"].value)
    assert near(sixteen["distortion"], one["distortion"].value) or near(one["distortion"], sixteen["distortion"].value)
    assert sixteen["distortion"].error == pytest.approx(one["distortion"].error / 4, rel=0.1)


def test_a_rate_without_a_closed_form_is_estimated(ppca: PPCA) -> None:
    """A mixture of one component at the origin is the standard normal, but torch knows no KL to a mixture."""
    model, x = ppca.model(**WORSE), ppca.draw(1).expand(4000, *DATA)
    closed = measured(ELBO(), model, x)["rate"]
    mixture = {"type": "nets/gaussian_mixture", "components": 1, "spread": 0}
    model.prior = build(mixture, latent_shape=(2,)).double()
    estimated = measured(ELBO(), model, x)["rate"]
    assert estimated.error > 100 * closed.error
    assert near(estimated, closed.value)


@pytest.mark.parametrize("samples", [1, 3, 64])
def test_the_iwae_is_log_p_at_the_exact_posterior_for_every_k(ppca: PPCA, samples: int) -> None:
    x = ppca.draw(7)
    values = measured(IWAE(samples=samples, chunk=5), ppca.model(), x)
    exact = ppca.log_prob(x)
    assert list(values) == [f"iwae_{samples}"]
    value = values[f"iwae_{samples}"]
    assert value.value == pytest.approx(exact.mean().item(), abs=1e-9)
    assert value.error == pytest.approx(exact.std().item() / math.sqrt(7))
    assert value.n == 7


def test_the_iwae_rises_with_k_and_stays_below_log_p(ppca: PPCA) -> None:
    x = ppca.draw(1)
    model, many_x = ppca.model(**WORSE), x.expand(3000, *DATA)
    one, ten, hundred = (measured(IWAE(samples=k), model, many_x)[f"iwae_{k}"] for k in (1, 10, 100))
    exact = ppca.log_prob(x).item()
    assert near(one, exact - ppca.gap(**WORSE))
    assert one.value + 5 * one.error < ten.value - 5 * ten.error
    assert ten.value + 5 * ten.error < hundred.value - 5 * hundred.error
    assert hundred.value < exact + 5 * hundred.error


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_chunks_do_not_change_what_is_estimated(ppca: PPCA, chunk: int) -> None:
    model, x = ppca.model(**WORSE), ppca.draw(1).expand(2000, *DATA)
    whole = measured(IWAE(samples=20, chunk=20), model, x)["iwae_20"]
    parts = measured(IWAE(samples=20, chunk=chunk), model, x)["iwae_20"]
    assert abs(whole.value - parts.value) < 5 * math.hypot(whole.error, parts.error)


def test_nothing_is_measured_with_gradients(ppca: PPCA) -> None:
    model = ppca.model()
    for metric in (ELBO(), IWAE(samples=2)):
        metric.update(model, {"image": ppca.draw(3)})
        assert not any(v.requires_grad for v in metric.state.values())


# refusals


class Noise(GenerativeModel):
    """A model without latents, a density, or parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.data_shape = DATA

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *DATA)


class Mean(AverageMetric):
    """The mean of a picture, of the draws that the model makes, and whether it is in evaluation mode."""

    def update(self, model: Any, batch: Any) -> None:
        x = batch["image"]
        self.add(mean=x.mean((1, 2, 3)), draw=torch.rand(len(x)), evaluating=torch.full((len(x),), not model.training))


class Refusing(Mean):
    """Can be computed on nothing."""

    def update(self, model: Any, batch: Any) -> None:
        raise ConfigError("no model will do")


@pytest.mark.parametrize("name", ["elbo", "iwae"])
def test_a_model_without_a_posterior_is_refused_with_a_sentence(name: str) -> None:
    sentence = rf"^metric '{name}' needs a model with a posterior q\(z\|x\); Noise has none$"
    with pytest.raises(ConfigError, match=sentence):
        build(f"metrics/{name}").update(Noise(), {"image": torch.rand(2, *DATA)})


@pytest.mark.parametrize("metric", [ELBO(), IWAE(samples=2)], ids=["elbo", "iwae"])
def test_a_posterior_without_a_density_is_refused_with_a_sentence(metric: Metric) -> None:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=DATA)
    with pytest.raises(ConfigError, match="a Dirac has no density"):
        metric.update(model, {"image": torch.rand(2, *DATA)})


# averages


class Values(AverageMetric):
    """The mean of the pictures themselves."""

    def update(self, model: Any, batch: Any) -> None:
        self.add(value=batch["image"])


numbers = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=30)


def state_of(*batches: list[float]) -> Values:
    metric = Values()
    for values in batches:
        metric.update(None, {"image": torch.tensor(values, dtype=torch.float64)})
    return metric


@many
@given(numbers)
def test_mean_and_standard_error_are_numpys(values: list[float]) -> None:
    value, error, n, *_ = state_of(values).compute()["value"]
    assert n == len(values)
    assert value == pytest.approx(numpy.mean(values), abs=1e-8)
    # From sums of squares, so that a spread of no more than rounding is all that is lost.
    assert error == pytest.approx(numpy.std(values, ddof=1) / math.sqrt(n), rel=1e-4, abs=1e-3)


@many
@given(numbers, st.randoms(use_true_random=False), st.integers(1, 7))
def test_order_and_batches_do_not_matter(values: list[float], rng: random.Random, chunk: int) -> None:
    shuffled = rng.sample(values, len(values))
    whole, parts = state_of(values), state_of(*(shuffled[i : i + chunk] for i in range(0, len(values), chunk)))
    assert torch.allclose(whole.state["value"], parts.state["value"], rtol=1e-12, atol=1e-6)


@many
@given(numbers, numbers)
def test_states_of_two_processes_add_up_to_one_pass(here: list[float], there: list[float]) -> None:
    a, b, both = state_of(here), state_of(there), state_of(here + there)
    a.state = {name: a.state[name] + b.state[name] for name in a.state}
    assert torch.allclose(a.state["value"], both.state["value"], rtol=1e-12, atol=1e-6)
    assert a.compute()["value"].n == len(here) + len(there)


def test_likelihoods_far_from_0_keep_their_standard_error() -> None:
    """log p(x) of a large picture is -10^5 nats and varies by 10: float32 sums of squares would lose that."""
    metric, x = Values(), -1e5 + 10 * torch.randn(10_000)
    for batch in x.split(5000):
        metric.update(None, {"image": batch})
    value, error, *_ = metric.compute()["value"]
    values = x.double().numpy()
    assert value == pytest.approx(numpy.mean(values), rel=1e-12)
    assert error == pytest.approx(numpy.std(values, ddof=1) / 100, rel=1e-4)


def test_one_example_has_no_standard_error() -> None:
    value, error, n, *_ = state_of([3.5]).compute()["value"]
    assert (value, n) == (3.5, 1)
    assert math.isnan(error)
    assert state_of([2.0, 2.0]).compute()["value"].error == 0


def test_reset_forgets() -> None:
    metric = state_of([1.0, 2.0])
    metric.reset()
    assert metric.compute() == {}
    metric.update(None, {"image": torch.tensor([5.0])})
    assert metric.compute()["value"].value == 5


# evaluate


def pictures(n: int) -> InMemory:
    image = torch.randint(0, 256, (n, *DATA), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return InMemory("random", "test", {"image": image})


def plain(values: dict[str, Measurement]) -> dict[str, list[float]]:
    return {name: list(value) for name, value in values.items()}


def test_evaluation_is_the_exact_value_on_the_data_as_the_model_sees_them(ppca: PPCA) -> None:
    model, data = ppca.model(), pictures(23)
    model.preprocessing = Preprocessing(binarize="threshold")
    x = (data.batch(torch.arange(23))["image"] >= 128).double()
    values = evaluate(model, [IWAE(samples=3)], data, batch=5)
    assert values["iwae_3"].value == pytest.approx(ppca.log_prob(x).mean().item(), abs=1e-6)
    assert values["iwae_3"].n == 23


def test_evaluation_is_a_function_of_its_seed(ppca: PPCA) -> None:
    model, data, metrics = ppca.model(**WORSE), pictures(23), [ELBO(), IWAE(samples=3)]
    first = plain(evaluate(model, metrics, data, batch=5))
    assert set(first) == {"elbo", "distortion", "rate", "iwae_3"}
    torch.rand(3)
    assert plain(evaluate(model, metrics, data, batch=5)) == first
    assert plain(evaluate(model, metrics, data, batch=5, seed=0)) == first
    other = plain(evaluate(model, metrics, data, batch=5, seed=1))
    assert other["elbo"] != first["elbo"]
    assert other["rate"] == first["rate"]


def test_random_preprocessing_is_drawn_from_the_seed_too(ppca: PPCA) -> None:
    model, data = ppca.model(), pictures(23)
    model.preprocessing = Preprocessing(binarize="dynamic")
    first, again, other = (plain(evaluate(model, [Mean()], data, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["mean"] != other["mean"]


def test_batches_do_not_share_their_draws() -> None:
    """Each batch of one is seeded by its number: equal draws would show as a standard error of 0."""
    draws = evaluate(Noise(), [Mean()], pictures(23), batch=1)["draw"]
    assert draws.error == pytest.approx(math.sqrt(1 / 12 / 23), rel=0.5)


def test_the_size_of_a_batch_does_not_matter_where_nothing_is_drawn(ppca: PPCA) -> None:
    model, data = ppca.model(**WORSE), pictures(23)
    rates = [evaluate(model, [ELBO()], data, batch=batch)["rate"] for batch in (1, 5, 23, 100)]
    assert all(rate[:3] == pytest.approx(rates[0][:3]) for rate in rates)


@pytest.mark.parametrize(("examples", "n"), [(None, 23), (1, 1), (7, 7), (23, 23), (1000, 23)])
def test_examples_are_the_first_so_many(examples: int | None, n: int) -> None:
    data, seen = pictures(23), []
    values = evaluate(Noise(), [Mean()], data, batch=5, examples=examples, progress=seen.append)
    first = data.batch(torch.arange(n))["image"].double() / 255
    assert values["mean"].n == n == sum(seen)
    assert max(seen) <= 5
    assert values["mean"].value == pytest.approx(first.mean().item(), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_each_module_is_left_in_the_mode_it_was_in(ppca: PPCA, training: bool) -> None:
    """A frozen part of a model in training stays frozen, also after a metric refused."""
    model = ppca.model().train(training)
    model.encoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    values = evaluate(model, [Mean()], pictures(4))
    assert values["evaluating"].value == 1
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(ConfigError):
        evaluate(model, [Refusing()], pictures(4))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_metrics_begin_anew(ppca: PPCA) -> None:
    metric, data = Mean(), pictures(6)
    first = plain(evaluate(Noise(), [metric], data))
    assert plain(evaluate(Noise(), [metric], data)) == first


def test_a_model_without_parameters_can_be_measured() -> None:
    model = Noise()
    assert list(model.parameters()) == []
    assert evaluate(model, [Mean()], pictures(4))["mean"].n == 4
    model.register_buffer("centres", torch.zeros(3, 2))
    assert evaluate(model, [Mean()], pictures(4))["mean"].n == 4


def test_weights_do_not_move(ppca: PPCA) -> None:
    model = ppca.model()
    before = [p.clone() for p in model.parameters()]
    evaluate(model, [ELBO(), IWAE(samples=2)], pictures(9))
    assert all(map(torch.equal, model.parameters(), before))
    assert all(p.grad is None for p in model.parameters())
    assert isinstance(model.encoder.posterior, nn.Module)


PROCESS = """
import json, sys
import torch
from zoo_core import build, evaluate
from zoo_core.data import InMemory

rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
torch.manual_seed(0)
parts = {"encoder": {"type": "nets/linear_encoder", "latents": 2}, "decoder": "nets/linear_decoder"}
model = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=(1, 3, 2))
image = torch.randint(0, 256, (23, 1, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
data = InMemory("random", "test", {"image": image})
metrics = [build("metrics/elbo"), build({"type": "metrics/iwae", "samples": 3})]
torch.manual_seed(rank)
results = [
    {name: list(value) for name, value in evaluate(model, metrics, data, batch=5, examples=examples).items()}
    for examples in (None, 4)
]
open(f"{out}/{world}-{rank}.json", "w").write(json.dumps(results))
torch.distributed.destroy_process_group()
"""


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    """Also where there are fewer batches than processes; and each process returns the whole."""
    arguments = [(rank, world) for world in (1, 2) for rank in range(world)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(world), str(tmp_path / str(world)), str(tmp_path)]
        )
        for rank, world in arguments
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    one, first, second = (json.loads((tmp_path / f"{world}-{rank}.json").read_text()) for rank, world in arguments)
    assert first == second
    for alone, together in zip(one, first, strict=True):
        assert set(together) == set(alone)
        for name in alone:
            assert together[name][:3] == pytest.approx(alone[name][:3], rel=1e-9)
            assert together[name][3] == alone[name][3] == "nats"
    assert [values["elbo"][2] for values in first] == [23, 4]


def test_evaluation_leaves_the_global_generators_as_they_were(ppca: PPCA) -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(()).item(), numpy.random.rand(), random.random()

    model = ppca.model()
    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    undisturbed = draws()
    torch.set_rng_state(states[0])
    numpy.random.set_state(states[1])
    random.setstate(states[2])
    evaluate(model, [ELBO()], pictures(5))
    assert draws() == undisturbed


def test_two_metrics_of_one_name_are_refused(ppca: PPCA) -> None:
    with pytest.raises(ConfigError, match="more than one of the metrics reports 'distortion'"):
        evaluate(ppca.model(), [ELBO(), ELBO(samples=4)], pictures(5))


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": -1}, {"samples": 2, "chunk": 0}])
def test_a_bound_needs_samples(ppca: PPCA, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be positive integers"):
        ppca.model().log_prob(torch.zeros(2, *DATA, dtype=torch.float64), **wrong)


def test_the_elbo_of_an_exact_posterior_is_the_log_density() -> None:
    """Probabilistic PCA as a plugin fits it: its q(z|x) is p(z|x), so nothing is lost on the average."""
    model = build({"type": "classical/ppca", "latents": 3}, data_shape=DATA)
    x = torch.rand(400, *DATA)
    model.begin(x)
    model.update(model.statistics(x))
    data = InMemory("random", "test", {"image": (x * 255).round().byte()})
    values = evaluate(model, [ELBO(samples=64), LogProb()], data)
    assert values["elbo"].value == pytest.approx(values["log_prob"].value, abs=5 * values["elbo"].error / 8 + 1e-3)
    assert values["log_prob"].n == 400


def test_a_model_without_density_has_no_log_prob() -> None:
    model = build({"type": "classical/kmeans", "clusters": 2}, data_shape=DATA)
    with pytest.raises(ConfigError, match="metric 'log_prob'"):
        evaluate(model, [LogProb()], pictures(5))
