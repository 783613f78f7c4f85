"""The loss of a scorer: of each image among all captions of its batch, and of each caption among all images."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core import Batch, ConfigError, Loss, LossOutput, NonNegativeFloat, NonNegativeInt, Probability
from zoo_dalle.scorer import Paired, right


class Contrastive(Loss):
    """1/2 [-Σ_j t_ij log p(y_j|x_i) - Σ_j t_ij log p(x_j|y_i)], for similarities s_ij of B images and B captions:

        p(y_j|x_i) = exp(s_ij) / Σ_k exp(s_ik),    p(x_j|y_i) = exp(s_ji) / Σ_k exp(s_ki),

    with t_ij = 1/n_i for the n_i captions of the batch that are equal to y_i, itself included, and else 0.

    The other captions are those of the same micro-batch: the smaller it is, the fewer of them there are.

    Representation learning with contrastive predictive coding (van den Oord et al., 2018) https://arxiv.org/abs/1807.03748
    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020

    Terms: ``image_to_text`` and ``text_to_image`` in nats, whose mean is the loss; ``accuracy``, the share of images
    whose most similar caption is right.

    In training, and only there, captions can be altered, and images varied, which few examples need:

    Args:
        altered: for so many of the captions, images are also set against a copy in which one word is another that
            stands between the same two in some caption of the batch: "above" for "below". Among captions that differ in
            many words a scorer hardly needs their order.
            When and why vision-language models behave like bags-of-words (Yuksekgonul et al., 2023)
            https://arxiv.org/abs/2210.01936
        shift: by so many pixels at most, along each axis; the border is repeated.
        brightness: times a factor from 1 - this to 1 + this.
        blur: how often it is smoothed by 1/16 [1, 2, 1]^T [1, 2, 1].
        noise: Gaussian, of a deviation from 0 to this.

    Raises:
        ConfigError: the model is no scorer, or the data have no captions.
    """

    def __init__(
        self,
        altered: Probability = 0.0,
        shift: NonNegativeInt = 0,
        brightness: Probability = 0.0,
        blur: Probability = 0.0,
        noise: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.altered, self.shift, self.brightness = altered, shift, brightness
        self.blur, self.noise = blur, noise

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        if not isinstance(model, Paired):
            raise ConfigError(f"loss 'contrastive' needs a scorer and captions; got a {type(model).__name__}")
        learning, x = torch.is_grad_enabled(), batch["image"]
        wrong = self.more(model.captions) if learning else []
        s = model.similarities(self.varied(x) if learning else x, wrong)
        hits = right(model.captions, wrong).to(s.device)
        own = slice(len(x))
        image_to_text = spread_cross_entropy(s, hits)
        text_to_image = spread_cross_entropy(s[:, own].T, hits[:, own])
        accuracy = hits.gather(1, s[:, own].argmax(1, keepdim=True)).float()
        terms = {"image_to_text": image_to_text, "text_to_image": text_to_image, "accuracy": accuracy}
        total = (image_to_text + text_to_image) / 2
        return LossOutput(total.mean(), {name: term.mean().detach() for name, term in terms.items()})

    def more(self, captions: Sequence[str]) -> list[str]:
        """Altered copies of so many of the captions, from torch's global generator."""
        chosen = torch.randperm(len(captions))[: round(self.altered * len(captions))]
        return altered(captions, chosen.tolist()) if len(chosen) else []

    def varied(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], each varied on its own, from torch's global generator."""
        changes: list[tuple[Callable[[Tensor, Any], Tensor], float]] = [
            (shifted, self.shift), (brightened, self.brightness), (blurred, self.blur), (noisy, self.noise),
        ]  # fmt: skip
        for change, most in changes:
            x = change(x, most) if most else x
        return x


def spread_cross_entropy(logits: Tensor, hits: Tensor) -> Tensor:
    """-Σ_j t_ij log softmax(l_i)_j, (B,), for t that spreads evenly over the hits of each row."""
    t = hits / hits.sum(1, keepdim=True)
    return -(t * logits.log_softmax(1)).sum(1)


def altered(captions: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """Copies of the chosen captions with one word exchanged; of those where that can be done."""
    split = [["", *caption.split(), ""] for caption in captions]
    between: dict[tuple[str, str], set[str]] = defaultdict(set)
    for words in split:
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            between[before, after].add(word)
    return [made for i in chosen if (made := _exchanged(split[i], between))]


def _exchanged(words: list[str], between: dict[tuple[str, str], set[str]]) -> str:
    """One word exchanged for another between the same two, at a place where there is one; nothing if there is none."""
    others = {i: sorted(between[words[i - 1], words[i + 1]] - {words[i]}) for i in range(1, len(words) - 1)}
    places = [i for i in others if others[i]]
    if not places:
        return ""
    place = places[_below(len(places))]
    word = others[place][_below(len(others[place]))]
    return " ".join([*words[1:place], word, *words[place + 1 : -1]])


def _below(n: int) -> int:
    return int(torch.randint(n, ()))


def shifted(x: Tensor, most: int) -> Tensor:
    """By up to ``most`` pixels along each axis."""
    batch, _, height, width = x.shape
    padded = F.pad(x, [most] * 4, mode="replicate")
    down, across = torch.randint(2 * most + 1, (2, batch, 1), device=x.device)
    rows = torch.arange(height, device=x.device) + down
    columns = torch.arange(width, device=x.device) + across
    each = torch.arange(batch, device=x.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def brightened(x: Tensor, most: float) -> Tensor:
    """By a factor from 1 - ``most`` to 1 + ``most``."""
    return (x * (1 + most * (2 * _uniform(x) - 1))).clamp(0, 1)


def blurred(x: Tensor, often: float) -> Tensor:
    """Smoothed, with this probability."""
    line = x.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    smooth = F.conv2d(F.pad(x, [1] * 4, mode="replicate"), kernel, groups=x.shape[1])
    return torch.where(_uniform(x) < often, smooth, x)


def noisy(x: Tensor, most: float) -> Tensor:
    """With Gaussian noise of a deviation from 0 to ``most``."""
    return (x + most * _uniform(x) * torch.randn_like(x)).clamp(0, 1)


def _uniform(x: Tensor) -> Tensor:
    """One number in [0, 1) for each image, (B, 1, 1, 1)."""
    return torch.rand(len(x), 1, 1, 1, device=x.device)
