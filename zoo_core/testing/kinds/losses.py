"""What is asked of a loss."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.components import AdversarialLoss, LossOutput
from zoo_core.testing.checks import check, require, require_equal
from zoo_core.testing.reference import LinearGaussian, linear_gaussian
from zoo_core.testing.subjects import VECTOR, Subject, batch_of, drawing

EXAMPLES, DRAWS = 6, 24
STANDARD_ERRORS = 5  # by which a right component does not miss once in a million seeds
COPIES, SHIFT = 40, 2.0  # of each example in one batch; of q, in its own standard deviations
IMPORTANCE_SAMPLES = 5000


@check("loss", structural=True)
def total_and_terms(subject: Subject) -> None:
    """It gives a finite scalar, and named scalars without a gradient: at each step, and on data held out."""
    loss, model, batch = _tried(subject)
    for step in (0, 100, None):
        loss.step = step
        for name, made_small in _objectives(loss):
            _require_output(made_small(model.given(batch), batch), name)
    with torch.no_grad():
        held_out = loss(model.eval().given(batch), batch)
    _require_output(held_out, "forward, without gradients,")


@check("loss")
def mean_over_the_batch(subject: Subject) -> None:
    """A batch costs on average what each of its examples costs alone: nothing depends on how many there are."""
    loss, model, batch = _tried(subject)
    _quieten(model)
    singles = [_rows(batch, [i]) for i in range(EXAMPLES)]
    gaps, totals = [], []
    for seed in range(DRAWS):
        with drawing(seed), torch.no_grad():
            totals.append(float(loss(model.given(batch), batch).total))
            alone = [float(loss(model.given(single), single).total) for single in singles]
        gaps.append(totals[-1] - sum(alone) / EXAMPLES)
    gap, error = _mean_and_error(gaps)
    total = sum(totals) / DRAWS
    require(
        abs(gap) <= STANDARD_ERRORS * error + 1e-4 * max(1.0, abs(total)),
        f"a batch of {EXAMPLES} costs {total:.5g}, and its examples alone {total - gap:.5g} on average:"
        " sum over each example, and take the mean over the batch last",
    )


@check("loss")
def gradients(subject: Subject) -> None:
    """Each part of the model has a finite gradient; an adversary moves nothing but itself."""
    loss, model, batch = _tried(subject)
    for name, made_small in _objectives(loss):
        model.zero_grad(set_to_none=True)
        loss.zero_grad(set_to_none=True)
        total = made_small(model.given(batch), batch).total
        require(total.requires_grad, f"{name} gives a total without a gradient: is it detached?")
        total.backward()  # type: ignore[no-untyped-call]
        _require_gradients(loss.adversary if name == "oppose" else model, name)
        if name == "oppose":
            require(not _moved(model), "the adversary's loss has a gradient for the model: let it see detached values")


@check("loss")
def determinism(subject: Subject) -> None:
    """Noise comes from torch's random numbers alone, and the batch stays as it is."""
    runs = []
    for other in (1, 2):
        loss, model, batch = _tried(subject)
        before = batch["image"].clone()
        random.seed(other)
        np.random.seed(other)
        with drawing(7):
            runs.append(loss(model.given(batch), batch).total.detach())
        require_equal(before, batch["image"], "it changes the batch")
    require_equal(
        runs[0], runs[1], "the same costs something else with another state of numpy's and Python's random numbers"
    )


@check("loss", when=lambda spec: spec.bound)
def bound(subject: Subject) -> None:
    """-loss is no more than log p(x)."""
    loss, model, batch = _tried(subject)
    _quieten(model)
    with drawing(0), torch.no_grad():
        for i in range(2):
            # A batch of one example many times: its mean is an expectation.
            value, error = _mean_and_error([-t for t in _totals(loss, model, _rows(batch, [i] * COPIES))])
            truth = _log_p(model, batch["image"][i : i + 1])
            require(
                value <= truth + STANDARD_ERRORS * error + 1e-4 * abs(truth),
                f"-loss is {value:.5g} where log p(x) is {truth:.5g}: no lower bound, as its spec says it is",
            )


