"""The conformance kit on what is wrong on purpose: each fault is found by the check that is meant to find it.

Losses, metrics, extractors, models, data sets, checkpoints and whole plugins.
"""

import hashlib
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.installed import install, write
from zoo_core import (
    AdversarialLoss,
    CheckpointSpec,
    ConfigError,
    DatasetSpec,
    Extractor,
    ExtractorSpec,
    GenerativeModel,
    Loss,
    LossOutput,
    LossSpec,
    Measurement,
    Metric,
    MetricSpec,
    ModelSpec,
    PluginHost,
    Shape,
    StatisticalModel,
    ZooHooks,
    hookimpl,
    save_pretrained,
)
from zoo_core.data import InMemory
from zoo_core.host import Registration
from zoo_core.specs import Spec
from zoo_core.testing import Report, check_plugin
from zoo_core.testing.checks import CHECKS, declared
from zoo_core.testing.examples import Told
from zoo_core.testing.reference import NAME, ReferencePlugin, linear_gaussian
from zoo_core.testing.running import report

Batch = Any


class Offering(ZooHooks):
    """A plugin of one component."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def of(self, kind: str) -> Iterator[Any]:
        yield from [self.spec] if self.spec.kind == kind else []

    @hookimpl
    def zoo_losses(self) -> Iterator[LossSpec]:
        return self.of("loss")

    @hookimpl
    def zoo_metrics(self) -> Iterator[MetricSpec]:
        return self.of("metric")

    @hookimpl
    def zoo_extractors(self) -> Iterator[ExtractorSpec]:
        return self.of("extractor")

    @hookimpl
    def zoo_models(self) -> Iterator[ModelSpec]:
        return self.of("model")

    @hookimpl
    def zoo_datasets(self) -> Iterator[DatasetSpec]:
        return self.of("dataset")

    @hookimpl
    def zoo_checkpoints(self) -> Iterator[CheckpointSpec]:
        return self.of("checkpoint")


def here(thing: Any) -> dict[str, str]:
    return {"name": thing.__name__.lower(), "target": f"{__name__}:{thing.__name__}", "summary": "On purpose."}


def asked(spec: Spec, only: tuple[str, ...] = (), **told: Any) -> Report:
    host = PluginHost(discover=False)
    host.register(Offering(spec), "faulty")
    return report(Registration(spec, "faulty"), host, Told(**told), only=only)


def failed(of: Report) -> list[str]:
    return [outcome.check for outcome in of.outcomes if outcome.state == "failed"]


def require_caught(spec: Spec, check: str, **told: Any) -> None:
    of = asked(spec, (check,), **told)
    assert check in failed(of), of.failures or of
    (sentence,) = [outcome.sentence for outcome in of.outcomes if outcome.check == check]
    assert len(sentence.split()) > 4


def require_clean(spec: Spec, **told: Any) -> None:
    of = asked(spec, **told)
    assert of.failures == []
    assert len(of.outcomes) == len(declared(spec)) > 5


# --- losses -------------------------------------------------------------------------------------------------------


class CleanLoss(Loss):
    """-ELBO, in its two terms."""

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        distortion, rate = self.terms(model, batch["image"])
        terms = {"distortion": distortion.mean().detach(), "rate": rate.mean().detach()}
        return LossOutput(self.total(distortion, rate), terms)

    def terms(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        q = model.encoder(x)
        p_z = model.prior().expand(q.batch_shape)
        return -model.decoder(q.rsample()).log_prob(x), kl_divergence(q, p_z)

    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).mean()


class PixelMean(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion / 64 + rate).mean()


class Bits(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).mean() / math.log(2)


class HalfBeta(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + 0.5 * rate).mean()


class DoubleBeta(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + 2 * rate).mean()


class ForgottenKL(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return distortion.mean()


class WrongSign(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion - 3 * rate).mean()


class FewerLatents(CleanLoss):
    def terms(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        q = model.encoder(x)
        p_z = model.prior().expand(q.batch_shape)
        rates = kl_divergence(q.base_dist, p_z.base_dist)
        return -model.decoder(q.rsample()).log_prob(x), rates[..., 1:].sum(-1)


class SumOverBatch(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).sum()


class OneFewer(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).sum() / max(1, len(rate) - 1)


class FixedBatch(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).sum() / 64


class Detached(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).mean().detach()


class FrozenDecoder(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion.detach() + rate).mean()


class NoiseOfNumpy(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).mean() + np.random.rand()


class NoiseOfPython(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return (distortion + rate).mean() + random.random()


class ChangesBatch(CleanLoss):
    def terms(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().terms(model, x.mul_(0.5))


class NotAScalar(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        return distortion + rate


class AttachedTerms(CleanLoss):
    def forward(self, model: Any, batch: Batch) -> LossOutput:
        distortion, rate = self.terms(model, batch["image"])
        return LossOutput(self.total(distortion, rate), {"rate": rate.mean()})


class BareTensor(CleanLoss):
    def forward(self, model: Any, batch: Batch) -> Any:
        return super().forward(model, batch).total


class NotANumberAtFirst(CleanLoss):
    def total(self, distortion: Tensor, rate: Tensor) -> Tensor:
        warm = 1.0 if self.step is None else self.step / torch.tensor(float(self.step))
        return (distortion + warm * rate).mean()


class Opposed(AdversarialLoss):
    """-ELBO, and an adversary that is told latents without a gradient."""

    adversary_lr = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.adversary = nn.Linear(3, 1)

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        return CleanLoss()(model, batch)

    def oppose(self, model: Any, batch: Batch) -> LossOutput:
        z = self.told(model.encoder(batch["image"]).rsample())
        return LossOutput(self.adversary(z).square().mean(), {})

    def told(self, z: Tensor) -> Tensor:
        return z.detach()


class MovesTheModel(Opposed):
    def told(self, z: Tensor) -> Tensor:
        return z


class IdleAdversary(Opposed):
    def oppose(self, model: Any, batch: Batch) -> LossOutput:
        return LossOutput(self.adversary.weight.detach().sum(), {})


BOUNDS = [
    (HalfBeta, "bound"), (ForgottenKL, "bound"), (PixelMean, "tightness"), (Bits, "tightness"),
    (HalfBeta, "tightness"), (DoubleBeta, "tightness"),
    (ForgottenKL, "tightness"), (FewerLatents, "tightness"), (WrongSign, "bound"), (SumOverBatch, "tightness"),
]  # fmt: skip
LOSSES = [
    (SumOverBatch, "mean_over_the_batch"), (OneFewer, "mean_over_the_batch"), (FixedBatch, "mean_over_the_batch"),
    (Detached, "gradients"), (FrozenDecoder, "gradients"), (MovesTheModel, "gradients"), (IdleAdversary, "gradients"),
    (NoiseOfNumpy, "determinism"), (NoiseOfPython, "determinism"), (ChangesBatch, "determinism"),
    (NotAScalar, "total_and_terms"), (AttachedTerms, "total_and_terms"), (BareTensor, "total_and_terms"),
    (NotANumberAtFirst, "total_and_terms"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "check"), BOUNDS, ids=lambda v: getattr(v, "__name__", v))
def test_a_faulty_bound_is_caught(loss: Any, check: str) -> None:
    require_caught(LossSpec(**here(loss), bound=True), check)


@pytest.mark.parametrize(("loss", "check"), LOSSES, ids=lambda v: getattr(v, "__name__", v))
def test_a_faulty_loss_is_caught(loss: Any, check: str) -> None:
    require_caught(LossSpec(**here(loss)), check)


@pytest.mark.parametrize(("loss", "bound"), [(CleanLoss, True), (HalfBeta, False), (Opposed, False)])
def test_a_right_loss_passes(loss: Any, bound: bool) -> None:
    require_clean(LossSpec(**here(loss), bound=bound))


# --- metrics ------------------------------------------------------------------------------------------------------


class CleanMetric(Metric):
    """Mean squared error, with its standard error."""

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        self.add(self.errors(model, batch))

    def errors(self, model: Any, batch: Batch) -> Tensor:
        x = batch["image"]
        return (model.reconstruct(x) - x).double().square().flatten(1).mean(1)

    def add(self, e: Tensor) -> None:
        sums = torch.stack([torch.ones_like(e), e, e.square()]).sum(1)
        self.state["sums"] = self.state.get("sums", torch.zeros(3, dtype=torch.float64)) + sums

    def compute(self) -> dict[str, Measurement]:
        n, total, squares = self.state["sums"].tolist()
        mean = total / n
        error = math.sqrt(max(0.0, squares / n - mean**2) / (n - 1)) if n > 1 else math.nan
        return {"error": Measurement(mean, error, int(n))}


class BatchAverages(CleanMetric):
    def add(self, e: Tensor) -> None:
        super().add(e.mean().reshape(1))


class ForgetsTheLast(CleanMetric):
    def add(self, e: Tensor) -> None:
        self.keep(e=e)

    def compute(self) -> dict[str, Measurement]:
        chunks = self.rows["e"][:-1] or self.rows["e"]
        e = torch.cat(chunks)
        return {"error": Measurement(float(e.mean()), math.nan, len(e))}


class LaterCountsMore(CleanMetric):
    def add(self, e: Tensor) -> None:
        for value in e:
            self.state["mean"] = 0.9 * self.state.get("mean", torch.zeros(())) + 0.1 * value

    def compute(self) -> dict[str, Measurement]:
        return {"error": Measurement(float(self.state["mean"]), math.nan, 30)}


class KeepsTheGraph(CleanMetric):
    def update(self, model: Any, batch: Batch) -> None:
        self.add(self.errors(model, batch))

    def compute(self) -> dict[str, Measurement]:
        n, total, _ = self.state["sums"].tolist()
        return {"error": Measurement(total / n, math.nan, int(n))}


class KeptElsewhere(CleanMetric):
    """What it gathers no process but its own hears of."""

    def reset(self) -> None:
        super().reset()
        self.values: list[float] = []

    def add(self, e: Tensor) -> None:
        self.values += e.tolist()

    def compute(self) -> dict[str, Measurement]:
        return {"error": Measurement(sum(self.values) / len(self.values), math.nan, len(self.values))}


class RemembersAfterReset(CleanMetric):
    def reset(self) -> None:
        self.state = getattr(self, "state", {})
        self.rows = {}


class UsedUp(CleanMetric):
    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        self.state["sums"] = self.state["sums"] * torch.tensor([2.0, 1.0, 1.0])
        return values


class NoisyMetric(CleanMetric):
    def add(self, e: Tensor) -> None:
        super().add(e + 1e-3 * np.random.rand())


class NotANumber(CleanMetric):
    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        return {name: m._replace(value=m.value + 0 * m.error) for name, m in values.items()}


class ATensor(CleanMetric):
    def compute(self) -> dict[str, Measurement]:
        values: Any = super().compute()
        return {name: m._replace(value=torch.tensor(m.value)) for name, m in values.items()}


class NegativeError(CleanMetric):
    def compute(self) -> dict[str, Measurement]:
        return {name: m._replace(error=-m.error) for name, m in super().compute().items()}


class BareNumbers(CleanMetric):
    def compute(self) -> Any:
        return {name: m.value for name, m in super().compute().items()}


class TrainsTheModel(CleanMetric):
    def errors(self, model: Any, batch: Batch) -> Tensor:
        for p in model.parameters():
            p.mul_(0.9)
        return super().errors(model, batch)


class ChangesTheData(CleanMetric):
    def errors(self, model: Any, batch: Batch) -> Tensor:
        batch["image"].clamp_(0.1, 0.9)
        return super().errors(model, batch)


METRICS = [
    (BatchAverages, "parts_and_whole"), (ForgetsTheLast, "parts_and_whole"), (LaterCountsMore, "order_of_batches"),
    (KeepsTheGraph, "nothing_else_changes"), (TrainsTheModel, "nothing_else_changes"),
    (ChangesTheData, "nothing_else_changes"), (KeptElsewhere, "merging"), (RemembersAfterReset, "reset"),
    (UsedUp, "computing_twice"), (NoisyMetric, "determinism"), (NotANumber, "few_examples"),
    (ATensor, "measurements"), (NegativeError, "measurements"), (BareNumbers, "measurements"),
]  # fmt: skip


def metric_spec(metric: Any, better: Any = "lower") -> MetricSpec:
    return MetricSpec(**here(metric), better=better, unit="1")


@pytest.mark.parametrize(("metric", "check"), METRICS, ids=lambda v: getattr(v, "__name__", v))
def test_a_faulty_metric_is_caught(metric: Any, check: str) -> None:
    require_caught(metric_spec(metric), check)


def test_a_metric_that_calls_the_worse_better_is_caught() -> None:
    require_caught(metric_spec(CleanMetric, "higher"), "direction")


def mean_square(model: Any, batch: Batch) -> dict[str, float]:
    return {"error": float((model.reconstruct(batch["image"]) - batch["image"]).square().mean())}


class SumOverPixels(CleanMetric):
    def errors(self, model: Any, batch: Batch) -> Tensor:
        x = batch["image"]
        return (model.reconstruct(x) - x).double().square().flatten(1).sum(1)


def test_a_metric_that_does_not_say_what_is_known_is_caught() -> None:
    require_caught(metric_spec(SumOverPixels), "known_values", values={"sumoverpixels": mean_square})
    require_caught(metric_spec(CleanMetric), "known_values", values={"cleanmetric": {"error": 0.0}})
    require_caught(metric_spec(CleanMetric), "known_values", values={"cleanmetric": {"unheard of": 0.0}})
    of = asked(metric_spec(CleanMetric), values={"cleanmetric": mean_square})
    assert of.failures == []
    assert "known_values" in {outcome.check for outcome in of.outcomes}


def test_a_right_metric_passes() -> None:
    require_clean(metric_spec(CleanMetric))


# --- extractors ---------------------------------------------------------------------------------------------------


class CleanExtractor(Extractor):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class OfTheBatch(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - images.mean()


class Noisy(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 1e-3 * torch.randn(())


class Blind(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return 0 * super().forward(images)


class Wide(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).double()


class Square(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return images


class TakesBytesAsTheyAre(CleanExtractor):
    def features(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)


class Unhashed(CleanExtractor):
    """Trained weights that its identity does not tell of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


