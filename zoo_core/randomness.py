"""Random numbers on purpose: draws from a given generator, and seeds derived from a key."""

import contextlib
import random
from collections.abc import Iterator

import numpy
import torch


@contextlib.contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Inside, torch's global generators follow ``generator``; outside they are as they were.

    ``torch.distributions`` cannot be given a generator, so the global ones are seeded from it. None: the
    global generators are used, and advanced, as always.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=_gpus_in_use()):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the global generators are afterwards as they were."""
    numpy_state, python_state = numpy.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=_gpus_in_use()):
            yield
    finally:
        numpy.random.set_state(numpy_state)
        random.setstate(python_state)


def _gpus_in_use() -> list[int]:
    """Those whose generators torch.manual_seed changes, whatever device it is meant for."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(torch.cuda.device_count())) if in_use else []


def derived_seed(*key: int) -> int:
    """64 bits that depend on every part of a key such as (seed, epoch), the same on every machine."""
    return int(numpy.random.SeedSequence(key).generate_state(1, numpy.uint64)[0])


def seed_everything(*key: int) -> None:
    """Seeds torch, numpy and Python from a key such as (seed, step, rank): equal keys, equal draws."""
    seed = derived_seed(*key)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # that would keep a stack trace for every kind of device that is not there: half the cost of a seeding
        torch.default_generator.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
