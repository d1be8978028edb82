"""What a prompt is to have in common with an original: features, states of the text encoder, or predicted noise.

Each is Objective and Score at once, in one template, and tells the distance of any text from the original. The
original is given as token embeddings, so it may be a text or a soft prompt.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import Backend, NoisePredictor, StateEncoder, TextEncoder, normalize
from hardprompts.errors import BackendError, NonFiniteError, TemplateError
from hardprompts.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.objectives import Evaluation, FeatureSimilarity, Stochastic
from hardprompts.prompts import SLOT, PromptTemplate
from hardprompts.vocabulary import Vocabulary

#: An original as embeddings, (tokens, dim) each; a text that is longer than the context has several windows.
Windows = Sequence[Float[Tensor, "_ dim"]]


@runtime_checkable
class Match(Protocol):
    """One quantity in one template, in which prompts are compared with the original of each task.

    Attributes:
        template: where prompts are compared.
        unit: of the score, which is 1 less the distance.
    """

    @property
    def template(self) -> PromptTemplate: ...

    @property
    def unit(self) -> str: ...

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation: ...

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]: ...

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        """How far each text in the template is from the original of a task; "" is the empty slot."""
        ...

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        ...


# --- features -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMatch(FeatureSimilarity):
    """The cosine similarity with the text features of an original."""

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        features = normalize(encoded(self.text_encoder, [filled(self.template, text) for text in texts]))
        found: list[float] = (1 - features @ self.mean_targets[group].to(features)).tolist()
        return found


@torch.no_grad()
def encoded(encoder: TextEncoder, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    """The features of texts as the model's own tokenizer reads them, in no more of the context than they fill.

    What is over the context is cut off, as by the model itself.
    """
    rows = [encoder.vocabulary.encode(text) for text in texts]
    if max(map(len, rows), default=0) > encoder.max_tokens:
        return encoder.encode_text(texts)
    found: dict[int, Tensor] = {}
    for length in sorted({len(row) for row in rows}):
        chosen = [place for place, row in enumerate(rows) if len(row) == length]
        ids = torch.tensor([rows[place] for place in chosen], dtype=torch.long, device=encoder.vocabulary.table.device)
        found |= zip(chosen, encoder.encode(encoder.vocabulary.embed(ids)), strict=True)
    return torch.stack([found[place] for place in range(len(rows))])


def match_features(
    backend: Backend, originals: Sequence[Windows], template: PromptTemplate = PromptTemplate()
) -> FeatureMatch:
    """Prompts that have the text features of the originals, one for each task.

    Of an original in several windows the target is the direction of the mean of their unit features, each
    weighted with its number of tokens.

    Raises:
        TemplateError: an original does not fit into the context beside the template.
        NonFiniteError: its features are NaN or infinite.
    """
    encoder = backend.text_encoder
    # The targets are not known yet, but what goes around a prompt and how features are taken is.
    bare = FeatureMatch(encoder, torch.zeros(1, 1, 1), torch.ones(1, 1), template)
    targets = []
    with torch.no_grad():
        for windows in originals:
            check_room(windows, bare.free_tokens(), template, backend.name)
            features = [bare.features(window[None].to(encoder.vocabulary.table)) * len(window) for window in windows]
            targets.append(normalize(torch.cat(features).sum(dim=0)))
    found = torch.stack(targets).unsqueeze(1)  # (tasks, 1, features)
    if not found.isfinite().all():
        raise NonFiniteError(
            f"the features of the original are NaN or infinite with {backend.name}; use dtype=torch.float32"
        )
    return FeatureMatch(encoder, found, torch.ones(found.shape[:2], device=found.device), template)


# --- states -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ContextStates:
    """A text encoder's states at every place of the padded context, whatever has them.

    Attributes:
        source: a text encoder, or a denoiser, whose text encoders' states are those that it is told.
        name: of the model, for messages.
    """

    source: StateEncoder | NoisePredictor
    vocabulary: Vocabulary
    max_tokens: int
    name: str

    @classmethod
    def of(cls, backend: Backend) -> "ContextStates":
        """Those of a backend: of its denoiser if it has one, else of its text encoder.

        Raises:
            BackendError: its text encoder gives features only, or states at as many places as there are tokens.
        """
        if backend.noise_predictor is not None:
            predictor = backend.noise_predictor
            found = cls(predictor, predictor.vocabulary, predictor.max_tokens, backend.name)
        elif isinstance(backend.text_encoder, StateEncoder):
            encoder = backend.text_encoder
            found = cls(encoder, encoder.vocabulary, encoder.max_tokens, backend.name)
        else:
            raise BackendError(
                f"the text encoder of {backend.name} gives features only, and no states place by place; open the "
                "model through transformers or a pipeline (transformers:..., diffusers:...), or use match='features'"
            )
        _ = found.first_place
        return found

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch places states"]:
        """The states of texts given as the embeddings of all their tokens, of which there may be none."""
        if isinstance(self.source, StateEncoder):
            return self.source.encode_states(embeddings)
        parts = [tensor for tensor in self.source.condition(embeddings).tensors if tensor.ndim == 3]
        if not parts or len({part.shape[1] for part in parts}) > 1:
            raise BackendError(
                f"what {self.name} tells its denoiser is no row of states; use match='features' or match='noise'"
            )
        return torch.cat(parts, dim=-1)

    @functools.cached_property
    def _probes(self) -> tuple[int, bool]:
        """The first place that the first token changes, and whether no token changes the places before its own."""
        ids = self.vocabulary.allowed_ids[:2]
        one, other = int(ids[0]), int(ids[-1])
        rows = torch.tensor([[one, one, one], [other, one, one], [one, one, other]], device=ids.device)
        with torch.no_grad():
            states = self(self.vocabulary.embed(rows[:, : self.max_tokens])).float()
            empty = self(self.vocabulary.embed(rows[:1, :0]))
        if empty.shape[1] != states.shape[1]:
            raise BackendError(
                f"what {self.name} tells its denoiser grows with the prompt ({empty.shape[1]} places of none, "
                f"{states.shape[1]} of three tokens), so places cannot be compared; use match='features' or 'noise'"
            )
        scale = states.abs().amax(dim=(1, 2)).max()
        changed = (states[1:] - states[:1]).abs().amax(dim=2) > 1e-5 * scale  # (2, places)
        if not bool(changed.any(dim=1).all()):
            raise BackendError(f"the tokens of a prompt do not change what {self.name} tells its denoiser")
        first, last = (int(row.int().argmax()) for row in changed)
        return min(first, last), last - first == min(3, self.max_tokens) - 1

    @property
    def first_place(self) -> int:
        """The place of a text's first token: behind the special tokens that stand in front."""
        return self._probes[0]

    @property
    def causal(self) -> bool:
        """True if the states at a place depend on the tokens up to there only, as CLIP's do."""
        return self._probes[1]


