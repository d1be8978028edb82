"""The page's parts for *By pictures*: what draws, and how many pictures. It imports Gradio."""

from typing import Any

import gradio as gr

from hardprompts_app import drawing
from hardprompts_app.work import Models


class DrawingPanel:
    """A generator and a number of pictures, which are there only when a person chose to search by pictures."""

    def __init__(self, models: Models) -> None:
        known = drawing.names(models.private)
        with gr.Group(visible=False) as self.group:
            self.generator = gr.Dropdown(
                known, value=known[0] if known else None, allow_custom_value=models.private, label="What draws",
                info="one prompt for all images" + "; from the list, or diffusers: and a folder" * models.private,
            )  # fmt: skip
            self.budget = gr.Number(
                drawing.PICTURES, label="Pictures at most", precision=0, minimum=drawing.FEWEST, maximum=drawing.MOST,
                info="the last 4 only measure the prompt; empty the seconds below to draw them all",
            )  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        """The generator, and the number."""
        return [self.generator, self.budget]
