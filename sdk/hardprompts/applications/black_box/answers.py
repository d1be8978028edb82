"""The outcome of a race: the best prompt, scored by pictures that it was not chosen by."""

import importlib.metadata
import math
from collections.abc import Mapping
from typing import Any

from hardprompts.applications.black_box.outcome import MutationRecord, PictureInversion, PicturePoint, Trial
from hardprompts.applications.black_box.race import Race, Runner
from hardprompts.applications.joining import _ids_of
from hardprompts.encoders import Backend
from hardprompts.errors import VocabularyError
from hardprompts.prompts import Candidate, HardPrompt
from hardprompts.search.protocol import StopReason

#: Candidates that a prompt keeps.
TOP = 10

#: What scores are called: of a prompt that was drawn once more, and of one that was not.
FRESH, CHOSEN = "image similarity on fresh seeds", "image similarity on the seeds it was chosen by"


def answer(race: Race, reason: StopReason, backend: Backend | None, about: Mapping[str, Any]) -> PictureInversion:
    """Draws the best prompts of a race with fresh seeds, and tells of it.

    Args:
        backend: whose token ids the prompt gets, if it has any for it.
        about: more of the provenance.
    """
    best, searched = race.leader, race.drawing.asked
    assert best is not None, "a race without pictures raises"
    reported = [(point, race.leader_at(point) or best) for point in race.options.report_at if point < searched]
    race.draw_fresh([best.filled, *(own.filled for _, own in reported)], reason)
    points = [
        PicturePoint(at, own.text, _fresh(race, own), own.picture)
        for at, own in [*reported, (race.drawing.asked, best)]
    ]
    records = {name: MutationRecord(arm.pulls, arm.wins) for name, arm in race.bandit.arms.items()}
    return PictureInversion(
        prompt=_prompt(race, best, reason, backend, about),
        chosen_at=best.mean(race.level),
        trials=tuple(
            Trial(own.text, own.mutation, "" if own.parent is None else own.parent.text, tuple(own.scores))
            for own in race.runners.values()
            if own.scores or own.failed
        ),
        points=tuple(points),
        mutations=records,
        pictures=race.drawing.asked,
        failures=race.drawing.failures,
        recalled=race.drawing.recalled,
    )


def _fresh(race: Race, own: Runner) -> float | None:
    """The mean score of a prompt by those of the fresh seeds that it was drawn with; None: by none."""
    found = [race.drawing.scores.get((own.filled, seed)) for seed in race.fresh_seeds]
    scores = [score for score in found if score is not None]
    return math.fsum(scores) / len(scores) if scores else None


def _prompt(
    race: Race, best: Runner, reason: StopReason, backend: Backend | None, about: Mapping[str, Any]
) -> HardPrompt:
    score, options, drawing = _fresh(race, best), race.options, race.drawing
    drawn = sum(drawing.scores.get((best.filled, seed)) is not None for seed in race.fresh_seeds)
    wanted = len(race.fresh_seeds)
    ranked = sorted(
        (own for own in race.runners.values() if len(own.scores) >= race.level), key=lambda own: -own.mean(race.level)
    )
    ranked.sort(key=lambda own: own is not best)
    ids = _ids(best, race, backend)
    return HardPrompt(
        text=best.text,
        token_ids=ids,
        score=best.mean(race.level) if score is None else score,
        template=options.template,
        model=backend.name if backend is not None and ids else "",
        method="black-box",
        score_unit=CHOSEN if score is None else FRESH,
        tokens=backend.vocabulary.pieces(ids) if backend is not None and ids else (),
        candidates=tuple(Candidate(own.text, _ids(own, race, backend), own.mean(race.level)) for own in ranked[:TOP]),
        history=tuple(race.history),
        seed=options.seed,
        stop_reason=str(reason),
        left_out=(f"pictures on fresh seeds: {drawn} of {wanted}",) if drawn < wanted else (),
        provenance={
            **about,
            "budget": options.budget,
            "pictures": drawing.asked,
            "failures": drawing.failures,
            "seeds": race.seeds,
            "fresh_seeds": race.fresh_seeds,
            "chosen_at": best.mean(race.level),
            "made_by": best.mutation,
            "hardprompts": importlib.metadata.version("hardprompts"),
        },
    )


def _ids(own: Runner, race: Race, backend: Backend | None) -> tuple[int, ...]:
    """The ids of a prompt in a model's vocabulary; () without a model, or where it does not read the text back."""
    if backend is None:
        return ()
    try:
        return _ids_of(own.text, backend.vocabulary, race.template)
    except VocabularyError:
        return ()
