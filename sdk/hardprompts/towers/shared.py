"""What is expensive to open, opened once for all that use it, and outside of the values that use it."""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Opened = TypeVar("Opened")


class SharedModels(Generic[Opened]):
    """Opened models by a key, each of which lives as long as anything uses it.

    A model stays open while something holds it, while an object that asked for it lives, and while it is among the
    last ones that an object asked for: copies of an estimator come and go, and the next one needs the same model.
    Threads that ask for the same model wait for one opening of it.

    Args:
        kept: the last ones that stay open though nobody uses them.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._open: weakref.WeakValueDictionary[Hashable, Opened] = weakref.WeakValueDictionary()
        self._of_users: weakref.WeakKeyDictionary[object, tuple[Hashable, Opened]] = weakref.WeakKeyDictionary()
        self._last: dict[Hashable, Opened] = {}
        self._opening = threading.RLock()  # a model may open others
        self._books = threading.Lock()

    def held_by(self, user: object, request: Hashable) -> Opened | None:
        """The model that this object was given for such a request, if it was."""
        with self._books:
            known = self._of_users.get(user)
        return known[1] if known is not None and known[0] == request else None

    def opened(self, key: Hashable, opening: Callable[[], Opened]) -> Opened:
        """The model of a key, which is opened if nothing holds it."""
        with self._books:
            found = self._open.get(key)
        if found is not None:
            return found
        with self._opening:
            with self._books:
                found = self._open.get(key)
            if found is None:
                found = opening()
                with self._books:
                    self._open[key] = found
        return found

    def keep(self, user: object, request: Hashable, model: Opened) -> None:
        """Keeps a model open while this object lives and asks for no other, and as one of the last."""
        with self._books:
            self._of_users[user] = (request, model)
            self._last.pop(id(model), None)
            self._last[id(model)] = model
            while len(self._last) > self.kept:
                del self._last[next(iter(self._last))]

    def clear(self) -> None:
        """Lets go of all; what something else still holds goes when that does."""
        with self._books:
            self._open.clear()
            self._of_users.clear()
            self._last.clear()
