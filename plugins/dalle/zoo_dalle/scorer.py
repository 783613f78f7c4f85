"""How well a picture and a caption go together, learned from pairs of them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo_core import Batch, ConfigError, DataError, Encoder, GenerativeModel, PositiveInt
from zoo_dalle.captions import CaptionReader, Vocabulary
from zoo_dalle.masks import Depth, Layout
from zoo_dalle.stream import embedding as table
from zoo_dalle.tokenizer import CaptionTokenizer, padded
from zoo_dalle.transformer import Transformer

COOLEST, FIRST = math.log(100), math.log(1 / 0.07)  # of log s; the paper's


class CaptionEncoder(nn.Module):
    """Features of captions: what a causal transformer has at their end, where it has seen all of them.

    Args:
        vocabulary: V; as a token V stands for the end, and for all places after it.
        length: tokens of a caption, at most, without its end.
    """

    def __init__(self, vocabulary: int, length: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.token = table(vocabulary + 1, dim)
        self.place = nn.Parameter(0.02 * torch.randn(length + 1, dim))
        self.transformer = Transformer(dim, heads, dim // heads, ["full"] * depth, Layout(length + 1, 0, 0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n) with an end each → (B, dim)."""
        # Captions are short: for them the fused kernels of a CPU take twice the time of plain products.
        with sdpa_kernel(SDPBackend.MATH):
            h: Tensor = self.transformer(self.token(tokens) + self.place[: tokens.shape[1]])
        end = (tokens != self.vocabulary).sum(1)
        return h[torch.arange(len(tokens), device=h.device), end]


class Scorer(CaptionReader):
    """s cos(f(x), g(y)) of an image x and a caption y: the higher, the better they go together.

    f is an encoder's mean and g a transformer's feature at the end of a caption, each followed by a linear map into a
    space of ``embedding`` dimensions; s = 1 / temperature is learned, from 1/0.07 on and to 100 at most.
    It has no density and draws no samples: it chooses among those of a model that does.

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020

    Args:
        encoder: of images; any, of which the mean is taken.
        embedding: dimensions E of the space that images and captions share.
        vocabulary: of the captions, at most; the tokenizer is made from those of the training data.
        text_length: tokens of a caption, at most; what is over is left out.
        dim, depth, heads: of the captions' transformer.

    Attributes:
        tokenizer: of captions; of single bytes until it has been trained.

    Raises:
        ConfigError: the heads cannot share ``dim``.
    """

    def __init__(
        self,
        encoder: Encoder,
        embedding: PositiveInt = 64,
        vocabulary: Vocabulary = 1024,
        text_length: PositiveInt = 32,
        dim: PositiveInt = 96,
        depth: Depth = 3,
        heads: PositiveInt = 4,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim: must be a multiple of the {heads} heads, got {dim}")
        self.encoder, self.data_shape = encoder, tuple(encoder.data_shape)
        self.vocabulary, self.text_length = vocabulary, text_length
        self.tokenizer = CaptionTokenizer.train([], 256)
        self.text = CaptionEncoder(vocabulary, text_length, dim, depth, heads)
        self.of_image = nn.Linear(math.prod(encoder.latent_shape), embedding, bias=False)
        self.of_text = nn.Linear(dim, embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(FIRST))

    @property
    def scale(self) -> Tensor:
        """s, ()."""
        return self.log_scale.float().clamp(max=COOLEST).exp()

    def embed_images(self, x: Tensor) -> Tensor:
        """f(x) / |f(x)|, (B, E), of images (B, *data_shape) in [0, 1].

        Raises:
            DataError: they have another shape.
        """
        if tuple(x.shape[1:]) != self.data_shape:
            raise DataError(f"must be images (B, {', '.join(map(str, self.data_shape))}), got {tuple(x.shape)}")
        mean: Tensor = self.encoder(x.to(self.log_scale.device)).mean
        # The parameters' dtype, since distributions are in float32 at least.
        return F.normalize(self.of_image(mean.flatten(1).to(self.of_image.weight.dtype)).float(), dim=1)

    def embed_texts(self, captions: str | Sequence[str]) -> Tensor:
        """g(y) / |g(y)|, (B, E), of captions. Raises DataError if one is no text."""
        return F.normalize(self.of_text(self.text(self.tokens(captions))).float(), dim=1)

    def similarities(self, x: Tensor, captions: Sequence[str]) -> Tensor:
        """s cos(f(x_i), g(y_j)) of every image with every caption, (images, captions)."""
        return self.scale * self.embed_images(x) @ self.embed_texts(captions).T

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str], *, batch: int = 256) -> Tensor:
        """s cos(f(x_i), g(y_i)) of each image with its own caption, (B,): what ``generate`` takes as its ``scorer``.

        Args:
            batch: images at a time.

        Raises:
            DataError: there are not as many captions as images.
        """
        if isinstance(captions, str) or len(captions) != len(images):
            count = "one string" if isinstance(captions, str) else len(captions)
            raise DataError(f"captions: must be a list of as many as there are images, {len(images)}; got {count}")
        if batch < 1:
            raise ConfigError(f"batch: must be a positive integer, got {batch}")
        if not captions:
            return self.scale.new_empty(0)
        place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        g = torch.cat([self.embed_texts(part) for part in _parts(list(place), batch)])
        own = torch.tensor([place[caption] for caption in captions], device=g.device, dtype=torch.int64)
        starts = range(0, len(images), batch)
        f = (self.embed_images(images[i : i + batch]) for i in starts)
        return torch.cat([self.scale * (x * g[own[i : i + batch]]).sum(1) for i, x in zip(starts, f, strict=True)])

    def given(self, batch: Batch) -> GenerativeModel:
        """The scorer beside the captions of a batch; without captions the scorer itself."""
        return Paired(self, batch["caption"]) if "caption" in batch else self

    def draw(self, n: int) -> Tensor:
        """Raises ConfigError: it draws nothing."""
        raise ConfigError(DRAWS_NOTHING)

    # --- captions ---------------------------------------------------------------------------------------------

    def tokens(self, captions: str | Sequence[str]) -> Tensor:
        """Captions as tokens (B, n), ``vocabulary`` standing for the end and all after it; n fits the longest.

        Raises:
            DataError: a caption is no text.
        """
        texts = [captions] if isinstance(captions, str) else list(captions)
        kept = self.token_rows(texts)
        longest = max(map(len, kept), default=0)
        return padded(kept, longest + 1, self.vocabulary).to(self.log_scale.device)


