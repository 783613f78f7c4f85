"""What is asked of quantizers: that codes and vectors belong to each other, and what a loss and a step may do."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import ConfigError
from zoo_core.testing.checks import check, require, require_equal, unfit
from zoo_core.testing.kinds.latents import SHAPES
from zoo_core.testing.subjects import Subject, drawing


def of_positions(spec: Any) -> bool:
    return any(latent in spec.accepts for latent in PLACES)


# Four times as many positions of as many channels.
PLACES = {"grid[real]": ((3, 2, 2), (3, 4, 4)), "sequence[real]": ((3, 4), (3, 16))}


@check("quantizer", structural=True)
def codes(subject: Subject) -> None:
    """Codes are int64 from 0 to codebook_size - 1, of codes_shape; forward and encode give the same ones."""
    with torch.no_grad(), drawing(0):
        quantizer = started(subject)
        z = 2 * torch.randn(32, *quantizer.latent_shape)
        k = quantizer.encode(z)
        shape, size = (32, *quantizer.codes_shape), quantizer.codebook_size
        require(tuple(k.shape) == shape, f"codes have the shape {tuple(k.shape)}, not {shape}")
        require(k.dtype == torch.int64, f"codes are {k.dtype}, not int64")
        require(k.min() >= 0 and k.max() < size, f"codes go from {k.min()} to {k.max()}, not from 0 to {size - 1}")
        require_equal(k, quantizer(z).codes, "encode and forward give different codes")


@check("quantizer")
def lookup(subject: Subject) -> None:
    """lookup gives the vectors that forward gives, with any leading dimensions."""
    with torch.no_grad(), drawing(0):
        quantizer = started(subject)
        z = torch.randn(6, *quantizer.latent_shape)
        k, z_q = quantizer.encode(z), quantizer(z).z_q
        found = quantizer.lookup(k)
        require(found.shape == z_q.shape, f"lookup gives {tuple(found.shape)}, forward {tuple(z_q.shape)}")
        off = float((found - z_q).abs().max())
        require(off <= 1e-5, f"lookup gives other vectors than forward, by up to {off:.2g}")
        for leading in ((2, 3), (1, 6, 1)):
            many = quantizer.lookup(k.reshape(*leading, *quantizer.codes_shape))
            require(many.shape == (*leading, *z.shape[1:]), f"lookup of codes {leading} gives {tuple(many.shape)}")
            require_equal(many.reshape(z.shape), found, f"with dimensions {leading} before, lookup gives other vectors")
        require_equal(quantizer.lookup(k[0]), found[0], "without dimensions before, lookup gives another vector")


@check("quantizer")
def gradient_estimate(subject: Subject) -> None:
    """z_q has a gradient in z, by an estimate, finite and not zero, in training and afterwards."""
    with drawing(0):
        for training in (True, False):
            quantizer = started(subject).train(training)
            z = torch.randn(4, *quantizer.latent_shape, requires_grad=True)
            z_q = quantizer(z).z_q
            require(z_q.requires_grad, "z_q has no gradient in z: pass it on, as by z + (z_q - z).detach()")
            weights = torch.linspace(0.5, 1.5, z_q.numel()).reshape(z_q.shape)
            (gradient,) = torch.autograd.grad((z_q * weights).sum(), z, allow_unused=True)
            require(gradient is not None and bool(gradient.any()), "z_q has no gradient in z: pass it on")
            require(gradient.isfinite().all(), "the gradient of z_q in z is not finite")


@check("quantizer")
def loss_of_each(subject: Subject) -> None:
    """The loss is one number for each example, (B,), and that of a row has nothing to do with the others."""
    with torch.no_grad(), drawing(0):
        for training in (True, False):
            quantizer = started(subject).train(training)
            z = torch.randn(4, *quantizer.latent_shape)
            with drawing(1):
                loss = quantizer(z).loss
            require(loss.shape == (4,), f"the loss of 4 examples has the shape {tuple(loss.shape)}, not (4,)")
            with drawing(1):  # with equal noise, if there is any
                again = quantizer(torch.cat([z[:1], z[:1], 3 * z[2:]])).loss
            require(
                torch.allclose(again[0], loss[0], rtol=1e-4, atol=1e-5),
                "the loss of an example changes with the others of its batch",
            )


@check("quantizer", when=of_positions)
def loss_is_a_sum(subject: Subject) -> None:
    """The loss is a sum over positions: four times as many of them cost about four times as much."""
    with torch.no_grad(), drawing(0):
        few, many = (_loss(subject, shape) for shape in _places(subject))
    ratio = many / few if few else float(many == few) * 4
    require(
        2 < ratio < 8,
        f"the loss of 4 times as many positions is {ratio:.2g} times as large: sum over positions and channels,"
        " do not take means",
    )


@check("quantizer")
def perplexity(subject: Subject) -> None:
    """The perplexity is exp of the entropy of the batch's codes, from 1 to codebook_size; counts count them."""
    with torch.no_grad(), drawing(0):
        quantizer = started(subject)
        made = quantizer(torch.randn(16, *quantizer.latent_shape))
        counts = quantizer.counts(made.codes)
        require(counts.dtype == torch.int64 and counts.dim() == 2 and counts.shape[1] == quantizer.codebook_size,
                f"counts are {counts.dtype} {tuple(counts.shape)}, not int64 (codebooks, codebook_size)")  # fmt: skip
        require(counts.sum() == made.codes.numel(), f"counts of {made.codes.numel()} codes add up to {counts.sum()}")
        share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
        wanted = torch.special.entr(share).sum(1).exp().mean()
        told = made.perplexity
        require(told.dim() == 0, f"perplexity has the shape {tuple(told.shape)}, not ()")
        require(abs(float(told) - float(wanted)) <= 1e-4 * float(wanted),
                f"perplexity is {float(told):.5g}; exp of the entropy of its codes is {float(wanted):.5g}")  # fmt: skip


