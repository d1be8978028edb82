"""`hardprompts invert-folder` on the toy model: a text beside each image, or one table, and going on where it stopped."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import QUICK, Run, files

from hardprompts.cli import folder
from hardprompts.testing import ToyEncoder

pytestmark = pytest.mark.usefixtures("toy_plugin")


def test_ctrl_c_in_a_folder_stops_cleanly_and_goes_on_later(
    pictures: Path, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "broken.jpg").unlink()
    before = files(pictures)
    with monkeypatch.context() as context:
        interrupt(5)  # three steps for each picture: in the second one
        run = Run("invert-folder", pictures, *QUICK)
        assert run.code == 130
        assert "1 written" in run.err and "1 left" in run.err and "best so far, not written" in run.err
        assert len(files(pictures) - before) == 1
        context.undo()
    monkeypatch.undo()
    run = Run("invert-folder", pictures, *QUICK)
    assert run.code == 0 and "1 written, 1 skipped, 0 failed" in run.err
    assert files(pictures) - before == {"a.txt", "[bold]b.txt"}


def test_a_folder_gets_a_text_beside_each_image_and_one_bad_file_does_not_stop_it(pictures: Path) -> None:
    before = files(pictures)
    run = Run("invert-folder", pictures, *QUICK)
    assert run.code == 1
    assert files(pictures) - before == {"a.txt", "[bold]b.txt"}
    assert "broken.jpg" in run.err
    assert "3 images: 2 written, 0 skipped, 1 failed" in run.err
    assert (pictures / "a.txt").read_text(encoding="utf-8").strip() in run.out
    assert "[bold]b.png" in run.out, "names of files are no markup"


def test_a_folder_alone_and_an_image_alone_find_the_same(pictures: Path) -> None:
    Run("invert-folder", pictures, *QUICK)
    assert (pictures / "a.txt").read_text(encoding="utf-8") == Run("invert", pictures / "a.png", *QUICK).out


def test_images_that_are_done_are_skipped_unless_told_otherwise(pictures: Path) -> None:
    (pictures / "a.txt").write_text("my own words")
    run = Run("invert-folder", pictures, *QUICK)
    assert "1 written, 1 skipped, 1 failed" in run.err
    assert (pictures / "a.txt").read_text() == "my own words"
    run = Run("invert-folder", pictures, *QUICK, "--overwrite")
    assert "2 written, 0 skipped, 1 failed" in run.err
    assert (pictures / "a.txt").read_text() != "my own words"


def test_subfolders_are_for_the_asking(pictures: Path) -> None:
    Run("invert-folder", pictures, *QUICK, "--recursive")
    assert (pictures / "deeper" / "c.txt").exists()


def test_images_of_one_stem_do_not_share_a_text(pictures: Path) -> None:
    ToyEncoder().picture("gold stone").save(pictures / "A.bmp")
    (pictures / "broken.jpg").unlink()
    before = files(pictures)
    assert Run("invert-folder", pictures, *QUICK).code == 0
    assert files(pictures) - before == {"a.png.txt", "A.bmp.txt", "[bold]b.txt"}


@pytest.mark.parametrize("size", ["2", "16"])
def test_batches_write_a_prompt_for_each_image_too(size: str, pictures: Path) -> None:
    run = Run("invert-folder", pictures, *QUICK, "--recursive", "--batch-size", size)
    assert run.code == 1 and "4 images: 3 written, 0 skipped, 1 failed" in run.err
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
    assert [row["file"] for row in found] == ["[bold]b.png", "a.png", "deeper/c.png"]
    assert all(row["prompt"] and -1 <= float(row["score"]) <= 1 and row["seed"] == "1" for row in found)
    first = table.read_bytes()
    assert first.count(b"file,prompt") == 1 and first.endswith(b"\n") and b"\r" not in first

    assert "0 written, 3 skipped, 1 failed" in Run(*arguments).err
    assert table.read_bytes() == first
    assert "3 written, 0 skipped, 1 failed" in Run(*arguments, "--overwrite").err
    assert table.read_bytes() == first


def test_half_a_row_of_a_crash_is_written_again(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    (pictures / "broken.jpg").unlink()
    arguments = ("invert-folder", pictures, *QUICK, "--csv", table, "--template", 'the {} ,"\n"')
    assert Run(*arguments).code == 0
    whole = table.read_bytes()
    for length in range(len(whole) - 1, whole.index(b"\n") + 1, -7):
        table.write_bytes(whole[:length])
        assert Run(*arguments).code == 0
        assert table.read_bytes() == whole


def test_a_csv_file_of_something_else_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for content in ("name,age\nada,36\n", "no line break", "\x00\x01", '"', 'file,prompt\n"x'):
        table.write_text(content)
        Run("invert-folder", pictures, *QUICK, "--csv", table).fails("table.csv")
        Run("invert-folder", pictures, *QUICK, "--csv", table, "--overwrite").fails("table.csv")
        assert table.read_text() == content


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path, pictures: Path) -> None:
    Run("invert-folder", tmp_path / "nowhere", *QUICK).fails("nowhere", "not a folder")
    Run("invert-folder", pictures / "a.png", *QUICK).fails("not a folder")
    (tmp_path / "empty").mkdir()
    Run("invert-folder", tmp_path / "empty", *QUICK).fails("no images", "--recursive")
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
    run = Run("invert-folder", pictures, *QUICK, "--csv", table)
    assert run.code == 0
    assert "\x1b" not in run.out and ":smile:" in run.out and "[red]" in run.out
    assert name in {row["file"] for row in rows(table)}


def test_images_are_found_by_suffix_in_order(pictures: Path) -> None:
    assert [path.name for path in folder.images_in(pictures, recursive=True)] == [
        "[bold]b.png", "a.png", "broken.jpg", "c.png",
    ]  # fmt: skip
