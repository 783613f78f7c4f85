"""Whether each sample is of one class for certain, and all of them together of many: by a classifier's word alone."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Extractor, Measurement, NonNegativeInt, PositiveInt, SampleMetric
from zoo_metrics.samples.means import mean_of


class Scores(NamedTuple):
    """The Inception Score and the entropies that it is made of.

    Attributes:
        scores: of each split, float64 (S,).
        marginal: H(y) of all samples, in nats, float64 ().
        conditional: H(y|x) of each sample, in nats, float64 (N,).
    """

    scores: Tensor
    marginal: Tensor
    conditional: Tensor


@torch.no_grad()
def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Scores:
    """IS = exp(1/N Σ_i KL(p(y|x_i) || p(y))), p(y) = 1/N Σ_i p(y|x_i), for logits (N, C) of p(y|x_i) = softmax.

    It lies between 1 and C. The samples are shuffled and parted into S splits, each with its own score and p(y): split
    s holds the rows ⌊sN/S⌋ to ⌊(s + 1)N/S⌋, so that none is left out. Of a single split log IS = H(y) - H(y|x). A score
    grows with the size of its split: values of equal N and S are comparable, and those of the same classifier.

    Probabilities stay logarithms, in float64: a classifier that is sure beyond all measure gives no NaN, and if it says
    the same of all samples exactly 1.

    Improved techniques for training GANs (Salimans et al., 2016) https://arxiv.org/abs/1606.03498
    A note on the Inception Score (Barratt & Sharma, 2018) https://arxiv.org/abs/1801.01973

    Raises:
        ConfigError: there are fewer samples than splits, or logits that are not finite.
    """
    if logits.dim() != 2 or len(logits) < splits:
        raise ConfigError(f"{splits} splits need logits (N, C) of {splits} samples or more, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ConfigError("logits must be finite numbers: look at the model's samples, or at the classifier")
    log_p = logits.double().log_softmax(1)
    order = torch.randperm(len(log_p), generator=torch.Generator().manual_seed(seed))
    parts = [log_p[order[s * len(order) // splits : (s + 1) * len(order) // splits]] for s in range(splits)]
    scores = torch.stack([divergences(part).mean().exp() for part in parts])
    return Scores(scores, entropy(marginal(log_p)), entropy(log_p))


def divergences(log_p: Tensor) -> Tensor:
    """KL(p(y|x_i) || p(y)) from log p(y|x), (N, C): (N,)."""
    return (log_p.exp() * (log_p - marginal(log_p))).sum(1)


def marginal(log_p: Tensor) -> Tensor:
    """log p(y) = log 1/N Σ_i p(y|x_i) from log p(y|x), (N, C): (C,). Equal rows are given back as they are."""
    most = log_p.amax(0)
    return most + (log_p - most).exp().mean(0).log()


def entropy(log_p: Tensor) -> Tensor:
    """-Σ_y p(y) log p(y), in nats, over the last dimension."""
    return -(log_p.exp() * log_p).sum(-1)


class InceptionScore(SampleMetric):
    """IS = exp(E_x KL(p(y|x) || p(y))) of samples x, with p(y|x) as a classifier gives it and p(y) = E_x p(y|x).

    Reports ``inception_score``, the mean over splits, with the error of that mean; ``inception_score_std``, their
    standard deviation, which papers print beside it; and in nats, over all samples at once, its two parts:
    ``label_entropy`` H(y), highest if all classes are drawn equally often, and ``conditional_entropy`` H(y|x), 0 if
    each sample is clearly of one class. It says nothing of the data: samples that are all of a kind within their
    classes score as high as varied ones. See ``inception_score``.

    Args:
        extractor: a classifier.
        splits: S; a score grows with the number of samples in its split.
        seed: of the shuffle before splitting.
    """

    def __init__(self, extractor: Extractor | None = None, splits: PositiveInt = 10, seed: NonNegativeInt = 0) -> None:
        super().__init__(extractor)
        self.splits, self.seed = splits, seed

    def update(self, model: Any, batch: Batch) -> None:
        self.keep(logits=self.features_of.class_logits(batch["sample"]))

    def compute(self) -> dict[str, Measurement]:
        logits = self.kept("logits")
        scores, marginal, conditional = inception_score(logits, self.splits, self.seed)
        about = {**self.features_of.identity, "classes": logits.shape[1], "splits": self.splits, "seed": self.seed}
        std, of_labels = scores.std(correction=0).item(), marginal.item()
        return {
            self.named("inception_score"): mean_of(scores, about)._replace(n=len(logits)),
            self.named("inception_score_std"): Measurement(std, math.nan, len(logits), "1", "neither", about),
            self.named("label_entropy"): Measurement(of_labels, math.nan, len(logits), "nats", "neither", about),
            self.named("conditional_entropy"): mean_of(conditional, about, "nats", "neither"),
        }
