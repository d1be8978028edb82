"""BuildRefine: planted prompts, the brute-force optimum, what it learns of its errors; and the table of words."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hardprompts import PromptInverter, run_search
from hardprompts.distillation.features import MeanFeatureMatch, match_features
from hardprompts.methods import BuildRefine, PEZRefine, word_table
from hardprompts.methods.build_refine import _Answers, _Neighborhood, _State, _Words
from hardprompts.methods.word_table import WordTable
from hardprompts.objectives import FeatureSimilarity
from hardprompts.prompts import PromptTemplate
from hardprompts.search.bound import BoundObjective
from hardprompts.search.rows import pack
from hardprompts.testing import toy_backend

BACKEND = toy_backend()
VOCABULARY = BACKEND.vocabulary
WORDS = "red green blue cat dog bird fish horse old boat river snow night house on the"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDPROMPTS_CACHE", str(tmp_path))
    return tmp_path


def tasks(targets: torch.Tensor) -> FeatureSimilarity:
    return FeatureSimilarity(BACKEND.text_encoder, targets.unsqueeze(1), torch.ones(len(targets), 1))


def off_text_targets(count: int) -> torch.Tensor:
    """Targets that no text has, as pictures are."""
    texts = VOCABULARY.sample((count, 5), torch.Generator().manual_seed(8)).tolist()
    features = BACKEND.encode_texts([VOCABULARY.decode(row) for row in texts])
    noise = torch.nn.functional.normalize(
        torch.randn(features.shape, generator=torch.Generator().manual_seed(9)), dim=1
    )
    return torch.nn.functional.normalize(features + 0.5 * noise, dim=1)


def bound(objective: FeatureSimilarity) -> BoundObjective:
    groups = torch.arange(len(objective.targets))
    return BoundObjective(objective, objective, VOCABULARY, PromptTemplate(), groups)


@pytest.mark.parametrize("tokens", [1, 2])
def test_it_finds_the_brute_force_optimum(tokens: int) -> None:
    words = VOCABULARY.only([WORDS])
    everything = torch.tensor(list(itertools.product(words.allowed_ids.tolist(), repeat=tokens)))
    objective = tasks(off_text_targets(40))
    start = words.sample((40, tokens), torch.Generator().manual_seed(0))
    results = run_search(BuildRefine(), objective, objective, words, start, groups=torch.arange(40), seed=0)
    found = 0
    for group, result in enumerate(results):
        assert result.stop_reason == "converged"
        best = objective.score(everything, torch.full((len(everything),), group)).max()
        found += result.best.score >= float(best) - 1e-5
    assert found >= 0.95 * 40, f"{found} of 40"


def test_it_betters_pez_with_refinement_at_the_same_passes() -> None:
    objective, start = tasks(off_text_targets(12)), VOCABULARY.sample((12 * 8, 6), torch.Generator().manual_seed(0))
    groups = torch.arange(12).repeat_interleave(8)
    limits = {"groups": groups, "seed": 0, "max_evaluations": 12 * 400}
    ours, theirs = (
        run_search(method, objective, objective, VOCABULARY, start, **limits) for method in (BuildRefine(), PEZRefine())
    )
    gains = [mine.best.score - other.best.score for mine, other in zip(ours, theirs, strict=True)]
    assert sum(gains) / len(gains) > 0


def test_no_gradient_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a gradient was taken")

    monkeypatch.setattr(BoundObjective, "value_and_grad", refuse)
    objective = tasks(BACKEND.encode_texts(["old boat on the river"]))
    start = VOCABULARY.sample((4, 5), torch.Generator().manual_seed(0))
    (result,) = run_search(BuildRefine(), objective, objective, VOCABULARY, start, seed=0)
    assert result.best.text == "old boat on the river"
    assert result.best.score == pytest.approx(1, abs=1e-5)


def test_it_goes_on_from_a_prompt_that_is_better_than_what_it_builds() -> None:
    objective = tasks(BACKEND.encode_texts(["old boat on the river"]))
    start = pack([VOCABULARY.encode("old boat on the river"), VOCABULARY.encode("red cat")])
    (result,) = run_search(
        BuildRefine(rounds=0, patience=1, step_size=1), objective, objective, VOCABULARY, start, seed=0
    )
    assert result.best.text == "old boat on the river"


def test_words_that_are_not_worth_their_place_are_left_out() -> None:
    objective = tasks(BACKEND.encode_texts(["red cat"]))
    start = VOCABULARY.sample((1, 8), torch.Generator().manual_seed(0))
    (result,) = run_search(BuildRefine(), objective, objective, VOCABULARY, start, seed=0, score_per_token=0.05)
    assert sorted(result.best.text.split()) == ["cat", "red"]


def test_a_word_of_several_tokens_is_used_as_a_whole() -> None:
    split = VOCABULARY.encode("snow")[0]
    words = dataclasses.replace(
        VOCABULARY.only(["red cat on the river"]), compounds=((VOCABULARY.encode("boat")[0], split),)
    )
    objective = tasks(BACKEND.encode_texts(["red boat snow"]))
    start = words.sample((1, 3), torch.Generator().manual_seed(0))
    search = BuildRefine(rounds=0)
    steps = search.steps(
        BoundObjective(objective, objective, words, PromptTemplate(), torch.zeros(1, dtype=torch.long)), words, start,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    seen = set()
    for candidates in steps:
        for row in candidates.ids.tolist():
            ids = [i for i in row if i >= 0]
            if split in ids[:-1] or (split in ids and ids[-1] == split):
                assert ids[ids.index(split) - 1] == words.compounds[0][0], "half of a word"
                seen.add(tuple(ids))
    assert seen


def test_the_score_may_be_another_than_the_similarity_of_features() -> None:
    inverter = PromptInverter(BACKEND, BuildRefine(rounds=2), judge=toy_backend())
    prompt = inverter.invert(BACKEND.encode_texts(["red boat"])[0], num_tokens=2, seed=0, token_cost=0, progress=False)
    assert sorted(prompt.text.split()) == ["boat", "red"]


def test_what_exchanges_were_wrong_by_corrects_the_next_predictions() -> None:
    objective = bound(tasks(off_text_targets(1)))
    words = _Words.read(objective, VOCABULARY)
    around = _Neighborhood(BuildRefine(), objective, words, 0, 4, torch.Generator().manual_seed(0))
    prompt = tuple((i,) for i in VOCABULARY.encode("red cat on river"))
    features, scores = objective.features(torch.tensor([sum(prompt, ())]))
    state = _State(prompt, float(scores[0]), features[0])
    changed = [(*prompt[:place], word, *prompt[place + 1 :]) for place in range(4) for word in words.words]
    changed = [one for one in dict.fromkeys(changed) if one != prompt and not set(prompt) <= set(one)]
    found, true = objective.features(torch.tensor([sum(one, ()) for one in changed]), torch.zeros(len(changed)).long())

    def error() -> float:
        predicted = around._corrected(state, around._predicted(state))
        gains = []
        for one in changed:
            (place,) = (i for i in range(4) if one[i] != prompt[i])
            value = float(predicted[place, words.places[one[place]]])
            if value > -torch.inf:
                gains.append(
                    (value - float(state.features @ around.target)) - (float(true[changed.index(one)]) - state.score)
                )
        return float(torch.tensor(gains).square().mean())

    before = error()
    around._learn(state, around._predicted(state), _Answers(changed, true.tolist(), found, lambda _: found[0]))
    assert error() < 0.7 * before


# --- the table ----------------------------------------------------------------------------


def all_words() -> list[tuple[int, ...]]:
    return [(i,) for i in VOCABULARY.allowed_ids.tolist()]


def test_the_table_has_the_features_of_each_word_by_itself() -> None:
    found = WordTable(BACKEND.text_encoder).features(all_words(), progress=False)
    expected = BACKEND.encode_texts([VOCABULARY.decode(word) for word in all_words()])
    assert torch.allclose(found, expected, atol=2e-3)  # half precision


def test_words_are_read_once_for_each_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, read = toy_backend().text_encoder, []
    whole = type(encoder).encode
    monkeypatch.setattr(type(encoder), "encode", lambda self, x: read.append(len(x)) or whole(self, x))
    WordTable.of(encoder).features(all_words()[:20], progress=False)
    WordTable.of(encoder).features(all_words(), progress=False)
    assert sum(read) == len(all_words())


def test_what_a_model_came_with_goes_before_a_file_and_before_reading(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = toy_backend().text_encoder
    own, asked = all_words(), []
    true = WordTable(BACKEND.text_encoder).features(own, progress=False)
    nearly = torch.nn.functional.normalize(true + 0.001, dim=1)
    table = WordTable(encoder)
    table.supply(lambda: asked.append(1) or (own[:-5], nearly[:-5]))
    assert not asked
    found = table.features(own, progress=False)
    table.features(own, progress=False)
    assert torch.allclose(found[:-5], nearly[:-5], atol=1e-3) and torch.allclose(found[-5:], true[-5:], atol=2e-3)
    assert len(asked) == 1
    other = WordTable(encoder)
    other.supply(lambda: (own, true.flip(0)))
    assert torch.allclose(other.features(own, progress=False), true, atol=2e-3), "features of other words were believed"


@pytest.fixture
def slow_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(word_table, "WORTH_KEEPING", -1.0)
    yield


def test_a_table_that_took_long_is_kept_for_the_next_time(
    slow_reading: None, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WordTable(BACKEND.text_encoder).features(all_words(), progress=False)
    assert len(list((own_cache / "words").iterdir())) == 1
    monkeypatch.setattr(WordTable, "_read", lambda *_: pytest.fail("read again"))
    encoder = toy_backend().text_encoder  # another model in memory, of the same content
    again = WordTable(encoder)
    assert torch.equal(again.features(all_words(), progress=False), first)


@pytest.mark.parametrize("harm", ["other features", "other words", "no file of this kind", "half"])
def test_a_file_that_is_not_of_this_model_is_not_believed(slow_reading: None, own_cache: Path, harm: str) -> None:
    expected = WordTable(BACKEND.text_encoder).features(all_words(), progress=False)
    (path,) = (own_cache / "words").iterdir()
    content = path.read_bytes()
    with safetensors.safe_open(path, "pt") as file:
        metadata, features = file.metadata(), file.get_tensor("features")
    if harm == "other features":
        content = safetensors.torch.save({"features": features.flip(0).contiguous()}, metadata)
    elif harm == "other words":
        content = safetensors.torch.save({"features": features}, {"words": "[[1000000]]"})
    path.write_bytes({"no file of this kind": b"nonsense", "half": content[: len(content) // 2]}.get(harm, content))
    assert torch.equal(WordTable(BACKEND.text_encoder).features(all_words(), progress=False), expected)


def test_a_folder_that_cannot_be_written_to_costs_no_search(
    slow_reading: None, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_cache / "words").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="HARDPROMPTS_CACHE"):
        found = WordTable(BACKEND.text_encoder).features(all_words(), progress=False)
    assert len(found) == len(all_words())


def test_what_there_is_no_time_to_read_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "FEWEST", 48)
    monkeypatch.setattr(word_table, "BATCH", 16)
    table = WordTable(BACKEND.text_encoder)
    found = table.features(all_words(), seconds=0.0, progress=False)
    true = BACKEND.encode_texts([VOCABULARY.decode(word) for word in all_words()])
    assert torch.allclose(found[:48], true[:48], atol=2e-3)
    mean = torch.nn.functional.normalize(true[:48].mean(dim=0), dim=0)
    assert float((found[48:] * true[48:]).sum(dim=1).mean()) > float((true[48:] @ mean).mean())


def test_it_searches_in_several_templates_at_once() -> None:
    templates = [PromptTemplate(text) for text in ("{}", "a house and {}", "{} in the night")]
    wanted = torch.tensor(VOCABULARY.encode("red boat"))
    parts = tuple(match_features(BACKEND, [[VOCABULARY.embed(wanted)]], template) for template in templates)
    whole = MeanFeatureMatch(parts)
    start = VOCABULARY.sample((4, 2), torch.Generator().manual_seed(0))
    groups = torch.zeros(4, dtype=torch.long)
    features = whole.features(VOCABULARY.embed(start))
    assert torch.allclose(features @ whole.mean_targets[0], whole.score(start, groups), atol=1e-5)
    (result,) = run_search(BuildRefine(), whole, whole, VOCABULARY, start, seed=0)
    assert result.best.text == "red boat"
