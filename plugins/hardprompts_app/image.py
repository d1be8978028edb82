"""The tab *Image*: images become prompts, whose candidates can be chosen and edited with scores that follow."""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from hardprompts.allowance import Allowance
from hardprompts.encoders import Backend
from hardprompts.errors import ImageError
from hardprompts.images import load_images
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.inversion.readability import fluency
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search.results import BY_HAND, leave_one_out
from hardprompts_app.display import thumbnail
from hardprompts_app.work import Job, Models, on_the_page, read_words

#: Pictures of one call.
MOST_IMAGES = 64

#: The longer side of pictures that are kept to check words against, in pixels.
PICTURE_SIDE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What was found for some images.

    Attributes:
        model: the name to open it by.
        names: of the images.
        prompts: one for each image, or one for all.
        targets: the images' features that each prompt is compared with.
        options: those of the search.
        fluency_model: the name of the language model that tells how fluent they are; "" for none.
        pictures: the images of each prompt, no larger than `PICTURE_SIDE`.
        drawn: what a generator drew of the prompt, with what stands below it, where it was found by drawing.
    """

    model: str
    names: tuple[str, ...]
    prompts: tuple[HardPrompt, ...]
    targets: tuple[Tensor, ...]
    options: Mapping[str, Any]
    fluency_model: str = ""
    pictures: tuple[tuple[Image.Image, ...], ...] = ()
    drawn: tuple[tuple[Image.Image, str], ...] = ()

    @property
    def labels(self) -> list[str]:
        """What each prompt is of."""
        if len(self.prompts) < len(self.names):
            return [f"all {len(self.names)} images"]
        return [f"{number}. {name}" for number, name in enumerate(self.names, start=1)]


@dataclasses.dataclass(frozen=True)
class Live:
    """The best so far of a running search, and what a generator drew of it, if one draws."""

    prompts: tuple[HardPrompt, ...]
    doing: str
    drawn: tuple[tuple[Image.Image, str], ...] = ()

    @property
    def texts(self) -> list[str]:
        """The texts alone."""
        return [prompt.text for prompt in self.prompts]


def thumbnails(paths: Sequence[str]) -> str:
    """Small pictures of images.

    Raises:
        ImageError: one of them cannot be read.
    """
    return "".join(thumbnail(load_images(path)[0], Path(path).name) for path in checked(paths))


def checked(paths: Sequence[str] | None) -> Sequence[str]:
    """The images of a call.

    Raises:
        ImageError: there are none, or too many.
    """
    if not paths:
        raise ImageError("there is no image yet: drop one, or choose a file")
    if len(paths) > MOST_IMAGES:
        raise ImageError(f"{len(paths)} images; the page takes {MOST_IMAGES} at once, and the tab Folder any number")
    return paths


def find(
    models: Models,
    job: Job[Found],
    paths: Sequence[str] | None,
    together: bool,
    model: str,
    options: Mapping[str, Any],
    captioner: str = "",
    decoder: bool = True,
    fluency_model: str = "",
) -> Generator[Live, None, Found]:
    """Searches the prompts of images and yields the best so far.

    Args:
        together: one prompt for what all images share, instead of one for each.
        options: of `PromptInverter.invert`.
        captioner: the name of an image-to-text model, whose captions the search also starts from; "" for none.
        decoder: the search begins with what the decoder writes that comes with the model, if one does; it is asked in
            any case where the options need it.
        fluency_model: the name of a language model that tells how fluent the prompts are; "" for none.

    Raises: what `PromptInverter.invert` raises; Stopped.
    """
    images = list(checked(paths))
    backend: list[Backend] = []

    def work() -> Found:
        pictures = load_images(images)
        backend.append(models.with_images(model))
        if captioner.strip():
            job.step("opening the captioner")
        needed = bool(options.get("fast")) or options.get("style") == "caption"
        proposers = models.decoder(model, decoder or needed)
        if needed and not proposers:
            raise ValueError(
                f"no decoder comes with {backend[0].name}, which captions and fast prompts need; choose another style "
                "and a search, or a model that has one, such as emoji"
            )
        if fluency_model.strip():
            job.step("opening the language model")
        inverter = PromptInverter(
            backend[0], captioner=models.captioner(captioner), proposers=proposers,
            fluency_model=models.likelihood(fluency_model),
        )  # fmt: skip
        job.step(f"reading the words of {backend[0].name}, once for each model")
        read_words(inverter.search, backend[0])
        job.step("looking at the image" if len(images) == 1 else "looking at the images")
        features = backend[0].encode_images(pictures)
        called: dict[str, Any] = {**options, "callback": job, "progress": False}
        if together or len(pictures) == 1:
            prompts, targets = [inverter.invert(pictures, **called)], [features]
        else:
            prompts = inverter.invert_each(pictures, batch_size=len(pictures), **called)
            targets = list(features.split(1))
        if backend[0].note:
            job.notices.append(on_the_page(backend[0].note))
        return _found(model, images, pictures, prompts, targets, options, fluency_model)

    return (yield from job.telling(work, lambda: Live(_best(job, backend[0], options) if backend else (), _doing(job))))


def written(
    models: Models,
    job: Job[Found],
    paths: Sequence[str] | None,
    together: bool,
    model: str,
    text: str,
    options: Mapping[str, Any],
    fluency_model: str = "",
) -> Generator[Live, None, Found]:
    """What somebody wrote about images, as if it had been found for them; nothing is searched.

    Args:
        options: of which `evidence` and `min_evidence` count.

    Raises:
        ImageError, BackendError: see `find`.
        TemplateError, VocabularyError, ValueError: there is no text, or the model cannot read it.
    """
    images = list(checked(paths))
    if not (own := text.strip()):
        raise ValueError("there are no words yet: write the prompt that the image is to be compared with")

    def work() -> Found:
        pictures = load_images(images)
        backend = models.with_images(model)
        job.step("looking at the image" if len(images) == 1 else "looking at the images")
        features = backend.encode_images(pictures)
        targets = [features] if together else list(features.split(1))
        bare = HardPrompt(own, (), 0.0, model=backend.name, method=BY_HAND)
        found = _found(model, images, pictures, [bare] * len(targets), targets, options, fluency_model)
        prompts = [edited(models, found, place, own) for place in range(len(targets))]
        if options.get("evidence"):
            least = options.get("min_evidence")
            inverter = PromptInverter(backend)
            prompts = [
                inverter.evidence(prompt, list(seen), min_evidence=least)
                for prompt, seen in zip(prompts, found.pictures, strict=True)
            ]
        ranked = (Candidate(one.text, one.token_ids, one.score) for one in prompts)
        prompts = [dataclasses.replace(one, candidates=(own,)) for one, own in zip(prompts, ranked, strict=True)]
        return dataclasses.replace(found, prompts=tuple(prompts))

    return (yield from job.telling(work, lambda: Live((), job.doing)))


def _found(
    model: str,
    paths: Sequence[str],
    pictures: Sequence[Image.Image],
    prompts: Sequence[HardPrompt],
    targets: Sequence[Tensor],
    options: Mapping[str, Any],
    fluency_model: str,
) -> Found:
    """What was found, with the pictures in the size in which they are kept."""
    for picture in pictures:
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    owned = (tuple(pictures),) if len(prompts) == 1 else tuple((picture,) for picture in pictures)
    names = tuple(Path(path).name for path in paths)
    return Found(model, names, tuple(prompts), tuple(targets), dict(options), fluency_model, owned)


def edited(models: Models, found: Found, index: int, text: str) -> HardPrompt:
    """The prompt with another text, its score, what each of its tokens contributes, and how fluent it is.

    Raises:
        TemplateError, VocabularyError, ValueError: the model cannot read the text.
    """
    prompt = found.prompts[index]
    if text == prompt.text and prompt.attributions:
        return prompt
    backend = models.open(found.model)
    inverter, target, template = PromptInverter(backend), found.targets[index], PromptTemplate(prompt.template)

    def score(text: str) -> float:
        filled = template.fill(text)
        return inverter.score(filled, target) if filled.strip() else 0.0

    ids = tuple(backend.vocabulary.encode(text))
    best = Candidate(text, ids, score(text))
    contributions = leave_one_out(
        best, lambda rows: [score(backend.vocabulary.decode(row)) for row in rows], Allowance()
    )
    judging = models.likelihood(found.fluency_model)
    return dataclasses.replace(
        prompt,
        text=text,
        token_ids=ids,
        score=best.score,
        tokens=backend.vocabulary.pieces(ids),
        attributions=contributions,
        weights=None,
        # Pictures of it are not drawn here: the score is of the text.
        score_unit=HardPrompt.score_unit if found.drawn else prompt.score_unit,
        evidence=prompt.evidence if text == prompt.text else (),
        fluency=None if judging is None else float(fluency([template.fill(text)], judging)),
        provenance={**prompt.provenance, **({} if text == prompt.text else {"edited": True})},
    )


def checked_words(models: Models, found: Found, index: int, text: str) -> HardPrompt:
    """The prompt with another text, and with what speaks for each of its words.

    Raises:
        TemplateError, VocabularyError, ValueError: the model cannot read the text.
    """
    prompt = edited(models, found, index, text)
    if prompt.evidence:
        return prompt
    return PromptInverter(models.open(found.model)).evidence(prompt, list(found.pictures[index]))


def _best(job: Job[Found], backend: Backend, options: Mapping[str, Any]) -> tuple[HardPrompt, ...]:
    if job.progress is None:
        return ()
    template = str(options.get("template", "{}"))
    return tuple(
        HardPrompt(
            best.text,
            best.token_ids,
            best.score,
            template=template,
            tokens=backend.vocabulary.pieces(best.token_ids),
        )
        for best in job.progress.best
        if best is not None
    )


def _doing(job: Job[Found]) -> str:
    if job.progress is None:
        return job.doing
    steps = f"step {job.progress.step}" + ("" if job.progress.max_steps is None else f" of {job.progress.max_steps}")
    return f"{steps}, {job.progress.seconds:.1f} s{'; stopping' if job.stopped else ''}"
