"""One adapter for every other text-to-image pipeline, driven through the pipeline's own call."""

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from diffusers.utils import is_bs4_available, is_ftfy_available, logging
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hardprompts.causes.failures import cause_of
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, HardPromptsError, brief
from hardprompts.noise import Conditioning, NoiseSchedule
from hardprompts.towers import matrix_dtype, tokenizer_of
from hardprompts.vocabulary import Vocabulary
from hardprompts_diffusers.components import (
    bare,
    denoiser_of,
    execution_device,
    modules_of,
    own_texts,
    prompt_argument,
    text_encoders,
    watched_once,
    working,
)
from hardprompts_diffusers.dual_encoders import own_dual_encoder
from hardprompts_diffusers.embeddings import embedding_modules, soft_tokens, vocabulary_of
from hardprompts_diffusers.latents import clean_latents, image_size
from hardprompts_diffusers.schedules import schedule_of
from hardprompts_diffusers.tokens import InContext, TextRecorder, recorded

#: A text that no instruction around a prompt contains, in both cases.
PROBE = "Zqxjkv"

#: More tokens than any text encoder has room for.
MANY = 2000


class _Encoded(Exception):
    """Ends a pipeline's call where the prompt has been encoded."""


class _Predicted(Exception):
    """Ends a pipeline's call where the denoiser has predicted."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """How the pipeline encodes a prompt of so many tokens.

    Attributes:
        text: the prompt that stands for all of them.
        ids, slots: for each encoder that is driven, the whole row of ids, and the prompt's places in it.
        layout: which parts of what `encode_prompt` returns are a prompt's own; see `_layout`.
    """

    text: str
    ids: Mapping[str, Tensor]
    slots: Mapping[str, Tensor]
    layout: Any


@dataclasses.dataclass(frozen=True, eq=False)
class PipelinePredictor:
    """The denoiser of any latent text-to-image pipeline of diffusers, as a `NoisePredictor`.

    The pipeline's own `__call__` does the work, so whatever it does to prompts (instructions, chat
    templates, lower case), to timesteps and to predictions is done here too. It is stopped where
    `encode_prompt` returns, and where the scheduler is given the prediction of its only step.

    Of text encoders with different tokenizers, one group is driven by the embeddings; the others
    read a text of their own, if they have one, or that of the nearest tokens, without gradients. For
    tokens themselves that is exact.

    Attributes:
        pipe: the pipeline; its networks must be frozen (see `components.preserved`).
        height, width: of the pictures, in pixels.
        driven: the suffixes of the text encoders that the embeddings are for ("", "_2", "_3").
        options: further arguments of the pipeline's call.
        texts: what some kinds of text encoders read, whatever the prompt is; see `SeparateTexts`.
    """

    pipe: Any
    name: str
    vocabulary: Vocabulary
    max_tokens: int
    schedule: NoiseSchedule
    height: int
    width: int
    driven: tuple[str, ...]
    options: Mapping[str, Any]
    lowercase: bool = False
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        pipe: Any,
        name: str,
        height: int | None = None,
        width: int | None = None,
        *,
        tokenizer: str | None = None,
        options: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> "PipelinePredictor":
        """The predictor of a pipeline.

        Args:
            tokenizer: whose tokens are searched ("tokenizer_2"), of a pipeline with several kinds. Default:
                the kind that most text encoders use, and the last of them if there is a tie: CLIP's for
                Stable Diffusion 3, T5's for FLUX.1.
            options: further arguments of the pipeline's call, such as max_sequence_length.
            texts: what text encoders of some kinds read instead of the prompt, as {"t5": "a long text"}; the tokens
                of another kind are searched.

        Raises:
            BackendError: the scheduler is not covered, a part is missing, or the pipeline works in a way
                that this adapter cannot follow.
            ValueError: a size that the VAE cannot take, a tokenizer that the pipeline does not have or whose text
                is given, or texts for encoders that it does not have, or for all.
        """
        size = image_size(pipe, height, width)
        schedule = schedule_of(pipe.scheduler)
        device = execution_device(pipe)
        encoders = text_encoders(pipe)
        own = own_texts(pipe, texts or {})
        if tokenizer is not None and tokenizer.removeprefix("tokenizer") in own:
            raise ValueError(f"texts has the text of {tokenizer}, so its tokens cannot be searched; leave one of them")
        driven = _driven({suffix: both for suffix, both in encoders.items() if suffix not in own}, tokenizer)
        # With tokens still to come, only to look at how the pipeline treats texts.
        table = torch.zeros(1, 1, device=device)
        blank = Vocabulary(table, tokenizer_of(encoders[driven[0]][0]), torch.ones(1, dtype=torch.bool), (1,))
        probing = cls(
            pipe, name, blank, 0, schedule, *size, driven, dict(options or {}), texts=dict(texts or {})
        )  # fmt: skip
        probing._check_arguments()
        context = probing._context()
        parts = []
        for suffix in driven:
            kind, encoder = encoders[suffix]
            adapted = InContext.around(tokenizer_of(kind), *context[suffix]) if any(context[suffix]) else None
            parts.append(vocabulary_of(kind, encoder, device, adapted))
        vocabulary = Vocabulary.joint(parts)
        known = dataclasses.replace(probing, vocabulary=vocabulary)
        return dataclasses.replace(known, max_tokens=known._room())

    def dual_encoder(self) -> Backend | None:
        """The dual encoder that the text encoders come from; None where none is known. Raises as `own_dual_encoder`."""
        return own_dual_encoder(self.pipe)

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "images ..."]:
        """The clean latents of RGB images, which are scaled and cropped to height x width."""
        return clean_latents(self.pipe, images, self.height, self.width)

    def condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Conditioning:
        """What the pipeline's `encode_prompt` returns, with the embeddings in place of the prompt's tokens.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        tokens = embeddings.shape[1]
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit: {self.name} has room for {self.max_tokens}")
        frame, encoders = self._frame(tokens), text_encoders(self.pipe)
        parts = dict(zip(self.driven, embeddings.split(self.vocabulary.widths, dim=-1), strict=True))
        with contextlib.ExitStack() as stack:
            for suffix in self.driven if tokens else ():
                encoder = encoders[suffix][1]
                stack.enter_context(soft_tokens(encoder, parts[suffix], frame.ids[suffix], frame.slots[suffix]))
            found = self._encode([frame.text] * len(embeddings), self._texts(embeddings))
        tensors: list[Tensor] = []
        fixed = _flatten(found, frame.layout, tensors)
        return Conditioning(tuple(tensors), (frame.layout, fixed))

    def condition_whole(self, text: str) -> Conditioning:
        """What `encode_prompt` returns where all text encoders read the text, those too that have one of their own."""
        return dataclasses.replace(self, texts={}).condition_text(text)

    def condition_text(self, text: str) -> Conditioning:
        """What the pipeline's `encode_prompt` returns for a text, beside those that text encoders have of their own."""
        with torch.no_grad():
            two, three = (self._encode([text] * count, [text] * count) for count in (2, 3))
        layout, tensors = _layout(two, three), []  # type: tuple[Any, list[Tensor]]
        fixed = _flatten(two, layout, tensors)
        return Conditioning(tuple(tensor[:1] for tensor in tensors), (layout, fixed))

    def predict(
        self, noisy: Float[Tensor, "rows ..."], timesteps: Float[Tensor, " rows"], conditioning: Conditioning
    ) -> Float[Tensor, "rows ..."]:
        """What the scheduler would be given, one call of the pipeline for each timestep."""
        found: list[Tensor | None] = [None] * len(noisy)
        for timestep in timesteps.unique().tolist():
            rows = (timesteps == timestep).nonzero().squeeze(1)
            predicted = self._denoise(noisy[rows], timestep, conditioning.rows(rows))
            for row, value in zip(rows.tolist(), predicted, strict=True):
                found[row] = value
        return torch.stack([value for value in found if value is not None])

    # --- the pipeline's call --------------------------------------------------------------

    @functools.cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._call).parameters

    @functools.cached_property
    def _call(self) -> Callable[..., Any]:
        """The pipeline's `__call__`, without the decorators that switch gradients off."""
        call: Any = type(self.pipe).__call__
        while hasattr(call, "__wrapped__"):
            call = call.__wrapped__
        found: Callable[..., Any] = call
        return found

    @functools.cached_property
    def _arguments(self) -> dict[str, Any]:
        """What every call is given: the size, no guidance by a negative prompt, and the user's options."""
        arguments: dict[str, Any] = {
            "height": self.height, "width": self.width, "num_inference_steps": 1, "output_type": "latent"
        }  # fmt: skip
        known = self._parameters
        if "true_cfg_scale" in known:
            arguments["true_cfg_scale"] = 1.0
        elif "guidance_scale" in known and not denoiser_of(self.pipe).config.get("guidance_embeds", False):
            arguments["guidance_scale"] = self._no_guidance()
        if "use_resolution_binning" in known:
            arguments["use_resolution_binning"] = False
        if "clean_caption" in known and not (is_bs4_available() and is_ftfy_available()):
            arguments["clean_caption"] = False  # as the pipeline itself would decide, without a warning at every call
        return {**arguments, **self.options}

    def _no_guidance(self) -> float:
        """The guidance scale that is none: 1 for most pipelines, 0 for some."""
        with self._untouched():
            self.pipe.__dict__["_guidance_scale"] = 1.0
            return 0.0 if getattr(self.pipe, "do_classifier_free_guidance", False) else 1.0

    def _argument_of(self, suffix: str) -> str:
        """The argument of the call that is the prompt of a text encoder."""
        return prompt_argument(self.pipe, suffix)

    def _check_arguments(self) -> None:
        missing = {"prompt", "latents", "height", "width"} - set(self._parameters)
        if missing or not hasattr(self.pipe, "encode_prompt"):
            raise BackendError(
                f"{type(self.pipe).__name__} is not a text-to-image pipeline that this adapter can drive (its call has "
                f"no {', '.join(sorted(missing)) or 'encode_prompt'}); use match='clip'"
            )
        unknown = set(self.options) - set(self._parameters)
        if unknown:
            raise ValueError(f"{type(self.pipe).__name__} has no argument {', '.join(sorted(unknown))}")
        driven = {self._argument_of(suffix) for suffix in self.driven}
        for suffix in set(text_encoders(self.pipe)) - set(self.driven):
            if self._argument_of(suffix) in driven:
                raise BackendError(
                    f"{type(self.pipe).__name__} gives one prompt to tokenizers of different kinds, so that "
                    "the embeddings of one cannot stand beside the text of the other; use match='clip'"
                )

    @contextlib.contextmanager
    def _untouched(self) -> Iterator[None]:
        """Afterwards, the pipeline's attributes are as they were; what it logs and its progress bar are not shown."""
        before, logs = dict(self.pipe.__dict__), (logging, transformers.utils.logging)
        verbosities = [log.get_verbosity() for log in logs]
        for log in logs:
            log.set_verbosity_error()
        self.pipe.__dict__["_progress_bar_config"] = {"disable": True}
        try:
            with bare(self.pipe):
                yield
        finally:
            for log, verbosity in zip(logs, verbosities, strict=True):
                log.set_verbosity(verbosity)
            self.pipe.__dict__.clear()
            self.pipe.__dict__.update(before)

    def _encode(self, driven: Sequence[str], others: Sequence[str]) -> Any:
        """What `encode_prompt` returns for one prompt for the driven encoders and another for the rest."""
        found = self._start(driven, others)
        if len(found) != 1:
            raise BackendError(f"{type(self.pipe).__name__} does not encode its prompt; use match='clip'")
        return found[0]

    def _start(self, driven: Sequence[str], others: Sequence[str]) -> list[Any]:
        """As `_encode`; nothing, if a hook ended the call within `encode_prompt`."""
        found: list[Any] = []

        def encode(*args: Any, **kwargs: Any) -> Any:
            found.append(type(self.pipe).encode_prompt(self.pipe, *args, **kwargs))
            raise _Encoded

        own = own_texts(self.pipe, self.texts)
        texts = {self._argument_of(suffix): list(others) for suffix in text_encoders(self.pipe)}
        texts |= {self._argument_of(suffix): [text] * len(driven) for suffix, text in own.items()}
        texts |= {self._argument_of(suffix): list(driven) for suffix in self.driven}
        names = [f"text_encoder{suffix}" for suffix in text_encoders(self.pipe)]
        with working(self.pipe, names), self._untouched():
            self.pipe.__dict__["encode_prompt"] = encode
            with contextlib.suppress(_Encoded):
                self._call(self.pipe, **texts, **self._arguments)
        return found

    def _denoise(
        self, noisy: Float[Tensor, "rows ..."], timestep: float, conditioning: Conditioning
    ) -> Float[Tensor, "rows ..."]:
        layout, fixed = conditioning.fixed
        told = _unflatten(fixed, layout, iter(conditioning.tensors))
        found: list[tuple[Tensor, Tensor]] = []

        def step(predicted: Tensor, sample: Tensor) -> None:
            found.append((predicted, sample))
            raise _Predicted

        network = denoiser_of(self.pipe)
        denoiser = next(name for name, part in modules_of(self.pipe).items() if part is network)
        with working(self.pipe, [denoiser]) as device, self._untouched(), watched_once(self, network):
            self.pipe.__dict__["scheduler"] = _probe(self.pipe.scheduler, timestep, step)
            self.pipe.__dict__["encode_prompt"] = lambda *args, **kwargs: told
            with contextlib.suppress(_Predicted):
                # Some pipelines take latents as they come, others bring them to their own dtype.
                latents = noisy.to(device, matrix_dtype(network, noisy.dtype))
                self._call(self.pipe, prompt=[""] * len(noisy), latents=latents, **self._arguments)
        if len(found) != 1:
            raise BackendError(f"{type(self.pipe).__name__} gives its scheduler no prediction; use match='clip'")
        predicted, sample = (self._as_given(value, noisy) for value in found[0])
        if not torch.allclose(sample.float(), noisy.float(), rtol=2e-2, atol=2e-2):
            raise BackendError(
                f"{type(self.pipe).__name__} changes the latents that it is given, so that the noise in them is not "
                "what it should be; this adapter cannot follow it: use match='clip'"
            )
        return predicted

    def _as_given(self, value: Tensor, noisy: Tensor) -> Tensor:
        """What the scheduler sees, in the layout of the latents that the call is given."""
        if value.shape == noisy.shape:
            return value
        if value.ndim == 3 and noisy.ndim == 4 and value.numel() == noisy.numel():  # FLUX.2 flattens the places
            return value.transpose(1, 2).reshape(noisy.shape)
        raise BackendError(
            f"{type(self.pipe).__name__} was given latents of shape {tuple(noisy.shape)}, and its scheduler sees "
            f"{tuple(value.shape)}; this adapter does not know how they belong together: use match='clip'"
        )

    # --- tokens ---------------------------------------------------------------------------

    def _context(self) -> dict[str, tuple[str, str, Callable[[str], str] | None]]:
        """For each driven encoder, what the pipeline puts before and behind a prompt, and what it does to it."""
        tokenizers = {suffix: text_encoders(self.pipe)[suffix][0] for suffix in self.driven}
        with contextlib.ExitStack() as stack, torch.no_grad():
            seen = {suffix: stack.enter_context(recorded(tokenizer)) for suffix, tokenizer in tokenizers.items()}
            try:
                self._encode([PROBE], [PROBE])
            except HardPromptsError:
                raise
            except (AttributeError, TypeError, ValueError, RuntimeError, LookupError) as error:
                if found := cause_of(error):
                    raise BackendError(f"{type(self.pipe).__name__} cannot encode a prompt: {found}") from error
                raise BackendError(
                    f"{type(self.pipe).__name__} cannot encode a prompt by itself: {type(error).__name__}: "
                    f"{brief(error)}; make it run first, as pipe('a cat') does"
                ) from error
        return {suffix: self._around(heard) for suffix, heard in seen.items()}

    def _around(self, heard: TextRecorder) -> tuple[str, str, Callable[[str], str] | None]:
        texts = [text for text in heard.texts if PROBE.lower() in text.lower()]
        if not texts:
            raise BackendError(
                f"{type(self.pipe).__name__} does not give the prompt to its tokenizer in a way that this adapter can "
                "follow; use match='clip'"
            )
        start = texts[-1].lower().rindex(PROBE.lower())
        before, behind = texts[-1][:start], texts[-1][start + len(PROBE) :]
        changed = texts[-1][start : start + len(PROBE)] != PROBE
        return before, behind, self._preprocess if changed else None

    def _preprocess(self, text: str) -> str:
        """The prompt as the pipeline changes it before its tokenizer: lower case, and cleaned where it does so."""
        default = self._parameters["clean_caption"].default if "clean_caption" in self._parameters else False
        clean = bool(self._arguments.get("clean_caption", default))
        preprocess = getattr(self.pipe, "_text_preprocessing", None)
        return str(preprocess(text, clean_caption=clean)[0]) if preprocess else text.lower().strip()

    def _texts(self, embeddings: Float[Tensor, "batch tokens dim"]) -> list[str]:
        """The texts of the nearest tokens, for the text encoders that are not driven."""
        with_a_text = {*self.driven, *own_texts(self.pipe, self.texts)}
        if not embeddings.shape[1] or len(with_a_text) == len(text_encoders(self.pipe)):
            return [""] * len(embeddings)
        ids = self._all_tokens.nearest(embeddings, "l2")
        return [self.vocabulary.decode(row) for row in ids.tolist()]

    @functools.cached_property
    def _all_tokens(self) -> Vocabulary:
        return self.vocabulary.unrestricted()

    @functools.cached_property
    def _words(self) -> tuple[int, int]:
        """Two tokens whose repetition is encoded to as many tokens, all different between the two."""
        found: list[int] = []
        for token in self.vocabulary.allowed_ids.tolist():
            ids = self.vocabulary.encode(self.vocabulary.decode([token] * 3))
            if len(ids) != 3 or ids[1:] != [token] * 2:
                continue
            if not found or ids[0] != self.vocabulary.encode(self.vocabulary.decode([found[0]] * 3))[0]:
                found.append(token)
            if len(found) == 2:
                return found[0], found[1]
        raise BackendError(f"the tokenizer of {self.name} has no two words that can stand for a prompt's tokens")

    @functools.cached_property
    def _frames(self) -> dict[int, _Frame]:
        return {}

    def _frame(self, tokens: int) -> _Frame:
        if tokens not in self._frames:
            texts = [self.vocabulary.decode([word] * tokens) if tokens else "" for word in self._words]
            with torch.no_grad(), self._ids_seen() as seen:
                two, three = (self._encode([text] * n, [""] * n) for n, text in zip((2, 3), texts, strict=True))
            ids, slots = {}, {}
            for suffix, (first, second) in ((s, (heard[0], heard[-1])) for s, heard in seen.items()):
                ids[suffix] = first
                if first.shape != second.shape:
                    raise BackendError(f"{self.name} encodes prompts of {tokens} tokens to different lengths")
                slots[suffix] = (first != second).nonzero().squeeze(1)
                if len(slots[suffix]) != tokens:
                    raise BackendError(
                        f"{self.name} encodes a prompt of {tokens} tokens to {len(slots[suffix])}; this adapter "
                        "cannot follow its tokenizer: use match='clip'"
                    )
            self._frames[tokens] = _Frame(texts[0], ids, slots, _layout(two, three))
        return self._frames[tokens]

    def _room(self) -> int:
        """Tokens that a prompt may have before the pipeline cuts it off."""
        with torch.no_grad(), self._ids_seen(stop=True) as seen:
            for word in self._words:
                self._start([self.vocabulary.decode([word] * MANY)], [""])
        room = min(int((heard[0] != heard[-1]).sum()) for heard in seen.values())
        # Some pipelines cut off what the text encoder returns.
        default = self._parameters["max_sequence_length"].default if "max_sequence_length" in self._parameters else room
        return min(room, int(self.options.get("max_sequence_length", default)))

    @contextlib.contextmanager
    def _ids_seen(self, stop: bool = False) -> Iterator[dict[str, list[Tensor]]]:
        """The first row of ids of each call of the driven encoders; with `stop`, nothing runs behind the last's."""
        seen: dict[str, list[Tensor]] = {suffix: [] for suffix in self.driven}
        hooks = []
        for suffix in self.driven:

            def hear(module: Any, args: Any, kwargs: Any, output: Tensor, suffix: str = suffix) -> None:
                ids = args[0] if args else kwargs["input"]
                seen[suffix].append(ids.reshape(-1, ids.shape[-1])[0].detach().cpu())
                if stop and suffix == self.driven[-1]:
                    raise _Encoded

            for module in embedding_modules(text_encoders(self.pipe)[suffix][1]):
                hooks.append(module.register_forward_hook(hear, with_kwargs=True))
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _driven(encoders: Mapping[str, tuple[Any, Any]], tokenizer: str | None) -> tuple[str, ...]:
    """The suffixes of the text encoders that share the tokenizer to search with."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for suffix, (one, _) in encoders.items():
        if not hasattr(one, "is_fast"):
            raise BackendError(f"tokenizer{suffix} is a {type(one).__name__}, which gives no access to its tokens")
        text = "a photo of a red house near the river, 2 birds"
        kinds.setdefault((len(one), *tokenizer_of(one).encode(text)), []).append(suffix)
    if tokenizer is None:
        most = max(len(suffixes) for suffixes in kinds.values())
        return tuple([suffixes for suffixes in kinds.values() if len(suffixes) == most][-1])
    for suffixes in kinds.values():
        if tokenizer in [f"tokenizer{suffix}" for suffix in suffixes]:
            return tuple(suffixes)
    names = ", ".join(f"tokenizer{suffix}" for suffix in encoders)
    raise ValueError(f"the pipeline has no {tokenizer!r}; it has {names}")


def _probe(scheduler: Any, timestep: float, step: Callable[[Tensor, Tensor], None]) -> Any:
    """A copy of the scheduler with one timestep, which hands over what it is given and changes nothing."""
    whole = hasattr(scheduler, "alphas_cumprod") and schedule_of(scheduler).prediction != "flow_prediction"
    steps = torch.tensor([round(timestep)]) if whole else torch.tensor([timestep], dtype=torch.float32)
    last = float(scheduler.config.num_train_timesteps)

    # The arguments' names are looked at by the pipelines.
    def set_timesteps(
        self: Any,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.timesteps, self.num_inference_steps = steps.to(device or "cpu"), 1
        self.sigmas = torch.cat([self.timesteps.float() / last, torch.zeros(1, device=self.timesteps.device)])

    def take(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> None:
        step(model_output, sample)

    methods = {
        "set_timesteps": set_timesteps,
        "step": take,
        "scale_model_input": lambda self, sample, *args, **kwargs: sample,
        "set_begin_index": lambda self, *args, **kwargs: None,
        "init_noise_sigma": 1.0,
    }
    probe = copy.copy(scheduler)
    probe.__dict__.pop("init_noise_sigma", None)
    probe.__class__ = type(type(scheduler).__name__, (type(scheduler),), methods)
    return probe


# --- what encode_prompt returns -----------------------------------------------------------


def _layout(two: Any, three: Any) -> Any:
    """Which parts are a prompt's own, from what two and what three equal prompts give.

    "rows" of a tensor with one row for each prompt, "list" of a list with one tensor for each,
    "fixed" of everything else, and a list of these for lists and tuples.
    """
    if isinstance(two, Tensor):
        return "rows" if two.ndim and (len(two), len(three)) == (2, 3) else "fixed"
    if isinstance(two, list | tuple) and isinstance(three, list | tuple):
        if (len(two), len(three)) == (2, 3):
            return "list"
        return [_layout(a, b) for a, b in zip(two, three, strict=True)]
    return "fixed"


def _flatten(value: Any, layout: Any, tensors: list[Tensor]) -> Any:
    """`value` without the prompts' own parts, which are added to `tensors` with one row for each prompt."""
    if layout == "rows":
        tensors.append(value)
        return None
    if layout == "list":
        tensors.append(torch.stack(list(value)))
        return None
    if layout == "fixed":
        return value
    return [_flatten(part, own, tensors) for part, own in zip(value, layout, strict=True)]


def _unflatten(fixed: Any, layout: Any, tensors: Iterator[Tensor]) -> Any:
    """What `encode_prompt` would have returned for the rows of `tensors`."""
    if layout == "rows":
        return next(tensors)
    if layout == "list":
        return list(next(tensors).unbind())
    if layout == "fixed":
        return fixed
    return tuple(_unflatten(part, own, tensors) for part, own in zip(fixed, layout, strict=True))
