"""What is asked of a model."""

import math
import random
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.components import Decoder, StatisticalModel
from zoo_core.config import describe
from zoo_core.errors import ZooError
from zoo_core.pretrained import from_pretrained, save_pretrained
from zoo_core.testing.checks import check, require, require_equal, unfit
from zoo_core.testing.kinds.trials import descend, objective_of
from zoo_core.testing.subjects import Subject, as_json, data_of, drawing, fit

DRAWS, EXAMPLES, STEPS = 16, 8, 20
PAIR = (1, 1, 2)  # the smallest data of more than one number
PATCH = (2, 2)  # the same of codes
LEVELS = 256
# A side, of a density and of a noisy bound; the outermost lie sinh(6) / 4 = 50 deviations from the middle.
NODES, NODES_OF_BOUND, REACH = 400, 100, 6.0
DENSITY_DRAWS = 4
SUM_OFF, MANY = 0.01, 500


def draws_samples(spec: Any) -> bool:
    return bool(spec.sampling != "none")


def is_density(spec: Any) -> bool:
    return bool(spec.density != "none")


@check("model", when=draws_samples, structural=True)
def samples(subject: Subject) -> None:
    """It draws so many data as it is asked for."""
    model = subject.make().eval()
    for n in (1, DRAWS):
        x = model.sample(n, generator=_generator(0))
        require(
            isinstance(x, Tensor) and tuple(x.shape) == (n, *model.data_shape),
            f"{n} samples have the shape {tuple(x.shape)}, not {(n, *model.data_shape)}",
        )
        require(not x.requires_grad, "samples have a gradient")
        require(not x.is_floating_point() or x.isfinite().all(), "samples are not finite")


@check("model", when=draws_samples)
def range_of_samples(subject: Subject) -> None:
    """Images lie in [0, 1], codes below its codebook's size."""
    model = subject.make().eval()
    x = model.sample(DRAWS, generator=_generator(0))
    low, high = x.min().item(), x.max().item()
    if x.is_floating_point():
        require(low >= 0 and high <= 1, f"images must lie in [0, 1], samples lie from {low:.3g} to {high:.3g}")
        return
    size = int(getattr(model, "codebook_size", 0))
    require(size, f"samples are {x.dtype}: say with codebook_size of how many codes")
    require(low >= 0 and high < size, f"samples must be codes from 0 to {size - 1}, they lie from {low} to {high}")


@check("model", when=draws_samples)
def seeds_of_samples(subject: Subject) -> None:
    """Equal generators give equal samples, whatever the global states, which stay as they are; others give others."""
    model, runs = subject.make().eval(), []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        with drawing(other):
            before = torch.random.get_rng_state()
            runs.append(model.sample(DRAWS, generator=_generator(5)))
            require(torch.equal(before, torch.random.get_rng_state()), "with a generator it moves the global one too")
    require_equal(runs[0], runs[1], "with equal generators samples differ")
    require(
        not torch.equal(runs[0], model.sample(DRAWS, generator=_generator(6))),
        "with another generator samples are the same",
    )


@check("model", when=lambda spec: not draws_samples(spec))
def nothing_drawn(subject: Subject) -> None:
    """Its spec says that it draws no samples: asked for some it says so."""
    model = subject.make().eval()
    try:
        model.sample(1)
    except (ZooError, NotImplementedError) as error:
        require(len(str(error).split()) > 2, f"asked for samples it says no more than {str(error)!r}")
        return
    unfit("its spec says that it draws none, but it gives samples")


@check("model", when=is_density)
def densities(subject: Subject) -> None:
    """log p(x) is one finite number for each x."""
    model = subject.make().eval()
    for n in (1, EXAMPLES):
        batch = data_of(model, n)
        log_p = model.given(batch).log_prob(batch["image"])
        require(
            isinstance(log_p, Tensor) and tuple(log_p.shape) == (n,),
            f"log_prob of {n} data has the shape {tuple(log_p.shape)}, not ({n},): sum over each example",
        )
        require(log_p.isfinite().all(), "log_prob of data is not finite")


@check("model", when=lambda spec: not is_density(spec))
def no_density(subject: Subject) -> None:
    """Its spec says that it has no density: log_prob says so, and gives no number."""
    model = subject.make().eval()
    try:
        model.log_prob(data_of(model, 2)["image"])
    except NotImplementedError:
        return
    unfit("its spec says that it has no density, but log_prob gives numbers; leave log_prob as it is inherited")


@check("model", when=is_density)
def sum_of_densities(subject: Subject) -> None:
    """p(x), added up over all x of two numbers or four codes, is 1; of a lower bound, not more."""
    model, total = _tiny(subject), 0.0
    nodes = NODES if subject.spec.density == "exact" else NODES_OF_BOUND
    with torch.no_grad(), drawing(0):
        for x, log_volume in _everything(model, nodes):
            log_p = torch.stack([model.log_prob(x).double() for _ in range(_repeats(subject))]).mean(0)
            total += float((log_p + log_volume).exp().sum())
    exact = subject.spec.density == "exact"
    require(
        total <= 1 + SUM_OFF and (total >= 1 - SUM_OFF or not exact),
        f"p(x) adds up to {total:.4g} over all x, "
        + ("not to 1, which an exact density must" if exact else "which no lower bound can: more than 1"),
    )


@check("model")
def size_of_latents(subject: Subject) -> None:
    """Latents are smaller than the data, of their size, or absent, as its spec says."""
    model, promised = subject.make(), subject.spec.latent
    shape = getattr(model, "latent_shape", getattr(model, "codes_shape", None))
    if promised == "none":
        require(shape is None, f"its spec says that it has no latents, but it has some of the shape {shape}")
        return
    if shape is None:
        decodes = isinstance(getattr(model, "decoder", None), Decoder)
        require(not decodes, "it decodes latents, but has no latent_shape")  # a mixture has neither
        return
    latents, data = math.prod(shape), math.prod(model.data_shape)
    fits = latents < data if promised == "compressed" else latents == data
    require(fits, f"its spec says that latents are {promised}, but they are {latents} numbers of data of {data}")


