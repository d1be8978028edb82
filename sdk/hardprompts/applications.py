"""What people do with prompts once they have them: join, cross, rank by pictures, and say what to avoid.

Pictures come from a callable, `generate(prompts, seed)`, which may be a pipeline, an API or a person's
own program; nothing here knows a model that draws.
"""

import collections
import dataclasses
import importlib.metadata
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hardprompts.encoders import Backend, load_backend
from hardprompts.errors import BackendError, ImageError, TemplateError, VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.inverter import PromptInverter
from hardprompts.methods.evolution import Evolution
from hardprompts.objectives import Evaluation, check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search import Callback, SearchResult, pack, run_search
from hardprompts.vocabulary import Vocabulary

#: What each picture is worth, higher is better: (pictures) -> one number each.
ImageScore: TypeAlias = Callable[[Sequence[Image.Image]], Sequence[float]]


@runtime_checkable
class Generate(Protocol):
    """Whatever makes pictures."""

    def __call__(self, prompts: Sequence[str], seed: int) -> Sequence[Image.Image]:
        """One RGB picture for each prompt; the same for the same prompt and seed."""
        ...


def likeness(images: "ImageInput | Sequence[ImageInput]", judge: Backend) -> ImageScore:
    """An image score: the mean cosine similarity of a picture with these images, in [-1, 1].

    Raises:
        ImageError, BackendError: the images cannot be read, or the judge has no image tower.
    """
    targets = judge.encode_images(load_images(images))

    def score(pictures: Sequence[Image.Image]) -> list[float]:
        found: list[float] = (judge.encode_images(list(pictures)) @ targets.T).mean(dim=1).tolist()
        return found

    return score


# --- joining ------------------------------------------------------------------------------


def concatenate(
    prompts: Sequence[HardPrompt],
    backend: Backend | None = None,
    separator: str = " ",
    images: "ImageInput | Sequence[ImageInput] | None" = None,
) -> HardPrompt:
    """Several prompts one after the other, as one: encoded anew, checked, and scored anew.

    `prompt_a + prompt_b` is the same with nothing but the prompts.

    Args:
        prompts: of one template, which the result has too; the words of each.
        backend: the model that reads and scores the result; default: the one that all the prompts
            name, which is opened for this.
        separator: text between them; it may be " and ", or empty.
        images: what the result is scored against; default: the prompts themselves, that is, how much
            of what each says is still there.

    Raises:
        BackendError, UnknownName: no backend was given, and the prompts name none or several, or one that
            cannot be opened.
        TemplateError: the templates differ, or the joined prompt is too long for the model.
        VocabularyError: no prompts, or the joined text does not survive the round trip.

    Source: PEZ, arXiv 2302.03668, section 4.4.
    """
    if not prompts:
        raise VocabularyError("there are no prompts to join; give at least one")
    templates = sorted({prompt.template for prompt in prompts})
    if len(templates) > 1:
        raise TemplateError(f"the prompts are for different templates: {', '.join(map(repr, templates))}; join texts")
    model = _model_of(prompts) if backend is None else backend
    template = PromptTemplate(templates[0])
    text = separator.join(prompt.text for prompt in prompts)
    ids = _ids_of(text, model.vocabulary, template)
    before, after = model.vocabulary.template_ids(template)
    check_length(len(ids), model.text_encoder.max_tokens - len(before) - len(after), template, model.name)
    joined = HardPrompt(
        text=text,
        token_ids=ids,
        score=0.0,
        template=template.text,
        model=model.name,
        method="concatenation",
        score_unit="cosine similarity" if images is not None else "cosine similarity with its parts",
        tokens=model.vocabulary.token_texts(ids),
        provenance={"parts": [prompt.text for prompt in prompts], "hardprompts": _version()},
    )
    if images is not None:
        score = PromptInverter(model).score(joined.filled, images)
    else:
        parts = model.encode_texts([prompt.filled for prompt in prompts])
        score = float((model.encode_texts([joined.filled]) @ parts.T).mean())
    return dataclasses.replace(joined, score=score, candidates=(Candidate(text, ids, score),))


def _model_of(prompts: Sequence[HardPrompt]) -> Backend:
    names = sorted({prompt.model for prompt in prompts})
    if names == [""] or len(names) > 1:
        named = ", ".join(map(repr, names)) if len(names) > 1 else "no model"
        raise BackendError(
            f"prompts that name {named} cannot be joined by themselves, since only a model's tokenizer knows the ids "
            "of the joined text: use hardprompts.applications.concatenate(prompts, backend)"
        )
    return load_backend(names[0])


