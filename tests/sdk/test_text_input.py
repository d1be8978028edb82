"""Texts, tables and JSON as people have them: each door reads them, or names the true cause before anything is written."""

import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from hub_samples import PROMPT, fitted_tuner
from loopback_hub import LoopbackHub
from PIL import Image
from typer.testing import CliRunner

from hardprompts import (
    Candidate,
    ClassifierPromptTuner,
    FileFormatError,
    HardPrompt,
    ImageError,
    PromptDistiller,
    PromptInverter,
    PromptTemplate,
    SoftPrompt,
    TemplateError,
)
from hardprompts.atomic import csv_rows, json_text
from hardprompts.batch import invert_many
from hardprompts.batch.records import Record
from hardprompts.causes.standins import read_json
from hardprompts.classification import Verbalizer
from hardprompts.classification.template import ClassificationTemplate
from hardprompts.cli import app
from hardprompts.cli.classify import read_column
from hardprompts.images import load_images
from hardprompts.testing import ToyEncoder, toy_backend, toy_language_model
from hardprompts.wording import check_text

BACKEND = toy_backend()
HALF = "red \ud83d house"
QUICK: dict[str, Any] = {"num_tokens": 2, "max_steps": 2, "restarts": 2, "seed": 0, "progress": False}


def picture(text: str = "red house") -> Image.Image:
    return ToyEncoder().picture(text)


def invert(**options: Any) -> HardPrompt:
    return PromptInverter(BACKEND).invert(picture(), **{**QUICK, **options})


def distill(original: str = "the old red house", **options: Any) -> HardPrompt:
    return PromptDistiller(BACKEND).distill(original, **{**QUICK, **options})


def fit(texts: list[str], labels: list[str], **options: Any) -> Any:
    tuner = ClassifierPromptTuner(
        toy_language_model(), num_tokens=2, restarts=1, max_steps=1, random_state=0, progress=False,
        **{"template": "{prompt} {text} the {label}", **options},
    )  # fmt: skip
    return tuner.fit(texts, labels)


# --- half of a character --------------------------------------------------------------------


DOORS: dict[str, Callable[[], Any]] = {
    "template": lambda: PromptTemplate(HALF + "{}"),
    "prompt": lambda: HardPrompt(HALF, (1,), 0.5),
    "prompt's template": lambda: HardPrompt("red", (1,), 0.5, template=HALF + "{}"),
    "candidate": lambda: HardPrompt("red", (1,), 0.5, candidates=(Candidate(HALF, (1,), 0.5),)),
    "invert template": lambda: invert(template=HALF + "{}"),
    "invert initial_prompt": lambda: invert(initial_prompt=HALF),
    "invert banned": lambda: invert(banned=[HALF]),
    "invert vocabulary": lambda: invert(vocabulary=["red house", HALF]),
    "invert words": lambda: invert(words=["red", HALF]),
    "invert required": lambda: invert(required=[HALF]),
    "invert caption": lambda: invert(caption=HALF),
    "score": lambda: PromptInverter(BACKEND).score(HALF, picture()),
    "distill": lambda: distill(HALF),
    "distill templates": lambda: distill(templates=[HALF + "{}"]),
    "distill held_out": lambda: distill(held_out=[HALF + "{}"]),
    "encode": lambda: BACKEND.vocabulary.encode(HALF),
    "encode_texts": lambda: BACKEND.encode_texts(["red", HALF]),
    "tuner's template": lambda: ClassificationTemplate(HALF + "{prompt} {text} the {label}"),
    "tuner's texts": lambda: fit(["red fire", HALF] * 4, ["sun", "moon"] * 4),
    "tuner's labels": lambda: fit(["red fire", "old"] * 4, ["sun", HALF] * 4),
    "tuner's words": lambda: fit(["red fire", "old"] * 4, [1, 0] * 4, verbalizer={1: "sun", 0: HALF}),  # type: ignore[list-item]
    "verbalizer": lambda: Verbalizer((0, 1), (("sun",), (HALF,))),
    "predict": lambda: fitted_tuner().predict([HALF]),
    "score of texts": lambda: fitted_tuner().score(["red fire"], [HALF]),
    "license": lambda: PROMPT.push_to_hub("a/b", license=HALF),
    "commit message": lambda: PROMPT.push_to_hub("a/b", commit_message=HALF),
}


