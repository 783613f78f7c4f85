"""Training with a share of every parameter in each process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn.utils import get_total_norm

from zoo_core.training.processes.wrapping import Wrapping, blocks, gradients

HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Number(NamedTuple):
    """A parameter without dimensions, which cannot be cut.

    Attributes:
        place, name: the module that has it, and under which name.
        shown: what all but the forward and the backward pass see, a DTensor like the other parameters.
        used: the same number in them.
    """

    place: nn.Module
    name: str
    shown: nn.Parameter
    used: nn.Parameter


class Form(NamedTuple):
    """What sharding changes about a module beside its parameters: its class, its hooks, and what it adds."""

    kind: type[nn.Module]
    hooks: dict[str, Any]
    added: dict[str, Any]


class FSDP(Wrapping):
    """A share of every parameter in each process, gathered while it is used: block by block, and the rest at once.

    Each parameter is cut along its first dimension, as are its gradient and what an optimiser keeps of it.

    PyTorch FSDP (Zhao et al., 2023) https://arxiv.org/abs/2304.11277
    ZeRO (Rajbhandari et al., 2020) https://arxiv.org/abs/1910.02054
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        self.first = distributed.get_rank() == 0
        self.numbers: list[Number] = []
        self.plain: dict[nn.Module, Form] = {}
        self.sharded: dict[nn.Module, Form] = {}

    def wrap(self, objective: nn.Module, *, unused: bool) -> nn.Module:
        objective.to(self.device)
        for tensor in chain(objective.parameters(), objective.buffers()):
            distributed.broadcast(tensor.detach(), 0)
        numbers = {parameter for parameter in objective.parameters() if not parameter.dim()}
        for module in (*blocks(objective), objective):
            kind, hooks, known = type(module), {name: getattr(module, name).copy() for name in HOOKS}, set(vars(module))
            fully_shard(module, mesh=self.mesh, ignored_params=numbers)
            self.plain[module] = Form(kind, hooks, {})
            self.sharded[module] = _form(module, set(vars(module)) - known)
        self.numbers = self._replicated(objective)
        return objective

    @contextmanager
    def sync(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        _sharded(wrapped).set_requires_gradient_sync(last)
        for place, name, _, used in self.numbers:
            place._parameters[name] = used
        try:
            yield
        finally:
            for place, name, shown, _ in self.numbers:
                place._parameters[name] = shown
        if last:
            self._mean_numbers()

    @torch.no_grad()
    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        # Numbers are in all processes, and counted in the first.
        counted = [gradient for gradient in gradients(parameters) if gradient.dim() or self.first]
        squared = get_total_norm([self.share(gradient) for gradient in counted]).to(self.device).square()
        distributed.all_reduce(squared)
        return squared.sqrt()

    @torch.no_grad()
    def share(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def whole(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full: Tensor = tensor.full_tensor()
        return full.cpu() if self.first else tensor

    def like(self, full: Tensor, shared: Tensor) -> Tensor:
        if not isinstance(shared, DTensor):
            return super().like(full, shared)
        cut = distribute_tensor(full.to(self.device), shared.device_mesh, shared.placements, src_data_rank=None)
        # It may be a view, which would keep all of the tensor.
        return cut.clone()

    @contextmanager
    def gathered(self, objective: nn.Module) -> Iterator[None]:
        for module in self.plain:
            _sharded(module).reshard()
        shares = [(m, name, p) for m in objective.modules() for name, p in m._parameters.items() if p is not None]
        wholes = {p: self._whole_parameter(p) for _, _, p in shares}
        try:
            for module, name, parameter in shares:
                module._parameters[name] = wholes[parameter]
            _give(self.plain, self.sharded)
            yield
        finally:
            _give(self.sharded, self.plain)
            for module, name, parameter in shares:
                module._parameters[name] = parameter

    @torch.no_grad()
    def _whole_parameter(self, parameter: Any) -> nn.Parameter:
        full = parameter.full_tensor()
        # What is not cut is handed out as it is.
        return nn.Parameter(full if full.dim() else full.clone(), parameter.requires_grad)

    def _replicated(self, objective: nn.Module) -> list[Number]:
        """Makes DTensors of the numbers among the parameters too: optimisers take no mixture."""
        places = [(m, name, p) for m in objective.modules() for name, p in m._parameters.items() if p is not None]
        shown = {p: nn.Parameter(self._on_all(p.detach()), p.requires_grad) for _, _, p in places if not p.dim()}
        for module, name, used in places:
            module._parameters[name] = shown.get(used, used)
        return [Number(module, name, shown[used], used) for module, name, used in places if used in shown]

    def _mean_numbers(self) -> None:
        for used, shown in {number.used: number.shown for number in self.numbers}.items():
            if used.grad is not None:
                distributed.all_reduce(used.grad)
                mean = self._on_all(used.grad / self.mesh.size())
                shown.grad = mean if shown.grad is None else shown.grad + mean
                used.grad = None

    def _on_all(self, tensor: Tensor) -> DTensor:
        """A tensor that is the same in all processes."""
        return DTensor.from_local(tensor, self.mesh, [Replicate()], run_check=False)


def _form(module: nn.Module, added: set[str]) -> Form:
    return Form(
        type(module), {name: getattr(module, name) for name in HOOKS}, {name: vars(module)[name] for name in added}
    )


def _give(forms: Mapping[nn.Module, Form], instead: Mapping[nn.Module, Form]) -> None:
    for module, (kind, hooks, added) in forms.items():
        module.__class__ = kind
        for name in instead[module].added:
            vars(module).pop(name, None)
        vars(module).update({**hooks, **added})


def _sharded(module: Any) -> FSDPModule:
    sharded: FSDPModule = module
    return sharded
