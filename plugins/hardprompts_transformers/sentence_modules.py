"""What stands behind the transformer of a sentence encoder: pooling, dense layers, unit length; read from its folder.

The files are those that sentence-transformers writes: modules.json names the modules in their order, and each has a
folder of its own with a config.json and, where it has any, its weights. Nothing of that package is needed, and no
class that a repository brings along is ever imported.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from hardprompts.errors import BackendError
from hardprompts_transformers.loading import load

PoolingMode = Literal["mean", "cls", "lasttoken"]

#: The switches that older releases wrote, and the modes of pooling that they stand for.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

#: Activations of dense layers, by the last part of the name that is written for them.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": torch.nn.functional.gelu,
    "SiLU": torch.nn.functional.silu,
    "Sigmoid": torch.sigmoid,
}

#: Types of models with a text and an image tower in one space.
DUAL_ENCODERS = ("clip", "siglip", "siglip2")

#: The modules that are supported, by the last part of their class's name.
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")

#: Settings of the transformer itself; the later names are those of early releases.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclasses.dataclass(frozen=True)
class Pooling:
    """One vector of the states of all tokens, special ones and the prompt included.

    Attributes:
        mode: their mean, the first one, or the last one.
        includes_prompt: False where the states of a prompt are left out.
    """

    mode: PoolingMode = "mean"
    includes_prompt: bool = True

    def __call__(self, states: Float[Tensor, "rows places width"]) -> Float[Tensor, "rows width"]:
        """The vector of each row; no place is padding."""
        if self.mode == "mean":
            return states.float().mean(dim=1).to(states.dtype) if states.dtype.itemsize < 4 else states.mean(dim=1)
        return states[:, 0 if self.mode == "cls" else -1]

    @classmethod
    def read(cls, file: Path) -> "Pooling":
        """The pooling of a config.json, of older or newer releases."""
        config = read_json(file)
        modes = config.get("pooling_mode") or [mode for switch, mode in SWITCHES.items() if config.get(switch)]
        modes = [modes] if isinstance(modes, str) else modes or ["mean"]
        supported = get_args(PoolingMode)
        if len(modes) != 1 or modes[0] not in supported:
            pools = " and ".join(map(str, modes))
            raise BackendError(f"{file} pools by {pools}; supported is one of {', '.join(supported)}")
        return cls(modes[0], config.get("include_prompt", True))


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer with an activation behind it."""

    weight: Float[Tensor, "out width"]
    bias: Float[Tensor, " out"] | None
    activation: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows out"]:
        """What the layer makes of each row."""
        return self.activation(torch.nn.functional.linear(x, self.weight, self.bias))

    @classmethod
    def read(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "Dense":
        """The layer of a folder with config.json and model.safetensors or pytorch_model.bin."""
        config = read_json(folder / "config.json")
        sizes = (config.get("out_features"), config.get("in_features"))
        name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        activation = ACTIVATIONS.get(name.rpartition(".")[2]) if name.startswith("torch.nn.") else None
        if activation is None:
            raise BackendError(
                f"{folder} has the activation {name!r}; supported are {', '.join(ACTIVATIONS)} of torch.nn"
            )
        if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            raise BackendError(f"{folder} is a dense layer with a residual, or of single tokens; neither is supported")
        weights = read_weights(folder)
        expected = (
            {"linear.weight": sizes, "linear.bias": sizes[:1]} if config.get("bias", True) else {"linear.weight": sizes}
        )
        found = {key: tuple(value.shape) for key, value in weights.items()}
        if found != expected:
            raise BackendError(
                f"{folder} has weights {found}, but its config.json describes {expected}; "
                "the files are of different layers: get the folder again"
            )
        bias = weights.get("linear.bias")
        return cls(
            weights["linear.weight"].to(device, dtype), None if bias is None else bias.to(device, dtype), activation
        )


class Normalize:
    """Features at unit length."""

    def __call__(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Each row, divided by its length."""
        return torch.nn.functional.normalize(x, dim=-1)


@dataclasses.dataclass(frozen=True)
class Truncation:
    """The first `width` features alone, of encoders that were trained to be cut."""

    width: int

    def __call__(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows kept"]:
        """The beginning of each row."""
        return x[:, : self.width]


Head = Dense | Normalize | Truncation


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceModules:
    """The modules of a sentence encoder and its settings.

    Attributes:
        transformer: the folder with the transformer and its tokenizer.
        pooling: what makes one vector of its states; None: nothing says so, and its architecture decides.
        heads: what stands behind the pooling, in order.
        max_length: tokens of a text, special ones counted, that the encoder reads; None: as the tokenizer says.
        lower_case: texts are read in lower case, whatever the tokenizer does.
        prompts: texts to put before others, by name.
        default_prompt_name: the one that is put there if none is named.
    """

    transformer: Path
    pooling: Pooling | None = None
    heads: tuple[Head, ...] = ()
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None

    @classmethod
    def read(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "SentenceModules":
        """The modules of a folder; of one without modules.json, the transformer that lies in it.

        Raises:
            BackendError: a file that is missing or damaged, a module that is unknown or in a place where it is not
                supported, or a layer of another width than what it is given.
        """
        if not (folder / "modules.json").is_file():
            return cls(folder)
        (_, transformer), (_, pooling), *rest = _typed_modules(folder)
        settings = next((read_json(file) for name in TRANSFORMER_CONFIGS if (file := transformer / name).is_file()), {})
        task = settings.get("transformer_task", "feature-extraction")
        if task != "feature-extraction":
            raise BackendError(f"{transformer} is a transformer for {task}, which gives texts no features")
        if "text" not in settings.get("modality_config", {"text": {}}):
            raise BackendError(f"{transformer} reads {', '.join(settings['modality_config'])} and no plain text")
        heads: list[Head] = [Dense.read(path, device, dtype) if kind == "Dense" else Normalize() for kind, path in rest]
        general_file = folder / "config_sentence_transformers.json"
        general = read_json(general_file) if general_file.is_file() else {}
        if general.get("truncate_dim"):
            heads.append(Truncation(int(general["truncate_dim"])))
        prompts = {name: text or "" for name, text in (general.get("prompts") or {}).items()}
        return cls(
            transformer, Pooling.read(pooling / "config.json"), tuple(heads), settings.get("max_seq_length"),
            bool(settings.get("do_lower_case", False)), prompts, general.get("default_prompt_name"),
        )  # fmt: skip

    def width(self, states: int) -> int:
        """The width of the features, of a transformer whose states are `states` wide.

        Raises:
            BackendError: a dense layer takes another width than what it is given.
        """
        width = states
        for head in self.heads:
            if isinstance(head, Dense):
                taken = head.weight.shape[1]
                if taken != width:
                    raise BackendError(
                        f"a dense layer of {self.transformer} takes {taken} features and is given {width}; its "
                        "in_features are those of another model: get the folder again"
                    )
                width = head.weight.shape[0]
            elif isinstance(head, Truncation):
                width = min(width, head.width)
        return width


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BackendError: no such file, or something else in it.
    """
    found = load(str(file.parent), file.name, lambda: json.loads(file.read_text(encoding="utf-8")))
    if not isinstance(found, dict):
        raise BackendError(f"{file} holds a {type(found).__name__} and should hold an object; get the file again")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a module's folder, of safetensors or, of older releases, by torch's restricted unpickler.

    Raises:
        BackendError: neither is there, or it is damaged.
    """
    safe, old = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return load(str(folder), safe.name, lambda: load_file(safe))
    return load(str(folder), old.name, lambda: dict(torch.load(old, map_location="cpu", weights_only=True)))


def dual_encoder_folder(folder: Path) -> Path | None:
    """Where the CLIP of an encoder of texts and images lies, such as that of "clip-ViT-B-32"; None of other encoders.

    Raises:
        BackendError: modules.json is damaged, or names a path outside of its folder.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return None
    entries = _entries(file)
    if len(entries) != 1 or not entries[0][0].startswith("sentence_transformers."):
        return None
    place = _inside(folder, [entries[0][1]], file)[0]
    if entries[0][0].rpartition(".")[2] == "CLIPModel":
        return place
    config = place / "config.json"  # newer releases have one class for all that transformers has
    return place if config.is_file() and read_json(config).get("model_type") in DUAL_ENCODERS else None


def _entries(file: Path) -> list[tuple[str, str]]:
    """The class and the path of each module of a modules.json."""
    listed = load(str(file.parent), file.name, lambda: json.loads(file.read_text(encoding="utf-8")))
    try:
        return [(str(entry["type"]), str(entry["path"])) for entry in listed]
    except (TypeError, KeyError) as error:
        raise BackendError(
            f'{file} should list modules, each with a "type" and a "path"; get the file again'
        ) from error


def _inside(folder: Path, paths: Sequence[str], file: Path) -> list[Path]:
    """The places of paths that a modules.json names."""
    places = [(folder / path).resolve() for path in paths]
    if not all(place.is_relative_to(folder.resolve()) for place in places):
        raise BackendError(f"{file} names a path outside of its folder; get the file again from a place that you trust")
    return places


def _typed_modules(folder: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each module of modules.json, which begin with a transformer and a pooling."""
    file = folder / "modules.json"
    entries = _entries(file)
    kinds = [_kind(name, file) for name, _ in entries]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Dense", "Normalize"}.issuperset(kinds[2:]):
        raise BackendError(
            f"{file} has the modules {', '.join(kinds) or 'none'}; supported is a Transformer, then a Pooling, then "
            "any number of Dense and Normalize"
        )
    return list(zip(kinds, _inside(folder, [path for _, path in entries], file), strict=True))


def _kind(name: str, file: Path) -> str:
    kind = name.rpartition(".")[2]
    if name.startswith("sentence_transformers.") and kind in MODULES:
        return kind
    hint = "; it has an image tower too: open its folder 0_CLIPModel as transformers:" if kind == "CLIPModel" else ""
    raise BackendError(f"{file} has a module {name!r}, which is not supported; {', '.join(MODULES)} are{hint}")
