"""Models as judges: whether one is independent of the model that was searched, and how far several agree."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from hardprompts.encoders import PROBES, Backend, probe_texts
from hardprompts.errors import BackendError

#: Features that differ by no more are of the same weights, in whatever precision.
SAME = 0.02


def shared_weights(first: Backend, second: Backend) -> tuple[str, ...]:
    """What two models share, in words; nothing if they are independent.

    They are compared by what they do, so that neither another name, nor another library, nor another precision hides
    that the weights are the same: the embeddings of all tokens up to a factor, the features of a few texts, and those
    of a few pictures.
    """
    found = []
    one, other = (model.vocabulary.table.detach().float().cpu() for model in (first, second))
    if one.shape == other.shape and _alike(one, other):
        found.append("token embeddings")
    texts = probe_texts(first.vocabulary)
    if _alike(first.encode_texts(texts), second.encode_texts(texts)):
        found.append("the text tower")
    if first.image_encoder is not None and second.image_encoder is not None:
        pictures = _pictures()
        if _alike(first.encode_images(pictures), second.encode_images(pictures)):
            found.append("the image tower")
    return tuple(found)


def check_independent(judge: Backend, searched: Backend) -> None:
    """Refuses a judge that shares weights with the model that was searched.

    A search raises the similarity of the model that it follows with anything: what it reaches there says nothing of
    the prompt.

    Raises:
        BackendError: they share weights.
    """
    if shared := shared_weights(judge, searched):
        raise BackendError(
            f"{judge.name} cannot judge prompts that were found with {searched.name}: they have the same weights "
            f"({', '.join(shared)}), and a search raises its own model's similarity whether or not the prompt is good; "
            "judge with a model of other weights"
        )


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether rows are the same up to a positive factor and rounding."""
    if first.shape != second.shape:
        return False
    one, other = (torch.nn.functional.normalize(rows.detach().float().cpu(), dim=-1) for rows in (first, second))
    return bool(((one - other).norm(dim=-1) <= SAME).all())


def _pictures() -> list[Image.Image]:
    """Pictures of smooth colored noise, the same for each call."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(PROBES, 3, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 1)
    pixels = (255 * fine).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


# --- several judges -----------------------------------------------------------------------


def rank_agreement(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], float]:
    """How far judges agree on which prompts are better: Kendall's tau of each two, in [-1, 1]; NaN without variety.

    Args:
        scores: each judge's, of the same prompts in the same order.

    Raises:
        ValueError: there are fewer than two judges or two prompts, or the lists differ in length.

    Source: Kendall's tau-b, which corrects for ties.
    """
    lengths = {len(own) for own in scores.values()}
    if len(scores) < 2 or len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(
            f"agreement needs two judges or more, each with a score for the same prompts, two or more; got "
            f"{len(scores)} judges with {sorted(lengths)} scores"
        )
    names = list(scores)
    rows = torch.tensor([[float(value) for value in scores[name]] for name in names], dtype=torch.double)
    signs = (rows[:, :, None] - rows[:, None, :]).sign().flatten(1)
    lengths_of = signs.square().sum(dim=1).sqrt()
    tau = (signs @ signs.T) / (lengths_of[:, None] * lengths_of[None, :])
    return {(one, other): float(tau[i, j]) for i, one in enumerate(names) for j, other in enumerate(names) if i < j}
