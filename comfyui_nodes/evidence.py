"""Prompt Evidence: which words of a prompt are true of an image, what each adds, and where it is seen."""

import time
from typing import Any

from comfy_api.latest import io

from .bridge import to_batch, to_images
from .defaults import given
from .graph_inputs import MASK
from .models import PromptModel
from .notices import deadline_input, notices_of, warnings_kept
from .schema import shown
from .values import CATEGORY, HardPromptType, PromptModelType

#: The longer side of the picture, in pixels.
SIDE = 768


class PromptEvidence(io.ComfyNode):
    """A prompt, checked word by word against an image."""

    @classmethod
    @shown(
        found_as=["check prompt", "verify prompt", "hallucination", "grounding", "which words are true"],
        advanced=["deadline", "interactions"],
    )
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsEvidence",
            display_name="Prompt Evidence",
            category=CATEGORY,
            description="Checks each word of a prompt against an image: how likely it is true, what it adds, and where "
            "it is seen.",
            inputs=[
                PromptModelType.Input("prompt_model", tooltip="The model that looks at the image and reads the words."),
                io.Image.Input("image", tooltip="What the prompt should describe. With a batch, a word is true if it "
                    "is true of all its images; the picture shows the first."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
                HardPromptType.Input("hard_prompt", optional=True, tooltip="The prompt to check, or write a text."),
                io.String.Input("text", default="", multiline=True, optional=True, tooltip="A prompt to check, if no "
                    "hard_prompt is connected. Without backslashes before parentheses."),
                io.Float.Input("min_evidence", default=0.8, min=0.01, max=0.99, step=0.01, optional=True,
                    tooltip="How likely true a word must be to be kept: 0.8 is 80%."),
                deadline_input(),
                io.Boolean.Input("interactions", default=False, optional=True, tooltip="On: also measure how much the "
                    "words depend on each other, that is, how much changes for the others when one is exchanged."),
            ],
            outputs=[
                io.Image.Output("picture", "picture", tooltip="The image, with a frame where each word is seen best."),
                io.String.Output("table", "table", tooltip="A line for each word, and what its figures mean."),
                io.String.Output("kept", "kept", tooltip="The words that are likely enough, separated by commas."),
                HardPromptType.Output("hard_prompt_checked", "hard prompt", tooltip="The prompt with its evidence, for "
                    "Show, Save and Push."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        prompt_model: PromptModel,
        image: Any,
        mask: Any = None,
        hard_prompt: Any = None,
        text: str = "",
        min_evidence: float = 0.8,
        deadline: float | None = None,
        interactions: bool = False,
    ) -> io.NodeOutput:
        """The picture, the table, the words that are kept, and the prompt.

        Raises:
            ValueError: neither a prompt nor a text, or both; and see `PromptInverter.evidence`.
        """
        from hardprompts import PromptInverter
        from hardprompts.applications import word_interactions
        from hardprompts.applications.evidence import evidence_table, kept_phrases
        from hardprompts.applications.interactions import interaction_table
        from hardprompts.images import picture_with_regions

        if (hard_prompt is None) == (not text.strip()):
            raise ValueError("connect a hard_prompt or write a text, not both: each of them is the prompt to check")
        checked = text.strip() if hard_prompt is None else hard_prompt
        with warnings_kept() as warned:
            images = to_images(image, mask)
            with prompt_model.opened() as backend:
                inverter = PromptInverter(backend, device=backend.device)
                began = time.monotonic()
                found = inverter.evidence(checked, images, **given(deadline=deadline or None))
                if interactions and found.evidence:  # else no word says anything of a picture
                    left = max(1e-3, deadline - (time.monotonic() - began)) if deadline else None
                    found = word_interactions(found, backend, images, deadline=left)
        kept = kept_phrases(found, min_evidence)
        (picture,) = to_batch([picture_with_regions(images[0], found.evidence, SIDE)])
        told = [evidence_table(found), *notices_of([found], warned)]
        if found.evidence and all(one.probability is None for one in found.evidence):
            told.append("min_evidence is not used: without percentages, kept has the words that add to the score.")
        if found.interactions is not None:
            told.append(f"\n{interaction_table(found.interactions)}")
        table = "\n".join(told)
        return io.NodeOutput(
            picture, table, ", ".join(one.phrase for one in kept), found, ui={"text": [table]}
        )  # fmt: skip
