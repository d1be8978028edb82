"""Matching by noise: what a denoiser predicts with a prompt."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.distillation.matching import Windows, check_room, filled, one_window
from hardprompts.encoders import NoisePredictor
from hardprompts.objectives import Evaluation
from hardprompts.prompts import PromptTemplate
from hardprompts.vocabulary import EmbeddedTemplate


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseMatch:
    """The share of an original's effect on a denoiser's predictions that a prompt has, on a fixed bank of noises.

    Attributes:
        judged: the predictions to imitate, on the whole bank; what texts are scored with.
        followed: the same with a mini-batch drawn for each gradient, or `judged` itself.
    """

    judged: NoisePrediction
    followed: NoisePrediction

    unit = "share of the original's effect"

    @property
    def template(self) -> PromptTemplate:
        return self.judged.template

    def __call__(self, embeddings: Float[Tensor, "batch tokens dim"], groups: Int[Tensor, " batch"]) -> Evaluation:
        return self.followed(embeddings, groups)

    def score(self, ids: Int[Tensor, "batch tokens"], groups: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return self.judged.score(ids, groups)

    def held(self) -> "NoiseMatch":
        """The same with one draw of noises for all its calls."""
        return dataclasses.replace(self, followed=self.followed.held())

    def distances(self, texts: Sequence[str], group: int) -> list[float]:
        predictor, found = self.judged.predictor, []
        for text in texts:
            told = predictor.condition_text(filled(self.template, text))
            groups = torch.full((1,), group, device=self.judged.bank.noisy.device)
            found.append(1 - float(self.judged.scores_of(told, groups)))
        return found

    def free_tokens(self) -> int:
        """Tokens that the model's context leaves for the prompt."""
        return self.judged.free_tokens()


def match_noise(
    predictor: NoisePredictor,
    original: Windows,
    bank: NoiseBank,
    template: PromptTemplate = PromptTemplate(),
    *,
    sample_size: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 8,
) -> NoiseMatch:
    """Prompts under which a denoiser predicts what it predicts under the original, on the bank of one task.

    Args:
        sample_size: items of the bank that are drawn for a gradient, by `generator`; None for all.
        batch_size: rows through the denoiser at once.

    Raises:
        BackendError: the original is longer than the context.
        TemplateError: the original does not fit into the context beside the template.
        NonFiniteError: the predictions are NaN or infinite.
    """
    (window,) = one_window(original, predictor.name)
    plain = NoisePrediction(predictor, bank, template, batch_size=batch_size)
    check_room([window], plain.free_tokens(), template, predictor.name)
    with torch.no_grad():
        fixed = EmbeddedTemplate.of(predictor.vocabulary, template)
        told = predictor.condition(fixed.around(window[None].to(predictor.vocabulary.table)))
    judged = plain.imitating(told)
    if sample_size is None or sample_size >= len(bank):
        return NoiseMatch(judged, judged)
    return NoiseMatch(judged, dataclasses.replace(judged, sample_size=sample_size, generator=generator))
