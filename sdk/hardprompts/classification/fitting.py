"""From labeled texts to a prompt: divided, searched, chosen, measured."""

import dataclasses
import importlib.metadata
from collections.abc import Hashable, Iterable
from typing import Any

import torch

from hardprompts.allowance import Allowance
from hardprompts.classification.choice import REPORTED, Choice, choose_prompt, choose_verbalizer
from hardprompts.classification.data import Examples
from hardprompts.classification.judging import JudgedTexts
from hardprompts.classification.measures import Measures
from hardprompts.classification.options import TunerOptions
from hardprompts.classification.prompt_search import PromptSearch
from hardprompts.classification.prompted import PromptedModel, language_model
from hardprompts.classification.verbalizer import Verbalizer
from hardprompts.encoders import Backend
from hardprompts.prompts import Candidate, HardPrompt
from hardprompts.search.protocol import Search
from hardprompts.search.registry import language_model_search, method_settings, search_method
from hardprompts.search.seeds import Stream, drawn_seed


@dataclasses.dataclass(frozen=True)
class FittedPrompt:
    """What a tuner has learned.

    Attributes:
        report: figures on the held-out examples, of this prompt and of the empty one, and what was noted.
    """

    verbalizer: Verbalizer
    prompt: HardPrompt
    report: dict[str, Any]


def fit_prompt(
    backend: Backend,
    options: TunerOptions,
    X: Iterable[Any],
    y: Iterable[Any],
    groups: Iterable[Hashable] | None = None,
    allowance: Allowance | None = None,
) -> FittedPrompt:
    """Searches for the prompt under which a language model sorts texts; see `ClassifierPromptTuner.fit`.

    Args:
        allowance: what is left of the call; default: that of a call that begins now.
    """
    seed, allowance = drawn_seed(options.seed), options.allowance() if allowance is None else allowance
    model = language_model(backend)
    examples = Examples.of(X, y, groups, options.holdout, Stream.EXAMPLES.generator(seed))
    verbalizer, notes = choose_verbalizer(options, model, examples, allowance)
    prompted = options.prompted(model, verbalizer)
    cut = dataclasses.replace(examples, texts=[prompted.encoder.cut(text) for text in examples.texts])
    notes += _notes(options, prompted, examples, cut)
    method = options.method
    if isinstance(method, str):
        method = language_model_search(search_method(method))
    judged = JudgedTexts(prompted, *cut.judged, options.score_size)
    kept = (options.top_k * options.seeds + REPORTED) * -(-judged.count // options.score_size)
    results = PromptSearch(prompted, cut, options, method).results(seed, allowance.keeping(kept))
    choice = choose_prompt(judged, cut, results, allowance)
    report = _report(judged, cut, choice, notes, allowance)
    prompt = _hard_prompt(backend, options, method, prompted, choice, report, allowance)
    return FittedPrompt(verbalizer, prompt, report)


def _notes(options: TunerOptions, prompted: PromptedModel, examples: Examples, cut: Examples) -> list[str]:
    """What a person should know about the examples, before and after they were cut, and about the label words."""
    notes, texts = [], examples.texts
    if prompted.labels.shared:
        notes.append(
            f"{', '.join(map(repr, prompted.labels.shared))} begin with the same token as a word of another class; "
            "they are distinguished as whole sequences"
        )
    shortened = sum(a.strip() != b for a, b in zip(texts, cut.texts, strict=True))
    if shortened:
        notes.append(f"{shortened} of {len(texts)} texts are too long and were cut at their end")
    empty = sum(not text.strip() for text in texts)
    if empty:
        notes.append(f"{empty} of {len(texts)} texts are empty")
    if options.holdout and not examples.held:
        notes.append("too few examples to hold any out: the prompt was chosen by those that it was learned from")
    return notes


def _report(
    judged: JudgedTexts, examples: Examples, choice: Choice, notes: list[str], allowance: Allowance
) -> dict[str, Any]:
    """Figures of the prompt and of the empty template, which is None where there was no room for it."""
    full: Measures | None = None
    empty: Measures | None = None
    with allowance.reporting():
        empty = judged.measure("", allowance, with_category_errors=True)
        full = judged.measure(choice.candidate.text, allowance, with_category_errors=True)
    allowance.leave_out("the empty template", empty is not None, 1)
    allowance.leave_out("category errors", full is not None, 1)
    full = choice.measures if full is None else full
    if empty is not None and full.rank <= empty.rank:
        notes = [*notes, "the prompt does no better than the empty template; more examples or label words may help"]
    if allowance.left_out:
        notes = [*notes, f"no room within the limits: {'; '.join(allowance.left_out)}"]
    return {
        "measured_on": "holdout" if examples.held else "training",
        "examples": {"learned_from": len(examples.learn), "held_out": len(examples.held)},
        "prompt": full.to_dict(),
        "empty_template": None if empty is None else empty.to_dict(),
        "notes": notes,
    }


def _hard_prompt(
    backend: Backend,
    options: TunerOptions,
    method: Search,
    prompted: PromptedModel,
    choice: Choice,
    report: dict[str, Any],
    allowance: Allowance,
) -> HardPrompt:
    best, result, verbalizer = choice.candidate, choice.result, prompted.labels.verbalizer
    accuracy = report["prompt"]["accuracy"]
    held = report["measured_on"] == "holdout"
    return HardPrompt(
        text=best.text,
        token_ids=best.token_ids,
        score=accuracy,
        template=prompted.encoder.template.for_search().text,
        model=backend.name,
        method=options.method if isinstance(options.method, str) else type(method).__name__,
        score_unit="accuracy on held-out texts" if held else "accuracy on the texts learned from",
        tokens=prompted.encoder.model.vocabulary.pieces(best.token_ids),
        candidates=(Candidate(best.text, best.token_ids, accuracy),),
        history=result.history,
        seed=result.seed,
        stop_reason=allowance.stopped or str(result.stop_reason),
        evaluations=allowance.evaluations,
        left_out=tuple(allowance.left_out),
        provenance={
            "classification_template": options.template,
            "label_words": {
                str(label): list(words) for label, words in zip(verbalizer.classes, verbalizer.words, strict=True)
            },
            "report": report,
            "settings": method_settings(method),
            "hardprompts": importlib.metadata.version("hardprompts"),
            "torch": torch.__version__,
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
        },
    )
