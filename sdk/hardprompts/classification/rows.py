"""Filled templates as token ids, with the places of the prompt and the label still open."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.verbalizer import Query
from hardprompts.encoders import LanguageModel
from hardprompts.errors import TemplateError

#: Stand in a row for what is filled in later.
PROMPT, LABEL = -1, -2

Row = tuple[int, ...]

#: Any word that a tokenizer is likely to know: what follows it has the ids that it has inside a text.
_WORD = "a"


@dataclasses.dataclass(frozen=True, eq=False)
class RowEncoder:
    """Texts as rows of ids in a template, for one model.

    Attributes:
        max_tokens: of a row with its prompt and its label; a longer text is cut at its end, and neither
            the template nor the prompt.
        prompt_tokens: tokens that are kept free for the prompt.
        label_tokens: tokens that are kept free for the label.

    Raises:
        TemplateError: something stands behind the label, where this kind of model cannot see it, or the
            template has no room for a text.
    """

    model: LanguageModel
    template: ClassificationTemplate
    prompt_tokens: int
    label_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.model.kind == "causal" and not self.template.label_is_last:
            raise TemplateError(
                f"{self.model.name} reads from left to right and never sees what stands behind the label in "
                f"{self.template.text!r}; end the template with {{label}}"
            )
        if self.model.kind == "seq2seq" and not self.template.label_is_last and self.model.mask_id is None:
            raise TemplateError(f"{self.model.name} has no sentinel token; end the template with {{label}}")
        if not self.template.prompt_is_first and self.model.kind == "causal":
            raise TemplateError(f"the prompt must stand before the label in {self.template.text!r}")
        if self._length(self.row("")) > self.max_tokens:
            raise TemplateError(
                f"the template {self.template.text!r} with {self.prompt_tokens} prompt tokens needs "
                f"{self._length(self.row(''))} tokens and there are {self.max_tokens}; use a shorter one"
            )

    def row(self, text: str) -> Row:
        """The ids of a filled template, PROMPT and LABEL in the open places."""
        around = self.template.surroundings(text)
        before = self.model.vocabulary.ids_before(around.before)
        first, second = (PROMPT, LABEL) if self.template.prompt_is_first else (LABEL, PROMPT)
        return self._framed([*before, first, *self._behind(around.between), second, *self._behind(around.behind)])

    def filled_row(self, prompt: str, text: str) -> Row:
        """The same with a prompt filled in, read as the one text that it is; only LABEL is open.

        This is what a user's tokenizer makes of the filled template, and what `predict` scores.
        """
        before, behind = self.template.around_label(prompt, text)
        return self._framed([*self.model.vocabulary.encode(before), LABEL, *self._behind(behind)])

    def cut(self, text: str) -> str:
        """The text, or as much of its beginning as there is room for; cut between words where possible.

        White space at its ends is left out: beside the template's own it would be tokens that say nothing.
        """
        text = text.strip()
        if self._length(self.row(text)) <= self.max_tokens:
            return text
        low, high = 0, len(text)  # the longest beginning that fits
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._length(self.row(text[:middle])) <= self.max_tokens else (low, middle)
        kept = text[:low]
        while kept and self._length(self.row(kept)) > self.max_tokens:  # a cut within a word may add a token
            kept = kept[:-1]
        words = kept.rsplit(maxsplit=1) if not text[len(kept) : len(kept) + 1].isspace() else [kept]
        return (words[0] if len(words) == 2 else kept).rstrip()

    def misread(self, prompt: str, prompt_ids: Sequence[int], texts: Sequence[str]) -> list[str]:
        """The texts beside which the prompt is not read as `prompt_ids`."""
        found = []
        for text in texts:
            row = self.row(text)
            place = row.index(PROMPT)
            if (*row[:place], *prompt_ids, *row[place + 1 :]) != self.filled_row(prompt, text):
                found.append(text)
        return found

    def _length(self, row: Row) -> int:
        label = self.label_tokens if self.model.kind != "seq2seq" else 1
        return len(row) - 2 + self.prompt_tokens + label

    def _framed(self, ids: Sequence[int]) -> Row:
        return (*self.model.frame[0], *ids, *self.model.frame[1])

    def _behind(self, text: str) -> list[int]:
        """The ids of text that stands behind a word."""
        encode = self.model.vocabulary.encode
        if not text[:1].isspace():
            return encode(text)
        return encode(_WORD + text)[len(encode(_WORD)) :]


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """One batch for a language model: every prompt in every row.

    Attributes:
        embeddings: (prompts * rows, tokens, dim), padded behind.
        mask: (prompts * rows, tokens)
        decoder_ids: (prompts * rows, decoded) of a seq2seq model.
        read_at: (rows,) the place at which the label is read.
        prompt_at: (rows,) where the prompt begins; -1 in rows without one.
    """

    embeddings: Float[Tensor, "batch tokens dim"]
    mask: Bool[Tensor, "batch tokens"]
    decoder_ids: Int[Tensor, "batch decoded"] | None
    read_at: Int[Tensor, " rows"]
    prompt_at: Int[Tensor, " rows"]

    @classmethod
    def create(
        cls,
        model: LanguageModel,
        rows: Sequence[Row],
        prompts: Float[Tensor, "prompts prompt_tokens dim"],
        query: Query,
    ) -> "Inputs":
        """The batch of one query; rows without PROMPT are the same for every prompt."""
        device, (count, length, dim) = model.vocabulary.table.device, prompts.shape
        prompt_at = [row.index(PROMPT) if PROMPT in row else -1 for row in rows]
        open_rows, read_at = [], []
        for row in rows:
            ids: list[int] = []
            for i in row:
                if i == LABEL:
                    place = len(ids)
                    ids.extend(query.inserted)
                elif i == PROMPT:
                    ids.extend([0] * length)
                else:
                    ids.append(i)
            if model.kind == "causal":
                place += len(query.inserted) - 1
            elif model.kind == "seq2seq":
                place = len(query.decoded or ())
            if place < 0:
                raise TemplateError("nothing stands before the label; a causal model needs a text or a prompt there")
            open_rows.append(ids)
            read_at.append(place)
        # The prompt shifts to where the label came before it.
        shifts = [
            len(query.inserted) - 1 if LABEL in row and 0 <= row.index(LABEL) < at else 0
            for row, at in zip(rows, prompt_at, strict=True)
        ]
        starts = torch.tensor([at + shift for at, shift in zip(prompt_at, shifts, strict=True)], device=device)
        width = max(map(len, open_rows))
        table = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in open_rows], device=device)
        mask = torch.tensor([[True] * len(ids) + [False] * (width - len(ids)) for ids in open_rows], device=device)
        embeddings = model.vocabulary.embed(table).expand(count, -1, -1, -1)  # (prompts, rows, tokens, dim)
        if length and max(prompt_at) >= 0:
            assert min(prompt_at) >= 0, "all rows of a batch have a prompt, or none"
            places = (starts.unsqueeze(1) + torch.arange(length, device=device)).reshape(1, len(rows), length, 1)
            source = prompts.to(embeddings.dtype).unsqueeze(1).expand(-1, len(rows), -1, -1)
            embeddings = embeddings.scatter(2, places.expand(count, -1, -1, dim), source)
        decoder = None
        if query.decoded is not None:
            decoder = torch.tensor(query.decoded, dtype=torch.long, device=device).expand(count * len(rows), -1)
        return cls(
            embeddings.reshape(count * len(rows), width, dim),
            mask.expand(count, -1, -1).reshape(count * len(rows), width),
            decoder,
            torch.tensor(read_at, device=device),
            starts,
        )
