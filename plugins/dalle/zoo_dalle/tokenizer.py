"""Captions to tokens and back: byte-level BPE."""

import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo_core import CheckpointError, ConfigError, DataError

# What a tokenizer consists of beside its model, and what it has none of.
PARTS = {"normalizer": "Lowercase", "pre_tokenizer": "ByteLevel", "decoder": "ByteLevel"}
UNUSED = ("truncation", "padding", "added_tokens", "post_processor")


class CaptionTokenizer:
    """Byte-pair encoding of lower-cased UTF-8: every string has tokens, and they give it back.

    Neural machine translation of rare words with subword units (Sennrich et al., 2016) https://arxiv.org/abs/1508.07909
    Language models are unsupervised multitask learners (Radford et al., 2019), on bytes

    Args:
        serialized: what ``tokenizers`` writes into a ``tokenizer.json``.

    Raises:
        CheckpointError: it is no byte-level BPE.
    """

    def __init__(self, serialized: str) -> None:
        from tokenizers import Tokenizer

        self.model: dict[str, Any] = _model(serialized)
        try:
            self.tokenizer: Any = Tokenizer.from_str(serialized)
        except Exception as error:  # tokenizers raises a bare Exception
            raise CheckpointError(f"no tokenizer: {' '.join(str(error).split())}") from None

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary: int) -> "CaptionTokenizer":
        """One of at most ``vocabulary`` tokens, of which the 256 bytes are the first.

        Raises:
            ConfigError: there is no room for the bytes.
        """
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        if vocabulary < 256:
            raise ConfigError(f"vocabulary: must be at least 256, one for each byte; got {vocabulary}")
        tokenizer: Any = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.model["vocab"])

    def serialized(self) -> str:
        """As ``tokenizer.json`` holds it."""
        text: str = self.tokenizer.to_str(pretty=True)
        return text

    def encode(self, captions: Sequence[str], dropout: float = 0.0) -> list[list[int]]:
        """The tokens of each caption.

        Args:
            dropout: how often a merge is left out, so that a caption is seen in many spellings, drawn from torch's
                global generator. BPE-dropout (Provilkov et al., 2020) https://arxiv.org/abs/1910.13267

        Raises:
            DataError: a caption is no text that UTF-8 can express.
        """
        for caption in captions:
            require_text(caption)
        if dropout:
            return [self._spelled(caption, dropout) for caption in captions]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become a question mark."""
        text: str = self.tokenizer.decode(list(tokens))
        return text

    def _spelled(self, caption: str, dropout: float) -> list[int]:
        """Drawn here, since tokenizers draws from a generator that cannot be seeded."""
        normal = self.tokenizer.normalizer.normalize_str(caption)
        words = self.tokenizer.pre_tokenizer.pre_tokenize_str(normal)
        return [token for word, _ in words for token in self._pieces(word, dropout)]

    def _pieces(self, word: str, dropout: float) -> list[int]:
        """The word's bytes, merged by the lowest rank among the merges that were not left out this time."""
        pieces = list(word)
        chances = iter(torch.rand(len(word) * len(word)).tolist())
        while len(pieces) > 1:
            pairs = enumerate(itertools.pairwise(pieces))
            ranked = [(self._ranks[pair], i) for i, pair in pairs if pair in self._ranks and next(chances) >= dropout]
            if not ranked:
                break
            _, i = min(ranked)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        return [self.model["vocab"][piece] for piece in pieces]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        """How early each pair is merged."""
        merges = (m.split(" ") if isinstance(m, str) else m for m in self.model["merges"])
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}


def _model(serialized: str) -> dict[str, Any]:
    """The part ``model`` of a tokenizer that is made of what ``train`` makes it of, and of nothing else.

    tokenizers knows parts that search by any expression, or pad to any length: a file could ask for both.

    Raises:
        CheckpointError: it is another tokenizer, or its tokens are not numbered from 0.
    """
    try:
        told = json.loads(serialized)
        model: dict[str, Any] = told["model"]
        kinds = {part: (told[part] or {}).get("type") for part in ("model", *PARTS)}
        idle = [part for part in UNUSED if told[part]]
        numbers = sorted(model["vocab"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"no tokenizer: {type(error).__name__}: {' '.join(str(error).split())}") from None
    if kinds != {"model": "BPE", **PARTS} or idle:
        got = ", ".join(map(repr, [*kinds.values(), *idle]))
        raise CheckpointError(f"no tokenizer of byte pairs: it consists of {got}")
    if numbers != [*range(len(numbers))]:
        raise CheckpointError("no tokenizer: its tokens are not numbered from 0")
    return model


def padded(tokens: Sequence[Sequence[int]], length: int, end: int) -> Tensor:
    """Rows (B, length) of int64, with ``end`` where there are no more tokens; what is longer is cut."""
    rows = [[*row[:length], *[end] * (length - len(row))] for row in tokens]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(tokens), length)


def require_text(caption: Any) -> None:
    """Refuses what is no text.

    Raises:
        DataError: it is no string, or holds half of a surrogate pair.
    """
    if not isinstance(caption, str):
        raise DataError(f"a caption must be a string, got {type(caption).__name__}")
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise DataError(f"a caption must be text that UTF-8 can express, got {caption!r}") from None
