"""Language models of transformers: logits as the models' own, exact ids, and tuning on a real small one."""

import contextlib
import copy
import dataclasses
import inspect
import json
import os
import struct
import warnings
from pathlib import Path

import pytest
import torch

from hardprompts import ClassifierPromptTuner, load_backend
from hardprompts.classification import ClassificationTemplate, LabelLikelihood, Verbalizer
from hardprompts.classification import prefixes as reading
from hardprompts.classification.prompted import PromptedModel
from hardprompts.errors import BackendError
from hardprompts.search.graphs import gradient_of

transformers = pytest.importorskip("transformers")

import tokenizers  # noqa: E402
from tiny_tokenizers import tokenizer_of  # noqa: E402
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402
from transformers.cache_utils import Cache  # noqa: E402

from hardprompts_transformers import checkpointing  # noqa: E402
from hardprompts_transformers.backend import open_model  # noqa: E402
from hardprompts_transformers.causal import UNBOUNDED, CausalLanguageModel  # noqa: E402
from hardprompts_transformers.language_models import from_language_model  # noqa: E402

CORPUS = (
    "A good film with a very good story. It was great, and I liked it.",
    "A bad film: dull, slow and much too long! It was terrible, really.",
    "The cast is fine but the music is odd; don't watch it twice.",
    "Good news about sports and business, politics and technology.",
)
TEXTS = (
    "A good film.",
    "dull and slow",
    "  odd spaces ",
    "don't",
    "",
    "caf\u00e9 \u2603 42!",
    "a\nline break",
    "{prompt} {} {label}",
)
shares = pytest.mark.skipif(
    "layers" not in inspect.signature(Cache.__init__).parameters,
    reason="before transformers 4.56 caches are not made of given layers, and every input is read whole",
)
checkpoints = pytest.mark.skipif(
    not checkpointing.CheckpointingLayer, reason="transformers 4.52 is the first with gradient checkpointing of layers"
)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
GROUPED = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 1}


def byte_level(frame: bool = False, prefix: bool = False):
    """GPT-2's kind of tokenizer; with a frame, RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        [line for line in CORPUS for _ in range(8)],
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if frame:
        raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    if frame:
        names |= {"pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def word_pieces():
    """BERT's kind."""
    raw = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(
        [line for line in CORPUS for _ in range(8)],
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False),
    )
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def unigram():
    """T5's kind."""
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(3))]
    raw = tokenizers.Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    raw.train_from_iterator(
        [line for line in CORPUS for _ in range(8)],
        trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    raw.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def build(family: str, attention: str = "eager"):
    """(model, tokenizer) of a family with random weights."""
    torch.manual_seed(0)
    t = transformers
    tokenizer = (
        word_pieces() if family == "bert" else unigram() if family == "t5" else byte_level(family in ("roberta", "opt"))
    )
    size = {"vocab_size": len(tokenizer) + 3, "attn_implementation": attention}  # tables are often padded
    model = {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **size)),
        "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**{**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 8, **size})),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**{**GROUPED, **size})),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**{**GROUPED, "tie_word_embeddings": True, **size})),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**{**GROUPED, "head_dim": 8, **size})),
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**{**SMALL, "intermediate_size": 24, **size})),
        "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**{**SMALL, "intermediate_size": 24, "max_position_embeddings": 66, "type_vocab_size": 1, **size})),
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=24, decoder_start_token_id=0, **size)),
    }[family]()  # fmt: skip
    return model, tokenizer


FAMILIES = ("gpt2", "opt", "llama", "qwen2", "gemma2", "bert", "roberta", "t5")
CAUSAL = FAMILIES[:5]


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request):
    model, tokenizer = build(request.param)
    return from_language_model(model, tokenizer, name=request.param), model, tokenizer


def test_padding_at_either_end_changes_nothing(opened) -> None:
    backend, model, _ = opened
    lm = backend.language_model
    ids = lm.vocabulary.encode("A good film with a very odd story")[:6]
    plain = lm.vocabulary.embed(torch.tensor([ids]))
    written = torch.tensor([ids[:2]]) if lm.kind == "seq2seq" else None
    noise = torch.randn(1, 3, plain.shape[2])
    with torch.no_grad():
        expected = lm.logits(lm.states(plain, torch.ones(1, 6, dtype=torch.bool), written))
        inputs = {"input_ids": torch.tensor([ids])}
        if written is not None:
            inputs["decoder_input_ids"] = torch.cat(
                [torch.tensor([[model.config.decoder_start_token_id]]), written], dim=1
            )
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-4)
        mask = torch.tensor([[False] * 3 + [True] * 6])
        left = lm.logits(lm.states(torch.cat([noise, plain], dim=1), mask, written))
        right = lm.logits(lm.states(torch.cat([plain, noise], dim=1), mask.flip(1), written))
    if lm.kind == "seq2seq":
        assert torch.allclose(right, expected, atol=1e-4)
        return  # T5's positions are relative to where a row begins, padding or not
    assert torch.allclose(left[:, 3:], expected, atol=1e-4)
    assert torch.allclose(right[:, :6], expected, atol=1e-4)


