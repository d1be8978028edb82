"""What a search found, as people get it: chosen by length or trade-off, and scored on its text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.lengths import best_by_length
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.readability import TextLikelihood, pareto_front
from hardprompts.inversion.space import SearchSpace
from hardprompts.inversion.targets import Target, similarity_with
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate, TradeOff
from hardprompts.search.protocol import SearchResult
from hardprompts.search.results import hard_prompt_of, rescored


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Makes prompts of the results of a search.

    Attributes:
        prior: whose fluency trade-offs are weighed by.
        opposed: what fits least was looked for.
        method, method_settings, settings: what prompts say of how they were found.
    """

    backend: Backend
    space: SearchSpace
    prior: TextLikelihood | None
    options: InversionOptions
    opposed: bool
    method: str
    method_settings: Mapping[str, Any]
    settings: Mapping[str, Any]

    def prompt(self, result: SearchResult, target: Target, allowance: Allowance) -> HardPrompt:
        """The prompt of one task, scored on its text by the model's own tokenizer.

        Args:
            target: what it is to resemble.
        """
        options, vocabulary, slot = self.options, self.backend.vocabulary, self.space.slot

        def scores_of(texts: Sequence[str]) -> list[float]:
            return _scores(self.backend, texts, target, slot)

        found = self.space.required.whole(self._chosen(result, target, allowance), vocabulary, slot)
        candidates = rescored(found, scores_of, allowance)
        pareto: tuple[TradeOff, ...] = ()
        if options.pareto:
            pareto = _front(candidates, self.prior, slot, allowance, -1.0 if self.opposed else 1.0)
            others = (one.candidate for one in pareto if one.candidate.text != candidates[0].text)
            candidates = (candidates[0], *others)
        return hard_prompt_of(
            result,
            candidates,
            vocabulary=vocabulary,
            template=slot,
            model=self.backend.name,
            method="proposals" if options.fast else self.method,
            method_settings=self.method_settings,
            allowance=allowance,
            scores_of=None if options.fast else lambda rows: scores_of([vocabulary.decode(ids) for ids in rows]),
            settings=self.settings,
            pareto=pareto,
        )

    def _chosen(self, result: SearchResult, target: Target, allowance: Allowance) -> tuple[Candidate, ...]:
        """The candidates that people get, without the required words."""
        if self.options.fast:
            return result.candidates[:1]
        if self.options.shortest is None and not self.options.pareto:
            return result.candidates
        aim = target.opposite if self.opposed else target
        alone = similarity_with(self.backend, [aim], self.space.required.template)
        by_length = best_by_length(result.best, alone, self.space.words, self.options.shortest, result.seed, allowance)
        return by_length if self.options.shortest is not None else (*result.candidates, *by_length)


def _scores(backend: Backend, texts: Sequence[str], target: Target, template: PromptTemplate) -> list[float]:
    filled = [template.fill(text) for text in texts]
    try:
        features = backend.encode_texts(filled)
    except ValueError:
        if filled != [""]:
            raise
        return [0.0]  # a model that adds no tokens of its own sees nothing in an empty text
    scores: list[float] = (features @ target.plain_mean).tolist()
    return scores


def _front(
    candidates: Sequence[Candidate],
    prior: TextLikelihood | None,
    template: PromptTemplate,
    allowance: Allowance,
    sign: float,
) -> tuple[TradeOff, ...]:
    """What no other candidate betters; a method that looks for what fits least takes less for better."""

    def turned(candidate: Candidate) -> Candidate:
        return dataclasses.replace(candidate, score=sign * candidate.score)

    front = pareto_front([turned(candidate) for candidate in candidates], prior, template, allowance)
    return tuple(
        dataclasses.replace(one, candidate=turned(one.candidate), similarity=sign * one.similarity) for one in front
    )
