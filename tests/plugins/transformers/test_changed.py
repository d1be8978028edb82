"""Models as people change them: wrapped, compiled, with adapters, hooks and quantized layers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from hardprompts import PromptDistiller, PromptInverter
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError, TemplateError
from hardprompts_emoji import path
from hardprompts_transformers.backend import from_model
from hardprompts_transformers.language_models import from_language_model
from hardprompts_transformers.releases import BY_PILLOW, DTYPE

TEXTS = ("a red cat", "two dogs in the snow", "a big house near the sea at night")


@pytest.fixture(scope="module")
def clip() -> tuple[Any, Any, Any]:
    folder = path("emoji-clip")
    return (
        transformers.CLIPModel.from_pretrained(folder, **{DTYPE: torch.float32}),
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoImageProcessor.from_pretrained(folder, **BY_PILLOW),
    )


@pytest.fixture(scope="module")
def lm() -> tuple[Any, Any]:
    folder = path("emoji-lm")
    return (
        transformers.AutoModelForCausalLM.from_pretrained(folder, **{DTYPE: torch.float32}),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def agrees(backend: Backend, own: Any, tokenizer: Any) -> None:
    """Features from token embeddings are those that the model itself gives, and gradients reach the embeddings."""
    encoder = backend.text_encoder
    for text in TEXTS:
        with torch.no_grad():
            expected = own.get_text_features(**tokenizer([text], return_tensors="pt"))
        expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
        ids = torch.tensor([encoder.vocabulary.encode(text)])
        embeddings = encoder.vocabulary.embed(ids).detach().clone().requires_grad_()
        found = encoder.encode(embeddings)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(encoder.encode_text([text]), expected, atol=2e-4, rtol=1e-4)
        slope(encoder.encode, embeddings)


def slope(encode: Callable[[torch.Tensor], torch.Tensor], embeddings: torch.Tensor) -> None:
    """The gradient is that of finite differences: none of it was lost on the way."""
    way = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
    out = encode(embeddings)
    weights = torch.linspace(-1, 1, out.shape[-1])
    (gradient,) = torch.autograd.grad((out * weights).sum(), embeddings)
    with torch.no_grad():
        step = 1e-3 * float(embeddings.norm() / way.norm())
        ahead, behind = (((encode(embeddings + s * way)) * weights).sum() for s in (step, -step))
    assert float((gradient * way).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=0.05, abs=1e-3)


# --- changes that are computed --------------------------------------------------------------


def layer(model: Any) -> Any:
    return model.text_model.encoder.layers[1]


def lora(targets: list[str], **options: Any) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, **options)
        return peft.get_peft_model(model, config)

    return change


def inside(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The change that stays in the layers when the wrapper is gone, as `add_adapter` and `load_lora_weights` leave it."""

    def changed(model: Any) -> Any:
        return change(model).get_base_model()

    return changed


def hook_on_layer(model: Any) -> Any:
    layer(model).register_forward_hook(lambda m, i, o: (o[0] * 1.5, *o[1:]) if isinstance(o, tuple) else o * 1.5)
    return model


def hook_on_linear(model: Any) -> Any:
    layer(model).mlp.fc1.register_forward_hook(lambda m, i, o: o * 1.5)
    return model


def hook_before_attention(model: Any) -> Any:
    def louder(module: Any, args: Any, kwargs: Any) -> Any:
        kwargs = {k: v * 1.2 if k == "hidden_states" else v for k, v in kwargs.items()}
        return tuple(a * 1.2 if isinstance(a, torch.Tensor) and a.ndim == 3 else a for a in args), kwargs

    layer(model).self_attn.register_forward_pre_hook(louder, with_kwargs=True)
    return model


def hook_on_norm(model: Any) -> Any:
    model.text_model.final_layer_norm.register_forward_hook(lambda m, i, o: o + 0.5)
    return model


def own_forward(model: Any) -> Any:
    """As accelerate's and diffusers' hooks change a module."""
    part = layer(model).self_attn.out_proj
    before = part.forward
    part.forward = lambda *args, **kwargs: before(*args, **kwargs) * 1.5
    return model


def own_features(model: Any) -> Any:
    before = model.get_text_features

    def louder(**inputs: Any) -> Any:
        out = before(**inputs)
        return out * 2 if isinstance(out, torch.Tensor) else out.pooler_output * 2

    model.get_text_features = louder
    return model


