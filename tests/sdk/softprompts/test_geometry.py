"""Where soft tokens lie among natural ones: against brute force, and where the answer was planted."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hardprompts import PromptTemplate, VocabularyError
from hardprompts.softprompts import SoftPrompt, analyze, decode_nearest, nearest_tokens, rotated, shrunk, slerp
from hardprompts.softprompts.geometry import NEAR, Distribution, angles, natural_ids
from hardprompts.testing import PIECES, toy_backend
from hardprompts.vocabulary import Vocabulary


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vocabulary() -> Vocabulary:
    """A hundred words, of which some are longer than others."""
    found = toy_backend().vocabulary
    table = found.table * torch.linspace(0.5, 2, len(found))[:, None]
    return Vocabulary(table, found.tokenizer, found.allowed, found.widths)


class Numbers:
    """Tokens spelt as their ids."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def numbered(table: torch.Tensor) -> Vocabulary:
    return Vocabulary(table, Numbers(), torch.ones(len(table), dtype=torch.bool), (table.shape[1],))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a @ b) / (a.norm() * b.norm()))


def degrees(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine(a, b)))))


# --- the report ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2**25, 150])
def test_the_report_equals_brute_force(vocabulary: Vocabulary, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardprompts.softprompts.geometry.MAX_TABLE_ENTRIES", chunk)
    soft = drawn(5, 32) * torch.tensor([0.1, 1, 2, 3, 10])[:, None]
    report = analyze(soft, vocabulary, neighbors=4, natural_tokens=None)
    ids = vocabulary.allowed_ids.tolist()
    rows = {i: vocabulary.table[i] for i in ids}
    lengths = [float(row.norm()) for row in rows.values()]
    assert (report.dim, report.vocabulary_size, report.natural_tokens) == (32, len(ids), len(ids))
    for i, token in enumerate(report.tokens):
        assert token.norm == pytest.approx(float(soft[i].norm()), rel=1e-5)
        assert token.norm_rank == pytest.approx(sum(length < token.norm for length in lengths) / len(ids))
        by_cosine = sorted(ids, key=lambda j: -cosine(soft[i], rows[j]))[:4]
        by_l2 = sorted(ids, key=lambda j: float((soft[i] - rows[j]).norm()))[:4]
        assert [n.token_id for n in token.by_cosine] == by_cosine
        assert [n.token_id for n in token.by_l2] == by_l2
        assert token.angle == pytest.approx(degrees(soft[i], rows[by_cosine[0]]), abs=1e-3)
        for neighbor in (*token.by_cosine, *token.by_l2):
            assert neighbor.text == vocabulary.decode([neighbor.token_id])
            assert neighbor.cosine == pytest.approx(cosine(soft[i], rows[neighbor.token_id]), abs=1e-6)
            assert neighbor.distance == pytest.approx(float((soft[i] - rows[neighbor.token_id]).norm()), rel=1e-5)
    natural = [min(degrees(rows[i], rows[j]) for j in ids if j != i) for i in ids]
    assert report.natural_angles.minimum == pytest.approx(min(natural), abs=1e-3)
    assert report.natural_angles.maximum == pytest.approx(max(natural), abs=1e-3)
    assert report.natural_share_near == pytest.approx(sum(a <= NEAR for a in natural) / len(ids))
    assert report.vocabulary_norms.maximum == pytest.approx(max(lengths), rel=1e-5)
    assert report.norm_ratio == pytest.approx(float(soft.norm(dim=1).median()) / report.vocabulary_norms.median)


def test_planted_neighbors_are_counted() -> None:
    # Ten pairs of tokens 20 degrees apart, and twenty tokens at right angles to all others.
    axes = torch.eye(40)
    turned = axes[:10] * math.cos(math.radians(20)) + axes[10:20] * math.sin(math.radians(20))
    table = torch.cat([axes[:10], turned, axes[20:]]) * torch.linspace(1, 5, 40)[:, None]
    soft = torch.stack(
        [
            axes[30] * 100,  # a token, a hundred times as long
            axes[31] + axes[32],  # 45 degrees from two
            axes[33] * math.cos(math.radians(29)) + axes[11] * math.sin(math.radians(29)),
            axes[33] * math.cos(math.radians(31)) + axes[15] * math.sin(math.radians(31)),
        ]
    )
    report = analyze(soft, numbered(table), natural_tokens=None)
    assert report.natural_share_near == 0.5
    assert report.natural_angles.minimum == pytest.approx(20, abs=1e-4)
    assert report.natural_angles.median == pytest.approx((20 + 90) / 2, abs=1e-3)
    assert [token.angle for token in report.tokens] == pytest.approx([0, 45, 29, 31], abs=1e-3)
    assert report.share_near == 0.5
    assert [token.norm_rank for token in report.tokens][:2] == [
        1.0,
        pytest.approx(sum(n < 2**0.5 for n in torch.linspace(1, 5, 40)) / 40),
    ]


def test_tokens_of_the_vocabulary_are_at_home_in_it(vocabulary: Vocabulary) -> None:
    ids = natural_ids(vocabulary, 6)
    report = analyze(vocabulary.embed(ids), vocabulary)
    assert [token.by_cosine[0].token_id for token in report.tokens] == ids.tolist()
    assert [token.by_l2[0].token_id for token in report.tokens] == ids.tolist()
    assert max(token.angle for token in report.tokens) < 1e-3 and report.share_near == 1


def test_natural_tokens_are_spread_over_the_vocabulary(vocabulary: Vocabulary) -> None:
    allowed = vocabulary.allowed_ids
    for count in (1, 2, 10, len(allowed), 10_000):
        ids = natural_ids(vocabulary, count)
        assert len(ids) == len(set(ids.tolist())) == min(count, len(allowed))
        assert vocabulary.allowed[ids].all() and ids[0] == allowed[0]
    assert natural_ids(vocabulary, 10)[-1] == allowed[-1]
    report = analyze(drawn(2, 32), vocabulary, natural_tokens=10)
    assert report.natural_tokens == 10


def test_nearest_tokens_begin_with_the_nearest(vocabulary: Vocabulary) -> None:
    soft = drawn(20, 32, seed=3) * 2
    for metric in ("cosine", "l2"):
        found = nearest_tokens(soft, vocabulary, 3, metric)
        assert torch.equal(found[:, 0], vocabulary.nearest(soft, metric))
        assert all(len(set(row)) == 3 for row in found.tolist())


def test_the_report_is_plain_json(vocabulary: Vocabulary) -> None:
    soft = torch.cat([drawn(2, 32), torch.zeros(1, 32)])  # a token of length 0 has no direction
    report = analyze(soft, vocabulary, neighbors=1000)
    values = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values == json.loads(json.dumps(report.to_dict()))
    assert len(values["tokens"]) == 3 and len(values["tokens"][0]["by_cosine"]) == report.vocabulary_size
    assert values["tokens"][2]["angle"] == pytest.approx(90, abs=30) and values["norm_ratio"] == report.norm_ratio


def test_quantiles_are_those_of_torch() -> None:
    values = drawn(1001)
    expected = torch.quantile(values.double(), torch.tensor([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], dtype=torch.float64))
    found = Distribution.of(values)
    assert list(vars(found).values()) == pytest.approx(expected.tolist())
    assert Distribution.of(torch.tensor([3.0])).percent_95 == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"neighbors": 0}, "at least 1"),
        ({"natural_tokens": 0}, "at least 1"),
        ({"embeddings": torch.zeros(2, 7)}, "have width 7, and the vocabulary's have 32"),
    ],
)
def test_wrong_numbers_are_refused(vocabulary: Vocabulary, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(**{"embeddings": drawn(2, 32), "vocabulary": vocabulary, **arguments})


def test_vocabularies_to_compare_with_are_of_one_encoder(vocabulary: Vocabulary) -> None:
    joint = Vocabulary.joint([vocabulary, vocabulary])
    with pytest.raises(ValueError, match="one at a time"):
        analyze(drawn(2, 64), joint)
    with pytest.raises(ValueError, match="fewer than two"):
        analyze(drawn(2, 32), vocabulary.only(["cat"]))


def test_a_vocabulary_as_large_as_clips_takes_seconds() -> None:
    large = numbered(drawn(49408, 64))
    start = time.process_time()
    report = analyze(drawn(16, 64) * 3, large)
    assert time.process_time() - start < 20 and report.vocabulary_size == 49408


# --- paths --------------------------------------------------------------------------------


def test_shrinking_keeps_directions(vocabulary: Vocabulary) -> None:
    soft = drawn(3, 32)
    found = shrunk(soft, torch.tensor([1.0, 3.0, 0.5]))
    assert found.shape == (3, 3, 32) and torch.equal(found[0], soft)
    assert torch.allclose(found.norm(dim=2), soft.norm(dim=1) / torch.tensor([[1], [3], [0.5]]))
    assert float(angles(found, soft.expand(3, -1, -1)).max()) < 1e-3
    for factors in ([0.0], [1, -1.0], [math.nan]):
        with pytest.raises(ValueError, match="above 0"):
            shrunk(soft, torch.tensor(factors))


def test_turning_is_by_as_many_degrees_as_asked() -> None:
    soft, target = drawn(4, 16) * 5, drawn(4, 16, seed=1)
    way = angles(soft, target)
    steps = torch.tensor([0.0, 10, 30, 60, 180])
    found = rotated(soft, target, steps)
    for step, turned in zip(steps, found, strict=True):
        assert torch.allclose(turned.norm(dim=1), soft.norm(dim=1), rtol=1e-5)
        assert torch.allclose(angles(soft, turned), torch.minimum(step.expand(4), way), atol=1e-3)
        # On the shortest way: what is left is the rest.
        assert torch.allclose(angles(turned, target), (way - step).clamp_min(0), atol=1e-3)
    assert torch.allclose(found[0], soft, atol=1e-6)
    assert torch.allclose(
        found[-1], target / target.norm(dim=1, keepdim=True) * soft.norm(dim=1, keepdim=True), atol=1e-5
    )


def test_turning_in_the_plane_by_hand() -> None:
    soft, target = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0.0, 7, 0]])
    found = rotated(soft, target, torch.tensor([30.0, 90]))
    assert torch.allclose(found[:, 0], torch.tensor([[3**0.5, 1, 0], [0, 2, 0]]), atol=1e-6)
    assert torch.allclose(slerp(soft, target, torch.tensor([1 / 3, 1]))[:, 0], found[:, 0], atol=1e-6)


