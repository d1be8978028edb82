"""open_clip backends: every kind of tower against its own `encode_text`, and every bad name and file."""

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

open_clip = pytest.importorskip("open_clip")

import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors  # noqa: E402

from hardprompts.encoders import Backend, load_backend  # noqa: E402
from hardprompts.errors import BackendError, MissingExtra  # noqa: E402
from hardprompts.prompts import PromptTemplate  # noqa: E402
from hardprompts.testing import check_backend, check_inversions  # noqa: E402
from hardprompts.towers import frozen  # noqa: E402
from hardprompts_openclip.backend import OpenClipTextEncoder, from_model  # noqa: E402
from hardprompts_openclip.tokenizers import BytePairTokenizer, adapt  # noqa: E402
from hardprompts_openclip.towers import HookedTower  # noqa: E402

WORDS = "a red green blue dog cat house tree sun moon of in the on with small big photo painting 1 2".split()
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}


def sentencepiece_like(folder: Path) -> None:
    """A tokenizer of whole words with an end token and no start token, as SigLIP's and T5's."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(f"▁{word}", -1.0) for word in WORDS]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def wordpiece(folder: Path) -> None:
    """A tokenizer with a start and an end token, as BERT's."""
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "##s"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(folder)


def bert(folder: Path) -> None:
    wordpiece(folder)
    transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    ).save_pretrained(folder)


def t5(folder: Path) -> None:
    sentencepiece_like(folder)
    transformers.MT5Config(
        vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0
    ).save_pretrained(folder)


def m2m(folder: Path) -> None:
    wordpiece(folder)
    transformers.M2M100Config(
        vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    ).save_pretrained(folder)  # fmt: skip


def hugging_face(folder: Path, pooler: str, **options: Any) -> dict[str, Any]:
    return {
        "hf_model_name": str(folder), "hf_tokenizer_name": "in the folder", "hf_pooler_type": pooler,
        "hf_model_pretrained": False, "context_length": 20, **options,
    }  # fmt: skip


SMALL = {"vocab_size": 64, "hf_tokenizer_name": "in the folder"}
SIGLIP = {**SMALL, "no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
          "tokenizer_kwargs": {"clean": "canonicalize"}}  # fmt: skip
COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
MULTIMODAL = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2}

