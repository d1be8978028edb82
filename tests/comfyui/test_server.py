"""The nodes in a real ComfyUI: headless, on the CPU, driven as its browser drives it."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from server import ROOT, Run, Server, comfyui_path, comfyui_python, running

pytestmark = pytest.mark.comfyui
if comfyui_path() is None:
    pytest.skip("COMFYUI_PATH does not name a ComfyUI checkout", allow_module_level=True)
pytest.importorskip("aiohttp", reason="the websocket client of these tests; ComfyUI's Python has it")

EXAMPLES = ROOT / "plugins" / "hardprompts_emoji" / "examples"
FOX, OWL, ROCKET = "fox-purple-flat.png", "owl-brown-night.png", "rocket-gray-pixel_art.png"


#: A node that tells what is in memory, and one whose models claim to be loaded piece by piece, as on a GPU.
PROBE = """
import gc
import comfy.model_management as management

class ProbeLoaded:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    IS_CHANGED = classmethod(lambda cls: float("NaN"))
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "tell", "probe", True
    def tell(self):
        gc.collect()
        alive = [one for one in gc.get_objects() if type(one).__name__ == "CLIPModel"]
        return {"ui": {"text": [str(len(management.current_loaded_models)), str(len(alive))]}}

class ProbeDynamic:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "clip": ("CLIP",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CLIP"), "tell", "probe"
    def tell(self, model, clip):
        model, clip = model.clone(), clip.clone()
        for patcher in (model, clip.patcher):
            assert patcher.cached_patcher_init is not None
            patcher.is_dynamic = lambda: True
            patcher.set_in_use_by_current_prompt = lambda used: None
        return model, clip

class ProbeWeighted:
    INPUT_TYPES = classmethod(lambda cls: {"required": {
        "model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",), "hard_prompt": ("HARD_PROMPT",),
        "conditioning": ("CONDITIONING",), "plain": ("CONDITIONING",),
    }})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "tell", "probe", True
    def tell(self, model, clip, vae, hard_prompt, conditioning, plain):
        import sys
        from hardprompts.applications import weighted_conditioning
        graph, bridge = (next(one for name, one in list(sys.modules.items()) if name.endswith("comfyui_nodes." + part))
                         for part in ("graph", "bridge"))
        with bridge.gradients_through_graph():
            ours = weighted_conditioning(hard_prompt, graph.graph_predictor(model, clip, vae, 64, 64)).tensors[0]
        away = [float((ours.cpu() - one[0][0].float().cpu()).abs().max()) for one in (conditioning, plain)]
        return {"ui": {"text": list(map(str, away))}}

NODE_CLASS_MAPPINGS = {"ProbeLoaded": ProbeLoaded, "ProbeDynamic": ProbeDynamic, "ProbeWeighted": ProbeWeighted}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "custom_nodes").mkdir()
    (folder / "input").mkdir()
    (folder / "custom_nodes" / "hardprompts").symlink_to(ROOT, target_is_directory=True)
    (folder / "custom_nodes" / "probe.py").write_text(PROBE)
    for name in (FOX, OWL, ROCKET):
        shutil.copy(EXAMPLES / name, folder / "input")
    script = Path(__file__).with_name("make_checkpoint.py")
    subprocess.run([comfyui_python(), str(script), str(comfyui_path()), str(folder / "models")], check=True)
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    with running(base) as started:
        yield started


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def model() -> dict[str, Any]:
    return node("HardPromptsLoadModel", model="emoji", dtype="float32", device="default", hub_model="")


SEARCH = {"num_tokens": 4, "max_steps": 15, "restarts": 4, "seed": 0, "template": "{}", "banned": ""}


def image_to_prompt(*images: str, **changed: Any) -> dict[str, Any]:
    workflow = {"model": model(), "search": node(
        "HardPromptsImageToPrompt", prompt_model=["model", 0], mode="one prompt per image",
        **{**SEARCH, "method": "build+refine", **changed},
    )}  # fmt: skip
    for place, image in enumerate(images):
        workflow[f"image{place}"] = node("LoadImage", image=image)
    last = "image0"
    for place in range(1, len(images)):
        workflow[f"batch{place}"] = node("ImageBatch", image1=[last, 0], image2=[f"image{place}", 0])
        last = f"batch{place}"
    workflow["search"]["inputs"]["image"] = [last, 0]
    workflow["show"] = node("HardPromptsShow", hard_prompt=["search", 3], candidates=2)
    return workflow


