"""What a text encoder still makes of soft tokens when they are shrunk, or turned towards words.

Source: Bailey et al. 2023, "Soft prompting might be a bug, not a feature" (openreview.net/forum?id=MHWDdMEJ5s), who
draw a task's accuracy over the same two paths. A file alone has no task, so here it is the share of the prompt's
effect on the text features that is left; natural prompts of as many tokens are treated alike.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.prompts import PromptTemplate
from hardprompts.softprompts.geometry import angles, natural_ids, rotated, shrunk
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary

#: What lengths are divided by, and degrees of turning, by default.
FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0)
DEGREES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 75.0, 90.0)

#: The features of texts that are given as the embeddings of all their tokens, as of `TextEncoder.encode`.
Encode = Callable[[Float[Tensor, "batch tokens dim"]], Float[Tensor, "batch features"]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """The share of the effect that is left at each point of a path.

    The share is 1 - (1 - c) / (1 - e), where c is the cosine of the features with those at the start of the path, and
    e that of the template with no tokens in it: 1 is the same prompt, and 0 as much as nothing.

    Attributes:
        positions: how far along the path: what lengths are divided by, or degrees.
        soft: the share of the soft prompt.
        natural_median, natural_low, natural_high: of natural prompts, the median, the least and the greatest.
    """

    positions: tuple[float, ...]
    soft: tuple[float, ...]
    natural_median: tuple[float, ...]
    natural_low: tuple[float, ...]
    natural_high: tuple[float, ...]

    def kept_until(self, share: float = 0.5) -> float | None:
        """The first position where less than `share` of the soft prompt's effect is left; None if there is none."""
        return next((at for at, value in zip(self.positions, self.soft, strict=True) if value < share), None)


@dataclasses.dataclass(frozen=True)
class RobustnessReport:
    """Both paths of a soft prompt, beside natural prompts.

    Attributes:
        template: the text that the tokens stood in.
        tokens: how many of the soft tokens were taken: those that the encoder's context has room for.
        natural_prompts: how many natural prompts were taken.
        shrunk: along lengths divided by more and more.
        rotated: along degrees towards the nearest word, each token no further than to it.
        nearest_kept: the share of the effect that the nearest words themselves have.
        quantity: what the effect is on, in words.
    """

    template: str
    tokens: int
    natural_prompts: int
    shrunk: Curve
    rotated: Curve
    nearest_kept: float
    quantity: str = "text features"


