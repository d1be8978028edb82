"""A decoder with all that belongs to it, and its folder: `decoder.safetensors`, `decoder.json` and a card."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.atomic import json_text, write_files_atomically
from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.encoders import PROBES, Backend, normalize, probe_texts
from hardprompts.errors import BackendError, FileFormatError, brief
from hardprompts.hub import CardPart, HubMixin, PullOptions, pull_files
from hardprompts.hub.card import code_span, python_block
from hardprompts.hub.machine import Clearance, model_label
from hardprompts.hub.names import hub_model
from hardprompts_decoder.network import DecoderShape, FeatureDecoder

WEIGHTS, SETTINGS, CARD = "decoder.safetensors", "decoder.json", "README.md"

#: What `decoder.json` says of its own kind.
FORMAT = "hardprompts-decoder-1"

#: The share of every token's likelihood that all tokens have alike, so that none is impossible: one that was never
#: learned costs about as much as the rarest.
SMOOTHING = 0.01

#: Texts whose likelihood is read at once.
TEXTS_AT_ONCE = 256

#: By how much these features may differ, which unit features of another precision do.
TOLERANCE = 2e-2


@dataclasses.dataclass(frozen=True, eq=False)
class TowerMark:
    """What a text tower is known by, whatever the device, the precision and the library that it is opened with.

    Attributes:
        tokens: SHA-256 of the texts of all its tokens.
        features: of a few texts.
    """

    tokens: str
    features: Float[Tensor, "probes features"]

    @classmethod
    def of(cls, backend: Backend) -> "TowerMark":
        """The mark of a model's text tower."""
        vocabulary = backend.vocabulary
        texts = vocabulary.token_texts(range(len(vocabulary.table)))
        digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        features = backend.encode_texts(probe_texts(vocabulary))
        return cls(digest, features.float().cpu())

    def difference(self, other: "TowerMark") -> str:
        """What is different between two text towers, in words; "" if they are the same."""
        if self.features.shape != other.features.shape:
            return f"features of {other.features.shape[1]} numbers, not {self.features.shape[1]}"
        if self.tokens != other.tokens:
            return "other tokens"
        if not torch.allclose(self.features, other.features, atol=TOLERANCE, rtol=0):
            return "other features for the same texts"
        return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder(HubMixin):
    """A trained network, and what is needed to write texts with it for one model.

    Attributes:
        tokens: (tokens,) the model's ids of what the network writes, in its order.
        lengths: (max_tokens + 1,) how many of the training texts had each number of tokens.
        shift: what is taken from features of images, by which they differ from those of texts on the whole.
        mark: of the text tower that it was trained with.
        model: that model's name.
        facts: of its training, for the card; JSON values.
    """

    network: FeatureDecoder
    tokens: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " counts"]
    shift: Float[Tensor, " features"]
    mark: TowerMark
    model: str
    facts: Mapping[str, Any]

    def write(
        self, features: Float[Tensor, "texts features"], count: int, max_tokens: int, generator: torch.Generator
    ) -> list[list[tuple[int, ...]]]:
        """For each row of unit features the ids, in the model's vocabulary, of `count` texts.

        The lengths are drawn as often as they were met in training, up to `max_tokens`. The first text is the
        likeliest of the commonest of them; others are drawn, from bold to careful.
        """
        lengths = self._lengths(len(features), count, max_tokens, generator)
        temperatures = torch.linspace(0, 1, count).expand(len(features), -1) if count > 1 else torch.zeros_like(lengths)
        device = self.network.bias.device
        inputs = normalize(features.to(device).float() - self.shift.to(device))
        written = self.network.write(inputs, lengths.to(device), temperatures.float().to(device), generator)
        ids = self.tokens.tolist()
        return [[tuple(ids[token] for token in row) for row in rows] for rows in written]

    def _lengths(
        self, texts: int, count: int, max_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "texts count"]:
        limit = max(1, min(max_tokens, self.network.shape.max_tokens))
        weights = self.lengths[: limit + 1].float()
        weights[0] = 0
        if not weights.any():  # no text was so short
            return torch.full((texts, count), limit)
        found = torch.multinomial(weights.expand(texts, -1), count, replacement=True, generator=generator)
        found[:, 0] = int(weights.argmax())
        return found

    @torch.no_grad()
    def likelihoods(
        self, features: Float[Tensor, "texts features"], texts: Sequence[Sequence[int]]
    ) -> Float[Tensor, " texts"]:
        """log p of texts of their lengths, given as the model's ids, each with the unit features of its row; in nats.

        Every token has a little more than nothing (`SMOOTHING`), also those that the network does not know, and those
        behind the longest text that it writes.
        """
        device, known = self.network.bias.device, {token: place for place, token in enumerate(self.tokens.tolist())}
        inputs = normalize(features.to(device).float() - self.shift.to(device))
        parts = [
            self._likelihoods(inputs[first : first + TEXTS_AT_ONCE], [[known.get(i, -1) for i in ids] for ids in part])
            for first in range(0, len(texts), TEXTS_AT_ONCE)
            for part in [texts[first : first + TEXTS_AT_ONCE]]
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _likelihoods(
        self, features: Float[Tensor, "texts features"], rows: Sequence[Sequence[int]]
    ) -> Float[Tensor, " texts"]:
        """log p of rows of the network's own tokens, -1 for those that it does not know."""
        shape, device = self.network.shape, features.device
        lengths = torch.tensor([min(len(row), shape.max_tokens) for row in rows], device=device)
        width = int(lengths.max())
        ids = torch.full((len(rows), width + 1), shape.end, device=device)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = torch.tensor(row[:width], dtype=torch.long, device=device)
        logits = self.network(features, lengths, ids[:, :width].clamp_min(0)).float()
        likely = logits.softmax(dim=-1).gather(2, ids.clamp_min(0)[:, :, None]).squeeze(2)
        smooth = (1 - SMOOTHING) * likely.masked_fill(ids < 0, 0.0) + SMOOTHING / (shape.tokens + 1)
        written = torch.arange(width + 1, device=device) <= lengths[:, None]
        beyond = torch.tensor([len(row) for row in rows], device=device) - lengths
        told: Tensor = smooth.log().masked_fill(~written, 0.0).sum(dim=1)
        return (told + beyond * math.log(SMOOTHING / (shape.tokens + 1))).cpu()

    # --- files ----------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Writes the folder; of a folder that is there, only these three files."""
        files = {**self._contents(), CARD: card(model_label(self.model), self.facts).encode()}
        write_files_atomically({folder / name: content for name, content in files.items()})
        return folder

    def _contents(self) -> dict[str, bytes]:
        """The files that hold it, by name, in half precision, and without anything of this machine."""
        weights = {f"network.{name}": value.half() for name, value in self.network.state_dict().items()}
        weights |= {
            "tokens": self.tokens.int(), "lengths": self.lengths.int(), "shift": self.shift.half(),
            "mark": self.mark.features.half(),
        }  # fmt: skip
        shared = self.cleared()[0]
        settings = {
            "format": FORMAT,
            "model": shared.model,
            "tokens_sha256": self.mark.tokens,
            "shape": dataclasses.asdict(self.network.shape),
            "facts": dict(shared.facts),
        }
        return {
            WEIGHTS: safetensors.torch.save({name: value.cpu().contiguous() for name, value in weights.items()}),
            SETTINGS: json_text(settings).encode(),
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> "Decoder":
        """The decoder of a folder.

        Raises:
            BackendError: there is no such folder, or it holds no decoder.
            FileFormatError: its files are damaged.
        """
        place = Path(folder)
        for name in (SETTINGS, WEIGHTS):
            if not (place / name).is_file():
                raise BackendError(
                    f"{place} holds no decoder: it has no {name}; give a folder that `hardprompts decoder train` wrote"
                )
        settings = _settings(place / SETTINGS)
        try:
            weights = safetensors.torch.load_file(place / WEIGHTS)
            with torch.device("meta"):  # what the settings say may be too large for any memory
                network = FeatureDecoder(DecoderShape(**settings["shape"]))
            prefix = "network."
            own = {
                name.removeprefix(prefix): value.float() for name, value in weights.items() if name.startswith(prefix)
            }
            network.load_state_dict(own, assign=True)
            tokens, lengths, shift, mark = (weights[name] for name in ("tokens", "lengths", "shift", "mark"))
            _check_sizes(network.shape, tokens, lengths, shift, mark)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            what = stand_in_at(place / WEIGHTS) or brief(error)
            raise FileFormatError(
                f"the decoder in {place} is damaged: {what}; train it again, or get it again"
            ) from error
        network.to(device).eval().requires_grad_(False)
        return cls(
            network, tokens.long(), lengths.long(), shift.float(),
            TowerMark(str(settings["tokens_sha256"]), mark.float()), str(settings["model"]), settings.get("facts", {}),
        )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls, place: str | os.PathLike[str], device: torch.device | str = "cpu", **options: Unpack[PullOptions]
    ) -> "Decoder":
        """The decoder in a folder, or in a repository of the Hub, of which safetensors and JSON alone are read.

        Args:
            place: a folder; or "user/name", if there is no folder of that name.
            options: revision, token, cache_dir and local_files_only: see `hardprompts.hub.PullOptions`.

        Raises:
            BackendError: it holds no decoder.
            FileFormatError: its files are damaged.
            HubError: there is no such repository, or it cannot be reached and is not in the cache.
        """
        return cls.load(pull_files(place, [SETTINGS, WEIGHTS], **options), device)

    def cleared(self) -> "tuple[Decoder, Clearance]":
        """The same as it may be shared: without the folder of its model; see `HubMixin.cleared`."""
        clearance = Clearance()
        model = clearance.model("model", self.model)
        return dataclasses.replace(self, model=model, facts=clearance.values("facts", dict(self.facts))), clearance

    def hub_files(self, repo_id: str) -> dict[str, bytes]:
        """The files that hold it in a repository, by name."""
        return self._contents()

    def card_part(self, repo_id: str) -> CardPart:
        """What the repository's card says of it."""
        shared = self.cleared()[0]
        return CardPart(
            f"Decoder for {code_span(shared.model)}\n\n{about(shared.model, shared.facts, repo_id)}",
            ("decoder",), "text-generation", hub_model(shared.model),
        )  # fmt: skip

    # --- its model ------------------------------------------------------------------------

    def check(self, backend: Backend, place: object) -> None:
        """Raises unless this decoder was trained with the text tower of a model.

        Raises:
            BackendError: it was not; the message says what is different.
        """
        found = self.mark.difference(TowerMark.of(backend))
        if found:
            raise BackendError(
                f"the decoder in {place} was trained for {self.model}, and {backend.name} has {found}; train one for "
                f"it: hardprompts decoder train --model {backend.name} --texts FILE --save FOLDER"
            )


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = read_json(path)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"{path} is damaged: {stand_in_at(path) or brief(error)}; get the decoder again"
        ) from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise FileFormatError(f"{path} does not describe a decoder of the format {FORMAT}; train it again")
    return settings


