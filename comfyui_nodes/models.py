"""Load Prompt Model: a model that compares images with text, under ComfyUI's memory management."""

import contextlib
import importlib.metadata
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from .bridge import gradients
from .schema import shown
from .values import CATEGORY, PromptModelType

if TYPE_CHECKING:
    from hardprompts import Backend
    from hardprompts.inversion.captioning import Captioner

#: The file by which a folder is known to hold a decoder, which is not a model to search with.
DECODER = "decoder.json"

#: Part of hardprompts; needs no download.
EMBEDDED = ("emoji", "emoji:emoji-clip-reference")
#: Knows photographs; needs packages that may not be installed.
PHOTO = "photo"
FOLDER = "prompt_models"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
#: Bytes that are freed on a GPU before a model of unknown size is opened.
USUAL_SIZE = 2 * 1024**3


def register_folder() -> None:
    """Adds `models/prompt_models` to ComfyUI's model folders."""
    import folder_paths

    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def shipped_models() -> tuple[str, ...]:
    """The models that need no file in ComfyUI's folders, the recommended one first."""
    # The plugin itself is asked: the SDK is not needed for that.
    found = importlib.metadata.entry_points(group="hardprompts", name=PHOTO)
    return (PHOTO, *EMBEDDED) if any(entry.load().installed() for entry in found) else EMBEDDED


def local_models() -> dict[str, str]:
    """The models in ComfyUI's folders `prompt_models`, each with its name for `load_backend`.

    A folder with config.json is a model of transformers; one with open_clip_config.json, of open_clip. Any other
    folder with weights is named after the open_clip architecture that they are for.
    """
    import folder_paths

    found: dict[str, str] = {}
    for root in folder_paths.get_folder_paths(FOLDER):
        if not os.path.isdir(root):
            continue
        for folder in sorted(Path(root).iterdir()):
            if not folder.is_dir():
                continue
            # The first in the order of WEIGHTS, and not what macOS leaves beside it ("._model.safetensors").
            files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
            weights = [file for suffix in WEIGHTS for file in files if file.suffix.lower() == suffix]
            if (folder / "open_clip_config.json").is_file():
                found.setdefault(folder.name, f"open_clip:local-dir:{folder}")
            elif (folder / "config.json").is_file():
                found.setdefault(folder.name, f"transformers:{folder}")
            elif weights and not (folder / DECODER).is_file():
                found.setdefault(folder.name, f"open_clip:{folder.name}/{weights[0]}")
    return found


def named_model(name: str) -> str:
    """A model that is named beside the prompt model, a captioner or a language model; "" for none.

    It is a folder in models/prompt_models, or what `checked_name` takes.
    """
    return local_models().get(name.strip()) or checked_name(name)


def proposer_name(name: str) -> str:
    """A name for `PromptInverter`: a decoder's folder in models/prompt_models, or what `checked_name` takes."""
    import folder_paths

    for root in folder_paths.get_folder_paths(FOLDER):
        if name.strip() and (Path(root) / Path(name.strip()).name / DECODER).is_file():
            return f"decoder:{Path(root) / Path(name.strip()).name}"
    return checked_name(name)


def checked_name(name: str) -> str:
    """A name for `load_backend`, of the kind that a workflow may contain: no path.

    Raises:
        ValueError: it names a file or folder. Workflows come from strangers, and models from ComfyUI's folders.
    """
    rest = name.strip().partition(":")[2]
    parts = rest.replace("\\", "/").split("/")
    # A name may hold another, as lm:transformers:gpt2 does.
    begins = any(part.startswith(("/", "~", ".")) for part in rest.split(":"))
    if begins or "\\" in rest or "local-dir:" in rest or ".." in parts or "" in parts[:-1]:
        raise ValueError(
            f"{name!r} is a path; put local models into ComfyUI's models/{FOLDER} and choose them from the list (a "
            "captioner or a language model by the name of its folder)"
        )
    return name.strip()


