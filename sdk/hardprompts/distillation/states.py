"""Matching by hidden states: what a text encoder hands to the denoiser."""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.diffusion.features import conditioning_encoder
from hardprompts.distillation.matching import Windows, check_room, filled, one_window
from hardprompts.encoders import Backend, ConditioningEncoder, StateEncoder
from hardprompts.errors import BackendError, NonFiniteError
from hardprompts.objectives import Evaluation
from hardprompts.prompts import PromptTemplate
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary

#: Texts whose states are held at once: there are as many of each as the context has places.
TEXTS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class ContextStates:
    """A text encoder's states at every place of the padded context, whatever has them.

    Attributes:
        source: a text encoder that gives its states, or the text encoders of a denoiser.
        name: of the model, for messages.
    """

    source: StateEncoder | ConditioningEncoder
    vocabulary: Vocabulary
    max_tokens: int
    name: str

    @classmethod
    def of(cls, backend: Backend) -> "ContextStates":
        """Those of a backend: of its denoiser's text encoders if it has them, else of its text encoder.

        Raises:
            BackendError: its text encoder gives features only, or states at as many places as there are tokens.
        """
        conditioning = conditioning_encoder(backend)
        if conditioning is not None:
            found = cls(conditioning, conditioning.vocabulary, conditioning.max_tokens, backend.name)
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
                f"the conditioning of {self.name} is not one row of states; use match='features' or match='noise'"
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
    the fifth place of one text need not correspond to the fifth word of another; a denoiser's attention does not
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
    def _fixed(self) -> EmbeddedTemplate:
        return EmbeddedTemplate.of(self.states.vocabulary, self.template)

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        return self._fixed.room(self.states.max_tokens)

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        rows = self._fixed.around(embeddings)
        loss = self._squares(self.states(rows), rows.shape[1], groups) / self.empty[groups]
        return Evaluation(loss, 1 - loss)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            score = self(self.states.vocabulary.embed(ids), groups).score
        assert score is not None
        return score

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        vocabulary, device = self.states.vocabulary, self.states.vocabulary.table.device
        rows = [vocabulary.encode(filled(self.template, text)) for text in texts]
        found = [0.0] * len(texts)
        for length in {len(ids) for ids in rows}:
            alike = [place for place, ids in enumerate(rows) if len(ids) == length]
            for start in range(0, len(alike), TEXTS_AT_ONCE):
                part = alike[start : start + TEXTS_AT_ONCE]
                ids = torch.tensor([rows[place] for place in part], dtype=torch.long, device=device)
                groups = torch.full((len(part),), group, device=device)
                with torch.no_grad():
                    squares = self._squares(self.states(vocabulary.embed(ids)), length, groups)
                for place, value in zip(part, (squares / self.empty[group]).tolist(), strict=True):
                    found[place] = value
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
    """Prompts that give the text encoder's states, a denoiser's conditioning, the values that the originals do.

    Raises:
        BackendError: the model has no such states, or an original is longer than the context.
        TemplateError: an original does not fit into the context beside the template.
        NonFiniteError: the states are NaN or infinite.
    """
    states = ContextStates.of(backend)
    fixed = EmbeddedTemplate.of(states.vocabulary, template)
    free = fixed.room(states.max_tokens)
    targets, lengths = [], []
    for windows in originals:
        (original,) = one_window(windows, backend.name)
        check_room([original], free, template, backend.name)
        row = fixed.around(original[None].to(states.vocabulary.table))
        with torch.no_grad():
            targets.append(states(row)[0].float())
        lengths.append(row.shape[1])
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
