"""Language models that write prompts: product of experts and masked particles, as proposers and as methods."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hardprompts import BackendError, NonFiniteError, PromptInverter
from hardprompts.encoders import Backend, LanguageModel
from hardprompts.inversion import load_proposer
from hardprompts.search.rows import Ids
from hardprompts.testing import WORDS, check_proposer, check_search, toy_backend, toy_language_model

transformers = pytest.importorskip("transformers")

import tokenizers  # noqa: E402
from tokenizers import decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from hardprompts_transformers import masked_particles, product_of_experts  # noqa: E402
from hardprompts_transformers.language_models import from_language_model  # noqa: E402
from hardprompts_transformers.masked_particles import MaskedParticles, resampled  # noqa: E402
from hardprompts_transformers.product_of_experts import ProductOfExperts  # noqa: E402
from hardprompts_transformers.writing import Rated, Reading, Writer  # noqa: E402

BACKEND = toy_backend()
CAUSAL, MASKED = toy_language_model(), toy_language_model("masked")
WRITERS = (ProductOfExperts(CAUSAL), MaskedParticles(MASKED))
TEXTS = ("red house near river", "old boat on ocean", "small cat")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def language_model(family: str) -> Backend:
    """Random weights on pieces of the toy words, in which most words are several tokens."""
    torch.manual_seed(0)
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([" ".join(WORDS)], trainer)
    if family == "llama":
        raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    size = {"vocab_size": len(tokenizer)}
    if family == "gpt2":
        config = transformers.GPT2Config(
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
            **size,
        )
        return from_language_model(transformers.GPT2LMHeadModel(config), tokenizer, name=family)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.LlamaConfig(**shape, initializer_range=0.3, max_position_embeddings=64, **size)
    return from_language_model(transformers.LlamaForCausalLM(config), tokenizer, name=family)


def reading(max_tokens: int = 4, targets: Sequence[str] = TEXTS) -> Reading:
    """Texts as the toy model reads them, scored by their similarity with those of the targets."""
    wanted = BACKEND.encode_texts(list(targets))

    def rate(texts: list[str], ids: list[Ids], tasks: list[int]) -> torch.Tensor:
        return (BACKEND.encode_texts(texts) * wanted[tasks]).sum(dim=1)

    return Reading(BACKEND.vocabulary, max_tokens, rate)


def written(writer: Writer, model: Backend, seeds: Sequence[Sequence[str]] = ((), (), ())) -> list[Rated]:
    assert model.language_model is not None
    return list(writer.write(model.language_model, reading(), seeds, generator()))


# --- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: type(writer).__name__)
def test_both_keep_the_contracts_of_methods_and_of_proposers(writer: Writer) -> None:
    check_search(writer)
    check_proposer(writer.for_model(BACKEND), BACKEND)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: type(writer).__name__)
def test_both_come_near_to_their_targets_and_say_nothing_that_the_model_has_no_tokens_for(writer: Writer) -> None:
    features = BACKEND.encode_texts(list(TEXTS))
    found = writer.for_model(BACKEND).propose(features, 6, 4, generator())
    for own, target in zip(found, features, strict=True):
        assert 0 < len(own) <= 6 and len(set(own)) == len(own)
        assert all(1 <= len(BACKEND.vocabulary.encode(text)) <= 4 for text in own)
        assert all(word in WORDS for text in own for word in text.split())
        assert float((BACKEND.encode_texts(own) @ target).max()) > 0.6
    assert writer.for_model(BACKEND).propose(features, 6, 4, generator()) == found


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: type(writer).__name__)
def test_both_search_within_their_passes_and_start_searches(writer: Writer) -> None:
    features = BACKEND.encode_texts([TEXTS[0]])
    alone = PromptInverter(BACKEND, method=writer).invert(features, 4, seed=0, max_evaluations=300, progress=False)
    assert alone.evaluations <= 300 and alone.score > 0.4
    inverter = PromptInverter(BACKEND, proposers=writer.for_model(BACKEND))
    begun = inverter.invert(features, 4, seed=0, max_evaluations=300, progress=False)
    assert begun.score > 0.9
    assert inverter.invert(features, 4, seed=0, fast=True, progress=False).text


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: type(writer).__name__)
def test_a_banned_word_is_not_written_by_a_search(writer: Writer) -> None:
    features = BACKEND.encode_texts([TEXTS[0]])
    found = PromptInverter(BACKEND, method=writer).invert(features, 4, banned=["house"], seed=0, progress=False)
    assert all("house" not in candidate.text for candidate in found.candidates)


def test_names_open_both_and_only_for_the_kinds_that_they_take() -> None:
    backend = toy_backend()
    assert load_proposer("lm:emoji:emoji-lm", backend).opened.name == "emoji:emoji-lm"  # type: ignore[attr-defined]
    assert load_proposer("mlm:emoji:emoji-mlm", backend).opened.name == "emoji:emoji-mlm"  # type: ignore[attr-defined]
    with pytest.raises(
        BackendError, match="emoji:emoji-clip is not a language model, and lm: takes causal ones; use one"
    ):
        load_proposer("lm:emoji", backend)
    with pytest.raises(
        BackendError, match="is a causal language model, and mlm: takes masked ones; use lm:emoji:emoji-lm"
    ):
        load_proposer("mlm:emoji:emoji-lm", backend)
    with pytest.raises(BackendError, match="is a masked language model, and lm: takes causal ones; use mlm:toy-lm"):
        ProductOfExperts(MASKED).for_model(backend)
    with pytest.raises(BackendError, match="is a seq2seq language model.*use one that fills in masks"):
        MaskedParticles(toy_language_model("seq2seq")).for_model(backend)
    with pytest.raises(BackendError, match="which has no features that texts could be for"):
        ProductOfExperts(CAUSAL).for_model(CAUSAL)
    assert PromptInverter(backend, proposers="auto").proposers == ()


class Broken:
    """A language model whose numbers are NaN."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def states(self, *inputs: Any) -> torch.Tensor:
        return self.model.states(*inputs) * math.nan

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.model.logits(states)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: type(writer).__name__)
def test_numbers_that_are_nan_are_refused_by_their_cause(writer: Writer) -> None:
    proposer = writer.for_model(BACKEND)
    with pytest.raises(NonFiniteError, match="features that a language model is to write texts for are NaN"):
        proposer.propose(torch.full((1, 48), math.nan), 4, 4, generator())
    broken = dataclasses.replace(proposer.opened, language_model=Broken(proposer.opened.language_model))  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match="toy-lm gives NaN for what comes next"):
        dataclasses.replace(writer, language_model=broken).for_model(BACKEND).propose(
            BACKEND.encode_texts(["cat"]), 4, 4, generator()
        )


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ProductOfExperts, {"beams": 0}), (ProductOfExperts, {"weight": -1.0}), (ProductOfExperts, {"min_words": 0}),
        (ProductOfExperts, {"logit_scale": math.inf}), (MaskedParticles, {"particles": 0}),
        (MaskedParticles, {"temperature": 0.0}), (MaskedParticles, {"guidance": math.nan}),
        (MaskedParticles, {"rounds": 0}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind: type[Writer], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


# --- product of experts -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "toy"])
def test_likelihoods_are_those_of_the_whole_texts_with_a_cache_and_words_of_several_tokens(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CAUSAL if family == "toy" else language_model(family)
    language = model.language_model
    assert language is not None
    read: dict[str, set[Ids]] = {}
    plain = product_of_experts._Reader.read

    def spy(reader: Any, *given: Any) -> Any:
        found = plain(reader, *given)
        for row in reader.rows:
            read.setdefault(language.vocabulary.decode(row[start:]), set()).add(row[start:])
        return found

    start = 1  # of every row
    monkeypatch.setattr(product_of_experts._Reader, "read", spy)
    writer = ProductOfExperts(model, beams=5, expand=4, logit_scale=0.0, length_penalty=0.0)
    ends, texts = product_of_experts._TokenKinds.of(language).ends, set[str]()
    for rated in written(writer, model, [("house", "river"), ("boat",), ()]):
        for text, value in zip(rated.texts, rated.values.tolist(), strict=True):
            if value > -math.inf:
                own = [_whole_likelihood(language, list(ids), ends) for ids in read[text]]
                assert any(value == pytest.approx(one, abs=2e-3) for one in own), text
                texts.add(text)
    assert len(texts) > 6
    assert family == "toy" or any(len(ids) > len(text.split()) for text in texts for ids in read[text])


def _whole_likelihood(model: LanguageModel, ids: list[int], ends: torch.Tensor) -> float:
    """log p of tokens and of an end behind them, of one pass over all of it."""
    start = [*model.frame[0]] or model.vocabulary.encode("\n")
    row = model.vocabulary.embed(torch.tensor([[*start, *ids]]))
    states = model.states(row, torch.ones(1, row.shape[1], dtype=torch.bool))
    told = model.logits(states[0, len(start) - 1 :]).float().log_softmax(dim=-1)
    return sum(float(told[place, token]) for place, token in enumerate(ids)) + float(told[-1][ends].logsumexp(0))


def test_without_the_searched_model_one_beam_writes_what_the_language_model_finds_likeliest() -> None:
    writer = ProductOfExperts(CAUSAL, beams=1, expand=1, weight=0.0, seed_words=0)
    model = CAUSAL.language_model
    assert model is not None
    rows, ids = written(writer, CAUSAL, [()]), [*model.frame[0]]
    for rated in rows:
        row = model.vocabulary.embed(torch.tensor([ids]))
        logits = model.logits(model.states(row, torch.ones(1, len(ids), dtype=torch.bool))[0, -1])
        logits[~product_of_experts._TokenKinds.of(model).writable] = -math.inf
        ids.append(int(logits.argmax()))
        assert rated.texts == [model.vocabulary.decode(ids[1:])]
    assert rows


def test_targets_in_one_batch_get_what_each_gets_alone() -> None:
    proposer, features = WRITERS[0].for_model(BACKEND), BACKEND.encode_texts(list(TEXTS))
    together = proposer.propose(features, 5, 4, generator())
    assert together == [proposer.propose(features[i : i + 1], 5, 4, generator())[0] for i in range(len(TEXTS))]


def test_words_near_the_target_are_what_makes_few_beams_find_it() -> None:
    features = BACKEND.encode_texts(list(TEXTS))

    def reached(writer: Writer) -> float:
        found = writer.for_model(BACKEND).propose(features, 8, 4, generator())
        return sum(float((BACKEND.encode_texts(own) @ f).max()) for own, f in zip(found, features, strict=True))

    few = ProductOfExperts(CAUSAL, beams=4, expand=2)
    assert reached(few) > reached(dataclasses.replace(few, seed_words=0)) + 0.3


def test_an_instruction_is_read_before_and_refused_where_it_leaves_no_room() -> None:
    features = BACKEND.encode_texts(["cat"])
    plain = ProductOfExperts(CAUSAL, weight=0.1, seed_words=2)
    told = dataclasses.replace(plain, instruction="a painting of {} in the city at night")
    assert told.for_model(BACKEND).propose(features, 4, 4, generator()) != plain.for_model(BACKEND).propose(
        features, 4, 4, generator()
    )
    long = dataclasses.replace(plain, instruction="red " * 70)
    with pytest.raises(BackendError, match="reads 64 tokens, and the instruction alone has 71; shorten it"):
        long.for_model(BACKEND).propose(features, 4, 4, generator())


# --- masked particles -------------------------------------------------------------------------


def test_particles_go_on_as_often_as_their_weights_say() -> None:
    shares = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 0.0, 0.7, 0.3]])
    found = resampled(shares.log().repeat_interleave(1, 0).flatten(), 4, generator())
    counts = found.bincount(minlength=8).reshape(2, 4)
    assert counts.sum(dim=1).tolist() == [4, 4]
    assert (counts - 4 * shares).abs().max() < 1
    many = torch.stack(
        [resampled(shares.log().flatten(), 4, generator(seed)).bincount(minlength=8) for seed in range(400)]
    )
    assert torch.allclose(many.float().mean(dim=0), 4 * shares.flatten(), atol=0.1)
    assert resampled(torch.full((4,), -math.inf), 4, generator()).tolist() == [0, 1, 2, 3]


