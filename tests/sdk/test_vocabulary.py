import re

import pytest
import torch

from hardprompts import PromptTemplate, VocabularyError
from hardprompts.testing import PIECES, WORDS, toy_backend
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary


@pytest.fixture
def vocabulary() -> Vocabulary:
    return toy_backend().vocabulary


def test_allows_only_tokens_that_survive_decode_and_encode(vocabulary: Vocabulary) -> None:
    allowed = {vocabulary.decode([i]) for i in vocabulary.allowed_ids.tolist()}
    assert allowed == set(WORDS)  # neither the pieces nor the special token


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("chunk", [2**25, 150])
def test_nearest_equals_brute_force(vocabulary: Vocabulary, metric: str, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr("hardprompts.vocabulary.MAX_TABLE_ENTRIES", chunk)
    query = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(0)) * 2
    found = vocabulary.nearest(query, metric)
    for i in range(5):
        for j in range(3):
            rows = vocabulary.table[vocabulary.allowed_ids]
            value = (
                torch.cosine_similarity(rows, query[i, j][None])
                if metric == "cosine"
                else -(rows - query[i, j]).norm(dim=1)
            )
            assert found[i, j] == vocabulary.allowed_ids[value.argmax()]


def test_nearest_returns_the_token_of_its_own_embedding(vocabulary: Vocabulary) -> None:
    ids = vocabulary.allowed_ids
    assert torch.equal(vocabulary.nearest(vocabulary.embed(ids)), ids)
    assert torch.equal(vocabulary.nearest(vocabulary.embed(ids), "l2"), ids)


def test_joint_vocabulary_adds_the_cosines_of_its_parts(vocabulary: Vocabulary) -> None:
    size = len(vocabulary)
    other = Vocabulary(
        torch.randn(size, 7, generator=torch.Generator().manual_seed(3)) * 50,
        vocabulary.tokenizer,
        vocabulary.allowed,
        (7,),
    )
    joint = Vocabulary.joint([vocabulary, other])
    assert joint.table.shape == (size, 39) and joint.widths == (32, 7)
    query = torch.randn(4, 39, generator=torch.Generator().manual_seed(4))
    unit = torch.nn.functional.normalize
    sums = unit(query[:, :32]) @ unit(vocabulary.table).T + unit(query[:, 32:]) @ unit(other.table).T
    sums[:, ~vocabulary.allowed] = -torch.inf
    assert torch.equal(joint.nearest(query), sums.argmax(1))


def test_joint_refuses_other_tokenizers(vocabulary: Vocabulary) -> None:
    class Reversed:
        def encode(self, text: str) -> list[int]:
            return vocabulary.tokenizer.encode(text)[::-1]

        decode = vocabulary.tokenizer.decode

    other = Vocabulary(vocabulary.table, Reversed(), vocabulary.allowed, vocabulary.widths)
    with pytest.raises(VocabularyError, match="same ids"):
        Vocabulary.joint([vocabulary, other])


def test_a_token_that_one_tokenizer_reads_in_another_way_is_left_out(vocabulary: Vocabulary) -> None:
    odd = vocabulary.encode("cat")[0]

    class Padding:
        """Reads one token as another, as SDXL's second tokenizer does with its padding."""

        def encode(self, text: str) -> list[int]:
            return [0 if i == odd else i for i in vocabulary.tokenizer.encode(text)]

        decode = vocabulary.tokenizer.decode

    other = Vocabulary.create(vocabulary.table, Padding())
    joint = Vocabulary.joint([vocabulary, other])
    assert set(vocabulary.allowed_ids.tolist()) - set(joint.allowed_ids.tolist()) == {odd}
    assert Vocabulary.joint([vocabulary]) is vocabulary
    with pytest.raises(VocabularyError, match="same ids"):
        Vocabulary.joint([vocabulary, vocabulary.only(["cat"]), vocabulary.only(["dog"])])


def test_banned_strings_leave_the_mask_and_the_decoded_text(vocabulary: Vocabulary) -> None:
    banned = vocabulary.without(["CAT"])
    assert vocabulary.encode("cat")[0] not in banned.allowed_ids.tolist()
    assert len(banned.allowed_ids) == len(vocabulary.allowed_ids) - 1
    assert vocabulary.admits(vocabulary.encode("cat")) and not banned.admits(vocabulary.encode("cat"))
    # Over a space between two allowed words, too.
    assert not vocabulary.without(["red house"]).admits(vocabulary.encode("a red house"))


