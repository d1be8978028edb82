"""Opens open_clip models, and drives their text towers from token embeddings."""

import dataclasses
import difflib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import open_clip
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from hardprompts.causes.failures import cause_of, chain
from hardprompts.causes.networks import check_weights
from hardprompts.causes.standins import read_json
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, FileFormatError
from hardprompts.hub.reasons import hub_cause, local_cause
from hardprompts.towers import check_reachable, is_untouched, matrix_dtype, unwrapped, watched_gradients
from hardprompts.vocabulary import Vocabulary
from hardprompts_openclip.tokenizers import adapt
from hardprompts_openclip.towers import (
    CausalTower,
    HookedTower,
    Layout,
    context_of,
    text_module,
    token_embedding,
)

SCHEME = "open_clip"
LOCAL_DIR, HUB = "local-dir:", "hf-hub:"
CONFIG_FILE = "open_clip_config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz")
#: Pure, since open_clip's mixed precisions leave several towers' parts in dtypes that do not fit together.
PRECISIONS = {torch.float32: "fp32", torch.float16: "pure_fp16", torch.bfloat16: "pure_bf16"}

#: A word that every tokenizer has as one token; texts of it tell where a tokenizer puts a text's tokens.
PROBE_WORDS = ("a", "the", "dog", "in", "1")


