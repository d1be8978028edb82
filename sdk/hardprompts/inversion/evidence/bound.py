"""Prompts all of whose phrases are likely true: what is not goes, and what is then missing is looked for again."""

import dataclasses
import functools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.inversion.evidence.measures import Measures, Witness
from hardprompts.inversion.evidence.source import EvidenceSource
from hardprompts.inversion.evidence.statements import Statement, statements, without
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.styles import SEPARATORS
from hardprompts.prompts import Candidate, HardPrompt
from hardprompts.search.results import leave_one_out
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceBound:
    """Keeps of a prompt what is likely true, and adds what it lacks.

    Attributes:
        least: the probability that each phrase must have.
        least_gain: what a word must add to be worth its place, in spreads of the similarity of known words.
        source, witness: what says how likely phrases are true; where nothing is calibrated, all stay.
        backend: the searched model.
        target: unit features that the prompt is to resemble.
        vocabulary: what may be added.
        num_tokens: of the prompt, at most.
        separator: what stands between words that are added; None: nothing is added, since the text is to read well.
        required: phrases that stay, whatever speaks for them.
    """

    least: float
    least_gain: float
    source: EvidenceSource
    witness: Witness
    backend: Backend
    target: Float[Tensor, " features"]
    vocabulary: Vocabulary
    num_tokens: int
    separator: str | None
    required: frozenset[str]

    @classmethod
    def of(
        cls,
        source: EvidenceSource,
        witness: Witness,
        backend: Backend,
        target: Float[Tensor, " features"],
        vocabulary: Vocabulary,
        options: InversionOptions,
    ) -> "EvidenceBound":
        """The bound that was asked for; to a text that somebody wrote nothing is added."""
        adds = witness.searched and options.style != "caption"
        gain = options.TOKEN_COST if options.token_cost is None else options.token_cost
        required = frozenset(word.lower() for phrase in options.required for word in (phrase, *phrase.split()))
        return cls(
            options.min_evidence or 0.0, gain, source, witness, backend, target, vocabulary, options.num_tokens,
            SEPARATORS[options.style or "keywords"] if adds else None, required,
        )  # fmt: skip

    def applied(self, prompt: HardPrompt, allowance: Allowance) -> tuple[HardPrompt, list[Measures] | None]:
        """The prompt within the bound and what was measured of it; as it is, where there is no room to measure it."""
        found = self._bounded(prompt.text, allowance)
        if found is None:
            return prompt, None
        text, measured = found
        if text == prompt.text:
            return prompt, measured
        return self._rewritten(prompt, text, allowance), measured

    def _rewritten(self, prompt: HardPrompt, text: str, allowance: Allowance) -> HardPrompt:
        ids = tuple(self.vocabulary.encode(text))
        (score,) = allowance.insist(lambda: self.witness.scores([text]), passes=1)
        best = Candidate(text, ids, score)

        def scores_of(rows: Sequence[tuple[int, ...]]) -> Sequence[float]:
            return self.witness.scores([self.vocabulary.decode(own) for own in rows])

        return dataclasses.replace(
            prompt,
            text=text,
            token_ids=ids,
            score=score,
            tokens=self.vocabulary.pieces(ids),
            attributions=leave_one_out(best, scores_of, allowance) if prompt.attributions else (),
            candidates=(best, *(one for one in prompt.candidates if one.text != text)),
            weights=None,
        )

    def _bounded(self, text: str, allowance: Allowance) -> tuple[str, list[Measures]] | None:
        """The text that is kept and what was measured of it; None where there was no room to measure any of it.

        How likely a phrase is, is what its figures say in the prompt that the search found, where they are calibrated;
        beside fewer words every phrase would contribute more.
        """
        found = statements(text, self.source.categories)
        measured = self.witness.measures(text, found, allowance) if found else []
        if measured is None:
            return None
        known = {_key(one): one for one in measured}
        false = [one.statement for one in measured if not self._holds(one)]
        kept = self._readable(text, false, found) if false else text
        if self.separator is not None and all(self.source.probability(one) is not None for one in measured):
            kept = self._completed(kept, text, found, known, allowance)
        if kept == text:
            return text, measured
        found = statements(kept, self.source.categories)
        again = self.witness.measures(kept, found, allowance) if found else []
        if again is None:  # then contributions are those in the prompt that was found
            return kept, [known[_key(one)] for one in found if _key(one) in known]
        # Words that only now stand side by side may be another phrase.
        return kept, [one.judged_by(known.get(_key(one), one)) for one in again]

    def _holds(self, measured: Measures) -> bool:
        phrase = measured.statement.phrase.lower()
        probability = self.source.probability(measured)
        return phrase in self.required or probability is None or probability >= self.least

    def _readable(self, text: str, false: list[Statement], found: Sequence[Statement]) -> str:
        """The text without some statements, in an order that the model reads back as it is written."""
        left = without(text, false)
        true = [one.phrase for one in found if one not in false]
        if self._admits(left) or not true:
            return left if true else ""
        between = self.separator or " "
        turned = (between.join(true[place:] + true[:place]) for place in range(len(true)))
        return next(filter(self._admits, turned), true[0] if self._admits(true[0]) else "")

    def _admits(self, text: str) -> bool:
        ids = self.vocabulary.encode(text)
        return bool(ids) and self.vocabulary.admits(ids, self.witness.template)

    # --- what is missing ------------------------------------------------------------------

    def _completed(
        self, kept: str, text: str, said: Sequence[Statement], known: dict[str, Measures], allowance: Allowance
    ) -> str:
        """What is kept of a text with the words that it lacks; what was measured of them goes to `known`.

        Args:
            said: the statements of the text.
        """
        separator = self.separator or " "
        lacking = self.witness.lacking(text, said, separator, allowance) or []
        likely = {
            _key(one): one
            for one in lacking
            if (self.source.probability(one) or 0.0) >= self.least and one.statement.phrase in self._allowed
        }
        (score,) = allowance.insist(lambda: self.witness.scores([kept]), passes=1) if kept and likely else (0.0,)
        while likely:
            texts = {key: f"{kept}{separator}{key}" if kept else key for key in likely}
            texts = {key: longer for key, longer in texts.items() if self._fits(longer)}
            scores = allowance.measured("words looked for again", list(texts.values()), self.witness.scores)
            if not texts or scores is None:
                break
            best, gained = max(zip(texts, scores, strict=True), key=lambda pair: pair[1])
            if gained - score < self.least_gain * self.witness.spread:
                break
            kept, score, known[best] = texts[best], gained, likely.pop(best)
        return kept

    @functools.cached_property
    def _allowed(self) -> frozenset[str]:
        """The words that the call may use."""
        return frozenset(self.vocabulary.decode(unit).strip().lower() for unit in self.vocabulary.units)

    def _fits(self, text: str) -> bool:
        return len(self.vocabulary.encode(text)) <= self.num_tokens and self._admits(text)


def _key(one: Measures | Statement) -> str:
    statement = one.statement if isinstance(one, Measures) else one
    return statement.phrase.lower()
