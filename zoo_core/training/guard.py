"""What is wrong where a loss or a gradient is no number."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.components import Batch


def diagnosis(objective: nn.Module, batch: Batch, again: Callable[[], Any] | None) -> str:
    """The first tensor that holds nan or infinity, in the order in which they come about; empty if none is found.

    Args:
        again: computes the loss once more; None where one process cannot do so alone.
    """
    outputs = _in_outputs(objective, again) if again else ()
    steps = (_in_batch(batch), _in_weights(objective), outputs, _in_gradients(objective))
    return next((told for step in steps for told in step), "")


def _in_batch(batch: Batch) -> Iterator[str]:
    return _told("{!r} of the batch", batch)


def _in_weights(objective: nn.Module) -> Iterator[str]:
    return _told("the weight {!r}", dict(objective.named_parameters()))


def _in_gradients(objective: nn.Module) -> Iterator[str]:
    return _told("the gradient of {!r}", {name: p.grad for name, p in objective.named_parameters()})


def _in_outputs(objective: nn.Module, again: Callable[[], Any]) -> Iterator[str]:
    """Modules report as they return: the innermost first."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.extend(_told("the output of {!r}", {name: _tensor(output)}))

    hooks = [module.register_forward_hook(watch(name)) for name, module in objective.named_modules() if name]
    try:
        with torch.no_grad():
            again()
    finally:
        for hook in hooks:
            hook.remove()
    return iter(found)


def _told(phrase: str, tensors: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            wrong = int((~value.isfinite()).sum())
            if wrong:
                yield f"{phrase.format(name)} holds {wrong} of {value.numel()} values that are not finite"


def _tensor(output: Any) -> Tensor | None:
    """An output that is a tensor, or the first tensor of a tuple."""
    parts: Iterable[Any] = output if isinstance(output, tuple | list) else (output,)
    return next((part for part in parts if isinstance(part, Tensor)), None)
