"""What processes that train one model together must agree on. One process alone is let through as it is."""

import torch.distributed as distributed
from torch import Tensor


def summed(*parts: Tensor) -> tuple[Tensor, ...]:
    """Each part, added up over all processes; every process has to ask."""
    if several():
        for part in parts:
            distributed.all_reduce(part)
    return parts


def of_first(part: Tensor) -> Tensor:
    """The first process's, written into that of each of the others; every process has to ask."""
    if several():
        distributed.broadcast(part, src=0)
    return part


def first() -> bool:
    """Whether this process is the first, which has the first examples of every step."""
    return not several() or distributed.get_rank() == 0


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
