"""The nodes without ComfyUI: what they convert, refuse, report and leave behind."""

import asyncio
import dataclasses
import gc
import importlib
import json
import os
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from fakes import InterruptProcessingException, World, comfyui
from toy_denoiser import predictor

from hardprompts import (
    BackendError,
    FileFormatError,
    ImageError,
    PluginError,
    UnknownName,
    VocabularyError,
    hookimpl,
    search_methods,
)
from hardprompts.inversion.options import STYLES
from hardprompts.plugins import register, unregister
from hardprompts.prompts import Candidate, HardPrompt, WordWeights, escape

ROOT = Path(__file__).resolve().parents[2]
NODES = ROOT / "comfyui_nodes"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with comfyui(tmp_path) as found:
        yield found


def module(name: str) -> Any:
    return importlib.import_module(f"comfyui_nodes.{name}")


def all_nodes() -> list[Any]:
    extension = asyncio.run(importlib.import_module("comfyui_nodes").comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


def schemas() -> list[Any]:
    return [node.define_schema() for node in all_nodes()]


# --- schemas, help, locales ---------------------------------------------------------------


def test_every_input_and_output_has_a_tooltip(world: World) -> None:
    for schema in schemas():
        for port in [*schema.inputs, *schema.outputs]:
            assert port.options.get("tooltip", "").endswith("."), f"{schema.node_id}.{port.id}"


def test_ids_are_unique_among_inputs_and_outputs(world: World) -> None:
    found = schemas()
    assert len({schema.node_id for schema in found}) == len(found) == 18
    for schema in found:
        assert schema.node_id.startswith("HardPrompts")
        ids = [port.id for port in [*schema.inputs, *schema.outputs]]
        assert len(ids) == len(set(ids)), schema.node_id


def test_node_ids_are_literal_strings_in_the_source(world: World) -> None:
    # ComfyUI-Manager finds nodes by reading the source.
    source = "".join(file.read_text(encoding="utf-8") for file in NODES.glob("*.py"))
    for schema in schemas():
        assert f'node_id="{schema.node_id}"' in source


def test_execute_takes_exactly_the_inputs(world: World) -> None:
    for node in all_nodes():
        schema = node.define_schema()
        code = node.execute.__func__.__code__
        assert set(code.co_varnames[1 : code.co_argcount]) == {port.id for port in schema.inputs}, schema.node_id


def test_every_node_has_a_help_page_and_nothing_else_has(world: World) -> None:
    pages = {page.stem for page in (NODES / "web" / "docs").glob("*.md")}
    assert pages == {schema.node_id for schema in schemas()}


@pytest.mark.parametrize("language", ["en", "de"])
def test_locales_name_every_node_input_and_output(world: World, language: str) -> None:
    texts = json.loads((NODES / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(texts) == {schema.node_id for schema in schemas()}
    for schema in schemas():
        entry = texts[schema.node_id]
        assert entry["display_name"] and entry["description"]
        assert set(entry["inputs"]) == {port.id for port in schema.inputs}, schema.node_id
        assert set(entry["outputs"]) == {str(place) for place in range(len(schema.outputs))}, schema.node_id
        texts_of = [*(entry["inputs"][port.id] for port in schema.inputs), *entry["outputs"].values()]
        ports = [*schema.inputs, *schema.outputs]
        if language == "en":  # the schema's own words
            assert (entry["display_name"], entry["description"]) == (schema.display_name, schema.description)
            assert [text["tooltip"] for text in texts_of] == [port.options["tooltip"] for port in ports], schema.node_id
            continue
        for port, text in zip(ports, texts_of, strict=True):
            assert text["name"] and text["tooltip"], f"{schema.node_id}.{port.id}"
            assert text["tooltip"] != port.options["tooltip"], f"{schema.node_id}.{port.id} is not translated"


def test_newer_versions_find_nodes_by_other_words_and_fold_rare_inputs_away(world: World) -> None:
    folded = {}
    for schema in schemas():
        assert schema.search_aliases, schema.node_id
        assert not {name.casefold() for name in schema.search_aliases} & {schema.display_name.casefold()}
        folded[schema.node_id] = [port.id for port in schema.inputs if port.advanced]
    rare = ["restarts", "text_weight", "keep_loaded", "captioner", "deadline", "proposer", "fast", "style"]
    rare += ["fluency_model", "editable", "min_evidence"]
    assert folded["HardPromptsImageToPrompt"] == rare
    # Every one of a decorator names an input that there is.
    source = "".join(file.read_text(encoding="utf-8") for file in NODES.glob("*.py"))
    named = [name for names in re.findall(r"advanced=\[([^]]*)\]", source) for name in re.findall(r'"(\w+)"', names)]
    assert len(named) == sum(map(len, folded.values()))


def test_versions_without_these_are_told_nothing_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    io = sys.modules["comfy_api.latest"].io
    (seed,) = (port for port in module("invert").ImageToPrompt.define_schema().inputs if port.id == "seed")
    assert seed.options["control_after_generate"] == "fixed"
    monkeypatch.delattr(io, "ControlAfterGenerate")
    port = SimpleNamespace(id="restarts")
    old = module("schema").shown(found_as=["x"], advanced=["restarts"])(lambda cls: SimpleNamespace(inputs=[port]))(
        None
    )
    assert vars(old) == {"inputs": [port]} and vars(port) == {"id": "restarts"}
    (seed,) = (port for port in module("invert").ImageToPrompt.define_schema().inputs if port.id == "seed")
    assert seed.options["control_after_generate"] is True


def offered(node: Any) -> list[str]:
    """The methods that a node offers; the first one is its default."""
    (port,) = (port for port in node.define_schema().inputs if port.id == "method")
    assert port.options["default"] == port.options["options"][0]
    return list(port.options["options"])


def searching_nodes() -> dict[str, Any]:
    named = ("invert", "ImageToPrompt"), ("distill", "DistillPrompt"), ("embeddings", "EmbeddingToPrompt")
    return {name: getattr(module(place), name) for place, name in (*named, ("diffusion", "ImageToPromptDiffusion"))}


def test_every_installed_method_is_offered_ours_first(world: World) -> None:
    methods = module("methods")
    for name, node in searching_nodes().items():
        first = methods.FOR_DENOISERS if "Diffusion" in name else methods.FOR_FEATURES
        assert offered(node)[: len(first)] == list(first), name
        assert sorted(offered(node)) == sorted(search_methods()), name


@pytest.mark.parametrize("method", sorted(search_methods()))
def test_every_method_that_is_offered_works(world: World, fox: torch.Tensor, method: str) -> None:
    short = {**SEARCH, "method": method, "max_steps": 2, "restarts": 2}
    (text,) = module("invert").ImageToPrompt.execute(prompt_model=emoji_model(), image=fox, **short).args[1]
    assert text


def test_a_method_of_a_plugin_is_offered_as_soon_as_it_is_there(world: World) -> None:
    plugin = SimpleNamespace(search_methods=hookimpl(lambda: {"mine": object}))
    assert all("mine" not in offered(node) for node in searching_nodes().values())
    register(plugin, "by-hand")
    try:
        assert all("mine" in offered(node) for node in searching_nodes().values())
    finally:
        unregister("by-hand")


def test_a_schema_is_there_where_the_sdk_or_a_plugin_cannot_be_imported(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise PluginError("the plugin 'mine' cannot be imported")

    with monkeypatch.context() as patched:
        patched.setattr("hardprompts.search_methods", broken)
        assert offered(searching_nodes()["ImageToPrompt"]) == list(module("methods").FOR_FEATURES)
        assert "the plugin 'mine' cannot be imported" in caplog.text
    monkeypatch.setitem(sys.modules, "hardprompts", None)
    assert offered(searching_nodes()["ImageToPrompt"]) == list(module("methods").FOR_FEATURES)
    assert "hardprompts cannot be imported" in caplog.text


def test_inputs_begin_with_the_defaults_of_the_sdk_or_with_a_named_one(world: World) -> None:
    own = module("defaults")
    graph = {"max_steps": own.MAX_STEPS_OF_GRAPH}
    others = {
        "ImageToPrompt": (own.INVERSION, {"max_steps": own.MAX_STEPS}),
        "DistillPrompt": (own.DISTILLATION, {"max_steps": own.MAX_STEPS, "num_tokens": own.NUM_TOKENS}),
        "EmbeddingToPrompt": (
            own.DISTILLATION, {**graph, "num_tokens": own.NUM_TOKENS, "restarts": own.RESTARTS_OF_GRAPH}
        ),
        "ImageToPromptDiffusion": (own.DENOISING, graph),
    }  # fmt: skip
    for name, node in searching_nodes().items():
        options, named = others[name]
        ids = {port.id: port.options.get("default") for port in node.define_schema().inputs}
        for option in (
            "num_tokens",
            "max_steps",
            "restarts",
            "text_weight",
            "num_noises",
            "noises_per_step",
            "batch_size",
        ):
            if option in ids:
                expected = named[option] if option in named else own.sdk_default(options, option)
                assert ids[option] == expected is not None, f"{name}.{option}"
        assert ids["seed"] == own.SEED
        # What an old workflow does not say is the SDK's to say.
        assert {default for default in node.execute.__func__.__defaults__ or ()} <= {None, "", True}, name


def test_seeds_have_as_many_bits_as_comfyuis(world: World) -> None:
    seeds = [each for node in all_nodes() for each in node.define_schema().inputs if each.id == "seed"]
    assert len(seeds) > 3
    assert {(each.options["min"], each.options["max"]) for each in seeds} == {(0, 0xFFFFFFFFFFFFFFFF)}


def test_the_first_method_of_a_list_is_the_default_of_the_sdk(world: World) -> None:
    from hardprompts.diffusion import DenoisingInverter
    from hardprompts.search.registry import DEFAULT_METHOD

    assert module("methods").FOR_FEATURES[0] == DEFAULT_METHOD
    assert module("methods").FOR_DENOISERS[0] == DenoisingInverter(predictor()).method


def test_a_weight_without_a_text_is_of_no_consequence(world: World, fox: torch.Tensor) -> None:
    node, model = module("invert").ImageToPrompt, emoji_model()
    plain, weighted = (node.execute(prompt_model=model, image=fox, text_weight=w, **SEARCH).args for w in (None, 0.9))
    assert plain[1] == weighted[1]
    told = node.execute(prompt_model=model, image=fox, text_weight=0.9, target_text="a castle", **SEARCH).args
    assert told[1] != plain[1]


def test_example_workflows_use_our_nodes_with_their_inputs(world: World) -> None:
    own = {schema.node_id: schema for schema in schemas()}
    files = sorted((NODES / "example_workflows").glob("*.json"))
    assert len(files) >= 4
    used = set()
    blueprints = sorted((NODES / "subgraphs").glob("*.json"))
    assert blueprints
    for file in [*files, *blueprints]:
        graph = json.loads(file.read_text(encoding="utf-8"))
        inner = [node for one in graph.get("definitions", {}).get("subgraphs", []) for node in one["nodes"]]
        for node in [*graph["nodes"], *inner]:
            if node["type"] in own:
                used.add(node["type"])
                ids = {port.id for port in own[node["type"]].inputs}
                assert {port["name"] for port in node.get("inputs", [])} <= ids, f"{file.name}: {node['type']}"
        assert file in blueprints or file.with_suffix(".jpg").is_file(), f"{file.name} has no picture"
    assert {"HardPromptsImageToPrompt", "HardPromptsImageToPromptDiffusion", "HardPromptsShow"} <= used


LOADING = """
import asyncio, pathlib, sys, tempfile
from fakes import comfyui
with comfyui(pathlib.Path(tempfile.mkdtemp()) / "comfyui"):
    import comfyui_nodes
    nodes = asyncio.run(asyncio.run(comfyui_nodes.comfy_entrypoint()).get_node_list())
    assert not [name for name in sys.modules if name.partition(".")[0] == "hardprompts"], "the SDK"
    for node in nodes:
        node.define_schema()
    print(sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""


def test_loading_the_pack_imports_no_model_library(world: World) -> None:
    libraries = ["transformers", "diffusers", "open_clip", "timm", "huggingface_hub", "sklearn", "wordfreq"]
    place = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", LOADING, *libraries],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(place)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("there", [True, False])
def test_photo_is_listed_first_where_it_is_installed(
    there: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = module("models")
    plugin = SimpleNamespace(load=lambda: SimpleNamespace(installed=lambda: there))
    monkeypatch.setattr(models.importlib.metadata, "entry_points", lambda **_: [plugin])
    assert models.shipped_models() == (("photo",) if there else ()) + models.EMBEDDED
    (choice, *_) = models.LoadPromptModel.define_schema().inputs
    assert choice.options["default"] == choice.options["options"][0] == ("photo" if there else "emoji")


# --- images -------------------------------------------------------------------------------


def test_images_of_a_batch_keep_their_pixels(world: World) -> None:
    values = torch.rand(3, 5, 7, 3)
    images = module("bridge").to_images(values)
    assert [image.size for image in images] == [(7, 5)] * 3
    assert torch.allclose(torch.cat(module("bridge").to_batch(images)), values, atol=0.51 / 255)


def test_transparency_and_what_a_mask_leaves_out_become_white(world: World) -> None:
    bridge = module("bridge")
    black = torch.zeros(1, 4, 4, 4)
    black[..., :2, 3] = 1.0
    (image,) = bridge.to_images(black)
    assert image.getpixel((0, 0)) == (0, 0, 0) and image.getpixel((3, 0)) == (255, 255, 255)
    mask = torch.zeros(1, 2, 2)
    mask[:, 0] = 1.0
    (image,) = bridge.to_images(torch.zeros(1, 4, 4, 3), mask)
    assert image.getpixel((0, 1)) == (0, 0, 0) and image.getpixel((0, 2)) == (255, 255, 255)


def test_gray_single_and_out_of_range_images_are_read(world: World) -> None:
    to_images = module("bridge").to_images
    assert to_images(torch.full((1, 3, 2, 1), 0.5))[0].getpixel((0, 0)) == (128, 128, 128)
    with pytest.warns(UserWarning, match=r"from 1\.5 to 1\.5 is clipped"):
        assert to_images(torch.full((3, 2, 3), 1.5))[0].getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 0, 4, 3), (1, 4, 4, 2), (4, 4)])
def test_what_does_not_hold_an_image_is_refused(world: World, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="must hold at least one image"):
        module("bridge").to_images(torch.zeros(shape))


def test_images_that_other_nodes_made_wrong_are_named(world: World, recwarn: pytest.WarningsRecorder) -> None:
    to_images = module("bridge").to_images
    batch = torch.full((4, 4, 4, 3), 0.5)
    batch[2, 0, 0, 0] = torch.nan
    with pytest.raises(ImageError, match="image 3 of 4 has NaN"):
        to_images(batch)
    batch[0] = torch.inf
    with pytest.raises(ImageError, match="images 1, 3 of 4 have NaN or infinite"):
        to_images(batch)
    with pytest.raises(ImageError, match="uint8 is not one: its values are floats"):
        to_images(torch.full((1, 4, 4, 3), 200, dtype=torch.uint8))
    with pytest.raises(ImageError, match="values up to 255.*divide by 255"):
        to_images(torch.full((1, 4, 4, 3), 255.0))
    assert not recwarn
    with pytest.warns(UserWarning, match="an IMAGE with values from -1 to 1 is clipped"):
        to_images(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3))


def test_a_batch_with_alpha_is_laid_over_white(world: World) -> None:
    batch = torch.zeros(2, 1, 1, 4)
    batch[1, ..., 3] = 1
    first, second = module("bridge").to_images(batch.half())
    assert (first.getpixel((0, 0)), second.getpixel((0, 0))) == ((255,) * 3, (0,) * 3)


def test_nan_and_masks_of_another_number_are_refused(world: World) -> None:
    with pytest.raises(ImageError, match="NaN"):
        module("bridge").to_images(torch.full((1, 4, 4, 3), torch.nan))
    with pytest.raises(ValueError, match="2 masks for 3 images"):
        module("bridge").to_images(torch.zeros(3, 4, 4, 3), torch.zeros(2, 4, 4))


def test_banned_words_are_split_at_lines_and_commas(world: World) -> None:
    assert module("invert").banned_words("dog, big cat\n\n owl ,") == ["dog", "big cat", "owl"]


# --- models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "transformers:/etc", "transformers:../x", "transformers:~/x", "open_clip:local-dir:/x", "transformers:a/../b",
        "open_clip:ViT-L-14//etc/passwd", "transformers:C:\\x", "lm:transformers:/etc", "mlm:transformers:~/x",
    ],
)  # fmt: skip
def test_workflows_cannot_name_paths(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="prompt_models"):
        module("models").checked_name(name)


def test_hub_names_are_taken(world: World) -> None:
    for name in (
        "open_clip:ViT-L-14/openai",
        "transformers:openai/clip-vit-large-patch14",
        "emoji",
        "lm:emoji:emoji-lm",
    ):
        assert module("models").checked_name(f" {name} ") == name


def test_local_models_are_listed_by_what_is_in_their_folders(world: World) -> None:
    root = world.folder / "models" / "prompt_models"
    for name, file in (
        ("a", "config.json"),
        ("b", "open_clip_config.json"),
        ("ViT-B-32", "w.safetensors"),
        ("c", "x.md"),
    ):
        (root / name).mkdir()
        (root / name / file).touch()
    (root / "ViT-B-32" / "._w.safetensors").touch()  # of macOS
    (root / "ViT-B-32" / "older.bin").touch()
    assert module("models").local_models() == {
        "a": f"transformers:{root / 'a'}",
        "b": f"open_clip:local-dir:{root / 'b'}",
        "ViT-B-32": f"open_clip:ViT-B-32/{root / 'ViT-B-32' / 'w.safetensors'}",
    }


def emoji_model(**options: Any) -> Any:
    load = module("models").LoadPromptModel
    return load.execute(**{"model": "emoji", "dtype": "float32", "device": "default", **options}).args[0]


def test_a_model_opens_on_use_and_closes_when_comfyui_unloads_it(world: World) -> None:
    model = emoji_model()
    assert not model.is_open and not world.loaded
    with torch.inference_mode(), model.opened() as backend:
        assert not torch.is_inference_mode_enabled()
        weights = weakref.ref(next(iter(backend.text_encoder.model.parameters())))
        assert not backend.vocabulary.table.is_inference()
    assert model.is_open and len(world.loaded) == 1
    assert world.loaded[0].model.model_size() > 10**6
    # ComfyUI takes the entry out of its list after this, and finds another one gone if the patcher goes now.
    patcher = weakref.ref(world.loaded[0].model)
    world.loaded[0].model_unload()
    assert not model.is_open and world.loaded.pop().model is patcher()
    del backend
    gc.collect()
    assert weights() is None and patcher() is not None
    with model.opened():
        assert model.is_open


def test_keep_loaded_off_leaves_nothing_behind(world: World) -> None:
    model = emoji_model()
    with model.opened(keep_loaded=False):
        assert world.loaded
    assert not world.loaded and not model.is_open


# --- Image to Prompt ----------------------------------------------------------------------

SEARCH = {
    "mode": "one prompt per image", "num_tokens": 3, "max_steps": 12, "restarts": 4, "seed": 0, "template": "{}",
    "banned": "", "method": "build+refine",
}  # fmt: skip


def example(name: str) -> torch.Tensor:
    from hardprompts_emoji import path

    image = Image.open(path("emoji-clip").parents[1] / "examples" / f"{name}.png").convert("RGB")
    (batch,) = module("bridge").to_batch([image])
    return batch


@pytest.fixture
def fox(world: World) -> torch.Tensor:
    return example("fox-purple-flat")


def test_image_to_prompt_names_what_is_in_the_picture(world: World, fox: torch.Tensor) -> None:
    with torch.inference_mode():
        output = module("invert").ImageToPrompt.execute(prompt_model=emoji_model(), image=fox.clone(), **SEARCH)
    prompts, raw, scores, values, report = output.args
    assert "fox" in raw[0] and prompts == [escape(raw[0], "comfyui")]
    assert scores[0] == values[0].score > 0.8
    assert raw[0] in report and "cosine similarity" in report
    # On a busy machine the button is looked at before the first step, too, as step 0.
    assert next(step for step, _ in world.progress if step) == 1 and world.progress[-1] == (12, 12)
    assert world.texts[-1][1] == "7" and raw[0] in world.texts[-1][0]


def test_a_batch_gives_a_list_or_one_prompt_for_all(world: World, fox: torch.Tensor) -> None:
    batch = torch.cat([fox, fox])
    node, model = module("invert").ImageToPrompt, emoji_model()
    each = node.execute(prompt_model=model, image=batch, **SEARCH)
    both = node.execute(prompt_model=model, image=batch, **{**SEARCH, "mode": "one prompt for all"})
    assert [len(output.args[0]) for output in (each, both)] == [2, 1]


def test_banned_words_do_not_occur(world: World, fox: torch.Tensor) -> None:
    output = module("invert").ImageToPrompt.execute(
        prompt_model=emoji_model(), image=fox, **{**SEARCH, "banned": "fox"}
    )
    assert "fox" not in output.args[1][0]


def test_the_features_of_clip_vision_stand_for_an_image(world: World, fox: torch.Tensor) -> None:
    model = emoji_model()
    with model.opened() as backend:
        features = backend.encode_images(module("bridge").to_images(fox))
    with torch.inference_mode():
        given = {"image_embeds": features.clone()}
    output = module("invert").ImageToPrompt.execute(prompt_model=model, clip_vision_output=given, **SEARCH)
    assert "fox" in output.args[1][0]


def test_image_and_clip_vision_exclude_each_other(world: World, fox: torch.Tensor) -> None:
    node = module("invert").ImageToPrompt
    for given in ({}, {"image": fox, "clip_vision_output": {"image_embeds": torch.zeros(1, 4)}}):
        with pytest.raises(ValueError, match="either image or clip_vision_output"):
            node.execute(prompt_model=None, **SEARCH, **given)


def test_an_interrupt_goes_through_within_one_step_and_unloads_if_asked(world: World, fox: torch.Tensor) -> None:
    world.interrupt_at = 3
    model = emoji_model()
    with pytest.raises(InterruptProcessingException):
        module("invert").ImageToPrompt.execute(
            prompt_model=model, image=fox, keep_loaded=False, **{**SEARCH, "max_steps": 1000}
        )
    assert len(world.progress) == 2 and not model.is_open


class FakeCaptioner:
    """Says the same of every image, with a network of its own."""

    def __init__(self, caption: str, seen: list[int]) -> None:
        self.caption, self.seen, self.network = caption, seen, torch.nn.Linear(3, 3)

    def __call__(self, images: Any) -> list[str]:
        self.seen.append(len(images))
        return [self.caption for _ in images]


@pytest.fixture
def captioning() -> Iterator[list[int]]:
    """A plugin whose captioners say their own names; how many images each call saw."""
    seen: list[int] = []
    plugin = SimpleNamespace(
        captioners=hookimpl(lambda: {"says": lambda name, *, device, dtype: FakeCaptioner(name, seen)})
    )
    register(plugin, "says")
    yield seen
    unregister("says")


def test_a_search_begins_with_what_a_captioner_says(world: World, fox: torch.Tensor, captioning: list[int]) -> None:
    node, model = module("invert").ImageToPrompt, emoji_model()
    once = {**SEARCH, "max_steps": 1, "method": "refine", "restarts": 1, "image": fox}
    with model.opened():
        plain = world.loaded[0].model.model_size()
    said = node.execute(prompt_model=model, captioner=" says:castle rocket owl ", **once).args[3][0]
    assert captioning == [1]
    # One step changes one token of the caption.
    assert len({"castle", "rocket", "owl"} & set(said.text.split())) >= 2, said.text
    # To ComfyUI they are one thing, which stays open for whoever comes next.
    (loaded,) = world.loaded
    assert loaded.model.model_size() == plain + 4 * (3 * 3 + 3)
    node.execute(prompt_model=model, image=fox, **SEARCH)
    assert world.loaded == [loaded] and captioning == [1]
    node.execute(prompt_model=model, captioner="says:owl", **once)
    assert captioning == [1, 1] and len(world.loaded) == 1 and world.loaded != [loaded]
    world.loaded[0].model_unload()
    assert not model.is_open


def test_proposals_are_taken_as_they_are_or_as_starts(world: World, fox: torch.Tensor, tmp_path: Path) -> None:
    class Says:
        def propose(self, features: Any, count: int, max_tokens: int, generator: Any) -> list[list[str]]:
            return [["castle rocket owl"] for _ in features]

    register(SimpleNamespace(proposers=hookimpl(lambda: {"says": lambda name, *, backend: Says()})), "says")
    try:
        node, model = module("invert").ImageToPrompt, emoji_model()
        fast = node.execute(prompt_model=model, image=fox, proposer="says:", fast=True, **SEARCH).args[1]
        assert fast == ["castle rocket owl"]
        whole = node.execute(prompt_model=model, image=fox, proposer="says:", style="caption", **SEARCH)
        assert whole.args[1] == fast and "stopped by proposed" in whole.args[-1]
        begun = node.execute(prompt_model=model, image=fox, proposer=" says: ", **SEARCH).args[2]
        assert begun[0] >= node.execute(prompt_model=model, image=fox, proposer="says:", fast=True, **SEARCH).args[2][0]
    finally:
        unregister("says")
    with pytest.raises(ValueError, match="is a path"):
        node.execute(prompt_model=model, image=fox, proposer="decoder:/etc", **SEARCH)
    with pytest.raises(ValueError, match="there are none here"):
        node.execute(prompt_model=model, image=fox, fast=True, proposer="none", **SEARCH)


def test_styles_are_those_of_the_sdk(world: World, fox: torch.Tensor) -> None:
    nodes = module("invert")
    assert nodes.STYLES == STYLES
    node, model = nodes.ImageToPrompt, emoji_model()
    found = node.execute(prompt_model=model, image=fox, style=nodes.AS_FOUND, **SEARCH).args[1]
    assert found == node.execute(prompt_model=model, image=fox, **SEARCH).args[1]
    (tags,) = node.execute(prompt_model=model, image=fox, style="tags", **SEARCH).args[1]
    assert ", " in tags


def test_a_language_model_tells_how_fluent_prompts_are_and_changes_none(world: World, fox: torch.Tensor) -> None:
    node, model = module("invert").ImageToPrompt, emoji_model()
    plain = node.execute(prompt_model=model, image=fox, **SEARCH).args
    told = node.execute(prompt_model=model, image=fox, fluency_model=" emoji:emoji-lm ", **SEARCH).args
    assert told[1] == plain[1] and plain[3][0].fluency is None
    note = f"{-told[3][0].fluency:.1f} nats a word"
    assert f"fluency: {note} (fewer read better)" in told[4].splitlines() and "nats" not in plain[4]
    assert world.texts[-1][0].endswith(f"({note})")
    show = module("prompts").ShowPrompt.execute
    shown = [show(one[3][0], 0).ui["hardprompts"][0]["fluency"] for one in (plain, told)]
    assert shown == ["", note]
    with pytest.raises(ValueError, match="is a path"):
        node.execute(prompt_model=model, image=fox, fluency_model="transformers:/etc", **SEARCH)
    with pytest.raises(BackendError, match="is not a language model"):
        node.execute(prompt_model=model, image=fox, fluency_model="emoji", **SEARCH)


# --- evidence -----------------------------------------------------------------------------


def test_a_prompt_is_checked_word_by_word(world: World, fox: torch.Tensor) -> None:
    node, model = module("evidence").PromptEvidence, emoji_model()
    picture, table, kept, prompt = node.execute(
        prompt_model=model, image=fox, text=" violet drawing of a fox and a castle ", min_evidence=0.8
    ).args
    assert picture.shape[0] == 1 and picture.shape[-1] == 3 and picture.dtype == torch.float32
    assert float(picture.min()) >= 0 and float(picture.max()) <= 1
    by_phrase = {one.phrase: one for one in prompt.evidence}
    assert {"fox", "castle", "violet"} <= set(by_phrase) and table.split()[:3] == ["word", "kind", "true"]
    assert "fox" in kept.split(", ") and "castle" not in kept.split(", ")
    plain = node.execute(prompt_model=model, image=fox, hard_prompt=prompt).args
    assert plain[3].evidence == prompt.evidence and plain[2] == kept
    (shown,) = module("prompts").ShowPrompt.execute(prompt, 0).ui["hardprompts"]
    assert [row[0] for row in shown["evidence"][1:]] == [one.phrase for one in prompt.evidence]
    assert shown["truth"] in table
    owl = example("owl-brown-night")  # the fox is everywhere in its own picture
    framed, _, _, seen = node.execute(prompt_model=model, image=owl, text="owl").args
    assert seen.evidence[0].regions and framed.shape == owl.shape and not torch.equal(framed, owl)


def test_words_that_depend_on_each_other_are_told_if_that_is_asked(world: World, fox: torch.Tensor) -> None:
    node, model = module("evidence").PromptEvidence, emoji_model()
    given = {"prompt_model": model, "image": fox, "text": "flat fox violet purple"}
    _, plain, kept, without = node.execute(**given).args
    _, table, same, told = node.execute(**given, interactions=True).args
    assert (
        without.interactions is None and table.startswith(plain) and same == kept and told.evidence == without.evidence
    )
    assert told.interactions.phrases == ("flat", "fox", "violet", "purple") and told.score == without.score
    assert "'violet' and 'purple': each adds" in table and "contributes" in table and "contributes" not in plain
    hurried = node.execute(**given, interactions=True, deadline=0.001).args
    assert hurried[3].interactions is None and "no room within the limits" in hurried[1]
    assert node.execute(**{**given, "text": "of the"}, interactions=True).args[3].interactions is None


def test_what_is_checked_is_a_prompt_or_a_text(world: World, fox: torch.Tensor) -> None:
    node, model = module("evidence").PromptEvidence, emoji_model()
    for given in ({}, {"text": "  "}, {"text": "a fox", "hard_prompt": HardPrompt("fox", (1,), 0.1)}):
        with pytest.raises(ValueError, match="connect a hard_prompt or write a text"):
            node.execute(prompt_model=model, image=fox, **given)
    assert not model.is_open
    for image in (torch.zeros(1, 1, 1, 1), torch.rand(2, 40, 30, 4)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty picture
            found = node.execute(prompt_model=model, image=image, text="<script> a|b (fox:1.2)", min_evidence=0.01)
        assert "script" in found.args[1] and found.ui == {"text": [found.args[1]]}
    silent = node.execute(prompt_model=model, image=fox, text="a picture of the").args
    assert silent[2] == "" and silent[3].evidence == ()


def test_a_search_drops_words_that_are_not_likely_enough(world: World, fox: torch.Tensor) -> None:
    node, model = module("invert").ImageToPrompt, emoji_model()
    plain = node.execute(prompt_model=model, image=fox, min_evidence=0.0, **SEARCH).args
    bound = node.execute(prompt_model=model, image=fox, min_evidence=0.9, **SEARCH).args
    assert not plain[3][0].evidence and "True of the picture" not in plain[4]
    assert bound[3][0].evidence and all((one.probability or 0) >= 0.9 for one in bound[3][0].evidence)
    assert "True of the picture" in bound[4]


def test_where_nothing_is_calibrated_a_bound_is_said_to_drop_nothing(
    world: World, fox: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardprompts.inversion.inverter.opened_calibrations", lambda *_: ())
    model, told = emoji_model(), "nothing is calibrated for emoji:emoji-clip, so no word was dropped as unlikely"
    bound = module("invert").ImageToPrompt.execute(prompt_model=model, image=fox, min_evidence=0.9, **SEARCH).args
    assert told in bound[4] and "not calibrated" in bound[4]
    checked = module("evidence").PromptEvidence.execute(prompt_model=model, image=fox, text="a fox and a castle").args
    assert told in checked[1] and "min_evidence is not used" in checked[1] and checked[2] == "fox"


def test_a_captioner_is_no_path_has_a_scheme_and_needs_images(
    world: World, fox: torch.Tensor, captioning: list[int]
) -> None:
    node, model = module("invert").ImageToPrompt, emoji_model()
    with pytest.raises(ValueError, match="is a path; .*a captioner or a language model by the name"):
        node.execute(prompt_model=model, image=fox, captioner="transformers:/etc", **SEARCH)
    with pytest.raises(UnknownName, match="unknown captioner scheme 'nobody'"):
        node.execute(prompt_model=model, image=fox, captioner="nobody:owl", **SEARCH)
    assert not model.is_open and not world.loaded
    with pytest.raises(ImageError, match="a captioner needs images"):
        features = {"image_embeds": torch.randn(1, 192)}
        node.execute(prompt_model=model, clip_vision_output=features, captioner="says:owl", **SEARCH)
    folder = world.folder / "models" / "prompt_models" / "blip"
    folder.mkdir()
    (folder / "config.json").touch()
    assert module("models").named_model(" blip ") == f"transformers:{folder}"


# --- what is said besides the result ------------------------------------------------------


def test_what_there_was_no_time_for_is_named_in_the_node_and_the_report(world: World, fox: torch.Tensor) -> None:
    node = module("invert").ImageToPrompt
    hurried = {**SEARCH, "max_steps": 100_000, "deadline": 1e-6, "method": "refine"}
    output = node.execute(prompt_model=emoji_model(), image=torch.cat([fox, fox]), **hurried)
    prompts, report = output.args[3], output.args[4]
    assert len(prompts) == 2 and all("contributions" in str(prompt.left_out) for prompt in prompts)
    (told,) = (line for line in report.splitlines() if line.startswith("no room within the limits: "))
    assert all(what in told for prompt in prompts for what in prompt.left_out)
    assert world.texts[-1][0].splitlines()[-1] == told
    shown = module("prompts").ShowPrompt.execute(prompts[0], 0).ui["hardprompts"][0]
    assert shown["notices"] == [f"no room within the limits: {'; '.join(prompts[0].left_out)}"]
    whole = node.execute(prompt_model=emoji_model(), image=fox, **SEARCH, deadline=0.0)
    assert "no room" not in whole.args[4] and "no room" not in world.texts[-1][0]
    assert module("prompts").ShowPrompt.execute(whole.args[3][0], 0).ui["hardprompts"][0]["notices"] == []


class WordsClip:
    """A CLIP whose conditioning is the text."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> str:
        return tokens


class DrawingModel:
    """A MODEL whose latents are what it was given to draw."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, str, float, int]] = []

    def sample(self, noise, cfg, sampler, sigmas, positive, negative, latent, *, disable_pbar, seed) -> object:  # type: ignore[no-untyped-def]
        assert torch.is_inference_mode_enabled() and latent.shape == (1, 4, 8, 8) == noise.shape
        sys.modules["comfy.model_management"].throw_exception_if_processing_interrupted()  # type: ignore[attr-defined]
        self.drawn.append((positive, negative, cfg, seed))
        return positive, seed


class PixelsVae:
    """A VAE that draws a fox where there is one in the text, on the color that it names."""

    downscale_ratio = 8

    def decode(self, samples: tuple[str, int]) -> torch.Tensor:
        from hardprompts_emoji import scenes

        text, seed = samples
        thing = scenes.SceneObject("fox" if "fox" in text else "castle", "large", "center")
        color = next((name for name, words in scenes.BACKGROUNDS.items() if set(words) & set(text.split())), "white")
        return scenes.render_batch(
            [scenes.Scene((thing,), color, "flat")], torch.Generator().manual_seed(seed)
        ).movedim(1, -1)


def by_pictures(model: DrawingModel, fox: torch.Tensor, **given: object) -> tuple[Any, ...]:
    options = {
        "model": model, "clip": WordsClip(), "vae": PixelsVae(), "sampler": None, "sigmas": None, "image": fox,
        "prompt_model": emoji_model(), "pictures": 20, "cfg": 5.0, "width": 64, "height": 64, "seed": 0,
    }  # fmt: skip
    return tuple(module("pictures").ImageToPromptByPictures.execute(**{**options, **given}).args)


def test_a_prompt_is_found_by_the_graphs_own_pictures(world: World, fox: torch.Tensor) -> None:
    model = DrawingModel()
    with torch.inference_mode():
        prompt, raw, score, hard_prompt, report, picture = by_pictures(
            model, fox.clone(), text="castle (old)", negative="blurry", template="a {}"
        )
    assert len(model.drawn) == 20 and {one[1:3] for one in model.drawn} == {("blurry", 5.0)}
    assert model.drawn[0][0] == "a castle \\(old\\)"  # as CLIP Text Encode must be given it
    assert "fox" in raw and raw.startswith("a ") and prompt == escape(raw, "comfyui")
    assert score == hard_prompt.score > 0.8 and hard_prompt.score_unit == "image similarity on fresh seeds"
    assert "20 pictures, 0 of them failed" in report and "exchange" in report
    assert picture.shape == (1, 64, 64, 3) and 0 <= picture.min() < picture.max() <= 1
    assert world.progress[-1] == (20, 20) and raw in world.texts[-1][0]


def test_an_interrupt_ends_a_search_by_pictures(world: World, fox: torch.Tensor) -> None:
    for at in (1, 30):  # in a picture, and between two
        model, world.checks, world.interrupt_at = DrawingModel(), 0, at
        with pytest.raises(InterruptProcessingException):
            by_pictures(model, fox)
        assert len(model.drawn) < 20


def test_every_node_that_searches_has_a_deadline_and_tells_what_it_left_out(
    world: World, denoiser: Any, fox: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_seed = [one for one in all_nodes() if any(port.id == "seed" for port in one.define_schema().inputs)]
    for one in with_a_seed:
        (port,) = (port for port in one.define_schema().inputs if port.id == "deadline")
        assert port.options["default"] == 0 and port.options["optional"] and port.advanced, one
    for name in ("diffusion", "weights"):
        monkeypatch.setattr(module(name), "graph_predictor", lambda *_: denoiser)
    encoder = denoiser
    monkeypatch.setattr(module("embeddings"), "graph_text_encoder", lambda _: encoder)
    monkeypatch.setattr(module("embeddings"), "read_embedding", lambda *_: SimpleNamespace(notes=()))
    monkeypatch.setattr(module("embeddings"), "joined", lambda *_: encoder.vocabulary.table[100:103].clone())
    limited = {**SEARCH, "max_steps": 1000, "deadline": 1e-6}
    plain = {key: value for key, value in limited.items() if key not in ("mode", "method")}
    size = {"width": 64, "height": 64, "num_noises": 2}
    runs = {
        "ImageToPrompt": {"prompt_model": emoji_model(), "image": fox, **limited},
        "ImageToPromptDiffusion": {
            "model": None, "clip": None, "vae": None, "image": fox, **limited, "method": "pez", "noises_per_step": 1,
            "restarts": 1, **size,
        },
        "ImageToPromptByPictures": {
            "model": DrawingModel(), "clip": WordsClip(), "vae": PixelsVae(), "sampler": None, "sigmas": None,
            "prompt_model": emoji_model(), "image": fox, "pictures": 12, "cfg": 1.0, "width": 64, "height": 64,
            "seed": 0, "deadline": 1e-6,
        },
        "DistillPrompt": {"prompt_model": emoji_model(), "text": "a big fox on violet, flat, a fox", **plain},
        "EmbeddingToPrompt": {"embedding": "x", "clip": None, **plain},
        "WeightWords": {
            "model": None, "clip": None, "vae": None, "text": "fox neon", "image": fox, "max_steps": 20, "seed": 0,
            "deadline": 1e-6, **size,
        },
    }  # fmt: skip
    assert {one.__name__ for one in with_a_seed} == set(runs)
    for one in with_a_seed:
        output = one.execute(**runs[one.__name__])
        names = [port.id for port in one.define_schema().outputs]
        found = output.args[names.index("hard_prompt")]
        prompts = found if isinstance(found, list) else [found]
        (told,) = module("notices").notices_of(prompts)
        assert told in output.args[names.index("report")], one
        assert told in world.texts[-1][0], one


def test_what_users_are_warned_of_is_shown_once(world: World, fox: torch.Tensor) -> None:
    words, model = " ".join(["fox violet castle"] * 30), emoji_model()
    with pytest.warns(UserWarning, match="reads the first 30 tokens"):
        module("prompts").ScorePrompts.execute(model, words, fox)
    assert len(world.texts) == 1 and "reads the first 30 tokens" in world.texts[0][0]
    with pytest.warns(UserWarning, match="clipped"):
        report = module("invert").ImageToPrompt.execute(prompt_model=model, image=fox * 1.5, **SEARCH).args[4]
    assert report.count("is clipped to [0, 1]") == world.texts[-1][0].count("is clipped to [0, 1]") == 1


def test_warnings_are_kept_though_another_pack_switched_them_off(world: World) -> None:
    with warnings.catch_warnings(record=True) as logged:
        warnings.simplefilter("ignore")
        with module("notices").warnings_kept() as kept:
            for name in (
                "/x/custom_nodes/hardprompts.comfyui_nodes.invert",
                "hardprompts.encoders",
                "hardprompts_photo",
            ):
                for _ in range(2):
                    warnings.warn_explicit(f"of  {name}", UserWarning, "file.py", 3, module=name)
            warnings.warn_explicit("of others", UserWarning, "file.py", 3, module="torch")
            warnings.warn_explicit("for developers", DeprecationWarning, "file.py", 3, module="hardprompts.x")
    assert [one.partition(" ")[0] for one in kept] == ["of"] * 3 and "of hardprompts.encoders" in kept
    assert len(logged) >= 3, "the log has them, too"


# --- prompts ------------------------------------------------------------------------------

PROMPT = HardPrompt("red (tiger)", (1, 2), 0.5, template="a photo of {}", model="emoji", tokens=("red", "(tiger)"))


def test_show_prompt_gives_the_browser_data_and_no_markup(world: World) -> None:
    output = module("prompts").ShowPrompt.execute(PROMPT, 4)
    assert output.args == (r"a photo of red \(tiger\)", "a photo of red (tiger)")
    shown = json.loads(json.dumps(output.ui["hardprompts"]))[0]
    assert (shown["before"], shown["tokens"], shown["after"]) == ("a photo of ", ["red", "(tiger)"], "")


def test_nodes_say_what_candidates_are_ranked_by_where_their_numbers_do_not(world: World) -> None:
    found = (Candidate("red (tiger)", (1, 2), 0.5), Candidate("tiger", (2,), 0.6))
    prompt = dataclasses.replace(PROMPT, candidates=found)
    for shown in (module("prompts").display(prompt, 4)["ranking"], module("values").report([prompt])):
        assert "ranked by length and all else that was asked for" in shown
    assert not module("prompts").display(prompt, 0)["ranking"]
    assert "ranked by" not in module("values").report([dataclasses.replace(prompt, candidates=found[::-1])])


def test_prompts_are_saved_numbered_and_loaded(world: World) -> None:
    prompts = module("prompts")
    for expected in ("x/y", "x/y_2"):
        path = Path(prompts.SavePrompt.execute(PROMPT, "x/y", False).args[0])
        assert path == world.folder / "output" / "hardprompts" / expected / "prompt.json"
    assert prompts.saved_prompts() == ["x/y", "x/y_2"]
    assert prompts.LoadPrompt.execute("x/y").args[3] == PROMPT
    assert prompts.LoadPrompt.fingerprint_inputs("x/y") != prompts.LoadPrompt.fingerprint_inputs("gone")


def test_what_the_nodes_show_save_and_push_names_no_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts.hub.client import PushResult
    from hardprompts.hub.machine import MachineNotice

    prompt = dataclasses.replace(PROMPT, model="transformers:/data/secretuser/models/m")
    prompts, pushed = module("prompts"), []
    shown = [prompts.ShowPrompt.execute(prompt, 4).ui, module("values").report([prompt])]
    saved = prompts.SavePrompt.execute(prompt, "x", False)
    shown.append((world.folder / "output" / "hardprompts" / "x" / "prompt.json").read_text())
    assert "this_machine.json" in saved.ui["text"][1] and prompts.LoadPrompt.execute("x").args[3] == prompt
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr(
        "hardprompts.hub.mixin.push_files",
        lambda name, files, **_: (pushed.append(files), PushResult(name, "url", ""))[1],
    )
    with pytest.warns(MachineNotice):
        output = module("publish").PushPromptToHub.execute(prompt, "a/b", True, True)
    assert output.args == ("url",) and "model is now 'transformers:…/m'" in output.ui["text"][1]
    assert "secretuser" not in str([*shown, pushed, output.ui, saved.ui]) and "transformers:…/m" in str(shown[0])


@pytest.mark.parametrize("name", ["a\0b", "a\ud83d"])
def test_names_and_captions_that_no_file_can_hold_are_refused(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="no file can be called"):
        module("prompts").SavePrompt.execute(PROMPT, name, False)
    (world.folder / "input").mkdir(exist_ok=True)
    for image in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(world.folder / "input" / image)
    with pytest.raises(ValueError, match=r"text\[1\] has half of a character"):
        save_texts(["fine", "red \ud83d"], ["a.png", "b.png"], "replace")
    assert not list((world.folder / "input").glob("*.txt")) and not (world.folder / "output" / "hardprompts").exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../../x"])
def test_paths_that_leave_the_folders_are_refused(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="points outside"):
        module("prompts").SavePrompt.execute(PROMPT, name, False)
    with pytest.raises(ValueError, match="points outside"):
        module("prompts").LoadPrompt.execute(name)
    with pytest.raises(ValueError, match="points outside"):
        module("captions").images_in(name if name.startswith("/") else f"../{name}")


def test_combine_and_score(world: World, fox: torch.Tensor) -> None:
    model, prompts = emoji_model(), module("prompts")
    one, two = (HardPrompt(text, (), 0.0, model="emoji:emoji-clip") for text in ("fox", "violet"))
    joined = prompts.CombinePrompts.execute(one, two, model, ", ").args
    assert joined[1] == "fox, violet"
    score = prompts.ScorePrompts.execute
    assert score(model, "a fox", fox).args[0] > score(model, "a castle", fox).args[0]


def test_a_word_is_exchanged_and_the_report_says_what_else_changes(world: World) -> None:
    node, prompt = module("editing").EditPrompt, HardPrompt("neon fox violet", (), 0.0, model="emoji:emoji-clip")
    text, raw, score, found, report = node.execute(prompt, emoji_model(), "fox", "wolf").args
    assert text == raw == found.filled == "neon wolf violet" and 0 < score < 1
    assert "in the direction from 'fox' to 'wolf'" in report and "violet: what it adds changed by" in report
    with pytest.raises(VocabularyError, match="did you mean 'fox'"):
        node.execute(prompt, emoji_model(), "fix", "wolf")


def test_distilling_tells_how_faithful_it_is(world: World) -> None:
    options = {key: value for key, value in SEARCH.items() if key not in ("mode", "method")}
    output = module("distill").DistillPrompt.execute(emoji_model(), "a big fox on violet, flat, a fox", **options).args
    assert 0 < output[4] <= 1 and "faithfulness" in output[5] and output[6] == ""


def test_what_a_pasted_prompt_names_comes_out_beside_it(world: World) -> None:
    options = {key: value for key, value in SEARCH.items() if key not in ("mode", "method")}
    pasted = "a big (fox:1.3) on violet, <lora:flat:0.8>, embedding:easyneg"
    output = module("distill").DistillPrompt.execute(emoji_model(), pasted, **options).args
    assert "lora" not in output[1] and "fox 1.3" in output[5]
    assert output[6] == "<lora:flat:0.8> embedding:easyneg"
    literal = module("distill").DistillPrompt.execute(emoji_model(), pasted, markup="none", **options).args
    assert literal[6] == "" and "fox 1.3" not in literal[5]


@pytest.fixture(scope="module")
def denoiser() -> Any:
    pytest.importorskip("diffusers")
    import hardprompts_emoji
    from hardprompts import load_backend

    return load_backend(f"diffusers:{hardprompts_emoji.path('emoji-sd')}", device="cpu").noise_predictor


@pytest.fixture
def weighted_words(world: World, denoiser: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Weight Words on a model that is not ComfyUI's."""
    node = module("weights")
    monkeypatch.setattr(node, "graph_predictor", lambda *_: denoiser)
    options = {"text": " fox (neon) ", "max_steps": 2, "seed": 3, "width": 64, "height": 64, "num_noises": 2}
    return lambda **given: tuple(node.WeightWords.execute(None, None, None, **{**options, **given}).args)


def test_words_are_weighted_and_what_it_gains_is_told(world: World, weighted_words: Any, fox: torch.Tensor) -> None:
    with torch.inference_mode():
        prompt, plain, gain, hard_prompt, report = weighted_words(image=fox.clone(), template="a {}")
    assert prompt == hard_prompt.weighted() and prompt.startswith("a ")
    assert gain == hard_prompt.weights.gain and hard_prompt.score == pytest.approx(plain + gain)
    assert hard_prompt.score_unit in report and prompt in report and "seed 3" in report
    assert world.progress[-1][1] == 2 and world.texts[-1] == ("\n".join(report.splitlines()[:2]), "7")
    assert "".join(hard_prompt.tokens) == "fox(neon)"
    shown = module("prompts").ShowPrompt.execute(hard_prompt, 4)
    assert shown.args == (prompt, "a fox (neon)") and shown.ui["hardprompts"][0]["weighted"] == prompt


def test_an_interrupt_ends_a_fit(world: World, weighted_words: Any, fox: torch.Tensor) -> None:
    world.interrupt_at = 2
    with pytest.raises(InterruptProcessingException):
        weighted_words(image=fox)
    assert len(world.progress) == 1


def test_weights_need_words_something_to_follow_and_limits_around_1(weighted_words: Any) -> None:
    with pytest.raises(ValueError, match="connect an image, or write a target_text"):
        weighted_words(target_text="  ")
    with pytest.raises(ValueError, match="text is empty"):
        weighted_words(text=" ", target_text="a fox")
    with pytest.raises(ValueError, match="low < 1 < high"):
        weighted_words(target_text="a fox", highest=1.0)


def test_weights_for_another_ui_are_not_given_to_clip_text_encode(world: World) -> None:
    weights = WordWeights((1.2, 0.9), "a1111", "", 0.0, 0.0, (0.0, 0.0))
    of_a1111 = dataclasses.replace(PROMPT, weights=weights)
    assert module("values").escaped(of_a1111) == PROMPT.escaped("comfyui")
    own = dataclasses.replace(of_a1111, weights=dataclasses.replace(weights, syntax="comfyui"))
    assert module("values").escaped(own) == r"a photo of (red:1.2) (\(tiger\):0.9)"


# --- folders ------------------------------------------------------------------------------


def test_folder_to_captions(world: World) -> None:
    captions, folder = module("captions"), world.folder / "input" / "cats"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "a.png"):
        Image.new("RGB", (4, 3), "red").save(folder / name)
    (folder / "notes.md").touch()
    images, paths = captions.LoadImagesFromFolder.execute("cats", 0, 0).args
    assert paths == ["cats/a.jpg", "cats/a.png", "cats/b.png"] and images[0].shape == (1, 3, 4, 3)
    assert captions.LoadImagesFromFolder.execute("cats", 1, 1).args[1] == ["cats/a.png"]

    def save(text: list[str], existing: str) -> None:
        save_texts(text, paths, existing, prefix="tok, ")

    save(["1", "2", "3"], "keep")
    found = {file.name: file.read_text() for file in folder.glob("*.txt")}
    assert found == {"a.jpg.txt": "tok, 1\n", "a.png.txt": "tok, 2\n", "b.txt": "tok, 3\n"}
    save(["x", "y", "z"], "keep")
    assert (folder / "b.txt").read_text() == "tok, 3\n"
    save(["x", "y", "z"], "append")
    assert (folder / "b.txt").read_text() == "tok, 3, tok, z\n"
    save(["x", "y", "w"], "replace")
    assert (folder / "b.txt").read_text() == "tok, w\n"
    with pytest.raises(ValueError, match="2 texts for 3 images"):
        save(["1", "2"], "keep")


@pytest.fixture
def captioned(world: World) -> Path:
    """Three images, and captions as other programs leave them: in another encoding, with a mark, and blank."""
    folder = world.folder / "input" / "cats"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.new("RGB", (4, 3), "red").save(folder / name)
    (folder / "a.txt").write_bytes("Café".encode("cp1252"))
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfold\n")
    (folder / "c.txt").write_text(" \n")
    return folder


def save_texts(text: list[str], path: list[str], existing: str, **changed: str) -> Any:
    written = {"prefix": "", "suffix": "", "template": module("captions").TEMPLATE, **changed}
    return module("captions").SaveCaptions.execute(
        text=text, path=path, existing=[existing], **{name: [value] for name, value in written.items()}
    )


def save_captions(existing: str, names: str = "abcd") -> Any:
    return save_texts([f"new {name}" for name in names], [f"cats/{name}.png" for name in names], existing)


def test_captions_that_are_kept_are_not_read(captioned: Path) -> None:
    output = save_captions("keep")
    assert output.args[0] == [f"cats/{name}.txt" for name in "abcd"]
    assert (captioned / "a.txt").read_bytes() == "Café".encode("cp1252")
    assert (captioned / "b.txt").read_bytes() == b"\xef\xbb\xbfold\n"
    assert (captioned / "c.txt").read_text() == "new c\n", "a blank file is no caption"
    assert (captioned / "d.txt").read_text() == "new d\n"
    assert output.ui["text"][0].startswith("cats/a.txt: Caf") and output.ui["text"][3] == "cats/d.txt: new d"


def test_a_caption_that_cannot_be_appended_to_is_named_and_the_others_are_written(captioned: Path) -> None:
    with pytest.raises(
        FileFormatError, match=r"1 of 4 captions are not written: .*cats/a\.txt is not UTF-8.*; the others are"
    ):
        save_captions("append")
    assert (captioned / "a.txt").read_bytes() == "Café".encode("cp1252")
    assert [(captioned / f"{name}.txt").read_text() for name in "bcd"] == ["old, new b\n", "new c\n", "new d\n"]


def test_a_caption_that_cannot_be_written_is_named_and_the_others_are_written(
    captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (captioned / "b.txt").unlink()
    (captioned / "b.txt").mkdir()
    with pytest.raises(OSError, match=r"1 of 4 captions are not written: .*b\.txt.*; the others are"):
        save_captions("replace")
    assert [(captioned / f"{name}.txt").read_text() for name in "acd"] == ["new a\n", "new c\n", "new d\n"]


@pytest.mark.parametrize(
    ("changed", "caption"),
    [
        ({}, "a {cat}"),
        ({"prefix": "tok, ", "suffix": ", 4k"}, "tok, a {cat}, 4k"),
        ({"template": "a photo of sks dog, {}"}, "a photo of sks dog, a {cat}"),
        ({"template": "{suffix} {caption}", "suffix": "{caption}"}, "{caption} a {cat}"),
    ],
)
def test_captions_are_put_together_as_the_template_says(captioned: Path, changed: dict[str, str], caption: str) -> None:
    save_texts(["a {cat}"], ["cats/d.png"], "replace", **changed)
    assert (captioned / "d.txt").read_text() == f"{caption}\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"template": "a photo"}, "0 places for the caption"),
        ({"template": "{} {caption}"}, "2 places for the caption"),
        ({"template": "{name}, {}"}, "{name} in the template .* is unknown"),
        ({"template": "{}", "prefix": "tok, "}, "the prefix 'tok, ' has no place"),
        ({"template": "{}", "suffix": ", 4k"}, "the suffix ', 4k' has no place"),
    ],
)
def test_templates_that_would_lose_something_are_refused(
    captioned: Path, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_texts(["a"], ["cats/d.png"], "replace", **changed)
    assert not (captioned / "d.txt").exists()


def test_a_stopped_run_goes_on_with_the_images_that_have_no_caption(captioned: Path) -> None:
    load = module("captions").LoadImagesFromFolder
    (captioned / "deep").mkdir()
    Image.new("RGB", (4, 3), "red").save(captioned / "deep" / "e.png")
    options = {"folder": "cats", "start": 0, "limit": 0, "recursive": True, "skip_captioned": True}
    before = load.fingerprint_inputs(**options)
    paths = load.execute(**options).args[1]
    assert paths == ["cats/c.png", "cats/d.png", "cats/deep/e.png"], "a blank file is no caption"
    assert load.execute(**{**options, "start": 1, "limit": 1}).args[1] == ["cats/d.png"]
    assert save_texts(["1", "2", "3"], paths, "keep").args[0][-1] == "cats/deep/e.txt"
    assert (captioned / "deep" / "e.txt").read_text() == "3\n"
    assert load.fingerprint_inputs(**options) != before
    with pytest.raises(ImageError, match="all 5 images of 'cats' have captions"):
        load.execute(**options)
    assert len(load.execute(**{**options, "skip_captioned": False}).args[1]) == 5


def test_captions_have_the_names_that_the_whole_folder_asks_for(captioned: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(captioned / "D.jpg")
    save_captions("replace", "d")
    assert (captioned / "d.png.txt").exists() and not (captioned / "d.txt").exists()


def test_two_texts_for_one_image_are_refused_before_anything_is_written(captioned: Path) -> None:
    for existing in ("keep", "replace"):
        with pytest.raises(ValueError, match=r"'cats/d.png' has several texts"):
            save_captions(existing, "cdd")
    assert (captioned / "c.txt").read_text() == " \n"
    save_captions("append", "dd")
    assert (captioned / "d.txt").read_text() == "new d, new d\n"


def test_a_folder_with_a_link_to_nothing_changes_when_its_images_do(captioned: Path) -> None:
    node = module("captions").LoadImagesFromFolder
    (captioned / "gone.png").symlink_to("nowhere.png")
    before = node.fingerprint_inputs("cats", 0, 0)
    (captioned / "a.txt").write_text("a caption is not an image")
    assert node.fingerprint_inputs("cats", 0, 0) == before
    Image.new("RGB", (5, 3), "red").save(captioned / "e.png")
    assert node.fingerprint_inputs("cats", 0, 0) != before


def test_folders_without_images_are_refused(world: World) -> None:
    (world.folder / "input" / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        module("captions").LoadImagesFromFolder.execute("empty", 0, 0)
    with pytest.raises(ValueError, match="there is no folder"):
        module("captions").LoadImagesFromFolder.execute("nothing", 0, 0)


# --- embeddings and the Hub ---------------------------------------------------------------


def test_missing_embeddings_are_named(world: World) -> None:
    with pytest.raises(ValueError, match="no embedding 'x.pt'"):
        module("embeddings").InspectEmbedding.execute("x.pt")


def test_an_embedding_is_inspected_without_a_clip(world: World) -> None:
    from safetensors.torch import save_file

    save_file({"emb_params": torch.randn(2, 768)}, world.folder / "emb" / "tiny.safetensors")
    text = module("embeddings").InspectEmbedding.execute("tiny.safetensors").args[0]
    assert "2 tokens" in text and "SD 1.x" in text


def test_an_embedding_is_chosen_and_its_keys_renamed(world: World) -> None:
    from safetensors.torch import save_file

    inspect = module("embeddings").InspectEmbedding.execute
    save_file({"<a>": torch.ones(1, 768), "<b>": torch.ones(2, 768)}, world.folder / "emb" / "two.safetensors")
    with pytest.raises(ValueError, match="2 soft prompts"):
        inspect("two.safetensors")
    text = inspect("two.safetensors", name="<b>").args[0]
    assert "2 tokens" in text and "does not name its text encoder" in text
    save_file({"clip_g": torch.ones(1, 768), "clip_l": torch.ones(1, 4096)}, world.folder / "emb" / "two.safetensors")
    with pytest.raises(ValueError, match="rename"):
        inspect("two.safetensors")
    text = inspect("two.safetensors", rename="clip_g=clip_l, clip_l=t5xxl").args[0]
    assert "FLUX.1" in text


def test_nothing_is_pushed_unless_enabled_and_a_token_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    push = module("publish").PushPromptToHub.execute
    assert push(PROMPT, "a/b", True, False).args == ("",)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match="HF_TOKEN"):
        push(PROMPT, "a/b", True, True)
