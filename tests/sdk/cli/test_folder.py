"""`hardprompts invert-folder` on the toy model: a text beside each image, or one table, and going on where it stopped."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest
from commands import QUICK, Run, files

from hardprompts.images import images_in
from hardprompts.testing import ToyEncoder

pytestmark = pytest.mark.usefixtures("toy_plugin")


def captions(place: Path, before: set[str]) -> set[str]:
    """The new files of a folder, without the rows of the run."""
    return {name for name in files(place) - before if not name.startswith(".hardprompts/")}


@pytest.fixture
def interrupted_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presses Ctrl-C in the search of the second picture."""
    from hardprompts import PromptInverter

    invert_each, calls = PromptInverter.invert_each, []

    def press(self: PromptInverter, *images: Any, **options: Any) -> Any:
        calls.append(images)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return invert_each(self, *images, **options)

    monkeypatch.setattr(PromptInverter, "invert_each", press)


def test_ctrl_c_in_a_folder_stops_cleanly_and_the_same_command_resumes(
    pictures: Path, interrupted_second: None
) -> None:
    (pictures / "broken.jpg").unlink()
    before = files(pictures)
    run = Run("invert-folder", pictures, *QUICK, "--batch-size", "1")
    assert run.code == 130
    assert "1 prompts" in run.err and "interrupted; the same command resumes it" in run.err
    assert captions(pictures, before) == {"[bold]b.txt"}
    run = Run("invert-folder", pictures, *QUICK, "--batch-size", "1")
    assert run.code == 0 and "1 prompts, 0 failed, 1 done before" in run.err
    assert captions(pictures, before) == {"a.txt", "[bold]b.txt"}


def test_a_folder_gets_a_text_beside_each_image_and_one_bad_file_does_not_stop_it(pictures: Path) -> None:
    before = files(pictures)
    run = Run("invert-folder", pictures, *QUICK)
    assert run.code == 1
    assert captions(pictures, before) == {"a.txt", "[bold]b.txt"}
    assert "broken.jpg: " in run.err and "damaged" in run.err
    assert "2 prompts, 1 failed, 0 done before" in run.err and run.out == ""


def test_a_folder_alone_and_an_image_alone_find_the_same(pictures: Path) -> None:
    Run("invert-folder", pictures, *QUICK, "--batch-size", "1")
    assert (pictures / "a.txt").read_text(encoding="utf-8") == Run("invert", pictures / "a.png", *QUICK).out


def test_captions_that_exist_are_kept_unless_they_are_to_be_replaced(pictures: Path) -> None:
    (pictures / "a.txt").write_text("my own words")
    run = Run("invert-folder", pictures, *QUICK)
    assert "1 prompts, 1 failed, 1 done before" in run.err
    assert (pictures / "a.txt").read_text() == "my own words"
    (pictures / "[bold]b.txt").write_text("changed by hand")
    assert "0 prompts, 1 failed, 2 done before" in Run("invert-folder", pictures, *QUICK).err
    assert (pictures / "[bold]b.txt").read_text() == "changed by hand"
    run = Run("invert-folder", pictures, *QUICK, "--tokens", "2", "--overwrite")
    assert "2 prompts, 1 failed, 0 done before" in run.err
    assert (pictures / "a.txt").read_text() != "my own words"
    Run("invert-folder", pictures, *QUICK).fails("other settings", "overwrite")


def test_a_caption_that_a_killed_run_did_not_write_is_written_by_the_next(pictures: Path) -> None:
    Run("invert-folder", pictures, *QUICK)
    found = (pictures / "a.txt").read_text(encoding="utf-8")
    (pictures / "a.txt").unlink()
    assert "0 prompts" in Run("invert-folder", pictures, *QUICK).err
    assert (pictures / "a.txt").read_text(encoding="utf-8") == found


def test_batch_writes_captions_into_another_folder(pictures: Path, tmp_path: Path) -> None:
    run = Run("batch", pictures, "--output", tmp_path / "captions", "--format", "txt", *QUICK)
    assert run.code == 1
    assert captions(tmp_path / "captions", set()) == {"a.txt", "[bold]b.txt", "deeper/c.txt"}
    assert "4 done before" in Run("batch", pictures, "-o", tmp_path / "captions", "--format", "txt", *QUICK).err


