"""Backends over transformers' dual encoders: `CLIPModel`, `SiglipModel` and `Siglip2Model`.

SigLIP 2 comes in two kinds. Its models of a fixed resolution are `SiglipModel`s; the NaFlex ones,
which keep an image's aspect ratio, are `Siglip2Model`s. Both are supported in full.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.activations import ACT2FN

from hardprompts.causes.networks import check_finite, check_weights
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError
from hardprompts.towers import (
    ACTIVATIONS,
    FrozenBlock,
    FrozenLinear,
    FrozenNorm,
    FrozenTower,
    adapt,
    check_reachable,
    embedding_modules,
    is_plain,
    is_untouched,
    matrix_dtype,
    replaced_embeddings,
    uncompiled,
    unwrapped,
    watched_gradients,
)
from hardprompts.vocabulary import Vocabulary
from hardprompts_transformers.loading import TOKENIZER_FILES, check_folder, complete, load, quiet, resolve
from hardprompts_transformers.releases import BY_PILLOW, DTYPE, open_tokenizer

#: What can be opened: the `model_type` of a config, and the class that it stands for.
ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}


# --- opening ------------------------------------------------------------------------------


def open_backend(
    name: str, *, device: torch.device, dtype: torch.dtype, gradient_checkpointing: bool = False
) -> Backend:
    """The CLIP, SigLIP or SigLIP 2 model of a local folder or hub id, frozen.

    Only weights are read, from safetensors or by torch's restricted unpickler; code that a
    repository brings along is never run.

    Args:
        name: a folder as `save_pretrained` writes it, or a hub id such as "openai/clip-vit-large-patch14".
        gradient_checkpointing: see `language_models.from_language_model`; of language models alone.

    Raises:
        BackendError: see `open_model`.
    """
    return open_model(
        name, name=f"transformers:{name}", device=device, dtype=dtype, gradient_checkpointing=gradient_checkpointing
    )


def open_model(
    location: str | os.PathLike[str],
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    note: str = "",
    gradient_checkpointing: bool = False,
) -> Backend:
    """The model at `location`, a local folder or hub id, as a backend called `name`.

    Args:
        gradient_checkpointing: see `language_models.from_language_model`; of language models alone.

    Raises:
        BackendError: no such folder or hub id, no network, a file that is missing or damaged, a model of another
            architecture, or gradient checkpointing of a model that has none.
    """
    from hardprompts_transformers import language_models

    place = resolve(location, "transformers:openai/clip-vit-large-patch14")
    if Path(place).is_dir():
        check_folder(Path(place))
    with quiet():
        config = load(
            place, "config.json", lambda: transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        )
        kind = str(getattr(config, "model_type", ""))
        language_model = None if kind in ARCHITECTURES else language_models.kind_of(config)
        if kind not in ARCHITECTURES and language_model is None:
            raise BackendError(
                f"{place} holds a model of type {kind!r}, which has no text and image tower in one space that "
                f"this plugin knows and is not a language model; supported are {_supported()}, and causal, masked and "
                "seq2seq language models"
            )
        tokenizer = load(place, "the tokenizer", lambda: open_tokenizer(place))
        if language_model is not None:
            loaded = load(
                place, "the weights", lambda: complete(place, language_models.load(place, language_model, dtype))
            )
            return language_models.from_language_model(
                loaded.to(device), tokenizer, name=name, note=note, gradient_checkpointing=gradient_checkpointing
            )
        if gradient_checkpointing:
            raise BackendError(
                f"{place} is not a language model, and gradient checkpointing is for those; leave it out"
            )
        processor = load(
            place,
            "preprocessor_config.json",
            lambda: transformers.AutoImageProcessor.from_pretrained(place, trust_remote_code=False, **BY_PILLOW),
        )
        model = load(place, "the weights", lambda: _load_weights(place, kind, dtype).to(device))
    return from_model(model, tokenizer, processor, name=name, note=note)


def from_model(model: Any, tokenizer: Any, image_processor: Any = None, *, name: str, note: str = "") -> Backend:
    """A backend over a model in memory, on the device and in the dtype that it has.

    The model is put into evaluation mode and its parameters are frozen, since gradients flow to
    token embeddings only; it must stay as and where it is.

    Args:
        model: a `CLIPModel`, `SiglipModel` or `Siglip2Model`. It may be compiled, PEFT's, in `DataParallel`, or have
            adapters, hooks and quantized layers, through which gradients pass.
        tokenizer: its tokenizer.
        image_processor: its image processor; None for a backend of text alone.
        name: what the backend is called, in results for example.
        note: one line that a person should know before use.

    Raises:
        BackendError: a model of another class; a tokenizer or an image processor that does not belong to it; features
            from token embeddings that differ from the model's own; weights that are not there (offloaded, sharded);
            or no gradient passes through.
    """
    model = unwrapped(model)
    kinds = tuple(getattr(transformers, kind) for kind in ARCHITECTURES.values() if hasattr(transformers, kind))
    if not isinstance(model, kinds):
        raise BackendError(
            f"{name}: a {type(model).__name__} cannot be used; supported are {_supported()}{_elsewhere(model)}"
        )
    check_reachable(model.text_model, name)
    check_weights(model, name)
    model.eval().requires_grad_(False)
    text_encoder = TransformersTextEncoder.create(model, tokenizer, name)
    table = text_encoder.vocabulary.table
    images = None if image_processor is None else TransformersImageEncoder(model, image_processor)
    if images is not None:
        images.check_size(name)
    return Backend(name, text_encoder, images, table.device, matrix_dtype(model.text_model, table.dtype), note)


def _elsewhere(model: Any) -> str:
    """Where another kind of model can be opened, for messages."""
    if type(model).__name__ == "SentenceTransformer":
        return "; a SentenceTransformer is opened by hardprompts_transformers.sentences.from_sentence_transformer"
    if callable(getattr(model, "get_output_embeddings", None)) and model.get_output_embeddings() is not None:
        return "; a language model is opened by hardprompts_transformers.language_models.from_language_model"
    return ""


def _supported() -> str:
    return ", ".join(ARCHITECTURES.values()) + " (CLIP, SigLIP and SigLIP 2)"


def _load_weights(place: str, kind: str, dtype: torch.dtype) -> Any:
    model, info = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(
        place, use_safetensors=None, output_loading_info=True, **{DTYPE: dtype}
    )
    return complete(place, (model, info))


# --- the text tower -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class TransformersTextEncoder:
    """The text tower of a CLIP or SigLIP, driven from token embeddings.

    Where a tower is causal and read out at the end token (CLIP), nothing behind that token
    matters: the forward pass then covers the prompt and its special tokens only, not the whole
    context. SigLIP's towers see every position, and get the padding that they were trained with.

    The forward pass is written out here, over the model's own modules, since no version of
    transformers lets these towers start from embeddings. Its last layer is evaluated at the one
    position that is read out. Where somebody changed the tower in its build (hooks on its layers,
    layers or attention of another class) the model's own pass is taken, with the embeddings put in
    behind the table. `create` checks either against the model's own.

    Attributes:
        vocabulary: its tokens.
        max_tokens: tokens that a text may have, special tokens not counted.
        around: ids before a text, of the padding, and behind a text.
        written: True if the tower is built as its class says, so that its pass can be written out.
        frozen: a causal tower in float32 on a CPU, where it is faster than its modules; else None.
    """

    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    max_tokens: int
    causal: bool
    before: Float[Tensor, "before dim"]
    after: Float[Tensor, "after dim"]
    padding: Float[Tensor, " dim"]
    pads_left: bool
    masks_padding: bool
    around: tuple[tuple[int, ...], int, tuple[int, ...]]
    written: bool
    frozen: FrozenTower | None

    @classmethod
    def create(cls, model: Any, tokenizer: Any, name: str) -> "TransformersTextEncoder":
        """The text tower of `model`, which must be frozen already; `name` is for messages.

        Raises:
            BackendError: the tokenizer does not belong to the model.
        """
        adapted = adapt(tokenizer)
        if tokenizer.pad_token_id is None:
            raise BackendError(f"{name}: the tokenizer has no padding token; set tokenizer.pad_token")
        tower = model.text_model
        embedding = tower.embeddings.token_embedding
        context, count = len(tower.embeddings.position_embedding.weight), len(embedding.weight)
        highest = max(*tokenizer("")["input_ids"], tokenizer.pad_token_id)
        if highest >= count:
            raise BackendError(
                f"{name}: the tokenizer's special tokens reach id {highest}, but the model has "
                f"{count} embeddings; use the tokenizer that belongs to the model"
            )
        table = embedding(torch.arange(count, device=embedding.weight.device))
        # Added tokens (placeholders of textual inversion, Gemma's <unused7>) survive a round trip
        # through this tokenizer, but mean nothing to anybody else's.
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        vocabulary = Vocabulary.create(table, adapted, special)
        if not len(vocabulary.allowed_ids):
            raise BackendError(
                f"{name}: none of the tokenizer's {len(tokenizer)} tokens is text that encodes to that token, so "
                f"its files are missing or damaged; expected one of {', '.join(TOKENIZER_FILES)}"
            )
        word = vocabulary.decode([int(vocabulary.allowed_ids[0])])
        content, example = vocabulary.encode(word), tokenizer(word)
        ids = list(example["input_ids"])
        at = ids.index(content[0])
        causal = isinstance(model, transformers.CLIPModel)
        if causal:
            _check_end_token(tower, tokenizer, ids, name)
            if tokenizer.padding_side == "left":
                raise BackendError(
                    f"{name}: the tokenizer pads on the left, where a CLIP would count its places from; set "
                    'tokenizer.padding_side = "right"'
                )
        written = _is_written(model)
        encoder = cls(
            model, tokenizer, vocabulary, context - len(ids) + len(content), causal,
            table[ids[:at]], table[ids[at + len(content) :]], table[tokenizer.pad_token_id],
            pads_left=tokenizer.padding_side == "left", masks_padding="attention_mask" in example,
            around=(tuple(ids[:at]), tokenizer.pad_token_id, tuple(ids[at + len(content) :])), written=written,
            frozen=_frozen_tower(model, table[ids[:at]]) if causal and written else None,
        )  # fmt: skip
        encoder._check_forward(name)
        return encoder

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts given as the embeddings of all their tokens, without special tokens.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        tower, tokens = self.model.text_model, embeddings.shape[1]
        if self.frozen is not None and tokens <= self.max_tokens:
            start, stop = len(self.before), len(self.before) + tokens
            positions = tower.embeddings.position_embedding.weight[start : stop + len(self.after)]
            inputs = embeddings.to(self.before.dtype) + positions[:tokens]
            return self.frozen(inputs, self.after + positions[tokens:])
        if not self.written:
            return self._own(embeddings, 0 if self.causal else self.max_tokens - tokens, self.model.get_text_features)
        states, attended = self._input(embeddings, 0 if self.causal else self.max_tokens - tokens)
        layers = tower.encoder.layers
        for layer in layers[:-1]:
            states = _layer(layer, states, attended, causal=self.causal)
        states = _layer(layers[-1], states, attended, causal=self.causal, last_only=True)
        pooled = tower.final_layer_norm(states[:, -1])
        features: Tensor = self.model.text_projection(pooled) if self.causal else tower.head(pooled)
        return features

    def encode_states(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch places states"]:
        """The states at every place of the padded context behind the final norm, as denoisers take them.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        tower, room = self.model.text_model, self.max_tokens - embeddings.shape[1]
        if not self.written:
            return self._own(embeddings, room, lambda **inputs: tower(**inputs).last_hidden_state)
        states, attended = self._input(embeddings, room)
        for layer in tower.encoder.layers:
            states = _layer(layer, states, attended, causal=self.causal)
        normed: Tensor = tower.final_layer_norm(states)
        return normed

    def _own(self, embeddings: Float[Tensor, "batch tokens dim"], room: int, run: Callable[..., Any]) -> Tensor:
        """What the model's own pass gives for embeddings in the places of a text, with `room` places of padding.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        batch, tokens = embeddings.shape[:2]
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit into the {self.max_tokens} that the text tower has room for")
        before, pad, after = self.around
        text, padding = [*before, *[int(self.vocabulary.allowed_ids[0])] * tokens, *after], [pad] * room
        ids = [*padding, *text] if self.pads_left else [*text, *padding]
        rows = torch.tensor([ids], device=embeddings.device).expand(batch, -1)
        inputs = {"input_ids": rows}
        if room and self.masks_padding and not self.causal:
            mask = [0] * room + [1] * len(text) if self.pads_left else [1] * len(text) + [0] * room
            inputs["attention_mask"] = torch.tensor([mask], device=embeddings.device).expand(batch, -1)
        tower = self.model.text_model
        start = len(before) + (room if self.pads_left else 0)
        modules = embedding_modules(tower, tower.embeddings.token_embedding)
        with uncompiled(self.model), replaced_embeddings(modules, embeddings, start):
            return _pooled(run(**inputs))

    def _input(
        self, embeddings: Float[Tensor, "batch tokens dim"], room: int
    ) -> tuple[Float[Tensor, "batch length dim"], Tensor | None]:
        """The first layer's input with `room` places of padding, and which places are attended to (None: all)."""
        tower = self.model.text_model
        batch, tokens = embeddings.shape[:2]
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit into the {self.max_tokens} that the text tower has room for")
        parts = [self.before, embeddings.to(self.before.dtype), self.after]
        parts.insert(0 if self.pads_left else 3, self.padding.expand(room, -1))
        states = torch.cat([part.expand(batch, -1, -1) for part in parts], dim=1)  # (batch, length, dim)
        length = states.shape[1]
        states = states + tower.embeddings.position_embedding.weight[:length]
        if not room or not self.masks_padding or self.causal:
            return states, None  # CLIP's padding stands behind the text, and denoisers are given it unmasked
        positions = torch.arange(length, device=states.device).unsqueeze(0)
        return states, positions >= room if self.pads_left else positions < length - room

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts by the model's own tokenizer and `get_text_features`."""
        length = self.max_tokens + len(self.before) + len(self.after)
        encoded = self.tokenizer(
            list(texts), padding="longest" if self.causal else "max_length", truncation=True, max_length=length,
            return_tensors="pt",
        )  # fmt: skip
        inputs = {key: encoded[key].to(self.before.device) for key in ("input_ids", "attention_mask") if key in encoded}
        return _pooled(self.model.get_text_features(**inputs))

    def _check_forward(self, name: str) -> None:
        """Compares `encode` with the model's own forward pass on a few short texts.

        A new release of transformers, an unusual tokenizer or an adapter in the tower could make
        them differ, and every number of a search would then be wrong.
        """
        words = [
            self.vocabulary.decode([int(i)]) for i in self.vocabulary.allowed_ids[:: len(self.vocabulary) // 4 + 1]
        ]
        for text in (words[0], " ".join(words)):
            ids = torch.tensor([self.vocabulary.encode(text)[: self.max_tokens]], device=self.before.device)
            with torch.no_grad():
                found = self.encode(self.vocabulary.embed(ids)).float()
            expected = self.encode_text([text]).float()
            tolerance = 1e-3 if self.before.dtype.itemsize > 2 else 5e-2
            difference = float((found - expected).norm() / expected.norm())
            check_finite(self.model, name, found, expected)
            if difference > tolerance:
                raise BackendError(
                    f"{name}: features from token embeddings differ from get_text_features by {difference:.2g} (more "
                    f"than {tolerance:g}); the weights are not finite, the tokenizer is not the model's, or "
                    f"transformers {transformers.__version__} computes this model in a new way: please report it"
                )
        if self.frozen is None:
            with torch.enable_grad(), watched_gradients(self.model.text_model, name):
                leaf = self.vocabulary.embed(ids).clone().requires_grad_()
                if not self.encode(leaf).requires_grad:
                    raise BackendError(
                        f"{name}: no gradient passes through the text tower; load the model without that"
                    )


def _check_end_token(tower: Any, tokenizer: Any, ids: list[int], name: str) -> None:
    """CLIP reads out where `config.eos_token_id` stands; 2, as old configs have it, means the largest id."""
    configured = tower.config.eos_token_id
    # Tokens that somebody added later have larger ids, and stand in no text that is found here.
    largest = max(set(tokenizer.get_vocab().values()) - (set(tokenizer.added_tokens_decoder) - {ids[-1]}))
    if ids[-1] != (largest if configured == 2 else configured):
        meaning = f" (which stands for the largest id, {largest})" if configured == 2 else ""
        raise BackendError(
            f"{name}: the tokenizer ends texts with id {ids[-1]}, but the model reads its features out at the token "
            f"text_config.eos_token_id = {configured}{meaning}; set text_config.eos_token_id to {ids[-1]}, or use the "
            "tokenizer that belongs to the model"
        )


def _frozen_tower(model: Any, before: Float[Tensor, "before dim"]) -> FrozenTower | None:
    """The text tower of a CLIP whose texts begin with these embeddings; None where its modules do as well.

    Queries, keys and values are three matrices there and one here, of which a GPU would have to hold a copy.
    """
    tower = model.text_model
    activation = ACTIVATIONS.get(tower.config.hidden_act)
    leaves = [
        tower.final_layer_norm,
        model.text_projection,
        *(leaf for layer in tower.encoder.layers for leaf in _leaves(layer)),
    ]
    acting = {type(layer.mlp.activation_fn) for layer in tower.encoder.layers}
    if (
        before.device.type != "cpu"
        or before.dtype != torch.float32
        or activation is None
        or acting != {type(ACT2FN[tower.config.hidden_act])}
        or not all(_is_own(layer.mlp, type(layer).__module__) for layer in tower.encoder.layers)
        or not all(is_plain(leaf, {torch.nn.LayerNorm, torch.nn.Linear}) for leaf in leaves)
        or any(leaf.weight.dtype != torch.float32 for leaf in leaves)
    ):
        return None
    blocks = []
    for layer in tower.encoder.layers:
        queries, keys, values, out, fc, proj = _linears(layer)
        attention = (queries, keys, values)
        blocks.append(
            FrozenBlock(
                heads=layer.self_attn.num_heads,
                norm_1=FrozenNorm.of(layer.layer_norm1),
                qkv=FrozenLinear(torch.cat([p.weight for p in attention]), torch.cat([p.bias for p in attention])),
                out=FrozenLinear(out.weight, out.bias),
                norm_2=FrozenNorm.of(layer.layer_norm2),
                fc=FrozenLinear(fc.weight, fc.bias),
                activation=activation,
                proj=FrozenLinear(proj.weight, proj.bias),
            )
        )
    projection = FrozenLinear(model.text_projection.weight, model.text_projection.bias)
    positions = tower.embeddings.position_embedding.weight[: len(before)]
    return FrozenTower(blocks, FrozenNorm.of(tower.final_layer_norm), projection, before + positions)


def _is_written(model: Any) -> bool:
    """True if a text tower and its layers are built as their classes say; what they are made of may be of any kind."""
    tower = model.text_model
    own = type(model.text_model).__module__
    parts = [model, tower, tower.embeddings, tower.encoder]
    for layer in tower.encoder.layers:
        parts += [layer, layer.self_attn]
    positions = tower.embeddings.position_embedding
    return (
        own.startswith("transformers.")
        and all(_is_own(part, own) for part in parts)
        and is_untouched(tower.encoder.layers)
        and "get_text_features" not in vars(model)
        and is_plain(positions, {torch.nn.Embedding})
        and type(tower.embeddings.token_embedding) is torch.nn.Embedding
    )


def _is_own(part: Any, module: str) -> bool:
    """True if a part is of a class of that module, and untouched."""
    return type(part).__module__ == module and is_untouched(part)


def _leaves(layer: Any) -> tuple[Any, ...]:
    """The norms and the linear parts of a layer; what its attention and its MLP are built of apart from them."""
    return layer.layer_norm1, layer.layer_norm2, *_linears(layer)


def _linears(layer: Any) -> tuple[Any, ...]:
    """Of queries, keys, values and what attention gives, and the two of the MLP."""
    attention, mlp = layer.self_attn, layer.mlp
    return attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2


def _layer(
    layer: Any, states: Tensor, attended: Tensor | None, *, causal: bool, last_only: bool = False
) -> Float[Tensor, "batch length dim"]:
    """One pre-norm transformer layer, (batch, length, dim); with `last_only`, at the last position alone."""
    attention = layer.self_attn
    normed = layer.layer_norm1(states)
    if last_only:
        states = states[:, -1:]
    queries, keys, values = (
        projection(source).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
        for projection, source in (
            (attention.q_proj, normed[:, -1:] if last_only else normed),
            (attention.k_proj, normed),
            (attention.v_proj, normed),
        )
    )
    mixed = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=attended, is_causal=causal and not last_only, scale=attention.scale
    )
    states = states + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    result: Tensor = states + layer.mlp(layer.layer_norm2(states))
    return result


