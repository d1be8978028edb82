"""Embeddings bundled in LoRA files, bare tensors, and lists."""

from pathlib import Path

import pytest
import torch
from prompt_files import rows, save

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


LORA = {"lora_unet_x.lora_down.weight": torch.zeros(4, 8), "lora_unet_x.alpha": torch.tensor(4.0)}


@pytest.mark.parametrize(
    "bundle",
    [
        {"bundle_emb.cat.string_to_param.*": rows(2, 768), "bundle_emb.dog.v2.string_to_param.*": rows(1, 768)},
        {"bundle_emb.cat.emb_params": rows(2, 768), "bundle_emb.dog.v2.emb_params": rows(1, 768)},
        {"bundle_emb.cat.clip_l": rows(2, 768), "bundle_emb.dog.v2.clip_l": rows(1, 768)},
    ],
)
def test_bundles_in_a_lora_are_chosen_by_name(bundle: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save(tmp_path / "lora.safetensors", {**LORA, **bundle})
    with pytest.raises(FileFormatError, match=r"2 soft prompts \('cat', 'dog\.v2'\)"):
        only(path)
    cat = SoftPrompt.from_file(path, name="cat")
    assert torch.equal(cat.embeddings["clip_l"], rows(2, 768)) and cat.source_format == "comfyui-bundle"


def test_bundles_for_two_encoders(tmp_path: Path) -> None:
    tensors = {"bundle_emb.cat.clip_g": rows(1, 1280), "bundle_emb.cat.clip_l": rows(1, 768)}
    assert only(save(tmp_path / "xl.safetensors", {**LORA, **tensors})).families == ("SDXL",)
    tensors = {"bundle_emb.cat.t5": rows(1, 4096), "bundle_emb.cat.clip_l": rows(1, 768)}
    assert only(save(tmp_path / "flux.safetensors", {**LORA, **tensors})).families == ("FLUX.1",)
    save(tmp_path / "odd.safetensors", {**LORA, "bundle_emb.cat.weight": rows(1, 4)})
    with pytest.raises(FileFormatError, match="'cat' has the keys 'weight'"):
        only(tmp_path / "odd.safetensors")
    with pytest.raises(FileFormatError, match="LoRA"):
        only(save(tmp_path / "plain.safetensors", LORA))


def test_bare_tensors_and_lists(tmp_path: Path) -> None:
    torch.save(rows(1, 4096)[0].bfloat16(), tmp_path / "molecule.pt")
    prompt = only(tmp_path / "molecule.pt")
    assert prompt.encoders == ("t5xxl",) and prompt.num_tokens == 1 and prompt.name == "molecule"
    torch.save([{"a": rows(1, 768)[0]}, {"b": rows(2, 768, 1)}, {"c": rows(3, 1280)}], tmp_path / "list.pt")
    prompt = only(tmp_path / "list.pt")
    assert torch.equal(prompt.embeddings["clip_l"], torch.cat([rows(1, 768), rows(2, 768, 1)]))
    assert prompt.families == ("SDXL",)
    for tree in ([], [{}], [{"a": 1}], rows(77, 8)[None], torch.arange(3)):
        torch.save(tree, tmp_path / "no.pt")
        with pytest.raises(FileFormatError, match="(no|not a) soft prompt"):
            only(tmp_path / "no.pt")


def test_thousands_of_entries_are_no_soft_prompts(tmp_path: Path) -> None:
    torch.save({f"<t{i}>": rows(1, 2)[0] for i in range(1100)}, tmp_path / "many.pt")
    with pytest.raises(FileFormatError, match=r"1100 entries .*not a soft prompt"):
        only(tmp_path / "many.pt")