@pytest.mark.parametrize("door", DOORS)
def test_half_of_a_character_is_named_at_the_door(door: str, hub: LoopbackHub) -> None:
    with pytest.raises(ValueError, match=r"half of a character, '\\ud83d', at position \d") as caught:
        DOORS[door]()
    assert not isinstance(caught.value, UnicodeError) and str(caught.value).isprintable()
    assert not hub.repos


def test_the_message_says_which_text_and_where() -> None:
    with pytest.raises(TemplateError, match=r"^the template has half of a character, '\\ud83d', at position 4"):
        PromptTemplate(HALF + "{}")
    with pytest.raises(ValueError, match=r"^banned\[1\] has half"):
        invert(banned=["red", HALF])
    with pytest.raises(ValueError, match=r"^X\[1\] has half"):
        fit(["red", HALF] * 2, ["sun", "moon"] * 2)
    check_text("whole ones", ["\U0001f600", "e\u0301", {"a": ("b", 1, None)}])


def test_half_of_a_character_in_files_that_are_read(tmp_path: Path) -> None:
    values = PROMPT.to_dict()
    for change in (
        {"text": HALF},
        {"template": HALF + "{}"},
        {"candidates": [{"text": HALF, "token_ids": [1], "score": 1}]},
    ):
        (tmp_path / "prompt.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(FileFormatError, match=r"prompt\.json: .*half of a character"):
            HardPrompt.from_pretrained(tmp_path)
    (tmp_path / "soft_prompt.json").write_text("{}")


def test_what_else_a_prompt_holds_is_kept_as_it_is(tmp_path: Path) -> None:
    prompt = HardPrompt("red", (1,), 0.5, provenance={"note": HALF, "labels": {HALF: 1}, "emoji": "\U0001f600"})
    prompt.save_pretrained(tmp_path)
    written = (tmp_path / "prompt.json").read_text(encoding="utf-8")
    assert r"red \ud83d house" in written and "\U0001f600" in written
    assert HardPrompt.from_pretrained(tmp_path).provenance["labels"] == {HALF: 1}
    assert json.loads(json_text({"a": HALF})) == {"a": HALF}


def test_commands_name_it_in_one_line(toy_plugin: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    out = tmp_path / "out"
    for words in (
        ("invert", tmp_path / "a.png", "--model", "toy", "--template", HALF + "{}", "--save", out),
        ("invert", tmp_path / "a.png", "--model", "toy", "--banned", HALF, "--save", out),
        ("batch", tmp_path / "a.png", "--output", out, "--model", "toy", "--template", HALF + "{}"),
        ("invert-folder", tmp_path, "--model", "toy", "--caption", HALF)[:4] + ("--banned", HALF),
        ("distill", HALF, "--model", "toy", "--save", out),
        ("score", HALF, tmp_path / "a.png", "--model", "toy"),
    ):
        Run(*words).fails("half of a character", r"'\ud83d'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_files_that_are_not_utf_8_work(toy_plugin: str, tmp_path: Path, hub: LoopbackHub) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff")
    place = tmp_path / odd
    place.mkdir()
    picture().save(place / f"{odd}.png")
    picture("old boat").save(place / "b.png")
    for output in ("p.jsonl", "p.csv", "p.parquet", "captions"):
        captions = {"format": "txt"} if output == "captions" else {}
        report = invert_many(place, tmp_path / "out" / output, "toy", **captions, **QUICK)
        assert (report.done, report.failed) == (2, 0)
        again = invert_many(place, tmp_path / "out" / output, "toy", **captions, **QUICK)
        assert (again.done, again.skipped) == (0, 2)
    (place / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    generated = ({"image": one, "id": odd} for one in (place / f"{odd}.png", place / "c.png"))
    for key in (None, "id"):
        assert invert_many(generated, tmp_path / f"by {key}.jsonl", "toy", key=key, **QUICK).done <= 1
    prompt = HardPrompt("red", (1,), 0.5, model=f"transformers:{place}", provenance={"path": f"{place}/{odd}"})
    prompt.save_pretrained(tmp_path / "saved")
    assert HardPrompt.from_pretrained(tmp_path / "saved").model == prompt.model
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        prompt.push_to_hub("alice/x")
    assert HardPrompt.from_pretrained("alice/x").model == "transformers:…/caf\\udce9 \\udcff"
    (place / f"{odd}.pt").write_bytes(b"no file of this kind")
    Run("inspect", place / f"{odd}.pt", "--report", tmp_path / "r.html")
    assert "caf" in (tmp_path / "r.html").read_text(encoding="utf-8")


# --- JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_the_encoding_that_editors_save(encoding: str, tmp_path: Path) -> None:
    PROMPT.save_pretrained(tmp_path)
    file = tmp_path / "prompt.json"
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert HardPrompt.from_pretrained(tmp_path) == PROMPT
    fitted_tuner().save_pretrained(tmp_path)
    file = tmp_path / "tuner.json"
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert ClassifierPromptTuner.from_pretrained(tmp_path, model=toy_language_model()).prompt_


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b'{"a": "caf\xe9"}', "utf-8"),
        (b"{'a': 1}", "property name"),
        (b"", "it is empty"),
        (b'{"a": 1}\0', "Extra data"),
        (b"<!doctype html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_json_that_is_none_names_its_fault(content: bytes, reason: str, tmp_path: Path) -> None:
    for name in ("prompt.json", "tuner.json", "soft_prompt.json", "adapter_config.json"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(FileFormatError, match=reason) as caught:
        read_json(tmp_path / "prompt.json")
    assert str(caught.value).count("prompt.json") == 1
    for read in (HardPrompt, ClassifierPromptTuner, SoftPrompt):
        with pytest.raises(FileFormatError, match=reason):
            read.from_pretrained(tmp_path)
    (tmp_path / "soft_prompt.json").unlink()
    with pytest.raises(FileFormatError, match=reason):
        SoftPrompt.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change", [{"score": float("nan")}, {"score": 10**400}, {"attributions": [10**400]}, {"score": None}]
)
def test_numbers_that_are_none_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text(json.dumps({**PROMPT.to_dict(), **change}))
    with pytest.raises(FileFormatError, match="not a hard prompt"):
        HardPrompt.from_pretrained(tmp_path)


def test_names_that_no_file_can_have() -> None:
    for read in (HardPrompt.from_pretrained, SoftPrompt.from_pretrained, SoftPrompt.from_file):
        with pytest.raises((FileFormatError, ValueError), match=r"null|NUL|does not exist|no file"):
            read("a\0b")
    with pytest.raises(ImageError, match="NUL character"):
        load_images("a\0b.png")


# --- tables ---------------------------------------------------------------------------------


def table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_cells_of_any_length(tmp_path: Path) -> None:
    limit, long = csv.field_size_limit(), "word " * 60_000
    found = read_column(table(tmp_path / "t.csv", f'text,label\n"{long}",sun\nred,moon\n'), ("text", "label"))
    assert found == [[long, "red"], ["sun", "moon"]]
    assert csv.field_size_limit() == limit, "a setting of the whole process is as it was"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_in_the_encodings_that_tell_themselves(encoding: str, tmp_path: Path) -> None:
    place = table(tmp_path / "t.csv", 'text,label\n"café, 虎",sun\n', encoding)
    assert read_column(place, ("text", "label")) == [["café, 虎"], ["sun"]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("text,label\ncafé,sun\n".encode("cp1252"), "not a text in utf-8.*save it as UTF-8"),
        ("text,label\ncafé,sun\n".encode("utf-16-le"), "NUL characters"),
        (b"text,label\nred\0house,sun\n", "NUL characters"),
        (b'text,label\n"red house,sun\nold,moon\n', "opened and never closed"),
        (b"text,label\n", "no rows"),
        (b"", "no rows"),
        (b"text,label\nred\n", "row 2 .* has no column 'label'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_tables_that_are_none_name_their_fault(content: bytes, reason: str, tmp_path: Path) -> None:
    place = tmp_path / "t.csv"
    place.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_column(place, ("text", "label"))
    assert str(place) in str(caught.value) and not isinstance(caught.value, UnicodeError)
    Run("tune", place).fails()


def test_stray_quotes_are_read_as_before() -> None:
    for text in ('a,b\n5" disk,x\n', 'a,b\n"x" y,z\n', 'a\n"say ""hi"""\n', "a;b\n"):
        assert csv_rows(text)[1] == list(csv.DictReader(io.StringIO(text, newline="")))


def test_lines_on_stdin(tmp_path: Path) -> None:
    fitted_tuner().save_pretrained(tmp_path)
    bad = CliRunner().invoke(app, ["classify", str(tmp_path)], input=b"red fire\ncaf\xe9\n")
    assert bad.exit_code == 2 and bad.stderr.startswith("error: the text on stdin is not a text in utf-8")


def test_long_prompts_in_batches_are_read_again(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    template = f"{'x' * 140_000} {{}}"  # the toy has no room for such a template

    from hardprompts.batch.output import Output

    row = {"key": "a.png", "prompt": template, "score": 0.5, "token_ids": [1], "template": template, "model": "toy", "method": "m", "seed": 0, "stop_reason": "", "error": None}  # fmt: skip
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        Output(tmp_path / name, {}).write(0, [row])
        assert Output(tmp_path / name, {}).keys == {"a.png"}


# --- what libraries raise -------------------------------------------------------------------


@pytest.mark.parametrize("format", ["avif", "dds", "spider", "png", "tiff", "gif"])
def test_damaged_pictures_are_errors_of_their_own_alone(format: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if format.upper() not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow has no {format}")
    picture().resize((64, 64)).convert("F" if format == "spider" else "RGB").save(buffer, format)
    whole = buffer.getvalue()
    damaged = [whole[: len(whole) // 2], whole[:20] + b"\xff" * 60 + whole[80:], whole[:-100] + bytes(100)]
    for place in range(0, min(len(whole), 400), 4):
        damaged += [whole[:place] + value + whole[place + 4 :] for value in (b"\xff\xff\xff\xff", b"\0\0\0\0")]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in damaged:
            (tmp_path / "x").write_bytes(content)
            for given in (tmp_path / "x", content):
                try:
                    Record("x", given).load()
                except ImageError:
                    refused += 1
    assert refused


def test_damaged_tables_of_pictures(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    from hardprompts.batch import open_source

    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    place = tmp_path / "t.parquet"
    arrow.write_table(pyarrow.table({"image": [buffer.getvalue()] * 3, "id": ["a", "b", "c"]}), place)
    whole, refused = place.read_bytes(), 0
    for start in range(0, len(whole), max(1, len(whole) // 150)):
        place.write_bytes(whole[:start] + b"\xff\x7f\x80" + whole[start + 3 :])
        try:
            for record in open_source(place, key="id").records:
                try:
                    record.load()
                except ImageError:
                    refused += 1
        except (FileFormatError, ValueError) as error:
            assert not isinstance(error, UnicodeError) and "t.parquet" in str(error)
            refused += 1
    assert refused
