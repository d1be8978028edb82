"""Loads folders of images and saves captions next to them, in the layout that LoRA trainers read."""

import logging
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .bridge import inside, to_batch
from .values import CATEGORY


def images_in(folder: str) -> list[Path]:
    """The image files of a folder inside ComfyUI's input folder, by name.

    Those that cannot be read are left out, and named in the log.

    Raises:
        ValueError: there is no such folder, or it is outside the input folder.
        ImageError: there are no images in it.
    """
    from hardprompts.errors import ImageError
    from hardprompts.images import IMAGE_SUFFIXES
    from hardprompts.images import images_in as found_in

    path = Path(inside("input", folder))
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder!r} in ComfyUI's input folder; put the images into {path}")
    found = found_in(path)
    for file, reason in found.passed_over:
        logging.warning("hardprompts left out %s: %s", file.name, reason)
    if not found.images:
        left_out = "".join(f"; {file.name}: {reason}" for file, reason in found.passed_over[:1])
        raise ImageError(f"no images in {path}; accepted are {', '.join(sorted(IMAGE_SUFFIXES))}{left_out}")
    return list(found.images)


class LoadImagesFromFolder(io.ComfyNode):
    """Every image of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsLoadImages",
            display_name="Load Images from Folder",
            category=CATEGORY,
            description="Loads the images of a folder inside ComfyUI's input folder, one after the other, whatever "
            "their sizes.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder inside ComfyUI's input folder. Empty: the input folder itself.",
                ),
                io.Int.Input(
                    "start", default=0, min=0, max=1_000_000, tooltip="How many images to skip at the beginning."
                ),
                io.Int.Input(
                    "limit", default=0, min=0, max=1_000_000, tooltip="The most images to load. 0: all of them."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", "image", tooltip="A list: the next node runs once for each image.", is_output_list=True
                ),
                io.String.Output(
                    "path", "path", tooltip="The file of each image, inside the input folder.", is_output_list=True
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, start: int, limit: int) -> tuple[Any, ...]:
        """Changes when the files change."""
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
            raise ImageError(f"start={start} skips all {len(files)} images of {folder!r}; lower it")
        root = Path(inside("input", ""))
        paths = [file.relative_to(root).as_posix() for file in chosen]
        return io.NodeOutput(to_batch(load_images(list(chosen))), paths)


class SaveCaptions(io.ComfyNode):
    """A text file next to each image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsSaveCaptions",
            display_name="Save Captions",
            category=CATEGORY,
            description="Writes each text into a .txt file next to its image, where LoRA trainers look for captions.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "text", force_input=True, tooltip="The captions: connect the raw prompt of Image to Prompt."
                ),
                io.String.Input(
                    "path", force_input=True, tooltip="Connect path of Load Images from Folder, in the same order."
                ),
                io.String.Input(
                    "before", default="", tooltip="Text in front of every caption, such as a trigger word."
                ),
                io.Combo.Input(
                    "existing",
                    options=["keep", "replace", "append"],
                    default="keep",
                    tooltip="What to do if there is a caption already: keep it, replace it, or append to it.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "caption_path",
                    "caption path",
                    tooltip="The caption files, inside the input folder.",
                    is_output_list=True,
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, text: list[str], path: list[str], before: list[str], existing: list[str]) -> io.NodeOutput:
        """The paths of the captions: cat.txt for cat.png, or cat.png.txt where there is also a cat.jpg."""
        from hardprompts.atomic import write_text_atomically
        from hardprompts.images import caption_files

        if len(text) != len(path):
            raise ValueError(
                f"{len(text)} texts for {len(path)} images; connect texts and paths that come from the same images"
            )
        files = caption_files([Path(inside("input", image)) for image in path])
        root, written, shown = Path(inside("input", "")), [], []
        for caption, image in zip(text, path, strict=True):
            file = files[Path(inside("input", image))]
            kept = file.read_text(encoding="utf-8").strip() if file.is_file() and existing[0] != "replace" else ""
            new = f"{before[0]}{caption}"
            if not kept or existing[0] != "keep":
                write_text_atomically(file, f"{kept}, {new}\n" if kept else f"{new}\n")
            written.append(file.relative_to(root).as_posix())
            shown.append(f"{written[-1]}: {file.read_text(encoding='utf-8').strip()}")
        return io.NodeOutput(written, ui={"text": shown})
