"""Every format that soft prompts are shared in: files as their tools write them, and as their tools read ours."""

import base64
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hardprompts import FileFormatError
from hardprompts.files import read_soft_prompts
from hardprompts.plugins import plugins, soft_prompt_formats
from hardprompts.softprompts import SoftPrompt
from hardprompts.testing import check_format

ROOT = Path(__file__).parents[3]
SHARED_DATA = "HARDPROMPTS_SHARED_DATA"


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def only(path: Path) -> SoftPrompt:
    return SoftPrompt.from_file(path)


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """In safetensors or by torch.save, as the name says."""
    if path.suffix == ".safetensors" or path.suffix == ".pti":
        safetensors.torch.save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)
    return path


# --- the contract -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a1111", "kohya", "diffusers", "comfyui", "peft"])
def test_what_is_written_is_read_again_to_the_last_bit(name: str) -> None:
    check_format(soft_prompt_formats()[name])


def test_the_formats_come_by_the_public_hook() -> None:
    names = {"a1111", "a1111-card", "kohya", "kohya-xti", "diffusers", "pti", "comfyui", "comfyui-bundle"}
    assert set(plugins()["formats"]) == names | {"peft", "list", "tensor"}


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, hardprompts_formats; print('torch' in sys.modules or 'PIL' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "False"


# --- files of each tool -------------------------------------------------------------------

A1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": rows(2, 768)},
    "name": "my style",
    "step": 1500,
    "sd_checkpoint": "27a4ac756c",
    "sd_checkpoint_name": "model-v1",
}


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


def test_a_neighbour_that_is_no_other_half_is_left_alone(tmp_path: Path) -> None:
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
        ({"emb_params": torch.tensor(1.0)}, r"shape \(\) is not"),
        ({"text_encoders_0": rows(1, 768), "text_encoders_1": rows(1, 768)}, "the same width, 768"),
        ({"a": rows(1, 768), "b": torch.tensor(1.0)}, "are no soft prompt"),
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
    with pytest.raises(FileFormatError, match=r"is no tensor|are no soft prompt"):
        only(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["../../evil", "a\x1b[2Jb", "x\ny"])
def test_names_in_files_that_could_do_harm_are_refused(name: str, tmp_path: Path) -> None:
    torch.save({**A1111, "name": name}, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match="its name"):
        only(tmp_path / "a.pt")
    save(tmp_path / "b.bin", {name: rows(1, 768)})
    with pytest.raises(FileFormatError, match="its name") as caught:
        only(tmp_path / "b.bin")
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


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
    for tree in ([], [{}], [rows(1, 768)], [{"a": 1}], rows(1, 8)[None], torch.arange(3)):
        torch.save(tree, tmp_path / "no.pt")
        with pytest.raises(FileFormatError, match="no soft prompt"):
            only(tmp_path / "no.pt")


def test_thousands_of_entries_are_no_soft_prompts(tmp_path: Path) -> None:
    torch.save({f"<t{i}>": rows(1, 2)[0] for i in range(1100)}, tmp_path / "many.pt")
    with pytest.raises(FileFormatError, match=r"1100 entries .*no soft prompt"):
        only(tmp_path / "many.pt")


# --- cards --------------------------------------------------------------------------------


