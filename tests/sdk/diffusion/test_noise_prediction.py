"""The denoising error as objective and score, on a model whose best prompt is known."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from toy_denoiser import TOY, ToyDenoiser, predictor, stable_diffusion

from hardprompts import BackendError, NonFiniteError, PromptTemplate, run_search
from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.diffusion.reading import _misread
from hardprompts.encoders import NoisePredictor
from hardprompts.methods import PEZRefine
from hardprompts.noise import PREDICTIONS
from hardprompts.objectives import Objective, Score, Stochastic
from hardprompts.vocabulary import Vocabulary


def objective(text: str = "red house", prediction: str = "epsilon", dtype=torch.float32, **options) -> NoisePrediction:
    model = predictor(prediction, dtype)
    own = {key: options.pop(key) for key in ("sample_size", "generator", "template", "batch_size") if key in options}
    bank = NoiseBank.draw(model, [[(TOY.picture(one), 1.0)] for one in text.split(",")], **{"items": 6, **options})
    return NoisePrediction(model, bank, **own)


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor([TOY.vocabulary.encode(text) for text in texts])


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.long)


def test_the_bank_is_determined_by_its_seed() -> None:
    banks = [objective(seed=seed).bank for seed in (3, 3, 4)]
    assert torch.equal(banks[0].noisy, banks[1].noisy) and not torch.equal(banks[0].noisy, banks[2].noisy)
    assert torch.equal(banks[0].timesteps, banks[1].timesteps)


def test_tasks_share_noises_and_images_take_turns() -> None:
    model = predictor("flow_prediction")
    pictures = [TOY.picture(text) for text in ("red house", "old boat", "cat dog")]
    bank = NoiseBank.draw(model, [[(pictures[0], 1.0)], [(pictures[1], 3.0), (pictures[2], 1.0)]], items=5, seed=0)
    # Of a flow, noise = target + clean latent.
    clean = model.encode_images(pictures)
    noise = bank.target[0] + clean[0]
    torch.testing.assert_close(bank.target[1] + clean[[1, 2, 1, 2, 1]], noise)
    torch.testing.assert_close(bank.weights.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(bank.weights[1], torch.tensor([0.25, 0.125, 0.25, 0.125, 0.25]))


def test_crops_are_squares_of_the_shorter_side(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = predictor(), []
    monkeypatch.setattr(model, "encode_images", lambda images: seen.extend(images) or torch.zeros(1, 3, 4, 4))
    image = Image.new("RGB", (200, 100))
    NoiseBank.draw(model, [[(image, 1.0)]], items=40, crop=(0.5, 0.8))
    assert len(seen) == 40 and all(one.width == one.height for one in seen)
    sides = [one.width for one in seen]
    assert 50 <= min(sides) < 56 and 74 < max(sides) <= 80
    with pytest.raises(ValueError, match="crop"):
        NoiseBank.draw(model, [[(image, 1.0)]], crop=(0.0, 0.5))
    with pytest.raises(ValueError, match="items"):
        NoiseBank.draw(model, [[(image, 1.0)]], items=0)


def test_it_is_objective_and_score() -> None:
    judged = objective()
    assert isinstance(judged, Objective) and isinstance(judged, Score) and isinstance(judged, Stochastic)
    assert isinstance(judged.predictor, NoisePredictor)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gradient_against_finite_differences(prediction: str) -> None:
    judged = objective("red house near,old boat", prediction, torch.float64, unlike=[TOY.picture("snow")], batch_size=3)
    generator = torch.Generator().manual_seed(0)
    embeddings = judged.predictor.vocabulary.embed(ids_of("blue house on", "cat dog sun", "the moon car"))
    groups = torch.tensor([0, 1, 0])
    leaf = embeddings.clone().requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((judged(leaf, groups).loss * weights).sum(), leaf)
    assert gradient.abs().amax(dim=2).gt(0).all()
    for _ in range(3):
        way = torch.randn(embeddings.shape, generator=generator, dtype=torch.float64)
        ahead, behind = (judged.losses(embeddings + step * way, groups) for step in (1e-5, -1e-5))
        torch.testing.assert_close(
            (gradient * way).sum(), ((ahead - behind) * weights).sum() / 2e-5, rtol=1e-6, atol=1e-9
        )


def test_two_stages_equal_one() -> None:
    judged = objective(dtype=torch.float64, batch_size=4)
    leaf = judged.predictor.vocabulary.embed(ids_of("blue house", "cat dog")).clone().requires_grad_()
    (found,) = torch.autograd.grad(judged(leaf, zeros(2)).loss.sum(), leaf)
    bank, model = judged.bank, judged.predictor
    told = model.condition(leaf)
    total = torch.zeros((), dtype=torch.float64)
    for item in range(len(bank)):
        for prompt in range(2):
            rows = told.rows(torch.tensor([prompt]))
            predicted = model.predict(bank.noisy[0, item : item + 1], bank.timesteps[item : item + 1], rows)
            total = total + (predicted - bank.target[0, item]).square().mean() * bank.weights[0, item].double()
    (expected,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(judged(leaf, zeros(2)).loss.sum(), total)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_right_prompt_removes_all_of_the_error_and_the_empty_one_none(prediction: str) -> None:
    judged = objective("red house", prediction)
    scores = judged.score(ids_of("red house", "snow boat"), zeros(2))
    assert scores[0] == pytest.approx(1, abs=1e-4) and scores[1] < 0.9
    empty = judged.predictor.vocabulary.table.new_zeros(1, 0, judged.predictor.vocabulary.table.shape[1])
    assert judged.losses(empty, zeros(1)) == pytest.approx(float(judged._empty[0]))


def test_the_same_seed_gives_the_same_score_twice_whatever_else_is_in_the_batch() -> None:
    first, second = objective(seed=5), objective(seed=5)
    ids = ids_of("blue house", "cat dog", "old boat")
    assert torch.equal(first.score(ids, zeros(3)), first.score(ids, zeros(3)))
    assert torch.equal(first.score(ids, zeros(3)), second.score(ids, zeros(3)))
    torch.testing.assert_close(first.score(ids[1:2], zeros(1)), first.score(ids, zeros(3))[1:2])
    assert not torch.equal(first.score(ids, zeros(3)), objective(seed=6).score(ids, zeros(3)))


def test_the_evaluation_has_the_score_only_where_it_is_the_scores_own() -> None:
    embeddings = TOY.vocabulary.embed(ids_of("blue house", "cat dog"))
    whole = objective()
    evaluation = whole(embeddings, zeros(2))
    torch.testing.assert_close(evaluation.score, whole.score(ids_of("blue house", "cat dog"), zeros(2)))
    assert objective(sample_size=2)(embeddings, zeros(2)).score is None


def test_a_mini_batch_is_an_unbiased_estimate_and_can_be_held() -> None:
    drawn = objective(sample_size=2, generator=torch.Generator().manual_seed(0), unlike=[TOY.picture("snow")])
    embeddings = TOY.vocabulary.embed(ids_of("blue house"))
    losses = torch.stack([drawn(embeddings, zeros(1)).loss for _ in range(400)])
    whole = drawn.losses(embeddings, zeros(1))
    assert losses.std() > 0
    assert (losses.mean() - whole).abs() < 4 * losses.std() / math.sqrt(400)
    held = drawn.held()
    assert len({float(held(embeddings, zeros(1)).loss) for _ in range(5)}) == 1
    assert held.held() is held and objective().held().drawn is None


def test_what_is_unlike_counts_against_a_prompt() -> None:
    plain, pushed = objective("red house"), objective("red house", unlike=[TOY.picture("red snow")], unlike_weight=0.7)
    ids = ids_of("red house", "red snow")
    before, after = plain.score(ids, zeros(2)), pushed.score(ids, zeros(2))
    assert after[1] - before[1] < after[0] - before[0]
    fitted = plain.losses(TOY.vocabulary.embed(ids), zeros(2))
    away = objective("red snow").losses(TOY.vocabulary.embed(ids), zeros(2))
    # The noises of both pieces are the same.
    torch.testing.assert_close(pushed.losses(TOY.vocabulary.embed(ids), zeros(2)), fitted - 0.7 * away)


def test_the_template_is_part_of_the_prompt() -> None:
    judged = objective("the red house", template=PromptTemplate("the {} house"))
    assert judged.score(ids_of("red"), zeros(1)) == pytest.approx(1, abs=1e-4)
    assert judged.free_tokens() == TOY.max_tokens - 2


def test_no_more_rows_at_once_than_asked_for() -> None:
    judged = objective(batch_size=4)
    judged.score(ids_of("blue house", "cat dog", "old boat"), zeros(3))
    model = judged.predictor
    assert max(model.rows) == 4 and sum(model.rows) == 6 + 3 * 6
    with pytest.raises(ValueError, match="batch_size"):
        objective(batch_size=0)


def test_the_text_encoder_runs_twice_for_a_gradient_however_many_noises() -> None:
    judged = objective(items=20, batch_size=2)
    model = judged.predictor
    _ = judged._empty
    before = model.conditioned
    judged(TOY.vocabulary.embed(ids_of("blue house")).requires_grad_(), zeros(1))
    assert model.conditioned - before == 2


def test_overflow_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = objective()
    predict = judged.predictor.predict
    monkeypatch.setattr(judged.predictor, "predict", lambda *args: predict(*args) * float("nan"))
    for call in (
        lambda: judged.score(ids_of("red house"), zeros(1)),
        lambda: judged(TOY.vocabulary.embed(ids_of("red house")).requires_grad_(), zeros(1)),
        lambda: judged._empty,
    ):
        with pytest.raises(NonFiniteError, match="bfloat16"):
            call()
    monkeypatch.setattr(judged.predictor, "encode_images", lambda images: torch.full((1, 3, 4, 4), float("nan")))
    with pytest.raises(NonFiniteError, match="VAE in float32"):
        NoiseBank.draw(judged.predictor, [[(TOY.picture("cat"), 1.0)]])


def test_half_precision_keeps_small_gradients() -> None:
    """A gradient of the mean over 12288 small values is below what float16 has, unless it is scaled."""

    class Large(ToyDenoiser):
        def encode_images(self, images):
            return super().encode_images(images).tile(1, 1, 16, 16) * 1e-3

        def predict(self, noisy, timesteps, conditioning):
            return conditioning.tensors[0].reshape(-1, 3, 4, 4).tile(1, 1, 16, 16) * 1e-3

    class Half(Large):
        def condition(self, embeddings):
            told = super().condition(embeddings)
            return dataclasses.replace(told, tensors=(told.tensors[0].half(), told.tensors[1]))

    gradients = []
    for kind in (Large, Half):
        model = kind(stable_diffusion("sample"))
        judged = NoisePrediction(model, NoiseBank.draw(model, [[(TOY.picture("red house"), 1.0)]], items=4))
        leaf = TOY.vocabulary.embed(ids_of("blue house")).requires_grad_()
        gradients.append(torch.autograd.grad(judged(leaf, zeros(1)).loss.sum(), leaf)[0])
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=float(gradients[0].abs().max()) * 0.02)


def test_imitating_a_conditioning_gives_the_share_of_its_effect() -> None:
    judged = objective("old boat")
    copy = judged.imitating(judged.predictor.condition_text("red house near"))
    assert copy.score(ids_of("red house near"), zeros(1)) == pytest.approx(1, abs=1e-5)
    assert copy.score(ids_of("snow cat sun"), zeros(1)) < 0.9


def test_a_text_that_is_read_in_another_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = objective(template=PromptTemplate("the {}"))
    judged.check_text("red house")
    own = judged.predictor.condition_text
    monkeypatch.setattr(judged.predictor, "condition_text", lambda text: own(f"{text} sun"))
    with pytest.raises(BackendError, match="differently"):
        judged.check_text("red house")


@pytest.mark.parametrize("path", ["condition", "condition_text"])
def test_a_conditioning_that_is_not_finite_is_called_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = objective()
    own = getattr(judged.predictor, path)

    def broken(given: object) -> object:
        found = own(given)
        return dataclasses.replace(found, tensors=tuple(tensor * math.nan for tensor in found.tensors))

    monkeypatch.setattr(judged.predictor, path, broken)
    with pytest.raises(NonFiniteError, match="conditioning of the text 'red house' is NaN or infinite.*float32"):
        judged.check_text("red house")


@pytest.mark.parametrize(
    ("text", "encoders", "cause"),
    [
        ("a <cat> here!", 2, "'<cat>' stands for several vectors"),
        ("a house!", 2, 'pad with "!"'),
        ("a house!", 1, "compare what its tokenizers make"),
        ("a <dog>", 2, "compare what its tokenizers make"),
    ],
)
def test_only_a_cause_that_the_text_shows_is_named(text: str, encoders: int, cause: str) -> None:
    class Tokenizer:
        words = ("a", "house", "here!", "house!", "<dog>", "<cat>", "<cat>_1")

        def encode(self, text: str) -> list[int]:
            return [i for w in text.split() for i in ([self.words.index(w)] if w in self.words else [0, 1])]

        def decode(self, ids: Sequence[int]) -> str:
            return " ".join(self.words[i] for i in ids)

    vocabulary = dataclasses.replace(
        Vocabulary.create(torch.randn(7, 4), Tokenizer()), widths=(4 // encoders,) * encoders
    )
    assert cause in _misread(vocabulary, text)


def test_a_text_encoder_without_gradients_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = objective()
    condition = judged.predictor.condition
    monkeypatch.setattr(judged.predictor, "condition", torch.no_grad()(condition))
    with pytest.raises(BackendError, match="no gradient reaches"):
        judged(TOY.vocabulary.embed(ids_of("red house")).requires_grad_(), zeros(1))


def test_run_search_finds_the_planted_prompt() -> None:
    judged = objective("red house,old boat")
    initial = TOY.vocabulary.sample((8, 2), torch.Generator().manual_seed(0))
    search = PEZRefine(explore_steps=5, refined=2)
    results = run_search(
        search, judged, judged, judged.predictor.vocabulary, initial, groups=torch.arange(8) // 4, seed=0
    )
    assert [set(result.best.text.split()) for result in results] == [{"red", "house"}, {"old", "boat"}]
    assert results[0].best.score == pytest.approx(1, abs=1e-3) or "house red" in results[0].best.text


def test_items_add_up_to_the_score() -> None:
    ids, both = ids_of("red house", "snow cat"), zeros(2)
    unlike = TOY.picture("snow")
    plain = objective()
    away = dataclasses.replace(
        plain,
        bank=NoiseBank.draw(plain.predictor, [[(TOY.picture("red house"), 1.0)]], unlike=[unlike], items=plain.items),
    )
    for judged in (plain, away):
        parts = judged.item_scores(ids, both, torch.arange(judged.items))
        assert parts.shape == (2, judged.items) and judged.items == len(judged.bank) // judged.bank.pairs
        torch.testing.assert_close(parts.sum(dim=1), judged.score(ids, both), atol=1e-5, rtol=1e-5)
        some = torch.tensor([2, 0])
        torch.testing.assert_close(judged.item_scores(ids, both, some), parts[:, some])