class ChangesItsName(CleanExtractor):
    times = 0

    def forward(self, images: Tensor) -> Tensor:
        self.times += 1
        return super().forward(images)

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "times": self.times}


class HoldsAFunction(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        self.squared = lambda x: x.square()
        return self.squared(super().forward(images))


class OneSizeAlone(CleanExtractor):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) @ torch.eye(64)


EXTRACTORS = [
    (OfTheBatch, "rows_alone"), (Noisy, "determinism"), (Blind, "images_told_apart"), (Wide, "features"),
    (Square, "features"), (TakesBytesAsTheyAre, "bytes_and_floats"), (Unhashed, "identity"),
    (ChangesItsName, "identity"), (HoldsAFunction, "copies_in_use"), (OneSizeAlone, "other_shapes"),
]  # fmt: skip


@pytest.mark.parametrize(("extractor", "check"), EXTRACTORS, ids=lambda v: getattr(v, "__name__", v))
def test_a_faulty_extractor_is_caught(extractor: Any, check: str) -> None:
    require_caught(ExtractorSpec(**here(extractor), data_shape=(1, 8, 8)), check)


def test_a_right_extractor_passes() -> None:
    require_clean(ExtractorSpec(**here(CleanExtractor), data_shape=(1, 8, 8)))


# --- models -------------------------------------------------------------------------------------------------------


