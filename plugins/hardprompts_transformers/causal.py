"""Causal language models of transformers, driven from token embeddings."""

import dataclasses
import functools
import inspect
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from hardprompts.causes.failures import memory_cause
from hardprompts.encoders import LanguageModelKind, Prefix
from hardprompts_transformers.adapter import Adapter
from hardprompts_transformers.releases import CacheLayer

#: Settings by which a model looks back no further than some places, padding counted.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")

#: Longer than any row.
UNBOUNDED = 1 << 40


def positions(mask: Bool[Tensor, "rows tokens"]) -> Int[Tensor, "rows tokens"]:
    """The place of each token among those that are not padding, so that padding at either end changes nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)


@dataclasses.dataclass(frozen=True, eq=False)
class KeyValuePrefix:
    """The keys and values of inputs that others go on behind.

    Attributes:
        layers: (keys, values) of each layer, (inputs, heads, places, size).
        mask: (inputs, places) False where they are padded.
        chosen: (rows,) the input that each row stands behind; None: row i behind input i.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Bool[Tensor, "inputs places"]
    chosen: Int[Tensor, " rows"] | None = None

    def of_rows(self, rows: Int[Tensor, " chosen"]) -> "KeyValuePrefix":
        """See `Prefix`. They are repeated layer by layer, when each is read."""
        return dataclasses.replace(self, chosen=rows if self.chosen is None else self.chosen[rows])


class _Layer(CacheLayer):  # type: ignore[misc]  # transformers is untyped here
    """One layer of a prefix: hands it out with what comes behind, and stays as it is.

    So it can be read twice, as gradient checkpointing does.
    """

    def __init__(
        self, behind: tuple[Tensor, Tensor] | None = None, chosen: Tensor | None = None, keep: bool = True
    ) -> None:
        super().__init__()
        self.behind, self.chosen, self.keep = behind, chosen, keep
        self.kept: tuple[Tensor, Tensor] | None = None

    def get_seq_length(self) -> int:
        """Places of the prefix."""
        return 0 if self.behind is None else self.behind[0].shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values."""
        found = (key_states, value_states)
        if self.behind is not None:
            before = self.behind if self.chosen is None else tuple(part[self.chosen] for part in self.behind)
            found = (torch.cat([before[0], key_states], dim=-2), torch.cat([before[1], value_states], dim=-2))
        if self.keep:
            self.kept = found
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class CausalLanguageModel(Adapter):
    """A model with a left-to-right head: GPT-2, OPT, Llama, Qwen, Gemma and others of the same build.

    Attributes:
        max_shared_tokens: see `PrefixReader`.
    """

    max_shared_tokens: int = 0

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
        """The last hidden states, behind the final normalization."""
        with self.checkpointing(embeddings):
            output = self.model.base_model(
                inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
            )
        states: Tensor = output.last_hidden_state
        return states

    def read_on(
        self,
        embeddings: Float[Tensor, "rows tokens dim"],
        mask: Bool[Tensor, "rows tokens"],
        behind: Prefix | None = None,
        *,
        keep: bool = True,
    ) -> tuple[Float[Tensor, "rows tokens width"], KeyValuePrefix | None]:
        """The states of inputs behind others; see `PrefixReader`."""
        layers = [_Layer(keep=keep) for _ in range(self.model.config.get_text_config().num_hidden_layers)]
        seen = mask
        if behind is not None:
            assert isinstance(behind, KeyValuePrefix), "what is gone on behind was read by such a model"
            layers = [_Layer(layer, behind.chosen, keep) for layer in behind.layers]
            before = behind.mask if behind.chosen is None else behind.mask[behind.chosen]
            seen = torch.cat([before, mask], dim=1)
        with self.checkpointing(embeddings, *(part for layer in layers for part in layer.behind or ())):
            output = self.model.base_model(
                inputs_embeds=embeddings, attention_mask=seen.long(), use_cache=True,
                position_ids=positions(seen)[:, -embeddings.shape[1] :], **{self._cache_argument: Cache(layers=layers)},
            )  # fmt: skip
        states: Tensor = output.last_hidden_state
        kept = tuple(layer.kept for layer in layers if layer.kept is not None)
        return states, KeyValuePrefix(kept, seen) if keep else None

    @functools.cached_property
    def _cache_argument(self) -> str:
        """What the model calls the keys and values of earlier inputs; transformers 5.24 began to rename them."""
        known = inspect.signature(self.model.base_model.forward).parameters
        return "cache" if "cache" in known else "past_key_values"

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

    def sharing(self) -> "CausalLanguageModel":
        """The same, with `max_shared_tokens` set where keys and values of this model can be read once for many rows.

        It is tried out: state-space models have none, and some positions count padding.
        """
        shared = dataclasses.replace(self, max_shared_tokens=self._window())
        table, ids = self.vocabulary.table, self.vocabulary.allowed_ids
        rows = self.vocabulary.embed(ids[torch.arange(12, device=ids.device).reshape(2, 6) % len(ids)])
        mask = torch.ones(2, 6, dtype=torch.bool, device=table.device)
        mask[1, 2:4] = False  # padding in the middle, as behind a beginning that is shorter than another
        whole, short = rows[:1], rows[1:, [0, 1, 4, 5]]
        try:
            with torch.no_grad():
                _, prefix = shared.read_on(rows[:, :3], mask[:, :3])
                assert prefix is not None
                swapped = torch.tensor([1, 0], device=table.device)
                found, _ = shared.read_on(rows[swapped, 3:], mask[swapped, 3:], prefix.of_rows(swapped), keep=False)
                expected = [self.states(one, mask.new_ones(1, one.shape[1])) for one in (short, whole)]
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError) as error:
            if memory_cause(error):
                raise
            return self
        tolerance = 1e-3 if table.dtype.itemsize > 2 else 5e-2
        for row, own in zip((found[0, 1:], found[1]), (expected[0][0, 2:], expected[1][0, 3:]), strict=True):
            if not float((row - own).float().norm() / own.float().norm()) <= tolerance:
                return self
        return shared

    def _window(self) -> int:
        config = self.model.config.get_text_config()
        bounds = [value for name in WINDOWS if isinstance(value := getattr(config, name, None), int) and value > 0]
        return min(bounds, default=UNBOUNDED)
