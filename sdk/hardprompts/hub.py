"""Prompts on the Hub: pushed in one commit, whole or not at all, and read back from there or from the cache.

A repository holds a hard prompt (`prompt.json`; of a classifier `tuner.json` too), a soft prompt (`soft_prompt.json`
beside `learned_embeds.safetensors`, which `pipe.load_textual_inversion` of diffusers reads, or beside an adapter of
PEFT), or both, and a card, README.md.
The client is huggingface_hub, with its settings: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.errors import FileFormatError, HubError
from hardprompts.files import read_soft_prompts
from hardprompts.model_card import MARK, is_repo_id, render_card
from hardprompts.prompts import FILE_NAME, HardPrompt
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.stored import brief

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

    from hardprompts.classification.saved import SavedTuner

CARD = "README.md"

#: A classifier, beside its prompt.
TUNER_FILE_NAME = "tuner.json"

#: What is known of a soft prompt beside its embeddings.
SOFT_FILE_NAME = "soft_prompt.json"
SOFT_FORMAT_VERSION = 1

#: The formats that a soft prompt is kept in, the first that has a place for it, and their files. Others are read too.
_LAYOUTS: Mapping[str, str] = {
    "diffusers": "learned_embeds.safetensors",
    "peft": "",
    "comfyui": "embeddings.safetensors",
}

#: Every file of a soft prompt, ours and those of other tools; no more than these is taken from a repository.
_SOFT_FILES = (
    SOFT_FILE_NAME,
    "learned_embeds.safetensors",
    "learned_embeds_2.safetensors",
    "embeddings.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "learned_embeds.bin",
    "learned_embeds_2.bin",
    "adapter_model.bin",
)

#: What is written here, and so is removed when a newer push has no such file.
_OURS = (FILE_NAME, TUNER_FILE_NAME, *_SOFT_FILES[:6])


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push came to.

    Attributes:
        repo_id: "user/name".
        url: the page of the commit, or of the pull request.
        revision: what `from_pretrained(repo_id, revision=...)` reads exactly this by: a commit's hash.
        changed: False if the repository had it all already, and nothing was committed.
    """

    repo_id: str
    url: str
    revision: str
    changed: bool = True


# --- push ---------------------------------------------------------------------------------


def push(
    repo_id: str,
    hard_prompt: HardPrompt | None = None,
    soft_prompt: SoftPrompt | None = None,
    *,
    tuner: "SavedTuner | None" = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload with hardprompts",
    create_pr: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> Pushed:
    """Puts a hard prompt, a soft prompt, or both into one repository of the Hub, in one commit.

    The repository is made if there is none. Files of an earlier prompt that this one does not have are removed in the
    same commit. A card that a person wrote or changed stays: only one that still has its mark is written anew.

    Args:
        repo_id: "user/name".
        tuner: a fitted classifier, whose prompt `hard_prompt` then is.
        private: whether only its owner may see the repository; None for what it is already, or public if it is new.
            What exists is never opened or closed.
        token: default the one that `hf auth login` stored, or HF_TOKEN.
        create_pr: propose it as a pull request to the main branch.
        revision: the branch, which is made if there is none. Default: "main".
        license: an identifier of the Hub, "cc0-1.0" say, for the card.

    Raises:
        HubError: not allowed, not reached, broken off, changed by somebody else meanwhile, or the repository is not
            as private as was asked for. Nothing was committed then; of a connection that broke off in the very last
            answer, the next push finds out.
        FileFormatError: no format has a place for this soft prompt.
        ValueError: neither prompt, an empty message, or `create_pr` together with another branch.
    """
    if create_pr and revision not in (None, "main"):
        raise ValueError(f"create_pr proposes a change to the main branch; revision={revision!r} cannot go with it")
    if not commit_message.strip():
        raise ValueError("commit_message is empty; say what is pushed")
    files = contents(repo_id, hard_prompt, soft_prompt, tuner=tuner, license=license)
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
        if CARD in held and not _is_ours(api, repo_id, str(info.sha)):
            del files[CARD]
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in _OURS if name in held and name not in files]
        made = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            parent_commit=info.sha,  # or a push at the same time could mix two prompts
        )
    return Pushed(repo_id, str(made.pr_url or made.commit_url), str(made.oid), made.oid != info.sha)


def contents(
    repo_id: str,
    hard_prompt: HardPrompt | None,
    soft_prompt: SoftPrompt | None,
    *,
    tuner: "SavedTuner | None" = None,
    license: str | None = None,
) -> dict[str, bytes]:
    """The files that a push writes, by name, the card among them.

    Raises:
        HubError: `repo_id` is not "user/name".
        FileFormatError: no format has a place for this soft prompt.
        ValueError: neither prompt.
    """
    if not is_repo_id(repo_id):
        raise HubError(_no_repository(repo_id))
    files: dict[str, bytes] = {}
    if tuner is not None:
        files[TUNER_FILE_NAME] = tuner.to_json().encode()
        hard_prompt = tuner.prompt
    if hard_prompt is not None:
        files[FILE_NAME] = hard_prompt.to_json().encode()
    if soft_prompt is not None:
        soft_prompt = soft_prompt if soft_prompt.name else _renamed(soft_prompt, repo_id)
        files |= soft_files(soft_prompt)
    return {CARD: render_card(repo_id, hard_prompt, soft_prompt, license, tuner).encode(), **files}