def graph(lora: bool) -> tuple[dict[str, Any], list[Any], list[Any]]:
    workflow = {"load": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors")}
    if not lora:
        return workflow, ["load", 0], ["load", 1]
    workflow["lora"] = node(
        "LoraLoader", model=["load", 0], clip=["load", 1], lora_name="tiny.safetensors", strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    return workflow, ["lora", 0], ["lora", 1]


def picture(seed: int, lora: bool) -> dict[str, Any]:
    workflow, unet, clip = graph(lora)
    return workflow | {
        "text": node("CLIPTextEncode", clip=clip, text="a cat"),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "KSampler", model=unet, positive=["text", 0], negative=["text", 0], latent_image=["latent", 0], seed=seed,
            steps=2, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="picture"),
    }  # fmt: skip


def pixels(run: Run, base: Path) -> str:
    from PIL import Image

    name = run.outputs["save"]["images"][0]["filename"]
    return hashlib.sha256(Image.open(base / "output" / name).convert("RGB").tobytes()).hexdigest()


def ok(run: Run) -> Run:
    assert run.error is None and not run.interrupted, json.dumps(run.error, indent=1)[:3000]
    return run


def said(run: Run) -> str:
    assert run.error is not None
    return str(run.error["exception_message"])


def test_every_node_is_there_with_its_help_page_and_translation(server: Server) -> None:
    info = server.get("/object_info")
    own = [name for name in info if name.startswith("HardPrompts")]
    assert len(own) == 18
    for name in own:
        with urllib.request.urlopen(f"{server.url}/extensions/hardprompts/docs/{name}.md") as page:
            assert page.read().startswith(b"# ")
    assert server.get("/i18n")["de"]["nodeDefs"]["HardPromptsShow"]["display_name"] == "Prompt zeigen"
    assert "image_to_prompt" in server.get("/workflow_templates")["hardprompts"]


def test_the_blueprint_is_offered_where_there_are_any(server: Server) -> None:
    try:
        found = server.get("/global_subgraphs")
    except urllib.error.HTTPError as error:
        assert error.code == 404
        pytest.skip("this ComfyUI has no blueprints")
    (name,) = (key for key, one in found.items() if one["info"]["node_pack"] == "custom_nodes.hardprompts")
    assert found[name]["name"] == "Image to Prompt"
    graph = json.loads(server.get(f"/global_subgraphs/{name}")["data"])
    (inner,) = graph["definitions"]["subgraphs"]
    assert {port["name"] for port in inner["outputs"]} == {"hard prompt", "prompt"}


def test_photo_is_the_first_model_where_it_is_installed(server: Server) -> None:
    info = server.get("/object_info/HardPromptsLoadModel")["HardPromptsLoadModel"]["input"]["required"]["model"]
    models = info[0] if isinstance(info[0], list) else info[1]["options"]
    code = "import hardprompts_photo; print(hardprompts_photo.installed())"
    run = subprocess.run([comfyui_python(), "-c", code], capture_output=True, text=True, check=False)
    assert (models[0] == "photo") is (run.stdout.strip() == "True"), (models, run.stderr)


def test_the_schemas_say_what_this_version_can_show(server: Server) -> None:
    source = (comfyui_path() or Path()).joinpath("comfy_api/latest/_io.py").read_text()
    info = server.get("/object_info/HardPromptsImageToPrompt")["HardPromptsImageToPrompt"]
    inputs = {**info["input"]["required"], **info["input"]["optional"]}
    assert inputs["restarts"][1].get("advanced", False) is ("advanced: bool" in source)
    assert ("clip interrogator" in (info.get("search_aliases") or [])) is ("search_aliases" in source)
    newer = "class ControlAfterGenerate" in source
    assert inputs["seed"][1]["control_after_generate"] == ("fixed" if newer else True)


def test_an_image_becomes_a_prompt_with_progress_and_live_text(server: Server) -> None:
    run = ok(server.run(image_to_prompt(FOX)))
    assert "fox" in run.outputs["show"]["text"][0]
    steps = [data["value"] for kind, data in run.messages if kind == "progress" and data["node"] == "search"]
    assert steps == sorted(steps) and steps[-1] == SEARCH["max_steps"]  # newer versions leave some steps out
    assert len(steps) >= 2
    assert run.outputs["show"]["text"][0] in run.texts()[-1]


def test_the_same_again_comes_from_the_cache(server: Server) -> None:
    ok(server.run(image_to_prompt(OWL)))
    assert "search" not in ok(server.run(image_to_prompt(OWL))).executed
    assert "search" in ok(server.run(image_to_prompt(OWL, seed=1))).executed


def test_three_images_become_three_prompts(server: Server) -> None:
    texts = ok(server.run(image_to_prompt(FOX, OWL, ROCKET))).outputs["show"]["text"]
    for words, text in zip((("fox",), ("owl", "wise"), ("rocket",)), texts, strict=True):
        assert any(word in text for word in words), text


def test_an_interrupt_stops_within_a_step_and_the_server_goes_on(server: Server) -> None:
    # Steps slow enough that newer versions, too, tell of every one.
    slow = image_to_prompt(FOX, seed=7, max_steps=100, restarts=256, num_tokens=16, method="pez")
    run = server.run(slow, interrupt_after=3)
    assert run.interrupted
    steps = [data["value"] for kind, data in run.messages if kind == "progress" and data["node"] == "search"]
    # The step that is under way when the button is pressed, and one more until the server has heard of it.
    assert len(steps) >= 2 and steps[-1] - steps[2] <= 2
    ok(server.run(image_to_prompt(FOX, seed=8)))


def test_two_runs_queued_at_once_both_end(server: Server) -> None:
    ids = [server.post("/prompt", {"prompt": image_to_prompt(FOX, seed=seed)})["prompt_id"] for seed in (21, 22)]
    end = time.monotonic() + 120
    while any(one not in (history := server.get("/history")) for one in ids):
        assert time.monotonic() < end
        time.sleep(0.3)
    assert {history[one]["status"]["status_str"] for one in ids} == {"success"}


def networks(server: Server, workflow: dict[str, Any]) -> tuple[int, int]:
    """How many networks ComfyUI holds as loaded, and how many of the emoji model's kind are alive at all."""
    loaded, alive = ok(server.run(workflow | {"probe": node("ProbeLoaded")})).outputs["probe"]["text"]
    return int(loaded), int(alive)


def test_unloading_frees_the_memory(server: Server) -> None:
    workflow = image_to_prompt(FOX, seed=31)
    ok(server.run(workflow))
    assert networks(server, workflow) == (1, 1)  # the search itself comes from the cache
    server.post("/free", {"unload_models": True, "free_memory": True})
    end = time.monotonic() + 60  # the server gets to it when it is idle
    while (left := networks(server, {})) != (0, 0) and time.monotonic() < end:
        time.sleep(1)
    assert left == (0, 0)
    ok(server.run(image_to_prompt(FOX, seed=32)))


def ph2p(workflow: dict[str, Any], unet: list[Any], clip: list[Any], **changed: Any) -> dict[str, Any]:
    return workflow | {
        "image": node("LoadImage", image=FOX),
        "search": node(
            "HardPromptsImageToPromptDiffusion", model=unet, clip=clip, vae=["load", 2], image=["image", 0],
            mode="one prompt per image", method="ph2p", width=64, height=64, num_noises=2, noises_per_step=1,
            **{**SEARCH, "num_tokens": 3, "max_steps": 2, "restarts": 1, **changed},
        ),
        "show": node("HardPromptsShow", hard_prompt=["search", 3], candidates=2),
    }  # fmt: skip


@pytest.mark.parametrize("follows", [{"image": ["image", 0]}, {"target_text": "a large cat in the rain"}])
def test_weighted_words_mean_to_clip_text_encode_what_they_were_fitted_to_mean(
    server: Server, base: Path, follows: dict[str, Any]
) -> None:
    workflow, unet, clip = graph(lora=True)
    models = {"model": unet, "clip": clip, "vae": ["load", 2]}
    before = pixels(ok(server.run(picture(5, True))), base)
    run = ok(server.run(workflow | {
        "image": node("LoadImage", image=FOX),
        "weights": node(
            "HardPromptsWeightWords", **models, text="cat (neon) rain", template="a big {} now", max_steps=4, seed=0,
            width=64, height=64, num_noises=2, batch_size=2, lowest=0.2, highest=2.0, **follows,
        ),
        "weighted": node("CLIPTextEncode", clip=clip, text=["weights", 0]),
        "plain": node("CLIPTextEncode", clip=clip, text="a big cat \\(neon\\) rain now"),
        "probe": node(
            "ProbeWeighted", **models, hard_prompt=["weights", 3], conditioning=["weighted", 0], plain=["plain", 0]
        ),
        "show": node("HardPromptsShow", hard_prompt=["weights", 3], candidates=0),
        "report": node("PreviewAny", source=["weights", 4]),
    }))  # fmt: skip
    (shown,) = run.outputs["show"]["hardprompts"]
    exact, plain = map(float, run.outputs["probe"]["text"])
    assert ":" in shown["weighted"], "the fit found no weights, so this test shows nothing"
    assert exact < 1e-4 < 1e-2 < plain, (exact, plain)
    assert "without weights" in run.outputs["report"]["text"][0]
    assert any("without weights" in text for text in run.texts())
    assert pixels(ok(server.run(picture(5, True))), base) == before


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_ph2p_on_the_graphs_own_models_changes_nothing(server: Server, base: Path, lora: bool) -> None:
    before = pixels(ok(server.run(picture(5, lora))), base)
    found = ok(server.run(ph2p(*graph(lora))))
    assert len(found.outputs["show"]["hardprompts"][0]["tokens"]) == 3
    assert pixels(ok(server.run(picture(6, lora))), base) != before
    assert pixels(ok(server.run(picture(5, lora))), base) == before


def test_a_prompt_is_found_by_the_graphs_own_pictures(server: Server, base: Path) -> None:
    workflow, unet, clip = graph(lora=True)
    before = pixels(ok(server.run(picture(5, True))), base)
    run = ok(server.run(workflow | {
        "image": node("LoadImage", image=FOX),
        "model": node("HardPromptsLoadModel", model="emoji", dtype="float32", device="cpu"),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=unet, scheduler="normal", steps=2, denoise=1.0),
        "search": node(
            "HardPromptsImageToPromptByPictures", model=unet, clip=clip, vae=["load", 2], sampler=["sampler", 0],
            sigmas=["sigmas", 0], prompt_model=["model", 0], image=["image", 0], pictures=12, cfg=2.0, width=64,
            height=64, seed=0, text="a (fox)", negative="blurry",
        ),
        "show": node("HardPromptsShow", hard_prompt=["search", 3], candidates=2),
        "report": node("PreviewAny", source=["search", 4]),
        "picture": node("PreviewImage", images=["search", 5]),
    }))  # fmt: skip
    (report,) = run.outputs["report"]["text"]
    assert len(run.outputs["picture"]["images"]) == 1
    assert "image similarity on fresh seeds" in report and "12 pictures, 0 of them failed" in report, report
    steps = [data["value"] for kind, data in run.messages if kind == "progress" and data["node"] == "search"]
    assert steps and steps[-1] == 12
    assert pixels(ok(server.run(picture(5, True))), base) == before


