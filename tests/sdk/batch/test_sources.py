"""Every kind of source: folders, shards, tables, rows in memory."""

import io
import itertools
import json
import os
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from batches import TEXTS, encoded, picture

from hardprompts import MissingExtra
from hardprompts.batch import BatchReport, estimate, invert_many, open_source
from hardprompts.errors import FileFormatError, ImageError
from hardprompts.testing import toy_backend

#: What makes a search of the toy model take a moment only.
QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 2, "restarts": 2, "views": 1, "batch_size": 2}


def run(source: Any, output: Path, **options: Any) -> BatchReport:
    return invert_many(source, output, toy_backend, progress=False, **{**QUICK, **options})


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_parquet_and_a_folder_hold_the_same_rows(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(folder, tmp_path / "out.jsonl")
    run(folder, tmp_path / "out.parquet")
    run(folder, tmp_path / "parts", format="parquet")
    run(folder, tmp_path / "lines")
    expected = rows(tmp_path / "out.jsonl")
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == expected
    assert parquet.read_table(tmp_path / "parts").to_pylist() == expected, "settings are no data to readers of folders"
    assert [row for part in sorted((tmp_path / "lines").glob("part-*")) for row in rows(part)] == expected


def test_without_pyarrow_the_pip_line_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"hardprompts\[parquet\]"):
        run(folder, tmp_path / "out.parquet")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"hardprompts\[parquet\]"):
        open_source(tmp_path / "table.parquet")
    assert not (tmp_path / "out.parquet.parts").exists()


