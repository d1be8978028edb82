"""The options of `DenoisingInverter`, declared once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from hardprompts.images import ImageInput
from hardprompts.noise import LATE, NoiseWindow
from hardprompts.search.options import SearchArguments, SearchOptions


class DenoisingArguments(SearchArguments, total=False):
    """The fields of `DenoisingOptions` that front doors take as keyword arguments alone."""

    initial_prompts: Sequence[str]
    unlike: ImageInput | Sequence[ImageInput] | None
    unlike_weight: float
    weights: Sequence[float] | None
    window: NoiseWindow
    num_noises: int
    noises_per_step: int | None
    crop: tuple[float, float]
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingOptions(SearchOptions):
    """What `DenoisingInverter` takes beside the images, and beside what every search takes.

    The default of `token_cost` is 0, since the spread costs further passes through the denoiser, and 0.15 with the
    default method, which may make prompts longer: a few words more always denoise a little better.

    Attributes:
        num_tokens: tokens of the prompt, 1 or more; methods with insert and delete moves return as many or fewer.
        template: the text that the prompt is for, with one "{}": "a tiger in the style of {}".
        initial_prompts: texts to start from, one restart each; there are no random starts then.
        unlike: images whose denoising error should be large.
        unlike_weight: of that error, relative to the error on the images.
        weights: the images' weights, one positive number each; default: all equal.
        window: the noise levels, 0 (clean) to 1 (pure noise), on which prompts are judged.
        num_noises: items of the fixed bank: noises at as many noise levels, spread over the window.
        noises_per_step: items drawn for a gradient; None for all.
        crop: the side of random square crops, as a share of the image's shorter side; see `NoiseBank.draw`.
        batch_size: rows (a prompt with a noise) through the denoiser at once. Memory grows with it.

    Raises:
        ValueError: a number out of range, two options that exclude each other, or the weight of what is not given.
    """

    DEFAULT_RESTARTS: ClassVar[int] = 4
    DEFAULT_MAX_STEPS: ClassVar[int] = 200

    COUNTS: ClassVar[tuple[str, ...]] = (
        "num_tokens", "num_noises", "noises_per_step", "batch_size", *SearchOptions.COUNTS
    )  # fmt: skip
    AMOUNTS: ClassVar[tuple[str, ...]] = ("unlike_weight", *SearchOptions.AMOUNTS)
    NEEDS: ClassVar[Mapping[str, str]] = {"unlike_weight": "unlike"}
    PASTED: ClassVar[tuple[str, ...]] = (*SearchOptions.PASTED, "initial_prompts")

    num_tokens: int = 8
    template: str = "{}"
    initial_prompts: Sequence[str] = ()
    unlike: ImageInput | Sequence[ImageInput] | None = None
    unlike_weight: float = 0.5
    weights: Sequence[float] | None = None
    window: NoiseWindow = LATE
    num_noises: int = 16
    noises_per_step: int | None = 4
    crop: tuple[float, float] = (1.0, 1.0)
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vram is not None:
            raise ValueError(
                f"vram = {self.vram!r} is of no use to a denoiser that is searched through by itself; give batch_size, "
                "or call pipe.invert_prompt(vram=...) of the pipeline, which chooses it and gradient checkpointing too"
            )
        if self.initial_prompts:
            for name in ("initial_prompt", "restarts"):
                if getattr(self, name) is not None:
                    raise ValueError(f"give initial_prompts, of which each is a start of its own, or {name}, not both")
