"""What the tabs do, without a browser and without Gradio."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from following import seen_and_found
from PIL import Image

from hardprompts.errors import BackendError, FileFormatError, ImageError, UnknownName
from hardprompts.prompts import HistoryPoint
from hardprompts.search.protocol import SearchProgress
from hardprompts.testing import toy_backend
from hardprompts.wording import WordEvidence
from hardprompts_app import embedding, folder, image, shorten
from hardprompts_app.display import evidence_html, line_of, notices_html, place_html, prompt_html
from hardprompts_app.work import Job, Models

pytestmark = pytest.mark.usefixtures("toy_plugin")

FAST = {"num_tokens": 4, "max_steps": 60, "seed": 0}


class StoppedAtTheFirstStep(Job[Any]):
    """A job that somebody stops while it searches."""

    def __call__(self, progress: SearchProgress) -> bool:
        self.stop()
        return super().__call__(progress)


def test_an_image_becomes_a_prompt_as_by_the_front_door(models: Models, pictures: list[str]) -> None:
    from hardprompts import PromptInverter

    seen, found = seen_and_found(image.find(models, Job(), pictures[:1], False, "toy", FAST))
    prompt = PromptInverter(toy_backend()).invert(pictures[0], progress=False, **FAST)  # type: ignore[arg-type]
    assert seen and found.prompts[0].text == prompt.text
    assert found.labels == ["1. a.png"]


def test_images_have_a_prompt_each_or_one_for_all(models: Models, pictures: list[str]) -> None:
    _, each = seen_and_found(image.find(models, Job(), pictures, False, "", FAST))
    _, both = seen_and_found(image.find(models, Job(), pictures, True, "", FAST))
    assert len(each.prompts) == 2 and each.labels == ["1. a.png", "2. b.png"]
    assert len(both.prompts) == 1 and both.labels == ["all 2 images"]
    assert [len(target) for target in (*each.targets, *both.targets)] == [1, 1, 2]


def test_an_edited_prompt_has_the_models_own_score(models: Models, pictures: list[str]) -> None:
    from hardprompts import PromptInverter

    _, found = seen_and_found(image.find(models, Job(), pictures, False, "", FAST))
    edited = image.edited(models, found, 1, "slow cat")
    assert edited.score == pytest.approx(PromptInverter(toy_backend()).score("slow cat", pictures[1]), abs=1e-5)
    assert edited.tokens == ("slow", "cat") and len(edited.attributions) == 2
    assert edited.provenance["edited"] and edited.text == "slow cat"
    assert image.edited(models, found, 1, found.prompts[1].text) is found.prompts[1]


def test_contributions_that_the_search_had_no_time_for_are_measured(models: Models, pictures: list[str]) -> None:
    _, found = seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST))
    (prompt,) = found.prompts
    hurried = dataclasses.replace(found, prompts=(dataclasses.replace(prompt, attributions=()),))
    assert image.edited(models, hurried, 0, prompt.text).attributions == pytest.approx(prompt.attributions, abs=1e-5)


def test_candidates_of_an_edited_template_are_scored_in_it(models: Models, pictures: list[str]) -> None:
    from hardprompts import PromptInverter

    options = {**FAST, "template": "red {}"}
    _, found = seen_and_found(image.find(models, Job(), pictures[:1], False, "", options))
    edited = image.edited(models, found, 0, "house")
    assert edited.filled == "red house"
    assert edited.score == pytest.approx(PromptInverter(toy_backend()).score("red house", pictures[0]), abs=1e-5)


def test_no_image_and_a_damaged_one_are_said(models: Models, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not any more")
    for paths, message in ((None, "no image yet"), ([], "no image yet"), ([str(broken)], "broken.jpg")):
        with pytest.raises(ImageError, match=message):
            seen_and_found(image.find(models, Job(), paths, False, "toy", FAST))
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        image.thumbnails([str(broken)])
    with pytest.raises(ImageError, match="at once"):
        image.checked(["a.png"] * 65)


def test_the_user_is_told_of_warnings_of_the_model_and_of_what_had_no_room(
    models: Models, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardprompts.inversion.inverter import PromptInverter

    whole = PromptInverter.invert

    def warned(self: Any, *args: Any, **options: Any) -> Any:
        for _ in range(2):
            warnings.warn("the picture is <black>", UserWarning, stacklevel=1)
            warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        return whole(self, *args, **options)

    monkeypatch.setattr(PromptInverter, "invert", warned)
    monkeypatch.setattr(models, "open", lambda name: dataclasses.replace(toy_backend(), note="it knows toys"))
    for _ in range(2):
        job = Job[Any]()
        _, found = seen_and_found(image.find(models, job, pictures[:1], False, "", {**FAST, "max_evaluations": 40}))
        assert job.notices == ["it knows toys", "the picture is <black>"]
    shown = notices_html(found.prompts, job.notices)
    assert found.prompts[0].left_out and "no room within the limits: " in shown
    assert "&lt;black&gt;" in shown and "it knows toys" in shown
    assert not notices_html([dataclasses.replace(found.prompts[0], left_out=())])


def test_a_style_and_the_decoder_of_a_model_are_chosen(models: Models, pictures: list[str]) -> None:
    _, found = seen_and_found(image.find(models, Job(), pictures[:1], False, "", {**FAST, "style": "keywords"}))
    assert "," not in found.prompts[0].text
    for needs in ({"style": "caption"}, {"fast": True}):
        with pytest.raises(ValueError, match="no decoder comes with toy"):
            seen_and_found(image.find(models, Job(), pictures[:1], False, "", {**FAST, **needs}))
    _, same = seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST, decoder=True))
    assert "proposers" not in same.prompts[0].provenance
    emoji = Models("emoji", device="cpu")
    _, fast = seen_and_found(image.find(emoji, Job(), pictures[:1], False, "", {"fast": True, "seed": 0}))
    assert fast.prompts[0].method == "proposals"
    _, begun = seen_and_found(image.find(emoji, Job(), pictures[:1], False, "", FAST, decoder=True))
    assert begun.prompts[0].provenance["proposers"] and begun.prompts[0].method != "proposals"


def test_a_language_model_tells_how_fluent_a_prompt_is_and_follows_what_is_edited(
    models: Models, pictures: list[str]
) -> None:
    _, plain = seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST))
    _, told = seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST, fluency_model="emoji:emoji-lm"))
    (prompt,) = told.prompts
    assert prompt.text == plain.prompts[0].text and prompt.fluency is not None and plain.prompts[0].fluency is None
    assert f"{-prompt.fluency:.1f} nats a word" in prompt_html(prompt) and "nats" not in prompt_html(plain.prompts[0])
    edited = image.edited(models, told, 0, "a small red house")
    assert edited.fluency is not None and edited.fluency != prompt.fluency
    assert image.edited(models, plain, 0, "a small red house").fluency is None
    with pytest.raises(BackendError, match="not a language model"):
        seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST, fluency_model="toy"))
    public = Models("emoji", private=False)
    assert public.likelihood("emoji:emoji-lm") is not None and public.likelihood(" ") is None
    with pytest.raises(UnknownName, match="emoji:emoji-lm"):
        public.likelihood("transformers:/etc")


def test_words_are_checked_against_the_image_as_found_and_as_edited(models: Models, pictures: list[str]) -> None:
    _, plain = seen_and_found(image.find(models, Job(), pictures, False, "", FAST))
    assert not plain.prompts[0].evidence and evidence_html(plain.prompts[0]) == ""
    _, told = seen_and_found(image.find(models, Job(), pictures, False, "", {**FAST, "evidence": True}))
    first = told.prompts[0]
    assert first.text == plain.prompts[0].text and first.evidence
    assert image.checked_words(models, told, 0, first.text) is first
    late = image.checked_words(models, plain, 0, first.text)
    assert [one.phrase for one in late.evidence] == [one.phrase for one in first.evidence]
    assert late.evidence[0].contribution == pytest.approx(first.evidence[0].contribution, abs=1e-3)
    assert image.edited(models, told, 0, "slow cat").evidence == ()
    typed = image.checked_words(models, told, 1, "slow cat <b>")
    assert typed.text == "slow cat <b>" and "slow" in [one.phrase for one in typed.evidence]
    shown = evidence_html(dataclasses.replace(typed, evidence=(WordEvidence("<b>|x", "other", 0.1, 0.2, 0.999),)))
    assert "&lt;b&gt;|x" in shown and "&gt;99%" in shown and "<b>" not in shown
    assert "not calibrated for toy" in evidence_html(typed)


def test_where_nothing_is_calibrated_a_bound_is_said_to_drop_nothing(models: Models, pictures: list[str]) -> None:
    bound = {**FAST, "evidence": True, "min_evidence": 0.9}
    _, plain = seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST))
    _, told = seen_and_found(image.find(models, Job(), pictures[:1], False, "", bound))
    assert told.prompts[0].text == plain.prompts[0].text
    assert "nothing is calibrated for toy, so no word was dropped as unlikely" in notices_html(told.prompts)
    assert not notices_html(plain.prompts)


def test_the_line_of_several_searches_never_falls() -> None:
    history = [HistoryPoint(step, float(step), 9 * step, score) for step, score in enumerate((0.1, 0.5, 0.3, 0.6))]
    assert line_of(history) == [(0.0, 0.1), (1.0, 0.5), (2.0, 0.5), (3.0, 0.6)] and line_of([]) == []


def test_a_picture_shows_where_a_word_is_seen() -> None:
    red = WordEvidence("<i>", "color", 0.1, regions=((0.0, 0.0, 0.5, 0.5),))
    for picture in (Image.new("RGB", (1, 1)), Image.new("RGB", (1024, 700))):
        shown = place_html(picture, [red])
        assert 'alt="where &lt;i&gt; fits best"' in shown and "data:image/jpeg;base64," in shown
        assert len(shown) < 200_000


def test_a_captioners_words_are_started_from(
    models: Models, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    seen: list[int] = []

    def captioner(name: str, **_: Any) -> Any:
        opened.append(name)
        return lambda images: seen.append(len(images)) or ["red house near river" for _ in images]

    monkeypatch.setattr("hardprompts_app.work.load_captioner", captioner)
    for _ in range(2):
        job = Job[Any]()
        seen_and_found(image.find(models, job, pictures[:1], False, "", FAST, "toy:words"))
    assert opened == ["toy:words"] and seen == [1, 1]
    with pytest.raises(BackendError, match="opens no captioner"):
        Models("toy", private=False).captioner("toy:words")


def test_a_model_without_an_image_tower_is_refused_with_the_reason(models: Models, pictures: list[str]) -> None:
    from toy_denoiser import predictor

    texts = dataclasses.replace(toy_backend(), image_encoder=None)
    denoiser = dataclasses.replace(texts, noise_predictor=predictor())
    for backend, why in ((texts, "it knows texts alone"), (denoiser, "asked thousands of times")):
        models.open = lambda name, backend=backend: backend  # type: ignore[method-assign,misc]
        with pytest.raises(BackendError, match=why):
            seen_and_found(image.find(models, Job(), pictures[:1], False, "", FAST))


def test_a_long_prompt_becomes_a_short_one(models: Models) -> None:
    options = {"num_tokens": 3, "max_steps": 30, "seed": 0}
    seen, found = seen_and_found(
        shorten.shorten(models, Job(), "red house near the river at night in the rain", "toy", options)
    )
    assert seen and 1 <= len(found.token_ids) <= 3 and found.faithfulness is not None
    with pytest.raises(ValueError, match="no prompt yet"):
        seen_and_found(shorten.shorten(models, Job(), "  ", "toy", options))


def test_an_embedding_is_described_as_by_inspect(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from hardprompts.distillation.audits import audits_of
    from hardprompts.softprompts.findings import sentences

    width = toy_backend().vocabulary.table.shape[1]
    file = tmp_path / "style.safetensors"
    save_file({"emb_params": torch.randn(2, width, generator=torch.Generator().manual_seed(0))}, file)
    _, plain = seen_and_found(embedding.inspect(models, Job(), str(file), "", True))
    _, compared = seen_and_found(embedding.inspect(models, Job(), str(file), "toy", False))
    assert embedding.lines_of(plain) == sentences(audits_of(file)[0])
    assert embedding.lines_of(compared) == sentences(audits_of(file, toy_backend())[0])
    assert embedding.values_of(compared)[0]["sentences"] == embedding.lines_of(compared)


def test_the_search_for_an_embeddings_words_can_be_stopped(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "style.safetensors"
    save_file({"emb_params": toy_backend().vocabulary.table[5:7].clone()}, file)
    job = StoppedAtTheFirstStep()
    _, audits = seen_and_found(embedding.inspect(models, job, str(file), "toy", True))
    assert audits[0].decoded is not None
    assert job.progress is not None and job.progress.step == 1


def test_a_file_that_is_no_embedding_is_said(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"hello")
    for path, message in ((None, "no file yet"), (str(file), "x.safetensors")):
        with pytest.raises(FileFormatError, match=message):
            seen_and_found(embedding.inspect(models, Job(), path, "", False))


def test_captions_are_written_once_and_what_was_stopped_is_resumed(models: Models, pictures: list[str]) -> None:
    here = Path(pictures[0]).parent
    called = (str(here), False, False, "toy", FAST)
    job = Job[Any]()
    writing = folder.caption(models, job, *called)  # type: ignore[arg-type]
    original = job.on_batch

    def stop_after_one(progress: Any) -> bool:
        job.stop()
        return original(progress)

    job.on_batch = stop_after_one  # type: ignore[method-assign]
    _, first = seen_and_found(writing)
    assert (first.done, first.stop_reason) == (1, "cancelled") and len(list(here.glob("*.txt"))) == 1
    assert "resumes" in folder.told(first)
    _, second = seen_and_found(folder.caption(models, Job(), *called))  # type: ignore[arg-type]
    assert (second.done, second.skipped) == (1, 1) and len(list(here.glob("*.txt"))) == 2
    assert folder.rows_of(job)[0].startswith("a.png: ")


def test_a_stop_in_the_middle_of_an_image_writes_nothing_of_it(models: Models, pictures: list[str]) -> None:
    here = Path(pictures[0]).parent
    job = StoppedAtTheFirstStep()
    _, report = seen_and_found(folder.caption(models, job, str(here), False, False, "toy", FAST))
    assert (report.done, report.stop_reason) == (0, "cancelled") and not list(here.glob("*.txt"))


def test_a_folder_that_is_not_there_is_said(models: Models, tmp_path: Path) -> None:
    for path, message in (("", "no folder yet"), (str(tmp_path / "no"), "not a folder"), (str(tmp_path), "no images")):
        with pytest.raises(ValueError, match=message):
            seen_and_found(folder.caption(models, Job(), path, False, False, "toy", {}))


def test_small_pictures_are_part_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / '"><b>.png'
    Image.new("RGB", (900, 300), "red").save(path)
    shown = image.thumbnails([str(path)])
    assert "data:image/jpeg;base64," in shown and "<b>" not in shown and len(shown) < 6000
