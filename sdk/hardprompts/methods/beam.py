"""Beam search: prompts that grow from left to right, the best of each length going on."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.methods.banks import encode_phrases
from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import Ids, pack
from hardprompts.vocabulary import Vocabulary

#: Words that a sentence is put together with, though the gradient of no image asks for them.
CONNECTORS = ("a", "the", "of", "in", "on", "with", "and", "by", "at")


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Prompts of one token, then of two, and so on: the best of each length are continued.

    Each of them is continued with the tokens of steepest descent behind it and with the connectors; all of these
    are scored by the run's score, and the best that survive the round trip go on. A language model comes in
    through that score (`ReadableScore`, `PromptInverter(prior=...)`): log-likelihood of the text, with a weight, and
    similarity. It reads text, so its tokenizer may be any.

    Attributes:
        beams: prompts of each task that go on.
        candidates: tokens that each is continued with; all, if the vocabulary is smaller.
        connectors: words that each prompt is also continued with, if they are one token.
        probes: random tokens that the gradient at a place behind the end is averaged over.

    Source: Kim et al. 2025 (VGD), arXiv 2505.08622: beams scored by a language model and CLIP.
    Deviations: what a prompt goes on with is proposed by the gradient and the connectors, since nothing is asked of
    the language model but likelihoods, where VGD takes that model's own next tokens; every length competes, and
    there is no seed word.
    """

    beams: int = 8
    candidates: int = 32
    connectors: tuple[str, ...] = CONNECTORS
    probes: int = 8

    def __post_init__(self) -> None:
        for name in ("beams", "candidates", "probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes the continuations of every beam, one token longer with each step, up to the initial length."""
        device, limit = initial_ids.device, initial_ids.shape[1]
        tasks = objective.groups.tolist()
        # A task is looked at through the first of its restarts: what the others begin with does not matter here.
        beams: list[tuple[int, Ids]] = [(tasks.index(task), ()) for task in sorted(set(tasks))]
        always = [ids[0] for ids in encode_phrases(self.connectors, vocabulary, 1) if ids is not None]
        for _ in range(limit):
            rows = torch.tensor([row for row, _ in beams], device=device)
            tokens = self._next(objective, vocabulary, [ids for _, ids in beams], rows, generator)
            longer = list(
                dict.fromkeys(
                    (row, (*ids, token))
                    for (row, ids), likely in zip(beams, tokens.tolist(), strict=True)
                    for token in (*likely, *always)
                )
            )
            owners = torch.tensor([row for row, _ in longer], device=device)
            prompts = pack([ids for _, ids in longer], device)
            scores = objective.score(prompts, owners, lengths=[len(ids) for _, ids in longer])
            yield Candidates(prompts, scores, owners)
            beams = self._kept(objective, longer, scores.nan_to_num(nan=-torch.inf).tolist(), limit)
            if not beams:
                return

    def _kept(
        self, objective: BoundObjective, longer: list[tuple[int, Ids]], scores: list[float], limit: int
    ) -> list[tuple[int, Ids]]:
        """The best prompts of each task that survive the round trip."""
        kept: dict[int, list[Ids]] = {row: [] for row, _ in longer}
        for place in sorted(range(len(longer)), key=lambda i: -scores[i]):
            row, ids = longer[place]
            if len(kept[row]) < self.beams and objective.admissible(ids, limit) == ids:
                kept[row].append(ids)
        return [(row, ids) for row, prompts in kept.items() for ids in prompts]

    def _next(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        prompts: list[Ids],
        rows: Int[Tensor, " prompts"],
        generator: torch.Generator,
    ) -> Int[Tensor, "prompts candidates"]:
        """The tokens of steepest descent behind each prompt; all prompts are of one length."""
        count = min(self.candidates, len(vocabulary.allowed_ids))
        if count == len(vocabulary.allowed_ids):
            return vocabulary.allowed_ids.expand(len(prompts), -1)
        drawn = vocabulary.sample((len(prompts) * self.probes, 1), generator)
        before = torch.tensor(prompts, dtype=torch.long, device=drawn.device).repeat_interleave(self.probes, dim=0)
        probes = torch.cat([before.reshape(len(drawn), -1), drawn], dim=1)
        _, grad = objective.value_and_grad(vocabulary.embed(probes), rows.repeat_interleave(self.probes))
        mean = grad[:, -1].float().reshape(len(prompts), self.probes, -1).mean(dim=1)
        return vocabulary.steepest(vocabulary.slopes(mean), count)
