"""A folder as people have it: `batch`, `invert-folder` and the ComfyUI node find the same images in it, and each names
what it left out.
"""

import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import TEXTS, encoded, picture
from commands import QUICK, Run

from hardprompts import PromptInverter
from hardprompts.errors import ImageError
from hardprompts.images import decoders, images_in
from hardprompts.methods.banks import read_bank
from hardprompts.testing import toy_backend

sys.path.insert(0, str(Path(__file__).parent / "comfyui"))
from fakes import World, comfyui

#: What each door must find, in this order, and of these what is damaged.
FOUND = ["A.PNG", "IMG_0021", "b.jpg", "cut.png", "empty.png", "link.png", "text.png", "wrong.jpg"]
DAMAGED = {"cut.png", "empty.png", "text.png"}

#: What each door must pass over and name, with a word of the reason.
PASSED_OVER = {
    "gone.png": "where nothing is", "ghost.jpg": "cloud", "logo.svg": "vector drawing", "night.cr2": "raw picture",
    "phone.HEIC": 'pip install "hardprompts[heif]"',
}  # fmt: skip

#: What nobody put there on purpose, or belongs to an image.
SILENT = (
    "._A.png",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "~$draft.png",
    "half.png.tmp",
    "b.txt",
    "b.mov",
    "A.PNG.txt",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with comfyui(tmp_path) as found:
        yield found


@pytest.fixture
def mixed(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A mixed folder inside ComfyUI's input folder, where Pillow has no plugins."""
    opens = decoders._opens
    monkeypatch.setattr(decoders, "_opens", lambda suffix: suffix != ".heic" and opens(suffix))
    place = world.folder / "input" / "mixed"
    (place / "more").mkdir(parents=True)
    for folder in ("@eaDir", "__MACOSX", ".git"):
        (place / folder).mkdir()
        (place / folder / "x.png").write_bytes(encoded(TEXTS[0]))
    for name in ("A.PNG", "IMG_0021", "wrong.jpg", "more/c.png", "more/d.png"):
        (place / name).write_bytes(encoded(TEXTS[0]))
    picture(TEXTS[1]).save(place / "b.jpg")
    (place / "link.png").symlink_to(place / "A.PNG")
    (place / "gone.png").symlink_to("nowhere.png")
    (place / "cut.png").write_bytes(encoded(TEXTS[0])[:45])
    (place / "empty.png").touch()
    (place / "text.png").write_text("no picture")
    (place / ".ghost.jpg.icloud").touch()
    for name in ("logo.svg", "night.cr2", "phone.HEIC", "clip.mp4", "paper.pdf", "LICENSE", *SILENT):
        (place / name).write_bytes(b"something")
    return place


NOTES = (
    "3 other files are not images: 1 .mp4, 1 .pdf, 1 without a suffix",
    "1 folder was not looked into, with 2 images",
)


def test_three_doors_find_the_same_and_name_the_same(
    mixed: Path, toy_plugin: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, world: World
) -> None:
    found = images_in(mixed)
    assert [path.name for path in found.images] == FOUND
    assert {path.name for path, _ in found.passed_over} == set(PASSED_OVER)

    folder = Run("invert-folder", mixed, *QUICK, "--csv", tmp_path / "folder.csv")
    assert folder.code == 1 and "5 prompts, 3 failed" in folder.err
    everything = Run("batch", mixed, *QUICK, "--output", tmp_path / "batch.jsonl")
    assert everything.code == 1 and "7 prompts, 3 failed" in everything.err
    rows = [json.loads(line) for line in (tmp_path / "batch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["key"] for row in rows if not row["key"].startswith("more/")] == FOUND
    assert {row["key"] for row in rows if row["error"]} == DAMAGED
    deep = Run("invert-folder", mixed, *QUICK, "--csv", tmp_path / "deep.csv", "--recursive")
    assert "7 prompts, 3 failed" in deep.err and "not looked into" not in deep.err

    node = importlib.import_module("comfyui_nodes.captions").LoadImagesFromFolder
    with caplog.at_level(logging.WARNING):
        images, paths = node.execute("mixed", 0, 0).args
    assert paths == [f"mixed/{name}" for name in FOUND if name not in DAMAGED] and len(images) == len(paths)
    assert node.execute("mixed", 0, 0, True).args[1][-3:] == ["mixed/more/c.png", "mixed/more/d.png", "mixed/wrong.jpg"]
    shown = world.texts[0][0]
    assert shown.startswith("5 of 8 images\n")

    for told in (folder.err, everything.err, shown, caplog.text):
        for name, reason in PASSED_OVER.items():
            assert f"{name}: " in told and reason in told
        assert all(name in told for name in DAMAGED)
        assert NOTES[0] in told
        assert not any(f"{name}: " in told for name in SILENT), told
    for told in (folder.err, shown, caplog.text):
        assert NOTES[1] in told


def test_a_folder_without_a_readable_image_is_an_error_that_says_what_is_there(
    mixed: Path, toy_plugin: str, tmp_path: Path, world: World
) -> None:
    for name in FOUND:
        (mixed / name).unlink()
    words = ("that can be read", "5 cannot be, such as ghost.jpg", "cloud", "other files are not images")
    Run("invert-folder", mixed, *QUICK).fails(*words, NOTES[1])
    for name in ("c.png", "d.png"):
        (mixed / "more" / name).unlink()
    Run("batch", mixed, *QUICK, "--output", tmp_path / "out.jsonl").fails(*words)
    with pytest.raises(
        ImageError, match="that can be read; ghost.jpg: only the cloud has it.*other files are not images"
    ):
        importlib.import_module("comfyui_nodes.captions").LoadImagesFromFolder.execute("mixed", 0, 0)


def test_a_folder_whose_images_are_all_damaged_fails(
    mixed: Path, toy_plugin: str, tmp_path: Path, world: World
) -> None:
    for name in {*FOUND} - DAMAGED:
        (mixed / name).unlink()
    run = Run("invert-folder", mixed, *QUICK, "--csv", tmp_path / "out.csv")
    assert run.code == 1 and "0 prompts, 3 failed" in run.err
    again = Run("batch", mixed, *QUICK, "--output", tmp_path / "out.jsonl")
    assert again.code == 1 and "2 prompts, 3 failed" in again.err
    again = Run("batch", mixed, *QUICK, "--output", tmp_path / "out.jsonl")
    assert "0 prompts, 0 failed, 5 done before (3 of them failed)" in again.err and "--retry-errors" in again.err
    with pytest.raises(ImageError, match="none of 3 images can be read"):
        importlib.import_module("comfyui_nodes.captions").LoadImagesFromFolder.execute("mixed", 0, 0)


def test_a_folder_in_the_place_of_an_image_is_refused_with_what_to_do(mixed: Path, toy_plugin: str) -> None:
    with pytest.raises(ImageError, match="is a folder; pass the image files in it"):
        PromptInverter(toy_backend()).invert(mixed, max_steps=1)
    Run("invert", mixed / "A.PNG", *QUICK, "--unlike", mixed).fails("is a folder")


def test_a_bank_is_listed_by_the_same_rule_and_names_what_it_left_out(mixed: Path) -> None:
    for file in mixed.iterdir():
        if file.is_file() or file.is_symlink():
            file.unlink()
    (mixed / "styles.TXT").write_text("film noir\n")
    (mixed / "~$styles.txt").write_bytes(b"\0")
    (mixed / "more.csv").write_text("a,b\n")
    (mixed / "README.md").write_text("about the phrases")
    (mixed / "lost.txt").symlink_to("nowhere.txt")
    with pytest.warns(UserWarning, match=r"mixed leaves out .*: 'lost\.txt', 'more', 'more\.csv'$"):
        (table,) = read_bank(mixed)
    assert table.phrases == ("film noir",)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_to_folders_are_named_and_circles_end(mixed: Path) -> None:
    (mixed / "more" / "circle").symlink_to(mixed)
    found = images_in(mixed, recursive=True)
    assert len(found.images) == len(FOUND) + 2
    assert "a link to a folder" in dict(found.passed_over)[mixed / "more" / "circle"]
    assert images_in(mixed).notes[-1].startswith("1 folder was not looked into, with 2 images")


def test_a_folder_that_may_not_be_looked_into_is_named(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterdir = Path.iterdir

    def refused(self: Path) -> Iterator[Path]:
        if self.name == "more":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert "Permission denied" in dict(images_in(mixed, recursive=True).passed_over)[mixed / "more"]
    with pytest.raises(PermissionError):
        images_in(mixed / "more")
