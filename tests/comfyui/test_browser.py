"""Every example workflow in a real browser: opened, run, and its prompt on the screen."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from server import Server, comfyui_path, running

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
if comfyui_path() is None:
    pytest.skip("COMFYUI_PATH does not name a ComfyUI checkout", allow_module_level=True)
pytest.importorskip("playwright", reason="drives the browser")

from screenshots import GRAPHS, WORKFLOWS, browser, prepare, run_workflow  # noqa: E402 - it needs playwright


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Any]]:
    base = tmp_path_factory.mktemp("browser")
    prepare(base)
    with running(base) as server, browser(server) as page:
        yield server, page


def test_every_example_workflow_is_run_here() -> None:
    assert {file.stem for file in WORKFLOWS.glob("*.json")} == set(GRAPHS)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_a_workflow_runs_and_shows_what_it_found(opened: tuple[Server, Any], name: str) -> None:
    server, page = opened
    entry = run_workflow(server, page, name)
    assert entry["status"]["status_str"] == "success"
    shown = page.evaluate(
        "() => [...document.querySelectorAll('.dom-widget, .graph-canvas-container')].map((one) => one.innerText).join('\\n')"
    )
    for output in entry["outputs"].values():
        for prompt in output.get("hardprompts", []):
            assert all(token in shown for token in prompt["tokens"]), (prompt["tokens"], shown)


def test_nodes_2_show_a_prompt_and_fold_rare_inputs_away(opened: tuple[Server, Any]) -> None:
    server, page = opened
    restarts = server.get("/object_info/HardPromptsImageToPrompt")["HardPromptsImageToPrompt"]["input"]["required"]
    if not restarts["restarts"][1].get("advanced"):
        pytest.skip("this ComfyUI folds nothing away")
    switch = "(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    page.evaluate(switch, True)
    try:
        entry = run_workflow(server, page, "image_to_prompt")
        shown = page.evaluate(
            "() => [...document.querySelectorAll('[data-node-id]')].map((one) => one.innerText).join('\\n')"
        )
    finally:
        page.evaluate(switch, False)
    assert entry["status"]["status_str"] == "success"
    assert "max_steps" in shown and "restarts" not in shown
    (prompt,) = (one for output in entry["outputs"].values() for one in output.get("hardprompts", []))
    assert all(token in shown for token in prompt["tokens"]), shown
