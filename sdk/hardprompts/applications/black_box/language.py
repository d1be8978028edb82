"""Words of a prompt that a language model writes anew."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from hardprompts.encoders import Backend, LanguageModel
from hardprompts.errors import BackendError

#: What a model that puts nothing before a text reads before it.
_START = "\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Rewrite:
    """A few neighboring words become what a language model finds likely there, or a word comes in between.

    A model that fills in masks sees both sides of the place; one that writes from left to right sees what stands
    before it, and what stood behind follows as it was.

    Attributes:
        model: a masked or a causal language model, in any tokenizer.
        words: that are replaced, at most.
        tokens: that are written, at most.
        temperature: of what is drawn; 1 as the model has it.

    Raises:
        BackendError: it is neither.
    """

    model: Backend
    words: int = 2
    tokens: int = 2
    temperature: float = 1.0
    name: str = "rewrite"

    def __post_init__(self) -> None:
        language = self.model.language_model
        if language is None or language.kind not in ("masked", "causal"):
            what = "no language model" if language is None else f"a {language.kind} language model"
            raise BackendError(
                f"{self.model.name} is {what}, and prompts are rewritten by masked or causal ones, such as "
                "emoji:emoji-mlm or transformers:FacebookAI/roberta-base"
            )

    def mutated(self, parents: Sequence[str], generator: torch.Generator) -> str | None:
        own = parents[0].split()
        count = int(torch.randint(min(self.words, len(own)) + 1, (), generator=generator))
        first = int(torch.randint(len(own) - count + 1, (), generator=generator))
        before, behind = " ".join(own[:first]), " ".join(own[first + count :])
        tokens = 1 + int(torch.randint(self.tokens, (), generator=generator))
        language = self.model.language_model
        assert language is not None, "that is looked at when it is made"
        fill = self._filled if language.kind == "masked" else self._continued
        written = fill(language, before, behind, tokens, generator)
        return " ".join(f"{before} {written} {behind}".split()) or None

    @torch.no_grad()
    def _filled(self, model: LanguageModel, before: str, behind: str, tokens: int, generator: torch.Generator) -> str:
        """What stands in place of masks, one after the other from left to right."""
        words, (head, tail), mask = model.vocabulary, model.frame, model.mask_id
        assert mask is not None, "masked models have one"
        left = [*head, *(words.encode(before) if before else [])]
        right = [*(words.encode(behind) if behind else []), *tail]
        written: list[int] = []
        for number in range(tokens):
            ids = [*left, *written, *[mask] * (tokens - number), *right]
            if len(ids) > model.max_tokens:
                return ""
            written.append(self._drawn(model, ids, len(left) + number, generator))
        return words.decode(written)

    @torch.no_grad()
    def _continued(
        self, model: LanguageModel, before: str, behind: str, tokens: int, generator: torch.Generator
    ) -> str:
        """What follows the beginning of the text; of a text's end nothing is known."""
        words, head = model.vocabulary, list(model.frame[0]) or model.vocabulary.encode(_START)
        ids = [*head, *(words.encode(before) if before else [])]
        if not ids or len(ids) + tokens > model.max_tokens:
            return ""
        start = len(ids)
        for _ in range(tokens):
            ids.append(self._drawn(model, ids, len(ids) - 1, generator))
        return words.decode(ids[start:])

    def _drawn(self, model: LanguageModel, ids: Sequence[int], place: int, generator: torch.Generator) -> int:
        """A token that may be written, by what is predicted at a place."""
        rows = torch.tensor([list(ids)], device=model.vocabulary.table.device)
        states = model.states(model.vocabulary.embed(rows), torch.ones_like(rows, dtype=torch.bool))
        logits: Tensor = model.logits(states[0, place]).float().masked_fill(~model.vocabulary.allowed, -torch.inf)
        likely = (logits / self.temperature).softmax(dim=-1).cpu()
        return int(torch.multinomial(likely, 1, generator=generator))
