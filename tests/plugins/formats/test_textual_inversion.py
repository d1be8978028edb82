"""Textual inversion as AUTOMATIC1111, kohya-ss, diffusers, pivotal tuning and ComfyUI write it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_files import A1111, rows, save

from hardprompts import FileFormatError
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.prompt import read_soft_prompts


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


def test_a1111(tmp_path: Path) -> None:
    torch.save(A1111, tmp_path / "file.pt")
    prompt = only(tmp_path / "file.pt")
    assert torch.equal(prompt.embeddings["clip_l"], rows(2, 768))
    assert (prompt.name, prompt.step, prompt.source_format) == ("my style", 1500, "a1111")
    assert prompt.base_models == ("model-v1", "27a4ac756c") and prompt.families == ("SD 1.x",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a1111_of_old_torch(legacy: bool, tmp_path: Path) -> None:
    content = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(1, 1024))}),
    }
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=not legacy)
    prompt = only(tmp_path / "old.pt")
    assert torch.equal(prompt.embeddings["clip_h"], rows(1, 1024))
    assert (prompt.name, prompt.step, prompt.families) == ("old", None, ("SD 2.x",))


def test_a1111_with_several_terms(tmp_path: Path) -> None:
    torch.save({**A1111, "string_to_param": {"*": rows(1, 768), "@": rows(2, 768)}}, tmp_path / "two.pt")
    with pytest.raises(FileFormatError, match=r"2 soft prompts \('\*', '@'\), and choose one"):
        only(tmp_path / "two.pt")
    assert SoftPrompt.from_file(tmp_path / "two.pt", name="@").num_tokens == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("width, encoder", [(768, "clip_l"), (1024, "clip_h"), (1280, "clip_g"), (48, "text_encoder")])
def test_kohya(suffix: str, width: int, encoder: str, tmp_path: Path) -> None:
    save(tmp_path / f"neg{suffix}", {"emb_params": rows(5, width)})
    prompt = only(tmp_path / f"neg{suffix}")
    assert torch.equal(prompt.embeddings[encoder], rows(5, width)) and prompt.name == "neg"
    assert prompt.source_format == "kohya"


@pytest.mark.parametrize("order", [("clip_l", "clip_g"), ("clip_g", "clip_l")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_kohya_sdxl_in_both_orders(order: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    tensors = {"clip_l": rows(3, 768), "clip_g": rows(3, 1280, 1)}
    path = tmp_path / f"xl{suffix}"
    if suffix == ".pt":
        torch.save({name: tensors[name] for name in order}, path)
    else:  # the library sorts, so the header is written here
        header, data = {}, b""
        for name in order:
            content = tensors[name].numpy().tobytes()
            header[name] = {
                "dtype": "F32",
                "shape": [*tensors[name].shape],
                "data_offsets": [len(data), len(data) + len(content)],
            }
            data += content
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    prompt = only(path)
    assert prompt.encoders == ("clip_l", "clip_g") and prompt.families == ("SDXL",)
    assert all(torch.equal(prompt.embeddings[name], tensors[name]) for name in order)
    assert prompt.source_format == "kohya"


def test_kohya_metadata_gives_hints(tmp_path: Path) -> None:
    metadata = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "x.ckpt", "ss_tags": "t" * 5000, "format": "pt"}
    prompt = only(save(tmp_path / "a.safetensors", {"emb_params": rows(1, 768)}, metadata))
    assert set(prompt.base_models) == {"sd_v1", "x.ckpt"}
    assert set(prompt.metadata) == {"ss_base_model_version", "ss_sd_model_name"}


XTI = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"] + [f"OUT{n:02}" for n in range(3, 12)]


def test_kohya_xti_is_sixteen_soft_prompts(tmp_path: Path) -> None:
    save(tmp_path / "xti.safetensors", {layer: rows(2, 768, i) for i, layer in enumerate(XTI)})
    with pytest.raises(FileFormatError, match=r"16 soft prompts \('IN01'.*choose one"):
        only(tmp_path / "xti.safetensors")
    layer = SoftPrompt.from_file(tmp_path / "xti.safetensors", name="OUT05")
    assert torch.equal(layer.embeddings["clip_l"], rows(2, 768, XTI.index("OUT05")))


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("shape", [(768,), (1, 768), (4, 768)])
def test_diffusers(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = rows(4, 768)[: shape[0] if len(shape) == 2 else 1].reshape(shape)
    save(tmp_path / f"learned_embeds{suffix}", {"<cat-toy>": tensor}, {"format": "pt"} if suffix != ".bin" else None)
    for path in (tmp_path / f"learned_embeds{suffix}", tmp_path):  # a folder, as on the Hub, too
        prompt = only(path)
        assert torch.equal(prompt.embeddings["clip_l"], tensor.reshape(-1, 768))
        assert (prompt.name, prompt.source_format, dict(prompt.metadata)) == ("<cat-toy>", "diffusers", {})


def test_diffusers_vectors_under_numbered_tokens(tmp_path: Path) -> None:
    parts = {"<a>_1": rows(1, 768, 1)[0], "<a>": rows(1, 768, 0)[0], "<a>_2": rows(1, 768, 2)[0]}
    tensors = {**parts, "<b>": rows(1, 768, 3)[0], "b_7": rows(1, 768, 4)[0]}
    save(tmp_path / "m.bin", tensors)
    found = {prompt.name: prompt.embeddings["clip_l"] for prompt in read_soft_prompts(tmp_path / "m.bin")}
    assert list(found) == ["<a>", "<b>", "b_7"]
    assert torch.equal(found["<a>"], torch.stack([parts["<a>"], parts["<a>_1"], parts["<a>_2"]]))
    save(tmp_path / "gap.bin", {"<a>": rows(1, 768)[0], "<a>_1": rows(1, 768)[0], "<a>_3": rows(1, 768)[0]})
    with pytest.raises(FileFormatError, match=r"gaps: '<a>_3'"):
        only(tmp_path / "gap.bin")
    save(tmp_path / "mixed.bin", {"<a>": rows(1, 768)[0], "<a>_1": rows(1, 1280)[0]})
    with pytest.raises(FileFormatError, match=r"differ in width: \[768, 1280\]"):
        only(tmp_path / "mixed.bin")


@pytest.mark.parametrize(
    "first, second",
    [
        ("learned_embeds.safetensors", "learned_embeds_2.safetensors"),
        ("learned_embeds-steps-500.bin", "learned_embeds_2-steps-500.bin"),
        ("style.safetensors", "style_2.safetensors"),
    ],
)
def test_the_two_files_of_sdxl_are_found_from_either(first: str, second: str, tmp_path: Path) -> None:
    save(tmp_path / first, {"<s>": rows(2, 768)}, None)
    save(tmp_path / second, {"<s>": rows(2, 1280, 1)}, None)
    for name in (first, second):
        prompt = only(tmp_path / name)
        assert prompt.encoders == ("clip_l", "clip_g") and prompt.name == "<s>"
        assert torch.equal(prompt.embeddings["clip_l"], rows(2, 768))
        assert torch.equal(prompt.embeddings["clip_g"], rows(2, 1280, 1))


def test_a_neighbor_that_is_no_other_half_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "a.bin", {"<s>": rows(1, 768)})
    for other in ({"<t>": rows(1, 1280)}, {"<s>": rows(1, 768, 1)}, {"emb_params": rows(1, 1280)}):
        save(tmp_path / "a_2.bin", other)
        prompt = only(tmp_path / "a.bin")
        assert prompt.encoders == ("clip_l",) and torch.equal(prompt.embeddings["clip_l"], rows(1, 768))
    save(tmp_path / "a_2.bin", {"<s>": rows(3, 1280)})
    with pytest.raises(FileFormatError, match=r"number of tokens \(clip_l 1, clip_g 3\)"):
        only(tmp_path / "a.bin")
    (tmp_path / "a.bin").unlink()
    assert only(tmp_path / "a_2.bin").encoders == ("clip_g",)


def test_a_file_that_would_be_read_with_an_old_half_is_not_written(tmp_path: Path) -> None:
    pair = SoftPrompt({"clip_l": rows(1, 768), "clip_g": rows(1, 1280)}, name="<s>")
    single = SoftPrompt({"clip_l": rows(2, 768)}, name="<s>")
    pair.save(tmp_path / "learned_embeds.bin", format="diffusers")
    with pytest.raises(FileFormatError, match="other half of an SDXL pair"):
        single.save(tmp_path / "learned_embeds.bin", format="diffusers")
    assert only(tmp_path / "learned_embeds.bin").encoders == pair.encoders
    single.save(tmp_path / "other.bin", format="diffusers")


@pytest.mark.parametrize("names", [("text_encoders_0", "text_encoders_1"), ("emb", "emb2")])
@pytest.mark.parametrize("flip", [False, True])
def test_pivotal_tuning(names: tuple[str, str], flip: bool, tmp_path: Path) -> None:
    halves = [rows(2, 768).bfloat16(), rows(2, 1280, 1).bfloat16()]
    save(tmp_path / "embeddings.pti", dict(zip(names, halves[::-1] if flip else halves, strict=True)))
    prompt = only(tmp_path / "embeddings.pti")
    assert prompt.encoders == ("clip_l", "clip_g") and prompt.source_format == "pti"
    assert torch.equal(prompt.embeddings["clip_g"], halves[1].float())


@pytest.mark.parametrize(
    "stored, encoders",
    [
        ({"clip_l": 768}, ("clip_l",)),
        ({"clip_h": 1024}, ("clip_h",)),
        ({"clip_l": 768, "t5": 4096}, ("clip_l", "t5xxl")),
        ({"t5xxl": 4096, "clip_g": 1280, "clip_l": 768}, ("clip_l", "clip_g", "t5xxl")),
        ({"pile_t5xl": 2048}, ("pile_t5xl",)),
        ({"umt5xxl": 4096}, ("umt5xxl",)),
        ({"gemma2_2b": 2304}, ("gemma2_2b",)),
        ({"gemma": 2304}, ("gemma2_2b",)),
        ({"qwen25_7b": 3584}, ("qwen25_7b",)),
        ({"llama": 4096, "clip_l": 768}, ("clip_l", "llama")),
    ],
)
def test_comfyui(stored: dict[str, int], encoders: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {name: rows(2, width, i) for i, (name, width) in enumerate(stored.items())}
    prompt = only(save(tmp_path / "a.safetensors", tensors))
    assert prompt.encoders == encoders and prompt.source_format == "comfyui"
    assert sum(float(values.sum()) for values in prompt.embeddings.values()) == pytest.approx(
        sum(float(values.sum()) for values in tensors.values())
    )


def test_vectors_behind_the_encoder_are_no_token_embeddings(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {"clip_l": rows(1, 768), "clip_l_out": rows(1, 768), "t5_out": rows(1, 4096)})
    prompt = only(tmp_path / "a.safetensors")
    assert prompt.encoders == ("clip_l",) and prompt.metadata["left_out"] == "clip_l_out, t5_out"
    for keys in ({"clip_l_out": rows(1, 768)}, {"emp_params_out": rows(1, 768)}):
        save(tmp_path / "b.safetensors", keys)
        with pytest.raises(FileFormatError, match="behind the text encoder"):
            only(tmp_path / "b.safetensors")
    assert only(save(tmp_path / "c.safetensors", {"emp_params": rows(1, 768)})).encoders == ("clip_l",)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"clip_l": rows(1, 1280)}, "clip_l has token embeddings of width 768"),
        ({"clip_l": rows(1, 768), "clip_g": rows(1, 768)}, "clip_g has token embeddings of width 1280"),
        ({"clip_l": rows(1, 768), "clip_g": rows(2, 1280)}, "number of tokens"),
        ({"clip_l": rows(2, 768), "t5xxl": rows(1, 4096)}, "number of tokens"),
        ({"emb_params": rows(77, 768)[None]}, "may be the output of a text encoder"),
        ({"emb_params": torch.tensor(1.0)}, r"shape is \(\)"),
        ({"text_encoders_0": rows(1, 768), "text_encoders_1": rows(1, 768)}, "the same width, 768"),
        ({"a": rows(1, 768), "b": rows(77, 768)[None]}, "are not a soft prompt"),
        ({}, "holds no tensor"),
    ],
)
def test_wrong_shapes_are_refused(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=rf"a\.pt.*{message}"):
        only(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "tree",
    [
        {"emb_params": "x"},
        {"clip_l": {"a": 1}},
        {"clip_l": rows(1, 768), "clip_g": None},
        {"text_encoders_0": 3},
        {"string_to_param": 3},
    ],
)
def test_keys_without_tensors_are_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"is not a tensor|are not a soft prompt"):
        only(tmp_path / "a.pt")


@pytest.mark.parametrize(("name", "read"), [("../../evil", ".._.._evil"), ("a\x1b[2Jb", "a[2Jb"), ("x\ny", "xy")])
def test_names_in_files_that_could_do_harm_are_cleaned(name: str, read: str, tmp_path: Path) -> None:
    torch.save({**A1111, "name": name}, tmp_path / "a.pt")
    save(tmp_path / "b.bin", {name: rows(1, 768)})
    for path in (tmp_path / "a.pt", tmp_path / "b.bin"):
        found = only(path)
        assert found.name == read
        assert str(found.metadata["name_in_file"]).isprintable()
