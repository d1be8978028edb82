"""Phrase bank: the phrases of a list that fit best, one behind the other, in the manner of CLIP Interrogator."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.errors import VocabularyError, listed, warn_user
from hardprompts.methods.banks import (
    CHUNK,
    PhraseTable,
    default_bank,
    encode_beginning,
    encode_phrases,
    phrase_features,
)
from hardprompts.prompts import PromptTemplate
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates, Search
from hardprompts.search.rows import Ids, pack
from hardprompts.vocabulary import Vocabulary

Mode = Literal["best", "fast", "classic", "negative"]

#: Tables whose best phrases are tried in all combinations by "best"; of more, the first.
COMBINED = 6

#: One in so many parts of the time that is left may go into features of the bank that are not kept yet.
RANKING_SHARE = 3


@runtime_checkable
class TaskPreparation(Protocol):
    """What a method offers if it wants to know the model, the targets and their captions before a run.

    Attributes:
        opposed: it looks for what fits least, so the objective is to be given the targets with their signs changed.
    """

    @property
    def opposed(self) -> bool: ...

    def prepared(
        self,
        backend: Backend,
        targets: Float[Tensor, "tasks features"],
        template: PromptTemplate,
        captions: Sequence[str | None],
        allowance: Allowance,
    ) -> Search:
        """The same method for these tasks alone; itself if there is nothing to prepare.

        Args:
            allowance: what is left of the call, of whose time it may take a part.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PhraseBank:
    """Phrases that are ranked by themselves, and then strung together behind a caption, if there is one.

    "fast" takes the first of the ranking, as many as fit. "classic" takes the best phrase of each table, and then
    the next best ones of the last table. "best" tries the best phrases of all tables but the last in all
    combinations, then adds the phrase that raises the score most, again and again, until none does; the prompts of
    the other two are tried as well. "negative" is "fast" for a negative prompt: the phrases that fit least, least
    first, where the objective rewards what does not fit; `PromptInverter` sees to that.

    Every prompt on the way is proposed, so that the best of them is returned, however long. Phrases with tokens
    that the search may not use are left out; of those of a bank that is given a UserWarning says how many.

    Attributes:
        tables: the bank; None: the one that comes with hardprompts. See `read_bank` for text files.
        mode: see above.
        shortlist: of the ranking, phrases that "best" tries at every step.
        max_phrases: in a prompt.
        separator: stands between phrases, and behind the caption; "" for none.
        cache: folder where the model's features of the bank are kept, see `phrase_features`; None: every run
            ranks the bank anew, with one pass for each phrase.
        captions: of each task, what its prompts begin with; as `prepared` fills them in.
        similarities: (tasks, phrases) the ranking, if it is known; likewise.

    Source: https://github.com/pharmapsychotic/clip-interrogator, `interrogate`, `interrogate_fast` and
    `interrogate_classic`. Deviations: the prompts' length is counted in tokens (`num_tokens`) and every shorter
    prompt counts too; the shortlist is of all tables; `interrogate_negative` adds to what fits least a list of its
    own, and its ranking of large banks keeps the best of each part of the bank before it looks for the worst, so
    that it does not return the least similar phrases; here the whole bank is ranked.
    """

    tables: tuple[PhraseTable, ...] | None = None
    mode: Mode = "best"
    shortlist: int = 256
    max_phrases: int = 32
    separator: str = ","
    cache: Path | None = None
    captions: tuple[str | None, ...] = ()
    similarities: Float[Tensor, "tasks phrases"] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        if self.shortlist < 1 or self.max_phrases < 1:
            raise ValueError(f"shortlist and max_phrases must be at least 1, got {self.shortlist}, {self.max_phrases}")
        if self.tables is not None and not any(table.phrases for table in self.tables):
            raise ValueError("tables have no phrases; use read_bank('my phrases.txt'), or None for the bank that ships")

    @classmethod
    def fast(cls) -> "PhraseBank":
        """The first phrases of the ranking, in its order."""
        return cls(mode="fast")

    @classmethod
    def classic(cls) -> "PhraseBank":
        """The best phrase of each table."""
        return cls(mode="classic")

    @classmethod
    def negative(cls) -> "PhraseBank":
        """The phrases that fit least: a negative prompt."""
        return cls(mode="negative")

    @property
    def opposed(self) -> bool:
        """Whether it looks for what fits least."""
        return self.mode == "negative"

    def prepared(
        self,
        backend: Backend,
        targets: Float[Tensor, "tasks features"],
        template: PromptTemplate,
        captions: Sequence[str | None],
        allowance: Allowance,
    ) -> "PhraseBank":
        """The same with the captions of the tasks, and the ranking by the features that are kept in `cache`.

        Where there is no time to read all phrases, those that were not read come last.
        """
        # A caption says what the image shows: the last thing that a negative prompt should begin with.
        chosen = dataclasses.replace(self, captions=() if self.opposed else tuple(captions))
        if self.cache is None:
            return chosen
        features = phrase_features(self._tables(), backend, template, self.cache, allowance.share(RANKING_SHARE))
        phrases = sum(map(len, self._tables()))
        allowance.leave_out("phrases of the bank", len(features), phrases)
        if not len(features):
            return chosen
        weights = targets.float().cpu().T
        similarities = torch.cat([part.float() @ weights for part in features.split(CHUNK)]).T
        similarities = torch.nn.functional.pad(similarities, (0, phrases - len(features)), value=-torch.inf)
        return dataclasses.replace(chosen, similarities=similarities)

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the phrases by themselves, then what is made of them, until nothing can be added.

        Raises:
            VocabularyError: no phrase of the bank fits, and may be used.
        """
        tables = self._tables()
        limit, device = initial_ids.shape[1], initial_ids.device
        kinds = [number for number, table in enumerate(tables) for _ in table.phrases]
        phrases = encode_phrases([phrase for table in tables for phrase in table.phrases], vocabulary, limit)
        places: dict[Ids, int] = {}
        for place, ids in enumerate(phrases):
            if ids is not None:
                places.setdefault(ids, place)
        usable = list(places)
        if not usable:
            raise VocabularyError(
                f"none of the {len(phrases)} phrases of the bank may be used: they have no tokens of this model, more "
                f"than {limit}, or such as are banned or not in the vocabulary; use another bank, or more tokens"
            )
        if self.tables is not None:
            _warn_of_unusable(tables, phrases, limit, vocabulary)
        groups = objective.groups.tolist()
        tasks = sorted(set(groups))
        known = torch.full((len(tasks), len(usable)), -torch.inf)
        if self.similarities is not None:
            known = self.similarities[:, list(places.values())][tasks]
        else:
            for number, task in enumerate(tasks):
                row = groups.index(task)
                for start in range(0, len(usable), CHUNK):
                    part = usable[start : start + CHUNK]
                    rows = torch.full((len(part),), row, device=device)
                    prompts = pack(part, device)
                    scores = objective.score(prompts, rows, lengths=list(map(len, part)))
                    known[number, start : start + len(part)] = scores.nan_to_num(nan=-torch.inf).float().cpu()
                    yield Candidates(prompts, scores, rows)
        separator = tuple(vocabulary.encode(self.separator)) if self.separator else ()
        chains = [
            _Chain(
                objective, groups.index(task), device, separator, limit, self.max_phrases,
                encode_beginning(self._caption(task), vocabulary, limit),
            ).run(self, *self._ranked(known[number], usable, [kinds[place] for place in places.values()]))
            for number, task in enumerate(tasks)
        ]  # fmt: skip
        # In turn, so that a deadline leaves no task without.
        for proposals in itertools.zip_longest(*chains):
            yield from (candidates for candidates in proposals if candidates is not None)

    def _tables(self) -> tuple[PhraseTable, ...]:
        return default_bank() if self.tables is None else self.tables

    def _ranked(
        self, scores: Float[Tensor, " phrases"], usable: Sequence[Ids], kinds: Sequence[int]
    ) -> tuple[list[Ids], list[list[Ids]]]:
        """The first phrases of all, and those of each table, best first."""
        order = scores.argsort(descending=True, stable=True).tolist()
        count = max(self.shortlist, self.max_phrases)
        by_table: dict[int, list[Ids]] = {kind: [] for kind in sorted(set(kinds))}
        for place in order:
            of_kind = by_table[kinds[place]]
            if len(of_kind) < self.max_phrases:
                of_kind.append(usable[place])
        return [usable[place] for place in order[:count]], list(by_table.values())

    def _caption(self, task: int) -> str:
        return (self.captions[task] or "") if task < len(self.captions) else ""


@dataclasses.dataclass
class _Chain:
    """The prompts of one task: phrases behind one another, and which of them was the best so far."""

    objective: BoundObjective
    row: int
    device: torch.device
    separator: Ids
    limit: int
    max_phrases: int
    caption: Ids

    def run(self, bank: PhraseBank, ranked: Sequence[Ids], by_table: Sequence[Sequence[Ids]]) -> Iterator[Candidates]:
        if bank.mode in ("fast", "negative", "best"):
            yield from self._tried(self._prefixes(ranked))[0]
        if bank.mode in ("classic", "best"):
            classic = [*(phrases[0] for phrases in by_table), *by_table[-1][1:]] if by_table else []
            yield from self._tried(self._prefixes(classic))[0]
        if bank.mode == "best":
            yield from self._best(ranked[: bank.shortlist], [phrases[0] for phrases in by_table[:-1]][:COMBINED])

    def _best(self, shortlist: Sequence[Ids], tops: Sequence[Ids]) -> Iterator[Candidates]:
        combined = {
            self.joined(chosen): chosen
            for count in range(min(len(tops), self.max_phrases) + 1)
            for chosen in itertools.combinations(dict.fromkeys(tops), count)
        }
        proposals, found = self._tried([ids for ids in combined if 0 < len(ids) <= self.limit])
        yield from proposals
        best, score = found if found is not None else (self.caption, -float("inf"))
        chosen = list(combined.get(best, ()))
        while len(chosen) < self.max_phrases:
            longer = {self.joined([ids], best): ids for ids in shortlist if ids not in chosen}
            proposals, found = self._tried([ids for ids in longer if len(ids) <= self.limit])
            yield from proposals
            if found is None or not found[1] > score + 1e-6:
                return
            best, score = found
            chosen.append(longer[best])

    def joined(self, phrases: Sequence[Ids], start: Ids | None = None) -> Ids:
        """Phrases behind `start`, which is the caption unless it is given."""
        parts = [part for part in (self.caption if start is None else start, *phrases) if part]
        return tuple(itertools.chain(*parts[:1], *(self.separator + part for part in parts[1:])))

    def _prefixes(self, phrases: Sequence[Ids]) -> list[Ids]:
        """The caption, and the first phrase behind it, the first two, and so on; what does not fit is passed over."""
        found, prompt = [self.caption] if self.caption else [], self.caption
        for count, phrase in enumerate(dict.fromkeys(phrases)):
            longer = self.joined([phrase], prompt)
            if count < self.max_phrases and len(longer) <= self.limit:
                found.append(longer)
                prompt = longer
        return found

    def _tried(self, prompts: Sequence[Ids]) -> tuple[list[Candidates], tuple[Ids, float] | None]:
        """Candidates of the prompts, and the best of those that are read back as they are, with its score."""
        if not prompts:
            return [], None
        rows = torch.full((len(prompts),), self.row, device=self.device)
        ids = pack(prompts, self.device)
        scores = self.objective.score(ids, rows, lengths=list(map(len, prompts)))
        order = scores.nan_to_num(nan=-torch.inf).argsort(descending=True).tolist()
        best = next((i for i in order if self.objective.admissible(prompts[i], self.limit) == prompts[i]), None)
        return [Candidates(ids, scores, rows)], None if best is None else (prompts[best], float(scores[best]))


def _warn_of_unusable(
    tables: Sequence[PhraseTable], found: Sequence[Ids | None], limit: int, vocabulary: Vocabulary
) -> None:
    """Warns of the phrases that are left out, but of those with banned words, which somebody asked for."""
    phrases = (phrase for table in tables for phrase in table.phrases)
    unusable = [
        phrase for phrase, ids in zip(phrases, found, strict=True) if ids is None and not vocabulary.bans(phrase)
    ]
    if unusable:
        warn_user(
            f"{len(unusable):,} of the {len(found):,} phrases of the bank are left out: they have more than {limit} "
            f"tokens, or words that are not in the vocabulary: {listed(unusable)}"
        )
