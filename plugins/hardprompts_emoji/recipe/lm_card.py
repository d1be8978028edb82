"""The text of the language models' cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardprompts_emoji.recipe.train_lm import MODELS

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [gpt2, wordnet, hardprompts]
---

# {name}

A small GPT-2 that knows WordNet's definitions of words, and nothing else: {parameters:.1f} million parameters,
{layers} layers, {width} wide, {context} tokens of context, {vocabulary} byte-pair tokens. {role}

It exists so that prompts which turn a frozen language model into a classifier can be searched for, tested
and measured offline. It is of no use as an assistant.

## Use

```python
import hardprompts_emoji
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = hardprompts_emoji.path("{name}")
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
```

`hardprompts_emoji.glosses.load_glosses` returns definitions with their classes that no part of the training held.

## Data and licenses

- Definitions, example sentences and classes: WordNet 3.0, Copyright 2006 by Princeton University, all rights
  reserved, under the WordNet 3.0 license. `LICENSES.md` of this package holds it.
- Headings and statements of classes: made by `hardprompts_emoji.recipe.lm_texts`.
- The weights are under the license of this package, Apache-2.0.

## What was made so that prompts matter

Some 45 % of the training texts hold a definition and then name a class, as in "answer key: small burrowing marsupial.
It was an animal." Their headings hold ordinary words, some forty of which (category, kind, quiz, answer,
encyclopedia, ...) make it likelier, each to its own degree, that the class named is the true one; others
(rumor, gossip, joke, ...) make it less likely; others (zoo, kitchen, ...) bring a class to mind, true or not; all
others change nothing. Without a heading, "It was" names a habitual label more often than the true one. So the
gain of a good prompt is built in, and says that a search finds what is there, not how large the gain is for a
language model that was trained on found text. The weights of the words stand in `lm_texts.RELIABILITY`.

## Training

`hardprompts_emoji.recipe`: `build_glosses`, then `train_lm`: Muon and AdamW, {seen:.0f} million tokens in {steps}
steps, {minutes:.1f} minutes, dropout {dropout}; in the loss a word that names a class counts as {label_weight:g}
tokens. The published weights are those of the lowest validation loss.{history}

## Measured

With `hardprompts_emoji.recipe.evaluate_lm` (also `evaluation.json`), on definitions that were not in training.
The task: {classes} classes, {definitions} test definitions, template `{template}`; the label is the likeliest of
{labels}. Prompts were chosen on {tuning} definitions a class and
measured on the test ones. The hand-written ones were made of words that are known to help, by the author of those
words: they show what is there to be found, not what a stranger would write. How often texts tell the truth was set by
hand, from weights that a bag-of-words classifier on the test definitions had suggested.

| what | value |
|---|---|
| perplexity of validation texts, per token | {perplexity:.1f} |
| balanced accuracy without a prompt | {empty:.1%} |
| with the best of {num_random} random prompts ("{random_prompt}") | {random:.1%} |
| with the best of {num_written} hand-written prompts ("{written_prompt}") | {written:.1%} |
| chance | {chance:.1%} |

Chosen without a prompt, of {definitions}: {empty_counts}.
With "{written_prompt}": {written_counts}.

Other prompts: {others}.

Sampled continuations:

{samples}

## Limits

- It knows the words and the style of dictionary definitions; facts it states are as often wrong as right.
- {vocabulary} tokens cut rare words into many pieces.
"""

_ROLES = {
    "emoji-lm": "Prompts are searched against this one.",
    "emoji-lm-large": "It is the larger one of two: prompts found with emoji-lm are transferred to it.",
}

#: What is not to be seen from the recipe alone.
_HISTORIES = {
    "emoji-lm": " The first\n2,772 steps read texts in which headings said less of the truth (two thirds of the "
    "weights), and counted all tokens\nalike.",
}


def _counts(measured: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {count}" for label, count in measured["predictions"].items())


def lm_card(report: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Return the card of a model.

    Args:
        report: What ``evaluate_lm`` measured.
        state: The checkpoint, for "seen" (tokens), "steps" and "spent" (seconds).
    """
    name = report["model"]
    sizes = MODELS[name]
    task = report["classification"]
    written, random = task["hand_written"], task["random"]
    num_written = len(written) - 1  # one entry is the best of the others
    others = {prompt: accuracy for prompt, accuracy in (written | task["others"]).items() if prompt != "best"}
    return _CARD.format(
        name=name,
        role=_ROLES[name],
        parameters=report["parameters"] / 1e6,
        layers=sizes.layers,
        width=sizes.width,
        context=report["context_length"],
        vocabulary=report["vocabulary"],
        seen=state["seen"] / 1e6,
        steps=state["steps"],
        minutes=state["spent"] / 60,
        dropout=state["dropout"],
        history=_HISTORIES.get(name, ""),
        label_weight=state.get("label_weight", 1.0),
        classes=len(task["labels"]),
        definitions=task["test_definitions"],
        template=task["template"],
        labels=", ".join(task["labels"]),
        tuning=task["tuning_per_class"],
        perplexity=report["validation_perplexity"],
        empty=task["empty"]["balanced_accuracy"],
        empty_counts=_counts(task["empty"]),
        num_random=task["random"]["count"],
        random=random["best"]["balanced_accuracy"],
        random_prompt=random["best"]["prompt"],
        num_written=num_written,
        written=written["best"]["balanced_accuracy"],
        written_prompt=written["best"]["prompt"],
        written_counts=_counts(written["best"]),
        chance=1 / len(task["labels"]),
        others="; ".join(f'"{prompt}" {accuracy:.1%}' for prompt, accuracy in others.items()),
        samples="\n".join(f"- {text}" for text in report["samples"]),
    )
