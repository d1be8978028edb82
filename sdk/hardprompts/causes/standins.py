"""What lies in a file's place when it is not the file that was meant: pointers, web pages, halves of downloads.

Everything that reads files asks here before it calls a file damaged, so that one list knows them all.
"""

import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardprompts.errors import FileFormatError, brief

#: Bytes that tell what a file is.
HEAD_BYTES = 1024

#: Bytes of a safetensors header that is read to find out how long the file should be.
_MAX_HEADER = 2**27

_MARK = b"\xef\xbb\xbf"
_POINTER = b"version https://git-lfs.github.com/spec/v1"
_PROLOGUE = rb"(<\?xml[^>]*>|<!--(?:(?!-->).)*-->|\s)*"
_PAGE = re.compile(_PROLOGUE + rb"<(!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,80}?)\s*</title", re.IGNORECASE)
_STORE_ERROR = re.compile(_PROLOGUE + rb"<Error>.*?<Code>\s*(?P<code>\w+)", re.DOTALL)

#: The only fields of what servers answer instead of a file.
_ERROR_FIELDS = frozenset(
    "error errors message msg detail details description reason status statuscode status_code code success ok path "
    "timestamp request_id requestid documentation_url title type name".split()
)

#: What servers answer in plain text, without more.
_ANSWER = re.compile(
    r"(entry|repository|revision) not found\.?|invalid (username or password|credentials).*|access (to .* is restricted"
    r"|denied).*|you (must|need to) (be (logged in|authenticated)|log in|agree).*|unauthorized.*token.*"
    r"|[45]\d\d[:,]? (not found|forbidden|unauthorized|bad gateway|gateway time-?out|too many requests"
    r"|service unavailable|internal server error).*|too many requests.*|.*\brate limit (exceeded|reached).*",
    re.IGNORECASE | re.DOTALL,
)
_ADDRESS = re.compile(r"https?://\S+")
_SHORTCUT = re.compile(r"\[InternetShortcut\].*?URL=(\S+)", re.DOTALL)
_PATH = re.compile(r"(\.{1,2}[\\/]|[\\/]|[A-Za-z]:[\\/])[^\n*?\"<>|]*(\.\w{1,12}|[0-9a-f]{32,})")
_LINKS = (b"XSym\n", b"!<symlink>", b"L\0\0\0\1\x14\2\0")

#: What the names of halves of downloads end in.
_UNFINISHED = (".aria2", ".part", ".partial", ".crdownload", ".download", ".opdownload", ".incomplete", ".!ut", ".!qb")

_ARCHIVES = (
    (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf'\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\xfd7zXZ\0", "an xz archive"), (b"BZh", "a bzip2 archive"), (b"(\xb5/\xfd", "a zstd archive"),
)  # fmt: skip

#: What people put into zip archives; torch.save and numpy write such archives themselves, with other names in them.
_PACKED = (
    ".safetensors .pt .pth .bin .ckpt .png .jpg .jpeg .webp .json .jsonl .csv .tsv .txt .md .pdf .html /"
).split()

#: How files of one kind begin.
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"), (b"MM\0*", "a TIFF image"), (b"8BPS", "a file of Photoshop"), (b"BM", "a BMP image"),
    (b"GGUF", "a GGUF model, which llama.cpp runs"), (b"\x93NUMPY", "an array of numpy"), (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a parquet table"), (b"ARROW1", "an arrow table"), (b"SQLite format 3", "a database"),
    (b"%PDF", "a PDF document"), (b"bplist00", "a property list of macOS"), (b"MZ", "a program for Windows"),
    (b"\x7fELF", "a program for Linux"), (b"\x1aE\xdf\xa3", "a video"),
    (b"\x80\x02\x8a\nl\xfc\x9cF", "a file of torch.save"), (b"\x80\2", "a pickle"), (b"\x80\3", "a pickle"),
    (b"\x80\4", "a pickle"), (b"\x80\5", "a pickle"),
)  # fmt: skip

#: What is read of a model's folder; a web page among the documents is no mistake.
_CONFIGURATIONS = (".safetensors", ".json", ".model", ".txt")
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt")

#: Weights that are read only by those who ask for this variant.
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|fp8|ema|non_ema)$|\.(fp16|bf16|fp32|fp8|ema|non_ema)-\d+-of-\d+$")


