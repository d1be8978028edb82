"""Train the masked language model of the embedded world: ``python -m hardprompts_emoji.recipe.train_mlm``.

It learns to fill any share of a text's words, from one to all, as a discrete diffusion model does, so that a text can
be written in a few rounds from nothing but masks. Texts: those about training scenes that the decoder learns from
(``decoder_texts``), and WordNet's definitions and example sentences, of which no held-out part; Debian's
``wordnet-base`` must be installed. Three minutes of one processor core; the folder appears when it is done.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertTokenizer, RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM

from hardprompts_emoji import path
from hardprompts_emoji.recipe.build_glosses import WORDNET, read_wordnet, split_synsets
from hardprompts_emoji.recipe.decoder_texts import FIRST_SEED, texts
from hardprompts_emoji.recipe.folders import replacing
from hardprompts_emoji.recipe.loop import REPORT_SECONDS, Optimizers, mixed_precision

NAME = "emoji-mlm"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTEXT_LENGTH = 32
WORDS_OF_A_TEXT = range(2, 21)
VALIDATION_FROM = FIRST_SEED + 50_000_000
"""First seed of the training scenes whose texts are kept for validation."""


@dataclass(frozen=True)
class Sizes:
    """What the model is built from, and how it is trained."""

    vocabulary: int = 5000
    width: int = 128
    layers: int = 4
    heads: int = 4
    batch_size: int = 128
    steps: int = 2000
    learning_rate: float = 2e-2
    warmup: int = 60
    captions: float = 0.7
    """Share of the batches that are texts about scenes; the others are WordNet's."""
    seed: int = 5


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
language: en
tags: [roberta-prelayernorm, wordnet, hardprompts]
---

# {name}

A small RoBERTa (normalized before each layer) that fills in the words of captions and of definitions, and nothing
else: {parameters:.1f} million parameters, {layers} layers, {width} wide, {vocabulary} words. It writes whole texts
from masks alone in a few rounds, so that masked language models as proposers can be tried, tested and measured offline.

```python
from hardprompts import PromptInverter

prompt = PromptInverter("emoji", proposers="mlm:emoji:{name}").invert(image)
```

## Data and licenses

- Texts about training scenes of `hardprompts_emoji.scenes`, seeds below `HELD_OUT_SEED`: captions, paraphrases by other
  templates, and lists of words (`hardprompts_emoji.recipe.decoder_texts`). Names and keywords: Unicode CLDR,
  (c) Unicode, Inc., Unicode License v3.
- Definitions and example sentences: WordNet 3.0, Copyright 2006 by Princeton University, all rights reserved, under
  the WordNet 3.0 license. `LICENSES.md` of this package holds both. Those that tune and test prompts were left out.
- The weights are under the license of this package, Apache-2.0.

## Training

{steps} steps of {batch_size} texts in {minutes:.0f} minutes of one processor core. Each batch hides a share of its
words that is drawn uniformly. Of words hidden in unseen texts, half of each text, {caption_accuracy:.0%} are found in
texts about scenes (perplexity {caption_perplexity:.1f}), {gloss_accuracy:.0%} in WordNet's ({gloss_perplexity:.0f}).

Made by `python -m hardprompts_emoji.recipe.train_mlm`.
"""


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case and without signs."""
    return re.findall(r"[a-z]+", text.lower())


def glosses(part: str) -> Iterator[str]:
    """Yield WordNet's definitions and example sentences of "training" or "validation"."""
    for synset in split_synsets(read_wordnet(WORDNET))[part]:
        yield synset.definition
        yield from synset.examples


def vocabulary(captions: Sequence[str], definitions: Sequence[str], size: int) -> list[str]:
    """Return the special tokens, every word of the captions, and the most frequent words of the definitions."""
    found = dict.fromkeys((*SPECIAL, *sorted({word for text in captions for word in words(text)})))
    counts = Counter(word for text in definitions for word in words(text))
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(found) >= size:
            break
        found.setdefault(word)
    return list(found)


def build_tokenizer(tokens: Sequence[str]) -> BertTokenizer:
    """Return a tokenizer of whole words."""
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, do_lower_case=True, model_max_length=CONTEXT_LENGTH
    )


def build_model(sizes: Sizes) -> RobertaPreLayerNormForMaskedLM:
    """Return an untrained model; its initial weights follow from the seed."""
    torch.manual_seed(sizes.seed)
    config = RobertaPreLayerNormConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=CONTEXT_LENGTH + 1,  # places are counted from behind that of padding
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return RobertaPreLayerNormForMaskedLM._from_config(config, attn_implementation="eager")  # the faster one on CPUs