def test_weights_telescope_to_what_the_last_text_deserves(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []
    chosen: list[torch.Tensor] = []

    def spy(weights: torch.Tensor, particles: int, draw: torch.Generator) -> torch.Tensor:
        given.append(weights)
        chosen.append(resampled(weights, particles, draw))
        return chosen[-1]

    monkeypatch.setattr(masked_particles, "resampled", spy)
    writer = MaskedParticles(MASKED, particles=6, rounds=5, guidance=2.0, seed_words=0)
    rows = written(writer, MASKED)
    total = torch.zeros(18)
    for weights, picked in zip(given, chosen, strict=True):
        last = total + weights
        total = last[picked]
    final = {round(2.0 * score, 4) for score in rows[-1].scores.tolist()}
    finite = [round(value, 4) for value in last.tolist() if value != -math.inf]
    assert finite and all(min(abs(value - one) for one in final) < 1e-3 for value in finite)


def test_the_least_certain_places_are_masked_again_and_given_words_never() -> None:
    model = MASKED.language_model
    assert model is not None
    (word,) = model.vocabulary.encode("house")
    texts = masked_particles._Texts.of_masks(model, [5, 3], [(word,), ()], generator())
    assert texts.hidden.sum(dim=1).tolist() == [4, 3] and (texts.ids == word).sum() == 1
    writable = masked_particles.writable_tokens(model)
    texts.fill(writable, 1.0, generator())
    assert not texts.hidden.any() and writable[texts.ids[0, 1:6]].all()
    certain = texts.certain.clone()
    texts.hide(0.5)
    assert texts.hidden.sum(dim=1).tolist() == [2, 2] and (texts.ids == word).any()
    for row in range(2):
        free = certain[row][certain[row].isfinite()]
        assert set(certain[row][texts.hidden[row]].tolist()) == set(free.sort().values[:2].tolist())
    assert (texts.ids[texts.hidden] == model.mask_id).all()


def test_more_guidance_gives_texts_that_are_nearer() -> None:
    def best(guidance: float) -> float:
        writer = MaskedParticles(MASKED, guidance=guidance, seed_words=0, particles=48)
        return float(torch.stack([rated.scores.mean() for rated in written(writer, MASKED)])[-1])

    assert best(60.0) > best(0.0) + 0.1


def test_a_model_without_a_mask_is_refused() -> None:
    unmasked = dataclasses.replace(MASKED, language_model=_Unmasked.create("masked"))
    with pytest.raises(BackendError, match="toy-lm has no mask token"):
        MaskedParticles(unmasked).for_model(BACKEND).propose(BACKEND.encode_texts(["cat"]), 4, 4, generator())


class _Unmasked(type(MASKED.language_model)):  # type: ignore[misc]
    """A masked language model whose tokenizer has no mask."""

    mask_id = None
