"""Make the notebooks from the pages of the documentation: `python examples/notebooks.py`.

What a page explains becomes text, its Python and its commands become cells, and what it shows their output.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "notebooks"
PAGES = ("image", "embedding", "long_prompt", "labeled_texts", "folder", "diffusers")

#: The first cell of each.
SETUP = """# A new folder to work in, with the pictures of the examples. Everything runs offline.
import os, shutil, tempfile
from pathlib import Path
import hardprompts_emoji

os.environ["HF_HUB_OFFLINE"] = "1"
os.chdir(tempfile.mkdtemp())
pictures = Path(hardprompts_emoji.__file__).parent / "examples"
shutil.copytree(pictures, "plugins/hardprompts_emoji/examples");"""


def notebook(page: str) -> dict[str, Any]:
    """The notebook of a page, in the format of Jupyter."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    parts = re.split(r"^```(\w+)\n(.*?)^```$\n?", text, flags=re.DOTALL | re.MULTILINE)
    cells = [code(SETUP)]
    for index in range(0, len(parts), 3):
        if prose := parts[index].strip():
            cells.append({"cell_type": "markdown", "metadata": {}, "source": lines(plain(prose))})
        if index + 1 >= len(parts):
            break
        language, block = parts[index + 1], parts[index + 2].rstrip("\n")
        if language == "text":
            cells[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines(block + "\n")}]
        elif language == "console":
            cells.append(code("\n".join(f"!{line}" for line in block.splitlines())))
        elif language == "python":
            cells.append(code(block))
        else:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": lines(f"```{language}\n{block}\n```")})
    for number, cell in enumerate(cells):
        cell["id"] = f"{page}-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def code(source: str) -> dict[str, Any]:
    """A cell that runs."""
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": lines(source)}


def lines(text: str) -> list[str]:
    """A text as Jupyter stores it."""
    return text.splitlines(keepends=True)


def plain(prose: str) -> str:
    """Text whose links to other pages are their words alone: a notebook goes around without them."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", prose)


def written(page: str) -> str:
    """The notebook as the text of its file."""
    return json.dumps(notebook(page), ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Write all notebooks."""
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        (FOLDER / f"{page}.ipynb").write_text(written(page), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