def _no_repository(repo_id: str) -> str:
    return f"{repo_id!r} is no repository; write it as user/name, with letters, digits, '-', '_' and '.'"


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


# --- pull ---------------------------------------------------------------------------------


def hard_prompt_folder(
    place: str,
    *,
    file_name: str = FILE_NAME,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of the cache that holds `prompt.json` of a repository, or `place` itself if that is none.

    See `HardPrompt.from_pretrained`.

    Args:
        file_name: another file to look for: that of a classifier.
    """
    if not is_repo_id(place):
        return Path(place)
    with _clear_errors("reading", place, revision, token, file_name):
        path = _client(token).hf_hub_download(
            place,
            file_name,
            revision=revision,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=local_files_only,
        )
    return Path(path).parent


def read_soft_prompt(
    place: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> SoftPrompt:
    """The soft prompt in a folder, or in a repository of the Hub; see `SoftPrompt.from_pretrained`."""
    if not isinstance(place, str) or os.path.exists(place) or not is_repo_id(place):
        return _soft_prompt_in(Path(place), "")
    folder = _snapshot(place, _SOFT_FILES, revision, token, cache_dir, local_files_only)
    if not _has_soft_prompt(folder):
        raise HubError(
            f"reading {place!r}: it holds no soft prompt ({', '.join(_SOFT_FILES[1:6])}); a file of another name "
            "can be downloaded and read by SoftPrompt.from_file"
        )
    return _soft_prompt_in(folder, place.rpartition("/")[2])


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> tuple[HardPrompt | None, SoftPrompt | None]:
    """The hard prompt and the soft prompt of a repository; None for the one that it does not have.

    Raises:
        HubError: it has neither, or as `HardPrompt.from_pretrained`.
        FileFormatError: one of them is damaged.
    """
    if not is_repo_id(repo_id):
        raise HubError(_no_repository(repo_id))
    folder = _snapshot(repo_id, (FILE_NAME, *_SOFT_FILES), revision, token, cache_dir, local_files_only)
    return prompts_in(folder, repo_id.rpartition("/")[2])


def prompts_in(folder: Path, soft_name: str = "") -> tuple[HardPrompt | None, SoftPrompt | None]:
    """The hard prompt and the soft prompt in a folder; None for the one that it does not have.

    Args:
        soft_name: what a soft prompt without a name of its own is called.

    Raises:
        FileFormatError: it has neither, or one of them is damaged.
    """
    hard = HardPrompt.from_pretrained(folder) if (folder / FILE_NAME).is_file() else None
    soft = _soft_prompt_in(folder, soft_name) if _has_soft_prompt(folder) else None
    if hard is None and soft is None:
        raise FileFormatError(f"no prompt is in {os.fspath(folder)!r}: neither {FILE_NAME} nor {_SOFT_FILES[1]}")
    return hard, soft


def _snapshot(
    repo_id: str,
    names: Sequence[str],
    revision: str | None,
    token: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    """The folder of the cache with those files of a repository that it has."""
    with _clear_errors("reading", repo_id, revision, token, names[0]):
        return Path(
            _client(token).snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                local_files_only=local_files_only,
                allow_patterns=list(names),
            )
        )


def _has_soft_prompt(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SOFT_FILES[1:])


# --- the files of a soft prompt -----------------------------------------------------------


def soft_files(prompt: SoftPrompt) -> dict[str, bytes]:
    """The files that hold a soft prompt, by name.

    Raises:
        FileFormatError: no format has a place for it; the message says why, of each.
    """
    from hardprompts.plugins import soft_prompt_formats

    known = soft_prompt_formats()
    reasons = []
    for format, file_name in _LAYOUTS.items():
        if format not in known:
            continue
        # A folder that is not there: what lies in the current one is nothing to the format.
        folder = Path("hub") / os.urandom(8).hex()
        try:
            written = known[format].write(prompt, folder / file_name if file_name else folder)
        except (FileFormatError, ValueError) as error:
            reasons.append(f"{format}: {error}")
            continue
        facts = {
            "format_version": SOFT_FORMAT_VERSION,
            "format": format,
            "name": prompt.name,
            "encoders": dict(zip(prompt.encoders, prompt.widths, strict=True)),
            "num_tokens": prompt.num_tokens,
            "step": prompt.step,
            "base_models": list(prompt.base_models),
            "metadata": dict(prompt.metadata),
        }
        text = json.dumps(facts, ensure_ascii=True, indent=2) + "\n"
        return {SOFT_FILE_NAME: text.encode(), **{path.name: content for path, content in written.items()}}
    raise FileFormatError(f"no format has a place for {prompt!r}: {'; '.join(reasons) or 'none is installed'}")


def _soft_prompt_in(folder: Path, repo_name: str) -> SoftPrompt:
    """The soft prompt in a folder, with what `soft_prompt.json` says of it, if there is one."""
    facts = _facts(folder / SOFT_FILE_NAME)
    format = facts.get("format", "")
    place = folder / _LAYOUTS[format] if format else folder
    prompts = read_soft_prompts(place, format=format)
    if len(prompts) > 1:
        listed = ", ".join(repr(prompt.name) for prompt in prompts[:20])
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds {len(prompts)} soft prompts ({listed}); read one by its file"
        )
    prompt = prompts[0]
    if not facts:
        # An adapter is called as its folder, and in the cache that is a commit's hash.
        return _renamed(prompt, repo_name) if repo_name and prompt.name == folder.resolve().name else prompt
    try:
        return dataclasses.replace(
            prompt,
            name=facts["name"],
            step=facts["step"],
            base_models=tuple(facts["base_models"]),
            metadata=facts["metadata"],
        )
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(folder / SOFT_FILE_NAME)!r}: {error}") from error


def _facts(path: Path) -> dict[str, Any]:
    """What soft_prompt.json says, each of the right kind; nothing if there is no such file.

    Raises:
        FileFormatError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the place may be an embedding file itself
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(f"{os.fspath(path)!r} is not JSON that describes a soft prompt: {error}") from error
    checks: dict[str, Callable[[Any], bool]] = {
        "format_version": lambda value: value == SOFT_FORMAT_VERSION,
        "format": lambda value: isinstance(value, str) and value in _LAYOUTS,
        "name": lambda value: isinstance(value, str),
        "step": lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool)),
        "base_models": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
        "metadata": lambda value: (
            isinstance(value, dict)
            and all(isinstance(each, str | int | float | bool | None) for each in value.values())
        ),
    }
    if not isinstance(found, dict):
        raise FileFormatError(f"{os.fspath(path)!r} does not describe a soft prompt: {type(found).__name__}, no fields")
    wrong = [key for key, fits in checks.items() if key not in found or not fits(found[key])]
    if wrong:
        raise FileFormatError(
            f"{os.fspath(path)!r} does not describe a soft prompt as this release knows it: its fields "
            f"{', '.join(wrong)} are missing or of the wrong kind"
        )
    return found