def test_a_word_of_what_was_found_is_exchanged_and_checked(server: Server) -> None:
    workflow = image_to_prompt(FOX, seed=61, editable=True)
    workflow["evidence"] = node(
        "HardPromptsEvidence", prompt_model=["model", 0], image=["image0", 0], hard_prompt=["search", 3],
        min_evidence=0.8,
    )  # fmt: skip
    workflow["edit"] = node(
        "HardPromptsEdit", original=["search", 3], prompt_model=["model", 0], old="fox", new="wolf", every=False
    )
    workflow["show"]["inputs"]["hard_prompt"] = ["edit", 3]
    workflow["report"] = node("PreviewAny", source=["edit", 4])
    run = ok(server.run(workflow))
    (shown,), (table,) = run.outputs["show"]["hardprompts"], run.outputs["evidence"]["text"]
    assert "wolf" in shown["tokens"] and "fox" not in shown["tokens"] and "fox" in table and "%" in table
    assert "in the direction from 'fox' to 'wolf'" in run.outputs["report"]["text"][0]
    assert any("wolf" in text and "what it adds changed by" in text for text in run.texts())
    workflow["edit"]["inputs"]["old"] = "foxx"
    assert "is not a word of the prompt" in said(refused := server.run(workflow)) and "'fox'" in said(refused)
    workflow["edit"]["inputs"] |= {"old": "fox", "new": "(wolf:1.2)"}
    assert "user interface's markup" in said(server.run(workflow))