class Paired(GenerativeModel):
    """A scorer beside the captions of a batch: what ``Scorer`` is under them. It owns no parameters."""

    def __init__(self, scorer: Scorer, captions: Sequence[str]) -> None:
        super().__init__()
        self.scorer, self.captions = scorer, captions
        self.data_shape, self.preprocessing, self.provenance = (
            scorer.data_shape,
            scorer.preprocessing,
            scorer.provenance,
        )

    def similarities(self, x: Tensor, others: Sequence[str] = ()) -> Tensor:
        """As ``Scorer.similarities`` with the captions, and with others after them, (images, captions + others)."""
        return self.scorer.similarities(x, [*self.captions, *others])

    def draw(self, n: int) -> Tensor:
        """Raises ConfigError: it draws nothing."""
        raise ConfigError(DRAWS_NOTHING)


DRAWS_NOTHING = (
    "a scorer draws no pictures, it chooses among them: give its score to a model that draws, as"
    " generate(texts, candidates=8, scorer=scorer.score)"
)


def right(captions: Sequence[str], others: Sequence[str] = ()) -> Tensor:
    """Which captions are right for which image of a batch of pairs: its own, and all that are equal.

    Returns:
        bool (B, B), or (B, B + others) with other captions that are no image's own.
    """
    texts = [*captions, *others]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    number = torch.tensor([place[text] for text in texts], dtype=torch.int64)
    return number[: len(captions), None] == number


def _parts(captions: Sequence[str], size: int) -> list[Sequence[str]]:
    return [captions[i : i + size] for i in range(0, len(captions), size)]
