"""What a push changes on the Hub, told before anything is sent."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo_core import weights
from zoo_core.cards.merging import with_metadata
from zoo_core.publishing.contents import CARD, MADE_OF_WEIGHTS, Contents

What = Literal["added", "replaced", "kept", "unchanged", "deleted", "not compared"]


@dataclass(frozen=True)
class Branch:
    """A branch on the Hub as it is: its commit, its files (``RepoFile``) by name, and whether all may see them."""

    commit: str
    files: Mapping[str, Any]
    public: bool = False


@dataclass(frozen=True)
class Change:
    """What becomes of one file on the Hub. ``content``: what is sent; None where nothing is."""

    name: str
    what: What
    size: int
    content: Path | bytes | None = None


@dataclass(frozen=True)
class CardThere:
    """The card that stands on the Hub.

    Attributes:
        content: None if it is larger than any card.
        is_ours: whether a push noted that the zoo wrote exactly this text; asked only where it matters.
    """

    size: int
    content: bytes | None
    is_ours: Callable[[], bool]


@dataclass(frozen=True)
class Comparison:
    """What becomes of each file, the card that is there afterwards, and what whoever pushes should know."""

    changes: tuple[Change, ...]
    card: bytes
    remarks: tuple[str, ...] = ()


def not_compared(contents: Contents) -> Comparison:
    """All that would be sent to a Hub of which nothing is known."""
    sent = (Change(name, "not compared", size(content), content) for name, content in sorted(contents.files.items()))
    return Comparison(tuple(sent), contents.card or b"", _of_the_card(contents))


def compared(contents: Contents, there: Branch, card: CardThere | None) -> Comparison:
    """Args: card: the one on the branch; None if there is none."""
    found = {name: _change(name, content, contents, there) for name, content in contents.files.items()}
    if card is None or contents.card is None:
        final, remarks = contents.card or (card and card.content) or b"", _of_the_card(contents)
    else:
        found[CARD], final, remarks = _settled(contents, contents.card, card)
    anew = any(weights.stem_of(name) and change.content is not None for name, change in found.items())
    found |= {name: Change(name, "deleted", there.files[name].size) for name in _stale(contents, there, anew)}
    return Comparison(tuple(found[name] for name in sorted(found)), final, remarks)


def _change(name: str, content: Path | bytes, contents: Contents, there: Branch) -> Change:
    if name not in there.files:
        return Change(name, "added", size(content), content)
    if _is_same(content, there.files[name], contents.sha256.get(name)):
        return Change(name, "unchanged", size(content))
    return Change(name, "replaced", size(content), content)


def _stale(contents: Contents, there: Branch, anew: bool) -> Iterator[str]:
    """Weights that are no part of the checkpoint any more; and what was said of them, where others take their place."""
    for name in there.files.keys() - contents.files.keys():
        if weights.stem_of(name) or (anew and name in MADE_OF_WEIGHTS):
            yield name


def _settled(contents: Contents, new: bytes, card: CardThere) -> tuple[Change, bytes, tuple[str, ...]]:
    """A card on the Hub makes way for another one only if the zoo wrote it; a person's stays, with new metadata."""
    old = card.content
    if new == old:
        return Change(CARD, "unchanged", card.size), new, ()
    if card.is_ours():
        return Change(CARD, "replaced", len(new), new), new, _of_the_card(contents)
    kept = f"the {CARD} on the Hub is kept, for it is not one that the zoo wrote"
    try:
        merged = with_metadata((old or b"").decode(), contents.metadata).encode() if contents.metadata else old
    except ValueError as error:  # UnicodeDecodeError is one
        return Change(CARD, "kept", card.size), old or b"", (f"{kept}; its metadata stay too: {error}",)
    if old is None or merged is None or merged == old:
        return Change(CARD, "kept", card.size), old or b"", (kept,)
    return Change(CARD, "kept", len(merged), merged), merged, (f"{kept}; its metadata are brought up to date",)


def _of_the_card(contents: Contents) -> tuple[str, ...]:
    made = f"the folder has no {CARD}: one is written from what the checkpoint records" if contents.made else ""
    return tuple(filter(None, (made, contents.remark)))


def size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _is_same(content: Path | bytes, file: Any, sha256: str | None) -> bool:
    if size(content) != file.size:
        return False
    if file.lfs:
        return bool((sha256 or _sha256(content)) == file.lfs.sha256)
    return bool(git_hash(content if isinstance(content, bytes) else content.read_bytes()) == file.blob_id)


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else weights.digest(content)


def git_hash(content: bytes) -> str:
    """By which git, and so the Hub, knows a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
