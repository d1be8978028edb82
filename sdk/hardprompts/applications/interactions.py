"""How much the words of a prompt depend on one another, for pictures: measured, and drawn."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.applications.evidence import text_table
from hardprompts.encoders import Backend, opened_backend
from hardprompts.errors import BackendError, VocabularyError
from hardprompts.images import ImageInput
from hardprompts.inversion.evidence.statements import Statement, statements, without
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.targets import scores_of_texts
from hardprompts.inversion.views import ViewFeatures
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.search.results import written_by_hand
from hardprompts.wording import Categories, WordInteractions

#: Phrases of a prompt between which interactions are measured, at most: those that contribute most. They take
#: 1 + 24 + 276 passes.
MOST_PHRASES = 24


def word_interactions(
    prompt: HardPrompt | str,
    model: str | Backend,
    images: "ImageInput | Sequence[ImageInput] | Tensor",
    *,
    categories: Categories | None = None,
    deadline: float | None = None,
    max_evaluations: int | None = None,
) -> HardPrompt:
    """The prompt with its `interactions`: what each phrase adds to its score, alone and together with each other one.

    Each pair of phrases is left out once: n phrases take 1 + n + n (n - 1) / 2 passes. Of more than `MOST_PHRASES`
    those that contribute most are measured, and `left_out` says so.

    Args:
        prompt: one that was found, or one written by hand.
        model: the model that compares images with text, or its name for `load_backend`.
        images: what the prompt is for; see `PromptInverter.invert`.
        categories: what reads several words as one phrase; default: the lists that come with the package. Words that
            say nothing of a picture, such as "a", are not measured.
        deadline, max_evaluations: seconds and passes that it may take; where they do not suffice, there are no
            `interactions`, and `left_out` says so.

    Raises:
        VocabularyError: the prompt has no phrase.
        BackendError: the model has no image tower.
        ImageError, NonFiniteError: see `PromptInverter.invert`.
    """
    backend = opened_backend(model)
    if backend.image_encoder is None and not isinstance(images, Tensor):
        raise BackendError(f"{backend.name} has no image tower, so no prompt can be scored; use a model that has one")
    given = prompt if isinstance(prompt, HardPrompt) else HardPrompt(prompt, (), 0.0)
    found = statements(given.text, categories or Categories.default())
    if not found:
        raise VocabularyError(f"the prompt {given.text!r} has no word that says something of a picture")
    allowance = InversionOptions(deadline=deadline, max_evaluations=max_evaluations).allowance()
    target = ViewFeatures.of(images, [backend]).of_models[0][:, 0].mean(dim=0)
    template = PromptTemplate(given.template)

    def scores_of(texts: Sequence[str]) -> list[float]:
        return scores_of_texts(backend, [template.fill(text) for text in texts], target)

    score = allowance.measured("score of the prompt", [given.text], scores_of)
    if not given.model:
        by_hand = written_by_hand(given.text, backend.vocabulary, backend.name, 0.0 if score is None else score[0])
        given = dataclasses.replace(by_hand, template=given.template)
    return dataclasses.replace(
        given,
        interactions=None if score is None else _measured(given.text, score[0], found, scores_of, allowance),
        left_out=(*given.left_out, *allowance.left_out),
        evaluations=given.evaluations + allowance.evaluations,
    )


def _measured(
    text: str,
    whole: float,
    found: list[Statement],
    scores_of: Callable[[Sequence[str]], Sequence[float]],
    allowance: Allowance,
) -> WordInteractions | None:
    """The interactions of statements; None where there is no room for them."""
    kept, left = _most_important(text, whole, found, scores_of, allowance)
    if left is None:
        return None
    pairs = list(itertools.combinations(range(len(kept)), 2))
    texts = [without(text, [kept[i], kept[j]]) for i, j in pairs]
    both = allowance.measured("interactions of phrases", texts, scores_of)
    if both is None:
        return None
    values = [[0.0] * len(kept) for _ in kept]
    for (i, j), score in zip(pairs, both, strict=True):
        values[i][j] = values[j][i] = whole - left[i] - left[j] + score
    return WordInteractions(
        tuple(one.phrase for one in kept), tuple(whole - score for score in left), tuple(map(tuple, values))
    )


def _most_important(
    text: str,
    whole: float,
    found: list[Statement],
    scores_of: Callable[[Sequence[str]], Sequence[float]],
    allowance: Allowance,
) -> tuple[list[Statement], list[float] | None]:
    """The statements that contribute most, and the scores of the text without each of them."""
    scores = allowance.measured("contributions of phrases", [without(text, [one]) for one in found], scores_of)
    if scores is None or len(found) <= MOST_PHRASES:
        return found, scores
    order = sorted(range(len(found)), key=lambda i: -abs(whole - scores[i]))
    places = sorted(order[:MOST_PHRASES])
    allowance.leave_out("interactions: phrases", MOST_PHRASES, len(found))
    return [found[i] for i in places], [scores[i] for i in places]


# --- in words -----------------------------------------------------------------------------

#: What the numbers mean.
DEPENDENCE = (
    "Above 0, two words say more together than each by itself. Below 0, each adds less beside the other, as words do "
    "that say the same. The further from 0, the more changes for one when the other is exchanged."
)


def interaction_notes(interactions: WordInteractions, most: int = 3) -> list[str]:
    """A sentence for each pair of phrases that depend on each other most; none where the third decimal is 0."""
    return [
        f"{one!r} and {other!r}: each adds {abs(value):.3f} {'more' if value > 0 else 'less'} beside the other"
        for one, other, value in interactions.strongest(most)
        if round(abs(value), 3) > 0
    ]


def interaction_table(interactions: WordInteractions) -> str:
    """The interactions as lines of plain text, with those that are strongest in words, and what the numbers mean."""
    lines = [*text_table(interactions.rows()), "", *interaction_notes(interactions), DEPENDENCE]
    return "\n".join(lines)


# --- in colors ------------------------------------------------------------------------------

#: Colors of what says more together, of what says the same, and of nothing.
TOGETHER, SAME, NOTHING = (214, 96, 77), (67, 147, 195), (247, 247, 247)

#: The steps of color in each direction, where there are not as many as there are numbers.
LEVELS = 4


def interaction_levels(interactions: WordInteractions) -> list[list[int]]:
    """(phrases, phrases) whole numbers in [-LEVELS, LEVELS]: the steps of color of the interactions.

    The strongest of all has the last step of its direction; a phrase with itself has 0.
    """
    most = _strongest(interactions)
    return [[round(LEVELS * value / most) for value in row] for row in interactions.values]


def level_colors() -> dict[int, str]:
    """The color of each step, as CSS has it."""
    return {level: "#{:02x}{:02x}{:02x}".format(*_color(level / LEVELS)) for level in range(-LEVELS, LEVELS + 1)}


def _strongest(interactions: WordInteractions) -> float:
    return max((abs(value) for row in interactions.values for value in row), default=0.0) or 1.0


def interaction_picture(interactions: WordInteractions, cell: int = 56) -> Image.Image:
    """A table of colors as an RGB picture: red where two phrases say more together, blue where they say the same.

    What each phrase contributes stands in the diagonal, in gray. The strongest color is that of the strongest
    interaction.

    Args:
        cell: the side of a cell in pixels, at least 16.

    Raises:
        ValueError: `cell` is below 16.
    """
    if cell < 16:
        raise ValueError(f"cell must be at least 16 pixels, got {cell}")
    phrases = [one if len(one) <= 18 else f"{one[:17]}\u2026" for one in interactions.phrases]
    font, small = ImageFont.load_default(max(10, cell // 4)), ImageFont.load_default(max(8, cell // 5))
    left = round(max((font.getlength(one) for one in phrases), default=0)) + 16
    side = left + cell * len(phrases) + 8
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    most = _strongest(interactions)
    for i, phrase in enumerate(phrases):
        middle = left + cell * i + cell // 2
        draw.text((left - 8, middle), phrase, font=font, fill="#222", anchor="rm")
        picture.paste(_upright(phrase, font, left, cell), (left + cell * i, 0))
        for j, value in enumerate(interactions.values[i]):
            corner = (left + cell * j, left + cell * i)
            own = i == j
            number = interactions.contributions[i] if own else value
            color = (225, 225, 225) if own else _color(value / most)
            draw.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill=color)
            draw.text((corner[0] + cell // 2, middle), f"{number:+.3f}", font=small, fill="#222", anchor="mm")
    return picture


def _upright(phrase: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", height: int, width: int) -> Image.Image:
    """A phrase that reads upwards, with its beginning at the lower edge."""
    label = Image.new("RGB", (height, width), "white")
    ImageDraw.Draw(label).text((8, width // 2), phrase, font=font, fill="#222", anchor="lm")
    return label.rotate(90, expand=True)


def _color(share: float) -> tuple[int, int, int]:
    end = TOGETHER if share > 0 else SAME
    red, green, blue = (round(n + abs(share) * (e - n)) for n, e in zip(NOTHING, end, strict=True))
    return red, green, blue
