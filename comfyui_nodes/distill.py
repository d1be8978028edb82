"""Distill Prompt: a long prompt as a short one that makes the model do the same."""

from typing import Any

from comfy_api.latest import io

from .bridge import Progress
from .invert import banned_words, keep_loaded_input, search_inputs
from .models import PromptModel
from .values import CATEGORY, PromptModelType, prompt_outputs, prompt_values, report


def faithfulness_outputs() -> list[io.Output]:
    """What a distilled prompt is told with."""
    return [
        io.Float.Output(
            "faithfulness", "faithfulness", tooltip="The share of the original's effect that is kept: 1 all, 0 none."
        ),
        io.String.Output("report", "report", tooltip="Faithfulness where it was not searched, lost phrases, settings."),
    ]


def distilled_values(prompt: Any) -> tuple[Any, ...]:
    """The values of `prompt_outputs` and `faithfulness_outputs`, of a `DistilledPrompt`."""
    kept = prompt.faithfulness
    lines = [report([prompt]), str(kept) if kept is not None else "faithfulness not measured"]
    lines += [f"lost: {phrase.text} (kept {phrase.kept:.2f})" for phrase in getattr(prompt, "lost", ())]
    value = float("nan") if kept is None else kept.matched.value
    return (*(one[0] for one in prompt_values([prompt])), value, "\n".join(lines))


class DistillPrompt(io.ComfyNode):
    """A long prompt as a short one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsDistill",
            display_name="Distill Prompt",
            category=CATEGORY,
            description="A short prompt that means to the model what a long one does, and how much of it is kept.",
            inputs=[
                PromptModelType.Input("prompt_model", tooltip="From Load Prompt Model."),
                io.String.Input("text", multiline=True, tooltip="The long prompt, without escapes."),
                *search_inputs(8, 300, 16, "Steps of the search, at most; it may end sooner by itself."),
                keep_loaded_input(),
            ],
            outputs=[*prompt_outputs(is_list=False), *faithfulness_outputs()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        prompt_model: PromptModel,
        text: str,
        num_tokens: int,
        max_steps: int,
        restarts: int,
        seed: int,
        template: str,
        banned: str,
        keep_loaded: bool = True,
    ) -> io.NodeOutput:
        """The short prompt."""
        from hardprompts.distillation import PromptDistiller

        with prompt_model.opened(keep_loaded) as backend:
            prompt = PromptDistiller(backend).distill(
                text,
                num_tokens,
                inside=template,
                max_steps=max_steps,
                restarts=restarts,
                seed=seed,
                banned=banned_words(banned),
                callback=Progress(cls.hidden.unique_id),
                progress=False,
            )
        return io.NodeOutput(*distilled_values(prompt))
