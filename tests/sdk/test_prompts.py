"""HardPrompt and PromptTemplate as values: what they say, how they look, how they are kept."""

import dataclasses
import inspect
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hardprompts import Candidate, FileFormatError, HardPrompt, PromptTemplate, TemplateError
from hardprompts import prompts as module
from hardprompts.atomic import write_text_atomically
from hardprompts.hub.names import PROMPT_FILE
from hardprompts.prompts import HistoryPoint, TradeOff, escape, ranking_note, unique
from hardprompts.wording import WordEvidence

PROMPT = HardPrompt(
    text="red tiger, 虎 (big) [x]",
    token_ids=(3, 1, 4, 1, 5),
    score=0.25,
    template="a photo of {} \\ here",
    model="toy:small",
    method="pez+refine",
    tokens=("red", "tiger,", "虎", "(big)", "[x]"),
    attributions=(0.1, -0.2, 0.0, 0.3, 0.05),
    candidates=(Candidate("red tiger", (3, 1), 0.25), Candidate("red", (3,), 0.2)),
    history=(HistoryPoint(0, 0.5, 32, 0.1), HistoryPoint(7, 1.5, 320, 0.25)),
    seed=7,
    stop_reason="converged",
    evaluations=320,
    provenance={"steps": 9, "nested": {"a": [1, None, True]}},
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[bold red]not markup[/bold red]",
    "[/] :smile: [link=http://x]y",
    "yaml: {a: *b, &c !!python/object:os.system} # --- %TAG",
    "back\\slash 'quotes' \"double\" {braces} {} {0!r}",
)


# --- templates ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "no slot", "{} and {}", "{ }", "{0}", "{name}"])
def test_a_template_without_exactly_one_slot_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="write") as caught:
        PromptTemplate(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_template_is_filled_literally(prompt: str) -> None:
    template = PromptTemplate("{{}} of %s {name}")
    assert template.fill(prompt) == "{" + prompt + "} of %s {name}"
    assert (template.prefix, template.suffix) == ("{", "} of %s {name}")


# --- what it says ---------------------------------------------------------------------------


def test_the_string_of_a_prompt_is_what_to_paste() -> None:
    assert str(PROMPT) == PROMPT.filled == "a photo of red tiger, 虎 (big) [x] \\ here"


def test_escaped_makes_weights_literal() -> None:
    assert PROMPT.escaped("comfyui") == "a photo of red tiger, 虎 \\(big\\) [x] \\ here"
    assert PROMPT.escaped("a1111") == "a photo of red tiger, 虎 \\(big\\) \\[x\\] \\\\ here"
    with pytest.raises(ValueError, match="comfyui, a1111"):
        inspect.unwrap(escape)("x", "midjourney")  # past the type check of the tests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (b) c", r"a \(b\) c"),
        ("a \\ b", "a \\ b"),
        ("embedding:cat, x embedding:y", "embedding :cat, x embedding :y"),
        ("my_embedding:cat", "my_embedding:cat"),
    ],
)
def test_escape_for_comfyui(text: str, expected: str) -> None:
    assert escape(text, "comfyui") == expected


def test_a_prompt_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROMPT.text = "other"  # type: ignore[misc]


def test_unique_keeps_the_best_of_each_text() -> None:
    found = unique([Candidate("a", (1,), 0.1), Candidate("b", (2,), 0.3), Candidate("a", (3,), 0.2)])
    assert [(c.text, c.score) for c in found] == [("b", 0.3), ("a", 0.2)]


# --- how it looks ---------------------------------------------------------------------------


def shown(prompt: HardPrompt, **options: Any) -> str:
    screen = io.StringIO()
    Console(file=screen, width=10_000, **options).print(prompt)
    return screen.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_prompt_is_shown_as_data(text: str) -> None:
    prompt = dataclasses.replace(PROMPT, text=text, tokens=(), template=f"{text.replace('{}', '')} {{}}")
    assert shown(prompt) == f"{prompt.filled}\n"
    page = prompt._repr_html_()
    for dangerous in ("<script", "<img", 'onerror=alert(1)"'):
        assert dangerous not in page
    assert page.count("<div") == page.count("</div>") == 1


