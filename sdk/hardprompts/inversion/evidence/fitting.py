"""Calibrations of one's own: from pictures of which it is known which words are true."""

import dataclasses
import functools
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from hardprompts.allowance import Allowance
from hardprompts.images import ImageInput
from hardprompts.inversion.evidence.calibration import EvidenceCalibration, LabeledFigures, fitted
from hardprompts.inversion.evidence.figures import OF_PARTS
from hardprompts.inversion.evidence.measures import Measures
from hardprompts.inversion.evidence.source import EvidenceSource
from hardprompts.inversion.evidence.statements import statements
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.inversion.targets import scores_of_texts
from hardprompts.wording import Categories, words_in

#: How each picture is searched: as by default, and so that all places are filled, which gives more false words.
WAYS: tuple[dict[str, Any], ...] = ({}, {"token_cost": 0.0})

#: Phrases of a text that is written for a picture: one to all of them are false ones in the place of true ones, half of
#: their categories and half of any: words for paintings and films, say, which are true of no picture of some worlds.
WRITTEN = 6


def calibrate(
    inverter: PromptInverter,
    images: Sequence[ImageInput],
    true_words: Sequence[Collection[str]],
    *,
    source: str = "",
    categories: Categories | None = None,
    ways: Sequence[dict[str, Any]] = WAYS,
    seed: int = 0,
    progress: bool = True,
) -> tuple[EvidenceCalibration, ...]:
    """The calibrations of a model, fitted on pictures: for prompts that it finds, and for texts that somebody wrote.

    A phrase of a prompt counts as true if all of its words are among the true words of the picture, in the singular or
    plural; what is neither true nor false of it ("wallpaper") counts as false. Some two hundred pictures are enough.

    Args:
        inverter: finds their prompts; with a judge its figures count too.
        images: pictures that the model was not tuned on, if its figures are to hold for others.
        true_words: for each picture, all words that are true of it, with their synonyms.
        source: what the pictures are, for the provenance.
        categories: what false words are taken from; default: the lists that come with the package.
        ways: options of `invert`; each picture is searched once with each of them.
        seed: of the searches and of the texts that are written.

    Raises:
        ValueError: as many pictures as lists of words are needed; or all phrases are true, or all are false.
    """
    if len(images) != len(true_words):
        raise ValueError(f"there are {len(images)} images and {len(true_words)} lists of true words; give one for each")
    evidence, found = source_of(inverter, categories), list[LabeledFigures]()
    pairs = list(zip(images, true_words, strict=True))
    for place, (image, words) in enumerate(
        tqdm(pairs, disable=None if progress else True, unit="picture", leave=False)
    ):
        found += examples(inverter, image, words, evidence, ways, seed + place)
    return fits(found, evidence, source, categories)


def source_of(inverter: PromptInverter, categories: Categories | None = None) -> EvidenceSource:
    """What measures evidence for the models of an inverter, without a calibration."""
    models = [inverter.backend] if inverter.judge is None else [inverter.backend, inverter.judge]
    return dataclasses.replace(EvidenceSource.of(models, (), categories), thorough=True)


def examples(
    inverter: PromptInverter,
    image: ImageInput,
    true_words: Collection[str],
    evidence: EvidenceSource,
    ways: Sequence[dict[str, Any]],
    seed: int,
) -> list[LabeledFigures]:
    """What is measured of phrases that are found for a picture, and of phrases in a text that is made up for it.

    Args:
        seed: of the searches and of that text; another one for each picture.
    """
    texts = [inverter.invert(image, seed=seed, progress=False, **way).text for way in ways]
    return examples_of(texts, inverter, image, true_words, evidence, seed)


