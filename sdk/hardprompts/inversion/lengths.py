"""Similarity against length: the best prompt of each length below that of a prompt that was found."""

import dataclasses
import math

import torch

from hardprompts.methods import Refine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import Candidate
from hardprompts.search.loop import run_search
from hardprompts.vocabulary import Vocabulary

#: Steps for each length; the search nearly always ends before, since nothing is left to better.
MAX_STEPS = 200


def best_by_length(
    best: Candidate, objective: FeatureSimilarity, vocabulary: Vocabulary, share: float | None, seed: int
) -> tuple[Candidate, ...]:
    """The best prompts of each length, shortest first, that reach `share` of the best similarity; None: all.

    Args:
        objective: of one task. Similarity alone counts here, also where something else had a say in the search.
    """
    ids = torch.tensor([best.token_ids], device=vocabulary.table.device)
    similarity = float(objective.score(ids, torch.zeros(1, dtype=torch.long, device=ids.device)))
    found = [dataclasses.replace(best, score=similarity)]
    same_length = Refine(insert=False, delete=False)
    least = -math.inf if share is None else share * similarity
    while len(found[-1].token_ids) > 1 and found[-1].score >= least:
        last = found[-1].token_ids
        shorter = torch.tensor([last[:place] + last[place + 1 :] for place in range(len(last))])
        (result,) = run_search(
            same_length,
            objective,
            objective,
            vocabulary,
            shorter,
            template=objective.template,
            max_steps=MAX_STEPS,
            seed=seed,
        )
        found.append(result.best)
    reaching = [candidate for candidate in reversed(found) if candidate.score >= least]
    return (*reaching, *(candidate for candidate in found if candidate not in reaching))