class CleanModel(GenerativeModel):
    """N(mu, sigma²) of each number by itself."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.mu = nn.Parameter(torch.rand(self.data_shape))
        self.log_sigma = nn.Parameter(torch.zeros(self.data_shape) - 1)

    @property
    def p(self) -> Any:
        return Independent(Normal(self.mu, self.log_sigma.exp()), len(self.data_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.p.log_prob(x)

    def simulate(self, n: int) -> Tensor:
        return self.p.sample((n,))

    def draw(self, n: int) -> Tensor:
        return self.simulate(n).clamp(0, 1)


class Unnormalised(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + self.log_sigma.sum()


class ForgetsTheStretch(CleanModel):
    """Right where it starts, with nothing stretched."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        nn.init.zeros_(self.log_sigma)

    def log_prob(self, x: Tensor) -> Tensor:
        u = (x - self.mu) / self.log_sigma.exp()
        return Normal(0.0, 1.0).log_prob(u).flatten(1).sum(1)


class MeanOfPixels(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) / self.mu.numel()


class AboveTheTruth(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + 0.1


class ANumberForAll(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x).mean()


class SamplesOfNumpy(CleanModel):
    def draw(self, n: int) -> Tensor:
        return torch.from_numpy(np.random.rand(n, *self.data_shape)).float()


class OwnGenerator(CleanModel):
    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *self.data_shape, generator=torch.Generator().manual_seed(0))


