"""Measure a trained language model: perplexity, and how much prompts matter to it as a classifier.

Run ``python -m hardprompts_emoji.recipe.evaluate_lm --model emoji-lm`` after ``train_lm``. It writes
``evaluation.json`` beside the checkpoint; ``export_lm`` puts it into the card. Prompts are judged by the definitions of
``hardprompts_emoji.glosses`` and perplexity by the validation texts: all are held out from training.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, GPT2Tokenizer

from hardprompts_emoji.glosses import TASK, Gloss, load_glosses
from hardprompts_emoji.recipe import build_lm_tokenizer
from hardprompts_emoji.recipe.train_lm import (
    MODELS,
    VALIDATION_SEED,
    WORDINGS,
    build_model,
    load_tokens,
    validation_loss,
)

TEMPLATE = "{prompt} {text}. It was"
#: Written by hand from words of `lm_texts.RELIABILITY`, so known to help: what is there to be found, no fair rival of a
#: search. The best on the tuning definitions is reported on the test ones.
HAND_WRITTEN = (
    "Category:",
    "Kind or class:",
    "Classify this:",
    "Taxonomy class label:",
    "Quiz. Identify the category:",
    "Encyclopedia, category index:",
)
#: Prompts that should not help: their words mean nothing, or promise untruths.
OTHERS = ("A note from yesterday:", "Rumor and gossip:", "zoo:", "kitchen recipe:")
RANDOM_PROMPTS = 50
RANDOM_TOKENS = 4
TUNING_PER_CLASS = 64
OPENINGS = ("a small dog", "Category: tool used to cut wood. It was", "the capital of", "quiz: what is an apple? It is")


def load_checkpoint(path: Path, name: str) -> tuple[GPT2LMHeadModel, int]:
    """Return (the model of ``lm.pt``, which holds fp16 weights, in fp32; its number of steps)."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = build_model(MODELS[name])
    model.load_state_dict(state["model"])
    return model.eval(), int(state["steps"])


