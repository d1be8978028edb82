"""Edit Prompt: a word of a prompt exchanged for another one, and what else that changes."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .bridge import show_text
from .models import PromptModel
from .notices import warnings_shown
from .schema import shown
from .values import CATEGORY, HardPromptType, PromptModelType, prompt_outputs, prompt_values

if TYPE_CHECKING:
    from hardprompts.applications import Edit


class EditPrompt(io.ComfyNode):
    """A prompt with one word exchanged."""

    @classmethod
    @shown(found_as=["replace word", "swap word", "search and replace"], advanced=["every"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsEdit",
            display_name="Edit Prompt",
            category=CATEGORY,
            description="Exchanges a word of a prompt for another one, and says what else that changes.",
            inputs=[
                HardPromptType.Input("original", tooltip="The prompt to change, from any node that finds prompts."),
                PromptModelType.Input("prompt_model", tooltip="The model that reads the prompt."),
                io.String.Input("old", tooltip="A word of the prompt, or several that stand together: fox."),
                io.String.Input("new", tooltip="What is written in its place: wolf."),
                io.Boolean.Input(
                    "every", default=False, optional=True, tooltip="On: all occurrences are exchanged. Off: a word "
                    "that occurs several times is an error."
                ),
            ],
            outputs=[
                *prompt_outputs(is_list=False),
                io.String.Output("report", "report", tooltip="What the exchange changes, and which other words depend "
                    "on the one that was exchanged."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, original: Any, prompt_model: PromptModel, old: str, new: str, every: bool | None = None
    ) -> io.NodeOutput:
        """The edited prompt."""
        from hardprompts.applications import edit

        with warnings_shown(cls.hidden.unique_id), prompt_model.opened() as backend:
            found = edit(original, old, new, backend, every=bool(every))
        lines = edit_report(found)
        show_text("\n".join([found.prompt.filled, *lines]), cls.hidden.unique_id)
        return io.NodeOutput(*(value[0] for value in prompt_values([found.prompt])), "\n".join(lines))


def edit_report(found: "Edit") -> list[str]:
    """What an exchange changes, a line for each thing."""
    changed = (f"{one.phrase}: what it adds changed by {one.share:.0%}" for one in found.others)
    return [found.moved, *changed, *found.warnings]
