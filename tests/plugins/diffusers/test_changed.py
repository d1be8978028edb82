"""Pipelines as people change them: what was changed counts, and is there afterwards; what cannot be done is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import diffusers_families as families  # noqa: E402

from hardprompts import BackendError, TemplateError  # noqa: E402
from hardprompts_diffusers import enable_prompt_inversion, noise_predictor  # noqa: E402
from hardprompts_diffusers.components import modules_of  # noqa: E402

# diffusers warns of its own deprecations, torch of compiled code that is not fast.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def fresh(family: str = "sd") -> Any:
    """A pipeline whose tokenizers are its own."""
    pipe = enable_prompt_inversion(families.build(family))
    for name in [name for name in pipe.components if name.startswith("tokenizer")]:
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    return pipe


def options_of(family: str) -> dict[str, Any]:
    return {"height": families.SIZE, "width": families.SIZE, "pipeline_kwargs": families.OPTIONS.get(family)}


def found_by(pipe: Any, family: str = "sd", **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return families.invert(pipe, generator=generator, **{**options_of(family), **options}).hard_prompts[0]


def wrappers_of(pipe: Any) -> dict[str, Any]:
    return {name: (id(part), type(part)) for name, part in pipe.components.items()}


# --- what only runs otherwise: the same prompt ----------------------------------------------


def compiled(*names: str) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        for name in names:
            setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))

    return change


def compiled_in_place(*names: str) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        for name in names:
            getattr(pipe, name).compile(backend="eager")

    return change


def compiled_forward(pipe: Any) -> None:
    pipe.text_encoder.forward = torch.compile(pipe.text_encoder.forward, backend="eager")


def in_parallel(*names: str) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        for name in names:
            setattr(pipe, name, nn.DataParallel(getattr(pipe, name)))

    return change


def compiled_and_offloaded(pipe: Any) -> None:
    compiled("text_encoder", "unet")(pipe)
    pipe.enable_model_cpu_offload(device="cpu")


def offloaded_and_compiled(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")
    compiled("text_encoder", "unet")(pipe)


def on_one_device(pipe: Any) -> None:
    """As a device map for one device leaves it."""
    from accelerate import dispatch_model

    dispatch_model(pipe.text_encoder, {"": "cpu"}, main_device="cpu", force_hooks=True)


def other_attention(pipe: Any) -> None:
    pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
    pipe.enable_attention_slicing()


SAME: dict[str, tuple[str, Callable[[Any], None]]] = {
    "torch.compile of the text encoder": ("sd", compiled("text_encoder")),
    "torch.compile of all": ("sd", compiled("text_encoder", "unet", "vae")),
    "torch.compile of two text encoders": ("sdxl", compiled("text_encoder", "text_encoder_2")),
    "torch.compile of flux": ("flux", compiled("text_encoder", "text_encoder_2", "transformer")),
    "module.compile": ("sd", compiled_in_place("text_encoder", "unet")),
    "forward compiled": ("sd", compiled_forward),
    "DataParallel": ("sd", in_parallel("text_encoder", "unet", "vae")),
    "DataParallel of flux": ("flux", in_parallel("text_encoder_2", "transformer")),
    "compiled, then offloaded": ("sd", compiled_and_offloaded),
    "offloaded, then compiled": ("sd", offloaded_and_compiled),
    "a device map": ("sd", on_one_device),
    "another attention": ("sd", other_attention),
}
PLAIN: dict[str, Any] = {}


@pytest.mark.parametrize("kind", SAME)
def test_what_only_runs_otherwise_gives_the_same_prompt_and_stays(kind: str) -> None:
    family, change = SAME[kind]
    if family not in PLAIN:
        PLAIN[family] = found_by(fresh(family), family)
    pipe = fresh(family)
    change(pipe)
    found_by(pipe, family, max_steps=1)  # a network's first call leaves hooks of its library
    before, state = wrappers_of(pipe), families.state_of(pipe)
    compiled_parts = [part._compiled_call_impl for module in modules_of(pipe).values() for part in module.modules()]
    found = found_by(pipe, family)
    assert found.text == PLAIN[family].text and found.score == pytest.approx(PLAIN[family].score, abs=1e-5)
    assert wrappers_of(pipe) == before
    assert compiled_parts == [part._compiled_call_impl for m in modules_of(pipe).values() for part in m.modules()]
    after = families.state_of(pipe)
    assert {key: after[key] for key in state if key != "attributes"} == {
        k: state[k] for k in state if k != "attributes"
    }


@pytest.mark.parametrize("ending", ["error", "keyboard"])
def test_a_compiled_pipeline_is_left_as_it_was_however_it_ends(ending: str) -> None:
    pipe = fresh()
    compiled("text_encoder", "unet")(pipe)
    before = wrappers_of(pipe)

    def on_step(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> None:
        raise ValueError("the caller's own") if ending == "error" else KeyboardInterrupt

    if ending == "error":
        with pytest.raises(ValueError, match="caller's own"):
            families.invert(pipe, callback_on_step_end=on_step)
    else:
        assert families.invert(pipe, callback_on_step_end=on_step).hard_prompts[0].stop_reason == "interrupted"
    assert wrappers_of(pipe) == before


# --- what changes the numbers: it is computed -----------------------------------------------


def lora(name: str, targets: list[str], wrapped: bool = False, **options: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, **options)
        if wrapped:
            setattr(pipe, name, peft.get_peft_model(getattr(pipe, name), config))
        else:
            peft.inject_adapter_in_model(config, getattr(pipe, name))

    return change


def hooked(pipe: Any) -> None:
    norm = [part for part in pipe.text_encoder.modules() if isinstance(part, nn.LayerNorm)][-1]
    norm.register_forward_hook(lambda m, i, o: o * 1.5)


def weight_norm(pipe: Any) -> None:
    linear = next(part for part in pipe.text_encoder.modules() if isinstance(part, nn.Linear))
    nn.utils.parametrizations.weight_norm(linear)
    linear.parametrizations.weight.original0.data *= 1.5


def subclassed(pipe: Any) -> None:
    kind: Any = type(pipe.text_encoder)

    class Mine(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **{**kwargs, "return_dict": True})
            out.last_hidden_state = out.last_hidden_state * 1.5
            return out

    pipe.text_encoder.__class__ = Mine


def mixed_precision(pipe: Any) -> None:
    pipe.text_encoder.to(torch.bfloat16)


CHANGED: dict[str, tuple[str, Callable[[Any], None]]] = {
    "LoRA in the text encoder": ("sd", lora("text_encoder", ["q_proj", "fc1"])),
    "LoRA of its table": ("sd", lora("text_encoder", ["token_embedding"])),
    "LoRA around the text encoder": ("sd", lora("text_encoder", ["v_proj"], wrapped=True)),
    "DoRA in the text encoder": ("sd", lora("text_encoder", ["q_proj"], use_dora=True)),
    "LoRA in a second text encoder": ("sdxl", lora("text_encoder_2", ["q_proj", "fc1"])),
    "LoRA in T5": ("flux", lora("text_encoder_2", ["q", "v"])),
    "a hook": ("sd", hooked),
    "weight_norm": ("sd", weight_norm),
    "a subclass": ("sd", subclassed),
    "another dtype": ("sd", mixed_precision),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_what_changes_the_text_encoder_is_computed(kind: str, request: pytest.FixtureRequest) -> None:
    family, change = CHANGED[kind]
    pipe, plain = fresh(family), fresh(family)
    change(pipe)
    if kind != "another dtype":
        request.getfixturevalue("float64_clip")
    for one in (pipe, plain):
        for module in modules_of(one).values():
            module.eval().requires_grad_(False)
            if kind != "another dtype":
                module.double()
    predictor, base = families.predictor_of(pipe, family), families.predictor_of(plain, family)
    text = "a red house"
    ids = torch.tensor([predictor.vocabulary.encode(text)])
    with torch.no_grad():
        tokens, own = predictor.condition(predictor.vocabulary.embed(ids)), predictor.condition_text(text)
        unchanged = base.condition_text(text)
    for found, expected in zip(tokens.tensors, own.tensors, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    pairs = zip(own.tensors, unchanged.tensors, strict=True)
    assert max(float((a.float() - b.float()).abs().max()) for a, b in pairs) > 1e-3, "the change is in it"
    # The gradient is that of finite differences.
    leaf = predictor.vocabulary.embed(ids).requires_grad_()
    if kind != "another dtype":

        def value(x: torch.Tensor) -> torch.Tensor:
            parts = [t.flatten() for t in predictor.condition(x).tensors if t.is_floating_point()]
            return (torch.cat(parts) * torch.linspace(-1, 1, sum(map(len, parts)), dtype=parts[0].dtype)).sum()

        way = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
        (gradient,) = torch.autograd.grad(value(leaf), leaf)
        step = 1e-2 * float(leaf.detach().norm() / way.norm())
        with torch.no_grad():
            slope = (value(leaf + step * way) - value(leaf - step * way)) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=0.1)


def test_a_lora_in_the_denoiser_counts_and_stays_active() -> None:
    pipe = fresh()
    lora("unet", ["to_q", "to_v"])(pipe)
    before, plain = families.state_of(pipe), found_by(fresh())
    found = found_by(pipe)
    assert found.score != pytest.approx(plain.score, abs=1e-5)
    after = families.state_of(pipe)
    assert {k: after[k] for k in before if k != "attributes"} == {k: before[k] for k in before if k != "attributes"}
    layers = [part for part in pipe.unet.modules() if type(part).__module__.startswith("peft.")]
    assert layers and all(part.active_adapters == ["default"] for part in layers)


def test_text_encoders_may_be_missing_where_the_pipeline_does_without() -> None:
    sd3 = fresh("sd3")
    sd3.text_encoder_3 = sd3.tokenizer_3 = None
    assert found_by(sd3, "sd3").text
    xl = fresh("sdxl")
    xl.text_encoder_2 = xl.tokenizer_2 = None
    with pytest.raises(BackendError, match="StableDiffusionXLPipeline cannot encode a prompt by itself"):
        found_by(xl, "sdxl")


@pytest.mark.parametrize("generic", [False, True])
def test_tokenizers_may_pad_on_either_side(generic: bool) -> None:
    pipe = fresh()
    pipe.tokenizer.padding_side = "left"
    for module in modules_of(pipe).values():
        module.eval().requires_grad_(False)
    predictor = families.predictor_of(pipe, "sd", generic)
    ids = torch.tensor([predictor.vocabulary.encode("a red house")])
    with torch.no_grad():
        found = predictor.condition(predictor.vocabulary.embed(ids)).tensors[0]
        torch.testing.assert_close(found, predictor.condition_text("a red house").tensors[0], atol=1e-5, rtol=1e-4)


# --- what is refused ------------------------------------------------------------------------


def test_layerwise_casting_is_refused_where_gradients_are_taken() -> None:
    pipe = fresh()
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(BackendError, match=r"unet has weights stored as float8_e4m3fn \(.*bfloat16"):
        found_by(pipe)
    pipe = fresh()
    diffusers.hooks.apply_layerwise_casting(
        pipe.text_encoder, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    with pytest.raises(BackendError, match=r"text_encoder has weights stored as float8_e4m3fn"):
        found_by(pipe)
    pipe = fresh()
    pipe.vae.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert found_by(pipe).text  # no gradients are taken of a VAE


class _Integers(nn.Linear):
    """A layer for inference alone, as torch's dynamic quantization makes them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().forward(x)