def stand_in(head: bytes, archives: bool = True) -> str:
    """What a file is that begins with `head`, and what to do, if it only stands for the file that was meant; else "".

    For example "it is a pointer of Git LFS, and not the file itself; ...".

    Args:
        head: the first `HEAD_BYTES` of it, or all.
        archives: whether an archive stands for what is in it.
    """
    if not head:
        return "it is empty; get it again"
    beginning = head.removeprefix(_MARK)
    if beginning.startswith(_POINTER):
        return (
            "it is a pointer of Git LFS, and not the file itself; run `git lfs pull` in its repository, or download "
            "the file itself"
        )
    if len(head) >= 64 and not head.strip(b"\0"):
        return "it begins with nothing but zero bytes, as a download that was not finished; get it again"
    if beginning.startswith(b"\0\5\x16\7"):
        return 'it is what macOS keeps beside a file, and not the file itself; take the one without "._" in its name'
    return _answered(beginning) or _linked(beginning) or (_packed(head) if archives else "")


def stand_in_at(path: str | os.PathLike[str], archives: bool = True) -> str:
    """The same of the file at `path`, whose name, end and neighbors are looked at too; "" where it cannot be read.

    Where there is no file: "" too, unless half of a download, say, is there.
    """
    place = Path(path)
    try:
        if found := _unfinished(place):
            return found
        if not place.is_file():
            return _absent(place)
        with open(place, "rb") as file:
            head = file.read(HEAD_BYTES)
        return stand_in(head, archives) or _cut_short(place, head)
    except (OSError, ValueError):
        return ""


def stand_in_inside(folder: str | os.PathLike[str], configurations_only: bool = False) -> str:
    """The same of the first of a model's files in a folder, after its path; "" if there is none.

    Parts of a model that lie in folders of their own are looked at too, and whether JSON is whole. Where whole weights
    in safetensors lie, other weights are not looked at, since nobody reads them.

    Args:
        configurations_only: look at the beginnings of JSON files alone, which takes no time.
    """
    files = _read_of(Path(folder))
    if configurations_only:
        files = (file for file in files if file.suffix == ".json")
    wrong = stand_in_at if configurations_only else _wrong_in_model
    return next((f"{file}: {found}" for file in files if (found := wrong(file))), "")


def kind_of(head: bytes) -> str:
    """What a file is that begins with `head`, for a message: "a PNG image", say; "" if it is not known."""
    text = head.removeprefix(_MARK).lstrip()
    tests = (
        (head[4:8] == b"ftyp", "an image of the HEIF family" if head[8:12] in _HEIF else "a video"),
        (head[:4] == b"RIFF", {b"WEBP": "a WebP image", b"AVI ": "a video"}.get(head[8:12], "a sound")),
        (head[8:9] == b"{" and head[4:8] == bytes(4), "a safetensors file"),
        (_first_member(head).endswith("data.pkl"), "a file of torch.save"),
        (head.startswith(b"PK\3\4"), "a zip archive"),
        (text.startswith(b"{") and b'"weight_map"' in text, "the index of weights, which are in other files"),
        (text.startswith(b"{"), "a JSON file"),
        (_ONNX.match(head) is not None, "a model of ONNX"),
    )
    return next((kind for fits, kind in (*tests, *((head.startswith(m), k) for m, k in _KINDS)) if fits), "")


def other_kind_of(head: bytes) -> str:
    """The same of files that are not images; "" of images, and of what is not known."""
    kind = kind_of(head)
    return "" if "image" in kind or kind == "a file of Photoshop" else kind


