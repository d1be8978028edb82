"""Exchanges in scenes: what a caption of the edited scene says, and what the reader reads of it."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from hardprompts import load_backend
from hardprompts.evaluation import edit_figures, edit_outcomes
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import Scene, SceneObject

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def editing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module; by its path, since a checkout may be called as it is."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("editing_benchmark", BENCHMARKS / "editing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def edited(scene: Scene, kind: str, old: str, new: str) -> Scene:
    if kind != "object":
        return dataclasses.replace(scene, **{kind: new})
    objects = tuple(SceneObject(new, o.size, o.position) if o.name == old else o for o in scene.objects)
    return dataclasses.replace(scene, objects=objects)


def test_an_exchange_makes_the_caption_that_of_the_edited_scene(editing) -> None:
    found = editing.editable_scenes(20, editing.CHOOSING)
    assert len(found) == 20 and {len(scene.objects) for scene in found} == {1, 2}
    for scene in found:
        made = editing.exchanges(scene)
        assert len(made) == len(scene.objects) + 2
        for one in made:
            after = edited(scene, one.old[0], one.old[1], one.new[1])
            assert scenes.caption(after).split()[3:] != scenes.caption(scene).split()[3:] or one.old[0] == "style"
            written = one.written(scenes.caption(scene))
            assert written is not None and scenes.names(written, after).everything
            named = scenes.names(written, scene)
            assert [*named.objects, named.background, named.style].count(False) == 1
            assert one.others == editing.statements(scene) - {one.old}


def test_choosing_and_reporting_share_no_scene(editing) -> None:
    one, other = (set(editing.editable_scenes(60, seed)) for seed in (editing.CHOOSING, editing.REPORTING))
    assert not one & other


def test_the_reader_reads_what_scenes_show_and_finds_every_edit_of_a_perfect_painter(editing) -> None:
    """Captions drawn by the world itself: each exchange is a success, and changes nothing else."""
    of = editing.editable_scenes(4, editing.CHOOSING)
    captions = {}
    for scene in of:
        captions[scenes.caption(scene)] = scene
        for one in editing.exchanges(scene):
            captions[one.written(scenes.caption(scene))] = edited(scene, one.old[0], one.old[1], one.new[1])
    judge = load_backend(editing.JUDGE)
    found = edit_outcomes(
        [scenes.caption(scene) for scene in of],
        [editing.exchanges(scene) for scene in of],
        lambda texts, targets: [scenes.render(captions[text]) for text in texts],
        lambda pictures, targets: editing.read(pictures, targets, of, judge),
    )
    figures = edit_figures(found)
    assert figures.named.mean == 1.0 and figures.success.mean > 0.85 and figures.locality.mean > 0.85
