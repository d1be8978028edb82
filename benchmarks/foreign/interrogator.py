"""CLIP Interrogator by its package (PyPI: clip-interrogator), without its captioner.

Its banks are ranked and its `chain` runs as in `interrogate`, from an empty prompt, since the weights of the captioners
that it begins with (BLIP) are not on PyPI. It is not held to the length of a prompt: its phrases come whole, and it may
name eight of them. Needs clip-interrogator and what it imports.
"""

import types
from importlib.metadata import version

import clip_interrogator
import clip_interrogator.clip_interrogator as code
import torch
from protocol import Tower, arguments, write
from torch import Tensor


class ClipOf(torch.nn.Module):
    """The tower by the names of open_clip's models; texts are padded ids."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def encode_text(self, ids: Tensor) -> Tensor:
        lengths = (ids != 0).sum(dim=1).tolist()
        return self.tower.of_ids(
            [[one - 1 for one in row[:length]] for row, length in zip(ids.tolist(), lengths, strict=True)]
        )


def main() -> None:
    given, task = arguments(__doc__, cache="", phrases=8)
    places = task.tower.context - 2

    def tokenize(texts: list[str]) -> Tensor:
        # Zero is padding, to which the package looks for whether there is room; so ids are one more here.
        rows = [[one + 1 for one in task.tower.ids(str(text))[:places]] for text in texts]
        return torch.tensor([row + [0] * (places - len(row)) for row in rows])

    code.open_clip.get_tokenizer = lambda name: tokenize
    # It looks for a graphics card's number format, which a processor has not.
    torch.cuda.amp.autocast = lambda *_, **__: torch.autocast("cpu", enabled=False)
    settings = clip_interrogator.Config(
        caption_model_name=None, clip_model_name=f"tower-{len(task.tower.table)}/own", cache_path=given.cache or None,
        download_cache=False, quiet=True, device="cpu",
    )  # fmt: skip
    settings.clip_model, settings.clip_preprocess = ClipOf(task.tower), types.SimpleNamespace()
    interrogator = clip_interrogator.Interrogator(settings)
    tables = ("artists", "flavors", "mediums", "movements", "trendings")
    merged = code._merge_tables([getattr(interrogator, name) for name in tables], interrogator)
    # Each phrase that is added is chosen among all that were ranked first.
    ranked = max(1, task.passes // given.phrases - 2)

    def prompt(target: Tensor) -> str:
        flavors = merged.rank(target, ranked)
        # A set's order depends on the process; their chain makes one of the phrases, and takes the first of equals.
        return str(interrogator.chain(target, flavors, min_count=1, max_count=given.phrases - 1))

    differences = [
        "no captioner: it begins with the nearest phrase of its banks",
        f"{given.phrases} phrases at most, each of the nearest {ranked}, in place of 32 of 2,048",
        f"another model than CLIP ViT-L-14; its {len(merged.labels):,} phrases were encoded once before, which is not "
        "counted",
    ]
    program = f"clip-interrogator {version('clip-interrogator')}"
    write(given.row, task.row("CLIP Interrogator", program, differences, prompt))


if __name__ == "__main__":
    main()
