"""Train a causal language model of the embedded world.

Run ``python -m hardprompts_emoji.recipe.train_lm --model emoji-lm --device cuda`` after ``build_glosses``; needs
only ``corpus.jsonl.gz`` of the work directory. The tokens are made once for all models, in ``lm_tokens.pt``. Stopped
and run again with the same budget or a larger one, it goes on from its last checkpoint; ``lm.pt`` holds the weights
of the lowest validation loss so far, in fp16 as they are published.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from hardprompts_emoji.glosses import LABELS
from hardprompts_emoji.recipe import build_lm_tokenizer, lm_texts
from hardprompts_emoji.recipe.build_glosses import read_corpus
from hardprompts_emoji.recipe.build_lm_tokenizer import CONTEXT_LENGTH
from hardprompts_emoji.recipe.loop import REPORT_SECONDS, SAVE_SECONDS, Optimizers, mixed_precision, save_state

#: The synsets are put into words this many times, each time differently.
WORDINGS = 6
VALIDATION_SEED = 1_000_000


@dataclass(frozen=True)
class ModelSizes:
    """Sizes and seed of one model of the family, and how it is trained.

    ``passes`` is how many times as many tokens as one wording holds are seen at most: the learning rate
    falls with them or with the clock, whichever is further.
    """

    seed: int
    width: int
    layers: int
    heads: int
    dropout: float
    learning_rate: float
    passes: float


#: Small enough for an hour each of one processor core, in which no text is read often enough to need dropout.
MODELS = {
    "emoji-lm": ModelSizes(3, 192, 4, 3, 0.0, 2e-2, 12),
    "emoji-lm-large": ModelSizes(4, 256, 6, 4, 0.0, 2e-2, 12),
}
WARMUP_STEPS = 100
LABEL_WEIGHT = 8.0
"""What a word that names a class counts in the loss, where any other token counts 1: one token in thirty is such a
word, and what prompts do to a classifier is learned from it alone."""
WEIGHT_DECAY = 0.1


def build_model(sizes: ModelSizes) -> GPT2LMHeadModel:
    """Return an untrained model; its initial weights follow from the seed of its sizes."""
    torch.manual_seed(sizes.seed)
    end = build_lm_tokenizer.VOCABULARY_SIZE - 1
    config = GPT2Config(
        vocab_size=build_lm_tokenizer.VOCABULARY_SIZE,
        n_positions=CONTEXT_LENGTH,
        n_embd=sizes.width,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        resid_pdrop=sizes.dropout,
        embd_pdrop=sizes.dropout,
        attn_pdrop=sizes.dropout,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own formula, in one pass
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel._from_config(config, attn_implementation="eager")  # the faster one on CPUs


@dataclass(frozen=True)
class TokenStream:
    """Texts one after another, each after one end token.

    Attributes:
        tokens: (tokens,) ids, with a window's length of end tokens at the end.
        starts: (texts,) the place of each text's first token.
    """

    tokens: Tensor
    starts: Tensor

    def windows(self, chosen: Tensor, bare: Tensor) -> Tensor:
        """Return (n, CONTEXT_LENGTH) ids from the ``chosen`` texts on, with their end token before them unless bare."""
        first = self.starts[chosen] - (~bare).long()
        return self.tokens[first[:, None] + torch.arange(CONTEXT_LENGTH, device=first.device)].long()

    def to(self, device: torch.device) -> TokenStream:
        """Return the stream on a device."""
        return TokenStream(self.tokens.to(device), self.starts.to(device))

    @classmethod
    def of(cls, texts: Sequence[str]) -> TokenStream:
        """Return texts as tokens, each cut at the context's length."""
        tokenizer = build_lm_tokenizer.build()
        end = tokenizer.eos_token_id
        tokens: list[int] = []
        starts: list[int] = []
        for ids in tokenizer(list(texts), truncation=True).input_ids:
            tokens.append(end)
            starts.append(len(tokens))
            tokens.extend(ids)
        tokens.extend([end] * CONTEXT_LENGTH)
        return cls(torch.tensor(tokens, dtype=torch.int16), torch.tensor(starts))

    @classmethod
    def joined(cls, parts: Sequence[TokenStream]) -> TokenStream:
        """Return streams one behind the other."""
        offsets = torch.tensor([0, *(len(part.tokens) for part in parts[:-1])]).cumsum(0)
        starts = torch.cat([part.starts + offset for part, offset in zip(parts, offsets, strict=True)])
        return cls(torch.cat([part.tokens for part in parts]), starts)