class Texts:
    """Texts as tokens, in tensors of one length each, so that no batch is padded."""

    def __init__(self, given: Sequence[str], tokens: Sequence[str]) -> None:
        known = {token: index for index, token in enumerate(tokens)}
        first, last = known["[CLS]"], known["[SEP]"]
        by_length: dict[int, list[list[int]]] = {}
        for text in given:
            ids = [known.get(word, -1) for word in words(text)]
            if len(ids) in WORDS_OF_A_TEXT and -1 not in ids:
                by_length.setdefault(len(ids), []).append([first, *ids, last])
        self.parts = [torch.tensor(rows) for _, rows in sorted(by_length.items())]
        self.counts = [len(part) for part in self.parts]

    def batch(self, size: int, generator: random.Random) -> Tensor:
        """Return (size, words + 2) ids of texts of one length, the length drawn by how many texts have it."""
        (part,) = generator.choices(self.parts, self.counts)
        return part[[generator.randrange(len(part)) for _ in range(size)]]


def hidden(ids: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return which words are hidden: of each text this share, at least one, never what frames it."""
    places = ids.shape[1] - 2
    count = max(1, round(share * places))
    order = torch.rand(len(ids), places, generator=generator).argsort(dim=1)
    return functional.pad(order < count, (1, 1))


def loss_of(model: RobertaPreLayerNormForMaskedLM, ids: Tensor, chosen: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Return the mean loss in nats of the hidden words, and the share that is found."""
    with mixed_precision(ids.device):
        states = model.base_model(input_ids=ids.masked_fill(chosen, mask_id)).last_hidden_state
        logits = model.lm_head(states[chosen]).float()
    truth = ids[chosen]
    return functional.cross_entropy(logits, truth), (logits.argmax(1) == truth).float().mean()


@torch.no_grad()
def measure(
    model: RobertaPreLayerNormForMaskedLM, held_out: Texts, mask_id: int, batches: int = 40
) -> tuple[float, float]:
    """Return perplexity and share found of words hidden in held-out texts, half of each text."""
    draws, generator = random.Random(0), torch.Generator().manual_seed(0)
    found = []
    for _ in range(batches):
        ids = held_out.batch(128, draws)
        found.append(loss_of(model, ids, hidden(ids, 0.5, generator), mask_id))
    losses, shares = (torch.stack(values).mean() for values in zip(*found, strict=True))
    return math.exp(float(losses)), float(shares)


def train(
    model: RobertaPreLayerNormForMaskedLM, sizes: Sizes, parts: tuple[Texts, Texts], held_out: Texts, mask_id: int
) -> None:
    """Train, and print every 20 seconds what the model makes of held-out texts."""
    optimizers = Optimizers(model, sizes.learning_rate, sizes.warmup, weight_decay=0.01)
    draws, generator = random.Random(sizes.seed), torch.Generator().manual_seed(sizes.seed)
    started = reported = time.monotonic()
    model.train()
    for step in range(1, sizes.steps + 1):
        optimizers.set_rates(step, step / sizes.steps)
        ids = parts[draws.random() >= sizes.captions].batch(sizes.batch_size, draws)
        loss, _ = loss_of(model, ids, hidden(ids, draws.random(), generator), mask_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            perplexity, share = measure(model, held_out, mask_id, batches=8)
            print(
                f"{reported - started:6.0f} s step {step:6d} perplexity {perplexity:.1f} found {share:.1%}", flush=True
            )
    model.eval()


def main() -> None:
    """Parse the command line, train, measure and write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=Sizes.steps)
    parser.add_argument("--texts", type=int, default=200_000, help="about scenes")
    parser.add_argument("--output", type=Path, help="default: where the embedded model is")
    arguments = parser.parse_args()
    sizes, started = Sizes(steps=arguments.steps), time.monotonic()
    captions, definitions = list(texts(arguments.texts)), list(glosses("training"))
    tokens = vocabulary(captions, definitions, sizes.vocabulary)
    mask_id = tokens.index("[MASK]")
    learned = Texts(captions, tokens), Texts(definitions, tokens)
    print(f"{[sum(part.counts) for part in learned]} texts after {time.monotonic() - started:.0f} s", flush=True)
    unseen = {"caption": texts(4000, VALIDATION_FROM), "gloss": glosses("validation")}
    held_out = {kind: Texts(list(given), tokens) for kind, given in unseen.items()}
    model, spent = build_model(sizes), time.process_time()
    train(model, sizes, learned, held_out["caption"], mask_id)
    facts = {"name": NAME, **asdict(sizes), "minutes": round((time.process_time() - spent) / 60, 1)}
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    for kind, given in held_out.items():
        perplexity, share = measure(model, given, mask_id)
        facts |= {f"{kind}_perplexity": round(perplexity, 2), f"{kind}_accuracy": round(share, 4)}
    with replacing(arguments.output or path(NAME)) as folder:
        model.half().save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # it was written as a temporary file, for one user's eyes
        build_tokenizer(tokens).save_pretrained(folder)
        (folder / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
        (folder / "evaluation.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
