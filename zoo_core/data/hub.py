"""Which commit a revision of a Hub data set means, and what it meant when the Hub was last seen."""

import contextlib
import os
import re
import secrets
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote

from zoo_core.data.cache import cache_folder
from zoo_core.errors import DataError

TIMEOUT = 10.0  # seconds


class Absent(DataError):
    """The Hub has no such data set, or cannot be asked and nothing is cached."""


def resolve(name: str, revision: str) -> str:
    """The full commit behind a branch, tag or commit of ``organisation/name``.

    Costs nothing for a full commit or offline, else one request. While the Hub is away the commit
    that was last seen there stands in.

    Raises:
        Absent: there is no such data set or revision, or the Hub is away and never told it.
        DataError: the Hub denies access.
    """
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    commit = (None if offline() else _ask(name, revision)) or _recall(name, revision)
    if commit is None:
        reason = "HF_HUB_OFFLINE is set" if offline() else "the Hub cannot be reached"
        raise Absent(
            f"data set {name!r} is not cached and {reason}: go online once, or put a copy into a"
            " folder of ZOO_DATA"
        )
    return commit


def offline() -> bool:
    """Whether the user forbids network access, by Hugging Face's own variables."""
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(s, "").upper() in ("1", "ON", "YES", "TRUE") for s in switches)


def _ask(name: str, revision: str) -> str | None:
    """The Hub's answer, which is written down; None when it cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha
    except HFValidationError as error:
        raise Absent(f"{name!r} is no data set name: use organisation/name") from error
    except HfHubHTTPError as error:
        _raise_refusal(name, revision, error)
        return None  # a server in trouble is as good as none
    except Exception:  # no connection, in whatever words the HTTP library has for it
        return None
    return _remember(name, revision, commit)


def _raise_refusal(name: str, revision: str, error: Exception) -> None:
    """Raises what the Hub's refusal means to a user; returns if it is none."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        message = (
            f"data set {name!r} is gated: accept its terms on the Hub and log in (hf auth login)"
        )
        raise DataError(message) from error
    if isinstance(error, RepositoryNotFoundError):
        raise Absent(
            f"no data set {name!r} on the Hub (or it is private: hf auth login)"
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise Absent(f"data set {name!r} has no revision {revision!r} on the Hub") from error


def _remember(name: str, revision: str, commit: str | None) -> str | None:
    """Writes the commit down, if that is possible."""
    note = _note(name, revision)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f".{secrets.token_hex(8)}")
        draft.write_text(commit or "")
        draft.replace(note)
    return commit


def _recall(name: str, revision: str) -> str | None:
    """The commit that this revision last meant here, by our own note or by Hugging Face's cache."""
    for note in (_note(name, revision), _hub_note(name, revision)):
        with contextlib.suppress(OSError):
            return note.read_text().strip() or None
    return None


def known_names(owner: str) -> list[str]:
    """Data sets that were asked for here before, and those an organisation has on the Hub."""
    seen = [unquote(note.name).partition("@")[0] for note in _notes().glob("*@*")]
    return seen if offline() else seen + _listed(owner)


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