def test_gradients_reach_the_embeddings_alone(opened) -> None:
    backend, model, _ = opened
    lm = backend.language_model
    embeddings = (
        lm.vocabulary.embed(lm.vocabulary.sample((2, 4), torch.Generator().manual_seed(0))).clone().requires_grad_()
    )
    lm.logits(lm.states(embeddings, torch.ones(2, 4, dtype=torch.bool))).logsumexp(dim=-1).sum().backward()
    assert embeddings.grad.abs().sum(dim=2).min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not lm.vocabulary.table.requires_grad


@pytest.mark.parametrize(
    "template",
    [
        "{prompt} {text} It was {label}",
        "{text} {prompt} It was {label}",
        "{text}\n{prompt}: {label}",
        "It:\n\n{prompt}\n{text} It was {label}",
        "It  {prompt} {text} It was {label}",
    ],
)
def test_the_filled_text_has_exactly_the_ids_that_were_scored(opened, template: str) -> None:
    backend, _, tokenizer = opened
    lm = backend.language_model
    if lm.kind == "seq2seq" and "\n" in template:
        pytest.skip("this tokenizer takes a line break for a letter, so that no prompt survives behind one")
    verbalizer = Verbalizer((0, 1), (("terrible", "bad"), ("great", "good")))
    parts = PromptedModel.create(lm, ClassificationTemplate(template), verbalizer, prompt_tokens=3)
    vocabulary, generator = lm.vocabulary, torch.Generator().manual_seed(0)
    kept = 0
    for drawn in vocabulary.sample((40, 3), generator).tolist():
        ids = vocabulary.respelled(drawn, parts.encoder.template.for_search())
        if ids is None or vocabulary.respelled(ids, parts.encoder.template.for_search()) != ids:
            continue
        prompt = vocabulary.decode(ids)
        assert all(vocabulary.decode([i]) for i in ids), "white space of the template is no part of the prompt"
        good = [text for text in TEXTS if text.strip() and not parts.encoder.misread(prompt, ids, [text])]
        kept += len(good)
        for text in good:
            row = parts.encoder.row(text)
            place = row.index(-1)
            scored = [i for i in (*row[:place], *ids, *row[place + 1 :]) if i >= 0]
            whole = ClassificationTemplate(template).around_label(prompt, text)[0]
            own = tokenizer(whole)["input_ids"]
            frame = len(lm.frame[1]) if lm.kind != "causal" else len(own) - len(scored)
            assert scored == (own if lm.kind != "causal" or not frame else own[: len(own) - frame])
            if lm.kind == "causal":
                for word, label in zip(verbalizer.all_words, parts.labels.ids, strict=True):
                    filled = vocabulary.encode(ClassificationTemplate(template).fill(prompt, text, word))
                    assert [*lm.frame[0], *filled] == [*scored, *label]
    assert kept > 100, "a test that keeps nothing proves nothing"


def test_word_scores_equal_the_models_own_loss(opened) -> None:
    backend, model, _ = opened
    lm = backend.language_model
    if lm.kind != "causal":
        pytest.skip("masked and seq2seq models are checked by brute force on the toy")
    verbalizer = Verbalizer((0, 1), (("terrible story",), ("good",)))
    parts = PromptedModel.create(lm, ClassificationTemplate(), verbalizer, prompt_tokens=3)
    rows = [parts.encoder.filled_row("odd music", text) for text in ("A film.", "dull and slow, really")]
    found = parts.reader.word_scores(rows)[0]
    for i, row in enumerate(rows):
        for j, word in enumerate(parts.labels.ids):
            ids = torch.tensor([[*row[:-1], *word]])
            labels = ids.clone()
            labels[:, : len(row) - 1] = -100
            with torch.no_grad():
                loss = float(model(input_ids=ids, labels=labels).loss)
            assert float(found[i, j]) == pytest.approx(-loss * len(word), abs=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "roberta", "t5"])
