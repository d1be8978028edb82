"""What the tabs share: open models, and searches in threads that can be watched and stopped."""

import contextlib
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from hardprompts.batch import BatchProgress
from hardprompts.cli.lists import model_names
from hardprompts.devices import checked_device
from hardprompts.encoders import PREFERRED_MODELS, Backend, backends, default_model, is_installed, shared_backend
from hardprompts.errors import BackendError, HardPromptsError, UnknownName
from hardprompts.inversion.captioning import Captioner, load_captioner
from hardprompts.inversion.proposals import AUTO, Proposer, opened_proposers
from hardprompts.inversion.readability import TextLikelihood, open_likelihood
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.search.options import check_names
from hardprompts.search.protocol import Search, SearchProgress
from hardprompts.search.registry import DEFAULT_METHOD, search_method
from hardprompts.wording import CATEGORIES, CATEGORY, separated

Result = TypeVar("Result")
Told = TypeVar("Told")

#: Seconds between two looks at a search.
LOOK_EVERY = 0.2

#: Options of a search that callers of the page may give: none of them names a file.
OPTIONS = (
    "num_tokens", "template", "words", "required", "banned", "deadline", "seed", "max_steps", "max_evaluations",
    "patience", "restarts", "token_cost", "top_k", "views", "shortest", "repetition_penalty", "caption",
    "initial_prompt", "vocabulary", "style", "fast", "editable", "evidence",
    "min_evidence",
)  # fmt: skip

#: What config.json calls models that say what an image shows without being asked.
CAPTIONING = ("blip", "blip-2", "git", "vision-encoder-decoder")

#: Language models that come along, of which even a page for others may ask how fluent a prompt is.
LANGUAGE_MODELS = ("emoji:emoji-lm", "emoji:emoji-lm-large")

#: What a user can mend; anything else is a defect and keeps its traceback.
MENDABLE = (HardPromptsError, ValueError, TypeError, OSError)

#: What names of models have where a folder or a repository of the user's own stands in for any.
PLACEHOLDERS = re.compile(r":/|FOLDER|org/name")

#: One search at a time has the device, also while one that nobody waits for any more does its last step.
_DEVICE = threading.Lock()


class Stopped(HardPromptsError):
    """A search was stopped before it had found anything."""


class Models:
    """The models that the page may open, and the device they are opened on.

    Args:
        default: the model that the page begins with; None: that of `default_model`.
        private: whether this machine's user alone can reach the page. Others choose among the embedded models.

    Raises:
        UnknownName, BackendError: there is no such scheme of models, or no such device.
    """

    def __init__(
        self,
        default: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        private: bool = True,
    ) -> None:
        self.default = default_model() if default is None else default
        if (scheme := self.default.partition(":")[0]) not in backends():
            raise UnknownName("model scheme", scheme, backends())
        checked_device(device)
        self.device, self.dtype, self.private = device, dtype, private
        self._captioner: tuple[str, Captioner] | None = None

    @property
    def names(self) -> list[str]:
        """The names to choose from, the default first."""
        known = [name for name in model_names() if not PLACEHOLDERS.search(name)]
        if not self.private:
            known = [name for name in PREFERRED_MODELS if is_installed(name)]
        return list(dict.fromkeys((self.default, *known)))

    def decoder(self, name: str, wanted: bool) -> tuple[Proposer, ...]:
        """The proposers that come with a model, if they are wanted; none where it has none.

        Raises:
            BackendError: one is damaged.
        """
        return opened_proposers(AUTO, self.open(name)) if wanted else ()

    @property
    def image_models(self) -> list[str]:
        """Those of `names` that can compare images with text: not the denoisers, see `with_images`."""
        return [name for name in self.names if not name.startswith("diffusers:")]

    def with_images(self, name: str) -> Backend:
        """The model of a name, which must compare images with text.

        Raises:
            BackendError: it has no image tower; and as `open`.
        """
        backend = self.open(name)
        if backend.image_encoder is None:
            why = (
                "its denoiser would have to be asked thousands of times, which takes minutes on a graphics card and "
                "hours without one, so the page leaves that to a terminal: hardprompts invert IMAGE --model "
                f"{backend.name}"
                if backend.noise_predictor is not None
                else "it knows texts alone"
            )
            raise BackendError(
                f"{backend.name} has no image tower to compare a picture with text; {why}. Choose another model here, "
                f"such as {self.image_models[0]}"
            )
        return backend

    def captioner(self, name: str) -> Captioner | None:
        """The image-to-text model of a name, of which the last one stays open; None for an empty name.

        Raises:
            UnknownName, BackendError: see `load_captioner`; or the page is public.
        """
        if not (name := name.strip()):
            return None
        if not self.private:
            raise BackendError(f"a page that others reach opens no captioner, and was asked for {name}; leave it empty")
        if self._captioner is None or self._captioner[0] != name:
            self._captioner = name, load_captioner(name, device=self.device, dtype=self.dtype)
        return self._captioner[1]

    def likelihood(self, name: str) -> TextLikelihood | None:
        """What tells how fluent texts are, by the name of its language model; None for an empty name.

        Raises:
            UnknownName, BackendError: see `open_likelihood`; or the page is public and this model is not offered.
        """
        if not (name := name.strip()):
            return None
        if not self.private and name not in LANGUAGE_MODELS:
            raise UnknownName("language model", name, LANGUAGE_MODELS)
        return open_likelihood(shared_backend(name, device=self.device, dtype=self.dtype, user=self))

    def open(self, name: str) -> Backend:
        """The model of a name, which stays open for the next call; the default for an empty name.

        Raises:
            UnknownName, BackendError: see `load_backend`; or the page is public and this model is not offered.
        """
        name = name.strip() or self.default
        if not self.private and name not in self.names:
            raise UnknownName("model", name, self.names)
        return shared_backend(name, device=self.device, dtype=self.dtype, user=self)

    def warm(self) -> None:
        """Opens the default model and reads its words, so that the first search need not; what fails is left to it."""
        with _DEVICE, contextlib.suppress(*MENDABLE):
            backend = self.open("")
            if backend.image_encoder is not None:
                read_words(search_method(DEFAULT_METHOD), backend)


