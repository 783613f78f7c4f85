"""How what is trained lies on the processes, and whether the insides of its blocks are kept for the backward pass.

What is wrapped is called within ``sync`` alone. Everything else that takes part in training sees the parameters as the
wrapping left them: shares, if they are shared out.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from zoo_core.components import Component


class Wrapping(abc.ABC):
    """How a module that is trained lies on the processes, each of which has a device.

    All methods but ``share`` and ``like`` are called in all processes alike.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @abc.abstractmethod
    def wrap(self, objective: nn.Module, *, unused: bool) -> nn.Module:
        """Brings what is trained to the device, equal in all processes; returns what is to be called.

        Optimisers are made afterwards, of the parameters that the objective has then.

        Args:
            unused: there are parameters that a loss does not depend on, such as those of an opponent.
        """

    @abc.abstractmethod
    def sync(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around the forward and the backward pass of a micro-batch, of which all processes have as many.

        After the ``last`` the gradients are the means over the processes of their sums.
        """

    @torch.no_grad()
    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm of all gradients together, (), the same number in all processes."""
        norms = torch._foreach_norm(gradients(parameters))
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=self.device)

    @torch.no_grad()
    def clip(self, parameters: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
        """Makes the gradients, whose ``norm`` is known, shorter if that is more than ``max_norm``."""
        shares = [self.share(gradient) for gradient in gradients(parameters)]
        if shares:
            torch._foreach_mul_(shares, (max_norm / (norm + 1e-6)).clamp(max=1))

    def share(self, tensor: Tensor) -> Tensor:
        """What this process has of a tensor, in the same memory."""
        return tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """In the main process all of a tensor of which this process may have a share; in others what is given."""
        return tensor

    def like(self, full: Tensor, shared: Tensor) -> Tensor:
        """This process's share of a tensor that all have, as it has its share of another one of that shape."""
        return full.to(shared.device)

    def state_dict(self, objective: nn.Module) -> dict[str, Tensor]:
        """Tensors by their names, in the main process whole."""
        return {name: self.whole(value) for name, value in objective.state_dict().items()}

    def gathered(self, objective: nn.Module) -> AbstractContextManager[None]:
        """Inside, what was wrapped is whole in every process, to be used in any way and without the others.

        Shared parameters have copies inside: what is changed in these is lost.
        """
        return nullcontext()


class Alone(Wrapping):
    """One process, and nothing around what is trained."""

    def wrap(self, objective: nn.Module, *, unused: bool) -> nn.Module:
        return objective.to(self.device)

    def sync(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()


class DDP(Wrapping):
    """A copy in each process.

    PyTorch Distributed (Li et al., 2020) https://arxiv.org/abs/2006.15704
    """

    def wrap(self, objective: nn.Module, *, unused: bool) -> nn.Module:
        copies = DistributedDataParallel(
            objective.to(self.device), find_unused_parameters=unused, gradient_as_bucket_view=True
        )
        # Equal once, they stay so: what learns beside the gradient agrees with the other processes by itself.
        copies.broadcast_buffers = False
        return copies

    def sync(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
        copies: Any = wrapped
        quiet: AbstractContextManager[None] = nullcontext() if last else copies.no_sync()
        return quiet


def blocks(objective: nn.Module) -> list[nn.Module]:
    """The blocks of all components in a module, inner ones before those around them."""
    components = [module for module in objective.modules() if isinstance(module, Component)]
    found = {block for component in components for block in component.blocks()}
    return [module for module in objective.modules() if module in found][::-1]


def recompute(objective: nn.Module) -> None:
    """Lets every block keep its inputs alone for the backward pass, which computes what is inside of it again.

    Losses and gradients stay what they are, also where blocks draw random numbers.

    Training deep nets with sublinear memory cost (Chen et al., 2016) https://arxiv.org/abs/1604.06174
    """
    for block in blocks(objective):
        # Of the object, not of its class; as a partial it is copied with the object.
        vars(block)["forward"] = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Those that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
