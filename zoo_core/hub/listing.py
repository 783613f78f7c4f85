"""The zoo's models on the Hub, found by their tags. Imports no torch."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zoo_core.errors import plain
from zoo_core.hub.client import asking, client
from zoo_core.specs import NAME

LIBRARY = "zoo"


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub as its card's tags describe it.

    Attributes:
        plugins: those it needs.
        changed: when its repository last was, in ISO 8601; empty where the Hub does not say.
    """

    id: str
    plugins: tuple[str, ...]
    downloads: int
    changed: str
    private: bool


def models_on_hub(
    *, author: str | None = None, search: str | None = None, limit: int = 50, token: str | bool | None = None
) -> list[HubModel]:
    """Models whose library is the zoo, those that are downloaded most first; one request per page of the Hub's.

    Args:
        author: a user or an organisation.
        search: words in the name.

    Raises:
        HubRefusal: the Hub cannot be reached, or refuses.
    """
    api = client(token)
    with asking("cannot list the models on the Hub", token):
        _knock(api.endpoint)
        # Pages are asked for as they are needed, as some are of another library that has such a tag.
        found = api.list_models(
            filter=LIBRARY,
            author=author,
            search=search,
            sort="downloads",
            expand=["downloads", "lastModified", "library_name", "private", "tags"],
        )
        return list(islice(_ours(found), limit))


def _knock(endpoint: str) -> None:
    """Fails at once where nobody is: the client would go on trying for half a minute."""
    from huggingface_hub import get_session

    get_session().head(endpoint, timeout=10)


def _ours(found: Iterable[Any]) -> Iterator[HubModel]:
    for model in found:
        if model.library_name == LIBRARY:
            changed = model.last_modified.isoformat() if model.last_modified else ""
            yield HubModel(plain(model.id), plugins_of(model.tags), model.downloads or 0, changed, bool(model.private))


def plugins_of(tags: Any) -> tuple[str, ...]:
    """The plugins that a model's tags name: ``zoo-vae`` for ``vae``."""
    named = (re.fullmatch(f"zoo-({NAME.pattern})", tag) for tag in tags or () if isinstance(tag, str))
    return tuple(sorted({match[1] for match in named if match}))
