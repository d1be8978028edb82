"""The way *By pictures* of the tab *Image*: the prompt with which a generator draws an image, found by drawing."""

import dataclasses
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hardprompts.applications.black_box import PictureInversion, generators, invert_by_pictures, load_generator
from hardprompts.applications.black_box.schemes import OWN
from hardprompts.applications.pictures import Generate
from hardprompts.cli.lists import generator_names
from hardprompts.encoders import is_installed
from hardprompts.errors import BackendError, UnknownName
from hardprompts.images import load_images
from hardprompts.inversion.inverter import PromptInverter
from hardprompts.prompts import HardPrompt, PromptTemplate
from hardprompts_app.image import Found, Live, checked
from hardprompts_app.work import PLACEHOLDERS, Job, Models, read_words

#: Pictures that a search of the page draws where nobody says, and the fewest and the most: a person waits for them.
PICTURES, FEWEST, MOST = 40, 5, 1000

#: The longer side of the pictures that are shown.
SIDE = 512

#: Options of the search that the drawing takes, those of the search before it, and those that neither has.
_BOTH, _BEFORE, _NEITHER = (
    ("banned", "template", "seed"),
    ("num_tokens", "words"),
    ("style", "editable", "min_evidence"),
)


def names(private: bool) -> list[str]:
    """The generators to choose from; those of a folder of the user's own have no name to choose."""
    known = [name for name in generator_names() if ":" in name and not PLACEHOLDERS.search(name)]
    return known if private else [name for name in known if name.startswith("emoji:") and is_installed("emoji")]


def opened(models: Models, name: str) -> Generate:
    """The generator of a name.

    Raises:
        UnknownName, BackendError: see `load_generator`; or the page is for others and this one is not offered; or it
            is a function, which a page does not call.
    """
    name = name.strip()
    if not models.private and name not in names(private=False):
        raise UnknownName("generator", name, names(private=False))
    if name.partition(":")[0] == OWN:
        raise BackendError(f"the page calls no functions such as {name}; use hardprompts invert-by-pictures for them")
    if not name:
        known = ", ".join(sorted(generators()))
        raise BackendError(f"there is no generator yet: choose what draws, or write one of the schemes {known}")
    return load_generator(name, device=models.device, dtype=models.dtype)


class Shown:
    """A generator whose last picture of each prompt is kept, to be shown while the search goes on."""

    def __init__(self, generate: Generate) -> None:
        self.generate, self.last = generate, dict[str, Image.Image]()
        self.name = getattr(generate, "name", "")

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Image.Image | None]:
        """The generator's own pictures."""
        drawn = self.generate(prompts, seeds)
        for prompt, picture in zip(prompts, drawn, strict=False):
            if picture is not None:
                self.last[prompt] = picture.copy()
                self.last[prompt].thumbnail((SIDE, SIDE))
        return drawn


def find(
    models: Models,
    job: Job[Found],
    paths: Sequence[str] | None,
    model: str,
    generator: str,
    budget: int,
    options: Mapping[str, Any],
    captioner: str = "",
    fluency_model: str = "",
) -> Generator[Live, None, Found]:
    """Searches one prompt for all of the images by the pictures of a generator, and yields the best so far.

    Args:
        model: compares pictures with the images, and gives the first prompts.
        budget: pictures.
        options: of both searches; `evidence` checks the words of what was found.
        captioner, fluency_model: see `hardprompts_app.image.find`.

    Raises: what `invert_by_pictures` raises; Stopped; ValueError for options that this way has not.
    """
    if other := [name for name in _NEITHER if options.get(name)]:
        raise ValueError(f"a search by pictures has no {' and no '.join(other)}; leave that out, or choose another way")
    images = list(checked(paths))
    if not FEWEST <= budget <= MOST:
        raise ValueError(f"the page draws from {FEWEST} to {MOST} pictures, and was asked for {budget}")
    shown: list[Shown] = []

    def work() -> Found:
        began = time.monotonic()
        pictures, backend = load_images(images), models.with_images(model)
        inverter = PromptInverter(backend, proposers=models.decoder(model, True))
        job.step(f"reading the words of {backend.name}, once for each model")
        read_words(inverter.search, backend)
        job.step("opening the generator")
        shown.append(Shown(opened(models, generator)))
        job.step("searching the first prompts")
        both = {name: options[name] for name in _BOTH if name in options}
        found = invert_by_pictures(
            pictures, shown[0], budget=budget, inverter=inverter, callback=job, progress=False,
            captioner=models.captioner(captioner), deadline=options.get("deadline"), **both,
            search={"banned": both.get("banned", ()), **{name: options[name] for name in _BEFORE if name in options}},
        )  # fmt: skip
        prompt = inverter.evidence(found.prompt, pictures) if options.get("evidence") else found.prompt
        prompt = _timed(prompt, time.monotonic() - began)
        owned = tuple(pictures)
        for picture in owned:
            picture.thumbnail((SIDE, SIDE))
        features = backend.encode_images(pictures)
        return Found(
            model, tuple(Path(path).name for path in images), (prompt,), (features,), dict(options), fluency_model,
            (owned,), drawn_of(found),
        )  # fmt: skip

    return (
        yield from job.telling(
            work, lambda: _live(job, shown[0].last if shown else {}, str(options.get("template", "{}")))
        )
    )


def drawn_of(found: PictureInversion) -> tuple[tuple[Image.Image, str], ...]:
    """What the prompt drew, with what stands below it."""
    said = f"{found.prompt.filled} ({found.pictures} pictures, {found.failures} of them failed)"
    return () if found.picture is None else ((found.picture, said),)


def _timed(prompt: HardPrompt, seconds: float) -> HardPrompt:
    """The prompt with the seconds that it took."""
    return dataclasses.replace(prompt, provenance={**prompt.provenance, "seconds": seconds})


def _live(job: Job[Found], last: Mapping[str, Image.Image], template: str) -> Live:
    progress = job.progress
    if progress is None or progress.best[0] is None:
        return Live((), job.doing)
    best = progress.best[0]
    prompt = HardPrompt(best.text, (), best.score, template=template, score_unit="image similarity")
    doing = f"{progress.step} of {progress.max_steps} pictures, {progress.seconds:.1f} s"
    picture = last.get(PromptTemplate(template).fill(best.text))
    drawn = () if picture is None else ((picture, best.text),)
    return Live((prompt,), doing + "; stopping" * job.stopped, drawn)
