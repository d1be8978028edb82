"""A text of its own for CLIP and for T5: what is searched is what the pipeline computes when it is given both."""

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import DenoisingInverter, load_backend  # noqa: E402
from hardprompts.cli import app  # noqa: E402
from hardprompts.methods import Refine  # noqa: E402
from hardprompts_diffusers import enable_prompt_inversion, noise_predictor  # noqa: E402

# diffusers warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

LONG = "a painting of two dogs and a cat in the snow near the old boat"
#: Of each family: the kind whose text is given, and the arguments of the call that are the other's.
CASES = [
    ("sd3", "t5", ("prompt", "prompt_2")),
    ("sd3", "clip", ("prompt_3",)),
    ("flux", "t5", ("prompt",)),
    ("flux", "clip", ("prompt_2",)),
]
PLACES = {("sd3", "t5"): ("prompt_3",), ("sd3", "clip"): ("prompt", "prompt_2"), ("flux", "t5"): ("prompt_2",)}
PLACES["flux", "clip"] = ("prompt",)


def given(family: str, kind: str, searched: tuple[str, ...], text: str) -> dict[str, str]:
    """The arguments of the pipeline's own call."""
    return {**dict.fromkeys(PLACES[family, kind], LONG), **dict.fromkeys(searched, text)}


def split(family: str, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    pipe = families.built(family, dtype)
    options = families.OPTIONS.get(family)
    return pipe, noise_predictor(
        pipe, height=families.SIZE, width=families.SIZE, options=options, texts={kind: LONG}
    )  # fmt: skip


@pytest.mark.parametrize(("family", "kind", "searched"), CASES)
def test_the_conditioning_is_that_of_the_pipeline_with_both_texts(
    family: str, kind: str, searched: tuple[str, ...]
) -> None:
    pipe, predictor = split(family, kind)
    row = families.some_ids(predictor, rows=1, tokens=3)[0].tolist()
    text = predictor.vocabulary.decode(row)
    ids = torch.tensor([predictor.vocabulary.encode(text)])
    told = predictor.condition(predictor.vocabulary.embed(ids))
    own = pipe.encode_prompt(
        **{"prompt_2": None, "prompt_3": None, **given(family, kind, searched, text)}
        if family == "sd3"
        else given(family, kind, searched, text),
        **({"do_classifier_free_guidance": False} if family == "sd3" else {}),
        **{key: value for key, value in families.OPTIONS.get(family, {}).items() if key == "max_sequence_length"},
    )
    expected = [part for part in own if part is not None and part.ndim > 1 and part.shape[0] == 1]
    assert len(told.tensors) == 2
    for found, right in zip(told.tensors, expected, strict=True):
        assert torch.equal(found, right)
    # Which is another one than that of either text for both.
    for alone in (text, LONG):
        other = predictor.condition_whole(alone)
        assert not all(torch.allclose(a, b) for a, b in zip(told.tensors, other.tensors, strict=True))
    whole = families.predictor_of(pipe, family).condition_text(LONG)
    assert all(torch.equal(a, b) for a, b in zip(predictor.condition_whole(LONG).tensors, whole.tensors, strict=True))


@pytest.mark.parametrize(("family", "kind", "searched"), CASES)
def test_the_denoiser_is_given_what_the_pipelines_own_call_gives_it(
    family: str, kind: str, searched: tuple[str, ...]
) -> None:
    pipe = enable_prompt_inversion(families.built(family))
    options = families.OPTIONS.get(family, {})
    found = pipe.invert_prompt(
        families.OTHER, match="diffusion", method=Refine(candidates_per_slot=3), max_steps=2, texts={kind: LONG},
        height=families.SIZE, width=families.SIZE, pipeline_kwargs=options,
        generator=torch.Generator().manual_seed(0), **families.SEARCH,
    )  # fmt: skip
    text = found.prompts[0]
    assert found.arguments == [given(family, kind, searched, text)]
    (other,) = {"clip", "t5"} - {kind}
    assert found.separate_prompts == [{kind: LONG, other: text}]
    assert found.hard_prompts[0].provenance["texts"] == {kind: LONG}

    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda m, a, k: calls.append(k), with_kwargs=True)
    size = {"height": families.SIZE, "width": families.SIZE}
    scale = {} if family == "flux" else {"guidance_scale": 1.0}
    pipe(**found.arguments[0], num_inference_steps=1, output_type="latent", **size, **scale, **options)
    _, predictor = pipe, noise_predictor(pipe, **size, options=options, texts={kind: LONG})
    ids = torch.tensor([found.hard_prompts[0].token_ids])
    judged = families.judged_by(predictor, families.OTHER)
    judged.losses(predictor.vocabulary.embed(ids), torch.zeros(1, dtype=torch.long))
    hook.remove()
    for name in ("encoder_hidden_states", "pooled_projections"):
        torch.testing.assert_close(calls[-1][name][:1], calls[0][name][:1], rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kind", "searched"), CASES)
@pytest.mark.usefixtures("float64_clip")
def test_gradients_are_those_of_the_text_that_is_searched(family: str, kind: str, searched: tuple[str, ...]) -> None:
    _, predictor = split(family, kind, torch.float64)
    judged, ids = families.judged_by(predictor, items=3), families.some_ids(predictor)
    embeddings = predictor.vocabulary.embed(ids)
    _, gradient = families.value_and_grad(judged, ids)
    assert gradient.abs().amax(dim=2).gt(0).all()
    way = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead, behind = (judged.losses(embeddings + h * way, torch.zeros(2, dtype=torch.long)) for h in (1e-4, -1e-4))
    # T5's norms and FLUX calculate in float32 in the middle, which a smaller step does not survive.
    assert float((gradient * way).sum()) == pytest.approx(float((ahead - behind).sum() / 2e-4), rel=1e-3)


def test_scores_are_those_of_the_whole_pipeline() -> None:
    """0 is the prompt that is empty for all encoders; the text that is given counts for what is found beside it."""
    pipe, predictor = split("sd3", "t5")
    plain = families.predictor_of(pipe, "sd3")
    groups = torch.zeros(1, dtype=torch.long)
    judged, whole = (families.judged_by(one, families.OTHER) for one in (predictor, plain))
    table = predictor.vocabulary.table
    beside = predictor.condition(table.new_zeros(1, 0, table.shape[1]))
    assert float(judged.scores_of(predictor.condition_whole(""), groups)) == pytest.approx(0, abs=1e-6)
    assert abs(float(judged.scores_of(beside, groups))) > 1e-5
    assert float(judged.scores_of(beside, groups)) == float(whole.scores_of(beside, groups))
    imitated = judged.imitating(predictor.condition_whole(LONG))
    assert float(imitated.scores_of(plain.condition_text(LONG), groups)) == pytest.approx(1, abs=1e-5)


def test_a_long_prompt_is_shortened_for_clip_while_t5_reads_all_of_it() -> None:
    pipe = enable_prompt_inversion(families.built("sd3"))
    size = {"height": families.SIZE, "width": families.SIZE, "pipeline_kwargs": families.OPTIONS.get("sd3")}
    options: dict[str, Any] = {"method": Refine(candidates_per_slot=3), "max_steps": 2, **families.SEARCH, **size}
    found = pipe.distill_prompt(LONG, image=families.OTHER, texts={"t5": LONG}, **options)
    assert found.separate_prompts == [{"clip": found.prompts[0], "t5": LONG}]
    # What is imitated is the pipeline in which all encoders read the one text.
    del options["restarts"]
    options |= {"initial_prompts": ["red house"], "max_steps": 0, "image": families.OTHER}
    same = pipe.distill_prompt("red house", texts={"t5": "red house"}, **options)
    other = pipe.distill_prompt("red house", texts={"t5": LONG}, **options)
    assert same.prompts == other.prompts == ["red house"]
    assert same.scores[0] == pytest.approx(1, abs=1e-5) and other.scores[0] < 0.99


def test_texts_that_do_not_fit_the_pipeline() -> None:
    pipe = families.built("flux")
    options = {"height": families.SIZE, "width": families.SIZE, "options": families.OPTIONS["flux"]}
    with pytest.raises(ValueError, match="texts has 't6', and the text encoders of this FluxPipeline are clip, t5"):
        noise_predictor(pipe, texts={"t6": "x"}, **options)
    with pytest.raises(ValueError, match=r"every text encoder .*clip, t5.* leave one out"):
        noise_predictor(pipe, texts={"clip": "x", "t5": "y"}, **options)
    with pytest.raises(ValueError, match="text of tokenizer_2, so its tokens cannot be searched"):
        noise_predictor(pipe, texts={"t5": "x"}, tokenizer="tokenizer_2", **options)
    with pytest.raises(ValueError, match=r"texts\['t5'\] must be a text, got \['x'\]"):
        noise_predictor(pipe, texts={"t5": ["x"]}, **options)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="texts has 't5', and the text encoders of this StableDiffusion.* are clip"):
        noise_predictor(families.built("sd"), texts={"t5": "x"})
    with pytest.raises(ValueError, match="`texts` is of no use with match='clip'"):
        enable_prompt_inversion(pipe).invert_prompt(families.IMAGE, texts={"t5": "x"})


