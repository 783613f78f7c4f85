"""What is asked of p(z), beside that it is a distribution with draws of its own."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core.testing.checks import check, require, require_equal
from zoo_core.testing.exercises import trained
from zoo_core.testing.kinds.densities import require_moments, tiny_prior, varied
from zoo_core.testing.kinds.support import ends, flat, is_discrete, log_prob
from zoo_core.testing.subjects import Subject, drawing

DRAWS = 100_000
NUMBERS = 2**20  # of all draws together
SIGMAS = 5.5


def of_numbers(spec: Any) -> bool:
    return any(latent.endswith("[real]") for latent in spec.accepts)


@check("prior", structural=True)
def samples(subject: Subject) -> None:
    """sample(n) gives n different draws (n, *latent_shape), by its generator alone; log_prob of each is a number."""
    prior = subject.make().eval()
    one, same, other = (prior.sample(64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    wanted = (64, *subject.shapes["latent_shape"])
    require(tuple(one.shape) == wanted, f"sample(64) has the shape {tuple(one.shape)}, not {wanted}")
    require_equal(one, same, "with equal generators, samples differ")
    require(not torch.equal(one, other), "another generator draws the same")
    require(bool((one != one[:1]).any()), "64 draws are all alike")
    p = prior()
    shapes = tuple(p.batch_shape), tuple(p.event_shape)
    require(shapes == ((), wanted[1:]), f"its distribution has the batch and event shapes {shapes[0]} and {shapes[1]}")
    _require_codes(prior, one)
    told = prior.log_prob(one)
    require(tuple(told.shape) == (64,), f"log_prob of 64 draws has the shape {tuple(told.shape)}, not (64,)")
    require(told.isfinite().all(), "log_prob of its own draws is not finite")


@check("prior")
def gradients(subject: Subject) -> None:
    """log_prob has a gradient in each of its weights, and in z if it varies there, finite and not zero."""
    with drawing(0):
        prior = varied(subject.make())
        z = prior.sample(8)
        varies = z.is_floating_point() and bool((prior.log_prob(z) != prior.log_prob(z)[0]).any())
        z = z.double().requires_grad_() if varies else z
        log_p = prior.log_prob(z)
        asked = [*trained(prior), *([("z", z)] if varies else [])]
        if asked:
            require(log_p.requires_grad, "log_prob has no gradient: is it detached?")
            log_p.sum().backward()
    for name, tensor in asked:
        require(tensor.grad is not None and bool(tensor.grad.any()), f"log_prob has no gradient in {name!r}")
        assert tensor.grad is not None
        require(tensor.grad.isfinite().all(), f"the gradient of log_prob in {name!r} is not finite")


@check("prior", when=of_numbers)
def score_of_draws(subject: Subject) -> None:
    """What sample draws is what log_prob describes: E[∂ log p(z)] = 0 and E[z ∂ log p(z)] = -1, number by number.

    Stein's identity, in two dimensions and in its own: it knows no constant, and asks each slope.
    """
    with drawing(0):
        for prior in (tiny_prior(subject), subject.make()):
            p = varied(prior)()
            n = min(DRAWS, NUMBERS // math.prod(p.event_shape))
            z = flat(p, p.sample(torch.Size((n,)))).double()
            if is_discrete(p):
                require_moments(p, z, "sample")
            else:
                _require_stein(p, z)


def _require_codes(prior: Any, k: Tensor) -> None:
    """Those of a prior over codes."""
    if k.is_floating_point():
        return
    require(k.dtype == torch.int64, f"its codes are {k.dtype}, not int64")
    size = getattr(prior, "codebook_size", 0)
    require(size, "a prior of codes has their number as its attribute codebook_size")
    require(k.min() >= 0 and k.max() < size, f"it draws codes from {k.min()} to {k.max()}, not 0 to {size - 1}")


def _require_stein(p: Distribution, z: Tensor) -> None:
    """E[f ∂ log p + ∂f] = 0 for f that are 0 where p ends."""
    low, high = ends(p, z)
    slope = slope_of(log_prob(p, z.requires_grad_()), z)
    z = z.detach().requires_grad_()
    inner = torch.where(low.isfinite(), z - low, 1.0) * torch.where(high.isfinite(), high - z, 1.0)
    for what, f in (("E[∂ log p(z)]", inner), ("E[z ∂ log p(z)]", inner * z)):
        terms = f.detach() * slope + slope_of(f, z)
        off = terms.mean(0).abs() / (terms.std(0) / math.sqrt(len(z)) + 1e-9)
        worst = int(off.argmax())
        require(
            off[worst] < SIGMAS,
            f"{what} is not what it must be in {len(low)} dimensions: sample and log_prob are two distributions"
            f" ({float(off[worst]):.0f} s.e., in number {worst})",
        )


def slope_of(f: Tensor, z: Tensor) -> Tensor:
    """∂f/∂z, of a constant 0."""
    return torch.autograd.grad(f.sum(), z, retain_graph=True)[0] if f.requires_grad else torch.zeros_like(z)
