"""The tasks of an inversion: what models see of the images of each, and what is said of them beforehand."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.errors import ImageError
from hardprompts.inversion.captioning import Captioner, captions_of
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.targets import Target, targets_of
from hardprompts.inversion.views import ViewFeatures, each_alone, pictures_at_once
from hardprompts.search.protocol import Search, StartsAlone

#: One in so many parts of the time that is left may go into looking at the images, and one into their captions.
LOOKING_SHARE = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Tasks:
    """What is known of the images of each task before anything is searched.

    Attributes:
        models: who looked at them, the searched model first.
        seen: the images of each task.
        unlike: images that the prompts should not fit.
        captions: the text that half of the restarts of each task begin with.
    """

    models: Sequence[Backend]
    seen: Sequence[ViewFeatures]
    unlike: ViewFeatures | None
    captions: Sequence[str | None]

    @classmethod
    def of(
        cls,
        images: Sequence[Any],
        models: Sequence[Backend],
        captioner: Captioner | None,
        options: InversionOptions,
        seed: int,
        allowance: Allowance,
        search: Search = StartsAlone(),
        held: Sequence[object] = (),
    ) -> "Tasks":
        """Looks at the images of each task; captions the first of each, unless a text to begin with is given.

        Args:
            search: what will be searched with.
            held: what is on the device all the time.

        Raises:
            ImageError, NonFiniteError: see `ViewFeatures.of`; or there is no image to caption.
        """
        asked = None if options.caption is not None or options.initial_prompt is not None else captioner
        look = functools.partial(
            ViewFeatures.of, models=models, views=options.looks, seed=seed, picture=asked is not None,
            batch_size=pictures_at_once(models, search, options.num_tokens, options.vram, held),
        )  # fmt: skip
        unlike = None if options.unlike is None else look(options.unlike, allowance=allowance.share(LOOKING_SHARE))
        time = allowance.share(LOOKING_SHARE)
        seen = each_alone(images, models) if options.fast and asked is None and options.deadline is None else None
        seen = seen or [look(own, allowance=time.share(len(images) - number)) for number, own in enumerate(images)]
        captions = [options.caption] * len(seen) if asked is None else _captions(asked, seen, allowance)
        return cls(models, seen, unlike, captions)

    def targets(self, options: InversionOptions) -> list[list[Target]]:
        """For each model, what the prompt of each task is to resemble in its eyes."""
        return targets_of(self.models, self.seen, self.unlike, options)

    def left_out(self, task: int) -> list[str]:
        """What there was no time to look at, in words."""
        return [*self.seen[task].left_out, *(() if self.unlike is None else self.unlike.left_out)]


def _captions(captioner: Captioner, seen: Sequence[ViewFeatures], allowance: Allowance) -> list[str | None]:
    """What the captioner says of each task's first image; None where there is no time for it."""
    pictures = [one.picture for one in seen if one.picture is not None]
    if len(pictures) < len(seen):
        raise ImageError("a captioner needs images, and was given features; pass images, or caption='...'")
    captions: list[str | None] = []
    for part in allowance.share(LOOKING_SHARE).batches(pictures, max(1, len(pictures)), passes=0, first=1):
        captions += captions_of(captioner, part)
    allowance.leave_out("captions", len(captions), len(pictures))
    return captions + [None] * (len(pictures) - len(captions))
