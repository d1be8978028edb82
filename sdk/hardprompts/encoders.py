"""What a search needs of a model: protocols for frozen networks, and the Backend that bundles them."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from hardprompts import plugins
from hardprompts.devices import (
    available_devices,
    checked_device,
    checked_dtype,
    default_device,
    is_available,
    keep_to_quota,
    release,
)
from hardprompts.errors import BackendError, NonFiniteError, quoted, warn_user
from hardprompts.hub.machine import FOLDERS
from hardprompts.noise import Conditioning, NoiseSchedule
from hardprompts.towers.shared import SharedModels
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import check_text


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text tower, driven from token embeddings; gradients flow to the embeddings only.

    Attributes:
        vocabulary: its tokens.
        max_tokens: tokens that a text may have, special tokens not counted.
    """

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def max_tokens(self) -> int: ...

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts given as the embeddings of all their tokens, without special tokens.

        The encoder adds its own special tokens and padding. Not normalized.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts by the model's own tokenizer and forward pass. Not normalized."""
        ...


@runtime_checkable
class StateEncoder(Protocol):
    """What a text encoder offers if it gives its states place by place, as denoisers take them. Optional."""

    def encode_states(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch places states"]:
        """The states at every place of the padded context, of texts given as the embeddings of all their tokens.

        As many places whatever the number of tokens, which may be 0.
        """
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen image tower with its preprocessing."""

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        """Features of RGB images of any size, in the space of the text tower's. Not normalized."""
        ...


@runtime_checkable
class ClassifyingEncoder(Protocol):
    """What an image encoder offers if it is a classifier, and knows how sure it is of what it sees. Optional.

    Attributes:
        class_features: of the names of its classes, in the space of the text tower's, of unit length.
    """

    @property
    def class_features(self) -> Float[Tensor, "classes features"]: ...

    def class_probabilities(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch classes"]:
        """How likely something of each class is in RGB images of any size; several may be."""
        ...


@runtime_checkable
class ConditioningEncoder(Protocol):
    """The frozen text encoders of a denoiser, driven from token embeddings; gradients flow to the embeddings only.

    Attributes:
        name: what it is called, in messages and results.
        vocabulary: the tokens of the text encoders that the embeddings are for.
        max_tokens: tokens that a prompt may have, special tokens not counted.
    """

    @property
    def name(self) -> str: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def max_tokens(self) -> int: ...

    def condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Conditioning:
        """The conditioning of prompts given as the embeddings of all their tokens.

        The encoder adds its own special tokens and padding. There may be no tokens at all,
        which is the empty prompt.
        """
        ...

    def condition_text(self, text: str) -> Conditioning:
        """The conditioning of one text, by the model's own tokenizers and forward pass."""
        ...


@runtime_checkable
class SeparateTexts(Protocol):
    """What a denoiser offers if some of its text encoders may read a text of their own. Optional.

    Attributes:
        texts: what some kinds of its text encoders read, whatever the prompt is, by their kind ("clip", "t5").
    """

    @property
    def texts(self) -> Mapping[str, str]: ...

    def condition_whole(self, text: str) -> Conditioning:
        """The conditioning where all text encoders read one text."""
        ...


def own_texts(predictor: object) -> dict[str, str]:
    """What some text encoders of a denoiser read whatever the prompt is, by their kind; nothing of other things."""
    return dict(predictor.texts) if isinstance(predictor, SeparateTexts) else {}


@runtime_checkable
class DualEncoderSource(Protocol):
    """What a denoiser offers if it knows the dual encoder that its text encoders come from. Optional."""

    def dual_encoder(self) -> "Backend | None":
        """The dual encoder that its text encoders come from; None where none is known.

        Raises:
            BackendError: it is known, and cannot be opened.
        """
        ...


@runtime_checkable
class NoisePredictor(ConditioningEncoder, Protocol):
    """A frozen denoiser with its text encoders, driven from token embeddings; gradients flow to the embeddings only.

    Its work is in two stages, so that only one of text encoders and denoiser need be in memory
    at a time: `condition` runs the text encoders, `predict` the denoiser. A caller that wants
    gradients takes them through each stage by itself.

    Attributes:
        schedule: the steps of noise, and what is predicted at them.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "images ..."]:
        """The clean latents of RGB images, scaled as the denoiser knows them.

        An image is scaled so that it covers the model's picture, and cropped in the middle.
        """
        ...

    def predict(
        self,
        noisy: Float[Tensor, "rows ..."],
        timesteps: Float[Tensor, " rows"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "rows ..."]:
        """What the denoiser predicts of noised latents, one prompt for each row, without guidance."""
        ...


#: What a language model predicts where: the next token of its input ("causal"), the token that stands
#: masked at a place ("masked"), or the next token of a decoder that has read the input ("seq2seq").
LanguageModelKind = Literal["causal", "masked", "seq2seq"]


@runtime_checkable
class LanguageModel(Protocol):
    """A frozen language model, driven from token embeddings; gradients flow to the embeddings only.

    Its work is in two stages, so that the output layer, which is as wide as the vocabulary, is only
    run at the places that are read: `states` runs the network, `logits` the output layer.

    Attributes:
        name: what it is called, in messages and results.
        kind: what is predicted where.
        vocabulary: its tokens.
        max_tokens: tokens of one input, special tokens counted; of a seq2seq model the encoder's.
        frame: ids that the tokenizer puts before and behind every text; for a causal model those before.
        mask_id: the token that a masked model fills in; of a seq2seq model the first sentinel, where it
            has any; else None.
        output_scale: what the embedding of a token is multiplied by to be its row of the output layer, where
            the two are tied and the layer has neither a bias nor a bound; else None.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> LanguageModelKind: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]: ...

    @property
    def mask_id(self) -> int | None: ...

    @property
    def output_scale(self) -> float | None: ...

    def states(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        decoder_ids: Int[Tensor, "rows decoded"] | None = None,
    ) -> Float[Tensor, "rows places width"]:
        """What the network makes of inputs that are given as the embeddings of all their tokens.

        Args:
            mask: False where a row is padded, at either end; padding changes nothing else.
            decoder_ids: what a seq2seq model has written so far, without its start token; such a
                model then returns one place more than these, and all others one for each token of the input.
        """
        ...

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """The output layer: what is predicted at each of these places, before the softmax."""
        ...


@runtime_checkable
class Prefix(Protocol):
    """What a causal model remembers of inputs that others go on behind: its keys and values."""

    def of_rows(self, rows: Int[Tensor, " chosen"]) -> "Prefix":
        """The same for some of the rows, each as often as it is named."""
        ...


@runtime_checkable
class PrefixReader(LanguageModel, Protocol):
    """What a causal language model offers if it can go on behind inputs that it has read already. Optional.

    Attributes:
        max_shared_tokens: of a row, with any padding in its middle, up to which the states are those of `states`;
            0: none.
    """

    @property
    def max_shared_tokens(self) -> int: ...

    def read_on(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        behind: Prefix | None = None,
        *,
        keep: bool = True,
    ) -> tuple[Float[Tensor, "rows tokens width"], Prefix | None]:
        """The states of inputs behind others, and all of it as something to go on behind.

        Gradients reach what was read before, too.

        Args:
            mask: False where a row is padded.
            behind: what was read before, one row for each; None: nothing.
            keep: False: nothing will go on behind, which saves memory; None is returned for it.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class NoTextEncoder:
    """Stands where a model has no text tower: it knows the tokens, and says so when features are asked for.

    Attributes:
        name: of the model, for messages.
    """

    name: str
    vocabulary: Vocabulary
    max_tokens: int

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Raises BackendError."""
        raise self._error()

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Raises BackendError."""
        raise self._error()

    def _error(self) -> BackendError:
        return BackendError(
            f"{self.name} is a language model and gives texts no features to compare with images; "
            "use it with ClassifierPromptTuner, or pass a CLIP here"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Backend:
    """What one model name opens to, on one device and in one dtype.

    Attributes:
        name: "scheme:name", which `load_backend` opens again.
        text_encoder: the text tower.
        image_encoder: the image tower, or None for a model of text alone.
        note: one line that a person should know before use, or "".
        noise_predictor: the denoiser, of a model that makes images; else None.
        language_model: the language model; else None.
        reopening: a function and its arguments that give this model again, in another process too; None for one that
            was put together from parts. `load_backend` and `join_backends` set it.

    A copy is the model itself, and a pickle is how to open it again: neither has the weights.
    """

    name: str
    text_encoder: TextEncoder
    image_encoder: ImageEncoder | None
    device: torch.device
    dtype: torch.dtype = torch.float32
    note: str = ""
    noise_predictor: NoisePredictor | None = None
    language_model: LanguageModel | None = None
    # Not an argument: what `dataclasses.replace` makes of an opened model is another one.
    reopening: "tuple[Callable[..., Backend], tuple[Any, ...]] | None" = dataclasses.field(default=None, init=False)

    def __repr__(self) -> str:
        # Not the fields, among which are all the weights.
        return f"Backend({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"

    def __copy__(self) -> "Backend":
        return self  # it is frozen, and a second one would double its memory for nothing

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backend":
        return self

    def __reduce__(self) -> "tuple[Callable[..., Backend], tuple[Any, ...]]":
        if self.reopening is None:
            raise BackendError(
                f"{self!r} was not opened by a name, so a pickle cannot say how to open it again, and weights are not "
                "pickled. Save the model into a folder and give its name instead, such as transformers:FOLDER; or name "
                "a function that opens it, backend.reopened_by(function, *arguments); jobs of joblib share an open "
                'model if they are threads: joblib.parallel_config("threading")'
            )
        return self.reopening

    def reopened_by(self, opening: "Callable[..., Backend]", *arguments: Any) -> "Backend":
        """This model, of which a pickle says that `opening(*arguments)` gives it again.

        Args:
            opening: a function of a module, as all that pickles name.
        """
        own = dataclasses.replace(self)
        object.__setattr__(own, "reopening", (opening, arguments))
        return own

    @classmethod
    def of_language_model(
        cls, model: LanguageModel, *, device: torch.device, dtype: torch.dtype, note: str = ""
    ) -> "Backend":
        """The backend of a model that only reads and writes text."""
        tower = NoTextEncoder(model.name, model.vocabulary, model.max_tokens)
        return cls(model.name, tower, None, device, dtype, note, language_model=model)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the text tower."""
        return self.text_encoder.vocabulary

    @functools.cached_property
    def feature_width(self) -> int:
        """Numbers in the features of a text, or an image.

        Raises:
            BackendError: a language model, which gives texts no features.
        """
        return int(self.encode_texts(["a"]).shape[1])

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 64) -> Float[Tensor, "batch features"]:
        """Unit features of RGB images, in float32.

        Raises:
            BackendError: the model has no image tower.
            NonFiniteError: its numbers are NaN or infinite.
        """
        if self.image_encoder is None:
            raise BackendError(f"{self.name} has no image tower, so images cannot be compared with text")
        features = []
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                features.append(normalize(self.image_encoder.encode_images(images[start : start + batch_size])))
        found = torch.cat(features)
        if not found.isfinite().all():
            bad = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
            raise NonFiniteError(
                f"{self.name}: the features of image {bad[0] + 1} of {len(images)} are NaN or infinite in "
                f"{self.dtype}; load it with dtype=torch.float32, or get its files again if they are so there, too"
            )
        return found

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "batch features"]:
        """Unit features of texts, in float32, by the model's own tokenizer and forward pass.

        Warns (UserWarning) of texts that are longer than the model reads; it does not see what is behind.

        Raises:
            ValueError: half of a character is in one of them.
        """
        check_text("the text", texts[0] if len(texts) == 1 else list(texts))
        self._warn_of_cut(texts)
        features = []
        with torch.no_grad():
            for start in range(0, len(texts), batch_size):
                features.append(normalize(self.text_encoder.encode_text(list(texts[start : start + batch_size]))))
        return torch.cat(features)

    def _warn_of_cut(self, texts: Sequence[str]) -> None:
        room = self.text_encoder.max_tokens
        # Only what is long in bytes can be long in tokens.
        perhaps = [text for text in texts if len(text.encode("utf-8", "replace")) > room]
        cut = [(text, count) for text in perhaps if (count := len(self.vocabulary.encode(text))) > room]
        if cut:
            text, count = cut[0]
            warn_user(
                f"{self.name} reads the first {room} tokens of a text, and {len(cut):,} of {len(texts):,} have more: "
                f"{quoted(text)} has {count:,}"
            )


