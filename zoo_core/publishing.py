"""Checkpoints to the Hugging Face Hub: a folder becomes the content of a branch by one commit."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo_core import weights
from zoo_core.components import GenerativeModel
from zoo_core.errors import CheckpointError
from zoo_core.host import PluginHost, core_version
from zoo_core.hub import reason
from zoo_core.pretrained import local_folder, read_config, save_pretrained

CARD = "README.md"


def push_to_hub(
    model: GenerativeModel | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    token: str | bool | None = None,
    host: PluginHost | None = None,
) -> str:
    """Uploads a model, or a checkpoint's folder, as one commit; returns the commit's hash.

    The repository is made if need be, and so is the branch ``revision``. A card that is there already is
    kept; weights of an earlier push that are no longer part of the checkpoint are deleted.

    Raises:
        CheckpointError: the folder is damaged, or the Hub cannot be reached or refuses; the branch is as it was.
    """
    if isinstance(model, GenerativeModel):
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_pretrained(model, Path(temporary) / "model", host=host)
            return push_to_hub(
                folder, repo_id, private=private, revision=revision, commit_message=commit_message, token=token
            )
    source = local_folder(Path(model))
    config = read_config(source.config)
    for name, sha256 in {**config["weights"], **config.get("files", {})}.items():
        weights.verify(source.file(name), sha256)
    return _upload(
        Path(model), repo_id, stale=weights.stem_of, private=private, revision=revision, message=commit_message,
        token=token,
    )  # fmt: skip


def _upload(
    folder: Path,
    repository: str,
    *,
    stale: Callable[[str], object],
    private: bool | None,
    revision: str | None,
    message: str,
    token: str | bool | None,
) -> str:
    """Makes a folder the content of a branch by one commit, and returns its hash.

    The repository and the branch are made if need be. A card that is there is kept; hidden files stay here.

    Args:
        stale: whether to delete a file of that name, which the repository has and the folder has not.

    Raises:
        CheckpointError: the Hub cannot be reached or refuses; the branch is as it was.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="zoo", library_version=core_version())
    try:
        repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
        there = _listed(api, repository, revision)
        # upload_folder() would split a large folder into several commits.
        operations = [*_additions(folder, there), *_deletions(folder, there, stale)]
        commit = api.create_commit(repository, operations, commit_message=message, revision=revision)
    except Exception as error:  # a lost connection has the HTTP library's own name
        raise CheckpointError(f"cannot upload to {repository!r}: {reason(error)}") from error
    return str(commit.oid)


def _listed(api: Any, repository: str, revision: str | None) -> set[str]:
    """The files of a branch, which is made if it is missing."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return set(api.list_repo_files(repository, revision=revision))
    except RevisionNotFoundError:
        api.create_branch(repository, branch=revision)
        return set(api.list_repo_files(repository, revision=revision))


def _additions(folder: Path, there: set[str]) -> Iterator[Any]:
    from huggingface_hub import CommitOperationAdd

    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        kept = inside.as_posix() == CARD and CARD in there
        if path.is_file() and not hidden and not kept:
            yield CommitOperationAdd(inside.as_posix(), path)


def _deletions(folder: Path, there: set[str], stale: Callable[[str], object]) -> Iterator[Any]:
    from huggingface_hub import CommitOperationDelete

    return (CommitOperationDelete(name) for name in sorted(there) if stale(name) and not (folder / name).is_file())