def test_html_escapes_every_field() -> None:
    prompt = dataclasses.replace(PROMPT, model="<b>", method="<i>", score_unit="<u>", tokens=("red", "<s>"))
    assert not any(tag in prompt._repr_html_() for tag in ("<b>", "<i>", "<u>", "<s>"))


def test_tokens_are_shown_in_two_shades() -> None:
    text = PROMPT.__rich__()
    assert text.plain == PROMPT.filled
    shades = [str(span.style) for span in text.spans if "bright" in str(span.style)]
    assert len(shades) == 5
    assert shades[0] == shades[2] != shades[1] == shades[3]
    assert PROMPT._repr_html_().count("<span") == 5
    assert "contributes -0.200" in PROMPT._repr_html_()


@pytest.mark.parametrize("tokens", [(), ("red",), ("tiger,", "red"), ("other",)])
def test_tokens_that_do_not_spell_the_text_do_not_hide_it(tokens: tuple[str, ...]) -> None:
    assert dataclasses.replace(PROMPT, tokens=tokens).__rich__().plain == PROMPT.filled


def test_a_damaged_prompt_cannot_steer_the_terminal() -> None:
    prompt = HardPrompt("a\x1b[2J\x07b\x9b31m", (1,), 0.5)
    on_screen = shown(prompt, force_terminal=True, color_system=None)
    assert on_screen == "a\\x1b[2J\\x07b\\x9b31m\n"


# --- how it is kept -------------------------------------------------------------------------


def test_a_prompt_comes_back_as_it_was_and_byte_for_byte(tmp_path: Path) -> None:
    path = PROMPT.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / PROMPT_FILE
    again = HardPrompt.from_pretrained(path.parent)
    assert again == PROMPT
    before = path.read_bytes()
    assert again.save_pretrained(tmp_path / "second").read_bytes() == before
    assert b"\r" not in before and "虎" in before.decode("utf-8")
    assert os.listdir(path.parent) == [PROMPT_FILE]


def test_fields_of_other_releases_are_kept(tmp_path: Path) -> None:
    (tmp_path / PROMPT_FILE).write_text(json.dumps({**PROMPT.to_dict(), "surplus": {"a": 1}}), encoding="utf-8")
    found = HardPrompt.from_pretrained(tmp_path)
    assert found == dataclasses.replace(PROMPT, provenance={**PROMPT.provenance, "other_fields": {"surplus": {"a": 1}}})


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_survives_the_file(text: str, tmp_path: Path) -> None:
    dataclasses.replace(PROMPT, text=text).save_pretrained(tmp_path)
    assert HardPrompt.from_pretrained(tmp_path).text == text


def changed(**fields: Any) -> str:
    return json.dumps({**PROMPT.to_dict(), **fields})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        "[" * 100_000,
        changed()[:-200],
        changed(format_version=2),
        changed(text=None),
        changed(text=["a"]),
        changed(token_ids=None),
        changed(token_ids=["a"]),
        changed(token_ids=[1.5]),
        changed(token_ids=5),
        changed(score=None),
        changed(score="high"),
        changed(score=float("nan")),
        changed(template="none"),
        changed(template="{} {}"),
        changed(model=7),
        changed(candidates=[{"text": "a"}]),
        changed(candidates=["a"]),
        changed(history=[{"step": 1}]),
        changed(history=3),
        json.dumps({"format_version": 1, "text": "a"}),
    ],
)
def test_a_damaged_file_is_one_clear_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / PROMPT_FILE
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileFormatError) as caught:
        HardPrompt.from_pretrained(tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_text(encoding="utf-8") == content


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / PROMPT_FILE).write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(FileFormatError, match="not JSON"):
        HardPrompt.from_pretrained(tmp_path)


