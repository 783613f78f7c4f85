"""Which commit a revision of a Hub data set means, and what it meant when the Hub was last seen."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from zoo_core.data.cache import cache_folder
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT = 10.0  # seconds
COMMIT = re.compile("[0-9a-f]{40}")


class Absent(DataError):
    """The Hub has no such data set, or cannot be asked and nothing is cached.

    Attributes:
        names: data sets that were asked for here before or, where the Hub answered, that the
            organisation has there: one of them may be meant.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = {*names, *_seen()}


def require_name(name: str) -> None:
    """Refuses what cannot be ``organisation/name``; dots alone would lead out of a folder.

    Raises:
        Absent: the name has another form.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise Absent(f"there is no folder {name!r}, and a data set is called organisation/name")


def resolve(name: str, revision: str) -> str:
    """The full commit behind a branch, tag or commit of ``organisation/name``.

    Costs nothing for a full commit or offline, else one request. While the Hub is away the commit
    that was last seen there stands in.

    Raises:
        Absent: there is no such data set or revision, or the Hub is away and never told it.
        DataError: the Hub denies access.
    """
    require_name(name)
    if COMMIT.fullmatch(revision):
        return revision
    commit = (None if offline() else _ask(name, revision)) or _recall(name, revision)
    if commit is None:
        reason = "HF_HUB_OFFLINE is set" if offline() else "the Hub cannot be reached"
        raise Absent(
            f"data set {name!r} is not cached and {reason}: go online once, or put a copy into a folder of ZOO_DATA"
        )
    return commit


def resolve_online(name: str, revision: str) -> str:
    """The full commit behind a revision, as the Hub tells it now: for what is read from there later.

    Raises:
        Absent: there is no such data set or revision.
        DataError: the Hub denies access, or is away.
    """
    require_name(name)
    commit = None if offline() else _ask(name, revision)
    if commit is None:
        reason = "HF_HUB_OFFLINE is set" if offline() else "the Hub cannot be reached"
        raise DataError(
            f"data set {name!r} cannot be streamed, since {reason}: leave out streaming if it is cached, or put a copy"
            " into a folder of ZOO_DATA"
        )
    return commit


def offline() -> bool:
    """Whether the user forbids network access, by Hugging Face's own variables."""
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(s, "").upper() in ("1", "ON", "YES", "TRUE") for s in switches)


def _ask(name: str, revision: str) -> str | None:
    """The Hub's answer, which is written down; None when it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha
    except HfHubHTTPError as error:
        _raise_refusal(name, revision, error)
        return None  # a server in trouble is as good as none
    except Exception:  # no connection, in whatever words the HTTP library has for it
        return None
    if commit:
        _remember(name, revision, commit)
    return commit


def _raise_refusal(name: str, revision: str, error: HfHubHTTPError) -> None:
    """Raises what the Hub's refusal means to a user; returns if the server is only in trouble."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        message = f"data set {name!r} is gated: accept its terms on the Hub and log in (hf auth login)"
        raise DataError(message) from error
    if isinstance(error, RepositoryNotFoundError):
        message = f"no data set {name!r} on the Hub (or it is private: hf auth login)"
        raise Absent(message, _listed(name.partition("/")[0])) from error
    if isinstance(error, RevisionNotFoundError):
        raise Absent(f"data set {name!r} has no revision {revision!r} on the Hub") from error
    if error.response.status_code in (400, 401, 403):
        reason = str(error).splitlines()[0]
        raise DataError(f"the Hub refuses data set {name!r}: {reason}") from error


def _remember(name: str, revision: str, commit: str) -> None:
    """Writes the commit down, if that is possible."""
    note = _note(name, revision)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f".{secrets.token_hex(8)}")
        draft.write_text(commit)
        draft.replace(note)


def _recall(name: str, revision: str) -> str | None:
    """The commit that this revision last meant here, by our own note or by Hugging Face's cache."""
    for note in (_note(name, revision), _hub_note(name, revision)):
        with contextlib.suppress(OSError):
            commit = COMMIT.fullmatch(note.read_text().strip())
            return commit[0] if commit else None
    return None


def _seen() -> list[str]:
    return [unquote(note.name).partition("@")[0] for note in _notes().glob("*@*")]


def _listed(owner: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        return [found.id for found in islice(HfApi().list_datasets(author=owner), 100)]
    except Exception:  # this is only for the wording of another error
        return []


def _notes() -> Path:
    return cache_folder().parent / "refs"


def _note(name: str, revision: str) -> Path:
    return _notes() / quote(f"{name}@{revision}", safe="@")


def _hub_note(name: str, revision: str) -> Path:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return hub / f"datasets--{name.replace('/', '--')}" / "refs" / revision
