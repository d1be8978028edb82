"""Banks of phrases: files good and bad, features that are kept, and what is strung together from them."""

import dataclasses
import itertools
import os
import time
import warnings

import pytest
import torch

from hardprompts import PromptInverter, run_search
from hardprompts.atomic import cache_folder
from hardprompts.errors import FileFormatError, VocabularyError
from hardprompts.methods import PEZ, PEZBank, PhraseBank, PhraseTable, default_bank, read_bank
from hardprompts.methods.banks import content_hash, encode_phrases, phrase_features
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.rows import pack
from hardprompts.testing import toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
QUICK = {"views": 1, "restarts": 4, "progress": False, "seed": 0, "token_cost": 0.0}
TABLES = (
    PhraseTable("things", ("house", "boat", "cat", "old tree", "moon")),
    PhraseTable("places", ("near the river", "in snow", "on the ocean", "over the mountain")),
    PhraseTable("looks", ("red", "green", "small", "silver", "gold", "old", "new", "black")),
)
PHRASES = [phrase for table in TABLES for phrase in table.phrases]


def features(*texts: str) -> torch.Tensor:
    return BACKEND.encode_texts(texts)


def similarities(phrases, target: torch.Tensor, template: str = "{}") -> dict[str, float]:
    return dict(zip(phrases, (features(*(template.replace("{}", p) for p in phrases)) @ target).tolist(), strict=True))


def inverted(method: PhraseBank, target: torch.Tensor, **options):
    return PromptInverter(BACKEND, method).invert(target, **{"num_tokens": 8, **QUICK, **options})


# --- files --------------------------------------------------------------------------------


