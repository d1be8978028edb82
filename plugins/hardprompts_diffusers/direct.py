"""Direct adapters for Stable Diffusion 1.x and 2.x, and for SDXL: one call for many noise levels."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.noise import Conditioning, NoiseSchedule
from hardprompts.vocabulary import Vocabulary
from hardprompts_diffusers.components import (
    denoiser_of,
    execution_device,
    modules_of,
    text_encoders,
    watched_once,
    working,
)
from hardprompts_diffusers.dual_encoders import own_dual_encoder
from hardprompts_diffusers.embeddings import soft_tokens, vocabulary_of
from hardprompts_diffusers.latents import clean_latents, image_size
from hardprompts_diffusers.schedules import schedule_of


@dataclasses.dataclass(frozen=True, eq=False)
class UNetPredictor:
    """The denoiser of Stable Diffusion 1.x, 2.x or SDXL, as a `NoisePredictor`.

    The token ids are the pipeline's own: start, prompt, end, and its padding, which differs (the
    end token in 1.x, "!" in 2.x and in SDXL's second encoder) and which the U-Net sees. All
    encoders of a pipeline share one byte-pair encoding, so one prompt drives them together.

    Attributes:
        pipe: the pipeline; its networks must be frozen (see `components.preserved`).
        height, width: of the pictures, in pixels.
    """

    pipe: Any
    name: str
    vocabulary: Vocabulary
    max_tokens: int
    schedule: NoiseSchedule
    height: int
    width: int

    @classmethod
    def create(cls, pipe: Any, name: str, height: int | None = None, width: int | None = None) -> "UNetPredictor":
        """The predictor of a pipeline.

        Raises:
            BackendError: the scheduler is not covered, or a part is missing.
            ValueError: a size that the VAE cannot take.
            VocabularyError: the pipeline's tokenizers disagree.
        """
        size = image_size(pipe, height, width)
        schedule = schedule_of(pipe.scheduler)
        device = execution_device(pipe)
        encoders = text_encoders(pipe)
        parts = [vocabulary_of(tokenizer, encoder, device) for tokenizer, encoder in encoders.values()]
        vocabulary = Vocabulary.joint(parts)
        room = min(tokenizer.model_max_length - len(tokenizer("")["input_ids"]) for tokenizer, _ in encoders.values())
        return cls(pipe, name, vocabulary, room, schedule, *size)

    def dual_encoder(self) -> Backend | None:
        """The dual encoder that the text encoders come from; None where none is known. Raises as `own_dual_encoder`."""
        return own_dual_encoder(self.pipe)

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "images ..."]:
        """The clean latents of RGB images, which are scaled and cropped to height x width."""
        return clean_latents(self.pipe, images, self.height, self.width)

    def condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Conditioning:
        """Hidden states of the text encoders for the whole context, and SDXL's pooled feature.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        tokens = embeddings.shape[1]
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit: the text encoder has room for {self.max_tokens}")
        states, pooled = [], None
        encoders = text_encoders(self.pipe)
        parts = dict(zip(encoders, embeddings.split(self.vocabulary.widths, dim=-1), strict=True))
        with working(self.pipe, [f"text_encoder{suffix}" for suffix in encoders]) as device:
            for suffix, (_, encoder) in encoders.items():
                ids, attended, slots = (value.to(device) for value in self._frame(suffix, tokens))
                rows = ids.expand(len(embeddings), -1)
                mask = attended.expand_as(rows) if getattr(encoder.config, "use_attention_mask", False) else None
                with soft_tokens(encoder, parts[suffix], ids, slots):
                    output = encoder(rows, attention_mask=mask, output_hidden_states=self._is_xl)
                states.append(output.hidden_states[-2] if self._is_xl else output.last_hidden_state)
                pooled = output[0]
        joined = torch.cat(states, dim=-1)
        return Conditioning((joined, pooled) if self._is_xl and pooled is not None else (joined,))

    def condition_text(self, text: str) -> Conditioning:
        """What the pipeline's own `encode_prompt` makes of a text."""
        encoders = text_encoders(self.pipe)
        with torch.no_grad(), working(self.pipe, [f"text_encoder{suffix}" for suffix in encoders]) as device:
            found = self.pipe.encode_prompt(
                prompt=text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return Conditioning((found[0], found[2]) if self._is_xl else (found[0],))

    def predict(
        self, noisy: Float[Tensor, "rows ..."], timesteps: Float[Tensor, " rows"], conditioning: Conditioning
    ) -> Float[Tensor, "rows ..."]:
        """What the U-Net predicts, all rows in one call."""
        unet: Any = denoiser_of(self.pipe)
        states = conditioning.tensors[0].to(unet.dtype)
        added = None
        if self._is_xl:
            size = torch.tensor([self.height, self.width, 0, 0, self.height, self.width], device=states.device)
            added = {
                "text_embeds": conditioning.tensors[1].to(unet.dtype),
                "time_ids": size.to(unet.dtype).expand(len(noisy), -1),
            }
        with working(self.pipe, ("unet",)) as device, watched_once(self, unet):
            predicted: Tensor = unet(
                noisy.to(device, unet.dtype),
                timesteps.to(device),
                encoder_hidden_states=states,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return predicted

    @functools.cached_property
    def _is_xl(self) -> bool:
        return bool(denoiser_of(self.pipe).config.get("addition_embed_type", None) == "text_time")

    @functools.cached_property
    def _frames(self) -> dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]]:
        return {}

    def _frame(self, suffix: str, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ids of a prompt of so many tokens as one encoder gets them, their mask, and the prompt's places."""
        key = (suffix, tokens)
        if key not in self._frames:
            tokenizer = text_encoders(self.pipe)[suffix][0]
            around = tokenizer("")["input_ids"]
            word = int(self.vocabulary.allowed_ids[0])
            before = around[:-1] if tokenizer.eos_token_id == around[-1] else around
            ids = [*before, *[word] * tokens, *around[len(before) :]]
            padded = tokenizer.pad({"input_ids": ids}, padding="max_length", max_length=tokenizer.model_max_length)
            room = len(padded["input_ids"]) - len(ids) if tokenizer.padding_side == "left" else 0
            slots = torch.arange(len(before), len(before) + tokens) + room
            self._frames[key] = (torch.tensor(padded["input_ids"]), torch.tensor(padded["attention_mask"]), slots)
        return self._frames[key]


def is_unet_pipeline(pipe: Any) -> bool:
    """True of pipelines that are Stable Diffusion 1.x, 2.x or SDXL in their parts, whatever their class."""
    unet: Any = modules_of(pipe).get("unet")
    if type(unet).__name__ != "UNet2DConditionModel" or getattr(pipe, "tokenizer", None) is None:
        return False
    config, two = unet.config, getattr(pipe, "text_encoder_2", None) is not None
    plain = config.get("time_cond_proj_dim") is None and config.get("class_embed_type") is None
    same = config.get("in_channels") == config.get("out_channels")
    clip = type(modules_of(pipe).get("text_encoder")).__name__ in ("CLIPTextModel", "CLIPTextModelWithProjection")
    return bool(plain and same and clip and config.get("addition_embed_type") == ("text_time" if two else None))
