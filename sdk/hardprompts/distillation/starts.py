"""Where a search starts: from what the original gives, then from random tokens; and the baselines, which stay there."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from hardprompts.allowance import Allowance
from hardprompts.distillation.matching import Match
from hardprompts.distillation.options import DistillationOptions
from hardprompts.distillation.originals import Original, words_of
from hardprompts.distillation.quantities import Matches
from hardprompts.encoders import Backend
from hardprompts.errors import SearchError, VocabularyError
from hardprompts.methods.selection import Selection
from hardprompts.search.protocol import Search, SearchResult, StartsAlone
from hardprompts.search.rows import NO_TOKEN, Ids, pack, random_starts
from hardprompts.softprompts import decode_nearest
from hardprompts.vocabulary import Metric, Vocabulary

#: The share of time and evaluations that the choice of a long prompt's best words takes, as a divisor, where a search
#: follows.
SELECTION_SHARE = 3

#: How many of the best choices of words a search starts from.
SELECTIONS = 2


@dataclasses.dataclass(frozen=True)
class Nearest(StartsAlone):
    """The tokens nearest to a soft prompt, as they are: a baseline that starts there and proposes nothing.

    Attributes:
        metric: by which tokens are near.
    """

    metric: Metric = "cosine"


#: Searches to compare with, by name.
BASELINES: dict[str, Search] = {
    "nearest": Nearest("cosine"),
    "nearest-l2": Nearest("l2"),
    "selection": Selection(),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Originals that are searched for together.

    Attributes:
        words: the tokens that may be used.
        num_tokens: the most tokens of each prompt.
        options: with a seed.
        score_per_token: what a token must add, in units of the score.
        method: the name that progress is shown under.
    """

    backend: Backend
    originals: tuple[Original, ...]
    matches: Matches
    words: Vocabulary
    num_tokens: int
    options: DistillationOptions
    score_per_token: float
    method: str

    def run(
        self,
        search: Search,
        starts: Sequence[Sequence[Ids]],
        options: DistillationOptions,
        allowance: Allowance,
        match: Match | None = None,
    ) -> list[SearchResult]:
        """One result for each original, of a search from its starts."""
        followed = self.matches.followed if match is None else match
        return options.run(
            search,
            followed,
            followed,
            self.words,
            pack([row for rows in starts for row in rows]),
            groups=torch.tensor([task for task, rows in enumerate(starts) for _ in rows]),
            template=followed.template,
            score_per_token=self.score_per_token,
            description=self.method,
            allowance=allowance,
            room=options.room(self.words, search, followed, (self.backend,)),
        )

    def allowed(self, ids: Sequence[int]) -> bool:
        """Whether the original's own tokens may be used: all may, unless a keyword bank means its own alone."""
        return self.options.vocabulary is None or bool(self.words.allowed[list(ids)].all())


def select_words(problem: Problem, search: Search, allowance: Allowance) -> SearchResult | None:
    """The best words of a long prompt, if a search starts from them or returns them; None of a soft prompt.

    Raises:
        ValueError: words are to be selected from a soft prompt.
        VocabularyError: they are to be selected, and no word may be used or fits.
    """
    (text, *_), alone = [original.text for original in problem.originals], isinstance(search, Selection)
    if text is None or isinstance(search, Nearest):
        if alone:
            raise ValueError("method 'selection' takes words from a text, and a soft prompt has none")
        return None
    # Words of several tokens too, of which a search itself has no use.
    source = tuple(ids for ids in words_of(text, problem.words) if problem.allowed(ids))
    first = [ids for ids in source if len(ids) <= problem.num_tokens][:1]
    if not first:
        if alone:
            raise VocabularyError("no word of the prompt may be used, or each is longer than num_tokens")
        return None
    # It ends by itself, after as many steps as there are tokens at most.
    limits = dataclasses.replace(problem.options, max_steps=None, patience=None)
    left = allowance if alone else allowance.share(SELECTION_SHARE)
    return problem.run(Selection(source, problem.num_tokens), [padded(first, problem.num_tokens)], limits, left)[0]


def given_starts(problem: Problem, search: Search, task: int, selected: SearchResult | None) -> list[Ids]:
    """Prompts that the original of one task gives to start from."""
    original, options, num_tokens = problem.originals[task], problem.options, problem.num_tokens
    given: list[Ids] = []
    if options.initial_prompt is not None:
        given.append(_initial(options.initial_prompt, problem.words, num_tokens))
    if original.text is None:
        given += _nearest(problem, search, original)
    else:
        if selected is not None:
            given += [candidate.token_ids for candidate in selected.candidates[:SELECTIONS]]
        given.append(tuple(i for i in original.ids if problem.allowed([i]))[:num_tokens])
    return list(dict.fromkeys(row for row in given if row))


def starts(problem: Problem, search: Search, task: int, given: Sequence[Ids]) -> list[Ids]:
    """Where the search of one task starts: what the original gives, then random tokens, one row per restart.

    Raises:
        SearchError: a baseline has nothing to start from.
    """
    count = 0 if isinstance(search, Nearest) else max(0, problem.options.starts - len(given))
    if not given and not count:
        raise SearchError("there is nothing to start from; use another method than a baseline")
    assert problem.options.seed is not None
    seed = problem.options.seed + task
    drawn = random_starts(problem.words, count, problem.num_tokens, seed).tolist() if count else []
    return padded([*given, *map(tuple, drawn)], problem.num_tokens)


def padded(rows: Sequence[Sequence[int]], num_tokens: int) -> list[Ids]:
    """The rows at this length: the longest row of a search's start bounds what it returns."""
    return [(*row, *[NO_TOKEN] * (num_tokens - len(row))) for row in rows]


def _nearest(problem: Problem, search: Search, original: Original) -> Iterator[Ids]:
    metrics: tuple[Metric, ...] = (search.metric,) if isinstance(search, Nearest) else ("cosine", "l2")
    for metric in metrics:
        try:
            nearest = decode_nearest(original.embeddings, problem.words, metric, problem.matches.followed.template)
        except VocabularyError:
            if isinstance(search, Nearest):
                raise
            continue
        # A baseline is measured as it is, however many tokens its text is read as.
        yield nearest.token_ids if isinstance(search, Nearest) else nearest.token_ids[: problem.num_tokens]


def _initial(text: str, vocabulary: Vocabulary, num_tokens: int) -> Ids:
    ids = tuple(vocabulary.encode(text))
    if not 0 < len(ids) <= num_tokens:
        raise VocabularyError(f"initial_prompt {text!r} has {len(ids)} tokens; it needs 1 to num_tokens = {num_tokens}")
    return ids
