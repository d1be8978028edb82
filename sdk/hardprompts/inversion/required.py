"""Phrases that a prompt must contain, in the template around the search's own tokens."""

import dataclasses
from collections.abc import Sequence

from hardprompts.errors import SearchError, VocabularyError
from hardprompts.prompts import Candidate, PromptTemplate
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import bad_words


@dataclasses.dataclass(frozen=True)
class RequiredWords:
    """Words that every prompt begins with: they stand in the template while the rest is searched for."""

    token_ids: tuple[int, ...]
    template: PromptTemplate

    @classmethod
    def create(cls, required: Sequence[str], vocabulary: Vocabulary, slot: PromptTemplate) -> "RequiredWords":
        """The template with the words before its slot.

        Raises:
            VocabularyError: the model has no tokens for one of them, or it is banned.
        """
        if not required:
            return cls((), slot)
        text = " ".join(" ".join(word.split()) for word in required)
        template = PromptTemplate(f"{slot.prefix}{text} {{}}{slot.suffix}")
        before, outside = vocabulary.template_ids(template)[0], vocabulary.template_ids(slot)[0]
        ids = tuple(before[len(outside) :])
        said = vocabulary.decode(ids).lower() if before[: len(outside)] == outside else ""
        missing = [word for word in required if "".join(word.lower().split()) not in "".join(said.split())]
        if missing or not vocabulary.survives_round_trip(ids, slot):
            raise VocabularyError(
                f"the required words {', '.join(map(repr, missing or required))} cannot stand in {slot.text!r}: this "
                "model's tokens do not spell them there; use other words"
            )
        # The list of bad words is for what the search finds, not for what somebody asks for.
        bans = dataclasses.replace(vocabulary.banned, words=vocabulary.banned.words - bad_words())
        if dataclasses.replace(vocabulary, banned=bans).spells_banned(ids, slot):
            raise VocabularyError(f"the required words {text!r} contain something banned; require or ban it, not both")
        return cls(ids, template)

    def free_tokens(self, num_tokens: int) -> int:
        """How many of a prompt's tokens are left for the search.

        Raises:
            ValueError: there is none left.
        """
        free = num_tokens - len(self.token_ids)
        if self.token_ids and free < 1:
            raise ValueError(
                f"the required words have {len(self.token_ids)} tokens, which leaves nothing to search for in a "
                f"prompt of num_tokens = {num_tokens}; use more tokens"
            )
        return free

    def whole(
        self, candidates: Sequence[Candidate], vocabulary: Vocabulary, slot: PromptTemplate
    ) -> tuple[Candidate, ...]:
        """The candidates with the required words in them.

        Raises:
            SearchError: none survives the round trip then.
        """
        if not self.token_ids:
            return tuple(candidates)
        ids = [self.token_ids + candidate.token_ids for candidate in candidates]
        kept = tuple(
            Candidate(vocabulary.decode(own), own, candidate.score)
            for own, candidate in zip(ids, candidates, strict=True)
            if vocabulary.survives_round_trip(own, slot)
        )
        if not kept:
            raise SearchError(
                f"none of the {len(candidates)} prompts found survives the round trip behind the required words in "
                f"{slot.text!r}; require other words"
            )
        return kept
