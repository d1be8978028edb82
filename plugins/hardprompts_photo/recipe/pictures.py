"""Openly licensed pictures with words: where they come from, and one list of them all.

Debian's packages and npm's are downloaded once; what is there already is not asked for again.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

#: Debian packages, unpacked into one tree. The stamps are for evaluation alone.
DEBIAN = (
    "openclipart-svg", "fonts-noto-color-emoji", "unicode-cldr-core", "wordnet-base", "tuxpaint-stamps-default",
)  # fmt: skip
#: npm packages, each with the folders of drawings in it.
NPM = {
    "@twemoji/svg@15.0.0": {"twemoji": "."},
    "fluentui-emoji@1.3.0": {"fluent-flat": "icons/flat", "fluent-modern": "icons/modern"},
}
#: Of the clip arts: folders whose drawings stand for a thing.
CLIP_ART_FOLDERS = (
    "animals", "buildings", "containers", "decorations", "education", "electronics", "food", "office", "people",
    "plants", "recreation", "science", "tools", "transportation", "unsorted", "computer",
)  # fmt: skip
CLIP_ART_LEFT_OUT = re.compile(r"/(icons|cards|flags|dominoes|astrology|textures|body_?part)/")
#: Of the stamps: letters, digits, coins and shapes are no things.
STAMPS_LEFT_OUT = ("symbols",)
#: Code points that vary a drawing without changing what it is: variation selector, skin tones.
VARIANTS = re.compile(r"fe0f|1f3f[b-f]")
#: Regional letters, keycaps and tags: flags and digits.
NO_THINGS = re.compile(r"^(1f1[0-9a-f]{2}|e00|00[23]|[23][0-9a]$|a9$|ae$)|20e3|e0067")
#: Words of clip arts' keywords that say nothing of the thing.
EMPTY_KEYWORDS = frozenset(
    "clip art clipart clip_art image media public domain svg png unsorted icon icons vector remix "
    "openclipart externalsource contour outline".split()
)
RENDERED_SIZE = 288
DRAWINGS = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture with its words.

    Attributes:
        source: "openclipart", "noto", "twemoji", "fluent-flat", "fluent-modern" or "stamps".
        file: a PNG with transparency.
        words: what it shows: a title or name first, then further words.
    """

    source: str
    file: Path
    words: tuple[str, ...]

    @property
    def held_out(self) -> bool:
        """Whether it is in the fixed half that nothing is learned from and nothing is chosen by."""
        return zlib.crc32(self.file.stem.encode()) % 2 == 0


def download(build: Path) -> Path:
    """The folder with all packages unpacked; downloads what is not there.

    Raises:
        CalledProcessError: apt-get, dpkg-deb or npm failed; what was downloaded before is kept.
    """
    packages, tree = build / "packages", build / "tree"
    packages.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        _once(tree / f".{name}", partial(_unpack_debian, name, packages, tree))
    for name in NPM:
        folder = _npm_folder(name, tree)
        _once(folder / ".unpacked", partial(_unpack_npm, name, packages, folder))
    return tree


def _npm_folder(name: str, tree: Path) -> Path:
    return tree / "npm" / name.rpartition("@")[0].replace("/", "-")


def _once(mark: Path, make: Callable[[], None]) -> None:
    if not mark.exists():
        make()
        mark.touch()


