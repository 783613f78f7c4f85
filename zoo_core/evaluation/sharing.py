"""Who of many processes measures what, and how it comes together."""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def position() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share(examples: int, batch: int) -> Iterator[tuple[int, Tensor]]:
    """This process's batches and their numbers among all; an empty one where the others have one more."""
    rank, world = position()
    batches = torch.split(torch.arange(examples), batch)
    for first in range(0, len(batches), world):
        number = first + rank
        yield number, batches[number] if number < len(batches) else torch.arange(0)


def gathered(own: T) -> list[T]:
    """What each process has, in the first one; nothing in the others."""
    rank, world = position()
    if world == 1:
        return [own]
    parts: list[Any] | None = [None] * world if rank == 0 else None
    torch.distributed.gather_object(own, parts)
    return parts or []


def in_turns(parts: Sequence[Sequence[T]]) -> list[T]:
    """What ``share`` dealt out, in its order."""
    absent = object()
    return [item for item in chain.from_iterable(zip_longest(*parts, fillvalue=absent)) if item is not absent]  # type: ignore[misc]


def to_device(batch: dict[str, Tensor | list[str]], device: torch.device) -> dict[str, Tensor | list[str]]:
    """The batch with its tensors on a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
