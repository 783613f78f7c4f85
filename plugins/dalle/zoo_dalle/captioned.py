"""A transformer over captions and images, under the captions of a batch."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributions import constraints

from zoo_core import GenerativeModel


class Captioned(GenerativeModel):
    """p(x|caption) for the captions of a batch: what ``DALLE`` is under them. It owns no parameters."""

    def __init__(self, dalle: Any, captions: Sequence[str]) -> None:
        super().__init__()
        self.dalle, self.captions = dalle, captions
        self.data_shape, self.preprocessing, self.provenance = dalle.data_shape, dalle.preprocessing, dalle.provenance

    @property
    def support(self) -> constraints.Constraint:
        values: constraints.Constraint = self.dalle.support
        return values

    def accepts(self, shape: Sequence[int]) -> bool:
        return bool(self.dalle.accepts(shape))

    def draw(
        self,
        n: int,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """One picture for each of n captions, which are those of the batch over and over."""
        tokens = self.dalle.tokens([self.captions[i % len(self.captions)] for i in range(n)])
        x: Tensor = self.dalle.draw_for(tokens, self.dalle.choice(temperature, top_k, top_p), guidance)
        return x

    def simulate(self, n: int) -> Tensor:
        """x ~ p(x|caption) itself, whatever the model's own guidance and temperature."""
        return self.draw(n, temperature=1.0, guidance=1.0)

    def log_prob(self, x: Tensor) -> Tensor:
        """As ``DALLE.log_prob`` under the captions, of which there are as many as images."""
        log_p: Tensor = self.dalle.log_prob(x, text=self.captions)
        return log_p
