"""What of a checkpoint goes to the Hub: the files of its folder, and what is made for those who find it there."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo_core import weights
from zoo_core.cards import card, write_pictures
from zoo_core.cards.merging import with_metadata
from zoo_core.cards.metadata import Unrecorded, metadata, reading_records
from zoo_core.cards.pictures import PICTURES
from zoo_core.components import GenerativeModel
from zoo_core.errors import CheckpointError, UnknownComponent, ZooError
from zoo_core.evaluation import read_results
from zoo_core.host import PluginHost, one_line
from zoo_core.pretrained import RESULTS, from_pretrained, local_folder, read_config, save_pretrained
from zoo_core.publishing.recipes import RECIPE, as_yaml
from zoo_core.untrusted import named, read_bytes, require_inside

CARD = "README.md"
LARGEST_CARD = 2**20  # bytes
# What the zoo says of weights, and what says nothing of others.
MADE_OF_WEIGHTS = frozenset({RESULTS, RECIPE, *PICTURES})


@dataclass(frozen=True)
class Contents:
    """What goes to the Hub.

    Attributes:
        files: by the name that they have there: files here, or what was made.
        sha256: of the weights and of the model's own files.
        metadata: what a card says of the checkpoint to machines; empty if that cannot be told.
        written: whether the zoo wrote the card, from what the checkpoint records, and not a person.
        made: whether it did so now, as the folder has none.
        remark: why there is no card; empty if there is one.
    """

    files: Mapping[str, Path | bytes]
    sha256: Mapping[str, str]
    metadata: Mapping[str, Any]
    written: bool = False
    made: bool = False
    remark: str = ""

    @property
    def card(self) -> bytes | None:
        found = self.files.get(CARD)
        return found.read_bytes() if isinstance(found, Path) else found


@contextmanager
def contents_of(model: GenerativeModel | str | Path, name: str, host: PluginHost | None = None) -> Iterator[Contents]:
    """What goes to the Hub of a model, or of a checkpoint's folder, which stays as it is.

    Args:
        name: what users load: ``org/name``, or what the checkpoint is registered as.

    Raises:
        CheckpointError: the folder is damaged, or holds what should not leave this machine.
        UnknownComponent: a plugin that the model needs is missing.
    """
    if isinstance(model, GenerativeModel):
        with TemporaryDirectory() as temporary:
            yield gathered(save_pretrained(model, Path(temporary) / "model", host=host), name, host)
    else:
        yield gathered(Path(model), name, host)


def gathered(folder: Path, name: str, host: PluginHost | None = None) -> Contents:
    """As ``contents_of``, of a folder."""
    source = local_folder(folder)
    config = read_config(source.config)
    digests = {**config["weights"], **config.get("files", {})}
    for file, sha256 in digests.items():
        weights.verify(source.file(file), sha256)
    files: dict[str, Path | bytes] = {**_files(folder)}
    recipe = config["provenance"].get("recipe")
    if isinstance(recipe, dict):
        files[RECIPE] = _recipe(recipe, source.config)
    results = read_results(folder / RESULTS)
    try:
        with reading_records(folder):
            known = metadata(config, results, name)
        return _with_card(folder, files, digests, known, name, host)
    except UnknownComponent:
        if host is None:
            raise
        why = "a part of the model is of no installed plugin"  # cards know those alone, and the host may know more
    except Unrecorded as error:
        why = str(error)
    return Contents(files, digests, {}, remark="" if CARD in files else f"there is no card: {why}")


def _with_card(
    folder: Path,
    files: Mapping[str, Path | bytes],
    digests: Mapping[str, str],
    known: Mapping[str, Any],
    name: str,
    host: PluginHost | None,
) -> Contents:
    if CARD not in files:
        return Contents({**files, **_made(folder, name, host)}, digests, known, written=True, made=True)
    text, written = _read(folder / CARD), is_written_by_zoo(folder)
    if not written:
        try:
            text = with_metadata(text, known)
        except ValueError as error:
            raise CheckpointError(f"{folder / CARD}: {error}") from None
    return Contents({**files, CARD: text.encode()}, digests, known, written)


def _files(folder: Path) -> dict[str, Path]:
    """Every file of a folder but hidden ones. A stranger's could have this machine's published by a link to them."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shown = {inside.as_posix(): path for inside, path in found.items() if not _is_hidden(inside)}
    for path in shown.values():
        with named(path):
            require_inside(path, folder)
    return shown


def _is_hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts)


def _recipe(recipe: Mapping[str, Any], path: Path) -> bytes:
    try:
        return as_yaml(recipe)
    except ValueError as error:
        raise CheckpointError(f"{path}: the recipe cannot be written into a file: {one_line(error)}") from None


def _read(path: Path) -> str:
    with named(path):
        return read_bytes(path, LARGEST_CARD).decode()


def is_written_by_zoo(folder: Path, name: str = "") -> bool:
    """Whether a folder's card is, byte for byte, what the zoo writes from what the folder records.

    Args:
        name: under which; default the one that the card says.
    """
    text = _read(folder / CARD)
    said = re.search(r'from_pretrained\("([^"]+)"\)', text)
    try:
        return bool(name or said) and text == card(folder, name or (said[1] if said else ""))
    except ZooError:
        return False


def _made(folder: Path, name: str, host: PluginHost | None) -> dict[str, bytes]:
    """A card, and the pictures on it unless the folder has some."""
    text = card(folder, name)  # first, since what is wrong with the folder is told here
    if any((folder / picture).is_file() for picture in PICTURES):
        return {CARD: text.encode()}
    with TemporaryDirectory() as temporary:
        drawn = write_pictures(from_pretrained(folder, host=host), temporary)
        pictures = {path.name: path.read_bytes() for path in drawn}
        return {CARD: card(folder, name, pictures=temporary).encode(), **pictures}
