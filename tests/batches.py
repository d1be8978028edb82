"""Pictures that tests make prompts of in batches."""

import io

from PIL import Image

from hardprompts.testing import ToyEncoder

TEXTS = ("red house river", "old boat", "black cat snow", "gold stone", "slow dog")


def picture(text: str) -> Image.Image:
    return ToyEncoder().picture(text)


def encoded(text: str) -> bytes:
    stream = io.BytesIO()
    picture(text).save(stream, "PNG")
    return stream.getvalue()
