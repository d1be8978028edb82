"""Loads folders of images and saves captions next to them, in the layout that LoRA trainers read."""

import collections
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .bridge import inside, show_text, to_batch
from .values import CATEGORY

if TYPE_CHECKING:
    from hardprompts.images import FolderImages


LOG = logging.getLogger(__name__)

#: Lines about files that were left out, in the node; the log has all.
SHOWN = 10


def images_in(folder: str, recursive: bool = False) -> "FolderImages":
    """The images of a folder inside ComfyUI's input folder, and what was left out; see `hardprompts.images.images_in`.

    Raises:
        ValueError: there is no such folder, or it is outside the input folder.
        ImageError: there are no images in it.
    """
    from hardprompts.errors import ImageError
    from hardprompts.images import images_in as found_in

    path = Path(inside("input", folder))
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder!r} in ComfyUI's input folder; put the images into {path}")
    found = found_in(path, recursive)
    if not found.images:
        left_out = [f"{file.relative_to(path).as_posix()}: {reason}" for file, reason in found.passed_over[:1]]
        raise ImageError("; ".join([f"there are no images in {path} that can be read", *left_out, *found.notes]))
    return found


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
                io.Boolean.Input(
                    "recursive", default=False, optional=True, tooltip="On: the images of the folders in it, too."
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
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, start: int, limit: int, recursive: bool = False) -> tuple[Any, ...]:
        """Changes when the images change."""
        from hardprompts.images import images_in as found_in

        path = Path(inside("input", folder))
        files = found_in(path, recursive).images if path.is_dir() else ()
        return (start, limit, *((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))

    @classmethod
    def execute(cls, folder: str, start: int, limit: int, recursive: bool = False) -> io.NodeOutput:
        """The images, and their paths inside the input folder. What is left out is named in the node and in the log."""
        from hardprompts.errors import ImageError
        from hardprompts.images import load_images

        found = images_in(folder, recursive)
        chosen = found.images[start : start + limit if limit else None]
        if not chosen:
            raise ImageError(f"start={start} skips all {len(found.images)} images of {folder!r}; lower it")
        left_out = [f"{file.name}: {reason}" for file, reason in found.passed_over]
        images, paths = [], []
        root = Path(inside("input", ""))
        for file in chosen:
            try:
                images += load_images(file)
                paths.append(file.relative_to(root).as_posix())
            except ImageError as error:
                left_out.append(f"{file.name}: {error}")
        if not images:
            raise ImageError(f"none of {len(chosen)} images can be read; {left_out[-1]}")
        for line in (*left_out, *found.notes):
            LOG.warning("hardprompts left out of %r: %s", folder, line)
        more = [f"and {len(left_out) - SHOWN} more; see the log"] if len(left_out) > SHOWN else []
        told = [f"{len(images)} of {len(found.images)} images", *left_out[:SHOWN], *more, *found.notes]
        show_text("\n".join(told), cls.hidden.unique_id)
        return io.NodeOutput(to_batch(images), paths)


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
        """The paths of the captions: cat.txt for cat.png, or cat.png.txt where there is also a cat.jpg.

        Raises:
            ValueError: texts and images do not go together, or half of a character is in a text; nothing is written.
            FileFormatError: a caption that is to be appended to cannot be read; all others are written.
            OSError: a caption cannot be written, likewise.
        """
        from hardprompts.errors import FileFormatError
        from hardprompts.images import caption_files
        from hardprompts.wording import check_text

        if len(text) != len(path):
            raise ValueError(
                f"{len(text)} texts for {len(path)} images; connect texts and paths that come from the same images"
            )
        check_text("text", [f"{before[0]}{caption}" for caption in text])
        twice = [image for image, count in collections.Counter(path).items() if count > 1]
        if twice and existing[0] != "append":
            raise ValueError(f"{twice[0]!r} has several texts, and one caption; connect one text for each image")
        images = [Path(inside("input", image)) for image in path]
        files = caption_files(images)
        root, written, shown = Path(inside("input", "")), [], []
        problems: list[OSError | FileFormatError] = []
        for caption, image in zip(text, images, strict=True):
            try:
                _write_caption(files[image], f"{before[0]}{caption}", existing[0])
            except (OSError, FileFormatError) as error:
                problems.append(error)
                continue
            written.append(files[image].relative_to(root).as_posix())
            shown.append(f"{written[-1]}: {files[image].read_bytes().decode(errors='replace').strip()}")
        if problems:
            raise type(problems[0])(
                f"{len(problems)} of {len(path)} captions are not written: {problems[0]}; the others are"
            )
        return io.NodeOutput(written, ui={"text": shown})


def _write_caption(file: Path, caption: str, existing: str) -> None:
    """Writes a caption, unless there is one that is to be kept.

    Raises:
        FileFormatError: there is one that is to be appended to, and it is not UTF-8.
        OSError: it cannot be written.
    """
    from hardprompts.atomic import write_text_atomically
    from hardprompts.errors import FileFormatError

    kept = file.read_bytes().strip() if existing != "replace" and file.is_file() else b""
    if kept and existing == "keep":
        return
    try:
        # The mark that some editors put at the beginning would be in the middle of nothing.
        before = kept.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}), so nothing can be appended to it; save it as "
            "UTF-8, or replace it"
        ) from error
    write_text_atomically(file, f"{before}, {caption}\n" if before else f"{caption}\n")
