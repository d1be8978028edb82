"""Files that are valid although nobody here would write them so: read, with a note of what was assumed."""

import collections
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_files import A1111, adapter, rows, save

from hardprompts import FileFormatError, SoftPrompt
from hardprompts.softprompts.prompt import read_soft_prompts

TWO = rows(2, 768)


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


def noted(prompt: SoftPrompt, *words: str) -> bool:
    return any(all(word in note for word in words) for note in prompt.notes)


# --- shapes and numbers -------------------------------------------------------------------


@pytest.mark.parametrize("key", ["<x>", "emb_params"])
@pytest.mark.parametrize("shape", [(1, 2, 768), (2, 1, 768), (1, 2, 1, 768)])
def test_axes_of_length_one_are_left_out(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    prompt = only(save(tmp_path / "a.safetensors", {key: TWO.reshape(shape)}))
    assert torch.equal(prompt.embeddings["clip_l"], TWO)
    assert noted(prompt, f"'{key}' has the shape {shape}", "2 tokens of width 768")


@pytest.mark.parametrize("key", ["<x>", "emb_params"])
@pytest.mark.parametrize("width, encoder", [(768, "clip_l"), (1024, "clip_h"), (1280, "clip_g"), (4096, "t5xxl")])
def test_rows_that_stand_upright_are_turned(tmp_path: Path, key: str, width: int, encoder: str) -> None:
    values = rows(3, width)
    prompt = only(save(tmp_path / "a.safetensors", {key: values.T.contiguous()}))
    assert torch.equal(prompt.embeddings[encoder], values) and noted(prompt, f"({width}, 3)")


def test_a_whole_context_is_not_taken_for_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"emb_params": rows(77, 768)[None]})
    with pytest.raises(FileFormatError, match="output of a text encoder"):
        only(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2fnuz"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_floating_point_is_read(tmp_path: Path, dtype: str, suffix: str) -> None:
    values = TWO.to(getattr(torch, dtype))
    if dtype == "float8_e5m2fnuz" and suffix == ".safetensors":
        pytest.importorskip("safetensors", "0.5", reason="older ones cannot write it")
    prompt = only(save(tmp_path / f"a{suffix}", {"<x>": values}))
    assert torch.equal(prompt.embeddings["clip_l"], values.float())


def test_quantized_numbers_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"emb_params": torch.ones(2, 768, dtype=torch.int8)})
    with pytest.raises(FileFormatError, match="int8 cannot hold embeddings.*if it was quantized"):
        only(path)
    with pytest.raises(FileFormatError, match=r"'<x>': int8 \(2, 768\)"):
        only(save(tmp_path / "b.safetensors", {"<x>": torch.ones(2, 768, dtype=torch.int8)}))


@pytest.mark.parametrize(
    "values", [rows(768, 2).T, rows(5, 768)[1:3], torch.nn.Parameter(TWO), TWO.expand(2, 768), rows(2, 1536)[:, ::2]]
)
def test_views_and_parameters_are_read(tmp_path: Path, values: torch.Tensor) -> None:
    prompt = only(save(tmp_path / "a.pt", {"emb_params": values, "again": values}))  # type: ignore[dict-item]
    assert torch.equal(prompt.embeddings["clip_l"], values.detach())


# --- what stands beside the embeddings ----------------------------------------------------

EXTRAS: list[tuple[Any, Any]] = [
    (7, 7),
    ("7", 7),
    (7.0, 7),
    (torch.tensor(7), 7),
    (torch.tensor([7]), 7),
    (np.int64(7), 7),
    (10**30, 10**30),
    (None, None),
]


@pytest.mark.parametrize("step, read", EXTRAS)
@pytest.mark.parametrize("keys", ["<x>", "emb_params", "clip_l clip_g", "clip_l t5", "text_encoders_0 text_encoders_1"])
def test_steps_beside_tensors_are_facts(tmp_path: Path, keys: str, step: Any, read: int | None) -> None:
    widths = {"clip_g": 1280, "text_encoders_1": 1280, "t5": 4096}
    tensors = {key: rows(2, widths.get(key, 768)) for key in keys.split()}
    torch.save({**tensors, "step": step, "sd_checkpoint": "abc"}, tmp_path / "style.pt")
    prompt = only(tmp_path / "style.pt")
    assert prompt.step == read and prompt.base_models == ("abc",) and prompt.num_tokens == 2
    assert len(prompt.encoders) == len(tensors) and "step" not in prompt.metadata


