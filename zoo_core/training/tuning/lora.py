"""Low-rank adapters: few new numbers are trained, and added to the weights when training has ended."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from zoo_core.arguments import PositiveFloat, PositiveInt, Probability, checked, join, parameters, unknown_arguments
from zoo_core.errors import ConfigError, TrainingError
from zoo_core.training.tuning.freezing import hold, near, release

ADAPTER = "default"  # peft's name of the only one there is
BEFORE = "_before_adapters"  # the attribute of a model that says how it was

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The settings of adapters.

    Attributes:
        rank: r; each adapted layer gets r (in + out) numbers to train.
        alpha: the adapter is scaled by alpha / r.
        dropout: of what goes into the adapters.
        targets: dotted names of linear layers or of modules around them, also with ``*`` and ``?``.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: Probability = 0.0
    targets: Sequence[str] = field(default=("*",))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], path: str = "training.lora") -> "Lora":
        """Raises ConfigError if a key is unknown or a value not allowed; the message starts with its path."""
        known = parameters(cast(Callable[..., Any], cls))
        unknown_arguments([str(name) for name in settings], list(known), path)
        return cls(**{name: checked(v, known[name].annotation, join(path, name)) for name, v in settings.items()})


class Before(NamedTuple):
    """How a model was before it had adapters: what was trained, and which modules followed ``train()``."""

    trained: list[str]
    held: list[nn.Module]


def add_lora(model: nn.Module, settings: Lora | Mapping[str, Any]) -> None:
    """W + alpha / r B A in the place of the weight W of linear layers; of the whole model only A and B are trained.

    B is 0, so that the model computes what it did; A is drawn from torch's global generator. All else stays bit for
    bit as it is: what learns in the forward pass is kept in evaluation mode. Layers that are not trained anyway, such
    as those of a frozen part, get no adapter.

    LoRA: low-rank adaptation of large language models (Hu et al., 2022) https://arxiv.org/abs/2106.09685

    Raises:
        ConfigError: a setting is wrong, or a target fits no linear layer that is trained.
        TrainingError: the package peft is not installed, or the model has adapters.
    """
    lora = settings if isinstance(settings, Lora) else Lora.from_dict(settings)
    if has_lora(model):
        raise TrainingError("the model has adapters; merge_lora(model) adds them to its weights")
    layers = _chosen(model, lora.targets)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    kept = [module for module in model.modules() if _has_tensors(module)]
    mode = model.training
    _inject(model, layers, lora)
    vars(model)[BEFORE] = Before(trained, hold(kept))
    model.train(mode)


def has_lora(model: nn.Module) -> bool:
    """Whether a model has adapters that are no part of its weights yet."""
    return BEFORE in vars(model)


def merge_lora(model: Model) -> Model:
    """Adds the adapters to the weights: the model has its own modules and names again, and is trained as before.

    Returns the same model, which computes what it did up to rounding; a model without adapters stays as it is.
    """
    before: Before | None = vars(model).pop(BEFORE, None)
    if before is None:
        return model
    for name, layer in _layers(model):
        _put(model, name, _merged(layer))
    release(before.held)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in before.trained)
    vars(model).pop("peft_config", None)
    return model.train(model.training)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the adapters are part of the weights; outside, the model is as it was, bit for bit, and trains on."""
    layers = _layers(model) if has_lora(model) else []
    weights = [layer.get_base_layer().weight.detach().clone() for _, layer in layers]
    try:
        for name, layer in layers:
            _put(model, name, _merged(layer))
        yield
    finally:
        for (name, layer), weight in zip(layers, weights, strict=True):
            layer.get_base_layer().weight.data.copy_(weight)
            _put(model, name, layer)


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The adapted layers by their names."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, _adapted())]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _chosen(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The names of the layers that the targets mean."""
    if not targets:
        raise ConfigError("training.lora.targets: names no layer; leave it out for all that are linear")
    layers = [name for name, module in model.named_modules() if _is_adaptable(module)]
    for i, target in enumerate(targets):
        if not any(_is_within(name, target) for name in layers):
            complaint = f"no linear layer that is trained fits {target!r}"
            raise ConfigError(f"training.lora.targets[{i}]: {complaint}; {near(target, layers)}")
    return [name for name in layers if any(_is_within(name, target) for target in targets)]


def _is_adaptable(module: nn.Module) -> bool:
    # A class derived from it may do something else with its weight than to multiply by it.
    return type(module) is nn.Linear and module.weight.requires_grad


def _is_within(name: str, pattern: str) -> bool:
    """Whether a dotted name, or that of a module around it, fits a pattern."""
    words = name.split(".")
    return any(fnmatchcase(".".join(words[: i + 1]), pattern) for i in range(len(words)))


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _inject(model: nn.Module, layers: Iterable[str], lora: Lora) -> None:
    config: Any = _peft().LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in layers),  # a text is a regular expression for whole names
    )
    config._register_custom_module({nn.Linear: _adapted()})
    _peft().inject_adapter_in_model(config, model, ADAPTER)


def _merged(layer: Any) -> nn.Module:
    linear: nn.Linear = layer.get_base_layer()
    with torch.no_grad():
        delta = layer.get_delta_weight(ADAPTER).to(linear.weight.dtype)
        # -0 + 0 is 0: what nothing is added to stays as it is, bit for bit.
        linear.weight.copy_(torch.where(delta == 0, linear.weight, linear.weight + delta))
    return linear


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise TrainingError("training.lora: needs the package peft: pip install 'zoo-core[lora]'") from None
    return peft


@functools.cache
def _adapted() -> Any:
    """The class of adapted layers; made late, for peft costs seconds to import."""
    _peft()
    from peft.tuners.lora import Linear

    class AdaptedLinear(Linear):
        """peft's, whose ``weight`` is the adapted one: tied layers and penalties look at it without calling it."""

        @property
        def weight(self) -> Tensor:
            linear: Any = self.base_layer
            changed: Tensor = linear.weight + self.get_delta_weight(ADAPTER)
            return changed

    return AdaptedLinear
