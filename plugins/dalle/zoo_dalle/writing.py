"""Codes one after another, each drawn given all before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo_core import ConfigError
from zoo_dalle.stream import Stream
from zoo_dalle.transformer import Memory


@dataclass(frozen=True)
class Choice:
    """How the next token is drawn from its logits.

    Attributes:
        temperature: divides the logits; 0 takes the largest.
        top_k: of the k most likely alone; None of all.
        top_p: of the most likely alone that together have this probability (nucleus sampling).
            The curious case of neural text degeneration (Holtzman et al., 2020) https://arxiv.org/abs/1904.09751

    Raises:
        ConfigError: a value cannot be used.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: must be a number of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k: must be a positive integer, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: must be above 0 and at most 1, got {self.top_p}")

    def __call__(self, logits: Tensor, u: Tensor) -> Tensor:
        """The tokens (B,) at which the distribution functions of softmax(logits), (B, K), pass u in [0, 1), (B,)."""
        if self.temperature == 0:
            return logits.argmax(-1)
        p = self.probabilities(logits)
        cumulative = p.double().cumsum(-1)
        total = cumulative[:, -1:].contiguous()
        k = torch.searchsorted(cumulative, u.unsqueeze(-1) * total, right=True)
        # Rounding may put u past the last token that has a probability.
        return torch.minimum(k, torch.searchsorted(cumulative, total)).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each token, (B, K), up to a factor; 0 for those that are left out."""
        # From the largest on, since a small temperature would make it infinite.
        p = ((logits - logits.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_k is not None and self.top_k < p.shape[-1]:
            p = p * (p >= p.topk(self.top_k).values[:, -1:])
        if self.top_p is not None and self.top_p < 1:
            falling, order = p.sort(descending=True)
            before = falling.cumsum(-1) - falling
            kept = before < self.top_p * falling.sum(-1, keepdim=True)
            p = p * torch.zeros_like(kept).scatter(-1, order, kept)
        return p


@torch.no_grad()
def write_codes(
    stream: Stream,
    starts: Tensor,
    text: Tensor | None,
    noise: Tensor,
    *,
    choice: Choice,
    known: Tensor | None = None,
    guidance: float = 1.0,
    unguided: tuple[Tensor, Tensor | None] | None = None,
) -> Iterator[Tensor]:
    """Draws the codes of a batch of images; gives them (B, n) after every code, so that a picture can be watched.

    Args:
        starts: (B,). text: tokens (B, length), or None.
        noise: uniform in [0, 1), (B, count), which with the logits settles every choice.
        known: the first codes (B, m), which stay.
        guidance: g in l + (g - 1) (l - l_0), for logits l and l_0 = those under ``unguided``; 1 is none.
            Classifier-free diffusion guidance (Ho & Salimans, 2022) https://arxiv.org/abs/2207.12598
        unguided: starts and text of l_0, which a doubled batch computes along.
    """
    stream, batch = stream.for_writing(), len(starts)
    codes, places = starts.new_zeros(batch, stream.count), stream.place_embedding()
    done = 0 if known is None else known.shape[1]
    if known is not None:
        codes[:, :done] = known
    copies = 1 if guidance == 1 or unguided is None else 2
    x = stream.opening(starts, text)
    if copies == 2 and unguided is not None:
        x = torch.cat([x, stream.opening(*unguided)])
    x = torch.cat([x, stream.embedded(codes[:, :done].repeat(copies, 1))], 1)
    memory = Memory(stream.transformer, batch * copies)
    for i in range(done, stream.count):
        logits = stream.code_logits(stream.transformer(x, memory)[:, -1])
        if copies == 2:
            given, free = logits.chunk(2)
            logits = given + (guidance - 1) * (given - free)
        codes[:, i] = choice(logits, noise[:, i])
        yield codes[:, : i + 1]
        x = stream.code(codes[:, i : i + 1].repeat(copies, 1)) + places[i]


def last(steps: Iterator[Tensor]) -> Tensor:
    """The last of them."""
    *_, end = steps
    return end


@torch.no_grad()
def write_text(stream: Stream, starts: Tensor, known: Tensor, noise: Tensor, choice: Choice, vocabulary: int) -> Tensor:
    """Text tokens (B, n) that go on from known ones (B, m), until all have ended or there is no more room.

    Args:
        noise: as ``write_codes``, (B, length).
        vocabulary: of the tokens that exist; others are never drawn.
    """
    assert stream.text is not None
    end = stream.text.vocabulary
    text, x, memory = known, stream.opening(starts, known), Memory(stream.transformer, len(starts))
    over = torch.zeros_like(starts, dtype=torch.bool)
    for i in range(known.shape[1], stream.text_length):
        logits = stream.text.next(stream.transformer(x, memory)[:, -1]).float()
        logits[:, vocabulary:end] = -torch.inf
        token = choice(logits, noise[:, i]).masked_fill(over, end)
        text, over = torch.cat([text, token[:, None]], 1), token == end
        if over.all():
            break
        x = stream.text(token[:, None], first=i)
    return text


def noise_of(seed: int, n: int, count: int) -> Tensor:
    """Uniform noise in [0, 1), float64 (n, count), of which row j depends on seed and j alone.

    Raises:
        ConfigError: the seed is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed: must be at least 0, got {seed}")
    return torch.from_numpy(np.stack([np.random.default_rng((seed, j)).random(count) for j in range(n)]))
