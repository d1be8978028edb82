"""What the errors of the Hub's client mean: offline, gated, no such repository, or a Hub in trouble."""

import os
from collections.abc import Mapping, Sequence

from hardprompts.causes.failures import cause_of, chain, import_cause
from hardprompts.causes.standins import stand_in_at, stand_in_inside
from hardprompts.errors import brief


def loading_cause(error: BaseException, place: str | os.PathLike[str]) -> str:
    """Why a model could not be loaded, and what to do, where that is known; else "".

    See `local_cause`; and what the Hub said.

    Args:
        error: what the library raised.
        place: the folder or file of the model, or its name on the Hub.
    """
    if found := local_cause(error, place):
        return found
    name = os.fspath(place)
    found = "" if os.path.exists(place) else hub_cause(error, name)
    if not found:
        return ""
    return (
        f"{name!r} is not a local folder, and of the Hub: {found}; or pass a folder, which `hf download {name} "
        "--local-dir FOLDER` makes where there is a network"
    )


def local_cause(error: BaseException, place: str | os.PathLike[str]) -> str:
    """Why a model could not be loaded, if the reason lies on this machine; else "".

    In this order: whether memory ran out or the operating system refused; whether a pointer, a web page or half of a
    download lies in a file's place; and whether a package is missing.
    """
    return (
        cause_of(error)
        or stand_in_inside(place)
        or (f"{os.fspath(place)}: {found}" if (found := stand_in_at(place)) else "")
        or next((import_cause(one) for one in chain(error) if isinstance(one, ImportError)), "")
    )


def hub_cause(error: BaseException, name: str) -> str:
    """What the Hub or its client said of the model `name`, if an error came from there; else ""."""
    from huggingface_hub import errors

    kinds = (
        errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError, errors.EntryNotFoundError,
        connection_error(),
    )  # fmt: skip
    found = next((one for one in chain(error) if isinstance(one, kinds)), None)
    return "" if found is None else reason_of(found, name, None)


def connection_error() -> type[Exception]:
    """The base of all errors of the client's connections: that of httpx, or of requests before huggingface_hub 1.0."""
    from huggingface_hub.errors import HfHubHTTPError

    return [kind for kind in HfHubHTTPError.__mro__ if kind.__module__ != "builtins"][-1]


#: What a status means here, where the client has no better word for it.
_STATUS: Mapping[int, str] = {
    400: "the Hub does not accept it: {said}",
    401: "the Hub does not accept the token; make a new one and store it with `hf auth login`",
    403: "the token may not do this ({said}): to push it needs the right to write, and the repository must be yours",
    409: "the Hub reports a conflict ({said}); look at the repository, and push again",
    412: "somebody changed the repository meanwhile, so nothing was committed; push again",
    413: "the Hub says that it is too large",
    429: "the Hub asks for fewer requests; try again in some minutes",
}


def reason_of(error: BaseException, repo_id: str, revision: str | None, file_name: str = "") -> str:
    """What an error of the Hub's client means, and what to do.

    Args:
        file_name: that was asked for, if it is what makes the repository one of ours.
    """
    from huggingface_hub import constants, errors

    cause = error.__cause__ or error
    status = _status(error)
    reasons: Sequence[tuple[type[BaseException], str]] = (
        (errors.OfflineModeIsEnabled, "offline mode is on; unset HF_HUB_OFFLINE to reach the Hub"),
        (errors.LocalTokenNotFoundError, "no token is stored; log in with `hf auth login`, or pass token="),
        (
            errors.GatedRepoError,
            f"its owner gives access on request; ask for it at {constants.ENDPOINT}/{repo_id}, then log in with "
            "`hf auth login`",
        ),
        (
            errors.RepositoryNotFoundError,
            "there is no such repository, or it is private and you are not logged in as one who may see it; check the "
            "name, and log in with `hf auth login`",
        ),
        (errors.RevisionNotFoundError, f"it has no branch, tag or commit {revision!r}"),
        (errors.LocalEntryNotFoundError, _not_cached(cause)),
        (
            errors.EntryNotFoundError,
            f"it has no {file_name}, so no prompt of hardprompts is in it" if file_name else "a file in it is missing",
        ),
    )
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    if not status and (found := _of_the_client(error)):
        return found
    if not status:
        return f"the connection broke off ({type(error).__name__}); nothing is half done, so try again"
    said = brief(Exception(getattr(error, "server_message", None) or f"status {status}"))
    if status >= 500:
        return f"the Hub has trouble (status {status}); nothing was changed, so try again later"
    return _STATUS.get(status, "the Hub answers {said}").format(said=said)


def _status(error: BaseException) -> int:
    """What the Hub answered, or 0 if it did not."""
    from huggingface_hub.errors import HfHubHTTPError

    # Before huggingface_hub 1.0 a file that is not in the cache is one of these errors, too, without an answer.
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return 0 if response is None else int(response.status_code)


def _of_the_client(error: BaseException) -> str:
    """What an error means that is not an answer of the Hub's; "" of a connection's."""
    if found := cause_of(error):  # memory, or the disk
        return found
    if isinstance(error, RuntimeError):  # of large files, whose client says nothing else by its kind
        full = "no space left" in str(error).lower()
        return "the disk is full; make room" if full else f"the file could not be transferred: {brief(error)}"
    if isinstance(error, ValueError):
        refused = "does not accept the card" if "README" in str(error) else "gave an answer that is none of a Hub's"
        return f"the Hub {refused}: {brief(error)}"
    return ""


def _not_cached(cause: BaseException) -> str:
    from huggingface_hub import constants, errors

    if status := _status(cause):
        return f"it is not in the cache, and the Hub has trouble (status {status}); try again later"
    if constants.HF_HUB_OFFLINE or isinstance(cause, errors.OfflineModeIsEnabled):
        return "it is not in the cache, and offline mode is on; unset HF_HUB_OFFLINE to reach the Hub"
    if isinstance(cause, errors.LocalEntryNotFoundError):
        return "it is not in the cache; leave local_files_only out to ask the Hub"
    return f"it is not in the cache, and the Hub cannot be reached ({type(cause).__name__}); check the connection"
