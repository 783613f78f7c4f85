"""How large a model may become while it is built, before anything is allocated: a config costs its author one number.

Built on the meta device a module has no memory, and ``within`` counts its numbers as they are registered: a config that
asks for 10^12 of them, or for 10^9 layers, is refused after the first few.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as registrations

from zoo_core.arguments import shown
from zoo_core.config import Config, build, check
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost

VARIABLE = "ZOO_MAX_PARAMETERS"
MAX_PARAMETERS = 20_000_000_000
PARAMETERS_PER_PIECE = 4_000_000  # the largest number of modules and tensors follows from that of numbers
FEWEST_PIECES = 5_000


def max_parameters(given: float | str | None = None) -> int:
    """The limit that is given, else that of ``ZOO_MAX_PARAMETERS``, else 2 * 10^10.

    Raises:
        ConfigError: it is no number of at least 1.
    """
    value = given if given is not None else os.environ.get(VARIABLE) or MAX_PARAMETERS
    try:
        limit = int(float(value))
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        where = "max_parameters" if given is not None else VARIABLE
        raise ConfigError(f"{where}: must be a number of at least 1, such as 2e10; got {shown(value)}")
    return limit


def require(config: Config | str, kind: str | None = None, *, host: PluginHost | None = None, **shapes: Any) -> None:
    """Refuses what ``build`` would build, if it has more numbers than ``max_parameters()``; allocates nothing.

    Raises:
        ConfigError, UnknownComponent, PluginError: as ``build``; or it is too large.
    """
    # Imports the classes: the tensors of a module that is imported on the meta device would stay there.
    check(config, kind, host=host)
    try:
        with torch.device("meta"), within(max_parameters()):
            build(config, kind, host=host, **shapes)
    except ConfigError:
        raise
    except Exception as error:  # some components cannot be built without memory; they say themselves what is wrong
        if "overflow" in str(error).lower():
            raise ConfigError(f"more parameters than can be counted; {_remedy()}") from None


@contextmanager
def within(limit: float) -> Iterator[None]:
    """Refuses modules of more parameters and buffers than ``limit`` numbers, or of too many pieces, built inside.

    Counts what this thread registers; a tensor with several names counts once.

    Raises:
        ConfigError: as soon as there are more.
    """
    count, thread = _Count(limit), threading.get_ident()

    def seen(_: Any, name: str, piece: Any) -> None:
        if threading.get_ident() == thread:
            count.add(piece)

    with ExitStack() as stack:
        for register in (
            registrations.register_module_parameter_registration_hook,
            registrations.register_module_buffer_registration_hook,
            registrations.register_module_module_registration_hook,
        ):
            stack.callback(register(seen).remove)
        yield


class _Count:
    def __init__(self, limit: float) -> None:
        self.limit, self.numbers = limit, 0
        self.most_pieces = max(FEWEST_PIECES, limit / PARAMETERS_PER_PIECE)
        self.pieces: dict[int, Any] = {}  # kept, so that no two have the same id

    def add(self, piece: Any) -> None:
        if piece is None or id(piece) in self.pieces:
            return
        self.pieces[id(piece)] = piece
        self.numbers += piece.numel() if isinstance(piece, Tensor) else 0
        if self.numbers > self.limit:
            raise ConfigError(f"more than {self.limit:,.0f} parameters; {_remedy()}")
        if len(self.pieces) > self.most_pieces:
            raise ConfigError(f"more than {self.most_pieces:,.0f} modules and tensors; {_remedy()}")


def _remedy() -> str:
    return f"if that is meant, raise max_parameters, --max-parameters or {VARIABLE}"