def tokenize(corpus: Path, part: str, seed: int) -> TokenStream:
    """Return the texts of one wording of a part of the corpus as tokens."""
    return TokenStream.of(lm_texts.texts(read_corpus(corpus)[part], seed))


def load_tokens(corpus: Path, cache: Path, wordings: int) -> tuple[TokenStream, TokenStream]:
    """Return the tokens for training and validation, made by all cores at the first time."""
    sources = (corpus, Path(lm_texts.__file__), build_lm_tokenizer.MERGES)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest() + f"-{wordings}"
    if cache.exists():
        state = torch.load(cache, weights_only=True, mmap=True)
        if state["digest"] == digest:
            return TokenStream(*state["training"]), TokenStream(*state["validation"])
    jobs = [("validation", VALIDATION_SEED), *(("training", seed) for seed in range(1, wordings + 1))]
    workers = min(len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    # A fork of a process that has started threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(tokenize, corpus, part, seed) for part, seed in jobs]
        validation, *parts = [future.result() for future in futures]
    training = TokenStream.joined(parts)
    save_state(
        cache,
        digest=digest,
        training=(training.tokens, training.starts),
        validation=(validation.tokens, validation.starts),
    )
    return training, validation


def token_weights(words: Iterable[str], device: torch.device, weight: float = LABEL_WEIGHT) -> Tensor:
    """Return (vocabulary,) what each token counts in the loss, where label words count ``weight``."""
    tokenizer = build_lm_tokenizer.build()
    weights = torch.ones(len(tokenizer), device=device)
    weights[[tokenizer(f" {label}").input_ids[0] for label in words]] = weight
    return weights


def next_token_loss(model: GPT2LMHeadModel, ids: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss in nats of predicting each of ``targets`` (-100: none) from the ``ids`` before it."""
    with mixed_precision(ids.device):
        logits = model(input_ids=ids, use_cache=False).logits
    loss: Tensor = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), weights)
    return loss


@torch.no_grad()
def validation_loss(
    model: GPT2LMHeadModel, stream: TokenStream, num_windows: int, weights: Tensor | None = None
) -> float:
    """Return the mean loss in nats a token of windows spread evenly over the validation texts."""
    places = torch.linspace(0, len(stream.starts) - 1, min(num_windows, len(stream.starts)))
    chosen = places.long().to(stream.starts.device)
    training = model.training
    model.eval()
    total = tokens = torch.zeros((), device=chosen.device)
    for part in chosen.split(64):
        ids = stream.windows(part, torch.zeros_like(part, dtype=torch.bool))
        # The last texts run into the padding after the stream, which is nothing to be judged by.
        ends = ids == build_lm_tokenizer.VOCABULARY_SIZE - 1
        targets = ids.masked_fill(ends & ends.roll(1, 1), -100)
        counted = targets[:, 1:][targets[:, 1:] != -100]
        count = torch.tensor(float(len(counted))) if weights is None else weights[counted].sum()
        total, tokens = total + next_token_loss(model, ids, targets, weights) * count, tokens + count
    model.train(training)
    return float(total / tokens)


class Trainer:
    """One model, its optimizer and its place in the schedule.

    Args:
        training: One or more wordings of the training texts; validation: one of the validation texts.
        folder: Where ``lm.pt`` (the best) and ``lm_last.pt`` (to go on from) are written.
    """

    def __init__(
        self, sizes: ModelSizes, training: TokenStream, validation: TokenStream, folder: Path, device: torch.device
    ) -> None:
        self.sizes, self.folder, self.device = sizes, folder, device
        self.training, self.validation = training.to(device), validation.to(device)
        self.model = build_model(sizes).to(device).train()
        self.optimizers = Optimizers(self.model, sizes.learning_rate, WARMUP_STEPS, WEIGHT_DECAY)
        self.weights = token_weights(LABELS.values(), device)
        self.generator = torch.Generator().manual_seed(sizes.seed * 104729)
        self.steps, self.seen, self.spent, self.best = 0, 0, 0.0, math.inf

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        path = self.folder / "lm_last.pt"
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizer"])
            self.steps, self.seen, self.spent, self.best = (state[k] for k in ("steps", "seen", "spent", "best"))
            self.generator.manual_seed(self.sizes.seed * 104729 + self.steps)

    def step(self, batch_size: int, progress: float) -> Tensor:
        """Take one step on ``batch_size`` windows; return its loss, on the device."""
        self.optimizers.set_rates(self.steps, progress)
        count = len(self.training.starts)
        chosen = torch.randint(count, (batch_size,), generator=self.generator).to(self.device, non_blocking=True)
        bare = (torch.rand(batch_size, generator=self.generator) < 0.5).to(self.device, non_blocking=True)
        ids = self.training.windows(chosen, bare)
        loss = next_token_loss(self.model, ids, ids, self.weights)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step()
        self.steps += 1
        self.seen += ids.numel()
        return loss.detach()

    def validate(self, num_windows: int) -> float:
        """Return the weighted validation loss, and keep the model if it is the best so far."""
        loss = validation_loss(self.model, self.validation, num_windows, self.weights)
        if loss < self.best:
            self.best = loss
            sizes = {
                "dropout": self.sizes.dropout,
                "learning_rate": self.sizes.learning_rate,
                "label_weight": float(self.weights.max()),
            }
            state = self.model.state_dict()
            halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}  # tied weights stay one
            weights = {name: halves[tensor.data_ptr()] for name, tensor in state.items()}
            save_state(self.folder / "lm.pt", model=weights, **sizes, **self.place())
        return loss

    def place(self) -> Mapping[str, float]:
        """Return where in the schedule the training is."""
        return {"steps": self.steps, "seen": self.seen, "spent": self.spent, "best": self.best}

    def save(self) -> None:
        """Write the checkpoint that training goes on from."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizers.state_dict()}
        save_state(self.folder / "lm_last.pt", **state, **self.place())

    def run(self, minutes: float, batch_size: int, num_windows: int) -> None:
        """Train until the clock or the passes run out; validate every 20 s, write a checkpoint every 60 s."""
        started = time.monotonic() - self.spent
        one_wording = len(self.training.tokens) / WORDINGS
        reported_at = saved_at = self.spent
        losses: list[Tensor] = []
        finished = False
        while not finished:
            self.spent = time.monotonic() - started
            progress = max(self.spent / (60 * minutes), self.seen / (one_wording * self.sizes.passes))
            finished = progress >= 1
            losses.append(self.step(batch_size, progress))
            if finished or self.spent - reported_at > REPORT_SECONDS:
                reported_at = self.spent
                training = float(torch.stack(losses).mean())
                losses.clear()
                if not math.isfinite(training):
                    raise FloatingPointError(f"the training loss is {training} after {self.steps} steps")
                validation = self.validate(num_windows)
                print(
                    f"{self.spent:6.0f} s {progress:5.1%} step {self.steps:6d} passes {self.seen / one_wording:5.1f} "
                    f"training {training:.3f} validation {validation:.3f} best {self.best:.3f}",
                    flush=True,
                )
            if finished or self.spent - saved_at > SAVE_SECONDS:
                saved_at = self.spent
                self.save()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--work-dir", type=Path, default=Path("build/emoji"))
    parser.add_argument("--passes", type=float, help="instead of the model's own number")
    parser.add_argument("--dropout", type=float, help="instead of the model's own")
    parser.add_argument("--learning-rate", type=float, help="instead of the model's own")
    arguments = parser.parse_args()
    corpus = arguments.work_dir / "corpus.jsonl.gz"
    if not corpus.exists():
        parser.error(f"{corpus} does not exist; run hardprompts_emoji.recipe.build_glosses first")
    given = {name: getattr(arguments, name) for name in ("passes", "dropout", "learning_rate")}
    sizes = ModelSizes(**{**vars(MODELS[arguments.model]), **{k: v for k, v in given.items() if v is not None}})
    started = time.monotonic()
    training, validation = load_tokens(corpus, arguments.work_dir / "lm_tokens.pt", WORDINGS)
    print(f"{len(training.tokens) / 1e6:.1f} M tokens after {time.monotonic() - started:.0f} s", flush=True)
    if arguments.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    trainer = Trainer(sizes, training, validation, arguments.work_dir / arguments.model, torch.device(arguments.device))
    trainer.resume()
    trainer.run(arguments.minutes, arguments.batch_size, num_windows=64 if arguments.device == "cpu" else 2048)


if __name__ == "__main__":
    main()
