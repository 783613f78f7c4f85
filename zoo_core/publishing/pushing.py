"""One push: what is to be sent is compared with what is there, and what differs goes there as one commit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo_core.components import GenerativeModel
from zoo_core.errors import CheckpointError
from zoo_core.host import PluginHost
from zoo_core.hub.client import asking, client, reason, without_token
from zoo_core.publishing.changes import Branch, CardThere, Change, Comparison, compared, git_hash, not_compared
from zoo_core.publishing.contents import CARD, LARGEST_CARD, Contents, contents_of

MAIN = "main"


@dataclass(frozen=True)
class Push:
    """A push that was done, or only told.

    Attributes:
        repository: its full name.
        commit: that of the branch, afterwards; empty where there is none, or nothing is known of it.
        changes: what became, or would become, of each file.
        card: the README.md that is there afterwards; empty if there is none.
        remarks: what whoever pushes should know, a sentence each.
    """

    repository: str
    commit: str
    changes: tuple[Change, ...]
    card: str
    remarks: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return any(change.content is not None or change.what == "deleted" for change in self.changes)


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

    The repository is made if need be, and so is the branch ``revision``. Beside the folder's files go the recipe, and,
    if the folder has no card, a card with pictures. A card on the Hub that a person wrote is kept, but for metadata
    such as tags and results; weights of an earlier push that are no longer part of the checkpoint are deleted, and so
    is what was told of them. What is there already is not sent again.

    Raises:
        CheckpointError: the folder is damaged, or the Hub cannot be reached or refuses; the branch is as it was.
        UnknownComponent: a plugin that the model needs is missing.
    """
    check_repository(repo_id)
    with contents_of(model, repo_id, host) as contents:
        return push(contents, repo_id, private=private, revision=revision, message=commit_message, token=token).commit


def push(
    contents: Contents,
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload model",
    token: str | bool | None = None,
) -> Push:
    """Makes it the content of a branch.

    Raises:
        CheckpointError: that is no name of a repository, or the Hub cannot be reached or refuses (HubRefusal); the
            branch is as it was.
    """
    check_repository(repository)
    if not message.strip():
        raise CheckpointError(f"cannot upload to {repository!r}: the commit needs a message")
    api = client(token)
    with asking(f"cannot upload to {repository!r}", token):
        full = api.create_repo(repository, private=private, exist_ok=True).repo_id
        there = _branch(api, full, revision)
        if private and there.public:
            raise CheckpointError(f"cannot upload to {full!r}: it is there already, and public; make it private first")
        planned = _compared(api, contents, full, there)
        if not planned.changed:
            return planned
        return replace(planned, commit=_send(api, planned, contents, revision, message))


def rehearse(
    contents: Contents, repository: str, *, revision: str | None = None, token: str | bool | None = None
) -> Push:
    """What ``push`` would do, without a request that changes anything; also logged out, and without a network.

    Raises:
        CheckpointError: that is no name of a repository.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    check_repository(repository)
    api = client(token)
    try:
        return _rehearsed(api, contents, repository, revision)
    except Exception as error:  # a lost connection has the HTTP library's own name
        if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
            remark = "the repository would be made (or is private, and you may not see it)"
            return _told(repository, "", compared(contents, Branch("", {}), None), remark)
        why = f"nothing could be compared with the Hub: {without_token(reason(error), token)}"
        return _told(repository, "", not_compared(contents), why)


def _rehearsed(api: Any, contents: Contents, repository: str, revision: str | None) -> Push:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return _compared(api, contents, repository, read_branch(api, repository, revision))
    except RevisionNotFoundError:
        told = _compared(api, contents, repository, read_branch(api, repository, MAIN))
        return replace(told, remarks=(f"the branch {revision!r} would be made from {MAIN!r}", *told.remarks))


def check_repository(repository: str) -> None:
    """Raises CheckpointError if nothing on the Hub can have that name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise CheckpointError(f"cannot upload to {repository!r}: {reason(error)}") from None
    if "/" not in repository:
        raise CheckpointError(f"cannot upload to {repository!r}: use 'organisation/name', or your own name first")


def _branch(api: Any, repository: str, revision: str | None) -> Branch:
    """The branch, which is made if it is missing."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return read_branch(api, repository, revision)
    except RevisionNotFoundError:
        api.create_branch(repository, branch=revision)
        return read_branch(api, repository, revision)


def read_branch(api: Any, repository: str, revision: str | None) -> Branch:
    info = api.model_info(repository, revision=revision or MAIN, expand=["sha", "private"])
    listed = api.list_repo_tree(repository, revision=info.sha, recursive=True)
    files = {entry.path: entry for entry in listed if hasattr(entry, "blob_id")}
    return Branch(info.sha, files, public=info.private is False)


def _compared(api: Any, contents: Contents, repository: str, there: Branch) -> Push:
    card = _card_there(api, repository, there) if CARD in there.files else None
    return _told(repository, there.commit, compared(contents, there, card))


def _told(repository: str, commit: str, found: Comparison, *remarks: str) -> Push:
    card = found.card.decode(errors="replace")
    return Push(repository, commit, found.changes, card, (*remarks, *found.remarks))


def _card_there(api: Any, repository: str, there: Branch) -> CardThere:
    file = there.files[CARD]
    content = _read(api, repository, there.commit) if file.size <= LARGEST_CARD else None
    return CardThere(file.size, content, lambda: _is_noted(api, repository, there.commit, file.blob_id))


def _read(api: Any, repository: str, commit: str) -> bytes:
    with TemporaryDirectory() as temporary:
        return Path(api.hf_hub_download(repository, CARD, revision=commit, local_dir=temporary)).read_bytes()


def _note(card: bytes) -> str:
    """What the commit that brings a card which the zoo wrote says of it, so that a later one may replace it."""
    return f"{CARD} {git_hash(card)} was written by the zoo from what the checkpoint records."


def _is_noted(api: Any, repository: str, commit: str, blob: str) -> bool:
    notes = (commit.message for commit in api.list_repo_commits(repository, revision=commit))
    return any(f"{CARD} {blob} was written by the zoo" in note for note in notes)


def _send(api: Any, planned: Push, contents: Contents, revision: str | None, message: str) -> str:
    # The branch may have moved since it was looked at: then nothing is done, for a card could be lost.
    commit = api.create_commit(
        planned.repository,
        list(_operations(planned)),
        commit_message=message,
        commit_description=_note(contents.card) if contents.written and contents.card else "",
        revision=revision,
        parent_commit=planned.commit,
    )
    return str(commit.oid)


def _operations(planned: Push) -> Iterator[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    for change in planned.changes:
        if change.content is not None:
            yield CommitOperationAdd(change.name, change.content)
        elif change.what == "deleted":
            yield CommitOperationDelete(change.name)
