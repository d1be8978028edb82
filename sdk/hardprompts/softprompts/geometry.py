"""Where soft tokens lie among the tokens of a vocabulary: norms, angles, nearest tokens, and paths to robustness.

All of it is of one text encoder, and compares with the tokens that the vocabulary allows; of all tokens,
`vocabulary.unrestricted()`. What a model does with the embeddings on these paths is for others to measure.

Source: Bailey et al. 2023, "Soft prompting might be a bug, not a feature" (openreview.net/forum?id=MHWDdMEJ5s).
They compare with all tokens of the vocabulary, and with each natural token; here tokens that no text spells are left
out, and of the natural tokens a sample, evenly spaced by id, is compared.
"""

import dataclasses
import json
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.vocabulary import MAX_TABLE_ENTRIES, Metric, Vocabulary

#: Degrees within which a neighbor is near: beyond them, soft prompts of language models stop working.
NEAR = 30.0

#: Natural tokens that are compared by default.
NATURAL_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Seven numbers of many: quantiles, from the least to the greatest."""

    minimum: float
    percent_5: float
    percent_25: float
    median: float
    percent_75: float
    percent_95: float
    maximum: float

    @classmethod
    def of(cls, values: Float[Tensor, " count"]) -> "Distribution":
        """The quantiles of values, each one of them, or halfway between two."""
        points = torch.tensor([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], dtype=torch.float64)
        ordered = values.detach().double().cpu().sort().values
        places = points * (len(ordered) - 1)
        quantiles = ordered[places.floor().long()].lerp(ordered[places.ceil().long()], places.frac())
        return cls(*quantiles.tolist())


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A token near to an embedding: its id and text, its cosine with it and its distance from it (L2)."""

    token_id: int
    text: str
    cosine: float
    distance: float


@dataclasses.dataclass(frozen=True)
class SoftToken:
    """Where one soft token lies.

    Attributes:
        norm: its length.
        norm_rank: the share of the vocabulary's tokens that are shorter, from 0 to 1.
        angle: degrees to the token that is nearest by direction, from 0 to 180.
        by_cosine: the tokens nearest to it by direction, nearest first.
        by_l2: the tokens nearest to it by distance, nearest first.
    """

    norm: float
    norm_rank: float
    angle: float
    by_cosine: tuple[Neighbor, ...]
    by_l2: tuple[Neighbor, ...]


