"""What releases of transformers do differently is the same here; `make test-oldest` runs this with the oldest."""

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

from hardprompts_transformers.releases import BY_PILLOW, DTYPE, open_tokenizer, scales_decoder_outputs  # noqa: E402


def written_by_transformers_5(folder: Path, kind: str) -> Path:
    """A tokenizer of three words and two special tokens."""
    vocab = {token: i for i, token in enumerate(["<unk>", "<start>", "<end>", "red", "house"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.save(str(folder / "tokenizer.json"))
    config = {
        "backend": "tokenizers", "tokenizer_class": kind, "unk_token": "<unk>", "model_max_length": 7,
        "extra_special_tokens": ["<start>", "<end>"], "padding_side": "left",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_tokenizers_that_transformers_5_wrote_are_read(kind: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(str(written_by_transformers_5(tmp_path, kind)))
    assert tokenizer("red house blue")["input_ids"] == [3, 4, 0]
    assert {1, 2} <= set(tokenizer.all_special_ids)
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.is_fast) == (7, "left", True)


def test_weights_come_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=8, vocab_size=9)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **{DTYPE: dtype})
        assert next(model.parameters()).dtype == dtype


def test_images_are_resized_by_pillow(tmp_path: Path) -> None:
    transformers.CLIPImageProcessor(size={"shortest_edge": 8}).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, **BY_PILLOW)
    assert type(processor).__name__ in ("CLIPImageProcessor", "CLIPImageProcessorPil")
    assert not type(processor).__module__.endswith("_fast") and "orchvision" not in str(type(processor).__mro__)


@pytest.mark.parametrize("tied", [True, False])
def test_whether_t5_scales_what_its_decoder_gives(tied: bool) -> None:
    config = transformers.T5Config(
        d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=8, vocab_size=20, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids = torch.tensor([[3, 4, 5]])
    output = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    states = output.decoder_hidden_states[-1]
    scale = 16**-0.5 if scales_decoder_outputs(model.config) else 1.0
    torch.testing.assert_close(model.lm_head(states * scale), output.logits)
    assert not scales_decoder_outputs(transformers.GPT2Config())
