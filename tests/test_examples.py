"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import program

ROOT = Path(__file__).parent.parent


def test_three_lines_with_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "diffusers_three_lines.py", "--output", tmp_path / "drawn.png"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "fox" in run.stdout
    assert (tmp_path / "drawn.png").exists()


NOTEBOOKS = program(ROOT / "examples" / "notebooks.py")


@pytest.mark.parametrize("page", NOTEBOOKS.PAGES)
def test_the_notebooks_are_those_of_the_pages(page: str) -> None:
    # What the pages show is compared with what happens in tests/test_pages.py.
    text = (ROOT / "examples" / "notebooks" / f"{page}.ipynb").read_text(encoding="utf-8")
    assert text == NOTEBOOKS.written(page), "run python examples/notebooks.py"


def executed(page: str, tmp_path: Path) -> dict[str, Any]:
    """The notebook after a run of all its cells."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.reads(NOTEBOOKS.written(page), as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return dict(notebook)


def printed(notebook: dict[str, Any]) -> str:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def test_a_notebook_runs(tmp_path: Path) -> None:
    assert "amber fox simple violet" in printed(executed("long_prompt", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("page", NOTEBOOKS.PAGES)
def test_all_notebooks_run(page: str, tmp_path: Path) -> None:
    assert printed(executed(page, tmp_path))
