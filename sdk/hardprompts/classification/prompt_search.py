"""The searches of a fit: one for each seed, each of which a checkpoint may hold already."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.classification.data import Examples, stratified
from hardprompts.classification.files import SavedSearch
from hardprompts.classification.objective import LabelLikelihood
from hardprompts.classification.options import TunerOptions
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.rows import Row
from hardprompts.search.protocol import BY_CALLER, Search, SearchResult
from hardprompts.search.rows import random_starts
from hardprompts.search.seeds import SEEDS, Stream
from hardprompts.vocabulary import Vocabulary

#: Random prompts whose spread is the unit of what a token costs.
RANDOM_PROMPTS = 16

#: Of what is left of a search, one part in so many may go into that.
SPREAD_SHARE = 4

#: Options that do not change what is found, or that the fingerprint describes in another way.
_NOT_IN_FINGERPRINT = (
    "method", "seeds", "seed", "checkpoint", "callback", "progress", "vocabulary", "verbalizer", "vram",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class PromptSearch:
    """Searches for prompts that make a model say the right label words.

    Attributes:
        prompted: the model, in its template, with its label words.
        examples: as they are cut to the model's context.
    """

    prompted: PromptedModel
    examples: Examples
    options: TunerOptions
    method: Search

    def results(self, seed: int, allowance: Allowance) -> list[SearchResult]:
        """What the searches with `seed`, `seed` + 1, ... found; those that a checkpoint holds are taken from there.

        A search that the user stops is the last one.
        """
        found: list[SearchResult] = []
        for own in range(seed, seed + self.options.seeds):
            part = allowance.share(seed + self.options.seeds - own)
            search = functools.partial(self._result, own % SEEDS, part)
            found.append(part.insist(search) if found else search())  # what was found must not be lost
            if found[-1].stop_reason in BY_CALLER:
                break
        return found

    def _result(self, seed: int, allowance: Allowance) -> SearchResult:
        if self.options.checkpoint is None:
            return self._run(seed, allowance)
        saved = SavedSearch(Path(self.options.checkpoint), seed, self._fingerprint)
        kept = saved.read()
        if kept is not None:
            allowance.spend(kept.evaluations)  # as if it had run now, so that those after it have as much left
            return kept
        result = self._run(seed, allowance)
        if result.stop_reason not in BY_CALLER:
            saved.write(result)
        return result

    def _run(self, seed: int, allowance: Allowance) -> SearchResult:
        objective = self._objective(seed)
        cost = self._score_per_token(objective, seed, allowance)
        (result,) = dataclasses.replace(self.options, seed=seed).run(
            self.method,
            objective,
            objective,
            self.words,
            self._starts(seed),
            template=self.prompted.encoder.template.for_search(),
            score_per_token=cost,
            description="prompt",
            allowance=allowance,
            room=self.options.room(self.words, self.method, objective, ()),
        )
        return result

    def _score_per_token(self, objective: LabelLikelihood, seed: int, allowance: Allowance) -> float:
        """What a token must add to the score: a share of the spread of random prompts, if there is room for them."""
        if not self.options.token_cost or not allowance.share(SPREAD_SHARE).affords(RANDOM_PROMPTS):
            return 0.0
        allowance.spend(RANDOM_PROMPTS)
        drawn = self.words.sample((RANDOM_PROMPTS, self.options.num_tokens), Stream.STARTS.generator(seed))
        scores = objective.score(drawn, torch.zeros(RANDOM_PROMPTS, dtype=torch.long, device=drawn.device))
        return self.options.token_cost * float(scores.std())

    @functools.cached_property
    def words(self) -> Vocabulary:
        """The tokens that may be used."""
        options, vocabulary = self.options, self.prompted.encoder.model.vocabulary
        if options.words is None or isinstance(options.words, bool):
            return vocabulary.narrowed(options.vocabulary, options.banned, options.words)
        return vocabulary.narrowed(options.vocabulary, options.banned).only(options.words)

    @functools.cached_property
    def _rows(self) -> list[Row]:
        return [self.prompted.encoder.row(text) for text in self.examples.texts]

    def _objective(self, seed: int) -> LabelLikelihood:
        options, learn = self.options, self.examples.learn
        _, targets = self.examples.learned
        generator = Stream.BATCHES.generator(seed)
        objective = LabelLikelihood(
            self.prompted.reader,
            [self._rows[i] for i in learn],
            targets,
            sample_size=options.batch_size,
            scored=stratified(targets, options.score_size, generator),
            fluency_weight=options.fluency_share(self.prompted.encoder.model),
            fluency=options.fluency,
            length_normalized=options.length_normalized,
            generator=generator,
        )
        if len(learn) <= min(options.batch_size, options.score_size):  # every pass takes them all
            return dataclasses.replace(objective, sample_size=None, scored=None)
        return objective

    def _starts(self, seed: int) -> Int[Tensor, "rows tokens"]:
        options, words = self.options, self.words
        ids = random_starts(words, options.starts, options.num_tokens, seed, options.initial_prompt)
        if options.init == "labels" and options.initial_prompt is None:
            tokens = [i for word in self.prompted.labels.ids for i in word if bool(words.allowed[i])]
            if tokens:
                repeated = [tokens[i % len(tokens)] for i in range(options.num_tokens)]
                ids[0] = torch.tensor(repeated, device=ids.device)
        return ids

    @functools.cached_property
    def _fingerprint(self) -> str:
        """What a search depends on, beside its seed."""
        given = self.options.vocabulary
        facts = [
            self.prompted.encoder.model.name,
            {
                field.name: repr(getattr(self.options, field.name))
                for field in dataclasses.fields(self.options)
                if field.name not in _NOT_IN_FINGERPRINT
            },
            repr(self.method),
            repr(given.allowed_ids.tolist() if isinstance(given, Vocabulary) else given),
            self._rows,
            self.examples.targets,
            self.examples.learn,
            self.prompted.labels.ids,
        ]
        return hashlib.sha256(json.dumps(facts, default=repr).encode()).hexdigest()
