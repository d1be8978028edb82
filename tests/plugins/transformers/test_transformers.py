"""The `transformers:` backend on tiny models with real tokenizer formats, saved to folders and reopened."""

import dataclasses
import functools
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_tokenizers import OLDER, tokenizer_of
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hardprompts.encoders import Backend, normalize
from hardprompts.errors import BackendError, UnknownName
from hardprompts.prompts import PromptTemplate
from hardprompts.testing import check_backend, check_inversions
from hardprompts_transformers import open_backend
from hardprompts_transformers.backend import _pooled as pooled
from hardprompts_transformers.backend import from_model
from hardprompts_transformers.releases import BY_PILLOW

CPU = torch.device("cpu")

TEXT = """
a photo of a red house near the river, a painting of two dogs and a cat in the snow
the old boat under the bridge at night, small blue birds over the ocean in winter
a sketch of a big green tree on the mountain road, the city in the summer morning
a portrait of a horse with a golden moon and a silver star, rain and clouds, don't
""".strip().splitlines()


def train_pieces(tokenizer: Tokenizer, size: int, **options: object) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of byte-pair encoding, trained on TEXT."""
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    vocab = tokenizer.get_vocab()
    merges = [line.split(" ") for line in _merges(tokenizer)]
    return vocab, [(a, b) for a, b in merges]


def _merges(tokenizer: Tokenizer) -> list[str]:
    import json

    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in found]


def clip_tokenizer() -> transformers.CLIPTokenizer:
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    vocab, merges = train_pieces(
        trained, 900, end_of_word_suffix="</w>", initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokens = sorted(vocab, key=vocab.__getitem__)
    tokens += [f"{byte}</w>" for byte in sorted(pre_tokenizers.ByteLevel.alphabet()) if f"{byte}</w>" not in vocab]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return tokenizer_of("CLIPTokenizer", vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def siglip_tokenizer(folder: Path) -> transformers.SiglipTokenizer:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_prefix=str(folder / "spiece"), vocab_size=220, model_type="bpe",
        add_dummy_prefix=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return transformers.SiglipTokenizer(
        str(folder / "spiece.model"), model_input_names=["input_ids"], model_max_length=24
    )


def siglip2_tokenizer(**options: object) -> transformers.PreTrainedTokenizerBase:
    """As Gemma's: no token is put before the first word, so that it is written with other tokens."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab, merges = train_pieces(trained, 400, special_tokens=special)
    tokenizer = tokenizer_of("Siglip2Tokenizer", vocab=vocab, merges=merges, **options)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", vocab["<eos>"])]
    )
    return tokenizer


VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


def text_config(tokenizer: transformers.PreTrainedTokenizerBase, **more: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer) + 7,  # tables are often padded to a round number of rows
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 24, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **more,
    }  # fmt: skip


def excited(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model with seeded weights that are large enough for texts to differ, which fresh ones are not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.05))
            if name.endswith("weight") and parameter.ndim == 1:  # layer norms
                parameter.add_(1)
    return model


def clip_model(tokenizer: transformers.PreTrainedTokenizerBase, **more: object) -> transformers.CLIPModel:
    config = transformers.CLIPConfig(
        text_config=text_config(tokenizer, **more), vision_config=VISION, projection_dim=24
    )
    return excited(transformers.CLIPModel(config))


def siglip_model(tokenizer: transformers.PreTrainedTokenizerBase) -> transformers.SiglipModel:
    config = transformers.SiglipConfig(
        text_config=text_config(tokenizer, projection_size=32), vision_config=VISION
    )  # fmt: skip
    return excited(transformers.SiglipModel(config))


def siglip2_model(tokenizer: transformers.PreTrainedTokenizerBase) -> transformers.Siglip2Model:
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = transformers.Siglip2Config(
        text_config=text_config(tokenizer, projection_size=32), vision_config={**vision, "num_patches": 16}
    )
    return excited(transformers.Siglip2Model(config))


