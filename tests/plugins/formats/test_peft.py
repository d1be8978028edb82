"""PEFT's prompts, as it writes them and as it reads ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_files import adapter, rows, save

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


LORA = {"lora_unet_x.lora_down.weight": torch.zeros(4, 8), "lora_unet_x.alpha": torch.tensor(4.0)}


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING"])
def test_peft_prompts(kind: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "sentiment", {"prompt_embeddings": rows(4, 16)}, peft_type=kind)
    for path in (folder, folder / "adapter_model.safetensors", folder / "adapter_config.json"):
        prompt = only(path)
        assert torch.equal(prompt.embeddings["lm"], rows(4, 16))
        assert (prompt.name, prompt.base_models, prompt.source_format) == ("sentiment", ("org/model",), "peft")
        assert prompt.families == ("language model of width 16",) and prompt.metadata["peft_type"] == kind


def test_peft_with_a_classifier_and_in_the_old_file(tmp_path: Path) -> None:
    head = {"base_model.classifier.weight": rows(2, 16), "base_model.classifier.bias": rows(1, 2)[0]}
    folder = adapter(tmp_path / "a", {"prompt_embeddings": rows(4, 16), **head}, task_type="SEQ_CLS")
    assert only(folder).num_tokens == 4
    torch.save({"prompt_embeddings": rows(4, 16, 1), **head}, folder / "adapter_model.bin")
    assert torch.equal(only(folder / "adapter_model.bin").embeddings["lm"], rows(4, 16, 1))
    (folder / "adapter_model.safetensors").unlink()
    assert torch.equal(only(folder).embeddings["lm"], rows(4, 16, 1))


@pytest.mark.parametrize("halves", [2, None])
def test_peft_of_an_encoder_decoder(halves: int | None, tmp_path: Path) -> None:
    folder = adapter(
        tmp_path / "t5", {"prompt_embeddings": rows(8, 16)}, task_type="SEQ_2_SEQ_LM", num_transformer_submodules=halves
    )
    prompt = only(folder)
    assert prompt.encoders == ("lm_encoder", "lm_decoder") and prompt.num_tokens == 4
    assert torch.equal(torch.cat(list(prompt.embeddings.values())), rows(8, 16))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING': it stores keys and values .* no token embeddings"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "prefix_task_cols' is not a tensor"),
        ({"peft_type": "TRAINABLE_TOKENS"}, "no prompt of its own"),
        ({"peft_type": "LORA"}, "'LORA': it changes the model's weights"),
        ({"peft_type": None}, "of the kind 'None'"),
        ({"num_virtual_tokens": 5}, "speaks of 5 tokens"),
        ({"num_virtual_tokens": "4"}, "speaks of 4 tokens"),
        ({"token_dim": 32}, "width 32"),
        ({"num_transformer_submodules": 3}, "3 times"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "2 times"),
    ],
)
def test_other_adapters_are_refused_with_the_reason(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {"prompt_embeddings": rows(4, 16)}, **config)
    for path in (folder, folder / "adapter_model.safetensors"):
        with pytest.raises(FileFormatError, match=message):
            only(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\x00", "[" * 100_000])
def test_damaged_configurations_are_one_clear_error(content: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {"prompt_embeddings": rows(4, 16)})
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"adapter_config\.json"):
        only(folder)


def test_adapters_with_a_part_missing(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {"prompt_embeddings": rows(4, 16)})
    (folder / "adapter_config.json").rename(tmp_path / "kept.json")
    with pytest.raises(FileFormatError, match="alone tells prompt tuning from prefix tuning"):
        only(folder / "adapter_model.safetensors")
    (tmp_path / "kept.json").rename(folder / "adapter_config.json")
    save(folder / "adapter_model.safetensors", {"base_model.model.lora_A.weight": rows(2, 2)})
    with pytest.raises(FileFormatError, match="with 'prompt_embeddings'"):
        only(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"no adapter_model\.safetensors"):
        only(folder)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_peft_loads_what_is_written_and_is_read(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        model: Any = transformers.GPT2LMHeadModel(config)
        names, task = ("lm",), "CAUSAL_LM"
    else:
        config = transformers.T5Config(
            vocab_size=50, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        model = transformers.T5ForConditionalGeneration(config)
        names, task = ("lm_encoder", "lm_decoder"), "SEQ_2_SEQ_LM"
    theirs = peft.get_peft_model(model, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=4))
    theirs.save_pretrained(tmp_path / "theirs")
    found = only(tmp_path / "theirs")
    assert found.encoders == names
    own = theirs.prompt_encoder["default"].embedding.weight.detach()
    assert torch.equal(torch.cat(list(found.embeddings.values())), own)

    prompt = SoftPrompt({name: rows(5, 16, i) for i, name in enumerate(names)})
    prompt.save(tmp_path / "ours", format="peft")
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "ours")
    held = loaded.prompt_encoder["default"].embedding.weight.detach()
    assert torch.equal(held, torch.cat(list(prompt.embeddings.values())))
    ids = torch.arange(6)[None]
    assert loaded(input_ids=ids, labels=ids).loss.isfinite()


def small_gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    )


def test_multitask_prompts_are_one_for_each_task(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    options = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "num_tasks": 3, "num_ranks": 2}
    theirs = peft.get_peft_model(small_gpt2(), peft.MultitaskPromptTuningConfig(prompt_tuning_init="RANDOM", **options))
    theirs.save_pretrained(tmp_path / "many")
    encoder, places = theirs.prompt_encoder["default"], torch.arange(4)[None]
    with pytest.raises(FileFormatError, match="'many task 0', 'many task 1', 'many task 2'"):
        only(tmp_path / "many")
    for task in range(3):
        with torch.no_grad():
            expected = encoder(places.clone(), torch.tensor([task]))[0]
        found = SoftPrompt.from_file(tmp_path / "many", name=f"many task {task}")
        assert torch.allclose(found.embeddings["lm"], expected, atol=1e-7), task


def test_context_aware_prompts_are_what_the_model_reads(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[3, 1, 4, 1],
        cpt_mask=[1] * 4,
        cpt_tokens_type_mask=[1, 2, 3, 4],
    )
    theirs = peft.get_peft_model(small_gpt2(), config)
    theirs.prompt_encoder["default"].delta_embedding.weight.data.fill_(0.01)
    theirs.save_pretrained(tmp_path / "cpt")
    assert torch.equal(only(tmp_path / "cpt").embeddings["lm"], theirs.get_prompt_embedding_to_save("default"))


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING"])
def test_pefts_other_prompts(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, options = small_gpt2(), {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    config = (
        peft.PrefixTuningConfig(**options)
        if kind == "PREFIX_TUNING"
        else peft.PromptEncoderConfig(encoder_hidden_size=8, **options)
    )
    theirs = peft.get_peft_model(model, config)
    theirs.save_pretrained(tmp_path)
    if kind == "PREFIX_TUNING":
        with pytest.raises(FileFormatError, match="no token embeddings"):
            only(tmp_path)
    else:
        assert torch.equal(only(tmp_path).embeddings["lm"], theirs.get_prompt_embedding_to_save("default"))
