"""The options of `PromptInverter.invert`, declared once."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from hardprompts.images import ImageInput
from hardprompts.search.options import SearchArguments, SearchOptions

#: How a prompt may be asked to read.
STYLES = ("tags", "caption", "keywords")


class InversionArguments(SearchArguments, total=False):
    """The fields of `InversionOptions` that front doors take as keyword arguments alone."""

    unlike: ImageInput | Sequence[ImageInput] | None
    unlike_weight: float
    text: str | None
    text_weight: float
    weights: Sequence[float] | None
    views: int
    shortest: float | None
    words: bool | Sequence[str] | None
    required: Sequence[str]
    penalties: Mapping[str, float]
    repetition_penalty: float
    prior_weight: float
    caption: str | None
    pareto: bool
    proposals: int
    proposal_weight: float
    likelihood_weight: float | None
    style: str | None
    fast: bool
    editable: bool
    evidence: bool
    min_evidence: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class InversionOptions(SearchOptions):
    """What `PromptInverter.invert` takes beside the images, and beside what every search takes.

    Slurs and swear words must not occur in a prompt either; "none" as `banned`, or among its strings, lifts that list.
    The default of `token_cost` is `TOKEN_COST`: it drops tokens that say more of the model than of the image. It is 0
    for a model of text alone, where there is no image to say less of; 0 fills all places.

    Attributes:
        num_tokens: tokens of the prompt, 1 or more; methods with insert and delete moves return as many or fewer.
        template: the text that the prompt is for, with one "{}": "a tiger in the style of {}".
        unlike: images that the prompt should not fit.
        unlike_weight: what similarity with `unlike` costs, relative to similarity with the images.
        text: a text that the prompt should resemble too.
        text_weight: the text's share of the whole, in [0, 1].
        weights: the images' weights, one positive number each; default: all equal.
        views: how many views of each image the similarity is averaged over: the image itself, then slight crops and
            tints of it, which keep all that it shows. What a model sees in one exact picture only is then not worth a
            word. 1 takes the image as it is.
        shortest: return the shortest prompt that reaches this share, in (0, 1], of the best similarity; the prompt's
            `candidates` then show similarity against length.
        words: True: only tokens that are real words, of the letters of one script; a list of words: only these, some
            of which may have several tokens; False: any tokens. Default: real words, if the model has enough of them
            and `vocabulary` is not given.
        required: words that the prompt begins with, in this order; the search fills the rest.
        penalties: strings, and what each occurrence of one costs, as a share of the spread (see `token_cost`); below
            0 it is a reward. Words that must not occur at all are `banned`.
        repetition_penalty: what each word costs that stands in the prompt already, likewise.
        prior_weight: what a nat of the prior's log-likelihood for each word is worth, likewise.
        caption: text that half of the restarts begin with, cut to the length, and that phrase banks continue;
            default: what the captioner says, if there is one.
        pareto: the prompt's `candidates` are then the best trade-offs: no other is better in similarity, length and,
            with a prior, fluency at once; most similar first behind the best; its `pareto` has the numbers.
        proposals: texts that each proposer is asked for, for each prompt.
        proposal_weight: what a word costs for each nat by which it is rarer in the proposals than one that a fifth of
            them have, as a share of the spread (see `token_cost`); a word that more of them have is worth as much more.
            0: proposals are where a search begins, and no more.
        likelihood_weight: what a nat of the log-likelihood for each word is worth by which proposers that know it would
            write a prompt, likewise. Default: `LIKELIHOOD_WEIGHT`, for a caption `CAPTION_WEIGHT`.
        style: how the prompt should read. "caption": a whole text, as proposers write it or a prior likes it, one of
            which is needed; no token is dropped that makes it read well. "tags": phrases with commas between them, the
            most important first; half of the places are for the commas. "keywords": words, none twice, the most
            important first. Default: as the search finds it.
        fast: return the best of what the proposers wrote, as it is: nothing is searched, each image is seen in one
            view, there are no other candidates, and the contributions of tokens are not measured.
        editable: prefer prompts whose words can be exchanged: each says by itself what it says among the others, so
            that exchanging one changes little else; see `hardprompts.applications.edit`.
        evidence: say what speaks for each phrase of the prompt, see `PromptInverter.evidence`; at most as many passes
            as the search took go into that.
        min_evidence: the probability, in (0, 1), of being true of the picture that each phrase must have; others are
            dropped. Where nothing is calibrated for the model, nothing is dropped, and `left_out` says so.

    Raises:
        ValueError: a number out of range, a text where a list belongs, two options that exclude each other, or the
            weight of something that is not given.
    """

    #: What a token must add for images, as a share of the spread of the similarity of random prompts.
    TOKEN_COST: ClassVar[float] = 0.15

    #: What a nat for each word of the proposers' log-likelihood is worth, likewise: by default, and for a caption.
    LIKELIHOOD_WEIGHT: ClassVar[float] = 0.0
    CAPTION_WEIGHT: ClassVar[float] = 0.3

    COUNTS: ClassVar[tuple[str, ...]] = ("num_tokens", "views", "proposals", *SearchOptions.COUNTS)
    AMOUNTS: ClassVar[tuple[str, ...]] = (
        "unlike_weight",
        "prior_weight",
        "proposal_weight",
        "likelihood_weight",
        *SearchOptions.AMOUNTS,
    )

    NEEDS: ClassVar[Mapping[str, str]] = {"text_weight": "text", "unlike_weight": "unlike"}

    PASTED: ClassVar[tuple[str, ...]] = (*SearchOptions.PASTED, "text", "caption")

    num_tokens: int = 8
    template: str = "{}"
    unlike: ImageInput | Sequence[ImageInput] | None = None
    unlike_weight: float = 0.5
    text: str | None = None
    text_weight: float = 0.5
    weights: Sequence[float] | None = None
    views: int = 8
    shortest: float | None = None
    words: bool | Sequence[str] | None = None
    required: Sequence[str] = ()
    penalties: Mapping[str, float] = dataclasses.field(default_factory=dict)
    repetition_penalty: float = 0.0
    prior_weight: float = 0.1
    caption: str | None = None
    pareto: bool = False
    proposals: int = 32
    proposal_weight: float = 0.02
    likelihood_weight: float | None = None
    style: str | None = None
    fast: bool = False
    editable: bool = False
    evidence: bool = False
    min_evidence: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("required", "words"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} takes a list of words, got the text {getattr(self, name)!r}")
        if not all(word.strip() for word in (*self.required, *self.penalties)):
            raise ValueError("a required word, or a key of penalties, is empty; remove it")
        if not all(math.isfinite(cost) for cost in (*self.penalties.values(), self.repetition_penalty)):
            raise ValueError(f"penalties must be finite, got {dict(self.penalties)}, {self.repetition_penalty}")
        if self.initial_prompt is not None and self.caption is not None:
            raise ValueError("give an initial_prompt, which all restarts begin with, or a caption, not both")
        if self.style is not None and self.style not in STYLES:
            raise ValueError(f"style must be {', '.join(map(repr, STYLES))} or None, got {self.style!r}")
        if self.style in ("tags", "keywords") and (self.pareto or self.shortest is not None):
            raise ValueError(
                f"pareto and shortest weigh prompts as the search finds them, and style={self.style!r} writes them "
                "anew; leave one out"
            )
        if self.fast and (self.pareto or self.shortest is not None):
            raise ValueError("pareto and shortest search among lengths, and fast searches nothing; leave one out")
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"text_weight must be in [0, 1], got {self.text_weight}")
        if self.min_evidence is not None and not 0 < self.min_evidence < 1:
            raise ValueError(f"min_evidence must be a probability in (0, 1), got {self.min_evidence}")
        if self.shortest is not None and not 0 < self.shortest <= 1:
            raise ValueError(f"shortest must be in (0, 1], got {self.shortest}")

    @property
    def looks(self) -> int:
        """How many views of each image are looked at."""
        return 1 if self.fast else self.views

    @property
    def wants_evidence(self) -> bool:
        """Whether it is measured what speaks for the phrases of a prompt."""
        return self.evidence or self.min_evidence is not None

    @property
    def likelihood_share(self) -> float:
        """`likelihood_weight`, with the default of the style."""
        if self.likelihood_weight is not None:
            return self.likelihood_weight
        return self.CAPTION_WEIGHT if self.style == "caption" else self.LIKELIHOOD_WEIGHT

    def places(self, tokens: int) -> int:
        """How many of so many tokens of a prompt are for words; of tags half of them are for the commas."""
        return (tokens + 1) // 2 if self.style == "tags" else tokens
