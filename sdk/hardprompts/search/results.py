"""What a search found, as people get it: a `HardPrompt` with what each token contributes and how it came about."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from hardprompts.allowance import Allowance
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.protocol import SearchResult
from hardprompts.vocabulary import Vocabulary

Prompt = TypeVar("Prompt", bound=HardPrompt)

#: The method of a prompt that somebody wrote.
BY_HAND = "by hand"

#: The scores of prompts that are given by their ids, which may be none at all.
ScoresOf = Callable[[Sequence[tuple[int, ...]]], Sequence[float]]


def written_by_hand(text: str, vocabulary: Vocabulary, model: str, score: float) -> HardPrompt:
    """A text that somebody wrote as a prompt for a model.

    Args:
        vocabulary: of the model.
        score: of the text.
    """
    ids = tuple(vocabulary.encode(text))
    return HardPrompt(text, ids, score, model=model, method=BY_HAND, tokens=vocabulary.pieces(ids))


def leave_one_out(best: Candidate, scores_of: ScoresOf, allowance: Allowance, size: int = 256) -> tuple[float, ...]:
    """What each token contributes: the score that is lost when it is removed; () where there is no room to measure it.

    Args:
        allowance: what the passes are taken from, and what says that it was left out.
        size: prompts that are scored between two looks at the clock.
    """
    ids = best.token_ids
    without = [ids[:place] + ids[place + 1 :] for place in range(len(ids))]
    scores = allowance.measured("contributions of tokens", without, scores_of, size=size)
    return () if scores is None else tuple(best.score - score for score in scores)


def rescored(
    candidates: Sequence[Candidate],
    scores_of: Callable[[Sequence[str]], Sequence[float]],
    allowance: Allowance,
    size: int = 256,
) -> tuple[Candidate, ...]:
    """The candidates with the scores of their texts: the first whatever is left, the others if there is room for all.

    Args:
        scores_of: the scores of texts.
        size: texts that are scored between two looks at the clock.
    """
    best, others = candidates[0], candidates[1:]
    (own,) = allowance.insist(lambda: scores_of([best.text]), passes=1)
    scores = (
        allowance.measured("other candidates", [one.text for one in others], scores_of, size=size) if others else []
    )
    kept = () if scores is None else zip(others, scores, strict=True)
    return (
        dataclasses.replace(best, score=own), *(dataclasses.replace(one, score=score) for one, score in kept)
    )  # fmt: skip


def provenance_of(result: SearchResult) -> dict[str, Any]:
    """The versions, steps and seconds that a search was made with."""
    return {
        "hardprompts": importlib.metadata.version("hardprompts"),
        "torch": torch.__version__,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
    }


def hard_prompt_of(
    result: SearchResult,
    candidates: Sequence[Candidate],
    *,
    vocabulary: Vocabulary,
    template: PromptTemplate,
    model: str,
    method: str,
    allowance: Allowance,
    scores_of: ScoresOf | None = None,
    rows_at_once: int = 256,
    settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Any] | None = None,
    kind: type[Prompt] = HardPrompt,  # type: ignore[assignment]
    **fields: Any,
) -> Prompt:
    """The first of some candidates as the prompt, with the others and the history of the search.

    Where there is no room for the tokens' contributions, or a keyboard interrupt ends their measuring, they are left
    out: the prompt is found.

    Args:
        candidates: best first, with the scores that people see; at least one.
        vocabulary: whose ids they have.
        allowance: what is left of the call; what it has left out and why it was stopped is said of the prompt.
        scores_of: for the contributions, in the unit of the candidates' scores; None: nothing is measured.
        rows_at_once: prompts that are scored between two looks at the clock.
        settings: what the provenance says besides the search's own; JSON values.
        method_settings: the method's hyperparameters, which the provenance says too, if there are any; JSON values.
        kind: `HardPrompt`, or a class that extends it.
        fields: further fields of `kind`, which are taken as they are.
    """
    best = candidates[0]
    attributions = () if scores_of is None else leave_one_out(best, scores_of, allowance, rows_at_once)
    own = {"method_settings": dict(method_settings)} if method_settings else {}
    known: dict[str, Any] = {
        **{field.name: getattr(best, field.name) for field in dataclasses.fields(best)},
        "template": template.text,
        "model": model,
        "method": method,
        "tokens": vocabulary.pieces(best.token_ids),
        "attributions": attributions,
        "candidates": tuple(candidates),
        "history": result.history,
        "seed": result.seed,
        "stop_reason": allowance.stopped or str(result.stop_reason),  # a prompt holds JSON values
        "evaluations": allowance.evaluations,
        "left_out": tuple(allowance.left_out),
        "provenance": {**(settings or {}), **own, **provenance_of(result)},
    }
    return kind(**{**known, **fields})
