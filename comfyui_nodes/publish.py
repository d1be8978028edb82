"""Push Prompt to Hub: a prompt for everybody, with a card."""

from typing import Any

from comfy_api.latest import io

from .values import CATEGORY, HardPromptType


class PushPromptToHub(io.ComfyNode):
    """A prompt in a repository of the Hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsPush",
            display_name="Push Prompt to Hub",
            category=CATEGORY,
            description="Puts a prompt into a repository of the Hugging Face Hub. It needs a token on the machine that "
            "runs ComfyUI (HF_TOKEN, or hf auth login); a workflow cannot bring one along.",
            inputs=[
                HardPromptType.Input("hard_prompt", tooltip="What is published."),
                io.String.Input("repository", default="", tooltip="user/name. It is made if there is none."),
                io.Boolean.Input("private", default=True, tooltip="Whether only you may see a new repository."),
                io.Boolean.Input("enabled", default=False, tooltip="Off: nothing is sent."),
            ],
            outputs=[io.String.Output("url", "url", tooltip="The page of the commit; empty if nothing was sent.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, hard_prompt: Any, repository: str, private: bool, enabled: bool) -> io.NodeOutput:
        """The page of the commit."""
        if not enabled:
            return io.NodeOutput("", ui={"text": ["off: nothing was sent"]})
        from huggingface_hub import get_token

        if not get_token():
            raise ValueError(
                "there is no Hugging Face token on the machine that runs ComfyUI; set HF_TOKEN or run `hf auth login` "
                "there, and start ComfyUI again"
            )
        pushed = hard_prompt.push_to_hub(repository.strip(), private=private)
        return io.NodeOutput(pushed.url, ui={"text": [pushed.url]})
