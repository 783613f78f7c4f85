"""What is trained: a loss of a model."""

from typing import Any

import torch
from torch import nn

from zoo_core.components import AdversarialLoss, Batch, Component, GenerativeModel, Loss, LossOutput

MODEL, ADVERSARY = "model", "adversary"  # the players, in the order of their steps


class Objective(nn.Module):
    """A loss of a model as one module, so that what wraps it returns a tuple of tensors."""

    def __init__(self, model: GenerativeModel, loss: Loss, *, bf16: bool) -> None:
        super().__init__()
        self.model, self.loss, self.bf16 = model, loss, bf16

    def forward(self, batch: Batch, step: int | None, player: str = MODEL) -> LossOutput:
        self.loss.step = step
        made_small: Any = self.loss if player == MODEL else self.loss.oppose
        # Accelerate's own autocast is fixed for the whole process by the first run in it.
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=self.bf16):
            output: LossOutput = made_small(self.model.given(batch), batch)
        return output

    def players(self) -> tuple[str, ...]:
        return (MODEL, ADVERSARY) if isinstance(self.loss, AdversarialLoss) else (MODEL,)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """What a player's steps move: the adversary's own, or all others; none that is frozen."""
        opponent = list(self.loss.adversary.parameters()) if isinstance(self.loss, AdversarialLoss) else []
        own = {id(parameter) for parameter in opponent}
        moved = opponent if player == ADVERSARY else [p for p in self.parameters() if id(p) not in own]
        return [parameter for parameter in moved if parameter.requires_grad]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, which save time; others can but emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def compile_networks(model: nn.Module) -> None:
    """Compiles the networks inside of a model's components; these themselves return distributions."""
    from torch._dynamo import config

    networks = [n for module in model.modules() if isinstance(module, Component) for n in _networks(module)]
    # Torch counts the versions of all of them together: for training and for evaluation, with autocast and without.
    config.recompile_limit += 8 * len(networks)
    for network in networks:
        # Module.compile() leaves some releases of torch running as before, without a word.
        vars(network)["forward"] = torch.compile(network.forward)


def _networks(module: nn.Module) -> list[nn.Module]:
    """The children that are no components; of a list of modules, each."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            found += _networks(child)
        elif not isinstance(child, Component):
            found.append(child)
    return found
