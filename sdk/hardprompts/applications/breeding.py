"""What people do with prompts once they have them: join, cross, rank by pictures, and say what to avoid.

Pictures come from a callable, `generate(prompts, seeds)`, which may be a pipeline, an API or a person's
own program; nothing here knows a model that draws.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from hardprompts.applications.joining import _ids_of, _version
from hardprompts.applications.pictures import Generate, ImageScore, _Pictures, picture_grid
from hardprompts.encoders import Backend
from hardprompts.errors import VocabularyError
from hardprompts.methods.evolution import Evolution
from hardprompts.objectives import Evaluation, check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.loop import run_search
from hardprompts.search.markup import read_markup
from hardprompts.search.protocol import Callback, SearchResult
from hardprompts.search.rows import pack
from hardprompts.search.seeds import checked_seed
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary

# --- joining ------------------------------------------------------------------------------


# --- avoiding -----------------------------------------------------------------------------


# --- ranking by pictures ------------------------------------------------------------------


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
    neighbors: int = 16,
    max_tokens: int | None = None,
    vocabulary: Vocabulary | None = None,
    seeds: Sequence[int] = (0,),
    seed: int | None = None,
    deadline: float | None = None,
    callback: Callback | None = None,
) -> Lineage:
    """Prompts bred from others by the pictures that they make: cross, draw, select, repeat.

    Crossing the prompts of two images gives pictures with something of both. This is for what a person likes,
    generation by generation; for the prompt of an image with few pictures of a generator see `invert_by_pictures`.

    Args:
        parents: two or more prompts, of one image each, say; at least one. Of a text with the markup of a UI the words
            alone are taken (see `hardprompts.search.markup`).
        generate: makes the pictures; each prompt is drawn once with each of `seeds`.
        backend: the model whose tokens the prompts are bred in; only its vocabulary is used.
        image_score: what a picture is worth (see `likeness`): the best survive.
        choose: a person, or a rule, that selects instead of the score, and sees the scores if there are any.
        template: the text that the prompts are for, and are drawn in.
        generations: after that of the parents.
        population: children in each generation.
        survivors: prompts that may have children; where someone chooses, it is all that were chosen.
        crossover, mutation_rate, neighbors, max_tokens: see `hardprompts.methods.evolution.Evolution`.
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
    drawing = tuple(checked_seed(one, "each of seeds") for one in seeds)
    if not drawing or generations < 0:
        raise ValueError(f"evolve needs a seed and no less than 0 generations, got {list(drawing)}, {generations}")
    if not parents:
        raise VocabularyError("there are no parents; give two prompts or more")
    slot, words = PromptTemplate(template), backend.vocabulary if vocabulary is None else vocabulary
    first = [
        _ids_of(read_markup(parent).text if isinstance(parent, str) else parent.text, words, slot) for parent in parents
    ]
    room = EmbeddedTemplate.of(words, slot).room(backend.text_encoder.max_tokens)
    limit = max(map(len, first)) if max_tokens is None else max_tokens
    check_length(max(limit, *map(len, first)), room, slot, backend.name)
    record = _Record(words, slot, _Pictures(generate, image_score, drawing), choose)
    for ids in first:
        record.births.setdefault(ids, (0, ()))
    search = Evolution(
        population=population, survivors=survivors, crossover=crossover, mutation_rate=mutation_rate,
        neighbors=neighbors, max_tokens=limit, choose=None if choose is None else record.chosen_of,
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
            tokens=self.vocabulary.pieces(best.token_ids),
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
