"""Opens every example workflow in a real browser, runs it, and takes the pictures of docs/comfyui.md.

    python tests/comfyui/screenshots.py [--rebuild [--no-pictures]] [NAME ...]

Needs COMFYUI_PATH, playwright and Debian's chromium. `--rebuild` first writes the workflows anew from the graphs
in this file, laid out by ComfyUI's own frontend.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from server import ROOT, RUN_SECONDS, Server, comfyui_path, comfyui_python, running

WORKFLOWS = ROOT / "comfyui_nodes" / "example_workflows"
BLUEPRINTS = ROOT / "comfyui_nodes" / "subgraphs"
PICTURES = ROOT / "docs" / "comfyui"
EXAMPLES = ROOT / "plugins" / "hardprompts_emoji" / "examples"

#: The tiny models that stand in for those that a workflow names, and searches short enough for a CPU.
STAND_INS: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": "tiny.safetensors"},
    "LoraLoader": {"lora_name": "tiny.safetensors"},
    "HardPromptsImageToPromptDiffusion": {
        "width": 64, "height": 64, "max_steps": 3, "restarts": 1, "num_noises": 2, "noises_per_step": 1, "num_tokens": 4,
    },
    "HardPromptsEmbeddingToPrompt": {
        "embedding": "tiny.safetensors", "num_tokens": 3, "max_steps": 3, "restarts": 2,
    },
    "HardPromptsInspectEmbedding": {"embedding": "tiny.safetensors"},
    "HardPromptsWeightWords": {"width": 64, "height": 64, "max_steps": 4, "num_noises": 2, "batch_size": 2},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
    "BasicScheduler": {"steps": 2},
    "HardPromptsImageToPromptByPictures": {"width": 64, "height": 64, "pictures": 12},
}  # fmt: skip

#: Further ones for the pictures of some workflows: an image in whose parts words differ.
OF_WORKFLOWS: dict[str, dict[str, dict[str, Any]]] = {
    "prompt_evidence": {
        "LoadImage": {"image": "owl.png"},
        "HardPromptsEvidence": {"text": "brown drawing of an owl and a castle at night"},
    },
    "edit_prompt": {"LoadImage": {"image": "rocket.png"}, "HardPromptsEdit": {"old": "rocket", "new": "bicycle"}},
}

SEARCH = {"num_tokens": 6, "max_steps": 300, "restarts": 16, "seed": 0, "template": "{}", "banned": ""}


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of a graph: its class, inputs, and where it stands."""

    kind: str
    inputs: dict[str, Any]
    place: tuple[int, int]
    size: tuple[int, int]


def _search(kind: str, inputs: dict[str, Any], place: tuple[int, int], size: tuple[int, int], **changed: Any) -> Node:
    return Node(kind, {**inputs, **SEARCH, **changed}, place, size)


def _model(place: tuple[int, int]) -> Node:
    inputs = {"model": "emoji", "dtype": "float32", "device": "default", "hub_model": ""}
    return Node("HardPromptsLoadModel", inputs, place, (300, 150))


