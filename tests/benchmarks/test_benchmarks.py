"""What the benchmarks share, and one tiny run of the comparison of methods."""

import argparse
import json
import re
from pathlib import Path

import pytest

from hardprompts.search.protocol import Search
from hardprompts.search.registry import DEFAULT_METHOD

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The benchmarks as modules, with their results in a folder of the test's own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def test_cells_survive_a_run_that_is_killed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from common import Cells

    calls: list[int] = []
    cells = Cells("some", describe=lambda figures: f"{figures['x']} it is")
    for seed in (0, 1, 0):
        cells.get({"seed": seed}, lambda seed=seed: calls.append(seed) or {"x": seed, "rows": [{"y": {"z": 1}}]})
    assert calls == [0, 1] and "1 it is" in capsys.readouterr().out
    with open(folder / "some.jsonl", "a", encoding="utf-8") as file:
        file.write('{"cell": {"seed": 2}, "figures": {"x"')

    again = Cells("some", only_read=True)
    assert [again.get({"seed": seed}, dict)["x"] for seed in (0, 1)] == [0, 1]
    with pytest.raises(LookupError):
        again.get({"seed": 2}, dict)
    assert len((folder / "some.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_section_of_a_page_is_replaced_and_nothing_else(folder: Path) -> None:
    from common import write_section

    page = folder / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n", encoding="utf-8")
    for text in (r"new \1", "newer\n"):
        write_section(page, "a", text)
        assert page.read_text(encoding="utf-8") == f"before\n<!-- a -->\n{text.strip()}\n<!-- end of a -->\nafter\n"
    with pytest.raises(ValueError, match="has 0 sections"):
        write_section(page, "b", "text")


def test_the_page_of_decoders_has_the_table_that_is_written() -> None:
    page = (ROOT / "docs" / "decoder.md").read_text(encoding="utf-8")
    assert page.count("<!-- decoder -->") == page.count("<!-- end of decoder -->") == 1
    found = json.loads((ROOT / "benchmarks" / "results" / "decoder.json").read_text(encoding="utf-8"))["figures"]
    alone = found["decoder alone, 8 texts (fast)/1"]["objects"][0]
    assert f"| decoder alone, 8 texts (fast) | {100 * alone:.1f} ±" in page
    kinds = json.loads((ROOT / "benchmarks" / "results" / "real_decoder.json").read_text(encoding="utf-8"))["kinds"]
    for kind, ways in kinds.items():
        for way, runs in ways.items():
            similarity = sum(run["similarity"] for run in runs) / len(runs)
            assert re.search(rf"\| {len(runs)} {kind} +\| {re.escape(way)} +\| {similarity:.3f} ±", page)


def test_the_page_has_the_sections_that_are_written() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in ("methods", "methods_before", "methods_pez+refine", "peers", "limit"):
        assert page.count(f"<!-- {name} -->") == page.count(f"<!-- end of {name} -->") == 1


def test_every_row_makes_a_search() -> None:
    import methods

    for group in methods.GROUPS.values():
        for name, row in group.items():
            made = row.method(100, 8)
            assert isinstance(made, Search | str) or name == methods.CAPTION, name
    assert methods.DEFAULT == "build+refine (default)"
    assert next(iter(methods.METHODS)) == next(iter(methods.GROUPS["before"])) == methods.DEFAULT
    assert methods.METHODS[methods.DEFAULT].method(100, 8) == DEFAULT_METHOD


def test_methods_are_compared_within_their_passes(folder: Path) -> None:
    import methods
    from common import Cells

    options = argparse.Namespace(targets=2, seeds=2, passes=120, num_tokens=4, threads=1)
    names = (methods.DEFAULT, "gcg", "beam", methods.SOFT, methods.CAPTION)
    rows = {name: methods.METHODS[name] for name in names}
    bench = methods.Bench(options, methods.TUNED_ON, Cells("methods", describe=methods.describe))
    facts, table = methods.report(rows, bench.measure(rows), options)
    methods.plot(facts, folder / "methods.png")

    assert (folder / "methods.png").stat().st_size > 10_000
    assert all(name in table for name in names) and "soft prompt, no text" in table
    found = facts["methods"]
    for name in names:
        # One step of 16 restarts is 32 passes; a beam's are 57.
        assert found[name]["passes_range"][1] <= (0 if name == methods.CAPTION else 120 + 64), name
        assert found[name]["reencodes"][0] == 1, name
    assert found[methods.DEFAULT]["over_default"] == [0, 0, 0]
    assert found[methods.CAPTION]["objects"][0] == 1
    curves = found[methods.DEFAULT]["curves"]
    assert len(curves["own at passes"]) == len(facts["pass_marks"]) and curves["judge at passes"][-1] is not None
    assert json.loads(json.dumps(facts))["setting"] == {
        "targets": 2,
        "seeds": 2,
        "passes": 120,
        "num_tokens": 4,
        "threads": 1,
    }

    # Nothing is computed twice, and what is there can be read without computing.
    again = methods.Bench(options, methods.TUNED_ON, Cells("methods", only_read=True))
    assert methods.report(rows, again.measure(rows), options)[1] == table
