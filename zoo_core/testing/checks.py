"""What a check is, and the list of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from torch import Tensor

Asked = TypeVar("Asked")


class Unfit(AssertionError):
    """A component is not what its kind promises; says in which way."""


@dataclass(frozen=True)
class Check:
    """Something that is asked of each component of some kinds, or of each plugin itself.

    Attributes:
        kinds: of the specs that it is asked of.
        when: of which of these: by what a spec declares, never by what a component turns out to do.
        table: of these again those of which the plugin tells something in this table of its module ``conformance``.
        structural: whether a component that fails it is asked nothing more, since all else would fail too.
    """

    name: str
    ask: Callable[[Any], None]
    kinds: tuple[str, ...]
    when: Callable[[Any], bool]
    table: str
    structural: bool

    @property
    def about(self) -> str:
        return (self.ask.__doc__ or "").partition("\n")[0]

    def is_for(self, spec: Any, told: Any = None) -> bool:
        named = not self.table or spec.name in getattr(told, self.table, ())
        return spec.kind in self.kinds and self.when(spec) and named


CHECKS: list[Check] = []


def check(
    *kinds: str, when: Callable[[Any], bool] = lambda spec: True, table: str = "", structural: bool = False
) -> Callable[[Callable[[Asked], None]], Callable[[Asked], None]]:
    """Adds a function to the checks of these kinds, under its own name."""

    def add(ask: Callable[[Asked], None]) -> Callable[[Asked], None]:
        CHECKS.append(Check(ask.__name__, ask, kinds, when, table, structural))
        return ask

    return add


def declared(spec: Any, told: Any = None) -> list[Check]:
    """The checks that a component of this spec must pass, the structural ones first, of these the most general.

    Args:
        told: what its plugin says of it.
    """
    return sorted(
        (c for c in CHECKS if c.is_for(spec, told)), key=lambda c: (not c.structural, -c.structural * len(c.kinds))
    )


def unfit(sentence: str) -> NoReturn:
    raise Unfit(sentence)


def require(condition: object, sentence: str) -> None:
    if not condition:
        unfit(sentence)


def require_equal(a: Tensor, b: Tensor, sentence: str) -> None:
    """Bit for bit; nan equals nan.

    Raises:
        Unfit: with the sentence, and by how much they differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        unfit(f"{sentence}: {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}")
    same = (a == b) | (a.isnan() & b.isnan())
    if not bool(same.all()):
        unfit(f"{sentence}: by up to {float((a.double() - b.double()).detach().abs().nan_to_num().max()):.3g}")
