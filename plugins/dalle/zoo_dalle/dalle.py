"""A transformer over captions and images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from zoo_core import Batch, ConfigError, DataError, GenerativeModel, NonNegativeFloat, PositiveInt, Quantizer
from zoo_dalle.captioned import Captioned
from zoo_dalle.captions import CaptionReader, TooLong, Vocabulary
from zoo_dalle.masks import Depth, Masks
from zoo_dalle.reranking import Scorer, best
from zoo_dalle.stream import Stream
from zoo_dalle.tokenizer import CaptionTokenizer, padded
from zoo_dalle.writing import Choice, last, noise_of, write_codes, write_text

START = 0


class TokenLogProbs(NamedTuple):
    """log p of each token given all before it, in nats; 0 after the end of a text.

    Attributes:
        text: (B, text_length), the end of the caption included where there is room for it.
        image: (B, codes of an image).
    """

    text: Tensor
    image: Tensor

    def bits(self) -> "TokenLogProbs":
        """The same in bits."""
        return TokenLogProbs(*(nats / torch.log(nats.new_tensor(2.0)) for nats in self))


class DALLE(CaptionReader):
    """p(y, k) = Π_t p(token_t | tokens before it) over captions y and codes k, and p(x|k) of a first stage.

    The stream is a start, the caption in byte pairs, its end up to ``text_length``, then the codes in raster order.
    Without a caption it is a model of images alone: p(x) is p(x | no caption).

    Zero-shot text-to-image generation (Ramesh et al., 2021) https://arxiv.org/abs/2102.12092

    Args:
        first_stage: from images to a grid of codes and back; it stays as it is.
        vocabulary: of the captions, at most; the tokenizer is made from those of the training data.
        text_length: tokens of a caption, at most.
        attention: ``full``, or a sparse mask of the paper in every layer, or ``dalle`` for all of them as it has them.
        checkpointing: activations are computed again in the backward pass, instead of being kept.
        guidance, temperature: of pictures, where nothing else is said; 1 and 1 draw from p(k|y) itself.

    Attributes:
        tokenizer: of captions; of single bytes until it has been trained.

    Raises:
        ConfigError: the first stage has no grid of codes.
    """

    def __init__(
        self,
        first_stage: GenerativeModel,
        vocabulary: Vocabulary = 2048,
        text_length: PositiveInt = 32,
        dim: PositiveInt = 256,
        depth: Depth = 6,
        heads: PositiveInt = 8,
        attention: Masks = "full",
        checkpointing: bool = False,
        guidance: NonNegativeFloat = 1.0,
        temperature: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        self.guidance, self.temperature = guidance, temperature
        self.first_stage: Any = first_stage.requires_grad_(False)
        quantizer = require_grid(first_stage)
        self.data_shape, self.codes_shape = tuple(first_stage.data_shape), tuple(quantizer.codes_shape)
        self.vocabulary, self.text_length = vocabulary, text_length
        self.tokenizer = CaptionTokenizer.train([], 256)
        text = (vocabulary, text_length)
        self.stream = Stream(
            1, quantizer.codebook_size, self.codes_shape, dim, depth, heads,
            text=text, attention=attention, checkpointing=checkpointing,
        )  # fmt: skip

    @property
    def support(self) -> constraints.Constraint:
        """The values that p(x) is about."""
        values: constraints.Constraint = self.first_stage.support
        return values

    def accepts(self, shape: Sequence[int]) -> bool:
        """Images, or their codes."""
        return tuple(shape) in (self.data_shape, self.codes_shape)

    def train(self, mode: bool = True) -> "DALLE":
        """The first stage stays in evaluation mode."""
        super().train(mode)
        self.first_stage.eval()
        return self

    def blocks(self) -> Iterable[nn.Module]:
        return self.stream.transformer.blocks

    # --- captions ---------------------------------------------------------------------------------------------

    def tokens(self, texts: Sequence[str], *, dropout: float = 0.0, too_long: TooLong = "truncate") -> Tensor:
        """Captions as tokens (B, text_length), ``vocabulary`` standing for the end and all after it.

        Args:
            dropout: how often a merge of byte pairs is left out.
            too_long: what to do with a caption of more than ``text_length`` tokens.

        Raises:
            DataError: a caption is no text, or too long and to be refused.
        """
        rows = self.token_rows(texts, dropout=dropout, too_long=too_long)
        return padded(rows, self.text_length, self.vocabulary).to(self.device)

    def text_of(self, tokens: Tensor) -> list[str]:
        """The captions of tokens (B, n)."""
        return [self.tokenizer.decode([t for t in row if t < self.vocabulary]) for row in tokens.tolist()]

    def no_text(self, batch: int) -> Tensor:
        """The tokens of no caption, (batch, text_length)."""
        return torch.full((batch, self.text_length), self.vocabulary, device=self.device)

    # --- images -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.stream.start.weight.device

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Codes in raster order, (B, count), of images (B, *data_shape) or of codes (B, *codes_shape)."""
        k: Tensor = self.first_stage.encode(x) if x.is_floating_point() else x
        if tuple(k.shape[1:]) != self.codes_shape:
            raise DataError(f"must be images of {self.data_shape} or codes of {self.codes_shape}, got {tuple(x.shape)}")
        return k.flatten(1)

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> Tensor:
        """Images (B, *data_shape) in [0, 1], of codes (B, count)."""
        x: Tensor = self.first_stage.decode(codes.reshape(-1, *self.codes_shape))
        return x

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        n: int = 1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        image: Tensor | None = None,
        keep_rows: int = 0,
        scorer: Scorer | None = None,
        candidates: int | None = None,
        too_long: TooLong = "truncate",
        seed: int = 0,
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """n pictures for each text, (texts · n, *data_shape) in [0, 1], those of the first text first.

        Picture j of a text depends on the text, on ``seed`` and on j, not on how many are made or beside which others.

        Args:
            temperature, top_k, top_p: see ``Choice``; without a temperature the model's own.
            guidance: 1 is none, above it the text is followed more closely, which needs training with
                ``drop_caption``; None is the model's own.
            image: what is to be completed, (*data_shape); of its grid of codes the first ``keep_rows`` rows stay.
            scorer: such as ``score`` of a ``dalle/scorer``; of ``candidates`` pictures those n that it likes best
                are kept, the best first.
            too_long: what to do with a text of too many tokens.
            batch: pictures at a time.
            progress: is told how many codes were drawn, again and again.

        Raises:
            ConfigError, DataError: an argument cannot be used.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        drawn = n if scorer is None else max(n, candidates or n)
        require_positive(n=n, batch=batch)
        repeated = [text for text in texts for _ in range(drawn)]
        noise = noise_of(seed, drawn, self.stream.count).repeat(len(texts), 1)
        known = self._known(image, keep_rows)
        choice = self.choice(temperature, top_k, top_p)
        parts = []
        for i in range(0, len(repeated), batch):
            tokens = self.tokens(repeated[i : i + batch], too_long=too_long)
            steps = self._write(tokens, noise[i : i + batch], choice, guidance, known)
            parts.append(self.pictures(last(_told(steps, progress))))
        x = torch.cat(parts) if parts else torch.empty(0, *self.data_shape)
        return x if scorer is None else best(x, texts, n, scorer)

    def watch(
        self, text: str, *, n: int = 1, guidance: float | None = None, seed: int = 0, **choice: Any
    ) -> Iterator[tuple[int, Tensor]]:
        """As ``generate``, row by row: how many rows of codes there are, and the pictures so far, black below them."""
        _, columns = self.codes_shape
        noise = noise_of(seed, n, self.stream.count)
        for k in self._write(self.tokens([text] * n), noise, self.choice(**choice), guidance, None):
            rows, rest = divmod(k.shape[1], columns)
            if rest == 0:
                whole = torch.nn.functional.pad(k, (0, self.stream.count - k.shape[1]))
                x = self.pictures(whole)
                x[..., rows * x.shape[-2] // self.codes_shape[0] :, :] = 0
                yield rows, x

    def generate_text(
        self,
        n: int = 1,
        *,
        start: str = "",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> list[str]:
        """n captions y ~ p(y), which go on from ``start``."""
        known = torch.tensor(self.tokenizer.encode([start])[0][: self.text_length], dtype=torch.int64)
        known = known.to(self.device).expand(n, -1)
        noise = noise_of(seed, n, self.text_length).to(self.device)
        starts = torch.full((n,), START, device=self.device)
        choice = Choice(temperature, top_k, top_p)
        return self.text_of(write_text(self.stream, starts, known, noise, choice, len(self.tokenizer)))

    def draw(
        self,
        n: int,
        *,
        text: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """x ~ p(x|text), or of no text."""
        tokens = self.no_text(n) if text is None else self.tokens([text] * n)
        return self.draw_for(tokens, self.choice(temperature, top_k, top_p), guidance)

    def simulate(self, n: int) -> Tensor:
        """x ~ p(x | no caption) itself, whatever the model's own guidance and temperature."""
        return self.draw_for(self.no_text(n), Choice(), guidance=1.0)

    def draw_for(self, tokens: Tensor, choice: Choice, guidance: float | None = None) -> Tensor:
        """One picture for each row of tokens (B, text_length), from torch's global generator."""
        noise = torch.rand(len(tokens), self.stream.count, dtype=torch.float64)
        return self.pictures(last(self._write(tokens, noise, choice, guidance, None)))

    def choice(self, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None) -> Choice:
        """How codes are drawn, with the model's own temperature if none is given."""
        return Choice(self.temperature if temperature is None else temperature, top_k, top_p)

    def _write(
        self, tokens: Tensor, noise: Tensor, choice: Choice, guidance: float | None, known: Tensor | None
    ) -> Iterator[Tensor]:
        guidance = self.guidance if guidance is None else guidance
        if not 0 <= guidance < float("inf"):
            raise ConfigError(f"guidance: must be a number of at least 0, got {guidance}")
        starts = tokens.new_full((len(tokens),), START)
        return write_codes(
            self.stream, starts, tokens, noise.to(self.device), choice=choice, guidance=guidance,
            known=None if known is None else known.expand(len(tokens), -1),
            unguided=(starts, self.no_text(len(tokens))),
        )  # fmt: skip

    def _known(self, image: Tensor | None, keep_rows: int) -> Tensor | None:
        """The codes (1, m) that stay."""
        rows, columns = self.codes_shape
        if not 0 <= keep_rows < rows or (keep_rows > 0) != (image is not None):
            raise ConfigError(f"keep_rows: must be from 1 to {rows - 1} with an image, 0 without; got {keep_rows}")
        return None if image is None else self.codes(image.to(self.device)[None])[:, : keep_rows * columns]

    # --- likelihood -------------------------------------------------------------------------------------------

    def token_log_probs(self, x: Tensor, texts: Sequence[str]) -> TokenLogProbs:
        """log p of every token of pairs of an image, or of its codes, and a caption.

        log p(text) is the sum of the first, log p(codes | text) that of the second, log p of the pair that of both.
        """
        return self.stream_log_probs(self.tokens(texts), self.codes(x))

    def stream_log_probs(self, tokens: Tensor, codes: Tensor) -> TokenLogProbs:
        """The same of tokens (B, text_length) and codes (B, count)."""
        starts = tokens.new_full((len(tokens),), START)
        text_logits, code_logits = self.stream(starts, tokens, codes)
        text, image = taken(text_logits, tokens), taken(code_logits, codes)
        # After the end there is nothing but the end.
        over = torch.nn.functional.pad(tokens[:, :-1] == self.vocabulary, (1, 0))
        return TokenLogProbs(text.masked_fill(over, 0), image)

    def log_prob(self, x: Tensor, *, text: str | Sequence[str] | None = None) -> Tensor:
        """log p(x|z_q(k)) + log p(k|text) at the codes k of images x, (B,), in nats: a lower bound on log p(x|text).

        Of codes k (B, *codes_shape) it is log p(k|text), exact.

        Args:
            text: one for all, or one for each; None for no caption.
        """
        if text is None:
            return self.log_prob_given(self.no_text(len(x)), x)
        return self.log_prob_given(self.tokens([text] * len(x) if isinstance(text, str) else text), x)

    def log_prob_given(self, tokens: Tensor, x: Tensor) -> Tensor:
        """The same for tokens (B, text_length)."""
        k = self.codes(x)
        log_p = self.stream_log_probs(tokens, k).image.sum(1)
        if not x.is_floating_point():
            return log_p
        z_q = self.first_stage.quantizer.lookup(k.reshape(-1, *self.codes_shape))
        decoded: Tensor = self.first_stage.decoder(z_q).log_prob(x)
        return log_p + decoded

    def given(self, batch: Batch) -> GenerativeModel:
        """p(x|caption) under the captions of a batch; without captions the model itself."""
        return Captioned(self, batch["caption"]) if "caption" in batch else self


def taken(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at the tokens, (B, n), for logits (B, n, K)."""
    return -torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)


def require_grid(first_stage: Any) -> Quantizer:
    """The quantizer of a first stage.

    Raises:
        ConfigError: it has none, or one whose codes form no grid.
    """
    quantizer = getattr(first_stage, "quantizer", None)
    shape = getattr(quantizer, "codes_shape", ())
    if not isinstance(quantizer, Quantizer) or len(shape) != 2:
        found = f"has codes of shape {tuple(shape)}" if isinstance(quantizer, Quantizer) else "has no codes"
        raise ConfigError(
            f"first_stage: must be a model with a grid of codes, such as vqvae/vqvae behind an encoder of layout:"
            f" grid; {type(first_stage).__name__} {found}"
        )
    return quantizer


def require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name}: must be a positive integer, got {number}")


def _told(steps: Iterator[Tensor], progress: Callable[[int], None] | None) -> Iterator[Tensor]:
    for codes in steps:
        if progress:
            progress(len(codes))
        yield codes
