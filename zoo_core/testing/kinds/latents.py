"""What specs say of latents: which layouts a part takes or gives, vectors, grids or sequences, of numbers or codes."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_core.arguments import Parameter, parameters
from zoo_core.config import PROVIDED
from zoo_core.errors import ConfigError
from zoo_core.testing.checks import check, unfit
from zoo_core.testing.subjects import CODES, Subject, drawing

# Grids of several sizes: a body of so many stages begins at one of them.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vector[real]": ((3,), (4,)),
    "grid[real]": ((3, 2, 2), (3, 4, 4), (3, 1, 1), (3, 8, 8), (4, 2, 2)),
    "sequence[real]": ((3, 4), (3, 2), (3, 8), (4, 4)),
    "vector[codes]": ((3,), ()),
    "grid[codes]": ((2, 2), (4, 4)),
    "sequence[codes]": ((4,), (8,)),
}
# Codes have no dimension for the numbers of one; with several codebooks they have one for these.
BY_DIMENSIONS = {1: {"vector[real]"}, 2: {"sequence[real]"}, 3: {"grid[real]"}}
CODES_BY_DIMENSIONS = {
    0: {"vector[codes]"}, 1: {"vector[codes]", "sequence[codes]"}, 2: {"grid[codes]"}, 3: {"grid[codes]"}
}  # fmt: skip


@check("decoder", "prior", "quantizer")
def accepts(subject: Subject) -> None:
    """All latents that its spec accepts it can be made for, and it takes them or draws them."""
    for latent in subject.spec.accepts:
        refusals = [_refusal(subject, shape, latent) for shape in _shapes(subject, latent)]
        if all(refusals):
            unfit(f"its spec accepts {latent}, but it refuses the shape {SHAPES[latent][0]}: {refusals[0]}")


def layouts(z: Tensor) -> set[str]:
    """What latents z (B, *latent_shape) may be called."""
    table = BY_DIMENSIONS if z.is_floating_point() else CODES_BY_DIMENSIONS
    return table.get(z.dim() - 1, set())


def options(subject: Subject) -> Iterator[dict[str, Any]]:
    """The config, and with each choice that one of its arguments leaves."""
    yield dict(subject.config)
    for name, parameter in parameters(subject.host.load(subject.registration)).items():
        if name not in PROVIDED:
            yield from ({**subject.config, name: choice} for choice in _choices(parameter))


def _choices(parameter: Parameter) -> Sequence[Any]:
    return (False, True) if parameter.annotation is bool else tuple(parameter.literals)


def _shapes(subject: Subject, latent: str) -> list[tuple[int, ...]]:
    """That of the subject first, if it is such a latent."""
    own = tuple(subject.shapes["latent_shape"])
    dims = len(SHAPES[latent][0])
    return [*([own] if len(own) == dims else []), *SHAPES[latent]]


def _refusal(subject: Subject, shape: tuple[int, ...], latent: str) -> str:
    """Why it does not take latents of that shape; empty if it does."""
    try:
        made = subject.make(latent_shape=shape).eval()
    except ConfigError as error:
        return str(error)
    with drawing(0), torch.no_grad():
        if subject.spec.kind == "prior":
            found = tuple(made().sample(torch.Size((2,))).shape)
        else:
            z = torch.randint(CODES, (2, *shape)) if latent.endswith("[codes]") else torch.randn(2, *shape)
            given = made(z)
            found = (2, *shape) if subject.spec.kind == "decoder" else tuple(given.z_q.shape)
    return "" if found == (2, *shape) else f"what it gives has the shape {found}, not {(2, *shape)}"
