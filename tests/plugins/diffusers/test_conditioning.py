"""Conditioning tensors back to text, and prompts matched by what a denoiser is told, on real text encoders."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import BackendError, NonFiniteError, PromptDistiller, SearchError, SoftPrompt, load_backend  # noqa: E402
from hardprompts.diffusion.features import backend_of  # noqa: E402
from hardprompts.diffusion.sampling import own_latents  # noqa: E402
from hardprompts.distillation.learning import learn_soft_prompt  # noqa: E402
from hardprompts.distillation.recovery import text_from_conditioning  # noqa: E402
from hardprompts.distillation.states import ContextStates, match_states  # noqa: E402
from hardprompts.methods import PEZRefine, Refine  # noqa: E402
from hardprompts.prompts import PromptTemplate  # noqa: E402
from hardprompts.testing import toy_backend  # noqa: E402
from hardprompts_diffusers import enable_prompt_inversion  # noqa: E402
from hardprompts_transformers.backend import from_model  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TEXT = "a sketch of two dogs"
QUICK: dict[str, Any] = {"progress": False, "seed": 0, "restarts": 3}


@pytest.fixture(scope="module")
def emoji() -> Any:
    return load_backend("emoji", device="cpu")


@pytest.fixture(scope="module")
def tiny_clip() -> Any:
    """A CLIP with random weights and a tokenizer of a few hundred tokens."""
    tokenizer = families.clip_tokenizer()
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 20, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32
    }  # fmt: skip
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    return from_model(model, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def sd() -> Any:
    return families.predictor_of(families.built("sd"), "sd")


def states_of(backend: Any, text: str) -> torch.Tensor:
    states = ContextStates.of(backend)
    ids = torch.tensor([backend.vocabulary.encode(text)], dtype=torch.long)
    with torch.no_grad():
        return states(states.vocabulary.embed(ids))


# --- conditioning to text -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_text_of_a_conditioning_is_recovered_exactly(tiny_clip: Any, emoji: Any, dtype: torch.dtype) -> None:
    for backend, text in ((tiny_clip, TEXT), (tiny_clip, ""), (emoji, "a sepia picture of an alarm clock")):
        found = text_from_conditioning(backend, states_of(backend, text).to(dtype))
        assert found.text == text and list(found.token_ids) == backend.vocabulary.encode(text)
        assert found.score == pytest.approx(1, abs=1e-2 if dtype == torch.float16 else 1e-4)


def test_the_states_are_the_model_s_own(tiny_clip: Any) -> None:
    tower = tiny_clip.text_encoder
    inputs = tower.tokenizer(TEXT, padding="max_length", max_length=20, return_tensors="pt")
    with torch.no_grad():
        own = tower.model.text_model(input_ids=inputs["input_ids"]).last_hidden_state
    torch.testing.assert_close(states_of(tiny_clip, TEXT), own, atol=1e-4, rtol=1e-4)


def test_prompt_embeds_of_a_pipeline_are_recovered(sd: Any) -> None:
    conditioning = sd.condition_text("a red house near the river").tensors[0]
    found = text_from_conditioning(sd, conditioning)
    assert found.text == "a red house near the river" and found.score == pytest.approx(1, abs=1e-4)


def test_what_is_no_text_s_conditioning_is_refused_with_the_reason(tiny_clip: Any, emoji: Any) -> None:
    states = states_of(tiny_clip, TEXT)
    mixed = (states + states_of(tiny_clip, "the old boat")) / 2
    with pytest.raises(SearchError, match="weighted, mixed or joined"):
        text_from_conditioning(tiny_clip, mixed)
    padded = states.clone()
    padded[:, 12:] += 1
    with pytest.raises(SearchError, match="padded in another way"):
        text_from_conditioning(tiny_clip, padded)
    with pytest.raises(ValueError, match=r"\(20, 32\)"):
        text_from_conditioning(tiny_clip, states[:, :19])
    with pytest.raises(NonFiniteError):
        text_from_conditioning(tiny_clip, states * float("nan"))
    with pytest.raises(ValueError, match="tolerance"):
        text_from_conditioning(tiny_clip, states, tolerance=0.0)
    with pytest.raises(BackendError, match="features only"):
        text_from_conditioning(toy_backend(), states)


def test_an_encoder_that_is_not_causal_is_refused(tiny_clip: Any) -> None:
    class BothWays(type(tiny_clip.text_encoder)):  # type: ignore[misc]
        """The tower, whose states also see what stands behind them."""

        def encode_states(self, embeddings: torch.Tensor) -> torch.Tensor:
            states = super().encode_states(embeddings)
            return states + states.flip(1).cumsum(1).flip(1)

    tower = copy.copy(tiny_clip.text_encoder)
    object.__setattr__(tower, "__class__", BothWays)
    backend = dataclasses.replace(tiny_clip, text_encoder=tower)
    with pytest.raises(BackendError, match="every token at every place"):
        text_from_conditioning(backend, states_of(tiny_clip, TEXT))


# --- matched by states ----------------------------------------------------------------------


def test_the_states_that_are_compared_are_those_behind_both_texts(tiny_clip: Any) -> None:
    states, vocabulary = ContextStates.of(tiny_clip), tiny_clip.vocabulary
    assert states.first_place == 1 and states.causal
    original, other = "a red house near the river", "a red cat"
    template = PromptTemplate("the {} at night")
    soft = vocabulary.embed(torch.tensor(vocabulary.encode(original)))
    match = match_states(tiny_clip, [[soft]], template)
    rows = [states_of(tiny_clip, template.fill(text))[0] for text in (original, other)]
    nothing = states_of(tiny_clip, "the at night")[0]
    end = 1 + len(vocabulary.encode(template.fill(original)))
    expected = [(row[end:] - rows[0][end:]).square().mean() for row in (rows[1], nothing)]
    assert match.distances([other], 0)[0] == pytest.approx(float(expected[0] / expected[1]), rel=1e-3)
    assert match.distances([original, ""], 0) == pytest.approx([0, 1], abs=1e-5)
    ids = torch.tensor([vocabulary.encode(other)])
    groups = torch.zeros(1, dtype=torch.long)
    assert float(match.score(ids, groups)) == pytest.approx(1 - match.distances([other], 0)[0], abs=1e-4)


def test_the_gradient_of_the_states_distance_is_that_of_finite_differences(tiny_clip: Any) -> None:
    vocabulary = tiny_clip.vocabulary
    soft = vocabulary.embed(torch.tensor(vocabulary.encode("a red house")))
    match, groups = match_states(tiny_clip, [[soft]]), torch.zeros(1, dtype=torch.long)
    at = vocabulary.embed(torch.tensor([vocabulary.encode("old boat")])).clone().requires_grad_()
    (grad,) = torch.autograd.grad(match(at, groups).loss.sum(), at)
    way = torch.nn.functional.normalize(torch.randn(at.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
    step = 1e-2 * float(at.detach().norm(dim=-1).mean())
    with torch.no_grad():
        ends = [float(match(at + sign * step * way, groups).loss) for sign in (-1, 1)]
    assert float((grad * way).sum()) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=5e-2, abs=1e-4)


def test_planted_words_are_found_by_the_states(tiny_clip: Any) -> None:
    soft = tiny_clip.vocabulary.embed(torch.tensor(tiny_clip.vocabulary.encode("red house")))
    prompt = PromptDistiller(tiny_clip).distill(
        soft, num_tokens=2, templates="a photo of {}", match="hidden_states", max_steps=20, **QUICK
    )
    assert prompt.text == "red house" and prompt.score == pytest.approx(1, abs=1e-4)
    assert prompt.faithfulness is not None and prompt.faithfulness.held_out is not None
    assert prompt.faithfulness.held_out.value == pytest.approx(1, abs=1e-3)
    assert "states" in prompt.faithfulness.held_out.quantity


# --- matched by a denoiser ------------------------------------------------------------------


def test_a_denoiser_s_predictions_are_matched_without_any_picture(sd: Any) -> None:
    distiller = PromptDistiller(sd, Refine(candidates_per_slot=6))
    soft = sd.vocabulary.embed(torch.tensor(sd.vocabulary.encode("red house")))
    options = {"match": "noise", "num_noises": 3, "noises_per_step": None, "templates": "a photo of {}", **QUICK}
    prompt = distiller.distill(soft, num_tokens=2, max_steps=2, **options)
    assert prompt.text == "red house" and prompt.score == pytest.approx(1, abs=1e-3)
    found = prompt.faithfulness
    assert found is not None and found.held_out is not None and "other noises" in found.held_out.quantity
    assert found.matched.value == pytest.approx(1, abs=1e-3) and found.held_out.value == pytest.approx(1, abs=1e-3)
    other = distiller.faithfulness("old boat", soft, num_tokens=2, **options)
    assert other.matched.value < 0.9 and other.matched.distance > 0
    pictured = distiller.distill(soft, num_tokens=2, images=families.IMAGE, max_steps=0, **options)
    assert pictured.text == "red house"


def test_the_default_explores_by_features_and_polishes_what_the_denoiser_predicts(sd: Any) -> None:
    words = sd.vocabulary.embed(torch.tensor(sd.vocabulary.encode("red house")))
    soft = words + 0.2 * words.std() * torch.randn(words.shape, generator=torch.Generator().manual_seed(1))
    plain: dict[str, Any] = {"num_tokens": 2, **QUICK, "restarts": 2}
    options: dict[str, Any] = {**plain, "num_noises": 2, "noises_per_step": None}
    default = PromptDistiller(sd, PEZRefine(explore_steps=3, refine=Refine(candidates_per_slot=6)))
    by_features = default.distill(soft, match="features", **plain)
    found = default.distill(soft, match="noise", max_evaluations=60, **options)
    # Scored by what the denoiser predicts, no worse than what the features led to, and no change improves it.
    start = default.faithfulness(by_features.text, soft, match="noise", **options).matched.distance
    assert found.provenance["match"] == "noise" and found.score == pytest.approx(
        1 - default.faithfulness(found.text, soft, match="noise", **options).matched.distance, abs=1e-4
    )
    assert found.score >= 1 - start - 1e-4
    told: list[int] = []

    def stop(progress: Any) -> bool:
        told.append(progress.evaluations)
        return True

    cancelled = default.distill(soft, match="noise", callback=stop, **options)
    assert cancelled.stop_reason == "cancelled" and len(told) == 1 and cancelled.text


def test_auto_takes_the_states_of_what_the_model_sees_whole_and_features_of_longer_texts(sd: Any) -> None:
    distiller = PromptDistiller(backend_of(sd), Refine(candidates_per_slot=4))
    short = distiller.distill("a red house near the river", num_tokens=2, max_steps=3, **QUICK)
    assert short.provenance["match"] == "hidden_states" and short.score_unit.startswith("share")
    long = distiller.distill("a red house near the river, " * 6, num_tokens=2, max_steps=3, **QUICK)
    assert long.provenance["match"] == "features"
    for match in ("noise", "hidden_states"):
        with pytest.raises(BackendError, match="window by window"):
            distiller.distill("a red house near the river, " * 6, num_tokens=2, match=match, **QUICK)


@pytest.mark.parametrize("family", ["sd", "sd2", "flux"])
def test_a_denoiser_makes_latents_of_its_own(family: str) -> None:
    predictor = families.predictor_of(families.built(family), family)
    shape = predictor.encode_images([families.IMAGE]).shape[1:]
    words = predictor.vocabulary.embed(families.some_ids(predictor)[0])
    one, two = (own_latents(predictor, words, (2, *shape), torch.Generator().manual_seed(0), 3) for _ in range(2))
    assert one.shape == (2, *shape) and one.isfinite().all() and torch.equal(one, two)


def test_textual_inversion_lowers_the_denoising_error(sd: Any) -> None:
    options: dict[str, Any] = {"num_noises": 4, "noises_per_step": 2, "templates": "a photo of {}", "seed": 0}
    before = learn_soft_prompt(sd, families.IMAGE, 1, max_steps=0, **options)
    after = learn_soft_prompt(sd, families.IMAGE, 1, max_steps=25, name="<noise>", **options)
    assert float(after.metadata["loss"]) < float(before.metadata["loss"])
    assert after.name == "<noise>" and after.metadata["learned_by"] == "textual inversion"
    assert after.widths == tuple(sd.vocabulary.widths)


# --- the pipeline's own methods -------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> Any:
    return enable_prompt_inversion(families.build("sd"))


def test_a_pipeline_says_what_an_embedding_does(pipe: Any, tmp_path: Path) -> None:
    given = {
        "num_tokens": 2, "template": "a photo of {}", "method": Refine(candidates_per_slot=6), "num_noises": 3,
        "noises_per_step": None, "max_steps": 2, "restarts": 2, "height": families.SIZE,
        "width": families.SIZE,
    }  # fmt: skip
    predictor = families.predictor_of(pipe, "sd")
    words = predictor.vocabulary.embed(torch.tensor(predictor.vocabulary.encode("red house"))).detach()
    soft = SoftPrompt({"text_encoder": words}, name="<red-house>")
    before = families.state_of(pipe)
    out = pipe.distill_prompt(soft, generator=torch.Generator().manual_seed(0), **given)
    assert out.prompts == ["a photo of red house"] and out.scores[0] == pytest.approx(1, abs=1e-3)
    assert out.hard_prompts[0].faithfulness.matched.value == pytest.approx(1, abs=1e-3)
    soft.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    again = pipe.prompt_from_embedding(tmp_path / "learned_embeds.safetensors", **given)
    assert again.prompts == ["a photo of red house"] and again.hard_prompts[0].provenance["original"] == "<red-house>"
    assert families.state_of(pipe) == before
    with pytest.raises(ValueError, match="`prompt` has to be"):
        pipe.distill_prompt(3)