@dataclasses.dataclass(frozen=True)
class GeometryReport:
    """How far a soft prompt lies from natural language, in plain numbers.

    Attributes:
        tokens: each soft token, in order.
        dim: the width of the embeddings.
        vocabulary_size: the tokens that it is compared with.
        vocabulary_norms: the lengths of all of these.
        natural_tokens: how many of these were compared with the others.
        natural_angles: degrees from each of them to the nearest other one.
        share_near: the share of the soft tokens that have a token within `NEAR` degrees.
        natural_share_near: the same of the natural tokens, with another token.
    """

    tokens: tuple[SoftToken, ...]
    dim: int
    vocabulary_size: int
    vocabulary_norms: Distribution
    natural_tokens: int
    natural_angles: Distribution
    share_near: float
    natural_share_near: float

    @property
    def norm_ratio(self) -> float:
        """The median length of the soft tokens over that of the vocabulary's."""
        norms = sorted(token.norm for token in self.tokens)
        median = (norms[(len(norms) - 1) // 2] + norms[len(norms) // 2]) / 2
        return median / self.vocabulary_norms.median

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**dataclasses.asdict(self), "norm_ratio": self.norm_ratio}

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"


def analyze(
    embeddings: Float[Tensor, "tokens dim"],
    vocabulary: Vocabulary,
    *,
    neighbors: int = 5,
    natural_tokens: int | None = NATURAL_TOKENS,
    allowance: Allowance | None = None,
) -> GeometryReport:
    """How far soft tokens lie from the tokens of a vocabulary, by length and by direction.

    Args:
        embeddings: the soft tokens of one text encoder: `prompt.embeddings["clip_l"]`, say.
        vocabulary: the tokens of that encoder.
        neighbors: nearest tokens to name for each soft token.
        natural_tokens: tokens of the vocabulary to compare with the others; None for all, which takes a hundred
            times as long.
        allowance: whose time this may take, and which notes it where it suffices for the first soft tokens only; one
            is always compared.

    Raises:
        ValueError: the widths differ, the vocabulary is of several encoders or has fewer than two tokens, or a
            number is below 1.

    Source: Bailey et al. 2023: lengths, and angles to the nearest token, of soft tokens and of natural ones.
    """
    soft = _checked(embeddings, vocabulary)
    size = len(vocabulary.allowed_ids)
    if neighbors < 1 or (natural_tokens is not None and natural_tokens < 1):
        raise ValueError(f"neighbors and natural_tokens must be at least 1, got {neighbors} and {natural_tokens}")
    if size < 2:
        raise ValueError("the vocabulary allows fewer than two tokens; there is nothing to compare with")
    lengths = vocabulary.allowed_table.norm(dim=1)
    ordered, time, count = lengths.sort().values, Allowance() if allowance is None else allowance, min(neighbors, size)
    sample = natural_ids(vocabulary, size if natural_tokens is None else natural_tokens)
    natural_angles = angles(_rows(sample, vocabulary), _rows(_nearest_others(sample, vocabulary), vocabulary))
    tokens: list[SoftToken] = []
    for part in time.batches(range(len(soft)), max(1, MAX_TABLE_ENTRIES // size), passes=0):
        tokens += _soft_tokens(soft[part[0] : part[-1] + 1], vocabulary, count, ordered)
    tokens = tokens or _soft_tokens(soft[:1], vocabulary, count, ordered)
    time.leave_out("soft tokens compared", len(tokens), len(soft))
    return GeometryReport(
        tokens=tuple(tokens),
        dim=soft.shape[1],
        vocabulary_size=size,
        vocabulary_norms=Distribution.of(lengths),
        natural_tokens=len(sample),
        natural_angles=Distribution.of(natural_angles),
        share_near=sum(token.angle <= NEAR for token in tokens) / len(tokens),
        natural_share_near=float((natural_angles <= NEAR).double().mean()),
    )


def _soft_tokens(
    soft: Float[Tensor, "tokens dim"], vocabulary: Vocabulary, neighbors: int, lengths: Float[Tensor, " allowed"]
) -> list[SoftToken]:
    """Where each of some soft tokens lies.

    Args:
        lengths: of the vocabulary's tokens, in order.
    """
    norms = soft.norm(dim=1)
    by_cosine = nearest_tokens(soft, vocabulary, neighbors, "cosine")
    by_l2 = nearest_tokens(soft, vocabulary, neighbors, "l2")
    columns = (
        norms.tolist(),
        (torch.searchsorted(lengths, norms) / len(lengths)).tolist(),
        angles(soft, _rows(by_cosine[:, 0], vocabulary)).tolist(),
        _named(soft, by_cosine, vocabulary),
        _named(soft, by_l2, vocabulary),
    )
    return [SoftToken(*values) for values in zip(*columns, strict=True)]


def nearest_tokens(
    embeddings: Float[Tensor, "tokens dim"], vocabulary: Vocabulary, count: int, metric: Metric = "cosine"
) -> Int[Tensor, "tokens count"]:
    """The ids of the allowed tokens nearest to each embedding, nearest first, (tokens, dim) -> (tokens, count).

    The first column is `vocabulary.nearest`, which is faster where that is all.

    Raises:
        ValueError: the widths differ, or the vocabulary is of several encoders.
    """
    query = _checked(embeddings, vocabulary)
    table = vocabulary.allowed_table
    norms = table.norm(dim=1)
    found = [
        _closeness(rows, table, norms, metric).topk(count, dim=1).indices
        for rows in query.split(max(1, MAX_TABLE_ENTRIES // len(table)))
    ]
    return vocabulary.allowed_ids[torch.cat(found)]


def natural_ids(vocabulary: Vocabulary, count: int) -> Int[Tensor, " count"]:
    """Up to `count` of the allowed tokens, evenly spaced by id: natural tokens to compare soft ones with."""
    allowed = vocabulary.allowed_ids
    places = torch.linspace(0, len(allowed) - 1, min(count, len(allowed)), dtype=torch.float64).round().long()
    return allowed[places.to(allowed.device)]


def _checked(embeddings: Float[Tensor, "tokens dim"], vocabulary: Vocabulary) -> Float[Tensor, "tokens dim"]:
    """The embeddings in float32, where the table is."""
    if len(vocabulary.widths) > 1:
        raise ValueError(f"the vocabulary joins encoders of widths {vocabulary.widths}; compare with one at a time")
    width = vocabulary.table.shape[1]
    if embeddings.shape[1] != width:
        raise ValueError(f"the soft tokens have width {embeddings.shape[1]}, and the vocabulary's have {width}")
    return embeddings.detach().to(vocabulary.table.device, torch.float32)


def _rows(ids: Int[Tensor, " tokens"], vocabulary: Vocabulary) -> Float[Tensor, "tokens dim"]:
    return vocabulary.embed(ids).float()


def _closeness(
    query: Float[Tensor, "tokens dim"],
    table: Float[Tensor, "allowed dim"],
    norms: Float[Tensor, " allowed"],
    metric: Metric,
) -> Float[Tensor, "tokens allowed"]:
    """What is greater where a token is nearer; of one query its own length changes no order."""
    products = query @ table.T
    return products.sub_(norms.square() / 2) if metric == "l2" else products.div_(norms.clamp_min(1e-12))


def _nearest_others(ids: Int[Tensor, " sample"], vocabulary: Vocabulary) -> Int[Tensor, " sample"]:
    """For each token the other allowed one that is nearest by direction."""
    table = vocabulary.allowed_table
    norms = table.norm(dim=1)
    places = torch.searchsorted(vocabulary.allowed_ids, ids)
    found = []
    for part in places.split(max(1, MAX_TABLE_ENTRIES // len(table))):
        closeness = _closeness(table[part], table, norms, "cosine")
        closeness[torch.arange(len(part), device=part.device), part] = -torch.inf
        found.append(closeness.argmax(dim=1))
    return vocabulary.allowed_ids[torch.cat(found)]


def _named(
    soft: Float[Tensor, "tokens dim"], ids: Int[Tensor, "tokens count"], vocabulary: Vocabulary
) -> list[tuple[Neighbor, ...]]:
    rows = vocabulary.embed(ids).double()  # (tokens, count, dim)
    query = soft.double()[:, None]
    cosines = torch.cosine_similarity(query, rows, dim=-1).tolist()
    distances = (query - rows).norm(dim=-1).tolist()
    return [
        tuple(
            Neighbor(token_id, vocabulary.decode([token_id]), cosine, distance)
            for token_id, cosine, distance in zip(*columns, strict=True)
        )
        for columns in zip(ids.tolist(), cosines, distances, strict=True)
    ]


# --- paths to robustness ------------------------------------------------------------------


def shrunk(
    embeddings: Float[Tensor, "tokens dim"], factors: Float[Tensor, " steps"]
) -> Float[Tensor, "steps tokens dim"]:
    """The embeddings at other lengths: each divided by each factor, their directions kept.

    Raises:
        ValueError: a factor is not above 0.

    Source: Bailey et al. 2023, who shrink soft prompts: they still work at a third of their length.
    """
    if not bool((factors > 0).all()):
        raise ValueError(f"factors must be above 0, got {factors.tolist()}")
    return embeddings / factors.to(embeddings)[:, None, None]


def rotated(
    embeddings: Float[Tensor, "tokens dim"], towards: Float[Tensor, "tokens dim"], degrees: Float[Tensor, " steps"]
) -> Float[Tensor, "steps tokens dim"]:
    """The embeddings turned towards others by each number of degrees, their lengths kept.

    An embedding that has come to its target's direction turns no further.

    Args:
        towards: what each is turned towards: `vocabulary.embed(vocabulary.nearest(embeddings))`, say.
        degrees: from 0 to 180.

    Raises:
        ValueError: degrees out of range, an embedding or a target of length 0, or one opposite to the other, where
            no way is the shortest.

    Source: Bailey et al. 2023, who turn soft prompts: they stop working beyond 30 degrees.
    """
    if not bool(((degrees >= 0) & (degrees <= 180)).all()):
        raise ValueError(f"degrees must be from 0 to 180, got {degrees.tolist()}")
    between = angles(embeddings.double(), towards.double())
    return _turned(embeddings, towards, torch.minimum(degrees.to(between)[:, None], between))


def slerp(
    embeddings: Float[Tensor, "tokens dim"], towards: Float[Tensor, "tokens dim"], fractions: Float[Tensor, " steps"]
) -> Float[Tensor, "steps tokens dim"]:
    """The embeddings turned by each fraction of the way to others, along the sphere: their lengths are kept.

    Args:
        towards: what each is turned towards.
        fractions: 0 leaves an embedding as it is, 1 gives it the direction of its target.

    Raises:
        ValueError: fractions outside of [0, 1], an embedding or a target of length 0, or one opposite to the other.

    Source: Bailey et al. 2023; the angle in proportion to each token's own instead of in degrees.
    """
    if not bool(((fractions >= 0) & (fractions <= 1)).all()):
        raise ValueError(f"fractions must be from 0 to 1, got {fractions.tolist()}")
    between = angles(embeddings.double(), towards.double())
    return _turned(embeddings, towards, fractions.to(between)[:, None] * between)


def angles(first: Float[Tensor, "*batch dim"], second: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Degrees between the directions of embeddings, from 0 to 180; exact near 0 too. Of length 0: 90."""
    one = torch.nn.functional.normalize(first.double(), dim=-1)
    two = torch.nn.functional.normalize(second.double(), dim=-1)
    # The arc cosine of their product would be wrong by 0.02 degrees where they nearly agree in float32.
    half = torch.atan2((one - two).norm(dim=-1), (one + two).norm(dim=-1))
    return torch.rad2deg(2 * half).to(first.dtype)


def _turned(
    embeddings: Float[Tensor, "tokens dim"],
    towards: Float[Tensor, "tokens dim"],
    degrees: Float[Tensor, "steps tokens"],
) -> Float[Tensor, "steps tokens dim"]:
    start, end = embeddings.double(), towards.to(embeddings.device).double()
    norms = start.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all() and (end.norm(dim=1) > 0).all()):
        raise ValueError("an embedding of length 0 has no direction to turn from or to")
    if bool((angles(start, end) > 179.99).any()):
        raise ValueError("an embedding is opposite to its target: no way there is the shortest")
    along = start / norms
    across = end - (end * along).sum(dim=1, keepdim=True) * along  # the target's part at a right angle
    across = torch.nn.functional.normalize(across, dim=1)
    turn = torch.deg2rad(degrees.double())[..., None]
    turned: Tensor = (along * turn.cos() + across * turn.sin()) * norms
    return turned.to(embeddings.dtype)