def test_ph2p_reads_models_once_more_whose_weights_come_and_go(server: Server) -> None:
    if "disable_dynamic" not in (comfyui_path() or Path()).joinpath("comfy/model_patcher.py").read_text():
        pytest.skip("this ComfyUI loads every model in full")
    workflow, unet, clip = graph(lora=True)
    (whole,) = ok(server.run(ph2p(workflow, unet, clip))).outputs["show"]["hardprompts"]
    workflow["dynamic"] = node("ProbeDynamic", model=unet, clip=clip)
    (again,) = ok(server.run(ph2p(workflow, ["dynamic", 0], ["dynamic", 1]))).outputs["show"]["hardprompts"]
    assert again["score"] == whole["score"] and again["tokens"] == whole["tokens"]


def test_an_embedding_becomes_words_by_the_graphs_clip(server: Server) -> None:
    workflow, _, clip = graph(lora=False)
    run = ok(server.run(workflow | {
        "inspect": node("HardPromptsInspectEmbedding", embedding="tiny.safetensors", clip=clip),
        "search": node(
            "HardPromptsEmbeddingToPrompt", embedding="tiny.safetensors", clip=clip,
            **{**SEARCH, "num_tokens": 2, "max_steps": 2, "restarts": 1},
        ),
        "show": node("HardPromptsShow", hard_prompt=["search", 3], candidates=2),
        "report": node("PreviewAny", source=["search", 5]),
    }))  # fmt: skip
    # The embedding is "cat" and "a", a little longer: words say all of it.
    assert run.outputs["show"]["text"][0] == "cat a"
    assert "nearest words: 'cat a'" in run.outputs["inspect"]["text"][0]
    assert "faithfulness" in run.outputs["report"]["text"][0]


