"""Words by what they are about, and bans by category and by regular expression."""

from pathlib import Path

import pytest

from hardprompts import HardPrompt, PromptInverter
from hardprompts.encoders import Backend
from hardprompts.errors import FileFormatError, UnknownName, VocabularyError
from hardprompts.testing import toy_backend
from hardprompts.wording import CATEGORIES, Categories, WordBan, bad_words, category_words, separated


@pytest.fixture
def vocabulary() -> Backend:
    return toy_backend().vocabulary


def test_phrases_are_read_longest_first_and_plurals_like_their_words() -> None:
    found = Categories.default().of("Teddy bears, an oil painting by Greg Rutkowski, trending on artstation, 8k, zzq")
    assert found == {
        "subject": ("teddy bears",),
        "medium": ("oil painting",),
        "artist": ("greg rutkowski",),
        "quality": ("trending on artstation", "8k"),
        "other": ("an", "by", "zzq"),
    }


def test_a_word_of_several_lists_is_of_the_more_telling_one() -> None:
    of = Categories.default().category
    assert [of(word) for word in ("painting", "gold", "city", "running", "van gogh", "nikon", "fox", "cubism")] == [
        "medium", "color", "place", "action", "artist", "brand", "subject", "style",
    ]  # fmt: skip


def test_the_lists_are_tidy_and_have_no_bad_words() -> None:
    ban = WordBan(bad_words())
    for name in CATEGORIES:
        words = category_words(name)
        assert len(words) >= 60
        assert all(word == " ".join(word.split()).lower() for word in words)
        assert not [word for word in words if ban.found_in(word)]


def test_lists_of_ones_own_count_first(tmp_path: Path) -> None:
    file = tmp_path / "heroes.txt"
    file.write_text("# my own\nCaptain Fox\nfox\n", encoding="utf-8")
    own = Categories.default().with_file("hero", file).with_words("color", ["Foxy Red"])
    assert own.of("captain fox, foxy red fox tree") == {
        "subject": ("tree",), "color": ("foxy red",), "hero": ("captain fox", "fox"),
    }  # fmt: skip
    assert Categories.default().category("fox") == "subject"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{subject}, {medium}, {style}", "fox tree, watercolor"),
        ("{style}, {subject}", "fox tree"),
        ("a {medium} of {subject}; {artist}", "a watercolor of fox tree"),
        ("no names", "no names"),
    ],
)
def test_a_form_leaves_no_empty_places(form: str, expected: str) -> None:
    prompt = HardPrompt("fox watercolor tree", (1, 2, 3), 0.5)
    assert prompt.arranged(form) == expected
    assert prompt.by_category() == {"subject": ("fox", "tree"), "medium": ("watercolor",)}


def test_a_form_that_asks_for_what_there_is_not() -> None:
    prompt = HardPrompt("fox", (1,), 0.5)
    with pytest.raises(UnknownName, match="unknown category 'mood'; available: action"):
        prompt.arranged("{mood}")
    with pytest.raises(ValueError, match="is not text with names in braces"):
        prompt.arranged("{subject")


# --- bans ---------------------------------------------------------------------------------


def test_a_category_is_banned_as_whole_words(vocabulary) -> None:
    texts = vocabulary.token_texts(vocabulary.allowed_ids.tolist())
    colors = [text for text in texts if Categories.default().category(text) == "color"]
    assert colors
    narrowed = vocabulary.narrowed(None, ["category:color"])
    left = set(narrowed.token_texts(narrowed.allowed_ids.tolist()))
    assert left == {text for text in texts if text not in category_words("color")} - {""}
    assert narrowed.bans("a RED fox") and not narrowed.bans("a redwood fox")
    assert narrowed.bans("navy blue") and not narrowed.bans("red", own="red")


def test_phrases_of_a_list_are_banned_though_their_words_are_not(vocabulary, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("cat tree\n", encoding="utf-8")
    narrowed = vocabulary.narrowed(None, [f"category:{file}"])
    assert narrowed.bans("a cat, tree") and not narrowed.bans("a tree, cat")


def test_regular_expressions_are_banned_whatever_the_case(vocabulary) -> None:
    narrowed = vocabulary.narrowed(None, [r"/\b\d+k\b/", "/^ca.$/"])
    assert narrowed.bans("fox 8K") and not narrowed.bans("8kg fox")
    assert "cat" not in narrowed.token_texts(narrowed.allowed_ids.tolist())
    assert not narrowed.bans("8k", own="in 8k")


def test_a_slash_alone_is_a_string(vocabulary) -> None:
    assert vocabulary.narrowed(None, ["/"]).bans("cat/dog")
    assert vocabulary.narrowed(None, ["//"]).banned.strings == ("//",)


@pytest.mark.parametrize(
    ("banned", "error", "reason"),
    [
        (
            "/(/",
            VocabularyError,
            r"the banned /\(/ cannot be read as a regular expression, which a string between slashes is: missing \)",
        ),
        ("category:mood", UnknownName, r"unknown category 'mood'.*a list of your own is the path of a \.txt file"),
        ("category:nowhere.txt", OSError, "nowhere.txt"),
    ],
)
def test_bans_that_mean_nothing_are_refused(vocabulary, banned: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        vocabulary.narrowed(None, [banned])


def test_a_list_without_phrases_is_refused(vocabulary, tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="has no phrases"):
        vocabulary.narrowed(None, [f"category:{file}"])


def test_a_search_keeps_what_is_banned_out() -> None:
    image = "plugins/hardprompts_emoji/examples/fox-purple-flat.png"
    inverter = PromptInverter("emoji")
    free = inverter.invert(image, seed=0, progress=False, max_evaluations=600)
    assert "color" in free.by_category()
    found = inverter.invert(
        image, seed=0, progress=False, max_evaluations=600, banned=["category:color", "/^fl/"], top_k=5
    )
    texts = [candidate.text for candidate in found.candidates]
    assert len(texts) > 1
    assert not any("color" in Categories.default().of(text) or text.startswith("fl") for text in texts)


def test_what_is_banned_by_its_category_cannot_be_required() -> None:
    image = "plugins/hardprompts_emoji/examples/fox-purple-flat.png"
    with pytest.raises(VocabularyError, match="require or ban it, not both"):
        PromptInverter("emoji").invert(image, required=["purple"], banned=["category:color"], progress=False)


def test_what_people_write_in_one_field() -> None:
    assert separated("red, navy blue\n/a{1,2}b/, category:artist,\n ,4/5, a/b, /x,y/z/") == [
        "red", "navy blue", "/a{1,2}b/", "category:artist", "4/5", "a/b", "/x", "y/z/",
    ]  # fmt: skip
