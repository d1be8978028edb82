"""hardprompts.batch in one process: interruptions at every moment, bad records, progress and estimates."""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import TEXTS, encoded, picture
from PIL import Image

from hardprompts import PromptInverter
from hardprompts.batch import BatchProgress, BatchReport, Record, estimate, invert_many
from hardprompts.batch.chunks import Plan, prompts_of_each
from hardprompts.batch.output import LATER
from hardprompts.errors import FileFormatError, HardPromptsError, ImageError, NonFiniteError, VocabularyError
from hardprompts.testing import ToyEncoder, toy_backend
from hardprompts.wording import WordEvidence

#: What makes a search of the toy model take a moment only.
QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 2, "restarts": 2, "views": 1, "batch_size": 2}


def run(source: Any, output: Path, **options: Any) -> BatchReport:
    return invert_many(source, output, toy_backend, progress=False, **{**QUICK, **options})


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def contents(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_every_picture_gets_the_prompt_of_invert_each_and_bad_ones_their_error(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.failed, report.skipped, report.stop_reason) == (5, 2, 0, "finished")
    found = rows(tmp_path / "out.jsonl")
    assert [row["key"] for row in found] == ["a.png", "b.png", "bb.png", "c.png", "cc.png", "d.png", "more/e.png"]
    # Chunks: a b | bb c | cc d | e; a bad record leaves the others of its chunk.
    inverter = PromptInverter(toy_backend())
    options = {**QUICK, "seed": 0, "progress": False}
    expected = [
        prompt
        for names in (["a", "b"], ["c"], ["d"], ["more/e"])
        for prompt in inverter.invert_each([folder / f"{name}.png" for name in names], **options)
    ]
    good = [row for row in found if row["error"] is None]
    assert [(row["prompt"], row["score"], tuple(row["token_ids"])) for row in good] == [
        (prompt.filled, prompt.score, prompt.token_ids) for prompt in expected
    ]
    assert {row["model"] for row in good} == {"toy"} and {row["seed"] for row in good} == {0}
    errors = {row["key"]: row["error"] for row in found if row["error"] is not None}
    assert "not an image" in errors["bb.png"] and "damaged" in errors["cc.png"]
    assert all(row["prompt"] is None and row["score"] is None for row in found if row["key"] in errors)


def test_a_prompt_does_not_depend_on_other_chunks(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "all.jsonl")
    alone = [folder / name for name in ("a.png", "b.png")]
    run(alone, tmp_path / "alone.jsonl")
    assert rows(tmp_path / "alone.jsonl") == rows(tmp_path / "all.jsonl")[:2]


def test_a_template_seed_and_other_options_reach_the_search(folder: Path, tmp_path: Path) -> None:
    run(folder / "a.png", tmp_path / "out.jsonl", template="the {}", seed=3, banned=["red"], deadline=60.0)
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["prompt"].startswith("the ") and row["seed"] == 3 and "red" not in row["prompt"]


class Killed(BaseException):
    """What nothing catches, as a signal would be."""


def stopping(how: str, at: int) -> Callable[[BatchProgress], bool]:
    calls = itertools.count(1)

    def callback(progress: BatchProgress) -> bool:
        if next(calls) != at:
            return False
        if how == "cancel":
            return True
        raise KeyboardInterrupt if how == "ctrl-c" else Killed

    return callback


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("how", ["cancel", "ctrl-c", "kill"])
def test_a_run_that_was_stopped_at_any_chunk_ends_as_one_that_was_not(
    name: str, how: str, folder: Path, tmp_path: Path
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    run(folder, tmp_path / "whole" / name)
    expected = contents(tmp_path / "whole")
    assert len(expected) == 1 + 4 + 1, "the file, a part for each chunk, the settings"
    for at in range(1, 5):
        place = tmp_path / f"stopped{at}"
        if how == "kill":
            with pytest.raises(Killed):
                run(folder, place / name, callback=stopping(how, at))
            assert not (place / name).exists()
        else:
            report = run(folder, place / name, callback=stopping(how, at))
            assert report.stop_reason == ("cancelled" if how == "cancel" else "interrupted")
            assert report.done + report.failed == min(2 * at, 7)
            assert (place / name).exists(), "what is done is in the file"
        report = run(folder, place / name)
        assert report.skipped == min(2 * at, 7) and report.done + report.failed == 7 - report.skipped
        assert contents(place) == expected
        before = contents(place)
        assert (run(folder, place / name).done, contents(place)) == (0, before)


def test_parts_that_were_done_out_of_order_do_not_change_the_others(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole" / "out.jsonl")
    expected = contents(tmp_path / "whole")
    for missing in itertools.chain(itertools.combinations(range(4), 1), itertools.combinations(range(4), 2)):
        for number in missing:
            (tmp_path / "whole" / "out.jsonl.parts" / f"part-{number:06d}.jsonl").unlink()
        run(folder, tmp_path / "whole" / "out.jsonl")
        assert contents(tmp_path / "whole") == expected


def test_nothing_is_opened_when_nothing_is_left_to_do(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")

    def never() -> Any:
        raise AssertionError("opened")

    never.__module__, never.__qualname__ = toy_backend.__module__, toy_backend.__qualname__
    report = invert_many(folder, tmp_path / "out.jsonl", never, progress=False, **QUICK)
    assert (report.done, report.skipped, report.images_per_hour) == (0, 7, 0.0)


def test_half_a_search_is_not_a_result(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, calls = ToyEncoder.encode, itertools.count()

    def press(self: ToyEncoder, embeddings: Any) -> Any:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return score(self, embeddings)

    with monkeypatch.context() as context:
        context.setattr(ToyEncoder, "encode", press)
        report = run(folder, tmp_path / "out.jsonl", max_steps=100)
    assert report.stop_reason == "interrupted" and report.done + report.failed < 7
    run(folder, tmp_path / "out.jsonl", max_steps=100)
    run(folder, tmp_path / "whole.jsonl", max_steps=100)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_records_that_are_added_get_chunks_of_their_own(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = rows(tmp_path / "out.jsonl")
    picture("red dog").save(folder / "0.png")  # first in order
    picture("white dog").save(folder / "more" / "f.png")
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.skipped) == (2, 7)
    after = rows(tmp_path / "out.jsonl")
    assert after[:7] == before and [row["key"] for row in after[7:]] == ["0.png", "more/f.png"]


def test_errors_are_done_again_when_asked(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = rows(tmp_path / "out.jsonl")
    (folder / "bb.png").write_bytes(encoded("old house"))
    assert run(folder, tmp_path / "out.jsonl").skipped == 7, "not unless asked"
    report = run(folder, tmp_path / "out.jsonl", retry_errors=True)
    assert (report.done, report.failed, report.skipped) == (3, 1, 3)
    after = rows(tmp_path / "out.jsonl")
    assert [row["key"] for row in after] == [row["key"] for row in before]
    assert after[2]["error"] is None and after[4]["error"] is not None
    run(folder, tmp_path / "whole.jsonl")
    assert after == rows(tmp_path / "whole.jsonl")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_token": 3}, ValueError, "unknown options num_token"),
        ({"callback_": 1}, ValueError, "callback_"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"vocabulary": ["zzzz"]}, VocabularyError, "zzzz|no token"),
    ],
)
def test_wrong_options_are_told_and_write_no_prompts(
    options: dict[str, Any], error: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(folder, tmp_path / "out.jsonl", **options)
    assert not contents(tmp_path / "out.jsonl.parts"), "a mistake is not kept as settings"
    assert run(folder, tmp_path / "out.jsonl").done == 5


def test_a_search_that_fails_for_one_picture_fails_for_it_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert = PromptInverter.invert_each
    poison = picture(TEXTS[1]).convert("RGB").tobytes()

    def failing(self: PromptInverter, images: Sequence[Image.Image], **options: Any) -> Any:
        if any(image.tobytes() == poison for image in images):
            raise NonFiniteError("every score was NaN")
        return invert(self, images, **options)

    monkeypatch.setattr(PromptInverter, "invert_each", failing)
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.failed) == (4, 3)
    assert {row["key"]: row["error"] for row in rows(tmp_path / "out.jsonl")}["b.png"] == "every score was NaN"


def test_the_deadline_is_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def spy(self: PromptInverter, images: Sequence[Any], **options: Any) -> list[HardPromptsError]:
        given.append(options["deadline"])
        return [NonFiniteError("")] * len(images)

    monkeypatch.setattr(PromptInverter, "invert_each", spy)
    prompts_of_each(PromptInverter(toy_backend()), [picture("red")] * 3, {"deadline": 2.0})
    assert given == [6.0]


def test_progress_counts_and_rates(folder: Path, tmp_path: Path) -> None:
    seen: list[BatchProgress] = []
    report = run(folder, tmp_path / "out.jsonl", callback=seen.append)
    assert [(p.done, p.failed, p.waiting) for p in seen] == [(2, 0, 5), (3, 1, 3), (4, 2, 1), (5, 2, 0)]
    last = seen[-1]
    assert last.images_per_hour == pytest.approx(3600 * 7 / last.seconds)
    assert seen[0].seconds_left == pytest.approx(5 * seen[0].seconds / 2)
    assert 0 < report.busy_seconds <= report.seconds * 1.01
    unknown: list[BatchProgress] = []
    items = iter([picture(text) for text in TEXTS])
    run(items, tmp_path / "items.jsonl", callback=unknown.append)
    assert unknown[0].waiting is None and unknown[0].seconds_left is None and unknown[-1].done == 5


def test_the_progress_bar_shows_the_rate(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    invert_many(folder, tmp_path / "out.jsonl", toy_backend, **QUICK)
    shown = capsys.readouterr().err
    assert "7/7" in shown and "images/h" in shown and "2 failed" in shown


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
def test_whatever_is_done_the_rest_has_the_chunks_that_it_always_had(size: int) -> None:
    records = [Record(f"r{index}", None) for index in range(10)]
    whole = {c.number: [r.key for r in c.records] for c in Plan(records, size, set(), set())}
    for done in itertools.chain.from_iterable(itertools.combinations(whole, count) for count in range(len(whole) + 1)):
        plan = Plan(records, size, {key for number in done for key in whole[number]}, set(done))
        rest = {c.number: [r.key for r in c.records] for c in plan}
        assert {**rest, **{number: whole[number] for number in done}} == whole
        assert rest.keys().isdisjoint(done) and plan.skipped == sum(len(whole[number]) for number in done)


def test_an_estimate_is_measured_and_multiplies_out(folder: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    found = estimate(
        folder, toy_backend, sample=7, price_per_hour=2.0, workers=4, num_tokens=3, max_steps=2, restarts=2, views=1
    )
    assert contents(tmp_path) == before, "nothing is written"
    assert (found.images, found.failed, found.total, found.gpu_memory) == (5, 2, 7, None)
    assert found.device.startswith("CPU") and 0 < found.seconds < 60
    assert found.images_per_hour == pytest.approx(3600 * 5 / found.seconds)
    assert found.hours(1000) == pytest.approx(1000 * found.seconds / 5 / 3600 / 4)
    price = found.price()
    assert price == pytest.approx(found.hours() * 4 * 2.0)
    assert "a million images" in str(found) and f"{price:,.2f} at 2 per hour" in str(found) and "2 of 7" in str(found)
    assert estimate(folder, toy_backend(), sample=2, batch_size=2, num_tokens=2, max_steps=1).price() is None


def test_an_estimate_needs_something_to_measure(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ImageError, match="none of the 1 records"):
        estimate(tmp_path, toy_backend)
    with pytest.raises(ValueError, match="price_per_hour"):
        estimate(tmp_path, toy_backend, price_per_hour=-1)
    with pytest.raises(ValueError, match="sample"):
        estimate(tmp_path, toy_backend, sample=0)


def test_evidence_is_a_column(folder: Path, tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow.parquet")
    for name in ("told.jsonl", "told.csv", "told.parquet"):
        run(folder, tmp_path / name, evidence=True)
    told = [row for row in rows(tmp_path / "told.jsonl") if row["error"] is None]
    assert told and all(row["evidence"] for row in told)
    for row in told:
        assert all(WordEvidence.from_dict(one).phrase in row["prompt"] for one in row["evidence"])
    with open(tmp_path / "told.csv", encoding="utf-8", newline="") as file:
        of_csv = [json.loads(row["evidence"]) for row in csv.DictReader(file) if row["evidence"]]
    of_parquet = [row["evidence"] for row in table.read_table(tmp_path / "told.parquet").to_pylist()]
    assert of_csv == [json.loads(one) for one in of_parquet if one is not None] == [row["evidence"] for row in told]
    run(folder, tmp_path / "silent.jsonl")
    assert all(row["evidence"] is None for row in rows(tmp_path / "silent.jsonl"))
    with pytest.raises(ValueError, match="min_evidence must be a probability"):
        run(folder, tmp_path / "wrong.jsonl", min_evidence=80)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_output_of_an_earlier_release_is_resumed(folder: Path, tmp_path: Path, suffix: str) -> None:
    """Its parts have neither fluency nor evidence; the whole has both, which are empty."""
    run(folder, tmp_path / f"whole.{suffix}")
    begun = tmp_path / f"begun.{suffix}"
    run(folder, begun, callback=stopping("cancel", 2))
    for part in (tmp_path / f"begun.{suffix}.parts").glob("part-*"):
        without_later_columns(part)
    assert run(folder, begun).skipped == 4
    if suffix == "parquet":
        table = pytest.importorskip("pyarrow.parquet")
        assert table.read_table(begun).equals(table.read_table(tmp_path / "whole.parquet"))
    elif suffix == "csv":
        assert begun.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    else:
        assert [{**dict.fromkeys(LATER), **row} for row in rows(begun)] == rows(tmp_path / "whole.jsonl")
    damaged = next((tmp_path / f"begun.{suffix}.parts").glob("part-*"))
    damaged.write_bytes(damaged.read_bytes().replace(b"score", b"scare"))
    if suffix == "csv":
        with pytest.raises(FileFormatError, match="its columns are not"):
            run(folder, begun)


def without_later_columns(part: Path) -> None:
    """Makes a part as it was before there was fluency or evidence."""
    if part.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet")
        table.write_table(table.read_table(part).drop_columns(list(LATER)), part)
    elif part.suffix == ".csv":
        with open(part, encoding="utf-8", newline="") as file:
            (names, *found) = list(csv.reader(file))
        kept = [place for place, name in enumerate(names) if name not in LATER]
        with open(part, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([row[place] for place in kept] for row in (names, *found))
    else:
        lines = [{name: value for name, value in row.items() if name not in LATER} for row in rows(part)]
        part.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def test_fluency_is_a_column(folder: Path, tmp_path: Path) -> None:
    def letters(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([-float(len(text)) for text in texts])

    for name in ("told.jsonl", "told.csv", "told.parquet"):
        run(folder, tmp_path / name, fluency_model=letters)
    told = [row for row in rows(tmp_path / "told.jsonl") if row["error"] is None]
    assert told
    assert all(row["fluency"] == pytest.approx(-len(row["prompt"]) / len(row["prompt"].split())) for row in told)
    run(folder, tmp_path / "silent.jsonl")
    assert all(row["fluency"] is None for row in rows(tmp_path / "silent.jsonl"))