def test_a_tuner_fits_saves_and_loads_from_a_folder(family: str, tmp_path) -> None:
    model, tokenizer = build(family)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    name = f"transformers:{tmp_path / 'model'}"
    texts = ["A good film.", "great music", "A bad story", "dull and slow"] * 4
    # Behind a word, since few of the words that so small a vocabulary knows can begin a text.
    template = "It says {prompt} {text} It was {label}"
    options = {"template": template, "num_tokens": 2, "restarts": 2, "max_steps": 3, "random_state": 0}
    options |= {"progress": False, "device": "cpu"}
    tuner = ClassifierPromptTuner(name, verbalizer={0: "bad", 1: "good"}, **options).fit(texts, [1, 1, 0, 0] * 4)
    assert tuner.prompted().encoder.misread(tuner.prompt_, tuner.hard_prompt_.token_ids, texts) == []
    tuner.save_pretrained(tmp_path / "tuner")
    loaded = ClassifierPromptTuner.from_pretrained(tmp_path / "tuner")
    assert (loaded.predict_proba(texts) == tuner.predict_proba(texts)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype, family: str) -> None:
    texts = ["A film.", "dull", "great music"]
    scores, gradients = [], []
    model, tokenizer = build(family)  # once: a tokenizer that is trained anew may number its words otherwise
    for chosen in (torch.float32, dtype):
        lm = from_language_model(copy.deepcopy(model).to(chosen), tokenizer, name=family).language_model
        parts = PromptedModel.create(
            lm, ClassificationTemplate(), Verbalizer((0, 1), (("bad",), ("good",))), prompt_tokens=2
        )
        scores.append(parts.class_scores("odd music", texts))
        rows = [parts.encoder.row(text) for text in texts]
        likelihood = LabelLikelihood(parts.reader, rows, [0, 1, 1])
        prompt = lm.vocabulary.embed(torch.tensor([lm.vocabulary.allowed_ids[:2].tolist()])).float()
        gradients.append(gradient_of(likelihood, prompt, torch.zeros(1, dtype=torch.long)).grad)
        assert lm.vocabulary.allowed_table.dtype == torch.float32
    assert scores[1].dtype == gradients[1].dtype == torch.float32
    assert torch.allclose(scores[0], scores[1], atol=5e-2)
    assert torch.nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.95


def test_sentinels_stand_in_the_middle_for_t5() -> None:
    lm = from_language_model(*build("t5"), name="t5").language_model
    assert lm.mask_id is not None
    template = ClassificationTemplate("{prompt} {text} It was {label} , really")
    parts = PromptedModel.create(lm, template, Verbalizer((0, 1), (("bad",), ("good",))), prompt_tokens=2)
    for query in parts.labels.queries:
        assert query.inserted == (lm.mask_id,)
        assert query.decoded[0] == lm.mask_id


def test_models_without_a_head_are_refused() -> None:
    model, tokenizer = build("gpt2")
    with pytest.raises(BackendError, match="predicts no tokens"):
        from_language_model(model.transformer, tokenizer, name="bare")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.fill_(torch.nan)
    with pytest.raises(BackendError, match="hold NaN or infinity"):
        from_language_model(model, tokenizer, name="broken")


# --- beginnings that are read once -----------------------------------------------------------


