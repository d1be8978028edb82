"""Prompts that can be edited: each word says by itself what it says among the others."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.encoders import normalize
from hardprompts.methods.word_table import WordTable
from hardprompts.objectives import FeatureSimilarity, Score
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import words_in

#: What it costs a prompt if its features have nothing of the sum of its words', as a share of the spread; see
#: `InversionOptions.token_cost`. Of 0, 0.5 and 2, chosen on scenes that no figure is reported of.
EDITABLE_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class EditableScore:
    """A score, less what a prompt means beyond its words: `base - weight * (1 - cosine)`.

    The cosine is that of the prompt's features and of the sum of the features of its words, each by itself. Where it is
    1 the words do not depend on each other: exchanging one moves the prompt by what the two words are apart, and by no
    more.

    Attributes:
        base: the score of the prompts' meaning. Where it is of another model, each prompt takes a second pass, which is
            not counted.
        similarity: by the searched model, whose features these are.
        vocabulary: what the ids are of.
        weight: what a cosine of 0 costs, in the unit of `base`.

    Source: the criterion is that of edit-friendly prompts (Devulapally et al., CVPR 2026), who ask it of the logits of
    a language model; here the model that reads the prompt is asked, about the prompt's own words.
    """

    base: Score
    similarity: FeatureSimilarity
    vocabulary: Vocabulary
    weight: float
    _sums: dict[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        return f"{self.base.unit} and words that can be exchanged"

    @torch.no_grad()
    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        features = self.similarity.features(self.vocabulary.embed(ids))
        if self.base is self.similarity:
            scores = (features * self.similarity.mean_targets[groups]).sum(dim=1)
        else:
            scores = self.base.score(ids, groups)
        texts = [self.similarity.template.fill(self.vocabulary.decode(row)) for row in ids.tolist()]
        cosines = (features * self._sums_of(texts).to(features)).sum(dim=1)
        return scores - (self.weight * (1 - cosines)).to(scores)

    def _sums_of(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """The unit sums of the features of the words of each text."""
        new = {text: words_in(text) for text in dict.fromkeys(texts) if text not in self._sums}
        words = list(dict.fromkeys(word for own in new.values() for word in own))
        encoded = {word: ids for word in words if (ids := tuple(self.vocabulary.encode(word)))}
        encoder = self.similarity.text_encoder
        nothing = torch.zeros_like(self.similarity.mean_targets[0], dtype=torch.float32)
        known = dict.fromkeys(words, nothing)
        if encoded:
            table = WordTable.of(encoder).features(list(encoded.values()), progress=False)
            known.update(zip(encoded, table.to(nothing), strict=True))
        for text, own in new.items():
            self._sums[text] = normalize(sum((known[word] for word in own), start=nothing))
        return torch.stack([self._sums[text] for text in texts])
