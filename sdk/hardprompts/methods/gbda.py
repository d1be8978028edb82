"""GBDA: a distribution over prompts, moved by gradients through soft samples of it."""

import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardprompts.search.bound import BoundObjective
from hardprompts.search.protocol import Candidates
from hardprompts.search.rows import filled
from hardprompts.search.seeds import generator_on
from hardprompts.vocabulary import MAX_TABLE_ENTRIES, Vocabulary


@dataclasses.dataclass(frozen=True)
class GBDA:
    """Gradient-based distributional attack: for each place a distribution over tokens, as logits that Adam moves.

    A step draws noise, gives the objective the mixtures of embeddings that Gumbel-softmax makes of the logits
    with it, and proposes the prompts that the same noise draws from the distribution itself.

    Attributes:
        learning_rate: of Adam, on the logits.
        temperature: of the soft samples; near 0 they are nearly tokens, and their gradients nearly 0.
        samples: draws of each restart in a step.
        initial_probability: that each place has its token of the initial prompt, in [1 / tokens, 1).

    Source: Guo et al. 2021, arXiv 2104.13733;
    https://github.com/facebookresearch/text-adversarial-attack, `whitebox_attack.py` (learning rate 0.3, 10
    samples, temperature 1, all as here). Deviations: prompts are drawn at every step, and not only at the end; the
    initial distribution is stated as a probability, since the code's logit of 15 means another one for every
    size of vocabulary, and is flatter; similarity and fluency are parts of the objective, if of anything. The noise,
    a number for each token and place, is drawn where the logits are, so that a GPU finds others than the CPU does.
    """

    learning_rate: float = 0.3
    temperature: float = 1.0
    samples: int = 10
    initial_probability: float = 0.5

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.temperature > 0 or self.samples < 1:
            raise ValueError(
                "learning_rate and temperature must be positive and samples at least 1, got "
                f"{self.learning_rate}, {self.temperature}, {self.samples}"
            )
        if not 0 < self.initial_probability < 1:
            raise ValueError(f"initial_probability must be in (0, 1), got {self.initial_probability}")

    def steps(
        self,
        objective: BoundObjective,
        vocabulary: Vocabulary,
        initial_ids: Int[Tensor, "rows tokens"],
        generator: torch.Generator,
    ) -> Iterator[Candidates]:
        """Proposes draws from every restart's distribution, without end."""
        ids = filled(initial_ids, vocabulary, generator)
        noise = generator_on(ids.device, generator)
        logits = self._initial(ids, vocabulary)  # (rows, tokens, allowed)
        optimizer = torch.optim.Adam([logits], lr=self.learning_rate)
        # As many samples at once as the rows of the vocabulary's own products.
        at_once = max(1, MAX_TABLE_ENTRIES // max(1, logits.numel()))
        while True:
            slope = torch.zeros_like(logits)
            drawn, rows = [], []
            for start in range(0, self.samples, at_once):
                count = min(at_once, self.samples - start)
                numbers = torch.arange(len(ids), device=ids.device).repeat(count)
                added, prompts = self._sampled(logits, count, numbers, objective, vocabulary, noise)
                slope += added / self.samples
                drawn.append(prompts)
                rows.append(numbers)
            found, owners = torch.cat(drawn), torch.cat(rows)
            yield Candidates(found, objective.score(found, owners, lengths=ids.shape[1]), owners)
            logits.grad = slope
            optimizer.step()

    def _sampled(
        self,
        logits: Float[Tensor, "rows tokens allowed"],
        count: int,
        numbers: Int[Tensor, " samples"],
        objective: BoundObjective,
        vocabulary: Vocabulary,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "rows tokens allowed"], Int[Tensor, "samples tokens"]]:
        """The sum of the gradients of `count` soft samples of each row, and the prompts that the same noise draws."""
        uniform = torch.rand((count, *logits.shape), generator=generator, device=logits.device).clamp_(1e-20, 1 - 1e-7)
        noisy = (logits - (-uniform.log()).log()).flatten(0, 1)  # (samples, tokens, allowed)
        shares = (noisy / self.temperature).softmax(dim=2)
        mixed = shares @ vocabulary.allowed_table
        _, grad = objective.value_and_grad(mixed.to(vocabulary.table.dtype), numbers)
        slope = softmax_slope(shares, vocabulary.slopes(grad)) / self.temperature
        return slope.reshape(count, *logits.shape).sum(dim=0), vocabulary.allowed_ids[noisy.argmax(dim=2)]

    def _initial(self, ids: Int[Tensor, "rows tokens"], vocabulary: Vocabulary) -> Float[Tensor, "rows tokens allowed"]:
        allowed = vocabulary.allowed_ids
        probability = max(self.initial_probability, 1 / len(allowed))
        logit = math.log(probability) + math.log(max(len(allowed) - 1, 1)) - math.log1p(-min(probability, 1 - 1e-6))
        # A token that may not be used (of a word that is spelt in pieces, say) has no logit: all are alike there.
        return (ids.unsqueeze(2) == allowed).float() * logit


def softmax_slope(
    shares: Float[Tensor, "batch tokens allowed"], slope: Float[Tensor, "batch tokens allowed"]
) -> Float[Tensor, "batch tokens allowed"]:
    """The gradient at a softmax's input, given its output and the gradient there."""
    return shares * (slope - (shares * slope).sum(dim=2, keepdim=True))