@check("model")
def learning(subject: Subject) -> None:
    """20 steps on 8 examples make the loss smaller; a fit by sums never makes it larger."""
    with drawing(0):
        model = subject.make()
    batch = data_of(model, EXAMPLES)
    if isinstance(model, StatisticalModel):
        _require_fit(model, batch["image"])
        return
    before = _expected_loss(subject, model, batch)
    descend(subject, model, batch, steps=STEPS, rate=1e-2)
    after = _expected_loss(subject, model, batch)
    require(math.isfinite(after), f"after {STEPS} steps the loss is {after}")
    require(after < before, f"after {STEPS} steps on {EXAMPLES} examples the loss is {after:.5g}; it was {before:.5g}")


@check("model")
def pretrained(subject: Subject) -> None:
    """Saved as a checkpoint and loaded again it has the same weights, and draws the same samples bit for bit."""
    model = _varied(subject.make(), 0.01)
    with tempfile.TemporaryDirectory() as folder:
        loaded = from_pretrained(save_pretrained(model, folder, host=subject.host), host=subject.host)
    same = as_json(describe(loaded, host=subject.host)) == as_json(describe(model, host=subject.host))
    require(same, "loaded, it has another config")
    require(loaded.files() == model.files(), "loaded, it has other files beside its weights")
    for name, value in model.state_dict().items():
        require_equal(value, loaded.state_dict()[name], f"loaded, it differs in {name!r}")
    if draws_samples(subject.spec):
        one, other = (m.sample(4, generator=_generator(3)) for m in (model, loaded))
        require_equal(one, other, "loaded, it draws other samples")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _repeats(subject: Subject) -> int:
    return 1 if subject.spec.density == "exact" else DENSITY_DRAWS


def _tiny(subject: Subject) -> Any:
    """One whose data are so few numbers that all of them can be listed."""
    coded = hasattr(subject.make(), "codebook_size")
    model = subject.make(data_shape=PATCH if coded else PAIR)
    with drawing(2):
        fit(model, MANY)  # of a few examples each may get a peak of its own, too narrow for a grid
    return _varied(model, 0.05)


def _varied(model: Any, by: float) -> Any:
    """In evaluation mode, with weights that no constructor gives: some start where much cancels."""
    with torch.no_grad(), drawing(1):
        for p in model.parameters():
            p.add_(by * torch.randn(p.shape))
    return model.eval()


def _everything(model: Any, nodes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All x that there are, or a grid over them with the log volume of each cell, some at a time."""
    values, log_widths = zip(*_axes(model, nodes), strict=True)
    x = torch.cartesian_prod(*values).reshape(-1, *model.data_shape)
    volumes = torch.cartesian_prod(*log_widths).sum(1)
    yield from zip(torch.split(x, 20_000), torch.split(volumes, 20_000), strict=True)


def _axes(model: Any, nodes: int) -> list[tuple[Tensor, Tensor]]:
    """The values of each number, and the log width of a cell about each of them: 0 where it is a mass."""
    D = math.prod(model.data_shape)
    if hasattr(model, "codebook_size"):
        return [_masses(torch.arange(model.codebook_size))] * D
    support = getattr(model, "support", None) or _support_of_decoder(model)
    if support is not None and support.is_discrete:
        levels = torch.arange(LEVELS) / (LEVELS - 1)
        takes = support.check(levels.reshape(-1, 1, 1, 1).expand(-1, *PAIR)).all()
        return [_masses(levels if takes else torch.tensor([0.0, 1.0]))] * D
    return [_nodes(x, nodes) for x in model.simulate(1000).double().flatten(1).unbind(1)]


def _masses(values: Tensor) -> tuple[Tensor, Tensor]:
    return values, torch.zeros(len(values), dtype=torch.float64)


def _nodes(x: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Points about draws x of one number, dense in their middle and far apart where there are few."""
    t = torch.linspace(-REACH, REACH, nodes, dtype=torch.float64)
    width = x.std() / 4
    return (x.mean() + width * t.sinh()).float(), (width * t.cosh() * float(t[1] - t[0])).log()


def _support_of_decoder(model: Any) -> Any:
    if not isinstance(getattr(model, "decoder", None), Decoder):
        return None
    return model.decoder(torch.zeros(1, *model.decoder.latent_shape)).support


def _expected_loss(subject: Subject, model: Any, batch: Any) -> float:
    objective, totals = objective_of(subject), []
    with torch.no_grad():
        for seed in range(8):
            with drawing(seed):
                totals.append(float(objective(model.eval(), batch)))
    return sum(totals) / len(totals)


@torch.no_grad()
def _require_fit(model: StatisticalModel, x: Tensor) -> None:
    """The objective never falls, and sums of two halves are the sums of the whole."""
    last = -math.inf
    for _ in range(5):
        whole, halves = model.statistics(x), [model.statistics(half) for half in x.chunk(2)]
        for name, value in whole.items():
            added = halves[0][name] + halves[1][name]
            near = torch.allclose(value, added, rtol=1e-8, atol=1e-8)
            require(near, f"statistics {name!r} of two halves of the data do not add up to those of all")
        objective = float(whole["objective"])
        fallen = last - objective
        require(
            fallen <= 1e-6 * max(1.0, abs(last)), f"an iteration makes the objective worse: {last:.7g}, {objective:.7g}"
        )
        last = objective
        model.update(whole)