def _renamed(prompt: SoftPrompt, repo_id: str) -> SoftPrompt:
    return dataclasses.replace(prompt, name=repo_id.rpartition("/")[2])


# --- errors -------------------------------------------------------------------------------


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
    # The base of all errors of the client's connections, whichever of its libraries it uses.
    connection: type[Exception] = errors.HfHubHTTPError.__bases__[0]
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
        message = f"{doing} {repo_id!r}: {_reason(error, repo_id, revision, file_name)}"
        told = repr(found) + str(found) + repr(error) + str(error)
        for secret in secrets:
            message = message.replace(secret, "***")
        raise HubError(message) from (None if any(secret in told for secret in secrets) else error)


#: What a status means here, where the client has no better word for it.
_STATUS: Mapping[int, str] = {
    400: "the Hub does not accept it: {said}",
    401: "the Hub does not accept the token; make a new one and store it with `hf auth login`",
    403: "the token may not do this: it needs the right to write, and the repository must be yours ({said})",
    409: "the Hub reports a conflict ({said}); look at the repository, and push again",
    412: "somebody changed the repository meanwhile, so nothing was committed; push again",
    413: "the Hub says that it is too large",
    429: "the Hub asks for fewer requests; try again in some minutes",
}


def _reason(error: Exception, repo_id: str, revision: str | None, file_name: str) -> str:
    from huggingface_hub import constants, errors

    cause = error.__cause__ or error
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
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
    if isinstance(error, ValueError) and not status:
        refused = "does not accept the card" if "README" in str(error) else "gave an answer that is none of a Hub's"
        return f"the Hub {refused}: {brief(error)}"
    if not status:
        return f"the connection broke off ({type(error).__name__}); nothing is half done, so try again"
    said = brief(Exception(getattr(error, "server_message", None) or f"status {status}"))
    if status >= 500:
        return f"the Hub has trouble (status {status}); nothing was changed, so try again later"
    return _STATUS.get(status, "the Hub answers {said}").format(said=said)


def _not_cached(cause: BaseException) -> str:
    from huggingface_hub import constants, errors

    if isinstance(cause, errors.HfHubHTTPError):
        return f"it is not in the cache, and the Hub has trouble (status {cause.response.status_code}); try again later"
    if constants.is_offline_mode() or isinstance(cause, errors.OfflineModeIsEnabled):
        return "it is not in the cache, and offline mode is on; unset HF_HUB_OFFLINE to reach the Hub"
    if isinstance(cause, errors.LocalEntryNotFoundError):
        return "it is not in the cache; leave local_files_only out to ask the Hub"
    return f"it is not in the cache, and the Hub cannot be reached ({type(cause).__name__}); check the connection"
