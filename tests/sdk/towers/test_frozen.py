"""Products with tables that are laid out anew are the same products."""

import copy

import pytest
import torch

from hardprompts.towers import frozen
from hardprompts.towers.frozen import FrozenTable


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products_with_a_table(rows: int, packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packing:
        monkeypatch.setattr(frozen, "PACKED_TABLE_LIMIT", 0)
    generator = torch.Generator().manual_seed(0)
    entries, given = torch.randn(1001, 24, generator=generator), torch.randn(rows, 24, generator=generator)
    table = FrozenTable(entries)
    for _ in range(2):  # the first product lays the table out
        found = table.products(given.requires_grad_())
        assert not found.requires_grad
        torch.testing.assert_close(found, given.detach() @ entries.T, rtol=1e-5, atol=1e-5)


def test_a_table_that_was_laid_out_can_be_copied() -> None:
    table = FrozenTable(torch.randn(50, 8))
    rows = torch.randn(3, 8)
    first = table.products(rows)
    assert torch.equal(copy.deepcopy(table).products(rows), first)


def test_where_the_layout_is_not_to_be_had_products_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_multiply", lambda *_: (_ for _ in ()).throw(RuntimeError("no oneDNN")))
    entries, rows = torch.randn(50, 8), torch.randn(3, 8)
    torch.testing.assert_close(FrozenTable(entries).products(rows), rows @ entries.T)
