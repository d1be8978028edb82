"""A conformance suite for plugins, and a small model to try things on.

Call `check_backend` with a backend that you open, `check_captioner` with a captioner, `check_generator` with what
draws, `check_proposer` with a proposer, `check_search` with a method of yours, and `check_format` with a format;
each raises AssertionError with a sentence about what is wrong, and returns None when all is well.
"""

import contextlib
import dataclasses
import functools
import math
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from hardprompts.applications.pictures import Generate, pictures_of
from hardprompts.atomic import write_files_atomically
from hardprompts.encoders import Backend, LanguageModelKind, normalize
from hardprompts.errors import FileFormatError, ImageError, NonFiniteError
from hardprompts.inversion.captioning import Captioner, captions_of
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.inversion.likelihoods import likelihoods
from hardprompts.inversion.proposals import LikelihoodProposer, Proposer, proposed_texts
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.loop import run_search
from hardprompts.search.protocol import Search
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.containers import Match, open_file
from hardprompts.softprompts.prompt import SoftPromptFormat
from hardprompts.softprompts.tensors import StoredTensor
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary

WORDS = (
    "red green blue white black small big old new quick slow cat dog bird fish horse tree house river "
    "mountain road boat car train sun moon star cloud rain snow wind fire stone glass paper wood gold "
    "silver night day morning winter summer city village garden forest ocean island bridge tower door "
    "window painting drawing photo sketch portrait style of in on with under over near and the a"
).split()
#: Pieces that only spell something together, so that some sequences of tokens have no text of their own.
PIECES = ("ca", "do", "fi", "mo", "st")


class WordTokenizer:
    """Words between white space; `PIECES` join the word behind them, as pieces of a real tokenizer do."""

    def __init__(self) -> None:
        self.tokens = (*WORDS, *PIECES, "<end>")

    def encode(self, text: str) -> list[int]:
        """The ids of known words; unknown words are skipped."""
        return [self.tokens.index(word) for word in text.lower().split() if word in self.tokens and word not in PIECES]

    def decode(self, ids: Sequence[int]) -> str:
        """Words with spaces between; pieces without."""
        return "".join(self.tokens[i] + ("" if self.tokens[i] in PIECES else " ") for i in ids).strip()