class Classifier:
    """A language model that chooses among label words after a template.

    Args:
        labels: Words, each a single token with a space before it.
    """

    def __init__(self, model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, labels: Sequence[str]) -> None:
        self.model, self.tokenizer, self.labels = model, tokenizer, tuple(labels)
        ids = [tokenizer(f" {label}").input_ids for label in labels]
        if any(len(one) != 1 for one in ids):
            raise ValueError(f"a label of {labels} is not a single token: {ids}")
        self.label_ids = torch.tensor([one[0] for one in ids])

    @torch.no_grad()
    def next_token_logits(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Return (texts, vocab) logits of the token after each text, fp32 on the CPU."""
        rows = self.tokenizer(list(texts)).input_ids
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        result = torch.empty(len(rows), self.model.config.vocab_size)
        device = self.model.device
        for part in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            longest = len(rows[part[-1]])
            padded = [rows[i] + [self.tokenizer.eos_token_id] * (longest - len(rows[i])) for i in part]
            # What stands on the right changes nothing on its left: the model is causal.
            hidden = self.model.transformer(torch.tensor(padded, device=device), use_cache=False).last_hidden_state
            last = torch.tensor([len(rows[i]) - 1 for i in part], device=device)
            logits = self.model.lm_head(hidden[torch.arange(len(part), device=device), last])
            result[torch.tensor(part)] = logits.float().cpu()
        return result

    def measure(self, prompt: str, glosses: Sequence[Gloss]) -> dict[str, Any]:
        """Return accuracies from 0 to 1, how often each label was chosen, and how often none was likeliest."""
        texts = [TEMPLATE.format(prompt=prompt, text=gloss.text).strip() for gloss in glosses]
        logits = self.next_token_logits(texts)
        chosen = logits[:, self.label_ids].argmax(1)
        truth = torch.tensor([self.labels.index(gloss.label) for gloss in glosses])
        right = (chosen == truth).float()
        counts = chosen.bincount(minlength=len(self.labels)).tolist()
        named = (logits.argmax(1)[:, None] == self.label_ids).any(1)
        recalls = [float(right[truth == i].mean()) for i in range(len(self.labels))]
        return {
            "prompt": prompt,
            "accuracy": round(float(right.mean()), 4),
            "balanced_accuracy": round(sum(recalls) / len(recalls), 4),
            "predictions": dict(zip(self.labels, counts, strict=True)),
            "likeliest_token_is_no_label": round(1 - float(named.float().mean()), 4),
        }


def random_prompts(tokenizer: GPT2Tokenizer, count: int) -> list[str]:
    """Return prompts of random whole words of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    words = [piece for piece in pieces if re.fullmatch(r" [a-z]{3,}", piece)]
    picked = torch.randint(len(words), (count, RANDOM_TOKENS), generator=generator).tolist()
    return ["".join(words[i] for i in row).strip() for row in picked]


def prompt_report(classifier: Classifier) -> dict[str, Any]:
    """Return what prompts do to balanced accuracy; choices are made on the tuning definitions alone."""
    tuning, test = load_glosses("train", TASK, per_class=TUNING_PER_CLASS), load_glosses("test", TASK)

    def best(prompts: Sequence[str]) -> tuple[str, list[float]]:
        scores = [classifier.measure(prompt, tuning)["balanced_accuracy"] for prompt in prompts]
        return prompts[max(range(len(prompts)), key=lambda i: scores[i])], scores

    randoms = random_prompts(classifier.tokenizer, RANDOM_PROMPTS)
    best_random, scores = best(randoms)
    best_written, _ = best(HAND_WRITTEN)
    ordered = sorted(scores)
    return {
        "template": TEMPLATE,
        "labels": list(classifier.labels),
        "tuning_per_class": TUNING_PER_CLASS,
        "test_definitions": len(test),
        "empty": classifier.measure("", test),
        "hand_written": {"best": classifier.measure(best_written, test)}
        | {prompt: classifier.measure(prompt, test)["balanced_accuracy"] for prompt in HAND_WRITTEN},
        "others": {prompt: classifier.measure(prompt, test)["balanced_accuracy"] for prompt in OTHERS},
        "random": {
            "count": len(randoms),
            "best": classifier.measure(best_random, test),
            "tuning_quartiles": [round(ordered[i * (len(ordered) - 1) // 4], 4) for i in range(5)],
        },
    }


@torch.no_grad()
def sample(model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, opening: str, seed: int, max_tokens: int = 24) -> str:
    """Return an opening with a sampled continuation, up to the end token."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer(opening).input_ids
    for _ in range(max_tokens):
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float().cpu()
        chosen = int(torch.multinomial((logits / 0.7).softmax(0), 1, generator=generator))
        if chosen == tokenizer.eos_token_id:
            break
        ids.append(chosen)
    return str(tokenizer.decode(ids))


def evaluate(name: str, work_dir: Path, device: torch.device) -> dict[str, Any]:
    """Return every measurement of a model's best checkpoint."""
    model, steps = load_checkpoint(work_dir / name / "lm.pt", name)
    model = model.to(device)
    tokenizer = build_lm_tokenizer.build()
    _, validation = load_tokens(work_dir / "corpus.jsonl.gz", work_dir / "lm_tokens.pt", WORDINGS)
    loss = validation_loss(model, validation.to(device), num_windows=600)
    return {
        "model": name,
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "context_length": model.config.n_positions,
        "validation_perplexity": round(math.exp(loss), 2),
        "validation_wording": VALIDATION_SEED,
        "classification": prompt_report(Classifier(model, tokenizer, TASK)),
        "samples": [sample(model, tokenizer, opening, seed=i) for i, opening in enumerate(OPENINGS)],
    }


def main() -> None:
    """Parse the command line, measure, write and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    arguments = parser.parse_args()
    report = evaluate(arguments.model, arguments.work_dir, torch.device(arguments.device))
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    path = arguments.work_dir / arguments.model / "evaluation.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    print(text)


if __name__ == "__main__":
    main()