def save(folder: Path, *parts: object) -> Path:
    for part in parts:
        part.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each tiny model, made when it is first asked for."""
    made: dict[str, Path] = {}
    siglip_images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        if kind in ("clip", "clip-legacy"):
            tokenizer = clip_tokenizer()
            # The largest id is the end token's, as in OpenAI's models, whose configs say 2.
            model = clip_model(tokenizer, **({"eos_token_id": 2} if kind == "clip-legacy" else {}))
            images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
            return save(folder, model, tokenizer, images)
        if kind == "siglip":
            tokenizer = siglip_tokenizer(folder)
            return save(folder, siglip_model(tokenizer), tokenizer, siglip_images)
        if kind == "siglip2-naflex":
            tokenizer = siglip2_tokenizer(model_input_names=["input_ids"], padding_side="right")
            images = transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
            return save(folder, siglip2_model(tokenizer), tokenizer, images)
        options = {
            "siglip2": {"model_input_names": ["input_ids"], "padding_side": "right"},
            "siglip2-left": {"model_input_names": ["input_ids"], "padding_side": "left"},
            "siglip2-masked": {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "right"},
            "siglip2-left-masked": {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"},
        }[kind]
        tokenizer = siglip2_tokenizer(**options)
        return save(folder, siglip_model(tokenizer), tokenizer, siglip_images)

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return get


@functools.cache
def known(folder: Path, dtype: torch.dtype = torch.float32) -> Backend:
    """The model of a folder that stays as it is."""
    return opened(folder, dtype)


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> Backend:
    return open_backend(str(folder), device=CPU, dtype=dtype)


KINDS = [
    "clip", "clip-legacy", "siglip", "siglip2", "siglip2-left", "siglip2-masked", "siglip2-left-masked",
    "siglip2-naflex",
]  # fmt: skip
TEXTS = ["a photo of a red house", "cat", "The old boat, under the bridge!", "rain and snow and a silver star moon"]


# --- the contract -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_conforms(folders: Callable[[str], Path], kind: str) -> None:
    check_backend(known(folders(kind)))


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_inversions_return_what_they_scored(folders: Callable[[str], Path], kind: str) -> None:
    # This small SigLIP 2 tokenizer has no way to write its words at the start of a text.
    templates = ("a photo of {}", "the {}") if kind == "siglip2" else ("{}", "a photo of {}", "{} in the night")
    check_inversions(known(folders(kind)), 150, templates=templates)


@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_the_models_own(folders: Callable[[str], Path], kind: str) -> None:
    folder = folders(kind)
    backend = known(folder)
    encoder = backend.text_encoder
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    for text in TEXTS:
        inputs = tokenizer([text], padding="max_length", max_length=24, return_tensors="pt")
        own = pooled(model.get_text_features(**inputs))
        ids = torch.tensor([encoder.vocabulary.encode(text)])
        torch.testing.assert_close(encoder.encode(encoder.vocabulary.embed(ids)), own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoder.encode_text([text]), own, atol=1e-5, rtol=1e-5)
    spread = encoder.encode_text(TEXTS).std(dim=0).mean() / own.abs().mean()
    assert spread > 0.05  # else any features would have passed


@pytest.mark.parametrize("kind", KINDS)
def test_images_equal_the_models_own(folders: Callable[[str], Path], kind: str) -> None:
    folder = folders(kind)
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((40, 60), (64, 64), (3, 50), (50, 1))]
    backend = known(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **BY_PILLOW)
    inputs = processor(images[:2], return_tensors="pt")
    with torch.no_grad():
        own = torch.nn.functional.normalize(pooled(model.get_image_features(**inputs)), dim=-1)
    found = backend.encode_images(images)
    torch.testing.assert_close(found[:2], own)
    assert found.isfinite().all()
    assert found.shape[1] == backend.encode_texts(["cat"]).shape[1]


@pytest.mark.parametrize("kind", ["clip", "clip-legacy"])
def test_short_context_equals_full(folders: Callable[[str], Path], kind: str) -> None:
    backend = known(folders(kind))
    modules = dataclasses.replace(backend.text_encoder, frozen=None)  # as on a GPU
    encoder, seen = backend.text_encoder, []
    hook = encoder.model.text_model.encoder.layers[0].mlp.register_forward_hook(lambda *a: seen.append(a[2].shape))
    ids = backend.vocabulary.sample((5, 6), torch.Generator().manual_seed(1))
    assert encoder.frozen is not None
    short = encoder.encode(backend.vocabulary.embed(ids))
    assert seen == []
    torch.testing.assert_close(modules.encode(backend.vocabulary.embed(ids)), short, atol=1e-5, rtol=1e-5)
    hook.remove()
    assert seen == [(5, 8, 32)]
    full = torch.full((5, 24), encoder.tokenizer.pad_token_id)
    full[:, 0], full[:, 1:7], full[:, 7] = encoder.tokenizer.bos_token_id, ids, encoder.tokenizer.eos_token_id
    own = pooled(encoder.model.get_text_features(input_ids=full))
    torch.testing.assert_close(short, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2-left-masked"])
@pytest.mark.parametrize("tokens", [1, 5, "all"])
@pytest.mark.usefixtures("float64_clip")
def test_gradient_against_finite_differences(folders: Callable[[str], Path], kind: str, tokens: int | str) -> None:
    backend = known(folders(kind), torch.float64)
    encoder, generator = backend.text_encoder, torch.Generator().manual_seed(2)
    length = encoder.max_tokens if tokens == "all" else int(tokens)
    embeddings = backend.vocabulary.embed(backend.vocabulary.sample((2, length), generator)).requires_grad_()
    weights = torch.randn(encoder.encode(embeddings).shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((encoder.encode(embeddings) * weights).sum(), embeddings)
    assert gradient.abs().amax(dim=2).gt(0).all()
    with torch.no_grad():
        for _ in range(3):
            way = torch.randn(embeddings.shape, generator=generator, dtype=torch.float64)
            ahead, behind = (encoder.encode(embeddings + step * way) for step in (1e-5, -1e-5))
            slope = ((ahead - behind) * weights).sum() / 2e-5
            torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-5, atol=1e-6)


def test_parameters_are_frozen(folders: Callable[[str], Path]) -> None:
    model = known(folders("clip")).text_encoder.model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folders: Callable[[str], Path], kind: str, dtype: torch.dtype) -> None:
    backend = known(folders(kind), dtype)
    assert backend.dtype == backend.vocabulary.table.dtype == dtype
    check_backend(backend)
    exact = known(folders(kind))
    texts = torch.nn.functional.cosine_similarity(backend.encode_texts(TEXTS), exact.encode_texts(TEXTS))
    assert texts.min() > 0.99
    image = Image.effect_noise((40, 50), 90).convert("RGB")
    assert (backend.encode_images([image]) * exact.encode_images([image])).sum() > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_cuda(folders: Callable[[str], Path], kind: str, dtype: torch.dtype) -> None:
    backend = open_backend(str(folders(kind)), device=torch.device("cuda"), dtype=dtype)
    assert backend.vocabulary.table.is_cuda
    texts = known(folders(kind)).encode_texts(TEXTS)
    encoder = backend.text_encoder
    for text, expected in zip(TEXTS, texts, strict=True):
        embedded = encoder.vocabulary.embed(torch.tensor([encoder.vocabulary.encode(text)], device="cuda"))
        assert (normalize(encoder.encode(embedded))[0].cpu() * expected).sum() > 0.99


# --- text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "siglip2-naflex"])
def test_admitted_prompts_survive_the_users_tokenizer(folders: Callable[[str], Path], kind: str) -> None:
    vocabulary = known(folders(kind)).vocabulary
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders(kind))
    prefix, suffix = "a photo of ", " in the snow"
    template = PromptTemplate(f"{prefix}{{}}{suffix}")
    before, word, words = (
        tokenizer(text, add_special_tokens=False).input_ids for text in (prefix.strip(), "a", f"a{suffix}")
    )
    after = words[len(word) :]
    generator = torch.Generator().manual_seed(3)
    admitted = 0
    rows = [row for length in (1, 2, 4, 7) for row in vocabulary.sample((250, length), generator).tolist()]
    for row in rows:
        if vocabulary.admits(row, template):
            admitted += 1
            text = template.fill(vocabulary.decode(row))
            assert tokenizer(text, add_special_tokens=False).input_ids == [*before, *row, *after]
    assert admitted >= 0.95 * len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_is_of_words_that_can_be_typed(folders: Callable[[str], Path], kind: str) -> None:
    backend = known(folders(kind))
    tokenizer = backend.text_encoder.tokenizer
    texts = [backend.vocabulary.decode([int(i)]) for i in backend.vocabulary.allowed_ids]
    assert {"house", "the", "of"} <= set(texts)
    assert len(set(texts)) == len(texts) and all(text == text.strip() and text.isprintable() for text in texts)
    assert not backend.vocabulary.allowed[tokenizer.all_special_ids].any()
    assert not backend.vocabulary.allowed[len(tokenizer) :].any()


def test_padding_of_one_call_does_not_reach_the_next(folders: Callable[[str], Path]) -> None:
    backend = known(folders("siglip2"))
    before = backend.vocabulary.encode("a red house")
    backend.encode_texts(["cat", "a very long text about the river and the old boat " * 3])
    assert backend.vocabulary.encode("a red house") == before
    assert len(backend.vocabulary.encode("house " * 40)) >= 40


def test_added_tokens_are_never_used(folders: Callable[[str], Path]) -> None:
    folder = folders("clip")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["sks"])
    backend = from_model(transformers.AutoModel.from_pretrained(folder), tokenizer, name="tuned")
    assert not backend.vocabulary.allowed[tokenizer.convert_tokens_to_ids("sks")]
    with pytest.raises(BackendError, match="no image tower"):
        backend.encode_images([Image.new("RGB", (8, 8))])


def test_text_longer_than_the_context(folders: Callable[[str], Path]) -> None:
    backend = known(folders("clip"))
    assert backend.text_encoder.max_tokens == 22
    assert backend.encode_texts(["house " * 50]).isfinite().all()
    with pytest.raises(ValueError, match="23 tokens do not fit into the 22"):
        backend.text_encoder.encode(torch.zeros(1, 23, 32))


# --- bad input ----------------------------------------------------------------------------


@pytest.fixture
def broken(folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the CLIP folder, to be broken."""
    return Path(shutil.copytree(folders("clip"), tmp_path / "model"))


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    for name, message in [
        ("", "needs a model"),
        (str(tmp_path / "absent"), "there is no folder"),
        ("./absent", "there is no folder"),
        (str(tmp_path), "no config.json"),
    ]:
        with pytest.raises(BackendError, match=message):
            open_backend(name, device=CPU, dtype=torch.float32)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(BackendError, match="pass the folder"):
        opened(file)