@dataclasses.dataclass(frozen=True, eq=False)
class StateMatch:
    """The share of the empty slot's distance from an original's states that a prompt removes.

    The distance is the mean squared difference of the states at all places that can be compared. With a
    causal encoder these are the places behind the end of the longer of both texts: there every state has
    seen all of either text, and padding stands in both. The places before hold words, and what stands at
    the fifth place of one text is no answer to the fifth word of another; a denoiser's attention does not
    know places either. Where nothing is left behind the longer text, and with encoders that see both
    ways, all places count.

    Attributes:
        states: the encoder.
        targets: (tasks, places, states) of the originals in the template.
        lengths: (tasks,) their tokens, those of the template among them.
        empty: (tasks,) the distance of the empty slot.
    """

    states: ContextStates
    targets: Float[Tensor, "tasks places states"]
    lengths: Int[Tensor, " tasks"]
    empty: Float[Tensor, " tasks"]
    template: PromptTemplate = PromptTemplate()

    unit = "share of the empty slot's distance removed"

    @functools.cached_property
    def _surroundings(self) -> tuple[Tensor, Tensor]:
        return embedded_template(self.states.vocabulary, self.template)

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        before, after = self._surroundings
        return self.states.max_tokens - len(before) - len(after)

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        around = [part.to(embeddings.dtype).expand(len(embeddings), -1, -1) for part in self._surroundings]
        rows = torch.cat([around[0], embeddings, around[1]], dim=1)
        loss = self._squares(self.states(rows), rows.shape[1], groups) / self.empty[groups]
        return Evaluation(loss, 1 - loss)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            score = self(self.states.vocabulary.embed(ids), groups).score
        assert score is not None
        return score

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        vocabulary, found = self.states.vocabulary, []
        groups = torch.full((1,), group, device=vocabulary.table.device)
        for text in texts:
            ids = vocabulary.encode(filled(self.template, text))
            rows = torch.tensor([ids], dtype=torch.long, device=vocabulary.table.device)
            with torch.no_grad():
                squares = self._squares(self.states(vocabulary.embed(rows)), len(ids), groups)
            found.append(float(squares / self.empty[group]))
        return found

    def _squares(self, states: Tensor, length: int, groups: Tensor) -> Float[Tensor, " batch"]:
        target = self.targets[groups]
        each = (states.float() - target).square().mean(dim=2)  # (batch, places)
        places = torch.arange(each.shape[1], device=each.device)
        end = self.states.first_place + self.lengths[groups].clamp_min(length).unsqueeze(1)
        counted = (places >= end) if self.states.causal else torch.ones_like(each, dtype=torch.bool)
        counted = counted | ~counted.any(dim=1, keepdim=True)
        return (each * counted).sum(dim=1) / counted.sum(dim=1)


