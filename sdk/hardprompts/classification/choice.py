"""What is chosen by the held-out texts: the label words, and the prompt of all that the searches found."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hardprompts.allowance import Allowance
from hardprompts.classification.data import Examples
from hardprompts.classification.judging import JudgedTexts
from hardprompts.classification.measures import Measures
from hardprompts.classification.options import TunerOptions
from hardprompts.classification.verbalizer import Verbalizer, of_occurring, suggest_verbalizer
from hardprompts.encoders import LanguageModel
from hardprompts.errors import NonFiniteError, SearchError
from hardprompts.prompts import Candidate
from hardprompts.search.protocol import SearchResult

#: Of what is left of a fit, one part in so many may go into the choice of label words.
VERBALIZER_SHARE = 4

#: What is measured of a prompt behind its choice takes as long as so many candidates.
REPORTED = 4


def choose_verbalizer(
    options: TunerOptions, model: LanguageModel, examples: Examples, allowance: Allowance
) -> tuple[Verbalizer, list[str]]:
    """The label words that were asked for, and a note about those that were chosen among suggestions.

    Raises:
        ValueError, VocabularyError: a class has no words, or they have no tokens of their own.
    """
    classes = examples.classes
    if not isinstance(options.verbalizer, str):  # else "suggest"
        words, unused = of_occurring(classes, options.verbalizer)
        notes = [f"the verbalizer has words for {unused}, which no text has as its label"] if unused else []
        return Verbalizer.of(classes, words), notes
    texts, targets = examples.learned
    found = [Verbalizer.of(classes, suggest_verbalizer(texts, [classes[target] for target in targets], model))]
    if all(isinstance(label, str) for label in classes):
        found.append(Verbalizer.of(classes, None))

    left, ranks = allowance.share(VERBALIZER_SHARE), []
    for place, verbalizer in enumerate(found):
        judged = JudgedTexts(options.prompted(model, verbalizer), *examples.judged, options.score_size)
        measures = judged.measure("", left, len(found) - place)
        judged.note(allowance, "texts that label words were chosen by")
        ranks.append((-1.0, 0.0) if measures is None else measures.rank)
    best = found[ranks.index(max(ranks))]
    shown = ", ".join(f"{label}: {'/'.join(words)}" for label, words in zip(classes, best.words, strict=True))
    by = f"{len(examples.held)} held-out texts" if examples.held else f"{len(examples.learn)} texts"
    return best, [f"label words chosen by {by}: {shown}"]


class Choice(NamedTuple):
    """The prompt that was chosen, how well it does on the texts that it was chosen by, and the search that met it."""

    candidate: Candidate
    measures: Measures
    result: SearchResult


def choose_prompt(
    judged: JudgedTexts, examples: Examples, results: Sequence[SearchResult], allowance: Allowance
) -> Choice:
    """The candidate that does best on the held-out texts, of those that keep their ids beside every text.

    Where there is no room to measure all of them, it is chosen among those that were measured, the best of each
    search first; a keyboard interrupt leaves the others out, too.

    Raises:
        SearchError: none keeps its ids.
        NonFiniteError: the likelihoods are NaN or infinite.
    """
    encoder = judged.prompted.encoder
    pool = [(candidate, result) for result in results for candidate in result.candidates]
    found: list[Choice] = []
    place = 0

    def measure() -> Measures | None:
        # The first of all is measured whatever is left; a part is kept for the report.
        return judged.measure(pool[place][0].text, allowance, len(pool) + REPORTED)

    def keeps(candidate: Candidate) -> bool:
        return not encoder.misread(candidate.text, candidate.token_ids, examples.texts)

    while place < len(pool):
        if found:
            measures = None
            with allowance.reporting():
                measures = measure()
        else:
            measures = allowance.insist(measure)
        if measures is None:
            break
        found.append(Choice(pool[place][0], measures, pool[place][1]))
        place += 1
    judged.note(allowance)
    allowance.leave_out("candidates measured on them", len(found), len(pool))
    # What does best is nearly always read as it is beside every text, so that few are looked at.
    ranked = sorted(found, key=lambda choice: choice.measures.rank, reverse=True)
    best = next((one for one in ranked if keeps(one.candidate)), None)
    for candidate, result in pool[len(found) :] if best is None else ():  # that were not measured
        if keeps(candidate):
            measures = allowance.insist(functools.partial(judged.measure_few, candidate.text))
            best = Choice(candidate, measures, result)
            break
    if best is None:
        raise SearchError(
            f"none of the {len(pool)} best prompts, such as {pool[0][0].text!r}, keeps its tokens beside every text "
            f"in {encoder.template.text!r}; put a space or a line break around {{prompt}}"
        )
    if not np.isfinite(best.measures.loss):
        raise NonFiniteError("the likelihoods are NaN or infinite; use dtype=torch.float32")
    return best
