import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from hardprompts import (
    BackendError,
    DistilledPrompt,
    FileFormatError,
    HardPrompt,
    PromptDistiller,
    SoftPrompt,
    TemplateError,
    UnknownName,
    VocabularyError,
)
from hardprompts.cli import app
from hardprompts.learning import descend, learn_soft_prompt, learn_soft_prompts
from hardprompts.matching import FeatureMatch, MeanMatch, match_features
from hardprompts.methods import PEZ
from hardprompts.methods.selection import Selection
from hardprompts.originals import (
    Teacher,
    encoders_for,
    phrases_of,
    soft_prompt_of,
    windows_of,
    without_phrase,
    words_of,
)
from hardprompts.portability import nearest_above, portability_report
from hardprompts.prompts import PromptTemplate
from hardprompts.search import pack, run_search
from hardprompts.softprompts.faithfulness import Faithfulness, Share
from hardprompts.testing import ToyEncoder, toy_backend

BACKEND = toy_backend()
TOWER = BACKEND.text_encoder
assert isinstance(TOWER, ToyEncoder)
VOCABULARY = BACKEND.vocabulary
DISTILLER = PromptDistiller(BACKEND)
QUICK: dict[str, Any] = {"restarts": 6, "progress": False, "seed": 0}
LONG = "the old red house near a small river in winter night"


def embedded(text: str) -> torch.Tensor:
    return VOCABULARY.embed(torch.tensor(VOCABULARY.encode(text), dtype=torch.long))


def noisy(text: str, size: float, seed: int = 0) -> torch.Tensor:
    rows = embedded(text)
    return rows + size * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))


def similarity(text: str, other: str, template: str = "{}") -> float:
    features = BACKEND.encode_texts([template.replace("{}", one) for one in (text, other)])
    return float(features[0] @ features[1])


# --- soft prompts ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["boat", "red house", "old boat on river"])
@pytest.mark.parametrize("inside", ["{}", "the {} in snow"])
def test_the_embeddings_of_words_are_these_words(text: str, inside: str) -> None:
    prompt = DISTILLER.distill(embedded(text), inside=inside, **QUICK)
    assert isinstance(prompt, DistilledPrompt) and isinstance(prompt, HardPrompt)
    assert prompt.text == text and prompt.score == pytest.approx(1, abs=1e-5) and prompt.template == inside
    found = prompt.faithfulness
    assert found is not None and found.held_out is not None
    assert found.matched.value == pytest.approx(1, abs=1e-4) and found.held_out.value == pytest.approx(1, abs=1e-4)
    assert VOCABULARY.encode(prompt.filled) == VOCABULARY.encode(inside.replace("{}", text))
    assert len(prompt.attributions) == len(prompt.tokens) == len(text.split())
    assert prompt.candidates[0].text == text and prompt.provenance["match"] == "features"


def test_a_soft_prompt_that_is_far_from_words_is_decoded_by_what_it_does() -> None:
    soft = noisy("red house near river", 3.0)
    found = {}
    for method in ("nearest", "nearest-l2", "pez+refine"):
        prompt = PromptDistiller(BACKEND, method).distill(soft, num_tokens=4, **QUICK)
        assert prompt.faithfulness is not None and prompt.faithfulness.held_out is not None
        found[method] = prompt.faithfulness
    ours = found.pop("pez+refine")
    assert ours.matched.value > max(other.matched.value for other in found.values()) + 0.1
    assert ours.held_out.value > max(other.held_out.value for other in found.values())


def test_what_is_found_is_the_best_that_there_is() -> None:
    soft = noisy("red house", 2.0)
    bank = "red house old boat river snow night cat".split()
    prompt = DISTILLER.distill(soft, num_tokens=2, vocabulary=bank, **QUICK)
    match = match_features(BACKEND, [[soft]])
    texts = [" ".join(words) for count in (1, 2) for words in itertools.product(bank, repeat=count)]
    best = min(match.distances(texts, 0))
    assert 1 - prompt.score == pytest.approx(best, abs=1e-5)