def card_json(content: dict[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {"TORCHTENSOR": value.tolist()}
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(plain(content)).encode()


def numbers() -> Iterator[int]:
    """The pseudo-random numbers that cards are mixed with, one after the other."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255


def with_pixels(picture: Image.Image, content: bytes) -> Image.Image:
    """A card with its JSON in the low bits of the pixels beside the picture."""
    packed = zlib.compress(content, 9)
    height = picture.height
    columns = -(-len(packed) // (3 * height))
    packed += bytes(columns * 3 * height - len(packed))
    sides = []
    for half in (lambda byte: byte & 15, lambda byte: byte >> 4):
        mixed = [half(byte) ^ (number & 15) for byte, number in zip(packed, numbers(), strict=False)]
        values = np.array(mixed, dtype=np.uint8).reshape(height, columns, 3)
        sides.append(values | 0x50)  # the upper bits are a pattern for the eye
    gap = np.zeros((height, 1, 3), dtype=np.uint8)
    middle = np.asarray(picture.convert("RGB")) | 1
    return Image.fromarray(np.concatenate([sides[0], gap, middle, gap, sides[1]], axis=1))


PICTURE = Image.linear_gradient("L").resize((96, 96)).convert("RGB")


def with_text(path: Path, text: str | bytes) -> Path:
    info = PngInfo()
    info.add_text("parameters", "a cat, steps: 20")
    info.add_text("sd-ti-embedding", base64.b64encode(text).decode() if isinstance(text, bytes) else text)
    PICTURE.save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("width", [768, 1024])
def test_a_card_with_a_text(width: int, tmp_path: Path) -> None:
    content = {**A1111, "string_to_param": {"*": rows(3, width)}}
    prompt = only(with_text(tmp_path / "card.png", card_json(content)))
    assert torch.equal(next(iter(prompt.embeddings.values())), rows(3, width))
    assert (prompt.name, prompt.step, prompt.source_format) == ("my style", 1500, "a1111-card")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("border", [0, 7])
def test_a_card_in_the_pixels(suffix: str, border: int, tmp_path: Path) -> None:
    card = with_pixels(PICTURE, card_json(A1111))
    framed = Image.new("RGB", (card.width + 2 * border, card.height + 2 * border))
    framed.paste(card, (border, border))
    framed.save(tmp_path / f"card{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    prompt = only(tmp_path / f"card{suffix}")
    assert torch.equal(prompt.embeddings["clip_l"], rows(2, 768))
    assert (prompt.name, prompt.step) == ("my style", 1500)


def test_images_without_a_card(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "plain.png")
    with_pixels(PICTURE, card_json(A1111)).save(tmp_path / "lossy.jpg", quality=95)
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    stripes = np.asarray(PICTURE).copy()
    stripes[:, [30, 65]] = 0
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    for name in ("plain.png", "black.png", "stripes.png"):
        with pytest.raises(FileFormatError, match="an image without a soft prompt"):
            only(tmp_path / name)
    with pytest.raises(FileFormatError, match="JPEG keeps none"):
        only(tmp_path / "lossy.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b"[" * 200_000,
        b'{"string_to_param": 3}',
        b'{"string_to_param": {"*": 3}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": 3}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": []}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[1, 2], [3]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [["a"]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[NaN]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[1e999]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[[1.0]]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[null]]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": {"a": 1}}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[' + b"9" * 5000 + b"]]}}}",
        b"\xff\xfe",
    ],
)
def test_damaged_cards_are_one_clear_error(text: str | bytes, tmp_path: Path) -> None:
    with_text(tmp_path / "card.png", text)
    with pytest.raises(FileFormatError, match=r"card\.png"):
        only(tmp_path / "card.png")


def test_damaged_images_and_bombs_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_text(tmp_path / "card.png", card_json(A1111)).read_bytes()
    for end in (8, 20, 40, 100, len(content) // 2):
        (tmp_path / "cut.png").write_bytes(content[:end])
        with pytest.raises(FileFormatError, match=r"cut\.png"):
            only(tmp_path / "cut.png")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(FileFormatError, match=r"pixels"):
        only(tmp_path / "bomb.png")
    monkeypatch.setattr("hardprompts_formats.cards.MAX_JSON_BYTES", 1000)
    with_pixels(PICTURE, card_json(A1111)).save(tmp_path / "pixels.png")
    with pytest.raises(FileFormatError, match="more than 1000 bytes"):
        only(tmp_path / "pixels.png")


def test_the_noise_of_cards_is_the_sequence_one_after_the_other() -> None:
    from hardprompts_formats.cards import _noise

    expected = [number & 15 for number, _ in zip(numbers(), range(5000), strict=False)]
    for count in (1, 2, 3, 100, 5000):
        assert _noise(count).tolist() == expected[:count]


# --- PEFT ---------------------------------------------------------------------------------


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save(folder / "adapter_model.safetensors", tensors)
    values = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 16}
    values |= {"base_model_name_or_path": "org/model", **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


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
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "another one for each task"),
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


# --- what a format has no place for ---------------------------------------------------------


@pytest.mark.parametrize(
    "format, encoders, message",
    [
        ("a1111", {"clip_l": 768, "clip_g": 1280}, "room for one text encoder"),
        ("a1111", {"lm": 64}, "does not name the text encoder: lm 64 would be read as text_encoder"),
        ("kohya", {"clip_l": 768, "t5xxl": 4096}, "use kohya .SDXL. or comfyui"),
        ("kohya", {"umt5base": 768}, "would be read as clip_l"),
        ("diffusers", {"clip_l": 768, "t5xxl": 4096}, "room for one"),
        ("diffusers", {"text_encoder": 32, "text_encoder_2": 32}, "would be mistaken"),
        ("comfyui", {"lm": 64}, "knows no text encoder lm"),
        ("peft", {"clip_l": 768}, "for language models"),
    ],
)
def test_nothing_is_written_that_would_be_read_as_something_else(
    format: str, encoders: dict[str, int], message: str, tmp_path: Path
) -> None:
    prompt = SoftPrompt({name: rows(1, width) for name, width in encoders.items()}, name="<a>")
    suffix = soft_prompt_formats()[format].suffixes[0]
    with pytest.raises(FileFormatError, match=message):
        prompt.save(tmp_path / f"a{suffix}", format=format)
    assert os.listdir(tmp_path) == []


def test_diffusers_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="give it a name"):
        SoftPrompt({"clip_l": rows(1, 768)}).save(tmp_path / "a.bin", format="diffusers")


def test_names_steps_and_hints_survive_where_the_format_has_room(tmp_path: Path) -> None:
    torch.save(A1111, tmp_path / "a.pt")
    prompt = only(tmp_path / "a.pt")
    prompt.save(tmp_path / "b.pt", format="a1111")
    again = only(tmp_path / "b.pt")
    assert (again.name, again.step, again.base_models) == (prompt.name, prompt.step, prompt.base_models)
    stored = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(stored) == list(A1111) and stored["string_to_token"] == {"*": 265}
    folder = adapter(tmp_path / "lm", {"prompt_embeddings": rows(4, 16)}, num_layers=3, task_type="SEQ_CLS")
    prompt = only(folder)
    prompt.save(tmp_path / "copy", format="peft")
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert config["num_layers"] == 3 and config["task_type"] == "SEQ_CLS"
    assert config["base_model_name_or_path"] == "org/model"


# --- the real tools -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd_pipeline() -> Any:
    """A Stable Diffusion pipeline with CLIP-L's width and one layer; the U-Net and the VAE are as small as can be."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    letters = [chr(c) for c in range(97, 123)]
    vocab = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=768, intermediate_size=64, num_hidden_layers=1, num_attention_heads=12,
        bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    return lambda: diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1),
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=transformers.CLIPTokenizer(vocab=vocab, merges=[]),
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(4,), layers_per_block=1, cross_attention_dim=768, norm_num_groups=1,
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=1,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "format, name, token",
    [
        ("diffusers", "learned_embeds.safetensors", "<panda>"),
        ("diffusers", "learned_embeds.bin", "<panda>"),
        ("a1111", "panda.pt", "<panda>"),
        ("kohya", "panda.safetensors", "emb_params"),
        ("comfyui", "panda.safetensors", "clip_l"),
    ],
)
def test_diffusers_loads_what_is_written(format: str, name: str, token: str, sd_pipeline: Any, tmp_path: Path) -> None:
    prompt = SoftPrompt({"clip_l": rows(3, 768)}, name="<panda>")
    prompt.save(tmp_path / name, format=format)
    pipeline = sd_pipeline()
    pipeline.load_textual_inversion(str(tmp_path / name))
    ids = pipeline.tokenizer.convert_tokens_to_ids([token, f"{token}_1", f"{token}_2"])
    held = pipeline.text_encoder.get_input_embeddings().weight.detach()[ids]
    assert torch.equal(held, prompt.embeddings["clip_l"])
    assert pipeline.maybe_convert_prompt(f"a {token}", pipeline.tokenizer) == f"a {token} {token}_1 {token}_2"