def examples_of(
    texts: Sequence[str],
    inverter: PromptInverter,
    image: ImageInput,
    true_words: Collection[str],
    evidence: EvidenceSource,
    seed: int,
) -> list[LabeledFigures]:
    """The same of prompts that were found before."""
    pairs = [(text, True) for text in texts]
    pairs.append((written(true_words, evidence, random.Random(seed)), False))
    looks = evidence.looks(image, 0, Allowance())
    scores_of = functools.partial(scores_of_texts, inverter.backend, mean=looks.whole[0][:, 0].mean(dim=0))
    found: list[LabeledFigures] = []
    for text, searched in pairs:
        witness, said = evidence.witness(looks, "{}", scores_of, searched), statements(text, evidence.categories)
        found += labeled(witness.measures(text, said, Allowance()) or () if said else (), true_words, seed)
        if searched:
            found += labeled(witness.lacking(text, said, " ", Allowance()) or (), true_words, seed)
    return found


def fits(
    found: Sequence[LabeledFigures], evidence: EvidenceSource, source: str, categories: Categories | None = None
) -> tuple[EvidenceCalibration, ...]:
    """Calibrations for all that may have been measured: with the parts of pictures, and without.

    Of prompts that a search found, and of texts that somebody wrote, those alone of which there are examples.

    Args:
        evidence: of which models; what a judge said beside them is left aside.
        source, categories: see `calibrate`.
    """
    default = Categories.default().lists
    lists = {} if categories is None else categories.lists
    own = {name: tuple(sorted(words - default.get(name, frozenset()))) for name, words in lists.items()}
    fitted_to: list[EvidenceCalibration] = []
    for searched in (True, False):
        some = [one for one in found if one.searched == searched]
        if not some:
            continue
        measured = [name for name in some[0].figures if all(name in one.figures for one in some)]
        if len(evidence.models) == 1:
            measured = [name for name in measured if not name.startswith("judge ")]
        whole = [name for name in measured if name.removeprefix("judge ") not in OF_PARTS]
        for names in (measured, whole) if len(whole) < len(measured) else (measured,):
            fitted_to.append(
                fitted(
                    some,
                    [model.name for model in evidence.models],
                    names,
                    searched=searched,
                    source=f"{len(some)} phrases of {source or 'pictures'}",
                    categories={name: words for name, words in own.items() if words},
                )
            )
    return tuple(fitted_to)


def labeled(measured: Iterable[Measures], true_words: Collection[str], picture: int) -> Iterator[LabeledFigures]:
    """What was measured of statements, and whether they are true; see `calibrate`."""
    for one in measured:
        true = is_true(one.statement.phrase, true_words)
        yield from (LabeledFigures(own, one.statement.category, true, one.searched, picture) for own in one.of_pictures)


def is_true(phrase: str, true_words: Collection[str]) -> bool:
    """Whether all words of a phrase are among the true ones, in the singular or plural."""
    known = {form for own in true_words for word in words_in(own.lower()) for form in _forms(word)}
    return all(not known.isdisjoint(_forms(word)) for word in words_in(phrase.lower()))


def _forms(word: str) -> set[str]:
    """A word, and what it may be the plural of."""
    found = {word}
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        found.add(word[:-1])
        if word.endswith("es"):
            found.add(word[:-2])
        if word.endswith("ies"):
            found.add(f"{word[:-3]}y")
    return found


def written(true_words: Collection[str], evidence: EvidenceSource, generator: random.Random) -> str:
    """A text of some true phrases, and false ones in the place of others, in any order."""
    known = [phrase for phrase in dict.fromkeys(true_words) if statements(phrase, evidence.categories)]
    chosen = generator.sample(sorted(known), min(WRITTEN, len(known)))
    true = chosen[: generator.randrange(len(chosen))] if chosen else []
    false = []
    for place, phrase in enumerate(chosen[len(true) :]):
        (first, *_) = statements(phrase, evidence.categories)
        any_category = generator.choice(sorted(set(evidence.known_words.categories)))
        false.append(generator.choice(evidence.known_words.beside(any_category if place % 2 else first.category)))
    phrases = [*true, *(word for word in dict.fromkeys(false) if not is_true(word, true_words))]
    generator.shuffle(phrases)
    return ", ".join(phrases)
