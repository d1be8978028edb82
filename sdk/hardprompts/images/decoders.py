"""Kinds of images: which Pillow opens here, with its plugins where they are installed, and what to do about others."""

import functools
import importlib
import importlib.util
import sys
import warnings

from PIL import Image, features

_SAVE = "save it as PNG or JPEG"

#: What files of images end in that Pillow opens, alone or with a plugin; see `unreadable`.
IMAGE_SUFFIXES = frozenset(
    ".apng .avif .avifs .bmp .dds .dib .gif .heic .heics .heif .heifs .hif .ico .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg "
    ".jpx .jxl .mpo .pbm .pcx .pgm .png .pnm .ppm .psd .qoi .tga .tif .tiff .webp".split()
)

_OTHERS = {
    "a vector drawing": ".ai .cdr .emf .eps .svg .svgz .wmf",
    "a camera's raw picture": (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 "
        ".srf .srw .x3f"
    ),
    "another program's picture": ".afphoto .clip .exr .hdr .kra .ora .procreate .psb .pxd .sai .xcf",
}
#: What other images end in that people have, and what these are.
OTHER_IMAGES = {suffix: what for what, suffixes in _OTHERS.items() for suffix in suffixes.split()}

#: Plugins of Pillow by what they open: the package, its module, and our extra with it.
_PLUGINS = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), ("pillow-heif", "pillow_heif", "heif")),
    **dict.fromkeys((".avif", ".avifs"), ("pillow-avif-plugin", "pillow_avif", "avif")),
    ".jxl": ("pillow-jxl-plugin", "pillow_jxl", "jxl"),
}

#: What files begin with: a suffix of their kind, or words for what is not an image.
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF87a", ".gif"), (b"GIF89a", ".gif"),
    (b"BM", ".bmp"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"\0\0\0\x0cjP  ", ".jp2"), (b"qoif", ".qoi"),
    (b"8BPS\0\x01", ".psd"), (b"8BPS\0\x02", ".psb"), (b"\xff\x0a", ".jxl"), (b"\0\0\0\x0cJXL ", ".jxl"),
    (b"v/1\x01", ".exr"), (b"#?RADIANCE", ".hdr"), (b"gimp xcf", ".xcf"), (b"%PDF-", "a PDF document"),
    (b"\x1a\x45\xdf\xa3", "a video"), (b"PK\x03\x04", "a ZIP archive"),
)  # fmt: skip

#: What is behind "ftyp" in files that are made of boxes; others with it are videos.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), ".avif"), b"crx ": ".cr3",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ".heic"),
}  # fmt: skip


@functools.cache
def register_decoders() -> None:
    """Lets Pillow open HEIC, AVIF (which newer versions open themselves) and JPEG XL, if its plugins are installed."""
    for suffix in (".heic", ".avif", ".jxl"):
        _, module, _ = _PLUGINS[suffix]
        if _opens(suffix) or importlib.util.find_spec(module) is None:
            continue
        try:
            plugin = importlib.import_module(module)
        except ImportError as error:
            warnings.warn(f"{module} is installed and cannot be imported: {error}", RuntimeWarning, stacklevel=2)
            continue
        if module == "pillow_heif":  # the others register what they open when they are imported
            plugin.register_heif_opener()


def _opens(suffix: str) -> bool:
    kind = Image.registered_extensions().get(suffix)
    if kind == "AVIF":  # Pillow knows of it where it was built without it, too
        return "avif" in features.get_supported() or _PLUGINS[".avif"][1] in sys.modules
    return kind in Image.OPEN or kind == "MPO"  # which the decoder of JPEG opens


def unreadable(suffix: str) -> str:
    """Why images with this suffix cannot be opened here, and what to do; "" if Pillow opens them.

    For example 'Pillow cannot open .heic without pillow-heif: pip install "hardprompts[heif]", or save it as PNG or
    JPEG'.
    """
    ending = suffix.lower()
    if ending in OTHER_IMAGES:
        return f"it is {OTHER_IMAGES[ending]} ({ending}), which Pillow cannot open; {_SAVE}"
    register_decoders()
    if _opens(ending):
        return ""
    if ending not in _PLUGINS:
        return f"Pillow cannot open {ending}; {_SAVE}"
    package, _, extra = _PLUGINS[ending]
    return f'Pillow cannot open {ending} without {package}: pip install "hardprompts[{extra}]", or {_SAVE}'


def kind_of(head: bytes) -> str:
    """What a file is that begins with `head`: a suffix of its kind, such as ".heic"; "a video", say, if it is not an
    image; or "" if that is not known.
    """
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video")
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"AVI ": "a video"}.get(head[8:12], "")
    known = next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), "")
    return known or (".svg" if b"<svg" in head.lower() else "")