def test_diffusers_loads_a_folder_and_the_two_files_of_sdxl(sd_pipeline: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    prompt = SoftPrompt({"clip_l": rows(1, 768), "clip_g": rows(1, 1280)}, name="<panda>")
    files = prompt.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    pipeline = sd_pipeline()
    pipeline.load_textual_inversion(str(tmp_path))  # as from the Hub
    token = pipeline.tokenizer.convert_tokens_to_ids("<panda>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[token], prompt.embeddings["clip_l"][0])
    config = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=1280, intermediate_size=8, num_hidden_layers=1, num_attention_heads=20
    )
    second, other = transformers.CLIPTextModel(config), sd_pipeline()
    other.load_textual_inversion(str(files[1]), text_encoder=second, tokenizer=other.tokenizer)
    assert torch.equal(second.get_input_embeddings().weight[token], prompt.embeddings["clip_g"][0])


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


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "P_TUNING"])
def test_pefts_other_prompts(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    )
    options = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
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


# --- real files ---------------------------------------------------------------------------

#: Of each file that people have shared: its format, encoders, tokens, step.
REAL = {
    "a1111_EasyNegative.pt": ("kohya", "clip_l", 8, None),
    "a1111_bad_prompt_version2.pt": ("a1111", "clip_l", 8, 12000),
    "a1111_badapple-200000.pt": ("a1111", "clip_l", 16, 200000),
    "a1111_eyeliner2.pt": ("a1111", "clip_l", 3, 3727),
    "a1111_gasai-yuno-1000.pt": ("a1111", "clip_l", 8, 1000),
    "a1111_gasai-yuno-16800.pt": ("a1111", "clip_l", 8, 16800),
    "a1111_negative_hand-neg.pt": ("a1111", "clip_l", 8, 8000),
    "cogsdxl_emojii_embeddings.pti": ("pti", "clip_l clip_g", 2, None),
    "diffusers_fastai_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_soejrd_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_thumbsup_learned_embeds.bin": ("diffusers", "clip_l", 1, None),
    "diffusers_ttekcor_learned_embeds.safetensors": ("diffusers", "clip_l", 1, None),
    "ldm_anya.pt": ("a1111", "clip_l", 1, None),
    "nArn0_sd15_test-input.safetensors": ("kohya", "clip_l", 37, None),
    "ossroettger_T5_myMolecule.pt": ("tensor", "t5xxl", 1, None),
    "ossroettger_myPuppet768.pt": ("pti", "clip_l clip_g", 1, None),
    "sdxl_scenery_neg.safetensors": ("kohya", "clip_l clip_g", 38, None),
    "sdxl_zPDXL2.safetensors": ("kohya", "clip_l clip_g", 42, None),
}