class IgnoresTheGenerator(CleanModel):
    def sample(self, n: int, *, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        return self.draw(n).detach()


class OutOfRange(CleanModel):
    def draw(self, n: int) -> Tensor:
        return 3 * self.simulate(n)


class OneTooMany(CleanModel):
    def draw(self, n: int) -> Tensor:
        return super().draw(n + 1)


class LosesWeights(CleanModel):
    """What it draws depends on a tensor that is not saved."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.offset = [float(torch.rand(())) for _ in range(1)]

    def draw(self, n: int) -> Tensor:
        return (super().draw(n) + self.offset[0]).clamp(0, 1)


class Unlearning(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        log_p = super().log_prob(x)
        return 2 * log_p.detach() - log_p  # the value, with the gradient turned round


class Stuck(CleanModel):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x).detach() + 0 * self.mu.sum()


class Halves(CleanModel, StatisticalModel):
    """The mean of the data, by sums."""

    def begin(self, x: Tensor) -> None:
        pass

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        objective = self.log_prob(x).double().sum()
        return {"n": torch.tensor(float(len(x)), dtype=torch.float64), "x": x.double().sum(0), "objective": objective}

    @torch.no_grad()
    def update(self, statistics: Any) -> None:
        self.mu.copy_(statistics["x"] / statistics["n"])


class MeansForSums(Halves):
    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        return {**super().statistics(x), "x": x.double().mean(0)}


class FallsBack(Halves):
    @torch.no_grad()
    def update(self, statistics: Any) -> None:
        self.mu.add_(statistics["x"] / statistics["n"])


MODELS: list[tuple[Any, str, dict[str, str]]] = [
    (Unnormalised, "sum_of_densities", {}), (ForgetsTheStretch, "sum_of_densities", {}),
    (MeanOfPixels, "sum_of_densities", {}),
    (AboveTheTruth, "sum_of_densities", {"density": "bound"}), (ANumberForAll, "densities", {}),
    (CleanModel, "no_density", {"density": "none"}), (SamplesOfNumpy, "seeds_of_samples", {}),
    (OwnGenerator, "seeds_of_samples", {}), (IgnoresTheGenerator, "seeds_of_samples", {}),
    (OutOfRange, "range_of_samples", {}), (OneTooMany, "samples", {}), (LosesWeights, "pretrained", {}),
    (Unlearning, "learning", {}), (Stuck, "learning", {}), (MeansForSums, "learning", {}), (FallsBack, "learning", {}),
    (CleanModel, "nothing_drawn", {"sampling": "none"}),
]  # fmt: skip
PROMISED = {"density": "exact", "sampling": "parallel", "latent": "none"}


@pytest.mark.parametrize(("model", "check", "promised"), MODELS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_faulty_model_is_caught(model: Any, check: str, promised: dict[str, Any]) -> None:
    require_caught(ModelSpec(**here(model), **{**PROMISED, **promised}), check)


@pytest.mark.parametrize("latent", ["full", "none"])
def test_a_model_with_other_latents_than_its_spec_says_is_caught(latent: Any) -> None:
    target = {"name": "linear", "target": "zoo_core.testing.reference:LinearGaussian", "summary": "Linear."}
    require_caught(ModelSpec(**target, density="bound", sampling="parallel", latent=latent), "size_of_latents")


@pytest.mark.parametrize("model", [CleanModel, Halves])
def test_a_right_model_passes(model: Any) -> None:
    require_clean(ModelSpec(**here(model), **PROMISED))  # type: ignore[arg-type]


def test_a_model_without_a_density_needs_a_loss_to_be_tried_with() -> None:
    of = asked(ModelSpec(**here(CleanModel), **{**PROMISED, "density": "none"}), ("learning",))  # type: ignore[arg-type]
    assert "LOSSES = {'cleanmodel': …}" in of.failures[0]


# --- data sets ----------------------------------------------------------------------------------------------------


class Pictures(InMemory):
    """Twenty of each split."""

    def __init__(self, split: str = "train", *, seed: int | None = None, **columns: Any) -> None:
        generator = torch.Generator().manual_seed(len(split) if seed is None else seed)
        image = torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
        super().__init__("faulty", split, {"image": image, "label": torch.arange(20) % 3, **columns})


class OneSeed(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split, seed=0, number=torch.full((20,), len(split)))


class OneFingerprint(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.fingerprint = "0"


class RealLabels(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split, label=torch.arange(20) / 3)


class UntoldColumn(Pictures):
    def batch(self, indices: Tensor) -> Any:
        return {**super().batch(indices), "secret": indices}


class OtherShape(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.data_shape = (8, 8, 1)


class AnotherSplit(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__("train")


class Shuffled(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split, seed=random.randrange(1000))


class Drawn(Pictures):
    """Noise on each reading."""

    def batch(self, indices: Tensor) -> Any:
        columns = super().batch(indices)
        return {**columns, "image": torch.rand(columns["image"].shape)}


class Sorted(Pictures):
    def batch(self, indices: Tensor) -> Any:
        return super().batch(indices.sort().values)


class Endless(Pictures):
    def batch(self, indices: Tensor) -> Any:
        return super().batch(indices % 20)


class OneOrder(Pictures):
    def order(self, seed: int) -> Tensor:
        return torch.arange(20)


class WithReplacement(Pictures):
    def order(self, seed: int) -> Tensor:
        return torch.randint(20, (20,), generator=torch.Generator().manual_seed(seed))


DATASETS = [
    (OneSeed, "disjoint_splits"), (OneFingerprint, "fingerprints_of_splits"), (RealLabels, "batches"),
    (UntoldColumn, "batches"), (OtherShape, "batches"), (AnotherSplit, "splits"), (Shuffled, "determinism"),
    (Drawn, "determinism"), (Sorted, "places"), (Endless, "places"), (OneOrder, "epochs"), (WithReplacement, "epochs"),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "check"), DATASETS, ids=lambda v: getattr(v, "__name__", v))
def test_a_faulty_data_set_is_caught(dataset: Any, check: str) -> None:
    require_caught(DatasetSpec(**here(dataset)), check)


def test_a_right_data_set_passes() -> None:
    require_clean(DatasetSpec(**here(Pictures)))


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a checkpoint of the kit's own model, its card and its results."""
    folder = tmp_path / "package_with_weights" / "checkpoints" / "known"
    host = PluginHost(discover=False)
    host.register(ReferencePlugin(), NAME)
    folder.parent.mkdir(parents=True)
    (folder.parents[1] / "__init__.py").touch()
    with torch.random.fork_rng(devices=[]):
        save_pretrained(linear_gaussian((1, 8, 8), 3), folder, host=host)
    (folder / "README.md").write_text("A card.")
    values = {"elbo": {"value": 1.0}}
    told = {"data": "d", "split": "test", "data_fingerprint": "0", "metrics": ["elbo"], "values": values}
    write(folder, {"results.json": json.dumps({"format": 1, "evaluations": [told]})})
    monkeypatch.delitem(sys.modules, "package_with_weights", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


KNOWN = CheckpointSpec(name="known", target="package_with_weights:checkpoints", hub="some/where", summary="Known.")


def test_a_right_checkpoint_passes(package: Path) -> None:
    assert asked(KNOWN).failures == []
    digest = hashlib.sha256((package / "model.safetensors").read_bytes()).hexdigest()
    assert asked(replace(KNOWN, sha256=digest)).failures == []


def test_a_faulty_checkpoint_is_caught(package: Path) -> None:
    require_caught(replace(KNOWN, name="unknown"), "folder")
    require_caught(replace(KNOWN, sha256="0" * 64), "hash_of_weights")
    require_caught(replace(KNOWN, target=""), "pinned")
    (package / "README.md").unlink()
    require_caught(KNOWN, "card_and_results")


def test_a_checkpoint_of_a_plugin_that_is_not_there_is_caught(package: Path) -> None:
    config = (package / "config.json").read_text()
    (package / "config.json").write_text(config.replace("reference/linear_encoder", "absent/encoder"))
    require_caught(KNOWN, "plugins_of_its_parts")


def test_a_checkpoint_with_weights_that_are_no_numbers_is_caught(package: Path) -> None:
    weights = load_file(package / "model.safetensors")
    save_file({**weights, "encoder.mean.bias": torch.full((3,), math.nan)}, package / "model.safetensors")
    require_caught(KNOWN, "loads")


# --- plugins ------------------------------------------------------------------------------------------------------

LOSS = 'yield LossSpec(name="one", target="zoo_{name}.parts:One", summary="One.")'
PARTS = "from zoo_core.testing.reference import NegativeELBO as One\n"
PLUGIN = "@hookimpl\ndef zoo_losses():\n    {body}\n"
NEEDS = ("zoo-core>=0.1,<9",)


class Site:
    """Where plugins are installed, and what the kit says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str = "", *, conformance: str = "", parts: str = PARTS, **options: Any) -> None:
        code = code or PLUGIN.format(body=LOSS.format(name=name))
        modules = {"parts.py": parts, "py.typed": ""} | ({"conformance.py": conformance} if conformance else {})
        install(self.folder, name, code, modules=modules, **{"requires": NEEDS, **options})
        (metadata,) = self.folder.glob(f"zoo_{name}-*.dist-info/METADATA")
        metadata.write_text(metadata.read_text() + "License-Expression: MIT\n")

    def failures(self, name: str) -> dict[str, str]:
        first, *_ = check_plugin(name, host=PluginHost(strict=False))
        assert first.name == name
        return {outcome.check: outcome.sentence for outcome in first.outcomes if outcome.state == "failed"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Site(tmp_path)


def test_a_right_plugin_passes(site: Site) -> None:
    site.install("faultless", conformance="EXAMPLES = {'one': {}}")
    reports = list(check_plugin("faultless", host=PluginHost()))
    assert [r.name for r in reports] == ["faultless", "faultless/one"]
    assert [r.failures for r in reports] == [[], []]
    assert len(reports[0].outcomes) == 7


CODES = {
    "heavy": ("cheap_to_list", "import torch\n" + PLUGIN.format(body=LOSS.format(name="heavy")), "torch"),
    "slow": (
        "cheap_to_list", "sum(range(10**7))\n" + PLUGIN.format(body=LOSS.format(name="slow")), "ms"
    ),
    "once": (
        "hooks_again",
        "SPECS = iter([LossSpec(name='one', target='zoo_once.parts:One', summary='One.')])\n"
        + PLUGIN.format(body="return SPECS"),
        "each call",
    ),
    "absent": ("targets", PLUGIN.format(body=LOSS.format(name="absent").replace(":One", ":Two")), "Two"),
    "another": (
        "targets", PLUGIN.format(body=LOSS.format(name="another").replace(":One", ":nn")), "no Loss"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_a_plugin_with_faulty_hooks_is_caught(name: str, site: Site) -> None:
    check, code, word = CODES[name]
    site.install(name, code, parts=PARTS + "from torch import nn\n")
    assert word in site.failures(name)[check]


@pytest.mark.parametrize(
    ("requires", "word"),
    [((), "does not require"), (("zoo-core",), "lower"), (("zoo-core>=0.1",), "upper"), (("zoo-core<9",), "lower")],
)
def test_a_plugin_that_does_not_say_which_core_it_needs_is_caught(requires: Any, word: str, site: Site) -> None:
    site.install("loose", requires=requires)
    assert word in site.failures("loose")["versions_of_core"]


def test_a_plugin_with_a_second_entry_point_is_caught(site: Site) -> None:
    site.install("two", entry_point="two = zoo_two.plugin\nthree = zoo_two.plugin")
    assert "'two', 'three'" in site.failures("two")["one_entry_point"]


def test_a_plugin_without_licence_or_types_is_caught(site: Site) -> None:
    site.install("bare")
    (site.folder / "zoo_bare" / "py.typed").unlink()
    assert "py.typed" in site.failures("bare")["licence_and_types"]
    (metadata,) = site.folder.glob("zoo_bare-*/METADATA")
    metadata.write_text(metadata.read_text().replace("License-Expression: MIT\n", ""))
    assert "licence" in site.failures("bare")["licence_and_types"]


@pytest.mark.parametrize(
    ("name", "table", "word"),
    [
        ("tolda", "EXAMPLES = {'another': {}}", "'another'"),
        ("toldb", "EXPECTED_FAILURES = {'one::unheard_of': 'It is.'}", "'one::unheard_of'"),
        ("toldc", "EXPECTED_FAILURES = {'another::gradients': 'It is.'}", "'another::gradients'"),
        ("toldd", "EXPECTED_FAILURES = {'one::gradients': ' '}", "no reason"),
        ("tolde", "EXCEPTIONS = {}", "'EXCEPTIONS'"),
        ("toldf", "import zoo_unheard_of", "zoo_unheard_of"),
    ],
)
def test_a_table_of_what_is_not_there_is_caught(name: str, table: str, word: str, site: Site) -> None:
    site.install(name, conformance=table)  # each with a package of its own, which stays imported
    assert word in site.failures(name)["tables"]


# --- the frame ----------------------------------------------------------------------------------------------------


def test_each_check_finds_a_fault() -> None:
    kinds = {"loss", "metric", "extractor", "model", "dataset", "checkpoint", "plugin"}
    told = Path(__file__).read_text(encoding="utf-8")
    own = [check for check in CHECKS if kinds.issuperset(check.kinds) and len(check.kinds) == 1]
    assert len(own) > 45
    assert [f"{c.kinds[0]}: {c.name}" for c in own if f'"{c.name}"' not in told] == []


def test_an_expected_failure_is_none_and_one_that_passes_is_a_failure() -> None:
    spec = LossSpec(**here(SumOverBatch))
    expected = {"sumoverbatch::mean_over_the_batch": "It is a sum on purpose."}
    of = asked(spec, expected_failures=expected)
    assert of.failures == []
    assert "1 expected failures" in str(of)
    of = asked(spec, expected_failures={**expected, "sumoverbatch::gradients": "None of its own."})
    assert failed(of) == ["gradients"]
    assert "passes, although a failure is expected: 'None of its own.'" in of.failures[0]


def test_after_a_structural_failure_the_rest_is_counted_as_not_run() -> None:
    of = asked(LossSpec(**here(NotAScalar)))
    assert failed(of) == ["total_and_terms"]
    others = [o.state for o in of.outcomes if o.check not in ("total_and_terms", "builds")]
    assert others
    assert set(others) == {"not run"}
    total = len(of.outcomes)
    assert of.failures[-1] == f"faulty/notascalar: {len(others)} of {total} checks did not run"
    assert str(of) == f"faulty/notascalar: 2 of {total} run, 1 passed, 0 expected failures, 1 failed"


def test_what_stands_on_an_expected_failure_is_expected_too() -> None:
    of = asked(LossSpec(**here(NotAScalar)), expected_failures={"notascalar::total_and_terms": "A vector on purpose."})
    assert of.failures == []
    assert of.count("expected failure") > 1
    assert of.count("not run") == 0


def test_what_a_component_raises_is_a_failure_with_its_words() -> None:
    (sentence, *_) = asked(LossSpec(**here(Refusing))).failures
    assert "raised ConfigError: it takes no model at all" in sentence


class Refusing(Loss):
    def forward(self, model: Any, batch: Batch) -> LossOutput:
        raise ConfigError("it takes no model at all")


def test_each_component_of_a_plugin_is_a_test_of_pytest(site: Site) -> None:
    both = PLUGIN.format(body=LOSS.format(name="tested") + "\n    " + LOSS.format(name="tested").replace("One", "Two"))
    summed = """
    from zoo_core import Loss, LossOutput

    class Two(Loss):
        def forward(self, model, batch):
            return LossOutput(-model.log_prob(batch["image"]).sum(), {})
    """
    both = both.replace('"one", target="zoo_tested.parts:Two"', '"two", target="zoo_tested.two:Two"')
    site.install("tested", both)
    checks = """
    from zoo_core.testing import component_checks

    @component_checks("tested")
    def test_component(check):
        check()
    """
    write(site.folder, {"zoo_tested/two.py": summed, "test_it.py": checks})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_it.py"]
    path = {"PYTHONPATH": str(site.folder), "PYTHONDONTWRITEBYTECODE": "1", "ZOO_PLUGINS": "tested", "PATH": ""}
    run = subprocess.run(command, cwd=site.folder, env=path, capture_output=True, text=True, timeout=120)
    assert "1 failed, 2 passed" in run.stdout, run.stdout + run.stderr
    assert "FAILED test_it.py::test_component[tested/two]" in run.stdout
    assert "tested/two::mean_over_the_batch: a batch of" in run.stdout