def read_words(search: Search, backend: Backend) -> None:
    """Reads the words of a model that nobody has read before, which no deadline should pay for."""
    if isinstance(search, BuildRefine) and backend.noise_predictor is None and backend.language_model is None:
        search.read_words(backend.text_encoder, progress=False)


class Job(Generic[Result]):
    """One piece of work in a thread; as a callback of a search, or of a batch, it takes in how far that came.

    Attributes:
        progress: the last that the search said.
        curve: (seconds, score of the best) for each improvement, for each of the search's tasks.
        doing: what goes on before the search begins.
        notices: what the user is to know of a work that has ended: what it was warned of, and of its model.
    """

    def __init__(self) -> None:
        self.progress: SearchProgress | None = None
        self.batch: list[BatchProgress] = []
        self.curve: list[list[tuple[float, float]]] = []
        self.doing = "waiting for its turn"
        self.notices: list[str] = []
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends the search after its step; what it found so far is its result."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def __call__(self, progress: SearchProgress) -> bool:
        """The callback of a search."""
        self.progress = progress
        self.curve = self.curve or [[] for _ in progress.best]
        if len(self.curve) == len(progress.best):
            for line, best in zip(self.curve, progress.best, strict=True):
                if best is not None and (not line or best.score > line[-1][1]):
                    line.append((progress.seconds, best.score))
        return self.stopped

    def on_batch(self, progress: BatchProgress) -> bool:
        """The callback of a batch."""
        self.batch.append(progress)
        return self.stopped

    def step(self, doing: str) -> None:
        """Says what goes on now.

        Raises:
            Stopped: somebody stopped it.
        """
        if self.stopped:
            raise Stopped("stopped before there was a prompt")
        self.doing = doing

    def follow(self, work: Callable[[], Result]) -> Generator[None, None, Result]:
        """Does the work in a thread and yields from time to time; `yield from` gives its result.

        Closing the generator stops the work.

        Raises: what the work raises.
        """
        found: list[Result] = []
        failed: list[BaseException] = []

        def do() -> None:
            with _DEVICE, _noticed(self.notices):
                try:
                    self.step("opening the model")
                    found.append(work())
                except BaseException as error:  # noqa: BLE001 - it is raised again, in the thread that waits
                    failed.append(error)

        thread = threading.Thread(target=do, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                yield
                thread.join(LOOK_EVERY)
        finally:
            self.stop()
        if failed:
            raise failed[0]
        return found[0]

    def telling(self, work: Callable[[], Result], tell: Callable[[], Told]) -> Generator[Told, None, Result]:
        """Follows the work, and yields what `tell` says of how far it is."""
        following = self.follow(work)
        while True:
            try:
                next(following)
            except StopIteration as end:
                found: Result = end.value
                return found
            yield tell()


@contextlib.contextmanager
def _noticed(notices: list[str]) -> Iterator[None]:
    """Adds what users are warned of meanwhile, each kind once, as the command line says it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told: dict[str, str] = {}
    for one in caught:
        if issubclass(one.category, UserWarning | RuntimeWarning):
            text = on_the_page(str(one.message))
            told.setdefault(text if one.category in (UserWarning, RuntimeWarning) else one.category.__qualname__, text)
    notices.extend(told.values())


def on_the_page(text: str) -> str:
    """A notice in one line, without the flag of a terminal: a model is chosen from the list here."""
    return " ".join(text.replace("--model ", "").split())


class Jobs:
    """The job of each session: a tab of a browser has one at a time."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job[Any]] = {}

    def begin(self, session: str) -> Job[Any]:
        """A new job; the session's earlier one is stopped."""
        self.stop(session)
        self._jobs[session] = Job()
        return self._jobs[session]

    def of(self, session: str) -> Job[Any]:
        """The session's job, or a new one."""
        return self._jobs.get(session) or self.begin(session)

    def stop(self, session: str) -> None:
        """Stops the session's job, if there is one."""
        if session in self._jobs:
            self._jobs[session].stop()

    def forget(self, session: str) -> None:
        """Stops it for good: the tab was closed."""
        self.stop(session)
        self._jobs.pop(session, None)


def checked_options(options: Mapping[str, Any], known: Sequence[str] = OPTIONS) -> dict[str, Any]:
    """Options of a search without those that are empty.

    Raises:
        TypeError: an option that there is not, or that the page does not take; the nearest is named.
        ValueError: what is banned would read a file, or run a regular expression, which may never end.
    """
    check_names("the page", options, known)
    banned = options.get("banned") or ()
    for one in [banned] if isinstance(banned, str) else banned:
        _check_banned(str(one))
    return {name: value for name, value in options.items() if value not in (None, "", [])}


def _check_banned(one: str) -> None:
    category = one.strip().lower().removeprefix(CATEGORY) if one.strip().lower().startswith(CATEGORY) else None
    if category is not None and category.strip() not in CATEGORIES:
        raise ValueError(
            f"the page does not ban {one!r}; its lists are {', '.join(CATEGORY + name for name in CATEGORIES)}, and "
            "lists of your own from the command line"
        )
    if len(one.strip()) > 2 and one.strip()[0] == one.strip()[-1] == "/":
        raise ValueError(f"the page bans no regular expressions such as {one}; use the command line for these")


def installed_captioners() -> list[str]:
    """The names of the image-to-text models in the Hub's cache of this machine, which are opened without a download."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    found = []
    for repository in repositories:
        files = {file.file_name: file.file_path for revision in repository.revisions for file in revision.files}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kind = json.loads(Path(files["config.json"]).read_text(encoding="utf-8"))["model_type"]
            if repository.repo_type == "model" and kind in CAPTIONING and "preprocessor_config.json" in files:
                found.append(f"transformers:{repository.repo_id}")
    return sorted(found)


def phrases(text: str) -> list[str]:
    """What is separated by commas or lines."""
    return separated(text)


def seed_of(text: str) -> int | None:
    """The seed that was typed; None where nothing was.

    Raises:
        ValueError: it is not a whole number.
    """
    if not (typed := text.strip()):
        return None
    if not typed.isdecimal():
        raise ValueError(f"the seed must be a whole number, 0 or more, or empty, and is {typed!r}")
    return int(typed)


def reason(error: BaseException, paths: Iterator[str] | Sequence[str] = ()) -> str:
    """The message of an error in one line; files that were dropped go by their names."""
    text = " ".join(str(error).split()) or type(error).__name__
    for path in paths:
        text = text.replace(os.fspath(path), Path(path).name)
    return text


@contextlib.contextmanager
def one_line(paths: Sequence[str] = ()) -> Iterator[list[str]]:
    """Takes errors that a user can mend: the list then has the message."""
    found: list[str] = []
    try:
        yield found
    except MENDABLE as error:
        found.append(reason(error, paths))
