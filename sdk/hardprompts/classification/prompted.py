"""A model, a template and a verbalizer together: what a fitted tuner predicts with."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.classification.measures import Measures
from hardprompts.classification.objective import LabelReader
from hardprompts.classification.rows import Row, RowEncoder
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.classification.verbalizer import LabelTokens, Verbalizer
from hardprompts.encoders import Backend, LanguageModel
from hardprompts.errors import BackendError, warn_user


def language_model(backend: Backend) -> LanguageModel:
    """The language model of a backend.

    Raises:
        BackendError: it has none.
    """
    if backend.language_model is None:
        raise BackendError(
            f"{backend.name} is not a language model; pass one such as transformers:openai-community/gpt2, or the "
            "folder of one"
        )
    return backend.language_model


@dataclasses.dataclass(frozen=True, eq=False)
class PromptedModel:
    """A frozen language model that answers with labels, under any prompt.

    Attributes:
        encoder: fills the template.
        reader: reads the likelihood of the label words.
        length_normalized: see `LabelTokens.class_scores`.
    """

    encoder: RowEncoder
    reader: LabelReader
    length_normalized: bool

    @classmethod
    def create(
        cls,
        model: LanguageModel,
        template: ClassificationTemplate,
        verbalizer: Verbalizer,
        *,
        prompt_tokens: int,
        max_length: int | None = None,
        max_batch_tokens: int | None = None,
        length_normalized: bool = False,
    ) -> "PromptedModel":
        """The parts, checked against each other.

        Args:
            prompt_tokens: that are kept free for the prompt.
            max_length: tokens of a filled template; None: as many as the model takes.

        Raises:
            ValueError, TemplateError, VocabularyError, BackendError: see the messages.
        """
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        before, _ = template.around_label("a", "a")
        labels = LabelTokens.create(
            verbalizer, model, before, template.label_space, sentinel=not template.label_is_last
        )
        room = model.max_tokens if max_length is None else min(max_length, model.max_tokens)
        encoder = RowEncoder(model, template, prompt_tokens, labels.longest, room)
        return cls(encoder, LabelReader(model, labels, max_batch_tokens), length_normalized)

    @property
    def labels(self) -> LabelTokens:
        """The label words as tokens."""
        return self.reader.labels

    def class_scores(
        self, prompt: str | Float[Tensor, "tokens dim"], texts: Sequence[str]
    ) -> Float[Tensor, "rows classes"]:
        """The logarithm of the likelihood of each class, of the filled texts as the model's tokenizer reads them.

        Args:
            prompt: text, or a soft prompt as its token embeddings.
        """
        kept = [self.encoder.cut(text) for text in texts]
        shortened = sum(text.strip() != short for text, short in zip(texts, kept, strict=True))
        if shortened:
            warn_user(f"{shortened:,} of {len(texts):,} texts are too long for the model and were cut at their end")
        return self._scores(*self._rows(prompt, kept))

    def measure(
        self,
        prompt: str | Float[Tensor, "tokens dim"],
        texts: Sequence[str],
        targets: Sequence[int],
        *,
        with_category_errors: bool = True,
    ) -> Measures:
        """How well a prompt, or a soft prompt, does on labeled texts; "" is the empty template."""
        rows, soft = self._rows(prompt, texts)
        scores = self._scores(rows, soft)
        if not with_category_errors:
            return Measures.of(scores, targets)
        return Measures.of(scores, targets, self.reader.first_choices(rows, soft), self.labels.first_ids)

    def first_choices(self, prompt: str | Float[Tensor, "tokens dim"], texts: Sequence[str]) -> Int[Tensor, " rows"]:
        """The token that the model itself would begin each answer with, out of its whole vocabulary."""
        return self.reader.first_choices(*self._rows(prompt, texts))

    def _rows(self, prompt: str | Tensor, texts: Sequence[str]) -> tuple[list[Row], Tensor | None]:
        """The rows of the texts, and what goes into their open places: of a text nothing."""
        cut = [self.encoder.cut(text) for text in texts]
        if isinstance(prompt, str):
            return [self.encoder.filled_row(prompt, text) for text in cut], None
        return [self.encoder.row(text) for text in cut], prompt.detach().to(self.encoder.model.vocabulary.table)[None]

    def _scores(self, rows: Sequence[Row], soft: Tensor | None) -> Float[Tensor, "rows classes"]:
        words = self.reader.word_scores(rows, soft)[0]
        return self.labels.class_scores(words, length_normalized=self.length_normalized)

    def prior(self, prompt: str, content_free: Sequence[str] = ("N/A", "", "[MASK]")) -> Float[Tensor, " classes"]:
        """log p of the classes where the text says nothing: what a calibration takes away.

        Source: Zhao et al. 2021, arXiv 2102.09690, section 5 (the mean over content-free texts).
        """
        return self.class_scores(prompt, content_free).softmax(dim=1).mean(dim=0).log()


def batch_prior(scores: Float[Tensor, "rows classes"]) -> Float[Tensor, " classes"]:
    """log p of the classes on average over a batch of unlabelled texts.

    Source: Zhou et al. 2024, arXiv 2309.17249 (batch calibration).
    """
    return torch.log(scores.softmax(dim=1).mean(dim=0))
