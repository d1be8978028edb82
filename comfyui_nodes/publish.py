"""Push Prompt to Hub: publishes a prompt with a card."""

from typing import Any

from comfy_api.latest import io

from .schema import shown
from .values import CATEGORY, HardPromptType


class PushPromptToHub(io.ComfyNode):
    """Publishes a prompt in a repository of the Hub."""

    @classmethod
    @shown(found_as=["upload prompt", "hugging face"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsPush",
            display_name="Push Prompt to Hub",
            category=CATEGORY,
            description="Uploads a prompt to a repository of the Hugging Face Hub. The machine that runs ComfyUI needs "
            "a token (HF_TOKEN, or hf auth login); a workflow cannot contain one.",
            inputs=[
                HardPromptType.Input("hard_prompt", tooltip="The prompt to upload."),
                io.String.Input(
                    "repository", default="", tooltip="user/name. The repository is created if it does not exist."
                ),
                io.Boolean.Input("private", default=True, tooltip="Whether a new repository is visible to you alone."),
                io.Boolean.Input("enabled", default=False, tooltip="Off: nothing is uploaded."),
            ],
            outputs=[io.String.Output("url", "url", tooltip="The page of the commit. Empty if nothing was uploaded.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, hard_prompt: Any, repository: str, private: bool, enabled: bool) -> io.NodeOutput:
        """The page of the commit."""
        if not enabled:
            return io.NodeOutput("", ui={"text": ["off: nothing was uploaded"]})
        from huggingface_hub import get_token

        if not get_token():
            raise ValueError(
                "there is no Hugging Face token on the machine that runs ComfyUI; set HF_TOKEN or run `hf auth login` "
                "there, and start ComfyUI again"
            )
        pushed = hard_prompt.push_to_hub(repository.strip(), private=private)
        return io.NodeOutput(pushed.url, ui={"text": [pushed.url, *pushed.notices]})