def test_fractions_are_of_each_tokens_own_way() -> None:
    soft, target = drawn(4, 16), drawn(4, 16, seed=1)
    way = angles(soft, target)
    for fraction, turned in zip((0.0, 0.25, 1.0), slerp(soft, target, torch.tensor([0, 0.25, 1])), strict=True):
        assert torch.allclose(angles(soft, turned), way * fraction, atol=1e-3)


def test_a_token_at_its_target_stays(vocabulary: Vocabulary) -> None:
    soft = drawn(2, 8)
    assert torch.allclose(rotated(soft, soft * 3, torch.tensor([0.0, 45])), soft.expand(2, -1, -1), atol=1e-6)


def test_ways_that_do_not_exist_are_refused() -> None:
    soft = drawn(2, 8)
    one = torch.tensor([1.0])
    with pytest.raises(ValueError, match="opposite"):
        rotated(soft, -soft, one)
    with pytest.raises(ValueError, match="length 0"):
        slerp(soft, torch.zeros(2, 8), one)
    with pytest.raises(ValueError, match="length 0"):
        slerp(torch.zeros(2, 8), soft, one)
    for wrong in (-1.0, 181.0, math.nan):
        with pytest.raises(ValueError, match="from 0 to 180"):
            rotated(soft, soft, torch.tensor([wrong]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        slerp(soft, soft, torch.tensor([1.1]))


def test_gradients_flow_along_the_paths() -> None:
    soft = drawn(2, 8).double().requires_grad_()
    target = drawn(2, 8, seed=1).double()
    steps = torch.tensor([10.0, 20], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotated(x, target, steps), [soft])
    assert torch.autograd.gradcheck(lambda x: shrunk(x, steps), [soft])


def test_small_angles_are_exact() -> None:
    start = torch.tensor([1.0, 0])
    for angle in (1e-3, 1e-2, 0.1, 90, 179.9):
        end = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
        assert float(angles(start, end)) == pytest.approx(angle, rel=1e-3)


# --- the nearest tokens as text -----------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_planted_words_are_decoded(vocabulary: Vocabulary, metric: str) -> None:
    ids = vocabulary.encode("red house near the river")
    soft = vocabulary.embed(torch.tensor(ids)) + drawn(len(ids), 32) * 0.05
    found = decode_nearest(soft, vocabulary, metric, PromptTemplate("a photo of {}"))
    assert (found.text, found.token_ids, found.metric) == ("red house near the river", tuple(ids), metric)
    assert found.survives


def test_length_matters_for_distance_alone(vocabulary: Vocabulary) -> None:
    soft = drawn(6, 32)
    assert decode_nearest(soft * 50, vocabulary).text == decode_nearest(soft, vocabulary).text
    assert decode_nearest(soft * 50, vocabulary, "l2").text != decode_nearest(soft, vocabulary, "l2").text


def test_two_encoders_are_decoded_together(vocabulary: Vocabulary) -> None:
    other = Vocabulary(drawn(len(vocabulary), 7, seed=4), vocabulary.tokenizer, vocabulary.allowed, (7,))
    ids = torch.tensor(vocabulary.encode("old boat"))
    prompt = SoftPrompt({"text_encoder": vocabulary.embed(ids), "text_encoder_2": other.embed(ids)})
    assert decode_nearest(prompt, Vocabulary.joint([vocabulary, other])).text == "old boat"
    with pytest.raises(ValueError, match="has width 39, and the vocabulary has 32"):
        decode_nearest(prompt, vocabulary)


def test_a_text_that_is_encoded_otherwise_says_so(vocabulary: Vocabulary) -> None:
    everything = vocabulary.unrestricted()
    piece = vocabulary.tokenizer.tokens.index(PIECES[0])  # type: ignore[attr-defined]
    ids = [piece, *vocabulary.encode("red house")]  # "ca" runs into "red": no word
    found = decode_nearest(vocabulary.embed(torch.tensor(ids)), everything)
    assert found.nearest_ids == tuple(ids) and not found.survives
    assert found.token_ids == tuple(vocabulary.encode(found.text))
    with pytest.raises(VocabularyError, match="runs together with the template"):
        decode_nearest(vocabulary.embed(torch.tensor([piece])), everything, template=PromptTemplate("a {} red"))


def test_a_file_can_be_compared_at_once(tmp_path: Path, vocabulary: Vocabulary) -> None:
    SoftPrompt({"text_encoder": drawn(3, 32)}, name="<a>").save(tmp_path / "a.bin", format="diffusers")
    prompt = SoftPrompt.from_file(tmp_path / "a.bin")
    assert len(analyze(prompt.embeddings["text_encoder"], vocabulary).tokens) == 3