def loss_and_grad(lm, template: str, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of label words of one token and more, with fluency where the model knows any."""
    words = Verbalizer((0, 1), (("terrible story", "bad"), ("great", "good film")))
    parts = PromptedModel.create(lm, ClassificationTemplate(template), words, prompt_tokens=prompts.shape[1])
    texts = ["A good film.", "dull and slow, really", "great music, and I liked it", "odd"]
    rows = [parts.encoder.row(text) for text in texts]
    objective = LabelLikelihood(parts.reader, rows, [1, 0, 1, 0], fluency_weight=0.3 if lm.kind == "causal" else 0.0)
    leaf = prompts.clone().requires_grad_()
    loss = objective(leaf, torch.zeros(len(leaf), dtype=torch.long)).loss
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


def soft_prompts(lm, count: int = 3) -> torch.Tensor:
    table = lm.vocabulary.table
    return table.std() * torch.randn(count, 4, table.shape[1], generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def counted(model):
    """How many tokens go through a causal model."""
    tokens: list[int] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    yield tokens
    hook.remove()


@shares
@pytest.mark.parametrize(
    ("family", "attention"), [*((family, "eager") for family in CAUSAL), *((family, "sdpa") for family in CAUSAL[:4])]
)
def test_shared_beginnings_change_no_number(family: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.MIN_SAVED_TOKENS, "cpu", 1)
    model, tokenizer = build(family, attention)
    sharing = from_language_model(model, tokenizer, name=family).language_model
    plain = dataclasses.replace(sharing, max_shared_tokens=0)
    assert sharing.max_shared_tokens == (4096 if family == "gemma2" else UNBOUNDED)
    prompts = soft_prompts(sharing)
    for template in ("{text} {prompt} It was {label}", "{prompt} {text} It was {label}"):
        with counted(model) as before:
            expected = loss_and_grad(plain, template, prompts)
        with counted(model) as after:
            found = loss_and_grad(sharing, template, prompts)
        assert torch.allclose(found[0], expected[0], rtol=1e-5)
        assert torch.allclose(found[1], expected[1], rtol=1e-3, atol=1e-6)
        assert sum(after) < 0.5 * sum(before)


@shares
@pytest.mark.parametrize("family", CAUSAL)
def test_inputs_behind_others_have_the_states_and_gradients_of_whole_ones(family: str) -> None:
    lm = from_language_model(*build(family), name=family).language_model
    rows = lm.vocabulary.embed(lm.vocabulary.sample((2, 7), torch.Generator().manual_seed(0)))
    mask = torch.ones(2, 7, dtype=torch.bool)
    for padded in ((1, slice(0, 2)), (1, slice(2, 4)), (1, slice(5, 7))):  # left, in the middle, right
        seen = mask.clone()
        seen[padded] = False
        leaf = rows.clone().requires_grad_()
        _, prefix = lm.read_on(leaf[:, :4], seen[:, :4])
        order = torch.tensor([1, 0, 1])
        found, nothing = lm.read_on(leaf[order, 4:], seen[order, 4:], prefix.of_rows(order), keep=False)
        assert nothing is None
        whole = leaf.clone()
        for place, row in enumerate(order.tolist()):
            own = whole[row : row + 1, seen[row]]
            expected = lm.states(own, torch.ones(own.shape[:2], dtype=torch.bool))[0, -int(seen[row, 4:].sum()) :]
            real = found[place, seen[row, 4:]]
            assert torch.allclose(real, expected, atol=1e-5)
            grads = [torch.autograd.grad(x.square().sum(), leaf, retain_graph=True)[0] for x in (real, expected)]
            assert torch.allclose(grads[0][row, seen[row]], grads[1][row, seen[row]], rtol=1e-3, atol=1e-5)


def test_windows_bound_what_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.MIN_SAVED_TOKENS, "cpu", 1)
    model, tokenizer = build("gemma2")
    model.config.sliding_window = 5
    lm = from_language_model(model, tokenizer, name="gemma2").language_model
    prompts = soft_prompts(lm)
    found = loss_and_grad(lm, "{text} {prompt} It was {label}", prompts)
    expected = loss_and_grad(dataclasses.replace(lm, max_shared_tokens=0), "{text} {prompt} It was {label}", prompts)
    assert lm.max_shared_tokens <= 5
    assert torch.equal(found[0], expected[0])


@shares
def test_earlier_keys_and_values_go_by_the_name_that_this_transformers_gives_them() -> None:
    model, tokenizer = build("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert from_language_model(model, tokenizer, name="gpt2").language_model.max_shared_tokens > 0


@pytest.mark.parametrize("fault", ["raises", "differs"])
def test_models_that_cannot_share_do_without(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = CausalLanguageModel.read_on

    def read_on(self, *given, **named):
        if fault == "raises":
            raise TypeError("unexpected keyword argument 'past_key_values'")
        states, prefix = own(self, *given, **named)
        return states + 1, prefix

    monkeypatch.setattr(CausalLanguageModel, "read_on", read_on)
    assert from_language_model(*build("gpt2"), name="gpt2").language_model.max_shared_tokens == 0


# --- memory -------------------------------------------------------------------------------


@contextlib.contextmanager
def saved_bytes():
    """Bytes of what autograd keeps, each storage once."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    size: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield size
    size.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


@checkpoints
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "qwen2", "bert", "roberta", "t5"])
def test_gradient_checkpointing_keeps_less_and_changes_no_number(family: str) -> None:
    model, tokenizer = build(family)
    found, kept = [], []
    for chosen in (False, True):
        lm = from_language_model(model, tokenizer, name=family, gradient_checkpointing=chosen).language_model
        rows = lm.vocabulary.embed(lm.vocabulary.sample((6, 20), torch.Generator().manual_seed(0)))
        leaf, mask = rows.clone().requires_grad_(), torch.ones(6, 20, dtype=torch.bool)
        with saved_bytes() as size:
            states = lm.states(leaf, mask)
        (grad,) = torch.autograd.grad(states.square().sum(), leaf)
        found.append((states.detach(), grad, *loss_and_grad(lm, "{prompt} {text} It was {label}", soft_prompts(lm))))
        kept += size
        assert not any(module.training or "forward" in vars(module) for module in model.modules())
    for plain, checkpointed in zip(*found, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-6, atol=1e-6)
    assert kept[1] < 0.5 * kept[0], kept


