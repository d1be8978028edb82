"""Several prompts in one repository of the Hub: pushed in one commit, whole or not at all, and read back.

A repository holds a hard prompt (`prompt.json`; of a classifier `tuner.json` too), a soft prompt (`soft_prompt.json`
beside `learned_embeds.safetensors`, which `pipe.load_textual_inversion` of diffusers reads, or beside an adapter of
PEFT), or both, and a card, README.md.
"""

import os
from pathlib import Path

from typing_extensions import Unpack

from hardprompts.errors import FileFormatError
from hardprompts.hub.client import PullOptions, PushOptions, PushResult, check_repo_id, pull_files
from hardprompts.hub.mixin import push_values
from hardprompts.hub.names import PROMPT_FILE, embedding_files
from hardprompts.prompts import HardPrompt
from hardprompts.softprompts.folder import has_soft_prompt, soft_prompt_files
from hardprompts.softprompts.prompt import SoftPrompt, soft_prompt_in


def push(
    repo_id: str,
    hard_prompt: HardPrompt | None = None,
    soft_prompt: SoftPrompt | None = None,
    *,
    license: str | None = None,
    **options: Unpack[PushOptions],
) -> PushResult:
    """Puts a hard prompt, a soft prompt, or both into one repository of the Hub, in one commit.

    Args:
        repo_id: "user/name"; made if there is none.
        soft_prompt: the one that the hard prompt was decoded from, say.
        license: an identifier of the Hub, "cc0-1.0" say, for the card.
        options: private, token, commit_message, create_pr and revision: see `hardprompts.hub.PushOptions`.

    Raises:
        HubError: as `hardprompts.hub.push_files`.
        FileFormatError: no format has a place for this soft prompt.
        ValueError: neither prompt, or as `hardprompts.hub.push_files`.
    """
    values = [value for value in (hard_prompt, soft_prompt) if value is not None]
    if not values:
        raise ValueError("a push needs a hard prompt or a soft prompt, and there is neither")
    return push_values(repo_id, values, license=license, **options)


def pull(repo_id: str, **options: Unpack[PullOptions]) -> tuple[HardPrompt | None, SoftPrompt | None]:
    """The hard prompt and the soft prompt of a repository; None for the one that it does not have.

    Args:
        options: revision, token, cache_dir and local_files_only: see `hardprompts.hub.PullOptions`.

    Raises:
        HubError: it has neither, or as `HardPrompt.from_pretrained`.
        FileFormatError: one of them is damaged.
    """
    check_repo_id(repo_id)
    folder = pull_files(repo_id, [PROMPT_FILE, *soft_prompt_files()], **options)
    return prompts_in(folder, repo_id.rpartition("/")[2])


def prompts_in(folder: Path, soft_name: str = "") -> tuple[HardPrompt | None, SoftPrompt | None]:
    """The hard prompt and the soft prompt in a folder; None for the one that it does not have.

    Args:
        soft_name: what a soft prompt without a name of its own is called.

    Raises:
        FileFormatError: it has neither, or one of them is damaged.
    """
    hard = HardPrompt.from_pretrained(folder) if (folder / PROMPT_FILE).is_file() else None
    soft = soft_prompt_in(folder, soft_name) if has_soft_prompt(folder) else None
    if hard is None and soft is None:
        listed = ", ".join(dict.fromkeys(embedding_files()))
        raise FileFormatError(f"no prompt is in {os.fspath(folder)!r}: neither {PROMPT_FILE} nor {listed}")
    return hard, soft
