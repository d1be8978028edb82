"""The drawings of the emoji world as other artists made them, for the harder world (harder_world.py).

    npm install --prefix FOLDER @twemoji/svg@15 openmoji@17 fluentui-emoji@1.3
    python -m venv FOLDER/env && FOLDER/env/bin/pip install resvg-py pillow numpy
    FOLDER/env/bin/python benchmarks/emoji_drawings.py FOLDER
    export HARDPROMPTS_EMOJI_DRAWINGS=FOLDER

Reads the vector drawings (Twemoji, CC-BY 4.0; OpenMoji, CC BY-SA 4.0; Fluent Emoji, MIT) and writes
FOLDER/ARTIST.npz, which the harder world reads without resvg. The drawings stay in that folder: nothing of them is in
this repository. An artist that has not drawn a thing has no picture of it there. Needs resvg-py, Pillow and numpy, and
nothing of hardprompts.
"""

import argparse
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

OBJECTS = Path(__file__).parent.parent / "plugins" / "hardprompts_emoji" / "objects.json"

#: Side of a stored drawing in pixels; its longer side fills it, as in the emoji world.
SIDE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where npm put node_modules")
    folder = parser.parse_args().folder
    things = json.loads(OBJECTS.read_text(encoding="utf-8"))
    for artist, find in finders(folder / "node_modules").items():
        drawn = {}
        for thing in things:
            if (path := find(tuple(int(point[2:], 16) for point in thing["codepoints"]))) is not None:
                drawn[thing["name"]] = np.asarray(drawing(path))
        names = np.array(sorted(drawn))
        np.savez_compressed(folder / f"{artist}.npz", names=names, drawings=np.stack([drawn[name] for name in names]))
        print(f"{artist}: {len(drawn)} of {len(things)} things -> {folder / f'{artist}.npz'}")


def finders(modules: Path) -> Mapping[str, Callable[[tuple[int, ...]], Path | None]]:
    """For each artist: from code points to the file of the drawing, or None where there is none."""
    listed = json.loads((modules / "openmoji" / "data" / "openmoji.json").read_text(encoding="utf-8"))
    called = {bare(tuple(int(part, 16) for part in one["hexcode"].split("-"))): one["annotation"] for one in listed}

    def twemoji(points: tuple[int, ...]) -> Path | None:
        return present(modules / "@twemoji" / "svg", points, "x")

    def openmoji(points: tuple[int, ...]) -> Path | None:
        return present(modules / "openmoji" / "color" / "svg", points, "X")

    def fluent(points: tuple[int, ...]) -> Path | None:
        slug = called.get(bare(points), "").lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "").replace(" ", "-")
        folder = modules / "fluentui-emoji" / "icons" / "modern"
        paths = (folder / f"{slug}{end}.svg" for end in ("", "-default"))
        return next((path for path in paths if path.exists()), None)

    return {"twemoji": twemoji, "openmoji": openmoji, "fluent": fluent}


def bare(points: tuple[int, ...]) -> tuple[int, ...]:
    """Code points without the one that asks for a picture in place of a letter."""
    return tuple(point for point in points if point != 0xFE0F)


def present(folder: Path, points: tuple[int, ...], style: str) -> Path | None:
    """The file named by code points, with or without U+FE0F."""
    for some in (points, bare(points), (*points, 0xFE0F)):
        path = folder / ("-".join(format(point, f"0{4 if style == 'X' else 0}{style}") for point in some) + ".svg")
        if path.exists():
            return path
    return None


def drawing(path: Path) -> Image.Image:
    """A vector drawing as an RGBA square of `SIDE` pixels whose longer side is filled."""
    import resvg_py

    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * SIDE)))).convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    if box is None:
        raise ValueError(f"{path} shows nothing")
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture.crop(box), ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2))
    # Premultiplied, so that the color of transparent pixels does not bleed into the edges.
    return square.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")


if __name__ == "__main__":
    main()