def _pooled(output: Any) -> Tensor:
    """The features of `get_*_features`, which is a tensor or, in newer releases, an object that holds it."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


# --- the image tower ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class TransformersImageEncoder:
    """The image tower with its image processor."""

    model: Any
    image_processor: Any

    def check_size(self, name: str) -> None:
        """Raises BackendError unless the processor makes images of the size that the model reads."""
        if not callable(self.image_processor):
            raise BackendError(
                f"{name}: a {type(self.image_processor).__name__} is not an image processor; pass the one that "
                "belongs to the model, or None for a backend of text alone"
            )
        pixels = self._inputs([Image.new("RGB", (8, 8))])["pixel_values"]
        side = getattr(self.model.config.vision_config, "image_size", None)
        if isinstance(side, int) and pixels.ndim == 4 and tuple(pixels.shape[2:]) != (side, side):
            raise BackendError(
                f"{name}: the image processor makes images of {pixels.shape[2]} x {pixels.shape[3]} pixels, the model "
                f"reads {side} x {side}; use the image processor that belongs to the model"
            )

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        """Features of RGB images of any size. Not normalized."""
        return _pooled(self.model.get_image_features(**self._inputs(images)))

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        parameter = next(self.model.vision_model.parameters())
        dtype = matrix_dtype(self.model.vision_model, torch.float32)
        # The layout is stated, since images 1 or 3 pixels high would be taken for channels-first.
        inputs = self.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        return {
            key: value.to(parameter.device, dtype if value.is_floating_point() else value.dtype)
            for key, value in inputs.items()
        }
