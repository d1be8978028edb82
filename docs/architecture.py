"""Draws docs/architecture.png from the imports that the SDK really has: `python docs/architecture.py`.

`FLOORS` is the rule that `tests/test_imports.py` checks: a room imports rooms on floors below it in the picture, and
others on its own floor, and no two files reach each other.
"""

import ast
import textwrap
from pathlib import Path

SDK = Path(__file__).parent.parent / "sdk" / "hardprompts"

#: The rooms of the SDK, from the ground up: what the floor is for, and who lives there.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the ground", ("errors", "allowance", "causes", "atomic", "devices", "noise", "hookspecs", "wording")),
    ("what plugins bring", ("plugins", "towers", "images")),
    ("files on the Hub", ("hub",)),
    ("values", ("prompts",)),
    ("tokens", ("vocabulary",)),
    ("models, soft prompts", ("encoders", "softprompts")),
    ("what is measured", ("objectives", "evaluation")),
    ("the only loop", ("search",)),
    ("one paper, one file", ("methods",)),
    ("front doors", ("inversion", "classification")),
    ("through denoisers; sharing", ("diffusion", "sharing")),
    ("front doors on these", ("distillation", "applications", "batch")),
    ("checks for plugins", ("testing",)),
    ("the command line", ("cli", "__main__")),
)

#: The floor below which a plugin author reads.
SMALL_SDK = 8


def module_graph() -> dict[str, set[str]]:
    """The modules of the SDK by name, and which others each imports: in functions and for type checkers too.

    A name that a package passes on counts as an import of the module that has it.
    """
    paths = {".".join(("hardprompts", *p.relative_to(SDK).with_suffix("").parts)): p for p in SDK.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    owners: dict[str, str] = {}
    for stub in SDK.rglob("*.pyi"):
        package = ".".join(("hardprompts", *stub.parent.relative_to(SDK).parts))
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                owners |= {f"{package}.{alias.name}": f"{package}.{node.module}" for alias in node.names}

    def owner(module: str, name: str) -> str:
        whole = f"{module}.{name}"
        if whole in modules:
            return whole
        return owner(owners[whole], name) if owners.get(whole, module) != module else module

    graph: dict[str, set[str]] = {}
    for importer, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {owner(node.module or "", alias.name) for alias in node.names}
        graph[importer] = (found & set(modules)) - {importer}
    return graph


def room(module: str) -> str:
    """The room that a module is in: the file or the package at the top of the SDK."""
    return [*module.split("."), ""][1]


def room_graph() -> dict[str, set[str]]:
    """The rooms, and which others each imports."""
    rooms: dict[str, set[str]] = {}
    for module, found in module_graph().items():
        rooms.setdefault(room(module), set()).update(map(room, found))
    return {name: found - {name, ""} for name, found in rooms.items() if name}


def needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no chain of other arrows stands for."""

    def behind(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += graph[name]
        return seen

    reach = {name: behind(name) for name in graph}
    return [(a, b) for a in graph for b in graph[a] if not any(b in reach[c] for c in graph[a] - {b})]


def lines_of(name: str) -> int:
    """The lines of a room."""
    paths = [SDK / f"{name}.py"] if (SDK / f"{name}.py").exists() else list((SDK / name).rglob("*.py"))
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def draw(path: Path) -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 11))
    places: dict[str, tuple[float, float]] = {}
    for level, (label, names) in enumerate(FLOORS):
        axes.text(-0.05, level, "\n".join(textwrap.wrap(label, 18)), ha="right", va="center", fontsize=10, color="#555")
        step = 9.0 / len(names)
        for index, name in enumerate(names):
            places[name] = (step * (index + 0.5), level)
    for start, end in needed(room_graph()):
        (x0, y0), (x1, y1) = places[start], places[end]
        bend = 0.12 if x0 <= x1 else -0.12
        axes.annotate(
            "", (x1, y1 + 0.24), (x0, y0 - 0.24 if y0 != y1 else y0),
            arrowprops={
                "arrowstyle": "-|>", "color": "#9aa7b4", "lw": 0.9, "connectionstyle": f"arc3,rad={bend}",
                "shrinkA": 0, "shrinkB": 0,
            },
        )  # fmt: skip
    for name, (x, y) in places.items():
        color = "#dbeafe" if y < SMALL_SDK + 1 else "#fde9c8"
        box = {"boxstyle": "round,pad=0.35", "facecolor": color, "edgecolor": "#40566e", "lw": 0.8}
        axes.text(x, y, f"{name}\n{lines_of(name)} lines", ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    axes.axhline(SMALL_SDK + 0.5, color="#b45309", lw=1, ls="--", zorder=0)
    note = "a plugin author reads nothing above this line"
    axes.text(9.2, SMALL_SDK + 0.45, note, ha="right", va="top", fontsize=9, color="#b45309")
    axes.set(xlim=(-1.6, 9.3), ylim=(-0.6, len(FLOORS) - 0.4))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
