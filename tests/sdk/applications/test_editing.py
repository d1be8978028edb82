"""A word exchanged, and how words depend on each other, on the toy model."""

import dataclasses
import itertools
import json

import pytest
import torch
from painter import BACKEND, TOWER

from hardprompts import BackendError, Candidate, FileFormatError, HardPrompt, TemplateError, VocabularyError
from hardprompts.applications import edit, interaction_picture, word_interactions
from hardprompts.applications.editing import ENTANGLED, WordChange
from hardprompts.applications.interactions import interaction_levels, interaction_notes, level_colors
from hardprompts.prompts import WordWeights
from hardprompts.wording import WordEvidence, WordInteractions

VOCABULARY = BACKEND.vocabulary


def prompt(text: str, template: str = "{}") -> HardPrompt:
    return HardPrompt(text, tuple(VOCABULARY.encode(text)), 0.5, template=template, model="toy")


def features(text: str) -> torch.Tensor:
    return BACKEND.encode_texts([text])[0].double()


# --- an exchange ----------------------------------------------------------------------------


def test_an_edited_prompt_is_encoded_and_scored_anew() -> None:
    found = edit(prompt("red house river", "the {} in snow"), "house", "boat", BACKEND)
    new = found.prompt
    assert new.text == "red boat river" and new.filled == "the red boat river in snow"
    assert new.token_ids == tuple(VOCABULARY.encode("red boat river")) and new.tokens == ("red", "boat", "river")
    before, after = features(found.before), features(new.filled)
    assert found.before == "the red house river in snow"
    assert new.score == pytest.approx(float(before @ after), abs=1e-5)
    assert new.score_unit == "cosine similarity with the prompt before" and new.method == "edit"
    assert new.candidates == (Candidate(new.text, new.token_ids, new.score),)
    assert new.evaluations == 8  # both texts, both words, and each other word left out of both texts
    assert new.provenance == {"original": "red house river", "parts": ["house", "boat"]}


def test_what_was_known_about_the_old_text_is_not_said_of_the_new_one() -> None:
    old = dataclasses.replace(
        prompt("red house"), evidence=(WordEvidence("house", "place", 0.1),), attributions=(0.1, 0.2), fluency=-3.0,
        weights=WordWeights((1.0, 1.2), "comfyui", "share", 0.1, 0.2, None),
        interactions=WordInteractions(("red",), (0.1,), ((0.0,),)),
    )  # fmt: skip
    new = edit(old, "house", "boat", BACKEND).prompt
    assert (new.evidence, new.attributions, new.fluency, new.weights, new.interactions) == ((), (), None, None, None)


def test_what_an_exchange_changes_is_measured_in_features() -> None:
    found = edit("red house river", "house", "boat", BACKEND)
    before, after = features("red house river"), features("red boat river")
    alone = features("boat") - features("house")
    assert found.shift == pytest.approx(float((after - before).norm()), abs=1e-5)
    cosine = float((after - before) @ alone) / (found.shift * float(alone.norm()))
    assert found.explained == pytest.approx(cosine, abs=1e-4)
    assert [one.phrase for one in found.others] == ["red", "river"]
    for one, left, right in zip(found.others, ("house river", "red house"), ("boat river", "red boat"), strict=True):
        first, second = before - features(left), after - features(right)
        assert one.before == pytest.approx(float(first.norm()), abs=1e-5)
        assert one.after == pytest.approx(float(second.norm()), abs=1e-5)
        assert one.change == pytest.approx(float((second - first).norm()), abs=1e-5)


def test_a_word_alone_is_exchanged_for_another_one() -> None:
    found = edit("house", "house", "boat", BACKEND)
    assert found.others == () and found.explained == pytest.approx(1.0, abs=1e-5)


def test_words_that_change_most_are_entangled() -> None:
    one, other = WordChange("a", 1.0, 0.5, ENTANGLED), WordChange("b", 0.0, 0.0, 0.0)
    assert one.entangled and one.share == ENTANGLED and not other.entangled and other.share == 0.0
    found = dataclasses.replace(edit("red house", "red", "old", BACKEND), others=(other, one, WordChange("c", 1, 1, 2)))
    assert [changed.phrase for changed in found.entangled] == ["c", "a"]


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        ("red House", "house", "boat", "red boat"),
        ("red house old river", "house", "old boat", "red old boat old river"),
        ("red old house", "Old  house", "boat", "red boat"),
        ("house", "house", "boat on a river", "boat on a river"),
    ],
)
def test_words_and_phrases_are_found_whatever_their_case_and_spaces(text, old, new, expected) -> None:
    assert edit(text, old, new, BACKEND).prompt.text == expected


