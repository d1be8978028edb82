"""Sequence-to-sequence language models of transformers, whose encoder is driven from token embeddings."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hardprompts.encoders import LanguageModelKind
from hardprompts_transformers.adapter import Adapter
from hardprompts_transformers.releases import scales_decoder_outputs


class Seq2SeqLanguageModel(Adapter):
    """T5 and its kin: the encoder reads the prompt and the text, the decoder writes the label."""

    @property
    def kind(self) -> LanguageModelKind:
        """What is predicted where: the next token of the decoder."""
        return "seq2seq"

    def states(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        decoder_ids: Int[Tensor, "rows decoded"] | None = None,
    ) -> Float[Tensor, "rows places width"]:
        """The decoder's last hidden states behind its start token and `decoder_ids`."""
        attended = mask.long()
        start = torch.full((len(embeddings), 1), self.model.config.decoder_start_token_id, device=embeddings.device)
        written = start if decoder_ids is None else torch.cat([start, decoder_ids], dim=1)
        with self.checkpointing(embeddings):
            read = self.model.get_encoder()(inputs_embeds=embeddings, attention_mask=attended).last_hidden_state
            output = self.model.get_decoder()(
                input_ids=written, encoder_hidden_states=read, encoder_attention_mask=attended, use_cache=False
            )
        states: Tensor = output.last_hidden_state
        # T5 scales what the decoder gives where its two ends are tied.
        return states * self.model.config.d_model**-0.5 if scales_decoder_outputs(self.model.config) else states

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """The head."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        bias = getattr(self.model, "final_logits_bias", None)  # BART
        return logits if bias is None else logits + bias.reshape(-1)