def subclassed_mlp(model: Any) -> Any:
    class Gated(type(layer(model).mlp)):  # type: ignore[misc]
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) * 1.5

    layer(model).mlp.__class__ = Gated
    return model


def subclassed_layer(model: Any) -> Any:
    class Scaled(type(layer(model))):  # type: ignore[misc]
        def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(states, *args, **kwargs)
            return out * 0.9 if isinstance(out, torch.Tensor) else (out[0] * 0.9, *out[1:])

    layer(model).__class__ = Scaled
    return model


def subclassed_tower(model: Any) -> Any:
    class Mine(type(model)):  # type: ignore[misc]
        def get_text_features(self, **inputs: Any) -> Any:
            out = super().get_text_features(**inputs)
            return out * 2 if isinstance(out, torch.Tensor) else out.pooler_output * 2

    model.__class__ = Mine
    return model


def other_activation(model: Any) -> Any:
    layer(model).mlp.activation_fn = nn.Tanh()
    return model


def weight_norm(model: Any) -> Any:
    nn.utils.parametrizations.weight_norm(layer(model).mlp.fc1)
    layer(model).mlp.fc1.parametrizations.weight.original0.data *= 1.5
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
def older_weight_norm(model: Any) -> Any:
    nn.utils.weight_norm(layer(model).mlp.fc1)
    layer(model).mlp.fc1.weight_g.data *= 1.5  # the weight itself is computed by a hook
    return model


