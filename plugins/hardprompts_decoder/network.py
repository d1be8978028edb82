"""The network: a small causal transformer that reads features and writes tokens."""

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class DecoderShape:
    """The numbers that a network is built from.

    Attributes:
        features: numbers of the features that it reads.
        tokens: different tokens that it writes; the end of a text is one more.
        max_tokens: the longest text in tokens.
        prefix: positions that the features are spread over.

    Raises:
        ValueError: a number below 1, or a width that the heads do not divide.
    """

    features: int
    tokens: int
    max_tokens: int
    width: int = 192
    layers: int = 3
    heads: int = 6
    prefix: int = 4

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} of a decoder must be at least 1, got {value}")
        if self.width % self.heads:
            raise ValueError(f"the width of a decoder must be a multiple of its {self.heads} heads, got {self.width}")

    @property
    def end(self) -> int:
        """What stands for the end of a text, among the tokens."""
        return self.tokens


#: The standard deviation of the embeddings of tokens, places and lengths at first.
TOKEN_SCALE = 0.02

#: Keys and values of one block at the positions so far.
Cache = tuple[Tensor, Tensor]


class _Block(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.fc = nn.Linear(shape.width, 4 * shape.width)
        self.proj = nn.Linear(4 * shape.width, shape.width)

    def forward(
        self,
        x: Float[Tensor, "rows positions width"],
        mask: Bool[Tensor, "positions positions"] | None,
        cache: Cache | None,
    ) -> tuple[Float[Tensor, "rows positions width"], Cache]:
        """The output at the new positions, and the keys and values of all."""
        heads = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        if cache is not None:
            key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
        # Written out: for so few positions the fused kernels of CPUs take longer.
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        x = x + self.out((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        return x + self.proj(F.gelu(self.fc(self.norm_2(x)))), (key, value)


class FeatureDecoder(nn.Module):
    """Writes texts that have given features.

    Its positions are: the features, spread over a few; the length that the text is to have; and the text. Tokens count
    from 0 among those that it knows.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.spread = nn.Linear(shape.features, shape.prefix * shape.width)
        self.length = nn.Embedding(shape.max_tokens + 1, shape.width)
        self.token = nn.Embedding(shape.tokens + 1, shape.width)
        self.place = nn.Embedding(shape.prefix + 1 + shape.max_tokens, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.bias = nn.Parameter(torch.zeros(shape.tokens + 1))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Random weights, of the generator alone."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(float("norm" in name and name.endswith("weight")))
                continue
            scale = TOKEN_SCALE if name.split(".")[0] in ("token", "place", "length") else parameter.shape[1] ** -0.5
            if name.endswith(("out.weight", "proj.weight")):
                scale /= math.sqrt(2 * self.shape.layers)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        # Unit features have small numbers; their positions are to be as large as the others.
        self.spread.weight.mul_(0.3 * math.sqrt(self.shape.features) / 4)

    @torch.no_grad()
    def know_tokens(self, table: Float[Tensor, "tokens dim"], generator: torch.Generator) -> None:
        """Begins with another model's embeddings of the tokens, turned to this width, so that like tokens are alike."""
        turned = table - table.mean(dim=0)
        if table.shape[1] != self.shape.width:
            turned = turned @ torch.randn(table.shape[1], self.shape.width, generator=generator)
        self.token.weight[: self.shape.tokens] = TOKEN_SCALE * turned / turned.std().clamp_min(1e-6)

    def forward(
        self,
        features: Float[Tensor, "rows features"],
        lengths: Int[Tensor, " rows"],
        ids: Int[Tensor, "rows tokens"],
    ) -> Float[Tensor, "rows places classes"]:
        """The logits of every token, and of the end behind the last one."""
        return self.logits(self.states(features, lengths, ids))

    def states(
        self,
        features: Float[Tensor, "rows features"],
        lengths: Int[Tensor, " rows"],
        ids: Int[Tensor, "rows tokens"],
    ) -> Float[Tensor, "rows places width"]:
        """What `logits` reads, for every token and the end behind the last one."""
        x = torch.cat([self._beginning(features), self.length(lengths)[:, None], self.token(ids)], dim=1)
        x = x + self.place.weight[: x.shape[1]]
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x, _ = block(x, mask, None)
        return x[:, self.shape.prefix :]

    def _beginning(self, features: Float[Tensor, "rows features"]) -> Float[Tensor, "rows prefix width"]:
        return self.spread(features).unflatten(-1, (self.shape.prefix, self.shape.width))  # type: ignore[no-any-return]

    def logits(self, x: Float[Tensor, "*places width"]) -> Float[Tensor, "*places classes"]:
        """The logits of the token at each place."""
        return F.linear(self.norm(x), self.token.weight, self.bias)

    # --- writing --------------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self,
        features: Float[Tensor, "texts features"],
        lengths: Int[Tensor, "texts count"],
        temperatures: Float[Tensor, "texts count"],
        generator: torch.Generator,
    ) -> list[list[tuple[int, ...]]]:
        """Tokens of texts with the features of each row, in one batch.

        Args:
            lengths: the tokens that each text is to have, 1 to `max_tokens`; it may have others, but no more than the
                largest of them.
            temperatures: of what is drawn: 1 as it was learned, 0 always the likeliest token.
        """
        count = lengths.shape[1]
        state = _Writing(self, features, lengths.flatten())
        wanted = temperatures.flatten().to(features.device)
        for _ in range(int(lengths.max())):
            if state.done:
                break
            state.add(_drawn(state.logits, wanted, generator))
        rows = state.texts()
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    @torch.no_grad()
    def beam(
        self, features: Float[Tensor, "texts features"], length: int, beams: int
    ) -> list[list[tuple[tuple[int, ...], float]]]:
        """The likeliest tokens for each row of features, with their log-likelihoods, likeliest first.

        Args:
            length: the tokens that the texts are to have; no text gets more.
            beams: texts for each row.
        """
        texts = len(features)
        state = _Writing(self, features, torch.full((texts * beams,), length, device=features.device))
        # At first all beams of a text are one.
        likelihood = torch.full((texts, beams), -torch.inf, device=features.device)
        likelihood[:, 0] = 0.0
        for _ in range(length):
            if state.done:
                break
            longer = state.logits.log_softmax(dim=-1)
            # What is at its end stays as it is.
            longer[state.ended] = -torch.inf
            longer[state.ended, self.shape.end] = 0.0
            both = (likelihood.reshape(-1, 1) + longer).reshape(texts, -1)
            likelihood, chosen = both.topk(beams, dim=1)
            rows = chosen // longer.shape[1] + torch.arange(texts, device=chosen.device)[:, None] * beams
            state.choose(rows.flatten())
            state.add((chosen % longer.shape[1]).flatten())
        found, values = state.texts(), likelihood.flatten().tolist()
        rows_of = [
            list(zip(found[i : i + beams], values[i : i + beams], strict=True)) for i in range(0, len(found), beams)
        ]
        return [sorted(row, key=lambda one: -one[1]) for row in rows_of]


class _Writing:
    """Texts on their way: keys and values of what stands so far, and the logits of what comes next."""

    def __init__(
        self, network: FeatureDecoder, features: Float[Tensor, "texts features"], lengths: Int[Tensor, " rows"]
    ) -> None:
        self.network, count = network, len(lengths) // len(features)
        place = network.place.weight
        x, prefix = network._beginning(features), network.shape.prefix
        x = x + place[:prefix]
        mask = torch.ones(prefix, prefix, dtype=torch.bool, device=x.device).tril()
        self.caches: list[Cache] = []
        for block in network.blocks:
            x, (key, value) = block(x, mask, None)
            self.caches.append((key.repeat_interleave(count, dim=0), value.repeat_interleave(count, dim=0)))
        self.ended = torch.zeros(len(lengths), dtype=torch.bool, device=x.device)
        self.ids: list[Tensor] = []
        self.logits = self._read(network.length(lengths.to(x.device))[:, None] + place[prefix])

    @property
    def done(self) -> bool:
        """Whether all texts are at their end."""
        return bool(self.ended.all())

    def add(self, tokens: Int[Tensor, " rows"]) -> None:
        """Writes one more token of each text; those that are at their end get nothing more."""
        network = self.network
        tokens = torch.where(self.ended, network.shape.end, tokens)
        self.ids.append(tokens)
        self.ended = tokens == network.shape.end
        at = network.shape.prefix + len(self.ids)
        if at < len(network.place.weight) and not self.done:
            self.logits = self._read((network.token(tokens) + network.place.weight[at])[:, None])

    def choose(self, rows: Int[Tensor, " rows"]) -> None:
        """Goes on from these rows instead."""
        self.caches = [(key[rows], value[rows]) for key, value in self.caches]
        self.ids = [ids[rows] for ids in self.ids]
        self.ended = self.ended[rows]

    def texts(self) -> list[tuple[int, ...]]:
        """The tokens of each text, without its end."""
        rows: Sequence[Sequence[int]] = torch.stack(self.ids, dim=1).tolist()
        return [tuple(token for token in row if token != self.network.shape.end) for row in rows]

    def _read(self, x: Float[Tensor, "rows 1 width"]) -> Float[Tensor, "rows classes"]:
        for at, block in enumerate(self.network.blocks):
            x, self.caches[at] = block(x, None, self.caches[at])
        return self.network.logits(x)[:, 0].float()


def _drawn(
    logits: Float[Tensor, "rows classes"], temperatures: Float[Tensor, " rows"], generator: torch.Generator
) -> Int[Tensor, " rows"]:
    """One token for each row; of the same generator the same on every device but for rounding."""
    likeliest = logits.argmax(dim=-1)
    numbers = torch.rand(len(logits), generator=generator).to(logits.device)
    share = (logits / temperatures.clamp_min(1e-3)[:, None]).softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.searchsorted(share, (numbers * share[:, -1])[:, None]).squeeze(1)
    return torch.where(temperatures > 0, drawn.clamp_max(logits.shape[1] - 1), likeliest)
