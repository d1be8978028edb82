"""Image to Prompt by Pictures: the prompt with which the graph draws something like an image, found by drawing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image

from .bridge import Progress, show_text, to_batch, to_images
from .defaults import PICTURES, SEED, given, sdk_default
from .graph_inputs import MASK
from .invert import MAX_SEED, banned_words
from .notices import deadline_input, notices_of, warnings_kept
from .schema import seed_control, shown
from .values import CATEGORY, PromptModelType, prompt_outputs, prompt_values, report, summary


@dataclasses.dataclass(eq=False)
class GraphGenerator:
    """Draws with the graph's own networks and sampler, as Sampler Custom does with noise for an empty latent.

    Attributes:
        cfg: guidance scale.
        interrupted: what ComfyUI raised when the user stopped it.
    """

    model: Any
    clip: Any
    vae: Any
    sampler: Any
    sigmas: Any
    cfg: float
    width: int
    height: int
    negative: str
    interrupted: BaseException | None = None

    name = "ComfyUI"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image]:
        """One picture for each prompt, one after the other.

        Raises:
            KeyboardInterrupt: the user stopped it.
        """
        import comfy.model_management as management

        try:
            with torch.inference_mode():
                return [self._picture(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        except management.InterruptProcessingException as error:
            self.interrupted = error
            raise KeyboardInterrupt from error

    def _picture(self, prompt: str, seed: int) -> Image.Image:
        import comfy.model_management as management
        import comfy.sample

        from hardprompts.prompts import escape

        positive, negative = (
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(escape(text, "comfyui")))
            for text in (prompt, self.negative)
        )
        ratio = int(self.vae.downscale_ratio) if isinstance(self.vae.downscale_ratio, int) else 8
        empty = torch.zeros(1, 4, self.height // ratio, self.width // ratio, device=management.intermediate_device())
        latent = comfy.sample.fix_empty_latent_channels(self.model, empty)
        samples = comfy.sample.sample_custom(
            self.model, comfy.sample.prepare_noise(latent, seed), self.cfg, self.sampler, self.sigmas, positive,
            negative, latent, disable_pbar=True, seed=seed,
        )  # fmt: skip
        pixels = self.vae.decode(samples)
        return to_images(pixels.reshape(-1, *pixels.shape[-3:])[:1])[0]


class ImageToPromptByPictures(io.ComfyNode):
    """A prompt that was found by nothing but pictures."""

    @classmethod
    @shown(
        found_as=["black box", "img2prompt", "interrogate", "evolve prompt"],
        advanced=["negative", "template", "banned", "deadline"],
    )
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsImageToPromptByPictures",
            display_name="Image to Prompt by Pictures",
            category=CATEGORY,
            description="Finds the prompt with which your own graph draws an image, by drawing and comparing a limited "
            "number of pictures. For any model that Sampler Custom draws with.",
            inputs=[
                io.Model.Input("model", tooltip="The model that draws, with its LoRAs."),
                io.Clip.Input("clip", tooltip="Its text encoder, with its LoRAs."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Sampler.Input("sampler", tooltip="Connect KSampler Select."),
                io.Sigmas.Input("sigmas", tooltip="Connect a scheduler, such as Basic Scheduler. Few steps will do."),
                PromptModelType.Input("prompt_model", tooltip="Compares pictures with the image, and gives the first "
                    "prompts. Connect Load Prompt Model."),
                io.Image.Input("image", tooltip="What the pictures should be like: one image or a batch. Transparent "
                    "areas count as white."),
                io.Int.Input("pictures", default=sdk_default(PICTURES, "budget"), min=5, max=10000, tooltip="How many "
                    "pictures are drawn at most, with 4 at the end that only measure the prompt."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="The guidance scale of the "
                    "sampler."),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the pictures. Smaller is "
                    "faster."),
                io.Int.Input("height", default=512, min=64, max=4096, step=8, tooltip="Of the pictures."),
                io.Int.Input("seed", default=SEED, min=0, max=MAX_SEED, control_after_generate=seed_control(),
                    tooltip="The same seed gives the same search."),
                io.String.Input("text", default="", multiline=True, optional=True, tooltip="A prompt to begin with, as "
                    "well as those of the prompt model."),
                io.String.Input("negative", default="", optional=True, tooltip="The negative prompt of every picture."),
                io.String.Input("template", default="{}", optional=True, tooltip="The text that you will use the "
                    "prompt in, with {} where the prompt goes."),
                io.String.Input("banned", default="", optional=True, tooltip="Words that must not occur, separated by "
                    "commas."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
                deadline_input(),
            ],
            outputs=[
                *prompt_outputs(is_list=False),
                io.String.Output("report", "report", tooltip="Scores, what was drawn, and settings, as text."),
                io.Image.Output("picture", "picture", tooltip="What the prompt draws, with a new seed."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        sampler: Any,
        sigmas: Any,
        prompt_model: Any,
        image: Any,
        pictures: int,
        cfg: float,
        width: int,
        height: int,
        seed: int,
        text: str = "",
        negative: str = "",
        template: str | None = None,
        banned: str = "",
        mask: Any = None,
        deadline: float | None = None,
    ) -> io.NodeOutput:
        """The prompt, the report, and what the prompt draws."""
        from hardprompts import PromptInverter
        from hardprompts.applications import invert_by_pictures

        draws = GraphGenerator(model, clip, vae, sampler, sigmas, cfg, width, height, negative)
        with warnings_kept() as warned, prompt_model.opened() as backend:
            try:
                found = invert_by_pictures(
                    to_images(image, mask),
                    draws,
                    budget=pictures,
                    starts=[text] if text.strip() else [],
                    inverter=PromptInverter(backend),
                    search={"banned": banned_words(banned)},
                    banned=banned_words(banned),
                    batch_size=1,
                    seed=seed,
                    callback=Progress(cls.hidden.unique_id),
                    progress=False,
                    **given(template=template, deadline=deadline or None),
                )
            except KeyboardInterrupt:
                if draws.interrupted is None:
                    raise
        if draws.interrupted is not None:
            raise draws.interrupted
        prompts = [found.prompt]
        notices = notices_of(prompts, warned)
        show_text(summary(prompts, notices), cls.hidden.unique_id)
        lines = [
            report(prompts),
            f"{found.pictures} pictures, {found.failures} of them failed; {found.chosen_at:.4f} on the seeds that it "
            "was chosen by",
            *(
                f"  {name}: better {record.successes} times of {record.tries}"
                for name, record in found.mutations.items()
                if record.tries
            ),
            *notices,
        ]
        assert found.picture is not None, "all of its pictures were drawn now"
        (picture,) = to_batch([found.picture])
        return io.NodeOutput(*(values[0] for values in prompt_values(prompts)), "\n".join(lines), picture)