#: name -> (text configuration, rest of the model's configuration, files of the tokenizer and text model)
TOWERS: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, Any], Callable[[Path], None] | None]] = {
    "clip": (lambda _: TEXT, {"quick_gelu": True}, None),
    "custom-text": (lambda _: {**TEXT, "proj_type": "none", "ls_init_value": 0.5}, {"custom_text": True, "embed_dim": 32}, None),
    "custom-blocks": (lambda _: {**TEXT, "qk_norm": True, "scale_fc": True}, {"custom_text": True}, None),
    "eos-pool": (lambda _: {**TEXT, **SMALL, "pool_type": "eos", "eos_id": 1}, {}, sentencepiece_like),
    "coca": (
        lambda _: {**TEXT, "context_length": 23, "embed_cls": True, "output_tokens": True},
        {"custom_text": True, "multimodal_cfg": MULTIMODAL, "vision_cfg": COCA_VISION},
        None,
    ),
    "siglip": (lambda _: {**TEXT, **SIGLIP}, {"custom_text": True, "init_logit_bias": -10}, sentencepiece_like),
    "clipa": (
        lambda _: {**TEXT, **SMALL, "no_causal_mask": True, "pool_type": "last",
                   "tokenizer_kwargs": {"strip_sep_token": True}},
        {},
        wordpiece,
    ),  # fmt: skip
    "mobileclip": (lambda _: {**TEXT, "no_causal_mask": True}, {"custom_text": True}, None),
    "eva": (
        lambda _: TEXT,
        {"custom_text": True, "vision_cfg": {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224,
                                             "timm_pool": "token", "timm_proj": None}, "embed_dim": 192},
        None,
    ),  # fmt: skip
    "bert": (lambda folder: hugging_face(folder, "mean_pooler"), {}, bert),
    "bert-cls": (lambda folder: hugging_face(folder, "cls_pooler", output_tokens=False), {}, bert),
    "mt5": (lambda folder: hugging_face(folder, "mean_pooler", hf_proj_type="linear"), {}, t5),
    "m2m": (lambda folder: hugging_face(folder, "cls_pooler", hf_proj_type="linear"), {}, m2m),
}  # fmt: skip
CAUSAL = ("clip", "custom-text", "custom-blocks", "eos-pool", "eva")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a tiny model of random weights as a local folder, once per kind of tower."""
    root = tmp_path_factory.mktemp("open_clip")

    def written(kind: str) -> Path:
        path = root / kind
        if kind == "eos-pool" and not hasattr(open_clip.CLIPTextCfg, "eos_id"):
            pytest.skip(f"open_clip {open_clip.__version__} has no towers that pool at a token of their own")
        if path.exists():
            return path
        path.mkdir()
        text_cfg, rest, files = TOWERS[kind]
        if files is not None:
            files(path)
        config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text_cfg(path), **rest}
        (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = open_clip.create_model(f"local-dir:{path}", pretrained_text=False)
        for parameter in model.parameters():  # zeros and small numbers hide mistakes
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        save_file(
            {k: v.contiguous().clone() for k, v in model.state_dict().items()}, path / "open_clip_model.safetensors"
        )
        return path

    return written


@pytest.fixture(scope="module")
def backend(folder: Callable[[str], Path]) -> Callable[..., Backend]:
    opened: dict[tuple[str, torch.dtype], Backend] = {}

    def get(kind: str, dtype: torch.dtype = torch.float32) -> Backend:
        if (kind, dtype) not in opened:
            opened[kind, dtype] = load_backend(f"open_clip:local-dir:{folder(kind)}", device="cpu", dtype=dtype)
        return opened[kind, dtype]

    return get


def model_of(backend: Backend) -> Any:
    encoder = backend.text_encoder
    assert isinstance(encoder, OpenClipTextEncoder)
    return encoder._model


TEXTS = ("dog", "a red dog in the house", "photo of 2 small green cat with the moon on a big tree")


# --- the towers ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOWERS)
def test_features_are_those_of_encode_text(kind: str, backend: Callable[..., Backend]) -> None:
    opened = backend(kind)
    encoder, vocabulary = opened.text_encoder, opened.vocabulary
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert len(ids) == len(text.split())
        features = encoder.encode(vocabulary.embed(torch.tensor([ids])))
        own = model_of(opened).encode_text(encoder._tokenize([text]), normalize=False)
        torch.testing.assert_close(features, own, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(encoder.encode_text([text]), own)
    assert not any(parameter.requires_grad for parameter in model_of(opened).parameters())
    assert not model_of(opened).training


@pytest.mark.parametrize("kind", TOWERS)
def test_the_context_can_be_filled_and_not_overfilled(kind: str, backend: Callable[..., Backend]) -> None:
    encoder = backend(kind).text_encoder
    ids = encoder.vocabulary.encode(" ".join(["dog"] * encoder.max_tokens))
    full = encoder.encode(encoder.vocabulary.embed(torch.tensor([ids])))
    torch.testing.assert_close(
        full, encoder.encode_text([" ".join(["dog"] * encoder.max_tokens)]), atol=2e-5, rtol=1e-4
    )
    with pytest.raises(ValueError, match=f"up to {encoder.max_tokens}"):
        encoder.encode(torch.zeros(1, encoder.max_tokens + 1, encoder.vocabulary.table.shape[1]))
    empty = encoder.encode(torch.zeros(2, 0, encoder.vocabulary.table.shape[1]))
    torch.testing.assert_close(empty, encoder.encode_text(["", ""]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", TOWERS)
def test_prompts_of_a_batch_do_not_mix(kind: str, backend: Callable[..., Backend]) -> None:
    encoder = backend(kind).text_encoder
    texts = ["dog cat sun", "a red tree", "in the house"]
    ids = torch.tensor([encoder.vocabulary.encode(text) for text in texts])
    together = encoder.encode(encoder.vocabulary.embed(ids))
    torch.testing.assert_close(together, encoder.encode_text(texts), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", TOWERS)
def test_short_context_is_used_exactly_where_it_is_exact(kind: str, backend: Callable[..., Backend]) -> None:
    opened = backend(kind)
    encoder = opened.text_encoder
    assert encoder.short_context is (kind in CAUSAL)
    if not encoder.short_context:
        return
    full = HookedTower(model_of(opened))
    generator = torch.Generator().manual_seed(0)
    for length in (1, 8):
        embeddings = torch.randn(3, length, 32, generator=generator) * 0.1
        found = []
        for tower in (encoder._tower, full):
            leaf = embeddings.clone().requires_grad_()
            features = tower(leaf, encoder._layout(length))
            (gradient,) = torch.autograd.grad((features * torch.linspace(-1, 1, features.shape[1])).sum(), leaf)
            found.append((features, gradient))
        torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_gradients_are_those_of_finite_differences(kind: str, folder: Callable[[str], Path]) -> None:
    name = f"local-dir:{folder(kind)}"
    model = open_clip.create_model(name).double()
    encoder = from_model(model, open_clip.get_tokenizer(name)).text_encoder
    generator = torch.Generator().manual_seed(0)
    embeddings = (0.1 * torch.randn(2, 3, 32, generator=generator, dtype=torch.float64)).requires_grad_()
    assert encoder.encode(embeddings).dtype == torch.float64
    assert torch.autograd.gradcheck(encoder.encode, (embeddings,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", TOWERS)
def test_half_precision(kind: str, dtype: torch.dtype, backend: Callable[..., Backend]) -> None:
    exact, half = backend(kind), backend(kind, dtype)
    assert half.dtype == dtype
    encoder = half.text_encoder
    ids = torch.tensor([encoder.vocabulary.encode("a red dog in the house")])
    embeddings = encoder.vocabulary.embed(ids).requires_grad_()
    features = encoder.encode(embeddings)
    assert features.dtype == dtype
    (gradient,) = torch.autograd.grad(features.float().square().sum(), embeddings)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    own, reference = half.encode_texts(["a red dog in the house"]), exact.encode_texts(["a red dog in the house"])
    normalized = torch.nn.functional.normalize(features.float(), dim=-1)
    assert (normalized * own).sum() > 0.999
    assert (normalized * reference).sum() > 0.995
    assert (half.encode_images([picture()]) * exact.encode_images([picture()])).sum() > 0.99


def test_packed_weights_give_the_same_features_and_gradients(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(frozen, "PACKED_LEAST", 0)
    name = f"local-dir:{folder('clip')}"

    def run() -> tuple[OpenClipTextEncoder, torch.Tensor, torch.Tensor]:
        encoder = from_model(open_clip.create_model(name), open_clip.get_tokenizer(name)).text_encoder
        embeddings = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.no_grad():
            encoder.encode(embeddings)
        assert not any(block.fc._packed for block in encoder._tower._frozen.blocks), "packed before it is needed"
        features = encoder.encode(embeddings)
        return encoder, features, torch.autograd.grad(features.square().sum(), embeddings)[0]

    packed, features, gradient = run()
    assert all(block.fc._packed and block.out._packed for block in packed._tower._frozen.blocks)
    ids = torch.tensor([packed.vocabulary.encode("a dog")])
    with torch.no_grad():
        torch.testing.assert_close(packed.encode(packed.vocabulary.embed(ids)), packed.encode_text(["a dog"]))
    monkeypatch.setattr(frozen, "_multiply", lambda *_: torch.zeros(2, 2))  # a torch whose operators have changed
    plain, same_features, same_gradient = run()
    assert not any(block.fc._packed or block.fc._packable for block in plain._tower._frozen.blocks)
    torch.testing.assert_close(features, same_features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, same_gradient, atol=1e-5, rtol=1e-5)


# --- images, and models that are already built --------------------------------------------


def picture(mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((50, 40)).convert(mode)


@pytest.mark.parametrize("kind", TOWERS)
def test_images_are_encoded_as_by_the_model(
    kind: str, backend: Callable[..., Backend], folder: Callable[[str], Path]
) -> None:
    opened = backend(kind)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder(kind)}")
    with torch.no_grad():
        own = model.eval().encode_image(preprocess(picture()).unsqueeze(0), normalize=False)
    torch.testing.assert_close(opened.image_encoder.encode_images([picture()]), own, atol=1e-5, rtol=1e-4)


def test_a_model_of_ones_own(folder: Callable[[str], Path]) -> None:
    name = f"local-dir:{folder('clip')}"
    model = open_clip.create_model(name).train()
    backend = from_model(model, open_clip.get_tokenizer(name), name="mine", note="read me")
    assert (backend.name, backend.note, backend.dtype) == ("mine", "read me", torch.float32)
    assert not model.training and not model.token_embedding.weight.requires_grad
    assert backend.vocabulary.table.data_ptr() == model.token_embedding.weight.data_ptr(), "the table is not copied"
    with pytest.raises(BackendError, match="no image tower"):
        backend.encode_images([picture()])


def test_a_table_that_the_model_scales_is_taken_as_the_tower_sees_it(backend: Callable[..., Backend]) -> None:
    opened = backend("m2m")
    weight = model_of(opened).text.transformer.embed_tokens.weight
    torch.testing.assert_close(opened.vocabulary.table, weight * 32**0.5)


def test_the_tokenizer_of_another_model_is_refused(folder: Callable[[str], Path]) -> None:
    model = open_clip.create_model(f"local-dir:{folder('siglip')}")
    with pytest.raises(BackendError, match="does not fit the model.*64 rows"):
        from_model(model, open_clip.get_tokenizer("ViT-B-32"))
    with pytest.raises(BackendError, match="function is not known"):
        from_model(model, lambda texts: torch.zeros(len(texts), 24, dtype=torch.long))


# --- CLIP's tokenizer ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_pairs() -> BytePairTokenizer:
    return adapt(open_clip.get_tokenizer("ViT-B-32"))[0]  # type: ignore[return-value]


def test_the_encoding_is_that_of_simple_tokenizer(byte_pairs: BytePairTokenizer) -> None:
    own = open_clip.get_tokenizer("ViT-B-32")
    texts = [
        "", "  A Photo,of\ta dog's tail!! (1990s) #art @home ", "caf\u00e9 \u732b\U0001f431 na\u00efve", "&amp; &lt;b&gt;",
        "x\x07y \x1b[31mred", "\u2018quoted\u2019 \ufb01ne", "sch\u00c3\u00b6n", "<start_of_text> dog <end_of_text>",
        "supercalifragilisticexpialidocious", "a" * 40, "...,,,;;;---", "it's we'll they'd", "mid\r\nline\x0bbreak",
    ]  # fmt: skip
    texts += [own.decode([i]) for i in range(0, 49408, 41)]
    for text in texts:
        assert byte_pairs.encode(text) == own.encode(text), text


def odd_texts(count: int, seed: int) -> list[str]:
    """Texts of letters of any script, signs, white space of every kind, entities, mojibake and special tokens."""
    drawn = random.Random(seed)
    pieces = [
        "dog", "Dogs", "it's", "'\u017f", "'\u0345", "we'LL", "1990", "²", "Ⅷ", "&amp;", "&amp;lt;", "&#x1F431;", "&nbsp",
        "schÃ¶n", "â€œ", "ﬁ", "é", "e\u0301", "İ", "ß", "ςΣ", "\u200b", "\u200d", "👩‍👩‍👧", "🇩🇪", "\ufeff", "\ufffd", "\x00",
        "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u3000", "\t", "\r\n", " ", "  ", "_", "<", ">", "|", "</w>", "!!", "...",
        "<start_of_text>", "<End_Of_Text>", "a" * 60, "\U0001f9ff" * 9, "\u0558", "\U00010d4a",
    ]  # fmt: skip
    points = [point for point in range(0x30000) if not 0xD800 <= point < 0xE000]
    return [
        "".join(
            drawn.choice(pieces) if drawn.random() < 0.6 else chr(drawn.choice(points if drawn.random() < 0.5 else range(0x600)))
            for _ in range(drawn.randrange(12))
        )
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_the_encoding_of_odd_texts_is_that_of_simple_tokenizer(clean: str) -> None:
    own = open_clip.tokenizer.SimpleTokenizer(clean=clean)
    adapter = adapt(own)[0]
    texts = odd_texts(2000, seed=len(clean))
    wrong = [text for text in texts if adapter.encode(text) != own.encode(text)]
    assert not wrong, f"{len(wrong)} of {len(texts)} texts are encoded otherwise, the first {wrong[0]!r}"


def test_an_encoding_of_a_smaller_file_is_that_of_simple_tokenizer(tmp_path: Path) -> None:
    """Such a file ends before open_clip stops reading, so that its empty last line becomes a merge of nothing."""
    file = tmp_path / "merges.txt.gz"
    file.write_bytes(gzip.compress(b"#version\nd o\ndo g</w>\nc a\nca t</w>\n"))
    own = open_clip.tokenizer.SimpleTokenizer(str(file))
    adapter = adapt(own)[0]
    assert len(adapter.encode("dog cat doc")) == 4
    for text in ["dog cat doc", *odd_texts(200, seed=0)]:
        assert adapter.encode(text) == own.encode(text), text


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_the_encoding_cleans_as_simple_tokenizer_does(clean: str) -> None:
    own = open_clip.tokenizer.SimpleTokenizer(clean=clean)
    adapter = adapt(own)[0]
    for text in ("A Dog_and, a  CAT.", "Caf\u00e9 &amp; Bar", ""):
        assert adapter.encode(text) == own.encode(text)
    assert adapter.decode([49410]) == "", "rows that only pad the table have no text"


def test_returned_text_is_scored_text(byte_pairs: BytePairTokenizer, backend: Callable[..., Backend]) -> None:
    """Of allowed ids nearly all sequences survive the round trip, in any template; the rest is refused."""
    vocabulary = backend("clip").vocabulary
    assert vocabulary.tokenizer is byte_pairs, "one adapter, and one mask, for all models of this encoding"
    assert 34_000 < int(vocabulary.allowed.sum()) < 35_000
    assert not vocabulary.allowed[[49406, 49407]].any()
    own = open_clip.get_tokenizer("ViT-B-32")
    spaced = ["{}", "a photo of {}", "{} painted by a child", "a tiger in the style of {} and more"]
    glued = ["{}, oil on canvas", "({}:1.2)"]  # a token of punctuation melts into its neighbor
    generator = torch.Generator().manual_seed(0)
    for templates, least in ((spaced, 0.99), (glued, 0.8)):
        admitted = 0
        for index in range(500):
            template = PromptTemplate(templates[index % len(templates)])
            ids = vocabulary.sample((1 + index % 16,), generator).tolist()
            if vocabulary.admits(ids, template):
                admitted += 1
                before, after = vocabulary.template_ids(template)
                assert own.encode(template.fill(vocabulary.decode(ids))) == [*before, *ids, *after]
        assert admitted > least * 500


def test_inversions_with_clips_own_encoding_return_what_they_scored(backend: Callable[..., Backend]) -> None:
    check_inversions(backend("clip"))


# Without "custom-text", whose towers end in spaces of different widths.
@pytest.mark.parametrize("kind", [kind for kind in TOWERS if kind != "custom-text"])
def test_conforms(kind: str, backend: Callable[..., Backend]) -> None:
    check_backend(backend(kind), texts=("a red house", "big dog on the moon"))


# --- names and files that are wrong -------------------------------------------------------


def failure(name: str, **options: Any) -> str:
    with pytest.raises(BackendError) as caught:
        load_backend(f"open_clip:{name}", device="cpu", **options)
    return str(caught.value)


def test_unknown_architectures_and_tags_are_told_what_exists() -> None:
    assert "ViT-L-14" in failure("vit-l14/openai") and "ViT-L-14" in failure("ViT-L/14/openai")
    assert "no architecture ''" in failure("")
    assert "hf-hub:" in failure("org/name")
    message = failure("ViT-L-14")
    assert "without weights" in message and "openai" in message and "laion2b_s32b_b82k" in message
    message = failure("ViT-L-14/laion2b")
    assert "neither a tag" in message and "nearest: laion" in message
    assert "no tags" in failure("ViT-M-16/x")


def test_missing_files_and_folders(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    assert "no weights file" in failure(f"ViT-B-32/{tmp_path}/none.safetensors")
    assert "local-dir:" in failure(f"ViT-B-32/{tmp_path}")
    assert "no folder" in failure(f"local-dir:{tmp_path}/none")
    assert "no folder ''" in failure("local-dir:")
    assert "no open_clip_config.json" in failure(f"local-dir:{tmp_path}")
    config = tmp_path / "open_clip_config.json"
    for damaged in ("{", "[]", "{}", '{"model_cfg": {}}', "\x00"):
        config.write_text(damaged)
        said = "does not describe an open_clip model" if damaged[0] in "[{" and len(damaged) > 1 else "is not JSON"
        assert said in failure(f"local-dir:{tmp_path}")
    config.write_bytes((folder("clip") / "open_clip_config.json").read_bytes())
    assert "no weights" in failure(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("content", ["", "garbage", "truncated", "other keys"])
def test_damaged_weights(content: str, suffix: str, tmp_path: Path, folder: Callable[[str], Path]) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((folder("clip") / "open_clip_config.json").read_bytes())
    whole = folder("clip") / "open_clip_model.safetensors"
    path = tmp_path / f"weights{suffix}"
    if content == "truncated":
        if suffix != ".safetensors":
            torch.save(load_file(whole), tmp_path / "whole")
            whole = tmp_path / "whole"
        path.write_bytes(whole.read_bytes()[:100_000])
    elif content == "other keys":
        state = {"layer.weight": torch.zeros(2, 2)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    else:
        path.write_bytes(content.encode())
    message = failure(f"local-dir:{tmp_path}")
    assert str(tmp_path) in message and ("damaged" in message or "another architecture" in message)


def test_weights_of_another_architecture(folder: Callable[[str], Path]) -> None:
    path = folder("clip") / "open_clip_model.safetensors"
    message = failure(f"ViT-S-32-alt/{path}")
    assert "another architecture" in message and len(message) < 700


def test_weights_that_would_run_code_are_refused(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((folder("clip") / "open_clip_config.json").read_bytes())
    torch.save({"state_dict": {"x": Path("touched")}}, tmp_path / "weights.pth")
    assert "damaged or not a model's" in failure(f"local-dir:{tmp_path}")


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("hf-hub:org/name", "ViT-B-32/laion2b_s34b_b79k"):
        message = failure(name)
        assert "could not be fetched" in message and "offline mode is on" in message and "local-dir:" in message


def test_dtypes_that_open_clip_has_not(folder: Callable[[str], Path]) -> None:
    assert "float16" in failure(f"local-dir:{folder('clip')}", dtype=torch.float64)


def test_a_file_of_weights_and_its_activation(
    tmp_path: Path, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag says which activation its weights need; for a file, the backend's note tells a person to check."""
    config = json.loads((folder("clip") / "open_clip_config.json").read_text())["model_cfg"]
    config["quick_gelu"] = False
    path = folder("clip") / "open_clip_model.safetensors"
    factory = sys.modules["open_clip.factory"]
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-L-14", config)
    opened = load_backend(f"open_clip:ViT-L-14/{path}", device="cpu")
    assert "ViT-L-14-quickgelu" in opened.note and opened.name == f"open_clip:ViT-L-14/{path}"
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: str(path))
    by_tag = load_backend("open_clip:ViT-L-14/openai", device="cpu")
    assert by_tag.note == ""
    right = load_backend(f"open_clip:local-dir:{folder('clip')}", device="cpu")
    assert torch.equal(by_tag.encode_texts(["a dog"]), right.encode_texts(["a dog"]))
    assert not torch.equal(opened.encode_texts(["a dog"]), right.encode_texts(["a dog"]))


# --- the package --------------------------------------------------------------------------


def test_importing_the_plugin_imports_no_model_library() -> None:
    code = (
        "import sys, hardprompts_openclip\n"
        "assert not {'open_clip', 'torchvision', 'timm', 'transformers'} & set(sys.modules)\n"
        "assert list(hardprompts_openclip.backends()) == ['open_clip']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_open_clip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=r'pip install "hardprompts\[openclip\]"'):
        load_backend("open_clip:ViT-L-14/openai", device="cpu")
