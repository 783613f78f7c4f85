"""One stream of tokens, and what comes next at each place of it."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import ConfigError, Shape
from zoo_dalle.masks import Layout, Masks, layer_masks
from zoo_dalle.transformer import Transformer


class TextTokens(nn.Module):
    """Text tokens 0 to ``vocabulary`` - 1 at places 0 to ``length`` - 1, and the end, which has a token at each place.

    Args:
        vocabulary: V; as a token V stands for the end, and for all places after it.
    """

    def __init__(self, vocabulary: int, length: int, dim: int) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.token = embedding(vocabulary, dim)
        self.end = nn.Parameter(0.02 * torch.randn(length, dim))
        self.place = nn.Parameter(0.02 * torch.randn(length, dim))
        self.next = output(dim, vocabulary + 1)

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Tokens (B, n) at the places from ``first`` on → (B, n, dim)."""
        places = slice(first, first + tokens.shape[1])
        over = (tokens == self.vocabulary).unsqueeze(-1)
        embedded = self.token(tokens.clamp(max=self.vocabulary - 1))
        return torch.where(over, self.end[places], embedded) + self.place[places]


class Stream(nn.Module):
    """A start, text tokens, and codes in raster order; the next token at each place, from all before it.

    Text and codes have vocabularies and outputs of their own: at the place of a code nothing but a code can follow.

    Args:
        starts: how many different starts there are, such as labels.
        codes: how many different codes.
        places: the shape of the codes of one image.
        text: (vocabulary, length), None where there is none.
    """

    def __init__(
        self,
        starts: int,
        codes: int,
        places: Shape,
        dim: int,
        depth: int,
        heads: int,
        *,
        text: tuple[int, int] | None = None,
        attention: Masks = "full",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim: must be a multiple of the {heads} heads, got {dim}")
        if attention != "full" and len(places) != 2:
            raise ConfigError(f"attention: {attention!r} is for codes on a grid, not of shape {tuple(places)}")
        self.places, self.codes = tuple(places), codes
        self.text = TextTokens(*text, dim) if text else None
        self.start, self.code = embedding(starts, dim), embedding(codes, dim)
        self.axes = nn.ParameterList(nn.Parameter(0.02 * torch.randn(size, dim)) for size in places)
        layout = Layout(1 + self.text_length, *places) if len(places) == 2 else Layout(1, 1, math.prod(places))
        self.transformer = Transformer(
            dim, heads, dim // heads, layer_masks(attention, depth), layout, checkpointing=checkpointing
        )
        self.next_code = output(dim, codes)

    @property
    def text_length(self) -> int:
        return self.text.length if self.text else 0

    @property
    def count(self) -> int:
        """How many codes an image has."""
        return math.prod(self.places)

    def forward(self, starts: Tensor, text: Tensor | None, codes: Tensor) -> tuple[Tensor | None, Tensor]:
        """Logits of every token, given those before it.

        Args:
            starts: (B,). text: tokens (B, length), or None. codes: (B, count).

        Returns:
            Of the text (B, length, vocabulary + 1), the last being the end, or None; of the codes (B, count, codes).
        """
        x = torch.cat([self.opening(starts, text), self.embedded(codes[:, :-1])], 1)
        h = self.transformer(x)
        of_text = None if self.text is None else self.text.next(h[:, : self.text_length]).float()
        return of_text, self.code_logits(h[:, self.text_length :])

    def opening(self, starts: Tensor, text: Tensor | None) -> Tensor:
        """Start and text as the transformer sees them, (B, 1 + n, dim)."""
        start = self.start(starts).unsqueeze(1)
        return start if self.text is None or text is None else torch.cat([start, self.text(text)], 1)

    def embedded(self, codes: Tensor) -> Tensor:
        """The first codes (B, n) as the transformer sees them, (B, n, dim)."""
        embedded: Tensor = self.code(codes)
        return embedded + self.place_embedding()[: codes.shape[1]]

    def code_logits(self, h: Tensor) -> Tensor:
        """Of the next code, in float32, for features h (*, dim) → (*, codes)."""
        logits: Tensor = self.next_code(h)
        return logits.float()

    def for_writing(self) -> "Stream":
        """One that computes the same; on a CPU a copy, its matrices laid out for products with few rows."""
        if self.start.weight.device.type != "cpu":
            return self
        stream = copy.deepcopy(self).requires_grad_(False)
        for layer in stream.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.data = layer.weight.data.t().contiguous().t()
        return stream

    def place_embedding(self) -> Tensor:
        """(count, dim): the sum of an embedding for each axis, such as row and column."""
        summed: Any = 0
        for i, axis in enumerate(self.axes):
            summed = summed + axis.reshape(-1, *[1] * (len(self.places) - 1 - i), axis.shape[-1])
        if not len(self.places):
            return self.start.weight.new_zeros(1, self.start.embedding_dim)
        return summed.reshape(self.count, -1)  # type: ignore[no-any-return]


def embedding(count: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(count, dim)
    nn.init.normal_(table.weight, std=0.02)
    return table


def output(dim: int, count: int) -> nn.Linear:
    linear = nn.Linear(dim, count)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
