"""Labeled texts by which prompts are judged: all of them, or as many as the limits of a call leave room for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.classification.measures import Measures
from hardprompts.classification.prompted import PromptedModel

#: Texts that prompts are judged by however little is left.
FEWEST = 8


class JudgedTexts:
    """Labeled texts by which prompts are compared: the same for each prompt.

    Without limits these are all texts. Else the first prompt that is measured decides how many there are: as many,
    drawn at random, as its part of what is left suffices for.

    Attributes:
        passes_of: texts that count as one pass of a prompt, as those that a search scores it by.
    """

    def __init__(
        self, prompted: PromptedModel, texts: Sequence[str], targets: Sequence[int], passes_of: int = FEWEST
    ) -> None:
        self.prompted, self.texts, self.targets, self.passes_of = prompted, list(texts), list(targets), passes_of
        self._chosen: list[int] | None = None

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self.texts) if self._chosen is None else len(self._chosen)

    def measure(
        self, prompt: str | Tensor, allowance: Allowance, parts: int = 1, *, with_category_errors: bool = False
    ) -> Measures | None:
        """How well a prompt does; None where there is no room for all texts that there are.

        A keyboard interrupt goes through.

        Args:
            prompt: text, or a soft prompt as its token embeddings.
            parts: of so many parts of what is left, the first prompt takes one.
        """
        if self._chosen is None and not allowance.is_limited:
            allowance.spend(self._passes(len(self.texts)))
            return self._measured(prompt, range(len(self.texts)), with_category_errors)
        if self._chosen is None:
            return self._first(prompt, allowance.share(parts), with_category_errors)
        if not allowance.affords(self._passes(self.count)):
            return None
        scores = self._scores(prompt, self._chosen, allowance)
        if len(scores) < self.count:
            return None
        return self._of(scores, self._chosen, prompt, with_category_errors)

    def measure_few(self, prompt: str | Tensor) -> Measures:
        """How well a prompt does on all texts that there are, if few are left out; on the fewest otherwise."""
        places = list(range(len(self.texts))) if self._chosen is None else self._chosen
        return self._measured(prompt, places if self._chosen is None else places[:FEWEST], False)

    def note(self, allowance: Allowance, what: str = "held-out texts") -> None:
        """Notes how many texts were left out, if any were."""
        allowance.leave_out(what, self.count, len(self.texts))

    def _first(self, prompt: str | Tensor, allowance: Allowance, with_category_errors: bool) -> Measures:
        """That of the first prompt, whose part of what is left says how many texts are taken."""
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(0)).tolist()
        left = allowance.remaining
        fitting = order if left is None else order[: max(FEWEST, left * self.passes_of)]
        scores = self._scores(prompt, fitting, allowance)
        if len(scores) < min(FEWEST, len(order)):
            scores = self.prompted.class_scores(prompt, [self.texts[i] for i in order[:FEWEST]])
            allowance.spend(1)
        self._chosen = order[: len(scores)]
        return self._of(scores, self._chosen, prompt, with_category_errors)

    def _scores(self, prompt: str | Tensor, places: Sequence[int], allowance: Allowance) -> Tensor:
        """The scores of as many of the texts as there is time for."""
        found = [
            self.prompted.class_scores(prompt, [self.texts[i] for i in part])
            for part in allowance.batches(places, len(places), passes=0)
        ]
        scores = torch.cat(found) if found else torch.zeros(0, len(self.prompted.labels.verbalizer.classes))
        allowance.spend(self._passes(len(scores)))
        return scores

    def _of(self, scores: Tensor, places: Sequence[int], prompt: str | Tensor, with_category_errors: bool) -> Measures:
        targets = [self.targets[i] for i in places]
        if not with_category_errors:
            return Measures.of(scores, targets)
        choices = self.prompted.first_choices(prompt, [self.texts[i] for i in places])
        return Measures.of(scores, targets, choices, self.prompted.labels.first_ids)

    def _measured(self, prompt: str | Tensor, places: Sequence[int], with_category_errors: bool) -> Measures:
        texts, targets = [self.texts[i] for i in places], [self.targets[i] for i in places]
        return self.prompted.measure(prompt, texts, targets, with_category_errors=with_category_errors)

    def _passes(self, texts: int) -> int:
        return -(-texts // self.passes_of)
