"""Loads folders of images and saves captions next to them, in the layout that LoRA trainers read."""

import collections
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .bridge import inside, show_text, to_batch
from .schema import shown
from .values import CATEGORY

if TYPE_CHECKING:
    from hardprompts.images import FolderImages


LOG = logging.getLogger(__name__)

#: Lines about files that were left out, in the node; the log has all.
SHOWN = 10

#: What a caption is made of; a template may have them in any order.
TEMPLATE = "{prefix}{caption}{suffix}"
_FIELD = re.compile(r"\{(\w*)\}")


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


def without_caption(images: Iterable[Path]) -> list[Path]:
    """The images that have no caption: no text file, or a blank one."""
    from hardprompts.images import caption_files

    return [
        image for image, file in caption_files(images).items() if not (file.is_file() and file.read_bytes().strip())
    ]


def completed(template: str, prefix: str, caption: str, suffix: str) -> str:
    """A caption as it is saved: what was found, in what goes around it.

    Args:
        template: text with {caption}, or {}, exactly once; {prefix} and {suffix} where these go.

    Raises:
        ValueError: the template has other words in braces, no place for the caption or more than one, or none for a
            prefix or suffix that is given.
    """
    values = {"prefix": prefix, "caption": caption, "suffix": suffix}
    fields = [name or "caption" for name in _FIELD.findall(template)]
    unknown = [name for name in fields if name not in values]
    if unknown:
        raise ValueError(f"{{{unknown[0]}}} in the template {template!r} is unknown; known: {TEMPLATE}, and {{}}")
    if fields.count("caption") != 1:
        raise ValueError(
            f"the template {template!r} has {fields.count('caption')} places for the caption; write {{caption}}, or "
            "{}, exactly once"
        )
    for name in ("prefix", "suffix"):
        if values[name] and name not in fields:
            raise ValueError(
                f"the {name} {values[name]!r} has no place in the template {template!r}; write {{{name}}} where it "
                f"goes, or leave {name} empty"
            )
    return _FIELD.sub(lambda found: values[found[1] or "caption"], template)


class LoadImagesFromFolder(io.ComfyNode):
    """Every image of a folder."""

    @classmethod
    @shown(found_as=["load image batch", "batch from directory", "dataset", "load images"], advanced=["start", "limit"])
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
                io.Boolean.Input(
                    "skip_captioned",
                    default=False,
                    optional=True,
                    tooltip="On: images that have a caption already are left out, so that a run that was stopped goes "
                    "on.",
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
    def fingerprint_inputs(
        cls, folder: str, start: int, limit: int, recursive: bool = False, skip_captioned: bool = False
    ) -> tuple[Any, ...]:
        """Changes when the images change, or those that have no caption."""
        from hardprompts.images import images_in as found_in

        path = Path(inside("input", folder))
        files = list(found_in(path, recursive).images) if path.is_dir() else []
        files = without_caption(files) if skip_captioned else files
        return (start, limit, *((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))

    @classmethod
    def execute(
        cls, folder: str, start: int, limit: int, recursive: bool = False, skip_captioned: bool = False
    ) -> io.NodeOutput:
        """The images, and their paths inside the input folder. What is left out is named in the node and in the log."""
        from hardprompts.errors import ImageError
        from hardprompts.images import load_images

        found = images_in(folder, recursive)
        todo = without_caption(found.images) if skip_captioned else list(found.images)
        if not todo:
            raise ImageError(
                f"all {len(found.images)} images of {folder!r} have captions, so nothing is left to do; to load them "
                "again, switch skip_captioned off"
            )
        chosen = todo[start : start + limit if limit else None]
        if not chosen:
            raise ImageError(f"start={start} skips all {len(todo)} images of {folder!r}; lower it")
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
    @shown(found_as=["save text", "caption dataset", "lora training", "txt"])
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
                    "prefix", default="", tooltip="Text in front of every caption, such as a trigger word."
                ),
                io.String.Input("suffix", default="", tooltip="Text behind every caption."),
                io.String.Input(
                    "template",
                    default=TEMPLATE,
                    tooltip="How a caption is put together. {} stands for the caption, too: a photo of sks dog, {}.",
                ),
                io.Combo.Input(
                    "existing",
                    options=["keep", "replace", "append"],
                    default="keep",
                    tooltip="What to do if there is a caption already: keep it, replace it, or append to it after a "
                    "comma.",
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
    def execute(
        cls,
        text: list[str],
        path: list[str],
        prefix: list[str],
        suffix: list[str],
        template: list[str],
        existing: list[str],
    ) -> io.NodeOutput:
        """The paths of the captions: cat.txt for cat.png, or cat.png.txt where there is also a cat.jpg.

        Raises:
            ValueError: texts and images do not go together, half of a character is in a text, or see `completed`;
                nothing is written.
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
        captions = [completed(template[0], prefix[0], caption, suffix[0]) for caption in text]
        check_text("text", captions)
        twice = [image for image, count in collections.Counter(path).items() if count > 1]
        if twice and existing[0] != "append":
            raise ValueError(f"{twice[0]!r} has several texts, and one caption; connect one text for each image")
        images = [Path(inside("input", image)) for image in path]
        files = caption_files(images)
        root, written, shown = Path(inside("input", "")), [], []
        problems: list[OSError | FileFormatError] = []
        for caption, image in zip(captions, images, strict=True):
            try:
                _write_caption(files[image], caption, existing[0])
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
