"""What the site has beside the pages in this folder: the commands' help, all messages, and files of the repository.

mkdocs calls the functions `on_...`; see mkdocs.yml.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("sdk/hardprompts", "plugins")

#: Files of the repository that pages link to, as pages.
MIRRORED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "plugins/hardprompts_photo/README.md": "photo_card.md",
    "plugins/hardprompts_photo/LICENSES.md": "photo_licenses.md",
    "plugins/hardprompts_emoji/LICENSES.md": "emoji_licenses.md",
    "plugins/hardprompts_emoji/models/emoji-lm/README.md": "emoji_lm_card.md",
}

#: What the SDK's modules with public names are about, in the order of the API page.
PACKAGES = {
    "hardprompts": "The front doors, values and errors.",
    "hardprompts.inversion": "Images become prompts.",
    "hardprompts.distillation": "Long and soft prompts become short ones.",
    "hardprompts.classification": "Labeled texts become prompts.",
    "hardprompts.diffusion": "What a denoiser itself says of a prompt.",
    "hardprompts.softprompts": "Embedding files: read, written, looked into.",
    "hardprompts.applications": "Prompts joined, bred, weighted, and found or ranked by their pictures.",
    "hardprompts.batch": "Many images.",
    "hardprompts.search": "The only loop, and what a method is.",
    "hardprompts.images": "Images of any kind, as models take them.",
    "hardprompts.towers": "Text towers that are driven from embeddings.",
    "hardprompts.hub": "Prompts on the Hugging Face Hub.",
    "hardprompts.methods": "One published method, one file.",
    "hardprompts.evaluation": "Figures with intervals.",
    "hardprompts.testing": "Checks for plugins.",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages and the mirrored files."""
    from mkdocs.structure.files import File

    pages = {"commands.md": commands_page(), "messages.md": messages_page(), "api.md": api_page()}
    pages |= {name: mirrored(path) for path, name in MIRRORED.items()}
    for name, text in pages.items():
        if found := files.get_file_from_path(name):
            files.remove(found)
        page = File.generated(config, name, content=text)
        if name not in ("commands.md", "messages.md", "api.md", "changelog.md"):
            page.inclusion = type(page.inclusion).NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links to files of the repository at their pages."""
    return re.sub(r"\]\(\.\./([^)#]+)(#[^)]*)?\)", _link, markdown)


def _link(found: re.Match[str]) -> str:
    target = MIRRORED.get(found[1])
    return f"]({target}{found[2] or ''})" if target else found[0]


def mirrored(path: str) -> str:
    """A file of the repository as a page: its links lead to pages, or to nowhere."""
    text = (ROOT / path).read_text(encoding="utf-8")
    folder = (ROOT / path).parent
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # the Hub's metadata of a card

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2].partition("#")[0]
        if re.match(r"[a-z]+:", target) or not target:
            return found[0]
        aimed = (folder / target).resolve()
        inside = aimed.relative_to(ROOT).as_posix() if aimed.is_relative_to(ROOT) else ""
        if inside in MIRRORED:
            return f"[{label}]({MIRRORED[inside]})"
        return f"[{label}]({inside.removeprefix('docs/')})" if inside.startswith("docs/") else label

    return re.sub(r"!?\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def commands_page() -> str:
    """The help of every command."""
    import typer
    from typer import cli

    from hardprompts.cli import app

    command = typer.main.get_command(app)
    context = command.make_context("hardprompts", [], resilient_parsing=True)
    text = cli.get_docs_for_click(obj=command, ctx=context, name="hardprompts", title="The commands")
    return f"{text}\n"


# --- messages -----------------------------------------------------------------------------

#: Functions of ours that make an error of their argument.
RAISING = {"fail": "in the commands"}


def messages_page() -> str:
    """All messages of errors, by what they are raised as, under the page that explains them."""
    text = (Path(__file__).parent / "troubleshooting.md.in").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for path in sources():
        for kind, message in messages_of(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(kind, {}).setdefault(message, path.relative_to(ROOT).as_posix())
    parts = []
    for kind in sorted(found):
        rows = "\n".join(f"- {_shown(message)}" for message in sorted(found[kind], key=str.casefold))
        parts.append(f"### {kind}\n\n{rows}")
    return text.replace("<!-- messages -->", "\n\n".join(parts))


def sources() -> Iterator[Path]:
    """The modules whose errors users meet."""
    for base in SOURCES:
        for path in sorted((ROOT / base).rglob("*.py")):
            if "recipe" not in path.parts:
                yield path


def messages_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(class, message) of every error that is raised with a text; values are written as "..."."""
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = ast.unparse(call.func).rpartition(".")[2]
        if isinstance(node, ast.Expr) and name not in RAISING:
            continue
        message = text_of(call.args[0])
        if len(message.replace("...", "").split()) > 2:
            yield RAISING.get(name, name), " ".join(message.split())


def text_of(node: ast.expr) -> str:
    """A text that is written out in code, with "..." for each value in it; "" if it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "..."
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + (text_of(node.right) or "...")
    if isinstance(node, ast.IfExp):
        return text_of(node.body) or text_of(node.orelse)
    return ""


def _shown(message: str) -> str:
    longest = max(map(len, re.findall("`+", message)), default=0)
    ticks = "`" * (longest + 1)
    return f"{ticks} {message} {ticks}" if longest else f"`{message}`"


# --- API ----------------------------------------------------------------------------------


def api_page() -> str:
    """Every public name, with its docstring."""
    parts = [
        "# API\n\nThe public names, by the package that they are imported from. Shapes are in the annotations: "
        '`Float[Tensor, "batch features"]` is a tensor of floats of two dimensions.\n'
    ]
    shown: set[str] = set()
    for package, about in PACKAGES.items():
        parts.append(f"## {package}\n\n{about}\n")
        for name, home in public_names(package):
            if home in shown:
                parts.append(f"`{name}` is described above.\n")
                continue
            shown.add(home)
            parts.append(f"::: {home}\n")
    return "\n".join(parts)


def public_names(package: str) -> list[tuple[str, str]]:
    """(name, where it is defined) of what a package passes on, or a module defines."""
    module = importlib.import_module(package)
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    homes = {}
    if stub.exists():
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                homes |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and value.__module__.startswith(package)
    ]
    return [(name, _home(homes.get(name, f"{package}.{name}"))) for name in names]


def _home(name: str) -> str:
    """Where a name is defined, through packages that only pass it on."""
    package, _, last = name.rpartition(".")
    module = importlib.import_module(package)
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    if stub.exists():
        return dict(public_names(package)).get(last, name)
    origin = getattr(getattr(module, last), "__module__", "")
    return f"{origin}.{last}" if origin.startswith("hardprompts") else name