def real_files() -> Path:
    folder = os.environ.get(SHARED_DATA)
    if not folder:
        pytest.skip(f"{SHARED_DATA} does not name the folder with files that people have shared")
    return Path(folder) / "embeddings"


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(name: str) -> None:
    prompt = only(real_files() / name)
    assert (prompt.source_format, " ".join(prompt.encoders), prompt.num_tokens, prompt.step) == REAL[name]


def test_every_real_file_is_known() -> None:
    names = {path.name for path in real_files().iterdir() if path.suffix != ".md"}
    assert names == set(REAL)


@pytest.mark.parametrize("name", [name for name in REAL if name != "ldm_anya.pt"])
def test_real_values_are_those_of_torch(name: str) -> None:
    path = real_files() / name
    found = only(path)
    try:
        tree: Any = safetensors.torch.load_file(path)
    except safetensors.SafetensorError:
        tree = torch.load(path, weights_only=True, map_location="cpu")
    tensors = [tree] if isinstance(tree, torch.Tensor) else list(tree.get("string_to_param", tree).values())
    expected = {tensor.shape[-1]: tensor.detach().float().reshape(-1, tensor.shape[-1]) for tensor in tensors}
    assert {values.shape[1] for values in found.embeddings.values()} == set(expected)
    assert all(torch.equal(values, expected[values.shape[1]]) for values in found.embeddings.values())


def test_the_oldest_file_of_all() -> None:
    # Its storage was on a GPU, and torch refuses its ParameterDict: what it holds was looked at by hand.
    prompt = only(real_files() / "ldm_anya.pt")
    assert float(prompt.embeddings["clip_l"].norm()) == pytest.approx(15.3255, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in REAL if name.endswith(".safetensors")])
def test_real_safetensors_come_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    path = real_files() / name
    prompt = only(path)
    prompt.save(tmp_path / name, format=prompt.source_format)
    assert (tmp_path / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("a1111") and REAL[name][0] == "a1111"])
def test_real_files_of_the_web_ui_come_back_with_all_that_they_hold(name: str, tmp_path: Path) -> None:
    path = real_files() / name
    only(path).save(tmp_path / name, format="a1111")
    ours, theirs = (torch.load(file, weights_only=True, map_location="cpu") for file in (tmp_path / name, path))
    pair = [tree.pop("string_to_param")["*"] for tree in (ours, theirs)]
    assert torch.equal(*pair) and ours == theirs
