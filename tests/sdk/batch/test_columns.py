"""What `datasets` makes: columns of pictures, splits, streams, and tables of texts with classes."""

import json
from pathlib import Path
from typing import Any

import pytest
from batches import TEXTS, encoded, picture
from commands import Run

from hardprompts import FileFormatError
from hardprompts.batch import invert_many, open_source
from hardprompts.batch.columns import text_columns
from hardprompts.testing import toy_backend

datasets = pytest.importorskip("datasets")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 0, "restarts": 1, "views": 1, "batch_size": 2, "progress": False}


@pytest.fixture
def pictures(tmp_path: Path) -> Any:
    """A data set with a column of pictures, and one that names them."""
    datasets.disable_progress_bars()
    for number, text in enumerate(TEXTS):
        picture(text).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(len(TEXTS))]
    rows = datasets.Dataset.from_dict({"image": paths, "id": [f"no {number}" for number in range(len(TEXTS))]})
    return rows.cast_column("image", datasets.Image())


def seen(source: Any, **columns: str) -> list[tuple[str, bytes]]:
    return [(record.key, record.load().tobytes()) for record in open_source(source, **columns).records]


RIGHT = [picture(text).tobytes() for text in TEXTS]


def test_a_column_of_pictures_is_found_in_every_form(pictures: Any) -> None:
    photos = pictures.rename_column("image", "photo")
    forms = [
        pictures, photos, pictures.cast_column("image", datasets.Image(decode=False)), photos.with_format("torch"),
        pictures.with_format("numpy"), pictures.to_iterable_dataset(), photos.to_iterable_dataset(),
        datasets.DatasetDict(train=photos), datasets.Dataset.from_dict({"image": [encoded(text) for text in TEXTS]}),
        datasets.Dataset.from_dict({"image": [{"bytes": encoded(text), "path": None} for text in TEXTS]}),
        datasets.Dataset.from_dict({"image": pictures.cast_column("image", datasets.Image(decode=False))["image"]}),
    ]  # fmt: skip
    for form in forms:
        assert [data for _, data in seen(form)] == RIGHT, form
    assert [key for key, _ in seen(photos, key="id")] == [f"no {number}" for number in range(len(TEXTS))]
    turned = pictures.with_transform(lambda rows: {"image": [one.rotate(180) for one in rows["image"]]})
    assert [data for _, data in seen(turned)] == [picture(text).rotate(180).tobytes() for text in TEXTS]


def test_a_column_that_cannot_be_told_is_asked_for(pictures: Any, tmp_path: Path) -> None:
    two = pictures.rename_column("image", "left").add_column("right", [str(tmp_path / "0.png")] * len(TEXTS))
    both = two.cast_column("right", datasets.Image())
    for unclear in (both, both.to_iterable_dataset(), datasets.Dataset.from_dict({"file": ["a.png"]})):
        with pytest.raises(ValueError, match=r"which column .* has the pictures\? It has (left|file).*say image="):
            open_source(unclear)
    assert [data for _, data in seen(both, image="right")] == [RIGHT[0]] * len(TEXTS)
    with pytest.raises(ValueError, match="no column 'photo' for the pictures; it has image, id"):
        open_source(pictures, image="photo")
    with pytest.raises(ValueError, match="no column 'name' for the key; it has image, id"):
        open_source(pictures, key="name")
    with pytest.raises(ValueError, match=r"has the splits train, test; give one of them, such as dataset\['train'\]"):
        open_source(datasets.DatasetDict(train=pictures, test=pictures))


def test_saved_data_sets_and_streams_give_the_prompts_of_those_in_memory(pictures: Any, tmp_path: Path) -> None:
    pictures.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict(train=pictures).save_to_disk(str(tmp_path / "splits"))
    found = []
    for number, source in enumerate(
        [pictures, str(tmp_path / "saved"), str(tmp_path / "splits" / "train"), pictures.to_iterable_dataset()]
    ):
        report = invert_many(source, tmp_path / f"{number}.jsonl", toy_backend, **QUICK)
        assert (report.done, report.failed) == (len(TEXTS), 0)
        lines = (tmp_path / f"{number}.jsonl").read_text().splitlines()
        found.append([json.loads(line)["prompt"] for line in lines])
    assert found == [found[0]] * 4