def _checkpoint(place: tuple[int, int]) -> Node:
    return Node("CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}, place, (330, 100))


def _folder(folder: str, **changed: bool) -> Node:
    return Node("HardPromptsLoadImages", {"folder": folder, "start": 0, "limit": 0, **changed}, (20, 270), (300, 190))


def _captions(existing: str, template: str) -> Node:
    inputs = {
        "text": ["3", 1],
        "path": ["1", 1],
        "prefix": "",
        "suffix": "",
        "template": template,
        "existing": existing,
    }
    return Node("HardPromptsSaveCaptions", inputs, (760, 20), (460, 360))


_INVERT = {"mode": "one prompt per image", "method": "build+refine", "prompt_model": ["2", 0]}

GRAPHS: dict[str, dict[str, Node]] = {
    "image_to_prompt": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 270), (300, 330)),
        "2": _model((20, 20)),
        "3": _search("HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0]}, (360, 20), (360, 530)),
        "4": Node("HardPromptsShow", {"hard_prompt": ["3", 3], "candidates": 4}, (760, 20), (440, 330)),
    },
    "one_prompt_per_image": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 270), (220, 290)),
        "5": Node("LoadImage", {"image": "owl.png"}, (20, 620), (220, 290)),
        "6": Node("LoadImage", {"image": "rocket.png"}, (260, 620), (220, 290)),
        "7": Node("ImageBatch", {"image1": ["1", 0], "image2": ["5", 0]}, (270, 300), (210, 60)),
        "8": Node("ImageBatch", {"image1": ["7", 0], "image2": ["6", 0]}, (270, 440), (210, 60)),
        "2": _model((20, 20)),
        "3": _search("HardPromptsImageToPrompt", {**_INVERT, "image": ["8", 0]}, (510, 20), (360, 530)),
        "4": Node("HardPromptsShow", {"hard_prompt": ["3", 3], "candidates": 2}, (910, 20), (440, 520)),
    },
    "captions_for_a_folder": {
        "1": _folder("captions", recursive=False, skip_captioned=False),
        "2": _model((20, 20)),
        "3": _search("HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0]}, (360, 20), (360, 530)),
        "4": _captions("replace", template="{prefix}{caption}{suffix}"),
    },
    "captions_for_folders_in_folders": {
        "1": _folder("training", recursive=True, skip_captioned=True),
        "2": _model((20, 20)),
        "3": _search("HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0]}, (360, 20), (360, 530)),
        "4": _captions("keep", template="a picture of sks, {}"),
    },
    "image_to_prompt_subgraph": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 20), (300, 330)),
        "2": _model((20, 20)),
        "3": _search("HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0]}, (360, 20), (360, 530)),
        "4": Node("HardPromptsShow", {"hard_prompt": ["3", 3], "candidates": 4}, (760, 20), (440, 330)),
        "5": Node("PreviewAny", {"source": ["3", 0]}, (760, 420), (440, 130)),
    },
    "prompt_evidence": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 210), (300, 330)),
        "2": _model((20, 20)),
        "3": Node(
            "HardPromptsEvidence",
            {"prompt_model": ["2", 0], "image": ["1", 0], "text": "simple violet drawing of a fox and a castle",
             "min_evidence": 0.8, "deadline": 0.0},
            (360, 20), (520, 560),
        ),
        "4": Node("PreviewImage", {"images": ["3", 0]}, (920, 20), (360, 330)),
        "5": Node("PreviewAny", {"source": ["3", 2]}, (920, 420), (360, 130)),
    },
    "edit_prompt": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 210), (300, 330)),
        "2": _model((20, 20)),
        "3": _search(
            "HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0], "editable": True}, (360, 20), (360, 530)
        ),
        "4": Node(
            "HardPromptsEvidence",
            {"prompt_model": ["2", 0], "image": ["1", 0], "hard_prompt": ["3", 3], "text": "", "min_evidence": 0.8,
             "deadline": 0.0, "interactions": True}, (760, 20), (500, 830),
        ),
        "5": Node("PreviewImage", {"images": ["4", 0]}, (20, 600), (300, 290)),
        "6": Node(
            "HardPromptsEdit",
            {"original": ["3", 3], "prompt_model": ["2", 0], "old": "fox", "new": "wolf", "every": False}, (1300, 20),
            (400, 330),
        ),
        "7": Node("HardPromptsShow", {"hard_prompt": ["6", 3], "candidates": 0}, (1300, 400), (400, 180)),
        "8": Node("PreviewAny", {"source": ["6", 4]}, (1300, 630), (400, 210)),
    },
    "weighted_words": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 180), (330, 330)),
        "2": _checkpoint((20, 20)),
        "3": Node(
            "HardPromptsWeightWords",
            {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "image": ["1", 0],
             "text": "flat drawing of a violet fox", "max_steps": 24, "seed": 0, "width": 512, "height": 512,
             "target_text": "", "template": "{}", "lowest": 0.5, "highest": 1.5, "num_noises": 32, "batch_size": 8},
            (390, 20), (360, 560),
        ),
        "4": Node("HardPromptsShow", {"hard_prompt": ["3", 3], "candidates": 0}, (790, 20), (420, 150)),
        "5": Node("CLIPTextEncode", {"clip": ["2", 1], "text": ["3", 0]}, (790, 320), (270, 90)),
        "6": Node("CLIPTextEncode", {"clip": ["2", 1], "text": ""}, (790, 470), (270, 100)),
        "7": Node("EmptyLatentImage", {"width": 512, "height": 512, "batch_size": 1}, (790, 640), (270, 110)),
        "8": Node(
            "KSampler",
            {"model": ["2", 0], "positive": ["5", 0], "negative": ["6", 0], "latent_image": ["7", 0], "seed": 0,
             "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
            (1100, 320), (280, 290),
        ),
        "9": Node("VAEDecode", {"samples": ["8", 0], "vae": ["2", 2]}, (1420, 320), (270, 50)),
        "10": Node("SaveImage", {"images": ["9", 0], "filename_prefix": "hardprompts"}, (1420, 440), (270, 290)),
        "11": Node("PreviewAny", {"source": ["3", 4]}, (1240, 20), (450, 160)),
    },
    "image_to_prompt_diffusion": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 420), (330, 330)),
        "2": _checkpoint((20, 20)),
        "3": Node(
            "LoraLoader",
            {"model": ["2", 0], "clip": ["2", 1], "lora_name": "my_lora.safetensors", "strength_model": 1.0,
             "strength_clip": 1.0}, (20, 210), (330, 130),
        ),
        "4": _search(
            "HardPromptsImageToPromptDiffusion",
            {"model": ["3", 0], "clip": ["3", 1], "vae": ["2", 2], "image": ["1", 0], "mode": "one prompt per image",
             "method": "ph2p", "width": 512, "height": 512, "num_noises": 16, "noises_per_step": 4, "batch_size": 8},
            (390, 20), (360, 560), max_steps=100, restarts=4,
        ),
        "5": Node("HardPromptsShow", {"hard_prompt": ["4", 3], "candidates": 2}, (790, 20), (420, 270)),
        "6": Node("CLIPTextEncode", {"clip": ["3", 1], "text": ["4", 0]}, (790, 420), (270, 90)),
        "7": Node("CLIPTextEncode", {"clip": ["3", 1], "text": ""}, (790, 570), (270, 100)),
        "8": Node("EmptyLatentImage", {"width": 512, "height": 512, "batch_size": 1}, (790, 740), (270, 110)),
        "9": Node(
            "KSampler",
            {"model": ["3", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["8", 0], "seed": 0,
             "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
            (1100, 420), (280, 290),
        ),
        "10": Node("VAEDecode", {"samples": ["9", 0], "vae": ["2", 2]}, (1420, 420), (270, 50)),
        "11": Node("SaveImage", {"images": ["10", 0], "filename_prefix": "hardprompts"}, (1420, 540), (270, 290)),
    },
    "image_to_prompt_by_pictures": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 170), (330, 330)),
        "2": _checkpoint((20, 20)),
        "3": _model((20, 560)),
        "4": Node("KSamplerSelect", {"sampler_name": "euler"}, (20, 760), (330, 60)),
        "5": Node(
            "BasicScheduler", {"model": ["2", 0], "scheduler": "normal", "steps": 8, "denoise": 1.0}, (20, 880), (330, 110)
        ),
        "6": Node(
            "HardPromptsImageToPromptByPictures",
            {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "sampler": ["4", 0], "sigmas": ["5", 0],
             "prompt_model": ["3", 0], "image": ["1", 0], "pictures": 100, "cfg": 7.0, "width": 512, "height": 512,
             "seed": 0, "text": "", "negative": "", "template": "{}", "banned": "", "deadline": 0.0},
            (390, 20), (380, 620),
        ),
        "7": Node("HardPromptsShow", {"hard_prompt": ["6", 3], "candidates": 3}, (810, 20), (420, 300)),
        "8": Node("PreviewImage", {"images": ["6", 5]}, (1270, 20), (360, 380)),
        "9": Node("PreviewAny", {"source": ["6", 4]}, (810, 380), (420, 300)),
    },
    "embedding_to_prompt": {
        "1": _checkpoint((20, 20)),
        "2": Node(
            "HardPromptsInspectEmbedding", {"embedding": "my_style.safetensors", "clip": ["1", 1]}, (20, 200), (400, 320)
        ),
        "3": _search(
            "HardPromptsEmbeddingToPrompt", {"embedding": "my_style.safetensors", "clip": ["1", 1]}, (460, 20),
            (340, 380), num_tokens=8, max_steps=100, restarts=8, template="a photo of {}",
        ),
        "4": Node("HardPromptsShow", {"hard_prompt": ["3", 3], "candidates": 3}, (840, 20), (420, 300)),
        "5": Node("PreviewAny", {"source": ["3", 5]}, (840, 360), (420, 260)),
    },
    "shorten_join_score": {
        "1": Node("LoadImage", {"image": "example.png"}, (20, 270), (300, 330)),
        "2": _model((20, 20)),
        "3": _search(
            "HardPromptsDistill",
            {"prompt_model": ["2", 0], "text": "a large drawing of a fox in a flat style, a fox on a violet background, "
             "a picture of one fox, violet everywhere"}, (360, 20), (360, 570),
        ),
        "4": _search(
            "HardPromptsImageToPrompt", {**_INVERT, "image": ["1", 0]}, (360, 650), (360, 530), num_tokens=3
        ),
        "5": Node(
            "HardPromptsCombine",
            {"first": ["3", 3], "second": ["4", 3], "prompt_model": ["2", 0], "separator": ", ", "image": ["1", 0]},
            (760, 20), (300, 150),
        ),
        "6": Node("HardPromptsShow", {"hard_prompt": ["5", 3], "candidates": 3}, (1100, 20), (420, 220)),
        "7": Node(
            "HardPromptsScore", {"prompt_model": ["2", 0], "text": ["5", 1], "image": ["1", 0]}, (760, 220), (300, 100)
        ),
        "8": Node("PreviewAny", {"source": ["7", 0]}, (1100, 290), (300, 120)),
        "9": Node("PreviewAny", {"source": ["3", 5]}, (1100, 460), (420, 260)),
    },
}  # fmt: skip