def _unpack_debian(name: str, packages: Path, tree: Path) -> None:
    if not list(packages.glob(f"{name}_*.deb")):
        subprocess.run(["apt-get", "download", name], cwd=packages, check=True)
    for archive in packages.glob(f"{name}_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(tree)], check=True)


def _unpack_npm(name: str, packages: Path, folder: Path) -> None:
    packed = subprocess.run(
        ["npm", "pack", "--silent", name], cwd=packages, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["tar", "xzf", str((packages / packed).resolve()), "--strip-components=1", "-C", str(folder)], check=True
    )


# --- the lists ----------------------------------------------------------------------------


def stamps(tree: Path) -> list[Picture]:
    """The stamps of things, each with its sentence; some share one."""
    folder = tree / "usr/share/tuxpaint/stamps"
    found = []
    for file in sorted(folder.rglob("*.png")):
        text = file.with_suffix(".txt")
        if not text.exists() or file.relative_to(folder).parts[0] in STAMPS_LEFT_OUT:
            continue
        sentence = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        if sentence:
            found.append(Picture("stamps", file, (sentence,)))
    return found


def clip_arts(tree: Path, build: Path) -> list[Picture]:
    """The clip arts of things that have a title, with their keywords, drawn as PNGs into `build`."""
    drawings = tree / "usr/share/openclipart/svg"
    found = []
    for folder in CLIP_ART_FOLDERS:
        for file in sorted((drawings / folder).rglob("*.svg")):
            place = file.relative_to(drawings).parent
            words = () if CLIP_ART_LEFT_OUT.search(f"/{place}/") else _metadata(file)
            drawn = _drawn(file, build / "drawn" / "openclipart" / place) if words else None
            if drawn is not None:
                found.append(Picture("openclipart", drawn, words))
    return found


def _metadata(file: Path) -> tuple[str, ...]:
    """Title and keywords of a drawing, in lower case; () where there is no title."""
    try:
        work = ElementTree.parse(file).getroot().find(".//{*}Work")
    except ElementTree.ParseError:
        return ()
    if work is None:
        return ()
    title = _words(work.findtext(f"{DRAWINGS}title") or "")
    keywords = [_words(item.text or "") for item in work.iter(f"{RDF}li")]
    kept = dict.fromkeys(word for word in keywords if word and not set(word.split()) <= EMPTY_KEYWORDS)
    return (title, *kept) if title else ()


def _words(text: str) -> str:
    # "Yellow_Duck 02" -> "yellow duck"
    return " ".join(re.findall(r"[^\W\d_]{2,}", text.lower()))


def emoji_words(tree: Path) -> dict[str, tuple[str, ...]]:
    """CLDR's English name and keywords, by the code points as file names have them ("1f469-200d-1f680")."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in ("annotations", "annotationsDerived"):
        root = ElementTree.parse(tree / f"usr/share/unicode/cldr/common/{folder}/en.xml").getroot()
        for one in root.iter("annotation"):
            words = tuple(word.strip().lower() for word in (one.text or "").split("|"))
            code = _code(one.attrib["cp"])
            if one.attrib.get("type") == "tts":
                found[code] = (*words, *(w for w in found.get(code, ()) if w not in words))
            else:
                found[code] = (*found.get(code, ()), *(w for w in words if w not in found.get(code, ())))
    return found


def _code(characters: str) -> str:
    return "-".join(f"{ord(c):x}" for c in characters if ord(c) != 0xFE0F)


def emoji(tree: Path, build: Path) -> list[Picture]:
    """The emoji of all vendors that show things, drawn as PNGs into `build`."""
    words = emoji_words(tree)
    codes = {re.sub(r"[^a-z0-9]+", "-", own[0]).strip("-"): code for code, own in words.items()}
    found = []
    for name, folders in NPM.items():
        package = _npm_folder(name, tree)
        for vendor, folder in folders.items():
            for file in sorted((package / folder).glob("*.svg")):
                code = codes.get(file.stem, file.stem.replace("-fe0f", ""))  # fluent's files have names
                if code in words and not NO_THINGS.search(code) and not VARIANTS.search(code):
                    drawn = _drawn(file, build / "drawn" / vendor)
                    if drawn is not None:
                        found.append(Picture(vendor, drawn, words[code]))
    return found + list(_noto(tree, build, words))


def _drawn(file: Path, folder: Path) -> Path | None:
    """A drawing as a PNG; None for one that cannot be drawn in ten seconds, which the mark of an empty file records."""
    drawn = folder / f"{file.stem}.png"
    if not drawn.exists():
        folder.mkdir(parents=True, exist_ok=True)
        size = str(RENDERED_SIZE)
        command = ["rsvg-convert", "--keep-aspect-ratio", "-w", size, "-h", size, "-o", str(drawn), str(file)]
        try:
            subprocess.run(command, check=True, timeout=10, stderr=subprocess.DEVNULL)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            drawn.write_bytes(b"")
    return drawn if drawn.stat().st_size else None


def _noto(tree: Path, build: Path, words: dict[str, tuple[str, ...]]) -> Iterator[Picture]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(tree / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), 109)
    folder = build / "drawn" / "noto"
    folder.mkdir(parents=True, exist_ok=True)
    for code, own in words.items():
        if NO_THINGS.search(code) or VARIANTS.search(code) or code < "1f":
            continue
        drawn = folder / f"{code}.png"
        if not drawn.exists():
            canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
            text = "".join(chr(int(part, 16)) for part in code.split("-"))
            ImageDraw.Draw(canvas).text((8, 8), text, font=font, embedded_color=True)
            box = canvas.getbbox()
            if box is None or box[2] - box[0] > 145:  # not in the font, or a sequence drawn as two
                continue
            canvas.crop(box).resize((RENDERED_SIZE, RENDERED_SIZE), Image.Resampling.BICUBIC).save(drawn)
        yield Picture("noto", drawn, own)


def all_pictures(build: Path) -> list[Picture]:
    """Everything to learn from, and the stamps to measure on."""
    tree = download(build)
    return [*stamps(tree), *clip_arts(tree, build), *emoji(tree, build)]
