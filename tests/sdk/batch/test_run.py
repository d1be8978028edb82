"""hardprompts.batch in one process: every kind of source, bad records, interruptions at every moment, full disks."""

import errno
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from hardprompts import MissingExtra, PromptInverter
from hardprompts.batch import BatchProgress, BatchReport, Record, estimate, invert_many, open_source
from hardprompts.batch.chunks import Plan, prompts_of_each
from hardprompts.batch.output import JsonLines
from hardprompts.errors import FileFormatError, HardPromptsError, ImageError, NonFiniteError, VocabularyError
from hardprompts.testing import ToyEncoder, toy_backend

TEXTS = ("red house river", "old boat", "black cat snow", "gold stone", "slow dog")

#: What makes a search of the toy model take a moment only.
QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 2, "restarts": 2, "views": 1, "batch_size": 2}


def picture(text: str) -> Image.Image:
    return ToyEncoder().picture(text)


def encoded(text: str) -> bytes:
    stream = io.BytesIO()
    picture(text).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them deeper, a text that is named as a picture, and half a picture."""
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for name, text in zip(("a.png", "b.png", "c.png", "d.png", "more/e.png"), TEXTS, strict=True):
        picture(text).save(place / name)
    (place / "bb.png").write_text("no picture")
    (place / "cc.png").write_bytes(encoded("red")[:45])
    (place / "notes.md").write_text("no picture either")
    (place / ".hidden.png").write_bytes(encoded("red"))
    return place


def run(source: Any, output: Path, **options: Any) -> BatchReport:
    return invert_many(source, output, toy_backend, progress=False, **{**QUICK, **options})


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def contents(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# --- what comes out -----------------------------------------------------------------------------


def test_every_picture_gets_the_prompt_of_invert_each_and_bad_ones_their_error(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.failed, report.skipped, report.stop_reason) == (5, 2, 0, "finished")
    found = rows(tmp_path / "out.jsonl")
    assert [row["key"] for row in found] == ["a.png", "b.png", "bb.png", "c.png", "cc.png", "d.png", "more/e.png"]
    # Chunks: a b | bb c | cc d | e; a bad record leaves the others of its chunk.
    inverter = PromptInverter(toy_backend())
    options = {**QUICK, "seed": 0, "progress": False}
    expected = [
        prompt
        for names in (["a", "b"], ["c"], ["d"], ["more/e"])
        for prompt in inverter.invert_each([folder / f"{name}.png" for name in names], **options)
    ]
    good = [row for row in found if row["error"] is None]
    assert [(row["prompt"], row["score"], tuple(row["token_ids"])) for row in good] == [
        (prompt.filled, prompt.score, prompt.token_ids) for prompt in expected
    ]
    assert {row["model"] for row in good} == {"toy"} and {row["seed"] for row in good} == {0}
    errors = {row["key"]: row["error"] for row in found if row["error"] is not None}
    assert "no image" in errors["bb.png"] and "damaged" in errors["cc.png"]
    assert all(row["prompt"] is None and row["score"] is None for row in found if row["key"] in errors)


def test_a_prompt_does_not_depend_on_other_chunks(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "all.jsonl")
    alone = [folder / name for name in ("a.png", "b.png")]
    run(alone, tmp_path / "alone.jsonl")
    assert rows(tmp_path / "alone.jsonl") == rows(tmp_path / "all.jsonl")[:2]


def test_a_template_seed_and_other_options_reach_the_search(folder: Path, tmp_path: Path) -> None:
    run(folder / "a.png", tmp_path / "out.jsonl", template="the {}", seed=3, banned=["red"], deadline=60.0)
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["prompt"].startswith("the ") and row["seed"] == 3 and "red" not in row["prompt"]


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


# --- sources ----------------------------------------------------------------------------------------


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
    assert "no image" in found[f"{name}/004"] and "empty" in found[f"{name}/005"]  # type: ignore[operator]
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
    assert "empty" in str(found[3][1]) and "no image" in str(found[4][1])
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
    assert keys_and_pictures(iter([folder / "a.png"]))[0][0] == str(folder / "a.png")
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
        (lambda place: (place / "empty").mkdir() or place / "empty", "no pictures, shards or tables"),
        (lambda place: (place / "x.tar").write_bytes(b"x") and place, "7 pictures and 1 shards"),
        (lambda place: [], "no records"),
        (lambda place: {"image": "a.png"}, "dict is no source"),
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


# --- to stop and to go on ---------------------------------------------------------------------------


class Killed(BaseException):
    """What nothing catches, as a signal would be."""


def stopping(how: str, at: int) -> Callable[[BatchProgress], bool]:
    calls = itertools.count(1)

    def callback(progress: BatchProgress) -> bool:
        if next(calls) != at:
            return False
        if how == "cancel":
            return True
        raise KeyboardInterrupt if how == "ctrl-c" else Killed

    return callback


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("how", ["cancel", "ctrl-c", "kill"])
def test_a_run_that_was_stopped_at_any_chunk_ends_as_one_that_was_not(
    name: str, how: str, folder: Path, tmp_path: Path
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    run(folder, tmp_path / "whole" / name)
    expected = contents(tmp_path / "whole")
    assert len(expected) == 1 + 4 + 1, "the file, a part for each chunk, the settings"
    for at in range(1, 5):
        place = tmp_path / f"stopped{at}"
        if how == "kill":
            with pytest.raises(Killed):
                run(folder, place / name, callback=stopping(how, at))
            assert not (place / name).exists()
        else:
            report = run(folder, place / name, callback=stopping(how, at))
            assert report.stop_reason == ("cancelled" if how == "cancel" else "interrupted")
            assert report.done + report.failed == min(2 * at, 7)
            assert (place / name).exists(), "what is done is in the file"
        report = run(folder, place / name)
        assert report.skipped == min(2 * at, 7) and report.done + report.failed == 7 - report.skipped
        assert contents(place) == expected
        before = contents(place)
        assert (run(folder, place / name).done, contents(place)) == (0, before)


def test_parts_that_were_done_out_of_order_do_not_change_the_others(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole" / "out.jsonl")
    expected = contents(tmp_path / "whole")
    for missing in itertools.chain(itertools.combinations(range(4), 1), itertools.combinations(range(4), 2)):
        for number in missing:
            (tmp_path / "whole" / "out.jsonl.parts" / f"part-{number:06d}.jsonl").unlink()
        run(folder, tmp_path / "whole" / "out.jsonl")
        assert contents(tmp_path / "whole") == expected


def test_nothing_is_opened_when_nothing_is_left_to_do(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")

    def never() -> Any:
        raise AssertionError("opened")

    never.__module__, never.__qualname__ = toy_backend.__module__, toy_backend.__qualname__
    report = invert_many(folder, tmp_path / "out.jsonl", never, progress=False, **QUICK)
    assert (report.done, report.skipped, report.images_per_hour) == (0, 7, 0.0)


def test_half_a_search_is_not_a_result(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, calls = ToyEncoder.encode, itertools.count()

    def press(self: ToyEncoder, embeddings: Any) -> Any:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return score(self, embeddings)

    with monkeypatch.context() as context:
        context.setattr(ToyEncoder, "encode", press)
        report = run(folder, tmp_path / "out.jsonl", max_steps=100)
    assert report.stop_reason == "interrupted" and report.done + report.failed < 7
    run(folder, tmp_path / "out.jsonl", max_steps=100)
    run(folder, tmp_path / "whole.jsonl", max_steps=100)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_records_that_are_added_get_chunks_of_their_own(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = rows(tmp_path / "out.jsonl")
    picture("red dog").save(folder / "0.png")  # first in order
    picture("white dog").save(folder / "more" / "f.png")
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.skipped) == (2, 7)
    after = rows(tmp_path / "out.jsonl")
    assert after[:7] == before and [row["key"] for row in after[7:]] == ["0.png", "more/f.png"]


def test_errors_are_done_again_when_asked(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = rows(tmp_path / "out.jsonl")
    (folder / "bb.png").write_bytes(encoded("old house"))
    assert run(folder, tmp_path / "out.jsonl").skipped == 7, "not unless asked"
    report = run(folder, tmp_path / "out.jsonl", retry_errors=True)
    assert (report.done, report.failed, report.skipped) == (3, 1, 3)
    after = rows(tmp_path / "out.jsonl")
    assert [row["key"] for row in after] == [row["key"] for row in before]
    assert after[2]["error"] is None and after[4]["error"] is not None
    run(folder, tmp_path / "whole.jsonl")
    assert after == rows(tmp_path / "whole.jsonl")


KILLED_WHILE_WRITING = """
import os, sys
from hardprompts.batch import invert_many
from hardprompts.batch.output import JsonLines
from hardprompts.testing import toy_backend

