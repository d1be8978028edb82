"""What is left of a soft prompt's effect when it is shrunk, turned or cut."""

import math
from typing import Any

import pytest
import torch

from hardprompts import PromptTemplate
from hardprompts.softprompts import measure_robustness
from hardprompts.softprompts.robustness import Curve
from hardprompts.vocabulary import Vocabulary


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bag_of_directions(embeddings: torch.Tensor) -> torch.Tensor:
    """An encoder for which lengths count for nothing beyond a tenth, and directions for all."""
    return torch.nn.functional.normalize(embeddings, dim=-1).sum(dim=1)


def bag_of_embeddings(embeddings: torch.Tensor) -> torch.Tensor:
    return embeddings.sum(dim=1)


def test_shrinking_does_nothing_to_an_encoder_that_sees_directions(vocabulary: Vocabulary) -> None:
    report = measure_robustness(drawn(3, 32), vocabulary, bag_of_directions, 20, template=PromptTemplate("red {}"))
    for values in (report.shrunk.soft, report.shrunk.natural_median, report.shrunk.natural_low):
        assert values == pytest.approx([1.0] * len(values), abs=1e-4)
    assert report.shrunk.kept_until() is None
    assert report.rotated.soft[0] == pytest.approx(1, abs=1e-4) and report.rotated.soft[-1] < 0.9


def test_the_shares_are_those_of_the_definition(vocabulary: Vocabulary) -> None:
    values, template = 3 * drawn(2, 32), PromptTemplate("red {} house")
    report = measure_robustness(
        values, vocabulary, bag_of_embeddings, 20, template=template, factors=(1, 4), degrees=(0, 25), natural_prompts=3
    )
    before, after = (vocabulary.embed(torch.tensor(ids)).sum(dim=0) for ids in vocabulary.template_ids(template))
    fixed = before + after
    nearest = vocabulary.embed(vocabulary.nearest(values))

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.cosine_similarity(a.double(), b.double(), dim=0))

    def turned(row: torch.Tensor, to: torch.Tensor, by: float) -> torch.Tensor:
        along = row / row.norm()
        across = to - (to @ along) * along
        across = across / across.norm()
        by = min(by, math.acos(cosine(row, to)))
        return (math.cos(by) * along + math.sin(by) * across) * row.norm()

    start = fixed + values.sum(dim=0)
    gap = 1 - cosine(start, fixed)
    quarter = 1 - (1 - cosine(fixed + values.sum(dim=0) / 4, start)) / gap
    rows = [turned(row, to, math.radians(25)) for row, to in zip(values, nearest, strict=True)]
    turn = 1 - (1 - cosine(fixed + sum(rows), start)) / gap
    words = 1 - (1 - cosine(fixed + nearest.sum(dim=0), start)) / gap
    assert report.shrunk.soft == pytest.approx((1, quarter), abs=1e-4)
    assert report.rotated.soft == pytest.approx((1, turn), abs=1e-4)
    assert report.nearest_kept == pytest.approx(words, abs=1e-4)
    assert (report.template, report.tokens, report.natural_prompts) == ("red {} house", 2, 3)
    assert all(
        low <= middle <= high
        for curve in (report.shrunk, report.rotated)
        for low, middle, high in zip(curve.natural_low, curve.natural_median, curve.natural_high, strict=True)
    )


def test_what_has_no_room_is_left_out(vocabulary: Vocabulary) -> None:
    seen = []

    def encode(embeddings: torch.Tensor) -> torch.Tensor:
        seen.append(embeddings.shape[1])
        return bag_of_embeddings(embeddings)

    report = measure_robustness(drawn(30, 32), vocabulary, encode, 8, template=PromptTemplate("red {}"))
    assert report.tokens == 7 and max(seen) == 8
    many = measure_robustness(
        drawn(90, 32), vocabulary, encode, 200, template=PromptTemplate("red {}"), natural_prompts=4
    )
    assert many.tokens == 90 and many.natural_prompts == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"template": PromptTemplate("{}")},
        {"max_tokens": 1},
        {"natural_prompts": 0},
        {"factors": (2.0, 3.0)},
        {"factors": ()},
        {"degrees": (10.0,)},
        {"embeddings": torch.zeros(2, 32)},
    ],
)
def test_misuse_of_robustness(changes: dict[str, Any], vocabulary: Vocabulary) -> None:
    values: dict[str, Any] = {
        "embeddings": drawn(2, 32),
        "vocabulary": vocabulary,
        "encode": bag_of_embeddings,
        "max_tokens": 9,
        "template": PromptTemplate("red {}"),
    }
    with pytest.raises(ValueError):
        measure_robustness(**{**values, **changes})


def test_half_the_effect() -> None:
    curve = Curve((1.0, 2.0, 3.0), (1.0, 0.6, 0.4), *[(1.0, 1.0, 1.0)] * 3)
    assert curve.kept_until() == 3 and curve.kept_until(0.9) == 2 and curve.kept_until(0.1) is None
