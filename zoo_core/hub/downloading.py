"""Files of checkpoints from the Hugging Face Hub; every failure is one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoo_core.errors import CheckpointError
from zoo_core.hub.client import reason

PATIENCE = 3.0  # seconds; the client's own is 10


@dataclass(frozen=True)
class Repository:
    """A checkpoint on the Hub: a folder of a repository at one commit.

    Attributes:
        config: the local copy of its config, by which it was found.
        inside: what stands before the names of its files: empty, or a subfolder and "/".
        options: of every download: ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.
    """

    config: Path
    id: str
    commit: str
    inside: str
    options: Mapping[str, Any]
    remedy: ClassVar[str] = "; force_download=True fetches it again"

    @classmethod
    def find(
        cls, name: str, revision: str | None, inside: str, config: str, options: Mapping[str, Any]
    ) -> "Repository":
        """Resolves the revision to a commit, by way of the one file that every checkpoint has.

        Raises:
            CheckpointError: as :func:`download`.
        """
        path = download(name, inside + config, revision, options)
        # The cache is …/snapshots/<commit>/<file>: one request settles both.
        return cls(path, name, path.parents[inside.count("/")].name, inside, options)

    @property
    def origin(self) -> dict[str, str]:
        return {"repository": self.id, "commit": self.commit}

    def file(self, name: str) -> Path:
        """The local copy of a file, from the commit that was found.

        Raises:
            CheckpointError: as :func:`download`.
        """
        return download(self.id, self.inside + name, self.commit, self.options)


def download(repository: str, name: str, revision: str | None, options: Mapping[str, Any]) -> Path:
    """A file's copy in the cache. Costs no request when the revision is a full commit and the copy is there.

    While the Hub is away, the copy that a branch last named stands in; a Hub that does not answer is waited for
    ``PATIENCE`` seconds then, or as long as the variable ``HF_HUB_ETAG_TIMEOUT`` says.

    Raises:
        CheckpointError: it is not there, or cannot be had; says which and why.
    """
    import huggingface_hub

    try:
        cached = huggingface_hub.try_to_load_from_cache(
            repository, name, cache_dir=options.get("cache_dir"), revision=revision
        )
        patience: dict[str, Any] = {"etag_timeout": PATIENCE} if isinstance(cached, str) else {}
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision, **patience, **options))
    except Exception as error:  # a lost connection has the HTTP library's own name
        raise CheckpointError(_refusal(error, repository, name, revision)) from error


def _refusal(error: Exception, repository: str, name: str, revision: str | None) -> str:
    """What an error of the Hub's client means to a user."""
    from huggingface_hub import errors

    where = f"{repository!r}" + (f" at revision {revision!r}" if revision else "")
    why = f": {reason(error.__cause__)}" if error.__cause__ else " offline"
    meanings: dict[type[Exception], str] = {  # a class before its parents
        errors.GatedRepoError: f"{repository!r} is gated: accept its terms on the Hub and give a token",
        errors.RepositoryNotFoundError: f"no repository {repository!r} on the Hub, or it is private and needs a token",
        errors.RevisionNotFoundError: f"{repository!r} has no revision {revision!r}",
        errors.LocalEntryNotFoundError: f"{name!r} of {where} is not in the cache and cannot be fetched{why}",
        errors.EntryNotFoundError: f"{where} has no file {name!r}",
        errors.HFValidationError: f"{repository!r} is neither a folder, nor a registered name, nor a Hub id",
    }
    unknown = f"{name!r} of {where} cannot be downloaded: {reason(error)}"
    return next((meaning for kind, meaning in meanings.items() if isinstance(error, kind)), unknown)
