"""Causal models of transformers as priors through text: likelihoods as the models' own, another tokenizer than CLIP's."""

import pytest
import torch

from hardprompts import PromptInverter
from hardprompts.inversion.readability import fluency, open_likelihood
from hardprompts.testing import WORDS, toy_backend

transformers = pytest.importorskip("transformers")

import tokenizers  # noqa: E402
from tokenizers import decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from hardprompts_transformers.language_models import from_language_model  # noqa: E402

CORPUS = [" ".join(WORDS[i::7]) for i in range(7)]
TEXTS = ["red house near the river", "a", "", "in the city, by night: 42 caf\u00e9s", "snow snow snow snow"]


def build(family: str):
    """(model, tokenizer) with random weights: GPT-2's tokenizer puts nothing before a text, Llama's a token."""
    torch.manual_seed(0)
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if family == "llama":
        raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    size = {"vocab_size": len(tokenizer)}
    if family == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **size)
        return transformers.GPT2LMHeadModel(config), tokenizer
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **size)), tokenizer


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_likelihoods_are_the_models_own(family: str) -> None:
    model, tokenizer = build(family)
    prior = open_likelihood(from_language_model(model, tokenizer, name=family))
    found = prior(TEXTS)
    for text, value in zip(TEXTS, found.tolist(), strict=True):
        start = "\n" if family == "gpt2" else ""  # the end of what came before, where no token says so
        ids = tokenizer(start, return_tensors="pt", add_special_tokens=True)["input_ids"].long()
        ids = torch.cat([ids, tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].long()], 1)
        if ids.shape[1] == 1:
            assert value == 0
            continue
        loss = model(input_ids=ids, labels=ids).loss  # the mean over all tokens but the first
        assert value == pytest.approx(-float(loss) * (ids.shape[1] - 1), rel=1e-4)


def test_a_model_that_has_learnt_a_language_pulls_prompts_towards_it() -> None:
    """GPT-2 is taught that "old" comes before "boat" and never otherwise: the similarity of both orders is nearly
    the same to the toy, and the prior decides."""
    model, tokenizer = build("gpt2")
    ids = tokenizer("\nold boat", return_tensors="pt")["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backend = from_language_model(model, tokenizer, name="gpt2")
    prior, toy = open_likelihood(backend), toy_backend()
    assert fluency(["old boat"], prior) > fluency(["boat old"], prior) + 1
    target = toy.encode_texts(["boat old"])
    options = {"num_tokens": 2, "views": 1, "restarts": 4, "seed": 0, "progress": False, "token_cost": 0.0}
    assert PromptInverter(toy, "beam").invert(target, **options).text == "boat old"
    pulled = PromptInverter(toy, "beam", prior=backend).invert(target, prior_weight=1.0, **options)
    assert pulled.text == "old boat"
