"""A generator behind a counter: every picture that it is asked for counts, and what it fails at is not lost on it."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from hardprompts.allowance import Allowance
from hardprompts.applications.black_box.journal import Attempt, Journal, digest_of
from hardprompts.applications.black_box.options import PictureOptions
from hardprompts.applications.pictures import Generate, ImageScore, pictures_of, scores_of
from hardprompts.errors import ImageError, brief
from hardprompts.images import load_images
from hardprompts.search.protocol import StopReason

#: A prompt in its template, and a seed.
Pair = tuple[str, int]

#: An attempt, and its picture where there is one.
Made = tuple[Attempt, Image.Image | None]


class Ended(Exception):
    """Nothing more is drawn; not an error: what was found is returned."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.sentence)
        self.reason = reason


class Drawing:
    """Scores of prompts by their pictures, each prompt drawn once with each seed.

    Args:
        limit: pictures that may be asked for so far; what is beyond raises `Ended`.
        seen: called with the score and the picture of every prompt and seed, whether they were drawn now or in an
            earlier run, of which the picture may be gone; with None and None where all attempts failed.
        pause: called after every call of the generator; may raise `Ended`.

    Attributes:
        asked: pictures that were asked for, whatever came; those of earlier runs that this one takes over, too.
        failures: of them, those that did not come.
        recalled: of them, those of earlier runs.
        scores: of every prompt and seed; None where its attempts all failed.
        hashes: of the pictures.
        last_failure: why the last picture that did not come did not.
        error: the exception that it was, if it was one.
    """

    def __init__(
        self,
        generate: Generate,
        image_score: ImageScore,
        journal: Journal,
        options: PictureOptions,
        allowance: Allowance,
        seen: Callable[[Pair, float | None, Image.Image | None], None],
        pause: Callable[[], None],
    ) -> None:
        self.generate, self.image_score, self.journal, self.options = generate, image_score, journal, options
        self.allowance, self.seen, self.pause = allowance, seen, pause
        self.limit = options.budget
        self.asked = self.failures = self.recalled = self._in_a_row = 0
        self.scores: dict[Pair, float | None] = {}
        self.hashes: dict[Pair, str] = {}
        self.last_failure = ""
        self.error: Exception | None = None

    def of(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The scores of prompts with seeds; None where the generator failed as often as it may.

        Raises:
            Ended: the budget, the time or the patience with failures is over; what came before is in `scores`.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.scores]
        while new:
            # However short the deadline, one picture is drawn.
            size = 1 if not self.asked and self.options.deadline is not None else self.options.batch_size
            part, new = new[:size], new[size:]
            for pair in self._call(part):
                self._retry(pair)
        return [self.scores[pair] for pair in pairs]

    def _retry(self, pair: Pair) -> None:
        """Asks for one picture again, alone, so that what is wrong with it takes no other along."""
        for _ in range(self.options.retries):
            if not self._call([pair]):
                return
        self.scores[pair] = None
        self.seen(pair, None, None)

    def _call(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Asks for pictures, and returns those that did not come."""
        if self.asked and self.allowance.is_over:
            raise Ended(StopReason(self.allowance.stopped or StopReason.DEADLINE))
        room = self.limit - self.asked
        if room < 1:
            raise Ended(StopReason.MAX_PICTURES)
        allowed = pairs[:room]
        failed = [pair for pair, made in self._attempts(allowed) if not self._take(pair, *made)]
        self._in_a_row = self._in_a_row + 1 if len(failed) == len(allowed) else 0
        self.pause()
        if self._in_a_row >= self.options.max_failures:
            raise Ended(StopReason.FAILURES)
        if len(allowed) < len(pairs):
            raise Ended(StopReason.MAX_PICTURES)
        return failed

    def _attempts(self, pairs: Sequence[Pair]) -> list[tuple[Pair, Made]]:
        """An attempt at each picture: those of earlier runs, and the others now, in one call."""
        recalled = {pair: self.journal.recalled(*pair) for pair in pairs}
        found = {pair: (own, self.journal.picture(own)) for pair, own in recalled.items() if own is not None}
        missing = [pair for pair in pairs if pair not in found]
        self.recalled += len(found)
        found |= dict(zip(missing, self._made(missing), strict=True)) if missing else {}
        return [(pair, found[pair]) for pair in pairs]

    def _made(self, pairs: Sequence[Pair]) -> list[Made]:
        texts, seeds = [text for text, _ in pairs], [seed for _, seed in pairs]
        pictures: list[Any] = [None] * len(pairs)
        reason = ""
        try:
            pictures = pictures_of(self.generate, texts, seeds)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's program raises is counted and kept
            reason, self.error = f"{type(error).__name__}: {brief(error)}", error
        made = []
        for (text, seed), picture in zip(pairs, pictures, strict=True):
            made.append(self._judged(text, seed, picture, reason))
            self.journal.keep(*made[-1])
        return made

    def _judged(self, text: str, seed: int, given: Any, reason: str) -> Made:
        """One attempt with its score, which is measured of this picture alone: its company changes no digit."""
        if reason or given is None:
            return Attempt(text, seed, failure=reason or "no picture"), None
        try:
            (picture,) = load_images([given])
        except (ImageError, OSError) as error:
            return Attempt(text, seed, failure=f"not a picture: {brief(error)}"), None
        if self.options.size is not None and picture.size != self.options.size:
            return Attempt(text, seed, failure=f"a picture of {picture.width} x {picture.height} pixels"), None
        if picture.getbbox() is None:
            return Attempt(text, seed, failure="a black picture, as safety filters give"), None
        (score,) = scores_of(self.image_score, [picture])
        return Attempt(text, seed, score, picture=digest_of(picture)), picture

    def _take(self, pair: Pair, attempt: Attempt, picture: Image.Image | None) -> bool:
        """Counts an attempt; whether its picture came."""
        self.asked += 1
        if attempt.score is None:
            self.failures += 1
            self.last_failure = attempt.failure
            return False
        self.scores[pair], self.hashes[pair] = attempt.score, attempt.picture
        self.seen(pair, attempt.score, picture)
        return True