def test_a_banned_word_cannot_be_rebuilt_from_pieces() -> None:
    class Spelling:
        """Single letters that join: every word can be rebuilt."""

        def encode(self, text: str) -> list[int]:
            return [ord(c) - 97 for c in text if c.isalpha()]

        def decode(self, ids) -> str:
            return "".join(chr(97 + i) for i in ids)

    letters = Vocabulary.create(torch.eye(26), Spelling())
    word = letters.encode("gun")
    assert letters.admits(word)
    assert not letters.without(["gun"]).admits(word)
    assert letters.without(["gun"]).admits(letters.encode("fun"))


def test_words_of_the_template_are_never_banned(vocabulary: Vocabulary) -> None:
    banned = vocabulary.without(["cat"])
    assert banned.admits(vocabulary.encode("red"), PromptTemplate("a cat in {}"))
    assert not banned.admits(vocabulary.encode("cat"), PromptTemplate("a cat in {}"))


def test_bans_that_leave_nothing_or_mean_everything_are_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(VocabularyError, match="no token is left"):
        vocabulary.without(list("abcdefghijklmnopqrstuvwxyz"))
    with pytest.raises(VocabularyError, match="empty"):
        vocabulary.without([" "])


def test_a_keyword_bank_allows_only_its_tokens(vocabulary: Vocabulary) -> None:
    bank = vocabulary.only(["red house", "boat"])
    assert {vocabulary.decode([i]) for i in bank.allowed_ids.tolist()} == {"red", "house", "boat"}
    with pytest.raises(VocabularyError, match="keyword bank"):
        vocabulary.only(["unknown-word"])


def test_round_trip_is_checked_inside_the_template(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("red house")
    assert vocabulary.survives_round_trip(ids, PromptTemplate("a photo of {} on snow"))
    assert not vocabulary.survives_round_trip(ids, PromptTemplate("x{}y"))  # glued words are other words
    piece = vocabulary.tokenizer.tokens.index(PIECES[0])
    assert not vocabulary.survives_round_trip([piece, *ids])


def test_sampling_draws_allowed_ids_and_repeats_with_the_seed(vocabulary: Vocabulary) -> None:
    draw = vocabulary.sample((100, 8), torch.Generator().manual_seed(5))
    assert vocabulary.allowed[draw].all()
    assert torch.equal(draw, vocabulary.sample((100, 8), torch.Generator().manual_seed(5)))


class LineTokenizer:
    """Words with or without a space before them, and runs of line breaks, which are one token where they end a text."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def encode(self, text: str) -> list[int]:
        pieces = re.findall(r" ?\w+|\n+(?!\S)|\s", text)
        self.known += [piece for piece in pieces if piece not in self.known]
        return [self.known.index(piece) for piece in pieces]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.known[i] for i in ids).strip()


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("in", ["in"]), ("in ", ["in"]), ("in\n", ["in", "\n"]), ("in\n\n", ["in", "\n", "\n"]), ("in  ", ["in", " "]), ("", [])],
)  # fmt: skip
def test_line_breaks_before_the_slot_are_the_templates_own(prefix: str, expected: list[str]) -> None:
    tokenizer = LineTokenizer()
    vocabulary = Vocabulary(torch.zeros(99, 4), tokenizer, torch.ones(99, dtype=torch.bool), (4,))
    template = PromptTemplate(f"{prefix}{{}} by night" if prefix else "{} by night")
    assert [tokenizer.known[i] for i in vocabulary.ids_before(prefix)] == expected
    text = "old boat"
    found = vocabulary.respelled(tokenizer.encode(text), template)
    if prefix == "in":  # the words run together
        return
    assert found is not None
    assert vocabulary.decode(found) == text
    assert vocabulary.survives_round_trip(found, template)
    assert next(tokenizer.known[i] for i in found) == (" old" if prefix.endswith(" ") else "old")


@pytest.mark.parametrize(("text", "words"), [("{}", 0), ("red {} house", 2), ("{} near the river", 3)])
def test_a_template_stands_around_prompts(text: str, words: int) -> None:
    vocabulary = toy_backend().vocabulary
    template = PromptTemplate(text)
    fixed = EmbeddedTemplate.of(vocabulary, template)
    assert len(fixed) == words and fixed.room(8) == 8 - words and fixed.room(1) == 1 - words
    prompts = torch.tensor([vocabulary.encode("old boat"), vocabulary.encode("snow dog")])
    expected = torch.stack([
        vocabulary.embed(torch.tensor(vocabulary.encode(template.fill(one)))) for one in ("old boat", "snow dog")
    ])  # fmt: skip
    found = fixed.around(vocabulary.embed(prompts).double())
    assert found.dtype == torch.float64 and torch.equal(found, expected.double())
