"""open_clip models as people change them, and tokenizers of other models."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

open_clip = pytest.importorskip("open_clip")

from hardprompts.errors import BackendError  # noqa: E402
from hardprompts_openclip.backend import from_model  # noqa: E402
from hardprompts_openclip.towers import CausalTower, HookedTower  # noqa: E402

TEXTS = ("dog", "a red dog in the house", "a small green cat with the moon on a big tree")
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}


def model_of(kind: str = "CLIP", **text: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(open_clip, kind)(embed_dim=16, vision_cfg=VISION, text_cfg={**TEXT, **text})
    for parameter in model.parameters():  # zeros and small numbers hide mistakes
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model.eval()


def tokenizer(context: int = 24) -> Any:
    return open_clip.tokenizer.SimpleTokenizer(context_length=context)


@pytest.fixture(scope="module")
def plain() -> Any:
    return model_of()


def blocks(model: Any) -> Any:
    return (model.text if hasattr(model, "text") else model).transformer.resblocks


def hook_on_block(model: Any) -> Any:
    blocks(model)[1].register_forward_hook(lambda m, i, o: o * 1.5)
    return model


def hook_on_linear(model: Any) -> Any:
    blocks(model)[1].mlp.c_fc.register_forward_hook(lambda m, i, o: o * 1.5)
    return model


def hook_on_attention(model: Any) -> Any:
    blocks(model)[1].attn.register_forward_hook(lambda m, i, o: (o[0] * 1.5, *o[1:]))
    return model


def hook_on_norm(model: Any) -> Any:
    model.ln_final.register_forward_pre_hook(lambda m, i: (i[0] * torch.linspace(0, 2, 32),))
    return model


def hook_on_transformer(model: Any) -> Any:
    model.transformer.register_forward_hook(lambda m, i, o: o * torch.linspace(0, 2, 32))
    return model


def own_forward(model: Any) -> Any:
    part = blocks(model)[0].mlp.c_proj
    before = part.forward
    part.forward = lambda *args, **kwargs: before(*args, **kwargs) * 1.5
    return model


def own_encode_text(model: Any) -> Any:
    before = model.encode_text
    model.encode_text = lambda text, normalize=False: before(text, normalize=normalize) + 0.5
    return model


def subclass(model: Any) -> Any:
    class Louder(type(model)):  # type: ignore[misc]
        def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            return super().encode_text(text, normalize=normalize) + 0.5

    model.__class__ = Louder
    return model


class _Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * 1.5, self.bias)


def quantized(model: Any) -> Any:
    blocks(model)[2].mlp.c_proj.__class__ = _Scaled
    return model


def weight_norm(model: Any) -> Any:
    part = blocks(model)[0].mlp.c_fc
    nn.utils.parametrizations.weight_norm(part)
    part.parametrizations.weight.original0.data *= 1.5
    return model


def other_activation(model: Any) -> Any:
    blocks(model)[1].mlp.gelu = nn.Tanh()
    return model


def other_embedding(model: Any) -> Any:
    class Doubled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(ids)

    model.token_embedding.__class__ = Doubled
    return model


def hook_on_embedding(model: Any) -> Any:
    model.token_embedding.register_forward_hook(lambda m, i, o: 2 * o)
    return model


def lora(**options: Any) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        targets = r"transformer\.resblocks\.\d+\.mlp\.c_(fc|proj)"
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, init_lora_weights=False, **options))

    return change


def compiled_in_place(model: Any) -> Any:
    model.transformer.compile(backend="eager")
    return model


CHANGES: dict[str, Callable[[Any], Any]] = {
    "none": lambda model: model,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "module.compile": compiled_in_place,
    "DataParallel": nn.DataParallel,
    "LoRA": lora(),
    "LoRA compiled": lambda model: torch.compile(lora()(model), backend="eager"),
    "DoRA injected": lambda model: lora(use_dora=True)(model).get_base_model(),
    "a hook on a block": hook_on_block,
    "a hook on a linear": hook_on_linear,
    "a hook on attention": hook_on_attention,
    "a hook on a norm": hook_on_norm,
    "a hook on the transformer": hook_on_transformer,
    "a hook on the table": hook_on_embedding,
    "a forward of its own": own_forward,
    "encode_text of its own": own_encode_text,
    "a subclass": subclass,
    "a quantized layer": quantized,
    "weight_norm": weight_norm,
    "another activation": other_activation,
    "another table": other_embedding,
}
SAME = ("none", "torch.compile", "module.compile", "DataParallel")


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_changed_is_computed(kind: str, plain: Any) -> None:
    own = CHANGES[kind](copy.deepcopy(plain))
    reads = tokenizer()
    backend = from_model(own, reads, name=kind)
    encoder, base = backend.text_encoder, from_model(copy.deepcopy(plain), reads).text_encoder
    inner = getattr(own, "module", own)
    for text in TEXTS:
        ids = torch.tensor([encoder.vocabulary.encode(text)])
        embeddings = encoder.vocabulary.embed(ids).detach().clone().requires_grad_()
        expected = inner.encode_text(reads([text]), normalize=False).detach()
        found = encoder.encode(embeddings)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
        weights = torch.linspace(-1, 1, found.shape[1])
        (gradient,) = torch.autograd.grad((found * weights).sum(), embeddings)
        way = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        step = 1e-2 * float(embeddings.detach().norm() / way.norm())
        with torch.no_grad():
            ahead, behind = ((encoder.encode(embeddings + s * way) * weights).sum() for s in (step, -step))
        assert float((gradient * way).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=0.05, abs=0.02)
    changed = float((encoder.encode_text(TEXTS) - base.encode_text(TEXTS)).norm()) > 1e-2
    assert changed is (kind not in SAME), "the change is in what is compared"
    frozen = isinstance(encoder._tower, CausalTower) and encoder._tower.is_frozen
    assert frozen is (kind in (*SAME, "a hook on the table")), "no other tower is replayed from its weights"


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_hook_is_heard_in_every_kind_of_model(kind: str) -> None:
    own = hook_on_block(model_of(kind))
    encoder = from_model(own, tokenizer()).text_encoder
    ids = torch.tensor([encoder.vocabulary.encode(TEXTS[1])])
    found = encoder.encode(encoder.vocabulary.embed(ids))
    torch.testing.assert_close(found, encoder.encode_text([TEXTS[1]]), atol=1e-4, rtol=1e-3)


# --- tokenizers of other models -------------------------------------------------------------


@pytest.mark.parametrize(("kind", "context"), [("CLIP", 32), ("CLIP", 16), ("CustomTextCLIP", 32)])
def test_a_tokenizer_of_another_length_is_refused_with_both_lengths(kind: str, context: int) -> None:
    message = rf"mine: the tokenizer gives texts of {context} places, the text tower has 24; .*context_length=24"
    with pytest.raises(BackendError, match=message):
        from_model(model_of(kind), tokenizer(context), name="mine")


def test_a_smaller_table_than_the_tokenizers_is_refused() -> None:
    with pytest.raises(
        BackendError, match="mine: the tokenizer's special tokens reach id 49407, the model's table has 49400"
    ):
        from_model(model_of(vocab_size=49400), tokenizer(), name="mine")


def test_a_tower_that_is_read_out_elsewhere_than_the_tokenizer_ends_its_texts() -> None:
    """Where the end token is not the largest id, the feature is read at whatever word has that."""
    reads = tokenizer()
    reads.eot_token_id = reads.encoder["!</w>"]
    with pytest.raises(BackendError, match="mine: two different texts have the same features"):
        from_model(model_of(), reads, name="mine")


# --- what is refused ------------------------------------------------------------------------


def test_layers_that_stop_gradients_are_named(plain: Any) -> None:
    class Integers(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    own = copy.deepcopy(plain)
    blocks(own)[1].mlp.c_fc.__class__ = Integers
    with pytest.raises(BackendError, match=r"mine: no gradient passes through .*c_fc .*Integers"):
        from_model(own, tokenizer(), name="mine")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_that_nothing_can_be_driven_inside_of(plain: Any) -> None:
    meta = copy.deepcopy(plain)
    blocks(meta)[1].mlp.c_fc.to("meta")
    with pytest.raises(BackendError, match="mine: the weights .* are not in memory"):
        from_model(meta, tokenizer(), name="mine")
    with pytest.raises(BackendError, match="TorchScript"):
        from_model(torch.jit.script(nn.Linear(2, 2)), tokenizer(), name="mine")
    with pytest.raises(BackendError, match="a Linear cannot be used; pass a CLIP"):
        from_model(nn.Linear(2, 2), tokenizer(), name="mine")


def test_weights_that_are_not_finite_are_noticed_at_opening(plain: Any) -> None:
    own = copy.deepcopy(plain)
    own.text_projection.data[0, 0] = torch.nan
    with pytest.raises(BackendError, match="differ from encode_text by nan"):
        from_model(own, tokenizer(), name="mine")


def test_the_models_own_failure_is_named(plain: Any) -> None:
    own = copy.deepcopy(plain)
    own.ln_final = nn.LayerNorm(7)
    with pytest.raises(BackendError, match="mine: the model's own encode_text fails"):
        from_model(own, tokenizer(), name="mine")


def test_a_changed_tower_is_driven_by_its_own_pass(plain: Any) -> None:
    encoder = from_model(subclass(copy.deepcopy(plain)), tokenizer()).text_encoder
    assert isinstance(encoder._tower, HookedTower) and not encoder.short_context
