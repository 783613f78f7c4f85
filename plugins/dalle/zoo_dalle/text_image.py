"""The loss of a transformer over captions and images."""

from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Loss, LossOutput, Probability
from zoo_dalle.captioned import Captioned


class TextImage(Loss):
    """w -log p(y) / |y| + (1 - w) -log p(k|y) / |k|: nats per token of the captions y and of the codes k.

    Each is meaned over the tokens of an example, and then over the examples. |y| counts the end of a caption.

    Zero-shot text-to-image generation (Ramesh et al., 2021), section 2.2 https://arxiv.org/abs/2102.12092

    Terms: ``text`` and ``image``, both in nats per token.

    Args:
        text_weight: w; 1/8 in the paper.
        drop_caption: how often a caption is hidden from its image, so that p(k) is learned too and samples can be
            guided; the text of such an example is not learned from.
        bpe_dropout: how often a merge of byte pairs is left out.

    Raises:
        ConfigError: the model is no dalle, or the data have no captions.
    """

    def __init__(
        self, text_weight: Probability = 0.125, drop_caption: Probability = 0.1, bpe_dropout: Probability = 0.1
    ) -> None:
        super().__init__()
        self.text_weight, self.drop_caption, self.bpe_dropout = text_weight, drop_caption, bpe_dropout

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        if not isinstance(model, Captioned):
            raise ConfigError(f"loss 'text_image' needs a dalle and captions; got a {type(model).__name__}")
        dalle = model.dalle
        codes = dalle.codes(batch["image"])
        learning = torch.is_grad_enabled()
        tokens = dalle.tokens(model.captions, dropout=self.bpe_dropout if learning else 0.0)
        hidden = torch.rand(len(tokens), device=tokens.device) < (self.drop_caption if learning else 0.0)
        tokens = torch.where(hidden[:, None], dalle.no_text(len(tokens)), tokens)
        log_p = dalle.stream_log_probs(tokens, codes)
        text = -log_p.text.sum(1) / counted(tokens, dalle.vocabulary) * ~hidden
        image = -log_p.image.mean(1)
        total = self.text_weight * text + (1 - self.text_weight) * image
        return LossOutput(total.mean(), {"text": text.mean().detach(), "image": image.mean().detach()})


def counted(tokens: Tensor, end: int) -> Tensor:
    """How many tokens a caption has, its end included where there is room for it, (B,)."""
    return ((tokens != end).sum(1) + 1).clamp(max=tokens.shape[1])
