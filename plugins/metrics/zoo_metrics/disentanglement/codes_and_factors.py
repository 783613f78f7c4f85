"""What a metric of disentanglement is made from: codes of images, and the factors that the images were drawn from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, default_host

ROW = "factor: "  # before a factor's name, which may be anything, among the names of what is kept


class CodesAndFactors(NamedTuple):
    """N examples as a representation sees them, and as they are.

    Attributes:
        z: the codes, float64 (N, D).
        v: the factors, int64 (N, K): places among the values that each of them takes, from 0.
        names: of the K factors, in alphabetical order.
    """

    z: Tensor
    v: Tensor
    names: tuple[str, ...]


class FactorMetric(Metric):
    """A metric of mean codes z = ``model.encode(x)``, flattened to D numbers, and of the factors v of the data.

    Factors are columns of integers, int64 (B,), that say what is in an image. A factor that is the same in all
    examples is left out. Nothing is sampled from q(z|x), and the order of the codes does not matter.

    In the data set `shapes` a second object that is not there has the value -1, which counts like any other, so that
    its factors tell of ``count`` as well: ``objects: 1`` leaves them out. There colour and shape are not independent,
    since some of their combinations are held out: log(8/7) = 0.13 nats of one are known from the other. And a position
    is one factor of nine values, of which two codes, one for rows and one for columns, have a half each.

    Args:
        factors: the names of the columns; by default all that are integers but ``label``, or ``label`` if there is
            no other.
    """

    least_codes: ClassVar[int] = 1
    least_factors: ClassVar[int] = 1

    def __init__(self, factors: Sequence[str] | None = None) -> None:
        super().__init__()
        self.factors = factors

    @property
    def who(self) -> str:
        """What it is called in a refusal."""
        known = default_host().name_of(type(self))
        name = known.spec.name if known else type(self).__name__
        return f"metric {name!r}"

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        """Keeps the codes and the factors of a batch.

        Raises:
            ConfigError: the model has no real codes or too few, or the data do not have the factors.
        """
        columns = factor_columns(batch, self.factors, self.who)
        z = mean_codes(model, batch["image"], self.who)
        self._require(z.shape[1], columns, "of the data")
        self.keep(codes=z, **{ROW + name: v for name, v in columns.items()})

    def kept_pairs(self) -> CodesAndFactors:
        """Everything that ``update`` has kept, without the factors that do not vary.

        Raises:
            ConfigError: no examples, or too few factors that vary.
        """
        if not self.rows:
            raise ConfigError(f"{self.who} has been given no examples")
        z = self.kept("codes").double()
        v = {name.removeprefix(ROW): _places(self.kept(name)) for name in sorted(self.rows) if name.startswith(ROW)}
        varying = {name: places for name, places in v.items() if places.any()}
        self._require(z.shape[1], varying, f"that vary over these {len(z)} examples")
        return CodesAndFactors(z, torch.stack(list(varying.values()), 1), tuple(varying))

    def _require(self, codes: int, factors: Mapping[str, Tensor], which: str) -> None:
        if codes < self.least_codes:
            raise ConfigError(f"{self.who} compares codes, and the model has only {codes}")
        if len(factors) < self.least_factors:
            raise ConfigError(
                f"{self.who} needs {self.least_factors} or more factors, and those {which} are: {_listed(factors)}. "
                "Measure on data with more, such as 'shapes' with objects: 1, and not on too few examples"
            )


def measurement(value: Tensor | float, of: CodesAndFactors, **about: Any) -> Measurement:
    """A value without a standard error, and what it depends on: the factors, and what else there is."""
    return Measurement(float(value), math.nan, len(of.z), about={"factors": list(of.names), **about})


def mean_codes(model: Any, x: Tensor, who: str) -> Tensor:
    """``model.encode(x)`` with all latents of an example in a row: float (B, D).

    Raises:
        ConfigError: the model encodes to nothing, to labels instead of numbers, or to what is not finite.
    """
    if not hasattr(model, "encode"):
        raise ConfigError(f"{who} needs a model that encodes; {type(model).__name__} does not")
    z: Tensor = model.encode(x)
    if not z.is_floating_point():
        raise ConfigError(
            f"{who} needs real codes; {type(model).__name__} encodes to labels, {z.dtype}, which have no order"
        )
    if not z.isfinite().all():
        raise ConfigError(f"{who} needs finite codes, and {type(model).__name__} encodes some images to nan or inf")
    return z.flatten(1)


def factor_columns(batch: Mapping[str, Any], chosen: Sequence[str] | None, who: str) -> dict[str, Tensor]:
    """The chosen columns of a batch, or all integers but the label: int64 (B,) each.

    Raises:
        ConfigError: there are none, or one that is chosen is not there.
    """
    known = {name: v for name, v in batch.items() if isinstance(v, Tensor) and v.dtype == torch.int64 and v.ndim == 1}
    for name in chosen or ():
        if name not in known:
            raise ConfigError(f"{who}: factors: the data have no integers {name!r}; there are: {_listed(known)}")
    columns = {name: known[name] for name in chosen or known if chosen or name != "label"} or known
    if not columns:
        raise ConfigError(
            f"{who} needs data whose factors are known, as columns of integers, such as 'shapes' with objects: 1; "
            f"these have {_listed(batch)}"
        )
    return columns


def train_and_test(n: int, train: int, test: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to learn from and those to test on, shuffled: ``train`` and ``test`` many, or all in that proportion.

    Raises:
        ConfigError: not even one for each.
    """
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    train = min(train, n * train // (train + test))
    if not 0 < train < n:
        raise ConfigError(f"{n} examples cannot be split into some to learn from and some to test on; measure on more")
    return rows[:train], rows[train : train + test]


def require_values(v: Tensor, what: str) -> None:
    """Refuses to learn to tell apart what is all the same, v (N,).

    Raises:
        ConfigError: naming ``what``.
    """
    if (v == v[0]).all():
        raise ConfigError(f"among the {len(v)} examples to learn from {what} has only one value; measure on more")


def _places(column: Tensor) -> Tensor:
    """Of each value among those that there are, in order."""
    places: Tensor = torch.unique(column, return_inverse=True)[1]
    return places


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