def shard(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def keys_and_pictures(source: Any, **options: Any) -> list[tuple[str, bytes | str]]:
    """Each record with its pixels, or with its error."""
    found: list[tuple[str, bytes | str]] = []
    for record in open_source(source, **options).records:
        try:
            found.append((record.key, record.load().tobytes()))
        except ImageError as error:
            found.append((record.key, str(error)))
    return found


PIXELS = {text: picture(text).convert("RGB").tobytes() for text in TEXTS}


@pytest.mark.parametrize("name, mode", [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_shards_give_their_samples(name: str, mode: str, tmp_path: Path) -> None:
    path = shard(
        tmp_path / name,
        [
            ("000.png", encoded(TEXTS[0])), ("000.json", b"{}"), ("000.cls", b"3"),
            ("001.txt", b"no picture"),
            ("folder/002.left.png", encoded(TEXTS[1])), ("folder/002.right.png", encoded(TEXTS[2])),
            ("./003.PNG", encoded(TEXTS[3])),
            ("004.png", b"no picture"), ("005.png", b""),
        ],
        mode,
    )  # fmt: skip
    found = dict(keys_and_pictures(path))
    assert list(found) == [f"{name}/{key}" for key in ("000", "001", "folder/002", "003", "004", "005")]
    assert found[f"{name}/000"] == PIXELS[TEXTS[0]] and found[f"{name}/003"] == PIXELS[TEXTS[3]]
    assert "no picture" in found[f"{name}/001"] and "txt" in found[f"{name}/001"]  # type: ignore[operator]
    assert "left.png, right.png" in found[f"{name}/folder/002"]  # type: ignore[operator]
    assert "not an image" in found[f"{name}/004"] and "empty" in found[f"{name}/005"]  # type: ignore[operator]
    assert dict(keys_and_pictures(path, image="left.png"))[f"{name}/folder/002"] == PIXELS[TEXTS[1]]
    assert open_source(path).total == (None if mode == "w:gz" else 6)


def test_many_shards_by_folder_pattern_and_range_are_one_source(tmp_path: Path) -> None:
    (tmp_path / "sh").mkdir()
    for index, text in enumerate(TEXTS[:3]):
        shard(tmp_path / "sh" / f"{index:02d}.tar", [("x.png", encoded(text))])
    expected = [(f"{index:02d}.tar/x", PIXELS[text]) for index, text in enumerate(TEXTS[:3])]
    assert keys_and_pictures(tmp_path / "sh") == expected
    assert keys_and_pictures(str(tmp_path / "sh" / "*.tar")) == expected
    assert keys_and_pictures(str(tmp_path / "sh" / "{00..02}.tar")) == expected
    with pytest.raises(ValueError, match=r"03\.tar"):
        open_source(str(tmp_path / "sh" / "{00..03}.tar"))


@pytest.mark.parametrize("cut", ["data", "header", "rubbish"])
def test_a_damaged_shard_gives_what_is_whole_and_says_what_is_lost(cut: str, tmp_path: Path) -> None:
    members = [(f"{index}.png", encoded(text)) for index, text in enumerate(TEXTS[:3])]
    path = shard(tmp_path / "x.tar", members)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[2]
    data = path.read_bytes()
    path.write_bytes(
        {
            "data": data[: last.offset_data + 20],
            "header": data[: last.offset + 100],
            "rubbish": data[: last.offset] + b"rubbish " * 64 + data[last.offset + 512 :],
        }[cut]
    )
    found = keys_and_pictures(path)
    assert found[:2] == [("x.tar/0", PIXELS[TEXTS[0]]), ("x.tar/1", PIXELS[TEXTS[1]])]
    assert "damaged" in str(found[-1][1]) or "cut off" in str(found[-1][1])
    assert len(found) >= 3 and PIXELS[TEXTS[2]] not in [pixels for _, pixels in found]


def test_what_is_no_shard_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(FileFormatError, match=r"x\.tar"):
        open_source(tmp_path / "x.tar")


def test_tables_give_their_rows(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "e.png").write_bytes(encoded(TEXTS[2]))
    images = [
        {"bytes": encoded(TEXTS[0]), "path": None}, {"bytes": encoded(TEXTS[1]), "path": "x.png"},
        {"bytes": None, "path": "e.png"}, None, {"bytes": b"no picture", "path": None},
    ]  # fmt: skip
    table = arrow.table({"image": images, "id": ["p", "q", "r", "s", None], "caption": ["", "", "", "", ""]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    found = keys_and_pictures(tmp_path / "t.parquet")
    assert [key for key, _ in found] == [f"t.parquet:{row}" for row in range(5)]
    assert [pixels for _, pixels in found[:3]] == [PIXELS[text] for text in TEXTS[:3]]
    assert "empty" in str(found[3][1]) and "not an image" in str(found[4][1])
    by_key = keys_and_pictures(tmp_path / "t.parquet", key="id")
    assert [key for key, _ in by_key] == ["p", "q", "r", "s", "t.parquet:4"] and "no key" in str(by_key[4][1])
    with pytest.raises(ValueError, match="no column 'picture'; it has image, id, caption"):
        open_source(tmp_path / "t.parquet", image="picture")
    with pytest.raises(ValueError, match="no column 'name' for the key"):
        open_source(tmp_path / "t.parquet", key="name")

    # As `datasets` saves: the arrow stream format. And other column types, whose name nobody has to say.
    for kind, writer in (("stream", arrow.ipc.new_stream), ("file", arrow.ipc.new_file)):
        plain = arrow.table({"png": arrow.array([encoded(TEXTS[3])] * 3, arrow.large_binary()), "n": [1, 2, 3]})
        with arrow.OSFile(str(tmp_path / f"{kind}.arrow"), "wb") as file, writer(file, plain.schema) as stream:
            stream.write_table(plain, max_chunksize=2)
        assert [pixels for _, pixels in keys_and_pictures(tmp_path / f"{kind}.arrow")] == [PIXELS[TEXTS[3]]] * 3
    pyarrow.parquet.write_table(arrow.table({"a": [1], "b": ["x"]}), tmp_path / "u.parquet")
    with pytest.raises(ValueError, match="which column"):
        open_source(tmp_path / "u.parquet")
    (tmp_path / "v.parquet").write_bytes(b"no table")
    with pytest.raises(FileFormatError, match=r"v\.parquet"):
        open_source(tmp_path / "v.parquet")


def test_a_table_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    for time, text in enumerate(TEXTS[:2]):
        pyarrow.parquet.write_table(arrow.table({"image": [encoded(text)]}), path)
        os.utime(path, (time, time))
        assert keys_and_pictures(path) == [("t.parquet:0", PIXELS[text])]


class Rows:
    """A collection that makes its items when asked, as `datasets.Dataset` does, and cannot make one of them."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 1:
            raise OSError("cannot identify image file")
        if index >= len(self):
            raise IndexError(index)
        return {"image": picture(TEXTS[index])}


def test_rows_and_pictures_in_memory(folder: Path) -> None:
    items = [
        {"image": picture(TEXTS[0]), "id": 7}, {"image": encoded(TEXTS[1]), "id": "q"}, {"caption": "x", "id": "r"},
        {"image": None, "id": "s"}, {"image": picture(TEXTS[2])}, {"image": {"bytes": encoded(TEXTS[3])}, "id": "t"},
    ]  # fmt: skip
    found = keys_and_pictures(iter(items), key="id")
    assert [key for key, _ in found] == ["7", "q", "r", "s", "4", "t"]
    assert found[0][1] == PIXELS[TEXTS[0]] and found[1][1] == PIXELS[TEXTS[1]] and found[5][1] == PIXELS[TEXTS[3]]
    assert "no 'image', but 'caption', 'id'" in str(found[2][1])
    assert "empty" in str(found[3][1]) and "no 'id'" in str(found[4][1])
    assert [key for key, _ in keys_and_pictures(items)] == list("012345")
    assert keys_and_pictures([picture(TEXTS[0])]) == [("0", PIXELS[TEXTS[0]])]
    key = keys_and_pictures(iter([folder / "a.png"]))[0][0]
    assert re.fullmatch(r"…/a\.png #[0-9a-f]{8}", key), "the folder is of this machine alone"
    lazy = keys_and_pictures(Rows())
    assert [key for key, _ in lazy] == ["0", "1", "2"] and lazy[2][1] == PIXELS[TEXTS[2]]
    assert "cannot identify" in str(lazy[1][1])


def test_a_datasets_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kept = [{"image": {"bytes": encoded(text), "path": None}, "id": f"k{n}"} for n, text in enumerate(TEXTS[:3])]
    kept[1]["image"] = {"bytes": b"no picture", "path": None}
    features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("string")})
    table = datasets.Dataset.from_list(kept, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    for source in (table, tmp_path / "saved"):
        found = keys_and_pictures(source, key="id")
        assert [key for key, _ in found] == ["k0", "k1", "k2"]
        assert found[0][1] == PIXELS[TEXTS[0]] and found[2][1] == PIXELS[TEXTS[2]] and isinstance(found[1][1], str)


def test_keys_that_come_twice_are_errors_and_nothing_is_doubled(tmp_path: Path) -> None:
    items = [{"image": picture(text), "id": key} for text, key in zip(TEXTS, "xyxxz", strict=True)]
    report = run(items, tmp_path / "out.jsonl", key="id")
    assert (report.done, report.failed) == (3, 2)
    found = rows(tmp_path / "out.jsonl")
    assert [row["key"] for row in found] == ["x", "y", "x (number 2)", "x (number 3)", "z"]
    assert run(items, tmp_path / "out.jsonl", key="id").skipped == 5


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda place: place / "nowhere", "nothing at"),
        (lambda place: place / "notes.md", "neither a folder nor"),
        (lambda place: (place / "empty").mkdir() or place / "empty", "no images, shards or tables"),
        (lambda place: (place / "x.tar").write_bytes(b"x") and place, "7 images and 1 shards"),
        (lambda place: [], "no records"),
        (lambda place: {"image": "a.png"}, "dict is not a source"),
    ],
)
def test_what_is_no_source_is_refused(make: Callable[[Path], Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(make(folder), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl.parts").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_file_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/pictures"
    os.mkdir(place)
    with open(place + b"/caf\xe9.png", "wb") as file:
        file.write(encoded("red"))
    run(tmp_path / "pictures", tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl")[0]["key"] == "caf\\xe9.png"


def test_a_sample_is_spread_over_the_source() -> None:
    items = [picture(text) for text in itertools.islice(itertools.cycle(TEXTS), 40)]
    found = estimate(items, toy_backend, sample=4, num_tokens=2, max_steps=1, restarts=2, views=1)
    assert (found.images, found.total) == (4, 40)