def test_the_faithfulness_is_the_share_of_the_gap_that_is_closed() -> None:
    soft, template = noisy("old boat", 1.0), "the {} in snow"
    prompt = DISTILLER.distill(soft, num_tokens=2, inside=template, held_out=["big {}"], **QUICK)
    own = prompt.faithfulness
    assert own is not None and own.held_out is not None and own.held_out.templates == ("big {}",)
    for share, inside in ((own.matched, template), (own.held_out, "big {}")):
        before, after = (embedded(part) for part in inside.split("{}"))
        row = torch.cat([before, soft, after])[None]
        target = torch.nn.functional.normalize(TOWER.encode(row), dim=1)[0]
        texts = [inside.replace("{}", prompt.text), inside.replace("{}", "")]
        distances = 1 - BACKEND.encode_texts(texts) @ target
        assert share.distance == pytest.approx(float(distances[0]), abs=1e-5)
        assert share.empty == pytest.approx(float(distances[1]), abs=1e-5)
        assert share.value == pytest.approx(1 - share.distance / min(share.empty, share.random))
    again = DISTILLER.faithfulness(prompt.text, soft, num_tokens=2, inside=template, held_out=["big {}"])
    assert again.matched.value == pytest.approx(own.matched.value, abs=1e-5)


def test_faithfulness_may_be_negative_and_never_divides_by_nothing() -> None:
    assert Share("q", ("{}",), 2.0, 1.0, 3.0).value == -1
    assert Share("q", ("{}",), 0.0, 0.0, 0.0).value == 1
    away = DISTILLER.faithfulness("snow snow snow", embedded("red house"), num_tokens=2)
    itself = DISTILLER.faithfulness("red house", embedded("red house"), num_tokens=2)
    assert itself.matched.value == pytest.approx(1, abs=1e-4) and away.matched.value < 0.5
    assert "held out 1.00" in str(itself)


def test_it_is_stored_as_any_hard_prompt_and_read_back_whole(tmp_path: Path) -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=3, max_steps=3, **QUICK)
    prompt.save_pretrained(tmp_path)
    plain, whole = HardPrompt.from_pretrained(tmp_path), DistilledPrompt.from_pretrained(tmp_path)
    assert plain.to_dict() == prompt.to_dict() and isinstance(whole, DistilledPrompt)
    assert whole.faithfulness == prompt.faithfulness and whole.lost == prompt.lost
    json.dumps(prompt.to_dict(), allow_nan=False)
    broken = DistilledPrompt("a", (0,), 0.0, provenance={"faithfulness": {"matched": 3}, "lost": [{"text": "a"}]})
    for name in ("faithfulness", "lost"):
        with pytest.raises(FileFormatError):
            getattr(broken, name)
    assert DistilledPrompt("a", (0,), 0.0).faithfulness is None and DistilledPrompt("a", (0,), 0.0).lost == ()
    with pytest.raises(FileFormatError, match="not finite"):
        Faithfulness.from_dict(
            {"matched": {"quantity": "", "templates": [], "distance": float("nan"), "empty": 1, "random": 1}}
        )


def test_several_templates_count_alike_and_the_text_survives_in_each() -> None:
    soft, templates = noisy("red house", 1.0), ["{}", "the {} in snow", "big {}"]
    prompt = DISTILLER.distill(soft, num_tokens=3, inside=templates, **QUICK)
    alone = DISTILLER.distill(soft, num_tokens=3, inside="{}", **QUICK)
    parts = [match_features(BACKEND, [[soft]], PromptTemplate(text)) for text in templates]
    mean = MeanMatch(tuple(parts))
    assert prompt.score == pytest.approx(1 - sum(p.distances([prompt.text], 0)[0] for p in parts) / 3, abs=1e-5)
    assert mean.distances([prompt.text], 0) <= [d + 1e-6 for d in mean.distances([alone.text], 0)]
    for text in templates:
        assert VOCABULARY.survives_round_trip(prompt.token_ids, PromptTemplate(text))
    assert prompt.template == "{}" and prompt.faithfulness is not None
    assert prompt.faithfulness.matched.templates == tuple(templates)
    assert not set(templates) & set(prompt.faithfulness.held_out.templates)  # type: ignore[union-attr]


