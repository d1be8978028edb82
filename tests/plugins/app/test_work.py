"""Searches in threads, which can be watched and stopped."""

import json
import threading
import time
from pathlib import Path

import pytest

from hardprompts.errors import UnknownName
from hardprompts.prompts import Candidate
from hardprompts.search.protocol import SearchProgress
from hardprompts_app.work import (
    Job,
    Jobs,
    Models,
    Stopped,
    checked_options,
    installed_captioners,
    on_the_page,
    one_line,
    phrases,
    seed_of,
)


def progress(seconds: float, *scores: float) -> SearchProgress:
    return SearchProgress(1, None, seconds, 1, tuple(Candidate("a", (1,), score) for score in scores))


def endless(job: Job[str]) -> str:
    """A search that only its callback ends."""
    start = time.monotonic()
    while not job(progress(time.monotonic() - start, 0.5)):
        time.sleep(0.01)
    return "the best so far"


def result_of(following: object) -> object:
    while True:
        try:
            next(following)  # type: ignore[call-overload]
        except StopIteration as end:
            return end.value


def test_a_job_gives_the_result_of_its_work() -> None:
    job = Job[str]()
    assert result_of(job.follow(lambda: "found")) == "found"


def test_a_stopped_job_gives_the_best_so_far_and_the_next_begins_within_a_second() -> None:
    first, second = Job[str](), Job[str]()
    following, behind = first.follow(lambda: endless(first)), second.follow(lambda: endless(second))
    next(following), next(behind)
    while first.progress is None:
        next(following)
    time.sleep(0.3)
    assert second.progress is None, "two searches had the device at once"
    first.stop()
    stopped = time.monotonic()
    assert result_of(following) == "the best so far"
    while second.progress is None:
        next(behind)
    assert time.monotonic() - stopped < 1
    behind.close()


def test_closing_the_generator_stops_the_search() -> None:
    job, ended = Job[str](), threading.Event()

    def work() -> str:
        found = endless(job)
        ended.set()
        return found

    following = job.follow(work)
    while job.progress is None:
        next(following)
    following.close()
    assert ended.wait(1)


def test_a_job_that_was_stopped_before_its_turn_does_not_begin() -> None:
    job = Job[str]()
    job.stop()
    with pytest.raises(Stopped, match="before there was a prompt"):
        result_of(job.follow(lambda: pytest.fail("it began")))


def test_an_error_of_the_work_is_raised_where_it_is_waited_for() -> None:
    def work() -> str:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        result_of(Job[str]().follow(work))


def test_the_curve_has_the_improvements_of_each_task() -> None:
    job = Job[str]()
    for one in (progress(0.1, 0.2, 0.3), progress(0.2, 0.2, 0.4), progress(0.3, 0.5, 0.1)):
        job(one)
    assert job.curve == [[(0.1, 0.2), (0.3, 0.5)], [(0.1, 0.3), (0.2, 0.4)]]


def test_sessions_stop_their_own_job_alone() -> None:
    jobs = Jobs()
    mine, yours = jobs.begin("mine"), jobs.begin("yours")
    jobs.stop("mine")
    assert mine.stopped and not yours.stopped
    again = jobs.begin("yours")
    assert yours.stopped and jobs.of("yours") is again and not again.stopped


def test_a_public_page_opens_the_embedded_models_alone(toy_plugin: str) -> None:
    assert Models("emoji").open("toy").name.startswith("toy")
    public = Models("emoji", private=False)
    assert set(public.names) <= {"emoji", "photo"}
    with pytest.raises(UnknownName, match="emoji"):
        public.open("transformers:/etc")


def test_names_that_stand_for_folders_are_not_offered() -> None:
    names = Models("emoji").names
    assert names[0] == "emoji" and "open_clip:ViT-L-14/openai" in names
    assert not [name for name in names if ":/" in name or "org/name" in name]


def test_captioners_that_are_on_this_machine_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert installed_captioners() == []
    for name, kind in (("org/sees", "blip"), ("org/reads", "bert"), ("org/broken", None)):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
        (snapshot / "config.json").write_text("{" if kind is None else json.dumps({"model_type": kind}))
        (snapshot / "preprocessor_config.json").write_text("{}")
    assert installed_captioners() == ["transformers:org/sees"]


def test_denoisers_are_not_offered_for_images() -> None:
    assert Models("diffusers:x/y").names[0] == "diffusers:x/y"
    assert not [name for name in Models("diffusers:x/y").image_models if name.startswith("diffusers:")]


def test_what_is_banned_on_the_page_reads_no_file_and_runs_no_expression() -> None:
    kept = {"banned": ["dog", "category:artist", "/"]}
    assert checked_options(kept) == kept
    for banned in ("category:/etc/names.txt", ["Category: mine.txt"], ["dog", "/(a+)+$/"], "category:mood"):
        with pytest.raises(ValueError, match="the page"):
            checked_options({"banned": banned})


def test_options_are_those_of_a_search_without_files() -> None:
    assert checked_options({"seed": 0, "deadline": None, "banned": [], "words": False}) == {"seed": 0, "words": False}
    for wrong in ("sed", "unlike", "callback"):
        with pytest.raises(TypeError, match=wrong):
            checked_options({wrong: 1})


def test_phrases_are_separated_by_commas_and_lines() -> None:
    assert phrases(" a cat,dog\n\n, owl ") == ["a cat", "dog", "owl"]


def test_a_seed_is_typed_or_drawn() -> None:
    assert (seed_of(" 7 "), seed_of("0"), seed_of("")) == (7, 0, None)
    for wrong in ("x", "-1", "1.5"):
        with pytest.raises(ValueError, match="whole number"):
            seed_of(wrong)


def test_notices_have_no_flags_of_a_terminal() -> None:
    assert on_the_page("for photos pass\n another, e.g. --model a:b") == "for photos pass another, e.g. a:b"


def test_errors_are_one_line_with_the_names_of_files() -> None:
    with one_line(["/tmp/x/cat.png"]) as problems:
        raise ValueError("'/tmp/x/cat.png' is\n damaged")
    assert problems == ["'cat.png' is damaged"]
    with pytest.raises(KeyError), one_line():
        raise KeyError("a defect")
