"""Whether the code that varies least tells which factor was held."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from zoo_core import Bounds, Measurement, NonNegativeFloat, PositiveInt
from zoo_metrics.disentanglement.codes_and_factors import FactorMetric, measurement
from zoo_metrics.disentanglement.same_value import at_a_time, batches_of_one_value, grouped

Several = Annotated[int, Bounds("an integer of at least 2", low=2)]


class FactorVAEScore(FactorMetric):
    """The accuracy of telling which factor a batch has in common from the code that varies least over the batch.

    A factor k is drawn, and 64 examples with one value of it. They vote for the code argmin_i Var(z_i) / Var_all(z_i).
    Each code stands for the factor with which most votes for it were cast: so 10,000 votes make a classifier, which is
    tested on 5,000 more. Codes whose standard deviation over all examples is below 0.05 take no part.

    Disentangling by factorising (Kim & Mnih, 2018) https://arxiv.org/abs/1802.05983, with the numbers of the study of
    Locatello et al. (2019) https://arxiv.org/abs/1811.12359. Examples are drawn with replacement from those of the
    evaluation, where the study draws new ones; an example that has a value for itself is not drawn.

    From the chance of about 1/K, which it is if no code takes part, to 1, which perfect codes still reach that are
    rotated in a plane by less than 45 degrees.

    Reports ``factor_vae_score``.

    Args:
        train_votes, test_votes: how many votes make the classifier, and how many it is tested on.
        batch: examples to a vote.
        min_std: of a code that takes part.
        seed: of the draws.

    Raises:
        ConfigError: there are not two factors, or no two examples share a value of one.
    """

    least_factors = 2

    def __init__(
        self,
        factors: Sequence[str] | None = None,
        train_votes: PositiveInt = 10_000,
        test_votes: PositiveInt = 5_000,
        batch: Several = 64,
        min_std: NonNegativeFloat = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(factors)
        self.train_votes, self.test_votes = train_votes, test_votes
        self.batch, self.min_std, self.seed = batch, min_std, seed

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        generator = torch.Generator().manual_seed(self.seed)
        votes = self.train_votes + self.test_votes
        k, rows = batches_of_one_value(grouped(pairs.v, pairs.names), votes, self.batch, generator)
        value = majority_accuracy(votes_for(pairs.z, rows, self.min_std), k, self.train_votes)
        about = {"train_votes": self.train_votes, "test_votes": self.test_votes, "batch": self.batch}
        return {"factor_vae_score": measurement(value, pairs, min_std=self.min_std, **about)}


def active(z: Tensor, min_std: float) -> Tensor:
    """Which codes of z (N, D) vary, and that by at least so much: (D,)."""
    std = z.std(0)
    return (std >= min_std) & (std > 0)


def votes_for(z: Tensor, rows: Tensor, min_std: float) -> Tensor:
    """argmin_i Var(z_i over the batch) / Var(z_i over all) among the active codes, of batches of rows (n, L): (n,).

    It is 0 if no code is active.
    """
    on = active(z, min_std)
    spread = torch.where(on, z.var(0), 1)
    ratios = [z[some].var(1) / spread for some in at_a_time(rows, z.shape[1])]
    return torch.cat(ratios).masked_fill(~on, torch.inf).argmin(1)


def majority_accuracy(voted: Tensor, k: Tensor, train: int) -> float:
    """How often the factor k (n,) is told from votes (n,), by the majorities of the first ``train``, on the others."""
    factor_of = majorities(voted[:train], k[:train], int(voted.max()) + 1)
    return float((factor_of[voted[train:]] == k[train:]).double().mean())


def majorities(voted: Tensor, k: Tensor, codes: int) -> Tensor:
    """The factor of most votes for each code, (codes,), from votes for codes (n,) cast with factors k (n,).

    That of the lowest number among equals, and for codes that had no vote.
    """
    factors = int(k.max()) + 1
    counts = (voted * factors + k).bincount(minlength=codes * factors).view(codes, factors)
    return counts.argmax(1)