def test_each_soft_prompt_of_several_gets_its_own() -> None:
    texts = ["red house", "old boat on river", "cat", "night rain"]
    prompts = DISTILLER.distill_each([embedded(text) for text in texts], batch_tasks=3, **QUICK)
    assert [prompt.text for prompt in prompts] == texts
    assert DISTILLER.distill_each([], **QUICK) == []
    for method in ("nearest", "nearest-l2"):
        nearest = PromptDistiller(BACKEND, method).distill_each([embedded(text) for text in texts], **QUICK)
        assert [prompt.text for prompt in nearest] == texts


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
    found = prompt.to_hard(BACKEND, **QUICK)
    assert found.text == DISTILLER.distill(prompt, **QUICK).text == "old boat"
    assert prompt.to_hard(BACKEND, 1, method="nearest", **QUICK).method == "nearest"


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


# --- long prompts ---------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 11), (0.7, 8), (0.5, 6), (0.3, 3), (0.1, 1), (0.01, 1)])
def test_the_ratio_is_of_the_original_s_tokens(ratio: float, expected: int) -> None:
    assert DISTILLER._num_tokens(Teacher.of(LONG, VOCABULARY, "toy"), _options(ratio=ratio)) == expected
    if expected < 8:
        prompt = DISTILLER.distill(LONG, ratio=ratio, max_steps=2, **QUICK)
        assert 1 <= len(prompt.token_ids) <= expected


def _options(**options: Any) -> Any:
    from hardprompts.distiller import _Options

    return _Options(**options)


def test_more_tokens_keep_more() -> None:
    shares = []
    for ratio in (0.1, 0.3, 0.7):
        found = DISTILLER.distill(LONG, ratio=ratio, **QUICK).faithfulness
        assert found is not None
        shares.append(found.matched.value)
    assert shares == sorted(shares) and shares[-1] > 0.9


def test_nothing_worse_than_the_original_s_own_best_words_is_returned() -> None:
    selected = PromptDistiller(BACKEND, "selection").distill(LONG, num_tokens=4, **QUICK)
    assert set(selected.text.split()) <= set(LONG.split())
    order = [LONG.split().index(word) for word in selected.text.split()]
    assert order == sorted(order)
    for limits in ({"max_steps": 0}, {"max_steps": 3}, {}):
        assert DISTILLER.distill(LONG, num_tokens=4, **limits, **QUICK).score >= selected.score - 1e-6
    whole = DISTILLER.distill("red house", num_tokens=5, **QUICK)
    assert whole.text == "red house" and whole.faithfulness is not None
    assert whole.faithfulness.matched.value == pytest.approx(1, abs=1e-4)


def test_selection_takes_the_word_that_helps_most_at_each_step() -> None:
    match = match_features(BACKEND, [[embedded(LONG)]])
    words = words_of(LONG, VOCABULARY)
    (result,) = run_search(Selection(words, 3), match, match, VOCABULARY, pack([words[0]]), top_k=50)
    chosen: list[int] = []
    for _ in range(3):
        texts = {
            index: " ".join(LONG.split()[i] for i in sorted({*chosen, index}))
            for index in range(len(words))
            if index not in chosen
        }
        distances = dict(zip(texts, match.distances(list(texts.values()), 0), strict=True))
        chosen.append(min(distances, key=distances.__getitem__))
    assert result.best.text == " ".join(LONG.split()[i] for i in sorted(chosen)) and result.steps == 3
    with pytest.raises(ValueError, match="num_tokens"):
        Selection(words, 0)


def test_a_prompt_over_the_context_is_taken_window_by_window() -> None:
    text = " , ".join(["red house near river", "old boat on ocean", "cat in snow", "big tree in night rain"] * 3)
    assert len(VOCABULARY.encode(text)) == 48 and TOWER.max_tokens == 16
    pieces = windows_of(text, 16, VOCABULARY)
    assert [i for piece in pieces for i in piece] == VOCABULARY.encode(text)
    assert all(len(piece) <= 16 for piece in pieces) and len(pieces) <= 5
    texts = [VOCABULARY.decode(piece) for piece in pieces]
    expected = sum(BACKEND.encode_texts([one])[0] * len(ids) for one, ids in zip(texts, pieces, strict=True))
    match = match_features(BACKEND, [Teacher.of(text, VOCABULARY, "toy").windows(16, VOCABULARY)])
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
    assert without_phrase("a cat, on a mat, in snow", 1) == "a cat, in snow"
    assert phrases_of("one two three four five", 2) == ["one two", "three four", "five"]
    assert without_phrase("one two three four five", 1, 2) == "one two five"