def test_what_a_deadline_left_out_is_told_in_the_graph(server: Server) -> None:
    hurried = image_to_prompt(FOX, seed=41, max_steps=100_000, method="refine", deadline=0.001)
    hurried["report"] = node("PreviewAny", source=["search", 4])
    run = ok(server.run(hurried))
    (notice,) = run.outputs["show"]["hardprompts"][0]["notices"]
    assert notice.startswith("no room within the limits: ")
    assert notice in run.texts()[-1] and notice in run.outputs["report"]["text"][0]
    assert ok(server.run(image_to_prompt(FOX, seed=42))).outputs["show"]["hardprompts"][0]["notices"] == []


def test_what_users_are_warned_of_is_shown_in_the_node(server: Server) -> None:
    long = {
        "model": model(), "image": node("LoadImage", image=FOX),
        "score": node("HardPromptsScore", prompt_model=["model", 0], text="fox violet castle " * 30, image=["image", 0]),
        "show": node("PreviewAny", source=["score", 0]),
    }  # fmt: skip
    (told,) = ok(server.run(long)).texts()
    assert "reads the first 30 tokens" in told


def test_a_captioner_of_the_models_folder_is_where_a_search_begins(server: Server, base: Path) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(ROOT / "tests" / "plugins" / "transformers"))
    from test_captions import build, saved

    saved(base / "models" / "prompt_models" / "tiny-blip", *build("blip"))
    ok(server.run(image_to_prompt(FOX, seed=51, captioner="tiny-blip")))
    assert "is a path" in said(server.run(image_to_prompt(FOX, captioner=f"transformers:{base}/models")))
    assert "unknown captioner scheme 'blip'" in said(server.run(image_to_prompt(FOX, captioner="blip")))


