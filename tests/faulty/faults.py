"""Faulty parts, each with the name of the check that is meant for it, and the sound ones that they are made of."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from zoo_core import Spec, ZooHooks, hookimpl


@dataclass(frozen=True)
class Part:
    """A class under test, and the check that must fail on it; none for a sound one."""

    spec: Spec
    check: str = ""

    def __str__(self) -> str:
        return self.spec.name


T = TypeVar("T")
PARTS: list[Part] = []


def sound(spec: Spec) -> Callable[[type[T]], type[T]]:
    """Adds a class on which every check must pass."""
    return _added(spec, "")


def faulty(spec: Spec, check: str) -> Callable[[type[T]], type[T]]:
    """Adds a class whose docstring is its fault, which the check of that name must find."""
    return _added(spec, check)


def _added(spec: Spec, check: str) -> Callable[[type[T]], type[T]]:
    def add(part: type[T]) -> type[T]:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in part.__name__).strip("_")
        summary = (part.__doc__ or "").partition("\n")[0]
        target = f"{part.__module__}:{part.__name__}"
        PARTS.append(Part(replace(spec, name=name, target=target, summary=summary), check))
        return part

    return add


class Plugin(ZooHooks):
    """Offers them all."""

    @hookimpl
    def zoo_encoders(self) -> Iterable[Spec]:
        return self.of("encoder", "posterior")

    @hookimpl
    def zoo_decoders(self) -> Iterable[Spec]:
        return self.of("decoder", "likelihood")

    @hookimpl
    def zoo_priors(self) -> Iterable[Spec]:
        return self.of("prior")

    @hookimpl
    def zoo_quantizers(self) -> Iterable[Spec]:
        return self.of("quantizer")

    def of(self, *kinds: str) -> Iterator[Spec]:
        return (part.spec for part in PARTS if part.spec.kind in kinds)