def _check_sizes(shape: DecoderShape, tokens: Tensor, lengths: Tensor, shift: Tensor, mark: Tensor) -> None:
    """Raises ValueError unless what belongs to a network of a shape has the sizes that follow from it."""
    wanted = {
        "tokens": (tokens, (shape.tokens,)), "lengths": (lengths, (shape.max_tokens + 1,)),
        "shift": (shift, (shape.features,)), "mark": (mark, (PROBES, shape.features)),
    }  # fmt: skip
    for name, (value, size) in wanted.items():
        if tuple(value.shape) != size:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {size}")


def card(model: str, facts: Mapping[str, Any]) -> str:
    """The README.md of a decoder in a folder."""
    return (
        "---\nlibrary_name: hardprompts\ntags: [hardprompts, decoder]\n---\n\n"
        f"# Decoder for {code_span(model)}\n\n{about(model, facts, 'FOLDER')}\n"
    )


def about(model: str, facts: Mapping[str, Any], place: str) -> str:
    """What a decoder is, how it is used from a folder or repository, and the figures of its training, in Markdown."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {code_span(value)} |" for name, value in facts.items())
    return (
        f"Writes texts whose features in {code_span(model)} are like given ones, of an image say. It was\n"
        "trained on texts alone, with that model's own text tower, and is refused for any other. A search scores what\n"
        "it writes, and returns nothing that it has not scored.\n\n"
        + python_block(
            "from hardprompts import PromptInverter",
            "",
            f"PromptInverter({json.dumps(model)}, proposers=[{json.dumps(f'decoder:{place}')}])",
        )
        + f"\n\n| training | |\n|---|---|\n{rows}"
    )
