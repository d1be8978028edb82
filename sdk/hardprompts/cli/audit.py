"""`hardprompts inspect`: what is in a soft-prompt file, in plain words and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.errors import BackendError, FileFormatError, HardPromptsError

if TYPE_CHECKING:
    from torch import Tensor

    from hardprompts.encoders import Backend
    from hardprompts.softprompts import SoftPrompt
    from hardprompts.softprompts.audit import Audit, Decoded
    from hardprompts.softprompts.geometry import GeometryReport
    from hardprompts.softprompts.robustness import RobustnessReport

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
) -> "list[Audit]":
    """The audit of each soft prompt in a file, compared with a model if there is one.

    Args:
        plots: measure what only a page shows: how tokens are spread, and their robustness.
        decode: search for the words that make the model do the same.

    Raises:
        FileFormatError: the file is damaged or holds no soft prompt.
        BackendError: none of its encoders has the width of the model's embeddings.
    """
    import dataclasses

    from hardprompts.files import read_soft_prompts

    prompts, dtypes = read_soft_prompts(file), stored_dtypes(file)
    return [
        dataclasses.replace(_audit(prompt, backend, plots, decode), dtypes=dtypes, ban_list=tuple(ban_list))
        for prompt in prompts
    ]


def stored_dtypes(file: Path) -> tuple[str, ...]:
    """What the tensors of a file are stored as, in order of their names; () of what is no file of tensors."""
    from hardprompts.files import open_file
    from hardprompts.softprompts.stored import StoredTensor

    def found(tree: Any) -> set[str]:
        if isinstance(tree, StoredTensor):
            return {tree.dtype} if tree.shape else set()  # a number in a tensor's form is no embedding
        parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        return set().union(*(found(part) for part in parts))

    try:
        return tuple(sorted(found(open_file(file).tree)))
    except FileFormatError:
        return ()


def _audit(prompt: "SoftPrompt", backend: "Backend | None", plots: bool, decode: bool) -> "Audit":
    import torch

    from hardprompts.originals import encoders_for
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
    from hardprompts.language_matching import output_features
    from hardprompts.prompts import PromptTemplate
    from hardprompts.softprompts.robustness import robustness

    model, vocabulary = backend.language_model, backend.vocabulary
    if model is None:
        return robustness(embeddings, vocabulary, backend.text_encoder.encode, backend.text_encoder.max_tokens)
    return robustness(
        embeddings, vocabulary, output_features(model), model.max_tokens, template=PromptTemplate(BEFORE_TEXT),
        quantity="words that the model expects next",
    )  # fmt: skip


def _decoded(prompt: "SoftPrompt", encoder: str, backend: "Backend") -> "tuple[Decoded | None, str]":
    """The words that make the model do the same; or why there are none."""
    from hardprompts.distiller import PromptDistiller
    from hardprompts.softprompts.audit import Decoded

    try:
        found = PromptDistiller(backend).distill(
            prompt.embeddings[encoder],
            inside="a photo of {}" if backend.language_model is None else BEFORE_TEXT,
            deadline=DECODING_SECONDS,
            seed=0,
            progress=False,
        )
    except (HardPromptsError, ValueError) as error:
        return None, f"It was not decoded: {error}."
    if found.faithfulness is None:
        return None, "It was not decoded: nobody measured how faithful the words are."
    matched, held_out = found.faithfulness.matched, found.faithfulness.held_out
    return Decoded(found.filled, matched.quantity, matched.value, None if held_out is None else held_out.value), ""


def lines(audit: "Audit") -> list[str]:
    """What a person should know, one fact a line."""
    prompt = audit.prompt
    named = prompt.name or "(no name)"
    encoders = [f"{name} {width} wide" for name, width in zip(prompt.encoders, prompt.widths, strict=True)]
    found = [
        f"{named}: {prompt.num_tokens} token{'s' * (prompt.num_tokens != 1)} for {', '.join(encoders)}",
        f"format {prompt.source_format}; fits {' or '.join(prompt.families)}",
    ]
    if prompt.base_models:
        found.append(f"trained on {', '.join(prompt.base_models)}")
    if prompt.step is not None:
        found.append(f"training step {prompt.step}")
    if audit.geometry is None:
        norms = [f"{name} {values.norm(dim=1).median():.3g}" for name, values in prompt.embeddings.items()]
        found.append(f"median length of its tokens: {', '.join(norms)}; --model compares them with a model's own")
    else:
        found += _compared(audit, audit.geometry)
    if audit.decoded is not None:
        kept = f"keeps {audit.decoded.faithfulness:.0%} of its effect ({audit.decoded.quantity})"
        if audit.decoded.held_out is not None:
            kept += f", held out {audit.decoded.held_out:.0%}"
        found.append(f"decoded by what it does: {audit.decoded.text!r} {kept}")
    return found + [f"{finding.level}: {finding.text}" for finding in audit.findings]


def _compared(audit: "Audit", geometry: "GeometryReport") -> list[str]:
    median = geometry.vocabulary_norms.median
    found = [
        f"{audit.encoder}: {geometry.norm_ratio:.1f} times as long as the model's own tokens (median {median:.3g})",
        f"{geometry.share_near:.0%} of its tokens have a word within 30 degrees; of the model's own tokens, "
        f"{geometry.natural_share_near:.0%}",
    ]
    for index, token in enumerate(geometry.tokens, start=1):
        words = ", ".join(f"{near.text!r} {near.cosine:.2f}" for near in token.by_cosine)
        found.append(f"token {index}: length {token.norm:.3g}, {token.angle:.0f} degrees from any; {words}")
    if audit.nearest is not None:
        note = "; so far away, words are known to keep little of what it does" if audit.is_far else ""
        if audit.robustness is not None:
            note = f"; they keep {audit.robustness.nearest_kept:.0%} of its effect on the {audit.robustness.quantity}"
        found.append(f"nearest words: {audit.nearest.text!r}{note}")
    return found
