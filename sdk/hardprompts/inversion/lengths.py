"""Similarity against length: the best prompt of each length below that of a prompt that was found."""

import dataclasses
import math

import torch

from hardprompts.allowance import Allowance
from hardprompts.methods import Refine
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import Candidate
from hardprompts.search.loop import run_search
from hardprompts.search.protocol import BY_CALLER
from hardprompts.vocabulary import Vocabulary

#: Steps for each length; the search nearly always ends before, since nothing is left to better.
MAX_STEPS = 200


def best_by_length(
    best: Candidate,
    objective: FeatureSimilarity,
    vocabulary: Vocabulary,
    share: float | None,
    seed: int,
    allowance: Allowance,
) -> tuple[Candidate, ...]:
    """The best prompts of each length, shortest first, that reach `share` of the best similarity; None: all.

    Args:
        objective: of one task. Similarity alone counts here, also where something else had a say in the search.
        allowance: what this may spend; where it does not suffice for all lengths, the shortest are left out.
    """
    ids = torch.tensor([best.token_ids], device=vocabulary.table.device)
    task = torch.zeros(1, dtype=torch.long, device=ids.device)
    similarity = float(allowance.insist(lambda: objective.score(ids, task), passes=1))
    found = [dataclasses.replace(best, score=similarity)]
    same_length = Refine(insert=False, delete=False)
    least = -math.inf if share is None else share * similarity
    while len(found[-1].token_ids) > 1 and found[-1].score >= least:
        last = found[-1].token_ids
        if not allowance.affords(len(last)):
            allowance.leave_out("lengths", len(found), len(best.token_ids))
            break
        shorter = torch.tensor([last[:place] + last[place + 1 :] for place in range(len(last))])
        with allowance.reporting():
            (result,) = run_search(
                same_length,
                objective,
                objective,
                vocabulary,
                shorter,
                template=objective.template,
                max_steps=MAX_STEPS,
                max_evaluations=allowance.remaining,
                deadline=allowance.seconds_left,
                seed=seed,
            )
            allowance.spend(result.evaluations)
            found.append(result.best)
            if result.stop_reason in BY_CALLER:
                allowance.stop(str(result.stop_reason), grace=0.0)
    reaching = [candidate for candidate in reversed(found) if candidate.score >= least]
    return (*reaching, *(candidate for candidate in found if candidate not in reaching))
