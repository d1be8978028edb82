"""Images become a prompt for a generator of which nothing is known but its pictures."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.applications.black_box.answers import answer
from hardprompts.applications.black_box.correction import Correction
from hardprompts.applications.black_box.journal import Journal
from hardprompts.applications.black_box.language import Rewrite
from hardprompts.applications.black_box.mutations import (
    AddPhrase,
    Crossover,
    DropPhrase,
    ExchangePhrase,
    GradientSwap,
    Mutation,
    PhraseFeatures,
    Phrases,
    RelatedPhrase,
    Screened,
)
from hardprompts.applications.black_box.options import PictureArguments, PictureOptions
from hardprompts.applications.black_box.outcome import PictureInversion
from hardprompts.applications.black_box.race import Race
from hardprompts.applications.black_box.starts import starting_texts
from hardprompts.applications.pictures import Generate, ImageScore, likeness
from hardprompts.atomic import written_atomically
from hardprompts.encoders import Backend, normalize, opened_backend
from hardprompts.errors import VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.inversion.captioning import Captioner, opened_captioner
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.methods.banks import PhraseTable, default_bank, read_bank
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.search.options import check_names
from hardprompts.search.progress import on_bar
from hardprompts.search.seeds import Stream, drawn_seed

#: The file in a run's folder that has what the prompt draws.
BEST = "best.png"

#: Of the seconds that there are, how many may go into what the search begins with.
STARTING_SHARE = 0.25


def invert_by_pictures(
    images: "ImageInput | Sequence[ImageInput]",
    generate: Generate,
    judge: "str | Backend | ImageScore | None" = None,
    budget: int = PictureOptions.budget,
    *,
    starts: "str | HardPrompt | Sequence[str | HardPrompt]" = (),
    inverter: PromptInverter | None = None,
    search: dict[str, Any] | None = None,
    captioner: str | Captioner | None = None,
    language_model: str | Backend | None = None,
    bank: "str | os.PathLike[str] | Sequence[PhraseTable] | None" = None,
    mutations: Sequence[Mutation] | None = None,
    **options: Unpack[PictureArguments],
) -> PictureInversion:
    """The prompt with which a generator draws something like these images, found with so many of its pictures.

    Nothing is asked of the generator but pictures, so it may be a pipeline, a service on the web or a program. The
    search changes the best prompts so far by one of several mutations, which a bandit chooses; draws what is new with
    the first seed; draws the best quarter of it, if it is also ahead of a prompt that is changed, with the next seed,
    and so on; and in the end draws its choice with fresh seeds, by which nothing was chosen.

    Why it has a loop of its own beside `run_search`: there the score of a prompt is one number that stays, here it is
    measured more closely the more a prompt promises; there prompts are tokens of a model, here no model need read them;
    there passes are limited, here pictures.

    Args:
        images: what the pictures should be like; of several the mean similarity counts.
        generate: `generate(prompts, seeds)` returns a picture for each. One that takes no seeds may ignore them. What
            it raises, None, black pictures, pictures of a wrong size and a wrong number of them are failures: they
            count, and are asked for again as `retries` tells.
        judge: what compares pictures with the images: a model with an image tower, by name or open, or a function that
            gives each picture a number. Default: the inverter's model.
        budget: pictures.
        starts: texts to begin with; all are drawn before anything is made of them, within a quarter of the budget.
        inverter: finds more to begin with, and knows what texts are like: its model's gradient is one of the mutations,
            and screens the others.
        search: options of `PromptInverter.invert` for that.
        captioner: describes the images, to begin with; see `load_captioner`.
        language_model: rewrites prompts; a masked or a causal one.
        bank: phrases to begin with and to change prompts by: a file, a folder of files, one for each kind of phrase, or
            tables. Default: `default_bank`.
        mutations: instead of those that follow from the above: phrases that are exchanged, added and dropped,
            crossing; rewriting, where there is a language model; and where there is an inverter, the gradient, related
            phrases, and phrases that are exchanged or added as its model finds likely.
        options: see `PictureOptions`.

    Returns:
        The prompt and what was drawn. The prompt has token ids if there is an inverter whose model has them for it.

    Raises:
        ImageError: the images cannot be read.
        ValueError, TypeError: an option that there is not, or that is out of range; no judge; two mutations of a name.
        VocabularyError: all texts to begin with are banned or too long.
        SearchError: no picture came.
        FileFormatError: the folder has the pictures of another run, or phrases or pictures in it are damaged.
        BackendError, UnknownName: a model cannot be opened, or lacks a part that is needed.

    Source: the bandit over mutations of PromptMiner (arXiv 2511.22119), whose seeds of fuzzing are the prompts that are
    changed here; phrases that pictures accept or refuse, as in Prometheus (arXiv 2508.06837); successive halving,
    Karnin, Koren and Somekh 2013, over seeds that all prompts share. Deviations: no vision-language model is needed,
    and what is reported is drawn anew, where those report what they chose by.
    """
    check_names("invert_by_pictures", options, PictureOptions.__dataclass_fields__)
    chosen = PictureOptions(budget=budget, **options)
    chosen = dataclasses.replace(chosen, seed=drawn_seed(chosen.seed))
    assert chosen.seed is not None
    allowance, targets = Allowance(chosen.deadline), load_images(images)
    opened = _opened_judge(judge, inverter)
    journal = Journal(chosen.place, {
        "images": _hash_of(targets), "judge": _name_of(opened), "generator": _name_of(generate),
        "size": None if chosen.size is None else list(chosen.size),
    }, chosen.max_failures)  # fmt: skip
    score = likeness(targets, opened) if isinstance(opened, Backend) else opened
    phrases = Phrases(_tables(bank))
    own = _mutations(phrases, inverter, language_model, targets, chosen.template) if mutations is None else mutations
    drawn = Stream.PROPOSALS.generator(chosen.seed)
    left = allowance.seconds_left
    searched: dict[str, Any] = {"deadline": None if left is None else STARTING_SHARE * left}
    searched |= {"template": chosen.template, "seed": chosen.seed, "progress": False, **(search or {})}
    given = [starts] if isinstance(starts, str | HardPrompt) else starts
    texts = starting_texts(
        targets, given, inverter,
        None if captioner is None else opened_captioner(captioner), phrases, searched, chosen.population, drawn,
    )  # fmt: skip
    with tqdm(
        total=chosen.budget, disable=None if chosen.progress else True, desc="pictures", unit="picture", leave=False
    ) as bar:
        followed = dataclasses.replace(chosen, callback=on_bar(chosen.callback, bar))
        race = Race(generate, score, journal, followed, own, allowance)
        reason = race.run(texts, len(given))
        about = {"judge": _name_of(opened), "generator": _name_of(generate)}
        found = answer(race, reason, None if inverter is None else inverter.backend, about)
    if chosen.place is not None and found.picture is not None:
        with written_atomically(chosen.place / BEST) as file:
            found.picture.save(file, "PNG")
    return found


def _opened_judge(
    judge: "str | Backend | ImageScore | None", inverter: PromptInverter | None
) -> "Backend | ImageScore":
    if judge is None:
        if inverter is None:
            raise ValueError(
                "judge is missing: a model that compares pictures with the images, such as "
                "'open_clip:ViT-L-14/openai', or a function that gives each picture a number"
            )
        return inverter.backend
    return opened_backend(judge) if isinstance(judge, str) else judge


def _name_of(thing: object) -> str:
    """What a model, a generator or a function is called."""
    name = getattr(thing, "name", None) or getattr(thing, "__qualname__", None)
    return str(name or type(thing).__qualname__)


def _hash_of(images: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()


def _tables(bank: "str | os.PathLike[str] | Sequence[PhraseTable] | None") -> Sequence[PhraseTable]:
    tables = default_bank() if bank is None else read_bank(bank) if isinstance(bank, str | os.PathLike) else bank
    full = [table for table in tables if len(table)]
    if not full:
        raise VocabularyError("the bank has no phrases; give a file with a phrase on each line")
    return full


def _mutations(
    phrases: Phrases,
    inverter: PromptInverter | None,
    language_model: str | Backend | None,
    targets: Sequence[Any],
    template: str,
) -> list[Mutation]:
    """Those that what is there allows."""
    free: list[Mutation] = [ExchangePhrase(phrases), AddPhrase(phrases)]
    others: list[Mutation] = [DropPhrase(phrases), Crossover(phrases)]
    if language_model is not None:
        others.insert(0, Rewrite(opened_backend(language_model)))
    if inverter is None:
        return [*free, *others]
    backend, slot = inverter.backend, PromptTemplate(template)
    target = normalize(backend.encode_images(list(targets)).mean(dim=0))
    screened: list[Mutation] = [Screened(one, backend, target, slot) for one in free]
    features = PhraseFeatures(phrases, backend)
    towards: list[Mutation] = [
        Correction(phrases, features, target, slot),
        RelatedPhrase(phrases, features),
        GradientSwap(backend, target, slot),
    ]
    return [*towards, *screened, *others, *free]
