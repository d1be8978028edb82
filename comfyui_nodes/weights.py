"""Weight Words: a weight for each word of a prompt, under which the graph's own model does better what it should."""

import dataclasses
from typing import Any

from comfy_api.latest import io

from .bridge import Progress, gradients_through_graph, show_text, to_images
from .defaults import SEED, WEIGHTS, given, sdk_default
from .graph import graph_predictor
from .graph_inputs import MASK, batch_size_input, model_inputs, noises_input, size_inputs
from .invert import MAX_SEED
from .notices import deadline_input, notices_of, warnings_kept
from .schema import seed_control, shown
from .values import CATEGORY, HardPromptType, escaped


class WeightWords(io.ComfyNode):
    """A prompt whose words have weights."""

    @classmethod
    @shown(
        found_as=["prompt weights", "attention", "emphasis", "weighted prompt"],
        advanced=["lowest", "highest", "num_noises", "batch_size", "deadline"],
    )
    def define_schema(cls) -> io.Schema:
        low, high = sdk_default(WEIGHTS, "limits") or (0.5, 1.5)
        return io.Schema(
            node_id="HardPromptsWeightWords",
            display_name="Weight Words",
            category=CATEGORY,
            description="Gives each word of a prompt a weight, (fox:1.2), so that your own MODEL draws an image better "
            "with it, or does more of what another text says. For Stable Diffusion 1.x, 2.x and SDXL.",
            inputs=[
                *model_inputs(),
                io.String.Input("text", multiline=True, tooltip="The raw prompt, without weights and without "
                    "backslashes."),
                io.Int.Input("max_steps", default=sdk_default(WEIGHTS, "max_steps"), min=1, max=1000, tooltip="How "
                    "often weights are tried. Each time runs the model forward and back for every noise."),
                io.Int.Input("seed", default=SEED, min=0, max=MAX_SEED, control_after_generate=seed_control(),
                    tooltip="The same seed gives the same result."),
                *size_inputs(),
                io.Image.Input("image", optional=True, tooltip="What the model should draw: one image or a batch. "
                    "Transparent areas count as white."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
                io.String.Input("target_text", default="", multiline=True, optional=True, tooltip="What the prompt "
                    "should do the same as, such as the long prompt that it came from. Instead of an image, or with "
                    "one."),
                io.String.Input("template", default="{}", optional=True, tooltip="The text that you will use the "
                    "prompt in, with {} where the prompt goes. Its own words keep the weight 1."),
                io.Float.Input("lowest", default=low, min=0.0, max=0.99, step=0.05, optional=True,
                    tooltip="The least weight that a word may get."),
                io.Float.Input("highest", default=high, min=1.01, max=3.0, step=0.05, optional=True,
                    tooltip="The greatest weight that a word may get. Far from 1, models draw artifacts."),
                noises_input(WEIGHTS, "How many noises the weights are tried with. More are more reliable, but take "
                    "longer."),
                batch_size_input(WEIGHTS),
                deadline_input(),
            ],
            outputs=[
                io.String.Output("prompt", "prompt", tooltip="For CLIP Text Encode: the words with their weights."),
                io.Float.Output("plain", "plain", tooltip="The figure without weights; the report names its unit."),
                io.Float.Output("gain", "gain", tooltip="What the weights add to it, on noises that they were not "
                    "fitted to, if the deadline left room for these. 0 or less: they are of no use."),
                HardPromptType.Output("hard_prompt", "hard prompt", tooltip="The prompt with its weights, for Show, "
                    "Save and Push."),
                io.String.Output("report", "report", tooltip="Weights, figures and settings, as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        text: str,
        max_steps: int,
        seed: int,
        width: int,
        height: int,
        image: Any = None,
        mask: Any = None,
        target_text: str = "",
        template: str | None = None,
        lowest: float | None = None,
        highest: float | None = None,
        num_noises: int | None = None,
        batch_size: int | None = None,
        deadline: float | None = None,
    ) -> io.NodeOutput:
        """The prompt with weights.

        Raises:
            ValueError: neither an image nor a text to follow, and see `hardprompts.applications.fit_weights`.
        """
        from hardprompts import HardPrompt
        from hardprompts.applications import fit_weights

        if image is None and not target_text.strip():
            raise ValueError("connect an image, or write a target_text: there is nothing that the weights should do")
        if not text.strip():
            raise ValueError("text is empty; write the prompt whose words should get weights, or connect it")
        low, high = sdk_default(WEIGHTS, "limits")
        progress = Progress(cls.hidden.unique_id)
        with warnings_kept() as warned, gradients_through_graph():
            predictor = graph_predictor(model, clip, vae, width, height)
            ids = tuple(predictor.vocabulary.encode(text.strip()))
            plain = HardPrompt(
                text.strip(), ids, 0.0, **given(template=template), model=predictor.name, method="weights",
                tokens=predictor.vocabulary.pieces(ids), seed=seed,
            )  # fmt: skip
            found = fit_weights(
                plain,
                predictor,
                images=None if image is None else to_images(image, mask),
                text=target_text.strip() or None,
                syntax="comfyui",
                max_steps=max_steps,
                seed=seed,
                limits=(low if lowest is None else lowest, high if highest is None else highest),
                callback=lambda step, best: progress.show(step, max_steps, f"{best:.4f}"),
                **given(num_noises=num_noises, batch_size=batch_size, deadline=deadline or None),
            )
        weights = found.weights
        before, after = weights.held_out or (weights.plain, weights.weighted)
        # What Show Prompt calls its score.
        found = dataclasses.replace(found, score=after, score_unit=weights.unit)
        lines = [
            escaped(found),
            f"{weights.unit}: {before:.4f} without weights, {after:.4f} with them, on noises that they were "
            f"{'' if weights.held_out is None else 'not '}fitted to",
            f"model {predictor.name}, seed {seed}, stopped by {found.provenance['weights']['stop_reason']}",
        ]
        notices = notices_of([found], warned)
        show_text("\n".join([*lines[:2], *notices]), cls.hidden.unique_id)
        return io.NodeOutput(escaped(found), before, weights.gain, found, "\n".join([*lines, *notices]))
