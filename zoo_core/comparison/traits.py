"""What is measured of any model by looking at it: its density, how it draws, its latents, its size.

Nothing here is taken from what a plugin declares of its models: ``differences`` says where the two part.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zoo_core.components import Batch, GenerativeModel, device_of
from zoo_core.data import Dataset
from zoo_core.errors import ZooError
from zoo_core.evaluation.measuring import evaluating
from zoo_core.evaluation.sharing import to_device
from zoo_core.host import default_host, one_line
from zoo_core.randomness import seed_everything, undisturbed
from zoo_core.specs import ModelSpec

REFUSALS = (ZooError, NotImplementedError)  # what a model or a metric says on purpose

EXAMPLES = 16  # on which densities and latents are looked at
# Nats, relative and absolute: rounding in float32 stays below, and draws of z differ by more.
RELATIVE, ABSOLUTE = 1e-5, 1e-3
AT_ONCE = (1, 64)  # images drawn at a time, when the time is taken
REPEATS, SECONDS = (3, 15), 1.0  # at least and at most so many, as fit in that time
MOST_CODES = 2**24


class Density(NamedTuple):
    """What ``log_prob`` turned out to be, ``exact``, ``bound`` or ``none``; and what showed it, or why it is none."""

    kind: str
    reason: str = ""


class Sampling(NamedTuple):
    """How a draw is made, and how long it takes.

    Attributes:
        kind: ``parallel``, ``sequential``; or ``none``, for a reason.
        steps: how often one draw of one image calls the module that it calls most.
        seconds: per image, by how many are drawn at once: the median of repetitions after a first one.
        device, threads: where and with how many.
    """

    kind: str
    steps: int = 0
    seconds: dict[str, float] = {}
    device: str = "cpu"
    threads: int = 1
    reason: str = ""


class Latent(NamedTuple):
    """What ``encode`` gives for one datum of so many values.

    Attributes:
        kind: ``real``, ``codes`` or ``none``.
        size: how many numbers, or codes.
        codes: how many different ones there are; 0 for real latents, and where it could not be told.
        data: values of a datum.
    """

    kind: str
    size: int
    codes: int
    data: int

    @property
    def bits(self) -> float:
        """That the codes of one datum take up."""
        return self.size * math.log2(max(1, self.codes))


class Traits(NamedTuple):
    """What was measured of a model.

    Attributes:
        family: the registered name of its class, or the class's own.
        prior: that of what its latents are drawn from; empty where it is no part of the model.
        numbers: floating-point numbers that a checkpoint holds: parameters, and buffers such as codebooks, each once.
        afterwards: whether that was fitted when the rest of the model was done.
        given: the columns of the data that it is told besides the image.
        differences: sentences on what its plugin declares otherwise.
    """

    family: str
    prior: str
    density: Density
    sampling: Sampling
    latent: Latent
    numbers: int
    afterwards: bool = False
    given: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        parts = {name: getattr(self, name)._asdict() for name in ("density", "sampling", "latent")}
        return {**self._asdict(), **parts, "given": list(self.given), "differences": list(self.differences)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Traits":
        """The inverse of ``as_dict``."""
        parts = {"density": Density(**stored["density"]), "sampling": Sampling(**stored["sampling"])}
        parts |= {"latent": Latent(**stored["latent"])}
        lists = {name: tuple(stored[name]) for name in ("given", "differences")}
        return cls(**{**stored, **parts, **lists})


def traits(model: GenerativeModel, dataset: Dataset, *, seed: int = 0) -> Traits:
    """Looks at a model; the data are real, as it sees them."""
    batch = first(model, dataset, EXAMPLES, seed)
    with undisturbed(), evaluating(model), torch.no_grad():
        view, x = model.given(batch), batch["image"]
        found = Traits(
            registered_name(model),
            registered_name(model.prior) if isinstance(getattr(model, "prior", None), nn.Module) else "",
            density(view, x, seed=seed),
            sampling(model, dataset, seed=seed),
            latent(view, x),
            numbers(model),
            "prior" in model.provenance,
            told(model, batch),
        )
    return found._replace(differences=differences(model, found))


def first(model: GenerativeModel, dataset: Dataset, n: int, seed: int = 0) -> Any:
    """The first n examples as the model sees them, over and over where there are fewer; noise is seeded."""
    with undisturbed():
        seed_everything(seed)
        stored = dataset.batch(torch.arange(n) % len(dataset))
        return model.preprocessing(to_device(stored, device_of(model)))


def registered_name(component: Any) -> str:
    """The full name of a component's class, or the class's own where no plugin offers it."""
    registration = default_host().name_of(type(component))
    return registration.full_name if registration else type(component).__name__


# --- density ----------------------------------------------------------------------------------------------


def density(model: GenerativeModel, x: Tensor, *, seed: int = 0) -> Density:
    """What ``log_prob`` is, on data x (B, *data_shape).

    None if it refuses. A bound if two calls under different seeds differ, for then it rests on draws; or if the
    model has codes, and it is log p(x|k) + log p(k) at one k, a term of the sum p(x) = Σ_k p(k) p(x|k).
    """
    try:
        log_p, again = (_seeded(model, x, s) for s in (seed, seed + 1))
    except REFUSALS as refusal:
        return Density("none", str(refusal))
    if not _equal(log_p, again):
        return Density("bound", "it differs from draw to draw")
    if _is_of_one_code(model, x, log_p):
        return Density("bound", "it is log p(x|k) + log p(k) at one code k, not their sum over all codes")
    return Density("exact")


def _seeded(model: GenerativeModel, x: Tensor, seed: int) -> Tensor:
    seed_everything(seed)
    return model.log_prob(x).double()


def _is_of_one_code(model: Any, x: Tensor, log_p: Tensor) -> bool:
    stage = first_stage(model)
    if stage is None or not x.is_floating_point():
        return False
    k = stage.encode(x)
    try:
        log_p_k = model.prior().log_prob(k) if hasattr(model, "prior") else model.log_prob(k)
        joint = stage.decoder(stage.quantizer.lookup(k)).log_prob(x) + log_p_k
    except REFUSALS:
        return False
    return joint.shape == log_p.shape and _equal(joint.double(), log_p)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def first_stage(model: nn.Module) -> Any:
    """The part of a model, or the model, that makes codes of an image and an image of codes; None without one."""
    parts = ("encode", "quantizer", "decoder")
    return next((m for m in model.modules() if all(hasattr(m, part) for part in parts)), None)


def told(model: GenerativeModel, batch: Batch) -> tuple[str, ...]:
    """The columns under which ``given`` makes another model of it."""
    return tuple(name for name in batch if name != "image" and _listens(model, batch, name))


def _listens(model: GenerativeModel, batch: Batch, name: str) -> bool:
    try:
        return model.given({"image": batch["image"], name: batch[name]}) is not model
    except REFUSALS:
        return False


# --- draws ------------------------------------------------------------------------------------------------


def draw(model: GenerativeModel, dataset: Dataset, n: int, *, seed: int = 0) -> Tensor:
    """n draws (n, *data_shape); of a model with a condition, under that of the first n examples."""
    generator = torch.Generator(device_of(model)).manual_seed(seed)
    with evaluating(model):
        return model.given(first(model, dataset, n, seed)).sample(n, generator=generator)


def sampling(model: GenerativeModel, dataset: Dataset, *, seed: int = 0) -> Sampling:
    """Sequential if drawing one image calls one and the same module more than once, else parallel."""
    views = {n: model.given(first(model, dataset, n, seed)) for n in AT_ONCE}
    try:
        steps = calls(lambda: views[1].sample(1))
        seconds = {str(n): _seconds(partial(view.sample, n), device_of(model)) / n for n, view in views.items()}
    except Exception as error:  # whatever it is, the model draws nothing, and the rest of it can be measured
        return Sampling("none", reason=str(error) if isinstance(error, REFUSALS) else one_line(error))
    kind = "sequential" if steps > 1 else "parallel"
    return Sampling(kind, steps, seconds, device_of(model).type, torch.get_num_threads())


def calls(work: Callable[[], object]) -> int:
    """How often the module that is called most is called while something works: at least 1.

    Only modules with parameters of their own count, each instance by itself, copies that are made on the way too. A
    call on a tensor without elements, such as the start of an empty sequence, is none.
    """
    counts: Counter[nn.Module] = Counter()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        empty = any(isinstance(given, Tensor) and not given.numel() for given in inputs)
        if not empty and next(module.parameters(recurse=False), None) is not None:
            counts[module] += 1

    hook = register_module_forward_pre_hook(count)
    try:
        work()
    finally:
        hook.remove()
    return max(counts.values(), default=1)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of repetitions, after a first one that is not counted."""
    at_least, at_most = REPEATS
    taken: list[float] = []
    _timed(work, device)
    while len(taken) < at_least or (len(taken) < at_most and sum(taken) < SECONDS):
        taken.append(_timed(work, device))
    return statistics.median(taken)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":  # where calls return before the work is done
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


