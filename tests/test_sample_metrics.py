"""Metrics that compare draws with data: features made once, kept, shared, and equal on any number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests import tiny
from zoo_core import (
    ConfigError,
    DataError,
    Extractor,
    GenerativeModel,
    Measurement,
    Metric,
    SampleMetric,
    build,
    evaluate,
)
from zoo_core.components import Batch
from zoo_core.data import InMemory, Preprocessing
from zoo_core.evaluation.features import default_extractor
from zoo_core.metrics import as_stored

SHAPE = (1, 4, 3)


class Counting(Extractor):
    """Pixels, and how many images have been looked at."""

    seen: ClassVar[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(len(images))
        return images.flatten(1)


class Both(SampleMetric):
    """Means and numbers of what was compared."""

    def __init__(self, extractor: Extractor | None = None, name: str = "mean") -> None:
        super().__init__(extractor)
        self.name = name

    def compute(self) -> dict[str, Measurement]:
        real, drawn = self.real, self.kept("generated")
        return {
            f"{self.name}_real": Measurement(float(real.double().mean()), 0, len(real)),
            f"{self.name}_drawn": Measurement(float(drawn.double().mean()), 0, len(drawn)),
        }


class Draws(GenerativeModel):
    def __init__(self) -> None:
        super().__init__()
        self.data_shape = SHAPE

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *self.data_shape)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    Counting.seen.clear()


def pictures(n: int = 23, seed: int = 0) -> InMemory:
    image = torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return InMemory("noise", "test", {"image": image})


def test_each_image_of_the_data_is_looked_at_once_and_never_again() -> None:
    data = pictures()
    first = evaluate(Draws(), [Both(Counting())], data, batch=5)
    assert sum(Counting.seen) == 2 * 23
    Counting.seen.clear()
    assert evaluate(Draws(), [Both(Counting())], data, batch=5) == first
    assert sum(Counting.seen) == 23  # the draws alone
    for other in (pictures(seed=1), pictures(20)):
        Counting.seen.clear()
        evaluate(Draws(), [Both(Counting())], other, batch=5)
        assert sum(Counting.seen) == 2 * len(other)


def test_metrics_with_equal_extractors_share_their_work() -> None:
    evaluate(Draws(), [Both(Counting(), "a"), Both(Counting(), "b")], pictures(), batch=5)
    assert sum(Counting.seen) == 2 * 23


def test_the_data_are_compared_as_stored_and_not_as_the_model_sees_them() -> None:
    data = pictures()
    exact = float(data.batch(torch.arange(23))["image"].double().mean()) / 255  # type: ignore[union-attr]
    for preprocessing in ({"binarize": "dynamic"}, {"dequantize": "uniform"}, {}):
        model = Draws()
        model.preprocessing = Preprocessing.from_dict(preprocessing)
        found = evaluate(model, [Both(Counting())], data)
        assert found["mean_real"].value == pytest.approx(exact, abs=1e-7)


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    data = pictures()
    with pytest.warns(UserWarning, match="cannot write"):
        first = evaluate(Draws(), [Both(Counting())], data)
    assert evaluate(Draws(), [Both(Counting())], data) == first


def test_bytes_and_floats_are_the_same_picture() -> None:
    stored = pictures().batch(torch.arange(23))["image"]
    assert isinstance(stored, Tensor)
    extractor = Counting()
    assert torch.equal(extractor.features(stored), extractor.features(stored / 255))
    assert torch.equal(as_stored(stored / 255 + 0.001), as_stored(stored))
    assert torch.equal(as_stored(torch.tensor([[[[-0.5, 1.5]]]])), torch.tensor([[[[0.0, 1.0]]]]))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3), torch.zeros(2, *SHAPE).long(), torch.full((2, *SHAPE), torch.nan)]
)
def test_what_is_no_picture_is_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="features need images"):
        Counting().features(images)


def test_draws_of_another_shape_are_refused() -> None:
    class Codes(Draws):
        def draw(self, n: int) -> Tensor:
            return torch.zeros(n, 7, dtype=torch.int64)

    with pytest.raises(ConfigError, match=r"Codes draws torch.int64 of shape \(7,\), and the data are of shape"):
        evaluate(Codes(), [Both(Counting())], pictures())


def test_the_default_extractor_is_the_one_for_such_images() -> None:
    assert default_extractor((1, 28, 28)) == "metrics/mnist_classifier"
    assert default_extractor((3, 32, 32)) == "metrics/cifar10_classifier"
    assert default_extractor(SHAPE) == "metrics/pixels"
    metric = Both()
    evaluate(Draws(), [metric], pictures())
    assert metric.features_of.identity["extractor"] == "metrics/pixels"
    with pytest.raises(ConfigError, match="extractor: name one"):
        Both().named("fd")


def test_an_extractor_that_is_no_classifier_says_so() -> None:
    with pytest.raises(ConfigError, match="'pixels' is no classifier"):
        build("metrics/pixels").class_logits(torch.zeros(2, *SHAPE))


class Order(Metric):
    """The rows as they came, in the order of the examples."""

    def update(self, model: Any, batch: Batch) -> None:
        self.keep(label=batch["label"])

    def compute(self) -> dict[str, Measurement]:
        kept = self.kept("label")
        return {"sorted": Measurement(float((kept == torch.arange(len(kept))).all()), 0, len(kept))}


def test_rows_keep_the_order_of_the_examples() -> None:
    labelled = InMemory("n", "test", {"image": torch.zeros(23, *SHAPE, dtype=torch.uint8), "label": torch.arange(23)})
    assert evaluate(Draws(), [Order()], labelled, batch=4)["sorted"][:3] == (1, 0, 23)


PROCESS = """
import json, sys
import torch
from tests import test_sample_metrics as t
from zoo_core import ConfigError, build, evaluate
from zoo_core.data import InMemory

rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
labelled = InMemory("n", "test", {**t.pictures()._columns, "label": torch.arange(23)})
found = [evaluate(t.Draws(), [t.Both(t.Counting()), t.Order()], labelled, batch=4) for _ in range(2)]
usual = [build({"type": f"metrics/{name}", "extractor": "metrics/pixels"}) for name in t.USUAL]
found.append(evaluate(t.Draws(), usual, labelled, batch=4))
try:
    evaluate(t.Draws(), [t.Refusing()], labelled, batch=4)
except ConfigError as error:
    found.append({"refused": [str(error)]})
values = [{name: list(m)[:3] for name, m in values.items()} for values in found]
json.dump([values, sum(t.Counting.seen)], open(f"{out}/{world}-{rank}.json", "w"))
torch.distributed.destroy_process_group()
"""


USUAL = ("fd", "kid", "precision_recall", "density_coverage")


class Refusing(Order):
    """Finds out at the end that it has too little."""

    def compute(self) -> dict[str, Measurement]:
        raise ConfigError("too little")


def test_two_processes_measure_what_one_does_and_share_the_work(tmp_path: Path) -> None:
    jobs = [(rank, world) for world in (1, 2) for rank in range(world)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(world), str(tmp_path / f"store-{world}"), str(tmp_path)],
            env={**os.environ, "ZOO_CACHE": str(tmp_path / f"cache-{world}")},
        )
        for rank, world in jobs
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    (one, looked), (first, own), (second, others) = (
        json.loads((tmp_path / f"{world}-{rank}.json").read_text()) for rank, world in jobs
    )
    assert one == first == second
    assert len(one[2]) == 6
    assert one[3] == {"refused": ["too little"]}
    assert looked == own + others == 23 * 3
    assert min(own, others) > 23


def test_a_model_of_the_zoo_is_compared_by_name() -> None:
    found = evaluate(tiny.vae(SHAPE), [build({"type": "metrics/fd", "extractor": "metrics/pixels"})], pictures(200))
    (name,) = found
    assert name == "fd (pixels)"
    assert found[name].about["extractor"] == "metrics/pixels"
    assert (found[name].about["d"], found[name].n) == (12, 200)
