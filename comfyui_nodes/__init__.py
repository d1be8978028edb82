"""ComfyUI nodes: images, embeddings and prompts become hard prompts, inside a graph.

A node converts its inputs, makes one call of the hardprompts SDK, and converts the result. What
knows ComfyUI's runtime is in `bridge`. No model library is imported before a node runs, and of the SDK only what
the inputs show: its search methods (`methods`) and its default values (`defaults`).
"""

from comfy_api.latest import ComfyExtension, io

from .standalone import find_sdk

WEB_DIRECTORY = "./web"


class HardPromptsExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node, in the order of the menu."""
        from . import (
            captions,
            diffusion,
            distill,
            editing,
            embeddings,
            evidence,
            invert,
            models,
            pictures,
            prompts,
            publish,
            weights,
        )

        return [
            models.LoadPromptModel,
            invert.ImageToPrompt,
            diffusion.ImageToPromptDiffusion,
            pictures.ImageToPromptByPictures,
            distill.DistillPrompt,
            embeddings.EmbeddingToPrompt,
            embeddings.InspectEmbedding,
            weights.WeightWords,
            editing.EditPrompt,
            evidence.PromptEvidence,
            prompts.CombinePrompts,
            prompts.ScorePrompts,
            prompts.ShowPrompt,
            prompts.SavePrompt,
            prompts.LoadPrompt,
            publish.PushPromptToHub,
            captions.LoadImagesFromFolder,
            captions.SaveCaptions,
        ]


async def comfy_entrypoint() -> HardPromptsExtension:
    """Called by ComfyUI when it loads the pack.

    Registers the model folder `prompt_models`, which extra_model_paths.yaml may redirect.
    """
    from .models import register_folder

    find_sdk()
    register_folder()
    return HardPromptsExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