@pytest.mark.parametrize(
    ("text", "old", "new", "error", "message"),
    [
        ("red house", "hous", "boat", VocabularyError, "'hous' is not a word of the prompt 'red house'; did you mean"),
        ("red house", "zzz", "boat", VocabularyError, "its words: 'red', 'house'"),
        ("red house red", "red", "old", VocabularyError, "'red' occurs 2 times.*every=True"),
        ("red house", " ", "boat", ValueError, "old is ' ', which has no letters or digits"),
        ("red house", "red", "", ValueError, "new is '', which has no letters or digits"),
        ("red house", "red", "...", ValueError, r"new is '\.\.\.', which has no letters"),
        ("red house", "red", "red", ValueError, "'red' would be exchanged for itself"),
        ("red house", "red", "(old:1.3)", ValueError, r"markup in it.*'old'"),
        ("(red:1.2) house", "red", "old", ValueError, "the prompt is .*markup in it"),
        ("red house", "red", "\ud83d", ValueError, "half of a character"),
        ("red house", "red", "xylophone", VocabularyError, "toy has no tokens that spell 'xylophone house'; it reads 'house'"),
        ("red house", "red", "old " * 80, TemplateError, "do not fit"),
    ],
)  # fmt: skip
def test_what_cannot_be_exchanged_is_said(text, old, new, error, message) -> None:
    with pytest.raises(error, match=message):
        edit(text, old, new, BACKEND)


def test_all_occurrences_are_exchanged_where_that_is_asked_for() -> None:
    assert edit("red house red", "red", "old", BACKEND, every=True).prompt.text == "old house old"


def test_a_prompt_names_its_model(toy_plugin: str) -> None:
    assert edit(prompt("red house"), "red", "old").prompt.model == "toy"
    with pytest.raises(ValueError, match="names no model"):
        edit("red house", "red", "old")


# --- interactions ---------------------------------------------------------------------------


def test_interactions_are_what_leaving_out_one_by_one_does_not_explain() -> None:
    picture = TOWER.picture("red house")
    found = word_interactions("red house river", BACKEND, picture)
    own = found.interactions
    assert own is not None and own.phrases == ("red", "house", "river") and found.evaluations == 7
    target = BACKEND.encode_images([picture])[0].double()

    def score(*words: str) -> float:
        return float(features(" ".join(words)) @ target)

    whole = score(*own.phrases)
    for i, j in itertools.permutations(range(3), 2):
        both = next(score(word) for k, word in enumerate(own.phrases) if k not in (i, j))
        without = [score(*(w for k, w in enumerate(own.phrases) if k != place)) for place in (i, j)]
        assert own.values[i][j] == pytest.approx(whole - sum(without) + both, abs=1e-5)
        assert own.contributions[i] == pytest.approx(whole - without[0], abs=1e-5)
    sizes = [abs(own.values[i][j]) for i, j in itertools.combinations(range(3), 2)]
    assert own.dependence == pytest.approx(sum(sizes) / 3)
    assert abs(own.strongest(1)[0][2]) == max(sizes) and len(own.strongest()) == 3


def test_interactions_are_measured_in_the_template_and_for_several_images() -> None:
    both = [TOWER.picture("red"), TOWER.picture("house")]
    found = word_interactions(prompt("red house", "the {} in snow"), BACKEND, both)
    target = BACKEND.encode_images(both).double().mean(dim=0)
    texts = ("the red house in snow", "the house in snow", "the red in snow", "the  in snow")
    whole, left, right, none = (float(features(text) @ target) for text in texts)
    assert found.interactions is not None
    assert found.interactions.values[0][1] == pytest.approx(whole - left - right + none, abs=1e-5)


def test_a_prompt_keeps_its_interactions(tmp_path) -> None:
    found = word_interactions("red house", BACKEND, TOWER.picture("red"))
    found.save_pretrained(tmp_path)
    assert HardPrompt.from_pretrained(tmp_path) == found
    older = {name: value for name, value in found.to_dict().items() if name != "interactions"}
    assert HardPrompt.from_dict(older).interactions is None
    assert "depend on one another" in found.card_part("a/b").text
    damaged = json.loads(found.to_json())
    damaged["interactions"]["values"] = [[0.0]]
    with pytest.raises(FileFormatError, match="2 phrases need as many"):
        HardPrompt.from_dict(damaged)


