"""Drawing examples that share the value of a factor, from examples that were seen.

A simulator would draw such examples anew. Here they come from those of the evaluation, with replacement: values come
as often as they do there, and few examples are drawn often, which makes scores look better than they are. What no other
example shares is never drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core import ConfigError

VALUES_AT_A_TIME = 2**23  # 64 MiB of float64


class Groups(NamedTuple):
    """For each of K factors all N examples, sorted so that those of one value stand together.

    Last stand the examples whose value no other has.

    Attributes:
        order: which example has that place, (K, N).
        first: the first place of the group that the place belongs to, (K, N).
        size: how many examples that group has, (K, N).
        shared: how many examples are not alone in their group, (K,).
    """

    order: Tensor
    first: Tensor
    size: Tensor
    shared: Tensor


def grouped(v: Tensor, names: Sequence[str]) -> Groups:
    """The groups of factors v (N, K), int64 from 0.

    Raises:
        ConfigError: no two examples share a value of some factor.
    """
    groups = Groups(*(torch.stack(columns) for columns in zip(*map(_grouped, v.T), strict=True)))
    for name, shared in zip(names, groups.shared, strict=True):
        if not shared:
            raise ConfigError(
                f"no two of {len(v)} examples share a value of {name!r}: measure on more, or leave it out of 'factors'"
            )
    return groups


def _grouped(v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = v.bincount()[v]
    alone = size == 1
    keys, order = (v + alone * len(v)).sort(stable=True)
    return order, torch.searchsorted(keys, keys), size[order], (~alone).sum()


def batches_of_one_value(groups: Groups, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n times a factor, (n,), and examples that all have the same value of it, (n, size), with replacement.

    The value is that of an example drawn at random.
    """
    k = _factors(groups, n, generator)
    place = _below(groups.shared[k], generator)
    first, members = groups.first[k, place].unsqueeze(1), groups.size[k, place].unsqueeze(1)
    places = first + _below(members.expand(n, size), generator)
    return k, groups.order[k.unsqueeze(1), places]


def pairs_of_one_value(groups: Groups, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n times a factor, (n,), and pairs of different examples that have the same value of it, (n, size, 2).

    Each pair has a value of its own, that of an example drawn at random.
    """
    k = _factors(groups, n, generator)
    of = k.unsqueeze(1).expand(n, size)
    place = _below(groups.shared[of], generator)
    first, members = groups.first[of, place], groups.size[of, place]
    partner = first + (place - first + 1 + _below(members - 1, generator)) % members
    return k, torch.stack([groups.order[of, place], groups.order[of, partner]], 2)


def at_a_time(rows: Tensor, codes: int) -> Sequence[Tensor]:
    """Rows (n, …) of so many codes each in pieces whose codes fit into memory."""
    return torch.split(rows, max(1, VALUES_AT_A_TIME // (rows[0].numel() * codes)))


def _factors(groups: Groups, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(len(groups.shared), (n,), generator=generator)


def _below(limits: Tensor, generator: torch.Generator) -> Tensor:
    """Integers from 0 to below each limit, all as likely up to 1 in 2^40."""
    return torch.randint(2**62, limits.shape, generator=generator) % limits
