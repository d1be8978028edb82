"""Names on the Hub: of repositories, and of the files that hardprompts keeps in them."""

from hardprompts import plugins
from hardprompts.hub.machine import model_label

#: A hard prompt, a classifier beside its prompt, and the facts about a soft prompt beside its embeddings.
PROMPT_FILE = "prompt.json"
TUNER_FILE = "tuner.json"
SOFT_PROMPT_FILE = "soft_prompt.json"

#: What stands before a model's name where the name is one of the Hub's.
HUB_SCHEMES = ("transformers:", "diffusers:", "open_clip:hf-hub:")


def hub_model(name: str) -> str:
    """The repository on the Hub that a backend's name stands for: "user/name"; "" if there is none.

    A name alone does not tell `user/name` from a folder that is elsewhere; the Hub shows such a name without a link.
    """
    if model_label(name) != name:
        return ""
    rest = next((name.removeprefix(scheme) for scheme in HUB_SCHEMES if name.startswith(scheme)), "")
    return rest if is_repo_id(rest) else ""


def is_repo_id(text: str) -> bool:
    """True for what the Hub accepts as "user/name"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1 and not text.endswith("\n")  # which older clients let pass


def embedding_files() -> tuple[str, ...]:
    """The files that soft-prompt formats write into a repository, by every format that names some."""
    formats = plugins.collect("soft_prompt_formats").values()
    return tuple(name for format in formats for name in getattr(format, "repository_files", ()))


def our_files() -> tuple[str, ...]:
    """Every file that a push may write beside the card, and so removes where a newer push has no such file."""
    return (PROMPT_FILE, TUNER_FILE, SOFT_PROMPT_FILE, *embedding_files())
