"""Evidence of prompts: of one that is given with its pictures, and of those that a call of an inverter has found."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hardprompts.allowance import Allowance, clock
from hardprompts.encoders import Backend
from hardprompts.inversion.answers import Answers
from hardprompts.inversion.evidence.bound import EvidenceBound
from hardprompts.inversion.evidence.calibration import EvidenceCalibration
from hardprompts.inversion.evidence.looks import Looks
from hardprompts.inversion.evidence.source import EvidenceSource, ScoresOfTexts
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.targets import Target, scores_of_texts
from hardprompts.inversion.views import ViewFeatures
from hardprompts.inversion.words import chosen_words
from hardprompts.prompts import HardPrompt
from hardprompts.search.results import BY_HAND, written_by_hand
from hardprompts.wording import Categories


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceFinder:
    """Finds what speaks for the phrases of prompts.

    Attributes:
        backend: the searched model.
        source: what is measured, and what it says of the truth.
    """

    backend: Backend
    source: EvidenceSource

    @classmethod
    def of(
        cls,
        backend: Backend,
        judge: Backend | None,
        calibrations: Sequence[EvidenceCalibration],
        categories: Categories | None = None,
    ) -> "EvidenceFinder":
        """The finder of a model and its judge."""
        models = [backend] if judge is None else [backend, judge]
        return cls(backend, EvidenceSource.of(models, calibrations, categories))

    def of_prompt(self, prompt: HardPrompt | str, images: Any, options: InversionOptions) -> HardPrompt:
        """A prompt with its evidence; see `PromptInverter.evidence`."""
        began, allowance = clock(), options.allowance()
        return self.of_looks(prompt, self.source.looks(images, 0, allowance), options, allowance, began)

    def of_looks(
        self, prompt: HardPrompt | str, looks: Looks, options: InversionOptions, allowance: Allowance, began: float
    ) -> HardPrompt:
        """The same of pictures that were looked at already."""
        mean = looks.whole[0][:, 0].mean(dim=0)
        scores_of = self._scores_with(mean)
        given = prompt
        if not isinstance(given, HardPrompt):
            (score,) = scores_of([given])
            given = written_by_hand(given, self.backend.vocabulary, self.backend.name, score)
        searched = given.model == self.backend.name and given.method != BY_HAND
        witness = self.source.witness(looks, given.template, scores_of, searched)
        if options.min_evidence is None:
            measured = self.source.measures(given.text, witness, allowance)
            return self.source.told(given, measured, witness, allowance, began)
        whole = dataclasses.replace(options, num_tokens=max(len(given.token_ids), options.num_tokens))
        words = chosen_words(self.backend.vocabulary, whole, (given.text,), whole_phrases=False)
        bound = EvidenceBound.of(self.source, witness, self.backend, mean, words, whole)
        return self.source.told(*bound.applied(given, allowance), witness, allowance, began)

    def of_results(
        self,
        prompts: Sequence[HardPrompt],
        images: Sequence[Any],
        seen: Sequence[ViewFeatures],
        targets: Sequence[Target],
        answers: Answers,
        seed: int,
        allowance: Allowance,
    ) -> list[HardPrompt]:
        """The prompts of tasks with what speaks for their phrases, for as many passes as were spent so far.

        Args:
            seen: what the search saw of the images.
            answers: what the prompts were made by, with the options of the call.
        """
        spent, options, found = allowance.evaluations, answers.options, list[HardPrompt]()
        for task, (prompt, own, known, target) in enumerate(zip(prompts, images, seen, targets, strict=True)):
            began, left = clock(), len(prompts) - task
            share = allowance.share(left, min(spent, allowance.remaining or spent) // left)
            looks, scores_of = self.source.looks(own, seed, share, known), self._scores_with(target.plain_mean)
            witness = self.source.witness(looks, prompt.template, scores_of)
            if options.min_evidence is None:
                kept, measured = prompt, self.source.measures(prompt.text, witness, share)
            else:
                mean, words = target.plain_mean, answers.space.words
                bound = EvidenceBound.of(self.source, witness, self.backend, mean, words, options)
                kept, measured = bound.applied(prompt, share)
            if kept.text != prompt.text:
                kept = dataclasses.replace(kept, fluency=answers.fluency(kept.filled, share))
            found.append(self.source.told(kept, measured, witness, share, began))
        return found

    def _scores_with(self, mean: Tensor) -> ScoresOfTexts:
        """The similarity of texts with the mean features of images."""
        return functools.partial(scores_of_texts, self.backend, mean=mean)
