"""Whether a model reads a text as the tokens that a search puts together, and what is wrong where it does not."""

import torch

from hardprompts.encoders import ConditioningEncoder, SeparateTexts
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.noise import Conditioning
from hardprompts.prompts import PromptTemplate
from hardprompts.vocabulary import Vocabulary


def whole_conditioning(encoder: ConditioningEncoder, text: str) -> Conditioning:
    """The conditioning of a text that all text encoders read, those too that have a text of their own otherwise."""
    return encoder.condition_whole(text) if isinstance(encoder, SeparateTexts) else encoder.condition_text(text)


def check_reading(encoder: ConditioningEncoder, text: str) -> None:
    """Raises unless a text gives the same conditioning as its tokens.

    Raises:
        NonFiniteError: the conditioning is NaN or infinite.
        BackendError: a second tokenizer of the model reads the text in another way, say.
        VocabularyError: a token of the text has no embedding.
    """
    vocabulary = encoder.vocabulary
    with torch.no_grad():
        tokens = encoder.condition(vocabulary.embed_ids(vocabulary.encode(text)).unsqueeze(0))
        own = encoder.condition_text(text)
    for found, expected in zip(tokens.tensors, own.tensors, strict=True):
        if not (found.isfinite().all() and expected.isfinite().all()):
            raise NonFiniteError(
                f"the conditioning of the text {text!r} is NaN or infinite with {encoder.name}; float16 overflows in "
                "many models: load it with dtype=torch.bfloat16 or torch.float32"
            )
        tolerance = 5e-2 if expected.dtype.itemsize <= 2 else 1e-3
        difference = float("inf")
        if found.shape == expected.shape:
            difference = float((found - expected).float().norm() / expected.float().norm().clamp_min(1e-12))
        if difference > tolerance:
            raise BackendError(
                f"{encoder.name} reads the text {text!r} differently from its tokens: the "
                f"conditioning differs by {difference:.2g}; {_misread(vocabulary, text)}"
            )


def check_template(encoder: ConditioningEncoder, template: PromptTemplate) -> None:
    """Raises as `check_reading` for a template with some words in its slot, before anything is searched for it."""
    words = encoder.vocabulary.sample_that_survives(template)
    if words is not None:
        check_reading(encoder, template.fill(encoder.vocabulary.decode(words)))


def _misread(vocabulary: Vocabulary, text: str) -> str:
    """Why a pipeline may read a text differently from its tokens: causes that the text shows, and what to do."""
    # diffusers names the vectors of one textual inversion "<cat>", "<cat>_1", ..., and writes them all for the first.
    several = [word for word in text.split() if all(len(vocabulary.encode(w)) == 1 for w in (word, f"{word}_1"))]
    if several:
        return f"the token {several[0]!r} stands for several vectors, which only the pipeline writes out: leave it out"
    if signs := vocabulary.signs_in(text):
        return f"{signs[0]!r} is not text to its tokenizer but one of its signs or added tokens: leave it out"
    if "!" in text and len(vocabulary.widths) > 1:
        return 'one of its tokenizers may pad with "!" (SDXL\'s second does): leave it out'
    return (
        "compare what its tokenizers make of this text, and leave out of the template what they disagree about; where "
        "that is nothing, a text encoder was changed in a way that is not known here"
    )