def test_empty_lines_repeated_ones_and_white_space_are_tidied(tmp_path) -> None:
    (tmp_path / "styles.txt").write_bytes(b"  in the  style\tof\r\n\r\n   \nred\nred\n in the style of \nRed")
    table = PhraseTable.from_file(tmp_path / "styles.txt")
    assert table == PhraseTable("styles", ("in the style of", "red", "Red"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_that_state_their_encoding_are_read(tmp_path, encoding: str) -> None:
    (tmp_path / "bank.txt").write_text("café\nnaïve art\n浮世絵\n", encoding=encoding)
    assert PhraseTable.from_file(tmp_path / "bank.txt").phrases == ("café", "naïve art", "浮世絵")


def test_other_encodings_are_named_or_refused(tmp_path) -> None:
    path = tmp_path / "bank.txt"
    path.write_text("café\nart déco\n", encoding="cp1252")
    with pytest.raises(FileFormatError, match=r"bank\.txt is not a text in utf-8.*encoding='cp1252'"):
        PhraseTable.from_file(path)
    assert PhraseTable.from_file(path, encoding="cp1252").phrases == ("café", "art déco")
    with pytest.raises(ValueError, match="there is no encoding 'no-such-encoding'"):
        PhraseTable.from_file(path, encoding="no-such-encoding")
    (tmp_path / "bare.txt").write_bytes("red\nhouse".encode("utf-16-le"))
    with pytest.raises(FileFormatError, match="NUL"):
        PhraseTable.from_file(tmp_path / "bare.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(FileFormatError):
        PhraseTable.from_file(tmp_path / "picture.txt")


def test_a_bank_without_phrases_is_refused(tmp_path) -> None:
    (tmp_path / "bank.txt").write_text(" \n\n")
    for path, message in ((tmp_path / "bank.txt", "no phrases"), (tmp_path / "empty", "no .txt files")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileFormatError, match=message):
            read_bank(path)
    with pytest.raises(FileNotFoundError):
        read_bank(tmp_path / "nowhere.txt")


def test_a_folder_is_a_bank_of_tables_in_the_order_of_their_names(tmp_path) -> None:
    for name, phrase in (("b.txt", "boat"), ("a.TXT", "house"), (".hidden.txt", "x"), ("notes.md", "y")):
        (tmp_path / name).write_text(phrase)
    assert read_bank(tmp_path) == (PhraseTable("a", ("house",)), PhraseTable("b", ("boat",)))


def test_the_bank_that_ships_is_tidy() -> None:
    tables = default_bank()
    assert len(tables) == 5 and sum(map(len, tables)) > 400
    for table in tables:
        assert PhraseTable.create(table.name, table.phrases) == table
        assert all(phrase.isascii() and len(phrase) < 40 for phrase in table.phrases)


def test_a_million_phrases_are_read_and_ranked(tmp_path) -> None:
    words = [VOCABULARY.decode([i]) for i in VOCABULARY.allowed_ids.tolist()]
    lines = itertools.islice(itertools.cycle(map(" ".join, itertools.product(words, repeat=2))), 999_990)
    start = time.process_time()
    (tmp_path / "bank.txt").write_text("\n".join([*lines, *(f"unknown{i}" for i in range(10))]))
    (table,) = read_bank(tmp_path / "bank.txt")
    assert len(table) == len(words) ** 2 + 10  # the others repeat them
    prompt = PromptInverter(BACKEND, PhraseBank((table,), mode="fast")).invert(
        features("silver moon"), num_tokens=2, **QUICK
    )
    assert prompt.text in ("silver moon", "moon silver") and prompt.evaluations < 2 * len(words) ** 2
    assert time.process_time() - start < 30 and len(repr(PhraseBank((table,)))) < 300


@pytest.mark.slow
def test_a_million_phrases_that_are_all_different_are_ranked() -> None:
    words = [VOCABULARY.decode([i]) for i in VOCABULARY.allowed_ids.tolist()]
    phrases = tuple(itertools.islice(map(" ".join, itertools.product(words, repeat=4)), 1_000_000))
    method = PhraseBank((PhraseTable("all", phrases),), mode="fast")
    ends = []
    prompt = inverted(method, features(phrases[123_456])[0], num_tokens=4)
    assert prompt.text == phrases[123_456] and prompt.evaluations > 1_000_000
    stopped = inverted(method, features("red house")[0], num_tokens=4, callback=lambda p: ends.append(p.step) or True)
    assert stopped.stop_reason == "cancelled" and stopped.evaluations < 10_000  # it is ranked part by part
    assert ends == [1]


# --- phrases as tokens --------------------------------------------------------------------


def test_phrases_that_may_not_be_used_are_left_out() -> None:
    phrases = ["red house", "zebra", "the old black boat", "dog"]
    limited = VOCABULARY.without(["dog"])
    assert encode_phrases(phrases, limited, 3) == [tuple(VOCABULARY.encode("red house")), None, None, None]
    narrowed = VOCABULARY.only(["red", "dog"])
    assert [ids is not None for ids in encode_phrases(phrases, narrowed, 4)] == [False, False, False, True]


# --- features that are kept ---------------------------------------------------------------


def test_features_are_kept_by_content_and_computed_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = type(BACKEND.text_encoder).encode_text

    def counted(self, texts):
        calls.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(type(BACKEND.text_encoder), "encode_text", counted)
    template = PromptTemplate("the {}")
    first = phrase_features(TABLES, BACKEND, template, tmp_path)
    assert sum(calls) == len(PHRASES) and len(list((tmp_path / "phrases").iterdir())) == 1
    calls.clear()
    again = phrase_features(TABLES, BACKEND, template, tmp_path)
    assert torch.equal(first, again) and sum(calls) == 4  # a few are asked for again
    expected = features(*(f"the {phrase}" for phrase in PHRASES))
    assert torch.allclose(first.float(), expected, atol=1e-3)
    others = (PhraseTable("things", ("house",)),)
    phrase_features(others, BACKEND, template, tmp_path)
    phrase_features(TABLES, BACKEND, PromptTemplate(), tmp_path)
    assert len(list((tmp_path / "phrases").iterdir())) == 3
    assert content_hash(TABLES) != content_hash(TABLES[::-1]) != content_hash(TABLES[:2])


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_file_is_made_anew(tmp_path, damage: bytes | None) -> None:
    first = phrase_features(TABLES, BACKEND, folder=tmp_path)
    (path,) = (tmp_path / "phrases").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage is None else damage)
    assert torch.equal(phrase_features(TABLES, BACKEND, folder=tmp_path), first)
    assert path.read_bytes() == whole


def test_another_model_of_the_same_name_is_noticed(tmp_path) -> None:
    class Other(type(BACKEND.text_encoder)):
        def encode_text(self, texts):
            return -super().encode_text(texts)

    first = phrase_features(TABLES, BACKEND, folder=tmp_path)
    changed = dataclasses.replace(BACKEND, text_encoder=Other())
    assert torch.allclose(phrase_features(TABLES, changed, folder=tmp_path), -first)


def test_a_folder_that_cannot_be_written_costs_a_warning_and_nothing_else(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="not kept for the next time"):
        found = phrase_features(TABLES, BACKEND, folder=tmp_path / "file")
    assert len(found) == len(PHRASES) and os.listdir(tmp_path) == ["file"]


def test_the_cache_is_in_the_users_folder_or_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("HARDPROMPTS_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" and not (tmp_path / "here").exists()
    monkeypatch.delenv("HARDPROMPTS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert cache_folder() == tmp_path / "hardprompts"


# --- modes --------------------------------------------------------------------------------


def test_fast_takes_the_ranking_from_its_beginning() -> None:
    target = features("red house near the river")[0]
    ranked = sorted(similarities(PHRASES, target).items(), key=lambda item: -item[1])
    order = [phrase for phrase, _ in ranked]
    prefixes = [" ".join(order[:count]) for count in range(1, 4)]
    own = similarities([p for p in prefixes if len(p.split()) <= 8] + PHRASES, target)
    prompt = inverted(PhraseBank(TABLES, mode="fast"), target)
    assert prompt.score == pytest.approx(max(prompt.score, *own.values()), abs=1e-5)
    texts = {candidate.text for candidate in prompt.candidates}
    assert {order[0], f"{order[0]} {order[1]}"} <= texts | {prompt.text}


def test_classic_takes_the_best_of_each_table() -> None:
    target = features("silver boat on the ocean")[0]
    best = [max(table.phrases, key=similarities(table.phrases, target).__getitem__) for table in TABLES]
    prompt = inverted(PhraseBank(TABLES, mode="classic"), target, top_k=50)
    assert " ".join(best) in {candidate.text for candidate in prompt.candidates}


def test_best_finds_the_planted_phrases_and_ends_where_no_phrase_helps() -> None:
    target = features("house near the river red")[0]
    prompt = inverted(PhraseBank(TABLES), target)
    assert prompt.text == "house near the river red" and prompt.stop_reason == "converged"
    longer = [f"{prompt.text} {phrase}" for phrase in PHRASES if len(f"{prompt.text} {phrase}".split()) <= 8]
    assert max(similarities(longer, target).values()) <= prompt.score + 1e-5


def test_best_is_at_least_as_good_as_fast_and_classic() -> None:
    for text in ("old tree in snow", "gold moon over the mountain black", "cat cat cat"):
        target = features(text)[0]
        scores = {
            mode: inverted(PhraseBank(TABLES, mode=mode), target).score for mode in ("fast", "classic", "best")
        }  # fmt: skip
        assert scores["best"] >= max(scores.values()) - 1e-6


def test_negative_returns_the_least_similar_phrases() -> None:
    """By brute force, over a bank that is ranked in parts, and through the front door."""
    bank = (PhraseTable("all", tuple(VOCABULARY.decode([i]) for i in VOCABULARY.allowed_ids.tolist())),)
    for text in ("red house near the river", "old boat"):
        target = features(text)[0]
        ranked = similarities(bank[0].phrases, target)
        least = min(ranked, key=ranked.__getitem__)
        prompt = PromptInverter(BACKEND, PhraseBank(bank, mode="negative", max_phrases=1)).invert(
            target, num_tokens=1, **QUICK
        )
        assert prompt.text == least and prompt.score == pytest.approx(ranked[least], abs=1e-5)
        longer = inverted(PhraseBank(bank, mode="negative"), target)
        assert longer.score < ranked[least] and longer.score < 0
        by_name = PromptInverter(BACKEND, "phrase-bank-negative").invert(target, num_tokens=4, **QUICK)
        assert by_name.score < float(features("house").squeeze() @ target)


def test_phrases_stand_behind_the_caption_and_only_what_fits_of_it() -> None:
    target = features("the old house near the river red")[0]
    prompt = inverted(PhraseBank(TABLES), target, caption="the old house")
    assert (
        prompt.text.startswith("the old house ") and prompt.score > float(features("the old house")[0] @ target) + 0.01
    )
    behind = prompt.text.removeprefix("the old house ")
    starts = [phrase for phrase in PHRASES if behind.startswith(phrase)]
    assert starts and all(len(candidate.token_ids) <= 8 for candidate in prompt.candidates)
    short = inverted(PhraseBank(TABLES), target, caption="the old house", num_tokens=2)
    assert all(len(candidate.token_ids) <= 2 for candidate in short.candidates)
    negative = inverted(PhraseBank(TABLES, mode="negative"), target, caption="the old house")
    assert not negative.text.startswith("the old house")


def test_separators_stand_between_phrases_and_nowhere_else() -> None:
    target = features("house and red")[0]
    prompt = inverted(PhraseBank(TABLES, separator="and", mode="fast", max_phrases=2), target, top_k=50)
    joined = [c.text for c in prompt.candidates if " and " in c.text]
    assert joined and not any(text.startswith("and") or text.endswith("and") for text in joined)


def test_a_kept_ranking_gives_the_same_prompt_for_fewer_passes(tmp_path) -> None:
    targets = [features("house near the river red")[0], features("silver boat on the ocean")[0]]
    options = {**QUICK, "num_tokens": 8, "template": "the {}"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [
            PromptInverter(BACKEND, PhraseBank(TABLES, cache=cache)).invert_each(targets, **options)
            for cache in (None, tmp_path, tmp_path)
        ]
    assert [p.text for p in runs[0]] == [p.text for p in runs[1]] == [p.text for p in runs[2]]
    assert runs[0][0].evaluations - runs[2][0].evaluations == 2 * len(PHRASES)


def test_nothing_that_is_banned_or_not_allowed_is_returned() -> None:
    target = features("red house near the river")[0]
    prompt = inverted(PhraseBank(TABLES), target, banned=["red", "near"])
    assert not {"red", "near"} & {word for c in prompt.candidates for word in c.text.split()}
    narrowed = inverted(PhraseBank(TABLES), target, vocabulary=["house", "boat"])
    assert {word for c in narrowed.candidates for word in c.text.split()} <= {"house", "boat"}


def test_a_bank_of_which_nothing_may_be_used_is_refused() -> None:
    for tables, options in ((TABLES, {"vocabulary": ["dog"]}), ((PhraseTable("x", ("zebra", "yak")),), {})):
        with pytest.raises(VocabularyError, match=r"none of the \d+ phrases"):
            inverted(PhraseBank(tables), features("red house")[0], **options)


# --- PEZ + bank ---------------------------------------------------------------------------


def test_pez_with_a_bank_is_pez_over_the_banks_tokens() -> None:
    target = features("red house near the river")[0]
    objective = FeatureSimilarity(BACKEND.text_encoder, target.reshape(1, 1, -1), torch.ones(1, 1))
    words = VOCABULARY.only(PHRASES)
    start = words.sample((8, 5), torch.Generator().manual_seed(0))
    options = {"max_steps": 30, "seed": 0, "top_k": 1000}
    (ours,) = run_search(PEZBank(TABLES), objective, objective, VOCABULARY, start, **options)
    (plain,) = run_search(PEZ(), objective, objective, words, start, **options)
    assert ours.candidates == plain.candidates
    free = VOCABULARY.sample((8, 5), torch.Generator().manual_seed(1))
    (found,) = run_search(PEZBank(TABLES), objective, objective, VOCABULARY, free, **options)
    known = {word for phrase in PHRASES for word in phrase.split()}
    begun = {VOCABULARY.decode(row) for row in free.tolist()}
    assert all(set(c.text.split()) <= known for c in found.candidates if c.text not in begun)


def test_a_bank_that_the_model_cannot_spell_is_refused() -> None:
    objective = FeatureSimilarity(BACKEND.text_encoder, features("red")[:, None], torch.ones(1, 1))
    with pytest.raises(VocabularyError, match="keyword bank"):
        tables = (PhraseTable("x", ("zebra",)),)
        run_search(PEZBank(tables), objective, objective, VOCABULARY, pack([VOCABULARY.encode("red")]), max_steps=1)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: PhraseBank(shortlist=0), "shortlist"),
        (lambda: PhraseBank(max_phrases=0), "max_phrases"),
        (lambda: PhraseBank(()), "no phrases"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method()
