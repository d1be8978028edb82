"""PEZ + bank: PEZ whose projection only knows the words of a bank of phrases."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.methods.banks import PhraseTable, default_bank
from hardprompts.methods.pez import PEZ
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class PEZBank:
    """PEZ over the tokens of a bank: plainer words, and fewer of them to be wrong about.

    Attributes:
        tables: the bank; None: the one that comes with hardprompts. See `read_bank` for text files.
        pez: the search.

    Source: "PEZ + Bank" of Wen et al. 2023, arXiv 2302.03668, table 1, for which no code was published. Deviations:
    tokens that only spell something together with others are left out, since the search may put them anywhere; the
    bank of the paper is CLIP Interrogator's.
    """

    tables: tuple[PhraseTable, ...] | None = None
    pez: PEZ = PEZ()

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the projection of every restart, without end.

        Raises:
            VocabularyError: the bank has no token that the search may use.
        """
        tables = default_bank() if self.tables is None else self.tables
        words = vocabulary.only([phrase for table in tables for phrase in table.phrases])
        yield from self.pez.steps(objective, words, initial_ids, generator)