write = JsonLines.write
def half(self, file, rows):
    if rows[0]["key"] == "bb.png":
        file.write(b'{"key": "bb.p')
        file.flush()
        os._exit(9)
    write(self, file, rows)
JsonLines.write = half
invert_many(sys.argv[1], sys.argv[2], toy_backend, progress=False, num_tokens=3, max_steps=2, restarts=2, views=1, batch_size=2)
"""


def test_a_process_that_is_killed_in_the_middle_of_a_write_loses_that_part_only(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed" / "out.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(folder), str(output)], check=False)
    assert killed.returncode == 9
    parts = output.with_name("out.jsonl.parts")
    left = sorted(path.name.split(".")[1 if path.name.startswith(".") else 0] for path in parts.iterdir())
    assert left == ["_settings", "part-000000", "part-000001"], "the second is half of a file, under another name"
    (output.with_name(".out.jsonl.0123abcd")).write_text("half of all prompts, from a process that was killed later")
    assert run(folder, output).skipped == 2
    run(folder, tmp_path / "whole" / "out.jsonl")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# --- full disks, other settings, damaged output -----------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Makes the disk full in the middle of the nth write of a kind: "write" of a part, "join" of the one file."""

    def full_at(kind: str, at: int) -> None:
        original, calls = getattr(JsonLines, kind), itertools.count(1)

        def write(self: JsonLines, file: IO[bytes], what: Any) -> None:
            if next(calls) == at:
                file.write(b'{"key": ')
                raise OSError(errno.ENOSPC, "No space left on device")
            original(self, file, what)

        monkeypatch.setattr(JsonLines, kind, write)

    yield full_at
    monkeypatch.undo()


