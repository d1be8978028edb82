"""The graph's own MODEL, CLIP and VAE as a `NoisePredictor`: what a search differentiates, LoRAs included.

The networks stay ComfyUI's. A search works on clones of their patchers, whose weights autograd sees as private
copies (`bridge.private`); when ComfyUI loads the originals again, they are as they were.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from .bridge import check_interrupted, kept_inputs, private

#: Number formats that can be differentiated; anything else is a quantized weight.
FLOATING = (torch.float32, torch.float16, torch.bfloat16)
ANOTHER_WAY = (
    "load the checkpoint as float16 or float32 (Load Checkpoint; weight_dtype default in Load Diffusion Model), or use "
    "Image to Prompt with a prompt model"
)


def graph_predictor(model: Any, clip: Any, vae: Any, width: int, height: int) -> "GraphPredictor":
    """The graph's networks as a `NoisePredictor`, for use inside `bridge.gradients_through_graph`.

    Args:
        model, clip, vae: of ComfyUI's graph, with all their patches.
        width, height: of the pictures, in pixels.

    Raises:
        BackendError: quantized weights, a text encoder other than CLIP, or a model that is not sampled from noise by a
            schedule of its own.
        ValueError: a size that the VAE does not support.
    """
    multiple = int(vae.downscale_ratio) if isinstance(vae.downscale_ratio, int) else 8
    if width % multiple or height % multiple:
        raise ValueError(f"width and height must be multiples of {multiple} for this VAE, got {width} and {height}")
    text = graph_text_encoder(clip)
    denoiser = wrapped(whole(model, "MODEL"), "MODEL")
    return GraphPredictor(denoiser, text, vae, width, height, _schedule(denoiser))


def whole(patcher: Any, kind: str) -> Any:
    """A clone of a patcher, with its patches, whose weights stay where they are while a search runs.

    Newer versions of ComfyUI load weights on a GPU as they are needed, into memory that is used again: no gradients
    can be taken through that. The file is then read once more, for the search alone.

    Raises:
        BackendError: the node that loaded the model does not say how to load it again.
    """
    if not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic()):
        return patcher.clone()
    if patcher.cached_patcher_init is None:
        from hardprompts import BackendError

        raise BackendError(
            f"the {kind} is loaded piece by piece as it is needed, and the node that loaded it does not say how to "
            "load it in full; load it with ComfyUI's own loaders, or start ComfyUI with --disable-dynamic-vram"
        )
    with torch.inference_mode():  # as ComfyUI itself reads them
        return patcher.clone(disable_dynamic=True)


def wrapped(patcher: Any, kind: str) -> Any:
    """The patcher, whose weights are private copies from now on whenever a layer takes them.

    Raises:
        BackendError: quantized weights.
    """
    for name, parameter in patcher.model.named_parameters():
        if parameter.dtype not in FLOATING or type(parameter) not in (torch.nn.Parameter, Tensor):
            from hardprompts import BackendError

            raise BackendError(
                f"the {kind} has weights of {parameter.dtype} ({name}), which gradients cannot pass through; "
                f"{ANOTHER_WAY}"
            )
    for name, module in patcher.model.named_modules():
        if hasattr(module, "weight_function"):
            for weight in ("weight", "bias"):
                if getattr(module, weight, None) is not None:
                    patcher.add_weight_wrapper(f"{name}.{weight}", private)
    return patcher


def load(patchers: Sequence[Any]) -> None:
    """The networks on their device, in full.

    In inference mode, as ComfyUI itself loads them: weights that were made in it may be changed in it alone.
    """
    import comfy.model_management as management

    with torch.inference_mode():
        management.load_models_gpu(list(patchers), force_full_load=True)


def graph_text_encoder(clip: Any) -> "GraphTextEncoder":
    """The CLIP of a graph as a text encoder that takes soft tokens.

    Raises:
        BackendError: it is not made of CLIPs, is quantized, or reads a text differently from its tokens.
    """
    from hardprompts import BackendError
    from hardprompts.towers import tokenizer_of, unwrapped
    from hardprompts.vocabulary import Vocabulary

    parts = dict(clip.cond_stage_model.named_children())
    kinds = {type(unwrapped(getattr(part, "transformer", part))).__name__ for part in parts.values()}
    if kinds != {"CLIPTextModel"}:
        raise BackendError(
            f"the text encoder {type(clip.cond_stage_model).__name__} is not made of CLIPs alone; supported are those "
            "of Stable Diffusion 1.x, 2.x and SDXL. For other models use Image to Prompt with a prompt model"
        )
    own = clip.clone()
    own.patcher = wrapped(whole(clip.patcher, "CLIP"), "CLIP")
    own.cond_stage_model = own.patcher.model
    load([own.patcher])
    keys = own.tokenize("")
    vocabularies = []
    for key, part in zip(sorted(keys, key=_place), sorted(parts, key=_place), strict=True):
        tokenizer = getattr(own.tokenizer, f"clip_{key}").tokenizer
        embedding = getattr(own.cond_stage_model, part).transformer.get_input_embeddings()
        with torch.no_grad():
            ids = torch.arange(embedding.weight.shape[0], device=embedding.weight.device)
            table = embedding(ids, out_dtype=torch.float32)
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
        vocabularies.append(Vocabulary.create(table, tokenizer_of(tokenizer), special))
    return checked(GraphTextEncoder(own, tuple(sorted(keys, key=_place)), Vocabulary.joint(vocabularies)))


def checked(encoder: Any) -> Any:
    """The text encoder, once its own pass of a word has given what the word's embedding gives.

    Nodes that change a CLIP (hooks, other tokenizers, weights for words) are noticed here, before a search.

    Raises:
        BackendError: they differ.
    """
    from hardprompts import PromptTemplate
    from hardprompts.diffusion.reading import check_template

    check_template(encoder, PromptTemplate())
    return encoder


def _place(name: str) -> int:
    """CLIP-L comes before bigG, in embeddings and in the joined states."""
    letter = name.rpartition("_")[2]
    return "lhg".index(letter) if letter in "lhg" else len(letter)


@dataclasses.dataclass(frozen=True, eq=False)
class GraphTextEncoder:
    """The CLIP of a graph as a `hardprompts.encoders.ConditioningEncoder`, driven from token embeddings.

    Attributes:
        clip: ComfyUI's CLIP, with private weights.
        keys: of its text encoders, in the order of their embeddings: "l", "g", "h".
        vocabulary: its tokens.
    """

    clip: Any
    keys: tuple[str, ...]
    vocabulary: Any

    @property
    def name(self) -> str:
        """The class of ComfyUI's text encoder."""
        return f"comfyui:{type(self.clip.cond_stage_model).__name__}"

    @functools.cached_property
    def max_tokens(self) -> int:
        """The most tokens that a prompt may have in one chunk of ComfyUI's, special tokens not counted."""
        return len(self._frame[self.keys[0]]) - 2

    @functools.cached_property
    def _frame(self) -> dict[str, list[tuple[int, float]]]:
        """The tokens of the empty prompt: start, end, padding."""
        return {key: chunks[0] for key, chunks in self.clip.tokenize("").items()}

    def condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Any:
        """The conditioning of prompts: (batch, context, dim), and the pooled features, if there are any."""
        from hardprompts.noise import Conditioning

        check_interrupted()
        rows = [self._chunk(row) for row in embeddings]
        if self._pooled:  # ComfyUI gives the pooled features of the first chunk alone
            parts = [self._encoded({key: [row[key]] for key in self.keys}) for row in rows]
            return Conditioning(tuple(torch.cat(same) for same in zip(*parts, strict=True)))
        (states,) = self._encoded({key: [row[key] for row in rows] for key in self.keys})
        return Conditioning((states.reshape(len(rows), -1, states.shape[-1]),))

    def condition_text(self, text: str) -> Any:
        """The conditioning of a text, by ComfyUI's own tokenizer, with the escapes that a user types."""
        from hardprompts.noise import Conditioning
        from hardprompts.prompts import escape

        with torch.no_grad():
            return Conditioning(self._encoded(self.clip.tokenize(escape(text, "comfyui"))))

    @property
    def _pooled(self) -> bool:
        """True if the conditioning has pooled features too: those of bigG."""
        return "g" in self.keys

    def _chunk(self, row: Tensor) -> dict[str, list[tuple[Any, float]]]:
        """The tokens of one prompt, with embeddings where its words would be."""
        chunk = {}
        for key, part in zip(self.keys, row.split(self.vocabulary.widths, dim=-1), strict=True):
            start, *rest = self._frame[key]
            chunk[key] = [start, *((token, 1.0) for token in part), *rest[: len(rest) - len(row)]]
        return chunk

    def _encoded(self, tokens: dict[str, Any]) -> tuple[Tensor, ...]:
        load([self.clip.patcher])
        device = self.clip.patcher.load_device
        with kept_inputs(self.clip.cond_stage_model):
            found = self.clip.encode_from_tokens(tokens, return_dict=True)
        return tuple(found[key].to(device) for key in ("cond", "pooled_output")[: 1 + self._pooled])