def test_a_pipeline_by_name_is_opened_with_a_text(tmp_path: Any) -> None:
    folder = families.saved("sd3", tmp_path)
    backend = load_backend(f"diffusers:{folder}", device="cpu", texts={"t5": LONG})
    options = {key: value for key, value in families.SEARCH.items() if key != "restarts"}
    found = DenoisingInverter(backend, Refine(candidates_per_slot=2)).invert(
        families.OTHER, max_steps=1, seed=0, progress=False, restarts=1, **options
    )
    assert found.provenance["texts"] == {"t5": LONG}


def test_one_text_is_given_to_all_encoders_where_nobody_says_more() -> None:
    pipe = enable_prompt_inversion(families.built("sdxl"))
    found = families.invert(pipe)
    text = found.prompts[0]
    assert found.separate_prompts == [{"clip": text}] and found.arguments == [{"prompt": text, "prompt_2": text}]
    assert "texts" not in found.hard_prompts[0].provenance


@pytest.mark.filterwarnings("ignore::hardprompts.hub.machine.MachineNotice")
def test_the_command_line_gives_t5_a_text(tmp_path: Any) -> None:
    picture = tmp_path / "picture.png"
    families.OTHER.save(picture)
    own = ["--model", f"diffusers:{families.saved('sd3', tmp_path)}", "--device", "cpu", "--seed", "0"]
    short = ["--tokens", "2", "--steps", "1", "--restarts", "1", "--json"]
    for command in (["invert", str(picture), "--method", "pez"], ["distill", "red house"]):
        run = CliRunner().invoke(app, [*command, *own, *short, "--texts", f"t5={LONG}"])
        assert run.exit_code == 0, run.output
        assert json.loads(run.stdout)["provenance"]["texts"] == {"t5": LONG}
    run = CliRunner().invoke(app, ["distill", "red house", *own, "--texts", "t5"])
    assert run.exit_code == 2 and "--texts must be KIND=TEXT, as t5='a long text', got 't5'" in run.stderr
    run = CliRunner().invoke(app, ["distill", "red house", "--model", "emoji", "--texts", "t5=x"])
    assert run.exit_code == 2 and "models of 'emoji' have no option texts" in run.stderr
