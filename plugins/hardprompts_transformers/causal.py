"""Causal language models of transformers, driven from token embeddings."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.encoders import LanguageModelKind
from hardprompts_transformers.adapter import Adapter


def positions(mask: Bool[Tensor, "rows tokens"]) -> Int[Tensor, "rows tokens"]:
    """The place of each token among those that are not padding, so that padding at either end changes nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)


class CausalLanguageModel(Adapter):
    """A model with a left-to-right head: GPT-2, OPT, Llama, Qwen, Gemma and others of the same build."""

    @property
    def kind(self) -> LanguageModelKind:
        """What is predicted where: the next token of the input."""
        return "causal"

    def states(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        decoder_ids: Int[Tensor, "rows decoded"] | None = None,
    ) -> Float[Tensor, "rows tokens width"]:
        """The last hidden states, behind the final normalisation."""
        output = self.model.base_model(
            inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        )
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """The head, with the bound or the scale that some families put behind it."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        config = self.model.config
        if getattr(config, "logit_scale", None):  # Cohere
            logits = logits * config.logit_scale
        if getattr(config, "logits_scaling", None):  # Granite
            logits = logits / config.logits_scaling
        bound = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return logits if not bound else torch.tanh(logits / bound) * bound