@pytest.mark.parametrize("step, read", EXTRAS)
def test_steps_of_the_web_ui(tmp_path: Path, step: Any, read: int | None) -> None:
    torch.save({**A1111, "step": step}, tmp_path / "a.pt")
    assert only(tmp_path / "a.pt").step == read


def test_a_step_that_is_no_number_is_kept(tmp_path: Path) -> None:
    torch.save({**A1111, "step": "last"}, tmp_path / "a.pt")
    assert only(tmp_path / "a.pt").step is None and only(tmp_path / "a.pt").metadata["step"] == "last"


@pytest.mark.parametrize(
    "extra",
    [
        {"shape": TWO.shape}, {"c": 1j}, {"c": b"ab"}, {"c": bytearray(b"ab")}, {"c": {1, 2}}, {"c": (1, 2)},
        {"c": collections.Counter("ab")}, {"c": collections.defaultdict(list)}, {"optimizer": {"state": {0: TWO}}},
        {"notes": ["a", "b"]},
    ],
)  # fmt: skip
def test_other_values_are_left_out_and_named(tmp_path: Path, extra: dict[str, Any]) -> None:
    torch.save({"<x>": TWO, **extra}, tmp_path / "a.pt")
    prompt = only(tmp_path / "a.pt")
    assert prompt.metadata["left_out"] == next(iter(extra)) and noted(prompt, "left out", next(iter(extra)))
    torch.save({**A1111, **extra}, tmp_path / "b.pt")
    assert only(tmp_path / "b.pt").metadata["left_out"] == next(iter(extra))


@pytest.mark.parametrize("extra, read", [({"device": torch.device("cuda", 1)}, "cuda:1"), ({"loss": np.float32(0.5)}, 0.5),
                                         ({"dtype": torch.float16}, "torch.float16")])  # fmt: skip
def test_values_of_libraries_become_metadata(tmp_path: Path, extra: dict[str, Any], read: Any) -> None:
    torch.save({"<x>": TWO, **extra}, tmp_path / "a.pt")
    assert only(tmp_path / "a.pt").metadata[next(iter(extra))] == read


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2"])
def test_arrays_of_numpy_are_tensors(tmp_path: Path, kind: str, order: Any) -> None:
    array = np.asarray(TWO.numpy(), dtype=kind, order=order)
    torch.save({"string_to_param": {"*": array}, "name": "n"}, tmp_path / "a.pt")
    assert np.array_equal(only(tmp_path / "a.pt").embeddings["clip_l"].numpy(), array.astype(np.float32))


def test_whole_objects_are_no_attack(tmp_path: Path) -> None:
    torch.save(torch.nn.Embedding(2, 768), tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match="whole objects of Python.*save its tensors"):
        only(tmp_path / "a.pt")


@pytest.mark.parametrize("key, name", [(0, "0"), (1.5, "1.5"), (None, "None"), (b"a", "a"), (("a", 1), "('a', 1)")])
def test_keys_of_any_kind_are_names(tmp_path: Path, key: Any, name: str) -> None:
    torch.save({key: TWO}, tmp_path / "a.pt")
    assert only(tmp_path / "a.pt").name == name


@pytest.mark.parametrize("name, read", [(5, "5"), ("", "a"), (None, "a"), ("*", "*"), ("CON", "CON"), ("…", "…")])
def test_names_of_the_web_ui(tmp_path: Path, name: Any, read: str) -> None:
    torch.save({**A1111, "name": name}, tmp_path / "a.pt")
    assert only(tmp_path / "a.pt").name == read


