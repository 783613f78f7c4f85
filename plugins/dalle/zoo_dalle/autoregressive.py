"""A transformer over the codes of an image: a prior for models with a quantizer."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import Batch, ConfigError, DataError, GenerativeModel, NonNegativeInt, PositiveInt, Shape
from zoo_dalle.dalle import taken
from zoo_dalle.masks import Depth
from zoo_dalle.stream import Stream
from zoo_dalle.writing import Choice, last, write_codes

Labels = int | Sequence[int] | Tensor


class Autoregressive(GenerativeModel):
    """p(k) = Π_i p(k_i | k_1, …, k_{i-1}) for codes k in raster order, or p(k|y) = Π_i p(k_i | k_<i, y) for labels y.

    Its data are codes: to be fitted to those of a model with a quantizer, as its prior.

    Generating long sequences with sparse transformers (Child et al., 2019) https://arxiv.org/abs/1904.10509
    Neural discrete representation learning (van den Oord et al., 2017) https://arxiv.org/abs/1711.00937

    Args:
        data_shape: of the codes of one image.
        codebook_size: each is from 0 to this - 1.
        classes: how many labels y there are; 0 for none. p(k) is then 1/classes Σ_y p(k|y).

    Raises:
        DataError: a label is none of the classes.
    """

    def __init__(
        self,
        data_shape: Shape,
        codebook_size: PositiveInt,
        classes: NonNegativeInt = 0,
        dim: PositiveInt = 128,
        depth: Depth = 4,
        heads: PositiveInt = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.data_shape, self.codebook_size, self.classes = tuple(data_shape), codebook_size, classes
        starts = max(1, classes)
        self.stream = Stream(starts, codebook_size, self.data_shape, dim, depth, heads, checkpointing=checkpointing)

    def blocks(self) -> Iterable[nn.Module]:
        return self.stream.transformer.blocks

    def log_prob(self, x: Tensor, *, label: Labels | None = None) -> Tensor:
        """log p(k), or log p(k|label), exact, in nats, (B,), for codes int64 (B, *data_shape)."""
        if label is None and self.classes:
            each = [self.log_prob(x, label=y) for y in range(self.classes)]
            return torch.stack(each).logsumexp(0) - torch.tensor(float(self.classes)).log()
        k = self.rows(x)
        _, logits = self.stream(self.starts(label, len(k)), None, k)
        return taken(logits, k).sum(1)

    def draw(
        self,
        n: int,
        *,
        label: int | Sequence[int] | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Codes (n, *data_shape).

        Args:
            label: y, one or n; default drawn.
            temperature, top_k, top_p: see ``Choice``.
        """
        if label is None:
            label = torch.randint(max(1, self.classes), (n,))
        starts, noise = self.starts(label, n), torch.rand(n, self.stream.count, dtype=torch.float64)
        choice = Choice(temperature, top_k, top_p)
        return last(write_codes(self.stream, starts, None, noise.to(starts.device), choice=choice)).reshape(
            n, *self.data_shape
        )

    def given(self, batch: Batch) -> GenerativeModel:
        """p(k|label) under the labels of a batch; without labels, or of a model that knows none, the model itself."""
        return Labelled(self, batch["label"]) if self.classes and "label" in batch else self

    def rows(self, x: Tensor) -> Tensor:
        """Codes (B, *data_shape) as (B, count)."""
        if x.is_floating_point() or tuple(x.shape[1:]) != self.data_shape:
            raise ConfigError(f"autoregressive models codes, int64 of shape {self.data_shape}; got {x.dtype} {x.shape}")
        return x.reshape(len(x), -1)

    def starts(self, label: Any, n: int) -> Tensor:
        """The start of each of n streams, (n,)."""
        y = torch.as_tensor(0 if label is None else label, device=self.stream.start.weight.device)
        if y.is_floating_point() or y.dtype == torch.bool or y.dim() > 1 or (y.dim() and len(y) != n):
            raise DataError(f"label: must be one integer, or {n} of them, got {y.dtype} {tuple(y.shape)}")
        if not y.is_meta and bool(((y < 0) | (y >= max(1, self.classes))).any()):
            raise DataError(f"label: must be from 0 to {self.classes - 1}, the classes of the prior, got {y.tolist()}")
        return y.long().expand(n)


class Labelled(GenerativeModel):
    """p(k|y) for the labels of a batch: what ``Autoregressive`` is under them. It owns no parameters."""

    def __init__(self, model: Autoregressive, label: Tensor) -> None:
        super().__init__()
        self.model, self.label = model, label
        self.data_shape, self.codebook_size = model.data_shape, model.codebook_size

    def draw(self, n: int) -> Tensor:
        """Under the labels of the batch in turn."""
        return self.model.draw(n, label=self.label[torch.arange(n) % len(self.label)])

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(k|y) for codes of as many images as there are labels."""
        return self.model.log_prob(x, label=self.label)
