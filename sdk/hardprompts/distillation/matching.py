"""What a prompt is to have in common with an original: features, states of the text encoder, or predicted noise.

Each is Objective and Score at once, in one template, and tells the distance of any text from the original. The
original is given as token embeddings, so it may be a text or a soft prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.errors import BackendError, TemplateError
from hardprompts.objectives import Evaluation, Stochastic
from hardprompts.prompts import PromptTemplate

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


def filled(template: PromptTemplate, text: str) -> str:
    """The template with a text in its slot; of an empty text without white space at the ends."""
    return template.fill(text) if text else template.fill("").strip()


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
