"""The `hardprompts` command on the toy model: what is on stdout, what is on stderr, what is on the disk."""

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hardprompts import HardPrompt, PromptInverter, SoftPrompt
from hardprompts.cli import app, folder, main, screen
from hardprompts.testing import ToyEncoder, toy_backend

pytestmark = pytest.mark.usefixtures("toy_plugin")

#: What makes a search of the toy model take a moment only.
QUICK = ("--model", "toy", "--tokens", "3", "--steps", "3", "--restarts", "4", "--seed", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures of texts and one damaged file."""
    place = tmp_path / "pictures"
    (place / "deeper").mkdir(parents=True)
    encoder = ToyEncoder()
    encoder.picture("red house river").save(place / "a.png")
    encoder.picture("old boat").save(place / "[bold]b.png")
    encoder.picture("black cat snow").save(place / "deeper" / "c.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (place / "notes.md").write_text("no picture either")
    (place / "._a.png").write_bytes(b"what macOS leaves on other disks")
    return place


class Run:
    """The outcome of a command."""

    def __init__(self, *words: str | Path) -> None:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    def fails(self, *words: str) -> None:
        """Checks that it was one clear line on stderr, and nothing else anywhere."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err
        assert "Traceback" not in self.err


def files(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


# --- invert ---------------------------------------------------------------------------------


def test_a_picture_becomes_a_prompt(pictures: Path) -> None:
    run = Run("invert", pictures / "a.png", *QUICK, "--template", "the {}")
    assert run.code == 0
    assert run.out.startswith("the ") and run.out.count("\n") == 1
    assert "cosine similarity" in run.err and "seed 1" in run.err


def test_the_same_seed_gives_the_same_prompt(pictures: Path) -> None:
    assert Run("invert", pictures / "a.png", *QUICK).out == Run("invert", pictures / "a.png", *QUICK).out


def test_several_pictures_become_one_prompt(pictures: Path) -> None:
    run = Run("invert", pictures / "a.png", pictures / "deeper" / "c.png", *QUICK)
    assert run.code == 0 and run.out.count("\n") == 1


def test_json_is_one_document_and_nothing_else(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(*arguments: Any, **options: Any) -> Any:
        sys.stdout.write("a library says something on stdout\n")
        return invert(*arguments, **options)

    invert = PromptInverter.invert
    monkeypatch.setattr(PromptInverter, "invert", chatty)
    run = Run("invert", pictures / "a.png", *QUICK, "--json", "--save", tmp_path / "saved")
    assert run.code == 0
    prompt = HardPrompt.from_dict(json.loads(run.out))
    assert prompt.model == "toy" and prompt.seed == 1 and prompt.candidates
    assert HardPrompt.from_pretrained(tmp_path / "saved") == prompt
    assert "a library says" in run.err and run.out.isascii()


def test_save_writes_one_file(pictures: Path, tmp_path: Path) -> None:
    run = Run("invert", pictures / "a.png", *QUICK, "--save", tmp_path / "new" / "saved")
    assert files(tmp_path / "new") == {"saved/prompt.json"}
    assert HardPrompt.from_pretrained(tmp_path / "new" / "saved").filled == run.out.rstrip("\n")


def test_banned_unlike_and_vocabulary_reach_the_search(pictures: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\ufeffred\n\n  house \nriver\nboat\n", encoding="utf-8")
    run = Run(
        "invert", pictures / "a.png", *QUICK, "--vocabulary", words, "--banned", "red", "--banned", "boat",
        "--unlike", pictures / "deeper" / "c.png",
    )  # fmt: skip
    assert run.code == 0
    assert set(run.out.split()) <= {"house", "river"}


def test_options_that_were_not_given_are_left_to_the_sdk(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def spy(self: Any, images: Any, **options: Any) -> Any:
        given.update(options)
        return invert(self, images, **{**options, "max_steps": 1, "restarts": 2})

    invert = PromptInverter.invert
    monkeypatch.setattr(PromptInverter, "invert", spy)
    assert Run("invert", pictures / "a.png", "--model", "toy", "--deadline", "9").code == 0
    assert set(given) == {"num_tokens", "template", "deadline", "callback", "progress"}


@pytest.mark.parametrize(
    "words, expected",
    [
        (("--model", "opencv:x"), ("unknown model scheme 'opencv'", "toy")),
        (("--method", "pezz"), ("unknown search method 'pezz'", "pez+refine")),
        (("--template", "no slot"), ("template", "'no slot'", "exactly once")),
        (("--template", "{} {}"), ("template", "2 slots")),
        (("--tokens", "0"), ("--tokens", "0")),
        (("--tokens", "17"), ("17 tokens do not fit",)),
        (("--restarts", "0"), ("--restarts",)),
        (("--steps", "-1"), ("--steps",)),
        (("--deadline", "-1"), ("--deadline",)),
        (("--deadline", "nan"), ("--deadline",)),
        (("--banned", " "), ("banned",)),
        (("--banned", "a", "--banned", "e", "--banned", "i", "--banned", "o", "--banned", "u"), ("no token is left",)),
        (("--device", "abacus"), ("abacus",)),
        (("--vocabulary", "missing.txt"), ("missing.txt",)),
        (("--unlike", "missing.png"), ("missing.png",)),
    ],
)
def test_bad_options_are_one_clear_line(
    words: tuple[str, ...], expected: tuple[str, ...], pictures: Path, tmp_path: Path
) -> None:
    before = files(tmp_path)
    Run("invert", pictures / "a.png", *QUICK, *words, "--save", tmp_path / "saved").fails(*expected)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["broken.jpg", "notes.md", "missing.png", "deeper"])
def test_a_bad_picture_is_one_clear_line(name: str, pictures: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    Run("invert", pictures / name, *QUICK, "--save", tmp_path / "saved").fails(name)
    assert files(tmp_path) == before


def test_a_vocabulary_file_must_hold_text(pictures: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_bytes(b"\n \n")
    Run("invert", pictures / "a.png", *QUICK, "--vocabulary", words).fails("has no phrases")
    words.write_bytes(b"\xff\xfe\x00")
    Run("invert", pictures / "a.png", *QUICK, "--vocabulary", words).fails("not UTF-8")


def test_save_over_a_file_is_refused_before_the_search(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    Run("invert", pictures / "a.png", *QUICK, "--save", tmp_path / "file").fails("is a file")
    assert (tmp_path / "file").read_text() == "mine"


def test_misuse_of_the_command_is_exit_code_2() -> None:
    assert Run("invert").code == 2
    assert Run("invert", "a.png", "--no-such-option").code == 2
    assert Run("invert", "a.png", "--dtype", "int8").code == 2
    assert Run("no-such-command").code == 2


def test_a_defect_keeps_its_traceback(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any, **__: Any) -> Any:
        raise KeyError("a defect of ours")

    monkeypatch.setattr(PromptInverter, "invert", defect)
    with pytest.raises(KeyError, match="a defect of ours"):
        Run("invert", pictures / "a.png", *QUICK)


# --- Ctrl-C ---------------------------------------------------------------------------------


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl-C at the nth callback of the searches from now on."""

    def at(count: int) -> None:
        calls = 0

        def press(self: screen.LiveSearch, progress: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(screen.LiveSearch, "__call__", press)

    return at


def test_ctrl_c_prints_and_saves_the_best_so_far(
    pictures: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(2)
    run = Run("invert", pictures / "a.png", *QUICK, "--steps", "1000000", "--save", tmp_path / "saved")
    assert run.code == 130
    prompt = HardPrompt.from_pretrained(tmp_path / "saved")
    assert prompt.stop_reason == "interrupted"
    assert run.out == f"{prompt.filled}\n"
    assert "interrupted" in run.err


def test_ctrl_c_before_there_is_a_prompt_says_so(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(ToyEncoder, "encode_images", press)
    run = Run("invert", pictures / "a.png", *QUICK)
    assert (run.code, run.out) == (130, "")
    assert "interrupted" in run.err and "Traceback" not in run.err


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


# --- invert-folder --------------------------------------------------------------------------


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


# --- the other commands ---------------------------------------------------------------------


def test_score_prints_a_number(pictures: Path) -> None:
    right, wrong = (
        Run("score", text, pictures / "a.png", "--model", "toy") for text in ("red house river", "slow dog")
    )
    assert re.fullmatch(r"1\.0000\n", right.out) and right.code == 0
    assert float(wrong.out) < 0.9
    Run("score", "red", pictures / "broken.jpg", "--model", "toy").fails("broken.jpg")


def test_models_methods_and_plugins_are_listed() -> None:
    models, methods, plugins = Run("models"), Run("methods"), Run("plugins")
    assert models.code == methods.code == plugins.code == 0
    assert "A model of a hundred words" in models.out
    assert re.search(r"^build\+refine .*\[default\]$", methods.out, re.MULTILINE)
    assert len(methods.out.splitlines()) >= 3
    assert re.search(r"^toy +toy$", plugins.out, re.MULTILINE)
    assert "pez, refine, build+refine, pez+refine" in plugins.out


def test_every_model_scheme_describes_itself_with_an_example() -> None:
    from hardprompts import backends
    from hardprompts.cli import _examples, _first_line

    for scheme, opener in backends().items():
        if scheme != "toy":
            assert _first_line(opener).endswith("."), scheme
            assert _examples(scheme, opener), f"{scheme}: name an example in the docstring, in backticks or quotes"


def test_the_version_is_shown() -> None:
    import hardprompts

    assert Run("--version").out == f"{hardprompts.__version__}\n"


@pytest.mark.parametrize(
    "installed, more", [("photo", ""), ("emoji", '; offline for photos: pip install "hardprompts[photo]"')]
)
def test_the_default_model_says_what_it_is_good_for(
    installed: str, more: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    import hardprompts.inverter
    import hardprompts.plugins

    opened: list[str] = []

    def noted(name: str, **_: Any) -> Any:
        opened.append(name)
        return dataclasses.replace(toy_backend(), note="Knows words\nonly; pass --model for more.")

    monkeypatch.setattr(hardprompts.inverter, "load_backend", noted)
    monkeypatch.setattr(hardprompts.plugins, "is_installed", lambda scheme: scheme in (installed, "emoji"))
    without, named = Run("score", "red", pictures / "a.png"), Run("score", "red", pictures / "a.png", "--model", "toy")
    assert without.err == f"Knows words only; pass --model for more.{more}\n"
    assert named.err == "" and named.out == without.out
    assert opened == [installed, "toy"]


@pytest.mark.parametrize(
    "options, expected",
    [
        ((), {}),
        (("--words",), {"words": True}),
        (("--no-words", "--banned", "none"), {"words": False, "banned": ("none",)}),
    ],
)
def test_what_words_may_be_used_reaches_the_search(
    options: tuple[str, ...], expected: dict[str, Any], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def spy(self: Any, images: Any, **options: Any) -> Any:
        given.update(options)
        return invert(self, images, **options)

    invert = PromptInverter.invert
    monkeypatch.setattr(PromptInverter, "invert", spy)
    assert Run("invert", pictures / "a.png", *QUICK, *options).code == 0
    assert {name: given[name] for name in ("words", "banned") if name in given} == expected


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    class Unfamiliar(UserWarning):
        """A category of its own."""

    usual: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *arguments, **_: usual.append(arguments[1]))
        screen.show_warnings()
        warnings.warn("photo knows nothing\nof this [red]picture[/red]; name another model", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        for search in range(2):
            with screen.LiveSearch():
                warnings.warn(f"unfamiliar {search}", Unfamiliar, stacklevel=1)
                warnings.warn(f"unfamiliar {search} again", Unfamiliar, stacklevel=1)
    found = capsys.readouterr().err
    assert found.splitlines() == [
        "warning: photo knows nothing of this [red]picture[/red]; name another model",
        "warning: unfamiliar 0",
        "warning: unfamiliar 1",
    ]
    assert usual == [DeprecationWarning]


def test_the_live_display_shows_prompts_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from hardprompts.prompts import Candidate
    from hardprompts.search import SearchProgress

    terminal = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=terminal, force_terminal=True, width=200))
    with screen.LiveSearch("1/2 cat.png, ") as live:
        live(SearchProgress(3, None, 0.5, 64, (None, Candidate("[red]a\x1b[2J dog[/red]", (1,), 0.5))))
        live._live.refresh()
    assert "[red]a\\x1b[2J dog[/red]" in terminal.getvalue()
    assert "step 3" in terminal.getvalue()


def test_a_piped_command_writes_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="cp1252") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["hardprompts", "--version"])
        with pytest.raises(SystemExit):
            main()
        assert stream.encoding == "utf-8"


def test_images_are_found_by_suffix_in_order(pictures: Path) -> None:
    assert [path.name for path in folder.images_in(pictures, recursive=True)] == [
        "[bold]b.png", "a.png", "broken.jpg", "c.png",
    ]  # fmt: skip


# --- inspect ------------------------------------------------------------------------------


@pytest.fixture
def soft_prompt(tmp_path: Path) -> Path:
    """The embedding of "red", turned a little, and one that is far too long."""
    vocabulary = toy_backend().vocabulary
    red = vocabulary.embed(torch.tensor(vocabulary.encode("red")))
    noise = torch.randn(red.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "red.safetensors"
    tokens = torch.cat([red + 0.05 * red.norm() * noise / noise.norm(), 50 * noise])
    SoftPrompt({"text_encoder": tokens}, name="<red>").save(path, format="diffusers")
    return path


def test_inspect_tells_what_a_file_is(soft_prompt: Path) -> None:
    run = Run("inspect", soft_prompt)
    assert run.code == 0 and run.err == ""
    assert "<red>: 2 tokens" in run.out and "format diffusers" in run.out


def test_inspect_compares_with_a_model(soft_prompt: Path) -> None:
    run = Run("inspect", soft_prompt, "--model", "toy")
    assert run.code == 0
    assert "token 1" in run.out and "'red' 1.00" in run.out
    assert "warning: Out-of-distribution length" in run.out and "1 of 2 longer than 99.9%" in run.out


def test_inspect_as_json(soft_prompt: Path) -> None:
    (found,) = json.loads(Run("inspect", soft_prompt, "--model", "toy", "--json").out)
    assert found["name"] == "<red>" and found["num_tokens"] == 2 and found["compared"] == "text_encoder"
    assert found["geometry"]["tokens"][0]["by_cosine"][0]["text"] == "red"
    assert found["nearest_words"].startswith("red")


def test_inspect_refuses_what_is_no_soft_prompt(pictures: Path, soft_prompt: Path, tmp_path: Path) -> None:
    Run("inspect", pictures / "notes.md").fails("notes.md", "no soft prompt")
    Run("inspect", tmp_path / "missing.pt").fails("missing.pt")
    other = tmp_path / "other.safetensors"
    SoftPrompt({"clip_l": torch.ones(1, 768)}).save(other, format="kohya")
    Run("inspect", other, "--model", "toy").fails("768", "SD 1.x")
