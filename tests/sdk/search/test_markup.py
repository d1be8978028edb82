"""Prompts with the markup of UIs are read as these read them, and what was taken out is told."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hardprompts import DistilledPrompt, HardPrompt, PromptDistiller
from hardprompts.applications.breeding import evolve
from hardprompts.diffusion.options import DenoisingOptions
from hardprompts.distillation import DistillationOptions
from hardprompts.errors import FileFormatError
from hardprompts.inversion.options import InversionOptions
from hardprompts.search.markup import PlainPrompt, read_markup
from hardprompts.testing import toy_backend

# What the web UI's own parser documents of its syntax: pieces and their weights.
A1111: list[tuple[str, str, dict[str, float]]] = [
    ("normal text", "normal text", {}),
    ("an (important) word", "an important word", {"important": 1.1}),
    ("(unbalanced", "unbalanced", {"unbalanced": 1.1}),
    (r"\(literal\]", "(literal]", {}),
    ("(unnecessary)(parens)", "unnecessaryparens", {"unnecessaryparens": 1.1}),
    ("(((house:1.3)) [on] a (hill:0.5), sun, (((sky))))", "house on a hill, sun, sky",
     {"house": 1.573, "a": 1.1, "hill": 0.55, "sun": 1.1, "sky": 1.4641}),
    ("a [b:3]", "a b", {}),
    ("a [b: 3] c", "a b c", {}),
    ("a [[[b]]:2]", "a b", {"b": 0.8264}),
    ("[(a:2):3]", "a", {"a": 2}),
    ("a [b : c : 1] d", "a b c d", {}),
    ("a[b:[c:d:2]:1]e", "ab c de", {}),
    ("a [b:.5] c", "a b c", {}),
    ("a [in front::0.6] c", "a in front c", {}),
    ("[a|(b:1.1)|c] d", "a b c d", {"b": 1.1}),
    ("[weak] strong", "weak strong", {"weak": 0.9091}),
    ("one BREAK two,BREAK\nthree", "one, two, three", {}),
    ("a cat AND a dog AND (a bird:1.2):0.5", "a cat, a dog, a bird", {"a bird": 1.2}),
    ("((a:2):3)", "a", {"a": 6}),
    ("a cat # not a dog\nneon", "a cat neon", {}),
    ("embedding:x // y", "embedding:x // y", {}),
    ("ratio 16:9", "ratio 16:9", {}),
]  # fmt: skip

COMFYUI: list[tuple[str, str, dict[str, float]]] = [
    ("an (important) word", "an important word", {"important": 1.1}),
    ("(unbalanced", "(unbalanced", {}),
    (r"\(literal\)", "(literal)", {}),
    ("((a:2):3) ((b)) (c:0.5)", "a b c", {"a": 2, "b": 1.21, "c": 0.5}),
    ("(a:b:1.2) (c:d)", "a:b c:d", {"a:b": 1.2, "c:d": 1.1}),
    ("[weak] [a:b:0.5] BREAK x AND y", "[weak] [a:b:0.5] BREAK x AND y", {}),
    ("a /* note\nnote */ cat // end\nneon", "a cat neon", {}),
    ("a cat # 3", "a cat # 3", {}),
    (r"a \{b|c\}", "a {b|c}", {}),
]


@pytest.mark.parametrize(
    ("syntax", "prompt", "text", "weights"),
    [("a1111", *case) for case in A1111] + [("comfyui", *case) for case in COMFYUI],
)
def test_prompts_are_read_as_each_ui_reads_them(syntax: str, prompt: str, text: str, weights: dict[str, float]) -> None:
    plain = read_markup(prompt, syntax)
    assert plain.text == text
    assert {phrase: weight for phrase, weight in plain.weights if phrase in weights} == pytest.approx(weights)
    assert plain.syntax == syntax


@pytest.mark.parametrize(
    ("prompt", "syntax", "text", "aside"),
    [
        ("neon, <lora:add_detail:0.8>, fox, <hypernet:x>", "a1111", "neon, fox", ("<lora:add_detail:0.8>", "<hypernet:x>")),
        ("<lora:a:1>fox<lora:a:1>", "a1111", "fox", ("<lora:a:1>",)),
        ("a fox AND ugly, blurry:-1 <lora:a:1>", "a1111", "a fox", ("<lora:a:1>", "AND ugly, blurry:-1")),
        ("embedding:easyneg, (embedding:bad/x.pt:1.2) fox", "comfyui", "fox", ("embedding:easyneg", "(embedding:bad/x.pt:1.2)")),
        ("fox embedding:a,b,, neon", "comfyui", "fox, neon", ("embedding:a,b",)),
        ("a __colors/warm__ fox", "a1111", "a fox", ("__colors/warm__",)),
        ("a fox, embedding:x <lora:b:1>", "comfyui", "a fox", ("<lora:b:1>", "embedding:x")),
        ("a fox, embedding:x <lora:b:1>", "auto", "a fox", ("<lora:b:1>", "embedding:x")),
        ("a fox BREAK (embedding:x:1.2)", "auto", "a fox", ("(embedding:x:1.2)",)),
        ("a fox BREAK embedding:x", "a1111", "a fox, embedding:x", ()),
    ],
)  # fmt: skip
def test_files_are_set_aside_in_order(prompt: str, syntax: str, text: str, aside: tuple[str, ...]) -> None:
    plain = read_markup(prompt, syntax)
    assert (plain.text, plain.set_aside) == (text, aside)
    assert all(part in str(plain) for part in aside)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a {red|blue} car", "a red car"),
        ("a {{dark|light} red|blue} car", "a dark red car"),
        ("{2$$a|b|c} d", "a, b d"),
        ("{2$$ and $$a|b|c} d", "a and b d"),
        ("{0.9::red|0.1::blue} car", "red car"),
        ("{|tall} man", "man"),
        ("{one} man", "one man"),
    ],
)
@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_the_first_choice_is_taken_and_told(syntax: str, prompt: str, text: str) -> None:
    plain = read_markup(prompt, syntax)
    assert plain.text == text and bool(plain.notes) == ("|" in prompt)


def test_what_weighs_nothing_is_left_out() -> None:
    plain = read_markup("a fox, (ugly:0), (bad:-1)", "a1111")
    assert plain.text == "a fox" and "'ugly', whose weight is 0" in str(plain) and "'bad'" in str(plain)


@pytest.mark.parametrize(
    ("prompt", "syntax"),
    [
        ("a fox (sitting) [old]", "none"),
        ("PRISON BREAK poster, R AND B", "none"),
        ("salt AND pepper, at 16:9, C:\\new", "none"),
        ("(see below), {braces}", "none"),
        ("x < 3 and y > 2", "none"),
        ("my_snake_case __ name", "none"),
        ("a (fox:1.2)", "a1111"),
        ("((a fox))", "a1111"),
        (r"saber \(fate\)", "a1111"),
        ("a fox <lora:x:1>", "a1111"),
        ("a fox BREAK a dog", "a1111"),
        ("[fox:dog:0.5]", "a1111"),
        ("[fox|dog]", "a1111"),
        ("{fox|dog}", "a1111"),
        ("__animal__ neon", "a1111"),
        ("fox, embedding:x", "comfyui"),
        ("fox, (embedding:x:1.2), (neon:1.1)", "comfyui"),
        ("fox, embedding:x, [a|b]", "a1111"),
    ],
)
def test_the_syntax_is_recognized_by_what_can_be_nothing_else(prompt: str, syntax: str) -> None:
    plain = read_markup(prompt)
    assert plain.syntax == syntax
    if syntax == "none":
        assert plain == PlainPrompt(prompt) and str(plain) == ""


def test_nothing_left_and_misspelt_markups_are_errors() -> None:
    with pytest.raises(ValueError, match="no words beside its markup"):
        read_markup("<lora:x:1>")
    with pytest.raises(ValueError, match="markup must be one of"):
        read_markup("a", "A1111")
    with pytest.raises(ValueError, match="too deep"):
        read_markup("[" * 3000 + "a" + "]" * 3000, "a1111")
    assert read_markup("(" * 2000 + "a" + ")" * 2000 + " <lora:x:1>", "a1111").text == "a"


@pytest.mark.parametrize(
    "text", [" " * 100_000 + ":", "[" * 20_000, "{" * 20_000, "__" * 20_000, "<a" * 20_000, "(a " * 2_000]
)
@pytest.mark.parametrize("syntax", ["auto", "a1111", "comfyui"])
def test_odd_texts_take_no_time(text: str, syntax: str) -> None:
    started = time.perf_counter()
    read_markup(f"a fox {text}", syntax)
    assert time.perf_counter() - started < 5


# --- wherever prompts come in -------------------------------------------------------------

PASTED = "a (red:1.3) <lora:boat:0.8> [old|boat] BREAK (small:0)"


def distilled(**options: Any) -> DistilledPrompt:
    return PromptDistiller(toy_backend()).distill(PASTED, 3, max_steps=3, restarts=4, seed=0, progress=False, **options)


def test_a_pasted_prompt_is_distilled_to_what_its_words_say(tmp_path: Path) -> None:
    found = distilled()
    plain = PromptDistiller(toy_backend()).distill("a red old boat", 3, max_steps=3, restarts=4, seed=0, progress=False)
    assert found.text == plain.text and found.score == plain.score and plain.markup is None
    assert found.provenance["original"] == PASTED
    assert found.markup is not None and found.markup.text == "a red old boat"
    assert found.markup.weights == (("red", 1.3),) and found.markup.set_aside == ("<lora:boat:0.8>",)
    assert found.pasted("a1111") == f"{found.escaped('a1111')} <lora:boat:0.8>"
    assert plain.pasted("a1111") == plain.escaped("a1111")
    found.save_pretrained(tmp_path)
    assert DistilledPrompt.from_pretrained(tmp_path).markup == found.markup
    assert HardPrompt.from_pretrained(tmp_path).provenance["markup"] == found.markup.to_dict()


def test_damaged_markup_is_one_clear_error() -> None:
    values = json.loads(json.dumps(distilled().to_dict()))
    values["provenance"]["markup"] = {"text": "a"}
    with pytest.raises(FileFormatError, match="markup"):
        _ = DistilledPrompt.from_dict(values).markup


def test_parts_that_and_joins_have_weights_of_their_own() -> None:
    assert "the part 'a bird' counts 0.5 times" in str(read_markup("a cat AND (a bird:1.2):0.5", "a1111"))


def test_words_that_the_tokenizer_does_not_know_are_no_hindrance() -> None:
    found = PromptDistiller(toy_backend()).distill(
        "a red boat, \u4f60\u597d, old boat", 2, max_steps=2, seed=0, progress=False
    )
    assert "\u4f60\u597d" not in [phrase.text for phrase in found.lost]


def test_markup_none_takes_every_character() -> None:
    found = distilled(markup="none")
    assert found.markup is None and found.provenance["original_tokens"] != distilled().provenance["original_tokens"]


def test_faithfulness_is_of_the_same_words() -> None:
    distiller = PromptDistiller(toy_backend())
    assert distiller.faithfulness("red boat", PASTED) == distiller.faithfulness("red boat", "a red old boat")


def test_a_hard_prompt_is_meant_as_it_stands() -> None:
    literal = HardPrompt("a (red:1.3) boat", (), 0.0)
    found = PromptDistiller(toy_backend()).distill(literal, 2, max_steps=2, seed=0, progress=False)
    assert found.markup is None


def test_options_that_are_prompts_are_read_too() -> None:
    assert DistillationOptions(initial_prompt="a (red:1.3) boat").initial_prompt == "a red boat"
    assert InversionOptions(caption="((red)) boat", text="boat <lora:x:1>").caption == "red boat"
    assert InversionOptions(text="boat <lora:x:1>").text == "boat"
    assert DenoisingOptions(initial_prompts=["(red:1.2)", "boat"]).initial_prompts == ("red", "boat")
    assert DistillationOptions(initial_prompt="a (red) boat").initial_prompt == "a (red) boat"


def test_a_prompt_of_markup_alone_cannot_be_bred() -> None:
    with pytest.raises(ValueError, match="no words beside its markup"):
        evolve(["red boat", "<lora:x:1>"], lambda *_: [], toy_backend(), lambda *_: 0.0)
