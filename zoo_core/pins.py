"""Which commit on the Hub, and which weights, the checkpoints of a plugin are: ``published.json`` beside them.

``zoo publish`` writes the file after each push; the release that follows carries it. Imports no torch.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from zoo_core.files import replace_json
from zoo_core.untrusted import read_json

FILE = "published.json"
FORMS = {"revision": "[0-9a-f]{40}", "sha256": "([0-9a-f]{64})?"}


class Pins(dict[str, dict[str, str]]):
    """``revision`` and ``sha256`` by the checkpoint's name; nothing for one that was never published."""

    def __missing__(self, name: str) -> dict[str, str]:
        return {}


def published(place: str) -> Pins:
    """What ``zoo publish`` noted of the checkpoints in a package, for their specs.

    Args:
        place: as the ``target`` of a ``CheckpointSpec``: ``"zoo_my:checkpoints"``, package and folder.

    Without the file, as before the first release, there are no pins::

        pins = published("zoo_my:checkpoints")
        yield CheckpointSpec(
            name="small", target="zoo_my:checkpoints", hub="me/small", summary="A small one.", **pins["small"]
        )

    Raises:
        ValueError: the file is damaged; the host then leaves out this plugin alone, and says why.
    """
    return read_pins(pins_file(place))


def pins_file(place: str) -> Path:
    package, _, inside = place.partition(":")
    return Path(str(files(package))) / inside / FILE


def read_pins(path: Path) -> Pins:
    """Raises ValueError if the file is damaged; one that is not there holds no pins."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return Pins()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name, pin in content.items() if isinstance(content, dict) else [("it", content)]:
        if not _is_pin(pin):
            raise ValueError(f"{path}: {name!r} must be {{'revision': 40 hex digits, 'sha256': 64 or none}}")
    return Pins(content)


def write_pin(path: Path, name: str, *, revision: str, sha256: str) -> bool:
    """Notes one checkpoint, and leaves the others as they are; returns whether that changed anything.

    Raises:
        ValueError: as ``read_pins``. OSError: the file cannot be written; it is as it was.
    """
    before = read_pins(path)
    after = {**before, name: {"revision": revision, "sha256": sha256}}
    if after == before:
        return False
    replace_json(path, dict(sorted(after.items())))
    return True


def _is_pin(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != FORMS.keys():
        return False
    return all(isinstance(value[key], str) and re.fullmatch(form, value[key]) for key, form in FORMS.items())
