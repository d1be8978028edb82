"""Soft prompts of classifiers: learned by prompt tuning, decoded to text by what they make the model answer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.classification.data import holdout_split
from hardprompts.classification.judging import FEWEST, JudgedTexts
from hardprompts.classification.measures import Measures
from hardprompts.classification.objective import LabelLikelihood
from hardprompts.classification.prompted import PromptedModel
from hardprompts.distillation.distiller import PromptDistiller
from hardprompts.distillation.faithfulness import DistilledPrompt, Share
from hardprompts.distillation.learning import descend
from hardprompts.distillation.originals import Original
from hardprompts.encoders import Backend
from hardprompts.errors import TemplateError
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.search.protocol import Search
from hardprompts.search.rows import random_starts, random_texts
from hardprompts.search.seeds import Stream, checked_seed
from hardprompts.softprompts.families import LANGUAGE_MODEL
from hardprompts.softprompts.geometry import rotated, shrunk
from hardprompts.softprompts.prompt import SoftPrompt

#: Random prompts that tell what words of any kind do for the accuracy.
RANDOM_PROMPTS = 8


def tune_soft_prompt(
    prompted: PromptedModel,
    texts: Sequence[str],
    targets: Sequence[int],
    *,
    num_tokens: int = 10,
    holdout: float = 0.2,
    batch_size: int = 32,
    max_steps: int = 300,
    learning_rate: float = 0.1,
    restarts: int = 1,
    name: str = "",
    seed: int = 0,
    deadline: float | None = None,
    callback: Callable[[int, list[float]], bool | None] | None = None,
) -> SoftPrompt:
    """The soft prompt that makes a language model say the right labels: the most that a prompt of this length can do.

    Args:
        prompted: the model, with template and label words.
        targets: the number of the right class of each text.
        num_tokens: soft tokens.
        holdout: share of the examples that it is not learned from; the step of lowest loss on them is returned.
        batch_size: examples that a gradient is taken over.
        learning_rate: of AdamW, in units of the root mean square of the model's own embeddings.
        restarts: random starts, learned side by side; the best of them is returned.
        name: what it is called.
        seed: of the starts, the holdout and the mini-batches.
        deadline: seconds for the whole call; the best step by then is returned, as after a keyboard interrupt.
        callback: see `learn_soft_prompt`.

    Raises:
        ValueError: there are no texts, or a number is out of range.
        NonFiniteError: every loss was NaN or infinite.

    Source: Lester et al. 2021, arXiv 2104.08691. Deviations: AdamW for Adafactor, and the best step instead of the
    last one.
    """
    if not texts or num_tokens < 1 or restarts < 1 or batch_size < 1:
        raise ValueError(
            f"a soft prompt needs texts, and num_tokens, restarts and batch_size of 1 or more; got {len(texts)} texts, "
            f"{num_tokens}, {restarts}, {batch_size}"
        )
    seed = checked_seed(seed)
    allowance = Allowance(deadline)
    vocabulary, generator = prompted.encoder.model.vocabulary, Stream.EXAMPLES.generator(seed)
    learn, held = holdout_split(texts, targets, holdout, generator)
    rows = [prompted.encoder.row(prompted.encoder.cut(text)) for text in texts]

    def likelihood(chosen: Sequence[int], sample_size: int | None) -> LabelLikelihood:
        return LabelLikelihood(
            prompted.reader, [rows[i] for i in chosen], [targets[i] for i in chosen], sample_size=sample_size,
            length_normalized=prompted.length_normalized, generator=generator,
        )  # fmt: skip

    judged = likelihood(held or learn, None)
    start = vocabulary.embed(random_starts(vocabulary, restarts, num_tokens, seed)).float()
    found, losses = descend(
        likelihood(learn, batch_size), start, vocabulary, max_steps=max_steps, learning_rate=learning_rate,
        judge=lambda soft, groups: judged(soft.to(vocabulary.table.dtype), groups).loss, callback=callback,
        allowance=allowance,
    )  # fmt: skip
    best = min(range(restarts), key=losses.__getitem__)
    facts: dict[str, str | float] = {
        "learned_by": "prompt tuning", "model": prompted.encoder.model.name, "loss": losses[best], "seed": seed,
        "classification_template": prompted.encoder.template.text,
    }  # fmt: skip
    return SoftPrompt({LANGUAGE_MODEL[0]: found[best]}, name=name, metadata=facts)


# --- to text ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DecodedClassifier:
    """A hard prompt in a soft prompt's stead, and what of it is left.

    Attributes:
        prompt: the hard prompt; `prompt.faithfulness` is the share of the soft prompt's effect on the likelihoods of
            the label words, on the texts that were matched and on others; `prompt.left_out` names what the limits left
            no room for, here too.
        soft, hard, empty: how well the soft prompt, the hard one and the empty template do on labeled texts.
        accuracy: the share of the soft prompt's gain in accuracy that the hard one keeps; nothing is the empty
            template or random words, whichever do better.
    """

    prompt: DistilledPrompt
    soft: Measures
    hard: Measures
    empty: Measures
    accuracy: Share


def decode_classifier(
    prompted: PromptedModel,
    soft_prompt: SoftPrompt | Float[Tensor, "tokens dim"],
    texts: Sequence[str],
    labeled: tuple[Sequence[str], Sequence[int]],
    *,
    method: "str | Search" = "pez+refine",
    num_tokens: int | None = None,
    texts_per_step: int | None = 16,
    restarts: int = 4,
    seed: int | None = None,
    **options: Any,
) -> DecodedClassifier:
    """The hard prompt that makes a language model answer as a soft prompt does, and how faithfully.

    No labels are needed to find it: the likelihoods of the label words among each other are matched.

    Args:
        prompted: the model, with the template and the label words that the soft prompt was learned in.
        texts: behind which the answers are matched; a few dozen do.
        labeled: (texts, number of the right class of each), for the accuracies; faithfulness is measured on the
            first of these too, as many as there are `texts`.
        method: as for `PromptDistiller`; "nearest" and "nearest-l2" are the baselines.
        options: more options of `PromptDistiller.distill`; deadline and evaluations are for the accuracies too, which
            are then measured on fewer texts.

    Raises:
        ValueError: no texts.
        TemplateError: the template does not end one space before the label, or a text has a slot "{}".
        Others: as `PromptDistiller.distill`.
    """
    model = prompted.encoder.model
    table = model.vocabulary.table
    backend = Backend.of_language_model(model, device=table.device, dtype=table.dtype)
    distiller = PromptDistiller(backend, method)
    allowance = Allowance(options.get("deadline"), options.get("max_evaluations"))
    searching = allowance.keeping((3 + RANDOM_PROMPTS) * -(-len(labeled[0]) // FEWEST))
    options |= {"deadline": searching.seconds_left, "max_evaluations": searching.remaining}
    templates, others = text_templates(prompted, texts), text_templates(prompted, labeled[0][: len(texts)])
    prompt = distiller.distill(
        soft_prompt, num_tokens, templates=[one.text for one in templates], held_out=[one.text for one in others],
        match="outputs", answers=prompted.labels.verbalizer.all_words, texts_per_step=texts_per_step,
        restarts=restarts, seed=seed, **options,
    )  # fmt: skip
    embeddings = Original.of(soft_prompt, model.vocabulary, model.name).embeddings
    allowance.spend(prompt.evaluations)
    judged = JudgedTexts(prompted, *labeled)
    measured = [
        judged.measure(one, allowance, 3 + RANDOM_PROMPTS, with_category_errors=True) or judged.measure_few(one)
        for one in (prompt.text, embeddings, "")
    ]
    hard, soft, empty = measured
    drawn = random_texts(model.vocabulary, RANDOM_PROMPTS, len(prompt.token_ids))
    chance: list[Measures] = []
    with allowance.reporting():
        for text in drawn:
            one = judged.measure(text, allowance)
            if one is None:
                break
            chance.append(one)
    judged.note(allowance, "labeled texts")
    allowance.leave_out("random prompts", len(chance), len(drawn))
    mean = sum(one.accuracy for one in chance) / len(chance) if chance else empty.accuracy
    prompt = dataclasses.replace(
        prompt,
        left_out=(*prompt.left_out, *allowance.left_out),
        stop_reason=allowance.stopped or prompt.stop_reason,
    )
    share = Share(
        "accuracy", (prompted.encoder.template.text,), soft.accuracy - hard.accuracy, soft.accuracy - empty.accuracy,
        soft.accuracy - mean,
    )  # fmt: skip
    return DecodedClassifier(prompt, soft, hard, empty, share)


def text_templates(prompted: PromptedModel, texts: Sequence[str]) -> list[PromptTemplate]:
    """Each text filled into the template up to where the label goes, with the prompt's slot open.

    Raises:
        ValueError: there are no texts.
        TemplateError: something stands behind the label, the prompt does, or the label is not one space apart.
    """
    template = prompted.encoder.template
    if not texts:
        raise ValueError("there are no texts to compare answers behind; give a few dozen")
    if not template.label_is_last or template.label_space != " ":
        raise TemplateError(f"answers are compared where a text ends; let {template.text!r} end in ' {{label}}'")
    around = [template.surroundings(prompted.encoder.cut(text)) for text in texts]
    return [PromptTemplate(f"{one.before}{SLOT}{one.between}") for one in around]


# --- robustness ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """How well a soft prompt still does at each point of a path.

    Attributes:
        positions: how far along the path: what lengths are divided by, or degrees.
        accuracy: share of right answers, out of the labels.
        category_errors: share of texts that the model, out of its whole vocabulary, answers with no label at all.
    """

    positions: tuple[float, ...]
    accuracy: tuple[float, ...]
    category_errors: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ClassifierRobustness:
    """A soft prompt that is shrunk, and turned towards its nearest words, with errors of category apart.

    Attributes:
        empty: accuracy of the empty template.
        texts: how many texts it was measured on: fewer than were given where time was short.
    """

    shrunk: AccuracyCurve
    rotated: AccuracyCurve
    empty: float
    texts: int = 0


def classifier_robustness(
    prompted: PromptedModel,
    soft_prompt: Float[Tensor, "tokens dim"],
    texts: Sequence[str],
    targets: Sequence[int],
    *,
    factors: Sequence[float] = (1.0, 2.0, 3.0, 5.0, 10.0),
    degrees: Sequence[float] = (0.0, 15.0, 30.0, 45.0, 60.0, 90.0),
    deadline: float | None = None,
) -> ClassifierRobustness:
    """What is left of a soft prompt's accuracy along two paths: divided by factors, turned by degrees.

    Args:
        soft_prompt: its token embeddings.
        factors: above 0; 1 is the prompt as it is.
        degrees: from 0 to 180, towards the nearest word, each token no further than to it.
        deadline: seconds for the whole call; fewer texts are taken where it is short, the same at each position.

    Raises:
        ValueError: there are no texts, or a position is out of range.

    Source: Bailey et al. 2023, "Soft prompting might be a bug, not a feature" (openreview.net/forum?id=MHWDdMEJ5s),
    who tell errors of category (an answer that is not a label) from those of confusion.
    """
    vocabulary = prompted.encoder.model.vocabulary
    soft = soft_prompt.detach().to(vocabulary.table.device, torch.float32)
    words = vocabulary.embed(vocabulary.nearest(soft)).float()

    allowance, judged = Allowance(deadline), JudgedTexts(prompted, texts, targets)

    def curve(positions: Sequence[float], path: Float[Tensor, "steps tokens dim"]) -> AccuracyCurve:
        found = [
            judged.measure(prompt, allowance, 2 * (len(factors) + len(degrees) + 1), with_category_errors=True)
            or judged.measure_few(prompt)
            for prompt in path
        ]
        errors = tuple(one.category_errors or 0.0 for one in found)
        return AccuracyCurve(tuple(map(float, positions)), tuple(one.accuracy for one in found), errors)

    return ClassifierRobustness(
        curve(factors, shrunk(soft, torch.tensor(factors, dtype=torch.float32))),
        curve(degrees, rotated(soft, words, torch.tensor(degrees, dtype=torch.float32))),
        (judged.measure("", allowance) or judged.measure_few("")).accuracy,
        judged.count,
    )