@pytest.mark.parametrize(
    "text", ["---\nred: house\n- [boat]\n...", "<b>red</b> <script>alert('house')</script> boat", "red house {} `boat`"]
)
def test_any_text_may_be_distilled(text: str, tmp_path: Path) -> None:
    prompt = DISTILLER.distill(text + " red house boat", num_tokens=2, max_steps=1, **QUICK)
    assert prompt.provenance["original"].startswith(text)
    prompt.save_pretrained(tmp_path)
    assert DistilledPrompt.from_pretrained(tmp_path) == prompt
    assert "<script>" not in prompt._repr_html_()


def test_faithfulness_is_held_out_where_there_is_room_only() -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=16, held_out=["the {}", "{} in the night"], max_steps=0, **QUICK)
    assert prompt.faithfulness is not None and prompt.faithfulness.held_out is None
    assert "not measured" in str(prompt.faithfulness)


def test_a_hard_prompt_is_taken_whole() -> None:
    hard = HardPrompt("red house", (0, 1), 0.0, template="the {} in snow")
    prompt = DISTILLER.distill(hard, num_tokens=5, **QUICK)
    assert prompt.text == "the red house in snow"


# --- the front door -------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_prompt_and_nothing_is_kept_between_calls() -> None:
    before = dict(vars(DISTILLER))
    options = {**QUICK, "num_tokens": 3, "max_steps": 5}
    first, second = (DISTILLER.distill(noisy("old boat on river", 2.0), **options) for _ in range(2))
    assert first.candidates == second.candidates and vars(DISTILLER) == before


@pytest.mark.parametrize("what", [LONG, "soft"])
def test_cancelling_keeps_the_best(what: str) -> None:
    original = what if what == LONG else noisy("red house", 2.0)
    steps = []

    def stop(progress: Any) -> bool:
        steps.append(progress.step)
        return len(steps) == 2

    prompt = DISTILLER.distill(original, num_tokens=4, callback=stop, **QUICK)
    assert len(steps) == 2 and prompt.stop_reason == "cancelled" and prompt.text


def test_budgets_are_for_the_whole_call() -> None:
    prompt = DISTILLER.distill(LONG, num_tokens=4, max_evaluations=300, **QUICK)
    assert 100 < prompt.evaluations < 900  # a step is finished once it is begun
    assert DISTILLER.distill(LONG, num_tokens=4, deadline=0.0, **QUICK).text
    banned = DISTILLER.distill(LONG, num_tokens=4, banned=["RED", "ver"], max_steps=30, **QUICK)
    assert "red" not in banned.text and "ver" not in banned.text
    bank = DISTILLER.distill(LONG, num_tokens=3, vocabulary=["boat house", "snow"], max_steps=30, **QUICK)
    assert set(bank.text.split()) <= {"boat", "house", "snow"}


