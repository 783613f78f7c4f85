"""Whether drawn pictures lead back to their captions, by scorers whose answers are known."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_metrics.text import retrieval
from zoo_metrics.text.retrieval import CaptionRetrieval

from tests.registered import model as unconditional
from zoo_core import Batch, ConfigError, GenerativeModel, Measurement, build, evaluate, from_pretrained, save_pretrained
from zoo_core.data import InMemory

DATA = (1, 2, 2)
TOP1, TOP5 = "caption_retrieval_accuracy", "caption_retrieval_accuracy_top5"


class Scorer(GenerativeModel):
    """How near the first value of a picture is to the number that a caption is."""

    data_shape = DATA

    def __init__(self, s: Any = lambda a, b: -(a - b).abs()) -> None:
        super().__init__()
        self.s = s

    def similarities(self, x: Tensor, captions: Sequence[str]) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return self.s(x[:, 0, 0, :1], torch.tensor([float(caption) for caption in captions]))

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Draws(GenerativeModel):
    """Draws of a caption, which is a number, a picture of what it makes of it."""

    def __init__(self, answer: Any = torch.clone) -> None:
        super().__init__()
        self.data_shape, self.answer, self.numbers = DATA, answer, torch.tensor([])

    def given(self, batch: Batch) -> "Draws":
        told = Draws(self.answer)
        told.numbers = torch.tensor([float(caption) for caption in batch["caption"]])
        return told

    def draw(self, n: int) -> Tensor:
        return self.answer(self.numbers)[:, None, None, None].expand(-1, *DATA)


@pytest.fixture(autouse=True)
def scorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Checkpoints by their names."""
    known: dict[str, Any] = {"near": Scorer().train()}
    retrieval.loaded.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(retrieval, "from_pretrained", lambda name: known.get(name) or from_pretrained(name))
        yield known
    retrieval.loaded.cache_clear()


def measured(answer: Any, numbers: Sequence[float], *sizes: int, name: str = "near") -> dict[str, Measurement]:
    metric = CaptionRetrieval(scorer=name)
    captions = [str(number) for number in numbers]
    for size in sizes or (len(numbers),):
        part, captions = captions[:size], captions[size:]
        told: dict[str, Any] = {"caption": part, "image": torch.zeros(len(part), *DATA)}
        model = Draws(answer).given(told)
        told["sample"] = model.sample(len(part))
        metric.update(model, told)
    return metric.compute()


def values(found: dict[str, Measurement]) -> list[float]:
    assert list(found) == [TOP1, TOP5]
    return [m.value for m in found.values()]


def test_a_model_that_draws_what_it_is_told_is_always_right() -> None:
    found = measured(torch.clone, range(20))
    assert values(found) == [1, 1]
    assert found[TOP1][1:3] == (0, 20)
    assert found[TOP1].about == {"scorer": "near"}


@pytest.mark.parametrize(("off", "right"), [(0.4, [1, 1]), (0.6, [0.05, 1]), (2.4, [0.05, 1]), (2.6, [0.05, 0.25])])
def test_captions_as_similar_come_before_its_own(off: float, right: list[float]) -> None:
    """A draw of i + off has round(2 off) numbers nearer than i; the last ones have fewer behind them."""
    assert values(measured(lambda i: i + off, range(20))) == pytest.approx(right, abs=0.001)


def test_equal_captions_do_not_count_against_each_other() -> None:
    assert values(measured(torch.clone, [1, 2] * 10)) == [1, 1]
    assert values(measured(lambda i: 3 - i, [1, 2] * 10)) == [0, 0]


