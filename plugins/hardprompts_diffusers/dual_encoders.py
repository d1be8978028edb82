"""The dual encoder that a pipeline's text encoders come from: what its prompts were learnt with."""

from typing import Any

from hardprompts.encoders import Backend, join_backends, load_backend
from hardprompts.errors import BackendError
from hardprompts.towers import tokenizer_of
from hardprompts_diffusers.components import execution_device, text_encoders

#: Width and layers of a CLIP text tower, and the model that it is taken from. Stable Diffusion 2.x leaves
#: out the last of 24 layers.
KNOWN = {
    (768, 12): "open_clip:ViT-L-14/openai",
    (1024, 23): "open_clip:ViT-H-14/laion2b_s32b_b79k",
    (1024, 24): "open_clip:ViT-H-14/laion2b_s32b_b79k",
    (1280, 32): "open_clip:ViT-bigG-14/laion2b_s39b_b160k",
}
#: The embedded models are recognized by their width alone.
KNOWN_WIDTHS = {160: "emoji"}

_EXAMPLE = "a photo of a red house near the river at night"


def dual_encoder_names(pipe: Any) -> list[str]:
    """The names of the dual encoders that belong to a pipeline's CLIP text encoders, for `load_backend`.

    Raises:
        BackendError: none of the pipeline's text encoders is a CLIP of a known shape.
    """
    found, seen = [], []
    for _, encoder in text_encoders(pipe).values():
        config: Any = encoder.config
        if getattr(config, "model_type", "") != "clip_text_model":
            seen.append(type(encoder).__name__)
            continue
        shape = (config.hidden_size, config.num_hidden_layers)
        seen.append(f"a CLIP text tower of width {shape[0]} with {shape[1]} layers")
        name = KNOWN.get(shape) or KNOWN_WIDTHS.get(shape[0])
        if name is not None and name not in found:
            found.append(name)
    if not found:
        raise BackendError(
            f"no dual encoder is known for this {type(pipe).__name__}, whose text encoders are {' and '.join(seen)}; "
            "pass clip_backend='open_clip:ViT-L-14/openai' or another, or use method='diffusion'"
        )
    return found


def own_dual_encoder(pipe: Any) -> Backend | None:
    """The dual encoder that a pipeline's text encoders come from; None where none is known by its shape.

    Raises:
        BackendError: it cannot be opened, or turns out to have another tokenizer.
    """
    try:
        names = dual_encoder_names(pipe)
    except BackendError:
        return None
    return dual_encoder(pipe, None) if names else None


def dual_encoder(pipe: Any, chosen: "str | Backend | list[str | Backend] | None") -> Backend:
    """The dual encoder to search with: those chosen, else those that belong to the pipeline, as one.

    Raises:
        BackendError: see `dual_encoder_names` and `load_backend`; or a model that was found by its shape,
            and whose tokenizer turns out to be another than the pipeline's.
    """
    device = execution_device(pipe)
    names = dual_encoder_names(pipe) if chosen is None else chosen if isinstance(chosen, list) else [chosen]
    joined = join_backends([load_backend(one, device=device) if isinstance(one, str) else one for one in names])
    expected = joined.vocabulary.encode(_EXAMPLE)
    own = [tokenizer_of(tokenizer).encode(_EXAMPLE) for tokenizer, _ in text_encoders(pipe).values()]
    if chosen is None and expected not in own:
        raise BackendError(
            f"{joined.name} has the shape of this pipeline's text encoder but another tokenizer; pass clip_backend="
        )
    return joined