def several(models: Any) -> list["str | Backend"]:
    """The models that a front door was given, names and open ones, as a list.

    Raises:
        BackendError: something else, such as a network itself, with what to do.
    """
    given = (
        [models] if isinstance(models, str | Backend) else list(models) if isinstance(models, Sequence) else [models]
    )
    wrong = next((model for model in given if not isinstance(model, str | Backend)), None)
    if wrong is not None:
        raise BackendError(
            f"a {type(wrong).__name__} is not a model's name, nor a Backend; make one of a network in memory with "
            "hardprompts_transformers.backend.from_model(model, tokenizer, image_processor, name=...) or "
            "hardprompts_openclip.backend.from_model(model, tokenizer, preprocess), and search through a pipeline with "
            "hardprompts_diffusers.enable_prompt_inversion(pipe).invert_prompt(image)"
        )
    return given


@runtime_checkable
class OpenBackend(Protocol):
    """How a plugin opens the models of its scheme."""

    def __call__(self, name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
        """The model `name` (what stands behind "scheme:"), which may be empty.

        Further keyword arguments, with defaults, are options of the scheme's own; `load_backend` passes them on.

        Raises:
            BackendError: the model is unknown, missing, damaged or of another architecture.
        """
        ...


def normalize(features: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """The features at unit length, in float32."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def load_backend(
    name: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> Backend:
    """The model that `name` stands for, frozen, on one device and in one dtype.

    In a container with a quota of processors, torch uses no more threads than that from here on, unless
    `OMP_NUM_THREADS` says how many.

    Args:
        name: "scheme" or "scheme:name", for example "emoji", "open_clip:ViT-L-14/openai" or
            "transformers:openai/clip-vit-large-patch14". `hardprompts.backends()` lists the schemes.
        device: default: CUDA where there is one, then MPS, then the CPU.
        dtype: default float32. Half precision saves memory, and time on GPUs.
        options: of the scheme's own, such as `gradient_checkpointing=True` for "transformers:", which trades time for
            memory with large language models.

    Raises:
        UnknownName: no plugin has this scheme.
        BackendError: there is no such device, or it cannot calculate in this dtype; or the plugin cannot open the
            model, or has no such option; MissingExtra if a package is missing.
    """

    if not isinstance(name, str):
        raise TypeError(
            f"a model must be a name such as 'emoji' or a Backend, got {type(name).__name__}; a folder is given as "
            "'transformers:FOLDER', and a model of a library by its plugin's from_model"
        )
    if FOLDERS in name:
        raise BackendError(
            f"{name!r} stands for a folder or file of the machine that this was shared from; pass the place where you "
            "have that model, or its name on the Hub"
        )
    opening, rest = plugins.opening_of("backends", "model", name, options)
    chosen = checked_device(device)  # before any file is opened, whose reading would be blamed for it
    keep_to_quota()
    precision = checked_dtype(dtype, chosen)
    with torch.inference_mode(False):  # through weights that are made in it no gradients could flow later
        opened: Backend = opening(rest, device=chosen, dtype=precision, **options)
    return opened.reopened_by(_unpickled, name, str(chosen), dtype, options)


def opened_backend(
    model: "str | Backend", *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Backend:
    """The model itself, or the one that is called so; see `load_backend`."""
    return model if isinstance(model, Backend) else load_backend(model, device=device, dtype=dtype)


# --- models that are shared ---------------------------------------------------------------

#: Models that stay open for the next estimator though none uses them: the one of a search, and one to compare with.
KEPT_MODELS = 2

_SHARED: SharedModels[Backend] = SharedModels(KEPT_MODELS)


def shared_backend(
    name: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
    user: object | None = None,
    opening: Callable[..., Backend] = load_backend,
) -> Backend:
    """The model of `load_backend`, opened once for all that ask for it, whatever thread they are in.

    A model that is a folder or a file is opened again when its files have changed.

    Args:
        options: those of the scheme.
        user: what asks for it, such as an estimator: the model stays open, and the same, while that lives, and for
            the next one; see `KEPT_MODELS`. None: it closes when nothing holds it.
        opening: what opens it; another one opens other models.

    The others and the errors are those of `load_backend`.
    """
    request = (name, None if device is None else str(device), dtype, repr(options or {}))
    held = None if user is None else _SHARED.held_by(user, request)
    if held is not None:
        return held
    scheme, _, rest = name.partition(":")
    place = str(checked_device(device))
    key = (opening, _opener(scheme), rest, place, dtype or torch.float32, repr(options or {}), _files(rest))
    found = _SHARED.opened(key, lambda: opening(name, device=device, dtype=dtype, **(options or {})))
    if user is not None:
        _SHARED.keep(user, request, found)
    return found


def close_models() -> None:
    """Lets go of the models that are kept open for estimators; a fitted one opens its model again when it is used.

    What you hold yourself, such as a `Backend`, stays open.
    """
    _SHARED.clear()
    release()


def _opener(scheme: str) -> Hashable:
    """What tells that another plugin has taken a scheme over."""
    opener = backends().get(scheme)
    return (scheme, *(getattr(opener, part, None) for part in ("__module__", "__qualname__")))


def _files(name: str) -> Hashable:
    """What tells that the files of a model have changed; None, where it has none of its own."""
    if not name or not os.path.exists(name):
        return None
    entries = [name] if os.path.isfile(name) else sorted(entry.path for entry in os.scandir(name))
    stats = [(path, os.stat(path)) for path in entries if os.path.exists(path)]
    return (os.path.realpath(name), *((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


def _unpickled(name: str, device: str, dtype: torch.dtype | None, options: Mapping[str, Any]) -> Backend:
    """The model of a pickle, on the device that it was on; on the default one where this machine has no such."""
    place = available_or_default(device, f"{name} was pickled on")
    return shared_backend(name, device=place, dtype=dtype, options=options)


def available_or_default(device: str, what: str) -> str:
    """A device that a pickle speaks of; with a warning the default one, where this machine has no such.

    Args:
        what: of which it is the device, for the warning.
    """
    if is_available(device):
        return device
    default = str(default_device())
    there = ", ".join(available_devices())
    warnings.warn(f"{what} {device}, which is not here (there are {there}); it opens on {default}", stacklevel=2)
    return default


# --- several encoders as one --------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _JointTextEncoder:
    encoders: tuple[TextEncoder, ...]
    scales: tuple[float, ...]
    vocabulary: Vocabulary

    @property
    def max_tokens(self) -> int:
        return min(encoder.max_tokens for encoder in self.encoders)

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        parts = embeddings.split([sum(e.vocabulary.widths) for e in self.encoders], dim=-1)
        return _side_by_side([e.encode(part) for e, part in zip(self.encoders, parts, strict=True)], self.scales)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        return _side_by_side([encoder.encode_text(texts) for encoder in self.encoders], self.scales)


@dataclasses.dataclass(frozen=True, eq=False)
class _JointImageEncoder:
    encoders: tuple[ImageEncoder, ...]
    scales: tuple[float, ...]

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        return _side_by_side([encoder.encode_images(images) for encoder in self.encoders], self.scales)


def _side_by_side(features: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    # Unit vectors scaled by the roots of the weights: the cosine of two such rows is the weighted mean of cosines.
    return torch.cat([normalize(f) * s for f, s in zip(features, scales, strict=True)], dim=-1)


def join_backends(backends: Sequence[Backend], weights: Sequence[float] | None = None) -> Backend:
    """Several models as one, whose similarity is the weighted mean of theirs.

    One id sequence is searched through all tables at once, so their tokenizers must agree
    (every CLIP does). A prompt that convinces several models overfits none of them.

    Args:
        weights: one positive number per model; default all equal.

    Raises:
        BackendError: no models, or a model without an image tower beside one that has one.
        VocabularyError: the tokenizers disagree.
    """
    if not backends:
        raise BackendError("no backends to join")
    if len(backends) == 1:
        return backends[0]
    shares = [1.0] * len(backends) if weights is None else list(weights)
    if len(shares) != len(backends) or min(shares) <= 0:
        raise ValueError(f"weights must be {len(backends)} positive numbers, got {shares}")
    scales = tuple((share / sum(shares)) ** 0.5 for share in shares)
    towers = tuple(backend.image_encoder for backend in backends)
    images = tuple(tower for tower in towers if tower is not None)
    if images and len(images) < len(towers):
        raise BackendError("some of these models have an image tower and some have none; they cannot be joined")
    texts = tuple(backend.text_encoder for backend in backends)
    joined = Backend(
        name="+".join(backend.name for backend in backends),
        text_encoder=_JointTextEncoder(texts, scales, Vocabulary.joint([t.vocabulary for t in texts])),
        image_encoder=_JointImageEncoder(images, scales) if images else None,
        device=backends[0].device,
        dtype=backends[0].dtype,
        note=" ".join(dict.fromkeys(backend.note for backend in backends if backend.note)),
    )
    return joined.reopened_by(join_backends, tuple(backends), tuple(shares))


#: What knows images when nobody names a model: the first of these that can be opened here.
PREFERRED_MODELS = ("photo", "emoji")


def backends() -> dict[str, OpenBackend]:
    """The ways to open a model, by scheme."""
    return plugins.collect("backends")


def default_model() -> str:
    """What knows images when nobody names a model: the first of `PREFERRED_MODELS` that is installed.

    The last of them, where none is.
    """
    return next((scheme for scheme in PREFERRED_MODELS if is_installed(scheme)), PREFERRED_MODELS[-1])


def is_installed(scheme: str) -> bool:
    """Whether a plugin adds this scheme, and has all that it needs for it.

    A plugin whose models need packages that may be missing says so with a function `installed`, which returns a bool
    and imports nothing heavy; of others it is taken for granted.
    """
    for implementation in plugins.plugin_manager().hook.backends.get_hookimpls():
        schemes: Any = implementation.function()
        if scheme in schemes:
            installed = getattr(implementation.plugin, "installed", None)
            return installed is None or bool(installed())
    return False


#: Texts whose features tell one text tower from another, and the tokens of each.
PROBES, PROBE_TOKENS = 8, 3


def probe_texts(vocabulary: Vocabulary) -> list[str]:
    """Texts whose features tell one text tower from another: of allowed tokens from all over a vocabulary."""
    allowed, total = vocabulary.allowed_ids.tolist(), PROBES * PROBE_TOKENS
    spread = [allowed[len(allowed) * place // total] for place in range(total)]
    return [vocabulary.decode(spread[start::PROBES]) for start in range(PROBES)]
