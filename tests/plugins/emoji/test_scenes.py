"""The embedded world: scenes, their truth, and the models that know them."""

from __future__ import annotations

import random

import pytest
import torch

import hardprompts_emoji
from hardprompts_emoji import scenes
from hardprompts_emoji.scenes import (
    BACKGROUNDS,
    COMMON_OBJECTS,
    HELD_OUT_SEED,
    OBJECTS,
    POSITIONS,
    SIZES,
    STYLES,
    Scene,
    SceneObject,
    caption,
    names,
    render,
    render_batch,
    sample_drawable_scene,
    sample_scene,
)

transformers = pytest.importorskip("transformers")

from hardprompts_transformers.backend import _pooled as pooled  # noqa: E402
from hardprompts_transformers.releases import BY_PILLOW, DTYPE  # noqa: E402

MODELS = ("emoji-clip", "emoji-clip-reference")
DOG_AND_HAMMER = Scene(
    (SceneObject("dog", "small", "left"), SceneObject("hammer", "small", "right")), "blue", "pixel art"
)


def test_world_has_the_promised_size() -> None:
    assert 600 <= len(OBJECTS) <= 900
    assert len(BACKGROUNDS) == 12
    assert len(STYLES) == 12
    assert all(1 <= len(name.split()) <= 2 for name in OBJECTS)


def test_no_object_name_holds_a_color_or_style_word() -> None:
    taken = {word for group in (BACKGROUNDS, STYLES) for words in group.values() for word in words}
    assert not [name for name in OBJECTS if taken & set(name.split())]


def test_sample_scene_is_deterministic_and_varied() -> None:
    sampled = [sample_scene(HELD_OUT_SEED + i) for i in range(300)]
    assert sampled == [sample_scene(HELD_OUT_SEED + i) for i in range(300)]
    assert {len(scene.objects) for scene in sampled} == {1, 2, 3}
    assert {scene.style for scene in sampled} == set(STYLES)
    assert {scene.background for scene in sampled} == set(BACKGROUNDS)
    for scene in sampled:
        assert len({item.name for item in scene.objects}) == len(scene.objects)
        assert all(item.size in SIZES and item.position in POSITIONS for item in scene.objects)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sample_scene_obeys_its_arguments(count: int) -> None:
    scene = sample_scene(7, num_objects=count, style="neon")
    assert len(scene.objects) == count
    assert scene.style == "neon"


def test_sample_scene_chooses_from_the_objects_given() -> None:
    assert set(COMMON_OBJECTS) < set(OBJECTS)
    assert len(set(COMMON_OBJECTS)) == len(COMMON_OBJECTS) > 100
    drawn = {item.name for i in range(300) for item in sample_scene(i, objects=COMMON_OBJECTS).objects}
    assert drawn <= set(COMMON_OBJECTS)
    assert len(drawn) > len(COMMON_OBJECTS) / 2


def test_drawable_scenes_leave_little_open() -> None:
    sampled = [sample_drawable_scene(HELD_OUT_SEED + i) for i in range(400)]
    assert sampled == [sample_drawable_scene(HELD_OUT_SEED + i) for i in range(400)]
    alone = [scene.objects[0] for scene in sampled if len(scene.objects) == 1]
    assert {(item.size, item.position) for item in alone} == {("large", "center")}
    assert 0.65 < len(alone) / len(sampled) < 0.85
    assert {len(scene.objects) for scene in sampled} == {1, 2}
    assert {item.name for scene in sampled for item in scene.objects} <= set(COMMON_OBJECTS)
    assert len(sample_drawable_scene(5, 2).objects) == 2
    with pytest.raises(ValueError, match="scenes of 1 or 2 objects"):
        sample_drawable_scene(0, 3)


def test_sample_scene_refuses_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="unknown object 'sofa bed'"):
        sample_scene(0, objects=["fox", "sofa bed"])
    with pytest.raises(ValueError, match="num_objects is 4"):
        sample_scene(0, num_objects=4)
    with pytest.raises(ValueError, match="unknown style 'cubism'"):
        sample_scene(0, style="cubism")


def test_render_batch_shape_range_and_determinism() -> None:
    batch = [sample_scene(i, style=style) for i, style in enumerate(STYLES)]
    pictures = render_batch(batch, torch.Generator().manual_seed(3))
    assert pictures.shape == (12, 3, 64, 64)
    assert pictures.dtype == torch.float32
    assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1
    assert torch.equal(pictures, render_batch(batch, torch.Generator().manual_seed(3)))
    assert not torch.equal(pictures, render_batch(batch, torch.Generator().manual_seed(4)))


def test_render_gives_pictures_of_the_asked_size() -> None:
    picture = render(DOG_AND_HAMMER, seed=1, size=200)
    assert picture.size == (200, 200) and picture.mode == "RGB"
    assert render(DOG_AND_HAMMER, seed=1).tobytes() == render(DOG_AND_HAMMER, seed=1).tobytes()