@check("loss", when=lambda spec: spec.bound)
def tightness(subject: Subject) -> None:
    """Where q(z|x) is the posterior, -loss is log p(x); where it is not, less."""
    loss, batch = subject.make(), batch_of(subject.data_shape, COPIES)
    with drawing(0), torch.no_grad():
        model = linear_gaussian(subject.data_shape, VECTOR[0])
        model.make_exact()
        truth = float(model.log_density(batch["image"]).mean())
        value, error = _mean_and_error([-total for total in _totals(loss, model, batch)])
        near = STANDARD_ERRORS * error + 1e-4 * abs(truth)
        require(
            abs(value - truth) <= near,
            f"where q(z|x) is the posterior, -loss is {value:.5g} and not log p(x), {truth:.5g}:"
            " sum over pixels and latents, in nats, and let defaults be those of the bound",
        )
        model.shift(SHIFT)
        worse, error = _mean_and_error([-total for total in _totals(loss, model, batch)])
        require(
            worse < truth - STANDARD_ERRORS * error,
            f"where q(z|x) is not the posterior, -loss is {worse:.5g}, not below log p(x), {truth:.5g}:"
            " is the distance of q(z|x) from p(z) in it?",
        )


def _tried(subject: Subject, n: int = EXAMPLES) -> tuple[Any, Any, dict[str, Any]]:
    """The loss, a model that it takes, and a batch."""
    return subject.make(), subject.make_model().train(), batch_of(subject.data_shape, n)


def _quieten(model: Any) -> None:
    """In evaluation mode; the kit's own with a q(z|x) near the posterior, where draws of z make little noise."""
    model.eval()
    if isinstance(model, LinearGaussian):
        model.make_exact()
        model.shift(SHIFT / 10)


def _objectives(loss: Any) -> Iterator[tuple[str, Callable[..., LossOutput]]]:
    """What is made small: by the model, and by an adversary if there is one."""
    yield "forward", loss
    if isinstance(loss, AdversarialLoss):
        yield "oppose", loss.oppose


def _rows(batch: Mapping[str, Any], places: list[int]) -> dict[str, Any]:
    return {
        name: column[torch.tensor(places)] if isinstance(column, Tensor) else [column[i] for i in places]
        for name, column in batch.items()
    }


def _require_output(output: Any, name: str) -> None:
    require(isinstance(output, LossOutput), f"{name} must give a LossOutput, not {type(output).__name__}")
    total, terms = output
    require(
        isinstance(total, Tensor) and total.dim() == 0 and total.is_floating_point(),
        f"the total of {name} must be a scalar, the mean over the batch, not {_form(total)}",
    )
    require(total.isfinite(), f"the total of {name} is {float(total.detach())}")
    for term, value in terms.items():
        require(isinstance(value, Tensor) and value.dim() == 0, f"the term {term!r} is no scalar: {_form(value)}")
        require(not value.requires_grad, f"the term {term!r} still has its gradient: detach it")


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _require_gradients(moved: nn.Module, name: str) -> None:
    for parameter, p in moved.named_parameters():
        require(p.grad is None or p.grad.isfinite().all(), f"{name}: the gradient of {parameter!r} is not finite")
    for part, child in moved.named_children():
        if any(p.requires_grad for p in child.parameters()):
            require(_moved(child), f"{name} has no gradient for the part {part!r}")
    require(_moved(moved), f"{name} has no gradient for anything that learns")


def _moved(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def _totals(loss: Any, model: Any, batch: Mapping[str, Any]) -> list[float]:
    totals = []
    for seed in range(DRAWS):
        with drawing(seed):
            totals.append(float(loss(model.given(batch), batch).total))
    return totals


def _log_p(model: Any, x: Tensor) -> float:
    """log p(x) of one x: known, or by so many importance samples that it is as good as known."""
    known = isinstance(model, LinearGaussian)
    return float(model.log_density(x) if known else model.log_prob(x, samples=IMPORTANCE_SAMPLES))


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    of = torch.tensor(values, dtype=torch.float64)
    return float(of.mean()), float(of.std()) / math.sqrt(len(values))