_HEIF = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc")
_ONNX = re.compile(rb"\x08[\x03-\x10]\x12.(pytorch|onnx|keras|tf2onnx|skl2onnx)", re.DOTALL)


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises:
        FileFormatError: something else lies in its place, or it is damaged.
        OSError: there is no such file, or it cannot be read.
    """
    shown = repr(os.fspath(path))
    try:
        content = Path(path).read_bytes()
    except ValueError as error:
        raise FileFormatError(f"{shown} cannot be the path of a file: {error}") from error
    head = content[:HEAD_BYTES]
    if found := stand_in(head):
        raise FileFormatError(f"{shown}: {found}")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise FileFormatError(f"{shown} is JSON that is nested too deeply to be read") from error
    except ValueError as error:
        if found := stand_in_at(path):
            raise FileFormatError(f"{shown}: {found}") from error
        kind = kind_of(head)
        other = f"it is {kind}" if kind not in ("", "a JSON file") else f"{brief(error)}: it is damaged or cut off"
        raise FileFormatError(f"{shown} is not JSON: {other}; get it again") from error


# --- by what is in the file ---------------------------------------------------------------


def _answered(beginning: bytes) -> str:
    """What servers and browsers leave."""
    if found := _STORE_ERROR.match(beginning):
        return _said(found["code"].decode())
    if _PAGE.match(beginning):
        title = _TITLE.search(beginning)
        called = f' ("{" ".join(_text(title[1]).split())}")' if title else ""
        return (
            f"it is a web page{called}, and not the file itself; download the file itself (on the Hub by its download "
            'button or `hf download`, on GitHub by "Raw"), and log in where that is needed'
        )
    if beginning.lstrip().startswith(b"{"):
        return _said(found_in) if (found_in := _error_in(beginning)) else ""
    line = _line(beginning)
    return _said(line) if _ANSWER.fullmatch(line) else ""


def _error_in(beginning: bytes) -> str:
    """The message of a JSON object that says nothing but that there was an error; else ""."""
    if len(beginning) >= HEAD_BYTES:
        return ""
    try:
        values = json.loads(beginning)
    except (ValueError, RecursionError):
        return ""
    fields = {key.lower(): value for key, value in values.items()} if isinstance(values, dict) else {}
    if not fields.keys() & {"error", "errors", "message", "detail"} or not fields.keys() <= _ERROR_FIELDS:
        return ""
    said = [fields[key] for key in ("message", "error", "errors", "detail") if fields.get(key) not in (None, "", True)]
    return str(said[0]) if said else "error"


_REFUSALS = ("denied", "unauthor", "forbidden", "restricted", "credential", "password", "login", "logged", "agree")


def _said(message: str) -> str:
    """What a server's answer in place of a file means."""
    shown = " ".join(message.split())
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    lowered = message.lower().replace(" ", "")
    if any(word in lowered for word in ("ratelimit", "toomany", "slowdown")):
        step = "wait some minutes, and download it again"
    elif any(word in lowered for word in _REFUSALS):
        step = "log in (`hf auth login` for the Hub) or ask for access, and download it again"
    elif any(word in lowered for word in ("notfound", "nosuch", "notexist")):
        step = "check its address, log in if it is private, and download it again"
    elif "expired" in lowered:
        step = "get a new link, and download it again"
    else:
        step = "download it again"
    return f'it is what a server answered in place of the file ("{shown}"); {step}'


def _linked(beginning: bytes) -> str:
    """Texts that say where a file is."""
    line = _line(beginning)
    address = _SHORTCUT.match(_text(beginning)) or _ADDRESS.fullmatch(line)
    if address:
        url = address[1] if address.re is _SHORTCUT else line
        return f"it is a text with an address ({url[:80]}), and not the file itself; download what is there"
    if _PATH.fullmatch(line) or beginning.startswith(_LINKS):
        where = f" ({line})" if _PATH.fullmatch(line) else ""
        return (
            f"it is a link to another file{where}, written as a text by a system without links; copy the file itself "
            "there, or get it again with `hf download --local-dir`"
        )
    return ""


def _packed(head: bytes) -> str:
    """Archives around the file."""
    kind = next((kind for mark, kind in _ARCHIVES if head.startswith(mark)), "")
    if not kind and head[257:262] == b"ustar":
        kind = f"a tar archive (first in it: {_text(head[:100].rstrip(bytes(1)))})"
    first = _first_member(head)
    if not kind and first.lower().endswith(tuple(_PACKED)):
        kind = f"a zip archive (first in it: {first})"
    return f"it is {kind}, and not the file itself; unpack it, and pass what is in it" if kind else ""