def match_states(
    backend: Backend, originals: Sequence[Windows], template: PromptTemplate = PromptTemplate()
) -> StateMatch:
    """Prompts that give the encoder's states, which a denoiser is told, the values that the originals give them.

    Raises:
        BackendError: the model has no such states, or an original is longer than the context.
        TemplateError: an original does not fit into the context beside the template.
        NonFiniteError: the states are NaN or infinite.
    """
    states = ContextStates.of(backend)
    before, after = embedded_template(states.vocabulary, template)
    free = states.max_tokens - len(before) - len(after)
    targets, lengths = [], []
    for windows in originals:
        (original,) = one_window(windows, backend.name)
        check_room([original], free, template, backend.name)
        row = torch.cat([before, original.to(before), after])
        with torch.no_grad():
            targets.append(states(row[None])[0].float())
        lengths.append(len(row))
    found = torch.stack(targets)
    if not found.isfinite().all():
        raise NonFiniteError(
            f"the states of the original are NaN or infinite with {backend.name}; use dtype=torch.float32"
        )
    tasks = torch.arange(len(found), device=found.device)
    sizes = torch.tensor(lengths, device=found.device)
    match = StateMatch(states, found, sizes, torch.ones(len(found), device=found.device), template)
    empty = torch.tensor([match.distances([""], int(task))[0] for task in tasks], device=found.device)
    return dataclasses.replace(match, empty=empty.clamp_min(torch.finfo(empty.dtype).tiny))


# --- noise --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseMatch:
    """The share of an original's effect on a denoiser's predictions that a prompt has, on a fixed bank of noises.

    Attributes:
        judged: the predictions to imitate, on the whole bank; what texts are scored with.
        followed: the same with a mini-batch drawn for each gradient, or `judged` itself.
    """

    judged: NoisePrediction
    followed: NoisePrediction

    unit = "share of the original's effect"

    @property
    def template(self) -> PromptTemplate:
        return self.judged.template

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        return self.followed(embeddings, groups)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return self.judged.score(ids, groups)

    def held(self) -> "NoiseMatch":
        """The same with one draw of noises for all its calls."""
        return dataclasses.replace(self, followed=self.followed.held())

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        predictor, found = self.judged.predictor, []
        for text in texts:
            told = predictor.condition_text(filled(self.template, text))
            groups = torch.full((1,), group, device=self.judged.bank.noisy.device)
            found.append(1 - float(self.judged.scores_of(told, groups)))
        return found

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        return self.judged.free_tokens()


def match_noise(
    predictor: NoisePredictor,
    original: Windows,
    bank: NoiseBank,
    template: PromptTemplate = PromptTemplate(),
    *,
    sample_size: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 8,
) -> NoiseMatch:
    """Prompts under which a denoiser predicts what it predicts under the original, on the bank of one task.

    Args:
        sample_size: items of the bank that are drawn for a gradient, by `generator`; None for all.
        batch_size: rows through the denoiser at once.

    Raises:
        BackendError: the original is longer than the context.
        TemplateError: the original does not fit into the context beside the template.
        NonFiniteError: the predictions are NaN or infinite.
    """
    (window,) = one_window(original, predictor.name)
    plain = NoisePrediction(predictor, bank, template, batch_size=batch_size)
    check_room([window], plain.free_tokens(), template, predictor.name)
    with torch.no_grad():
        told = predictor.condition(in_template(window, predictor.vocabulary, template)[None])
    judged = plain.imitating(told)
    if sample_size is None or sample_size >= len(bank):
        return NoiseMatch(judged, judged)
    return NoiseMatch(judged, dataclasses.replace(judged, sample_size=sample_size, generator=generator))


def own_latents(
    predictor: NoisePredictor,
    original: Float[Tensor, "tokens dim"],
    shape: Sequence[int],
    generator: torch.Generator,
    num_steps: int = 10,
) -> Float[Tensor, "images ..."]:
    """Clean latents that the denoiser itself makes from noise under a prompt given as embeddings, without guidance.

    Args:
        shape: (images, *latent).

    Source: DDIM, arXiv 2010.02502, equation 12 with sigma = 0.
    """
    schedule = predictor.schedule
    with torch.no_grad():
        told = predictor.condition(original[None].to(predictor.vocabulary.table))
        rows = told.rows(torch.zeros(shape[0], dtype=torch.long))
        device = predictor.vocabulary.table.device
        x = torch.randn(tuple(shape), generator=generator).to(device)
        steps = torch.linspace(len(schedule.timesteps) - 1, 0, num_steps + 1).round().long()[:-1]
        clean = x
        for index, step in enumerate(steps.tolist()):
            signal, noise = float(schedule.signal[step]), float(schedule.noise[step])
            timesteps = schedule.timesteps[step].float().repeat(shape[0]).to(device)
            predicted = predictor.predict(x, timesteps, rows).to(x)
            if schedule.prediction == "epsilon":
                clean, epsilon = (x - noise * predicted) / max(signal, 1e-3), predicted
            else:
                clean = {
                    "sample": predicted,
                    "v_prediction": signal * x - noise * predicted,
                    "flow_prediction": x - noise * predicted,
                }[schedule.prediction]
                epsilon = (x - signal * clean) / noise
            if index + 1 < len(steps):
                after = int(steps[index + 1])
                x = float(schedule.signal[after]) * clean + float(schedule.noise[after]) * epsilon
    if not clean.isfinite().all():
        raise NonFiniteError(
            f"the pictures that {predictor.name} makes of the original are NaN or infinite; pass images, or load the "
            "model with dtype=torch.float32"
        )
    return clean


