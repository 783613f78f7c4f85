"""What is asked of every distribution that a component gives: that it is one, and that its draws are its own.

A distribution of a few numbers is added up over all that they can be together; one of many over each number while the
others stay as they are, which is enough where none of them depends on another.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core.errors import ConfigError
from zoo_core.testing.checks import check, require, unfit
from zoo_core.testing.kinds.support import depends, flat, is_discrete, is_inside, is_point, log_prob, name_of
from zoo_core.testing.kinds.tables import NODES, Table, fits_a_table, middle_and_width, table_alone, table_of
from zoo_core.testing.subjects import CODES, Subject, batch_of, drawing

DENSE = ("encoder", "posterior", "decoder", "likelihood", "prior")
DRAWS = 40_000
NUMBERS = 2**20  # of all draws together
SIGMAS = 5.0


@check(*DENSE)
def sums_to_one(subject: Subject) -> None:
    """What log_prob says of all that can be drawn adds up to one: probabilities to a sum, densities to an integral."""
    with drawing(0), torch.no_grad():
        for p in laws(subject):
            require_sum_of_one(p)


@check(*DENSE)
def draws(subject: Subject) -> None:
    """Draws lie where log_prob says, as often as it says, and have the mean and the variance that are told."""
    with drawing(0), torch.no_grad():
        for p in laws(subject):
            require_own_draws(p)


def laws(subject: Subject) -> list[Distribution]:
    """Distributions that a component gives, in float64, of few numbers where its kind leaves a choice."""
    return _LAWS[subject.spec.kind](subject)


def varied(component: Any, by: float = 0.3) -> Any:
    """In evaluation mode and float64, with weights that are no longer all alike."""
    with torch.no_grad():
        for parameter in component.parameters():
            if parameter.is_floating_point():
                parameter.add_(by * torch.randn(parameter.shape))
    return component.eval().double()


def tiny_prior(subject: Subject) -> Any:
    """A prior of two numbers, of three codes, or, if it refuses these, of its own shape."""
    shapes: list[dict[str, Any]] = [{"latent_shape": shape, "codebook_size": 4} for shape in ((3,), (1, 3))]
    if any(latent.endswith("[real]") for latent in subject.spec.accepts):
        shapes = [{"latent_shape": (2,)}, {"latent_shape": (2, 1, 1)}]
    for chosen in shapes:
        try:
            return subject.make(**chosen)
        except ConfigError:
            continue
    return subject.make()


def require_sum_of_one(p: Distribution) -> None:
    x = flat(p, p.sample(torch.Size((4000,))))
    if is_point(p):
        require(not log_prob(p, x).any(), "log_prob of the one point that can be drawn is not 0")
        return
    if fits_a_table(p, x):
        total = table_of(p, x).total
        tolerance = 1e-3 if is_discrete(p) else NODES[x.shape[-1]][1]
    elif depends(p, x):
        unfit(
            f"{x.shape[-1]} numbers that depend on each other are too many to add up over: let the module conformance"
            " give a smaller shape in SHAPES, or expect this failure"
        )
    else:
        # log p(x) is then the sum of what is left of it for each number, once that adds up to one.
        total = (log_prob(p, x[:1])[0] - _log_shares(p, x)).exp()
        tolerance = 2e-2
    worst = float(total.flatten()[(total - 1).abs().argmax()])
    what = "the probabilities of all that can be drawn add up to" if is_discrete(p) else "the density integrates to"
    require(
        abs(worst - 1) <= tolerance,
        f"{what} {worst:.4g}, not 1 ({name_of(p)}): a sum over pixels or latents, its constants and its"
        " Jacobian belong to log_prob",
    )


def _log_shares(p: Distribution, x: Tensor) -> Tensor:
    """Σ_i log p(x_i) of the first draw, each share made to add up to one, (*batch,)."""
    table = table_alone(p, x)
    return (log_prob(p, x[:1])[0].unsqueeze(-1) - table.log_mass.logsumexp(0)).sum(-1)


def require_own_draws(p: Distribution) -> None:
    table = None
    for how in ("sample", "rsample") if p.has_rsample else ("sample",):
        x = flat(p, getattr(p, how)(torch.Size((min(DRAWS, NUMBERS // max(1, p.event_shape.numel())),))))
        if is_point(p):
            require((x == flat(p, p.mean)).all(), f"{how} draws something else than the one point")
            continue
        require(is_inside(p, x[:2000]).all(), f"{how} draws what is outside of its support, or has a log_prob of -inf")
        table = table or _table(p, x)
        if table is not None:
            _require_frequencies(p, table, x, how)
        require_moments(p, x.double(), how)


def _table(p: Distribution, x: Tensor) -> Table | None:
    """All that can be drawn; None if that is too much to write down."""
    if fits_a_table(p, x):
        return table_of(p, x)
    return None if depends(p, x) else table_alone(p, x)


def require_moments(p: Distribution, x: Tensor, how: str) -> None:
    mean = told_moment(p, "mean")
    middle = x.mean(0) if mean is None else flat(p, mean).double()
    for moment, of_draws in (("mean", x), ("variance", (x - middle).square())):
        told = told_moment(p, moment)
        if told is not None:
            off = _surprise(of_draws, flat(p, told).double())
            require(off <= 1, f"its {moment} is not that of what {how} draws ({SIGMAS * off:.0f} s.e. off)")


def told_moment(p: Distribution, moment: str) -> Tensor | None:
    """Its mean or variance; None if it has none."""
    try:
        told: Tensor = getattr(p, moment)
    except NotImplementedError:
        return None
    return told


def _require_frequencies(p: Distribution, table: Table, x: Tensor, how: str) -> None:
    """Compares features of draws with what the table says of them: none is moved far by a draw far away."""
    middle, width = middle_and_width(x.double())

    def t(x: Tensor) -> Tensor:
        return ((x - middle) / width).tanh()

    def neighbours(x: Tensor) -> Tensor:
        return t(x) * t(x).roll(1, -1)

    features = [t, lambda x: t(x).square(), neighbours]
    expected = [table.expect(f) for f in features]
    if table.log_mass.dim() == x.dim():  # each by itself, since none depends on another
        expected[2] = expected[0] * expected[0].roll(1, -1) if x.shape[-1] > 1 else expected[1]
    off = max(_surprise(f(x.double()), e) for f, e in zip(features, expected, strict=True))
    require(
        off <= 1,
        f"{how} and log_prob of {name_of(p)} are two distributions: what it draws is more or less frequent than"
        f" log_prob says ({SIGMAS * off:.0f} s.e.)",
    )


def _surprise(draws: Tensor, expected: Tensor) -> float:
    """How far the mean of draws (N, …) is from what is expected, in units of what is allowed."""
    mean, spread = draws.mean(0), draws.std(0)
    allowed = SIGMAS * spread / math.sqrt(len(draws)) + 2e-3 * (spread + 1e-3)
    # Some have no mean or variance, and say so.
    off = torch.where(expected.isfinite(), (mean - expected).abs() / allowed, 0.0)
    return float(off.nan_to_num(torch.inf).max())


def _of_encoder(subject: Subject) -> list[Distribution]:
    return [varied(subject.make(), 0.05)(batch_of(subject.data_shape, 2)["image"].double())]


def _of_posterior(subject: Subject) -> list[Distribution]:
    layer = varied(subject.make())
    return [layer(0.5 * torch.randn(2, layer.channels(3), dtype=torch.float64), 1)]


def _of_decoder(subject: Subject) -> list[Distribution]:
    decoder = varied(subject.make(), 0.05)
    coded = all(latent.endswith("[codes]") for latent in subject.spec.accepts)
    shape = (1, *decoder.latent_shape)
    return [decoder(torch.randint(CODES, shape) if coded else torch.randn(shape, dtype=torch.float64))]


def _of_likelihood(subject: Subject) -> list[Distribution]:
    """Of two pixels, and of one with three channels; the first of three features are all 0, and none is far from it.

    Of features far from 0 all mass may lie nearer to an end than numbers can tell.
    """
    layer = varied(subject.make())
    C = subject.data_shape[0]
    scale = torch.linspace(0, 0.5, 3, dtype=torch.float64).reshape(-1, 1, 1, 1)
    shapes = ((1, 1, 2), (3, 1, 1)) if C == 1 else ((C, 1, 1), (C, 1, 2))
    return [layer(scale * torch.randn(3, layer.channels(c), h, w).double(), 3) for c, h, w in shapes]


_LAWS: Mapping[str, Callable[[Subject], list[Distribution]]] = {
    "encoder": _of_encoder,
    "posterior": _of_posterior,
    "decoder": _of_decoder,
    "likelihood": _of_likelihood,
    "prior": lambda subject: [varied(tiny_prior(subject))()],
}