def _ids_of(text: str, vocabulary: Vocabulary, template: PromptTemplate) -> tuple[int, ...]:
    """The ids that a text has in the template's slot.

    Raises:
        VocabularyError: it has none that survive the round trip.
    """
    found = vocabulary.respelled(vocabulary.encode(text), template)
    whole = vocabulary.encode(template.fill(text))
    before, after = vocabulary.template_ids(template)
    if found is None or whole != [*before, *found, *after] or not vocabulary.survives_round_trip(found, template):
        raise VocabularyError(
            f"the text {text!r} in the template {template.text!r} is not encoded to ids that spell it; "
            "put a space around the slot, or use words that the model's tokenizer knows"
        )
    return found


# --- avoiding -----------------------------------------------------------------------------


def negative_prompt(
    unwanted: "ImageInput | Sequence[ImageInput] | Tensor",
    inverter: PromptInverter,
    wanted: "ImageInput | Sequence[ImageInput] | Tensor | None" = None,
    **options: Any,
) -> HardPrompt:
    """What to pass as `negative_prompt=`: a prompt of what images have that others, as they should be, have not.

    Args:
        unwanted: images with what should not appear.
        wanted: images that are otherwise alike and fine. Without them the prompt also names what both
            have in common, and a generator would then avoid that as well.
        options: of `PromptInverter.invert`; `unlike_weight` weighs `wanted`.

    Raises:
        ValueError: `unlike` is given; that is `wanted` here.
        ImageError, VocabularyError: see `PromptInverter.invert`.

    Source: PEZ, arXiv 2302.03668, `negative_prompt` of the reference code, which inverts the unwanted
    image alone; the contrast with `wanted` is this project's.
    """
    if "unlike" in options:
        raise ValueError("unlike: the images that a negative prompt must not describe are given as wanted")
    prompt = inverter.invert(unwanted, unlike=wanted, **options)
    return dataclasses.replace(prompt, provenance={**prompt.provenance, "use": "negative prompt"})


# --- ranking by pictures ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
    """A prompt with the pictures that it made.

    Attributes:
        text: the prompt, which goes into the slot.
        score: the mean over the pictures.
        scores: of each picture.
        pictures: one for each seed, RGB.
    """

    text: str
    score: float
    scores: tuple[float, ...]
    pictures: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Reranking:
    """The outcome of `rerank`.

    Attributes:
        prompt: the winner, with its candidates in their new order, and scores by pictures.
        ranked: all that were drawn, best first.
    """

    prompt: HardPrompt
    ranked: tuple[Ranked, ...]

    def grid(self) -> Image.Image:
        """All pictures: one row for each prompt, best first, with its score."""
        pictures = [picture for entry in self.ranked for picture in entry.pictures]
        captions = [f"{entry.text}  {score:.3f}" for entry in self.ranked for score in entry.scores]
        return picture_grid(pictures, captions, columns=len(self.ranked[0].pictures))