class ToyEncoder:
    """A text and an image tower with seeded random weights, on words: small, smooth and not linear.

    The picture of a text is a row of pixels that holds its words' ids (`picture`), and the image
    tower reads them back; so the right prompt of a picture is known, and is the best there is.
    """

    max_tokens = 16

    def __init__(self, device: torch.device | str = "cpu", width: int = 32, features: int = 48) -> None:
        def weights(*shape: int) -> Tensor:
            draw = torch.Generator().manual_seed(zlib.crc32(str(shape).encode()))
            drawn = torch.randn(*shape, generator=draw) / math.sqrt(shape[0])
            return drawn.to(device)

        self.tokenizer = WordTokenizer()
        size = len(self.tokenizer.tokens)
        self.vocabulary = Vocabulary.create(weights(size, width) * size**0.5, self.tokenizer, [size - 1])
        self.position = weights(self.max_tokens, width) * 0.3
        self.hidden, self.output = weights(width, 2 * features), weights(2 * features, features)

    def encode(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Features of texts, from their tokens' embeddings and places."""
        places = self.position[: embeddings.shape[1]].to(embeddings.dtype)
        hidden = torch.tanh((embeddings + places) @ self.hidden.to(embeddings.dtype))
        return hidden.sum(dim=1) @ self.output.to(embeddings.dtype)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch features"]:
        """Features of texts."""
        rows = [torch.tensor(self.tokenizer.encode(text), dtype=torch.long) for text in texts]
        return torch.cat([self.encode(self.vocabulary.embed(row.to(self.position.device))[None]) for row in rows])

    def picture(self, text: str) -> Image.Image:
        """The RGB picture whose best prompt is `text`."""
        ids = self.tokenizer.encode(text)
        image = Image.new("RGB", (len(ids), 1))
        image.putdata([(i, 0, 0) for i in ids])
        return image

    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch features"]:
        """Features of pictures of texts."""
        words = [[self.tokenizer.tokens[pixel[0] % len(WORDS)] for pixel in _pixels(image)] for image in images]
        return self.encode_text([" ".join(row[: self.max_tokens]) for row in words])


def _pixels(image: Image.Image) -> list[tuple[int, int, int]]:
    data = image.convert("RGB").tobytes()
    return [(data[i], data[i + 1], data[i + 2]) for i in range(0, len(data), 3)]


def toy_backend(name: str = "", *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backend:
    """A model of a hundred words that needs no file and answers at once."""
    encoder = ToyEncoder(device)
    toy = Backend("toy", encoder, encoder, torch.device(device), dtype)
    return toy.reopened_by(functools.partial(toy_backend, device=device, dtype=dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class ToyLanguageModel:
    """A language model with seeded random weights on the toy words, and a token for "mask".

    Each place sees all places before it (as a seq2seq or masked model, all places), mixed with weights that
    depend on what stands there, so that the order and the company of words matter.

    Attributes: those of `hardprompts.encoders.LanguageModel`.
    """

    vocabulary: Vocabulary
    query: Float[Tensor, "dim dim"]
    value: Float[Tensor, "dim dim"]
    position: Float[Tensor, "places dim"]
    kind: LanguageModelKind = "causal"
    name: str = "toy-lm"

    output_scale = 1.0
    max_tokens = 64

    @classmethod
    def create(
        cls, kind: LanguageModelKind = "causal", *, width: int = 24, seed: int = 0, device: torch.device | str = "cpu"
    ) -> "ToyLanguageModel":
        """A toy of one kind; the same seed gives the same weights."""
        draw = torch.Generator().manual_seed(seed)
        tokenizer = WordTokenizer()
        size = len(tokenizer.tokens)

        def weights(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(device)

        vocabulary = Vocabulary.create(weights(size, width), tokenizer, [size - 1])
        position = weights(cls.max_tokens, width) * 0.5
        return cls(vocabulary, weights(width, width) / 2, weights(width, width) / width**0.5, position, kind)

    @property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The end token stands before every text, and behind it where the whole text is seen."""
        end = len(self.vocabulary) - 1
        return (end,), () if self.kind == "causal" else (end,)

    @property
    def mask_id(self) -> int | None:
        """A piece that no text has."""
        return None if self.kind == "causal" else len(self.vocabulary) - 2

    def states(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        decoder_ids: Int[Tensor, "rows decoded"] | None = None,
    ) -> Float[Tensor, "rows places dim"]:
        """One layer of attention over the tokens that are not padding."""
        if self.kind == "seq2seq":
            start = torch.full((len(embeddings), 1), len(self.vocabulary) - 1, device=embeddings.device)
            written = start if decoder_ids is None else torch.cat([start, decoder_ids], dim=1)
            length = written.shape[1]
            embeddings = torch.cat([embeddings, self.vocabulary.embed(written)], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), length)], dim=1)
        places = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        inputs = embeddings + self.position[places]
        attention = (inputs @ self.query) @ inputs.transpose(1, 2) / inputs.shape[-1]
        seen = mask.unsqueeze(1).expand_as(attention)
        if self.kind != "masked":
            seen = seen & torch.ones_like(seen[0]).tril()
        # A finite bound, so that a row that sees nothing, as padding at the front does, stays a number.
        mixed = attention.masked_fill(~seen, -1e9).softmax(dim=-1) @ inputs
        states = torch.tanh(mixed @ self.value + inputs)
        return states[:, -length:] if self.kind == "seq2seq" else states

    def logits(self, states: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """The products with the embeddings."""
        return states @ self.vocabulary.table.T


def toy_language_model(
    kind: LanguageModelKind = "causal", *, seed: int = 0, device: torch.device | str = "cpu"
) -> Backend:
    """A language model of a hundred words that needs no file and answers at once."""
    model = ToyLanguageModel.create(kind, seed=seed, device=device)
    toy = Backend.of_language_model(model, device=torch.device(device), dtype=torch.float32)
    return toy.reopened_by(functools.partial(toy_language_model, kind, seed=seed, device=device))


def check_backend(backend: Backend, texts: Sequence[str] = ("a red house near the river", "old boat")) -> None:
    """Checks that a backend keeps its contract.

    Args:
        texts: what the model's tokenizer knows; the words are only examples.

    Raises:
        AssertionError: with what is wrong.
    """
    vocabulary, encoder = backend.vocabulary, backend.text_encoder
    tolerance = 1e-4 if backend.dtype == torch.float32 else 3e-2
    assert vocabulary.allowed.any(), "no token survives decode -> encode: check the tokenizer's decode"
    assert encoder.max_tokens >= 1, "max_tokens must leave room for a token"
    assert not vocabulary.table.requires_grad, "the table must be frozen"

    # The embeddings' route must equal the model's own.
    for text in texts:
        ids = torch.tensor([vocabulary.encode(text)], device=vocabulary.table.device)
        assert ids.shape[1] > 0, f"the tokenizer gives no ids for {text!r}"
        own = backend.encode_texts([text])
        with torch.no_grad():
            ours = normalize(encoder.encode(vocabulary.embed(ids)))
        difference = float((own - ours).abs().max())
        assert difference < tolerance, f"encode(embed(ids)) differs from encode_text by {difference:.1e} for {text!r}"

    # A batch must not change its rows, and encode_text must take texts of different lengths.
    together = backend.encode_texts(list(texts))
    apart = torch.cat([backend.encode_texts([text]) for text in texts])
    assert torch.allclose(together, apart, atol=tolerance), "the features of a text depend on its batch"

    # Without its only token a prompt is empty, and what the token contributes is still to be said.
    with contextlib.suppress(ValueError):  # of a model that adds no tokens of its own
        assert backend.encode_texts([""]).isfinite().all(), "the features of an empty text are not finite"

    # Gradients reach the embeddings, and only those.
    generator = torch.Generator().manual_seed(0)
    length = min(4, encoder.max_tokens)
    ids = vocabulary.sample((2, length), generator)
    embeddings = vocabulary.embed(ids).clone().requires_grad_()
    with torch.enable_grad():
        normalize(encoder.encode(embeddings))[:, 0].sum().backward()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all(), "no finite gradient at the embeddings"
    assert embeddings.grad.abs().amax(dim=2).gt(0).all(), "the gradient of some token is zero"

    # Nearly every sequence of allowed tokens has a text that encodes to it.
    rows = vocabulary.sample((200, length), generator).tolist()
    surviving = sum(vocabulary.survives_round_trip(row, PromptTemplate("a photo of {}")) for row in rows)
    assert surviving >= 180, f"only {surviving} of 200 random prompts of allowed tokens survive the round trip"

    if backend.image_encoder is not None:
        pictures = [Image.new("RGB", (40, 30), color) for color in ("red", "navy")]
        features = backend.encode_images(pictures)
        assert features.shape == together[:1].expand(2, -1).shape, "image and text features differ in width"
        assert features.isfinite().all(), "image features are not finite"


def check_inversions(
    backend: Backend,
    count: int = 250,
    *,
    templates: Sequence[str] = ("{}", "a photo of {}", "{} in the night"),
    max_tokens: int = 8,
) -> None:
    """Checks that `count` short inversions all return text that is encoded to the ids they return, in its template.

    Args:
        templates: each gets its share of the inversions.
        max_tokens: of a prompt; the lengths are 1 to this, or to what the context has room for.

    Raises:
        AssertionError: with the first prompt that does not keep the promise.
    """
    inverter, vocabulary = PromptInverter(backend), backend.vocabulary
    width = backend.encode_texts(["a"]).shape[1]
    generator = torch.Generator().manual_seed(0)
    lengths = list(range(1, max_tokens + 1))
    runs = [(template, length) for template in templates for length in lengths]
    for run, (template, length) in enumerate(runs):
        share = count // len(runs) + (run < count % len(runs))
        before, after = vocabulary.template_ids(PromptTemplate(template))
        room = EmbeddedTemplate.of(vocabulary, PromptTemplate(template)).room(backend.text_encoder.max_tokens)
        num_tokens = min(length, room)
        if not share or num_tokens < 1:
            continue
        targets = torch.randn(share, 1, width, generator=generator)
        prompts = inverter.invert_each(
            list(targets), batch_size=share, num_tokens=num_tokens, template=template, restarts=2, max_steps=3,
            top_k=2, seed=run, progress=False,
        )  # fmt: skip
        for prompt in prompts:
            for text, ids in [(prompt.text, prompt.token_ids), *((c.text, c.token_ids) for c in prompt.candidates)]:
                found = vocabulary.encode(template.replace("{}", text))
                expected = [*before, *ids, *after]
                assert found == expected, f"{text!r} in {template!r} is encoded to {found}, not to {expected}"


def check_search(
    search: Search,
    *,
    max_steps: int = 150,
    planted: str = "red house near river",
    device: torch.device | str = "cpu",
) -> None:
    """Checks that a method keeps its contract, and that it searches: it must beat random prompts.

    Args:
        max_steps: steps that it may take.
        planted: words of `WORDS` that it should come near to.
        device: where it searches; on a GPU a tensor that a method makes on the CPU is an error.

    Raises:
        AssertionError: with what is wrong.
    """
    backend = toy_backend(device=device)
    vocabulary = backend.vocabulary
    target = backend.encode_texts([planted])[:, None]
    objective = FeatureSimilarity(backend.text_encoder, target, torch.ones(1, 1, device=target.device))
    initial = vocabulary.sample((32, 4), torch.Generator().manual_seed(1))
    found = run_search(search, objective, objective, vocabulary, initial, max_steps=max_steps, seed=0)[0]
    again = run_search(search, objective, objective, vocabulary, initial, max_steps=max_steps, seed=0)[0]
    assert found.candidates == again.candidates, "the same seed gave another result: draw from `generator` alone"

    for candidate in found.candidates:
        assert vocabulary.survives_round_trip(candidate.token_ids), f"{candidate.text!r} fails the round trip"
        ids = torch.tensor([candidate.token_ids], device=target.device)
        own = float(objective.score(ids, torch.zeros_like(ids[:, 0])))
        assert abs(own - candidate.score) < 1e-4, f"the score of {candidate.text!r} is {own}, not {candidate.score}"

    draws = vocabulary.sample((found.evaluations, 4), torch.Generator().manual_seed(2))
    random_best = float(objective.score(draws, torch.zeros_like(draws[:, 0])).max())
    assert found.best.score > random_best, (
        f"found {found.best.score:.3f}, but as many random prompts as it spent evaluations reach {random_best:.3f}"
    )

    banned = planted.split(maxsplit=1)[0]
    without = run_search(
        search, objective, objective, vocabulary.without([banned]), initial, max_steps=min(max_steps, 20), seed=0,
        template=PromptTemplate("the {}"),
    )[0]  # fmt: skip
    assert all(banned not in candidate.text for candidate in without.candidates), "a banned word was returned"

    limit = min(200, found.evaluations)
    cut = run_search(search, objective, objective, vocabulary, initial, max_evaluations=limit, seed=0)[0]
    assert cut.evaluations <= limit, f"{cut.evaluations} passes with a limit of {limit}: evaluate by `objective` alone"

    assert dataclasses.is_dataclass(search), "a method is a frozen dataclass: its fields are its hyperparameters"
    fields = {field.name for field in dataclasses.fields(search)}
    assert set(vars(search)) <= fields, f"a method has no state: {sorted(set(vars(search)) - fields)} belong in steps()"


def check_captioner(captioner: Captioner, images: Sequence[Image.Image] = ()) -> None:
    """Checks that a captioner gives one text for each image, the same each time, whatever else is captioned with it.

    Args:
        images: RGB images to try it on, beside some of unusual sizes.

    Raises:
        AssertionError: with what is wrong.
    """
    tried = [
        *images,
        Image.linear_gradient("L").convert("RGB"),
        Image.new("RGB", (40, 3), "red"),
        Image.new("RGB", (1, 1)),
    ]
    try:
        captions = captions_of(captioner, tried)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    assert captions_of(captioner, tried) == captions, "the same images gave other captions the second time"
    alone = captions_of(captioner, tried[:1])
    assert alone == captions[:1], f"an image is {captions[0]!r} among others, and {alone[0]!r} alone"


def check_generator(generate: Generate, prompts: Sequence[str] = ("a red house", "old boat")) -> None:
    """Checks that a generator draws a picture for each prompt, the same for the same prompt and seed.

    A picture may be refused, as None; one of all must be there.

    Args:
        prompts: two or more, to try it on.

    Raises:
        AssertionError: with what is wrong.
    """
    texts, seeds = [*prompts, prompts[0]], list(range(len(prompts) + 1))
    try:
        drawn, again = (pictures_of(generate, texts, seeds) for _ in range(2))
    except ImageError as error:
        raise AssertionError(str(error)) from error
    kinds = {type(picture).__name__ for picture in drawn if not isinstance(picture, Image.Image | None)}
    assert not kinds, f"a picture must be one of PIL, or None, and is a {', '.join(kinds)}"
    pixels = [None if picture is None else picture.convert("RGB").tobytes() for picture in drawn]
    assert any(own is not None for own in pixels), "no picture came at all"
    repeated = [None if picture is None else picture.convert("RGB").tobytes() for picture in again]
    assert pixels == repeated, "the same prompts and seeds gave other pictures the second time"


def check_proposer(proposer: Proposer, backend: Backend, texts: Sequence[str] = ("a red house", "old boat")) -> None:
    """Checks that a proposer gives texts for each of several targets, the same of the same generator.

    Of one that knows how likely texts are it also checks that: whatever the text, and whatever is asked beside it.

    Args:
        texts: whose features it is asked to write texts for; it must have something to say of one of them.

    Raises:
        AssertionError: with what is wrong.
    """
    features = backend.encode_texts(list(texts))

    def proposed(count: int) -> list[list[str]]:
        given = features.clone()
        try:
            found = proposed_texts(proposer, given, count, 8, torch.Generator().manual_seed(0))
        except ValueError as error:
            raise AssertionError(str(error)) from error
        assert torch.equal(given, features), "it changed the features that it was given"
        return found

    many = proposed(4)
    assert any(many), f"it proposed nothing for {', '.join(map(repr, texts))}"
    torch.rand(7)  # of torch's own generator, which a proposer is not to draw from
    assert proposed(4) == many, "the same generator gave other texts the second time; draw from `generator` alone"
    assert all(len(own) <= 1 for own in proposed(1)), "it proposed more texts than it was asked for"
    if isinstance(proposer, LikelihoodProposer):
        _check_likelihoods(proposer, features, [*texts, *(text for own in many for text in own), ""])


def _check_likelihoods(
    proposer: LikelihoodProposer, features: Float[Tensor, "targets features"], texts: Sequence[str]
) -> None:
    def told(asked: Sequence[str]) -> list[float]:
        try:
            found: list[float] = likelihoods([proposer], features[:1].expand(len(asked), -1), asked).tolist()
        except (ValueError, NonFiniteError) as error:
            raise AssertionError(str(error)) from error
        return found

    for text, among in zip(texts, told(texts), strict=True):
        assert among <= 1e-3, f"the log-likelihood of {text!r} is above 0: {among}"
        (alone,) = told([text])
        assert abs(alone - among) < 1e-2, f"{text!r} has the log-likelihood {among} among others, and {alone} alone"


#: Soft prompts of the kinds that are shared: text encoders and their widths.
SOFT_PROMPT_KINDS = (
    {"clip_l": 768},
    {"clip_h": 1024},
    {"clip_l": 768, "clip_g": 1280},
    {"clip_l": 768, "t5xxl": 4096},
    {"text_encoder": 32},
    {"lm": 64},
    {"lm_encoder": 64, "lm_decoder": 64},
)


def check_format(format: SoftPromptFormat, samples: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Checks that a format keeps its contract: what it writes it knows and reads again, to the last bit.

    Args:
        samples: files of the format, which it must know and read; a format that only reads needs some.

    Raises:
        AssertionError: with what is wrong.
    """
    assert samples or format.suffixes, "a format that only reads is checked with samples=[...]"
    for sample in samples:
        file = open_file(sample)
        assert format.detect(file) is not Match.NO, f"it does not know {os.fspath(sample)!r}"
        assert len(format.read(file)) > 0, f"it found no soft prompt in {os.fspath(sample)!r}"
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in format.suffixes:
            written = 0
            for kind in SOFT_PROMPT_KINDS:
                for tokens in (1, 3):
                    embeddings = {name: torch.randn(tokens, width, generator=generator) for name, width in kind.items()}
                    prompt = SoftPrompt(embeddings, name="<red-panda>", step=7, base_models=("some model",))
                    written += _check_round_trip(format, prompt, Path(folder) / f"{written}" / f"learned{suffix}")
            assert written, f"it writes none of {', '.join(map(str, SOFT_PROMPT_KINDS))} to {suffix!r}"

        (Path(folder) / "notes.txt").write_text("no tensors here\n" * 10, encoding="utf-8")
        stranger = open_file(Path(folder) / "notes.txt")
        weight = StoredTensor.of(torch.zeros(2, 3, 4, 4))
        trees: tuple[dict[str, StoredTensor], ...] = ({}, {"conv.weight": weight})
        for other in (stranger, open_file(folder), *(stranger.inside(tree, "") for tree in trees)):
            assert format.detect(other) is Match.NO, f"it claims to know {other.path.name!r} with {other.tree!r}"


def _check_round_trip(format: SoftPromptFormat, prompt: SoftPrompt, path: Path) -> bool:
    """False if the format has no place for this soft prompt."""
    try:
        contents = format.write(prompt, path)
    except FileFormatError:
        return False
    assert contents, f"it wrote no file for {prompt}"
    assert dict(format.write(prompt, path)) == dict(contents), f"{prompt} gave other bytes the second time"
    assert not any(place.exists() for place in contents), "`write` returns the bytes; hardprompts writes them"
    write_files_atomically(contents)
    file = open_file(path)
    assert format.detect(file) is not Match.NO, f"it does not know the file that it wrote for {prompt}"
    found = format.read(file)
    assert len(found) == 1, f"{prompt} came back as {len(found)} soft prompts"
    assert found[0].encoders == prompt.encoders, f"{prompt} came back with {found[0].encoders}"
    for encoder, values in prompt.embeddings.items():
        assert torch.equal(found[0].embeddings[encoder], values), f"{prompt} came back with other values for {encoder}"
    return True
