"""Distill Prompt: a short prompt that has the same effect on the model as a long one."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from .bridge import Progress, show_text
from .defaults import DISTILLATION, MAX_STEPS, NUM_TOKENS, given
from .invert import banned_words, keep_loaded_input, search_inputs
from .methods import FOR_FEATURES, method_input
from .models import PromptModel
from .notices import deadline_input, notices_of, warnings_kept
from .schema import shown
from .values import CATEGORY, PromptModelType, prompt_outputs, prompt_values, report, summary

HOW_TO_SEARCH = "How to search. If in doubt, keep build+refine."


def faithfulness_outputs() -> list[io.Output]:
    """How much of the original's effect a distilled prompt keeps."""
    return [
        io.Float.Output(
            "faithfulness",
            "faithfulness",
            tooltip="How much of the original's effect is kept: 1 is all of it, 0 is none.",
        ),
        io.String.Output("report", "report", tooltip="Faithfulness in other templates too, lost phrases and settings."),
    ]


def distilled_values(
    prompt: Any, node_id: Any, notes: Sequence[str] = (), warned: Sequence[str] = ()
) -> tuple[Any, ...]:
    """The values of `prompt_outputs` and `faithfulness_outputs`, of a `DistilledPrompt`, which the node shows, too.

    Args:
        notes: about what was distilled, which end the report.
        warned: what the user was warned of.
    """
    kept, notices = prompt.faithfulness, notices_of([prompt], warned)
    show_text(summary([prompt], notices), node_id)
    lines = [report([prompt]), str(kept) if kept is not None else "faithfulness not measured"]
    lines += [f"lost: {phrase.text} (kept {phrase.kept:.2f})" for phrase in getattr(prompt, "lost", ())]
    lines += [*notices, *notes]
    value = float("nan") if kept is None else kept.matched.value
    return (*(one[0] for one in prompt_values([prompt])), value, "\n".join(lines))


class DistillPrompt(io.ComfyNode):
    """A short prompt for a long one."""

    @classmethod
    @shown(
        found_as=["shorten prompt", "compress prompt", "summarize", "token limit"],
        advanced=["restarts", "keep_loaded", "markup", "deadline"],
    )
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsDistill",
            display_name="Distill Prompt",
            category=CATEGORY,
            description="Shortens a long prompt so that the model does nearly the same, and measures how much of the "
            "effect is kept.",
            inputs=[
                PromptModelType.Input("prompt_model", tooltip="Connect Load Prompt Model."),
                io.String.Input(
                    "text",
                    multiline=True,
                    tooltip="The long prompt. Weights such as (neon:1.3), <lora:...> and embedding:name are taken out "
                    "of it as markup says.",
                ),
                *search_inputs(
                    DISTILLATION,
                    "The most steps that the search takes; it may finish earlier.",
                    num_tokens=NUM_TOKENS,
                    max_steps=MAX_STEPS,
                ),
                keep_loaded_input(),
                method_input(FOR_FEATURES, HOW_TO_SEARCH, optional=True),
                io.Combo.Input(
                    "markup",
                    options=["auto", "comfyui", "a1111", "none"],
                    default="auto",
                    optional=True,
                    tooltip="Whose syntax the text is in: auto finds out, none takes every character as it stands.",
                ),
                deadline_input(),
            ],
            outputs=[
                *prompt_outputs(is_list=False),
                *faithfulness_outputs(),
                io.String.Output(
                    "set_aside",
                    "set aside",
                    tooltip="What the text names besides words, to be put behind the prompt: <lora:...>, "
                    "embedding:name.",
                ),
            ],
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
        method: str | None = None,
        markup: str | None = None,
        deadline: float | None = None,
    ) -> io.NodeOutput:
        """The short prompt."""
        from hardprompts.distillation import PromptDistiller

        with warnings_kept() as warned, prompt_model.opened(keep_loaded) as backend:
            prompt = PromptDistiller(backend, **given(method=method)).distill(
                text,
                num_tokens,
                templates=template,
                max_steps=max_steps,
                restarts=restarts,
                seed=seed,
                banned=banned_words(banned),
                callback=Progress(cls.hidden.unique_id),
                progress=False,
                **given(markup=markup, deadline=deadline or None),
            )
        read = prompt.markup
        aside = "" if read is None else " ".join(read.set_aside)
        notes = [] if read is None else [str(read)]
        return io.NodeOutput(*distilled_values(prompt, cls.hidden.unique_id, notes, warned), aside)
