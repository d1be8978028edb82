"""What a text tells of this machine, and the same text without it, for files and pages that others see.

Paths, the names of home folders and of the machine, and tokens of the Hub are meant. Of a path its last part stays:
"open_clip:/home/me/models/x" becomes "open_clip:…/x". What a person wrote, a prompt say, is never changed.
"""

import contextlib
import dataclasses
import functools
import getpass
import hashlib
import os
import re
import socket
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

#: Stands for the folders of a path.
FOLDERS = "…"

#: How a path begins that is not inside of the current folder.
_START = r"(?:file:/+|~[\w.-]*[/\\]|[A-Za-z]:[/\\]+|\\\\+(?=[^\s\\])|/(?=[^\s/\\])|\.{1,2}[/\\]+(?=[^\s/\\]))"
_WHOLE = re.compile(rf"(?:{_START}|//)[^\n]*")
_QUOTED = re.compile(rf"(?<=['\"`])(?:[a-z][a-z_-]+:)?{_START}[^'\"`\n]*(?=['\"`])")
#: In running text nothing tells where a path with spaces ends, so it ends at the first; the second is a file of weights
#: behind the name of its architecture.
_FOLDER = r"[^\s/\\'\"`<>|]+[/\\]+"
_INSIDE = re.compile(rf"(?:(?<![\w./\\~…<]){_START}|(?<=\w/)/)(?:{_FOLDER})+[^\s/\\'\"`<>|]*")
#: What may stand before the path in the name of a model: nothing, the sign of a folder, or an architecture.
_HEADS = tuple(map(re.compile, ("", "local-dir:", r"[\w.-]+/")))
_TOKEN = re.compile(r"\bhf_\w{16,}")
_PARTS = re.compile(r"[/\\]+")
_END = ".,:;!?)]}"

#: Folders that have the home folders of a machine's users in them.
_HOMES = ("home", "users")

#: Schemes whose names are of the Hub ("user/name") or of a folder.
_OF_THE_HUB = ("transformers", "diffusers", "sentence-transformers")

#: Machines that are called so are not told from others by their name.
_USUAL_HOSTS = frozenset(("localhost", "ubuntu", "debian", "fedora", "docker", "linux", "windows", "macbook"))

#: Fields that hold the name of a model.
_MODELS = frozenset(("model", "models", "judge", "prior", "clip_model", "base_models", "base_model_name_or_path"))


#: How fields are called that hold a path, though it may be a relative one.
_PATHS = re.compile(r"(?:^|_)(?:dir|dirs|directory|folder|folders|path|paths|file|files)$")


class MachineNotice(UserWarning):
    """Something of this machine was left out of what is shared, or stands in words that nobody but you may change."""


def writable(text: str) -> str:
    """A text that any file can hold: bytes of a name that are not UTF-8, and halves of characters, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def without_machine(text: str) -> str:
    """The text without the folders of paths, the name of this machine and tokens of the Hub; addresses stay.

    A relative path stays, unless it begins with dots; `model_label` knows more of the names of models.
    """
    text = writable(text)
    if _WHOLE.fullmatch(text) and ": " not in text and _INSIDE.match(text):
        return _last_part(text)
    found = _QUOTED.sub(lambda match: _shortened(match[0]), text)
    found = _INSIDE.sub(lambda match: _shortened(match[0]), found)
    found = _TOKEN.sub("hf_…", found)
    host = _host()
    return found if host is None else host.sub(FOLDERS, found)


def model_label(name: str) -> str:
    """What a model is called where others see it: its name, and of a folder or file its last part alone.

    For example "transformers:…/my-model", or "open_clip:ViT-B-32/…/weights.pt". Names of the Hub stay as they are.
    """
    return "+".join(writable(_label(part)) for part in re.split(r"\+(?=[a-z][\w-]+:)", name))


def shown_model(name: str) -> str:
    """The same for a reader, with a remark where it is a folder or file of somebody's machine."""
    label = model_label(name)
    return f"{label}, a local folder or file" if FOLDERS in label else label


def distinct_label(text: str) -> str:
    """The label of a path or model; where it is less than the name, with a hash that distinguishes it from others."""
    short = model_label(text)
    return text if short == text else marked(short, text)


def marked(short: str, text: str) -> str:
    """A label with a hash of what it stands for."""
    return f"{short} #{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclasses.dataclass
