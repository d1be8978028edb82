"""Audits of the soft prompts in a file: what they are, what they say, how robust they are."""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, FileFormatError, HardPromptsError
from hardprompts.search.protocol import BY_CALLER
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.audit import Audit, DecodedText
from hardprompts.softprompts.robustness import RobustnessReport

if TYPE_CHECKING:
    from torch import Tensor

    from hardprompts.search.protocol import Callback


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
    deadline: float | None = None,
    callback: "Callback | None" = None,
) -> "list[Audit]":
    """The audit of each soft prompt in a file, compared with a model if there is one.

    A keyboard interrupt ends it with what is known by then.

    Args:
        plots: measure what only a page shows: how tokens are spread, and their robustness.
        decode: search for the words that make the model do the same.
        rename: keys of the file that are wrong, and what they should be.
        deadline: seconds for all of them; what there was no time for stands in `left_out` of each audit.
        callback: of the search for words.

    Raises:
        FileFormatError: the file is damaged or holds no soft prompt.
        BackendError: none of its encoders has the width of the model's embeddings.
    """
    from hardprompts.softprompts.prompt import read_soft_prompts

    allowance = Allowance(deadline)
    prompts, dtypes = read_soft_prompts(file, rename=rename), stored_dtypes(file)
    return [
        dataclasses.replace(
            _audit(prompt, backend, plots, decode, allowance.share(len(prompts) - number), callback),
            dtypes=dtypes, ban_list=tuple(ban_list),
        )
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip


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


def _audit(
    prompt: "SoftPrompt",
    backend: "Backend | None",
    plots: bool,
    decode: bool,
    allowance: Allowance,
    callback: "Callback | None",
) -> "Audit":
    from hardprompts.distillation.originals import encoders_for
    from hardprompts.softprompts.audit import Audit
    from hardprompts.softprompts.geometry import analyze
    from hardprompts.softprompts.nearest import decode_nearest

    if backend is None:
        return Audit(prompt)
    vocabulary = backend.vocabulary
    (encoder,) = encoders_for(prompt, vocabulary.table.shape[1:], backend.name)
    audit = Audit(prompt, model=backend.name, encoder=encoder)
    if allowance.stopped:
        allowance.leave_out("soft prompts", 0, 1)
        return dataclasses.replace(audit, left_out=tuple(allowance.left_out), stop_reason=allowance.stopped)
    embeddings = prompt.embeddings[encoder].to(vocabulary.table.device)
    with allowance.reporting():
        geometry = analyze(embeddings, vocabulary, allowance=allowance.share(2))
        allowance.leave_out("soft tokens compared", len(geometry.tokens), len(embeddings))
        nearest = decode_nearest(embeddings[: len(geometry.tokens)], vocabulary)
        audit = dataclasses.replace(audit, geometry=geometry, nearest=nearest)
    if plots:
        audit = _plotted(audit, embeddings, backend, allowance)
    if decode:
        audit = _with_decoded(audit, backend, allowance, callback)
    return dataclasses.replace(audit, left_out=tuple(allowance.left_out), stop_reason=allowance.stopped)


def _plotted(audit: "Audit", embeddings: "Tensor", backend: "Backend", allowance: Allowance) -> "Audit":
    """The audit with what only a page shows, and notes of what of it was not measured."""
    import torch

    from hardprompts.softprompts.robustness import Spread

    with allowance.reporting(), torch.no_grad():
        if not allowance.is_over:
            shown = embeddings if audit.geometry is None else embeddings[: len(audit.geometry.tokens)]
            audit = dataclasses.replace(audit, spread=Spread.of(shown, backend.vocabulary))
    try:
        with allowance.reporting(), torch.no_grad():
            audit = dataclasses.replace(audit, robustness=_robustness(embeddings, backend, allowance.share(2)))
    except TimeoutError:
        pass  # it is noted below
    except (ValueError, BackendError) as error:
        return dataclasses.replace(audit, notes=(*audit.notes, f"Robustness was not measured: {error}."))
    allowance.leave_out("plots", sum(part is not None for part in (audit.spread, audit.robustness)), 2)
    return audit


def _robustness(embeddings: "Tensor", backend: "Backend", allowance: Allowance) -> "RobustnessReport":
    """What shrinking and turning leave: of text features, or of what a language model expects to read next."""
    from hardprompts.distillation.outputs import output_features
    from hardprompts.prompts import PromptTemplate
    from hardprompts.softprompts.robustness import measure_robustness

    model, vocabulary = backend.language_model, backend.vocabulary
    if model is None:
        encoder = backend.text_encoder
        return measure_robustness(embeddings, vocabulary, encoder.encode, encoder.max_tokens, allowance=allowance)
    return measure_robustness(
        embeddings, vocabulary, output_features(model), model.max_tokens, template=PromptTemplate(BEFORE_TEXT),
        quantity="words that the model expects next", allowance=allowance,
    )  # fmt: skip


def _with_decoded(audit: "Audit", backend: "Backend", allowance: Allowance, callback: "Callback | None") -> "Audit":
    """The audit with the words that make the model do the same; or with a note of why there are none."""
    from hardprompts.distillation.distiller import PromptDistiller

    if allowance.is_over:
        allowance.leave_out("decoded prompts", 0, 1)
        return audit
    left = allowance.seconds_left
    try:
        with allowance.reporting():
            found = PromptDistiller(backend).distill(
                audit.prompt.embeddings[audit.encoder],
                templates="a photo of {}" if backend.language_model is None else BEFORE_TEXT,
                deadline=DECODING_SECONDS if left is None else min(DECODING_SECONDS, left),
                seed=0,
                callback=callback,
                progress=False,
            )
    except (HardPromptsError, ValueError) as error:
        return dataclasses.replace(audit, notes=(*audit.notes, f"It was not decoded: {error}."))
    if allowance.stopped:
        allowance.leave_out("decoded prompts", 0, 1)
        return audit
    if found.stop_reason in BY_CALLER:
        allowance.stop(found.stop_reason)
    if found.faithfulness is None:
        allowance.leave_out("faithfulness of the decoded prompt", 0, 1)
        return audit
    matched, held_out = found.faithfulness.matched, found.faithfulness.held_out
    decoded = DecodedText(found.filled, matched.quantity, matched.value, None if held_out is None else held_out.value)
    return dataclasses.replace(audit, decoded=decoded)
