"""Files to and from repositories of the Hub, in one commit each, with errors that say what to do.

The client is huggingface_hub, with its settings: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from hardprompts.errors import HubError
from hardprompts.hub.card import MARK
from hardprompts.hub.names import is_repo_id, our_files
from hardprompts.hub.reasons import connection_error, reason_of
from hardprompts.wording import check_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

CARD = "README.md"


class PullOptions(TypedDict, total=False):
    """Where in a repository something is read, and how.

    Keys:
        revision: a branch, tag or commit of the repository. Default: "main".
        token: default the one that `hf auth login` stored, or HF_TOKEN.
        cache_dir: where downloads are kept. Default: the Hub's cache.
        local_files_only: read the cache alone, and never reach for the Hub.
    """

    revision: str | None
    token: str | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool


class PushOptions(TypedDict, total=False):
    """How something is pushed.

    Keys:
        private: whether only its owner may see the repository; None for what it is already, or public if it is new.
            What exists is never opened or closed.
        token: default the one that `hf auth login` stored, or HF_TOKEN.
        commit_message: what is pushed, in a line.
        create_pr: propose it as a pull request to the main branch.
        revision: the branch, which is made if there is none. Default: "main".
    """

    private: bool | None
    token: str | None
    commit_message: str
    create_pr: bool
    revision: str | None


@dataclasses.dataclass(frozen=True)
class PushResult:
    """The result of a push.

    Attributes:
        repo_id: "user/name".
        url: the page of the commit, or of the pull request.
        revision: what `from_pretrained(repo_id, revision=...)` reads exactly this by: a commit's hash.
        changed: False if the repository had it all already, and nothing was committed.
        notices: what was shortened, since it is of this machine alone, and what a person's own words tell of it.
    """

    repo_id: str
    url: str
    revision: str
    changed: bool = True
    notices: tuple[str, ...] = ()


def push_files(
    repo_id: str,
    files: Mapping[str, bytes],
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload with hardprompts",
    create_pr: bool = False,
    revision: str | None = None,
) -> PushResult:
    """Puts files into a repository of the Hub, in one commit; see `PushOptions` for the options.

    The repository is made if there is none. Files of an earlier push that this one does not have are removed in the
    same commit. A card that a person wrote or changed stays: only one that still has its mark is written anew.

    Args:
        repo_id: "user/name".
        files: their contents by name, the card (README.md) among them.

    Raises:
        HubError: not allowed, not reached, broken off, changed by somebody else meanwhile, or the repository is not
            as private as was asked for. Nothing was committed then; if the connection fails after the commit, the
            next push reports that nothing changed.
        ValueError: an empty message, or half of a character in it, or `create_pr` together with another branch.
    """
    check_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise ValueError(f"create_pr proposes a change to the main branch; revision={revision!r} cannot go with it")
    check_text("commit_message", commit_message)
    if not commit_message.strip():
        raise ValueError("commit_message is empty; say what is pushed")
    with _clear_errors("pushing to", repo_id, revision, token):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = _client(token)
        info = _opened(api, repo_id, revision, private)
        if private is not None and bool(info.private) != private:
            is_now, asked = ("private", "public") if info.private else ("public", "private")
            raise HubError(
                f"pushing to {repo_id!r}: it exists and is {is_now}, and {asked} was asked for; change that in its "
                "settings on the Hub, or leave `private` out"
            )
        held = {file.rfilename for file in info.siblings or ()}
        kept = CARD in held and not _is_ours(api, repo_id, str(info.sha))
        operations: list[Any] = [
            CommitOperationAdd(name, content) for name, content in files.items() if not (kept and name == CARD)
        ]
        operations += [CommitOperationDelete(name) for name in our_files() if name in held and name not in files]
        made = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            parent_commit=info.sha,  # or a push at the same time could mix two prompts
        )
    return PushResult(repo_id, str(made.pr_url or made.commit_url), str(made.oid), made.oid != info.sha)


def pull_files(
    place: str | os.PathLike[str],
    names: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """A folder with those files: `place` itself if it is one, else the cached files of a repository.

    See `PullOptions` for the options.

    Args:
        place: a folder, a file in one, or "user/name" where there is no folder of that name.
        names: files to read. If it is one alone, it must be there; of several, those that the repository has are read.

    Raises:
        HubError: there is no such repository, or it cannot be reached and is not in the cache.
    """
    if not isinstance(place, str) or os.path.exists(place) or not is_repo_id(place):
        return Path(place)
    cache = None if cache_dir is None else os.fspath(cache_dir)
    with _clear_errors("reading", place, revision, token, names[0]):
        api = _client(token)
        if len(names) == 1:
            path = api.hf_hub_download(
                place, names[0], revision=revision, cache_dir=cache, local_files_only=local_files_only
            )
            return Path(path).parent
        return Path(
            api.snapshot_download(
                place,
                revision=revision,
                cache_dir=cache,
                local_files_only=local_files_only,
                allow_patterns=list(names),
            )
        )


def check_repo_id(repo_id: str) -> None:
    """Raises unless a text names a repository.

    Raises:
        HubError: it is not "user/name".
    """
    if not is_repo_id(repo_id):
        raise HubError(
            f"{repo_id!r} is not a repository; write it as user/name, with letters, digits, '-', '_' and '.'"
        )


def _opened(api: "HfApi", repo_id: str, revision: str | None, private: bool | None) -> "ModelInfo":
    """What is in the repository and its branch, both of which are made if need be."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.model_info(repo_id)
    if revision in (None, "main"):
        return info
    try:
        return api.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        return api.model_info(repo_id, revision=revision)


def _is_ours(api: "HfApi", repo_id: str, commit: str) -> bool:
    """Whether the card is one that was written here and left as it was."""
    path = api.hf_hub_download(repo_id, CARD, revision=commit)
    with open(path, encoding="utf-8", errors="replace") as file:
        return MARK in file.read()


def _client(token: str | None) -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hardprompts")


@contextlib.contextmanager
def _clear_errors(
    doing: str, repo_id: str, revision: str | None, token: str | None, file_name: str = ""
) -> Iterator[None]:
    """Turns what the client raises into one HubError that says what to do, without any token in it."""
    from huggingface_hub import errors, get_token

    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        # The client would put it into the message of an error.
        raise HubError(f"{doing} {repo_id!r}: the token is empty or has spaces or line breaks in it; copy it again")
    secrets = [secret for secret in (token, get_token()) if secret]
    connection = connection_error()
    # Of large files that come the newer way, by xet; older clients have none.
    large_file: type[Exception] = getattr(errors, "XetDownloadError", connection)
    try:
        yield
    except (
        errors.HfHubHTTPError,
        errors.EntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.LocalTokenNotFoundError,
        errors.FileMetadataError,
        connection,
        large_file,
        RuntimeError,  # of a large file, around what happened
        ValueError,  # a card that the Hub refuses, or an answer that is none of the Hub's
    ) as found:
        error = found.__cause__ if isinstance(found, RuntimeError) and isinstance(found.__cause__, Exception) else found
        message = f"{doing} {repo_id!r}: {reason_of(error, repo_id, revision, file_name)}"
        told = repr(found) + str(found) + repr(error) + str(error)
        for secret in secrets:
            message = message.replace(secret, "***")
        raise HubError(message) from (None if any(secret in told for secret in secrets) else error)