# --- several of one kind ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class MeanMatch:
    """The mean of several matches, one for each of several templates: Objective and Score at once."""

    parts: tuple[Match, ...]

    @property
    def template(self) -> PromptTemplate:
        """That of the first, in which the prompt is returned."""
        return self.parts[0].template

    @property
    def unit(self) -> str:
        return self.parts[0].unit

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        found = [part(embeddings, groups) for part in self.parts]
        scores = [one.score for one in found if one.score is not None]
        loss = torch.stack([one.loss for one in found]).mean(dim=0)
        return Evaluation(loss, torch.stack(scores).mean(dim=0) if len(scores) == len(found) else None)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return torch.stack([part.score(ids, groups) for part in self.parts]).mean(dim=0)

    def held(self) -> "MeanMatch":
        """The same with one draw for all its calls."""
        return MeanMatch(tuple(part.held() if isinstance(part, Stochastic) else part for part in self.parts))  # type: ignore[misc]

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        each = torch.tensor([part.distances(texts, group) for part in self.parts], dtype=torch.float64)
        found: list[float] = each.mean(dim=0).tolist()
        return found

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt in every template."""
        return min(part.free_tokens() for part in self.parts)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanFeatureMatch(MeanMatch):
    """The mean of several feature matches of one encoder, which is a similarity of features side by side too."""

    parts: tuple[FeatureMatch, ...]

    @property
    def text_encoder(self) -> TextEncoder:
        return self.parts[0].text_encoder

    @functools.cached_property
    def mean_targets(self) -> Float[Tensor, "groups features"]:
        """The targets of all templates, side by side, so that the dot product with `features` is the score."""
        joined = torch.cat([part.mean_targets for part in self.parts], dim=1)
        return joined / math.sqrt(len(self.parts))

    def features(self, embeddings: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """The unit features in all templates, side by side and at unit length together."""
        joined = torch.cat([part.features(embeddings) for part in self.parts], dim=1)
        return joined / math.sqrt(len(self.parts))


# --- what they share ----------------------------------------------------------------------


def filled(template: PromptTemplate, text: str) -> str:
    """The template with a text in its slot; of an empty text without white space at the ends."""
    return template.fill(text) if text else template.fill("").strip()


def embedded_template(
    vocabulary: Vocabulary, template: PromptTemplate
) -> tuple[Float[Tensor, "before dim"], Float[Tensor, "after dim"]]:
    """The embeddings of the template's tokens before and after its slot."""
    before, after = vocabulary.template_ids(template) if template.text != SLOT else ([], [])
    device = vocabulary.table.device
    return (
        vocabulary.embed(torch.tensor(before, dtype=torch.long, device=device)),
        vocabulary.embed(torch.tensor(after, dtype=torch.long, device=device)),
    )


def in_template(
    embeddings: Float[Tensor, "tokens dim"], vocabulary: Vocabulary, template: PromptTemplate
) -> Float[Tensor, "filled dim"]:
    """The embeddings with those of the template's tokens around them."""
    before, after = embedded_template(vocabulary, template)
    return torch.cat([before, embeddings.to(before), after])


def one_window(windows: Windows, model: str) -> Windows:
    """The original itself, if the model sees it whole.

    Raises:
        BackendError: it has several windows.
    """
    if len(windows) != 1:
        raise BackendError(
            f"the prompt is {sum(map(len, windows))} tokens long, and {model} itself sees only the first "
            f"{len(windows[0])} or so; use match='features', which takes it window by window"
        )
    return windows


def check_room(windows: Windows, free: int, template: PromptTemplate, model: str) -> None:
    """Raises unless every window fits beside the template.

    Raises:
        TemplateError: one does not.
    """
    longest = max(map(len, windows))
    if longest > free:
        raise TemplateError(
            f"the original has {longest} tokens, and {model} has room for {max(free, 0)} beside the template "
            f"{template.text!r}; use a shorter template"
        )
