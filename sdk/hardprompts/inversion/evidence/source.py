"""Evidence as people get it: of a prompt and pictures, within what is left of a call."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hardprompts.allowance import Allowance, clock
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.calibration import EvidenceCalibration
from hardprompts.inversion.evidence.known_words import KnownWords, known_words
from hardprompts.inversion.evidence.looks import Looks
from hardprompts.inversion.evidence.measures import Measures, Witness
from hardprompts.inversion.evidence.statements import statements
from hardprompts.inversion.views import ViewFeatures
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
        thorough: phrases are measured against all words that the searched model knows, as calibrations need it; else
            against some of each category, which says well enough where they hold. Reading all words of a large model
            takes a minute.
    """

    models: Sequence[Backend]
    calibrations: Sequence[EvidenceCalibration]
    categories: Categories
    thorough: bool = True

    @classmethod
    def of(
        cls, models: Sequence[Backend], calibrations: Sequence[EvidenceCalibration], categories: Categories | None
    ) -> "EvidenceSource":
        """The source of some models, thorough if something is calibrated for them.

        Args:
            categories: default: the lists that come with the package, with those of the calibration.
        """
        own = next((one for one in calibrations if one.models[0] == models[0].name), None)
        default = Categories.default()
        extended = categories or (default if own is None else own.extended(default))
        return cls(models, calibrations, extended, thorough=own is not None)

    def looks(self, images: Any, seed: int, allowance: Allowance, known: ViewFeatures | None = None) -> Looks:
        """The pictures as the models see them; see `Looks.of`."""
        return Looks.of(images, self.models, seed, allowance, known)

    def witness(
        self,
        looks: Looks,
        template: str,
        scores_of: ScoresOfTexts,
        searched: bool = True,
    ) -> Witness:
        """What measures phrases against pictures; see `Witness`."""
        return Witness(looks, self.known_words, PromptTemplate(template), scores_of, searched, self.thorough)

    @property
    def known_words(self) -> KnownWords:
        """What phrases are measured against."""
        return known_words(self.models[0].vocabulary, self.categories)

    def measures(self, text: str, witness: Witness, allowance: Allowance) -> list[Measures] | None:
        """What is measured of the statements of a text; see `Witness.measures`."""
        found = statements(text, self.categories)
        return witness.measures(text, found, allowance) if found else []

    def probability(self, measured: Measures) -> float | None:
        """How likely a statement is true of all pictures: what it is of the one that it fits least.

        None where nothing is calibrated for what was measured.
        """
        calibration = self.calibration(measured)
        if calibration is None:
            return None
        return min(calibration.probability(one, measured.statement.category) for one in measured.of_pictures)

    def calibration(self, measured: Measures) -> EvidenceCalibration | None:
        """The first calibration that fits what was measured."""
        names, figures = [model.name for model in self.models], measured.of_pictures[0]
        return next((one for one in self.calibrations if one.fits(names, figures, measured.searched)), None)

    def evidence(self, measured: Sequence[Measures]) -> tuple[WordEvidence, ...]:
        """What was measured of statements, as people get it."""
        return tuple(
            WordEvidence(
                one.statement.phrase,
                one.statement.category,
                one.contribution,
                one.exchange,
                self.probability(one),
                one.regions,
            )
            for one in measured
        )

    def told(
        self,
        prompt: HardPrompt,
        measured: Sequence[Measures] | None,
        witness: Witness,
        allowance: Allowance,
        began: float,
    ) -> HardPrompt:
        """The prompt with its evidence, what that cost, and what was left out.

        Args:
            measured: of its statements; None where there was no room.
            allowance: what was spent on it.
            began: when that began, by `clock`.
        """
        names = [model.name for model in self.models]
        left_out = [*witness.looks.left_out, *allowance.left_out]
        used = next(filter(None, map(self.calibration, measured or ())), None)
        if measured and used is None:
            left_out.append(f"probabilities of phrases: 0 of {len(measured)}, nothing is calibrated for {names[0]}")
        cost = {
            "passes": allowance.evaluations,
            "seconds": round(clock() - began, 3),
            "calibration": None if used is None else used.source,
            "witnesses": names,
            "views": witness.looks.whole[0].shape[1],
        }
        return dataclasses.replace(
            prompt,
            evidence=self.evidence(measured or ()),
            left_out=tuple(dict.fromkeys((*prompt.left_out, *left_out))),
            provenance={**prompt.provenance, "evidence": cost},
            evaluations=prompt.evaluations + allowance.evaluations,
        )