class OpenClipTextEncoder:
    """A text tower of open_clip, driven from token embeddings.

    Attributes:
        vocabulary: its tokens.
        max_tokens: tokens that a text may have, special tokens not counted.
        short_context: True if it stops at the end token, which is exact for causal towers.

    Args:
        name: for messages.

    Raises:
        BackendError: the tokenizer does not fit the model, its features from token embeddings differ from its own, or
            no gradient passes through it.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor], name: str) -> None:
        self._model, self._name = model, name
        self._tokenize = tokenizer
        embedding: Any = token_embedding(model)
        self._device = embedding.weight.device
        adapter, special_ids = adapt(tokenizer)
        self.vocabulary = Vocabulary.create(_table(embedding), adapter, special_ids)
        self._word = self._probe_word()
        self._layouts: dict[int, Layout] = {}
        context = self._checked_context()
        self.max_tokens = self._find(self._ids([self._text(context)])[0], context).num_tokens
        self.short_context = CausalTower.supports(model, self._layout(1))
        self._tower = CausalTower(model) if self.short_context else HookedTower(model)
        self._check_forward()

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts given as the embeddings of all their tokens, without special tokens.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        return self._tower(embeddings, self._layout(embeddings.shape[1]))

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts by the model's own tokenizer and `encode_text`; longer texts are cut off, as there."""
        ids = self._ids(list(texts)).to(self._device)
        features: Tensor = self._model.encode_text(ids, normalize=False)  # type: ignore[operator]
        return features

    def _ids(self, texts: list[str]) -> Tensor:
        return self._tokenize(texts)

    def _text(self, num_tokens: int) -> str:
        return " ".join([self._word] * num_tokens)

    def _probe_word(self) -> str:
        for word in PROBE_WORDS:
            pair = self.vocabulary.encode(f"{word} {word}")
            if len(pair) == 2 and max(pair) < len(self.vocabulary):
                return word
        raise BackendError(
            f"the tokenizer does not fit the model: it gives ids up to {max(pair, default=-1)}, the model's table has "
            f"{len(self.vocabulary)} rows; pass the tokenizer that open_clip.get_tokenizer returns for this model"
        )

    def _checked_context(self) -> int:
        """The places of a text as the tokenizer gives it, special tokens and padding included.

        Raises:
            BackendError: the tower has another number of them, or no embeddings for the special tokens.
        """
        ids, places = self._ids([""])[0], context_of(self._model)
        if places is not None and len(ids) != places:
            raise BackendError(
                f"{self._name}: the tokenizer gives texts of {len(ids)} places, the text tower has {places}; pass the "
                f"tokenizer of this model, or one of that length: open_clip.get_tokenizer(..., context_length={places})"
            )
        if int(ids.max()) >= len(self.vocabulary):
            raise BackendError(
                f"{self._name}: the tokenizer's special tokens reach id {int(ids.max())}, the model's table has "
                f"{len(self.vocabulary)} rows; pass the tokenizer that open_clip.get_tokenizer returns for this model"
            )
        return len(ids)

    def _check_forward(self) -> None:
        """Compares `encode` with the model's own forward pass on two short texts, and looks that gradients pass.

        A new release of open_clip, another tokenizer or a change in the tower could make them differ, and every
        number of a search would then be wrong.

        Raises:
            BackendError: they differ, or a layer stops gradients.
        """
        allowed = self.vocabulary.allowed_ids
        words = [self.vocabulary.decode([int(i)]) for i in allowed[:: len(allowed) // 4 + 1]]
        features = []
        for text in (words[0], " ".join(words)):
            ids = torch.tensor([self.vocabulary.encode(text)[: self.max_tokens]], device=self._device)
            try:
                with torch.no_grad():
                    found = self.encode(self.vocabulary.embed(ids)).float()
                    expected = self.encode_text([text]).float()
            except (RuntimeError, IndexError, AttributeError, TypeError) as error:
                if found_cause := cause_of(error):
                    raise BackendError(f"{self._name}: {found_cause}") from error
                raise BackendError(
                    f"{self._name}: the model's own encode_text fails on {text!r}: {_shortened(str(error))}; pass a "
                    "model that encodes texts, on one device and in one dtype, with its own tokenizer"
                ) from error
            tolerance = 1e-3 if self.vocabulary.table.dtype.itemsize > 2 else 5e-2
            difference = float((found - expected).norm() / expected.norm())
            if not difference <= tolerance:  # also when it is NaN
                raise BackendError(
                    f"{self._name}: features from token embeddings differ from encode_text by {difference:.2g} (more "
                    f"than {tolerance:g}); the weights are not finite, the tokenizer is not the model's, or open_clip "
                    f"{open_clip.__version__} or a change in the tower computes this model in a new way"
                )
            features.append(expected)
        if torch.allclose(features[0], features[1], rtol=1e-6, atol=0):
            raise BackendError(
                f"{self._name}: two different texts have the same features, so they are read out where the tower does "
                "not see the text; the tokenizer ends texts with another token than the model was trained with: pass "
                "the tokenizer that open_clip.get_tokenizer returns for this model"
            )
        if not isinstance(self._tower, CausalTower) or not self._tower.is_frozen:
            with torch.enable_grad(), watched_gradients(text_module(self._model), self._name):
                leaf = self.vocabulary.embed(ids).clone().requires_grad_()
                if not self.encode(leaf).requires_grad:
                    raise BackendError(f"{self._name}: no gradient passes through the text tower; load it without that")

    def _layout(self, num_tokens: int) -> Layout:
        if num_tokens not in self._layouts:
            if num_tokens > self.max_tokens:
                raise ValueError(f"{num_tokens} tokens do not fit; this model takes up to {self.max_tokens}")
            ids = self._ids([self._text(num_tokens)])[0]
            layout = self._find(ids, num_tokens) if num_tokens else Layout(ids, self._layout(1).start, 0)
            self._layouts[num_tokens] = dataclasses.replace(layout, ids=ids.to(self._device))
        return self._layouts[num_tokens]

    def _find(self, ids: Tensor, num_tokens: int) -> Layout:
        """Where the tokens of `_text(num_tokens)`, or as many of them as were not cut off, are in `ids`."""
        row, wanted = ids.tolist(), self.vocabulary.encode(self._text(num_tokens))
        start = next(i for i, token_id in enumerate(row) if token_id == wanted[0])
        found = 0
        while found < len(wanted) and start + found < len(row) and row[start + found] == wanted[found]:
            found += 1
        return Layout(ids, start, found)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenClipImageEncoder:
    """An image tower of open_clip with its preprocessing."""

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        """Features of RGB images of any size. Not normalized."""
        visual: Any = self.model.visual
        device = next(visual.parameters()).device
        pixels = torch.stack([self.preprocess(image) for image in images])
        features: Tensor = self.model.encode_image(  # type: ignore[operator]
            pixels.to(device=device, dtype=matrix_dtype(visual, torch.float32)), normalize=False
        )
        return features


def from_model(
    model: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    *,
    name: str = "an open_clip model of your own",
    note: str = "",
) -> Backend:
    """A model that is already built, as a backend; it is frozen in place, and must stay as and where it is.

    Args:
        model: `CLIP`, `CustomTextCLIP` or `CoCa` of open_clip, on its device and in its dtype. It may be compiled, in
            `DataParallel`, or have adapters, hooks and quantized layers, through which gradients pass.
        tokenizer: what `open_clip.get_tokenizer` returns for it.
        preprocess: an image to (channels, height, width); None: the backend has no image tower.
        name: shown in results; a name that `load_backend` opens, if there is one.

    Raises:
        BackendError: the tokenizer does not fit the model, in its length or its tokens; features from token embeddings
            differ from the model's own; its weights are not there (offloaded, sharded); or no gradient passes through.
    """
    model = unwrapped(model)
    if not callable(getattr(model, "encode_text", None)):
        raise BackendError(
            f"{name}: a {type(model).__name__} cannot be used; pass a CLIP, CustomTextCLIP or CoCa of open_clip"
        )
    check_reachable(text_module(model), name)
    check_weights(model, name)
    model.eval().requires_grad_(False)
    text_encoder = OpenClipTextEncoder(model, tokenizer, name)
    return Backend(
        name=name,
        text_encoder=text_encoder,
        image_encoder=None if preprocess is None else OpenClipImageEncoder(model, preprocess),
        device=text_encoder.vocabulary.table.device,
        dtype=matrix_dtype(text_module(model), text_encoder.vocabulary.table.dtype),
        note=note,
    )


def load(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
    """The model that `name` stands for; see the package's docstring for the spellings.

    Raises:
        BackendError: the model is unknown, missing, damaged or of another architecture, or the
            Hub cannot be reached.
    """
    if dtype not in PRECISIONS:
        raise BackendError(f"open_clip models run in float32, float16 or bfloat16, not in {dtype}")
    options: dict[str, Any] = {}
    note = ""
    if name.startswith(LOCAL_DIR):
        _check_folder(name.removeprefix(LOCAL_DIR))
    if name.startswith((LOCAL_DIR, HUB)):
        source = model_name = name
    else:
        model_name, weights = _split(name)
        if open_clip.is_pretrained_cfg(model_name, weights):
            options["pretrained"] = weights
            # open_clip only warns when a tag's weights need the other activation.
            options["force_quick_gelu"] = bool(open_clip.get_pretrained_cfg(model_name, weights).get("quick_gelu"))
        else:
            options["pretrained"] = str(_weights_file(model_name, weights))
            note = _activation_note(model_name)
        source = options["pretrained"]
    with _explained(source):
        model, preprocess = open_clip.create_model_from_pretrained(
            model_name, precision=PRECISIONS[dtype], device=device, **options
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    return from_model(model, tokenizer, preprocess, name=f"{SCHEME}:{name}", note=note)


def _table(embedding: nn.Module) -> Tensor:
    """(vocab, dim) the embeddings as the tower sees them."""
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    if type(embedding) is nn.Embedding and is_untouched(embedding) and embedding.max_norm is None:
        return weight.detach()  # the lookup changes nothing, so the table need not be copied
    with torch.no_grad():
        table: Tensor = embedding(torch.arange(len(weight), device=weight.device))
    return table


# --- names --------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str]:
    """The architecture, and the tag or path behind the first slash.

    Raises:
        BackendError: an unknown architecture, or no weights.
    """
    architecture, _, weights = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        spellings = f"'{SCHEME}:ARCHITECTURE/TAG', '{SCHEME}:{LOCAL_DIR}FOLDER' or '{SCHEME}:{HUB}ORG/NAME'"
        raise BackendError(
            f"open_clip has no architecture {architecture!r}; {_nearest(architecture, known)}. "
            f"Write {spellings}; open_clip.list_models() lists all {len(known)} architectures"
        )
    if not weights:
        raise BackendError(
            f"{architecture!r} is an architecture without weights; {_tags(architecture)}, "
            f"or a file behind the slash: '{SCHEME}:{architecture}//folder/weights.safetensors'"
        )
    return architecture, weights


def _weights_file(architecture: str, weights: str) -> Path:
    """The file that `weights` names.

    Raises:
        BackendError: there is no such tag and no such file.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise BackendError(f"{weights!r} is a folder; open it as '{SCHEME}:{LOCAL_DIR}{weights}'")
    if path.suffix in WEIGHT_SUFFIXES:
        raise BackendError(f"there is no weights file {weights!r}; check the path behind the first slash")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    near = _nearest(weights, tags) if tags else "it has no tags"
    raise BackendError(
        f"{weights!r} is neither a tag of {architecture!r} nor a file; {near}. {_tags(architecture).capitalize()}"
    )


def _tags(architecture: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return f"tags of {architecture}: {', '.join(tags)}" if tags else f"{architecture} has no tags; give a file"


def _nearest(name: str, known: Sequence[str]) -> str:
    folded = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), folded, n=5, cutoff=0.4)
    return f"the nearest: {', '.join(folded[entry] for entry in near)}" if near else "nothing has a similar name"


def _activation_note(architecture: str) -> str:
    if f"{architecture}-quickgelu" not in open_clip.list_models():
        return ""
    return (
        f"Weights of OpenAI, MetaCLIP or DFN need the architecture {architecture}-quickgelu; a file does not tell "
        f"which activation it was trained with."
    )


def _check_folder(folder: str) -> None:
    """Raises a clear error unless `folder` has a configuration and weights.

    Raises:
        BackendError: no folder, no configuration in it, or a damaged one, or no weights.
    """
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise BackendError(f"there is no folder {folder!r}; write '{SCHEME}:{LOCAL_DIR}FOLDER'")
    file = path / CONFIG_FILE
    if not file.is_file():
        raise BackendError(
            f"{folder!r} has no {CONFIG_FILE}; open bare weights as '{SCHEME}:ARCHITECTURE//path/to/file', and a "
            f"folder of transformers' as 'transformers:{folder}'"
        )
    try:
        config = read_json(file)
    except FileFormatError as error:
        raise BackendError(str(error)) from error
    towers = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(towers, dict) or not {"text_cfg", "vision_cfg"} <= towers.keys():
        raise BackendError(
            f"{file} does not describe an open_clip model: it has no model_cfg with text_cfg and vision_cfg; fetch it "
            "again"
        )
    if not any(entry.suffix in (".safetensors", ".bin", ".pth") for entry in path.iterdir()):
        raise BackendError(f"{folder!r} has no weights; put a .safetensors, .bin or .pth file beside {CONFIG_FILE}")


# --- what goes wrong ----------------------------------------------------------------------

#: What open_clip, torch, safetensors and the Hub's client raise while a model is opened.
_FAILURES = (
    OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, EOFError, StopIteration,
    MemoryError, ImportError, pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns whatever goes wrong while a model is opened into one BackendError with a next step."""
    try:
        yield
    except BackendError:
        raise
    except _FAILURES as error:
        found = local_cause(error, source.removeprefix(LOCAL_DIR))
        raise BackendError(f"{source!r}: {found}" if found else _explanation(source, error)) from error


def _explanation(source: str, error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    if "loading state_dict" in text or "size mismatch" in text or isinstance(error, AssertionError):
        details = [line.strip() for line in text.splitlines()[1:3]]
        return (
            f"the weights {source!r} are of another architecture: {_shortened(' '.join(details) or text)}; "
            f"name the architecture that they were trained with"
        )
    if found := hub_cause(error, source.removeprefix(HUB)):
        return (
            f"{source!r} could not be fetched: {found}; or use a model that was fetched before, a file, or "
            f"'{LOCAL_DIR}FOLDER'"
        )
    if any(isinstance(cause, ConnectionError | TimeoutError | HTTPError | URLError) for cause in chain(error)):
        return (
            f"{source!r} could not be fetched: {_shortened(text)}. Check the network; without one, use a model that "
            f"was fetched before, a file, or '{LOCAL_DIR}FOLDER'"
        )
    if not isinstance(error, OSError | ImportError | ValueError):
        return f"the weights {source!r} are damaged or not a model's: {_shortened(text)}; fetch them again"
    return f"{source!r} cannot be opened: {_shortened(text)}"


def _shortened(text: str, limit: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[:limit]}..."
