"""Prompts made of prompts: joined to one, or turned into their opposite."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hardprompts.encoders import Backend, load_backend
from hardprompts.errors import BackendError, TemplateError, VocabularyError
from hardprompts.images import ImageInput
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.objectives import check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary


def concatenate(
    prompts: Sequence[HardPrompt],
    backend: Backend | None = None,
    separator: str = " ",
    images: "ImageInput | Sequence[ImageInput] | None" = None,
) -> HardPrompt:
    """Several prompts one after the other, as one: encoded anew, checked, and scored anew.

    `prompt_a + prompt_b` is the same with nothing but the prompts.

    Args:
        prompts: of one template, which the result has too; the words of each.
        backend: the model that reads and scores the result; default: the one that all the prompts
            name, which is opened for this.
        separator: text between them; it may be " and ", or empty.
        images: what the result is scored against; default: the prompts themselves, that is, how much
            of what each says is still there.

    Raises:
        BackendError, UnknownName: no backend was given, and the prompts name none or several, or one that
            cannot be opened.
        TemplateError: the templates differ, or the joined prompt is too long for the model.
        VocabularyError: no prompts, or the joined text does not survive the round trip.

    Source: PEZ, arXiv 2302.03668, section 4.4.
    """
    if not prompts:
        raise VocabularyError("there are no prompts to join; give at least one")
    templates = sorted({prompt.template for prompt in prompts})
    if len(templates) > 1:
        raise TemplateError(f"the prompts are for different templates: {', '.join(map(repr, templates))}; join texts")
    model = _model_of(prompts) if backend is None else backend
    template = PromptTemplate(templates[0])
    text = separator.join(prompt.text for prompt in prompts)
    ids = _ids_of(text, model.vocabulary, template)
    room = EmbeddedTemplate.of(model.vocabulary, template).room(model.text_encoder.max_tokens)
    check_length(len(ids), room, template, model.name)
    joined = HardPrompt(
        text=text,
        token_ids=ids,
        score=0.0,
        template=template.text,
        model=model.name,
        method="concatenation",
        score_unit="cosine similarity" if images is not None else "cosine similarity with its parts",
        tokens=model.vocabulary.pieces(ids),
        provenance={"parts": [prompt.text for prompt in prompts], "hardprompts": _version()},
    )
    if images is not None:
        score = PromptInverter(model).score(joined.filled, images)
    else:
        parts = model.encode_texts([prompt.filled for prompt in prompts])
        score = float((model.encode_texts([joined.filled]) @ parts.T).mean())
    return dataclasses.replace(joined, score=score, candidates=(Candidate(text, ids, score),))


def _model_of(prompts: Sequence[HardPrompt]) -> Backend:
    names = sorted({prompt.model for prompt in prompts})
    if names == [""] or len(names) > 1:
        named = ", ".join(map(repr, names)) if len(names) > 1 else "no model"
        raise BackendError(
            f"prompts that name {named} cannot be joined by themselves, since only a model's tokenizer knows the ids "
            "of the joined text: use hardprompts.applications.concatenate(prompts, backend)"
        )
    return load_backend(names[0])


def _ids_of(text: str, vocabulary: Vocabulary, template: PromptTemplate) -> tuple[int, ...]:
    """The ids that a text has in the template's slot.

    Raises:
        VocabularyError: it has none that survive the round trip.
    """
    found = vocabulary.respelled(vocabulary.encode(text), template)
    whole = vocabulary.encode(template.fill(text))
    before, after = vocabulary.template_ids(template)
    if found is None or whole != [*before, *found, *after] or not vocabulary.survives_round_trip(found, template):
        raise VocabularyError(
            f"the text {text!r} in the template {template.text!r} is not encoded to ids that spell it; "
            "put a space around the slot, or use words that the model's tokenizer knows"
        )
    return found


def negative_prompt(
    unwanted: "ImageInput | Sequence[ImageInput] | Tensor",
    inverter: PromptInverter,
    wanted: "ImageInput | Sequence[ImageInput] | Tensor | None" = None,
    **options: Any,
) -> HardPrompt:
    """What to pass as `negative_prompt=`: a prompt of what images have that others, as they should be, have not.

    Args:
        unwanted: images with what should not appear.
        wanted: images that are otherwise alike and fine. Without them the prompt also names what both
            have in common, and a generator would then avoid that as well.
        options: of `PromptInverter.invert`; `unlike_weight` weighs `wanted`.

    Raises:
        ValueError: `unlike` is given; that is `wanted` here.
        ImageError, VocabularyError: see `PromptInverter.invert`.

    Source: PEZ, arXiv 2302.03668, `negative_prompt` of the reference code, which inverts the unwanted
    image alone; the contrast with `wanted` is this project's.
    """
    if "unlike" in options:
        raise ValueError("unlike: the images that a negative prompt must not describe are given as wanted")
    prompt = inverter.invert(unwanted, unlike=wanted, **options)
    return dataclasses.replace(prompt, provenance={**prompt.provenance, "use": "negative prompt"})


def _version() -> str:
    return importlib.metadata.version("hardprompts")
