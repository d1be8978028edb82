"""Captions of images by transformers' image-to-text models: BLIP, GIT, ViT with GPT-2, and models that chat."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

from hardprompts.devices import checked_device
from hardprompts.errors import BackendError
from hardprompts_transformers.loading import complete, load, quiet, resolve
from hardprompts_transformers.releases import BY_PILLOW, DTYPE, open_tokenizer

EXAMPLE = "transformers:Salesforce/blip-image-captioning-base"

#: Kinds of models that caption an image without being asked anything.
UNASKED = ("blip", "blip-2", "git", "vision-encoder-decoder")

#: What a model that chats is asked.
INSTRUCTION = "Describe this image in one short sentence."


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCaptioner:
    """Images to captions, for `PromptInverter(captioner=...)`; the same images always give the same captions.

    Attributes:
        model: an image-to-text model of transformers.
        image_processor: its preprocessing.
        tokenizer: its tokens.
        max_new_tokens: of a caption.
        num_beams: of the search for a likely caption; 1 takes the likeliest token each time.
        batch_size: images that go through the model together, if it is not asked anything.
        processor: what puts images and words together, of a model that is asked something; None for others.
        instruction: what such a model is asked; in its chat template, if it has one.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    max_new_tokens: int = 30
    num_beams: int = 3
    batch_size: int = 16
    processor: Any = None
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.model.can_generate():
            raise BackendError(
                f"a {type(self.model).__name__} writes no text; use an image-to-text model, such as "
                "BlipForConditionalGeneration, GitForCausalLM or VisionEncoderDecoderModel"
            )

    @property
    def name(self) -> str:
        """What the model is called where it was loaded from."""
        return f"transformers:{getattr(self.model, 'name_or_path', '') or type(self.model).__name__}"

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        instruction: str | None = None,
        max_new_tokens: int = 30,
        num_beams: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "ImageCaptioner":
        """The image-to-text model of a local folder or hub id, such as "Salesforce/blip-image-captioning-base".

        Args:
            instruction: what a model with words as its input is asked. Default: `INSTRUCTION`, for a model that has a
                chat template (LLaVA, SmolVLM, Qwen-VL and others); BLIP, GIT and ViT with GPT-2 are asked nothing.
            device: default: CUDA where there is one, then MPS, then the CPU.

        Raises:
            BackendError: no such folder or hub id, no network, a file that is missing or damaged, a model that
                does not caption images, or one that must be asked something and has no chat template.
        """
        place, chosen = resolve(name, EXAMPLE), checked_device(device)
        model = load(place, "the image-to-text model", lambda: _weights(place, dtype))
        kind, processor = str(model.config.model_type), None
        with quiet():
            if kind not in UNASKED:
                processor = load(place, "the processor", lambda: transformers.AutoProcessor.from_pretrained(place))
                _check_processor(processor, instruction, kind, place)
            elif instruction is not None:
                raise BackendError(f"{place} is a {kind} model, which captions images without an instruction; leave it")
            images = load(
                place, "the image processor",
                lambda: transformers.AutoImageProcessor.from_pretrained(place, **BY_PILLOW),
            ) if processor is None else processor.image_processor  # fmt: skip
            tokenizer = load(
                place, "the tokenizer", lambda: open_tokenizer(place)
            ) if processor is None else processor.tokenizer  # fmt: skip
        model = model.to(chosen).eval().requires_grad_(False)
        return cls(
            model, images, tokenizer, max_new_tokens, num_beams,
            processor=processor, instruction=instruction or INSTRUCTION,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each RGB image of any size; white space is single."""
        captions: list[str] = []
        together = self.batch_size if self.processor is None else 1
        for start in range(0, len(images), together):
            inputs = self._inputs(list(images[start : start + together]))
            ids = self.model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, do_sample=False
            )
            if "input_ids" in inputs and not self.model.config.is_encoder_decoder:
                ids = ids[:, inputs["input_ids"].shape[1] :]  # what is before is what the model was asked
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            captions.extend(" ".join(text.split()) for text in texts)
        return captions

    def _inputs(self, images: list[Image.Image]) -> dict[str, Any]:
        """What the model reads: the pixels of several images, or one image and what is asked of it."""
        parameter = next(self.model.parameters())
        if self.processor is None:
            # The layout is stated, since images 1 or 3 pixels high would be taken for channels-first.
            pixels = self.image_processor(images=images, return_tensors="pt", input_data_format="channels_last")
            return {"pixel_values": pixels["pixel_values"].to(parameter.device, parameter.dtype)}
        text = self.instruction
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": self.instruction}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        # Some processors take an image 1 or 3 pixels high for one with its channels first, and cannot be told.
        large = [image if min(image.size) > 3 else image.resize([4 * side for side in image.size]) for image in images]
        found = self.processor(images=large, text=[text], return_tensors="pt")
        return dict(found.to(parameter.device, parameter.dtype))  # of what is not whole numbers alone


def _weights(place: str, dtype: torch.dtype) -> Any:
    with quiet():
        loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            place, output_loading_info=True, **{DTYPE: dtype}
        )
    return complete(place, loaded)


def _check_processor(processor: Any, instruction: str | None, kind: str, place: str) -> None:
    """Raises BackendError where nothing puts images and words together, or nobody says what to ask."""
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        raise BackendError(
            f"{place} is a {kind} model, which reads images with words, and has no processor for both; "
            "save it from the processor again: processor.save_pretrained"
        )
    if instruction is None and not getattr(processor, "chat_template", None):
        raise BackendError(
            f"{place} is a {kind} model, which must be asked something, and has no chat template: open it with "
            "hardprompts.inversion.load_captioner(NAME, instruction=...), where its card says what to ask, such as "
            "'caption en' of PaliGemma"
        )
