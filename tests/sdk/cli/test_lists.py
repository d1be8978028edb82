"""What the `hardprompts` command has: models, methods, plugins, its version and a score."""

import re
from pathlib import Path

import pytest
from commands import Run

pytestmark = pytest.mark.usefixtures("toy_plugin")


def test_score_prints_a_number(pictures: Path) -> None:
    right, wrong = (
        Run("score", text, pictures / "a.png", "--model", "toy") for text in ("red house river", "slow dog")
    )
    assert re.fullmatch(r"1\.0000\n", right.out) and right.code == 0
    assert float(wrong.out) < 0.9
    Run("score", "red", pictures / "broken.jpg", "--model", "toy").fails("broken.jpg")


def test_models_methods_and_plugins_are_listed() -> None:
    models, methods, plugins = Run("models"), Run("methods"), Run("plugins")
    assert models.code == methods.code == plugins.code == 0
    assert "A model of a hundred words" in models.out
    assert re.search(r"^build\+refine .*\[default\]$", methods.out, re.MULTILINE)
    assert len(methods.out.splitlines()) >= 3
    assert re.search(r"^toy +toy$", plugins.out, re.MULTILINE)
    assert "pez, refine, build+refine, pez+refine" in plugins.out


def test_every_model_scheme_describes_itself_with_an_example() -> None:
    from hardprompts import backends
    from hardprompts.cli.lists import _examples, _first_line
    from hardprompts.inversion import captioners

    for scheme, opener in [*backends().items(), *captioners().items()]:
        if scheme != "toy":
            assert _first_line(opener).endswith("."), scheme
            assert _examples(scheme, opener), f"{scheme}: name an example in the docstring, in backticks or quotes"


def test_the_version_is_shown() -> None:
    import hardprompts

    assert Run("--version").out == f"{hardprompts.__version__}\n"
