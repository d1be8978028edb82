"""What a search found, as people get it: chosen by length or trade-off, and scored on its text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.lengths import best_by_length
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.readability import TextLikelihood, fluency, pareto_front
from hardprompts.inversion.space import SearchSpace
from hardprompts.inversion.styles import Styling, without_loose_commas
from hardprompts.inversion.targets import Target, scores_of_texts, similarity_with
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate, TradeOff
from hardprompts.search.protocol import SearchResult, StopReason
from hardprompts.search.results import hard_prompt_of, rescored


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Makes prompts of the results of a search.

    Attributes:
        prior: whose fluency trade-offs are weighed by.
        fluency_model: what says how fluent a prompt is, and nothing else.
        opposed: what fits least was looked for.
        unsearched: the results are what was proposed.
        method, method_settings, settings: what prompts say of how they were found.
    """

    backend: Backend
    space: SearchSpace
    prior: TextLikelihood | None
    fluency_model: TextLikelihood | None
    options: InversionOptions
    opposed: bool
    unsearched: bool
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
            return scores_of_texts(self.backend, [slot.fill(text) for text in texts], target.plain_mean)

        found = self.space.required.whole(self._chosen(result, target, allowance), vocabulary, slot)
        if options.style == "tags":
            found = tuple(without_loose_commas(one, vocabulary, slot) for one in found)
        candidates = rescored(found, scores_of, allowance)
        pareto: tuple[TradeOff, ...] = ()
        if options.pareto:
            pareto = _front(candidates, self.prior, slot, allowance, -1.0 if self.opposed else 1.0)
            others = (one.candidate for one in pareto if one.candidate.text != candidates[0].text)
            candidates = (candidates[0], *others)
        fluent = self.fluency(slot.fill(candidates[0].text), allowance)
        if self.unsearched and result.stop_reason == StopReason.CONVERGED:
            result = dataclasses.replace(result, stop_reason=StopReason.PROPOSED)
        return hard_prompt_of(
            result,
            candidates,
            vocabulary=vocabulary,
            template=slot,
            model=self.backend.name,
            method="proposals" if self.unsearched else self.method,
            method_settings=self.method_settings,
            allowance=allowance,
            scores_of=None if options.fast else lambda rows: scores_of([vocabulary.decode(ids) for ids in rows]),
            settings=self.settings,
            pareto=pareto,
            fluency=fluent,
        )

    def fluency(self, text: str, allowance: Allowance) -> float | None:
        """How fluent a whole text is; None where no model was asked, or there is no room to."""
        model = self.fluency_model
        if model is None:
            return None
        told = allowance.measured("fluency", [text], lambda texts: list(fluency(texts, model).tolist()))
        return None if told is None else told[0]

    def _chosen(self, result: SearchResult, target: Target, allowance: Allowance) -> tuple[Candidate, ...]:
        """The candidates that people get, without the required words."""
        candidates = result.candidates[:1] if self.options.fast else result.candidates
        if self.options.style in ("tags", "keywords"):
            return self._styled(self.options.style, candidates, target, allowance)
        if self.options.fast:
            return candidates
        if self.options.shortest is None and not self.options.pareto:
            return result.candidates
        alone = similarity_with(self.backend, [self._aim(target)], self.space.required.template)
        by_length = best_by_length(result.best, alone, self.space.words, self.options.shortest, result.seed, allowance)
        return by_length if self.options.shortest is not None else (*result.candidates, *by_length)

    def _styled(
        self, style: str, candidates: Sequence[Candidate], target: Target, allowance: Allowance
    ) -> tuple[Candidate, ...]:
        """The candidates as tags or keywords, without the required words."""
        template, aim = self.space.required.template, self._aim(target)

        def scores_of(texts: Sequence[str]) -> list[float]:
            return scores_of_texts(self.backend, [template.fill(text) for text in texts], aim.plain_mean)

        styling = Styling(style, self.space.words, template, scores_of, self.backend.name)
        return styling.written(candidates, allowance)

    def _aim(self, target: Target) -> Target:
        """What prompts are to be similar to, also where they are to fit least."""
        return target.opposite if self.opposed else target


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