class Clearance:
    """What a value tells of this machine when it is shared: what was shortened, and what was left as it is.

    Attributes:
        shortened: the fields that were changed, each with what stands there now.
        kept: the words of a person that have a path or a token in them, by their field.
    """

    shortened: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, several: "Iterable[Clearance]") -> "Clearance":
        """Several as one."""
        whole = cls()
        for one in several:
            whole.shortened |= one.shortened
            whole.kept |= one.kept
        return whole

    def model(self, field: str, name: str) -> str:
        """The label of a model."""
        return self._noted(field, name, model_label(name))

    def text(self, field: str, text: str) -> str:
        """A text that a program wrote."""
        return self._noted(field, text, without_machine(text))

    def values(self, field: str, values: Any, words: Collection[str] = ()) -> Any:
        """JSON values; those of the fields called as in `words` are a person's, and stay."""
        last = field.rpartition(".")[2]
        if last in words:
            self.keep(field, values)
        elif isinstance(values, str | os.PathLike):
            return self._string(field, last, os.fspath(values))
        elif isinstance(values, Mapping):
            return {name: self.values(f"{field}.{name}", value, words) for name, value in values.items()}
        elif isinstance(values, list | tuple):
            return type(values)(self.values(field, value, words) for value in values)
        return values

    def keep(self, field: str, words: Any) -> None:
        """Looks at a person's own words, which are never changed."""
        if isinstance(words, Mapping):
            words = [*words, *words.values()]
        if isinstance(words, list | tuple):
            for one in words:
                self.keep(field, one)
        elif isinstance(words, str) and (found := _told(words)):
            self.kept.setdefault(field, found)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person should know before it is shared, in a line each."""
        said = []
        if self.shortened:
            listed = ", ".join(f"{field} is now {short!r}" for field, short in self.shortened.items())
            said.append(f"folders and names of this machine are not shared: {listed}")
        if self.kept:
            listed = ", ".join(f"{field} ({found!r})" for field, found in self.kept.items())
            said.append(
                f"what looks like a path or a token stands in your own words, which are shared as they are: {listed}"
            )
        return tuple(said)

    def tell(self) -> tuple[str, ...]:
        """The same, said as a warning too."""
        if self.sentences:
            warnings.warn("; ".join(self.sentences), MachineNotice, stacklevel=4)
        return self.sentences

    def _string(self, field: str, last: str, value: str) -> str:
        if last in _MODELS:
            return self.model(field, value)
        named = _PATHS.search(last) and _PARTS.search(value.strip("/\\")) and not re.search(r"\s|://", value)
        if named and not value.startswith(FOLDERS):
            return self._noted(field, value, _last_part(value))
        return self.text(field, value)

    def _noted(self, field: str, before: str, after: str) -> str:
        if after != before:
            self.shortened.setdefault(field, after if len(after) <= 80 else f"{after[:79]}{FOLDERS}")
        return after


# --- parts --------------------------------------------------------------------------------


def _label(name: str) -> str:
    scheme, colon, rest = name.partition(":")
    if not colon or len(scheme) == 1:  # a disk of Windows
        scheme, colon, rest = "", "", name
    for head in filter(None, (pattern.match(rest) for pattern in _HEADS)):
        tail = rest[head.end() :]
        if _is_place(scheme, tail):
            return f"{scheme}{colon}{head[0]}{_last_part(tail)}"
    return without_machine(name)


def _is_place(scheme: str, name: str) -> bool:
    """Whether the name of a model is a path that tells more than its last part."""
    if _WHOLE.fullmatch(name):
        return True
    if not _PARTS.search(name) or name.startswith(FOLDERS):
        return False
    return (scheme in _OF_THE_HUB and len(_PARTS.split(name)) > 2) or _exists(name)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a zero byte
        return False


def _shortened(path: str) -> str:
    """A path in a text, with the punctuation behind it."""
    bare = path.rstrip(_END)
    scheme = re.match(r"[a-z_-]{2,}:(?!/{2})", bare)
    if scheme and not bare.startswith("file:"):
        return model_label(bare) + path[len(bare) :]
    return _last_part(bare) + path[len(bare) :]


def _last_part(path: str) -> str:
    """ "…/x" for a path to x; "…" where that is a person's, a machine's or a disk's name."""
    whole = path.removeprefix("file:")
    parts = [part for part in _PARTS.split(whole) if part and part not in (".", "..")]
    if not parts:
        return FOLDERS
    network = whole.startswith("\\\\") and len(parts) <= 2
    home = len(parts) >= 2 and parts[-2].lower() in _HOMES and len(parts) <= 3
    private = home or network or parts[-1] in _own_names() or parts[-1].startswith("~") or parts[-1].endswith(":")
    return FOLDERS if private else f"{FOLDERS}/{_TOKEN.sub('hf_…', parts[-1])}"


def _told(words: str) -> str:
    """The first path or token in words, shortened; "" without any."""
    found = _INSIDE.search(words) or _QUOTED.search(words)
    if found:
        return _shortened(found[0])
    return "hf_…" if _TOKEN.search(words) else ""


@functools.cache
def _own_names() -> frozenset[str]:
    """What this machine and the home folder of its user are called."""
    names = {socket.gethostname()}
    with contextlib.suppress(RuntimeError, OSError, KeyError, ImportError):  # a user without a name, as in a container
        names |= {Path.home().name, getpass.getuser()}
    return frozenset(names - {"", "root"})


@functools.cache
def _host() -> re.Pattern[str] | None:
    """The name of this machine as a word, where it tells it from others."""
    name = socket.gethostname()
    if len(name) < 4 or name.lower() in _USUAL_HOSTS:
        return None
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
