"""Soft prompts inside of a LoRA that was trained together with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardprompts.errors import FileFormatError, quoted
from hardprompts.softprompts import Match, SoftPrompt, SoftPromptFile
from hardprompts.softprompts.containers import BUNDLED
from hardprompts_formats.embeddings import A1111, MAX_ENTRIES, ComfyUI, Diffusers, Kohya, PivotalTuning


class Bundle:
    """`bundle_emb.NAME.` before the keys of another format: `string_to_param.*`, `emb_params`, `clip_l`, ...

    Only the soft prompts are read, not the LoRA.

    Source: AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py; comfyanonymous/ComfyUI,
    comfy/sd1_clip.py, bundled_embed; Nerogar/OneTrainer.
    """

    suffixes = ()
    _FORMATS = (A1111(), Kohya(), PivotalTuning(), ComfyUI(), Diffusers())

    def detect(self, file: SoftPromptFile) -> Match:
        return Match.CERTAIN if any(key.startswith(BUNDLED) for key in file.keys) else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        parts: dict[str, dict[str, Any]] = {}
        for key, tensor in file.tensors.items():
            if key.startswith(BUNDLED):
                name, entry = _split(key.removeprefix(BUNDLED))
                parts.setdefault(name, {})[entry] = tensor
        if len(parts) > MAX_ENTRIES:
            raise FileFormatError(f"it bundles {len(parts)} soft prompts; at most {MAX_ENTRIES} are read")
        prompts: list[SoftPrompt] = []
        for name, tree in parts.items():
            part = file.inside(tree, name)
            answers = [(format.detect(part), format) for format in self._FORMATS]
            # One that has what only this format has; else one whose key is the name again.
            format = next((each for answer, each in answers if answer is Match.CERTAIN), None)
            if format is None and tree.keys() == {name}:
                format = next((each for answer, each in answers if answer is Match.FITS), None)
            if format is None:
                keys = ", ".join(map(quoted, tree))
                raise FileFormatError(
                    f"its bundled soft prompt {quoted(name)} has the keys {keys}, which are not known"
                )
            prompts += format.read(part)
        return prompts

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        raise FileFormatError("the format 'comfyui-bundle' is only read: it lies inside of a LoRA; write comfyui")


def _split(key: str) -> tuple[str, str]:
    """The name, which may have dots in it, and the entry; of a key without an entry the name again."""
    name, found, term = key.partition(".string_to_param.")
    if found:
        return name, f"string_to_param.{term}"
    name, _, entry = key.rpartition(".")
    return name or entry, entry