def rerank(
    prompt: HardPrompt,
    generate: Generate,
    image_score: ImageScore,
    seeds: Sequence[int] = (0, 1, 2, 3),
    top: int | None = None,
    score_unit: str = "mean image score",
) -> Reranking:
    """The candidates of a prompt in the order of the pictures that they make.

    A prompt can be good for the model that it was searched with, and not for the one that draws.

    Args:
        image_score: what a picture is worth; see `likeness`.
        seeds: each candidate draws with all of them.
        top: how many candidates, best first, are drawn; default: all.
        score_unit: what the score is, for display.

    Raises:
        ValueError: no seeds, or `top` is below 1.
        ImageError: `generate` or `image_score` returned another number of results than asked for, or NaN.

    Source: PH2P, arXiv 2312.12416, which chooses among all prompts of a run in this way (`get_best_text.py`
    of the reference code).
    """
    if not seeds or (top is not None and top < 1):
        raise ValueError(f"rerank needs at least one seed and one candidate, got seeds={list(seeds)}, top={top}")
    candidates = (prompt.candidates or (Candidate(prompt.text, prompt.token_ids, prompt.score),))[:top]
    template = PromptTemplate(prompt.template)
    drawn = _Pictures(generate, image_score, tuple(seeds))
    entries = drawn.of([template.fill(candidate.text) for candidate in candidates])
    ranked = [
        (candidate, Ranked(candidate.text, entry.score, entry.scores, entry.pictures))
        for candidate, entry in zip(candidates, entries, strict=True)
    ]
    ranked.sort(key=lambda pair: -pair[1].score)
    best, entry = ranked[0]
    same = best.text == prompt.text
    winner = dataclasses.replace(
        prompt,
        text=best.text,
        token_ids=best.token_ids,
        score=entry.score,
        score_unit=score_unit,
        # Of another candidate neither is known here, and attributions were shares of the old score.
        tokens=prompt.tokens if same else (),
        attributions=(),
        candidates=tuple(dataclasses.replace(candidate, score=own.score) for candidate, own in ranked),
        history=(),
        provenance={
            **prompt.provenance,
            "reranked": {
                "seeds": list(seeds),
                "before": [{"text": c.text, "score": c.score, "unit": prompt.score_unit} for c in candidates],
            },
        },
    )
    return Reranking(winner, tuple(own for _, own in ranked))


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    score: float
    scores: tuple[float, ...]
    pictures: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures of texts and what they are worth; each text is drawn once."""

    generate: Generate
    image_score: ImageScore | None
    seeds: tuple[int, ...]
    known: dict[str, _Drawn] = dataclasses.field(default_factory=dict)

    def of(self, texts: Sequence[str]) -> list[_Drawn]:
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            by_seed = [self._drawn(new, seed) for seed in self.seeds]
            for place, text in enumerate(new):
                scores = tuple(scores[place] for _, scores in by_seed)
                pictures = tuple(pictures[place] for pictures, _ in by_seed)
                self.known[text] = _Drawn(math.fsum(scores) / len(scores), scores, pictures)
        return [self.known[text] for text in texts]

    def _drawn(self, texts: list[str], seed: int) -> tuple[list[Image.Image], list[float]]:
        pictures = load_images(list(self.generate(texts, seed)))
        if len(pictures) != len(texts):
            raise ImageError(f"generate returned {len(pictures)} pictures for {len(texts)} prompts; it needs one each")
        scores = [0.0] * len(texts) if self.image_score is None else [float(s) for s in self.image_score(pictures)]
        if len(scores) != len(texts) or any(math.isnan(score) for score in scores):
            raise ImageError(f"image_score must return {len(texts)} numbers, one for each picture, got {scores}")
        return pictures, scores


# --- evolution ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Individual:
    """One prompt of an evolution.

    Attributes:
        text: the prompt, which goes into the slot of the template.
        token_ids: of the model whose vocabulary it was bred in.
        generation: 0 for those that it began with.
        parents: the texts of the two that it comes from; empty in generation 0.
        score: the mean image score of its pictures; where someone chooses, how often it was chosen.
        pictures: one for each seed, RGB.
    """

    text: str
    token_ids: tuple[int, ...]
    generation: int
    parents: tuple[str, ...]
    score: float
    pictures: tuple[Image.Image, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Lineage:
    """The outcome of `evolve`.

    Attributes:
        prompt: the best prompt.
        individuals: all that were drawn, in order of birth.
    """

    prompt: HardPrompt
    individuals: tuple[Individual, ...]

    def generation(self, number: int) -> tuple[Individual, ...]:
        """Those born in one generation; 0 are those that it began with."""
        return tuple(own for own in self.individuals if own.generation == number)

    def ancestors(self, text: str) -> tuple[Individual, ...]:
        """All that a prompt comes from, in order of birth.

        Raises:
            LookupError: there is no such prompt.
        """
        by_text = {own.text: own for own in self.individuals}
        if text not in by_text:
            raise LookupError(f"no prompt {text!r} in this lineage; there are {len(by_text)} others")
        found: set[str] = set()
        waiting = list(by_text[text].parents)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(by_text[name].parents)
        return tuple(own for own in self.individuals if own.text in found)

    def grid(self, columns: int = 8) -> Image.Image:
        """The first picture of every prompt with its text and score, each generation in rows of its own."""
        cells: list[tuple[Image.Image | None, str]] = []
        for number in range(1 + max(own.generation for own in self.individuals)):
            row: list[tuple[Image.Image | None, str]] = [
                (own.pictures[0], f"{number}: {own.text}  {own.score:.3f}") for own in self.generation(number)
            ]
            cells += row + [(None, "")] * (-len(row) % columns)
        return picture_grid([picture for picture, _ in cells], [caption for _, caption in cells], columns)


#: A person, or a rule: given all individuals that may go on, the places of those that do, best first; none to stop.
Choose: TypeAlias = Callable[[Sequence[Individual]], Sequence[int]]


def evolve(
    parents: Sequence[HardPrompt | str],
    generate: Generate,
    backend: Backend,
    image_score: ImageScore | None = None,
    *,
    choose: Choose | None = None,
    template: str = "{}",
    generations: int = 5,
    population: int = 8,
    survivors: int = 4,
    crossover: Literal["uniform", "one-point"] = "uniform",
    mutation_rate: float = 0.1,
    neighbours: int = 16,
    max_tokens: int | None = None,
    vocabulary: Vocabulary | None = None,
    seeds: Sequence[int] = (0,),
    seed: int | None = None,
    deadline: float | None = None,
    callback: Callback | None = None,
) -> Lineage:
    """Prompts bred from others by the pictures that they make: cross, draw, select, repeat.

    Crossing the prompts of two images gives pictures with something of both.

    Args:
        parents: two or more prompts, of one image each, say; at least one.
        generate: makes the pictures; each prompt is drawn once with each of `seeds`.
        backend: the model whose tokens the prompts are bred in; only its vocabulary is used.
        image_score: what a picture is worth (see `likeness`): the best survive.
        choose: a person, or a rule, that selects in its stead, and is shown the scores if there are any.
        template: the text that the prompts are for, and are drawn in.
        generations: after that of the parents.
        population: children in each generation.
        survivors: prompts that may have children; where someone chooses, it is all that were chosen.
        crossover, mutation_rate, neighbours, max_tokens: see `hardprompts.methods.evolution.Evolution`.
        vocabulary: the tokens that mutations may bring in (`backend.vocabulary.without(...)`, `.only(...)`);
            default: all of the model's.
        seed: of crossing and mutating; default: drawn, and recorded.
        deadline, callback: see `run_search`; an interrupt returns the best so far too.

    Raises:
        ValueError: neither `image_score` nor `choose`, no seeds, or a number out of range.
        VocabularyError: there are no parents, or one does not survive the round trip.
        TemplateError: a parent does not fit into the model's context.
        ImageError: `generate` or `image_score` returned another number of results than asked for, or NaN.

    Source: PH2P, arXiv 2312.12416, evolutionary generation.
    """
    if image_score is None and choose is None:
        raise ValueError("evolve needs image_score or choose: without one of them nothing is selected")
    if not seeds or generations < 0:
        raise ValueError(f"evolve needs a seed and no less than 0 generations, got {list(seeds)}, {generations}")
    if not parents:
        raise VocabularyError("there are no parents; give two prompts or more")
    slot, words = PromptTemplate(template), backend.vocabulary if vocabulary is None else vocabulary
    first = [_ids_of(parent if isinstance(parent, str) else parent.text, words, slot) for parent in parents]
    before, after = words.template_ids(slot)
    room = backend.text_encoder.max_tokens - len(before) - len(after)
    limit = max(map(len, first)) if max_tokens is None else max_tokens
    check_length(max(limit, *map(len, first)), room, slot, backend.name)
    record = _Record(words, slot, _Pictures(generate, image_score, tuple(seeds)), choose)
    for ids in first:
        record.births.setdefault(ids, (0, ()))
    search = Evolution(
        population=population, survivors=survivors, crossover=crossover, mutation_rate=mutation_rate,
        neighbours=neighbours, max_tokens=limit, choose=None if choose is None else record.chosen_of,
        born=record.born,
    )  # fmt: skip
    (result,) = run_search(
        search, record, record, words, pack(first), template=slot, max_steps=generations, top_k=max(10, survivors),
        seed=seed, deadline=deadline, callback=callback,
    )  # fmt: skip
    return Lineage(record.prompt(result, backend, search, generations), record.individuals())


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """The score of one evolution, and what it has seen of it: births, pictures, choices."""

    vocabulary: Vocabulary
    template: PromptTemplate
    pictures: _Pictures
    choose: Choose | None
    births: dict[tuple[int, ...], tuple[int, tuple[tuple[int, ...], ...]]] = dataclasses.field(default_factory=dict)
    times_chosen: "collections.Counter[tuple[int, ...]]" = dataclasses.field(default_factory=collections.Counter)
    last_chosen: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    unit = "mean image score"

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        raise TypeError("pictures have no gradient at the tokens of their prompt")

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        drawn = self.pictures.of([self._filled(tuple(row)) for row in ids.tolist()])
        return torch.tensor([entry.score for entry in drawn], device=ids.device)

    def born(self, child: tuple[int, ...], parents: tuple[tuple[int, ...], tuple[int, ...]], generation: int) -> None:
        self.births[child] = (generation, tuple(dict.fromkeys(parents)))

    def chosen_of(self, task: int, prompts: Sequence[tuple[int, ...]]) -> list[int]:
        assert self.choose is not None
        places = [int(place) for place in self.choose([self._individual(ids) for ids in prompts])]
        if any(not 0 <= place < len(prompts) for place in places):
            raise ValueError(f"choose must return places from 0 to {len(prompts) - 1}, got {places}")
        places = list(dict.fromkeys(places))
        if places:
            self.last_chosen[:] = [prompts[place] for place in places]
        self.times_chosen.update(prompts[place] for place in places)
        return places

    def _filled(self, ids: tuple[int, ...]) -> str:
        return self.template.fill(self.vocabulary.decode(ids))

    def _individual(self, ids: tuple[int, ...]) -> Individual:
        generation, parents = self.births[ids]
        drawn = self.pictures.known[self._filled(ids)]
        texts = tuple(self.vocabulary.decode(parent) for parent in parents)
        score = float(self.times_chosen[ids]) if self.pictures.image_score is None else drawn.score
        return Individual(self.vocabulary.decode(ids), ids, generation, texts, score, drawn.pictures)

    def individuals(self) -> tuple[Individual, ...]:
        """All that were drawn: an interrupt may come between birth and picture."""
        return tuple(self._individual(ids) for ids in self.births if self._filled(ids) in self.pictures.known)

    def prompt(self, result: SearchResult, backend: Backend, search: Evolution, generations: int) -> HardPrompt:
        candidates, unit = result.candidates, self.unit
        if self.choose is not None:
            chosen = [self._individual(ids) for ids in self.last_chosen]
            candidates = tuple(Candidate(own.text, own.token_ids, own.score) for own in chosen) or candidates
            unit = "times chosen" if self.pictures.image_score is None else unit
        best = candidates[0]
        return HardPrompt(
            text=best.text,
            token_ids=best.token_ids,
            score=best.score,
            template=self.template.text,
            model=backend.name,
            method="evolution",
            score_unit=unit,
            tokens=self.vocabulary.token_texts(best.token_ids),
            candidates=candidates,
            history=result.history,
            seed=result.seed,
            stop_reason=result.stop_reason,
            evaluations=result.evaluations,
            provenance={
                "parents": [
                    self.vocabulary.decode(ids) for ids, (generation, _) in self.births.items() if not generation
                ],
                "generations": generations,
                "population": search.population,
                "crossover": search.crossover,
                "mutation_rate": search.mutation_rate,
                "seeds": list(self.pictures.seeds),
                "hardprompts": _version(),
            },
        )


# --- looking ------------------------------------------------------------------------------


def picture_grid(
    images: Sequence[Image.Image | None],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    cell: int | None = None,
) -> Image.Image:
    """One RGB picture of several, row by row, on white, each with its caption below.

    Args:
        images: of any sizes; None leaves a place empty.
        captions: one for each; long ones are broken into lines.
        columns: pictures in a row.
        cell: the longer side of each picture, in pixels, to which it is scaled; default: that of the largest, but
            no less than 128, so that captions can be read.

    Raises:
        ValueError: no images, `columns` or `cell` below 1, or another number of captions than of images.
    """
    given = [image for image in images if image is not None]
    if not given or columns < 1 or (cell is not None and cell < 1):
        raise ValueError(f"a grid needs images, columns and a cell, got {len(given)}, {columns}, {cell}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must be {len(images)}, one for each image, got {len(captions)}")
    side = max(128, *(max(image.size) for image in given)) if cell is None else cell
    size, gap = max(10, side // 14), max(4, side // 20)
    font = ImageFont.load_default(size)
    lines = [textwrap.wrap(text, max(8, round(side / (0.55 * size)))) for text in captions or [""] * len(images)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    texts = [max(len(own) for own in lines[row * columns : (row + 1) * columns]) for row in range(rows)]
    heights = [side + gap + count * (size + 3) for count in texts]
    grid = Image.new("RGB", (columns * (side + gap) + gap, sum(heights) + gap * (rows + 1)), "white")
    draw = ImageDraw.Draw(grid)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        left, top = gap + column * (side + gap), gap + sum(heights[:row]) + gap * row
        if image is not None:
            scale = side / max(image.size)
            shape = tuple(max(1, round(scale * length)) for length in image.size)
            scaled = image.convert("RGB").resize((shape[0], shape[1]), Image.Resampling.LANCZOS)
            grid.paste(scaled, (left + (side - shape[0]) // 2, top + (side - shape[1]) // 2))
        for number, line in enumerate(lines[place]):
            draw.text((left, top + side + gap // 2 + number * (size + 3)), line, font=font, fill="#222")
    return grid


def _version() -> str:
    return importlib.metadata.version("hardprompts")
