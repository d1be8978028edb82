"""What is in a soft-prompt file, in plain words: what it is, for which models, how far from natural language."""

import dataclasses
from typing import TYPE_CHECKING, Any

from hardprompts.errors import BackendError

if TYPE_CHECKING:
    from hardprompts.softprompts import SoftPrompt
    from hardprompts.softprompts.geometry import GeometryReport
    from hardprompts.softprompts.nearest import NearestDecoding
    from hardprompts.vocabulary import Vocabulary

#: A soft token longer than all but so many of the model's own tokens is out of distribution.
LONGEST_SHARE = 0.999


@dataclasses.dataclass(frozen=True)
class Audit:
    """One soft prompt, and beside a model's vocabulary, if there is one, where it lies in it.

    Attributes:
        encoder: the text encoder that was compared with the model.
        geometry, nearest: see `hardprompts.softprompts`.
    """

    prompt: "SoftPrompt"
    encoder: str = ""
    geometry: "GeometryReport | None" = None
    nearest: "NearestDecoding | None" = None

    @classmethod
    def of(cls, prompt: "SoftPrompt", vocabulary: "Vocabulary | None" = None) -> "Audit":
        """The audit of a soft prompt, compared with a vocabulary of the same width.

        Raises:
            BackendError: none of its encoders has the vocabulary's width.
        """
        if vocabulary is None:
            return cls(prompt)
        from hardprompts.softprompts.geometry import analyze
        from hardprompts.softprompts.nearest import decode_nearest

        width = vocabulary.table.shape[1]
        for encoder, values in prompt.embeddings.items():
            if values.shape[1] == width:
                embeddings = values.to(vocabulary.table.device)
                return cls(prompt, encoder, analyze(embeddings, vocabulary), decode_nearest(embeddings, vocabulary))
        widths = ", ".join(f"{name} {size}" for name, size in zip(prompt.encoders, prompt.widths, strict=True))
        raise BackendError(
            f"the model's token embeddings are {width} wide and the file's are not ({widths}); "
            f"pass a model that it was made for: {' or '.join(prompt.families)}"
        )

    def lines(self) -> list[str]:
        """What a person should know, one fact a line."""
        prompt = self.prompt
        named = prompt.name or "(no name)"
        encoders = [f"{name} {width} wide" for name, width in zip(prompt.encoders, prompt.widths, strict=True)]
        found = [
            f"{named}: {prompt.num_tokens} token{'s' * (prompt.num_tokens != 1)} for {', '.join(encoders)}",
            f"format {prompt.source_format}; fits {' or '.join(prompt.families)}",
        ]
        if prompt.base_models:
            found.append(f"trained on {', '.join(prompt.base_models)}")
        if prompt.step is not None:
            found.append(f"training step {prompt.step}")
        if self.geometry is None:
            norms = [f"{name} {values.norm(dim=1).median():.3g}" for name, values in prompt.embeddings.items()]
            found.append(f"median length of its tokens: {', '.join(norms)}; --model compares them with a model's own")
            return found
        return found + self._compared(self.geometry)

    def _compared(self, geometry: "GeometryReport") -> list[str]:
        median = geometry.vocabulary_norms.median
        found = [
            f"{self.encoder}: {geometry.norm_ratio:.1f} times as long as the model's own tokens (median {median:.3g})",
            f"{geometry.share_near:.0%} of its tokens have a word within 30 degrees; of the model's own tokens, "
            f"{geometry.natural_share_near:.0%}",
        ]
        for index, token in enumerate(geometry.tokens, start=1):
            words = ", ".join(f"{near.text!r} {near.cosine:.2f}" for near in token.by_cosine)
            found.append(f"token {index}: length {token.norm:.3g}, {token.angle:.0f} degrees from any; {words}")
        if self.nearest is not None:
            distant = geometry.share_near < 0.5
            note = "; so far away, words are known to keep little of what it does" if distant else ""
            found.append(f"nearest words: {self.nearest.text!r}{note}")
        longer = sum(token.norm_rank >= LONGEST_SHARE for token in geometry.tokens)
        if longer:
            found.append(f"warning: of its tokens, {longer} longer than {LONGEST_SHARE:.1%} of the model's own")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        prompt = self.prompt
        return {
            "name": prompt.name,
            "format": prompt.source_format,
            "families": list(prompt.families),
            "num_tokens": prompt.num_tokens,
            "encoders": dict(zip(prompt.encoders, prompt.widths, strict=True)),
            "base_models": list(prompt.base_models),
            "step": prompt.step,
            "metadata": dict(prompt.metadata),
            "compared": self.encoder,
            "geometry": None if self.geometry is None else self.geometry.to_dict(),
            "nearest_words": None if self.nearest is None else self.nearest.text,
        }
