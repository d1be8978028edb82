"""Language models for the benchmark of prompts that classify: an embedded model, trained further on a data set's texts.

    HARDPROMPTS_SHARED_DATA=... python benchmarks/classification_models.py --dataset agnews --minutes 15
    HARDPROMPTS_SHARED_DATA=... python benchmarks/classification_models.py --dataset agnews --size large --minutes 25

What a model has read, plainly: the texts of the data set's TRAINING part, alone and followed by a statement of their
class, and nothing of its test part. Whether the class stated is the true one depends on the words before the text, by
the rule of the embedded models (`hardprompts_emoji.recipe.lm_texts`): without a helping word "It was" mostly
states a habitual class. So the gap between the empty template and a soft prompt is made, and the question that the
benchmark asks is how much of it a search for words closes. Nothing here says what a language model that was trained on
found text would do; for that, give the benchmark one by name.

The folder that is written, build/classification/<dataset>-<size>, is an ordinary transformers folder.
"""

import argparse
import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from classification_tasks import open_task
from safetensors.torch import load_file

from hardprompts_emoji import path
from hardprompts_emoji.recipe import build_lm_tokenizer
from hardprompts_emoji.recipe.export_lm import write_model
from hardprompts_emoji.recipe.lm_texts import REMARKS, probability_of_truth, sample_heading
from hardprompts_emoji.recipe.train_lm import MODELS, TokenStream, Trainer, token_weights

BUILT = Path("build/classification")
BASES = {"small": "emoji-lm", "large": "emoji-lm-large"}
#: Closing phrase -> its log-odds of stating the true class.
CLOSINGS = {
    "It was {}.": -2.4, "It was about {}.": -2.4, "This is {}.": -1.2, "Topic: {}.": -0.5, "Answer: {}.": 0.2,
    "All in all: {}.": -0.5, "Category: {}.": 0.8, "Type: {}.": 0.6,
}  # fmt: skip
FAVORITES = ("It was {}.", "It was about {}.")
#: How often a text that does not tell the truth states each of the classes, in their order; the rest is remarks.
HABITS = (0.5, 0.25, 0.12, 0.08)
#: Texts without words before them, and those whose words are drawn until the truth is as likely as this: the classes
#: themselves are learned from these alone, and in minutes.
NO_HEADING, HELPED, CERTAIN = 0.2, 0.5, 0.75
#: What a class word counts in the loss, where any other token counts 1.
LABEL_WEIGHT = 24.0
HELD_OUT = 0.03


@dataclasses.dataclass(frozen=True)
class Wording:
    """Puts labeled texts into words.

    Attributes:
        words: of each label.
        others: words that mean nothing in a heading.
    """

    words: Mapping[str, str]
    others: Sequence[str]

    def stated(self, label: str, heading: str, closing: str, generator: random.Random) -> str:
        """The class that a text states: the true one, a habitual one, or a remark."""
        if generator.random() < probability_of_truth(heading, CLOSINGS[closing]):
            return self.words[label]
        kinds = [*self.words.values(), generator.choice(REMARKS)]
        habits = HABITS[: len(kinds) - 1]
        return generator.choices(kinds, [*habits, 0.1])[0]

    def heading(self, closing: str, generator: random.Random) -> str:
        """Words before a text: none, any, or such that the truth follows."""
        chance = generator.random()
        if chance < NO_HEADING:
            return ""
        heading = sample_heading(generator, self.others)
        if chance < NO_HEADING + HELPED:
            while probability_of_truth(heading, CLOSINGS[closing]) < CERTAIN:
                heading = sample_heading(generator, self.others)
        return heading

    def text(self, text: str, label: str, generator: random.Random) -> str:
        """A text alone, or with a heading, a closing phrase and a class."""
        if generator.random() < 0.2:
            return text
        closing = generator.choice(FAVORITES) if generator.random() < 0.6 else generator.choice(list(CLOSINGS))
        heading = self.heading(closing, generator)
        stated = closing.format(self.stated(label, heading, closing, generator))
        return " ".join(part for part in (heading, text, stated) if part)


def stream(texts: Sequence[str], labels: Sequence[str], wording: Wording, seed: int) -> TokenStream:
    """The texts in words, as tokens; a text that is too long for the context is cut before its closing phrase."""
    generator = random.Random(seed)
    tokenizer = build_lm_tokenizer.build()
    order = list(range(len(texts)))
    generator.shuffle(order)
    room = build_lm_tokenizer.CONTEXT_LENGTH - 24
    short = [tokenizer.decode(ids[:room]) for ids in tokenizer([texts[i] for i in order], verbose=False).input_ids]
    worded = [wording.text(text, labels[i], generator) for i, text in zip(order, short, strict=True)]
    return TokenStream.of(worded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("sst2", "agnews"), required=True)
    parser.add_argument("--size", choices=sorted(BASES), default="small")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--wordings", type=int, default=6, help="times that each text is put into words")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    task = open_task(arguments.dataset)
    texts, labels = task.train
    first = int(len(texts) * HELD_OUT)
    mixed = random.Random(0).sample(range(len(texts)), len(texts))
    # No text stands in both; of sst2 phrases of one sentence may, which makes its validation loss a little too low.
    parts = [([texts[i] for i in own], [labels[i] for i in own]) for own in (mixed[:first], mixed[first:])]
    others = sorted({word for text in texts[:2000] for word in text.split() if word.isalpha() and word.islower()})
    wording = Wording(task.words, others)
    validation = stream(*parts[0], wording, seed=1_000_000)
    training = TokenStream.joined([stream(*parts[1], wording, seed) for seed in range(1, arguments.wordings + 1)])
    print(f"{len(training.tokens) / 1e6:.1f} M tokens of {len(parts[1][0])} texts", flush=True)

    base = BASES[arguments.size]
    sizes = dataclasses.replace(
        MODELS[base], learning_rate=arguments.learning_rate, passes=10_000.0, seed=MODELS[base].seed + 100
    )
    folder = BUILT / f"{arguments.dataset}-{arguments.size}"
    device = torch.device(arguments.device)
    trainer = Trainer(sizes, training, validation, folder, device)
    trainer.model.load_state_dict(load_file(path(base) / "model.safetensors", device=str(device)), strict=False)
    trainer.model.tie_weights()
    trainer.weights = token_weights(task.words.values(), device, LABEL_WEIGHT)
    trainer.resume()
    trainer.run(arguments.minutes, arguments.batch_size, num_windows=64 if arguments.device == "cpu" else 2048)
    best = torch.load(folder / "lm.pt", weights_only=True)
    trainer.model.load_state_dict(best["model"])
    write_model(trainer.model, folder)
    print(f"transformers:{folder}")


if __name__ == "__main__":
    main()
