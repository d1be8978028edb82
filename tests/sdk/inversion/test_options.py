"""Options that front doors share: declared once, refused where they do nothing."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hardprompts import ImageError, PromptInverter
from hardprompts.diffusion import DenoisingArguments, DenoisingOptions
from hardprompts.inversion import InversionArguments, InversionOptions
from hardprompts.search import SearchArguments, SearchOptions
from hardprompts.testing import toy_backend

NAMED = {"num_tokens", "template"}  # parameters of the front doors themselves


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (SearchOptions, SearchArguments),
        (InversionOptions, InversionArguments),
        (DenoisingOptions, DenoisingArguments),
    ],
)
def test_every_option_is_a_typed_argument_too(options: type[SearchOptions], arguments: Any) -> None:
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints, own = typing.get_type_hints(arguments), typing.get_type_hints(options)
    assert set(hints) == set(fields) - NAMED
    assert {name: hints[name] for name in hints} == {name: own[name] for name in hints}
    declared = {name for base in options.__mro__[:-1] for name in (base.__doc__ or "").split() if name.endswith(":")}
    assert {f"{name}:" for name in fields} <= declared, "an option without a description"


def test_a_misspelt_option_names_the_front_door_and_the_nearest() -> None:
    inverter = PromptInverter(toy_backend())
    for call in (inverter.invert, inverter.invert_each):
        with pytest.raises(TypeError, match=rf"PromptInverter.{call.__name__} has no option 'restart'; .*'restarts'"):
            call([Image.new("RGB", (8, 8))], restart=3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"text_weight": 0.3}, "text_weight = 0.3 is of no use without text"),
        ({"unlike_weight": 0.3}, "unlike_weight = 0.3 is of no use without unlike"),
        ({"prior_weight": 0.3}, "prior_weight = 0.3 is of no use without a prior"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PromptInverter(toy_backend()).invert(Image.new("RGB", (8, 8)), **options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that Pillow opens."""
    files: list[str] = []
    plain = Image.open

    def noted(path: Any, *args: Any, **options: Any) -> Any:
        files.append(Path(path).name)
        return plain(path, *args, **options)

    monkeypatch.setattr(Image, "open", noted)
    return files


def test_an_image_is_opened_once_and_each_view_encoded_once(
    opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "red.png", tmp_path / "blue.png"
    Image.new("RGB", (16, 16), "red").save(path)
    Image.new("RGB", (16, 16), "blue").save(other)
    encoded: list[tuple[str, int]] = []
    texts: list[str] = []
    models = [dataclasses.replace(toy_backend(), name=name) for name in ("searched", "judge")]
    kind = type(models[0])
    plain, plain_texts = kind.encode_images, kind.encode_texts

    def noted(self: Any, images: Any, *args: Any) -> Any:
        encoded.append((self.name, len(images)))
        return plain(self, images, *args)

    def read(self: Any, given: Any, *args: Any) -> Any:
        texts.extend(given)
        return plain_texts(self, given, *args)

    monkeypatch.setattr(kind, "encode_images", noted)
    monkeypatch.setattr(kind, "encode_texts", read)
    quick: dict[str, Any] = {"num_tokens": 2, "max_steps": 1, "restarts": 2, "views": 3, "progress": False, "seed": 0}
    PromptInverter(models[0]).invert(path, **quick)
    assert opened == ["red.png"] and encoded == [("searched", 3)] and "a" not in texts
    opened.clear()
    encoded.clear()
    inverter = PromptInverter(models[0], judge=models[1], captioner=lambda images: ["red house"] * len(images))
    inverter.invert(path, unlike=other, **quick)
    assert sorted(opened) == ["blue.png", "red.png"]
    assert sorted(encoded) == [("judge", 3), ("judge", 3), ("searched", 3), ("searched", 3)]
    opened.clear()
    inverter.invert_each([path, path], unlike=other, **quick)
    assert sorted(opened) == ["blue.png", "red.png", "red.png"]


def test_features_that_the_judge_cannot_have_made_are_refused() -> None:
    backend, judge = toy_backend(), toy_backend()
    judge.__dict__["feature_width"] = 7
    with pytest.raises(ImageError, match="48 numbers.* has 7; pass images"):
        PromptInverter(backend, judge=judge).invert(backend.encode_texts(["red house"]), 2, max_steps=1)