# --- latents and size -------------------------------------------------------------------------------------


def latent(model: Any, x: Tensor) -> Latent:
    """What ``encode`` gives for data x (B, *data_shape), of the model or of the stage that makes its codes."""
    data, coder = x[0].numel(), model if hasattr(model, "encode") else first_stage(model)
    try:
        z = None if coder is None else coder.encode(x)
    except REFUSALS:
        z = None
    if z is None:
        return Latent("none", 0, 0, data)
    if z.is_floating_point():
        return Latent("real", z[0].numel(), 0, data)
    return Latent("codes", z[0].numel(), _different_codes(coder, z), data)


def _different_codes(model: Any, k: Tensor) -> int:
    """How many there are: as its quantizer says, else as many as decode; 0 where that cannot be tried."""
    if hasattr(model, "quantizer"):
        return int(model.quantizer.codebook_size)
    if k.device.type != "cpu" or not hasattr(model, "decode"):  # elsewhere a wrong index ends the process
        return 0
    low, high = int(k.max()) + 1, MOST_CODES
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _decodes(model, k[:1], middle) else (low, middle)
    return low


def _decodes(model: Any, k: Tensor, code: int) -> bool:
    try:
        model.decode(torch.full_like(k, code))
    except (IndexError, *REFUSALS):
        return False
    return True


def numbers(model: nn.Module) -> int:
    """Floating-point numbers in the model's state, tied ones once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


# --- what is declared --------------------------------------------------------------------------------------


def differences(model: GenerativeModel, found: Traits) -> tuple[str, ...]:
    """Where a model's plugin declares something else than was measured, as sentences."""
    registration = default_host().name_of(type(model))
    if registration is None or not isinstance(registration.spec, ModelSpec):
        return ()
    measured = {"density": found.density.kind, "sampling": found.sampling.kind, "latent": extent(found.latent)}
    return tuple(
        f"{registration.full_name} declares {name} {getattr(registration.spec, name)!r}; measured: {kind!r}"
        for name, kind in measured.items()
        if kind != getattr(registration.spec, name)
    )


def extent(latent: Latent) -> str:
    """``compressed``, ``full`` or ``none``, as a ModelSpec says it."""
    if latent.kind == "none":
        return "none"
    return "full" if latent.size >= latent.data else "compressed"