@pytest.mark.parametrize("kind, at", [("write", 1), ("write", 3), ("join", 1)])
def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    kind: str, at: int, disk: Callable[[str, int], None], folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "whole" / "out.jsonl")
    disk(kind, at)
    output = tmp_path / "full" / "out.jsonl"
    with pytest.raises(OSError, match="the disk is full.*the same command goes on") as error:
        run(folder, output)
    assert error.value.errno == errno.ENOSPC and str(output) in str(error.value)
    names = set(contents(tmp_path / "full"))
    whole = 4 if kind == "join" else at - 1
    assert names == {"out.jsonl.parts/_settings.json"} | {f"out.jsonl.parts/part-{n:06d}.jsonl" for n in range(whole)}
    assert run(folder, output).skipped == min(2 * whole, 7)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_other_errors_of_the_disk_are_themselves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(JsonLines, "write", fails)
    with pytest.raises(OSError, match="Input/output error"):
        run(folder, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"num_tokens": 4}, "num_tokens was 3 and is 4"),
        ({"batch_size": 3}, "batch_size was 2 and is 3"),
        ({"method": "pez"}, "method was 'build\\+refine' and is 'pez'"),
        ({"banned": ["red"]}, r"banned was None and is \['red'\]"),
        ({"key": "id"}, "key was None and is 'id'"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(
    change: dict[str, Any], told: str, folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"other settings: .*{told}.*Choose another output"):
        run(folder, tmp_path / "out.jsonl", **change)
    with pytest.raises(ValueError, match="source was"):
        run(folder / "a.png", tmp_path / "out.jsonl")
    assert contents(tmp_path) == before


def test_an_output_that_is_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    before = contents(tmp_path)
    for name, message in (
        ("out.jsonl", "is there already"), ("mine", "not the output of a run"), ("out.csv", "accepted are .jsonl"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run(folder, tmp_path / name)
    with pytest.raises(ValueError, match="format"):
        run(folder, tmp_path / "out2.jsonl", format="parquet")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_damaged_part_is_named_and_done_again_once_it_is_deleted(name: str, folder: Path, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    run(folder, tmp_path / name)
    whole = contents(tmp_path)
    (part,) = (tmp_path / f"{name}.parts").glob("part-000001.*")
    for damage in (part.read_bytes()[:-5], b"", b"rubbish\n", b"[]\n", b"{}\n"):
        part.write_bytes(damage)
        with pytest.raises(FileFormatError, match="part-000001.*delete it"):
            run(folder, tmp_path / name)
    part.unlink()
    run(folder, tmp_path / name)
    assert contents(tmp_path) == whole
    (tmp_path / f"{name}.parts" / "_settings.json").write_text("rubbish")
    with pytest.raises(FileFormatError, match=r"_settings\.json"):
        run(folder, tmp_path / name)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_token": 3}, ValueError, "unknown options num_token"),
        ({"callback_": 1}, ValueError, "callback_"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"vocabulary": ["zzzz"]}, VocabularyError, "zzzz|no token"),
    ],
)
def test_wrong_options_are_told_and_write_no_prompts(
    options: dict[str, Any], error: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(folder, tmp_path / "out.jsonl", **options)
    assert not contents(tmp_path / "out.jsonl.parts"), "a mistake is not kept as settings"
    assert run(folder, tmp_path / "out.jsonl").done == 5


def test_the_settings_tell_models_pictures_and_functions_apart(tmp_path: Path) -> None:
    from hardprompts.batch.output import plain
    from hardprompts.methods import PEZ

    red, old = plain(picture("red")), plain(picture("old boat"))
    assert red != old and red == plain(picture("red")) and "Image" in red
    assert plain([Path("a"), 1.5, None, {"x": (1, 2)}]) == ["a", 1.5, None, {"x": [1, 2]}]
    assert plain(PEZ(learning_rate=0.05)) == plain(PEZ(learning_rate=0.05)) != plain(PEZ(learning_rate=0.06))
    assert plain(toy_backend) == "hardprompts.testing.toy_backend"
    with pytest.raises(ValueError, match="cannot be told from others"):
        plain(object())


# --- searches that fail, progress, plans ----------------------------------------------------------


def test_a_search_that_fails_for_one_picture_fails_for_it_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert = PromptInverter.invert_each
    poison = picture(TEXTS[1]).convert("RGB").tobytes()

    def failing(self: PromptInverter, images: Sequence[Image.Image], **options: Any) -> Any:
        if any(image.tobytes() == poison for image in images):
            raise NonFiniteError("every score was NaN")
        return invert(self, images, **options)

    monkeypatch.setattr(PromptInverter, "invert_each", failing)
    report = run(folder, tmp_path / "out.jsonl")
    assert (report.done, report.failed) == (4, 3)
    assert {row["key"]: row["error"] for row in rows(tmp_path / "out.jsonl")}["b.png"] == "every score was NaN"


def test_the_deadline_is_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def spy(self: PromptInverter, images: Sequence[Any], **options: Any) -> list[HardPromptsError]:
        given.append(options["deadline"])
        return [NonFiniteError("")] * len(images)

    monkeypatch.setattr(PromptInverter, "invert_each", spy)
    prompts_of_each(PromptInverter(toy_backend()), [picture("red")] * 3, {"deadline": 2.0})
    assert given == [6.0]


def test_progress_counts_and_rates(folder: Path, tmp_path: Path) -> None:
    seen: list[BatchProgress] = []
    report = run(folder, tmp_path / "out.jsonl", callback=seen.append)
    assert [(p.done, p.failed, p.waiting) for p in seen] == [(2, 0, 5), (3, 1, 3), (4, 2, 1), (5, 2, 0)]
    last = seen[-1]
    assert last.images_per_hour == pytest.approx(3600 * 7 / last.seconds)
    assert seen[0].seconds_left == pytest.approx(5 * seen[0].seconds / 2)
    assert 0 < report.busy_seconds <= report.seconds * 1.01
    unknown: list[BatchProgress] = []
    items = iter([picture(text) for text in TEXTS])
    run(items, tmp_path / "items.jsonl", callback=unknown.append)
    assert unknown[0].waiting is None and unknown[0].seconds_left is None and unknown[-1].done == 5


def test_the_progress_bar_shows_the_rate(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    invert_many(folder, tmp_path / "out.jsonl", toy_backend, **QUICK)
    shown = capsys.readouterr().err
    assert "7/7" in shown and "images/h" in shown and "2 failed" in shown


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
def test_whatever_is_done_the_rest_has_the_chunks_that_it_always_had(size: int) -> None:
    records = [Record(f"r{index}", None) for index in range(10)]
    whole = {c.number: [r.key for r in c.records] for c in Plan(records, size, set(), set())}
    for done in itertools.chain.from_iterable(itertools.combinations(whole, count) for count in range(len(whole) + 1)):
        plan = Plan(records, size, {key for number in done for key in whole[number]}, set(done))
        rest = {c.number: [r.key for r in c.records] for c in plan}
        assert {**rest, **{number: whole[number] for number in done}} == whole
        assert rest.keys().isdisjoint(done) and plan.skipped == sum(len(whole[number]) for number in done)


# --- estimates --------------------------------------------------------------------------------------


def test_an_estimate_is_measured_and_multiplies_out(folder: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    found = estimate(
        folder, toy_backend, sample=7, price_per_hour=2.0, workers=4, num_tokens=3, max_steps=2, restarts=2, views=1
    )
    assert contents(tmp_path) == before, "nothing is written"
    assert (found.images, found.failed, found.total, found.gpu_memory) == (5, 2, 7, None)
    assert found.device.startswith("CPU") and 0 < found.seconds < 60
    assert found.images_per_hour == pytest.approx(3600 * 5 / found.seconds)
    assert found.hours(1000) == pytest.approx(1000 * found.seconds / 5 / 3600 / 4)
    price = found.price()
    assert price == pytest.approx(found.hours() * 4 * 2.0)
    assert "a million images" in str(found) and f"{price:,.2f} at 2 per hour" in str(found) and "2 of 7" in str(found)
    assert estimate(folder, toy_backend(), sample=2, batch_size=2, num_tokens=2, max_steps=1).price() is None


def test_a_sample_is_spread_over_the_source() -> None:
    items = [picture(text) for text in itertools.islice(itertools.cycle(TEXTS), 40)]
    found = estimate(items, toy_backend, sample=4, num_tokens=2, max_steps=1, restarts=2, views=1)
    assert (found.images, found.total) == (4, 40)


def test_an_estimate_needs_something_to_measure(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ImageError, match="none of the 1 records"):
        estimate(tmp_path, toy_backend)
    with pytest.raises(ValueError, match="price_per_hour"):
        estimate(tmp_path, toy_backend, price_per_hour=-1)
    with pytest.raises(ValueError, match="sample"):
        estimate(tmp_path, toy_backend, sample=0)