@pytest.mark.parametrize("name", ["text_encoder", "unet"])
def test_layers_that_stop_gradients_are_named(name: str) -> None:
    """Around them gradients still come through residual connections, and the search would follow a part of them."""
    pipe = fresh()
    linears = {path: part for path, part in getattr(pipe, name).named_modules() if type(part) is nn.Linear}
    next(part for path, part in linears.items() if path.endswith(("mlp.fc1", "attn2.to_k"))).__class__ = _Integers
    with pytest.raises(BackendError, match=r"no gradient passes through .*_Integers"):
        found_by(pipe)


def test_torch_dynamic_quantization_is_refused() -> None:
    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        pytest.skip("this torch has no dynamic quantization")
    pipe = fresh()
    pipe.text_encoder = quantize(pipe.text_encoder, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(BackendError, match="no gradient passes through"):
        found_by(pipe)


def test_an_ip_adapter_is_refused_without_its_picture() -> None:
    pipe = fresh()
    pipe.unet.encoder_hid_proj = type("MultiIPAdapterImageProjection", (nn.Module,), {})()
    with pytest.raises(BackendError, match="IP-Adapter.*unload_ip_adapter"):
        found_by(pipe)


def test_torchscript_and_sharded_networks_are_refused() -> None:
    pipe = fresh()
    pipe.unet = type("FullyShardedDataParallel", (nn.Module,), {})()
    with pytest.raises(BackendError, match="load the model anew without FSDP"):
        found_by(pipe)


def test_a_tokenizer_of_another_kind_is_named() -> None:
    pipe = fresh()
    pipe.tokenizer = type("Characters", (), {"model_max_length": 20})()
    with pytest.raises(BackendError, match="Characters"):
        noise_predictor(pipe, height=families.SIZE, width=families.SIZE)


# --- text that means more to the pipeline ---------------------------------------------------


def learned(pipe: Any, *tokens: str, resize: bool = True) -> None:
    """As `load_textual_inversion` leaves a pipeline."""
    pipe.tokenizer.add_tokens(list(tokens))
    if resize:
        torch.manual_seed(1)
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)