def measure_robustness(
    embeddings: Float[Tensor, "tokens dim"],
    vocabulary: Vocabulary,
    encode: Encode,
    max_tokens: int,
    *,
    template: PromptTemplate = PromptTemplate("a photo of {}"),
    factors: Sequence[float] = FACTORS,
    degrees: Sequence[float] = DEGREES,
    natural_prompts: int = 8,
    batch_size: int = 64,
    quantity: str = "text features",
    allowance: Allowance | None = None,
) -> RobustnessReport:
    """What a text encoder still makes of soft tokens, and of natural ones, along both paths.

    Args:
        embeddings: the soft tokens of one text encoder.
        vocabulary: the tokens of that encoder.
        encode: `backend.text_encoder.encode`, or `distillation.outputs.output_features` of a language model.
        max_tokens: tokens that a text may have; what of the soft prompt has no room beside the template is left out.
        template: text around the tokens, with words of its own.
        factors: above 0, the first of them 1: as it is.
        degrees: from 0 to 180, the first of them 0.
        natural_prompts: prompts of tokens evenly spaced by id, to compare with.
        batch_size: texts that are encoded at once.
        quantity: what `encode` returns, in words.
        allowance: what this may spend.

    Raises:
        TimeoutError: that does not suffice.
        ValueError: the template has no words or no room, a path does not begin with the prompt as it is, or a soft
            token has no direction to be turned from.
    """
    fixed = EmbeddedTemplate.of(vocabulary, template)
    room = fixed.room(max_tokens)
    if not len(fixed):
        raise ValueError("robustness needs a template with words, since nothing is compared with the template alone")
    if room < 1 or natural_prompts < 1:
        raise ValueError(
            f"there is room for {room} tokens, and {natural_prompts} natural prompts; both must be 1 at least"
        )
    if not factors or factors[0] != 1 or not degrees or degrees[0] != 0:
        raise ValueError(f"paths begin at the prompt as it is: factor 1 and 0 degrees, not {factors} and {degrees}")
    soft = embeddings.detach().to(vocabulary.table.device, torch.float32)[:room]
    natural, to_natural = _natural(vocabulary, natural_prompts, len(soft))
    to_soft = vocabulary.embed(vocabulary.nearest(soft)).float()
    prompts, targets = torch.cat([soft[None], natural]), torch.cat([to_soft[None], to_natural])
    lengths, angles_turned = (torch.tensor(values, dtype=torch.float32) for values in (factors, degrees))
    divided = torch.stack([shrunk(prompt, lengths) for prompt in prompts])
    turned = torch.stack([rotated(p, t, angles_turned) for p, t in zip(prompts, targets, strict=True)])

    left = Allowance() if allowance is None else allowance

    @torch.no_grad()
    def features(texts: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts features"]:
        found = []
        for part in left.batches(range(len(texts)), batch_size):
            rows = fixed.around(texts[part[0] : part[-1] + 1]).to(vocabulary.table.dtype)
            found.append(encode(rows).float())
        if sum(map(len, found)) < len(texts):
            raise TimeoutError("there was no room left for all shrunk and turned prompts; allow more time")
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    nothing, as_it_is, as_words = features(soft[None, :0])[0], features(soft[None])[0], features(to_soft[None])[0]
    kept = 1 - (1 - as_words @ as_it_is) / (1 - nothing @ as_it_is).clamp_min(1e-6)
    by_length, by_angle = (
        _curve(features(path.flatten(0, 1)).unflatten(0, path.shape[:2]), nothing, positions)
        for path, positions in ((divided, factors), (turned, degrees))
    )
    return RobustnessReport(template.text, len(soft), len(natural), by_length, by_angle, float(kept), quantity)


def _natural(
    vocabulary: Vocabulary, prompts: int, tokens: int
) -> tuple[Float[Tensor, "prompts tokens dim"], Float[Tensor, "prompts tokens dim"]]:
    """Prompts of tokens evenly spaced by id, fewer of a small vocabulary, and the nearest other token of each."""
    ids = natural_ids(vocabulary, prompts * tokens)
    prompts = max(1, min(prompts, len(ids) // tokens))
    # Tokens that lie far apart by id stand side by side; a vocabulary with too few is gone through again.
    order = torch.arange(prompts * tokens, device=ids.device) % len(ids)
    ids = ids[order].reshape(tokens, prompts).T
    others = vocabulary.neighbors(ids.reshape(-1), 1)[:, 0].reshape(ids.shape)
    return vocabulary.embed(ids).float(), vocabulary.embed(others).float()


def _curve(
    found: Float[Tensor, "prompts steps features"], nothing: Float[Tensor, " features"], positions: Sequence[float]
) -> Curve:
    """The shares along a path, of features whose first prompt is the soft one and whose first step is the start."""
    start = found[:, :1]
    gap = (1 - start @ nothing).clamp_min(1e-6)  # (prompts, 1)
    left = 1 - (1 - (found * start).sum(dim=-1)) / gap
    return Curve(
        tuple(map(float, positions)),
        tuple(left[0].tolist()),
        tuple(left[1:].quantile(0.5, dim=0).tolist()),
        tuple(left[1:].min(dim=0).values.tolist()),
        tuple(left[1:].max(dim=0).values.tolist()),
    )


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Shares of two groups of numbers in the same bins.

    Attributes:
        edges: of the bins, one more than there are bins; what lies outside counts in the first or the last one.
        soft, natural: of each bin, the share of the soft tokens and of the natural ones; they add up to 1.
    """

    edges: tuple[float, ...]
    soft: tuple[float, ...]
    natural: tuple[float, ...]

    @classmethod
    def of(
        cls, soft: Float[Tensor, " soft"], natural: Float[Tensor, " natural"], low: float, high: float, bins: int = 24
    ) -> "Histogram":
        """The histogram between two numbers, (soft,) and (natural,) -> `bins` shares each."""
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)

        def shares(values: Float[Tensor, " values"]) -> tuple[float, ...]:
            places = torch.searchsorted(edges, values.double().cpu(), right=True) - 1
            counts = torch.bincount(places.clamp(0, bins - 1), minlength=bins).double()
            return tuple((counts / len(values)).tolist())

        return cls(tuple(edges.tolist()), shares(soft), shares(natural))


@dataclasses.dataclass(frozen=True)
class Spread:
    """How soft tokens and natural ones are spread: by their length, and by the cosine with the nearest other token."""

    norms: Histogram
    cosines: Histogram

    @classmethod
    def of(
        cls, embeddings: Float[Tensor, "tokens dim"], vocabulary: Vocabulary, *, natural_tokens: int = 256
    ) -> "Spread":
        """The spread of soft tokens beside all natural ones by length, and beside a sample of them by direction.

        Raises:
            ValueError: the widths differ.
        """
        if embeddings.shape[1] != vocabulary.table.shape[1]:
            raise ValueError(f"the soft tokens have width {embeddings.shape[1]}, not {vocabulary.table.shape[1]}")
        soft = embeddings.detach().to(vocabulary.table.device, torch.float32)
        lengths, natural_lengths = soft.norm(dim=1), vocabulary.allowed_table.norm(dim=1)
        to_soft = vocabulary.embed(vocabulary.nearest(soft)).float()
        ids = natural_ids(vocabulary, natural_tokens)
        natural = vocabulary.embed(ids).float()
        to_natural = vocabulary.embed(vocabulary.neighbors(ids, 1)[:, 0]).float()
        cosines = [torch.deg2rad(angles(a, b)).cos() for a, b in ((soft, to_soft), (natural, to_natural))]
        # Far outliers would press all others into one bin; what lies beyond counts in the last one.
        high = min(float(torch.cat([lengths, natural_lengths]).max()), 4 * float(natural_lengths.max()))
        return cls(
            Histogram.of(lengths, natural_lengths, 0.0, max(high, 1e-6) * 1.02),
            Histogram.of(cosines[0], cosines[1], min(0.0, *(float(part.min()) for part in cosines)), 1.0),
        )
