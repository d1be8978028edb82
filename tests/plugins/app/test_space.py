"""What is uploaded as a Space."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hardprompts_app.server import Place
from hardprompts_app.work import Models

SPACE = Path(__file__).resolve().parents[3] / "plugins" / "hardprompts_app" / "space"


def test_its_card_names_the_files_that_are_there() -> None:
    head = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    fields = dict(re.findall(r"^(\w+): (.*)$", head, re.MULTILINE))
    assert fields["sdk"] == "gradio" and (SPACE / fields["app_file"]).is_file()
    assert len(fields["short_description"]) <= 60, "the Hub's limit"
    assert "app" in (SPACE / "requirements.txt").read_text(encoding="utf-8")


def test_a_page_for_others_has_no_folder_and_no_models_of_their_choice() -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from hardprompts_app.page import build

    def tabs(models: Models) -> list[str]:
        return [block.label for block in build(models).blocks.values() if type(block).__name__ == "Tab"]

    assert tabs(Models("emoji")) == ["Image", "Embedding", "Shorten", "Folder"]
    assert tabs(Models("emoji", private=False)) == ["Image", "Embedding", "Shorten"]
    for place in (Place("0.0.0.0"), Place(share=True)):
        assert not place.is_private


@pytest.mark.slow
def test_it_runs_as_it_is() -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    sys.path.insert(0, str(Path(__file__).parent))
    from page_server import free_port

    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "SPACE_ID": "a/b"}
    process = subprocess.Popen([sys.executable, str(SPACE / "app.py")], env=environment, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
                    assert b"hardprompts" in answer.read()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        pytest.fail("it did not start")
    finally:
        process.send_signal(2)
        process.wait(30)