def test_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="offline mode is on.*`hf download nobody/no-such-model"):
        open_backend("nobody/no-such-model", device=CPU, dtype=torch.float32)


def test_another_architecture(broken: Path) -> None:
    shutil.copy(broken / "tokenizer.json", broken / "kept.json")
    transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(broken)
    with pytest.raises(BackendError, match=r"'vit'.*CLIPModel, SiglipModel, Siglip2Model"):
        opened(broken)
    (broken / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BackendError, match=r"config\.json"):
        opened(broken)
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16))
    with pytest.raises(BackendError, match="GPT2LMHeadModel cannot be used"):
        from_model(gpt2, clip_tokenizer(), name="gpt2")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "absent", "pieces", "shape"])
def test_damaged_weights(broken: Path, damage: str) -> None:
    file = broken / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "garbage":
        file.write_bytes(b"\x93 no weights at all" * 100)
    elif damage == "absent":
        file.unlink()
    else:
        tensors = load_file(file)
        name = "text_model.encoder.layers.1.mlp.fc1.weight"
        lost = tensors.pop(name)
        if damage == "shape":
            tensors[name] = lost[:, :5].contiguous()
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BackendError, match="weights of"):
        opened(broken)


def test_a_pickle_never_runs(broken: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(broken / "ran"),)

    (broken / "model.safetensors").unlink()
    torch.save({"logit_scale": Bomb()}, broken / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(BackendError, match="weights of"):
        opened(broken)
    assert not (broken / "ran").exists()


def test_damaged_json(broken: Path) -> None:
    for file in ("preprocessor_config.json", "tokenizer.json", "config.json"):
        original = (broken / file).read_text()
        (broken / file).write_text(original[: len(original) // 2])
        with pytest.raises(BackendError, match="it is not whole JSON, but damaged"):
            opened(broken)
        (broken / file).write_text(original)
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(BackendError, match="preprocessor_config"):
        opened(broken)
    for file in ("tokenizer.json", "vocab.json"):
        (broken / file).unlink(missing_ok=True)
    with pytest.raises(BackendError, match="has no tokenizer"):
        opened(broken)


def test_weights_that_are_not_numbers(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["text_projection.weight"] *= float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match="hold NaN or infinity"):
        opened(broken)


def test_a_tokenizer_of_another_model(folders: Callable[[str], Path]) -> None:
    tokenizer = clip_tokenizer()
    with pytest.raises(BackendError, match="the model has 40 embeddings"):
        from_model(clip_model(tokenizer, vocab_size=40, eos_token_id=39), tokenizer, name="small")
    with pytest.raises(BackendError, match=r"set text_config\.eos_token_id to"):
        from_model(clip_model(tokenizer, eos_token_id=5), tokenizer, name="wrong end")
    if not OLDER:
        with pytest.raises(BackendError, match="files are missing or damaged"):
            from_model(clip_model(tokenizer), transformers.CLIPTokenizer(), name="empty")


# --- the plugins --------------------------------------------------------------------------


def test_importing_the_plugins_is_light() -> None:
    code = (
        "import sys, hardprompts_transformers, hardprompts_emoji; "
        "print([m for m in ('transformers', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_emoji_scheme(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import hardprompts_emoji

    open_emoji = hardprompts_emoji.backends()["emoji"]
    monkeypatch.setattr(hardprompts_emoji, "path", lambda name: folders("clip"), raising=False)
    assert open_emoji("", device=CPU, dtype=torch.float32).name == "emoji:emoji-clip"
    judge = open_emoji("emoji-clip-reference", device=CPU, dtype=torch.float32)
    assert judge.name == "emoji:emoji-clip-reference"
    assert "open_clip:ViT-L-14/openai" in judge.note and "\n" not in judge.note
    with pytest.raises(UnknownName, match="emoji-clip, emoji-clip-reference"):
        open_emoji("emoji-klip", device=CPU, dtype=torch.float32)
