"""What is asked of every component: that it is a function of its arguments, its weights and torch's random numbers."""

import copy
import random
import tempfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core import weights
from zoo_core.config import build, describe
from zoo_core.host import one_line
from zoo_core.testing.checks import check, require, require_equal, unfit
from zoo_core.testing.exercises import ROWS, SMOOTH, inputs, outputs, trained, trained_by
from zoo_core.testing.subjects import Subject, as_json, drawing

BUILT = (*ROWS, "loss", "metric", "extractor", "model")


@check(*BUILT, structural=True)
def builds(subject: Subject) -> None:
    """A small one can be made of its config, in its usual place."""
    subject.make()


@check(*BUILT)
def construction(subject: Subject) -> None:
    """Weights depend on torch's seed alone, and making one seeds nothing."""
    before = _others()
    after = []
    for seed in (0, 1):
        with drawing(seed):
            build(subject.config, subject.spec.kind, host=subject.host, **subject.shapes)
            after.append(torch.random.get_rng_state())
    require(not torch.equal(*after), "its constructor seeds torch's random numbers: other seeds give the same weights")
    require(before == _others(), "its constructor draws from numpy's or Python's random numbers; use torch's")
    _require_same_state(subject.make(0), subject.make(0), "made twice with one seed, it differs")


@check(*BUILT)
def config_round_trip(subject: Subject) -> None:
    """Its config, written to JSON and read again, makes the same one."""
    made = subject.make()
    config = as_json(describe(made, host=subject.host, **subject.shapes))
    again = subject.make(config=config)
    _require_same_state(made, again, "made again of its own config, it differs")
    require(as_json(describe(again, host=subject.host, **subject.shapes)) == config, f"its config changes: {config}")


@check(*BUILT)
def save_and_load(subject: Subject) -> None:
    """Saved, and loaded into one that is made without weights, it has the same tensors and gives the same."""
    made = _perturbed(subject.make())
    with tempfile.TemporaryDirectory() as folder:
        weights.write(made, Path(folder), storage=None, stem="model", max_shard_size="5GB")
        empty = subject.make(device="meta")
        if made.state_dict():
            weights.load(empty, [Path(folder) / "model.safetensors"], device=torch.device("cpu"), dtype=None)
    weights.refuse_strays(empty)
    _require_same_state(made, empty, "loaded, it differs")
    _require_same_outputs(subject, made, empty, "loaded, it gives something else")


@check(*BUILT)
def copies(subject: Subject) -> None:
    """Copied, also to another process, it gives the same."""
    made = subject.make()
    for how, copied in (("copied", copy.deepcopy(made)), ("sent to another process", _sent(made))):
        _require_same_state(made, copied, f"{how}, it differs")
        _require_same_outputs(subject, made, copied, f"{how}, it gives something else")


@check(*ROWS)
def rows(subject: Subject) -> None:
    """Batches of 1, 2 and 5 give as many rows."""
    made = subject.make().eval()
    for n in (1, 2, 5):
        for name, rows in outputs(subject, made, *inputs(subject, made, n)).items():
            require(rows.dim() and len(rows) == n, f"{name} of a batch of {n} has the shape {tuple(rows.shape)}")


@check(*ROWS)
def dtypes(subject: Subject) -> None:
    """In float64 it computes in float64, in bfloat16 what it gives is finite."""
    for dtype in (torch.float64, torch.bfloat16):
        made = subject.make().eval().to(dtype)
        given = inputs(subject, made, 3)
        for name, rows in outputs(subject, made, *_as(dtype, given)).items():
            if not rows.is_floating_point():
                continue
            right = rows.dtype == dtype or dtype == torch.bfloat16
            require(right, f"in {dtype}, {name} is {rows.dtype}")
            require(rows.isfinite().all() or name == "log_prob", f"in {dtype}, {name} is not finite")