def test_folders_in_folders_are_captioned_and_a_stopped_run_goes_on(server: Server, base: Path) -> None:
    folder = base / "input" / "many"
    for name, place in ((FOX, folder), (ROCKET, folder / "machines")):
        place.mkdir()
        shutil.copy(EXAMPLES / name, place)
    (folder / "broken.png").write_bytes(b"no picture")
    workflow = image_to_prompt(FOX)
    workflow["folder"] = node(
        "HardPromptsLoadImages", folder="many", start=0, limit=0, recursive=True, skip_captioned=True
    )
    workflow["search"]["inputs"]["image"] = ["folder", 0]
    workflow["captions"] = node(
        "HardPromptsSaveCaptions", text=["search", 1], path=["folder", 1], prefix="", suffix="", existing="keep",
        template="a picture of sks, {}",
    )  # fmt: skip
    run = ok(server.run(workflow))
    assert any("broken.png" in text for text in run.texts())
    for image, word in ((folder / FOX, "fox"), (folder / "machines" / ROCKET, "rocket")):
        caption = image.with_suffix(".txt").read_text()
        assert caption.startswith("a picture of sks, ") and word in caption
    (folder / FOX).with_suffix(".txt").unlink()
    (shown,) = ok(server.run(workflow)).outputs["captions"]["text"]
    assert shown.startswith("many/fox"), "the one that was left to do"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"template": "no slot"}, "exactly once"),
        ({"num_tokens": 75}, "room"),
    ],
)
def test_errors_say_what_to_do(server: Server, changed: dict[str, Any], message: str) -> None:
    assert message in said(server.run(image_to_prompt(FOX, **changed)))


def test_a_clip_cannot_be_taken_for_a_prompt_model(server: Server) -> None:
    workflow = image_to_prompt(FOX)
    workflow["load"] = node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors")
    workflow["search"]["inputs"]["prompt_model"] = ["load", 1]
    run = server.run(workflow)
    assert run.error is not None and "node_errors" in run.error
    assert "mismatch" in json.dumps(run.error)


def test_the_assembled_package_runs_in_a_fresh_comfyui_and_is_imported_at_once(tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / "hardprompts"
    pack.parent.mkdir()
    (tmp_path / "input").mkdir()
    shutil.copy(EXAMPLES / FOX, tmp_path / "input")
    command = [sys.executable, "-m", "hardprompts", "comfyui", "assemble", str(pack)]
    subprocess.run([*command, "--publisher", "me", "--repository", "https://example.org"], check=True)
    with running(tmp_path) as fresh:
        assert len([name for name in fresh.get("/object_info") if name.startswith("HardPrompts")]) == 18
        assert fresh.get("/i18n")["de"]["nodeDefs"]["HardPromptsShow"]["display_name"] == "Prompt zeigen"
        assert "image_to_prompt" in fresh.get("/workflow_templates")["hardprompts"]
        assert "fox" in ok(fresh.run(image_to_prompt(FOX))).outputs["show"]["text"][0]
        (seconds,) = re.findall(r"([\d.]+) seconds: \S+hardprompts", fresh.log.read_text())
        # Of the whole start, as both take longer on a busy machine.
        assert float(seconds) < 0.15 * fresh.start_seconds


def test_escaped_text_is_read_as_the_raw_tokens_by_comfyuis_own_tokenizer(base: Path) -> None:
    code = """
import sys; sys.path.insert(0, sys.argv[1]); sys.argv = ["x", "--cpu"]
import comfy.options; comfy.options.enable_args_parsing()
import importlib.util, pathlib, types
from comfy.sd1_clip import SDTokenizer
import comfy_api.latest
sys.path[:0] = [ROOT + '/sdk', ROOT]
from functools import partial
from hardprompts import prompts
escape = partial(prompts.escape, syntax='comfyui')
tokenizer = SDTokenizer(embedding_directory=["/nowhere"])
for text in ["a (b) c", "((x", "y))", "a \\\\ b", "a \\\\( b", "embedding:cat (:)", "x embedding:y, (z:1.5)", "q\\\\"]:
    (chunk,) = tokenizer.tokenize_with_weights(escape(text))
    assert all(weight == 1.0 for _, weight in chunk), text
    ids = [i for i, _ in chunk]
    raw = tokenizer.tokenizer(text)["input_ids"]
    assert ids[: len(raw)] == raw, (text, escape(text), ids[:20], raw)
print("all the same")
""".replace("ROOT", repr(str(ROOT)))
    run = subprocess.run(
        [comfyui_python(), "-c", code, str(comfyui_path())], capture_output=True, text=True, cwd=base, check=False
    )
    assert "all the same" in run.stdout, run.stderr[-2000:]
