"""What is wrong where a loss or a gradient is no number."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from zoo_core.components import Batch


def diagnosis(objective: nn.Module, batches: Iterable[tuple[Batch, Callable[[], Any] | None]]) -> str:
    """The first tensor that holds nan or infinity, in the order in which they come about; empty if none is found.

    Args:
        batches: each with what computes the loss of it once more; None where one process cannot do so alone.
    """
    forward = (_forward(objective, batch, again) for batch, again in batches)
    return next((told for step in (*forward, _in_gradients(objective)) for told in step), "")


def _forward(objective: nn.Module, batch: Batch, again: Callable[[], Any] | None) -> Iterator[str]:
    yield from _in_batch(batch)
    yield from _in_weights(objective)
    yield from _in_outputs(objective, again) if again else ()


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
        again()  # with its graph, on which a loss may have hooks
    finally:
        for hook in hooks:
            hook.remove()
    return iter(found)


def _told(phrase: str, tensors: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            own: Any = value
            if hasattr(own, "to_local"):  # a process can look alone only at what it has of a tensor that is shared out
                own = own.to_local()
            wrong = int((~own.isfinite()).sum())
            if wrong:
                yield f"{phrase.format(name)} holds {wrong} of {value.numel()} values that are not finite"


def _tensor(output: Any) -> Tensor | None:
    """An output that is a tensor, or the first tensor of a tuple."""
    parts: Iterable[Any] = output if isinstance(output, tuple | list) else (output,)
    return next((part for part in parts if isinstance(part, Tensor)), None)