@shares
@checkpoints
def test_shared_beginnings_are_checkpointed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.MIN_SAVED_TOKENS, "cpu", 1)
    model, tokenizer = build("gpt2")
    found = []
    for chosen in (False, True):
        lm = from_language_model(model, tokenizer, name="gpt2", gradient_checkpointing=chosen).language_model
        for template in ("{text} {prompt} It was {label}", "{prompt} {text} It was {label}"):
            found.append(loss_and_grad(lm, template, soft_prompts(lm)))
    for plain, checkpointed in zip(found[:2], found[2:], strict=True):
        assert torch.allclose(plain[0], checkpointed[0], atol=1e-6)
        assert torch.allclose(plain[1], checkpointed[1], rtol=1e-5, atol=1e-6)


@checkpoints
def test_gradient_checkpointing_is_asked_for_when_a_model_is_opened(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build("gpt2")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = {"name": "tiny", "device": torch.device("cpu"), "dtype": torch.float32}
    assert open_model(tmp_path, **options, gradient_checkpointing=True).language_model.gradient_checkpointing
    assert not open_model(tmp_path, **options).language_model.gradient_checkpointing
    monkeypatch.setattr(checkpointing, "CheckpointingLayer", torch.nn.Bilinear)
    with pytest.raises(BackendError, match="no gradient checkpointing"):
        open_model(tmp_path, **options, gradient_checkpointing=True)


# --- real files ---------------------------------------------------------------------------


def shared(*parts: str) -> Path:
    """A file of the folder that HARDPROMPTS_SHARED_DATA names."""
    root = os.environ.get("HARDPROMPTS_SHARED_DATA")
    if not root:
        pytest.skip("HARDPROMPTS_SHARED_DATA is not set: it names a folder of data sets and small models")
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path


def stories_260k(folder: Path) -> Path:
    """The 260K-parameter story teller as a folder of transformers."""
    raw = shared("stories260K", "checkpoint_legacy.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", raw[:28])
    values, at = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        count = int(torch.tensor(shape).prod())
        at += count
        return values[at - count : at].reshape(shape).clone()

    def rotary(weight: torch.Tensor, own: int) -> torch.Tensor:
        """transformers keeps the halves of each head apart, the file pairs neighbors."""
        rows, columns = weight.shape
        return weight.view(own, rows // own // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    state = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    size, kv = dim // heads, dim // heads * kv_heads
    layout = [
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)), ("self_attn.k_proj", (kv, dim)),
        ("self_attn.v_proj", (kv, dim)), ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)), ("mlp.down_proj", (dim, hidden)), ("mlp.up_proj", (hidden, dim)),
    ]  # fmt: skip
    for name, shape in layout:
        for layer, weight in enumerate(take(layers, *shape)):
            own = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            state[f"model.layers.{layer}.{name}.weight"] = weight if own is None else rotary(weight, own)
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = transformers.LlamaConfig(
        hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, head_dim=size,
        num_key_value_heads=kv_heads, vocab_size=abs(vocab), max_position_embeddings=length, tie_word_embeddings=True,
        rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    stories_tokenizer(abs(vocab)).save_pretrained(folder)
    return folder


def stories_tokenizer(size: int):
    """Llama's kind, from pieces and their scores: a better score merges first."""
    raw, at, pieces = shared("stories260K", "tokenizer.bin").read_bytes(), 4, []
    while len(pieces) < size:
        score, count = struct.unpack("fi", raw[at : at + 8])
        pieces.append((raw[at + 8 : at + 8 + count].decode("utf-8", "replace"), score))
        at += 8 + count
    names = [piece.strip() if i < 3 else piece.replace(" ", "\u2581") for i, (piece, _) in enumerate(pieces)]
    names[:3] = ["<unk>", "<s>", "</s>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = []
    for i, name in enumerate(names[259:], 259):
        splits = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        merges += [(-pieces[i][1], pair) for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
    ordered = [pair for _, pair in sorted(merges, key=lambda merge: merge[0])]
    own = tokenizers.Tokenizer(models.BPE(vocabulary, ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    own.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    own.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_real_language_model_tells_stories(tmp_path) -> None:
    folder = stories_260k(tmp_path / "stories")
    backend = load_backend(f"transformers:{folder}", device="cpu")
    lm = backend.language_model
    assert lm.frame == ((1,), ())
    ids = [1, *lm.vocabulary.encode("Once upon a time, there was a little girl named")]
    with torch.no_grad():
        states = lm.states(lm.vocabulary.embed(torch.tensor([ids])), torch.ones(1, len(ids), dtype=torch.bool))
        likely = lm.logits(states)[0].log_softmax(dim=-1)
    loss = -float(likely[torch.arange(len(ids) - 1), ids[1:]].mean())
    assert loss < 2.0, f"a model that knows stories is sure of how they begin; the loss is {loss:.2f}"


SLOW = pytest.mark.slow
OTHERS = (
    "arca", "autoprompt", "autoprompt-sgd", "evolution", "fluentprompt", "gbda", "gcg", "greedy", "hotflip", "mac",
    "pez+refine", "refine",
)  # fmt: skip
METHODS = ["pez", *(pytest.param(name, marks=SLOW) for name in OTHERS)]


@pytest.mark.parametrize("method", METHODS)
def test_a_real_language_model_is_tuned_saved_and_resumed(method: str, tmp_path) -> None:
    backend = load_backend(f"transformers:{stories_260k(tmp_path / 'stories')}", device="cpu")
    lines = shared("sst2", "dev.tsv").read_text(encoding="utf-8").splitlines()[1:41]
    texts, labels = zip(*((text, int(label)) for text, label in (line.rsplit("\t", 1) for line in lines)), strict=True)
    tuner = ClassifierPromptTuner(
        backend, verbalizer={0: "sad", 1: "happy"}, method=method, num_tokens=3, restarts=2, seeds=2, max_steps=2,
        score_size=8, batch_size=8, random_state=0, top_k=3, progress=False, checkpoint=tmp_path / "searches",
    ).fit(texts, labels)  # fmt: skip
    assert tuner.prompted().encoder.misread(tuner.prompt_, tuner.hard_prompt_.token_ids, texts) == []
    (tmp_path / "searches" / "search-1.json").unlink()
    again = ClassifierPromptTuner(**tuner.get_params()).fit(texts, labels)
    assert (again.prompt_, again.report_) == (tuner.prompt_, tuner.report_)
    tuner.save_pretrained(tmp_path / "tuner")
    loaded = ClassifierPromptTuner.from_pretrained(tmp_path / "tuner", model=backend)
    assert (loaded.predict_proba(texts[:9]) == tuner.predict_proba(texts[:9])).all()


def test_exact_ids_with_the_tokenizer_of_gpt2() -> None:
    folder = shared("gpt2_tokenizer")
    tokenizer = tokenizer_of("GPT2Tokenizer", vocab=json.loads((folder / "vocab.json").read_text("utf-8")), merges=[
        tuple(line.split(" ")) for line in (folder / "merges.txt").read_text("utf-8").splitlines()[1:] if line
    ])  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=128))
    lm = from_language_model(model, tokenizer, name="gpt2").language_model
    lines = shared("sst2", "test.tsv").read_text(encoding="utf-8").splitlines()[1:101]
    texts = [line.rsplit("\t", 1)[0] for line in lines]
    verbalizer = Verbalizer((0, 1), (("terrible",), ("great",)))
    generator, kept = torch.Generator().manual_seed(0), 0
    for text in ("{prompt} {text} It was {label}", "{text} {prompt} It was {label}"):
        parts = PromptedModel.create(lm, ClassificationTemplate(text), verbalizer, prompt_tokens=10)
        slot = parts.encoder.template.for_search()
        for drawn in lm.vocabulary.sample((50, 10), generator).tolist():
            ids = lm.vocabulary.respelled(drawn, slot)
            if ids is None or not lm.vocabulary.survives_round_trip(ids, slot):
                continue
            read = [parts.encoder.cut(text) for text in texts]  # as all that is scored; many end in a space
            kept += not parts.encoder.misread(lm.vocabulary.decode(ids), ids, read)
    assert kept >= 95, f"{kept} of 100 prompts keep their ids beside all of 100 texts"
