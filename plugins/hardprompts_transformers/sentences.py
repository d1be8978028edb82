"""Backends over sentence encoders: models of text alone, whose folders sentence-transformers reads and writes."""

import dataclasses
import functools
import inspect
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from jaxtyping import Float
from tokenizers import normalizers
from torch import Tensor

from hardprompts.causes.networks import check_finite
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError
from hardprompts.towers import BatchTokenizer, FrozenEncoder, Tokenizer, adapt
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import common_words
from hardprompts_transformers.backend import ARCHITECTURES, open_model
from hardprompts_transformers.frozen_encoder import frozen_encoder
from hardprompts_transformers.language_models import context
from hardprompts_transformers.loading import TOKENIZER_FILES, check_folder, complete, load, quiet, resolve
from hardprompts_transformers.releases import DTYPE, open_tokenizer
from hardprompts_transformers.sentence_modules import Pooling, SentenceModules, dual_encoder_folder

EXAMPLE = "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2"

#: Models that read and write, of which the half that reads is an encoder.
ENCODER_HALVES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}

#: Tokens of one pass in `encode_text`: what a processor's caches hold, and enough for a GPU.
BATCH_TOKENS = {"cpu": 2**12, "cuda": 2**16}

#: What is read of a repository; the other formats of the same weights are not.
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
OTHER_FORMATS = ("onnx/*", "openvino/*")
OLDER_WEIGHTS = "pytorch_model*.bin"


# --- opening ------------------------------------------------------------------------------


