"""Draw the sprite sheet and the object list from Noto Color Emoji and CLDR.

Run ``python -m hardprompts_emoji.recipe.build_sprites``. Needs the Debian packages
``fonts-noto-color-emoji`` and ``unicode-cldr-core``; nothing else of this package does.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGE = Path(__file__).resolve().parents[1]
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
CLDR = Path("/usr/share/unicode/cldr/common")
BITMAP_SIZE = 109  # the only strike of this bitmap font
SPRITE_SIZE = 64
COLUMNS = 32

# Words that say nothing about one drawing, or that belong to backgrounds and styles.
IGNORED_KEYWORDS = frozenset(
    "a an and at for in of off on or the to with without face person object thing symbol sign people "
    "body emoji facing front back left right up down top bottom one two three small medium large big "
    "red orange yellow green teal blue purple pink brown gray grey black white turquoise cyan violet "
    "lavender magenta golden gold emerald crimson scarlet azure silver ivory ebony tan "
    "flat plain pixel pixelated sketch drawing neon glowing glow sepia vintage night blurry blur "
    "watercolor painting painted mosaic comic snow snowy glitch center corner".split()
)


def read_drawings(path: Path) -> list[tuple[str, str]]:
    """Return (character, name) pairs in file order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = (entry.strip() for line in lines if not line.startswith("#") for entry in line.split(";"))
    pairs = [entry.split(" ", 1) for entry in entries if entry]
    return [(character, name) for character, name in pairs]


def read_keywords(cldr: Path) -> dict[str, list[str]]:
    """Return character -> the words of its CLDR short name and keywords, in their order."""
    words: dict[str, list[str]] = {}
    for folder in ("annotations", "annotationsDerived"):
        root = ElementTree.parse(cldr / folder / "en.xml").getroot()
        for annotation in root.iter("annotation"):
            found = words.setdefault(annotation.attrib["cp"], [])
            for word in re.findall(r"[a-z0-9]+", (annotation.text or "").lower()):
                if word not in IGNORED_KEYWORDS and word not in found and len(word) > 1:
                    found.append(word)
    return words


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return the drawing as a square RGBA picture whose longer side is filled."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((8, 8), character, font=font, embedded_color=True)
    box = canvas.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    if box is None:
        raise ValueError(f"the font has no drawing for {character!r}")
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(canvas.crop(box), ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2))
    # Premultiplied, so that the color of transparent pixels does not bleed into the edges.
    return square.convert("RGBa").resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS).convert("RGBA")


def near_duplicates(sprites: np.ndarray, names: list[str], count: int) -> list[tuple[float, str, str]]:
    """Return the closest pairs of (n, 64, 64, 4) drawings by RMS difference over gray, at 16 px."""
    rgba = sprites.astype(np.float32) / 255
    flat = rgba[..., :3] * rgba[..., 3:] + 0.5 * (1 - rgba[..., 3:])
    small = flat.reshape(len(flat), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(flat), -1)
    squares = (small**2).sum(1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * small @ small.T, 0) / small.shape[1])
    rows, columns = np.triu_indices(len(flat), 1)
    order = np.argsort(distance[rows, columns])[:count]
    return [(float(distance[rows[i], columns[i]]), names[rows[i]], names[columns[i]]) for i in order]


def main() -> None:
    """Write ``sprites.webp`` and ``objects.json`` into the package."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=PACKAGE)
    parser.add_argument("--duplicates", type=int, default=0, help="print this many closest pairs")
    arguments = parser.parse_args()
    pairs = read_drawings(Path(__file__).with_name("drawings.txt"))
    keywords = read_keywords(CLDR)
    font = ImageFont.truetype(str(FONT), BITMAP_SIZE)
    drawings = [draw(character, font) for character, _ in pairs]
    rows = -(-len(drawings) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE), (0, 0, 0, 0))
    for index, drawing in enumerate(drawings):
        sheet.paste(drawing, (index % COLUMNS * SPRITE_SIZE, index // COLUMNS * SPRITE_SIZE))
    sheet.save(arguments.output / "sprites.webp", lossless=True, quality=100, method=4)
    objects = [
        {"name": name, "codepoints": [f"U+{ord(c):04X}" for c in character], "keywords": keywords.get(character, [])}
        for character, name in pairs
    ]
    text = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in objects)
    (arguments.output / "objects.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    print(f"{len(objects)} drawings, {(arguments.output / 'sprites.webp').stat().st_size / 2**20:.2f} MiB")
    if arguments.duplicates:
        stacked = np.stack([np.asarray(drawing) for drawing in drawings])
        for distance, first, second in near_duplicates(stacked, [n for _, n in pairs], arguments.duplicates):
            print(f"{distance:.3f} {first} | {second}")


if __name__ == "__main__":
    main()