class PromptModel:
    """A model as nodes hand it on: opened when it is used, closed when ComfyUI needs its memory.

    What ComfyUI loads and unloads is the `ModelPatcher` around its networks. Unloading closes the model for
    good, in main memory too; the next use opens it again. A captioner belongs to it, so that neither pushes the other
    out of a graphics card's memory.

    Attributes:
        name: what `load_backend` opens.
    """

    def __init__(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        self.name, self._dtype, self._device = name, dtype, device
        self._backend: Backend | None = None
        self._captioner: tuple[str, Captioner | None] = ("", None)
        self._patcher: Any = None
        self._size = USUAL_SIZE

    @property
    def is_open(self) -> bool:
        """True while the networks are in memory."""
        return self._backend is not None

    @contextlib.contextmanager
    def opened(self, keep_loaded: bool = True) -> Iterator["Backend"]:
        """The open model, where gradients can be taken.

        Raises:
            HardPromptsError: it cannot be opened; see `hardprompts.load_backend`.
        """
        with self.opened_with_captioner("", keep_loaded) as (backend, _):
            yield backend

    @contextlib.contextmanager
    def opened_with_captioner(
        self, captioner: str, keep_loaded: bool = True
    ) -> Iterator[tuple["Backend", "Captioner | None"]]:
        """Likewise, with what `load_captioner` opens under a name; None for the name "".

        Raises:
            HardPromptsError: one of them cannot be opened.
        """
        try:
            with gradients():
                yield self._open(captioner)
        finally:
            if not keep_loaded:
                self.unload()

    def unload(self) -> None:
        """Closes the model, as ComfyUI's own button does."""
        import comfy.model_management as management

        for place, loaded in enumerate(management.current_loaded_models):
            if self._patcher is not None and loaded.model is self._patcher:
                management.current_loaded_models.pop(place).model_unload()
                break
        self._forget()
        self._patcher = None
        management.soft_empty_cache()

    def _forget(self) -> None:
        self._backend, self._captioner = None, ("", None)

    def _open(self, captioner: str) -> tuple["Backend", "Captioner | None"]:
        import comfy.model_management as management

        if self._backend is not None and captioner not in ("", self._captioner[0]):
            self.unload()
        if self._backend is None:
            self._read(captioner)
        backend, describing = self._backend, self._captioner[1] if captioner else None
        management.load_models_gpu([self._patcher], force_full_load=True)
        assert backend is not None
        return backend, describing

    def _read(self, captioner: str) -> None:
        import comfy.model_management as management

        from hardprompts import load_backend
        from hardprompts.inversion import load_captioner

        if self._device.type != "cpu":
            management.free_memory(self._size, self._device)
        place: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        backend = load_backend(self.name, **place)
        describing = load_captioner(captioner, **place) if captioner else None
        self._backend, self._captioner = backend, (captioner, describing)
        self._patcher = self._patched(networks(backend.text_encoder, backend.image_encoder, describing))
        self._size = self._patcher.model_size()

    def _patched(self, parts: torch.nn.ModuleList) -> Any:
        from comfy.model_patcher import ModelPatcher
        from comfy.patcher_extension import CallbacksMP

        patcher = ModelPatcher(parts, load_device=self._device, offload_device=torch.device("cpu"))
        own = weakref.ref(self)  # the patcher must not keep the model alive

        def detached(patcher: Any, unpatch_all: bool) -> None:
            # The patcher and its empty list stay: ComfyUI, which is about to forget them, must not find them gone.
            model = own()
            if model is not None and model._patcher is patcher:
                model._forget()
            del patcher.model[:]

        patcher.add_callback(CallbacksMP.ON_DETACH, detached)
        return patcher


def networks(*owners: Any) -> torch.nn.ModuleList:
    """The networks of encoders and captioners, each once; there may be None among these."""
    found: dict[int, torch.nn.Module] = {}
    for owner in owners:
        for part in getattr(owner, "__dict__", {}).values():
            if isinstance(part, torch.nn.Module):
                found[id(part)] = part
    return torch.nn.ModuleList(found.values())


class LoadPromptModel(io.ComfyNode):
    """A model that compares images with text."""

    @classmethod
    @shown(found_as=["clip", "siglip", "open_clip", "photo", "emoji", "load clip model"], advanced=["dtype", "device"])
    def define_schema(cls) -> io.Schema:
        shipped = shipped_models()
        return io.Schema(
            node_id="HardPromptsLoadModel",
            display_name="Load Prompt Model",
            category=CATEGORY,
            description="Chooses a model that compares images with text, such as a CLIP. It is loaded when a node "
            "uses it.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[*shipped, *local_models()],
                    default=shipped[0],
                    tooltip="photo knows the things in photographs, and is listed if hardprompts[photo] is installed; "
                    "emoji knows drawings of emoji. For more, put a CLIP or SigLIP into models/prompt_models.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["float32", "float16", "bfloat16"],
                    default="float32",
                    tooltip="The number format that the model computes with. The two 16-bit formats need half the "
                    "memory.",
                ),
                io.Combo.Input(
                    "device",
                    options=["default", "cpu"],
                    default="default",
                    tooltip="default: the device that ComfyUI uses. cpu: leaves the graphics card to other models.",
                ),
                io.String.Input(
                    "hub_model",
                    default="",
                    optional=True,
                    tooltip="If not empty, this model is used instead of the choice above, and downloaded on first "
                    "use: open_clip:ViT-L-14/openai, or transformers:openai/clip-vit-large-patch14.",
                ),
            ],
            outputs=[
                PromptModelType.Output(
                    "prompt_model", "prompt model", tooltip="For Image to Prompt, Distill Prompt and others."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, device: str, hub_model: str = "") -> tuple[Any, ...]:
        """Changes when the files of a local model change."""
        name = local_models().get(model)
        if name is None:
            return (model, hub_model)
        place = Path(name.removeprefix("transformers:").removeprefix("open_clip:local-dir:"))
        files = sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else []
        return (name, hub_model, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))

    @classmethod
    def execute(cls, model: str, dtype: str, device: str, hub_model: str = "") -> io.NodeOutput:
        """The model, not opened yet."""
        import comfy.model_management as management

        name = checked_name(hub_model) if hub_model.strip() else local_models().get(model, model)
        place = torch.device("cpu") if device == "cpu" else management.get_torch_device()
        return io.NodeOutput(PromptModel(name, getattr(torch, dtype), place))
