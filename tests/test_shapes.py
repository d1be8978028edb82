"""Signatures are checked while tests run: types and shapes, of arguments and of results, in every kind of function."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import shapes
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from hardprompts.softprompts import slerp

checked = shapes.jaxtyped(typechecker=shapes.check)


@checked
def means(
    rows: Float[Tensor, "rows dim"], weights: Float[Tensor, " rows"], wrong: bool = False
) -> Float[Tensor, " dim"]:
    return weights if wrong else weights @ rows


@checked
def named(kind: Literal["a", "b"], scale: float = 1) -> str:
    return kind if scale > 0 else 7  # type: ignore[return-value]


@checked
def twice(size: int, rows: Float[Tensor, "2*{size} dim"]) -> int:
    return size


@checked
def counted(stop: int) -> Iterator[int]:
    yield from range(stop)


def made_again(factor: int) -> Callable[[Any], int]:
    @checked
    def times(number: int) -> int:
        return number * factor if factor else None  # type: ignore[return-value]

    return times


@checked
@dataclasses.dataclass
class Pair:
    first: Float[Tensor, " dim"]
    second: Float[Tensor, " dim"]

    @staticmethod
    @checked
    def of(number: int) -> int:
        return number

    @property
    @checked
    def total(self) -> int:
        return self.first + self.second  # type: ignore[return-value]


ROWS, WEIGHTS = torch.ones(2, 3), torch.ones(2)


def test_what_fits_passes() -> None:
    assert torch.equal(means(ROWS, WEIGHTS), torch.full((3,), 2.0))
    assert named("a", scale=2) == "a" and twice(1, ROWS) == 1 and list(counted(2)) == [0, 1]
    assert [made_again(factor)(2) for factor in (1, 2, 3)] == [2, 4, 6]
    assert Pair(WEIGHTS, WEIGHTS).of(3) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: means(ROWS, torch.ones(3)),
        lambda: means(ROWS.long(), WEIGHTS),
        lambda: means(ROWS, WEIGHTS, wrong=True),
        lambda: named("c"),  # type: ignore[arg-type]
        lambda: named("a", scale=-1),
        lambda: twice(2, ROWS),
        lambda: counted("2"),  # type: ignore[arg-type]
        lambda: made_again(2)("2"),
        lambda: made_again(0)(2),
        lambda: Pair(WEIGHTS, torch.ones(3)),
        lambda: Pair.of("3"),  # type: ignore[arg-type]
        lambda: Pair(WEIGHTS, WEIGHTS).total,
        # And so are the functions of the package.
        lambda: slerp(ROWS, torch.ones(2, 4), torch.ones(1)),
    ],
)
def test_what_does_not_fit_is_an_error(call: Callable[[], Any]) -> None:
    made_again(1)(1)
    with pytest.raises(TypeCheckError):
        call()
