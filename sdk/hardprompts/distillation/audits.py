"""Audits of the soft prompts in a file: what they are, what they say, how robust they are."""

import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, FileFormatError, HardPromptsError
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.audit import Audit, DecodedText
from hardprompts.softprompts.robustness import RobustnessReport

if TYPE_CHECKING:
    from torch import Tensor


#: Seconds that the search for words may take.
DECODING_SECONDS = 20.0


#: Where a prompt of a language model stands when nothing else is known of its use.
BEFORE_TEXT = "{} The"


def audits_of(
    file: Path,
    backend: "Backend | None" = None,
    *,
    ban_list: Sequence[str] = (),
    plots: bool = False,
    decode: bool = False,
    rename: Mapping[str, str] = types.MappingProxyType({}),
) -> "list[Audit]":
    """The audit of each soft prompt in a file, compared with a model if there is one.

    Args:
        plots: measure what only a page shows: how tokens are spread, and their robustness.
        decode: search for the words that make the model do the same.
        rename: keys of the file that are wrong, and what they should be.

    Raises:
        FileFormatError: the file is damaged or holds no soft prompt.
        BackendError: none of its encoders has the width of the model's embeddings.
    """
    import dataclasses

    from hardprompts.softprompts.prompt import read_soft_prompts

    prompts, dtypes = read_soft_prompts(file, rename=rename), stored_dtypes(file)
    return [
        dataclasses.replace(_audit(prompt, backend, plots, decode), dtypes=dtypes, ban_list=tuple(ban_list))
        for prompt in prompts
    ]


def stored_dtypes(file: Path) -> tuple[str, ...]:
    """The dtypes of the tensors of a file, in order of their names; () if it is not a file of tensors."""
    from hardprompts.softprompts.containers import open_file
    from hardprompts.softprompts.tensors import StoredTensor

    def found(tree: Any) -> set[str]:
        if isinstance(tree, StoredTensor):
            return set() if math.prod(tree.shape) == 1 else {tree.dtype}  # a number in a tensor's form is no embedding
        parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        return set().union(*(found(part) for part in parts))

    try:
        return tuple(sorted(found(open_file(file).tree)))
    except FileFormatError:
        return ()


def _audit(prompt: "SoftPrompt", backend: "Backend | None", plots: bool, decode: bool) -> "Audit":
    import torch

    from hardprompts.distillation.originals import encoders_for
    from hardprompts.softprompts.audit import Audit
    from hardprompts.softprompts.geometry import analyze
    from hardprompts.softprompts.nearest import decode_nearest
    from hardprompts.softprompts.robustness import Spread

    if backend is None:
        return Audit(prompt)
    vocabulary = backend.vocabulary
    (encoder,) = encoders_for(prompt, vocabulary.table.shape[1:], backend.name)
    embeddings = prompt.embeddings[encoder].to(vocabulary.table.device)
    notes: list[str] = []
    robust = None
    if plots:
        try:
            with torch.no_grad():
                robust = _robustness(embeddings, backend)
        except (ValueError, BackendError) as error:
            notes.append(f"Robustness was not measured: {error}.")
    decoded, why_not = _decoded(prompt, encoder, backend) if decode else (None, "")
    return Audit(
        prompt,
        model=backend.name,
        encoder=encoder,
        geometry=analyze(embeddings, vocabulary),
        nearest=decode_nearest(embeddings, vocabulary),
        spread=Spread.of(embeddings, vocabulary) if plots else None,
        robustness=robust,
        decoded=decoded,
        notes=(*notes, *((why_not,) if why_not else ())),
    )


def _robustness(embeddings: "Tensor", backend: "Backend") -> "RobustnessReport":
    """What shrinking and turning leave: of text features, or of what a language model expects to read next."""
    from hardprompts.distillation.outputs import output_features
    from hardprompts.prompts import PromptTemplate
    from hardprompts.softprompts.robustness import measure_robustness

    model, vocabulary = backend.language_model, backend.vocabulary
    if model is None:
        return measure_robustness(embeddings, vocabulary, backend.text_encoder.encode, backend.text_encoder.max_tokens)
    return measure_robustness(
        embeddings, vocabulary, output_features(model), model.max_tokens, template=PromptTemplate(BEFORE_TEXT),
        quantity="words that the model expects next",
    )  # fmt: skip


def _decoded(prompt: "SoftPrompt", encoder: str, backend: "Backend") -> "tuple[DecodedText | None, str]":
    """The words that make the model do the same; or why there are none."""
    from hardprompts.distillation.distiller import PromptDistiller
    from hardprompts.softprompts.audit import DecodedText

    try:
        found = PromptDistiller(backend).distill(
            prompt.embeddings[encoder],
            templates="a photo of {}" if backend.language_model is None else BEFORE_TEXT,
            deadline=DECODING_SECONDS,
            seed=0,
            progress=False,
        )
    except (HardPromptsError, ValueError) as error:
        return None, f"It was not decoded: {error}."
    if found.faithfulness is None:
        return None, "It was not decoded: nobody measured how faithful the words are."
    matched, held_out = found.faithfulness.matched, found.faithfulness.held_out
    return DecodedText(found.filled, matched.quantity, matched.value, None if held_out is None else held_out.value), ""
