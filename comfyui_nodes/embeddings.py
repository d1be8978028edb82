"""Textual inversions: what is in them, and the hard prompt with the same effect."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .bridge import Progress, gradients_through_graph
from .defaults import DISTILLATION, MAX_STEPS_OF_GRAPH, NUM_TOKENS, RESTARTS_OF_GRAPH, given
from .distill import HOW_TO_SEARCH, distilled_values, faithfulness_outputs
from .graph import graph_text_encoder
from .invert import banned_words, search_inputs
from .methods import FOR_FEATURES, method_input
from .notices import deadline_input, warnings_kept
from .schema import shown
from .values import CATEGORY, prompt_outputs

FOLDER = "embeddings"


def embedding_names() -> list[str]:
    """The files of ComfyUI's folder `models/embeddings`."""
    import folder_paths

    return folder_paths.get_filename_list(FOLDER) or ["(models/embeddings is empty)"]


def embedding_path(name: str) -> Path:
    """The file of an embedding.

    Raises:
        ValueError: there is no embedding of this name.
    """
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, name)  # never points outside the folders
    if path is None:
        raise ValueError(f"there is no embedding {name!r} in models/embeddings; put the file there and press R")
    return Path(path)


def embedding_input() -> io.Input:
    """Which embedding."""
    return io.Combo.Input(
        "embedding", options=embedding_names(), tooltip="A file in ComfyUI's folder models/embeddings."
    )


def reading_inputs() -> list[io.Input]:
    """What a file leaves open: which of its embeddings, and what its keys should be called."""
    return [
        io.String.Input(
            "name",
            default="",
            optional=True,
            tooltip="Which one, if the file has several embeddings: its trigger word.",
        ),
        io.String.Input(
            "rename",
            default="",
            optional=True,
            tooltip="Keys of the file that are wrong, separated by commas: clip_g=clip_l. Leave it empty otherwise.",
        ),
    ]


def read_embedding(embedding: str, name: str | None, rename: str | None) -> Any:
    """The `SoftPrompt` in the file of an embedding.

    Raises:
        ValueError: there is no such embedding, `rename` is not KEY=NAME, or what `SoftPrompt.from_file` raises.
    """
    from hardprompts.softprompts import SoftPrompt
    from hardprompts.softprompts.names import renaming_of

    pairs = [pair for pair in (rename or "").split(",") if pair.strip()]
    return SoftPrompt.from_file(embedding_path(embedding), name=(name or "").strip(), rename=renaming_of(pairs))


class InspectEmbedding(io.ComfyNode):
    """What is in an embedding."""

    @classmethod
    @shown(found_as=["textual inversion", "embedding info", "nearest words"], advanced=["name", "rename"])
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsInspectEmbedding",
            display_name="Inspect Embedding",
            category=CATEGORY,
            description="Shows which models an embedding is for, how far it is from natural language, and which words "
            "are nearest.",
            inputs=[
                embedding_input(),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder whose words the embedding is compared with."
                ),
                *reading_inputs(),
            ],
            outputs=[io.String.Output("report", "report", tooltip="One fact per line.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, embedding: str, clip: Any = None, name: str | None = None, rename: str | None = None
    ) -> io.NodeOutput:
        """The report."""
        from hardprompts.softprompts import Audit, analyze, decode_nearest, sentences

        prompt = read_embedding(embedding, name, rename)
        audit = Audit(prompt)
        if clip is not None:
            with gradients_through_graph():
                vocabulary = graph_text_encoder(clip).vocabulary
                values = joined(prompt, vocabulary)
                geometry, nearest = analyze(values, vocabulary), decode_nearest(values, vocabulary)
            audit = Audit(prompt, encoder="CLIP", geometry=geometry, nearest=nearest)
        lines = sentences(audit)
        text = "\n".join(lines)
        return io.NodeOutput(text, ui={"text": [text]})


def joined(prompt: Any, vocabulary: Any) -> Any:
    """The embeddings of a soft prompt for all encoders of a CLIP, side by side, (tokens, dim).

    Raises:
        BackendError: it was made for other encoders.
    """
    from hardprompts.distillation import Original

    return Original.of(prompt, vocabulary, "this CLIP").embeddings


class EmbeddingToPrompt(io.ComfyNode):
    """Words for an embedding."""

    @classmethod
    @shown(
        found_as=["textual inversion", "decode embedding", "embedding to text"],
        advanced=["restarts", "name", "rename", "deadline"],
    )
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsEmbeddingToPrompt",
            display_name="Embedding to Prompt",
            category=CATEGORY,
            description="Finds words that have the same effect on the model as an embedding, as nearly as words "
            "can, and measures how much of the effect is kept.",
            inputs=[
                embedding_input(),
                io.Clip.Input("clip", tooltip="The text encoder that the embedding was made for, with its LoRAs."),
                *search_inputs(
                    DISTILLATION,
                    "The most steps that the search takes; it may finish earlier.",
                    num_tokens=NUM_TOKENS,
                    max_steps=MAX_STEPS_OF_GRAPH,
                    restarts=RESTARTS_OF_GRAPH,
                ),
                method_input(FOR_FEATURES, HOW_TO_SEARCH, optional=True),
                *reading_inputs(),
                deadline_input(),
            ],
            outputs=[*prompt_outputs(is_list=False), *faithfulness_outputs()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        embedding: str,
        clip: Any,
        num_tokens: int,
        max_steps: int,
        restarts: int,
        seed: int,
        template: str,
        banned: str,
        method: str | None = None,
        name: str | None = None,
        rename: str | None = None,
        deadline: float | None = None,
    ) -> io.NodeOutput:
        """The prompt."""
        from hardprompts.distillation import PromptDistiller

        with warnings_kept() as warned, gradients_through_graph():
            soft = read_embedding(embedding, name, rename)
            encoder = graph_text_encoder(clip)
            prompt = PromptDistiller(encoder, **given(method=method)).distill(
                joined(soft, encoder.vocabulary),
                num_tokens,
                templates=template,
                max_steps=max_steps,
                restarts=restarts,
                seed=seed,
                banned=banned_words(banned),
                callback=Progress(cls.hidden.unique_id),
                progress=False,
                **given(deadline=deadline or None),
            )
        return io.NodeOutput(*distilled_values(prompt, cls.hidden.unique_id, soft.notes, warned))