class ScaledLinear(nn.Linear):
    """As quantized layers are: a subclass whose weight alone does not say what it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * 1.5, self.bias)


def quantized(model: Any) -> Any:
    layer(model).mlp.fc2.__class__ = ScaledLinear
    return model


def compiled_layer(model: Any) -> Any:
    model.text_model.encoder.layers[1] = torch.compile(layer(model), backend="eager")
    return model


def compiled_in_place(model: Any) -> Any:
    model.text_model.compile(backend="eager")
    return model


def resized(model: Any) -> Any:
    table = model.text_model.embeddings.token_embedding  # by hand: older releases do not resize a tower
    longer = torch.nn.Embedding(table.num_embeddings + 5, table.embedding_dim)
    with torch.no_grad():
        longer.weight[: table.num_embeddings] = table.weight
    model.text_model.embeddings.token_embedding = longer
    return model


def unchanged(model: Any) -> Any:
    return model


CHANGES: dict[str, Callable[[Any], Any]] = {
    "none": unchanged,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "module.compile": compiled_in_place,
    "a compiled layer": compiled_layer,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "LoRA": lora(["q_proj", "fc1"]),
    "LoRA compiled": lambda model: torch.compile(lora(["v_proj"])(model), backend="eager"),
    "DoRA": lora(["q_proj", "fc1"], use_dora=True),
    "LoRA injected": inside(lora(["q_proj", "fc1"])),
    "LoRA of the table": inside(lora(["token_embedding"])),
    "a hook on a layer": hook_on_layer,
    "a hook on a linear": hook_on_linear,
    "a hook before attention": hook_before_attention,
    "a hook on a norm": hook_on_norm,
    "a forward of its own": own_forward,
    "features of its own": own_features,
    "another MLP": subclassed_mlp,
    "another layer": subclassed_layer,
    "another model": subclassed_tower,
    "another activation": other_activation,
    "weight_norm": weight_norm,
    "older weight_norm": older_weight_norm,
    "a quantized layer": quantized,
    "a longer table": resized,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_changed_is_computed(kind: str, clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, images = clip
    own = CHANGES[kind](copy.deepcopy(model))
    base = from_model(copy.deepcopy(model), tokenizer, images, name="as it was")
    kept = {name: id(part) for name, part in own.named_modules()}
    backend = from_model(own, tokenizer, images, name=kind)
    inner = getattr(own, "module", own)
    agrees(backend, inner, tokenizer)
    assert {name: id(part) for name, part in own.named_modules()} == kept
    difference = (backend.encode_texts(TEXTS) - base.encode_texts(TEXTS)).norm()
    same = ("none", "torch.compile", "module.compile", "a compiled layer", "DataParallel", "AveragedModel",
            "features of its own", "another model", "a longer table")  # fmt: skip
    assert (float(difference) > 1e-3) is (kind not in same), "the change is in what is compared"


def test_only_an_untouched_tower_is_replayed_from_its_weights(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    for kind, change in CHANGES.items():
        if kind in ("older weight_norm", "AveragedModel"):
            continue
        frozen = from_model(change(copy.deepcopy(model)), tokenizer, name=kind).text_encoder.frozen
        plain = ("none", "torch.compile", "module.compile", "DataParallel", "a longer table")
        assert (frozen is not None) is (kind in plain), kind


def test_a_model_that_was_used_before_is_still_replayed(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    used = copy.deepcopy(model)
    used.get_text_features(**tokenizer(["a cat"], return_tensors="pt"), output_hidden_states=True)
    assert from_model(used, tokenizer, name="used").text_encoder.frozen is not None


def test_a_compiled_model_stays_compiled_and_finds_the_same_prompt(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, images = clip
    picture = Image.new("RGB", (64, 64), "red")
    found = []
    for change in (unchanged, CHANGES["torch.compile"], compiled_in_place):
        own = change(copy.deepcopy(model))
        kind, compiled = type(own), getattr(own, "text_model", own)._compiled_call_impl
        inverter = PromptInverter(from_model(own, tokenizer, images, name="mine"))
        found.append(inverter.invert(picture, 3, max_steps=2, seed=0).text)
        assert type(own) is kind and getattr(own, "text_model", own)._compiled_call_impl is compiled
    assert len(set(found)) == 1


def test_states_by_the_models_own_pass(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    own = hook_on_layer(copy.deepcopy(model))
    encoder = from_model(own, tokenizer, name="mine").text_encoder
    assert not encoder.written
    ids = encoder.vocabulary.encode(TEXTS[0])
    states = encoder.encode_states(encoder.vocabulary.embed(torch.tensor([ids])))
    places = encoder.max_tokens + 2
    padded = tokenizer([TEXTS[0]], padding="max_length", max_length=places, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(states, own.text_model(input_ids=padded).last_hidden_state, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="do not fit"):
        encoder.encode(torch.zeros(1, encoder.max_tokens + 1, states.shape[-1]))


# --- what is refused ------------------------------------------------------------------------


def test_layers_that_stop_gradients_are_named(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip

    class Integers(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    own = copy.deepcopy(model)
    layer(own).mlp.fc1.__class__ = Integers  # the residual connection around it still has a gradient
    with pytest.raises(BackendError, match=r"mine: no gradient passes through .*fc1 .*Integers"):
        from_model(own, tokenizer, name="mine")


@pytest.mark.parametrize("kind", ["meta", "float8", "sequential", "script", "FSDP"])
def test_weights_that_gradients_cannot_be_taken_through(kind: str, clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    own: Any = copy.deepcopy(model)
    message = {
        "meta": "not in memory", "float8": r"stored as float8_e4m3fn \(.*fc1.weight\)", "sequential": "layer by layer",
        "script": "TorchScript", "FSDP": "spread over several processes",
    }[kind]  # fmt: skip
    if kind == "meta":
        layer(own).mlp.fc1.to("meta")
    elif kind == "float8":
        layer(own).mlp.fc1.to(torch.float8_e4m3fn)
    elif kind == "sequential":
        accelerate = pytest.importorskip("accelerate")
        accelerate.cpu_offload(own, torch.device("cpu"), offload_buffers=True)
    elif kind == "script":
        own = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    else:
        own = type("FullyShardedDataParallel", (nn.Module,), {})()
    with pytest.raises(BackendError, match=message):
        from_model(own, tokenizer, name="mine")


def test_learned_vectors_before_every_text_are_not_dropped(lm: tuple[Any, Any]) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer = lm
    tuned = peft.get_peft_model(
        copy.deepcopy(model), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(BackendError, match=r"learned vectors before every text \(.*PROMPT_TUNING.*get_base_model"):
        from_language_model(tuned, tokenizer, name="mine")
    assert from_language_model(tuned.get_base_model(), tokenizer, name="mine").language_model is not None


def test_what_is_not_a_tokenizer_or_not_a_model_is_named(clip: tuple[Any, Any, Any], lm: tuple[Any, Any]) -> None:
    model, tokenizer, images = clip
    with pytest.raises(BackendError, match="a CLIPProcessor is not a tokenizer.*pass its .tokenizer"):
        from_model(model, transformers.CLIPProcessor(images, tokenizer), name="mine")
    with pytest.raises(BackendError, match="a function is not a tokenizer"):
        from_model(model, lambda text: [1], name="mine")
    with pytest.raises(BackendError, match="from_language_model"):
        from_model(lm[0], lm[1], name="mine")
    sentences = type("SentenceTransformer", (nn.Module,), {})()
    with pytest.raises(BackendError, match="sentences.from_sentence_transformer"):
        from_model(sentences, tokenizer, name="mine")


def test_an_image_processor_of_another_model_is_refused_at_opening(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    with pytest.raises(BackendError, match="makes images of 224 x 224 pixels, the model reads 64 x 64"):
        from_model(model, tokenizer, transformers.CLIPImageProcessor(), name="mine")
    with pytest.raises(BackendError, match="not an image processor"):
        from_model(model, tokenizer, "openai/clip-vit-base-patch32", name="mine")


def test_a_clip_whose_tokenizer_pads_on_the_left_is_refused(clip: tuple[Any, Any, Any]) -> None:
    model, tokenizer, _ = clip
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    with pytest.raises(BackendError, match='padding_side = "right"'):
        from_model(model, left, name="mine")


def test_added_tokens_do_not_keep_an_older_clip_from_opening(clip: tuple[Any, Any, Any]) -> None:
    """Where the config says eos_token_id = 2, the feature is read at the largest id; an added token has a larger one."""
    model, tokenizer, _ = clip
    own, added = copy.deepcopy(model), copy.deepcopy(tokenizer)
    own.text_model.config.eos_token_id = own.text_model.eos_token_id = 2
    added.add_tokens(["<sks>"])
    backend = from_model(own, added, name="mine")
    assert not backend.vocabulary.allowed[-1] or len(backend.vocabulary) < len(added)


# --- language models ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch.compile", "module.compile", "DataParallel", "LoRA", "LoRA compiled", "a hook"])
def test_language_models_as_people_change_them(kind: str, lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    target = ["c_attn", "c_fc"]
    own: Any = copy.deepcopy(model)
    if kind == "a hook":
        part = dict(own.named_modules())[next(n for n, _ in own.named_modules() if n.endswith(target[0]))]
        part.register_forward_hook(lambda m, i, o: o * 1.5)
    elif kind == "module.compile":
        own.base_model.compile(backend="eager")
    else:
        change = {
            "torch.compile": CHANGES["torch.compile"], "DataParallel": nn.DataParallel,
            "LoRA": lora(target, task_type="CAUSAL_LM"),
            "LoRA compiled": lambda m: torch.compile(lora(target, task_type="CAUSAL_LM")(m), backend="eager"),
        }[kind]  # fmt: skip
        own = change(own)
    adapted = from_language_model(own, tokenizer, name=kind).language_model
    assert adapted is not None and adapted.kind == "causal"
    ids = torch.tensor([tokenizer("a kind of bird")["input_ids"]])
    with torch.no_grad():
        expected = getattr(own, "module", own)(input_ids=ids).logits
    embeddings = adapted.vocabulary.embed(ids).detach().clone().requires_grad_()
    mask = torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(adapted.logits(adapted.states(embeddings, mask)), expected, atol=1e-3, rtol=1e-3)
    slope(lambda x: adapted.states(x, mask)[:, -1], embeddings)


def test_a_compiled_masked_model_is_not_taken_for_a_causal_one() -> None:
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a the cat dog red big of in on house tree".split()]
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    model = torch.compile(transformers.BertForMaskedLM(config), backend="eager")
    backend = from_language_model(model, tokenizer, name="mine")
    assert backend.language_model is not None and backend.language_model.kind == "masked"


# --- templates that the model reads otherwise -----------------------------------------------


@pytest.mark.parametrize("door", ["invert", "distill"])
def test_an_end_token_typed_as_text_is_refused_in_a_template(door: str, clip: tuple[Any, Any, Any]) -> None:
    """The model stops reading there, and the search would go on."""
    backend = from_model(*clip, name="mine")
    with pytest.raises(TemplateError, match=r"mine reads the template .* differently .*'<\|endoftext\|>' is not text"):
        if door == "invert":
            PromptInverter(backend).invert(Image.new("RGB", (64, 64), "red"), 3, "a cat <|endoftext|> {}", max_steps=1)
        else:
            PromptDistiller(backend).distill("a big red cat", 2, templates="a cat <|endoftext|> {}", max_steps=1)
