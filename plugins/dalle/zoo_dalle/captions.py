"""What models that read captions have in common: a tokenizer of their data, saved with them."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch

from zoo_core import Bounds, ConfigError, DataError, GenerativeModel
from zoo_core.data import Dataset
from zoo_dalle.tokenizer import CaptionTokenizer

# tokenizers takes memory for all of them at once.
Vocabulary = Annotated[int, Bounds("an integer from 256, one for each byte, to 2^20", low=256, high=2**20)]
TooLong = Literal["truncate", "refuse"]

TOKENIZER = "tokenizer.json"
CHUNK = 1000  # captions read at a time


class CaptionReader(GenerativeModel):
    """A model that reads captions.

    Attributes:
        tokenizer: of captions; of single bytes until it has been trained.
        vocabulary: tokens it has at most.
        text_length: tokens of a caption, at most.
    """

    tokenizer: CaptionTokenizer
    vocabulary: int
    text_length: int

    def before_training(self, data: Dataset) -> None:
        """Makes a tokenizer from the column ``caption``."""
        if "caption" not in data.columns:
            columns = ", ".join(data.columns)
            raise DataError(f"{type(self).__name__} learns from captions; {data.name!r} has the columns {columns}")
        places = torch.split(torch.arange(len(data)), CHUNK)
        captions = [caption for part in places for caption in data.batch(part)["caption"]]
        self.tokenizer = CaptionTokenizer.train(captions, self.vocabulary)
        self.token_rows(captions)  # warns if some are too long

    def files(self) -> Mapping[str, bytes]:
        return {TOKENIZER: self.tokenizer.serialized().encode()}

    def take_files(self, files: Mapping[str, bytes]) -> None:
        tokenizer = CaptionTokenizer(files[TOKENIZER].decode(errors="replace"))
        if len(tokenizer) > self.vocabulary:
            raise ConfigError(f"vocabulary: is {self.vocabulary}, but {TOKENIZER} has {len(tokenizer)} tokens")
        self.tokenizer = tokenizer

    def token_rows(
        self, texts: Sequence[str], *, dropout: float = 0.0, too_long: TooLong = "truncate"
    ) -> list[list[int]]:
        """The tokens of each caption, ``text_length`` at most.

        Args:
            dropout: how often a merge of byte pairs is left out.
            too_long: what to do with a caption of more tokens.

        Raises:
            DataError: a caption is no text, or too long and to be refused.
        """
        rows = self.tokenizer.encode(texts, dropout)
        over = [text for text, row in zip(texts, rows, strict=True) if len(row) > self.text_length]
        if over and not dropout:
            told = f"{len(over)} of {len(rows)} captions have more than {self.text_length} tokens, such as {over[0]!r}"
            if too_long == "refuse":
                raise DataError(told)
            warnings.warn(f"{told}; what is over is left out", stacklevel=3)
        return [row[: self.text_length] for row in rows]