# --- metadata and containers --------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata, kept",
    [
        ({"step": 100, "note": {"b": [1]}}, {"note": '{"b": [1]}'}),
        ({"a": None}, {"a": "null"}),
        ([1], {"metadata": "[1]"}),
        ("x", {"metadata": "x"}),
    ],
)
def test_metadata_that_is_not_of_texts(tmp_path: Path, metadata: Any, kept: dict[str, str]) -> None:
    content = TWO.numpy().tobytes()
    header = {
        "__metadata__": metadata,
        "emb_params": {"dtype": "F32", "shape": [2, 768], "data_offsets": [0, len(content)]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)
    prompt = only(tmp_path / "a.safetensors")
    assert torch.equal(prompt.embeddings["clip_l"], TWO) and prompt.metadata == kept
    assert prompt.step == (100 if "step" in metadata else None)


@pytest.mark.parametrize("suffix", [".safetensors", ".PT", ".bin", ".embedding", ".ckpt", ""])
def test_files_are_what_is_in_them(tmp_path: Path, suffix: str) -> None:
    torch.save({"<x>": TWO}, tmp_path / f"a{suffix}")
    assert torch.equal(only(tmp_path / f"a{suffix}").embeddings["clip_l"], TWO)
    safe = save(tmp_path / "b.safetensors", {"<x>": TWO})
    safe.rename(tmp_path / f"c{suffix}")
    assert torch.equal(only(tmp_path / f"c{suffix}").embeddings["clip_l"], TWO)


@pytest.mark.parametrize("head", [b"PK\3\4", b"Rar!\x1a\7\0", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08"])
def test_archives_are_named(tmp_path: Path, head: bytes) -> None:
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(head + bytes(60))
        with pytest.raises(FileFormatError, match="archive"):
            only(tmp_path / name)


@pytest.mark.parametrize("tree", [[TWO], (TWO[:1], TWO[1:]), [{"a": TWO[:1]}, TWO[1:]]])
def test_lists_of_tensors(tmp_path: Path, tree: Any) -> None:
    torch.save(tree, tmp_path / "a.pt")
    assert torch.equal(only(tmp_path / "a.pt").embeddings["clip_l"], TWO)


# --- which text encoder -------------------------------------------------------------------


@pytest.mark.parametrize(
    "width, taken, others",
    [
        (768, "clip_l, for SD 1.x", ["SDXL", "FLUX.1", "t5base", "GPT-2"]),
        (1024, "clip_h, for SD 2.x", ["t5xxl", "qwen3_06b", "T5-large"]),
        (1280, "clip_g, for SDXL refiner", ["SDXL", "GPT-2 large"]),
        (4096, "t5xxl", ["umt5xxl", "llama", "qwen3_8b"]),
        (2048, "text_encoder", ["pile_t5xl"]),
    ],
)
@pytest.mark.parametrize("key", ["<x>", "emb_params"])
def test_a_width_that_has_several_readings_is_told(
    tmp_path: Path, key: str, width: int, taken: str, others: list[str]
) -> None:
    prompt = only(save(tmp_path / "a.safetensors", {key: rows(1, width)}))
    assert noted(prompt, f"{width} values to a token are read as {taken}", f'rename={{"{key}": "t5base"}}', *others)


def test_the_other_reading_is_had_by_renaming(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"<x>": TWO})
    assert SoftPrompt.from_file(path, rename={"<x>": "t5base"}).encoders == ("t5base",)


def test_named_encoders_leave_nothing_to_tell(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"clip_l": TWO, "clip_g": rows(2, 1280), "t5": rows(2, 4096)})
    assert only(path).families == ("SD3",) and only(path).notes == ()
    pair = only(save(tmp_path / "b.safetensors", {"text_encoders_0": TWO, "text_encoders_1": rows(2, 1280)}))
    assert pair.families == ("SDXL",) and noted(pair, "768 as clip_l, 1280 as clip_g")


def test_the_two_of_clip_under_each_others_names(tmp_path: Path) -> None:
    for tensors in ({}, {"t5xxl": rows(2, 4096)}):
        path = save(tmp_path / "a.safetensors", {"clip_g": TWO, "clip_l": rows(2, 1280), **tensors})
        prompt = only(path)
        assert torch.equal(prompt.embeddings["clip_l"], TWO) and noted(prompt, "clip_g of width 768 as clip_l")


@pytest.mark.parametrize("word", ["llama", "gemma"])
def test_an_animal_is_no_language_model(tmp_path: Path, word: str) -> None:
    prompt = only(save(tmp_path / "a.safetensors", {word: TWO}))
    assert prompt.name == word and prompt.encoders == ("clip_l",)
    width = {"llama": 4096, "gemma": 2304}[word]
    assert only(save(tmp_path / "b.safetensors", {word: rows(2, width)})).name == "b"


def test_encoders_that_are_not_known_stand_beside_those_that_are(tmp_path: Path) -> None:
    prompt = only(save(tmp_path / "a.safetensors", {"byt5": rows(2, 1472), "clip_l": TWO}))
    assert prompt.encoders == ("clip_l", "byt5")


def test_three_encoders_that_are_counted(tmp_path: Path) -> None:
    widths = (768, 1280, 4096)
    prompt = only(save(tmp_path / "a.safetensors", {f"text_encoders_{i}": rows(1, w) for i, w in enumerate(widths)}))
    assert prompt.encoders == ("clip_l", "clip_g", "t5xxl")


# --- renaming -----------------------------------------------------------------------------


def test_renaming_reaches_into_what_a_lora_bundles(tmp_path: Path) -> None:
    lora = {"lora_unet_x.lora_down.weight": rows(1, 4), "bundle_emb.my.style.clip_g": TWO}
    path = save(tmp_path / "a.safetensors", lora)
    with pytest.raises(FileFormatError, match=r'rename=\{"clip_g": "clip_l"\}'):
        only(path)
    prompt = SoftPrompt.from_file(path, rename={"clip_g": "clip_l"})
    assert prompt.name == "my.style" and prompt.encoders == ("clip_l",)
    with pytest.raises(FileFormatError, match="no key 'style' to rename"):
        SoftPrompt.from_file(path, rename={"style": "x"})


def test_renaming_reaches_the_other_half_and_folders(tmp_path: Path) -> None:
    save(tmp_path / "learned_embeds.safetensors", {"<old>": TWO})
    save(tmp_path / "learned_embeds_2.safetensors", {"<old>": rows(2, 1280)})
    for place in (tmp_path / "learned_embeds.safetensors", tmp_path / "learned_embeds_2.safetensors", tmp_path):
        prompt = SoftPrompt.from_file(place, rename={"<old>": "<new>"})
        assert prompt.name == "<new>" and prompt.encoders == ("clip_l", "clip_g"), place
    with pytest.raises(FileFormatError, match="no key '<other>' to rename"):
        SoftPrompt.from_file(tmp_path, rename={"<other>": "<new>"})


def test_renaming_the_weights_of_an_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", {"prompts": rows(4, 16)})
    assert SoftPrompt.from_file(folder, rename={"prompts": "prompt_embeddings"}).num_tokens == 4


@pytest.mark.parametrize("entries", [{"": TWO}, {".emb_params": TWO}, {".text_encoders_0": TWO, ".text_encoders_1": rows(2, 1280)}])  # fmt: skip
def test_bundles_hold_every_kind(tmp_path: Path, entries: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path / "a.safetensors", {f"bundle_emb.red{key}": tensor for key, tensor in entries.items()})
    prompt = only(path)
    assert prompt.name == "red" and torch.equal(prompt.embeddings["clip_l"], TWO)


# --- names in bundles and descriptions ----------------------------------------------------

ODD = [("👩\u200d🎨", "👩\u200d🎨"), ("a\u202eb", "ab"), ("x/y", "x_y")]


@pytest.mark.parametrize("stored, read", ODD)
def test_odd_names_in_bundles(tmp_path: Path, stored: str, read: str) -> None:
    path = save(tmp_path / "a.safetensors", {f"bundle_emb.{stored}.emb_params": TWO})
    assert only(path).name == read and noted(only(path), "In the file its name is") == (stored != read)


@pytest.mark.parametrize("stored, read", ODD)
def test_odd_names_in_descriptions(tmp_path: Path, stored: str, read: str) -> None:
    SoftPrompt({"clip_l": TWO}, name="red").save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": stored}))
    prompt = SoftPrompt.from_pretrained(tmp_path)
    assert prompt.name == read and ("name_in_file" in prompt.metadata) == (stored != read)
    assert noted(prompt, "In the file its name is") == (stored != read) and len(prompt.notes) < 2


@pytest.mark.parametrize(
    "change, step, metadata",
    [
        ({"later": {"field": 1}}, 5, {"a": 1}),
        ({"name": None}, 5, {"a": 1}),
        ({"step": "1500"}, 1500, {"a": 1}),
        ({"metadata": {"list": [1, 2]}}, 5, {"list": "[1, 2]"}),
    ],
)
def test_descriptions_of_other_releases(
    tmp_path: Path, change: dict[str, Any], step: int, metadata: dict[str, Any]
) -> None:
    SoftPrompt({"clip_l": TWO}, name="red", step=5, metadata={"a": 1}).save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    prompt = SoftPrompt.from_pretrained(tmp_path)
    assert (prompt.name, prompt.step, prompt.metadata) == ("red", step, metadata)


def test_descriptions_may_say_little_but_not_of_another_version(tmp_path: Path) -> None:
    SoftPrompt({"clip_l": TWO}, name="red").save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({"format_version": 1, "format": "diffusers"}))
    assert SoftPrompt.from_pretrained(tmp_path).name == "red"
    path.write_text(json.dumps({"format_version": 2, "format": "diffusers"}))
    with pytest.raises(FileFormatError, match="format version 2; this release reads version 1"):
        SoftPrompt.from_pretrained(tmp_path)


def test_accents_are_chosen_however_they_are_composed(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "café")
    apart = unicodedata.normalize("NFD", composed)
    path = save(tmp_path / "a.safetensors", {apart: TWO, "x": rows(1, 768)})
    assert SoftPrompt.from_file(path, name=composed).name == apart
    assert len(read_soft_prompts(path)) == 2
