"""The data, and the models fitted to them, on which losses and metrics are tried."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_core.data import Preprocessing, load
from zoo_core.testing.checks import unfit
from zoo_core.testing.reference import LinearGaussian
from zoo_core.testing.subjects import Subject, batch_of, drawing

VALUES = 6  # of each of the two factors
FLIPPED = 0.02  # of all numbers


def examples(subject: Subject, n: int) -> dict[str, Any]:
    """n examples in which everything is told by two factors: of the data that the plugin chose, or drawn here.

    Drawn are rows of zeros and ones, of which one part has as many ones as ``size`` says, and the rest as ``place``
    says. The parts are not equally long, so that the factors can be told apart.
    """
    if subject.data:
        options = dict(subject.data)
        stored = load(options.pop("name"), options.pop("split", "test"), host=subject.host, **options)
        return dict(Preprocessing()(stored.batch(torch.arange(n))))
    return {**batch_of(subject.data_shape, n), **_told_by_factors(subject.data_shape, n)}


def _told_by_factors(shape: tuple[int, ...], n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(n)
    size, place = (torch.randperm(n, generator=generator) % VALUES for _ in range(2))
    long = max(1, math.prod(shape) * 5 // 8)
    rows = torch.cat([_filled(size, long), _filled(place, math.prod(shape) - long)], 1)
    flips = (torch.rand(rows.shape, generator=generator) < FLIPPED).float()
    return {"image": (rows - flips).abs().reshape(n, *shape), "size": size, "place": place}


def _filled(factor: Tensor, length: int) -> Tensor:
    """Rows of ones up to a place, and of zeros from there."""
    return (torch.arange(length) < (factor.unsqueeze(1) * length / (VALUES - 1)).round()).float()


def fitted(subject: Subject, batch: Mapping[str, Any]) -> Any:
    """A model that knows a batch: the kit's own in closed form, others after some steps."""
    model = subject.make_model()
    if isinstance(model, LinearGaussian):
        model.fit(batch["image"])
    elif any(p.requires_grad for p in model.parameters()):
        descend(subject, model, batch, steps=40, rate=1e-2)
    return model.eval()


def descend(subject: Subject, model: Any, batch: Mapping[str, Any], *, steps: int, rate: float) -> None:
    """So many steps of Adam on one batch."""
    objective = objective_of(subject)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    model.train()
    for step in range(steps):
        with drawing(step):
            optimiser.zero_grad()
            objective(model, batch).backward()
            optimiser.step()
            model.after_step()
    optimiser.zero_grad()


def objective_of(subject: Subject) -> Any:
    """The loss that the plugin names, or else -log p(x) where the model promises a density."""
    if subject.loss:
        loss = subject.make_loss()
        return lambda model, batch: loss(model.given(batch), batch).total
    if getattr(subject.spec, "density", "exact") == "none":
        unfit(f"it promises no density to train by; name a loss in the plugin's module conformance:"
              f" LOSSES = {{{subject.spec.name!r}: …}}")  # fmt: skip
    return lambda model, batch: -model.given(batch).log_prob(batch["image"]).mean()


@torch.no_grad()
def degraded(model: Any) -> list[Any]:
    """The model made worse in two ways: with weights of noise, and with none at all."""
    noisy, empty = copy.deepcopy(model), copy.deepcopy(model)
    with drawing(0):
        for p in (*noisy.parameters(), *noisy.buffers()):
            if p.is_floating_point():
                p.normal_(std=2.0)
    for p in (*empty.parameters(), *empty.buffers()):
        p.zero_()
    return [noisy, empty]