def test_a_folder_without_a_prompt_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(FileFormatError, match=r"no prompt\.json in"):
            HardPrompt.from_pretrained(place)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_text_atomically(tmp_path / "prompt.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "new " * 100_000 + "\udc80")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["prompt.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    written = write_text_atomically(tmp_path / "ours", "x")
    assert written.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_prompt_is_hashable_whatever_its_provenance() -> None:
    one = HardPrompt("red house", (1, 2), 0.5, provenance={"seconds": 1.0})
    same = HardPrompt("red house", (1, 2), 0.5, provenance={"seconds": 1.0})
    other = HardPrompt("red house", (1, 2), 0.5, provenance={"seconds": 2.0})
    assert {one, same, other} == {one, other} and len({one, same, other}) == 2
    assert hash(one) != hash(HardPrompt("old boat", (1, 2), 0.5))


def test_what_candidates_are_ranked_by_is_said_where_their_numbers_have_another_order() -> None:
    assert ranking_note(PROMPT) == ""
    swapped = dataclasses.replace(PROMPT, candidates=PROMPT.candidates[::-1])
    seen = dataclasses.replace(swapped, provenance={"views": 8})
    assert ranking_note(seen) == (
        "ranked by 8 views of each image, with length and all else that was asked for; the numbers are the cosine "
        "similarity with each image as it is"
    )
    assert "the cosine similarity of each text" in ranking_note(swapped) and "views" not in ranking_note(swapped)


def test_the_trade_offs_are_stored_and_read_back() -> None:
    front = (TradeOff(Candidate("red", (1,), 0.4), 0.4, 1, -2.5), TradeOff(Candidate("red house", (1, 2), 0.5), 0.5, 2))
    prompt = HardPrompt("red house", (1, 2), 0.5, pareto=front)
    assert HardPrompt.from_dict(json.loads(prompt.to_json())) == prompt
    older = prompt.to_dict()
    del older["pareto"]
    assert HardPrompt.from_dict(older).pareto == ()
    with pytest.raises(FileFormatError):
        HardPrompt.from_dict({**prompt.to_dict(), "pareto": [{"text": "red"}]})


# --- evidence -------------------------------------------------------------------------------

EVIDENCE = (
    WordEvidence("red tiger", "subject", 0.2, 0.1, 0.9, ((0.0, 0.0, 0.5, 0.5), (0.25, 0.0, 0.75, 0.5))),
    WordEvidence("虎 | `big`", "other", -0.1),
)


def test_evidence_is_kept_and_told_on_the_card() -> None:
    prompt = dataclasses.replace(PROMPT, evidence=EVIDENCE)
    assert HardPrompt.from_dict(json.loads(json.dumps(prompt.to_dict()))) == prompt
    assert HardPrompt.from_dict({k: v for k, v in prompt.to_dict().items() if k != "evidence"}).evidence == ()
    card = prompt.card_part("user/name").text
    assert "| `red tiger` | `subject` | +0.200 | +0.100 | 90 % |" in card
    assert "`` 虎 \\| `big` ``" in card


@pytest.mark.parametrize(
    "changed",
    [
        {"probability": 1.5}, {"probability": math.nan}, {"contribution": None}, {"contribution": math.inf},
        {"regions": [[0, 0, 1]]}, {"regions": [[0.5, 0, 0.5, 1]]}, {"regions": [[0, 0, 1, 2]]}, {"exchange": "much"},
    ],
)  # fmt: skip
def test_damaged_evidence_is_refused(changed: dict[str, Any]) -> None:
    values = dataclasses.replace(PROMPT, evidence=EVIDENCE[:1]).to_dict()
    values["evidence"] = [{**dataclasses.asdict(EVIDENCE[0]), **changed}]
    with pytest.raises(FileFormatError, match="not a hard prompt"):
        HardPrompt.from_dict(values)