#: The nodes of a graph that become one, its name, and where it stands.
SUBGRAPHS: dict[str, tuple[list[str], str, tuple[int, int]]] = {
    "image_to_prompt_subgraph": (["2", "3"], "Image to Prompt", (380, 20)),
}

BUILD = """async ([api, places, name, within]) => {
  await app.loadApiJson(api, name);
  for (const node of app.graph._nodes) {
    const [place, size] = places[node.id];
    node.pos = place; node.setSize(size);
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
  }
  const text = () => JSON.stringify(app.graph.serialize(), null, 1);
  if (!within) return [text(), null];
  const [ids, title, place] = within;
  const inner = app.graph._nodes.filter((node) => ids.includes(String(node.id)));
  const {subgraph, node} = app.graph.convertToSubgraph(new Set(inner));
  subgraph.name = node.title = title;
  node.pos = place; node.setSize([300, node.size[1]]);
  const whole = text();
  for (const other of [...app.graph._nodes]) if (other !== node) app.graph.remove(other);
  return [whole, text()];
}"""
OPEN = """async ([graph, standIns, name]) => {
  await app.loadGraphData(graph);
  for (const node of app.graph._nodes) {
    for (const widget of node.widgets ?? []) {
      const values = standIns[node.type] ?? {};
      if (widget.name in values) widget.value = values[widget.name];
    }
  }
  // Once more, as newer frontends mark the nodes whose files were missing when a workflow was opened.
  await app.loadGraphData(app.graph.serialize(), true, true, name);
}"""
FIT = """async () => {
  const boxes = app.graph._nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
  const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
  const right = Math.max(...boxes.map((b) => b[2])), bottom = Math.max(...boxes.map((b) => b[3]));
  // Beside the bars of the frontends, old and new.
  const width = window.innerWidth - 120, height = window.innerHeight - 150;
  const scale = Math.min(width / (right - left), height / (bottom - top), 1);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [90 / scale - left, 100 / scale - top];
  app.canvas.setDirty(true, true);
}"""


