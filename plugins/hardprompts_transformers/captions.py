"""Captions of images by transformers' image-to-text models: BLIP, GIT, ViT with GPT-2 and others of their kind."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

from hardprompts.devices import checked_device
from hardprompts.errors import BackendError
from hardprompts_transformers.loading import LOADING_ERRORS, unreadable
from hardprompts_transformers.releases import BY_PILLOW, DTYPE


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCaptioner:
    """Images to captions, for `PromptInverter(captioner=...)`; the same images always give the same captions.

    Attributes:
        model: an image-to-text model of transformers.
        image_processor: its preprocessing.
        tokenizer: its tokens.
        max_new_tokens: of a caption.
        num_beams: of the search for a likely caption; 1 takes the likeliest token each time.
        batch_size: images that go through the model together.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    max_new_tokens: int = 30
    num_beams: int = 3
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.model.can_generate():
            raise BackendError(
                f"a {type(self.model).__name__} writes no text; use an image-to-text model, such as "
                "BlipForConditionalGeneration, GitForCausalLM or VisionEncoderDecoderModel"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        max_new_tokens: int = 30,
        num_beams: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "ImageCaptioner":
        """The image-to-text model of a local folder or hub id, such as "Salesforce/blip-image-captioning-base".

        Args:
            device: default: CUDA where there is one, then MPS, then the CPU.

        Raises:
            BackendError: no such folder or hub id, no network, a file that is missing or damaged, or a model
                that does not caption images.
        """
        place, chosen = os.fspath(name), checked_device(device)
        try:
            model, info = transformers.AutoModelForImageTextToText.from_pretrained(
                place, output_loading_info=True, **{DTYPE: dtype}
            )
            processor = transformers.AutoImageProcessor.from_pretrained(place, **BY_PILLOW)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        except LOADING_ERRORS as error:
            raise unreadable(place, "the image-to-text model", error) from error
        if missing := sorted(info["missing_keys"]):
            raise BackendError(f"{place!r} lacks {len(missing)} of the model's weights, {missing[0]} among them")
        model = model.to(chosen).eval().requires_grad_(False)
        return cls(model, processor, tokenizer, max_new_tokens, num_beams)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each RGB image of any size; white space is single."""
        captions: list[str] = []
        parameter = next(self.model.parameters())
        for start in range(0, len(images), self.batch_size):
            part = list(images[start : start + self.batch_size])
            # The layout is stated, since images 1 or 3 pixels high would be taken for channels-first.
            pixels = self.image_processor(images=part, return_tensors="pt", input_data_format="channels_last")
            ids = self.model.generate(
                pixel_values=pixels["pixel_values"].to(parameter.device, parameter.dtype),
                max_new_tokens=self.max_new_tokens,
                num_beams=self.num_beams,
                do_sample=False,
            )
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            captions.extend(" ".join(text.split()) for text in texts)
        return captions