def test_a_learned_token_counts_in_the_template_and_is_never_found() -> None:
    pipe = fresh()
    found_by(pipe)  # the tokenizer is known from before it learned the token
    learned(pipe, "sks")
    found = found_by(pipe, template="a photo of sks {}")
    assert found.filled.startswith("a photo of sks ") and "sks" not in found.text
    plain = fresh()
    assert found_by(plain, template="a photo of sks {}", initial_prompt=found.text, max_steps=0).score != found.score


@pytest.mark.parametrize(
    ("family", "template", "message"),
    [
        ("sd", "a photo of <cat> {}", "'<cat>' stands for several vectors"),
        ("sdxl", "a photo <|endoftext|> of {}", r"'<\|endoftext\|>' is not text"),
    ],
)
def test_a_template_that_the_pipeline_reads_otherwise_is_refused_before_the_search(
    family: str, template: str, message: str
) -> None:
    pipe = fresh(family)
    if family == "sd":
        learned(pipe, "<cat>", "<cat>_1")
    seen: list[int] = []
    with pytest.raises(BackendError, match=message):
        found_by(pipe, family, template=template, callback_on_step_end=lambda p, step, t, kwargs: seen.append(step))
    assert not seen


def test_a_token_without_an_embedding_is_named() -> None:
    pipe = fresh()
    learned(pipe, "sks", resize=False)
    with pytest.raises(TemplateError, match="'sks'.*resize_token_embeddings"):
        found_by(pipe, template="a photo of sks {}")


