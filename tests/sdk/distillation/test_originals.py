"""What is distilled: texts of any length, soft prompts, files and tensors; windows and phrases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy_distillation import BACKEND, DISTILLER, LONG, QUICK, TOWER, VOCABULARY, embedded, noisy

from hardprompts import BackendError, PromptDistiller, PromptTemplate, SoftPrompt
from hardprompts.allowance import Allowance
from hardprompts.distillation.faithfulness import lost_phrases
from hardprompts.distillation.features import match_features
from hardprompts.distillation.options import DistillationOptions
from hardprompts.distillation.originals import (
    Original,
    encoders_for,
    phrases_of,
    soft_prompt_of,
    windows_of,
)
from hardprompts.testing import ToyEncoder


def similarity(text: str, other: str, template: str = "{}") -> float:
    features = BACKEND.encode_texts([template.replace("{}", one) for one in (text, other)])
    return float(features[0] @ features[1])


def test_files_soft_prompts_and_tensors_say_the_same(tmp_path: Path) -> None:
    soft = embedded("red boat")
    save_file({"<red-boat>": soft}, tmp_path / "red.safetensors")
    prompt = SoftPrompt({"text_encoder": soft}, name="<red-boat>")
    for what in (tmp_path / "red.safetensors", prompt, soft):
        found = DISTILLER.distill(what, num_tokens=2, max_steps=1, **QUICK)
        assert found.text == "red boat"
    assert found.provenance["original"] == "soft prompt"
    assert DISTILLER.distill(prompt, num_tokens=2, max_steps=1, **QUICK).provenance["original"] == "<red-boat>"


def test_a_soft_prompt_tells_what_it_says() -> None:
    prompt = soft_prompt_of(noisy("old boat", 0.05), VOCABULARY)
    assert DISTILLER.distill(prompt, **QUICK).text == "old boat"
    assert PromptDistiller(BACKEND, method="nearest").distill(prompt, 1, **QUICK).method == "nearest"


def test_the_parts_of_a_soft_prompt_are_found_by_their_widths() -> None:
    prompt = SoftPrompt({"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)})
    assert encoders_for(prompt, (1280, 768), "m") == ("clip_g", "clip_l")
    assert encoders_for(prompt, (768,), "m") == ("clip_l",)
    for widths in ((768, 768), (32,)):
        with pytest.raises(BackendError, match="clip_l 768, clip_g 1280"):
            encoders_for(prompt, widths, "m")
    made = soft_prompt_of(embedded("red house"), VOCABULARY, "x", {"seed": 1})
    assert made.encoders == ("text_encoder",) and made.metadata["seed"] == 1
    assert torch.equal(made.embeddings["text_encoder"], embedded("red house"))


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 11), (0.7, 8), (0.5, 6), (0.3, 3), (0.1, 1), (0.01, 1)])
def test_the_ratio_is_of_the_original_s_tokens(ratio: float, expected: int) -> None:
    assert DistillationOptions(ratio=ratio).tokens_for(Original.of(LONG, VOCABULARY, "toy")) == expected
    if expected < 8:
        prompt = DISTILLER.distill(LONG, ratio=ratio, max_steps=2, **QUICK)
        assert 1 <= len(prompt.token_ids) <= expected


def test_a_prompt_over_the_context_is_taken_window_by_window() -> None:
    text = " , ".join(["red house near river", "old boat on ocean", "cat in snow", "big tree in night rain"] * 3)
    assert len(VOCABULARY.encode(text)) == 48 and TOWER.max_tokens == 16
    pieces = windows_of(text, 16, VOCABULARY)
    assert [i for piece in pieces for i in piece] == VOCABULARY.encode(text)
    assert all(len(piece) <= 16 for piece in pieces) and len(pieces) <= 5
    texts = [VOCABULARY.decode(piece) for piece in pieces]
    expected = sum(BACKEND.encode_texts([one])[0] * len(ids) for one, ids in zip(texts, pieces, strict=True))
    match = match_features(BACKEND, [Original.of(text, VOCABULARY, "toy").windows(16, VOCABULARY)])
    target = match.mean_targets[0]
    torch.testing.assert_close(target, torch.nn.functional.normalize(expected, dim=0), atol=1e-5, rtol=0)
    prompt = DISTILLER.distill(text, num_tokens=6, **QUICK)
    assert prompt.faithfulness is not None and prompt.faithfulness.matched.value > 0.6
    assert prompt.provenance["original_tokens"] == 48


def test_windows_end_behind_a_comma_where_there_is_one_and_cut_only_what_no_window_holds() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(c) - 32 for c in text.replace(" ", "")]

        def decode(self, ids: Any) -> str:
            return "".join(chr(i + 32) for i in ids)

    vocabulary = VOCABULARY.__class__(torch.zeros(96, 2), Letters(), torch.ones(96, dtype=torch.bool), (2,))
    cut = ["".join(vocabulary.decode(piece)) for piece in windows_of("ab cd, efg hi jk", 8, vocabulary)]
    assert cut == ["abcd,", "efghijk"]
    assert [vocabulary.decode(piece) for piece in windows_of("abcdefgh ij", 3, vocabulary)] == [
        "abc",
        "def",
        "gh",
        "ij",
    ]


def test_the_phrase_that_is_lost_is_named() -> None:
    text = "red house , old boat on river"
    prompt = DISTILLER.distill(
        text, num_tokens=5, initial_prompt="old boat on river", max_steps=0, banned=["red", "house"], **QUICK
    )
    assert prompt.text == "old boat on river"
    assert [phrase.text for phrase in prompt.lost] == ["red house"]
    (lost,) = prompt.lost
    assert lost.cost == pytest.approx(1 - similarity(text, "old boat on river"), abs=1e-5)
    assert lost.kept == pytest.approx(0, abs=1e-4)  # the prompt is the original without it
    whole = DISTILLER.distill(text, num_tokens=6, **QUICK)
    assert whole.score == pytest.approx(1, abs=1e-5) and whole.lost == ()


def test_phrases_are_what_stands_between_commas_or_a_few_words() -> None:
    assert phrases_of("a cat,  on a  mat ,,in snow") == ["a cat", "on a mat", "in snow"]
    assert phrases_of("one two three four five", 2) == ["one two", "three four", "five"]


def test_looking_for_lost_phrases_grows_with_the_length_and_not_with_its_square(monkeypatch) -> None:
    spent: dict[int, int] = {}
    seen: list[int] = []
    encode = ToyEncoder.encode
    monkeypatch.setattr(ToyEncoder, "encode", lambda self, x: seen.append(len(x) * x.shape[1]) or encode(self, x))
    for words in (300, 1200):
        text = " ".join((*LONG.split(), "dog", "fish", "tree", "cloud")[i * 7 % 15] for i in range(words))
        seen.clear()
        allowance = Allowance()
        lost = lost_phrases(BACKEND, text, "old boat", PromptTemplate("big {}"), allowance)
        spent[words] = sum(seen)
        assert allowance.evaluations > words // 3 and not allowance.left_out and 0 < len(lost) <= 10
    assert spent[1200] < 4.5 * spent[300]


def test_the_deadline_holds_for_what_is_said_of_a_prompt() -> None:
    text = " ".join(LONG.split()[i * 7 % 11] for i in range(300))
    allowance = Allowance(deadline=0.0)
    assert lost_phrases(BACKEND, text, "old boat", PromptTemplate(), allowance) == ()
    assert allowance.left_out == ["phrases compared: 0 of 100"] and allowance.evaluations == 0
    prompt = DISTILLER.distill(text, num_tokens=2, deadline=0.0, **QUICK)
    assert prompt.text and "phrases compared: 0 of 100" in prompt.left_out


def test_phrases_that_are_longer_than_the_context_are_read_whole() -> None:
    """Each fills windows of its own, and leaving one out leaves nothing of them."""
    long = [" ".join(LONG.split()[(place + i) % 11] for i in range(30)) for place in range(2)]
    allowance = Allowance()
    lost_phrases(BACKEND, ", ".join(long), "old boat", PromptTemplate(), allowance)
    assert not allowance.left_out
    (only,) = lost_phrases(BACKEND, f"{long[0]}, {'night ' * 40}", "red house", PromptTemplate())[:1]
    assert only.text in (long[0], " ".join(["night"] * 40)) and only.cost > 0.01
