"""Prompts as values in a graph: join, score, show, save and load them."""

import os
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .bridge import inside, to_images
from .graph_inputs import MASK
from .models import PromptModel
from .notices import notices_of, warnings_shown
from .schema import shown
from .values import CATEGORY, HardPromptType, PromptModelType, escaped, prompt_outputs, prompt_values

#: Where prompts are saved, inside ComfyUI's output folder.
SAVED = "hardprompts"


class CombinePrompts(io.ComfyNode):
    """Joins two prompts."""

    @classmethod
    @shown(found_as=["concatenate prompts", "join prompts", "merge prompts"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsCombine",
            display_name="Combine Prompts",
            category=CATEGORY,
            description="Joins two prompts to one, which is encoded, checked and scored again.",
            inputs=[
                HardPromptType.Input("first", tooltip="The prompt that comes first."),
                HardPromptType.Input("second", tooltip="The prompt that comes after it."),
                PromptModelType.Input("prompt_model", tooltip="The model that reads and scores the result."),
                io.String.Input(
                    "separator", default=" ", tooltip="The text between the two, such as a comma and a space."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="If connected, the result is scored against this image."
                ),
            ],
            outputs=prompt_outputs(is_list=False),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, first: Any, second: Any, prompt_model: PromptModel, separator: str, image: Any = None
    ) -> io.NodeOutput:
        """The joined prompt."""
        from hardprompts.applications import concatenate

        with warnings_shown(cls.hidden.unique_id), prompt_model.opened() as backend:
            images = None if image is None else to_images(image)
            joined = concatenate([first, second], backend, separator=separator, images=images)
        return io.NodeOutput(*(value[0] for value in prompt_values([joined])))


class ScorePrompts(io.ComfyNode):
    """How well a text matches images."""

    @classmethod
    @shown(found_as=["clip score", "similarity", "rate prompt"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsScore",
            display_name="Score Prompt",
            category=CATEGORY,
            description="Measures how well a text matches images: the mean cosine similarity.",
            inputs=[
                PromptModelType.Input(
                    "prompt_model", tooltip="The model that judges; best not the one that found the prompt."
                ),
                io.String.Input("text", multiline=True, tooltip="The raw prompt: no backslashes before parentheses."),
                io.Image.Input("image", tooltip="One image or a batch."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
            ],
            outputs=[io.Float.Output("score", "score", tooltip="From -1 to 1; higher is a better match.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, prompt_model: PromptModel, text: str, image: Any, mask: Any = None) -> io.NodeOutput:
        """The similarity."""
        from hardprompts import PromptInverter

        with warnings_shown(cls.hidden.unique_id), prompt_model.opened() as backend:
            return io.NodeOutput(PromptInverter(backend).score(text, to_images(image, mask)))


class ShowPrompt(io.ComfyNode):
    """Shows a prompt and its tokens."""

    @classmethod
    @shown(found_as=["show text", "preview text", "tokens"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsShow",
            display_name="Show Prompt",
            category=CATEGORY,
            description="Shows a prompt token by token, what each token contributes, and the other candidates.",
            inputs=[
                HardPromptType.Input(
                    "hard_prompt", tooltip="From any node that finds prompts. All prompts of a list are shown."
                ),
                io.Int.Input(
                    "candidates", default=4, min=0, max=50, tooltip="How many of the other candidates are listed."
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt", "prompt", tooltip="For CLIP Text Encode: parentheses are written \\( and \\)."
                ),
                io.String.Output("raw_prompt", "raw prompt", tooltip="The same without backslashes."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, hard_prompt: Any, candidates: int) -> io.NodeOutput:
        """The prompt's text, and what the browser draws."""
        shown = display(hard_prompt, candidates)
        return io.NodeOutput(
            escaped(hard_prompt), hard_prompt.filled, ui={"text": [hard_prompt.filled], "hardprompts": [shown]}
        )


def display(prompt: Any, candidates: int) -> dict[str, Any]:
    """What web/js/show_prompt.js draws of a prompt, as JSON values."""
    from hardprompts import PromptTemplate
    from hardprompts.applications.evidence import HEADINGS, evidence_rows, truth_note
    from hardprompts.hub.machine import model_label
    from hardprompts.prompts import fluency_note, ranking_note

    template, pieces = PromptTemplate(prompt.template), prompt.pieces()
    others = [candidate for candidate in prompt.candidates if candidate.text != prompt.text]
    return {
        "before": template.prefix,
        "tokens": [token for token, _ in pieces],
        "gaps": [gap for _, gap in pieces],
        "after": template.suffix,
        "weighted": "" if prompt.weights is None else prompt.weighted(),
        "attributions": list(prompt.attributions),
        "score": prompt.score,
        "unit": prompt.score_unit,
        "fluency": fluency_note(prompt),
        "model": model_label(prompt.model),
        "method": prompt.method,
        "notices": notices_of([prompt]),
        "evidence": [HEADINGS, *evidence_rows(prompt)] if prompt.evidence else [],
        "truth": truth_note(prompt) if prompt.evidence else "",
        "candidates": [{"text": other.text, "score": other.score} for other in others[:candidates]],
        "ranking": ranking_note(prompt) if others[:candidates] else "",
    }


class SavePrompt(io.ComfyNode):
    """Saves a prompt in a folder."""

    @classmethod
    @shown(found_as=["save text", "write prompt"], advanced=["overwrite"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsSave",
            display_name="Save Prompt",
            category=CATEGORY,
            description=f"Saves a prompt with its scores and settings as output/{SAVED}/<name>/prompt.json.",
            inputs=[
                HardPromptType.Input("hard_prompt", tooltip="The prompt to save. The prompts of a list are numbered."),
                io.String.Input(
                    "name", default="prompt", tooltip="The name of the folder, inside ComfyUI's output folder."
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: an existing prompt of this name is replaced. Off: the new one gets a number.",
                ),
            ],
            outputs=[io.String.Output("path", "path", tooltip="The file that was written.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, hard_prompt: Any, name: str, overwrite: bool) -> io.NodeOutput:
        """The path of the file."""
        from hardprompts.hub.places import PLACES_FILE

        if not name.strip():
            raise ValueError("name is empty; write the name of the folder that the prompt is saved in")
        folder = inside("output", os.path.join(SAVED, name.strip()))
        number = 1
        while not overwrite and os.path.exists(folder):
            number += 1
            folder = inside("output", os.path.join(SAVED, f"{name.strip()}_{number}"))
        path = hard_prompt.save_pretrained(folder)
        text = [path.relative_to(inside("output", "")).as_posix()]
        if path.with_name(PLACES_FILE).exists():
            text.append(f"the model's folder stands in {PLACES_FILE} beside it: do not share that file")
        return io.NodeOutput(str(path), ui={"text": text})


def saved_prompts() -> list[str]:
    """The names of the prompts that Save Prompt saved; not what editors keep in hidden folders."""
    root = Path(inside("output", SAVED))
    names = (file.parent.relative_to(root) for file in root.rglob("prompt.json"))
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


class LoadPrompt(io.ComfyNode):
    """A saved prompt."""

    @classmethod
    @shown(found_as=["load text", "read prompt"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsLoad",
            display_name="Load Prompt",
            category=CATEGORY,
            description="Loads a prompt that Save Prompt saved. Press R to update the list.",
            inputs=[
                io.Combo.Input(
                    "name", options=saved_prompts() or ["(none saved yet)"], tooltip="The saved prompt to load."
                )
            ],
            outputs=prompt_outputs(is_list=False),
        )

    @classmethod
    def validate_inputs(cls, name: str) -> bool:
        """Always true: a prompt may have been saved since the list was made. `execute` finds out."""
        return True

    @classmethod
    def fingerprint_inputs(cls, name: str) -> tuple[Any, ...]:
        """Changes when the file changes."""
        file = Path(inside("output", os.path.join(SAVED, name)), "prompt.json")
        return (name, file.stat().st_mtime_ns if file.is_file() else None)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        """The prompt."""
        from hardprompts import HardPrompt

        prompt = HardPrompt.from_pretrained(inside("output", os.path.join(SAVED, name)))
        return io.NodeOutput(*(value[0] for value in prompt_values([prompt])))