def prepare(base: Path) -> None:
    """The models, pictures and settings that the workflows need, in a new base folder."""
    comfyui = comfyui_path()
    assert comfyui is not None, "set COMFYUI_PATH"
    for name in ("input/captions", "input/training/animals", "input/training/machines", "custom_nodes", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(
        json.dumps(
            {
                "Comfy.TutorialCompleted": True,
                "Comfy.UseNewMenu": "Top",
                "Comfy.Graph.CanvasMenu": False,
                "Comfy.Workflow.WorkflowTabsPosition": "Sidebar",
                "Comfy.Graph.CanvasInfo": False,
                "Comfy.Minimap.Visible": False,
            }
        )
    )
    for source, target in (
        ("fox-purple-flat", "example"),
        ("owl-brown-night", "owl"),
        ("rocket-gray-pixel_art", "rocket"),
    ):
        shutil.copy(EXAMPLES / f"{source}.png", base / "input" / f"{target}.png")
        shutil.copy(EXAMPLES / f"{source}.png", base / "input" / "captions" / f"{target}.png")
        kind = "machines" if target == "rocket" else "animals"
        shutil.copy(EXAMPLES / f"{source}.png", base / "input" / "training" / kind / f"{target}.png")
    if not (base / "custom_nodes" / "hardprompts").exists():
        (base / "custom_nodes" / "hardprompts").symlink_to(ROOT, target_is_directory=True)
    if not (base / "models" / "checkpoints" / "tiny.safetensors").is_file():
        script = Path(__file__).with_name("make_checkpoint.py")
        subprocess.run([comfyui_python(), str(script), str(comfyui), str(base / "models")], check=True)


@contextmanager
def browser(server: Server) -> Iterator[Any]:
    """A page with ComfyUI's frontend, ready; texts of its console that begin with an error are in `page.errors`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        page = chromium.new_page(viewport={"width": 1500, "height": 860})
        page.set_default_timeout(180_000)
        page.goto(server.url)
        page.wait_for_function("() => window.app?.graph && window.app?.extensionManager")
        page.wait_for_timeout(2000)
        try:
            yield page
        finally:
            chromium.close()


def run_workflow(server: Server, page: Any, name: str, shot_while_running: Path | None = None) -> dict[str, Any]:
    """Opens an example workflow, runs it, and returns its entry in ComfyUI's history."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate(OPEN, [graph, STAND_INS | OF_WORKFLOWS.get(name, {}), name])
    page.wait_for_timeout(500)
    page.evaluate(FIT)
    before = set(server.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")
    end = time.monotonic() + RUN_SECONDS
    while not (new := set(server.get("/history")) - before):
        if shot_while_running is not None and page.evaluate(
            "() => !!document.querySelector('.p-progressbar, .comfyui-progress')"
        ):
            page.screenshot(path=shot_while_running)
            shot_while_running = None
        if time.monotonic() > end:
            raise TimeoutError(f"{name} did not end; a dialog in the browser, or see {server.log}")
        page.wait_for_timeout(200)
    page.wait_for_timeout(1500)  # pictures make their nodes grow
    page.evaluate(FIT)
    page.wait_for_timeout(500)
    found: dict[str, Any] = server.get("/history")[new.pop()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--rebuild", action="store_true")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--no-pictures", action="store_true", help="with --rebuild: the workflows alone")
    arguments = parser.parse_args()
    names = arguments.names or list(GRAPHS)
    PICTURES.mkdir(parents=True, exist_ok=True)
    WORKFLOWS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = arguments.base or Path(folder)
        prepare(base)
        with running(base) as server, browser(server) as page:
            if arguments.rebuild:
                for name in names:
                    api = {key: {"class_type": n.kind, "inputs": n.inputs} for key, n in GRAPHS[name].items()}
                    places = {key: [n.place, n.size] for key, n in GRAPHS[name].items()}
                    text, node = page.evaluate(BUILD, [api, places, name, SUBGRAPHS.get(name)])
                    (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
                    if node is not None:
                        BLUEPRINTS.mkdir(exist_ok=True)
                        (BLUEPRINTS / f"{SUBGRAPHS[name][1]}.json").write_text(node + "\n", encoding="utf-8")
            for name in [] if arguments.no_pictures else names:
                entry = run_workflow(server, page, name)
                page.wait_for_timeout(6000)  # until the message that the job is done has gone
                page.screenshot(path=PICTURES / f"{name}.png")
                _thumbnail(PICTURES / f"{name}.png", WORKFLOWS / f"{name}.jpg")
                print(name, entry["status"]["status_str"])  # noqa: T201


def _thumbnail(picture: Path, target: Path) -> None:
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    image.thumbnail((640, 640))
    image.save(target, quality=85)


if __name__ == "__main__":
    main()