def open_backend(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> Backend:
    """The sentence encoder of a local folder or hub id, frozen; see `open_sentence_encoder`.

    A CLIP as sentence-transformers packs it, such as "clip-ViT-B-32", has its image tower as well.

    Args:
        name: a folder, or a hub id such as "intfloat/e5-small-v2"; "sentence-transformers/" may be left out.
    """
    place = resolve(name, EXAMPLE)
    folder = Path(place) if Path(place).is_dir() else _downloaded(place)
    both = dual_encoder_folder(folder)
    if both is not None:
        if prompt is not None or prompt_name is not None:
            raise BackendError(f"{place} reads images and texts, and puts no prompt before these; leave it out")
        return open_model(both, name=f"sentence-transformers:{name}", device=device, dtype=dtype)
    return open_sentence_encoder(
        folder, name=f"sentence-transformers:{name}", device=device, dtype=dtype, prompt=prompt, prompt_name=prompt_name
    )


def from_sentence_transformer(
    model: Any, *, name: str = "", prompt: str | None = None, prompt_name: str | None = None
) -> Backend:
    """The backend of a `SentenceTransformer` in memory, with a copy of its weights, on its device and in its dtype.

    Args:
        model: it is not changed, and may be used or closed afterwards. It is written to a temporary folder, as its
            `save_pretrained` does, and read from there.
        name: what the backend is called, in results for example. Default: that of its class.
        prompt, prompt_name: see `open_sentence_encoder`.

    Raises:
        BackendError: see `open_backend`.
    """
    parameter = next(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = open_backend(
            folder, device=parameter.device, dtype=parameter.dtype, prompt=prompt, prompt_name=prompt_name
        )
    return dataclasses.replace(found, name=name or type(model).__name__)


def open_sentence_encoder(
    folder: str | os.PathLike[str],
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    note: str = "",
    prompt: str | None = None,
    prompt_name: str | None = None,
    words: Iterable[str] | None = None,
) -> Backend:
    """The sentence encoder of a local folder as a backend of text alone, called `name`, frozen.

    A folder as sentence-transformers writes it, or one of a transformer alone, whose states are then averaged as that
    package does. Only weights are read, from safetensors or by torch's restricted unpickler; code that a repository
    brings along is never run.

    Args:
        note: one line that a person should know before use.
        prompt: what stands before every text, such as "query: ". It counts as part of the encoder: it is not part of
            any text that is found, and takes its room in the context.
        prompt_name: the same by its name among the encoder's own. With neither, its default, if it has one.
        words: what a search may use besides words of one token, if the tokenizer spells it in two to four.
            Default: common words of English, of which tokenizers of 30,000 tokens spell every other one in pieces.

    Raises:
        BackendError: a file that is missing or damaged, a model or a module that is not supported, an unknown
            `prompt_name`, a prompt that the words behind it run into, or features from token embeddings that differ
            from the model's own.
    """
    place = Path(folder)
    modules = SentenceModules.read(place, device, dtype)
    chosen = _prompt(modules, prompt, prompt_name, place)
    where = str(modules.transformer)
    check_folder(modules.transformer, (*TOKENIZER_FILES, "vocab.txt", "sentencepiece.bpe.model"))
    with quiet():
        config = load(
            where, "config.json", lambda: transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        )
        architecture = _architecture(config, where)
        tokenizer = load(where, "the tokenizer", lambda: open_tokenizer(where))
        model = load(where, "the weights", lambda: _load_weights(where, architecture, dtype).to(device))
    model.eval().requires_grad_(False)
    if modules.pooling is None:
        pooling = _usual_pooling(config)
        modules = dataclasses.replace(modules, pooling=pooling)
        note = note or f"{place} has no modules.json, so its texts are pooled by {pooling.mode}"
    modules.width(config.get_text_config().hidden_size)
    encoder = SentenceEncoder.create(model, tokenizer, modules, chosen, name)
    vocabulary = encoder.vocabulary.with_words(common_words() if words is None else words)
    encoder = dataclasses.replace(encoder, vocabulary=vocabulary)
    return Backend(name, encoder, None, device, dtype, note or _note(modules, chosen))


def _downloaded(name: str) -> Path:
    """The folder of a repository on the hub, as it is on this machine then."""
    repository = name if "/" in name else f"sentence-transformers/{name}"

    def download() -> Path:
        folder = Path(snapshot_download(repository, allow_patterns=list(FILES), ignore_patterns=list(OTHER_FORMATS)))
        parts = {config.parent.relative_to(folder) for config in folder.rglob("config.json")}
        older = [str(part / OLDER_WEIGHTS) for part in parts if not any((folder / part).glob("*.safetensors"))]
        snapshot_download(repository, allow_patterns=older)
        return folder

    return load(repository, "the files", download)


def _prompt(modules: SentenceModules, prompt: str | None, name: str | None, place: Path) -> str:
    """The prompt that was asked for, or the encoder's default."""
    if prompt is not None and name is not None:
        raise BackendError(f"give a prompt or a prompt_name, not both; got {prompt!r} and {name!r}")
    name = modules.default_prompt_name if name is None and prompt is None else name
    if name is not None and name not in modules.prompts:
        known = ", ".join(map(repr, modules.prompts)) or "none"
        raise BackendError(f"{place} has no prompt {name!r}; its own are: {known}. Any other can be given as prompt=")
    chosen = prompt if prompt is not None else "" if name is None else modules.prompts[name]
    if chosen and modules.pooling is not None and not modules.pooling.includes_prompt:
        raise BackendError(
            f"{place} leaves its prompt {chosen!r} out of the pooling (include_prompt is false), which is not "
            "supported; open it with prompt=''"
        )
    return chosen


def _note(modules: SentenceModules, prompt: str) -> str:
    own = [name for name, text in modules.prompts.items() if text]
    if prompt or not own:
        return ""
    return (
        f"nothing stands before the texts; this encoder has prompts for that: prompt_name={' or '.join(map(repr, own))}"
    )


def _architecture(config: Any, where: str) -> str:
    """The name of the class that reads texts alone.

    Raises:
        BackendError: there is none.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind in ARCHITECTURES:
        raise BackendError(
            f"{where} holds a model of type {kind!r}, which has an image tower as well, so it is not a sentence "
            f"encoder; open it as transformers:{where}"
        )
    names = transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES
    found = ENCODER_HALVES.get(kind) or (None if getattr(config, "is_encoder_decoder", False) else names.get(kind))
    model = getattr(transformers, found, None) if isinstance(found, str) else None
    if model is None or "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise BackendError(
            f"{where} holds a model of type {kind!r}, which is not a text encoder that accepts token embeddings; "
            "supported are BERT, MPNet, RoBERTa, XLM-R, DistilBERT, T5's encoder, decoders such as Qwen, and others "
            "like them"
        )
    return str(model.__name__)


def _load_weights(where: str, architecture: str, dtype: torch.dtype) -> Any:
    loaded = getattr(transformers, architecture).from_pretrained(
        where, use_safetensors=None, output_loading_info=True, **{DTYPE: dtype}
    )
    # BERT's own pooler stands behind the states that are read here, and most sentence encoders leave it out.
    return complete(where, loaded, unused=("pooler.",))


def _usual_pooling(config: Any) -> Pooling:
    """What sentence-transformers does with a transformer of which nothing more is said."""
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    causal = architecture.endswith("ForCausalLM") and getattr(config, "is_causal", True)
    return Pooling("lasttoken" if causal else "mean")


# --- the tokenizer ------------------------------------------------------------------------


class PromptedTokenizer:
    """The tokenizer of texts that come after a prompt, which is not part of them.

    Some tokenizers write the first word of a text with other tokens than the same word behind another.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        first, second = tokenizer.encode(f"{prompt}a"), tokenizer.encode(f"{prompt}the")
        pairs = enumerate(zip(first, second, strict=False))
        #: The ids of the prompt itself.
        self.ids = first[: next((place for place, (one, other) in pairs if one != other), len(first))]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        prompted = [f"{self._prompt}{text}" for text in texts]
        if isinstance(self._tokenizer, BatchTokenizer):
            found = self._tokenizer.encode_batch(prompted)
        else:
            found = [self._tokenizer.encode(text) for text in prompted]
        # A text that the prompt runs into keeps all of these, so that it never passes for its own tokens.
        return [
            ids[len(self.ids) :] if ids[: len(self.ids)] == self.ids and text.strip() else ids if text.strip() else []
            for text, ids in zip(texts, found, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self._tokenizer.decode(ids)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids."""
        if isinstance(self._tokenizer, BatchTokenizer):
            return self._tokenizer.decode_batch(batch)
        return [self._tokenizer.decode(ids) for ids in batch]


def _lower_cased(tokenizer: Any, name: str) -> None:
    """Makes the tokenizer read everything in lower case."""
    if not tokenizer.is_fast:
        raise BackendError(
            f"{name} reads texts in lower case (do_lower_case), which needs a fast tokenizer, and it has a "
            f"{type(tokenizer).__name__}; save one with tokenizer.json into its folder"
        )
    backend = tokenizer.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


# --- the encoder --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """A transformer with its pooling and what stands behind that, driven from token embeddings.

    All texts of one pass have as many tokens, so that there is neither padding nor a mask.

    Attributes:
        model: transformers' own, without a head.
        modules: what stands behind it.
        vocabulary: its tokens; the table is that of the words, to which the model adds what it knows of their places.
        max_tokens: tokens that a text may have, special tokens and the prompt not counted.
        prompt: what stands before every text.
        before: embeddings of the special tokens before a text, and of the prompt.
        after: those behind it.
        frozen: the model and its pooling in float32 on a CPU, where that is faster than its modules; else None.
    """

    model: Any
    tokenizer: Any
    modules: SentenceModules
    pooling: Pooling
    vocabulary: Vocabulary
    max_tokens: int
    prompt: str
    before: Float[Tensor, "before dim"]
    after: Float[Tensor, "after dim"]
    frozen: FrozenEncoder | None

    @classmethod
    def create(cls, model: Any, tokenizer: Any, modules: SentenceModules, prompt: str, name: str) -> "SentenceEncoder":
        """The encoder of a frozen model; `name` is for messages.

        Raises:
            BackendError: the tokenizer does not belong to the model, or no text fits behind the prompt.
        """
        assert modules.pooling is not None
        if modules.lower_case:
            _lower_cased(tokenizer, name)
        embedding = model.get_input_embeddings()
        count = embedding.weight.shape[0]
        whole = list(tokenizer(f"{prompt}a")["input_ids"])
        if max([*whole, *tokenizer.all_special_ids]) >= count:
            raise BackendError(
                f"{name}: the tokenizer has ids beyond the model's {count} embeddings; use the tokenizer that "
                "belongs to the model"
            )
        table = embedding(torch.arange(count, device=embedding.weight.device))
        adapted = adapt(tokenizer)
        content = adapted.encode(f"{prompt}a")
        prompted = PromptedTokenizer(adapted, prompt) if prompt else None
        vocabulary = Vocabulary.create(
            table, prompted or adapted, {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        )
        _check_words(vocabulary, prompt, name)
        start = next((at for at in range(len(whole)) if whole[at : at + len(content)] == content), None)
        if start is None:
            raise BackendError(f"{name}: the tokenizer reads a text differently with special tokens than without them")
        fixed = whole[:start] + (prompted.ids if prompted else [])
        behind = whole[start + len(content) :]
        length = min(modules.max_length or context(model, tokenizer), context(model, tokenizer))
        room = length - len(fixed) - len(behind)
        if room < 1:
            raise BackendError(f"{name}: the prompt {prompt!r} leaves no room in the {length} tokens that it reads")
        frozen = frozen_encoder(model, modules.pooling.mode)
        encoder = cls(
            model, tokenizer, modules, modules.pooling, vocabulary, room, prompt, table[fixed], table[behind], frozen
        )
        encoder._check_forward(name)
        return encoder

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts given as the embeddings of all their tokens, without special tokens and the prompt.

        Raises:
            ValueError: more tokens than `max_tokens`.
        """
        rows, tokens = embeddings.shape[:2]
        if tokens > self.max_tokens:
            raise ValueError(f"{tokens} tokens do not fit into the {self.max_tokens} that the encoder has room for")
        parts = (self.before, embeddings.to(self.before.dtype), self.after)
        states = torch.cat([part.expand(rows, -1, -1) for part in parts], dim=1)  # (rows, places, dim)
        return self._through_heads(self._own(inputs_embeds=states) if self.frozen is None else self.frozen(states))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts by the model's own tokenizer; what is beyond its length is left out.

        Texts of as many tokens are taken together, many thousands of them at once if so many are given.

        Raises:
            ValueError: a text without tokens, where the model adds none of its own.
        """
        encoded = self._ids(texts)
        if not all(encoded):
            text = texts[encoded.index([])]
            raise ValueError(
                f"the text {text!r} has no tokens, and the model adds none of its own; give a text with words"
            )
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, own in enumerate(encoded):
            rows_of[len(own)].append(row)
        budget = BATCH_TOKENS.get(self.before.device.type, BATCH_TOKENS["cuda"])
        features, order = [], []
        for places, rows in rows_of.items():
            order += rows
            ids = torch.tensor([encoded[row] for row in rows], device=self.before.device)
            for part in ids.split(max(1, budget // places)):
                vectors = self._own(input_ids=part) if self.frozen is None else self.frozen(self.vocabulary.embed(part))
                features.append(self._through_heads(vectors))
        return torch.cat(features)[torch.tensor(order).argsort().to(self.before.device)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """All ids of each text, special ones and the prompt's too."""
        length = self.max_tokens + len(self.before) + len(self.after)
        prompted = [f"{self.prompt}{text}" for text in texts]
        ids: list[list[int]] = self.tokenizer(prompted, truncation=True, max_length=length)["input_ids"]
        return ids

    def _own(self, **inputs: Tensor) -> Float[Tensor, "rows width"]:
        """What the model itself and the pooling make of texts of as many tokens, given as ids or as embeddings."""
        return self.pooling(self.model(**inputs, **self._options).last_hidden_state)

    @functools.cached_property
    def _options(self) -> dict[str, bool]:
        """Makes decoders keep nothing for tokens that could follow."""
        return {"use_cache": False} if "use_cache" in inspect.signature(self.model.forward).parameters else {}

    def _through_heads(self, vectors: Float[Tensor, "rows width"]) -> Float[Tensor, "rows features"]:
        for head in self.modules.heads:
            vectors = head(vectors)
        return vectors

    @torch.no_grad()
    def _check_forward(self, name: str) -> None:
        """Compares features from token embeddings with those of the model's own forward pass on a few short texts.

        A new release of transformers could make them differ, and every number of a search would then be wrong.
        """
        allowed = self.vocabulary.allowed_ids
        words = [self.vocabulary.decode([int(i)]) for i in allowed[:: len(allowed) // 4 + 1]]
        for text in (words[0], " ".join(words)):
            content = torch.tensor([self.vocabulary.encode(text)[: self.max_tokens]], device=self.before.device)
            ids = torch.tensor(self._ids([text]), device=self.before.device)
            found = self.encode(self.vocabulary.embed(content)).float()
            for expected in (self._through_heads(self._own(input_ids=ids)).float(), self.encode_text([text]).float()):
                tolerance = 1e-3 if self.before.dtype.itemsize > 2 else 5e-2
                difference = float((found - expected).norm() / expected.norm())
                check_finite(self.model, name, found, expected)
                if difference > tolerance:
                    raise BackendError(
                        f"{name}: features from token embeddings differ from the model's own by {difference:.2g} (more "
                        f"than {tolerance:g}); the weights are not finite, the tokenizer is not the model's, or "
                        f"transformers {transformers.__version__} computes a {type(self.model).__name__} in a new way"
                    )


def _check_words(vocabulary: Vocabulary, prompt: str, name: str) -> None:
    """Raises BackendError where the tokenizer has no words, or has none behind the prompt."""
    allowed = vocabulary.allowed_ids[:: max(1, len(vocabulary.allowed_ids) // 16)].tolist()
    if not allowed:
        raise BackendError(
            f"{name}: none of the tokenizer's tokens is text that encodes to that token; its files are damaged"
        )
    behind = [vocabulary.respelled([token]) for token in allowed] if prompt else []
    torn = sum(ids is None or not vocabulary.survives_round_trip(ids) for ids in behind)
    if 2 * torn > len(behind):
        raise BackendError(f"{name}: the words behind the prompt {prompt!r} run into it; end it with a space")