def test_of_long_prompts_the_phrases_that_contribute_most_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardprompts.applications.interactions.MOST_PHRASES", 3)
    found = word_interactions("red house old river cat", BACKEND, TOWER.picture("red house cat"))
    every = word_interactions("red house", BACKEND, TOWER.picture("red house cat"))
    assert found.interactions is not None and found.interactions.phrases == ("red", "house", "cat")
    assert found.left_out == ("interactions: phrases: 3 of 5",) and found.evaluations == 1 + 5 + 3
    assert every.left_out == ()


def test_limits_hold_and_say_what_they_left_out() -> None:
    found = word_interactions("red house river", BACKEND, TOWER.picture("red"), max_evaluations=5)
    assert found.interactions is None and found.evaluations <= 5
    assert found.left_out == ("interactions of phrases: 0 of 3",)
    assert word_interactions("red house", BACKEND, TOWER.picture("red"), deadline=0.0).interactions is None


def test_a_prompt_without_words_and_a_model_without_eyes_are_refused() -> None:
    with pytest.raises(VocabularyError, match="has no word that says something"):
        word_interactions("a of the", BACKEND, TOWER.picture("red"))
    blind = dataclasses.replace(BACKEND, image_encoder=None)
    with pytest.raises(BackendError, match="has no image tower"):
        word_interactions("red house", blind, TOWER.picture("red"))


def test_the_picture_shows_what_depends_in_color() -> None:
    values = ((0.0, 0.2, -0.1), (0.2, 0.0, 0.0), (-0.1, 0.0, 0.0))
    shown = WordInteractions(("a", "b", "a long phrase of words"), (0.1, 0.2, 0.3), values)
    picture = interaction_picture(shown)
    colors = {color for _, color in picture.getcolors(maxcolors=picture.width * picture.height)}
    assert (214, 96, 77) in colors and (247, 247, 247) in colors
    assert (157, 197, 221) in colors  # half as strong, of the other kind
    assert interaction_picture(WordInteractions((), (), ())).size[0] > 0
    with pytest.raises(ValueError, match="at least 16"):
        interaction_picture(shown, 4)


def test_a_prompt_that_somebody_wrote_gets_its_score_and_model() -> None:
    picture = TOWER.picture("red house")
    for given in ("red house", HardPrompt("red house", (), 0.0, "the {} in snow")):
        found = word_interactions(given, BACKEND, picture)
        assert found.model == BACKEND.name and found.tokens == ("red", "house") and found.evaluations == 4
        assert found.score == pytest.approx(
            float(features(found.filled) @ BACKEND.encode_images([picture])[0].double())
        )
    known = prompt("red house")
    assert word_interactions(known, BACKEND, picture).score == known.score


def test_what_depends_is_said_in_words_and_in_steps_of_color() -> None:
    values = ((0.0, 0.2, -0.1), (0.2, 0.0, 0.0004), (-0.1, 0.0004, 0.0))
    found = WordInteractions(("fox", "neon", "night"), (0.1, 0.2, 0.3), values)
    assert interaction_notes(found) == [
        "'fox' and 'neon': each adds 0.200 more beside the other",
        "'fox' and 'night': each adds 0.100 less beside the other",
    ]
    assert interaction_levels(found) == [[0, 4, -2], [4, 0, 0], [-2, 0, 0]]
    assert interaction_levels(WordInteractions(("a",), (0.1,), ((0.0,),))) == [[0]]
    assert level_colors()[4] == "#d6604d" and level_colors()[-4] == "#4393c3" and level_colors()[0] == "#f7f7f7"


def test_interactions_are_a_table() -> None:
    rows = WordInteractions(("a", "b"), (0.1, -0.2), ((0.0, 0.25), (0.25, 0.0))).rows()
    assert rows == [["phrase", "contributes", "a", "b"], ["a", "+0.100", "", "+0.250"], ["b", "-0.200", "+0.250", ""]]
    assert WordInteractions(("a",), (0.1,), ((0.0,),)).dependence == 0.0
    with pytest.raises(ValueError, match="not a finite number"):
        WordInteractions(("a",), (float("nan"),), ((0.0,),))
