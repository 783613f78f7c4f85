"""Parts of a model that stay as they are while the rest is trained."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from zoo_core.errors import ConfigError


def freeze(model: nn.Module, patterns: Sequence[str], path: str = "training.freeze") -> None:
    """Keeps parts of a model as they are: no gradient reaches them, and nothing in them learns from what it sees.

    A frozen module stays in evaluation mode whatever ``model.train()`` says: its dropout is off, running means and
    codebooks that learn in the forward pass do not.

    Args:
        patterns: dotted names of modules, with all that is in them, or of single parameters: ``encoder``,
            ``decoder.body.0.weight``; in a pattern ``*`` stands for any text, dots included, ``?`` for a character.
        path: where the patterns stand in a recipe, for messages.

    Raises:
        ConfigError: a pattern fits nothing, or nothing is left to train. Nothing has been frozen then.
    """
    parts = named_parts(model)
    frozen = [part for i, pattern in enumerate(patterns) for part in _fitting(parts, pattern, f"{path}[{i}]")]
    parameters = {id(p) for part in frozen for p in _parameters(part)}
    if frozen and not any(p.requires_grad and id(p) not in parameters for p in model.parameters()):
        raise ConfigError(f"{path}: leaves nothing to train; freeze less")
    for part in frozen:
        part.requires_grad_(False)
        hold(part.modules() if isinstance(part, nn.Module) else ())


def named_parts(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """A model's modules and parameters by their dotted names, one that has several under each of them."""
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    return {**modules, **dict(model.named_parameters(remove_duplicate=False))}


def hold(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Keeps modules in evaluation mode, whatever is said to what holds them; returns those that were not kept before.

    What is in them follows ``train()`` as before, unless it is kept too.
    """
    held = [module for module in modules if "train" not in vars(module)]
    for module in held:
        # Of the object, not of its class: others of the class learn on.
        vars(module)["train"] = partial(_train_all_within, module)
        module.training = False
    return held


def release(modules: Iterable[nn.Module]) -> None:
    """Lets modules follow ``train()`` again."""
    for module in modules:
        vars(module).pop("train", None)


def _train_all_within(module: nn.Module, mode: bool = True) -> nn.Module:
    type(module).train(module, mode)
    module.training = False
    return module


def _fitting(parts: Mapping[str, nn.Module | nn.Parameter], pattern: str, path: str) -> list[nn.Module | nn.Parameter]:
    found = [part for name, part in parts.items() if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"{path}: the model has no part {pattern!r}; {near(pattern, parts)}")
    return found


def near(pattern: str, names: Iterable[str]) -> str:
    """What may have been meant: names like it, or else those at the top."""
    names = list(names)
    close = get_close_matches(pattern, names, n=3)
    if close:
        return f"did you mean: {', '.join(close)}?"
    top = sorted({name.partition(".")[0] for name in names}, key=names.index)
    return f"there are: {', '.join(top) or 'none'}"


def _parameters(part: nn.Module | nn.Parameter) -> Iterable[nn.Parameter]:
    return part.parameters() if isinstance(part, nn.Module) else (part,)
