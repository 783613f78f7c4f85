"""Random numbers on purpose: draws from a given generator, and seeds derived from a key."""

import contextlib
import functools
import random
from collections.abc import Iterator

import numpy
import torch

WORD = 2**32 - 1


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
    """64 bits that depend on every part of a key such as (seed, epoch), the same on every machine.

    They are ``numpy.random.SeedSequence(key).generate_state(1, numpy.uint64)``, which takes a tenth of a millisecond
    to make a few dozen multiplications: too long for every step of a training.
    """
    words = [word for part in key for word in _words(part)]
    absorb = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [absorb(words[i] if i < len(words) else 0) for i in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = _mixed(pool[target], absorb(pool[source]))
    for word in words[4:]:
        pool = [_mixed(held, absorb(word)) for held in pool]
    draw = _Hash(0x8B51F9DD, 0x58F38DED)
    low, high = draw(pool[0]), draw(pool[1])
    return low | high << 32


class _Hash:
    """x → one of 2^32, another one at each call: ``hashmix`` of M. E. O'Neill's seed_seq_fe (2015)
    https://www.pcg-random.org/posts/developing-a-seed_seq-alternative.html
    """

    def __init__(self, constant: int, factor: int) -> None:
        self.constant, self.factor = constant, factor

    def __call__(self, x: int) -> int:
        x ^= self.constant
        self.constant = self.constant * self.factor & WORD
        x = x * self.constant & WORD
        return x ^ x >> 16


def _mixed(x: int, y: int) -> int:
    result = (0xCA01F9DD * x - 0x4973F715 * y) & WORD
    return result ^ result >> 16


def _words(number: int) -> list[int]:
    """A number's 32-bit words, the lowest first."""
    words = [number & WORD]
    while number := number >> 32:
        words.append(number & WORD)
    return words


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def seed_everything(*key: int) -> None:
    """Seeds torch, numpy and Python from a key such as (seed, step, rank): equal keys, equal draws."""
    seed = derived_seed(*key)
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # that would keep a stack trace for every kind of device that is not there: half the cost of a seeding
        torch.default_generator.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
