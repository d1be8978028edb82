"""Styles: what a search found, written anew as tags or as keywords, the most important first."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from hardprompts.allowance import Allowance
from hardprompts.errors import VocabularyError
from hardprompts.prompts import Candidate, PromptTemplate
from hardprompts.vocabulary import Vocabulary

#: What stands between the parts of tags and of keywords.
SEPARATORS = {"tags": ", ", "keywords": " "}

#: The share of the score that two words must gain side by side, over a comma between them, to be a phrase.
PHRASE_GAIN = 0.005

#: Words, or phrases of several words.
Parts = tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Styling:
    """Writes prompts as tags or keywords.

    Attributes:
        vocabulary: of the model, and what must not occur.
        template: the text around the prompt.
        scores_of: the scores of texts in the template, higher is better.
        model: its name, for messages.
    """

    style: str
    vocabulary: Vocabulary
    template: PromptTemplate
    scores_of: Callable[[Sequence[str]], Sequence[float]]
    model: str

    def written(self, candidates: Sequence[Candidate], allowance: Allowance) -> tuple[Candidate, ...]:
        """The candidates in the style, without repeats; behind the first, only those that the limits allow.

        Where there is no room to measure what is most important, parts stay in the order of the search.

        Raises:
            VocabularyError: the model cannot read commas back.
        """
        found: dict[str, Candidate] = {}
        for done, candidate in enumerate(candidates):
            if done and not allowance.affords(len(candidate.token_ids) ** 2):
                allowance.leave_out(f"candidates as {self.style}", done, len(candidates))
                break
            text = self._text(candidate.text, allowance, "" if done else f"the order of {self.style}")
            found.setdefault(text, dataclasses.replace(candidate, text=text, token_ids=self._ids(text)))
        return tuple(found.values())

    def _text(self, text: str, allowance: Allowance, what: str) -> str:
        parts = tuple({word.lower(): word for word in reversed(text.split())}.values())[::-1]
        if self.style == "tags":
            self._check_commas(parts)
            parts = self._phrases(parts, allowance, what)
        ranked = self._ranked(parts, allowance, what)
        choices = (ranked, parts, *(ranked[place:] + ranked[:place] for place in range(1, len(ranked))))
        for choice in choices:
            if self._admits(written := self._join(choice)):
                return written
        return text  # every other order of its words spells something banned

    def _check_commas(self, words: Parts) -> None:
        orders = (words[place:] + words[:place] for place in range(len(words)))
        if words and not any(self._admits(self._join(order)) for order in orders):
            raise VocabularyError(
                f"{self.model} does not read {self._join(words)!r} back as it is written, or it is banned: "
                "style='tags' needs commas; use style='keywords'"
            )

    def _phrases(self, words: Parts, allowance: Allowance, what: str) -> Parts:
        """Words that the model likes better side by side than with a comma between them, joined to phrases."""
        if len(words) < 2:
            return words
        best, score = words, self._measured([words], allowance, what)
        while score is not None and len(best) > 1:
            joined = [one for one in _joined(best) if self._admits(self._join(one))]
            told = self._measured(joined, allowance, what)
            if not told or max(told) <= score[0] + PHRASE_GAIN * abs(score[0]):
                break
            place = max(range(len(told)), key=told.__getitem__)
            best, score = joined[place], [told[place]]
        return best

    def _ranked(self, parts: Parts, allowance: Allowance, what: str) -> Parts:
        """The parts without which the prompt loses most first."""
        if len(parts) < 2:
            return parts
        told = self._measured([parts[:place] + parts[place + 1 :] for place in range(len(parts))], allowance, what)
        if told is None:
            return parts
        return tuple(parts[place] for place in sorted(range(len(parts)), key=told.__getitem__))

    def _measured(self, choices: Sequence[Parts], allowance: Allowance, what: str) -> list[float] | None:
        return allowance.measured(what, [self._join(one) for one in choices], self.scores_of)

    def _join(self, parts: Parts) -> str:
        return SEPARATORS[self.style].join(parts)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.vocabulary.encode(text))

    def _admits(self, text: str) -> bool:
        ids = self._ids(text)
        # Some tokenizers pass over commas.
        return self.vocabulary.decode(ids).count(",") == text.count(",") and self.vocabulary.admits(ids, self.template)


def without_loose_commas(candidate: Candidate, vocabulary: Vocabulary, template: PromptTemplate) -> Candidate:
    """The same with commas directly behind words, if the model reads the same tokens then."""
    text = candidate.text.replace(" ,", ",")
    same = vocabulary.encode(template.fill(text)) == vocabulary.encode(template.fill(candidate.text))
    return dataclasses.replace(candidate, text=text) if same else candidate


def _joined(parts: Parts) -> Iterator[Parts]:
    for place in range(len(parts) - 1):
        yield (*parts[:place], f"{parts[place]} {parts[place + 1]}", *parts[place + 2 :])
