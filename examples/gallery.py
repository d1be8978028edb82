"""The picture of the README: each example image with the prompt that was found for it.

python examples/gallery.py docs/gallery.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import hardprompts_emoji
from hardprompts import HardPrompt, PromptInverter

CELL, PICTURE, MARGIN = 300, 256, 22
SHADES = ("#bfe9f2", "#fbe7a1")


def draw_prompt(draw: ImageDraw.ImageDraw, left: int, top: int, prompt: HardPrompt) -> None:
    """Writes the prompt's tokens in two shades, in lines no wider than a picture."""
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    x, y = left, top
    for index, token in enumerate(prompt.tokens):
        width = int(draw.textlength(token, font=font)) + 8
        if x > left and x + width > left + PICTURE:
            x, y = left, y + 27
        draw.rounded_rectangle((x, y, x + width, y + 23), 4, fill=SHADES[index % 2])
        draw.text((x + 4, y + 11), token, font=font, fill="#111", anchor="lm")
        x += width + 4
    draw.text((left, y + 30), f"similarity {prompt.score:.2f}", font=small, fill="#777")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("docs/gallery.png"))
    parser.add_argument("--columns", type=int, default=4)
    arguments = parser.parse_args()

    paths = sorted((Path(hardprompts_emoji.__file__).parent / "examples").glob("*.png"))[: 2 * arguments.columns]
    prompts = PromptInverter("emoji").invert_each(paths, seed=0)
    rows = -(-len(paths) // arguments.columns)
    height = PICTURE + 112
    sheet = Image.new("RGB", (arguments.columns * CELL, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (path, prompt) in enumerate(zip(paths, prompts, strict=True)):
        left, top = index % arguments.columns * CELL + MARGIN, index // arguments.columns * height + 12
        sheet.paste(Image.open(path).convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), (left, top))
        draw_prompt(draw, left, top + PICTURE + 10, prompt)
        print(f"{path.name}: {prompt.filled}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