@pytest.mark.parametrize("style", sorted(STYLES))
def test_large_pictures_show_the_same_scene(style: str) -> None:
    scene = Scene((SceneObject("dog", "large", "center"),), "green", style)
    small = render_batch([scene])
    large = torch.nn.functional.avg_pool2d(render_batch([scene], size=128), 2)
    assert float((small - large).abs().mean()) < 0.1


def test_background_hue_survives_every_style() -> None:
    for style in STYLES:
        means = render_batch(
            [Scene((SceneObject("ant", "small", "center"),), color, style) for color in ("red", "blue")]
        )
        red, blue = means.mean((2, 3))
        assert red[0] - red[2] > 0.1 and blue[2] - blue[0] > 0.1, style


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (Scene((SceneObject("kraken", "small", "left"),), "blue", "flat"), "unknown object 'kraken'"),
        (Scene((SceneObject("dog", "small", "nowhere"),), "blue", "flat"), "unknown position 'nowhere'"),
        (Scene((), "ultraviolet", "flat"), "unknown background 'ultraviolet'"),
    ],
)
def test_render_refuses_unknown_things(scene: Scene, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(scene)


def test_render_refuses_nothing_and_tiny_sizes() -> None:
    with pytest.raises(ValueError, match="no scenes"):
        render_batch([])
    with pytest.raises(ValueError, match="size is 8"):
        render(DOG_AND_HAMMER, size=8)


def test_captions_are_true() -> None:
    generator = random.Random(0)
    for seed in range(300):
        scene = sample_scene(seed)
        assert names(caption(scene), scene).everything
        assert names(caption(scene, generator), scene).everything


@pytest.mark.parametrize(
    ("text", "objects", "background", "style"),
    [
        ("dog hammer blue pixel", (True, True), True, True),
        ("Dogs, HAMMERS; azure... pixelated!", (True, True), True, True),
        ("a puppy and a tool", (False, True), False, False),
        ("hotdog hammerhead bluebird pixelate", (False, False), False, False),
        ("", (False, False), False, False),
        ("cat red sepia", (False, False), False, False),
    ],
)
def test_names_compares_whole_words(text: str, objects: tuple[bool, bool], background: bool, style: bool) -> None:
    truth = names(text, DOG_AND_HAMMER)
    assert truth.objects == objects
    assert truth.background is background
    assert truth.style is style
    assert truth.all_objects is all(objects)
    assert truth.everything is (all(objects) and background and style)


def test_plural_endings_do_not_matter() -> None:
    assert {scenes.stem(word) for word in ("box", "boxes")} == {"box"}
    assert {scenes.stem(word) for word in ("cherry", "cherries")} == {"cherry"}
    assert {scenes.stem(word) for word in ("glass", "glasses")} == {"glass"}


def test_path_names_the_models_there_are() -> None:
    assert (hardprompts_emoji.path("emoji-clip") / "model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"no embedded model named 'emoji-clop'.*emoji-clip"):
        hardprompts_emoji.path("emoji-clop")


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_round_trip(name: str) -> None:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(hardprompts_emoji.path(name))
    ordinary = [
        i
        for i, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer) - 2)]))
        if tokenizer(text, add_special_tokens=False).input_ids == [i]
    ]
    assert len(ordinary) > 1500
    generator = random.Random(0)
    for _ in range(200):
        ids = generator.sample(ordinary, 8)
        assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == ids


@pytest.mark.parametrize("name", MODELS)
def test_words_of_the_world_are_whole_tokens(name: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(hardprompts_emoji.path(name))
    words = {word for text in (*OBJECTS, *BACKGROUNDS, *STYLES) for word in text.split()}
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    assert tokenizer("A DOG").input_ids == tokenizer("a dog").input_ids


@pytest.mark.parametrize("name", MODELS)
def test_models_know_plain_scenes(name: str) -> None:
    folder = hardprompts_emoji.path(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6
    model = transformers.CLIPModel.from_pretrained(folder, **{DTYPE: torch.float32}).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **BY_PILLOW)
    known = ["dog", "hammer", "pizza", "guitar", "rocket", "banana", "snowman", "castle", "umbrella", "octopus"]
    pictures = [render(Scene((SceneObject(item, "large", "center"),), "blue", "flat")) for item in known]
    with torch.no_grad():
        images = pooled(model.get_image_features(**processor(pictures, return_tensors="pt")))
        ids = tokenizer(list(OBJECTS), padding=True, return_tensors="pt").input_ids
        texts = pooled(model.get_text_features(input_ids=ids))
    similarity = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    found = [list(OBJECTS)[i] for i in similarity.argmax(1).tolist()]
    assert sum(a == b for a, b in zip(found, known, strict=True)) >= 8
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
