"""The kinds of values that the nodes hand to each other, and how prompts become text for ComfyUI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from hardprompts import HardPrompt

CATEGORY = "hardprompts"

#: A `models.PromptModel`.
PromptModelType = io.Custom("PROMPT_MODEL")
#: A `hardprompts.HardPrompt`.
HardPromptType = io.Custom("HARD_PROMPT")


def escaped(prompt: "HardPrompt") -> str:
    """The whole text of a prompt, its template filled, for CLIP Text Encode; with weights, if any fit ComfyUI."""
    if prompt.weights is not None and prompt.weights.syntax == "comfyui":
        return prompt.weighted()
    return prompt.escaped("comfyui")


def prompt_outputs(is_list: bool) -> list[io.Output]:
    """The four outputs of every node that finds prompts."""
    return [
        io.String.Output(
            "prompt", "prompt", tooltip="For CLIP Text Encode: parentheses are written \\( and "
            "\\).", is_output_list=is_list
        ),
        io.String.Output(
            "raw_prompt", "raw prompt", tooltip="The same without backslashes, for other "
            "programs.", is_output_list=is_list
        ),
        io.Float.Output(
            "score", "score", tooltip="Higher is better; the report names its unit.", is_output_list=is_list
        ),
        HardPromptType.Output(
            "hard_prompt", "hard prompt", tooltip="The prompt with its scores and settings, for Show, Save, Combine "
            "and Push.",
            is_output_list=is_list,
        ),
    ]  # fmt: skip


def prompt_values(prompts: "list[HardPrompt]") -> tuple[list[str], list[str], list[float], "list[HardPrompt]"]:
    """The values of `prompt_outputs(is_list=True)`."""
    return [escaped(p) for p in prompts], [p.filled for p in prompts], [p.score for p in prompts], prompts


def report(prompts: "list[HardPrompt]", notices: Sequence[str] = ()) -> str:
    """Prompts with scores, settings and other candidates as text, one paragraph each; then the notices."""
    from hardprompts.applications.evidence import evidence_table
    from hardprompts.hub.machine import model_label
    from hardprompts.prompts import fluency_note, ranking_note

    paragraphs = []
    for prompt in prompts:
        lines = [
            prompt.filled,
            f"{prompt.score_unit}: {prompt.score:.4f}",
            *([f"fluency: {note} (fewer read better)"] if (note := fluency_note(prompt)) else []),
            f"model {model_label(prompt.model)}, method {prompt.method}, seed {prompt.seed}, "
            f"stopped by {prompt.stop_reason}, {prompt.evaluations} evaluations",
        ]
        others = [candidate for candidate in prompt.candidates if candidate.text != prompt.text]
        lines += [f"  {candidate.score:.4f}  {candidate.text}" for candidate in others[:4]]
        lines += [f"  ({note})" for note in [ranking_note(prompt)] if note and others]
        lines += [evidence_table(prompt)] if prompt.evidence else []
        paragraphs.append("\n".join(lines))
    return "\n\n".join([*paragraphs, *(["\n".join(notices)] if notices else [])])


def summary(prompts: "list[HardPrompt]", notices: Sequence[str] = ()) -> str:
    """What a node shows when it is done: its prompts with their scores, and the notices."""
    from hardprompts.prompts import fluency_note

    def line(prompt: "HardPrompt") -> str:
        fluent = f"  ({note})" if (note := fluency_note(prompt)) else ""
        return f"{prompt.score:.3f}  {prompt.filled}{fluent}"

    return "\n".join([*map(line, prompts), *notices])