# --- texts ------------------------------------------------------------------------------------


def labeled(**more: Any) -> Any:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "mood": datasets.ClassLabel(names=["sun", "moon"])}
    )
    rows = {"sentence": ["red house", "old night", "green fire", "blue night"], "mood": [0, 1, 0, 1], **more}
    return datasets.Dataset.from_dict(rows, features=features)


def test_texts_and_the_names_of_classes_are_read_from_what_was_saved(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    labeled().save_to_disk(str(tmp_path / "saved"), num_shards=2)
    datasets.DatasetDict(train=labeled()).save_to_disk(str(tmp_path / "one"))
    labeled().to_parquet(tmp_path / "table.parquet")
    for place in ("saved", "one", "one/train", "table.parquet"):
        found = text_columns(tmp_path / place, ("sentence", "mood"))
        assert found == [["red house", "old night", "green fire", "blue night"], ["sun", "moon", "sun", "moon"]], place


def test_what_cannot_be_read_as_labeled_texts_says_why(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.DatasetDict(train=labeled(), test=labeled()).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(ValueError, match="has the splits train, test; name one of them, such as .*two/train"):
        text_columns(tmp_path / "two", ("sentence",))
    labeled().save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="has no column 'text'; it has sentence, mood"):
        text_columns(tmp_path / "saved", ("text",))
    labeled(mood=[0, 1, -1, 1]).to_parquet(tmp_path / "secret.parquet")
    with pytest.raises(ValueError, match=r"row 3 of .*secret.parquet has nothing in 'mood' \(-1\)"):
        text_columns(tmp_path / "secret.parquet", ("sentence", "mood"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no .arrow or .parquet files"):
        text_columns(tmp_path / "empty", ("text",))
    for damage in ("{", "[]", '{"splits": []}', '{"splits": [1, 2]}', "[" * 100_000):
        (tmp_path / "empty" / "dataset_dict.json").write_text(damage)
        with pytest.raises(FileFormatError, match="dataset_dict.json"):
            text_columns(tmp_path / "empty", ("text",))
    (tmp_path / "several").mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        labeled().to_parquet(tmp_path / "several" / f"{name}.parquet")
    with pytest.raises(ValueError, match="several tables .*name one of them"):
        text_columns(tmp_path / "several", ("sentence",))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    Run("tune", tmp_path / "damaged.parquet").fails("damaged.parquet", "not a table that can be read")


def test_a_saved_data_set_is_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardprompts import ClassifierPromptTuner
    from hardprompts.testing import toy_language_model

    datasets.disable_progress_bars()
    monkeypatch.setattr("hardprompts.classification.tuner.load_backend", lambda *a, **k: toy_language_model())
    labeled().save_to_disk(str(tmp_path / "saved"))
    search = ("--template", "{prompt} {text} the {label}", "--tokens", "2", "--steps", "1", "--restarts", "1")
    columns = ("--text-column", "sentence", "--label-column", "mood")
    found = Run("tune", tmp_path / "saved", *columns, *search, "--seed", "0", "--save", tmp_path / "tuner")
    assert found.code == 0, found.err
    assert list(ClassifierPromptTuner.from_pretrained(tmp_path / "tuner").classes_) == ["moon", "sun"]
    # In Python, columns are given as they are.
    rows, names = labeled(), ["sun", "moon"]
    options: dict[str, Any] = {"num_tokens": 2, "max_steps": 1, "restarts": 1, "random_state": 0, "progress": False}
    tuner = ClassifierPromptTuner("toy", template="{prompt} {text} the {label}", **options)
    assert tuner.fit(rows["sentence"], [names[one] for one in rows["mood"]]).prompt_ == found.out.rstrip("\n")
