"""Byte pairs: exact round trips, spelling at random, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_dalle.tokenizer import CaptionTokenizer, padded

from zoo_core import CheckpointError, ConfigError, DataError
from zoo_core.data import load


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return load("shapes", "train", length=500, image_size=16).batch(torch.arange(500))["caption"]


@pytest.fixture(scope="module")
def tokenizer(captions: list[str]) -> CaptionTokenizer:
    return CaptionTokenizer.train(captions, 380)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_tokens_give_the_lower_cased_text_back(tokenizer: CaptionTokenizer, text: str) -> None:
    normal = tokenizer.tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == normal
    if text.isascii():
        assert normal == text.lower()


@given(texts, st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=100, deadline=None)
def test_however_it_is_spelled_the_text_is_the_same(tokenizer: CaptionTokenizer, text: str, dropout: float) -> None:
    tokens = tokenizer.encode([text], dropout)[0]
    assert tokenizer.decode(tokens) == tokenizer.tokenizer.normalizer.normalize_str(text)


def test_without_merges_there_are_bytes(tokenizer: CaptionTokenizer) -> None:
    text = "two hélices ☂"
    assert len(tokenizer.encode([text], dropout=1.0)[0]) == len(text.encode())
    assert len(CaptionTokenizer.train([], 256).encode([text])[0]) == len(text.encode())


def test_almost_no_dropout_spells_as_the_library_does(tokenizer: CaptionTokenizer, captions: list[str]) -> None:
    """The merges drawn here, none of them left out, against those of ``tokenizers``."""
    assert tokenizer.encode(captions, dropout=1e-12) == tokenizer.encode(captions)


def test_dropout_follows_torch_s_generator(tokenizer: CaptionTokenizer, captions: list[str]) -> None:
    def spelled(seed: int) -> list[list[int]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tokenizer.encode(captions[:20], dropout=0.3)

    assert spelled(1) == spelled(1)
    assert spelled(1) != spelled(2)


def test_a_merge_is_left_out_as_often_as_asked() -> None:
    """ "ab" has one merge, so it is spelled in two tokens with just that probability."""
    tokenizer = CaptionTokenizer.train(["ab"] * 10, 257)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pairs = sum(len(row) == 2 for row in tokenizer.encode(["ab"] * 4000, dropout=0.25))
    assert abs(pairs / 4000 - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_frequent_words_become_one_token(tokenizer: CaptionTokenizer) -> None:
    assert len(tokenizer.encode([" red circle"])[0]) == 2


def test_training_is_repeatable(captions: list[str], tokenizer: CaptionTokenizer) -> None:
    assert CaptionTokenizer.train(captions, 380).serialized() == tokenizer.serialized()


def test_what_is_written_is_read(tokenizer: CaptionTokenizer, captions: list[str]) -> None:
    twin = CaptionTokenizer(tokenizer.serialized())
    assert len(twin) == len(tokenizer) <= 380
    assert twin.encode(captions) == tokenizer.encode(captions)
    assert twin.encode(captions, dropout=1.0) == tokenizer.encode(captions, dropout=1.0)


@pytest.mark.parametrize("serialized", ["", "{", "[]", '{"model": {"type": "BPE"}}', "\ufffd"])
def test_what_is_no_tokenizer_is_refused(serialized: str) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        CaptionTokenizer(serialized)


def test_a_tokenizer_of_words_is_refused() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(CheckpointError, match="WordLevel"):
        CaptionTokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())


def test_there_must_be_room_for_the_bytes() -> None:
    with pytest.raises(ConfigError, match="at least 256"):
        CaptionTokenizer.train(["a"], 255)


@pytest.mark.parametrize("caption", [None, 3, b"red", "half a pair \ud83d"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_no_text_is_refused(tokenizer: CaptionTokenizer, caption, dropout: float) -> None:
    with pytest.raises(DataError, match="a caption must be"):
        tokenizer.encode(["red", caption], dropout)


def test_padding_fills_and_cuts() -> None:
    assert padded([[1, 2, 3], [], [4]], 2, end=9).tolist() == [[1, 2], [9, 9], [4, 9]]
    assert padded([], 2, end=9).shape == (0, 2)
