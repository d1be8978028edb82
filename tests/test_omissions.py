"""What is left out of somebody's input is said: words, phrases, ends of texts, members of shards."""

import io
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batches import TEXTS, encoded, picture
from PIL import Image

from hardprompts import ClassifierPromptTuner, PromptInverter, load_backend
from hardprompts.batch import invert_many, open_source
from hardprompts.errors import ImageError
from hardprompts.methods import PEZBank, PhraseBank
from hardprompts.methods.banks import PhraseTable
from hardprompts.testing import toy_backend, toy_language_model

QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 1, "restarts": 2, "views": 1, "progress": False, "seed": 0}


def invert(method: Any = "build+refine", captioner: Any = None, **options: Any) -> str:
    inverter = PromptInverter(toy_backend(), method, captioner=captioner)
    return inverter.invert(picture("red house river"), **{**QUICK, **options}).text


@contextmanager
def told(*words: str) -> Iterator[None]:
    """Checks that there is exactly one warning, which is about this file's line, and has these words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    (warning,) = [one for one in caught if issubclass(one.category, UserWarning)]
    assert all(word in str(warning.message) for word in words), warning.message


@contextmanager
def untold() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_words_that_the_model_lacks_are_named() -> None:
    with told("2 of the words", "left out", "'qqq'", "'zyx'"):
        assert set(invert(words=["red", "house", "zyx", "qqq"]).split()) <= {"red", "house"}
    with told("2 of the words", "left out", "'zyx'", "'qqq'"):
        assert set(invert(vocabulary=["red house", "zyx house qqq"]).split()) <= {"red", "house"}
    with untold():
        invert(words=["red", "house"], banned=["zyx"])
        invert(vocabulary=["red house"])
        invert(PEZBank(), max_steps=2)


def test_phrases_that_may_not_be_used_are_counted_and_named() -> None:
    table = PhraseTable("mine", ("red", "old boat", "zyx qqq", "red house river old boat", "green"))
    with told("2 of the 5 phrases", "more than 3 tokens", "'zyx qqq'", "'red house river old boat'"):
        invert(PhraseBank((table,)), banned=["green"])
    with untold():
        invert(PhraseBank((PhraseTable("mine", ("red", "old boat", "green")),)), banned=["green"])


def test_a_caption_that_no_restart_can_begin_with_is_named() -> None:
    with told("no restart begins with the caption 'zyx qqq'"):
        invert(caption="zyx qqq")
    with told("no restart begins with the caption 'zyx'"):
        invert(captioner=lambda images: ["zyx"] * len(images))
    with untold():
        invert(caption="red house of qqq")


def test_what_the_model_does_not_see_of_a_text_is_said() -> None:
    backend = load_backend("emoji")
    room = backend.text_encoder.max_tokens
    with told(f"reads the first {room} tokens", "1 of 3 have more", f"has {room + 1}"):
        backend.encode_texts(["red", " ".join(["red"] * room), " ".join(["fox"] * (room + 1))])
    with untold():
        backend.encode_texts(["red", " ".join(["red"] * room)])
    image = Image.new("RGB", (8, 8), "red")
    with told(f"reads the first {room} tokens", "1 of 1"):
        PromptInverter(backend).invert(image, **QUICK, text=" ".join(["fox"] * (room + 1)))


def test_texts_that_are_cut_are_counted_when_labels_are_predicted(toy_tuner: ClassifierPromptTuner) -> None:
    long = " ".join(["old"] * 500)
    with told("1 of 2 texts", "cut at their end"):
        toy_tuner.predict(["red fire", long])
    with untold():
        toy_tuner.predict(["red fire", "  old night "])


@pytest.fixture
def toy_tuner() -> ClassifierPromptTuner:
    texts = [f"{word} {clue}" for word in ("red", "old", "green", "blue") for clue in ("fire", "night")]
    tuner = ClassifierPromptTuner(
        toy_language_model(),
        template="{prompt} {text} the {label}",
        num_tokens=2,
        max_steps=1,
        restarts=1,
        random_state=0,
    )
    return tuner.fit(texts, ["sun", "moon"] * 4)


# --- shards -------------------------------------------------------------------------------


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if data == b"link":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "elsewhere.png", 0
            archive.addfile(info, io.BytesIO(data))
    return path


def outcome(path: Path) -> dict[str, str]:
    """What becomes of each sample of a shard: "read", or what is wrong."""
    found = {}
    for record in open_source(path).records:
        try:
            record.load()
            found[record.key.partition("/")[2]] = "read"
        except ImageError as error:
            found[record.key.partition("/")[2]] = str(error)
    return found


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_members_of_shards_are_samples_junk_or_errors_and_never_lost(name: str, tmp_path: Path) -> None:
    image = encoded(TEXTS[0])
    path = shard(
        tmp_path / name, ("000.png", image), ("._000.png", b"x"), ("__MACOSX/000.png", image), ("Thumbs.db", b"x"),
        ("a/.DS_Store", b"x"), ("desktop.ini", b"x"), (".hidden/001.png", image), ("002.HEIC", b"no picture"),
        ("IMG_0003", image), ("LICENSE", b"words"), ("004.png", b"link"), ("005.json", b"{}"),
    )  # fmt: skip
    found = outcome(path)
    assert list(found) == ["000", ".hidden/001", "002", "IMG_0003", "004", "005"]
    assert found["000"] == found[".hidden/001"] == found["IMG_0003"] == "read"
    assert "not an image" in found["002"]
    assert "a link to 'elsewhere.png'" in found["004"]
    assert "no picture in the sample, but json" in found["005"]


def test_files_beside_shards_and_empty_shards_are_noted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shard(tmp_path / "in" / "0.tar", ("000.png", encoded(TEXTS[0])))
    shard(tmp_path / "in" / "1.tar")
    (tmp_path / "in" / "0.idx").touch()
    report = invert_many(
        tmp_path / "in", tmp_path / "out.jsonl", toy_backend, **{**QUICK, "batch_size": 2, "progress": False}
    )
    assert report.done == 1
    assert any("1 files are neither shards nor tables: 1 .idx" in note for note in report.notes)
    assert any("1.tar has no records" in note for note in report.notes)
