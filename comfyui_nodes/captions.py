"""Folders of images in, and captions beside them out: what trainers of LoRAs read."""

import collections
import os
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .bridge import inside, to_batch
from .values import CATEGORY

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def images_in(folder: str) -> list[Path]:
    """The image files of a folder inside ComfyUI's input folder, by name.

    Raises:
        ValueError: there is no such folder, or it leads out of the input folder.
        ImageError: there are no images in it.
    """
    from hardprompts.errors import ImageError

    path = Path(inside("input", folder))
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder!r} in ComfyUI's input folder; put the images into {path}")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise ImageError(f"no images in {path}; accepted are {', '.join(SUFFIXES)}")
    return files


class LoadImagesFromFolder(io.ComfyNode):
    """Every image of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsLoadImages",
            display_name="Load Images from Folder",
            category=CATEGORY,
            description="The images of a folder inside ComfyUI's input folder, one after the other, of any size.",
            inputs=[
                io.String.Input("folder", default="", tooltip="Inside ComfyUI's input folder; empty: that itself."),
                io.Int.Input("start", default=0, min=0, max=1_000_000, tooltip="Images to leave out at the beginning."),
                io.Int.Input("limit", default=0, min=0, max=1_000_000, tooltip="Images at most; 0: all."),
            ],
            outputs=[
                io.Image.Output("image", "image", tooltip="A list: the next node runs for each.", is_output_list=True),
                io.String.Output("path", "path", tooltip="Where each comes from.", is_output_list=True),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, start: int, limit: int) -> tuple[Any, ...]:
        """Changes with the files."""
        path = Path(inside("input", folder))
        files = sorted(path.iterdir()) if path.is_dir() else []
        return (start, limit, *((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files))

    @classmethod
    def execute(cls, folder: str, start: int, limit: int) -> io.NodeOutput:
        """The images, and their paths inside the input folder."""
        from hardprompts.errors import ImageError
        from hardprompts.images import load_images

        files = images_in(folder)
        chosen = files[start : start + limit if limit else None]
        if not chosen:
            raise ImageError(f"start={start} leaves out all {len(files)} images of {folder!r}; lower it")
        root = Path(inside("input", ""))
        paths = [file.relative_to(root).as_posix() for file in chosen]
        return io.NodeOutput(to_batch(load_images(list(chosen))), paths)


class SaveCaptions(io.ComfyNode):
    """A text file beside each image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsSaveCaptions",
            display_name="Save Captions",
            category=CATEGORY,
            description="Writes each text into a .txt file beside its image, as trainers of LoRAs read them.",
            is_input_list=True,
            inputs=[
                io.String.Input("text", force_input=True, tooltip="The captions: the raw prompt of Image to Prompt."),
                io.String.Input("path", force_input=True, tooltip="From Load Images from Folder, in the same order."),
                io.String.Input("before", default="", tooltip="Text in front of every caption, a trigger word say."),
                io.Combo.Input(
                    "existing",
                    options=["keep", "replace", "append"],
                    default="keep",
                    tooltip="What becomes of a caption that is there already.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "caption_path", "caption path", tooltip="The files, inside the input folder.", is_output_list=True
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, text: list[str], path: list[str], before: list[str], existing: list[str]) -> io.NodeOutput:
        """The paths of the captions: cat.txt beside cat.png; cat.png.txt where there is a cat.jpg too."""
        from hardprompts.atomic import write_text_atomically

        if len(text) != len(path):
            raise ValueError(f"{len(text)} texts for {len(path)} images; both must come from the same images")
        stems = collections.Counter(os.path.splitext(inside("input", image))[0].casefold() for image in path)
        root, written, shown = Path(inside("input", "")), [], []
        for caption, image in zip(text, path, strict=True):
            stem = os.path.splitext(inside("input", image))[0]
            file = Path((stem if stems[stem.casefold()] == 1 else inside("input", image)) + ".txt")
            kept = file.read_text(encoding="utf-8").strip() if file.is_file() and existing[0] != "replace" else ""
            new = f"{before[0]}{caption}"
            if not kept or existing[0] != "keep":
                write_text_atomically(file, f"{kept}, {new}\n" if kept else f"{new}\n")
            written.append(file.relative_to(root).as_posix())
            shown.append(f"{written[-1]}: {file.read_text(encoding='utf-8').strip()}")
        return io.NodeOutput(written, ui={"text": shown})
