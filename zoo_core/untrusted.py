"""Files that strangers made, read as if one of them meant harm: what they are and how large is asked first."""

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from zoo_core.arguments import shown
from zoo_core.errors import CheckpointError

LARGEST_JSON = 2**20  # bytes
DEEPEST_JSON = 100  # objects and lists in one another
MOST_JSON = 300_000  # objects and lists
COMMIT = re.compile("[0-9a-f]{40}")


@contextmanager
def named(path: Path, remedy: str = "") -> Iterator[None]:
    """What is wrong with a checkpoint's file, as one sentence that begins with its name.

    Raises:
        CheckpointError: for an OSError or a ValueError inside.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}{remedy}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}{remedy}") from None


def require_inside(path: Path, folder: Path) -> None:
    """Refuses a link that leads out of a folder: what a stranger packed may lead to the user's own files.

    In the Hub's cache, ``…/snapshots/<commit>``, the links of the client lead to ``…/blobs``.

    Raises:
        ValueError: it leads out. OSError: it leads in a circle.
    """
    real = Path(os.path.realpath(path, strict=True))
    if real.is_relative_to(os.path.realpath(folder)) or _is_blob(path):
        return
    raise ValueError("a link that leads out of its folder")


def _is_blob(path: Path) -> bool:
    """Whether a path is what the Hub's client makes: a link from a commit's snapshot to a blob of its repository."""
    if not path.is_symlink():
        return False
    target = Path(os.path.normpath(path.parent / os.readlink(path)))
    *above, blobs, _ = target.parts
    inside = path.parts[len(above) :]
    at_a_commit = len(inside) > 2 and inside[0] == "snapshots" and COMMIT.fullmatch(inside[1])
    return bool(at_a_commit and blobs == "blobs" and path.is_relative_to(Path(*above)))


def require_regular(path: Path, limit: float = float("inf")) -> os.stat_result:
    """Refuses what is no file, or too large, without opening it: a pipe would never end.

    Raises:
        ValueError: it is something else, or has more bytes than ``limit``. OSError: it cannot be looked at.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("no regular file")
    if found.st_size > limit:
        raise ValueError(f"larger than {limit} bytes")
    return found


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes. Raises as ``require_regular``."""
    require_regular(path, limit)
    # Somebody may exchange it meanwhile: not to wait for a pipe, and never to read more.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return content


def read_json(path: Path, limit: int = LARGEST_JSON) -> Any:
    """What a JSON file says. Raises as ``read_bytes`` and ``parse_json``."""
    return parse_json(read_bytes(path, limit))


def parse_json(content: bytes) -> Any:
    """What JSON says: UTF-8 without a byte order mark, each key once, finite numbers, not too deep, not too many parts.

    Raises:
        ValueError: it is something else; says what, after the file's name.
    """
    try:
        text = content.decode()
        _refuse_bombs(text)
        made = json.loads(text, object_pairs_hook=_without_twins, parse_constant=_refuse_constant, parse_float=_finite)
        if _HALF.search(text):
            json.dumps(made, ensure_ascii=False).encode()
        return made
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"no valid JSON: no UTF-8: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("; use sys.")[0]  # of a number with too many digits
        raise ValueError(f"no valid JSON: {reason}") from None


# A string, also an open one at the end, or a bracket outside of one.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character, as JSON may spell those beyond U+FFFF
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def _refuse_bombs(text: str) -> None:
    """Before anything goes down as deep as the text does, or makes objects of a hundred times its size."""
    if text.startswith("\ufeff"):
        raise ValueError("it starts with a byte order mark")
    level = opened = 0
    for token in _TOKEN.finditer(text):
        step = _STEPS.get(token[0], 0)
        level, opened = level + step, opened + (step > 0)
        if level > DEEPEST_JSON:
            raise ValueError(f"more than {DEEPEST_JSON} levels deep")
        if opened > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON} objects and lists")


def _without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {shown(key)} stands twice in one object")
        made[key] = value
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ValueError(f"{shown(text)} is too large for a number")
    return number
