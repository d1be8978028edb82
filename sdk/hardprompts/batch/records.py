"""Records: pictures that are to get a prompt, each with a key that is the same in every run.

A record only says where its picture is. It is read by whoever inverts it, so that a plan of a million records is
small and can be sent to other processes; a record without a picture is found there, and is an error of that record
alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from hardprompts.causes.failures import cause_of
from hardprompts.errors import ImageError
from hardprompts.images import DECODING_ERRORS, load_images, open_encoded

#: The column of a picture when nobody names it.
IMAGE = "image"


@runtime_checkable
class Reference(Protocol):
    """A place that holds a picture: a file in a shard, a cell of a table."""

    def read(self) -> Any:
        """The bytes of an encoded picture, or what `load_images` takes.

        Raises:
            ImageError, OSError: it is not there.
        """
        ...


@dataclasses.dataclass(frozen=True)
class UnusablePicture:
    """The place of a picture that is known to be missing."""

    reason: str

    def read(self) -> Any:
        raise ImageError(self.reason)


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture that is to get a prompt.

    Attributes:
        key: unique in its source, and the same in every run.
        image: what `load_images` takes, the bytes of an encoded picture, or a `Reference` to either.
    """

    key: str
    image: Any

    def load(self) -> Image.Image:
        """The picture, in RGB.

        Raises:
            ImageError: it is missing, damaged, no picture or more than one.
        """
        try:
            found = self.image.read() if isinstance(self.image, Reference) else self.image
        except ImageError:
            raise
        except DECODING_ERRORS as error:
            reason = cause_of(error) or f"{type(error).__name__}: {error}"
            raise ImageError(f"the picture cannot be read: {reason}") from error
        if isinstance(found, Mapping):  # as `datasets` stores pictures
            found = found.get("bytes") or found.get("path")
        if found is None:
            raise ImageError("there is no picture: the value is empty")
        images = load_images(open_encoded(bytes(found)) if isinstance(found, bytes | bytearray | memoryview) else found)
        if len(images) != 1:
            raise ImageError(f"there are {len(images)} pictures; a record has one")
        return images[0]