def test_clip_never_spells_what_the_pipeline_reads_as_a_learned_token() -> None:
    pipe = fresh()
    options = {"clip_backend": "emoji", "num_tokens": 3, "max_steps": 3}
    before = pipe.invert_prompt(families.OTHER, generator=torch.Generator().manual_seed(0), **options).prompts[0]
    word = before.split()[0]
    learned(pipe, word)
    after = pipe.invert_prompt(families.OTHER, generator=torch.Generator().manual_seed(0), **options).prompts[0]
    assert word not in after
    both = pipe.invert_prompt(
        families.OTHER, "clip+diffusion", num_noises=2, noises_per_step=None, generator=torch.Generator().manual_seed(0),
        **options,
    ).prompts[0]  # fmt: skip
    assert word not in both


@pytest.mark.parametrize("argument", ["template", "text", "initial_prompt", "required"])
def test_clip_is_not_given_a_learned_token_to_read(argument: str) -> None:
    pipe = fresh()
    learned(pipe, "<sks>")
    value: Any = {"template": "a photo of <sks> {}", "required": ["<sks>"]}.get(argument, "<sks>")
    with pytest.raises(TemplateError, match=rf"`{argument}` has '<sks>'.*match='diffusion'"):
        pipe.invert_prompt(families.OTHER, clip_backend="emoji", num_tokens=3, max_steps=1, **{argument: value})


def test_skipping_the_last_layers_counts() -> None:
    pipe = fresh("sdxl")
    options = {**families.OPTIONS.get("sdxl", {}), "clip_skip": 1}
    for module in modules_of(pipe).values():
        module.eval().requires_grad_(False)
    one, other = (
        noise_predictor(pipe, height=families.SIZE, width=families.SIZE, options=given) for given in (options, None)
    )
    text = "a red house"
    ids = torch.tensor([one.vocabulary.encode(text)])
    with torch.no_grad():
        found = one.condition(one.vocabulary.embed(ids)).tensors[0]
        torch.testing.assert_close(found, one.condition_text(text).tensors[0], atol=1e-5, rtol=1e-4)
        assert float((found - other.condition_text(text).tensors[0]).abs().max()) > 1e-3