@check("quantizer")
def steps(subject: Subject) -> None:
    """after_step learns in training alone, in the tensors that it has, and leaves codes and vectors finite."""
    with torch.no_grad(), drawing(0):
        quantizer = subject.make()
        before = dict(_tensors(quantizer))
        for _ in range(3):
            quantizer(torch.randn(8, *quantizer.latent_shape))
            quantizer.after_step()
        after = dict(_tensors(quantizer))
        for name, tensor in before.items():
            now = after.get(name)
            require(now is tensor, f"a step puts another tensor in the place of {name!r}: write into it, as by copy_()")
            require(tensor.isfinite().all(), f"after a step {name!r} is not finite")
        quantizer(torch.randn(8, *quantizer.latent_shape))
        kept = copy.deepcopy(quantizer.eval().state_dict())
        quantizer.after_step()
        quantizer(torch.randn(8, *quantizer.latent_shape))
        quantizer.after_step()
        for name, tensor in quantizer.state_dict().items():
            require_equal(tensor, kept[name], f"in evaluation mode a step changes {name!r}")


def started(subject: Subject, n: int = 8, **shapes: Any) -> Any:
    """One that has seen a batch of n, in evaluation mode: a codebook may start from the first latents."""
    quantizer = subject.make(**shapes)
    with torch.no_grad():
        quantizer(torch.randn(n, *quantizer.latent_shape))
        quantizer.after_step()
    return quantizer.eval()


def _tensors(quantizer: Any) -> list[tuple[str, Tensor]]:
    return [*quantizer.named_parameters(), *quantizer.named_buffers()]


def _places(subject: Subject) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for latent in subject.spec.accepts:
        if latent not in PLACES:
            continue
        try:
            for shape in PLACES[latent]:
                subject.make(latent_shape=shape)
        except ConfigError:
            continue
        return PLACES[latent]
    own = tuple(subject.shapes["latent_shape"])
    if len(own) == 1:
        unfit(f"it refuses each of the shapes {', '.join(str(p) for p in SHAPES['grid[real]'])}")
    return own, (own[0], *(2 * n for n in own[1:]))


def _loss(subject: Subject, shape: tuple[int, ...]) -> float:
    # As many vectors to start from, however many positions an example has.
    quantizer = started(subject, max(1, 128 // math.prod(shape[1:])), latent_shape=shape)
    return float(quantizer(torch.randn(64, *shape)).loss.mean())
