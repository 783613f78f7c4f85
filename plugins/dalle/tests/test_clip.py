"""Published CLIP models as scorers, on a tiny one made here: what transformers itself says is the truth."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from zoo_dalle.clip import CLIPScorer

from zoo_core import CheckpointError, ConfigError, DataError

transformers = pytest.importorskip("transformers")

CAPTIONS = ["a dot", "a dog and a cat", "a", "dd", "cat", "a dot"]
SIDE, PLACES = 24, 12


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
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends |= {"pad_token_id": tokenizer.pad_token_id}
    config = transformers.CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": PLACES},
        vision_config={**size, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        # Random weights as they come say much the same of everything.
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.save_pretrained(path)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def scorer(folder: Path) -> CLIPScorer:
    return CLIPScorer(str(folder), batch=4)


def pictures(channels: int = 3, size: tuple[int, int] = (32, 32)) -> Tensor:
    levels = torch.randint(0, 256, (6, channels, *size), generator=torch.Generator().manual_seed(0))
    return levels / 255


def by_transformers(folder: Path, images: Tensor, captions: list[str]) -> Tensor:
    """logits_per_image of each picture with its caption, one pair at a time, from PIL images."""
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    scores = []
    for x, caption in zip(images, captions, strict=True):
        picture = Image.fromarray((x.expand(3, -1, -1).permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
        inputs = processor(text=[caption], images=picture, return_tensors="pt", truncation=True, max_length=PLACES)
        with torch.no_grad():
            scores.append(model(**inputs).logits_per_image[0, 0])
    return torch.stack(scores)


@pytest.mark.parametrize("size", [(32, 32), (24, 24), (40, 28)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_are_those_of_transformers(
    folder: Path, scorer: CLIPScorer, channels: int, size: tuple[int, int]
) -> None:
    x = pictures(channels, size)
    scores, expected = scorer.score(x, CAPTIONS), by_transformers(folder, x, CAPTIONS)
    assert scores.shape == (6,)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1  # of this model a wrong pairing shows
    torch.testing.assert_close(scorer.score(x.flip(0), CAPTIONS[::-1]), expected.flip(0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scorer.score(x.flip(0), CAPTIONS), expected, atol=1e-2)


def test_the_whole_batch_is_the_diagonal(folder: Path, scorer: CLIPScorer) -> None:
    """Of transformers' own matrix of every picture with every caption."""
    x = pictures()
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    levels = list((x * 255).round().to(torch.uint8).numpy())
    inputs = processor(
        text=CAPTIONS, images=levels, return_tensors="pt", padding=True, truncation=True, max_length=PLACES
    )
    with torch.no_grad():
        logits = scorer.model(**inputs).logits_per_image
    torch.testing.assert_close(scorer.score(x, CAPTIONS), logits.diagonal(), rtol=1e-4, atol=1e-4)


def test_a_caption_is_cut_where_the_model_has_no_more_places(folder: Path, scorer: CLIPScorer) -> None:
    x = pictures()[:1]
    torch.testing.assert_close(scorer.score(x, ["a b " * 20]), by_transformers(folder, x, ["a b " * 20]))


def test_values_outside_the_range_are_black_and_white(scorer: CLIPScorer) -> None:
    x = pictures().round()
    torch.testing.assert_close(scorer.score(3 * x - 1, CAPTIONS), scorer.score(x, CAPTIONS))


def test_no_pictures_have_no_scores(scorer: CLIPScorer) -> None:
    assert scorer.score(torch.empty(0, 3, 8, 8), []).shape == (0,)


@pytest.mark.parametrize(("images", "captions", "message"), [
    (pictures(), ["a"], "as many as there are images, 6; got 1"),
    (pictures()[:1], "a", "as many as there are images, 1; got one string"),
    (pictures()[0], ["a"] * 3, r"must be \(B, 3, H, W\) or \(B, 1, H, W\), got \(3, 32, 32\)"),
])  # fmt: skip
def test_wrong_input_is_refused(scorer: CLIPScorer, images: Tensor, captions: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scorer.score(images, captions)


def test_a_batch_of_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="batch: must be a positive integer, got 0"):
        CLIPScorer(str(folder), batch=0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no CLIP model"):
        CLIPScorer(str(tmp_path))


def test_missing_transformers_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r'needs transformers: pip install "zoo-dalle\[clip\]"'):
        CLIPScorer(str(folder))