@pytest.mark.parametrize(
    ("what", "options", "error", "message"),
    [
        ("", {}, ValueError, "no tokens"),
        ("zebra", {}, ValueError, "no tokens"),
        (torch.zeros(0, 32), {}, ValueError, "not empty"),
        (torch.full((2, 32), float("nan")), {}, ValueError, "NaN"),
        (torch.zeros(2, 3, 4), {}, ValueError, "tokens, dim"),
        (torch.zeros(2, 33), {}, BackendError, "32 wide"),
        (SoftPrompt({"clip_l": torch.zeros(1, 768)}), {}, BackendError, "SD 1.x"),
        (Path("nowhere.safetensors"), {}, FileFormatError, "nowhere"),
        (torch.zeros(17, 32), {"num_tokens": 2}, TemplateError, "17 tokens"),
        (LONG, {"num_tokens": 17}, TemplateError, "room for 16"),
        (LONG, {"num_tokens": 0}, ValueError, "num_tokens"),
        (LONG, {"num_tokens": 2, "ratio": 0.5}, ValueError, "not both"),
        (LONG, {"ratio": 0.0}, ValueError, "ratio"),
        (LONG, {"ratio": 1.5}, ValueError, "ratio"),
        (LONG, {"inside": "no slot"}, TemplateError, "0 slots"),
        (LONG, {"inside": []}, TemplateError, "no template"),
        (LONG, {"match": "noise"}, BackendError, "no denoiser"),
        (LONG, {"match": "hidden_states"}, BackendError, "features only"),
        (LONG, {"banned": list("abcdefghijklmnopqrstuvwxyz")}, VocabularyError, "no token is left"),
        (LONG, {"num_tokens": 1, "initial_prompt": "red house"}, VocabularyError, "2 tokens"),
        (LONG, {"token_cost": -1.0}, ValueError, "token_cost"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_with_their_value(what: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        DISTILLER.distill(what, **{**QUICK, **options})


def test_baselines_are_for_what_they_can_decode_and_unknown_methods_are_named() -> None:
    with pytest.raises(ValueError, match="soft prompt has none"):
        PromptDistiller(BACKEND, "selection").distill(embedded("red"), **QUICK)
    with pytest.raises(UnknownName, match="pez"):
        PromptDistiller(BACKEND, "pezz")
    assert "learning_rate=0.3" in PromptDistiller(BACKEND, PEZ(learning_rate=0.3)).method


# --- objectives -----------------------------------------------------------------------------


def test_the_gradient_of_the_mean_over_templates_is_that_of_finite_differences() -> None:
    soft = noisy("red house", 1.0).double()
    parts = []
    for text in ("{}", "the {} in snow"):
        match = match_features(BACKEND, [[soft.float()]], PromptTemplate(text))
        parts.append(FeatureMatch(TOWER, match.targets, match.weights, match.template))
    mean, groups = MeanMatch(tuple(parts)), torch.zeros(1, dtype=torch.long)
    at = embedded("old boat")[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(mean(at, groups).loss.sum(), at)
    way = torch.randn(at.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [float(mean(at + step * way, groups).loss) for step in (-1e-2, 1e-2)]
    assert float((grad * way).sum()) == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=2e-2, abs=1e-5)
    evaluation = mean(at.detach(), groups)
    assert evaluation.score is not None
    ids = torch.tensor([VOCABULARY.encode("old boat")])
    torch.testing.assert_close(evaluation.score, mean.score(ids, groups))
    assert float(mean.score(ids, groups)) == pytest.approx(1 - mean.distances(["old boat"], 0)[0], abs=1e-5)


# --- learning and carrying over -------------------------------------------------------------


def test_a_learned_soft_prompt_does_at_least_what_the_right_words_do() -> None:
    pictures = [TOWER.picture("red house"), TOWER.picture("old boat on river")]
    found = learn_soft_prompts(BACKEND, pictures, num_tokens=2, max_steps=120, names=["a", "b"], seed=3)
    for picture, soft in zip(pictures, found, strict=True):
        target = BACKEND.encode_images([picture])[0]
        match = match_features(BACKEND, [[soft.embeddings["text_encoder"]]])
        assert float(match.mean_targets[0] @ target) == pytest.approx(1 - float(soft.metadata["loss"]), abs=1e-4)
        assert float(match.mean_targets[0] @ target) > 0.95
    assert [soft.name for soft in found] == ["a", "b"] and found[0].metadata["learned_by"] == "feature similarity"
    again = learn_soft_prompt(BACKEND, pictures[0], 2, max_steps=20, seed=3)
    assert torch.equal(
        again.embeddings["text_encoder"],
        learn_soft_prompt(BACKEND, pictures[0], 2, max_steps=20, seed=3).embeddings["text_encoder"],
    )
    decoded = DISTILLER.distill(found[0], num_tokens=4, **QUICK)
    assert decoded.faithfulness is not None and decoded.faithfulness.matched.value > 0.8


def test_training_starts_from_words_stops_when_told_and_keeps_the_best_step() -> None:
    picture = TOWER.picture("red house")
    start = learn_soft_prompt(BACKEND, picture, 2, initial_prompt="red house", max_steps=0)
    assert torch.equal(start.embeddings["text_encoder"], embedded("red house"))
    seen = []
    learn_soft_prompt(
        BACKEND, picture, 2, max_steps=50, callback=lambda step, losses: bool(seen.append(losses)) or step == 4
    )
    assert len(seen) == 5

    def rising(embeddings: torch.Tensor, groups: torch.Tensor) -> Any:
        from hardprompts.objectives import Evaluation

        return Evaluation(-(embeddings - embedded("red")).square().sum(dim=(1, 2)))

    calls = []
    best, losses = descend(
        rising, embedded("red")[None], VOCABULARY, max_steps=10, judge_every=5,
        judge=lambda soft, groups: calls.append(0) or (soft - embedded("red")).square().sum(dim=(1, 2)),
    )  # fmt: skip
    assert torch.equal(best[0], embedded("red")) and losses == [0.0] and len(calls) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_tokens": 0}, ValueError, "num_tokens"),
        ({"num_tokens": 17}, TemplateError, "room for 16"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"initial_prompt": "red house near"}, VocabularyError, "3 tokens"),
        ({"inside": "nothing"}, TemplateError, "slots"),
    ],
)
def test_bad_training_arguments_are_refused(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        learn_soft_prompt(BACKEND, TOWER.picture("red"), **{"num_tokens": 2, **options})


def test_the_portability_report_tells_what_text_and_soft_prompt_are_worth_elsewhere() -> None:
    other = toy_backend()
    soft = noisy("red house", 4.0)
    picture = TOWER.picture("red house")
    hard = HardPrompt("red house", tuple(VOCABULARY.encode("red house")), 1.0)
    report = portability_report(hard, embedded("red house"), BACKEND, [other], picture)
    assert [row.model for row in report.rows] == ["toy", "toy"] and report.nearest_text == "red house"
    for row in report.rows:
        assert row.hard == pytest.approx(row.nearest) and row.hard_share == pytest.approx(1, abs=1e-4)
    far = portability_report(hard, soft, BACKEND, [other], picture)
    assert far.rows[1].hard > far.rows[1].nearest and str(far).count("\n") == 3
    assert nearest_above(embedded("red house"), VOCABULARY) == "red house"
    assert nearest_above(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), VOCABULARY) == ""


# --- the command ----------------------------------------------------------------------------


def command(*words: str | Path) -> Any:
    result = CliRunner().invoke(app, ["distill", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_distills_prompts_and_files(toy_plugin: str, tmp_path: Path) -> None:
    quick = ("--model", "toy", "--steps", "3", "--restarts", "4", "--seed", "1")
    text = command(LONG, *quick, "--tokens", "3", "--save", tmp_path / "out")
    assert text.exit_code == 0 and text.stdout.count("\n") == 1 and "faithfulness" in text.stderr
    stored = DistilledPrompt.from_pretrained(tmp_path / "out")
    assert stored.filled == text.stdout.strip() and len(stored.token_ids) <= 3
    save_file({"<red-boat>": embedded("red boat")}, tmp_path / "red.safetensors")
    found = command(tmp_path / "red.safetensors", *quick, "--inside", "the {}", "--json")
    assert json.loads(found.stdout)["text"] == "red boat"
    assert command(tmp_path / "red.safetensors", *quick, "--method", "nearest").stdout == "red boat\n"
    assert command(LONG, *quick, "--ratio", "0.2").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.safetensors",), "no file"),
        ((LONG, "--name", "x"), "--name"),
        ((LONG, "--tokens", "0"), "num_tokens"),
        ((LONG, "--tokens", "2", "--ratio", "0.5"), "not both"),
        ((LONG, "--inside", "nothing"), "slots"),
        ((LONG, "--method", "magic"), "magic"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(toy_plugin: str, words: tuple[str, ...], message: str) -> None:
    result = command(*words, "--model", "toy")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