def test_images_that_cannot_be_read_here_are_counted_and_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts.images import decoders

    opens = decoders._opens
    monkeypatch.setattr(decoders, "_opens", lambda suffix: suffix != ".heic" and opens(suffix))
    (pictures / "broken.jpg").unlink()
    for name in ("one.heic", "two.HEIC"):
        (pictures / name).write_bytes(b"a photograph of a telephone")
    run = Run("invert-folder", pictures, *QUICK)
    assert run.code == 1 and "2 prompts, 0 failed" in run.err
    assert "passed over 2 that cannot be read here" in run.err
    assert 'two.HEIC: Pillow cannot open .heic without pillow-heif: pip install "hardprompts[heif]"' in run.err
    for name in ("a.png", "[bold]b.png"):
        (pictures / name).unlink()
    Run("invert-folder", pictures, *QUICK).fails("no images", "one.heic", "pillow-heif", "1 folder was not looked into")


def test_subfolders_are_for_the_asking(pictures: Path) -> None:
    Run("invert-folder", pictures, *QUICK, "--recursive")
    assert (pictures / "deeper" / "c.txt").exists()


def test_images_of_one_stem_do_not_share_a_text(pictures: Path) -> None:
    ToyEncoder().picture("gold stone").save(pictures / "A.bmp")
    (pictures / "broken.jpg").unlink()
    before = files(pictures)
    assert Run("invert-folder", pictures, *QUICK).code == 0
    assert captions(pictures, before) == {"a.png.txt", "A.bmp.txt", "[bold]b.txt"}


@pytest.mark.parametrize("size", ["2", "16"])
def test_batches_write_a_prompt_for_each_image_too(size: str, pictures: Path) -> None:
    run = Run("invert-folder", pictures, *QUICK, "--recursive", "--batch-size", size)
    assert run.code == 1 and "3 prompts, 1 failed, 0 done before" in run.err
    assert {"a.txt", "[bold]b.txt", "deeper/c.txt"} <= files(pictures)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_file_has_a_row_for_each_image_and_resumes(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "new" / "prompts.csv"
    before = files(pictures)
    arguments = ("invert-folder", pictures, *QUICK, "--csv", table, "--recursive")
    assert Run(*arguments).code == 1
    assert files(pictures) == before, "no .txt files with --csv"
    found = rows(table)
    assert [row["key"] for row in found] == ["[bold]b.png", "a.png", "broken.jpg", "deeper/c.png"]
    good = [row for row in found if not row["error"]]
    assert len(good) == 3 and all(
        row["prompt"] and -1 <= float(row["score"]) <= 1 and row["seed"] == "1" for row in good
    )
    first = table.read_bytes()
    assert first.count(b"key,prompt") == 1 and first.endswith(b"\n") and b"\r" not in first

    assert Run(*arguments, "--overwrite").code == 1
    assert table.read_bytes() == first


def test_a_csv_file_of_something_else_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("name,age\nada,36\n")
    Run("invert-folder", pictures, *QUICK, "--csv", table).fails("table.csv")
    Run("invert-folder", pictures, *QUICK, "--csv", table, "--overwrite").fails("table.csv")
    assert table.read_text() == "name,age\nada,36\n"


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path, pictures: Path) -> None:
    Run("invert-folder", tmp_path / "nowhere", *QUICK).fails("nowhere", "not a folder")
    Run("invert-folder", pictures / "a.png", *QUICK).fails("not a folder")
    (tmp_path / "empty").mkdir()
    Run("invert-folder", tmp_path / "empty", *QUICK).fails("no images", "nothing else")
    (tmp_path / "empty" / "more").mkdir()
    (pictures / "a.png").rename(tmp_path / "empty" / "more" / "a.png")
    Run("invert-folder", tmp_path / "empty", *QUICK).fails("no images", "with 1 image in all", "recursive")
    Run("invert-folder", pictures, *QUICK, "--batch-size", "0").fails("--batch-size")
    before = files(pictures)
    Run("invert-folder", pictures, *QUICK, "--tokens", "99").fails("99 tokens do not fit")
    assert files(pictures) == before


@pytest.mark.skipif(os.name != "posix", reason="file names of POSIX")
def test_names_of_files_are_data(pictures: Path) -> None:
    (pictures / "broken.jpg").unlink()
    name = 'new\nline \x1b[31m, "quoted" [red] :smile:.png'
    ToyEncoder().picture("red boat").save(pictures / name)
    table = pictures / "prompts.csv"
    (pictures / name.replace(".png", ".jpg")).write_text("no picture")
    run = Run("invert-folder", pictures, *QUICK, "--csv", table)
    assert run.code == 1
    assert "\x1b" not in run.err and ":smile:" in run.err and "[red]" in run.err
    assert name in {row["key"] for row in rows(table)}


def test_images_are_found_by_suffix_in_order(pictures: Path) -> None:
    assert [path.name for path in images_in(pictures, recursive=True).images] == [
        "[bold]b.png", "a.png", "broken.jpg", "c.png",
    ]  # fmt: skip
