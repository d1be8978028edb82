"""What a search found, as people get it: a `HardPrompt` with what each token contributes and how it came about."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.protocol import SearchResult, StopReason
from hardprompts.vocabulary import Vocabulary

Prompt = TypeVar("Prompt", bound=HardPrompt)

#: The scores of prompts that are given by their ids, which may be none at all.
ScoresOf = Callable[[list[tuple[int, ...]]], Sequence[float]]


def leave_one_out(best: Candidate, scores_of: ScoresOf) -> tuple[float, ...]:
    """What each token contributes: the score that is lost when it is removed."""
    ids = best.token_ids
    without = [ids[:place] + ids[place + 1 :] for place in range(len(ids))]
    return tuple(best.score - score for score in scores_of(without))


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
    scores_of: ScoresOf | None = None,
    settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Any] | None = None,
    kind: type[Prompt] = HardPrompt,  # type: ignore[assignment]
    **fields: Any,
) -> Prompt:
    """The first of some candidates as the prompt, with the others and the history of the search.

    A keyboard interrupt while the tokens' contributions are measured leaves these out: the prompt is found.

    Args:
        candidates: best first, with the scores that people see; at least one.
        vocabulary: whose ids they have.
        scores_of: for the contributions, in the unit of the candidates' scores; None: nothing is measured.
        settings: what the provenance says besides the search's own; JSON values.
        method_settings: the method's hyperparameters, which the provenance says too, if there are any; JSON values.
        kind: `HardPrompt`, or a class that extends it.
        fields: further fields of `kind`, which are taken as they are.
    """
    best, stop_reason = candidates[0], result.stop_reason
    attributions: tuple[float, ...] = ()
    if scores_of is not None:
        try:
            attributions = leave_one_out(best, scores_of)
        except KeyboardInterrupt:
            stop_reason = StopReason.INTERRUPTED
    own = {"method_settings": dict(method_settings)} if method_settings else {}
    known: dict[str, Any] = {
        **{field.name: getattr(best, field.name) for field in dataclasses.fields(best)},
        "template": template.text,
        "model": model,
        "method": method,
        "tokens": vocabulary.token_texts(best.token_ids),
        "attributions": attributions,
        "candidates": tuple(candidates),
        "history": result.history,
        "seed": result.seed,
        "stop_reason": str(stop_reason),  # a prompt holds JSON values
        "evaluations": result.evaluations,
        "provenance": {**(settings or {}), **own, **provenance_of(result)},
    }
    return kind(**{**known, **fields})
