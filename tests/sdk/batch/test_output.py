"""What is on the disk: parts that are damaged, full disks, other settings, outputs of something else."""

import errno
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from batches import picture

from hardprompts.batch import BatchReport, invert_many
from hardprompts.batch.output import JsonLines
from hardprompts.errors import FileFormatError
from hardprompts.testing import toy_backend

#: What makes a search of the toy model take a moment only.
QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 2, "restarts": 2, "views": 1, "batch_size": 2}


def run(source: Any, output: Path, **options: Any) -> BatchReport:
    return invert_many(source, output, toy_backend, progress=False, **{**QUICK, **options})


def contents(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


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
    with pytest.raises(OSError, match="the disk is full.*the same command resumes it") as error:
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


def test_a_run_resumes_on_a_device_of_another_size(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl")
    before = contents(tmp_path)
    run(folder, tmp_path / "out.jsonl", vram="8GB")
    assert contents(tmp_path) == before


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
        ("out.jsonl", "is there already"), ("mine", "not the output of a run"), ("out.txt", "accepted are .jsonl"),
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


def test_the_settings_tell_models_pictures_and_functions_apart(tmp_path: Path) -> None:
    from hardprompts.batch.output import plain
    from hardprompts.methods import PEZ

    red, old = plain(picture("red")), plain(picture("old boat"))
    assert red != old and red == plain(picture("red")) and "Image" in red
    assert plain([Path("a"), 1.5, None, {"x": (1, 2)}]) == [str(Path("a").absolute()), 1.5, None, {"x": [1, 2]}]
    assert plain(PEZ(learning_rate=0.05)) == plain(PEZ(learning_rate=0.05)) != plain(PEZ(learning_rate=0.06))
    assert plain(toy_backend) == "hardprompts.testing.toy_backend"
    with pytest.raises(ValueError, match="cannot be distinguished from others"):
        plain(object())
