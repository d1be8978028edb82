"""Masked language models of transformers, driven from token embeddings."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.encoders import LanguageModelKind
from hardprompts_transformers.adapter import Adapter
from hardprompts_transformers.causal import positions


class MaskedLanguageModel(Adapter):
    """A model that fills in masks: BERT, RoBERTa and XLM-R."""

    @property
    def kind(self) -> LanguageModelKind:
        """What is predicted where: the token that stands masked at a place."""
        return "masked"

    def states(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        decoder_ids: Int[Tensor, "rows decoded"] | None = None,
    ) -> Float[Tensor, "rows tokens width"]:
        """The last hidden states, before the head."""
        base = self.model.base_model
        # RoBERTa counts its places from behind the padding index; BERT has no padding index there.
        offset = base.embeddings.position_embeddings.padding_idx
        with self.checkpointing(embeddings):
            output = base(
                inputs_embeds=embeddings,
                attention_mask=mask.long(),
                position_ids=positions(mask) + (0 if offset is None else offset + 1),
            )
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """The head: BERT's is called cls, RoBERTa's lm_head."""
        head = self.model.cls if hasattr(self.model, "cls") else self.model.lm_head
        logits: Tensor = head(states)
        return logits
