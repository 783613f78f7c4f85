"""The Hub's client for all that is no download; every failure is one sentence, without the token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING

from zoo_core.errors import CheckpointError, ZooError
from zoo_core.host import core_version, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class HubRefusal(CheckpointError, OSError):
    """The Hub cannot be reached, or does not do what it was asked for. Commands end with 1, not with 2."""


def client(token: str | bool | None = None) -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="zoo", library_version=core_version())


@contextmanager
def asking(what: str, token: str | bool | None = None) -> Iterator[None]:
    """Every failure inside is a HubRefusal that begins with ``what``."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:  # a lost connection has the HTTP library's own name
        raise HubRefusal(f"{what}: {without_token(reason(error), token)}") from error


def without_token(text: str, token: str | bool | None = None) -> str:
    """The same text with nothing in it that is, or looks like, a token."""
    known = [re.escape(token)] if isinstance(token, str) and token else []
    return re.sub("|".join([*known, r"\bhf_\w+"]), "hf_…", text)


def reason(error: BaseException) -> str:
    """Why the Hub's client failed, on one line: what the Hub answered, or the first of the causes."""
    response = getattr(error, "response", None)
    if response is not None:
        hint = "; is the token right?" if response.status_code == 401 else ""
        said = getattr(error, "server_message", None) or response.reason_phrase
        return f"the Hub answered {response.status_code} ({_short(said)}){hint}"
    return reason(error.__cause__) if error.__cause__ else _short(one_line(error))


def _short(text: str) -> str:
    return shorten(text, 300, placeholder=" …")
