"""hardprompts.batch on Ray: the prompts of one process, also when workers are killed at any time.

Starting Ray and its workers takes longer than the searches.
"""

import dataclasses
import functools
import json
import os
import signal
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hardprompts import Backend, HardPromptsError
from hardprompts.batch import BatchReport, invert_many
from hardprompts.testing import ToyEncoder, toy_backend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
ray = pytest.importorskip("ray", reason='needs Ray: pip install "hardprompts[ray]"')
pytest.importorskip("ray.data", reason='needs Ray: pip install "hardprompts[ray]"')

TEXTS = (
    "red house river", "old boat", "black cat snow", "gold stone", "slow dog", "white bird", "green tree", "big sun",
    "red boat", "old dog", "gold house", "snow river",
)  # fmt: skip
QUICK: dict[str, Any] = {"num_tokens": 3, "max_steps": 2, "restarts": 2, "views": 1, "batch_size": 2, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One small Ray for all tests; their workers are their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have this file
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for index, text in enumerate(TEXTS):
        ToyEncoder().picture(text).save(place / f"{index:02d}.png")
    (place / "05.png").write_text("no picture")
    return place


class Deadly:
    """The toy model's pictures, of which one kills its process: the first time that it is seen, or always."""

    def __init__(self, pixel: tuple[int, ...], marker: Path | None) -> None:
        self._toy, self._pixel, self._marker = ToyEncoder(), pixel, marker

    def encode_images(self, images: Sequence[Image.Image]) -> Any:
        if any(image.getpixel((0, 0)) == self._pixel for image in images):
            if self._marker is None:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                os.close(os.open(self._marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._toy.encode_images(images)


def deadly_backend(pixel: tuple[int, ...], marker: Path | None) -> Backend:
    """What a worker opens."""
    return dataclasses.replace(toy_backend(), image_encoder=Deadly(pixel, marker))  # type: ignore[arg-type]


def pixel_of(text: str) -> tuple[int, ...]:
    return ToyEncoder().picture(text).convert("RGB").getpixel((0, 0))  # type: ignore[return-value]


def run(source: Any, output: Path, model: Any = toy_backend, **options: Any) -> BatchReport:
    return invert_many(source, output, model, progress=False, **{**QUICK, **options})


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.with_name(f"{output.name}.parts").glob("part-*")}


def test_two_workers_write_what_one_process_writes(folder: Path, tmp_path: Path) -> None:
    alone = run(folder, tmp_path / "alone.jsonl")
    shared = run(folder, tmp_path / "shared.jsonl", workers=2)
    assert (shared.done, shared.failed) == (alone.done, alone.failed) == (11, 1)
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert parts(tmp_path / "shared.jsonl") == parts(tmp_path / "alone.jsonl")
    assert 0 < shared.busy_seconds <= 2.1 * shared.seconds
    # And nothing is left to do for either.
    assert run(folder, tmp_path / "shared.jsonl").skipped == 12
    assert run(folder, tmp_path / "alone.jsonl", workers=2).skipped == 12


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "alone.jsonl")
    model = functools.partial(deadly_backend, pixel_of(TEXTS[7]), tmp_path / "killed")
    report = run(folder, tmp_path / "shared.jsonl", model, workers=2)
    assert (tmp_path / "killed").exists(), "a worker was killed"
    assert (report.done, report.failed) == (11, 1)
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_a_picture_that_kills_every_worker_is_one_bad_record(folder: Path, tmp_path: Path) -> None:
    model = functools.partial(deadly_backend, pixel_of(TEXTS[7]), None)
    report = run(folder, tmp_path / "shared.jsonl", model, workers=1)
    assert (report.done, report.failed) == (10, 2)
    found = rows(tmp_path / "shared.jsonl")
    assert [row["key"] for row in found] == [f"{index:02d}.png" for index in range(12)]
    assert "its worker died" in found[7]["error"]


def test_an_interrupted_run_goes_on_with_workers_or_without(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "alone.jsonl")
    report = run(folder, tmp_path / "shared.jsonl", workers=2, callback=lambda progress: True)
    assert report.stop_reason == "cancelled" and report.done + report.failed == 2
    run(folder, tmp_path / "shared.jsonl")
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_what_a_worker_cannot_do_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HardPromptsError, match="a worker cannot go on.*unknown model scheme 'nowhere'"):
        run(folder, tmp_path / "a.jsonl", "nowhere:x", workers=1)
    with pytest.raises(HardPromptsError, match="a worker cannot go on.*restarts"):
        run(folder, tmp_path / "b.jsonl", workers=1, restarts=0)
    with pytest.raises(ValueError, match="2 CPUs, and 3 workers"):
        run(folder, tmp_path / "c.jsonl", workers=3)
    with pytest.raises(ValueError, match="open their models themselves"):
        run(folder, tmp_path / "d.jsonl", toy_backend(), workers=1)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(folder / "00.png", "00.png")
    with pytest.raises(ValueError, match="compressed shards"):
        run(tmp_path / "x.tar.gz", tmp_path / "e.jsonl", workers=1)
    assert not list(tmp_path.glob("*.parts"))
