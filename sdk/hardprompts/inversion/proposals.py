"""Proposers: what writes whole texts for features, which a search then scores, begins with and betters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts import plugins
from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.errors import UnknownName, quoted, warn_user
from hardprompts.methods.banks import encode_phrases
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.objectives import Score
from hardprompts.prompts import PromptTemplate
from hardprompts.search.protocol import Search, SearchResult, StartsAlone
from hardprompts.search.rows import NO_TOKEN, Ids, pack, unpack
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import words_in

#: The proposers that come with a model, if there are any; and none, for the method that has these by default.
AUTO, NONE = "auto", "none"

#: Added to how often a word was proposed, so that no word costs infinitely much.
SMOOTHING = 0.5

#: The share of the proposals with a word from which on it is worth more than it costs.
COMMON = 0.2

#: Of the proposals for a prompt, how many a method that goes on from the best of them is given.
KEPT = 4


@runtime_checkable
class Proposer(Protocol):
    """What writes whole texts for a target: a learned decoder, a language model, a captioner, a list.

    Its tokenizer may be any: a search reads the texts with the tokenizer of its own model, and leaves out those that
    it may not use. Fewer texts than were asked for, repeats and empty texts are allowed.
    """

    def propose(
        self, features: Float[Tensor, "targets features"], count: int, max_tokens: int, generator: torch.Generator
    ) -> list[list[str]]:
        """For each target up to `count` texts, in one batch.

        Args:
            features: what the texts are to have, as the model gives them: unit vectors.
            max_tokens: tokens of the model that there is room for; longer texts are left out.
            generator: of all randomness, on the CPU.
        """
        ...


@runtime_checkable
class LikelihoodProposer(Proposer, Protocol):
    """A proposer that also says how likely it is that it writes a text for a target, whoever wrote it.

    Searches then find what the model finds similar, and what such a proposer finds likely: a product of experts.
    """

    def likelihoods(self, features: Float[Tensor, "texts features"], texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """log p of each whole text given the unit features of its row, in nats; finite, whatever the text."""
        ...


@runtime_checkable
class OpenProposer(Protocol):
    """How a plugin opens the proposers of its scheme."""

    def __call__(self, name: str, *, backend: Backend) -> Proposer | None:
        """The proposer `name` (what stands behind "scheme:") for a model.

        Of an empty name: the one that comes with the model, or None if there is none.

        Raises:
            BackendError: it is missing, damaged, or made for another model.
        """
        ...


#: Proposers as they are asked for: a name, "auto", an open one, or several of these.
ProposerInput: TypeAlias = str | Proposer | Sequence[str | Proposer]


def proposers() -> dict[str, OpenProposer]:
    """The ways to open a proposer, by scheme."""
    return plugins.collect("proposers")


def load_proposer(name: str, backend: Backend) -> Proposer:
    """The proposer that `name` stands for, for a model.

    Args:
        name: "scheme:name", for example "decoder:FOLDER".

    Raises:
        UnknownName: no plugin has this scheme, or none of it comes with the model.
        BackendError: the plugin cannot open the proposer, or it is for another model.
    """
    scheme, _, rest = name.partition(":")
    known = proposers()
    if scheme not in known:
        raise UnknownName("proposer scheme", scheme, known, "a folder's name begins with what opens it: decoder:FOLDER")
    found = known[scheme](rest, backend=backend)
    if found is None:
        raise UnknownName(
            "proposer", name, sorted(_coming_with(backend)), f"no {scheme} comes with {backend.name}; say which, as in "
            f"{scheme}:FOLDER"
        )  # fmt: skip
    return found


def _coming_with(backend: Backend) -> dict[str, Proposer]:
    """The proposers that come with a model, by scheme."""
    found = {scheme: opening("", backend=backend) for scheme, opening in proposers().items()}
    return {scheme: proposer for scheme, proposer in found.items() if proposer is not None}


def proposers_for(search: Search) -> ProposerInput:
    """What a method is given where nobody named a proposer: what comes with the model, for the default method.

    It is at least as good with them, at the same passes (benchmarks/decoder.py and real_decoder.py). Published methods
    begin as they were published.
    """
    return AUTO if isinstance(search, BuildRefine) else NONE


def opened_proposers(given: ProposerInput | None, backend: Backend) -> tuple[Proposer, ...]:
    """The proposers that are asked for, open; "auto" stands for those that come with the model, perhaps none.

    "none" stands for none at all.

    Raises:
        TypeError: something is neither a name nor a proposer.
        UnknownName, BackendError: see `load_proposer`.
    """
    found: list[Proposer] = []
    for one in _several(given):
        if one == AUTO:
            found += _coming_with(backend).values()
        elif one == NONE:
            continue
        elif isinstance(one, str):
            found.append(load_proposer(one, backend))
        elif isinstance(one, Proposer):
            found.append(one)
        else:
            raise TypeError(
                "a proposer must be a name such as 'decoder:FOLDER', 'auto', or have a method propose(features, count, "
                f"max_tokens, generator), got {type(one).__name__}"
            )
    return tuple(found)


def proposed_texts(
    proposer: Proposer,
    features: Float[Tensor, "targets features"],
    count: int,
    max_tokens: int,
    generator: torch.Generator,
) -> list[list[str]]:
    """What a proposer writes for each target: `count` texts at most, tidy, without empty ones and repeats.

    Raises:
        ValueError: it gave something else than a list of texts for each target.
    """
    answers: list[Any] = list(proposer.propose(features, count, max_tokens, generator))
    if len(answers) != len(features):
        raise ValueError(
            f"{type(proposer).__name__} proposed for {len(answers)} targets of {len(features)}; it must give a list of "
            "texts for each"
        )
    found: list[list[str]] = []
    for texts in answers:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{type(proposer).__name__} must propose a list of texts for each target, and gave {quoted(texts)}, a "
                f"{type(texts).__name__}"
            )
        tidy = dict.fromkeys(" ".join(text.split()) for text in texts)
        found.append([text for text in tidy if text][:count])
    return found


def usable_ids(
    texts: Sequence[Sequence[str]], vocabulary: Vocabulary, template: PromptTemplate, max_tokens: int
) -> list[list[Ids]]:
    """For each target the tokens of those texts that a search may return, without repeats.

    Of a text with signs that it may not use, the words are taken alone. Left out is what is too long, banned, has
    other words than the vocabulary, or does not survive the round trip in the template.
    """
    every = list(dict.fromkeys(text for own in texts for text in own))
    found = dict(zip(every, encode_phrases(every, vocabulary, max_tokens), strict=True))
    refused = {text: " ".join(words_in(text)) for text, ids in found.items() if ids is None}
    plain = list(dict.fromkeys(refused.values()))
    of_words = dict(zip(plain, encode_phrases(plain, vocabulary, max_tokens), strict=True))
    found |= {text: of_words[words] for text, words in refused.items()}
    admitted = {ids: vocabulary.admits(ids, template) for ids in {*found.values()} if ids is not None}
    rows: list[list[Ids]] = []
    for own in texts:
        ids = dict.fromkeys(ids for text in own if (ids := found[text]) is not None)
        rows.append([one for one in ids if admitted[one]])
    return rows


def ask(
    proposers: Sequence[Proposer],
    features: Float[Tensor, "targets features"],
    count: int,
    max_tokens: int,
    generator: torch.Generator,
    allowance: Allowance,
) -> list[list[str]]:
    """What all proposers write for each target; where the time is up before one was asked, that is noted."""
    found: list[list[str]] = [[] for _ in features]
    asked = 0
    for proposer in proposers:
        if allowance.is_over:
            break
        asked += 1
        for own, texts in zip(found, proposed_texts(proposer, features, count, max_tokens, generator), strict=True):
            own += [text for text in texts if text not in own]
    allowance.leave_out("proposers", asked, len(proposers))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Starts:
    """What a search begins with: rows of tokens, and the task of each.

    Attributes:
        ids: (rows, tokens) the same number of rows for each task.
        restarts: that number.
    """

    ids: Int[Tensor, "rows tokens"]
    restarts: int

    @property
    def groups(self) -> Int[Tensor, " rows"]:
        """The task of each row."""
        return torch.arange(len(self.ids), device=self.ids.device) // self.restarts

    def first(self, task: int) -> Ids:
        """The first start of a task."""
        return unpack(self.ids[task * self.restarts][None])[0]

    def of(
        self, proposals: Sequence[Sequence[Ids]]
    ) -> tuple[Int[Tensor, "proposals tokens"], Int[Tensor, " proposals"]]:
        """Proposals alone as starts, and their tasks; of a task that has none, its own first start."""
        rows = [own or [self.first(task)] for task, own in enumerate(proposals)]
        tasks = [task for task, own in enumerate(rows) for _ in own]
        packed = pack([ids for own in rows for ids in own], self.ids.device)
        width = self.ids.shape[1] - packed.shape[1]
        return torch.nn.functional.pad(packed, (0, width), value=NO_TOKEN), torch.tensor(tasks, device=self.ids.device)

    def begin_with(self, proposals: Sequence[Sequence[Ids]], captioned: Sequence[bool]) -> None:
        """Lets half of each task's restarts be its proposals, best first: the second half behind a caption."""
        half = max(1, self.restarts // 2)
        for task, own in enumerate(proposals):
            first = task * self.restarts + (self.restarts - half if captioned[task] else 0)
            for row, ids in enumerate(own[:half], first):
                self.ids[row] = NO_TOKEN
                self.ids[row, : len(ids)] = torch.tensor(ids, device=self.ids.device)


@dataclasses.dataclass(frozen=True, eq=False)
class Beginning:
    """What a search begins with, after its proposals were tried.

    Attributes:
        search: the method; one that can goes on from the best start.
        ids, groups: its starts, and the task of each.
        results: of the proposals alone, for each task.
    """

    search: Search
    ids: Int[Tensor, "rows tokens"]
    groups: Int[Tensor, " rows"]
    results: Sequence[SearchResult] = ()


def begin_with(
    proposals: Sequence[Sequence[Ids]],
    starts: Starts,
    search: Search,
    run: Callable[..., list[SearchResult]],
    *,
    captioned: Sequence[bool],
) -> Beginning:
    """Scores proposals, and lets a search begin with the best of them.

    The default method is given these and the caption, and goes on from the best, if there are proposals for every task;
    of another method's restarts they are one half.

    Args:
        run: `SearchOptions.run` without the search, its starts and their tasks.
        captioned: of each task, whether its starts begin with a caption.

    Raises:
        SearchError: of a task that has no proposals, the start cannot be returned either.
    """
    ids, groups = starts.of(proposals)
    results = run(StartsAlone(), initial_ids=ids, groups=groups, description="proposals")
    best = [
        [one.token_ids for one in result.candidates] if own else []
        for result, own in zip(results, proposals, strict=True)
    ]
    if isinstance(search, BuildRefine) and all(best):
        rows = [[*([starts.first(task)] if captioned[task] else ()), *own[:KEPT]] for task, own in enumerate(best)]
        kept, tasks = starts.of(rows)
        return Beginning(dataclasses.replace(search, continues=True), kept, tasks, results)
    starts.begin_with(best, captioned)
    return Beginning(search, starts.ids, starts.groups, results)


def names_of(given: ProposerInput | None) -> list[str]:
    """What results call proposers: their schemes, since folders mean nothing on another machine, or their classes."""
    return [one.partition(":")[0] if isinstance(one, str) else type(one).__name__ for one in _several(given)]


def _several(given: ProposerInput | None) -> Sequence[Any]:
    if given is None:
        return ()
    return given if isinstance(given, list | tuple) else [given]


@dataclasses.dataclass(frozen=True, eq=False)
class ProposedWords:
    """A score less what words cost that few proposals have: a product of what the model and the proposers find likely.

    Attributes:
        base: the score of the prompts' meaning.
        costs: (tasks, vocabulary) of each token, in the unit of `base`.
    """

    base: Score
    costs: Float[Tensor, "tasks vocab"]

    @property
    def unit(self) -> str:
        return f"{self.base.unit} and what was proposed"

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        scores = self.base.score(ids, groups)
        costs = self.costs.to(scores.device)[groups[:, None], ids].sum(dim=1)
        return scores - costs.to(scores.dtype)


def weighed_by_proposals(score: Score, proposals: Sequence[Sequence[Ids]], tokens: int, weight: float) -> Score:
    """The score less `weight` for each nat by which a token is rarer than in `COMMON` of a task's proposals.

    A token that more of them have is worth as much more. The score itself where there are no proposals, or no cost.
    """
    if not weight or not any(proposals):
        return score
    counts = torch.zeros(len(proposals), tokens)
    for task, own in enumerate(proposals):
        for ids in own:
            counts[task, list(set(ids))] += 1
    totals = torch.tensor([[float(len(own))] for own in proposals])
    shares = (counts + SMOOTHING) / (totals + SMOOTHING)
    costs = -weight * (shares / COMMON).log()
    return ProposedWords(score, torch.where(totals > 0, costs, torch.zeros_like(costs)))


def warn_of_unusable(texts: Sequence[Sequence[str]], proposals: Sequence[Sequence[Ids]]) -> None:
    """Warns where nothing of what was proposed for a target may be used."""
    without = [own for own, ids in zip(texts, proposals, strict=True) if not ids]
    if not without:
        return
    examples = [text for own in without for text in own[:1]]
    reason = (
        f"such as {quoted(examples[0])}: it is too long for the prompt, banned or not in the vocabulary"
        if examples
        else "since nothing was proposed"
    )
    warn_user(f"no proposal can be used for {len(without)} of {len(texts)} targets, {reason}")
