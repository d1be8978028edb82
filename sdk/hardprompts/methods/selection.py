"""Selection: the words of a longer prompt that keep most of what it says, in their order."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import pack
from hardprompts.vocabulary import Vocabulary

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Greedy choice of words from a longer prompt: with each step the word that raises the score most comes in.

    All tasks of a run choose from the same words. The words stay in their order, and one that no longer
    fits is passed over. It ends when no word fits, or none raises the score.

    Attributes:
        words: the ids of each word of the longer prompt; those of the original, where `PromptDistiller` is given this.
        num_tokens: the most tokens that may be chosen; likewise.

    Source: this project's; extractive compression by greedy forward selection, the usual baseline of abstractive
    shortening.
    """

    words: tuple[Ids, ...] = ()
    num_tokens: int = 1

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {self.num_tokens}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes every choice with one word more than the best so far."""
        device = initial_ids.device
        chosen: tuple[int, ...] = ()
        best = -float("inf")
        while True:
            choices: dict[Ids, tuple[int, ...]] = {}
            for index in range(len(self.words)):
                places = tuple(sorted({*chosen, index}))
                ids = tuple(i for place in places for i in self.words[place])
                if len(places) > len(chosen) and 0 < len(ids) <= self.num_tokens:
                    choices.setdefault(ids, places)
            if not choices:
                return
            rows = pack(list(choices), device)
            first = torch.zeros(len(rows), dtype=torch.long, device=device)
            scores = objective.score(rows, first, lengths=list(map(len, choices)))
            yield Candidates(rows, scores, first)
            # What the tokenizer would read otherwise is not built upon.
            order = sorted(zip(scores.tolist(), choices.items(), strict=True), key=lambda entry: -entry[0])
            step = next(
                ((s, places) for s, (ids, places) in order if objective.admissible(ids, self.num_tokens) == ids), None
            )
            if step is None or not step[0] > best + 1e-6:
                return
            best, chosen = step