def _first_member(head: bytes) -> str:
    """The name of the first file in a zip archive; "" of others."""
    if not head.startswith(b"PK\3\4") or len(head) < 30:
        return ""
    return _text(head[30 : 30 + struct.unpack_from("<H", head, 26)[0]])


def _line(beginning: bytes) -> str:
    """All of a short text of one line; "" of others."""
    text = _text(beginning).strip()
    return text if len(beginning) < HEAD_BYTES and "\n" not in text and text.isprintable() else ""


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


# --- by its name, its end and its neighbors -----------------------------------------------


def _unfinished(place: Path) -> str:
    if place.name.lower().endswith(_UNFINISHED):
        return "its name says that it is the half of a download; wait for the end of it, or get it again"
    control = place.with_name(f"{place.name}.aria2")
    if control.exists():
        return f"its download is not finished, as {control.name} beside it says; resume it, or get it again"
    return ""


def _absent(place: Path) -> str:
    """Why a file is not there, if something tells."""
    if place.is_symlink() and not place.exists():
        return f"it is a link to {os.readlink(place)}, which does not exist; get the file again"
    if place.with_name(f".{place.name}.icloud").exists():
        return "it is in iCloud, and not on this disk; download it (in Finder: Download Now)"
    halves = (place.with_name(place.name + ending) for ending in _UNFINISHED)
    half = next((half.name for half in halves if half.exists()), "")
    return f"its download is not finished: there is only {half}; resume it, or get it again" if half else ""


def _cut_short(place: Path, head: bytes) -> str:
    size = place.stat().st_size
    if place.suffix.lower() == ".safetensors" and len(head) >= 9 and head[8:9] == b"{":
        whole = _length_of_safetensors(place, size)
        if whole > size:
            return f"it is cut short: {size} of its {whole} bytes are there; get it again"
    if head.startswith(b"PK\3\4"):
        with open(place, "rb") as file:
            file.seek(max(0, size - 2**16 - 22))
            if b"PK\5\6" not in file.read():
                return f"it is cut short: the end of it is missing behind {size} bytes; get it again"
    return ""


def _length_of_safetensors(place: Path, size: int) -> int:
    """The bytes that the header of a safetensors file says it has; 0 if that cannot be read."""
    with open(place, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            return 0
        if length + 8 > size:
            return int(length) + 8
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + int(length) + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return 0


# --- the folder of a model ----------------------------------------------------------------


def _read_of(place: Path) -> Iterator[Path]:
    """The files of a model's folder that are read, and those of its parts."""
    files = sorted(file for file in place.iterdir() if file.is_file() or file.is_symlink()) if place.is_dir() else []
    weights = [file for file in files if file.suffix == ".safetensors" and not _VARIANT.search(file.stem)]
    whole = any(not stand_in_at(file) for file in weights)
    read = _CONFIGURATIONS if whole else (*_CONFIGURATIONS, *_OTHER_WEIGHTS)
    for file in files:
        if file.suffix.lower() in read and not _VARIANT.search(file.stem) and not file.name.startswith("."):
            yield file
    if (place / "model_index.json").is_file() or (place / "modules.json").is_file():
        for part in sorted(part for part in place.iterdir() if part.is_dir() and not part.name.startswith(".")):
            yield from _read_of(part)


def _wrong_in_model(file: Path) -> str:
    found = stand_in_at(file)
    if found or file.suffix != ".json":
        # Text files of a model may be empty: it is no mistake that there are no merges, say.
        return "" if file.suffix == ".txt" and found.startswith("it is empty") else found
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"it is not whole JSON, but damaged or cut off ({error}); get it again"
    except OSError:
        return ""
    parts = values.get("weight_map") if isinstance(values, dict) else None
    names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
    missing = [name for name in names if not (file.parent / name).exists()]
    return f"it names {missing[0]}, which is not in the folder; get the folder again, whole" if missing else ""