@check(*ROWS)
def batch_independence(subject: Subject) -> None:
    """In evaluation mode a row of a batch of 6 is what it is alone."""
    made = subject.make().eval().double()
    given = _as(torch.float64, inputs(subject, made, 6))
    before = [rows.clone() for rows in given]
    together = outputs(subject, made, *given)
    for was, rows in zip(before, given, strict=True):
        require_equal(was, rows, "it changes what it is given")
    for i in range(6):
        alone = outputs(subject, made, *(rows[i : i + 1] for rows in given))
        for name, rows in together.items():
            off = float((rows[i].double() - alone[name][0].double()).detach().abs().nan_to_num().max())
            require(off <= 1e-9 * max(1.0, float(rows[i].detach().double().abs().nan_to_num().max())),
                    f"{name} of row {i} of a batch of 6 differs by {off:.2g} from the same row alone")  # fmt: skip


@check(*SMOOTH)
def gradient_flow(subject: Subject) -> None:
    """What varies with what goes in has a gradient there, and each weight has one, finite and not zero."""
    made = _perturbed(subject.make())  # some start with branches that are switched off
    outputs(subject, made, *inputs(subject, made, 5))  # and some begin where the first rows are
    given = inputs(subject, made, 4)
    _require_input_gradients(subject, made, given)
    _require_weight_gradients(subject, made, given)


@check(*ROWS)
def evaluation_is_pure(subject: Subject) -> None:
    """In evaluation mode nothing changes: neither weights nor buffers, and twice the same is twice the same."""
    made = subject.make().eval()
    given = inputs(subject, made, 3)
    before = copy.deepcopy(made)
    first = outputs(subject, made, *given)
    second = outputs(subject, made, *given)
    _require_same_state(before, made, "in evaluation mode it changes itself")
    for name, rows in first.items():
        require_equal(rows, second[name], f"in evaluation mode {name} of the same is something else the second time")


@check(*ROWS)
def determinism(subject: Subject) -> None:
    """In training mode noise comes from torch's random numbers alone."""
    given = inputs(subject, subject.make(), 3)
    runs = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        with drawing(7):
            runs.append(outputs(subject, subject.make(), *given))
    for name, rows in runs[0].items():
        require_equal(rows, runs[1][name], f"{name} depends on something else than torch's seed")


@check(*ROWS)
def meta_device(subject: Subject) -> None:
    """On the meta device it computes shapes: no tensor of it is made elsewhere."""
    made = subject.make().eval()
    given = inputs(subject, made, 2)
    empty = subject.make(device="meta").eval()
    wanted = {name: rows.shape for name, rows in outputs(subject, made, *given).items()}
    Distribution.set_default_validate_args(False)  # to validate is to look at values, of which there are none
    try:
        shapes = outputs(subject, empty, *(rows.to("meta") for rows in given))
    except Exception as error:
        unfit(
            f"on the meta device it breaks off (is a tensor made elsewhere, or a value looked at?): {one_line(error)}"
        )
    for name, rows in shapes.items():
        require(rows.is_meta, f"{name} is on the {rows.device}, although everything is on the meta device")
        require(rows.shape == wanted[name], f"{name} has another shape on the meta device: {tuple(rows.shape)}")


@check(*SMOOTH)
def extreme_inputs(subject: Subject) -> None:
    """Inputs of 0, 1, -1 and 10 throughout give finite moments, and log densities that are numbers."""
    made = subject.make().eval()
    given = inputs(subject, made, 2)
    for value in (0, 1, -1, 10):
        first = torch.full_like(given[0], value) if given[0].is_floating_point() else given[0]
        for name, rows in outputs(subject, made, first, *given[1:]).items():
            wrong = rows.isnan().any() if name == "log_prob" else not rows.isfinite().all()
            require(not wrong, f"{name} is not finite where all inputs are {value}")


