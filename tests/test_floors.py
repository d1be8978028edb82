"""The oldest releases that are promised are those that `make test-oldest` installs."""

import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Tools that look at the code, build the site, run notebooks or drive a browser; and Ray, whose tests are skipped
#: without it.
NOT_TESTED = {
    "ruff", "mypy", "codespell", "mkdocs-material", "mkdocstrings-python", "pymdown-extensions", "nbclient", "ipykernel",
    "playwright", "ray",
}  # fmt: skip
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("all", "release")}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines if line and line[0] != "#"]
    return {canonicalize_name(one.name): one for one in found if not one.name.startswith("hardprompts")}


def lines_of(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def bounds(one: Requirement, *operators: str) -> list[Version]:
    return [Version(part.version) for part in one.specifier if part.operator in operators]


PROMISED = requirements([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
PINNED = requirements(lines_of("tests/constraints-oldest.txt"))


def test_every_floor_is_what_is_tested() -> None:
    floors = {name: bounds(one, ">=") for name, one in PROMISED.items() if name not in NOT_TESTED}
    assert floors == {name: bounds(PINNED[name], "==") for name in floors if name in PINNED}
    assert all(len(floor) == 1 for floor in floors.values())


def test_no_dependency_has_a_ceiling_that_others_would_have_to_obey() -> None:
    ceilings = {name for name, one in PROMISED.items() if bounds(one, "<", "<=", "==", "~=")}
    assert ceilings - requirements(EXTRAS["docs"]).keys() == {"timm"}


def test_what_comfyui_installs_has_the_same_floors() -> None:
    listed = requirements(lines_of("requirements.txt"))
    assert {name: str(one.specifier) for name, one in listed.items()} == {
        name: str(PROMISED[name].specifier) for name in listed
    }
