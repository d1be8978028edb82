"""What `PromptDistiller` takes: the options of every search, and those of what is matched."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from hardprompts.distillation.originals import Original
from hardprompts.errors import TemplateError
from hardprompts.images import ImageInput
from hardprompts.noise import LATE, NoiseWindow
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.search.markup import Markup
from hardprompts.search.options import SearchArguments, SearchOptions
from hardprompts.search.protocol import StopReason

#: What is matched.
Quantity = Literal["auto", "features", "hidden_states", "noise", "outputs"]

#: Where faithfulness is measured besides the templates of the search, if nobody names others.
HELD_OUT = ("a picture of {}", "{}", "this is {} as we know it", "a photo of {}", "the {} over there")

#: The same for language models; each has text behind the slot, so that an empty slot leaves something to continue.
BEHIND_PROMPTS = ("{} It was", "{} This is", "{} We")

#: Tokens of a prompt for a soft prompt of fewer.
DEFAULT_TOKENS = 8

#: Reasons to stop that are the user's, and end all that would have followed.
ENDED = (StopReason.CANCELLED, StopReason.INTERRUPTED)


class DistillationArguments(SearchArguments, total=False):
    """The options that `PromptDistiller.distill` takes beside its named arguments."""

    held_out: Sequence[str] | None
    images: "ImageInput | Sequence[ImageInput] | None"
    answers: Sequence[str]
    texts_per_step: int | None
    window: NoiseWindow
    num_noises: int
    noises_per_step: int | None
    batch_size: int
    markup: Markup


class TaskArguments(DistillationArguments, total=False):
    """The same with the arguments that `distill` names, for `distill_each` and `faithfulness`."""

    num_tokens: int | None
    ratio: float | None
    templates: str | Sequence[str]
    match: Quantity


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationOptions(SearchOptions):
    """What `PromptDistiller.distill` takes beside the original.

    Attributes:
        num_tokens: the most tokens of the hard prompt. Default: 8, or as many as a soft prompt has if these are more,
            or a text if fewer. The baselines "nearest" and "nearest-l2" have as many as the original.
        ratio: the same as a share of the original's tokens, in (0, 1].
        templates: the template in which the original stands, and the hard prompt in its place: "a photo of {}".
            Several templates: the mean over them; the prompt survives the round trip in each.
        match: what is to be the same. "features": the text features (cosine). "hidden_states": the states of the text
            encoder that a denoiser reads, place by place (see `StateMatch`). "noise": what the denoiser predicts on a
            fixed bank of noises. "outputs": what a language model finds likely behind the templates' ends (see
            `OutputMatch`). "auto": the outputs of a language model; the states if the model has a denoiser and sees
            the original whole; else the features.
        held_out: templates that faithfulness is measured in besides; not for "noise", where other noises are held out.
            Default: a few plain ones, or none beside `answers`.
        images: for "noise", pictures of what the original says, which are noised. Default: the denoiser makes some of
            its own from the original.
        answers: for "outputs", words one space behind the templates' ends, whose likelihoods among each other are
            matched (the label words of a classifier, say). Default: the likelihoods of all next tokens.
        texts_per_step: for "outputs", templates drawn for each gradient. Default: all.
        window, num_noises, noises_per_step, batch_size: for "noise"; see `DenoisingOptions`.
        markup: how an original that is a text is read: "a1111" or "comfyui", as these UIs read "(neon:1.3)",
            "<lora:style:0.8>", "embedding:name", BREAK and the like; "none", as it stands; "auto", as whichever its
            markup shows, and as it stands if it has none or the model is a language model. The hard prompt is of what
            the words say; weights are left out, and files set aside: see `DistilledPrompt.markup`.
        initial_prompt: text to start from, beside the starts that the original gives (its nearest tokens, or its own
            best words) and random ones.
        token_cost: as in `SearchOptions`. Default: 0.05 for a soft prompt, which drops tokens that count in one
            template only, and 0 for a text, whose length is what was asked for.

    Raises:
        ValueError: a number out of range, an unknown `match`, both `num_tokens` and `ratio`, or an option of another
            `match` than the one that is asked for.
        TemplateError: a template has no slot, or several, or there is none.
    """

    COUNTS: ClassVar[tuple[str, ...]] = (
        *SearchOptions.COUNTS, "num_tokens", "num_noises", "noises_per_step", "batch_size", "texts_per_step",
    )  # fmt: skip

    #: Options that only some quantities have, and these.
    APPLY_TO: ClassVar[dict[str, tuple[Quantity, ...]]] = {
        "held_out": ("features", "hidden_states", "outputs"),
        "images": ("noise",),
        "window": ("noise",),
        "num_noises": ("noise",),
        "noises_per_step": ("noise",),
        "batch_size": ("noise",),
        "answers": ("outputs",),
        "texts_per_step": ("outputs",),
    }

    num_tokens: int | None = None
    ratio: float | None = None
    templates: str | Sequence[str] = SLOT
    match: Quantity = "auto"
    held_out: Sequence[str] | None = None
    images: "ImageInput | Sequence[ImageInput] | None" = None
    answers: Sequence[str] = ()
    texts_per_step: int | None = None
    window: NoiseWindow = LATE
    num_noises: int = 16
    noises_per_step: int | None = 4
    batch_size: int = 8
    markup: Markup = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.match not in get_args(Quantity):
            raise ValueError(f"match must be one of {', '.join(get_args(Quantity))}, got {self.match!r}")
        if self.markup not in get_args(Markup):
            raise ValueError(f"markup must be one of {', '.join(get_args(Markup))}, got {self.markup!r}")
        if self.num_tokens is not None and self.ratio is not None:
            raise ValueError(f"give num_tokens or ratio, not both, got {self.num_tokens} and {self.ratio}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")
        if not self.slots:
            raise TemplateError('templates is empty; give one with "{}", or several')
        if self.match != "auto":
            self.check_apply(self.match)

    @property
    def slots(self) -> tuple[PromptTemplate, ...]:
        """The templates that the prompt is matched in, without repetitions."""
        given = [self.templates] if isinstance(self.templates, str) else self.templates
        return tuple(PromptTemplate(text) for text in dict.fromkeys(given))

    def other_slots(self, plain: Sequence[str] = HELD_OUT) -> tuple[PromptTemplate, ...]:
        """The templates that faithfulness is measured in besides: the given ones, or `plain` ones."""
        given = plain if self.held_out is None else self.held_out
        own = {template.text for template in self.slots}
        return tuple(PromptTemplate(text) for text in dict.fromkeys(given) if text not in own)

    def check_apply(self, quantity: Quantity) -> None:
        """Refuses options that say nothing about what is matched; one at its default was not asked for.

        Raises:
            ValueError: an option belongs to other quantities.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, quantities in self.APPLY_TO.items():
            if quantity not in quantities and _is_set(getattr(self, name), defaults[name]):
                chosen = " (chosen by 'auto')" if self.match == "auto" else ""
                raise ValueError(
                    f"{name} is for match={' or '.join(map(repr, quantities))}, and {quantity!r} is matched here"
                    f"{chosen}; leave {name} out, or match {' or '.join(map(repr, quantities))}"
                )

    def tokens_for(self, original: Original) -> int:
        """The most tokens of the hard prompt for an original."""
        if self.num_tokens is not None:
            return self.num_tokens
        if self.ratio is not None:
            return max(1, round(self.ratio * len(original)))
        return (max if original.text is None else min)(DEFAULT_TOKENS, len(original))


def _is_set(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return len(value) > 0
    return value is not None if default is None else bool(value != default)
