"""The parts of ComfyUI's interfaces that the nodes use, as small as they can be."""

import sys
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _Port:
    def __init__(self, id: str, display_name: str | None = None, **options: Any) -> None:
        self.id, self.display, self.options = id, display_name, options
        self.advanced: bool | None = None


class _Kind:
    Input = type("Input", (_Port,), {})
    Output = type("Output", (_Port,), {})


class _Schema:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(
            {
                "outputs": [],
                "hidden": [],
                "is_input_list": False,
                "is_output_node": False,
                "search_aliases": [],
                **fields,
            }
        )


class _NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class _ComfyNode:
    hidden = types.SimpleNamespace(unique_id="7")


class InterruptProcessingException(Exception):
    """As ComfyUI's own."""


class Patcher:
    """A ModelPatcher that remembers its callbacks."""

    def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
        self.model, self.load_device, self.callbacks = model, load_device, []

    def model_size(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def add_callback(self, kind: str, callback: Any) -> None:
        self.callbacks.append(callback)

    def detach(self) -> None:
        for callback in self.callbacks:
            callback(self, True)


class Loaded:
    """An entry of `current_loaded_models`, which keeps no model alive."""

    def __init__(self, model: Patcher) -> None:
        self._model = weakref.ref(model)

    @property
    def model(self) -> Any:
        return self._model()

    def model_unload(self) -> None:
        self.model.detach()
        assert self.model is not None, "ComfyUI still counts it among the loaded models"


class World:
    """What a test looks at: progress, texts, loaded models; and the button that it may press."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress: list[tuple[int, int]] = []
        self.texts: list[tuple[str, Any]] = []
        self.loaded: list[Loaded] = []
        self.interrupt_at: int | None = None
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.interrupt_at is not None and self.checks >= self.interrupt_at:
            raise InterruptProcessingException

    def load(self, patchers: list[Patcher], force_full_load: bool = False) -> None:
        for patcher in patchers:
            if all(entry.model is not patcher for entry in self.loaded):
                self.loaded.append(Loaded(patcher))


@contextmanager
def comfyui(folder: Path) -> Iterator[World]:
    """`comfy`, `comfy_api`, `folder_paths` and `server` in sys.modules while the block runs."""
    import torch

    world = World(folder)
    kinds = (
        "Image",
        "Mask",
        "Model",
        "Clip",
        "Vae",
        "ClipVisionOutput",
        "String",
        "Int",
        "Float",
        "Boolean",
        "Combo",
        "Sampler",
        "Sigmas",
    )
    io = types.SimpleNamespace(
        **{kind: type(kind, (_Kind,), {}) for kind in kinds}, Custom=lambda name: type(name, (_Kind,), {"name": name}),
        Schema=_Schema, NodeOutput=_NodeOutput, ComfyNode=_ComfyNode, Input=_Port, Output=_Port,
        Hidden=types.SimpleNamespace(unique_id="UNIQUE_ID"), ControlAfterGenerate=types.SimpleNamespace(fixed="fixed"),
    )  # fmt: skip
    bar = type(
        "ProgressBar",
        (),
        {
            "__init__": lambda self, total, node_id=None: None,
            "update_absolute": lambda self, value, total=None: world.progress.append((value, total)),
        },
    )
    management = types.SimpleNamespace(
        throw_exception_if_processing_interrupted=world.check,
        InterruptProcessingException=InterruptProcessingException,
        intermediate_device=lambda: torch.device("cpu"),
        load_models_gpu=world.load,
        current_loaded_models=world.loaded,
        get_torch_device=lambda: torch.device("cpu"),
        soft_empty_cache=lambda: None,
        free_memory=lambda size, device: None,
    )
    paths = types.SimpleNamespace(
        models_dir=str(folder / "models"),
        folders={"prompt_models": [str(folder / "models" / "prompt_models")], "embeddings": [str(folder / "emb")]},
        get_input_directory=lambda: str(folder / "input"),
        get_output_directory=lambda: str(folder / "output"),
    )
    paths.get_folder_paths = lambda name: paths.folders[name]
    paths.add_model_folder_path = lambda name, path: paths.folders.setdefault(name, []).append(path)
    paths.get_filename_list = lambda name: [p.name for root in paths.folders[name] for p in Path(root).glob("*.*")]
    paths.get_full_path = lambda name, file: next(
        (str(Path(root) / file) for root in paths.folders[name] if (Path(root) / file).is_file()), None
    )
    instance = types.SimpleNamespace(send_progress_text=lambda text, node: world.texts.append((text, node)))
    fakes: dict[str, Any] = {
        "comfy": types.ModuleType("comfy"),
        "comfy.utils": types.SimpleNamespace(ProgressBar=bar),
        "comfy.model_management": management,
        "comfy.sample": types.SimpleNamespace(
            fix_empty_latent_channels=lambda model, latent: latent,
            prepare_noise=lambda latent, seed: torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)),
            sample_custom=lambda model, *given, **options: model.sample(*given, **options),
        ),
        "comfy.model_patcher": types.SimpleNamespace(ModelPatcher=Patcher),
        "comfy.patcher_extension": types.SimpleNamespace(CallbacksMP=types.SimpleNamespace(ON_DETACH="on_detach")),
        "comfy_api": types.ModuleType("comfy_api"),
        "comfy_api.latest": types.SimpleNamespace(io=io, ComfyExtension=object),
        "folder_paths": paths,
        "server": types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance)),
    }
    for name, module in fakes.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(fakes[parent], child, module)
    kept = {name: sys.modules.get(name) for name in fakes}
    nodes = [name for name in sys.modules if name.partition(".")[0] == "comfyui_nodes"]
    for name in nodes:
        del sys.modules[name]
    sys.modules.update(fakes)
    for name in ("input", "output", "emb", "models/prompt_models"):
        (folder / name).mkdir(parents=True)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    try:
        yield world
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.partition(".")[0] == "comfyui_nodes"]:
            del sys.modules[name]
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
