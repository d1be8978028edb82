"""Text encoders that soft prompts are shared for, and the families of models that have them."""

import types
from collections.abc import Mapping

#: The text encoders that soft prompts are shared for, by the names that UIs store them under, and the
#: widths of their token embeddings. Any other name may be used too, with any width.
ENCODER_WIDTHS: Mapping[str, tuple[int, ...]] = types.MappingProxyType(
    {
        "clip_l": (768,),
        "clip_g": (1280,),
        "clip_h": (1024,),
        "t5xxl": (4096, 1024),  # of Cosmos: the first T5 of 11 billion parameters
        "t5base": (768,),
        "pile_t5xl": (2048,),
        "umt5xxl": (4096,),
        "umt5base": (768,),
        "t5gemma_9b": (3584,),
        "gemma2_2b": (2304,),
        "gemma3_12b": (3840,),
        "llama": (4096,),
        "mistral3_24b": (5120,),
        "qwen25_7b": (3584,),
        "qwen3_06b": (1024,),
        "qwen3_4b": (2560,),
        "qwen3_8b": (4096,),
    }
)


#: The encoder that a width means where a file does not name it: soft prompts of no other encoders are common.
ENCODER_OF_WIDTH: Mapping[int, str] = types.MappingProxyType(
    {768: "clip_l", 1024: "clip_h", 1280: "clip_g", 4096: "t5xxl"}
)


#: An encoder whose width says nothing, and the second one beside it.
OTHER_ENCODERS = ("text_encoder", "text_encoder_2")


#: A language model; the two halves of an encoder-decoder, each with soft tokens of its own.
LANGUAGE_MODEL = ("lm",)


ENCODER_DECODER = ("lm_encoder", "lm_decoder")


FAMILIES: Mapping[frozenset[str], tuple[str, ...]] = types.MappingProxyType(
    {
        frozenset(encoders.split()): names
        for encoders, names in {
            "clip_l": ("SD 1.x",),
            "clip_h": ("SD 2.x",),
            "clip_l clip_g": ("SDXL",),
            "clip_g": ("SDXL refiner", "Stable Cascade"),
            "clip_l clip_g t5xxl": ("SD3",),
            "clip_l t5xxl": ("FLUX.1",),
            "clip_l clip_g t5xxl llama": ("HiDream",),
            "clip_l llama": ("HunyuanVideo",),
            "t5xxl": ("DeepFloyd IF", "PixArt", "Chroma"),
            "pile_t5xl": ("AuraFlow",),
            "umt5xxl": ("Wan",),
            "gemma2_2b": ("Lumina 2", "Sana"),
            "qwen25_7b": ("Qwen-Image",),
            "qwen3_4b": ("Z-Image",),
            "mistral3_24b": ("FLUX.2",),
        }.items()
    }
)


#: Language models whose soft prompts are as wide as those of text encoders.
_ALSO: Mapping[int, str] = types.MappingProxyType(
    {
        768: "BERT or GPT-2",
        1024: "T5-large or BERT-large",
        1280: "GPT-2 large",
        4096: "a language model of 7 or 8 billion",
    }
)


def reading_of_width(width: int) -> str:
    """Which text encoder embeddings of this width are read for where the file names none, and what else they may be.

    For example "read as clip_h, for SD 2.x, and may be for t5xxl, qwen3_06b, T5-large or BERT-large"; "" if nothing
    that is known is so wide.
    """
    taken = encoder_of_width(width)
    others = [name for name, widths in ENCODER_WIDTHS.items() if width in widths and name != taken]
    others += [_ALSO[width]] if width in _ALSO else []
    if width not in ENCODER_OF_WIDTH:
        return (
            f"read as {taken}, which is any encoder of this width, and may be for {' or '.join(others)}"
            if others
            else ""
        )
    whole = [name for group, names in FAMILIES.items() if taken in group and len(group) > 1 for name in names]
    parts = f"a part of {', '.join(whole)}; or for " if whole else "for "
    return f"read as {taken}, for {' or '.join(FAMILIES[frozenset({taken})])}, and may be {parts}{', '.join(others)}"


def encoder_of_width(width: int) -> str:
    """The text encoder that embeddings of this width are for, where the file does not name it."""
    return ENCODER_OF_WIDTH.get(width, OTHER_ENCODERS[0])
