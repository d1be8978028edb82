"""Evidence as people get it: of a prompt and pictures, within what is left of a call."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hardprompts.allowance import Allowance, clock
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.calibration import EvidenceCalibration
from hardprompts.inversion.evidence.contrast import false_words
from hardprompts.inversion.evidence.looks import Looks
from hardprompts.inversion.evidence.measures import Measures, Witness
from hardprompts.inversion.evidence.statements import statements
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts.wording import Categories, WordEvidence

#: The scores of whole texts.
ScoresOfTexts = Callable[[Sequence[str]], Sequence[float]]


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceSource:
    """Finds the evidence of prompts.

    Attributes:
        models: who bears witness, the searched model first.
        calibrations: of which the first that fits says how likely phrases are true.
        categories: of phrases, with what a calibration adds.
    """

    models: Sequence[Backend]
    calibrations: Sequence[EvidenceCalibration]
    categories: Categories

    @classmethod
    def of(
        cls, models: Sequence[Backend], calibrations: Sequence[EvidenceCalibration], categories: Categories | None
    ) -> "EvidenceSource":
        """The source of some models.

        Args:
            categories: default: the lists that come with the package, with those of the calibration.
        """
        own = next((one for one in calibrations if one.models[0] == models[0].name), None)
        default = Categories.default()
        return cls(models, calibrations, categories or (default if own is None else own.extended(default)))

    def looks(self, images: Any, seed: int, allowance: Allowance) -> Looks:
        """The pictures as the models see them."""
        return Looks.of(images, self.models, seed, allowance)

    def witness(self, looks: Looks, template: str, scores_of: ScoresOfTexts) -> Witness:
        """What measures phrases against pictures."""
        words = false_words(self.models[0].vocabulary, self.categories)
        return Witness(looks, words, PromptTemplate(template), scores_of)

    def measures(self, prompt: HardPrompt, witness: Witness, allowance: Allowance) -> list[Measures] | None:
        """What is measured of the phrases of a prompt; see `Witness.measures`."""
        found = statements(prompt.text, self.categories)
        return witness.measures(prompt.text, found, allowance) if found else []

    def with_evidence(
        self, prompt: HardPrompt, looks: Looks, scores_of: ScoresOfTexts, allowance: Allowance
    ) -> HardPrompt:
        """The prompt with its evidence, and what that cost."""
        began, passes, before = clock(), allowance.evaluations, len(allowance.left_out)
        measured = self.measures(prompt, self.witness(looks, prompt.template, scores_of), allowance)
        chosen = self.calibration(measured or ())
        left_out = [*looks.left_out, *allowance.left_out[before:]]
        if measured and chosen is None:
            left_out.append(f"probabilities of phrases: nothing is calibrated for {self.models[0].name}")
        spent = allowance.evaluations - passes
        told = {
            "passes": spent,
            "seconds": round(clock() - began, 3),
            "calibration": None if chosen is None else chosen.source,
            "witnesses": [model.name for model in self.models],
            "views": looks.whole[0].shape[1],
        }
        return dataclasses.replace(
            prompt,
            evidence=tuple(evidence_of(one, chosen) for one in measured or ()),
            left_out=tuple(dict.fromkeys((*prompt.left_out, *left_out))),
            provenance={**prompt.provenance, "evidence": told},
            evaluations=prompt.evaluations + spent,
        )

    def calibration(self, measured: Sequence[Measures]) -> EvidenceCalibration | None:
        """The calibration that fits what was measured."""
        names = [model.name for model in self.models]
        figures = measured[0].of_pictures[0] if measured else {}
        return next((one for one in self.calibrations if one.fits(names, figures)), None)


def probability_of(measured: Measures, calibration: EvidenceCalibration) -> float:
    """How likely a statement is true of all pictures: what it is of the picture that it fits least."""
    return min(calibration.probability(one, measured.statement.category) for one in measured.of_pictures)


def evidence_of(measured: Measures, calibration: EvidenceCalibration | None) -> WordEvidence:
    """What was measured of a statement, as people get it."""
    return WordEvidence(
        measured.statement.phrase,
        measured.statement.category,
        measured.contribution,
        measured.exchange,
        None if calibration is None else probability_of(measured, calibration),
        measured.regions,
    )
