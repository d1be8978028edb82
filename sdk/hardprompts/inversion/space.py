"""What an inversion searches in: the words, the places that are free, and where rows of tokens begin."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.encoders import Backend
from hardprompts.errors import quoted, warn_user
from hardprompts.inversion.options import InversionOptions
from hardprompts.inversion.proposals import Starts
from hardprompts.inversion.required import RequiredWords
from hardprompts.inversion.targets import Target, similarity_with
from hardprompts.inversion.words import chosen_words
from hardprompts.methods.banks import encode_beginning
from hardprompts.methods.phrase_bank import TaskPreparation
from hardprompts.objectives import FeatureSimilarity, check_length, check_template
from hardprompts.prompts import PromptTemplate
from hardprompts.search.memory import Room
from hardprompts.search.protocol import Search
from hardprompts.search.rows import NO_TOKEN, random_starts
from hardprompts.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class SearchSpace:
    """The prompts that may be found, and how similar they are.

    Attributes:
        slot: the template that people paste prompts into.
        words: the tokens that may be used.
        required: words that all prompts begin with, and the template with them.
        objective: the similarity with each task's target, of what stands behind the required words.
        num_tokens: places that are free.
        room: the memory that its batches must fit into, where that is limited.
    """

    slot: PromptTemplate
    words: Vocabulary
    required: RequiredWords
    objective: FeatureSimilarity
    num_tokens: int
    room: Room | None

    @classmethod
    def of(
        cls,
        backend: Backend,
        targets: Sequence[Target],
        options: InversionOptions,
        texts: Sequence[str | None],
        search: Search,
        held: Sequence[object],
    ) -> "SearchSpace":
        """The space of one call.

        Args:
            targets: of the tasks.
            texts: that a search begins with, whose words of several tokens may be used too.
            search: the method.
            held: what is on the device all the time.

        Raises:
            TemplateError, VocabularyError, ValueError: see `PromptInverter.invert`.
        """
        slot = PromptTemplate(options.template)
        whole_phrases = isinstance(search, TaskPreparation)
        words = chosen_words(backend.vocabulary, options, texts, whole_phrases=whole_phrases)
        required = RequiredWords.create(options.required, words, slot)
        objective = similarity_with(backend, targets, required.template)
        num_tokens = options.places(required.free_tokens(options.num_tokens))
        check_length(num_tokens, objective.free_tokens(), required.template, backend.name)
        check_template(backend.text_encoder, slot, backend.name)
        return cls(slot, words, required, objective, num_tokens, options.room(words, search, objective, held))

    def starts(self, options: InversionOptions, captions: Sequence[str | None], seed: int) -> Starts:
        """The rows of tokens that restarts begin with: random ones, the initial prompt, or captions."""
        rows = len(captions) * options.starts
        initial = random_starts(self.words, rows, self.num_tokens, seed, options.initial_prompt)
        _begin_with(captions, initial, self.words, options.starts)
        return Starts(initial, options.starts)


def _begin_with(
    captions: Sequence[str | None], initial: Int[Tensor, "rows tokens"], vocabulary: Vocabulary, restarts: int
) -> None:
    """Lets half of each task's restarts begin with its caption; the first is nothing else."""
    for task, caption in enumerate(captions):
        ids = encode_beginning(caption or "", vocabulary, initial.shape[1])
        if not ids:
            if caption and caption.strip():
                warn_user(
                    f"no restart begins with the caption {quoted(caption)}: its first word is longer than the prompt, "
                    "banned or not in the vocabulary"
                )
            continue
        first = task * restarts
        initial[first : first + max(1, restarts // 2), : len(ids)] = torch.tensor(ids, device=initial.device)
        initial[first, len(ids) :] = NO_TOKEN
