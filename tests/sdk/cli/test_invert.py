"""`hardprompts invert` on the toy model: what is on stdout, what is on stderr, what is on the disk."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import QUICK, Run, files

from hardprompts import HardPrompt, PromptInverter, hookimpl
from hardprompts.plugins import register, unregister
from hardprompts.testing import ToyEncoder, toy_backend

pytestmark = pytest.mark.usefixtures("toy_plugin")


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


def test_words_are_arranged_by_what_they_are_about(pictures: Path) -> None:
    plain = Run("invert", pictures / "a.png", *QUICK)
    arranged = Run("invert", pictures / "a.png", *QUICK, "--form", "{color}: {subject} {other}")
    told = json.loads(Run("invert", pictures / "a.png", *QUICK, "--form", "json").out)
    assert arranged.out.strip() == HardPrompt(plain.out.strip(), (), 0.0).arranged("{color}: {subject} {other}")
    assert f"arranged from the prompt that was scored: {plain.out.strip()}" in arranged.err
    assert sorted(word for words in told.values() for word in words) == sorted(set(plain.out.split()))


def test_a_form_is_looked_at_before_the_search(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptInverter, "invert", lambda *_, **__: pytest.fail("searched"))
    run = Run("invert", pictures / "a.png", *QUICK, "--form", "{mood}")
    assert run.code and "unknown category 'mood'" in run.err


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
    assert set(given) == {"deadline", "callback", "progress"}


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
    words.write_bytes(b"caf\xe9")
    Run("invert", pictures / "a.png", *QUICK, "--vocabulary", words).fails("not a text in utf-8")


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


@pytest.mark.parametrize(
    "installed, more", [("photo", ""), ("emoji", '; offline for photos: pip install "hardprompts[photo]"')]
)
def test_the_default_model_says_what_it_is_good_for(
    installed: str, more: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    opened: list[str] = []

    def noted(name: str, **_: Any) -> Any:
        opened.append(name)
        return dataclasses.replace(toy_backend(), note="Knows words\nonly; pass --model for more.")

    monkeypatch.setattr("hardprompts.encoders.load_backend", noted)
    monkeypatch.setattr("hardprompts.encoders.is_installed", lambda scheme: scheme in (installed, "emoji"))
    without, named = Run("score", "red", pictures / "a.png"), Run("score", "red", pictures / "a.png", "--model", "toy")
    assert without.err == f"Knows words only; pass --model for more.{more}\n"
    assert named.err == "" and named.out == without.out
    assert opened == [installed, "toy"]


@pytest.mark.parametrize(
    "options, expected",
    [
        ((), {}),
        (("--words",), {"words": True}),
        (("--no-words", "--banned", "none"), {"words": False, "banned": ["none"]}),
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


def test_a_model_that_only_generates_images_is_inverted_by_its_denoiser(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from toy_denoiser import predictor

    def generator(name: str, **_: Any) -> Any:
        return dataclasses.replace(toy_backend(), image_encoder=None, noise_predictor=predictor())

    monkeypatch.setattr("hardprompts.encoders.load_backend", generator)
    run = Run("invert", pictures / "a.png", *QUICK)
    assert run.code == 0 and run.out.count("\n") == 1
    assert "toy denoiser" in run.err and "ph2p" in run.err
    Run("invert", pictures / "a.png", *QUICK, "--words", "--require", "red").fails("--words, --require", "denoiser")
    Run("invert", pictures / "a.png", *QUICK, "--interactions").fails("--interactions cannot be used", "denoiser")


def test_a_proposer_is_given_by_name_and_taken_as_it_is(pictures: Path, tmp_path: Path) -> None:
    class Parrot:
        def propose(self, features: Any, count: int, max_tokens: int, generator: Any) -> list[list[str]]:
            return [["red house river"] for _ in features]

    def opened(name: str, *, backend: object) -> Any:
        return Parrot() if name in ("", "grey") else None

    register(SimpleNamespace(proposers=hookimpl(lambda: {"parrot": opened})), "parrot")
    try:
        for asked in (("--proposer", "parrot:grey", "--fast"), ("--fast",)):
            run = Run("invert", pictures / "a.png", *QUICK, *asked)
            assert run.out == "red house river\n" and "proposals, seed 1" in run.err
            assert "the best of what was proposed, without a search" in run.err
        assert Run("invert", pictures / "a.png", *QUICK, "--proposer", "parrot:grey").out
        Run("invert", pictures / "a.png", *QUICK, "--proposer", "parot:").fails("proposer scheme", "parrot")
        Run("invert", pictures / "a.png", *QUICK, "--proposer", "parrot:green").fails("unknown proposer")
        (pictures / "broken.jpg").unlink()
        assert Run("invert-folder", pictures, *QUICK, "--fast").code == 0
        assert (pictures / "a.txt").read_text() == "red house river\n"
        out = tmp_path / "out.jsonl"
        Run("batch", pictures, "-o", out, *QUICK, "--proposer", "parrot:grey")
        Run("batch", pictures, "-o", out, *QUICK, "--proposer", "auto").fails("proposers was", "parrot:grey")
        assert Run("invert", pictures / "a.png", *QUICK, "--style", "caption").out == "red house river\n"
        assert Run("batch", pictures, "-o", tmp_path / "captions.jsonl", *QUICK, "--style", "caption").code == 0
        assert "red house river" in (tmp_path / "captions.jsonl").read_text()
        assert "parrot" in Run("plugins").out
    finally:
        unregister("parrot")
    Run("invert", pictures / "a.png", *QUICK, "--fast").fails("there are none here")
    Run("invert", pictures / "a.png", *QUICK, "--style", "caption").fails("knows how captions read")


def test_a_style_and_a_fluency_model_are_given_by_name(pictures: Path) -> None:
    run = Run("invert", pictures / "a.png", *QUICK, "--style", "keywords", "--fluency-model", "emoji:emoji-lm")
    assert run.code == 0 and " nats a word, " in run.err
    Run("invert", pictures / "a.png", *QUICK, "--fluency-model", "toy").fails("not a language model")


def test_a_captioner_is_given_by_name(pictures: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def opened(name: str, *, device: object, dtype: object) -> Any:
        asked.append(name)
        return lambda images: ["red house river"] * len(images)

    register(SimpleNamespace(captioners=hookimpl(lambda: {"parrot": opened})), "parrot")
    try:
        run = Run(
            "invert",
            pictures / "a.png",
            *QUICK[:4],
            "--restarts",
            "1",
            "--seed",
            "1",
            "--steps",
            "0",
            "--captioner",
            "parrot:grey",
        )
        assert run.out == "red house river\n" and asked == ["grey"]
        Run("invert", pictures / "a.png", *QUICK, "--captioner", "parrot:", "--caption", "x").fails("--caption ")
        Run("invert", pictures / "a.png", *QUICK, "--captioner", "parot:").fails("captioner scheme", "parrot")
        (pictures / "broken.jpg").unlink()
        run = Run(
            "invert-folder",
            pictures,
            *QUICK[:4],
            "--restarts",
            "1",
            "--seed",
            "1",
            "--steps",
            "0",
            "--captioner",
            "parrot:green",
        )
        assert run.code == 0 and (pictures / "a.txt").read_text() == "red house river\n" and asked[-1] == "green"
        out = tmp_path / "out.jsonl"
        run = Run("batch", pictures, "-o", out, *QUICK, "--captioner", "parrot:a")
        Run("batch", pictures, "-o", out, *QUICK, "--captioner", "parrot:b").fails("captioner was 'parrot:a'")
        assert "parrot" in Run("plugins").out
    finally:
        unregister("parrot")


def test_a_search_fits_into_the_memory_that_is_said(pictures: Path) -> None:
    run = Run("invert", pictures / "a.png", *QUICK, "--vram", "8GB")
    assert run.out == Run("invert", pictures / "a.png", *QUICK).out
    Run("invert", pictures / "a.png", *QUICK, "--vram", "eight").fails("--vram must be a size", "'eight'")
    Run("invert", pictures / "a.png", *QUICK, "--vram", "1KB").fails("is too little", "the least is vram='")
