"""What is chosen by the held-out texts: the label words, and the prompt of all that the searches found."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hardprompts.classification.data import Examples
from hardprompts.classification.measures import Measures
from hardprompts.classification.options import TunerOptions
from hardprompts.classification.prompted import PromptedModel
from hardprompts.classification.verbalizer import Verbalizer, of_occurring, suggest_verbalizer
from hardprompts.encoders import LanguageModel
from hardprompts.errors import NonFiniteError, SearchError
from hardprompts.prompts import Candidate
from hardprompts.search.protocol import SearchResult


def choose_verbalizer(options: TunerOptions, model: LanguageModel, examples: Examples) -> tuple[Verbalizer, list[str]]:
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

    def rank(verbalizer: Verbalizer) -> tuple[float, float]:
        prompted = options.prompted(model, verbalizer)
        return prompted.measure("", *examples.judged, with_category_errors=False).rank

    best = max(found, key=rank)
    shown = ", ".join(f"{label}: {'/'.join(words)}" for label, words in zip(classes, best.words, strict=True))
    by = f"{len(examples.held)} held-out texts" if examples.held else f"{len(examples.learn)} texts"
    return best, [f"label words chosen by {by}: {shown}"]


class Choice(NamedTuple):
    """The prompt that was chosen, how well it does on the texts that it was chosen by, and the search that met it."""

    candidate: Candidate
    measures: Measures
    result: SearchResult


def choose_prompt(prompted: PromptedModel, examples: Examples, results: Sequence[SearchResult]) -> Choice:
    """The candidate that does best on the held-out texts, of those that keep their ids beside every text.

    Raises:
        SearchError: none keeps its ids.
        NonFiniteError: the likelihoods are NaN or infinite.
    """
    best: Choice | None = None
    refused: list[str] = []
    for result in results:
        for candidate in result.candidates:
            if prompted.encoder.misread(candidate.text, candidate.token_ids, examples.texts):
                refused.append(candidate.text)
                continue
            measures = prompted.measure(candidate.text, *examples.judged, with_category_errors=False)
            if best is None or measures.rank > best.measures.rank:
                best = Choice(candidate, measures, result)
    if best is None:
        raise SearchError(
            f"none of the {len(refused)} best prompts, such as {refused[0]!r}, keeps its tokens beside every text "
            f"in {prompted.encoder.template.text!r}; put a space or a line break around {{prompt}}"
        )
    if not np.isfinite(best.measures.loss):
        raise NonFiniteError("the likelihoods are NaN or infinite; use dtype=torch.float32")
    return best
