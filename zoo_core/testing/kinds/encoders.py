"""What is asked of q(z|x): of encoders, and of the posteriors that are their last layer."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zoo_core.distributions import has_closed_form_kl, kl
from zoo_core.errors import ConfigError
from zoo_core.testing.checks import check, require
from zoo_core.testing.kinds.densities import SIGMAS, told_moment, varied
from zoo_core.testing.kinds.latents import layouts, options
from zoo_core.testing.kinds.support import is_discrete, is_point, name_of, support_of
from zoo_core.testing.subjects import Subject, batch_of, drawing

DRAWS = 20_000
VARIATIONS = 8_000  # draws of which each has a derivative
LATENTS = (3, 2, 2)  # of posteriors


@check("encoder", "posterior", structural=True)
def latent_shape(subject: Subject) -> None:
    """q(z|x) has the leading dimensions of the batch and one latent as its event, and so have draws and log_prob."""
    made = subject.make().eval()
    x = _inputs(subject, made, 6).float()
    if subject.spec.kind == "encoder":
        require_shapes(made(x), (6,), tuple(made.latent_shape))
        return
    for leading in ((6,), (2, 3)):
        require_shapes(posterior(subject, made, x.reshape(*leading, *x.shape[1:])), leading, LATENTS)


@check("encoder")
def emits(subject: Subject) -> None:
    """It emits the latents that its spec says, and no others, over all choices that its arguments leave."""
    found: set[str] = set()
    for config in options(subject):
        try:
            made = subject.make(config=config).eval()
        except ConfigError:
            continue  # not every choice goes with every other
        z = made(batch_of(subject.data_shape, 2)["image"]).sample()
        require(
            tuple(z.shape) == (2, *made.latent_shape),
            f"with {config}, latents of 2 examples have the shape {tuple(z.shape)}, not {(2, *made.latent_shape)}",
        )
        possible = layouts(z)
        require(
            possible & set(subject.spec.emits),
            f"it emits {' or '.join(sorted(possible))} with {config}, its spec says {', '.join(subject.spec.emits)}",
        )
        found |= possible
    missing = sorted(set(subject.spec.emits) - found)
    require(not missing, f"its spec says that it emits {', '.join(missing)}, which no choice of its arguments does")


@check("encoder", "posterior")
def divergence(subject: Subject) -> None:
    """KL(q || p) is never negative, 0 where q is p, and what draws of q say it is."""
    with drawing(0), torch.no_grad():
        made = varied(subject.make(), 0.05)
        x = _inputs(subject, made, 4)
        q, other = posterior(subject, made, x[:2]), posterior(subject, made, x[2:])
        if is_point(q):
            return
        _require_no_divergence(q)
        for p in (other, *_standard_normal(q)):
            _require_divergence(q, p)


@check("encoder", "posterior")
def gradients_of_draws(subject: Subject) -> None:
    """The gradient that training takes through draws is, on average, that of the mean and of the variance.

    Of draws without a gradient, that of log_prob is asked: E[z ∂ log q] = ∂ E[z], and E[∂ log q] = 0.
    """
    with drawing(0):
        made = varied(subject.make(), 0.05)
        x = _inputs(subject, made, 2).requires_grad_()
        q = posterior(subject, made, x)
        v = torch.randn_like(x)
        if q.has_rsample:
            _require_pathwise(q, x, v)
        else:
            _require_score(q, x, v)


def posterior(subject: Subject, made: Any, x: Tensor) -> Distribution:
    """What an encoder makes of data, or a posterior of features."""
    q: Distribution = made(x) if subject.spec.kind == "encoder" else made(x, len(LATENTS))
    return q


def require_shapes(p: Distribution, batch: tuple[int, ...], event: tuple[int, ...]) -> None:
    for name, found, wanted in (("batch_shape", p.batch_shape, batch), ("event_shape", p.event_shape, event)):
        require(tuple(found) == wanted, f"its distribution has the {name} {tuple(found)}, not {wanted}")
    value = p.sample(torch.Size((7,)))
    require(tuple(value.shape) == (7, *batch, *event), f"7 draws have the shape {tuple(value.shape)}")
    found = p.log_prob(value).shape
    require(
        tuple(found) == (7, *batch),
        f"log_prob of 7 draws has the shape {tuple(found)}, not {(7, *batch)}: one number each, summed over the whole",
    )


def _inputs(subject: Subject, made: Any, n: int) -> Tensor:
    if subject.spec.kind == "encoder":
        x: Tensor = batch_of(subject.data_shape, n)["image"].double()
        return x
    return 0.7 * torch.randn(n, made.channels(LATENTS[0]), *LATENTS[1:], dtype=torch.float64)


def _standard_normal(q: Distribution) -> Iterator[Distribution]:
    """N(0, I) for a q without ends: the prior that most of them meet."""
    z = q.sample()
    if z.is_floating_point() and not is_discrete(q) and bool(support_of(q).check(z * 1e6).all()):
        one = Normal(torch.zeros_like(z), torch.ones_like(z), validate_args=False)
        yield Independent(one, len(q.event_shape), validate_args=False)


def _require_no_divergence(q: Distribution) -> None:
    zero = kl(q, q, q.sample())
    require(zero.shape == q.batch_shape, f"KL(q || q) of {name_of(q)} has the shape {tuple(zero.shape)}")
    require(zero.abs().max() < 1e-6, f"KL(q || q) of {name_of(q)} is {float(zero.abs().max()):.3g}, not 0")


def _require_divergence(q: Distribution, p: Distribution) -> None:
    what = f"KL({name_of(q)} || {name_of(p)})"
    z = q.sample(torch.Size((DRAWS,)))
    estimates = q.log_prob(z) - p.log_prob(z)
    allowed = SIGMAS * estimates.std(0) / DRAWS**0.5 + 1e-6 * (1 + estimates.mean(0).abs())
    low = float((estimates.mean(0) + allowed).min())
    require(low >= 0, f"{what} comes out below 0 by draws of q: they are not what its log_prob says")
    if not has_closed_form_kl(q, p):
        return
    told = kl(q, p)
    require(told.shape == q.batch_shape, f"{what} has the shape {tuple(told.shape)}, not {tuple(q.batch_shape)}")
    require(told.min() >= 0, f"{what} is {float(told.min()):.4g}, which is below 0")
    off = (told - estimates.mean(0)).abs() / allowed
    i = int(off.argmax())
    require(
        off[i] <= 1,
        f"{what} is {float(told[i]):.4g}, by {DRAWS} draws of q {float(estimates.mean(0)[i]):.4g}"
        f" ({SIGMAS * float(off[i]):.0f} s.e. apart)",
    )


def _require_pathwise(q: Distribution, x: Tensor, v: Tensor) -> None:
    """∂/∂x along v of E[z] and of E[z²], by draws and by moments."""
    z = q.rsample(torch.Size((1 if is_point(q) else VARIATIONS,)))
    require(z.requires_grad, f"rsample of {name_of(q)} has no gradient: draw as a function of its parameters")
    dz = _along(z, x, v)
    _require_slope("E[z]", dz, q, x, v, lambda mean, variance: mean)
    _require_slope("E[z²]", 2 * z.detach() * dz, q, x, v, lambda mean, variance: mean.square() + variance)


def _require_score(q: Distribution, x: Tensor, v: Tensor) -> None:
    z = q.sample(torch.Size((VARIATIONS,)))
    d_log_q = _along(q.log_prob(z), x, v)
    _require_mean(d_log_q, torch.zeros_like(d_log_q[0]), "E[∂ log q]")
    mean = told_moment(q, "mean")
    if mean is not None:
        centred = z - mean.detach()
        scores = d_log_q.reshape(*d_log_q.shape, *[1] * len(q.event_shape)) * centred
        _require_mean(scores, _along(mean, x, v), "E[z ∂ log q]")


def _require_slope(what: str, slopes: Tensor, q: Distribution, x: Tensor, v: Tensor, of: Any) -> None:
    moments = [told_moment(q, moment) for moment in ("mean", "variance")]
    if None not in moments:
        _require_mean(slopes, _along(of(*moments), x, v), f"the gradient of {what} through draws")


def _require_mean(slopes: Tensor, wanted: Tensor, what: str) -> None:
    spread = slopes.std(0) if len(slopes) > 1 else torch.zeros_like(wanted)
    allowed = SIGMAS * spread / len(slopes) ** 0.5 + 1e-6 * (1 + wanted.abs())
    off = float(((slopes.mean(0) - wanted).abs() / allowed).max())
    require(off <= 1, f"{what} is not that of its moments ({SIGMAS * off:.0f} s.e. apart)")


def _along(y: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """∂y/∂x v, like y: of each of its numbers, in two passes backwards."""
    if not y.requires_grad:
        return torch.zeros_like(y)
    u = torch.ones_like(y, requires_grad=True)
    (gradient,) = torch.autograd.grad(y, x, u, create_graph=True, allow_unused=True)
    if gradient is None or not gradient.requires_grad:
        return torch.zeros_like(y)
    (along,) = torch.autograd.grad(gradient, u, v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(y) if along is None else along.detach()
