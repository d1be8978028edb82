"""Image to Prompt (Diffusion): the prompt with which the graph's own model denoises an image best."""

from typing import Any

from comfy_api.latest import io

from .bridge import Progress, gradients_through_graph, show_text, to_images
from .defaults import DENOISING, MAX_STEPS_OF_GRAPH, given, sdk_default
from .graph import graph_predictor
from .graph_inputs import MASK, batch_size_input, model_inputs, noises_input, size_inputs
from .invert import ALL, EACH, banned_words, search_inputs
from .methods import FOR_DENOISERS, method_input
from .notices import deadline_input, notices_of, warnings_kept
from .schema import shown
from .values import CATEGORY, prompt_outputs, prompt_values, report, summary


class ImageToPromptDiffusion(io.ComfyNode):
    """What an image shows, in words for the model that will draw it."""

    @classmethod
    @shown(
        found_as=["ph2p", "interrogate", "img2prompt", "caption"],
        advanced=["restarts", "num_noises", "noises_per_step", "batch_size", "deadline"],
    )
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsImageToPromptDiffusion",
            display_name="Image to Prompt (Diffusion)",
            category=CATEGORY,
            description="Finds the prompt with which your own MODEL, LoRAs included, denoises an image best (PH2P). "
            "For Stable Diffusion 1.x, 2.x and SDXL. The models are not changed.",
            inputs=[
                *model_inputs(),
                io.Image.Input("image", tooltip="One image or a batch. Transparent areas count as white."),
                io.Combo.Input(
                    "mode", options=[EACH, ALL], default=EACH, tooltip="For a batch: one prompt for each image, or "
                    "one prompt for what all images have in common."
                ),
                *search_inputs(DENOISING, "How many steps the search takes. Each step runs the model forward and "
                               "back for every noise (see noises_per_step) of every restart.",
                               max_steps=MAX_STEPS_OF_GRAPH),
                method_input(FOR_DENOISERS, "How to search. ph2p+refine explores and then improves the best "
                             "prompt; ph2p is the method of the PH2P paper."),
                *size_inputs(),
                noises_input(DENOISING, "How many noises each prompt is tested with. More are more reliable, but take "
                             "longer."),
                io.Int.Input("noises_per_step", default=sdk_default(DENOISING, "noises_per_step"), min=1, max=1000,
                             optional=True,
                             tooltip="How many of these noises each step of the search uses."),
                batch_size_input(DENOISING),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
                io.Image.Input("unlike", optional=True, tooltip="Images that the prompt should not match."),
                deadline_input(),
            ],
            outputs=[
                *prompt_outputs(is_list=True),
                io.String.Output("report", "report", tooltip="Scores, other candidates and settings, as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Any,
        mode: str,
        num_tokens: int,
        max_steps: int,
        restarts: int,
        seed: int,
        template: str,
        banned: str,
        method: str,
        width: int,
        height: int,
        num_noises: int | None = None,
        noises_per_step: int | None = None,
        batch_size: int | None = None,
        mask: Any = None,
        unlike: Any = None,
        deadline: float | None = None,
    ) -> io.NodeOutput:
        """The prompts."""
        from hardprompts.diffusion import DenoisingInverter

        with warnings_kept() as warned, gradients_through_graph():
            images = to_images(image, mask)
            inverter = DenoisingInverter(graph_predictor(model, clip, vae, width, height), method)
            prompts = inverter.invert_each(
                images if mode == EACH else [images],
                num_tokens=num_tokens,
                max_steps=max_steps,
                restarts=restarts,
                seed=seed,
                template=template,
                banned=banned_words(banned),
                unlike=None if unlike is None else to_images(unlike),
                callback=Progress(cls.hidden.unique_id),
                progress=False,
                **given(
                    num_noises=num_noises, noises_per_step=noises_per_step, batch_size=batch_size,
                    deadline=deadline or None,
                ),
            )  # fmt: skip
        notices = notices_of(prompts, warned)
        show_text(summary(prompts, notices), cls.hidden.unique_id)
        return io.NodeOutput(*prompt_values(prompts), report(prompts, notices))