def _schedule(denoiser: Any) -> Any:
    """The noise that a MODEL was trained on.

    Raises:
        BackendError: it is sampled in any other way.
    """
    from comfy import model_sampling as sampling

    from hardprompts import BackendError
    from hardprompts.noise import NoiseSchedule

    kind = denoiser.get_model_object("model_sampling")
    prediction = "v_prediction" if isinstance(kind, sampling.V_PREDICTION) else "epsilon"
    special = isinstance(kind, sampling.EDM | sampling.X0) or not isinstance(kind, sampling.EPS)
    if special or not isinstance(kind, sampling.ModelSamplingDiscrete) or not hasattr(kind, "sigmas"):
        raise BackendError(
            f"a MODEL that is sampled as {type(kind).__mro__[1].__name__} is not supported; supported are models that "
            "predict noise or velocity on a schedule of steps (Stable Diffusion 1.x, 2.x, SDXL). Use Image to Prompt "
            "with a prompt model"
        )
    return NoiseSchedule.variance_preserving(1 / (1 + kind.sigmas.detach().double().cpu().square()), prediction)


@dataclasses.dataclass(frozen=True, eq=False)
class GraphPredictor:
    """ComfyUI's MODEL, CLIP and VAE as a `hardprompts.encoders.NoisePredictor`."""

    denoiser: Any
    text_encoder: GraphTextEncoder
    vae: Any
    width: int
    height: int
    schedule: Any

    @property
    def name(self) -> str:
        """The class of ComfyUI's model."""
        return f"comfyui:{type(self.denoiser.model).__name__}"

    @property
    def vocabulary(self) -> Any:
        """The tokens of the graph's CLIP."""
        return self.text_encoder.vocabulary

    @property
    def max_tokens(self) -> int:
        """The most tokens that a prompt may have."""
        return self.text_encoder.max_tokens

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "images ..."]:
        """The clean latents of RGB images, scaled and cropped to the predictor's size."""
        fitted = [ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS) for image in images]
        pixels = torch.from_numpy(numpy.stack([numpy.asarray(image, dtype=numpy.float32) / 255 for image in fitted]))
        with torch.inference_mode():
            latents = self.denoiser.model.process_latent_in(self.vae.encode(pixels))
        return latents.to(self.denoiser.load_device).clone()

    def condition(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Any:
        """The conditioning of prompts given as the embeddings of all their tokens."""
        return self.text_encoder.condition(embeddings)

    def condition_text(self, text: str) -> Any:
        """The conditioning of one text, given without escapes."""
        return self.text_encoder.condition_text(text)

    def predict(
        self, noisy: Float[Tensor, "rows ..."], timesteps: Float[Tensor, " rows"], conditioning: Any
    ) -> Float[Tensor, "rows ..."]:
        """What the MODEL predicts of noised latents, all rows in one call."""
        check_interrupted()
        load([self.denoiser])
        model, device = self.denoiser.model, self.denoiser.load_device
        steps = timesteps.long().cpu()
        signal, noise = (
            factor[steps].to(device, torch.float32).reshape(-1, *[1] * (noisy.ndim - 1))
            for factor in (self.schedule.signal, self.schedule.noise)
        )
        # ComfyUI's latents are not scaled down as noise is added.
        inputs, sigma = noisy.to(device) / signal, (noise / signal).flatten()
        states, *pooled = conditioning.tensors
        told = model.extra_conds(
            noise=inputs,
            device=device,
            cross_attn=states,
            pooled_output=pooled[0] if pooled else None,
            width=self.width,
            height=self.height,
            prompt_type="positive",
        )
        given = {key: value.process_cond(batch_size=len(noisy), device=device).cond for key, value in told.items()}
        options = {
            **self.denoiser.model_options["transformer_options"],
            "cond_or_uncond": [0], "sigmas": sigma, "sample_sigmas": sigma,
        }  # fmt: skip
        clean = model.apply_model(inputs, sigma, transformer_options=options, **given)
        epsilon = (inputs - clean) / sigma.reshape(noise.shape)
        predicted: Tensor = epsilon if self.schedule.prediction == "epsilon" else signal * epsilon - noise * clean
        return predicted
