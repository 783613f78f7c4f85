"""CLIP scores by a tiny CLIP made here: what transformers itself says is the truth."""

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from zoo_metrics.text.clip_score import CLIPScore, loaded

from tests.registered import model as unconditional
from zoo_core import Batch, ConfigError, GenerativeModel, build, evaluate
from zoo_core.data import InMemory

transformers = pytest.importorskip("transformers")

CAPTIONS = ["a dot", "a dog and a cat", "a", "dd", "cat", "a dot"]
SIDE, PLACES = 24, 40


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, its tokenizer and its image processor, as the Hub has them."""
    path = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {t: i for i, t in enumerate([*letters, "do", "dog</w>", "<|startoftext|>", "<|endoftext|>"])}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    config = transformers.CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": PLACES},
        vision_config={**size, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.CLIPModel(config)
        # Random weights as they come say much the same of everything.
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.save_pretrained(path)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(path)
    return path


class Draws(GenerativeModel):
    """Draws of each caption, which is among those above, the picture of that number."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.data_shape, self.pictures = tuple(pictures.shape[1:]), pictures
        self.numbers: list[int] = []

    def given(self, batch: Batch) -> "Draws":
        told = Draws(self.pictures)
        told.numbers = [CAPTIONS.index(caption) for caption in batch["caption"]]
        return told

    def draw(self, n: int) -> Tensor:
        return self.pictures[self.numbers]


def pictures(channels: int = 3, size: tuple[int, int] = (32, 32)) -> Tensor:
    levels = torch.randint(0, 256, (6, channels, *size), generator=torch.Generator().manual_seed(0))
    return levels / 255


def batch(x: Tensor, captions: list[str] | None = None) -> dict[str, Any]:
    return {"image": x, "sample": x, "caption": captions or CAPTIONS}


def by_transformers(folder: Path, images: Tensor, captions: list[str]) -> Tensor:
    """The cosine of each picture with its caption, from PIL images, one pair at a time."""
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    found = []
    for x, caption in zip(images, captions, strict=True):
        picture = Image.fromarray((x.expand(3, -1, -1).permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
        inputs = processor(text=[caption], images=picture, return_tensors="pt", truncation=True, max_length=PLACES)
        with torch.no_grad():
            found.append((model(**inputs).logits_per_image / model.logit_scale.exp())[0, 0])
    return torch.stack(found).double()


def score(folder: Path, x: Tensor, captions: list[str] | None = None, **arguments: Any) -> Any:
    metric = CLIPScore(model=str(folder), **arguments)
    told = batch(x, captions)
    metric.update(Draws(x).given(told) if captions is None else Draws(x), told)
    return metric.compute()["clip_score"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("prompt", ["A photo depicts ", ""])
def test_it_is_the_cosine_cut_at_0_times_two_and_a_half(folder: Path, channels: int, prompt: str) -> None:
    x = pictures(channels)
    cosines = by_transformers(folder, x, [prompt + caption for caption in CAPTIONS])
    assert cosines.min() < 0 < cosines.max()  # cutting the mean would be another value
    expected = 2.5 * cosines.clamp(min=0)
    value = score(folder, x, prompt=prompt)
    assert value.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert value.error == pytest.approx(expected.std().item() / 6**0.5, abs=1e-4)
    assert value.n == 6
    about = dict(value.about)
    assert len(about.pop("weights")) == 64
    assert about == {"model": str(folder), "w": 2.5, "prompt": prompt}


def test_the_prompt_is_the_papers(folder: Path) -> None:
    x = pictures()
    assert score(folder, x) == score(folder, x, prompt="A photo depicts ")
    assert score(folder, x).value != score(folder, x, prompt="").value


def test_each_picture_is_compared_with_its_own_caption(folder: Path) -> None:
    x, others = pictures(), [CAPTIONS[i] for i in (1, 2, 3, 4, 5, 0)]
    expected = 2.5 * by_transformers(folder, x, ["A photo depicts " + caption for caption in others]).clamp(min=0)
    assert score(folder, x, others).value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert abs(score(folder, x).value - score(folder, x, others).value) > 1e-3


def test_a_caption_is_cut_where_the_model_has_no_more_places(folder: Path) -> None:
    x, long = pictures()[:1], ["a b " * 40]
    expected = 2.5 * by_transformers(folder, x, ["A photo depicts " + long[0]]).clamp(min=0)
    assert score(folder, x, long).value == pytest.approx(expected.item(), abs=1e-5)


def test_the_weights_hash_is_of_all_numbers(folder: Path, tmp_path: Path) -> None:
    """It changes with any of them, and with nothing else."""
    model = transformers.CLIPModel.from_pretrained(folder)
    first = score(folder, pictures()).about["weights"]
    for place, change in (("same", 0.0), ("other", 1e-3)):
        with torch.no_grad():
            model.text_projection.weight[0, 0] += change
        model.save_pretrained(tmp_path / place)
        transformers.CLIPProcessor.from_pretrained(folder).save_pretrained(tmp_path / place)
        assert (score(tmp_path / place, pictures()).about["weights"] == first) == (place == "same")


def test_it_takes_part_in_an_evaluation_by_name(folder: Path) -> None:
    x = pictures()
    data = InMemory("random", "test", {"image": (x * 255).round().byte(), "caption": CAPTIONS})
    metric = build({"type": "metrics/clip_score", "model": str(folder)})
    value = evaluate(Draws(x), [metric], data, batch=4)["clip_score"]
    drawn = x[[CAPTIONS.index(c) for c in CAPTIONS]]
    expected = 2.5 * by_transformers(folder, drawn, ["A photo depicts " + c for c in CAPTIONS]).clamp(min=0)
    assert value.value == pytest.approx(expected.mean().item(), abs=1e-5)
    assert value[2:5] == (6, "1", "higher")
    assert list(metric.parameters()) == []


# what is refused


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model: no CLIP model"):
        score(tmp_path, pictures())


def test_a_model_without_some_of_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """Which transformers would draw at random."""
    model = transformers.CLIPModel.from_pretrained(folder)
    some = {name: value for name, value in model.state_dict().items() if name != "text_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=some)
    transformers.CLIPProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is no whole CLIP model: it has no text_projection.weight$"):
        score(tmp_path, pictures())


def test_missing_transformers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    loaded.cache_clear()
    with pytest.raises(ConfigError, match=r"^metric 'clip_score' needs transformers: pip install transformers$"):
        score(tmp_path, pictures())


def test_data_without_captions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'clip_score' needs data with captions"):
        CLIPScore().update(Draws(pictures()), {"image": pictures(), "sample": pictures()})


def test_a_model_without_captions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'clip_score' needs a model .* given captions; vae/vae has none$"):
        CLIPScore().update(unconditional(), batch(pictures()))


@pytest.mark.parametrize("x", [torch.full((6, 7), 0.5), torch.ones(6, 3, 8, 8).long(), torch.full((6, 2, 8, 8), 0.5)])
def test_what_is_no_picture_is_refused(folder: Path, x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^metric 'clip_score' needs .*pictures"):
        score(folder, x)


def test_nothing_is_nothing() -> None:
    assert CLIPScore().compute() == {}
