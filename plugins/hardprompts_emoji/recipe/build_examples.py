"""Draw the committed example pictures, with their truth in ``examples.json``.

Run ``python -m hardprompts_emoji.recipe.build_examples``. The scenes come from held-out seeds.
"""

from __future__ import annotations

import json

from hardprompts_emoji.recipe.build_sprites import PACKAGE
from hardprompts_emoji.scenes import HELD_OUT_SEED, caption, render, sample_scene

PICTURE_SIZE = 256
# (offset to HELD_OUT_SEED, number of objects, style)
EXAMPLES = (
    (9_000_174, 1, "flat"),
    (9_000_991, 1, "pixel art"),
    (9_001_392, 1, "neon"),
    (9_001_390, 1, "watercolor"),
    (9_000_141, 1, "night"),
    (9_000_052, 1, "comic"),
    (9_187_576, 2, "snowy"),
    (9_046_841, 2, "mosaic"),
    (9_050_677, 2, "sketch"),
    (9_002_226, 3, "sepia"),
)


def main() -> None:
    """Write ``examples/*.png`` and ``examples/examples.json`` into the package."""
    folder = PACKAGE / "examples"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    truths = []
    for offset, count, style in EXAMPLES:
        seed = HELD_OUT_SEED + offset
        scene = sample_scene(seed, num_objects=count, style=style)
        words = [*(item.name for item in scene.objects), scene.background, style]
        file = "-".join(words).replace(" ", "_") + ".png"
        render(scene, seed=seed, size=PICTURE_SIZE).save(folder / file, optimize=True)
        objects = [{"name": o.name, "size": o.size, "position": o.position} for o in scene.objects]
        truths.append(
            {
                "file": file,
                "seed": seed,
                "objects": objects,
                "background": scene.background,
                "style": style,
                "caption": caption(scene),
            }
        )
    (folder / "examples.json").write_text(json.dumps(truths, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