@check(*SMOOTH)
def compiles(subject: Subject) -> None:
    """torch.compile traces it without a break, and what comes out is the same."""
    made = subject.make().eval()
    given = inputs(subject, made, 3)
    torch._dynamo.reset()
    traced = torch.compile(lambda *rows: trained_by(subject, made, *rows), backend="eager", fullgraph=True)
    try:
        compiled = traced(*given)
    except Exception as error:
        unfit(f"torch.compile breaks off: {str(error).strip().partition(chr(10))[0]}")
    for name, rows in trained_by(subject, made, *given).items():
        close = torch.allclose(rows.double(), compiled[name].double(), rtol=1e-5, atol=1e-6, equal_nan=True)
        require(close, f"compiled, {name} is something else")


def _sent(component: nn.Module) -> Any:
    """As a worker process would receive it."""
    return ForkingPickler.loads(ForkingPickler.dumps(component))


def _others() -> str:
    """The state of the random numbers that are not torch's."""
    return repr((random.getstate(), np.random.get_state()))


def _as(dtype: torch.dtype, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(rows.to(dtype) if rows.is_floating_point() else rows for rows in given)


@torch.no_grad()
def _perturbed(component: nn.Module) -> Any:
    """With weights that no constructor gives."""
    for parameter in component.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    return component


def _require_same_state(a: nn.Module, b: nn.Module, sentence: str) -> None:
    first, second = a.state_dict(), b.state_dict()
    require(list(first) == list(second), f"{sentence}: its tensors are {list(first)[:5]} and {list(second)[:5]}")
    for name, tensor in first.items():
        if isinstance(tensor, Tensor):
            require_equal(tensor, second[name], f"{sentence} in {name!r}")


def _require_same_outputs(subject: Subject, a: Any, b: Any, sentence: str) -> None:
    if subject.spec.kind not in ROWS:
        return
    a, b = a.eval(), b.eval()
    given = inputs(subject, a, 2)
    other = outputs(subject, b, *given)
    for name, rows in outputs(subject, a, *given).items():
        require_equal(rows, other[name], f"{sentence} as {name}")


def _require_input_gradients(subject: Subject, made: Any, given: tuple[Tensor, ...]) -> None:
    first, *asked = given
    if not first.is_floating_point():
        return
    for name in outputs(subject, made, *given):
        x = first.clone().requires_grad_()
        rows = outputs(subject, made, x, *asked)[name]
        if not rows.is_floating_point() or not _varies(subject, made, name, first, asked):
            continue
        require(rows.requires_grad, f"{name} varies with what goes in, but has no gradient there: is it detached?")
        (gradient,) = torch.autograd.grad(_weighed(rows), x, allow_unused=True)
        require(gradient is not None and bool(gradient.any()), f"{name} has no gradient with respect to what goes in")
        require(gradient.isfinite().all(), f"the gradient of {name} is not finite")


def _varies(subject: Subject, made: Any, name: str, first: Tensor, asked: list[Tensor]) -> bool:
    with torch.no_grad(), drawing(0):
        one = outputs(subject, made, first, *asked)[name]
    with torch.no_grad(), drawing(0):
        other = outputs(subject, made, first + 0.5 * torch.randn(first.shape), *asked)[name]
    return not torch.equal(one, other)


def _require_weight_gradients(subject: Subject, made: Any, given: tuple[Tensor, ...]) -> None:
    made.zero_grad()
    smooth = [rows for rows in outputs(subject, made, *given).values() if rows.requires_grad]
    for rows in smooth:
        _weighed(rows).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    for name, parameter in trained(made):
        gradient = parameter.grad
        require(gradient is not None and bool(gradient.any()), f"the weight {name!r} has no gradient: is it used?")
        assert gradient is not None
        require(gradient.isfinite().all(), f"the gradient of the weight {name!r} is not finite")


def _weighed(rows: Tensor) -> Tensor:
    """A number in which nothing cancels by symmetry."""
    return (rows * torch.linspace(0.5, 1.5, rows.numel()).reshape(rows.shape)).sum()