def test_what_is_just_as_similar_counts_against_it() -> None:
    """Of a scorer to whom all is one, a caption is first among no more than those that are equal to it."""
    assert values(measured(lambda i: i * 0 + 3, [1, 5, 1, 5])) == [0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_wrong(value: float) -> None:
    answer = lambda i: torch.where(i == 3, value, i)  # noqa: E731
    assert values(measured(answer, range(10))) == [0.9, 0.9]


def test_rows_are_pictures_and_columns_captions(scorer: dict[str, Any]) -> None:
    """A scorer that prefers large captions: the pictures of all but the largest are found wrong."""
    scorer["large"] = Scorer(lambda a, b: a * 0 + b)
    assert values(measured(torch.clone, range(10), name="large")) == [0.1, 0.5]


def test_captions_of_other_batches_do_not_count() -> None:
    apart = measured(lambda i: i + 0.6, range(20), *[1] * 20)
    assert values(apart) == [1, 1]
    found = measured(lambda i: i + 0.6, range(20), 10, 10)
    assert found[TOP1].value == 0.1
    assert found[TOP1].error == pytest.approx(math.sqrt(0.09 / 19))


def test_states_of_two_processes_add_up() -> None:
    metric = CaptionRetrieval(scorer="near")
    halves = [CaptionRetrieval(scorer="near") for _ in range(2)]
    for half, numbers in zip(halves, (range(4), range(4, 12)), strict=True):
        told = {"caption": [str(n) for n in numbers]}
        sample = torch.tensor([n + 0.6 * (n > 5) for n in numbers])[:, None, None, None].expand(-1, *DATA)
        half.update(Draws().given(told), {**told, "sample": sample})
    metric.state = {name: halves[0].state[name] + halves[1].state[name] for name in halves[0].state}
    assert metric.compute()[TOP1][0::2][:2] == (7 / 12, 12)


def test_it_takes_part_in_an_evaluation_by_name(scorer: dict[str, Any]) -> None:
    data = InMemory(
        "random", "test", {"image": torch.zeros(23, *DATA, dtype=torch.uint8), "caption": [str(i) for i in range(23)]}
    )
    metric = build({"type": "metrics/caption_retrieval", "scorer": "near"})
    found = evaluate(Draws(lambda i: i + 0.6), [metric], data, batch=10)
    assert found[TOP1].value == pytest.approx(3 / 23)
    assert found[TOP1][2:5] == (23, "1", "higher")
    assert list(metric.parameters()) == []


def test_a_saved_checkpoint_is_loaded_by_its_folder(tmp_path: Path) -> None:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    config = {"type": "dalle/scorer", "encoder": encoder, "embedding": 4, "vocabulary": 256, "text_length": 4}
    model = build({**config, "dim": 8, "depth": 1, "heads": 2}, data_shape=DATA).eval()
    metric = CaptionRetrieval(scorer=str(save_pretrained(model, tmp_path / "scorer")))
    x, captions = torch.rand(6, *DATA), ["a", "b", "c", "d", "e", "f"]
    told = {"caption": captions, "sample": x}
    with torch.no_grad():
        metric.update(Draws(), told)
        s = model.similarities(x, captions)
    own = s.diagonal()[:, None]
    assert metric.compute()[TOP1].value == pytest.approx(((s >= own).sum(1) == 1).double().mean().item())


# what is refused


def test_a_checkpoint_that_cannot_compare_is_refused(scorer: dict[str, Any]) -> None:
    scorer["vae"] = unconditional()
    with pytest.raises(
        ConfigError, match=r"^scorer: 'vae' is a VAE, which has no similarities of pictures and captions"
    ):
        measured(torch.clone, range(3), name="vae")


def test_data_without_captions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'caption_retrieval' needs data with captions"):
        CaptionRetrieval(scorer="near").update(Draws(), {"sample": torch.zeros(2, *DATA)})


def test_a_model_without_captions_is_refused() -> None:
    told = {"sample": torch.zeros(2, *DATA), "caption": ["1", "2"]}
    with pytest.raises(ConfigError, match=r"^metric 'caption_retrieval' needs a model .*; vae/vae has none$"):
        CaptionRetrieval(scorer="near").update(unconditional(), told)


def test_nothing_is_nothing() -> None:
    assert CaptionRetrieval(scorer="near").compute() == {}
