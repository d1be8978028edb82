"""Every option that the front doors share is declared once: in `SearchOptions`, and in its TypedDict."""

import ast
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardprompts.search import SearchArguments, SearchOptions

ROOT = Path(__file__).parent.parent
SHARED = {field.name for field in dataclasses.fields(SearchOptions)}

#: A function or a class with so many of the shared names declares options of a search.
MANY = 3

#: What has so many for another reason.
OTHERS = {
    ("search/options.py", "SearchOptions"): "the declaration",
    ("search/options.py", "SearchArguments"): "the same, for type checkers",
    ("search/loop.py", "run_search"): "the loop, which SearchOptions.run calls",
    ("search/loop.py", "Limits"): "what ends the loop",
    ("distillation/learning.py", "LearningOptions"): "gradient descent on a soft prompt; it is not a search",
    ("distillation/learning.py", "LearningArguments"): "likewise",
    ("distillation/classifiers.py", "tune_soft_prompt"): "likewise",
    ("applications/weights.py", "WeightOptions"): "a fit of weights; it is not a search",
    ("applications/weights.py", "WeightArguments"): "likewise",
    ("batch/run.py", "invert_many"): "of the batch: its progress, and the seed that each image's is drawn from",
    ("classification/transfer.py", "evaluate_transfer"): "a report on several models; nothing is searched",
    ("applications/black_box/options.py", "PictureOptions"): "a search by a budget of pictures: no tokens, no passes",
    ("applications/black_box/options.py", "PictureArguments"): "likewise",
    ("applications/breeding.py", "evolve"): "generations of pictures, each with a person's choice",
}


def files() -> Iterator[tuple[str, ast.Module]]:
    for base in ("sdk/hardprompts", "plugins", "comfyui_nodes"):
        for path in sorted((ROOT / base).rglob("*.py")):
            if "recipe" not in path.parts:
                yield path.relative_to(ROOT / base).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def declarations() -> Iterator[tuple[str, str, set[str]]]:
    """The functions and classes with shared names among their parameters with a default, or among their fields."""
    for file, tree in files():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
                yield file, node.name, {each.id for each in fields if isinstance(each, ast.Name)} & SHARED
            elif isinstance(node, ast.FunctionDef):
                own = node.args
                names = [each.arg for each in own.args[len(own.args) - len(own.defaults) :]]
                names += [each.arg for each, default in zip(own.kwonlyargs, own.kw_defaults, strict=True) if default]
                yield file, node.name, set(names) & SHARED


def test_shared_options_are_declared_in_one_dataclass_and_one_typed_dict() -> None:
    found = {(file, name) for file, name, names in declarations() if len(names) >= MANY and not file.startswith("cli/")}
    assert found == set(OTHERS)
    assert set(SearchArguments.__annotations__) == SHARED


def test_commands_name_shared_options_and_leave_their_defaults_to_the_sdk() -> None:
    """A parameter of a command is of a type from cli/options.py, and None: what is not given is not passed on."""
    seen = 0
    for file, tree in files():
        if not file.startswith("cli/"):
            continue
        declared = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "hardprompts.cli.options"
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                defaults = dict(
                    zip([each.arg for each in node.args.args][::-1], node.args.defaults[::-1], strict=False)
                )
                for each in node.args.args:
                    if each.arg in SHARED and isinstance(each.annotation, ast.Name) and each.annotation.id in declared:
                        seen += 1
                        default = defaults[each.arg]
                        assert isinstance(default, ast.Constant) and default.value in (None, False), (file, node.name)
                    elif each.arg in SHARED and each.arg in defaults and each.arg != "seed":
                        raise AssertionError(f"{file}: {node.name} declares {each.arg} by itself")
    assert seen > 15


@pytest.mark.parametrize(
    "options, arguments",
    [
        ("hardprompts.inversion.options.InversionOptions", "InversionArguments"),
        ("hardprompts.distillation.options.DistillationOptions", "DistillationArguments"),
        ("hardprompts.diffusion.options.DenoisingOptions", "DenoisingArguments"),
    ],
)
def test_the_arguments_of_a_front_door_are_the_fields_of_its_options(options: str, arguments: str) -> None:
    module, _, name = options.rpartition(".")
    there = importlib.import_module(module)
    declared, fields = getattr(there, arguments), {field.name for field in dataclasses.fields(getattr(there, name))}
    positional = {"num_tokens", "template", "ratio", "templates", "match"}  # which the doors name themselves
    assert issubclass(getattr(there, name), SearchOptions)
    assert set(declared.__annotations__) | SHARED | positional >= fields
    assert set(declared.__annotations__) <= fields
